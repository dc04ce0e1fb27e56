//! A batch of net changes as all lanes of a table see it: which records are there before and after, and in which columns they are
//! equal, found out once for all lanes. A lane leaves alone the records that are equal in all that its query reads.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, make_comparator};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::compute::{SortOptions, take};
use arrow::error::ArrowError;

use crate::changes::ChangeBatch;
use crate::mapping::Projection;
use crate::mapping::diff::{columns, encode};

/// Net changes and what lanes have found out about them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) changes: ChangeBatch,
    /// Rows of `before` and of `after` that are the same record.
    pairs: Vec<(u32, u32)>,
    /// For each column that some lane asked for: which pairs are equal in it.
    equal: Mutex<HashMap<String, Arc<Vec<bool>>>>,
}

/// The records of a batch that are equal before and after in some columns: for each row of `before` and of `after`, whether it is one.
#[derive(Debug)]
pub(super) struct Equal {
    pub(super) before: Vec<bool>,
    pub(super) after: Vec<bool>,
}

impl Batch {
    /// `projection` is any of the table's: they all have the table's key.
    pub(super) fn new(changes: ChangeBatch, projection: &Projection) -> Result<Self, ArrowError> {
        let mut pairs = Vec::new();
        if changes.before.num_rows() > 0 && changes.after.num_rows() > 0 {
            let before = encode(&projection.silver_keys(&changes.before)?, changes.before.num_rows())?;
            let after = encode(&projection.silver_keys(&changes.after)?, changes.after.num_rows())?;
            let places: HashMap<&[u8], u32> = before.iter().map(|key| key.data()).zip(0u32..).collect();
            pairs = after.iter().zip(0u32..).filter_map(|(key, row)| Some((*places.get(key.data())?, row))).collect();
        }
        Ok(Self { changes, pairs, equal: Mutex::default() })
    }

    /// The records that are equal in all of these columns; none when they are the smaller part, because to set them apart costs more
    /// than to compare what they make.
    pub(super) fn equal_in(&self, names: &[String]) -> Result<Option<Equal>, ArrowError> {
        let mut equal = vec![true; self.pairs.len()];
        for name in names {
            let of_column = self.equal_in_one(name)?;
            equal.iter_mut().zip(of_column.iter()).for_each(|(all, one)| *all &= one);
        }
        if 2 * equal.iter().filter(|equal| **equal).count() <= equal.len() {
            return Ok(None);
        }
        let mut found =
            Equal { before: vec![false; self.changes.before.num_rows()], after: vec![false; self.changes.after.num_rows()] };
        for (before, after) in self.pairs.iter().zip(equal).filter(|(_, equal)| *equal).map(|(pair, _)| *pair) {
            found.before[before as usize] = true;
            found.after[after as usize] = true;
        }
        Ok(Some(found))
    }

    fn equal_in_one(&self, name: &str) -> Result<Arc<Vec<bool>>, ArrowError> {
        // Held while comparing: what one lane asks for, the next one asks for too.
        let mut known = self.equal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(equal) = known.get(name) {
            return Ok(equal.clone());
        }
        let of = |records: &RecordBatch| Ok::<_, ArrowError>(columns(records, &[name.to_owned()])?.remove(0));
        let equal = Arc::new(equal_rows(&of(&self.changes.before)?, &of(&self.changes.after)?, &self.pairs)?);
        known.insert(name.to_owned(), equal.clone());
        Ok(equal)
    }
}

/// Whether the values of each pair are equal. Two that are equal by value and differ in bytes (two NaN, two zeros, maps in another
/// order) may be found different: then their rows are compared later, as values.
fn equal_rows(before: &ArrayRef, after: &ArrayRef, pairs: &[(u32, u32)]) -> Result<Vec<bool>, ArrowError> {
    if before.data_type().is_nested() {
        if let Ok(compare) = make_comparator(before, after, SortOptions::default()) {
            return Ok(pairs.iter().map(|(b, a)| compare(*b as usize, *a as usize) == Ordering::Equal).collect());
        }
        let (before, after) =
            (encode(std::slice::from_ref(before), before.len())?, encode(std::slice::from_ref(after), after.len())?);
        return Ok(pairs.iter().map(|(b, a)| before.row(*b as usize) == after.row(*a as usize)).collect());
    }
    let before = take(before, &UInt32Array::from_iter_values(pairs.iter().map(|(b, _)| *b)), None)?;
    let after = take(after, &UInt32Array::from_iter_values(pairs.iter().map(|(_, a)| *a)), None)?;
    Ok(not_distinct(&before, &after)?.values().iter().collect())
}
