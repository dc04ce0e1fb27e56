//! Rows of a target as points and points as rows. Pure: no async, no engine.
//!
//! Every value of a payload is read as it was written ([`super::payload`]), so what the engine cannot tell apart is nothing but the
//! vector: it is scaled to length one, and rows are compared without it.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, RecordBatchOptions, StringArray,
    make_array, new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, Schema};
use serde_json::Value;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128;

use super::config::is_name;
use super::payload;
use super::store::{Indexed, Payload, Point};
use crate::mapping::target::{CHUNK, CHUNK_END, CHUNK_START, CHUNKS, MODEL, Shape, TEXT_HASH, Target, VECTOR};

/// Payload entry: the Silver table that the point is of.
pub(crate) const TABLE: &str = "_table";
/// Payload entry: hash of table and Silver key, the same for all points of a record.
pub(crate) const RECORD: &str = "_record";
/// Payload entry: the `_version` of the write that made it.
pub(crate) const VERSION: &str = "_version";
/// Payload entry: two projections of the vector that the payload was written with.
pub(crate) const PROBE: &str = "_probe";
/// Name of the score in answers.
pub(crate) const SCORE: &str = "score";

/// The names that a column of a projection cannot have.
const RESERVED: [&str; 12] =
    [TABLE, RECORD, VERSION, PROBE, CHUNK, CHUNKS, CHUNK_START, CHUNK_END, TEXT_HASH, MODEL, VECTOR, SCORE];

/// What [`CHUNKS`] is in a row whose payload is not one that the target can have written.
const STRANGE: i64 = -1;

/// The project's own namespace of point ids. A change of it gives every point another id.
const NAMESPACE: Uuid =
    Uuid::from_bytes([0x6d, 0x1f, 0x3c, 0x52, 0x90, 0x2b, 0x4e, 0x0a, 0x8c, 0x47, 0x5e, 0x21, 0xd7, 0x1a, 0x6b, 0xe3]);

/// How far two probes of one vector can lie apart: the engine may scale a vector by a few units of the last place.
const PROBE_TOLERANCE: f64 = 1e-4;

/// Squared lengths within this of 1 count as length one; the engine takes twice as much.
const UNIT_TOLERANCE: f64 = 5e-7;

/// Whether the target can be held.
///
/// # Errors
/// The column, its type and the cast that would help.
pub(crate) fn check(target: &Target) -> Result<(), String> {
    let Shape::Points { text } = &target.shape else {
        return Err(format!("{} is no collection of points", target.name));
    };
    if !is_name(&target.name) {
        return Err(format!("'{}' cannot name a collection: use letters, digits, '_' and '-', 200 at most", target.name));
    }
    for field in target.schema.fields().iter().filter(|field| field.name() != text) {
        let name = field.name();
        if RESERVED.contains(&name.as_str()) {
            return Err(format!("collection {}: the column name {name} is reserved; give the column another alias", target.name));
        }
        payload::supported(field.data_type()).map_err(|cast| {
            let data_type = field.data_type();
            format!(
                "collection {}: a payload cannot hold column {name} of type {data_type}; cast({name} AS {cast}) would help",
                target.name
            )
        })?;
    }
    Ok(())
}

/// What became of the rows of a write.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// Index of the row, and its point. A point without a vector keeps the one it has.
    pub(crate) points: Vec<(usize, Point)>,
    /// Index of a row that cannot be a point, and why.
    pub(crate) refused: Vec<(usize, String)>,
}

/// Points of rows in [`Target::stored_schema`].
///
/// # Errors
/// The column that is missing or has another type.
pub(crate) fn points(target: &Target, dimensions: usize, version: u64, rows: &RecordBatch) -> Result<Encoded, String> {
    let vectors = vectors(target, dimensions, rows)?;
    let ids = ids(target, rows)?;
    let records = records(target, rows)?;
    let columns = payload_columns(target, rows)?;
    let mut encoded = Encoded::default();
    for (row, (id, record)) in ids.into_iter().zip(records).enumerate() {
        let vector = vectors.is_valid(row).then(|| vectors.value(row).as_primitive::<Float32Type>().values().to_vec());
        if let Some(at) = vector.iter().flatten().position(|x| !x.is_finite()) {
            encoded.refused.push((row, format!("column {VECTOR}: component {at} of the vector is not a finite number")));
            continue;
        }
        let vector = vector.map(unit);
        let mut payload = Payload::with_capacity(columns.len() + 4);
        payload.insert(TABLE.to_owned(), Value::String(target.table.clone()));
        for (name, column) in &columns {
            let value =
                payload::encode(column, row).map_err(|why| format!("collection {}, column {name}: {why}", target.name))?;
            if !value.is_null() {
                payload.insert((*name).to_owned(), value);
            }
        }
        payload.insert(VERSION.to_owned(), Value::from(version));
        payload.insert(RECORD.to_owned(), Value::String(record));
        if let Some(vector) = &vector {
            payload.insert(PROBE.to_owned(), probe(vector));
        }
        encoded.points.push((row, Point { id, payload, vector }));
    }
    Ok(encoded)
}

fn vectors<'a>(target: &Target, dimensions: usize, rows: &'a RecordBatch) -> Result<&'a FixedSizeListArray, String> {
    let vectors = column(target, rows, VECTOR)?.as_fixed_size_list_opt();
    let vectors =
        vectors.filter(|v| v.values().data_type() == &DataType::Float32 && usize::try_from(v.value_length()) == Ok(dimensions));
    vectors.ok_or_else(|| format!("collection {}: {VECTOR} must be a fixed-size list of {dimensions} floats", target.name))
}

/// The stored columns that are payload: keys first, then the projection's others in their order, then those of the chunk.
fn payload_columns<'a>(target: &'a Target, rows: &'a RecordBatch) -> Result<Vec<(&'a str, &'a ArrayRef)>, String> {
    let names = payload_names(target);
    names.into_iter().map(|name| Ok((name, column(target, rows, name)?))).collect()
}

fn payload_names(target: &Target) -> Vec<&str> {
    let mut names: Vec<&str> = target.key.iter().map(String::as_str).collect();
    names.extend(column_names(target).filter(|name| !target.key.iter().any(|key| key == name)));
    names.extend([CHUNK, CHUNKS, CHUNK_START, CHUNK_END, TEXT_HASH, MODEL]);
    names
}

/// The projection's columns that are stored under their own names: all but the text.
pub(crate) fn column_names(target: &Target) -> impl Iterator<Item = &str> {
    let text = match &target.shape {
        Shape::Points { text } => text.as_str(),
        _ => "",
    };
    target.schema.fields().iter().map(|field| field.name().as_str()).filter(move |name| *name != text)
}

/// The stored columns whose values can be looked for, and what they are in a payload; a list is found by any of its items.
pub(crate) fn filtered_columns(target: &Target) -> Vec<(String, Indexed)> {
    let indexed = |data_type: &DataType| match data_type {
        DataType::Utf8 | DataType::Date32 | DataType::Timestamp(_, _) | DataType::Decimal128(_, _) => Some(Indexed::Text),
        DataType::Float32 | DataType::Float64 => Some(Indexed::Float),
        DataType::Boolean => Some(Indexed::Bool),
        other if other.is_integer() => Some(Indexed::Integer),
        _ => None,
    };
    let columns = column_names(target).filter_map(|name| {
        let found = target.schema.field_with_name(name).ok().and_then(|field| match field.data_type() {
            DataType::List(item) => indexed(item.data_type()),
            other => indexed(other),
        });
        Some((name.to_owned(), found?))
    });
    columns.collect()
}

fn column<'a>(target: &Target, rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, String> {
    rows.column_by_name(name).ok_or_else(|| format!("collection {}: the rows have no column {name}", target.name))
}

/// Ids of the points with these [`Target::stored_key`]s.
///
/// The name is a JSON array, so that no two keys have one name: `["titles","movies",[42],0]`.
///
/// # Errors
/// The key column that is missing.
pub(crate) fn ids(target: &Target, keys: &RecordBatch) -> Result<Vec<Uuid>, String> {
    let texts = tuples(target, keys, &target.key)?;
    let chunks = tuples(target, keys, &[CHUNK.to_owned()])?;
    let name = |(key, chunk): (Value, Value)| {
        let chunk = chunk.get(0).cloned().unwrap_or(Value::Null);
        Value::Array(vec![Value::from(target.name.as_str()), Value::from(target.table.as_str()), key, chunk]).to_string()
    };
    Ok(texts.into_iter().zip(chunks).map(|pair| Uuid::new_v5(&NAMESPACE, name(pair).as_bytes())).collect())
}

/// The [`RECORD`] entry of rows that have the columns [`Target::record_key`].
///
/// # Errors
/// The key column that is missing.
pub(crate) fn records(target: &Target, keys: &RecordBatch) -> Result<Vec<String>, String> {
    let tuples = tuples(target, keys, &target.record_key)?;
    let name = |key: Value| Value::Array(vec![Value::from(target.table.as_str()), key]).to_string();
    Ok(tuples.into_iter().map(|key| format!("{:032x}", xxh3_128(name(key).as_bytes()))).collect())
}

/// The values of some columns, as JSON arrays, one for each row.
///
/// # Errors
/// The column that is missing.
pub(crate) fn tuples(target: &Target, rows: &RecordBatch, names: &[String]) -> Result<Vec<Value>, String> {
    let columns: Vec<&ArrayRef> = names.iter().map(|name| column(target, rows, name)).collect::<Result<_, _>>()?;
    (0..rows.num_rows())
        .map(|row| Ok(Value::Array(columns.iter().map(|column| payload::encode(column, row)).collect::<Result<_, String>>()?)))
        .collect()
}

/// The values of some columns of a point, as [`tuples`] gives them for rows.
pub(crate) fn tuple(point: &Point, names: &[String]) -> Value {
    Value::Array(names.iter().map(|name| point.payload.get(name).cloned().unwrap_or(Value::Null)).collect())
}

/// Points as rows in [`Target::stored_schema`].
///
/// Two kinds of points are not what they should be, and their rows compare unequal to any that could be written, so that they
/// are written again. A point whose vector is not the one that its payload was written with (the process was killed between the two)
/// has no vector and an empty text hash. A point whose payload has values of other types or columns of an older projection has -1
/// chunks; its vector may be used.
///
/// # Errors
/// What Arrow says of columns that do not fit.
pub(crate) fn rows(target: &Target, dimensions: usize, points: &[Point]) -> Result<RecordBatch, String> {
    let known: HashSet<&str> = column_names(target).chain(RESERVED).collect();
    let mut strange: Vec<bool> = points.iter().map(|p| p.payload.keys().any(|key| !known.contains(key.as_str()))).collect();
    let schema = target.stored_schema(dimensions);
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = Vec::with_capacity(schema.fields().len());
    for field in schema.fields().iter().filter(|field| field.name() != VECTOR) {
        let values: Vec<Option<&Value>> = points.iter().map(|point| point.payload.get(field.name())).collect();
        if !field.is_nullable() {
            values.iter().enumerate().filter(|(_, value)| value.is_none()).for_each(|(i, _)| strange[i] = true);
        }
        let column = payload::decode(field.data_type(), &values, &mut |i| strange[i] = true).unwrap_or_else(|_| {
            // Nothing of the column fits the type, as after a change of the projection: no row of it is taken for what it should be.
            strange.fill(true);
            new_null_array(field.data_type(), points.len())
        });
        columns.push((field.clone(), column));
    }
    let whole: Vec<bool> = points.iter().map(|point| is_whole(point, dimensions)).collect();
    for (field, column) in &mut columns {
        if field.name() == CHUNKS && strange.contains(&true) {
            let chunks = column.as_primitive::<arrow::datatypes::Int64Type>().iter();
            *column = Arc::new(Int64Array::from_iter(
                chunks.zip(&strange).map(|(n, strange)| if *strange { Some(STRANGE) } else { n }),
            ));
        }
        if field.name() == TEXT_HASH && whole.contains(&false) {
            let hashes = column.as_string::<i32>().iter();
            *column =
                Arc::new(StringArray::from_iter(hashes.zip(&whole).map(|(hash, whole)| if *whole { hash } else { Some("") })));
        }
    }
    if let Some(field) = schema.fields().iter().find(|field| field.name() == VECTOR) {
        columns.push((field.clone(), vector_column(field, dimensions, points, &whole)?));
    }
    batch(columns, points.len())
}

/// The [`Target::record_key`] columns of points.
///
/// # Errors
/// What Arrow says of columns that do not fit.
pub(crate) fn record_keys(target: &Target, points: &[Point]) -> Result<RecordBatch, String> {
    let mut columns: Vec<(Arc<Field>, ArrayRef)> = Vec::with_capacity(target.record_key.len());
    for name in &target.record_key {
        let (_, field) =
            target.schema.fields().find(name).ok_or_else(|| format!("collection {} has no column {name}", target.name))?;
        let values: Vec<Option<&Value>> = points.iter().map(|point| point.payload.get(name)).collect();
        columns.push((field.clone(), payload::decode(field.data_type(), &values, &mut |_| ())?));
    }
    batch(columns, points.len())
}

/// A column that is never null by its schema, but is missing in a strange point, has zeros and empty texts there.
fn batch(columns: Vec<(Arc<Field>, ArrayRef)>, rows: usize) -> Result<RecordBatch, String> {
    let (fields, arrays): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let arrays = fields.iter().zip(arrays).map(|(field, array): (&Arc<Field>, ArrayRef)| {
        if field.is_nullable() || array.null_count() == 0 {
            return Ok(array);
        }
        array.to_data().into_builder().nulls(None).build().map(make_array)
    });
    let arrays = arrays.collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), arrays, &options).map_err(|e| e.to_string())
}

fn vector_column(field: &Field, dimensions: usize, points: &[Point], whole: &[bool]) -> Result<ArrayRef, String> {
    let DataType::FixedSizeList(item, width) = field.data_type() else { return Err(format!("{VECTOR} is no fixed-size list")) };
    let mut values: Vec<f32> = Vec::with_capacity(points.len() * dimensions);
    for (point, whole) in points.iter().zip(whole) {
        match &point.vector {
            Some(vector) if *whole => values.extend_from_slice(vector),
            _ => values.resize(values.len() + dimensions, 0.0),
        }
    }
    let nulls = NullBuffer::from(whole.to_vec());
    let vectors = FixedSizeListArray::try_new(item.clone(), *width, Arc::new(Float32Array::from(values)), Some(nulls));
    Ok(Arc::new(vectors.map_err(|e| e.to_string())?))
}

/// Whether the point has the vector that its payload was written with.
pub(crate) fn is_whole(point: &Point, dimensions: usize) -> bool {
    let Some(vector) = point.vector.as_ref().filter(|vector| vector.len() == dimensions) else { return false };
    let stored = point.payload.get(PROBE).and_then(Value::as_array);
    let stored: Option<Vec<f64>> = stored.and_then(|probe| probe.iter().map(Value::as_f64).collect());
    stored.is_some_and(|stored| {
        let expected = projections(vector);
        stored.len() == expected.len() && stored.iter().zip(expected).all(|(a, b)| (a - b).abs() <= PROBE_TOLERANCE)
    })
}

fn probe(vector: &[f32]) -> Value {
    Value::from(projections(vector).to_vec())
}

/// Two sums of the components with signs that are fixed, and differ between the two. Two unit vectors that are not nearly the same
/// agree in both within the tolerance about once in a hundred million pairs.
fn projections(vector: &[f32]) -> [f64; 2] {
    let mut sums = [0.0, 0.0];
    for (i, x) in vector.iter().enumerate() {
        // The finaliser of SplitMix64: good bits from a counter.
        let mut bits = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits ^= bits >> 27;
        for (k, sum) in sums.iter_mut().enumerate() {
            *sum += if bits >> (7 + k) & 1 == 0 { f64::from(*x) } else { -f64::from(*x) };
        }
    }
    sums
}

/// The vector scaled to length one, as the engine would do it; one that has this length, or none, is left as it is.
pub(crate) fn unit(mut vector: Vec<f32>) -> Vec<f32> {
    let square: f64 = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    if square > 0.0 && (square - 1.0).abs() > UNIT_TOLERANCE {
        let length = square.sqrt();
        #[allow(clippy::cast_possible_truncation)] // At most 1 in size.
        vector.iter_mut().for_each(|x| *x = (f64::from(*x) / length) as f32);
    }
    vector
}

#[cfg(test)]
mod tests;
