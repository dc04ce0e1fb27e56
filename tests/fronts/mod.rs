//! Real engines behind the protocols of their servers, for tests: each front runs in this process on a loopback port and ends when it
//! is dropped. They obey the servers' documentation, and the servers' own clients are run against them (`tests/servers.sh`).

pub(crate) mod pinecone;
