//! The sink over real engines: what is written is held, and the graph is a function of its rows whatever their order. Each behaviour is
//! shown on the embedded engine, and with the feature `servers` on a Neo4j server too.

mod counted;
mod directory;
mod model;
#[cfg(feature = "servers")]
mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int64Type, Schema, TimeUnit, i256};
use serde_json::{Map, Value as Json, json};

use super::cypher::{Layout, NodeKey};
use super::encode::Cell;
use super::{GraphOptions, GraphSink, open};
use crate::mapping::target::{End, Shape, SinkKind, Target};
use crate::sinks::{Checkpoint, Class, LaneId, Query, Refused, Sink, SinkError, Write};

fn target(name: &str, shape: Shape, columns: &[(&str, DataType)], key: &[&str], record_key: &[&str]) -> Arc<Target> {
    let fields: Vec<Field> = columns.iter().map(|(name, kind)| Field::new(*name, kind.clone(), !key.contains(name))).collect();
    Arc::new(Target {
        table: "table".to_owned(),
        name: name.to_owned(),
        shape,
        schema: Arc::new(Schema::new(fields)),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        record_key: record_key.iter().map(|name| (*name).to_owned()).collect(),
        fingerprint: "1".to_owned(),
    })
}

fn end(label: &str, column: &str, stub: &[(&str, &str)], declared: bool) -> End {
    End {
        label: label.to_owned(),
        columns: vec![column.to_owned()],
        properties: vec![column.to_owned()],
        stub: stub.iter().map(|(property, column)| ((*property).to_owned(), (*column).to_owned())).collect(),
        declared,
    }
}

/// A small catalogue: two labels with records, one without, and three types between them.
struct Catalogue {
    movie: Arc<Target>,
    person: Arc<Target>,
    acted: Arc<Target>,
    genre: Arc<Target>,
    series_genre: Arc<Target>,
}

impl Catalogue {
    fn new() -> Self {
        let (int, text) = (DataType::Int64, DataType::Utf8);
        let movie = || end("Movie", "movie_id", &[], true);
        Self {
            movie: target(
                "Movie",
                Shape::Node,
                &[("movie_id", int.clone()), ("title", text.clone())],
                &["movie_id"],
                &["movie_id"],
            ),
            person: target(
                "Person",
                Shape::Node,
                &[("person_id", int.clone()), ("name", text.clone()), ("born", int.clone())],
                &["person_id"],
                &["person_id"],
            ),
            acted: target(
                "ACTED_IN",
                Shape::Relationship { from: end("Person", "person_id", &[("name", "name")], true), to: movie() },
                &[
                    ("movie_id", int.clone()),
                    ("person_id", int.clone()),
                    ("credit_id", text.clone()),
                    ("name", text.clone()),
                    ("order", int.clone()),
                ],
                &["movie_id", "person_id", "credit_id"],
                &["movie_id"],
            ),
            genre: target(
                "HAS_GENRE",
                Shape::Relationship { from: movie(), to: end("Genre", "genre_id", &[("name", "genre_name")], false) },
                &[("movie_id", int.clone()), ("genre_id", int.clone()), ("genre_name", text.clone())],
                &["movie_id", "genre_id"],
                &["movie_id"],
            ),
            series_genre: target(
                "HAS_GENRE",
                Shape::Relationship {
                    from: end("Series", "series_id", &[], false),
                    to: end("Genre", "genre_id", &[("name", "genre_name")], false),
                },
                &[("series_id", int.clone()), ("genre_id", int), ("genre_name", text)],
                &["series_id", "genre_id"],
                &["series_id"],
            ),
        }
    }

    fn all(&self) -> Vec<Arc<Target>> {
        [&self.movie, &self.person, &self.acted, &self.genre, &self.series_genre].map(Clone::clone).to_vec()
    }
}

/// A batch of the columns `names`, of which the cells are JSON.
fn rows(target: &Target, names: &[String], rows: &[Vec<Json>]) -> RecordBatch {
    let fields: Vec<Field> = names.iter().map(|name| target.schema.field_with_name(name).unwrap().clone()).collect();
    let columns: Vec<ArrayRef> = fields
        .iter()
        .enumerate()
        .map(|(i, field)| -> ArrayRef {
            match field.data_type() {
                DataType::Int64 => Arc::new(rows.iter().map(|row| row[i].as_i64()).collect::<Int64Array>()),
                _ => Arc::new(rows.iter().map(|row| row[i].as_str()).collect::<StringArray>()),
            }
        })
        .collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

fn change(target: &Arc<Target>, version: u64, upserts: &[Vec<Json>], deletes: &[Vec<Json>]) -> Write {
    let names: Vec<String> = target.schema.fields().iter().map(|field| field.name().clone()).collect();
    Write { target: target.clone(), version, upserts: rows(target, &names, upserts), deletes: rows(target, &target.key, deletes) }
}

fn put(target: &Arc<Target>, row: Json) -> Write {
    change(target, 1, &[row.as_array().unwrap().clone()], &[])
}

fn drop_row(target: &Arc<Target>, key: Json) -> Write {
    change(target, 1, &[], &[key.as_array().unwrap().clone()])
}

/// The engines that every behaviour is shown on.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Engine {
    Embedded,
    #[cfg(feature = "servers")]
    Server,
}

/// A sink, and what nobody else may use while it is.
struct Opened {
    sink: GraphSink,
    #[cfg(feature = "servers")]
    _turn: Option<tokio::sync::MutexGuard<'static, ()>>,
}

impl std::ops::Deref for Opened {
    type Target = GraphSink;

    fn deref(&self) -> &GraphSink {
        &self.sink
    }
}

impl Engine {
    /// An empty graph.
    async fn open(self) -> Opened {
        self.open_with(GraphOptions::in_memory().batch_rows).await
    }

    /// An empty graph with statements of so many rows.
    async fn open_with(self, batch_rows: usize) -> Opened {
        match self {
            Self::Embedded => embedded_in(GraphOptions { batch_rows, ..GraphOptions::in_memory() }).await,
            #[cfg(feature = "servers")]
            Self::Server => server::empty(batch_rows).await,
        }
    }

    #[cfg_attr(not(feature = "servers"), expect(unused_variables, reason = "only a server has been met before"))]
    /// The graph that was closed before, which the embedded engine keeps as `options` say; an empty one the first time.
    async fn open_again(self, options: GraphOptions, first: bool) -> Opened {
        match self {
            Self::Embedded => embedded_in(options).await,
            #[cfg(feature = "servers")]
            Self::Server if first => server::empty(options.batch_rows).await,
            #[cfg(feature = "servers")]
            Self::Server => server::as_it_is(options.batch_rows).await,
        }
    }
}

async fn embedded_in(options: GraphOptions) -> Opened {
    Opened {
        sink: open(options).await.unwrap(),
        #[cfg(feature = "servers")]
        _turn: None,
    }
}

/// Stamps behaviours on every engine.
macro_rules! on_every_engine {
    ($($name:ident),+ $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Engine::Embedded).await;
            })+
        }
        #[cfg(feature = "servers")]
        mod neo4j {
            $(#[tokio::test]
            async fn $name() {
                super::$name(super::Engine::Server).await;
            })+
        }
    };
}

on_every_engine!(
    a_credit_can_arrive_before_and_stay_after_its_person,
    the_least_key_names_a_stub_until_it_goes,
    an_older_write_loses_and_a_null_removes,
    a_row_is_refused_alone,
    a_checkpoint_moves_only_from_the_one_before_and_with_its_data,
    a_failed_write_is_undone_alone,
    rows_are_found_by_any_columns_and_listed_in_order,
    hostile_values_are_only_ever_values,
    what_the_graph_cannot_hold_is_refused_before_anything_is_written,
    every_type_comes_back_as_it_went,
    every_type_of_key_finds_its_row,
    a_label_of_two_keys_is_one_node_for_each_pair,
    a_large_transaction_is_committed_in_parts,
    a_type_that_was_empty_is_a_function_of_its_rows_too,
);

async fn memory(engine: Engine, catalogue: &Catalogue) -> Opened {
    let sink = engine.open().await;
    sink.prepare(&catalogue.all(), &[]).await.unwrap();
    sink
}

async fn ask(sink: &GraphSink, cypher: &str) -> Vec<Map<String, Json>> {
    sink.query(&Query::Text(cypher.to_owned())).await.unwrap()
}

/// Everything in the graph but checkpoints and what the sink keeps for itself, as sorted lines.
async fn contents(sink: &GraphSink) -> Vec<String> {
    let mut lines = Vec::new();
    for row in ask(sink, "MATCH (n) RETURN labels(n) AS labels, properties(n) AS p").await {
        if !["_DistributaryCheckpoint", "_DistributaryLease"].map(|own| json!([own])).contains(&row["labels"]) {
            lines.push(format!("{} {}", row["labels"], plain(&row["p"])));
        }
    }
    for row in
        ask(sink, "MATCH (a)-[r]->(b) RETURN properties(a) AS a, type(r) AS t, properties(r) AS r, properties(b) AS b").await
    {
        let ends = [&row["a"], &row["b"]].map(ids);
        lines.push(format!("({})-{} {}->({})", ends[0], row["t"], plain(&row["r"]), ends[1]));
    }
    lines.sort();
    lines
}

fn plain(properties: &Json) -> String {
    let kept: BTreeMap<_, _> =
        properties.as_object().unwrap().iter().filter(|(name, _)| !["_stub_by", "_version"].contains(&name.as_str())).collect();
    json!(kept).to_string()
}

fn ids(properties: &Json) -> String {
    let kept: BTreeMap<_, _> = properties.as_object().unwrap().iter().filter(|(name, _)| name.ends_with("_id")).collect();
    json!(kept).to_string()
}

async fn write(sink: &GraphSink, writes: &[Write]) {
    assert_eq!(sink.write(writes).await.unwrap(), Vec::<Refused>::new());
    sink.flush(&[]).await.unwrap();
}

async fn a_credit_can_arrive_before_and_stay_after_its_person(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    write(&sink, &[put(&c.acted, json!([1, 7, "c1", "Fay", 0]))]).await;
    let stub = r#"["Person"] {"_stub":true,"name":"Fay","person_id":7}"#;
    assert_eq!(
        contents(&sink).await,
        [
            r#"({"person_id":7})-"ACTED_IN" {"credit_id":"c1","name":"Fay","order":0}->({"movie_id":1})"#,
            r#"["Movie"] {"_stub":true,"movie_id":1}"#,
            stub
        ]
    );
    write(&sink, &[put(&c.person, json!([7, "Fay Wray", null])), put(&c.movie, json!([1, "King Kong"]))]).await;
    let lines = contents(&sink).await;
    assert_eq!(
        lines[1..],
        [r#"["Movie"] {"movie_id":1,"title":"King Kong"}"#, r#"["Person"] {"name":"Fay Wray","person_id":7}"#]
    );
    write(&sink, &[drop_row(&c.person, json!([7]))]).await;
    assert_eq!(contents(&sink).await[2], stub, "the name comes back from the relationship");
    write(&sink, &[drop_row(&c.acted, json!([1, 7, "c1"])), drop_row(&c.movie, json!([1]))]).await;
    assert_eq!(contents(&sink).await, Vec::<String>::new());
}

async fn the_least_key_names_a_stub_until_it_goes(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    let name = async || ask(&sink, "MATCH (g:Genre) RETURN g.name AS name").await[0]["name"].clone();
    // 10 comes before 9 among texts, and after it among numbers.
    write(
        &sink,
        &[change(&c.genre, 1, &[vec![json!(10), json!(1), json!("ten")], vec![json!(9), json!(1), json!("nine")]], &[])],
    )
    .await;
    assert_eq!(name().await, "nine");
    write(&sink, &[put(&c.series_genre, json!([9, 1, "series nine"])), put(&c.genre, json!([-4, 1, null]))]).await;
    assert_eq!(name().await, "nine", "of one key the label decides, and nothing is no name");
    write(&sink, &[drop_row(&c.genre, json!([9, 1]))]).await;
    assert_eq!(name().await, "series nine");
    write(&sink, &[put(&c.genre, json!([-4, 1, "minus four"]))]).await;
    assert_eq!(name().await, "minus four", "it gives now what it did not");
    write(&sink, &[put(&c.genre, json!([-4, 1, null]))]).await;
    assert_eq!(name().await, "series nine", "and takes it back");
    write(&sink, &[drop_row(&c.series_genre, json!([9, 1]))]).await;
    assert_eq!(name().await, "ten");
}

async fn an_older_write_loses_and_a_null_removes(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    let row = |title: Json| vec![json!(1), title];
    let credit = |order: i64| vec![json!(1), json!(7), json!("c"), json!("Fay"), json!(order)];
    write(&sink, &[change(&c.movie, 5, &[row(json!("five"))], &[]), change(&c.acted, 5, &[credit(5)], &[])]).await;
    let before = contents(&sink).await;
    write(&sink, &[change(&c.movie, 4, &[row(json!("four"))], &[]), change(&c.acted, 4, &[credit(4)], &[])]).await;
    write(
        &sink,
        &[change(&c.movie, 4, &[], &[vec![json!(1)]]), change(&c.acted, 4, &[], &[vec![json!(1), json!(7), json!("c")]])],
    )
    .await;
    assert_eq!(contents(&sink).await, before);
    write(&sink, &[change(&c.movie, 6, &[row(Json::Null)], &[]), change(&c.acted, 6, &[credit(6)], &[])]).await;
    let lines = contents(&sink).await;
    assert_eq!(lines[1], r#"["Movie"] {"movie_id":1}"#);
    assert!(lines[0].contains(r#""order":6"#));
}

async fn a_row_is_refused_alone(engine: Engine) {
    let kinds = [("id", DataType::Int64), ("n", DataType::UInt64)];
    let target = target("Thing", Shape::Node, &kinds, &["id"], &["id"]);
    let sink = engine.open().await;
    sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
    let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(vec![1, 2])), Arc::new(UInt64Array::from(vec![u64::MAX, 7]))];
    let upserts = RecordBatch::try_new(target.schema.clone(), columns).unwrap();
    let empty = Write {
        deletes: RecordBatch::new_empty(Arc::new(Schema::empty())),
        upserts: RecordBatch::new_empty(target.schema.clone()),
        target: target.clone(),
        version: 1,
    };
    let refused = sink.write(&[empty.clone(), Write { upserts, ..empty }]).await.unwrap();
    assert_eq!((refused.len(), refused[0].write, refused[0].row), (1, 1, 0));
    assert!(refused[0].message.contains("column `n`: 18446744073709551615"), "{}", refused[0].message);
    sink.flush(&[]).await.unwrap();
    assert_eq!(
        ask(&sink, "MATCH (n:Thing) RETURN n.id AS id, n.n AS n").await,
        [json!({"id": 2, "n": 7}).as_object().unwrap().clone()]
    );
}

fn checkpoint(revision: u64) -> Checkpoint {
    let lane = LaneId::new("movies", SinkKind::Graph, "Movie", None);
    Checkpoint {
        lane,
        revision,
        table_id: "t".into(),
        version: Some(revision.cast_signed()),
        pending: None,
        epoch: 0,
        generation: 0,
        schema_fingerprint: String::new(),
        mapping_fingerprint: String::new(),
        model: None,
        updated_at: "2020-01-01T00:00:00Z".into(),
    }
}

async fn a_checkpoint_moves_only_from_the_one_before_and_with_its_data(engine: Engine) {
    let c = Catalogue::new();
    let sink = engine.open().await;
    assert_eq!(sink.checkpoints().await.unwrap(), []);
    sink.prepare(&c.all(), &[]).await.unwrap();
    sink.write(&[put(&c.movie, json!([1, "one"]))]).await.unwrap();
    sink.flush(&[checkpoint(1)]).await.unwrap();
    sink.flush(&[checkpoint(1)]).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint(1)]);
    sink.write(&[put(&c.movie, json!([2, "two"]))]).await.unwrap();
    let error = sink.flush(&[checkpoint(3)]).await.unwrap_err();
    assert_eq!(error.class, Class::Stop);
    assert!(error.message.contains("movies/graph/Movie/0-of-1"), "{}", error.message);
    assert_eq!(contents(&sink).await, [r#"["Movie"] {"movie_id":1,"title":"one"}"#], "the data went with it");
    sink.write(&[put(&c.movie, json!([2, "two"]))]).await.unwrap();
    sink.flush(&[checkpoint(2)]).await.unwrap();
    assert_eq!(contents(&sink).await.len(), 2);
}

async fn a_failed_write_is_undone_alone(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    write(&sink, &[put(&c.acted, json!([1, 7, "c1", "Fay", 0])), put(&c.person, json!([7, "Fay Wray", 1907]))]).await;
    let before = contents(&sink).await;
    sink.write(&[
        change(&c.person, 2, &[vec![json!(8), json!("Bruce"), json!(null)]], &[vec![json!(7)]]),
        change(
            &c.acted,
            2,
            &[vec![json!(2), json!(8), json!("c2"), json!("B"), json!(1)]],
            &[vec![json!(1), json!(7), json!("c1")]],
        ),
    ])
    .await
    .unwrap();
    let mut broken = put(&c.person, json!([9, "Nine", null]));
    broken.deletes = broken.upserts.project(&[1]).unwrap();
    assert!(sink.write(&[put(&c.movie, json!([5, "five"])), broken]).await.is_err());
    assert_eq!(contents(&sink).await, before, "nothing is visible before it is flushed");
    // What was accepted before is there to be read, and what failed is not.
    let key = rows(&c.movie, &["movie_id".to_owned()], &[vec![json!(5)]]);
    assert_eq!(sink.held(&c.movie, &key).await.unwrap().num_rows(), 0);
    let key = rows(&c.acted, &["movie_id".to_owned()], &[vec![json!(1)], vec![json!(2)]]);
    assert_eq!(sink.held(&c.acted, &key).await.unwrap().num_rows(), 1);
    sink.flush(&[checkpoint(1)]).await.unwrap();
    assert_eq!(
        contents(&sink).await,
        [
            r#"({"person_id":8})-"ACTED_IN" {"credit_id":"c2","name":"B","order":1}->({"movie_id":2})"#,
            r#"["Movie"] {"_stub":true,"movie_id":2}"#,
            r#"["Person"] {"name":"Bruce","person_id":8}"#
        ]
    );
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint(1)]);
}

async fn a_large_transaction_is_committed_in_parts(engine: Engine) {
    let c = Catalogue::new();
    let sink = engine.open_with(3).await;
    sink.prepare(&c.all(), &[]).await.unwrap();
    let credits: Vec<Vec<Json>> =
        (0..200).map(|i| vec![json!(i / 9), json!(i % 7), json!(format!("c{i}")), json!("n"), json!(i)]).collect();
    let films: Vec<Vec<Json>> = (0..40).map(|i| vec![json!(i), json!("film")]).collect();
    let again = [change(&c.acted, 1, &credits, &[]), change(&c.movie, 1, &films, &[])];
    assert_eq!(sink.write(&again).await.unwrap(), []);
    let large = ask(&sink, "MATCH ()-[r]->() RETURN count(r) AS n").await[0]["n"].as_u64().unwrap();
    assert!(large > 100, "60 rows are a transaction, and {large} relationships are there before the flush");
    sink.flush(&[checkpoint(1)]).await.unwrap();
    let once = contents(&sink).await;
    assert_eq!(once.len(), 200 + 40 + 7);
    write(&sink, &again).await;
    assert_eq!(contents(&sink).await, once);
}

/// Credits of as many films and of a hundred people.
fn credits(numbers: std::ops::Range<i64>, name: &str) -> Vec<Vec<Json>> {
    numbers.map(|i| vec![json!(i), json!(i % 100), json!(format!("c{i}")), json!(name), json!(i)]).collect()
}

async fn a_type_that_was_empty_is_a_function_of_its_rows_too(engine: Engine) {
    let c = Catalogue::new();
    let gone: Vec<Vec<Json>> = credits(0..300, "").iter().map(|row| row[..3].to_vec()).collect();
    let people: Vec<Vec<Json>> = (0..50).map(|i| vec![json!(i), json!("somebody"), json!(null)]).collect();
    // Large ones, of which types that were empty are not read, and the same rows in small ones, which always are.
    let first = [change(&c.acted, 1, &credits(0..1_500, "one"), &[])];
    let second = [change(&c.acted, 2, &credits(1_000..2_600, "two"), &gone), change(&c.person, 2, &people, &[])];
    let expected = {
        let sink = Engine::Embedded.open_with(100).await;
        sink.prepare(&c.all(), &[]).await.unwrap();
        for rows in credits(0..1_500, "one").chunks(500) {
            write(&sink, &[change(&c.acted, 1, rows, &[])]).await;
        }
        write(&sink, &[change(&c.acted, 2, &[], &gone), change(&c.person, 2, &people, &[])]).await;
        for rows in credits(1_000..2_600, "two").chunks(500) {
            write(&sink, &[change(&c.acted, 2, rows, &[])]).await;
        }
        contents(&sink).await
    };
    assert_eq!(expected.len(), 2_300 + 2_300 + 100);
    let sink = engine.open_with(100).await;
    sink.prepare(&c.all(), &[]).await.unwrap();
    write(&sink, &first).await;
    // Part by part, as after a lost answer.
    write(&sink, &first).await;
    write(&sink, &second).await;
    assert_eq!(contents(&sink).await, expected);
    write(&sink, &second).await;
    assert_eq!(contents(&sink).await, expected);
}

async fn rows_are_found_by_any_columns_and_listed_in_order(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    let credits: Vec<Vec<Json>> =
        (0..20).map(|i| vec![json!(i / 4), json!(i % 5), json!(format!("c{i}")), json!("n"), json!(i)]).collect();
    write(&sink, &[change(&c.acted, 1, &credits, &[]), put(&c.movie, json!([3, "three"]))]).await;
    let find = async |target: &Arc<Target>, names: &[&str], keys: &[Vec<Json>]| {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        sink.held(target, &rows(target, &names, keys)).await.unwrap()
    };
    for (names, keys, count) in [
        (vec!["movie_id"], vec![vec![json!(1)], vec![json!(1)], vec![json!(99)]], 4),
        (vec!["person_id"], vec![vec![json!(1)]], 4),
        (vec!["movie_id", "person_id"], vec![vec![json!(0), json!(1)], vec![json!(1), json!(0)]], 2),
        (vec!["order"], vec![vec![json!(5)]], 1),
        (vec!["credit_id", "movie_id"], vec![vec![json!("c5"), json!(1)], vec![json!("c6"), json!(4)]], 1),
        (vec!["movie_id"], vec![], 0),
    ] {
        let found = find(&c.acted, &names, &keys).await;
        assert_eq!(found.num_rows(), count, "{names:?}");
        assert_eq!(found.schema(), c.acted.schema);
    }
    assert_eq!(find(&c.movie, &["movie_id"], &[vec![json!(1)], vec![json!(3)]]).await.num_rows(), 1, "a stub is no record");
    for limit in [1, 2, 3, 100] {
        let mut keys = Vec::new();
        let mut after = None;
        loop {
            let page = sink.list(&c.acted, after.as_deref(), limit).await.unwrap();
            assert!(page.keys.num_rows() <= limit);
            keys.extend(page.keys.column(0).as_primitive::<Int64Type>().values().iter().copied());
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(keys, [0, 1, 2, 3, 4]);
    }
    let first = sink.list(&c.acted, None, 2).await.unwrap();
    let forgotten = sink.list(&c.acted, None, 1).await.unwrap();
    assert_ne!(first.next, forgotten.next);
    let second = sink.list(&c.acted, first.next.as_deref(), 100).await.unwrap();
    assert_eq!(second.keys.num_rows(), 3);
    assert_eq!(sink.list(&c.series_genre, None, 5).await.unwrap().keys.num_rows(), 0);
}

async fn hostile_values_are_only_ever_values(engine: Engine) {
    let c = Catalogue::new();
    let sink = memory(engine, &c).await;
    let long = "x".repeat(1_000_000);
    let names = [
        "",
        "'",
        "\"}) DETACH DELETE n //",
        "`",
        "\\",
        "$rows",
        "a\0b",
        "a\0",
        "\u{202e}עברית",
        "🎬",
        "1",
        "1.0",
        "01",
        "1e0",
        "null",
        &long,
    ];
    let credits: Vec<Vec<Json>> =
        names.iter().map(|name| vec![json!(i64::MIN), json!(i64::MAX), json!(name), json!(name), json!(0)]).collect();
    write(&sink, &[change(&c.acted, 1, &credits, &[])]).await;
    let key = rows(&c.acted, &["movie_id".to_owned()], &[vec![json!(i64::MIN)]]);
    let found = sink.held(&c.acted, &key).await.unwrap();
    let mut held: Vec<&str> = found.column(2).as_string::<i32>().iter().flatten().collect();
    held.sort_unstable();
    let mut expected = names.to_vec();
    expected.sort_unstable();
    assert_eq!(held, expected);
    assert_eq!(ask(&sink, "MATCH (p:Person) RETURN p.person_id AS id").await[0]["id"], json!(i64::MAX));
    // Keys that are equal as numbers and different as texts, and integers that are equal as floats.
    let by_text = target("Tag", Shape::Node, &[("tag", DataType::Utf8)], &["tag"], &["tag"]);
    let by_number = target("Number", Shape::Node, &[("number", DataType::Int64)], &["number"], &["number"]);
    sink.prepare(&[by_text.clone(), by_number.clone()], &[]).await.unwrap();
    // A server indexes no key of a megabyte.
    let as_key = |name: &&&str| engine == Engine::Embedded || name.len() < 1_000;
    let tags: Vec<Vec<Json>> = names.iter().filter(as_key).map(|name| vec![json!(name)]).collect();
    let big: Vec<Vec<Json>> =
        [i64::MIN, -1, 0, 9_007_199_254_740_992, 9_007_199_254_740_993, i64::MAX - 1, i64::MAX].map(|n| vec![json!(n)]).to_vec();
    write(&sink, &[change(&by_text, 1, &tags, &[]), change(&by_number, 1, &big, &[])]).await;
    write(&sink, &[change(&by_text, 2, &tags, &[]), change(&by_number, 2, &big, &[])]).await;
    for (target, all) in [(&by_text, tags), (&by_number, big)] {
        for key in &all {
            assert_eq!(
                sink.held(target, &rows(target, &target.key, std::slice::from_ref(key))).await.unwrap().num_rows(),
                1,
                "{key:?}"
            );
        }
        for key in all {
            write(&sink, &[change(target, 3, &[], &[key])]).await;
        }
        assert_eq!(sink.list(target, None, 100).await.unwrap().keys.num_rows(), 0);
    }
}

async fn what_the_graph_cannot_hold_is_refused_before_anything_is_written(engine: Engine) {
    let sink = engine.open().await;
    let node = |name: &str, column: &str, kind: DataType| {
        target(name, Shape::Node, &[("id", DataType::Int64), (column, kind)], &["id"], &["id"])
    };
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Timestamp(TimeUnit::Nanosecond, None), true)));
    for (target, expected) in [
        (node("Bad name", "x", DataType::Int64), "`Bad name`"),
        (node("L`) DELETE n", "x", DataType::Int64), "letters"),
        (node("Thing", "a b", DataType::Int64), "column `a b`"),
        (node("Thing", "1a", DataType::Int64), "column `1a`"),
        (node("Thing", "_stub", DataType::Int64), "keeps for itself"),
        (node("_DistributaryCheckpoint", "x", DataType::Int64), "name"),
        (node("Thing", "x", DataType::Float16), "CAST(x AS DOUBLE)"),
        (node("Thing", "x", DataType::Time64(TimeUnit::Microsecond)), "CAST(x AS VARCHAR)"),
        (node("Thing", "x", list), "arrow_cast(x, 'Timestamp(Microsecond, None)')"),
        (target("Thing", Shape::Node, &[("id", DataType::Float64)], &["id"], &["id"]), "identifies nothing"),
    ] {
        let error = sink.check(&target).unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!(error.message.contains(expected), "{} lacks {expected}", error.message);
        assert!(sink.prepare(&[target], &[]).await.is_err());
    }
    let c = Catalogue::new();
    let wrong = target("Genre", Shape::Node, &[("genre_id", DataType::Utf8)], &["genre_id"], &["genre_id"]);
    let narrow = target("Genre", Shape::Node, &[("genre_id", DataType::Int16)], &["genre_id"], &["genre_id"]);
    sink.prepare(&[c.genre.clone(), narrow], &[]).await.unwrap();
    let error = sink.prepare(&[c.genre.clone(), wrong], &[]).await.unwrap_err();
    assert!(error.message.contains("genre_id Int64") && error.message.contains("genre_id Utf8"), "{}", error.message);
    let error =
        sink.query(&Query::Nearest { collection: "c".into(), vector: vec![], conditions: vec![], top: 1 }).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent);
    assert!(sink.query(&Query::Text("CREATE (n:Movie)".into())).await.is_err(), "a question changes nothing");
    assert!(sink.query(&Query::Text("MATCH (".into())).await.is_err());
}

/// One column of every type that the graph holds: its values, with the extremes and a null.
fn every_type() -> Vec<ArrayRef> {
    fn list(data_type: DataType, lengths: &[usize], valid: Vec<bool>, items: ArrayRef) -> ArrayRef {
        let item = Arc::new(Field::new_list_field(data_type, true));
        let offsets = OffsetBuffer::from_lengths(lengths.iter().copied());
        Arc::new(ListArray::new(item, offsets, items, Some(NullBuffer::from(valid))))
    }
    let structs = |names: &[&str], columns: Vec<ArrayRef>, valid: Vec<bool>| -> ArrayRef {
        let fields: Fields =
            names.iter().zip(&columns).map(|(name, column)| Field::new(*name, column.data_type().clone(), true)).collect();
        Arc::new(StructArray::new(fields, columns, Some(NullBuffer::from(valid))))
    };
    let map = |keys: ArrayRef, values: ArrayRef, lengths: &[usize], valid: Vec<bool>| -> ArrayRef {
        let fields = Fields::from(vec![
            Field::new("key", keys.data_type().clone(), false),
            Field::new("value", values.data_type().clone(), true),
        ]);
        let entries = StructArray::new(fields.clone(), vec![keys, values], None);
        let entry = Arc::new(Field::new("key_value", DataType::Struct(fields), false));
        Arc::new(MapArray::new(
            entry,
            OffsetBuffer::from_lengths(lengths.iter().copied()),
            entries,
            Some(NullBuffer::from(valid)),
            false,
        ))
    };
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a\0\"'`\\"), None, Some(""), Some("🎬")]));
    let floats: ArrayRef = Arc::new(Float64Array::from(vec![Some(f64::NAN), Some(-0.0), Some(f64::NEG_INFINITY), Some(1.0)]));
    let dates: ArrayRef = Arc::new(Date32Array::from(vec![Some(i32::MIN), Some(-20_051), None, Some(i32::MAX)]));
    let micros = vec![Some(i64::MIN), Some(-1), None, Some(i64::MAX)];
    let moments: ArrayRef = Arc::new(TimestampMicrosecondArray::from(micros.clone()).with_timezone("UTC"));
    let decimals =
        Decimal128Array::from(vec![Some(-1), Some(99_999_999_999_999_999_999_999_999_999_999_999_999), None, Some(100)]);
    let decimals: ArrayRef = Arc::new(decimals.with_precision_and_scale(38, 2).unwrap());
    let binaries: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255]), None, Some(&[]), Some(b"x")]));
    let ints: ArrayRef = Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(0), None, Some(i32::MAX)]));
    let flags: ArrayRef = Arc::new(BooleanArray::from(vec![Some(true), Some(false), None, Some(true)]));
    let mut columns: Vec<ArrayRef> = vec![
        flags.clone(),
        Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(0), None, Some(i8::MAX)])),
        Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(0), None, Some(i16::MAX)])),
        ints.clone(),
        Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(0), None, Some(i64::MAX)])),
        Arc::new(UInt8Array::from(vec![Some(0), Some(1), None, Some(u8::MAX)])),
        Arc::new(UInt16Array::from(vec![Some(0), Some(1), None, Some(u16::MAX)])),
        Arc::new(UInt32Array::from(vec![Some(0), Some(1), None, Some(u32::MAX)])),
        Arc::new(UInt64Array::from(vec![Some(0), Some(1), None, Some(u64::MAX / 2)])),
        Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(f32::MIN_POSITIVE), None, Some(0.1)])),
        Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(1e308), None, Some(0.1)])),
        floats.clone(),
        texts.clone(),
        Arc::new(LargeStringArray::from(vec![Some("a"), Some("[1]"), None, Some("{}")])),
        binaries.clone(),
        Arc::new(LargeBinaryArray::from_opt_vec(vec![Some(&[1]), None, Some(&[]), Some(b"x")])),
        dates.clone(),
        Arc::new(TimestampMicrosecondArray::from(micros)),
        moments.clone(),
        Arc::new(TimestampMillisecondArray::from(vec![Some(-1), Some(0), None, Some(9_000_000_000_000_000)])),
        Arc::new(TimestampSecondArray::from(vec![Some(-1), Some(0), None, Some(9_000_000_000_000)]).with_timezone("+02:00")),
        decimals.clone(),
        Arc::new(
            Decimal256Array::from(vec![Some(i256::from_i128(-5)), None, Some(i256::ZERO), Some(i256::from_i128(7))])
                .with_precision_and_scale(60, 5)
                .unwrap(),
        ),
        Arc::new(NullArray::new(4)),
    ];
    // Lists: empty, of one, null, with the rest.
    for items in [&flags, &ints, &floats, &texts, &binaries, &dates, &moments, &decimals] {
        columns.push(list(items.data_type().clone(), &[0, 1, 0, 3], vec![true, true, false, true], items.clone()));
        columns.push(list(items.data_type().clone(), &[1, 1, 1, 1], vec![true; 4], items.clone()));
    }
    let pair = structs(
        &["text", "float", "date", "moment", "decimal", "bytes"],
        vec![texts.clone(), floats, dates, moments, decimals, binaries],
        vec![true, true, false, true],
    );
    let pairs = list(pair.data_type().clone(), &[0, 1, 0, 3], vec![true, true, false, true], pair.clone());
    let nested = list(ints.data_type().clone(), &[2, 0, 1, 1], vec![true, true, false, true], ints.clone());
    columns.push(structs(&["list", "flag"], vec![pairs.clone(), flags], vec![true, false, true, true]));
    columns.push(list(nested.data_type().clone(), &[1, 1, 0, 2], vec![true, true, false, true], nested));
    columns.extend([pair, pairs]);
    let keys: ArrayRef = Arc::new(StringArray::from(vec!["b", "a", "", "b"]));
    columns.push(map(keys, texts, &[0, 3, 0, 1], vec![true, true, false, true]));
    columns.push(map(Arc::new(Int64Array::from(vec![3, -1, 0, 3])), ints, &[2, 1, 0, 1], vec![true, true, false, true]));
    columns
}

async fn every_type_comes_back_as_it_went(engine: Engine) {
    let directory = tempfile::tempdir().unwrap();
    let columns = every_type();
    let mut fields = vec![Field::new("id", DataType::Int64, false)];
    fields.extend(columns.iter().enumerate().map(|(i, column)| Field::new(format!("c{i}"), column.data_type().clone(), true)));
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![0, 1, 2, 3]));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields.clone())), [vec![ids], columns].concat()).unwrap();
    let mut node = (*target("Thing", Shape::Node, &[("id", DataType::Int64)], &["id"], &["id"])).clone();
    node.schema = rows.schema();
    let shape = Shape::Relationship { from: end("A", "id", &[], false), to: end("B", "id", &[], false) };
    let relationship = Target { name: "IS".to_owned(), shape, ..node.clone() };
    let keys = rows.project(&[0]).unwrap();
    // The server is this test's until its end.
    let mut closed = Vec::new();
    for generation in 0..3 {
        // Once from memory, once from the replayed log, once from the file.
        let options =
            GraphOptions { log_bytes_max: if generation == 1 { 0 } else { u64::MAX }, ..GraphOptions::at(directory.path()) };
        let sink = engine.open_again(options, generation == 0).await;
        for target in [&node, &relationship] {
            sink.check(target).unwrap();
            let target = Arc::new(target.clone());
            sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
            if generation == 0 {
                let write = Write { target: target.clone(), version: 1, upserts: rows.clone(), deletes: keys.slice(0, 0) };
                assert_eq!(sink.write(&[write]).await.unwrap(), []);
                sink.flush(&[]).await.unwrap();
            }
            let held = sink.held(&target, &keys).await.unwrap();
            let order = arrow::compute::sort_to_indices(held.column(0), None, None).unwrap();
            let held = arrow::compute::take_record_batch(&held, &order).unwrap();
            let image = sink.image(&target, &rows).unwrap();
            for (i, field) in fields.iter().enumerate() {
                assert_eq!(
                    held.column(i).to_data(),
                    image.column(i).to_data(),
                    "{} of {} in generation {generation}",
                    target.name,
                    field.data_type()
                );
            }
            assert_eq!(held.schema(), image.schema());
        }
        sink.close().await.unwrap();
        closed.push(sink);
    }
}

async fn every_type_of_key_finds_its_row(engine: Engine) {
    let micros = TimestampMicrosecondArray::from(vec![i64::MIN, -1, i64::MAX]);
    for column in [
        Arc::new(BooleanArray::from(vec![true, false])) as ArrayRef,
        Arc::new(Int8Array::from(vec![i8::MIN, 0, i8::MAX])),
        Arc::new(UInt64Array::from(vec![0, 1, u64::MAX / 2])),
        Arc::new(StringArray::from(vec!["", "1", "1.0"])),
        Arc::new(BinaryArray::from_vec(vec![&[], &[0], &[255]])),
        Arc::new(Date32Array::from(vec![i32::MIN, -1, i32::MAX])),
        Arc::new(micros.clone().with_timezone("UTC")),
        Arc::new(micros),
        Arc::new(Decimal128Array::from(vec![-1, 0, 10]).with_precision_and_scale(5, 2).unwrap()),
    ] {
        let node = target("Thing", Shape::Node, &[("k", column.data_type().clone())], &["k"], &["k"]);
        let rows = RecordBatch::try_new(node.schema.clone(), vec![column]).unwrap();
        let sink = engine.open().await;
        sink.prepare(std::slice::from_ref(&node), &[]).await.unwrap();
        for version in [1, 2] {
            let write = Write { target: node.clone(), version, upserts: rows.clone(), deletes: rows.slice(0, 0) };
            sink.write(&[write]).await.unwrap();
            sink.flush(&[]).await.unwrap();
        }
        for i in 0..rows.num_rows() {
            let key = rows.slice(i, 1);
            assert_eq!(sink.held(&node, &key).await.unwrap(), key);
        }
        assert_eq!(sink.list(&node, None, 9).await.unwrap().keys.num_rows(), rows.num_rows());
        let write = Write { target: node.clone(), version: 3, upserts: rows.slice(0, 0), deletes: rows.clone() };
        sink.write(&[write]).await.unwrap();
        sink.flush(&[]).await.unwrap();
        assert_eq!(contents(&sink).await, Vec::<String>::new());
    }
}

async fn a_label_of_two_keys_is_one_node_for_each_pair(engine: Engine) {
    let (int, text) = (DataType::Int64, DataType::Utf8);
    let season = target(
        "Season",
        Shape::Node,
        &[("series", int.clone()), ("number", int.clone()), ("name", text.clone())],
        &["series", "number"],
        &["series", "number"],
    );
    let two = |columns: [&str; 2], properties: [&str; 2]| End {
        columns: columns.map(str::to_owned).to_vec(),
        properties: properties.map(str::to_owned).to_vec(),
        ..end("Season", "x", &[], true)
    };
    let after = target(
        "FOLLOWS",
        Shape::Relationship {
            from: two(["series", "number"], ["series", "number"]),
            to: two(["before", "series"], ["number", "series"]),
        },
        &[("series", int.clone()), ("number", int.clone()), ("before", int), ("note", text)],
        &["series", "number", "before"],
        &["series", "number"],
    );
    let sink = engine.open().await;
    sink.prepare(&[season.clone(), after.clone()], &[]).await.unwrap();
    let seasons: Vec<Vec<Json>> = (0..6).map(|i| vec![json!(i / 3), json!(i % 3), json!(format!("s{i}"))]).collect();
    let follows: Vec<Vec<Json>> = (0..6).map(|i| vec![json!(i / 3), json!(i % 3), json!(i % 3 - 1), json!(null)]).collect();
    write(&sink, &[change(&after, 1, &follows, &[]), change(&season, 1, &seasons, &[])]).await;
    assert_eq!(ask(&sink, "MATCH (s:Season) WHERE s._stub IS NULL RETURN count(s) AS n").await[0]["n"], 6);
    assert_eq!(ask(&sink, "MATCH (s:Season) RETURN count(s) AS n").await[0]["n"], 8);
    let key = rows(&after, &["series".to_owned(), "number".to_owned()], &[vec![json!(1), json!(2)]]);
    let held = sink.held(&after, &key).await.unwrap();
    assert_eq!(
        held,
        rows(
            &after,
            &["series".into(), "number".into(), "before".into(), "note".into()],
            &[vec![json!(1), json!(2), json!(1), json!(null)]]
        )
    );
    write(&sink, &[change(&after, 2, &[], &follows.iter().map(|row| row[..3].to_vec()).collect::<Vec<_>>())]).await;
    assert_eq!(contents(&sink).await.len(), 6);
}
