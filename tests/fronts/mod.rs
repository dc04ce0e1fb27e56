//! Real engines behind the protocols of their servers, for tests: each front runs in this process on a loopback port and ends when it
//! is dropped. They obey the servers' documentation, and the servers' own clients are run against them (`tests/servers.sh`).

pub(crate) mod clickhouse;
pub(crate) mod pinecone;
pub(crate) mod qdrant;
#[allow(dead_code, reason = "the program of the fronts serves without TLS")]
pub(crate) mod tls;

impl clickhouse::Front {
    /// Starts a ClickHouse server over the engine of this process.
    pub(crate) fn start() -> Self {
        let (directory, library) = crate::engine_place();
        Self::over(directory, &library)
    }
}
