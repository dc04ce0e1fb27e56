//! AVX-512: alone for `f32`, with BF16 and VNNI for the shorter precisions where the processor has them.

#![allow(unsafe_code)] // Calls of functions that are compiled for instructions which were asked for.

use super::{Kernel, Operand, Packed, Then, compiled, linear_for};
use crate::Precision;
use crate::dot::avx512::{Bf16, F32, Int8};
use crate::pack::Format;
use crate::simd::avx512::F32x16;

/// Columns a panel: three vectors, with eight rows the shape that leaves the load ports time.
const WIDTH: usize = 48;

/// The kernel.
#[derive(Debug)]
pub(crate) struct Avx512 {
    precision: Precision,
    format: Format,
}

impl Avx512 {
    /// The kernels, where the processor has the instructions, the faster first. The instruction for `bf16` is twice as fast as one for
    /// `f32` where AMD made it and half as fast where Intel did (measured on Zen 4 and Sapphire Rapids), so there `f32` numbers that
    /// are rounded to `bf16` come first.
    pub(crate) fn find(precision: Precision) -> Vec<Self> {
        if !(is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512dq"))
        {
            return Vec::new();
        }
        let plain = match precision {
            Precision::Int8 if is_x86_feature_detected!("avx512vnni") => Format::Int8,
            like => Format::F32 { like },
        };
        let mut found = vec![Self { precision, format: plain }];
        if precision == Precision::Bf16 && is_x86_feature_detected!("avx512bf16") {
            found.insert(usize::from(is_intel()), Self { precision, format: Format::Bf16 });
        }
        found
    }
}

/// Whether Intel made the processor (`CPUID`, leaf 0).
fn is_intel() -> bool {
    std::arch::x86_64::__cpuid(0).ebx.to_le_bytes() == *b"Genu"
}

linear_for!(linear_f32, F32, 8, 3, "avx512f,avx512bw,avx512vl,avx512dq");
linear_for!(linear_bf16, Bf16, 8, 3, "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16");
linear_for!(linear_int8, Int8, 8, 3, "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni");

impl Kernel for Avx512 {
    fn name(&self) -> &'static str {
        if self.format == Format::Bf16 { "avx512bf16" } else { "avx512" }
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
                Format::Bf16 => linear_bf16(x, weights, then, out, operand),
                Format::Int8 | Format::Int8InPairs => linear_int8(x, weights, then, out, operand),
            }
        }
    }

    compiled!(F32x16, F32, 8, 3, "avx512f,avx512bw,avx512vl,avx512dq");
}
