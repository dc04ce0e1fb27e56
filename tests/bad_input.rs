//! What bad input gets: a clear error that says what, where and what to do, or a correct result; never a panic, and nothing lost.

use std::path::Path;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{Answer, operations, run};
use crate::support::engines::library;
use crate::support::lake::{Lake, json_batch};
use crate::support::wait_for;

const MAPPING: &str = "tables:
  things:
    key: [id]
    clickhouse: {thing: {key: [id], sql: \"SELECT id, title FROM things\"}}
    graph: {nodes: {Thing: {key: [id], sql: \"SELECT id, title FROM things\"}}}
    vectors: {things: {id: [id], text: text, sql: \"SELECT id, title, title AS text FROM things\"}}
";

const CONFIG: &str = "source: {root: ./silver}
mapping: mapping.yaml
embed: hash
clickhouse: {url: \"chdb:./data/clickhouse\"}
graph: {url: \"grafeo:./data/graph\"}
vectors: {url: \"edge:./data/vectors\"}
";

/// A directory with a configuration, a mapping and one small table.
struct Home {
    directory: TempDir,
    lake: Lake,
}

impl Home {
    fn new() -> Self {
        library();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("distributary.yaml"), CONFIG).unwrap();
        std::fs::write(directory.path().join("mapping.yaml"), MAPPING).unwrap();
        let lake = Lake::at(directory.path().join("silver"));
        Self { directory, lake }
    }

    /// With these records in the table.
    fn with(rows: &[Value]) -> Self {
        let home = Self::new();
        wait_for(async {
            home.lake.create_table("things", &schema(), true).await;
            if !rows.is_empty() {
                home.lake.append_batch("things", json_batch(&schema(), rows)).await;
            }
        });
        home
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let answer = run(self.path(), arguments);
        assert!(!answer.stderr.contains("panicked"), "{arguments:?}: {}", answer.all());
        answer
    }

    fn config(&self, text: &str) {
        std::fs::write(self.path().join("distributary.yaml"), text).unwrap();
    }

    fn append(&self, rows: &[Value]) {
        wait_for(self.lake.append_batch("things", json_batch(&schema(), rows)));
    }

    /// Titles in the column store, by id.
    fn titles(&self) -> Value {
        self.run(&["sql", "--json", "SELECT toString(id) AS id, title FROM thing_current ORDER BY thing_current.id"])
            .expect(0)
            .json()
    }

    fn quarantined(&self) -> u64 {
        let status = self.run(&["status", "--json"]).expect(0).json();
        status["lanes"].as_array().unwrap().iter().map(|lane| lane["quarantined"].as_u64().unwrap()).sum()
    }
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("title", DataType::Utf8, true)]))
}

fn thing(id: i64, title: &str) -> Value {
    json!({"id": id, "title": title})
}

/// One way of being wrong: what is done to a good set-up, what a command must answer, and what must be named.
struct Wrong {
    what: &'static str,
    spoil: fn(&Home),
    command: &'static [&'static str],
    code: i32,
    named: &'static [&'static str],
}

fn replace(home: &Home, file: &str, from: &str, to: &str) {
    let path = home.path().join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

/// The file of a commit.
fn commit(home: &Home, version: i64) -> std::path::PathBuf {
    home.lake.path("things").join(format!("_delta_log/{version:020}.json"))
}

const WRONG: &[Wrong] = &[
    Wrong {
        what: "no configuration",
        spoil: |home| std::fs::remove_file(home.path().join("distributary.yaml")).unwrap(),
        command: &["sync"],
        code: 2,
        named: &["distributary.yaml", "--config"],
    },
    Wrong {
        what: "a configuration that is no YAML",
        spoil: |home| home.config("source: {root: ./silver"),
        command: &["sync"],
        code: 2,
        named: &["distributary.yaml", "line"],
    },
    Wrong {
        what: "a configuration of noise",
        spoil: |home| std::fs::write(home.path().join("distributary.yaml"), [0_u8, 159, 146, 150]).unwrap(),
        command: &["sync"],
        code: 2,
        named: &["distributary.yaml"],
    },
    Wrong {
        what: "an unknown key",
        spoil: |home| home.config(&format!("{CONFIG}limits: {{memory: 7}}\n")),
        command: &["sync"],
        code: 2,
        named: &["memory"],
    },
    Wrong {
        what: "a password in an address",
        spoil: |home| replace(home, "distributary.yaml", "chdb:./data/clickhouse", "http://me:secret@host:8123"),
        command: &["sync"],
        code: 2,
        named: &["clickhouse.url", "http://host:8123", "DISTRIBUTARY_CLICKHOUSE_"],
    },
    Wrong {
        what: "an unknown model",
        spoil: |home| replace(home, "distributary.yaml", "embed: hash", "embed: best"),
        command: &["sync"],
        code: 2,
        named: &["embed", "best", "all-MiniLM-L6-v2"],
    },
    Wrong {
        what: "no batch",
        spoil: |home| home.config(&format!("{CONFIG}limits: {{batch_rows: 0}}\n")),
        command: &["sync"],
        code: 2,
        named: &["limits.batch_rows"],
    },
    Wrong {
        what: "no mapping",
        spoil: |home| std::fs::remove_file(home.path().join("mapping.yaml")).unwrap(),
        command: &["sync"],
        code: 2,
        named: &["mapping.yaml", "`mapping`"],
    },
    Wrong {
        what: "a mapping that is no YAML",
        spoil: |home| std::fs::write(home.path().join("mapping.yaml"), "tables: [").unwrap(),
        command: &["check"],
        code: 2,
        named: &["mapping.yaml", "line 1"],
    },
    Wrong {
        what: "a mapping of a column that is not there",
        spoil: |home| replace(home, "mapping.yaml", "SELECT id, title FROM things", "SELECT id, tilte FROM things"),
        command: &["check"],
        code: 2,
        named: &["mapping.yaml", "tables.things", "tilte"],
    },
    Wrong {
        what: "a key that is not there",
        spoil: |home| replace(home, "mapping.yaml", "key: [id]\n", "key: [number]\n"),
        command: &["sync"],
        code: 2,
        named: &["things", "number", "id, title"],
    },
    Wrong {
        what: "a table that is not in the lake",
        spoil: |home| std::fs::remove_dir_all(home.lake.path("things")).unwrap(),
        command: &["sync"],
        code: 2,
        named: &["things", "silver/things", "missing_tables: skip"],
    },
    Wrong {
        what: "a directory that is no Delta table",
        spoil: |home| std::fs::remove_dir_all(home.lake.path("things").join("_delta_log")).unwrap(),
        command: &["sync"],
        code: 2,
        named: &["things", "silver/things"],
    },
    Wrong {
        what: "an address of nothing",
        spoil: |home| replace(home, "distributary.yaml", "root: ./silver", "root: \"nonsense://x y\""),
        command: &["sync"],
        code: 2,
        named: &["things"],
    },
    Wrong {
        what: "an engine's directory that is a file",
        spoil: |home| {
            std::fs::create_dir_all(home.path().join("data")).unwrap();
            std::fs::write(home.path().join("data/clickhouse"), "not a directory").unwrap();
        },
        command: &["sql", "SELECT 1"],
        code: 2,
        named: &["data/clickhouse", "not a directory"],
    },
    Wrong {
        what: "a library that is none",
        spoil: |home| {
            std::fs::write(home.path().join("lib.so"), "nothing").unwrap();
            home.config(&format!("{CONFIG}files: {{libchdb: lib.so}}\n"));
        },
        command: &["sql", "SELECT 1"],
        code: 2,
        named: &["lib.so"],
    },
    Wrong {
        what: "a directory of a newer column store",
        spoil: |home| {
            std::fs::create_dir_all(home.path().join("data/clickhouse")).unwrap();
            let mark = r#"{"format":9,"engine":"99.1.1","pid":1}"#;
            std::fs::write(home.path().join("data/clickhouse/.distributary.lock"), mark).unwrap();
        },
        command: &["sql", "SELECT 1"],
        code: 3,
        named: &["data/clickhouse", "99.1.1", "newer"],
    },
];

#[test]
fn what_is_wrong_is_named() {
    let mut problems = Vec::new();
    for wrong in WRONG {
        let home = Home::with(&[thing(1, "one")]);
        (wrong.spoil)(&home);
        let answer = run(home.path(), wrong.command);
        let lacking: Vec<&&str> = wrong.named.iter().filter(|named| !answer.stderr.contains(**named)).collect();
        if answer.code != wrong.code
            || !lacking.is_empty()
            || answer.stderr.contains("panicked")
            || answer.stderr.contains("secret")
        {
            problems.push(format!(
                "{}: exit code {} is wanted, and {lacking:?} to be named; {}",
                wrong.what,
                wrong.code,
                answer.all()
            ));
        }
    }
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn hostile_strings_and_numbers_arrive_as_they_are() {
    let mut long = "long ".repeat(200 * 1024);
    long.push('!');
    let titles = [
        "' OR 1=1; DROP TABLE thing; --",
        "` } DETACH DELETE n //",
        "\"double\" and \\back\\slash \\' \\n",
        "zero \0 byte",
        "{id:String} %s $1 ?",
        "\u{1F600}\u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} emoji",
        "\u{202E}left to right? \u{05E9}\u{05DC}\u{05D5}\u{05DD}",
        "\u{FEFF}e\u{301} combining \u{FFFF}",
        " \t\r\n white ",
        &long,
    ];
    let mut rows: Vec<Value> = (1..).zip(titles).map(|(id, title)| thing(id, title)).collect();
    rows.extend([thing(i64::MIN, "least"), thing(i64::MAX, "greatest"), thing(0, ""), json!({"id": -1, "title": null})]);
    let home = Home::with(&rows);
    home.run(&["sync"]).expect(0);
    home.run(&["verify"]).expect(0);
    let found = home.titles();
    assert_eq!(found.as_array().unwrap().len(), rows.len());
    for row in &rows {
        let id = row["id"].as_i64().unwrap().to_string();
        let in_table = found.as_array().unwrap().iter().find(|found| found["id"] == id).unwrap();
        assert_eq!(in_table["title"], row["title"], "{id}");
    }
    let nodes = home.run(&["cypher", "--json", "MATCH (n:Thing) RETURN n.id AS id, n.title AS title"]).expect(0).json();
    for row in &rows {
        let node = nodes.as_array().unwrap().iter().find(|node| node["id"] == row["id"]).unwrap();
        assert_eq!(node["title"], row["title"]);
    }
    assert_eq!(operations(&home.run(&["sync", "--json"]).expect(0).json()), 0);
}

#[test]
fn a_table_without_rows_is_a_result() {
    let home = Home::with(&[]);
    home.run(&["sync"]).expect(0);
    assert_eq!(home.titles(), json!([]));
    home.run(&["verify"]).expect(0);
    home.append(&[thing(1, "one")]);
    home.run(&["sync"]).expect(0);
    assert_eq!(home.titles(), json!([{"id": "1", "title": "one"}]));
    // Without rows since.
    wait_for(async { home.lake.open("things").await.delete().await.unwrap() });
    home.run(&["sync"]).expect(0);
    assert_eq!(home.titles(), json!([]));
    home.run(&["verify"]).expect(0);
}

#[test]
fn a_record_without_a_key_waits_in_quarantine() {
    let home = Home::with(&[thing(1, "one"), json!({"id": null, "title": "nobody"})]);
    home.run(&["sync"]).expect(0);
    assert_eq!(home.titles(), json!([{"id": "1", "title": "one"}]));
    assert!(home.quarantined() > 0);
    home.run(&["verify"]).expect(0);
    wait_for(async { home.lake.open("things").await.delete().with_predicate("id IS NULL").await.unwrap() });
    home.run(&["sync"]).expect(0);
    assert_eq!(home.quarantined(), 0);
}

#[test]
fn a_text_over_the_limit_waits_in_quarantine() {
    let home = Home::with(&[thing(1, "one"), thing(2, &"word ".repeat(1000))]);
    home.config(&format!("{CONFIG}limits: {{text_kib: 1}}\n"));
    let report = home.run(&["sync", "--json"]).expect(0).json();
    let targets = report["tables"][0]["targets"].as_array().unwrap();
    let of = |sink: &str| targets.iter().find(|target| target["sink"] == sink).unwrap();
    assert_eq!((&of("vectors")["upserts"], &of("vectors")["quarantined"]), (&json!(1), &json!(1)));
    assert_eq!(of("clickhouse")["upserts"], 2);
    assert_eq!(home.quarantined(), 1);
    wait_for(async {
        let table = home.lake.open("things").await;
        table.update().with_predicate("id = 2").with_update("title", "'short'").await.unwrap();
    });
    home.run(&["sync"]).expect(0);
    assert_eq!(home.quarantined(), 0);
    home.run(&["verify"]).expect(0);
}

#[test]
fn two_records_of_one_key_wait_in_quarantine() {
    let home = Home::with(&[thing(1, "one"), thing(2, "two")]);
    home.run(&["sync"]).expect(0);
    home.append(&[thing(2, "another two"), thing(3, "three"), thing(3, "three")]);
    home.run(&["sync"]).expect(0);
    let held = json!([{"id": "1", "title": "one"}, {"id": "2", "title": "two"}, {"id": "3", "title": "three"}]);
    assert_eq!(home.titles(), held, "what is held of a bad record is its last good state, and equal records are one");
    assert!(home.quarantined() > 0);
    wait_for(async { home.lake.open("things").await.delete().with_predicate("title = 'two'").await.unwrap() });
    home.run(&["sync"]).expect(0);
    assert_eq!(home.titles()[1], json!({"id": "2", "title": "another two"}));
    assert_eq!(home.quarantined(), 0);
    home.run(&["verify"]).expect(0);
}

/// A commit that was written by half stops its table and nothing else, and loses nothing.
#[test]
fn a_half_written_commit_is_named_and_nothing_is_lost() {
    let home = Home::with(&[thing(1, "one")]);
    home.run(&["sync"]).expect(0);
    home.append(&[thing(2, "two")]);
    let path = commit(&home, 2);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let answer = home.run(&["sync"]);
    assert_eq!(answer.code, 1, "{}", answer.all());
    assert!(answer.all().contains("commit 2 is damaged") && answer.all().contains("things"), "{}", answer.all());
    assert_eq!(home.titles(), json!([{"id": "1", "title": "one"}]));
    std::fs::write(&path, &whole).unwrap();
    home.run(&["sync"]).expect(0);
    home.run(&["verify"]).expect(0);
    assert_eq!(home.titles().as_array().unwrap().len(), 2);
}

#[test]
fn a_missing_table_may_be_skipped() {
    let home = Home::with(&[thing(1, "one")]);
    let more = "  others:\n    key: [id]\n    clickhouse: {other: {key: [id], sql: \"SELECT id FROM others\"}}\n";
    std::fs::write(home.path().join("mapping.yaml"), format!("{MAPPING}{more}")).unwrap();
    home.run(&["sync"]).expect(2);
    replace(&home, "distributary.yaml", "{root: ./silver}", "{root: ./silver, missing_tables: skip}");
    let report = home.run(&["sync", "--json"]).expect(0).json();
    assert_eq!(report["missing_tables"], json!(["others"]));
    assert_eq!(home.titles().as_array().unwrap().len(), 1);
}

/// History that is gone stops the run where that is the policy, and is replaced by a snapshot where it is not.
#[test]
fn a_recreated_table_is_a_gap() {
    let home = Home::with(&[thing(1, "one"), thing(2, "two")]);
    replace(&home, "distributary.yaml", "{root: ./silver}", "{root: ./silver, on_gap: stop}");
    home.run(&["sync"]).expect(0);
    std::fs::remove_dir_all(home.lake.path("things")).unwrap();
    wait_for(async {
        home.lake.create_table("things", &schema(), true).await;
        home.lake.append_batch("things", json_batch(&schema(), &[thing(2, "two"), thing(3, "three")])).await;
    });
    let stopped = home.run(&["sync", "--json"]).expect(3).json();
    let error = stopped["tables"][0]["targets"][0]["error"].as_str().unwrap();
    assert!(error.contains("recreated") && error.contains("on_gap: snapshot"), "{error}");
    assert_eq!(home.titles()[0], json!({"id": "1", "title": "one"}));
    replace(&home, "distributary.yaml", "on_gap: stop", "on_gap: snapshot");
    let report = home.run(&["sync", "--json"]).expect(0).json();
    assert_eq!(report["tables"][0]["strategy"], "snapshot");
    for target in report["tables"][0]["targets"].as_array().unwrap() {
        assert_eq!((&target["upserts"], &target["deletes"], &target["unchanged"]), (&json!(1), &json!(1), &json!(1)), "{target}");
    }
    assert_eq!(home.titles(), json!([{"id": "2", "title": "two"}, {"id": "3", "title": "three"}]));
    home.run(&["verify"]).expect(0);
    assert_eq!(operations(&home.run(&["sync", "--json"]).expect(0).json()), 0);
}

/// What delta-rs cannot read stops the table's lanes before anything is written, and names the feature.
#[test]
fn a_feature_that_cannot_be_read_stops_its_lanes() {
    let home = Home::with(&[thing(1, "one")]);
    home.run(&["sync"]).expect(0);
    let protocol = json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["typeWidening"],
        "writerFeatures": ["typeWidening", "changeDataFeed"]}});
    let begun = std::fs::read_dir(home.lake.path("things/_delta_log")).unwrap().count();
    let last = commit(&home, i64::try_from(begun).unwrap());
    std::fs::write(&last, protocol.to_string()).unwrap();
    let answer = home.run(&["sync", "--json"]).expect(3);
    let target = &answer.json()["tables"][0]["targets"][0];
    assert!(target["error"].as_str().unwrap().contains("typeWidening, which cannot be read here: drop the feature"), "{target}");
    assert_eq!(target["stopped"], true);
    let answer = home.run(&["check"]).expect(3);
    assert!(answer.stderr.contains("table things: it uses the table feature typeWidening"), "{}", answer.stderr);
    assert_eq!(home.titles(), json!([{"id": "1", "title": "one"}]));
    std::fs::remove_file(last).unwrap();
    assert_eq!(operations(&home.run(&["sync", "--json"]).expect(0).json()), 0);
}

/// A key column of a type that identifies nothing.
#[test]
fn a_key_that_cannot_identify_is_refused() {
    let home = Home::new();
    let schema =
        Arc::new(Schema::new(vec![Field::new("id", DataType::Float64, true), Field::new("title", DataType::Utf8, true)]));
    wait_for(home.lake.create_table("things", &schema, true));
    let answer = home.run(&["sync"]).expect(2);
    assert!(answer.stderr.contains("id") && answer.stderr.contains("Float64"), "{}", answer.stderr);
}

/// The same column in another type is a change of schema, and no row is lost over it.
#[test]
fn a_column_that_changes_its_type_stops_its_lanes() {
    let home = Home::with(&[thing(1, "one")]);
    home.run(&["sync"]).expect(0);
    std::fs::remove_dir_all(home.lake.path("things")).unwrap();
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true), Field::new("title", DataType::Int64, true)]));
    let rows =
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(vec![1])), Arc::new(Int64Array::from(vec![7]))])
            .unwrap();
    wait_for(async {
        home.lake.create_table("things", &schema, true).await;
        home.lake.append_batch("things", rows).await;
    });
    // The text is no string any more: the mapping itself is refused.
    let answer = home.run(&["sync"]).expect(2);
    assert!(answer.stderr.contains("CAST(text AS string)"), "{}", answer.stderr);
    replace(&home, "mapping.yaml", "title AS text", "CAST(title AS string) AS text");
    let answer = home.run(&["sync", "--json"]).expect(3);
    assert!(answer.stdout.contains("--rebuild"), "{}", answer.all());
    // A column that holds text cannot hold numbers without losing something.
    let answer = home.run(&["sync", "--rebuild", "--json"]).expect(3);
    assert!(
        answer.stdout.contains("the column title is Nullable(String), the projection makes Nullable(Int64)"),
        "{}",
        answer.all()
    );
    assert_eq!(home.titles(), json!([{"id": "1", "title": "one"}]));
}
