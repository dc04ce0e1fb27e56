//! Sets of keys: which keys a window touches, how many rows of each the table holds, and which keys are to be read again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray};
use arrow::compute::{concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::logical_expr::Expr;
use futures::StreamExt;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::error::{ChangesError, reading};
use super::json::project;
use super::scan::{self, Scan};
use super::table::Table;
use crate::rows::{Encoder, Rows};

/// Name of the column that holds the hash of a row's content where it has no key, and is null elsewhere.
pub(super) const IDENTITY: &str = "__distributary_identity";

/// Bits of the filter of touched keys: 8 MiB, so that a million keys pass fewer than one in a thousand others. With far more keys it
/// lets everything pass, which costs time and no correctness.
const FILTER_BITS: u64 = 1 << 26;

/// Up to so many keys are told to the reader, which then skips files and pages without them.
const TOLD_MAX: usize = 4096;

/// The columns that rows are grouped by: the key, and the identity of rows without one.
pub(super) fn group_columns(key: &[String]) -> Vec<String> {
    key.iter().cloned().chain([IDENTITY.to_owned()]).collect()
}

/// The schema with the identity column behind it.
pub(super) fn identified_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new(IDENTITY, DataType::Utf8, true)));
    Arc::new(Schema::new(fields))
}

/// The rows with their identities; all null when none are given.
pub(super) fn identified(batch: &RecordBatch, identities: Option<StringArray>) -> Result<RecordBatch, ArrowError> {
    let mut columns = batch.columns().to_vec();
    let identities = identities.unwrap_or_else(|| StringArray::new_null(batch.num_rows()));
    columns.push(Arc::new(identities) as ArrayRef);
    RecordBatch::try_new(identified_schema(batch.schema_ref()), columns)
}

/// Encodes the group columns of batches that have the identity column.
pub(super) fn group_encoder(table: &Table) -> Result<Encoder, ArrowError> {
    let mut types: Vec<DataType> = Vec::new();
    for name in table.key() {
        types.push(table.schema.field_with_name(name)?.data_type().clone());
    }
    types.push(DataType::Utf8);
    Encoder::new(&types)
}

/// Keys that were perhaps seen: answers no only for those that were not.
#[derive(Debug, Clone)]
pub(super) struct Touched {
    bits: Arc<Mutex<Vec<u64>>>,
}

impl Touched {
    pub(super) fn new() -> Self {
        Self { bits: Arc::new(Mutex::new(vec![0; usize::try_from(FILTER_BITS / 64).unwrap_or(0)])) }
    }

    /// Remembers keys.
    pub(super) fn add(&self, keys: &Rows) {
        let Ok(mut bits) = self.bits.lock() else { return };
        for key in keys {
            for (word, bit) in places(key.data()) {
                bits[word] |= bit;
            }
        }
    }

    /// For each key whether it may have been seen.
    pub(super) fn mask(&self, keys: &Rows) -> BooleanArray {
        match self.bits.lock() {
            Ok(bits) => {
                keys.iter().map(|key| Some(places(key.data()).iter().all(|(word, bit)| bits[*word] & bit != 0))).collect()
            }
            Err(_) => BooleanArray::from(vec![true; keys.num_rows()]),
        }
    }
}

fn places(key: &[u8]) -> [(usize, u64); 2] {
    let hash = xxh3_64(key);
    [hash % FILTER_BITS, (hash >> 32) % FILTER_BITS].map(|place| (usize::try_from(place / 64).unwrap_or(0), 1 << (place % 64)))
}

/// How many rows of each touched key a version holds, asked in the order of the keys.
pub(super) struct Counter {
    rows: SendableRecordBatchStream,
    encoder: Encoder,
    columns: Vec<String>,
    keys: Option<Rows>,
    at: usize,
}

impl Counter {
    /// Reads the key columns of the version, once.
    pub(super) async fn new(table: &Table, version: i64, touched: &Touched) -> Result<Self, ChangesError> {
        let failed = |error| reading(table.name(), version, error);
        let keys = table.scan(version, Scan { keys_only: true, ..Scan::default() }).await?;
        let schema = identified_schema(&keys.schema());
        let encoder = group_encoder(table).map_err(|error| failed(error.into()))?;
        let (touched, columns) = (touched.clone(), group_columns(table.key()));
        let asked = columns.clone();
        let known = keys.map(move |batch| {
            let batch = identified(&batch?, None)?;
            let mask = touched.mask(&encoder.encode(&columns_of(&batch, &asked)?)?);
            Ok(filter_record_batch(&batch, &mask)?)
        });
        let rows = scan::sort(table, scan::boxed(schema, known), &columns).await.map_err(failed)?;
        Ok(Self { rows, encoder: group_encoder(table).map_err(|error| failed(error.into()))?, columns, keys: None, at: 0 })
    }

    /// The rows that have this encoded key. Keys are asked in ascending order, each once.
    pub(super) async fn count(&mut self, key: &[u8]) -> datafusion::error::Result<u64> {
        let mut count = 0;
        loop {
            if let Some(keys) = &self.keys {
                while self.at < keys.num_rows() {
                    match keys.row(self.at).data().cmp(key) {
                        std::cmp::Ordering::Less => {}
                        std::cmp::Ordering::Equal => count += 1,
                        std::cmp::Ordering::Greater => return Ok(count),
                    }
                    self.at += 1;
                }
            }
            let Some(batch) = self.rows.next().await else {
                self.keys = None;
                return Ok(count);
            };
            self.keys = Some(self.encoder.encode(&columns_of(&batch?, &self.columns)?)?);
            self.at = 0;
        }
    }
}

/// These columns of a batch.
pub(super) fn columns_of(batch: &RecordBatch, columns: &[String]) -> Result<Vec<ArrayRef>, ArrowError> {
    Ok(project(batch, columns)?.columns().to_vec())
}

/// Keys that are looked up again, none of them with a null.
#[derive(Debug)]
pub(super) struct KeySet {
    key: Vec<String>,
    schema: SchemaRef,
    encoder: Encoder,
    /// 128-bit hashes of the encoded keys.
    hashes: HashSet<u128>,
    /// The keys themselves.
    batches: Vec<RecordBatch>,
}

impl KeySet {
    pub(super) fn new(table: &Table) -> Result<Self, ArrowError> {
        let schema = table.key_schema();
        let types: Vec<DataType> = schema.fields().iter().map(|field| field.data_type().clone()).collect();
        Ok(Self {
            key: table.key().to_vec(),
            schema,
            encoder: Encoder::new(&types)?,
            hashes: HashSet::new(),
            batches: Vec::new(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.hashes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// Adds the keys of these rows.
    pub(super) fn add(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let keys = project(rows, &self.key)?;
        self.hashes.extend(self.hashes_of(&keys)?);
        self.batches.push(keys);
        Ok(())
    }

    /// For each row whether its key is in the set.
    pub(super) fn mask(&self, rows: &RecordBatch) -> Result<BooleanArray, ArrowError> {
        Ok(self.hashes_of(rows)?.into_iter().map(|hash| Some(self.hashes.contains(&hash))).collect())
    }

    fn hashes_of(&self, rows: &RecordBatch) -> Result<Vec<u128>, ArrowError> {
        let keys = self.encoder.encode(&columns_of(rows, &self.key)?)?;
        Ok(keys.iter().map(|key| xxh3_128(key.data())).collect())
    }

    /// The keys that are not in the other set.
    pub(super) fn without(&self, other: &Self) -> Result<RecordBatch, ArrowError> {
        let keys = concat_batches(&self.schema, &self.batches)?;
        let mask = arrow::compute::not(&other.mask(&keys)?)?;
        filter_record_batch(&keys, &mask)
    }

    /// What holds for every row with a key of the set, where that can be told in few words: the reader skips what cannot match.
    pub(super) fn predicate(&self) -> Result<Option<Expr>, ArrowError> {
        if self.len() > TOLD_MAX {
            return Ok(None);
        }
        let Some(name) = self.key.first() else { return Ok(None) };
        let keys = concat_batches(&self.schema, &self.batches)?;
        let values = keys.column(0);
        let mut told: HashSet<ScalarValue> = HashSet::new();
        for row in 0..values.len() {
            told.insert(ScalarValue::try_from_array(values, row).map_err(|error| ArrowError::ExternalError(Box::new(error)))?);
        }
        let list = told.into_iter().map(|value| Expr::Literal(value, None)).collect();
        Ok(Some(scan::column(name).in_list(list, false)))
    }
}
