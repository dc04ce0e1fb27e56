//! The forward pass as an operation on candle's tensors: tokens in, a vector for each sequence out.

use std::cell::RefCell;

use candle_core::{CpuStorage, CustomOp1, Device, Layout, Result, Shape, Tensor};
use kernels::{Encoder, Pooling, Scratch};

use crate::embed::manifest::{self, Manifest};

/// What becomes of the last layer.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    pooling: Pooling,
    normalize: bool,
}

impl From<&Manifest> for End {
    fn from(manifest: &Manifest) -> Self {
        let pooling = match manifest.pooling {
            manifest::Pooling::Mean => Pooling::Mean,
            manifest::Pooling::Cls => Pooling::Cls,
        };
        Self { pooling, normalize: manifest.normalize }
    }
}

/// The operation, with the buffers that it uses.
struct Encode<'a> {
    model: &'a Encoder,
    lengths: &'a [usize],
    end: End,
    scratch: RefCell<&'a mut Scratch>,
}

impl CustomOp1 for Encode<'_> {
    fn name(&self) -> &'static str {
        "encode"
    }

    /// `u32` tokens, sequence after sequence, to `f32` of the shape (sequences, hidden).
    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (CpuStorage::U32(tokens), Some((start, end))) = (storage, layout.contiguous_offsets()) else {
            candle_core::bail!("tokens are contiguous numbers of 32 bits")
        };
        let hidden = self.model.shape().hidden;
        let mut out = vec![0.0_f32; self.lengths.len() * hidden];
        let End { pooling, normalize } = self.end;
        let scratch = &mut **self.scratch.try_borrow_mut().map_err(candle_core::Error::wrap)?;
        self.model
            .encode(&tokens[start..end], self.lengths, pooling, normalize, scratch, &mut out)
            .map_err(candle_core::Error::wrap)?;
        Ok((CpuStorage::F32(out), Shape::from((self.lengths.len(), hidden))))
    }
}

/// The vectors of sequences that lie one after another in `tokens`.
///
/// # Errors
/// When a token or a length is none of the model's.
pub(super) fn encode(model: &Encoder, tokens: Vec<u32>, lengths: &[usize], end: End, scratch: &mut Scratch) -> Result<Vec<f32>> {
    let count = tokens.len();
    let tokens = Tensor::from_vec(tokens, count, &Device::Cpu)?;
    let op = Encode { model, lengths, end, scratch: RefCell::new(scratch) };
    tokens.apply_op1_no_bwd(&op)?.flatten_all()?.to_vec1()
}
