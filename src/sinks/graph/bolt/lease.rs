//! Leases of a server: one node for each kind of work, found by a unique key. A lease is taken, renewed and given back in a transaction
//! that locks its node first, and its times are those of the server's clock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use neo4rs::{BoltType, Graph, Query, Row as Record, Txn};

use crate::sinks::{Lease, SinkError};

use super::super::client::Row;
use super::super::cypher::{LEASE, NodeKey, SINK};
use super::super::encode::Cell;
use super::constraints::{UNIQUE, keys};
use super::value::{columns, in_one_column};
use super::{begin, ended, records};

/// The leases that a server keeps.
#[derive(Clone)]
pub(crate) struct Leases {
    graph: Graph,
    place: String,
    /// Whether the key of the leases is known to be unique.
    unique: Arc<AtomicBool>,
}

impl Leases {
    pub(super) fn new(graph: Graph, place: String) -> Self {
        Self { graph, place, unique: Arc::default() }
    }

    /// Takes or renews the lease.
    ///
    /// # Errors
    /// [`Class::Stop`](crate::sinks::Class::Stop) when another run of the same work has it.
    pub(crate) async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        let mut transaction = self.begin_with_constraint().await?;
        let (found, now_ms) = self.locked(&mut transaction, lease).await?;
        let since_ms = match &found {
            Some(found) if found.token == lease.token => found.since_ms,
            Some(found) if !found.has_ended(now_ms) => {
                ended(transaction.rollback().await, &self.place, "ROLLBACK")?;
                return Err(found.refusal(SINK, &self.place, now_ms));
            }
            _ => now_ms,
        };
        let statement = format!(
            "MATCH (l:`{LEASE}` {{work: $work}}) SET l.token = $token, l.holder = $holder, l.since_ms = $since_ms, \
             l.renewed_ms = $renewed_ms, l.lasts_ms = $lasts_ms"
        );
        let change = Query::new(statement.clone())
            .param("work", lease.work.name())
            .param("token", lease.token.as_str())
            .param("holder", lease.holder.as_str())
            .param("since_ms", number(since_ms))
            .param("renewed_ms", number(now_ms))
            .param("lasts_ms", number(lease.lasts_ms));
        ended(transaction.run(change).await, &self.place, &statement)?;
        ended(transaction.commit().await, &self.place, "COMMIT").map(drop)
    }

    /// Gives the lease back, unless somebody else has it.
    pub(crate) async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        let mut transaction = begin(&self.graph, &self.place).await?;
        let statement = format!("MATCH (l:`{LEASE}` {{work: $work}}) WHERE l.token = $token DELETE l");
        let change = Query::new(statement.clone()).param("work", lease.work.name()).param("token", lease.token.as_str());
        ended(transaction.run(change).await, &self.place, &statement)?;
        ended(transaction.commit().await, &self.place, "COMMIT").map(drop)
    }

    /// A transaction, the leases' key being unique: two runs that make the first lease at one moment make one node.
    async fn begin_with_constraint(&self) -> Result<Txn, SinkError> {
        let mut transaction = begin(&self.graph, &self.place).await?;
        if self.unique.load(Ordering::Relaxed) {
            return Ok(transaction);
        }
        let key = NodeKey { label: LEASE.to_owned(), properties: vec!["work".to_owned()] };
        let there = records(&mut transaction, Query::new(in_one_column(UNIQUE))).await;
        let there = self.cells(&ended(there, &self.place, UNIQUE)?)?;
        if !keys(there).contains(&key) {
            let statement = key.constraint();
            ended(transaction.run(Query::new(statement.clone())).await, &self.place, &statement)?;
        }
        ended(transaction.commit().await, &self.place, "COMMIT")?;
        self.unique.store(true, Ordering::Relaxed);
        begin(&self.graph, &self.place).await
    }

    /// Locks the node of the work and reads it, with the time at the server.
    async fn locked(&self, transaction: &mut Txn, lease: &Lease) -> Result<(Option<Lease>, u64), SinkError> {
        let lock = format!("MERGE (l:`{LEASE}` {{work: $work}}) SET l.locked = timestamp()");
        let work = || lease.work.name();
        ended(transaction.run(Query::new(lock.clone()).param("work", work())).await, &self.place, &lock)?;
        let read = format!(
            "MATCH (l:`{LEASE}` {{work: $work}}) RETURN timestamp() AS now, l.token AS token, l.holder AS holder, \
             l.since_ms AS since, l.renewed_ms AS renewed, l.lasts_ms AS lasts"
        );
        let question = Query::new(in_one_column(&read)).param("work", work());
        let answer = ended(records(transaction, question).await, &self.place, &read)?;
        let cells = self.cells(&answer)?.into_iter().next().unwrap_or_default();
        let number = |index: usize| cells.get(index).and_then(Cell::as_int).and_then(|value| u64::try_from(value).ok());
        let text = |index: usize| cells.get(index).and_then(Cell::as_text).map(str::to_owned);
        let now_ms =
            number(0).ok_or_else(|| SinkError::permanent(SINK, format!("{} does not say what time it is", self.place)))?;
        let found = text(1).map(|token| Lease {
            work: lease.work,
            token,
            holder: text(2).unwrap_or_default(),
            since_ms: number(3).unwrap_or_default(),
            renewed_ms: number(4).unwrap_or_default(),
            lasts_ms: number(5).unwrap_or_default(),
        });
        Ok((found, now_ms))
    }

    /// The columns of records.
    fn cells(&self, records: &[Record]) -> Result<Vec<Row>, SinkError> {
        let cells = records.iter().map(columns).collect::<Result<_, _>>();
        cells.map_err(|message| SinkError::permanent(SINK, format!("{}: {message}", self.place)))
    }
}

fn number(value: u64) -> BoltType {
    BoltType::from(i64::try_from(value).unwrap_or(i64::MAX))
}
