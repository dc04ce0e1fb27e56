//! Whole runs against a server: the real binary, a proxy that spoils connections, the server, and a small lake that changes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use distributary::mapping::target::Target;
use distributary::mapping::{MappingFile, compile};
use distributary::rows::canonical_schema;
use distributary::sinks::{Sink, SinkKind};
use serde_json::Value;
use tempfile::TempDir;

use super::command::{Answer, operations, run};
use super::lake::{Author, Book, Credit, Lake, Record, copy_dir};
use super::oracle::{all_rows, json_rows};
use super::proxy::Proxy;
use super::{tests_dir, wait_for};

/// A step of a sync, known by what the client sends for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    /// Its name.
    pub(crate) name: &'static str,
    /// What stands in the first request of it and in none before it.
    pub(crate) sends: &'static str,
    /// Whether a first sync alone has it.
    pub(crate) first: bool,
}

/// A server that the real binary delivers to.
#[async_trait]
pub(crate) trait Server: Send + Sync + Sized {
    /// Which projections it takes.
    const KIND: SinkKind;
    /// Whether it speaks HTTP/1, so that the proxy can answer in its place.
    const HTTP: bool;
    /// Whether its client replaces a lost connection unseen while nothing of a step is under way.
    const RECONNECTS: bool = false;
    /// What makes its tables or collections, what writes rows, what moves checkpoints, and whatever else it does to deliver.
    const STEPS: &'static [Step];

    /// Starts it with nothing in it.
    fn start() -> Self;

    /// Its host and port.
    fn address(&self) -> String;

    /// From now on the worker reaches it at this host and port.
    fn reached_at(&self, _address: &str) {}

    /// The line of the configuration that names it at a host and port.
    fn entry(&self, address: &str) -> String;

    /// The same with TLS; none where it is not reached by TLS.
    fn entry_with_tls(&self, address: &str) -> Option<String>;

    /// Opens it, past any proxy, with the cheap embedder's vectors.
    async fn open(&self) -> Arc<dyn Sink>;

    /// Lets the leases of dead runs end, as time would.
    async fn end_leases(&self);
}

fn book(id: i64, salt: u64) -> Book {
    let credit = |number: u64| Credit {
        credit_id: format!("c{id}-{number}"),
        author_id: 1 + number.cast_signed(),
        name: Some(format!("name {number}")),
        role: None,
    };
    Book {
        book_id: Some(id),
        title: Some(format!("Book {id}")),
        blurb: Some(format!("of {id}, {}", salt / 2)),
        popularity: Some(salt as f64),
        tags: vec![format!("tag {}", salt % 3)],
        credits: Some((0..=salt % 2).map(credit).collect()),
    }
}

fn author(id: i64) -> Author {
    Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: Some(format!("Life {id}")), visits: None }
}

/// Makes a lake with so many books.
pub(crate) fn make_lake(at: &Path, books: i64) -> Lake {
    let lake = Lake::at(at);
    wait_for(async {
        lake.create(&(1..=books).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
        lake.create(&[author(1), author(2)], true).await;
    });
    lake
}

/// Changes every book in some way: some rows come, some change, some go; a book is new, and the one that was new before is gone.
pub(crate) fn change_lake(lake: &Lake, books: i64, round: u64) {
    let changed = (1..=books).map(|id| book(id, round + id.cast_unsigned()));
    let extra = 1000 + round.cast_signed();
    wait_for(lake.merge(&changed.chain([book(extra, round)]).collect::<Vec<_>>(), &[extra - 1]));
}

/// The targets of the library's mapping that are of a kind.
async fn targets(kind: SinkKind) -> Vec<Arc<Target>> {
    let path = tests_dir().join("mappings/library.yaml");
    let tables = [("books", Book::schema()), ("authors", Author::schema())];
    let schemas: BTreeMap<_, _> = tables.map(|(name, schema)| (name.to_owned(), canonical_schema(&schema))).into();
    let compiled = compile(&MappingFile::read(&path).unwrap(), &path, &schemas).await.unwrap();
    let all = compiled.tables.values().flat_map(|table| &table.projections).map(|projection| projection.target().clone());
    all.filter(|target| target.sink() == kind).collect()
}

/// A lake, a server behind a proxy, and a configuration of the two.
pub(crate) struct World<S: Server> {
    pub(crate) lake: Lake,
    pub(crate) proxy: Proxy,
    pub(crate) server: S,
    books: i64,
    round: u64,
    home: TempDir,
}

impl<S: Server> World<S> {
    /// With a lake of its own.
    pub(crate) fn new(books: i64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let lake = make_lake(&home.path().join("silver"), books);
        Self::with(home, lake, books)
    }

    /// With a copy of a lake.
    pub(crate) fn over(lake: &Lake, books: i64) -> Self {
        let home = tempfile::tempdir().unwrap();
        let copy = home.path().join("silver");
        copy_dir(&lake.root, &copy);
        Self::with(home, Lake::at(copy), books)
    }

    fn with(home: TempDir, lake: Lake, books: i64) -> Self {
        let server = S::start();
        let proxy = Proxy::before(&server.address());
        server.reached_at(&proxy.address());
        let world = Self { lake, proxy, server, books, round: 0, home };
        world.configure(&world.server.entry(&world.proxy.address()), "");
        world
    }

    /// The directory in which the program runs.
    pub(crate) fn path(&self) -> &Path {
        self.home.path()
    }

    /// Writes the configuration: the server's line, and others.
    pub(crate) fn configure(&self, entry: &str, others: &str) {
        let mapping = tests_dir().join("mappings/library.yaml");
        let text = format!("source: {{root: ./silver}}\nmapping: {}\nembed: hash\n{entry}\n{others}", mapping.display());
        std::fs::write(self.path().join("distributary.yaml"), text).unwrap();
    }

    /// Puts a later state of the same lake in the place of the one that is there.
    pub(crate) fn replace_lake(&self, later: &Lake) {
        std::fs::remove_dir_all(&self.lake.root).unwrap();
        copy_dir(&later.root, &self.lake.root);
    }

    /// Changes every book in some way.
    pub(crate) fn change(&mut self) {
        self.round += 1;
        change_lake(&self.lake, self.books, self.round);
    }

    /// How often it was changed.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Runs a sync.
    pub(crate) fn sync(&self) -> Answer {
        run(self.path(), &["sync", "--json"])
    }

    /// A sync that nothing disturbs and that goes well, and how often the client sends in it.
    pub(crate) fn measured(&self) -> usize {
        self.proxy.reset();
        self.sync().expect(0);
        self.proxy.sent()
    }

    /// The next run mends what is left, and then all is as it should be. Answers how much it had to send.
    pub(crate) fn settle(&self, when: &str) -> u64 {
        self.proxy.reset();
        let next = self.sync();
        assert_eq!(next.code, 0, "{when}: the next run: {}", next.all());
        assert_eq!(next.json()["retries"], 0, "{when}: the next run was not disturbed");
        self.verify(when);
        operations(&next.json())
    }

    /// Nothing is missing and nothing is extra.
    pub(crate) fn verify(&self, when: &str) {
        let verified = run(self.path(), &["verify", "--json"]);
        assert_eq!(verified.code, 0, "{when}: {}", verified.all());
        let compared = verified.json()["targets"].as_array().unwrap().len();
        assert!(compared > 0, "{when}: nothing was compared");
    }

    /// Everything that the server holds, a line for each row, in order. Vectors are among it.
    pub(crate) fn contents(&self) -> Vec<String> {
        wait_for(async {
            let (sink, mut lines) = (self.server.open().await, Vec::new());
            for target in targets(S::KIND).await {
                for batch in all_rows(&sink, &target).await {
                    let rows = json_rows(&batch).into_iter();
                    lines.extend(rows.map(|row| format!("{} {} {}", target.table, target.name, Value::Object(row))));
                }
            }
            lines.sort();
            lines
        })
    }
}
