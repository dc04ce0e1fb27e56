//! Checkpoints move together, one step at a time, and only for the writer that has the place.

use std::time::Duration;

use distributary::sinks::{Checkpoint, Class, LaneId, Lease, Pending, Refused, Role, SinkKind, Work};

use super::subject::{DIMENSIONS, MODEL, Subject, ids, keys_of, row, shapes};
use super::{Others, Place};

/// The checkpoint of a lane that fills the place's first target from a table.
fn checkpoint(kind: SinkKind, table: &str, revision: u64) -> Checkpoint {
    let model = (kind == SinkKind::Vectors).then(|| MODEL.to_owned());
    Checkpoint {
        lane: LaneId::new(table, kind, shapes(kind)[0].0, model.as_deref()),
        revision,
        table_id: "t".to_owned(),
        version: Some(revision.cast_signed()),
        pending: None,
        epoch: 0,
        generation: 0,
        schema_fingerprint: "s".to_owned(),
        mapping_fingerprint: "m".to_owned(),
        model,
        updated_at: "2026-01-01T00:00:00Z".to_owned(),
    }
}

fn sorted(mut checkpoints: Vec<Checkpoint>) -> Vec<Checkpoint> {
    checkpoints.sort_by_key(|checkpoint| checkpoint.lane.name());
    checkpoints
}

pub(crate) async fn a_checkpoint_moves_only_from_the_one_before<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    Subject::all(&sink).await;
    let at = |revision| checkpoint(P::KIND, "silver", revision);
    for revision in 1..=3 {
        sink.flush(&[at(revision)]).await.unwrap();
        // Once more: the answer was lost.
        sink.flush(&[at(revision)]).await.unwrap();
        assert_eq!(sink.checkpoints().await.unwrap(), [at(revision)]);
    }
    let other = Checkpoint { table_id: "another".to_owned(), ..at(3) };
    let unknown = |revision| checkpoint(P::KIND, "new", revision);
    for wrong in [at(1), at(2), other, at(5), unknown(2), unknown(0)] {
        let error = sink.flush(std::slice::from_ref(&wrong)).await.unwrap_err();
        assert_eq!(error.class, Class::Stop, "{error}");
        assert!(error.message.contains(&wrong.lane.name()), "{error}");
        assert_eq!(sink.checkpoints().await.unwrap(), [at(3)]);
    }
    sink.flush(&[at(4)]).await.unwrap();
}

pub(crate) async fn checkpoints_move_together_or_not_at_all<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    Subject::all(&sink).await;
    let of = |table: &str, revision| checkpoint(P::KIND, table, revision);
    sink.flush(&[of("a", 1), of("b", 1)]).await.unwrap();
    assert_eq!(sorted(sink.checkpoints().await.unwrap()), [of("a", 1), of("b", 1)]);
    for wrong in [[of("a", 2), of("b", 3)], [of("b", 3), of("a", 2)], [of("a", 2), of("c", 2)]] {
        assert_eq!(sink.flush(&wrong).await.unwrap_err().class, Class::Stop);
        assert_eq!(sorted(sink.checkpoints().await.unwrap()), [of("a", 1), of("b", 1)]);
    }
    // Some of it is there already.
    sink.flush(&[of("a", 2)]).await.unwrap();
    sink.flush(&[of("a", 2), of("b", 2), of("c", 1)]).await.unwrap();
    assert_eq!(sorted(sink.checkpoints().await.unwrap()), [of("a", 2), of("b", 2), of("c", 1)]);
}

pub(crate) async fn any_text_is_kept_in_a_checkpoint<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    Subject::all(&sink).await;
    let hostile = "it's a `table`\\\"$x\" {} \u{202e}עברית 🎬\0\n".repeat(20);
    let mut one = checkpoint(P::KIND, "ta'ble`\\🎬", 1);
    one.table_id.clone_from(&hostile);
    one.mapping_fingerprint = hostile;
    one.version = None;
    one.pending = Some(Pending { to: i64::MAX, from: Some(0), files_done: u64::MAX, sweep: true });
    (one.epoch, one.generation) = (u8::MAX, u16::MAX);
    sink.flush(std::slice::from_ref(&one)).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [one.clone()]);
    let next = Checkpoint { revision: 2, pending: None, version: Some(i64::MAX), ..one };
    sink.flush(std::slice::from_ref(&next)).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [next]);
}

pub(crate) async fn what_was_flushed_is_there_when_it_is_opened_again<P: Place>() {
    let place = P::fresh().await;
    for round in 1..4_i64 {
        let sink = place.open().await;
        let revision = round.cast_unsigned();
        if round > 1 {
            // Before anything is prepared, as `verify` asks.
            assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint(P::KIND, "silver", revision - 1)]);
            for subject in Subject::unprepared(&sink) {
                assert_eq!(subject.contents().await, [row(0, 0, "zero"), row(round - 1, 0, "latest")]);
                assert_eq!(sink.newest(&subject.target).await.unwrap(), Some(revision - 1));
            }
        }
        let mut writes = Vec::new();
        for subject in Subject::all(&sink).await {
            let rows = if round == 1 { vec![row(0, 0, "zero"), row(1, 0, "latest")] } else { vec![row(round, 0, "latest")] };
            let deletes = if round == 1 { vec![] } else { vec![(round - 1, 0)] };
            writes.push(subject.change(revision, &rows, &deletes));
            if round > 1 {
                // The first row is touched, so that its version is this round's too.
                writes.last_mut().unwrap().upserts = subject.rows(&[row(0, 0, "zero"), row(round, 0, "latest")]);
            }
        }
        assert_eq!(sink.write(&writes).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[checkpoint(P::KIND, "silver", revision)]).await.unwrap();
        sink.close().await.unwrap();
        drop(sink);
    }
}

pub(crate) async fn a_second_writer_does_no_harm<P: Place>() {
    let place = P::fresh().await;
    let first = place.open().await;
    let of_first = Subject::all(&first).await;
    for subject in &of_first {
        subject.put(1, &[row(1, 0, "one")], &[]).await;
    }
    first.flush(&[checkpoint(P::KIND, "silver", 1)]).await.unwrap();
    if P::OTHERS == Others::Refused {
        let error = place.try_open().await.unwrap_err();
        assert_eq!(error.class, Class::Stop, "{error}");
        for subject in &of_first {
            assert_eq!(subject.contents().await, [row(1, 0, "one")], "the first one goes on");
        }
        return;
    }
    let second = place.open().await;
    let of_second = Subject::all(&second).await;
    assert_eq!(second.checkpoints().await.unwrap(), [checkpoint(P::KIND, "silver", 1)]);
    // The second moves on, the first wakes and tries what it was about to do.
    for subject in &of_second {
        subject.put(2, &[row(1, 0, "two")], &[]).await;
    }
    let moved = Checkpoint { updated_at: "2026-02-02T00:00:00Z".to_owned(), ..checkpoint(P::KIND, "silver", 2) };
    second.flush(std::slice::from_ref(&moved)).await.unwrap();
    let error = first.flush(&[checkpoint(P::KIND, "silver", 2)]).await.unwrap_err();
    assert_eq!(error.class, Class::Stop, "{error}");
    assert_eq!(first.checkpoints().await.unwrap(), std::slice::from_ref(&moved));
    for (old, new) in of_first.iter().zip(&of_second) {
        // Its rows carry the older version, and lose.
        old.put(1, &[row(1, 0, "old")], &[]).await;
        assert_eq!(new.contents().await, [row(1, 0, "two")]);
    }
    // An engine may gather rows until it is closed.
    first.close().await.unwrap();
    for new in &of_second {
        assert_eq!(new.contents().await, [row(1, 0, "two")]);
    }
    second.flush(&[checkpoint(P::KIND, "silver", 3)]).await.unwrap();
    second.close().await.unwrap();
}

pub(crate) async fn a_place_has_one_run_of_a_kind<P: Place>() {
    let place = P::fresh().await;
    let lasting = || Lease::new(Work::Sync, Duration::from_secs(600));
    let (one, other) = (Lease { holder: "process 7 on 'här'`\\🎬".to_owned(), ..lasting() }, lasting());
    let first = place.open().await;
    first.hold(&one).await.unwrap();
    first.hold(&one.renewed()).await.unwrap();
    if P::OTHERS != Others::Leased {
        // The process that opened it has it; there is nothing to hold, and nothing fails.
        first.release(&one).await.unwrap();
        return;
    }
    let second = place.open().await;
    let error = second.hold(&other).await.unwrap_err();
    assert_eq!(error.class, Class::Stop, "{error}");
    assert!(error.message.contains(&one.holder), "it does not say who holds it: {error}");
    // Another kind of work is not in the way.
    let rebuild = Lease::new(Work::Reembed, Duration::from_secs(600));
    second.hold(&rebuild).await.unwrap();
    assert_eq!(first.hold(&Lease::new(Work::Reembed, Duration::from_secs(600))).await.unwrap_err().class, Class::Stop);
    // What is another's is not given back.
    second.release(&other).await.unwrap();
    assert_eq!(second.hold(&other).await.unwrap_err().class, Class::Stop);
    first.hold(&one.renewed()).await.unwrap();
    first.release(&one).await.unwrap();
    first.release(&one).await.unwrap();
    second.hold(&other.renewed()).await.unwrap();
    assert_eq!(first.hold(&one.renewed()).await.unwrap_err().class, Class::Stop);
    second.release(&other).await.unwrap();
    // A holder that was not heard of for too long is dead, and stopped when it wakes.
    let dead = lasting();
    first.hold(&dead).await.unwrap();
    place.outlive(&first, &dead).await;
    let heir = lasting();
    second.hold(&heir).await.unwrap();
    assert_eq!(first.hold(&dead.renewed()).await.unwrap_err().class, Class::Stop);
    second.hold(&heir.renewed()).await.unwrap();
    second.release(&heir).await.unwrap();
    second.release(&rebuild).await.unwrap();
}

/// For points: the same collection as two models made it. Elsewhere no model makes rows, and asking for one is an error.
pub(crate) async fn another_model_is_another_generation<P: Place>() {
    const OTHER: &str = "other@2";
    let place = P::fresh().await;
    let sink = place.open().await;
    let subject = Subject::all(&sink).await.remove(0);
    let name = subject.target.name.clone();
    if P::KIND != SinkKind::Vectors {
        assert_eq!(sink.generations().await.unwrap(), []);
        assert_eq!(sink.of_model(OTHER, 4).unwrap_err().class, Class::Permanent);
        assert_eq!(sink.promote(&name, &[]).await.unwrap_err().class, Class::Permanent);
        assert_eq!(sink.drop_generation(&name, OTHER).await.unwrap_err().class, Class::Permanent);
        return;
    }
    subject.put(1, &[row(1, 0, "one")], &[]).await;
    sink.flush(&[checkpoint(P::KIND, "silver", 1)]).await.unwrap();
    let other = sink.of_model(OTHER, DIMENSIONS / 2).unwrap();
    other.prepare(std::slice::from_ref(&subject.target), &[]).await.unwrap();
    let mut write = subject.change(1, &[], &[]);
    write.upserts = subject.rows_by(&[row(1, 0, "one"), row(2, 0, "two")], OTHER, DIMENSIONS / 2);
    assert_eq!(other.write(&[write]).await.unwrap(), Vec::<Refused>::new());
    other.flush(&[]).await.unwrap();
    assert_eq!(subject.contents().await, [row(1, 0, "one")], "the two know nothing of each other");
    assert_eq!(other.held(&subject.target, &ids(&[1, 2])).await.unwrap().num_rows(), 2);
    let roles = async || {
        let mut found: Vec<(String, Role)> = sink.generations().await.unwrap().into_iter().map(|g| (g.model, g.role)).collect();
        found.sort_by(|a, b| a.0.cmp(&b.0));
        found
    };
    let named = |own, others| [(MODEL.to_owned(), own), (OTHER.to_owned(), others)];
    assert_eq!(roles().await, named(Role::Serving, Role::Building));
    // It is put in service when it is where the other is, and not before.
    let tables = ["silver".to_owned()];
    assert_eq!(other.promote(&name, &tables).await.unwrap_err().class, Class::Transient);
    let mut of_other = checkpoint(P::KIND, "silver", 1);
    of_other.model = Some(OTHER.to_owned());
    of_other.lane.model = Some(OTHER.to_owned());
    sink.flush(&[of_other]).await.unwrap();
    for _ in 0..2 {
        other.promote(&name, &tables).await.unwrap();
        assert_eq!(roles().await, named(Role::Kept, Role::Serving));
    }
    assert_eq!(sink.drop_generation(&name, OTHER).await.unwrap_err().class, Class::Stop, "it is in service");
    for _ in 0..2 {
        sink.drop_generation(&name, MODEL).await.unwrap();
    }
    assert_eq!(roles().await, [(OTHER.to_owned(), Role::Serving)]);
    let left: Vec<Option<String>> = sink.checkpoints().await.unwrap().into_iter().map(|c| c.model).collect();
    assert_eq!(left, [Some(OTHER.to_owned())]);
    assert_eq!(other.held(&subject.target, &keys_of(&subject.target, &[(1, 0), (2, 0)])).await.unwrap().num_rows(), 2);
}
