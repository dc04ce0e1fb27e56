//! Reports as tables for people.

use comfy_table::presets::NOTHING;
use comfy_table::{Cell, CellAlignment, Table};
use serde_json::{Map, Value};

use super::out;
use crate::report::{Foresight, ReembedReport, ReembedState, StatusReport, SyncReport, TableReport, VerifyReport};

fn table(header: &[&str], numbers_from: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(header.to_vec());
    for column in numbers_from..header.len() {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// What a sync did, or would do: for each table how it was read, and a line for each target.
pub(super) fn sync(report: &SyncReport, would: bool) {
    read_and_written(&report.tables);
    for table in &report.missing_tables {
        out(&format!("skipped: the table {table} is not in the lake"));
    }
    for lane in &report.left_alone {
        out(&format!("left alone: {lane} is no longer in the mapping; what it delivered is still there"));
    }
    report.notes.iter().for_each(|text| out(&format!("note: {text}")));
    if report.interrupted {
        out("interrupted: everything written is consistent, the next sync goes on from here");
    }
    if report.retries > 0 {
        out(&format!("{} calls were made again after failures that passed", report.retries));
    }
    let time = seconds(report.elapsed_ms);
    let verb = if would { "would be sent" } else { "sent" };
    match report.operations() {
        0 if report.ok() => out(&format!("Nothing to do: every target holds what Silver makes of it. {time}")),
        operations => out(&format!("{operations} operations {verb}. {time}")),
    }
}

fn seconds(ms: u64) -> String {
    format!("{}.{:03} s", ms / 1000, ms % 1000)
}

/// How tables were read, a line for each target, and what went wrong.
fn read_and_written(tables: &[TableReport]) {
    let targets = || tables.iter().flat_map(|table| table.targets.iter().map(move |target| (table, target)));
    for read in tables {
        let from = read.from.map_or("nothing".to_owned(), |v| v.to_string());
        let r = &read.records;
        out(&format!(
            "{}: {} from {from} to {} ({}). Records: {} inserted, {} updated, {} deleted, {} unchanged, {} quarantined",
            read.table, read.strategy, read.to, read.reason, r.inserted, r.updated, r.deleted, r.unchanged, r.quarantined
        ));
    }
    let header =
        ["table", "sink", "target", "given", "unchanged", "upserts", "payloads", "deletes", "embedded", "reused", "quarantined"];
    let mut rows = table(&header, 3);
    for (read, t) in targets() {
        let counts =
            [t.given, t.unchanged, t.upserts, t.payload_updates, t.deletes, t.texts_embedded, t.texts_reused, t.quarantined];
        let mut row = vec![Cell::new(&read.table), Cell::new(t.sink.name()), Cell::new(&t.target)];
        row.extend(
            counts
                .iter()
                .map(|n| Cell::new(if *n == 0 { "·".to_owned() } else { n.to_string() }).set_alignment(CellAlignment::Right)),
        );
        rows.add_row(row);
    }
    if targets().next().is_some() {
        out(&rows.to_string());
    }
    for (read, target) in targets() {
        if let Some(error) = &target.error {
            out(&format!("{} {}/{}: {error}", if target.stopped { "STOPPED" } else { "FAILED" }, read.table, target.target));
        }
    }
}

/// What a rebuild did.
pub(super) fn reembedded(report: &ReembedReport) {
    read_and_written(&report.tables);
    if let Some(gate) = &report.gate {
        let (asked, overlap, least) = (gate.queries, gate.overlap, gate.min_overlap);
        out(&format!("{asked} questions: {overlap:.2} of the ten nearest are the same, at least {least:.2} were asked for"));
        for one in &gate.examples {
            out(&format!("  {:.2}  {}", one.overlap, one.query));
            one.only_before.iter().for_each(|row| out(&format!("    before  {}", brief(row))));
            one.only_after.iter().for_each(|row| out(&format!("    after   {}", brief(row))));
        }
    }
    let (name, from, to) = (&report.collection, &report.from, &report.to);
    let command = format!("`distributary reembed --collection {name}");
    let counted = || {
        let reused: u64 = report.tables.iter().flat_map(|table| &table.targets).map(|target| target.texts_reused).sum();
        let (texts, tokens, time) = (report.texts_embedded, report.tokens, seconds(report.elapsed_ms));
        format!("{texts} texts ({tokens} tokens) embedded, vectors of {reused} rows reused. {time}")
    };
    out(&match report.state {
        ReembedState::Serving => format!("{name} is of {to} already. Nothing to do."),
        ReembedState::Swapped => format!(
            "{name} is of {to} now. {}\nThe generation of {from} is kept, and kept current, for {command} --rollback`, until {command} --drop-old`.",
            counted()
        ),
        ReembedState::Refused => format!(
            "REFUSED: {name} stays with {from}. That of {to} is complete and beside it. {}\nA lower --min-overlap accepts it, \
             {command} --abandon` deletes it.",
            counted()
        ),
        ReembedState::Interrupted => {
            format!("interrupted: {name} stays with {from}. {} The same command goes on from here.", counted())
        }
        ReembedState::Failed | ReembedState::Stopped => {
            format!("{name} stays with {from}. {} The same command goes on from here when the cause is mended.", counted())
        }
        ReembedState::Dropped => format!("The generation of {to} is deleted. {name} is of {from}."),
    });
}

/// An answer on one line: its score, and values as far as there is room.
fn brief(row: &Map<String, Value>) -> String {
    const ROOM: usize = 100;
    let values = row.iter().filter(|(name, _)| *name != "score").map(|(_, value)| cell(value));
    let line = values.collect::<Vec<_>>().join(" · ");
    line.chars().take(ROOM).collect()
}

/// What a rebuild would do.
pub(super) fn foresight(plan: &Foresight) {
    read_and_written(&plan.tables);
    if plan.from == plan.to {
        out(&format!("{} is of {} already. Nothing to do.", plan.collection, plan.to));
        return;
    }
    out(&format!("{}: from {} to {}", plan.collection, plan.from, plan.to));
    out(&format!("{} texts ({} tokens) would be embedded, vectors of {} rows reused", plan.texts, plan.tokens, plan.reused));
    let (minutes, texts, tokens) = (plan.seconds / 60.0, plan.texts_per_second, plan.tokens_per_second);
    out(&format!("about {minutes:.1} minutes at {texts:.0} texts/s, {tokens:.0} tokens/s, measured on some of them"));
    if let Some(bytes) = plan.bytes {
        out(&format!("about {} MB of disk beside what is there, until the old generation is dropped", bytes.div_ceil(1_000_000)));
    }
}

/// How far the lanes have come.
pub(super) fn status(report: &StatusReport) {
    let mut rows =
        table(&["table", "sink", "target", "version", "latest", "lag", "pending", "quarantined", "updated", "note"], 99);
    let number = |n: Option<i64>| n.map_or("·".to_owned(), |n| n.to_string());
    for lane in &report.lanes {
        rows.add_row(vec![
            lane.table.clone(),
            lane.sink.name().to_owned(),
            lane.target.clone(),
            number(lane.version),
            number(lane.latest),
            number(lane.lag),
            number(lane.pending),
            lane.quarantined.to_string(),
            lane.updated_at.clone().unwrap_or_else(|| if lane.reached { "never" } else { "·" }.to_owned()),
            lane.note.clone().unwrap_or_default(),
        ]);
    }
    out(&rows.to_string());
}

/// What a comparison found.
pub(super) fn verify(report: &VerifyReport) {
    let header = ["table", "sink", "target", "version", "equal", "missing", "extra", "different", "quarantined"];
    let mut rows = table(&header, 3);
    for t in &report.targets {
        rows.add_row(vec![
            t.table.clone(),
            t.sink.name().to_owned(),
            t.target.clone(),
            t.version.map_or("never".to_owned(), |v| v.to_string()),
            t.equal.to_string(),
            t.missing.to_string(),
            t.extra.to_string(),
            t.different.to_string(),
            t.quarantined.to_string(),
        ]);
    }
    out(&rows.to_string());
    for t in &report.targets {
        for example in &t.examples {
            out(&format!("{}/{}: {example}", t.table, t.target));
        }
        if let Some(error) = &t.error {
            out(&format!("{}/{}: not compared: {error}", t.table, t.target));
        }
    }
    let bad = report.targets.iter().filter(|t| !t.ok()).count();
    out(&match bad {
        0 => format!("All {} targets hold exactly what Silver makes of them.", report.targets.len()),
        bad => format!("{bad} of {} targets differ.", report.targets.len()),
    });
}

/// Answers of an engine.
pub(super) fn answers(rows: &[Map<String, Value>]) {
    let Some(first) = rows.first() else {
        out("no rows");
        return;
    };
    let mut header: Vec<&str> = first.keys().map(String::as_str).collect();
    for key in rows.iter().flat_map(Map::keys) {
        if !header.contains(&key.as_str()) {
            header.push(key);
        }
    }
    let mut shown = table(&header, 99);
    for row in rows {
        shown.add_row(header.iter().map(|key| row.get(*key).map_or_else(String::new, cell)));
    }
    out(&shown.to_string());
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "·".to_owned(),
        Value::Array(items) => items.iter().map(cell).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
