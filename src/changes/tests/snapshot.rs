//! One version whole: file by file, resumed in the middle, each key once; and what a sweep finds.

use arrow::array::Int64Array;
use futures::StreamExt;
use serde_json::json;

use super::*;

#[tokio::test]
async fn a_snapshot_goes_on_where_it_was() {
    let mut lake = Lake::new(true).await;
    for id in 0..5 {
        lake.append(&[row(id * 2, "a", 1.0), row(id * 2 + 1, "b", 1.0)]).await;
    }
    let table = lake.open().await;
    let plan = table.plan(None).await.unwrap();
    let whole = seen(table.read(&plan, 0)).await;
    assert_eq!(whole.keys_after(), (0..10).collect::<Vec<_>>());
    assert_eq!(whole.counts.inserted, 10);
    // Small files come together.
    assert_eq!(whole.files_done, [5]);
    let mut left = Vec::new();
    for done in 0..=5 {
        left.push(seen(table.read(&plan, done)).await.after.len());
    }
    assert_eq!(left, [10, 8, 6, 4, 2, 0]);
    let resumed = table.resume(table.id(), plan.to, false).await.unwrap().unwrap();
    assert_eq!((resumed.to, resumed.sweep, resumed.strategy), (plan.to, false, Strategy::Snapshot));
    assert_eq!(table.resume("another", plan.to, false).await.unwrap(), None);
}

#[tokio::test]
async fn files_are_done_when_their_last_batch_is_delivered() {
    let mut lake = Lake::new(true).await;
    lake.append(&(0..25).map(|id| row(id, "a", 1.0)).collect::<Vec<_>>()).await;
    let table = Table::open(TableOptions { batch_rows: 10, ..lake.options() }, runtime()).await.unwrap();
    let seen = seen(table.at(lake.version())).await;
    assert_eq!((seen.files_done, seen.sizes), (vec![0, 0, 1], vec![10, 10, 5]));
}

#[tokio::test]
async fn an_old_version_can_be_resumed_while_its_files_are_there() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0)]).await;
    let old = lake.version();
    lake.overwrite(&[row(2, "b", 1.0)]).await;
    let table = lake.open().await;
    let plan = table.resume(table.id(), old, true).await.unwrap().unwrap();
    assert_eq!(seen(table.read(&plan, 0)).await.after, [row(1, "a", 1.0)]);
    let (gone, _) = table.differing(old, lake.version()).await.unwrap();
    for file in gone {
        lake.remove_files(&file.path);
    }
    assert_eq!(table.resume(table.id(), old, true).await.unwrap(), None);
}

#[tokio::test]
async fn each_key_comes_once_and_bad_ones_are_listed() {
    let mut lake = Lake::new(true).await;
    lake.append(&[row(1, "a", 1.0), row(2, "b", -0.0), Row { id: None, ..row(0, "lost", 1.0) }]).await;
    lake.append(&[row(2, "b", 0.0), row(3, "c", 1.0), row(4, "d", 1.0)]).await;
    lake.append(&[row(3, "other", 1.0)]).await;
    let table = lake.open().await;
    let seen = seen(table.at(lake.version())).await;
    assert_eq!(seen.keys_after(), [1, 2, 4]);
    assert_eq!((seen.counts.inserted, seen.counts.quarantined), (3, 2));
    let mut reasons: Vec<_> = seen.bad.iter().map(|bad| (bad.key.as_str(), bad.reason)).collect();
    reasons.sort_by_key(|(key, _)| *key);
    assert_eq!(reasons, [("{\"id\":3}", BadReason::DuplicateKey), ("{\"id\":null}", BadReason::NullKey)]);
}

#[tokio::test]
async fn a_window_and_a_snapshot_name_bad_records_alike() {
    let mut lake = Lake::new(true).await;
    let start = lake.version();
    lake.append(&[row(3, "c", 1.0), row(3, "other", 1.0), Row { id: None, ..row(0, "lost", 1.0) }]).await;
    let window = lake.since(start).await;
    let mut snapshot = seen(lake.open().await.at(lake.version())).await.bad;
    let mut bad = window.bad;
    bad.sort_by(|left, right| left.key.cmp(&right.key));
    snapshot.sort_by(|left, right| left.key.cmp(&right.key));
    assert_eq!(bad, snapshot);
}

#[tokio::test]
async fn the_sweep_finds_keys_that_the_snapshot_lacks() {
    let mut lake = Lake::new(true).await;
    lake.append(&(0..1000).map(|id| row(id * 2, "a", 1.0)).collect::<Vec<_>>()).await;
    let table = lake.open().await;
    let pages = (0..2000_i64).collect::<Vec<_>>();
    let pages: Vec<_> = pages
        .chunks(300)
        .map(|ids| RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as _)]).map_err(Into::into))
        .collect();
    let absent: Vec<RecordBatch> =
        table.absent(lake.version(), futures::stream::iter(pages).boxed()).try_collect().await.unwrap();
    let mut absent: Vec<i64> =
        absent.iter().flat_map(|batch| batch["id"].as_primitive::<Int64Type>().values().to_vec()).collect();
    absent.sort_unstable();
    assert_eq!(absent, (0..1000).map(|id| id * 2 + 1).collect::<Vec<_>>());
    let failing = futures::stream::iter([Err("the sink is down".into())]).boxed();
    let error = table.absent(lake.version(), failing).try_collect::<Vec<_>>().await.unwrap_err();
    assert!(format!("{error:?}").contains("the sink is down"));
}

/// Commits actions as they are.
fn commit(lake: &Lake, version: i64, actions: &[serde_json::Value]) {
    let lines: Vec<String> = actions.iter().map(ToString::to_string).collect();
    std::fs::write(lake.commit_file(version), lines.join("\n")).unwrap();
}

/// The action of the commit that has this name.
fn action(lake: &Lake, version: i64, name: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(lake.commit_file(version)).unwrap();
    let found =
        text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).find(|line| line.get(name).is_some());
    found.unwrap()[name].clone()
}

/// A 64-bit Roaring bitmap array (Delta protocol, "Deletion Vector Format") of a few small numbers, in Z85.
fn inline_vector(rows: &[u16]) -> serde_json::Value {
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    bytes.extend(1_u64.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    // One 32-bit bitmap in the portable format: no run containers, one array container.
    bytes.extend(12_346_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u16.to_le_bytes());
    bytes.extend(u16::try_from(rows.len() - 1).unwrap().to_le_bytes());
    bytes.extend(16_u32.to_le_bytes());
    for row in rows {
        bytes.extend(row.to_le_bytes());
    }
    let size = bytes.len();
    while !bytes.len().is_multiple_of(4) {
        bytes.push(0);
    }
    let digits = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    let mut text = String::new();
    for four in bytes.chunks(4) {
        let number = u32::from_be_bytes(four.try_into().unwrap());
        for power in [52_200_625_u32, 614_125, 7_225, 85, 1] {
            text.push(char::from(digits[(number / power % 85) as usize]));
        }
    }
    json!({"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": size, "cardinality": rows.len()})
}

/// The actions of writers that use deletion vectors, on the file that a version added.
struct Vectored {
    add: serde_json::Value,
    protocol: serde_json::Value,
    metadata: serde_json::Value,
}

impl Vectored {
    fn new(lake: &Lake, version: i64) -> Self {
        let mut metadata = action(lake, 0, "metaData");
        metadata["configuration"]["delta.enableDeletionVectors"] = json!("true");
        let protocol = json!({"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
            "writerFeatures": ["deletionVectors", "changeDataFeed", "appendOnly", "invariants"]});
        Self {
            add: action(lake, version, "add"),
            protocol: json!({"protocol": protocol}),
            metadata: json!({"metaData": metadata}),
        }
    }

    fn with(&self, rows: &[u16]) -> serde_json::Value {
        let mut add = self.add.clone();
        add["deletionVector"] = inline_vector(rows);
        json!({"add": add})
    }

    fn without(&self, vector: Option<&[u16]>) -> serde_json::Value {
        let mut remove = json!({"path": self.add["path"], "deletionTimestamp": 1, "dataChange": true, "extendedFileMetadata": true,
            "partitionValues": {}, "size": self.add["size"]});
        if let Some(rows) = vector {
            remove["deletionVector"] = inline_vector(rows);
        }
        json!({"remove": remove})
    }
}

#[tokio::test]
async fn deletion_vectors_are_honoured() {
    for feed in [true, false] {
        let mut lake = Lake::new(feed).await;
        lake.append(&[row(1, "a", 1.0), row(2, "b", 2.0), row(3, "c", 3.0), row(4, "d", 4.0)]).await;
        let start = lake.version();
        let file = Vectored::new(&lake, start);
        // What Spark does on DELETE with deletion vectors: the same file, once more, with fewer rows.
        let first = [file.protocol.clone(), file.metadata.clone(), file.with(&[1]), file.without(None)];
        commit(&lake, start + 1, &first);
        commit(&lake, start + 2, &[file.with(&[1, 3]), file.without(Some(&[1]))]);
        // What it does when no row of the file is left or it is overwritten, and on RESTORE.
        commit(&lake, start + 3, &[file.without(Some(&[1, 3]))]);
        commit(&lake, start + 4, &[file.with(&[1])]);
        lake.delta.update_state().await.unwrap();
        assert_eq!(lake.version(), start + 4);
        let table = lake.open().await;
        let versions = [vec![1, 2, 3, 4], vec![1, 3, 4], vec![1, 3], vec![], vec![1, 3, 4]];
        for (version, left) in (start..).zip(versions) {
            assert_eq!(seen(table.at(version)).await.keys_after(), left);
        }
        let windows = [
            (start, start + 2, true, vec![2, 4], vec![]),
            (start + 1, start + 2, true, vec![4], vec![]),
            (start + 2, start + 3, false, vec![1, 3], vec![]),
            (start + 3, start + 4, false, vec![], vec![1, 3, 4]),
            (start, start + 3, false, vec![1, 2, 3, 4], vec![]),
            (start, start + 4, false, vec![2], vec![]),
        ];
        for (from, to, readable, gone, came) in windows {
            let plan = table.plan(Some(&From { to: Some(to), ..lake.from(from) })).await.unwrap();
            assert_eq!(plan.strategy, if feed && readable { Strategy::Feed } else { Strategy::Diff }, "{}", plan.reason);
            let seen = seen(table.read(&plan, 0)).await;
            assert_eq!((seen.keys_before(), seen.keys_after(), seen.replaced.len()), (gone, came, 0), "{plan:?}");
        }
    }
}

#[tokio::test]
async fn a_deletion_vector_over_several_row_groups_is_honoured() {
    let mut lake = Lake::new(true).await;
    let rows: Vec<Row> = (0..6).map(|id| row(id, "a", 1.0)).collect();
    let groups = deltalake::parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(2)).build();
    lake.delta = lake.delta.clone().write([batch(&rows)]).with_writer_properties(groups).await.unwrap();
    let start = lake.version();
    let file = Vectored::new(&lake, start);
    let first = [file.protocol.clone(), file.metadata.clone(), file.with(&[1, 4]), file.without(None)];
    commit(&lake, start + 1, &first);
    lake.delta.update_state().await.unwrap();
    let plan = lake.planned(start).await;
    assert_eq!(plan.strategy, Strategy::Diff, "{}", plan.reason);
    assert!(plan.reason.contains("several row groups"), "{}", plan.reason);
    let seen = lake.since(start).await;
    assert_eq!((seen.keys_before(), seen.keys_after(), seen.counts.unchanged), (vec![1, 4], vec![], 4));
}

#[tokio::test]
async fn a_memory_limit_is_kept_while_duplicates_are_looked_for() {
    let mut lake = Lake::new(true).await;
    let many: Vec<Row> = (0..150_000).map(|id| Row { tag: None, ..row(id, "a", 1.0) }).collect();
    lake.append(&many).await;
    let table = Table::open(lake.options(), small_runtime(16 << 20)).await.unwrap();
    let plan = table.plan(None).await.unwrap();
    let seen = seen(table.read(&plan, 0)).await;
    assert_eq!((seen.after.len(), seen.bad.len()), (150_000, 0));
}

/// A file with the columns `id` and `at`, a timestamp in 96 bits as Spark writes it: a number of the day and nanoseconds in it.
fn write_int96(path: &std::path::Path, rows: &[(i64, u32, u64)]) -> u64 {
    use deltalake::parquet::data_type::{Int64Type, Int96, Int96Type};
    use deltalake::parquet::file::writer::SerializedFileWriter;
    use deltalake::parquet::schema::parser::parse_message_type;

    let schema = Arc::new(parse_message_type("message spark_schema { required int64 id; required int96 at; }").unwrap());
    let mut writer = SerializedFileWriter::new(std::fs::File::create(path).unwrap(), schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let ids: Vec<i64> = rows.iter().map(|row| row.0).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&ids, None, None).unwrap();
    column.close().unwrap();
    let number = |(_, day, nanoseconds): &(i64, u32, u64)| {
        let mut number = Int96::new();
        let half = |shift: u32| u32::try_from(nanoseconds >> shift & 0xffff_ffff).unwrap();
        number.set_data(half(0), half(32), *day);
        number
    };
    let times: Vec<Int96> = rows.iter().map(number).collect();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int96Type>().write_batch(&times, None, None).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.close().unwrap();
    std::fs::metadata(path).unwrap().len()
}

#[tokio::test]
async fn timestamps_in_96_bits_keep_their_year() {
    /// The first day of 1970 in the count of days that such timestamps use.
    const EPOCH: u32 = 2_440_588;
    let rows = [(1, EPOCH, 1_000), (2, EPOCH + 2_932_896, 86_399_999_999_000), (3, EPOCH - 719_162, 0), (4, EPOCH + 193_581, 0)];
    let expected = [1, 253_402_300_799_999_999, -62_135_596_800_000_000, 16_725_398_400_000_000];
    for kind in [PrimitiveType::Timestamp, PrimitiveType::TimestampNtz] {
        let dir = tempfile::tempdir().unwrap();
        let table = DeltaTableBuilder::from_url(Url::from_directory_path(dir.path()).unwrap()).unwrap().build().unwrap();
        let columns = [StructField::nullable("id", PrimitiveType::Long), StructField::nullable("at", kind)];
        let create = table.create().with_columns(columns);
        let delta = create.with_configuration_property(TableProperty::EnableChangeDataFeed, Some("true")).await.unwrap();
        let id = delta.snapshot().unwrap().metadata().id().to_owned();
        let size = write_int96(&dir.path().join("part-0.parquet"), &rows);
        let add = serde_json::json!({"add": {"path": "part-0.parquet", "partitionValues": {}, "size": size, "modificationTime": 1,
            "dataChange": true}});
        std::fs::write(dir.path().join("_delta_log/00000000000000000001.json"), add.to_string()).unwrap();
        let table = Table::open(TableOptions::new("t", dir.path().to_str().unwrap(), &["id"]), runtime()).await.unwrap();
        let window = table.plan(Some(&From { table_id: id, version: 0, to: None })).await.unwrap();
        assert_eq!(window.strategy, Strategy::Feed, "{}", window.reason);
        for plan in [table.plan(None).await.unwrap(), window] {
            let mut read = Vec::new();
            for batch in batches(table.read(&plan, 0)).await {
                let ids = batch.after["id"].as_primitive::<Int64Type>();
                let times = batch.after["at"].as_primitive::<arrow::datatypes::TimestampMicrosecondType>();
                read.extend(ids.values().iter().copied().zip(times.values().iter().copied()));
            }
            read.sort_unstable();
            assert_eq!(read.iter().map(|(_, at)| *at).collect::<Vec<_>>(), expected, "{:?}", plan.strategy);
        }
    }
}
