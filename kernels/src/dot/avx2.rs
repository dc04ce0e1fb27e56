//! Eight columns: AVX2 with FMA.

#![allow(unsafe_code)] // Intrinsics; values exist only where the processor has them (see `Dot`).

use std::arch::x86_64::*;

use super::Dot;
use crate::simd::Lanes;
use crate::simd::avx2::F32x8;

/// `f32` by fused multiply and add.
#[derive(Debug)]
pub(crate) struct F32;

impl Dot for F32 {
    type Lanes = F32x8;
    type Sums = F32x8;
    type Units = F32x8;

    #[inline(always)]
    fn zero() -> F32x8 {
        F32x8::splat(0.0)
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> F32x8 {
        // SAFETY: the caller's promise.
        F32x8::splat(f32::from_bits(unsafe { from.read() }))
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> F32x8 {
        // SAFETY: the caller's promise.
        unsafe { F32x8::load(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: F32x8, row: F32x8, columns: F32x8) -> F32x8 {
        row.mul_add(columns, sums)
    }

    #[inline(always)]
    fn finish(sums: F32x8) -> F32x8 {
        sums
    }
}

/// Pairs of unsigned by signed 8-bit numbers that lie in 16 bits each (`vpmaddwd`). The instruction for bytes (`vpmaddubsw`) would
/// saturate, and is no faster when what it answers has to be widened.
#[derive(Debug)]
pub(crate) struct Int8;

impl Dot for Int8 {
    type Lanes = F32x8;
    type Sums = __m256i;
    type Units = __m256i;

    #[inline(always)]
    fn zero() -> __m256i {
        // SAFETY: only kernels whose instructions were asked for multiply.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_set1_epi32(from.read().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m256i {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_si256(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: __m256i, row: __m256i, columns: __m256i) -> __m256i {
        // SAFETY: values exist, so the processor has the instructions.
        unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(row, columns)) }
    }

    #[inline(always)]
    fn finish(sums: __m256i) -> F32x8 {
        // SAFETY: a value exists, so the processor has the instructions.
        F32x8(unsafe { _mm256_cvtepi32_ps(sums) })
    }
}
