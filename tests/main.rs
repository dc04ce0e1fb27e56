//! Everything that is tested from outside, in one binary: the model, crashes, the command line, bad input, mappings, and the rules that
//! the source keeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod cli;
mod crash;
mod fronts;
mod mappings;
mod model;
mod net_change;
mod overlap;
mod reembed;
mod repair;
mod support;
mod tidy;
