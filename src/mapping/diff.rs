//! Compares rows by the target's key. Equal means equal in value, as [`crate::rows`] defines it; equal rows are work for nobody.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use xxhash_rust::xxh3::xxh3_128;

use crate::rows::{Encoder, Equality, Rows};

/// Rows of which no two have one key.
#[derive(Debug)]
pub struct Indexed {
    rows: RecordBatch,
    keys: Rows,
    /// The columns that are compared.
    contents: Vec<ArrayRef>,
    positions: Positions,
}

/// Key digests are as good as random, so they need no hashing to find their place.
#[derive(Debug, Default, Clone, Copy)]
struct Digest(u64);

impl Hasher for Digest {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }
}

type Positions = HashMap<u128, u32, BuildHasherDefault<Digest>>;

/// Whether rows of one batch hold the same as rows of another in all columns. Made when two rows are first compared: most rows of a
/// first sync never are.
fn same(left: &[ArrayRef], right: &[ArrayRef]) -> Result<Vec<Equality>, ArrowError> {
    left.iter().zip(right).map(|(left, right)| Equality::new(left, right)).collect()
}

/// A row that cannot stand beside the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFault {
    /// Index of the row in what was given.
    pub row: usize,
    /// A code for quarantine.
    pub reason: &'static str,
    /// What is wrong, naming columns.
    pub message: String,
}

/// What turns the rows before into the rows after.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Rows of after whose key before lacks.
    pub inserted: Vec<u32>,
    /// Rows `(before, after)` of one key with different contents.
    pub updated: Vec<(u32, u32)>,
    /// Rows of before whose key after lacks.
    pub deleted: Vec<u32>,
    /// How many rows are in both, equal.
    pub unchanged: u64,
}

impl Indexed {
    /// Indexes rows by their key columns. Rows that equal an earlier one are dropped; rows with a null in their key, and different
    /// rows of one key, are reported and none of them is indexed. `ignored` columns are not part of a row's content.
    ///
    /// # Errors
    /// When a key column is missing or a type cannot be compared.
    pub fn new(rows: &RecordBatch, key: &[String], ignored: &[&str]) -> Result<(Self, Vec<KeyFault>), ArrowError> {
        let key_columns = columns(rows, key)?;
        let keys = encode(&key_columns, rows.num_rows())?;
        let contents = content_columns(rows, ignored);
        let mut faults = null_keys(key, &key_columns, rows.num_rows());
        let mut out: Vec<bool> = vec![false; rows.num_rows()];
        faults.iter().for_each(|fault| out[fault.row] = true);
        let mut positions = Positions::with_capacity_and_hasher(rows.num_rows(), BuildHasherDefault::default());
        let mut alike: Option<Vec<Equality>> = None;
        for row in 0..rows.num_rows() {
            if out[row] {
                continue;
            }
            match positions.entry(xxh3_128(keys.row(row).as_ref())) {
                Entry::Vacant(entry) => {
                    entry.insert(index(row)?);
                }
                Entry::Occupied(entry) => {
                    let earlier = *entry.get() as usize;
                    let alike = match &alike {
                        Some(alike) => alike,
                        None => alike.insert(same(&contents, &contents)?),
                    };
                    out[row] = true;
                    if !alike.iter().all(|column| column.equal(row, earlier)) {
                        out[earlier] = true;
                        let message = format!("two different rows have one key ({})", key.join(", "));
                        faults.push(KeyFault { row, reason: "conflicting_rows", message });
                    }
                }
            }
        }
        if !out.contains(&true) {
            return Ok((Self { rows: rows.clone(), keys, contents, positions }, faults));
        }
        let keep: UInt32Array = (0u32..).zip(out).filter(|(_, out)| !out).map(|(row, _)| row).collect();
        Ok((Self::distinct(&take_record_batch(rows, &keep)?, key, ignored)?, faults))
    }

    /// Indexes rows that are known to have different keys.
    ///
    /// # Errors
    /// When a key column is missing or a type cannot be compared.
    pub fn distinct(rows: &RecordBatch, key: &[String], ignored: &[&str]) -> Result<Self, ArrowError> {
        let keys = encode(&columns(rows, key)?, rows.num_rows())?;
        let contents = content_columns(rows, ignored);
        let mut positions = Positions::with_capacity_and_hasher(rows.num_rows(), BuildHasherDefault::default());
        for row in 0..rows.num_rows() {
            positions.insert(xxh3_128(keys.row(row).as_ref()), index(row)?);
        }
        Ok(Self { rows: rows.clone(), keys, contents, positions })
    }

    /// The rows.
    #[must_use]
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    fn position(&self, key: &[u8]) -> Option<u32> {
        self.positions.get(&xxh3_128(key)).copied()
    }
}

/// What turns `before` into `after`. Both have the same columns in the same order.
///
/// # Errors
/// When a type cannot be compared.
pub fn diff(before: &Indexed, after: &Indexed) -> Result<Difference, ArrowError> {
    let mut difference = Difference::default();
    let mut alike: Option<Vec<Equality>> = None;
    for (position, key) in (0u32..).zip(after.keys.iter()) {
        let Some(earlier) = before.position(key.as_ref()) else {
            difference.inserted.push(position);
            continue;
        };
        let alike = match &alike {
            Some(alike) => alike,
            None => alike.insert(same(&before.contents, &after.contents)?),
        };
        if alike.iter().all(|column| column.equal(earlier as usize, position as usize)) {
            difference.unchanged += 1;
        } else {
            difference.updated.push((earlier, position));
        }
    }
    for (position, key) in (0u32..).zip(before.keys.iter()) {
        if after.position(key.as_ref()).is_none() {
            difference.deleted.push(position);
        }
    }
    Ok(difference)
}

/// The named columns of a batch.
///
/// # Errors
/// When one is missing.
pub fn columns(rows: &RecordBatch, names: &[String]) -> Result<Vec<ArrayRef>, ArrowError> {
    names
        .iter()
        .map(|name| {
            let column = rows.column_by_name(name);
            column.cloned().ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
        })
        .collect()
}

/// The columns as comparable bytes.
///
/// # Errors
/// When a type cannot be compared.
pub fn encode(columns: &[ArrayRef], rows: usize) -> Result<Rows, ArrowError> {
    let types: Vec<_> = columns.iter().map(|c| c.data_type().clone()).collect();
    debug_assert!(columns.iter().all(|c| c.len() == rows));
    Encoder::new(&types)?.encode(columns)
}

fn content_columns(rows: &RecordBatch, ignored: &[&str]) -> Vec<ArrayRef> {
    let schema = rows.schema();
    let named = schema.fields().iter().zip(rows.columns());
    named.filter(|(field, _)| !ignored.contains(&field.name().as_str())).map(|(_, column)| column.clone()).collect()
}

fn null_keys(key: &[String], columns: &[ArrayRef], rows: usize) -> Vec<KeyFault> {
    let mut faults = Vec::new();
    for row in 0..rows {
        if let Some(at) = columns.iter().position(|column| column.is_null(row)) {
            let message = format!("the key column {} is null", key[at]);
            faults.push(KeyFault { row, reason: "null_key", message });
        }
    }
    faults
}

fn index(row: usize) -> Result<u32, ArrowError> {
    u32::try_from(row).map_err(|_| ArrowError::InvalidArgumentError("more than 2^32 rows in one batch".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn batch(rows: &[(Option<i64>, Option<&str>, f64)]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, true),
            Field::new("name", DataType::Utf8, true),
            Field::new("score", DataType::Float64, true),
        ]);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_iter(rows.iter().map(|r| r.0))),
            Arc::new(StringArray::from_iter(rows.iter().map(|r| r.1))),
            Arc::new(Float64Array::from_iter_values(rows.iter().map(|r| r.2))),
        ];
        RecordBatch::try_new(Arc::new(schema), columns).unwrap()
    }

    fn indexed(rows: &[(Option<i64>, Option<&str>, f64)]) -> Indexed {
        let (indexed, faults) = Indexed::new(&batch(rows), &["id".to_owned()], &[]).unwrap();
        assert_eq!(faults, []);
        indexed
    }

    #[test]
    fn difference_names_each_row_once() {
        let before = indexed(&[(Some(1), Some("a"), 1.0), (Some(2), Some("b"), 1.0), (Some(3), None, f64::NAN)]);
        let after = indexed(&[(Some(4), Some("d"), 1.0), (Some(3), None, -f64::NAN), (Some(2), Some("c"), 1.0)]);
        let expected = Difference { inserted: vec![0], updated: vec![(1, 2)], deleted: vec![0], unchanged: 1 };
        assert_eq!(diff(&before, &after).unwrap(), expected);
    }

    #[test]
    fn equal_means_equal_in_value() {
        let before = indexed(&[(Some(1), None, 0.0), (Some(2), Some(""), 0.0)]);
        let after = indexed(&[(Some(1), None, -0.0), (Some(2), None, 0.0)]);
        let difference = diff(&before, &after).unwrap();
        assert_eq!((difference.unchanged, difference.updated), (1, vec![(1, 1)]));
    }

    #[test]
    fn equal_rows_collapse_and_conflicting_ones_are_reported() {
        let rows =
            batch(&[(Some(1), Some("a"), 1.0), (Some(1), Some("a"), 1.0), (Some(2), Some("a"), 1.0), (Some(2), Some("b"), 1.0)]);
        let (indexed, faults) = Indexed::new(&rows, &["id".to_owned()], &[]).unwrap();
        assert_eq!(indexed.rows().num_rows(), 1);
        assert_eq!(faults.iter().map(|f| (f.row, f.reason)).collect::<Vec<_>>(), [(3, "conflicting_rows")]);
    }

    #[test]
    fn a_null_in_the_key_is_reported_with_its_column() {
        let (indexed, faults) = Indexed::new(&batch(&[(None, Some("a"), 1.0)]), &["id".to_owned()], &[]).unwrap();
        assert_eq!(indexed.rows().num_rows(), 0);
        assert_eq!(faults[0].message, "the key column id is null");
    }
}
