//! The files around the engine's own: the lock, the format, the generations of each collection, the aliases, and the checkpoints.
//! Plain files, replaced by rename; it knows nothing of points and uses no engine.
//!
//! ```text
//! <path>/lock                    held by the process that has the directory open
//! <path>/format.json             what wrote the directory
//! <path>/checkpoints.json        the checkpoints of all lanes, replaced as one
//! <path>/<name>.alias            the generation that answers questions
//! <path>/<name>__<model>/        one generation of a collection: the engine's files, and
//!     collection.json            what it is; written when the rest is complete
//!     unflushed                  there while the engine may hold something that is not durable
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{SINK, VectorsOptions};
use crate::sinks::{Checkpoint, SinkError};

/// The layout above. Rises when an older release could not read it.
const FORMAT: u32 = 1;

const LOCK_FILE: &str = "lock";
const FORMAT_FILE: &str = "format.json";
const CHECKPOINTS_FILE: &str = "checkpoints.json";
const COLLECTION_FILE: &str = "collection.json";
const UNFLUSHED_FILE: &str = "unflushed";

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    engine: String,
}

/// What a generation is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Generation {
    /// The collection.
    pub(crate) collection: String,
    /// The identity of the model that makes its vectors.
    pub(crate) model: String,
    /// Length of its vectors.
    pub(crate) dimensions: usize,
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    options: VectorsOptions,
    checkpoints: BTreeMap<String, Checkpoint>,
    /// Let go when it is dropped, also by a killed process.
    _lock: File,
}

impl Directory {
    /// Opens the directory, which is made if it is not there, and keeps others out of it.
    pub(crate) fn open(options: VectorsOptions, engine: &str) -> Result<Self, SinkError> {
        let root = &options.path;
        fs::create_dir_all(root).map_err(|e| failed("make the directory", root, e))?;
        let format = root.join(FORMAT_FILE);
        let is_new = !format.exists();
        if is_new {
            refuse_foreign(root)?;
        }
        let lock = lock(root)?;
        if is_new {
            write_json(&format, &Format { format: FORMAT, engine: engine.to_owned() })?;
        }
        let found: Format = read_json(&format)?;
        if found.format > FORMAT {
            return Err(SinkError::stop(
                SINK,
                format!(
                    "{} has format {} (written with {}), this release knows {FORMAT}: use the release that wrote it, or another path",
                    root.display(),
                    found.format,
                    found.engine
                ),
            ));
        }
        let checkpoints = root.join(CHECKPOINTS_FILE);
        let checkpoints = if checkpoints.exists() { read_json(&checkpoints)? } else { BTreeMap::new() };
        Ok(Self { options, checkpoints, _lock: lock })
    }

    /// The model and the place.
    pub(crate) fn options(&self) -> &VectorsOptions {
        &self.options
    }

    /// Where the collection is, or would be, as the sink's own model sees it.
    pub(crate) fn generation(&self, collection: &str) -> PathBuf {
        self.options.path.join(self.options.generation(collection))
    }

    /// Whether that generation was completely made.
    pub(crate) fn has_generation(&self, collection: &str) -> bool {
        self.generation(collection).join(COLLECTION_FILE).exists()
    }

    /// Makes the generation: `fill` makes the engine's files in an empty directory that gets its name when it is complete.
    pub(crate) fn make_generation(
        &mut self,
        collection: &str,
        fill: impl FnOnce(&Path) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let place = self.generation(collection);
        if place.exists() {
            return Err(damaged(&place, "collection.json is missing"));
        }
        let unfinished = place.with_extension("unfinished");
        if unfinished.exists() {
            // Left by a process that was stopped while it made it; it never had a point.
            fs::remove_dir_all(&unfinished).map_err(|e| failed("remove the unfinished collection", &unfinished, e))?;
        }
        fs::create_dir(&unfinished).map_err(|e| failed("make the directory", &unfinished, e))?;
        fill(&unfinished)?;
        let generation = Generation {
            collection: collection.to_owned(),
            model: self.options.model.clone(),
            dimensions: self.options.dimensions,
        };
        write_json(&unfinished.join(COLLECTION_FILE), &generation)?;
        // Checkpoints of a generation that somebody removed must not come to stand on the new, empty one.
        let kept: BTreeMap<_, _> =
            self.checkpoints.clone().into_iter().filter(|(_, checkpoint)| self.is_founded(checkpoint)).collect();
        if kept.len() < self.checkpoints.len() {
            write_json(&self.options.path.join(CHECKPOINTS_FILE), &kept)?;
            self.checkpoints = kept;
        }
        fs::rename(&unfinished, &place).map_err(|e| failed("name the collection", &place, e))?;
        sync_directory(&self.options.path)?;
        if self.alias(collection)?.is_none() {
            self.move_alias(collection)?;
        }
        Ok(())
    }

    /// What the generation that the alias names is; none for a collection that nobody made.
    pub(crate) fn alias(&self, collection: &str) -> Result<Option<Generation>, SinkError> {
        let alias = self.alias_file(collection);
        if !alias.exists() {
            return Ok(None);
        }
        let name: String = read_json(&alias)?;
        read_json(&self.options.path.join(name).join(COLLECTION_FILE)).map(Some)
    }

    fn alias_file(&self, collection: &str) -> PathBuf {
        self.options.path.join(format!("{collection}.alias"))
    }

    fn move_alias(&self, collection: &str) -> Result<(), SinkError> {
        write_json(&self.alias_file(collection), &self.options.generation(collection))
    }

    /// The names of all collections, in order.
    pub(crate) fn collections(&self) -> Result<Vec<String>, SinkError> {
        let root = &self.options.path;
        let mut names = Vec::new();
        for entry in fs::read_dir(root).map_err(|e| failed("list", root, e))? {
            let path = entry.map_err(|e| failed("list", root, e))?.path();
            if path.extension().is_some_and(|extension| extension == "alias") {
                names.extend(path.file_stem().and_then(|stem| stem.to_str()).map(str::to_owned));
            }
        }
        names.sort();
        Ok(names)
    }

    /// Says that the generation is about to hold something that is not durable. True if it said so before, which on a generation that
    /// was just opened means that a process was killed.
    pub(crate) fn is_unflushed(&self, collection: &str) -> bool {
        self.generation(collection).join(UNFLUSHED_FILE).exists()
    }

    /// Remembers that the generation holds something that is not durable.
    pub(crate) fn mark_unflushed(&self, collection: &str) -> Result<(), SinkError> {
        let place = self.generation(collection);
        let marker = place.join(UNFLUSHED_FILE);
        File::create(&marker).map_err(|e| failed("mark", &marker, e))?;
        sync_directory(&place)
    }

    /// Forgets it. A marker that comes back after a loss of power costs time, nothing else.
    pub(crate) fn mark_flushed(&self, collection: &str) -> Result<(), SinkError> {
        let marker = self.generation(collection).join(UNFLUSHED_FILE);
        match fs::remove_file(&marker) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("unmark", &marker, e)),
            _ => Ok(()),
        }
    }

    /// The checkpoints whose points are there: one of a collection that somebody removed says nothing about any.
    pub(crate) fn checkpoints(&self) -> Vec<Checkpoint> {
        self.checkpoints.values().filter(|checkpoint| self.is_founded(checkpoint)).cloned().collect()
    }

    fn is_founded(&self, checkpoint: &Checkpoint) -> bool {
        let model = checkpoint.model.as_deref().unwrap_or(&self.options.model);
        let prefix = format!("{}__", checkpoint.lane.target);
        let Ok(entries) = fs::read_dir(&self.options.path) else { return false };
        entries.flatten().map(|entry| entry.path()).any(|path| {
            let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
            if !name.starts_with(&prefix) || path.extension().is_some() {
                return false;
            }
            let found: Result<Generation, _> = read_json(&path.join(COLLECTION_FILE));
            found.is_ok_and(|found| found.collection == checkpoint.lane.target && found.model == model)
        })
    }

    /// Whether each of the checkpoints stands on the one that is stored, or is it.
    pub(crate) fn check_moves(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        for checkpoint in checkpoints {
            let stored = self.checkpoints.get(&checkpoint.lane.name()).filter(|stored| self.is_founded(stored));
            let revision = stored.map_or(0, |stored| stored.revision);
            if stored != Some(checkpoint) && checkpoint.revision != revision + 1 {
                return Err(SinkError::stop(
                    SINK,
                    format!(
                        "lane {}: its checkpoint has revision {revision}, so it cannot move to {}: another run has moved it. \
                         Let only one run write to {} and run again",
                        checkpoint.lane.name(),
                        checkpoint.revision,
                        self.options.path.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Replaces the checkpoints of these lanes, all or none, and moves the alias of each collection whose lanes have all arrived in
    /// the sink's own generation.
    pub(crate) fn save_checkpoints(&mut self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError> {
        if checkpoints.iter().all(|checkpoint| self.checkpoints.get(&checkpoint.lane.name()) == Some(checkpoint)) {
            return Ok(());
        }
        let mut collections: Vec<String> = checkpoints.iter().map(|checkpoint| checkpoint.lane.target.clone()).collect();
        let mut all = self.checkpoints.clone();
        all.extend(checkpoints.into_iter().map(|checkpoint| (checkpoint.lane.name(), checkpoint)));
        write_json(&self.options.path.join(CHECKPOINTS_FILE), &all)?;
        self.checkpoints = all;
        collections.sort();
        collections.dedup();
        collections.iter().try_for_each(|collection| self.arrive(collection))
    }

    fn arrive(&self, collection: &str) -> Result<(), SinkError> {
        let own = Some(self.options.model.as_str());
        let mut lanes = self.checkpoints.values().filter(|checkpoint| checkpoint.lane.target == collection);
        let arrived = lanes.all(|c| c.model.as_deref() == own && c.version.is_some() && c.pending.is_none());
        let current = self.alias(collection)?;
        let is_current = current.is_some_and(|g| g.model == self.options.model && g.dimensions == self.options.dimensions);
        if arrived && !is_current && self.has_generation(collection) { self.move_alias(collection) } else { Ok(()) }
    }
}

fn lock(root: &Path) -> Result<File, SinkError> {
    let path = root.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| failed("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SinkError::stop(
            SINK,
            format!("{} is in use by another process: wait until it is done, or stop it", root.display()),
        )),
        Err(TryLockError::Error(e)) => Err(failed("lock", &path, e)),
    }
}

/// A directory without a format must be empty, or it is somebody else's.
fn refuse_foreign(root: &Path) -> Result<(), SinkError> {
    for entry in fs::read_dir(root).map_err(|e| failed("list", root, e))? {
        let name = entry.map_err(|e| failed("list", root, e))?.file_name();
        if name != LOCK_FILE && name != format!("{FORMAT_FILE}.new").as_str() {
            return Err(SinkError::stop(
                SINK,
                format!(
                    "{} has no {FORMAT_FILE} but other files ({}): it is no directory of vectors, or a damaged one. \
                     Give an empty or new path, or restore it",
                    root.display(),
                    name.to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}

/// The error of a place whose content is not what was written.
pub(crate) fn damaged(place: &Path, what: &str) -> SinkError {
    SinkError::permanent(
        SINK,
        format!(
            "{} is damaged: {what}. Restore it from a backup, or move it away and sync again to fill it anew",
            place.display()
        ),
    )
}

fn failed(what: &str, place: &Path, error: io::Error) -> SinkError {
    SinkError::permanent(SINK, format!("cannot {what} {}: {error}", place.display())).because(error)
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T, SinkError> {
    let bytes = fs::read(path).map_err(|e| failed("read", path, e))?;
    serde_json::from_slice(&bytes).map_err(|e| damaged(path, &e.to_string()).because(e))
}

/// Replaces the file as a whole: after a crash it is the old one or the new one.
fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<(), SinkError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| SinkError::permanent(SINK, "cannot encode").because(e))?;
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    let written = File::create(&new).and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&new, path)).map_err(|e| failed("write", path, e))?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Makes names in the directory durable. Where directories cannot be synced, as on Windows, the file system does it.
fn sync_directory(path: &Path) -> Result<(), SinkError> {
    if cfg!(unix) { File::open(path).and_then(|dir| dir.sync_all()).map_err(|e| failed("sync", path, e)) } else { Ok(()) }
}
