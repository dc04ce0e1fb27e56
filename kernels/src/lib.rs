//! The forward pass of BERT encoders on a CPU: weights packed once, kernels chosen at run time, three precisions behind one trait.
//! Knows tokens and tensors; knows no file, no tokenizer and no text.
//!
//! It is a package of its own because its loops are of use only when compiled with optimisation, which a development build gives
//! to packages, not to modules.
//!
//! **A sequence's vector depends on its tokens, the model, the kernel and the precision alone, to the last bit**: not on its batch,
//! its place or the number of threads. Every sum runs in an order that follows from its own length.

mod attention;
mod dot;
mod forward;
pub mod kernel;
mod math;
mod pack;
mod rows;
mod simd;
#[cfg(test)]
mod tests;
mod tile;

pub use forward::{Encoder, Scratch, Shape, Table, Words, Wrong};

/// What the products of a forward pass are made in. Sums are `f32` (32-bit whole numbers for [`Precision::Int8`]), and so is
/// everything between products.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Precision {
    /// 32-bit numbers: the vectors of the reference to seven digits.
    F32,
    /// Weights and activations rounded to `bf16`, eight bits of fraction.
    Bf16,
    /// Weights as 8-bit numbers with a scale for each output, activations with a scale and a least number for each token.
    Int8,
}

impl Precision {
    /// All of them, the most exact first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::Int8];

    /// `f32`, `bf16` or `int8`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

impl std::str::FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|precision| precision.name() == text);
        found.ok_or_else(|| format!("{text:?} is no precision: it is f32, bf16 or int8"))
    }
}

/// How the rows of a sequence become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// The mean of all rows.
    Mean,
    /// The first row, of the token `[CLS]`.
    Cls,
}
