//! Records that could not be delivered, in a Delta table that any engine can query. It knows no sink and no mapping: it keeps what
//! it is told, and forgets what it is told to.
//!
//! The table is small (it is capped), so it is held whole, and each save replaces it in one commit. The table is made by the first save
//! that has something to keep.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, TimeUnit};
use deltalake::kernel::transaction::{CommitProperties, TransactionError};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError};
use futures::TryStreamExt as _;
use url::Url;

/// The lane of an entry that stands for all lanes of its table.
pub const ALL_LANES: &str = "*";

/// Entries that are kept at most. So many bad records are no matter of single records, and the table is held in memory.
pub const DEFAULT_ENTRIES_MAX: usize = 100_000;

const TEXT_COLUMNS: [&str; 7] = ["table", "key", "lane", "reason", "message", "payload", "hash"];

/// A record that could not be delivered, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The Silver table.
    pub table: String,
    /// The Silver key as a JSON object. With a null in it, the record is told apart by its hash.
    pub key: String,
    /// The lane's name, or [`ALL_LANES`].
    pub lane: String,
    /// The commit version at which it was met.
    pub commit_version: i64,
    /// Why, as a code in snake case.
    pub reason: String,
    /// Why, in words.
    pub message: String,
    /// The record as JSON.
    pub payload: String,
    /// Hash of its content.
    pub hash: String,
    /// When it was put here, RFC 3339.
    pub quarantined_at: String,
}

/// Table, key, lane, and the hash of a record that has no key.
type Identity = (String, String, String, Option<String>);

impl Entry {
    fn identity(&self) -> Identity {
        let hash = has_null(&self.key).then(|| self.hash.clone());
        (self.table.clone(), self.key.clone(), self.lane.clone(), hash)
    }

    /// Whether it says the same: everything but when.
    fn says(&self, other: &Self) -> bool {
        self.identity() == other.identity()
            && (&self.reason, &self.message, &self.payload, &self.hash)
                == (&other.reason, &other.message, &other.payload, &other.hash)
    }
}

/// Whether a key identifies nothing: it is no object, or has nothing in it or a null.
fn has_null(key: &str) -> bool {
    match serde_json::from_str(key) {
        Ok(serde_json::Value::Object(columns)) => columns.is_empty() || columns.values().any(serde_json::Value::is_null),
        _ => true,
    }
}

/// Why the quarantine cannot be read, filled or saved.
#[derive(Debug, thiserror::Error)]
pub enum QuarantineError {
    /// The address is no path and no URL.
    #[error("quarantine address '{url}': {reason}; give a path or a URL such as s3://bucket/quarantine")]
    Address {
        /// The address.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// There is a Delta table, and it is no quarantine.
    #[error("{url} is a Delta table but no quarantine: {reason}; give another address, it is not touched")]
    Foreign {
        /// The address.
        url: String,
        /// What it lacks.
        reason: String,
    },
    /// More records are bad than single bad records would explain.
    #[error(
        "more than {entries_max} records are in quarantine, the last of table {table} because of {reason}: the mapping or the source is \
         broken as a whole. Mend it, or raise the limit if so many are expected"
    )]
    Full {
        /// The limit.
        entries_max: usize,
        /// The table of the record that was one too many.
        table: String,
        /// Its reason.
        reason: String,
    },
    /// An entry cannot be a row.
    #[error("quarantine entry of table {table}: {reason}")]
    Entry {
        /// The Silver table.
        table: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Another process saves at the same time, again and again.
    #[error("{url} is being changed by another process: run again when it is done")]
    Conflict {
        /// The address.
        url: String,
    },
    /// The table cannot be read or written.
    #[error(
        "cannot {action} the quarantine {url}: check the address, who may read and write there, and for an object store the network and the \
         credentials in the environment"
    )]
    Table {
        /// What was tried.
        action: &'static str,
        /// The address.
        url: String,
        /// The cause.
        #[source]
        source: Box<DeltaTableError>,
    },
}

/// The quarantine: what the table holds, with what was changed since.
pub struct Quarantine {
    place: Place,
    storage_options: HashMap<String, String>,
    entries_max: usize,
    table: Option<DeltaTable>,
    entries: BTreeMap<Identity, Entry>,
    /// What differs from the table: an entry to keep, or none where one is to go.
    changes: BTreeMap<Identity, Option<Entry>>,
}

impl fmt::Debug for Quarantine {
    /// Without the storage options, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, changes) = (self.entries.len(), self.changes.len());
        f.debug_struct("Quarantine")
            .field("place", &self.place)
            .field("entries", &entries)
            .field("changes", &changes)
            .finish_non_exhaustive()
    }
}

/// Where the table is.
#[derive(Debug, Clone)]
struct Place {
    url: Url,
    /// The directory, if it is on this machine.
    path: Option<PathBuf>,
}

impl Place {
    fn new(address: &str) -> Result<Self, QuarantineError> {
        let wrong = |reason: &str| QuarantineError::Address { url: address.to_owned(), reason: reason.to_owned() };
        if !address.contains("://") {
            let path = std::path::absolute(address).map_err(|e| wrong(&e.to_string()))?;
            let url = Url::from_directory_path(&path).map_err(|()| wrong("it is no path"))?;
            return Ok(Self { url, path: Some(path) });
        }
        let url = Url::parse(address).map_err(|e| wrong(&e.to_string()))?;
        let path = match url.scheme() {
            "file" => Some(url.to_file_path().map_err(|()| wrong("it is no path on this machine"))?),
            _ => None,
        };
        Ok(Self { url, path })
    }

    /// The address without user and password.
    fn shown(&self) -> String {
        match &self.path {
            Some(path) => path.display().to_string(),
            None => format!("{}://{}{}", self.url.scheme(), self.url.host_str().unwrap_or_default(), self.url.path()),
        }
    }

    fn failed(&self, action: &'static str, source: DeltaTableError) -> QuarantineError {
        QuarantineError::Table { action, url: self.shown(), source: Box::new(source) }
    }

    fn foreign(&self, reason: impl Into<String>) -> QuarantineError {
        QuarantineError::Foreign { url: self.shown(), reason: reason.into() }
    }
}

impl Quarantine {
    /// Reads the quarantine at a path or URL. One that is not there is empty, and is not made yet.
    ///
    /// # Errors
    /// [`QuarantineError`] when the address is wrong, the table cannot be read, or is another table.
    pub async fn open(url: &str, storage_options: HashMap<String, String>) -> Result<Self, QuarantineError> {
        let place = Place::new(url)?;
        let mut quarantine = Self {
            place,
            storage_options,
            entries_max: DEFAULT_ENTRIES_MAX,
            table: None,
            entries: BTreeMap::new(),
            changes: BTreeMap::new(),
        };
        quarantine.load().await?;
        Ok(quarantine)
    }

    /// The same with another limit of entries.
    #[must_use]
    pub fn with_entries_max(mut self, entries_max: usize) -> Self {
        self.entries_max = entries_max;
        self
    }

    /// All entries, in order of table, key and lane.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The keys of the table's records that the lane could not deliver, those of all lanes among them.
    #[must_use]
    pub fn keys(&self, table: &str, lane: &str) -> HashSet<String> {
        let of_lane = |entry: &&Entry| entry.table == table && (entry.lane == lane || entry.lane == ALL_LANES);
        self.entries.values().filter(of_lane).map(|entry| entry.key.clone()).collect()
    }

    /// Keeps an entry, in the place of one with the same table, key and lane (and hash, where the key has a null). One that says the same
    /// stays as it is.
    ///
    /// # Errors
    /// [`QuarantineError::Full`] when there are as many entries as there may be.
    pub fn put(&mut self, entry: Entry) -> Result<(), QuarantineError> {
        let identity = entry.identity();
        match self.entries.get(&identity) {
            Some(old) if old.says(&entry) => return Ok(()),
            None if self.entries.len() >= self.entries_max => {
                return Err(QuarantineError::Full { entries_max: self.entries_max, table: entry.table, reason: entry.reason });
            }
            _ => {}
        }
        self.changes.insert(identity.clone(), Some(entry.clone()));
        self.entries.insert(identity, entry);
        Ok(())
    }

    /// Forgets the lane's entries of a record.
    pub fn resolve(&mut self, table: &str, lane: &str, key: &str) {
        self.forget(|entry| entry.table == table && entry.lane == lane && entry.key == key);
    }

    /// Forgets the entries, of all lanes, of a record without a key.
    pub fn resolve_hash(&mut self, table: &str, hash: &str) {
        self.forget(|entry| entry.table == table && entry.hash == hash && has_null(&entry.key));
    }

    fn forget(&mut self, is_meant: impl Fn(&Entry) -> bool) {
        let gone: Vec<Identity> =
            self.entries.iter().filter(|(_, entry)| is_meant(entry)).map(|(identity, _)| identity.clone()).collect();
        for identity in gone {
            self.entries.remove(&identity);
            self.changes.insert(identity, None);
        }
    }

    /// Writes what was changed, in one commit. If another process has changed the table since it was read, its changes are taken in first;
    /// where both changed one entry, this one's holds. Nothing changed is nothing written.
    ///
    /// # Errors
    /// [`QuarantineError`]; the changes are kept, so that it can be called again.
    pub async fn save(&mut self) -> Result<(), QuarantineError> {
        if self.changes.is_empty() || (self.table.is_none() && self.entries.is_empty()) {
            self.changes.clear();
            return Ok(());
        }
        match self.write().await {
            Err(QuarantineError::Conflict { .. }) => {
                self.load().await?;
                self.write().await
            }
            done => done,
        }
    }

    /// Reads the table as it is now, and applies the changes to it.
    async fn load(&mut self) -> Result<(), QuarantineError> {
        if self.place.path.as_ref().is_some_and(|path| !path.join("_delta_log").is_dir()) {
            return Ok(());
        }
        let mut table = self.builder().and_then(DeltaTableBuilder::build).map_err(|e| self.place.failed("open", e))?;
        match table.load().await {
            Ok(()) => {}
            Err(DeltaTableError::NotATable(_)) => return Ok(()),
            Err(e) => return Err(self.place.failed("open", e)),
        }
        let (table, batches) = table.scan_table().await.map_err(|e| self.place.failed("read", e))?;
        self.check_schema(&table)?;
        let batches = batches.map_err(DeltaTableError::from).try_collect::<Vec<_>>().await;
        self.entries.clear();
        for batch in batches.map_err(|e| self.place.failed("read", e))? {
            for entry in decode(&batch).map_err(|reason| self.place.foreign(reason))? {
                self.entries.insert(entry.identity(), entry);
            }
        }
        for (identity, change) in &self.changes {
            match change {
                Some(entry) => self.entries.insert(identity.clone(), entry.clone()),
                None => self.entries.remove(identity),
            };
        }
        self.table = Some(table);
        Ok(())
    }

    fn builder(&self) -> Result<DeltaTableBuilder, DeltaTableError> {
        Ok(DeltaTableBuilder::from_url(self.place.url.clone())?.with_storage_options(self.storage_options.clone()))
    }

    fn check_schema(&self, table: &DeltaTable) -> Result<(), QuarantineError> {
        let snapshot = table.snapshot().map_err(|e| self.place.failed("read", e))?;
        let schema = snapshot.schema();
        for field in schema_of_table().fields() {
            if schema.field(field.name()).is_none() {
                return Err(self.place.foreign(format!("it has no column {}", field.name())));
            }
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), QuarantineError> {
        let batch = encode(self.entries.values())?;
        let table = match &self.table {
            Some(table) => table.clone(),
            None => {
                if let Some(path) = &self.place.path {
                    std::fs::create_dir_all(path).map_err(|e| self.place.failed("make", e.into()))?;
                }
                self.builder().and_then(DeltaTableBuilder::build).map_err(|e| self.place.failed("make", e))?
            }
        };
        // Without retries a commit of somebody else is an error, and so is never overwritten unseen.
        let commit = CommitProperties::default().with_max_retries(0);
        let written = table.write([batch]).with_save_mode(SaveMode::Overwrite).with_commit_properties(commit).await;
        self.table = Some(written.map_err(|e| {
            if is_conflict(&e) { QuarantineError::Conflict { url: self.place.shown() } } else { self.place.failed("write", e) }
        })?);
        self.changes.clear();
        Ok(())
    }
}

fn is_conflict(error: &DeltaTableError) -> bool {
    match error {
        DeltaTableError::VersionAlreadyExists(_) => true,
        DeltaTableError::Transaction { source } => matches!(
            source,
            TransactionError::VersionAlreadyExists(_)
                | TransactionError::CommitConflict(_)
                | TransactionError::MaxCommitAttempts(_)
        ),
        _ => false,
    }
}

fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn schema_of_table() -> Schema {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    let mut fields: Vec<Field> = TEXT_COLUMNS.into_iter().map(text).collect();
    fields.insert(3, Field::new("commit_version", DataType::Int64, false));
    fields.push(Field::new("quarantined_at", timestamp(), false));
    Schema::new(fields)
}

fn encode<'a>(entries: impl Iterator<Item = &'a Entry> + Clone) -> Result<RecordBatch, QuarantineError> {
    let text = |read: fn(&Entry) -> &str| Arc::new(StringArray::from_iter_values(entries.clone().map(read))) as ArrayRef;
    let wrong = |reason: String| {
        let table = entries.clone().next().map(|entry| entry.table.clone()).unwrap_or_default();
        QuarantineError::Entry { table, reason }
    };
    let times = text(|entry| &entry.quarantined_at);
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let times = cast_with_options(&times, &timestamp(), &strict).map_err(|e| wrong(format!("quarantined_at: {e}")))?;
    let columns = vec![
        text(|entry| &entry.table),
        text(|entry| &entry.key),
        text(|entry| &entry.lane),
        Arc::new(Int64Array::from_iter_values(entries.clone().map(|entry| entry.commit_version))),
        text(|entry| &entry.reason),
        text(|entry| &entry.message),
        text(|entry| &entry.payload),
        text(|entry| &entry.hash),
        times,
    ];
    RecordBatch::try_new(Arc::new(schema_of_table()), columns).map_err(|e| wrong(e.to_string()))
}

fn decode(batch: &RecordBatch) -> Result<Vec<Entry>, String> {
    let column = |name: &str, data_type: &DataType| {
        let column = batch.column_by_name(name).ok_or_else(|| format!("it has no column {name}"))?;
        cast_with_options(column, data_type, &CastOptions { safe: false, ..CastOptions::default() })
            .map_err(|e| format!("column {name}: {e}"))
    };
    let texts: HashMap<&str, ArrayRef> =
        TEXT_COLUMNS.into_iter().map(|name| Ok::<_, String>((name, column(name, &DataType::Utf8)?))).collect::<Result<_, _>>()?;
    let versions = column("commit_version", &DataType::Int64)?;
    let times = column("quarantined_at", &timestamp())?;
    let times = cast_with_options(&times, &DataType::Utf8, &CastOptions::default()).map_err(|e| e.to_string())?;
    let text = |name: &str, row: usize| {
        let column = texts[name].as_string::<i32>();
        if column.is_null(row) { String::new() } else { column.value(row).to_owned() }
    };
    let entry = |row| Entry {
        table: text("table", row),
        key: text("key", row),
        lane: text("lane", row),
        commit_version: versions.as_primitive::<Int64Type>().value(row),
        reason: text("reason", row),
        message: text("message", row),
        payload: text("payload", row),
        hash: text("hash", row),
        quarantined_at: times.as_string::<i32>().value(row).to_owned(),
    };
    Ok((0..batch.num_rows()).map(entry).collect())
}

#[cfg(test)]
mod tests;
