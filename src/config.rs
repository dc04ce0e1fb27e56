//! The configuration: a YAML file, overlaid by the environment, held to be whole before anything is opened. It knows where
//! things are, not what they are.

mod engines;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::embed::{Choice, DEFAULT_PRECISION, Precision};
use crate::secret::Secret;
pub use engines::{ClickhouseEntry, ColumnStore, GraphEntry, GraphStore, VectorStore, VectorsEntry};

/// What the file may say. Every key has an environment variable: `DISTRIBUTARY_` and its path in capitals, joined by `_`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Distributary configuration")]
pub struct ConfigFile {
    /// Where the Silver tables are.
    #[serde(default)]
    pub source: SourceEntry,
    /// The mapping file, relative to this file, or else to the working directory.
    pub mapping: Option<PathBuf>,
    /// The column store; absent: not synced.
    pub clickhouse: Option<ClickhouseEntry>,
    /// The graph; absent: not synced.
    pub graph: Option<GraphEntry>,
    /// The vector index; absent: not synced.
    pub vectors: Option<VectorsEntry>,
    /// The embedding model: `all-MiniLM-L6-v2` (the default), `hash` (a cheap deterministic one, for trying everything else; `hash-32` is a shorter
    /// one) or `off` (no vectors). Collections that are there already keep the model that they were made with: `distributary reembed` changes it.
    pub embed: Option<String>,
    /// What the model computes in: `bf16` (the default, the fastest that keeps every vector within a cosine of 0.999), `f32` or `int8`. Part of
    /// the model's identity: another precision is another model to what is stored.
    pub precision: Option<String>,
    /// Where records go that cannot be delivered.
    #[serde(default)]
    pub quarantine: QuarantineEntry,
    /// What a run may use.
    #[serde(default)]
    pub limits: LimitsEntry,
    /// Files that are otherwise fetched into the cache.
    #[serde(default)]
    pub files: FilesEntry,
}

/// Where the Silver tables are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceEntry {
    /// A directory or URL that holds every table as `<root>/<name>`.
    pub root: Option<String>,
    /// Directories or URLs of single tables, by name; they go before `root`.
    #[serde(default)]
    pub tables: BTreeMap<String, String>,
    /// Options for the object store, as delta-rs names them. The usual environment variables are read without being named here.
    #[serde(default)]
    pub storage_options: BTreeMap<String, Secret>,
    /// What to do when the history between the checkpoint and now cannot be read whole.
    #[serde(default)]
    pub on_gap: OnGap,
    /// What to do when a table of the mapping is not in the lake.
    #[serde(default)]
    pub missing_tables: MissingTables,
}

/// What to do when the history between the checkpoint and now cannot be read whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Compare the whole table with what the sinks hold.
    #[default]
    Snapshot,
    /// Stop and say what is missing.
    Stop,
}

/// What to do when a table of the mapping is not in the lake.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MissingTables {
    /// Stop and name it.
    #[default]
    Stop,
    /// Report it and go on with the others.
    Skip,
}

/// Where records go that cannot be delivered.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct QuarantineEntry {
    /// A Delta table; `data/quarantine` beside this file when absent.
    pub url: Option<String>,
    /// More entries than this mean that the mapping or a source is wrong as a whole: the lane stops.
    pub entries_max: Option<usize>,
}

/// What a run may use.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LimitsEntry {
    /// Memory for sorting and joining before it spills to disk, in MiB.
    pub memory_mib: Option<u64>,
    /// Where to spill; the system's temporary directory when absent.
    pub spill_dir: Option<PathBuf>,
    /// Records in one batch.
    pub batch_rows: Option<usize>,
    /// Bytes of changed files that one window of the feed may read, in MiB; more are read as several windows.
    pub window_mib: Option<u64>,
    /// The longest text that is embedded, in KiB; a longer one sends its record to quarantine.
    pub text_kib: Option<u64>,
}

/// Files that are otherwise fetched into the cache.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilesEntry {
    /// The ClickHouse engine as a library, `libchdb.so`.
    pub libchdb: Option<PathBuf>,
    /// The directory of the files of the model that `embed` names.
    pub model: Option<PathBuf>,
    /// The directories of other models' files, by name: of a model that a collection is made anew by, or was made by.
    #[serde(default)]
    pub models: BTreeMap<String, PathBuf>,
    /// Where fetched files are kept.
    pub cache: Option<PathBuf>,
    /// Never reach out for a file that is missing.
    pub offline: Option<bool>,
}

/// A configuration that was found whole. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from.
    pub path: PathBuf,
    /// Where the Silver tables are.
    pub source: SourceEntry,
    /// The mapping file.
    pub mapping: PathBuf,
    /// The column store.
    pub clickhouse: Option<ColumnStore>,
    /// The graph.
    pub graph: Option<GraphStore>,
    /// The vector index.
    pub vectors: Option<VectorStore>,
    /// The embedding model.
    pub embed: Choice,
    /// What it computes in.
    pub precision: Precision,
    /// The quarantine table.
    pub quarantine: String,
    /// The most entries that it takes.
    pub quarantine_entries_max: usize,
    /// Memory for sorting and joining, in bytes.
    pub memory_bytes: usize,
    /// Where to spill.
    pub spill_dir: PathBuf,
    /// Records in one batch.
    pub batch_rows: usize,
    /// Bytes of changed files in one window.
    pub window_bytes: u64,
    /// The longest text that is embedded, in bytes.
    pub text_bytes: u64,
    /// Files given by path, and the cache.
    pub files: FilesEntry,
}

/// 1 GiB sorts a window of a few hundred thousand wide records without touching the disk.
const DEFAULT_MEMORY_MIB: u64 = 1024;
/// Wide nested records of 10 KB make batches of 40 MB; several are under way at a time.
const DEFAULT_BATCH_ROWS: usize = 4096;
/// Keeps the actions and footers of one window small, and a whole day's crawl within one.
const DEFAULT_WINDOW_MIB: u64 = 4096;
/// A megabyte of text is a thousand chunks; more is seldom meant.
const DEFAULT_TEXT_KIB: u64 = 1024;
/// So many bad records are a bad mapping.
const DEFAULT_QUARANTINE_ENTRIES: usize = 100_000;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {message}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong, naming the key, and what would help.
    pub message: String,
}

impl Config {
    /// Reads the file, overlays the environment and holds the result to be whole. Opens nothing.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key or the variable.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::read_with(path, |name| std::env::var(name).ok())
    }

    /// [`Config::read`] with the environment given.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key or the variable.
    pub fn read_with(path: &Path, environment: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let fail = |message: String| ConfigError { path: path.to_owned(), message };
        let text = std::fs::read_to_string(path).map_err(|e| {
            fail(format!("cannot read the configuration: {e}; write one (README, \"Your own tables\") or name it with --config"))
        })?;
        let file: ConfigFile = serde_saphyr::from_str(&text).map_err(|e| fail(first_line(&e.to_string())))?;
        let file = overlay(file, environment).map_err(fail)?;
        Self::whole(path, file).map_err(fail)
    }

    fn whole(path: &Path, file: ConfigFile) -> Result<Self, String> {
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let base = std::path::absolute(base).map_err(|e| format!("cannot tell where it is: {e}"))?;
        let source = source(file.source, &base)?;
        let mapping = file.mapping.ok_or("`mapping` is missing: name the mapping file")?;
        let limits = file.limits;
        let embed = match file.embed {
            Some(text) => text.parse().map_err(|e: crate::embed::EmbedError| format!("`embed`: {e}"))?,
            None => Choice::default(),
        };
        let precision = match file.precision {
            Some(text) => text.parse().map_err(|e| format!("`precision`: {e}"))?,
            None => DEFAULT_PRECISION,
        };
        let clickhouse = file.clickhouse.map(|entry| entry.engine(&base)).transpose()?;
        let graph = file.graph.map(|entry| entry.engine(&base)).transpose()?;
        let vectors = file.vectors.map(|entry| entry.engine(&base)).transpose()?;
        if clickhouse.is_none() && graph.is_none() && vectors.is_none() {
            return Err("no sink is named: add `clickhouse`, `graph` or `vectors` with a `url`".to_owned());
        }
        let quarantine = file.quarantine.url.unwrap_or_else(|| "data/quarantine".to_owned());
        let batch_rows = limits.batch_rows.unwrap_or(DEFAULT_BATCH_ROWS);
        if batch_rows == 0 {
            return Err("`limits.batch_rows` must be at least 1".to_owned());
        }
        let files = FilesEntry {
            libchdb: file.files.libchdb.map(|p| base.join(p)),
            model: file.files.model.map(|p| base.join(p)),
            models: file.files.models.into_iter().map(|(name, p)| (name, base.join(p))).collect(),
            cache: file.files.cache.map(|p| base.join(p)),
            offline: file.files.offline,
        };
        Ok(Self {
            path: path.to_owned(),
            source,
            mapping: mapping_file(&base, mapping),
            clickhouse,
            graph,
            vectors,
            embed,
            precision,
            quarantine: location(&quarantine, &base),
            quarantine_entries_max: file.quarantine.entries_max.unwrap_or(DEFAULT_QUARANTINE_ENTRIES),
            memory_bytes: mebibytes(limits.memory_mib.unwrap_or(DEFAULT_MEMORY_MIB))?,
            spill_dir: limits.spill_dir.map_or_else(std::env::temp_dir, |p| base.join(p)),
            batch_rows,
            window_bytes: limits.window_mib.unwrap_or(DEFAULT_WINDOW_MIB).saturating_mul(1 << 20),
            text_bytes: limits.text_kib.unwrap_or(DEFAULT_TEXT_KIB).saturating_mul(1 << 10),
            files,
        })
    }

    /// Where a Silver table is: under `source.tables`, else under `source.root`.
    #[must_use]
    pub fn table_url(&self, table: &str) -> Option<String> {
        if let Some(url) = self.source.tables.get(table) {
            return Some(url.clone());
        }
        self.source.root.as_ref().map(|root| format!("{}/{table}", root.trim_end_matches('/')))
    }
}

/// What was expected in place of a value, without the value, which may be a secret.
fn wanted(message: &str) -> String {
    message.rsplit_once("expected ").map_or_else(String::new, |(_, expected)| format!(", expected {expected}"))
}

/// What is wrong and where, without the lines around it, which may hold a secret.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

/// The mapping beside the configuration, or in the working directory: a mapping often lies with the program, the configuration with
/// the data.
fn mapping_file(base: &Path, mapping: PathBuf) -> PathBuf {
    let beside = base.join(&mapping);
    if beside.exists() || !mapping.exists() { beside } else { mapping }
}

fn source(mut source: SourceEntry, base: &Path) -> Result<SourceEntry, String> {
    if source.root.is_none() && source.tables.is_empty() {
        return Err("`source` names no tables: add `root` or `tables`".to_owned());
    }
    source.root = source.root.map(|root| location(&root, base));
    source.tables = source.tables.into_iter().map(|(name, url)| (name, location(&url, base))).collect();
    Ok(source)
}

/// An address without what it may carry of a password: for messages.
#[must_use]
pub fn shown(address: &str) -> String {
    match address.split_once("://") {
        Some((scheme, rest)) => {
            let authority = rest.split('/').next().unwrap_or_default();
            let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
            let path = rest.get(authority.len()..).unwrap_or_default();
            format!("{scheme}://{host}{}", path.split('?').next().unwrap_or_default())
        }
        None => address.to_owned(),
    }
}

/// A URL as it is, a path made absolute.
fn location(text: &str, base: &Path) -> String {
    if text.contains("://") { text.to_owned() } else { base.join(text).display().to_string() }
}

fn mebibytes(count: u64) -> Result<usize, String> {
    usize::try_from(count.saturating_mul(1 << 20)).map_err(|_| format!("`limits.memory_mib`: {count} is too many"))
}

/// Overlays the environment's variables over the file's values.
fn overlay(file: ConfigFile, environment: impl Fn(&str) -> Option<String>) -> Result<ConfigFile, String> {
    let mut value = serde_json::to_value(&file).map_err(|e| e.to_string())?;
    let mut changed = None;
    for option in options() {
        let name = variable(&option.path);
        let Some(text) = environment(&name) else { continue };
        let given = if option.text {
            Value::String(text)
        } else {
            serde_json::from_str(&text).map_err(|e| format!("the environment variable {name}: {e}"))?
        };
        set(&mut value, &option.path, given);
        changed = Some(name);
    }
    let Some(last) = changed else { return Ok(file) };
    serde_json::from_value(value).map_err(|e| {
        let wanted = wanted(&e.to_string());
        format!("with the environment variable {last} and its like: a value is of the wrong kind{wanted}")
    })
}

fn set(value: &mut Value, path: &[String], given: Value) {
    let Some((last, parents)) = path.split_last() else { return };
    let mut at = value;
    for parent in parents {
        if !at.get(parent).is_some_and(Value::is_object) {
            at[parent] = Value::Object(serde_json::Map::new());
        }
        at = &mut at[parent];
    }
    at[last] = given;
}

/// One option of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigOption {
    /// Where it stands in the file.
    pub path: Vec<String>,
    /// Whether its value is text; anything else is given to the environment as JSON.
    pub text: bool,
    /// What it says.
    pub description: String,
}

/// The environment variable of an option.
#[must_use]
pub fn variable(path: &[String]) -> String {
    format!("DISTRIBUTARY_{}", path.join("_").to_uppercase())
}

/// Every option of the file, from its JSON Schema.
#[must_use]
pub fn options() -> Vec<ConfigOption> {
    let schema = json_schema();
    let mut found = Vec::new();
    collect(&schema, &schema, &mut Vec::new(), &mut found);
    found
}

/// The JSON Schema of the configuration file, for editors.
#[must_use]
pub fn json_schema() -> Value {
    schemars::schema_for!(ConfigFile).to_value()
}

fn collect(root: &Value, at: &Value, path: &mut Vec<String>, found: &mut Vec<ConfigOption>) {
    let described = at.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let resolved = resolve(root, at);
    let Some(properties) = resolved.get("properties").and_then(Value::as_object) else {
        let text = is_text(resolved);
        found.push(ConfigOption { path: path.clone(), text, description: described });
        return;
    };
    for (name, property) in properties {
        path.push(name.clone());
        collect(root, property, path, found);
        path.pop();
    }
}

/// Follows references and takes the branch that is not null.
fn resolve<'a>(root: &'a Value, at: &'a Value) -> &'a Value {
    if let Some(pointer) = at.get("$ref").and_then(Value::as_str) {
        return root.pointer(pointer.trim_start_matches('#')).map_or(at, |found| resolve(root, found));
    }
    for union in ["anyOf", "oneOf"] {
        let branches = at.get(union).and_then(Value::as_array);
        let branch = branches.and_then(|all| all.iter().find(|b| b.get("type").and_then(Value::as_str) != Some("null")));
        if let Some(branch) = branch {
            return resolve(root, branch);
        }
    }
    at
}

fn is_text(schema: &Value) -> bool {
    match schema.get("type") {
        Some(Value::String(of)) => of == "string",
        Some(Value::Array(of)) => of.iter().any(|t| t == "string"),
        _ => schema.get("const").is_some_and(Value::is_string) || schema.get("enum").is_some(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALLEST: &str =
        "source: {root: ./silver}\nmapping: mappings/tmdb.yaml\nclickhouse: {url: \"chdb:./data/clickhouse\"}\n";

    fn read(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("distributary.yaml");
        std::fs::write(&path, text).unwrap();
        Config::read_with(&path, |name| environment.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn the_smallest_file_is_enough() {
        let config = read(SMALLEST, &[]).unwrap();
        assert!(config.table_url("movies").unwrap().ends_with("silver/movies"));
        assert!(matches!(config.clickhouse, Some(ColumnStore::Chdb(_))));
        assert!(config.graph.is_none());
        assert_eq!(config.batch_rows, DEFAULT_BATCH_ROWS);
    }

    #[test]
    fn unknown_keys_are_errors_with_a_place() {
        let error = read(&format!("{SMALLEST}clickhose: 1\n"), &[]).unwrap_err().to_string();
        assert!(error.contains("clickhose") && error.contains("line 4"), "{error}");
    }

    #[test]
    fn every_option_has_a_variable_and_it_wins() {
        let names: Vec<String> = options().iter().map(|o| variable(&o.path)).collect();
        for expected in
            ["DISTRIBUTARY_CLICKHOUSE_URL", "DISTRIBUTARY_SOURCE_ON_GAP", "DISTRIBUTARY_LIMITS_BATCH_ROWS", "DISTRIBUTARY_EMBED"]
        {
            assert!(names.iter().any(|n| n == expected), "{expected} is not among {names:?}");
        }
        let environment = [
            ("DISTRIBUTARY_GRAPH_URL", "grafeo:g"),
            ("DISTRIBUTARY_LIMITS_BATCH_ROWS", "7"),
            ("DISTRIBUTARY_SOURCE_ON_GAP", "stop"),
            ("DISTRIBUTARY_EMBED", "off"),
        ];
        let config = read(SMALLEST, &environment).unwrap();
        assert!(matches!(config.graph, Some(GraphStore::Grafeo(_))));
        assert_eq!((config.batch_rows, config.source.on_gap, config.embed), (7, OnGap::Stop, Choice::Off));
        let error = read(SMALLEST, &[("DISTRIBUTARY_LIMITS_BATCH_ROWS", "many")]).unwrap_err().to_string();
        assert!(error.contains("DISTRIBUTARY_LIMITS_BATCH_ROWS"), "{error}");
    }

    #[test]
    fn an_address_is_shown_without_its_password() {
        assert_eq!(shown("s3://key:PW@bucket/x?token=PW"), "s3://bucket/x");
        assert_eq!(shown("file:///srv/x"), "file:///srv/x");
        assert_eq!(shown("silver/x"), "silver/x");
    }

    #[test]
    fn off_is_a_word_here() {
        assert_eq!(read(&format!("{SMALLEST}embed: off\n"), &[]).unwrap().embed, Choice::Off);
    }

    #[test]
    fn what_is_missing_is_named() {
        for (text, named) in [
            ("mapping: m.yaml\nclickhouse: {url: \"chdb:x\"}\n", "`source`"),
            ("source: {root: s}\nclickhouse: {url: \"chdb:x\"}\n", "`mapping`"),
            ("source: {root: s}\nmapping: m.yaml\n", "no sink"),
            ("source: {root: s}\nmapping: m.yaml\ngraph: {url: \"chdb:x\"}\n", "grafeo:PATH"),
            ("source: {root: s}\nmapping: m.yaml\nclickhouse: {url: \"clickhouse://u:secret@h\"}\n", "https://HOST"),
            ("source: {root: s}\nmapping: m.yaml\nclickhouse: {url: \"http://u:secret@h\"}\n", "DISTRIBUTARY_CLICKHOUSE_"),
            ("source: {root: s}\nmapping: m.yaml\nclickhouse: {url: \"chdb:x\", user: secret}\n", "`clickhouse.user`"),
            ("source: {root: s}\nmapping: m.yaml\ngraph: {url: \"bolt://h\", password_file: none}\n", "`graph.password_file`"),
        ] {
            let error = read(text, &[]).unwrap_err().to_string();
            assert!(error.contains(named) && !error.contains("secret"), "{text}: {error}");
        }
    }
}
