//! The rows of a write as cells; pure.

use arrow::array::{ArrayRef, RecordBatch};

use crate::sinks::{SinkError, Write};

use super::client::Row;
use super::cypher::{Relationship, SINK, Side};
use super::encode::{Cell, property};

/// The rows of a write, in the order of the schema: the keys to delete (the rest null) and the rows to insert or replace.
pub(super) fn rows_of(
    layout: &Relationship,
    write: &Write,
    key_bytes_max: usize,
    refuse: &mut dyn FnMut(usize, String),
) -> Result<(Vec<Row>, Vec<Row>), SinkError> {
    let target = &layout.target;
    let upserts = Columns::new(&write.upserts, target.schema.fields().iter().map(|field| field.name().as_str()))?;
    let deletes = Columns::new(&write.deletes, layout.order.iter().map(|&index| target.schema.field(index).name().as_str()))?;
    let mut gone = Vec::with_capacity(write.deletes.num_rows());
    for index in 0..write.deletes.num_rows() {
        // The columns were taken in the order of the key: put them where the schema has them.
        let mut cells = vec![Cell::Null; layout.places.len()];
        // A key that the graph cannot hold is not in it.
        let Ok(found) = deletes.row(index) else { continue };
        for (&place, cell) in layout.order.iter().zip(found) {
            cells[place] = cell;
        }
        gone.push(cells);
    }
    let mut here = Vec::with_capacity(write.upserts.num_rows());
    for index in 0..write.upserts.num_rows() {
        match upserts.row(index).and_then(|cells| keyed(layout, &cells, key_bytes_max).map(|()| cells)) {
            Ok(cells) => here.push(cells),
            Err(message) => refuse(index, message),
        }
    }
    Ok((gone, here))
}

/// Some columns of a batch, row by row.
pub(super) struct Columns {
    columns: Vec<(String, ArrayRef)>,
}

impl Columns {
    pub(super) fn new<'a>(batch: &RecordBatch, names: impl Iterator<Item = &'a str>) -> Result<Self, SinkError> {
        // A batch without rows may come without columns too.
        if batch.num_rows() == 0 {
            return Ok(Self { columns: Vec::new() });
        }
        let columns = names.map(|name| {
            let column = batch.column_by_name(name).cloned();
            let column = column.ok_or_else(|| SinkError::permanent(SINK, format!("a batch lacks the column `{name}`")))?;
            Ok((name.to_owned(), column))
        });
        Ok(Self { columns: columns.collect::<Result<_, SinkError>>()? })
    }

    pub(super) fn row(&self, index: usize) -> Result<Vec<Cell>, String> {
        let cells = self.columns.iter();
        cells
            .map(|(name, column)| property(column.as_ref(), index).map_err(|message| format!("column `{name}`: {message}")))
            .collect()
    }
}

fn keyed(layout: &Relationship, cells: &[Cell], key_bytes_max: usize) -> Result<(), String> {
    match layout.order.iter().find(|&&index| cells[index] == Cell::Null) {
        Some(&index) => Err(format!("key column `{}` is null", layout.target.schema.field(index).name())),
        None => {
            short(&end_key(layout, Side::From, cells), key_bytes_max)?;
            short(&end_key(layout, Side::To, cells), key_bytes_max)
        }
    }
}

/// Whether an engine's index can hold the key.
pub(super) fn short(key: &[Cell], bytes_max: usize) -> Result<(), String> {
    let bytes: usize = key.iter().map(|cell| cell.as_text().map_or(16, str::len)).sum();
    if bytes > bytes_max { Err(format!("a key of {bytes} bytes is longer than {bytes_max}")) } else { Ok(()) }
}

/// The key of the node at one end.
pub(super) fn end_key(layout: &Relationship, side: Side, cells: &[Cell]) -> Vec<Cell> {
    layout.ends[side as usize].iter().map(|&index| cells[index].clone()).collect()
}
