//! What ClickHouse can hold of a batch, and Arrow bytes to and from it. Pure: no SQL is run, no driver is known.
//!
//! ClickHouse has no null list, map or struct. [`image`] makes of a null list or map an empty one, and of a null struct a struct of
//! nulls (of zeros or empty texts where its fields are not nullable), so that what is written is what comes back.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, ListArray, MapArray, RecordBatch, Scalar, StructArray, UInt32Array, make_array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{CastOptions, cast_with_options, concat_batches, is_not_null, is_null, nullif, take};
use arrow::datatypes::{
    DataType, Field, Fields, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use arrow::error::ArrowError;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow::util::display::array_value_to_string;

/// 1900-01-01, the first day of `Date32` and `DateTime64`, in days since 1970.
const FIRST_DAY: i64 = -25_567;
/// 2299-12-31, the last one.
const LAST_DAY: i64 = 120_529;
/// The zone in which timestamps travel.
const ZONE: &str = "UTC";

/// Rows as they come back after they were written, in the batch's own schema.
pub(super) fn image(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().map(normalise).collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(batch.schema(), columns)
}

/// The same array without nulls that ClickHouse has no place for.
fn normalise(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::List(field) => {
            let list = array.as_list::<i32>();
            let (offsets, kept) = lengths(list.offsets(), array);
            let values = normalise(&take(list.values(), &kept, None)?)?;
            Ok(Arc::new(ListArray::try_new(field.clone(), offsets, values, None)?))
        }
        DataType::Map(field, ordered) => {
            let map = array.as_map();
            let (offsets, kept) = lengths(map.offsets(), array);
            let entries = take(map.entries(), &kept, None)?;
            let entries = entries.as_struct();
            let columns = entries.columns().iter().map(normalise).collect::<Result<Vec<_>, _>>()?;
            let entries = StructArray::try_new(entries.fields().clone(), columns, None)?;
            Ok(Arc::new(MapArray::try_new(field.clone(), offsets, entries, None, *ordered)?))
        }
        DataType::Struct(fields) if !fields.is_empty() => {
            let outer = is_null(array)?;
            let mut columns = Vec::with_capacity(fields.len());
            for (field, column) in fields.iter().zip(array.as_struct().columns()) {
                let column = if array.null_count() > 0 { nullif(column, &outer)? } else { column.clone() };
                let column = normalise(&column)?;
                columns.push(if field.is_nullable() { column } else { filled(column)? });
            }
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, None)?))
        }
        _ => Ok(array.clone()),
    }
}

/// Offsets in which a null has no elements, and the places of the elements that are left.
fn lengths(offsets: &OffsetBuffer<i32>, array: &ArrayRef) -> (OffsetBuffer<i32>, UInt32Array) {
    let mut sizes = Vec::with_capacity(array.len());
    let mut kept: Vec<u32> = Vec::new();
    for (row, pair) in offsets.windows(2).enumerate() {
        if array.is_null(row) {
            sizes.push(0);
        } else {
            // Offsets of a valid array are not negative and do not fall.
            let (start, end) = (pair[0].unsigned_abs(), pair[1].unsigned_abs());
            sizes.push((end - start) as usize);
            kept.extend(start..end);
        }
    }
    (OffsetBuffer::from_lengths(sizes), UInt32Array::from(kept))
}

/// The same array with a zero or an empty text in place of each null.
fn filled(array: ArrayRef) -> Result<ArrayRef, ArrowError> {
    if array.null_count() == 0 {
        return Ok(array);
    }
    let zero = new_null_array(array.data_type(), 1).to_data().into_builder().nulls(None).build()?;
    zip(&is_not_null(&array)?, &array, &Scalar::new(make_array(zero)))
}

/// For each row that the engine cannot hold its index and the reason. `key` names the columns that must not be null. Takes an [`image`].
pub(super) fn refusals(batch: &RecordBatch, key: &[String]) -> Result<Vec<(usize, String)>, ArrowError> {
    let mut found: Vec<Option<String>> = vec![None; batch.num_rows()];
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let name = field.name();
        if key.contains(name) && column.null_count() > 0 {
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                found[row].get_or_insert_with(|| format!("the key column `{name}` is null"));
            }
        }
        let mut outside = Vec::new();
        beyond(column, &mut outside)?;
        for (row, value) in outside {
            found[row].get_or_insert_with(|| {
                format!("column `{name}`: {value} is outside of what ClickHouse holds, 1900-01-01 to 2299-12-31")
            });
        }
    }
    Ok(found.into_iter().enumerate().filter_map(|(row, why)| Some((row, why?))).collect())
}

/// Rows of an array that hold a date or time that ClickHouse cannot, with the value.
fn beyond(array: &ArrayRef, out: &mut Vec<(usize, String)>) -> Result<(), ArrowError> {
    match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<arrow::datatypes::Date32Type>();
            out_of(array, days.values().iter().map(|day| i64::from(*day)), 1, out)
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            out_of(array, array.as_primitive::<TimestampSecondType>().values().iter().copied(), 86_400, out)
        }
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            out_of(array, array.as_primitive::<TimestampMillisecondType>().values().iter().copied(), 86_400_000, out)
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            out_of(array, array.as_primitive::<TimestampMicrosecondType>().values().iter().copied(), 86_400_000_000, out)
        }
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            inner(list.values(), list.offsets(), out)
        }
        DataType::Map(..) => {
            let map = array.as_map();
            inner(map.keys(), map.offsets(), out)?;
            inner(map.values(), map.offsets(), out)
        }
        DataType::Struct(_) => array.as_struct().columns().iter().try_for_each(|column| beyond(column, out)),
        // The nanoseconds of an i64 end in 2262 and begin in 1677.
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = array.as_primitive::<TimestampNanosecondType>().values().iter().copied();
            out_of(array, values, 86_400_000_000_000, out)
        }
        _ => Ok(()),
    }
}

/// Values whose day is outside, given how many of their units make a day.
fn out_of(
    array: &ArrayRef,
    values: impl Iterator<Item = i64>,
    day: i64,
    out: &mut Vec<(usize, String)>,
) -> Result<(), ArrowError> {
    for (row, value) in values.enumerate() {
        if array.is_valid(row) && !(FIRST_DAY..=LAST_DAY).contains(&value.div_euclid(day)) {
            // Years that a calendar cannot show are told as the number.
            out.push((row, array_value_to_string(array, row).unwrap_or_else(|_| value.to_string())));
        }
    }
    Ok(())
}

/// [`beyond`] for the elements of lists, told by the row of the list.
fn inner(values: &ArrayRef, offsets: &OffsetBuffer<i32>, out: &mut Vec<(usize, String)>) -> Result<(), ArrowError> {
    let mut found = Vec::new();
    beyond(values, &mut found)?;
    for (place, value) in found {
        let row = offsets.partition_point(|offset| offset.unsigned_abs() as usize <= place).saturating_sub(1);
        // Elements that no list has are not told.
        if row + 1 < offsets.len() {
            out.push((row, value));
        }
    }
    Ok(())
}

/// The batch as it travels to ClickHouse: plain fields, timestamps in UTC.
pub(super) fn to_wire(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
        let kind = wire_type(field.data_type());
        columns.push(conform(column, &kind)?);
        fields.push(Field::new(field.name(), kind, true));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn wire_type(data_type: &DataType) -> DataType {
    let plain = |field: &Field, nullable| Arc::new(Field::new(field.name(), wire_type(field.data_type()), nullable));
    match data_type {
        DataType::Timestamp(unit, _) => DataType::Timestamp(*unit, Some(ZONE.into())),
        DataType::List(field) => DataType::List(plain(field, true)),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| plain(field, true)).collect()),
        DataType::Map(entries, ordered) => {
            let DataType::Struct(fields) = entries.data_type() else {
                return data_type.clone();
            };
            let fields: Fields = fields.iter().enumerate().map(|(place, field)| plain(field, place > 0)).collect();
            DataType::Map(Arc::new(Field::new(entries.name(), DataType::Struct(fields), false)), *ordered)
        }
        other => other.clone(),
    }
}

/// The array in exactly this type. Values stay what they are: nothing is rounded, nothing becomes null.
fn conform(array: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == kind {
        return Ok(array.clone());
    }
    match (array.data_type(), kind) {
        (DataType::List(_), DataType::List(field)) => {
            let list = array.as_list::<i32>();
            let values = conform(list.values(), field.data_type())?;
            Ok(Arc::new(ListArray::try_new(field.clone(), list.offsets().clone(), values, list.nulls().cloned())?))
        }
        (DataType::Map(..), DataType::Map(field, ordered)) => {
            let map = array.as_map();
            let entries: ArrayRef = Arc::new(map.entries().clone());
            let entries = conform(&entries, field.data_type())?;
            let entries = entries.as_struct().clone();
            let offsets = map.offsets().clone();
            Ok(Arc::new(MapArray::try_new(field.clone(), offsets, entries, map.nulls().cloned(), *ordered)?))
        }
        (DataType::Struct(from), DataType::Struct(to)) if from.len() == to.len() => {
            let structs = array.as_struct();
            let columns = structs
                .columns()
                .iter()
                .zip(to)
                .map(|(column, field)| conform(column, field.data_type()))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(to.clone(), columns, structs.nulls().cloned())?))
        }
        // The instant is the number; the zone only says how to show it.
        (DataType::Timestamp(from, _), DataType::Timestamp(to, zone)) if from == to => {
            let zone = zone.clone();
            Ok(match to {
                TimeUnit::Second => Arc::new(array.as_primitive::<TimestampSecondType>().clone().with_timezone_opt(zone)),
                TimeUnit::Millisecond => {
                    Arc::new(array.as_primitive::<TimestampMillisecondType>().clone().with_timezone_opt(zone))
                }
                TimeUnit::Microsecond => {
                    Arc::new(array.as_primitive::<TimestampMicrosecondType>().clone().with_timezone_opt(zone))
                }
                TimeUnit::Nanosecond => Arc::new(array.as_primitive::<TimestampNanosecondType>().clone().with_timezone_opt(zone)),
            })
        }
        _ => cast_with_options(array, kind, &CastOptions { safe: false, ..CastOptions::default() }),
    }
}

/// An Arrow IPC stream of one batch.
pub(super) fn encode(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    encode_all(std::slice::from_ref(batch), false)
}

/// An Arrow IPC stream of batches of one schema, compressed column by column where asked for (LZ4, a part of the format); empty where
/// there are none.
pub(super) fn encode_all(batches: &[RecordBatch], compression: bool) -> Result<Vec<u8>, ArrowError> {
    let Some(first) = batches.first() else { return Ok(Vec::new()) };
    let options = IpcWriteOptions::default().try_with_compression(compression.then_some(CompressionType::LZ4_FRAME))?;
    let mut writer = StreamWriter::try_new_with_options(Vec::new(), first.schema_ref(), options)?;
    batches.iter().try_for_each(|batch| writer.write(batch))?;
    writer.into_inner()
}

/// The batches of an Arrow IPC stream as one batch of `schema`, its columns in that order. A column that `schema` calls not nullable and
/// that holds a null (it was added after the row was written, or had nulls before) is called nullable in the answer.
pub(super) fn decode(bytes: &[u8], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if bytes.is_empty() {
        return Ok(RecordBatch::new_empty(schema.clone()));
    }
    let reader = StreamReader::try_new(Cursor::new(bytes), None)?;
    let wire = reader.schema();
    let batches = reader.collect::<Result<Vec<_>, _>>()?;
    let batch = concat_batches(&wire, &batches)?;
    if batch.num_columns() != schema.fields().len() {
        return Err(ArrowError::SchemaError(format!(
            "the engine answered {} columns, {} were asked for",
            batch.num_columns(),
            schema.fields().len()
        )));
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, column) in schema.fields().iter().zip(batch.columns()) {
        let column = conform(column, field.data_type())
            .map_err(|error| ArrowError::CastError(format!("column `{}`: {error}", field.name())))?;
        let nullable = field.is_nullable() || column.null_count() > 0;
        fields.push(if nullable == field.is_nullable() {
            field.clone()
        } else {
            Arc::new(field.as_ref().clone().with_nullable(true))
        });
        columns.push(column);
    }
    RecordBatch::try_new(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())), columns)
}

/// A key's value as text that ClickHouse reads back as the same value; bytes as hexadecimal digits.
pub(super) fn key_text(array: &ArrayRef, row: usize) -> Result<String, ArrowError> {
    match array.data_type() {
        DataType::Binary => Ok(array.as_binary::<i32>().value(row).iter().map(|byte| format!("{byte:02x}")).collect()),
        DataType::Utf8 => Ok(array.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(unit, _) => {
            let clock = conform(array, &DataType::Timestamp(*unit, None))?;
            Ok(array_value_to_string(&clock, row)?.replace('T', " "))
        }
        _ => array_value_to_string(array, row),
    }
}
