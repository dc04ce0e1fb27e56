//! See `../properties/difference.rs`, which the project's tests try, too.

#![no_main]

#[path = "../properties/difference.rs"]
mod difference;

libfuzzer_sys::fuzz_target!(|operations: &[u8]| difference::holds(operations));
