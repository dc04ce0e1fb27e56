//! Matrices in the order in which the kernels read them: weights in panels of columns, packed once; rows of activations as units.
//! Knows the formats, not the instructions.

use crate::Precision;
use crate::simd::{from_bf16, to_bf16};

/// 64 bytes, which is a cache line and the widest vector.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Line([u32; 16]);

/// A growing buffer of 32-bit units that begins on a cache line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Units(Vec<Line>);

#[allow(unsafe_code)] // Three views of plain memory.
impl Units {
    /// Room for `count` units; what is new is zero, what was there stays as it was.
    pub(crate) fn reserve(&mut self, count: usize) {
        if self.0.len() * 16 < count {
            self.0.resize(count.div_ceil(16), Line([0; 16]));
        }
    }

    pub(crate) fn as_slice(&self) -> &[u32] {
        // SAFETY: a line is sixteen numbers and nothing else.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    pub(crate) fn as_mut(&mut self) -> &mut [u32] {
        // SAFETY: as above, and borrowed as the buffer is.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }

    pub(crate) fn as_floats(&self) -> &[f32] {
        // SAFETY: the two types have one size and alignment, and any bits are a number.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), self.0.len() * 16) }
    }

    pub(crate) fn as_floats_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed as the buffer is.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), self.0.len() * 16) }
    }
}

/// The units of a slice of numbers, which are its bits.
#[allow(unsafe_code)]
pub(crate) fn units(floats: &[f32]) -> &[u32] {
    // SAFETY: the two types have one size and alignment, and any bits are a number.
    unsafe { std::slice::from_raw_parts(floats.as_ptr().cast(), floats.len()) }
}

/// How weights are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// One `f32` a unit, rounded before to what the precision has: for kernels without instructions for less than 32 bits.
    F32 {
        /// What to round to.
        like: Precision,
    },
    /// Two `bf16` a unit.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 kernels multiply `bf16` yet"))]
    Bf16,
    /// Four 8-bit numbers a unit, with a scale for each column.
    Int8,
    /// The same numbers, two a unit, each in 16 bits: for processors whose product of bytes would saturate.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only AVX2 multiplies so"))]
    Int8InPairs,
}

impl Format {
    /// How many numbers a unit has.
    pub(crate) fn per_unit(self) -> usize {
        match self {
            Self::F32 { .. } => 1,
            Self::Bf16 | Self::Int8InPairs => 2,
            Self::Int8 => 4,
        }
    }

    /// Whether numbers are whole, with a scale.
    pub(crate) fn is_whole(self) -> bool {
        matches!(self, Self::Int8 | Self::Int8InPairs)
    }
}

/// A weight matrix and its bias, packed for one kernel: panels of `width` columns, in each the units of all columns one after
/// another. Columns and units that fill up are zero.
#[derive(Debug, Clone)]
pub struct Packed {
    pub(crate) units: Units,
    pub(crate) format: Format,
    /// Inputs.
    pub(crate) depth: usize,
    /// Units a column, with those that fill up.
    pub(crate) unit_depth: usize,
    /// Outputs.
    pub(crate) columns: usize,
    /// Columns a panel.
    pub(crate) width: usize,
    /// One a column, to whole panels.
    pub(crate) bias: Vec<f32>,
    /// What a column's whole numbers are multiplied by; empty where they are not whole.
    pub(crate) scale: Vec<f32>,
    /// A column's sum, in the unit of its numbers; empty where they are not whole.
    pub(crate) sum: Vec<f32>,
}

impl Packed {
    /// Packs `weight`, which holds `depth` numbers for each of its columns, one column after another: a linear layer as its file
    /// has it. `deep` is of how many units the depth must be a multiple.
    pub(crate) fn new(weight: &[f32], bias: &[f32], depth: usize, format: Format, width: usize, deep: usize) -> Self {
        let columns = bias.len();
        assert_eq!(weight.len(), columns * depth, "a weight matrix is inputs × outputs");
        let unit_depth = depth.div_ceil(format.per_unit()).next_multiple_of(deep);
        let panels = columns.div_ceil(width);
        let mut units = Units::default();
        units.reserve(panels * unit_depth * width);
        let mut filled = bias.to_vec();
        filled.resize(panels * width, 0.0);
        let (mut scale, mut sum) = (Vec::new(), Vec::new());
        for (column, numbers) in weight.chunks_exact(depth).enumerate() {
            let near = (format == Format::F32 { like: Precision::Int8 }).then(|| {
                let (whole, step) = quantize(numbers);
                whole.iter().map(|number| f32::from(*number) * step).collect::<Vec<_>>()
            });
            let numbers = near.as_deref().unwrap_or(numbers);
            let quantized = format.is_whole().then(|| quantize(numbers));
            if let Some((_, step)) = &quantized {
                scale.push(*step);
                sum.push(numbers_sum(quantized.as_ref().map_or(&[], |(q, _)| q)) * step);
            }
            let start = column / width * unit_depth * width + column % width;
            let to = units.as_mut();
            for unit in 0..depth.div_ceil(format.per_unit()) {
                to[start + unit * width] = match (&quantized, format) {
                    (Some((whole, _)), Format::Int8InPairs) => {
                        let number = |i: usize| whole.get(unit * 2 + i).map_or(0, |number| i16::from(*number).cast_unsigned());
                        u32::from(number(1)) << 16 | u32::from(number(0))
                    }
                    (Some((whole, _)), _) => u32::from_le_bytes(std::array::from_fn(|i| {
                        whole.get(unit * 4 + i).map_or(0, |number| number.cast_unsigned())
                    })),
                    (None, Format::F32 { like: Precision::Bf16 }) => from_bf16(to_bf16(numbers[unit])).to_bits(),
                    (None, Format::F32 { .. }) => numbers[unit].to_bits(),
                    (None, _) => {
                        let high = numbers.get(unit * 2 + 1).map_or(0, |number| u32::from(to_bf16(*number)));
                        high << 16 | u32::from(to_bf16(numbers[unit * 2]))
                    }
                };
            }
        }
        if format.is_whole() {
            scale.resize(panels * width, 0.0);
            sum.resize(panels * width, 0.0);
        }
        Self { units, format, depth, unit_depth, columns, width, bias: filled, scale, sum }
    }
}

fn numbers_sum(numbers: &[i8]) -> f32 {
    numbers.iter().map(|number| i32::from(*number)).sum::<i32>() as f32
}

/// Numbers as multiples, -127 to 127, of one step, which is the greatest of them over 127.
fn quantize(numbers: &[f32]) -> (Vec<i8>, f32) {
    let greatest = numbers.iter().fold(0.0_f32, |most, number| most.max(number.abs()));
    if greatest == 0.0 {
        return (vec![0; numbers.len()], 0.0);
    }
    let step = greatest / 127.0;
    (numbers.iter().map(|number| (number / step).round_ties_even() as i8).collect(), step)
}

/// Rows of activations as a kernel multiplies them. Reused from product to product.
#[derive(Debug, Clone, Default)]
pub struct Operand {
    pub(crate) units: Units,
    /// What a row's whole numbers are multiplied by.
    pub(crate) scale: Vec<f32>,
    /// What is added to a row's numbers after: its least number.
    pub(crate) least: Vec<f32>,
}
