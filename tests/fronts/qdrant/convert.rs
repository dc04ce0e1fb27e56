//! The protocol's types as the engine's and back. Filters go by way of JSON: the engine reads the server's REST format.

#![allow(deprecated, reason = "older clients use these fields")]

use std::collections::HashMap;

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::point_id::PointIdOptions;
use qdrant_client::qdrant::value::Kind;
use qdrant_client::qdrant::vector::Vector as WireVector;
use qdrant_client::qdrant::vectors::VectorsOptions;
use qdrant_client::qdrant::with_payload_selector::SelectorOptions as PayloadOptions;
use qdrant_client::qdrant::with_vectors_selector::SelectorOptions as VectorOptions;
use qdrant_client::qdrant::{
    Condition, DenseVector, FieldCondition, Filter, ListValue, NamedVectorsOutput, PointId, PointStruct, PointVectors,
    RetrievedPoint, ScoredPoint, Struct, Value, Vector, VectorOutput, Vectors, VectorsOutput, WithPayloadSelector,
    WithVectorsSelector, vector_output, vectors_output,
};
use qdrant_edge::{
    PointId as EdgeId, PointStructPersisted, PointVectorsPersisted, Record, VectorInternal, VectorPersisted,
    VectorStructInternal, VectorStructPersisted, WithPayloadInterface, WithVector,
};
use serde_json::{Map, Number, Value as Json, json};
use tonic::Status;

fn wrong(what: impl std::fmt::Display) -> Status {
    Status::invalid_argument(format!("Wrong input: {what}"))
}

pub(super) fn json_of(value: Value) -> Json {
    match value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(flag)) => Json::Bool(flag),
        Some(Kind::StringValue(text)) => Json::String(text),
        Some(Kind::IntegerValue(whole)) => Json::Number(whole.into()),
        Some(Kind::DoubleValue(float)) => Number::from_f64(float).map_or(Json::Null, Json::Number),
        Some(Kind::ListValue(list)) => Json::Array(list.values.into_iter().map(json_of).collect()),
        Some(Kind::StructValue(object)) => Json::Object(object_of(object.fields)),
    }
}

pub(super) fn object_of(fields: HashMap<String, Value>) -> Map<String, Json> {
    fields.into_iter().map(|(name, value)| (name, json_of(value))).collect()
}

fn value_of(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::String(text) => Kind::StringValue(text),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Kind::IntegerValue(whole),
            None => Kind::DoubleValue(number.as_f64().unwrap()),
        },
        Json::Array(items) => Kind::ListValue(ListValue { values: items.into_iter().map(value_of).collect() }),
        Json::Object(object) => Kind::StructValue(Struct { fields: fields_of(object) }),
    };
    Value { kind: Some(kind) }
}

pub(super) fn fields_of(object: Map<String, Json>) -> HashMap<String, Value> {
    object.into_iter().map(|(name, json)| (name, value_of(json))).collect()
}

pub(super) fn edge_id(id: Option<PointId>) -> Result<EdgeId, Status> {
    match id.and_then(|id| id.point_id_options) {
        Some(PointIdOptions::Num(number)) => Ok(EdgeId::NumId(number)),
        Some(PointIdOptions::Uuid(text)) => {
            text.parse().map(EdgeId::Uuid).map_err(|_| Status::invalid_argument(format!("Unable to parse UUID: {text}")))
        }
        None => Err(Status::invalid_argument("No ID options provided")),
    }
}

pub(super) fn edge_ids(ids: Vec<PointId>) -> Result<Vec<EdgeId>, Status> {
    ids.into_iter().map(|id| edge_id(Some(id))).collect()
}

pub(super) fn wire_id(id: EdgeId) -> PointId {
    let options = match id {
        EdgeId::NumId(number) => PointIdOptions::Num(number),
        EdgeId::Uuid(uuid) => PointIdOptions::Uuid(uuid.to_string()),
    };
    PointId { point_id_options: Some(options) }
}

fn id_json(id: &PointId) -> Json {
    match &id.point_id_options {
        Some(PointIdOptions::Num(number)) => json!(number),
        Some(PointIdOptions::Uuid(text)) => json!(text),
        None => Json::Null,
    }
}

fn dense(vector: Vector) -> Result<Vec<f32>, Status> {
    match vector.vector {
        Some(WireVector::Dense(dense)) => Ok(dense.data),
        None if vector.indices.is_none() && vector.vectors_count.is_none() => Ok(vector.data),
        _ => Err(Status::unimplemented("this front has dense vectors only")),
    }
}

fn vectors(vectors: Option<Vectors>) -> Result<VectorStructPersisted, Status> {
    match vectors.and_then(|vectors| vectors.vectors_options) {
        Some(VectorsOptions::Vector(vector)) => Ok(VectorStructPersisted::Single(dense(vector)?)),
        Some(VectorsOptions::Vectors(named)) => {
            let each = named.vectors.into_iter().map(|(name, vector)| Ok((name, VectorPersisted::Dense(dense(vector)?))));
            Ok(VectorStructPersisted::Named(each.collect::<Result<_, Status>>()?))
        }
        None => Err(Status::invalid_argument("Expected some vectors")),
    }
}

pub(super) fn edge_point(point: PointStruct) -> Result<PointStructPersisted, Status> {
    let payload = qdrant_edge::Payload(object_of(point.payload));
    Ok(PointStructPersisted { id: edge_id(point.id)?, vector: vectors(point.vectors)?, payload: Some(payload) })
}

pub(super) fn edge_vectors(point: PointVectors) -> Result<PointVectorsPersisted, Status> {
    Ok(PointVectorsPersisted { id: edge_id(point.id)?, vector: vectors(point.vectors)? })
}

fn output(vector: VectorInternal) -> Option<VectorOutput> {
    let VectorInternal::Dense(data) = vector else { return None };
    Some(VectorOutput { vector: Some(vector_output::Vector::Dense(DenseVector { data })), ..VectorOutput::default() })
}

fn wire_vectors(vector: Option<VectorStructInternal>) -> Option<VectorsOutput> {
    let options = match vector? {
        VectorStructInternal::Single(data) => vectors_output::VectorsOptions::Vector(output(VectorInternal::Dense(data))?),
        VectorStructInternal::Named(mut named) => match named.remove("") {
            Some(only) => vectors_output::VectorsOptions::Vector(output(only)?),
            None => {
                let vectors = named.into_iter().filter_map(|(name, vector)| Some((name, output(vector)?))).collect();
                vectors_output::VectorsOptions::Vectors(NamedVectorsOutput { vectors })
            }
        },
        VectorStructInternal::MultiDense(_) => return None,
    };
    Some(VectorsOutput { vectors_options: Some(options) })
}

pub(super) fn retrieved(record: Record) -> RetrievedPoint {
    RetrievedPoint {
        id: Some(wire_id(record.id)),
        payload: record.payload.map(|payload| fields_of(payload.0)).unwrap_or_default(),
        vectors: wire_vectors(record.vector),
        shard_key: None,
        order_value: None,
    }
}

pub(super) fn scored(point: qdrant_edge::ScoredPoint) -> ScoredPoint {
    ScoredPoint {
        id: Some(wire_id(point.id)),
        payload: point.payload.map(|payload| fields_of(payload.0)).unwrap_or_default(),
        score: point.score,
        version: point.version,
        vectors: wire_vectors(point.vector),
        shard_key: None,
        order_value: None,
    }
}

pub(super) fn with_payload(selector: Option<WithPayloadSelector>, usual: bool) -> Result<WithPayloadInterface, Status> {
    Ok(match selector.and_then(|selector| selector.selector_options) {
        None => WithPayloadInterface::Bool(usual),
        Some(PayloadOptions::Enable(enable)) => WithPayloadInterface::Bool(enable),
        Some(PayloadOptions::Include(include)) => serde_json::from_value(json!(include.fields)).map_err(wrong)?,
        Some(PayloadOptions::Exclude(exclude)) => serde_json::from_value(json!({"exclude": exclude.fields})).map_err(wrong)?,
    })
}

pub(super) fn with_vectors(selector: Option<WithVectorsSelector>) -> WithVector {
    match selector.and_then(|selector| selector.selector_options) {
        None => WithVector::Bool(false),
        Some(VectorOptions::Enable(enable)) => WithVector::Bool(enable),
        Some(VectorOptions::Include(include)) => WithVector::Selector(include.names),
    }
}

/// The engine's filter.
pub(super) fn edge_filter(filter: &Filter) -> Result<qdrant_edge::Filter, Status> {
    serde_json::from_value(filter_json(filter)?).map_err(wrong)
}

fn filter_json(filter: &Filter) -> Result<Json, Status> {
    let all = |conditions: &[Condition]| conditions.iter().map(condition_json).collect::<Result<Vec<Json>, Status>>();
    let mut object = Map::new();
    for (name, conditions) in [("must", &filter.must), ("should", &filter.should), ("must_not", &filter.must_not)] {
        if !conditions.is_empty() {
            object.insert(name.to_owned(), Json::Array(all(conditions)?));
        }
    }
    if let Some(least) = &filter.min_should {
        object.insert("min_should".to_owned(), json!({"conditions": all(&least.conditions)?, "min_count": least.min_count}));
    }
    Ok(Json::Object(object))
}

fn condition_json(condition: &Condition) -> Result<Json, Status> {
    Ok(match condition.condition_one_of.as_ref().ok_or_else(|| wrong("an empty condition"))? {
        ConditionOneOf::Field(field) => field_json(field)?,
        ConditionOneOf::IsEmpty(empty) => json!({"is_empty": {"key": empty.key}}),
        ConditionOneOf::IsNull(condition) => json!({"is_null": {"key": condition.key}}),
        ConditionOneOf::HasId(has) => json!({"has_id": has.has_id.iter().map(id_json).collect::<Vec<_>>()}),
        ConditionOneOf::Filter(filter) => filter_json(filter)?,
        ConditionOneOf::Nested(nested) => {
            let filter = filter_json(nested.filter.as_ref().ok_or_else(|| wrong("a nested condition without a filter"))?)?;
            json!({"nested": {"key": nested.key, "filter": filter}})
        }
        ConditionOneOf::HasVector(has) => json!({"has_vector": has.has_vector}),
        ConditionOneOf::Slice(_) => return Err(Status::unimplemented("this front has no slices")),
    })
}

fn field_json(field: &FieldCondition) -> Result<Json, Status> {
    let mut object = Map::from_iter([("key".to_owned(), json!(field.key))]);
    if let Some(found) = &field.r#match {
        let one = match found.match_value.as_ref().ok_or_else(|| wrong("an empty match"))? {
            MatchValue::Keyword(text) => json!({"value": text}),
            MatchValue::Integer(whole) => json!({"value": whole}),
            MatchValue::Boolean(flag) => json!({"value": flag}),
            MatchValue::Text(text) => json!({"text": text}),
            MatchValue::Keywords(any) => json!({"any": any.strings}),
            MatchValue::Integers(any) => json!({"any": any.integers}),
            MatchValue::ExceptKeywords(any) => json!({"except": any.strings}),
            MatchValue::ExceptIntegers(any) => json!({"except": any.integers}),
            MatchValue::Phrase(text) => json!({"phrase": text}),
            MatchValue::TextAny(text) => json!({"text_any": text}),
            _ => return Err(Status::unimplemented("this front does not match by prefix")),
        };
        object.insert("match".to_owned(), one);
    }
    if let Some(range) = &field.range {
        object.insert("range".to_owned(), json!({"lt": range.lt, "gt": range.gt, "gte": range.gte, "lte": range.lte}));
    }
    if let Some(count) = &field.values_count {
        object.insert("values_count".to_owned(), json!({"lt": count.lt, "gt": count.gt, "gte": count.gte, "lte": count.lte}));
    }
    if let Some(empty) = field.is_empty {
        object.insert("is_empty".to_owned(), json!(empty));
    }
    if let Some(is_null) = field.is_null {
        object.insert("is_null".to_owned(), json!(is_null));
    }
    if object.len() == 1 {
        return Err(Status::unimplemented("this front has no conditions on places and times"));
    }
    Ok(Json::Object(object))
}
