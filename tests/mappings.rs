//! Mappings from outside: what is refused and in which words, another world than films from end to end, every type of column there and
//! back, and a loader that never panics.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array, Int16Array,
    Int32Array, Int64Array, ListArray, MapArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, SchemaRef};
use distributary::mapping::{Compiled, MappingFile, compile};
use distributary::report::VerifyReport;
use distributary::sinks::{Query, SinkKind};
use distributary::sync::{self, Options, Setup};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::engines::Bench;
use crate::support::lake::json_batch;
use crate::support::{tests_dir, wait_for};

// What cargo-fuzz tries for as long as one likes.
#[path = "../fuzz/properties/difference.rs"]
mod any_difference;
#[path = "../fuzz/properties/mapping.rs"]
mod any_mapping;

/// Compiles a mapping against the tables of [`schemas`].
async fn compiled(text: &str) -> Result<Compiled, String> {
    let path = Path::new("m.yaml");
    let file = MappingFile::parse(text, path).map_err(|error| error.to_string())?;
    compile(&file, path, &schemas()).await.map_err(|error| error.to_string())
}

fn strings(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn list(name: &str, item: DataType) -> Field {
    Field::new(name, DataType::List(Arc::new(Field::new("item", item, true))), true)
}

fn schemas() -> BTreeMap<String, SchemaRef> {
    let part = DataType::Struct(Fields::from(vec![strings("id"), Field::new("size", DataType::Int64, true)]));
    let t = Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("day", DataType::Date32, true),
        strings("name"),
        Field::new("score", DataType::Float64, true),
        list("parts", part.clone()),
        Field::new("one", part, true),
    ]);
    let u = Schema::new(vec![Field::new("id", DataType::Int64, true), strings("name")]);
    BTreeMap::from([("t".to_owned(), Arc::new(t)), ("u".to_owned(), Arc::new(u))])
}

/// A mapping with one table of the column store.
fn one_table(key: &str, sql: &str) -> String {
    format!("tables:\n  t:\n    key: [id]\n    clickhouse:\n      x:\n        key: [{key}]\n        sql: |\n          {sql}\n")
}

#[test]
fn what_is_not_row_local_is_refused_by_its_expression() {
    let cases = [
        ("SELECT id, sum(score) AS s FROM t GROUP BY id", "sum("),
        ("SELECT id, name FROM t GROUP BY id, name", "name"),
        ("SELECT id, count(*) OVER (PARTITION BY name) AS n FROM t", "the window count("),
        ("SELECT id, row_number() OVER (ORDER BY score) AS n FROM t", "row_number()"),
        ("SELECT a.id, b.name FROM t a JOIN t b ON a.id = b.id", "join on a.id = b.id"),
        ("SELECT a.id, b.name FROM t a CROSS JOIN t b", "join"),
        ("SELECT DISTINCT id FROM t", "DISTINCT"),
        ("SELECT id FROM t LIMIT 3", "LIMIT"),
        ("SELECT id FROM t OFFSET 3", "LIMIT"),
        ("SELECT id FROM t ORDER BY score", "ORDER BY t.score"),
        ("SELECT id FROM t UNION SELECT id FROM t", "DISTINCT"),
        ("SELECT id FROM t EXCEPT SELECT id FROM t", "join"),
        ("SELECT id, now() AS at FROM t", "now()"),
        ("SELECT id, current_date() AS at FROM t", "current_date()"),
        ("SELECT id, random() AS r FROM t", "random()"),
        ("SELECT id, uuid() AS r FROM t", "uuid()"),
        ("SELECT id FROM t WHERE random() < 0.5", "random()"),
        ("SELECT id FROM t WHERE id IN (SELECT id FROM t)", "subquery"),
        ("SELECT id FROM t a WHERE EXISTS (SELECT 1 FROM t b WHERE b.id = a.id)", "subquery"),
        ("SELECT id, (SELECT max(score) FROM t) AS m FROM t", "subquery"),
        ("WITH RECURSIVE r AS (SELECT id FROM t UNION ALL SELECT id + 1 AS id FROM r) SELECT id FROM r", "recursive"),
        ("SELECT 1 AS id", "reads no table"),
        ("SELECT id FROM (VALUES (1)) AS v(id)", "reads no table"),
        ("SELECT id, name FROM u", "a projection of t reads t alone"),
        ("DELETE FROM t", "one SELECT"),
        ("SELECT id FROM t; SELECT id FROM t", "single SQL statement"),
        ("SELECT id FROM t WHERE id = $1", "$1"),
    ];
    let mut wrong = Vec::new();
    for (sql, named) in cases {
        match wait_for(compiled(&one_table("id", sql))) {
            Ok(_) => wrong.push(format!("{sql}: taken")),
            Err(error) if error.contains(named) && error.contains("m.yaml:8: tables.t.clickhouse.x") => {}
            Err(error) => wrong.push(format!("{sql}: `{named}` or the place is not named in: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_names_nothing_or_too_little_is_refused() {
    let node = |yaml: &str| format!("tables:\n  t:\n    key: [id]\n    graph:\n{yaml}\n");
    let cases = [
        (one_table("id", "SELECT id, nonsense FROM t"), "nonsense"),
        (one_table("id", "SELECT id, one['nonsense'] AS n FROM t"), "nonsense"),
        (one_table("id", "SELECT id, p['nonsense'] AS n FROM (SELECT id, unnest(parts) AS p FROM t)"), "nonsense"),
        (one_table("id", "SELECT id, nonsense(name) AS n FROM t"), "nonsense"),
        (one_table("id", "SELEC id FROM t"), "SELEC"),
        (one_table("name", "SELECT id, name FROM t"), "does not contain the Silver key (id)"),
        (one_table("id", "SELECT id + 1 AS id, name FROM t"), "does not contain the Silver key (id)"),
        (one_table("id", "SELECT abs(id) AS id, name FROM t"), "does not contain the Silver key (id)"),
        (one_table("id", "SELECT CAST(id AS INT) AS id, name FROM t"), "does not contain the Silver key (id)"),
        (one_table("key", "SELECT id, name FROM t"), "the key column key is not in the query's result; it has id, name"),
        (one_table("id", "SELECT id, name || 'x' FROM t"), "add `AS name`"),
        (one_table("id", "SELECT id, name AS \"two words\" FROM t"), "two words"),
        (one_table("id", "SELECT id, name AS _version FROM t"), "_version"),
        (one_table("id", "SELECT id, NULL AS nothing FROM t"), "CAST(NULL AS"),
        (one_table("id", "SELECT id FROM t").replace("      x:", "      \"x; DROP TABLE y\":"), "x; DROP TABLE y"),
        (one_table("id", "SELECT id FROM t").replace("      x:", "      \"`\":"), "`"),
        (one_table("id", "SELECT id FROM t").replace("    key: [id]\n    click", "    key: [nonsense]\n    click"), "nonsense"),
        (one_table("id", "SELECT id FROM t").replace("    key: [id]\n    click", "    key: []\n    click"), "`key` names no column"),
        ("tables:\n  t:\n    key: [id]\n".to_owned(), "no projection"),
        ("tables: {}\n".to_owned(), "names no table"),
        (
            "tables:\n  t: {key: [id], clickhouse: {x: {key: [id], sql: \"SELECT id FROM t\"}}}\n  u: {key: [id], clickhouse: {x: {key: [id], sql: \"SELECT id FROM u\"}}}\n".to_owned(),
            "two projections would make x",
        ),
        (
            "tables:\n  t: {key: [id], graph: {nodes: {X: {key: [id], sql: \"SELECT id FROM t\"}}}}\n  u: {key: [id], graph: {nodes: {X: {key: [id], sql: \"SELECT id FROM u\"}}}}\n".to_owned(),
            "declared by two projections",
        ),
        (
            "tables:\n  t: {key: [id], vectors: {v: {id: [id], text: score, sql: \"SELECT id, score FROM t\"}}}\n".to_owned(),
            "the text column score is Float64, not a string: CAST(score AS string)",
        ),
        (
            "tables:\n  t: {key: [id], vectors: {v: {id: [id], text: body, sql: \"SELECT id, name FROM t\"}}}\n".to_owned(),
            "the text column body is not in the query's result; it has id, name",
        ),
        (
            node("      relationships:\n        R: {from: {A: [id]}, to: {B: [name], C: [name]}, sql: \"SELECT id, name FROM t\"}"),
            "`to` must name one label",
        ),
        (
            node("      relationships:\n        R: {from: {A: [score]}, to: {B: [name]}, sql: \"SELECT id, score, name FROM t\"}"),
            "neither end's columns hold the Silver key (id)",
        ),
        (
            node("      relationships:\n        R: {from: {A: [id]}, to: {B: [name]}, stub: {to: {label: nonsense}}, sql: \"SELECT id, name FROM t\"}"),
            "nonsense",
        ),
        (
            format!("{}dimensions:\n  d: {{key: [name], columns: [], from: [nowhere]}}\n", one_table("id", "SELECT id, name FROM t")),
            "nowhere",
        ),
        (
            format!("{}dimensions:\n  d: {{key: [nonsense], columns: [], from: [x]}}\n", one_table("id", "SELECT id, name FROM t")),
            "nonsense",
        ),
        (
            format!("{}dimensions:\n  x: {{key: [name], columns: [], from: [x]}}\n", one_table("id", "SELECT id, name FROM t")),
            "x is the name of a table already",
        ),
    ];
    for (text, named) in cases {
        let error = wait_for(compiled(&text)).expect_err(&text);
        assert!(error.contains(named), "`{named}` is not in: {error}\n{text}");
        assert!(error.contains("m.yaml"), "the file is not named in: {error}");
    }
}

#[test]
fn yaml_that_is_wrong_is_refused_by_line_and_column() {
    let cases = [
        ("tables:\n  t:\n    key: [id\n", "line"),
        ("tables:\n  t:\n    key: [id]\n    clickhuse: {}\n", "clickhuse"),
        ("tables:\n  t:\n    key: 7\n", "line 3"),
        ("tables:\n  t:\n    key: [id]\n    clickhouse:\n      x: {key: [id]}\n", "sql"),
        ("tables:\n  t: {key: [id]}\n  t: {key: [id]}\n", "t"),
        ("", "line 1"),
        ("[]", "line 1"),
    ];
    for (text, named) in cases {
        let error = MappingFile::parse(text, Path::new("m.yaml")).expect_err(text).to_string();
        assert!(error.contains(named) && error.contains("m.yaml"), "{text:?}: `{named}` is not in: {error}");
    }
}

#[test]
fn what_is_row_local_is_taken() {
    let queries = [
        "SELECT id, upper(name) AS name, CASE WHEN score > 1 THEN 'a' ELSE 'b' END AS class FROM t WHERE name IS NOT NULL",
        "SELECT id, p['id'] AS part, p['size'] AS size FROM (SELECT id, unnest(parts) AS p FROM t) WHERE p['id'] IS NOT NULL",
        "SELECT CAST(id AS string) AS id, array_transform(parts, p -> p['id']) AS ids FROM t",
        "SELECT id, 'a' AS kind, name FROM t UNION ALL SELECT id, 'b' AS kind, one['id'] AS name FROM t",
        "WITH named AS (SELECT id, name FROM t WHERE name <> '') SELECT id, name FROM named",
        "SELECT id, date_part('year', day) AS year, try_cast(name AS BIGINT) AS number, sha256(name) AS digest FROM t",
    ];
    for sql in queries {
        let key = if sql.contains("kind") {
            "id, kind"
        } else if sql.contains("AS part,") {
            "id, part"
        } else {
            "id"
        };
        wait_for(compiled(&one_table(key, sql))).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
}

#[test]
fn tables_that_declare_nodes_come_before_those_that_refer_to_them() {
    let nodes = |label: &str, table: &str| {
        format!("        {label}:\n          key: [id]\n          sql: SELECT id, name FROM {table}\n")
    };
    let refers = |label: &str, table: &str| {
        format!(
            "      relationships:\n        KNOWS:\n          from: {{{label}: [id]}}\n          to: {{{label}: [name]}}\n          sql: SELECT id, name FROM {table}\n"
        )
    };
    let mapping = |t: &str, u: &str| {
        let table = |name: &str, label: &str, rest: &str| {
            format!("  {name}:\n    key: [id]\n    graph:\n      nodes:\n{}{rest}", nodes(label, name))
        };
        format!("tables:\n{}{}", table("t", "T", t), table("u", "U", u))
    };
    let order = |text: String| wait_for(async move { compiled(&text).await.unwrap().in_order().join(", ") });
    assert_eq!(order(mapping("", "")), "t, u");
    assert_eq!(order(mapping("", &refers("T", "u"))), "t, u");
    assert_eq!(order(mapping(&refers("U", "t"), "")), "u, t");
    assert_eq!(order(mapping(&refers("T", "t"), "")), "t, u");
    assert_eq!(order(mapping(&refers("U", "t"), &refers("T", "u"))), "t, u");
}

fn books_schema() -> SchemaRef {
    let written = DataType::Struct(Fields::from(vec![
        Field::new("position", DataType::Int32, true),
        strings("country"),
        Field::new("number", DataType::Int16, true),
        Field::new("share", DataType::Float32, true),
    ]));
    let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), strings("value")]);
    Arc::new(Schema::new(vec![
        strings("isbn"),
        strings("title"),
        strings("summary"),
        strings("price"),
        Field::new("published", DataType::Date32, true),
        Field::new("cover", DataType::Binary, true),
        Field::new("digests", DataType::Map(Arc::new(Field::new("entries", DataType::Struct(entries), false)), false), true),
        list(
            "editions",
            DataType::Struct(Fields::from(vec![Field::new("year", DataType::Int32, true), list("places", DataType::Utf8)])),
        ),
        list("subjects", DataType::Utf8),
        list("written_by", written),
    ]))
}

fn writers_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        strings("country"),
        Field::new("number", DataType::Int16, true),
        strings("name"),
        strings("about"),
        Field::new("alive", DataType::Boolean, true),
    ]))
}

fn a_book(isbn: &str, title: &str, writers: &[(&str, i16)]) -> Value {
    let written: Vec<Value> =
        (1..).zip(writers).map(|(at, (c, n))| json!({"position": at, "country": c, "number": n, "share": 0.5})).collect();
    json!({
        "isbn": isbn, "title": title, "summary": format!("What {title} is about"), "price": "12.50", "published": "1915-02-08",
        "cover": "00ff", "digests": {"md5": "d41d", "sha1": null}, "editions": [{"year": 1843, "places": ["London", null]}, null],
        "subjects": ["Ghosts", "Winter"], "written_by": written,
    })
}

async fn verified(setup: &Setup) {
    let report: VerifyReport = sync::verify(setup).await.unwrap();
    let bad: Vec<_> = report.targets.iter().filter(|target| !target.ok()).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

async fn synced(setup: &Setup) -> u64 {
    let report = sync::sync(setup, &Options::default()).await.unwrap();
    assert!(report.ok(), "{report:#?}");
    verified(setup).await;
    report.operations()
}

async fn asked(setup: &Setup, kind: SinkKind, text: &str) -> Value {
    let sink = setup.sinks.iter().find(|sink| sink.kind() == kind).unwrap();
    json!(sink.query(&Query::Text(text.to_owned())).await.unwrap_or_else(|error| panic!("{text}: {error}")))
}

#[test]
fn books_and_writers_pass_through_the_same_engine() {
    wait_for(async {
        let bench = Bench::new(tests_dir().join("mappings/books.yaml"));
        let lake = &bench.lake;
        lake.create_table("books", &books_schema(), true).await;
        lake.create_table("writers", &writers_schema(), true).await;
        let books = [a_book("1", "A Carol", &[("gb", 1)]), a_book("2", "A Pair", &[("gb", 1), ("fr", 7)])];
        lake.append_batch("books", json_batch(&books_schema(), &books)).await;
        let writers = [json!({"country": "gb", "number": 1, "name": "Charles", "about": "Wrote about the poor", "alive": false})];
        lake.append_batch("writers", json_batch(&writers_schema(), &writers)).await;
        let setup = bench.open().await;
        assert!(synced(&setup).await > 0);

        let rows = asked(
            &setup,
            SinkKind::Clickhouse,
            "SELECT isbn, toString(price) AS price, toString(published) AS published, year FROM book_current ORDER BY isbn",
        )
        .await;
        assert_eq!(rows[0], json!({"isbn": "1", "price": "12.5", "published": "1915-02-08", "year": 1915}));
        let rows = asked(&setup, SinkKind::Clickhouse, "SELECT subject FROM subject ORDER BY subject").await;
        assert_eq!(rows, json!([{"subject": "ghosts"}, {"subject": "winter"}]));
        // One writer has a record, the other is a stub of both its key columns.
        let writers = "MATCH (b:Book {isbn: '2'})-[r:WRITTEN_BY]->(w:Writer) RETURN r.position AS at, w.country AS c, w.number AS n, w.name AS name, w.`_stub` AS stub ORDER BY at";
        let rows = asked(&setup, SinkKind::Graph, writers).await;
        assert_eq!(
            rows,
            json!([
                {"at": 1, "c": "gb", "n": 1, "name": "Charles", "stub": null},
                {"at": 2, "c": "fr", "n": 7, "name": null, "stub": true},
            ])
        );

        // The stub's record comes, a book is given away, and everything else stays.
        let more = [json!({"country": "fr", "number": 7, "name": "Jules", "about": null, "alive": false})];
        lake.append_batch("writers", json_batch(&writers_schema(), &more)).await;
        lake.open("books").await.delete().with_predicate("isbn = '1'").await.unwrap();
        // Writer: a row and a node. Book: a row, an author, two subjects; a node, an author, two subjects; a point.
        assert_eq!(synced(&setup).await, 2 + 9);
        let rows = asked(&setup, SinkKind::Graph, writers).await;
        assert_eq!(rows[1], json!({"at": 2, "c": "fr", "n": 7, "name": "Jules", "stub": null}));
        assert_eq!(synced(&setup).await, 0);
        setup.close().await.unwrap();
    });
}

/// One column of every type that a Delta table can hold, with the values that are hard.
fn every_type() -> RecordBatch {
    let structs = Fields::from(vec![Field::new("a", DataType::Int32, true), strings("b")]);
    let a_struct = StructArray::new(
        structs.clone(),
        vec![
            Arc::new(Int32Array::from(vec![Some(1), None, None])) as ArrayRef,
            Arc::new(StringArray::from(vec![Some("x"), None, Some("")])),
        ],
        Some(vec![true, false, true].into()),
    );
    let entries = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", DataType::Int64, true)]);
    let pairs = StructArray::new(
        entries.clone(),
        vec![
            Arc::new(StringArray::from(vec!["k", "l", "m"])) as ArrayRef,
            Arc::new(Int64Array::from(vec![Some(1), None, Some(i64::MIN)])),
        ],
        None,
    );
    let map = MapArray::new(
        Arc::new(Field::new("entries", DataType::Struct(entries), false)),
        OffsetBuffer::new(vec![0, 2, 2, 3].into()),
        pairs,
        Some(vec![true, false, true].into()),
        false,
    );
    let ints = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1), None]), Some(vec![]), None]);
    let inner = Field::new("item", ints.data_type().clone(), true);
    let nested = ListArray::new(
        Arc::new(inner),
        OffsetBuffer::new(vec![0, 2, 2, 3].into()),
        Arc::new(ints.clone()),
        Some(vec![true, false, true].into()),
    );
    let list_of_structs = ListArray::new(
        Arc::new(Field::new("item", DataType::Struct(structs), true)),
        OffsetBuffer::new(vec![0, 1, 3, 3].into()),
        Arc::new(a_struct.clone()),
        None,
    );
    let micros = |zone: Option<&str>| {
        let times = TimestampMicrosecondArray::from(vec![Some(-1), Some(1_700_000_000_123_456), None]);
        let times = match zone {
            Some(zone) => times.with_timezone(zone),
            None => times,
        };
        Arc::new(times) as ArrayRef
    };
    let decimal = |precision, scale, values: [Option<i128>; 3]| {
        Arc::new(Decimal128Array::from(values.to_vec()).with_precision_and_scale(precision, scale).unwrap()) as ArrayRef
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![i64::MIN, 0, i64::MAX]))),
        ("tiny", Arc::new(Int8Array::from(vec![Some(i8::MIN), None, Some(i8::MAX)]))),
        ("small", Arc::new(Int16Array::from(vec![Some(i16::MIN), None, Some(i16::MAX)]))),
        ("middle", Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)]))),
        ("large", Arc::new(Int64Array::from(vec![Some(i64::MIN), None, Some(i64::MAX)]))),
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
        ("single", Arc::new(Float32Array::from(vec![Some(f32::MAX), Some(f32::NAN), Some(-0.0)]))),
        ("double", Arc::new(Float64Array::from(vec![Some(f64::MIN_POSITIVE), Some(f64::NAN), Some(f64::NEG_INFINITY)]))),
        ("words", Arc::new(StringArray::from(vec![Some("'\"`\\ \0 \u{1F600}"), None, Some("")]))),
        ("bytes", Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255, 39]), None, Some(&[])]))),
        ("day", Arc::new(Date32Array::from(vec![Some(-20_000), None, Some(40_000)]))),
        ("moment", micros(Some("UTC"))),
        ("local", micros(None)),
        ("money", decimal(10, 2, [Some(-1), None, Some(9_999_999_999)])),
        ("huge", decimal(38, 10, [Some(i128::from(i64::MIN) * 1_000_000), None, Some(1)])),
        ("record", Arc::new(a_struct)),
        ("pairs", Arc::new(map)),
        ("numbers", Arc::new(ints)),
        ("nested", Arc::new(nested)),
        ("records", Arc::new(list_of_structs)),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true))).unwrap()
}

/// Each engine takes each type or refuses it at load; what it takes it holds exactly, and sees no change where there is none.
#[test]
fn every_type_goes_there_and_back() {
    wait_for(async {
        let rows = every_type();
        for field in rows.schema().fields().iter().filter(|field| field.name() != "id") {
            let column = field.name();
            let select = format!("\"SELECT id, \\\"{column}\\\" AS v FROM things\"");
            let text = format!(
                "tables:\n  things:\n    key: [id]\n    clickhouse: {{thing: {{key: [id], sql: {select}}}}}\n    graph:\n      \
                 nodes: {{Thing: {{key: [id], sql: {select}}}}}\n    vectors: {{thing: {{id: [id], text: text, sql: \
                 \"SELECT id, \\\"{column}\\\" AS v, concat('text ', CAST(id AS string)) AS text FROM things\"}}}}\n"
            );
            let mut bench = Bench::new("");
            bench.mapping = bench.path().join("mapping.yaml");
            std::fs::write(&bench.mapping, text).unwrap();
            bench.lake.create_table("things", &rows.schema(), true).await;
            bench.lake.append_batch("things", rows.clone()).await;
            let setup = bench.open().await;
            let report = sync::sync(&setup, &Options::default()).await.unwrap();
            for (_, target) in report.targets() {
                let error = target.error.clone().unwrap_or_default();
                assert!(target.ok || (target.stopped && error.contains("CAST")), "{column}: {target:?}");
                assert!(!target.ok || target.upserts == 3, "{column}: {target:?}");
            }
            for target in sync::verify(&setup).await.unwrap().targets {
                assert!(target.error.is_some() || target.ok(), "{column}: {target:#?}");
            }
            // The same rows again are no change.
            let table = bench.lake.open("things").await;
            table.write(vec![rows.clone()]).with_save_mode(deltalake::protocol::SaveMode::Overwrite).await.unwrap();
            let again = sync::sync(&setup, &Options::default()).await.unwrap();
            assert_eq!(again.operations(), 0, "{column}: {again:#?}");
            // Nor are they when the engines are compared with them.
            let table = bench.lake.open("things").await;
            table.delete().with_predicate("id = 0").await.unwrap();
            bench.lake.append_batch("things", rows.slice(1, 1)).await;
            let again = sync::sync(&setup, &Options::default()).await.unwrap();
            assert_eq!(again.operations(), 0, "{column}: {again:#?}");
            setup.close().await.unwrap();
        }
    });
}

/// A word, a sign or a number that may come anywhere.
fn noise() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("'".to_owned()),
        Just("\"".to_owned()),
        Just("`".to_owned()),
        Just("\0".to_owned()),
        Just("\u{202E}".to_owned()),
        Just("{".to_owned()),
        Just("]".to_owned()),
        Just(": ".to_owned()),
        Just("\n  ".to_owned()),
        Just("&a *a".to_owned()),
        Just("unnest(parts)".to_owned()),
        Just("CAST(NULL AS string)".to_owned()),
        Just(" OVER ()".to_owned()),
        Just("99999999999999999999".to_owned()),
        Just("(((((".to_owned()),
        "[ -~]{0,12}",
        "\\PC{0,4}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a mapping file says, it is taken or refused with words.
    #[test]
    fn the_loader_never_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..12, noise()), 1..6)) {
        let mut text = "tables:\n  t:\n    key: [id]\n    clickhouse:\n      x:\n        key: [id, part]\n        sql: |\n          \
            SELECT id, p['id'] AS part, upper(name) AS name FROM (SELECT id, name, unnest(parts) AS p FROM t)\n    graph:\n      \
            nodes:\n        T: {key: [id], sql: \"SELECT id, name FROM t WHERE score > 1.5\"}\n      relationships:\n        \
            R: {from: {T: [id]}, to: {P: [part]}, stub: {to: {name: name}}, sql: \"SELECT id, one['id'] AS part, name FROM t\"}\n    \
            vectors:\n      v: {id: [id], text: text, sql: \"SELECT id, concat_ws(' ', name, one['id']) AS text FROM t\"}\n\
            dimensions:\n  d: {key: [part], columns: [name], from: [x]}\n".to_owned();
        for (place, length, noise) in edits {
            let places: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
            if places.is_empty() {
                break;
            }
            let begin = place.index(places.len());
            let end = places.get(begin + length).copied().unwrap_or(text.len());
            text.replace_range(places[begin]..end, &noise);
        }
        any_mapping::holds(&text);
    }

    /// What leads from any state of a few records to a later one is found, and nothing else.
    #[test]
    fn a_difference_is_what_differs(operations in prop::collection::vec(any::<u8>(), 0..64)) {
        any_difference::holds(&operations);
    }
}
