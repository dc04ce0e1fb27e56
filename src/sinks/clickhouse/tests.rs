//! The sink against the real engine, reached in both ways.

use std::slice;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::*;
use serde_json::json;

use super::testing::{TestSink, server_sink, sink};
use super::{ClickhouseOptions, open};
use crate::mapping::target::{Dimension, Shape, Target};
use crate::sinks::{Checkpoint, Class, LaneId, Query, Refused, Sink, SinkKind, Write};

fn target(name: &str, key: &[&str], record_key: &[&str], fields: Vec<Field>) -> Arc<Target> {
    Arc::new(Target {
        table: "silver".into(),
        name: name.into(),
        shape: Shape::Table,
        schema: Arc::new(Schema::new(fields)),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        record_key: record_key.iter().map(|name| (*name).to_owned()).collect(),
        fingerprint: "f".into(),
    })
}

fn items() -> Arc<Target> {
    target("item", &["id"], &["id"], vec![Field::new("id", DataType::Int64, false), Field::new("name", DataType::Utf8, true)])
}

fn rows(target: &Target, columns: Vec<ArrayRef>) -> RecordBatch {
    RecordBatch::try_new(target.schema.clone(), columns).unwrap()
}

fn named(target: &Target, pairs: &[(i64, Option<&str>)]) -> RecordBatch {
    let ids: Int64Array = pairs.iter().map(|pair| Some(pair.0)).collect();
    let names: StringArray = pairs.iter().map(|pair| pair.1).collect();
    rows(target, vec![Arc::new(ids), Arc::new(names)])
}

fn keys(target: &Target, names: &[String], batch: &RecordBatch) -> RecordBatch {
    let places: Vec<usize> = names.iter().map(|name| target.schema.index_of(name).unwrap()).collect();
    batch.project(&places).unwrap()
}

fn ids(values: &[i64]) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("id", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(values.to_vec()))]).unwrap()
}

fn write(target: &Arc<Target>, version: u64, upserts: RecordBatch, deletes: Option<RecordBatch>) -> Write {
    let deletes = deletes.unwrap_or_else(|| keys(target, &target.key, &RecordBatch::new_empty(target.schema.clone())));
    Write { target: target.clone(), version, upserts, deletes }
}

fn none(target: &Target) -> RecordBatch {
    RecordBatch::new_empty(target.schema.clone())
}

/// Sorted by the first column, which is a unique key in these tests.
fn sorted(batch: &RecordBatch) -> RecordBatch {
    let column = SortColumn { values: batch.column(0).clone(), options: None };
    take_record_batch(batch, &lexsort_to_indices(&[column], None).unwrap()).unwrap()
}

async fn sql(test: &TestSink, text: &str) -> serde_json::Value {
    let rows = test.sink.query(&Query::Text(text.to_owned())).await.unwrap();
    serde_json::Value::from(rows.into_iter().map(serde_json::Value::from).collect::<Vec<_>>())
}

/// Values of each type that a Delta table or a query can make, with a null at the end.
fn values() -> Vec<(&'static str, ArrayRef)> {
    let strings: Vec<Option<&str>> = vec![Some(""), Some("a\0b"), Some("it's `\\ \"q\" 🎬\n"), Some("שלום"), None];
    let micros = vec![Some(-2_208_988_800_000_000), Some(-1), Some(0), Some(10_413_791_999_999_999), None];
    let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(i64::MIN), Some(i64::MAX)]);
    let offsets = || OffsetBuffer::<i32>::new(vec![0, 2, 2, 3, 4, 5].into());
    let nulls = || Some(vec![true, true, true, true, false].into());
    let item = |kind: DataType| Arc::new(Field::new("item", kind, true));
    let list = ListArray::new(item(DataType::Int64), offsets(), Arc::new(numbers.clone()), nulls());
    let texts = StringArray::from(strings.clone());
    let texts_list = ListArray::new(item(DataType::Utf8), offsets(), Arc::new(texts.clone()), nulls());
    let fields: Fields = vec![
        Field::new("a b", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("more.x", texts_list.data_type().clone(), true),
        Field::new("sure", DataType::Int32, false),
    ]
    .into();
    let structs = StructArray::new(
        fields,
        vec![
            Arc::new(numbers.clone()),
            Arc::new(texts.clone()),
            Arc::new(texts_list.clone()),
            Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5])),
        ],
        nulls(),
    );
    let structs_list = ListArray::new(item(structs.data_type().clone()), offsets(), Arc::new(structs.clone()), nulls());
    let lists_list = ListArray::new(item(list.data_type().clone()), offsets(), Arc::new(list.clone()), nulls());
    let map = |values: ArrayRef| -> ArrayRef {
        let fields: Fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", values.data_type().clone(), true)].into();
        let names = StringArray::from(vec!["z", "a", "", "b\0", "🎬"]);
        let entries = StructArray::new(fields.clone(), vec![Arc::new(names), values], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        Arc::new(MapArray::new(field, offsets(), entries, nulls(), false))
    };
    let dates = Date32Array::from(vec![Some(-25_567), Some(-19_800), Some(0), Some(120_529), None]);
    vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), Some(false), None]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(0), Some(1), Some(i8::MAX), None]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(0), Some(1), Some(i16::MAX), None]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(0), Some(1), Some(i32::MAX), None]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(0), Some(1), Some(i64::MAX), None]))),
        ("uint8", Arc::new(UInt8Array::from(vec![Some(0), Some(1), Some(2), Some(u8::MAX), None]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(0), Some(1), Some(2), Some(u16::MAX), None]))),
        ("uint32", Arc::new(UInt32Array::from(vec![Some(0), Some(1), Some(2), Some(u32::MAX), None]))),
        ("uint64", Arc::new(UInt64Array::from(vec![Some(0), Some(1), Some(2), Some(u64::MAX), None]))),
        ("float32", Arc::new(Float32Array::from(vec![Some(-0.0), Some(f32::NAN), Some(f32::INFINITY), Some(f32::MIN), None]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(-0.0), Some(f64::NAN), Some(f64::NEG_INFINITY), Some(1e300), None]))),
        ("utf8", Arc::new(texts)),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(b"\0\xff\xfe"), Some(b"text"), Some(b"\x80"), None]))),
        ("date32", Arc::new(dates.clone())),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(micros.clone()))),
        ("timestamp_utc", Arc::new(TimestampMicrosecondArray::from(micros.clone()).with_timezone("UTC"))),
        ("timestamp_paris", Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("Europe/Paris"))),
        (
            "timestamp_ms",
            Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(0), Some(1), Some(10_413_791_999_999), None])),
        ),
        (
            "timestamp_s",
            Arc::new(TimestampSecondArray::from(vec![Some(-2_208_988_800), Some(0), Some(1), Some(10_413_791_999), None])),
        ),
        ("timestamp_ns", Arc::new(TimestampNanosecondArray::from(vec![Some(-1), Some(0), Some(1), Some(i64::MAX), None]))),
        ("decimal", decimal(&[Some(-1), Some(0), Some(123_456_789), Some(9_999_999_999), None], 10, 2)),
        ("decimal38", decimal(&[Some(-(10_i128.pow(38) - 1)), Some(0), Some(1), Some(10_i128.pow(38) - 1), None], 38, 18)),
        ("decimal256", {
            let values: Vec<Option<i256>> =
                [Some(-1), Some(0), Some(1), Some(i128::MAX), None].map(|v| v.map(i256::from_i128)).to_vec();
            Arc::new(Decimal256Array::from(values).with_precision_and_scale(60, 5).unwrap())
        }),
        ("list", Arc::new(list)),
        ("list_text", Arc::new(texts_list)),
        ("list_date", Arc::new(ListArray::new(item(DataType::Date32), offsets(), Arc::new(dates), nulls()))),
        ("list_struct", Arc::new(structs_list)),
        ("list_list", Arc::new(lists_list)),
        ("struct", Arc::new(structs.clone())),
        ("map", map(Arc::new(numbers))),
        ("map_struct", map(Arc::new(structs))),
    ]
}

fn decimal(values: &[Option<i128>], precision: u8, scale: i8) -> ArrayRef {
    Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap())
}

async fn every_type_there_and_back(test: TestSink) {
    for (name, values) in values() {
        let fields = vec![Field::new("id", DataType::Int64, false), Field::new("v", values.data_type().clone(), true)];
        let target = target(&format!("type_{name}"), &["id"], &["id"], fields);
        test.sink.check(&target).unwrap_or_else(|error| panic!("{name}: {error}"));
        test.sink.prepare(slice::from_ref(&target), &[]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        // Preparing what is there finds nothing changed: types are compared in the engine's spelling.
        test.sink.prepare(slice::from_ref(&target), &[]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        let batch = rows(&target, vec![Arc::new(Int64Array::from_iter_values(0..5)), values]);
        // A slice in the middle of arrays must not drag the rest along.
        for (version, batch) in [(1, batch.clone()), (2, batch.slice(2, 3))] {
            let refused = test.sink.write(&[write(&target, version, batch.clone(), None)]).await;
            assert_eq!(refused.unwrap_or_else(|error| panic!("{name}: {error}")), vec![], "{name}");
            let held = test.sink.held(&target, &keys(&target, &target.key, &batch)).await;
            let held = held.unwrap_or_else(|error| panic!("{name}: {error}"));
            let image = test.sink.image(&target, &batch).unwrap();
            assert_eq!(sorted(&held), image, "{name}");
            assert_eq!(held.schema(), target.schema, "{name}");
            assert_eq!(test.sink.image(&target, &image).unwrap(), image, "{name}: an image is its own image");
        }
    }
}

async fn every_scalar_type_as_a_key(test: TestSink) {
    for (name, values) in values() {
        if matches!(values.data_type(), DataType::List(_) | DataType::Struct(_) | DataType::Map(..))
            || name.starts_with("float")
            || name == "bool"
        {
            continue;
        }
        let values = values.slice(0, 4);
        let fields = vec![Field::new("v", values.data_type().clone(), false), Field::new("id", DataType::Int64, true)];
        let target = target(&format!("key_{name}"), &["v"], &["v"], fields);
        test.sink.prepare(slice::from_ref(&target), &[]).await.unwrap();
        let batch = rows(&target, vec![values, Arc::new(Int64Array::from_iter_values(0..4))]);
        test.sink.write(&[write(&target, 1, batch.clone(), None)]).await.unwrap();
        let key = keys(&target, &target.key, &batch);
        let by_id = |batch: &RecordBatch| sorted(&batch.project(&[1, 0]).unwrap());
        assert_eq!(by_id(&test.sink.held(&target, &key).await.unwrap()), by_id(&batch), "{name}");
        // Page by page, each key once.
        let (mut after, mut pages) = (None, Vec::new());
        loop {
            let page = test.sink.list(&target, after.as_deref(), 1).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            pages.push(page.keys);
            assert!(pages.len() < 10, "{name}: does not end");
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let listed = concat_batches(&key.schema(), &pages).unwrap();
        assert_eq!(sorted(&listed), sorted(&key), "{name}");
        test.sink.write(&[write(&target, 2, none(&target), Some(key.clone()))]).await.unwrap();
        assert_eq!(test.sink.held(&target, &key).await.unwrap().num_rows(), 0, "{name}");
    }
}

async fn the_highest_version_wins_and_deletes_are_real(test: TestSink) {
    let item = items();
    test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
    let put = |version, pairs: &[(i64, Option<&str>)]| write(&item, version, named(&item, pairs), None);
    let all = ids(&[1, 2, 3]);
    test.sink.write(&[put(5, &[(1, Some("a")), (2, Some("b"))])]).await.unwrap();
    // An older write loses, the same one again changes nothing.
    test.sink.write(&[put(4, &[(1, Some("old"))])]).await.unwrap();
    test.sink.write(&[put(5, &[(1, Some("a")), (2, Some("b"))])]).await.unwrap();
    let held = sorted(&test.sink.held(&item, &all).await.unwrap());
    assert_eq!(held, named(&item, &[(1, Some("a")), (2, Some("b"))]));
    // A tombstone hides the row, also one for a row that is not there, and an older upsert does not bring it back.
    test.sink.write(&[write(&item, 6, named(&item, &[(2, Some("c"))]), Some(ids(&[1, 3])))]).await.unwrap();
    test.sink.write(&[put(5, &[(1, Some("a"))])]).await.unwrap();
    assert_eq!(test.sink.held(&item, &all).await.unwrap(), named(&item, &[(2, Some("c"))]));
    sql(&test, "OPTIMIZE TABLE item FINAL").await;
    assert_eq!(sql(&test, "SELECT * FROM item_current").await, json!([{"id": 2, "name": "c"}]));
    assert_eq!(test.sink.list(&item, None, 10).await.unwrap().keys, ids(&[2]));
    // A newer upsert does.
    test.sink.write(&[put(7, &[(1, None)])]).await.unwrap();
    assert_eq!(
        sql(&test, "SELECT * FROM item_current ORDER BY id").await,
        json!([{"id": 1, "name": null}, {"id": 2, "name": "c"}])
    );
    // No work is no error.
    test.sink.write(&[]).await.unwrap();
    test.sink.write(&[write(&item, 9, none(&item), None)]).await.unwrap();
    test.sink.flush(&[]).await.unwrap();
}

async fn large_writes_are_split_and_complete(test: TestSink) {
    let item = items();
    test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
    let count = 150_000;
    let names: StringArray = (0..count).map(|id| Some(format!("name {id}"))).collect();
    let batch = rows(&item, vec![Arc::new(Int64Array::from_iter_values(0..count)), Arc::new(names)]);
    test.sink.write(&[write(&item, 1, batch.clone(), None)]).await.unwrap();
    let key = keys(&item, &item.key, &batch);
    assert_eq!(sorted(&test.sink.held(&item, &key).await.unwrap()), batch);
    test.sink.write(&[write(&item, 2, none(&item), Some(key.slice(10, 140_000)))]).await.unwrap();
    assert_eq!(sql(&test, "SELECT count() AS n FROM item_current").await, json!([{"n": 10_000}]));
}

async fn one_large_text(test: TestSink) {
    let item = items();
    test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
    let text = "ש`'\\\"\0🎬".repeat(200_000);
    let batch = named(&item, &[(i64::MIN, Some(&text)), (i64::MAX, Some(""))]);
    test.sink.write(&[write(&item, u64::MAX, batch.clone(), None)]).await.unwrap();
    assert_eq!(sorted(&test.sink.held(&item, &ids(&[i64::MIN, i64::MAX])).await.unwrap()), batch);
}

async fn what_cannot_be_held_is_refused_by_the_row(test: TestSink) {
    let list = DataType::List(Arc::new(Field::new("item", DataType::Timestamp(TimeUnit::Microsecond, None), true)));
    let fields =
        vec![Field::new("id", DataType::Int64, true), Field::new("day", DataType::Date32, true), Field::new("times", list, true)];
    let odd = target("odd", &["id"], &["id"], fields);
    test.sink.prepare(slice::from_ref(&odd), &[]).await.unwrap();
    let mut times = ListBuilder::new(TimestampMicrosecondBuilder::new());
    times.append_value([Some(0)]);
    times.append_value([]);
    times.append_value([None, Some(i64::MIN)]);
    times.append_value([Some(1), Some(10_413_792_000_000_000)]);
    times.append_null();
    let batch = rows(
        &odd,
        vec![
            Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(2), Some(3), None])),
            Arc::new(Date32Array::from(vec![Some(0), Some(-25_568), None, None, Some(i32::MAX)])),
            Arc::new(times.finish()),
        ],
    );
    let other = items();
    test.sink.prepare(slice::from_ref(&other), &[]).await.unwrap();
    let writes = [write(&other, 1, named(&other, &[(1, None)]), None), write(&odd, 1, batch.clone(), None)];
    let refused = test.sink.write(&writes).await.unwrap();
    let told: Vec<(usize, usize)> = refused.iter().map(|Refused { write, row, .. }| (*write, *row)).collect();
    assert_eq!(told, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    assert!(refused[0].message.contains("`day`: 1899-12-31"), "{}", refused[0].message);
    assert!(refused[2].message.contains("`times`: 2300-01-01"), "{}", refused[2].message);
    assert!(refused[3].message.contains("`id` is null"), "{}", refused[3].message);
    assert_eq!(sql(&test, "SELECT id FROM odd_current").await, json!([{"id": 0}]));
    assert_eq!(test.sink.held(&other, &ids(&[1])).await.unwrap().num_rows(), 1);
}

async fn columns_are_added_and_left_but_never_changed(test: TestSink) {
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    let make = |fields: Vec<Field>| {
        let mut all = vec![Field::new("id", DataType::Int64, false)];
        all.extend(fields);
        target("item", &["id"], &["id"], all)
    };
    let first = make(vec![field("a", DataType::Utf8)]);
    test.sink.prepare(slice::from_ref(&first), &[]).await.unwrap();
    test.sink.write(&[write(&first, 1, named(&first, &[(1, Some("x"))]), None)]).await.unwrap();
    // `a` leaves, `b` and a list come.
    let list = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let second = make(vec![field("b", DataType::Int32), field("c", list)]);
    for _ in 0..2 {
        test.sink.prepare(slice::from_ref(&second), &[]).await.unwrap();
    }
    let mut lists = ListBuilder::new(StringBuilder::new());
    lists.append_value([Some("y")]);
    let batch =
        rows(&second, vec![Arc::new(Int64Array::from(vec![2])), Arc::new(Int32Array::from(vec![7])), Arc::new(lists.finish())]);
    test.sink.write(&[write(&second, 2, batch, None)]).await.unwrap();
    assert_eq!(
        sql(&test, "SELECT * FROM item_current ORDER BY id").await,
        json!([{"id": 1, "b": null, "c": []}, {"id": 2, "b": 7, "c": ["y"]}])
    );
    assert_eq!(sql(&test, "SELECT a FROM item WHERE id = 1").await, json!([{"a": "x"}]));
    // What would lose something stops, with both sides named.
    let stops = [
        (make(vec![field("b", DataType::Int64)]), vec!["b", "Nullable(Int32)", "Nullable(Int64)"]),
        (
            target("item", &["id", "b"], &["id"], vec![Field::new("id", DataType::Int64, false), field("b", DataType::Int32)]),
            vec!["(id)", "(id, b)"],
        ),
    ];
    for (changed, words) in stops {
        let error = test.sink.prepare(&[changed], &[]).await.unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!(words.iter().all(|word| error.message.contains(word)), "{error}");
        assert!(error.message.contains("RENAME TABLE"), "{error}");
    }
    sql(&test, "CREATE TABLE foreign (id Int64) ENGINE = MergeTree ORDER BY id").await;
    let foreign = target("foreign", &["id"], &["id"], vec![Field::new("id", DataType::Int64, false)]);
    assert_eq!(test.sink.prepare(&[foreign], &[]).await.unwrap_err().class, Class::Stop);
    // A column that is newly said to be never null still has old nulls.
    let sure = make(vec![Field::new("b", DataType::Int32, false)]);
    test.sink.prepare(slice::from_ref(&sure), &[]).await.unwrap();
    let held = test.sink.held(&sure, &ids(&[1])).await.unwrap();
    assert!(held.column(1).is_null(0));
}

async fn two_things_of_one_name_are_refused(test: TestSink) {
    let item = items();
    let dimension = |name: &str| Dimension {
        name: name.into(),
        key: vec!["id".into()],
        columns: vec![],
        bridges: vec![("item".into(), vec!["id".into()])],
    };
    for name in ["item", "item_current"] {
        let error = test.sink.prepare(slice::from_ref(&item), &[dimension(name)]).await.unwrap_err();
        assert!(error.class == Class::Stop && error.message.contains(name), "{error}");
    }
    test.sink.prepare(slice::from_ref(&item), &[dimension("ids")]).await.unwrap();
    test.sink.write(&[write(&item, 1, named(&item, &[(1, None)]), None)]).await.unwrap();
    assert_eq!(sql(&test, "SELECT * FROM ids").await, json!([{"id": 1}]));
}

async fn a_dimension_takes_the_row_of_the_least_silver_key(test: TestSink) {
    let bridge = |name: &str, silver: &str, kind: DataType| {
        let fields = vec![
            Field::new("genre_id", DataType::Int64, false),
            Field::new(silver, kind, false),
            Field::new("name", DataType::Utf8, true),
            Field::new("note", DataType::Utf8, true),
        ];
        target(name, &["genre_id", silver], &[silver], fields)
    };
    let fill = |target: &Arc<Target>, silver: ArrayRef, genres: Vec<i64>, names: Vec<Option<&str>>| {
        let notes: StringArray = names.iter().map(|name| name.map(str::to_uppercase)).collect();
        let batch =
            rows(target, vec![Arc::new(Int64Array::from(genres)), silver, Arc::new(StringArray::from(names)), Arc::new(notes)]);
        write(target, 1, batch, None)
    };
    let dimension = |name: &str, bridges: &[(&str, &str)]| Dimension {
        name: name.into(),
        key: vec!["genre_id".into()],
        columns: vec!["name".into(), "note".into()],
        bridges: bridges.iter().map(|(table, key)| ((*table).to_owned(), vec![(*key).to_owned()])).collect(),
    };
    let (movie, series) =
        (bridge("movie_genre", "movie_id", DataType::Int64), bridge("series_genre", "series_id", DataType::Int64));
    let book = bridge("book_genre", "isbn", DataType::Utf8);
    let dimensions = [
        dimension("genre", &[("movie_genre", "movie_id"), ("series_genre", "series_id")]),
        dimension("mixed", &[("book_genre", "isbn"), ("movie_genre", "movie_id")]),
    ];
    let targets = [movie.clone(), series.clone(), book.clone()];
    for _ in 0..2 {
        test.sink.prepare(&targets, &dimensions).await.unwrap();
    }
    let numbers = |values: Vec<i64>| -> ArrayRef { Arc::new(Int64Array::from(values)) };
    test.sink
        .write(&[
            // The least Silver key of genre 1 has no name, and that is what the dimension has.
            fill(&movie, numbers(vec![10, 9, 11, 20]), vec![1, 1, 2, 3], vec![Some("ten"), None, Some("eleven"), Some("twenty")]),
            fill(
                &series,
                numbers(vec![9, 10, 5]),
                vec![1, 2, 3],
                vec![Some("series nine"), Some("series ten"), Some("series five")],
            ),
            fill(&book, Arc::new(StringArray::from(vec!["b", "a"])), vec![2, 2], vec![Some("book b"), Some("book a")]),
        ])
        .await
        .unwrap();
    assert_eq!(
        sql(&test, "SELECT * FROM genre ORDER BY genre_id").await,
        json!([
            {"genre_id": 1, "name": null, "note": null},
            {"genre_id": 2, "name": "series ten", "note": "SERIES TEN"},
            {"genre_id": 3, "name": "series five", "note": "SERIES FIVE"},
        ])
    );
    assert_eq!(
        sql(&test, "SELECT genre_id, name FROM mixed ORDER BY genre_id").await,
        json!([{"genre_id": 1, "name": null}, {"genre_id": 2, "name": "book a"}, {"genre_id": 3, "name": "twenty"}])
    );
}

fn checkpoint(name: &str, revision: u64) -> Checkpoint {
    Checkpoint {
        lane: LaneId::new("silver", SinkKind::Clickhouse, name, None),
        revision,
        table_id: "it's a `table`\\".into(),
        version: Some(7),
        pending: None,
        epoch: 0,
        generation: 0,
        schema_fingerprint: String::new(),
        mapping_fingerprint: String::new(),
        model: None,
        updated_at: "2026-01-01T00:00:00Z".into(),
    }
}

async fn a_checkpoint_moves_only_from_the_one_before(test: TestSink) {
    assert_eq!(test.sink.checkpoints().await.unwrap(), vec![]);
    test.sink.flush(&[checkpoint("a", 1), checkpoint("b'`\\", 1)]).await.unwrap();
    test.sink.flush(&[checkpoint("a", 2)]).await.unwrap();
    // The same once more: its answer was lost.
    test.sink.flush(&[checkpoint("a", 2)]).await.unwrap();
    assert_eq!(test.sink.checkpoints().await.unwrap(), vec![checkpoint("a", 2), checkpoint("b'`\\", 1)]);
    let mut other = checkpoint("a", 2);
    other.version = Some(8);
    for bad in [checkpoint("a", 1), other, checkpoint("a", 4), checkpoint("new", 2), checkpoint("new", 0)] {
        let error = test.sink.flush(&[checkpoint("c", 1), bad.clone()]).await.unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!(error.message.contains(&bad.lane.name()), "{error}");
    }
    // None of a refused call is stored.
    assert_eq!(test.sink.checkpoints().await.unwrap().len(), 2);
}

async fn held_and_list_by_part_of_a_key(test: TestSink) {
    let fields = vec![
        Field::new("tag", DataType::Utf8, false),
        Field::new("a", DataType::Int64, false),
        Field::new("b", DataType::Utf8, false),
        Field::new("v", DataType::Int64, true),
    ];
    let pair = target("pair", &["tag", "a", "b"], &["a", "b"], fields);
    let absent = test.sink.list(&pair, None, 5).await.unwrap();
    assert!(absent.keys.num_rows() == 0 && absent.next.is_none());
    let key = |values: &[(i64, &str)]| {
        let schema = Schema::new(vec![Field::new("a", DataType::Int64, false), Field::new("b", DataType::Utf8, false)]);
        let a = Int64Array::from_iter_values(values.iter().map(|value| value.0));
        let b = StringArray::from_iter_values(values.iter().map(|value| value.1));
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(a), Arc::new(b)]).unwrap()
    };
    assert_eq!(test.sink.held(&pair, &key(&[(1, "x")])).await.unwrap(), none(&pair));
    test.sink.prepare(slice::from_ref(&pair), &[]).await.unwrap();
    let silver = [(1, ""), (1, "a'`\\\0"), (1, "é🎬"), (2, ""), (2, "z")];
    let (mut tags, mut a, mut b) = (vec![], vec![], vec![]);
    for (x, y) in silver {
        for tag in ["t1", "t2"] {
            tags.push(tag);
            a.push(x);
            b.push(y);
        }
    }
    let v = Int64Array::from_iter_values(0..10);
    let batch = rows(
        &pair,
        vec![Arc::new(StringArray::from(tags)), Arc::new(Int64Array::from(a)), Arc::new(StringArray::from(b)), Arc::new(v)],
    );
    test.sink.write(&[write(&pair, 1, batch.clone(), None)]).await.unwrap();
    let held = test.sink.held(&pair, &key(&[(1, "a'`\\\0"), (2, "z"), (3, "z")])).await.unwrap();
    assert_eq!(held.num_rows(), 4);
    // One record goes: it is not listed, though its tombstones are there.
    let gone = keys(&pair, &pair.key, &batch.slice(6, 2));
    test.sink.write(&[write(&pair, 2, none(&pair), Some(gone))]).await.unwrap();
    for limit in 1..6 {
        let (mut after, mut pages) = (None, vec![]);
        loop {
            let page = test.sink.list(&pair, after.as_deref(), limit).await.unwrap();
            assert!(page.keys.num_rows() <= limit);
            pages.push(page.keys);
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let listed = concat_batches(&key(&[]).schema(), &pages).unwrap();
        assert_eq!(listed, key(&[(1, ""), (1, "a'`\\\0"), (1, "é🎬"), (2, "z")]), "{limit}");
    }
    for cursor in ["", "{}", "[]", "[\"1\"]", "[1,2]"] {
        assert_eq!(test.sink.list(&pair, Some(cursor), 5).await.unwrap_err().class, Class::Permanent, "{cursor}");
    }
    // By a column that is no key, and by null.
    let schema = Schema::new(vec![Field::new("v", DataType::Int64, true)]);
    let by_value = RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from(vec![Some(3), None]))]).unwrap();
    assert_eq!(test.sink.held(&pair, &by_value).await.unwrap(), batch.slice(3, 1));
}

async fn questions_of_people(test: TestSink) {
    assert_eq!(
        sql(
            &test,
            "SELECT 9223372036854775807 AS a, toUInt64(18446744073709551615) AS b, 'x\\0y' AS c, [1, NULL] AS d, nan AS e"
        )
        .await,
        json!([{"a": i64::MAX, "b": u64::MAX, "c": "x\0y", "d": [1, null], "e": "nan"}])
    );
    assert_eq!(sql(&test, "CREATE TABLE x (a Int64) ENGINE = MergeTree ORDER BY a").await, json!([]));
    assert_eq!(sql(&test, "SELECT * FROM x").await, json!([]));
    // What a statement sets ends with it.
    sql(&test, "SET max_result_rows = 1, result_overflow_mode = 'throw'").await;
    sql(&test, "USE system").await;
    assert_eq!(sql(&test, "SELECT currentDatabase() AS d UNION ALL SELECT currentDatabase()").await.as_array().unwrap().len(), 2);
    assert_eq!(sql(&test, "SELECT currentDatabase() AS d").await, json!([{"d": test.options.database}]));
    for (text, class, word) in [
        ("SELECT nope", Class::Permanent, "Code: 47"),
        ("SELEC 1", Class::Permanent, "Code: 62"),
        ("SELECT 1 FORMAT CSVWithNames", Class::Permanent, "FORMAT"),
        ("SELECT throwIf(1, 'no', toInt16(241)) SETTINGS allow_custom_error_code_in_throwif = 1", Class::Transient, "Code: 241"),
    ] {
        let error = test.sink.query(&Query::Text(text.into())).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(word), "{error}");
    }
    let nearest = Query::Nearest { collection: "x".into(), vector: vec![], conditions: vec![], top: 1 };
    assert_eq!(test.sink.query(&nearest).await.unwrap_err().class, Class::Permanent);
    // The whole database can go; the sink then holds nothing, and says so.
    sql(&test, &format!("DROP DATABASE {}", test.options.database)).await;
    assert_eq!(test.sink.checkpoints().await.unwrap(), vec![]);
    assert_eq!(test.sink.list(&items(), None, 1).await.unwrap().keys.num_rows(), 0);
}

#[tokio::test]
async fn one_engine_serves_many_sinks_of_one_directory() {
    let test = sink().await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = ClickhouseOptions::new(elsewhere.path(), test.options.library.clone());
    let error = open(other).await.unwrap_err();
    assert!(error.class == Class::Permanent && error.message.contains("already runs"), "{error}");
    // The same directory by another name is the same directory.
    let mut again = test.options.clone();
    again.path = again.path.join("..").join("engine");
    let same = open(again).await.unwrap();
    let item = items();
    test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
    same.write(&[write(&item, 1, named(&item, &[(1, Some("x"))]), None)]).await.unwrap();
    same.close().await.unwrap();
    same.close().await.unwrap();
    assert!(same.held(&item, &ids(&[1])).await.unwrap_err().message.contains("closed"));
    assert_eq!(test.sink.held(&item, &ids(&[1])).await.unwrap().num_rows(), 1);
    // Databases are apart, also side by side.
    let mut tasks = Vec::new();
    for id in 0..20 {
        tasks.push(tokio::spawn(async move {
            let test = sink().await;
            let item = items();
            test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
            test.sink.write(&[write(&item, 1, named(&item, &[(id, None)]), None)]).await.unwrap();
            test.sink.flush(&[checkpoint("x", 1)]).await.unwrap();
            let all = test.sink.list(&item, None, 100).await.unwrap().keys;
            test.sink.close().await.unwrap();
            assert_eq!(all, ids(&[id]));
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

async fn bad_calls_are_told(test: TestSink) {
    let item = items();
    let wrong = ids(&[1]);
    assert_eq!(test.sink.image(&item, &wrong).unwrap_err().class, Class::Permanent);
    assert_eq!(test.sink.write(&[write(&item, 1, wrong.clone(), None)]).await.unwrap_err().class, Class::Permanent);
    // Writing before `prepare` says which table is missing, when the rows that were gathered are inserted.
    assert_eq!(test.sink.write(&[write(&item, 1, named(&item, &[(1, None)]), None)]).await.unwrap(), vec![]);
    let error = test.sink.flush(&[checkpoint("a", 1)]).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent);
    assert!(error.message.contains("item") && error.message.contains("Code: 60"), "{error}");
}

#[tokio::test]
async fn an_insert_that_fails_on_its_way_is_told_and_loses_nothing() {
    let test = server_sink().await;
    let (item, whole) =
        (items(), target("whole", &["id"], &["id"], items().schema.fields().iter().map(|f| f.as_ref().clone()).collect()));
    test.sink.prepare(&[item.clone(), whole.clone()], &[]).await.unwrap();
    let somebody = open(test.options.clone()).await.unwrap();
    let alter = async |text: &str| somebody.query(&Query::Text(text.to_owned())).await.unwrap();
    // As many rows as are inserted at once, so that a write sends them and does not wait for the answer.
    let many = |target: &Target| {
        let names: StringArray = (0..65_536).map(|id| Some(format!("name {id}"))).collect();
        rows(target, vec![Arc::new(Int64Array::from_iter_values(0..65_536)), Arc::new(names)])
    };
    test.sink.write(&[write(&item, 1, named(&item, &[(-1, None)]), None)]).await.unwrap();
    test.sink.flush(&[checkpoint("item", 1)]).await.unwrap();
    // Too many parts: that may pass.
    alter("ALTER TABLE item MODIFY SETTING parts_to_throw_insert = 1").await;
    assert_eq!(test.sink.write(&[write(&item, 2, many(&item), None)]).await.unwrap(), vec![]);
    let error = test.sink.flush(&[checkpoint("item", 2)]).await.unwrap_err();
    assert!(error.class == Class::Transient && error.message.contains("Code: 252"), "{error}");
    alter("ALTER TABLE item RESET SETTING parts_to_throw_insert").await;
    test.sink.flush(&[checkpoint("item", 2)]).await.unwrap();
    assert_eq!(sql(&test, "SELECT count() AS n FROM item_current").await, json!([{"n": 65_537}]));
    // No table: that will not. The next call that waits for it tells, once; after that it holds back its own table alone.
    alter("DROP TABLE item").await;
    assert_eq!(test.sink.write(&[write(&item, 3, many(&item), None)]).await.unwrap(), vec![]);
    let mut told = Vec::new();
    for _ in 0..3 {
        told.extend(test.sink.write(&[write(&whole, 3, many(&whole), None)]).await.err());
    }
    told.extend(test.sink.flush(&[checkpoint("other", 1)]).await.err());
    assert!(matches!(told.as_slice(), [one] if one.class == Class::Permanent && one.message.contains("Code: 60")), "{told:?}");
    test.sink.flush(&[checkpoint("whole", 1)]).await.unwrap();
    for _ in 0..2 {
        let error = test.sink.flush(&[checkpoint("item", 3)]).await.unwrap_err();
        assert!(error.class == Class::Permanent && error.message.contains("Code: 60"), "{error}");
    }
    assert_eq!(sql(&test, "SELECT count() AS n FROM whole_current").await, json!([{"n": 65_536}]));
}

#[tokio::test]
async fn a_directory_that_is_a_file_is_told() {
    let test = sink().await;
    let mut missing = test.options.clone();
    missing.path = missing.path.join("system.file");
    std::fs::write(&missing.path, "x").unwrap();
    let error = open(missing).await.unwrap_err();
    assert!(error.message.contains("not a directory"), "{error}");
}

#[tokio::test]
async fn durable_writes_are_turned_on_where_they_were_off() {
    let test = sink().await;
    let item = items();
    let settings = "SELECT name, engine_full LIKE '%fsync_after_insert = 1%fsync_part_directory = 1%' AS on FROM system.tables \
                    WHERE database = currentDatabase() AND engine LIKE '%MergeTree' ORDER BY name";
    test.sink.prepare(slice::from_ref(&item), &[]).await.unwrap();
    assert_eq!(sql(&test, settings).await, json!([{"name": "_distributary_checkpoint", "on": 0}, {"name": "item", "on": 0}]));
    let mut options = test.options.clone();
    options.fsync = true;
    let durable = open(options).await.unwrap();
    let second = target("second", &["id"], &["id"], vec![Field::new("id", DataType::Int64, false)]);
    for _ in 0..2 {
        durable.prepare(&[item.clone(), second.clone()], &[]).await.unwrap();
    }
    durable.write(&[write(&item, 1, named(&item, &[(1, None)]), None)]).await.unwrap();
    durable.flush(&[checkpoint("a", 1)]).await.unwrap();
    assert_eq!(
        sql(&test, settings).await,
        json!([{"name": "_distributary_checkpoint", "on": 1}, {"name": "item", "on": 1}, {"name": "second", "on": 1}])
    );
}

/// Runs each of these in this process and over HTTP.
macro_rules! both_ways {
    ($($name:ident),* $(,)?) => {
        mod in_this_process {
            $(#[tokio::test] async fn $name() { Box::pin(super::$name(super::sink().await)).await; })*
        }
        mod over_http {
            $(#[tokio::test] async fn $name() { Box::pin(super::$name(super::server_sink().await)).await; })*
        }
    };
}

both_ways! {
    every_type_there_and_back,
    every_scalar_type_as_a_key,
    the_highest_version_wins_and_deletes_are_real,
    large_writes_are_split_and_complete,
    one_large_text,
    what_cannot_be_held_is_refused_by_the_row,
    columns_are_added_and_left_but_never_changed,
    two_things_of_one_name_are_refused,
    a_dimension_takes_the_row_of_the_least_silver_key,
    a_checkpoint_moves_only_from_the_one_before,
    held_and_list_by_part_of_a_key,
    questions_of_people,
    bad_calls_are_told,
}
