//! The vector index: points, payloads and chunks.
//!
//! `edge:./path` is the engine in this process (Qdrant Edge), `qdrant://host:6334` a server. What a point is, and how a row becomes
//! one, is the same whatever the engine: [`encode`] and [`payload`] are pure, [`sink`] keeps the contract of [`crate::sinks::Sink`] on
//! top of [`store::Store`], and `client` and [`qdrant`] are such stores, each the only user of its driver.
//!
//! **A point** is one chunk of one row's text. Its id is the UUIDv5 of (collection, table, key, chunk). Its payload holds `_table`, the
//! row's columns under their names, `_chunk`, `_chunks`, `_start`, `_end`, `_text_hash`, `_model`, `_version`, and two entries for the
//! sink's own use: `_record`, a hash of table and Silver key by which all chunks of a record are found, and `_probe`, by which a vector
//! is known to be the one that the payload was written with.
//!
//! **Generations.** A collection is a directory `<name>__<fingerprint of the model>`; the file `<name>.alias` says which generation
//! is in service, and which one was before. A sink works on the generation of its own model; the alias moves when it is told to
//! ([`crate::sinks::Sink::promote`]), and the old generation stays until it is dropped.

mod client;
mod config;
mod directory;
mod encode;
mod moves;
mod payload;
mod pinecone;
mod qdrant;
mod remote;
mod sink;
mod store;
mod text;
mod turns;

pub use config::{PineconeOptions, QdrantOptions, Quantization, VectorsOptions};
pub(crate) use pinecone::notes as pinecone_notes;
pub(crate) use sink::check;
pub use sink::{VectorsSink, models_at, models_at_pinecone, models_at_qdrant, open, open_giving_way, open_pinecone, open_qdrant};
