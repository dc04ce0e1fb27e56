//! Arrow values as JSON payload values and back, exactly: what is written for a value is read as the same value of the same type.
//! Pure: it knows no point, no engine and no I/O.
//!
//! JSON has fewer types than Arrow, so some values are text: decimals (`"12.50"`), dates (`"1915-02-08"`), timestamps
//! (`"2024-01-01T00:00:00.000001Z"`, without `Z` when the type has no zone), binaries (base64), and the three floats that JSON
//! lacks (`"NaN"`, `"Infinity"`, `"-Infinity"`). A struct is an object, a list an array, a map an array of `[key, value]` pairs, so
//! that keys of any type and repeated keys survive. Null is null.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, ListArray, MapArray, NullArray, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::kernels::cast_utils::parse_decimal;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Decimal256Type, DecimalType, Fields, Float32Type, Float64Type,
    Int8Type, Int16Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use serde_json::{Map, Number, Value};

use super::text;

/// Whether a value of the type can be a payload value.
///
/// # Errors
/// The cast that would help.
pub(crate) fn supported(data_type: &DataType) -> Result<(), &'static str> {
    match data_type {
        DataType::Null
        | DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::UInt64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Timestamp(_, _)
        | DataType::Decimal128(_, _)
        | DataType::Decimal256(_, _) => Ok(()),
        DataType::List(item) => supported(item.data_type()),
        DataType::Struct(fields) => fields.iter().try_for_each(|field| supported(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => fields.iter().try_for_each(|field| supported(field.data_type())),
            _ => Err("a list of structs"),
        },
        DataType::Float16 => Err("float"),
        DataType::Decimal32(_, _) | DataType::Decimal64(_, _) => Err("decimal(38, s)"),
        DataType::Date64 => Err("date"),
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Err("bytea"),
        _ => Err("varchar"),
    }
}

/// The payload value of one row of a column.
///
/// # Errors
/// The type, when it is none of those that [`supported`] takes.
pub(crate) fn encode(column: &dyn Array, row: usize) -> Result<Value, String> {
    if column.is_null(row) {
        return Ok(Value::Null);
    }
    Ok(match column.data_type() {
        DataType::Null => Value::Null,
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int8 => number::<Int8Type>(column, row),
        DataType::Int16 => number::<Int16Type>(column, row),
        DataType::Int32 => number::<Int32Type>(column, row),
        DataType::Int64 => number::<Int64Type>(column, row),
        DataType::UInt8 => number::<UInt8Type>(column, row),
        DataType::UInt16 => number::<UInt16Type>(column, row),
        DataType::UInt32 => number::<UInt32Type>(column, row),
        DataType::UInt64 => number::<UInt64Type>(column, row),
        DataType::Float32 => float(f64::from(column.as_primitive::<Float32Type>().value(row))),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::String(column.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => Value::String(text::base64(column.as_binary::<i32>().value(row))),
        DataType::Date32 => Value::String(text::date(i64::from(column.as_primitive::<Date32Type>().value(row)))),
        DataType::Timestamp(unit, zone) => {
            Value::String(text::timestamp(timestamp_value(column, *unit, row), per_second(*unit), zone.is_some()))
        }
        DataType::Decimal128(_, _) => Value::String(column.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(_, _) => Value::String(column.as_primitive::<Decimal256Type>().value_as_string(row)),
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            Value::Array((0..items.len()).map(|i| encode(&items, i)).collect::<Result<_, _>>()?)
        }
        DataType::Struct(fields) => {
            let values = column.as_struct();
            let mut object = Map::with_capacity(fields.len());
            for (field, child) in fields.iter().zip(values.columns()) {
                object.insert(field.name().clone(), encode(child, row)?);
            }
            Value::Object(object)
        }
        DataType::Map(_, _) => {
            let entries = column.as_map().value(row);
            let (keys, values) = (entries.column(0), entries.column(1));
            let pair = |i| Ok::<_, String>(Value::Array(vec![encode(keys, i)?, encode(values, i)?]));
            Value::Array((0..entries.len()).map(pair).collect::<Result<_, _>>()?)
        }
        other => return Err(format!("a payload cannot hold {other}")),
    })
}

fn number<T: ArrowPrimitiveType>(column: &dyn Array, row: usize) -> Value
where
    T::Native: Into<Number>,
{
    Value::Number(column.as_primitive::<T>().value(row).into())
}

fn float(value: f64) -> Value {
    Number::from_f64(value).map_or_else(|| Value::String(not_finite(value).to_owned()), Value::Number)
}

fn not_finite(value: f64) -> &'static str {
    match value {
        f64::INFINITY => "Infinity",
        f64::NEG_INFINITY => "-Infinity",
        _ => "NaN",
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

fn timestamp_value(column: &dyn Array, unit: TimeUnit, row: usize) -> i64 {
    match unit {
        TimeUnit::Second => column.as_primitive::<TimestampSecondType>().value(row),
        TimeUnit::Millisecond => column.as_primitive::<TimestampMillisecondType>().value(row),
        TimeUnit::Microsecond => column.as_primitive::<TimestampMicrosecondType>().value(row),
        TimeUnit::Nanosecond => column.as_primitive::<TimestampNanosecondType>().value(row),
    }
}

/// A column of the type from payload values. `strange` is told the index of each value that is not one of the type; it becomes null.
///
/// # Errors
/// The type, when it is none of those that [`supported`] takes.
pub(crate) fn decode(
    data_type: &DataType,
    values: &[Option<&Value>],
    strange: &mut dyn FnMut(usize),
) -> Result<ArrayRef, String> {
    Ok(match data_type {
        DataType::Null => Arc::new(NullArray::new(values.len())),
        DataType::Boolean => Arc::new(BooleanArray::from(scalars(values, strange, Value::as_bool))),
        DataType::Int8 => integers::<Int8Type>(values, strange),
        DataType::Int16 => integers::<Int16Type>(values, strange),
        DataType::Int32 => integers::<Int32Type>(values, strange),
        DataType::Int64 => integers::<Int64Type>(values, strange),
        DataType::UInt8 => integers::<UInt8Type>(values, strange),
        DataType::UInt16 => integers::<UInt16Type>(values, strange),
        DataType::UInt32 => integers::<UInt32Type>(values, strange),
        DataType::UInt64 => integers::<UInt64Type>(values, strange),
        #[allow(clippy::cast_possible_truncation)] // Each was an f32 when it was written.
        DataType::Float32 => primitives::<Float32Type>(values, strange, |value| parse_float(value).map(|v| v as f32)),
        DataType::Float64 => primitives::<Float64Type>(values, strange, parse_float),
        DataType::Utf8 => Arc::new(StringArray::from(scalars(values, strange, Value::as_str))),
        DataType::Binary => {
            let bytes = scalars(values, strange, |value| value.as_str().and_then(text::parse_base64));
            Arc::new(BinaryArray::from_iter(bytes))
        }
        DataType::Date32 => {
            primitives::<Date32Type>(values, strange, |value| i32::try_from(text::parse_date(value.as_str()?)?).ok())
        }
        DataType::Timestamp(unit, zone) => timestamps(*unit, zone.clone(), values, strange),
        DataType::Decimal128(precision, scale) => decimals::<Decimal128Type>(*precision, *scale, values, strange)?,
        DataType::Decimal256(precision, scale) => decimals::<Decimal256Type>(*precision, *scale, values, strange)?,
        DataType::List(item) => {
            let (offsets, children, nulls, owners) = flatten(values, strange);
            let child = decode(item.data_type(), &children, &mut |i| strange(owners[i]))?;
            Arc::new(ListArray::try_new(item.clone(), offsets, child, nulls).map_err(|e| e.to_string())?)
        }
        DataType::Struct(fields) => Arc::new(structs(fields, values, strange)?),
        DataType::Map(entries, sorted) => {
            let DataType::Struct(fields) = entries.data_type() else { return Err(format!("a payload cannot hold {data_type}")) };
            let (offsets, pairs, nulls, owners) = flatten(values, strange);
            let side = |n: usize| pairs.iter().map(|pair| pair.and_then(|p| p.get(n))).collect::<Vec<_>>();
            let keys = decode(fields[0].data_type(), &side(0), &mut |i| strange(owners[i]))?;
            let items = decode(fields[1].data_type(), &side(1), &mut |i| strange(owners[i]))?;
            let rows = StructArray::try_new(fields.clone(), vec![keys, items], None).map_err(|e| e.to_string())?;
            Arc::new(MapArray::try_new(entries.clone(), offsets, rows, nulls, *sorted).map_err(|e| e.to_string())?)
        }
        other => return Err(format!("a payload cannot hold {other}")),
    })
}

fn scalars<'a, T>(
    values: &[Option<&'a Value>],
    strange: &mut dyn FnMut(usize),
    read: impl Fn(&'a Value) -> Option<T>,
) -> Vec<Option<T>> {
    let mut out = Vec::with_capacity(values.len());
    for (i, value) in values.iter().enumerate() {
        out.push(match value {
            None | Some(Value::Null) => None,
            Some(value) => {
                let read = read(value);
                if read.is_none() {
                    strange(i);
                }
                read
            }
        });
    }
    out
}

fn primitives<T: ArrowPrimitiveType>(
    values: &[Option<&Value>],
    strange: &mut dyn FnMut(usize),
    read: impl Fn(&Value) -> Option<T::Native>,
) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::from_iter(scalars(values, strange, read)))
}

fn integers<T: ArrowPrimitiveType>(values: &[Option<&Value>], strange: &mut dyn FnMut(usize)) -> ArrayRef
where
    T::Native: TryFrom<i64> + TryFrom<u64>,
{
    primitives::<T>(values, strange, |value| {
        let signed = value.as_i64().and_then(|v| T::Native::try_from(v).ok());
        signed.or_else(|| value.as_u64().and_then(|v| T::Native::try_from(v).ok()))
    })
}

fn parse_float(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        other => other.as_f64(),
    }
}

fn timestamps(unit: TimeUnit, zone: Option<Arc<str>>, values: &[Option<&Value>], strange: &mut dyn FnMut(usize)) -> ArrayRef {
    let numbers = scalars(values, strange, |value| text::parse_timestamp(value.as_str()?, per_second(unit)));
    match unit {
        TimeUnit::Second => Arc::new(PrimitiveArray::<TimestampSecondType>::from(numbers).with_timezone_opt(zone)),
        TimeUnit::Millisecond => Arc::new(PrimitiveArray::<TimestampMillisecondType>::from(numbers).with_timezone_opt(zone)),
        TimeUnit::Microsecond => Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from(numbers).with_timezone_opt(zone)),
        TimeUnit::Nanosecond => Arc::new(PrimitiveArray::<TimestampNanosecondType>::from(numbers).with_timezone_opt(zone)),
    }
}

fn decimals<T: DecimalType>(
    precision: u8,
    scale: i8,
    values: &[Option<&Value>],
    strange: &mut dyn FnMut(usize),
) -> Result<ArrayRef, String> {
    let numbers = scalars(values, strange, |value| parse_decimal::<T>(value.as_str()?, precision, scale).ok());
    let array = PrimitiveArray::<T>::from_iter(numbers).with_precision_and_scale(precision, scale);
    Ok(Arc::new(array.map_err(|e| e.to_string())?))
}

/// Offsets, all items in one row, which lists are null, and for each item the list it came from.
type Flat<'a> = (OffsetBuffer<i32>, Vec<Option<&'a Value>>, Option<NullBuffer>, Vec<usize>);

fn flatten<'a>(values: &[Option<&'a Value>], strange: &mut dyn FnMut(usize)) -> Flat<'a> {
    let lists = scalars(values, strange, Value::as_array);
    let mut items = Vec::new();
    let mut owners = Vec::new();
    for (i, list) in lists.iter().enumerate() {
        for item in list.iter().flat_map(|list| list.iter()) {
            items.push(Some(item));
            owners.push(i);
        }
    }
    let offsets = OffsetBuffer::from_lengths(lists.iter().map(|list| list.map_or(0, Vec::len)));
    let nulls = NullBuffer::from_iter(lists.iter().map(Option::is_some));
    (offsets, items, Some(nulls).filter(|nulls| nulls.null_count() > 0), owners)
}

fn structs(fields: &Fields, values: &[Option<&Value>], strange: &mut dyn FnMut(usize)) -> Result<StructArray, String> {
    let objects = scalars(values, strange, Value::as_object);
    let mut columns = Vec::with_capacity(fields.len());
    for field in fields {
        let children: Vec<_> = objects.iter().map(|object| object.and_then(|o| o.get(field.name()))).collect();
        columns.push(decode(field.data_type(), &children, strange)?);
    }
    let nulls = NullBuffer::from_iter(objects.iter().map(Option::is_some));
    let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
    StructArray::try_new_with_length(fields.clone(), columns, nulls, values.len()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests;
