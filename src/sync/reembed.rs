//! A collection made anew by another model, beside the one in service: filled from a pinned snapshot, brought to where the tables are,
//! compared if that is asked for, and put in service in one step. Whatever is interrupted goes on where it was, because all that is
//! known of it is generations and their checkpoints.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::lanes::{Only, Place, Places};
use super::points::Foreseen;
use super::{OpenError, Options, Progress, Setup, gate, run};
use crate::embed::{Choice, EmbedError, Precision, Worker};
use crate::report::{Foresight, ReembedReport, ReembedState, SyncReport};
use crate::sinks::{Class, Generation, Role, Sink, SinkError, SinkKind};

/// A pass that took no longer is followed by no other: what it left is as much as any pass leaves.
const SHORT: Duration = Duration::from_secs(10);
/// So often the tables may have moved on before it is said that they move faster than they are read.
const PASSES_MAX: usize = 1000;

/// What is to be made anew.
#[derive(Debug, Clone)]
pub struct Reembed {
    /// The collection.
    pub collection: String,
    /// What makes its vectors from now on.
    pub choice: Choice,
    /// What it computes in.
    pub precision: Precision,
    /// A comparison before the new vectors are put in service.
    pub gate: Option<gate::Gate>,
}

/// A collection that is to be worked on.
struct Subject<'a> {
    setup: &'a Setup,
    sink: &'a Arc<dyn Sink>,
    collection: String,
    /// The Silver tables that fill it.
    tables: Vec<String>,
    serving: Generation,
    others: Vec<Generation>,
}

impl<'a> Subject<'a> {
    async fn of(setup: &'a Setup, collection: &str) -> Result<Self, OpenError> {
        let sink = setup.sinks.iter().find(|sink| sink.kind() == SinkKind::Vectors);
        let sink =
            sink.ok_or_else(|| wrong("there are no collections: `vectors` is not configured, or `embed` is off".to_owned()))?;
        let tables: Vec<String> = setup
            .mapping
            .tables
            .iter()
            .filter(|(_, table)| table.vectors.contains_key(collection))
            .map(|(name, _)| name.clone())
            .collect();
        let generations = sink.generations().await?;
        let (serving, others): (Vec<_>, Vec<_>) =
            generations.iter().filter(|one| one.target == collection).cloned().partition(|one| one.role == Role::Serving);
        let Some(serving) = serving.into_iter().next() else {
            let known: Vec<&str> =
                generations.iter().filter(|one| one.role == Role::Serving).map(|one| one.target.as_str()).collect();
            let known = if known.is_empty() {
                "there are none yet: sync first".to_owned()
            } else {
                format!("there are {}", known.join(", "))
            };
            return Err(wrong(format!("there is no collection {collection}; {known}")));
        };
        if tables.is_empty() {
            return Err(wrong(format!("the mapping says nothing of the collection {collection}, so it cannot be made anew")));
        }
        Ok(Self { setup, sink, collection: collection.to_owned(), tables, serving, others })
    }

    /// Refuses when there is a generation beside the one in service that is of no use here.
    fn alone_but_for(&self, model: &str) -> Result<(), OpenError> {
        let name = &self.collection;
        match self.others.iter().find(|other| other.model != model) {
            None => Ok(()),
            Some(Generation { model: other, role: Role::Kept, .. }) => Err(stop(format!(
                "{name}: the generation of {other}, which was in service before, is still kept. Delete it with `distributary reembed \
                 --collection {name} --drop-old`, or go back to it with --rollback"
            ))),
            Some(Generation { model: other, .. }) => Err(stop(format!(
                "{name}: a generation of {other} is being built. Go on with it by naming its model, or delete it with `distributary \
                 reembed --collection {name} --abandon`"
            ))),
        }
    }

    fn kept(&self) -> Result<&Generation, OpenError> {
        let none = || {
            wrong(format!(
                "{}: no generation is kept besides that of {}, which is in service",
                self.collection, self.serving.model
            ))
        };
        self.others.iter().find(|other| other.role == Role::Kept).ok_or_else(none)
    }

    fn only(&self, worker: &Worker) -> Only {
        let (target, model) = (self.collection.clone(), worker.identity().to_owned());
        Only { target, model, dimensions: worker.dimensions(), foreseen: Arc::default() }
    }

    async fn place(&self, model: &str) -> Result<Place, OpenError> {
        let places = Places::of(self.setup, self.sink).await?.of_collection(&self.collection);
        let found = places.into_iter().find(|place| place.model.as_deref() == Some(model));
        found.ok_or_else(|| wrong(format!("{}: there is no generation of {model}", self.collection)))
    }

    /// One run over the lanes of a generation, at versions pinned now.
    async fn pass(&self, options: &Options, only: &Only) -> Result<SyncReport, OpenError> {
        let opened = self.setup.open_tables().await?;
        if let Some((_, error)) = opened.failed.iter().find(|(name, _)| self.tables.contains(name)) {
            return Err(stop(format!("{}: one of its tables cannot be read: {}", self.collection, super::lane::describe(error))));
        }
        if let Some(missing) = opened.missing.iter().find(|name| self.tables.contains(name)) {
            return Err(stop(format!(
                "{}: its table {missing} is not in the lake, so its points could not be made anew",
                self.collection
            )));
        }
        run(self.setup, opened, options, Some(only)).await
    }

    fn report(&self, to: &str, state: ReembedState) -> ReembedReport {
        ReembedReport::new(&self.collection, &self.serving.model, to, state)
    }
}

fn wrong(message: String) -> OpenError {
    SinkError::permanent(SinkKind::Vectors.name(), message).into()
}

fn stop(message: String) -> OpenError {
    SinkError::stop(SinkKind::Vectors.name(), message).into()
}

fn worker_of(setup: &Setup, what: &Reembed) -> Result<Arc<Worker>, OpenError> {
    let none = || EmbedError::model("off", "makes no vectors; name a model");
    Ok(setup.models.make(&what.choice, what.precision)?.ok_or_else(none)?)
}

/// Makes a collection anew and puts it in service. Meanwhile the same [`Setup`] answers questions; it is not to be synced. Other processes
/// are let in if it was opened by [`Setup::open_giving_way`].
///
/// # Errors
/// When nothing could be tried, or a person has to decide first. What goes wrong on the way is in the report.
pub async fn reembed(setup: &Setup, what: &Reembed, options: &Options) -> Result<ReembedReport, OpenError> {
    let subject = Subject::of(setup, &what.collection).await?;
    let worker = worker_of(setup, what)?;
    if subject.serving.model == worker.identity() {
        return Ok(subject.report(worker.identity(), ReembedState::Serving));
    }
    subject.alone_but_for(worker.identity())?;
    bring_in(&subject, &worker, what.gate.as_ref(), options).await
}

/// Puts the generation in service again that was before the last change: at once when it was kept current.
///
/// # Errors
/// As [`reembed`].
pub async fn rollback(setup: &Setup, collection: &str, options: &Options) -> Result<ReembedReport, OpenError> {
    let subject = Subject::of(setup, collection).await?;
    let kept = subject.kept()?;
    let worker =
        setup.models.of(&kept.model).map_err(|why| stop(format!("{collection} cannot go back to {}: {why}", kept.model)))?;
    bring_in(&subject, &worker, None, options).await
}

/// Deletes the generation that was in service before the last change.
///
/// # Errors
/// When there is none, or it cannot be deleted.
pub async fn drop_old(setup: &Setup, collection: &str) -> Result<ReembedReport, OpenError> {
    let subject = Subject::of(setup, collection).await?;
    let kept = subject.kept()?;
    delete(&subject, kept).await
}

/// Deletes the generation that is being built.
///
/// # Errors
/// When there is none, or it cannot be deleted.
pub async fn abandon(setup: &Setup, collection: &str) -> Result<ReembedReport, OpenError> {
    let subject = Subject::of(setup, collection).await?;
    let none = || wrong(format!("{collection}: nothing is being built"));
    let building = subject.others.iter().find(|other| other.role == Role::Building).ok_or_else(none)?;
    delete(&subject, building).await
}

async fn delete(subject: &Subject<'_>, generation: &Generation) -> Result<ReembedReport, OpenError> {
    subject.sink.drop_generation(&subject.collection, &generation.model).await?;
    // What could not be delivered to it is nobody's any more.
    let mut quarantine = super::open_quarantine(subject.setup).await?;
    for table in &subject.tables {
        let lane = crate::sinks::LaneId::new(table, SinkKind::Vectors, &subject.collection, Some(&generation.model)).name();
        for key in quarantine.keys(table, &lane) {
            quarantine.resolve(table, &lane, &key);
        }
    }
    quarantine.save().await?;
    Ok(subject.report(&generation.model, ReembedState::Dropped))
}

async fn bring_in(
    subject: &Subject<'_>,
    worker: &Worker,
    gate: Option<&gate::Gate>,
    options: &Options,
) -> Result<ReembedReport, OpenError> {
    let began = Instant::now();
    let only = subject.only(worker);
    let counted = Arc::new(Counted { inner: options.progress.clone(), texts: AtomicU64::new(0), tokens: AtomicU64::new(0) });
    let options = Options { progress: Some(counted.clone()), ..options.clone() };
    let mut report = subject.report(worker.identity(), ReembedState::Failed);
    report.state = passes(subject, &only, gate, &options, &mut report).await?;
    report.texts_embedded = counted.texts.load(Ordering::Relaxed);
    report.tokens = counted.tokens.load(Ordering::Relaxed);
    report.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}

/// Follows the tables until the generation is where they are, and puts it in service.
async fn passes(
    subject: &Subject<'_>,
    only: &Only,
    gate: Option<&gate::Gate>,
    options: &Options,
    report: &mut ReembedReport,
) -> Result<ReembedState, OpenError> {
    let say = |text: &str| options.progress.iter().for_each(|progress| progress.phase(&subject.collection, text));
    say(&format!("building with {}", only.model));
    for number in 0..PASSES_MAX {
        let began = Instant::now();
        let pass = subject.pass(options, only).await?;
        let (ok, interrupted, stopped, idle) = (pass.ok(), pass.interrupted, pass.stopped(), pass.operations() == 0);
        if !idle || !ok || report.tables.is_empty() {
            report.tables.extend(pass.tables);
        }
        match (interrupted, ok) {
            (true, _) => return Ok(ReembedState::Interrupted),
            (false, false) => return Ok(if stopped { ReembedState::Stopped } else { ReembedState::Failed }),
            (false, true) => {}
        }
        if !idle && (number == 0 || began.elapsed() > SHORT) {
            say("following the changes since then");
            subject.sink.give_way().await?;
            continue;
        }
        if let Some(gate) = gate.filter(|_| report.gate.is_none()) {
            say("comparing answers");
            let (old, new) = (subject.place(&subject.serving.model).await?, subject.place(&only.model).await?);
            let compared = gate::compare(&subject.setup.mapping, &subject.collection, &old, &new, gate).await?;
            let passed = compared.passed;
            report.gate = Some(compared);
            if !passed {
                return Ok(ReembedState::Refused);
            }
        }
        say("caught up, swapping");
        match subject.place(&only.model).await?.sink.promote(&subject.collection, &subject.tables).await {
            Ok(()) => {
                say("swapped");
                return Ok(ReembedState::Swapped);
            }
            // Another run has brought the one in service further.
            Err(error) if error.class == Class::Transient => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(stop(format!(
        "{}: after {PASSES_MAX} passes its tables are still ahead of it: run again when they change less",
        subject.collection
    )))
}

/// What [`reembed`] would do: texts, tokens, time at the speed measured now on a fair choice of the texts, and disk.
///
/// # Errors
/// As [`reembed`].
pub async fn foresee(setup: &Setup, what: &Reembed, options: &Options) -> Result<Foresight, OpenError> {
    let subject = Subject::of(setup, &what.collection).await?;
    let worker = worker_of(setup, what)?;
    let mut foresight = Foresight::new(&what.collection, &subject.serving.model, worker.identity());
    if subject.serving.model == worker.identity() {
        return Ok(foresight);
    }
    subject.alone_but_for(worker.identity())?;
    let only = subject.only(&worker);
    let pass = subject.pass(&Options { dry_run: true, ..options.clone() }, &only).await?;
    let foreseen = std::mem::take(&mut *only.foreseen.lock().unwrap_or_else(PoisonError::into_inner));
    (foresight.texts, foresight.tokens) = (foreseen.texts(), foreseen.tokens);
    foresight.reused = pass.targets().map(|(_, target)| target.texts_reused).sum();
    foresight.tables = pass.tables;
    measure(&worker, &foreseen, &mut foresight).await?;
    let bytes = subject.sink.bytes(&subject.collection, &subject.serving.model).await?;
    // A point differs from the one in service by its vector.
    let wider = |dimensions: usize| 4 * foresight.texts.saturating_mul(dimensions as u64);
    foresight.bytes = bytes.map(|bytes| (bytes + wider(worker.dimensions())).saturating_sub(wider(subject.serving.dimensions)));
    Ok(foresight)
}

/// Embeds the sample, after a first text that loads the weights.
async fn measure(worker: &Worker, foreseen: &Foreseen, foresight: &mut Foresight) -> Result<(), EmbedError> {
    let sample: Vec<String> = foreseen.sample.values().cloned().collect();
    let Some(first) = sample.first() else { return Ok(()) };
    worker.embed(vec![first.clone()]).await?;
    let tokens = worker.tokens(sample.clone()).await?;
    let began = Instant::now();
    let texts = sample.len();
    worker.embed(sample).await?;
    let seconds = began.elapsed().as_secs_f64().max(1e-6);
    #[expect(clippy::cast_precision_loss, reason = "rates for the eye")]
    {
        foresight.texts_per_second = texts as f64 / seconds;
        foresight.tokens_per_second = tokens as f64 / seconds;
        foresight.seconds = foresight.tokens as f64 / foresight.tokens_per_second.max(1e-6);
    }
    Ok(())
}

/// Counts what goes through the model, and tells everything on.
#[derive(Debug)]
struct Counted {
    inner: Option<Arc<dyn Progress>>,
    texts: AtomicU64,
    tokens: AtomicU64,
}

impl Progress for Counted {
    fn table(&self, table: &str, strategy: &str, records: Option<u64>) {
        self.inner.iter().for_each(|inner| inner.table(table, strategy, records));
    }

    fn records(&self, table: &str, count: u64) {
        self.inner.iter().for_each(|inner| inner.records(table, count));
    }

    fn texts(&self, count: u64, tokens: u64) {
        self.texts.fetch_add(count, Ordering::Relaxed);
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.inner.iter().for_each(|inner| inner.texts(count, tokens));
    }

    fn done(&self, table: &str) {
        self.inner.iter().for_each(|inner| inner.done(table));
    }

    fn phase(&self, collection: &str, what: &str) {
        self.inner.iter().for_each(|inner| inner.phase(collection, what));
    }
}
