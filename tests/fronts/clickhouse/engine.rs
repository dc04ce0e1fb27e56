//! Connections to the engine of this process, each on a thread of its own: one for each request, or for each session.

use std::collections::HashMap;
use std::ffi::CString;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

// The same binding that the sink has: it is private there.
#[path = "../../../src/sinks/clickhouse/abi.rs"]
mod abi;

use abi::Abi;

/// The engine's version, as errors name it.
pub(super) const VERSION: &str = "26.7.3";
/// Deeply nested statements need more stack than Rust gives a thread.
pub(super) const STACK_BYTES: usize = 16 << 20;

/// What is done with a connection.
pub(super) type Job<R> = Box<dyn FnOnce(&Connection) -> R + Send>;
type Sent = Job<()>;

struct Session {
    jobs: Sender<Sent>,
    thread: JoinHandle<()>,
}

/// The engine that runs in this process, on one directory.
pub(super) struct Engine {
    abi: &'static Abi,
    path: PathBuf,
    sessions: Mutex<HashMap<String, Session>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("path", &self.path).finish_non_exhaustive()
    }
}

static LIBRARY: OnceLock<Abi> = OnceLock::new();
/// Connections are made and closed one at a time.
static DOORS: Mutex<()> = Mutex::new(());

/// A connection. It stays on the thread that made it.
pub(super) struct Connection {
    handle: Option<abi::Connection>,
}

impl Connection {
    fn open(abi: &'static Abi, path: &Path) -> Self {
        let mut argument = b"--path=".to_vec();
        argument.extend_from_slice(path.as_os_str().as_bytes());
        let arguments = [CString::new("clickhouse").unwrap(), CString::new(argument).unwrap()];
        let _alone = DOORS.lock().unwrap_or_else(PoisonError::into_inner);
        Self { handle: Some(abi::Connection::open(abi, &arguments).expect("the engine took no connection")) }
    }

    fn handle(&self) -> &abi::Connection {
        self.handle.as_ref().unwrap()
    }

    /// Runs a statement; its rows in a format, or the engine's message.
    pub(super) fn query(&self, sql: &str, format: &str) -> Result<Vec<u8>, String> {
        self.handle().query(sql, format)
    }

    /// Feeds an insert.
    pub(super) fn insert(&self, sql: &str, format: &str, rows: &[u8]) -> Result<(), String> {
        self.handle().insert(sql, format, rows)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let _alone = DOORS.lock().unwrap_or_else(PoisonError::into_inner);
        self.handle = None;
    }
}

impl Engine {
    /// The engine that runs on a directory.
    pub(super) fn new(path: &Path, library: &Path) -> Self {
        let abi = LIBRARY.get_or_init(|| Abi::load(library).unwrap());
        assert!(abi.version().starts_with(VERSION), "{}", abi.version());
        Self { abi, path: path.canonicalize().unwrap(), sessions: Mutex::default() }
    }

    /// Runs a job in a session, which is made when it is not there, or on a connection of its own.
    pub(super) async fn run<R: Send + 'static>(self: &std::sync::Arc<Self>, session: Option<String>, job: Job<R>) -> R {
        let Some(session) = session else {
            let engine = self.clone();
            let work = move || job(&Connection::open(engine.abi, &engine.path));
            return tokio::task::spawn_blocking(work).await.unwrap();
        };
        let (reply, answer) = oneshot::channel();
        let sent: Sent = Box::new(move |connection| drop(reply.send(job(connection))));
        let jobs = {
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.entry(session).or_insert_with(|| self.session()).jobs.clone()
        };
        jobs.send(sent).unwrap();
        answer.await.unwrap()
    }

    fn session(&self) -> Session {
        let (jobs, inbox) = channel::<Sent>();
        let (abi, path) = (self.abi, self.path.clone());
        let thread = std::thread::Builder::new()
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let connection = Connection::open(abi, &path);
                inbox.iter().for_each(|job| job(&connection));
            })
            .unwrap();
        Session { jobs, thread }
    }

    /// Ends the sessions.
    pub(super) fn close(&self) {
        let sessions = std::mem::take(&mut *self.sessions.lock().unwrap_or_else(PoisonError::into_inner));
        for (_, Session { jobs, thread }) in sessions {
            drop(jobs);
            thread.join().unwrap();
        }
    }
}
