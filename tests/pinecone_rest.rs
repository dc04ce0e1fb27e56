//! The vector sink on Pinecone's REST API, over a front that keeps its limits, beside what all engines do alike (`served.rs`): batches,
//! late visibility, errors, leases, generations, and whole runs whose contents are those of the embedded engine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use distributary::embed::{Choice, DEFAULT_PRECISION};
use distributary::mapping::target::{Shape, Target, VECTOR};
use distributary::mapping::{MappingFile, compile};
use distributary::report::ReembedState;
use distributary::rows::canonical_schema;
use distributary::sinks::retry::{Retries, Retrying};
use distributary::sinks::vectors::{PineconeOptions, VectorsSink, models_at_pinecone, open_pinecone};
use distributary::sinks::{Checkpoint, Class, LaneId, Lease, Query, Role, Sink, SinkError, SinkKind, Work, Write};
use distributary::sync::{self, Options, Question, Reembed, Setup};
use serde_json::{Value, json};

use crate::fronts::pinecone::{Asked, Fault, Front, KEY};
use crate::support::command::{Answer, operations, run, sample_configuration};
use crate::support::engines::{Bench, hash_embedder};
use crate::support::lake::{Author, Book, Record, json_batch};
use crate::support::{tests_dir, wait_for};

const INDEX: &str = "films";
const DIMENSIONS: usize = 8;
const MODEL: &str = "hash@1";

fn options(front: &Front) -> PineconeOptions {
    PineconeOptions { api_key: Some(KEY.into()), controller: front.address(), ..PineconeOptions::of(INDEX) }
}

async fn opened(front: &Front) -> VectorsSink {
    open_pinecone(options(front), MODEL.to_owned(), DIMENSIONS).await.unwrap()
}

fn target_of(table: &str) -> Arc<Target> {
    let strings = DataType::List(Arc::new(Field::new("item", DataType::Utf8, true)));
    let links = Field::new("link", DataType::Int64, true);
    let fields = vec![
        Field::new("id", DataType::Int64, false),
        Field::new("text", DataType::Utf8, true),
        Field::new("title", DataType::Utf8, true),
        Field::new("genres", strings, true),
        Field::new("nested", DataType::Struct(vec![links].into()), true),
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

/// A vector of length one that depends on nothing but the text.
fn vector_of(text: &str) -> Vec<f64> {
    let angle = text.bytes().fold(1.0, |sum, byte| sum * 1.1 + f64::from(byte));
    let all: Vec<f64> = (0..DIMENSIONS).map(|i| (angle * (i + 1) as f64).sin()).collect();
    let length = all.iter().map(|x| x * x).sum::<f64>().sqrt();
    all.into_iter().map(|x| f64::from((x / length) as f32)).collect()
}

/// A row of a text, with its vector.
fn row(id: i64, text: &str, title: &str) -> Value {
    json!({
        "id": id, "title": title, "genres": ["drama", if id % 2 == 0 { "even" } else { "odd" }], "nested": {"link": i64::MAX},
        "_chunk": 0, "_chunks": 1, "_start": 0, "_end": text.len(), "_text_hash": format!("hash of {text}"), "_model": MODEL,
        "_vector": vector_of(text),
    })
}

fn changed(mut row: Value, name: &str, value: Value) -> Value {
    row[name] = value;
    row
}

fn rows_of(target: &Target, rows: &[Value]) -> RecordBatch {
    json_batch(&target.stored_schema(DIMENSIONS), rows)
}

fn ids_batch(ids: &[i64]) -> RecordBatch {
    let rows: Vec<Value> = ids.iter().map(|id| json!({"id": id})).collect();
    json_batch(&SchemaRef::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])), &rows)
}

fn write_of(target: &Arc<Target>, version: u64, upserts: &[Value], deletes: &[i64]) -> Write {
    let keys = Schema::new(vec![Field::new("id", DataType::Int64, false), Field::new("_chunk", DataType::Int64, false)]);
    let deletes: Vec<Value> = deletes.iter().map(|id| json!({"id": id, "_chunk": 0})).collect();
    let deletes = json_batch(&SchemaRef::new(keys), &deletes);
    Write { target: target.clone(), version, upserts: rows_of(target, upserts), deletes }
}

async fn put(sink: &dyn Sink, target: &Arc<Target>, version: u64, upserts: &[Value], deletes: &[i64]) {
    assert_eq!(sink.write(&[write_of(target, version, upserts, deletes)]).await.unwrap(), []);
}

async fn prepared(front: &Front, target: &Arc<Target>) -> VectorsSink {
    let sink = opened(front).await;
    sink.prepare(std::slice::from_ref(target), &[]).await.unwrap();
    sink
}

/// Everything that a target holds, a line a row, in order, without vectors that are told apart by the last bits alone.
async fn contents(sink: &dyn Sink, target: &Target, page: usize) -> Vec<String> {
    let (mut lines, mut after) = (BTreeSet::new(), None);
    loop {
        let found = sink.list(target, after.as_deref(), page).await.unwrap();
        assert!(found.keys.num_rows() <= page);
        let held = sink.held(target, &found.keys).await.unwrap();
        let vectors = held.column_by_name(VECTOR).unwrap().as_fixed_size_list();
        assert_eq!(vectors.null_count(), 0, "a point is damaged");
        let kept: Vec<usize> = (0..held.num_columns()).filter(|i| held.schema().field(*i).name() != VECTOR).collect();
        let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
        writer.write(&held.project(&kept).unwrap()).unwrap();
        writer.finish().unwrap();
        lines.extend(String::from_utf8(writer.into_inner()).unwrap().lines().map(str::to_owned));
        after = found.next;
        if after.is_none() {
            return lines.into_iter().collect();
        }
    }
}

async fn titles(sink: &dyn Sink, target: &Target) -> BTreeMap<i64, String> {
    let lines = contents(sink, target, 1_000).await;
    let lines = lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|row| (row["id"].as_i64().unwrap(), row["title"].as_str().unwrap().to_owned())).collect()
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

/// The writes to points, of which each names its namespace.
fn writes(asked: &[Asked]) -> Vec<&Asked> {
    let is_write = |one: &&Asked| {
        let verb = one.path.rsplit('/').next().unwrap();
        ["upsert", "update", "delete"].contains(&verb)
            && one.body["namespace"] != "_distributary"
            && one.body["ids"] != json!(["_nobody"])
    };
    asked.iter().filter(is_write).collect()
}

fn none_wrong(front: &Front) {
    assert_eq!(front.violations(), Vec::<String>::new());
}

#[test]
fn rows_are_held_as_they_were_written_and_seen_by_the_next_process() {
    wait_for(async {
        let front = Front::start();
        front.lag(3);
        let target = target_of("movies");
        let all = [
            row(i64::MIN, "a", "one"),
            row(0, "b", "é🎬\u{0}'\"`"),
            changed(row(i64::MAX, "", "three"), "genres", json!([])),
            changed(changed(row(7, "d", ""), "genres", json!(["a", null])), "nested", Value::Null),
            changed(changed(row(8, "e", "null"), "title", Value::Null), "genres", Value::Null),
        ];
        {
            let sink = opened(&front).await;
            assert_eq!(sink.checkpoints().await.unwrap(), []);
            assert_eq!(sink.list(&target, None, 10).await.unwrap().keys.num_rows(), 0, "a target that is not there has no rows");
            assert_eq!(sink.held(&target, &ids_batch(&[0])).await.unwrap().num_rows(), 0);
            let error = sink.write(&[write_of(&target, 1, &all, &[])]).await.unwrap_err();
            assert!(error.message.contains("titles was not prepared"), "{error}");
            for _ in 0..2 {
                sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
            }
            for _ in 0..2 {
                put(&sink, &target, 1 << 56, &all, &[77]).await;
                sink.flush(&[checkpoint("movies", 1, MODEL)]).await.unwrap();
            }
            sink.close().await.unwrap();
        }
        let sink = opened(&front).await;
        assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint("movies", 1, MODEL)]);
        for row in &all {
            let id = row["id"].as_i64().unwrap();
            let held = sink.held(&target, &ids_batch(&[id, id])).await.unwrap();
            let written = rows_of(&target, std::slice::from_ref(row));
            assert_eq!(held, sink.image(&target, &written).unwrap(), "exact, with the vector");
        }
        assert_eq!(sink.newest(&target).await.unwrap(), Some(1 << 56));
        none_wrong(&front);
    });
}

#[test]
fn batches_keep_the_limits_and_what_does_not_fit_is_refused_alone() {
    wait_for(async {
        let front = Front::start();
        let target = target_of("movies");
        let sink = prepared(&front, &target).await;
        front.asked();
        let mut all: Vec<Value> = (0..2_500).map(|id| row(id, &format!("text {id}"), "t")).collect();
        all[1_234]["title"] = json!("x".repeat(60_000));
        all[1_235]["title"] = json!("x".repeat(39_000));
        all[7]["_vector"] = json!(vec![0.0; DIMENSIONS]);
        let refused = sink.write(&[write_of(&target, 1, &all, &[])]).await.unwrap();
        assert_eq!(refused.iter().map(|r| r.row).collect::<Vec<_>>(), [7, 1_234]);
        assert!(refused[0].message.contains("zero") && refused[1].message.contains("title"), "{refused:?}");
        let asked = front.asked();
        let sizes: Vec<usize> = writes(&asked).iter().map(|one| one.body["vectors"].as_array().unwrap().len()).collect();
        assert_eq!(sizes, [1_000, 1_000, 498]);
        let held = sink.held(&target, &ids_batch(&(0..2_500).collect::<Vec<_>>())).await.unwrap();
        assert_eq!(held.num_rows(), 2_498);
        // A long payload alone is refused too, and the point keeps what it had.
        let long = changed(changed(row(1, "text 1", ""), "title", json!("x".repeat(60_000))), VECTOR, Value::Null);
        let refused = sink.write(&[write_of(&target, 2, &[long], &[])]).await.unwrap();
        assert_eq!(refused.len(), 1);
        put(&sink, &target, 3, &[], &(0..2_500).collect::<Vec<_>>()).await;
        assert_eq!(contents(&sink, &target, 1_000).await, Vec::<String>::new());
        // Twenty large ones are more than one request takes.
        let large: Vec<Value> = (0..120).map(|id| row(id, &format!("text {id}"), &"x".repeat(38_000))).collect();
        front.asked();
        put(&sink, &target, 4, &large, &[]).await;
        let asked = front.asked();
        assert!(writes(&asked).len() >= 3 && asked.iter().all(|one| one.status == 200), "by bytes");
        none_wrong(&front);
    });
}

#[test]
fn a_list_is_paged_without_gaps_also_where_another_process_left_it() {
    wait_for(async {
        let front = Front::start();
        let (movies, series) = (target_of("movies"), target_of("series"));
        let sink = prepared(&front, &movies).await;
        for target in [&movies, &series] {
            let all: Vec<Value> = (0..130).map(|id| row(id, &format!("text {id}"), "t")).collect();
            put(&sink, target, 1, &all, &[]).await;
        }
        let again = opened(&front).await;
        for limit in [1, 7, 100, 1_000] {
            let (mut ids, mut after, mut turn) = (Vec::new(), None::<String>, 0);
            loop {
                let reader = if turn % 2 == 0 { &sink } else { &again };
                let page = reader.list(&movies, after.as_deref(), limit).await.unwrap();
                assert!(page.keys.num_rows() <= limit);
                ids.extend_from_slice(page.keys.column_by_name("id").unwrap().as_primitive::<Int64Type>().values());
                after = page.next;
                turn += usize::from(limit > 1);
                if after.is_none() {
                    break;
                }
            }
            ids.sort_unstable();
            assert_eq!(ids, (0..130).collect::<Vec<_>>(), "limit {limit}");
        }
        assert!(sink.list(&movies, Some("x"), 5).await.is_err());
        none_wrong(&front);
    });
}

fn ask(conditions: &[(&str, &str)], top: usize) -> Query {
    let conditions = conditions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let vector = vector_of("the same").into_iter().map(|x| x as f32 * 3.0).collect();
    Query::Nearest { collection: "titles".to_owned(), vector, conditions, top }
}

#[test]
fn the_nearest_records_are_answered_with_conditions() {
    wait_for(async {
        let front = Front::start();
        front.lag(2);
        let target = target_of("movies");
        let sink = opened(&front).await;
        let error = sink.query(&ask(&[], 3)).await.unwrap_err();
        assert!(error.class == Class::Permanent && error.message.contains("there are none yet"), "{error}");
        sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        assert!(sink.query(&ask(&[], 3)).await.unwrap().is_empty());
        put(&sink, &target, 1, &[row(1, "the same", "same"), row(2, "two", "two"), row(3, "three", "1902")], &[]).await;
        let answers = sink.query(&ask(&[], 2)).await.unwrap();
        assert_eq!((answers.len(), &answers[0]["title"]), (2, &json!("same")));
        assert!((answers[0]["score"].as_f64().unwrap() - 1.0).abs() < 1e-5);
        let names: Vec<&str> = answers[0].keys().map(String::as_str).collect();
        assert_eq!(names[..2], ["score", "_table"]);
        assert_eq!(answers[0]["nested"], json!({"link": i64::MAX}), "as it was written");
        for (conditions, expected) in [
            (vec![("id", "2")], vec!["two"]),
            (vec![("id", "2.0")], vec!["two"]),
            (vec![("genres", "even")], vec!["two"]),
            (vec![("title", "1902")], vec!["1902"]),
            (vec![("id", "1"), ("_table", "movies")], vec!["same"]),
            (vec![("id", "1"), ("_table", "series")], vec![]),
        ] {
            let answers = sink.query(&ask(&conditions, 10)).await.unwrap();
            let titles: Vec<&str> = answers.iter().map(|answer| answer["title"].as_str().unwrap()).collect();
            assert_eq!(titles, expected, "{conditions:?}");
        }
        let error = sink.query(&ask(&[("yaer", "1903")], 3)).await.unwrap_err();
        assert!(error.message.contains("yaer") && error.message.contains("title"), "{error}");
        none_wrong(&front);
    });
}

/// Whether a write under a fault fails as it should, and its repetition does not.
async fn write_meets(sink: &VectorsSink, target: &Arc<Target>, front: &Front, fault: Fault) -> SinkError {
    front.fail(fault);
    let write = write_of(target, 9, &[row(1, "z", "written")], &[]);
    let error = sink.write(std::slice::from_ref(&write)).await.unwrap_err();
    assert_eq!(front.faults_left(), 0);
    assert_eq!(sink.write(&[write]).await.unwrap(), []);
    assert_eq!(titles(sink, target).await, BTreeMap::from([(1, "written".to_owned())]));
    assert!(!format!("{error:?}").contains(KEY), "{error:?}");
    error
}

#[test]
fn failures_have_their_classes_and_pauses() {
    const SECOND: &str = "Too many requests. You've reached the max upsert requests per second (100) for namespace titles.";
    const MONTH: &str = "Request failed. You've reached your write unit limit for the current month (2000000). To continue \
                         writing data, upgrade your plan.";
    wait_for(async {
        let front = Front::start();
        let target = target_of("movies");
        let sink = prepared(&front, &target).await;
        let upsert = |status, message| Fault::new("vectors/upsert", status, message);
        for (fault, class, pause) in [
            (Fault { retry_after: Some("7"), ..upsert(429, SECOND) }, Class::Transient, Some(7)),
            (upsert(429, SECOND), Class::Transient, None),
            (upsert(429, MONTH), Class::Stop, None),
            (Fault { retry_after: Some("3600"), ..upsert(429, MONTH) }, Class::Stop, Some(3600)),
            (upsert(402, "pay"), Class::Stop, None),
            (upsert(403, "no"), Class::Permanent, None),
            (upsert(401, "who"), Class::Permanent, None),
            (upsert(400, "what"), Class::Permanent, None),
            (upsert(500, "oh"), Class::Transient, None),
            (Fault { retry_after: Some("1"), ..upsert(503, "") }, Class::Transient, Some(1)),
            (Fault { done: true, ..upsert(504, "the answer is lost") }, Class::Transient, None),
            (Fault::new("vectors/fetch", 502, ""), Class::Transient, None),
            (Fault { says: format!("key {KEY} is wrong"), ..upsert(401, "") }, Class::Permanent, None),
        ] {
            let what = format!("{fault:?}");
            let error = write_meets(&sink, &target, &front, fault).await;
            assert_eq!((error.class, error.retry_after), (class, pause.map(Duration::from_secs)), "{what}: {error}");
        }
        none_wrong(&front);
    });
}

#[test]
fn an_index_that_cannot_be_used_is_refused_when_it_is_opened() {
    wait_for(async {
        let front = Front::start();
        let open = async |options: PineconeOptions, dimensions| open_pinecone(options, MODEL.to_owned(), dimensions).await;
        let wrong_key = PineconeOptions { api_key: Some("PLANTED".into()), ..options(&front) };
        let error = open(wrong_key, DIMENSIONS).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent);
        assert!(error.message.contains("DISTRIBUTARY_VECTORS_API_KEY") && !error.message.contains("PLANTED"), "{error}");
        let error = open(PineconeOptions { region: "mars-1".to_owned(), ..options(&front) }, DIMENSIONS).await.unwrap_err();
        assert!(error.class == Class::Permanent && error.message.contains("mars-1"), "{error}");
        let error = open(options(&front), 20_001).await.unwrap_err();
        assert!(error.class == Class::Stop && error.message.contains("20001"), "{error}");
        let error = open(PineconeOptions { index: "Films".to_owned(), ..options(&front) }, DIMENSIONS).await.unwrap_err();
        assert!(error.message.contains("Films"), "{error}");

        drop(opened(&front).await);
        let error = open(options(&front), 16).await.unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!([INDEX, "8", "16"].iter().all(|part| error.message.contains(part)), "{error}");
        drop(prepared(&front, &target_of("movies")).await);
        open(options(&front), 16).await.unwrap();
        none_wrong(&front);

        let gone = front.address();
        drop(front);
        let error =
            open(PineconeOptions { controller: gone.clone(), api_key: Some(KEY.into()), ..PineconeOptions::of(INDEX) }, 8).await;
        let error = error.unwrap_err();
        assert!(error.class == Class::Transient && error.message.contains("127.0.0.1"), "{error}");
    });
}

#[test]
fn a_checkpoint_moves_only_from_the_one_before_it() {
    wait_for(async {
        let front = Front::start();
        front.lag(2);
        let target = target_of("movies");
        let sink = prepared(&front, &target).await;
        let other = opened(&front).await;
        sink.flush(&[checkpoint("movies", 1, MODEL)]).await.unwrap();
        sink.flush(&[checkpoint("movies", 2, MODEL), checkpoint("series", 1, MODEL)]).await.unwrap();
        let moved = [checkpoint("movies", 2, MODEL), checkpoint("series", 1, MODEL)];
        let sorted = async |sink: &VectorsSink| {
            let mut all = sink.checkpoints().await.unwrap();
            all.sort_by(|a, b| a.lane.cmp(&b.lane));
            all
        };
        for wrong in [1, 4] {
            let error = other.flush(&[checkpoint("series", 2, MODEL), checkpoint("movies", wrong, MODEL)]).await.unwrap_err();
            assert_eq!(error.class, Class::Stop);
            assert!(error.message.contains("movies/vectors/titles@hash@1/0-of-1") && error.message.contains(INDEX), "{error}");
            assert_eq!(sorted(&other).await, moved, "all or none");
        }
        // Another process has moved it: who read the old one is told, however late its read would see it.
        other.flush(&[checkpoint("movies", 3, MODEL)]).await.unwrap();
        assert_eq!(
            sink.flush(&[Checkpoint { version: Some(9), ..checkpoint("movies", 3, MODEL) }]).await.unwrap_err().class,
            Class::Stop
        );
        // What was done and not heard of is done.
        front.fail(Fault { done: true, ..Fault::new("vectors/upsert", 503, "lost") });
        assert_eq!(sink.flush(&[checkpoint("movies", 4, MODEL)]).await.unwrap_err().class, Class::Transient);
        sink.flush(&[checkpoint("movies", 4, MODEL)]).await.unwrap();

        let namespace = front.spaces(INDEX).into_keys().find(|name| name.starts_with("titles__")).unwrap();
        front.lose(INDEX, &namespace);
        let sink = opened(&front).await;
        assert_eq!(sink.checkpoints().await.unwrap(), [], "a checkpoint without points says nothing");
        sink.prepare(&[target], &[]).await.unwrap();
        assert_eq!(sink.checkpoints().await.unwrap(), [], "nor does it come back with an empty collection");
        sink.flush(&[checkpoint("movies", 1, MODEL)]).await.unwrap();
        none_wrong(&front);
    });
}

#[test]
fn two_runs_of_one_kind_are_not_at_work_together() {
    wait_for(async {
        let front = Front::start();
        front.lag(2);
        let (first, second) = (opened(&front).await, opened(&front).await);
        let lasts = Duration::from_secs(60);
        let lease = |work| Lease::new(work, lasts);
        let (mine, other) = (lease(Work::Sync), lease(Work::Sync));
        first.hold(&mine).await.unwrap();
        first.hold(&mine.renewed()).await.unwrap();
        let refused = second.hold(&other).await.unwrap_err();
        assert_eq!(refused.class, Class::Stop);
        assert!(refused.message.contains(&mine.holder) && refused.message.contains("index films"), "{refused}");
        first.hold(&mine.renewed()).await.unwrap();
        second.hold(&lease(Work::Reembed)).await.unwrap();
        first.release(&mine).await.unwrap();
        second.hold(&other.renewed()).await.unwrap();
        second.release(&other).await.unwrap();
        second.release(&other).await.unwrap();

        // A holder that was not heard of for too long has lost it, and is told when it wakes.
        let asleep = Lease { renewed_ms: mine.renewed_ms - 61_000, ..mine.clone() };
        first.hold(&asleep).await.unwrap();
        second.hold(&other.renewed()).await.unwrap();
        assert_eq!(first.hold(&mine.renewed()).await.unwrap_err().class, Class::Stop);
        second.hold(&other.renewed()).await.unwrap();
        // Both at one moment: not both.
        let (third, fourth) = (lease(Work::Sync), lease(Work::Sync));
        second.release(&other).await.unwrap();
        let both = futures::join!(first.hold(&third), second.hold(&fourth));
        assert!(both.0.is_err() || both.1.is_err());
        none_wrong(&front);
    });
}

#[test]
fn a_generation_is_put_in_service_and_dropped() {
    wait_for(async {
        let front = Front::start();
        front.lag(1);
        let target = target_of("movies");
        let sink = prepared(&front, &target).await;
        put(&sink, &target, 1, &[row(1, "a", "one")], &[]).await;
        sink.flush(&[checkpoint("movies", 1, MODEL)]).await.unwrap();
        let other = sink.of_model("other@2", DIMENSIONS).unwrap();
        other.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        assert!(other.list(&target, None, 10).await.unwrap().keys.num_rows() == 0);
        put(other.as_ref(), &target, 1, &[row(1, "a", "one"), row(2, "b", "two")], &[]).await;
        let roles = async |sink: &dyn Sink| {
            let all = sink.generations().await.unwrap().into_iter().map(|one| (one.model, one.role));
            all.collect::<BTreeMap<_, _>>()
        };
        let both = |old, new| BTreeMap::from([(MODEL.to_owned(), old), ("other@2".to_owned(), new)]);
        assert_eq!(roles(&sink).await, both(Role::Serving, Role::Building));
        let tables = ["movies".to_owned()];
        assert_eq!(other.promote("titles", &tables).await.unwrap_err().class, Class::Transient);
        sink.flush(&[checkpoint("movies", 1, "other@2")]).await.unwrap();
        for _ in 0..2 {
            other.promote("titles", &tables).await.unwrap();
        }
        let again = opened(&front).await;
        assert_eq!(roles(&again).await, both(Role::Kept, Role::Serving));
        let hashes = vec!["hash of a".to_owned(), "hash of nothing".to_owned()];
        let found = again.vectors(hashes).await.unwrap();
        assert_eq!(found["hash of a"].iter().map(|x| f64::from(*x)).collect::<Vec<_>>(), vector_of("a"));
        assert_eq!(other.drop_generation("titles", "other@2").await.unwrap_err().class, Class::Stop, "it is in service");
        // Killed in the middle of it, or not answered, it is finished by the next.
        front.fail(Fault { done: true, ..Fault::new("namespaces/titles__", 500, "") });
        front.fail(Fault { body: "checkpoint#", ..Fault::new("vectors/delete", 500, "") });
        let failed = other.drop_generation("titles", MODEL).await;
        assert!(failed.is_err());
        assert_eq!(roles(other.as_ref()).await, BTreeMap::from([("other@2".to_owned(), Role::Serving)]));
        while other.drop_generation("titles", MODEL).await.is_err() {}
        other.drop_generation("titles", MODEL).await.unwrap();
        assert_eq!(front.spaces(INDEX).len(), 2, "{:?}", front.spaces(INDEX));
        let left: Vec<_> = again.checkpoints().await.unwrap().into_iter().map(|c| c.model.unwrap()).collect();
        assert_eq!(left, ["other@2"]);
        none_wrong(&front);
    });
}

#[test]
fn the_models_in_use_are_told_and_no_index_is_made_for_that() {
    wait_for(async {
        let front = Front::start();
        assert_eq!(models_at_pinecone(options(&front)).await.unwrap(), Vec::<String>::new());
        let paths: Vec<String> = front.asked().into_iter().map(|asked| asked.path).collect();
        assert_eq!(paths, [format!("/indexes/{INDEX}")], "it was looked for, and not made");
        let target = target_of("movies");
        let sink = prepared(&front, &target).await;
        sink.of_model("other@2", DIMENSIONS).unwrap().prepare(std::slice::from_ref(&target), &[]).await.unwrap();
        assert_eq!(models_at_pinecone(options(&front)).await.unwrap(), [MODEL, "other@2"]);
        none_wrong(&front);
    });
}

fn configured(home: &Path, front: &Front) {
    let path = sample_configuration(home);
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: Vec<&str> =
        text.lines().filter(|line| !["clickhouse", "graph", "vectors"].iter().any(|key| line.starts_with(key))).collect();
    let vectors = format!("vectors: {{url: \"pinecone://{INDEX}\", controller: \"{}\", api_key_file: key}}", front.address());
    std::fs::write(&path, format!("{}\n{vectors}\n", kept.join("\n"))).unwrap();
    std::fs::write(home.join("key"), format!("{KEY}\n")).unwrap();
}

#[test]
fn the_sample_is_synced_and_its_third_sync_sends_nothing() {
    let front = Front::start();
    front.lag(2);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    configured(home, &front);
    run(home, &["sample", "silver"]).expect(0);
    let checked = run(home, &["check"]).expect(0);
    assert!(checked.all().contains("titles, in Pinecone's metadata: id: numbers from 2^53 on become text"), "{}", checked.all());
    let synced = |arguments: &[&str]| -> Answer { run(home, arguments).expect(0) };
    assert!(operations(&synced(&["sync", "--json"]).json()) > 50);
    synced(&["verify"]);
    synced(&["sample", "silver", "--crawl"]);
    front.asked();
    let second = operations(&synced(&["sync", "--json"]).json());
    assert!((1..40).contains(&second), "{second}");
    let sent = front.asked();
    let sent: usize =
        writes(&sent).iter().map(|one| one.body["vectors"].as_array().or(one.body["ids"].as_array()).unwrap().len()).sum();
    assert!((1..60).contains(&sent), "{sent}");
    synced(&["verify"]);
    front.asked();
    assert_eq!(operations(&synced(&["sync", "--json"]).json()), 0);
    let asked = front.asked();
    assert!(writes(&asked).is_empty(), "{:?}", writes(&asked));
    let found = synced(&["search", "--json", "--where", "title=Metropolis", "a city"]).json();
    assert!(found.as_array().is_some_and(|found| found.len() == 1) && found[0]["title"] == "Metropolis", "{found}");
    assert!(synced(&["status"]).all().contains("titles"));
    none_wrong(&front);
}

/// The vector index alone, of the bench's lake, on Pinecone.
async fn on_pinecone(bench: &Bench, front: &Front) -> Setup {
    let embedder = Arc::new(hash_embedder());
    let (model, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
    let (sink, retries) = (open_pinecone(options(front), model, dimensions).await.unwrap(), Retries::default());
    let sink = Retrying::of(Arc::new(sink), &retries);
    let config = bench.config();
    let mapping = MappingFile::read(&config.mapping).unwrap();
    let (runtime, spill) = sync::runtime(&config).unwrap();
    let (unopened, models, leases) = (Vec::new(), sync::Models::default(), sync::Leases::default());
    Setup { config, mapping, sinks: vec![sink], unopened, embedder: Some(embedder), models, runtime, spill, retries, leases }
}

async fn sync_all(setup: &Setup) -> u64 {
    let report = sync::sync(setup, &Options::default()).await.unwrap();
    assert!(report.ok(), "{report:?}");
    report.operations()
}

async fn verified(setup: &Setup) -> usize {
    let report = sync::verify(setup).await.unwrap();
    let vectors: Vec<_> = report.targets.iter().filter(|target| target.sink == SinkKind::Vectors).collect();
    vectors.iter().for_each(|target| assert!(target.ok() && target.equal > 0, "{target:?}"));
    vectors.len()
}

fn book(id: i64, salt: u64) -> Book {
    let words = if id % 11 == 0 { 300 } else { 4 };
    let blurb = (0..words).map(|n| format!("word{}", (n + id) % 97)).collect::<Vec<_>>().join(" ");
    Book {
        book_id: Some(id),
        title: (id % 7 != 0).then(|| format!("Book {id}")),
        blurb: Some(if id % 5 == 0 { "the same".to_owned() } else { format!("{blurb} {salt}") }),
        popularity: Some(1.0),
        tags: if id % 3 == 0 { Vec::new() } else { vec![format!("tag {salt}"), "é".to_owned()] },
        credits: None,
    }
}

fn author(id: i64, salt: u64) -> Author {
    Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: Some(format!("Life {id} {salt}")), visits: Some(1) }
}

/// Lines of everything that the first sink of each setup holds.
async fn all_contents(setup: &Setup) -> Vec<String> {
    let tables = [("books", Book::schema()), ("authors", Author::schema())];
    let schemas = tables.map(|(name, schema)| (name.to_owned(), canonical_schema(&schema))).into_iter().collect();
    let compiled = compile(&setup.mapping, &setup.config.mapping, &schemas).await.unwrap();
    let sink = setup.sinks.iter().find(|sink| sink.kind() == SinkKind::Vectors).unwrap();
    let mut lines = Vec::new();
    for projection in compiled.tables.values().flat_map(|table| &table.projections) {
        if projection.target().sink() == SinkKind::Vectors {
            lines.extend(contents(sink.as_ref(), projection.target(), 500).await);
        }
    }
    lines
}

#[test]
fn contents_are_those_of_the_embedded_engine() {
    wait_for(async {
        let front = Front::start();
        front.lag(1);
        let mut bench = Bench::new(tests_dir().join("mappings/library.yaml"));
        bench.more = "limits: {batch_rows: 16}\n".to_owned();
        bench.lake.create(&(1..=60).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
        bench.lake.create(&(1..=30).map(|id| author(id, 0)).collect::<Vec<_>>(), true).await;
        let mut embedded = bench.open().await;
        embedded.sinks.retain(|sink| sink.kind() == SinkKind::Vectors);
        let server = on_pinecone(&bench, &front).await;
        for round in 1..4 {
            sync_all(&embedded).await;
            // What is refused for a moment, or done without an answer, is done again.
            front.fail(Fault { body: "_record", ..Fault::new("vectors/upsert", 503, "busy") });
            front.fail(Fault { body: "_record", done: true, ..Fault::new("vectors/upsert", 500, "lost") });
            sync_all(&server).await;
            assert_eq!(front.faults_left(), 0);
            let expected = all_contents(&embedded).await;
            assert!(expected.len() >= 90, "{}", expected.len());
            assert_eq!(all_contents(&server).await, expected, "round {round}");
            assert_eq!(verified(&server).await, 2);
            assert_eq!(sync_all(&server).await, 0);
            let some: Vec<Book> = (1..12).map(|id| book(id * round, round as u64)).collect();
            bench.lake.merge(&some, &[40 + round, 50 + round]).await;
            let tagged: Vec<Book> = (20..30).map(|id| Book { tags: vec![format!("only {round}")], ..book(id, 0) }).collect();
            bench.lake.merge(&tagged, &[]).await;
        }
        none_wrong(&front);
    });
}

#[test]
fn a_collection_is_made_anew_put_in_service_and_taken_back() {
    wait_for(async {
        let front = Front::start();
        front.lag(1);
        let bench = Bench::new(tests_dir().join("mappings/library.yaml"));
        bench.lake.create(&(1..=40).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
        bench.lake.create(&(1..=20).map(|id| author(id, 0)).collect::<Vec<_>>(), true).await;
        let setup = on_pinecone(&bench, &front).await;
        sync_all(&setup).await;
        let choice = "hash-32".parse::<Choice>().unwrap();
        let what = Reembed { collection: "texts".to_owned(), choice, precision: DEFAULT_PRECISION, gate: None };
        let question = Question { collection: "texts".to_owned(), text: "Author 7".to_owned(), conditions: Vec::new(), top: 3 };
        let report = sync::reembed(&setup, &what, &Options::default()).await.unwrap();
        assert_eq!(report.state, ReembedState::Swapped, "{report:?}");
        assert_eq!(sync::search(&setup, &question).await.unwrap().model, "hash-32@1");
        assert_eq!(front.spaces("films-32").len(), 1, "vectors of another length have an index of their own");
        bench.lake.merge(&[book(3, 9)], &[4]).await;
        sync_all(&setup).await;
        assert_eq!(verified(&setup).await, 4);
        let rolled = sync::rollback(&setup, "texts", &Options::default()).await.unwrap();
        assert_eq!((rolled.state, rolled.texts_embedded), (ReembedState::Swapped, 0), "{rolled:?}");
        assert_eq!(sync::search(&setup, &question).await.unwrap().model, "hash-64@1");
        // A new process finds all of it.
        let setup = on_pinecone(&bench, &front).await;
        assert_eq!(verified(&setup).await, 4);
        assert_eq!(sync_all(&setup).await, 0);
        setup.sinks[0].drop_generation("texts", "hash-32@1").await.unwrap();
        assert!(front.spaces("films-32").is_empty());
        assert_eq!(verified(&setup).await, 2);
        none_wrong(&front);
    });
}
