//! A collection made anew by another model while it is in use: who asks is answered by one generation, whole; nothing that changes meanwhile
//! is lost; nothing is embedded twice, wherever the process is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use distributary::embed::{Choice, DEFAULT_PRECISION, Embedder, HashEmbedder};
use distributary::report::{ReembedReport, ReembedState};
use distributary::sinks::SinkKind;
use distributary::sync::{self, Options, Progress, Question, Reembed, Setup};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::support::command::{Answer, distributary, operations, run, sample_configuration};
use crate::support::engines::Bench;
use crate::support::lake::{Author, Book};
use crate::support::{tests_dir, wait_for};

const COLLECTION: &str = "texts";

fn book(id: i64, salt: u64) -> Book {
    // Some texts have several chunks, some are the same.
    let words = if id % 11 == 0 { 300 } else { 4 };
    let blurb = (0..words).map(|n| format!("word{}", (n + id) % 97)).collect::<Vec<_>>().join(" ");
    Book {
        book_id: Some(id),
        title: Some(if id % 7 == 0 { "Untitled".to_owned() } else { format!("Book {id}") }),
        blurb: Some(if id % 7 == 0 { "the same".to_owned() } else { format!("{blurb} {salt}") }),
        popularity: Some(1.0),
        tags: vec![format!("tag {salt}")],
        credits: None,
    }
}

fn author(id: i64, salt: u64) -> Author {
    Author { author_id: Some(id), name: Some(format!("Author {id}")), bio: Some(format!("Life {id} {salt}")), visits: Some(1) }
}

fn what(model: &str) -> Reembed {
    Reembed {
        collection: COLLECTION.to_owned(),
        choice: model.parse::<Choice>().unwrap(),
        precision: DEFAULT_PRECISION,
        gate: None,
    }
}

/// A lake with both tables of one collection, synced, the vector index alone.
async fn synced(books: i64, batch_rows: usize) -> (Bench, Setup) {
    synced_at(None, books, batch_rows).await
}

/// [`synced`], with a Qdrant server for the vectors.
async fn synced_at(server: Option<&str>, books: i64, batch_rows: usize) -> (Bench, Setup) {
    let mut bench = Bench::new(tests_dir().join("mappings/library.yaml"));
    bench.qdrant = server.map(str::to_owned);
    bench.more = format!("limits: {{batch_rows: {batch_rows}}}\n");
    bench.lake.create(&(1..=books).map(|id| book(id, 0)).collect::<Vec<_>>(), true).await;
    bench.lake.create(&(1..=books / 2).map(|id| author(id, 0)).collect::<Vec<_>>(), true).await;
    let setup = opened(&bench).await;
    sync_all(&setup).await;
    (bench, setup)
}

async fn opened(bench: &Bench) -> Setup {
    let mut setup = bench.open().await;
    setup.sinks.retain(|sink| sink.kind() == SinkKind::Vectors);
    setup
}

async fn sync_all(setup: &Setup) {
    let report = sync::sync(setup, &Options::default()).await.unwrap();
    assert!(report.ok(), "{report:?}");
}

/// Both generations hold exactly what Silver makes of them. Answers the names of what was compared.
async fn verified(setup: &Setup) -> BTreeSet<String> {
    let report = sync::verify(setup).await.unwrap();
    let vectors = report.targets.iter().filter(|target| target.sink == SinkKind::Vectors);
    vectors
        .map(|target| {
            assert!(target.ok(), "{target:?}");
            format!("{}/{}", target.table, target.target)
        })
        .collect()
}

fn names(models: &[&str]) -> BTreeSet<String> {
    let of = |model: &&str| if model.is_empty() { COLLECTION.to_owned() } else { format!("{COLLECTION}@{model}") };
    models.iter().flat_map(|model| ["books", "authors"].map(|table| format!("{table}/{}", of(model)))).collect()
}

/// Stops a run after so many records.
#[derive(Debug)]
struct Stopper {
    left: AtomicU64,
    cancel: CancellationToken,
}

impl Stopper {
    fn after(records: u64) -> Options {
        let cancel = CancellationToken::new();
        let progress = Arc::new(Self { left: AtomicU64::new(records), cancel: cancel.clone() });
        Options { cancel, progress: Some(progress), ..Options::default() }
    }
}

impl Progress for Stopper {
    fn table(&self, _: &str, _: &str, _: Option<u64>) {}

    fn records(&self, _: &str, count: u64) {
        let before = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| Some(left.saturating_sub(count)));
        if before.unwrap() <= count {
            self.cancel.cancel();
        }
    }

    fn texts(&self, _: u64, _: u64) {}

    fn done(&self, _: &str) {}
}

/// What is to be found near a question: the score of each record that is never changed, by model.
fn expected(question: &str, books: i64) -> BTreeMap<String, BTreeMap<i64, f64>> {
    let models = [HashEmbedder::new(), HashEmbedder::with_dimensions(32).unwrap()];
    let of = |mut model: HashEmbedder| {
        let asked = model.embed(&[question]).unwrap().remove(0);
        let mut score = |id: i64| {
            let book = book(id, 0);
            let text = format!("{}\n{}", book.title.unwrap(), book.blurb.unwrap());
            let pieces = model.chunk(&text).unwrap();
            let vectors = pieces.into_iter().map(|piece| model.embed(&[&text[piece]]).unwrap().remove(0));
            let near = |vector: Vec<f32>| vector.iter().zip(&asked).map(|(a, b)| f64::from(a * b)).sum::<f64>();
            vectors.map(near).fold(f64::MIN, f64::max)
        };
        let scores = (1..=books).map(|id| (id, score(id))).collect();
        (model.identity().to_owned(), scores)
    };
    models.map(of).into_iter().collect()
}

#[test]
fn who_asks_during_a_rebuild_is_answered_by_one_generation_whole() {
    wait_for(asked_during_a_rebuild(None));
}

/// A rebuild, a swap and a way back while others ask and change, in the embedded index or at a Qdrant server.
pub(crate) async fn asked_during_a_rebuild(server: Option<&str>) {
    const BOOKS: i64 = 120;
    let (bench, setup) = synced_at(server, BOOKS, 4).await;
    let setup = Arc::new(setup);
    let question = "the same Book 17 word20";
    let expected = expected(question, BOOKS);
    let done = Arc::new(AtomicBool::new(false));
    let (asking, over) = (setup.clone(), done.clone());
    let asker = tokio::spawn(async move {
        let mut answered: BTreeMap<String, u64> = BTreeMap::new();
        let asked =
            Question { collection: COLLECTION.to_owned(), text: question.to_owned(), conditions: Vec::new(), top: 10_000 };
        while !over.load(Ordering::SeqCst) || answered.len() < 2 {
            let answers = sync::search(&asking, &asked).await.unwrap();
            let mut found: BTreeMap<i64, f64> = BTreeMap::new();
            for row in answers.rows.iter().filter(|row| row["_table"] == "books") {
                let id = row["id"].as_i64().unwrap();
                if id <= BOOKS {
                    assert!(found.insert(id, row["score"].as_f64().unwrap()).is_none(), "{id} is answered twice");
                }
            }
            let right = &expected[&answers.model];
            assert_eq!(found.keys().collect::<Vec<_>>(), right.keys().collect::<Vec<_>>(), "of {}", answers.model);
            for (id, score) in &found {
                assert!((score - right[id]).abs() < 1e-4, "the score of {id} is not that of {}", answers.model);
            }
            *answered.entry(answers.model).or_default() += 1;
        }
        answered
    });
    // Others come, change and go while it is built.
    let lake = bench.lake.clone();
    let changer = tokio::spawn(async move {
        for salt in 1..6 {
            let gone = 1000 + salt as i64;
            let written: Vec<Book> = (1001..1007).filter(|id| *id != gone).map(|id| book(id, salt)).collect();
            lake.merge(&written, &[gone]).await;
        }
    });
    let report = sync::reembed(&setup, &what("hash-32"), &Options::default()).await.unwrap();
    assert_eq!(report.state, ReembedState::Swapped, "{report:?}");
    changer.await.unwrap();
    done.store(true, Ordering::SeqCst);
    let answered = asker.await.unwrap();
    assert!(answered["hash-64@1"] > 3 && answered.len() == 2, "{answered:?}");
    sync_all(&setup).await;
    assert_eq!(verified(&setup).await, names(&["", "hash-64@1"]));
    let rolled = sync::rollback(&setup, COLLECTION, &Options::default()).await.unwrap();
    assert_eq!((rolled.state, rolled.texts_embedded), (ReembedState::Swapped, 0), "{rolled:?}");
    assert_eq!(verified(&setup).await, names(&["", "hash-32@1"]));
}

/// Distinct pieces of text of all records.
async fn pieces(bench: &Bench) -> BTreeSet<String> {
    let model = HashEmbedder::new();
    let books = bench.lake.read::<Book>().await;
    let texts = books.into_iter().map(|book| [book.title, book.blurb].into_iter().flatten().collect::<Vec<_>>().join("\n"));
    let bios = bench.lake.read::<Author>().await.into_iter().filter_map(|author| author.bio);
    let cut = |text: String| model.chunk(&text).unwrap().into_iter().map(|piece| text[piece].to_owned()).collect::<Vec<_>>();
    texts.chain(bios).flat_map(cut).collect()
}

#[test]
fn interrupted_again_and_again_it_embeds_each_text_once() {
    wait_for(async {
        let (bench, setup) = synced(60, 3).await;
        let all = pieces(&bench).await.len() as u64;
        let plan = sync::foresee(&setup, &what("hash-32"), &Options::default()).await.unwrap();
        assert_eq!(plan.texts, all, "{plan:?}");
        assert!(plan.tokens > all && plan.texts_per_second > 0.0 && plan.bytes.is_some(), "{plan:?}");
        let (mut embedded, mut runs) = (0, 0);
        loop {
            let before = sync::foresee(&setup, &what("hash-32"), &Options::default()).await.unwrap().texts;
            assert_eq!(before, all - embedded, "what is embedded is durable");
            let report = sync::reembed(&setup, &what("hash-32"), &Stopper::after(10 + 10 * runs)).await.unwrap();
            embedded += report.texts_embedded;
            runs += 1;
            if report.state == ReembedState::Swapped {
                break;
            }
            assert_eq!(report.state, ReembedState::Interrupted, "{report:?}");
            // Ordinary syncs leave the work alone, and say so.
            let report = sync::sync(&setup, &Options::default()).await.unwrap();
            let texts: u64 = report.targets().map(|(_, target)| target.texts_embedded).sum();
            assert!(report.ok() && texts == 0 && report.notes.iter().any(|note| note.contains("being built")), "{report:?}");
        }
        assert!(runs > 3, "{runs} runs");
        assert_eq!(embedded, all);
        assert_eq!(verified(&setup).await, names(&["", "hash-64@1"]));
    });
}

async fn change(bench: &Bench, rng: &mut ChaCha8Rng, salt: u64) {
    let mut pick =
        |from: i64, to: i64| (0..rng.random_range(0..6)).map(|_| rng.random_range(from..to)).collect::<BTreeSet<i64>>();
    let (books, authors, gone, payload) = (pick(1, 45), pick(1, 25), pick(1, 45), pick(1, 45));
    let mut upserts: BTreeMap<i64, Book> = books.into_iter().map(|id| (id, book(id, salt))).collect();
    for id in payload {
        upserts.entry(id).or_insert_with(|| Book { tags: vec![format!("other {salt}")], ..book(id, 0) });
    }
    let gone: Vec<i64> = gone.into_iter().filter(|id| !upserts.contains_key(id)).collect();
    bench.lake.merge(&upserts.into_values().collect::<Vec<_>>(), &gone).await;
    bench.lake.merge(&authors.into_iter().map(|id| author(id, salt)).collect::<Vec<_>>(), &[]).await;
}

/// Interruptions, changes, syncs and reopenings in any order: in the end both generations are what Silver makes of them.
pub(crate) async fn random_rebuild(seed: u64, server: Option<&str>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (bench, mut setup) = synced_at(server, 40, rng.random_range(1..8)).await;
    let (mut salt, mut models) = (1, ["hash-32", "hash"]);
    for _ in 0..2 {
        loop {
            let options = if rng.random_ratio(3, 4) { Stopper::after(rng.random_range(1..60)) } else { Options::default() };
            let report = sync::reembed(&setup, &what(models[0]), &options).await.unwrap();
            assert!(matches!(report.state, ReembedState::Swapped | ReembedState::Interrupted), "seed {seed}: {report:?}");
            if report.state == ReembedState::Swapped {
                break;
            }
            for _ in 0..rng.random_range(0..3) {
                change(&bench, &mut rng, salt).await;
                salt += 1;
            }
            if rng.random_ratio(1, 2) {
                sync_all(&setup).await;
            }
            if rng.random_ratio(1, 4) {
                setup.sinks.clear();
                setup = opened(&bench).await;
            }
        }
        change(&bench, &mut rng, salt).await;
        salt += 1;
        sync_all(&setup).await;
        let both = verified(&setup).await;
        assert_eq!(both.len(), 4, "seed {seed}: {both:?}");
        models.reverse();
    }
    sync::drop_old(&setup, COLLECTION).await.unwrap();
    assert_eq!(verified(&setup).await, names(&[""]), "seed {seed}");
    setup.close().await.unwrap();
}

#[test]
fn random_changes_during_a_rebuild_arrive_in_both_generations() {
    for seed in [1, 2, rand::random(), rand::random()] {
        eprintln!("seed {seed}");
        wait_for(random_rebuild(seed, None));
    }
}

fn embedded(report: &ReembedReport) -> u64 {
    report.targets().map(|(_, target)| target.texts_embedded).sum()
}

#[test]
fn a_second_generation_is_kept_current_and_embeds_only_what_changed() {
    wait_for(async {
        let (bench, setup) = synced(30, 100).await;
        let report = sync::reembed(&setup, &what("hash-32"), &Options::default()).await.unwrap();
        assert!(report.state == ReembedState::Swapped && embedded(&report) > 0);
        bench.lake.merge(&[book(1, 9), Book { tags: vec!["new".to_owned()], ..book(2, 0) }], &[3]).await;
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        for target in ["texts", "texts@hash-64@1"] {
            let of = report.targets().find(|(table, one)| table.table == "books" && one.target == target).unwrap().1;
            let counts = (of.texts_embedded, of.upserts, of.payload_updates, of.deletes);
            assert_eq!(counts, (1, 1, 1, 1), "{target}: {of:?}");
        }
        assert!(report.notes.iter().any(|note| note.contains("--drop-old")), "{:?}", report.notes);
        sync::drop_old(&setup, COLLECTION).await.unwrap();
        let report = sync::sync(&setup, &Options::default()).await.unwrap();
        assert_eq!(report.targets().count(), 2, "{report:?}");
        assert!(report.notes.iter().any(|note| note.contains("stays so")), "{:?}", report.notes);
    });
}

/// The sample's lake, the vector index alone, synced.
fn sample(home: &Path, batch_rows: usize) {
    let path = sample_configuration(home);
    let text = std::fs::read_to_string(&path).unwrap();
    let kept = text.lines().filter(|line| !line.starts_with("clickhouse") && !line.starts_with("graph"));
    let text: String = kept.map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, format!("{text}limits: {{batch_rows: {batch_rows}}}\n")).unwrap();
    run(home, &["sample", "silver"]).expect(0);
    run(home, &["sync"]).expect(0);
}

const REEMBED: [&str; 5] = ["reembed", "--collection", "titles", "--model", "hash-32"];

fn with<'a>(arguments: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [arguments, more].concat()
}

fn spawn(command: &mut Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs until it says this, for so long after, and is killed. Answers whether it said it.
fn killed_after(home: &Path, arguments: &[&str], said: &str, delay: Duration) -> bool {
    let mut child = spawn(distributary(home).args(arguments));
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let found = loop {
        line.clear();
        match lines.read_line(&mut line).unwrap() {
            0 => break false,
            _ if line.contains(said) => break true,
            _ => {}
        }
    };
    std::thread::sleep(delay);
    child.kill().unwrap();
    // The pipe is read to its end, so that nothing waits for it.
    let _ = lines.read_to_string(&mut line);
    child.wait().unwrap();
    found
}

fn is_whole(home: &Path, when: &str) {
    let verified = run(home, &["verify"]);
    assert_eq!(verified.code, 0, "{when}: {}", verified.all());
    let found = run(home, &["search", "--json", "--top", "500", "the moon"]).expect(0).json();
    assert!(found.as_array().unwrap().len() > 85, "{when}: {} answers", found.as_array().unwrap().len());
}

fn planned(home: &Path) -> u64 {
    run(home, &with(&REEMBED, &["--plan", "--json"])).expect(0).json()["texts"].as_u64().unwrap()
}

fn resumed(home: &Path, when: &str) -> Value {
    let answer = run(home, &with(&REEMBED, &["--json"]));
    assert_eq!(answer.code, 0, "{when}: {}", answer.all());
    answer.json()
}

#[test]
fn killed_in_any_phase_it_goes_on_and_embeds_nothing_twice() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    std::fs::create_dir_all(&base).unwrap();
    sample(&base, 4);
    let all = planned(&base);
    assert!(all > 80, "{all}");
    let phases = [
        ("building", 0, 0),
        ("movies: reading by snapshot", 60, 0),
        ("movies: reading by snapshot", 250, 1),
        ("tv_series: reading by snapshot", 60, 60),
        ("following", 0, 80),
        ("movies: reading by feed", 30, 80),
        ("caught up, swapping", 0, 80),
        ("swapped", 0, 80),
    ];
    for (number, (said, delay, least)) in phases.into_iter().enumerate() {
        let trial = home.path().join(format!("trial-{number}"));
        crate::support::lake::copy_dir(&base, &trial);
        let when = format!("killed {delay} ms after it said {said:?}");
        if said.contains("feed") {
            // The snapshot is done, and then a crawl passes.
            assert!(killed_after(&trial, &REEMBED, "following", Duration::ZERO), "{when}: it never followed");
            run(&trial, &["sample", "silver", "--crawl"]).expect(0);
        }
        assert!(killed_after(&trial, &REEMBED, said, Duration::from_millis(delay)), "{when}: it never said so");
        is_whole(&trial, &when);
        let left = planned(&trial);
        assert!(all.saturating_sub(left) >= least, "{when}: {left} of {all} texts are left");
        if number % 2 == 1 && !said.contains("feed") {
            run(&trial, &["sample", "silver", "--crawl"]).expect(0);
            let synced = run(&trial, &["sync", "--json"]);
            assert_eq!(synced.code, 0, "{when}: {}", synced.all());
        }
        let left = planned(&trial);
        let report = resumed(&trial, &when);
        let embedded = report["texts_embedded"].as_u64().unwrap();
        // A plan looks one step ahead: what the crawl changed after the snapshot comes on top.
        let more = if number % 2 == 1 { 8 } else { 0 };
        assert!((left..=left + more).contains(&embedded), "{when}: {embedded} of {left} texts: {report}");
        is_whole(&trial, &when);
        run(&trial, &["sync"]).expect(0);
        is_whole(&trial, &when);
        let again = run(&trial, &["sync", "--json"]).expect(0).json();
        assert_eq!(operations(&again), 0, "{when}: {again}");
        assert_eq!(resumed(&trial, &when)["state"], "serving", "{when}");
        std::fs::remove_dir_all(&trial).unwrap();
    }
}

#[test]
fn killed_while_it_is_dropped_the_old_generation_is_there_or_gone() {
    let home = tempfile::tempdir().unwrap();
    let base = home.path().join("base");
    std::fs::create_dir_all(&base).unwrap();
    sample(&base, 100);
    resumed(&base, "at first");
    let drop_old = ["reembed", "--collection", "titles", "--drop-old"];
    for number in 0..12_u64 {
        let trial = home.path().join(format!("trial-{number}"));
        crate::support::lake::copy_dir(&base, &trial);
        let mut child = spawn(distributary(&trial).args(drop_old));
        std::thread::sleep(Duration::from_millis(number * 5));
        child.kill().unwrap();
        child.wait().unwrap();
        is_whole(&trial, &format!("killed after {} ms", number * 5));
        let again = run(&trial, &drop_old);
        assert!(again.code == 0 || again.stderr.contains("no generation is kept"), "{}", again.all());
        is_whole(&trial, "dropped");
        let status = run(&trial, &["status", "--json"]).expect(0).json();
        assert!(
            status["lanes"].as_array().unwrap().iter().all(|lane| !lane["target"].as_str().unwrap().contains('@')),
            "{status}"
        );
        run(&trial, &["sync"]).expect(0);
        std::fs::remove_dir_all(&trial).unwrap();
    }
}

#[test]
fn others_are_let_in_while_a_collection_is_rebuilt() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    sample(home, 3);
    run(home, &["sample", "silver", "--crawl"]).expect(0);
    let arguments = ["reembed", "--collection", "people", "--model", "hash-32", "--json"];
    let mut child = distributary(home).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("reading by snapshot") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "it ended early");
    }
    let let_in = |arguments: &[&str]| -> Answer { run(home, arguments).expect(0) };
    let found = let_in(&["search", "--json", "--collection", "people", "--top", "1000", "a pioneer"]).json();
    let whole = found.as_array().unwrap().len();
    let synced = let_in(&["sync", "--json"]).json();
    assert!(operations(&synced) > 0 && synced["notes"].to_string().contains("being built"), "{synced}");
    let found = let_in(&["search", "--json", "--collection", "people", "--top", "1000", "a pioneer"]).json();
    assert!(found.as_array().unwrap().len() > whole, "the crawl brings people");
    assert!(child.try_wait().unwrap().is_none(), "the rebuild was over before the others were let in");
    let second = run(home, &arguments).expect(3);
    assert!(second.stderr.contains("being rebuilt by another process"), "{}", second.stderr);
    let mut rest = String::new();
    lines.read_to_string(&mut rest).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{rest}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["state"], "swapped", "{report}");
    run(home, &["verify"]).expect(0);
    assert_eq!(operations(&run(home, &["sync", "--json"]).expect(0).json()), 0);
}

#[test]
fn a_swap_waits_for_answers_that_are_alike() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    sample(home, 100);
    std::fs::write(home.join("questions.txt"), "the moon\n\na man and a woman\nwar\n").unwrap();
    let gate = with(&REEMBED, &["--json", "--gate", "questions.txt"]);
    let refused = run(home, &with(&gate, &["--min-overlap", "1"])).expect(3).json();
    assert_eq!(
        (&refused["state"], &refused["gate"]["queries"], &refused["gate"]["passed"]),
        (&"refused".into(), &3.into(), &false.into())
    );
    assert!(!refused["gate"]["examples"][0]["only_after"].as_array().unwrap().is_empty(), "{refused}");
    let model = |target: &str| {
        let status = run(home, &["status", "--json"]).expect(0).json();
        status["lanes"].as_array().unwrap().iter().any(|lane| lane["target"] == target)
    };
    assert!(model("titles") && model("titles@hash-32@1"), "it is beside the one in service");
    // It stays current, so that accepting it later embeds nothing.
    run(home, &["sample", "silver", "--crawl"]).expect(0);
    run(home, &["sync"]).expect(0);
    run(home, &["verify"]).expect(0);
    let other = run(home, &["reembed", "--collection", "titles", "--model", "hash-16"]).expect(3);
    assert!(other.stderr.contains("--abandon"), "{}", other.stderr);
    let accepted = run(home, &with(&gate, &["--min-overlap", "0"])).expect(0).json();
    assert_eq!((&accepted["state"], &accepted["texts_embedded"]), (&"swapped".into(), &0.into()), "{accepted}");
    assert!(model("titles@hash-64@1"));
    let other = run(home, &["reembed", "--collection", "titles", "--model", "hash-16"]).expect(3);
    assert!(other.stderr.contains("--drop-old"), "{}", other.stderr);
    run(home, &["reembed", "--collection", "titles", "--drop-old"]).expect(0);
    run(home, &["reembed", "--collection", "titles", "--rollback"]).expect(2);
    let begun =
        run(home, &["reembed", "--collection", "titles", "--model", "hash-16", "--gate", "questions.txt", "--min-overlap", "1"]);
    begun.expect(3);
    run(home, &["reembed", "--collection", "titles", "--abandon"]).expect(0);
    run(home, &["verify"]).expect(0);
    for (arguments, says) in [
        (&["reembed", "--collection", "films", "--model", "hash-32"][..], "there are people, titles"),
        (&["reembed", "--collection", "titles", "--model", "nothing"], "nothing"),
        (&["reembed", "--collection", "titles", "--gate", "nowhere.txt"], "nowhere.txt"),
    ] {
        let answer = run(home, arguments).expect(2);
        assert!(answer.stderr.contains(says), "{}", answer.stderr);
    }
}
