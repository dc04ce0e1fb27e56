//! [`Store`] on Pinecone: collections and points on top of indexes, namespaces and records.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use uuid::Uuid;

use super::client::Client;
use super::encode::{self, IDS_A_LIST};
use super::index::{Fresh, Index};
use super::records::{self, KIND, KINDS, Known, RECORDS};
use super::{control, encode::Record};
use crate::sinks::lease::now_ms;
use crate::sinks::vectors::config::{Collection, PineconeOptions, SINK};
use crate::sinks::vectors::encode::TABLE;
use crate::sinks::vectors::moves;
use crate::sinks::vectors::store::{Part, Payload, Point, Store};
use crate::sinks::{Checkpoint, Generation, Lease, SinkError};

/// Pinecone, by its data planes.
#[derive(Debug)]
pub(crate) struct PineconeStore {
    client: Arc<Client>,
    options: PineconeOptions,
    /// The configured index, which also holds what is known of all generations.
    own: Arc<Index>,
    /// Indexes with vectors of other lengths.
    others: Mutex<HashMap<usize, Arc<Index>>>,
    /// Generations that were seen.
    prepared: Mutex<HashSet<String>>,
    /// Where a list goes on, by namespace and the id that is next there.
    pages: Mutex<HashMap<(String, Uuid), String>>,
    /// The claim that this run wrote last.
    claim: Mutex<Option<Lease>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl PineconeStore {
    /// Finds or makes the index, and reads what it holds.
    ///
    /// # Errors
    /// [`crate::sinks::Class::Stop`] when the index is of another kind, or has vectors of another length and is not this program's.
    pub(crate) async fn open(options: PineconeOptions, dimensions: usize) -> Result<Self, SinkError> {
        let client = Arc::new(Client::new(&options)?);
        let own = control::find_or_make(&client, &options, &options.index, dimensions).await?;
        let store = Self::of(client, own, options);
        let known = store.known(Fresh::Begun).await?;
        if store.own.dimensions != dimensions && known.collections().is_empty() {
            let message = format!(
                "index {} has vectors of {} components, and the model makes {dimensions}: name another index in `vectors.url`, or \
                 delete this one",
                store.own.name, store.own.dimensions
            );
            return Err(SinkError::stop(SINK, message));
        }
        Ok(store)
    }

    /// What is there, without making anything; none when there is no index.
    pub(crate) async fn find(options: PineconeOptions) -> Result<Option<Self>, SinkError> {
        let client = Arc::new(Client::new(&options)?);
        let found = control::find(&client, &options.index).await?;
        Ok(found.map(|own| Self::of(client, own, options)))
    }

    fn of(client: Arc<Client>, own: Index, options: PineconeOptions) -> Self {
        Self {
            client,
            own: Arc::new(own),
            others: Mutex::default(),
            prepared: Mutex::default(),
            pages: Mutex::default(),
            claim: Mutex::default(),
            options,
        }
    }

    fn place(&self) -> String {
        format!("index {}", self.own.name)
    }

    /// What the namespace of records holds.
    async fn known(&self, fresh: Fresh) -> Result<Known, SinkError> {
        let kinds = KINDS.map(str::to_owned);
        Known::read(&self.own.any_of(RECORDS, fresh, KIND, &kinds, None).await?)
    }

    /// Writes records, together.
    async fn note(&self, records: Vec<String>) -> Result<(), SinkError> {
        self.own.upsert(RECORDS, records).await
    }

    /// The index with vectors of this length; none when nobody made it.
    async fn index_of(&self, dimensions: usize) -> Result<Option<Arc<Index>>, SinkError> {
        if dimensions == self.own.dimensions {
            return Ok(Some(self.own.clone()));
        }
        if let Some(index) = locked(&self.others).get(&dimensions) {
            return Ok(Some(index.clone()));
        }
        let name = control::sibling(&self.own.name, dimensions);
        control::find(&self.client, &name).await?.map(|found| self.adopt(found, dimensions)).transpose()
    }

    async fn make_index(&self, dimensions: usize) -> Result<Arc<Index>, SinkError> {
        if let Some(index) = self.index_of(dimensions).await? {
            return Ok(index);
        }
        let name = control::sibling(&self.own.name, dimensions);
        let made = control::find_or_make(&self.client, &self.options, &name, dimensions).await?;
        self.adopt(made, dimensions)
    }

    fn adopt(&self, index: Index, dimensions: usize) -> Result<Arc<Index>, SinkError> {
        if index.dimensions != dimensions {
            let message = format!(
                "index {} has vectors of {} components, and is needed for vectors of {dimensions}: delete it",
                index.name, index.dimensions
            );
            return Err(SinkError::stop(SINK, message));
        }
        let index = Arc::new(index);
        locked(&self.others).insert(dimensions, index.clone());
        Ok(index)
    }

    /// The index of a collection that was prepared.
    async fn changing(&self, collection: &Collection) -> Result<Arc<Index>, SinkError> {
        self.index_of(collection.dimensions).await?.ok_or_else(|| moves::no_generation(collection))
    }

    /// Deletes what a generation has, whose record says that it is going, and at last the record.
    async fn remove(&self, collection: &Collection, known: &Known) -> Result<(), SinkError> {
        locked(&self.prepared).remove(&collection.generation());
        self.own.delete(RECORDS, &known.checkpoint_ids(collection)).await?;
        if let Some(index) = self.index_of(collection.dimensions).await? {
            index.remove(&collection.generation()).await?;
        }
        self.own.delete(RECORDS, &[records::generation_id(collection)]).await
    }

    /// No answers may mean that the collection is not there, or that a condition names a column that no point has.
    async fn explain(
        &self,
        index: Option<&Index>,
        collection: &Collection,
        conditions: &[(String, String)],
    ) -> Result<(), SinkError> {
        let known = self.known(Fresh::Own).await?;
        let Some(index) = index.filter(|_| known.has(collection)) else {
            return Err(moves::unknown(collection, known.serving(&collection.name), &known.names()));
        };
        let (namespace, any) = (collection.generation(), encode::constant(collection.dimensions));
        for (name, _) in conditions {
            if !index.nearest(&namespace, &any, Some(encode::having(name)), 1).await?.is_empty() {
                continue;
            }
            let some = index.nearest(&namespace, &any, None, 1).await?;
            let columns = some.into_iter().flat_map(|record| encode::payload(record.metadata));
            let columns: Vec<String> = columns.map(|(name, _)| name).filter(|name| !name.starts_with('_')).collect();
            if !columns.is_empty() {
                let message =
                    format!("no point of collection {} has a column {name}; there are {}", collection.name, columns.join(", "));
                return Err(SinkError::permanent(SINK, message));
            }
        }
        Ok(())
    }
}

fn points(records: Vec<Record>) -> Vec<Point> {
    records.into_iter().filter_map(encode::point).collect()
}

fn texts(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}

fn is_of(point: &Point, table: &str) -> bool {
    point.payload.get(TABLE).and_then(serde_json::Value::as_str) == Some(table)
}

#[async_trait]
impl Store for PineconeStore {
    async fn prepare(&self, collection: &Collection) -> Result<(), SinkError> {
        let known = self.known(Fresh::Now).await?;
        let (namespace, dimensions) = (collection.generation(), self.own.dimensions);
        if known.is_dropped(collection) {
            self.remove(collection, &known).await?;
        }
        let index = self.make_index(collection.dimensions).await?;
        if !index.has(&namespace).await? {
            // Checkpoints of a namespace that somebody deleted must not come to stand on the new, empty one.
            self.own.delete(RECORDS, &known.checkpoint_ids(collection)).await?;
            index.make(&namespace).await?;
        }
        let mut noted = Vec::new();
        if !known.has(collection) {
            noted.push(records::of_generation(collection, false, dimensions)?);
        }
        if let Some(pointer) = known.adopted(collection) {
            noted.push(records::of_pointer(&pointer, dimensions)?);
        }
        self.note(noted).await?;
        locked(&self.prepared).insert(namespace);
        Ok(())
    }

    fn replaces_whole(&self) -> bool {
        true
    }

    fn refusal(&self, point: &Point) -> Option<String> {
        encode::refusal(point)
    }

    async fn is_prepared(&self, collection: &Collection) -> Result<bool, SinkError> {
        let namespace = collection.generation();
        if locked(&self.prepared).contains(&namespace) {
            return Ok(true);
        }
        let is_there = self.known(Fresh::Begun).await?.has(collection);
        if is_there {
            locked(&self.prepared).insert(namespace);
        }
        Ok(is_there)
    }

    async fn catch_up(&self, collection: &Collection) -> Result<(), SinkError> {
        match self.index_of(collection.dimensions).await? {
            Some(index) => index.catch_up(&collection.generation()).await,
            None => Ok(()),
        }
    }

    async fn read(&self, collection: &Collection, ids: Vec<Uuid>, _part: Part) -> Result<Vec<Point>, SinkError> {
        let Some(index) = self.index_of(collection.dimensions).await?.filter(|_| !ids.is_empty()) else { return Ok(Vec::new()) };
        Ok(points(index.fetch(&collection.generation(), Fresh::Begun, &texts(&ids)).await?))
    }

    async fn of_model(&self, model: &str) -> Result<Vec<Collection>, SinkError> {
        Ok(self.known(Fresh::Begun).await?.collections().into_iter().filter(|one| one.model == model).collect())
    }

    async fn find(
        &self,
        collection: &Collection,
        table: Option<&str>,
        field: &'static str,
        values: Vec<String>,
    ) -> Result<Vec<Point>, SinkError> {
        let Some(index) = self.index_of(collection.dimensions).await?.filter(|_| !values.is_empty()) else {
            return Ok(Vec::new());
        };
        Ok(points(index.any_of(&collection.generation(), Fresh::Begun, field, &values, table).await?))
    }

    /// Ids are UUIDs as text, so their order is that of the list; it can go on only where a page of it ended. Elsewhere, as in a process that did
    /// not list what came before, it is read again from its beginning.
    async fn scroll(
        &self,
        collection: &Collection,
        table: &str,
        from: Option<Uuid>,
        limit: usize,
        _part: Part,
    ) -> Result<(Vec<Point>, Option<Uuid>), SinkError> {
        let Some(index) = self.index_of(collection.dimensions).await? else { return Ok((Vec::new(), None)) };
        let namespace = collection.generation();
        let mut token = from.and_then(|from| locked(&self.pages).remove(&(namespace.clone(), from)));
        let from = from.unwrap_or_default();
        let page = limit.clamp(1, IDS_A_LIST);
        loop {
            let mut ids: Vec<Uuid> = Vec::new();
            let next = loop {
                let (listed, next) = index.list(&namespace, Fresh::Begun, page, token.as_deref()).await?;
                ids.extend(listed.iter().filter_map(|id| Uuid::parse_str(id).ok()).filter(|id| *id >= from));
                if next.is_none() || ids.len() + page > limit {
                    break next;
                }
                token = next;
            };
            let mut found = points(index.fetch(&namespace, Fresh::Own, &texts(&ids)).await?);
            found.retain(|point| is_of(point, table));
            found.sort_by_key(|point| point.id);
            let after = ids.last().map(|last| Uuid::from_u128(last.as_u128().saturating_add(1)));
            match (next, after) {
                (None, _) => return Ok((found, None)),
                (Some(next), Some(after)) if !found.is_empty() => {
                    locked(&self.pages).insert((namespace, after), next);
                    return Ok((found, Some(after)));
                }
                (Some(next), _) => token = Some(next),
            }
        }
    }

    async fn upsert(&self, collection: &Collection, points: Vec<Point>) -> Result<(), SinkError> {
        let records = points.iter().filter_map(encode::record).collect();
        self.changing(collection).await?.upsert(&collection.generation(), records).await
    }

    /// The service can only add to metadata, one record a request. So the vectors are read and written again, many a request.
    async fn replace_payloads(&self, collection: &Collection, payloads: Vec<(Uuid, Payload)>) -> Result<(), SinkError> {
        let ids: Vec<Uuid> = payloads.iter().map(|(id, _)| *id).collect();
        let stored = self.read(collection, ids, Part::All).await?;
        let mut vectors: HashMap<Uuid, Option<Vec<f32>>> = stored.into_iter().map(|point| (point.id, point.vector)).collect();
        let replaced = payloads.into_iter().filter_map(|(id, payload)| Some(Point { id, payload, vector: vectors.remove(&id)? }));
        self.upsert(collection, replaced.collect()).await
    }

    async fn delete(&self, collection: &Collection, ids: Vec<Uuid>) -> Result<(), SinkError> {
        self.changing(collection).await?.delete(&collection.generation(), &texts(&ids)).await
    }

    async fn nearest(
        &self,
        collection: &Collection,
        vector: Vec<f32>,
        conditions: Vec<(String, String)>,
        limit: usize,
    ) -> Result<Vec<(f32, Point)>, SinkError> {
        let index = self.index_of(collection.dimensions).await?;
        let found = match &index {
            Some(index) => index.nearest(&collection.generation(), &vector, encode::typed(&conditions), limit).await?,
            None => Vec::new(),
        };
        if found.is_empty() {
            self.explain(index.as_deref(), collection, &conditions).await?;
        }
        Ok(found.into_iter().filter_map(|record| Some((record.score, encode::point(record)?))).collect())
    }

    /// What was answered is durable. Checkpoints are compared with what everybody wrote before now, and written in one request.
    async fn flush(&self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError> {
        if checkpoints.is_empty() {
            return Ok(());
        }
        let stored = self.known(Fresh::Now).await?.checkpoints();
        moves::check_moves(&stored, &checkpoints, &self.place())?;
        let moved = checkpoints.iter().filter(|checkpoint| !stored.contains(checkpoint));
        let noted = moved.map(|checkpoint| records::of_checkpoint(checkpoint, self.own.dimensions));
        self.note(noted.collect::<Result<_, _>>()?).await
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        let known = self.known(Fresh::Now).await?;
        let mut gone = Vec::new();
        for collection in known.collections() {
            let is_there = match self.index_of(collection.dimensions).await? {
                Some(index) => index.has(&collection.generation()).await?,
                None => false,
            };
            if !is_there {
                gone.push(collection);
            }
        }
        let is_gone = |c: &Checkpoint| {
            gone.iter().any(|one| one.name == c.lane.target && Some(one.model.as_str()) == c.lane.model.as_deref())
        };
        Ok(known.checkpoints().into_iter().filter(|checkpoint| !is_gone(checkpoint)).collect())
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        let known = self.known(Fresh::Begun).await?;
        let token = locked(&self.claim).as_ref().map(|lease| lease.token.clone());
        Ok(known.generations(token.as_deref(), now_ms()))
    }

    async fn promote(&self, collection: &Collection, tables: Vec<String>) -> Result<(), SinkError> {
        match self.known(Fresh::Now).await?.promoted(collection, &tables)? {
            Some(pointer) => self.note(vec![records::of_pointer(&pointer, self.own.dimensions)?]).await,
            None => Ok(()),
        }
    }

    async fn drop_generation(&self, name: &str, model: &str) -> Result<(), SinkError> {
        let known = self.known(Fresh::Now).await?;
        for collection in known.of(name, model) {
            let mut noted = vec![records::of_generation(&collection, true, self.own.dimensions)?];
            if let Some(pointer) = known.without(&collection)? {
                noted.push(records::of_pointer(&pointer, self.own.dimensions)?);
            }
            self.note(noted).await?;
            self.remove(&collection, &known).await?;
        }
        Ok(())
    }

    /// The service counts records and tells no bytes.
    async fn bytes(&self, _name: &str, _model: &str) -> Result<Option<u64>, SinkError> {
        Ok(None)
    }

    /// How a lease keeps others out without a compare-and-set: [`super::records`].
    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        let lives = |claim: &Lease| claim.token == lease.token && !claim.has_ended(lease.renewed_ms);
        let is_held = locked(&self.claim).as_ref().is_some_and(lives);
        self.note(vec![records::of_lease(lease, self.own.dimensions)?]).await?;
        if !is_held {
            match self.known(Fresh::Own).await?.beside(lease, &self.place(), now_ms()) {
                Ok(ended) => self.own.delete(RECORDS, &ended).await?,
                Err(refusal) => {
                    locked(&self.claim).take_if(|claim| claim.token == lease.token);
                    self.own.delete(RECORDS, &[records::lease_id(lease)]).await?;
                    return Err(refusal);
                }
            }
        }
        *locked(&self.claim) = Some(lease.clone());
        Ok(())
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        locked(&self.claim).take_if(|claim| claim.token == lease.token);
        self.own.delete(RECORDS, &[records::lease_id(lease)]).await
    }

    async fn give_way(&self) -> Result<(), SinkError> {
        Ok(())
    }

    async fn close(&self) -> Result<(), SinkError> {
        Ok(())
    }
}
