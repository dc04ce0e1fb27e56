//! A lane: one Silver table and one target, how far it has come, and what is next for it.

use std::sync::{Arc, Mutex};

use super::lanes::Place;
use super::points::Foreseen;
use super::{LaneError, Options};
use crate::changes::{From, Plan, Strategy, Table};
use crate::mapping::Projection;
use crate::mapping::target::Target;
use crate::report::TargetReport;
use crate::sinks::{Checkpoint, LaneId, Pending, Sink};

/// A lane on its way.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) projection: Arc<Projection>,
    /// Where its rows go and what makes their vectors.
    pub(super) place: Place,
    pub(super) checkpoint: Option<Checkpoint>,
    pub(super) report: TargetReport,
    /// Why it goes no further.
    pub(super) failed: Option<LaneError>,
    pub(super) schema_fingerprint: String,
    /// Whether a repair that was asked for is done.
    pub(super) repaired: bool,
    /// The highest version that the sink holds of a lane without a checkpoint.
    pub(super) newest: Option<u64>,
    /// What a dry run would embed, of all lanes.
    pub(super) foreseen: Arc<Mutex<Foreseen>>,
}

/// What is next for a lane.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Step {
    pub(super) plan: Plan,
    pub(super) files_done: u64,
    /// Compare everything with what the sink holds: it may hold part of this step already, or rows of an earlier life.
    pub(super) careful: bool,
    pub(super) rebuild: bool,
}

impl Lane {
    pub(super) fn target(&self) -> &Arc<Target> {
        self.projection.target()
    }

    pub(super) fn table(&self) -> &str {
        &self.target().table
    }

    pub(super) fn id(&self) -> LaneId {
        self.place.lane_id(self.target())
    }

    pub(super) fn sink(&self) -> &Arc<dyn Sink> {
        &self.place.sink
    }

    /// The lane as it is handed to a worker.
    pub(super) fn again(&self) -> Self {
        Self {
            projection: self.projection.clone(),
            place: self.place.clone(),
            checkpoint: self.checkpoint.clone(),
            report: TargetReport::new(self.report.sink, &self.report.target),
            failed: None,
            schema_fingerprint: self.schema_fingerprint.clone(),
            // A lane that is handed out takes a step, and the first step of a repair is the repair.
            repaired: true,
            newest: self.newest,
            foreseen: self.foreseen.clone(),
        }
    }

    pub(super) fn fail(&mut self, error: LaneError) {
        self.report.ok = false;
        self.report.stopped = error.stops();
        self.report.error = Some(describe(&error));
        tracing::info!(lane = self.id().name(), error = describe(&error), "lane failed");
        self.failed = Some(error);
    }

    /// What is next, or nothing when the lane is where the table is.
    pub(super) async fn next(&mut self, table: &Table, options: &Options) -> Result<Option<Step>, LaneError> {
        let Some(checkpoint) = &self.checkpoint else {
            let plan = table.plan(None).await?;
            let page = self.sink().list(self.target(), None, 1).await?;
            let careful = page.keys.num_rows() > 0;
            self.newest = self.sink().newest(self.target()).await?;
            return Ok(Some(Step { plan, files_done: 0, careful, rebuild: false }));
        };
        if let Some(why) = self.changed(checkpoint) {
            if !options.rebuild {
                return Err(LaneError::Stop(format!(
                    "{why}. Nothing was written. `distributary sync --rebuild` compares the whole table with what the sink holds and \
                     writes the difference; the other lanes go on without it"
                )));
            }
            let mut plan = table.plan(None).await?;
            "the projection changed and --rebuild was given".clone_into(&mut plan.reason);
            return Ok(Some(Step { plan, files_done: 0, careful: true, rebuild: true }));
        }
        if options.repair && !self.repaired {
            let mut plan = table.plan(None).await?;
            "--repair was given".clone_into(&mut plan.reason);
            return Ok(Some(Step { plan, files_done: 0, careful: true, rebuild: true }));
        }
        if let Some(pending) = &checkpoint.pending {
            return self.resume(checkpoint, pending, table).await.map(Some);
        }
        let Some(version) = checkpoint.version else {
            let plan = table.plan(None).await?;
            return Ok(Some(Step { plan, files_done: 0, careful: true, rebuild: false }));
        };
        if version == table.version() && checkpoint.table_id == table.id() {
            return Ok(None);
        }
        let plan = table.plan(Some(&From { table_id: checkpoint.table_id.clone(), version, to: None })).await?;
        let careful = plan.sweep;
        Ok(Some(Step { plan, files_done: 0, careful, rebuild: false }))
    }

    /// Finishes what was begun before anything else: its rows may be in the sink in part.
    async fn resume(&self, checkpoint: &Checkpoint, pending: &Pending, table: &Table) -> Result<Step, LaneError> {
        if let (Some(from), true) = (pending.from, pending.to <= table.version()) {
            let from = From { table_id: checkpoint.table_id.clone(), version: from, to: Some(pending.to) };
            let plan = table.plan(Some(&from)).await?;
            return Ok(Step { plan, files_done: 0, careful: true, rebuild: false });
        }
        if pending.from.is_none()
            && let Some(plan) = table.resume(&checkpoint.table_id, pending.to, pending.sweep).await?
        {
            return Ok(Step { plan, files_done: pending.files_done, careful: pending.sweep, rebuild: false });
        }
        let mut plan = table.plan(None).await?;
        plan.sweep = true;
        "what was begun cannot be read any more, so the whole table is compared".clone_into(&mut plan.reason);
        Ok(Step { plan, files_done: 0, careful: true, rebuild: false })
    }

    /// What about the projection is not what the checkpoint was made by.
    pub(super) fn changed(&self, checkpoint: &Checkpoint) -> Option<String> {
        let name = self.id().name();
        if checkpoint.mapping_fingerprint != self.target().fingerprint {
            return Some(format!(
                "the projection {} is not the one that the lane {name} was filled by: its key or SQL changed, or the type of a column \
                 that it reads",
                self.target().name
            ));
        }
        None
    }

    /// The checkpoint that says that a step was begun.
    pub(super) fn begun(&self, step: &Step, table: &Table, files_done: u64) -> Checkpoint {
        let old = self.checkpoint.as_ref();
        let pending = Pending {
            to: step.plan.to,
            from: if step.plan.strategy == Strategy::Snapshot { None } else { step.plan.from },
            files_done,
            sweep: step.careful || step.plan.sweep,
        };
        let resumed = old.and_then(|c| c.pending.as_ref()).is_some_and(|p| p.to == pending.to && p.from == pending.from);
        let again = old.is_some_and(|c| !resumed && c.version == Some(step.plan.to));
        let recreated = old.is_some_and(|c| c.table_id != table.id() || c.version.is_some_and(|v| v > step.plan.to));
        let (mut epoch, mut generation) = self.beyond(step.plan.to);
        if let Some(old) = old {
            epoch = old.epoch.saturating_add(u8::from(recreated));
            generation = if recreated { 0 } else { old.generation.saturating_add(u16::from(again)) };
        }
        Checkpoint {
            lane: self.id(),
            revision: old.map_or(0, |c| c.revision) + 1,
            table_id: table.id().to_owned(),
            version: old.and_then(|c| c.version).filter(|_| !recreated),
            pending: Some(pending),
            epoch,
            generation,
            schema_fingerprint: self.schema_fingerprint.clone(),
            mapping_fingerprint: self.target().fingerprint.clone(),
            model: self.place.model.clone(),
            updated_at: now(),
        }
    }

    /// Epoch and generation for a lane without a checkpoint: such that what it writes at `version` wins over what the sink holds.
    fn beyond(&self, version: i64) -> (u8, u16) {
        let Some(newest) = self.newest else { return (0, 0) };
        let [epoch, c0, c1, c2, c3, c4, g0, g1] = newest.to_be_bytes();
        let commit = i64::from_be_bytes([0, 0, 0, c0, c1, c2, c3, c4]);
        match commit.cmp(&version) {
            std::cmp::Ordering::Less => (epoch, 0),
            std::cmp::Ordering::Equal => (epoch, u16::from_be_bytes([g0, g1]).saturating_add(1)),
            std::cmp::Ordering::Greater => (epoch.saturating_add(1), 0),
        }
    }

    /// The checkpoint that says that a step is done.
    pub(super) fn finished(&self, step: &Step, table: &Table) -> Checkpoint {
        let mut checkpoint = self.begun(step, table, 0);
        if let Some(old) = self.checkpoint.as_ref().filter(|c| c.pending.is_some()) {
            checkpoint.epoch = old.epoch;
            checkpoint.generation = old.generation;
        }
        checkpoint.version = Some(step.plan.to);
        checkpoint.pending = None;
        checkpoint
    }
}

/// An error with its causes, for people.
pub(super) fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

pub(super) fn now() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
