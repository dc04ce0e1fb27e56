//! A server that speaks Bolt. It runs the statements that the embedded engine runs; where the two differ, this file knows.
//!
//! One connection is for work on the graph, and it carries one transaction at a time. A lost connection, or a statement that the server
//! gave up, ends the transaction; what is sent again, and when, others decide. Leases and questions have connections of their own.
//! Where transactions are, a pool has one connection: one that was given up is reset before the next begins, and so lets go of its locks.
//!
//! The server works on one change while the next one is made: what comes of a change is told by the next call.

mod constraints;
mod failure;
mod lease;
mod value;
mod wire;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use neo4rs::{BoltMap, BoltString, BoltType, ConfigBuilder, Graph, Query, Txn};
use serde_json::{Map, Value as Json};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use url::Url;

use crate::sinks::SinkError;

use super::client::{Executor, Row};
use super::config::ServerOptions;
use super::cypher::{NodeKey, SINK};
use super::encode::Cell;
use failure::{About, failed};
pub(crate) use lease::Leases;
use value::{columns, in_one_column, list, object};

/// A server that does not take a connection in this time is given up for now.
const CONNECT: Duration = Duration::from_secs(20);
/// No statement of a batch takes so long on a server that is alive.
const ANSWER: Duration = Duration::from_secs(600);
/// Records that the server sends before it is asked for more.
const FETCH_ROWS: usize = 10_000;
/// Connections for questions.
const QUESTIONS: usize = 4;
/// The user of a server that was told a password and no user, and of one that asks for neither.
const DEFAULT_USER: &str = "neo4j";

/// A server, reached.
pub(crate) struct Bolt {
    runtime: Handle,
    graph: Graph,
    questions: Graph,
    leases: Leases,
    place: String,
    transaction: Transaction,
    short: bool,
}

/// The transaction that is open.
enum Transaction {
    /// None is.
    None,
    /// It waits for a statement.
    Idle(Box<Txn>),
    /// The server works on a change.
    Busy(JoinHandle<Changed>),
    /// The server commits it; the next is begun after that if it is wanted.
    Committing { commit: JoinHandle<Result<(), neo4rs::Error>>, next: bool },
    /// Something in it failed, and the server has undone it.
    Failed,
}

/// A change that was answered.
struct Changed {
    transaction: Box<Txn>,
    statement: String,
    /// Relationships that it was to make, if that is to be seen.
    wanted: Option<usize>,
    /// Relationships that it made.
    made: Result<u64, neo4rs::Error>,
}

impl Bolt {
    /// Reaches the server, with authentication and its database.
    pub(crate) async fn connect(options: &ServerOptions) -> Result<Self, SinkError> {
        let place = place(options);
        let graph = graph(options, &place, 1)?;
        let questions = self::graph(options, &place, QUESTIONS)?;
        let leases = Leases::new(self::graph(options, &place, 1)?, place.clone());
        let runtime = Handle::current();
        let this = Self { runtime, graph, questions, leases, place, transaction: Transaction::None, short: false };
        let transaction = match begin(&this.graph, &this.place).await {
            Ok(transaction) => transaction,
            Err(error) => return Err(without_routing(options, &this.place).await.unwrap_or(error)),
        };
        ended(transaction.rollback().await, &this.place, "ROLLBACK")?;
        Ok(this)
    }

    /// The leases that the server keeps.
    pub(crate) fn leases(&self) -> Leases {
        self.leases.clone()
    }

    /// Remembers what a failure says of the server, and ends the transaction: after a failure the server has undone it.
    fn fail(&mut self, statement: &str, cause: neo4rs::Error) -> SinkError {
        let (error, about) = failed(&self.place, statement, cause);
        self.short |= about == About::Size;
        if !matches!(self.transaction, Transaction::None) {
            self.transaction = Transaction::Failed;
        }
        error
    }

    /// Waits for what the server works on. The transaction, if one is open.
    fn settle(&mut self) -> Result<Option<Box<Txn>>, SinkError> {
        match std::mem::replace(&mut self.transaction, Transaction::Failed) {
            Transaction::None => {
                self.transaction = Transaction::None;
                Ok(None)
            }
            Transaction::Idle(transaction) => Ok(Some(transaction)),
            Transaction::Busy(change) => match self.runtime.block_on(change) {
                Ok(Changed { transaction, wanted, made: Ok(made), .. }) => match wanted {
                    Some(wanted) if made != wanted as u64 => Err(self.lacking(wanted, made)),
                    _ => Ok(Some(transaction)),
                },
                Ok(Changed { statement, made: Err(cause), .. }) => Err(self.fail(&statement, cause)),
                Err(cause) => Err(SinkError::transient(SINK, "a change was interrupted").because(cause)),
            },
            Transaction::Committing { commit, next } => match self.runtime.block_on(commit) {
                Ok(Ok(())) if next => Ok(Some(Box::new(self.runtime.block_on(begin(&self.graph, &self.place))?))),
                Ok(Ok(())) => {
                    self.transaction = Transaction::None;
                    Ok(None)
                }
                Ok(Err(cause)) => Err(self.fail("COMMIT", cause)),
                Err(cause) => Err(SinkError::transient(SINK, "a commit was interrupted").because(cause)),
            },
            Transaction::Failed => {
                Err(SinkError::transient(SINK, format!("the transaction with {} is gone; begin it again", self.place)))
            }
        }
    }

    fn lacking(&self, wanted: usize, made: u64) -> SinkError {
        let message = format!(
            "{made} of {wanted} relationships were made in {}: somebody else changes its nodes meanwhile, so all is written again",
            self.place
        );
        SinkError::transient(SINK, message)
    }

    /// Sends a change, and does not wait for it.
    fn send(&mut self, mut transaction: Box<Txn>, statement: &str, change: Query, wanted: Option<usize>) {
        let statement = statement.to_owned();
        self.transaction = Transaction::Busy(self.runtime.spawn(async move {
            let made = transaction.run(change).await.map(|summary| summary.relationships_created());
            Changed { transaction, statement, wanted, made }
        }));
    }
}

/// The server and its database, in words.
fn place(options: &ServerOptions) -> String {
    match &options.database {
        Some(database) => format!("the database `{database}` of {}", options.url),
        None => format!("the graph of {}", options.url),
    }
}

fn graph(options: &ServerOptions, place: &str, connections: usize) -> Result<Graph, SinkError> {
    let password = options.password.as_ref().map_or("", |password| password.expose());
    let mut config = ConfigBuilder::new()
        .uri(options.url.as_str())
        .user(options.user.as_deref().unwrap_or(DEFAULT_USER))
        .password(password)
        .fetch_size(FETCH_ROWS)
        .max_connections(connections)
        .connection_timeout(ANSWER);
    if let Some(database) = &options.database {
        config = config.db(database.as_str());
    }
    if let Some(file) = &options.ca_file {
        let wrong = |why: &str| SinkError::permanent(SINK, format!("`graph.ca_file` {} {why}", file.display()));
        if !options.url.scheme().ends_with("+s") {
            return Err(wrong("is given, and `graph.url` asks for no TLS: write bolt+s:// or neo4j+s://"));
        }
        let text = std::fs::read_to_string(file).map_err(|cause| wrong("cannot be read").because(cause))?;
        if !text.contains("-----BEGIN CERTIFICATE-----") {
            return Err(wrong("holds no certificate (PEM)"));
        }
        config = config.with_client_certificate(file);
    }
    if options.url.scheme().ends_with("+s") {
        // The driver takes the process's provider, which nobody else may have chosen yet.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    }
    let connected = config.build().and_then(Graph::connect);
    connected.map_err(|cause| failed(place, "connect", cause).0)
}

/// Why a server that routes does not begin a transaction. Whatever the reason, the driver says that it knows of no server to write to, so
/// the one that is named is asked itself.
async fn without_routing(options: &ServerOptions, place: &str) -> Option<SinkError> {
    let rest = options.url.as_str().strip_prefix("neo4j")?;
    let url = Url::parse(&format!("bolt{rest}")).ok()?;
    let graph = graph(&ServerOptions { url, ..options.clone() }, place, 1).ok()?;
    begin(&graph, place).await.err()
}

async fn begin(graph: &Graph, place: &str) -> Result<Txn, SinkError> {
    match tokio::time::timeout(CONNECT, graph.start_txn()).await {
        Ok(begun) => begun.map_err(|cause| failed(place, "BEGIN", cause).0),
        Err(_) => Err(SinkError::transient(SINK, format!("{place} did not begin a transaction within {} s", CONNECT.as_secs()))),
    }
}

fn ended<T>(answer: Result<T, neo4rs::Error>, place: &str, doing: &str) -> Result<T, SinkError> {
    answer.map_err(|cause| failed(place, doing, cause).0)
}

/// The statement with its rows. They go inside a map: of a list as a parameter a server regards the order of magnitude, and takes up to a
/// tenth of a second to plan the statement anew for each.
fn query(statement: &str, rows: Vec<Cell>) -> Result<Query, SinkError> {
    let rows = list(rows).map_err(|message| SinkError::permanent(SINK, message))?;
    let given = HashMap::from([(BoltString::new("rows"), BoltType::List(rows))]);
    let statement = statement.replacen("$rows", "$given.rows", 1);
    Ok(Query::new(statement).param("given", BoltType::Map(BoltMap { value: given })))
}

/// Runs a statement in a transaction and answers its records.
async fn records(transaction: &mut Txn, query: Query) -> Result<Vec<neo4rs::Row>, neo4rs::Error> {
    let mut stream = transaction.execute(query).await?;
    let mut records = Vec::new();
    while let Some(record) = stream.next(transaction.handle()).await? {
        records.push(record);
    }
    Ok(records)
}

impl Executor for Bolt {
    fn read(&mut self, statement: &str, rows: Vec<Cell>) -> Result<Vec<Row>, SinkError> {
        let question = query(&in_one_column(statement), rows)?;
        let answer = if let Some(mut transaction) = self.settle()? {
            let answer = self.runtime.block_on(records(&mut transaction, question));
            if answer.is_ok() {
                self.transaction = Transaction::Idle(transaction);
            }
            answer
        } else {
            let mut transaction = self.runtime.block_on(begin(&self.graph, &self.place))?;
            self.runtime.block_on(async {
                let answer = records(&mut transaction, question).await?;
                transaction.rollback().await?;
                Ok::<_, neo4rs::Error>(answer)
            })
        };
        let answer = answer.map_err(|cause| self.fail(statement, cause))?;
        let read = answer.iter().map(columns).collect::<Result<_, _>>();
        read.map_err(|message| SinkError::permanent(SINK, format!("{}: {message}", self.place)))
    }

    fn write(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        let change = query(statement, rows)?;
        if let Some(transaction) = self.settle()? {
            self.send(transaction, statement, change, None);
            return Ok(());
        }
        // A constraint: the server takes no data in its transaction.
        let mut transaction = self.runtime.block_on(begin(&self.graph, &self.place))?;
        let done = self.runtime.block_on(async {
            transaction.run(change).await?;
            transaction.commit().await.map(drop)
        });
        done.map_err(|cause| self.fail(statement, cause))
    }

    fn connect(&mut self, statement: &str, rows: Vec<Cell>) -> Result<(), SinkError> {
        let wanted = rows.len();
        let change = query(statement, rows)?;
        match self.settle()? {
            Some(transaction) => self.send(transaction, statement, change, Some(wanted)),
            None => return Err(SinkError::permanent(SINK, "relationships are made in a transaction, and none is open")),
        }
        Ok(())
    }

    fn unique(&mut self) -> Result<BTreeSet<NodeKey>, SinkError> {
        Ok(constraints::keys(self.read(constraints::UNIQUE, Vec::new())?))
    }

    /// Nodes of a server are found by their constraints.
    fn index(&mut self, _properties: &[String]) -> Result<(), SinkError> {
        Ok(())
    }

    fn begin(&mut self) -> Result<(), SinkError> {
        if let Transaction::Committing { next, .. } = &mut self.transaction {
            *next = true;
            return Ok(());
        }
        // The pool has one connection: the one before goes back first.
        self.rollback()?;
        let begun = self.runtime.block_on(begin(&self.graph, &self.place))?;
        self.transaction = Transaction::Idle(Box::new(begun));
        Ok(())
    }

    fn commit(&mut self) -> Result<(), SinkError> {
        let Some(transaction) = self.settle()? else { return Ok(()) };
        let committed = self.runtime.block_on(transaction.commit());
        let committed = committed.map(drop).map_err(|cause| self.fail("COMMIT", cause));
        self.transaction = Transaction::None;
        committed
    }

    fn commit_ahead(&mut self) -> Result<bool, SinkError> {
        let Some(transaction) = self.settle()? else { return Ok(false) };
        let commit = self.runtime.spawn(async move { transaction.commit().await.map(drop) });
        self.transaction = Transaction::Committing { commit, next: false };
        Ok(true)
    }

    fn landed(&mut self) -> Result<(), SinkError> {
        if matches!(self.transaction, Transaction::Committing { .. })
            && let Some(transaction) = self.settle()?
        {
            self.transaction = Transaction::Idle(transaction);
        }
        Ok(())
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn rollback(&mut self) -> Result<(), SinkError> {
        // The server undoes it as well when the connection is used again, or lost.
        if let Ok(Some(transaction)) = self.settle()
            && let Err(cause) = self.runtime.block_on(transaction.rollback())
        {
            tracing::debug!(%cause, "the transaction ends with its connection");
        }
        self.transaction = Transaction::None;
        Ok(())
    }

    fn ask(&mut self, statement: &str) -> Result<Vec<Map<String, Json>>, SinkError> {
        let answer = self.runtime.block_on(async {
            let mut stream = self.questions.execute_read(Query::new(statement.to_owned())).await?;
            let mut records = Vec::new();
            while let Some(record) = stream.next().await? {
                records.push(record);
            }
            Ok::<_, neo4rs::Error>(records)
        });
        let answer = answer.map_err(|cause| failed(&self.place, statement, cause).0)?;
        let objects = answer.iter().map(|record| object(statement, record)).collect::<Result<_, _>>();
        objects.map_err(|message| SinkError::permanent(SINK, format!("{}: {message}", self.place)))
    }

    fn short_of_memory(&mut self) -> bool {
        std::mem::take(&mut self.short)
    }

    fn key_bytes_max(&self) -> usize {
        KEY_BYTES_MAX
    }

    fn close(&mut self) -> Result<(), SinkError> {
        self.rollback()
    }
}

/// Bytes of the values of a key: the server's indexes refuse entries of more than some 8 kB.
const KEY_BYTES_MAX: usize = 7_500;
