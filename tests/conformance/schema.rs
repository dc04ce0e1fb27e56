//! Targets are made ready, grow columns, and are named as people name things.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, StringArray};
use arrow::datatypes::{DataType, Field};
use distributary::sinks::{Class, Query, Refused, SinkKind, Write};
use serde_json::json;

use super::Place;
use super::subject::{DIMENSIONS, Subject, assert_same, ids, keys_of, row, shapes, stored, target_of, texts};

pub(crate) async fn to_prepare_again_changes_nothing<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        subject.put(1, &[row(1, 0, "one")], &[]).await;
        for _ in 0..2 {
            Subject::all(&sink).await;
        }
        assert_eq!(subject.contents().await, [row(1, 0, "one")]);
        subject.put(2, &[row(2, 0, "two")], &[]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "one"), row(2, 0, "two")]);
    }
}

pub(crate) async fn a_column_is_added<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    let name = || Field::new("name", DataType::Utf8, true);
    let list = || Field::new("more", DataType::List(Arc::new(Field::new("item", DataType::Utf8, true))), true);
    for (target, shape) in shapes(P::KIND) {
        let first = target_of(target, shape.clone(), vec![name()]);
        sink.prepare(std::slice::from_ref(&first), &[]).await.unwrap();
        let write = |target: &Arc<_>, version, upserts| Write {
            target: Arc::clone(target),
            version,
            upserts,
            deletes: keys_of(target, &[]),
        };
        let names = |value: &str| Arc::new(StringArray::from(vec![value])) as ArrayRef;
        let old = stored(&first, &[(1, 0)], vec![names("old")], &[Some("old")]);
        assert_eq!(sink.write(&[write(&first, 1, old)]).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[]).await.unwrap();

        let second = target_of(target, shape.clone(), vec![name(), Field::new("year", DataType::Int32, true), list()]);
        for _ in 0..2 {
            sink.prepare(std::slice::from_ref(&second), &[]).await.unwrap();
        }
        let mut lists = arrow::array::ListBuilder::new(arrow::array::StringBuilder::new());
        lists.append_value([Some("y"), Some("'z`")]);
        let columns: Vec<ArrayRef> = vec![names("new"), Arc::new(Int32Array::from(vec![7])), Arc::new(lists.finish())];
        let new = stored(&second, &[(2, 0)], columns, &[Some("new")]);
        assert_eq!(sink.write(&[write(&second, 2, new.clone())]).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[]).await.unwrap();
        let held = sink.held(&second, &ids(&[2])).await.unwrap();
        assert_same(&second, &held, &sink.image(&second, &new).unwrap(), "the new row");
        let held = sink.held(&second, &ids(&[1])).await.unwrap();
        assert_eq!((held.num_rows(), held.schema()), (1, second.stored_schema(DIMENSIONS)));
        if P::KIND != SinkKind::Vectors {
            assert_eq!(held["name"].as_string::<i32>().value(0), "old");
            assert!(held["year"].is_null(0), "what was written before the column has nothing in it");
        }
        // A column that the mapping no longer has is left alone.
        let third = target_of(target, shape, vec![Field::new("year", DataType::Int32, true)]);
        sink.prepare(std::slice::from_ref(&third), &[]).await.unwrap();
        let last = stored(&third, &[(3, 0)], vec![Arc::new(Int32Array::from(vec![9]))], &[Some("last")]);
        assert_eq!(sink.write(&[write(&third, 3, last.clone())]).await.unwrap(), Vec::<Refused>::new());
        sink.flush(&[]).await.unwrap();
        let held = sink.held(&third, &ids(&[3])).await.unwrap();
        assert_same(&third, &held, &sink.image(&third, &last).unwrap(), "without the first column");
    }
}

pub(crate) async fn unknown_columns_are_refused<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    for subject in Subject::all(&sink).await {
        subject.put(1, &[row(1, 0, "one")], &[]).await;
        let lacking = subject.change(2, &[row(1, 0, "two")], &[]);
        let columns: Vec<usize> =
            (0..lacking.upserts.num_columns()).filter(|place| lacking.upserts.schema().field(*place).name() != "year").collect();
        let lacking = Write { upserts: lacking.upserts.project(&columns).unwrap(), ..lacking };
        assert_eq!(sink.image(&subject.target, &lacking.upserts).unwrap_err().class, Class::Permanent);
        let error = sink.write(std::slice::from_ref(&lacking)).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        let strange = Write { deletes: texts("name", &["one"]), ..subject.change(2, &[], &[]) };
        let error = sink.write(&[strange]).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        let error = sink.held(&subject.target, &texts("yaer", &["1"])).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{error}");
        assert!(error.message.contains("yaer"), "{error}");
        // What failed left nothing, and the sink goes on.
        let _ = sink.flush(&[]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "one")]);
        subject.put(3, &[row(1, 0, "three")], &[]).await;
        assert_eq!(subject.contents().await, [row(1, 0, "three")]);
    }
}

/// A name of a column or a target is either taken, and then it works, or refused by [`distributary::sinks::Sink::check`], naming it.
pub(crate) async fn a_name_is_held_or_refused_by_name<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    let (usual, too_long) = ("a".repeat(60), "x".repeat(300));
    let taken = [usual.as_str(), "select", "A", "match_", "x1"];
    let doubtful = ["Ünï", "a b", "a`b", "a'b\"c", "a\\", "a.b", "1a", "$x", "_version", "_deleted", "_stub", "../up", &too_long];
    for (number, name) in taken.iter().chain(&doubtful).enumerate() {
        for (usual, shape) in shapes(P::KIND) {
            let as_column = target_of(&format!("{usual}_{number}"), shape.clone(), vec![Field::new(*name, DataType::Utf8, true)]);
            let as_target = target_of(name, shape, vec![Field::new("v", DataType::Utf8, true)]);
            for (what, target) in [("column", as_column), ("target", as_target)] {
                let when = format!("the {what} {name:?}");
                if let Err(error) = sink.check(&target) {
                    assert!(!taken.contains(name), "{when}: {error}");
                    assert_eq!(error.class, Class::Stop, "{when}: {error}");
                    let shown = error.message.contains(*name) || error.message.contains(&name.escape_debug().to_string());
                    assert!(shown, "{when} is not named: {error}");
                    continue;
                }
                sink.prepare(std::slice::from_ref(&target), &[]).await.unwrap_or_else(|error| panic!("{when}: {error}"));
                let rows = stored(&target, &[(1, 0)], vec![Arc::new(StringArray::from(vec!["it's"]))], &[Some("t")]);
                let write = Write { target: target.clone(), version: 1, upserts: rows.clone(), deletes: keys_of(&target, &[]) };
                let refused = sink.write(&[write]).await.unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_eq!(refused, [], "{when}");
                sink.flush(&[]).await.unwrap();
                let held = sink.held(&target, &ids(&[1])).await.unwrap_or_else(|error| panic!("{when}: {error}"));
                assert_same(&target, &held, &rows, &when);
            }
        }
    }
}

pub(crate) async fn questions_are_answered_or_refused<P: Place>() {
    let place = P::fresh().await;
    let sink = place.open().await;
    let subject = Subject::all(&sink).await.remove(0);
    subject.put(1, &[row(1, 0, "one"), row(2, 0, "two")], &[]).await;
    let text = |text: &str| Query::Text(text.to_owned());
    let nearest = |collection: &str, dimensions: usize, conditions: &[(&str, &str)]| Query::Nearest {
        collection: collection.to_owned(),
        vector: vec![1.0; dimensions],
        conditions: conditions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        top: 5,
    };
    let name = subject.target.name.as_str();
    let (good, bad): (Vec<(Query, usize)>, Vec<Query>) = match P::KIND {
        SinkKind::Clickhouse => (
            vec![(text("SELECT 1 AS n"), 1), (text("SELECT id FROM item_current WHERE id = 2"), 1)],
            vec![text("SELECT nope"), text("SELEC 1"), nearest(name, DIMENSIONS, &[])],
        ),
        SinkKind::Graph => (
            vec![(text("RETURN 1 AS n"), 1), (text("MATCH (i:Item) RETURN i.id AS id"), 2)],
            vec![text("MATCH ("), text("RETURN nope"), nearest(name, DIMENSIONS, &[])],
        ),
        SinkKind::Vectors => (
            vec![
                (nearest(name, DIMENSIONS, &[]), 2),
                (nearest(name, DIMENSIONS, &[("name", "two")]), 1),
                (nearest(name, DIMENSIONS, &[("year", "1901"), ("_table", "silver")]), 1),
                (nearest(name, DIMENSIONS, &[("name", "nobody")]), 0),
            ],
            vec![
                text("SELECT 1"),
                nearest("nowhere", DIMENSIONS, &[]),
                nearest(name, 3, &[]),
                nearest(name, DIMENSIONS, &[("yaer", "1")]),
            ],
        ),
    };
    for (question, count) in good {
        let answers = sink.query(&question).await.unwrap_or_else(|error| panic!("{question:?}: {error}"));
        assert_eq!(answers.len(), count, "{question:?}: {answers:?}");
        assert!(answers.iter().all(|answer| answer.get("n").is_none_or(|n| *n == json!(1))), "{answers:?}");
    }
    for question in bad {
        let error = sink.query(&question).await.unwrap_err();
        assert_eq!(error.class, Class::Permanent, "{question:?}: {error}");
    }
}
