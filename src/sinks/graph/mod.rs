//! The property graph: nodes, relationships and stubs in Cypher.
//!
//! A record of a [`Shape::Node`](crate::mapping::target::Shape::Node) target is a node, a row of a
//! [`Shape::Relationship`](crate::mapping::target::Shape::Relationship) target a relationship. A relationship whose end has no
//! record makes a *stub* there and owns it until the record comes, so the graph is a function of the rows it was given and not
//! of their order. Data and checkpoints are one transaction: they become visible together.
//!
//! - `config`: where the graph lives.
//! - `encode`, `decode`, `calendar`: Arrow values as properties, and back; pure.
//! - `cypher`: targets as labels and types, and the statements; pure.
//! - `labels`: what all targets together need; pure.
//! - `fresh`: what this sink knows because it made it so: types that were empty, nodes that have their records; pure.
//! - `stubs`: who owns a node; pure.
//! - `rows`: a batch as rows; pure.
//! - `apply`: a batch, from rows to statements.
//! - `pace`: how much goes into one statement and one transaction; pure.
//! - `client`: the one user of the embedded engine, and what any engine must do.
//! - `bolt`: the one user of a server: values, errors, leases.
//! - `rest`: a graph whose engine is not running, because nobody needs more than its checkpoints.
//! - `transaction`: what was accepted and is not durable yet.
//! - `sink`: the contract.
//!
//! It knows nothing of other sinks, of Delta or of SQL.

mod apply;
mod bolt;
mod calendar;
mod client;
mod config;
mod cypher;
mod decode;
mod encode;
mod fresh;
mod labels;
mod pace;
mod rest;
mod rows;
mod sink;
mod stubs;
#[cfg(test)]
mod tests;
mod transaction;

pub use config::{GraphOptions, ServerOptions};
pub(crate) use cypher::check;
pub use sink::{GraphSink, open, open_server};
