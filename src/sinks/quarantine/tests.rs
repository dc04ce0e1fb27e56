//! The quarantine on real Delta tables.

use super::*;

fn entry(table: &str, key: &str, lane: &str) -> Entry {
    Entry {
        table: table.to_owned(),
        key: key.to_owned(),
        lane: lane.to_owned(),
        commit_version: 3,
        reason: "duplicate_key".to_owned(),
        message: "two records of one key".to_owned(),
        payload: r#"{"id":1,"title":"Ünïcode \u0000 'quoted'"}"#.to_owned(),
        hash: "00ff".to_owned(),
        quarantined_at: "2024-05-06T07:08:09.123456Z".to_owned(),
    }
}

async fn open(address: &str) -> Quarantine {
    Quarantine::open(address, HashMap::new()).await.unwrap()
}

fn all(quarantine: &Quarantine) -> Vec<Entry> {
    quarantine.entries().cloned().collect()
}

#[tokio::test]
async fn an_absent_table_is_empty_and_is_made_by_the_first_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/quarantine");
    let address = path.to_str().unwrap();
    let mut quarantine = open(address).await;
    quarantine.save().await.unwrap();
    quarantine.put(entry("movies", r#"{"id":1}"#, "*")).unwrap();
    quarantine.resolve("movies", "*", r#"{"id":1}"#);
    quarantine.save().await.unwrap();
    assert!(!path.exists(), "nothing to keep makes no table");

    quarantine.put(entry("movies", r#"{"id":1}"#, "*")).unwrap();
    quarantine.save().await.unwrap();
    assert_eq!(all(&open(address).await), [entry("movies", r#"{"id":1}"#, "*")]);
    let as_url = Url::from_directory_path(&path).unwrap();
    assert_eq!(all(&open(as_url.as_str()).await).len(), 1, "a file URL is the same place");
}

#[tokio::test]
async fn entries_are_put_once_replaced_and_resolved_and_only_changes_are_committed() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().to_str().unwrap();
    let mut quarantine = open(address).await;
    for (key, lane) in [(r#"{"id":1}"#, "movies/graph/Movie/0-of-1"), (r#"{"id":2}"#, "*"), (r#"{"id":null}"#, "*")] {
        quarantine.put(entry("movies", key, lane)).unwrap();
    }
    let other_without_key = Entry { hash: "other".to_owned(), ..entry("movies", r#"{"id":null}"#, "*") };
    quarantine.put(other_without_key.clone()).unwrap();
    quarantine.put(entry("series", r#"{"id":1}"#, "*")).unwrap();
    quarantine.save().await.unwrap();
    let version = quarantine.table.as_ref().unwrap().version();

    let mut quarantine = open(address).await;
    assert_eq!(all(&quarantine).len(), 5, "records without a key are told apart by their hash");
    assert_eq!(quarantine.keys("movies", "movies/graph/Movie/0-of-1").len(), 3);
    assert_eq!(quarantine.keys("movies", "movies/vectors/titles/0-of-1").len(), 2);
    assert_eq!(quarantine.keys("nothing", "*").len(), 0);
    let later = "2025-01-01T00:00:00Z".to_owned();
    quarantine.put(Entry { commit_version: 9, quarantined_at: later, ..entry("movies", r#"{"id":2}"#, "*") }).unwrap();
    quarantine.resolve("movies", "*", "not there");
    quarantine.save().await.unwrap();
    assert_eq!(quarantine.table.as_ref().unwrap().version(), version, "the same again is no commit");

    let replaced = Entry { message: "three records".to_owned(), hash: "1".to_owned(), ..entry("movies", r#"{"id":2}"#, "*") };
    quarantine.put(replaced.clone()).unwrap();
    quarantine.resolve("movies", "movies/graph/Movie/0-of-1", r#"{"id":1}"#);
    quarantine.resolve_hash("movies", "00ff");
    quarantine.save().await.unwrap();
    assert_eq!(quarantine.table.as_ref().unwrap().version(), version.map(|v| v + 1), "one commit");
    let quarantine = open(address).await;
    assert_eq!(all(&quarantine), [replaced, other_without_key, entry("series", r#"{"id":1}"#, "*")]);
}

#[tokio::test]
async fn the_last_entry_can_go() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().to_str().unwrap();
    let mut quarantine = open(address).await;
    quarantine.put(entry("movies", r#"{"id":1}"#, "*")).unwrap();
    quarantine.save().await.unwrap();
    quarantine.resolve("movies", "*", r#"{"id":1}"#);
    quarantine.save().await.unwrap();
    let mut quarantine = open(address).await;
    assert_eq!(all(&quarantine), []);
    quarantine.put(entry("movies", r#"{"id":1}"#, "*")).unwrap();
    quarantine.save().await.unwrap();
    assert_eq!(all(&open(address).await).len(), 1);
}

#[tokio::test]
async fn two_writers_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let address = dir.path().to_str().unwrap();
    let mut first = open(address).await;
    let mut second = open(address).await;
    first.put(entry("movies", r#"{"id":1}"#, "*")).unwrap();
    first.put(entry("movies", r#"{"id":2}"#, "*")).unwrap();
    second.put(entry("movies", r#"{"id":3}"#, "*")).unwrap();
    first.save().await.unwrap();
    second.save().await.unwrap();
    first.resolve("movies", "*", r#"{"id":1}"#);
    first.save().await.unwrap();
    let keys: Vec<String> = all(&open(address).await).into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, [r#"{"id":2}"#, r#"{"id":3}"#]);
    assert_eq!(all(&first), all(&open(address).await), "the loser of a race knows the other's entries");
}

#[tokio::test]
async fn too_many_entries_are_no_matter_of_single_records() {
    let dir = tempfile::tempdir().unwrap();
    let mut quarantine = open(dir.path().to_str().unwrap()).await.with_entries_max(2);
    for key in [r#"{"id":1}"#, r#"{"id":2}"#, r#"{"id":2}"#] {
        quarantine.put(entry("movies", key, "*")).unwrap();
    }
    let error = quarantine.put(entry("movies", r#"{"id":3}"#, "*")).unwrap_err();
    assert!(matches!(error, QuarantineError::Full { entries_max: 2, .. }));
    assert!(error.to_string().contains("movies"), "{error}");
    quarantine.put(Entry { message: "else".to_owned(), ..entry("movies", r#"{"id":2}"#, "*") }).unwrap();
    quarantine.save().await.unwrap();
}

#[tokio::test]
async fn another_table_is_not_touched() {
    let dir = tempfile::tempdir().unwrap();
    let batch = RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).unwrap();
    let url = Url::from_directory_path(dir.path()).unwrap();
    DeltaTableBuilder::from_url(url).unwrap().build().unwrap().write([batch]).await.unwrap();
    let error = Quarantine::open(dir.path().to_str().unwrap(), HashMap::new()).await.unwrap_err();
    assert!(matches!(error, QuarantineError::Foreign { .. }), "{error}");
    for wrong in ["", "nowhere://bucket/table", "http://[::1"] {
        assert!(Quarantine::open(wrong, HashMap::new()).await.is_err(), "{wrong}");
    }
}

#[tokio::test]
async fn secrets_are_not_shown() {
    let place = Place::new("s3://user:secret@bucket/quarantine").unwrap();
    assert_eq!(place.shown(), "s3://bucket/quarantine");
    let dir = tempfile::tempdir().unwrap();
    let options = HashMap::from([("AWS_SECRET_ACCESS_KEY".to_owned(), "secret".to_owned())]);
    let quarantine = Quarantine::open(dir.path().to_str().unwrap(), options).await.unwrap();
    assert!(!format!("{quarantine:?}").contains("secret"));
}

#[tokio::test]
async fn an_entry_with_a_wrong_time_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut quarantine = open(dir.path().to_str().unwrap()).await;
    quarantine.put(Entry { quarantined_at: "yesterday".to_owned(), ..entry("movies", "{}", "*") }).unwrap();
    let error = quarantine.save().await.unwrap_err();
    assert!(error.to_string().contains("movies") && error.to_string().contains("yesterday"), "{error}");
}
