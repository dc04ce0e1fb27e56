//! What the graph sink can be told. Knows nothing of files or engines.

use std::path::PathBuf;

use url::Url;

use crate::secret::Secret;

/// Rows of one `UNWIND`: large enough that parsing and planning a statement cost little beside its rows, small enough that a
/// server would still take it as one message.
pub(crate) const DEFAULT_BATCH_ROWS: usize = 5_000;

/// Log that may gather before it is folded into the graph's file: opening reads some 80 MB of it a second, and the file a little faster.
pub(crate) const DEFAULT_LOG_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Where the graph lives and how it is written.
#[derive(Debug, Clone)]
pub struct GraphOptions {
    /// The graph's directory, made when it is missing. `None` keeps the graph in memory, for tests.
    pub path: Option<PathBuf>,
    /// Rows of one statement.
    pub batch_rows: usize,
    /// Bytes of log that may gather before they are folded into the graph's file.
    pub log_bytes_max: u64,
}

impl GraphOptions {
    /// The graph in this directory, everything else as usual.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::in_memory() }
    }

    /// A graph that is gone when it is closed.
    #[must_use]
    pub fn in_memory() -> Self {
        Self { path: None, batch_rows: DEFAULT_BATCH_ROWS, log_bytes_max: DEFAULT_LOG_BYTES_MAX }
    }
}

/// How to reach a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerOptions {
    /// `bolt`, `bolt+s`, `neo4j` or `neo4j+s`, host and port.
    pub url: Url,
    /// The database; the user's home database when absent.
    pub database: Option<String>,
    /// Who asks.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// Certificates that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Rows of one statement.
    pub batch_rows: usize,
}

impl ServerOptions {
    /// The server at an address, everything else as usual.
    #[must_use]
    pub fn at(url: Url) -> Self {
        Self { url, database: None, user: None, password: None, ca_file: None, batch_rows: DEFAULT_BATCH_ROWS }
    }
}
