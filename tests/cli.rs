//! The commands as a person or a machine meets them: exit codes, JSON, help, plans and decisions.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::command::{operations, run, sample_configuration};
use crate::support::engines::library;

/// A directory with the sample's lake and a configuration.
fn sample() -> TempDir {
    library();
    let home = tempfile::tempdir().unwrap();
    sample_configuration(home.path());
    run(home.path(), &["sample", "silver"]).expect(0);
    home
}

/// The counts of a report, without what differs from run to run.
fn counts(report: &Value) -> Value {
    let mut report = report.clone();
    report["elapsed_ms"] = Value::Null;
    report
}

#[test]
fn the_demo_shows_it_all_and_its_third_sync_sends_nothing() {
    let home = tempfile::tempdir().unwrap();
    let answer = run(home.path(), &["demo", "--json"]).expect(0);
    let values: Vec<Value> = answer.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let syncs: Vec<&Value> = values.iter().filter(|value| value["tables"].is_array()).collect();
    assert_eq!(syncs.len(), 3, "{}", answer.all());
    assert!(operations(syncs[0]) > 1000 && operations(syncs[1]) > 0);
    assert_eq!(operations(syncs[2]), 0, "{}", syncs[2]);
    let embedded = |report: &Value| -> u64 {
        let targets = report["tables"].as_array().unwrap().iter().flat_map(|table| table["targets"].as_array().unwrap());
        targets.map(|target| target["texts_embedded"].as_u64().unwrap()).sum()
    };
    // Three overviews are edited, and one film with one of its people comes: the crawl's popularity moves no text.
    assert!((4..=8).contains(&embedded(syncs[1])), "{} texts were embedded", embedded(syncs[1]));
    let verified = values.iter().find(|value| value["targets"].is_array()).unwrap();
    for target in verified["targets"].as_array().unwrap() {
        assert_eq!((&target["missing"], &target["extra"], &target["different"]), (&json!(0), &json!(0), &json!(0)), "{target}");
    }
    let answers: Vec<&Value> =
        values.iter().filter(|value| value.as_array().is_some_and(|a| a.iter().all(Value::is_object))).collect();
    assert!(
        answers.iter().rev().take(3).all(|rows| !rows.as_array().unwrap().is_empty()),
        "a question has no answer: {}",
        answer.all()
    );
    let nearest = answers.last().unwrap();
    assert_eq!(nearest[0]["title"], "Metropolis", "{nearest}");
    // What the demo leaves is a working directory for the other commands.
    let rows = run(&home.path().join("demo"), &["sql", "--json", "SELECT count() AS films FROM movie_current"]).expect(0).json();
    assert!(rows[0]["films"].as_u64().unwrap() > 60, "{rows}");
}

#[test]
fn every_command_has_help_with_examples() {
    let here = tempfile::tempdir().unwrap();
    let all = run(here.path(), &["--help"]).expect(0).stdout;
    assert!(all.contains("Exit codes"), "{all}");
    let commands =
        ["demo", "fetch", "sample", "check", "plan", "sync", "reembed", "status", "verify", "sql", "cypher", "search", "schema"];
    for command in commands {
        assert!(all.contains(&format!("  {command} ")), "{command} is not in the list: {all}");
        let help = run(here.path(), &[command, "--help"]).expect(0).stdout;
        assert!(help.contains("Examples:") && help.contains(&format!("distributary {command}")), "{command}: {help}");
        assert!(help.contains("--config") && help.contains("--json"), "{command}: {help}");
    }
}

/// `mappings/schema.json` is what editors read. Write it anew with `cargo run -- schema > mappings/schema.json`.
#[test]
fn the_committed_schema_is_the_one_that_is_printed() {
    let here = tempfile::tempdir().unwrap();
    let printed = run(here.path(), &["schema"]).expect(0).stdout;
    let committed = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/schema.json")).unwrap();
    assert_eq!(printed.trim(), committed.trim(), "run `cargo run -- schema > mappings/schema.json`");
    let config = run(here.path(), &["schema", "--of", "config"]).expect(0).json();
    assert!(config["properties"]["clickhouse"].is_object(), "{config}");
}

#[test]
fn reports_have_the_documented_form() {
    let home = sample();
    let report = run(home.path(), &["sync", "--json"]).expect(0);
    assert_eq!(report.stdout.trim().lines().count(), 1, "stdout has one object: {}", report.stdout);
    let report = report.json();
    assert!(report["elapsed_ms"].is_u64(), "{report}");
    let tables = report["tables"].as_array().unwrap();
    assert_eq!(tables.len(), 3);
    for table in tables {
        assert!(table["table"].is_string() && table["to"].is_i64(), "{table}");
        assert!(["feed", "diff", "snapshot"].contains(&table["strategy"].as_str().unwrap()), "{table}");
        assert!(table.get("from").is_some_and(|from| from.is_null() || from.is_i64()), "{table}");
        for count in ["inserted", "updated", "deleted", "unchanged", "quarantined"] {
            assert!(table["records"][count].is_u64(), "{count}: {table}");
        }
        for target in table["targets"].as_array().unwrap() {
            assert!(["clickhouse", "graph", "vectors"].contains(&target["sink"].as_str().unwrap()), "{target}");
            assert!(target["target"].is_string() && target["ok"] == true, "{target}");
            for count in ["upserts", "deletes", "unchanged", "payload_updates", "texts_embedded", "texts_reused"] {
                assert!(target[count].is_u64(), "{count}: {target}");
            }
        }
    }
    let questions: [&[&str]; 3] = [
        &[
            "sql",
            "--json",
            "SELECT title, release_date, genres.name AS genre FROM movie_current JOIN movie_genre_current AS genres USING movie_id LIMIT 3",
        ],
        &["cypher", "--json", "MATCH (p:Person)-[r:ACTED_IN]->(m:Movie) RETURN p.name AS name, m.title AS title LIMIT 3"],
        &["search", "--json", "--collection", "titles", "--where", "kind=movie", "--top", "3", "the moon"],
    ];
    for question in questions {
        let rows = run(home.path(), question).expect(0).json();
        let rows = rows.as_array().unwrap();
        assert_eq!(rows.len(), 3, "{question:?}");
        assert!(rows.iter().all(Value::is_object), "{question:?}: {rows:?}");
    }
    let empty = run(home.path(), &["sql", "--json", "SELECT title FROM movie_current WHERE movie_id < 0"]).expect(0);
    assert_eq!(empty.json(), json!([]));
    let status = run(home.path(), &["status", "--json"]).expect(0).json();
    for lane in status["lanes"].as_array().unwrap() {
        assert_eq!((&lane["lag"], &lane["pending"], &lane["quarantined"]), (&json!(0), &Value::Null, &json!(0)), "{lane}");
        assert!(lane["version"].is_i64() && lane["updated_at"].is_string(), "{lane}");
    }
}

#[test]
fn a_plan_writes_nothing_and_says_what_the_sync_will_do() {
    let home = sample();
    for round in 0..2 {
        if round == 1 {
            run(home.path(), &["sample", "silver", "--crawl"]).expect(0);
        }
        let before = run(home.path(), &["status", "--json"]).expect(0).json();
        let plan = run(home.path(), &["plan", "--json"]).expect(0).json();
        assert_eq!(
            counts(&plan),
            counts(&run(home.path(), &["plan", "--json"]).expect(0).json()),
            "a second plan says something else"
        );
        assert_eq!(before, run(home.path(), &["status", "--json"]).expect(0).json(), "the plan moved something");
        assert!(!home.path().join("data/quarantine").exists(), "the plan wrote to quarantine");
        let tables = run(home.path(), &["sql", "--json", "SELECT name FROM system.tables WHERE database = currentDatabase()"])
            .expect(0)
            .json();
        assert_eq!(tables.as_array().unwrap().is_empty(), round == 0, "{tables}");
        let done = run(home.path(), &["sync", "--json"]).expect(0).json();
        assert!(operations(&plan) > 0);
        assert_eq!(counts(&plan), counts(&done), "round {round}: the plan (left) and what was done (right)");
    }
    assert_eq!(operations(&run(home.path(), &["plan", "--json"]).expect(0).json()), 0);
}

#[test]
fn a_mended_record_leaves_quarantine() {
    let home = sample();
    run(home.path(), &["sync"]).expect(0);
    run(home.path(), &["sample", "silver", "--crawl"]).expect(0);
    run(home.path(), &["sync"]).expect(0);
    let quarantined = || -> u64 {
        let status = run(home.path(), &["status", "--json"]).expect(0).json();
        status["lanes"].as_array().unwrap().iter().map(|lane| lane["quarantined"].as_u64().unwrap()).sum()
    };
    assert!(quarantined() > 0);
    run(home.path(), &["sample", "silver", "--mend"]).expect(0);
    run(home.path(), &["sync"]).expect(0);
    assert_eq!(quarantined(), 0);
    let verified = run(home.path(), &["verify", "--json"]).expect(0).json();
    assert!(verified["targets"].as_array().unwrap().iter().all(|target| target["quarantined"] == 0), "{verified}");
    assert_eq!(operations(&run(home.path(), &["sync", "--json"]).expect(0).json()), 0);
}

#[test]
fn a_difference_is_exit_code_one() {
    let home = sample();
    run(home.path(), &["sync"]).expect(0);
    run(home.path(), &["verify"]).expect(0);
    let sql = "ALTER TABLE movie_genre DELETE WHERE movie_id = 1 SETTINGS mutations_sync = 2";
    run(home.path(), &["sql", sql]).expect(0);
    run(home.path(), &["cypher", "MATCH (n:Movie {movie_id: 2}) SET n.title = 'spoilt' RETURN n.title"]);
    let verified = run(home.path(), &["verify", "--json"]).expect(1).json();
    let of = |name: &str| verified["targets"].as_array().unwrap().iter().find(|t| t["target"] == name).unwrap().clone();
    assert!(of("movie_genre")["missing"].as_u64().unwrap() > 0, "{}", of("movie_genre"));
    assert!(!of("movie_genre")["examples"].as_array().unwrap().is_empty());
    assert_eq!(of("movie_cast")["missing"], 0);
    // The checkpoints know nothing of it, a repair asks the engines.
    assert_eq!(operations(&run(home.path(), &["sync", "--json"]).expect(0).json()), 0);
    let missing = of("movie_genre")["missing"].as_u64().unwrap() + of("Movie")["different"].as_u64().unwrap();
    assert_eq!(operations(&run(home.path(), &["sync", "--repair", "--json"]).expect(0).json()), missing);
    run(home.path(), &["verify"]).expect(0);
}

#[test]
fn bad_arguments_and_files_are_exit_code_two() {
    let home = sample();
    let path = home.path().join("distributary.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let cases: [(&[&str], &str); 7] = [
        (&["sink"], "sink"),
        (&["sync", "--everything"], "--everything"),
        (&["sync", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (&["sql", "SELECT nonsense FROM nowhere"], "nowhere"),
        (&["cypher", "MATCH (n RETURN n"], "MATCH (n RETURN n"),
        (&["search", "x", "--collection", "nowhere"], "nowhere"),
        (&["search", "x", "--where", "kind"], "KEY=VALUE"),
    ];
    for (arguments, named) in cases {
        let answer = run(home.path(), arguments);
        assert_eq!(answer.code, 2, "{arguments:?}: {}", answer.all());
        assert!(answer.stderr.contains(named) && answer.stdout.is_empty(), "{arguments:?}: {}", answer.all());
    }
    for command in ["check", "plan", "sync", "status", "verify"] {
        std::fs::write(&path, format!("{text}clickhose: 1\n")).unwrap();
        let answer = run(home.path(), &[command]);
        assert_eq!(answer.code, 2, "{command}: {}", answer.all());
        assert!(answer.stderr.contains("clickhose") && answer.stderr.contains("line"), "{}", answer.stderr);
    }
}

#[test]
fn a_changed_projection_waits_for_a_decision() {
    let home = sample();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("mappings/tmdb.yaml");
    let mapping = std::fs::read_to_string(&committed).unwrap();
    let own = home.path().join("mapping.yaml");
    std::fs::write(&own, &mapping).unwrap();
    let path = home.path().join("distributary.yaml");
    let text = std::fs::read_to_string(&path).unwrap().replace(&committed.display().to_string(), "mapping.yaml");
    std::fs::write(&path, text).unwrap();
    run(home.path(), &["sync"]).expect(0);

    let changed = mapping.replacen("movie_detail['tagline'] AS tagline,", "upper(movie_detail['tagline']) AS tagline,", 1);
    assert_ne!(mapping, changed);
    std::fs::write(&own, changed).unwrap();
    run(home.path(), &["sample", "silver", "--crawl"]).expect(0);
    let stopped = run(home.path(), &["sync", "--json"]).expect(3).json();
    let targets: Vec<&Value> =
        stopped["tables"].as_array().unwrap().iter().flat_map(|t| t["targets"].as_array().unwrap()).collect();
    let held: Vec<&&Value> = targets.iter().filter(|target| target["ok"] == false).collect();
    assert_eq!(held.len(), 1, "only the lane whose projection changed stops: {held:?}");
    assert_eq!((&held[0]["target"], &held[0]["stopped"]), (&json!("movie"), &json!(true)));
    assert!(held[0]["error"].as_str().unwrap().contains("--rebuild"), "{}", held[0]);
    assert!(targets.iter().any(|target| target["target"] == "Movie" && target["upserts"].as_u64().unwrap() > 0));
    run(home.path(), &["sync"]).expect(3);
    run(home.path(), &["sync", "--rebuild"]).expect(0);
    run(home.path(), &["verify"]).expect(0);
    let again = run(home.path(), &["sync", "--json"]).expect(0).json();
    assert_eq!(operations(&again), 0, "{again}");
}
