//! One namespace: records in the vector engine, a log with numbers, and writes that become visible late.

use std::collections::{BTreeMap, HashMap, VecDeque};

use qdrant_edge::{
    Distance, EdgeConfig, EdgeShard, EdgeVectorParams, Filter, NamedQuery, PayloadOps, PointId, PointInsertOperations,
    PointOperations, PointStructPersisted, QueryEnum, ScrollRequest, SearchParams, SearchRequest, SetPayloadOp, UpdateOperation,
    VectorStructPersisted, WalOptions, WithPayloadInterface, WithVector,
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::filter::entry;

const ID: &str = "id";
const VALUES: &str = "values";

/// A record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) id: String,
    pub(crate) values: Vec<f32>,
    pub(crate) metadata: Map<String, Value>,
}

impl Record {
    pub(crate) fn json(&self, values: bool, metadata: bool) -> Value {
        let mut object = json!({"id": self.id});
        object["values"] = if values { json!(self.values) } else { json!([]) };
        if metadata && !self.metadata.is_empty() {
            object["metadata"] = Value::Object(self.metadata.clone());
        }
        object
    }
}

/// A write.
#[derive(Debug, Clone)]
pub(crate) enum Write {
    Upsert(Vec<Record>),
    Delete(Vec<String>),
    DeleteWhere(Filter),
    DeleteAll,
    Update { id: String, values: Option<Vec<f32>>, set: Map<String, Value> },
    UpdateWhere(Filter, Map<String, Value>),
}

/// A namespace.
pub(crate) struct Space {
    engine: EdgeShard,
    _directory: TempDir,
    /// The engine's number of each record that is visible.
    numbers: BTreeMap<String, u64>,
    next: u64,
    /// The number of the last write.
    pub(crate) written: u64,
    /// The number of the last write that is visible.
    pub(crate) indexed: u64,
    /// Writes that are not, each with the reads until it is.
    waiting: VecDeque<(u32, Write)>,
}

impl std::fmt::Debug for Space {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("records", &self.numbers.len()).finish_non_exhaustive()
    }
}

impl Space {
    pub(crate) fn new(dimensions: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let vectors = EdgeVectorParams::builder(dimensions, Distance::Cosine).build();
        let config = EdgeConfig {
            vectors: HashMap::from([(String::new(), vectors)]),
            wal_options: Some(WalOptions { segment_capacity: 4 << 20, ..WalOptions::default() }),
            ..EdgeConfig::default()
        };
        let engine = EdgeShard::new(directory.path(), config).unwrap();
        // The numbers begin where a reader that takes "no number" for 0 would see nothing.
        Self {
            engine,
            _directory: directory,
            numbers: BTreeMap::new(),
            next: 0,
            written: 10,
            indexed: 10,
            waiting: VecDeque::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Takes a write, visible after so many reads, and answers its number.
    pub(crate) fn write(&mut self, write: Write, lag: u32) -> u64 {
        self.written += 1;
        if lag == 0 && self.waiting.is_empty() {
            self.apply(write);
        } else {
            self.waiting.push_back((lag, write));
        }
        self.written
    }

    /// A read has been answered: what waited for it is visible to the next.
    pub(crate) fn was_read(&mut self) {
        self.waiting.iter_mut().for_each(|(reads, _)| *reads = reads.saturating_sub(1));
        while let Some((_, write)) = self.waiting.pop_front_if(|(reads, _)| *reads == 0) {
            self.apply(write);
        }
    }

    /// Everything that was written is visible.
    pub(crate) fn catch_up(&mut self) {
        while let Some((_, write)) = self.waiting.pop_front() {
            self.apply(write);
        }
    }

    fn apply(&mut self, write: Write) {
        self.indexed += 1;
        match write {
            Write::Upsert(records) => self.put(records),
            Write::Delete(ids) => self.delete(&ids),
            Write::DeleteWhere(filter) => self.delete(&self.matching(filter)),
            Write::DeleteAll => self.delete(&self.numbers.keys().cloned().collect::<Vec<_>>()),
            Write::Update { id, values, set } => {
                let found = self.fetch(std::slice::from_ref(&id)).pop();
                if let (Some(found), Some(values)) = (&found, values) {
                    self.put(vec![Record { values, ..found.clone() }]);
                }
                if found.is_some() {
                    self.set(&[id], set);
                }
            }
            Write::UpdateWhere(filter, set) => self.set(&self.matching(filter), set),
        }
    }

    fn put(&mut self, records: Vec<Record>) {
        let mut points = Vec::new();
        for record in records {
            let number = *self.numbers.entry(record.id.clone()).or_insert_with(|| {
                self.next += 1;
                self.next
            });
            let mut payload = Map::new();
            payload.insert(ID.to_owned(), Value::from(record.id));
            payload.insert(VALUES.to_owned(), json!(record.values));
            payload.extend(record.metadata.into_iter().map(|(name, value)| (entry(&name), value)));
            points.push(PointStructPersisted {
                id: PointId::NumId(number),
                vector: VectorStructPersisted::Single(record.values),
                payload: Some(qdrant_edge::Payload(payload)),
            });
        }
        if !points.is_empty() {
            let upsert = PointOperations::UpsertPoints(PointInsertOperations::PointsList(points));
            self.engine.update(UpdateOperation::PointOperation(upsert)).unwrap();
        }
    }

    fn delete(&mut self, ids: &[String]) {
        let ids: Vec<PointId> = ids.iter().filter_map(|id| self.numbers.remove(id)).map(PointId::NumId).collect();
        if !ids.is_empty() {
            self.engine.update(UpdateOperation::PointOperation(PointOperations::DeletePoints { ids })).unwrap();
        }
    }

    fn set(&mut self, ids: &[String], set: Map<String, Value>) {
        let points: Vec<PointId> = ids.iter().filter_map(|id| self.numbers.get(id)).map(|n| PointId::NumId(*n)).collect();
        if points.is_empty() || set.is_empty() {
            return;
        }
        let payload = set.into_iter().map(|(name, value)| (entry(&name), value)).collect();
        let set = SetPayloadOp { payload: qdrant_edge::Payload(payload), points: Some(points), filter: None, key: None };
        self.engine.update(UpdateOperation::PayloadOperation(PayloadOps::SetPayload(set))).unwrap();
    }

    /// Ids of records that a filter takes, in their order.
    pub(crate) fn matching(&self, filter: Filter) -> Vec<String> {
        let request = ScrollRequest {
            offset: None,
            limit: Some(usize::MAX - 1),
            filter: Some(filter),
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: WithVector::Bool(false),
            order_by: None,
        };
        let (found, _) = self.engine.scroll(request).unwrap();
        let mut ids: Vec<String> = found.into_iter().map(|found| record(found.payload.unwrap().0).id).collect();
        ids.sort();
        ids
    }

    /// Those of the records that are visible.
    pub(crate) fn fetch(&self, ids: &[String]) -> Vec<Record> {
        let numbers: Vec<PointId> = ids.iter().filter_map(|id| self.numbers.get(id)).map(|n| PointId::NumId(*n)).collect();
        if numbers.is_empty() {
            return Vec::new();
        }
        let with = Some(WithPayloadInterface::Bool(true));
        let found = self.engine.retrieve(&numbers, with, Some(WithVector::Bool(false))).unwrap();
        found.into_iter().map(|found| record(found.payload.unwrap().0)).collect()
    }

    /// Ids that begin with `prefix` and come after `after`, in bytewise order.
    pub(crate) fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<String> {
        let ids = self.numbers.keys().filter(|id| id.starts_with(prefix) && after.is_none_or(|after| id.as_str() > after));
        ids.take(limit).cloned().collect()
    }

    /// The nearest records, best first.
    pub(crate) fn nearest(&self, vector: Vec<f32>, filter: Option<Filter>, top: usize) -> Vec<(f32, Record)> {
        let request = SearchRequest {
            query: QueryEnum::Nearest(NamedQuery::default_dense(vector)),
            filter,
            params: Some(SearchParams { exact: true, ..SearchParams::default() }),
            limit: top,
            offset: 0,
            with_payload: Some(WithPayloadInterface::Bool(true)),
            with_vector: None,
            score_threshold: None,
        };
        let found = self.engine.search(request).unwrap();
        found.into_iter().map(|hit| (hit.score, record(hit.payload.unwrap().0))).collect()
    }
}

fn record(payload: Map<String, Value>) -> Record {
    let mut made = Record { id: String::new(), values: Vec::new(), metadata: Map::new() };
    for (name, value) in payload {
        match name.as_str() {
            ID => made.id = value.as_str().unwrap().to_owned(),
            VALUES => made.values = serde_json::from_value(value).unwrap(),
            other => {
                made.metadata.insert(other.strip_prefix("m:").unwrap().to_owned(), value);
            }
        }
    }
    made
}
