//! The lake as one run sees it: the mapping's tables, opened and pinned to a version, and the mapping compiled against them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use datafusion::execution::runtime_env::RuntimeEnv;
use futures::future::join_all;

use super::OpenError;
use crate::changes::{ChangesError, OnGap, Table, TableOptions, newest_commit};
use crate::config::{self, Config, MissingTables, shown};
use crate::mapping::{Compiled, MappingFile, compile};
use crate::sinks::Sink;

/// How long a request to an object store is tried again: long enough for a store that is overloaded or changes its leader, short enough that
/// whoever waits learns of one that does not answer. delta-rs' own three minutes are for writers that cannot begin again; a run can.
const DEFAULT_RETRY_TIMEOUT: &str = "60s";

/// The tables of one run, each pinned to a version, and what is made of them.
#[derive(Debug)]
pub struct Opened {
    pub(super) began: Instant,
    pub(super) tables: BTreeMap<String, Arc<Table>>,
    pub(super) missing: Vec<String>,
    /// Tables that are there and cannot be read.
    pub(super) failed: Vec<(String, ChangesError)>,
    pub(super) mapping: Compiled,
}

/// What is needed to open the tables.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lake<'a> {
    pub(super) config: &'a Config,
    pub(super) mapping: &'a MappingFile,
    pub(super) runtime: &'a Arc<RuntimeEnv>,
}

/// The tables of a lake, each pinned to a version.
pub(super) struct Tables {
    began: Instant,
    tables: BTreeMap<String, Table>,
    missing: Vec<String>,
    failed: Vec<(String, ChangesError)>,
}

impl Lake<'_> {
    pub(super) fn table_options(self, name: &str, url: String, key: &[String]) -> TableOptions {
        let key: Vec<&str> = key.iter().map(String::as_str).collect();
        let mut options = TableOptions::new(name, url, &key);
        options.batch_rows = self.config.batch_rows;
        options.window_bytes = self.config.window_bytes;
        options.storage_options = storage_options(self.config);
        options.on_gap = match self.config.source.on_gap {
            config::OnGap::Snapshot => OnGap::Snapshot,
            config::OnGap::Stop => OnGap::Stop,
        };
        options
    }

    /// Opens the mapping's tables and pins their versions.
    pub(super) async fn tables(self) -> Result<Tables, OpenError> {
        let began = Instant::now();
        let mut tables = BTreeMap::new();
        let (mut missing, mut failed) = (Vec::new(), Vec::new());
        let skip = self.config.source.missing_tables == MissingTables::Skip;
        let mut found = Vec::new();
        for (name, entry) in &self.mapping.tables {
            match self.config.table_url(name) {
                Some(url) => found.push((name, url, entry)),
                None if skip => missing.push(name.clone()),
                None => return Err(OpenError::NoAddress(name.clone())),
            }
        }
        // All at once: each waits for its store, and one store that does not answer is waited for once.
        let opening: Vec<_> = found
            .iter()
            .map(|(name, url, entry)| Table::open(self.table_options(name, url.clone(), &entry.key), self.runtime.clone()))
            .collect();
        for ((name, url, _), opened) in found.iter().zip(join_all(opening).await) {
            match opened {
                Ok(table) => {
                    tables.insert((*name).clone(), table);
                }
                Err(ChangesError::NotATable { .. }) if skip => missing.push((*name).clone()),
                Err(ChangesError::NotATable { .. }) => {
                    return Err(OpenError::Missing { table: (*name).clone(), url: shown(url) });
                }
                Err(error @ (ChangesError::ColumnMissing { .. } | ChangesError::KeyType { .. })) => return Err(error.into()),
                Err(error) => failed.push(((*name).clone(), error)),
            }
        }
        Ok(Tables { began, tables, missing, failed })
    }

    /// Compiles the mapping against the tables.
    pub(super) async fn compile(self, tables: Tables) -> Result<Opened, OpenError> {
        let schemas = tables.tables.iter().map(|(name, table)| (name.clone(), table.schema())).collect();
        let mapping = compile(self.mapping, &self.config.mapping, &schemas).await?;
        let mut narrow = BTreeMap::new();
        for (name, table) in tables.tables {
            if let Some(compiled) = mapping.tables.get(&name) {
                narrow.insert(name, Arc::new(table.select(compiled.columns.clone())?));
            }
        }
        Ok(Opened { began: tables.began, tables: narrow, missing: tables.missing, failed: tables.failed, mapping })
    }

    /// Wakes the sinks of which a lane is not where its table is. What is not known of a table is no reason to wake.
    async fn wake(self, sinks: &[Arc<dyn Sink>], version: impl Fn(&str) -> Option<i64>) {
        for sink in sinks {
            // What cannot be read now is read again, and reported, when the lanes are made.
            let checkpoints = sink.checkpoints().await.unwrap_or_default();
            let rests = |(name, target): (&String, &str)| {
                let checkpoint = checkpoints.iter().find(|c| c.lane.table == *name && c.lane.target == target);
                let done = checkpoint.filter(|c| c.pending.is_none()).and_then(|c| c.version);
                version(name).is_none_or(|version| done == Some(version))
            };
            let entries =
                self.mapping.tables.iter().flat_map(|(name, entry)| entry.targets().into_iter().map(move |t| (name, t)));
            let mut targets = entries.filter(|(_, (kind, _))| *kind == sink.kind()).map(|(name, (_, target))| (name, target));
            if !targets.all(rests) {
                sink.wake();
            }
        }
    }

    /// Wakes sinks by what the names of files in local tables' logs say, before the tables are opened.
    pub(super) async fn wake_early(self, sinks: &[Arc<dyn Sink>]) {
        self.wake(sinks, |name| newest_commit(&self.config.table_url(name)?)).await;
    }

    /// Wakes sinks by the versions that the tables were opened at.
    pub(super) async fn wake_for(self, sinks: &[Arc<dyn Sink>], tables: &Tables) {
        self.wake(sinks, |name| tables.tables.get(name).map(Table::version)).await;
    }
}

/// How the lake's storage is reached, besides the environment. What the configuration says goes before the defaults.
pub(super) fn storage_options(config: &Config) -> HashMap<String, String> {
    let default = [("retry_timeout", DEFAULT_RETRY_TIMEOUT)].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let given = config.source.storage_options.iter().map(|(name, value)| (name.clone(), value.expose().to_owned()));
    default.into_iter().chain(given).collect()
}
