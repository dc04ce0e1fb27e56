//! The column store's sink over ClickHouse's HTTP interface: who is let in, leases, and whole syncs by the real binary.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use distributary::mapping::target::{Shape, Target};
use distributary::sinks::clickhouse::{ClickhouseSink, ServerOptions, open_server};
use distributary::sinks::{Checkpoint, Class, LaneId, Lease, Query, Sink, SinkError, SinkKind, Work, Write};
use serde_json::{Value, json};

use crate::fronts::clickhouse::{Front, PASSWORD, READER, USER};
use crate::fronts::tls::Tls;
use crate::support::command::{distributary, operations, run};
use crate::support::wait_for;

fn options(front: &Front, database: &str) -> ServerOptions {
    let mut options = ServerOptions::at(front.address().parse().unwrap());
    options.database = database.to_owned();
    options
}

async fn opened(front: &Front, database: &str) -> ClickhouseSink {
    open_server(options(front, database)).await.unwrap()
}

async fn count(sink: &ClickhouseSink, sql: &str) -> u64 {
    let rows = sink.query(&Query::Text(sql.to_owned())).await.unwrap();
    rows[0].values().next().unwrap().as_u64().unwrap()
}

fn counted() -> Arc<Target> {
    Arc::new(Target {
        table: "silver".into(),
        name: "counted".into(),
        shape: Shape::Table,
        schema: Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)])),
        key: vec!["id".into()],
        record_key: vec!["id".into()],
        fingerprint: "f".into(),
    })
}

fn rows(target: &Arc<Target>, version: u64, ids: std::ops::Range<i64>) -> Write {
    let batch = |ids| RecordBatch::try_new(target.schema.clone(), vec![Arc::new(Int64Array::from_iter_values(ids))]).unwrap();
    Write { target: target.clone(), version, upserts: batch(ids), deletes: batch(0..0) }
}

#[test]
fn a_user_is_let_in_by_headers_alone() {
    let front = Front::start();
    wait_for(async {
        let mut known = options(&front, "http_users");
        (known.user, known.password) = (Some(USER.to_owned()), Some(PASSWORD.into()));
        let sink = open_server(known.clone()).await.unwrap();
        assert_eq!(count(&sink, "SELECT count() FROM system.one").await, 1);
        assert!(!format!("{known:?} {sink:?}").contains(PASSWORD));
        // No password, a wrong one, and one of somebody else.
        for (user, password) in [(Some(USER), None), (Some(USER), Some("PLANTED")), (None, Some("PLANTED")), (Some("x"), None)] {
            let mut unknown = known.clone();
            (unknown.user, unknown.password) = (user.map(str::to_owned), password.map(Into::into));
            let error = open_server(unknown).await.unwrap_err();
            assert_eq!(error.class, Class::Permanent, "{error}");
            for word in ["clickhouse.user", "DISTRIBUTARY_CLICKHOUSE_PASSWORD", "Code: 516"] {
                assert!(error.message.contains(word), "{error}");
            }
            assert!(!format!("{error:?}").contains("PLANTED"), "{error:?}");
        }
        known.user = Some(READER.to_owned());
        known.password = None;
        let error = open_server(known).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        assert!(error.message.contains("may only read") && error.message.contains("Code: 164"), "{error}");
    });
}

#[test]
fn a_server_that_is_not_there_may_come_later() {
    let front = Front::start();
    let gone = options(&front, "x");
    drop(front);
    let error = wait_for(open_server(gone)).unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("cannot reach http://127.0.0.1:"), "{error}");
}

#[test]
fn a_certificate_is_verified_against_the_authority_that_is_named() {
    let front = Front::start();
    let url = url::Url::parse(&front.address()).unwrap();
    let tls = Tls::before(url.socket_addrs(|| None).unwrap()[0]);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, pem: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path
    };
    let mut options = ServerOptions::at(format!("https://{}", tls.address).parse().unwrap());
    options.database = "http_tls".into();
    wait_for(async {
        // The usual authorities did not sign it, and neither did another one.
        let another = Tls::before(tls.address);
        for authority in [None, Some(write("another.pem", &another.authority))] {
            let mut stranger = options.clone();
            stranger.ca_file = authority;
            let error = open_server(stranger).await.unwrap_err();
            assert!(error.message.contains("certificate"), "{error}");
        }
        // Also among others.
        options.ca_file = Some(write("all.pem", &format!("{}{}", another.authority, tls.authority)));
        let sink = open_server(options.clone()).await.unwrap();
        assert_eq!(count(&sink, "SELECT count() FROM system.one").await, 1);
    });
}

#[test]
fn a_silent_server_is_given_up() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut silent = ServerOptions::at(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    silent.timeout = Duration::from_millis(50);
    let error = wait_for(open_server(silent)).unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(error.message.contains("no answer for 0.05 s"), "{error}");
}

#[test]
fn a_million_rows_go_through_with_and_without_compression() {
    let front = Front::start();
    for compression in [false, true] {
        wait_for(async {
            let mut options = options(&front, &format!("http_large_{compression}"));
            options.compression = compression;
            let sink = open_server(options).await.unwrap();
            let target = counted();
            sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap();
            assert_eq!(sink.write(&[rows(&target, 1, 0..1_000_000)]).await.unwrap(), vec![]);
            let sum = count(&sink, "SELECT sum(id) FROM counted_current").await;
            assert_eq!(sum, 999_999 * 1_000_000 / 2);
            let held = sink.held(&target, &rows(&target, 1, 500_000..600_000).upserts).await.unwrap();
            assert_eq!(held.num_rows(), 100_000);
        });
    }
}

fn claim(lasts: Duration) -> Lease {
    Lease::new(Work::Sync, lasts)
}

fn refused(answer: Result<(), SinkError>, holder: &Lease) {
    let error = answer.unwrap_err();
    assert_eq!(error.class, Class::Stop, "{error}");
    assert!(error.message.contains(&holder.holder) && error.message.contains("http_lease"), "{error}");
}

#[test]
fn a_place_has_one_writer() {
    let front = Front::start();
    wait_for(async {
        let (one, two) = (opened(&front, "http_lease_one").await, opened(&front, "http_lease_one").await);
        let (first, second) = (claim(Duration::from_secs(600)), claim(Duration::from_secs(600)));
        // Nothing to give back yet.
        two.release(&second).await.unwrap();
        one.hold(&first).await.unwrap();
        refused(two.hold(&second).await, &first);
        // The refused one has left nothing in the way.
        one.hold(&first.renewed()).await.unwrap();
        // Other work is another place.
        let other = Lease::new(Work::Reembed, Duration::from_secs(600));
        two.hold(&other).await.unwrap();
        one.hold(&first).await.unwrap();
        one.release(&first).await.unwrap();
        one.release(&first).await.unwrap();
        two.hold(&second).await.unwrap();
        refused(one.hold(&first).await, &second);
    });
}

#[test]
fn a_lease_that_has_ended_is_taken_over_and_stays_lost() {
    let front = Front::start();
    wait_for(async {
        let (one, two) = (opened(&front, "http_lease_two").await, opened(&front, "http_lease_two").await);
        let dead = claim(Duration::from_secs(600));
        one.hold(&dead).await.unwrap();
        // Its holder was not heard of for longer than it lasts, by the server's clock.
        let later = "INSERT INTO _distributary_lease SELECT work, token, holder, since, seen + INTERVAL 1 MICROSECOND, 0, state \
                     FROM _distributary_lease FINAL";
        one.query(&Query::Text(later.to_owned())).await.unwrap();
        let next = claim(Duration::from_secs(600));
        let passed = "SELECT toUInt64(dateDiff('millisecond', max(seen), now64(6, 'UTC')) > 0) FROM _distributary_lease";
        while count(&one, passed).await == 0 {}
        two.hold(&next).await.unwrap();
        // The one that was paused wakes: it is told, by whatever call comes first.
        refused(one.hold(&dead).await, &next);
        refused(one.hold(&dead.renewed()).await, &next);
        two.hold(&next).await.unwrap();
    });
}

#[test]
fn of_many_that_come_at_once_at_most_one_holds_the_place() {
    let front = Front::start();
    wait_for(async {
        for round in 0..3 {
            let database = format!("http_lease_many_{round}");
            let mut tasks = Vec::new();
            for _ in 0..6 {
                let sink = opened(&front, &database).await;
                tasks.push(tokio::spawn(async move {
                    let lease = claim(Duration::from_secs(600));
                    let taken = sink.hold(&lease).await;
                    taken.is_ok().then_some((sink, lease))
                }));
            }
            let mut holders = Vec::new();
            for task in tasks {
                holders.extend(task.await.unwrap());
            }
            assert!(holders.len() <= 1, "{} hold the place", holders.len());
            let late = opened(&front, &database).await;
            let lease = claim(Duration::from_secs(600));
            match holders.first() {
                Some((_, holder)) => refused(late.hold(&lease).await, holder),
                None => late.hold(&lease).await.unwrap(),
            }
        }
    });
}

#[test]
fn a_checkpoint_is_compared_at_the_server() {
    let front = Front::start();
    wait_for(async {
        let (one, two) = (opened(&front, "http_checkpoint").await, opened(&front, "http_checkpoint").await);
        let checkpoint = |revision: u64, version: i64| Checkpoint {
            lane: LaneId::new("silver", SinkKind::Clickhouse, "counted", None),
            revision,
            table_id: "t".into(),
            version: Some(version),
            pending: None,
            epoch: 0,
            generation: 0,
            schema_fingerprint: String::new(),
            mapping_fingerprint: String::new(),
            model: None,
            updated_at: "2026-01-01T00:00:00Z".into(),
        };
        one.flush(&[checkpoint(1, 1)]).await.unwrap();
        // Both read revision 1; of two that come from it, one wins, and the other is told or has been replaced by it.
        let moves = [[checkpoint(2, 2)], [checkpoint(2, 3)]];
        let (a, b) = tokio::join!(one.flush(&moves[0]), two.flush(&moves[1]));
        let kept = one.checkpoints().await.unwrap();
        assert_eq!((kept.len(), kept[0].revision), (1, 2));
        for (answer, version) in [(a, 2), (b, 3)] {
            if kept[0].version != Some(version) && answer.is_ok() {
                // It was replaced after it had looked: its next step stops.
                let error = one.flush(&[checkpoint(2, version)]).await.unwrap_err();
                assert_eq!(error.class, Class::Stop);
            } else if let Err(error) = answer {
                assert_eq!(error.class, Class::Stop, "{error}");
            }
        }
        assert_eq!(one.flush(&[checkpoint(2, 9)]).await.unwrap_err().class, Class::Stop);
        assert_eq!(one.flush(&[checkpoint(4, 9)]).await.unwrap_err().class, Class::Stop);
        one.flush(&[checkpoint(3, 9)]).await.unwrap();
    });
}

/// Writes the sample's configuration with a server as column store.
fn configured(directory: &Path, front: &Front, database: &str) {
    let mapping = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    let text = format!(
        "source: {{root: ./silver}}\nmapping: {}\nembed: hash\nclickhouse: {{url: \"{}\", database: {database}, user: {USER}}}\n\
         graph: {{url: \"grafeo:./data/graph\"}}\nvectors: {{url: \"edge:./data/vectors\"}}\n",
        mapping.display(),
        front.address()
    );
    std::fs::write(directory.join("distributary.yaml"), text).unwrap();
}

#[test]
fn the_sample_is_synced_to_a_server() {
    let front = Front::start();
    let home = tempfile::tempdir().unwrap();
    configured(home.path(), &front, "http_sample");
    let command = |arguments: &[&str]| -> Value {
        let output =
            distributary(home.path()).env("DISTRIBUTARY_CLICKHOUSE_PASSWORD", PASSWORD).args(arguments).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {stdout}{stderr}");
        assert!(!stdout.contains(PASSWORD) && !stderr.contains(PASSWORD), "{stdout}{stderr}");
        serde_json::from_str(&stdout).unwrap_or(Value::Null)
    };
    let clean = || {
        let verified = command(&["verify", "--json"]);
        for target in verified["targets"].as_array().unwrap() {
            assert_eq!(
                (&target["missing"], &target["extra"], &target["different"]),
                (&json!(0), &json!(0), &json!(0)),
                "{target}"
            );
        }
    };
    command(&["sample", "silver"]);
    assert!(operations(&command(&["sync", "--json"])) > 1000);
    clean();
    command(&["sample", "silver", "--crawl"]);
    assert!(operations(&command(&["sync", "--json"])) > 0);
    clean();
    assert_eq!(operations(&command(&["sync", "--json"])), 0);
    let films = command(&["sql", "--json", "SELECT count() AS films FROM movie_current"]);
    assert!(films[0]["films"].as_u64().unwrap() > 60, "{films}");
    // Without the password the other two sinks are delivered to, and the report says why the third is not.
    let answer = run(home.path(), &["sync", "--json"]);
    assert_ne!(answer.code, 0, "{}", answer.all());
    assert!(answer.all().contains("DISTRIBUTARY_CLICKHOUSE_PASSWORD"), "{}", answer.all());
}
