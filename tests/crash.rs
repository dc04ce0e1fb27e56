//! The real binary is killed at any moment, and two of them meet in one directory.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Instant;

use distributary::embed::{self, Choice};
use distributary::mapping::MappingFile;
use distributary::sinks::{graph, vectors};
use rand::Rng;
use serde_json::Value;

use crate::support::command::{Answer, distributary, operations, run, sample_configuration};
use crate::support::engines::library;
use crate::support::kill::kill_after;
use crate::support::killed::first_difference;
use crate::support::lake::copy_dir;
use crate::support::wait_for;

/// A lake that was synced and then crawled, so that a second sync has something to do.
fn crawled(directory: &Path) {
    library();
    sample_configuration(directory);
    run(directory, &["sample", "silver"]).expect(0);
    run(directory, &["sync"]).expect(0);
    run(directory, &["sample", "silver", "--crawl"]).expect(0);
}

/// Everything that the column store and the graph hold, in one order.
fn dump(directory: &Path) -> (Value, Vec<String>) {
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    let mapping = MappingFile::read(&mapping).unwrap();
    let tables = mapping.tables.values().flat_map(|table| table.clickhouse.keys());
    let parts: Vec<String> =
        tables.map(|table| format!("SELECT '{table}' AS t, toJSONString(tuple(*)) AS r FROM {table}_current")).collect();
    let sql = format!("SELECT * FROM ({}) ORDER BY t, r", parts.join(" UNION ALL "));
    let rows = run(directory, &["sql", "--json", &sql]).expect(0).json();
    let nodes = "MATCH (n) RETURN labels(n) AS l, properties(n) AS p";
    let relationships = "MATCH (a)-[r]->(b) RETURN labels(a) AS la, properties(a) AS a, type(r) AS t, properties(r) AS r, \
                         labels(b) AS lb, properties(b) AS b";
    let mut graph = Vec::new();
    for question in [nodes, relationships] {
        let answer = run(directory, &["cypher", "--json", question]).expect(0).json();
        let texts = answer.as_array().unwrap().iter().map(Value::to_string);
        graph.extend(texts.filter(|text| !text.contains("_DistributaryCheckpoint")));
    }
    graph.sort();
    assert!(rows.as_array().unwrap().len() > 1000 && graph.len() > 1000, "the dump is nearly empty");
    (rows, graph)
}

#[test]
fn killed_at_any_moment_the_next_sync_mends_it() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    std::fs::create_dir_all(&base).unwrap();
    crawled(&base);

    let clean = home.path().join("clean");
    copy_dir(&base, &clean);
    let began = Instant::now();
    run(&clean, &["sync"]).expect(0);
    let whole = began.elapsed();
    run(&clean, &["verify"]).expect(0);
    let expected = dump(&clean);

    let mut killed = 0;
    for number in 0..20_u32 {
        let trial = home.path().join(format!("trial-{number}"));
        copy_dir(&base, &trial);
        // One moment in each twentieth of the run.
        let moment = whole.mul_f64((f64::from(number) + rand::rng().random::<f64>()) / 20.0);
        let child = distributary(&trial).arg("sync").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        killed += u32::from(kill_after(child, moment));
        let when = format!("killed after {moment:?} of {whole:?}");
        let answer = run(&trial, &["sync", "--json"]);
        assert_eq!(answer.code, 0, "{when}: {}", answer.all());
        let verified = run(&trial, &["verify"]);
        assert_eq!(verified.code, 0, "{when}: {}", verified.all());
        let found = dump(&trial);
        assert!(found.0 == expected.0, "{when}: the column store is not what a clean run makes");
        assert!(
            found.1 == expected.1,
            "{when}: the graph is not what a clean run makes: {}",
            first_difference(&found.1, &expected.1)
        );
        let third = run(&trial, &["sync", "--json"]).expect(0).json();
        assert_eq!(operations(&third), 0, "{when}: a sync with nothing to do sent something: {third}");
        std::fs::remove_dir_all(&trial).unwrap();
    }
    assert!(killed >= 5, "only {killed} of 20 runs were killed before they ended");
}

/// Sends a signal to a process.
fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").args([name, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

#[test]
fn a_second_process_stops_at_once() {
    let home = tempfile::tempdir().unwrap();
    crawled(home.path());
    let mut first =
        distributary(home.path()).args(["sync", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // When it says that it reads, it has everything open.
    let mut said = BufReader::new(first.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("reading"), "{line}");
    signal(&first, "-STOP");
    let second = run(home.path(), &["sync"]);
    signal(&first, "-CONT");
    assert_eq!(second.code, 3, "{}", second.all());
    assert!(second.stderr.contains("held by another process") && second.stderr.contains("data/clickhouse"), "{}", second.stderr);
    assert!(second.stderr.contains(&first.id().to_string()), "it does not say who holds it: {}", second.stderr);
    said.read_to_string(&mut line).unwrap();
    let output = first.wait_with_output().unwrap();
    assert!(output.status.success(), "the first run was disturbed: {line}");
    run(home.path(), &["verify"]).expect(0);
}

#[test]
fn the_other_engines_directories_have_one_process_too() {
    let home = tempfile::tempdir().unwrap();
    let path = sample_configuration(home.path());
    run(home.path(), &["sample", "silver"]).expect(0);
    let whole = std::fs::read_to_string(&path).unwrap();
    let only = |key: &str| {
        let others = |line: &&str| !["clickhouse", "graph", "vectors"].iter().any(|k| *k != key && line.starts_with(k));
        let text: String = whole.lines().filter(others).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
    };
    only("graph");
    let held = wait_for(graph::open(graph::GraphOptions::at(home.path().join("data/graph")))).unwrap();
    refused(&run(home.path(), &["sync"]), "data/graph");
    drop(held);
    run(home.path(), &["sync"]).expect(0);

    only("vectors");
    let hash = embed::worker(&Choice::Hash, embed::DEFAULT_PRECISION, None).unwrap().unwrap();
    let (model, dimensions) = (hash.identity().to_owned(), hash.dimensions());
    let options = vectors::VectorsOptions { path: home.path().join("data/vectors"), model, dimensions };
    let held = wait_for(vectors::open(options)).unwrap();
    refused(&run(home.path(), &["sync"]), "data/vectors");
    drop(held);
    run(home.path(), &["sync"]).expect(0);
}

fn refused(answer: &Answer, place: &str) {
    assert_eq!(answer.code, 3, "{}", answer.all());
    assert!(answer.stderr.contains(place) && answer.stderr.contains("another process"), "{}", answer.stderr);
}
