//! Pinecone's filter language over the engine's payloads, where the metadata entry `x` is the payload entry `m:x`.

use qdrant_edge::{AnyVariants, Condition, FieldCondition, Filter, JsonPath, Match, Range};
use serde_json::Value;

/// Values in one `$in` or `$nin`.
const VALUES_MAX: usize = 10_000;

/// The payload entry of a metadata entry.
pub(crate) fn entry(name: &str) -> String {
    format!("m:{name}")
}

fn path(name: &str) -> JsonPath {
    JsonPath { first_key: entry(name), rest: Vec::new() }
}

fn must(conditions: Vec<Condition>) -> Filter {
    Filter { must: Some(conditions), ..Filter::new() }
}

fn should(conditions: Vec<Condition>) -> Condition {
    Condition::Filter(Filter { should: Some(conditions), ..Filter::new() })
}

fn not(condition: Condition) -> Condition {
    Condition::Filter(Filter { must_not: Some(vec![condition]), ..Filter::new() })
}

/// A filter, or what is wrong with it.
pub(crate) fn filter(value: &Value) -> Result<Filter, String> {
    let object = value.as_object().ok_or("a filter must be an object")?;
    let mut conditions = Vec::new();
    for (key, value) in object {
        conditions.push(match key.as_str() {
            "$and" => Condition::Filter(must(list(value)?)),
            "$or" => should(list(value)?),
            other if other.starts_with('$') => return Err(format!("{other} is no operator between conditions")),
            name => of_entry(name, value)?,
        });
    }
    Ok(must(conditions))
}

fn list(value: &Value) -> Result<Vec<Condition>, String> {
    let items = value.as_array().filter(|items| !items.is_empty()).ok_or("$and and $or take lists of filters")?;
    items.iter().map(|item| filter(item).map(Condition::Filter)).collect()
}

fn of_entry(name: &str, value: &Value) -> Result<Condition, String> {
    let Some(operators) = value.as_object() else { return equal(name, value) };
    if operators.is_empty() {
        return Err(format!("the condition on {name} has no operator"));
    }
    let mut conditions = Vec::new();
    for (operator, value) in operators {
        let number = || value.as_f64().ok_or_else(|| format!("{operator} on {name} takes a number"));
        let range = |range| Condition::Field(FieldCondition::new_range(path(name), range));
        let none = Range { lt: None, gt: None, lte: None, gte: None };
        conditions.push(match operator.as_str() {
            "$eq" => equal(name, value)?,
            "$ne" => not(equal(name, value)?),
            "$in" => any(name, value)?,
            "$nin" => not(any(name, value)?),
            "$gt" => range(Range { gt: Some(number()?.into()), ..none }),
            "$gte" => range(Range { gte: Some(number()?.into()), ..none }),
            "$lt" => range(Range { lt: Some(number()?.into()), ..none }),
            "$lte" => range(Range { lte: Some(number()?.into()), ..none }),
            "$exists" => {
                let is_there = value.as_bool().ok_or_else(|| format!("$exists on {name} takes true or false"))?;
                Condition::Field(FieldCondition::new_is_empty(path(name), !is_there))
            }
            other => return Err(format!("{other} on {name} is no operator")),
        });
    }
    Ok(Condition::Filter(must(conditions)))
}

fn equal(name: &str, value: &Value) -> Result<Condition, String> {
    Ok(match value {
        Value::String(text) => Condition::Field(FieldCondition::new_match(path(name), Match::from(text.clone()))),
        Value::Bool(flag) => Condition::Field(FieldCondition::new_match(path(name), Match::from(*flag))),
        Value::Number(number) => {
            let number = number.as_f64().map(Into::into);
            Condition::Field(FieldCondition::new_range(path(name), Range { lte: number, gte: number, lt: None, gt: None }))
        }
        other => return Err(format!("{other} is no value to compare {name} with")),
    })
}

fn any(name: &str, value: &Value) -> Result<Condition, String> {
    let values = value.as_array().filter(|values| !values.is_empty() && values.len() <= VALUES_MAX);
    let values = values.ok_or_else(|| format!("$in and $nin on {name} take lists of 1 to {VALUES_MAX} values"))?;
    let texts: Option<Vec<String>> = values.iter().map(|value| value.as_str().map(str::to_owned)).collect();
    match texts {
        Some(texts) => {
            let any = AnyVariants::Strings(texts.into_iter().collect());
            Ok(Condition::Field(FieldCondition::new_match(path(name), Match::from(any))))
        }
        None => Ok(should(values.iter().map(|value| equal(name, value)).collect::<Result<_, _>>()?)),
    }
}
