//! How far the lanes have come: versions, lag, what is pending, what is in quarantine.

use super::open::{OpenError, Setup};
use crate::report::{LaneStatus, StatusReport};
use crate::sinks::quarantine::Quarantine;
use crate::sinks::{Checkpoint, LaneId};

/// Reads checkpoints, table versions and quarantine; changes nothing.
///
/// # Errors
/// When a table, a sink or the quarantine cannot be read.
pub async fn status(setup: &Setup) -> Result<StatusReport, OpenError> {
    let opened = setup.open_tables().await?;
    let quarantine = Quarantine::open(&setup.config.quarantine, setup.storage_options()).await?;
    let mut report = StatusReport::default();
    for sink in &setup.sinks {
        let checkpoints = sink.checkpoints().await?;
        for (table, entry) in &setup.mapping.tables {
            let latest = opened.tables.get(table).map(|t| t.version());
            let note = match opened.failed.iter().find(|(name, _)| name == table) {
                Some((_, error)) => Some(super::lane::describe(error)),
                None if latest.is_none() => Some("the table is not in the lake".to_owned()),
                None => None,
            };
            for (kind, target) in entry.targets().into_iter().filter(|(kind, _)| *kind == sink.kind()) {
                let lane = LaneId { table: table.clone(), sink: kind, target: target.to_owned(), shard: 0, shards: 1 };
                let checkpoint = checkpoints.iter().find(|c| c.lane == lane);
                let quarantined = quarantine.keys(table, &lane.name()).len() as u64;
                report.lanes.push(of_lane(lane, checkpoint, latest, quarantined, note.clone()));
            }
        }
        for checkpoint in &checkpoints {
            let lane = &checkpoint.lane;
            let known = setup.mapping.tables.get(&lane.table);
            if !known.is_some_and(|t| t.targets().contains(&(lane.sink, lane.target.as_str()))) {
                let note = Some("the mapping no longer has it; it is left as it is".to_owned());
                report.lanes.push(of_lane(lane.clone(), Some(checkpoint), None, 0, note));
            }
        }
    }
    Ok(report)
}

fn of_lane(
    lane: LaneId,
    checkpoint: Option<&Checkpoint>,
    latest: Option<i64>,
    quarantined: u64,
    note: Option<String>,
) -> LaneStatus {
    let version = checkpoint.and_then(|c| c.version);
    LaneStatus {
        table: lane.table,
        sink: lane.sink,
        target: lane.target,
        version,
        latest,
        lag: latest.zip(version).map(|(latest, version)| latest - version),
        pending: checkpoint.and_then(|c| c.pending.as_ref()).map(|p| p.to),
        quarantined,
        updated_at: checkpoint.map(|c| c.updated_at.clone()),
        note,
    }
}
