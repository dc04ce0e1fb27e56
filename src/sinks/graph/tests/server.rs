//! What only a server does: leases, lost connections, deadlocks, other writers. `DISTRIBUTARY_TEST_NEO4J` is the address of a Neo4j server
//! that is the tests' own: they empty it (`tests/servers/neo4j.sh` starts one).

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use url::Url;

use super::super::bolt::Bolt;
use super::super::client::Executor as _;
use super::super::cypher::Side;
use super::super::{ServerOptions, open_server};
use super::*;
use crate::secret::Secret;
use crate::sinks::{Lease, Work};

/// One test at a time has the server's one database.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

fn options() -> ServerOptions {
    let address = std::env::var("DISTRIBUTARY_TEST_NEO4J").expect("DISTRIBUTARY_TEST_NEO4J is the address of a Neo4j server");
    let password = std::env::var("DISTRIBUTARY_TEST_NEO4J_PASSWORD").unwrap_or_else(|_| "secret-words".to_owned());
    let mut options = ServerOptions::at(Url::parse(&address).unwrap());
    options.user = Some("neo4j".to_owned());
    options.password = Some(Secret::from(password.as_str()));
    options
}

/// A connection beside the sink's. A machine that tests many things at once may be slow.
fn aside() -> neo4rs::Graph {
    let options = options();
    let password = options.password.unwrap();
    let config = neo4rs::ConfigBuilder::new().uri(options.url.as_str()).user("neo4j").password(password.expose());
    neo4rs::Graph::connect(config.connection_timeout(Duration::from_secs(600)).build().unwrap()).unwrap()
}

/// The sink on an emptied server.
pub(super) async fn empty(batch_rows: usize) -> Opened {
    let turn = TURN.lock().await;
    aside().run(neo4rs::query("MATCH (n) DETACH DELETE n")).await.unwrap();
    Opened { sink: open_server(ServerOptions { batch_rows, ..options() }).await.unwrap(), _turn: Some(turn) }
}

/// The sink on the server as it is, for a test whose turn it is.
pub(super) async fn as_it_is(batch_rows: usize) -> Opened {
    Opened { sink: open_server(ServerOptions { batch_rows, ..options() }).await.unwrap(), _turn: None }
}

async fn number(statement: &str) -> i64 {
    let mut stream = aside().execute(neo4rs::query(statement)).await.unwrap();
    stream.next().await.unwrap().unwrap().get("n").unwrap()
}

async fn texts(statement: &str) -> Vec<String> {
    let mut stream = aside().execute(neo4rs::query(statement)).await.unwrap();
    let mut texts = Vec::new();
    while let Some(row) = stream.next().await.unwrap() {
        texts.push(row.get("n").unwrap());
    }
    texts
}

/// Where a connection is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Cut {
    Nothing,
    CommitBeforeItArrives,
    CommitAfterItIsDone,
}

/// What stands between the sink and the server, and cuts.
struct Proxy {
    address: SocketAddr,
    between: Arc<Between>,
}

struct Between {
    server: SocketAddr,
    /// All that clients sent.
    sent: Mutex<Vec<u8>>,
    cut: Mutex<Cut>,
    streams: Mutex<Vec<TcpStream>>,
}

/// The message COMMIT in its one chunk, with the mark of the end.
const COMMIT: [u8; 6] = [0, 2, 0xb0, 0x12, 0, 0];

/// How a constraint begins.
const CONSTRAINT: &[u8] = b"CREATE CONSTRAINT";

impl Proxy {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = options().url.socket_addrs(|| Some(7687)).unwrap()[0];
        let between =
            Arc::new(Between { server, sent: Mutex::default(), cut: Mutex::new(Cut::Nothing), streams: Mutex::default() });
        let proxy = Self { address: listener.local_addr().unwrap(), between: between.clone() };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let server = TcpStream::connect(between.server).unwrap();
                for stream in [&client, &server] {
                    between.streams.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let swallow = Arc::new(AtomicBool::new(false));
                let (up, down) = (between.clone(), swallow.clone());
                let (from, to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || up.requests(from, to, &swallow));
                std::thread::spawn(move || answers(server, client, &down));
            }
        });
        proxy
    }

    async fn sink(&self) -> GraphSink {
        let mut options = options();
        options.url = Url::parse(&format!("bolt://{}", self.address)).unwrap();
        open_server(options).await.unwrap()
    }

    /// How many constraints were sent since this was last asked.
    fn constraints(&self) -> usize {
        let sent = std::mem::take(&mut *self.between.sent.lock().unwrap());
        sent.windows(CONSTRAINT.len()).filter(|part| *part == CONSTRAINT).count()
    }

    fn cut_next(&self, cut: Cut) {
        *self.between.cut.lock().unwrap() = cut;
    }

    /// Cuts all connections.
    fn kill(&self) {
        for stream in self.between.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Between {
    fn requests(&self, mut from: TcpStream, mut to: TcpStream, swallow: &AtomicBool) {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from.read(&mut bytes) {
            self.sent.lock().unwrap().extend_from_slice(&bytes[..count]);
            if bytes[..count].ends_with(&COMMIT) {
                match std::mem::replace(&mut *self.cut.lock().unwrap(), Cut::Nothing) {
                    Cut::Nothing => {}
                    Cut::CommitBeforeItArrives => break,
                    Cut::CommitAfterItIsDone => swallow.store(true, Ordering::SeqCst),
                }
            }
            if to.write_all(&bytes[..count]).is_err() {
                break;
            }
        }
        for stream in [from, to] {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn answers(mut from: TcpStream, mut to: TcpStream, swallow: &AtomicBool) {
    let mut bytes = vec![0; 1 << 16];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        if swallow.load(Ordering::SeqCst) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    for stream in [from, to] {
        let _ = stream.shutdown(Shutdown::Both);
    }
}

#[tokio::test]
async fn a_lost_connection_is_passing_and_what_was_accepted_is_written_again() {
    let turn = empty(100).await;
    let (c, proxy) = (Catalogue::new(), Proxy::start());
    let sink = proxy.sink().await;
    sink.prepare(&c.all(), &[]).await.unwrap();
    sink.write(&[put(&c.acted, json!([1, 7, "c1", "Fay", 0]))]).await.unwrap();
    proxy.kill();
    let next = [put(&c.person, json!([7, "Fay Wray", 1907]))];
    let error = sink.write(&next).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    sink.write(&next).await.unwrap();
    proxy.kill();
    let error = sink.flush(&[checkpoint(1)]).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert_eq!(contents(&turn).await, Vec::<String>::new());
    sink.flush(&[checkpoint(1)]).await.unwrap();
    assert_eq!(contents(&turn).await.len(), 3);
    assert_eq!(turn.checkpoints().await.unwrap(), [checkpoint(1)]);
    // A connection that was lost between two transactions is not missed.
    proxy.kill();
    assert_eq!(sink.newest(&c.person).await.unwrap(), Some(1));
    proxy.kill();
    sink.close().await.unwrap();
}

#[tokio::test]
async fn a_place_that_is_prepared_gets_no_constraint_again() {
    let _turn = empty(100).await;
    for name in texts("SHOW CONSTRAINTS YIELD name WHERE name STARTS WITH 'distributary_' RETURN name AS n").await {
        aside().run(neo4rs::query(&format!("DROP CONSTRAINT `{name}`"))).await.unwrap();
    }
    let (c, proxy) = (Catalogue::new(), Proxy::start());
    let lease = Lease::new(Work::Sync, Duration::from_secs(60));
    // The four labels', that of the checkpoints and that of the leases.
    for expected in [6, 0] {
        let sink = proxy.sink().await;
        sink.hold(&lease).await.unwrap();
        for _ in 0..2 {
            sink.prepare(&c.all(), &[]).await.unwrap();
        }
        write(&sink, &[put(&c.movie, json!([1, "one"]))]).await;
        sink.prepare(&c.all(), &[]).await.unwrap();
        sink.close().await.unwrap();
        assert_eq!(proxy.constraints(), expected);
    }
    let error = aside().run(neo4rs::query("CREATE (:Movie {movie_id: 1})")).await.unwrap_err();
    assert!(error.to_string().contains("ConstraintValidationFailed"), "{error}");
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_found_done_or_done_again() {
    let turn = empty(100).await;
    let (c, proxy) = (Catalogue::new(), Proxy::start());
    let sink = proxy.sink().await;
    sink.prepare(&c.all(), &[]).await.unwrap();
    for (revision, cut, done) in [(1_u64, Cut::CommitAfterItIsDone, true), (2, Cut::CommitBeforeItArrives, false)] {
        let id = revision.cast_signed();
        sink.write(&[put(&c.movie, json!([id, "film"])), put(&c.genre, json!([id, id, "kind"]))]).await.unwrap();
        proxy.cut_next(cut);
        let error = sink.flush(&[checkpoint(revision)]).await.unwrap_err();
        assert_eq!(error.class, Class::Transient, "{error}");
        let there = turn.checkpoints().await.unwrap() == [checkpoint(revision)];
        assert_eq!(there, done, "{cut:?}");
        sink.flush(&[checkpoint(revision)]).await.unwrap();
        assert_eq!(turn.checkpoints().await.unwrap(), [checkpoint(revision)]);
        assert_eq!(contents(&turn).await.len(), 3 * usize::try_from(revision).unwrap());
    }
    // Without a checkpoint that would tell, the rows are written again, which changes nothing.
    // What comes of such a commit is told by the next call.
    for (id, cut, done) in [(9, Cut::CommitAfterItIsDone, true), (10, Cut::CommitBeforeItArrives, false)] {
        let before = contents(&turn).await;
        sink.write(&[put(&c.movie, json!([id, "film"]))]).await.unwrap();
        proxy.cut_next(cut);
        sink.flush(&[]).await.unwrap();
        assert_eq!(sink.newest(&c.movie).await.unwrap_err().class, Class::Transient);
        let once = contents(&turn).await;
        assert_eq!(once.len(), before.len() + usize::from(done), "{cut:?}");
        sink.flush(&[]).await.unwrap();
        assert_eq!(sink.newest(&c.movie).await.unwrap(), Some(1));
        let again = contents(&turn).await;
        assert_eq!(again.len(), before.len() + 1);
        assert!(!done || again == once, "what was done was written again, and changed something");
    }
    sink.flush(&[checkpoint(3)]).await.unwrap();
}

#[tokio::test]
async fn a_deadlock_is_passing_and_the_whole_transaction_is_done_again() {
    let c = Catalogue::new();
    let sink = memory(Engine::Server, &c).await;
    write(&sink, &[change(&c.movie, 1, &[vec![json!(1), json!("one")], vec![json!(2), json!("two")]], &[])]).await;
    let graph = aside();
    let mut other = graph.start_txn().await.unwrap();
    other.run(neo4rs::query("MATCH (m:Movie {movie_id: 2}) SET m.seen = 1")).await.unwrap();
    sink.write(&[change(&c.movie, 2, &[vec![json!(1), json!("ONE")]], &[])]).await.unwrap();
    let waiting = tokio::spawn(async move {
        let answer = other.run(neo4rs::query("MATCH (m:Movie {movie_id: 1}) SET m.seen = 1")).await.map(drop);
        (other, answer)
    });
    while number("SHOW TRANSACTIONS YIELD status WHERE status STARTS WITH 'Blocked' RETURN count(*) AS n").await == 0 {}
    let next = [change(&c.movie, 2, &[vec![json!(2), json!("TWO")]], &[])];
    // What comes of the last change is told by the next call.
    let error = match sink.write(&next).await {
        Ok(_) => sink.flush(&[checkpoint(1)]).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("DeadlockDetected"), "{error}");
    let (other, answer) = waiting.await.unwrap();
    answer.unwrap();
    other.commit().await.unwrap();
    sink.write(&next).await.unwrap();
    sink.flush(&[checkpoint(1)]).await.unwrap();
    let titles = [r#"["Movie"] {"movie_id":1,"title":"ONE"}"#, r#"["Movie"] {"movie_id":2,"title":"TWO"}"#];
    assert_eq!(contents(&sink).await, titles);
}

#[tokio::test]
async fn a_relationship_whose_end_is_gone_is_noticed() {
    let c = Catalogue::new();
    let sink = memory(Engine::Server, &c).await;
    write(&sink, &[put(&c.movie, json!([1, "one"])), put(&c.person, json!([7, "Fay Wray", 1907]))]).await;
    let before = contents(&sink).await;
    let Layout::Relationship(acted) = Layout::of(&c.acted).unwrap() else { unreachable!() };
    let row = |movie| {
        let ends = [Side::From, Side::To].map(|side| if acted.end(side).label == "Movie" { movie } else { 7 });
        let nothing = acted.own().map(|_| Cell::Null);
        Cell::List(ends.map(Cell::Int).into_iter().chain(nothing).chain([Cell::Int(1)]).collect())
    };
    let (statement, rows) = (acted.create(), [row(1), row(2)]);
    let mut server = Bolt::connect(&options()).await.unwrap();
    let work = move || {
        server.begin().unwrap();
        server.connect(&statement, rows.to_vec()).unwrap();
        let error = server.commit().unwrap_err();
        server.begin().unwrap();
        server.connect(&statement, vec![rows[0].clone()]).unwrap();
        let made = server.count("MATCH ()-[r]->() RETURN count(r) AS count").unwrap();
        server.rollback().unwrap();
        (error, made)
    };
    let (error, made) = tokio::task::spawn_blocking(work).await.unwrap();
    assert_eq!(made, 1, "what the transaction did before is undone, and the next one works");
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("1 of 2 relationships"), "{error}");
    assert_eq!(contents(&sink).await, before);
}

#[tokio::test]
async fn a_node_that_somebody_deleted_is_made_again() {
    let c = Catalogue::new();
    let sink = memory(Engine::Server, &c).await;
    write(&sink, &[put(&c.movie, json!([1, "one"])), put(&c.person, json!([7, "Fay Wray", 1907]))]).await;
    aside().run(neo4rs::query("MATCH (p:Person {person_id: 7}) DETACH DELETE p")).await.unwrap();
    sink.write(&[put(&c.acted, json!([1, 7, "c1", "Fay", 0]))]).await.unwrap();
    let error = sink.flush(&[checkpoint(1)]).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("0 of 1 relationships"), "{error}");
    sink.flush(&[checkpoint(1)]).await.unwrap();
    let found =
        ask(&sink, "MATCH (p:Person)-[:ACTED_IN]->(m:Movie) RETURN p.name AS name, p._stub AS stub, m.title AS title").await;
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0]["name"], &found[0]["stub"], &found[0]["title"]), (&json!("Fay"), &json!(true), &json!("one")));
}

#[tokio::test]
async fn of_two_writers_one_moves_the_checkpoint() {
    let c = Catalogue::new();
    let one = memory(Engine::Server, &c).await;
    let other = open_server(options()).await.unwrap();
    other.prepare(&c.all(), &[]).await.unwrap();
    write(&one, &[put(&c.movie, json!([0, "zero"]))]).await;
    one.flush(&[checkpoint(1)]).await.unwrap();
    one.write(&[put(&c.movie, json!([1, "one"]))]).await.unwrap();
    other.write(&[put(&c.movie, json!([2, "two"]))]).await.unwrap();
    let mut late = checkpoint(2);
    late.version = Some(77);
    let (first, late) = ([checkpoint(2)], [late]);
    let (a, b) = tokio::join!(one.flush(&first), other.flush(&late));
    let errors: Vec<_> = [a, b].into_iter().filter_map(Result::err).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].class, Class::Stop);
    assert_eq!(contents(&one).await.len(), 2, "the rows of the other are not there");
    // Nor do they come later.
    for sink in [&one.sink, &other] {
        sink.flush(&[]).await.unwrap();
        sink.checkpoints().await.unwrap();
    }
    assert_eq!(contents(&one).await.len(), 2);
}

#[tokio::test]
async fn another_writer_of_a_type_that_was_empty_is_noticed() {
    let c = Catalogue::new();
    let sink = memory(Engine::Server, &c).await;
    sink.write(&[change(&c.acted, 1, &credits(0..1_200, "one"), &[])]).await.unwrap();
    sink.flush(&[checkpoint(1)]).await.unwrap();
    let other = open_server(options()).await.unwrap();
    other.prepare(&c.all(), &[]).await.unwrap();
    other.write(&[change(&c.acted, 1, &credits(1_300..1_301, "other"), &[])]).await.unwrap();
    other.close().await.unwrap();
    let next = [change(&c.acted, 1, &credits(1_200..2_400, "one"), &[])];
    let error = sink.write(&next).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("finds 1201 where this run made 1200"), "{error}");
    sink.write(&next).await.unwrap();
    sink.flush(&[checkpoint(2)]).await.unwrap();
    assert_eq!(number("MATCH ()-[r:ACTED_IN]->() RETURN count(r) AS n").await, 2_400);
    assert_eq!(number("MATCH ()-[r:ACTED_IN {credit_id: 'c1300'}]->() RETURN count(r) AS n").await, 1);
}

#[tokio::test]
async fn a_lease_has_one_holder_at_a_time() {
    let sink = empty(100).await;
    let (one, other) = (Lease::new(Work::Sync, Duration::from_secs(60)), Lease::new(Work::Sync, Duration::from_secs(60)));
    sink.hold(&one).await.unwrap();
    sink.hold(&one).await.unwrap();
    let error = sink.hold(&other).await.unwrap_err();
    assert_eq!(error.class, Class::Stop);
    assert!(error.message.contains(&one.holder) && error.message.contains("heard of"), "{error}");
    sink.hold(&Lease::new(Work::Reembed, Duration::from_secs(60))).await.unwrap();
    // Not its own to give back.
    sink.release(&other).await.unwrap();
    assert!(sink.hold(&other).await.is_err());
    sink.release(&one).await.unwrap();
    sink.release(&one).await.unwrap();
    sink.hold(&other).await.unwrap();
    // The holder is not heard of any more.
    sink.hold(&Lease { lasts_ms: 0, ..other.clone() }).await.unwrap();
    let third = Lease::new(Work::Sync, Duration::from_secs(60));
    while sink.hold(&third).await.is_err() {}
    assert!(sink.hold(&other).await.is_err(), "the lease was taken over");
    // Of many that come at once one has it.
    sink.release(&third).await.unwrap();
    let many: Vec<Lease> = (0..6).map(|_| Lease::new(Work::Sync, Duration::from_secs(60))).collect();
    let second = open_server(options()).await.unwrap();
    let sinks = [&sink.sink, &second].into_iter().cycle();
    let held = futures::future::join_all(many.iter().zip(sinks).map(|(lease, sink)| sink.hold(lease))).await;
    assert_eq!(held.iter().filter(|held| held.is_ok()).count(), 1, "{held:?}");
    assert_eq!(number("MATCH (l:_DistributaryLease {work: 'sync'}) RETURN count(l) AS n").await, 1);
}

#[tokio::test]
async fn what_is_wrong_with_a_server_is_said_with_the_key_to_look_at() {
    let right = options();
    let wrong = |change: &dyn Fn(&mut ServerOptions)| {
        let mut options = right.clone();
        change(&mut options);
        open_server(options)
    };
    let error = wrong(&|options| options.password = Some(Secret::from("PLANTED"))).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    assert!(error.message.contains("graph.user") && error.message.contains("DISTRIBUTARY_GRAPH_PASSWORD"), "{error}");
    assert!(!format!("{error:?}").contains("PLANTED"));
    // The driver tells nothing of why a server that routes is not reached.
    let routed = Url::parse(&right.url.as_str().replacen("bolt", "neo4j", 1)).unwrap();
    wrong(&|options| options.url = routed.clone()).await.unwrap();
    let wrong_routed = |options: &mut ServerOptions| {
        options.url = routed.clone();
        options.password = Some(Secret::from("PLANTED"));
    };
    let error = wrong(&wrong_routed).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    assert!(error.message.contains("DISTRIBUTARY_GRAPH_PASSWORD") && error.message.contains("neo4j://"), "{error}");
    let nowhere = |options: &mut ServerOptions| (options.url, options.database) = (routed.clone(), Some("nowhere".to_owned()));
    let error = wrong(&nowhere).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    assert!(error.message.contains("graph.database"), "{error}");
    let error = wrong(&|options| options.database = Some("nowhere".to_owned())).await.unwrap_err();
    assert_eq!(error.class, Class::Permanent, "{error}");
    assert!(error.message.contains("`nowhere`") && error.message.contains("graph.database"), "{error}");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = wrong(&|options| options.url = Url::parse(&format!("bolt://{free}")).unwrap()).await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    let file = tempfile::NamedTempFile::new().unwrap();
    let error = wrong(&|options| options.ca_file = Some(file.path().to_owned())).await.unwrap_err();
    assert!(error.message.contains("bolt+s://"), "{error}");
}

#[tokio::test]
async fn a_question_is_answered_with_any_kind_of_value_and_changes_nothing() {
    let c = Catalogue::new();
    let sink = memory(Engine::Server, &c).await;
    write(&sink, &[put(&c.acted, json!([1, 7, "c1", "Fay", 0]))]).await;
    let rows = ask(
        &sink,
        "MATCH p = (a:Person)-[r]->(m) RETURN r.order AS z, a, r, p, date('2020-02-29') AS day, duration('P1M2DT3.5S') AS d, \
         datetime('2020-01-01T00:00:00[Europe/Paris]') AS t, localtime('01:02:03') AS l, point({x: 1, y: 2}) AS xy, [1, {b: null}] AS list",
    )
    .await;
    let columns: Vec<&String> = rows[0].keys().collect();
    assert_eq!(columns, ["z", "a", "r", "p", "day", "d", "t", "l", "xy", "list"]);
    assert_eq!(rows[0]["a"]["labels"], json!(["Person"]));
    assert_eq!(rows[0]["a"]["properties"]["name"], json!("Fay"));
    assert_eq!(rows[0]["r"]["type"], json!("ACTED_IN"));
    assert_eq!(rows[0]["p"]["nodes"][1]["labels"], json!(["Movie"]));
    assert_eq!(rows[0]["p"]["relationships"][0]["properties"]["credit_id"], json!("c1"));
    assert_eq!(rows[0]["day"], json!("2020-02-29"));
    assert_eq!(rows[0]["d"], json!("P1M2DT3.500000000S"));
    assert_eq!(rows[0]["t"], json!("2019-12-31T23:00:00.000000Z"));
    assert_eq!(rows[0]["xy"]["x"], json!(1.0));
    assert_eq!(rows[0]["list"], json!([1, {"b": null}]));
    for change in ["CREATE (n:Movie)", "MATCH (n) DETACH DELETE n", "CREATE INDEX FOR (n:Movie) ON (n.title)"] {
        let error = sink.query(&Query::Text(change.into())).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
    }
    assert_eq!(number("MATCH (n) RETURN count(n) AS n").await, 2);
}

#[tokio::test]
async fn a_key_that_no_index_holds_is_refused_alone() {
    let tag = target("Tag", Shape::Node, &[("tag", DataType::Utf8)], &["tag"], &["tag"]);
    let sink = empty(100).await;
    sink.prepare(std::slice::from_ref(&tag), &[]).await.unwrap();
    let tags = ["x".repeat(7_500), "é".repeat(3_750), "y".repeat(7_501)].map(|tag| vec![json!(tag)]);
    let refused = sink.write(&[change(&tag, 1, &tags, &[])]).await.unwrap();
    assert_eq!((refused.len(), refused[0].row), (1, 2));
    sink.flush(&[checkpoint(1)]).await.unwrap();
    assert_eq!(number("MATCH (t:Tag) RETURN count(t) AS n").await, 2);
}

/// A certificate of one's own, and what speaks TLS with it before the server.
async fn with_tls() -> (rcgen::CertifiedKey<rcgen::KeyPair>, SocketAddr) {
    use tokio_rustls::rustls::{ServerConfig, pki_types::PrivateKeyDer};
    let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, server) = (listener.local_addr().unwrap(), options().url.socket_addrs(|| Some(7687)).unwrap()[0]);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut client) = acceptor.accept(client).await else { return };
                let mut server = tokio::net::TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (made, address)
}

#[tokio::test]
async fn a_server_is_trusted_by_its_certificate_alone() {
    let (made, address) = with_tls().await;
    let (other, _) = with_tls().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let open = |text: Option<String>| {
        let mut options = options();
        options.url = Url::parse(&format!("bolt+s://{address}")).unwrap();
        options.ca_file = text.map(|text| {
            std::fs::write(file.path(), text).unwrap();
            file.path().to_owned()
        });
        open_server(options)
    };
    let sink = open(Some(made.cert.pem())).await.unwrap();
    assert_eq!(ask(&sink, "RETURN 1 AS one").await[0]["one"], json!(1));
    for wrong in [None, Some(other.cert.pem())] {
        let error = open(wrong).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        assert!(error.message.contains("graph.ca_file"), "{error}");
    }
    let error = open(Some("no certificate".to_owned())).await.unwrap_err();
    assert!(error.message.contains("holds no certificate"), "{error}");
}
