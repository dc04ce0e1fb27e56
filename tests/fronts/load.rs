//! Points of a file into a Qdrant server by the sink, timed: what `bench/qdrant.py` runs beside the Python client.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, ListBuilder, RecordBatch, StringArray, StringBuilder,
};
use arrow::datatypes::{DataType, Field, Schema};
use distributary::mapping::target::{CHUNK, Shape, Target, VECTOR};
use distributary::sinks::vectors::{QdrantOptions, open_qdrant};
use distributary::sinks::{Sink as _, Write};
use serde_json::Value;

/// Rows in one write: what a run hands to a sink at once.
const ROWS: usize = 8_192;

fn target() -> Arc<Target> {
    let strings = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("year", DataType::Int64, true),
        Field::new("genres", strings, true),
    ];
    Arc::new(Target {
        table: "movies".to_owned(),
        name: "titles".to_owned(),
        shape: Shape::Points { text: "text".to_owned() },
        schema: Arc::new(Schema::new(fields)),
        key: vec!["id".to_owned()],
        record_key: vec!["id".to_owned()],
        fingerprint: "f".to_owned(),
    })
}

fn rows_of(target: &Target, points: &[Value], vectors: &[f32], dimensions: usize) -> RecordBatch {
    let schema = target.stored_schema(dimensions);
    let number = |name: &str| Arc::new(points.iter().map(|point| point[name].as_i64()).collect::<Int64Array>()) as ArrayRef;
    let constant = |value: i64| Arc::new(Int64Array::from(vec![value; points.len()])) as ArrayRef;
    let text = |name: &str| Arc::new(points.iter().map(|point| point[name].as_str()).collect::<StringArray>()) as ArrayRef;
    let mut genres = ListBuilder::new(StringBuilder::new());
    for point in points {
        genres.append_value(point["genres"].as_array().unwrap().iter().map(|genre| genre.as_str()));
    }
    let DataType::FixedSizeList(item, width) = schema.field_with_name(VECTOR).unwrap().data_type() else { unreachable!() };
    let vectors = FixedSizeListArray::new(item.clone(), *width, Arc::new(Float32Array::from(vectors.to_vec())), None);
    let model = Arc::new(StringArray::from(vec!["bench@1"; points.len()])) as ArrayRef;
    let columns = vec![
        number("id"),
        text("title"),
        number("year"),
        Arc::new(genres.finish()),
        constant(0),
        constant(1),
        constant(0),
        constant(9),
        text("_text_hash"),
        model,
        Arc::new(vectors),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

/// Writes the points of `points.jsonl` and `vectors.f32` and prints the seconds until all are durable, and how many there are then.
pub(crate) fn load(address: &str, directory: &Path) {
    let lines = std::fs::read_to_string(directory.join("points.jsonl")).unwrap();
    let points: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let bytes = std::fs::read(directory.join("vectors.f32")).unwrap();
    let vectors: Vec<f32> = bytes.chunks_exact(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
    let (target, dimensions) = (target(), vectors.len() / points.len());
    let writes = points.chunks(ROWS).zip(vectors.chunks(ROWS * dimensions));
    let keys = Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef;
    let none = RecordBatch::try_from_iter([("id", keys.clone()), (CHUNK, keys)]).unwrap();
    let writes: Vec<Write> = writes
        .map(|(points, vectors)| {
            let upserts = rows_of(&target, points, vectors, dimensions);
            Write { target: target.clone(), version: 1, upserts, deletes: none.clone() }
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let options = QdrantOptions::at(address.parse().unwrap());
        let sink = open_qdrant(options, "bench@1".to_owned(), dimensions).await.unwrap();
        sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        let began = Instant::now();
        for write in &writes {
            let refused = sink.write(std::slice::from_ref(write)).await.unwrap();
            assert!(refused.is_empty());
        }
        sink.flush(&[]).await.unwrap();
        println!("{}", began.elapsed().as_secs_f64());
    });
}
