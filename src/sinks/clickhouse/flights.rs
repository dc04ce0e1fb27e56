//! Rows that were accepted and that no answer says are stored: those that wait, and inserts that were sent and are not answered. While a
//! server stores one, the next is made ready and sent. In which order they are stored does not matter, because `_version` decides.

use tokio::task::JoinSet;

use super::gather::{Gathered, Insert, Place};
use crate::sinks::{Class, SinkError};

/// An insert that was answered.
#[derive(Debug)]
struct Flight {
    place: Place,
    /// Its rows, which have to be sent again when it failed.
    insert: Insert,
    sent: Result<(), SinkError>,
}

/// What is not stored yet. Inserts that are on their way when this is dropped are given up.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) gathered: Gathered,
    flights: JoinSet<Flight>,
}

impl Outgoing {
    /// Sends an insert, without waiting for its answer.
    pub(super) fn start(
        &mut self,
        place: Place,
        insert: Insert,
        sent: impl Future<Output = Result<(), SinkError>> + Send + 'static,
    ) {
        self.flights.spawn(async move { Flight { place, insert, sent: sent.await } });
    }

    /// Waits until no more than `most` inserts are on their way, and answers the first error. Rows of an insert that failed for a passing
    /// reason wait again; those of one that cannot be done are lost, and no checkpoint of their table moves.
    pub(super) async fn land(&mut self, most: usize) -> Result<(), SinkError> {
        let mut landed = Ok(());
        while self.flights.len() > most {
            let Flight { place, insert, sent } = match self.flights.join_next().await {
                Some(Ok(flight)) => flight,
                // Whose rows these were is not known any more: whoever counts on them must not go on.
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                None => break,
            };
            match &sent {
                Ok(()) => {}
                Err(error) if error.class == Class::Transient => self.gathered.put_back(&place, insert),
                Err(error) => self.gathered.lose(&place, &error.message),
            }
            landed = landed.and(sent);
        }
        landed
    }
}
