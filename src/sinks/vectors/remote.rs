//! What a server keeps beside the points, so that several processes can share it: checkpoints, leases, and what each generation is.
//! Each is one record that moves only from what was read, compared at the server where it can. Pure: no driver, no I/O.

use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use super::config::{Collection, SINK};
use crate::sinks::lease::now_ms;
use crate::sinks::{Checkpoint, Lease, SinkError, Work};

/// The namespace of records, apart from that of points.
const NAMESPACE: Uuid =
    Uuid::from_bytes([0x3b, 0x8e, 0x90, 0x6c, 0x44, 0x1d, 0x4b, 0x5f, 0x9e, 0x0d, 0x62, 0xf1, 0x7a, 0x25, 0xc8, 0x19]);

/// What a record is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// How far a lane has come.
    Checkpoint,
    /// A run's claim.
    Lease,
    /// A generation of a collection that was completely made.
    Generation,
}

impl Kind {
    /// The name by which it is stored.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Lease => "lease",
            Self::Generation => "generation",
        }
    }
}

/// One of them, as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// What it is of.
    pub(crate) kind: Kind,
    /// Which one: the lane, the kind of work, the generation.
    pub(crate) name: String,
    /// What changes with every move: the next one is taken only on top of it. Never empty.
    pub(crate) mark: String,
    /// The rest, as JSON.
    pub(crate) value: String,
}

impl Record {
    fn new(kind: Kind, name: String, mark: String, value: &impl Serialize) -> Result<Self, SinkError> {
        let value = serde_json::to_string(value).map_err(|e| SinkError::permanent(SINK, "cannot encode").because(e))?;
        Ok(Self { kind, name, mark, value })
    }

    /// A checkpoint's; its mark is the revision.
    pub(crate) fn of_checkpoint(checkpoint: &Checkpoint) -> Result<Self, SinkError> {
        Self::new(Kind::Checkpoint, checkpoint.lane.name(), checkpoint.revision.to_string(), checkpoint)
    }

    /// A lease's; its mark is who holds it and when that was last heard of.
    pub(crate) fn of_lease(lease: &Lease) -> Result<Self, SinkError> {
        Self::new(Kind::Lease, lease.work.name().to_owned(), lease_mark(lease), lease)
    }

    /// A generation's.
    pub(crate) fn of_generation(collection: &Collection) -> Result<Self, SinkError> {
        Self::new(Kind::Generation, collection.generation(), "made".to_owned(), collection)
    }

    /// The id under which it is stored.
    pub(crate) fn id(&self) -> Uuid {
        record_id(self.kind, &self.name)
    }

    /// What it says.
    ///
    /// # Errors
    /// [`crate::sinks::Class::Permanent`] when it is not what this release wrote.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T, SinkError> {
        serde_json::from_str(&self.value).map_err(|e| {
            let (kind, name) = (self.kind.name(), &self.name);
            let message = format!(
                "the {kind} {name} at the server cannot be read: {e}. It was damaged, or written by a newer release: use that one, \
                 or restore it from a backup"
            );
            SinkError::permanent(SINK, message).because(e)
        })
    }
}

/// The id under which a record is stored.
pub(crate) fn record_id(kind: Kind, name: &str) -> Uuid {
    Uuid::new_v5(&NAMESPACE, format!("{}/{name}", kind.name()).as_bytes())
}

/// The mark of the record that stands when a checkpoint is moved: that of the revision before it. No record has the first one's.
pub(crate) fn mark_before(checkpoint: &Checkpoint) -> String {
    checkpoint.revision.saturating_sub(1).to_string()
}

/// The mark of a lease's record.
pub(crate) fn lease_mark(lease: &Lease) -> String {
    format!("{}@{}", lease.token, lease.renewed_ms)
}

/// The id of the record of the lease for a kind of work.
pub(crate) fn lease_id(work: Work) -> Uuid {
    record_id(Kind::Lease, work.name())
}

/// Whether the run may take or renew its lease on top of what was found: the mark that must still be there when it does so, or none where
/// nothing was. A lease of another run that has ended is taken over.
///
/// # Errors
/// [`Lease::refusal`] of the run that holds it.
pub(crate) fn claim(found: Option<&Lease>, lease: &Lease, place: &str) -> Result<Option<String>, SinkError> {
    match found {
        Some(found) if found.token != lease.token && !found.has_ended(now_ms()) => Err(found.refusal(SINK, place, now_ms())),
        found => Ok(found.map(lease_mark)),
    }
}

/// Whether the run has the lease, by what is there after it was written.
///
/// # Errors
/// [`Lease::refusal`] of the run that was quicker; [`crate::sinks::Class::Transient`] when it is gone again.
pub(crate) fn confirm(found: Option<&Lease>, lease: &Lease, place: &str) -> Result<(), SinkError> {
    match found {
        Some(found) if found.token == lease.token => Ok(()),
        Some(found) => Err(found.refusal(SINK, place, now_ms())),
        None => Err(SinkError::transient(SINK, format!("the lease of {place} was given back while it was taken"))),
    }
}

/// Whether another run than the one with this token builds generations at the place.
pub(crate) fn is_rebuilt_by_another(lease: Option<&Lease>, token: Option<&str>) -> bool {
    lease.is_some_and(|lease| Some(lease.token.as_str()) != token && !lease.has_ended(now_ms()))
}

/// The checkpoints whose points are there: one of a generation that somebody removed says nothing about any.
pub(crate) fn founded(checkpoints: Vec<Checkpoint>, generations: &[Collection]) -> Vec<Checkpoint> {
    let is_there = |checkpoint: &Checkpoint| {
        let lane = &checkpoint.lane;
        generations.iter().any(|one| one.name == lane.target && Some(&one.model) == lane.model.as_ref())
    };
    checkpoints.into_iter().filter(is_there).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sinks::{Class, LaneId, SinkKind};

    fn lease() -> Lease {
        Lease::new(Work::Sync, Duration::from_secs(60))
    }

    fn checkpoint(revision: u64) -> Checkpoint {
        Checkpoint {
            lane: LaneId::new("movies", SinkKind::Vectors, "titles", Some("m@1")),
            revision,
            table_id: "t".to_owned(),
            version: Some(3),
            pending: None,
            epoch: 0,
            generation: 0,
            schema_fingerprint: "s".to_owned(),
            mapping_fingerprint: "m".to_owned(),
            model: Some("m@1".to_owned()),
            updated_at: "2024-01-01T00:00:00Z".to_owned(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let stored = Record::of_checkpoint(&checkpoint(7)).unwrap();
        assert_eq!(stored.read::<Checkpoint>().unwrap(), checkpoint(7));
        assert_eq!((stored.mark.as_str(), stored.name.as_str()), ("7", "movies/vectors/titles@m@1/0-of-1"));
        assert_eq!(mark_before(&checkpoint(8)), stored.mark);
        assert_eq!(stored.id(), Record::of_checkpoint(&checkpoint(8)).unwrap().id());
        let lease = lease();
        let stored = Record::of_lease(&lease).unwrap();
        assert_eq!(stored.read::<Lease>().unwrap(), lease);
        assert_eq!(stored.id(), lease_id(Work::Sync));
        assert_ne!(stored.id(), lease_id(Work::Reembed));
        let damaged = Record { value: "{".to_owned(), ..stored };
        assert!(damaged.read::<Lease>().unwrap_err().message.contains("lease sync"));
    }

    #[test]
    fn a_lease_is_taken_when_it_is_free_own_or_ended() {
        let mine = lease();
        assert_eq!(claim(None, &mine, "here").unwrap(), None);
        assert_eq!(claim(Some(&mine), &mine.renewed(), "here").unwrap(), Some(lease_mark(&mine)));
        let other = lease();
        let refused = claim(Some(&other), &mine, "here").unwrap_err();
        assert_eq!(refused.class, Class::Stop);
        assert!(refused.message.contains("here") && refused.message.contains(&other.holder), "{refused}");
        let ended = Lease { renewed_ms: 0, ..other.clone() };
        assert_eq!(claim(Some(&ended), &mine, "here").unwrap(), Some(lease_mark(&ended)));
        assert_eq!(confirm(Some(&other), &mine, "here").unwrap_err().class, Class::Stop);
        assert_eq!(confirm(None, &mine, "here").unwrap_err().class, Class::Transient);
        confirm(Some(&mine), &mine, "here").unwrap();
        assert!(is_rebuilt_by_another(Some(&other), Some(&mine.token)) && is_rebuilt_by_another(Some(&other), None));
        assert!(!is_rebuilt_by_another(Some(&mine), Some(&mine.token)) && !is_rebuilt_by_another(Some(&ended), None));
        assert!(!is_rebuilt_by_another(None, None));
    }

    #[test]
    fn a_checkpoint_without_its_generation_says_nothing() {
        let there = |model: &str| Collection { name: "titles".to_owned(), model: model.to_owned(), dimensions: 4 };
        assert_eq!(founded(vec![checkpoint(1)], &[there("m@1")]).len(), 1);
        assert_eq!(founded(vec![checkpoint(1)], &[there("m@2")]).len(), 0);
    }
}
