//! What a forward pass is made of, behind one trait, and which implementation this processor gets.

#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gemm;
#[cfg(target_arch = "aarch64")]
mod neon;
mod reference;
#[cfg(test)]
pub(crate) use reference::erf;

use std::fmt::Debug;

pub use crate::attention::{Attention, Room};
use crate::dot::Dot;
use crate::pack::{Format, units};
pub use crate::pack::{Operand, Packed};
use crate::rows::{self, convert};
use crate::simd::Lanes;
pub use crate::tile::Then;
use crate::tile::{Task, product};
use crate::{Pooling, Precision};

/// The environment variable that forces a kernel.
pub const KERNEL_VARIABLE: &str = "DISTRIBUTARY_KERNEL";

/// The steps of a forward pass for one instruction set and one precision.
///
/// Each row that comes out depends on its own inputs alone, to the last bit: not on how many rows there are, nor on where it stands.
pub trait Kernel: Debug + Send + Sync {
    /// What [`KERNEL_VARIABLE`] calls it.
    fn name(&self) -> &'static str;

    /// What products are made in; everything else is `f32`.
    fn precision(&self) -> Precision;

    /// Packs a linear layer: `weight` holds `depth` numbers for each output, one output after another; `bias` one for each.
    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed;

    /// `out = then(x · weights + bias)`, for rows of `weights`' depth.
    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand);

    /// Attention, one row out for each row in.
    fn attention(&self, task: &Attention<'_>, out: &mut [f32], room: &mut Room);

    /// Layer normalisation of each row, in place.
    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32);

    /// One vector of the rows of a sequence, scaled to length 1 where `normalize`.
    fn pool(&self, rows: &[f32], pooling: Pooling, normalize: bool, out: &mut [f32]);
}

/// The kernels that this processor has, the fastest first.
#[must_use]
pub fn available(precision: Precision) -> Vec<Box<dyn Kernel>> {
    let mut found: Vec<Box<dyn Kernel>> = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        found.extend(amx::Amx::find(precision).map(|kernel| Box::new(kernel) as Box<dyn Kernel>));
        found.extend(avx512::Avx512::find(precision).into_iter().map(|kernel| Box::new(kernel) as Box<dyn Kernel>));
        found.extend(avx2::Avx2::find(precision).map(|kernel| Box::new(kernel) as Box<dyn Kernel>));
    }
    #[cfg(target_arch = "aarch64")]
    found.push(Box::new(neon::Neon::new(precision)));
    found.push(Box::new(gemm::Gemm::new(precision)));
    found.push(Box::new(reference::Reference::new(precision)));
    found
}

/// The kernel of that name, or the fastest where none is named.
///
/// # Errors
/// The names of those that there are, when the named one is not among them.
pub fn choose(precision: Precision, name: Option<&str>) -> Result<Box<dyn Kernel>, String> {
    let mut found = available(precision);
    let place = match name {
        None => 0,
        Some(name) => found.iter().position(|kernel| kernel.name() == name).ok_or_else(|| {
            let names: Vec<&str> = found.iter().map(|kernel| kernel.name()).collect();
            format!("{KERNEL_VARIABLE} is {name:?}; this processor has {}", names.join(", "))
        })?,
    };
    Ok(found.swap_remove(place))
}

/// Bytes of rows that are taken at once: with a panel of weights they fit into the second cache.
const BLOCK_BYTES: usize = 384 << 10;

/// How many rows to take at once.
fn block(row_units: usize) -> usize {
    (BLOCK_BYTES / 4 / row_units.max(1)).next_multiple_of(32).clamp(32, 512)
}

/// A task for `rows` of `left` with packed weights.
fn task<'a>(left: &'a [u32], left_step: usize, rows: usize, weights: &'a Packed, then: Then<'a>) -> Task<'a> {
    Task {
        left,
        left_step,
        rows,
        right: weights.units.as_slice(),
        columns: weights.columns,
        depth: weights.unit_depth,
        bias: &weights.bias,
        scales: None,
        then,
        out_step: weights.columns,
    }
}

/// The part of `then` that is for the rows from `first` on.
fn from_row(then: Then<'_>, first: usize, columns: usize) -> Then<'_> {
    match then {
        Then::Add(more) => Then::Add(&more[first * columns..]),
        Then::Scale(rows) => Then::Scale(&rows[first..]),
        other => other,
    }
}

/// [`Kernel::product`] by tiles: rows are converted and multiplied block by block.
#[inline(always)]
fn linear<D: Dot, const ROWS: usize, const VECTORS: usize>(
    x: &[f32],
    weights: &Packed,
    then: Then<'_>,
    out: &mut [f32],
    operand: &mut Operand,
) {
    let rows = x.len() / weights.depth;
    let block = block(weights.unit_depth);
    let plain = weights.format == Format::F32 { like: Precision::F32 };
    let mut first = 0;
    while first < rows {
        let count = block.min(rows - first);
        let part = &x[first * weights.depth..][..count * weights.depth];
        let then = from_row(then, first, weights.columns);
        let out = &mut out[first * weights.columns..];
        if plain {
            product::<D, ROWS, VECTORS>(&task(units(part), weights.depth, count, weights, then), out);
        } else {
            convert::<D::Lanes>(part, weights.depth, weights.format, weights.unit_depth, operand);
            let mut task = task(operand.units.as_slice(), weights.unit_depth, count, weights, then);
            if weights.format.is_whole() {
                task.scales = Some((&operand.scale, &operand.least, &weights.scale, &weights.sum));
            }
            product::<D, ROWS, VECTORS>(&task, out);
        }
        first += count;
    }
}

/// [`Kernel::pool`] by vectors.
#[inline(always)]
fn pool<V: Lanes>(x: &[f32], pooling: Pooling, normalize: bool, out: &mut [f32]) {
    let width = out.len();
    out.copy_from_slice(&x[..width]);
    if pooling == Pooling::Mean {
        for row in x[width..].chunks_exact(width) {
            rows::add::<V>(out, row);
        }
        rows::scale::<V>(out, width as f32 / x.len() as f32);
    }
    if normalize {
        let length = rows::square::<V>(out).sqrt();
        rows::scale::<V>(out, 1.0 / length.max(1e-12));
    }
}

/// The methods of [`Kernel`] that are compiled for an instruction set as they stand.
macro_rules! compiled {
    ($lanes:ty, $dot:ty, $rows:literal, $vectors:literal, $features:literal) => {
        fn attention(&self, task: &$crate::attention::Attention<'_>, out: &mut [f32], room: &mut $crate::attention::Room) {
            #[target_feature(enable = $features)]
            fn run(task: &$crate::attention::Attention<'_>, out: &mut [f32], room: &mut $crate::attention::Room) {
                $crate::attention::attention::<$dot, $rows, $vectors>(task, out, room);
            }
            // SAFETY: a kernel is made only where the processor has its instructions.
            unsafe { run(task, out, room) }
        }

        fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
            #[target_feature(enable = $features)]
            fn run(x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
                $crate::rows::layer_norm::<$lanes>(x, gamma, beta, epsilon);
            }
            // SAFETY: as above.
            unsafe { run(x, gamma, beta, epsilon) }
        }

        fn pool(&self, rows: &[f32], pooling: $crate::Pooling, normalize: bool, out: &mut [f32]) {
            #[target_feature(enable = $features)]
            fn run(rows: &[f32], pooling: $crate::Pooling, normalize: bool, out: &mut [f32]) {
                $crate::kernel::pool::<$lanes>(rows, pooling, normalize, out);
            }
            // SAFETY: as above.
            unsafe { run(rows, pooling, normalize, out) }
        }
    };
}
use compiled;

/// A `linear` of one instruction set and one way to multiply.
macro_rules! linear_for {
    ($name:ident, $dot:ty, $rows:literal, $vectors:literal, $features:literal) => {
        #[target_feature(enable = $features)]
        fn $name(
            x: &[f32],
            weights: &$crate::pack::Packed,
            then: $crate::tile::Then<'_>,
            out: &mut [f32],
            operand: &mut $crate::pack::Operand,
        ) {
            $crate::kernel::linear::<$dot, $rows, $vectors>(x, weights, then, out, operand);
        }
    };
}
use linear_for;
