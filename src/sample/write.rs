//! Delta tables of sample rows: made in one commit, read back, and changed by merges that record what changed. Knows no catalogue.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, new_null_array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::SessionContext;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{Action, StructField, StructType};
use deltalake::operations::collect_sendable_stream;
use deltalake::protocol::SaveMode;
use deltalake::writer::{DeltaWriter, RecordBatchWriter};
use deltalake::{DeltaTable, DeltaTableBuilder, DeltaTableError, TableProperty};
use serde::Serialize;
use serde::de::DeserializeOwned;
use url::Url;

use super::rows::{Movie, Person, Series};
use super::{Commit, Counts, SampleError, Table};

/// Marks the rows of a merge's source that are to be deleted.
const GONE: &str = "_gone";

/// A row of one of the sample's tables.
pub trait Row: Serialize + DeserializeOwned + Clone + PartialEq {
    /// The table that holds such rows.
    const TABLE: Table;
    /// The row's key.
    fn key(&self) -> i64;
}

impl Row for Movie {
    const TABLE: Table = Table::Movies;
    fn key(&self) -> i64 {
        self.movie_id
    }
}

impl Row for Person {
    const TABLE: Table = Table::People;
    fn key(&self) -> i64 {
        self.person_id
    }
}

impl Row for Series {
    const TABLE: Table = Table::TvSeries;
    fn key(&self) -> i64 {
        self.tv_series_id
    }
}

/// What one commit is to do.
#[derive(Debug, Clone)]
pub struct Changes<R> {
    /// Records to be written as they stand here, whether they are there already or not.
    pub upserts: Vec<R>,
    /// Keys of records to be deleted.
    pub deletes: Vec<i64>,
}

impl<R> Changes<R> {
    /// Upserts alone.
    pub fn upserts(upserts: Vec<R>) -> Self {
        Self { upserts, deletes: Vec::new() }
    }

    /// Deletes alone.
    pub fn deletes(deletes: Vec<i64>) -> Self {
        Self { upserts: Vec::new(), deletes }
    }
}

/// Makes a table with the change feed on and these rows in it, in one commit.
///
/// # Errors
/// When there is such a table under `root` already, or the disk or Delta refuses.
pub async fn create<R: Row>(root: &Path, rows: &[R], what: &str) -> Result<Commit, SampleError> {
    let mut new = NewTable::begin(root, R::TABLE).await?;
    new.write(rows).await?;
    let version = new.commit().await?;
    let count = rows.len() as u64;
    let counts = Counts { given: count, inserted: count, ..Counts::default() };
    Ok(Commit { table: R::TABLE, version, what: what.to_owned(), counts })
}

/// All rows of a table, by key, as they are at its latest version.
///
/// # Errors
/// When there is no such table under `root`, or its rows are not of the sample's form.
pub async fn read<R: Row>(root: &Path) -> Result<BTreeMap<i64, R>, SampleError> {
    let table = open(root, R::TABLE).await?;
    rows_of(&table).await
}

/// Applies changes in one merge, that is one commit with change data, and counts what they did. Every record of `upserts` is
/// rewritten, equal or not.
///
/// # Errors
/// When there is no such table under `root`, or Delta refuses.
pub async fn apply<R: Row>(root: &Path, changes: &Changes<R>, what: &str) -> Result<Commit, SampleError> {
    let table = open(root, R::TABLE).await?;
    let before: BTreeMap<i64, R> = rows_of(&table).await?;
    let counts = count(&before, changes);
    let source = SessionContext::new()
        .read_batch(merge_source(changes)?)
        .map_err(|source| delta(R::TABLE, "read the changes", source.into()))?;
    let name = R::TABLE;
    let columns: Vec<String> = name.schema().fields().iter().map(|field| field.name().clone()).collect();
    let every = || columns.iter().map(|column| (column.clone(), format!("s.{column}")));
    let kept = format!("NOT s.{GONE}");
    let merge = table
        .merge(source, format!("t.{key} = s.{key}", key = name.key()))
        .with_source_alias("s")
        .with_target_alias("t")
        .when_matched_delete(|delete| delete.predicate(format!("s.{GONE}")))
        .and_then(|merge| {
            let update = |update| every().fold(update, |u: deltalake::operations::merge::UpdateBuilder, (c, e)| u.update(c, e));
            merge.when_matched_update(|builder| update(builder.predicate(kept.clone())))
        })
        .and_then(|merge| {
            let insert = |insert| every().fold(insert, |i: deltalake::operations::merge::InsertBuilder, (c, e)| i.set(c, e));
            merge.when_not_matched_insert(|builder| insert(builder.predicate(kept.clone())))
        })
        .map_err(|source| delta(name, "plan the merge", source))?;
    let (table, _) = merge.await.map_err(|source| delta(name, "merge the changes", source))?;
    Ok(Commit { table: name, version: version(&table, name)?, what: what.to_owned(), counts })
}

/// A table that is being made: its files are written as rows come, and are seen by nobody before [`NewTable::commit`].
pub(super) struct NewTable {
    table: Table,
    address: Url,
    writer: RecordBatchWriter,
    actions: Vec<Action>,
}

impl NewTable {
    /// Starts a table, unless there is one already.
    pub(super) async fn begin(root: &Path, table: Table) -> Result<Self, SampleError> {
        let (address, path) = address(root, table)?;
        let empty = DeltaTableBuilder::from_url(address.clone())
            .and_then(DeltaTableBuilder::build)
            .map_err(|source| delta(table, "open its directory", source))?;
        let there = empty.verify_deltatable_existence().await.map_err(|source| delta(table, "look for it", source))?;
        if there {
            return Err(SampleError::Exists { table, path });
        }
        let writer = RecordBatchWriter::try_new(address.as_str(), table.schema(), None, None)
            .map_err(|source| delta(table, "begin to write", source))?;
        Ok(Self { table, address, writer, actions: Vec::new() })
    }

    /// Adds rows to the file that is being written.
    pub(super) async fn write<R: Serialize>(&mut self, rows: &[R]) -> Result<(), SampleError> {
        if rows.is_empty() {
            return Ok(());
        }
        let batch = to_batch(self.table, rows)?;
        self.writer.write(batch).await.map_err(|source| delta(self.table, "write rows", source))
    }

    /// Ends the file; the next row begins another one.
    pub(super) async fn end_file(&mut self) -> Result<(), SampleError> {
        let adds = self.writer.flush().await.map_err(|source| delta(self.table, "write a file", source))?;
        self.actions.extend(adds.into_iter().map(Action::Add));
        Ok(())
    }

    /// Makes the table, with everything that was written, in one commit. Returns its version.
    pub(super) async fn commit(mut self) -> Result<u64, SampleError> {
        self.end_file().await?;
        let table = self.table;
        let schema: StructType =
            (table.schema().as_ref()).try_into_kernel().map_err(|source| SampleError::Arrow { table, source })?;
        let fields: Vec<StructField> = schema.fields().cloned().collect();
        let made = DeltaTableBuilder::from_url(self.address)
            .and_then(DeltaTableBuilder::build)
            .map_err(|source| delta(table, "open its directory", source))?
            .create()
            .with_columns(fields)
            .with_table_name(table.name())
            .with_save_mode(SaveMode::ErrorIfExists)
            .with_configuration_property(TableProperty::EnableChangeDataFeed, Some("true"))
            .with_actions(self.actions)
            .await
            .map_err(|source| delta(table, "make the table", source))?;
        version(&made, table)
    }
}

/// Opens a table of the lake at its latest version.
pub(super) async fn open(root: &Path, table: Table) -> Result<DeltaTable, SampleError> {
    let path = root.join(table.name());
    let shown = path.display().to_string();
    let path = std::path::absolute(&path).map_err(|source| SampleError::Path { path: shown.clone(), source: Some(source) })?;
    let url = Url::from_directory_path(&path).map_err(|()| SampleError::Path { path: shown, source: None })?;
    deltalake::open_table(url).await.map_err(|source| delta(table, "open the table", source))
}

/// The version that an opened or just written table is at.
pub(super) fn version(table: &DeltaTable, name: Table) -> Result<u64, SampleError> {
    let version = table.version().ok_or_else(|| delta(name, "tell its version", DeltaTableError::NotInitialized))?;
    Ok(version)
}

/// An error of Delta's, with what was being done.
pub(super) fn delta(table: Table, doing: &'static str, source: DeltaTableError) -> SampleError {
    SampleError::Delta { table, doing, source: Box::new(source) }
}

/// The table's directory, made if it is not there, as an address and as people write it.
fn address(root: &Path, table: Table) -> Result<(Url, String), SampleError> {
    let path = root.join(table.name());
    let shown = path.display().to_string();
    let refused = |source| SampleError::Path { path: shown.clone(), source };
    std::fs::create_dir_all(&path).map_err(|source| refused(Some(source)))?;
    let path = std::path::absolute(&path).map_err(|source| refused(Some(source)))?;
    let url = Url::from_directory_path(path).map_err(|()| refused(None))?;
    Ok((url, shown))
}

fn to_batch<R: Serialize>(table: Table, rows: &[R]) -> Result<RecordBatch, SampleError> {
    let failed = |source| SampleError::Arrow { table, source };
    let mut decoder = arrow::json::ReaderBuilder::new(table.schema()).build_decoder().map_err(failed)?;
    decoder.serialize(rows).map_err(failed)?;
    let batch = decoder.flush().map_err(failed)?;
    Ok(batch.unwrap_or_else(|| RecordBatch::new_empty(table.schema())))
}

pub(super) async fn rows_of<R: Row>(table: &DeltaTable) -> Result<BTreeMap<i64, R>, SampleError> {
    let (_, stream) = table.scan_table().await.map_err(|source| delta(R::TABLE, "read the table", source))?;
    let batches = collect_sendable_stream(stream).await.map_err(|source| delta(R::TABLE, "read the table", source.into()))?;
    let mut rows = BTreeMap::new();
    for batch in &batches {
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        let written = writer.write(batch).and_then(|()| writer.finish());
        written.map_err(|source| SampleError::Arrow { table: R::TABLE, source })?;
        for line in serde_json::Deserializer::from_slice(&writer.into_inner()).into_iter::<R>() {
            let row = line.map_err(|source| SampleError::Row { table: R::TABLE, source })?;
            rows.insert(row.key(), row);
        }
    }
    Ok(rows)
}

/// The source of a merge: the upserts, then the deletes as rows of nulls with a key, told apart by [`GONE`].
fn merge_source<R: Row>(changes: &Changes<R>) -> Result<RecordBatch, SampleError> {
    let table = R::TABLE;
    let failed = |source| SampleError::Arrow { table, source };
    let upserts = to_batch(table, &changes.upserts)?;
    let count = changes.deletes.len();
    let columns = (table.schema().fields().iter())
        .map(|field| match field.data_type() {
            DataType::Int64 => Arc::new(Int64Array::from(changes.deletes.clone())) as ArrayRef,
            other => new_null_array(other, count),
        })
        .collect();
    let deletes = RecordBatch::try_new(table.schema(), columns).map_err(failed)?;
    let both = arrow::compute::concat_batches(&table.schema(), [&upserts, &deletes]).map_err(failed)?;
    let gone: BooleanArray = (0..both.num_rows()).map(|row| Some(row >= upserts.num_rows())).collect();
    let mut fields = table.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
    let mut columns = both.columns().to_vec();
    columns.push(Arc::new(gone));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).map_err(failed)
}

fn count<R: Row>(before: &BTreeMap<i64, R>, changes: &Changes<R>) -> Counts {
    let mut counts = Counts { given: (changes.upserts.len() + changes.deletes.len()) as u64, ..Counts::default() };
    for row in &changes.upserts {
        match before.get(&row.key()) {
            None => counts.inserted += 1,
            Some(old) if old == row => counts.unchanged += 1,
            Some(_) => counts.updated += 1,
        }
    }
    for key in &changes.deletes {
        match before.contains_key(key) {
            true => counts.deleted += 1,
            false => counts.unchanged += 1,
        }
    }
    counts
}
