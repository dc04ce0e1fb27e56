//! Distributary reads the change feeds of Delta Lake tables and carries each change, and nothing else, into a column
//! store, a property graph and a vector index.
//!
//! The flow, and the rooms it passes through:
//!
//! ```text
//! changes   Delta tables            → net changes: the records before and after     (Arrow)
//! mapping   net changes             → rows of each target, diffed by key            (Arrow)
//! embed     texts of changed rows   → vectors
//! sinks     upserts and deletes     → ClickHouse | graph | vectors, checkpoints with them
//! sync      the loop that joins them; speaks only contracts
//! ```
//!
//! `ARCHITECTURE.md` has the invariants and names the test that holds each.

pub mod changes;
pub mod cli;
pub mod config;
pub mod embed;
pub mod fetch;
pub mod mapping;
pub mod report;
pub mod rows;
pub mod sample;
pub mod secret;
pub mod sinks;
pub mod sync;
pub mod telemetry;

// The fronts of `tests/` name the crate as they do from outside.
#[cfg(test)]
extern crate self as distributary;
