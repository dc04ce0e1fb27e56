//! One table's part in a run: lanes that stand alike take one step together, until all are where the table is.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::batch::Batch;
use super::lane::{Lane, Step, describe, now};
use super::work::key_texts;
use super::worker::{Message, PAGE_ROWS, Worker};
use super::{LaneError, Options, Setup};
use crate::changes::{ChangeBatch, KeysError, RecordCounts, Strategy, Table};
use crate::mapping::Projection;
use crate::report::{TableReport, TargetReport};
use crate::sinks::quarantine::{Entry, Quarantine};
use crate::sinks::{Sink, SinkKind};

/// Batches that wait for one sink: enough that reading goes on while it writes, few enough to bound memory.
const QUEUE_BATCHES: usize = 2;
/// The lane name of records that no lane can take.
const EVERY_LANE: &str = "*";

/// One table's part in a run.
pub(super) struct Run<'a> {
    pub(super) setup: &'a Setup,
    pub(super) options: &'a Options,
    pub(super) table: Arc<Table>,
    pub(super) quarantine: Arc<Mutex<Quarantine>>,
    /// Whether the lanes are those of one generation alone, which is to be filled.
    pub(super) filling: bool,
}

/// What reading one step found, besides what went to the lanes.
#[derive(Default)]
struct Found {
    counts: RecordCounts,
    /// Keys that were seen in a good state, as JSON.
    good: Vec<String>,
    /// Hashes of records without a key that are gone.
    mended: Vec<String>,
    error: Option<LaneError>,
}

impl Run<'_> {
    pub(super) async fn run(&self, mut lanes: Vec<Lane>) -> Vec<TableReport> {
        let mut reports: Vec<TableReport> = Vec::new();
        let (mut good, mut mended) = (Vec::new(), Vec::new());
        let mut resting: Vec<Lane> = lanes.extract_if(.., |lane| lane.failed.is_some()).collect();
        let mut whole = resting.is_empty();
        let mut moved: Vec<(SinkKind, String)> = Vec::new();
        while !lanes.is_empty() && !self.options.cancel.is_cancelled() {
            let (steps, idle) = self.group(lanes).await;
            whole &= idle.iter().all(|lane| lane.failed.is_none());
            resting.extend(idle);
            lanes = Vec::new();
            for (step, group) in steps {
                let (found, mut done) = self.step(&step, group).await;
                reports.push(self.report(&step, &found, &mut done));
                moved.extend(done.iter().map(|lane| (lane.report.sink, lane.report.target.clone())));
                good.extend(found.good);
                mended.extend(found.mended);
                let (failed, live): (Vec<_>, Vec<_>) = done.into_iter().partition(|lane| lane.failed.is_some());
                whole &= failed.is_empty();
                if !self.options.dry_run {
                    lanes.extend(live);
                }
            }
        }
        resting.retain(|lane| !moved.contains(&(lane.report.sink, lane.report.target.clone())) || lane.failed.is_some());
        if !resting.is_empty() {
            reports.push(self.resting(resting));
        }
        if whole && !self.filling && !self.options.dry_run && !self.options.cancel.is_cancelled() {
            self.forget(&good, &mended).await;
        }
        reports
    }

    /// What is next for each lane; lanes with the same step go together. The others rest: done, or in need of a decision.
    async fn group(&self, lanes: Vec<Lane>) -> (Vec<(Step, Vec<Lane>)>, Vec<Lane>) {
        let mut steps: Vec<(Step, Vec<Lane>)> = Vec::new();
        let mut idle = Vec::new();
        for mut lane in lanes {
            match lane.next(&self.table, self.options).await {
                Ok(None) => idle.push(lane),
                Ok(Some(step)) => match steps.iter_mut().find(|(other, _)| *other == step) {
                    Some((_, group)) => group.push(lane),
                    None => steps.push((step, vec![lane])),
                },
                Err(error) => {
                    lane.fail(error);
                    idle.push(lane);
                }
            }
        }
        (steps, idle)
    }

    async fn step(&self, step: &Step, lanes: Vec<Lane>) -> (Found, Vec<Lane>) {
        tracing::info!(
            table = self.table.name(),
            strategy = step.plan.strategy.name(),
            from = step.plan.from,
            to = step.plan.to,
            lanes = lanes.len(),
            reason = step.plan.reason,
            "reading"
        );
        let projection = lanes[0].projection.clone();
        let mut queues = Vec::new();
        let mut workers = JoinSet::new();
        let mut places: Vec<Vec<Lane>> = Vec::new();
        for lane in &lanes {
            match places.iter_mut().find(|of_place| Arc::ptr_eq(of_place[0].sink(), lane.sink())) {
                Some(of_place) => of_place.push(lane.again()),
                None => places.push(vec![lane.again()]),
            }
        }
        for of_place in places {
            let (sender, queue) = mpsc::channel(QUEUE_BATCHES);
            let worker = Worker {
                sink: of_place[0].sink().clone(),
                lanes: of_place,
                step: step.clone(),
                table: self.table.clone(),
                filling: self.filling,
                quarantine: self.quarantine.clone(),
                options: self.options.clone(),
                text_bytes: self.setup.config.text_bytes,
            };
            queues.push(sender);
            workers.spawn(worker.run(queue));
        }
        let mut found = self.read(step, &projection, &queues).await;
        if found.error.is_none() && !self.options.cancel.is_cancelled() {
            for queue in &queues {
                let _ = queue.send(Message::End).await;
            }
        }
        drop(queues);
        let mut done = Vec::new();
        while let Some(joined) = workers.join_next().await {
            match joined {
                Ok(lanes) => done.extend(lanes),
                Err(error) => found.error = Some(LaneError::Ended(format!("a sink's task ended: {error}"))),
            }
        }
        if let Some(error) = &found.error {
            let stopped = error.stops();
            for lane in &mut done {
                lane.report.error = Some(describe(error));
                lane.report.stopped |= stopped;
                lane.report.ok = false;
                lane.failed.get_or_insert(LaneError::Ended(describe(error)));
            }
        }
        if let Some(progress) = &self.options.progress {
            progress.done(self.table.name());
        }
        (found, done)
    }

    /// Reads the step's changes and hands them to every worker that still takes them.
    async fn read(&self, step: &Step, projection: &Projection, queues: &[mpsc::Sender<Message>]) -> Found {
        let mut found = Found::default();
        if let Some(progress) = &self.options.progress {
            let snapshot = step.plan.strategy == Strategy::Snapshot && step.files_done == 0;
            let records = if snapshot { self.table.records(step.plan.to).await } else { None };
            progress.table(self.table.name(), step.plan.strategy.name(), records);
        }
        let mut stream = self.table.read(&step.plan, step.files_done);
        while let Some(batch) = stream.next().await {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    found.error = Some(error.into());
                    break;
                }
            };
            if let Err(error) = self.take_note(&batch, projection, step.plan.to, &mut found).await {
                found.error = Some(error);
                break;
            }
            let batch = match Batch::new(batch, projection) {
                Ok(batch) => Arc::new(batch),
                Err(error) => {
                    found.error = Some(error.into());
                    break;
                }
            };
            let mut taken = false;
            for queue in queues {
                taken |= queue.send(Message::Batch(batch.clone())).await.is_ok();
            }
            if let Some(progress) = &self.options.progress {
                progress.records(self.table.name(), batch.changes.after.num_rows() as u64);
            }
            if !taken || self.options.cancel.is_cancelled() {
                break;
            }
        }
        found
    }

    async fn take_note(&self, batch: &ChangeBatch, projection: &Projection, to: i64, found: &mut Found) -> Result<(), LaneError> {
        let (sum, of) = (&mut found.counts, &batch.counts);
        sum.inserted += of.inserted;
        sum.updated += of.updated;
        sum.deleted += of.deleted;
        sum.unchanged += of.unchanged;
        sum.quarantined += of.quarantined;
        found.mended.extend(batch.mended.iter().cloned());
        if self.options.dry_run {
            return Ok(());
        }
        let mut quarantine = self.quarantine.lock().await;
        let known = quarantine.keys(self.table.name(), EVERY_LANE);
        if !known.is_empty() {
            for records in [&batch.before, &batch.after, &batch.replaced] {
                let keys = key_texts(projection, &projection.silver_keys(records)?)?;
                found.good.extend(keys.into_iter().filter(|key| known.contains(key)));
            }
        }
        for bad in &batch.bad {
            quarantine.put(Entry {
                table: self.table.name().to_owned(),
                key: bad.key.clone(),
                lane: EVERY_LANE.to_owned(),
                commit_version: to,
                reason: bad.reason.code().to_owned(),
                message: bad.message.clone(),
                payload: bad.payload.clone(),
                hash: bad.hash.clone(),
                quarantined_at: now(),
            })?;
        }
        Ok(())
    }

    fn report(&self, step: &Step, found: &Found, lanes: &mut [Lane]) -> TableReport {
        let mut targets: Vec<TargetReport> = lanes
            .iter_mut()
            .map(|lane| {
                let fresh = TargetReport::new(lane.report.sink, &lane.report.target);
                std::mem::replace(&mut lane.report, fresh)
            })
            .collect();
        targets.sort_by(|a, b| (a.sink, &a.target).cmp(&(b.sink, &b.target)));
        TableReport {
            table: self.table.name().to_owned(),
            strategy: step.plan.strategy.name(),
            reason: step.plan.reason.clone(),
            from: step.plan.from,
            to: step.plan.to,
            records: found.counts,
            targets,
        }
    }

    /// The entry for lanes that had nothing to do or could not begin.
    fn resting(&self, lanes: Vec<Lane>) -> TableReport {
        let version = self.table.version();
        let at = lanes.iter().filter_map(|lane| lane.checkpoint.as_ref()?.version).min();
        let mut targets: Vec<TargetReport> = lanes.into_iter().map(|lane| lane.report).collect();
        targets.sort_by(|a, b| (a.sink, &a.target).cmp(&(b.sink, &b.target)));
        let idle = targets.iter().all(|target| target.ok);
        TableReport {
            table: self.table.name().to_owned(),
            strategy: Strategy::Feed.name(),
            reason: if idle { "nothing new since the last sync".to_owned() } else { "nothing was read".to_owned() },
            from: at,
            to: if idle { version } else { at.unwrap_or(version) },
            records: RecordCounts::default(),
            targets,
        }
    }

    /// Takes records out of quarantine that no lane could take and that every lane has taken now.
    async fn forget(&self, good: &[String], mended: &[String]) {
        let mut quarantine = self.quarantine.lock().await;
        for key in good {
            quarantine.resolve(self.table.name(), EVERY_LANE, key);
        }
        for hash in mended {
            quarantine.resolve_hash(self.table.name(), hash);
        }
        if let Err(error) = quarantine.save().await {
            tracing::error!(error = describe(&error), "mended records stay in quarantine until the next run");
        }
    }
}

/// The records of which a sink holds rows and that are not in the snapshot, as batches of records to be deleted.
pub(super) fn absent(
    table: &Table,
    version: i64,
    projection: &Arc<Projection>,
    sink: &Arc<dyn Sink>,
) -> BoxStream<'static, Result<ChangeBatch, LaneError>> {
    let (projection, sink, schema) = (projection.clone(), sink.clone(), table.key_schema());
    // The first page is asked for without a cursor; the last has none.
    let pages = futures::stream::try_unfold(Some(None::<String>), move |cursor| {
        let (projection, sink, schema) = (projection.clone(), sink.clone(), schema.clone());
        async move {
            let Some(after) = cursor else { return Ok::<_, KeysError>(None) };
            let page = sink.list(projection.target(), after.as_deref(), PAGE_ROWS).await?;
            let keys = projection.silver_key_batch(&page.keys, &schema)?;
            Ok(Some((keys, page.next.map(Some))))
        }
    });
    let table = table.clone();
    let gone = table.absent(version, pages.boxed());
    gone.map(move |keys| {
        let mut batch = ChangeBatch::nothing(&table);
        batch.replaced = keys?;
        Ok(batch)
    })
    .boxed()
}
