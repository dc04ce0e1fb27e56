//! How checkpoints are read and stored: a table with a row for each lane, the highest revision wins.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt64Array};
use serde::Deserialize;

use super::client::{External, Transport};
use super::encode::{CHECKPOINTS, KEYS, create_checkpoints, literal, qualified, store_checkpoints};
use super::site::Site;
use super::{NAME, rows};
use crate::sinks::{Checkpoint, SinkError};

/// What is being done when storing fails.
const STORING: &str = "storing checkpoints";

/// A checkpoint as it is stored.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Stored {
    lane: String,
    checkpoint: String,
    revision: u64,
}

/// All checkpoints; none where there is no table of them.
pub(super) async fn all(engine: &dyn Transport, site: &Site) -> Result<Vec<Checkpoint>, SinkError> {
    let stored = stored(engine, site, None).await?;
    stored
        .into_iter()
        .map(|row| {
            serde_json::from_str(&row.checkpoint).map_err(|error| {
                let message = format!("the checkpoint of {} cannot be read: was it written by a newer version?", row.lane);
                SinkError::stop(NAME, message).because(error)
            })
        })
        .collect()
}

/// Stores checkpoints, each of which follows the one that is there.
///
/// # Errors
/// [`crate::sinks::Class::Stop`] when one does not: another run has moved it.
pub(super) async fn store(engine: &dyn Transport, site: &Site, checkpoints: &[Checkpoint]) -> Result<(), SinkError> {
    let lanes: Vec<String> = checkpoints.iter().map(|checkpoint| checkpoint.lane.name()).collect();
    let there = by_lane(stored(engine, site, Some(&lanes)).await?);
    let mut moves = Vec::new();
    for (lane, checkpoint) in lanes.into_iter().zip(checkpoints) {
        let text = serde_json::to_string(checkpoint).map_err(|error| SinkError::permanent(NAME, STORING).because(error))?;
        let now = there.get(&lane);
        let next = Stored { checkpoint: text, revision: checkpoint.revision, lane };
        // The same checkpoint again: the answer to the first call was lost.
        if now == Some(&next) {
            continue;
        }
        let now = now.map_or(0, |now| now.revision);
        if now.checked_add(1) != Some(next.revision) {
            return Err(moved(&next, now));
        }
        moves.push(next);
    }
    if moves.is_empty() {
        return Ok(());
    }
    if there.is_empty() {
        engine.query(create_checkpoints(site), "Null").await.map_err(|error| error.during(STORING))?;
    }
    compare_and_store(engine, site, &moves).await
}

/// Stores checkpoints, each where the one before it is still the last. The engine compares, in the statement that stores: between a
/// read and a write of ours, this process could have been paused for an hour.
async fn compare_and_store(engine: &dyn Transport, site: &Site, moves: &[Stored]) -> Result<(), SinkError> {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("lane", Arc::new(StringArray::from_iter_values(moves.iter().map(|next| next.lane.as_str())))),
        ("checkpoint", Arc::new(StringArray::from_iter_values(moves.iter().map(|next| next.checkpoint.as_str())))),
        ("revision", Arc::new(UInt64Array::from_iter_values(moves.iter().map(|next| next.revision)))),
    ];
    let rows = RecordBatch::try_from_iter(columns)
        .and_then(|batch| rows::encode(&batch))
        .map_err(|error| SinkError::permanent(NAME, STORING).because(error))?;
    let structure = "lane String, checkpoint String, revision UInt64".to_owned();
    let table = External { name: KEYS, structure, rows };
    let answer = engine.query_with(store_checkpoints(&site.database), "Null", table).await;
    answer.map_err(|error| error.during(STORING))?;
    let lanes: Vec<String> = moves.iter().map(|next| next.lane.clone()).collect();
    let there = by_lane(stored(engine, site, Some(&lanes)).await?);
    match moves.iter().find(|next| there.get(&next.lane) != Some(next)) {
        Some(next) => Err(moved(next, there.get(&next.lane).map_or(0, |now| now.revision))),
        None => Ok(()),
    }
}

async fn stored(engine: &dyn Transport, site: &Site, lanes: Option<&[String]>) -> Result<Vec<Stored>, SinkError> {
    let doing = "reading checkpoints";
    let only = lanes.map_or_else(String::new, |lanes| {
        let lanes: Vec<String> = lanes.iter().map(|lane| literal(lane)).collect();
        format!(" WHERE lane IN ({})", lanes.join(", "))
    });
    let from = qualified(&site.database, CHECKPOINTS);
    let sql = format!("SELECT lane, checkpoint, revision FROM {from} FINAL{only} ORDER BY lane");
    match engine.query(sql, "JSONEachRow").await {
        Ok(bytes) => serde_json::Deserializer::from_slice(&bytes)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|error| SinkError::permanent(NAME, format!("{doing}: they cannot be read")).because(error)),
        Err(error) if error.absent() => Ok(Vec::new()),
        Err(error) => Err(error.during(doing)),
    }
}

fn by_lane(stored: Vec<Stored>) -> HashMap<String, Stored> {
    stored.into_iter().map(|row| (row.lane.clone(), row)).collect()
}

/// Somebody else has moved a checkpoint.
fn moved(next: &Stored, now: u64) -> SinkError {
    SinkError::stop(
        NAME,
        format!(
            "the checkpoint of {} is at revision {now}, this run would make it {}: another run has moved it. Let that one finish, then \
             sync again",
            next.lane, next.revision
        ),
    )
}
