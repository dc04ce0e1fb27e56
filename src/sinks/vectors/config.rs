//! What a person sets for the vector sink, and the limits and names that follow from it.

use std::path::PathBuf;

use xxhash_rust::xxh3::xxh3_64;

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

impl VectorsOptions {
    /// The name of the directory that holds the collection as this model sees it.
    pub(crate) fn generation(&self, collection: &str) -> String {
        let identity = format!("{}\0{}", self.model, self.dimensions);
        format!("{collection}__{:016x}", xxh3_64(identity.as_bytes()))
    }
}

/// Whether the name can be a collection's, which is a part of file names.
pub(crate) fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}
