//! Every other processor: the matrix library that candle multiplies with, plain loops for the rest.

#![allow(unsafe_code)] // The library takes addresses.

use super::{Attention, Kernel, Operand, Packed, Room, Then, from_row, pool, task};
use crate::attention::attention;
use crate::dot::F32One;
use crate::pack::Format;
use crate::rows::{convert, layer_norm};
use crate::simd::{Lanes, One};
use crate::tile::finish;
use crate::{Pooling, Precision};

/// Rows of every call. The library chooses its loops by the shape, so all calls have one shape, and a row's sums one order: rows that
/// are missing are filled up with zeros.
const ROWS: usize = 32;

/// The kernel.
#[derive(Debug)]
pub(crate) struct Gemm {
    precision: Precision,
}

impl Gemm {
    /// The kernel, which runs anywhere.
    pub(crate) fn new(precision: Precision) -> Self {
        Self { precision }
    }
}

impl Kernel for Gemm {
    fn name(&self) -> &'static str {
        "gemm"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed {
        Packed::new(weight, bias, depth, Format::F32 { like: self.precision }, bias.len(), 1)
    }

    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
        assert!(weights.format == Format::F32 { like: self.precision }, "weights of this kernel");
        let (depth, columns) = (weights.depth, weights.columns);
        let mut sums = vec![0.0_f32; ROWS * columns];
        for (number, rows) in x.chunks(ROWS * depth).enumerate() {
            let count = rows.len() / depth;
            convert::<One>(rows, depth, weights.format, depth, operand);
            operand.units.as_mut()[count * depth..ROWS * depth].fill(0);
            multiply(operand.units.as_floats(), weights, &mut sums);
            let task = task(operand.units.as_slice(), depth, count, weights, from_row(then, number * ROWS, columns));
            let out = &mut out[number * ROWS * columns..];
            task.check(columns, out);
            for row in 0..count {
                for column in 0..columns {
                    finish(&task, One::splat(sums[row * columns + column]), row, column, out);
                }
            }
        }
    }

    fn attention(&self, task: &Attention<'_>, out: &mut [f32], room: &mut Room) {
        attention::<F32One, 4, 4>(task, out, room);
    }

    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
        layer_norm::<One>(x, gamma, beta, epsilon);
    }

    fn pool(&self, rows: &[f32], pooling: Pooling, normalize: bool, out: &mut [f32]) {
        pool::<One>(rows, pooling, normalize, out);
    }
}

/// `sums = rows · weights`, all of them in one panel.
fn multiply(rows: &[f32], weights: &Packed, sums: &mut [f32]) {
    let (depth, columns) = (weights.depth, weights.columns);
    assert!(rows.len() >= ROWS * depth && weights.units.as_floats().len() >= depth * columns && sums.len() >= ROWS * columns);
    // SAFETY: the three matrices have been seen to hold as many numbers as their shapes and steps say.
    unsafe {
        gemm::gemm(
            ROWS,
            columns,
            depth,
            sums.as_mut_ptr(),
            1,
            columns.cast_signed(),
            false,
            rows.as_ptr(),
            1,
            depth.cast_signed(),
            weights.units.as_floats().as_ptr(),
            1,
            columns.cast_signed(),
            0.0,
            1.0,
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}
