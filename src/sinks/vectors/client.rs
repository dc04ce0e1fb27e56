//! Qdrant Edge as a [`Store`]: the only user of the engine's crate. It knows points and filters, neither rows nor targets.
//!
//! What the engine asks of its user, and how it is met here:
//! - It is synchronous and its handles must not be used twice at once: everything runs on a blocking thread under one lock.
//! - `flush` answers failures with a panic: each call is caught, and an engine that panicked is not used again.
//! - It never reads its log back, so what was not flushed is lost with the process, and what was being flushed may be there in
//!   part: payload indexes are made again after such an end. Callers repeat what they did since the last checkpoint.
//! - It never shortens its log: files of it that are closed are removed when a collection is opened, and after a flush.

mod convert;
mod log;

use std::collections::HashMap;
use std::fmt;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use convert::{all, any_of, entry, of_table, parts, point, scroll, typed, uuid_of};
use log::{closed_log_files, remove_closed_log_files};
use qdrant_edge::{
    Condition, CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeVectorParams, FieldCondition,
    FieldIndexOperations, Filter, Match, NamedQuery, OperationError, OperationResult, PayloadFieldSchema, PayloadOps,
    PayloadSchemaType, PointId, PointInsertOperations, PointOperations, PointStructPersisted, QueryEnum, SearchRequest,
    SetPayloadOp, UpdateOperation, VectorStructPersisted, WalOptions, WithPayloadInterface,
};
use uuid::Uuid;

use super::config::{POINTS_AN_OPERATION, SINK, VALUES_A_FILTER, VectorsOptions};
use super::directory::{Directory, damaged};
use super::encode::{RECORD, TABLE};
use super::store::{Part, Payload, Point, Store};
use crate::mapping::target::TEXT_HASH;
use crate::sinks::{Checkpoint, SinkError};

/// The engine and its version, for the format file.
const ENGINE: &str = "qdrant-edge 0.7.2";

/// Payload entries that are looked up by value.
const INDEXED: [&str; 3] = [TABLE, RECORD, TEXT_HASH];

/// Bytes of one file of the engine's log. It is made at its full size when a collection is opened, so it is small.
const LOG_FILE_BYTES: usize = 4 * 1024 * 1024;

/// Closed files of the log from which on the collection is opened anew after a flush, which gives their space back.
const DEFAULT_CLOSED_LOG_FILES_MAX: usize = 32;

/// Kilobytes of vectors in one segment from which on it gets a graph index. Below it, scanning 50,000 vectors of 384 floats takes
/// milliseconds and is exact.
const INDEXING_THRESHOLD_KB: usize = 75_000;

/// The engine behind one lock.
pub(crate) struct EdgeStore {
    edge: Arc<Mutex<Edge>>,
}

struct Edge {
    directory: Directory,
    shards: HashMap<String, Shard>,
    /// Set by the first panic of the engine.
    is_broken: bool,
    closed_log_files_max: usize,
}

struct Shard {
    /// Taken out only to be dropped.
    engine: Option<EdgeShard>,
    is_unflushed: bool,
    was_written: bool,
}

impl fmt::Debug for EdgeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeStore").finish_non_exhaustive()
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        // The engine flushes when it is dropped and panics when it cannot; whoever needs to know has flushed before.
        let engine = self.engine.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
    }
}

impl EdgeStore {
    /// Opens the directory; collections are opened when they are first used.
    pub(crate) async fn open(options: VectorsOptions) -> Result<Self, SinkError> {
        let opened = tokio::task::spawn_blocking(move || Directory::open(options, ENGINE)).await;
        let directory = opened.map_err(|e| SinkError::permanent(SINK, "opening was interrupted").because(e))??;
        let edge =
            Edge { directory, shards: HashMap::new(), is_broken: false, closed_log_files_max: DEFAULT_CLOSED_LOG_FILES_MAX };
        Ok(Self { edge: Arc::new(Mutex::new(edge)) })
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Edge) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let edge = self.edge.clone();
        let done = tokio::task::spawn_blocking(move || {
            let mut edge = edge.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            if edge.is_broken {
                return Err(SinkError::permanent(SINK, "the engine failed before and is not used again: start anew"));
            }
            catch_unwind(AssertUnwindSafe(|| work(&mut edge))).unwrap_or_else(|panic| {
                edge.is_broken = true;
                Err(panicked(&edge.directory.options().path, panic.as_ref()))
            })
        });
        done.await.map_err(|e| SinkError::permanent(SINK, "the work was interrupted").because(e))?
    }
}

fn panicked(place: &Path, panic: &(dyn std::any::Any + Send)) -> SinkError {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    // The engine's own errors carry the whole stack.
    let said = said.and_then(|said| said.split(", backtrace: ").next());
    SinkError::permanent(
        SINK,
        format!(
            "the engine failed in {}: {}. Look for a full or read-only disk; if there is none, the directory is damaged: restore it or \
             sync into a new one",
            place.display(),
            said.unwrap_or("no reason given")
        ),
    )
}

/// The class of each of the engine's errors.
fn refused(what: &str, collection: &str, error: OperationError) -> SinkError {
    let message = format!("cannot {what} collection {collection}: {error}");
    match error {
        OperationError::OutOfMemory { .. } | OperationError::Timeout { .. } | OperationError::Cancelled { .. } => {
            SinkError::transient(SINK, message)
        }
        _ => SinkError::permanent(SINK, message),
    }
}

fn config(dimensions: usize) -> EdgeConfig {
    let optimizers = EdgeOptimizersConfig { indexing_threshold: Some(INDEXING_THRESHOLD_KB), ..EdgeOptimizersConfig::default() };
    // "On disk" is the same file mapped without being read at once: opening takes 2 ms and not 11.
    let vectors = EdgeVectorParams::builder(dimensions, Distance::Cosine).on_disk(true).build();
    EdgeConfig {
        vectors: HashMap::from([(String::new(), vectors)]),
        optimizers,
        wal_options: Some(WalOptions { segment_capacity: LOG_FILE_BYTES, ..WalOptions::default() }),
        ..EdgeConfig::default()
    }
}

fn make_indexes(engine: &EdgeShard) -> OperationResult<()> {
    for name in INDEXED {
        let field_schema = Some(PayloadFieldSchema::FieldType(PayloadSchemaType::Keyword));
        let create = FieldIndexOperations::CreateIndex(CreateIndex { field_name: entry(name), field_schema });
        engine.update(UpdateOperation::FieldIndexOperation(create))?;
    }
    Ok(())
}

impl Edge {
    /// The open collection; none if nobody made it.
    fn shard(&mut self, collection: &str) -> Result<Option<&mut Shard>, SinkError> {
        if !self.shards.contains_key(collection) {
            if !self.directory.has_generation(collection) {
                return match self.directory.generation(collection) {
                    place if place.exists() => Err(damaged(&place, "collection.json is missing")),
                    _ => Ok(None),
                };
            }
            let shard = self.load(collection)?;
            self.shards.insert(collection.to_owned(), shard);
        }
        Ok(self.shards.get_mut(collection))
    }

    fn load(&self, collection: &str) -> Result<Shard, SinkError> {
        let place = self.directory.generation(collection);
        let has_segments = fs::read_dir(place.join("segments")).is_ok_and(|mut entries| entries.next().is_some());
        if !has_segments {
            // The engine would begin with an empty collection.
            return Err(damaged(&place, "it has no segments"));
        }
        remove_closed_log_files(&place);
        let config = config(self.directory.options().dimensions);
        let loaded = catch_unwind(AssertUnwindSafe(|| EdgeShard::load(&place, Some(config))));
        let engine = match loaded {
            Ok(Ok(engine)) => engine,
            Ok(Err(error)) => return Err(damaged(&place, &error.to_string()).because(error)),
            Err(panic) => return Err(damaged(&place, &panicked(&place, panic.as_ref()).message)),
        };
        let mut shard = Shard { engine: Some(engine), is_unflushed: false, was_written: false };
        if self.directory.is_unflushed(collection) {
            let engine = shard.engine(collection)?;
            let repaired = INDEXED.iter().try_for_each(|name| {
                engine.update(UpdateOperation::FieldIndexOperation(FieldIndexOperations::DeleteIndex(entry(name))))
            });
            repaired.and_then(|()| make_indexes(engine)).map_err(|e| refused("repair", collection, e))?;
            shard.is_unflushed = true;
        }
        Ok(shard)
    }

    /// The collection for a change, marked as not durable.
    fn changing(&mut self, collection: &str) -> Result<&EdgeShard, SinkError> {
        if self.shard(collection)?.is_some_and(|shard| !shard.is_unflushed) {
            self.directory.mark_unflushed(collection)?;
        }
        let Some(shard) = self.shards.get_mut(collection) else {
            return Err(SinkError::permanent(SINK, format!("collection {collection} was not prepared")));
        };
        (shard.is_unflushed, shard.was_written) = (true, true);
        shard.engine(collection)
    }

    fn flush(&mut self) -> Result<(), SinkError> {
        let mut reopened = Vec::new();
        for (collection, shard) in &mut self.shards {
            if shard.is_unflushed {
                shard.engine(collection)?.flush();
                self.directory.mark_flushed(collection)?;
                shard.is_unflushed = false;
                if closed_log_files(&self.directory.generation(collection)).len() > self.closed_log_files_max {
                    reopened.push(collection.clone());
                }
            }
        }
        for collection in reopened {
            let was_written = self.shards.remove(&collection).is_some_and(|shard| shard.was_written);
            if let Some(shard) = self.shard(&collection)? {
                shard.was_written = was_written;
            }
        }
        Ok(())
    }

    /// Lets the engine merge, shrink and index what was written, if it finds that worth while.
    fn optimize(&mut self) -> Result<(), SinkError> {
        for (collection, shard) in &mut self.shards {
            if shard.was_written {
                let changed = shard.engine(collection)?.optimize().map_err(|e| refused("optimize", collection, e))?;
                if changed {
                    self.directory.mark_unflushed(collection)?;
                    shard.is_unflushed = true;
                }
                shard.was_written = false;
            }
        }
        self.flush()
    }
}

impl Shard {
    fn engine(&self, collection: &str) -> Result<&EdgeShard, SinkError> {
        self.engine.as_ref().ok_or_else(|| SinkError::permanent(SINK, format!("collection {collection} is closed")))
    }
}

#[async_trait]
impl Store for EdgeStore {
    async fn prepare(&self, collection: &str) -> Result<(), SinkError> {
        let collection = collection.to_owned();
        let prepare = move |edge: &mut Edge| {
            if edge.shard(&collection)?.is_some() {
                return Ok(());
            }
            let config = config(edge.directory.options().dimensions);
            edge.directory.make_generation(&collection, |place| {
                let engine = EdgeShard::new(place, config).map_err(|e| refused("make", &collection, e))?;
                make_indexes(&engine).map_err(|e| refused("index", &collection, e))?;
                engine.flush();
                Ok(())
            })
        };
        self.run(prepare).await
    }

    async fn is_prepared(&self, collection: &str) -> Result<bool, SinkError> {
        let collection = collection.to_owned();
        self.run(move |edge| Ok(edge.shard(&collection)?.is_some())).await
    }

    async fn read(&self, collection: &str, ids: Vec<Uuid>, part: Part) -> Result<Vec<Point>, SinkError> {
        let collection = collection.to_owned();
        let read = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let ids: Vec<PointId> = ids.into_iter().map(PointId::Uuid).collect();
            let (payload, vector) = parts(part);
            let found = shard.engine(&collection)?.retrieve(&ids, Some(payload), Some(vector));
            Ok(found.map_err(|e| refused("read", &collection, e))?.into_iter().filter_map(point).collect())
        };
        self.run(read).await
    }

    async fn find(
        &self,
        collection: &str,
        table: &str,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError> {
        let (collection, table) = (collection.to_owned(), table.to_owned());
        let find = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let engine = shard.engine(&collection)?;
            let mut points = Vec::new();
            for values in values.chunks(VALUES_A_FILTER) {
                let filter = all(vec![any_of(field, values.to_vec()), of_table(&table)]);
                let request = scroll(None, usize::MAX - 1, filter, Part::All);
                let (found, _) = engine.scroll(request).map_err(|e| refused("search", &collection, e))?;
                points.extend(found.into_iter().filter_map(point));
            }
            Ok(points)
        };
        self.run(find).await
    }

    async fn scroll(
        &self,
        collection: &str,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError> {
        let (collection, table) = (collection.to_owned(), table.to_owned());
        let list = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok((Vec::new(), None)) };
            let request = scroll(from, limit, all(vec![of_table(&table)]), part);
            let (found, next) = shard.engine(&collection)?.scroll(request).map_err(|e| refused("list", &collection, e))?;
            Ok((found.into_iter().filter_map(point).collect(), next.and_then(uuid_of)))
        };
        self.run(list).await
    }

    async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), SinkError> {
        let collection = collection.to_owned();
        let upsert = move |edge: &mut Edge| {
            let engine = edge.changing(&collection)?;
            let mut points = points.into_iter().filter_map(|point| {
                let vector = VectorStructPersisted::Single(point.vector?);
                Some(PointStructPersisted {
                    id: PointId::Uuid(point.id),
                    vector,
                    payload: Some(qdrant_edge::Payload(point.payload)),
                })
            });
            loop {
                let some: Vec<_> = points.by_ref().take(POINTS_AN_OPERATION).collect();
                if some.is_empty() {
                    return Ok(());
                }
                let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(some));
                engine.update(UpdateOperation::PointOperation(upsert)).map_err(|e| refused("write", &collection, e))?;
            }
        };
        self.run(upsert).await
    }

    async fn replace_payloads(&self, collection: &str, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError> {
        let collection = collection.to_owned();
        let replace = move |edge: &mut Edge| {
            let engine = edge.changing(&collection)?;
            for (id, payload) in payloads {
                let points = Some(vec![PointId::Uuid(id)]);
                let replace = SetPayloadOp { payload: qdrant_edge::Payload(payload), points, filter: None, key: None };
                let operation = UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(replace));
                engine.update(operation).map_err(|e| refused("write payloads of", &collection, e))?;
            }
            Ok(())
        };
        self.run(replace).await
    }

    async fn delete(&self, collection: &str, ids: Vec<Uuid>) -> Result<(), SinkError> {
        let collection = collection.to_owned();
        let delete = move |edge: &mut Edge| {
            let ids = ids.into_iter().map(PointId::Uuid).collect();
            let delete = UpdateOperation::PointOperation(PointOperations::DeletePoints { ids });
            edge.changing(&collection)?.update(delete).map_err(|e| refused("delete from", &collection, e))
        };
        self.run(delete).await
    }

    async fn nearest(
        &self,
        collection: &str,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError> {
        let collection = collection.to_owned();
        let nearest = move |edge: &mut Edge| {
            serves(&edge.directory, &collection)?;
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let engine = shard.engine(&collection)?;
            let request = SearchRequest {
                query: QueryEnum::Nearest(NamedQuery::default_dense(vector)),
                filter: Some(all(conditions.iter().map(|(name, value)| typed(name, value)).collect()))
                    .filter(|_| !conditions.is_empty()),
                params: None,
                limit,
                offset: 0,
                with_payload: Some(WithPayloadInterface::Bool(true)),
                with_vector: None,
                score_threshold: None,
            };
            let found = engine.search(request).map_err(|e| refused("search", &collection, e))?;
            if found.is_empty() {
                known_columns(engine, &collection, &conditions)?;
            }
            let point = |id, payload: Option<qdrant_edge::Payload>| {
                Some(Point { id: uuid_of(id)?, payload: payload.map(|payload| payload.0).unwrap_or_default(), vector: None })
            };
            Ok(found.into_iter().filter_map(|hit| Some((hit.score, point(hit.id, hit.payload)?))).collect())
        };
        self.run(nearest).await
    }

    async fn flush(&self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError> {
        let flush = move |edge: &mut Edge| {
            edge.directory.check_moves(&checkpoints)?;
            edge.flush()?;
            edge.directory.save_checkpoints(checkpoints)
        };
        self.run(flush).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        self.run(|edge| Ok(edge.directory.checkpoints())).await
    }

    async fn close(&self) -> Result<(), SinkError> {
        let close = |edge: &mut Edge| {
            edge.flush()?;
            edge.optimize()?;
            edge.shards.clear();
            Ok(())
        };
        self.run(close).await
    }
}

/// Whether questions about the collection go to the generation of the sink's own model.
fn serves(directory: &Directory, collection: &str) -> Result<(), SinkError> {
    let Some(current) = directory.alias(collection)? else {
        let known = directory.collections()?;
        let known = if known.is_empty() {
            "there are none yet: sync first".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        return Err(SinkError::permanent(SINK, format!("there is no collection {collection}; {known}")));
    };
    let own = directory.options();
    if current.model != own.model || current.dimensions != own.dimensions {
        return Err(SinkError::permanent(
            SINK,
            format!(
                "collection {collection} has vectors of {} ({} dimensions), and the question is of {} ({}): sync with this model, or ask \
                 with that one",
                current.model, current.dimensions, own.model, own.dimensions
            ),
        ));
    }
    Ok(())
}

/// No answers may mean that a condition names a column that no point has.
fn known_columns(engine: &EdgeShard, collection: &str, conditions: &[(String, String)]) -> Result<(), SinkError> {
    for (name, _) in conditions {
        let any = FieldCondition::new_match(entry(name), Match::from(true));
        let empty = Condition::Field(FieldCondition { r#match: None, is_empty: Some(true), ..any });
        let filter = Filter { must_not: Some(vec![empty]), ..Filter::new() };
        let having = |filter| engine.scroll(scroll(None, 1, filter, Part::Payload)).map_err(|e| refused("list", collection, e));
        let (found, _) = having(filter)?;
        if found.is_empty() {
            let (some, _) = having(Filter::new())?;
            let columns = some.into_iter().filter_map(|record| record.payload).flat_map(|payload| payload.0.into_iter());
            let columns: Vec<String> = columns.map(|(name, _)| name).filter(|name| !name.starts_with('_')).collect();
            if !columns.is_empty() {
                let message =
                    format!("no point of collection {collection} has a column {name}; there are {}", columns.join(", "));
                return Err(SinkError::permanent(SINK, message));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
