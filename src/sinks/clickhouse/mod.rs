//! The column store: tables, views and tombstones in ClickHouse's SQL.
//!
//! A target becomes a `ReplacingMergeTree(_version, _deleted)` whose sort key is the row's identity, and a view
//! `<target>_current` that shows what is there now. A row is replaced by one with a higher `_version` and deleted by a tombstone,
//! so writing the same rows twice changes nothing.
//!
//! - `config`: where the engine is and how much it may take.
//! - `encode`: types, identifiers, literals and statements as text. Pure.
//! - `rows`: what the engine can hold of a batch, and Arrow bytes to and from it. Pure.
//! - `gather`: rows that wait to be inserted together. Pure.
//! - `flights`: those, and inserts that are not answered yet.
//! - `site`: how tables are made: database, cluster, engine. Pure.
//! - `client`: what any ClickHouse must answer, and what its errors mean.
//! - `chdb`, `abi`: the engine inside this process, the only user of its library.
//! - `http`, `settings`, `answer`, `server`: a server; what is asked with each request, what its answers mean, and how it is met.
//! - `tokens`: names by which a server knows an insert that it is sent again.
//! - `checkpoints`, `claims`: how checkpoints are stored, and who writes to a server.
//! - `prepare`: makes tables and views.
//! - `sink`: the contract of [`crate::sinks`].
//!
//! It knows nothing of Delta, of the other sinks or of where rows come from.

mod abi;
mod answer;
mod chdb;
mod checkpoints;
mod claims;
mod client;
mod config;
mod encode;
mod flights;
mod gather;
mod http;
mod prepare;
mod rows;
mod server;
mod settings;
mod sink;
mod site;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod tokens;

pub use config::{ClickhouseOptions, ServerOptions};
pub(crate) use encode::check;
pub use sink::{ClickhouseSink, open, open_server};

/// The sink's name in errors.
pub(crate) const NAME: &str = "clickhouse";
