//! Eight numbers: AVX2 with FMA.

#![allow(unsafe_code)] // Intrinsics; a value of this type exists only where the processor has them (see `Lanes`).

use std::arch::x86_64::*;

use super::{Lanes, to_bf16};

/// Eight numbers.
#[derive(Clone, Copy)]
pub(crate) struct F32x8(pub(crate) __m256);

/// All bits set in the first lanes.
#[inline(always)]
fn first(count: usize) -> __m256i {
    const ONES: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
    debug_assert!(count <= 8);
    // SAFETY: `count` is at most 8 by the contract of the callers, so the eight numbers lie inside the array.
    unsafe { _mm256_loadu_si256(ONES.as_ptr().add(8 - count).cast()) }
}

/// What an instruction of [`Lanes`] is here.
macro_rules! by {
    ($name:ident($($arg:ident),*) = $intrinsic:ident($($given:expr),*)) => {
        #[inline(always)]
        fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: a vector exists, so the processor has the instructions.
            Self(unsafe { $intrinsic(self.0, $($given),*) })
        }
    };
}

/// Folds the lanes, halves with halves, with one instruction.
macro_rules! fold {
    ($name:ident = $intrinsic:ident) => {
        #[inline(always)]
        fn $name(self) -> f32 {
            // SAFETY: a vector exists, so the processor has the instructions.
            unsafe {
                let four = $intrinsic(_mm256_castps256_ps128(self.0), _mm256_extractf128_ps::<1>(self.0));
                let two = $intrinsic(four, _mm_movehl_ps(four, four));
                _mm_cvtss_f32($intrinsic(two, _mm_movehdup_ps(two)))
            }
        }
    };
}

impl Lanes for F32x8 {
    const LANES: usize = 8;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only kernels whose instructions were asked for make vectors.
        Self(unsafe { _mm256_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm256_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not read.
        Self(unsafe { _mm256_maskload_ps(from, first(count)) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm256_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not written.
        unsafe { _mm256_maskstore_ps(to, first(count), self.0) }
    }

    by!(add(other) = _mm256_add_ps(other.0));
    by!(sub(other) = _mm256_sub_ps(other.0));
    by!(mul(other) = _mm256_mul_ps(other.0));
    by!(mul_add(by, plus) = _mm256_fmadd_ps(by.0, plus.0));
    by!(min(other) = _mm256_min_ps(other.0));
    by!(max(other) = _mm256_max_ps(other.0));
    fold!(sum = _mm_add_ps);
    fold!(greatest = _mm_max_ps);
    fold!(least = _mm_min_ps);

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: a vector exists.
        Self(unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(self.0) })
    }

    #[inline(always)]
    fn scale_by_power(self, power: Self) -> Self {
        // SAFETY: a vector exists. The power becomes the exponent of a number whose fraction is zero.
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(power.0), _mm256_set1_epi32(127));
            Self(_mm256_mul_ps(self.0, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent))))
        }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, count: usize) {
        let mut whole = [0_i32; 8];
        // SAFETY: the array has eight numbers, and the caller promises `count` bytes.
        unsafe {
            _mm256_storeu_si256(whole.as_mut_ptr().cast(), _mm256_cvtps_epi32(self.0));
            for (i, value) in whole.iter().take(count).enumerate() {
                to.add(i).write((*value).clamp(0, 255) as u8);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, count: usize) {
        let mut all = [0.0_f32; 8];
        // SAFETY: the array has eight numbers, and the caller promises room for `count`.
        unsafe {
            self.store(all.as_mut_ptr());
            for (i, value) in all.iter().take(count).enumerate() {
                to.add(i).write(to_bf16(*value));
            }
        }
    }
}
