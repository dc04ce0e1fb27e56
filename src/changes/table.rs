//! An opened Delta table with its end version pinned: everything that is read in one run is read at or below it.

use std::collections::HashMap;
use std::sync::{Arc, Once};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use deltalake::kernel::transaction::{PROTOCOL, TransactionError};
use deltalake::table::builder::parse_table_uri;
use deltalake::table::state::DeltaTableState;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};

use super::error::ChangesError;
use super::log;
use crate::rows;

/// How many rows a batch has at most: small enough that a batch of wide records stays in the tens of megabytes, large enough
/// that the work for each batch does not count.
pub const DEFAULT_BATCH_ROWS: usize = 4096;

/// What to do when history is missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnGap {
    /// Go on: by the difference of two snapshots where that is possible, else by a full snapshot and a sweep.
    #[default]
    Snapshot,
    /// Stop with an error that names the gap.
    Stop,
}

/// Where a Silver table is and how it is to be read.
#[derive(Clone)]
pub struct TableOptions {
    /// The name by which mappings, reports and errors call it.
    pub name: String,
    /// A path, or an URL: `s3://`, `az://`, `gs://`, `file://`.
    pub url: String,
    /// The columns that identify a record.
    pub key: Vec<String>,
    /// The top-level columns that are needed; all when none. No other column is read, and a record that changed only in other
    /// columns counts as unchanged.
    pub columns: Option<Vec<String>>,
    /// Rows in a batch, at most: [`DEFAULT_BATCH_ROWS`].
    pub batch_rows: usize,
    /// Files of a window, in bytes, after which it is cut at the end of a commit; 0 never cuts it. A cut costs the records that change on both
    /// sides of it a second delivery, and is made only where the version between can still be read.
    pub window_bytes: u64,
    /// Options of the storage, beside the usual environment variables.
    pub storage_options: HashMap<String, String>,
    /// What to do when history is missing.
    pub on_gap: OnGap,
}

impl TableOptions {
    /// A table with this name, address and key, and the defaults.
    #[must_use]
    pub fn new(name: impl Into<String>, url: impl Into<String>, key: &[&str]) -> Self {
        Self {
            name: name.into(),
            url: url.into(),
            key: key.iter().map(|column| (*column).to_owned()).collect(),
            columns: None,
            batch_rows: DEFAULT_BATCH_ROWS,
            window_bytes: 0,
            storage_options: HashMap::new(),
            on_gap: OnGap::default(),
        }
    }
}

impl std::fmt::Debug for TableOptions {
    /// Without the address and the storage options, which hold secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableOptions").field("name", &self.name).field("key", &self.key).finish_non_exhaustive()
    }
}

/// An opened Delta table with its end version pinned. Cheap to clone.
#[derive(Clone)]
pub struct Table {
    pub(super) options: Arc<TableOptions>,
    pub(super) runtime: Arc<RuntimeEnv>,
    pub(super) delta: Arc<DeltaTable>,
    pub(super) schema: SchemaRef,
    id: Arc<str>,
    version: i64,
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("name", &self.options.name).field("version", &self.version).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens the table and pins its latest version. `runtime` brings the memory that sorts and joins may take and the place where
    /// they spill.
    ///
    /// # Errors
    /// When there is no table, its last commit is damaged, it cannot be read by delta-rs, or a key column is missing or cannot identify a
    /// record.
    pub async fn open(options: TableOptions, runtime: Arc<RuntimeEnv>) -> Result<Self, ChangesError> {
        register_stores();
        check_options(&options)?;
        let delta = load(&options).await?;
        let state = delta.snapshot().map_err(|source| open_error(&options, source))?;
        let version = signed(state.version());
        check_readable(&options, &delta, state)?;
        let id = Arc::from(state.metadata().id());
        let all = state.snapshot().arrow_schema();
        let schema = needed_schema(&options, version, &all)?;
        check_key(&options, &schema)?;
        Ok(Self { options: Arc::new(options), runtime, delta: Arc::new(delta), schema, id, version })
    }

    /// The same table, of which only these columns are read: a record that changed only in others counts as unchanged.
    ///
    /// # Errors
    /// When the table lacks one of them.
    pub fn select(self, columns: Vec<String>) -> Result<Self, ChangesError> {
        let mut options = self.options.as_ref().clone();
        options.columns = Some(columns);
        let state = self.delta.snapshot().map_err(|source| open_error(&options, source))?;
        let schema = needed_schema(&options, self.version, &state.snapshot().arrow_schema())?;
        Ok(Self { options: Arc::new(options), schema, ..self })
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The table's own id, `metaData.id`: another one means another table.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The pinned version.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.version
    }

    /// The columns that are read, at the pinned version, in [`rows::canonical_schema`].
    #[must_use]
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The columns that identify a record.
    #[must_use]
    pub fn key(&self) -> &[String] {
        &self.options.key
    }

    /// The key columns alone, in their own order.
    #[must_use]
    pub fn key_schema(&self) -> SchemaRef {
        let fields: Vec<_> = self.key().iter().filter_map(|name| self.schema.field_with_name(name).ok().cloned()).collect();
        Arc::new(Schema::new(fields))
    }

    /// The table at a version: the pinned one, or one loaded anew.
    pub(super) async fn at_version(&self, version: i64) -> Result<Arc<DeltaTable>, ChangesError> {
        if version == self.version {
            return Ok(self.delta.clone());
        }
        let failed = |source| ChangesError::Version { table: self.name().to_owned(), version, source: Box::new(source) };
        let wanted = u64::try_from(version).map_err(|_| failed(DeltaTableError::generic("a version is never negative")))?;
        let mut older = DeltaTable::new(self.delta.log_store());
        older.load_version(wanted).await.map_err(failed)?;
        Ok(Arc::new(older))
    }
}

pub(super) fn signed(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}

/// delta-rs knows the object stores only after this.
fn register_stores() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        deltalake::aws::register_handlers(None);
        deltalake::azure::register_handlers(None);
        deltalake::gcp::register_handlers(None);
    });
}

fn check_options(options: &TableOptions) -> Result<(), ChangesError> {
    let wrong = |message: &str| Err(ChangesError::Options { table: options.name.clone(), message: message.to_owned() });
    if options.key.is_empty() {
        return wrong("no key: name the columns that identify a record");
    }
    if options.batch_rows == 0 {
        return wrong("batch_rows is 0: a batch has at least one row");
    }
    let mut names = options.key.clone();
    names.sort();
    names.dedup();
    if names.len() < options.key.len() {
        return wrong("a key column is named twice");
    }
    Ok(())
}

async fn load(options: &TableOptions) -> Result<DeltaTable, ChangesError> {
    let url = parse_table_uri(&options.url)
        .map_err(|_| ChangesError::NotATable { table: options.name.clone(), url: shown(&options.url) })?;
    let builder = DeltaTableBuilder::from_url(url)
        .map_err(|source| open_error(options, source))?
        .with_storage_options(options.storage_options.clone());
    let mut table = builder.build().map_err(|source| open_error(options, source))?;
    if !table.verify_deltatable_existence().await.map_err(|source| open_error(options, source))? {
        return Err(ChangesError::NotATable { table: options.name.clone(), url: shown(&options.url) });
    }
    if let Err(source) = table.load().await {
        return Err(match log::damaged(&options.name, &table).await {
            Some(damaged) => damaged,
            None => unsupported(options, &source).unwrap_or_else(|| open_error(options, source)),
        });
    }
    Ok(table)
}

/// The table's protocol, where that is why it cannot be loaded. delta-rs does not hand out the type by which its kernel says so.
fn unsupported(options: &TableOptions, source: &DeltaTableError) -> Option<ChangesError> {
    const WORDS: [&str; 3] = ["Unsupported: ", "Invalid protocol action", "Max catalog version"];
    let DeltaTableError::KernelError(error) = source else { return None };
    let text = error.to_string();
    let said = WORDS.iter().any(|words| text.starts_with(words));
    let what = format!("its protocol is refused ({})", text.strip_prefix(WORDS[0]).unwrap_or(&text));
    said.then(|| ChangesError::Unsupported { table: options.name.clone(), what })
}

/// Whether delta-rs can read the rows of the table, of which it says nothing when it loads one.
fn check_readable(options: &TableOptions, delta: &DeltaTable, state: &DeltaTableState) -> Result<(), ChangesError> {
    if let Err(TransactionError::UnsupportedTableFeatures(features)) = PROTOCOL.can_read_from_protocol(state.protocol()) {
        let features: Vec<String> = features.iter().map(ToString::to_string).collect();
        let what = format!("it uses the table feature {}", features.join(" and "));
        return Err(ChangesError::Unsupported { table: options.name.clone(), what });
    }
    let root = delta.table_url().as_str();
    let elsewhere =
        state.log_data().iter().find_map(|file| log::absolute(&file.path()).filter(|at| !at.as_str().starts_with(root)));
    elsewhere.map_or(Ok(()), |file| {
        let (table, version) = (options.name.clone(), signed(state.version()));
        Err(ChangesError::Elsewhere { table, version, file: shown(file.as_str()) })
    })
}

fn open_error(options: &TableOptions, source: DeltaTableError) -> ChangesError {
    match source {
        DeltaTableError::NotATable(_) => ChangesError::NotATable { table: options.name.clone(), url: shown(&options.url) },
        other => ChangesError::Open { table: options.name.clone(), url: shown(&options.url), source: Box::new(other) },
    }
}

/// The address without a password.
fn shown(address: &str) -> String {
    let Ok(mut url) = url::Url::parse(address) else { return address.to_owned() };
    let hidden = url.set_password(None).is_ok() && url.set_username("").is_ok();
    url.set_query(None);
    if hidden || url.host().is_none() { url.to_string() } else { format!("{}:…", url.scheme()) }
}

fn needed_schema(options: &TableOptions, version: i64, all: &Schema) -> Result<SchemaRef, ChangesError> {
    let missing = |column: &str| ChangesError::ColumnMissing {
        table: options.name.clone(),
        version,
        column: column.to_owned(),
        has: all.fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>().join(", "),
    };
    let asked = options.key.iter().chain(options.columns.iter().flatten());
    for column in asked {
        all.field_with_name(column).map_err(|_| missing(column))?;
    }
    let needed =
        |name: &String| options.columns.as_ref().is_none_or(|columns| columns.contains(name) || options.key.contains(name));
    let fields: Vec<_> = all.fields().iter().filter(|field| needed(field.name())).cloned().collect();
    Ok(rows::canonical_schema(&Schema::new(fields)))
}

fn check_key(options: &TableOptions, schema: &Schema) -> Result<(), ChangesError> {
    for column in &options.key {
        let Ok(field) = schema.field_with_name(column) else { continue };
        let identifies = matches!(
            field.data_type(),
            DataType::Int8
                | DataType::Int16
                | DataType::Int32
                | DataType::Int64
                | DataType::Utf8
                | DataType::Binary
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
        );
        if !identifies {
            let data_type = field.data_type().to_string();
            return Err(ChangesError::KeyType { table: options.name.clone(), column: column.clone(), data_type });
        }
    }
    Ok(())
}
