//! Targets and rows of every kind of sink in one form: rows of two numbers, of which the first is the Silver key, a name and a year.
//! The second number is a column of the key in tables and graphs, and the chunk of points.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::{SortColumn, concat_batches, lexsort_to_indices, take_record_batch};
use arrow::datatypes::{DataType, Field, Float32Type, Int32Type, Int64Type, Schema};
use distributary::mapping::target::{
    CHUNK, CHUNK_END, CHUNK_START, CHUNKS, End, MODEL as MODEL_COLUMN, Shape, TEXT_HASH, Target, VECTOR,
};
use distributary::sinks::{Refused, Sink, SinkKind, Write};

/// The model of the sinks that a place opens.
pub(crate) const MODEL: &str = "hash@1";
/// The length of its vectors.
pub(crate) const DIMENSIONS: usize = 8;
/// The column of the key that is not the Silver key.
const PART: &str = "part";

/// The shapes of a kind, with a name each.
pub(crate) fn shapes(kind: SinkKind) -> Vec<(&'static str, Shape)> {
    let end = |label: &str, column: &str| End {
        label: label.to_owned(),
        columns: vec![column.to_owned()],
        properties: vec![column.to_owned()],
        stub: Vec::new(),
        declared: false,
    };
    match kind {
        SinkKind::Clickhouse => vec![("item", Shape::Table)],
        SinkKind::Graph => {
            vec![("Item", Shape::Node), ("HAS_PART", Shape::Relationship { from: end("Whole", "id"), to: end("Part", PART) })]
        }
        SinkKind::Vectors => vec![("items", Shape::Points { text: "text".to_owned() })],
    }
}

/// A target with `id`, for tables and graphs `part`, and these columns.
pub(crate) fn target_of(name: &str, shape: Shape, columns: Vec<Field>) -> Arc<Target> {
    let points = matches!(shape, Shape::Points { .. });
    let mut fields = vec![Field::new("id", DataType::Int64, false)];
    if points {
        fields.push(Field::new("text", DataType::Utf8, true));
    } else {
        fields.push(Field::new(PART, DataType::Int64, false));
    }
    fields.extend(columns);
    let key = if points { vec!["id".to_owned()] } else { vec!["id".to_owned(), PART.to_owned()] };
    Arc::new(Target {
        table: "silver".to_owned(),
        name: name.to_owned(),
        shape,
        schema: Arc::new(Schema::new(fields)),
        key,
        record_key: vec!["id".to_owned()],
        fingerprint: "f".to_owned(),
    })
}

/// A row as tests speak of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) part: i64,
    pub(crate) name: Option<String>,
    pub(crate) year: Option<i32>,
}

/// A row that has everything.
pub(crate) fn row(id: i64, part: i64, name: &str) -> Row {
    Row { id, part, name: Some(name.to_owned()), year: Some(1900 + (id % 100) as i32) }
}

/// A unit vector that depends on nothing but the text.
fn vector_of(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let raw: Vec<f32> = (0..dimensions).map(|_| next()).collect();
    let length = raw.iter().map(|x| x * x).sum::<f32>().sqrt();
    raw.into_iter().map(|x| x / length).collect()
}

/// The hash by which a text is known.
pub(crate) fn hash_of(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

/// Rows in the target's stored schema: `id`, then the second number, then `columns`, then, for points, what belongs to chunks and vectors
/// of `texts`.
pub(crate) fn stored(target: &Target, numbers: &[(i64, i64)], columns: Vec<ArrayRef>, texts: &[Option<&str>]) -> RecordBatch {
    stored_by(target, numbers, columns, texts, MODEL, DIMENSIONS)
}

fn stored_by(
    target: &Target,
    numbers: &[(i64, i64)],
    columns: Vec<ArrayRef>,
    texts: &[Option<&str>],
    model: &str,
    dimensions: usize,
) -> RecordBatch {
    let numbered = |read: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(numbers.iter().map(read))) as ArrayRef;
    let second = numbered(|pair| pair.1);
    let mut all = vec![numbered(|pair| pair.0)];
    if !matches!(target.shape, Shape::Points { .. }) {
        all.push(second.clone());
    }
    all.extend(columns);
    chunked(target, all, second, texts, model, dimensions)
}

/// The columns of a target without its text, and, for points, what belongs to chunks and vectors of the texts.
pub(crate) fn chunked(
    target: &Target,
    mut columns: Vec<ArrayRef>,
    chunks: ArrayRef,
    texts: &[Option<&str>],
    model: &str,
    dimensions: usize,
) -> RecordBatch {
    let schema = target.stored_schema(dimensions);
    if !matches!(target.shape, Shape::Points { .. }) {
        return RecordBatch::try_new(schema, columns).unwrap();
    }
    let all: Vec<&str> = texts.iter().map(|text| text.unwrap_or_default()).collect();
    columns.push(chunks);
    columns.push(Arc::new(Int64Array::from(vec![1; all.len()])));
    columns.push(Arc::new(Int64Array::from(vec![0; all.len()])));
    columns.push(Arc::new(Int64Array::from_iter_values(all.iter().map(|text| text.len() as i64))));
    columns.push(Arc::new(StringArray::from_iter_values(all.iter().map(|text| hash_of(text)))));
    columns.push(Arc::new(StringArray::from(vec![model; all.len()])));
    let DataType::FixedSizeList(item, width) = schema.field_with_name(VECTOR).unwrap().data_type() else { unreachable!() };
    let flat: Vec<f32> = all.iter().flat_map(|text| vector_of(text, dimensions)).collect();
    columns.push(Arc::new(FixedSizeListArray::new(item.clone(), *width, Arc::new(Float32Array::from(flat)), None)));
    RecordBatch::try_new(schema, columns).unwrap()
}

/// The same batch without vectors: only payloads are to change.
pub(crate) fn without_vectors(batch: &RecordBatch) -> RecordBatch {
    let place = batch.schema().index_of(VECTOR).unwrap();
    let DataType::FixedSizeList(item, width) = batch.schema().field(place).data_type().clone() else { unreachable!() };
    let (rows, mut columns) = (batch.num_rows(), batch.columns().to_vec());
    let flat = Float32Array::from(vec![0.0; rows * width as usize]);
    columns[place] = Arc::new(FixedSizeListArray::new(item, width, Arc::new(flat), Some(NullBuffer::new_null(rows))));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// The same batch with a vector that is none in one row.
pub(crate) fn with_a_bad_vector(batch: &RecordBatch, row: usize) -> RecordBatch {
    let place = batch.schema().index_of(VECTOR).unwrap();
    let DataType::FixedSizeList(item, width) = batch.schema().field(place).data_type().clone() else { unreachable!() };
    let mut columns = batch.columns().to_vec();
    let mut flat = columns[place].as_fixed_size_list().values().as_primitive::<Float32Type>().values().to_vec();
    flat[row * width as usize] = f32::NAN;
    columns[place] = Arc::new(FixedSizeListArray::new(item, width, Arc::new(Float32Array::from(flat)), None));
    RecordBatch::try_new(batch.schema(), columns).unwrap()
}

/// The columns of the target's stored key, as deletes are given.
pub(crate) fn keys_of(target: &Target, numbers: &[(i64, i64)]) -> RecordBatch {
    let column = |read: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(numbers.iter().map(read))) as ArrayRef;
    let second = if matches!(target.shape, Shape::Points { .. }) { CHUNK } else { PART };
    RecordBatch::try_from_iter([("id", column(|pair| pair.0)), (second, column(|pair| pair.1))]).unwrap()
}

/// Silver keys.
pub(crate) fn ids(values: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(values.to_vec())) as ArrayRef)]).unwrap()
}

/// Keys of one text column.
pub(crate) fn texts(column: &str, values: &[&str]) -> RecordBatch {
    RecordBatch::try_from_iter([(column, Arc::new(StringArray::from(values.to_vec())) as ArrayRef)]).unwrap()
}

/// A sink with one target in it.
#[derive(Debug, Clone)]
pub(crate) struct Subject {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) target: Arc<Target>,
}

impl Subject {
    /// One subject for each shape of the sink's kind, prepared.
    pub(crate) async fn all(sink: &Arc<dyn Sink>) -> Vec<Self> {
        let subjects = Self::unprepared(sink);
        let targets: Vec<Arc<Target>> = subjects.iter().map(|subject| subject.target.clone()).collect();
        sink.prepare(&targets, &[]).await.unwrap();
        subjects
    }

    /// The same, of which the sink knows nothing yet.
    pub(crate) fn unprepared(sink: &Arc<dyn Sink>) -> Vec<Self> {
        let columns = || vec![Field::new("name", DataType::Utf8, true), Field::new("year", DataType::Int32, true)];
        let of = |(name, shape)| Self { sink: sink.clone(), target: target_of(name, shape, columns()) };
        shapes(sink.kind()).into_iter().map(of).collect()
    }

    /// Rows in the stored schema.
    pub(crate) fn rows(&self, rows: &[Row]) -> RecordBatch {
        self.rows_by(rows, MODEL, DIMENSIONS)
    }

    /// The same, of another model.
    pub(crate) fn rows_by(&self, rows: &[Row], model: &str, dimensions: usize) -> RecordBatch {
        let numbers: Vec<(i64, i64)> = rows.iter().map(|row| (row.id, row.part)).collect();
        let texts: Vec<Option<&str>> = rows.iter().map(|row| row.name.as_deref()).collect();
        let years: Int32Array = rows.iter().map(|row| row.year).collect();
        let columns: Vec<ArrayRef> = vec![Arc::new(StringArray::from(texts.clone())), Arc::new(years)];
        stored_by(&self.target, &numbers, columns, &texts, model, dimensions)
    }

    /// What a batch does.
    pub(crate) fn change(&self, version: u64, upserts: &[Row], deletes: &[(i64, i64)]) -> Write {
        let deletes = keys_of(&self.target, deletes);
        Write { target: self.target.clone(), version, upserts: self.rows(upserts), deletes }
    }

    /// Writes it, durably.
    pub(crate) async fn put(&self, version: u64, upserts: &[Row], deletes: &[(i64, i64)]) {
        self.write(self.change(version, upserts, deletes)).await;
    }

    /// Writes a batch, durably, and expects that nothing is refused.
    pub(crate) async fn write(&self, write: Write) {
        assert_eq!(self.sink.write(&[write]).await.unwrap(), Vec::<Refused>::new());
        self.sink.flush(&[]).await.unwrap();
    }

    /// The rows that a question by columns finds, in order.
    pub(crate) async fn held(&self, keys: &RecordBatch) -> Vec<Row> {
        let held = self.sink.held(&self.target, keys).await.unwrap();
        assert_eq!(held.schema(), self.target.stored_schema(DIMENSIONS), "rows are answered in the stored schema");
        self.read(&held)
    }

    /// Everything that is held, in order.
    pub(crate) async fn contents(&self) -> Vec<Row> {
        let keys = self.listed(1000).await;
        if keys.is_empty() { Vec::new() } else { self.held(&ids(&keys)).await }
    }

    /// Every Silver key that is listed, each once, in the list's order, on pages of a size.
    pub(crate) async fn listed(&self, limit: usize) -> Vec<i64> {
        let (mut keys, mut seen, mut after) = (Vec::new(), HashSet::new(), None);
        loop {
            let page = self.sink.list(&self.target, after.as_deref(), limit).await.unwrap();
            assert!(page.keys.num_rows() <= limit, "a page has {} keys, asked for {limit}", page.keys.num_rows());
            for id in page.keys["id"].as_primitive::<Int64Type>().values() {
                if seen.insert(*id) {
                    keys.push(*id);
                }
            }
            match page.next {
                None => return keys,
                Some(next) => assert_ne!(after.replace(next.clone()), Some(next), "the list does not go on"),
            }
        }
    }

    /// Rows of a batch, in order. Vectors must be those of their texts.
    fn read(&self, batch: &RecordBatch) -> Vec<Row> {
        let points = matches!(self.target.shape, Shape::Points { .. });
        let number = |name: &str, row: usize| batch[name].as_primitive::<Int64Type>().value(row);
        let read = |row: usize| {
            let names = batch["name"].as_string::<i32>();
            let years = batch["year"].as_primitive::<Int32Type>();
            let name = names.is_valid(row).then(|| names.value(row).to_owned());
            if points {
                let text = name.as_deref().unwrap_or_default();
                assert_eq!(batch[TEXT_HASH].as_string::<i32>().value(row), hash_of(text));
                assert_eq!(batch[MODEL_COLUMN].as_string::<i32>().value(row), MODEL);
                assert_eq!((number(CHUNKS, row), number(CHUNK_START, row), number(CHUNK_END, row)), (1, 0, text.len() as i64));
                assert_near(batch, row, &vector_of(text, DIMENSIONS));
            }
            let part = number(if points { CHUNK } else { PART }, row);
            Row { id: number("id", row), part, name, year: years.is_valid(row).then(|| years.value(row)) }
        };
        let mut rows: Vec<Row> = (0..batch.num_rows()).map(read).collect();
        rows.sort();
        rows
    }
}

/// Fails unless a row's vector is this one: engines may scale vectors, which moves the last bits.
fn assert_near(batch: &RecordBatch, row: usize, expected: &[f32]) {
    let vectors = batch[VECTOR].as_fixed_size_list();
    assert!(vectors.is_valid(row), "row {row} has no vector");
    let found = vectors.value(row).as_primitive::<Float32Type>().values().to_vec();
    let near = found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
    assert!(near, "row {row} has the vector {found:?}, it should have {expected:?}");
}

/// Fails unless two batches hold the same rows, in whatever order. The first two numbers of the stored key identify them.
pub(crate) fn assert_same(target: &Target, found: &RecordBatch, expected: &RecordBatch, when: &str) {
    let sorted = |batch: &RecordBatch| {
        let column = |name: &String| SortColumn { values: batch[name.as_str()].clone(), options: None };
        let columns: Vec<SortColumn> = target.stored_key().iter().map(column).collect();
        take_record_batch(batch, &lexsort_to_indices(&columns, None).unwrap()).unwrap()
    };
    let (found, expected) = (sorted(found), sorted(expected));
    assert_eq!(found.schema(), expected.schema(), "{when}");
    assert_eq!(found.num_rows(), expected.num_rows(), "{when}: {found:?}");
    for (place, field) in expected.schema().fields().iter().enumerate().filter(|(_, field)| field.name() != VECTOR) {
        assert_eq!(found.column(place), expected.column(place), "{when}: column {} of {}", field.name(), target.name);
    }
}

/// Batches as one.
pub(crate) fn together(batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(&batches[0].schema(), batches).unwrap()
}
