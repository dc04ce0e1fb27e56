//! Rows that were accepted and are not yet inserted. The engine makes a part of every insert and merges parts ever after, so rows of
//! several batches of one table go to it together. Pure: it says what is due, the sink inserts it.
//!
//! Rows of a table and its tombstones are gathered apart, because they have different columns; which of the two is inserted first
//! does not matter, because `_version` decides and no step writes and deletes one row.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;

/// Rows of one insert. Enough that the engine makes large parts, little enough that few rows wait.
const INSERT_ROWS_MAX: usize = 65_536;
/// Arrow bytes of one insert, about.
const INSERT_BYTES_MAX: usize = 64 << 20;
/// Arrow bytes that wait, about, in all tables together.
const WAITING_BYTES_MAX: usize = 128 << 20;

/// Where rows go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The table.
    pub(super) table: String,
    /// Whether the rows are tombstones.
    pub(super) deleted: bool,
}

/// Rows of one insert, in batches of one schema.
#[derive(Debug, Clone, Default)]
pub(super) struct Insert {
    pub(super) batches: Vec<RecordBatch>,
    rows: usize,
    bytes: usize,
}

/// Rows that wait, by where they go.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    waiting: BTreeMap<Place, Insert>,
    lost: BTreeMap<String, String>,
}

impl Insert {
    fn add(&mut self, batch: RecordBatch, bytes: usize) {
        self.rows += batch.num_rows();
        self.bytes += bytes;
        self.batches.push(batch);
    }

    fn is_full(&self) -> bool {
        self.rows >= INSERT_ROWS_MAX || self.bytes >= INSERT_BYTES_MAX
    }
}

impl Gathered {
    /// Takes rows, and answers the inserts that they make full. Rows of other columns than those that wait make these due.
    pub(super) fn add(&mut self, place: &Place, batch: &RecordBatch) -> Vec<Insert> {
        let mut due = Vec::new();
        let mut open = self.waiting.remove(place).unwrap_or_default();
        if open.batches.first().is_some_and(|first| first.schema_ref() != batch.schema_ref()) {
            due.push(std::mem::take(&mut open));
        }
        // What was put back may be full, or more than that.
        if open.is_full() {
            due.push(std::mem::take(&mut open));
        }
        let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1) + 1;
        let mut start = 0;
        while start < batch.num_rows() {
            let fitting = (INSERT_BYTES_MAX.saturating_sub(open.bytes) / row_bytes).max(1);
            let rows = (batch.num_rows() - start).min(fitting).min(INSERT_ROWS_MAX - open.rows);
            open.add(batch.slice(start, rows), rows * row_bytes);
            start += rows;
            if open.is_full() {
                due.push(std::mem::take(&mut open));
            }
        }
        if open.rows > 0 {
            self.waiting.insert(place.clone(), open);
        }
        due
    }

    /// Whether so much waits that all of it is due.
    pub(super) fn is_full(&self) -> bool {
        self.waiting.values().map(|insert| insert.bytes).sum::<usize>() >= WAITING_BYTES_MAX
    }

    /// The next of what waits.
    pub(super) fn pop(&mut self) -> Option<(Place, Insert)> {
        self.waiting.pop_first()
    }

    /// Rows of a table were accepted and cannot be inserted: no checkpoint that counts on them may move.
    pub(super) fn lose(&mut self, place: &Place, reason: &str) {
        self.lost.entry(place.table.clone()).or_insert_with(|| reason.to_owned());
    }

    /// Why rows of the table were lost, if some were.
    pub(super) fn lost(&self, table: &str) -> Option<&str> {
        self.lost.get(table).map(String::as_str)
    }

    /// Puts back what could not be inserted now.
    pub(super) fn put_back(&mut self, place: &Place, insert: Insert) {
        let later = self.waiting.remove(place).unwrap_or_default();
        let open = self.waiting.entry(place.clone()).or_insert(insert);
        for batch in later.batches {
            open.add(batch, 0);
        }
        open.bytes += later.bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray};

    use super::*;

    fn place(deleted: bool) -> Place {
        Place { table: "t".to_owned(), deleted }
    }

    fn rows(count: usize) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values((0..count).map(|n| n as i64)));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    fn count(insert: &Insert) -> usize {
        insert.batches.iter().map(RecordBatch::num_rows).sum()
    }

    #[test]
    fn few_rows_wait_and_many_are_due_in_full_inserts() {
        let mut gathered = Gathered::default();
        assert!(gathered.add(&place(false), &rows(60_000)).is_empty());
        assert!(gathered.add(&place(true), &rows(10_000)).is_empty(), "tombstones wait apart");
        let due = gathered.add(&place(false), &rows(80_000));
        assert_eq!(due.iter().map(count).collect::<Vec<_>>(), [INSERT_ROWS_MAX, INSERT_ROWS_MAX]);
        let mut left = 0;
        while let Some((_, insert)) = gathered.pop() {
            left += count(&insert);
        }
        assert_eq!(left, 60_000 + 80_000 - 2 * INSERT_ROWS_MAX + 10_000);
    }

    #[test]
    fn bytes_bound_an_insert_and_what_waits() {
        let long = |count: usize| {
            let texts: ArrayRef = Arc::new(StringArray::from_iter_values((0..count).map(|_| "x".repeat(1 << 20))));
            RecordBatch::try_from_iter([("text", texts)]).unwrap()
        };
        let mut gathered = Gathered::default();
        let due = gathered.add(&place(false), &long(100));
        assert_eq!(due.iter().map(count).sum::<usize>() + 100 % count(&due[0]), 100);
        assert!(due.iter().all(|insert| insert.bytes <= INSERT_BYTES_MAX + (2 << 20)), "{due:?}");
        // An array of 30 such texts takes 32 MiB.
        for number in 0..4 {
            assert!(!gathered.is_full(), "{number}");
            gathered.add(&Place { table: number.to_string(), deleted: false }, &long(30));
        }
        assert!(gathered.is_full());
    }

    #[test]
    fn other_columns_do_not_wait_together() {
        let mut gathered = Gathered::default();
        gathered.add(&place(false), &rows(3));
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
        let other = RecordBatch::try_from_iter([("n", texts)]).unwrap();
        let due = gathered.add(&place(false), &other);
        assert_eq!(due.iter().map(count).collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let mut gathered = Gathered::default();
        gathered.add(&place(false), &rows(3));
        let (at, insert) = gathered.pop().unwrap();
        gathered.add(&place(false), &rows(2));
        gathered.put_back(&at, insert);
        let (_, insert) = gathered.pop().unwrap();
        assert_eq!(insert.batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(insert.rows, 5);
        assert!(gathered.pop().is_none());
    }

    #[test]
    fn a_full_insert_that_is_put_back_is_due_with_the_next_rows() {
        let mut gathered = Gathered::default();
        let mut due = gathered.add(&place(false), &rows(INSERT_ROWS_MAX + 7));
        gathered.put_back(&place(false), due.remove(0));
        let due = gathered.add(&place(false), &rows(2));
        assert_eq!(due.iter().map(count).collect::<Vec<_>>(), [INSERT_ROWS_MAX + 7]);
        assert_eq!(gathered.pop().map(|(_, insert)| count(&insert)), Some(2));
    }
}
