//! What a person sets for the vector sink, and the limits and names that follow from it.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;
use xxhash_rust::xxh3::xxh3_64;

use crate::secret::Secret;

/// The sink's name in errors and reports.
pub(crate) const SINK: &str = "vectors";

/// Points in one operation of the engine: some hundred kilobytes of log, far below a log segment.
pub(crate) const POINTS_AN_OPERATION: usize = 256;

/// Values in one "any of these" filter.
pub(crate) const VALUES_A_FILTER: usize = 2_000;

/// Longest name of a collection: with the fingerprint it stays below what file systems allow.
pub(crate) const NAME_LENGTH_MAX: usize = 200;

/// Where the vectors are and which model makes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VectorsOptions {
    /// The engine's directory. Made when it is not there.
    pub path: PathBuf,
    /// Identity of the model: names everything that changes a vector.
    pub model: String,
    /// Length of every vector.
    pub dimensions: usize,
}

/// One generation of a collection: the collection as one model makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collection {
    /// The collection.
    #[serde(rename = "collection")]
    pub(crate) name: String,
    /// The identity of the model that makes its vectors.
    pub(crate) model: String,
    /// Length of its vectors.
    pub(crate) dimensions: usize,
}

impl Collection {
    /// The name under which an engine knows the generation: its directory's.
    pub(crate) fn generation(&self) -> String {
        let identity = format!("{}\0{}", self.model, self.dimensions);
        format!("{}__{:016x}", self.name, xxh3_64(identity.as_bytes()))
    }
}

/// Whether the name can be a collection's, which is a part of file names.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// How to reach a Qdrant server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QdrantOptions {
    /// `qdrant` or, with TLS, `qdrant+s`; host and port of gRPC.
    pub url: Url,
    /// The server's key.
    pub api_key: Option<Secret>,
    /// Certificates that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Whether new collections keep vectors and payloads on disk.
    pub on_disk: bool,
    /// How vectors of new collections are quantized.
    pub quantization: Option<Quantization>,
    /// How long one request may take.
    pub timeout: Duration,
}

/// How a server keeps smaller copies of vectors, to be quicker with less memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantization {
    /// A byte for each component.
    Scalar,
    /// A bit for each component.
    Binary,
}

impl FromStr for Quantization {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "scalar" => Ok(Self::Scalar),
            "binary" => Ok(Self::Binary),
            other => Err(format!("`{other}` is no way to quantize vectors: write scalar or binary, or leave it out")),
        }
    }
}

/// A server that optimises a large collection answers a write after some seconds, seldom later.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

impl QdrantOptions {
    /// The server at an address, everything else as usual.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self { url, api_key: None, ca_file: None, on_disk: false, quantization: None, timeout: DEFAULT_TIMEOUT }
    }
}

/// How to reach an index of Pinecone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PineconeOptions {
    /// The index. It is made when it is missing.
    pub index: String,
    /// The key of the project.
    pub api_key: Option<Secret>,
    /// Certificates that the servers' are to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// The cloud of a new index.
    pub cloud: String,
    /// The region of a new index.
    pub region: String,
    /// The address of the control plane.
    pub controller: String,
}

impl PineconeOptions {
    /// The index of this name, everything else as usual.
    #[must_use]
    pub fn of(index: &str) -> Self {
        Self {
            index: index.to_owned(),
            api_key: None,
            ca_file: None,
            cloud: "aws".to_owned(),
            region: "us-east-1".to_owned(),
            controller: "https://api.pinecone.io".to_owned(),
        }
    }
}
