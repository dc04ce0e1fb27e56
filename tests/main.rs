//! Everything that is tested from outside, in one binary: the engines' contract, the model, crashes, the command line, bad input, mappings, and the rules that
//! the source keeps.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod cli;
mod clickhouse_http;
mod conformance;
mod crash;
mod embedded;
mod fronts;
mod leases;
mod mappings;
mod model;
mod net_change;
mod overlap;
mod pinecone_rest;
mod qdrant_grpc;
mod reembed;
mod repair;
mod secrets;
mod served;
mod support;
mod tidy;

// The fronts ask for it by this name, in whatever program they are.
use support::engines::engine_place;
