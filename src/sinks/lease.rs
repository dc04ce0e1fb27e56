//! Who writes to a place that several processes can reach. An embedded engine's directory is locked by its process; a server keeps a
//! lease beside the checkpoints.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::SinkError;

/// A holder that was not heard of for so long is dead: long enough for a paused container and a slow server, short enough that the
/// next run of a scheduler finds the place free.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(90);

/// What a run is at: two runs of one kind get in each other's way, and one of each kind does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Keeps what is in service current.
    Sync,
    /// Builds a generation beside the one in service.
    Reembed,
}

impl Work {
    /// Its name, by which a server stores it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sync => "sync",
            Self::Reembed => "reembed",
        }
    }
}

/// One run's claim to be the only writer of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// What the run is at.
    pub work: Work,
    /// Tells this run from every other.
    pub token: String,
    /// The run in words: host and process.
    pub holder: String,
    /// When it began, in milliseconds since 1970.
    pub since_ms: u64,
    /// When the holder was last heard of, in milliseconds since 1970.
    pub renewed_ms: u64,
    /// It has ended when the holder was not heard of for so many milliseconds.
    pub lasts_ms: u64,
}

/// Milliseconds since 1970.
#[must_use]
pub fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Lease {
    /// A claim of this process.
    #[must_use]
    pub fn new(work: Work, lasts: Duration) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "this host" } else { host.trim() };
        let now = now_ms();
        Self {
            work,
            token: Uuid::new_v4().simple().to_string(),
            holder: format!("process {} on {host}", std::process::id()),
            since_ms: now,
            renewed_ms: now,
            lasts_ms: u64::try_from(lasts.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// The same claim, heard of now.
    #[must_use]
    pub fn renewed(&self) -> Self {
        Self { renewed_ms: now_ms(), ..self.clone() }
    }

    /// Whether the holder was not heard of for too long.
    #[must_use]
    pub fn has_ended(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.renewed_ms) > self.lasts_ms
    }

    /// What somebody else is told who wants the place.
    #[must_use]
    pub fn refusal(&self, sink: &'static str, place: &str, now_ms: u64) -> SinkError {
        let seconds = |since: u64| now_ms.saturating_sub(since) / 1000;
        SinkError::stop(
            sink,
            format!(
                "{place} is being written by another `{}` run ({}), begun {} s ago and heard of {} s ago: wait until it has finished or \
                 end it. If it is dead, its lease ends {} s after it was last heard of",
                self.work.name(),
                self.holder,
                seconds(self.since_ms),
                seconds(self.renewed_ms),
                self.lasts_ms / 1000,
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::Class;

    #[test]
    fn a_holder_that_is_not_heard_of_has_ended() {
        let lease = Lease::new(Work::Sync, Duration::from_secs(90));
        assert!(!lease.has_ended(lease.renewed_ms + 90_000));
        assert!(lease.has_ended(lease.renewed_ms + 90_001));
        // A clock that went back does not end it.
        assert!(!lease.has_ended(0));
    }

    #[test]
    fn two_runs_of_one_process_are_two() {
        let lasts = Duration::from_secs(1);
        assert_ne!(Lease::new(Work::Sync, lasts).token, Lease::new(Work::Sync, lasts).token);
    }

    #[test]
    fn a_refusal_names_holder_and_age() {
        let lease = Lease::new(Work::Sync, Duration::from_secs(90));
        let error = lease.refusal("graph", "the database x", lease.since_ms + 5_000);
        assert_eq!(error.class, Class::Stop);
        for part in [lease.holder.as_str(), "the database x", "begun 5 s ago", "90 s"] {
            assert!(error.message.contains(part), "{error}");
        }
    }
}
