//! Points, filters and payloads in the protocol's types. Pure.
//!
//! The protocol's whole numbers end at 2^63; one beyond is sent as `{"_u64": "18446744073709551615"}` and read back as the number. Its
//! objects have no order, so entries are read in order of their names.

use std::collections::{BTreeMap, HashMap};

use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::{
    Condition, FieldCondition, FieldType, Filter, ListValue, Match, PointId, PointStruct, PointsIdsList, PointsSelector, Range,
    ReadConsistency, ReadConsistencyType, RepeatedStrings, RetrievedPoint, ScoredPoint, Struct, Value, VectorsOutput,
    WithPayloadSelector, WithVectorsSelector, WriteOrdering, WriteOrderingType, points_selector, read_consistency, vector_output,
    vectors_output, with_payload_selector, with_vectors_selector,
};
use serde_json::{Map, Number, Value as Json};
use uuid::Uuid;

use crate::sinks::vectors::encode::VERSION;
use crate::sinks::vectors::store::{Indexed, Part, Payload, Point};

/// Entry of the object that stands for a whole number from 2^63 on.
const LARGE: &str = "_u64";

/// A JSON value in the protocol's terms.
pub(super) fn value(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::String(text) => Kind::StringValue(text),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Kind::IntegerValue(whole),
            (None, Some(large)) => {
                let text = Value { kind: Some(Kind::StringValue(large.to_string())) };
                Kind::StructValue(Struct { fields: HashMap::from([(LARGE.to_owned(), text)]) })
            }
            (None, None) => Kind::DoubleValue(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() }),
        Json::Object(object) => Kind::StructValue(Struct { fields: payload(object) }),
    };
    Value { kind: Some(kind) }
}

/// An object in the protocol's terms.
pub(super) fn payload(object: Map<String, Json>) -> HashMap<String, Value> {
    object.into_iter().map(|(name, json)| (name, value(json))).collect()
}

/// The JSON value of what [`value`] made.
pub(super) fn json(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(flag)) => Json::Bool(flag),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::IntegerValue(whole)) => Json::Number(whole.into()),
        Some(Kind::DoubleValue(float)) => Number::from_f64(float).map_or(Json::Null, Json::Number),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(json).collect()),
        Some(Kind::StructValue(object)) => match large(&object) {
            Some(number) => Json::Number(number.into()),
            None => Json::Object(object_of(object.fields)),
        },
    }
}

fn large(object: &Struct) -> Option<u64> {
    let text = object.fields.get(LARGE).filter(|_| object.fields.len() == 1)?;
    let Some(Kind::StringValue(text)) = &text.kind else { return None };
    text.parse().ok().filter(|number| i64::try_from(*number).is_err())
}

/// The object of what [`payload`] made.
pub(super) fn object_of(fields: HashMap<String, Value>) -> Map<String, Json> {
    let sorted: BTreeMap<String, Value> = fields.into_iter().collect();
    sorted.into_iter().map(|(name, value)| (name, json(value))).collect()
}

/// A point's id.
pub(super) fn id(id: Uuid) -> PointId {
    PointId { point_id_options: Some(PointIdOptions::Uuid(id.to_string())) }
}

/// The id of one of our points; one with a numeric id is not ours.
pub(super) fn uuid(id: Option<PointId>) -> Option<Uuid> {
    match id?.point_id_options? {
        PointIdOptions::Uuid(text) => Uuid::parse_str(&text).ok(),
        PointIdOptions::Num(_) => None,
    }
}

/// A point with its vector; none where it has no vector.
pub(super) fn point(point: Point) -> Option<PointStruct> {
    let vectors = Some(point.vector?.into());
    Some(PointStruct { id: Some(id(point.id)), payload: payload(point.payload), vectors })
}

/// A point as it was read.
pub(super) fn retrieved(found: RetrievedPoint) -> Option<Point> {
    Some(Point { id: uuid(found.id)?, payload: object_of(found.payload), vector: vector(found.vectors) })
}

/// A point as it was found near to another, with its score.
pub(super) fn scored(found: ScoredPoint) -> Option<(f32, Point)> {
    let point = Point { id: uuid(found.id)?, payload: object_of(found.payload), vector: vector(found.vectors) };
    Some((found.score, point))
}

#[expect(deprecated, reason = "servers before 1.16 answer in these fields")]
fn vector(vectors: Option<VectorsOutput>) -> Option<Vec<f32>> {
    let found = match vectors?.vectors_options? {
        vectors_output::VectorsOptions::Vector(found) => found,
        vectors_output::VectorsOptions::Vectors(mut named) => named.vectors.remove("")?,
    };
    match found.vector {
        Some(vector_output::Vector::Dense(dense)) => Some(dense.data),
        None => Some(found.data),
        Some(_) => None,
    }
}

/// How much of a point is wanted.
pub(super) fn parts(part: Part) -> (Option<WithPayloadSelector>, Option<WithVectorsSelector>) {
    let all = with_payload_selector::SelectorOptions::Enable(true);
    let (payload, vectors) = match part {
        Part::Version => (with_payload_selector::SelectorOptions::Include(vec![VERSION.to_owned()].into()), false),
        Part::Payload => (all, false),
        Part::All => (all, true),
    };
    let vectors = with_vectors_selector::SelectorOptions::Enable(vectors);
    (Some(WithPayloadSelector { selector_options: Some(payload) }), Some(WithVectorsSelector { selector_options: Some(vectors) }))
}

/// Points by their ids.
pub(super) fn these(ids: impl IntoIterator<Item = Uuid>) -> Option<PointsSelector> {
    let ids = PointsIdsList { ids: ids.into_iter().map(id).collect() };
    Some(PointsSelector { points_selector_one_of: Some(points_selector::PointsSelectorOneOf::Points(ids)) })
}

/// Points by a filter.
pub(super) fn those(filter: Filter) -> Option<PointsSelector> {
    Some(PointsSelector { points_selector_one_of: Some(points_selector::PointsSelectorOneOf::Filter(filter)) })
}

/// What makes a read see the writes that were acknowledged before it, also where a collection has replicas.
pub(super) fn own_writes() -> Option<ReadConsistency> {
    let majority = read_consistency::Value::Type(ReadConsistencyType::Majority.into());
    Some(ReadConsistency { value: Some(majority) })
}

/// How writes are ordered among replicas.
pub(super) fn ordered(ordering: WriteOrderingType) -> Option<WriteOrdering> {
    Some(WriteOrdering { r#type: ordering.into() })
}

/// The name of a payload entry where the protocol wants a path.
///
/// # Errors
/// The name, when no path can say it.
pub(super) fn path(name: &str) -> Result<String, String> {
    let is_plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    match name {
        name if is_plain => Ok(name.to_owned()),
        name if name.contains('"') => {
            Err(format!("points cannot be found by a column with a quotation mark in its name: {name}"))
        }
        name => Ok(format!("\"{name}\"")),
    }
}

fn field(path: String, r#match: MatchValue) -> Condition {
    FieldCondition { key: path, r#match: Some(Match { match_value: Some(r#match) }), ..FieldCondition::default() }.into()
}

/// The entry is one of the texts.
pub(super) fn any_of(name: &str, strings: Vec<String>) -> Condition {
    field(name.to_owned(), MatchValue::Keywords(RepeatedStrings { strings }))
}

/// The entry is the text.
pub(super) fn is(name: &str, text: &str) -> Condition {
    field(name.to_owned(), MatchValue::Keyword(text.to_owned()))
}

/// The type of index that an entry gets.
pub(super) fn field_type(indexed: Indexed) -> FieldType {
    match indexed {
        Indexed::Text => FieldType::Keyword,
        Indexed::Integer => FieldType::Integer,
        Indexed::Float => FieldType::Float,
        Indexed::Bool => FieldType::Bool,
    }
}

/// A value as a person typed it: equal as what the entry's index is of, or in any way that it can be read where there is no index. None
/// where nothing in the index can equal it. (A server in strict mode takes only conditions of the index's own type.)
pub(super) fn typed(path: &str, text: &str, index: Option<FieldType>) -> Option<Condition> {
    let whole = text.parse::<i64>().ok().or_else(|| whole(text.parse().ok()?));
    let integer = whole.map(|whole| field(path.to_owned(), MatchValue::Integer(whole)));
    let flag = text.parse::<bool>().ok().map(|flag| field(path.to_owned(), MatchValue::Boolean(flag)));
    // Whole numbers beyond 2^53 are not told apart by a range, and the match above has them.
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && n.abs() < 9_007_199_254_740_992.0);
    let number = number.map(|number| {
        let range = Range { gte: Some(number), lte: Some(number), gt: None, lt: None };
        FieldCondition { key: path.to_owned(), range: Some(range), ..FieldCondition::default() }.into()
    });
    let keyword = field(path.to_owned(), MatchValue::Keyword(text.to_owned()));
    match index {
        Some(FieldType::Integer) => integer,
        Some(FieldType::Float) => number,
        Some(FieldType::Bool) => flag,
        Some(FieldType::Keyword | FieldType::Uuid) => Some(keyword),
        _ => {
            let ways = [Some(keyword), integer, flag, number];
            Some(Filter::should(ways.into_iter().flatten().collect::<Vec<Condition>>()).into())
        }
    }
}

/// A whole number that was written as another (`1903.0`).
fn whole(number: f64) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation)] // Below 2^53, and without a fraction.
    (number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0).then_some(number as i64)
}

/// Bytes that a point takes in a request, about: for deciding where to cut.
pub(super) fn size(point: &Point) -> usize {
    60 + point.vector.as_ref().map_or(0, |vector| vector.len() * 4) + payload_size(&point.payload)
}

/// Bytes that a payload takes in a request, about.
pub(super) fn payload_size(payload: &Payload) -> usize {
    payload.iter().map(|(name, json)| name.len() + 12 + json_size(json)).sum()
}

fn json_size(json: &Json) -> usize {
    match json {
        Json::Null | Json::Bool(_) => 4,
        Json::Number(_) => 12,
        Json::String(text) => text.len() + 8,
        Json::Array(items) => 8 + items.iter().map(|item| 8 + json_size(item)).sum::<usize>(),
        Json::Object(object) => 8 + payload_size(object),
    }
}

/// Items in groups of at most `count` and about `bytes`, each of which has at least one item.
pub(super) fn grouped<T>(items: Vec<T>, count: usize, bytes: usize, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let (mut groups, mut group, mut used): (Vec<Vec<T>>, Vec<T>, usize) = (Vec::new(), Vec::new(), 0);
    for item in items {
        let size = size(&item);
        if !group.is_empty() && (group.len() >= count || used + size > bytes) {
            groups.push(std::mem::take(&mut group));
            used = 0;
        }
        used += size;
        group.push(item);
    }
    groups.extend(Some(group).filter(|group| !group.is_empty()));
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json as of;

    #[test]
    fn payloads_are_read_as_they_were_written() {
        let whole = of!({
            "a": null, "b": true, "c": -9_223_372_036_854_775_808_i64, "d": 9_223_372_036_854_775_807_i64,
            "e": 18_446_744_073_709_551_615_u64, "f": 1.0, "g": 0.1, "h": "\u{0}é🎬", "i": [1, [null, "x"], {}], "j": {"x": {"y": 2.5}},
            "k": 9_223_372_036_854_775_808_u64, "l": {"_u64": "7"}, "m": {"_u64": "18446744073709551615", "n": 1},
        });
        let Json::Object(object) = whole.clone() else { unreachable!() };
        let read = Json::Object(object_of(payload(object)));
        assert_eq!(read, whole);
        assert_eq!(read.to_string(), whole.to_string(), "floats stay floats");
    }

    #[test]
    fn a_condition_has_the_type_of_the_index() {
        let shown = |text: &str, index| typed("year", text, index).map(|condition| format!("{condition:?}"));
        assert!(shown("1903.0", Some(FieldType::Integer)).unwrap().contains("Integer(1903)"));
        assert!(shown("1903", Some(FieldType::Keyword)).unwrap().contains("Keyword(\"1903\")"));
        assert!(shown("1903", Some(FieldType::Float)).unwrap().contains("Some(1903.0)"));
        assert!(shown("true", Some(FieldType::Bool)).unwrap().contains("Boolean(true)"));
        for (text, index) in
            [("x", FieldType::Integer), ("1.5", FieldType::Integer), ("x", FieldType::Float), ("x", FieldType::Bool)]
        {
            assert_eq!(shown(text, Some(index)), None, "{text}");
        }
        let any = shown("1903", None).unwrap();
        assert!(any.contains("Integer(1903)") && any.contains("Keyword(\"1903\")") && any.contains("Some(1903.0)"), "{any}");
    }

    #[test]
    fn a_name_is_a_path_when_it_is_quoted() {
        assert_eq!(path("year").unwrap(), "year");
        assert_eq!(path("a.b[] c").unwrap(), "\"a.b[] c\"");
        assert!(path("a\"b").is_err());
    }

    #[test]
    fn groups_are_bounded_by_count_and_bytes() {
        let of = |sizes: &[usize], count, bytes| {
            grouped(sizes.to_vec(), count, bytes, |size| *size).iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(of(&[1, 1, 1, 1, 1], 2, 100), [2, 2, 1]);
        assert_eq!(of(&[60, 50, 50, 1], 10, 100), [1, 2, 1]);
        assert_eq!(of(&[500, 500], 10, 100), [1, 1], "an item that is too large goes alone");
        assert_eq!(of(&[], 10, 100), Vec::<usize>::new());
    }
}
