//! The inner step of a matrix product: four bytes of a row times four bytes of each of some columns, added to sums. One `f32`,
//! two `bf16` or four 8-bit numbers are a *unit*. Knows nothing of what the matrices are.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) mod neon;

use crate::simd::{Lanes, One};

/// One instruction set's way to multiply units of one precision. As with [`Lanes`], values of the types here exist only where the
/// processor has the instructions.
#[allow(unsafe_code)] // Declares what takes addresses.
pub(crate) trait Dot {
    /// What sums become in the end; as many columns as it has lanes are one vector of sums.
    type Lanes: Lanes;
    /// The running sums of a vector of columns.
    type Sums: Copy;
    /// A unit of each of a vector of columns.
    type Units: Copy;

    /// No sum yet.
    fn zero() -> Self::Sums;

    /// One unit of a row, for every column.
    ///
    /// # Safety
    /// `from` is valid for reading one unit.
    unsafe fn spread(from: *const u32) -> Self::Units;

    /// One unit of each column.
    ///
    /// # Safety
    /// `from` is valid for reading `Lanes::LANES` units.
    unsafe fn load(from: *const u32) -> Self::Units;

    /// `sums + row · columns`.
    fn step(sums: Self::Sums, row: Self::Units, columns: Self::Units) -> Self::Sums;

    /// The sums as numbers.
    fn finish(sums: Self::Sums) -> Self::Lanes;
}

/// `f32`, one column at a time.
#[derive(Debug)]
pub(crate) struct F32One;

#[allow(unsafe_code)] // The trait's addresses; see its contract.
impl Dot for F32One {
    type Lanes = One;
    type Sums = f32;
    type Units = f32;

    #[inline(always)]
    fn zero() -> f32 {
        0.0
    }

    #[inline(always)]
    unsafe fn spread(from: *const u32) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_bits(unsafe { from.read() })
    }

    #[inline(always)]
    unsafe fn load(from: *const u32) -> f32 {
        // SAFETY: the caller's promise.
        f32::from_bits(unsafe { from.read() })
    }

    #[inline(always)]
    fn step(sums: f32, row: f32, columns: f32) -> f32 {
        sums + row * columns
    }

    #[inline(always)]
    fn finish(sums: f32) -> One {
        One::splat(sums)
    }
}
