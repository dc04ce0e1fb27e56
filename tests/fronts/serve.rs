//! A front as a program, for clients in other languages: `cargo run --example fronts -- NAME` prints its address and serves until its
//! standard input ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it prints its address")]

#[path = "mod.rs"]
mod fronts;

use std::path::PathBuf;
use std::sync::Arc;

use distributary::fetch::{self, Wanted};
use tempfile::TempDir;

/// Where the column store's engine of this process is, and its library.
fn engine_place() -> (Arc<TempDir>, PathBuf) {
    let wanted = Wanted { library: true, model: None };
    let paths = fetch::ensure(&wanted, &fetch::Options::from_env(), &mut |_| {}).expect("the front needs the ClickHouse engine");
    (Arc::new(tempfile::tempdir().unwrap()), paths.library.unwrap())
}

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "clickhouse" => {
            let front = fronts::clickhouse::Front::start();
            serve(&front.address());
        }
        other => panic!("there is no front `{other}`"),
    }
}

/// Says where the front is, and waits for the end of the standard input.
fn serve(address: &str) {
    println!("{address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
