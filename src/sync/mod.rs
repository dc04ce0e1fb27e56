//! The loop: read, net, project, diff, embed, write, checkpoint. It speaks only contracts: of [`crate::changes`], of
//! [`crate::mapping`], of [`crate::embed`] and of [`crate::sinks`].
//!
//! Each lane (a Silver table and one target) has its own checkpoint in its sink. Lanes that stand at one version are served by one
//! read; each sink works on its own task behind a bounded queue, so that one that is slow or down holds back no other.

mod ahead;
mod batch;
mod gate;
mod lake;
mod lane;
mod lanes;
mod leases;
mod models;
mod open;
mod points;
mod reembed;
mod search;
mod spill;
mod status;
mod table;
mod verify;
mod work;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use gate::Gate;
pub use lake::Opened;
pub use leases::Leases;
pub use models::Models;
pub use open::{Needed, OpenError, Setup};
pub use reembed::{Reembed, abandon, drop_old, foresee, reembed, rollback};
pub use search::{Answers, Question, SearchError, search};
pub use spill::{Spill, runtime};
pub use status::status;
pub use verify::verify;

use crate::embed::EmbedError;
use crate::report::SyncReport;
use crate::sinks::quarantine::{Quarantine, QuarantineError};
use crate::sinks::{Class, SinkError};

/// How a run is to be done.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Read and compare, write nothing.
    pub dry_run: bool,
    /// Fill lanes anew whose projection or model changed, instead of stopping.
    pub rebuild: bool,
    /// Compare every lane with what its sink holds, whatever its checkpoint says.
    pub repair: bool,
    /// Told to stop: the batch under way is finished, nothing new is begun.
    pub cancel: CancellationToken,
    /// Hears what happens.
    pub progress: Option<Arc<dyn Progress>>,
}

/// Hears what happens during a run, to show it.
pub trait Progress: Send + Sync + std::fmt::Debug {
    /// Reading of a table begins; `records` when it is known how many there are.
    fn table(&self, table: &str, strategy: &str, records: Option<u64>);
    /// So many records were handed to the sinks.
    fn records(&self, table: &str, count: u64);
    /// So many texts were embedded; `tokens` is how many they were together, where that is counted, and else 0.
    fn texts(&self, count: u64, tokens: u64);
    /// Reading of a table is over.
    fn done(&self, table: &str);
    /// What a rebuild of a collection is at.
    fn phase(&self, _collection: &str, _what: &str) {}
}

/// Why a lane did not get where it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LaneError {
    #[error(transparent)]
    Sink(#[from] SinkError),
    #[error(transparent)]
    Changes(#[from] crate::changes::ChangesError),
    #[error(transparent)]
    Embed(#[from] EmbedError),
    #[error(transparent)]
    Quarantine(#[from] QuarantineError),
    #[error(transparent)]
    DataFusion(#[from] datafusion::error::DataFusionError),
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    #[error("{0}")]
    Stop(String),
    #[error("{0}")]
    Ended(String),
}

impl LaneError {
    /// Whether a person has to decide.
    fn stops(&self) -> bool {
        match self {
            Self::Sink(error) => error.class == Class::Stop,
            Self::Changes(error) => error.needs_decision(),
            Self::Stop(_) => true,
            _ => false,
        }
    }
}

/// Brings every lane to the version that its table is at.
///
/// # Errors
/// Only when nothing could be tried: everything that concerns single lanes is in the report.
pub async fn sync(setup: &Setup, options: &Options) -> Result<SyncReport, OpenError> {
    let opened = setup.open_tables().await?;
    sync_opened(setup, opened, options).await
}

/// [`sync`] to the versions that the tables were opened at.
///
/// # Errors
/// As [`sync`].
pub async fn sync_opened(setup: &Setup, opened: Opened, options: &Options) -> Result<SyncReport, OpenError> {
    run(setup, opened, options, None).await
}

async fn open_quarantine(setup: &Setup) -> Result<Quarantine, OpenError> {
    let quarantine = Quarantine::open(&setup.config.quarantine, setup.storage_options()).await?;
    Ok(quarantine.with_entries_max(setup.config.quarantine_entries_max))
}

/// Tells a run to stop when another one has taken its place, until it is dropped.
fn stop_with(lost: CancellationToken, cancel: CancellationToken) -> DropGuard {
    let over = CancellationToken::new();
    let watched = over.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = lost.cancelled() => cancel.cancel(),
            () = watched.cancelled() => {}
        }
    });
    over.drop_guard()
}

/// A run over all lanes, or over those of one generation.
async fn run(setup: &Setup, opened: Opened, options: &Options, only: Option<&lanes::Only>) -> Result<SyncReport, OpenError> {
    // Where no table can be read nothing is delivered, and a store that does not answer is not waited for again.
    let quarantine = if opened.tables.is_empty() { None } else { Some(Arc::new(Mutex::new(open_quarantine(setup).await?))) };
    setup.retries.until(options.cancel.clone());
    let _stopping = stop_with(setup.leases.lost().clone(), options.cancel.clone());
    let mut report = SyncReport { missing_tables: opened.missing.clone(), ..SyncReport::default() };
    let lanes::Lanes { mut lanes, notes } = lanes::lanes(setup, &opened, options, only).await;
    report.notes = notes.into_iter().collect();
    report.left_alone = lanes::left_alone(setup).await;
    report.tables = opened.failed.iter().map(|(name, error)| setup.unreadable(name, error)).collect();
    report.tables.extend(setup.unopened.iter().flat_map(|(sink, error)| setup.without(*sink, error)));
    let mut of_tables = BTreeMap::new();
    for (name, quarantine) in opened.mapping.in_order().into_iter().zip(quarantine.iter().cycle()) {
        let Some(table) = opened.tables.get(name) else { continue };
        let of_table: Vec<lane::Lane> = lanes.extract_if(.., |lane| lane.table() == name).collect();
        let run = table::Run { setup, options, table: table.clone(), quarantine: quarantine.clone(), filling: only.is_some() };
        of_tables.insert(name, run.run(of_table).await);
    }
    report.tables.extend(of_tables.into_values().flatten());
    if let Some(lost) = setup.leases.reason() {
        return Err(lost.into());
    }
    report.retries = setup.retries.take();
    report.interrupted = options.cancel.is_cancelled();
    report.elapsed_ms = u64::try_from(opened.began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(report)
}
