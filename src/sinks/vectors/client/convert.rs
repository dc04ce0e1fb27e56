//! Points, filters and requests in the engine's own types. Pure.

use qdrant_edge::{
    AnyVariants, Condition, FieldCondition, Filter, JsonPath, Match, PointId, Range, Record, ScrollRequest, ValueVariants,
    VectorInternal, VectorStructInternal, WithPayloadInterface, WithVector,
};
use uuid::Uuid;

use crate::sinks::vectors::encode::{TABLE, VERSION};
use crate::sinks::vectors::store::{Part, Point};

pub(super) fn entry(name: &str) -> JsonPath {
    JsonPath { first_key: name.to_owned(), rest: Vec::new() }
}

pub(super) fn any_of(field: &str, values: Vec<String>) -> Condition {
    let values = AnyVariants::Strings(values.into_iter().collect());
    Condition::Field(FieldCondition::new_match(entry(field), Match::from(values)))
}

pub(super) fn of_table(table: &str) -> Condition {
    Condition::Field(FieldCondition::new_match(entry(TABLE), Match::from(table.to_owned())))
}

pub(super) fn all(conditions: Vec<Condition>) -> Filter {
    Filter { must: Some(conditions), ..Filter::new() }
}

/// A value as a person typed it: equal as text, and also as a number or a truth value when it reads as one.
pub(super) fn typed(name: &str, value: &str) -> Condition {
    let equals = |value: ValueVariants| Condition::Field(FieldCondition::new_match(entry(name), Match::new_value(value)));
    let mut ways = vec![equals(ValueVariants::String(value.to_owned()))];
    if let Ok(number) = value.parse::<i64>() {
        ways.push(equals(ValueVariants::Integer(number)));
    }
    if let Ok(flag) = value.parse::<bool>() {
        ways.push(equals(ValueVariants::Bool(flag)));
    }
    // Whole numbers beyond 2^53 are not told apart by a range, and the match above has them.
    if let Some(number) = value.parse::<f64>().ok().filter(|n| n.is_finite() && n.abs() < 9_007_199_254_740_992.0) {
        let number = Some(number.into());
        ways.push(Condition::Field(FieldCondition::new_range(
            entry(name),
            Range { gte: number, lte: number, gt: None, lt: None },
        )));
    }
    Condition::Filter(Filter { should: Some(ways), ..Filter::new() })
}

pub(super) fn parts(part: Part) -> (WithPayloadInterface, WithVector) {
    match part {
        Part::Version => (WithPayloadInterface::Fields(vec![entry(VERSION)]), WithVector::Bool(false)),
        Part::Payload => (WithPayloadInterface::Bool(true), WithVector::Bool(false)),
        Part::All => (WithPayloadInterface::Bool(true), WithVector::Bool(true)),
    }
}

pub(super) fn uuid_of(id: PointId) -> Option<Uuid> {
    match id {
        PointId::Uuid(id) => Some(id),
        PointId::NumId(_) => None,
    }
}

/// A point of ours; one with a numeric id is not.
pub(super) fn point(record: Record) -> Option<Point> {
    let vector = match record.vector {
        Some(VectorStructInternal::Single(vector)) => Some(vector),
        Some(VectorStructInternal::Named(mut named)) => match named.remove("") {
            Some(VectorInternal::Dense(vector)) => Some(vector),
            _ => None,
        },
        _ => None,
    };
    Some(Point { id: uuid_of(record.id)?, payload: record.payload.map(|payload| payload.0).unwrap_or_default(), vector })
}

pub(super) fn scroll(offset: Option<Uuid>, limit: usize, filter: Filter, part: Part) -> ScrollRequest {
    let (payload, with_vector) = parts(part);
    ScrollRequest {
        offset: offset.map(PointId::Uuid),
        limit: Some(limit),
        filter: Some(filter),
        with_payload: Some(payload),
        with_vector,
        order_by: None,
    }
}
