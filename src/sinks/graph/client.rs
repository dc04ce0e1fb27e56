//! What speaks to an engine, and the embedded one. It runs statements, parameters in and rows out, inside a transaction that others
//! begin and end; it knows nothing of targets.
//!
//! [`Executor`] is what a server over Bolt implements too (`bolt`). It is synchronous: the sink calls it from a thread that may wait.

use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use grafeo::auth::Role;
use grafeo::{Config, DurabilityMode, GrafeoDB, QueryResult, Session, Value};
use serde_json::{Map, Value as Json};

use crate::sinks::SinkError;

use super::config::GraphOptions;
use super::cypher::{NodeKey, SEEK, SINK};
use super::encode::{Cell, json};

/// A row of an answer.
pub(crate) type Row = Vec<Cell>;

/// An engine that runs Cypher.
pub(crate) trait Executor: Send {
    /// Answers a statement with the parameter `$rows`, inside the transaction if one is open.
    fn read(&mut self, statement: &str, rows: Vec<Cell>) -> Result<Vec<Row>, SinkError>;
    /// Runs a statement that changes the graph, with the parameter `$rows`.
    fn write(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError>;
    /// The same for a statement that makes one relationship for each row. It is an error that it made fewer, where others can take away the
    /// node at an end in the meantime.
    fn connect(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        self.write(statement, rows)
    }
    /// The keys that constraints keep unique.
    fn unique(&mut self) -> Result<BTreeSet<NodeKey>, SinkError>;
    /// Finds nodes by each of these properties quickly from now on, where a unique constraint does not see to it.
    fn index(&mut self, properties: &[String]) -> Result<(), SinkError>;
    /// Begins a transaction.
    fn begin(&mut self) -> Result<(), SinkError>;
    /// Makes what the transaction did visible and durable.
    fn commit(&mut self) -> Result<(), SinkError>;
    /// The same, without waiting for it where the engine works apart. Whether it is still under way: what comes of it is told by
    /// [`Executor::landed`] then, or by the next call that needs the engine.
    fn commit_ahead(&mut self) -> Result<bool, SinkError> {
        self.commit().map(|()| false)
    }
    /// Waits for the commit that is under way.
    fn landed(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
    /// Whether others may write to the graph at the same time.
    fn is_shared(&self) -> bool {
        false
    }
    /// The number that a statement answers.
    fn count(&mut self, statement: &str) -> Result<i64, SinkError> {
        let rows = self.read(statement, Vec::new())?;
        rows.first()
            .and_then(|row| row.first()?.as_int())
            .ok_or_else(|| SinkError::permanent(SINK, format!("the engine answered no number: {statement}")))
    }
    /// Undoes what the transaction did.
    fn rollback(&mut self) -> Result<(), SinkError>;
    /// Answers a question that changes nothing, from what is committed.
    fn ask(&mut self, statement: &str) -> Result<Vec<Map<String, Json>>, SinkError>;
    /// Whether something failed, since this was last asked, because the engine lacks memory for it.
    fn short_of_memory(&mut self) -> bool {
        false
    }
    /// Bytes that the values of one key may have together.
    fn key_bytes_max(&self) -> usize {
        usize::MAX
    }
    /// Lets go of the engine; what is committed is durable.
    fn close(&mut self) -> Result<(), SinkError>;
}

/// The embedded engine on a directory, or in memory.
pub(crate) struct Grafeo {
    engine: Option<Open>,
    log_bytes_max: u64,
}

struct Open {
    /// Dropped first: it holds on to the database.
    session: Session,
    database: GrafeoDB,
    /// Log records when the transaction began: the engine only warns when it cannot write its log.
    records: u64,
    /// Held as long as the engine is open.
    lock: Option<Lock>,
}

/// The lock on the graph's directory. It is let go of by name, because a process that is being started at this moment has a
/// copy of every open file, and would keep a lock that is only dropped.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(cause) = self.0.unlock() {
            tracing::warn!(%cause, "the graph's lock is let go of when the process ends");
        }
    }
}

/// The version of the directory's layout.
const FORMAT: &str = "distributary graph 1";
pub(crate) const FORMAT_FILE: &str = "format";
pub(crate) const LOCK_FILE: &str = "lock";
const GRAPH_FILE: &str = "graph.grafeo";

impl Grafeo {
    /// Starts the engine on a directory, or in memory. It reads all that it holds, which takes a second for some hundred thousand
    /// relationships.
    pub(crate) fn start(directory: Option<Directory>, options: &GraphOptions) -> Result<Self, SinkError> {
        let (config, lock) = match directory {
            None => (Config::in_memory(), None),
            Some(Directory { path, lock }) => {
                let config = Config::persistent(path.join(GRAPH_FILE)).with_wal_durability(DurabilityMode::Sync);
                (config, Some(lock))
            }
        };
        let database = GrafeoDB::with_config(config.without_query_timeout()).map_err(|cause| {
            let place = options.path.as_deref().unwrap_or(Path::new("memory")).display();
            let message =
                format!("cannot open the graph in {place}; restore it from a backup, or remove the directory and sync again");
            SinkError::stop(SINK, message).because(cause)
        })?;
        let session = database.session();
        let mut this = Self { engine: Some(Open { session, database, records: 0, lock }), log_bytes_max: options.log_bytes_max };
        this.restore_indexes()?;
        Ok(this)
    }

    /// A log that was replayed brings back the constraints, and not the indexes behind them.
    fn restore_indexes(&mut self) -> Result<(), SinkError> {
        self.unique()?.iter().try_for_each(|key| self.index(&key.properties))
    }

    fn run(&mut self, statement: &str, rows: Vec<Cell>) -> Result<QueryResult, SinkError> {
        let rows = Value::List(rows.into_iter().map(value).collect());
        let parameters = HashMap::from([("rows".to_owned(), rows)]);
        let answer = self.engine()?.session.execute_cypher_with_params(&without_seeks(statement), parameters);
        answer.map_err(|cause| refused(statement, cause))
    }

    fn engine(&mut self) -> Result<&mut Open, SinkError> {
        self.engine.as_mut().ok_or_else(|| SinkError::permanent(SINK, "the graph is closed; open it again"))
    }
}

/// A graph's directory, held by this process alone.
pub(crate) struct Directory {
    path: PathBuf,
    lock: Lock,
}

impl Directory {
    /// Takes the directory, which is made when it is missing and refused when it holds something else.
    pub(crate) fn take(path: &Path) -> Result<Self, SinkError> {
        let lock = lock(path)?;
        check_format(path)?;
        Ok(Self { path: path.to_owned(), lock })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Makes the directory if it is missing and takes its lock.
fn lock(directory: &Path) -> Result<Lock, SinkError> {
    let fail = |what: &str, path: PathBuf, cause: std::io::Error| {
        SinkError::permanent(SINK, format!("cannot {what} {}; check the path and its permissions", path.display())).because(cause)
    };
    std::fs::create_dir_all(directory).map_err(|cause| fail("make the directory", directory.to_owned(), cause))?;
    let path = directory.join(LOCK_FILE);
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|cause| fail("write", path.clone(), cause))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(TryLockError::WouldBlock) => Err(SinkError::stop(
            SINK,
            format!("the graph in {} is in use by another process; wait until it has finished, or stop it", directory.display()),
        )),
        Err(TryLockError::Error(cause)) => Err(fail("lock", path, cause)),
    }
}

/// Refuses a directory that holds something else, or what a newer program wrote.
fn check_format(directory: &Path) -> Result<(), SinkError> {
    let path = directory.join(FORMAT_FILE);
    let broken = |cause: std::io::Error| SinkError::permanent(SINK, format!("cannot read {}", path.display())).because(cause);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim() == FORMAT => Ok(()),
        // The process ended between making the file and writing it, before anything else was there.
        Ok(text) if text.is_empty() && !directory.join(GRAPH_FILE).exists() => std::fs::write(&path, FORMAT).map_err(broken),
        Ok(text) => Err(SinkError::stop(
            SINK,
            format!(
                "{} says `{}`, and this program reads `{FORMAT}`; use the program that wrote it, or another directory",
                path.display(),
                text.trim().chars().take(40).collect::<String>().escape_debug()
            ),
        )),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => {
            for entry in std::fs::read_dir(directory).map_err(broken)? {
                let name = entry.map_err(broken)?.file_name();
                if name != LOCK_FILE {
                    let message = format!(
                        "{} holds `{}` and is not a graph; name an empty directory or one that does not exist",
                        directory.display(),
                        name.to_string_lossy()
                    );
                    return Err(SinkError::stop(SINK, message));
                }
            }
            std::fs::write(&path, FORMAT).map_err(broken)
        }
        Err(cause) => Err(broken(cause)),
    }
}

impl Executor for Grafeo {
    fn read(&mut self, statement: &str, rows: Vec<Cell>) -> Result<Vec<Row>, SinkError> {
        let answer = self.run(statement, rows)?;
        Ok(answer.into_rows().into_iter().map(|row| row.iter().map(cell).collect()).collect())
    }

    fn write(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        self.run(statement, rows).map(drop)
    }

    fn unique(&mut self) -> Result<BTreeSet<NodeKey>, SinkError> {
        // The name, kind, label and properties of each; no property's name has a comma in it.
        let keys = self.read("SHOW CONSTRAINTS", Vec::new())?.into_iter().filter_map(|constraint| {
            let [_, kind, label, properties] = constraint.as_slice() else { return None };
            let properties = properties.as_text()?.split(", ").map(str::to_owned).collect();
            (kind.as_text()? == "UNIQUE").then_some(NodeKey { label: label.as_text()?.to_owned(), properties })
        });
        Ok(keys.collect())
    }

    fn index(&mut self, properties: &[String]) -> Result<(), SinkError> {
        let session = &self.engine()?.session;
        // The engine's indexes span labels, live in memory, and are built again when one is asked for twice.
        for property in properties.iter().filter(|property| !session.has_property_index(property)) {
            session.create_property_index(property);
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), SinkError> {
        let engine = self.engine()?;
        engine.records = engine.database.wal().map_or(0, |log| log.record_count());
        engine.session.begin_transaction().map_err(|cause| refused("BEGIN", cause))
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        let log_bytes_max = self.log_bytes_max;
        let engine = self.engine()?;
        engine.session.commit().map_err(|cause| refused("COMMIT", cause))?;
        if let Some(log) = engine.database.wal() {
            log.sync().map_err(|cause| refused("COMMIT", cause))?;
            if log.record_count() <= engine.records {
                return Err(SinkError::permanent(
                    SINK,
                    "the engine did not write its log; is the disk full? Free space and open it again",
                ));
            }
            if folds(&engine.database, log_bytes_max) {
                engine.database.wal_checkpoint().map_err(|cause| refused("CHECKPOINT", cause))?;
            }
        }
        Ok(())
    }

    fn rollback(&mut self) -> Result<(), SinkError> {
        self.engine()?.session.rollback().map_err(|cause| refused("ROLLBACK", cause))
    }

    fn ask(&mut self, statement: &str) -> Result<Vec<Map<String, Json>>, SinkError> {
        let session = self.engine()?.database.session_with_role(Role::ReadOnly);
        let answer = session.execute_cypher(statement).map_err(|cause| refused(statement, cause))?;
        let columns = answer.columns.clone();
        let rows =
            answer.rows().iter().map(|row| columns.iter().cloned().zip(row.iter().map(|value| json(&cell(value)))).collect());
        Ok(rows.collect())
    }

    fn close(&mut self) -> Result<(), SinkError> {
        let Some(Open { mut session, database, lock, .. }) = self.engine.take() else { return Ok(()) };
        let ended = if session.in_transaction() { session.rollback() } else { Ok(()) };
        drop(session);
        let closed = ended.and_then(|()| let_go(database, self.log_bytes_max)).map_err(|cause| refused("CLOSE", cause));
        drop(lock);
        closed
    }
}

/// Closes the engine, with everything it committed on disk.
fn let_go(database: GrafeoDB, log_bytes_max: u64) -> Result<(), grafeo::Error> {
    let (Some(log), Some(file)) = (database.wal(), database.file_manager()) else { return database.close() };
    if folds(&database, log_bytes_max) {
        return database.close();
    }
    // Closing folds the log into the file, which takes as long as the whole graph is large, for a log that is replayed in a
    // moment. The engine has no other way to be let go of than not to drop it, so its memory stays until the process ends.
    log.sync()?;
    log.close_active_log();
    file.close()?;
    std::mem::forget(database);
    Ok(())
}

impl Drop for Grafeo {
    fn drop(&mut self) {
        // What a transaction left open must not reach the file, which the engine would write when it is dropped.
        if let Err(error) = self.close() {
            tracing::warn!(%error, "the graph was not closed cleanly; its log will be replayed");
        }
    }
}

/// Whether the log has grown so long that folding it into the graph's file is worth writing the whole file.
fn folds(database: &GrafeoDB, log_bytes_max: u64) -> bool {
    let log = database.wal().map_or(0, |log| u64::try_from(log.size_bytes()).unwrap_or(u64::MAX));
    let file = database.file_manager().and_then(|file| file.file_size().ok()).unwrap_or(0);
    log > log_bytes_max.max(file)
}

/// The statement without the orders of indexes, each of which ends with the bracket of its properties.
fn without_seeks(statement: &str) -> String {
    let mut parts = statement.split(SEEK);
    let first = parts.next().into_iter();
    first.chain(parts.filter_map(|part| Some(part.split_once(')')?.1))).collect()
}

/// What an error of the engine asks of the caller.
fn refused(statement: &str, cause: grafeo::Error) -> SinkError {
    use grafeo::Error;
    let shown: String = statement.chars().take(200).collect();
    let error = match &cause {
        // Another transaction was in the way, which one writer alone does not meet.
        Error::Transaction(_) => SinkError::transient(SINK, format!("the engine undid the transaction at `{shown}`")),
        Error::Io(_) | Error::Storage(_) => {
            SinkError::permanent(SINK, format!("the engine cannot read or write its files at `{shown}`"))
        }
        _ => SinkError::permanent(SINK, format!("the engine refused `{shown}`: {cause}")),
    };
    error.because(cause)
}

fn value(cell: Cell) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(value) => Value::Bool(value),
        Cell::Int(value) => Value::Int64(value),
        Cell::Float(value) => Value::Float64(value),
        Cell::Text(text) => Value::from(&*text),
        // The engine does not export its date's name; its serde form is the number of days.
        Cell::Date(days) => serde_json::from_value(Json::from(days)).map_or(Value::Null, Value::Date),
        Cell::Timestamp(micros, _) => Value::Timestamp(micros.into()),
        Cell::List(items) => Value::List(items.into_iter().map(value).collect()),
        Cell::Map(entries) => {
            Value::Map(Arc::new(entries.into_iter().map(|(name, cell)| (name.as_ref().into(), value(cell))).collect()))
        }
    }
}

fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Bool(value) => Cell::Bool(*value),
        Value::Int64(value) => Cell::Int(*value),
        Value::Float64(value) => Cell::Float(*value),
        Value::String(text) => Cell::text(text),
        Value::List(items) => Cell::List(items.iter().map(cell).collect()),
        Value::Map(entries) => Cell::Map(entries.iter().map(|(name, value)| (Arc::from(name.as_str()), cell(value))).collect()),
        Value::Date(date) => Cell::Date(date.as_days()),
        Value::Timestamp(moment) => Cell::Timestamp(moment.as_micros(), false),
        other => Cell::Text(other.to_string().into()),
    }
}
