//! Every fault of a connection at every moment of a sync, for each server engine: the real binary, a proxy, the engine's front. The run ends
//! well or says that it did not, calls made again are counted, and after the next run nothing is missing and nothing is extra.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::command::{Answer, run};
use crate::support::lake::{Author, Book, Credit, Lake};
use crate::support::proxy::{Fault, Proxy, When};
use crate::support::{tests_dir, wait_for};

/// A server engine before which a proxy is put.
pub(crate) trait Server: Sized {
    /// The key of the configuration.
    const KEY: &'static str;
    /// Whether it speaks HTTP/1, so that the proxy can answer in its place.
    const HTTP: bool;

    /// Starts it with nothing in it.
    fn start() -> Self;

    /// Its host and port.
    fn address(&self) -> String;

    /// What the configuration says of it at another address.
    fn entry(&self, address: &str) -> String;

    /// The same with TLS; none where it is not reached by TLS.
    fn entry_with_tls(&self, address: &str) -> Option<String>;
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
        blurb: Some(format!("of {id}, {salt}")),
        popularity: Some(salt as f64),
        tags: vec![format!("tag {}", salt % 3)],
        credits: Some((0..=salt % 2).map(credit).collect()),
    }
}

fn author(id: i64) -> Author {
    Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: Some(format!("Life {id}")), visits: None }
}

/// A lake, a server behind a proxy, and a configuration of the two.
struct World<S: Server> {
    home: TempDir,
    lake: Lake,
    proxy: Proxy,
    server: S,
    round: u64,
}

impl<S: Server> World<S> {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let lake = Lake::at(home.path().join("silver"));
        let server = S::start();
        let proxy = Proxy::before(&server.address());
        wait_for(async {
            lake.create(&(1..=8).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
            lake.create(&[author(1), author(2)], true).await;
        });
        let world = Self { home, lake, proxy, server, round: 0 };
        world.configure(&world.server.entry(&world.proxy.address()), "");
        world
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    fn configure(&self, entry: &str, others: &str) {
        let mapping = tests_dir().join("mappings/library.yaml");
        let text = format!("source: {{root: ./silver}}\nmapping: {}\nembed: hash\n{entry}\n{others}", mapping.display());
        std::fs::write(self.path().join("distributary.yaml"), text).unwrap();
    }

    /// Changes every book in some way: some rows come, some change, some go.
    fn change(&mut self) {
        self.round += 1;
        let books: Vec<Book> = (1..=8).map(|id| book(id, self.round + id.cast_unsigned())).collect();
        let extra = 100 + self.round.cast_signed();
        let new = [book(extra, self.round)];
        wait_for(self.lake.merge(&[&books[..], &new].concat(), &[extra - 1]));
    }

    fn sync(&self) -> Answer {
        run(self.path(), &["sync", "--json"])
    }

    /// The next run mends what is left, and then all is as it should be.
    fn settle(&self, when: &str) {
        self.proxy.reset();
        let next = self.sync();
        assert_eq!(next.code, 0, "{when}: the next run: {}", next.all());
        assert_eq!(next.json()["retries"], 0, "{when}: the next run was not disturbed");
        let verified = run(self.path(), &["verify", "--json"]);
        assert_eq!(verified.code, 0, "{when}: {}", verified.all());
        let targets = verified.json()["targets"].as_array().unwrap().len();
        assert!(targets > 0, "{when}: nothing was compared");
        let third = self.sync();
        assert_eq!(operations(&third.json()), 0, "{when}: a sync with nothing to do sent something: {}", third.all());
    }

    /// How often the client sends in a sync of what is there to do.
    fn measured(&self) -> usize {
        self.proxy.reset();
        self.sync().expect(0);
        self.proxy.sent()
    }

    /// A fault at a moment of a sync that has something to do.
    fn spoil(&mut self, fault: &Fault, moment: usize, of: usize) -> usize {
        let when = format!("{fault:?} when the client sends for time {moment} of {of} in round {}", self.round);
        self.proxy.reset();
        self.proxy.push(When::Sent(moment), fault.clone());
        let answer = self.sync();
        let happened = self.proxy.happened();
        assert_eq!(answer.code, 0, "{when}: a trouble that passes ends no run: {}", answer.all());
        let retries = answer.json()["retries"].as_u64().unwrap();
        // An engine's client may open connections ahead, or ask again for what it only reads; what is sent again by us is counted.
        assert!(retries >= u64::from(happened > 0), "{when}: a call was made again and is not counted: {}", answer.all());
        assert!(happened > 0 || retries == 0, "{when}: nothing happened and something was counted: {}", answer.all());
        self.settle(&when);
        happened
    }
}

/// Everything that a report says was sent.
fn operations(report: &Value) -> u64 {
    let targets = report["tables"].as_array().unwrap().iter().flat_map(|table| table["targets"].as_array().unwrap());
    targets.flat_map(|target| ["upserts", "deletes", "payload_updates"].map(|count| target[count].as_u64().unwrap())).sum()
}

fn faults<S: Server>() -> Vec<Fault> {
    let mut all = vec![Fault::Refuse, Fault::ResetBefore, Fault::ResetAfter, Fault::Truncate, Fault::Drip];
    if S::HTTP {
        all.extend([
            Fault::Answer(503, None),
            Fault::Answer(429, Some(0)),
            Fault::Answer(503, Some(1)),
            Fault::Answer(429, None),
        ]);
    }
    all
}

/// Moments spread over a run, the first and the last among them.
fn moments(count: usize, sent: usize) -> impl Iterator<Item = usize> {
    let last = sent.saturating_sub(1);
    let mut all: Vec<usize> = (0..count).map(|part| last * part / (count - 1).max(1)).collect();
    all.dedup();
    all.into_iter()
}

/// Changes: what is there is read, rows are written, checkpoints move.
pub(crate) fn every_fault_of_a_window_is_mended<S: Server>() {
    let mut world = World::<S>::new();
    world.sync().expect(0);
    world.change();
    let sent = world.measured();
    assert!(sent > 3, "the client sent {sent} times, so the proxy is not between it and the server");
    for fault in faults::<S>() {
        let mut happened = 0;
        for moment in moments(6, sent) {
            world.change();
            happened += world.spoil(&fault, moment, sent);
        }
        assert!(happened > 0 || fault == Fault::Drip, "{fault:?} never happened");
    }
}

/// A first sync: tables, constraints, collections and aliases are made.
pub(crate) fn every_fault_of_a_first_sync_is_mended<S: Server>() {
    let sent = World::<S>::new().measured();
    for (fault, count) in [(Fault::ResetBefore, 5), (Fault::ResetAfter, 9), (Fault::Truncate, 3)] {
        for moment in moments(count, sent) {
            World::<S>::new().spoil(&fault, moment, sent);
        }
    }
}

/// The server is gone for a whole run: the other lanes finish, and `status` says which one lags and by how much when it is back.
pub(crate) fn a_server_that_is_down_holds_back_nobody<S: Server>() {
    let mut world = World::<S>::new();
    let others: Vec<String> = [("clickhouse", "chdb"), ("graph", "grafeo"), ("vectors", "edge")]
        .iter()
        .filter(|(key, _)| *key != S::KEY)
        .map(|(key, scheme)| format!("{key}: {{url: \"{scheme}:./data/{key}\"}}\n"))
        .collect();
    let others = others.concat();
    let up = world.server.entry(&world.proxy.address());
    world.configure(&up, &others);
    world.sync().expect(0);
    world.change();
    // Nobody listens there.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    world.configure(&world.server.entry(&nobody), &others);
    let answer = world.sync().expect(1);
    let report = answer.json();
    let targets: Vec<&Value> =
        report["tables"].as_array().unwrap().iter().flat_map(|t| t["targets"].as_array().unwrap()).collect();
    let of = |own: bool| targets.iter().filter(move |target| (target["sink"] == S::KEY) == own);
    assert!(of(true).count() > 0 && of(true).all(|target| target["ok"] == false), "{}", answer.all());
    assert!(of(false).count() > 0 && of(false).all(|target| target["ok"] == true), "{}", answer.all());
    assert!(report["retries"].as_u64().unwrap() > 0, "it was asked once and never again: {report}");
    world.configure(&up, &others);
    let lags = || {
        let status = run(world.path(), &["status", "--json"]).expect(0).json();
        let lanes = status["lanes"].as_array().unwrap().clone();
        lanes
            .into_iter()
            .filter(|lane| lane["table"] == "books")
            .map(|lane| (lane["sink"] == S::KEY, lane["lag"].clone()))
            .collect::<Vec<_>>()
    };
    assert!(lags().iter().all(|(own, lag)| *lag == i64::from(*own)), "{:?}", lags());
    world.settle("after it was down");
    assert!(lags().iter().all(|(_, lag)| *lag == 0), "{:?}", lags());
}

/// A certificate that nobody signed is refused, unless it is named; there is no other way around it.
pub(crate) fn a_certificate_that_nobody_signed_is_refused<S: Server>() {
    let world = World::<S>::new();
    let proxy = Proxy::with_tls_before(&world.server.address());
    let Some(entry) = world.server.entry_with_tls(&proxy.address()) else { return };
    world.configure(&entry, "");
    let refused = world.sync();
    assert!([1, 2].contains(&refused.code), "{}", refused.all());
    assert!(refused.stderr.contains("certificate"), "{}", refused.all());
    assert_eq!(proxy.sent(), 0, "nothing was sent to a server that is not who it should be");
    std::fs::write(world.path().join("ca.pem"), proxy.certificate()).unwrap();
    world.configure(&entry.replacen("url:", "ca_file: ca.pem, url:", 1), "");
    world.sync().expect(0);
    assert!(proxy.sent() > 0);
    run(world.path(), &["verify"]).expect(0);
}

macro_rules! server_faults {
    ($engine:ident, $server:ty) => {
        mod $engine {
            use super::*;

            #[test]
            fn every_fault_of_a_window_is_mended() {
                super::every_fault_of_a_window_is_mended::<$server>();
            }

            #[test]
            fn every_fault_of_a_first_sync_is_mended() {
                super::every_fault_of_a_first_sync_is_mended::<$server>();
            }

            #[test]
            fn a_server_that_is_down_holds_back_nobody() {
                super::a_server_that_is_down_holds_back_nobody::<$server>();
            }

            #[test]
            fn a_certificate_that_nobody_signed_is_refused() {
                super::a_certificate_that_nobody_signed_is_refused::<$server>();
            }
        }
    };
}

/// Host and port of an address.
fn place(address: &str) -> String {
    address.split("://").last().unwrap_or(address).to_owned()
}

impl Server for crate::fronts::clickhouse::Front {
    const KEY: &'static str = "clickhouse";
    const HTTP: bool = true;

    fn start() -> Self {
        Self::start()
    }

    fn address(&self) -> String {
        place(&self.address())
    }

    fn entry(&self, address: &str) -> String {
        format!("clickhouse: {{url: \"http://{address}\"}}")
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(format!("clickhouse: {{url: \"https://{address}\"}}"))
    }
}

impl Server for crate::fronts::qdrant::Front {
    const KEY: &'static str = "vectors";
    const HTTP: bool = false;

    fn start() -> Self {
        Self::start()
    }

    fn address(&self) -> String {
        place(&self.address())
    }

    fn entry(&self, address: &str) -> String {
        format!("vectors: {{url: \"qdrant://{address}\"}}")
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(format!("vectors: {{url: \"qdrant+s://{address}\"}}"))
    }
}

server_faults!(clickhouse, crate::fronts::clickhouse::Front);
server_faults!(qdrant, crate::fronts::qdrant::Front);
