//! A graph at rest: its directory is held, its engine is not running. The engine reads all it holds when it starts, and a run that has
//! nothing for the graph asks for no more than the checkpoints, which are noted beside it when it is closed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::sinks::{Checkpoint, Class, SinkError};

use super::client::{Directory, FORMAT_FILE, Grafeo, LOCK_FILE};
use super::config::GraphOptions;
use super::cypher::SINK;
use super::transaction::Graph;

const NOTES_FILE: &str = "checkpoints.json";

/// A graph, running or not.
pub(super) enum State {
    Resting(Box<Resting>),
    Awake {
        graph: Box<Graph>,
        /// The directory of an embedded engine that keeps one.
        path: Option<PathBuf>,
    },
    Closed,
    /// Its engine did not start, for this reason.
    Failed(Class, String),
}

pub(super) struct Resting {
    directory: Directory,
    options: GraphOptions,
    notes: Notes,
}

/// What is known of a graph that was closed.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Notes {
    /// The engine's files: name, bytes, and when they were written in nanoseconds of Unix time. The notes are about these files alone.
    files: BTreeMap<String, (u64, u128)>,
    /// Checkpoints by lane, as they are stored.
    checkpoints: BTreeMap<String, String>,
}

impl State {
    /// Takes the graph's directory. The engine is started at once where there are no notes of it.
    pub(super) fn open(options: GraphOptions) -> Result<Self, SinkError> {
        let Some(path) = &options.path else { return start(None, options) };
        let directory = Directory::take(path)?;
        match Notes::read(directory.path()) {
            Some(notes) => Ok(Self::Resting(Box::new(Resting { directory, options, notes }))),
            None => start(Some(directory), options),
        }
    }

    /// The checkpoints of a graph at rest.
    pub(super) fn noted(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Resting(resting) => Some(&resting.notes.checkpoints),
            _ => None,
        }
    }

    /// The graph, its engine started.
    pub(super) fn awake(&mut self) -> Result<&mut Graph, SinkError> {
        if let Self::Resting(_) = self
            && let Self::Resting(resting) = std::mem::replace(self, Self::Closed)
        {
            // What is written from now on they do not know.
            let removed = fs::remove_file(resting.directory.path().join(NOTES_FILE)).map_err(|cause| {
                SinkError::permanent(SINK, format!("cannot remove {NOTES_FILE} from the graph's directory")).because(cause)
            });
            match removed.and_then(|()| start(Some(resting.directory), resting.options)) {
                Ok(state) => *self = state,
                Err(error) => {
                    *self = Self::Failed(error.class, error.message.clone());
                    return Err(error);
                }
            }
        }
        match self {
            Self::Awake { graph, .. } => Ok(graph),
            Self::Failed(class, message) => Err(SinkError { class: *class, ..SinkError::permanent(SINK, message.clone()) }),
            _ => Err(SinkError::permanent(SINK, "the graph is closed; open it again")),
        }
    }

    /// Ends the engine if it runs, and lets go of the directory.
    pub(super) fn close(&mut self) -> Result<(), SinkError> {
        if let Self::Awake { mut graph, path } = std::mem::replace(self, Self::Closed) {
            let Some(path) = path else { return graph.leave() };
            let checkpoints = graph.close()?;
            if let Err(error) = Notes::write(&path, checkpoints) {
                tracing::info!(%error, "no notes of the graph were left; the next run starts its engine to read the checkpoints");
            }
        }
        Ok(())
    }
}

fn start(directory: Option<Directory>, options: GraphOptions) -> Result<State, SinkError> {
    let engine = Grafeo::start(directory, &options)?;
    Ok(State::Awake { graph: Box::new(Graph::new(Box::new(engine), options.batch_rows)), path: options.path })
}

/// Checkpoints from the texts that are stored, by lane.
pub(super) fn read_checkpoints(stored: &BTreeMap<String, String>) -> Result<Vec<Checkpoint>, SinkError> {
    let read = stored.iter().map(|(lane, text)| {
        serde_json::from_str(text).map_err(|cause| {
            let message =
                format!("the checkpoint of {lane} cannot be read; use the program that wrote it, or sync into a new graph");
            SinkError::stop(SINK, message).because(cause)
        })
    });
    read.collect()
}

impl Notes {
    /// The notes in this directory, if they are about the files that are there.
    fn read(directory: &Path) -> Option<Self> {
        let notes: Self = serde_json::from_slice(&fs::read(directory.join(NOTES_FILE)).ok()?).ok()?;
        (engine_files(directory).ok()? == notes.files).then_some(notes)
    }

    fn write(directory: &Path, checkpoints: BTreeMap<String, String>) -> io::Result<()> {
        let notes = Self { files: engine_files(directory)?, checkpoints };
        let new = directory.join(format!("{NOTES_FILE}.new"));
        fs::write(&new, serde_json::to_vec(&notes)?)?;
        fs::rename(new, directory.join(NOTES_FILE))
    }
}

fn engine_files(directory: &Path) -> io::Result<BTreeMap<String, (u64, u128)>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![directory.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let (path, about) = (entry.path(), entry.metadata()?);
            let name = path.strip_prefix(directory).unwrap_or(&path).to_string_lossy().into_owned();
            if about.is_dir() {
                folders.push(path);
            } else if ![LOCK_FILE, FORMAT_FILE].contains(&name.as_str()) && !name.starts_with(NOTES_FILE) {
                let written = about.modified()?.duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_nanos();
                files.insert(name, (about.len(), written));
            }
        }
    }
    Ok(files)
}
