//! Compares every target with what the mapping makes of Silver at the lane's version: the sink with the source, not with our notes.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use futures::StreamExt;

use super::batch::Batch;
use super::lane::describe;
use super::lanes::{Place, Places};
use super::open::{OpenError, Setup};
use super::work::{Manner, held, keys_only, sides};
use super::{LaneError, table};
use crate::changes::{ChangeBatch, Table, json_objects};
use crate::embed::points::cut;
use crate::mapping::Projection;
use crate::mapping::diff::{Indexed, diff};
use crate::mapping::target::{Shape, VECTOR};
use crate::report::{VerifiedTarget, VerifyReport};
use crate::sinks::quarantine::Quarantine;
use crate::sinks::{Checkpoint, LaneId, Role};

/// So many differences are shown of each target.
const EXAMPLES: usize = 5;

/// One lane under comparison.
struct Subject<'a> {
    setup: &'a Setup,
    table: &'a Arc<Table>,
    projection: &'a Arc<Projection>,
    place: Place,
    quarantined: HashSet<String>,
    found: VerifiedTarget,
}

/// Compares every target; changes nothing.
///
/// # Errors
/// When tables, sinks or the quarantine cannot be opened. What concerns one target is in the report.
pub async fn verify(setup: &Setup) -> Result<VerifyReport, OpenError> {
    let began = Instant::now();
    let opened = setup.open_tables().await?;
    let quarantine = Quarantine::open(&setup.config.quarantine, setup.storage_options()).await?;
    let mut report = VerifyReport::default();
    for sink in &setup.sinks {
        let checkpoints = sink.checkpoints().await?;
        let places = Places::of(setup, sink).await?;
        for (name, compiled) in &opened.mapping.tables {
            let Some(table) = opened.tables.get(name) else { continue };
            for projection in compiled.projections.iter().filter(|p| p.target().sink() == sink.kind()) {
                for place in places.of_target(projection.target()) {
                    report.targets.extend(one(setup, table, projection, place, &checkpoints, &quarantine).await);
                }
            }
        }
        for (name, error) in &opened.failed {
            let entry = setup.mapping.tables.get(name);
            for (kind, target) in entry.map(crate::mapping::file::TableEntry::targets).unwrap_or_default() {
                if kind == sink.kind() {
                    let lane = LaneId::new(name, kind, target, None);
                    report.targets.push(VerifiedTarget { error: Some(describe(error)), ..blank(&lane, None) });
                }
            }
        }
    }
    report.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// One lane compared; none when its generation does not serve and is under way, or is no longer kept current.
async fn one(
    setup: &Setup,
    table: &Arc<Table>,
    projection: &Arc<Projection>,
    place: Place,
    checkpoints: &[Checkpoint],
    quarantine: &Quarantine,
) -> Option<VerifiedTarget> {
    let target = projection.target();
    let lane = place.lane_id(target);
    let checkpoint = checkpoints.iter().find(|c| c.lane == lane);
    let version = checkpoint.and_then(|c| c.version);
    let rests = version.is_some() && checkpoint.is_some_and(|c| c.pending.is_none()) && place.lacks.is_none() && !place.taken;
    if place.role != Role::Serving && !rests {
        return None;
    }
    let mut quarantined = quarantine.keys(&target.table, &lane.name());
    quarantined.extend(quarantine.keys(&target.table, "*"));
    let found = blank(&LaneId { target: place.name(&target.name), ..lane }, version);
    let mut subject = Subject { setup, table, projection, place, quarantined, found };
    let compared = match (version, subject.place.lacks.clone()) {
        (_, Some(why)) => Err(LaneError::Ended(why)),
        (Some(version), None) => subject.compare(version).await,
        (None, None) => Err(LaneError::Ended("it was never synced to the end".to_owned())),
    };
    subject.found.error = compared.err().map(|error| describe(&error));
    Some(subject.found)
}

fn blank(lane: &LaneId, version: Option<i64>) -> VerifiedTarget {
    VerifiedTarget {
        table: lane.table.clone(),
        sink: lane.sink,
        target: lane.target.clone(),
        version,
        equal: 0,
        missing: 0,
        extra: 0,
        different: 0,
        quarantined: 0,
        examples: Vec::new(),
        error: None,
    }
}

impl Subject<'_> {
    async fn compare(&mut self, version: i64) -> Result<(), LaneError> {
        let mut stream = self.table.at(version);
        while let Some(batch) = stream.next().await {
            self.batch(&batch?).await?;
        }
        self.leftovers(version).await
    }

    async fn batch(&mut self, batch: &ChangeBatch) -> Result<(), LaneError> {
        let batch = self.without_quarantined(batch)?;
        let none = HashSet::new();
        let manner = Manner { careful: true, quarantined: &none, text_bytes: self.setup.config.text_bytes, tokens: false };
        let sides = sides(self.projection, &Batch::new(batch, self.projection)?, &manner).await?;
        for fault in &sides.faults {
            self.found.missing += 1;
            self.example(format!("record {} cannot be delivered and is not in quarantine: {}", fault.key, fault.message));
        }
        let held = held(self.place.sink.as_ref(), self.projection.target(), &sides.replaced, self.place.dimensions()).await?;
        let wanted = sides.replacing.rows().clone();
        self.rows(&wanted, &held).await
    }

    async fn rows(&mut self, wanted: &RecordBatch, held: &RecordBatch) -> Result<(), LaneError> {
        let target = self.projection.target().clone();
        let wanted = match (&target.shape, &self.place.embedder) {
            (Shape::Points { .. }, Some(embedder)) => cut(embedder, &target, wanted).await?.rows,
            _ => RecordBatch::try_new(target.schema.clone(), wanted.columns().to_vec())?,
        };
        let wanted = self.place.sink.image(&target, &wanted)?;
        let key = target.stored_key();
        let wanted = Indexed::distinct(&wanted, &key, &[VECTOR])?;
        let held = Indexed::distinct(held, &key, &[VECTOR])?;
        let difference = diff(&held, &wanted)?;
        self.found.equal += difference.unchanged;
        self.found.missing += difference.inserted.len() as u64;
        self.found.extra += difference.deleted.len() as u64;
        self.found.different += difference.updated.len() as u64;
        self.examples("missing", &wanted, &difference.inserted)?;
        self.examples("extra", &held, &difference.deleted)?;
        for (at, should) in difference.updated.iter().take(EXAMPLES) {
            let is = self.line(&held, *at, false)?;
            let should = self.line(&wanted, *should, false)?;
            self.example(format!("different: it holds {is}, Silver makes {should}"));
        }
        Ok(())
    }

    /// Rows of records that Silver does not have.
    async fn leftovers(&mut self, version: i64) -> Result<(), LaneError> {
        let target = self.projection.target().clone();
        let mut gone = table::absent(self.table, version, self.projection, &self.place.sink);
        while let Some(batch) = gone.next().await {
            let batch = self.without_quarantined(&batch?)?;
            let keys = self.projection.record_keys(&batch.replaced)?;
            let held = held(self.place.sink.as_ref(), &target, &keys, self.place.dimensions()).await?;
            let none = RecordBatch::new_empty(target.schema.clone());
            self.rows(&none, &held).await?;
        }
        Ok(())
    }

    fn without_quarantined(&mut self, batch: &ChangeBatch) -> Result<ChangeBatch, LaneError> {
        let mut batch = batch.clone();
        if self.quarantined.is_empty() {
            return Ok(batch);
        }
        for records in [&mut batch.after, &mut batch.replaced] {
            let keys = super::work::key_texts(self.projection, &self.projection.silver_keys(records)?)?;
            let kept: UInt32Array =
                (0u32..).zip(&keys).filter(|(_, key)| !self.quarantined.contains(*key)).map(|(row, _)| row).collect();
            self.found.quarantined += (keys.len() - kept.len()) as u64;
            *records = take_record_batch(records, &kept)?;
        }
        Ok(batch)
    }

    fn examples(&mut self, what: &str, rows: &Indexed, places: &[u32]) -> Result<(), LaneError> {
        for place in places.iter().take(EXAMPLES) {
            let line = self.line(rows, *place, true)?;
            self.example(format!("{what}: {line}"));
        }
        Ok(())
    }

    fn line(&self, rows: &Indexed, place: u32, key_only: bool) -> Result<String, LaneError> {
        let row = take_record_batch(rows.rows(), &UInt32Array::from(vec![place]))?;
        let row = if key_only { keys_only(self.projection.target(), &row)? } else { without_vector(&row)? };
        let row = concat_batches(&row.schema(), [&row])?;
        Ok(json_objects(&row, true)?.pop().unwrap_or_default())
    }

    fn example(&mut self, text: String) {
        if self.found.examples.len() < EXAMPLES {
            self.found.examples.push(text);
        }
    }
}

fn without_vector(row: &RecordBatch) -> Result<RecordBatch, LaneError> {
    let schema = row.schema();
    let kept: Vec<usize> = (0..schema.fields().len()).filter(|i| schema.field(*i).name() != VECTOR).collect();
    Ok(row.project(&kept)?)
}
