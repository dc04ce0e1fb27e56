//! What a run works with: sinks, tables, the mapping compiled against them. Everything a command opens, it opens here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::execution::runtime_env::RuntimeEnv;

use super::lake::{Lake, Opened, storage_options};
use super::lane::describe;
use super::leases::Leases;
use super::models::Models;
use super::spill::{Spill, runtime};
use crate::changes::{ChangesError, RecordCounts, Strategy, Table};
use crate::config::{ColumnStore, Config, ConfigError, GraphStore, MissingTables, VectorStore, shown};
use crate::embed::{EmbedError, Worker};
use crate::fetch::{FetchError, Paths};
use crate::mapping::file::TableEntry;
use crate::mapping::target::Shape;
use crate::mapping::{MappingError, MappingFile, compile};
use crate::report::{TableReport, TargetReport};
use crate::sinks::lease::DEFAULT_LEASE;
use crate::sinks::quarantine::QuarantineError;
use crate::sinks::{Class, Retries, Retrying, Sink, SinkError, SinkKind, Work, clickhouse, graph, vectors};

/// Records in one batch of work that gives way: others wait for a batch to end, and what a killed process loses is no more than one.
const BATCH_ROWS_GIVING_WAY: usize = 512;

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each variant is the error of the room that it names")]
pub enum OpenError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Changes(#[from] ChangesError),
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    #[error("cannot set up memory and spilling: {0}")]
    Runtime(#[from] datafusion::error::DataFusionError),
    #[error(
        "the table {table} of the mapping is not in the lake: looked for {url}; set `source.missing_tables: skip` to go on without it"
    )]
    Missing { table: String, url: String },
    #[error("the configuration does not say where the table {0} is: add it under `source.tables`, or a `source.root`")]
    NoAddress(String),
}

/// Everything that outlives one run.
#[derive(Debug)]
pub struct Setup {
    /// The configuration.
    pub config: Config,
    /// The mapping as written.
    pub mapping: MappingFile,
    /// The sinks that are configured, open.
    pub sinks: Vec<Arc<dyn Sink>>,
    /// Sinks that are configured and could not be opened: a run goes on without them and says so.
    pub unopened: Vec<(SinkKind, SinkError)>,
    /// What makes vectors of new collections; none when embedding is off.
    pub embedder: Option<Arc<Worker>>,
    /// What makes vectors of collections that are of other models.
    pub models: Models,
    /// Memory and spilling.
    pub runtime: Arc<RuntimeEnv>,
    /// What was spilled: it goes when the run is over.
    pub spill: Spill,
    /// What tries calls to the sinks again, and counts them.
    pub retries: Retries,
    /// What this run holds against other writers.
    pub leases: Leases,
}

/// Which of the sinks a command needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the sinks")]
pub struct Needed {
    pub clickhouse: bool,
    pub graph: bool,
    pub vectors: bool,
}

impl Needed {
    /// All of them.
    pub const ALL: Self = Self { clickhouse: true, graph: true, vectors: true };
}

impl Setup {
    /// Opens the sinks of a configuration; `files` are what they need besides ([`crate::fetch`]).
    ///
    /// # Errors
    /// [`OpenError`] naming what cannot be opened.
    pub async fn open(config: Config, files: &Paths, needed: Needed) -> Result<Self, OpenError> {
        // Clients of servers have large futures, which are not carried through every command.
        Box::pin(Self::open_as(config, files, needed, None)).await
    }

    /// Opens the vector index alone, for work that takes long and gives way to other processes in between.
    ///
    /// # Errors
    /// [`OpenError`] naming what cannot be opened.
    pub async fn open_giving_way(mut config: Config, files: &Paths) -> Result<Self, OpenError> {
        config.batch_rows = config.batch_rows.min(BATCH_ROWS_GIVING_WAY);
        let needed = Needed { clickhouse: false, graph: false, vectors: true };
        Box::pin(Self::open_as(config, files, needed, Some(Work::Reembed))).await
    }

    async fn open_as(config: Config, files: &Paths, needed: Needed, work: Option<Work>) -> Result<Self, OpenError> {
        let mapping = MappingFile::read(&config.mapping)?;
        let models = Models::new(files.models.clone());
        let embedder = embedder(&config, &models, needed)?;
        let (runtime, spill) = runtime(&config)?;
        let (retries, gives_way) = (Retries::default(), work == Some(Work::Reembed));
        // Together, because each reads what it holds, and none waits for another.
        let opened = futures::join!(
            retried(&retries, SinkKind::Clickhouse, || open_clickhouse(&config, files, needed)),
            retried(&retries, SinkKind::Graph, || open_graph(&config, needed)),
            retried(&retries, SinkKind::Vectors, || open_vectors(&config, embedder.as_deref(), gives_way))
        );
        let (mut sinks, mut unopened) = sorted([opened.0, opened.1, opened.2])?;
        let leases = leased(&mut sinks, &mut unopened, work).await?;
        Ok(Self { config, mapping, sinks, unopened, embedder, models, runtime, spill, retries, leases })
    }

    /// [`Setup::open`] with all sinks, while the tables are opened for the [`super::sync_opened`] to come, so that neither waits for
    /// the other. A run that `writes` takes a lease where a server keeps them.
    ///
    /// # Errors
    /// [`OpenError`] naming what cannot be opened.
    pub async fn open_with_tables(config: Config, files: &Paths, writes: bool) -> Result<(Self, Opened), OpenError> {
        let mapping = MappingFile::read(&config.mapping)?;
        let models = Models::new(files.models.clone());
        let embedder = embedder(&config, &models, Needed::ALL)?;
        let (runtime, spill) = runtime(&config)?;
        let lake = Lake { config: &config, mapping: &mapping, runtime: &runtime };
        let retries = Retries::default();
        let graph = retried(&retries, SinkKind::Graph, || open_graph(&config, Needed::ALL)).await;
        let first: Vec<Arc<dyn Sink>> = graph.iter().filter_map(|(_, opened)| opened.as_ref().ok().cloned()).collect();
        lake.wake_early(&first).await;
        let tables = async {
            let tables = lake.tables().await?;
            lake.wake_for(&first, &tables).await;
            lake.compile(tables).await
        };
        let (clickhouse, vectors, opened) = futures::join!(
            retried(&retries, SinkKind::Clickhouse, || open_clickhouse(&config, files, Needed::ALL)),
            retried(&retries, SinkKind::Vectors, || open_vectors(&config, embedder.as_deref(), false)),
            tables
        );
        let (mut sinks, mut unopened) = sorted([clickhouse, graph, vectors])?;
        let opened = opened?;
        let leases = leased(&mut sinks, &mut unopened, writes.then_some(Work::Sync)).await?;
        Ok((Self { config, mapping, sinks, unopened, embedder, models, runtime, spill, retries, leases }, opened))
    }

    /// Closes the sinks: everything accepted becomes durable.
    ///
    /// # Errors
    /// The first sink's error; the others are closed all the same.
    pub async fn close(&self) -> Result<(), SinkError> {
        let mut first = self.leases.release(&self.sinks).await;
        for sink in &self.sinks {
            let closed = sink.close().await;
            if first.is_ok() {
                first = closed;
            }
        }
        first
    }

    pub(super) fn storage_options(&self) -> HashMap<String, String> {
        storage_options(&self.config)
    }

    pub(super) fn lake(&self) -> Lake<'_> {
        Lake { config: &self.config, mapping: &self.mapping, runtime: &self.runtime }
    }

    /// Opens the mapping's tables, pins their versions, and compiles the mapping against them.
    pub(super) async fn open_tables(&self) -> Result<Opened, OpenError> {
        let tables = self.lake().tables().await?;
        self.lake().compile(tables).await
    }

    /// An entry for each table whose targets a sink would hold that could not be opened.
    pub(super) fn without(&self, sink: SinkKind, error: &SinkError) -> Vec<TableReport> {
        let of_sink = |entry: &TableEntry| {
            let targets = entry.targets().into_iter().filter(|(kind, _)| *kind == sink);
            targets.map(|(kind, target)| failed_target(kind, target, error, error.class == Class::Stop)).collect()
        };
        let reports =
            self.mapping.tables.iter().map(|(table, entry)| nothing_read(table, "the sink cannot be opened", of_sink(entry)));
        reports.filter(|report| !report.targets.is_empty()).collect()
    }

    /// The entry for a table that is there and cannot be read.
    pub(super) fn unreadable(&self, table: &str, error: &ChangesError) -> TableReport {
        let configured = |sink: SinkKind| self.sinks.iter().any(|s| s.kind() == sink);
        let targets = self.mapping.tables.get(table).map(TableEntry::targets).unwrap_or_default();
        let targets = targets.into_iter().filter(|(sink, _)| configured(*sink));
        nothing_read(
            table,
            "the table cannot be read",
            targets.map(|(sink, t)| failed_target(sink, t, error, error.needs_decision())).collect(),
        )
    }

    /// Reads the mapping against the tables that can be reached and the engines' limits, and writes nothing. Answers what was not
    /// looked at.
    ///
    /// # Errors
    /// [`OpenError`] for the first thing that is wrong.
    pub async fn check(config: &Config) -> Result<Vec<String>, OpenError> {
        let mapping = MappingFile::read(&config.mapping)?;
        let (runtime, spill) = runtime(config)?;
        let setup = Self {
            runtime,
            spill,
            config: config.clone(),
            mapping,
            sinks: Vec::new(),
            unopened: Vec::new(),
            embedder: None,
            models: Models::default(),
            retries: Retries::default(),
            leases: Leases::default(),
        };
        let mut notes = Vec::new();
        let mut schemas = BTreeMap::new();
        for (name, entry) in &setup.mapping.tables {
            let Some(url) = config.table_url(name) else {
                return Err(OpenError::NoAddress(name.clone()));
            };
            if url.contains("://") && !url.starts_with("file://") {
                notes.push(format!("{name}: its queries were not checked, because that needs its schema from {}", shown(&url)));
                continue;
            }
            match Table::open(setup.lake().table_options(name, url.clone(), &entry.key), setup.runtime.clone()).await {
                Ok(table) => {
                    schemas.insert(name.clone(), table.schema());
                }
                Err(ChangesError::NotATable { .. }) => match config.source.missing_tables {
                    MissingTables::Skip => notes.push(format!("{name}: not in the lake at {}; it would be skipped", shown(&url))),
                    MissingTables::Stop => return Err(OpenError::Missing { table: name.clone(), url: shown(&url) }),
                },
                Err(error) => return Err(error.into()),
            }
        }
        let compiled = compile(&setup.mapping, &config.mapping, &schemas).await?;
        for projection in compiled.tables.values().flat_map(|t| &t.projections) {
            let target = projection.target();
            match &target.shape {
                Shape::Table => clickhouse::check(target)?,
                Shape::Node | Shape::Relationship { .. } => graph::check(target)?,
                Shape::Points { .. } => vectors::check(target)?,
            }
            let is_metadata = matches!(config.vectors, Some(VectorStore::Pinecone(_)));
            notes.extend(vectors::pinecone_notes(target).filter(|_| is_metadata));
        }
        Ok(notes)
    }
}

/// What opening gives; nothing where the sink is not configured or not needed.
type OpenedSink = Option<(SinkKind, Result<Arc<dyn Sink>, SinkError>)>;

fn embedder(config: &Config, models: &Models, needed: Needed) -> Result<Option<Arc<Worker>>, OpenError> {
    if config.vectors.is_none() || !needed.vectors {
        return Ok(None);
    }
    Ok(models.make(&config.embed, config.precision)?)
}

/// The sinks that opened and those that did not. One that another run holds, or that waits for a decision, stops the run; one that is
/// broken does not, unless it is the only one.
#[expect(clippy::type_complexity, reason = "it is what a Setup holds")]
fn sorted(opened: [OpenedSink; 3]) -> Result<(Vec<Arc<dyn Sink>>, Vec<(SinkKind, SinkError)>), OpenError> {
    let (mut sinks, mut unopened) = (Vec::new(), Vec::new());
    for (kind, opened) in opened.into_iter().flatten() {
        match opened {
            Ok(sink) => sinks.push(sink),
            Err(error) => unopened.push((kind, error)),
        }
    }
    match unopened.iter().position(|(_, error)| sinks.is_empty() || error.class == Class::Stop) {
        Some(first) => Err(unopened.swap_remove(first).1.into()),
        None => Ok((sinks, unopened)),
    }
}

/// Takes the leases of a run that writes.
async fn leased(
    sinks: &mut Vec<Arc<dyn Sink>>,
    unopened: &mut Vec<(SinkKind, SinkError)>,
    work: Option<Work>,
) -> Result<Leases, SinkError> {
    let Some(work) = work else { return Ok(Leases::default()) };
    let (leases, failed) = Leases::take(sinks, work, DEFAULT_LEASE).await?;
    unopened.extend(failed);
    Ok(leases)
}

/// Opens a sink, again when it fails for a passing reason, and puts it behind the loop that tries its calls again.
async fn retried<F: Future<Output = OpenedSink>>(retries: &Retries, kind: SinkKind, open: impl Fn() -> F) -> OpenedSink {
    let attempt = || async {
        match open().await {
            None => Ok(None),
            Some((_, opened)) => opened.map(Some),
        }
    };
    let opened = retries.call("open", attempt).await.transpose()?;
    Some((kind, opened.map(|sink| Retrying::of(sink, retries))))
}

async fn open_clickhouse(config: &Config, files: &Paths, needed: Needed) -> OpenedSink {
    let opened = match config.clickhouse.as_ref().filter(|_| needed.clickhouse)? {
        ColumnStore::Chdb(path) => {
            let library = files.library.clone().unwrap_or_default();
            clickhouse::open(clickhouse::ClickhouseOptions::new(path.clone(), library)).await
        }
        ColumnStore::Server(options) => clickhouse::open_server(options.clone()).await,
    };
    Some((SinkKind::Clickhouse, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>)))
}

async fn open_graph(config: &Config, needed: Needed) -> OpenedSink {
    let opened = match config.graph.as_ref().filter(|_| needed.graph)? {
        GraphStore::Grafeo(path) => graph::open(graph::GraphOptions::at(path.clone())).await,
        GraphStore::Server(options) => graph::open_server(options.clone()).await,
    };
    Some((SinkKind::Graph, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>)))
}

async fn open_vectors(config: &Config, embedder: Option<&Worker>, gives_way: bool) -> OpenedSink {
    let (Some(engine), Some(embedder)) = (&config.vectors, embedder) else { return None };
    let (model, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
    let opened = match engine {
        VectorStore::Edge(path) => {
            let options = vectors::VectorsOptions { path: path.clone(), model, dimensions };
            if gives_way { vectors::open_giving_way(options).await } else { vectors::open(options).await }
        }
        VectorStore::Qdrant(options) => vectors::open_qdrant(options.clone(), model, dimensions).await,
        VectorStore::Pinecone(options) => vectors::open_pinecone(options.clone(), model, dimensions).await,
    };
    Some((SinkKind::Vectors, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>)))
}

fn failed_target(sink: SinkKind, target: &str, error: &dyn std::error::Error, stopped: bool) -> TargetReport {
    let mut report = TargetReport::new(sink, target);
    report.ok = false;
    report.stopped = stopped;
    report.error = Some(describe(error));
    report
}

fn nothing_read(table: &str, reason: &str, targets: Vec<TargetReport>) -> TableReport {
    TableReport {
        table: table.to_owned(),
        strategy: Strategy::Feed.name(),
        reason: reason.to_owned(),
        from: None,
        to: 0,
        records: RecordCounts::default(),
        targets,
    }
}
