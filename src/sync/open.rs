//! What a run works with: sinks, tables, the mapping compiled against them. Everything a command opens, it opens here.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};

use super::lane::describe;
use crate::changes::{ChangesError, OnGap, RecordCounts, Strategy, Table, TableOptions};
use crate::config::{self, Config, ConfigError, MissingTables, SinkUrl, shown};
use crate::embed::{self, EmbedError, Worker};
use crate::fetch::{FetchError, Paths};
use crate::mapping::file::TableEntry;
use crate::mapping::target::{Shape, Target};
use crate::mapping::{Compiled, MappingError, MappingFile, compile};
use crate::report::{TableReport, TargetReport};
use crate::sinks::quarantine::QuarantineError;
use crate::sinks::{Class, Sink, SinkError, SinkKind, clickhouse, graph, vectors};

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
    /// What makes vectors; none when embedding is off.
    pub embedder: Option<Arc<Worker>>,
    /// Memory and spilling.
    pub runtime: Arc<RuntimeEnv>,
}

/// The tables of one run, each pinned to a version, and what is made of them.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) tables: BTreeMap<String, Arc<Table>>,
    pub(super) missing: Vec<String>,
    /// Tables that are there and cannot be read.
    pub(super) failed: Vec<(String, ChangesError)>,
    pub(super) mapping: Compiled,
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

/// A memory pool of the configured size, that spills to the configured directory.
///
/// # Errors
/// When the directory cannot be used.
pub fn runtime(config: &Config) -> Result<Arc<RuntimeEnv>, OpenError> {
    let disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Directories(vec![config.spill_dir.clone()]));
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(config.memory_bytes)))
        .with_disk_manager_builder(disk)
        .build_arc()?;
    Ok(runtime)
}

impl Setup {
    /// Opens the sinks of a configuration; `files` are what they need besides ([`crate::fetch`]).
    ///
    /// # Errors
    /// [`OpenError`] naming what cannot be opened.
    pub async fn open(config: Config, files: &Paths, needed: Needed) -> Result<Self, OpenError> {
        let mapping = MappingFile::read(&config.mapping)?;
        let embedder = if config.vectors.is_some() && needed.vectors {
            embed::worker(&config.embed, config.precision, files.model_dir.as_deref())?.map(Arc::new)
        } else {
            None
        };
        let mut sinks: Vec<Arc<dyn Sink>> = Vec::new();
        let mut unopened = Vec::new();
        let mut take = |kind: SinkKind, opened: Result<Arc<dyn Sink>, SinkError>| match opened {
            Ok(sink) => sinks.push(sink),
            Err(error) => unopened.push((kind, error)),
        };
        if let Some(SinkUrl::Chdb(path)) = config.clickhouse.as_ref().filter(|_| needed.clickhouse) {
            let library = files.library.clone().unwrap_or_default();
            let options = clickhouse::ClickhouseOptions::new(path.clone(), library);
            let opened = clickhouse::open(options).await;
            take(SinkKind::Clickhouse, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>));
        }
        if let Some(SinkUrl::Grafeo(path)) = config.graph.as_ref().filter(|_| needed.graph) {
            let opened = graph::open(graph::GraphOptions::at(path.clone())).await;
            take(SinkKind::Graph, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>));
        }
        if let (Some(SinkUrl::Edge(path)), Some(embedder)) = (&config.vectors, &embedder) {
            let options = vectors::VectorsOptions {
                path: path.clone(),
                model: embedder.identity().to_owned(),
                dimensions: embedder.dimensions(),
            };
            let opened = vectors::open(options).await;
            take(SinkKind::Vectors, opened.map(|sink| Arc::new(sink) as Arc<dyn Sink>));
        }
        // A sink that another run holds, or that waits for a decision, stops the run; one that is broken does not.
        let stopped = unopened.iter().position(|(_, error)| sinks.is_empty() || error.class == Class::Stop);
        if let Some(first) = stopped {
            return Err(unopened.swap_remove(first).1.into());
        }
        let runtime = runtime(&config)?;
        Ok(Self { config, mapping, sinks, unopened, embedder, runtime })
    }

    /// Closes the sinks: everything accepted becomes durable.
    ///
    /// # Errors
    /// The first sink's error; the others are closed all the same.
    pub async fn close(&self) -> Result<(), SinkError> {
        let mut first = Ok(());
        for sink in &self.sinks {
            let closed = sink.close().await;
            if first.is_ok() {
                first = closed;
            }
        }
        first
    }

    pub(super) fn storage_options(&self) -> HashMap<String, String> {
        self.config.source.storage_options.clone().into_iter().collect()
    }

    /// The model's identity for targets that have one.
    pub(super) fn model_of(&self, target: &Target) -> Option<String> {
        match target.shape {
            Shape::Points { .. } => self.embedder.as_ref().map(|e| e.identity().to_owned()),
            _ => None,
        }
    }

    /// Vector length of what a sink stores for any target.
    pub(super) fn dimensions(&self) -> usize {
        self.embedder.as_ref().map_or(0, |e| e.dimensions())
    }

    fn table_options(&self, name: &str, url: String, key: &[String]) -> TableOptions {
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let mut options = TableOptions::new(name, url, &key);
        options.batch_rows = self.config.batch_rows;
        options.window_bytes = self.config.window_bytes;
        options.storage_options = self.storage_options();
        options.on_gap = match self.config.source.on_gap {
            config::OnGap::Snapshot => OnGap::Snapshot,
            config::OnGap::Stop => OnGap::Stop,
        };
        options
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
            targets.map(|(sink, t)| failed_target(sink, t, error, error.is_gap())).collect(),
        )
    }

    /// Opens the mapping's tables, pins their versions, and compiles the mapping against them.
    pub(super) async fn open_tables(&self) -> Result<Opened, OpenError> {
        let mut tables = BTreeMap::new();
        let (mut missing, mut failed) = (Vec::new(), Vec::new());
        for (name, entry) in &self.mapping.tables {
            let url = self.config.table_url(name).ok_or_else(|| OpenError::NoAddress(name.clone()));
            let skip = self.config.source.missing_tables == MissingTables::Skip;
            let url = match url {
                Err(_) if skip => {
                    missing.push(name.clone());
                    continue;
                }
                url => url?,
            };
            match Table::open(self.table_options(name, url.clone(), &entry.key), self.runtime.clone()).await {
                Ok(table) => {
                    tables.insert(name.clone(), table);
                }
                Err(ChangesError::NotATable { .. }) if skip => missing.push(name.clone()),
                Err(ChangesError::NotATable { .. }) => return Err(OpenError::Missing { table: name.clone(), url: shown(&url) }),
                Err(error @ (ChangesError::ColumnMissing { .. } | ChangesError::KeyType { .. })) => return Err(error.into()),
                Err(error) => failed.push((name.clone(), error)),
            }
        }
        let schemas = tables.iter().map(|(name, table)| (name.clone(), table.schema())).collect();
        let mapping = compile(&self.mapping, &self.config.mapping, &schemas).await?;
        let mut narrow = BTreeMap::new();
        for (name, table) in tables {
            if let Some(compiled) = mapping.tables.get(&name) {
                narrow.insert(name, Arc::new(table.select(compiled.columns.clone())?));
            }
        }
        Ok(Opened { tables: narrow, missing, failed, mapping })
    }

    /// Reads the mapping against the tables that can be reached and the engines' limits, and writes nothing. Answers what was not
    /// looked at.
    ///
    /// # Errors
    /// [`OpenError`] for the first thing that is wrong.
    pub async fn check(config: &Config) -> Result<Vec<String>, OpenError> {
        let mapping = MappingFile::read(&config.mapping)?;
        let setup = Self {
            runtime: runtime(config)?,
            config: config.clone(),
            mapping,
            sinks: Vec::new(),
            unopened: Vec::new(),
            embedder: None,
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
            match Table::open(setup.table_options(name, url.clone(), &entry.key), setup.runtime.clone()).await {
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
        }
        Ok(notes)
    }
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
