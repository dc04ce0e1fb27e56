//! What the sink needs of an engine that holds points. Small on purpose: every vector index can do these things, and a second
//! engine is one more implementation of [`Store`]. It knows points and payloads, neither rows nor targets.

use std::fmt;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::config::Collection;
use crate::sinks::{Checkpoint, Generation, Lease, SinkError};

/// A point's payload.
pub(crate) type Payload = Map<String, Value>;

/// One point.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    /// Its id.
    pub(crate) id: Uuid,
    /// Its payload, or the part that was asked for.
    pub(crate) payload: Payload,
    /// Its vector; none where it was not asked for, or where the point has none.
    pub(crate) vector: Option<Vec<f32>>,
}

/// How much of a point is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// `_version` alone.
    Version,
    /// The payload.
    Payload,
    /// Payload and vector.
    All,
}

/// What the values of a payload entry are, to whoever looks for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Indexed {
    /// Texts, whole.
    Text,
    /// Whole numbers.
    Integer,
    /// Numbers.
    Float,
    /// Truth values.
    Bool,
}

/// A place that holds points. A collection that is not there reads as an empty one.
#[async_trait]
pub(crate) trait Store: Send + Sync + fmt::Debug {
    /// Makes the collection, with its indexes, if it is not there. The first generation of a name is in service at once.
    async fn prepare(&self, collection: &Collection) -> Result<(), SinkError>;

    /// Indexes payload entries that people filter by, where questions need it. One that cannot be indexed is still stored.
    async fn index(&self, _collection: &Collection, _columns: Vec<(String, Indexed)>) -> Result<(), SinkError> {
        Ok(())
    }

    /// Whether [`Store::upsert`] puts vector and payload of a point in place together, whatever happens meanwhile. Points that are
    /// replaced are deleted first where it does not.
    fn replaces_whole(&self) -> bool {
        false
    }

    /// Why the engine cannot hold the point, which is then refused alone.
    fn refusal(&self, _point: &Point) -> Option<String> {
        None
    }

    /// Whether the collection is there.
    async fn is_prepared(&self, collection: &Collection) -> Result<bool, SinkError>;

    /// What reads of the collection see from now on has everything in it that anybody has written to it before. Asked before a write looks
    /// up what is stored: another process may have gone on while this one was paused.
    async fn catch_up(&self, _collection: &Collection) -> Result<(), SinkError> {
        Ok(())
    }

    /// Those of the points that are there, in any order.
    async fn read(&self, collection: &Collection, ids: Vec<Uuid>, part: Part) -> Result<Vec<Point>, SinkError>;

    /// All collections of this model, whatever their names.
    async fn of_model(&self, model: &str) -> Result<Vec<Collection>, SinkError>;

    /// The points of the table, or of all, whose payload entry `field`, an indexed text, is one of `values`.
    async fn find(
        &self,
        collection: &Collection,
        table: Option<&str>,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError>;

    /// Points of the table from id `from` on in order of ids, and the id at which to go on.
    async fn scroll(
        &self,
        collection: &Collection,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError>;

    /// Inserts or replaces points, each of which has a vector; no two have one id.
    async fn upsert(&self, collection: &Collection, points: Vec<Point>) -> Result<(), SinkError>;

    /// Replaces the payloads of points that are there, and leaves their vectors.
    async fn replace_payloads(&self, collection: &Collection, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError>;

    /// Deletes points; one that is not there is no error.
    async fn delete(&self, collection: &Collection, ids: Vec<Uuid>) -> Result<(), SinkError>;

    /// The points nearest to the vector that fulfil all conditions, best first, with scores and without vectors.
    async fn nearest(
        &self,
        collection: &Collection,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError>;

    /// Makes everything accepted durable, and only then the checkpoints, all of them or none.
    async fn flush(&self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError>;

    /// All checkpoints.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError>;

    /// All generations of all collections.
    async fn generations(&self) -> Result<Vec<Generation>, SinkError>;

    /// Puts this generation in service, in one step, and keeps the one before: [`crate::sinks::Sink::promote`].
    async fn promote(&self, collection: &Collection, tables: Vec<String>) -> Result<(), SinkError>;

    /// Deletes the model's generation with its checkpoints, unless it is in service.
    async fn drop_generation(&self, name: &str, model: &str) -> Result<(), SinkError>;

    /// Bytes of storage that the model's generation takes.
    async fn bytes(&self, name: &str, model: &str) -> Result<Option<u64>, SinkError>;

    /// Takes or keeps the place for one run: [`crate::sinks::Sink::hold`].
    async fn hold(&self, _lease: &Lease) -> Result<(), SinkError> {
        Ok(())
    }

    /// Gives it back: [`crate::sinks::Sink::release`].
    async fn release(&self, _lease: &Lease) -> Result<(), SinkError> {
        Ok(())
    }

    /// Lets others in that wait: [`crate::sinks::Sink::give_way`].
    async fn give_way(&self) -> Result<(), SinkError>;

    /// Makes everything accepted durable and lets go of the engine.
    async fn close(&self) -> Result<(), SinkError>;
}
