//! Every fault of a connection at every step of a sync, for any server: the run ends well or says that it did not, calls made again are
//! counted, and after the next run nothing is missing and nothing is extra.

use serde_json::Value;

use super::command::{operations, run};
use super::proxy::{Fault, Proxy, When};
use super::server::{Server, Step, World};

/// Books of a lake: a sync of them takes as long as starting the program does.
const BOOKS: i64 = 8;

/// How often a call is tried at most.
const ATTEMPTS: usize = distributary::sinks::retry::DEFAULT_ATTEMPTS_MAX;

/// What happens at a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The connection is reset when half is with the server, and the next one is refused.
    Refused,
    /// The connection is reset when half is with the server.
    Cut,
    /// The server acts, its answer is lost.
    Lost,
    /// The server acts, half of its answer arrives.
    Truncated,
    /// The answer comes byte by byte.
    Slow,
    /// Somebody on the way answers with a status, and with or without a pause.
    Told(u16, Option<u32>),
    /// The same as [`Trouble::Cut`], until the run gives up.
    Lasting,
}

impl Trouble {
    /// Those that pass.
    fn passing(http: bool) -> Vec<Self> {
        let mut all = vec![Self::Refused, Self::Cut, Self::Lost, Self::Truncated, Self::Slow];
        if http {
            all.extend([Self::Told(503, None), Self::Told(429, Some(0)), Self::Told(503, Some(1)), Self::Told(429, None)]);
        }
        all
    }

    /// What the proxy does, at a moment.
    fn faults(self, when: When) -> Vec<(When, Fault)> {
        match self {
            Self::Refused => vec![(when, Fault::ResetBefore), (When::Next, Fault::Refuse)],
            Self::Cut => vec![(when, Fault::ResetBefore)],
            Self::Lost => vec![(when, Fault::ResetAfter)],
            Self::Truncated => vec![(when, Fault::Truncate)],
            Self::Slow => vec![(when, Fault::Drip)],
            Self::Told(status, after) => vec![(when, Fault::Answer(status, after))],
            Self::Lasting => vec![(when, Fault::ResetBefore); ATTEMPTS],
        }
    }
}

/// The moment of a step.
fn at(step: &Step) -> When {
    When::Contains(step.sends.as_bytes().to_vec(), 0)
}

impl<S: Server> World<S> {
    /// A trouble in a sync that has something to do. It passes, so the run ends well, and the next one has nothing to do. Answers whether it
    /// happened.
    fn spoil(&self, trouble: Trouble, when: When, step: &str) -> bool {
        let what = format!("{trouble:?} at {step} in round {}", self.round());
        self.proxy.reset();
        let may_pass_unseen = S::RECONNECTS && !matches!(when, When::Contains(..));
        trouble.faults(when).into_iter().for_each(|(when, fault)| self.proxy.push(when, fault));
        let answer = self.sync();
        let happened = self.proxy.happened();
        assert_eq!(answer.code, 0, "{what}: a trouble that passes ends no run: {}", answer.all());
        let report = answer.json();
        let retries = report["retries"].as_u64().unwrap();
        // What is slow is no failure; an engine's client may ask again for what it only reads. What is sent again by us is counted.
        assert!(retries > 0 || happened == 0 || may_pass_unseen, "{what}: a call was made again and is not counted: {report}");
        assert!(retries == 0 || happened > 0, "{what}: nothing happened and something was counted: {report}");
        assert!(operations(&report) > 0, "{what}: the sync had nothing to do: {report}");
        self.proxy.reset();
        self.verify(&what);
        happened > 0
    }

    /// A trouble that lasts: the run says that it failed, and the next one does the rest.
    fn break_off(&self, step: &Step) {
        let what = format!("a trouble that lasts at {} in round {}", step.name, self.round());
        self.proxy.reset();
        Trouble::Lasting.faults(at(step)).into_iter().for_each(|(when, fault)| self.proxy.push(when, fault));
        let answer = self.sync();
        assert_eq!(answer.code, 1, "{what}: {}", answer.all());
        // On a slow machine the deadline of a call comes before the last attempt.
        let happened = self.proxy.happened();
        assert!((2..=ATTEMPTS).contains(&happened), "{what}: it was tried {happened} times: {}", answer.all());
        assert!(answer.all().contains(&format!("tried {happened} times")), "{what}: {}", answer.all());
        self.settle(&what);
    }
}

/// Whatever else is sent: moments spread over a run, the first and the last among them.
fn moments(sent: usize) -> impl Iterator<Item = usize> {
    const COUNT: usize = 7;
    (0..COUNT).map(move |part| (sent - 1) * part / (COUNT - 1))
}

/// Changes: what is there is read, rows are written, checkpoints move.
pub(crate) fn every_fault_of_a_window_is_mended<S: Server>() {
    let mut world = World::<S>::new(BOOKS);
    world.sync().expect(0);
    world.change();
    let sent = world.measured();
    assert!(sent > 3, "the client sent {sent} times, so the proxy is not between it and the server");
    for step in S::STEPS.iter().filter(|step| !step.first) {
        for trouble in Trouble::passing(S::HTTP) {
            world.change();
            let happened = world.spoil(trouble, at(step), step.name);
            assert!(happened || trouble == Trouble::Slow, "{trouble:?} never happened: nothing of {} was sent", step.name);
        }
        world.change();
        world.break_off(step);
    }
    for moment in moments(sent) {
        world.change();
        world.spoil(Trouble::Lost, When::Sent(moment), &format!("moment {moment} of {sent}"));
    }
    assert_eq!(world.settle("at the end"), 0, "the runs left something to do");
}

/// A first sync: tables, collections and aliases are made.
pub(crate) fn every_fault_of_a_first_sync_is_mended<S: Server>() {
    let sent = World::<S>::new(BOOKS).measured();
    for step in S::STEPS.iter().filter(|step| step.first) {
        for trouble in Trouble::passing(S::HTTP) {
            let happened = World::<S>::new(BOOKS).spoil(trouble, at(step), step.name);
            assert!(happened || trouble == Trouble::Slow, "{trouble:?} never happened: nothing of {} was sent", step.name);
        }
        World::<S>::new(BOOKS).break_off(step);
    }
    for moment in moments(sent) {
        World::<S>::new(BOOKS).spoil(Trouble::Lost, When::Sent(moment), &format!("moment {moment} of {sent}"));
    }
}

/// The server is gone for a whole run: the other lanes finish, and `status` says which one lags and by how much.
pub(crate) fn a_server_that_is_down_holds_back_nobody<S: Server>() {
    let mut world = World::<S>::new(BOOKS);
    let own = S::KIND.name();
    let others: String = [("clickhouse", "chdb"), ("graph", "grafeo"), ("vectors", "edge")]
        .iter()
        .filter(|(key, _)| *key != own)
        .map(|(key, scheme)| format!("{key}: {{url: \"{scheme}:./data/{key}\"}}\n"))
        .collect();
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
    let of = |is_own: bool| targets.iter().filter(move |target| (target["sink"] == own) == is_own);
    assert!(of(true).count() > 0 && of(true).all(|target| target["ok"] == false), "{}", answer.all());
    assert!(of(false).count() > 0 && of(false).all(|target| target["ok"] == true), "{}", answer.all());
    assert!(report["retries"].as_u64().unwrap() > 0, "it was asked once and never again: {report}");
    let lanes = |code| {
        let status = run(world.path(), &["status", "--json"]).expect(code).json();
        let mut lanes = status["lanes"].as_array().unwrap().clone();
        lanes.retain(|lane| lane["table"] == "books");
        assert!(lanes.iter().any(|lane| lane["sink"] == own) && lanes.iter().any(|lane| lane["sink"] != own), "{status}");
        lanes
    };
    // Checkpoints are where the data is, so how far it has come is known when it is back.
    for lane in lanes(1) {
        let is_own = lane["sink"] == own;
        assert_eq!(lane["reached"], !is_own, "{lane}");
        assert_eq!(lane["lag"], if is_own { Value::Null } else { Value::from(0) }, "{lane}");
        let says = lane["note"].as_str().unwrap_or_default();
        assert_eq!(says.contains("cannot be opened") && says.contains(&nobody), is_own, "{lane}");
    }
    world.configure(&up, &others);
    for lane in lanes(0) {
        assert_eq!(lane["lag"], i64::from(lane["sink"] == own), "{lane}");
    }
    assert!(world.settle("after it was down") > 0);
    assert!(lanes(0).iter().all(|lane| lane["lag"] == 0));
}

/// A certificate that nobody signed is refused, unless it is named; there is no other way around it.
pub(crate) fn a_certificate_that_nobody_signed_is_refused<S: Server>() {
    let world = World::<S>::new(BOOKS);
    let proxy = Proxy::with_tls_before(&world.server.address());
    world.server.reached_at(&proxy.address());
    let entry = world.server.entry_with_tls(&proxy.address()).expect("every server is reached by TLS");
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

/// A module of tests: whole runs into one server.
macro_rules! server_runs {
    ($engine:ident, $server:ty) => {
        mod $engine {
            #[allow(unused_imports, reason = "the server is named as it is where it was declared")]
            use super::*;

            #[test]
            fn every_fault_of_a_window_is_mended() {
                $crate::support::spoilt::every_fault_of_a_window_is_mended::<$server>();
            }

            #[test]
            fn every_fault_of_a_first_sync_is_mended() {
                $crate::support::spoilt::every_fault_of_a_first_sync_is_mended::<$server>();
            }

            #[test]
            fn a_server_that_is_down_holds_back_nobody() {
                $crate::support::spoilt::a_server_that_is_down_holds_back_nobody::<$server>();
            }

            #[test]
            fn a_certificate_that_nobody_signed_is_refused() {
                $crate::support::spoilt::a_certificate_that_nobody_signed_is_refused::<$server>();
            }

            #[test]
            fn killed_at_any_moment_the_next_sync_mends_it() {
                $crate::support::killed::killed_at_any_moment_the_next_sync_mends_it::<$server>();
            }
        }
    };
}
pub(crate) use server_runs;
