//! Net changes: rows that came and went, sorted by key, folded to what is left of each key. A multiset over the rows' contents, so the order of
//! events does not matter: what came and went again cancels out, whatever came in between.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{interleave, interleave_record_batch};
use arrow::datatypes::{Int8Type, SchemaRef};
use arrow::error::ArrowError;

use super::scan::SIGN;
use crate::rows::{Encoder, Equality, Rows};

/// Events of one key that are kept before those that cancel out are dropped, so that a key that changes in every commit
/// takes no memory for each of them.
const EVENTS_OF_A_KEY_MAX: usize = 16_384;

/// A row: the batch it is in, and its place there.
pub(super) type RowRef = (usize, usize);

/// What is left of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Net {
    /// Some row that has the key.
    pub key: RowRef,
    /// Distinct contents that went, each with one row that has it, and how many rows of it went.
    pub gone: Vec<(RowRef, u64)>,
    /// Distinct contents that came.
    pub came: Vec<(RowRef, u64)>,
}

impl Net {
    /// Whether nothing is left: the key is as it was.
    pub(super) fn is_nothing(&self) -> bool {
        self.gone.is_empty() && self.came.is_empty()
    }

    /// Whether at most one row went and at most one came, as in a table where a key identifies a row.
    pub(super) fn is_plain(&self) -> bool {
        let single = |side: &[(RowRef, u64)]| matches!(side, [] | [(_, 1)]);
        single(&self.gone) && single(&self.came)
    }
}

/// Net changes of some keys, with the rows that they refer to.
#[derive(Debug)]
pub(super) struct Folded {
    /// The rows, without their signs.
    pub batches: Vec<RecordBatch>,
    /// The encoded keys of the rows.
    pub keys: Vec<Rows>,
    /// One for each key, in the order of the keys.
    pub nets: Vec<Net>,
}

impl Folded {
    /// These rows in one batch.
    pub(super) fn take(&self, rows: &[RowRef], schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
        if rows.is_empty() {
            return Ok(RecordBatch::new_empty(schema.clone()));
        }
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let taken = interleave_record_batch(&batches, rows)?;
        crate::rows::cast_batch(&taken, schema)
    }

    /// The encoded key of a row.
    pub(super) fn key(&self, row: RowRef) -> &[u8] {
        self.keys[row.0].row(row.1).data()
    }
}

/// Folds sorted batches.
#[derive(Debug)]
pub(super) struct Fold {
    /// The columns that identify a group, key columns first.
    key: Vec<String>,
    encoder: Encoder,
    batches: Vec<RecordBatch>,
    keys: Vec<Rows>,
    /// All events that are not folded yet, in order.
    events: Vec<(RowRef, i8)>,
    /// Groups that are complete.
    closed: Vec<Range<usize>>,
    /// Where the group begins that may go on in the next batch.
    open: usize,
    /// How many events of the open group are kept before those that cancel out are dropped.
    kept_max: usize,
}

impl Fold {
    /// For rows of `schema` (which has the column of signs), grouped by `key`.
    pub(super) fn new(schema: &SchemaRef, key: &[String]) -> Result<Self, ArrowError> {
        let types = key
            .iter()
            .map(|name| Ok(schema.field_with_name(name)?.data_type().clone()))
            .collect::<Result<Vec<_>, ArrowError>>()?;
        Ok(Self {
            key: key.to_vec(),
            encoder: Encoder::new(&types)?,
            batches: Vec::new(),
            keys: Vec::new(),
            events: Vec::new(),
            closed: Vec::new(),
            open: 0,
            kept_max: EVENTS_OF_A_KEY_MAX,
        })
    }

    /// Whether so many groups are complete, or several times as many rows are held of those that are.
    pub(super) fn is_full(&self, groups: usize) -> bool {
        self.closed.len() >= groups || (self.open >= groups.saturating_mul(4) && !self.closed.is_empty())
    }

    /// Takes the next rows in the order of the key.
    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let keys = self.encode_keys(batch)?;
        let sign_at = batch.schema_ref().index_of(SIGN)?;
        let signs = batch.column(sign_at).as_primitive::<Int8Type>().clone();
        let mut rows = batch.clone();
        rows.remove_column(sign_at);
        let number = self.batches.len();
        self.batches.push(rows);
        self.keys.push(keys);
        for row in 0..batch.num_rows() {
            let before = self.events.last().map(|(before, _)| *before);
            let same = before.is_some_and(|(b, r)| self.keys[b].row(r) == self.keys[number].row(row));
            if before.is_some() && !same {
                self.close();
            }
            self.events.push(((number, row), signs.value(row)));
        }
        if self.events.len() - self.open > self.kept_max {
            self.compact()?;
            self.kept_max = EVENTS_OF_A_KEY_MAX.max(2 * (self.events.len() - self.open));
        }
        Ok(())
    }

    fn encode_keys(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let columns = self.key.iter().map(|name| by_name(batch, name)).collect::<Result<Vec<_>, _>>()?;
        self.encoder.encode(&columns)
    }

    /// The last group is complete.
    pub(super) fn finish(&mut self) {
        if self.open < self.events.len() {
            self.close();
        }
    }

    fn close(&mut self) {
        self.closed.push(self.open..self.events.len());
        self.open = self.events.len();
    }

    /// The nets of all groups that are complete, which are forgotten with it.
    pub(super) fn take(&mut self) -> Result<Folded, ArrowError> {
        let nets = self.nets(&self.closed)?;
        let open = &self.events[self.open..];
        // The rows of the open group lie together at the end of their batches.
        let mut first: BTreeMap<usize, usize> = BTreeMap::new();
        for ((batch, row), _) in open {
            first.entry(*batch).and_modify(|known| *known = (*known).min(*row)).or_insert(*row);
        }
        let (mut batches, mut keys) = (Vec::new(), Vec::new());
        for (batch, row) in &first {
            let rest = self.batches[*batch].slice(*row, self.batches[*batch].num_rows() - row);
            keys.push(self.encode_keys(&rest)?);
            batches.push(rest);
        }
        let place = |batch: &usize| first.keys().position(|known| known == batch).unwrap_or(0);
        let events = open.iter().map(|((batch, row), sign)| ((place(batch), row - first[batch]), *sign)).collect();
        let batches = std::mem::replace(&mut self.batches, batches);
        let keys = std::mem::replace(&mut self.keys, keys);
        self.events = events;
        self.closed.clear();
        self.open = 0;
        Ok(Folded { batches, keys, nets })
    }

    /// Drops what cancels out in the open group.
    fn compact(&mut self) -> Result<(), ArrowError> {
        let group = self.open..self.events.len();
        let Some(net) = self.nets(&[group])?.pop() else { return Ok(()) };
        let mut left: Vec<(RowRef, i8)> = Vec::new();
        for (side, sign) in [(&net.gone, -1), (&net.came, 1)] {
            for (row, count) in side {
                left.extend((0..*count).map(|_| (*row, sign)));
            }
        }
        if left.is_empty() {
            // The group stays open, with a pair that is nothing, so that its key is not forgotten.
            left.extend([(net.key, -1), (net.key, 1)]);
        }
        self.events.truncate(self.open);
        self.events.extend(left);
        if self.open == 0 {
            self.drop_unused()?;
        }
        Ok(())
    }

    /// Lets go of batches that no event refers to, by copying the rows that are left. Only where no group is complete.
    fn drop_unused(&mut self) -> Result<(), ArrowError> {
        let rows: Vec<RowRef> = self.events.iter().map(|(row, _)| *row).collect();
        let batches: Vec<&RecordBatch> = self.batches.iter().collect();
        let left = interleave_record_batch(&batches, &rows)?;
        self.keys = vec![self.encode_keys(&left)?];
        self.batches = vec![left];
        for (row, (place, _)) in self.events.iter_mut().enumerate() {
            *place = (0, row);
        }
        Ok(())
    }

    fn nets(&self, groups: &[Range<usize>]) -> Result<Vec<Net>, ArrowError> {
        let mut nets: Vec<Net> = Vec::with_capacity(groups.len());
        let (mut pairs, mut others) = (Vec::new(), Vec::new());
        for (number, group) in groups.iter().enumerate() {
            let events = &self.events[group.clone()];
            let mut net = Net { key: events[0].0, gone: Vec::new(), came: Vec::new() };
            match events {
                [(row, sign)] => side(&mut net, *sign).push((*row, 1)),
                [(first, one), (second, other)] if *one != *other => {
                    side(&mut net, *one).push((*first, 1));
                    side(&mut net, *other).push((*second, 1));
                    pairs.push(number);
                }
                _ => others.push(number),
            }
            nets.push(net);
        }
        self.cancel_pairs(&mut nets, pairs)?;
        self.count_others(&mut nets, groups, &others)?;
        Ok(nets)
    }

    /// Empties those nets of one row gone and one row come whose rows are equal. Compares column by column, the narrow ones first, and each only for
    /// the pairs that all columns before it have left undecided: where every record changed, the wide columns are never looked at.
    fn cancel_pairs(&self, nets: &mut [Net], mut undecided: Vec<usize>) -> Result<(), ArrowError> {
        for column in self.columns_by_width() {
            if undecided.is_empty() {
                return Ok(());
            }
            // Rows of one key lie together, so there are few pairs of batches.
            let mut alike: HashMap<(usize, usize), Equality> = HashMap::new();
            let mut left = Vec::with_capacity(undecided.len());
            for net in undecided {
                let ((gone_in, gone), (came_in, came)) = (nets[net].gone[0].0, nets[net].came[0].0);
                let alike = match alike.entry((gone_in, came_in)) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(new) => {
                        let of = |batch: usize| self.batches[batch].column(column);
                        new.insert(Equality::new(of(gone_in), of(came_in))?)
                    }
                };
                if alike.equal(gone, came) {
                    left.push(net);
                }
            }
            undecided = left;
        }
        for net in undecided {
            nets[net].gone.clear();
            nets[net].came.clear();
        }
        Ok(())
    }

    fn count_others(&self, nets: &mut [Net], groups: &[Range<usize>], others: &[usize]) -> Result<(), ArrowError> {
        let rows: Vec<RowRef> =
            others.iter().flat_map(|net| self.events[groups[*net].clone()].iter().map(|(row, _)| *row)).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let columns =
            self.columns_by_width().into_iter().map(|column| self.values(column, &rows)).collect::<Result<Vec<_>, _>>()?;
        let types: Vec<_> = columns.iter().map(|column| column.data_type().clone()).collect();
        let encoded = if columns.is_empty() { None } else { Some(Encoder::new(&types)?.encode(&columns)?) };
        let mut at = 0;
        for number in others {
            let mut counts: Vec<(RowRef, i64)> = Vec::new();
            let mut known: HashMap<&[u8], usize> = HashMap::new();
            for (row, sign) in &self.events[groups[*number].clone()] {
                let content = encoded.as_ref().map_or(&[][..], |rows| rows.row(at).data());
                let place = *known.entry(content).or_insert(counts.len());
                match counts.get_mut(place) {
                    Some((_, count)) => *count += i64::from(*sign),
                    None => counts.push((*row, i64::from(*sign))),
                }
                at += 1;
            }
            for (row, count) in counts.into_iter().filter(|(_, count)| *count != 0) {
                side(&mut nets[*number], if count < 0 { -1 } else { 1 }).push((row, count.unsigned_abs()));
            }
        }
        Ok(())
    }

    /// Columns outside the key, those with the fewest bytes first.
    fn columns_by_width(&self) -> Vec<usize> {
        let Some(first) = self.batches.first() else { return Vec::new() };
        let schema = first.schema();
        let mut columns: Vec<usize> =
            (0..schema.fields().len()).filter(|index| !self.key.contains(schema.field(*index).name())).collect();
        columns.sort_by_key(|index| first.column(*index).get_array_memory_size());
        columns
    }

    fn values(&self, column: usize, rows: &[RowRef]) -> Result<ArrayRef, ArrowError> {
        let arrays: Vec<&dyn Array> = self.batches.iter().map(|batch| batch.column(column).as_ref()).collect();
        interleave(&arrays, rows)
    }
}

fn side(net: &mut Net, sign: i8) -> &mut Vec<(RowRef, u64)> {
    if sign < 0 { &mut net.gone } else { &mut net.came }
}

fn by_name(batch: &RecordBatch, name: &str) -> Result<ArrayRef, ArrowError> {
    batch.column_by_name(name).cloned().ok_or_else(|| ArrowError::SchemaError(format!("there is no column {name}")))
}
