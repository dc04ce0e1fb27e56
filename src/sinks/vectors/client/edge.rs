//! The engine and its files: generations opened, flushed, mended after a kill, closed for others. It knows points only by the handles of
//! the engine.

use std::collections::HashMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use qdrant_edge::{
    CreateIndex, Distance, EdgeConfig, EdgeOptimizersConfig, EdgeShard, EdgeVectorParams, FieldIndexOperations, OperationError,
    OperationResult, PayloadFieldSchema, PayloadSchemaType, UpdateOperation, WalOptions,
};

use super::convert::entry;
use super::log::{closed_log_files, remove_closed_log_files};
use crate::mapping::target::TEXT_HASH;
use crate::sinks::SinkError;
use crate::sinks::vectors::config::{Collection, SINK};
use crate::sinks::vectors::directory::{Directory, damaged};
use crate::sinks::vectors::encode::{RECORD, TABLE};

/// The engine and its version, for the format file.
pub(super) const ENGINE: &str = "qdrant-edge 0.7.2";

/// Payload entries that are looked up by value.
const INDEXED: [&str; 3] = [TABLE, RECORD, TEXT_HASH];

/// Bytes of one file of the engine's log. It is made at its full size when a collection is opened, so it is small.
const LOG_FILE_BYTES: usize = 4 * 1024 * 1024;

/// Closed files of the log from which on the collection is opened anew after a flush, which gives their space back.
const DEFAULT_CLOSED_LOG_FILES_MAX: usize = 32;

/// Kilobytes of vectors in one segment from which on it gets a graph index. Below it, scanning 50,000 vectors of 384 floats takes
/// milliseconds and is exact.
const INDEXING_THRESHOLD_KB: usize = 75_000;

/// The engine with its files: generations are opened when they are first used.
pub(super) struct Edge {
    pub(super) directory: Directory,
    pub(super) shards: HashMap<String, Shard>,
    /// Set by the first panic of the engine.
    pub(super) is_broken: bool,
    pub(super) closed_log_files_max: usize,
}

/// One generation, open.
pub(super) struct Shard {
    collection: Collection,
    /// Taken out only to be dropped.
    engine: Option<EdgeShard>,
    is_unflushed: bool,
    was_written: bool,
}

impl Drop for Shard {
    fn drop(&mut self) {
        // The engine flushes when it is dropped and panics when it cannot; whoever needs to know has flushed before.
        let engine = self.engine.take();
        let _ = catch_unwind(AssertUnwindSafe(|| drop(engine)));
    }
}

pub(super) fn panicked(place: &Path, panic: &(dyn std::any::Any + Send)) -> SinkError {
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
pub(super) fn refused(what: &str, collection: &str, error: OperationError) -> SinkError {
    let message = format!("cannot {what} collection {collection}: {error}");
    match error {
        OperationError::OutOfMemory { .. } | OperationError::Timeout { .. } | OperationError::Cancelled { .. } => {
            SinkError::transient(SINK, message)
        }
        _ => SinkError::permanent(SINK, message),
    }
}

pub(super) fn config(dimensions: usize) -> EdgeConfig {
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

pub(super) fn make_indexes(engine: &EdgeShard) -> OperationResult<()> {
    for name in INDEXED {
        let field_schema = Some(PayloadFieldSchema::FieldType(PayloadSchemaType::Keyword));
        let create = FieldIndexOperations::CreateIndex(CreateIndex { field_name: entry(name), field_schema });
        engine.update(UpdateOperation::FieldIndexOperation(create))?;
    }
    Ok(())
}

impl Edge {
    /// The engine over a directory.
    pub(super) fn new(directory: Directory) -> Self {
        Self { directory, shards: HashMap::new(), is_broken: false, closed_log_files_max: DEFAULT_CLOSED_LOG_FILES_MAX }
    }

    /// The open generation; none if nobody made it.
    pub(super) fn shard(&mut self, collection: &Collection) -> Result<Option<&mut Shard>, SinkError> {
        let name = collection.generation();
        if !self.shards.contains_key(&name) {
            if !self.directory.has_generation(collection) {
                return match self.directory.place(collection) {
                    place if place.exists() => Err(damaged(&place, "collection.json is missing")),
                    _ => Ok(None),
                };
            }
            let shard = self.load(collection)?;
            self.shards.insert(name.clone(), shard);
        }
        Ok(self.shards.get_mut(&name))
    }

    fn load(&self, collection: &Collection) -> Result<Shard, SinkError> {
        let place = self.directory.place(collection);
        let has_segments = fs::read_dir(place.join("segments")).is_ok_and(|mut entries| entries.next().is_some());
        if !has_segments {
            // The engine would begin with an empty collection.
            return Err(damaged(&place, "it has no segments"));
        }
        remove_closed_log_files(&place);
        let config = config(collection.dimensions);
        let loaded = catch_unwind(AssertUnwindSafe(|| EdgeShard::load(&place, Some(config))));
        let engine = match loaded {
            Ok(Ok(engine)) => engine,
            Ok(Err(error)) => return Err(damaged(&place, &error.to_string()).because(error)),
            Err(panic) => return Err(damaged(&place, &panicked(&place, panic.as_ref()).message)),
        };
        let mut shard = Shard { collection: collection.clone(), engine: Some(engine), is_unflushed: false, was_written: false };
        if self.directory.is_unflushed(&collection.generation()) {
            let engine = shard.engine()?;
            let repaired = INDEXED.iter().try_for_each(|name| {
                engine.update(UpdateOperation::FieldIndexOperation(FieldIndexOperations::DeleteIndex(entry(name))))
            });
            repaired.and_then(|()| make_indexes(engine)).map_err(|e| refused("repair", &collection.name, e))?;
            shard.is_unflushed = true;
        }
        Ok(shard)
    }

    /// The generation for a change, marked as not durable.
    pub(super) fn changing(&mut self, collection: &Collection) -> Result<&EdgeShard, SinkError> {
        let name = collection.generation();
        if self.shard(collection)?.is_some_and(|shard| !shard.is_unflushed) {
            self.directory.mark_unflushed(&name)?;
        }
        let Some(shard) = self.shards.get_mut(&name) else {
            let message = format!("collection {} was not prepared for {}", collection.name, collection.model);
            return Err(SinkError::permanent(SINK, message));
        };
        (shard.is_unflushed, shard.was_written) = (true, true);
        shard.engine()
    }

    /// Makes everything written durable.
    pub(super) fn flush(&mut self) -> Result<(), SinkError> {
        let mut reopened = Vec::new();
        for (name, shard) in &mut self.shards {
            if shard.is_unflushed {
                shard.engine()?.flush();
                self.directory.mark_flushed(name)?;
                shard.is_unflushed = false;
                if closed_log_files(&self.directory.place(&shard.collection)).len() > self.closed_log_files_max {
                    reopened.push(name.clone());
                }
            }
        }
        for name in reopened {
            let Some(shard) = self.shards.remove(&name) else { continue };
            let (collection, was_written) = (shard.collection.clone(), shard.was_written);
            drop(shard);
            if let Some(shard) = self.shard(&collection)? {
                shard.was_written = was_written;
            }
        }
        Ok(())
    }

    /// Lets the engine merge, shrink and index what was written, if it finds that worth while.
    pub(super) fn optimize(&mut self) -> Result<(), SinkError> {
        for (name, shard) in &mut self.shards {
            if shard.was_written {
                let changed = shard.engine()?.optimize().map_err(|e| refused("optimize", &shard.collection.name, e))?;
                if changed {
                    self.directory.mark_unflushed(name)?;
                    shard.is_unflushed = true;
                }
                shard.was_written = false;
            }
        }
        self.flush()
    }

    /// Deletes the model's generation, unless it is in service.
    pub(super) fn drop_generation(&mut self, name: &str, model: &str) -> Result<(), SinkError> {
        for collection in self.directory.all()?.iter().filter(|one| one.name == name && one.model == model) {
            self.shards.remove(&collection.generation());
            self.directory.drop_generation(collection)?;
        }
        Ok(())
    }

    /// Closes everything, lets others in that wait, and goes on when they are done.
    pub(super) fn give_way(&mut self) -> Result<(), SinkError> {
        if self.directory.is_awaited() {
            self.flush()?;
            self.shards.clear();
            self.directory.give_way(ENGINE)?;
        }
        Ok(())
    }
}

impl Shard {
    pub(super) fn engine(&self) -> Result<&EdgeShard, SinkError> {
        self.engine.as_ref().ok_or_else(|| SinkError::permanent(SINK, format!("collection {} is closed", self.collection.name)))
    }
}
