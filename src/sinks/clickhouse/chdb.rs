//! The ClickHouse engine inside this process. A process runs one engine, on one directory, which it holds by a lock; any number
//! of sessions share it, and the last one to close ends it. Each session lives on a thread of its own, because the engine's calls
//! block and its handles stay where they were made. Knows no targets and no Arrow.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::NAME;
use super::abi::{Abi, Connection};
use super::client::{EngineError, External, Transport};
use super::config::ClickhouseOptions;
use super::encode::{literal, quote};
use crate::sinks::{Class, SinkError};

/// The file in the engine's directory that the process holds locked. It also tells which engine wrote the directory.
const LOCK_FILE: &str = ".distributary.lock";

/// The version of the tables' layout that this sink writes.
const FORMAT: u32 = 1;

/// The engine's caches of index marks are bounded to this; its own default is 5 GiB.
const MARK_CACHE_BYTES: u64 = 128 << 20;

/// Deeply nested statements need more stack than Rust gives a thread.
const STACK_BYTES: usize = 16 << 20;

/// Rows that the engine gathers to one part while it reads one insert.
pub(super) const PART_ROWS: u64 = 1 << 20;
/// Bytes that the engine gathers to one part while it reads one insert.
pub(super) const PART_BYTES: u64 = 64 << 20;

/// What the lock file says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    format: u32,
    engine: String,
    pid: u32,
}

/// The engine that runs in this process.
struct Running {
    path: PathBuf,
    sessions: usize,
    _lock: File,
}

static RUNNING: Mutex<Option<Running>> = Mutex::new(None);
static LIBRARY: OnceLock<Abi> = OnceLock::new();

fn running() -> MutexGuard<'static, Option<Running>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A handle of the engine with the sink's settings. Dropping it, on the thread that made it, closes the handle; dropping the last
/// one ends the engine and gives the directory free.
struct Session {
    connection: Option<Connection>,
}

impl Session {
    /// Starts the engine or joins it; with `make`, the database is made when it is missing.
    fn open(options: &ClickhouseOptions, make: bool) -> Result<Self, SinkError> {
        // Starting and ending are done one at a time, under the lock.
        let mut running = running();
        let abi = library(&options.library)?;
        let path = directory(&options.path)?;
        match running.as_mut() {
            Some(engine) if engine.path == path => engine.sessions += 1,
            Some(engine) => {
                return Err(SinkError::permanent(
                    NAME,
                    format!(
                        "cannot open {}: this process already runs the engine on {}, and a process runs one. Close that one first, or use another process",
                        path.display(),
                        engine.path.display()
                    ),
                ));
            }
            None => *running = Some(Running { _lock: lock(&path, abi.version())?, path: path.clone(), sessions: 1 }),
        }
        let opened = connect(abi, &path).and_then(|connection| {
            configure(&connection, options, make)?;
            Ok(Self { connection: Some(connection) })
        });
        if opened.is_err() {
            release(&mut running);
        }
        opened
    }

    fn query(&self, sql: &str, format: &str) -> Result<Vec<u8>, EngineError> {
        self.live()?.query(sql, format).map_err(EngineError::parse)
    }

    fn insert(&self, sql: &str, rows: &[u8]) -> Result<(), EngineError> {
        self.live()?.insert(sql, "ArrowStream", rows).map_err(EngineError::parse)
    }

    fn query_with(&self, sql: &str, format: &str, table: &External) -> Result<Vec<u8>, EngineError> {
        let name = quote(table.name);
        self.query(&format!("CREATE OR REPLACE TEMPORARY TABLE {name} ({}) ENGINE = Memory", table.structure), "Null")?;
        let answer = self.insert(&format!("INSERT INTO {name}"), &table.rows).and_then(|()| self.query(sql, format));
        let dropped = self.query(&format!("DROP TEMPORARY TABLE {name}"), "Null");
        let answer = answer?;
        dropped?;
        Ok(answer)
    }

    fn live(&self) -> Result<&Connection, EngineError> {
        self.connection.as_ref().ok_or_else(ended)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut running = running();
        self.connection = None;
        release(&mut running);
    }
}

/// Counts one session less and gives the directory free after the last.
fn release(running: &mut Option<Running>) {
    if let Some(engine) = running {
        engine.sessions = engine.sessions.saturating_sub(1);
        if engine.sessions == 0 {
            *running = None;
        }
    }
}

fn ended() -> EngineError {
    EngineError::said(Class::Permanent, "the engine was closed")
}

/// The library, loaded once. A process that named two of them keeps the first.
fn library(path: &Path) -> Result<&'static Abi, SinkError> {
    match LIBRARY.get() {
        Some(abi) => Ok(abi),
        None => library_at(path).map(|abi| LIBRARY.get_or_init(|| abi)),
    }
}

fn library_at(path: &Path) -> Result<Abi, SinkError> {
    if !path.is_file() {
        let message = format!(
            "{} is not there: run `distributary fetch`, or name the file libchdb.so in the configuration",
            path.display()
        );
        return Err(SinkError::permanent(NAME, message));
    }
    Abi::load(path).map_err(|error| {
        let message = format!("{} is no libchdb that can be loaded here: fetch it again, or name another file", path.display());
        SinkError::permanent(NAME, message).because(error)
    })
}

/// Makes the directory and answers the one name by which it is known.
fn directory(path: &Path) -> Result<PathBuf, SinkError> {
    fs::create_dir_all(path).and_then(|()| path.canonicalize()).map_err(|error| {
        let why = if path.exists() && !path.is_dir() { "it is a file, not a directory" } else { "it cannot be made or read" };
        let message = format!("cannot use {} as the engine's directory: {why} ({error})", path.display());
        SinkError::permanent(NAME, message).because(error)
    })
}

/// Takes the directory for this process, or says who has it, or that a newer engine wrote it.
fn lock(path: &Path, engine: &str) -> Result<File, SinkError> {
    let name = path.join(LOCK_FILE);
    let failed =
        |error: std::io::Error| SinkError::permanent(NAME, format!("cannot write {}: {error}", name.display())).because(error);
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name).map_err(failed)?;
    let mut text = String::new();
    let locked = file.try_lock();
    // An unreadable mark is no reason to fail: it is written anew below.
    let _ = file.read_to_string(&mut text);
    let mark: Option<Mark> = serde_json::from_str(&text).ok();
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = mark.map_or_else(String::new, |mark| format!(" (process {})", mark.pid));
            return Err(SinkError::stop(
                NAME,
                format!(
                    "{} is held by another process{holder}: wait until it has finished or end it; a directory has one writer",
                    path.display()
                ),
            ));
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    if let Some(mark) = mark
        && (mark.format > FORMAT || numbers(&mark.engine) > numbers(engine))
    {
        return Err(SinkError::stop(
            NAME,
            format!(
                "{} was written by engine {} (layout {}), this is {engine} (layout {FORMAT}): use a newer distributary, or another directory",
                path.display(),
                mark.engine,
                mark.format
            ),
        ));
    }
    let mark = Mark { format: FORMAT, engine: engine.to_owned(), pid: std::process::id() };
    let text = serde_json::to_string(&mark).map_err(|error| failed(error.into()))?;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes())).map_err(failed)?;
    Ok(file)
}

/// A version's numbers, to compare them by size.
fn numbers(version: &str) -> Vec<u64> {
    version.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse().ok()).collect()
}

fn connect(abi: &'static Abi, path: &Path) -> Result<Connection, SinkError> {
    let mut argument = b"--path=".to_vec();
    argument.extend_from_slice(path.as_os_str().as_bytes());
    let arguments =
        [CString::new("clickhouse"), CString::new(argument), CString::new(format!("--mark_cache_size={MARK_CACHE_BYTES}"))];
    let arguments: Vec<CString> = arguments
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| SinkError::permanent(NAME, "the engine's directory has a zero byte in its name").because(error))?;
    Connection::open(abi, &arguments).ok_or_else(|| {
        SinkError::permanent(
            NAME,
            format!(
                "the engine did not start on {}: another program may hold it, or its files are damaged or of a newer version; the engine wrote the reason to stderr",
                path.display()
            ),
        )
    })
}

/// Sets what every statement of the session relies on, and goes to the database.
fn configure(connection: &Connection, options: &ClickhouseOptions, make: bool) -> Result<(), SinkError> {
    let memory = options.memory_bytes_max.max(64 << 20);
    let settings = [
        // An answer means stored, whatever the defaults of this version are.
        "async_insert = 0".to_owned(),
        "wait_for_async_insert = 1".to_owned(),
        // A null in a column that has none is an error, not a zero.
        "input_format_null_as_default = 0".to_owned(),
        format!("max_insert_block_size = {PART_ROWS}"),
        format!("min_insert_block_size_rows = {PART_ROWS}"),
        format!("min_insert_block_size_bytes = {PART_BYTES}"),
        format!("max_memory_usage = {memory}"),
        format!("max_bytes_before_external_group_by = {}", memory / 2),
        format!("max_bytes_before_external_sort = {}", memory / 2),
        // Strings of the engine are bytes: they are checked where they are read.
        "output_format_arrow_string_as_string = 0".to_owned(),
        format!("output_format_arrow_compression_method = {}", literal("none")),
        "output_format_json_quote_64bit_integers = 0".to_owned(),
        "output_format_json_quote_denormals = 1".to_owned(),
        "print_pretty_type_names = 0".to_owned(),
        format!("session_timezone = {}", literal("UTC")),
    ];
    let run = |sql: String| connection.query(&sql, "Null").map_err(EngineError::parse);
    let failed = |error: EngineError| error.during("setting up the engine");
    run(format!("SET {}", settings.join(", "))).map_err(failed)?;
    let database = quote(&options.database);
    if make {
        run(format!("CREATE DATABASE IF NOT EXISTS {database}")).map_err(failed)?;
    }
    match run(format!("USE {database}")) {
        // A person dropped it; the statement to come may be the one that makes it again.
        Err(error) if error.absent() && !make => Ok(()),
        other => other.map(|_| ()).map_err(failed),
    }
}

type Job = Box<dyn FnOnce(&Session) + Send>;

/// A session on its thread.
pub(super) struct Chdb {
    options: ClickhouseOptions,
    jobs: Mutex<Option<Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Chdb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Chdb").field("path", &self.options.path).field("database", &self.options.database).finish()
    }
}

impl Chdb {
    /// Opens a session, starting the engine if it does not run.
    pub(super) async fn open(options: ClickhouseOptions) -> Result<Self, SinkError> {
        let (jobs, inbox) = channel::<Job>();
        let (ready, opened) = oneshot::channel();
        let settings = options.clone();
        let thread = std::thread::Builder::new()
            .name("chdb".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || match Session::open(&settings, true) {
                Ok(session) => {
                    if ready.send(Ok(())).is_ok() {
                        inbox.iter().for_each(|job| job(&session));
                    }
                }
                Err(error) => drop(ready.send(Err(error))),
            })
            .map_err(|error| SinkError::transient(NAME, "cannot start a thread for the engine").because(error))?;
        match opened.await {
            Ok(Ok(())) => Ok(Self { options, jobs: Mutex::new(Some(jobs)), thread: Mutex::new(Some(thread)) }),
            Ok(Err(error)) => Err(error),
            Err(error) => Err(SinkError::permanent(NAME, "the engine's thread ended while it started").because(error)),
        }
    }

    /// Runs `job` on the session's thread. It runs to its end even where nobody waits for the answer.
    async fn call<R: Send + 'static>(
        &self,
        job: impl FnOnce(&Session) -> Result<R, EngineError> + Send + 'static,
    ) -> Result<R, EngineError> {
        let (reply, answer) = oneshot::channel();
        let job: Job = Box::new(move |session| drop(reply.send(job(session))));
        {
            let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            jobs.as_ref().ok_or_else(ended)?.send(job).map_err(|_| ended())?;
        }
        answer.await.map_err(|_| ended())?
    }

    /// Ends the thread, which closes the session.
    fn take_thread(&self) -> Option<JoinHandle<()>> {
        drop(self.jobs.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[async_trait]
impl Transport for Chdb {
    async fn query(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError> {
        self.call(move |session| session.query(&sql, format)).await
    }

    async fn query_with(&self, sql: String, format: &'static str, table: External) -> Result<Vec<u8>, EngineError> {
        self.call(move |session| session.query_with(&sql, format, &table)).await
    }

    async fn insert(&self, sql: String, rows: Vec<u8>, _token: &str) -> Result<(), EngineError> {
        self.call(move |session| session.insert(&sql, &rows)).await
    }

    async fn ask(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError> {
        let options = self.options.clone();
        // A second handle beside the first, which keeps the engine running meanwhile.
        self.call(move |_| {
            let session = Session::open(&options, false).map_err(|error| EngineError::said(error.class, error.message))?;
            session.query(&sql, format)
        })
        .await
    }

    async fn close(&self) -> Result<(), EngineError> {
        let Some(thread) = self.take_thread() else {
            return Ok(());
        };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(EngineError::said(Class::Permanent, "the engine's thread ended badly")),
        }
    }
}

impl Drop for Chdb {
    fn drop(&mut self) {
        // The engine must not be running while the process ends, so this waits for the statement that runs, if one does.
        if let Some(thread) = self.take_thread() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_one_holder() {
        let directory = tempfile::tempdir().unwrap();
        let held = lock(directory.path(), "26.7.3").unwrap();
        let error = lock(directory.path(), "26.7.3").unwrap_err();
        assert_eq!(error.class, Class::Stop);
        assert!(error.message.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        lock(directory.path(), "26.7.3").unwrap();
    }

    #[test]
    fn a_directory_of_a_newer_engine_is_left_alone() {
        for (mark, ok) in [
            (r#"{"format":1,"engine":"26.7.2","pid":1}"#, true),
            (r#"{"format":1,"engine":"26.7.3","pid":1}"#, true),
            (r#"{"format":1,"engine":"26.10.0","pid":1}"#, false),
            (r#"{"format":2,"engine":"26.7.3","pid":1}"#, false),
            ("torn", true),
            ("", true),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join(LOCK_FILE);
            fs::write(&file, mark).unwrap();
            let answer = lock(directory.path(), "26.7.3");
            assert_eq!(answer.is_ok(), ok, "{mark}");
            if let Err(error) = answer {
                assert_eq!(error.class, Class::Stop);
                assert_eq!(fs::read_to_string(&file).unwrap(), mark, "what refused is not changed");
            }
        }
    }

    #[test]
    fn a_missing_library_says_how_to_get_it() {
        let error = library_at(Path::new("no/such/libchdb.so")).unwrap_err();
        assert!(error.message.contains("distributary fetch"), "{error}");
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = library_at(file.path()).unwrap_err();
        assert!(error.message.contains("no libchdb"), "{error}");
    }
}
