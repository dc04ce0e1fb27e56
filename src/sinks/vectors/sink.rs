//! The contract of [`Sink`] for vectors, on any [`Store`].
//!
//! A write reads what is stored of its points before it changes any: a point with a higher `_version` is left alone, and one whose
//! payload alone is replaced must be there with the vector of the same text. There is one writer, so nothing changes between the two.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::client::EdgeStore;
use super::config::{Collection, PineconeOptions, QdrantOptions, SINK, VectorsOptions};
use super::directory::generations_in;
use super::encode::{self, PROBE, RECORD, SCORE, TABLE, VERSION};
use super::pinecone::PineconeStore;
use super::qdrant::QdrantStore;
use super::store::{Part, Point, Store};
use crate::mapping::target::{CHUNK, CHUNK_END, CHUNK_START, CHUNKS, Dimension, MODEL, TEXT_HASH, Target};
use crate::sinks::{Checkpoint, Generation, Lease, Page, Query, Refused, Sink, SinkError, SinkKind, Write};

/// Points read at once where all of a table are gone through.
const SCROLL_PAGE: usize = 4_096;

/// Opens the vectors of the embedded engine at `options.path`, which is made if it is not there.
///
/// # Errors
/// [`crate::sinks::Class::Stop`] when another process has the directory open, a newer release wrote it, or it holds something else;
/// [`crate::sinks::Class::Permanent`] when it cannot be read or written.
pub async fn open(options: VectorsOptions) -> Result<VectorsSink, SinkError> {
    open_as(options, false).await
}

/// [`open`] for work that takes long: other processes that want the directory meanwhile wait, and are let in by
/// [`crate::sinks::Sink::give_way`].
///
/// # Errors
/// As [`open`]; [`crate::sinks::Class::Stop`] also when another process does such work there.
pub async fn open_giving_way(options: VectorsOptions) -> Result<VectorsSink, SinkError> {
    open_as(options, true).await
}

async fn open_as(options: VectorsOptions, gives_way: bool) -> Result<VectorsSink, SinkError> {
    let VectorsOptions { path, model, dimensions } = options;
    if dimensions == 0 {
        return Err(SinkError::permanent(SINK, format!("model {model} has vectors of no length")));
    }
    Ok(VectorsSink { store: Arc::new(EdgeStore::open(path, gives_way).await?), model, dimensions })
}

/// Opens the vectors of a Qdrant server, which is reached once.
///
/// # Errors
/// [`crate::sinks::Class::Transient`] when it cannot be reached, [`crate::sinks::Class::Permanent`] when it refuses the key,
/// [`crate::sinks::Class::Stop`] when it is too old.
pub async fn open_qdrant(options: QdrantOptions, model: String, dimensions: usize) -> Result<VectorsSink, SinkError> {
    if dimensions == 0 {
        return Err(SinkError::permanent(SINK, format!("model {model} has vectors of no length")));
    }
    Ok(VectorsSink { store: Arc::new(QdrantStore::open(options).await?), model, dimensions })
}

/// The identities of the models of which a Qdrant server has generations.
///
/// # Errors
/// As [`open_qdrant`].
pub async fn models_at_qdrant(options: QdrantOptions) -> Result<Vec<String>, SinkError> {
    let found = QdrantStore::open(options).await?.generations().await?;
    Ok(distinct(found.into_iter().map(|one| one.model).collect()))
}

/// Opens the vectors in an index of Pinecone, which is made if it is not there.
///
/// # Errors
/// [`crate::sinks::Class::Stop`] when the index is of another kind, or has vectors of another length and is not this program's;
/// [`crate::sinks::Class::Permanent`] when the key is missing or wrong; [`crate::sinks::Class::Transient`] when there is no answer.
pub async fn open_pinecone(options: PineconeOptions, model: String, dimensions: usize) -> Result<VectorsSink, SinkError> {
    if dimensions == 0 {
        return Err(SinkError::permanent(SINK, format!("model {model} has vectors of no length")));
    }
    Ok(VectorsSink { store: Arc::new(PineconeStore::open(options, dimensions).await?), model, dimensions })
}

/// The identities of the models of which an index of Pinecone has generations. An index that is not there is not made.
///
/// # Errors
/// [`crate::sinks::Class::Permanent`] when the key is missing or wrong; [`crate::sinks::Class::Transient`] when there is no answer.
pub async fn models_at_pinecone(options: PineconeOptions) -> Result<Vec<String>, SinkError> {
    let Some(store) = PineconeStore::find(options).await? else { return Ok(Vec::new()) };
    Ok(distinct(store.generations().await?.into_iter().map(|one| one.model).collect()))
}

/// The identities of the models of which the directory at `path` has generations. Reads a few small files and opens nothing.
///
/// # Errors
/// [`crate::sinks::Class::Permanent`] when it cannot be read.
pub fn models_at(path: &Path) -> Result<Vec<String>, SinkError> {
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(distinct(generations_in(path)?.into_iter().map(|one| one.model).collect()))
}

/// Whether a vector index can hold the target: what [`Sink::check`] says, without a sink.
///
/// # Errors
/// [`crate::sinks::Class::Stop`], naming the column, its type and the cast that would help.
pub(crate) fn check(target: &Target) -> Result<(), SinkError> {
    encode::check(target).map_err(|why| SinkError::stop(SINK, why))
}

/// A vector index that keeps the contract of [`Sink`].
#[derive(Debug)]
pub struct VectorsSink {
    store: Arc<dyn Store>,
    model: String,
    dimensions: usize,
}

/// Points of one write, sorted by what has to be known of the stored ones.
struct Sorted {
    points: Vec<(usize, Point)>,
    deletes: Vec<Uuid>,
    /// `_version` of what is stored.
    versions: HashMap<Uuid, u64>,
    /// What is stored of points whose payload alone is replaced.
    kept: HashMap<Uuid, Point>,
}

fn invalid(why: String) -> SinkError {
    SinkError::permanent(SINK, why)
}

fn version_of(point: &Point) -> u64 {
    point.payload.get(VERSION).and_then(Value::as_u64).unwrap_or(0)
}

impl VectorsSink {
    /// The generation of a collection that this sink works on.
    fn own(&self, name: &str) -> Collection {
        Collection { name: name.to_owned(), model: self.model.clone(), dimensions: self.dimensions }
    }

    async fn write_one(&self, index: usize, write: &Write) -> Result<Vec<Refused>, SinkError> {
        let target = &write.target;
        let rows = write.upserts.num_rows();
        if rows + write.deletes.num_rows() == 0 {
            return Ok(Vec::new());
        }
        if !self.store.is_prepared(&self.own(&target.name)).await? {
            return Err(invalid(format!("collection {} was not prepared: prepare it before writing to it", target.name)));
        }
        let mut refused = Vec::new();
        let mut refuse = |row, message| refused.push(Refused { write: index, row, message });
        let mut points = Vec::new();
        if rows > 0 {
            let encoded = encode::points(target, self.dimensions, write.version, &write.upserts).map_err(invalid)?;
            encoded.refused.into_iter().for_each(|(row, message)| refuse(row, message));
            points = encoded.points;
        }
        let deletes =
            if write.deletes.num_rows() > 0 { encode::ids(target, &write.deletes).map_err(invalid)? } else { Vec::new() };
        self.store.catch_up(&self.own(&target.name)).await?;
        let sorted = self.look_up(target, points, deletes).await?;
        let loses = |id: &Uuid| sorted.versions.get(id).is_some_and(|stored| *stored > write.version);

        let mut upserts = Vec::new();
        let mut payloads = Vec::new();
        for (row, mut point) in sorted.points {
            if loses(&point.id) {
                continue;
            }
            if point.vector.is_some() {
                match self.store.refusal(&point) {
                    None => upserts.push(point),
                    Some(message) => refuse(row, message),
                }
                continue;
            }
            match self.kept_probe(&point, sorted.kept.get(&point.id)) {
                Ok(probe) => {
                    point.payload.insert(PROBE.to_owned(), probe);
                    match self.store.refusal(&point) {
                        None => payloads.push((point.id, point.payload)),
                        Some(message) => refuse(row, message),
                    }
                }
                Err(message) => refuse(row, message),
            }
        }
        let is_there = |id: &Uuid| sorted.versions.contains_key(id);
        let mut deletes: Vec<Uuid> = sorted.deletes.into_iter().filter(|id| is_there(id) && !loses(id)).collect();
        if !self.store.replaces_whole() {
            // A point that is replaced is deleted first and gets another place in the engine: killed before the next flush, it is what
            // it was, and not the new vector with the old payload.
            deletes.extend(upserts.iter().map(|point: &Point| point.id).filter(is_there));
        }
        if !deletes.is_empty() {
            self.store.delete(&self.own(&target.name), deletes).await?;
        }
        if !upserts.is_empty() {
            self.store.upsert(&self.own(&target.name), upserts).await?;
        }
        if !payloads.is_empty() {
            self.store.replace_payloads(&self.own(&target.name), payloads).await?;
        }
        Ok(refused)
    }

    async fn look_up(&self, target: &Target, points: Vec<(usize, Point)>, deletes: Vec<Uuid>) -> Result<Sorted, SinkError> {
        let (whole, payload_only): (Vec<_>, Vec<_>) =
            points.iter().map(|(_, point)| point).partition(|point| point.vector.is_some());
        let ids = whole.iter().map(|point| point.id).chain(deletes.iter().copied()).collect();
        let stored = self.store.read(&self.own(&target.name), ids, Part::Version).await?;
        let mut versions: HashMap<Uuid, u64> = stored.iter().map(|point| (point.id, version_of(point))).collect();
        let mut kept = HashMap::new();
        if !payload_only.is_empty() {
            let ids = payload_only.iter().map(|point| point.id).collect();
            for point in self.store.read(&self.own(&target.name), ids, Part::All).await? {
                versions.insert(point.id, version_of(&point));
                kept.insert(point.id, point);
            }
        }
        Ok(Sorted { points, deletes, versions, kept })
    }

    /// The probe of the vector that is kept when a payload is replaced, or why no vector can be kept.
    fn kept_probe(&self, point: &Point, stored: Option<&Point>) -> Result<Value, String> {
        let Some(stored) = stored else {
            return Err("the row has no vector, and there is no point of which it could keep one".to_owned());
        };
        for name in [TEXT_HASH, MODEL] {
            let (old, new) = (stored.payload.get(name), point.payload.get(name));
            if old != new {
                let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or("none").to_owned();
                return Err(format!(
                    "the row has no vector, and the point's is of another text: {name} is {}, not {}",
                    text(old),
                    text(new)
                ));
            }
        }
        let probe = stored.payload.get(PROBE).filter(|_| encode::is_whole(stored, self.dimensions));
        probe.cloned().ok_or_else(|| "the row has no vector, and the point's was damaged when the process was killed".to_owned())
    }

    /// All points of the target for which some columns have the values of a row of `keys`.
    async fn held_by_scan(&self, target: &Target, keys: &RecordBatch, names: &[String]) -> Result<Vec<Point>, SinkError> {
        let wanted: HashSet<String> =
            encode::tuples(target, keys, names).map_err(invalid)?.iter().map(Value::to_string).collect();
        let mut held = Vec::new();
        let mut from = None;
        loop {
            let (points, next) = self.store.scroll(&self.own(&target.name), &target.table, from, SCROLL_PAGE, Part::All).await?;
            held.extend(points.into_iter().filter(|point| wanted.contains(&encode::tuple(point, names).to_string())));
            match next {
                Some(next) => from = Some(next),
                None => return Ok(held),
            }
        }
    }

    async fn nearest(
        &self,
        collection: &str,
        vector: &[f32],
        conditions: &[(String, String)],
        top: usize,
    ) -> Result<Vec<Map<String, Value>>, SinkError> {
        if vector.len() != self.dimensions || vector.iter().any(|x| !x.is_finite()) {
            let message =
                format!("the question's vector must have {} finite components, it has {}", self.dimensions, vector.len());
            return Err(invalid(message));
        }
        let vector = encode::unit(vector.to_vec());
        // Several chunks of one record may be near: ask for more until there are enough records, or no more points.
        let mut limit = top.saturating_mul(2).saturating_add(8);
        loop {
            let hits = self.store.nearest(&self.own(collection), vector.clone(), conditions.to_vec(), limit).await?;
            let are_all = hits.len() < limit;
            let mut seen = HashSet::new();
            let best: Vec<_> =
                hits.into_iter().filter(|(_, point)| seen.insert(point.payload.get(RECORD).cloned())).take(top).collect();
            if best.len() == top || are_all {
                return Ok(best.into_iter().map(|(score, point)| answer(score, point)).collect());
            }
            limit = limit.saturating_mul(4);
        }
    }
}

/// A hit as people and applications see it: the score, the table, the row's columns.
fn answer(score: f32, point: Point) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert(SCORE.to_owned(), Value::from(score));
    let own = [RECORD, VERSION, PROBE, CHUNK, CHUNKS, CHUNK_START, CHUNK_END, TEXT_HASH, MODEL];
    let shown = point.payload.into_iter().filter(|(name, _)| !own.contains(&name.as_str()));
    let (table, columns): (Vec<_>, Vec<_>) = shown.partition(|(name, _)| name == TABLE);
    object.extend(table);
    object.extend(columns);
    object
}

#[async_trait]
impl Sink for VectorsSink {
    fn kind(&self) -> SinkKind {
        SinkKind::Vectors
    }

    fn check(&self, target: &Target) -> Result<(), SinkError> {
        check(target)
    }

    /// The rows as they are: every value of a payload is read as it was written. Vectors are answered at length one, so compare without them.
    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let expected = target.stored_schema(self.dimensions);
        for field in expected.fields() {
            let found = rows.schema_ref().field_with_name(field.name()).ok().map(|found| found.data_type());
            if found != Some(field.data_type()) {
                let found = found.map_or_else(|| "missing".to_owned(), ToString::to_string);
                let message =
                    format!("collection {}: column {} must be {}, it is {found}", target.name, field.name(), field.data_type());
                return Err(invalid(message));
            }
        }
        Ok(rows.clone())
    }

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        self.store.hold(lease).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        self.store.release(lease).await
    }

    async fn prepare(&self, targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError> {
        if let Some(dimension) = dimensions.first() {
            return Err(SinkError::stop(
                SINK,
                format!("a vector index has no dimension views, so none named {}", dimension.name),
            ));
        }
        for target in targets {
            check(target)?;
            self.store.prepare(&self.own(&target.name)).await?;
            self.store.index(&self.own(&target.name), encode::filtered_columns(target)).await?;
        }
        Ok(())
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        self.store.checkpoints().await
    }

    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        for (index, write) in writes.iter().enumerate() {
            refused.extend(self.write_one(index, write).await?);
        }
        Ok(refused)
    }

    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        self.store.flush(checkpoints.to_vec()).await
    }

    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let names: Vec<String> = keys.schema_ref().fields().iter().map(|field| field.name().clone()).collect();
        let schema = target.stored_schema(self.dimensions);
        if let Some(name) = names.iter().find(|name| schema.field_with_name(name).is_err()) {
            return Err(invalid(format!("collection {} has no column {name} to find rows by", target.name)));
        }
        let is = |columns: &[String]| names.len() == columns.len() && columns.iter().all(|column| names.contains(column));
        let points = if keys.num_rows() == 0 || names.is_empty() {
            Vec::new()
        } else if is(&target.record_key) {
            let records = distinct(encode::records(target, keys).map_err(invalid)?);
            self.store.find(&self.own(&target.name), Some(&target.table), RECORD, records).await?
        } else if is(&[TEXT_HASH.to_owned()]) {
            let tuples = encode::tuples(target, keys, &names).map_err(invalid)?;
            let hashes = tuples.iter().filter_map(|tuple| tuple.get(0)?.as_str().map(str::to_owned)).collect();
            self.store.find(&self.own(&target.name), Some(&target.table), TEXT_HASH, distinct(hashes)).await?
        } else if is(&target.stored_key()) {
            let mut ids = encode::ids(target, keys).map_err(invalid)?;
            ids.sort_unstable();
            ids.dedup();
            self.store.read(&self.own(&target.name), ids, Part::All).await?
        } else {
            self.held_by_scan(target, keys, &names).await?
        };
        encode::rows(target, self.dimensions, &points).map_err(invalid)
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        let from = after.map(Uuid::parse_str).transpose();
        let from =
            from.map_err(|e| invalid(format!("'{}' is no place in a list of points", after.unwrap_or_default())).because(e))?;
        let (points, next) = self.store.scroll(&self.own(&target.name), &target.table, from, limit.max(1), Part::Payload).await?;
        let keys = encode::record_keys(target, &points).map_err(invalid)?;
        Ok(Page { keys, next: next.map(|id| id.to_string()) })
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        // Points in one page: payloads alone, some hundred bytes each.
        const PAGE: usize = 4096;
        let (mut newest, mut from) = (None, None);
        loop {
            let (points, next) = self.store.scroll(&self.own(&target.name), &target.table, from, PAGE, Part::Payload).await?;
            newest = points.iter().map(version_of).max().max(newest);
            match next {
                Some(_) => from = next,
                None => return Ok(newest),
            }
        }
    }

    async fn query(&self, query: &Query) -> Result<Vec<Map<String, Value>>, SinkError> {
        match query {
            Query::Text(_) => {
                Err(invalid("a vector index takes no statements: ask for what is near to a text (search)".to_owned()))
            }
            Query::Nearest { top: 0, .. } => Ok(Vec::new()),
            Query::Nearest { collection, vector, conditions, top } => self.nearest(collection, vector, conditions, *top).await,
        }
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        self.store.generations().await
    }

    fn of_model(&self, model: &str, dimensions: usize) -> Result<Arc<dyn Sink>, SinkError> {
        if dimensions == 0 {
            return Err(SinkError::permanent(SINK, format!("model {model} has vectors of no length")));
        }
        Ok(Arc::new(Self { store: self.store.clone(), model: model.to_owned(), dimensions }))
    }

    async fn promote(&self, target: &str, tables: &[String]) -> Result<(), SinkError> {
        self.store.promote(&self.own(target), tables.to_vec()).await
    }

    async fn drop_generation(&self, target: &str, model: &str) -> Result<(), SinkError> {
        self.store.drop_generation(target, model).await
    }

    async fn vectors(&self, hashes: Vec<String>) -> Result<HashMap<String, Vec<f32>>, SinkError> {
        let mut found = HashMap::new();
        for collection in self.store.of_model(&self.model).await? {
            let missing: Vec<String> = hashes.iter().filter(|hash| !found.contains_key(*hash)).cloned().collect();
            if missing.is_empty() {
                break;
            }
            for point in self.store.find(&collection, None, TEXT_HASH, distinct(missing)).await? {
                let whole = encode::is_whole(&point, collection.dimensions);
                if let (true, Some(Value::String(hash)), Some(vector)) = (whole, point.payload.get(TEXT_HASH), point.vector) {
                    found.entry(hash.clone()).or_insert(vector);
                }
            }
        }
        Ok(found)
    }

    async fn bytes(&self, target: &str, model: &str) -> Result<Option<u64>, SinkError> {
        self.store.bytes(target, model).await
    }

    async fn give_way(&self) -> Result<(), SinkError> {
        self.store.give_way().await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.store.close().await
    }
}

fn distinct(mut values: Vec<String>) -> Vec<String> {
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests;
