//! Property values as Arrow columns again; pure. The other way is `encode`.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, Decimal128Array, Decimal256Array, LargeBinaryArray,
    LargeStringArray, ListArray, MapArray, NullArray, OffsetSizeTrait, PrimitiveArray, StringArray, StructArray, new_null_array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::parse_decimal;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Field, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampSecondType,
    UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use serde_json::Value as Json;

use super::calendar::{parse_date, parse_timestamp};
use super::encode::{Cell, json};

/// A column of the target from the property values that hold it.
///
/// # Errors
/// In words, when a value is none that this column is held as.
pub(crate) fn column(field: &Field, properties: Vec<Cell>) -> Result<ArrayRef, String> {
    let nested = field.data_type().is_nested();
    let mut cells = Vec::with_capacity(properties.len());
    for value in properties {
        cells.push(match value {
            Cell::Text(text) if nested => from_json(serde_json::from_str(&text).map_err(|cause| format!("is no JSON: {cause}"))?),
            other => other,
        });
    }
    array(field.data_type(), &cells).map_err(|message| format!("column `{}`: {message}", field.name()))
}

fn array(data_type: &DataType, cells: &[Cell]) -> Result<ArrayRef, String> {
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(cells.len())),
        DataType::Boolean => {
            let values = cells.iter().map(|cell| match cell {
                Cell::Null => Ok(None),
                Cell::Bool(value) => Ok(Some(*value)),
                other => Err(strange(other, data_type)),
            });
            Arc::new(values.collect::<Result<BooleanArray, String>>()?)
        }
        DataType::Int8 => integers::<Int8Type>(cells)?,
        DataType::Int16 => integers::<Int16Type>(cells)?,
        DataType::Int32 => integers::<Int32Type>(cells)?,
        DataType::Int64 => integers::<Int64Type>(cells)?,
        DataType::UInt8 => integers::<UInt8Type>(cells)?,
        DataType::UInt16 => integers::<UInt16Type>(cells)?,
        DataType::UInt32 => integers::<UInt32Type>(cells)?,
        DataType::UInt64 => integers::<UInt64Type>(cells)?,
        #[allow(clippy::cast_possible_truncation)] // The value was an f32 when it was written.
        DataType::Float32 => primitive::<Float32Type>(cells, |cell| float(cell).map(|value| value as f32))?,
        DataType::Float64 => primitive::<Float64Type>(cells, float)?,
        DataType::Utf8 => strings::<i32>(cells)?,
        DataType::LargeUtf8 => strings::<i64>(cells)?,
        DataType::Binary => Arc::new(BinaryArray::from_iter(bytes(cells)?)),
        DataType::LargeBinary => Arc::new(LargeBinaryArray::from_iter(bytes(cells)?)),
        DataType::Date32 => primitive::<Date32Type>(cells, |cell| match cell {
            Cell::Date(days) => Some(*days),
            Cell::Text(text) => parse_date(text).and_then(|days| i32::try_from(days).ok()),
            _ => None,
        })?,
        DataType::Timestamp(unit, zone) => timestamps(*unit, zone.clone(), cells)?,
        DataType::Decimal128(precision, scale) => {
            let values = decimals::<Decimal128Type>(cells, *precision, *scale)?;
            Arc::new(
                Decimal128Array::from_iter(values)
                    .with_precision_and_scale(*precision, *scale)
                    .map_err(|cause| cause.to_string())?,
            )
        }
        DataType::Decimal256(precision, scale) => {
            let values = decimals::<Decimal256Type>(cells, *precision, *scale)?;
            Arc::new(
                Decimal256Array::from_iter(values)
                    .with_precision_and_scale(*precision, *scale)
                    .map_err(|cause| cause.to_string())?,
            )
        }
        other => return nested(other, cells),
    })
}

fn nested(data_type: &DataType, cells: &[Cell]) -> Result<ArrayRef, String> {
    Ok(match data_type {
        DataType::List(item) => {
            let (offsets, nulls, items) = flatten(data_type, cells)?;
            let items = array(item.data_type(), &items)?;
            Arc::new(ListArray::try_new(item.clone(), offsets, items, nulls).map_err(|cause| cause.to_string())?)
        }
        DataType::Struct(fields) => {
            let nulls = NullBuffer::from_iter(cells.iter().map(|cell| !cell.is_null()));
            if fields.is_empty() {
                return Ok(Arc::new(StructArray::new_empty_fields(cells.len(), Some(nulls))));
            }
            let children = fields.iter().map(|field| {
                let values: Vec<Cell> = cells.iter().map(|cell| entry(cell, field.name())).collect();
                array(field.data_type(), &values)
            });
            let children = children.collect::<Result<Vec<_>, String>>()?;
            Arc::new(StructArray::try_new(fields.clone(), children, Some(nulls)).map_err(|cause| cause.to_string())?)
        }
        DataType::Map(entries, sorted) => {
            let (offsets, nulls, pairs) = flatten(data_type, cells)?;
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(format!("{data_type} has no entries"));
            };
            let half = |index: usize| -> Vec<Cell> {
                pairs
                    .iter()
                    .map(|pair| if let Cell::List(pair) = pair { pair.get(index).cloned() } else { None }.unwrap_or(Cell::Null))
                    .collect()
            };
            let columns = vec![array(fields[0].data_type(), &half(0))?, array(fields[1].data_type(), &half(1))?];
            let structs = StructArray::try_new(fields.clone(), columns, None).map_err(|cause| cause.to_string())?;
            Arc::new(MapArray::try_new(entries.clone(), offsets, structs, nulls, *sorted).map_err(|cause| cause.to_string())?)
        }
        other => {
            if cells.iter().all(Cell::is_null) {
                return Ok(new_null_array(other, cells.len()));
            }
            return Err(format!("values of type {other} cannot be held"));
        }
    })
}

fn strange(cell: &Cell, data_type: &DataType) -> String {
    let shown: String = json(cell).to_string().chars().take(80).collect();
    format!("holds {shown}, which is no {data_type}; something else has written to the graph: resync this target")
}

fn entry(cell: &Cell, name: &str) -> Cell {
    let Cell::Map(entries) = cell else { return Cell::Null };
    entries.iter().find(|(key, _)| key.as_ref() == name).map_or(Cell::Null, |(_, value)| value.clone())
}

fn float(cell: &Cell) -> Option<f64> {
    match cell {
        Cell::Float(value) => Some(*value),
        #[allow(clippy::cast_precision_loss)] // JSON writes a whole float without a point.
        Cell::Int(value) => Some(*value as f64),
        Cell::Text(text) => text.parse().ok(),
        _ => None,
    }
}

fn primitive<T: ArrowPrimitiveType>(cells: &[Cell], take: impl Fn(&Cell) -> Option<T::Native>) -> Result<ArrayRef, String> {
    Ok(Arc::new(values::<T>(cells, take)?))
}

fn values<T: ArrowPrimitiveType>(cells: &[Cell], take: impl Fn(&Cell) -> Option<T::Native>) -> Result<PrimitiveArray<T>, String> {
    let values = cells.iter().map(|cell| match cell {
        Cell::Null => Ok(None),
        other => take(other).map(Some).ok_or_else(|| strange(other, &T::DATA_TYPE)),
    });
    values.collect()
}

fn integers<T: ArrowPrimitiveType>(cells: &[Cell]) -> Result<ArrayRef, String>
where
    T::Native: TryFrom<i64>,
{
    primitive::<T>(cells, |cell| cell.as_int().and_then(|value| T::Native::try_from(value).ok()))
}

fn strings<O: OffsetSizeTrait>(cells: &[Cell]) -> Result<ArrayRef, String> {
    let values = cells.iter().map(|cell| match cell {
        Cell::Null => Ok(None),
        Cell::Text(text) => Ok(Some(text.as_ref())),
        other => Err(strange(other, &DataType::Utf8)),
    });
    let values = values.collect::<Result<Vec<_>, String>>()?;
    Ok(if O::IS_LARGE { Arc::new(LargeStringArray::from(values)) } else { Arc::new(StringArray::from(values)) })
}

fn bytes(cells: &[Cell]) -> Result<Vec<Option<Vec<u8>>>, String> {
    let values = cells.iter().map(|cell| match cell {
        Cell::Null => Ok(None),
        Cell::Text(text) => unhex(text).map(Some).ok_or_else(|| strange(cell, &DataType::Binary)),
        other => Err(strange(other, &DataType::Binary)),
    });
    values.collect()
}

fn decimals<T: DecimalType>(cells: &[Cell], precision: u8, scale: i8) -> Result<Vec<Option<T::Native>>, String> {
    let kind = T::TYPE_CONSTRUCTOR(precision, scale);
    let values = cells.iter().map(|cell| match cell {
        Cell::Null => Ok(None),
        Cell::Text(text) => parse_decimal::<T>(text, precision, scale).map(Some).map_err(|_| strange(cell, &kind)),
        other => Err(strange(other, &kind)),
    });
    values.collect()
}

fn timestamps(unit: TimeUnit, zone: Option<Arc<str>>, cells: &[Cell]) -> Result<ArrayRef, String> {
    let micros = |cell: &Cell| match cell {
        Cell::Timestamp(micros, _) => Some(*micros),
        Cell::Text(text) => parse_timestamp(text),
        _ => None,
    };
    fn zoned<T: ArrowTimestampType>(
        cells: &[Cell],
        zone: Option<Arc<str>>,
        take: impl Fn(&Cell) -> Option<i64>,
    ) -> Result<ArrayRef, String> {
        Ok(Arc::new(values::<T>(cells, take)?.with_timezone_opt(zone)))
    }
    match unit {
        TimeUnit::Second => {
            zoned::<TimestampSecondType>(cells, zone, |cell| micros(cell).map(|value| value.div_euclid(1_000_000)))
        }
        TimeUnit::Millisecond => {
            zoned::<TimestampMillisecondType>(cells, zone, |cell| micros(cell).map(|value| value.div_euclid(1_000)))
        }
        _ => zoned::<TimestampMicrosecondType>(cells, zone, micros),
    }
}

/// What a column of lists holds: where each begins, which are null, and all their items.
type Flat = (OffsetBuffer<i32>, Option<NullBuffer>, Vec<Cell>);

fn flatten(data_type: &DataType, cells: &[Cell]) -> Result<Flat, String> {
    let mut lengths = Vec::with_capacity(cells.len());
    let mut items = Vec::new();
    for cell in cells {
        match cell {
            Cell::Null => lengths.push(0),
            Cell::List(list) => {
                lengths.push(list.len());
                items.extend(list.iter().cloned());
            }
            other => return Err(strange(other, data_type)),
        }
    }
    let nulls = NullBuffer::from_iter(cells.iter().map(|cell| !cell.is_null()));
    Ok((OffsetBuffer::from_lengths(lengths), Some(nulls), items))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> =
        text.chars().map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits?;
    digits.len().is_multiple_of(2).then(|| digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// The value that [`json`] made, as far as JSON tells.
fn from_json(value: Json) -> Cell {
    match value {
        Json::Null => Cell::Null,
        Json::Bool(value) => Cell::Bool(value),
        Json::Number(number) => match number.as_i64() {
            Some(value) => Cell::Int(value),
            None => number.as_f64().map_or(Cell::Null, Cell::Float),
        },
        Json::String(text) => Cell::Text(text.into()),
        Json::Array(items) => Cell::List(items.into_iter().map(from_json).collect()),
        Json::Object(entries) => Cell::Map(entries.into_iter().map(|(name, value)| (name.into(), from_json(value))).collect()),
    }
}
