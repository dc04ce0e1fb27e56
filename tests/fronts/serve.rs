//! A front as a program, for clients in other languages: `cargo run --example fronts -- NAME` prints its address and serves until its
//! standard input ends.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(clippy::print_stdout, reason = "it prints its address")]

fn main() {
    let name = std::env::args().nth(1).unwrap_or_default();
    match name.as_str() {
        other => panic!("there is no front `{other}`"),
    }
}
