//! A front as a program, for clients in other languages: `cargo run --features servers --example fronts -- NAME` prints its address and serves until its
//! standard input ends. `load-qdrant ADDRESS DIRECTORY` is for the benchmark of that name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it prints its address")]
#![allow(dead_code, reason = "tests use the rest")]

/// Servers have an allocator of their own, too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

mod load;

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
    let (name, option) = (std::env::args().nth(1).unwrap_or_default(), std::env::args().nth(2));
    match name.as_str() {
        "clickhouse" => {
            let front = fronts::clickhouse::Front::start();
            serve(&front.address());
        }
        "qdrant" => {
            let is_strict = option.as_deref() == Some("strict");
            let key = option.filter(|_| !is_strict);
            let front =
                fronts::qdrant::Front::with(fronts::qdrant::Rules { key, strict: is_strict, ..fronts::qdrant::Rules::default() });
            serve(&front.address());
        }
        "load-qdrant" => {
            let address = option.expect("an address, and a directory with points.jsonl and vectors.f32");
            load::load(&address, std::path::Path::new(&std::env::args().nth(3).unwrap()));
        }
        "pinecone" => {
            let front = fronts::pinecone::Front::start();
            serve(&front.address());
            let violations = front.violations();
            assert!(violations.is_empty(), "{violations:#?}");
        }
        other => panic!("there is no front `{other}`"),
    }
}

/// Says where the front is, and waits for the end of the standard input.
fn serve(address: &str) {
    println!("{address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}
