//! One run at a time has a place that keeps leases: the second stops at once, a dead one is followed, one that lost its place ends.

use std::time::Duration;

use distributary::sinks::{Class, Lease, SinkKind, Work};
use distributary::sync::{self, Leases, OpenError, Options, Setup};

use crate::support::engines::Bench;
use crate::support::faults::{Fault, Faults, Operation};
use crate::support::lake::{Author, Book};
use crate::support::{tests_dir, wait_for};

const KINDS: [SinkKind; 3] = [SinkKind::Clickhouse, SinkKind::Graph, SinkKind::Vectors];
/// No test takes so long.
const LONG: Duration = Duration::from_secs(3600);

fn book(id: i64) -> Book {
    Book { book_id: Some(id), title: Some(format!("Book {id}")), blurb: None, popularity: None, tags: Vec::new(), credits: None }
}

async fn world() -> (Bench, Faults, Setup) {
    let bench = Bench::new(tests_dir().join("mappings/library.yaml"));
    bench.lake.create(&[book(1), book(2)], true).await;
    bench.lake.create(&[Author { author_id: Some(1), name: None, bio: None, visits: None }], true).await;
    let faults = Faults::keeping_leases();
    let setup = bench.open_faulty(&faults).await;
    (bench, faults, setup)
}

/// The leases of a run, as opening takes them; what could not be asked is set aside.
async fn take(setup: &mut Setup, lasts: Duration) -> Result<(), distributary::sinks::SinkError> {
    let (leases, failed) = Leases::take(&mut setup.sinks, Work::Sync, lasts).await?;
    setup.leases = leases;
    setup.unopened.extend(failed);
    Ok(())
}

#[test]
fn the_second_run_stops_at_once_and_names_the_first() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        let first = Lease { holder: "process 7 on elsewhere".to_owned(), ..Lease::new(Work::Sync, LONG) };
        let since = Lease { since_ms: first.since_ms - 61_000, ..first.clone() };
        faults.lend(SinkKind::Graph, since.clone());
        let error = take(&mut setup, LONG).await.unwrap_err();
        assert_eq!(error.class, Class::Stop);
        for part in ["process 7 on elsewhere", "begun 61 s ago", "3600 s"] {
            assert!(error.message.contains(part), "{error}");
        }
        // What it had taken before it met the first one is free again, and the first keeps its place.
        let kept = KINDS.map(|kind| faults.lease(kind, Work::Sync));
        assert_eq!(kept, [None, Some(since), None]);
    });
}

#[test]
fn a_run_has_its_places_until_it_is_over() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        take(&mut setup, LONG).await.unwrap();
        let own = KINDS.map(|kind| faults.lease(kind, Work::Sync).unwrap());
        assert!(own.iter().all(|lease| lease.token == own[0].token && lease.holder.contains(&std::process::id().to_string())));
        assert!(sync::sync(&setup, &Options::default()).await.unwrap().ok());
        // Another kind of work is not in the way.
        let rebuild = Lease::new(Work::Reembed, LONG);
        for sink in &setup.sinks {
            sink.hold(&rebuild).await.unwrap();
            assert_eq!(sink.hold(&Lease::new(Work::Sync, LONG)).await.unwrap_err().class, Class::Stop);
        }
        setup.close().await.unwrap();
        assert_eq!(KINDS.map(|kind| faults.lease(kind, Work::Sync)), [None, None, None]);
        assert_eq!(KINDS.map(|kind| faults.lease(kind, Work::Reembed)), [(); 3].map(|()| Some(rebuild.clone())));
    });
}

#[test]
fn a_dead_runs_place_is_taken_over() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        let mut dead = Lease::new(Work::Sync, Duration::from_secs(90));
        dead.renewed_ms -= 90_001;
        KINDS.into_iter().for_each(|kind| faults.lend(kind, dead.clone()));
        take(&mut setup, LONG).await.unwrap();
        assert!(KINDS.iter().all(|kind| faults.lease(*kind, Work::Sync).unwrap().token != dead.token));
        assert!(sync::sync(&setup, &Options::default()).await.unwrap().ok());
        setup.close().await.unwrap();
    });
}

#[test]
fn a_run_that_lost_its_place_ends_and_says_to_whom() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        // It is heard of every ten milliseconds.
        take(&mut setup, Duration::from_millis(30)).await.unwrap();
        let heir = Lease { holder: "process 8 on elsewhere".to_owned(), ..Lease::new(Work::Sync, LONG) };
        faults.lend(SinkKind::Vectors, heir.clone());
        setup.leases.lost().cancelled().await;
        let error = sync::sync(&setup, &Options::default()).await.unwrap_err();
        let OpenError::Sink(error) = error else { panic!("{error}") };
        assert_eq!(error.class, Class::Stop);
        assert!(error.message.contains("process 8 on elsewhere"), "{error}");
        setup.close().await.unwrap();
        assert_eq!(faults.lease(SinkKind::Vectors, Work::Sync), Some(heir), "the other one's place is left to it");
    });
}

#[test]
fn a_place_lost_in_the_middle_ends_the_run_after_the_batch_under_way() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        take(&mut setup, Duration::from_millis(30)).await.unwrap();
        faults.push(SinkKind::Clickhouse, Operation::Write, Fault::Waits);
        let options = Options::default();
        let run = sync::sync(&setup, &options);
        let steal = async {
            while faults.to_come() > 0 {
                tokio::task::yield_now().await;
            }
            // The write is under way, and another run takes the place, as it may when this process is paused for long.
            faults.lend(SinkKind::Clickhouse, Lease::new(Work::Sync, LONG));
            setup.leases.lost().cancelled().await;
            faults.until.cancel();
        };
        let (outcome, ()) = tokio::join!(run, steal);
        let OpenError::Sink(error) = outcome.unwrap_err() else { panic!("it went on") };
        assert_eq!(error.class, Class::Stop, "{error}");
        setup.close().await.unwrap();
    });
}

#[test]
fn a_sink_that_cannot_be_asked_is_gone_on_without() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        faults.push(SinkKind::Vectors, Operation::Hold, Fault::Reject(Class::Permanent));
        take(&mut setup, LONG).await.unwrap();
        assert_eq!(setup.sinks.len(), 2);
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        assert!(!report.ok());
        for (_, target) in report.targets() {
            assert_eq!(target.ok, target.sink != SinkKind::Vectors, "{target:?}");
        }
        setup.close().await.unwrap();
        // Where none can be asked there is nothing to go on with.
        let (_bench, faults, mut setup) = world().await;
        KINDS.into_iter().for_each(|kind| faults.push(kind, Operation::Hold, Fault::Reject(Class::Permanent)));
        assert_eq!(take(&mut setup, LONG).await.unwrap_err().class, Class::Permanent);
    });
}

#[test]
fn a_renewal_that_fails_for_once_ends_nothing() {
    wait_for(async {
        let (_bench, faults, mut setup) = world().await;
        take(&mut setup, Duration::from_millis(300)).await.unwrap();
        let before = faults.lease(SinkKind::Graph, Work::Sync).unwrap().renewed_ms;
        faults.push(SinkKind::Graph, Operation::Hold, Fault::Reject(Class::Permanent));
        // It is heard of again after that.
        while faults.happened() == 0 || faults.lease(SinkKind::Graph, Work::Sync).unwrap().renewed_ms == before {
            tokio::task::yield_now().await;
        }
        assert!(!setup.leases.lost().is_cancelled());
        assert!(sync::sync(&setup, &Options::default()).await.unwrap().ok());
        setup.close().await.unwrap();
    });
}
