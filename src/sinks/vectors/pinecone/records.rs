//! What the namespace `_distributary` holds: which generations there are, which serve, how far each lane has come, who writes. Pure:
//! records in, decisions out.
//!
//! **The lease.** A run writes a claim of its own, waits until reads see it, and reads all claims of its kind of work. When it finds another
//! that has not ended, it withdraws its own and stops. Of two runs, the one whose claim has the higher number in the log sees the other's,
//! so at most one goes on; both may stop, when they begin at one moment. A holder that is renewed before its lease ended need not
//! look: whoever came meanwhile has seen its claim. One that was paused for longer has no claim any more and looks as if it were new.
//!
//! The service has no clock that could be asked, so claims are judged by the clock of who reads them. With a lease of 90 s, renewed every
//! 30 s, machines whose clocks differ by less than a minute never take a living run for a dead one.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_128;

use super::encode::{Record, constant, record_of};
use crate::sinks::vectors::config::{Collection, SINK};
use crate::sinks::vectors::{moves, remote};
use crate::sinks::{Checkpoint, Generation, Lease, Role, SinkError};

/// The namespace.
pub(super) const RECORDS: &str = "_distributary";
/// Entry of the metadata: what the record is of.
pub(super) const KIND: &str = "_kind";
/// Entry of the metadata: the record, as JSON.
const VALUE: &str = "_value";
/// Entry of the metadata, for people who look.
const NAME: &str = "_name";

const GENERATION: &str = "generation";
const POINTER: &str = "pointer";
const CHECKPOINT: &str = "checkpoint";
const LEASE: &str = "lease";
/// All kinds.
pub(super) const KINDS: [&str; 4] = [GENERATION, POINTER, CHECKPOINT, LEASE];

/// A generation, and whether it is being deleted: then its points are going, and nothing counts that says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    #[serde(flatten)]
    collection: Collection,
    #[serde(default)]
    dropped: bool,
}

/// Which generation of a collection serves, and which did before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    collection: String,
    serving: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

/// Everything that the namespace holds.
#[derive(Debug, Default)]
pub(super) struct Known {
    made: BTreeMap<String, Made>,
    pointers: BTreeMap<String, Pointer>,
    checkpoints: Vec<Checkpoint>,
    leases: Vec<Lease>,
}

/// The id of a record. Names may be long, and ids may not.
fn id_of(kind: &str, name: &str) -> String {
    format!("{kind}#{:032x}", xxh3_128(name.as_bytes()))
}

/// A record that is to be written.
fn stored(kind: &str, name: &str, value: &impl Serialize, dimensions: usize) -> Result<String, SinkError> {
    let value = serde_json::to_string(value).map_err(|e| SinkError::permanent(SINK, "cannot encode").because(e))?;
    let entries = [(KIND, kind.to_owned()), (NAME, name.to_owned()), (VALUE, value)];
    let metadata: Map<String, Value> = entries.into_iter().map(|(key, text)| (key.to_owned(), Value::String(text))).collect();
    Ok(record_of(&id_of(kind, name), &constant(dimensions), &metadata))
}

/// The record of a generation.
pub(super) fn of_generation(collection: &Collection, dropped: bool, dimensions: usize) -> Result<String, SinkError> {
    let made = Made { collection: collection.clone(), dropped };
    stored(GENERATION, &collection.generation(), &made, dimensions)
}

/// The record of a pointer.
pub(super) fn of_pointer(pointer: &Pointer, dimensions: usize) -> Result<String, SinkError> {
    stored(POINTER, &pointer.collection, pointer, dimensions)
}

/// The record of a checkpoint.
pub(super) fn of_checkpoint(checkpoint: &Checkpoint, dimensions: usize) -> Result<String, SinkError> {
    stored(CHECKPOINT, &checkpoint.lane.name(), checkpoint, dimensions)
}

/// The record of a claim.
pub(super) fn of_lease(lease: &Lease, dimensions: usize) -> Result<String, SinkError> {
    stored(LEASE, &lease.token, lease, dimensions)
}

/// The id of a claim's record.
pub(super) fn lease_id(lease: &Lease) -> String {
    id_of(LEASE, &lease.token)
}

/// The id of a generation's record.
pub(super) fn generation_id(collection: &Collection) -> String {
    id_of(GENERATION, &collection.generation())
}

fn read<T: DeserializeOwned>(record: &Record) -> Result<T, SinkError> {
    let value = record.metadata.get(VALUE).and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(value).map_err(|e| {
        let message = format!(
            "the record {} in namespace {RECORDS} cannot be read: {e}. It was damaged, or written by a newer release: use that one, \
             or delete the record",
            record.id
        );
        SinkError::permanent(SINK, message).because(e)
    })
}

impl Known {
    /// What these records say.
    ///
    /// # Errors
    /// [`crate::sinks::Class::Permanent`] for one that is not what this release wrote.
    pub(super) fn read(records: &[Record]) -> Result<Self, SinkError> {
        let mut known = Self::default();
        for record in records {
            match record.metadata.get(KIND).and_then(Value::as_str).unwrap_or_default() {
                GENERATION => {
                    let made: Made = read(record)?;
                    known.made.insert(made.collection.generation(), made);
                }
                POINTER => {
                    let pointer: Pointer = read(record)?;
                    known.pointers.insert(pointer.collection.clone(), pointer);
                }
                CHECKPOINT => known.checkpoints.push(read(record)?),
                LEASE => known.leases.push(read(record)?),
                _ => {}
            }
        }
        Ok(known)
    }

    /// All generations, in order of their names.
    pub(super) fn collections(&self) -> Vec<Collection> {
        self.made.values().filter(|made| !made.dropped).map(|made| made.collection.clone()).collect()
    }

    /// Whether the generation was made, and nobody began to delete it.
    pub(super) fn has(&self, collection: &Collection) -> bool {
        self.made.get(&collection.generation()).is_some_and(|made| !made.dropped)
    }

    /// Whether somebody began to delete the generation.
    pub(super) fn is_dropped(&self, collection: &Collection) -> bool {
        self.made.get(&collection.generation()).is_some_and(|made| made.dropped)
    }

    /// The generations of a collection that one model made, also those that are being deleted.
    pub(super) fn of(&self, name: &str, model: &str) -> Vec<Collection> {
        let all = self.made.values().map(|made| &made.collection);
        all.filter(|one| one.name == name && one.model == model).cloned().collect()
    }

    /// The generation in service; none for a collection that nobody made, or whose generation is gone.
    pub(super) fn serving(&self, name: &str) -> Option<&Collection> {
        let pointer = self.pointers.get(name)?;
        self.made.get(&pointer.serving).filter(|made| !made.dropped).map(|made| &made.collection)
    }

    /// The names of all collections that can be asked.
    pub(super) fn names(&self) -> Vec<String> {
        self.pointers.keys().filter(|name| self.serving(name).is_some()).cloned().collect()
    }

    /// All generations with what they are for; `token` is that of the lease of this run.
    pub(super) fn generations(&self, token: Option<&str>, now_ms: u64) -> Vec<Generation> {
        let rebuilding = |lease: &Lease| lease.work == crate::sinks::Work::Reembed && !lease.has_ended(now_ms);
        let beside = self.leases.iter().any(|lease| rebuilding(lease) && Some(lease.token.as_str()) != token);
        let generation = |one: Collection| {
            let (pointer, own) = (self.pointers.get(&one.name), one.generation());
            let role = match pointer {
                Some(pointer) if pointer.serving == own => Role::Serving,
                Some(pointer) if pointer.kept.as_ref() == Some(&own) => Role::Kept,
                _ => Role::Building,
            };
            let taken = beside && role != Role::Serving;
            Generation { target: one.name, model: one.model, dimensions: one.dimensions, role, taken }
        };
        self.collections().into_iter().map(generation).collect()
    }

    /// The checkpoints whose generation is there.
    pub(super) fn checkpoints(&self) -> Vec<Checkpoint> {
        remote::founded(self.checkpoints.clone(), &self.collections())
    }

    /// The ids of the records of a generation's checkpoints.
    pub(super) fn checkpoint_ids(&self, collection: &Collection) -> Vec<String> {
        let of = |checkpoint: &&Checkpoint| {
            checkpoint.lane.target == collection.name && checkpoint.lane.model.as_deref() == Some(collection.model.as_str())
        };
        self.checkpoints.iter().filter(of).map(|checkpoint| id_of(CHECKPOINT, &checkpoint.lane.name())).collect()
    }

    /// The pointer that puts the generation in service where none is; none where one is.
    pub(super) fn adopted(&self, collection: &Collection) -> Option<Pointer> {
        let pointer = || Pointer { collection: collection.name.clone(), serving: collection.generation(), kept: None };
        self.serving(&collection.name).is_none().then(pointer)
    }

    /// The pointer that puts the generation in service and keeps the one before; none where it is in service.
    ///
    /// # Errors
    /// As [`moves::check_promotion`]; [`crate::sinks::Class::Permanent`] when the generation was never made.
    pub(super) fn promoted(&self, collection: &Collection, tables: &[String]) -> Result<Option<Pointer>, SinkError> {
        if !self.has(collection) {
            return Err(moves::no_generation(collection));
        }
        let serving = self.serving(&collection.name);
        if serving == Some(collection) {
            return Ok(None);
        }
        moves::check_promotion(collection, serving.map(|one| one.model.as_str()), tables, &self.checkpoints())?;
        let kept = serving.map(Collection::generation);
        Ok(Some(Pointer { collection: collection.name.clone(), serving: collection.generation(), kept }))
    }

    /// The pointer without a generation that is to be deleted; none where it does not name it.
    ///
    /// # Errors
    /// [`crate::sinks::Class::Stop`] when it is in service.
    pub(super) fn without(&self, collection: &Collection) -> Result<Option<Pointer>, SinkError> {
        if self.serving(&collection.name) == Some(collection) {
            return Err(moves::is_serving(&collection.name, &collection.model));
        }
        let own = collection.generation();
        let pointer = self.pointers.get(&collection.name).filter(|pointer| pointer.kept.as_ref() == Some(&own));
        Ok(pointer.map(|pointer| Pointer { kept: None, ..pointer.clone() }))
    }

    /// Looks at the claims beside one's own: the ids of those that have ended, or the error of one that has not.
    ///
    /// # Errors
    /// [`Lease::refusal`].
    pub(super) fn beside(&self, lease: &Lease, place: &str, now_ms: u64) -> Result<Vec<String>, SinkError> {
        let others = self.leases.iter().filter(|other| other.work == lease.work && other.token != lease.token);
        let (ended, living): (Vec<&Lease>, Vec<&Lease>) = others.partition(|other| other.has_ended(now_ms));
        match living.first() {
            Some(other) => Err(other.refusal(SINK, place, now_ms)),
            None => Ok(ended.into_iter().map(lease_id).collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sinks::{Class, LaneId, SinkKind, Work};

    fn collection(model: &str) -> Collection {
        Collection { name: "titles".to_owned(), model: model.to_owned(), dimensions: 4 }
    }

    fn checkpoint(model: &str, version: i64) -> Checkpoint {
        Checkpoint {
            lane: LaneId::new("movies", SinkKind::Vectors, "titles", Some(model)),
            revision: 1,
            table_id: "t".to_owned(),
            version: Some(version),
            pending: None,
            epoch: 0,
            generation: 0,
            schema_fingerprint: "s".to_owned(),
            mapping_fingerprint: "m".to_owned(),
            model: Some(model.to_owned()),
            updated_at: "2024-01-01T00:00:00Z".to_owned(),
        }
    }

    fn known(records: &[String]) -> Known {
        let records: Vec<Record> = records.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        Known::read(&records).unwrap()
    }

    #[test]
    fn one_record_moves_the_service() {
        let (old, new) = (collection("a@1"), collection("b@2"));
        let mut records = vec![of_generation(&old, false, 4).unwrap(), of_checkpoint(&checkpoint("a@1", 3), 4).unwrap()];
        let first = known(&records).adopted(&old).unwrap();
        records.push(of_pointer(&first, 4).unwrap());
        assert_eq!(known(&records).serving("titles"), Some(&old));
        assert_eq!(known(&records).adopted(&new), None);
        let tables = ["movies".to_owned()];
        assert_eq!(known(&records).promoted(&new, &tables).unwrap_err().class, Class::Permanent);
        records.push(of_generation(&new, false, 4).unwrap());
        assert_eq!(known(&records).promoted(&new, &tables).unwrap_err().class, Class::Transient);
        records.push(of_checkpoint(&checkpoint("b@2", 3), 4).unwrap());
        let second = known(&records).promoted(&new, &tables).unwrap().unwrap();
        assert_eq!((second.serving.clone(), second.kept.clone()), (new.generation(), Some(old.generation())));
        records.push(of_pointer(&second, 4).unwrap());
        let after = known(&records);
        assert_eq!(after.promoted(&new, &tables).unwrap(), None);
        let roles =
            |known: &Known| known.generations(None, 0).into_iter().map(|one| (one.model, one.role)).collect::<BTreeMap<_, _>>();
        assert_eq!(roles(&after), BTreeMap::from([("a@1".to_owned(), Role::Kept), ("b@2".to_owned(), Role::Serving)]));
        assert_eq!(after.without(&new).unwrap_err().class, Class::Stop);
        assert_eq!(after.without(&old).unwrap().unwrap().kept, None);
        records.push(of_generation(&old, true, 4).unwrap());
        let dropped = known(&records);
        assert_eq!(roles(&dropped).len(), 1);
        assert!(dropped.is_dropped(&old) && !dropped.has(&old));
        assert_eq!(dropped.checkpoints(), [checkpoint("b@2", 3)]);
        assert_eq!(dropped.checkpoint_ids(&old).len(), 1);
        assert_eq!(dropped.of("titles", "a@1"), [old]);
    }

    #[test]
    fn a_claim_beside_another_is_refused_until_that_has_ended() {
        let mine = Lease::new(Work::Sync, Duration::from_secs(90));
        let other = Lease::new(Work::Sync, Duration::from_secs(90));
        let rebuild = Lease::new(Work::Reembed, Duration::from_secs(90));
        let records: Vec<String> = [&mine, &other, &rebuild].iter().map(|lease| of_lease(lease, 4).unwrap()).collect();
        let refused = known(&records).beside(&mine, "index films", other.renewed_ms).unwrap_err();
        assert_eq!(refused.class, Class::Stop);
        assert!(refused.message.contains(&other.holder) && refused.message.contains("index films"), "{refused}");
        assert_eq!(known(&records).beside(&mine, "index films", other.renewed_ms + 90_001).unwrap(), [lease_id(&other)]);
        assert!(known(&records[2..]).beside(&mine, "index films", other.renewed_ms).unwrap().is_empty());
        let taken = |token: Option<&str>| {
            let all = [records[2].clone(), of_generation(&collection("a@1"), false, 4).unwrap()];
            known(&all).generations(token, rebuild.renewed_ms)[0].taken
        };
        assert!(taken(None) && taken(Some(&mine.token)) && !taken(Some(&rebuild.token)));
    }

    #[test]
    fn a_record_that_is_damaged_is_named() {
        let text = of_checkpoint(&checkpoint("a@1", 3), 4).unwrap().replace("revision", "revisoin");
        let error = Known::read(&[serde_json::from_str(&text).unwrap()]).unwrap_err();
        assert!(error.message.contains("checkpoint#") && error.message.contains("_distributary"), "{error}");
    }

    #[test]
    fn ids_are_short_whatever_the_names() {
        let long = LaneId::new(&"t".repeat(300), SinkKind::Vectors, &"c".repeat(200), Some(&"m".repeat(300)));
        let record: Record =
            serde_json::from_str(&of_checkpoint(&Checkpoint { lane: long, ..checkpoint("a", 1) }, 2).unwrap()).unwrap();
        assert!(record.id.len() <= 512);
    }
}
