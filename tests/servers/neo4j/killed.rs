//! The server is killed in the middle of a transaction, and right after it acknowledged one: nothing is lost, and nothing is left that
//! should not be.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::{configure, contents, end_leases};
use crate::command::{Answer, distributary, operations, run};
use crate::named;
use crate::support::lake::{Author, Book, Credit, Lake};
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::{tests_dir, wait_for};

const BOOKS: i64 = 200;
const AUTHORS: i64 = 40;

/// A server of the test's own.
struct Own {
    home: TempDir,
    address: String,
    process: Option<Child>,
}

impl Own {
    fn start() -> Self {
        let mut own = Self { home: tempfile::tempdir().unwrap(), address: String::new(), process: None };
        own.start_at("0");
        own
    }

    fn start_at(&mut self, port: &str) {
        let mut command = Command::new(tests_dir().join("servers/neo4j.sh"));
        command.arg(named("DISTRIBUTARY_TEST_NEO4J_RELEASE")).arg(self.home.path()).arg(port);
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut said).unwrap();
        assert!(said.starts_with("bolt://"), "it did not start: {:?}", process.wait());
        said.trim().clone_into(&mut self.address);
        self.process = Some(process);
    }

    /// Kills it (SIGKILL), and starts it on what it had.
    fn kill_and_start_again(&mut self) {
        self.kill();
        let port = self.address.rsplit_once(':').unwrap().1.to_owned();
        self.start_at(&port);
    }

    fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn book(id: i64, round: i64) -> Book {
    let credit = |number: i64| Credit {
        credit_id: format!("c{id}-{number}"),
        author_id: 1 + (id + number + round) % (AUTHORS + 5),
        name: Some(format!("name {}", number + round)),
        role: Some(format!("role of round {round}")),
    };
    Book {
        book_id: Some(id),
        title: Some(format!("Book {id}, print {round}")),
        blurb: None,
        popularity: None,
        tags: vec![format!("tag {}", (id + round) % 30)],
        credits: Some((0..2 + (id + round) % 3).map(credit).collect()),
    }
}

/// A lake, a server, and the embedded engine, which shows what a clean run makes.
struct World {
    directory: TempDir,
    lake: Lake,
    round: i64,
    server: Own,
}

impl World {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lake = Lake::at(directory.path().join("silver"));
        let author = |id| Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: None, visits: None };
        wait_for(async {
            lake.create(&(1..=BOOKS).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
            lake.create(&(1..=AUTHORS).map(author).collect::<Vec<_>>(), true).await;
        });
        let world = Self { directory, lake, round: 0, server: Own::start() };
        world.reach(&world.server.address);
        world
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    /// From now on the program reaches the server there.
    fn reach(&self, address: &str) {
        configure(self.path(), address, &tests_dir().join("mappings/library.yaml"));
    }

    /// Every book changes in some way, one comes and one goes.
    fn change(&mut self) {
        self.round += 1;
        let new = BOOKS + self.round;
        let books: Vec<Book> = (1..BOOKS).map(|id| book(id, self.round)).chain([book(new, 0)]).collect();
        wait_for(self.lake.merge(&books, &[new - 1]));
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        run(self.path(), &[&["--config", "server.yaml"], arguments].concat())
    }

    fn held(&self) -> Vec<String> {
        contents(self.path(), "server.yaml")
    }

    /// A sync that is left alone when it has sent a statement, to which no answer comes: the transaction is open. The server is killed then.
    fn killed_at(&mut self, statement: &str) {
        let proxy = Proxy::before(self.server.address.split_once("://").unwrap().1);
        self.reach(&format!("bolt://{}", proxy.address()));
        proxy.push(When::Contains(statement.as_bytes().to_vec(), 0), Fault::Silence);
        let mut sync = distributary(self.path());
        sync.args(["--config", "server.yaml", "sync"]).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut sync = sync.spawn().unwrap();
        while proxy.happened() == 0 {
            assert!(sync.try_wait().unwrap().is_none(), "`{statement}` was not sent");
            std::thread::yield_now();
        }
        self.server.kill();
        // The worker hears of it when its connections end.
        drop(proxy);
        let output = sync.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1), "`{statement}`: {}", String::from_utf8_lossy(&output.stderr));
        let port = self.server.address.rsplit_once(':').unwrap().1.to_owned();
        self.server.start_at(&port);
        self.reach(&self.server.address);
        // It had no server to give its lease back to, and nobody waits here until that ends.
        wait_for(end_leases(&self.server.address));
    }

    /// The next run does what is left, and then the graph is what a clean run makes.
    fn settle(&self, when: &str, operations_min: u64) {
        let next = self.run(&["sync", "--json"]);
        assert_eq!(next.code, 0, "{when}: {}", next.all());
        let sent = operations(&next.json());
        assert!(sent >= operations_min, "{when}: {}", next.all());
        let verified = self.run(&["verify"]);
        assert_eq!(verified.code, 0, "{when}: {}", verified.all());
        run(self.path(), &["--config", "embedded.yaml", "sync"]).expect(0);
        let (found, expected) = (self.held(), contents(self.path(), "embedded.yaml"));
        assert!(expected.len() > 1000, "{expected:?}");
        let extra = found.iter().find(|line| !expected.contains(line));
        let missing = expected.iter().find(|line| !found.contains(line));
        assert!(found == expected, "{when}: extra {extra:?}, missing {missing:?}");
        let third = self.run(&["sync", "--json"]).expect(0).json();
        assert_eq!(operations(&third), 0, "{when}: a sync with nothing to do sent something: {third}");
    }
}

/// Statements of a transaction that changes rows and moves checkpoints, in their order.
const STATEMENTS: [&str; 5] = ["SET n = CASE WHEN", "DELETE r", "CREATE (a)-[r:", "SET c.`_lane`", "SET c.`checkpoint`"];

#[test]
fn a_server_that_is_killed_in_a_transaction_keeps_all_before_it_and_nothing_of_it() {
    let mut world = World::new();
    world.run(&["sync"]).expect(0);
    for statement in STATEMENTS {
        let before = world.held();
        world.change();
        world.killed_at(statement);
        assert!(world.held() == before, "something of a transaction that was killed at `{statement}` is there");
        world.settle(&format!("killed at `{statement}`"), 1);
    }
    // What was acknowledged is there, however soon the server dies.
    world.change();
    world.run(&["sync"]).expect(0);
    world.server.kill_and_start_again();
    world.settle("killed after a transaction", 0);
}
