//! How far the lanes have come: versions, lag, what is pending, what is in quarantine.

use super::lanes::Places;
use super::open::{OpenError, Setup};
use crate::mapping::target::SinkKind;
use crate::report::{LaneStatus, StatusReport};
use crate::sinks::quarantine::Quarantine;
use crate::sinks::{Checkpoint, LaneId, Role};

/// Reads checkpoints, table versions and quarantine; changes nothing. Of a sink that could not be opened it says why, and nothing of how far
/// it has come, which the sink alone knows.
///
/// # Errors
/// When a table, a sink or the quarantine cannot be read.
pub async fn status(setup: &Setup) -> Result<StatusReport, OpenError> {
    let opened = setup.open_tables().await?;
    let quarantine = Quarantine::open(&setup.config.quarantine, setup.storage_options()).await?;
    let mut report = StatusReport::default();
    for sink in &setup.sinks {
        let checkpoints = sink.checkpoints().await?;
        let places = Places::of(setup, sink).await?;
        for (table, entry) in &setup.mapping.tables {
            let latest = opened.tables.get(table).map(|t| t.version());
            let note = match opened.failed.iter().find(|(name, _)| name == table) {
                Some((_, error)) => Some(super::lane::describe(error)),
                None if latest.is_none() => Some("the table is not in the lake".to_owned()),
                None => None,
            };
            for (kind, target) in entry.targets().into_iter().filter(|(kind, _)| *kind == sink.kind()) {
                let of_target = if kind == SinkKind::Vectors { places.of_collection(target) } else { vec![places.rows()] };
                for place in of_target {
                    let id = LaneId::new(table, kind, target, place.model.as_deref());
                    let checkpoint = checkpoints.iter().find(|c| c.lane == id);
                    let quarantined = quarantine.keys(table, &id.name()).len() as u64;
                    let shown = LaneId { target: place.name(target), ..id };
                    let note = note.clone().or_else(|| about(place.role, place.lacks.as_deref()));
                    report.lanes.push(of_lane(shown, checkpoint, latest, quarantined, note));
                }
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
    for (sink, error) in &setup.unopened {
        let note = Some(format!("cannot be opened: {}", super::lane::describe(error)));
        let model = setup.embedder.as_ref().map(|embedder| embedder.identity()).filter(|_| *sink == SinkKind::Vectors);
        for (table, entry) in &setup.mapping.tables {
            let latest = opened.tables.get(table).map(|t| t.version());
            for (kind, target) in entry.targets().into_iter().filter(|(kind, _)| kind == sink) {
                let id = LaneId::new(table, kind, target, model);
                let quarantined = quarantine.keys(table, &id.name()).len() as u64;
                report.lanes.push(LaneStatus { reached: false, ..of_lane(id, None, latest, quarantined, note.clone()) });
            }
        }
    }
    Ok(report)
}

/// What is to be said of a generation.
fn about(role: Role, lacks: Option<&str>) -> Option<String> {
    let of_role = match role {
        Role::Serving => None,
        Role::Kept => Some("in service before; kept for a rollback"),
        Role::Building => Some("being built"),
    };
    match (of_role, lacks) {
        (Some(of_role), Some(lacks)) => Some(format!("{of_role}; {lacks}")),
        (of_role, lacks) => of_role.or(lacks).map(str::to_owned),
    }
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
        reached: true,
        version,
        latest,
        lag: latest.zip(version).map(|(latest, version)| latest - version),
        pending: checkpoint.and_then(|c| c.pending.as_ref()).map(|p| p.to),
        quarantined,
        updated_at: checkpoint.map(|c| c.updated_at.clone()),
        note,
    }
}
