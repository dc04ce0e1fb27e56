//! What a run holds against other writers: a lease at each sink that keeps them, heard of again and again while the run lasts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::sinks::{Class, Lease, Sink, SinkError, SinkKind, Work};

/// How often a holder is heard of while its lease lasts once.
const RENEWALS: u32 = 3;

/// Sinks that a run goes on without, and why.
type Unopened = Vec<(SinkKind, SinkError)>;

/// The leases of one run; none for a run that writes nothing.
#[derive(Debug, Default)]
pub struct Leases {
    lease: Option<Lease>,
    lost: CancellationToken,
    reason: Arc<Mutex<Option<SinkError>>>,
    renewing: Option<JoinHandle<()>>,
}

impl Leases {
    /// Takes a lease at every sink and keeps it from then on. Answers the sinks that could not be asked, which the run goes on without.
    ///
    /// # Errors
    /// That of the first sink that another run holds, or of the last one where none is left.
    pub async fn take(sinks: &mut Vec<Arc<dyn Sink>>, work: Work, lasts: Duration) -> Result<(Self, Unopened), SinkError> {
        let lease = Lease::new(work, lasts);
        let (mut taken, mut failed): (Vec<Arc<dyn Sink>>, Unopened) = (Vec::new(), Vec::new());
        for sink in std::mem::take(sinks) {
            match sink.hold(&lease.renewed()).await {
                Ok(()) => taken.push(sink),
                Err(error) => failed.push((sink.kind(), error)),
            }
        }
        let stop = failed.iter().position(|(_, error)| taken.is_empty() || error.class == Class::Stop);
        if let Some(stop) = stop {
            for sink in &taken {
                // It ends by itself when it cannot be given back.
                let _ = sink.release(&lease).await;
            }
            return Err(failed.swap_remove(stop).1);
        }
        let (lost, reason) = (CancellationToken::new(), Arc::default());
        let renewing = tokio::spawn(renew(taken.clone(), lease.clone(), lost.clone(), Arc::clone(&reason)));
        *sinks = taken;
        Ok((Self { lease: Some(lease), lost, reason, renewing: Some(renewing) }, failed))
    }

    /// Cancelled when another run has taken one of the places.
    #[must_use]
    pub fn lost(&self) -> &CancellationToken {
        &self.lost
    }

    /// Why a lease was lost.
    pub(super) fn reason(&self) -> Option<SinkError> {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Gives all leases back.
    ///
    /// # Errors
    /// The first sink's error; the others are given back all the same.
    pub async fn release(&self, sinks: &[Arc<dyn Sink>]) -> Result<(), SinkError> {
        let Some(lease) = &self.lease else { return Ok(()) };
        if let Some(renewing) = &self.renewing {
            renewing.abort();
        }
        let mut first = Ok(());
        for sink in sinks {
            let released = sink.release(lease).await;
            if first.is_ok() {
                first = released;
            }
        }
        first
    }
}

impl Drop for Leases {
    fn drop(&mut self) {
        if let Some(renewing) = &self.renewing {
            renewing.abort();
        }
    }
}

async fn renew(sinks: Vec<Arc<dyn Sink>>, lease: Lease, lost: CancellationToken, reason: Arc<Mutex<Option<SinkError>>>) {
    let pause = Duration::from_millis(lease.lasts_ms) / RENEWALS;
    loop {
        tokio::time::sleep(pause).await;
        for sink in &sinks {
            match sink.hold(&lease.renewed()).await {
                Ok(()) => {}
                Err(error) if error.class == Class::Stop => {
                    *reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    lost.cancel();
                    return;
                }
                // Asked again in a while; the lease lasts as long as several such pauses.
                Err(error) => tracing::warn!(%error, "a lease could not be renewed"),
            }
        }
    }
}
