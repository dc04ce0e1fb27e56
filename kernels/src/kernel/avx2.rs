//! AVX2 with FMA: `f32`, 8-bit numbers by way of 16 bits, and `bf16` in `f32`.

#![allow(unsafe_code)] // Calls of functions that are compiled for instructions which were asked for.

use super::{Kernel, Operand, Packed, Then, compiled, linear_for};
use crate::Precision;
use crate::dot::avx2::{F32, Int8};
use crate::pack::Format;
use crate::simd::avx2::F32x8;

/// Columns a panel: two vectors, with six rows the shape that fits into sixteen registers, and narrow enough that a panel of a small
/// model's inputs stays in the nearest cache.
const WIDTH: usize = 16;

/// The kernel.
#[derive(Debug)]
pub(crate) struct Avx2 {
    precision: Precision,
    format: Format,
}

impl Avx2 {
    /// The kernel, where the processor has the instructions.
    pub(crate) fn find(precision: Precision) -> Option<Self> {
        let found = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let format = if precision == Precision::Int8 { Format::Int8InPairs } else { Format::F32 { like: precision } };
        found.then_some(Self { precision, format })
    }
}

linear_for!(linear_f32, F32, 6, 2, "avx2,fma");
linear_for!(linear_int8, Int8, 6, 2, "avx2,fma");

impl Kernel for Avx2 {
    fn name(&self) -> &'static str {
        "avx2"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed {
        Packed::new(weight, bias, depth, self.format, WIDTH, 1)
    }

    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
        assert!(weights.format == self.format && weights.width == WIDTH, "weights of this kernel");
        // SAFETY: the processor was asked for the instructions of the format when the kernel was made.
        unsafe {
            match self.format {
                Format::F32 { .. } => linear_f32(x, weights, then, out, operand),
                Format::Bf16 | Format::Int8 | Format::Int8InPairs => linear_int8(x, weights, then, out, operand),
            }
        }
    }

    compiled!(F32x8, F32, 6, 2, "avx2,fma");
}
