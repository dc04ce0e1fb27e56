//! History that is missing, and tables that cannot be read: each has its own error, and its way on.

use deltalake::checkpoints::create_checkpoint;

use super::*;

async fn two_changes(feed: bool) -> (Lake, i64) {
    let mut lake = Lake::new(feed).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0), row(3, "c", 3.0)]).await;
    let start = lake.version();
    lake.update("id = 1", "name", "'x'").await;
    lake.delete("id = 2").await;
    (lake, start)
}

async fn stopped(lake: &Lake, from: i64) -> ChangesError {
    lake.open_strict().await.plan(Some(&lake.from(from))).await.unwrap_err()
}

#[tokio::test]
async fn a_vacuumed_change_file_is_a_gap() {
    let (lake, start) = two_changes(true).await;
    assert!(lake.remove_files("_change_data") > 0);
    let error = stopped(&lake, start).await;
    assert!(
        matches!(&error, ChangesError::FilesVacuumed { version, file, .. } if *version == start + 1 && file.contains("_change_data")),
        "{error}"
    );
    assert!(error.is_gap() && error.to_string().contains("films"));
    // The data files are still there, so the difference of the snapshots is.
    let plan = lake.planned(start).await;
    assert_eq!(plan.strategy, Strategy::Diff, "{}", plan.reason);
    assert!(plan.reason.contains("is gone"), "{}", plan.reason);
    let seen = lake.since(start).await;
    assert_eq!((seen.before, seen.after), (vec![row(1, "a", 1.0), row(2, "b", 2.0)], vec![row(1, "x", 1.0)]));
}

#[tokio::test]
async fn vacuumed_data_leaves_the_snapshot() {
    let (mut lake, start) = two_changes(true).await;
    lake.remove_files("_change_data");
    let old = lake.open().await.differing(start, lake.version()).await.unwrap().0;
    assert!(!old.is_empty());
    for file in &old {
        assert_eq!(lake.remove_files(&file.path), 1);
    }
    let plan = lake.planned(start).await;
    assert_eq!((plan.strategy, plan.sweep, plan.recreated, plan.from), (Strategy::Snapshot, true, false, None));
    let seen = lake.since(start).await;
    assert_eq!(seen.after, [row(1, "x", 1.0), row(3, "c", 3.0)]);
    // Without a feed it is a gap of the difference.
    lake.set("delta.enableChangeDataFeed", "false").await;
    let error = stopped(&lake, start).await;
    assert!(error.is_gap(), "{error}");
}

#[tokio::test]
async fn a_cleaned_log_is_a_gap() {
    let (mut lake, start) = two_changes(true).await;
    create_checkpoint(&lake.delta, None).await.unwrap();
    lake.append(&[row(4, "d", 4.0)]).await;
    for version in 0..lake.version() - 1 {
        std::fs::remove_file(lake.commit_file(version)).unwrap();
    }
    let error = stopped(&lake, start).await;
    assert!(matches!(&error, ChangesError::LogCleaned { version, .. } if *version == start + 1), "{error}");
    let plan = lake.planned(start).await;
    assert_eq!((plan.strategy, plan.sweep, plan.to), (Strategy::Snapshot, true, lake.version()), "{}", plan.reason);
    // The last commit alone is still there.
    let last = lake.version() - 1;
    assert_eq!(lake.planned(last).await.strategy, Strategy::Feed);
    assert_eq!(lake.since(last).await.after, [row(4, "d", 4.0)]);
}

#[tokio::test]
async fn a_feed_that_was_off_for_a_while_is_a_gap() {
    let (mut lake, _) = two_changes(false).await;
    let start = lake.version();
    lake.update("id = 1", "name", "'y'").await;
    lake.set("delta.enableChangeDataFeed", "true").await;
    let on = lake.version();
    lake.update("id = 1", "name", "'z'").await;
    let error = stopped(&lake, start).await;
    assert!(matches!(&error, ChangesError::FeedOff { version, .. } if *version == start), "{error}");
    let plan = lake.planned(start).await;
    assert_eq!(plan.strategy, Strategy::Diff);
    assert_eq!(lake.since(start).await.after, [row(1, "z", 1.0)]);
    assert_eq!(lake.planned(on).await.strategy, Strategy::Feed);
    assert_eq!(lake.since(on).await.before, [row(1, "y", 1.0)]);
    lake.set("delta.enableChangeDataFeed", "false").await;
    lake.set("delta.enableChangeDataFeed", "true").await;
    let error = stopped(&lake, on).await;
    assert!(matches!(&error, ChangesError::FeedOff { version, .. } if *version == on + 2), "{error}");
}

#[tokio::test]
async fn a_recreated_table_is_noticed() {
    let (mut lake, start) = two_changes(true).await;
    let from = lake.from(start);
    std::fs::remove_dir_all(lake.dir.path().join("_delta_log")).unwrap();
    lake.delta = Lake::create(lake.dir.path(), true, &[], SaveMode::ErrorIfExists).await;
    lake.append(&[row(8, "new", 1.0)]).await;
    let error = lake.open_strict().await.plan(Some(&from)).await.unwrap_err();
    assert!(matches!(&error, ChangesError::Recreated { was, .. } if *was == from.table_id), "{error}");
    let plan = lake.open().await.plan(Some(&from)).await.unwrap();
    assert_eq!((plan.strategy, plan.sweep, plan.recreated), (Strategy::Snapshot, true, true));
}

#[tokio::test]
async fn a_table_that_went_back_is_noticed() {
    let (lake, start) = two_changes(true).await;
    let from = From { version: start + 40, ..lake.from(start) };
    let error = lake.open_strict().await.plan(Some(&from)).await.unwrap_err();
    assert!(matches!(error, ChangesError::WentBack { was, .. } if was == start + 40));
    let plan = lake.open().await.plan(Some(&from)).await.unwrap();
    assert_eq!((plan.strategy, plan.recreated), (Strategy::Snapshot, true));
}

#[tokio::test]
async fn a_narrowed_column_leaves_the_snapshot() {
    let (mut lake, start) = two_changes(true).await;
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Int64, true)]);
    let columns = vec![Arc::new(Int64Array::from(vec![1])) as _, Arc::new(Int64Array::from(vec![7])) as _];
    let other = RecordBatch::try_new(Arc::new(schema), columns).unwrap();
    let write = lake.delta.clone().write([other]).with_save_mode(SaveMode::Overwrite);
    lake.delta = write.with_schema_mode(deltalake::operations::write::SchemaMode::Overwrite).await.unwrap();
    let plan = lake.planned(start).await;
    assert_eq!((plan.strategy, plan.sweep), (Strategy::Snapshot, true));
    assert!(plan.reason.contains("column name changed from string to long"), "{}", plan.reason);
    assert!(matches!(stopped(&lake, start).await, ChangesError::SchemaChanged { .. }));
}

#[tokio::test]
async fn a_widened_column_is_cast() {
    for feed in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let narrow = |rows: Vec<(i64, i32)>| {
            let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("n", DataType::Int32, true)]);
            let ids = rows.iter().map(|row| row.0).collect::<Int64Array>();
            let numbers = rows.iter().map(|row| row.1).collect::<arrow::array::Int32Array>();
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(numbers)]).unwrap()
        };
        let wide = |rows: Vec<(i64, i64)>| {
            let schema = Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("n", DataType::Int64, true)]);
            let ids = rows.iter().map(|row| row.0).collect::<Int64Array>();
            let numbers = rows.iter().map(|row| row.1).collect::<Int64Array>();
            RecordBatch::try_new(Arc::new(schema), vec![Arc::new(ids), Arc::new(numbers)]).unwrap()
        };
        let url = Url::from_directory_path(dir.path()).unwrap();
        let table = DeltaTableBuilder::from_url(url).unwrap().build().unwrap();
        let fields = [StructField::nullable("id", PrimitiveType::Long), StructField::nullable("n", PrimitiveType::Integer)];
        let mut create = table.create().with_columns(fields);
        if feed {
            create = create.with_configuration_property(TableProperty::EnableChangeDataFeed, Some("true"));
        }
        let delta = create.await.unwrap().write([narrow(vec![(1, 1), (2, 2)])]).await.unwrap();
        let start = i64::try_from(delta.version().unwrap()).unwrap();
        let delta = delta.write([narrow(vec![(3, 3)])]).await.unwrap();
        let write = delta.write([wide(vec![(1, 1), (2, 5_000_000_000)])]).with_save_mode(SaveMode::Overwrite);
        let delta = write.with_schema_mode(deltalake::operations::write::SchemaMode::Overwrite).await.unwrap();
        let table = Table::open(TableOptions::new("t", dir.path().to_str().unwrap(), &["id"]), runtime()).await.unwrap();
        let id = delta.snapshot().unwrap().metadata().id().to_owned();
        let plan = table.plan(Some(&From { table_id: id, version: start, to: None })).await.unwrap();
        // delta-rs forgets the table's properties in such a write, so the feed may have a gap; the records have none.
        assert_ne!(plan.strategy, Strategy::Snapshot, "{}", plan.reason);
        let all = batches(table.read(&plan, 0)).await;
        let numbers = |batch: &RecordBatch| batch["n"].as_primitive::<Int64Type>().values().to_vec();
        let before: Vec<i64> = all.iter().flat_map(|batch| numbers(&batch.before)).collect();
        let after: Vec<i64> = all.iter().flat_map(|batch| numbers(&batch.after)).collect();
        assert_eq!((before, after), (vec![2], vec![5_000_000_000]));
        assert_eq!(all.iter().map(|batch| batch.counts.unchanged).sum::<u64>(), if feed { 2 } else { 1 });
    }
}

#[tokio::test]
async fn a_key_must_be_there_and_identify() {
    let lake = Lake::new(true).await;
    for (key, what) in
        [("movie", "there is no column movie"), ("score", "cannot identify a record"), ("tags", "cannot identify a record")]
    {
        let error = Table::open(TableOptions::new("films", lake.path(), &[key]), runtime()).await.unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
    let options = TableOptions { columns: Some(vec!["nope".to_owned()]), ..lake.options() };
    assert!(matches!(Table::open(options, runtime()).await.unwrap_err(), ChangesError::ColumnMissing { .. }));
    for options in [
        TableOptions::new("films", lake.path(), &[]),
        TableOptions::new("films", lake.path(), &["id", "id"]),
        TableOptions { batch_rows: 0, ..lake.options() },
    ] {
        assert!(matches!(Table::open(options, runtime()).await.unwrap_err(), ChangesError::Options { .. }));
    }
}

#[tokio::test]
async fn what_is_no_table_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("nowhere");
    for path in [dir.path(), missing.as_path()] {
        let error = Table::open(TableOptions::new("films", path.to_str().unwrap(), &["id"]), runtime()).await.unwrap_err();
        assert!(matches!(&error, ChangesError::NotATable { table, .. } if table == "films"), "{error}");
    }
    assert!(!missing.exists());
}

#[tokio::test]
async fn a_half_written_commit_is_named() {
    let (lake, _) = two_changes(true).await;
    let last = lake.commit_file(lake.version());
    let text = std::fs::read(&last).unwrap();
    std::fs::write(&last, &text[..text.len() / 2]).unwrap();
    let error = Table::open(lake.options(), runtime()).await.unwrap_err();
    assert!(matches!(&error, ChangesError::CommitDamaged { version, .. } if *version == lake.version()), "{error:?}");
}

/// Adds a commit by hand.
fn commit_by_hand(lake: &Lake, actions: &[serde_json::Value]) {
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    std::fs::write(lake.commit_file(lake.version() + 1), lines.join("\n")).unwrap();
}

#[tokio::test]
async fn a_table_of_a_feature_that_cannot_be_read_is_named() {
    let features = |name: &str| serde_json::json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": [name], "writerFeatures": [name]});
    for (protocol, named) in [
        (features("typeWidening"), "typeWidening"),
        (features("typeWidening-preview"), "typeWidening-preview"),
        (features("vacuumProtocolCheck"), "vacuumProtocolCheck"),
        (features("fancyFeature"), "fancyFeature"),
        (features("catalogManaged"), "catalog"),
        (serde_json::json!({"minReaderVersion": 4, "minWriterVersion": 8}), "version 4"),
    ] {
        let (lake, _) = two_changes(true).await;
        commit_by_hand(&lake, &[serde_json::json!({"protocol": protocol})]);
        let error = Table::open(lake.options(), runtime()).await.unwrap_err();
        assert!(matches!(error, ChangesError::Unsupported { .. }) && error.needs_decision() && !error.is_gap(), "{error:?}");
        assert!(error.to_string().contains(named) && error.to_string().contains("films"), "{error}");
    }
}

#[tokio::test]
async fn a_file_outside_the_table_is_named() {
    let (lake, _) = two_changes(true).await;
    let other = Lake::new(true).await;
    let add = |path: String| serde_json::json!({"add": {"path": path, "partitionValues": {}, "size": 1, "modificationTime": 1, "dataChange": true}});
    commit_by_hand(&lake, &[add(format!("file:{}/part-0.parquet", other.path()))]);
    let error = Table::open(lake.options(), runtime()).await.unwrap_err();
    assert!(matches!(&error, ChangesError::Elsewhere { file, .. } if file.ends_with("/part-0.parquet")), "{error:?}");
    assert!(error.needs_decision() && !error.is_gap() && error.to_string().contains("SHALLOW CLONE"), "{error}");
}

#[tokio::test]
async fn nothing_since_is_nothing_to_read() {
    let (lake, _) = two_changes(true).await;
    let plan = lake.planned(lake.version()).await;
    assert!(plan.is_empty());
    let seen = lake.since(lake.version()).await;
    assert!(seen.is_nothing() && seen.files_done.is_empty());
    let empty = Lake::new(true).await;
    let table = empty.open().await;
    let plan = table.plan(None).await.unwrap();
    assert_eq!((plan.strategy, plan.sweep), (Strategy::Snapshot, false));
    assert!(super::seen(table.read(&plan, 0)).await.is_nothing());
}

#[tokio::test]
async fn a_window_that_was_begun_is_finished_first() {
    let (mut lake, start) = two_changes(true).await;
    let from = From { to: Some(start + 1), ..lake.from(start) };
    lake.append(&[row(1, "second", 1.0)]).await;
    let table = lake.open().await;
    let plan = table.plan(Some(&from)).await.unwrap();
    assert_eq!((plan.strategy, plan.to), (Strategy::Feed, start + 1));
    let seen = seen(table.read(&plan, 0)).await;
    assert_eq!((seen.after, seen.before, seen.bad.len()), (vec![row(1, "x", 1.0)], vec![row(1, "a", 1.0)], 0));
    // Its end cannot be read any more: everything anew.
    let (_, new) = table.differing(lake.version(), start + 1).await.unwrap();
    assert!(!new.is_empty());
    for file in &new {
        assert_eq!(lake.remove_files(&file.path), 1);
    }
    let plan = table.plan(Some(&from)).await.unwrap();
    assert_eq!((plan.strategy, plan.to, plan.sweep), (Strategy::Snapshot, lake.version(), true));
}

#[tokio::test]
async fn a_large_window_is_cut_at_a_commit() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(0, "a", 1.0)]).await;
    let start = lake.version();
    for id in 1..6 {
        lake.append(&[row(id, "a", 1.0)]).await;
    }
    let table = Table::open(TableOptions { window_bytes: 1, ..lake.options() }, runtime()).await.unwrap();
    let (mut at, mut keys) = (lake.from(start), Vec::new());
    while at.version < lake.version() {
        let plan = table.plan(Some(&at)).await.unwrap();
        assert_eq!((plan.strategy, plan.to), (Strategy::Feed, at.version + 1));
        keys.extend(seen(table.read(&plan, 0)).await.keys_after());
        at.version = plan.to;
    }
    assert_eq!(keys, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_feed_that_cannot_be_read_is_no_gap() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    let start = lake.version();
    lake.overwrite(&[row(1, "x", 1.0), row(2, "b", 2.0)]).await;
    assert_eq!(lake.planned(start).await.strategy, Strategy::Feed);
    let file = lake.commit_file(lake.version());
    let mut lines = Vec::new();
    for line in std::fs::read_to_string(&file).unwrap().lines() {
        let mut action: serde_json::Value = serde_json::from_str(line).unwrap();
        if let Some(remove) = action.get_mut("remove").and_then(serde_json::Value::as_object_mut) {
            remove.retain(|name, _| ["path", "dataChange", "deletionTimestamp"].contains(&name.as_str()));
        }
        lines.push(action.to_string());
    }
    std::fs::write(&file, lines.join("\n")).unwrap();
    let plan = lake.open_strict().await.plan(Some(&lake.from(start))).await.unwrap();
    assert_eq!(plan.strategy, Strategy::Diff, "{}", plan.reason);
    assert_eq!(lake.since(start).await.after, [row(1, "x", 1.0)]);
    for column in ["score", "id"] {
        let mut lake = Lake::with(true, &[column]).await;
        lake.append(&[row(1, "a", 1.25)]).await;
        let start = lake.version();
        lake.update("true", "name", "'x'").await;
        let plan = lake.planned(start).await;
        assert_eq!(plan.strategy, if column == "id" { Strategy::Feed } else { Strategy::Diff }, "{}", plan.reason);
        let seen = lake.since(start).await;
        assert_eq!((seen.before, seen.after), (vec![row(1, "a", 1.25)], vec![row(1, "x", 1.25)]));
    }
}

#[tokio::test]
async fn columns_with_other_names_in_the_files_are_read_by_difference() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0)]).await;
    let start = lake.version();
    // What ALTER TABLE … RENAME COLUMN needs first: the mapping is turned on, every column keeps its name in the files.
    let text = std::fs::read_to_string(lake.commit_file(0)).unwrap();
    let found = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find(|line| line.get("metaData").is_some());
    let mut metadata = found.unwrap();
    let mapped = |metadata: &mut serde_json::Value, rename: Option<(&str, &str)>| {
        let mut schema: serde_json::Value = serde_json::from_str(metadata["metaData"]["schemaString"].as_str().unwrap()).unwrap();
        for (number, field) in schema["fields"].as_array_mut().unwrap().iter_mut().enumerate() {
            let name = field["name"].as_str().unwrap().to_owned();
            field["metadata"]["delta.columnMapping.id"] = (number + 1).into();
            if field["metadata"].get("delta.columnMapping.physicalName").is_none() {
                field["metadata"]["delta.columnMapping.physicalName"] = name.clone().into();
            }
            if let Some((from, to)) = rename.filter(|(from, _)| *from == name) {
                field["name"] = to.into();
                assert_ne!(from, to);
            }
        }
        metadata["metaData"]["schemaString"] = schema.to_string().into();
        metadata["metaData"]["configuration"]["delta.columnMapping.mode"] = "name".into();
        metadata["metaData"]["configuration"]["delta.columnMapping.maxColumnId"] = "4".into();
        metadata.to_string()
    };
    let protocol = serde_json::json!({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}).to_string();
    let on = mapped(&mut metadata, None);
    std::fs::write(lake.commit_file(start + 1), format!("{protocol}\n{on}")).unwrap();
    lake.delta.update_state().await.unwrap();
    let table = lake.open().await;
    assert_eq!(seen(table.at(start + 1)).await.after, [row(1, "a", 1.0), row(2, "b", 2.0)]);
    // A commit that removes a file.
    let text = std::fs::read_to_string(lake.commit_file(start)).unwrap();
    let add = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .find_map(|line| line.get("add").cloned())
        .unwrap();
    let remove = serde_json::json!({"remove": {"path": add["path"], "deletionTimestamp": 1, "dataChange": true, "extendedFileMetadata": true,
        "partitionValues": {}, "size": add["size"]}});
    std::fs::write(lake.commit_file(start + 2), remove.to_string()).unwrap();
    lake.delta.update_state().await.unwrap();
    let plan = lake.planned(start + 1).await;
    assert_eq!(plan.strategy, Strategy::Diff, "{}", plan.reason);
    assert_eq!(lake.since(start + 1).await.before, [row(1, "a", 1.0), row(2, "b", 2.0)]);
    // From before the mapping was turned on, too.
    let plan = lake.planned(start).await;
    assert_eq!(plan.strategy, Strategy::Diff, "{}", plan.reason);
    assert_eq!(lake.since(start).await.before, [row(1, "a", 1.0), row(2, "b", 2.0)]);
    // A renamed column cannot be compared with what it was.
    let renamed = mapped(&mut metadata, Some(("name", "title")));
    std::fs::write(lake.commit_file(start + 3), renamed).unwrap();
    lake.delta.update_state().await.unwrap();
    let plan = lake.planned(start + 1).await;
    assert_eq!((plan.strategy, plan.sweep), (Strategy::Snapshot, true), "{}", plan.reason);
    assert!(plan.reason.contains("renamed"), "{}", plan.reason);
}
