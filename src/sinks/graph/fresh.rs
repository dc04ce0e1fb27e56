//! What this sink knows of the graph because it made it so itself; pure.
//!
//! Types of relationships that the graph had none of when they were asked for: what such a type has by now is what this sink made, so that a
//! first load reads no relationships. Whether nobody else made any is seen by counting before the first change of each transaction, when a
//! server has the number at hand.
//!
//! Nodes that were given their records: a relationship that comes to one gives it nothing. That nobody took one away is seen by the number of
//! relationships that could be made.
//!
//! Where a number is another one, or anything else went wrong, nothing is taken for granted any more.

use std::collections::{HashMap, HashSet};

use super::cypher::{NodeKey, Relationship};

/// A batch of fewer rows than this is read: to ask for the type would take as long.
const ROWS_MIN: usize = 1_000;
/// Relationships that are kept in mind, eight bytes each and as much again.
const MADE_MAX: usize = 1 << 21;
/// Nodes that are kept in mind, sixteen bytes each and as much again. Of more than these some are written to as if they were not known.
const RECORDS_MAX: usize = 1 << 21;

/// What is known; nothing once something went wrong.
#[derive(Debug)]
pub(super) struct Fresh(Option<Known>);

#[derive(Debug, Default)]
struct Known {
    /// The types, each under the text that tells it from the others.
    types: HashMap<String, Type>,
    /// Hashes of the keys of the nodes that have records.
    records: HashSet<u128>,
}

#[derive(Debug)]
enum Type {
    /// It may have any relationship.
    Old,
    New(New),
}

#[derive(Debug, Default)]
struct New {
    /// Hashes of the keys of the relationships that this sink made.
    made: HashSet<u64>,
    /// How many there are now.
    count: i64,
    /// Whether they were counted in this transaction.
    counted: bool,
}

impl Default for Fresh {
    fn default() -> Self {
        Self(Some(Known::default()))
    }
}

impl Fresh {
    /// Whether to ask how many relationships the type has, before a batch of so many rows.
    pub(super) fn asks(&self, layout: &Relationship, rows: usize) -> bool {
        rows >= ROWS_MIN && self.0.as_ref().is_some_and(|known| !known.types.contains_key(&layout.suffix))
    }

    /// The answer, before any of this batch is made.
    pub(super) fn answer(&mut self, layout: &Relationship, count: i64) {
        let new = New { counted: true, ..New::default() };
        let found = if count == 0 { Type::New(new) } else { Type::Old };
        if let Some(known) = &mut self.0 {
            known.types.insert(layout.suffix.clone(), found);
        }
    }

    /// Whether the graph may have the relationship with this key.
    pub(super) fn may_have(&self, layout: &Relationship, key: &str) -> bool {
        match self.0.as_ref().and_then(|known| known.types.get(&layout.suffix)) {
            Some(Type::New(new)) => new.made.contains(&hash(key)),
            Some(Type::Old) | None => true,
        }
    }

    /// The relationships with these keys are to be made, and so many deleted. How many there must be before that, if it is to be seen.
    pub(super) fn change(&mut self, layout: &Relationship, made: &[&str], deleted: i64) -> Option<i64> {
        let Some(Type::New(new)) = self.0.as_mut()?.types.get_mut(&layout.suffix) else { return None };
        let before = new.count;
        new.made.extend(made.iter().map(|key| hash(key)));
        new.count += i64::try_from(made.len()).unwrap_or(i64::MAX) - deleted;
        let counted = std::mem::replace(&mut new.counted, true);
        if self.made() > MADE_MAX {
            self.forget();
        }
        (!counted).then_some(before)
    }

    /// Whether this sink gave the node with this key its record, or a newer one was there.
    pub(super) fn is_record(&self, key: &NodeKey, node: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.records.contains(&hash_of_node(key, node)))
    }

    /// The record of the node with this key is about to be given, or taken away.
    pub(super) fn record(&mut self, key: &NodeKey, node: &str, is_given: bool) {
        let Some(Known { records, .. }) = &mut self.0 else { return };
        if !is_given {
            records.remove(&hash_of_node(key, node));
        } else if records.len() < RECORDS_MAX {
            records.insert(hash_of_node(key, node));
        }
    }

    /// A transaction ends.
    pub(super) fn end(&mut self) {
        for found in self.0.iter_mut().flat_map(|known| known.types.values_mut()) {
            if let Type::New(new) = found {
                new.counted = false;
            }
        }
    }

    /// Takes nothing for granted from now on.
    pub(super) fn forget(&mut self) {
        self.0 = None;
    }

    fn made(&self) -> usize {
        let types = self.0.iter().flat_map(|known| known.types.values());
        types.map(|found| if let Type::New(new) = found { new.made.len() } else { 0 }).sum()
    }
}

/// Two keys of one hash are read where one would do.
fn hash(key: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key.as_bytes())
}

/// So long that no two keys have one: a node that is taken for another would be missing.
fn hash_of_node(key: &NodeKey, node: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128_with_seed(node.as_bytes(), hash(&key.label))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::graph::cypher::{Side, tests::acted_in};

    #[test]
    fn beyond_so_many_relationships_everything_is_read_again() {
        let (mut fresh, acted) = (Fresh::default(), acted_in());
        let person = NodeKey::of(acted.end(Side::From));
        fresh.record(&person, "1", true);
        fresh.answer(&acted, 0);
        let keys: Vec<String> = (0..=MADE_MAX).map(|number| number.to_string()).collect();
        let mut make = |keys: &[String]| {
            fresh.change(&acted, &keys.iter().map(String::as_str).collect::<Vec<_>>(), 0);
            [fresh.may_have(&acted, "0"), fresh.may_have(&acted, "another"), fresh.is_record(&person, "1")]
        };
        assert_eq!(make(&keys[..MADE_MAX]), [true, false, true]);
        assert_eq!(make(&keys[MADE_MAX..]), [true, true, false], "nothing is taken for granted");
    }

    #[test]
    fn so_many_nodes_are_kept_in_mind_and_no_more() {
        let (mut fresh, person) = (Fresh::default(), NodeKey { label: "Person".into(), properties: vec!["id".into()] });
        (0..=RECORDS_MAX).for_each(|number| fresh.record(&person, &number.to_string(), true));
        assert!(fresh.is_record(&person, &(RECORDS_MAX - 1).to_string()));
        assert!(!fresh.is_record(&person, &RECORDS_MAX.to_string()));
        // One that is gone leaves room.
        fresh.record(&person, "0", false);
        fresh.record(&person, &RECORDS_MAX.to_string(), true);
        assert!(!fresh.is_record(&person, "0"));
        assert!(fresh.is_record(&person, &RECORDS_MAX.to_string()));
    }

    #[test]
    fn a_node_of_another_label_is_another() {
        let key = |label: &str| NodeKey { label: label.into(), properties: vec!["id".into()] };
        let mut fresh = Fresh::default();
        fresh.record(&key("Person"), "1", true);
        assert!(fresh.is_record(&key("Person"), "1"));
        assert!(!fresh.is_record(&key("Movie"), "1"));
    }
}
