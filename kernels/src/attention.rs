//! Scaled dot-product attention (Vaswani et al. 2017), each sequence and head by itself, in `f32`.

use crate::dot::Dot;
use crate::pack::{Units, units};
use crate::rows::soften;
use crate::simd::Lanes;
use crate::tile::{Task, Then, product};

/// How many queries are asked at once: their scores stay in the nearest cache.
const QUERIES: usize = 32;

/// What attention is over: rows of queries, keys and values side by side, sequence after sequence.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// `3 × heads × width` numbers a row.
    pub qkv: &'a [f32],
    /// Rows of each sequence.
    pub lengths: &'a [usize],
    /// How many heads.
    pub heads: usize,
    /// Numbers a head.
    pub width: usize,
}

/// Buffers of the attention, reused from call to call.
#[derive(Debug, Clone, Default)]
pub struct Room {
    keys: Units,
    values: Units,
    scores: Units,
    shares: Vec<f32>,
}

/// Writes `heads × width` numbers a row.
#[inline(always)]
pub(crate) fn attention<D: Dot, const ROWS: usize, const VECTORS: usize>(task: &Attention<'_>, out: &mut [f32], room: &mut Room) {
    let hidden = task.heads * task.width;
    let total: usize = task.lengths.iter().sum();
    assert!(task.qkv.len() >= total * 3 * hidden && out.len() >= total * hidden, "a row for each token");
    let mut start = 0;
    for length in task.lengths.iter().copied().filter(|length| *length > 0) {
        for head in 0..task.heads {
            let at = start * 3 * hidden + head * task.width;
            one_head::<D, ROWS, VECTORS>(task, at, length, &mut out[start * hidden + head * task.width..], room);
        }
        start += length;
    }
}

/// One sequence and head, whose first query is at `at`.
#[inline(always)]
fn one_head<D: Dot, const ROWS: usize, const VECTORS: usize>(
    task: &Attention<'_>,
    at: usize,
    length: usize,
    out: &mut [f32],
    room: &mut Room,
) {
    let hidden = task.heads * task.width;
    let (wide, narrow) = (VECTORS * D::Lanes::LANES, 2 * D::Lanes::LANES);
    let keys = length.next_multiple_of(wide);
    room.keys.reserve(keys * task.width);
    room.values.reserve(task.width.next_multiple_of(narrow) * length);
    let score_step = length.next_multiple_of(D::Lanes::LANES);
    room.scores.reserve(QUERIES * score_step);
    room.shares.resize(QUERIES, 0.0);
    let row = |i: usize, part: usize| &task.qkv[at + i * 3 * hidden + part * hidden..][..task.width];
    for i in 0..keys {
        // Keys lie in panels; those that fill up the last one are zero.
        let place = i / wide * wide * task.width + i % wide;
        let to = &mut room.keys.as_floats_mut()[place..];
        if i < length {
            row(i, 1).iter().enumerate().for_each(|(k, number)| to[k * wide] = *number);
        } else {
            (0..task.width).for_each(|k| to[k * wide] = 0.0);
        }
    }
    for i in 0..length {
        for (panel, part) in row(i, 2).chunks(narrow).enumerate() {
            let to = &mut room.values.as_floats_mut()[(panel * length + i) * narrow..][..narrow];
            to[..part.len()].copy_from_slice(part);
            to[part.len()..].fill(0.0);
        }
    }
    let scale = 1.0 / (task.width as f32).sqrt();
    let mut first = 0;
    while first < length {
        let rows = QUERIES.min(length - first);
        let scores = Task {
            left: units(&task.qkv[at + first * 3 * hidden..]),
            left_step: 3 * hidden,
            rows,
            right: room.keys.as_slice(),
            columns: length,
            depth: task.width,
            bias: &[],
            scales: None,
            then: Then::Keep,
            out_step: score_step,
        };
        product::<D, ROWS, VECTORS>(&scores, room.scores.as_floats_mut());
        for (row, share) in room.scores.as_floats_mut().chunks_exact_mut(score_step).zip(&mut room.shares).take(rows) {
            *share = soften::<D::Lanes>(row, length, scale);
        }
        let answer = Task {
            left: room.scores.as_slice(),
            left_step: score_step,
            right: room.values.as_slice(),
            columns: task.width,
            depth: length,
            then: Then::Scale(&room.shares),
            out_step: hidden,
            ..scores
        };
        product::<D, ROWS, 2>(&answer, &mut out[first * hidden..]);
        first += rows;
    }
}
