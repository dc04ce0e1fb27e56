//! Whole syncs into a Neo4j server that is the tests' own (`DISTRIBUTARY_TEST_NEO4J`), compared with the embedded engine.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::command::{Answer, distributary, run};
use crate::named;

/// One test at a time has the server's one database.
static TURN: Mutex<()> = Mutex::new(());

/// A directory with the sample's lake, a configuration for the server and one for the embedded engine.
struct Home {
    directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Home {
    fn new() -> Self {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let home = Self { directory: tempfile::tempdir().unwrap(), _turn: turn };
        let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
        let (url, common) = (
            named("DISTRIBUTARY_TEST_NEO4J"),
            format!("source: {{root: ./silver}}\nmapping: {}\nembed: \"off\"\n", mapping.display()),
        );
        std::fs::write(home.path().join("password"), password()).unwrap();
        let server = format!(
            "graph: {{url: \"{url}\", user: neo4j, password_file: ./password}}\nquarantine: {{url: ./quarantine-server}}\n"
        );
        let embedded = "graph: {url: \"grafeo:./graph\"}\nquarantine: {url: ./quarantine-embedded}\n";
        std::fs::write(home.path().join("server.yaml"), format!("{common}{server}")).unwrap();
        std::fs::write(home.path().join("embedded.yaml"), format!("{common}{embedded}")).unwrap();
        empty();
        run(home.path(), &["sample", "silver"]).expect(0);
        home
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn run(&self, config: &str, arguments: &[&str]) -> Answer {
        run(self.path(), &[&["--config", config], arguments].concat())
    }

    fn sync_both(&self, code: i32) -> Value {
        self.run("embedded.yaml", &["sync", "--json"]).expect(code);
        self.run("server.yaml", &["sync", "--json"]).expect(code).json()
    }

    /// Everything that a graph holds, as sorted lines: each node with its labels and properties, each relationship with its ends.
    fn contents(&self, config: &str) -> Vec<String> {
        let nodes = self.run(config, &["cypher", "--json", "MATCH (n) RETURN labels(n) AS labels, properties(n) AS p"]);
        let edges = "MATCH (a)-[r]->(b) RETURN labels(a) AS al, properties(a) AS a, type(r) AS t, properties(r) AS p, \
                     labels(b) AS bl, properties(b) AS b";
        let edges = self.run(config, &["cypher", "--json", edges]);
        let mut lines: Vec<String> = Vec::new();
        for row in nodes.expect(0).json().as_array().unwrap() {
            if !row["labels"][0].as_str().unwrap().starts_with("_Distributary") {
                lines.push(sorted(row).to_string());
            }
        }
        lines.extend(edges.expect(0).json().as_array().unwrap().iter().map(|row| sorted(row).to_string()));
        lines.sort();
        lines
    }

    fn assert_alike(&self) {
        let (server, embedded) = (self.contents("server.yaml"), self.contents("embedded.yaml"));
        assert!(embedded.len() > 100, "{embedded:?}");
        for (one, other) in server.iter().zip(&embedded) {
            assert_eq!(one, other);
        }
        assert_eq!(server.len(), embedded.len());
        self.run("server.yaml", &["verify"]).expect(0);
    }
}

fn password() -> String {
    std::env::var("DISTRIBUTARY_TEST_NEO4J_PASSWORD").unwrap_or_else(|_| "secret-words".to_owned())
}

/// A value with the names of its objects in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(entries) => {
            let mut names: Vec<&String> = entries.keys().collect();
            names.sort();
            Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&entries[name]))).collect::<Map<_, _>>())
        }
        Value::Array(items) => Value::Array(items.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// Leaves nothing on the server.
fn empty() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let graph = neo4rs::Graph::new(named("DISTRIBUTARY_TEST_NEO4J"), "neo4j", password()).unwrap();
        graph.run(neo4rs::query("MATCH (n) DETACH DELETE n")).await.unwrap();
    });
}

/// Operations that a sync reports.
fn sent(report: &Value) -> u64 {
    let targets = report["tables"].as_array().unwrap().iter().flat_map(|table| table["targets"].as_array().unwrap());
    targets
        .map(|target| ["upserts", "payload_updates", "deletes"].map(|name| target[name].as_u64().unwrap()).iter().sum::<u64>())
        .sum()
}

#[test]
fn a_server_ends_equal_to_the_embedded_engine_and_a_third_sync_sends_nothing() {
    let home = Home::new();
    let first = home.sync_both(0);
    assert!(sent(&first) > 100, "{first}");
    home.assert_alike();
    home.run("server.yaml", &["status"]).expect(0);
    run(home.path(), &["sample", "silver", "--crawl"]).expect(0);
    // The crawl leaves a broken record, which goes to quarantine.
    home.run("embedded.yaml", &["sync"]);
    let second = home.run("server.yaml", &["sync", "--json"]).json();
    assert!(sent(&second) > 0 && sent(&second) < sent(&first), "{second}");
    home.assert_alike();
    run(home.path(), &["sample", "silver", "--mend"]).expect(0);
    home.sync_both(0);
    home.assert_alike();
    assert_eq!(sent(&home.sync_both(0)), 0);
    assert_eq!(sent(&home.run("server.yaml", &["sync", "--repair", "--json"]).expect(0).json()), 0);
}

#[test]
fn two_runs_at_once_are_one() {
    let home = Home::new();
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = distributary(home.path());
            command.args(["--config", "server.yaml", "sync", "--json"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let ended: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap()).collect();
    for output in &ended {
        let said = String::from_utf8_lossy(&output.stderr);
        let code = output.status.code().unwrap();
        assert!(code == 0 || (code == 3 && said.contains("is being written by another `sync` run")), "{code}: {said}");
    }
    assert!(ended.iter().any(|output| output.status.success()));
    home.run("embedded.yaml", &["sync"]).expect(0);
    home.assert_alike();
}

#[test]
fn a_wrong_password_is_told_without_it() {
    let home = Home::new();
    std::fs::write(home.path().join("password"), "PLANTED").unwrap();
    let answer = home.run("server.yaml", &["sync", "--json"]);
    assert_ne!(answer.code, 0);
    assert!(answer.all().contains("DISTRIBUTARY_GRAPH_PASSWORD"), "{}", answer.all());
    assert!(!answer.all().contains("PLANTED"), "{}", answer.all());
}
