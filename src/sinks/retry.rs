//! The one place where a call to an engine is tried again. A sink says what may be ([`Class::Transient`], decided from the cause), this
//! says when: after pauses that double, each cut by chance (full jitter), never sooner than the engine asked for, until a deadline, and
//! not after a cancel. It knows the contract and no engine.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Checkpoint, Class, Generation, Lease, Page, Query, Refused, Sink, SinkError, SinkKind, Write};
use crate::mapping::target::{Dimension, Target};

/// The first pause is at most this: most troubles that pass are over in an instant.
pub const DEFAULT_FIRST_PAUSE: Duration = Duration::from_millis(50);
/// No pause of our own is longer.
pub const DEFAULT_PAUSE_MAX: Duration = Duration::from_secs(5);
/// An engine that asks for more is asked again after so long.
pub const DEFAULT_ASKED_MAX: Duration = Duration::from_secs(30);
/// Eight attempts pause for some three seconds in the mean and never for more than seven, unless the engine asks for it: a longer
/// trouble is the next run's.
pub const DEFAULT_ATTEMPTS_MAX: usize = 8;
/// No attempt of a call begins later than this after the first. How long one attempt may take is the client's to bound: an engine in
/// this process cannot be left in the middle of one.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(60);

/// When a call that failed for a passing reason is made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The first pause is at most so long, each further one at most twice as long as the one before.
    pub first_pause: Duration,
    /// The most that a pause grows to.
    pub pause_max: Duration,
    /// The most that an engine is waited for when it asks for a pause ([`SinkError::retry_after`]).
    pub asked_max: Duration,
    /// How often a call is made at most, the first time included.
    pub attempts_max: usize,
    /// No attempt begins later than this after the first.
    pub deadline: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            first_pause: DEFAULT_FIRST_PAUSE,
            pause_max: DEFAULT_PAUSE_MAX,
            asked_max: DEFAULT_ASKED_MAX,
            attempts_max: DEFAULT_ATTEMPTS_MAX,
            deadline: DEFAULT_DEADLINE,
        }
    }
}

impl Policy {
    /// The longest pauses, one before each attempt after the first.
    fn ceilings(&self) -> impl Iterator<Item = Duration> {
        let times = self.attempts_max.saturating_sub(1);
        ExponentialBuilder::new()
            .with_min_delay(self.first_pause)
            .with_max_delay(self.pause_max)
            .with_factor(2.0)
            .with_max_times(times)
            .build()
            .take(times)
    }

    /// A pause below `ceiling`, on top of what the engine asked for; `chance` is from 0 to 1.
    fn pause(&self, ceiling: Duration, asked: Option<Duration>, chance: f64) -> Duration {
        asked.unwrap_or_default().min(self.asked_max) + ceiling.mul_f64(chance)
    }
}

#[derive(Debug, Default)]
struct Shared {
    policy: Policy,
    cancel: Mutex<CancellationToken>,
    made_again: AtomicU64,
}

/// The retry loop of one run: all its sinks share the policy, the cancel and the count.
#[derive(Debug, Clone, Default)]
pub struct Retries(Arc<Shared>);

impl Retries {
    /// A loop with a policy of its own.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self(Arc::new(Shared { policy, ..Shared::default() }))
    }

    /// From now on nothing is tried again once this is cancelled.
    pub fn until(&self, cancel: CancellationToken) {
        *self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner) = cancel;
    }

    /// How many calls were made again since this was asked last.
    #[must_use]
    pub fn take(&self) -> u64 {
        self.0.made_again.swap(0, Ordering::Relaxed)
    }

    /// Makes a call, and makes it again while it fails for a passing reason. `what` names it in the log.
    ///
    /// # Errors
    /// The last attempt's, with the number of attempts when there were several.
    pub async fn call<T, F>(&self, what: &'static str, call: impl Fn() -> F) -> Result<T, SinkError>
    where
        F: Future<Output = Result<T, SinkError>>,
    {
        let policy = &self.0.policy;
        let cancel = self.0.cancel.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (began, mut attempts, mut ceilings) = (Instant::now(), 1_u32, policy.ceilings());
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_pass = error.class == Class::Transient && !cancel.is_cancelled();
            let Some(ceiling) = ceilings.next().filter(|_| may_pass) else { return Err(given_up(error, attempts)) };
            let pause = policy.pause(ceiling, error.retry_after, rand::random());
            if began.elapsed() + pause > policy.deadline {
                return Err(given_up(error, attempts));
            }
            tracing::warn!(sink = error.sink, what, attempts, ?pause, error = error.message, "trying again");
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(given_up(error, attempts)),
                () = tokio::time::sleep(pause) => {}
            }
            attempts += 1;
            self.0.made_again.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn given_up(mut error: SinkError, attempts: u32) -> SinkError {
    if attempts > 1 {
        error.message = format!("{} (tried {attempts} times)", error.message);
    }
    error
}

/// A sink whose calls are tried again. Two are not: a person's statement ([`Query::Text`]), which may change something each time, and
/// [`Sink::promote`], whose passing reason is a lane that is behind, which only a further pass over the tables mends.
#[derive(Debug)]
pub struct Retrying {
    sink: Arc<dyn Sink>,
    retries: Retries,
}

impl Retrying {
    /// The same sink behind the loop.
    #[must_use]
    pub fn of(sink: Arc<dyn Sink>, retries: &Retries) -> Arc<dyn Sink> {
        Arc::new(Self { sink, retries: retries.clone() })
    }
}

#[async_trait]
impl Sink for Retrying {
    fn kind(&self) -> SinkKind {
        self.sink.kind()
    }

    fn check(&self, target: &Target) -> Result<(), SinkError> {
        self.sink.check(target)
    }

    fn image(&self, target: &Target, rows: &RecordBatch) -> Result<RecordBatch, SinkError> {
        self.sink.image(target, rows)
    }

    async fn hold(&self, lease: &Lease) -> Result<(), SinkError> {
        self.retries.call("hold", || self.sink.hold(lease)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), SinkError> {
        self.retries.call("release", || self.sink.release(lease)).await
    }

    async fn prepare(&self, targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError> {
        self.retries.call("prepare", || self.sink.prepare(targets, dimensions)).await
    }

    fn wake(&self) {
        self.sink.wake();
    }

    async fn checkpoints(&self) -> Result<Vec<Checkpoint>, SinkError> {
        self.retries.call("checkpoints", || self.sink.checkpoints()).await
    }

    async fn write(&self, writes: &[Write]) -> Result<Vec<Refused>, SinkError> {
        self.retries.call("write", || self.sink.write(writes)).await
    }

    async fn flush(&self, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
        self.retries.call("flush", || self.sink.flush(checkpoints)).await
    }

    async fn held(&self, target: &Target, keys: &RecordBatch) -> Result<RecordBatch, SinkError> {
        self.retries.call("held", || self.sink.held(target, keys)).await
    }

    async fn list(&self, target: &Target, after: Option<&str>, limit: usize) -> Result<Page, SinkError> {
        self.retries.call("list", || self.sink.list(target, after, limit)).await
    }

    async fn newest(&self, target: &Target) -> Result<Option<u64>, SinkError> {
        self.retries.call("newest", || self.sink.newest(target)).await
    }

    async fn query(&self, query: &Query) -> Result<Vec<serde_json::Map<String, serde_json::Value>>, SinkError> {
        match query {
            Query::Text(_) => self.sink.query(query).await,
            Query::Nearest { .. } => self.retries.call("query", || self.sink.query(query)).await,
        }
    }

    async fn generations(&self) -> Result<Vec<Generation>, SinkError> {
        self.retries.call("generations", || self.sink.generations()).await
    }

    fn of_model(&self, model: &str, dimensions: usize) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Self::of(self.sink.of_model(model, dimensions)?, &self.retries))
    }

    async fn promote(&self, target: &str, tables: &[String]) -> Result<(), SinkError> {
        self.sink.promote(target, tables).await
    }

    async fn drop_generation(&self, target: &str, model: &str) -> Result<(), SinkError> {
        self.retries.call("drop_generation", || self.sink.drop_generation(target, model)).await
    }

    async fn vectors(&self, hashes: Vec<String>) -> Result<HashMap<String, Vec<f32>>, SinkError> {
        self.retries.call("vectors", || self.sink.vectors(hashes.clone())).await
    }

    async fn bytes(&self, target: &str, model: &str) -> Result<Option<u64>, SinkError> {
        self.retries.call("bytes", || self.sink.bytes(target, model)).await
    }

    async fn give_way(&self) -> Result<(), SinkError> {
        self.retries.call("give_way", || self.sink.give_way()).await
    }

    async fn close(&self) -> Result<(), SinkError> {
        self.retries.call("close", || self.sink.close()).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    /// Fails as often as it has errors, then goes well; counts how often it was called.
    struct Told {
        errors: Mutex<Vec<SinkError>>,
        calls: AtomicUsize,
    }

    impl Told {
        fn new(mut errors: Vec<SinkError>) -> Self {
            errors.reverse();
            Self { errors: Mutex::new(errors), calls: AtomicUsize::new(0) }
        }

        fn answer(&self) -> std::future::Ready<Result<(), SinkError>> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            std::future::ready(self.errors.lock().unwrap().pop().map_or(Ok(()), Err))
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::Relaxed)
        }
    }

    fn busy(count: usize) -> Vec<SinkError> {
        (0..count).map(|_| SinkError::transient("test", "busy")).collect()
    }

    /// Pauses too short to wait for.
    fn quick() -> Policy {
        Policy { first_pause: Duration::from_nanos(1), pause_max: Duration::from_nanos(1), ..Policy::default() }
    }

    #[tokio::test]
    async fn a_trouble_that_passes_is_waited_for_and_counted() {
        let (told, retries) = (Told::new(busy(3)), Retries::new(quick()));
        retries.call("test", || told.answer()).await.unwrap();
        assert_eq!((told.calls(), retries.take(), retries.take()), (4, 3, 0));
    }

    #[tokio::test]
    async fn what_will_fail_again_is_told_at_once() {
        for error in [SinkError::permanent("test", "no"), SinkError::stop("test", "ask")] {
            let (message, class) = (error.message.clone(), error.class);
            let (told, retries) = (Told::new(vec![error]), Retries::new(quick()));
            let error = retries.call("test", || told.answer()).await.unwrap_err();
            assert_eq!((error.message, error.class, told.calls(), retries.take()), (message, class, 1, 0));
        }
        let (told, retries) = (Told::new(vec![busy(1).remove(0), SinkError::stop("test", "ask")]), Retries::new(quick()));
        let error = retries.call("test", || told.answer()).await.unwrap_err();
        assert_eq!((error.class, told.calls()), (Class::Stop, 2));
    }

    #[tokio::test]
    async fn attempts_end() {
        let (told, retries) = (Told::new(busy(100)), Retries::new(quick()));
        let error = retries.call("test", || told.answer()).await.unwrap_err();
        assert_eq!((told.calls(), retries.take()), (DEFAULT_ATTEMPTS_MAX, DEFAULT_ATTEMPTS_MAX as u64 - 1));
        assert_eq!((error.class, error.message.as_str()), (Class::Transient, "busy (tried 8 times)"));
    }

    #[tokio::test]
    async fn no_attempt_begins_after_the_deadline() {
        let (told, retries) = (Told::new(busy(100)), Retries::new(Policy { deadline: Duration::ZERO, ..quick() }));
        assert!(retries.call("test", || told.answer()).await.is_err());
        assert_eq!(told.calls(), 1);
        // A pause that would end after it is not taken: this would wait for half a minute.
        let asked = vec![busy(1).remove(0).after(Duration::from_secs(30))];
        let (told, retries) = (Told::new(asked), Retries::new(Policy { deadline: Duration::from_secs(29), ..quick() }));
        assert!(retries.call("test", || told.answer()).await.is_err());
        assert_eq!(told.calls(), 1);
    }

    #[tokio::test]
    async fn a_cancel_ends_the_pause_and_all_further_attempts() {
        // A pause of an hour: without the cancel this test does not end.
        let hour = Duration::from_secs(3600);
        let asked = || vec![busy(1).remove(0).after(hour)];
        let policy = Policy { asked_max: hour, deadline: 2 * hour, ..quick() };
        let (told, retries, cancel) = (Told::new(asked()), Retries::new(policy), CancellationToken::new());
        retries.until(cancel.clone());
        let (ended, ()) = tokio::join!(retries.call("test", || told.answer()), async {
            while told.calls() == 0 {
                tokio::task::yield_now().await;
            }
            cancel.cancel();
        });
        assert!(ended.is_err());
        assert_eq!((told.calls(), retries.take()), (1, 0));
        let told = Told::new(busy(1));
        assert!(retries.call("test", || told.answer()).await.is_err(), "a call is still made once");
        assert_eq!(told.calls(), 1);
        // The next run has another cancel.
        retries.until(CancellationToken::new());
        retries.call("test", || Told::new(Vec::new()).answer()).await.unwrap();
    }

    #[test]
    fn pauses_double_up_to_their_limit_and_are_cut_by_chance() {
        let policy = Policy { pause_max: Duration::from_millis(300), attempts_max: 6, ..Policy::default() };
        let ceilings: Vec<u128> = policy.ceilings().map(|pause| pause.as_millis()).collect();
        assert_eq!(ceilings, [50, 100, 200, 300, 300]);
        assert_eq!(Policy { attempts_max: 1, ..policy }.ceilings().count(), 0);
        assert_eq!(Policy { attempts_max: 0, ..policy }.ceilings().count(), 0);
        let second = Duration::from_secs(1);
        for (chance, asked, pause) in [
            (0.0, None, Duration::ZERO),
            (0.25, None, second / 4),
            (1.0, None, second),
            (0.0, Some(2 * second), 2 * second),
            (0.5, Some(2 * second), 2 * second + second / 2),
            (0.0, Some(3600 * second), DEFAULT_ASKED_MAX),
        ] {
            assert_eq!(policy.pause(second, asked, chance), pause, "{chance} {asked:?}");
        }
        let all: Duration = Policy::default().ceilings().sum();
        assert!(all < Duration::from_secs(7), "the documentation says so: {all:?}");
    }
}
