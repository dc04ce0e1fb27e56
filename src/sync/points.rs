//! What one batch of net changes means for a lane of points: rows become chunks, chunks are compared by their text's hash, and only
//! texts that nobody holds a vector for are embedded.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError};

use arrow::array::{Array, AsArray, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::Float32Type;

use super::LaneError;
use super::batch::Batch;
use super::lane::Lane;
use super::work::{Manner, Work, held, keys_only, sides, upserted};
use crate::embed::Worker;
use crate::embed::points::{Pieces, cut, with_vectors};
use crate::mapping::diff::{Indexed, columns, diff, encode};
use crate::mapping::target::{MODEL, TEXT_HASH, Target, VECTOR};
use crate::report::Counts;
use crate::sinks::Write;

/// Vectors by the hashes of their texts.
pub(super) type Vectors = HashMap<String, Arc<[f32]>>;

/// So many texts are kept of those that a dry run would embed, to measure how long they take.
const SAMPLE: usize = 128;

/// What a dry run would embed: no text twice, because what is embedded is found afterwards.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    hashes: HashSet<String>,
    pub(super) tokens: u64,
    /// The texts of the least hashes, which is a fair choice.
    pub(super) sample: BTreeMap<String, String>,
}

impl Foreseen {
    pub(super) fn texts(&self) -> u64 {
        self.hashes.len() as u64
    }

    fn see(&mut self, hash: &str, text: &str) -> bool {
        if !self.hashes.insert(hash.to_owned()) {
            return false;
        }
        if self.sample.len() < SAMPLE || self.sample.last_key_value().is_some_and(|(last, _)| hash < last.as_str()) {
            self.sample.insert(hash.to_owned(), text.to_owned());
            if self.sample.len() > SAMPLE {
                self.sample.pop_last();
            }
        }
        true
    }
}

/// What makes vectors, and how.
#[derive(Debug)]
pub(super) struct Embedding<'a> {
    pub(super) embedder: &'a Worker,
    /// Vectors that the sink may not hold yet.
    pub(super) just_made: &'a Vectors,
    pub(super) dry_run: bool,
}

/// The work of a lane of points. A dry run counts texts and embeds none.
pub(super) async fn work(
    lane: &Lane,
    embedding: &Embedding<'_>,
    batch: &Batch,
    manner: &Manner<'_>,
    version: u64,
) -> Result<Work, LaneError> {
    let (target, embedder) = (lane.target(), embedding.embedder);
    let sides = sides(&lane.projection, batch, manner).await?;
    let difference = diff(&sides.before, &sides.after)?;
    let went: UInt32Array =
        difference.updated.iter().map(|(before, _)| *before).chain(difference.deleted.iter().copied()).collect();
    let went = take_record_batch(sides.before.rows(), &went)?;
    let came = take_record_batch(sides.after.rows(), &upserted(&difference))?;
    let came = concat_batches(&came.schema(), [&came, sides.replacing.rows()])?;

    let was = cut(embedder, target, &went).await?;
    let held = held(lane.sink().as_ref(), target, &sides.replaced, embedder.dimensions()).await?;
    let known = vectors_of(&held, embedder.identity())?;
    let is = cut(embedder, target, &came).await?;
    let before = concat_batches(&held.schema(), [&lane.sink().image(target, &was.rows)?, &held])?;
    let before = Indexed::distinct(&before, &target.stored_key(), &[VECTOR])?;
    let after = Indexed::distinct(&lane.sink().image(target, &is.rows)?, &target.stored_key(), &[VECTOR])?;
    let change = diff(&before, &after)?;

    let needed = needed(&before, &after, &change)?;
    let texts = Texts { lane, embedding, pieces: &is, tokens: manner.tokens };
    let Made { vectors, embedded, tokens } = texts.vectors(&needed, known).await?;
    let places = upserted(&change);
    let upserts = take_record_batch(&is.rows, &places)?;
    let hashes = text_hashes(&upserts)?;
    let filled: Vec<Option<Arc<[f32]>>> = places
        .values()
        .iter()
        .zip(hashes.iter())
        .map(|(place, hash)| hash.filter(|_| needed.contains(place)).and_then(|h| vectors.get(h).cloned()))
        .collect();
    let upserts = with_vectors(&upserts, &filled)?;
    let deletes = take_record_batch(&keys_only(target, before.rows())?, &UInt32Array::from(change.deleted.clone()))?;

    let mut counts = count(target, &before, &after, &change, &needed, &embedded)?;
    let untouched =
        sides.untouched + difference.unchanged + rows_without_points(target, &sides.before, &sides.after, &before, &after)?;
    counts.unchanged += untouched;
    counts.given += untouched + sides.bad_rows;
    counts.quarantined = sides.bad_rows;
    let write = Write { target: target.clone(), version, upserts, deletes };
    let texts = embedded.len() as u64;
    let made = embedded.into_iter().filter_map(|hash| vectors.get(&hash).cloned().map(|vector| (hash, vector)));
    Ok(Work { write, counts, faults: sides.faults, mended: sides.mended, texts, tokens, made: made.collect() })
}

/// Positions in `after` of chunks that need a vector: new ones, and those with another text or model.
fn needed(before: &Indexed, after: &Indexed, change: &crate::mapping::diff::Difference) -> Result<HashSet<u32>, LaneError> {
    let was = columns(before.rows(), &[TEXT_HASH.to_owned(), MODEL.to_owned()])?;
    let is = columns(after.rows(), &[TEXT_HASH.to_owned(), MODEL.to_owned()])?;
    let was = encode(&was, before.rows().num_rows())?;
    let is = encode(&is, after.rows().num_rows())?;
    let changed = change.updated.iter().filter(|(b, a)| was.row(*b as usize) != is.row(*a as usize));
    Ok(change.inserted.iter().copied().chain(changed.map(|(_, a)| *a)).collect())
}

/// Where the texts of one batch get their vectors.
struct Texts<'a> {
    lane: &'a Lane,
    embedding: &'a Embedding<'a>,
    pieces: &'a Pieces,
    tokens: bool,
}

/// Vectors by text hash, the hashes of texts that had to be embedded, and their tokens where they were asked for.
struct Made {
    vectors: Vectors,
    embedded: HashSet<String>,
    tokens: u64,
}

impl Texts<'_> {
    async fn vectors(&self, needed: &HashSet<u32>, known: Vectors) -> Result<Made, LaneError> {
        let hashes = text_hashes(&self.pieces.rows)?;
        let mut places: Vec<u32> = needed.iter().copied().collect();
        places.sort_unstable();
        let mut wanted: BTreeMap<String, usize> = BTreeMap::new();
        for place in places {
            let hash = hashes.value(place as usize);
            if !known.contains_key(hash) {
                wanted.entry(hash.to_owned()).or_insert(place as usize);
            }
        }
        let mut vectors = known;
        let Embedding { embedder, just_made, dry_run } = *self.embedding;
        wanted.retain(|hash, _| {
            let Some(vector) = just_made.get(hash) else { return true };
            vectors.insert(hash.clone(), vector.clone());
            false
        });
        if !wanted.is_empty() {
            // Whatever target of the sink holds them.
            let stored = self.lane.sink().vectors(wanted.keys().cloned().collect()).await?;
            vectors.extend(stored.into_iter().map(|(hash, vector)| (hash, Arc::from(vector))));
        }
        wanted.retain(|hash, _| !vectors.contains_key(hash));
        if dry_run {
            let mut foreseen = self.lane.foreseen.lock().unwrap_or_else(PoisonError::into_inner);
            wanted.retain(|hash, place| foreseen.see(hash, &self.pieces.texts[*place]));
        }
        let embedded: HashSet<String> = wanted.keys().cloned().collect();
        let texts: Vec<String> = wanted.values().map(|place| self.pieces.texts[*place].clone()).collect();
        let tokens = if self.tokens { embedder.tokens(texts.clone()).await? } else { 0 };
        if dry_run {
            self.lane.foreseen.lock().unwrap_or_else(PoisonError::into_inner).tokens += tokens;
        } else if !texts.is_empty() {
            let made = embedder.embed(texts).await?;
            vectors.extend(wanted.into_keys().zip(made).map(|(hash, vector)| (hash, Arc::from(vector))));
        }
        Ok(Made { vectors, embedded, tokens })
    }
}

fn text_hashes(rows: &RecordBatch) -> Result<StringArray, LaneError> {
    Ok(columns(rows, &[TEXT_HASH.to_owned()])?[0].as_string::<i32>().clone())
}

fn vectors_of(rows: &RecordBatch, model: &str) -> Result<Vectors, LaneError> {
    let of = columns(rows, &[TEXT_HASH.to_owned(), MODEL.to_owned(), VECTOR.to_owned()])?;
    let (hashes, models) = (of[0].as_string::<i32>(), of[1].as_string::<i32>());
    let vectors = of[2].as_fixed_size_list();
    let mut found = Vectors::new();
    for row in 0..rows.num_rows() {
        if !vectors.is_null(row) && models.value(row) == model {
            let vector = vectors.value(row);
            found.insert(hashes.value(row).to_owned(), Arc::from(vector.as_primitive::<Float32Type>().values().to_vec()));
        }
    }
    Ok(found)
}

/// What was done to one row, told from what is done to its chunks.
#[derive(Debug, Clone, Copy, Default)]
struct Row {
    vector: bool,
    embedded: bool,
    payload: bool,
    deleted: bool,
    kept: bool,
}

fn count(
    target: &Target,
    before: &Indexed,
    after: &Indexed,
    change: &crate::mapping::diff::Difference,
    needed: &HashSet<u32>,
    embedded: &HashSet<String>,
) -> Result<Counts, LaneError> {
    let of_before = encode(&columns(before.rows(), &target.key)?, before.rows().num_rows())?;
    let of_after = encode(&columns(after.rows(), &target.key)?, after.rows().num_rows())?;
    let hashes = text_hashes(after.rows())?;
    // The first row that needs a text pays for it, the others reuse it.
    let unpaid = RefCell::new(embedded.clone());
    let mut rows: HashMap<Vec<u8>, Row> = HashMap::new();
    for key in of_after.iter() {
        rows.entry(key.as_ref().to_vec()).or_default().kept = true;
    }
    for key in of_before.iter() {
        rows.entry(key.as_ref().to_vec()).or_default();
    }
    for place in upserted(change).values() {
        let row = rows.entry(of_after.row(*place as usize).as_ref().to_vec()).or_default();
        if needed.contains(place) {
            row.vector = true;
            row.embedded |= unpaid.borrow_mut().remove(hashes.value(*place as usize));
        } else {
            row.payload = true;
        }
    }
    for place in &change.deleted {
        rows.entry(of_before.row(*place as usize).as_ref().to_vec()).or_default().deleted = true;
    }
    let mut counts = Counts { given: rows.len() as u64, ..Counts::default() };
    for row in rows.values() {
        match row {
            Row { vector: true, embedded, .. } => {
                counts.upserts += 1;
                counts.texts_embedded += u64::from(*embedded);
                counts.texts_reused += u64::from(!*embedded);
            }
            Row { payload: true, .. } | Row { deleted: true, kept: true, .. } => counts.payload_updates += 1,
            Row { deleted: true, .. } => counts.deletes += 1,
            _ => counts.unchanged += 1,
        }
    }
    Ok(counts)
}

/// Changed rows that have no point, before or after: a text that is blank.
fn rows_without_points(
    target: &Target,
    rows_before: &Indexed,
    rows_after: &Indexed,
    before: &Indexed,
    after: &Indexed,
) -> Result<u64, LaneError> {
    let keys = |rows: &RecordBatch| -> Result<HashSet<Vec<u8>>, LaneError> {
        let keys = encode(&columns(rows, &target.key)?, rows.num_rows())?;
        Ok(keys.iter().map(|key| key.as_ref().to_vec()).collect())
    };
    let difference = diff(rows_before, rows_after)?;
    let came = keys(&take_record_batch(rows_after.rows(), &upserted(&difference))?)?;
    let gone = keys(&take_record_batch(rows_before.rows(), &UInt32Array::from(difference.deleted))?)?;
    let with: HashSet<Vec<u8>> = keys(before.rows())?.into_iter().chain(keys(after.rows())?).collect();
    Ok(came.union(&gone).filter(|key| !with.contains(*key)).count() as u64)
}
