//! Decides how the changes since a checkpoint can be seen, before anything is read: by the change feed, by the difference of two snapshots, or
//! by a full snapshot. Every gap in the history is found here.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use deltalake::DeltaTableError;
use deltalake::kernel::Snapshot;
use futures::TryStreamExt;

use super::error::ChangesError;
use super::log::{self, Metadata};
use super::schema;
use super::table::{OnGap, Table};

/// A checkpoint: what a sink holds completely.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The table's id then.
    pub table_id: String,
    /// The version.
    pub version: i64,
    /// The end of a window that was begun and must be finished first; the pinned version when none.
    pub to: Option<i64>,
}

/// How changes are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strategy {
    /// By the change feed.
    Feed,
    /// By the difference of two snapshots.
    Diff,
    /// By a full snapshot.
    Snapshot,
}

impl Strategy {
    /// The name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Feed => "feed",
            Self::Diff => "diff",
            Self::Snapshot => "snapshot",
        }
    }
}

/// What is to be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// How.
    pub strategy: Strategy,
    /// The version that the sink holds; none for a snapshot.
    pub from: Option<i64>,
    /// The version that the sink will hold. May lie below the pinned one: then plan again from there.
    pub to: i64,
    /// Why this way, in words.
    pub reason: String,
    /// Whether the sink may hold records that the snapshot lacks.
    pub sweep: bool,
    /// Whether the table is another one than at the checkpoint, or its versions began again.
    pub recreated: bool,
}

impl Plan {
    /// Whether there is nothing to read: no commit since the checkpoint.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.from == Some(self.to)
    }

    fn snapshot(to: i64, sweep: bool, reason: String) -> Self {
        Self { strategy: Strategy::Snapshot, from: None, to, reason, sweep, recreated: false }
    }

    fn window(strategy: Strategy, from: i64, to: i64, reason: String) -> Self {
        Self { strategy, from: Some(from), to, reason, sweep: false, recreated: false }
    }
}

/// A file of a snapshot. Two versions may have one file with different deletion vectors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct DataFile {
    /// Its decoded path.
    pub path: String,
    /// Kind, path and offset of its deletion vector.
    vector: Option<(String, String, Option<i32>)>,
}

impl DataFile {
    /// The files that must be there so that it can be read.
    fn places(&self, version: i64) -> impl Iterator<Item = (i64, String)> {
        let vector = self.vector.as_ref().and_then(|(kind, path, _)| log::vector_file(kind, path));
        [Some(self.path.clone()), vector].into_iter().flatten().map(move |path| (version, path))
    }
}

/// Why the feed cannot be used.
enum NoFeed {
    /// The table never had one in this window: no gap.
    Never(String),
    /// It is there but cannot be read in this way: no gap.
    Unreadable(String),
    /// History is missing.
    Gap(ChangesError),
}

impl Table {
    /// How the changes since a checkpoint are to be read; a first sync without one is a full snapshot.
    ///
    /// # Errors
    /// A gap, where the policy is to stop; or the log cannot be read.
    pub async fn plan(&self, from: Option<&From>) -> Result<Plan, ChangesError> {
        let Some(from) = from else {
            return Ok(Plan::snapshot(self.version(), false, "first sync".to_owned()));
        };
        if let Some(recreated) = self.recreated(from) {
            return self
                .after_gap(recreated)
                .map(|reason| Plan { recreated: true, ..Plan::snapshot(self.version(), true, reason) });
        }
        let to = from.to.unwrap_or(self.version());
        if from.version == to {
            return Ok(Plan::window(Strategy::Feed, to, to, format!("no commit since version {to}")));
        }
        let plan = self.plan_window(from.version, to).await?;
        if to < self.version() && plan.strategy != Strategy::Snapshot && !self.still_readable(to).await? {
            let reason = format!("version {to}, to which a window was begun, cannot be read any more");
            return Ok(Plan::snapshot(self.version(), true, reason));
        }
        Ok(plan)
    }

    /// A snapshot of a version that was begun before, if it can still be read: the one to go on with. Otherwise begin a new one, with a sweep.
    ///
    /// # Errors
    /// When the storage fails.
    pub async fn resume(&self, table_id: &str, to: i64, sweep: bool) -> Result<Option<Plan>, ChangesError> {
        if table_id != self.id() || to > self.version() || !self.still_readable(to).await? {
            return Ok(None);
        }
        Ok(Some(Plan::snapshot(to, sweep, format!("going on with the snapshot of version {to}"))))
    }

    fn recreated(&self, from: &From) -> Option<ChangesError> {
        let table = self.name().to_owned();
        if from.table_id != self.id() {
            return Some(ChangesError::Recreated { table, was: from.table_id.clone(), is: self.id().to_owned() });
        }
        let was = from.version.max(from.to.unwrap_or(from.version));
        (was > self.version()).then(|| ChangesError::WentBack { table, was, is: self.version() })
    }

    /// The reason for going on in another way, or the error where the policy is to stop.
    fn after_gap(&self, gap: ChangesError) -> Result<String, ChangesError> {
        match self.options.on_gap {
            OnGap::Snapshot if gap.is_gap() => Ok(cause(&gap)),
            _ => Err(gap),
        }
    }

    async fn plan_window(&self, from: i64, to: i64) -> Result<Plan, ChangesError> {
        let no_feed = match self.check_feed(from, to).await? {
            Ok(plan) => return Ok(plan),
            Err(no_feed) => no_feed,
        };
        let reason = match no_feed {
            NoFeed::Never(reason) | NoFeed::Unreadable(reason) => reason,
            NoFeed::Gap(gap) => self.after_gap(gap)?,
        };
        match self.check_diff(from, to).await? {
            Ok(()) => Ok(Plan::window(Strategy::Diff, from, to, reason)),
            Err(gap) => {
                let why = self.after_gap(gap)?;
                let reason = if why == reason { reason } else { format!("{reason}; {why}") };
                Ok(Plan::snapshot(self.version(), true, reason))
            }
        }
    }

    /// The change feed: every commit is there, it was on all the time, and all its files are there.
    async fn check_feed(&self, from: i64, to: i64) -> Result<Result<Plan, NoFeed>, ChangesError> {
        let now = self.metadata_of(self.version()).await?;
        let (mut end, mut bytes) = (to, 0_u64);
        let mut changes: Vec<(i64, Metadata)> = Vec::new();
        let mut wanted: Vec<(i64, String)> = Vec::new();
        let (mut unread, mut cut) = (None, Vec::new());
        let mut commits = std::pin::pin!(log::read_range(self, from + 1..=to));
        while let Some((version, commit)) = commits.try_next().await? {
            let Some(commit) = commit else {
                if !now.has_feed() && changes.iter().all(|(_, metadata)| !metadata.has_feed()) {
                    return Ok(Err(NoFeed::Never("the table has no change feed".to_owned())));
                }
                return Ok(Err(NoFeed::Gap(ChangesError::LogCleaned { table: self.name().to_owned(), version })));
            };
            changes.extend(commit.metadata.map(|metadata| (version, metadata)));
            unread = unread.or(commit.unread.map(|why| format!("commit {version} {why}")));
            cut.extend(commit.cut);
            bytes = commit.files.iter().fold(bytes, |sum, (_, size)| sum.saturating_add(*size));
            wanted.extend(commit.files.into_iter().map(|(path, _)| (version, path)));
            let full = self.options.window_bytes > 0 && bytes >= self.options.window_bytes;
            if full && version < to && self.still_readable(version).await? {
                end = version;
                break;
            }
        }
        if let Some(no_feed) = self.feed_was_off(from, end, &now, changes).await? {
            return Ok(Err(no_feed));
        }
        if let Some(why) = unread {
            return Ok(Err(NoFeed::Unreadable(format!("the change feed cannot be read: {why}"))));
        }
        if let Some(column) = self.odd_partition(&now) {
            return Ok(Err(NoFeed::Unreadable(format!("the change feed cannot be read, because it is partitioned by {column}"))));
        }
        if let Some((_, path)) = wanted.iter().find(|(_, path)| !log::reaches_feed(path)) {
            return Ok(Err(NoFeed::Unreadable(format!("the change feed cannot be read, because of the path {path}"))));
        }
        if let Some((version, file)) = log::first_missing(self, wanted).await? {
            return Ok(Err(NoFeed::Gap(ChangesError::FilesVacuumed { table: self.name().to_owned(), version, file })));
        }
        if let Some(path) = log::first_of_row_groups(self, cut).await? {
            return Ok(Err(NoFeed::Unreadable(format!(
                "the change feed cannot be read: {path} has a deletion vector and several row groups"
            ))));
        }
        Ok(Ok(Plan::window(Strategy::Feed, from, end, format!("change feed of {} commits", end - from))))
    }

    /// Whether at some version of the window the feed was off or cannot be read with the schema of now. `changes` are
    /// the metadata actions after `from`.
    async fn feed_was_off(
        &self,
        from: i64,
        end: i64,
        now: &Metadata,
        changes: Vec<(i64, Metadata)>,
    ) -> Result<Option<NoFeed>, ChangesError> {
        let before = match changes.first() {
            None if end == self.version() => Some(now.clone()),
            _ => self.metadata_of(from).await.ok(),
        };
        let mut states: Vec<(i64, Metadata)> = Vec::new();
        match (before, changes.first()) {
            (Some(before), _) => states.push((from, before)),
            (None, Some((first, _))) if *first == from + 1 => {}
            // The version cannot be loaded, so nobody knows whether the feed was on before the first change.
            (None, _) => return Ok(Some(NoFeed::Gap(ChangesError::FeedOff { table: self.name().to_owned(), version: from }))),
        }
        states.extend(changes);
        if !now.has_feed() && states.iter().all(|(_, state)| !state.has_feed()) {
            return Ok(Some(NoFeed::Never("the table has no change feed".to_owned())));
        }
        for (version, state) in &states {
            if !state.has_feed() {
                return Ok(Some(NoFeed::Gap(ChangesError::FeedOff { table: self.name().to_owned(), version: *version })));
            }
            if state.maps_columns() || now.maps_columns() {
                return Ok(Some(NoFeed::Unreadable("the change feed of a table with column mapping cannot be read".to_owned())));
            }
            if state.partition_columns != now.partition_columns {
                return Ok(Some(NoFeed::Unreadable(format!("the partition columns changed after version {version}"))));
            }
            if let Some(what) = self.incomparable(state, now) {
                return Ok(Some(NoFeed::Unreadable(what)));
            }
        }
        Ok(None)
    }

    /// A partition column of a type whose values delta-rs' feed may take for null when it cannot read them.
    fn odd_partition<'a>(&self, now: &'a Metadata) -> Option<&'a String> {
        now.partition_columns.iter().find(|name| {
            let column = self.schema.field_with_name(name);
            column.is_ok_and(|field| {
                !(field.data_type().is_integer()
                    || matches!(field.data_type(), DataType::Utf8 | DataType::Boolean | DataType::Date32))
            })
        })
    }

    fn incomparable(&self, from: &Metadata, to: &Metadata) -> Option<String> {
        let columns: Vec<String> = self.schema.fields().iter().map(|field| field.name().clone()).collect();
        schema::incomparable(&from.schema_string, &to.schema_string, &columns)
    }

    /// Two snapshots: the old one can be loaded, its columns can be compared, and the files that differ are there.
    async fn check_diff(&self, from: i64, to: i64) -> Result<Result<(), ChangesError>, ChangesError> {
        let cleaned = || ChangesError::LogCleaned { table: self.name().to_owned(), version: from };
        let Ok(before) = self.metadata_of(from).await else { return Ok(Err(cleaned())) };
        let after = self.metadata_of(self.version()).await?;
        if let Some(what) = self.incomparable(&before, &after) {
            return Ok(Err(ChangesError::SchemaChanged { table: self.name().to_owned(), what, from, to }));
        }
        let (gone, new) = match self.differing(from, to).await {
            Ok(both) => both,
            Err(error) => return Ok(Err(error)),
        };
        let wanted = gone
            .iter()
            .map(|file| (from, file))
            .chain(new.iter().map(|file| (to, file)))
            .flat_map(|(version, file)| file.places(version));
        let missing = log::first_missing(self, wanted.collect()).await?;
        Ok(match missing {
            Some((version, file)) => Err(ChangesError::FilesVacuumed { table: self.name().to_owned(), version, file }),
            None => Ok(()),
        })
    }

    /// The files that only the one and only the other version has, in order of their paths.
    pub(super) async fn differing(&self, from: i64, to: i64) -> Result<(Vec<DataFile>, Vec<DataFile>), ChangesError> {
        let old = self.files(from).await?;
        let new = self.files(to).await?;
        let only = |these: &BTreeMap<DataFile, u64>, others: &BTreeMap<DataFile, u64>| {
            these.keys().filter(|file| !others.contains_key(file)).cloned().collect::<Vec<_>>()
        };
        Ok((only(&old, &new), only(&new, &old)))
    }

    /// How many records a version has, as far as its log tells without a file being read.
    pub async fn records(&self, version: i64) -> Option<u64> {
        let table = self.at_version(version).await.ok()?;
        let state = table.snapshot().ok()?;
        state.log_data().iter().map(|file| file.num_records().and_then(|count| u64::try_from(count).ok())).sum()
    }

    /// The files of a version with their sizes, in order of their paths.
    pub(super) async fn files(&self, version: i64) -> Result<BTreeMap<DataFile, u64>, ChangesError> {
        let table = self.at_version(version).await?;
        let failed = |source| ChangesError::Version { table: self.name().to_owned(), version, source: Box::new(source) };
        let state = table.snapshot().map_err(failed)?;
        let mut files = BTreeMap::new();
        for file in state.log_data().iter() {
            let vector = file.deletion_vector_descriptor();
            let vector = vector.map(|vector| (vector.storage_type.to_string(), vector.path_or_inline_dv.clone(), vector.offset));
            files.insert(DataFile { path: file.path().into_owned(), vector }, u64::try_from(file.size()).unwrap_or(0));
        }
        Ok(files)
    }

    /// Whether a version below the pinned one can be loaded and its files are there.
    async fn still_readable(&self, version: i64) -> Result<bool, ChangesError> {
        if version == self.version() {
            return Ok(true);
        }
        let Ok(files) = self.files(version).await else { return Ok(false) };
        let now = self.files(self.version()).await?;
        let others = files.keys().filter(|file| !now.contains_key(file)).flat_map(|file| file.places(version));
        Ok(log::first_missing(self, others.collect()).await?.is_none())
    }

    async fn metadata_of(&self, version: i64) -> Result<Metadata, ChangesError> {
        let failed = |source| ChangesError::Version { table: self.name().to_owned(), version, source: Box::new(source) };
        if version == self.version() {
            let state = self.delta.snapshot().map_err(failed)?;
            return Metadata::of(&state.schema(), state.metadata()).map_err(|error| failed(error.into()));
        }
        let wanted = u64::try_from(version).map_err(|_| failed(DeltaTableError::generic("a version is never negative")))?;
        let snapshot = Snapshot::try_new(self.delta.log_store().as_ref(), Some(wanted)).await.map_err(failed)?;
        Metadata::of(&snapshot.schema(), snapshot.metadata()).map_err(|error| failed(error.into()))
    }
}

/// A gap in words, without the advice that goes with the error.
fn cause(gap: &ChangesError) -> String {
    match gap {
        ChangesError::FeedOff { version, .. } => format!("the change feed was off at version {version}"),
        ChangesError::LogCleaned { version, .. } => format!("version {version} is no longer in the log"),
        ChangesError::FilesVacuumed { version, file, .. } => format!("file {file} of version {version} is gone"),
        ChangesError::Recreated { .. } => "the table was recreated".to_owned(),
        ChangesError::WentBack { was, is, .. } => format!("the table went back from version {was} to {is}"),
        ChangesError::SchemaChanged { what, .. } => what.clone(),
        other => other.to_string(),
    }
}
