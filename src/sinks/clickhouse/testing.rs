//! Sinks for tests: all of one process share one engine and one directory, each has a database of its own. The same engine is reached in
//! two ways: in this process, and over HTTP.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use self::front::Front;
use super::{ClickhouseOptions, ClickhouseSink, ServerOptions, open, open_server};

#[path = "../../../tests/fronts/clickhouse.rs"]
#[allow(
    dead_code,
    clippy::duplicate_mod,
    reason = "the tests from outside use all of it, and it binds the engine as the sink does"
)]
mod front;

static DIRECTORY: Mutex<Weak<tempfile::TempDir>> = Mutex::new(Weak::new());
static COUNT: AtomicU64 = AtomicU64::new(0);

/// A sink with a database of its own. The directory goes with the last one.
#[derive(Debug)]
pub(crate) struct TestSink {
    pub(crate) sink: ClickhouseSink,
    pub(crate) options: ClickhouseOptions,
    _front: Option<Front>,
    // Dropped after the sink.
    _directory: Arc<tempfile::TempDir>,
}

/// Where libchdb.so is: `DISTRIBUTARY_LIBCHDB`, or the cache that `distributary fetch` fills.
pub(crate) fn library() -> PathBuf {
    let cache = std::env::var_os("DISTRIBUTARY_CACHE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/distributary")))
        .unwrap_or_default();
    let path = std::env::var_os("DISTRIBUTARY_LIBCHDB").map_or_else(|| cache.join("libchdb/26.7.3/libchdb.so"), PathBuf::from);
    assert!(path.is_file(), "{} is not there: run `distributary fetch`, or set DISTRIBUTARY_LIBCHDB", path.display());
    path
}

fn directory() -> Arc<tempfile::TempDir> {
    let mut shared = DIRECTORY.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let made = Arc::new(tempfile::tempdir().unwrap());
        *shared = Arc::downgrade(&made);
        made
    })
}

fn options(directory: &tempfile::TempDir) -> ClickhouseOptions {
    let mut options = ClickhouseOptions::new(directory.path().join("engine"), library());
    options.database = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    options.fsync = false;
    options
}

/// Opens a sink on the shared engine, in a new database.
pub(crate) async fn sink() -> TestSink {
    let directory = directory();
    let options = options(&directory);
    let sink = open(options.clone()).await.unwrap();
    TestSink { sink, options, _front: None, _directory: directory }
}

/// The same over HTTP.
pub(crate) async fn server_sink() -> TestSink {
    let directory = directory();
    let options = options(&directory);
    let front = Front::over(directory.clone(), &options.library);
    let mut server = ServerOptions::at(front.address().parse().unwrap());
    server.database.clone_from(&options.database);
    let sink = open_server(server).await.unwrap();
    TestSink { sink, options, _front: Some(front), _directory: directory }
}
