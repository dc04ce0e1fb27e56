//! The models of a run, each made once and found by the identity of its vectors. The one place of the loop that chooses embedders.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use crate::embed::{self, Choice, EmbedError, Precision, Worker};

/// What makes vectors, by the identity of what it makes. Threads are started, and weights loaded, when they are first needed.
#[derive(Debug, Default)]
pub struct Models {
    /// Where the files of models lie, by name.
    files: BTreeMap<String, PathBuf>,
    made: Mutex<HashMap<String, Arc<Worker>>>,
}

impl Models {
    /// Models whose files lie in these directories.
    #[must_use]
    pub fn new(files: BTreeMap<String, PathBuf>) -> Self {
        Self { files, made: Mutex::default() }
    }

    /// What makes the vectors of a choice; none for [`Choice::Off`].
    ///
    /// # Errors
    /// [`EmbedError::Model`] when its files are not here.
    pub fn make(&self, choice: &Choice, precision: Precision) -> Result<Option<Arc<Worker>>, EmbedError> {
        let files = choice.model().and_then(|name| self.files.get(name));
        let Some(worker) = embed::worker(choice, precision, files.map(PathBuf::as_path))? else { return Ok(None) };
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Some(made.entry(worker.identity().to_owned()).or_insert_with(|| Arc::new(worker)).clone()))
    }

    /// What makes vectors of this identity, or why there is nothing that does.
    pub(super) fn of(&self, identity: &str) -> Result<Arc<Worker>, String> {
        if let Some(made) = self.made.lock().unwrap_or_else(PoisonError::into_inner).get(identity) {
            return Ok(made.clone());
        }
        let (choice, precision) = embed::of_identity(identity).ok_or_else(|| format!("this release has no model {identity}"))?;
        let made = self.make(&choice, precision).map_err(|error| error.to_string())?;
        let made = made.ok_or_else(|| format!("{identity} makes no vectors"))?;
        // Of files that come by path the content decides.
        if made.identity() == identity {
            Ok(made)
        } else {
            Err(format!("the files given for {choice} are those of {}, and not of {identity}", made.identity()))
        }
    }
}

/// How a person names the model of an identity, behind `--model`.
pub(super) fn shown(identity: &str) -> String {
    match embed::of_identity(identity) {
        Some((choice @ Choice::Model(_), precision)) => format!("{choice} --precision {}", precision.name()),
        Some((choice, _)) => choice.to_string(),
        None => identity.to_owned(),
    }
}
