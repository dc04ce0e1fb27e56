//! What the engine does that its user must know.

use std::fs;
use std::path::Path;

use super::edge::refused;
use super::log::closed_log_files;
use super::*;
use crate::mapping::target::TEXT_HASH;
use crate::sinks::vectors::encode::{RECORD, TABLE};
use qdrant_edge::OperationError;

const DIMENSIONS: usize = 4_096;

fn collection() -> Collection {
    Collection { name: "c".to_owned(), model: "m".to_owned(), dimensions: DIMENSIONS }
}

async fn opened(path: &Path) -> EdgeStore {
    EdgeStore::open(path.to_owned(), false).await.unwrap()
}

fn points(title: &str) -> Vec<Point> {
    let point = |n: u128| {
        let mut vector = vec![0.1; DIMENSIONS];
        vector[n as usize] = 1.0;
        let entries =
            [(TABLE, "t".to_owned()), (RECORD, n.to_string()), (TEXT_HASH, "h".to_owned()), ("title", title.to_owned())];
        let payload = entries.into_iter().map(|(name, text)| (name.to_owned(), text.into())).collect();
        Point { id: Uuid::from_u128(n), payload, vector: Some(vector) }
    };
    (0..500).map(point).collect()
}

async fn titles(store: &EdgeStore) -> Vec<String> {
    let found = store.find(&collection(), Some("t"), TEXT_HASH, vec!["h".to_owned()]).await.unwrap();
    assert_eq!(found.len(), 500);
    let mut titles: Vec<String> = found.into_iter().map(|point| point.payload["title"].as_str().unwrap().to_owned()).collect();
    titles.sort();
    titles.dedup();
    titles
}

#[tokio::test]
async fn the_log_stays_short_and_later_operations_still_count() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join(collection().generation());
    let store = opened(dir.path()).await;
    store.edge.lock().unwrap().closed_log_files_max = 1;
    store.prepare(&collection()).await.unwrap();
    for title in ["one", "two", "three"] {
        store.upsert(&collection(), points(title)).await.unwrap();
        assert!(closed_log_files(&place).len() > 1, "enough was written to close files of the log");
        store.flush(Vec::new()).await.unwrap();
        assert!(closed_log_files(&place).len() <= 1);
        assert_eq!(titles(&store).await, [title]);
    }
    store.edge.lock().unwrap().closed_log_files_max = 100;
    store.upsert(&collection(), points("four")).await.unwrap();
    store.close().await.unwrap();
    assert!(closed_log_files(&place).len() > 1);
    drop(store);
    let store = opened(dir.path()).await;
    assert_eq!(titles(&store).await, ["four"]);
    assert_eq!(closed_log_files(&place).len(), 1);
    store.upsert(&collection(), points("five")).await.unwrap();
    assert_eq!(titles(&store).await, ["five"]);
}

#[tokio::test]
async fn an_engine_that_panics_is_an_error_and_is_not_used_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = opened(dir.path()).await;
    store.prepare(&collection()).await.unwrap();
    store.upsert(&collection(), points("one")).await.unwrap();
    fs::remove_dir_all(dir.path().join(collection().generation())).unwrap();
    let error = store.flush(Vec::new()).await.unwrap_err();
    assert!(error.message.contains(dir.path().to_str().unwrap()), "{error}");
    assert!(store.upsert(&collection(), points("two")).await.unwrap_err().message.contains("failed before"));
    drop(store);
}

#[test]
fn each_error_of_the_engine_has_a_class() {
    use crate::sinks::Class;
    for (error, class) in [
        (OperationError::OutOfMemory { description: String::new(), free: 0 }, Class::Transient),
        (OperationError::Timeout { description: String::new() }, Class::Transient),
        (OperationError::Cancelled { description: String::new() }, Class::Transient),
        (OperationError::WrongVectorDimension { expected_dim: 1, received_dim: 2 }, Class::Permanent),
        (OperationError::service_error("disk"), Class::Permanent),
        (OperationError::InconsistentStorage { description: String::new() }, Class::Permanent),
    ] {
        let refused = refused("write", "titles", error);
        assert_eq!(refused.class, class, "{refused}");
        assert!(refused.message.contains("titles"));
    }
}
