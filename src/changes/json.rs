//! Records as JSON, for people and for the identity of records that have no key.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, GenericListArray, MapArray, RecordBatch, StringArray, StructArray};
use arrow::compute::{cast, filter_record_batch, or};
use arrow::datatypes::{DataType, Field, Fields, Schema};
use arrow::error::ArrowError;
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use xxhash_rust::xxh3::xxh3_128;

use super::{BadReason, BadRecord};
use crate::rows;

/// How many different records of one key a bad record shows.
const SHOWN_MAX: usize = 16;

/// One JSON object for each row. Nulls are left out unless they are asked for.
pub(crate) fn objects(batch: &RecordBatch, nulls: bool) -> Result<Vec<String>, ArrowError> {
    let columns = batch.columns().iter().map(writable).collect::<Result<Vec<_>, _>>()?;
    let fields = batch
        .schema()
        .fields()
        .iter()
        .zip(&columns)
        .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
        .collect::<Vec<_>>();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let mut writer = WriterBuilder::new().with_explicit_nulls(nulls).build::<_, LineDelimited>(Vec::new());
    writer.write(&batch)?;
    writer.finish()?;
    let text = String::from_utf8(writer.into_inner()).map_err(|error| ArrowError::JsonError(error.to_string()))?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Maps whose keys are no strings cannot be written: their keys become strings.
fn writable(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    Ok(match array.data_type() {
        DataType::List(item) => {
            let list = array.as_list::<i32>();
            let values = writable(list.values())?;
            let item = Arc::new(Field::new(item.name(), values.data_type().clone(), true));
            Arc::new(GenericListArray::<i32>::try_new(item, list.offsets().clone(), values, list.nulls().cloned())?)
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns().iter().map(writable).collect::<Result<Vec<_>, _>>()?;
            let fields: Fields = fields
                .iter()
                .zip(&columns)
                .map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true))
                .collect();
            Arc::new(StructArray::try_new_with_length(fields, columns, array.nulls().cloned(), array.len())?)
        }
        DataType::Map(_, ordered) => {
            let map = array.as_map();
            let (keys, values) = (cast(map.keys(), &DataType::Utf8)?, writable(map.values())?);
            let fields = Fields::from(vec![
                Field::new("key", DataType::Utf8, false),
                Field::new("value", values.data_type().clone(), true),
            ]);
            let entries = StructArray::try_new(fields.clone(), vec![keys, values], None)?;
            let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
            Arc::new(MapArray::try_new(field, map.offsets().clone(), entries, map.nulls().cloned(), *ordered)?)
        }
        _ => array.clone(),
    })
}

fn hash(text: &str) -> String {
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// For each row the hash of its content if a key column is null, else null; none if there is no such row. Equal records
/// have equal hashes, also when a column was added meanwhile that is null in them.
pub(super) fn keyless(batch: &RecordBatch, key: &[String]) -> Result<Option<StringArray>, ArrowError> {
    let mut mask = None;
    for name in key {
        let Some(column) = batch.column_by_name(name) else { continue };
        if column.null_count() == 0 {
            continue;
        }
        let nulls = arrow::compute::is_null(column)?;
        mask = Some(match mask {
            Some(before) => or(&before, &nulls)?,
            None => nulls,
        });
    }
    let Some(mask) = mask else { return Ok(None) };
    let bad = objects(&rows::unambiguous_batch(&filter_record_batch(batch, &mask)?)?, false)?;
    let mut bad = bad.iter();
    let hashes = mask.values().iter().map(|keyless| if keyless { bad.next().map(|text| hash(text)) } else { None });
    Ok(Some(hashes.collect()))
}

/// The bad records of rows without a key. `hashes` are theirs, as [`keyless`] made them.
pub(super) fn null_keys(rows: &RecordBatch, key: &[String], hashes: &[String]) -> Result<Vec<BadRecord>, ArrowError> {
    let keys = objects(&project(rows, key)?, true)?;
    let payloads = objects(rows, false)?;
    let records = keys.into_iter().zip(payloads).zip(hashes).map(|((key, payload), hash)| BadRecord {
        message: format!("a key column is null in {key}: give the record a key"),
        key,
        reason: BadReason::NullKey,
        payload,
        hash: hash.clone(),
    });
    Ok(records.collect())
}

/// The bad record of one key with different rows.
pub(super) fn duplicate(rows: &RecordBatch, key: &[String], table: &str) -> Result<BadRecord, ArrowError> {
    let count = rows.num_rows();
    let key = objects(&project(&rows.slice(0, 1), key)?, true)?.pop().unwrap_or_default();
    let mut payloads = objects(&rows::unambiguous_batch(rows)?, false)?;
    payloads.sort();
    let hash = hash(&payloads.join("\n"));
    payloads.truncate(SHOWN_MAX);
    Ok(BadRecord {
        message: format!("table {table} holds {count} different records with the key {key}: remove all but one"),
        key,
        reason: BadReason::DuplicateKey,
        payload: format!("[{}]", payloads.join(",")),
        hash,
    })
}

/// These columns alone, in this order.
pub(super) fn project(batch: &RecordBatch, columns: &[String]) -> Result<RecordBatch, ArrowError> {
    let indices = columns.iter().map(|name| batch.schema_ref().index_of(name)).collect::<Result<Vec<_>, _>>()?;
    batch.project(&indices)
}
