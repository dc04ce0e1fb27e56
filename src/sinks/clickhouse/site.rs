//! How tables are made where the sink keeps them: which database, on which cluster, with which engine. Pure.
//!
//! A cluster here is one shard of replicas. The engine's template is written once, for the tables of targets; the sink's own tables
//! are made by the same template with their own column in place of `_version, _deleted`.

use super::NAME;
use super::config::ServerOptions;
use super::encode::{DELETED, VERSION, qualified, quote};
use crate::sinks::SinkError;

/// What stands in an engine's template for the table's name.
const TABLE: &str = "{table}";
/// What every engine here is a kind of.
const REPLACING: &str = "ReplacingMergeTree";

/// Where tables are, and how they are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    /// The database.
    pub(super) database: String,
    /// Whether tables sync each insert to the disk.
    pub(super) fsync: bool,
    /// The cluster that statements run on.
    pub(super) cluster: Option<String>,
    /// The engine's template, up to the columns: `ReplicatedReplacingMergeTree('/tables/{table}', '{replica}', `.
    engine: Option<String>,
}

impl Site {
    /// A database of one engine.
    pub(super) fn new(database: impl Into<String>, fsync: bool) -> Self {
        Self { database: database.into(), fsync, cluster: None, engine: None }
    }

    /// What the configuration says of a server. A service that keeps its parts in object storage has no disk to sync.
    ///
    /// # Errors
    /// [`crate::sinks::Class::Stop`] when the engine cannot hold what the sink writes.
    pub(super) fn of_server(options: &ServerOptions, in_cloud: bool) -> Result<Self, SinkError> {
        let mut site = Self::new(&options.database, !in_cloud);
        site.cluster.clone_from(&options.cluster);
        if let Some(template) = &options.engine {
            site.engine = Some(before_columns(template)?);
            site.fsync = !in_cloud && !template.trim_start().starts_with("Shared");
        }
        Ok(site)
    }

    /// Whether several servers hold each row, so that an answer has to be theirs together.
    pub(super) fn is_replicated(&self) -> bool {
        self.engine.as_ref().is_some_and(|engine| engine.trim_start().starts_with("Replicated"))
    }

    /// What follows a name in a statement that makes or changes it.
    pub(super) fn on_cluster(&self) -> String {
        self.cluster.as_ref().map_or_else(String::new, |cluster| format!(" ON CLUSTER {}", quote(cluster)))
    }

    /// `database.table`, as a statement that makes or changes it names it.
    pub(super) fn made(&self, table: &str) -> String {
        format!("{}{}", qualified(&self.database, table), self.on_cluster())
    }

    /// The statement that makes the database.
    pub(super) fn create_database(&self) -> String {
        format!("CREATE DATABASE IF NOT EXISTS {}{}", quote(&self.database), self.on_cluster())
    }

    /// The engine of a table whose rows are replaced by these columns.
    pub(super) fn engine(&self, table: &str, columns: &[&str]) -> String {
        let columns = columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ");
        match &self.engine {
            Some(template) => format!("{}{columns})", template.replace(TABLE, table)),
            None => format!("{REPLACING}({columns})"),
        }
    }

    /// What follows a table's columns and order. With `fsync`, an insert is answered when it lies on the disk.
    pub(super) fn settings(&self) -> &'static str {
        if self.fsync { " SETTINGS fsync_after_insert = 1, fsync_part_directory = 1" } else { "" }
    }
}

/// The template without its last two columns and the parenthesis.
fn before_columns(template: &str) -> Result<String, SinkError> {
    let stop = || {
        SinkError::stop(
            NAME,
            format!(
                "`clickhouse.engine` is {template}: it has to be a kind of {REPLACING} whose last arguments are {VERSION}, {DELETED}, \
                 as in ReplicatedReplacingMergeTree('/clickhouse/tables/{{shard}}/{TABLE}', '{{replica}}', {VERSION}, {DELETED})"
            ),
        )
    };
    let name = template.trim().split('(').next().unwrap_or_default();
    let arguments = template.trim().strip_suffix(')').ok_or_else(stop)?;
    let last = |text: &str, column: &str| {
        let rest = text.trim_end().trim_end_matches('`').strip_suffix(column)?.trim_end_matches('`').trim_end().to_owned();
        rest.ends_with([',', '(']).then_some(rest)
    };
    let before = last(arguments, DELETED).and_then(|rest| last(rest.strip_suffix(',')?, VERSION));
    match before {
        Some(before) if name.ends_with(REPLACING) && name.chars().all(|c| c.is_ascii_alphanumeric()) => {
            Ok(if before.ends_with(',') { format!("{before} ") } else { before })
        }
        _ => Err(stop()),
    }
}

/// Whether a table that is there replaces rows as this sink needs it, whatever kind of server made it. `full` is the engine with its
/// arguments and everything after them, as the server tells it.
pub(super) fn replaces_rows(engine: &str, full: &str) -> bool {
    let end = [" PARTITION BY ", " PRIMARY KEY ", " ORDER BY "].iter().filter_map(|clause| full.find(clause)).min();
    let head = full[..end.unwrap_or(full.len())].trim_end();
    let plain = head.replace('`', "");
    engine.ends_with(REPLACING) && ["(", ", "].iter().any(|before| plain.ends_with(&format!("{before}{VERSION}, {DELETED})")))
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::sinks::Class;

    fn options(engine: Option<&str>, cluster: Option<&str>) -> ServerOptions {
        let mut options = ServerOptions::at(Url::parse("http://localhost:8123").unwrap());
        options.engine = engine.map(str::to_owned);
        options.cluster = cluster.map(str::to_owned);
        options
    }

    #[test]
    fn a_template_makes_all_tables() {
        for (template, target, checkpoint) in [
            (
                "ReplicatedReplacingMergeTree('/t/{shard}/{table}', '{replica}', _version, _deleted)",
                "ReplicatedReplacingMergeTree('/t/{shard}/item', '{replica}', `_version`, `_deleted`)",
                "ReplicatedReplacingMergeTree('/t/{shard}/item', '{replica}', `revision`)",
            ),
            (
                " ReplacingMergeTree( `_version`,_deleted ) ",
                "ReplacingMergeTree(`_version`, `_deleted`)",
                "ReplacingMergeTree(`revision`)",
            ),
        ] {
            let site = Site::of_server(&options(Some(template), None), false).unwrap();
            assert_eq!(site.engine("item", &[VERSION, DELETED]).trim(), target);
            assert_eq!(site.engine("item", &["revision"]).trim(), checkpoint);
        }
    }

    #[test]
    fn an_engine_that_keeps_all_versions_is_refused() {
        for template in [
            "MergeTree",
            "ReplacingMergeTree",
            "ReplacingMergeTree(_version)",
            "ReplacingMergeTree(_deleted, _version)",
            "ReplacingMergeTree(my_version, _deleted)",
            "SummingMergeTree(_version, _deleted)",
            "x; ReplacingMergeTree(_version, _deleted)",
            "",
        ] {
            let error = Site::of_server(&options(Some(template), None), false).unwrap_err();
            assert!(error.class == Class::Stop && error.message.contains("clickhouse.engine"), "{template}: {error}");
        }
    }

    #[test]
    fn tables_sync_where_there_is_a_disk() {
        let of = |engine, cloud| Site::of_server(&options(engine, None), cloud).unwrap();
        assert!(of(None, false).fsync);
        assert!(of(Some("ReplicatedReplacingMergeTree(_version, _deleted)"), false).fsync);
        assert!(!of(Some("SharedReplacingMergeTree(_version, _deleted)"), false).fsync);
        assert!(!of(None, true).fsync);
        assert!(of(Some("ReplicatedReplacingMergeTree(_version, _deleted)"), false).is_replicated());
        assert!(!of(None, false).is_replicated());
    }

    #[test]
    fn tables_of_all_servers_are_known() {
        for (engine, full, known) in [
            ("ReplacingMergeTree", "ReplacingMergeTree(_version, _deleted) ORDER BY id SETTINGS index_granularity = 8192", true),
            (
                "SharedReplacingMergeTree",
                "SharedReplacingMergeTree('/x', '{r}', _version, _deleted) PRIMARY KEY id ORDER BY id",
                true,
            ),
            (
                "ReplicatedReplacingMergeTree",
                "ReplicatedReplacingMergeTree('/x', '{r}', _version, _deleted) ORDER BY (a, b)",
                true,
            ),
            ("ReplacingMergeTree", "ReplacingMergeTree(_version) ORDER BY id COMMENT '(_version, _deleted)'", false),
            ("ReplacingMergeTree", "ReplacingMergeTree(a_version, _deleted) ORDER BY id", false),
            ("MergeTree", "MergeTree ORDER BY id", false),
        ] {
            assert_eq!(replaces_rows(engine, full), known, "{full}");
        }
    }
}
