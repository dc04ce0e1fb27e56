//! A front as a program, for clients in other languages: `cargo run --example fronts -- NAME` prints its address and serves until its
//! standard input ends. `load-qdrant ADDRESS DIRECTORY` is for the benchmark of that name.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it prints its address")]
#![allow(dead_code, reason = "tests use the rest")]

mod load;
mod qdrant;

use std::io::Read as _;

fn main() {
    let (name, option) = (std::env::args().nth(1).unwrap_or_default(), std::env::args().nth(2));
    match name.as_str() {
        "qdrant" => {
            let is_strict = option.as_deref() == Some("strict");
            let key = option.filter(|_| !is_strict);
            let front = qdrant::Front::with(qdrant::Rules { key, strict: is_strict, ..qdrant::Rules::default() });
            serve(&front.address());
        }
        "load-qdrant" => {
            let address = option.expect("an address, and a directory with points.jsonl and vectors.f32");
            load::load(&address, std::path::Path::new(&std::env::args().nth(3).unwrap()));
        }
        other => panic!("there is no front `{other}`"),
    }
}

/// Prints the address and waits until standard input ends.
fn serve(address: &str) {
    println!("{address}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
