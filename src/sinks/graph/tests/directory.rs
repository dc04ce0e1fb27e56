//! What only an embedded engine has: a directory. Kills, restarts, graphs at rest, directories that hold something else.

use std::path::Path;

use super::*;

/// What the killed writer writes with revision `n`: one film, one credit, its checkpoint.
async fn revise(sink: &GraphSink, catalogue: &Catalogue, n: u64) -> Result<(), SinkError> {
    let id = n.cast_signed();
    sink.write(&[put(&catalogue.movie, json!([id, "film"])), put(&catalogue.acted, json!([id, 1, format!("c{id}"), "Fay", id]))])
        .await?;
    sink.flush(&[checkpoint(n)]).await
}

/// Asserts that the graph holds the rows of its checkpoint's revision and of those before it, and answers the revision.
async fn assert_whole(sink: &GraphSink) -> u64 {
    let revision = sink.checkpoints().await.unwrap().first().map_or(0, |checkpoint| checkpoint.revision);
    let count = async |cypher: &str| ask(sink, cypher).await[0]["n"].as_u64().unwrap();
    assert_eq!(count("MATCH (m:Movie) RETURN count(m) AS n").await, revision);
    assert_eq!(count("MATCH (:Person)-[r:ACTED_IN]->(:Movie) RETURN count(r) AS n").await, revision);
    assert_eq!(count("MATCH (p:Person) RETURN count(p) AS n").await, revision.min(1));
    revision
}

/// Runs this very test as another process, which writes revisions until it is killed.
#[test]
fn a_killed_writer_leaves_what_it_flushed_and_nothing_else() {
    use std::io::{BufRead as _, BufReader};
    const DIRECTORY: &str = "DISTRIBUTARY_TEST_GRAPH";
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let catalogue = Catalogue::new();
    if let Ok(directory) = std::env::var(DIRECTORY) {
        runtime.block_on(async {
            // Folds the log now and then, so that the kill finds this too.
            let sink = open(GraphOptions { log_bytes_max: 10_000, ..GraphOptions::at(directory) }).await.unwrap();
            sink.prepare(&catalogue.all(), &[]).await.unwrap();
            let first = sink.checkpoints().await.unwrap().first().map_or(1, |checkpoint| checkpoint.revision + 1);
            for n in first.. {
                revise(&sink, &catalogue, n).await.unwrap();
                println!("flushed {n}");
            }
        });
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut flushed = 0;
    for round in 1..=4_u64 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sinks::graph::tests::directory::a_killed_writer_leaves_what_it_flushed_and_nothing_else",
                "--nocapture",
            ])
            .env(DIRECTORY, directory.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut lines = lines.filter_map(|line| line.split_once("flushed ").and_then(|(_, n)| n.trim().parse::<u64>().ok()));
        for _ in 0..round * 7 {
            flushed = lines.next().expect("the writer flushes until it is killed");
        }
        if round == 1 {
            let error = runtime.block_on(open(GraphOptions::at(directory.path()))).unwrap_err();
            assert_eq!(error.class, Class::Stop);
            assert!(error.message.contains("in use by another process"), "{}", error.message);
        }
        child.kill().unwrap();
        child.wait().unwrap();
        runtime.block_on(async {
            let sink = open(GraphOptions::at(directory.path())).await.unwrap();
            let revision = assert_whole(&sink).await;
            assert!(revision >= flushed, "{revision} is before {flushed}, which was durable");
            sink.close().await.unwrap();
        });
    }
}

#[tokio::test]
async fn what_was_not_flushed_is_gone_and_what_was_is_there() {
    for log_bytes_max in [0, u64::MAX] {
        let directory = tempfile::tempdir().unwrap();
        let options = GraphOptions { log_bytes_max, ..GraphOptions::at(directory.path().join("a/b")) };
        let c = Catalogue::new();
        for n in 1..=5 {
            let sink = open(options.clone()).await.unwrap();
            assert_eq!(assert_whole(&sink).await, n - 1);
            sink.prepare(&c.all(), &[]).await.unwrap();
            let again = open(options.clone()).await.unwrap_err();
            assert!(again.message.contains("in use"), "{}", again.message);
            revise(&sink, &c, n).await.unwrap();
            if n % 2 == 0 {
                // Dropped in the middle of a transaction.
                sink.write(&[put(&c.movie, json!([77, "lost"])), drop_row(&c.movie, json!([1]))]).await.unwrap();
            } else {
                sink.close().await.unwrap();
                assert!(sink.write(&[put(&c.movie, json!([77, "late"]))]).await.is_err(), "a closed sink takes nothing");
            }
        }
    }
}

#[tokio::test]
async fn a_graph_at_rest_knows_its_checkpoints_without_its_engine() {
    let directory = tempfile::tempdir().unwrap();
    let (c, options) = (Catalogue::new(), GraphOptions::at(directory.path()));
    let sink = open(options.clone()).await.unwrap();
    sink.prepare(&c.all(), &[]).await.unwrap();
    revise(&sink, &c, 1).await.unwrap();
    sink.close().await.unwrap();

    // Its file is damaged in a way that the notes do not show, so an engine that started would say so.
    let file = directory.path().join("graph.grafeo");
    let (image, written) = (std::fs::read(&file).unwrap(), std::fs::metadata(&file).unwrap().modified().unwrap());
    let replace = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(written).unwrap();
    };
    replace(&vec![7; image.len()]);
    for _ in 0..2 {
        let sink = open(options.clone()).await.unwrap();
        sink.prepare(&c.all(), &[]).await.unwrap();
        assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint(1)]);
        assert!(open(options.clone()).await.unwrap_err().message.contains("in use"));
        sink.close().await.unwrap();
    }
    let sink = open(options.clone()).await.unwrap();
    sink.wake();
    for _ in 0..2 {
        let error = revise(&sink, &c, 2).await.unwrap_err();
        assert!(error.class == Class::Stop && error.message.contains("restore it"), "{}", error.message);
    }
    sink.close().await.unwrap();

    replace(&image);
    let sink = open(options.clone()).await.unwrap();
    sink.prepare(&c.all(), &[]).await.unwrap();
    revise(&sink, &c, 2).await.unwrap();
    // The notes went when the engine started, so nobody trusts them after a crash.
    assert!(!directory.path().join("checkpoints.json").exists());
    sink.close().await.unwrap();
    let sink = open(options).await.unwrap();
    assert_eq!(sink.checkpoints().await.unwrap(), [checkpoint(2)]);
    assert_eq!(assert_whole(&sink).await, 2);
}

#[tokio::test]
async fn a_directory_that_is_no_graph_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let refused = async |path: &Path| {
        let error = open(GraphOptions::at(path)).await.unwrap_err();
        (error.class, error.message)
    };
    std::fs::write(directory.path().join("notes.txt"), "mine").unwrap();
    let (class, message) = refused(directory.path()).await;
    assert!(class == Class::Stop && message.contains("`notes.txt`") && message.contains("not a graph"), "{message}");
    let (_, message) = refused(&directory.path().join("notes.txt")).await;
    assert!(message.contains("notes.txt"), "{message}");
    let graph = directory.path().join("graph");
    let c = Catalogue::new();
    let sink = open(GraphOptions { log_bytes_max: 0, ..GraphOptions::at(&graph) }).await.unwrap();
    sink.prepare(&c.all(), &[]).await.unwrap();
    revise(&sink, &c, 1).await.unwrap();
    sink.close().await.unwrap();
    std::fs::write(graph.join("format"), "distributary graph 2").unwrap();
    let (class, message) = refused(&graph).await;
    assert!(class == Class::Stop && message.contains("distributary graph 2"), "{message}");
    std::fs::write(graph.join("format"), "distributary graph 1").unwrap();
    let file = graph.join("graph.grafeo");
    let image = std::fs::read(&file).unwrap();
    for broken in [&b"garbage"[..], &[0; 100_000], &image[..image.len() / 2]] {
        std::fs::write(&file, broken).unwrap();
        let (class, message) = refused(&graph).await;
        assert!(class == Class::Stop && message.contains("restore it"), "{message}");
    }
    std::fs::write(&file, image).unwrap();
    assert_eq!(assert_whole(&open(GraphOptions::at(&graph)).await.unwrap()).await, 1);
}
