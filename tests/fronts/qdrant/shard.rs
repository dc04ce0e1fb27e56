//! One collection: the engine, its configuration, and the thread that applies updates in the order in which they came.

#![allow(deprecated, reason = "older clients use these fields")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use qdrant_client::qdrant::vectors_config::Config;
use qdrant_client::qdrant::{
    CreateCollection, Distance as WireDistance, StrictModeConfig, UpdateResult, UpdateStatus, VectorParams,
};
use qdrant_edge::{
    Distance, EdgeConfig, EdgeShard, EdgeVectorParams, OperationError, OperationResult, UpdateOperation, WalOptions,
};
use tokio::sync::oneshot;
use tonic::Status;

type Update = (UpdateOperation, oneshot::Sender<OperationResult<()>>);

/// A collection.
pub(super) struct Shard {
    engine: Arc<Mutex<EdgeShard>>,
    /// The request that made it, with what was changed since.
    pub(super) made: Mutex<CreateCollection>,
    updates: Mutex<Option<Sender<Update>>>,
    worker: Mutex<Option<std::thread::JoinHandle<()>>>,
    operations: AtomicU64,
    /// Goes after the engine, which flushes when it is dropped.
    _place: Place,
}

/// A directory that is removed at the end.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The status of each of the engine's errors.
pub(super) fn refused(error: OperationError) -> Status {
    let message = error.to_string();
    match error {
        OperationError::PointIdError { .. } => Status::not_found(format!("Not found: {message}")),
        OperationError::WrongVectorDimension { .. }
        | OperationError::VectorNameNotExists { .. }
        | OperationError::TypeError { .. }
        | OperationError::ValidationError { .. }
        | OperationError::MissingRangeIndexForOrderBy { .. } => Status::invalid_argument(format!("Wrong input: {message}")),
        OperationError::Timeout { .. } => Status::deadline_exceeded(message),
        OperationError::Cancelled { .. } => Status::cancelled(message),
        _ => Status::internal(format!("Service internal error: {message}")),
    }
}

/// The named vectors of a request; the unnamed one has an empty name.
pub(super) fn vectors_of(made: &CreateCollection) -> HashMap<String, VectorParams> {
    match made.vectors_config.as_ref().and_then(|vectors| vectors.config.clone()) {
        Some(Config::Params(params)) => HashMap::from([(String::new(), params)]),
        Some(Config::ParamsMap(map)) => map.map,
        None => HashMap::new(),
    }
}

impl Shard {
    /// Makes the collection in a directory.
    pub(super) fn make(place: PathBuf, made: CreateCollection) -> Result<Self, Status> {
        let mut vectors = HashMap::new();
        for (name, params) in vectors_of(&made) {
            if params.size == 0 || params.size > 65_536 {
                return Err(Status::invalid_argument(format!("Wrong input: size {} is not in range [1, 65536]", params.size)));
            }
            let distance = match params.distance() {
                WireDistance::Cosine => Distance::Cosine,
                WireDistance::Euclid => Distance::Euclid,
                WireDistance::Dot => Distance::Dot,
                WireDistance::Manhattan => Distance::Manhattan,
                WireDistance::UnknownDistance => return Err(Status::invalid_argument("Wrong input: unknown distance")),
            };
            let on_disk = params.on_disk.unwrap_or(false);
            let size = usize::try_from(params.size).unwrap();
            vectors.insert(name, EdgeVectorParams::builder(size, distance).on_disk(on_disk).build());
        }
        let wal_options = Some(WalOptions { segment_capacity: 4 * 1024 * 1024, ..WalOptions::default() });
        let config = EdgeConfig { vectors, wal_options, ..EdgeConfig::default() };
        std::fs::create_dir_all(&place).unwrap();
        let engine = Arc::new(Mutex::new(EdgeShard::new(&place, config).map_err(refused)?));
        let (updates, queue) = channel();
        let applied = engine.clone();
        let worker = std::thread::Builder::new().name("updates".to_owned()).spawn(move || apply(&applied, &queue)).unwrap();
        Ok(Self {
            engine,
            made: Mutex::new(made),
            updates: Mutex::new(Some(updates)),
            worker: Mutex::new(Some(worker)),
            operations: AtomicU64::new(0),
            _place: Place(place),
        })
    }

    /// Rules of the collection, where it is in strict mode.
    pub(super) fn strict(&self) -> Option<StrictModeConfig> {
        let made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        made.strict_mode_config.clone().filter(|strict| strict.enabled())
    }

    /// Asks the engine something.
    pub(super) async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        question: impl FnOnce(&EdgeShard) -> OperationResult<T> + Send + 'static,
    ) -> Result<T, Status> {
        let engine = self.engine.clone();
        let asked = tokio::task::spawn_blocking(move || question(&engine.lock().unwrap_or_else(PoisonError::into_inner)));
        asked.await.map_err(|e| Status::internal(e.to_string()))?.map_err(refused)
    }

    /// Queues an update and, if it is to wait, waits until it is done.
    pub(super) async fn update(&self, update: UpdateOperation, wait: bool) -> Result<UpdateResult, Status> {
        let (done, is_done) = oneshot::channel();
        let gone = || Status::internal("the collection is gone");
        let sender = self.updates.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or_else(gone)?;
        sender.send((update, done)).map_err(|_| gone())?;
        let operation_id = Some(self.operations.fetch_add(1, Ordering::SeqCst));
        if !wait {
            return Ok(UpdateResult { operation_id, status: UpdateStatus::Acknowledged.into() });
        }
        is_done.await.map_err(|_| gone())?.map_err(refused)?;
        Ok(UpdateResult { operation_id, status: UpdateStatus::Completed.into() })
    }
}

fn apply(engine: &Mutex<EdgeShard>, queue: &Receiver<Update>) {
    for (update, done) in queue {
        let result = engine.lock().unwrap_or_else(PoisonError::into_inner).update(update);
        // Nobody waits for an update that was only queued.
        let _ = done.send(result);
    }
}

impl Drop for Shard {
    fn drop(&mut self) {
        drop(self.updates.lock().unwrap_or_else(PoisonError::into_inner).take());
        if let Some(worker) = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = worker.join();
        }
    }
}
