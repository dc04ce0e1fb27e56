//! Whole syncs into a Neo4j server that is the tests' own (`DISTRIBUTARY_TEST_NEO4J`), compared with the embedded engine.

mod killed;
mod place;
mod runs;

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use distributary::sinks::graph::ServerOptions;
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::command::{Answer, distributary, operations, run};
use crate::named;
use crate::support::wait_for;

/// One test at a time has the server's one database.
static TURN: Mutex<()> = Mutex::new(());

thread_local! {
    /// The turn of the test that runs on this thread.
    static OWN_TURN: RefCell<Option<MutexGuard<'static, ()>>> = const { RefCell::new(None) };
}

/// Waits for the database, which is this test's as long as its thread lives.
fn take_turn() {
    OWN_TURN.with_borrow_mut(|turn| {
        turn.get_or_insert_with(|| TURN.lock().unwrap_or_else(PoisonError::into_inner));
    });
}

/// Where the server is.
fn address() -> String {
    named("DISTRIBUTARY_TEST_NEO4J")
}

fn password() -> String {
    std::env::var("DISTRIBUTARY_TEST_NEO4J_PASSWORD").unwrap_or_else(|_| "secret-words".to_owned())
}

/// How the sink reaches a server.
fn options(address: &str) -> ServerOptions {
    let mut options = ServerOptions::at(address.parse().unwrap());
    options.user = Some("neo4j".to_owned());
    options.password = Some(password().as_str().into());
    options
}

/// A connection beside the sink's. A server that was just started, on a machine that tests many things at once, may be slow.
fn graph_of(address: &str) -> neo4rs::Graph {
    let config = neo4rs::ConfigBuilder::new().uri(address).user("neo4j").password(password());
    neo4rs::Graph::connect(config.connection_timeout(Duration::from_secs(600)).build().unwrap()).unwrap()
}

/// Leaves nothing in a server's database but the constraints of labels, which are the same for every test.
async fn emptied(address: &str) {
    graph_of(address).run(neo4rs::query("MATCH (n) DETACH DELETE n")).await.unwrap();
}

/// Lets all leases of a server end: since they were renewed, as much time has gone by as they last.
async fn end_leases(address: &str) {
    let leases = neo4rs::query("MATCH (l:_DistributaryLease) SET l.renewed_ms = l.renewed_ms - l.lasts_ms - 1");
    graph_of(address).run(leases).await.unwrap();
}

/// Writes two configurations into a directory, with the lake in `silver`: `server.yaml` for a server, `embedded.yaml` for the embedded
/// engine.
fn configure(directory: &Path, url: &str, mapping: &Path) {
    let common = format!("source: {{root: ./silver}}\nmapping: {}\nembed: \"off\"\n", mapping.display());
    std::fs::write(directory.join("password"), password()).unwrap();
    let server =
        format!("graph: {{url: \"{url}\", user: neo4j, password_file: ./password}}\nquarantine: {{url: ./quarantine-server}}\n");
    let embedded = "graph: {url: \"grafeo:./graph\"}\nquarantine: {url: ./quarantine-embedded}\n";
    std::fs::write(directory.join("server.yaml"), format!("{common}{server}")).unwrap();
    std::fs::write(directory.join("embedded.yaml"), format!("{common}{embedded}")).unwrap();
}

/// Everything that the graph of a configuration holds, as sorted lines: each node with its labels and properties, each relationship with
/// its ends.
fn contents(directory: &Path, config: &str) -> Vec<String> {
    let ask = |question: &str| run(directory, &["--config", config, "cypher", "--json", question]).expect(0).json();
    let nodes = ask("MATCH (n) RETURN labels(n) AS labels, properties(n) AS p");
    let edges = ask("MATCH (a)-[r]->(b) RETURN labels(a) AS al, properties(a) AS a, type(r) AS t, properties(r) AS p, \
                     labels(b) AS bl, properties(b) AS b");
    let own = |row: &&Value| !row["labels"][0].as_str().is_some_and(|label| label.starts_with("_Distributary"));
    let rows = nodes.as_array().unwrap().iter().filter(own).chain(edges.as_array().unwrap());
    let mut lines: Vec<String> = rows.map(|row| sorted(row).to_string()).collect();
    lines.sort();
    lines
}

/// A directory with the sample's lake, a configuration for the server and one for the embedded engine.
struct Home {
    directory: TempDir,
}

impl Home {
    fn new() -> Self {
        take_turn();
        let home = Self { directory: tempfile::tempdir().unwrap() };
        configure(home.path(), &address(), &Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml"));
        wait_for(emptied(&address()));
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

    fn assert_alike(&self) {
        let (server, embedded) = (contents(self.path(), "server.yaml"), contents(self.path(), "embedded.yaml"));
        assert!(embedded.len() > 100, "{embedded:?}");
        for (one, other) in server.iter().zip(&embedded) {
            assert_eq!(one, other);
        }
        assert_eq!(server.len(), embedded.len());
        self.run("server.yaml", &["verify"]).expect(0);
    }
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

#[test]
fn a_server_ends_equal_to_the_embedded_engine_and_a_third_sync_sends_nothing() {
    let home = Home::new();
    let first = home.sync_both(0);
    assert!(operations(&first) > 100, "{first}");
    home.assert_alike();
    home.run("server.yaml", &["status"]).expect(0);
    run(home.path(), &["sample", "silver", "--crawl"]).expect(0);
    // The crawl leaves a broken record, which goes to quarantine.
    home.run("embedded.yaml", &["sync"]);
    let second = home.run("server.yaml", &["sync", "--json"]).json();
    assert!(operations(&second) > 0 && operations(&second) < operations(&first), "{second}");
    home.assert_alike();
    run(home.path(), &["sample", "silver", "--mend"]).expect(0);
    home.sync_both(0);
    home.assert_alike();
    assert_eq!(operations(&home.sync_both(0)), 0);
    assert_eq!(operations(&home.run("server.yaml", &["sync", "--repair", "--json"]).expect(0).json()), 0);
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
