//! A Qdrant server as a [`Store`], over gRPC.
//!
//! What the server asks of its user, and how it is met here:
//! - An acknowledgement means "in the log" unless a write says `wait`: every write does, so what is written is durable, and a flush
//!   has nothing left to do but the checkpoints.
//! - Two operations on one id in one request have no order: no request names an id twice.
//! - A read may ask a replica that is behind: reads ask the majority, writes are ordered by a leader.
//! - A server in strict mode takes filters over indexed entries only, and smaller requests: entries are indexed before there are
//!   points, and requests are cut to its limits.

mod client;
mod collections;
mod convert;
mod records;
mod search;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use client::Client;
use collections::{Limits, Shape, index_of};
use convert::{
    any_of, field_type, grouped, id, is, ordered, own_writes, parts, payload_size, point, retrieved, size, these, uuid,
};
use futures::{StreamExt, TryStreamExt, stream};
use qdrant_client::qdrant::points_update_operation::{Operation, OverwritePayload};
use qdrant_client::qdrant::{
    DeletePoints, FieldType, Filter, GetPoints, HealthCheckRequest, PointId, PointStruct, PointsUpdateOperation, ScrollPoints,
    UpdateBatchPoints, UpdateResult, UpdateStatus, UpsertPoints, WriteOrderingType,
};
use uuid::Uuid;

use super::config::{Collection, QdrantOptions, SINK};
use super::encode::{RECORD, TABLE};
use super::moves;
use super::remote::{self, Kind, Record, founded, lease_id, mark_before, record_id};
use super::store::{Indexed, Part, Payload, Point, Store};
use crate::mapping::target::TEXT_HASH;
use crate::sinks::{Checkpoint, Class, Generation, Lease, Role, SinkError, Work};

/// The first release that compares before it writes (`update_filter`): an older one would write anyway.
const OLDEST: (u64, u64) = (1, 16);

/// Bytes in one write: what proxies let through, enough that their number costs nothing, and few enough that the server soon has the first.
const BYTES_A_WRITE: usize = 1024 * 1024;

/// Writes of one batch that are under way together: the server works on one while the next is encoded and sent.
const WRITES_AT_ONCE: usize = 4;

/// Payload entries that are looked up by value.
const INDEXED: [&str; 3] = [TABLE, RECORD, TEXT_HASH];

/// A server.
#[derive(Debug)]
pub(crate) struct QdrantStore {
    client: Client,
    options: QdrantOptions,
    /// What is known of collections that are there.
    known: Mutex<HashMap<String, Limits>>,
    /// Generations that were completely made.
    made: Mutex<HashSet<String>>,
    /// The run that this process is.
    token: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl QdrantStore {
    /// Reaches the server, with the key.
    pub(crate) async fn open(options: QdrantOptions) -> Result<Self, SinkError> {
        let client = Client::new(&options)?;
        let answer = client.about().health_check(HealthCheckRequest {}).await;
        let version = client.answer("reach the server", answer)?.version;
        if is_too_old(&version) {
            let (major, minor) = OLDEST;
            let message = format!(
                "the server at {} is Qdrant {version}, which writes a checkpoint without comparing it first: use {major}.{minor} or newer",
                client.address
            );
            return Err(SinkError::stop(SINK, message));
        }
        let (known, made, token) = (Mutex::default(), Mutex::default(), Mutex::default());
        let store = Self { client, options, known, made, token };
        // The health check needs no key.
        store.aliases().await?;
        Ok(store)
    }

    fn place(&self) -> &str {
        &self.client.address
    }

    /// Whether a write was done, and not only received.
    fn is_done(&self, what: &str, result: Option<&UpdateResult>) -> Result<(), SinkError> {
        match result.map(UpdateResult::status) {
            Some(UpdateStatus::Completed) => Ok(()),
            status => {
                let message =
                    format!("cannot {what} at {}: the server received it and answered {status:?} in place of done", self.place());
                Err(SinkError::transient(SINK, message))
            }
        }
    }

    /// The limits of a generation; none if nobody made it.
    async fn limits(&self, collection: &Collection) -> Result<Option<Limits>, SinkError> {
        let name = collection.generation();
        if !lock(&self.made).contains(&name) {
            if self.record(Kind::Generation, record_id(Kind::Generation, &name)).await?.is_none() || !self.exists(&name).await? {
                return Ok(None);
            }
            lock(&self.made).insert(name.clone());
        }
        self.limits_of(&name).await
    }

    async fn written(&self, collection: &Collection) -> Result<Limits, SinkError> {
        let message = || format!("collection {} was not prepared for {}", collection.name, collection.model);
        self.limits(collection).await?.ok_or_else(|| SinkError::permanent(SINK, message()))
    }

    async fn upsert_some(&self, collection: &Collection, points: Vec<Point>) -> Result<(), SinkError> {
        let points: Vec<PointStruct> = points.into_iter().filter_map(point).collect();
        let request = UpsertPoints {
            collection_name: collection.generation(),
            wait: Some(true),
            points,
            ordering: ordered(WriteOrderingType::Medium),
            ..UpsertPoints::default()
        };
        let what = format!("write to collection {}", collection.name);
        let answer = self.client.points().upsert(request).await;
        self.is_done(&what, self.client.answer(&what, answer)?.result.as_ref())
    }

    async fn replace_some(&self, collection: &Collection, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError> {
        let operation = |(id, payload): (Uuid, Payload)| PointsUpdateOperation {
            operation: Some(Operation::OverwritePayload(OverwritePayload {
                payload: convert::payload(payload),
                points_selector: these([id]),
                ..OverwritePayload::default()
            })),
        };
        let request = UpdateBatchPoints {
            collection_name: collection.generation(),
            wait: Some(true),
            operations: payloads.into_iter().map(operation).collect(),
            ordering: ordered(WriteOrderingType::Medium),
            timeout: None,
        };
        let what = format!("write payloads of collection {}", collection.name);
        let answer = self.client.points().update_batch(request).await;
        let done = self.client.answer(&what, answer)?;
        done.result.iter().try_for_each(|result| self.is_done(&what, Some(result)))
    }

    async fn page(&self, request: ScrollPoints, part: Part) -> Result<(Vec<Point>, Option<PointId>), SinkError> {
        let (with_payload, with_vectors) = parts(part);
        let what = format!("read collection {}", request.collection_name);
        let request = ScrollPoints { with_payload, with_vectors, read_consistency: own_writes(), ..request };
        let answer = self.client.points().scroll(request).await;
        let Some(page) = self.client.found(&what, answer)? else { return Ok((Vec::new(), None)) };
        Ok((page.result.into_iter().filter_map(retrieved).collect(), page.next_page_offset))
    }

    async fn lease(&self, work: Work) -> Result<Option<Lease>, SinkError> {
        self.record(Kind::Lease, lease_id(work)).await?.map(|record| record.read()).transpose()
    }
}

#[async_trait]
impl Store for QdrantStore {
    async fn prepare(&self, collection: &Collection) -> Result<(), SinkError> {
        let name = collection.generation();
        self.make_records().await?;
        if !self.exists(&name).await? {
            self.forget_unfounded().await?;
            let shape = Shape::of_points(collection.dimensions, self.options.on_disk, self.options.quantization);
            self.make(&name, &shape).await?;
        }
        let info = self.info(&name).await?.unwrap_or_default();
        for entry in INDEXED.iter().filter(|entry| index_of(&info, entry).is_none()) {
            self.index_entry(&name, entry, FieldType::Keyword).await?;
        }
        let record = Record::of_generation(collection)?;
        if self.record(Kind::Generation, record.id()).await?.is_none() {
            self.move_record(&record, "").await?;
        }
        let aliases = self.aliases().await?;
        if aliases.serving(&collection.name).is_none() {
            self.serve(&aliases, collection).await?;
        }
        Ok(())
    }

    async fn index(&self, collection: &Collection, columns: Vec<(String, Indexed)>) -> Result<(), SinkError> {
        let name = collection.generation();
        let info = self.info(&name).await?.unwrap_or_default();
        for (column, indexed) in columns {
            let Ok(path) = convert::path(&column) else { continue };
            if index_of(&info, &path).is_some() {
                continue;
            }
            match self.index_entry(&name, &path, field_type(indexed)).await {
                Err(error) if error.class == Class::Permanent => {
                    tracing::warn!(%error, "questions that name this column will be slow, or refused by a server in strict mode");
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn replaces_whole(&self) -> bool {
        true
    }

    async fn is_prepared(&self, collection: &Collection) -> Result<bool, SinkError> {
        Ok(self.limits(collection).await?.is_some())
    }

    async fn read(&self, collection: &Collection, ids: Vec<Uuid>, part: Part) -> Result<Vec<Point>, SinkError> {
        let (with_payload, with_vectors) = parts(part);
        let mut points = Vec::with_capacity(ids.len());
        for ids in ids.chunks(Limits::USUAL.page) {
            let request = GetPoints {
                collection_name: collection.generation(),
                ids: ids.iter().copied().map(id).collect(),
                with_payload: with_payload.clone(),
                with_vectors: with_vectors.clone(),
                read_consistency: own_writes(),
                ..GetPoints::default()
            };
            let answer = self.client.points().get(request).await;
            let found = self.client.found(&format!("read collection {}", collection.name), answer)?;
            points.extend(found.into_iter().flat_map(|found| found.result).filter_map(retrieved));
        }
        Ok(points)
    }

    async fn of_model(&self, model: &str) -> Result<Vec<Collection>, SinkError> {
        Ok(self.all().await?.into_iter().filter(|one| one.model == model).collect())
    }

    async fn find(
        &self,
        collection: &Collection,
        table: Option<&str>,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError> {
        let Some(limits) = self.limits(collection).await? else { return Ok(Vec::new()) };
        let mut points = Vec::new();
        for values in values.chunks(limits.values) {
            let mut conditions = vec![any_of(field, values.to_vec())];
            conditions.extend(table.map(|table| is(TABLE, table)));
            let filter = Some(Filter::must(conditions));
            let mut offset = None;
            loop {
                let request = ScrollPoints {
                    collection_name: collection.generation(),
                    filter: filter.clone(),
                    offset,
                    limit: u32::try_from(limits.page).ok(),
                    ..ScrollPoints::default()
                };
                let (found, next) = self.page(request, Part::All).await?;
                points.extend(found);
                offset = next;
                if offset.is_none() {
                    break;
                }
            }
        }
        Ok(points)
    }

    async fn scroll(
        &self,
        collection: &Collection,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError> {
        let Some(limits) = self.limits(collection).await? else { return Ok((Vec::new(), None)) };
        let request = ScrollPoints {
            collection_name: collection.generation(),
            filter: Some(Filter::must([is(TABLE, table)])),
            offset: from.map(id),
            limit: u32::try_from(limit.min(limits.page)).ok(),
            ..ScrollPoints::default()
        };
        let (points, next) = self.page(request, part).await?;
        Ok((points, uuid(next)))
    }

    async fn upsert(&self, collection: &Collection, points: Vec<Point>) -> Result<(), SinkError> {
        let limits = self.written(collection).await?;
        let groups = grouped(points, limits.points, BYTES_A_WRITE, size);
        let writes = stream::iter(groups).map(|points| self.upsert_some(collection, points));
        writes.buffer_unordered(WRITES_AT_ONCE).try_collect().await
    }

    async fn replace_payloads(&self, collection: &Collection, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError> {
        let limits = self.written(collection).await?;
        let groups = grouped(payloads, limits.points, BYTES_A_WRITE, |(_, payload)| 80 + payload_size(payload));
        let writes = stream::iter(groups).map(|payloads| self.replace_some(collection, payloads));
        writes.buffer_unordered(WRITES_AT_ONCE).try_collect().await
    }

    async fn delete(&self, collection: &Collection, ids: Vec<Uuid>) -> Result<(), SinkError> {
        let what = format!("delete from collection {}", collection.name);
        for ids in ids.chunks(Limits::USUAL.page) {
            let request = DeletePoints {
                collection_name: collection.generation(),
                wait: Some(true),
                points: these(ids.iter().copied()),
                ordering: ordered(WriteOrderingType::Medium),
                ..DeletePoints::default()
            };
            let answer = self.client.points().delete(request).await;
            self.is_done(&what, self.client.answer(&what, answer)?.result.as_ref())?;
        }
        Ok(())
    }

    async fn nearest(
        &self,
        collection: &Collection,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError> {
        self.search(collection, vector, &conditions, limit).await
    }

    /// What was written is durable already. Each checkpoint is compared once more by the server as it moves, so of two runs that move
    /// them at the same time one is told that it lost.
    async fn flush(&self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError> {
        if checkpoints.is_empty() {
            return Ok(());
        }
        let stored = self.checkpoints().await?;
        moves::check_moves(&stored, &checkpoints, self.place())?;
        let moved: Vec<Checkpoint> = checkpoints.into_iter().filter(|checkpoint| !stored.contains(checkpoint)).collect();
        for checkpoint in &moved {
            self.move_record(&Record::of_checkpoint(checkpoint)?, &mark_before(checkpoint)).await?;
        }
        if moved.is_empty() {
            return Ok(());
        }
        let now = self.checkpoints().await?;
        match moved.iter().find(|checkpoint| !now.contains(checkpoint)) {
            Some(lost) => {
                let there = now.iter().find(|now| now.lane == lost.lane).map_or(0, |now| now.revision);
                Err(moves::moved(lost, there, self.place()))
            }
            None => Ok(()),
        }
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        let generations = self.all().await?;
        if generations.is_empty() {
            return Ok(Vec::new());
        }
        let mut checkpoints = Vec::new();
        for record in self.records(Kind::Checkpoint).await? {
            checkpoints.push(record.read()?);
        }
        checkpoints.sort_by_key(|one: &Checkpoint| one.lane.name());
        Ok(founded(checkpoints, &generations))
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        let all = self.all().await?;
        if all.is_empty() {
            return Ok(Vec::new());
        }
        let (aliases, lease) = (self.aliases().await?, self.lease(Work::Reembed).await?);
        let beside = remote::is_rebuilt_by_another(lease.as_ref(), lock(&self.token).as_deref());
        let generation = |one: Collection| {
            let own = one.generation();
            let role = match (aliases.serving(&one.name), aliases.kept(&one.name)) {
                (Some(serving), _) if serving == own => Role::Serving,
                (_, Some(kept)) if kept == own => Role::Kept,
                _ => Role::Building,
            };
            let taken = beside && role != Role::Serving;
            Generation { target: one.name, model: one.model, dimensions: one.dimensions, role, taken }
        };
        Ok(all.into_iter().map(generation).collect())
    }

    async fn promote(&self, collection: &Collection, tables: Vec<String>) -> Result<(), SinkError> {
        let (own, all, aliases) = (collection.generation(), self.all().await?, self.aliases().await?);
        if !all.contains(collection) {
            return Err(moves::no_generation(collection));
        }
        let serving = aliases.serving(&collection.name);
        if serving == Some(own.as_str()) {
            return Ok(());
        }
        let serving = all.iter().find(|one| serving == Some(one.generation().as_str()));
        let model = serving.map(|one| one.model.as_str());
        moves::check_promotion(collection, model, &tables, &self.checkpoints().await?)?;
        self.serve(&aliases, collection).await
    }

    async fn drop_generation(&self, name: &str, model: &str) -> Result<(), SinkError> {
        let aliases = self.aliases().await?;
        for collection in self.all().await?.iter().filter(|one| one.name == name && one.model == model) {
            let own = collection.generation();
            if aliases.serving(name) == Some(own.as_str()) {
                return Err(moves::is_serving(name, model));
            }
            // When the collection is gone, what is recorded of it says nothing, whatever happens then.
            self.remove(&own).await?;
            lock(&self.made).remove(&own);
            self.forget_unfounded().await?;
        }
        Ok(())
    }

    async fn bytes(&self, _name: &str, _model: &str) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        *lock(&self.token) = Some(lease.token.clone());
        if self.limits_of(records::RECORDS).await?.is_none() {
            self.make_records().await?;
        }
        let expected = remote::claim(self.lease(lease.work).await?.as_ref(), lease, self.place())?;
        self.move_record(&Record::of_lease(lease)?, expected.as_deref().unwrap_or_default()).await?;
        remote::confirm(self.lease(lease.work).await?.as_ref(), lease, self.place())
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        match self.record(Kind::Lease, lease_id(lease.work)).await? {
            Some(record) if record.read::<Lease>()?.token == lease.token => self.forget_if(&record, &record.mark).await,
            _ => Ok(()),
        }
    }

    async fn give_way(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Whether the release is older than [`OLDEST`]; one that is not numbered is taken for a new one.
fn is_too_old(version: &str) -> bool {
    let mut parts = version.trim_start_matches('v').split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor) < OLDEST,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::is_too_old;

    #[test]
    fn releases_that_do_not_compare_are_too_old() {
        for (version, old) in [
            ("1.15.9", true),
            ("v0.11.7", true),
            ("1.16.0", false),
            ("1.20.1-dev", false),
            ("2.0.0", false),
            ("dev", false),
            ("", false),
        ] {
            assert_eq!(is_too_old(version), old, "{version}");
        }
    }
}
