//! Where the column store is, how it is reached and how much it may take. Plain data: nothing is opened or checked here.

use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use crate::secret::Secret;

/// The database that is used when none is named: the one every engine has.
pub(crate) const DEFAULT_DATABASE: &str = "default";

/// What one statement may take by default. Inserts and reads of the engine's own need far less; this leaves room for a person's
/// `GROUP BY`, which goes to disk at half of it.
pub(crate) const DEFAULT_MEMORY_BYTES_MAX: u64 = 1 << 30;

/// A server that says nothing for so long is given up. Statements of this sink take seconds; the longest are reads of large tables
/// with all their versions, whose answer comes only when it is whole. It is what ClickHouse's own clients wait.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(300);

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

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// `http` or `https`, host and port.
    pub url: Url,
    /// The database that holds the tables. It is made when it is missing.
    pub database: String,
    /// Who asks.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificates that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Whether rows are compressed on their way.
    pub compression: bool,
    /// How long the server may say nothing.
    pub timeout: Duration,
    /// The cluster on which tables and views are made.
    pub cluster: Option<String>,
    /// The table engine, with `{table}` in place of the table's name.
    pub engine: Option<String>,
}

impl ServerOptions {
    /// The server at an address, everything else as usual.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self {
            url,
            database: DEFAULT_DATABASE.to_owned(),
            user: None,
            password: None,
            ca_file: None,
            compression: true,
            timeout: DEFAULT_TIMEOUT,
            cluster: None,
            engine: None,
        }
    }
}
