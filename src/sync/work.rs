//! What one batch of net changes means for one lane: project before and after, compare by key, set bad records apart, and compare
//! with what the sink holds where the state before is not known.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Schema};

use super::LaneError;
use super::batch::Batch;
use super::lane::Lane;
use super::points::Vectors;
use crate::changes::{ChangeBatch, json_objects};
use crate::mapping::diff::{Difference, Indexed, KeyFault, columns, diff, encode};
use crate::mapping::target::{Shape, Target};
use crate::mapping::{Projection, RowFault};
use crate::report::Counts;
use crate::rows;
use crate::sinks::{Sink, Write};

/// Bytes of text that a chunk has at least, but for the last: half of what models take, in tokens of one byte.
const CHUNK_BYTES_MIN: usize = 64;
/// Bytes that the payloads of one row's points may have together.
const POINTS_BYTES_MAX: u64 = 256 << 20;

/// What one batch means for one lane.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) write: Write,
    pub(super) counts: Counts,
    pub(super) faults: Vec<Fault>,
    /// Records in quarantine of which this batch brought a good state, or the end.
    pub(super) mended: Vec<String>,
    /// Texts that went through the model, or would have.
    pub(super) texts: u64,
    /// Their tokens, where they are asked for.
    pub(super) tokens: u64,
    /// Their vectors, by the texts' hashes.
    pub(super) made: Vectors,
}

/// A record that the lane cannot take.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    /// The Silver key as JSON.
    pub(super) key: String,
    pub(super) reason: String,
    pub(super) message: String,
    /// The record as JSON.
    pub(super) payload: String,
}

/// How a batch is to be taken.
#[derive(Debug)]
pub(super) struct Manner<'a> {
    /// Compare every record with what the sink holds.
    pub(super) careful: bool,
    /// Keys of records in quarantine for this lane: the sink holds their last good state, whatever the feed says.
    pub(super) quarantined: &'a HashSet<String>,
    /// The longest text, in bytes.
    pub(super) text_bytes: u64,
    /// Count the tokens of what is embedded.
    pub(super) tokens: bool,
}

/// Rows of one lane before and after, sorted into those whose difference is the work and those to be compared with the sink.
#[derive(Debug)]
pub(super) struct Sides {
    /// Rows before; only of records whose state before is known.
    pub(super) before: Indexed,
    /// Rows after, of the same records.
    pub(super) after: Indexed,
    /// The Silver keys, as the target has them, of records to be compared with the sink.
    pub(super) replaced: RecordBatch,
    /// Rows after of those.
    pub(super) replacing: Indexed,
    pub(super) faults: Vec<Fault>,
    /// Rows after of bad records, at least one each.
    pub(super) bad_rows: u64,
    /// Rows of records that are equal in all that the query reads: they are in neither side.
    pub(super) untouched: u64,
    pub(super) mended: Vec<String>,
}

/// Records by key: the bytes of the Silver key, the record's place and its row there.
struct Records<'a> {
    batch: &'a RecordBatch,
    keys: rows::Rows,
}

impl<'a> Records<'a> {
    fn new(projection: &Projection, batch: &'a RecordBatch) -> Result<Self, LaneError> {
        let keys = encode(&projection.silver_keys(batch)?, batch.num_rows())?;
        Ok(Self { batch, keys })
    }

    fn key(&self, row: usize) -> Vec<u8> {
        self.keys.row(row).as_ref().to_vec()
    }
}

/// The work of a lane whose rows the sink stores as they are.
pub(super) async fn work(lane: &Lane, batch: &Batch, manner: &Manner<'_>, version: u64) -> Result<Work, LaneError> {
    let target = lane.target();
    let sides = sides(&lane.projection, batch, manner).await?;
    let difference = diff(&sides.before, &sides.after)?;
    let held = held(lane.sink().as_ref(), target, &sides.replaced, 0).await?;
    let held = Indexed::distinct(&held, &target.key, &[])?;
    let image = lane.sink().image(target, sides.replacing.rows())?;
    let replacing = Indexed::distinct(&image, &target.key, &[])?;
    let repair = diff(&held, &replacing)?;
    let upserts = [pick(sides.after.rows(), &upserted(&difference))?, pick(sides.replacing.rows(), &upserted(&repair))?];
    let deletes = [
        take_record_batch(&keys_only(target, sides.before.rows())?, &UInt32Array::from(difference.deleted.clone()))?,
        take_record_batch(&keys_only(target, held.rows())?, &UInt32Array::from(repair.deleted.clone()))?,
    ];
    let upserts = together(&with_schema(&upserts, target)?)?;
    let deletes = together(&deletes)?;
    let counts = Counts {
        given: (sides.after.rows().num_rows() + sides.replacing.rows().num_rows()) as u64
            + (difference.deleted.len() + repair.deleted.len()) as u64
            + sides.bad_rows
            + sides.untouched,
        upserts: upserts.num_rows() as u64,
        deletes: deletes.num_rows() as u64,
        unchanged: difference.unchanged + repair.unchanged + sides.untouched,
        quarantined: sides.bad_rows,
        ..Counts::default()
    };
    let write = Write { target: target.clone(), version, upserts, deletes };
    Ok(Work { write, counts, faults: sides.faults, mended: sides.mended, texts: 0, tokens: 0, made: Vectors::new() })
}

/// These rows of the batch: itself when they are all there in order, as in a first sync.
fn pick(rows: &RecordBatch, places: &UInt32Array) -> Result<RecordBatch, LaneError> {
    if places.len() == rows.num_rows() && places.values().iter().copied().eq(0..) {
        return Ok(rows.clone());
    }
    Ok(take_record_batch(rows, places)?)
}

/// The two in one, without a copy where one is empty.
fn together(batches: &[RecordBatch; 2]) -> Result<RecordBatch, LaneError> {
    match batches {
        [one, other] if other.num_rows() == 0 => Ok(one.clone()),
        [one, other] if one.num_rows() == 0 => Ok(other.clone()),
        [one, _] => Ok(concat_batches(&one.schema(), batches)?),
    }
}

fn with_schema(batches: &[RecordBatch; 2], target: &Target) -> Result<[RecordBatch; 2], LaneError> {
    let with = |batch: &RecordBatch| RecordBatch::try_new(target.schema.clone(), batch.columns().to_vec());
    Ok([with(&batches[0])?, with(&batches[1])?])
}

pub(super) fn upserted(difference: &Difference) -> UInt32Array {
    difference.inserted.iter().copied().chain(difference.updated.iter().map(|(_, after)| *after)).collect()
}

/// The key columns alone.
pub(super) fn keys_only(target: &Target, rows: &RecordBatch) -> Result<RecordBatch, LaneError> {
    let names = target.stored_key();
    let schema = rows.schema();
    let indices: Vec<usize> = names.iter().filter_map(|n| schema.index_of(n).ok()).collect();
    let arrays = indices.iter().map(|i| rows.column(*i).clone()).collect();
    let fields: Vec<Field> = indices.iter().map(|i| schema.field(*i).clone().with_nullable(false)).collect();
    Ok(RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays)?)
}

/// What the sink holds of these records.
pub(super) async fn held(
    sink: &dyn Sink,
    target: &Target,
    keys: &RecordBatch,
    dimensions: usize,
) -> Result<RecordBatch, LaneError> {
    let mut pages = Vec::new();
    // Bounds what one answer holds.
    const KEYS_AT_ONCE: usize = 4096;
    let mut offset = 0;
    while offset < keys.num_rows() {
        let length = KEYS_AT_ONCE.min(keys.num_rows() - offset);
        pages.push(sink.held(target, &keys.slice(offset, length)).await?);
        offset += length;
    }
    if let Some(first) = pages.first() {
        return Ok(concat_batches(&first.schema(), &pages)?);
    }
    Ok(RecordBatch::new_empty(target.stored_schema(dimensions)))
}

/// Rows that a projection made, indexed, with what is wrong with them.
struct Projected {
    rows: RecordBatch,
    /// The rows that have a key of their own.
    indexed: Indexed,
    /// Silver keys of the records that the rows are made of, one a row.
    of: rows::Rows,
}

impl Projected {
    fn new(projection: &Projection, rows: RecordBatch) -> Result<(Self, Vec<KeyFault>), LaneError> {
        let (indexed, faults) = Indexed::new(&rows, &projection.target().key, &[])?;
        let of = encode(&projection.keys_of_rows(&rows)?, rows.num_rows())?;
        Ok((Self { rows, indexed, of }, faults))
    }

    /// The rows of records with such a key.
    fn only(self, target: &Target, wanted: &dyn Fn(&[u8]) -> bool) -> Result<Indexed, LaneError> {
        let wanted: Vec<bool> = self.of.iter().map(|key| wanted(key.as_ref())).collect();
        if wanted.iter().all(|wanted| *wanted) {
            return Ok(self.indexed);
        }
        Ok(Indexed::new(&keep(&self.rows, &wanted)?, &target.key, &[])?.0)
    }
}

/// Projects a batch and sorts its rows.
pub(super) async fn sides(projection: &Projection, batch: &Batch, manner: &Manner<'_>) -> Result<Sides, LaneError> {
    let target = projection.target();
    let (changes, untouched) = touched(projection, batch, manner).await?;
    let after_records = Records::new(projection, &changes.after)?;
    let mut bad: HashMap<Vec<u8>, (String, String)> = HashMap::new();

    let (after_rows, faults) = projection.project(&changes.after).await?;
    for fault in faults {
        note(&mut bad, after_records.key(fault.record), fault.reason, &fault.message);
    }
    let (after, faults) = Projected::new(projection, after_rows)?;
    for fault in row_faults(target, &after.rows, faults, manner.text_bytes)? {
        note(&mut bad, after.of.row(fault.record).as_ref().to_vec(), fault.reason, &fault.message);
    }
    let mut replaced: HashSet<Vec<u8>> = HashSet::new();
    let mut mended = Vec::new();
    unknown_before(projection, &changes, manner, &mut replaced, &mut mended, &bad)?;

    // What was before is projected only where it is to be compared.
    let before_records = Records::new(projection, &changes.before)?;
    let known: Vec<bool> = before_records.keys.iter().map(|key| !manner.careful && !replaced.contains(key.as_ref())).collect();
    let before = keep(&changes.before, &known)?;
    let before_records = Records::new(projection, &before)?;
    let (before_rows, faults) = projection.project(&before).await?;
    let mut doubtful: HashSet<Vec<u8>> = faults.iter().map(|f| before_records.key(f.record)).collect();
    let (before, faults) = Projected::new(projection, before_rows)?;
    for fault in row_faults(target, &before.rows, faults, manner.text_bytes)? {
        doubtful.insert(before.of.row(fault.record).as_ref().to_vec());
    }
    replaced.extend(doubtful);

    let is_replaced = |key: &[u8]| manner.careful || replaced.contains(key);
    let is_good = |key: &[u8]| !bad.contains_key(key);
    let bad_rows: u64 =
        bad.keys().map(|key| after.of.iter().filter(|of| of.as_ref() == key.as_slice()).count().max(1) as u64).sum();
    let to_replace: Vec<bool> = after.of.iter().map(|key| is_good(key.as_ref()) && is_replaced(key.as_ref())).collect();
    let replacing = Indexed::new(&keep(&after.rows, &to_replace)?, &target.key, &[])?.0;
    let after = after.only(target, &|key| is_good(key) && !is_replaced(key))?;
    let before = before.only(target, &|key| is_good(key) && !is_replaced(key))?;
    let replaced = replaced_keys(projection, &changes, &|key| is_replaced(key) && is_good(key))?;
    let faults = faults_of(&after_records, projection, &bad)?;
    Ok(Sides { before, after, replaced, replacing, faults, bad_rows, untouched, mended })
}

/// The changes without the records that are equal before and after in all that the query reads, and how many rows those make. A
/// record that the lane has in quarantine is never one of them: the sink holds what it was before it was bad.
async fn touched<'a>(
    projection: &Projection,
    batch: &'a Batch,
    manner: &Manner<'_>,
) -> Result<(Cow<'a, ChangeBatch>, u64), LaneError> {
    let all = &batch.changes;
    if manner.careful {
        return Ok((Cow::Borrowed(all), 0));
    }
    let Some(equal) = batch.equal_in(projection.reads())? else { return Ok((Cow::Borrowed(all), 0)) };
    let touched = |records: &RecordBatch, equal: Vec<bool>| -> Result<RecordBatch, LaneError> {
        let mut touched: Vec<bool> = equal.into_iter().map(|equal| !equal).collect();
        if !manner.quarantined.is_empty() {
            let keys = key_texts(projection, &projection.silver_keys(records)?)?;
            touched.iter_mut().zip(keys).for_each(|(touched, key)| *touched |= manner.quarantined.contains(&key));
        }
        keep(records, &touched)
    };
    let (before, after) = (touched(&all.before, equal.before)?, touched(&all.after, equal.after)?);
    let (Some(whole), Some(part)) = (projection.count(&all.after).await?, projection.count(&after).await?) else {
        return Ok((Cow::Borrowed(all), 0));
    };
    Ok((Cow::Owned(ChangeBatch { before, after, ..all.clone() }), whole.saturating_sub(part)))
}

fn note(bad: &mut HashMap<Vec<u8>, (String, String)>, key: Vec<u8>, reason: &str, message: &str) {
    bad.entry(key).or_insert_with(|| (reason.to_owned(), message.to_owned()));
}

/// Faults of projected rows: in their keys, and texts that are too long. `record` is the row's index.
fn row_faults(target: &Target, rows: &RecordBatch, faults: Vec<KeyFault>, text_bytes: u64) -> Result<Vec<RowFault>, LaneError> {
    let mut faults: Vec<RowFault> = faults
        .into_iter()
        .map(|f| RowFault { record: f.row, reason: f.reason, message: format!("{}: {}", target.name, f.message) })
        .collect();
    if let Shape::Points { text } = &target.shape {
        let texts = columns(rows, std::slice::from_ref(text))?;
        let texts = texts.first().and_then(|t| t.as_any().downcast_ref::<StringArray>().cloned());
        for (record, text) in texts.iter().flatten().enumerate() {
            let length = text.map_or(0, str::len) as u64;
            if length > text_bytes {
                let message =
                    format!("{}: the text has {length} bytes, more than limits.text_kib allows ({text_bytes})", target.name);
                faults.push(RowFault { record, reason: "text_too_long", message });
            }
        }
        if let Some(texts) = texts {
            faults.extend(wide_points(target, rows, &texts)?);
        }
    }
    Ok(faults)
}

/// Rows whose payload would fill memory and disk, because each chunk of a text carries the whole of it.
fn wide_points(target: &Target, rows: &RecordBatch, texts: &StringArray) -> Result<Vec<RowFault>, LaneError> {
    let chunks = |text: Option<&str>| (text.map_or(0, str::len) / CHUNK_BYTES_MIN) as u64 + 1;
    let most = texts.iter().map(chunks).max().unwrap_or_default();
    if most.saturating_mul(rows.get_array_memory_size() as u64) <= POINTS_BYTES_MAX {
        return Ok(Vec::new());
    }
    let stored = target.stored_schema(0);
    let names: Vec<String> = stored.fields().iter().map(|field| field.name().clone()).collect();
    let payload: Vec<String> = names.into_iter().filter(|name| rows.column_by_name(name).is_some()).collect();
    let payload = encode(&columns(rows, &payload)?, rows.num_rows())?;
    let mut faults = Vec::new();
    for (record, text) in texts.iter().enumerate() {
        let (bytes, chunks) = (payload.row(record).as_ref().len() as u64, chunks(text));
        if bytes.saturating_mul(chunks) > POINTS_BYTES_MAX {
            let message = format!(
                "{}: the text makes up to {chunks} chunks, and each would carry a payload of {bytes} bytes; select shorter columns \
                 beside the text, as substr(…, 1, 1000) does",
                target.name
            );
            faults.push(RowFault { record, reason: "payload_too_large", message });
        }
    }
    Ok(faults)
}

/// Records whose state before is not in the batch: the reader said so, or they are in quarantine.
fn unknown_before(
    projection: &Projection,
    batch: &ChangeBatch,
    manner: &Manner<'_>,
    replaced: &mut HashSet<Vec<u8>>,
    mended: &mut Vec<String>,
    bad: &HashMap<Vec<u8>, (String, String)>,
) -> Result<(), LaneError> {
    let said = encode(&projection.silver_keys(&batch.replaced)?, batch.replaced.num_rows())?;
    replaced.extend(said.iter().map(|key| key.as_ref().to_vec()));
    if manner.quarantined.is_empty() {
        return Ok(());
    }
    let mut seen = HashSet::new();
    for records in [&batch.before, &batch.after, &batch.replaced] {
        let keys = projection.silver_keys(records)?;
        let texts = key_texts(projection, &keys)?;
        let bytes = encode(&keys, records.num_rows())?;
        for (text, key) in texts.into_iter().zip(bytes.iter()) {
            if manner.quarantined.contains(&text) {
                replaced.insert(key.as_ref().to_vec());
                if !bad.contains_key(key.as_ref()) && seen.insert(text.clone()) {
                    mended.push(text);
                }
            }
        }
    }
    Ok(())
}

/// The keys, as the target has them, of the records that are to be compared with the sink, each once.
fn replaced_keys(projection: &Projection, batch: &ChangeBatch, wanted: &dyn Fn(&[u8]) -> bool) -> Result<RecordBatch, LaneError> {
    let mut seen: HashSet<Vec<u8>> = HashSet::new();
    let mut parts: Vec<RecordBatch> = Vec::new();
    for records in [&batch.after, &batch.before, &batch.replaced] {
        let bytes = encode(&projection.silver_keys(records)?, records.num_rows())?;
        let rows: UInt32Array = (0u32..)
            .zip(bytes.iter())
            .filter(|(_, key)| wanted(key.as_ref()) && seen.insert(key.as_ref().to_vec()))
            .map(|(row, _)| row)
            .collect();
        parts.push(take_record_batch(&projection.record_keys(records)?, &rows)?);
    }
    Ok(concat_batches(&parts[0].schema(), &parts)?)
}

fn faults_of(
    records: &Records<'_>,
    projection: &Projection,
    bad: &HashMap<Vec<u8>, (String, String)>,
) -> Result<Vec<Fault>, LaneError> {
    if bad.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<u32> =
        (0u32..).zip(records.keys.iter()).filter(|(_, key)| bad.contains_key(key.as_ref())).map(|(row, _)| row).collect();
    let batch = take_record_batch(records.batch, &UInt32Array::from(places.clone()))?;
    let keys = key_texts(projection, &projection.silver_keys(&batch)?)?;
    let payloads = json_objects(&batch, false)?;
    let mut faults = Vec::new();
    for ((place, key), payload) in places.into_iter().zip(keys).zip(payloads) {
        if let Some((reason, message)) = bad.get(records.keys.row(place as usize).as_ref()) {
            faults.push(Fault { key, reason: reason.clone(), message: message.clone(), payload });
        }
    }
    Ok(faults)
}

/// Silver keys as JSON objects.
pub(super) fn key_texts(projection: &Projection, keys: &[ArrayRef]) -> Result<Vec<String>, LaneError> {
    let fields: Vec<Field> = projection
        .silver_key()
        .iter()
        .zip(keys)
        .map(|(name, column)| Field::new(name, column.data_type().clone(), true))
        .collect();
    let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), keys.to_vec())?;
    Ok(json_objects(&batch, true)?)
}

/// The faults of rows that the sink refused: their records, as far as the batch has them.
pub(super) fn refused_records(
    projection: &Projection,
    batch: &ChangeBatch,
    rows_refused: &RecordBatch,
    messages: &[String],
) -> Result<Vec<Fault>, LaneError> {
    let of_rows = encode(&projection.keys_of_rows(rows_refused)?, rows_refused.num_rows())?;
    let mut bad = HashMap::new();
    for (row, message) in messages.iter().enumerate() {
        note(&mut bad, of_rows.row(row).as_ref().to_vec(), "refused_by_sink", message);
    }
    faults_of(&Records::new(projection, &batch.after)?, projection, &bad)
}

fn keep(batch: &RecordBatch, wanted: &[bool]) -> Result<RecordBatch, LaneError> {
    if wanted.iter().all(|w| *w) {
        return Ok(batch.clone());
    }
    Ok(filter_record_batch(batch, &BooleanArray::from(wanted.to_vec()))?)
}
