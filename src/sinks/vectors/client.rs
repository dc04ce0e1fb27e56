//! Qdrant Edge as a [`Store`]: the only user of the engine's crate. It knows points and filters, neither rows nor targets.
//!
//! What the engine asks of its user, and how it is met here:
//! - It is synchronous and its handles must not be used twice at once: everything runs on a blocking thread under one lock.
//! - `flush` answers failures with a panic: each call is caught, and an engine that panicked is not used again.
//! - It never reads its log back, so what was not flushed is lost with the process, and what was being flushed may be there in
//!   part: payload indexes are made again after such an end. Callers repeat what they did since the last checkpoint.
//! - It never shortens its log: files of it that are closed are removed when a collection is opened, and after a flush.

mod convert;
mod edge;
mod log;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use convert::{all, any_of, entry, of_table, parts, point, scroll, typed, uuid_of};
use edge::{ENGINE, Edge, config, make_indexes, panicked, refused};
use qdrant_edge::{
    Condition, EdgeShard, FieldCondition, Filter, Match, NamedQuery, PayloadOps, PointId, PointInsertOperations, PointOperations,
    PointStructPersisted, QueryEnum, SearchRequest, SetPayloadOp, UpdateOperation, VectorStructPersisted, WithPayloadInterface,
};
use uuid::Uuid;

use super::config::{Collection, POINTS_AN_OPERATION, SINK, VALUES_A_FILTER};
use super::directory::Directory;
use super::moves;
use super::store::{Part, Payload, Point, Store};
use crate::sinks::{Checkpoint, Generation, SinkError};

/// The engine behind one lock.
pub(crate) struct EdgeStore {
    edge: Arc<Mutex<Edge>>,
}

impl fmt::Debug for EdgeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeStore").finish_non_exhaustive()
    }
}

impl EdgeStore {
    /// Opens the directory; collections are opened when they are first used.
    pub(crate) async fn open(path: PathBuf, gives_way: bool) -> Result<Self, SinkError> {
        let opened = tokio::task::spawn_blocking(move || Directory::open(path, gives_way, ENGINE)).await;
        let directory = opened.map_err(|e| SinkError::permanent(SINK, "opening was interrupted").because(e))??;
        Ok(Self { edge: Arc::new(Mutex::new(Edge::new(directory))) })
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
                Err(panicked(edge.directory.root(), panic.as_ref()))
            })
        });
        done.await.map_err(|e| SinkError::permanent(SINK, "the work was interrupted").because(e))?
    }
}

#[async_trait]
impl Store for EdgeStore {
    async fn prepare(&self, collection: &Collection) -> Result<(), SinkError> {
        let collection = collection.clone();
        let prepare = move |edge: &mut Edge| {
            if edge.shard(&collection)?.is_none() {
                let config = config(collection.dimensions);
                edge.directory.make_generation(&collection, |place| {
                    let engine = EdgeShard::new(place, config).map_err(|e| refused("make", &collection.name, e))?;
                    make_indexes(&engine).map_err(|e| refused("index", &collection.name, e))?;
                    engine.flush();
                    Ok(())
                })?;
            }
            edge.directory.adopt(&collection)
        };
        self.run(prepare).await
    }

    async fn is_prepared(&self, collection: &Collection) -> Result<bool, SinkError> {
        let collection = collection.clone();
        self.run(move |edge| Ok(edge.shard(&collection)?.is_some())).await
    }

    async fn read(&self, collection: &Collection, ids: Vec<Uuid>, part: Part) -> Result<Vec<Point>, SinkError> {
        let collection = collection.clone();
        let read = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let ids: Vec<PointId> = ids.into_iter().map(PointId::Uuid).collect();
            let (payload, vector) = parts(part);
            let found = shard.engine()?.retrieve(&ids, Some(payload), Some(vector));
            Ok(found.map_err(|e| refused("read", &collection.name, e))?.into_iter().filter_map(point).collect())
        };
        self.run(read).await
    }

    async fn find(
        &self,
        collection: &Collection,
        table: Option<&str>,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError> {
        let (collection, table) = (collection.clone(), table.map(str::to_owned));
        let find = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let engine = shard.engine()?;
            let mut points = Vec::new();
            for values in values.chunks(VALUES_A_FILTER) {
                let mut conditions = vec![any_of(field, values.to_vec())];
                conditions.extend(table.as_deref().map(of_table));
                let filter = all(conditions);
                let request = scroll(None, usize::MAX - 1, filter, Part::All);
                let (found, _) = engine.scroll(request).map_err(|e| refused("search", &collection.name, e))?;
                points.extend(found.into_iter().filter_map(point));
            }
            Ok(points)
        };
        self.run(find).await
    }

    async fn scroll(
        &self,
        collection: &Collection,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError> {
        let (collection, table) = (collection.clone(), table.to_owned());
        let list = move |edge: &mut Edge| {
            let Some(shard) = edge.shard(&collection)? else { return Ok((Vec::new(), None)) };
            let request = scroll(from, limit, all(vec![of_table(&table)]), part);
            let (found, next) = shard.engine()?.scroll(request).map_err(|e| refused("list", &collection.name, e))?;
            Ok((found.into_iter().filter_map(point).collect(), next.and_then(uuid_of)))
        };
        self.run(list).await
    }

    async fn upsert(&self, collection: &Collection, points: Vec<Point>) -> Result<(), SinkError> {
        let collection = collection.clone();
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
                engine.update(UpdateOperation::PointOperation(upsert)).map_err(|e| refused("write", &collection.name, e))?;
            }
        };
        self.run(upsert).await
    }

    async fn replace_payloads(&self, collection: &Collection, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError> {
        let collection = collection.clone();
        let replace = move |edge: &mut Edge| {
            let engine = edge.changing(&collection)?;
            for (id, payload) in payloads {
                let points = Some(vec![PointId::Uuid(id)]);
                let replace = SetPayloadOp { payload: qdrant_edge::Payload(payload), points, filter: None, key: None };
                let operation = UpdateOperation::PayloadOperation(PayloadOps::OverwritePayload(replace));
                engine.update(operation).map_err(|e| refused("write payloads of", &collection.name, e))?;
            }
            Ok(())
        };
        self.run(replace).await
    }

    async fn delete(&self, collection: &Collection, ids: Vec<Uuid>) -> Result<(), SinkError> {
        let collection = collection.clone();
        let delete = move |edge: &mut Edge| {
            let ids = ids.into_iter().map(PointId::Uuid).collect();
            let delete = UpdateOperation::PointOperation(PointOperations::DeletePoints { ids });
            edge.changing(&collection)?.update(delete).map_err(|e| refused("delete from", &collection.name, e))
        };
        self.run(delete).await
    }

    async fn nearest(
        &self,
        collection: &Collection,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError> {
        let collection = collection.clone();
        let nearest = move |edge: &mut Edge| {
            if edge.shard(&collection)?.is_none() {
                return Err(unknown(&edge.directory, &collection)?);
            }
            let Some(shard) = edge.shard(&collection)? else { return Ok(Vec::new()) };
            let engine = shard.engine()?;
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
            let found = engine.search(request).map_err(|e| refused("search", &collection.name, e))?;
            if found.is_empty() {
                known_columns(engine, &collection.name, &conditions)?;
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

    async fn of_model(&self, model: &str) -> Result<Vec<Collection>, SinkError> {
        let model = model.to_owned();
        self.run(move |edge| Ok(edge.directory.all()?.into_iter().filter(|one| one.model == model).collect())).await
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        self.run(|edge| edge.directory.generations()).await
    }

    async fn promote(&self, collection: &Collection, tables: Vec<String>) -> Result<(), SinkError> {
        let collection = collection.clone();
        self.run(move |edge| edge.directory.promote(&collection, &tables)).await
    }

    async fn drop_generation(&self, name: &str, model: &str) -> Result<(), SinkError> {
        let (name, model) = (name.to_owned(), model.to_owned());
        self.run(move |edge| edge.drop_generation(&name, &model)).await
    }

    async fn bytes(&self, name: &str, model: &str) -> Result<Option<u64>, SinkError> {
        let (name, model) = (name.to_owned(), model.to_owned());
        let bytes = move |edge: &mut Edge| {
            let found = edge.directory.all()?.into_iter().find(|one| one.name == name && one.model == model);
            found.map(|one| edge.directory.bytes(&one)).transpose()
        };
        self.run(bytes).await
    }

    async fn give_way(&self) -> Result<(), SinkError> {
        self.run(Edge::give_way).await
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

/// Why a collection that is not there cannot be asked.
fn unknown(directory: &Directory, collection: &Collection) -> Result<SinkError, SinkError> {
    let serving = directory.serving(&collection.name)?;
    Ok(moves::unknown(collection, serving.as_ref(), &directory.collections()?))
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
