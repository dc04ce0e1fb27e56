//! Random batches against a model that is nothing but rows: the graph is a function of them, whatever their order.

use proptest::prelude::*;

use super::*;

/// One change of a row: which table, its keys, its value, or its removal.
#[derive(Debug, Clone)]
struct Op {
    table: usize,
    one: i64,
    other: i64,
    credit: i64,
    name: Option<i64>,
    delete: bool,
}

/// What is sent together, and what happens around it.
#[derive(Debug, Clone)]
struct Batch {
    ops: Vec<Op>,
    /// Each table in a call of its own, in this rotation.
    apart: Option<usize>,
    /// The same batch again, after its flush.
    twice: bool,
    /// The batch fails at its end before it succeeds.
    fails: bool,
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let op = (0..5_usize, -1..2_i64, 0..3_i64, 0..2_i64, proptest::option::of(0..3_i64), proptest::bool::weighted(0.4))
        .prop_map(|(table, one, other, credit, name, delete)| Op { table, one, other, credit, name, delete });
    let batch = (
        proptest::collection::vec(op, 1..8),
        proptest::option::of(0..5_usize),
        proptest::bool::weighted(0.1),
        proptest::bool::weighted(0.1),
    )
        .prop_map(|(ops, apart, twice, fails)| Batch { ops, apart, twice, fails });
    proptest::collection::vec(batch, 1..12)
}

/// Rows by key, for each table.
#[derive(Debug, Default, Clone)]
struct Model {
    tables: [BTreeMap<Vec<KeyValue>, Vec<Json>>; 5],
}

/// A key value that compares.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum KeyValue {
    Number(i64),
    Text(String),
}

fn comparable(key: &[Json]) -> Vec<KeyValue> {
    key.iter()
        .map(|value| value.as_i64().map_or_else(|| KeyValue::Text(value.as_str().unwrap().to_owned()), KeyValue::Number))
        .collect()
}

impl Op {
    fn row(&self) -> Vec<Json> {
        let name = self.name.map_or(Json::Null, |name| json!(format!("n{name}")));
        match self.table {
            0 => vec![json!(self.one), name],
            1 => vec![json!(self.other), name, json!(self.credit)],
            2 => vec![json!(self.one), json!(self.other), json!(format!("c{}", self.credit)), name, json!(self.credit)],
            _ => vec![json!(self.one), json!(self.other), name],
        }
    }
}

const KEY_LENGTHS: [usize; 5] = [1, 1, 3, 2, 2];

impl Model {
    /// The lines that [`contents`] answers for a graph that holds these rows, computed from nothing else.
    fn contents(&self) -> Vec<String> {
        let [movies, people, acted, genres, series] = &self.tables;
        let named = |pairs: Vec<(&str, Json)>| {
            json!(pairs.into_iter().filter(|(_, v)| !v.is_null()).collect::<BTreeMap<_, _>>()).to_string()
        };
        let mut lines = Vec::new();
        for row in movies.values() {
            lines.push(format!("[\"Movie\"] {}", named(vec![("movie_id", row[0].clone()), ("title", row[1].clone())])));
        }
        for row in people.values() {
            lines.push(format!(
                "[\"Person\"] {}",
                named(vec![("person_id", row[0].clone()), ("name", row[1].clone()), ("born", row[2].clone())])
            ));
        }
        // Stubs: key, and what the least relationship that gives anything gives.
        let mut stubs: BTreeMap<(&str, &str, i64), Option<Json>> = BTreeMap::new();
        for row in acted.values() {
            let person = stubs.entry(("Person", "person_id", row[1].as_i64().unwrap())).or_default();
            if person.is_none() && !row[3].is_null() {
                *person = Some(row[3].clone());
            }
            stubs.entry(("Movie", "movie_id", row[0].as_i64().unwrap())).or_default();
        }
        for row in genres.values() {
            stubs.entry(("Movie", "movie_id", row[0].as_i64().unwrap())).or_default();
        }
        for row in series.values() {
            stubs.entry(("Series", "series_id", row[0].as_i64().unwrap())).or_default();
        }
        let mut both: Vec<_> = genres.values().map(|row| (comparable(&row[..2]), "Movie", row)).collect();
        both.extend(series.values().map(|row| (comparable(&row[..2]), "Series", row)));
        both.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
        for (_, _, row) in both {
            let genre = stubs.entry(("Genre", "genre_id", row[1].as_i64().unwrap())).or_default();
            if genre.is_none() && !row[2].is_null() {
                *genre = Some(row[2].clone());
            }
        }
        for ((label, key, id), name) in stubs {
            let known = match label {
                "Movie" => movies.contains_key(&[KeyValue::Number(id)][..]),
                "Person" => people.contains_key(&[KeyValue::Number(id)][..]),
                _ => false,
            };
            if !known {
                let name = name.unwrap_or(Json::Null);
                lines.push(format!("[\"{label}\"] {}", named(vec![(key, json!(id)), ("name", name), ("_stub", json!(true))])));
            }
        }
        for row in acted.values() {
            let own = named(vec![("credit_id", row[2].clone()), ("name", row[3].clone()), ("order", row[4].clone())]);
            lines.push(format!("({{\"person_id\":{}}})-\"ACTED_IN\" {own}->({{\"movie_id\":{}}})", row[1], row[0]));
        }
        for (rows, key) in [(genres, "movie_id"), (series, "series_id")] {
            for row in rows.values() {
                let own = named(vec![("genre_name", row[2].clone())]);
                lines.push(format!("({{\"{key}\":{}}})-\"HAS_GENRE\" {own}->({{\"genre_id\":{}}})", row[0], row[1]));
            }
        }
        lines.sort();
        lines
    }
}

/// Rows by key, and whether they go.
type Changes = BTreeMap<Vec<KeyValue>, (Vec<Json>, bool)>;

async fn follow(sink: &GraphSink, catalogue: &Catalogue, batches: &[Batch]) -> Result<(), TestCaseError> {
    let targets = [&catalogue.movie, &catalogue.person, &catalogue.acted, &catalogue.genre, &catalogue.series_genre];
    let mut model = Model::default();
    for (number, batch) in batches.iter().enumerate() {
        let mut changes: [Changes; 5] = Default::default();
        for op in &batch.ops {
            let row = op.row();
            changes[op.table].insert(comparable(&row[..KEY_LENGTHS[op.table]]), (row, op.delete));
        }
        let mut writes = Vec::new();
        for (table, changes) in changes.iter().enumerate() {
            let upserts: Vec<_> = changes.values().filter(|(_, delete)| !delete).map(|(row, _)| row.clone()).collect();
            // Keys are given in the order of the target's key.
            let deletes: Vec<_> =
                changes.values().filter(|(_, delete)| *delete).map(|(row, _)| row[..KEY_LENGTHS[table]].to_vec()).collect();
            writes.push(change(targets[table], 1 + number as u64, &upserts, &deletes));
            for (key, (row, delete)) in changes {
                if *delete {
                    model.tables[table].remove(key);
                } else {
                    model.tables[table].insert(key.clone(), row.clone());
                }
            }
        }
        if let Some(turn) = batch.apart {
            writes.rotate_left(turn);
        }
        if batch.fails {
            let before = contents(sink).await;
            sink.write(&writes).await.unwrap();
            let mut broken = put(&catalogue.person, json!([9, "Nine", null]));
            broken.deletes = broken.upserts.project(&[1]).unwrap();
            prop_assert!(sink.write(&[broken]).await.is_err());
            prop_assert_eq!(contents(sink).await, before);
            // What was accepted is written again, into a transaction that is open from here on.
            sink.checkpoints().await.unwrap();
        }
        for _ in 0..=usize::from(batch.twice) {
            let calls: Vec<&[Write]> = if batch.apart.is_some() { writes.chunks(1).collect() } else { vec![&writes] };
            for call in calls {
                prop_assert_eq!(sink.write(call).await.unwrap(), vec![]);
            }
            sink.flush(&[]).await.unwrap();
            prop_assert_eq!(contents(sink).await, model.contents(), "after batch {} of {:?}", number, batches);
        }
    }
    // Whatever is left goes, in the order of tables, and nothing stays.
    for (table, target) in targets.iter().enumerate() {
        let keys: Vec<Vec<Json>> = model.tables[table].values().map(|row| row[..KEY_LENGTHS[table]].to_vec()).collect();
        write(sink, &[change(target, 99, &[], &keys)]).await;
        model.tables[table].clear();
        prop_assert_eq!(contents(sink).await, model.contents());
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_graph_is_a_function_of_its_rows(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let catalogue = Catalogue::new();
            let sink = memory(Engine::Embedded, &catalogue).await;
            follow(&sink, &catalogue, &batches).await
        })?;
    }
}

#[cfg(feature = "servers")]
proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_graph_of_a_server_is_a_function_of_its_rows(batches in batches()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let catalogue = Catalogue::new();
            let sink = memory(Engine::Server, &catalogue).await;
            follow(&sink, &catalogue, &batches).await
        })?;
    }
}
