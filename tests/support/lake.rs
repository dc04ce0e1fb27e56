//! Small Silver lakes, written and changed with delta-rs. Every change is one of the ways in which real lakes change; each is one commit
//! unless it says otherwise.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use datafusion::prelude::SessionContext;
use deltalake::kernel::engine::arrow_conversion::TryIntoKernel;
use deltalake::kernel::{StructField, StructType};
use deltalake::operations::collect_sendable_stream;
use deltalake::operations::write::SchemaMode;
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder, TableProperty};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use url::Url;

/// Marks the rows of a merge's source that are to be deleted.
const GONE: &str = "_gone";

/// Who contributed what to a book.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Credit {
    pub(crate) credit_id: String,
    pub(crate) author_id: i64,
    pub(crate) name: Option<String>,
    pub(crate) role: Option<String>,
}

/// A record of the table `books`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Book {
    pub(crate) book_id: Option<i64>,
    pub(crate) title: Option<String>,
    pub(crate) blurb: Option<String>,
    pub(crate) popularity: Option<f64>,
    pub(crate) tags: Vec<String>,
    pub(crate) credits: Option<Vec<Credit>>,
}

/// A record of the table `authors`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Author {
    pub(crate) author_id: Option<i64>,
    pub(crate) name: Option<String>,
    pub(crate) bio: Option<String>,
    pub(crate) visits: Option<i64>,
}

/// A record of a Silver table.
pub(crate) trait Record: Serialize + DeserializeOwned + Clone + PartialEq + std::fmt::Debug + Send + Sync {
    /// The table's name.
    const TABLE: &'static str;
    /// The column that identifies a record.
    const KEY: &'static str;
    /// The table's columns.
    fn schema() -> SchemaRef;
    /// The value of the key column.
    fn key(&self) -> Option<i64>;
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

impl Record for Book {
    const TABLE: &'static str = "books";
    const KEY: &'static str = "book_id";

    fn schema() -> SchemaRef {
        let credit =
            Fields::from(vec![text("credit_id"), Field::new("author_id", DataType::Int64, true), text("name"), text("role")]);
        Arc::new(Schema::new(vec![
            Field::new("book_id", DataType::Int64, true),
            text("title"),
            text("blurb"),
            Field::new("popularity", DataType::Float64, true),
            Field::new("tags", DataType::List(Arc::new(Field::new("element", DataType::Utf8, true))), true),
            Field::new("credits", DataType::List(Arc::new(Field::new("element", DataType::Struct(credit), true))), true),
        ]))
    }

    fn key(&self) -> Option<i64> {
        self.book_id
    }
}

impl Record for Author {
    const TABLE: &'static str = "authors";
    const KEY: &'static str = "author_id";

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("author_id", DataType::Int64, true),
            text("name"),
            text("bio"),
            Field::new("visits", DataType::Int64, true),
        ]))
    }

    fn key(&self) -> Option<i64> {
        self.author_id
    }
}

/// A directory of Silver tables.
#[derive(Debug, Clone)]
pub(crate) struct Lake {
    pub(crate) root: PathBuf,
}

impl Lake {
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Where a table is.
    pub(crate) fn path(&self, table: &str) -> PathBuf {
        self.root.join(table)
    }

    /// Makes a table with these records in it: two commits, or one when there are no records.
    pub(crate) async fn create<R: Record>(&self, rows: &[R], feed: bool) {
        self.create_table(R::TABLE, &R::schema(), feed).await;
        if !rows.is_empty() {
            self.append(rows).await;
        }
    }

    /// Makes an empty table with these columns.
    pub(crate) async fn create_table(&self, table: &str, schema: &SchemaRef, feed: bool) {
        let path = self.path(table);
        std::fs::create_dir_all(&path).unwrap();
        let kernel: StructType = schema.as_ref().try_into_kernel().unwrap();
        let fields: Vec<StructField> = kernel.fields().cloned().collect();
        DeltaTableBuilder::from_url(url_of(&path))
            .unwrap()
            .build()
            .unwrap()
            .create()
            .with_columns(fields)
            .with_table_name(table)
            .with_configuration_property(TableProperty::EnableChangeDataFeed, Some(if feed { "true" } else { "false" }))
            .await
            .unwrap();
    }

    pub(crate) async fn open(&self, table: &str) -> DeltaTable {
        deltalake::open_table(url_of(&self.path(table))).await.unwrap()
    }

    /// The table's latest version.
    pub(crate) async fn version(&self, table: &str) -> i64 {
        i64::try_from(self.open(table).await.version().unwrap()).unwrap()
    }

    /// All rows of the table's latest version, in no order.
    pub(crate) async fn read<R: Record>(&self) -> Vec<R> {
        let (_, stream) = self.open(R::TABLE).await.scan_table().await.unwrap();
        let mut rows = Vec::new();
        for batch in collect_sendable_stream(stream).await.unwrap() {
            let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
            writer.write(&batch).unwrap();
            writer.finish().unwrap();
            let text = String::from_utf8(writer.into_inner()).unwrap();
            rows.extend(text.lines().map(|line| serde_json::from_str::<R>(line).unwrap_or_else(|e| panic!("{e}: {line}"))));
        }
        rows
    }

    /// Adds rows, whatever is there: a duplicate stays one.
    pub(crate) async fn append<R: Record>(&self, rows: &[R]) {
        self.append_batch(R::TABLE, batch(rows)).await;
    }

    /// Adds rows; columns that the table lacks are added to it.
    pub(crate) async fn append_batch(&self, table: &str, rows: RecordBatch) {
        let table = self.open(table).await;
        table.write(vec![rows]).with_save_mode(SaveMode::Append).with_schema_mode(SchemaMode::Merge).await.unwrap();
    }

    /// Replaces the whole table.
    pub(crate) async fn overwrite<R: Record>(&self, rows: &[R]) {
        let table = self.open(R::TABLE).await;
        table.write(vec![batch(rows)]).with_save_mode(SaveMode::Overwrite).with_schema_mode(SchemaMode::Merge).await.unwrap();
    }

    /// Writes records as they stand here, whether they are there or not, and deletes others: one merge.
    pub(crate) async fn merge<R: Record>(&self, upserts: &[R], deletes: &[i64]) {
        if upserts.is_empty() && deletes.is_empty() {
            return;
        }
        let source = SessionContext::new().read_batch(merge_source(upserts, deletes)).unwrap();
        let key = R::KEY;
        let columns: Vec<String> = R::schema().fields().iter().map(|field| field.name().clone()).collect();
        let kept = format!("NOT s.{GONE}");
        let table = self.open(R::TABLE).await;
        table
            .merge(source, format!("t.{key} = s.{key}"))
            .with_source_alias("s")
            .with_target_alias("t")
            .when_matched_delete(|delete| delete.predicate(format!("s.{GONE}")))
            .and_then(|merge| {
                merge.when_matched_update(|update| {
                    columns.iter().fold(update.predicate(kept.clone()), |u, c| u.update(c.clone(), format!("s.{c}")))
                })
            })
            .and_then(|merge| {
                merge.when_not_matched_insert(|insert| {
                    columns.iter().fold(insert.predicate(kept.clone()), |i, c| i.set(c.clone(), format!("s.{c}")))
                })
            })
            .unwrap()
            .await
            .unwrap();
    }

    /// Deletes records by a condition, without a merge.
    pub(crate) async fn delete<R: Record>(&self, keys: &[i64]) {
        self.open(R::TABLE).await.delete().with_predicate(among::<R>(keys)).await.unwrap();
    }

    /// Gives records other keys: each is `offset` larger afterwards.
    pub(crate) async fn change_keys<R: Record>(&self, keys: &[i64], offset: i64) {
        let table = self.open(R::TABLE).await;
        table.update().with_predicate(among::<R>(keys)).with_update(R::KEY, format!("{} + {offset}", R::KEY)).await.unwrap();
    }

    /// Brings the table back to what an earlier version was. Back to the latest is nothing.
    pub(crate) async fn restore(&self, table: &str, version: i64) {
        let table = self.open(table).await;
        if table.version() == u64::try_from(version).ok() {
            return;
        }
        table.restore().with_version_to_restore(u64::try_from(version).unwrap()).await.unwrap();
    }

    /// Compacts the table's files: no record changes.
    pub(crate) async fn optimise(&self, table: &str) {
        self.open(table).await.optimize().await.unwrap();
    }

    /// Adds a column, by appending one record that has a value in it.
    pub(crate) async fn add_column<R: Record>(&self, row: &R, column: &str) {
        let rows = batch(std::slice::from_ref(row));
        let mut fields = rows.schema().fields().to_vec();
        fields.push(Arc::new(Field::new(column, DataType::Int64, true)));
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(arrow::array::Int64Array::from(vec![1])));
        self.append_batch(R::TABLE, RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()).await;
    }
}

/// Copies a directory with everything in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_dir(&entry.path(), &place);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(entry.path()).unwrap(), place).unwrap();
        } else {
            std::fs::copy(entry.path(), place).unwrap();
        }
    }
}

/// The address of a directory.
pub(crate) fn url_of(path: &Path) -> Url {
    Url::from_directory_path(std::path::absolute(path).unwrap()).unwrap()
}

fn among<R: Record>(keys: &[i64]) -> String {
    let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    format!("{} IN ({})", R::KEY, keys.join(", "))
}

/// Records as Arrow columns.
pub(crate) fn batch<R: Record>(rows: &[R]) -> RecordBatch {
    json_batch(&R::schema(), rows)
}

/// Anything that serialises to an object a row, as Arrow columns.
pub(crate) fn json_batch<S: Serialize>(schema: &SchemaRef, rows: &[S]) -> RecordBatch {
    let mut decoder = arrow::json::ReaderBuilder::new(schema.clone()).build_decoder().unwrap();
    decoder.serialize(rows).unwrap();
    decoder.flush().unwrap().unwrap_or_else(|| RecordBatch::new_empty(schema.clone()))
}

fn merge_source<R: Record>(upserts: &[R], deletes: &[i64]) -> RecordBatch {
    let mut lines: Vec<serde_json::Value> = upserts.iter().map(|row| serde_json::to_value(row).unwrap()).collect();
    lines.extend(deletes.iter().map(|key| serde_json::json!({R::KEY: key})));
    let rows = json_batch(&R::schema(), &lines);
    let gone: BooleanArray = (0..lines.len()).map(|row| Some(row >= upserts.len())).collect();
    let mut fields = rows.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(GONE, DataType::Boolean, false)));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(gone));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}
