//! Sixteen columns: AVX-512 alone, with BF16, and with VNNI.

#![allow(unsafe_code)] // Intrinsics; values exist only where the processor has them (see `Dot`).

use std::arch::x86_64::*;

use super::Dot;
use crate::simd::Lanes;
use crate::simd::avx512::F32x16;

/// `f32` by fused multiply and add.
#[derive(Debug)]
pub(crate) struct F32;

impl Dot for F32 {
    type Lanes = F32x16;
    type Sums = F32x16;
    type Units = F32x16;

    #[inline(always)]
    fn zero() -> F32x16 {
        F32x16::splat(0.0)
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> F32x16 {
        // SAFETY: the caller's promise.
        F32x16::splat(f32::from_bits(unsafe { from.read() }))
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> F32x16 {
        // SAFETY: the caller's promise.
        unsafe { F32x16::load(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: F32x16, row: F32x16, columns: F32x16) -> F32x16 {
        row.mul_add(columns, sums)
    }

    #[inline(always)]
    fn finish(sums: F32x16) -> F32x16 {
        sums
    }
}

/// Pairs of `bf16`, summed in `f32` (`vdpbf16ps`).
#[derive(Debug)]
pub(crate) struct Bf16;

impl Dot for Bf16 {
    type Lanes = F32x16;
    type Sums = F32x16;
    type Units = __m512i;

    #[inline(always)]
    fn zero() -> F32x16 {
        F32x16::splat(0.0)
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(from.read().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: F32x16, row: __m512i, columns: __m512i) -> F32x16 {
        // SAFETY: values exist, so the processor has the instructions; the two types are 64 bytes of any content.
        unsafe {
            let row: __m512bh = std::mem::transmute(row);
            let columns: __m512bh = std::mem::transmute(columns);
            F32x16(_mm512_dpbf16_ps(sums.0, row, columns))
        }
    }

    #[inline(always)]
    fn finish(sums: F32x16) -> F32x16 {
        sums
    }
}

/// Fours of unsigned by signed 8-bit numbers, summed in 32 bits (`vpdpbusd`).
#[derive(Debug)]
pub(crate) struct Int8;

impl Dot for Int8 {
    type Lanes = F32x16;
    type Sums = __m512i;
    type Units = __m512i;

    #[inline(always)]
    fn zero() -> __m512i {
        // SAFETY: only kernels whose instructions were asked for multiply.
        unsafe { _mm512_setzero_si512() }
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_set1_epi32(from.read().cast_signed()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> __m512i {
        // SAFETY: the caller's promise.
        unsafe { _mm512_loadu_si512(from.cast()) }
    }

    #[inline(always)]
    fn step(sums: __m512i, row: __m512i, columns: __m512i) -> __m512i {
        // SAFETY: values exist, so the processor has the instructions.
        unsafe { _mm512_dpbusd_epi32(sums, row, columns) }
    }

    #[inline(always)]
    fn finish(sums: __m512i) -> F32x16 {
        // SAFETY: a value exists, so the processor has the instructions.
        F32x16(unsafe { _mm512_cvtepi32_ps(sums) })
    }
}
