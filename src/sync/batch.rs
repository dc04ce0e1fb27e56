//! A batch of net changes as all lanes of a table see it: which records are there before and after, and in which columns and fields
//! they are equal, found out once for all lanes. A lane leaves alone the records that are equal in all that its query reads.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::error::ArrowError;

use crate::changes::ChangeBatch;
use crate::mapping::diff::{columns, encode};
use crate::mapping::{FieldPath, Projection};
use crate::rows::Equality;

/// Net changes and what lanes have found out about them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) changes: ChangeBatch,
    /// Rows of `before` and of `after` that are the same record.
    pairs: Vec<(u32, u32)>,
    /// For each place that some lane asked for: which pairs are equal there.
    equal: Mutex<HashMap<FieldPath, Arc<Vec<bool>>>>,
}

/// The records of a batch that are equal before and after in some places: for each row of `before` and of `after`, whether it is one.
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

    /// The records that are equal in all of these places; none when they are the smaller part, because to set them apart costs more
    /// than to compare what they make.
    pub(super) fn equal_in(&self, paths: &[FieldPath]) -> Result<Option<Equal>, ArrowError> {
        let mut equal = vec![true; self.pairs.len()];
        for path in paths {
            let of_path = self.equal_in_one(path)?;
            equal.iter_mut().zip(of_path.iter()).for_each(|(all, one)| *all &= one);
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

    fn equal_in_one(&self, path: &FieldPath) -> Result<Arc<Vec<bool>>, ArrowError> {
        // Held while comparing: what one lane asks for, the next one asks for too.
        let mut known = self.equal.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(equal) = known.get(path) {
            return Ok(equal.clone());
        }
        let equal = Arc::new(equal_at(&self.changes.before, &self.changes.after, path, &self.pairs)?);
        known.insert(path.clone(), equal.clone());
        Ok(equal)
    }
}

/// Whether the values at a place are equal in each pair of rows, and all structs on the way there are or all are null.
fn equal_at(before: &RecordBatch, after: &RecordBatch, path: &[String], pairs: &[(u32, u32)]) -> Result<Vec<bool>, ArrowError> {
    let Some((column, fields)) = path.split_first() else { return Ok(vec![true; pairs.len()]) };
    let of = |records: &RecordBatch| Ok::<_, ArrowError>(columns(records, std::slice::from_ref(column))?.remove(0));
    let (mut before, mut after) = (of(before)?, of(after)?);
    let mut structs = Vec::new();
    for field in fields {
        let inner = |array: &ArrayRef| array.as_struct_opt()?.column_by_name(field).cloned();
        // What is no struct is compared whole.
        let (Some(inner_before), Some(inner_after)) = (inner(&before), inner(&after)) else { break };
        structs.push((before, after));
        (before, after) = (inner_before, inner_after);
    }
    let values = Equality::new(&before, &after)?;
    let equal = pairs.iter().map(|(b, a)| {
        let (b, a) = (*b as usize, *a as usize);
        structs.iter().all(|(before, after)| before.is_null(b) == after.is_null(a)) && values.equal(b, a)
    });
    Ok(equal.collect())
}
