//! The contract between the engine and a place that holds what it delivers. This file is the only place that tells it;
//! the folders beside it keep it, one for each kind of engine.
//!
//! - **Delivery** is at least once. Any call may be repeated, whole or in part, after a crash or a lost answer, and the
//!   repetition must change nothing.
//! - **Order**: writes of one lane arrive in the order of commits. A write with a `version` below the one that a row
//!   carries loses.
//! - **Success means**: [`Sink::write`] has accepted the rows, [`Sink::flush`] has made everything accepted before it
//!   durable and only then moved the checkpoints.
//! - **One writer**: an embedded engine's directory is locked by the process that opened it; a server keeps a lease ([`Sink::hold`]), and
//!   a checkpoint moves only from the value that was read, so a writer that lost its lease while it was paused does no harm.
//!
//! - **Generations**: a target whose rows a model makes may be held several times, once for each model. One of them is in service. A
//!   sink works on the generation of one model; [`Sink::of_model`] gives the same place as another model sees it.
//!
//! Sinks know nothing of each other, of Delta, of SQL over Silver, or of models beyond their identities.

pub mod checkpoint;
pub mod clickhouse;
pub mod graph;
pub mod lease;
pub mod quarantine;
pub mod retry;
pub mod vectors;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;

pub use crate::mapping::target::SinkKind;
use crate::mapping::target::{Dimension, Target};
pub use checkpoint::{Checkpoint, LaneId, Pending};
pub use lease::{Lease, Work};
pub use retry::{Retries, Retrying};

/// What one batch does to one target.
#[derive(Debug, Clone)]
pub struct Write {
    /// The target.
    pub target: Arc<Target>,
    /// The `_version` that each row gets: `epoch << 56 | commit_version << 16 | generation`.
    pub version: u64,
    /// Rows to insert or replace, in [`Target::stored_schema`]. A point whose vector is null keeps its vector and has its
    /// payload replaced. No two rows have one [`Target::stored_key`], and none of them is in `deletes`.
    pub upserts: RecordBatch,
    /// The [`Target::stored_key`] of rows to delete, those columns alone. A row that is not there is no error.
    pub deletes: RecordBatch,
}

/// A row that the engine cannot hold. Everything else of the batch was written; the record goes to quarantine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Index into the slice of writes.
    pub write: usize,
    /// Index of the row in its `upserts`.
    pub row: usize,
    /// What the engine cannot hold, with column and value.
    pub message: String,
}

/// One page of [`Sink::list`].
#[derive(Debug, Clone)]
pub struct Page {
    /// The columns [`Target::record_key`]; a record may repeat, also across pages.
    pub keys: RecordBatch,
    /// Where the next page begins; `None` after the last.
    pub next: Option<String>,
}

/// Whether a generation answers questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It does.
    Serving,
    /// It did before the last [`Sink::promote`].
    Kept,
    /// It never did.
    Building,
}

/// A target as one model made it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Generation {
    /// The target's name.
    pub target: String,
    /// The model's identity.
    pub model: String,
    /// Length of its vectors.
    pub dimensions: usize,
    /// Whether it answers questions.
    pub role: Role,
    /// Whether another process is at work on it: its lanes are that one's.
    pub taken: bool,
}

/// A question in the engine's own terms, for people and applications.
#[derive(Debug, Clone)]
pub enum Query {
    /// A statement in the engine's language: SQL or Cypher.
    Text(String),
    /// The nearest points of a collection.
    Nearest {
        /// The collection.
        collection: String,
        /// The vector to be near to.
        vector: Vec<f32>,
        /// Conditions on the payload, all of which hold: `(column, value)`, compared as text, numbers or booleans; a list
        /// matches when it contains the value.
        conditions: Vec<(String, String)>,
        /// How many answers at most.
        top: usize,
    },
}

/// A place that holds what the engine delivers.
#[async_trait]
pub trait Sink: Send + Sync + fmt::Debug {
    /// Which projections it takes.
    fn kind(&self) -> SinkKind;

    /// Whether the engine can hold the target at all: its types and its names. Pure: reads and writes nothing.
    ///
    /// # Errors
    /// [`Class::Stop`], naming the column, its type and the cast that would help.
    fn check(&self, target: &Target) -> Result<(), SinkError>;

    /// Rows as [`Sink::held`] would answer them after they were written: what the engine cannot tell apart made equal (a null
    /// list stored as an empty one). Takes and answers [`Target::stored_schema`]. Pure.
    ///
    /// # Errors
    /// [`Class::Permanent`] if the batch does not have the target's columns.
    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError>;

    /// Takes the place for one run, or keeps it: asked before a run writes, and again while it lasts, always with the same
    /// [`Lease::token`]. A lease of another run of the same [`Work`] that has not ended stops this one. Nothing to do where the
    /// process that opened the engine has it alone.
    ///
    /// # Errors
    /// [`Class::Stop`], naming the holder and the age of its lease.
    async fn hold(&self, _lease: &Lease) -> Result<(), SinkError> {
        Ok(())
    }

    /// Gives the place back. One that somebody else has meanwhile is left to them.
    async fn release(&self, _lease: &Lease) -> Result<(), SinkError> {
        Ok(())
    }

    /// Makes everything ready that the targets need: tables, views, constraints, indexes. Called once before the first write, and
    /// again whenever a target changed; repeating it changes nothing. Adds columns, never removes any.
    ///
    /// # Errors
    /// [`Class::Stop`] when what is there cannot become what is needed without losing something.
    async fn prepare(&self, targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError>;

    /// Work is to come: what takes long before the first answer may begin. Returns at once, and what fails is said by the next call.
    fn wake(&self) {}

    /// All checkpoints that the sink holds. Empty on a new sink, also before [`Sink::prepare`].
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError>;

    /// Takes what one batch does to some targets of this sink, each target at most once. The sink chooses the order among targets (nodes
    /// before relationships). An empty slice, or a write with no rows, is no work and no error.
    ///
    /// Answers the rows it refused; all others are accepted, not yet durable.
    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError>;

    /// Makes everything accepted so far durable, then stores the checkpoints, each replacing the one of its lane. Where the engine has
    /// transactions, data and checkpoints become visible together.
    ///
    /// Without checkpoints it is the end of a batch, on which nothing counts yet: an engine may go on gathering rows for a larger write,
    /// within bounds of its own. They are durable before the next checkpoint, seen by whoever asks this sink, and lost with the process.
    ///
    /// A checkpoint replaces only one that carries its `revision` minus one ([`Checkpoint::revision`]).
    ///
    /// # Errors
    /// [`Class::Stop`] when another writer has moved a checkpoint meanwhile.
    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError>;

    /// The rows it holds whose columns have the values of some row of `keys`, in [`Target::stored_schema`], in any order. The columns
    /// of `keys` name columns of that schema: usually [`Target::record_key`], or the text hash of points.
    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError>;

    /// The Silver keys of the rows it holds, in an order of its own that does not change while nothing is written, a page of at most
    /// `limit` rows at a time; `after` is the `next` of the page before. A target that is not there has no rows.
    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError>;

    /// The highest `version` of any write to the target of which it still holds something; none when it holds nothing. Asked when a
    /// lane has lost its checkpoint: a write below it would lose.
    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError>;

    /// Answers a question, one object a row.
    ///
    /// # Errors
    /// [`Class::Permanent`] when the engine does not take this kind of question, or refuses it.
    async fn query(&self, query: &Query) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, SinkError>;

    /// What is held of each target as each model made it, whichever model this sink works for. Empty where rows are made by no model.
    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        Ok(Vec::new())
    }

    /// The same place for the generations of another model: all methods that take a target mean that model's generation of it, and
    /// questions are answered by it. Checkpoints, [`Sink::flush`] and [`Sink::close`] are of the whole place.
    ///
    /// # Errors
    /// [`Class::Permanent`] where rows are made by no model.
    fn of_model(&self, model: &str, dimensions: usize) -> Result<Arc<dyn Sink>, SinkError> {
        Err(without_models(self.kind(), &format!("{model} with {dimensions} dimensions")))
    }

    /// Puts this sink's generation of the target in service, in one step: whoever asks which one serves sees the old one or the new one.
    /// The old one is kept. `tables` are the Silver tables that fill it. To repeat it changes nothing.
    ///
    /// # Errors
    /// [`Class::Transient`] when a lane of it is not at least where the same lane of the one in service is.
    async fn promote(&self, target: &str, _tables: &[String]) -> Result<(), SinkError> {
        Err(without_models(self.kind(), target))
    }

    /// Deletes the model's generation of the target, with its checkpoints. One that is not there is no error.
    ///
    /// # Errors
    /// [`Class::Stop`] when it is in service.
    async fn drop_generation(&self, _target: &str, model: &str) -> Result<(), SinkError> {
        Err(without_models(self.kind(), model))
    }

    /// Vectors that this sink's model made of texts with these hashes, by hash, whichever target holds them. Hashes of which it has none
    /// are left out.
    async fn vectors(&self, _hashes: Vec<String>) -> Result<HashMap<String, Vec<f32>>, SinkError> {
        Ok(HashMap::new())
    }

    /// Bytes of storage that the model's generation of the target takes; none where the engine does not say.
    async fn bytes(&self, _target: &str, _model: &str) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    /// Nothing is under way that another writer to the generations in service could disturb: an engine that one process alone can have open, and that
    /// was opened to give way, lets others in that wait for it, and returns when it has it back. No work anywhere else.
    async fn give_way(&self) -> Result<(), SinkError> {
        Ok(())
    }

    /// Makes everything accepted durable and lets go of the engine. The sink is not used after it.
    async fn close(&self) -> Result<(), SinkError>;
}

fn without_models(kind: SinkKind, what: &str) -> SinkError {
    SinkError::permanent(kind.name(), format!("no model makes its rows, so it has no generations: asked for {what}"))
}

/// What an error asks of the caller. Decided from the cause in one `match` per sink; what is not known is permanent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The same call may succeed later.
    Transient,
    /// The same call will fail again.
    Permanent,
    /// A person has to decide: the message says between what.
    Stop,
}

/// Why a sink could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{sink}: {message}")]
pub struct SinkError {
    /// What it asks of the caller.
    pub class: Class,
    /// The sink's name.
    pub sink: &'static str,
    /// What happened, where, and what to do next.
    pub message: String,
    /// How long the engine asked to be left alone before the same call is tried again.
    pub retry_after: Option<Duration>,
    /// The cause, when there is one apart from the message.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl SinkError {
    /// An error that will come again.
    pub fn permanent(sink: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Permanent, sink, message: message.into(), retry_after: None, source: None }
    }

    /// An error that a later call may not meet.
    pub fn transient(sink: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Transient, sink, message: message.into(), retry_after: None, source: None }
    }

    /// An error that a person has to decide about.
    pub fn stop(sink: &'static str, message: impl Into<String>) -> Self {
        Self { class: Class::Stop, sink, message: message.into(), retry_after: None, source: None }
    }

    /// The same error, with the pause that the engine asked for.
    #[must_use]
    pub fn after(mut self, pause: Duration) -> Self {
        self.retry_after = Some(pause);
        self
    }

    /// The same error with its cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }
}
