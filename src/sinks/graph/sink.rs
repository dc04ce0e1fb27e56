//! The [`Sink`] contract over a graph. One transaction is open from the first write to the flush that stores its checkpoints.
//! The engine waits for nobody, so every call runs on a thread that may wait.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Map, Value as Json};

use crate::mapping::target::{Dimension, Target};
use crate::sinks::{Checkpoint, Page, Query, Refused, Sink, SinkError, SinkKind, Write};

use super::apply::{Context, row};
use super::client::{Executor, Row};
use super::config::GraphOptions;
use super::cypher::{CHECKPOINT, LANE, Layout, NodeKey, SINK, Side, check};
use super::decode::column;
use super::encode::{Cell, key_text, property};
use super::labels::{label_keys, with_layouts};
use super::rest::State;

/// Opens the graph, alone, and makes its directory when it is missing. Its engine starts when something asks for more than the
/// checkpoints that the directory was closed with.
///
/// # Errors
/// [`Class::Stop`](crate::sinks::Class::Stop) when another process has it open, when the directory holds something else, or what a
/// newer program wrote; [`Class::Permanent`](crate::sinks::Class::Permanent) when its files cannot be read or written.
pub async fn open(options: GraphOptions) -> Result<GraphSink, SinkError> {
    let opened = tokio::task::spawn_blocking(move || State::open(options));
    let state =
        opened.await.map_err(|cause| SinkError::permanent(SINK, "opening the graph was interrupted").because(cause))??;
    let noted = Mutex::new(state.noted().cloned());
    Ok(GraphSink { state: Arc::new(Mutex::new(state)), noted, waiting: Mutex::default() })
}

/// A property graph that holds what it is given.
pub struct GraphSink {
    state: Arc<Mutex<State>>,
    /// The checkpoints by lane, as long as nothing was asked of the engine.
    noted: Mutex<Option<BTreeMap<String, String>>>,
    /// Targets that were prepared meanwhile: they are made ready when the engine is first asked for something.
    waiting: Mutex<Vec<Layout>>,
}

impl fmt::Debug for GraphSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GraphSink").finish_non_exhaustive()
    }
}

impl GraphSink {
    /// Works on the graph, whose engine is started first if it rests.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Graph) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        self.noted().take();
        let waiting = std::mem::take(&mut *self.waiting());
        self.on_state(move |state| {
            let graph = state.awake()?;
            if !waiting.is_empty() {
                graph.prepare(waiting)?;
            }
            work(graph)
        })
        .await
    }

    async fn on_state<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T, SinkError> + Send + 'static,
    ) -> Result<T, SinkError> {
        let state = self.state.clone();
        let done = tokio::task::spawn_blocking(move || work(&mut state.lock().unwrap_or_else(PoisonError::into_inner)));
        done.await.map_err(|cause| SinkError::permanent(SINK, "work on the graph was interrupted").because(cause))?
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Layout>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn noted(&self) -> MutexGuard<'_, Option<BTreeMap<String, String>>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read_checkpoints(stored: &BTreeMap<String, String>) -> Result<Vec<Checkpoint>, SinkError> {
    let read = stored.iter().map(|(lane, text)| {
        serde_json::from_str(text).map_err(|cause| {
            let message =
                format!("the checkpoint of {lane} cannot be read; use the program that wrote it, or sync into a new graph");
            SinkError::stop(SINK, message).because(cause)
        })
    });
    read.collect()
}

#[async_trait]
impl Sink for GraphSink {
    fn kind(&self) -> SinkKind {
        SinkKind::Graph
    }

    fn check(&self, target: &Target) -> Result<(), SinkError> {
        check(target)
    }

    /// Nothing is lost on the way into the graph, so a row's image is the row.
    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let columns = target.schema.fields().iter().map(|field| {
            let found = rows.column_by_name(field.name()).filter(|column| column.data_type() == field.data_type());
            found.cloned().ok_or_else(|| {
                SinkError::permanent(
                    SINK,
                    format!("target `{}`: the rows lack a column `{}` of {}", target.name, field.name(), field.data_type()),
                )
            })
        });
        batch(&target.schema, columns.collect::<Result<_, _>>()?, rows.num_rows())
    }

    async fn prepare(&self, targets: &[Arc<Target>], _dimensions: &[Dimension]) -> Result<(), SinkError> {
        let layouts = targets.iter().map(|target| Layout::of(target)).collect::<Result<Vec<_>, _>>()?;
        if self.noted().is_none() {
            return self.with(move |graph| graph.prepare(layouts)).await;
        }
        // What the graph holds was made ready before it was closed, and its engine may be starting at this moment.
        let mut waiting = self.waiting();
        let all = with_layouts(&waiting, layouts);
        label_keys(&all)?;
        *waiting = all;
        Ok(())
    }

    fn wake(&self) {
        let state = self.state.clone();
        drop(tokio::task::spawn_blocking(move || {
            // Who works on the graph next hears what is wrong.
            drop(state.lock().unwrap_or_else(PoisonError::into_inner).awake().map(|_| ()));
        }));
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        let noted = self.noted().clone();
        if let Some(noted) = noted {
            return read_checkpoints(&noted);
        }
        self.with(|graph| {
            graph.lost = false;
            read_checkpoints(&graph.stored()?)
        })
        .await
    }

    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let writes = writes.to_vec();
        self.with(move |graph| graph.write(&writes)).await
    }

    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        let checkpoints = checkpoints.to_vec();
        self.with(move |graph| graph.flush(&checkpoints)).await
    }

    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let (layout, keys) = (Layout::of(target)?, keys.clone());
        self.with(move |graph| graph.held(&layout, &keys)).await
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        let (layout, after) = (Layout::of(target)?, after.map(str::to_owned));
        self.with(move |graph| graph.list(&layout, after.as_deref(), limit)).await
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        let layout = Layout::of(target)?;
        self.with(move |graph| {
            let statement = match &layout {
                Layout::Node(node) => node.newest(),
                Layout::Relationship(relationship) => relationship.newest(),
            };
            let rows = graph.engine.read(&statement, Vec::new())?;
            Ok(rows.iter().flatten().find_map(|cell| match cell {
                Cell::Int(version) => u64::try_from(*version).ok(),
                _ => None,
            }))
        })
        .await
    }

    async fn query(&self, query: &Query) -> Result<Vec<Map<String, Json>>, SinkError> {
        match query {
            Query::Text(text) => {
                let text = text.clone();
                self.with(move |graph| graph.engine.ask(&text)).await
            }
            Query::Nearest { .. } => Err(SinkError::permanent(SINK, "a graph has no vectors; ask in Cypher")),
        }
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.noted().take();
        self.on_state(State::close).await
    }
}

/// What the sink knows between calls.
pub(super) struct Graph {
    engine: Box<dyn Executor>,
    layouts: Vec<Layout>,
    batch_rows: usize,
    /// Whether a transaction is open.
    open: bool,
    /// Whether a failed write undid rows that were accepted before it.
    lost: bool,
    /// The rest of each listing that was begun, by target.
    listings: HashMap<String, Listing>,
}

/// Keys that were listed in part.
struct Listing {
    /// The `next` that was answered last.
    next: String,
    /// The remaining keys in descending order, under the texts by which they compare.
    rest: Vec<(String, Row)>,
}

impl Graph {
    pub(super) fn new(mut engine: Box<dyn Executor>, batch_rows: usize) -> Result<Self, SinkError> {
        let key = NodeKey { label: CHECKPOINT.to_owned(), properties: vec![LANE.to_owned()] };
        engine.write(&key.constraint(), Vec::new())?;
        engine.index(&key.properties)?;
        Ok(Self {
            engine,
            layouts: Vec::new(),
            batch_rows: batch_rows.max(1),
            open: false,
            lost: false,
            listings: HashMap::new(),
        })
    }

    pub(super) fn prepare(&mut self, layouts: Vec<Layout>) -> Result<(), SinkError> {
        if self.open {
            return Err(SinkError::permanent(SINK, "rows are waiting; flush them before targets are prepared"));
        }
        let all = with_layouts(&self.layouts, layouts);
        for key in label_keys(&all)? {
            self.engine.write(&key.constraint(), Vec::new())?;
            self.engine.index(&key.properties)?;
        }
        self.layouts = all;
        Ok(())
    }

    /// Ends the engine; answers the checkpoints that it held.
    pub(super) fn close(&mut self) -> Result<BTreeMap<String, String>, SinkError> {
        if self.open {
            self.flush(&[])?;
        }
        let stored = self.stored()?;
        self.engine.close()?;
        Ok(stored)
    }

    fn write(&mut self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let mut work = Vec::with_capacity(writes.len());
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
            work.push((layout, write));
            places.push(index);
        }
        if work.is_empty() {
            return Ok(Vec::new());
        }
        let accepted = self.open;
        if !self.open {
            self.engine.begin()?;
            self.open = true;
        }
        let mut context = Context { engine: self.engine.as_mut(), layouts: &self.layouts, batch_rows: self.batch_rows };
        match context.apply(&work) {
            Ok(mut refused) => {
                for row in &mut refused {
                    row.write = places[row.write];
                }
                Ok(refused)
            }
            Err(error) => {
                self.lost |= accepted;
                self.undo()?;
                Err(error)
            }
        }
    }

    fn undo(&mut self) -> Result<(), SinkError> {
        self.open = false;
        self.engine.rollback()
    }

    fn flush(&mut self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        if self.lost {
            let message = "rows accepted earlier were undone when a write failed; read the checkpoints and write them again";
            return Err(SinkError::permanent(SINK, message));
        }
        if !self.open {
            if checkpoints.is_empty() {
                return Ok(());
            }
            self.engine.begin()?;
            self.open = true;
        }
        if let Err(error) = self.store(checkpoints) {
            self.undo()?;
            return Err(error);
        }
        // The engine ends the transaction, whether it commits or not.
        self.open = false;
        self.engine.commit()
    }

    /// Puts checkpoints into the open transaction.
    fn store(&mut self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        if checkpoints.is_empty() {
            return Ok(());
        }
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
    fn stored(&mut self) -> Result<BTreeMap<String, String>, SinkError> {
        let statement = format!("MATCH (c:`{CHECKPOINT}`) RETURN c.`{LANE}` AS lane, c.`checkpoint` AS checkpoint");
        let rows = self.engine.read(&statement, Vec::new())?;
        let text = |cell: &Cell| cell.as_text().unwrap_or_default().to_owned();
        Ok(rows
            .iter()
            .filter_map(|row| if let [lane, checkpoint] = row.as_slice() { Some((text(lane), text(checkpoint))) } else { None })
            .collect())
    }

    fn held(&mut self, layout: &Layout, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let target = layout.target();
        let schema = keys.schema();
        let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
        let mut places = Vec::with_capacity(names.len());
        for name in &names {
            places.push(target.schema.index_of(name).map_err(|_| {
                SinkError::permanent(SINK, format!("target `{}` has no column `{name}` to look for", target.name))
            })?);
        }
        // The columns that the engine finds rows by, and the statement for them; the others are compared here.
        let (by, statement): (Vec<&str>, String) = match layout {
            Layout::Node(node) => {
                let by: Vec<String> = node.key.properties.iter().filter(|name| names.contains(&name.as_str())).cloned().collect();
                let statement = node.held(&by);
                (
                    names
                        .iter()
                        .copied()
                        .filter(|name| by.iter().any(|by| by == name))
                        .collect::<BTreeSet<_>>()
                        .into_iter()
                        .collect(),
                    statement,
                )
            }
            Layout::Relationship(relationship) => {
                let other = if relationship.anchor == Side::From { Side::To } else { Side::From };
                let found = |side: &Side| relationship.end(*side).columns.iter().all(|column| names.contains(&column.as_str()));
                let side = [relationship.anchor, other].into_iter().find(found);
                let by = side.map_or(Vec::new(), |side| relationship.end(side).columns.iter().map(String::as_str).collect());
                (by, relationship.held(side))
            }
        };
        let mut wanted = BTreeSet::new();
        let mut questions = BTreeMap::new();
        for index in 0..keys.num_rows() {
            let cells: Result<Vec<Cell>, String> = keys.columns().iter().map(|column| property(column.as_ref(), index)).collect();
            // A value that the graph cannot hold is not in it.
            let Ok(cells) = cells else { continue };
            let question: Vec<Cell> = by
                .iter()
                .filter_map(|name| names.iter().position(|other| other == name))
                .map(|place| cells[place].clone())
                .collect();
            wanted.insert(key_text(&cells));
            questions.entry(key_text(&question)).or_insert_with(|| row(0, 'k', &question, []));
        }
        if wanted.is_empty() {
            return Ok(RecordBatch::new_empty(target.schema.clone()));
        }
        let questions: Vec<Cell> = if by.is_empty() { Vec::new() } else { questions.into_values().collect() };
        let mut rows = Vec::new();
        let mut chunks: Vec<&[Cell]> = questions.chunks(self.batch_rows).collect();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for some in chunks {
            let mut answers = self.engine.read(&statement, some.to_vec())?;
            if let Layout::Node(_) = layout {
                answers.retain_mut(|cells| cells.pop().is_none_or(|stub| stub == Cell::Null));
            }
            rows.extend(
                answers.into_iter().filter(|cells| wanted.contains(&key_text(places.iter().map(|&place| &cells[place])))),
            );
        }
        decode(target, &target.schema, rows)
    }

    fn list(&mut self, layout: &Layout, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        let target = layout.target();
        let name = key_text(&<[&str; 3]>::from(layout.identity()).map(Cell::text));
        let begun = self.listings.remove(&name).filter(|listing| Some(listing.next.as_str()) == after);
        let mut rest = match begun {
            Some(listing) => listing.rest,
            None => {
                let statement = match layout {
                    Layout::Node(node) => node.list(),
                    Layout::Relationship(relationship) => relationship.list(),
                };
                let rows = self.engine.read(&statement, Vec::new())?.into_iter();
                let mut rest: Vec<(String, Row)> = rows
                    .map(|row| (key_text(&row), row))
                    .filter(|(text, _)| after.is_none_or(|after| text.as_str() > after))
                    .collect();
                rest.sort_unstable_by(|(one, _), (other, _)| other.cmp(one));
                rest.dedup_by(|(one, _), (other, _)| one == other);
                rest
            }
        };
        let page = rest.split_off(rest.len().saturating_sub(limit.max(1)));
        let next = page.first().filter(|_| !rest.is_empty()).map(|(text, _)| text.clone());
        if let Some(next) = &next {
            self.listings.insert(name, Listing { next: next.clone(), rest });
        }
        let fields: Result<Vec<_>, _> =
            target.record_key.iter().map(|name| target.schema.field_with_name(name).cloned()).collect();
        let fields = fields.map_err(|cause| {
            SinkError::permanent(SINK, format!("target `{}` lacks a Silver key column", target.name)).because(cause)
        })?;
        let keys = decode(target, &Arc::new(Schema::new(fields)), page.into_iter().rev().map(|(_, row)| row).collect())?;
        Ok(Page { keys, next })
    }
}

/// Rows of cells as a batch.
fn decode(target: &Target, schema: &SchemaRef, rows: Vec<Row>) -> Result<RecordBatch, SinkError> {
    let count = rows.len();
    let mut columns: Vec<Vec<Cell>> = schema.fields().iter().map(|_| Vec::with_capacity(count)).collect();
    for row in rows {
        for (column, cell) in columns.iter_mut().zip(row) {
            column.push(cell);
        }
    }
    let arrays = schema.fields().iter().zip(columns).map(|(field, cells)| {
        column(field, cells).map_err(|message| SinkError::permanent(SINK, format!("target `{}`: {message}", target.name)))
    });
    batch(schema, arrays.collect::<Result<_, _>>()?, count)
}

fn batch(schema: &SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, SinkError> {
    RecordBatch::try_new_with_options(schema.clone(), columns, &RecordBatchOptions::new().with_row_count(Some(rows))).map_err(
        |cause| {
            SinkError::permanent(SINK, "the graph's rows do not fit the target; something else has written to it").because(cause)
        },
    )
}
