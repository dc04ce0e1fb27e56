//! The files around the engine's own: the lock, the format, the generations of each collection, the aliases, and the checkpoints.
//! Plain files, replaced by rename; it knows nothing of points and uses no engine.
//!
//! ```text
//! <path>/lock                    and the like: [`super::turns`]
//! <path>/format.json             what wrote the directory
//! <path>/checkpoints.json        the checkpoints of all lanes, replaced as one
//! <path>/<name>.alias            the generation that answers questions, and the one that did before
//! <path>/<name>__<model>/        one generation of a collection: the engine's files, and
//!     collection.json            what it is; written when the rest is complete
//!     unflushed                  there while the engine may hold something that is not durable
//! <path>/<name>__<model>.dropped  a generation that is being deleted
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::config::{Collection, SINK};
use super::moves;
use super::turns::{self, Turn};
use crate::sinks::{Checkpoint, Generation, Role, SinkError};

/// The layout above. Rises when an older release could not read it.
const FORMAT: u32 = 2;

const FORMAT_FILE: &str = "format.json";
const CHECKPOINTS_FILE: &str = "checkpoints.json";
const COLLECTION_FILE: &str = "collection.json";
const UNFLUSHED_FILE: &str = "unflushed";

#[derive(Debug, Serialize, Deserialize)]
struct Format {
    format: u32,
    engine: String,
}

/// The generations that an alias names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Alias {
    generation: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<String>,
}

/// An alias as it is written now, or as format 1 had it.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyAlias {
    Whole(Alias),
    Name(String),
}

/// An open directory.
#[derive(Debug)]
pub(crate) struct Directory {
    root: PathBuf,
    checkpoints: BTreeMap<String, Checkpoint>,
    turn: Turn,
}

impl Directory {
    /// Opens the directory, which is made if it is not there, and keeps others out of it, unless it gives way.
    pub(crate) fn open(root: PathBuf, gives_way: bool, engine: &str) -> Result<Self, SinkError> {
        fs::create_dir_all(&root).map_err(|e| failed("make the directory", &root, e))?;
        let format = root.join(FORMAT_FILE);
        let is_new = !format.exists();
        if is_new {
            refuse_foreign(&root)?;
        }
        let turn = Turn::take(&root, gives_way)?;
        if is_new {
            write_json(&format, &Format { format: FORMAT, engine: engine.to_owned() })?;
        }
        let mut opened = Self { root, checkpoints: BTreeMap::new(), turn };
        opened.read(engine)?;
        Ok(opened)
    }

    /// Reads what another process may have written.
    fn read(&mut self, engine: &str) -> Result<(), SinkError> {
        let format = self.root.join(FORMAT_FILE);
        let found: Format = read_json(&format)?;
        if found.format > FORMAT {
            return Err(SinkError::stop(
                SINK,
                format!(
                    "{} has format {} (written with {}), this release knows {FORMAT}: use the release that wrote it, or another path",
                    self.root.display(),
                    found.format,
                    found.engine
                ),
            ));
        }
        let checkpoints = self.root.join(CHECKPOINTS_FILE);
        let all: BTreeMap<String, Checkpoint> = if checkpoints.exists() { read_json(&checkpoints)? } else { BTreeMap::new() };
        // Format 1 had one lane for all models.
        let named = |mut checkpoint: Checkpoint| {
            checkpoint.lane.model = checkpoint.lane.model.or_else(|| checkpoint.model.clone());
            (checkpoint.lane.name(), checkpoint)
        };
        self.checkpoints = all.into_values().map(named).collect();
        if found.format < FORMAT {
            write_json(&checkpoints, &self.checkpoints)?;
            write_json(&format, &Format { format: FORMAT, engine: engine.to_owned() })?;
        }
        self.remove_dropped()
    }

    /// Where it is.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Whether others wait for the directory and are to be let in.
    pub(crate) fn is_awaited(&self) -> bool {
        self.turn.is_awaited()
    }

    /// Lets them in, and looks at everything again.
    pub(crate) fn give_way(&mut self, engine: &str) -> Result<(), SinkError> {
        self.turn.pass()?;
        self.read(engine)
    }

    /// Where the generation is, or would be.
    pub(crate) fn place(&self, collection: &Collection) -> PathBuf {
        self.root.join(collection.generation())
    }

    /// Whether that generation was completely made.
    pub(crate) fn has_generation(&self, collection: &Collection) -> bool {
        self.place(collection).join(COLLECTION_FILE).exists()
    }

    /// Makes the generation: `fill` makes the engine's files in an empty directory that gets its name when it is complete.
    pub(crate) fn make_generation(
        &mut self,
        collection: &Collection,
        fill: impl FnOnce(&Path) -> Result<(), SinkError>,
    ) -> Result<(), SinkError> {
        let place = self.place(collection);
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
        write_json(&unfinished.join(COLLECTION_FILE), collection)?;
        // Checkpoints of a generation that somebody removed must not come to stand on the new, empty one.
        self.forget_unfounded()?;
        fs::rename(&unfinished, &place).map_err(|e| failed("name the collection", &place, e))?;
        sync_directory(&self.root)
    }

    /// Puts the generation in service if none of its collection is.
    pub(crate) fn adopt(&self, collection: &Collection) -> Result<(), SinkError> {
        match self.serving(&collection.name)? {
            Some(_) => Ok(()),
            None => self.write_alias(&collection.name, &Alias { generation: collection.generation(), previous: None }),
        }
    }

    fn alias(&self, name: &str) -> Result<Option<Alias>, SinkError> {
        let path = self.alias_file(name);
        if !path.exists() {
            return Ok(None);
        }
        Ok(Some(match read_json(&path)? {
            AnyAlias::Whole(alias) => alias,
            AnyAlias::Name(generation) => Alias { generation, previous: None },
        }))
    }

    fn alias_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.alias"))
    }

    fn write_alias(&self, name: &str, alias: &Alias) -> Result<(), SinkError> {
        write_json(&self.alias_file(name), alias)
    }

    /// The generation in service; none for a collection that nobody made, or whose generation somebody removed.
    pub(crate) fn serving(&self, name: &str) -> Result<Option<Collection>, SinkError> {
        let Some(alias) = self.alias(name)? else { return Ok(None) };
        let file = self.root.join(alias.generation).join(COLLECTION_FILE);
        if file.exists() { read_json(&file).map(Some) } else { Ok(None) }
    }

    /// All generations, in order of their directories.
    pub(crate) fn all(&self) -> Result<Vec<Collection>, SinkError> {
        generations_in(&self.root)
    }

    /// All generations with what they are for.
    pub(crate) fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        let mut found = Vec::new();
        let beside = self.turn.is_beside_a_rebuild()?;
        for one in self.all()? {
            let (alias, own) = (self.alias(&one.name)?, one.generation());
            let role = match alias {
                Some(alias) if alias.generation == own => Role::Serving,
                Some(alias) if alias.previous.as_ref() == Some(&own) => Role::Kept,
                _ => Role::Building,
            };
            let taken = beside && role != Role::Serving;
            found.push(Generation { target: one.name, model: one.model, dimensions: one.dimensions, role, taken });
        }
        Ok(found)
    }

    /// Moves the alias to a generation that is at least where the one in service is.
    pub(crate) fn promote(&self, collection: &Collection, tables: &[String]) -> Result<(), SinkError> {
        let name = &collection.name;
        if !self.has_generation(collection) {
            return Err(moves::no_generation(collection));
        }
        let current = self.alias(name)?;
        let own = collection.generation();
        if current.as_ref().is_some_and(|alias| alias.generation == own) {
            return Ok(());
        }
        let serving = self.serving(name)?;
        moves::check_promotion(collection, serving.as_ref().map(|one| one.model.as_str()), tables, &self.checkpoints())?;
        let previous = current.map(|alias| alias.generation).filter(|_| serving.is_some());
        self.write_alias(name, &Alias { generation: own, previous })
    }

    /// Deletes a generation that is not in service. When it has another name it is gone, whatever happens then.
    pub(crate) fn drop_generation(&mut self, collection: &Collection) -> Result<(), SinkError> {
        let (name, own) = (&collection.name, collection.generation());
        if self.serving(name)?.as_ref() == Some(collection) {
            return Err(moves::is_serving(name, &collection.model));
        }
        let place = self.root.join(&own);
        if place.exists() {
            let dropped = place.with_extension("dropped");
            fs::rename(&place, &dropped).map_err(|e| failed("rename", &place, e))?;
            sync_directory(&self.root)?;
        }
        if let Some(alias) = self.alias(name)?.filter(|alias| alias.previous.as_ref() == Some(&own)) {
            self.write_alias(name, &Alias { previous: None, ..alias })?;
        }
        self.forget_unfounded()?;
        self.remove_dropped()
    }

    fn forget_unfounded(&mut self) -> Result<(), SinkError> {
        let all = self.checkpoints.clone();
        let kept: BTreeMap<_, _> = all.into_iter().filter(|(_, checkpoint)| self.is_founded(checkpoint)).collect();
        if kept.len() < self.checkpoints.len() {
            write_json(&self.root.join(CHECKPOINTS_FILE), &kept)?;
            self.checkpoints = kept;
        }
        Ok(())
    }

    fn remove_dropped(&self) -> Result<(), SinkError> {
        for path in entries(&self.root)?.into_iter().filter(|path| path.extension().is_some_and(|x| x == "dropped")) {
            fs::remove_dir_all(&path).map_err(|e| failed("remove", &path, e))?;
        }
        Ok(())
    }

    /// Bytes that the generation takes.
    pub(crate) fn bytes(&self, collection: &Collection) -> Result<u64, SinkError> {
        let mut open = vec![self.place(collection)];
        let mut sum = 0;
        while let Some(place) = open.pop() {
            for path in entries(&place)? {
                // A file that went away meanwhile takes nothing.
                let Ok(data) = fs::symlink_metadata(&path) else { continue };
                if data.is_dir() {
                    open.push(path);
                } else {
                    sum += allocated(&data);
                }
            }
        }
        Ok(sum)
    }

    /// The names of all collections, in order.
    pub(crate) fn collections(&self) -> Result<Vec<String>, SinkError> {
        let mut names: Vec<String> = entries(&self.root)?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|extension| extension == "alias"))
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Says that the generation is about to hold something that is not durable. True if it said so before, which on a generation that
    /// was just opened means that a process was killed.
    pub(crate) fn is_unflushed(&self, generation: &str) -> bool {
        self.root.join(generation).join(UNFLUSHED_FILE).exists()
    }

    /// Remembers that the generation holds something that is not durable.
    pub(crate) fn mark_unflushed(&self, generation: &str) -> Result<(), SinkError> {
        let place = self.root.join(generation);
        let marker = place.join(UNFLUSHED_FILE);
        File::create(&marker).map_err(|e| failed("mark", &marker, e))?;
        sync_directory(&place)
    }

    /// Forgets it. A marker that comes back after a loss of power costs time, nothing else.
    pub(crate) fn mark_flushed(&self, generation: &str) -> Result<(), SinkError> {
        let marker = self.root.join(generation).join(UNFLUSHED_FILE);
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
        let lane = &checkpoint.lane;
        // One that is damaged says nothing of the others.
        entries(&self.root).unwrap_or_default().iter().any(|place| {
            matches!(generation_at(place), Ok(Some(found)) if found.name == lane.target && Some(&found.model) == lane.model.as_ref())
        })
    }

    /// Whether each of the checkpoints stands on the one that is stored, or is it.
    pub(crate) fn check_moves(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        moves::check_moves(&self.checkpoints(), checkpoints, &self.root.display().to_string())
    }

    /// Replaces the checkpoints of these lanes, all or none.
    pub(crate) fn save_checkpoints(&mut self, checkpoints: Vec<Checkpoint>) -> Result<(), SinkError> {
        if checkpoints.iter().all(|checkpoint| self.checkpoints.get(&checkpoint.lane.name()) == Some(checkpoint)) {
            return Ok(());
        }
        let mut all = self.checkpoints.clone();
        all.extend(checkpoints.into_iter().map(|checkpoint| (checkpoint.lane.name(), checkpoint)));
        write_json(&self.root.join(CHECKPOINTS_FILE), &all)?;
        self.checkpoints = all;
        Ok(())
    }
}

/// The generations in a directory, which need not be open: for those who must know before they open it which models it needs.
pub(crate) fn generations_in(root: &Path) -> Result<Vec<Collection>, SinkError> {
    let mut found = Vec::new();
    for place in entries(root)? {
        found.extend(generation_at(&place)?);
    }
    found.sort_by_key(Collection::generation);
    Ok(found)
}

/// The generation that has this directory; none where it has another or is not complete.
fn generation_at(place: &Path) -> Result<Option<Collection>, SinkError> {
    let file = place.join(COLLECTION_FILE);
    if place.extension().is_some() || !file.exists() {
        return Ok(None);
    }
    let found: Collection = read_json(&file)?;
    let is_own = place.file_name().is_some_and(|name| *name == *found.generation());
    Ok(is_own.then_some(found))
}

fn entries(root: &Path) -> Result<Vec<PathBuf>, SinkError> {
    let listed = fs::read_dir(root).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    listed.map_err(|e| failed("list", root, e))
}

/// What a file takes of the disk: its files are made larger than what is in them.
#[cfg(unix)]
fn allocated(data: &fs::Metadata) -> u64 {
    // In units of 512 bytes, whatever the file system's own are.
    std::os::unix::fs::MetadataExt::blocks(data) * 512
}

#[cfg(not(unix))]
fn allocated(data: &fs::Metadata) -> u64 {
    data.len()
}

/// A directory without a format must be empty, or it is somebody else's.
fn refuse_foreign(root: &Path) -> Result<(), SinkError> {
    for entry in fs::read_dir(root).map_err(|e| failed("list", root, e))? {
        let name = entry.map_err(|e| failed("list", root, e))?.file_name();
        if !turns::is_own(&name.to_string_lossy()) && name != format!("{FORMAT_FILE}.new").as_str() {
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

pub(crate) fn failed(what: &str, place: &Path, error: io::Error) -> SinkError {
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
