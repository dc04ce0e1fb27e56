//! Net change and diff alone, without any engine: all sequences of up to five operations on a record. Each sequence has a record of its
//! own, and each operation of all sequences is one commit, so one window holds them all; commits that record their changes and commits
//! that replace whole files are mixed in every way.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::prelude::SessionContext;
use deltalake::protocol::SaveMode;
use distributary::changes::{From, Strategy, Table, TableOptions};
use distributary::mapping::diff::{Indexed, diff};
use distributary::mapping::{MappingFile, compile};
use futures::StreamExt;

use crate::support::lake::{Lake, copy_dir};
use crate::support::wait_for;

/// What is done to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    /// It gets one content, whether it is there or not.
    SetA,
    /// It gets another.
    SetB,
    /// What no target shows of it changes, if it is there.
    Touch,
    /// It is written as it is, if it is there.
    Rewrite,
    /// It goes.
    Delete,
}

const OPS: [Op; 5] = [Op::SetA, Op::SetB, Op::Touch, Op::Rewrite, Op::Delete];
const LENGTH: usize = 5;

/// What is known of a record: what the targets show, and what they do not.
type Content = (String, i64);
type Records = BTreeMap<i64, Content>;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("visits", DataType::Int64, true),
    ]))
}

fn batch(records: &Records) -> RecordBatch {
    let ids = Int64Array::from_iter_values(records.keys().copied());
    let names = StringArray::from_iter_values(records.values().map(|content| &content.0));
    let visits = Int64Array::from_iter_values(records.values().map(|content| content.1));
    RecordBatch::try_new(schema(), vec![Arc::new(ids), Arc::new(names), Arc::new(visits)]).unwrap()
}

/// The number of sequences of exactly [`LENGTH`]; shorter ones are their beginnings, seen by windows that end earlier.
fn sequences() -> i64 {
    (OPS.len() as i64).pow(LENGTH as u32)
}

/// The operation of a sequence at a place. Half of the records are there at the beginning.
fn op(id: i64, place: usize) -> Op {
    OPS[usize::try_from(id / 2 / (OPS.len() as i64).pow(place as u32)).unwrap() % OPS.len()]
}

/// The states of the table: at the beginning and after each place.
fn states() -> Vec<Records> {
    let first: Records = (0..2 * sequences()).filter(|id| id % 2 == 0).map(|id| (id, ("a".to_owned(), 0))).collect();
    let mut all = vec![first];
    for place in 0..LENGTH {
        let mut next = all[place].clone();
        for id in 0..2 * sequences() {
            match op(id, place) {
                Op::SetA => drop(next.insert(id, ("a".to_owned(), 0))),
                Op::SetB => drop(next.insert(id, ("b".to_owned(), 0))),
                Op::Touch => {
                    next.entry(id).and_modify(|content| content.1 += 1);
                }
                Op::Rewrite => {}
                Op::Delete => drop(next.remove(&id)),
            }
        }
        all.push(next);
    }
    all
}

/// One commit that leads from one state to the next: a merge that records what it changed.
async fn merge(lake: &Lake, next: &Records) {
    let rows = SessionContext::new().read_batch(batch(next)).unwrap();
    let table = lake.open("things").await;
    let set = |columns: [&'static str; 3]| columns.map(|column| (column, format!("s.{column}")));
    table
        .merge(rows, "t.id = s.id")
        .with_source_alias("s")
        .with_target_alias("t")
        .when_matched_update(|update| set(["id", "name", "visits"]).into_iter().fold(update, |u, (c, e)| u.update(c, e)))
        .and_then(|merge| {
            merge
                .when_not_matched_insert(|insert| set(["id", "name", "visits"]).into_iter().fold(insert, |i, (c, e)| i.set(c, e)))
        })
        // Everything that the source lacks is what the operation deletes.
        .and_then(|merge| merge.when_not_matched_by_source_delete(|delete| delete))
        .unwrap()
        .await
        .unwrap();
}

/// The same as a commit that replaces the whole table.
async fn overwrite(lake: &Lake, next: &Records) {
    lake.open("things").await.write(vec![batch(next)]).with_save_mode(SaveMode::Overwrite).await.unwrap();
}

/// What the projection's rows are, as the model has them.
fn shown(records: &Records) -> BTreeMap<i64, String> {
    records.iter().map(|(id, content)| (*id, content.0.clone())).collect()
}

/// Reads a window, and holds every batch to say what the model says.
async fn window(root: &Path, from: usize, to: usize, states: &[Records], strategy: Strategy, batch_rows: usize) {
    let mut options = TableOptions::new("things", root.join("things").display().to_string(), &["id"]);
    options.batch_rows = batch_rows;
    let table = Table::open(options, Arc::new(RuntimeEnv::default())).await.unwrap();
    // Version 0 makes the table, version 1 fills it, version 1 + n is the n-th operation.
    let version = |place: usize| i64::try_from(place).unwrap() + 1;
    let start = From { table_id: table.id().to_owned(), version: version(from), to: Some(version(to)) };
    let plan = table.plan(Some(&start)).await.unwrap();
    let when = format!("window {from} to {to} by {:?}: {}", plan.strategy, plan.reason);
    assert_eq!(plan.strategy, strategy, "{when}");
    let (before, after) = (&states[from], &states[to]);
    let mut seen = BTreeSet::new();
    let mut copy = before.clone();
    let mut targets = shown(before);
    let mut stream = table.read(&plan, 0);
    let text = "tables: {things: {key: [id], clickhouse: {thing: {key: [id], sql: \"SELECT id, name FROM things\"}}}}";
    let file = MappingFile::parse(text, Path::new("m.yaml")).unwrap();
    let schemas = BTreeMap::from([("things".to_owned(), table.schema())]);
    let compiled = compile(&file, Path::new("m.yaml"), &schemas).await.unwrap();
    let projection = &compiled.tables["things"].projections[0];
    let key = ["id".to_owned()];
    while let Some(batch) = stream.next().await {
        let batch = batch.unwrap();
        assert!(batch.bad.is_empty() && batch.mended.is_empty() && batch.replaced.num_rows() == 0, "{when}");
        assert!(batch.after.num_rows() <= batch_rows && batch.before.num_rows() <= batch_rows, "{when}");
        for (id, content) in rows(&batch.before) {
            assert_eq!(before.get(&id), Some(&content), "{when}: the record {id} before");
            assert!(copy.remove(&id).is_some(), "{when}: {id} comes twice");
        }
        for (id, content) in rows(&batch.after) {
            assert_eq!(after.get(&id), Some(&content), "{when}: the record {id} after");
            assert!(seen.insert(id), "{when}: {id} comes twice");
            copy.insert(id, content);
        }
        // The rows of the target, and their difference.
        let narrow = |records: &RecordBatch| records.project(&[0, 1]).unwrap();
        let side = |rows: &RecordBatch| Indexed::new(rows, &key, &[]).unwrap().0;
        let was = side(&projection.project(&narrow(&batch.before)).await.unwrap().0);
        let is = side(&projection.project(&narrow(&batch.after)).await.unwrap().0);
        let difference = diff(&was, &is).unwrap();
        let id_at = |rows: &RecordBatch, at: u32| int(rows, 0).value(at as usize);
        let name_at = |rows: &RecordBatch, at: u32| string(rows, 1).value(at as usize).to_owned();
        for at in difference.inserted.iter().chain(difference.updated.iter().map(|(_, after)| after)) {
            let (id, name) = (id_at(is.rows(), *at), name_at(is.rows(), *at));
            assert_ne!(targets.insert(id, name.clone()), Some(name), "{when}: {id} is written and was so already");
        }
        for at in &difference.deleted {
            let id = id_at(was.rows(), *at);
            assert!(targets.remove(&id).is_some(), "{when}: {id} is deleted and was not there");
        }
    }
    assert_eq!(copy, *after, "{when}: the net changes do not lead to what the table is");
    assert_eq!(targets, shown(after), "{when}: the differences do not lead to what the target should be");
}

fn int(batch: &RecordBatch, column: usize) -> &Int64Array {
    batch.column(column).as_any().downcast_ref().unwrap()
}

fn string(batch: &RecordBatch, column: usize) -> &StringArray {
    batch.column(column).as_any().downcast_ref().unwrap()
}

fn rows(batch: &RecordBatch) -> Vec<(i64, Content)> {
    (0..batch.num_rows())
        .map(|row| (int(batch, 0).value(row), (string(batch, 1).value(row).to_owned(), int(batch, 2).value(row))))
        .collect()
}

/// Makes every mixture of commits, sharing their beginnings, and reads every window of each.
async fn every_mixture(root: &Path, states: &[Records], feed: bool) {
    let lake = Lake::at(root.join("start"));
    lake.create_table("things", &schema(), feed).await;
    lake.append_batch("things", batch(&states[0])).await;
    let mut open = vec![(lake, 0)];
    while let Some((lake, place)) = open.pop() {
        if place == LENGTH {
            let strategy = if feed { Strategy::Feed } else { Strategy::Diff };
            for from in 0..LENGTH {
                window(&lake.root, from, LENGTH, states, strategy, if from == 0 { 500 } else { 4096 }).await;
            }
            window(&lake.root, 0, 2, states, strategy, 4096).await;
            window(&lake.root, 1, 4, states, strategy, 4096).await;
            std::fs::remove_dir_all(&lake.root).unwrap();
            continue;
        }
        let other = Lake::at(format!("{}o", lake.root.display()));
        copy_dir(&lake.root, &other.root);
        merge(&lake, &states[place + 1]).await;
        overwrite(&other, &states[place + 1]).await;
        open.push((lake, place + 1));
        open.push((other, place + 1));
    }
}

#[test]
fn all_sequences_up_to_five_on_a_feed() {
    let home = tempfile::tempdir().unwrap();
    wait_for(every_mixture(home.path(), &states(), true));
}

#[test]
fn all_sequences_up_to_five_without_a_feed() {
    let home = tempfile::tempdir().unwrap();
    wait_for(every_mixture(home.path(), &states(), false));
}
