//! The product of rows and packed columns, tile by tile, written once for all instruction sets.
//!
//! Every output is one running sum over the depth from first to last, whatever the tile it falls into: the bits of a row do not
//! depend on how many rows there are or on where it stands among them. A tile keeps its sums in registers over the whole depth;
//! what happens to a sum after (scales, bias, GELU, the residual) happens there too, before it is written.

#![allow(unsafe_code)] // Addresses inside the matrices; `Task` is checked before the loops begin.

use crate::dot::Dot;
use crate::math::{Fit, gelu};
use crate::simd::Lanes;

/// What becomes of a product.
#[derive(Debug, Clone, Copy)]
pub enum Then<'a> {
    /// Nothing more.
    Keep,
    /// GELU, exact to 1e-6.
    Gelu,
    /// GELU, exact to 6e-5.
    ShortGelu,
    /// A matrix like the output is added.
    Add(&'a [f32]),
    /// Each row is multiplied by its number.
    Scale(&'a [f32]),
}

/// Scales of a product of whole numbers: (of rows, least of rows, of columns, sums of columns).
pub(crate) type Scales<'a> = (&'a [f32], &'a [f32], &'a [f32], &'a [f32]);

/// A product to be made: `rows` × `columns`, over `depth` units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task<'a> {
    pub(crate) left: &'a [u32],
    /// Units from one row of `left` to the next.
    pub(crate) left_step: usize,
    pub(crate) rows: usize,
    /// Panels of as many columns as the tiles are wide.
    pub(crate) right: &'a [u32],
    pub(crate) columns: usize,
    pub(crate) depth: usize,
    /// To whole panels, or empty.
    pub(crate) bias: &'a [f32],
    pub(crate) scales: Option<Scales<'a>>,
    pub(crate) then: Then<'a>,
    /// Numbers from one row of the output to the next.
    pub(crate) out_step: usize,
}

impl Task<'_> {
    /// Stops the program where an address would fall outside.
    pub(crate) fn check(&self, width: usize, out: &[f32]) {
        let panels = self.columns.div_ceil(width);
        assert!(self.rows > 0 && self.columns > 0, "an empty product");
        assert!(self.left.len() >= (self.rows - 1) * self.left_step + self.depth && self.left_step >= self.depth, "rows");
        assert!(self.right.len() >= panels * width * self.depth, "columns");
        assert!(self.out_step >= self.columns && out.len() >= (self.rows - 1) * self.out_step + self.columns, "output");
        assert!(self.bias.is_empty() || self.bias.len() >= panels * width, "bias");
        if let Some((row, least, column, sum)) = self.scales {
            assert!(row.len() >= self.rows && least.len() >= self.rows, "scales of rows");
            assert!(column.len() >= panels * width && sum.len() >= panels * width, "scales of columns");
        }
        match self.then {
            Then::Keep | Then::Gelu | Then::ShortGelu => {}
            Then::Add(more) => assert!(more.len() >= (self.rows - 1) * self.out_step + self.columns, "what is added"),
            Then::Scale(rows) => assert!(rows.len() >= self.rows, "scales of rows"),
        }
    }
}

/// Makes the product with tiles of `ROWS` × `VECTORS` vectors of columns.
#[inline(always)]
pub(crate) fn product<D: Dot, const ROWS: usize, const VECTORS: usize>(task: &Task<'_>, out: &mut [f32]) {
    let width = VECTORS * D::Lanes::LANES;
    task.check(width, out);
    let mut column = 0;
    while column < task.columns {
        let panel = &task.right[column * task.depth..][..width * task.depth];
        let mut row = 0;
        while task.rows - row >= ROWS {
            tile::<D, ROWS, VECTORS>(task, panel, row, column, out);
            row += ROWS;
        }
        if task.rows - row >= 4 {
            tile::<D, 4, VECTORS>(task, panel, row, column, out);
            row += 4;
        }
        if task.rows - row >= 2 {
            tile::<D, 2, VECTORS>(task, panel, row, column, out);
            row += 2;
        }
        if task.rows - row >= 1 {
            tile::<D, 1, VECTORS>(task, panel, row, column, out);
        }
        column += width;
    }
}

#[inline(always)]
fn tile<D: Dot, const ROWS: usize, const VECTORS: usize>(
    task: &Task<'_>,
    panel: &[u32],
    row: usize,
    column: usize,
    out: &mut [f32],
) {
    let (step, depth, lanes) = (task.left_step, task.depth, D::Lanes::LANES);
    let mut sums = [[D::zero(); VECTORS]; ROWS];
    // SAFETY: `check` has seen that the rows from `row` on and the panel lie inside, over the whole depth.
    unsafe {
        let left = task.left.as_ptr().add(row * step);
        let right = panel.as_ptr();
        for k in 0..depth {
            let mut columns = [D::load(right.add(k * VECTORS * lanes)); VECTORS];
            for (v, units) in columns.iter_mut().enumerate().skip(1) {
                *units = D::load(right.add((k * VECTORS + v) * lanes));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let unit = D::spread(left.add(r * step + k));
                for (sum, columns) in sums.iter_mut().zip(columns) {
                    *sum = D::step(*sum, unit, columns);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        for (v, sum) in sums.iter().enumerate() {
            finish(task, D::finish(*sum), row + r, column + v * lanes, out);
        }
    }
}

/// What happens to a vector of sums, at a row and a column of the output, and where it is written.
#[inline(always)]
pub(crate) fn finish<V: Lanes>(task: &Task<'_>, sums: V, row: usize, column: usize, out: &mut [f32]) {
    let Some(count) = task.columns.checked_sub(column).filter(|left| *left > 0) else { return };
    let count = count.min(V::LANES);
    let place = row * task.out_step + column;
    // SAFETY: `check` has seen that per-column numbers reach to whole panels, and the others to the last row and column.
    unsafe {
        let mut value = sums;
        if let Some((scale, least, columns, sum)) = task.scales {
            let columns = V::load(columns.as_ptr().add(column));
            let offset = V::splat(*least.get_unchecked(row)).mul(V::load(sum.as_ptr().add(column)));
            value = value.mul_add(columns.mul(V::splat(*scale.get_unchecked(row))), offset);
        }
        if !task.bias.is_empty() {
            value = value.add(V::load(task.bias.as_ptr().add(column)));
        }
        value = match task.then {
            Then::Keep => value,
            Then::Gelu => gelu(value, Fit::Exact),
            Then::ShortGelu => gelu(value, Fit::Short),
            Then::Add(more) => value.add(V::load_first(more.as_ptr().add(place), count)),
            Then::Scale(rows) => value.mul(V::splat(*rows.get_unchecked(row))),
        };
        if count == V::LANES {
            value.store(out.as_mut_ptr().add(place));
        } else {
            value.store_first(out.as_mut_ptr().add(place), count);
        }
    }
}
