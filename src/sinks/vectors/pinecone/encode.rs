//! Points as Pinecone's records and back, and filters in its language. Pure: no client.
//!
//! Metadata holds strings, numbers (as doubles), truth values and lists of strings. What else a payload has is held as JSON text, and the
//! entry [`TEXTS`] names those entries, so that everything is read as it was written: objects, lists of anything but strings or of
//! nothing, whole numbers that a double cannot tell apart. Nulls are left out, as a payload has none. A name that metadata cannot
//! have, one that begins with `$`, is escaped.

use arrow::datatypes::DataType;
use serde::Deserialize;
use serde_json::{Map, Number, Value, json};
use uuid::Uuid;

use crate::mapping::target::Target;
use crate::sinks::vectors::encode::{TABLE, column_names};
use crate::sinks::vectors::store::{Payload, Point};

/// Records in one upsert.
pub(super) const RECORDS_AN_UPSERT: usize = 1_000;
/// Ids in one delete.
pub(super) const IDS_A_DELETE: usize = 1_000;
/// Ids in one fetch: they stand in the address, which servers on the way cut or refuse from 8 kB on.
pub(super) const IDS_A_FETCH: usize = 100;
/// Ids in one page of a list.
pub(super) const IDS_A_LIST: usize = 100;
/// Records in one page of a read by metadata, and values in its filter.
pub(super) const RECORDS_A_PAGE: usize = 100;
/// The most that a query answers.
pub(super) const ANSWERS_A_QUERY: usize = 10_000;
/// Longest body of an upsert.
pub(super) const BYTES_AN_UPSERT: usize = 2_000_000;
/// Longest metadata of a record, as JSON.
pub(super) const BYTES_OF_METADATA: usize = 40 * 1024;
/// Longest vector of an index.
pub(super) const DIMENSIONS_MAX: usize = 20_000;

/// Names of the entries that are JSON text. No column's name becomes this one.
const TEXTS: &str = "%json";
/// From here on, whole numbers are not told apart by a double.
const WHOLE_MAX: u64 = 1 << 53;

/// A record as it is sent and answered.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
pub(super) struct Record {
    /// Its id.
    pub(super) id: String,
    /// Its vector.
    #[serde(default)]
    pub(super) values: Vec<f32>,
    /// Its metadata.
    #[serde(default)]
    pub(super) metadata: Map<String, Value>,
    /// How near it is, in answers to a query.
    #[serde(default)]
    pub(super) score: f32,
}

/// What of a target's columns is held in another way than as it is; nothing when there is nothing to say.
pub(crate) fn notes(target: &Target) -> Option<String> {
    let mut said = Vec::new();
    for name in column_names(target) {
        let Ok(field) = target.schema.field_with_name(name) else { continue };
        match field.data_type() {
            DataType::Int64 | DataType::UInt64 => said.push(format!("{name}: numbers from 2^53 on become text")),
            DataType::List(item) if *item.data_type() == DataType::Utf8 => {
                said.push(format!("{name}: lists that are empty or have nulls become JSON text"));
            }
            DataType::List(_) | DataType::Struct(_) | DataType::Map(_, _) => {
                said.push(format!("{name}: it becomes JSON text, and no condition finds what is in it"));
            }
            _ => {}
        }
        let key = key_of(name);
        if key != name {
            said.push(format!("{name}: its name becomes {key}"));
        }
    }
    (!said.is_empty()).then(|| format!("{}, in Pinecone's metadata: {}", target.name, said.join("; ")))
}

/// A column's name in metadata: `$` and `%` at its beginning become `%24` and `%25`.
pub(super) fn key_of(name: &str) -> String {
    match name.as_bytes().first() {
        Some(b'$') => format!("%24{}", &name[1..]),
        Some(b'%') => format!("%25{}", &name[1..]),
        None => "%".to_owned(),
        _ => name.to_owned(),
    }
}

fn name_of(key: &str) -> String {
    match key.get(..3) {
        Some("%24") => format!("${}", &key[3..]),
        Some("%25") => format!("%{}", &key[3..]),
        _ if key == "%" => String::new(),
        _ => key.to_owned(),
    }
}

/// A payload as metadata.
pub(super) fn metadata(payload: &Payload) -> Map<String, Value> {
    let mut metadata = Map::with_capacity(payload.len() + 1);
    let mut texts = Vec::new();
    for (name, value) in payload.iter().filter(|(_, value)| !value.is_null()) {
        let key = key_of(name);
        if is_native(value) {
            metadata.insert(key, value.clone());
        } else {
            texts.push(Value::String(key.clone()));
            metadata.insert(key, Value::String(value.to_string()));
        }
    }
    if !texts.is_empty() {
        metadata.insert(TEXTS.to_owned(), Value::Array(texts));
    }
    metadata
}

fn is_native(value: &Value) -> bool {
    match value {
        Value::Null | Value::Object(_) => false,
        Value::Bool(_) | Value::String(_) => true,
        Value::Number(number) if number.is_f64() => true,
        Value::Number(number) => number.as_i64().map_or(u64::MAX, i64::unsigned_abs) < WHOLE_MAX,
        Value::Array(items) => !items.is_empty() && items.iter().all(Value::is_string),
    }
}

/// Metadata as the payload that it was. Doubles that are whole are whole numbers: the service does not tell them apart.
pub(super) fn payload(mut metadata: Map<String, Value>) -> Payload {
    let texts = metadata.remove(TEXTS).unwrap_or_default();
    let texts: Vec<&str> = texts.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let read = |(key, value): (String, Value)| {
        let parsed = || value.as_str().and_then(|text| serde_json::from_str(text).ok());
        let value = if texts.contains(&key.as_str()) { parsed().unwrap_or(value) } else { whole(value) };
        (name_of(&key), value)
    };
    metadata.into_iter().map(read).collect()
}

fn whole(value: Value) -> Value {
    #[allow(clippy::cast_precision_loss)] // It is a power of two.
    let is_whole = |x: &f64| x.fract() == 0.0 && x.abs() < WHOLE_MAX as f64;
    match value.as_f64().filter(|x| value.is_f64() && is_whole(x)) {
        #[allow(clippy::cast_possible_truncation)] // It is whole and small.
        Some(x) => Value::Number(Number::from(x as i64)),
        None => value,
    }
}

/// Why the point cannot be a record.
pub(super) fn refusal(point: &Point) -> Option<String> {
    let bytes = Value::Object(metadata(&point.payload)).to_string().len();
    if bytes > BYTES_OF_METADATA {
        let (largest, _) = point.payload.iter().map(|(name, value)| (name, value.to_string().len())).max_by_key(|(_, n)| *n)?;
        return Some(format!(
            "its metadata is {bytes} bytes of JSON, and Pinecone takes {BYTES_OF_METADATA}: the largest is column {largest}"
        ));
    }
    let is_zero = point.vector.as_ref().is_some_and(|vector| vector.iter().all(|x| *x == 0.0));
    is_zero.then(|| "its vector is zero in every component, which Pinecone does not take".to_owned())
}

/// A point as the JSON of a record; a point without a vector is none.
pub(super) fn record(point: &Point) -> Option<String> {
    let vector = point.vector.as_ref()?;
    Some(record_of(&point.id.to_string(), vector, &metadata(&point.payload)))
}

/// The JSON of a record.
pub(super) fn record_of(id: &str, values: &[f32], metadata: &Map<String, Value>) -> String {
    // A number at a time, because a `Value` would hold each as a double and write more digits.
    let numbers: Vec<String> = values.iter().map(|x| serde_json::to_string(x).unwrap_or_default()).collect();
    let (id, metadata) = (Value::from(id), Value::Object(metadata.clone()));
    format!("{{\"id\":{id},\"values\":[{}],\"metadata\":{metadata}}}", numbers.join(","))
}

/// A record as a point; none when its id is not one of ours.
pub(super) fn point(record: Record) -> Option<Point> {
    let id = Uuid::parse_str(&record.id).ok()?;
    let vector = Some(record.values).filter(|values| !values.is_empty());
    Some(Point { id, payload: payload(record.metadata), vector })
}

/// Bodies of upserts: as few as the limits allow.
pub(super) fn upserts(namespace: &str, records: Vec<String>) -> Vec<String> {
    let begin = format!("{{\"namespace\":{},\"vectors\":[", Value::from(namespace));
    let mut bodies = Vec::new();
    let (mut body, mut count) = (begin.clone(), 0);
    for record in records {
        // A comma before it, and two brackets at the end.
        if count == RECORDS_AN_UPSERT || (count > 0 && body.len() + record.len() + 3 > BYTES_AN_UPSERT) {
            bodies.push(std::mem::replace(&mut body, begin.clone()) + "]}");
            count = 0;
        }
        if count > 0 {
            body.push(',');
        }
        body.push_str(&record);
        count += 1;
    }
    if count > 0 {
        bodies.push(body + "]}");
    }
    bodies
}

/// Records whose entry is one of the values, in one table or in all.
pub(super) fn any_of(field: &str, values: &[String], table: Option<&str>) -> Value {
    let mut conditions = vec![json!({key_of(field): {"$in": values}})];
    conditions.extend(table.map(|table| json!({TABLE: {"$eq": table}})));
    json!({ "$and": conditions })
}

/// All conditions, each with a value as a person typed it: equal as text, and also as a number or a truth value when it reads as one.
pub(super) fn typed(conditions: &[(String, String)]) -> Option<Value> {
    let one = |(name, value): &(String, String)| {
        let key = key_of(name);
        let mut ways = vec![json!({&key: {"$eq": value}})];
        if let Some(number) = value.parse::<f64>().ok().filter(|n| n.is_finite()) {
            ways.push(json!({&key: {"$eq": whole(Value::from(number))}}));
        }
        if let Ok(flag) = value.parse::<bool>() {
            ways.push(json!({&key: {"$eq": flag}}));
        }
        json!({ "$or": ways })
    };
    let all: Vec<Value> = conditions.iter().map(one).collect();
    (!all.is_empty()).then(|| json!({ "$and": all }))
}

/// Records that have the column.
pub(super) fn having(name: &str) -> Value {
    json!({key_of(name): {"$exists": true}})
}

/// A vector that says nothing, for records that are not to be found by one: a cosine needs one that is not zero.
pub(super) fn constant(dimensions: usize) -> Vec<f32> {
    let mut vector = vec![0.0; dimensions];
    if let Some(first) = vector.first_mut() {
        *first = 1.0;
    }
    vector
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload_of(value: Value) -> Payload {
        value.as_object().unwrap().clone()
    }

    /// As the service answers: every number is a double.
    fn stored(metadata: Map<String, Value>) -> Map<String, Value> {
        let double = |value: Value| match value.as_f64() {
            Some(x) => Value::from(x),
            None => value,
        };
        metadata.into_iter().map(|(key, value)| (key, double(value))).collect()
    }

    #[test]
    fn everything_is_read_as_it_was_written() {
        let original = payload_of(json!({
            "title": "é🎬\u{0}'\"`", "empty": "", "year": 1902, "score": 0.1, "small": -9_007_199_254_740_991_i64,
            "large": 9_007_199_254_740_993_i64, "least": i64::MIN, "most": u64::MAX, "huge": 1e300, "yes": true,
            "genres": ["drama", ""], "none": [], "holes": ["a", null], "numbers": [1, 2.5], "nested": {"a": {"b": [null]}},
            "looks like": "[1]", "$price": 1, "%24price": 2, "%json": ["title"], "%": 3, "": 4, "_version": 1_u64 << 56 | 7,
        }));
        let metadata = metadata(&original);
        for (key, value) in &metadata {
            assert!(!key.starts_with('$') && !key.is_empty(), "{key}");
            let is_list = value.as_array().is_some_and(|items| !items.is_empty() && items.iter().all(Value::is_string));
            assert!(value.is_string() || value.is_number() || value.is_boolean() || is_list, "{key}: {value}");
        }
        assert_eq!(metadata["large"], "9007199254740993");
        assert_eq!(payload(metadata.clone()), original);
        assert_eq!(payload(stored(metadata)), original, "also from a service that has only doubles");
        let nulls = payload_of(json!({"a": null, "b": 1}));
        assert_eq!(Value::Object(super::metadata(&nulls)), json!({"b": 1}));
    }

    #[test]
    fn a_vector_is_read_as_it_was_written() {
        let vector: Vec<f32> = vec![0.1, -1.0 / 3.0, f32::MIN_POSITIVE, f32::MAX, -0.0, 1e-45, 0.333_333_34];
        let point = Point { id: Uuid::from_u128(7), payload: payload_of(json!({"a": 1})), vector: Some(vector.clone()) };
        let read: Record = serde_json::from_str(&record(&point).unwrap()).unwrap();
        assert_eq!(
            read.values.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
            vector.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
        );
        assert_eq!(super::point(read).unwrap(), point);
        assert_eq!(super::point(Record { id: "somebody's".to_owned(), ..Record::default() }), None);
        assert_eq!(record(&Point { vector: None, ..point }), None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_name() {
        let fits = |blurb: usize, vector: Vec<f32>| {
            let payload = payload_of(json!({"title": "short", "blurb": "x".repeat(blurb)}));
            refusal(&Point { id: Uuid::nil(), payload, vector: Some(vector) })
        };
        let around = json!({"title": "short", "blurb": ""}).to_string().len();
        assert_eq!(fits(BYTES_OF_METADATA - around, vec![1.0]), None);
        assert!(fits(BYTES_OF_METADATA - around + 1, vec![1.0]).unwrap().contains("column blurb"));
        assert!(fits(1, vec![0.0, -0.0]).unwrap().contains("zero"));
    }

    #[test]
    fn batches_keep_both_limits_and_lose_nothing() {
        let record = |n: usize, bytes: usize| {
            let metadata = json!({"n": n, "fill": "x".repeat(bytes)}).as_object().unwrap().clone();
            record_of(&n.to_string(), &[1.0], &metadata)
        };
        for (count, bytes) in [(0, 0), (1, 0), (2_500, 0), (2_500, 2_000), (120, 40_000), (3, BYTES_AN_UPSERT)] {
            let bodies = upserts("a\"b", (0..count).map(|n| record(n, bytes)).collect());
            let mut seen = Vec::new();
            for body in &bodies {
                let body_read: Value = serde_json::from_str(body).unwrap();
                assert_eq!(body_read["namespace"], "a\"b");
                let vectors = body_read["vectors"].as_array().unwrap();
                assert!((1..=RECORDS_AN_UPSERT).contains(&vectors.len()));
                assert!(body.len() <= BYTES_AN_UPSERT || vectors.len() == 1, "{count} {bytes}: {}", body.len());
                seen.extend(vectors.iter().map(|vector| vector["id"].as_str().unwrap().parse::<usize>().unwrap()));
            }
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
        assert_eq!(upserts("a", (0..2_500).map(|n| record(n, 0)).collect()).len(), 3);
    }

    #[test]
    fn filters_are_in_its_language() {
        let values = ["a".to_owned()];
        let expected = json!({"$and": [{"_record": {"$in": ["a"]}}, {"_table": {"$eq": "t"}}]});
        assert_eq!(any_of("_record", &values, Some("t")), expected);
        assert_eq!(any_of("_record", &values, None), json!({"$and": [{"_record": {"$in": ["a"]}}]}));
        let condition =
            |name: &str, value: &str| typed(&[(name.to_owned(), value.to_owned())]).unwrap()["$and"][0]["$or"].clone();
        assert_eq!(condition("year", "1902.0"), json!([{"year": {"$eq": "1902.0"}}, {"year": {"$eq": 1902}}]));
        assert_eq!(condition("$x", "true"), json!([{"%24x": {"$eq": "true"}}, {"%24x": {"$eq": true}}]));
        assert_eq!(condition("x", "NaN"), json!([{"x": {"$eq": "NaN"}}]));
        assert_eq!(typed(&[]), None);
    }
}
