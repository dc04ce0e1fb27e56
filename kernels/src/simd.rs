//! Vectors of `f32`: one trait, and a type for each instruction set. Element-wise code is written once over the trait and compiled
//! once for each set. Knows no matrices and no model.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

/// The most lanes of a vector here.
const LANES_MAX: usize = 16;

/// A vector of [`Lanes::LANES`] numbers.
///
/// A value of an implementing type may exist only where the processor has its instructions: the kernels are made after asking
/// for them, and nothing else makes vectors. That is why the arithmetic is safe to call; only addresses are not.
///
/// Sums over lanes are taken in an order that depends on the type alone, so that one row always gives the same bits.
#[allow(unsafe_code)] // Declares what takes addresses.
pub(crate) trait Lanes: Copy {
    /// How many numbers.
    const LANES: usize;

    /// The same number in every lane.
    fn splat(value: f32) -> Self;

    /// `LANES` numbers from an address, aligned or not.
    ///
    /// # Safety
    /// `from` is valid for reading `LANES` numbers.
    unsafe fn load(from: *const f32) -> Self;

    /// The first `count` numbers from an address, zero in the other lanes.
    ///
    /// # Safety
    /// `from` is valid for reading `count` numbers, and `count` is at most `LANES`.
    unsafe fn load_first(from: *const f32, count: usize) -> Self;

    /// Writes all lanes.
    ///
    /// # Safety
    /// `to` is valid for writing `LANES` numbers.
    unsafe fn store(self, to: *mut f32);

    /// Writes the first `count` lanes.
    ///
    /// # Safety
    /// `to` is valid for writing `count` numbers, and `count` is at most `LANES`.
    unsafe fn store_first(self, to: *mut f32, count: usize);

    /// `self + other`.
    fn add(self, other: Self) -> Self;
    /// `self - other`.
    fn sub(self, other: Self) -> Self;
    /// `self * other`.
    fn mul(self, other: Self) -> Self;
    /// `self * by + plus`, rounded once.
    fn mul_add(self, by: Self, plus: Self) -> Self;
    /// The lesser of each lane.
    fn min(self, other: Self) -> Self;
    /// The greater of each lane.
    fn max(self, other: Self) -> Self;
    /// The nearest whole number, ties to even.
    fn round(self) -> Self;
    /// `self * 2^power` for whole powers from -126 to 127.
    fn scale_by_power(self, power: Self) -> Self;
    /// The sum of all lanes.
    fn sum(self) -> f32;
    /// The greatest lane.
    fn greatest(self) -> f32;
    /// The least lane.
    fn least(self) -> f32;

    /// Each lane rounded to the nearest of 8 bits, 0 to 255, `count` of them written.
    ///
    /// # Safety
    /// `to` is valid for writing `count` bytes, and `count` is at most `LANES`.
    unsafe fn store_bytes(self, to: *mut u8, count: usize);

    /// As [`Lanes::store_bytes`], each in 16 bits.
    ///
    /// # Safety
    /// `to` is valid for writing `count` numbers, and `count` is at most `LANES`.
    unsafe fn store_words(self, to: *mut u16, count: usize) {
        let mut bytes = [0_u8; LANES_MAX];
        // SAFETY: no vector has more lanes, and the caller promises room for `count`.
        unsafe {
            self.store_bytes(bytes.as_mut_ptr(), count);
            for (i, byte) in bytes.iter().take(count).enumerate() {
                to.add(i).write(u16::from(*byte));
            }
        }
    }

    /// Each lane rounded to the nearest `bf16`, ties to even, and still an `f32`.
    fn near_bf16(self) -> Self {
        let mut all = [0.0_f32; LANES_MAX];
        // SAFETY: no vector has more lanes.
        unsafe {
            self.store(all.as_mut_ptr());
            all.iter_mut().take(Self::LANES).for_each(|value| *value = from_bf16(to_bf16(*value)));
            Self::load(all.as_ptr())
        }
    }

    /// Each lane rounded to the nearest `bf16`, ties to even, `count` of them written.
    ///
    /// # Safety
    /// `to` is valid for writing `count` numbers, and `count` is at most `LANES`.
    unsafe fn store_bf16(self, to: *mut u16, count: usize);
}

/// `f32` rounded to the nearest `bf16`, ties to even. Not a number stays none.
pub(crate) fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    if value.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// The number that a `bf16` is.
pub(crate) fn from_bf16(value: u16) -> f32 {
    f32::from_bits(u32::from(value) << 16)
}

/// One number: the plain way, for machines without a kernel of their own and for comparison.
#[derive(Debug, Clone, Copy)]
pub(crate) struct One(f32);

#[allow(unsafe_code)] // The trait's addresses; see its contract.
impl Lanes for One {
    const LANES: usize = 1;

    #[inline(always)]
    fn splat(value: f32) -> Self {
        Self(value)
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        Self(unsafe { from.read_unaligned() })
    }

    #[inline(always)]
    unsafe fn load_first(from: *const f32, count: usize) -> Self {
        // SAFETY: the caller's promise.
        if count == 0 { Self(0.0) } else { unsafe { Self::load(from) } }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.write_unaligned(self.0) }
    }

    #[inline(always)]
    unsafe fn store_first(self, to: *mut f32, count: usize) {
        if count > 0 {
            // SAFETY: the caller's promise.
            unsafe { self.store(to) }
        }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        Self(self.0 - other.0)
    }

    #[inline(always)]
    fn mul(self, other: Self) -> Self {
        Self(self.0 * other.0)
    }

    #[inline(always)]
    fn mul_add(self, by: Self, plus: Self) -> Self {
        // Without the instruction a fused product is a call; two roundings are the plain way.
        Self(self.0 * by.0 + plus.0)
    }

    #[inline(always)]
    fn min(self, other: Self) -> Self {
        Self(if self.0 < other.0 { self.0 } else { other.0 })
    }

    #[inline(always)]
    fn max(self, other: Self) -> Self {
        Self(if self.0 > other.0 { self.0 } else { other.0 })
    }

    #[inline(always)]
    fn round(self) -> Self {
        Self(self.0.round_ties_even())
    }

    #[inline(always)]
    fn scale_by_power(self, power: Self) -> Self {
        Self(self.0 * f32::from_bits(((power.0 as i32 + 127) as u32) << 23))
    }

    #[inline(always)]
    fn sum(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn greatest(self) -> f32 {
        self.0
    }

    #[inline(always)]
    fn least(self) -> f32 {
        self.0
    }

    #[inline(always)]
    unsafe fn store_bytes(self, to: *mut u8, count: usize) {
        if count > 0 {
            // SAFETY: the caller's promise.
            unsafe { to.write(self.0.round_ties_even() as u8) }
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(self, to: *mut u16, count: usize) {
        if count > 0 {
            // SAFETY: the caller's promise.
            unsafe { to.write(to_bf16(self.0)) }
        }
    }
}
