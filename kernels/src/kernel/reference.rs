//! The plain reference: loops as the formulas stand, sums in `f64`. Slow; the other kernels are tested against it.

use super::{Attention, Kernel, Operand, Packed, Room, Then};
use crate::pack::Format;
use crate::rows::convert;
use crate::simd::One;
use crate::{Pooling, Precision};

/// The kernel.
#[derive(Debug)]
pub(crate) struct Reference {
    precision: Precision,
}

impl Reference {
    /// The kernel, which runs anywhere.
    pub(crate) fn new(precision: Precision) -> Self {
        Self { precision }
    }
}

fn dot(a: impl Iterator<Item = f32>, b: impl Iterator<Item = f32>) -> f64 {
    a.zip(b).map(|(a, b)| f64::from(a) * f64::from(b)).sum()
}

/// The error function: its Taylor series near zero, Lentz's continued fraction of `erfc` beyond (Abramowitz and Stegun 7.1.6 and
/// 7.1.14). Absolute error below 1e-12.
pub(crate) fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 2.5 {
        let (mut term, mut sum, mut n) = (z, z, 0.0);
        while term > 1e-17 * sum && n < 200.0 {
            n += 1.0;
            term *= 2.0 * z * z / (2.0 * n + 1.0);
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-z * z).exp() * sum
    } else {
        let fraction = (1..=80).rev().fold(z, |below, n| z + f64::from(n) / 2.0 / below);
        1.0 - (-z * z).exp() / std::f64::consts::PI.sqrt() / fraction
    };
    value.copysign(x)
}

impl Kernel for Reference {
    fn name(&self) -> &'static str {
        "reference"
    }

    fn precision(&self) -> Precision {
        self.precision
    }

    fn pack(&self, weight: &[f32], bias: &[f32], depth: usize) -> Packed {
        Packed::new(weight, bias, depth, Format::F32 { like: self.precision }, 1, 1)
    }

    fn product(&self, x: &[f32], weights: &Packed, then: Then<'_>, out: &mut [f32], operand: &mut Operand) {
        let (depth, columns) = (weights.depth, weights.columns);
        convert::<One>(x, depth, weights.format, depth, operand);
        for (row, left) in operand.units.as_floats().chunks(depth).take(x.len() / depth).enumerate() {
            for (column, right) in weights.units.as_floats().chunks(depth).take(columns).enumerate() {
                let sum = dot(left.iter().copied(), right.iter().copied()) + f64::from(weights.bias[column]);
                let place = row * columns + column;
                let value = match then {
                    Then::Keep => sum,
                    Then::Gelu | Then::ShortGelu => sum * 0.5 * (1.0 + erf(sum * std::f64::consts::FRAC_1_SQRT_2)),
                    Then::Add(more) => sum + f64::from(more[place]),
                    Then::Scale(rows) => sum * f64::from(rows[row]),
                };
                out[place] = value as f32;
            }
        }
    }

    fn attention(&self, task: &Attention<'_>, out: &mut [f32], _: &mut Room) {
        let (hidden, width) = (task.heads * task.width, task.width);
        let mut start = 0;
        for length in task.lengths {
            let part = |row: usize, part: usize, head: usize| {
                &task.qkv[(start + row) * 3 * hidden + part * hidden + head * width..][..width]
            };
            for head in 0..task.heads {
                for row in 0..*length {
                    let query = part(row, 0, head);
                    let scores: Vec<f64> = (0..*length)
                        .map(|key| dot(query.iter().copied(), part(key, 1, head).iter().copied()) / (width as f64).sqrt())
                        .collect();
                    let greatest = scores.iter().copied().fold(f64::MIN, f64::max);
                    let powers: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
                    let sum: f64 = powers.iter().sum();
                    for i in 0..width {
                        let value: f64 =
                            powers.iter().enumerate().map(|(key, power)| power * f64::from(part(key, 2, head)[i])).sum();
                        out[(start + row) * hidden + head * width + i] = (value / sum) as f32;
                    }
                }
            }
            start += length;
        }
    }

    fn layer_norm(&self, x: &mut [f32], gamma: &[f32], beta: &[f32], epsilon: f32) {
        for row in x.chunks_mut(gamma.len()) {
            let count = row.len() as f64;
            let mean = row.iter().copied().map(f64::from).sum::<f64>() / count;
            let variance = row.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
            let by = 1.0 / (variance + f64::from(epsilon)).sqrt();
            for ((value, gamma), beta) in row.iter_mut().zip(gamma).zip(beta) {
                *value = ((f64::from(*value) - mean) * by * f64::from(*gamma) + f64::from(*beta)) as f32;
            }
        }
    }

    fn pool(&self, rows: &[f32], pooling: Pooling, normalize: bool, out: &mut [f32]) {
        let width = out.len();
        let count = if pooling == Pooling::Mean { rows.len() / width } else { 1 };
        let mut sums = vec![0.0_f64; width];
        for row in rows.chunks(width).take(count) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value) / count as f64);
        }
        let length = if normalize { sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt().max(1e-12) } else { 1.0 };
        out.iter_mut().zip(sums).for_each(|(to, sum)| *to = (sum / length) as f32);
    }
}
