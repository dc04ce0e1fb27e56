//! Values of every type and of the worst kind come back as they went, or are refused one row at a time.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, i256};
use distributary::mapping::target::Target;
use distributary::sinks::{Refused, SinkKind, Write};

use super::Place;
use super::subject::{
    DIMENSIONS, MODEL, Row, Subject, assert_same, chunked, ids, keys_of, row, shapes, stored, target_of, texts, together,
    with_a_bad_vector,
};

/// Texts that end a literal, an identifier, a statement or a string in some language, or look like something else than text.
const HOSTILE: [&str; 24] = [
    "",
    "'",
    "''",
    "\"}) DETACH DELETE n //",
    "`",
    "\\",
    "\\'",
    "$rows",
    "{x:String}",
    "a\0b",
    "a\0",
    "\0",
    "\u{202e}עברית",
    "🎬",
    "é",
    "e\u{301}",
    "1",
    "1.0",
    "01",
    "null",
    "NaN",
    " ",
    "a\r\n\tb",
    "%s'; DROP TABLE item; --",
];

const NUMBERS: [i64; 7] = [i64::MIN, -1, 0, 9_007_199_254_740_992, 9_007_199_254_740_993, i64::MAX - 1, i64::MAX];

pub(crate) async fn hostile_values_are_values<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let ids_of = NUMBERS.iter().copied().chain(100..);
        let all: Vec<Row> =
            HOSTILE.iter().zip(ids_of).map(|(text, id)| Row { year: Some(i32::MIN), ..row(id, 0, text) }).collect();
        subject.put(1, &all, &[]).await;
        let mut expected = all.clone();
        expected.sort();
        assert_eq!(subject.contents().await, expected);
        for one in &all {
            assert_eq!(subject.held(&ids(&[one.id])).await, std::slice::from_ref(one), "by {}", one.id);
            let name = one.name.as_deref().unwrap();
            assert_eq!(subject.held(&texts("name", &[name])).await, std::slice::from_ref(one), "by {name:?}");
        }
        // A megabyte is held or refused, and disturbs nobody.
        let long = row(5000, 0, &"x'\\🎬\0".repeat(100_000));
        let refused =
            sink.write(&[subject.change(2, &[row(4999, 0, "before"), long.clone(), row(5001, 0, "after")], &[])]).await.unwrap();
        sink.flush(&[]).await.unwrap();
        let neighbours = [row(4999, 0, "before"), row(5001, 0, "after")];
        assert_eq!(subject.held(&ids(&[4999, 5001])).await, neighbours);
        if refused.is_empty() {
            assert!(subject.held(&ids(&[5000])).await == [long], "a megabyte is held as it was written");
        } else {
            assert_eq!(refused.iter().map(|one| (one.write, one.row)).collect::<Vec<_>>(), [(0, 1)]);
            assert_eq!(subject.held(&ids(&[5000])).await, []);
        }
    }
}

/// A target whose whole key is one text.
fn tagged(name: &str, like: &Target) -> Arc<Target> {
    let mut target = like.clone();
    let mut fields = vec![Field::new("tag", DataType::Utf8, false)];
    if let distributary::mapping::target::Shape::Points { text } = &target.shape {
        fields.push(Field::new(text, DataType::Utf8, true));
    }
    if let distributary::mapping::target::Shape::Relationship { from, to } = &mut target.shape {
        for (end, label) in [(from, "WholeTag"), (to, "PartTag")] {
            (end.label, end.columns, end.properties) = (label.to_owned(), vec!["tag".to_owned()], vec!["tag".to_owned()]);
        }
    }
    target.name = name.to_owned();
    target.schema = Arc::new(Schema::new(fields));
    (target.key, target.record_key) = (vec!["tag".to_owned()], vec!["tag".to_owned()]);
    Arc::new(target)
}

pub(crate) async fn hostile_keys_are_keys<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let target = tagged(&format!("{}_tagged", subject.target.name), &subject.target);
        sink.check(&target).unwrap();
        sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        let chunks = |count: usize| Arc::new(Int64Array::from(vec![0; count])) as ArrayRef;
        let rows = |tags: &[&str]| {
            let given: Vec<Option<&str>> = tags.iter().copied().map(Some).collect();
            chunked(&target, vec![Arc::new(StringArray::from(tags.to_vec()))], chunks(tags.len()), &given, MODEL, DIMENSIONS)
        };
        let keys = |tags: &[&str]| {
            let all = rows(tags);
            let places: Vec<usize> = target.stored_key().iter().map(|name| all.schema().index_of(name).unwrap()).collect();
            all.project(&places).unwrap()
        };
        let write = |version, upserts: &[&str], deletes: &[&str]| Write {
            target: target.clone(),
            version,
            upserts: rows(upserts),
            deletes: keys(deletes),
        };
        for version in 1..3 {
            assert_eq!(sink.write(&[write(version, &HOSTILE, &[])]).await.unwrap(), Vec::<Refused>::new());
            sink.flush(&[]).await.unwrap();
        }
        assert_same(&target, &sink.held(&target, &texts("tag", &HOSTILE)).await.unwrap(), &rows(&HOSTILE), "all");
        let mut listed: Vec<String> = Vec::new();
        let mut after = None;
        loop {
            let page = sink.list(&target, after.as_deref(), 5).await.unwrap();
            listed.extend(page.keys["tag"].as_string::<i32>().iter().flatten().map(str::to_owned));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        let mut expected = HOSTILE.to_vec();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
        for tag in HOSTILE {
            assert_same(&target, &sink.held(&target, &texts("tag", &[tag])).await.unwrap(), &rows(&[tag]), tag);
        }
        let (gone, kept) = HOSTILE.split_at(HOSTILE.len() / 2);
        assert_eq!(sink.write(&[write(3, &[], gone)]).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[]).await.unwrap();
        assert_same(&target, &sink.held(&target, &texts("tag", &HOSTILE)).await.unwrap(), &rows(kept), "half of them");
    }
}

/// A column of each type that a query over a Delta table can make: its extremes where all engines reach, and a null at the end.
fn every_type() -> Vec<(&'static str, ArrayRef)> {
    let strings: Vec<Option<&str>> = vec![Some(""), Some("a\0b"), Some("it's `\\ \"q\" 🎬\n"), Some("שלום"), None];
    // From 1900 to 2299.
    let micros = vec![Some(-2_208_988_800_000_000), Some(-1), Some(0), Some(10_413_791_999_999_999), None];
    let numbers = Int64Array::from(vec![Some(1), None, Some(3), Some(i64::MIN), Some(i64::MAX)]);
    let offsets = || OffsetBuffer::<i32>::new(vec![0, 2, 2, 3, 4, 5].into());
    let nulls = || Some(vec![true, true, true, true, false].into());
    let item = |kind: &DataType| Arc::new(Field::new("item", kind.clone(), true));
    let list = |values: ArrayRef| Arc::new(ListArray::new(item(values.data_type()), offsets(), values, nulls())) as ArrayRef;
    let text: ArrayRef = Arc::new(StringArray::from(strings));
    let number: ArrayRef = Arc::new(numbers);
    let fields: Fields = vec![
        Field::new("number", DataType::Int64, true),
        Field::new("text", DataType::Utf8, true),
        Field::new("texts", list(text.clone()).data_type().clone(), true),
        Field::new("sure", DataType::Int32, false),
    ]
    .into();
    let sure: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3, 4, 5]));
    let structs: ArrayRef =
        Arc::new(StructArray::new(fields, vec![number.clone(), text.clone(), list(text.clone()), sure], nulls()));
    let map = |values: ArrayRef| -> ArrayRef {
        let fields: Fields =
            vec![Field::new("key", DataType::Utf8, false), Field::new("value", values.data_type().clone(), true)].into();
        let names = StringArray::from(vec!["z", "a", "", "b\0", "🎬"]);
        let entries = StructArray::new(fields.clone(), vec![Arc::new(names), values], None);
        let field = Arc::new(Field::new("entries", DataType::Struct(fields), false));
        Arc::new(MapArray::new(field, offsets(), entries, nulls(), false))
    };
    let date: ArrayRef = Arc::new(Date32Array::from(vec![Some(-25_567), Some(-19_800), Some(0), Some(120_529), None]));
    let moment: ArrayRef = Arc::new(TimestampMicrosecondArray::from(micros.clone()).with_timezone("UTC"));
    let decimal = |values: &[Option<i128>], precision, scale| -> ArrayRef {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap())
    };
    let cents = decimal(&[Some(-1), Some(0), Some(123_456_789), Some(9_999_999_999), None], 10, 2);
    let most = 10_i128.pow(38) - 1;
    let wide = [Some(-1), Some(0), Some(1), Some(i128::MAX), None].map(|v| v.map(i256::from_i128)).to_vec();
    vec![
        ("bool", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), Some(false), None]))),
        ("int8", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(0), Some(1), Some(i8::MAX), None]))),
        ("int16", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(0), Some(1), Some(i16::MAX), None]))),
        ("int32", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(0), Some(1), Some(i32::MAX), None]))),
        ("int64", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(9_007_199_254_740_993), Some(1), Some(i64::MAX), None]))),
        ("uint8", Arc::new(UInt8Array::from(vec![Some(0), Some(1), Some(2), Some(u8::MAX), None]))),
        ("uint16", Arc::new(UInt16Array::from(vec![Some(0), Some(1), Some(2), Some(u16::MAX), None]))),
        ("uint32", Arc::new(UInt32Array::from(vec![Some(0), Some(1), Some(2), Some(u32::MAX), None]))),
        ("uint64", Arc::new(UInt64Array::from(vec![Some(0), Some(1), Some(2), Some(i64::MAX.cast_unsigned()), None]))),
        ("float32", Arc::new(Float32Array::from(vec![Some(0.1), Some(f32::NAN), Some(f32::INFINITY), Some(f32::MIN), None]))),
        ("float64", Arc::new(Float64Array::from(vec![Some(0.1), Some(f64::NAN), Some(f64::NEG_INFINITY), Some(1e300), None]))),
        ("utf8", text.clone()),
        ("binary", Arc::new(BinaryArray::from(vec![Some(&b""[..]), Some(b"\0\xff\xfe"), Some(b"text"), Some(b"\x80"), None]))),
        ("date32", date.clone()),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(micros.clone()))),
        ("timestamp_utc", moment.clone()),
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
        ("decimal", cents.clone()),
        ("decimal38", decimal(&[Some(-most), Some(0), Some(1), Some(most), None], 38, 18)),
        ("decimal256", Arc::new(Decimal256Array::from(wide).with_precision_and_scale(60, 5).unwrap())),
        ("list", list(number.clone())),
        ("list_text", list(text)),
        ("list_date", list(date)),
        ("list_moment", list(moment)),
        ("list_decimal", list(cents)),
        ("list_struct", list(structs.clone())),
        ("list_list", list(list(number.clone()))),
        ("struct", structs.clone()),
        ("map", map(number)),
        ("map_struct", map(structs)),
    ]
}

/// Types that an engine of the kind does not take, and says so.
fn not_taken(kind: SinkKind) -> &'static [&'static str] {
    match kind {
        SinkKind::Clickhouse | SinkKind::Vectors => &[],
        SinkKind::Graph => &["timestamp_ns"],
    }
}

pub(crate) async fn every_type_there_and_back<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for (name, shape) in shapes(P::KIND) {
        let one = |(type_name, values): &(&str, ArrayRef)| {
            let field = Field::new(format!("c_{type_name}"), values.data_type().clone(), true);
            sink.check(&target_of(name, shape.clone(), vec![field])).is_ok()
        };
        let (taken, refused): (Vec<_>, Vec<_>) = every_type().into_iter().partition(one);
        let refused: Vec<&str> = refused.into_iter().map(|(name, _)| name).collect();
        assert_eq!(refused, not_taken(P::KIND), "types that {name} cannot hold");

        let fields = taken.iter().map(|(name, values)| Field::new(format!("c_{name}"), values.data_type().clone(), true));
        let target = target_of(&format!("{name}_typed"), shape.clone(), fields.collect());
        for _ in 0..2 {
            sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        }
        let numbers: Vec<(i64, i64)> = (0..5).map(|id| (id, 0)).collect();
        let columns = taken.iter().map(|(_, values)| values.clone()).collect();
        let batch = stored(&target, &numbers, columns, &[Some("a"), Some("b"), Some("c"), Some("d"), None]);
        let image = sink.image(&target, &batch).unwrap();
        assert_same(&target, &sink.image(&target, &image).unwrap(), &image, "an image is its own image");
        for (name, values) in taken.iter().filter(|(_, values)| !values.data_type().is_nested()) {
            assert_eq!(&image[format!("c_{name}").as_str()], values, "a plain value is held as it is: {name}");
        }
        // A slice in the middle of arrays does not drag the rest along.
        for (version, rows, wanted) in [(1, batch.clone(), 0..5), (2, batch.slice(2, 2), 0..5), (3, batch.slice(4, 1), 0..5)] {
            let write = Write { target: target.clone(), version, upserts: rows, deletes: keys_of(&target, &[]) };
            assert_eq!(sink.write(&[write]).await.unwrap(), Vec::<Refused>::new());
            sink.flush(&[]).await.unwrap();
            let held = sink.held(&target, &ids(&wanted.collect::<Vec<_>>())).await.unwrap();
            assert_same(&target, &held, &image, &format!("version {version}"));
        }
    }
}

/// A row that the kind's engines cannot hold, among such that they can.
fn unholdable(name: &str, shape: distributary::mapping::target::Shape, kind: SinkKind) -> (Arc<Target>, RecordBatch) {
    let numbers = [(1, 0), (2, 0), (3, 0)];
    let given = [Some("a"), Some("b"), Some("c")];
    let values: ArrayRef = match kind {
        // The day before the first.
        SinkKind::Clickhouse => Arc::new(Date32Array::from(vec![Some(0), Some(-25_568), None])),
        _ => Arc::new(UInt64Array::from(vec![Some(7), Some(u64::MAX), None])),
    };
    let target = target_of(&format!("{name}_odd"), shape, vec![Field::new("value", values.data_type().clone(), true)]);
    let batch = stored(&target, &numbers, vec![values], &given);
    let batch = if kind == SinkKind::Vectors { with_a_bad_vector(&batch, 1) } else { batch };
    (target, batch)
}

pub(crate) async fn a_row_is_refused_alone<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    let usual = Subject::all(&sink).await;
    for ((name, shape), other) in shapes(P::KIND).into_iter().zip(usual) {
        let (target, batch) = unholdable(name, shape, P::KIND);
        sink.prepare(&[target.clone(), other.target.clone()], &[]).await.unwrap();
        let odd = Write { target: target.clone(), version: 1, upserts: batch.clone(), deletes: keys_of(&target, &[]) };
        let writes = [other.change(1, &[row(1, 0, "beside it")], &[]), odd];
        for _ in 0..2 {
            let refused = sink.write(&writes).await.unwrap();
            let places: Vec<(usize, usize)> = refused.iter().map(|one| (one.write, one.row)).collect();
            assert_eq!(places, [(1, 1)], "{refused:?}");
            assert!(!refused[0].message.is_empty());
            sink.flush(&[]).await.unwrap();
        }
        assert_eq!(other.contents().await, [row(1, 0, "beside it")]);
        let taken = together(&[batch.slice(0, 1), batch.slice(2, 1)]);
        let held = sink.held(&target, &ids(&[1, 2, 3])).await.unwrap();
        assert_same(&target, &held, &sink.image(&target, &taken).unwrap(), "the others of the batch");
    }
}
