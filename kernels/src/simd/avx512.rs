//! Sixteen numbers: AVX-512 (F, BW and VL).

#![allow(unsafe_code)] // Intrinsics; a value of this type exists only where the processor has them (see `Lanes`).

use std::arch::x86_64::*;

use super::Lanes;

/// Sixteen numbers.
#[derive(Clone, Copy)]
pub(crate) struct F32x16(pub(crate) __m512);

/// A mask of the first lanes.
#[inline(always)]
fn first(count: usize) -> __mmask16 {
    ((1_u32 << count) - 1) as __mmask16
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

impl Lanes for F32x16 {
    const LANES: usize = 16;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: only kernels whose instructions were asked for make vectors.
        Self(unsafe { _mm512_set1_ps(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { _mm512_loadu_ps(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not read.
        Self(unsafe { _mm512_maskz_loadu_ps(first(count), from) })
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { _mm512_storeu_ps(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_storeu_ps(to, first(count), self.0) }
    }

    by!(add(other) = _mm512_add_ps(other.0));
    by!(sub(other) = _mm512_sub_ps(other.0));
    by!(mul(other) = _mm512_mul_ps(other.0));
    by!(mul_add(by, plus) = _mm512_fmadd_ps(by.0, plus.0));
    by!(min(other) = _mm512_min_ps(other.0));
    by!(max(other) = _mm512_max_ps(other.0));
    by!(scale_by_power(power) = _mm512_scalef_ps(power.0));

    #[inline(always)]
    fn round(self) -> Self {
        // SAFETY: a vector exists.
        Self(unsafe { _mm512_roundscale_ps::<0>(self.0) })
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: a vector exists.
        unsafe { _mm512_reduce_add_ps(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: a vector exists.
        unsafe { _mm512_reduce_max_ps(self.0) }
    }

    #[inline(always)]
    fn least(self) -> f32 {
        // SAFETY: a vector exists.
        unsafe { _mm512_reduce_min_ps(self.0) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, count: usize) {
        // SAFETY: the caller's promise; lanes that the mask leaves out are not written.
        unsafe { _mm512_mask_cvtusepi32_storeu_epi8(to.cast(), first(count), _mm512_cvtps_epu32(self.0)) }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, count: usize) {
        // SAFETY: the caller's promise. Adds half of the last place that stays, less one when that place is even.
        unsafe {
            let bits = _mm512_castps_si512(self.0);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            _mm512_mask_cvtepi32_storeu_epi16(to.cast(), first(count), _mm512_srli_epi32::<16>(up));
        }
    }
}
