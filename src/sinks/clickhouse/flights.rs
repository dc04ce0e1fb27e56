//! Inserts that were sent and are not answered. While a server stores one, the next is made ready or is on its way too. In which order
//! they are stored does not matter, because `_version` decides.

use tokio::task::JoinSet;

use super::gather::{Insert, Place};
use crate::sinks::SinkError;

/// An insert that was answered.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) place: Place,
    /// Its rows, which have to be sent again when it failed.
    pub(super) insert: Insert,
    pub(super) sent: Result<(), SinkError>,
}

/// Inserts on their way. Those that are when this is dropped are given up.
#[derive(Debug, Default)]
pub(super) struct Flights(JoinSet<Flight>);

impl Flights {
    /// Sends one.
    pub(super) fn start(
        &mut self,
        place: Place,
        insert: Insert,
        sent: impl Future<Output = Result<(), SinkError>> + Send + 'static,
    ) {
        self.0.spawn(async move { Flight { place, insert, sent: sent.await } });
    }

    /// How many are not answered, or answered and not taken.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The next that is answered; none when none is on its way.
    pub(super) async fn next(&mut self) -> Option<Flight> {
        match self.0.join_next().await? {
            Ok(flight) => Some(flight),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
