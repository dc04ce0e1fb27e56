//! A sink that lost something, and one that lost its checkpoints: the one is mended when it is told to be, the other by the next sync.

use std::path::Path;

use crate::support::command::{run, sample_configuration};
use crate::support::engines::library;

fn synced(directory: &Path) {
    library();
    sample_configuration(directory);
    run(directory, &["sample", "silver"]).expect(0);
    run(directory, &["sync"]).expect(0);
}

fn operations(directory: &Path, arguments: &[&str]) -> u64 {
    let report = run(directory, arguments).expect(0).json();
    let tables = report["tables"].as_array().unwrap();
    let targets = tables.iter().flat_map(|table| table["targets"].as_array().unwrap());
    let counts = ["upserts", "deletes", "payload_updates"];
    targets.flat_map(|target| counts.map(|count| target[count].as_u64().unwrap())).sum()
}

#[test]
fn what_a_sink_lost_is_put_back_and_nothing_else_is_sent() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    synced(home);
    run(home, &["sql", "DELETE FROM movie WHERE movie_id <= 3"]).expect(0);
    run(home, &["sql", "DROP TABLE movie_genre"]).expect(0);
    let lost = run(home, &["verify", "--json"]).expect(1).json();
    let missing = |name: &str| {
        let targets = lost["targets"].as_array().unwrap();
        targets.iter().find(|target| target["target"] == name).unwrap()["missing"].as_u64().unwrap()
    };
    let needed = missing("movie") + missing("movie_genre");
    assert!(missing("movie") == 3 && needed > 50, "{lost}");
    assert_eq!(operations(home, &["plan", "--repair", "--json"]), needed);
    assert_eq!(operations(home, &["sync", "--repair", "--json"]), needed);
    run(home, &["verify"]).expect(0);
    assert_eq!(operations(home, &["sync", "--json"]), 0);
}

#[test]
fn a_lane_without_its_checkpoint_writes_above_what_the_sink_holds() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    synced(home);
    // A repair raises the generation of what it writes.
    run(home, &["sql", "DELETE FROM movie WHERE movie_id = 1"]).expect(0);
    assert_eq!(operations(home, &["sync", "--repair", "--json"]), 1);
    // What the row says now is wrong, at a version that only a higher one can correct.
    run(home, &["sql", "INSERT INTO movie (movie_id, title, _version, _deleted) SELECT movie_id, 'wrong', _version, 0 FROM movie FINAL WHERE movie_id = 1"])
        .expect(0);
    run(home, &["sql", "TRUNCATE TABLE _distributary_checkpoint"]).expect(0);
    assert_eq!(operations(home, &["sync", "--json"]), 1);
    run(home, &["verify"]).expect(0);
}
