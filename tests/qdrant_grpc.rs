//! The vector sink at a Qdrant server, over gRPC, beside what all engines do alike (`served.rs`): strict mode, limits and refusals,
//! generations, and whole runs that end with the points of the embedded engine.

mod runs;

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, FixedSizeListArray, Float32Array, Int32Array, Int64Array, ListBuilder, RecordBatch, StringArray,
    StringBuilder, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, Int64Type, Schema, SchemaRef};
use distributary::mapping::target::{CHUNK, Shape, TEXT_HASH, Target, VECTOR};
use distributary::sinks::vectors::{QdrantOptions, VectorsSink, models_at_qdrant, open_qdrant};
use distributary::sinks::{
    Checkpoint, Class, Generation, LaneId, Lease, Pending, Query, Role, Sink, SinkError, SinkKind, Work, Write,
};
use serde_json::{Map, Value};

use crate::fronts::qdrant::{Front, Rules};

const DIMENSIONS: usize = 8;

/// A machine that tests many things at once may be slow.
fn options(front: &Front) -> QdrantOptions {
    QdrantOptions { timeout: Duration::from_secs(600), ..QdrantOptions::at(front.address().parse().unwrap()) }
}

async fn opened_with(options: QdrantOptions) -> Result<VectorsSink, SinkError> {
    open_qdrant(options, "hash@1".to_owned(), DIMENSIONS).await
}

async fn opened(front: &Front) -> VectorsSink {
    opened_with(options(front)).await.unwrap()
}

fn strict() -> Front {
    Front::with(Rules { strict: true, ..Rules::default() })
}

fn target_of(table: &str) -> Arc<Target> {
    let strings = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("year", DataType::Int32, true),
        Field::new("genres", strings, true),
        Field::new("a.b", DataType::UInt64, true),
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
    let vector: Vec<f32> = (0..dimensions).map(|_| next()).collect();
    let length = vector.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
    vector.into_iter().map(|x| (f64::from(x) / length) as f32).collect()
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
        Arc::new(UInt64Array::from_iter_values(chunks.iter().map(|chunk| u64::MAX - chunk.id.unsigned_abs() % 3))),
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
async fn contents(sink: &dyn Sink, target: &Target) -> Vec<Held> {
    let mut out = Vec::new();
    let mut after = None;
    loop {
        let page = sink.list(target, after.as_deref(), 7).await.unwrap();
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

/// Vectors may be scaled by a unit of the last place.
fn assert_same(found: &[Held], wanted: &[Held]) {
    assert_eq!(found.len(), wanted.len());
    for (found, wanted) in found.iter().zip(wanted) {
        assert_eq!((&found.0, &found.1, &found.2, &found.3), (&wanted.0, &wanted.1, &wanted.2, &wanted.3));
        let (Some(a), Some(b)) = (&found.4, &wanted.4) else { panic!("{found:?} has no vector") };
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6), "{a:?} is not {b:?}");
    }
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

/// A sink whose collection is made, and its target.
async fn prepared(front: &Front) -> (VectorsSink, Arc<Target>) {
    let (sink, target) = (opened(front).await, target_of("movies"));
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    (sink, target)
}

#[tokio::test]
async fn what_was_not_prepared_is_not_written_to() {
    let front = Front::start();
    let (sink, target) = (opened(&front).await, target_of("movies"));
    let error = sink.write(&[write_of(&target, 1, &[chunk(1, "a", "one")], &[])]).await.unwrap_err();
    assert!(error.message.contains("titles was not prepared"), "{error}");
}

#[tokio::test]
async fn an_older_write_loses() {
    let front = Front::start();
    let (sink, target) = prepared(&front).await;
    // Beyond the whole numbers of the protocol.
    let high = 255 << 56 | 7 << 16;
    put(&sink, &target, high, &[chunk(1, "a", "new"), chunk(2, "b", "two")], &[]).await;
    assert_eq!(sink.newest(&target).await.unwrap(), Some(high));
    put(&sink, &target, high - 1, &[chunk(1, "z", "old")], &[(2, 0)]).await;
    put(&sink, &target, high - 1, &[Chunk { has_vector: false, ..chunk(1, "a", "old") }], &[]).await;
    assert_same(&contents(&sink, &target).await, &expected(&[chunk(1, "a", "new"), chunk(2, "b", "two")]));
    put(&sink, &target, high, &[chunk(1, "z", "again")], &[(2, 0)]).await;
    assert_same(&contents(&sink, &target).await, &expected(&[chunk(1, "z", "again")]));
}

#[tokio::test]
async fn the_nearest_records_are_answered_once_each() {
    for front in [Front::start(), strict()] {
        let (sink, movies) = prepared(&front).await;
        let series = target_of("series");
        sink.prepare(std::slice::from_ref(&series), &[]).await.unwrap();
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
        assert_eq!(names, ["score", "_table", "a.b", "genres", "id", "title", "year"], "in order of their names");
        assert_eq!(answers[0]["a.b"], Value::from(u64::MAX - 1));

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
            (vec![("year", "nineteen")], vec![]),
            (vec![("title", "nobody")], vec![]),
        ] {
            assert_eq!(titles(sink.query(&ask(&conditions, 10)).await.unwrap()), expected, "{conditions:?}");
        }
        assert!(sink.query(&ask(&[], 0)).await.unwrap().is_empty());
        let error = sink.query(&ask(&[("yaer", "1903")], 3)).await.unwrap_err();
        assert!(error.message.contains("yaer"), "{error}");
        let error = sink.query(&ask(&[("a\"b", "1903")], 3)).await.unwrap_err();
        assert!(error.message.contains("quotation mark"), "{error}");

        let other = Query::Nearest { collection: "films".to_owned(), vector: vec![0.0; DIMENSIONS], conditions: vec![], top: 1 };
        let error = sink.query(&other).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent);
        assert!(error.message.contains("films") && error.message.contains("titles"), "{error}");
    }
}

#[tokio::test]
async fn what_people_filter_by_is_indexed() {
    let front = Front::start();
    let (sink, target) = prepared(&front).await;
    put(&sink, &target, 1, &[chunk(1, "a", "one")], &[]).await;
    let mut client = runs::collections(&front).await;
    let found = runs::info(&mut client, &generation_name("hash@1", DIMENSIONS)).await.unwrap();
    let mut indexed: Vec<String> = found.payload_schema.into_keys().collect();
    indexed.sort();
    assert_eq!(indexed, ["\"a.b\"", "_record", "_table", "_text_hash", "genres", "id", "title", "year"]);
}

#[tokio::test]
async fn a_checkpoint_without_its_points_says_nothing() {
    let front = Front::start();
    let (sink, target) = prepared(&front).await;
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    assert_eq!(opened(&front).await.checkpoints().await.unwrap(), [checkpoint("movies", 1, "hash@1")]);
    // Somebody deletes the collection.
    runs::delete(&mut runs::collections(&front).await, &generation_name("hash@1", DIMENSIONS)).await;
    let sink = opened(&front).await;
    assert_eq!(sink.checkpoints().await.unwrap(), [], "of a collection that is gone");
    sink.prepare(&[target], &[]).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [], "nor does it come back with an empty collection");
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
}

#[tokio::test]
async fn of_two_writers_that_move_a_checkpoint_at_once_one_is_told() {
    let front = Front::start();
    let (one, _) = prepared(&front).await;
    let two = opened(&front).await;
    for revision in 1..40 {
        let of = |writer: &str| Checkpoint { table_id: writer.to_owned(), ..checkpoint("movies", revision, "hash@1") };
        let (of_one, of_two) = ([of("one")], [of("two")]);
        let (first, second) = tokio::join!(one.flush(&of_one), two.flush(&of_two));
        let winner = match (first, second) {
            (Ok(()), Err(error)) => (error, "one"),
            (Err(error), Ok(())) => (error, "two"),
            other => panic!("both or none: {other:?}"),
        };
        assert_eq!(winner.0.class, Class::Stop, "{}", winner.0);
        assert_eq!(one.checkpoints().await.unwrap(), [of(winner.1)]);
    }
}

#[tokio::test]
async fn of_two_runs_that_take_a_lease_at_once_one_gets_it() {
    let front = Front::start();
    let (one, two) = (opened(&front).await, opened(&front).await);
    for _ in 0..30 {
        let leases = [(); 2].map(|()| Lease::new(Work::Sync, Duration::from_secs(86_400)));
        let (first, second) = tokio::join!(one.hold(&leases[0]), two.hold(&leases[1]));
        assert!(first.is_ok() != second.is_ok(), "both or none: {first:?} {second:?}");
        one.release(&leases[0]).await.unwrap();
        two.release(&leases[1]).await.unwrap();
    }
}

fn generation_name(model: &str, dimensions: usize) -> String {
    let identity = format!("{model}\0{dimensions}");
    format!("titles__{:016x}", xxhash_rust::xxh3::xxh3_64(identity.as_bytes()))
}

fn roles(mut generations: Vec<Generation>) -> Vec<(String, Role, bool)> {
    generations.sort_by(|a, b| a.model.cmp(&b.model));
    generations.into_iter().map(|one| (one.model, one.role, one.taken)).collect()
}

/// The sink of `hash@1` with one point, and the same place as `other@2` sees it, with two.
async fn two_generations(front: &Front) -> (VectorsSink, Arc<dyn Sink>, Arc<Target>) {
    let (sink, target) = prepared(front).await;
    put(&sink, &target, 1, &[chunk(1, "a", "one")], &[]).await;
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
    let other = sink.of_model("other@2", 4).unwrap();
    other.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let rows = rows_of(&target, &[chunk(1, "a", "one"), chunk(2, "b", "two")], 4);
    other.write(&[Write { target: target.clone(), version: 1, upserts: rows, deletes: chunk_keys(&[]) }]).await.unwrap();
    (sink, other, target)
}

#[tokio::test]
async fn another_model_is_another_generation_that_a_rebuild_keeps_to_itself() {
    let front = Front::start();
    let (sink, other, target) = two_generations(&front).await;
    let of = |serving: bool| [("hash@1".to_owned(), Role::Serving, false), ("other@2".to_owned(), Role::Building, serving)];
    assert_eq!(roles(sink.generations().await.unwrap()), of(false));
    assert_eq!(models_at_qdrant(options(&front)).await.unwrap(), ["hash@1", "other@2"]);
    assert_same(&contents(&sink, &target).await, &expected(&[chunk(1, "a", "one")]));
    let ask = Query::Nearest { collection: "titles".to_owned(), vector: vec![1.0; 4], conditions: vec![], top: 5 };
    assert_eq!(other.query(&ask).await.unwrap().len(), 2);
    let missing = sink.of_model("third@3", 4).unwrap().query(&ask).await.unwrap_err();
    assert!(missing.message.contains("hash@1") && missing.message.contains("third@3"), "{missing}");
    let hashes = vec![hash_of("a"), hash_of("b"), hash_of("nowhere")];
    assert_eq!(sink.vectors(hashes.clone()).await.unwrap().len(), 1);
    assert_eq!(other.vectors(hashes).await.unwrap()[&hash_of("b")].len(), 4);
    assert_eq!(other.bytes("titles", "other@2").await.unwrap(), None, "a server does not say");
    let rebuild = Lease::new(Work::Reembed, Duration::from_secs(86_400));
    other.hold(&rebuild).await.unwrap();
    assert_eq!(roles(other.generations().await.unwrap()), of(false), "its own rebuild");
    let beside = opened(&front).await;
    assert_eq!(roles(beside.generations().await.unwrap()), of(true));
    other.release(&rebuild).await.unwrap();
    assert_eq!(roles(beside.generations().await.unwrap()), of(false));
}

#[tokio::test]
async fn a_generation_is_put_in_service_when_it_is_where_the_other_is() {
    let front = Front::start();
    let (sink, other, target) = two_generations(&front).await;
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
    let swapped = [("hash@1".to_owned(), Role::Kept, false), ("other@2".to_owned(), Role::Serving, false)];
    assert_eq!(roles(opened(&front).await.generations().await.unwrap()), swapped);
    assert_same(&contents(&sink, &target).await, &expected(&[chunk(1, "a", "one")]));
    sink.promote("titles", &tables).await.unwrap();
    let back = [("hash@1".to_owned(), Role::Serving, false), ("other@2".to_owned(), Role::Kept, false)];
    assert_eq!(roles(sink.generations().await.unwrap()), back);
    assert_eq!(other.drop_generation("titles", "hash@1").await.unwrap_err().class, Class::Stop, "it is in service again");
    for _ in 0..2 {
        other.drop_generation("titles", "other@2").await.unwrap();
    }
    assert_eq!(roles(sink.generations().await.unwrap()), [("hash@1".to_owned(), Role::Serving, false)]);
    let left: Vec<_> = sink.checkpoints().await.unwrap().into_iter().map(|c| c.model.unwrap()).collect();
    assert_eq!(left, ["hash@1"]);
    assert_eq!(other.list(&target, None, 5).await.unwrap().keys.num_rows(), 0);
    assert!(sink.of_model("never@1", 4).unwrap().promote("titles", &tables).await.unwrap_err().message.contains("no generation"));
}

#[tokio::test]
async fn a_wrong_key_is_named_and_never_shown() {
    let front = Front::with(Rules { key: Some("the key".to_owned()), ..Rules::default() });
    let with = |key: Option<&str>| QdrantOptions { api_key: key.map(Into::into), ..options(&front) };
    for key in [None, Some("PLANTED")] {
        let error = opened_with(with(key)).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        assert!(error.message.contains("DISTRIBUTARY_VECTORS_API_KEY") && error.message.contains("vectors.api_key"), "{error}");
        assert!(!format!("{error:?}").contains("PLANTED"), "{error:?}");
    }
    let sink = opened_with(with(Some("the key"))).await.unwrap();
    sink.prepare(&[target_of("movies")], &[]).await.unwrap();
    assert!(!format!("{sink:?}").contains("the key"), "{sink:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_may_come_back() {
    let gone = Front::start();
    let (address, _) = (gone.address(), drop(gone));
    let error = opened_with(QdrantOptions::at(address.parse().unwrap())).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains(&address), "{error}");
}

#[tokio::test]
async fn a_server_that_is_busy_says_how_long() {
    let front = Front::start();
    let (sink, target) = prepared(&front).await;
    front.exhaust(1);
    let error = sink.write(&[write_of(&target, 1, &[chunk(1, "a", "one")], &[])]).await.unwrap_err();
    assert_eq!((error.class, error.retry_after), (Class::Transient, Some(Duration::from_secs(1))), "{error}");
    put(&sink, &target, 1, &[chunk(1, "a", "one")], &[]).await;
    front.exhaust(1);
    assert_eq!(sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap_err().class, Class::Transient);
    sink.flush(&[checkpoint("movies", 1, "hash@1")]).await.unwrap();
}

#[tokio::test]
async fn requests_are_cut_by_bytes_and_by_points() {
    // The front takes requests of up to 4 MB.
    let front = Front::start();
    let (sink, target) = prepared(&front).await;
    let long = "é".repeat(100_000);
    let chunks: Vec<Chunk> = (0..40).map(|id| chunk(id, &format!("text {id}"), &format!("{id} {long}"))).collect();
    put(&sink, &target, 1, &chunks, &[]).await;
    let payloads: Vec<Chunk> =
        chunks.iter().map(|c| Chunk { has_vector: false, title: format!("new {}", c.title), ..c.clone() }).collect();
    put(&sink, &target, 2, &payloads, &[]).await;
    let wanted: Vec<Chunk> = chunks.iter().map(|c| Chunk { title: format!("new {}", c.title), ..c.clone() }).collect();
    assert_same(&contents(&sink, &target).await, &expected(&wanted));
    // As many points as a server in strict mode takes, and a rest.
    let front = strict();
    let (sink, target) = prepared(&front).await;
    let chunks: Vec<Chunk> = (0..101).map(|id| chunk(id, &format!("text {id}"), "t")).collect();
    put(&sink, &target, 1, &chunks, &[]).await;
    assert_eq!(contents(&sink, &target).await.len(), 101);
}

#[tokio::test]
async fn a_certificate_is_checked_against_the_authority_that_was_given() {
    let authority = rcgen::CertifiedIssuer::self_signed(
        {
            let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
            parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
            parameters
        },
        rcgen::KeyPair::generate().unwrap(),
    )
    .unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    let front = Front::with(Rules { identity: Some((certificate.pem(), key.serialize_pem())), ..Rules::default() });
    assert!(front.address().starts_with("qdrant+s://"));
    let home = tempfile::tempdir().unwrap();
    let ca = home.path().join("ca.pem");
    std::fs::write(&ca, authority.pem()).unwrap();
    let with = |ca_file| QdrantOptions { ca_file, ..options(&front) };
    let sink = opened_with(with(Some(ca.clone()))).await.unwrap();
    sink.prepare(&[target_of("movies")], &[]).await.unwrap();
    let error = opened_with(with(None)).await.unwrap_err();
    assert!(error.message.to_lowercase().contains("certificate") || error.message.contains("UnknownIssuer"), "{error}");
    let other = rcgen::generate_simple_self_signed(vec!["other".to_owned()]).unwrap();
    std::fs::write(&ca, other.cert.pem()).unwrap();
    assert!(opened_with(with(Some(ca))).await.is_err());
}
