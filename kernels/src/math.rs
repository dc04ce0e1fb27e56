//! `exp` and GELU over vectors, by polynomials of a stated error. Knows nothing but numbers.
//!
//! The coefficients are least-maximum fits, found by reweighted least squares at Chebyshev nodes and rounded to `f32`; the tests
//! measure the errors that are stated here against the standard functions in `f64`.

use crate::simd::Lanes;

/// Powers of two from -1/2 to 1/2, highest power first: relative error 7.5e-8 before rounding.
const EXP2: [f32; 6] = [1.327_646e-3, 9.675_541e-3, 5.550_713_4e-2, 2.402_212e-1, 6.931_469_7e-1, 1.000_000_1];

/// `e^x` for `x` from -87 to 0 with a relative error below 4e-7; below -87 what -87 gives, which is as good as nothing beside 1.
#[inline(always)]
pub(crate) fn exp<V: Lanes>(x: V) -> V {
    // x = (n + f) ln 2 with n whole: the remainder is taken in two steps, because ln 2 in one `f32` is not exact enough.
    let x = x.max(V::splat(-87.0));
    let n = x.mul(V::splat(std::f32::consts::LOG2_E)).round();
    let rest = n.mul_add(V::splat(-0.693_359_4), x);
    let rest = n.mul_add(V::splat(2.121_944_4e-4), rest).mul(V::splat(std::f32::consts::LOG2_E));
    let mut power = V::splat(EXP2[0]);
    for coefficient in &EXP2[1..] {
        power = power.mul_add(rest, V::splat(*coefficient));
    }
    power.scale_by_power(n)
}

/// How well GELU is to be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Absolute error below 1e-6 for inputs to ±5.6, growing by 2e-7 a unit beyond, which is `f32` rounding twice.
    Exact,
    /// Absolute error below 6e-5 for inputs to ±5.6, growing by 2e-7 a unit beyond: a tenth of what `bf16` loses anyway.
    Short,
}

/// `(Φ(x) - 1/2) / x` over `t = 2 (x / 5.6)² - 1`, highest power first; at the end exactly what makes Φ 0 or 1.
const EXACT: [f32; 15] = [
    5.720_076e-4,
    -1.672_007_4e-3,
    1.628_334e-3,
    -1.569_731_8e-3,
    4.355_206_5e-3,
    -8.342_917e-3,
    1.154_935_5e-2,
    -1.549_548_4e-2,
    2.077_644_2e-2,
    -2.635_334_3e-2,
    3.199_257_2e-2,
    -3.834_272e-2,
    4.697_973_6e-2,
    -6.305_134e-2,
    1.262_596e-1,
];

/// The same over `t = 2 (x / 4.2)² - 1`.
const SHORT: [f32; 9] = [
    3.150_268_5e-3,
    -6.893_091e-3,
    7.020_499e-3,
    -1.232_876e-2,
    2.528_098_8e-2,
    -3.940_621_3e-2,
    5.581_676_4e-2,
    -8.144_782e-2,
    1.678_549_8e-1,
];

/// `x Φ(x)`, the GELU of BERT (Hendrycks and Gimpel 2016), with Φ the normal distribution, `(1 + erf(x / √2)) / 2`.
#[inline(always)]
pub(crate) fn gelu<V: Lanes>(x: V, fit: Fit) -> V {
    match fit {
        Fit::Exact => gelu_by(x, 5.6, &EXACT),
        Fit::Short => gelu_by(x, 4.2, &SHORT),
    }
}

/// Beyond ±`end` Φ is taken for 0 or 1, which the polynomial gives at the end.
#[inline(always)]
fn gelu_by<V: Lanes, const N: usize>(x: V, end: f32, coefficients: &[f32; N]) -> V {
    let near = x.min(V::splat(end)).max(V::splat(-end));
    let t = near.mul(near).mul_add(V::splat(2.0 / (end * end)), V::splat(-1.0));
    let mut sum = V::splat(coefficients[0]);
    for coefficient in &coefficients[1..] {
        sum = sum.mul_add(t, V::splat(*coefficient));
    }
    x.mul(near.mul_add(sum, V::splat(0.5)))
}
