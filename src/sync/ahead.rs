//! What batches mean for the lanes of one sink. Where a model makes their rows this is found out one batch ahead: while a batch is
//! written, the texts of the next are embedded, so that the processor does not wait for the sink.
//!
//! It may be, because a step has each record in one batch only: nothing that a batch does to a sink or to quarantine concerns a record
//! of another. Texts can be equal, though. So the vectors of the batch before are kept until it is written.

use std::sync::Arc;

use tokio::sync::{Mutex, mpsc};

use super::LaneError;
use super::batch::Batch;
use super::lane::{Lane, Step};
use super::points::{self, Vectors};
use super::work::{self, Manner, Work};
use super::worker::{Message, Worker};
use crate::changes::Table;
use crate::mapping::target::Shape;
use crate::sinks::quarantine::Quarantine;

/// A batch that was worked out.
pub(super) struct Ready {
    pub(super) batch: Arc<Batch>,
    /// By the lane's number.
    pub(super) works: Vec<(usize, Result<Work, LaneError>)>,
}

/// What was told next.
pub(super) enum Told {
    Batch(Ready),
    /// Everything was read.
    End,
    /// Reading ended early.
    Closed,
}

/// Works out batches. Does not know what becomes of them.
pub(super) struct Ahead {
    /// As they were when the step began. What a step writes carries one version from its beginning to its end.
    lanes: Vec<Lane>,
    step: Step,
    table: Arc<Table>,
    filling: bool,
    quarantine: Arc<Mutex<Quarantine>>,
    dry_run: bool,
    text_bytes: u64,
    /// What was embedded for the batch before, by the texts' hashes. The lanes of one worker are of one model.
    made: Vectors,
}

impl Ahead {
    pub(super) fn of(worker: &Worker) -> Self {
        Self {
            lanes: worker.lanes.iter().map(Lane::again).collect(),
            step: worker.step.clone(),
            table: worker.table.clone(),
            filling: worker.filling,
            quarantine: worker.quarantine.clone(),
            dry_run: worker.options.dry_run,
            text_bytes: worker.text_bytes,
            made: Vectors::new(),
        }
    }

    /// Waits for the next batch and works it out for these lanes.
    pub(super) async fn next(&mut self, queue: &mut mpsc::Receiver<Message>, lanes: &[usize]) -> Told {
        let batch = match queue.recv().await {
            Some(Message::Batch(batch)) => batch,
            Some(Message::End) => return Told::End,
            None => return Told::Closed,
        };
        let (mut works, mut made) = (Vec::with_capacity(lanes.len()), Vectors::new());
        for index in lanes {
            let mut work = self.work(*index, &batch).await;
            if let Ok(work) = &mut work {
                let more = std::mem::take(&mut work.made);
                made.extend(more.iter().map(|(hash, vector)| (hash.clone(), vector.clone())));
                self.made.extend(more);
            }
            works.push((*index, work));
        }
        self.made = made;
        Told::Batch(Ready { batch, works })
    }

    /// What a batch means for a lane.
    pub(super) async fn work(&self, index: usize, batch: &Batch) -> Result<Work, LaneError> {
        let lane = &self.lanes[index];
        let target = lane.target();
        let quarantined = self.quarantine.lock().await.keys(&target.table, &lane.id().name());
        let manner =
            Manner { careful: self.step.careful, quarantined: &quarantined, text_bytes: self.text_bytes, tokens: self.filling };
        let version = lane.begun(&self.step, &self.table, 0).row_version(self.step.plan.to);
        match (&target.shape, &lane.place.embedder) {
            (Shape::Points { .. }, Some(embedder)) => {
                let embedding = points::Embedding { embedder, just_made: &self.made, dry_run: self.dry_run };
                points::work(lane, &embedding, batch, &manner, version).await
            }
            _ => work::work(lane, batch, &manner, version).await,
        }
    }
}
