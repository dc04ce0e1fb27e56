//! The contract, on the real engine.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListBuilder, StringArray, StringBuilder,
};
use arrow::buffer::NullBuffer;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, SchemaRef};

use super::*;
use crate::mapping::target::{Shape, VECTOR};
use crate::sinks::{Class, LaneId, Pending, Role};

const DIMENSIONS: usize = 8;

fn options(path: &Path) -> VectorsOptions {
    VectorsOptions { path: path.to_owned(), model: "hash@1".to_owned(), dimensions: DIMENSIONS }
}

fn generation(model: &str, dimensions: usize) -> String {
    Collection { name: "titles".to_owned(), model: model.to_owned(), dimensions }.generation()
}

async fn opened(path: &Path) -> VectorsSink {
    open(options(path)).await.unwrap()
}

fn target_of(table: &str) -> Arc<Target> {
    let strings = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("year", DataType::Int32, true),
        Field::new("genres", strings, true),
    ];
    Arc::new(Target {
        table: table.to_owned(),
        name: "titles".to_owned(),
        shape: Shape::Points { text: "text".to_owned() },
        schema: SchemaRef::new(Schema::new(fields)),
        key: vec!["id".to_owned()],
        record_key: vec!["id".to_owned()],
        fingerprint: "f".to_owned(),
    })
}

/// One chunk of a row.
#[derive(Clone)]
struct Chunk {
    id: i64,
    chunk: i64,
    chunks: i64,
    text: String,
    title: String,
    has_vector: bool,
}

fn chunk(id: i64, text: &str, title: &str) -> Chunk {
    Chunk { id, chunk: 0, chunks: 1, text: text.to_owned(), title: title.to_owned(), has_vector: true }
}

/// A unit vector that depends on nothing but the text.
fn vector_of(text: &str, dimensions: usize) -> Vec<f32> {
    let mut state = xxhash_rust::xxh3::xxh3_64(text.as_bytes());
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    encode::unit((0..dimensions).map(|_| next()).collect())
}

fn hash_of(text: &str) -> String {
    format!("{:032x}", xxhash_rust::xxh3::xxh3_128(text.as_bytes()))
}

fn rows_of(target: &Target, chunks: &[Chunk], dimensions: usize) -> RecordBatch {
    let schema = target.stored_schema(dimensions);
    let numbers = |read: fn(&Chunk) -> i64| Arc::new(Int64Array::from_iter_values(chunks.iter().map(read))) as ArrayRef;
    let mut genres = ListBuilder::new(StringBuilder::new());
    for chunk in chunks {
        genres.append_value([Some("drama"), Some(if chunk.id % 2 == 0 { "even" } else { "odd" })]);
    }
    let DataType::FixedSizeList(item, width) = schema.field_with_name(VECTOR).unwrap().data_type() else { unreachable!() };
    let flat: Vec<f32> = chunks.iter().flat_map(|chunk| vector_of(&chunk.text, dimensions)).collect();
    let nulls = NullBuffer::from_iter(chunks.iter().map(|chunk| chunk.has_vector));
    let vectors = FixedSizeListArray::new(item.clone(), *width, Arc::new(Float32Array::from(flat)), Some(nulls));
    let columns: Vec<ArrayRef> = vec![
        numbers(|chunk| chunk.id),
        Arc::new(StringArray::from_iter_values(chunks.iter().map(|chunk| chunk.title.as_str()))),
        Arc::new(Int32Array::from_iter_values(chunks.iter().map(|chunk| 1900 + (chunk.id % 100) as i32))),
        Arc::new(genres.finish()),
        numbers(|chunk| chunk.chunk),
        numbers(|chunk| chunk.chunks),
        numbers(|_| 0),
        numbers(|chunk| chunk.text.len() as i64),
        Arc::new(StringArray::from_iter_values(chunks.iter().map(|chunk| hash_of(&chunk.text)))),
        Arc::new(StringArray::from_iter_values(chunks.iter().map(|_| "hash@1"))),
        Arc::new(vectors),
    ];
    RecordBatch::try_new(schema, columns).unwrap()
}

fn ids_batch(ids: &[i64]) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef)]).unwrap()
}

fn chunk_keys(keys: &[(i64, i64)]) -> RecordBatch {
    let column = |read: fn(&(i64, i64)) -> i64| Arc::new(Int64Array::from_iter_values(keys.iter().map(read))) as ArrayRef;
    RecordBatch::try_from_iter([("id", column(|key| key.0)), (CHUNK, column(|key| key.1))]).unwrap()
}

fn write_of(target: &Arc<Target>, version: u64, upserts: &[Chunk], deletes: &[(i64, i64)]) -> Write {
    let upserts = rows_of(target, upserts, DIMENSIONS);
    Write { target: target.clone(), version, upserts, deletes: chunk_keys(deletes) }
}

async fn put(sink: &VectorsSink, target: &Arc<Target>, version: u64, upserts: &[Chunk], deletes: &[(i64, i64)]) {
    let refused = sink.write(&[write_of(target, version, upserts, deletes)]).await.unwrap();
    assert_eq!(refused, []);
}

/// Id, chunk, title, text hash and vector of a point.
type Held = (i64, i64, String, String, Option<Vec<f32>>);

/// What the target holds, in order of id and chunk.
async fn contents(sink: &VectorsSink, target: &Target) -> Vec<Held> {
    let mut out = Vec::new();
    let mut after = None;
    loop {
        let page = sink.list(target, after.as_deref(), 3).await.unwrap();
        let held = sink.held(target, &page.keys).await.unwrap();
        let (ids, chunks) = (held["id"].as_primitive::<Int64Type>(), held[CHUNK].as_primitive::<Int64Type>());
        for row in 0..held.num_rows() {
            let vector = held[VECTOR].as_fixed_size_list();
            let vector = vector.is_valid(row).then(|| vector.value(row).as_primitive::<Float32Type>().values().to_vec());
            let text = |name: &str| held[name].as_string::<i32>().value(row).to_owned();
            out.push((ids.value(row), chunks.value(row), text("title"), text(TEXT_HASH), vector));
        }
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    out.sort_by_key(|(id, chunk, ..)| (*id, *chunk));
    out.dedup();
    out
}

fn expected(chunks: &[Chunk]) -> Vec<Held> {
    let one = |c: &Chunk| (c.id, c.chunk, c.title.clone(), hash_of(&c.text), Some(vector_of(&c.text, DIMENSIONS)));
    chunks.iter().map(one).collect()
}

fn checkpoint(table: &str, revision: u64, model: &str) -> Checkpoint {
    Checkpoint {
        lane: LaneId::new(table, SinkKind::Vectors, "titles", Some(model)),
        revision,
        table_id: "t".to_owned(),
        version: Some(revision as i64),
        pending: None,
        epoch: 0,
        generation: 0,
        schema_fingerprint: "s".to_owned(),
        mapping_fingerprint: "m".to_owned(),
        model: Some(model.to_owned()),
        updated_at: "2024-01-01T00:00:00Z".to_owned(),
    }
}

#[tokio::test]
async fn rows_are_held_as_they_were_written_and_survive_a_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let chunks = [chunk(i64::MIN, "a", "one"), chunk(0, "b", "é🎬\0'\"`"), chunk(i64::MAX, "", "three")];
    let rows = rows_of(&target, &chunks, DIMENSIONS);
    {
        let sink = opened(dir.path()).await;
        assert_eq!(sink.checkpoints().await.unwrap(), []);
        assert_eq!(sink.list(&target, None, 10).await.unwrap().keys.num_rows(), 0, "a target that is not there has no rows");
        assert_eq!(sink.held(&target, &ids_batch(&[0])).await.unwrap().num_rows(), 0);
        let error = sink.write(&[write_of(&target, 1, &chunks, &[])]).await.unwrap_err();
        assert!(error.message.contains("titles was not prepared"), "{error}");
        sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        sink.write(&[]).await.unwrap();
        put(&sink, &target, 1, &[], &[]).await;
        for _ in 0..2 {
            put(&sink, &target, 1, &chunks, &[(77, 0)]).await;
            sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
        }
        sink.close().await.unwrap();
    }
    let sink = opened(dir.path()).await;
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint("movies", 1, "hash@1")]);
    for (row, chunk) in chunks.iter().enumerate() {
        let held = sink.held(&target, &ids_batch(&[chunk.id, chunk.id])).await.unwrap();
        assert_eq!(held, sink.image(&target, &rows.slice(row, 1)).unwrap(), "exact, with the vector");
    }
    assert_eq!(contents(&sink, &target).await, expected(&chunks));
}

#[tokio::test]
async fn rows_are_found_by_any_columns() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let second = Chunk { chunk: 1, ..chunk(1, "more of one", "one") };
    put(&sink, &target, 1, &[chunk(1, "same", "one"), second, chunk(2, "same", "two"), chunk(3, "other", "two")], &[]).await;
    let ids = |batch: RecordBatch| {
        let mut ids: Vec<i64> = batch["id"].as_primitive::<Int64Type>().values().to_vec();
        ids.sort_unstable();
        ids
    };
    let texts = |name: &str, values: &[&str]| {
        RecordBatch::try_from_iter([(name, Arc::new(StringArray::from(values.to_vec())) as ArrayRef)]).unwrap()
    };
    assert_eq!(ids(sink.held(&target, &ids_batch(&[1, 3, 9])).await.unwrap()), [1, 1, 3]);
    assert_eq!(ids(sink.held(&target, &chunk_keys(&[(1, 1), (1, 1), (2, 0), (2, 1)])).await.unwrap()), [1, 2]);
    assert_eq!(ids(sink.held(&target, &texts(TEXT_HASH, &[&hash_of("same"), "none"])).await.unwrap()), [1, 2]);
    assert_eq!(ids(sink.held(&target, &texts("title", &["two"])).await.unwrap()), [2, 3]);
    assert_eq!(ids(sink.held(&target, &ids_batch(&[])).await.unwrap()), Vec::<i64>::new());
    let error = sink.held(&target, &texts("nothing", &["two"])).await.unwrap_err();
    assert!(error.message.contains("nothing"), "{error}");
}

#[tokio::test]
async fn a_row_without_a_vector_replaces_the_payload_alone() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    put(&sink, &target, 1, &[chunk(1, "a", "old")], &[]).await;
    let new = Chunk { has_vector: false, ..chunk(1, "a", "new") };
    put(&sink, &target, 2, std::slice::from_ref(&new), &[]).await;
    put(&sink, &target, 2, &[new], &[]).await;
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "a", "new")]));

    let absent = Chunk { has_vector: false, ..chunk(2, "a", "new") };
    let other_text = Chunk { has_vector: false, ..chunk(1, "b", "newer") };
    let refused = sink.write(&[write_of(&target, 3, &[absent, other_text, chunk(3, "c", "three")], &[])]).await.unwrap();
    assert_eq!(refused.iter().map(|r| (r.write, r.row)).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    assert!(refused[0].message.contains("no point") && refused[1].message.contains("_text_hash"), "{refused:?}");
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "a", "new"), chunk(3, "c", "three")]));
}

#[tokio::test]
async fn an_older_write_loses() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let high = 255 << 56 | 7 << 16;
    put(&sink, &target, high, &[chunk(1, "a", "new"), chunk(2, "b", "two")], &[]).await;
    put(&sink, &target, high - 1, &[chunk(1, "z", "old")], &[(2, 0)]).await;
    put(&sink, &target, high - 1, &[Chunk { has_vector: false, ..chunk(1, "a", "old") }], &[]).await;
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "a", "new"), chunk(2, "b", "two")]));
    put(&sink, &target, high, &[chunk(1, "z", "again")], &[(2, 0)]).await;
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "z", "again")]));
}

#[tokio::test]
async fn tables_share_a_collection_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let (movies, series) = (target_of("movies"), target_of("series"));
    let sink = opened(dir.path()).await;
    sink.prepare(&[movies.clone(), series.clone()], &[]).await.unwrap();
    let writes = [write_of(&movies, 1, &[chunk(1, "a", "film")], &[]), write_of(&series, 1, &[chunk(1, "a", "series")], &[])];
    assert_eq!(sink.write(&writes).await.unwrap(), []);
    assert_eq!(contents(&sink, &movies).await, expected(&[chunk(1, "a", "film")]));
    assert_eq!(contents(&sink, &series).await, expected(&[chunk(1, "a", "series")]));
    put(&sink, &movies, 2, &[], &[(1, 0)]).await;
    assert_eq!(contents(&sink, &movies).await, []);
    assert_eq!(contents(&sink, &series).await, expected(&[chunk(1, "a", "series")]));
}

#[tokio::test]
async fn a_list_is_paged_without_gaps() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let chunks: Vec<Chunk> = (0..50).map(|id| chunk(id, &format!("text {id}"), "t")).collect();
    put(&sink, &target, 1, &chunks, &[]).await;
    for limit in [1, 7, 50, 1000] {
        let (mut ids, mut after) = (Vec::new(), None);
        loop {
            let page = sink.list(&target, after.as_deref(), limit).await.unwrap();
            assert!(page.keys.num_rows() <= limit);
            ids.extend_from_slice(page.keys["id"].as_primitive::<Int64Type>().values());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..50).collect::<Vec<_>>(), "limit {limit}");
    }
    assert!(sink.list(&target, Some("x"), 5).await.is_err());
}

#[tokio::test]
async fn the_nearest_records_are_answered_once_each() {
    let dir = tempfile::tempdir().unwrap();
    let (movies, series) = (target_of("movies"), target_of("series"));
    let sink = opened(dir.path()).await;
    sink.prepare(&[movies.clone(), series.clone()], &[]).await.unwrap();
    let long: Vec<Chunk> = (0..40).map(|n| Chunk { chunk: n, chunks: 40, ..chunk(1, "the same text", "long") }).collect();
    put(&sink, &movies, 1, &long, &[]).await;
    put(&sink, &movies, 1, &[chunk(2, "two", "two"), chunk(3, "three", "three")], &[]).await;
    put(&sink, &series, 1, &[chunk(1, "one", "series one")], &[]).await;
    let ask = |conditions: &[(&str, &str)], top| {
        let conditions = conditions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let vector = vector_of("the same text", DIMENSIONS).iter().map(|x| x * 3.0).collect();
        Query::Nearest { collection: "titles".to_owned(), vector, conditions, top }
    };
    let answers = sink.query(&ask(&[], 3)).await.unwrap();
    assert_eq!(answers.len(), 3, "chunks of one record are one answer");
    assert_eq!(answers[0]["title"], "long");
    assert!((answers[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
    let names: Vec<&str> = answers[0].keys().map(String::as_str).collect();
    assert_eq!(names, ["score", "_table", "id", "title", "year", "genres"]);
    assert!(answers.windows(2).all(|pair| pair[0]["score"].as_f64() >= pair[1]["score"].as_f64()));

    let titles = |answers: Vec<Map<String, Value>>| {
        let mut titles: Vec<String> = answers.iter().map(|a| a["title"].as_str().unwrap().to_owned()).collect();
        titles.sort();
        titles
    };
    for (conditions, expected) in [
        (vec![("_table", "series")], vec!["series one"]),
        (vec![("id", "1")], vec!["long", "series one"]),
        (vec![("id", "1"), ("_table", "movies")], vec!["long"]),
        (vec![("genres", "even")], vec!["two"]),
        (vec![("year", "1903")], vec!["three"]),
        (vec![("year", "1903.0")], vec!["three"]),
        (vec![("title", "nobody")], vec![]),
    ] {
        assert_eq!(titles(sink.query(&ask(&conditions, 10)).await.unwrap()), expected, "{conditions:?}");
    }
    assert!(sink.query(&ask(&[], 0)).await.unwrap().is_empty());
    let error = sink.query(&ask(&[("yaer", "1903")], 3)).await.unwrap_err();
    assert!(error.message.contains("yaer") && error.message.contains("year"), "{error}");

    let other = Query::Nearest { collection: "films".to_owned(), vector: vec![0.0; DIMENSIONS], conditions: vec![], top: 1 };
    let error = sink.query(&other).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent);
    assert!(error.message.contains("films") && error.message.contains("titles"), "{error}");
    let short = Query::Nearest { collection: "titles".to_owned(), vector: vec![0.0], conditions: vec![], top: 1 };
    assert!(sink.query(&short).await.unwrap_err().message.contains('8'));
    assert_eq!(sink.query(&Query::Text("SELECT 1".to_owned())).await.unwrap_err().class, Class::Permanent);
}

#[tokio::test]
async fn a_checkpoint_moves_only_from_the_one_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    sink.prepare(&[target.clone(), target_of("series")], &[]).await.unwrap();
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    sink.flush(&[checkpoint("movies", 2, "hash@1"), checkpoint("series", 1, "hash@1")]).await.unwrap();
    let moved = [checkpoint("movies", 2, "hash@1"), checkpoint("series", 1, "hash@1")];
    for wrong in [1, 4] {
        let error = sink.flush(&[checkpoint("series", 2, "hash@1"), checkpoint("movies", wrong, "hash@1")]).await.unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!(error.message.contains("movies/vectors/titles@hash@1/0-of-1"), "{error}");
        assert_eq!(sink.checkpoints().await.unwrap(), moved, "all or none");
    }
    let other = Checkpoint { table_id: "another".to_owned(), ..checkpoint("movies", 2, "hash@1") };
    assert_eq!(sink.flush(&[other]).await.unwrap_err().class, Class::Stop);
    sink.flush(&[checkpoint("movies", 2, "hash@1")]).await.unwrap();
    drop(sink);
    let sink = opened(dir.path()).await;
    assert_eq!(sink.checkpoints().await.unwrap(), moved);

    drop(sink);
    let place = dir.path().join(generation("hash@1", DIMENSIONS));
    std::fs::rename(place, dir.path().join("elsewhere")).unwrap();
    let sink = opened(dir.path()).await;
    assert_eq!(sink.checkpoints().await.unwrap(), [], "a checkpoint without points says nothing");
    sink.prepare(&[target], &[]).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [], "nor does it come back with an empty collection");
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
}

fn ask(dimensions: usize) -> Query {
    Query::Nearest { collection: "titles".to_owned(), vector: vec![1.0; dimensions], conditions: vec![], top: 5 }
}

fn roles(generations: &[Generation]) -> Vec<(&str, Role)> {
    generations.iter().map(|one| (one.model.as_str(), one.role)).collect()
}

/// The sink of `hash@1` with one point, and the same place as `other@2` sees it, empty.
async fn two_generations(path: &Path, target: &Arc<Target>) -> (VectorsSink, Arc<dyn Sink>) {
    let sink = opened(path).await;
    sink.prepare(std::slice::from_ref(target), &[]).await.unwrap();
    put(&sink, target, 1, &[chunk(1, "a", "one")], &[]).await;
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    let other = sink.of_model("other@2", 4).unwrap();
    other.prepare(std::slice::from_ref(target), &[]).await.unwrap();
    (sink, other)
}

async fn fill(other: &Arc<dyn Sink>, target: &Arc<Target>) {
    let rows = rows_of(target, &[chunk(1, "a", "one"), chunk(2, "b", "two")], 4);
    other.write(&[Write { target: target.clone(), version: 1, upserts: rows, deletes: chunk_keys(&[]) }]).await.unwrap();
}

#[tokio::test]
async fn another_model_is_another_generation_beside_the_one_in_service() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let (sink, other) = two_generations(dir.path(), &target).await;
    assert_eq!(roles(&sink.generations().await.unwrap()), roles(&other.generations().await.unwrap()));
    let mut found = sink.generations().await.unwrap();
    found.sort_by(|a, b| a.model.cmp(&b.model));
    assert_eq!(roles(&found), [("hash@1", Role::Serving), ("other@2", Role::Building)]);
    assert_eq!(other.list(&target, None, 10).await.unwrap().keys.num_rows(), 0);
    fill(&other, &target).await;
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "a", "one")]), "the two know nothing of each other");
    assert_eq!(other.query(&ask(4)).await.unwrap().len(), 2);
    let missing = sink.of_model("third@3", 4).unwrap().query(&ask(4)).await.unwrap_err();
    assert!(missing.message.contains("hash@1") && missing.message.contains("third@3"), "{missing}");
    let hashes = vec![hash_of("a"), hash_of("b"), hash_of("nowhere")];
    assert_eq!(sink.vectors(hashes.clone()).await.unwrap().len(), 1);
    assert_eq!(other.vectors(hashes).await.unwrap()[&hash_of("b")].len(), 4);
    assert!(other.bytes("titles", "other@2").await.unwrap().unwrap() > 0);
}

#[tokio::test]
async fn a_generation_is_put_in_service_when_it_is_where_the_other_is() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let (sink, other) = two_generations(dir.path(), &target).await;
    fill(&other, &target).await;
    let tables = ["movies".to_owned()];
    let behind = other.promote("titles", &tables).await.unwrap_err();
    assert_eq!(behind.class, Class::Transient, "{behind}");
    let pending = Some(Pending { to: 1, from: None, files_done: 0, sweep: false });
    sink.flush(&[Checkpoint { pending, version: None, ..checkpoint("movies", 1, "other@2") }]).await.unwrap();
    assert!(other.promote("titles", &tables).await.is_err());
    sink.flush(&[checkpoint("movies", 2, "other@2")]).await.unwrap();
    sink.flush(&[Checkpoint { version: Some(3), ..checkpoint("movies", 2, "hash@1") }]).await.unwrap();
    assert!(other.promote("titles", &tables).await.is_err(), "the one in service has gone on");
    sink.flush(&[checkpoint("movies", 3, "other@2")]).await.unwrap();
    for _ in 0..2 {
        other.promote("titles", &tables).await.unwrap();
    }
    let check = async |sink: &VectorsSink| {
        let mut found = sink.generations().await.unwrap();
        found.sort_by(|a, b| a.model.cmp(&b.model));
        assert_eq!(roles(&found), [("hash@1", Role::Kept), ("other@2", Role::Serving)]);
        assert_eq!(contents(sink, &target).await, expected(&[chunk(1, "a", "one")]), "nothing is deleted");
    };
    check(&sink).await;
    drop((sink, other));
    let sink = opened(dir.path()).await;
    check(&sink).await;
    sink.promote("titles", &tables).await.unwrap();
    let other = sink.of_model("other@2", 4).unwrap();
    assert_eq!(other.drop_generation("titles", "hash@1").await.unwrap_err().class, Class::Stop, "it is in service again");
    for _ in 0..2 {
        other.drop_generation("titles", "other@2").await.unwrap();
    }
    assert_eq!(roles(&sink.generations().await.unwrap()), [("hash@1", Role::Serving)]);
    let left: Vec<_> = sink.checkpoints().await.unwrap().into_iter().map(|c| c.model.unwrap()).collect();
    assert_eq!(left, ["hash@1"]);
    assert!(!dir.path().join(generation("other@2", 4)).exists());
}

#[tokio::test]
async fn a_directory_of_the_first_format_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    drop(two_generations(dir.path(), &target).await);
    let place = |name: &str| dir.path().join(name);
    std::fs::write(place("format.json"), r#"{"format":1,"engine":"qdrant-edge 0.7.2"}"#).unwrap();
    std::fs::write(place("titles.alias"), format!("{:?}", generation("hash@1", DIMENSIONS))).unwrap();
    let written = std::fs::read_to_string(place("checkpoints.json")).unwrap();
    let mut old: Map<String, Value> = serde_json::from_str(&written).unwrap();
    let (_, mut value) = old.clone().into_iter().next().unwrap();
    value["lane"].as_object_mut().unwrap().remove("model");
    old.clear();
    old.insert("movies/vectors/titles/0-of-1".to_owned(), value);
    std::fs::write(place("checkpoints.json"), serde_json::to_string(&old).unwrap()).unwrap();
    let sink = opened(dir.path()).await;
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint("movies", 1, "hash@1")]);
    assert_eq!(contents(&sink, &target).await, expected(&[chunk(1, "a", "one")]));
    sink.flush(&[checkpoint("movies", 2, "hash@1")]).await.unwrap();
    assert!(sink.generations().await.unwrap().iter().any(|one| one.model == "hash@1" && one.role == Role::Serving));
    drop(sink);
    assert!(std::fs::read_to_string(place("format.json")).unwrap().contains('2'));
}

#[tokio::test]
async fn one_directory_has_one_writer_and_no_strange_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("vectors");
    let target = target_of("movies");
    let sink = opened(&path).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    put(&sink, &target, 1, &[chunk(1, "a", "one")], &[]).await;
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    let error = open(options(&path)).await.unwrap_err();
    assert_eq!(error.class, Class::Stop);
    assert!(error.message.contains(path.to_str().unwrap()), "{error}");
    drop(sink);

    let refuses = async |file: PathBuf, content: &str, says: &str| {
        let old = std::fs::read(&file).unwrap();
        std::fs::write(&file, content).unwrap();
        let error = match open(options(&path)).await {
            Err(error) => error,
            Ok(sink) => sink.held(&target, &ids_batch(&[1])).await.unwrap_err(),
        };
        assert!(error.message.contains(says) && error.message.contains(path.to_str().unwrap()), "{error}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), content, "nothing is deleted");
        std::fs::write(&file, old).unwrap();
    };
    let generation = path.join(generation("hash@1", DIMENSIONS));
    refuses(path.join("format.json"), r#"{"format":3,"engine":"qdrant-edge 9"}"#, "format 3").await;
    refuses(path.join("format.json"), "{", "damaged").await;
    refuses(path.join("checkpoints.json"), "{", "damaged").await;
    let segment = std::fs::read_dir(generation.join("segments")).unwrap().next().unwrap().unwrap().path();
    refuses(segment.join("segment.json"), "{", "damaged").await;
    let aside = generation.join("aside");
    std::fs::rename(generation.join("segments"), &aside).unwrap();
    assert!(opened(&path).await.held(&target, &ids_batch(&[1])).await.unwrap_err().message.contains("no segments"));
    std::fs::rename(&aside, generation.join("segments")).unwrap();
    assert_eq!(contents(&opened(&path).await, &target).await, expected(&[chunk(1, "a", "one")]));

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter.txt"), "dear").unwrap();
    assert!(open(options(&foreign)).await.unwrap_err().message.contains("letter.txt"));
    assert!(open(options(&foreign.join("letter.txt"))).await.is_err());
    assert!(open(VectorsOptions { dimensions: 0, ..options(&path) }).await.is_err());
}

/// Runs in a process of its own, which is killed: writes, flushes, then changes everything without a flush.
#[tokio::test]
async fn child_that_is_killed() {
    let Ok(path) = std::env::var("DISTRIBUTARY_TEST_KILLED") else { return };
    let path = PathBuf::from(path);
    let target = target_of("movies");
    let mut sink = opened(&path).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let chunks: Vec<Chunk> = (0..300).map(|id| chunk(id, &format!("text {id}"), "flushed")).collect();
    put(&sink, &target, 1, &chunks, &[]).await;
    if std::env::var("DISTRIBUTARY_TEST_OPTIMISED").is_ok() {
        let filler: Vec<Chunk> = (1_000..2_500).map(|id| chunk(id, &format!("filler {id}"), "filler")).collect();
        put(&sink, &target, 1, &filler, &[]).await;
        let deletes: Vec<(i64, i64)> = (1_000..2_500).map(|id| (id, 0)).collect();
        put(&sink, &target, 1, &[], &deletes).await;
        sink.close().await.unwrap();
        drop(sink);
        sink = opened(&path).await;
    }
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    let edited: Vec<Chunk> = (0..100).map(|id| chunk(id, &format!("edited {id}"), "edited")).collect();
    let deletes: Vec<(i64, i64)> = (100..200).map(|id| (id, 0)).collect();
    put(&sink, &target, 2, &edited, &deletes).await;
    let new: Vec<Chunk> = (300..400).map(|id| chunk(id, "new", "new")).collect();
    put(&sink, &target, 2, &new, &[]).await;
    std::fs::write(path.join("ready.json"), "{}").unwrap();
    std::thread::sleep(Duration::from_secs(60));
}

async fn is_killed_and_mended(is_optimised: bool) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "sinks::vectors::sink::tests::child_that_is_killed"]);
    command.env("DISTRIBUTARY_TEST_KILLED", dir.path()).stdout(std::process::Stdio::null());
    if is_optimised {
        command.env("DISTRIBUTARY_TEST_OPTIMISED", "1");
    }
    let mut child = command.spawn().unwrap();
    let ready = dir.path().join("ready.json");
    let begin = Instant::now();
    while !ready.exists() {
        assert!(begin.elapsed() < Duration::from_secs(50) && child.try_wait().unwrap().is_none(), "the child did not get ready");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();

    let target = target_of("movies");
    let sink = opened(dir.path()).await;
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint("movies", 1, "hash@1")]);
    let flushed: Vec<Chunk> = (0..300).map(|id| chunk(id, &format!("text {id}"), "flushed")).collect();
    assert_eq!(contents(&sink, &target).await, expected(&flushed), "what is there is what was flushed");

    let edited: Vec<Chunk> = (0..100).map(|id| chunk(id, &format!("edited {id}"), "edited")).collect();
    let new: Vec<Chunk> = (300..400).map(|id| chunk(id, "new", "new")).collect();
    let deletes: Vec<(i64, i64)> = (100..200).map(|id| (id, 0)).collect();
    put(&sink, &target, 2, &edited, &deletes).await;
    put(&sink, &target, 2, &new, &[]).await;
    sink.flush(&[checkpoint("movies", 2, "hash@1")]).await.unwrap();
    let all: Vec<Chunk> = edited.iter().chain(&flushed[200..]).chain(&new).cloned().collect();
    assert_eq!(contents(&sink, &target).await, expected(&all));
    drop(sink);
    assert_eq!(contents(&opened(dir.path()).await, &target).await, expected(&all));
}

#[tokio::test]
async fn what_was_flushed_survives_a_kill_and_the_rest_is_done_again() {
    is_killed_and_mended(false).await;
}

#[tokio::test]
async fn what_was_optimised_survives_a_kill_and_the_rest_is_done_again() {
    is_killed_and_mended(true).await;
}

#[tokio::test]
async fn a_large_collection_is_optimised_when_it_is_closed_and_stays_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let target = target_of("movies");
    let chunks: Vec<Chunk> = (0..2_000).map(|id| chunk(id, &format!("text {id}"), "t")).collect();
    let deletes: Vec<(i64, i64)> = (0..900).map(|id| (id, 0)).collect();
    let sink = opened(dir.path()).await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    put(&sink, &target, 1, &chunks, &[]).await;
    put(&sink, &target, 2, &[], &deletes).await;
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    sink.close().await.unwrap();
    drop(sink);
    let sink = opened(dir.path()).await;
    let ids: Vec<i64> = (0..2_000).collect();
    let held = sink.held(&target, &ids_batch(&ids)).await.unwrap();
    assert_eq!(held.num_rows(), 1_100);
    put(&sink, &target, 3, &[chunk(1_500, "edited", "edited")], &[(1_501, 0)]).await;
    let held = sink.held(&target, &ids_batch(&[1_499, 1_500, 1_501])).await.unwrap();
    let again = [chunk(1_499, "text 1499", "t"), chunk(1_500, "edited", "edited")];
    let rows = rows_of(&target, &again, DIMENSIONS);
    let mut parts: Vec<RecordBatch> = (0..held.num_rows()).map(|row| held.slice(row, 1)).collect();
    parts.sort_by_key(|part| part["id"].as_primitive::<Int64Type>().value(0));
    assert_eq!(concat_batches(&held.schema(), &parts).unwrap(), rows);
}
