//! What is done to one row at a time: layer normalisation, conversion for a product, softmax, pooling. Each row's result depends on
//! that row alone. Written once for all instruction sets.

#![allow(unsafe_code)] // Addresses inside slices whose lengths the loops go by.

use crate::Precision;
use crate::math::exp;
use crate::pack::{Format, Operand};
use crate::simd::Lanes;

/// Folds a row to vectors: whole vectors first, then what is left, zero-filled.
#[inline(always)]
pub(crate) fn vectors<V: Lanes>(row: &[f32], mut each: impl FnMut(V, usize)) {
    let whole = row.len() / V::LANES * V::LANES;
    let mut at = 0;
    while at < whole {
        // SAFETY: `at + LANES` is at most the row's length.
        each(unsafe { V::load(row.as_ptr().add(at)) }, at);
        at += V::LANES;
    }
    if whole < row.len() {
        // SAFETY: what is left is fewer numbers than lanes.
        each(unsafe { V::load_first(row.as_ptr().add(whole), row.len() - whole) }, whole);
    }
}

#[inline(always)]
fn store<V: Lanes>(row: &mut [f32], at: usize, value: V) {
    let count = (row.len() - at).min(V::LANES);
    // SAFETY: `at + count` is at most the row's length.
    unsafe { value.store_first(row.as_mut_ptr().add(at), count) }
}

/// Layer normalisation of every row (Ba, Kiros and Hinton 2016): to mean 0 and variance 1, times `gamma`, plus `beta`.
#[inline(always)]
pub(crate) fn layer_norm<V: Lanes>(x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
    let width = gamma.len();
    assert!(width > 0 && beta.len() == width && x.len().is_multiple_of(width), "rows of the width of their scales");
    let filled = (width.next_multiple_of(V::LANES) - width) as f32;
    for row in x.chunks_exact_mut(width) {
        let mut sum = V::splat(0.0);
        vectors::<V>(row, |value, _| sum = sum.add(value));
        let mean = sum.sum() / width as f32;
        let mut square = V::splat(0.0);
        vectors::<V>(row, |value, _| {
            let off = value.sub(V::splat(mean));
            square = off.mul_add(off, square);
        });
        // The lanes that fill up the last vector were zero, so each of them counted the mean's square.
        let variance = ((square.sum() - filled * mean * mean) / width as f32).max(0.0);
        let by = V::splat(1.0 / (variance + epsilon).sqrt());
        let mut at = 0;
        while at < width {
            let count = (width - at).min(V::LANES);
            // SAFETY: the three slices have `width` numbers, and `at + count` is at most that.
            unsafe {
                let value = V::load_first(row.as_ptr().add(at), count).sub(V::splat(mean)).mul(by);
                let gamma = V::load_first(gamma.as_ptr().add(at), count);
                let beta = V::load_first(beta.as_ptr().add(at), count);
                store(row, at, value.mul_add(gamma, beta));
            }
            at += V::LANES;
        }
    }
}

/// Rows of `depth` numbers as units, `step` units apart.
#[inline(always)]
pub(crate) fn convert<V: Lanes>(x: &[f32], depth: usize, format: Format, step: usize, to: &mut Operand) {
    let rows = x.len() / depth;
    // The tile unit reads whole tiles of 32 rows.
    to.units.reserve(rows.next_multiple_of(32) * step);
    match format {
        Format::F32 { like } => {
            for (row, to) in x.chunks_exact(depth).zip(to.units.as_floats_mut().chunks_exact_mut(step)) {
                wide::<V>(row, to, like);
            }
        }
        Format::Bf16 => {
            for (row, to) in x.chunks_exact(depth).zip(to.units.as_mut().chunks_exact_mut(step)) {
                let start: *mut u16 = to.as_mut_ptr().cast();
                // SAFETY: a row of units has room for `depth` numbers of 16 bits.
                vectors::<V>(row, |value, at| unsafe { value.store_bf16(start.add(at), (depth - at).min(V::LANES)) });
                zero_after(to, depth, 2);
            }
        }
        Format::Int8 | Format::Int8InPairs => {
            to.scale.resize(rows, 0.0);
            to.least.resize(rows, 0.0);
            let in_pairs = format == Format::Int8InPairs;
            for (i, row) in x.chunks_exact(depth).enumerate() {
                let units = &mut to.units.as_mut()[i * step..][..step];
                (to.scale[i], to.least[i]) = bytes::<V>(row, units, in_pairs);
                zero_after(units, depth, format.per_unit());
            }
        }
    }
}

/// A row in `f32`, as near as another precision would have it.
#[inline(always)]
fn wide<V: Lanes>(row: &[f32], to: &mut [f32], like: Precision) {
    match like {
        Precision::F32 => to[..row.len()].copy_from_slice(row),
        Precision::Bf16 => {
            // No closure: one of this size is not inlined, and then none of its instructions is.
            for (row, to) in row.chunks(V::LANES).zip(to.chunks_mut(V::LANES)) {
                // SAFETY: both have as many numbers as the row has left, and no more than lanes.
                unsafe { V::load_first(row.as_ptr(), row.len()).near_bf16().store_first(to.as_mut_ptr(), row.len()) };
            }
        }
        Precision::Int8 => {
            let least = row.iter().copied().fold(f32::MAX, f32::min);
            let scale = (row.iter().copied().fold(f32::MIN, f32::max) - least) / 255.0;
            let by = if scale > 0.0 { 1.0 / scale } else { 0.0 };
            to.iter_mut().zip(row).for_each(|(to, number)| *to = ((number - least) * by).round_ties_even() * scale + least);
        }
    }
}

/// Clears what a row of units has behind its numbers: the buffer may hold another product's.
#[inline(always)]
fn zero_after(units: &mut [u32], depth: usize, per_unit: usize) {
    let whole = depth / per_unit;
    let part = depth % per_unit;
    for (i, unit) in units[whole..].iter_mut().enumerate() {
        *unit = if i == 0 && part > 0 { *unit & ((1 << (part * 32 / per_unit)) - 1) } else { 0 };
    }
}

/// A row as 0 to 255: `number = least + scale * byte`. In pairs, each byte fills 16 bits.
#[inline(always)]
fn bytes<V: Lanes>(row: &[f32], to: &mut [u32], in_pairs: bool) -> (f32, f32) {
    let (scale, least) = range::<V>(row);
    let by = V::splat(if scale > 0.0 { 1.0 / scale } else { 0.0 });
    vectors::<V>(row, |value, at| {
        let count = (row.len() - at).min(V::LANES);
        let value = value.sub(V::splat(least)).mul(by);
        // SAFETY: the row of units has room for as many bits for each number.
        unsafe {
            if in_pairs {
                value.store_words(to.as_mut_ptr().cast::<u16>().add(at), count);
            } else {
                value.store_bytes(to.as_mut_ptr().cast::<u8>().add(at), count);
            }
        }
    });
    (scale, least)
}

/// A row's step and least number: 255 steps from the least to the greatest.
#[inline(always)]
pub(crate) fn range<V: Lanes>(row: &[f32]) -> (f32, f32) {
    let whole = row.len() / V::LANES * V::LANES;
    let (mut least, mut greatest) = (V::splat(row[0]), V::splat(row[0]));
    vectors::<V>(&row[..whole], |value, _| {
        least = least.min(value);
        greatest = greatest.max(value);
    });
    let (mut least, mut greatest) = (least.least(), greatest.greatest());
    for number in &row[whole..] {
        least = least.min(*number);
        greatest = greatest.max(*number);
    }
    ((greatest - least) / 255.0, least)
}

/// `exp(scale * (x - greatest))` in place, and one over the sum of that. The row's room reaches to whole vectors, which are
/// overwritten.
#[inline(always)]
pub(crate) fn soften<V: Lanes>(room: &mut [f32], length: usize, scale: f32) -> f32 {
    let whole = length.next_multiple_of(V::LANES);
    assert!(length > 0 && room.len() >= whole, "room to whole vectors");
    room[length..whole].fill(f32::MIN);
    let mut greatest = V::splat(f32::MIN);
    vectors::<V>(&room[..whole], |value, _| greatest = greatest.max(value));
    let (greatest, by) = (V::splat(greatest.greatest()), V::splat(scale));
    let mut sum = V::splat(0.0);
    let mut at = 0;
    while at < whole {
        // SAFETY: `whole` is a multiple of the lanes and inside the room.
        unsafe {
            let power = exp(V::load(room.as_ptr().add(at)).sub(greatest).mul(by));
            sum = sum.add(power);
            power.store(room.as_mut_ptr().add(at));
        }
        at += V::LANES;
    }
    1.0 / sum.sum()
}

/// Adds a row to another.
#[inline(always)]
pub(crate) fn add<V: Lanes>(to: &mut [f32], row: &[f32]) {
    assert_eq!(to.len(), row.len());
    vectors::<V>(row, |value, at| {
        let count = (to.len() - at).min(V::LANES);
        // SAFETY: `at + count` is at most the length.
        let sum = unsafe { V::load_first(to.as_ptr().add(at), count) }.add(value);
        store(to, at, sum);
    });
}

/// The row times a number.
#[inline(always)]
pub(crate) fn scale<V: Lanes>(row: &mut [f32], by: f32) {
    let mut at = 0;
    while at < row.len() {
        let count = (row.len() - at).min(V::LANES);
        // SAFETY: `at + count` is at most the length.
        let value = unsafe { V::load_first(row.as_ptr().add(at), count) };
        store(row, at, value.mul(V::splat(by)));
        at += V::LANES;
    }
}

/// The sum of squares.
#[inline(always)]
pub(crate) fn square<V: Lanes>(row: &[f32]) -> f32 {
    let mut sum = V::splat(0.0);
    vectors::<V>(row, |value, _| sum = value.mul_add(value, sum));
    sum.sum()
}
