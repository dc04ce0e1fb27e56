//! The program against servers that are running. A test that needs a server says in which variable of the environment it wants its
//! address, and fails without it: `tests/servers.sh` starts the servers and names them. Not a part of `cargo test` alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "the other tests need the rest")]

#[path = "../conformance/mod.rs"]
mod conformance;
mod neo4j;
#[path = "../support/mod.rs"]
mod support;

use support::command;

/// The value of a variable that names a server.
fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run tests/servers.sh, which starts the server"))
}
