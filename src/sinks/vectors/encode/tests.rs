//! Ids, points and rows without an engine.

use arrow::array::Int32Array;
use arrow::datatypes::{SchemaRef, TimeUnit};

use super::*;

fn target(table: &str, key: &[&str]) -> Target {
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("part", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("year", DataType::Int32, true),
    ];
    let key: Vec<String> = key.iter().map(|name| (*name).to_owned()).collect();
    Target {
        table: table.to_owned(),
        name: "titles".to_owned(),
        shape: Shape::Points { text: "text".to_owned() },
        schema: SchemaRef::new(Schema::new(fields)),
        record_key: vec!["id".to_owned()],
        key,
        fingerprint: "f".to_owned(),
    }
}

fn batch_of(target: &Target, ids: &[i64], parts: &[&str], vectors: &[Option<[f32; 2]>]) -> RecordBatch {
    let n = ids.len();
    let schema = target.stored_schema(2);
    let numbers = |value: i64| Arc::new(Int64Array::from(vec![value; n])) as ArrayRef;
    let texts = |value: &str| Arc::new(StringArray::from(vec![value; n])) as ArrayRef;
    let flat: Vec<f32> = vectors.iter().flat_map(|v| v.unwrap_or_default()).collect();
    let DataType::FixedSizeList(item, _) = schema.field_with_name(VECTOR).unwrap().data_type() else { unreachable!() };
    let nulls = NullBuffer::from_iter(vectors.iter().map(Option::is_some));
    let vectors = FixedSizeListArray::new(item.clone(), 2, Arc::new(Float32Array::from(flat)), Some(nulls));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(StringArray::from(parts.to_vec())),
        Arc::new(Int32Array::from(vec![None; n])),
        numbers(0),
        numbers(1),
        numbers(0),
        numbers(5),
        texts("00"),
        texts("m"),
        Arc::new(vectors),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

#[test]
fn an_id_names_one_chunk_of_one_row_of_one_table() {
    let movies = target("movies", &["id", "part"]);
    let series = target("series", &["id", "part"]);
    let rows = batch_of(&movies, &[1, 1, 11, 1], &["1", "a\",\"b", "", "1"], &[None; 4]);
    let of_movies = ids(&movies, &rows).unwrap();
    assert_eq!(of_movies[0], of_movies[3]);
    assert_eq!(HashSet::<&Uuid>::from_iter(&of_movies).len(), 3);
    assert!(ids(&series, &rows).unwrap().iter().all(|id| !of_movies.contains(id)), "two tables share no id");
    // A change of these makes every stored point an orphan.
    assert_eq!(of_movies[0].to_string(), "3b93bcc0-d3f4-5633-ad2f-2a8765871a54");
    assert_eq!(records(&movies, &rows).unwrap()[0], records(&movies, &rows).unwrap()[1], "the record's key is id alone");
    assert_ne!(records(&movies, &rows).unwrap()[0], records(&series, &rows).unwrap()[0]);
}

#[test]
fn rows_are_read_as_they_were_written() {
    let movies = target("movies", &["id", "part"]);
    let rows_in = batch_of(&movies, &[i64::MIN, i64::MAX], &["é🎬\0", ""], &[Some([0.6, 0.8]), Some([0.0, -1.0])]);
    let encoded = points(&movies, 2, u64::MAX, &rows_in).unwrap();
    assert!(encoded.refused.is_empty());
    let stored: Vec<Point> = encoded.points.into_iter().map(|(_, point)| point).collect();
    assert_eq!(rows(&movies, 2, &stored).unwrap(), rows_in);
    assert_eq!(stored[0].payload[VERSION].as_u64(), Some(u64::MAX));
    assert!(!stored[0].payload.contains_key("text"), "the text is not stored");
    assert_eq!(rows(&movies, 2, &[]).unwrap().schema(), movies.stored_schema(2));
}

#[test]
fn vectors_are_scaled_to_length_one_and_refused_when_not_finite() {
    let movies = target("movies", &["id", "part"]);
    let vectors =
        [Some([3.0, 4.0]), Some([f32::NAN, 0.0]), Some([0.0, f32::INFINITY]), Some([0.0, 0.0]), Some([f32::MAX, 0.0]), None];
    let rows = batch_of(&movies, &[1, 2, 3, 4, 5, 6], &["p"; 6], &vectors);
    let encoded = points(&movies, 2, 1, &rows).unwrap();
    assert_eq!(encoded.refused.iter().map(|(row, _)| *row).collect::<Vec<_>>(), [1, 2]);
    assert!(encoded.refused[1].1.contains("component 1"), "{}", encoded.refused[1].1);
    let vectors: Vec<_> = encoded.points.into_iter().map(|(_, point)| point.vector).collect();
    assert_eq!(vectors, [Some(vec![0.6, 0.8]), Some(vec![0.0, 0.0]), Some(vec![1.0, 0.0]), None]);
    assert!(points(&movies, 3, 1, &rows).is_err(), "another length is another model");
}

#[test]
fn a_point_that_is_not_what_was_written_equals_no_row() {
    let movies = target("movies", &["id", "part"]);
    let rows_in = batch_of(&movies, &[1], &["p"], &[Some([0.6, 0.8])]);
    let point = points(&movies, 2, 1, &rows_in).unwrap().points.remove(0).1;
    let read = |point: Point| rows(&movies, 2, &[point]).unwrap();
    let hash = |batch: &RecordBatch| batch[TEXT_HASH].as_string::<i32>().value(0).to_owned();
    let chunks = |batch: &RecordBatch| batch[CHUNKS].as_primitive::<arrow::datatypes::Int64Type>().value(0);

    let torn = read(Point { vector: Some(vec![0.8, 0.6]), ..point.clone() });
    assert_eq!((hash(&torn).as_str(), torn[VECTOR].is_null(0)), ("", true));
    let lost = read(Point { vector: None, ..point.clone() });
    assert_eq!((hash(&lost).as_str(), lost[VECTOR].is_null(0)), ("", true));

    let mut older = point.clone();
    older.payload.insert("gone".to_owned(), Value::from(1));
    let mut other_type = point.clone();
    other_type.payload.insert("year".to_owned(), Value::from("1915"));
    let mut missing = point.clone();
    missing.payload.remove("part");
    for point in [older, other_type, missing] {
        let batch = read(point);
        assert_eq!((hash(&batch).as_str(), chunks(&batch), batch[VECTOR].is_null(0)), ("00", -1, false));
        assert_eq!(batch.schema(), movies.stored_schema(2));
    }
    assert_eq!(read(point), rows_in);
}

#[test]
fn targets_that_cannot_be_held_are_refused_with_the_reason() {
    assert_eq!(check(&target("movies", &["id"])), Ok(()));
    let with = |field: Field| {
        let mut target = target("movies", &["id"]);
        let mut fields = target.schema.fields().to_vec();
        fields.push(Arc::new(field));
        target.schema = SchemaRef::new(Schema::new(fields));
        check(&target).unwrap_err()
    };
    assert!(with(Field::new("score", DataType::Int64, true)).contains("score is reserved"));
    assert!(with(Field::new("_version", DataType::Int64, true)).contains("_version is reserved"));
    assert!(with(Field::new("t", DataType::Time64(TimeUnit::Nanosecond), true)).contains("cast(t AS varchar)"));
    let mut table = target("movies", &["id"]);
    table.name = "../up".to_owned();
    assert!(check(&table).unwrap_err().contains("'../up'"));
    table.shape = Shape::Table;
    assert!(check(&table).unwrap_err().contains("no collection"));
}
