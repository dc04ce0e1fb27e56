//! See `../properties/mapping.rs`, which the project's tests try, too.

#![no_main]

#[path = "../properties/mapping.rs"]
mod mapping;

libfuzzer_sys::fuzz_target!(|text: &str| mapping::holds(text));
