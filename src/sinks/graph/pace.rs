//! How much is put into one statement and into one transaction; pure. A server that lacks memory is given half as much, and a little
//! more again after each transaction that went well.

use arrow::array::RecordBatch;

use crate::sinks::Write;

/// Statements of full size that one transaction takes: a server keeps all of a transaction in memory.
const TRANSACTION_STATEMENTS: usize = 20;
/// Less than this helps no server.
const BATCH_ROWS_MIN: usize = 50;
/// A transaction that went well is followed by one that is larger by this part of the full size.
const GROWTH: usize = 16;

/// The sizes of now.
#[derive(Debug)]
pub(super) struct Pace {
    batch_rows: usize,
    batch_rows_max: usize,
}

impl Pace {
    pub(super) fn new(batch_rows: usize) -> Self {
        let batch_rows = batch_rows.max(1);
        Self { batch_rows, batch_rows_max: batch_rows }
    }

    /// Rows of one statement.
    pub(super) fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// Rows of one transaction.
    pub(super) fn transaction_rows(&self) -> usize {
        self.batch_rows.saturating_mul(TRANSACTION_STATEMENTS)
    }

    /// The engine lacks memory.
    pub(super) fn shrink(&mut self) {
        self.batch_rows = (self.batch_rows / 2).max(BATCH_ROWS_MIN).min(self.batch_rows_max);
        tracing::info!(batch_rows = self.batch_rows, "the graph's engine lacks memory: it is given smaller transactions");
    }

    /// A transaction went well.
    pub(super) fn grow(&mut self) {
        self.batch_rows = self.batch_rows.saturating_add((self.batch_rows_max / GROWTH).max(1)).min(self.batch_rows_max);
    }
}

/// Rows of some writes.
pub(super) fn rows(writes: &[Write]) -> usize {
    writes.iter().map(|write| write.upserts.num_rows() + write.deletes.num_rows()).sum()
}

/// A piece of some writes.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) writes: Vec<Write>,
    /// For each of the writes its index, and the row at which its upserts begin.
    places: Vec<(usize, usize)>,
}

impl Part {
    /// Where a row of the part is in the writes that it was made of.
    pub(super) fn place(&self, write: usize, row: usize) -> (usize, usize) {
        let (index, first) = self.places[write];
        (index, first + row)
    }
}

/// The writes in parts of at most so many rows, each row in one of them.
pub(super) fn parts(writes: &[Write], rows_max: usize) -> Vec<Part> {
    let mut parts = vec![Part { writes: Vec::new(), places: Vec::new() }];
    let mut room = rows_max.max(1);
    for (index, write) in writes.iter().enumerate() {
        let (mut upserts, mut deletes) = (0, 0);
        loop {
            let left = (write.upserts.num_rows() - upserts, write.deletes.num_rows() - deletes);
            if left == (0, 0) {
                break;
            }
            if room == 0 {
                parts.push(Part { writes: Vec::new(), places: Vec::new() });
                room = rows_max.max(1);
            }
            // What goes before what comes, as far as there is room for both.
            let gone = left.1.min(room);
            let here = left.0.min(room - gone);
            let slice = |batch: &RecordBatch, from: usize, count: usize| batch.slice(from, count);
            if let Some(part) = parts.last_mut() {
                part.writes.push(Write {
                    upserts: slice(&write.upserts, upserts, here),
                    deletes: slice(&write.deletes, deletes, gone),
                    ..write.clone()
                });
                part.places.push((index, upserts));
            }
            upserts += here;
            deletes += gone;
            room -= here + gone;
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{AsArray, Int64Array};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::mapping::target::{Shape, Target};

    #[test]
    fn it_halves_and_grows_slowly() {
        let mut pace = Pace::new(1_000);
        pace.shrink();
        assert_eq!((pace.batch_rows(), pace.transaction_rows()), (500, 10_000));
        for _ in 0..9 {
            pace.shrink();
        }
        assert_eq!(pace.batch_rows(), 50);
        pace.grow();
        assert_eq!(pace.batch_rows(), 112);
        for _ in 0..50 {
            pace.grow();
        }
        assert_eq!(pace.batch_rows(), 1_000);
        // One that was made small stays as it is.
        let mut small = Pace::new(7);
        small.shrink();
        assert_eq!(small.batch_rows(), 7);
    }

    fn write(first: i64, upserts: usize, deletes: usize) -> Write {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let batch = |from: i64, count: usize| {
            let ids = (0..count).map(|i| from + i64::try_from(i).unwrap()).collect::<Vec<_>>();
            RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids))]).unwrap()
        };
        let target = Target {
            table: "t".to_owned(),
            name: "N".to_owned(),
            shape: Shape::Node,
            schema: schema.clone(),
            key: vec!["id".to_owned()],
            record_key: vec!["id".to_owned()],
            fingerprint: String::new(),
        };
        Write { target: Arc::new(target), version: 1, upserts: batch(first, upserts), deletes: batch(first + 1000, deletes) }
    }

    fn ids(batch: &RecordBatch) -> Vec<i64> {
        batch.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    proptest! {
        #[test]
        fn each_row_is_in_one_part_and_keeps_its_place(
            sizes in proptest::collection::vec((0_usize..12, 0_usize..12), 0..5),
            rows_max in 1_usize..15,
        ) {
            let writes: Vec<Write> =
                sizes.iter().enumerate().map(|(i, (up, down))| write(i64::try_from(i).unwrap() * 10_000, *up, *down)).collect();
            let mut seen: Vec<(Vec<i64>, Vec<i64>)> = vec![Default::default(); writes.len()];
            for part in parts(&writes, rows_max) {
                prop_assert!(rows(&part.writes) <= rows_max);
                for (i, piece) in part.writes.iter().enumerate() {
                    let (index, first) = part.place(i, 0);
                    prop_assert_eq!(first, seen[index].0.len());
                    seen[index].0.extend(ids(&piece.upserts));
                    seen[index].1.extend(ids(&piece.deletes));
                }
            }
            for (write, (upserts, deletes)) in writes.iter().zip(seen) {
                prop_assert_eq!(ids(&write.upserts), upserts);
                prop_assert_eq!(ids(&write.deletes), deletes);
            }
        }
    }
}
