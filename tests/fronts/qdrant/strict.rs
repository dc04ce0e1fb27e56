//! Strict mode: what a collection in it refuses. (Qdrant, "Administration: Strict mode".)

use std::collections::HashMap;

use qdrant_client::qdrant::condition::ConditionOneOf;
use qdrant_client::qdrant::r#match::MatchValue;
use qdrant_client::qdrant::{Condition, FieldCondition, Filter, StrictModeConfig};
use qdrant_edge::{JsonPath, PayloadIndexInfo, PayloadSchemaType};
use tonic::Status;

/// The rules of a front that is strict.
pub(super) fn rules() -> StrictModeConfig {
    StrictModeConfig {
        enabled: Some(true),
        max_query_limit: Some(100),
        unindexed_filtering_retrieve: Some(false),
        unindexed_filtering_update: Some(false),
        upsert_max_batchsize: Some(50),
        condition_max_size: Some(40),
        filter_max_conditions: Some(10),
        max_payload_index_count: Some(20),
        ..StrictModeConfig::default()
    }
}

type Indexes = HashMap<JsonPath, PayloadIndexInfo>;

/// Whether a filter may be used.
pub(super) fn check(strict: &StrictModeConfig, filter: &Filter, indexes: &Indexes, is_read: bool) -> Result<(), Status> {
    let allowed = if is_read { strict.unindexed_filtering_retrieve } else { strict.unindexed_filtering_update };
    let mut count = 0;
    each(filter, &mut |condition| {
        count += 1;
        let size = size(condition) as u64;
        if strict.condition_max_size.is_some_and(|most| size > most) {
            return Err(refusal("Filter condition limit reached", "use fewer values in a condition"));
        }
        let Some((path, types)) = needed(condition).filter(|_| allowed == Some(false)) else { return Ok(()) };
        let parsed: JsonPath = path.parse().map_err(|()| Status::invalid_argument(format!("Invalid path {path}")))?;
        let found = indexes.get(&parsed).map(|index| index.data_type);
        match found {
            Some(found) if types.is_empty() || types.contains(&found) => Ok(()),
            _ => Err(Status::invalid_argument(format!(
                "Bad request: Index required but not found for \"{path}\" of one of the following types: {types:?}. Help: Create an \
                 index for this key or use a different filter."
            ))),
        }
    })?;
    if strict.filter_max_conditions.is_some_and(|most| count > most) {
        return Err(refusal("Filter conditions limit exceeded", "use fewer conditions"));
    }
    Ok(())
}

/// The refusal of what goes beyond a limit.
pub(super) fn refusal(what: &str, help: &str) -> Status {
    Status::invalid_argument(format!("Bad request: {what}. Help: {help}"))
}

fn each(filter: &Filter, look: &mut impl FnMut(&Condition) -> Result<(), Status>) -> Result<(), Status> {
    let least = filter.min_should.iter().flat_map(|least| &least.conditions);
    for condition in filter.must.iter().chain(&filter.should).chain(&filter.must_not).chain(least) {
        match &condition.condition_one_of {
            Some(ConditionOneOf::Filter(inner)) => each(inner, look)?,
            _ => look(condition)?,
        }
    }
    Ok(())
}

fn size(condition: &Condition) -> usize {
    let Some(ConditionOneOf::Field(FieldCondition { r#match: Some(found), .. })) = &condition.condition_one_of else { return 0 };
    match &found.match_value {
        Some(MatchValue::Keywords(any) | MatchValue::ExceptKeywords(any)) => any.strings.len(),
        Some(MatchValue::Integers(any) | MatchValue::ExceptIntegers(any)) => any.integers.len(),
        _ => 0,
    }
}

/// The entry that a condition reads, and the types of index that serve it; any where there are none.
fn needed(condition: &Condition) -> Option<(String, Vec<PayloadSchemaType>)> {
    use PayloadSchemaType::{Bool, Datetime, Float, Integer, Keyword, Text, Uuid};
    match condition.condition_one_of.as_ref()? {
        ConditionOneOf::Field(field) => {
            let types = match field.r#match.as_ref().and_then(|found| found.match_value.as_ref()) {
                Some(MatchValue::Keyword(_) | MatchValue::Keywords(_) | MatchValue::ExceptKeywords(_)) => vec![Keyword, Uuid],
                Some(MatchValue::Integer(_) | MatchValue::Integers(_) | MatchValue::ExceptIntegers(_)) => vec![Integer],
                Some(MatchValue::Boolean(_)) => vec![Bool],
                Some(_) => vec![Text],
                None if field.range.is_some() => vec![Float, Integer],
                None if field.datetime_range.is_some() => vec![Datetime],
                None => vec![],
            };
            Some((field.key.clone(), types))
        }
        ConditionOneOf::IsEmpty(empty) => Some((empty.key.clone(), vec![])),
        ConditionOneOf::IsNull(null) => Some((null.key.clone(), vec![])),
        _ => None,
    }
}
