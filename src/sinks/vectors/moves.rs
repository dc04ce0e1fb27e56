//! When a checkpoint may move, and when a generation may be put in service: the same in a directory and at a server. Pure.

use super::config::{Collection, SINK};
use crate::sinks::{Checkpoint, SinkError};

/// Whether each of the checkpoints stands on the one that is stored, or is it. `place` is what stores them, in words.
///
/// # Errors
/// [`crate::sinks::Class::Stop`], naming the first lane that another run has moved.
pub(crate) fn check_moves(stored: &[Checkpoint], checkpoints: &[Checkpoint], place: &str) -> Result<(), SinkError> {
    for checkpoint in checkpoints {
        let stored = stored.iter().find(|stored| stored.lane == checkpoint.lane);
        let revision = stored.map_or(0, |stored| stored.revision);
        if stored != Some(checkpoint) && checkpoint.revision != revision + 1 {
            return Err(moved(checkpoint, revision, place));
        }
    }
    Ok(())
}

/// The error of a checkpoint that another run has moved to `revision` meanwhile.
pub(crate) fn moved(checkpoint: &Checkpoint, revision: u64, place: &str) -> SinkError {
    SinkError::stop(
        SINK,
        format!(
            "lane {}: its checkpoint has revision {revision}, so it cannot move to {}: another run has moved it. \
             Let only one run write to {place} and run again",
            checkpoint.lane.name(),
            checkpoint.revision,
        ),
    )
}

/// Whether the generation is at least where the one in service, that of the model `serving`, is in each of the tables.
///
/// # Errors
/// [`crate::sinks::Class::Transient`], naming the table in which it is not.
pub(crate) fn check_promotion(
    collection: &Collection,
    serving: Option<&str>,
    tables: &[String],
    checkpoints: &[Checkpoint],
) -> Result<(), SinkError> {
    let (name, model) = (&collection.name, &collection.model);
    for table in tables {
        let of = |model: &str| {
            let is = |c: &&Checkpoint| c.lane.table == *table && c.lane.target == *name && c.lane.model.as_deref() == Some(model);
            checkpoints.iter().find(is)
        };
        let new = of(model).filter(|c| c.pending.is_none());
        let arrived = match (new, serving.and_then(of)) {
            (Some(new), Some(old)) if new.table_id == old.table_id => new.version.is_some() && new.version >= old.version,
            (Some(new), _) => new.version.is_some(),
            (None, _) => false,
        };
        if !arrived {
            let message =
                format!("the generation of {model} of collection {name} is not yet where the one in service is: {table}");
            return Err(SinkError::transient(SINK, message));
        }
    }
    Ok(())
}

/// The error of a generation that was never made.
pub(crate) fn no_generation(collection: &Collection) -> SinkError {
    SinkError::permanent(SINK, format!("collection {} has no generation of {}", collection.name, collection.model))
}

/// The error of who wants to delete the generation in service.
pub(crate) fn is_serving(name: &str, model: &str) -> SinkError {
    SinkError::stop(SINK, format!("collection {name} is served by {model}: put another generation in service first"))
}

/// Why a collection that is not there cannot be asked: `serving` answers questions to its name, `known` are all there are.
pub(crate) fn unknown(collection: &Collection, serving: Option<&Collection>, known: &[String]) -> SinkError {
    let (name, model) = (&collection.name, &collection.model);
    let Some(serving) = serving else {
        let known = if known.is_empty() {
            "there are none yet: sync first".to_owned()
        } else {
            format!("there are {}", known.join(", "))
        };
        return SinkError::permanent(SINK, format!("there is no collection {name}; {known}"));
    };
    SinkError::permanent(
        SINK,
        format!(
            "collection {name} has vectors of {} ({} dimensions), and the question is of {model} ({}): ask with that model",
            serving.model, serving.dimensions, collection.dimensions
        ),
    )
}
