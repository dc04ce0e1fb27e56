//! The difference of any two states of a few records: applied to the one it gives the other, and equal records are no part of it. The bytes
//! are operations on eight keys. (Net change over real commits is tried exhaustively in `tests/net_change.rs`.)

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use distributary::mapping::diff::{Indexed, diff};

type Records = BTreeMap<i64, i64>;

fn indexed(records: &Records) -> Indexed {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("value", DataType::Int64, true)]);
    let ids = Int64Array::from_iter_values(records.keys().copied());
    let values = Int64Array::from_iter_values(records.values().copied());
    let rows = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(values)]).expect("two columns");
    Indexed::new(&rows, &["id".to_owned()], &[]).expect("keys and values compare").0
}

/// Ends the process where it does not hold.
pub(crate) fn holds(operations: &[u8]) {
    let mut now = Records::new();
    let mut states = vec![now.clone()];
    for operation in operations.iter().take(64) {
        let (key, value) = (i64::from(operation & 7), i64::from(operation >> 3));
        match value {
            0 => now.remove(&key),
            _ => now.insert(key, value),
        };
        states.push(now.clone());
    }
    let sides: Vec<Indexed> = states.iter().map(indexed).collect();
    for (was, records) in sides.iter().zip(&states) {
        let is = &sides[sides.len() - 1];
        let change = diff(was, is).expect("rows of one schema compare");
        let mut copy = records.clone();
        let column = |rows: &Indexed, at: u32, index: usize| {
            let column = rows.rows().column(index).as_primitive::<Int64Type>();
            assert!(column.is_valid(at as usize));
            column.value(at as usize)
        };
        for at in &change.deleted {
            assert!(copy.remove(&column(was, *at, 0)).is_some());
        }
        for at in change.inserted.iter().chain(change.updated.iter().map(|(_, after)| after)) {
            let (key, value) = (column(is, *at, 0), column(is, *at, 1));
            assert_ne!(copy.insert(key, value), Some(value), "an equal row is no change");
        }
        assert_eq!(copy, now);
    }
}
