//! Texts in, vectors out, on this machine. Synchronous at its core: a model lives on one thread of its own behind a bounded
//! queue. This room knows no sink, no Delta table and no mapping.

use std::ops::Range;

/// Makes vectors of texts. Not shared between threads: [`Worker`] owns one.
pub trait Embedder: Send {
    /// Names the model and everything about it that changes a vector: `all-MiniLM-L6-v2@1a2b3c4d`.
    fn identity(&self) -> &str;

    /// Length of every vector.
    fn dimensions(&self) -> usize;

    /// Splits a text into the pieces that get a vector each: byte ranges in order, which overlap where the text is longer than the
    /// model takes, and together leave out nothing but white space. A blank text has no pieces.
    ///
    /// # Errors
    /// [`EmbedError`] when the tokenizer fails.
    fn chunk(&self, text: &str) -> Result<Vec<Range<usize>>, EmbedError>;

    /// One vector for each text, in the same order. The same text gives the same vector, alone or among others.
    ///
    /// # Errors
    /// [`EmbedError`] when the model fails; nothing is left out silently.
    fn embed(&mut self, texts: &[&str]) -> Result<Vec<Vec<f32>>, EmbedError>;
}

/// Why there are no vectors.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// The model's files are missing, damaged or of another model.
    #[error("model {model}: {message}")]
    Model {
        /// The model's name.
        model: String,
        /// What is wrong, and what to do.
        message: String,
    },
    /// The tokenizer or the forward pass failed.
    #[error("embedding failed: {0}")]
    Failed(String),
}
