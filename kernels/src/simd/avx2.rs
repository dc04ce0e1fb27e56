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

/// Eight numbers rounded to whole ones of 16 bits, what is beyond taken for the nearest.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn words(value: __m256) -> __m128i {
    // SAFETY: the caller's promise.
    unsafe {
        let whole = _mm256_cvtps_epi32(value);
        _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256::<1>(whole))
    }
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
        // SAFETY: a vector exists; the caller promises `count` bytes, and the array has eight.
        unsafe {
            let words = words(self.0);
            let bytes = _mm_packus_epi16(words, words);
            if count == 8 {
                _mm_storel_epi64(to.cast(), bytes);
            } else {
                let mut all = [0_u8; 8];
                _mm_storel_epi64(all.as_mut_ptr().cast(), bytes);
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
            }
        }
    }

    #[inline(always)]
    unsafe fn store_words(self, to: *mut u16, count: usize) {
        // SAFETY: a vector exists; the caller promises room for `count` numbers, and the array has eight.
        unsafe {
            let most = _mm_set1_epi16(255);
            let words = _mm_min_epi16(_mm_max_epi16(words(self.0), _mm_setzero_si128()), most);
            if count == 8 {
                _mm_storeu_si128(to.cast(), words);
            } else {
                let mut all = [0_u16; 8];
                _mm_storeu_si128(all.as_mut_ptr().cast(), words);
                std::ptr::copy_nonoverlapping(all.as_ptr(), to, count);
            }
        }
    }

    #[inline(always)]
    fn near_bf16(self) -> Self {
        // SAFETY: a vector exists. What `to_bf16` does, in all lanes; what is not a number stays as it is.
        unsafe {
            let bits = _mm256_castps_si256(self.0);
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
            let up = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
            let near = _mm256_castsi256_ps(_mm256_and_si256(up, _mm256_set1_epi32(0xffff_0000_u32.cast_signed())));
            Self(_mm256_blendv_ps(near, self.0, _mm256_cmp_ps::<_CMP_UNORD_Q>(self.0, self.0)))
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
