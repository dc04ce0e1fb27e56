//! Random sequences of operations on a small table: from each version to each later one the net changes, by whatever way they are seen, lead a
//! copy to what the snapshot holds, and touch nothing else.

use proptest::prelude::{Just, ProptestConfig, any, prop, proptest};
use proptest::prop_oneof;
use proptest::strategy::Strategy as Generator;

use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Insert(Vec<(i64, u8)>),
    InsertWithoutKey(u8),
    Rename(i64, u8),
    Score(u8),
    Delete(i64),
    ChangeKey(i64, i64),
    Merge(Vec<(i64, u8)>),
    Overwrite(Vec<(i64, u8)>),
    Rewrite,
    DeliverAgain(i64),
    Optimize,
    Restore(usize),
}

fn record(id: i64, kind: u8) -> Row {
    let scores = [Some(0.0), Some(-0.0), Some(f64::NAN), None, Some(1.5)];
    let name = (!kind.is_multiple_of(4)).then(|| format!("n{}", kind % 3));
    let tag = (kind % 5 > 1).then(|| format!("t{}", kind % 2));
    Row { id: Some(id), name, score: scores[usize::from(kind % 5)], tag }
}

fn operation() -> impl Generator<Value = Operation> {
    let some = || prop::collection::vec((0..6_i64, any::<u8>()), 1..4);
    prop_oneof![
        3 => some().prop_map(Operation::Insert),
        1 => any::<u8>().prop_map(Operation::InsertWithoutKey),
        3 => (0..6_i64, any::<u8>()).prop_map(|(id, name)| Operation::Rename(id, name)),
        1 => any::<u8>().prop_map(Operation::Score),
        2 => (0..6_i64).prop_map(Operation::Delete),
        1 => (0..6_i64, 0..6_i64).prop_map(|(from, to)| Operation::ChangeKey(from, to)),
        2 => some().prop_map(Operation::Merge),
        1 => some().prop_map(Operation::Overwrite),
        1 => Just(Operation::Rewrite),
        1 => (0..6_i64).prop_map(Operation::DeliverAgain),
        1 => Just(Operation::Optimize),
        1 => any::<prop::sample::Index>().prop_map(|at| Operation::Restore(at.index(1000))),
    ]
}

/// The table and what it should hold at each version.
struct Model {
    lake: Lake,
    versions: BTreeMap<i64, Vec<Row>>,
}

fn records_of(pairs: &[(i64, u8)]) -> Vec<Row> {
    pairs.iter().map(|(id, kind)| record(*id, *kind)).collect()
}

impl Model {
    fn now(&self) -> Vec<Row> {
        self.versions.values().next_back().unwrap().clone()
    }

    async fn apply(&mut self, operation: &Operation) {
        let mut rows = self.now();
        match operation {
            Operation::Insert(new) => {
                rows.extend(records_of(new));
                self.lake.append(&records_of(new)).await;
            }
            Operation::InsertWithoutKey(kind) => {
                let new = Row { id: None, ..record(0, *kind) };
                rows.push(new.clone());
                self.lake.append(&[new]).await;
            }
            Operation::Rename(id, name) => {
                rows.iter_mut().filter(|row| row.id == Some(*id)).for_each(|row| row.name = Some(format!("n{}", name % 3)));
                self.lake.update(&format!("id = {id}"), "name", &format!("'n{}'", name % 3)).await;
            }
            Operation::Score(score) => {
                rows.iter_mut().for_each(|row| row.score = Some(f64::from(score % 2)));
                self.lake.update("true", "score", &format!("cast({} as double)", score % 2)).await;
            }
            Operation::Delete(id) => {
                rows.retain(|row| row.id != Some(*id));
                self.lake.delete(&format!("id = {id}")).await;
            }
            Operation::ChangeKey(from, to) => {
                rows.iter_mut().filter(|row| row.id == Some(*from)).for_each(|row| row.id = Some(*to));
                self.lake.update(&format!("id = {from}"), "id", &to.to_string()).await;
            }
            Operation::Merge(new) => {
                let mut new = records_of(new);
                new.sort_by_key(|row| row.id);
                new.dedup_by_key(|row| row.id);
                for row in &new {
                    let mut known = false;
                    for old in rows.iter_mut().filter(|old| old.id == row.id) {
                        *old = row.clone();
                        known = true;
                    }
                    if !known {
                        rows.push(row.clone());
                    }
                }
                self.lake.merge(&new).await;
            }
            Operation::Overwrite(new) => {
                rows = records_of(new);
                self.lake.overwrite(&rows).await;
            }
            Operation::Rewrite => {
                rows.reverse();
                self.lake.overwrite(&rows).await;
            }
            Operation::DeliverAgain(id) => {
                let again: Vec<Row> = rows.iter().filter(|row| row.id == Some(*id)).cloned().collect();
                rows.extend(again.clone());
                self.lake.append(&again).await;
            }
            Operation::Optimize => self.lake.optimize().await,
            Operation::Restore(at) => {
                let version = *self.versions.keys().nth(at % self.versions.len()).unwrap();
                if version == self.lake.version() {
                    return;
                }
                rows.clone_from(&self.versions[&version]);
                self.lake.restore(version).await;
            }
        }
        self.versions.insert(self.lake.version(), rows);
    }

    /// From each version to each later one, by the feed and by difference.
    async fn check(&self) {
        let table = self.lake.open().await;
        for (to, now) in &self.versions {
            self.check_snapshot(&table, *to, now).await;
            for (from, then) in self.versions.range(..to) {
                for strategy in [Strategy::Feed, Strategy::Diff] {
                    let plan =
                        Plan { strategy, from: Some(*from), to: *to, reason: String::new(), sweep: false, recreated: false };
                    check_window(&seen(table.read(&plan, 0)).await, then, now, &plan);
                }
            }
        }
        let last = self.lake.version();
        for from in self.versions.range(..last).map(|(from, _)| *from) {
            assert_eq!(self.lake.planned(from).await.strategy, Strategy::Feed);
        }
    }

    async fn check_snapshot(&self, table: &Table, version: i64, now: &[Row]) {
        let seen = seen(table.at(version)).await;
        let copy: BTreeMap<i64, String> = seen.after.iter().map(|row| (row.id.unwrap(), row.content())).collect();
        assert_eq!(copy.len(), seen.after.len());
        assert_eq!(copy, records(now));
        assert_eq!(bad_keys(&seen.bad), bad(now));
    }
}

/// Keys with different rows.
fn bad(rows: &[Row]) -> Vec<i64> {
    let good = records(rows);
    let mut bad: Vec<i64> = rows.iter().filter_map(|row| row.id).filter(|id| !good.contains_key(id)).collect();
    bad.sort_unstable();
    bad.dedup();
    bad
}

fn bad_keys(bad: &[BadRecord]) -> Vec<i64> {
    let duplicates = bad.iter().filter(|bad| bad.reason == BadReason::DuplicateKey);
    let mut keys: Vec<i64> =
        duplicates.map(|bad| serde_json::from_str::<serde_json::Value>(&bad.key).unwrap()["id"].as_i64().unwrap()).collect();
    keys.sort_unstable();
    keys
}

fn keyless(rows: &[Row]) -> Vec<String> {
    let mut contents: Vec<String> = rows.iter().filter(|row| row.id.is_none()).map(Row::content).collect();
    contents.sort();
    contents.dedup();
    contents
}

fn check_window(seen: &Seen, then: &[Row], now: &[Row], plan: &Plan) {
    let mut copy = records(then);
    let goal = records(now);
    for row in &seen.before {
        let id = row.id.unwrap();
        let held = copy.remove(&id);
        assert_eq!(held.as_deref(), Some(row.content().as_str()), "before {id}: {plan:?}");
    }
    let mut seen_keys = std::collections::BTreeSet::new();
    for id in &seen.replaced {
        copy.remove(id);
        assert!(!seen.before.iter().any(|row| row.id == Some(*id)), "replaced and before {id}: {plan:?}");
    }
    for row in &seen.after {
        let id = row.id.unwrap();
        assert!(seen_keys.insert(id), "twice {id}: {plan:?}");
        let known = copy.insert(id, row.content());
        assert_eq!(known, None, "after without before {id}: {plan:?}");
        let same = seen.before.iter().any(|before| before.id == row.id && before.content() == row.content());
        assert!(!same, "equal at both ends {id}: {plan:?}");
    }
    let bad_now = bad(now);
    for id in bad_keys(&seen.bad) {
        assert!(bad_now.contains(&id), "{id} is not bad: {plan:?}");
        copy.remove(&id);
    }
    // A key that became bad must be told.
    for id in &bad_now {
        copy.remove(id);
        let was = records(then).contains_key(id);
        assert!(!was || bad_keys(&seen.bad).contains(id), "{id} became bad: {plan:?}");
    }
    assert_eq!(copy, goal, "{plan:?}");
    let counts = seen.counts;
    let mended = keyless(then).iter().filter(|content| !keyless(now).contains(content)).count();
    assert_eq!(seen.mended.len(), mended, "mended: {plan:?}");
    assert_eq!(counts.inserted + counts.updated, seen.after.len() as u64, "{plan:?}");
    assert_eq!(counts.quarantined, seen.bad.len() as u64, "{plan:?}");
}

fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(10)
}

proptest! {
    // Each case writes and reads some hundred files; PROPTEST_CASES asks for more of them.
    #![proptest_config(ProptestConfig { max_shrink_iters: 40, ..ProptestConfig::with_cases(cases()) })]

    #[test]
    fn net_changes_lead_a_copy_to_the_snapshot(operations in prop::collection::vec(operation(), 1..7)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let lake = Lake::new(true).await;
            let mut model = Model { versions: [(lake.version(), Vec::new())].into(), lake };
            for operation in &operations {
                model.apply(operation).await;
            }
            model.check().await;
        });
    }
}
