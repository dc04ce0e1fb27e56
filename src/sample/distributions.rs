//! The random distributions that sizes and choices of invented records follow. Knows no record.

use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// True with this probability.
pub(super) fn chance(rng: &mut ChaCha8Rng, probability: f64) -> bool {
    rng.random::<f64>() < probability
}

/// A number below `n`, where `k` comes up about as often as `1 / (k + 1)`: the inverse of the logarithmic distribution function.
pub(super) fn zipf(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    let drawn = ((n as f64 + 1.0).ln() * rng.random::<f64>()).exp() as u64;
    drawn.saturating_sub(1).min(n - 1)
}

/// A log-normal number of this median and spread, cut at `max`. The normal deviate is the sum of twelve uniform ones.
pub(super) fn long_tail(rng: &mut ChaCha8Rng, median: f64, spread: f64, max: u64) -> u64 {
    let deviate = (0..12).map(|_| rng.random::<f64>()).sum::<f64>() - 6.0;
    ((median * (spread * deviate).exp()) as u64).min(max)
}
