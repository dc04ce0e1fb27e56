//! One sink's part in reading a table: takes batches from a bounded queue, has them worked out for each of its lanes, writes, and
//! moves the checkpoints when all is durable.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::array::UInt32Array;
use arrow::compute::take_record_batch;
use futures::StreamExt;
use tokio::sync::{Mutex, mpsc};

use super::ahead::{Ahead, Ready, Told};
use super::batch::Batch;
use super::lane::{Lane, Step, describe, now};
use super::lanes::again;
use super::work::{Fault, Work, refused_records};
use super::{LaneError, Options};
use crate::changes::Table;
use crate::sinks::quarantine::{Entry, Quarantine};
use crate::sinks::{Checkpoint, Sink, SinkError, SinkKind, Write};

/// What a worker is told.
#[derive(Debug, Clone)]
pub(super) enum Message {
    /// Net changes.
    Batch(Arc<Batch>),
    /// Everything was read. Without it nothing is finished.
    End,
}

/// One sink's lanes that take the same step.
pub(super) struct Worker {
    pub(super) sink: Arc<dyn Sink>,
    pub(super) lanes: Vec<Lane>,
    pub(super) step: Step,
    pub(super) table: Arc<Table>,
    /// Whether one generation is filled: texts are told with their tokens, and others are let in between two batches.
    pub(super) filling: bool,
    pub(super) quarantine: Arc<Mutex<Quarantine>>,
    pub(super) options: Options,
    pub(super) text_bytes: u64,
}

/// Keys in one page when the sink is compared with a snapshot.
pub(super) const PAGE_ROWS: usize = 8192;

impl Worker {
    /// Works until the end is told or the queue closes. Answers the lanes, each with its counts and what became of it.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Message>) -> Vec<Lane> {
        let mut ahead = Ahead::of(&self);
        let overlaps = self.sink.kind() == SinkKind::Vectors && !self.options.dry_run;
        let mut ready: Option<Ready> = None;
        let ended = loop {
            if !overlaps && let Some(ready) = ready.take() {
                self.take(ready).await;
            }
            let live = self.live();
            if live.is_empty() {
                break false;
            }
            let told = match ready.take() {
                // Writing is begun first, so that it does not wait for what the next batch has to work out.
                Some(ready) => tokio::join!(self.take(ready), ahead.next(&mut queue, &live)).1,
                None => ahead.next(&mut queue, &live).await,
            };
            match told {
                Told::Batch(next) => ready = Some(next),
                Told::End => break true,
                Told::Closed => break false,
            }
        };
        if ended {
            self.finish(&ahead).await;
        } else {
            for lane in self.lanes.iter_mut().filter(|lane| lane.failed.is_none()) {
                lane.fail(LaneError::Ended("reading the table ended early; the next run goes on from here".to_owned()));
            }
        }
        self.lanes
    }

    /// The lanes that go on, by number.
    fn live(&self) -> Vec<usize> {
        (0..self.lanes.len()).filter(|index| self.lanes[*index].failed.is_none()).collect()
    }

    fn fail_all(&mut self, error: &SinkError) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.failed.is_none()) {
            lane.fail(again(error).into());
        }
    }

    /// Writes what a batch means, and counts it.
    async fn take(&mut self, ready: Ready) {
        let mut works: Vec<(usize, Work)> = Vec::new();
        for (index, work) in ready.works {
            match work {
                // It may have failed since.
                _ if self.lanes[index].failed.is_some() => {}
                Ok(work) => works.push((index, work)),
                Err(error) => self.lanes[index].fail(error),
            }
        }
        if self.options.dry_run {
            for (index, work) in works {
                self.lanes[index].report.add(&work.counts);
            }
            return;
        }
        let delivered = match self.deliver(&ready.batch, works).await {
            // Others leave a generation alone that is being worked on.
            Ok(()) if self.filling => self.sink.give_way().await,
            delivered => delivered,
        };
        if let Err(error) = delivered {
            self.fail_all(&error);
        }
    }

    /// Writes one batch: first that it is begun, then the rows, then, in a snapshot, how far it came.
    async fn deliver(&mut self, batch: &Batch, works: Vec<(usize, Work)>) -> Result<(), SinkError> {
        let begun: Vec<(usize, Checkpoint)> = works
            .iter()
            .filter(|(_, work)| work.write.upserts.num_rows() + work.write.deletes.num_rows() > 0)
            .filter(|(index, _)| !self.is_begun(*index))
            .map(|(index, _)| (*index, self.lanes[*index].begun(&self.step, &self.table, self.step.files_done)))
            .collect();
        self.checkpoint(begun).await?;
        let writes: Vec<Write> = works.iter().map(|(_, work)| work.write.clone()).collect();
        let refused = self.sink.write(&writes).await?;
        let mut rows: HashMap<usize, Vec<(usize, String)>> = HashMap::new();
        for one in refused {
            rows.entry(one.write).or_default().push((one.row, one.message));
        }
        for (position, (index, mut work)) in works.into_iter().enumerate() {
            if let Some(rows) = rows.remove(&position)
                && let Err(error) = self.refuse(index, batch, &mut work, &rows)
            {
                self.lanes[index].fail(error);
                continue;
            }
            self.account(index, work).await;
        }
        let moved: Vec<(usize, Checkpoint)> = if batch.changes.files_done > self.step.files_done {
            self.step.files_done = batch.changes.files_done;
            let live = self.live().into_iter();
            live.map(|index| (index, self.lanes[index].begun(&self.step, &self.table, batch.changes.files_done))).collect()
        } else {
            Vec::new()
        };
        if !moved.is_empty() {
            self.save_quarantine().await?;
        }
        self.checkpoint(moved).await
    }

    fn is_begun(&self, index: usize) -> bool {
        let wanted = self.lanes[index].begun(&self.step, &self.table, self.step.files_done);
        self.lanes[index].checkpoint.as_ref().is_some_and(|c| c.pending == wanted.pending)
    }

    /// Takes rows that the sink refused out of the counts and their records into quarantine.
    fn refuse(&self, index: usize, batch: &Batch, work: &mut Work, refused: &[(usize, String)]) -> Result<(), LaneError> {
        let lane = &self.lanes[index];
        let places: UInt32Array = refused.iter().filter_map(|(row, _)| u32::try_from(*row).ok()).collect();
        let rows: RecordBatch = take_record_batch(&work.write.upserts, &places)?;
        let messages: Vec<String> = refused.iter().map(|(_, message)| message.clone()).collect();
        let faults = refused_records(&lane.projection, &batch.changes, &rows, &messages)?;
        work.mended.retain(|key| faults.iter().all(|fault| fault.key != *key));
        work.faults.extend(faults);
        let kept_out = (refused.len() as u64).min(work.counts.upserts);
        work.counts.upserts -= kept_out;
        work.counts.quarantined += kept_out;
        Ok(())
    }

    /// Counts what was delivered and tells quarantine of bad records and of mended ones.
    async fn account(&mut self, index: usize, work: Work) {
        debug_assert!(work.counts.balanced(), "{:?}", work.counts);
        if let Some(progress) = self.options.progress.as_ref().filter(|_| work.texts > 0) {
            progress.texts(work.texts, work.tokens);
        }
        let lane = &mut self.lanes[index];
        lane.report.add(&work.counts);
        let name = lane.id().name();
        let mut quarantine = self.quarantine.lock().await;
        for key in &work.mended {
            quarantine.resolve(&lane.target().table, &name, key);
        }
        let mut full = None;
        for fault in work.faults {
            if let Err(error) = quarantine.put(entry(lane, &name, self.step.plan.to, fault)) {
                full = Some(error);
                break;
            }
        }
        if let Some(error) = full {
            self.lanes[index].fail(error.into());
        }
    }

    /// The end of a step: what the sink has and the snapshot lacks is swept, all is made durable, the checkpoints move.
    async fn finish(&mut self, ahead: &Ahead) {
        if self.step.plan.sweep || (self.step.careful && self.step.plan.strategy == crate::changes::Strategy::Snapshot) {
            for index in 0..self.lanes.len() {
                if self.lanes[index].failed.is_none()
                    && let Err(error) = self.sweep(index, ahead).await
                {
                    self.lanes[index].fail(error);
                }
            }
        }
        if self.options.dry_run {
            return;
        }
        let finished: Vec<(usize, Checkpoint)> =
            self.live().into_iter().map(|index| (index, self.lanes[index].finished(&self.step, &self.table))).collect();
        let done = match self.save_quarantine().await {
            Ok(()) => self.checkpoint(finished).await,
            Err(error) => Err(error),
        };
        if let Err(error) = done {
            self.fail_all(&error);
        }
    }

    /// Deletes what the sink holds of records that are not in the snapshot.
    async fn sweep(&mut self, index: usize, ahead: &Ahead) -> Result<(), LaneError> {
        let projection = &self.lanes[index].projection.clone();
        let mut gone = super::table::absent(&self.table, self.step.plan.to, projection, &self.sink);
        while let Some(batch) = gone.next().await {
            let batch = Batch::new(batch?, projection)?;
            let work = ahead.work(index, &batch).await?;
            if self.options.dry_run {
                self.lanes[index].report.add(&work.counts);
            } else {
                self.deliver(&batch, vec![(index, work)]).await?;
            }
        }
        Ok(())
    }

    /// Flushes, and moves these checkpoints.
    async fn checkpoint(&mut self, moves: Vec<(usize, Checkpoint)>) -> Result<(), SinkError> {
        let checkpoints: Vec<Checkpoint> = moves.iter().map(|(_, checkpoint)| checkpoint.clone()).collect();
        self.sink.flush(&checkpoints).await?;
        for (index, checkpoint) in moves {
            self.lanes[index].checkpoint = Some(checkpoint);
        }
        Ok(())
    }

    async fn save_quarantine(&self) -> Result<(), SinkError> {
        let saved = self.quarantine.lock().await.save().await;
        saved.map_err(|error| SinkError::permanent("quarantine", describe(&error)))
    }
}

fn entry(lane: &Lane, name: &str, commit_version: i64, fault: Fault) -> Entry {
    let hash = format!("{:032x}", xxhash_rust::xxh3::xxh3_128(fault.payload.as_bytes()));
    Entry {
        table: lane.target().table.clone(),
        key: fault.key,
        lane: name.to_owned(),
        commit_version,
        reason: fault.reason,
        message: fault.message,
        payload: fault.payload,
        hash,
        quarantined_at: now(),
    }
}
