//! NEON, which every 64-bit ARM processor has: `f32`, and the shorter precisions in `f32`.

#![allow(unsafe_code)] // Calls of functions that are compiled for instructions of the base set.

use super::{Kernel, Operand, Packed, Then, compiled, linear_for};
use crate::Precision;
use crate::dot::neon::F32;
use crate::pack::Format;
use crate::simd::neon::F32x4;

/// Columns a panel: three vectors, with eight rows the shape that fits into 32 registers.
const WIDTH: usize = 12;

/// The kernel.
#[derive(Debug)]
pub(crate) struct Neon {
    precision: Precision,
}

impl Neon {
    /// The kernel; there is none without.
    pub(crate) fn new(precision: Precision) -> Self {
        Self { precision }
    }
}

linear_for!(linear_f32, F32, 8, 3, "neon");

impl Kernel for Neon {
    fn name(&self) -> &'static str {
        "neon"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed {
        Packed::new(weight, bias, depth, Format::F32 { like: self.precision }, WIDTH, 1)
    }

    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
        assert!(weights.format == Format::F32 { like: self.precision } && weights.width == WIDTH, "weights of this kernel");
        // SAFETY: NEON is part of the base instruction set.
        unsafe { linear_f32(x, weights, then, out, operand) }
    }

    compiled!(F32x4, F32, 8, 3, "neon");
}
