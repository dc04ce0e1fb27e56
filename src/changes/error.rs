//! Why changes cannot be read, and what to do next. One variant for each kind of gap, so that a caller can tell them apart.

use datafusion::error::DataFusionError;
use deltalake::DeltaTableError;

/// Why changes cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    /// There is no Delta table at the address.
    #[error("table {table}: no Delta table at {url}: check the path or URL, and that the table has a _delta_log")]
    NotATable {
        /// The table's name.
        table: String,
        /// Where it was looked for.
        url: String,
    },
    /// The address cannot be understood or reached.
    #[error("table {table}: cannot open {url}: check the address, the network and the credentials in the environment")]
    Open {
        /// The table's name.
        table: String,
        /// Its address.
        url: String,
        /// What delta-rs says.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// The table uses something of Delta Lake that delta-rs does not know.
    #[error(
        "table {table}: {what}, which cannot be read here: drop the feature (ALTER TABLE … DROP FEATURE), or name a copy of the table without it"
    )]
    Unsupported {
        /// The table's name.
        table: String,
        /// What it uses.
        what: String,
    },
    /// A file of the table lies outside its directory, as in a shallow clone.
    #[error(
        "table {table}, version {version}: the file {file} lies outside the table, as after a SHALLOW CLONE, and cannot be read here: write the table whole (DEEP CLONE, or CREATE TABLE … AS SELECT), or name the one that it was cloned from"
    )]
    Elsewhere {
        /// The table's name.
        table: String,
        /// The version.
        version: i64,
        /// The file's address.
        file: String,
    },
    /// The options make no sense.
    #[error("table {table}: {message}")]
    Options {
        /// The table's name.
        table: String,
        /// What is wrong, and what to write instead.
        message: String,
    },
    /// The table lacks a column that is declared to be (part of) its key, or one that is to be read.
    #[error(
        "table {table}, version {version}: there is no column {column}: the table has {has}; correct the mapping or add the column"
    )]
    ColumnMissing {
        /// The table's name.
        table: String,
        /// The version that was looked at.
        version: i64,
        /// The column.
        column: String,
        /// The columns that are there.
        has: String,
    },
    /// A key column has a type that cannot identify a record.
    #[error(
        "table {table}: key column {column} is of type {data_type}, which cannot identify a record: choose whole numbers, strings, dates, timestamps, decimals, booleans or binaries"
    )]
    KeyType {
        /// The table's name.
        table: String,
        /// The column.
        column: String,
        /// Its type.
        data_type: String,
    },
    /// The change feed was off for a part of the window.
    #[error(
        "table {table}: the change feed was not enabled at version {version}: set delta.enableChangeDataFeed = true, and on_gap: snapshot to go on from a full snapshot"
    )]
    FeedOff {
        /// The table's name.
        table: String,
        /// The first version of the window without a feed.
        version: i64,
    },
    /// A commit of the window is no longer in the log.
    #[error(
        "table {table}: commit {version} is no longer in the log: log clean-up has passed the checkpoint; set on_gap: snapshot to go on from a full snapshot, and sync more often or raise delta.logRetentionDuration"
    )]
    LogCleaned {
        /// The table's name.
        table: String,
        /// The first version that is missing.
        version: i64,
    },
    /// A file that the window needs was removed.
    #[error(
        "table {table}: file {file}, which version {version} needs, is gone: VACUUM has passed the checkpoint; set on_gap: snapshot to go on from a full snapshot, and sync more often or vacuum later"
    )]
    FilesVacuumed {
        /// The table's name.
        table: String,
        /// The version that needs it.
        version: i64,
        /// Its path.
        file: String,
    },
    /// Another table is at the address now.
    #[error(
        "table {table}: the table was recreated (its id was {was}, now it is {is}): set on_gap: snapshot to replace everything by a full snapshot"
    )]
    Recreated {
        /// The table's name.
        table: String,
        /// The id at the checkpoint.
        was: String,
        /// The id now.
        is: String,
    },
    /// The table's latest version lies before the checkpoint.
    #[error(
        "table {table}: the checkpoint is at version {was}, but the table ends at version {is}: it was recreated or restored from a backup; set on_gap: snapshot to replace everything by a full snapshot"
    )]
    WentBack {
        /// The table's name.
        table: String,
        /// The version at the checkpoint.
        was: i64,
        /// The latest version now.
        is: i64,
    },
    /// The columns before cannot be compared with the columns now.
    #[error("table {table}: {what} between versions {from} and {to}: set on_gap: snapshot to go on from a full snapshot")]
    SchemaChanged {
        /// The table's name.
        table: String,
        /// What changed.
        what: String,
        /// The version at the checkpoint.
        from: i64,
        /// The version now.
        to: i64,
    },
    /// A commit in the log is no valid JSON: half-written, or damaged.
    #[error(
        "table {table}: commit {version} is damaged (line {line}): if a writer is still at work, run again; else restore the file {file} or remove it if it is the last one"
    )]
    CommitDamaged {
        /// The table's name.
        table: String,
        /// The commit's version.
        version: i64,
        /// The line, from 1.
        line: usize,
        /// The file.
        file: String,
        /// What the parser says.
        #[source]
        source: serde_json::Error,
    },
    /// An old version cannot be loaded.
    #[error("table {table}: version {version} cannot be loaded")]
    Version {
        /// The table's name.
        table: String,
        /// The version.
        version: i64,
        /// What delta-rs says.
        #[source]
        source: Box<DeltaTableError>,
    },
    /// The storage failed.
    #[error("table {table}: cannot {what}")]
    Storage {
        /// The table's name.
        table: String,
        /// What was being done.
        what: String,
        /// What the storage says.
        #[source]
        source: deltalake::ObjectStoreError,
    },
    /// Reading or sorting failed.
    #[error("table {table}, version {version}: reading failed; run again, and if it fails again look at the cause")]
    Read {
        /// The table's name.
        table: String,
        /// The version that was being read.
        version: i64,
        /// What DataFusion says.
        #[source]
        source: Box<DataFusionError>,
    },
}

impl ChangesError {
    /// Whether it tells of missing history: the caller may decide to go on from a snapshot.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        matches!(
            self,
            Self::FeedOff { .. }
                | Self::LogCleaned { .. }
                | Self::FilesVacuumed { .. }
                | Self::Recreated { .. }
                | Self::WentBack { .. }
                | Self::SchemaChanged { .. }
        )
    }

    /// Whether trying again is of no use before a person has decided what to do: about a gap, or about the table itself.
    #[must_use]
    pub fn needs_decision(&self) -> bool {
        self.is_gap() || matches!(self, Self::Unsupported { .. } | Self::Elsewhere { .. })
    }
}

/// An error of this room on its way through a DataFusion stream, and back.
pub(crate) fn through(error: ChangesError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error of this room inside `error`, or `error` as a failure of reading.
pub(crate) fn reading(table: &str, version: i64, error: DataFusionError) -> ChangesError {
    match error {
        DataFusionError::External(inner) => match inner.downcast::<ChangesError>() {
            Ok(own) => *own,
            Err(other) => {
                ChangesError::Read { table: table.to_owned(), version, source: Box::new(DataFusionError::External(other)) }
            }
        },
        DataFusionError::Context(_, inner) => reading(table, version, *inner),
        other => ChangesError::Read { table: table.to_owned(), version, source: Box::new(other) },
    }
}
