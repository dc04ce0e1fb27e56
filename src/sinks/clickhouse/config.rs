//! Where the embedded column store lives and how much it may take. Plain data: nothing is opened or checked here.

use std::path::PathBuf;

/// The database that is used when none is named: the one every engine has.
pub(crate) const DEFAULT_DATABASE: &str = "default";

/// What one statement may take by default. Inserts and reads of the engine's own need far less; this leaves room for a person's
/// `GROUP BY`, which goes to disk at half of it.
pub(crate) const DEFAULT_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// How to open the embedded engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClickhouseOptions {
    /// The engine's directory. It is made when it is missing, and held by one process at a time.
    pub path: PathBuf,
    /// The engine itself: `libchdb.so`.
    pub library: PathBuf,
    /// The database that holds the tables. It is made when it is missing.
    pub database: String,
    /// Whether a write that was answered also survives a loss of power. It survives the end of the process either way. Costs one
    /// to four milliseconds an insert on a local disk.
    pub fsync: bool,
    /// Bytes that one statement may take.
    pub memory_bytes_max: u64,
}

impl ClickhouseOptions {
    /// The options with a default for everything but the two paths.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>, library: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            library: library.into(),
            database: DEFAULT_DATABASE.to_owned(),
            fsync: true,
            memory_bytes_max: DEFAULT_MEMORY_BYTES_MAX,
        }
    }
}
