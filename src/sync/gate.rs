//! Two generations of a collection asked the same questions: how many of the nearest records they have in common.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::lanes::Place;
use super::search::{Question, SearchError, ask};
use super::{OpenError, lane};
use crate::mapping::MappingFile;
use crate::report::{Compared, GateReport};
use crate::sinks::SinkError;

/// Answers that are compared of each question.
const TOP: usize = 10;
/// So many of the questions that differ most are shown with their answers.
const EXAMPLES: usize = 3;

/// A comparison that must be passed.
#[derive(Debug, Clone)]
pub struct Gate {
    /// Sample questions in words.
    pub queries: Vec<String>,
    /// The least mean overlap, from 0 to 1.
    pub min_overlap: f64,
}

/// Asks both and compares.
pub(super) async fn compare(
    mapping: &MappingFile,
    collection: &str,
    old: &Place,
    new: &Place,
    gate: &Gate,
) -> Result<GateReport, OpenError> {
    let mut compared = Vec::with_capacity(gate.queries.len());
    for query in &gate.queries {
        let question = Question { collection: collection.to_owned(), text: query.clone(), conditions: Vec::new(), top: TOP };
        let before = ask(old, &question).await.map_err(|error| failed(query, &error))?;
        let after = ask(new, &question).await.map_err(|error| failed(query, &error))?;
        compared.push(one(query, &before, &after, |row| key(mapping, collection, row)));
    }
    #[expect(clippy::cast_precision_loss, reason = "a share of a few hundred")]
    let overlap = compared.iter().map(|one| one.overlap).sum::<f64>() / (compared.len().max(1) as f64);
    let queries = compared.len();
    compared.sort_by(|a, b| a.overlap.total_cmp(&b.overlap));
    compared.truncate(EXAMPLES);
    Ok(GateReport { queries, overlap, min_overlap: gate.min_overlap, passed: overlap >= gate.min_overlap, examples: compared })
}

fn failed(query: &str, error: &SearchError) -> OpenError {
    SinkError::permanent("vectors", format!("the sample question {query:?}: {}", lane::describe(error))).into()
}

/// The record that an answer is of.
fn key(mapping: &MappingFile, collection: &str, row: &Map<String, Value>) -> String {
    let table = row.get("_table").and_then(Value::as_str).unwrap_or_default();
    let id = mapping.tables.get(table).and_then(|table| table.vectors.get(collection)).map(|points| &points.id);
    let values: Vec<Value> = id.into_iter().flatten().map(|name| row.get(name).cloned().unwrap_or(Value::Null)).collect();
    Value::from(vec![Value::from(table), Value::from(values)]).to_string()
}

fn one(
    query: &str,
    before: &[Map<String, Value>],
    after: &[Map<String, Value>],
    key: impl Fn(&Map<String, Value>) -> String,
) -> Compared {
    let (was, is): (HashSet<String>, HashSet<String>) = (before.iter().map(&key).collect(), after.iter().map(&key).collect());
    let most = was.len().max(is.len());
    #[expect(clippy::cast_precision_loss, reason = "ten at most")]
    let overlap = if most == 0 { 1.0 } else { was.intersection(&is).count() as f64 / most as f64 };
    let only = |rows: &[Map<String, Value>], others: &HashSet<String>| {
        rows.iter().filter(|row| !others.contains(&key(row))).cloned().collect::<Vec<_>>()
    };
    Compared { query: query.to_owned(), overlap, only_before: only(before, &is), only_after: only(after, &was) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: &[i64]) -> Vec<Map<String, Value>> {
        ids.iter()
            .map(|id| Map::from_iter([("id".to_owned(), Value::from(*id)), ("score".to_owned(), Value::from(0.5))]))
            .collect()
    }

    #[test]
    fn overlap_is_what_the_larger_answer_shares() {
        let of = |before: &[i64], after: &[i64]| one("q", &rows(before), &rows(after), |row| row["id"].to_string());
        let compared = of(&[1, 2, 3, 4], &[4, 3, 9, 8]);
        assert!((compared.overlap - 0.5).abs() < 1e-9);
        assert_eq!((compared.only_before, compared.only_after), (rows(&[1, 2]), rows(&[9, 8])));
        assert!((of(&[1, 2], &[1, 2, 3, 4]).overlap - 0.5).abs() < 1e-9, "fewer answers are no better ones");
        assert!((of(&[], &[]).overlap - 1.0).abs() < 1e-9);
        assert!(of(&[1], &[]).overlap.abs() < 1e-9);
    }
}
