//! Rules that the source keeps, read from the files themselves.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below a directory, with its path from the repository, and its text.
fn files(below: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> = vec![root().join(below)];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().display().to_string();
            found.push((name, std::fs::read_to_string(&path).unwrap()));
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// The source without what is compiled for tests alone: modules under `#[cfg(test)]` and the files that they name.
fn product() -> Vec<(String, String)> {
    let all = files("src");
    let mut of_tests: BTreeSet<String> = BTreeSet::new();
    for (name, text) in &all {
        let folder = name.strip_suffix("/mod.rs").or_else(|| name.strip_suffix(".rs")).unwrap();
        let mut lines = text.lines().peekable();
        while let Some(line) = lines.next() {
            if line.trim() != "#[cfg(test)]" {
                continue;
            }
            let module = lines.peek().map(|next| next.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub(super) "));
            if let Some(module) = module.and_then(|next| next.strip_prefix("mod ")).and_then(|next| next.strip_suffix(';')) {
                of_tests.insert(format!("{folder}/{module}.rs"));
                of_tests.insert(format!("{folder}/{module}/"));
            }
        }
    }
    let is_of_tests = |name: &str| of_tests.iter().any(|test| name == test || (test.ends_with('/') && name.starts_with(test)));
    all.into_iter().filter(|(name, _)| !is_of_tests(name)).map(|(name, text)| (name, without_tests(&text))).collect()
}

/// The text up to the module of tests, which ends a file.
fn without_tests(text: &str) -> String {
    let mut kept = String::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let begins = line == "#[cfg(test)]" && lines.peek().is_some_and(|next| next.contains("mod ") && next.ends_with('{'));
        if begins {
            break;
        }
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

/// A line without its comment.
fn code(line: &str) -> &str {
    if line.trim_start().starts_with("//") { "" } else { line }
}

/// The words of a text, in lower case: `snake_case` and `CamelCase` are several.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in text.chars() {
        if !c.is_alphabetic() || (c.is_uppercase() && lower) {
            words.push(String::new());
        }
        if c.is_alphabetic() {
            words.last_mut().unwrap().extend(c.to_lowercase());
        }
        lower = c.is_lowercase();
    }
    words.retain(|word| !word.is_empty());
    words
}

fn none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let all = files("src").into_iter().chain(files("tests"));
    let silent = all.filter(|(_, text)| !text.starts_with("//! ")).map(|(name, _)| format!("{name} does not open with `//!`"));
    none(&silent.collect::<Vec<_>>());
}

#[test]
fn files_are_short() {
    const LINES_MAX: usize = 500;
    let long = product().into_iter().filter_map(|(name, text)| {
        let lines = text.lines().count();
        (lines > LINES_MAX).then(|| format!("{name} has {lines} lines without tests, more than {LINES_MAX}"))
    });
    none(&long.collect::<Vec<_>>());
}

/// Which rooms may use what: `(what, where it may stand)`.
const ARROWS: [(&str, &[&str]); 11] = [
    ("deltalake", &["src/changes", "src/sinks/quarantine", "src/sample"]),
    ("candle_core", &["src/embed"]),
    ("kernels", &["src/embed"]),
    ("tokenizers", &["src/embed"]),
    ("libloading", &["src/sinks/clickhouse"]),
    ("grafeo", &["src/sinks/graph"]),
    ("qdrant_edge", &["src/sinks/vectors"]),
    ("neo4rs", &["src/sinks/graph"]),
    ("qdrant_client", &["src/sinks/vectors"]),
    ("tonic", &["src/sinks/vectors/qdrant"]),
    ("reqwest", &["src/sinks/clickhouse", "src/sinks/vectors"]),
];

/// Rooms that must not know others: `(room, what it must not name)`.
const STRANGERS: [(&str, &[&str]); 9] = [
    ("src/changes", &["crate::sinks", "crate::mapping", "crate::embed", "crate::sync", "crate::cli"]),
    ("src/mapping", &["crate::sinks", "crate::changes", "crate::embed", "crate::sync", "crate::cli"]),
    ("src/embed", &["crate::sinks", "crate::changes", "crate::sync", "crate::cli"]),
    ("src/sinks", &["crate::changes", "crate::embed", "crate::sync", "crate::cli"]),
    ("src/sinks/clickhouse", &["sinks::graph", "sinks::vectors", "sinks::quarantine"]),
    ("src/sinks/graph", &["sinks::clickhouse", "sinks::vectors", "sinks::quarantine"]),
    ("src/sinks/vectors", &["sinks::clickhouse", "sinks::graph", "sinks::quarantine"]),
    ("src/sample", &["crate::sinks", "crate::changes", "crate::mapping", "crate::embed", "crate::sync"]),
    ("src/sync", &["crate::cli", "crate::sample", "deltalake"]),
];

#[test]
fn arrows_between_rooms_hold() {
    let mut problems = Vec::new();
    for (name, text) in product() {
        for (number, line) in text.lines().enumerate() {
            let line = code(line);
            for (used, rooms) in ARROWS {
                // A module of another crate may have the same name.
                let path = format!("{used}::");
                let uses = line.match_indices(&path).any(|(at, _)| !line[..at].ends_with("::"))
                    || line.contains(&format!("use {used};"));
                if uses && !rooms.iter().any(|room| name.starts_with(room)) {
                    problems.push(format!("{name}:{}: {used} belongs to {}", number + 1, rooms.join(", ")));
                }
            }
            for (room, strangers) in STRANGERS {
                let inside = name.starts_with(&format!("{room}/")) || name == format!("{room}.rs");
                for stranger in strangers.iter().filter(|stranger| inside && line.contains(*stranger)) {
                    problems.push(format!("{name}:{}: {room} must not know {stranger}", number + 1));
                }
            }
        }
    }
    none(&problems);
}

#[test]
fn nothing_panics_on_purpose() {
    let forbidden = [".unwrap()", ".expect(", "todo!(", "unimplemented!(", "panic!(", "unreachable!(", "dbg!("];
    let mut problems = Vec::new();
    for (name, text) in product() {
        for (number, line) in text.lines().enumerate() {
            problems.extend(
                forbidden.iter().filter(|word| code(line).contains(*word)).map(|word| format!("{name}:{}: {word}", number + 1)),
            );
        }
    }
    none(&problems);
}

/// Films live in `mappings/`, in the sample and in what the commands show of it.
#[test]
fn the_engine_knows_nothing_of_films() {
    let film_words = ["movie", "movies", "film", "films", "tmdb", "actor", "actors", "crew", "biography", "director", "tv"];
    let allowed = ["src/sample/", "src/cli/"];
    let mut problems = Vec::new();
    for (name, text) in product() {
        if allowed.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            // Examples in comments may speak of what people know.
            for word in words(code(line)).iter().filter(|word| film_words.contains(&word.as_str())) {
                problems.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    none(&problems);
}

#[test]
fn no_room_is_called_after_nothing() {
    let empty = ["util", "utils", "common", "helper", "helpers", "types", "prelude", "misc"];
    let problems = files("src").into_iter().filter(|(name, _)| name.split(['/', '.']).any(|part| empty.contains(&part)));
    none(&problems.map(|(name, _)| format!("{name}: the name says nothing")).collect::<Vec<_>>());
}

/// ARCHITECTURE.md has numbered invariants, each with tests that hold it, written as `tests/model.rs::name` or `src/rows.rs::name`.
#[test]
fn every_invariant_names_tests_that_exist() {
    const INVARIANTS: usize = 10;
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let section: String = text
        .lines()
        .skip_while(|line| !(line.starts_with("## ") && line.to_lowercase().contains("invariant")))
        .skip(1)
        .take_while(|line| !line.starts_with("## "))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut problems = Vec::new();
    let mut numbered: Vec<(usize, String)> = Vec::new();
    for line in section.lines() {
        let number = line.split('.').next().and_then(|start| start.trim().trim_matches('*').parse::<usize>().ok());
        match (number, numbered.last_mut()) {
            (Some(number), _) => numbered.push((number, line.to_owned())),
            (None, Some((_, entry))) => entry.push_str(&format!("\n{line}")),
            (None, None) => {}
        }
    }
    let numbers: Vec<usize> = numbered.iter().map(|(number, _)| *number).collect();
    if numbers.len() < INVARIANTS || numbers != (1..=numbers.len()).collect::<Vec<_>>() {
        problems.push(format!(
            "ARCHITECTURE.md should number its invariants 1 to at least {INVARIANTS} under a heading; it has {numbers:?}"
        ));
    }
    for (number, entry) in &numbered {
        let named = named_tests(entry);
        if named.is_empty() {
            problems.push(format!("invariant {number} names no test: write `tests/model.rs::name`"));
        }
        for (file, function) in named {
            let there = std::fs::read_to_string(root().join(&file)).unwrap_or_default();
            let declared = there.lines().any(|line| {
                // A behaviour takes the place or the server that it is tried on.
                let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("async ");
                line.strip_prefix("fn ")
                    .and_then(|rest| rest.strip_prefix(function.as_str()))
                    .is_some_and(|rest| ["(", "<P: Place>(", "<S: Server>("].iter().any(|next| rest.starts_with(next)))
            });
            if !declared {
                problems.push(format!("invariant {number} names {file}::{function}, which is not there"));
            }
        }
    }
    none(&problems);
}

/// `(file, function)` of everything that looks like `path/file.rs::function`.
fn named_tests(text: &str) -> Vec<(String, String)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-./:".contains(c);
    text.split(|c: char| !is_part(c))
        .filter_map(|word| word.split_once(".rs::"))
        .map(|(file, function)| {
            let function = function.rsplit("::").next().unwrap_or_default().trim_end_matches(['.', ':', '/', '-']);
            (format!("{file}.rs"), function.to_owned())
        })
        .collect()
}

/// The reader of ARCHITECTURE.md finds what it looks for.
#[test]
fn tests_are_found_in_a_sentence() {
    let found = named_tests("1. Holds (test: tests/model.rs::all_of_it, `src/rows.rs::tests::equal`).");
    let expected = [("tests/model.rs", "all_of_it"), ("src/rows.rs", "equal")];
    assert_eq!(found, expected.map(|(file, function)| (file.to_owned(), function.to_owned())));
    assert_eq!(words("MovieDetail::is_tv(42)"), ["movie", "detail", "is", "tv"]);
}
