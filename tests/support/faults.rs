//! A sink that fails as it is told. Faults are data, queued per operation: the next call of that operation takes the first.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use async_trait::async_trait;
use distributary::mapping::target::{Dimension, Target};
use distributary::sinks::lease::now_ms;
use distributary::sinks::{Checkpoint, Class, Generation, Lease, Page, Query, Refused, Sink, SinkError, SinkKind, Work, Write};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What a sink is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Operation {
    /// Make tables, constraints, collections.
    Prepare,
    /// Read checkpoints.
    Checkpoints,
    /// Take rows.
    Write,
    /// Make durable and move checkpoints.
    Flush,
    /// Say what it holds.
    Held,
    /// Take or renew a lease.
    Hold,
}

impl Operation {
    /// Those of every sink; leases are of servers alone.
    pub(crate) const ALL: [Self; 5] = [Self::Prepare, Self::Checkpoints, Self::Write, Self::Flush, Self::Held];
}

/// How it goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// This once it goes well: for faults that come later.
    Pass,
    /// Nothing is done.
    Reject(Class),
    /// It is done, and the answer is lost.
    FailAfterWrite(Class),
    /// Some of it is done, then it fails.
    Partial(Class),
    /// It takes long, and goes well.
    Slow,
    /// It takes until [`Faults::until`] is cancelled, and goes well.
    Waits,
    /// Some of it may be done, and from then on nothing is heard of the sink until everything is opened again.
    Crash,
}

impl Fault {
    pub(crate) const ALL: [Self; 9] = [
        Self::Pass,
        Self::Reject(Class::Transient),
        Self::Reject(Class::Permanent),
        Self::FailAfterWrite(Class::Transient),
        Self::FailAfterWrite(Class::Permanent),
        Self::Partial(Class::Transient),
        Self::Partial(Class::Permanent),
        Self::Slow,
        Self::Crash,
    ];
}

type Queues = HashMap<(SinkKind, Operation), VecDeque<Fault>>;

/// What the calls of an operation wait for.
type Permits = HashMap<(SinkKind, Operation), Arc<Semaphore>>;

/// The faults that are to come, shared by all sinks of a setup.
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    queues: Arc<Mutex<Queues>>,
    held: Arc<Mutex<Permits>>,
    crashed: Arc<AtomicBool>,
    happened: Arc<AtomicUsize>,
    /// What is waited for.
    pub(crate) until: CancellationToken,
    book: Option<Book>,
}

/// Leases as a server keeps them: one for each kind of work at each sink.
type Book = Arc<Mutex<HashMap<(SinkKind, Work), Lease>>>;

impl Faults {
    /// No faults, at sinks that keep leases.
    pub(crate) fn keeping_leases() -> Self {
        Self { book: Some(Book::default()), ..Self::default() }
    }

    /// The lease that a sink keeps.
    pub(crate) fn lease(&self, sink: SinkKind, work: Work) -> Option<Lease> {
        self.book.as_ref().and_then(|book| book.lock().unwrap_or_else(PoisonError::into_inner).get(&(sink, work)).cloned())
    }

    /// Puts a lease in the place of the one that a sink keeps, whoever has it.
    pub(crate) fn lend(&self, sink: SinkKind, lease: Lease) {
        let book = self.book.as_ref().expect("the sinks keep leases");
        book.lock().unwrap_or_else(PoisonError::into_inner).insert((sink, lease.work), lease);
    }

    /// Puts a fault at the end of an operation's queue.
    pub(crate) fn push(&self, sink: SinkKind, operation: Operation, fault: Fault) {
        self.lock().entry((sink, operation)).or_default().push_back(fault);
    }

    /// How many are still to come.
    pub(crate) fn to_come(&self) -> usize {
        self.lock().values().map(VecDeque::len).sum()
    }

    /// From now on each call of the operation waits for a permit, which it uses up.
    pub(crate) fn hold(&self, sink: SinkKind, operation: Operation) -> Arc<Semaphore> {
        let permits = Arc::new(Semaphore::new(0));
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert((sink, operation), permits.clone());
        permits
    }

    /// The operation waits no longer.
    pub(crate) fn release(&self, sink: SinkKind, operation: Operation) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&(sink, operation));
    }

    async fn permitted(&self, sink: SinkKind, operation: Operation) {
        let permits = self.held.lock().unwrap_or_else(PoisonError::into_inner).get(&(sink, operation)).cloned();
        if let Some(permits) = permits {
            permits.acquire().await.unwrap().forget();
        }
    }

    /// How many faults happened.
    pub(crate) fn happened(&self) -> usize {
        self.happened.load(Ordering::SeqCst)
    }

    /// Whether the run is to be taken for dead.
    pub(crate) fn crashed(&self) -> bool {
        self.crashed.load(Ordering::SeqCst)
    }

    /// Forgets what has not happened yet.
    pub(crate) fn clear(&self) {
        self.lock().clear();
        self.crashed.store(false, Ordering::SeqCst);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self, sink: SinkKind, operation: Operation) -> Fault {
        let fault = self.lock().get_mut(&(sink, operation)).and_then(VecDeque::pop_front).unwrap_or(Fault::Pass);
        if !matches!(fault, Fault::Pass | Fault::Slow | Fault::Waits) {
            self.happened.fetch_add(1, Ordering::SeqCst);
        }
        fault
    }
}

/// A sink that fails as it is told, and otherwise does what the one behind it does.
#[derive(Debug)]
pub(crate) struct FaultySink {
    inner: Arc<dyn Sink>,
    faults: Faults,
}

impl FaultySink {
    pub(crate) fn new(inner: Arc<dyn Sink>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    fn error(class: Class, what: &str) -> SinkError {
        SinkError { class, sink: "test", message: format!("told to fail: {what}"), retry_after: None, source: None }
    }

    fn dead(&self) -> Result<(), SinkError> {
        if self.faults.crashed() { Err(Self::error(Class::Permanent, "it is dead")) } else { Ok(()) }
    }

    /// Takes the next fault, except those that need part of the work to be done: those come back.
    async fn before(&self, operation: Operation) -> Result<Fault, SinkError> {
        self.dead()?;
        self.faults.permitted(self.inner.kind(), operation).await;
        match self.faults.next(self.inner.kind(), operation) {
            Fault::Reject(class) => Err(Self::error(class, "rejected")),
            Fault::Slow => {
                for _ in 0..100 {
                    tokio::task::yield_now().await;
                }
                Ok(Fault::Pass)
            }
            Fault::Waits => {
                self.faults.until.cancelled().await;
                Ok(Fault::Pass)
            }
            fault => Ok(fault),
        }
    }

    fn after<T>(&self, fault: Fault, answer: Result<T, SinkError>) -> Result<T, SinkError> {
        let answer = answer?;
        match fault {
            Fault::Pass | Fault::Slow | Fault::Waits => Ok(answer),
            Fault::Crash => {
                self.faults.crashed.store(true, Ordering::SeqCst);
                Err(Self::error(Class::Permanent, "crashed"))
            }
            Fault::Reject(class) | Fault::FailAfterWrite(class) | Fault::Partial(class) => {
                Err(Self::error(class, "the answer is lost"))
            }
        }
    }
}

/// Takes a lease if nobody else has it.
fn take(book: &mut HashMap<(SinkKind, Work), Lease>, sink: SinkKind, lease: &Lease) -> Result<(), SinkError> {
    match book.get(&(sink, lease.work)) {
        Some(other) if other.token != lease.token && !other.has_ended(now_ms()) => {
            Err(other.refusal("test", "the place", now_ms()))
        }
        _ => {
            book.insert((sink, lease.work), lease.clone());
            Ok(())
        }
    }
}

/// The first half of what is to be written.
fn half(writes: &[Write]) -> Vec<Write> {
    let kept = writes.len().div_ceil(2);
    let mut some: Vec<Write> = writes[..kept].to_vec();
    if let Some(last) = some.last_mut() {
        last.upserts = last.upserts.slice(0, last.upserts.num_rows() / 2);
        last.deletes = last.deletes.slice(0, last.deletes.num_rows() / 2);
    }
    some
}

#[async_trait]
impl Sink for FaultySink {
    fn kind(&self) -> SinkKind {
        self.inner.kind()
    }

    fn check(&self, target: &Target) -> Result<(), SinkError> {
        self.inner.check(target)
    }

    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        self.inner.image(target, rows)
    }

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        let fault = self.before(Operation::Hold).await?;
        let answer = match &self.faults.book {
            None => Ok(()),
            Some(book) => take(&mut book.lock().unwrap_or_else(PoisonError::into_inner), self.inner.kind(), lease),
        };
        self.after(fault, answer)
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        let Some(book) = &self.faults.book else { return Ok(()) };
        let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.get(&(self.inner.kind(), lease.work)).is_some_and(|kept| kept.token == lease.token) {
            book.remove(&(self.inner.kind(), lease.work));
        }
        Ok(())
    }

    async fn prepare(&self, targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError> {
        let fault = self.before(Operation::Prepare).await?;
        let answer = match fault {
            Fault::Partial(_) => self.inner.prepare(&targets[..targets.len() / 2], &[]).await,
            _ => self.inner.prepare(targets, dimensions).await,
        };
        self.after(fault, answer)
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        let fault = self.before(Operation::Checkpoints).await?;
        self.after(fault, self.inner.checkpoints().await)
    }

    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        let fault = self.before(Operation::Write).await?;
        let answer = match fault {
            Fault::Partial(_) | Fault::Crash => self.inner.write(&half(writes)).await,
            _ => self.inner.write(writes).await,
        };
        self.after(fault, answer)
    }

    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        let fault = self.before(Operation::Flush).await?;
        let answer = match fault {
            // Everything is durable, and only some checkpoints have moved.
            Fault::Partial(_) | Fault::Crash => self.inner.flush(&checkpoints[..checkpoints.len() / 2]).await,
            _ => self.inner.flush(checkpoints).await,
        };
        self.after(fault, answer)
    }

    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        let fault = self.before(Operation::Held).await?;
        self.after(fault, self.inner.held(target, keys).await)
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        self.dead()?;
        self.inner.list(target, after, limit).await
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        self.dead()?;
        self.inner.newest(target).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, SinkError> {
        self.inner.query(query).await
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        self.dead()?;
        self.inner.generations().await
    }

    fn of_model(&self, model: &str, dimensions: usize) -> Result<Arc<dyn Sink>, SinkError> {
        let inner = self.inner.of_model(model, dimensions)?;
        Ok(Arc::new(Self { inner, faults: self.faults.clone() }))
    }

    async fn promote(&self, target: &str, tables: &[String]) -> Result<(), SinkError> {
        self.dead()?;
        self.inner.promote(target, tables).await
    }

    async fn drop_generation(&self, target: &str, model: &str) -> Result<(), SinkError> {
        self.dead()?;
        self.inner.drop_generation(target, model).await
    }

    async fn vectors(&self, hashes: Vec<String>) -> Result<HashMap<String, Vec<f32>>, SinkError> {
        self.dead()?;
        self.inner.vectors(hashes).await
    }

    async fn bytes(&self, target: &str, model: &str) -> Result<Option<u64>, SinkError> {
        self.inner.bytes(target, model).await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.dead()?;
        self.inner.close().await
    }
}
