//! Four columns: NEON.

#![allow(unsafe_code)] // The trait's addresses; see its contract.

use super::Dot;
use crate::simd::Lanes;
use crate::simd::neon::F32x4;

/// `f32` by fused multiply and add.
#[derive(Debug)]
pub(crate) struct F32;

impl Dot for F32 {
    type Lanes = F32x4;
    type Sums = F32x4;
    type Units = F32x4;

    #[inline(always)]
    fn zero() -> F32x4 {
        F32x4::splat(0.0)
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> F32x4 {
        // SAFETY: the caller's promise.
        F32x4::splat(f32::from_bits(unsafe { from.read() }))
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> F32x4 {
        // SAFETY: the caller's promise.
        unsafe { F32x4::load(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: F32x4, row: F32x4, columns: F32x4) -> F32x4 {
        row.mul_add(columns, sums)
    }

    #[inline(always)]
    fn finish(sums: F32x4) -> F32x4 {
        sums
    }
}
