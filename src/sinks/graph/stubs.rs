//! Who owns a node: its record, or the relationships that need it; pure. A node without a record is a *stub*. Of the relationships
//! that give it properties the one with the least key wins, and the stub carries that key, so that most changes are decided
//! without looking at its other relationships.

use std::collections::HashMap;
use std::sync::Arc;

use super::cypher::{NodeKey, STUB, STUB_BY, VERSION};
use super::encode::{Cell, key_text};

/// Properties by name.
pub(crate) type Properties = Vec<(Arc<str>, Cell)>;

/// What a relationship gives a stub, under the text by which relationships compare.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Gift {
    pub(crate) by: String,
    pub(crate) properties: Properties,
}

/// What the graph knew of a node before the batch.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) enum State {
    #[default]
    Absent,
    Stub {
        by: Option<String>,
    },
    Record {
        version: i64,
    },
}

/// What the batch does to the record behind a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum RecordChange {
    Upsert { version: i64, properties: Properties },
    Delete { version: i64 },
}

/// A node that the batch touches.
#[derive(Debug, Clone, Default)]
pub(crate) struct Touched {
    pub(crate) key: Vec<Cell>,
    pub(crate) state: State,
    pub(crate) record: Option<RecordChange>,
    /// Whether a relationship of the batch stays at it.
    pub(crate) attached: bool,
    /// Whether one of those was there before.
    pub(crate) renewed: bool,
    /// Whether a relationship of the batch leaves it.
    pub(crate) detached: bool,
    /// The least gift of the batch.
    pub(crate) gift: Option<Gift>,
    /// Relationships that give nothing (any more).
    pub(crate) withdrawn: Vec<String>,
}

/// What to do with a node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Step {
    /// Leave it.
    Keep,
    /// Give it exactly these properties unless its record is newer than this version, and make it if it is missing.
    Record(i64, Properties),
    /// Give it exactly these properties, and make it if it is missing.
    Write(Properties),
    /// Make it with these properties if it is missing; a stub that was made from a later relationship than `by`, or from none, is given
    /// them too.
    Offer { by: Option<String>, properties: Properties },
    /// Delete it if no relationship is left.
    Prune,
    /// Delete it if no relationship is left, else make it a stub from those that are.
    Remake,
}

/// The nodes of one label that a batch touches, by the text of their key.
#[derive(Debug)]
pub(crate) struct Nodes {
    pub(crate) key: NodeKey,
    pub(crate) touched: HashMap<String, Touched>,
}

impl Nodes {
    pub(crate) fn new(key: NodeKey) -> Self {
        Self { key, touched: HashMap::new() }
    }

    /// The node with this key.
    pub(crate) fn touch(&mut self, key: &[Cell]) -> &mut Touched {
        self.touched.entry(key_text(key)).or_insert_with(|| Touched { key: key.to_vec(), ..Touched::default() })
    }

    /// The properties of a stub.
    pub(crate) fn stub(&self, key: &[Cell], gift: Option<&Gift>) -> Properties {
        let mut properties: Properties =
            self.key.properties.iter().map(|name| Arc::from(name.as_str())).zip(key.iter().cloned()).collect();
        properties.push((Arc::from(STUB), Cell::Bool(true)));
        if let Some(gift) = gift {
            properties.push((Arc::from(STUB_BY), Cell::text(&gift.by)));
            // What a node is found by is never given.
            let given = gift.properties.iter().filter(|(name, _)| !self.key.properties.iter().any(|key| key == name.as_ref()));
            properties.extend(given.cloned());
        }
        properties
    }

    /// What to do with a node before the relationships of the batch are written ([`Step::Record`], [`Step::Write`]) or after it.
    pub(crate) fn step(&self, node: &Touched) -> Step {
        match (&node.record, &node.state) {
            (Some(RecordChange::Upsert { version, properties }), _) => {
                let mut properties = properties.clone();
                properties.push((Arc::from(VERSION), Cell::Int(*version)));
                return Step::Record(*version, properties);
            }
            (Some(RecordChange::Delete { version }), State::Record { version: held }) if held <= version => {
                return Step::Remake;
            }
            _ if node.only_gains() => {
                let by = node.gift.as_ref().map(|gift| gift.by.clone());
                return Step::Offer { by, properties: self.stub(&node.key, node.gift.as_ref()) };
            }
            (_, State::Record { .. }) => return Step::Keep,
            (_, State::Absent | State::Stub { .. }) => {}
        }
        match &node.state {
            State::Stub { by } => {
                match &node.gift {
                    // No other relationship is below what won before.
                    Some(gift) if by.as_ref().is_none_or(|by| gift.by <= *by) => Step::Write(self.stub(&node.key, Some(gift))),
                    _ if by.as_ref().is_some_and(|by| node.withdrawn.contains(by)) => Step::Remake,
                    _ if node.detached && !node.attached => Step::Prune,
                    _ => Step::Keep,
                }
            }
            _ if node.attached => Step::Write(self.stub(&node.key, node.gift.as_ref())),
            _ => Step::Keep,
        }
    }
}

impl Touched {
    /// Whether what becomes of the node depends on what the graph holds of it. Where relationships only come, the engine decides as it
    /// writes.
    pub(crate) fn asks(&self) -> bool {
        match self.record {
            Some(RecordChange::Upsert { .. }) => false,
            Some(RecordChange::Delete { .. }) => true,
            None => self.detached || self.renewed,
        }
    }

    /// Whether relationships come to the node, and nothing else happens to it.
    pub(crate) fn only_gains(&self) -> bool {
        self.record.is_none() && !self.asks()
    }

    /// A relationship comes to the node, and gives it something or nothing.
    pub(crate) fn attach(&mut self, by: &str, properties: Properties) {
        self.attached = true;
        if !properties.is_empty() && self.gift.as_ref().is_none_or(|gift| by < gift.by.as_str()) {
            self.gift = Some(Gift { by: by.to_owned(), properties });
        }
    }

    /// A relationship that was at the node before stays, and gives it something or nothing (any more).
    pub(crate) fn renew(&mut self, by: &str, properties: Properties) {
        self.renewed = true;
        if properties.is_empty() {
            self.withdrawn.push(by.to_owned());
        }
        self.attach(by, properties);
    }

    /// A relationship of the batch leaves the node.
    pub(crate) fn detach(&mut self, by: &str) {
        self.detached = true;
        self.withdrawn.push(by.to_owned());
    }
}
