//! Pinecone as a [`super::store::Store`], by its REST API of 2025-10.
//!
//! **Indexes.** The index of the configuration is found or made by the control plane. An index has vectors of one length: a generation
//! of another length has the index `<name>-<length>` beside it, made when it is first needed.
//!
//! **Namespaces.** A generation of a collection is the namespace `<collection>__<fingerprint of the model>`. The namespace
//! `_distributary` of the configured index holds what is known of them: which there are, the pointer of each collection (which
//! serves, which did before; one write moves it), the checkpoints, and the leases.
//!
//! **Reading what was written.** Pinecone answers writes before reads see them. Each write answers its number in the log of its namespace,
//! each read the number up to which it sees; a read that must see a write is repeated until it does. What others wrote
//! before is seen by the same means: to delete an id that nobody has is a write, whose number is above all theirs.
//!
//! **What it does not guarantee.** There is no compare-and-set. A lease is a claim that is written and then looked at together with all
//! others ([`records`]); a checkpoint is compared after a read that sees everything written before, and then written. A writer that
//! is paused between the two, for longer than its lease lasts, and then goes on, can bring back an older state of the rows or the checkpoint
//! that it was about to write. An older checkpoint is harmless: it repeats work. The other run notices it, because its next move does
//! not fit. Older rows stay until their records change, or `verify` finds them.

mod client;
mod control;
mod encode;
mod errors;
mod index;
mod records;
mod store;

pub(crate) use encode::notes;
pub(super) use store::PineconeStore;
