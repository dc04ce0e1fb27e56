//! Rows come, change, go, and are found.

use distributary::mapping::target::TEXT_HASH;
use distributary::sinks::{Refused, SinkKind};

use super::Place;
use super::subject::{DIMENSIONS, Row, Subject, hash_of, ids, keys_of, row, texts, without_vectors};

/// Four rows of three records.
fn four() -> Vec<Row> {
    vec![row(-1, 0, "minus one"), row(1, 0, "one"), row(1, 1, "one more"), Row { name: None, year: None, ..row(2, 0, "") }]
}

pub(crate) async fn a_new_place_is_empty<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    assert_eq!(sink.kind(), P::KIND);
    for round in ["before it is prepared", "after"] {
        assert_eq!(sink.checkpoints().await.unwrap(), [], "{round}");
        for subject in Subject::unprepared(&sink) {
            let page = sink.list(&subject.target, None, 10).await.unwrap();
            assert_eq!((page.keys.num_rows(), page.next), (0, None), "{round}");
            assert_eq!(subject.held(&ids(&[1])).await, [], "{round}");
            assert_eq!(sink.newest(&subject.target).await.unwrap(), None, "{round}");
        }
        Subject::all(&sink).await;
    }
    sink.close().await.unwrap();
}

pub(crate) async fn what_is_written_is_held<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let all = four();
        subject.put(1, &all, &[(77, 7)]).await;
        assert_eq!(subject.contents().await, all);
        // Each column for itself.
        let changed =
            vec![Row { year: Some(-5), ..all[0].clone() }, Row { name: None, ..all[1].clone() }, row(2, 0, "has one now")];
        subject.put(2, &changed, &[]).await;
        let expected = vec![changed[0].clone(), changed[1].clone(), all[2].clone(), changed[2].clone()];
        assert_eq!(subject.contents().await, expected);
    }
}

pub(crate) async fn a_replay_changes_nothing<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let first = subject.change(1, &four(), &[]);
        let second = subject.change(2, &[row(1, 0, "changed"), row(3, 0, "new")], &[(-1, 0), (1, 1)]);
        let expected = vec![row(1, 0, "changed"), four().remove(3), row(3, 0, "new")];
        for _ in 0..2 {
            subject.write(first.clone()).await;
        }
        assert_eq!(subject.contents().await, four());
        for _ in 0..3 {
            subject.write(second.clone()).await;
            assert_eq!(subject.contents().await, expected);
        }
        // Twice before it is made durable, and durable twice.
        for _ in 0..2 {
            assert_eq!(sink.write(std::slice::from_ref(&second)).await.unwrap(), Vec::<Refused>::new());
        }
        for _ in 0..2 {
            sink.flush(&[]).await.unwrap();
        }
        assert_eq!(subject.contents().await, expected);
        assert_eq!(sink.newest(&subject.target).await.unwrap(), Some(2));
    }
}

pub(crate) async fn an_older_version_loses<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        // The last epoch that every engine can hold.
        let high = 127 << 56 | 7 << 16 | 3;
        subject.put(high, &four(), &[]).await;
        subject.put(high - 1, &[row(1, 0, "old"), row(9, 0, "unknown to the newer one")], &[(-1, 0)]).await;
        let mut expected = four();
        expected.push(row(9, 0, "unknown to the newer one"));
        assert_eq!(subject.contents().await, expected, "an epoch is more than any commit");
        // At one version the later write wins.
        subject.put(high, &[row(1, 0, "again")], &[(-1, 0)]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "again"), expected[2].clone(), expected[3].clone(), expected[4].clone()]);
    }
}

pub(crate) async fn what_is_deleted_is_gone_and_can_come_back<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        subject.put(1, &four(), &[]).await;
        subject.put(2, &[], &[(1, 0), (1, 1), (2, 0), (5, 0)]).await;
        assert_eq!(subject.contents().await, four()[..1]);
        assert_eq!(subject.held(&ids(&[1, 2, 5])).await, []);
        assert_eq!(subject.listed(10).await, [-1]);
        subject.put(3, &[row(1, 0, "back")], &[(-1, 0)]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "back")]);
        subject.put(4, &[], &[(1, 0)]).await;
        assert_eq!(subject.contents().await, []);
        assert_eq!(subject.listed(10).await, Vec::<i64>::new());
    }
}

pub(crate) async fn a_record_shrinks_and_grows<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let parts =
            |count: i64, name: &str| -> Vec<Row> { (0..count).map(|part| row(1, part, &format!("{name} {part}"))).collect() };
        let other = row(2, 0, "another record");
        let with_other = |mut rows: Vec<Row>| {
            rows.push(other.clone());
            rows
        };
        subject.put(1, &with_other(parts(5, "first")), &[]).await;
        subject.put(2, &parts(2, "second"), &[(1, 2), (1, 3), (1, 4)]).await;
        assert_eq!(subject.contents().await, with_other(parts(2, "second")));
        subject.put(3, &parts(4, "third"), &[]).await;
        assert_eq!(subject.contents().await, with_other(parts(4, "third")));
        subject.put(4, &[], &[(1, 0), (1, 1), (1, 2), (1, 3)]).await;
        assert_eq!(subject.contents().await, [other]);
    }
}

pub(crate) async fn no_rows_are_no_work<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    sink.prepare(&[], &[]).await.unwrap();
    assert_eq!(sink.write(&[]).await.unwrap(), Vec::<Refused>::new());
    sink.flush(&[]).await.unwrap();
    for subject in Subject::all(&sink).await {
        subject.put(1, &[], &[]).await;
        assert_eq!(subject.contents().await, []);
        assert_eq!(sink.newest(&subject.target).await.unwrap(), None);
        assert_eq!(subject.held(&ids(&[])).await, []);
        subject.put(2, &four(), &[]).await;
        subject.put(3, &[], &[]).await;
        assert_eq!(subject.contents().await, four());
    }
}

/// More rows than go into one request or statement of any engine.
pub(crate) async fn a_large_batch_is_whole<P: Place>() {
    let count = match P::KIND {
        SinkKind::Clickhouse => 100_000,
        SinkKind::Graph => 11_000,
        SinkKind::Vectors => 2_500,
    };
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let all: Vec<Row> = (0..count).map(|id| row(id, 0, &format!("name {id}"))).collect();
        subject.put(1, &all, &[]).await;
        let keys: Vec<i64> = (0..count).collect();
        assert!(subject.held(&ids(&keys)).await == all, "not all of {count} rows are held as they were written");
        let mut listed = subject.listed(700).await;
        listed.sort_unstable();
        assert!(listed == keys, "{} of {count} records are listed", listed.len());
        let gone: Vec<(i64, i64)> = (10..count).map(|id| (id, 0)).collect();
        subject.put(2, &[], &gone).await;
        assert_eq!(subject.contents().await, all[..10]);
    }
}

pub(crate) async fn rows_are_found_by_any_columns<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let all = [row(1, 0, "same"), row(1, 1, "other"), row(2, 0, "same"), Row { name: None, ..row(3, 0, "") }];
        subject.put(1, &all, &[]).await;
        let found = |places: &[usize]| -> Vec<Row> { places.iter().map(|place| all[*place].clone()).collect() };
        assert_eq!(subject.held(&ids(&[1, 3, 9, 1])).await, found(&[0, 1, 3]), "by Silver key, given twice");
        let by_key = keys_of(&subject.target, &[(1, 1), (2, 0), (2, 1), (1, 1)]);
        assert_eq!(subject.held(&by_key).await, found(&[1, 2]), "by key");
        assert_eq!(subject.held(&texts("name", &["same", "nobody"])).await, found(&[0, 2]), "by another column");
        if P::KIND == SinkKind::Vectors {
            let hashes = [hash_of("same"), "nothing".to_owned()];
            let hashes: Vec<&str> = hashes.iter().map(String::as_str).collect();
            assert_eq!(subject.held(&texts(TEXT_HASH, &hashes)).await, found(&[0, 2]), "by text");
            let vectors = sink.vectors(hashes.iter().map(|hash| (*hash).to_owned()).collect()).await.unwrap();
            let known: Vec<(&str, usize)> = vectors.iter().map(|(hash, vector)| (hash.as_str(), vector.len())).collect();
            assert_eq!(known, [(hashes[0], DIMENSIONS)], "a text's vector, whichever row has the text");
        }
        assert_eq!(subject.held(&ids(&[])).await, []);
    }
}

pub(crate) async fn a_list_has_every_record_on_any_pages<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let mut all: Vec<Row> = (0..23).map(|id| row(id * 7 - 50, 0, "x")).collect();
        // A record of many rows, more than a page.
        all.extend((1..6).map(|part| row(6, part, "y")));
        subject.put(1, &all, &[]).await;
        let order = subject.listed(1000).await;
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).map(|id| id * 7 - 50).collect::<Vec<i64>>());
        for limit in [1, 2, 3, 23, 24] {
            assert_eq!(subject.listed(limit).await, order, "on pages of {limit} the order is another");
        }
        for cursor in ["", "{", "\"", "no such place", "\u{202e}\0"] {
            // What an engine may take for a place in its list is a page, and never a crash.
            if let Err(error) = sink.list(&subject.target, Some(cursor), 5).await {
                assert_eq!(error.class, distributary::sinks::Class::Permanent, "{cursor:?}: {error}");
            }
        }
    }
}

/// As a sweep does.
pub(crate) async fn a_list_goes_on_when_what_it_listed_is_deleted<P: Place>() {
    use arrow::array::AsArray;
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let all: Vec<Row> = (0..11).map(|id| row(id, 0, "x")).collect();
        subject.put(1, &all, &[]).await;
        let (mut seen, mut after, mut version) = (Vec::new(), None, 2);
        loop {
            let page = sink.list(&subject.target, after.as_deref(), 3).await.unwrap();
            let found: Vec<i64> = page.keys["id"].as_primitive::<arrow::datatypes::Int64Type>().values().to_vec();
            let gone: Vec<(i64, i64)> = found.iter().map(|id| (*id, 0)).collect();
            subject.put(version, &[], &gone).await;
            seen.extend(found);
            version += 1;
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, (0..11).collect::<Vec<i64>>());
        assert_eq!(subject.contents().await, []);
    }
}

pub(crate) async fn the_newest_version_is_known<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let newest = async || sink.newest(&subject.target).await.unwrap();
        subject.put(5, &four(), &[]).await;
        assert_eq!(newest().await, Some(5));
        // It does not depend on the order of rows or of ids.
        for (version, id) in [(1 << 56 | 9, -1), (1 << 56 | 10, 2)] {
            subject.put(version, &[row(id, 0, "newer")], &[]).await;
            assert_eq!(newest().await, Some(version));
        }
        subject.put(6, &[row(7, 0, "older, elsewhere")], &[]).await;
        assert_eq!(newest().await, Some(1 << 56 | 10));
        let last = u64::MAX >> 1;
        subject.put(last, &[row(8, 0, "the last")], &[]).await;
        assert_eq!(newest().await, Some(last));
    }
}

/// For points: the vector stays where only the payload is new. Where there are no vectors, there is nothing to keep.
pub(crate) async fn a_payload_changes_alone<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await.iter().filter(|_| P::KIND == SinkKind::Vectors) {
        subject.put(1, &[row(1, 0, "a"), row(2, 0, "b")], &[]).await;
        let payloads = |version, rows: &[Row]| {
            let mut write = subject.change(version, rows, &[]);
            write.upserts = without_vectors(&write.upserts);
            write
        };
        let newer = Row { year: Some(7), ..row(1, 0, "a") };
        for _ in 0..2 {
            subject.write(payloads(2, std::slice::from_ref(&newer))).await;
        }
        assert_eq!(subject.contents().await, [newer.clone(), row(2, 0, "b")]);
        // An older one loses; one of another text, or of a point that is not there, is refused, and the others are taken.
        subject.write(payloads(1, &[Row { year: Some(1), ..newer.clone() }])).await;
        let last = Row { year: Some(8), ..row(2, 0, "b") };
        let refused = sink.write(&[payloads(3, &[row(1, 0, "another text"), row(9, 0, "absent"), last.clone()])]).await.unwrap();
        let places: Vec<(usize, usize)> = refused.iter().map(|one| (one.write, one.row)).collect();
        assert_eq!(places, [(0, 0), (0, 1)], "{refused:?}");
        sink.flush(&[]).await.unwrap();
        assert_eq!(subject.contents().await, [newer.clone(), last.clone()]);
        // The old payload has something that the new one lacks.
        let lacking = Row { year: None, ..newer };
        subject.write(payloads(4, std::slice::from_ref(&lacking))).await;
        assert_eq!(subject.contents().await, [lacking, last]);
    }
}

/// Targets of one place, written in one call, know nothing of each other; nor do tables that share a collection.
pub(crate) async fn two_targets_are_apart<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        let mut other = (*subject.target).clone();
        other.table = "another".to_owned();
        if P::KIND != SinkKind::Vectors {
            other.name.push_str("_B");
        }
        let other = Subject { sink: sink.clone(), target: other.into() };
        sink.prepare(&[subject.target.clone(), other.target.clone()], &[]).await.unwrap();
        let writes =
            [subject.change(1, &[row(1, 0, "first")], &[]), other.change(1, &[row(1, 0, "second"), row(2, 0, "x")], &[])];
        assert_eq!(sink.write(&writes).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[]).await.unwrap();
        assert_eq!(subject.contents().await, [row(1, 0, "first")]);
        assert_eq!(other.contents().await, [row(1, 0, "second"), row(2, 0, "x")]);
        other.put(2, &[], &[(1, 0)]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "first")]);
        assert_eq!(other.contents().await, [row(2, 0, "x")]);
    }
}
