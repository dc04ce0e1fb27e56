//! What a window of commits makes of records, case by case.

use super::*;

#[tokio::test]
async fn inserts_updates_and_deletes_come_out_once() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0), row(3, "c", 3.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "name", "'x'").await;
    lake.update("id = 1", "name", "'y'").await;
    lake.delete("id = 2").await;
    lake.append(&[row(4, "d", 4.0)]).await;
    lake.merge(&[row(4, "dd", 4.0), row(5, "e", 5.0)]).await;
    let plan = lake.planned(start).await;
    assert_eq!((plan.strategy, plan.from, plan.to), (Strategy::Feed, Some(start), lake.version()));
    let seen = lake.since(start).await;
    assert_eq!(seen.before, [row(1, "a", 1.0), row(2, "b", 2.0)]);
    assert_eq!(seen.after, [row(1, "y", 1.0), row(4, "dd", 4.0), row(5, "e", 5.0)]);
    assert_eq!(seen.counts, RecordCounts { inserted: 2, updated: 1, deleted: 1, ..RecordCounts::default() });
    assert!(seen.replaced.is_empty() && seen.bad.is_empty() && seen.mended.is_empty());
}

#[tokio::test]
async fn what_cancels_out_is_no_change() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", f64::NAN), row(3, "c", 0.0)]).await;
    let start = lake.version();
    lake.append(&[row(9, "short", 1.0)]).await;
    lake.delete("id = 9").await;
    lake.delete("id = 1").await;
    lake.append(&[row(1, "a", 1.0)]).await;
    lake.update("id = 3", "score", "-0.0").await;
    lake.overwrite(&[row(1, "a", 1.0), row(2, "b", -f64::NAN), row(3, "c", -0.0)]).await;
    let seen = lake.since(start).await;
    assert!(seen.is_nothing(), "{seen:?}");
    assert_eq!(seen.counts, RecordCounts { unchanged: 4, ..RecordCounts::default() });
}

#[tokio::test]
async fn an_overwrite_changes_what_differs() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0), row(3, "c", 3.0)]).await;
    let start = lake.version();
    lake.overwrite(&[row(2, "b", 2.0), row(3, "cc", 3.0), row(4, "d", 4.0)]).await;
    let seen = lake.since(start).await;
    assert_eq!((seen.keys_before(), seen.keys_after()), (vec![1, 3], vec![3, 4]));
    assert_eq!(seen.counts.unchanged, 1);
}

#[tokio::test]
async fn compaction_is_no_change() {
    let mut lake = Lake::new(true).await;
    for id in 0..4 {
        lake.append(&[row(id, "a", 1.0)]).await;
    }
    let start = lake.version();
    lake.optimize().await;
    assert!(lake.version() > start);
    let seen = lake.since(start).await;
    assert!(seen.is_nothing());
    assert_eq!(seen.counts, RecordCounts::default());
}

#[tokio::test]
async fn a_restore_takes_back() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "name", "'x'").await;
    lake.delete("id = 2").await;
    let middle = lake.version();
    lake.restore(start).await;
    assert!(lake.since(start).await.is_nothing());
    let seen = lake.since(middle).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "x", 1.0)], vec![row(1, "a", 1.0), row(2, "b", 2.0)]));
}

#[tokio::test]
async fn a_changed_key_is_a_delete_and_an_insert() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "id", "7").await;
    let seen = lake.since(start).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "a", 1.0)], vec![row(7, "a", 1.0)]));
    assert_eq!(seen.counts, RecordCounts { inserted: 1, deleted: 1, ..RecordCounts::default() });
}

#[tokio::test]
async fn a_table_without_a_feed_is_read_by_difference() {
    let mut lake = Lake::new(false).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    lake.append(&[row(3, "c", 3.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "name", "'x'").await;
    lake.delete("id = 3").await;
    let plan = lake.planned(start).await;
    assert_eq!(plan.strategy, Strategy::Diff);
    assert!(plan.reason.contains("no change feed"), "{}", plan.reason);
    // That there never was a feed is no gap.
    assert_eq!(lake.open_strict().await.plan(Some(&lake.from(start))).await.unwrap(), plan);
    let seen = lake.since(start).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "a", 1.0), row(3, "c", 3.0)], vec![row(1, "x", 1.0)]));
    assert_eq!(seen.counts.unchanged, 1);
}

#[tokio::test]
async fn a_delivery_twice_is_one_record() {
    for feed in [true, false] {
        let mut lake = Lake::new(feed).await;
        lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
        let start = lake.version();
        lake.append(&[row(1, "a", 1.0), row(3, "c", 3.0), row(3, "c", 3.0)]).await;
        let seen = lake.since(start).await;
        assert_eq!((seen.before.len(), seen.bad.len()), (0, 0));
        assert_eq!(seen.after, [row(1, "a", 1.0), row(3, "c", 3.0)]);
        assert_eq!(seen.replaced, [1, 3]);
        let middle = lake.version();
        lake.delete("id = 3").await;
        let seen = lake.since(middle).await;
        assert_eq!((seen.after.len(), seen.replaced.clone(), seen.before.len()), (0, vec![3], 0), "{seen:?}");
        assert_eq!(seen.counts.deleted, 1);
    }
}

#[tokio::test]
async fn two_different_records_of_one_key_are_bad_until_one_is_gone() {
    for feed in [true, false] {
        let mut lake = Lake::new(feed).await;
        lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
        let start = lake.version();
        lake.append(&[row(1, "other", 1.0), row(3, "c", 3.0)]).await;
        let middle = lake.version();
        let seen = lake.since(start).await;
        assert_eq!((seen.keys_after(), seen.replaced.len(), seen.counts.quarantined), (vec![3], 0, 1));
        let bad = &seen.bad[0];
        assert_eq!((bad.reason, bad.key.as_str()), (BadReason::DuplicateKey, "{\"id\":1}"));
        assert!(
            bad.payload.starts_with('[') && bad.payload.contains("other") && bad.payload.contains("\"a\""),
            "{}",
            bad.payload
        );
        // Only the other one changes: it stays bad.
        lake.update("name = 'other'", "score", "9.0").await;
        let seen = lake.since(middle).await;
        assert_eq!((seen.bad.len(), seen.after.len(), seen.replaced.len()), (1, 0, 0));
        lake.delete("name = 'other'").await;
        let seen = lake.since(middle).await;
        assert_eq!((seen.bad.len(), seen.after, seen.replaced), (0, vec![row(1, "a", 1.0)], vec![1]));
    }
}

#[tokio::test]
async fn a_record_without_a_key_is_bad_and_mended_when_it_goes() {
    for feed in [true, false] {
        let mut lake = Lake::new(feed).await;
        lake.append(&[row(1, "a", 1.0)]).await;
        let start = lake.version();
        let broken = Row { id: None, ..row(0, "lost", 2.0) };
        lake.append(&[broken.clone(), broken.clone(), row(2, "b", 2.0)]).await;
        let middle = lake.version();
        let seen = lake.since(start).await;
        assert_eq!((seen.keys_after(), seen.bad.len(), seen.counts.quarantined), (vec![2], 1, 1));
        let bad = &seen.bad[0];
        assert_eq!((bad.reason, bad.key.as_str()), (BadReason::NullKey, "{\"id\":null}"));
        assert!(bad.payload.contains("lost"));
        lake.update("name = 'lost'", "id", "5").await;
        let seen = lake.since(middle).await;
        assert_eq!(seen.mended, std::slice::from_ref(&bad.hash));
        assert_eq!(seen.after, [row(5, "lost", 2.0)]);
    }
}

#[tokio::test]
async fn one_of_two_equal_records_without_a_key_mends_nothing() {
    let mut lake = Lake::new(true).await;
    let broken = Row { id: None, ..row(0, "lost", 2.0) };
    lake.append(std::slice::from_ref(&broken)).await;
    lake.append(std::slice::from_ref(&broken)).await;
    let start = lake.version();
    lake.overwrite(&[broken]).await;
    let seen = lake.since(start).await;
    assert!(seen.is_nothing(), "{seen:?}");
}

#[tokio::test]
async fn a_column_added_in_the_middle_is_null_before() {
    for feed in [true, false] {
        let mut lake = Lake::new(feed).await;
        lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
        let start = lake.version();
        lake.update("id = 1", "name", "'x'").await;
        lake.delta =
            lake.delta.clone().add_columns().with_fields([StructField::nullable("year", PrimitiveType::Long)]).await.unwrap();
        lake.update("id = 1", "year", "1924").await;
        let table = lake.open().await;
        let plan = table.plan(Some(&lake.from(start))).await.unwrap();
        assert_eq!(plan.strategy, if feed { Strategy::Feed } else { Strategy::Diff }, "{}", plan.reason);
        let all = batches(table.read(&plan, 0)).await;
        let changed: Vec<_> = all.iter().filter(|batch| batch.after.num_rows() > 0).collect();
        assert_eq!(changed.len(), 1);
        assert!(changed[0].before["year"].is_null(0));
        assert_eq!(changed[0].after["year"].as_primitive::<Int64Type>().values(), &[1924]);
        assert_eq!((rows(&changed[0].before), rows(&changed[0].after)), (vec![row(1, "a", 1.0)], vec![row(1, "x", 1.0)]));
    }
}

#[tokio::test]
async fn only_the_needed_columns_are_read_and_compared() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "score", "7.0").await;
    lake.update("id = 2", "name", "'x'").await;
    let options = TableOptions { columns: Some(vec!["name".to_owned()]), ..lake.options() };
    let table = Table::open(options, runtime()).await.unwrap();
    assert_eq!(table.schema().fields().iter().map(|field| field.name().as_str()).collect::<Vec<_>>(), ["id", "name"]);
    let plan = table.plan(Some(&lake.from(start))).await.unwrap();
    let all = batches(table.read(&plan, 0)).await;
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].counts.updated, all[0].counts.unchanged, all[0].after.num_columns()), (1, 1, 2));
    assert_eq!(all[0].after["id"].as_primitive::<Int64Type>().values(), &[2]);
}

#[tokio::test]
async fn partition_values_come_with_the_records() {
    for feed in [true, false] {
        let mut lake = Lake::with(feed, &["name"]).await;
        let none = Row { name: None, ..row(5, "", 5.0) };
        let odd = ["plain", "with space", "sl/ash", "per%cent", "ünï", "a=b", "q?#&"];
        let mut all: Vec<Row> = (10..).zip(odd).map(|(id, name)| row(id, name, 1.0)).collect();
        all.push(none.clone());
        lake.append(&all).await;
        let first = seen(lake.open().await.at(lake.version())).await;
        assert_eq!(records(&first.after), records(&all), "the snapshot");
        let start = lake.version();
        lake.update("score = 1.0", "score", "2.0").await;
        lake.delete("id = 5").await;
        let plan = lake.planned(start).await;
        let seen = lake.since(start).await;
        let changed: Vec<Row> =
            all.iter().filter(|row| row.id != Some(5)).map(|row| Row { score: Some(2.0), ..row.clone() }).collect();
        assert_eq!(records(&seen.before), records(&all), "before, by {plan:?}");
        assert_eq!(records(&seen.after), records(&changed), "after, by {plan:?}");
        assert!(seen.replaced.is_empty());
    }
}

#[tokio::test]
async fn the_feed_of_a_partitioned_table_has_its_values() {
    let mut lake = Lake::with(true, &["name"]).await;
    let all = [row(1, "plain", 1.0), row(2, "2024-01-31", 2.0), Row { name: None, ..row(3, "", 3.0) }];
    lake.append(&all).await;
    let start = lake.version();
    lake.update("true", "score", "score + 1.0").await;
    lake.append(&[row(4, "2024-01-31", 4.0)]).await;
    assert_eq!(lake.planned(start).await.strategy, Strategy::Feed);
    let seen = lake.since(start).await;
    assert_eq!(seen.before, all);
    let none = Row { name: None, ..row(3, "", 4.0) };
    assert_eq!(seen.after, [row(1, "plain", 2.0), row(2, "2024-01-31", 3.0), none, row(4, "2024-01-31", 4.0)]);
}

#[tokio::test]
async fn a_window_without_memory_spills() {
    let mut lake = Lake::new(true).await;
    let many =
        |suffix: &str| (0..20_000).map(|id| row(id, &format!("{id}-{suffix}-{}", "x".repeat(200)), 1.0)).collect::<Vec<_>>();
    lake.append(&many("a")).await;
    let start = lake.version();
    lake.overwrite(&many("b")).await;
    let table = Table::open(TableOptions { batch_rows: 1000, ..lake.options() }, small_runtime(24 << 20)).await.unwrap();
    let plan = table.plan(Some(&lake.from(start))).await.unwrap();
    let seen = seen(table.read(&plan, 0)).await;
    assert_eq!((seen.counts.updated, seen.before.len(), seen.after.len()), (20_000, 20_000, 20_000));
    assert!(seen.sizes.iter().all(|size| *size <= 1000), "{:?}", seen.sizes);
}

#[tokio::test]
async fn a_key_of_two_columns_identifies() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(1, "b", 2.0), row(2, "a", 3.0)]).await;
    let start = lake.version();
    lake.update("id = 1 and name = 'b'", "score", "9.0").await;
    lake.append(&[Row { name: None, ..row(3, "", 1.0) }, row(2, "a", 8.0)]).await;
    let table = Table::open(TableOptions::new("films", lake.path(), &["id", "name"]), runtime()).await.unwrap();
    let plan = table.plan(Some(&lake.from(start))).await.unwrap();
    let seen = seen(table.read(&plan, 0)).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "b", 2.0)], vec![row(1, "b", 9.0)]));
    let mut bad: Vec<_> = seen.bad.iter().map(|bad| (bad.reason, bad.key.as_str())).collect();
    bad.sort_by_key(|(_, key)| *key);
    assert_eq!(bad, [(BadReason::DuplicateKey, "{\"id\":2,\"name\":\"a\"}"), (BadReason::NullKey, "{\"id\":3,\"name\":null}")]);
}

#[tokio::test]
async fn a_key_that_changes_in_every_row_of_a_window_folds() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 0.0)]).await;
    let start = lake.version();
    // Forty thousand rows of one key come and go again.
    let many: Vec<Row> = (0..40_000).map(|score| row(1, "a", f64::from(score))).collect();
    lake.append(&many[1..]).await;
    lake.overwrite(&[row(1, "b", 0.0)]).await;
    let seen = lake.since(start).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "a", 0.0)], vec![row(1, "b", 0.0)]));
}

/// A batch with a list of structs of these fields.
fn nested(id: i64, fields: &[(&str, i64)]) -> RecordBatch {
    use arrow::array::{ArrayRef, ListArray, StructArray};
    use arrow::buffer::OffsetBuffer;
    let names: Vec<Field> = fields.iter().map(|(name, _)| Field::new(*name, DataType::Int64, true)).collect();
    let values: Vec<ArrayRef> = fields.iter().map(|(_, value)| Arc::new(Int64Array::from(vec![*value])) as ArrayRef).collect();
    let one: ArrayRef = Arc::new(StructArray::new(names.into(), values, None));
    let item = Arc::new(Field::new("element", one.data_type().clone(), true));
    let list: ArrayRef = Arc::new(ListArray::new(item, OffsetBuffer::new(vec![0, 1].into()), one.clone(), None));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![id]));
    RecordBatch::try_from_iter_with_nullable([("id", ids, true), ("detail", one, true), ("casts", list, true)]).unwrap()
}

#[tokio::test]
async fn a_field_added_inside_a_struct_is_null_before() {
    use deltalake::operations::write::SchemaMode;
    for feed in ["true", "false"] {
        let dir = tempfile::tempdir().unwrap();
        let url = Url::from_directory_path(dir.path()).unwrap();
        let table = DeltaTableBuilder::from_url(url).unwrap().build().unwrap();
        let configuration = [("delta.enableChangeDataFeed", Some(feed))];
        let delta = table.write([nested(1, &[("a", 1)])]).with_configuration(configuration).await.unwrap();
        let start = i64::try_from(delta.version().unwrap()).unwrap();
        let id = delta.snapshot().unwrap().metadata().id().to_owned();
        let delta = delta.write([nested(2, &[("a", 2)])]).await.unwrap();
        let delta = delta.write([nested(3, &[("a", 3), ("b", 30)])]).with_schema_mode(SchemaMode::Merge).await.unwrap();
        let delta = delta.delete().with_predicate("id = 1").await.unwrap().0;
        let table = Table::open(TableOptions::new("films", dir.path().to_str().unwrap(), &["id"]), runtime()).await.unwrap();
        let plan = table.plan(Some(&From { table_id: id, version: start, to: None })).await.unwrap();
        assert_eq!(plan.strategy, if feed == "true" { Strategy::Feed } else { Strategy::Diff }, "{}", plan.reason);
        let all = batches(table.read(&plan, 0)).await;
        assert_eq!(all.len(), 1);
        let fields = |batch: &RecordBatch, name: &str| -> Vec<String> {
            let inner = batch["detail"].as_struct().column_by_name(name).unwrap().clone();
            let listed = batch["casts"].as_list::<i32>().values().as_struct().column_by_name(name).unwrap().clone();
            [inner, listed]
                .iter()
                .flat_map(|column| column.as_primitive::<Int64Type>().iter().map(|value| format!("{value:?}")))
                .collect()
        };
        assert_eq!(fields(&all[0].before, "a"), ["Some(1)", "Some(1)"]);
        assert_eq!(fields(&all[0].before, "b"), ["None", "None"]);
        assert_eq!(fields(&all[0].after, "a"), ["Some(2)", "Some(3)", "Some(2)", "Some(3)"]);
        assert_eq!(fields(&all[0].after, "b"), ["None", "Some(30)", "None", "Some(30)"]);
        let version = i64::try_from(delta.version().unwrap()).unwrap();
        assert_eq!(batches(table.at(version)).await.iter().map(|batch| batch.after.num_rows()).sum::<usize>(), 2);
    }
}
