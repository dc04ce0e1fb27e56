//! How far a lane has come. Stored by the sink that the lane fills, as JSON under the lane's name, so that a sink restored
//! from a backup carries its own truth.

use serde::{Deserialize, Serialize};

use super::SinkKind;

/// A Silver table and one target of it, cut by key hash into `shards`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LaneId {
    /// The Silver table.
    pub table: String,
    /// The sink.
    pub sink: SinkKind,
    /// The target's name.
    pub target: String,
    /// The identity of the model, for targets that one fills: each generation of a collection has lanes of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Which part of the keys: 0 of 1 is all.
    pub shard: u32,
    /// How many parts there are.
    pub shards: u32,
}

impl LaneId {
    /// The lane of the whole table.
    #[must_use]
    pub fn new(table: &str, sink: SinkKind, target: &str, model: Option<&str>) -> Self {
        let (table, target, model) = (table.to_owned(), target.to_owned(), model.map(str::to_owned));
        Self { table, sink, target, model, shard: 0, shards: 1 }
    }

    /// The name under which a sink stores the lane's checkpoint, and by which reports call it.
    #[must_use]
    pub fn name(&self) -> String {
        let model = self.model.as_ref().map_or_else(String::new, |model| format!("@{model}"));
        format!("{}/{}/{}{model}/{}-of-{}", self.table, self.sink.name(), self.target, self.shard, self.shards)
    }
}

/// A window or snapshot that was begun and whose rows may be in the sink in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The commit version it leads to.
    pub to: i64,
    /// The version it started from; none for a snapshot.
    pub from: Option<i64>,
    /// Files of the pinned snapshot, in order of their names, that are done.
    pub files_done: u64,
    /// Whether the sink may hold rows that the snapshot lacks, so that they must be compared and swept.
    pub sweep: bool,
}

/// How far a lane has come, and by what it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The lane.
    pub lane: LaneId,
    /// Counts the moves of this checkpoint from 1: a move is taken only on top of the one before it.
    pub revision: u64,
    /// The Delta table's `metaData.id`.
    pub table_id: String,
    /// The commit version that the sink holds completely; none before the first snapshot is done.
    pub version: Option<i64>,
    /// What was begun after it.
    pub pending: Option<Pending>,
    /// Rises when the Delta table was recreated and its versions began again.
    pub epoch: u8,
    /// Rises with each repair or rebuild at one commit version.
    pub generation: u16,
    /// Fingerprint of the columns that the projection reads from the Silver table.
    pub schema_fingerprint: String,
    /// Fingerprint of the projection.
    pub mapping_fingerprint: String,
    /// The model's identity, for vectors.
    pub model: Option<String>,
    /// When it moved, RFC 3339.
    pub updated_at: String,
}

impl Checkpoint {
    /// The `_version` of rows written on the way to commit `version`.
    #[must_use]
    pub fn row_version(&self, version: i64) -> u64 {
        let commit = u64::try_from(version).unwrap_or(0) & ((1 << 40) - 1);
        u64::from(self.epoch) << 56 | commit << 16 | u64::from(self.generation)
    }
}
