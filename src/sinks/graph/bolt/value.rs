//! Values on their way to a server over Bolt and back; pure.

use chrono::{DateTime, FixedOffset, NaiveTime};
use neo4rs::{BoltBoolean, BoltFloat, BoltInteger, BoltList, BoltMap, BoltNull, BoltString, BoltType, Row as Record};
use serde_json::{Map, Value as Json, json};

use super::super::calendar::timestamp_text;
use super::super::encode::{Cell, json as cell_json};
use super::wire::{Wire, date, timestamp};

/// The one column of an answer to a statement that [`in_one_column`] made.
pub(super) const COLUMN: &str = "columns";

/// The same statement, answering its columns as one list: the driver loses their order, and names each of them anew in every row.
pub(super) fn in_one_column(statement: &str) -> String {
    let Some((head, tail)) = statement.rsplit_once(" RETURN ") else { return statement.to_owned() };
    let (distinct, tail) = tail.strip_prefix("DISTINCT ").map_or(("", tail), |tail| ("DISTINCT ", tail));
    let expressions: Vec<&str> =
        tail.split(", ").map(|column| column.rsplit_once(" AS ").map_or(column, |(expression, _)| expression)).collect();
    format!("{head} RETURN {distinct}[{}] AS {COLUMN}", expressions.join(", "))
}

/// A value as the driver sends it.
///
/// # Errors
/// In words, for a day or a moment that the driver does not take. The tests find none.
pub(super) fn bolt(cell: Cell) -> Result<BoltType, String> {
    let refused = |cause| format!("the driver takes no such value: {cause}");
    Ok(match cell {
        Cell::Null => BoltType::Null(BoltNull),
        Cell::Bool(value) => BoltType::Boolean(BoltBoolean::new(value)),
        Cell::Int(value) => BoltType::Integer(BoltInteger::new(value)),
        Cell::Float(value) => BoltType::Float(BoltFloat::new(value)),
        Cell::Text(text) => BoltType::String(BoltString::new(&text)),
        Cell::Date(days) => date(days).map_err(refused)?,
        Cell::Timestamp(micros, utc) => timestamp(micros, utc).map_err(refused)?,
        Cell::List(items) => BoltType::List(list(items)?),
        Cell::Map(entries) => {
            let mut map = BoltMap::with_capacity(entries.len());
            for (name, cell) in entries {
                map.put(BoltString::new(&name), bolt(cell)?);
            }
            BoltType::Map(map)
        }
    })
}

/// Values as the driver sends them.
///
/// # Errors
/// As [`bolt`].
pub(super) fn list(cells: Vec<Cell>) -> Result<BoltList, String> {
    Ok(BoltList { value: cells.into_iter().map(bolt).collect::<Result<_, _>>()? })
}

/// The columns of a record made by a statement of [`in_one_column`].
///
/// # Errors
/// In words, for a value of a kind that this sink never writes.
pub(super) fn columns(record: &Record) -> Result<Vec<Cell>, String> {
    match record.get(COLUMN) {
        Ok(Wire(Cell::List(cells))) => Ok(cells),
        Ok(_) => Err("the server answered no list of columns".to_owned()),
        Err(cause) => Err(format!("the server answered what this sink does not write: {cause}")),
    }
}

/// A value of the driver as a cell; none for one of a kind that this sink never writes.
fn cell(value: &BoltType) -> Option<Cell> {
    record(value).get(COLUMN).ok().map(|Wire(cell)| cell)
}

/// A record of one column: what shows the parts of a value.
fn record(value: &BoltType) -> Record {
    Record::new(vec![BoltType::from(COLUMN)].into(), vec![value.clone()].into())
}

/// A record as an object, its columns in the order in which the statement last names them.
pub(super) fn object(statement: &str, record: &Record) -> Result<Map<String, Json>, String> {
    let mut names: Vec<&str> = record.keys().iter().map(|name| name.value.as_str()).collect();
    names.sort_unstable();
    names.sort_by_key(|name| last_named(statement, name).unwrap_or(usize::MAX));
    let columns = names.into_iter().map(|name| {
        let value: BoltType = record.get(name).map_err(|cause| format!("the column `{name}` cannot be read: {cause}"))?;
        Ok((name.to_owned(), value_json(&value)))
    });
    columns.collect()
}

/// Where a statement names a column for the last time: by itself, and not as a part of a longer name.
fn last_named(statement: &str, name: &str) -> Option<usize> {
    let in_name = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let alone = |place: usize| {
        let (before, after) = (&statement[..place], &statement[place + name.len()..]);
        !in_name(before.chars().next_back()) && !in_name(after.chars().next())
    };
    statement.match_indices(name).map(|(place, _)| place).filter(|place| alone(*place)).last()
}

/// Any value of a server as JSON. What JSON lacks is text: durations and times as ISO 8601, bytes in hexadecimal.
pub(super) fn value_json(value: &BoltType) -> Json {
    match value {
        BoltType::Node(node) => json!({
            "id": node.id.value, "labels": list_json(&node.labels), "properties": map_json(&node.properties),
        }),
        BoltType::Relation(relation) => json!({
            "id": relation.id.value, "type": relation.typ.value, "from": relation.start_node_id.value,
            "to": relation.end_node_id.value, "properties": map_json(&relation.properties),
        }),
        BoltType::UnboundedRelation(relation) => json!({
            "id": relation.id.value, "type": relation.typ.value, "properties": map_json(&relation.properties),
        }),
        BoltType::Path(path) => json!({ "nodes": list_json(&path.nodes), "relationships": list_json(&path.rels) }),
        BoltType::Point2D(point) => json!({ "srid": point.sr_id.value, "x": point.x.value, "y": point.y.value }),
        BoltType::Point3D(point) => {
            json!({ "srid": point.sr_id.value, "x": point.x.value, "y": point.y.value, "z": point.z.value })
        }
        BoltType::Bytes(bytes) => Json::from(bytes.value.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        BoltType::Duration(_) => Json::from(duration_text(value)),
        BoltType::Time(time) => {
            let (time, offset): (NaiveTime, FixedOffset) = time.into();
            Json::from(format!("{}{offset}", time.format("%H:%M:%S%.f")))
        }
        BoltType::LocalTime(time) => Json::from(NaiveTime::from(time).format("%H:%M:%S%.f").to_string()),
        BoltType::DateTimeZoneId(moment) => match DateTime::<FixedOffset>::try_from(moment) {
            Ok(local) => Json::from(timestamp_text(local.timestamp_micros(), true)),
            Err(_) => Json::Null,
        },
        BoltType::List(list) => list_json(list),
        BoltType::Map(map) => map_json(map),
        plain => cell(plain).map_or(Json::Null, |cell| cell_json(&cell)),
    }
}

fn list_json(list: &BoltList) -> Json {
    Json::Array(list.iter().map(value_json).collect())
}

fn map_json(map: &BoltMap) -> Json {
    let mut entries: Vec<(&str, &BoltType)> = map.value.iter().map(|(name, value)| (name.value.as_str(), value)).collect();
    entries.sort_unstable_by_key(|(name, _)| *name);
    Json::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value_json(value))).collect())
}

/// `P…M…DT…S`. The driver shows the parts of a duration only to who reads a record.
fn duration_text(value: &BoltType) -> String {
    match record(value).get::<(i64, i64, i64, i64)>(COLUMN) {
        Ok((months, days, seconds, nanos)) => {
            let nanos = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
            let sign = if nanos < 0 { "-" } else { "" };
            let (whole, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
            format!("P{months}M{days}DT{sign}{whole}.{rest:09}S")
        }
        Err(_) => "P?".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use neo4rs::{BoltDuration, BoltNode, BoltPath, BoltRelation};
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn columns_are_answered_as_one_list() {
        for (statement, expected) in [
            (
                "UNWIND $rows AS row MATCH (n:`A` {`id`: row.k0}) RETURN row.i AS i, n.`_stub` AS stub",
                "UNWIND $rows AS row MATCH (n:`A` {`id`: row.k0}) RETURN [row.i, n.`_stub`] AS columns",
            ),
            ("MATCH (n:`A`) RETURN max(n.`_version`) AS newest", "MATCH (n:`A`) RETURN [max(n.`_version`)] AS columns"),
            (
                "MATCH (a)-[r]->(b) RETURN DISTINCT a.`x` AS c0, r.`y` AS c1",
                "MATCH (a)-[r]->(b) RETURN DISTINCT [a.`x`, r.`y`] AS columns",
            ),
            ("MATCH (n) DELETE n", "MATCH (n) DELETE n"),
        ] {
            assert_eq!(in_one_column(statement), expected);
        }
    }

    #[test]
    fn columns_stand_where_the_statement_names_them() {
        let statement = "MATCH (ab)-[r]->(a) RETURN b.a AS z, a, ab, count(*) ORDER BY z";
        let mut names = ["a", "ab", "count(*)"];
        names.sort_by_key(|name| last_named(statement, name));
        assert_eq!(names, ["a", "ab", "count(*)"]);
        assert_eq!(last_named(statement, "nothing"), None);
    }

    fn cells() -> impl Strategy<Value = Cell> {
        let plain = prop_oneof![
            Just(Cell::Null),
            any::<bool>().prop_map(Cell::Bool),
            any::<i64>().prop_map(Cell::Int),
            any::<f64>().prop_map(Cell::Float),
            any::<String>().prop_map(|text| Cell::text(&text)),
            any::<i32>().prop_map(Cell::Date),
            (any::<i64>(), any::<bool>()).prop_map(|(micros, utc)| Cell::Timestamp(micros, utc)),
        ];
        plain.prop_recursive(3, 20, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Cell::List),
                // The driver's maps have no order.
                ("[a-z]{1,3}", inner).prop_map(|(name, cell)| Cell::Map(vec![(Arc::from(name), cell)])),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_comes_back_as_it_went(one in cells()) {
            prop_assert_eq!(cell(&bolt(one.clone()).unwrap()), Some(one));
        }
    }

    #[test]
    fn extremes_come_back() {
        for one in [
            Cell::Int(i64::MIN),
            Cell::Int(i64::MAX),
            Cell::Date(i32::MIN),
            Cell::Date(i32::MAX),
            Cell::Timestamp(i64::MIN, true),
            Cell::Timestamp(i64::MAX, true),
            Cell::Timestamp(i64::MIN, false),
            Cell::Float(-0.0),
            Cell::Float(f64::NEG_INFINITY),
            Cell::text("a\0b"),
        ] {
            assert_eq!(cell(&bolt(one.clone()).unwrap()), Some(one));
        }
        let Some(Cell::Float(nan)) = cell(&bolt(Cell::Float(f64::NAN)).unwrap()) else { panic!("a float") };
        assert!(nan.is_nan());
        assert_eq!(cell(&BoltType::from(vec![1_u8])), None);
    }

    #[test]
    fn every_kind_of_value_is_shown() {
        let map = |name: &str, value: BoltType| -> BoltMap { [(BoltString::new(name), value)].into_iter().collect() };
        let labels = BoltList::from(vec![BoltType::from("A")]);
        let node = BoltNode::new(1.into(), labels, map("x", 2.into()));
        assert_eq!(value_json(&BoltType::Node(node.clone())), json!({"id": 1, "labels": ["A"], "properties": {"x": 2}}));
        let relation = BoltRelation {
            id: 5.into(),
            start_node_id: 1.into(),
            end_node_id: 2.into(),
            typ: "R".into(),
            properties: BoltMap::default(),
        };
        let shown = json!({"id": 5, "type": "R", "from": 1, "to": 2, "properties": {}});
        assert_eq!(value_json(&BoltType::Relation(relation)), shown);
        let path = BoltPath { nodes: vec![BoltType::Node(node)].into(), rels: BoltList::default(), indices: BoltList::default() };
        assert_eq!(value_json(&BoltType::Path(path))["nodes"][0]["labels"], json!(["A"]));
        let duration = BoltDuration::new(14.into(), 3.into(), (-2).into(), 500_000_000.into());
        assert_eq!(value_json(&BoltType::Duration(duration)), json!("P14M3DT-1.500000000S"));
        assert_eq!(value_json(&BoltType::from(vec![0_u8, 255])), json!("00ff"));
        assert_eq!(value_json(&bolt(Cell::Timestamp(1, true)).unwrap()), json!("1970-01-01T00:00:00.000001Z"));
        assert_eq!(value_json(&bolt(Cell::Float(f64::NAN)).unwrap()), json!("NaN"));
        let time = NaiveTime::from_hms_opt(1, 2, 3).unwrap();
        assert_eq!(value_json(&BoltType::from(time)), json!("01:02:03"));
    }
}
