//! A front as a program, for clients in other languages: `cargo run --example fronts -- NAME` prints its address and serves until its
//! standard input ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it prints its address")]
#![allow(dead_code, reason = "tests use the rest")]

mod pinecone;

use std::io::Read as _;

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        "pinecone" => {
            let front = pinecone::Front::start();
            serve(&front.address());
            let violations = front.violations();
            assert!(violations.is_empty(), "{violations:#?}");
        }
        other => panic!("there is no front `{other}`"),
    }
}

/// Prints the address and waits until standard input ends.
fn serve(address: &str) {
    println!("{address}");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}
