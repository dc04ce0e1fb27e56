//! The real binary is killed in the middle of a sync into a server, again and again, each time when it has sent something else.

use std::process::Stdio;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::command::distributary;
use super::kill::kill_when;
use super::proxy::{Fault, When};
use super::server::{Server, World, change_lake, make_lake};
use super::wait_for;

/// How often.
const KILLS: usize = 20;
/// Books of the lake, in batches of a few.
const BOOKS: i64 = 30;
const LIMITS: &str = "limits: {batch_rows: 8}\n";
/// No run takes so long.
const LONG: Duration = Duration::from_secs(600);

/// A server with a lake as it was at first.
fn fresh<S: Server>(lake: &super::lake::Lake) -> World<S> {
    let world = World::<S>::over(lake, BOOKS);
    world.configure(&world.server.entry(&world.proxy.address()), LIMITS);
    world
}

/// Runs a sync that falls silent when it has sent so often, and kills it there. Answers whether it was killed.
fn kill_at<S: Server>(world: &World<S>, moment: usize, fault: Fault) -> bool {
    let (tell, told) = channel();
    world.proxy.reset();
    world.proxy.tell(tell.clone());
    world.proxy.push(When::Sent(moment), fault);
    let mut command = distributary(world.path());
    let child = command.arg("sync").stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let killed = kill_when(child, tell, &told, LONG);
    world.proxy.reset();
    killed
}

/// Half of the runs are first ones, half deliver changes; the server has acted on what was sent last, or has heard half of it. The next run
/// mends it, and the server holds what a run makes that nobody disturbs.
pub(crate) fn killed_at_any_moment_the_next_sync_mends_it<S: Server>() {
    let lakes = tempfile::tempdir().unwrap();
    let first = make_lake(&lakes.path().join("first"), BOOKS);
    let clean = fresh::<S>(&first);
    let sent = [clean.measured(), {
        (1..4).for_each(|round| change_lake(&clean.lake, BOOKS, round));
        clean.measured()
    }];
    let (after, later) = (clean.contents(), super::lake::Lake::at(lakes.path().join("later")));
    super::lake::copy_dir(&clean.lake.root, &later.root);
    assert!(after.len() > 30, "{after:?}");
    let before = {
        let clean = fresh::<S>(&first);
        clean.sync().expect(0);
        clean.contents()
    };
    drop(clean);

    let (mut killed, mut refused) = (0, 0);
    for number in 0..KILLS {
        let world = fresh::<S>(&first);
        let has_changes = number % 2 == 1;
        if has_changes {
            world.sync().expect(0);
            world.replace_lake(&later);
        }
        let sends = sent[usize::from(has_changes)];
        let moment = (sends - 1) * (number / 2) / (KILLS / 2 - 1);
        let fault = if number / 2 % 2 == 0 { Fault::Silence } else { Fault::Withhold };
        let when = format!("killed at {fault:?} after {moment} of {sends} requests, with changes: {has_changes}");
        killed += usize::from(kill_at(&world, moment, fault));
        let mut next = world.sync();
        if next.code == 3 {
            assert!(next.stderr.contains("is being written by another `sync` run"), "{when}: {}", next.all());
            refused += 1;
            wait_for(world.server.end_leases());
            next = world.sync();
        }
        assert_eq!(next.code, 0, "{when}: {}", next.all());
        world.verify(&when);
        let expected = if has_changes { &after } else { &before };
        let found = world.contents();
        assert!(found == *expected, "{when}: not what a clean run makes: {}", first_difference(&found, expected));
    }
    // The last moments may lie behind the end of a run that had to send less often.
    assert!(killed >= KILLS - 4, "only {killed} of {KILLS} runs were killed before they ended");
    assert!(refused > 0, "no run was told of the lease that a dead one had left");
}

/// How two lists of lines differ.
pub(crate) fn first_difference(found: &[String], expected: &[String]) -> String {
    let extra = found.iter().find(|line| !expected.contains(line));
    let missing = expected.iter().find(|line| !found.contains(line));
    format!("extra {extra:?}, missing {missing:?}")
}
