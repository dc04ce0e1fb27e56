//! The program against servers that are running. Each test says in which variable of the environment it wants the address of its server,
//! and fails without it: `tests/servers.sh` starts the servers and names them. Not a part of `cargo test` alone.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../support/command.rs"]
#[allow(dead_code, reason = "the other tests need more of it")]
mod command;
mod neo4j;

/// The value of a variable that names a server.
fn named(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| panic!("{variable} is not set: run tests/servers.sh, which starts the server"))
}
