//! Four numbers: NEON, which every 64-bit ARM processor has.

#![allow(unsafe_code)] // Intrinsics, which are part of the base instruction set here; and addresses.

use std::arch::aarch64::*;

use super::{Lanes, to_bf16};

/// Four numbers.
#[derive(Clone, Copy)]
pub(crate) struct F32x4(pub(crate) float32x4_t);

/// What an instruction of [`Lanes`] is here.
macro_rules! by {
    ($name:ident($($arg:ident),*) = $instruction:expr) => {
        #[inline(always)]
        fn $name(self, $($arg: Self),*) -> Self {
            // SAFETY: NEON is part of the base instruction set.
            Self(unsafe { $instruction(self.0, $($arg.0),*) })
        }
    };
}

impl F32x4 {
    #[inline(always)]
    fn array(self) -> [f32; 4] {
        let mut all = [0.0; 4];
        // SAFETY: the array has four numbers.
        unsafe { vst1q_f32(all.as_mut_ptr(), self.0) };
        all
    }
}

impl Lanes for F32x4 {
    const LANES: usize = 4;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        // SAFETY: NEON is part of the base instruction set.
        Self(unsafe { vdupq_n_f32(value) })
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { vld1q_f32(from) })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        let mut all = [0.0; 4];
        for (i, lane) in all.iter_mut().take(count).enumerate() {
            // SAFETY: the caller's promise.
            *lane = unsafe { from.add(i).read_unaligned() };
        }
        // SAFETY: the array has four numbers.
        unsafe { Self::load(all.as_ptr()) }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { vst1q_f32(to, self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        for (i, lane) in self.array().iter().take(count).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write_unaligned(*lane) };
        }
    }

    by!(add(other) = vaddq_f32);
    by!(sub(other) = vsubq_f32);
    by!(mul(other) = vmulq_f32);
    by!(min(other) = vminq_f32);
    by!(max(other) = vmaxq_f32);
    by!(round() = vrndnq_f32);

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // SAFETY: NEON is part of the base instruction set.
        Self(unsafe { vfmaq_f32(plus.0, self.0, by.0) })
    }

    #[inline(always)]
    fn scale_by_power(self, power: Self) -> Self {
        // SAFETY: NEON is part of the base instruction set. The power becomes the exponent of a number whose fraction is zero.
        unsafe {
            let exponent = vaddq_s32(vcvtnq_s32_f32(power.0), vdupq_n_s32(127));
            Self(vmulq_f32(self.0, vreinterpretq_f32_s32(vshlq_n_s32::<23>(exponent))))
        }
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        // SAFETY: NEON is part of the base instruction set.
        unsafe { vaddvq_f32(self.0) }
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        // SAFETY: NEON is part of the base instruction set.
        unsafe { vmaxvq_f32(self.0) }
    }

    #[inline(always)]
    fn least(self) -> f32 {
        // SAFETY: NEON is part of the base instruction set.
        unsafe { vminvq_f32(self.0) }
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, count: usize) {
        for (i, lane) in self.array().iter().take(count).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write(lane.round_ties_even() as u8) };
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, count: usize) {
        for (i, lane) in self.array().iter().take(count).enumerate() {
            // SAFETY: the caller's promise.
            unsafe { to.add(i).write(to_bf16(*lane)) };
        }
    }
}
