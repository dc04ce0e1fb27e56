//! Delta tables in, net changes out. Knows no sink, no mapping and no model.
//!
//! A *net change* is what a window of commits, or the difference of two snapshots, made of one record: the record before and the
//! record after. Whatever way a change was seen, it comes out in this one form.

mod duplicates;
mod error;
mod fold;
mod json;
mod keys;
mod log;
mod out;
mod plan;
mod scan;
mod schema;
mod snapshot;
mod table;
mod window;

#[cfg(test)]
mod tests;

use arrow::array::RecordBatch;

pub use error::ChangesError;
pub(crate) use json::objects as json_objects;
pub use log::newest_commit;
pub use plan::{From, Plan, Strategy};
pub use snapshot::KeysError;
pub use table::{DEFAULT_BATCH_ROWS, OnGap, Table, TableOptions};

/// Net changes of some records, in the Silver table's own columns.
#[derive(Debug, Clone)]
pub struct ChangeBatch {
    /// Records as they were, each key once. A record that is new is not here.
    pub before: RecordBatch,
    /// Records as they are, each key once. A record that is gone is not here.
    pub after: RecordBatch,
    /// Keys (the key columns alone) of records whose state before is not known here: what a sink holds for them is to be compared with
    /// what `after` makes of them, and a key that `after` lacks is to be deleted.
    pub replaced: RecordBatch,
    /// Records that cannot be delivered.
    pub bad: Vec<BadRecord>,
    /// Bad records without a key that are no longer there: hashes of their content ([`BadRecord::hash`]).
    pub mended: Vec<String>,
    /// What happened to the records of this batch.
    pub counts: RecordCounts,
    /// Files of the pinned snapshot that are completely delivered with this batch; 0 for a window.
    pub files_done: u64,
}

impl ChangeBatch {
    /// No change of this table.
    pub(crate) fn nothing(table: &Table) -> Self {
        let records = RecordBatch::new_empty(table.schema());
        Self {
            before: records.clone(),
            after: records,
            replaced: RecordBatch::new_empty(table.key_schema()),
            bad: Vec::new(),
            mended: Vec::new(),
            counts: RecordCounts::default(),
            files_done: 0,
        }
    }
}

/// Why a record cannot be delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadReason {
    /// A key column is null.
    NullKey,
    /// The table holds two different records of one key.
    DuplicateKey,
}

impl BadReason {
    /// The code in the quarantine table.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NullKey => "null_key",
            Self::DuplicateKey => "duplicate_key",
        }
    }
}

/// A record that cannot be delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadRecord {
    /// The key as a JSON object.
    pub key: String,
    /// Why.
    pub reason: BadReason,
    /// What is wrong with it, in words.
    pub message: String,
    /// The record as JSON (for a duplicate key: an array of the records).
    pub payload: String,
    /// Hash of the content.
    pub hash: String,
}

/// What happened to records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecordCounts {
    /// Only after.
    pub inserted: u64,
    /// Before and after, and different.
    pub updated: u64,
    /// Only before.
    pub deleted: u64,
    /// Touched by some commit, and equal in the end.
    pub unchanged: u64,
    /// Bad.
    pub quarantined: u64,
}
