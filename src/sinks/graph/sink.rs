//! The [`Sink`] contract over a graph. One transaction is open from the first write to the flush that stores its checkpoints.
//! The engine waits for nobody, so every call runs on a thread that may wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Schema, SchemaRef};
use async_trait::async_trait;
use serde_json::{Map, Value as Json};

use crate::mapping::target::{Dimension, Target};
use crate::sinks::{Checkpoint, Lease, Page, Query, Refused, Sink, SinkError, SinkKind, Write};

use super::apply::row;
use super::bolt::{Bolt, Leases};
use super::client::Row;
use super::config::{GraphOptions, ServerOptions};
use super::cypher::{Layout, SINK, Side, check};
use super::decode::column;
use super::encode::{Cell, key_text, property};
use super::labels::{label_keys, with_layouts};
use super::rest::{State, read_checkpoints};
use super::transaction::Graph;

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
    Ok(GraphSink { state: Arc::new(Mutex::new(state)), noted, waiting: Mutex::default(), leases: None })
}

/// Reaches a server, with authentication and its database.
///
/// # Errors
/// [`Class::Transient`](crate::sinks::Class::Transient) when it does not answer; [`Class::Permanent`](crate::sinks::Class::Permanent)
/// when it does not let the user in or has no such database, naming the key of the configuration to look at.
pub async fn open_server(options: ServerOptions) -> Result<GraphSink, SinkError> {
    let server = Bolt::connect(&options).await?;
    let leases = Some(server.leases());
    let state = State::Awake { graph: Box::new(Graph::new(Box::new(server), options.batch_rows)), path: None };
    Ok(GraphSink { state: Arc::new(Mutex::new(state)), noted: Mutex::default(), waiting: Mutex::default(), leases })
}

/// A property graph that holds what it is given.
pub struct GraphSink {
    state: Arc<Mutex<State>>,
    /// The checkpoints by lane, as long as nothing was asked of the engine.
    noted: Mutex<Option<BTreeMap<String, String>>>,
    /// Targets that were prepared meanwhile: they are made ready when the engine is first asked for something.
    waiting: Mutex<Vec<Layout>>,
    /// Where a server keeps leases; an embedded engine's directory is locked.
    leases: Option<Leases>,
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

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        match &self.leases {
            Some(leases) => leases.hold(lease).await,
            None => Ok(()),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        match &self.leases {
            Some(leases) => leases.release(lease).await,
            None => Ok(()),
        }
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
        self.with(|graph| read_checkpoints(&graph.reading(Graph::stored)?)).await
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
        self.with(move |graph| graph.reading(|graph| graph.held(&layout, &keys))).await
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        let (layout, after) = (Layout::of(target)?, after.map(str::to_owned));
        self.with(move |graph| graph.reading(|graph| graph.list(&layout, after.as_deref(), limit))).await
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        let layout = Layout::of(target)?;
        self.with(move |graph| {
            let statement = match &layout {
                Layout::Node(node) => node.newest(),
                Layout::Relationship(relationship) => relationship.newest(),
            };
            let rows = graph.reading(|graph| graph.engine.read(&statement, Vec::new()))?;
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
                self.with(move |graph| graph.land().and_then(|()| graph.engine.ask(&text))).await
            }
            Query::Nearest { .. } => Err(SinkError::permanent(SINK, "a graph has no vectors; ask in Cypher")),
        }
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.noted().take();
        self.on_state(State::close).await
    }
}

/// Keys that were listed in part.
pub(super) struct Listing {
    /// The `next` that was answered last.
    next: String,
    /// The remaining keys in descending order, under the texts by which they compare.
    rest: Vec<(String, Row)>,
}

impl Graph {
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
        let mut chunks: Vec<&[Cell]> = questions.chunks(self.pace.batch_rows()).collect();
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
