//! Tests on real Delta tables in temporary directories, written by delta-rs.

mod gaps;
mod model;
mod net;
mod snapshot;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, Float64Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, SchemaRef};
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use deltalake::kernel::{ArrayType, PrimitiveType, StructField};
use deltalake::protocol::SaveMode;
use deltalake::{DeltaTable, DeltaTableBuilder, TableProperty};
use futures::TryStreamExt;
use futures::stream::BoxStream;
use tempfile::TempDir;
use url::Url;

use super::{BadReason, BadRecord, ChangeBatch, ChangesError, From, OnGap, Plan, RecordCounts, Strategy, Table, TableOptions};

/// A row of the tests' table: `id`, `name`, `score`, and one tag.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub id: Option<i64>,
    pub name: Option<String>,
    pub score: Option<f64>,
    pub tag: Option<String>,
}

pub(super) fn row(id: i64, name: &str, score: f64) -> Row {
    Row { id: Some(id), name: Some(name.to_owned()), score: Some(score), tag: Some("t".to_owned()) }
}

impl Row {
    /// The content as text; the same for values that are equal.
    pub(super) fn content(&self) -> String {
        let score = self.score.map(|score| score + 0.0);
        format!("{:?} {score:?} {:?}", self.name, self.tag)
    }
}

fn arrow_schema() -> SchemaRef {
    let item = Arc::new(Field::new("element", DataType::Utf8, true));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("score", DataType::Float64, true),
        Field::new("tags", DataType::List(item), true),
    ]))
}

pub(super) fn batch(rows: &[Row]) -> RecordBatch {
    let item = Arc::new(Field::new("element", DataType::Utf8, true));
    let mut tags = ListBuilder::new(StringBuilder::new()).with_field(item);
    for row in rows {
        tags.append_option(row.tag.as_ref().map(|tag| [Some(tag.clone())]));
    }
    RecordBatch::try_new(
        arrow_schema(),
        vec![
            Arc::new(rows.iter().map(|row| row.id).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| row.name.clone()).collect::<StringArray>()),
            Arc::new(rows.iter().map(|row| row.score).collect::<Float64Array>()),
            Arc::new(tags.finish()),
        ],
    )
    .unwrap()
}

pub(super) fn rows(batch: &RecordBatch) -> Vec<Row> {
    let ids = batch["id"].as_primitive::<Int64Type>();
    let names = batch["name"].as_string::<i32>();
    let scores = batch["score"].as_primitive::<Float64Type>();
    let tags = batch["tags"].as_list::<i32>();
    (0..batch.num_rows())
        .map(|at| Row {
            id: ids.is_valid(at).then(|| ids.value(at)),
            name: names.is_valid(at).then(|| names.value(at).to_owned()),
            score: scores.is_valid(at).then(|| scores.value(at)),
            tag: tags.is_valid(at).then(|| tags.value(at).as_string::<i32>().value(0).to_owned()),
        })
        .collect()
}

pub(super) fn runtime() -> Arc<RuntimeEnv> {
    Arc::new(RuntimeEnv::default())
}

/// A pool of so many bytes.
pub(super) fn small_runtime(bytes: usize) -> Arc<RuntimeEnv> {
    RuntimeEnvBuilder::new().with_memory_limit(bytes, 1.0).build_arc().unwrap()
}

/// A Delta table in a directory of its own.
pub(super) struct Lake {
    pub dir: TempDir,
    pub delta: DeltaTable,
}

impl Lake {
    /// An empty table, at version 0.
    pub(super) async fn new(feed: bool) -> Self {
        Self::with(feed, &[]).await
    }

    pub(super) async fn with(feed: bool, partitions: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let delta = Self::create(dir.path(), feed, partitions, SaveMode::ErrorIfExists).await;
        Self { dir, delta }
    }

    pub(super) async fn create(path: &std::path::Path, feed: bool, partitions: &[&str], mode: SaveMode) -> DeltaTable {
        let url = Url::from_directory_path(path).unwrap();
        let tags = ArrayType::new(deltalake::kernel::DataType::Primitive(PrimitiveType::String), true);
        let fields = [
            StructField::nullable("id", PrimitiveType::Long),
            StructField::nullable("name", PrimitiveType::String),
            StructField::nullable("score", PrimitiveType::Double),
            StructField::nullable("tags", tags),
        ];
        let table = DeltaTableBuilder::from_url(url).unwrap().build().unwrap();
        let mut create =
            table.create().with_columns(fields).with_save_mode(mode).with_partition_columns(partitions.iter().copied());
        if feed {
            create = create.with_configuration_property(TableProperty::EnableChangeDataFeed, Some("true"));
        }
        create.await.unwrap()
    }

    pub(super) fn path(&self) -> &str {
        self.dir.path().to_str().unwrap()
    }

    pub(super) fn version(&self) -> i64 {
        i64::try_from(self.delta.version().unwrap()).unwrap()
    }

    async fn write(&mut self, rows: &[Row], mode: SaveMode) {
        self.delta = self.delta.clone().write([batch(rows)]).with_save_mode(mode).await.unwrap();
    }

    pub(super) async fn append(&mut self, rows: &[Row]) {
        self.write(rows, SaveMode::Append).await;
    }

    pub(super) async fn overwrite(&mut self, rows: &[Row]) {
        self.write(rows, SaveMode::Overwrite).await;
    }

    pub(super) async fn delete(&mut self, predicate: &str) {
        self.delta = self.delta.clone().delete().with_predicate(predicate).await.unwrap().0;
    }

    pub(super) async fn update(&mut self, predicate: &str, column: &str, value: &str) {
        self.delta = self.delta.clone().update().with_predicate(predicate).with_update(column, value).await.unwrap().0;
    }

    /// Rows with a known id are updated, others inserted.
    pub(super) async fn merge(&mut self, rows: &[Row]) {
        use datafusion::prelude::col;
        let context = datafusion::prelude::SessionContext::new();
        let source = context.read_batch(batch(rows)).unwrap();
        let set = |column: &str| col(format!("source.{column}"));
        let merge = self.delta.clone().merge(source, col("target.id").eq(col("source.id")));
        let merge = merge.with_source_alias("source").with_target_alias("target");
        let merge = merge.when_matched_update(|update| {
            update.update("name", set("name")).update("score", set("score")).update("tags", set("tags"))
        });
        let merge = merge.unwrap().when_not_matched_insert(|insert| {
            insert.set("id", set("id")).set("name", set("name")).set("score", set("score")).set("tags", set("tags"))
        });
        self.delta = merge.unwrap().await.unwrap().0;
    }

    pub(super) async fn optimize(&mut self) {
        self.delta = self.delta.clone().optimize().await.unwrap().0;
    }

    pub(super) async fn restore(&mut self, version: i64) {
        let version = u64::try_from(version).unwrap();
        self.delta = self.delta.clone().restore().with_version_to_restore(version).await.unwrap().0;
    }

    pub(super) async fn set(&mut self, property: &str, value: &str) {
        let properties = [(property.to_owned(), value.to_owned())].into();
        self.delta = self.delta.clone().set_tbl_properties().with_properties(properties).await.unwrap();
    }

    pub(super) fn options(&self) -> TableOptions {
        TableOptions::new("films", self.path(), &["id"])
    }

    pub(super) async fn open(&self) -> Table {
        Table::open(self.options(), runtime()).await.unwrap()
    }

    pub(super) async fn open_strict(&self) -> Table {
        Table::open(TableOptions { on_gap: OnGap::Stop, ..self.options() }, runtime()).await.unwrap()
    }

    pub(super) fn from(&self, version: i64) -> From {
        From { table_id: self.delta.snapshot().unwrap().metadata().id().to_owned(), version, to: None }
    }

    /// Net changes since a version, by the way that is planned.
    pub(super) async fn since(&self, version: i64) -> Seen {
        let table = self.open().await;
        let plan = table.plan(Some(&self.from(version))).await.unwrap();
        seen(table.read(&plan, 0)).await
    }

    pub(super) async fn planned(&self, version: i64) -> Plan {
        self.open().await.plan(Some(&self.from(version))).await.unwrap()
    }

    /// Removes files of the table whose path has `part`.
    pub(super) fn remove_files(&self, part: &str) -> usize {
        let mut removed = 0;
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.to_str().unwrap().contains(part) {
                    std::fs::remove_file(path).unwrap();
                    removed += 1;
                }
            }
        }
        removed
    }

    pub(super) fn commit_file(&self, version: i64) -> std::path::PathBuf {
        self.dir.path().join(format!("_delta_log/{version:020}.json"))
    }
}

/// All that a stream of changes brought.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub before: Vec<Row>,
    pub after: Vec<Row>,
    pub replaced: Vec<i64>,
    pub bad: Vec<BadRecord>,
    pub mended: Vec<String>,
    pub counts: RecordCounts,
    pub files_done: Vec<u64>,
    pub sizes: Vec<usize>,
}

impl Seen {
    pub(super) fn keys_before(&self) -> Vec<i64> {
        self.before.iter().map(|row| row.id.unwrap()).collect()
    }

    pub(super) fn keys_after(&self) -> Vec<i64> {
        self.after.iter().map(|row| row.id.unwrap()).collect()
    }

    pub(super) fn is_nothing(&self) -> bool {
        self.before.is_empty()
            && self.after.is_empty()
            && self.replaced.is_empty()
            && self.bad.is_empty()
            && self.mended.is_empty()
    }
}

pub(super) async fn batches(stream: BoxStream<'static, Result<ChangeBatch, ChangesError>>) -> Vec<ChangeBatch> {
    stream.try_collect().await.unwrap()
}

pub(super) async fn seen(stream: BoxStream<'static, Result<ChangeBatch, ChangesError>>) -> Seen {
    let mut seen = Seen::default();
    for batch in batches(stream).await {
        seen.before.extend(rows(&batch.before));
        seen.after.extend(rows(&batch.after));
        seen.replaced.extend(batch.replaced["id"].as_primitive::<Int64Type>().values());
        seen.bad.extend(batch.bad);
        seen.mended.extend(batch.mended);
        seen.counts.inserted += batch.counts.inserted;
        seen.counts.updated += batch.counts.updated;
        seen.counts.deleted += batch.counts.deleted;
        seen.counts.unchanged += batch.counts.unchanged;
        seen.counts.quarantined += batch.counts.quarantined;
        seen.files_done.push(batch.files_done);
        seen.sizes.push(batch.after.num_rows().max(batch.before.num_rows()));
    }
    seen.before.sort_by_key(|row| row.id);
    seen.after.sort_by_key(|row| row.id);
    seen.replaced.sort_unstable();
    seen
}

/// The records that a multiset of rows makes: keys whose rows are all equal.
pub(super) fn records(rows: &[Row]) -> BTreeMap<i64, String> {
    let mut contents: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for row in rows {
        if let Some(id) = row.id {
            contents.entry(id).or_default().push(row.content());
        }
    }
    contents.retain(|_, all| all.iter().all(|one| *one == all[0]));
    contents.into_iter().map(|(id, all)| (id, all[0].clone())).collect()
}
