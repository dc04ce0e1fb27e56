//! The transaction that is open from the first write to the flush that stores its checkpoints.
//!
//! A transaction that fails is undone as a whole. What was accepted before the call that failed is kept as it was given, and is written
//! again, into a new transaction, before anything else is asked: ids that were read in the old one mean nothing in the new one, so rows
//! are kept and not statements. To write rows again changes nothing, so it does not matter whether a lost COMMIT was done. What is kept is
//! bounded: a transaction that has grown too large is committed before its checkpoints, which say that the rest is to come.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::sinks::{Checkpoint, Class, Refused, SinkError, Write};

use super::apply::{Context, row};
use super::client::Executor;
use super::cypher::{CHECKPOINT, LANE, Layout, NodeKey, SINK};
use super::encode::Cell;
use super::fresh::Fresh;
use super::labels::{label_keys, with_layouts};
use super::pace::{Pace, parts, rows};
use super::sink::Listing;

/// Bytes of rows that are kept until they are durable.
const ACCEPTED_BYTES_MAX: usize = 256 * 1024 * 1024;

/// What the sink knows between calls.
pub(super) struct Graph {
    pub(super) engine: Box<dyn Executor>,
    layouts: Vec<Layout>,
    /// The keys that are unique by now; nothing before the engine was asked.
    unique: Option<BTreeSet<NodeKey>>,
    pub(super) pace: Pace,
    /// What was accepted and is not durable yet, call by call.
    accepted: Vec<Vec<Write>>,
    /// Whether a transaction is open, with all that was accepted in it.
    open: bool,
    /// Rows in the open transaction.
    rows: usize,
    /// How many of the accepted calls are in a COMMIT that is under way.
    flying: Option<usize>,
    /// Whether a COMMIT was sent that nobody answered.
    unsure: bool,
    fresh: Fresh,
    /// The rest of each listing that was begun, by target.
    pub(super) listings: HashMap<String, Listing>,
}

impl Graph {
    pub(super) fn new(engine: Box<dyn Executor>, batch_rows: usize) -> Self {
        Self {
            engine,
            layouts: Vec::new(),
            unique: None,
            pace: Pace::new(batch_rows),
            accepted: Vec::new(),
            open: false,
            rows: 0,
            flying: None,
            unsure: false,
            fresh: Fresh::default(),
            listings: HashMap::new(),
        }
    }

    pub(super) fn prepare(&mut self, layouts: Vec<Layout>) -> Result<(), SinkError> {
        // No server takes a constraint and rows in one transaction.
        self.rest()?;
        let all = with_layouts(&self.layouts, layouts);
        let checkpoints = NodeKey { label: CHECKPOINT.to_owned(), properties: vec![LANE.to_owned()] };
        self.make_unique(label_keys(&all)?.into_iter().chain([checkpoints]))?;
        self.layouts = all;
        Ok(())
    }

    /// Makes keys unique that are not. Each constraint is a transaction of its own, for which a server takes its time even when it has
    /// it already, so the engine is asked once which there are, and told those that are missing.
    fn make_unique(&mut self, keys: impl Iterator<Item = NodeKey>) -> Result<(), SinkError> {
        let mut unique = match self.unique.take() {
            Some(unique) => unique,
            None => self.engine.unique()?,
        };
        let mut made = Ok(());
        for key in keys {
            if unique.contains(&key) {
                continue;
            }
            made = self.engine.write(&key.constraint(), Vec::new()).and_then(|()| self.engine.index(&key.properties));
            if made.is_err() {
                break;
            }
            unique.insert(key);
        }
        self.unique = Some(unique);
        made
    }

    /// Ends the engine; answers the checkpoints that it held.
    pub(super) fn close(&mut self) -> Result<BTreeMap<String, String>, SinkError> {
        self.rest()?;
        let stored = self.stored()?;
        self.engine.close()?;
        Ok(stored)
    }

    /// Ends the use of a server, whose checkpoints nobody notes.
    pub(super) fn leave(&mut self) -> Result<(), SinkError> {
        self.rest()?;
        self.engine.close()
    }

    pub(super) fn write(&mut self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let mut given = Vec::with_capacity(writes.len());
        let mut places = Vec::with_capacity(writes.len());
        for (index, write) in writes.iter().enumerate() {
            if write.upserts.num_rows() == 0 && write.deletes.num_rows() == 0 {
                continue;
            }
            let layout = Layout::of(&write.target)?;
            if !self.layouts.iter().any(|known| known.identity() == layout.identity()) {
                return Err(SinkError::permanent(
                    SINK,
                    format!("target `{}` is written before it is prepared", write.target.name),
                ));
            }
            given.push(write.clone());
            places.push(index);
        }
        if given.is_empty() {
            return Ok(Vec::new());
        }
        self.resume()?;
        let mut refused = self.deliver(&given).inspect_err(|_| self.undo())?;
        self.land()?;
        for row in &mut refused {
            row.write = places[row.write];
        }
        self.accepted.push(given);
        // These rows were not in the COMMIT that nobody answered: all are written again then.
        self.unsure = false;
        let bytes = self.accepted.iter().flatten().map(|write| write.upserts.get_array_memory_size()).sum::<usize>();
        if (self.rows >= self.pace.transaction_rows() || bytes > ACCEPTED_BYTES_MAX)
            && let Err(error) = self.commit_ahead()
        {
            // The rows are accepted, and the next call begins with writing them again.
            tracing::warn!(%error, "a large transaction was not committed before its checkpoints");
        }
        Ok(refused)
    }

    /// Opens a transaction with all that was accepted in it.
    fn resume(&mut self) -> Result<(), SinkError> {
        if self.open {
            return Ok(());
        }
        self.engine.begin()?;
        (self.open, self.rows) = (true, 0);
        if self.flying.is_some() {
            return Ok(());
        }
        let accepted = std::mem::take(&mut self.accepted);
        let done = accepted.iter().try_for_each(|writes| self.deliver(writes).map(drop));
        self.accepted = accepted;
        done.inspect_err(|_| self.undo())
    }

    /// Puts writes into the open transaction. What is too large for one transaction is committed piece by piece.
    fn deliver(&mut self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let mut refused = Vec::new();
        for part in parts(writes, self.pace.transaction_rows()) {
            let count = rows(&part.writes);
            if self.rows > 0 && self.rows + count > self.pace.transaction_rows() {
                self.commit_ahead()?;
                self.engine.begin()?;
                self.open = true;
            }
            let work = part.writes.iter().map(|write| Ok((Layout::of(&write.target)?, write)));
            let work = work.collect::<Result<Vec<_>, SinkError>>()?;
            let (key_bytes_max, batch_rows) = (self.engine.key_bytes_max(), self.pace.batch_rows());
            let (engine, layouts, fresh) = (self.engine.as_mut(), &self.layouts, &mut self.fresh);
            let mut context = Context { engine, layouts, fresh, batch_rows, key_bytes_max };
            for row in context.apply(&work)? {
                let (write, place) = part.place(row.write, row.row);
                refused.push(Refused { write, row: place, message: row.message });
            }
            self.rows += count;
        }
        Ok(refused)
    }

    /// Reads, what was accepted included.
    pub(super) fn reading<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, SinkError>) -> Result<T, SinkError> {
        self.land()?;
        if !self.accepted.is_empty() {
            self.resume()?;
        }
        read(self).inspect_err(|_| self.undo())
    }

    /// Ends a transaction in which something failed. What was accepted is kept.
    fn undo(&mut self) {
        (self.open, self.flying) = (false, None);
        self.fresh.forget();
        if let Err(error) = self.engine.rollback() {
            tracing::warn!(%error, "a transaction was not undone in order");
        }
        if self.engine.short_of_memory() {
            self.pace.shrink();
        }
    }

    /// Waits for the COMMIT that is under way. When it fails, what was in it is written again.
    pub(super) fn land(&mut self) -> Result<(), SinkError> {
        let Some(calls) = self.flying else { return Ok(()) };
        self.engine.landed().inspect_err(|_| self.undo())?;
        self.durable(calls);
        Ok(())
    }

    /// Commits while the next rows are got ready. Nothing counts on it before it has landed.
    fn commit_ahead(&mut self) -> Result<(), SinkError> {
        self.land()?;
        (self.open, self.rows) = (false, 0);
        self.fresh.end();
        let calls = self.accepted.len();
        if self.engine.commit_ahead().inspect_err(|_| self.undo())? {
            self.flying = Some(calls);
        } else {
            self.durable(calls);
        }
        Ok(())
    }

    /// So many of the accepted calls are durable.
    fn durable(&mut self, calls: usize) {
        self.flying = None;
        // They are elsewhere while they are written again.
        self.accepted.drain(..calls.min(self.accepted.len()));
        self.pace.grow();
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        // The engine ends the transaction, whether it commits or not.
        self.fresh.end();
        (self.open, self.rows) = (false, 0);
        self.unsure = true;
        self.engine.commit().inspect_err(|_| self.undo())?;
        self.unsure = false;
        self.durable(self.accepted.len());
        Ok(())
    }

    /// Makes all that was accepted durable.
    fn rest(&mut self) -> Result<(), SinkError> {
        self.flush(&[])?;
        self.land()
    }

    pub(super) fn flush(&mut self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        if checkpoints.is_empty() {
            if !self.open && (self.accepted.is_empty() || self.flying.is_some()) {
                return Ok(());
            }
            self.resume()?;
            return self.commit_ahead();
        }
        if self.unsure && !self.open && self.are_stored(checkpoints)? {
            // Only the answer was lost.
            (self.unsure, self.accepted) = (false, Vec::new());
            return Ok(());
        }
        self.resume()?;
        if let Err(error) = self.store(checkpoints) {
            self.undo();
            if error.class == Class::Stop {
                // The place is another run's, and so is what becomes of these rows.
                self.accepted.clear();
            }
            return Err(error);
        }
        self.commit()
    }

    /// Whether the graph holds just these checkpoints.
    fn are_stored(&mut self, checkpoints: &[Checkpoint]) -> Result<bool, SinkError> {
        let stored = self.stored()?;
        Ok(checkpoints.iter().all(|given| {
            let text = serde_json::to_string(given).ok();
            text.is_some() && stored.get(&given.lane.name()) == text.as_ref()
        }))
    }

    /// Puts checkpoints into the open transaction.
    fn store(&mut self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        if checkpoints.is_empty() {
            return Ok(());
        }
        // Locks them, so that another writer waits, and reads what this one stores.
        let lanes = checkpoints.iter().map(|checkpoint| row(0, 'k', &[Cell::text(&checkpoint.lane.name())], []));
        let lock = format!("UNWIND $rows AS row MATCH (c:`{CHECKPOINT}` {{`{LANE}`: row.k0}}) SET c.`{LANE}` = row.k0");
        self.engine.write(&lock, lanes.collect())?;
        let stored = self.stored()?;
        let mut rows = Vec::with_capacity(checkpoints.len());
        for checkpoint in checkpoints {
            let lane = checkpoint.lane.name();
            let text = serde_json::to_string(checkpoint).map_err(|cause| {
                SinkError::permanent(SINK, format!("the checkpoint of {lane} cannot be written")).because(cause)
            })?;
            let held = stored.get(&lane);
            // The same flush again, after its answer was lost.
            if held == Some(&text) {
                continue;
            }
            let revision = held.and_then(|text| serde_json::from_str::<Checkpoint>(text).ok()).map_or(0, |held| held.revision);
            if checkpoint.revision != revision + 1 {
                let given = checkpoint.revision;
                let message = format!(
                    "the checkpoint of {lane} is at revision {revision}, and {given} was to follow {}; another run has moved it: start again",
                    given.saturating_sub(1)
                );
                return Err(SinkError::stop(SINK, message));
            }
            rows.push(row(rows.len(), 'k', &[Cell::text(&lane)], [("checkpoint", Cell::Text(text.into()))]));
        }
        let statement =
            format!("UNWIND $rows AS row MERGE (c:`{CHECKPOINT}` {{`{LANE}`: row.k0}}) SET c.`checkpoint` = row.checkpoint");
        if rows.is_empty() { Ok(()) } else { self.engine.write(&statement, rows) }
    }

    /// The checkpoints as they are stored, by the names of their lanes.
    pub(super) fn stored(&mut self) -> Result<BTreeMap<String, String>, SinkError> {
        let statement = format!("MATCH (c:`{CHECKPOINT}`) RETURN c.`{LANE}` AS lane, c.`checkpoint` AS checkpoint");
        let rows = self.engine.read(&statement, Vec::new())?;
        let text = |cell: &Cell| cell.as_text().unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .filter_map(|row| if let [lane, checkpoint] = row.as_slice() { Some((text(lane), text(checkpoint))) } else { None })
            .collect())
    }
}
