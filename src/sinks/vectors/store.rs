//! What the sink needs of an engine that holds points. Small on purpose: every vector index can do these things, and a second
//! engine is one more implementation of [`Store`]. It knows points and payloads, neither rows nor targets.

use std::fmt;

use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::sinks::{Checkpoint, SinkError};

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

/// A place that holds points. A collection that is not there reads as an empty one.
#[async_trait]
pub(crate) trait Store: Send + Sync + fmt::Debug {
    /// Makes the collection, with its indexes, if it is not there.
    async fn prepare(&self, collection: &str) -> Result<(), SinkError>;

    /// Whether the collection is there.
    async fn is_prepared(&self, collection: &str) -> Result<bool, SinkError>;

    /// Those of the points that are there, in any order.
    async fn read(&self, collection: &str, ids: Vec<Uuid>, part: Part) -> Result<Vec<Point>, SinkError>;

    /// The points of the table whose payload entry `field`, an indexed text, is one of `values`.
    async fn find(
        &self,
        collection: &str,
        table: &str,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError>;

    /// Points of the table from id `from` on in order of ids, and the id at which to go on.
    async fn scroll(
        &self,
        collection: &str,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError>;

    /// Inserts or replaces points, each of which has a vector; no two have one id.
    async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), SinkError>;

    /// Replaces the payloads of points that are there, and leaves their vectors.
    async fn replace_payloads(&self, collection: &str, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError>;

    /// Deletes points; one that is not there is no error.
    async fn delete(&self, collection: &str, ids: Vec<Uuid>) -> Result<(), SinkError>;

    /// The points nearest to the vector that fulfil all conditions, best first, with scores and without vectors.
    async fn nearest(
        &self,
        collection: &str,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError>;

    /// Makes everything accepted durable, and only then the checkpoints, all of them or none.
    async fn flush(&self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError>;

    /// All checkpoints.
    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError>;

    /// Makes everything accepted durable and lets go of the engine.
    async fn close(&self) -> Result<(), SinkError>;
}
