//! The commits of the log, as far as they tell whether a window can be read. Reads `_delta_log/*.json` itself: delta-rs checks neither that the
//! feed was on for the whole window nor that the files are still there.

use std::collections::{BTreeMap, HashMap};

use datafusion::object_store::ObjectStoreExt;
use deltalake::kernel::{self, StructType};
use deltalake::logstore::LogStore;
use deltalake::parquet::file::metadata::ParquetMetaDataReader;
use deltalake::{DeltaTable, ObjectStore, ObjectStoreError, Path};
use futures::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use url::Url;

use super::error::ChangesError;
use super::table::{Table, signed};

/// How many requests to the storage are under way at once while files are looked for: enough to hide the latency of an object
/// store, few enough not to be throttled.
const REQUESTS_AT_ONCE: usize = 32;

/// What one commit says.
#[derive(Debug, Default)]
pub(super) struct Commit {
    /// New metadata, if it changed.
    pub metadata: Option<Metadata>,
    /// Paths and sizes of the files that hold its changes: change files, or else added and removed files. Decoded.
    pub files: Vec<(String, u64)>,
    /// Files of which nothing but the deletion vector changed, with their sizes.
    pub cut: Vec<(String, u64)>,
    /// What keeps delta-rs' feed from reading it, in words that follow its version.
    pub unread: Option<String>,
}

/// What counts of a `metaData` action.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    /// The schema as JSON.
    pub schema_string: String,
    /// The columns that files are cut by.
    #[serde(default)]
    pub partition_columns: Vec<String>,
    /// Table properties.
    #[serde(default)]
    pub configuration: HashMap<String, Option<String>>,
}

impl Metadata {
    /// The metadata of a loaded version.
    pub(super) fn of(schema: &StructType, metadata: &kernel::Metadata) -> Result<Self, serde_json::Error> {
        Ok(Self {
            schema_string: serde_json::to_string(schema)?,
            partition_columns: metadata.partition_columns().to_vec(),
            configuration: metadata.configuration().iter().map(|(name, value)| (name.clone(), Some(value.clone()))).collect(),
        })
    }

    /// Whether the change feed is on.
    pub(super) fn has_feed(&self) -> bool {
        self.is("delta.enableChangeDataFeed", "true")
    }

    /// Whether columns have other names in the files.
    pub(super) fn maps_columns(&self) -> bool {
        self.is("delta.columnMapping.mode", "name") || self.is("delta.columnMapping.mode", "id")
    }

    fn is(&self, property: &str, value: &str) -> bool {
        self.configuration.get(property).and_then(Option::as_deref).is_some_and(|set| set.eq_ignore_ascii_case(value))
    }
}

#[derive(Deserialize)]
struct Line {
    #[serde(rename = "metaData")]
    metadata: Option<Metadata>,
    add: Option<File>,
    remove: Option<File>,
    cdc: Option<File>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    data_change: Option<bool>,
    #[serde(default)]
    partition_values: Option<HashMap<String, Option<String>>>,
    #[serde(default)]
    deletion_vector: Option<Vector>,
}

/// A deletion vector: `u` is in a file beside the data.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vector {
    storage_type: String,
    path_or_inline_dv: String,
}

/// The file name of a commit.
fn commit_path(version: i64) -> Path {
    Path::from(format!("_delta_log/{version:020}.json"))
}

/// Reads one commit; none if it is not in the log.
async fn read(table: &Table, version: i64) -> Result<Option<Commit>, ChangesError> {
    let log_store = table.delta.log_store();
    read_from(table.name(), log_store.as_ref(), version).await
}

async fn read_from(name: &str, log_store: &dyn LogStore, version: i64) -> Result<Option<Commit>, ChangesError> {
    let path = commit_path(version);
    let failed = |source| ChangesError::Storage { table: name.to_owned(), what: format!("read {path}"), source };
    let bytes = match log_store.object_store(None).get(&path).await {
        Ok(found) => found.bytes().await.map_err(failed)?,
        Err(ObjectStoreError::NotFound { .. }) => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    parse(name, version, &bytes).map(Some)
}

fn parse(name: &str, version: i64, bytes: &[u8]) -> Result<Commit, ChangesError> {
    let mut commit = Commit::default();
    let (mut feed, mut data, mut cuts) = (Vec::new(), Vec::new(), Cuts::default());
    for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let line: Line = serde_json::from_slice(line).map_err(|source| ChangesError::CommitDamaged {
            table: name.to_owned(),
            version,
            line: number + 1,
            file: commit_path(version).to_string(),
            source,
        })?;
        commit.metadata = line.metadata.or(commit.metadata);
        feed.extend(line.cdc.iter().map(|file| (decoded(&file.path), file.size.unwrap_or(0))));
        let removed = line.remove.as_ref().filter(|file| file.data_change != Some(false));
        if removed.is_some_and(|file| file.size.is_none() || file.partition_values.is_none()) {
            commit.unread = Some("does not tell the sizes of removed files".to_owned());
        }
        for (came, file) in [(true, line.add), (false, line.remove)] {
            let Some(file) = file.filter(|file| file.data_change != Some(false)) else { continue };
            cuts.add(&file, came);
            data.push((decoded(&file.path), file.size.unwrap_or(0)));
            let vector = file.deletion_vector.as_ref();
            data.extend(
                vector.and_then(|vector| vector_file(&vector.storage_type, &vector.path_or_inline_dv)).map(|path| (path, 0)),
            );
        }
    }
    if feed.is_empty() {
        commit.files = data;
        (commit.cut, commit.unread) = (cuts.halves(true), commit.unread.or_else(|| cuts.whole()));
    } else {
        (commit.files, commit.unread) = (feed, None);
    }
    Ok(commit)
}

/// The files of a commit with deletion vectors. Of one that was there before and is there after, delta-rs' feed reads the rows by which the
/// vectors differ. Of one that came or went whole, it reads the rows that are deleted, and not those that are left.
#[derive(Default)]
struct Cuts {
    /// By path: the size, and whether the file came, went, and has a deletion vector.
    files: BTreeMap<String, (u64, bool, bool, bool)>,
}

impl Cuts {
    fn add(&mut self, file: &File, came: bool) {
        let (size, comes, goes, vector) = self.files.entry(file.path.clone()).or_default();
        *size = (*size).max(file.size.unwrap_or(0));
        *comes |= came;
        *goes |= !came;
        *vector |= file.deletion_vector.is_some();
    }

    /// Those that came and went, or those that did only one of it.
    fn halves(&self, both: bool) -> Vec<(String, u64)> {
        let cut = self.files.iter().filter(|(_, (_, came, went, vector))| *vector && (*came && *went) == both);
        cut.map(|(path, (size, ..))| (decoded(path), *size)).collect()
    }

    fn whole(&self) -> Option<String> {
        let (path, _) = self.halves(false).into_iter().next()?;
        Some(format!("has the file {path} with a deletion vector"))
    }
}

/// The file that a deletion vector is in, relative to the table; none if it is inline or at an absolute address. The path of kind `u` is an
/// optional prefix and a UUID in Z85 (Delta protocol, "Deletion Vectors").
pub(super) fn vector_file(storage_type: &str, path: &str) -> Option<String> {
    const DIGITS: &[u8; 85] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#";
    if storage_type != "u" {
        return None;
    }
    let (prefix, encoded) = path.split_at_checked(path.len().checked_sub(20)?)?;
    let mut uuid = [0_u8; 16];
    for (five, four) in encoded.as_bytes().chunks(5).zip(uuid.chunks_mut(4)) {
        let number = five.iter().try_fold(0_u64, |sum, digit| {
            let value = DIGITS.iter().position(|known| known == digit)?;
            Some(sum * 85 + value as u64)
        })?;
        four.copy_from_slice(&u32::try_from(number).ok()?.to_be_bytes());
    }
    let name = format!("deletion_vector_{}.bin", uuid::Uuid::from_bytes(uuid));
    Some(if prefix.is_empty() { name } else { format!("{prefix}/{name}") })
}

/// Paths in the log are URIs.
fn decoded(path: &str) -> String {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten().and_then(|two| std::str::from_utf8(two).ok());
        match hex.and_then(|two| u8::from_str_radix(two, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| path.to_owned())
}

/// The first of these files (with the version that needs it; decoded paths, relative to the table) that is not there. Files at absolute
/// addresses are not looked for.
pub(super) async fn first_missing(table: &Table, files: Vec<(i64, String)>) -> Result<Option<(i64, String)>, ChangesError> {
    let store = table.delta.log_store().object_store(None);
    let relative = files.into_iter().filter(|(_, path)| absolute(path).is_none());
    let mut looked = stream::iter(relative.map(|(version, path)| {
        let store = store.clone();
        async move {
            let place = Path::parse(&path).unwrap_or_else(|_| Path::from(path.as_str()));
            match store.head(&place).await {
                Ok(_) => Ok(None),
                Err(ObjectStoreError::NotFound { .. }) => Ok(Some((version, path))),
                Err(source) => {
                    Err(ChangesError::Storage { table: table.name().to_owned(), what: format!("look for {path}"), source })
                }
            }
        }
    }))
    .buffered(REQUESTS_AT_ONCE);
    while let Some(missing) = looked.try_next().await? {
        if missing.is_some() {
            return Ok(missing);
        }
    }
    Ok(None)
}

/// The first of these files that does not have a single row group: delta-rs' feed confuses the others when a deletion vector changes.
pub(super) async fn first_of_row_groups(table: &Table, files: Vec<(String, u64)>) -> Result<Option<String>, ChangesError> {
    let store = table.delta.log_store().object_store(None);
    let mut looked = stream::iter(files.into_iter().map(|(path, size)| {
        let store = store.clone();
        async move {
            let groups = row_groups(store.as_ref(), &path, size).await;
            let groups = groups.map_err(|source| {
                let what = format!("read the footer of {path}");
                ChangesError::Storage { table: table.name().to_owned(), what, source }
            })?;
            Ok::<_, ChangesError>((groups != Some(1)).then_some(path))
        }
    }))
    .buffered(REQUESTS_AT_ONCE);
    while let Some(several) = looked.try_next().await? {
        if several.is_some() {
            return Ok(several);
        }
    }
    Ok(None)
}

/// How many row groups a Parquet file of this size has, by its footer; none if that cannot be understood.
async fn row_groups(store: &dyn ObjectStore, path: &str, size: u64) -> Result<Option<usize>, ObjectStoreError> {
    let place = Path::parse(path).unwrap_or_else(|_| Path::from(path));
    // The file ends with the length of the metadata and a mark.
    let Some(end) = size.checked_sub(8) else { return Ok(None) };
    let tail = store.get_range(&place, end..size).await?;
    let Some(length) = tail.first_chunk::<4>() else { return Ok(None) };
    let Some(begin) = end.checked_sub(u64::from(u32::from_le_bytes(*length))) else { return Ok(None) };
    let metadata = ParquetMetaDataReader::decode_metadata(&store.get_range(&place, begin..end).await?);
    Ok(metadata.ok().map(|metadata| metadata.num_row_groups()))
}

/// Whether delta-rs' feed finds the file at this decoded path: it encodes paths once more, so those with a per cent sign, as partition
/// values with special characters have, are not found, and neither are files outside the table.
pub(super) fn reaches_feed(path: &str) -> bool {
    absolute(path).is_none() && Path::from(path).as_ref() == path
}

/// The address in a path that is not relative to the table, as files of another table have it.
pub(super) fn absolute(path: &str) -> Option<Url> {
    path.contains(':').then(|| Url::parse(path).ok()).flatten()
}

/// Reads the commits of a range, in order, some of them ahead.
pub(super) fn read_range(
    table: &Table,
    versions: std::ops::RangeInclusive<i64>,
) -> impl futures::Stream<Item = Result<(i64, Option<Commit>), ChangesError>> + '_ {
    stream::iter(versions)
        .map(move |version| async move { Ok((version, read(table, version).await?)) })
        .buffered(REQUESTS_AT_ONCE)
}

/// The damaged commit that keeps a table from being opened, if that is the cause: looks at the last ones in the log.
pub(super) async fn damaged(name: &str, table: &DeltaTable) -> Option<ChangesError> {
    let log_store = table.log_store();
    let store = log_store.object_store(None);
    let listed: Vec<_> = store.list(Some(&Path::from("_delta_log"))).try_collect().await.ok()?;
    let mut versions: Vec<i64> = listed
        .iter()
        .filter_map(|file| file.location.filename()?.strip_suffix(".json")?.parse::<u64>().ok().map(signed))
        .collect();
    versions.sort_unstable();
    for version in versions.into_iter().rev().take(10) {
        if let Err(error) = read_from(name, log_store.as_ref(), version).await {
            return Some(error);
        }
    }
    None
}

/// The version of the newest commit of a local table, by the names of the files in its log; none for a table that is elsewhere, or
/// not there. A hint: whether it is a commit that can be read is found out when the table is opened.
#[must_use]
pub fn newest_commit(url: &str) -> Option<i64> {
    let folder = url.strip_prefix("file://").unwrap_or(url);
    if folder.contains("://") {
        return None;
    }
    let names = std::fs::read_dir(std::path::Path::new(folder).join("_delta_log")).ok()?;
    let version = |name: &str| name.strip_suffix(".json").filter(|number| number.len() == 20)?.parse().ok();
    names.filter_map(|entry| version(entry.ok()?.file_name().to_str()?)).max()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_with_change_files_needs_no_others() {
        let text = "{\"commitInfo\":{}}\n{\"add\":{\"path\":\"a%20b.parquet\",\"size\":3,\"dataChange\":true}}\n{\"cdc\":{\"path\":\"_change_data/c\",\"size\":5,\"dataChange\":false}}\n";
        let commit = parse("t", 3, text.as_bytes()).unwrap();
        assert_eq!(commit.files, [("_change_data/c".to_owned(), 5)]);
        let commit = parse("t", 3, text.lines().nth(1).unwrap().as_bytes()).unwrap();
        assert_eq!(commit.files, [("a b.parquet".to_owned(), 3)]);
        let commit = parse("t", 3, br#"{"add":{"path":"x","size":3,"dataChange":false}}"#).unwrap();
        assert!(commit.files.is_empty());
    }

    #[test]
    fn a_removed_file_without_its_size_is_bare() {
        let bare = |text: &str| parse("t", 3, text.as_bytes()).unwrap().unread.is_some();
        assert!(bare(r#"{"remove":{"path":"x","dataChange":true}}"#));
        assert!(bare(r#"{"remove":{"path":"x","dataChange":true,"size":3}}"#));
        assert!(!bare(r#"{"remove":{"path":"x","dataChange":true,"size":3,"partitionValues":{}}}"#));
        assert!(!bare(r#"{"remove":{"path":"x","dataChange":false}}"#));
        assert!(!bare("{\"remove\":{\"path\":\"x\",\"dataChange\":true}}\n{\"cdc\":{\"path\":\"c\",\"size\":5}}"));
    }

    #[test]
    fn a_deletion_vector_is_read_where_it_alone_changed() {
        let vector =
            r#""deletionVector":{"storageType":"i","pathOrInlineDv":"wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"}"#;
        let add = |vector: &str| format!(r#"{{"add":{{"path":"x","size":3,"dataChange":true{vector}}}}}"#);
        let remove =
            |vector: &str| format!(r#"{{"remove":{{"path":"x","size":3,"dataChange":true,"partitionValues":{{}}{vector}}}}}"#);
        let with = format!(",{vector}");
        let read = |lines: &[String]| {
            let commit = parse("t", 3, lines.join("\n").as_bytes()).unwrap();
            (commit.unread.is_none(), commit.cut.len())
        };
        assert_eq!(read(&[add(&with), remove("")]), (true, 1));
        assert_eq!(read(&[remove(&with), add(&with)]), (true, 1));
        assert_eq!(read(&[remove("")]), (true, 0));
        assert_eq!(read(&[remove(&with)]), (false, 0));
        assert_eq!(read(&[add(&with)]), (false, 0));
        assert_eq!(read(&[add(&with), r#"{"cdc":{"path":"c","size":5}}"#.to_owned()]), (true, 0));
    }

    #[test]
    fn a_truncated_commit_is_named() {
        let error = parse("films", 12, b"{\"commitInfo\":{}}\n{\"add\":{\"path\":\"x").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("films") && text.contains("commit 12") && text.contains("line 2"), "{text}");
    }

    #[test]
    fn a_deletion_vector_names_its_file() {
        // The example of the Delta protocol.
        let file = vector_file("u", "ab^-aqEH.-t@S}K{vb[*k^");
        assert_eq!(file.as_deref(), Some("ab/deletion_vector_d2c639aa-8816-431a-aaf6-d3fe2512ff61.bin"));
        assert_eq!(vector_file("i", "wi5b=000010000siXQKl0rr91000f55c8Xg0@@D72lkbi5=-{L"), None);
    }

    #[test]
    fn an_address_is_no_path_of_the_table() {
        for path in
            ["file:/lake/other/a.parquet", "s3://lake/other/a.parquet", "abfss://c@account.dfs.core.windows.net/a.parquet"]
        {
            assert!(absolute(path).is_some() && !reaches_feed(path), "{path}");
        }
        for path in ["a.parquet", "at=2020-01-01 10:11:12/a.parquet", "_change_data/at=10:11/a.parquet"] {
            assert!(absolute(path).is_none() && reaches_feed(path), "{path}");
        }
    }

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(decoded("p=a%252Fb/x%20y"), "p=a%2Fb/x y");
        assert_eq!(decoded("100%/é%C3%A9"), "100%/éé");
    }
}
