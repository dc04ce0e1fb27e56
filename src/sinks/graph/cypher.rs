//! A target as nodes or relationships, and the Cypher that reads and writes it; pure. Every value is a parameter, and every name
//! is checked before it becomes part of a statement. The statements are ones that Neo4j 5 takes as they are.

use std::sync::Arc;

use crate::mapping::target::{End, Shape, Target};
use crate::sinks::SinkError;

use super::encode::{Cell, cast_for, is_key_type, key_text};

/// The sink's name in errors.
pub(crate) const SINK: &str = "graph";
/// Marks a node that no record is behind.
pub(crate) const STUB: &str = "_stub";
/// The key of the relationship from which a stub has its properties.
pub(crate) const STUB_BY: &str = "_stub_by";
/// The version of the write that made a node or relationship what it is.
pub(crate) const VERSION: &str = "_version";
/// The label of the nodes that hold checkpoints.
pub(crate) const CHECKPOINT: &str = "_DistributaryCheckpoint";
/// The label of the nodes that hold a server's leases.
pub(crate) const LEASE: &str = "_DistributaryLease";
/// Before the index by which a node is to be found. The embedded engine knows no such order, and needs none.
pub(crate) const SEEK: &str = " USING INDEX SEEK ";
/// The property that identifies a checkpoint.
pub(crate) const LANE: &str = "_lane";

/// Which end of a relationship.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    From,
    To,
}

/// Where the graph keeps a column of a relationship's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a key property of one of the nodes.
    Node(Side, String),
    /// In a property of its own.
    Own,
}

/// A label and the properties that identify its nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct NodeKey {
    pub(crate) label: String,
    pub(crate) properties: Vec<String>,
}

/// A target as nodes.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) target: Arc<Target>,
    pub(crate) key: NodeKey,
}

/// A target as relationships.
#[derive(Debug, Clone)]
pub(crate) struct Relationship {
    pub(crate) target: Arc<Target>,
    pub(crate) from: End,
    pub(crate) to: End,
    /// Where each column of the schema is kept.
    pub(crate) places: Vec<Place>,
    /// The columns that find the nodes at both ends: their indexes in the schema.
    pub(crate) ends: [Vec<usize>; 2],
    /// What follows the text of a key where relationships of all types compare: type, then labels.
    pub(crate) suffix: String,
    /// Indexes of the key columns, those of the Silver key first: the order in which relationships compare.
    pub(crate) order: Vec<usize>,
    /// The end whose node is found first, because it has the fewest relationships: the record's.
    pub(crate) anchor: Side,
}

/// A target as this sink sees it.
#[derive(Debug, Clone)]
pub(crate) enum Layout {
    Node(Arc<Node>),
    Relationship(Arc<Relationship>),
}

impl Layout {
    /// Checks a target and works out how the graph holds it.
    pub(crate) fn of(target: &Target) -> Result<Self, SinkError> {
        check(target)?;
        let target = Arc::new(target.clone());
        match target.shape.clone() {
            Shape::Node => {
                let mut properties = target.key.clone();
                properties.sort_unstable();
                let key = NodeKey { label: target.name.clone(), properties };
                Ok(Self::Node(Arc::new(Node { target, key })))
            }
            Shape::Relationship { from, to } => {
                let (from, to) = (sorted(from), sorted(to));
                let places = target.schema.fields().iter().map(|field| place(&from, &to, field.name())).collect();
                let rest = target.key.iter().filter(|name| !target.record_key.contains(name));
                let order = target.record_key.iter().chain(rest).filter_map(|name| target.schema.index_of(name).ok()).collect();
                let records = |end: &End| end.columns.iter().all(|column| target.record_key.contains(column));
                let ends =
                    [&from, &to].map(|end| end.columns.iter().filter_map(|name| target.schema.index_of(name).ok()).collect());
                let suffix = key_text(&[&target.name, &from.label, &to.label].map(|name| Cell::text(name)));
                let anchor = if records(&from) || !records(&to) { Side::From } else { Side::To };
                Ok(Self::Relationship(Arc::new(Relationship { target, from, to, places, ends, suffix, order, anchor })))
            }
            Shape::Table | Shape::Points { .. } => {
                Err(SinkError::permanent(SINK, format!("target `{}` is no node label and no relationship type", target.name)))
            }
        }
    }

    pub(crate) fn target(&self) -> &Target {
        match self {
            Self::Node(node) => &node.target,
            Self::Relationship(relationship) => &relationship.target,
        }
    }

    /// What makes two targets one: the label, or the type with the labels of both ends.
    pub(crate) fn identity(&self) -> (&str, &str, &str) {
        match self {
            Self::Node(node) => (&node.key.label, "", ""),
            Self::Relationship(relationship) => (&relationship.target.name, &relationship.from.label, &relationship.to.label),
        }
    }
}

/// The end with its key properties in the order of their names, so that every target finds the nodes of a label by one key.
fn sorted(mut end: End) -> End {
    let mut pairs: Vec<_> = end.properties.iter().cloned().zip(end.columns.iter().cloned()).collect();
    pairs.sort_unstable();
    (end.properties, end.columns) = pairs.into_iter().unzip();
    end
}

fn place(from: &End, to: &End, column: &str) -> Place {
    for (side, end) in [(Side::From, from), (Side::To, to)] {
        if let Some(index) = end.columns.iter().position(|name| name == column) {
            return Place::Node(side, end.properties[index].clone());
        }
    }
    Place::Own
}

/// Whether the graph can hold the target.
pub(crate) fn check(target: &Target) -> Result<(), SinkError> {
    let stop = |message: String| Err(SinkError::stop(SINK, format!("target `{}`: {message}", target.name)));
    identifier(target, "name", &target.name)?;
    for field in target.schema.fields() {
        identifier(target, "column", field.name())?;
        if [STUB, STUB_BY, VERSION].contains(&field.name().as_str()) {
            return stop(format!(
                "column `{}` has a name that the sink keeps for itself; select it AS another name",
                field.name()
            ));
        }
        if let Some(cast) = cast_for(field.data_type(), field.name()) {
            return stop(format!(
                "column `{}` is {}, which the graph cannot hold; select {cast} AS {0}",
                field.name(),
                field.data_type()
            ));
        }
    }
    for name in &target.key {
        let Ok(field) = target.schema.field_with_name(name) else {
            return stop(format!("key column `{name}` is not selected"));
        };
        if !is_key_type(field.data_type()) {
            let kind = field.data_type();
            return stop(format!(
                "key column `{name}` is {kind}, which identifies nothing; select CAST({name} AS VARCHAR) AS {name}"
            ));
        }
    }
    let Shape::Relationship { from, to } = &target.shape else { return Ok(()) };
    for end in [from, to] {
        identifier(target, "label", &end.label)?;
        if end.columns.is_empty() || end.columns.len() != end.properties.len() {
            return stop(format!("the end `{}` needs one column for each key property of its label", end.label));
        }
        for column in &end.columns {
            if !target.key.contains(column) {
                return stop(format!("column `{column}` finds the node of `{}` and must be part of the key", end.label));
            }
        }
        let stubs = end.stub.iter().map(|(property, _)| property);
        for property in end.properties.iter().chain(stubs) {
            identifier(target, "property", property)?;
            if [STUB, STUB_BY, VERSION].contains(&property.as_str()) {
                return stop(format!("property `{property}` of `{}` has a name that the sink keeps for itself", end.label));
            }
        }
        for (property, column) in &end.stub {
            if target.schema.field_with_name(column).is_err() {
                return stop(format!(
                    "column `{column}`, which gives a stub of `{}` its `{property}`, is not selected",
                    end.label
                ));
            }
        }
    }
    Ok(())
}

fn identifier(target: &Target, what: &str, name: &str) -> Result<(), SinkError> {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    if first && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && ![CHECKPOINT, LEASE].contains(&name) {
        return Ok(());
    }
    Err(SinkError::stop(
        SINK,
        format!(
            "target `{}`: the {what} `{}` must be letters, digits and `_`, and not begin with a digit",
            target.name,
            name.escape_debug()
        ),
    ))
}

impl NodeKey {
    pub(crate) fn of(end: &End) -> Self {
        Self { label: end.label.clone(), properties: end.properties.clone() }
    }

    /// `(n:`L` {`p`: row.a0, …})`, with the values of the key in `row` under `letter` and their place.
    fn pattern(&self, variable: char, letter: char) -> String {
        let pairs: Vec<String> =
            self.properties.iter().enumerate().map(|(i, property)| format!("`{property}`: row.{letter}{i}")).collect();
        format!("({variable}:`{}` {{{}}})", self.label, pairs.join(", "))
    }

    /// The same, for rows that are lists and begin with the key.
    fn listed(&self, variable: char, first: usize) -> String {
        let pairs = self.properties.iter().enumerate().map(|(i, property)| format!("`{property}`: row[{}]", first + i));
        format!("({variable}:`{}` {{{}}})", self.label, pairs.collect::<Vec<_>>().join(", "))
    }

    /// The pattern, and the order to find the node by its constraint's index.
    fn found(&self, variable: char, letter: char) -> String {
        format!("{}{}", self.pattern(variable, letter), self.seek(variable))
    }

    /// The order to find a node by the index of its constraint. Where the server's statistics lag behind a graph that has just been
    /// filled, it takes an index for empty, and reads it from end to end for each row.
    fn seek(&self, variable: char) -> String {
        format!("{SEEK}{variable}:`{}`(`{}`)", self.label, self.properties.join("`, `"))
    }

    /// What is known of some nodes.
    pub(crate) fn read(&self) -> String {
        let node = self.found('n', 'k');
        format!(
            "UNWIND $rows AS row MATCH {node} RETURN row.i AS i, n.`{STUB}` AS stub, n.`{STUB_BY}` AS by, n.`{VERSION}` AS version"
        )
    }

    /// Gives nodes the properties of their rows: those that are missing, stubs that were made from a later relationship than the row names
    /// or from none, and all for which the row is sure. One that was just made has neither mark yet. A row is a list: the key, whether it
    /// is sure, the relationship, the properties.
    pub(crate) fn write(&self) -> String {
        let (node, key) = (self.listed('n', 0), self.properties.len());
        let (sure, by, properties) = (key, key + 1, key + 2);
        format!(
            "UNWIND $rows AS row MERGE {node} SET n = CASE WHEN row[{sure}] OR (n.`{VERSION}` IS NULL AND (n.`{STUB}` IS NULL \
             OR row[{by}] < n.`{STUB_BY}` OR (n.`{STUB_BY}` IS NULL AND row[{by}] IS NOT NULL))) \
             THEN row[{properties}] ELSE properties(n) END"
        )
    }

    /// Gives nodes the properties of their rows unless a newer write made them, and makes those that are missing. A row is a list: the
    /// key, the version, the properties.
    pub(crate) fn record(&self) -> String {
        let (node, key) = (self.listed('n', 0), self.properties.len());
        let (version, properties) = (key, key + 1);
        format!(
            "UNWIND $rows AS row MERGE {node} SET n = CASE WHEN n.`{VERSION}` > row[{version}] THEN properties(n) \
             ELSE row[{properties}] END"
        )
    }

    /// Which of some nodes have no relationship.
    pub(crate) fn lonely(&self) -> String {
        format!("UNWIND $rows AS row MATCH {} WHERE NOT (n)--() RETURN row.i AS i", self.found('n', 'k'))
    }

    /// Deletes nodes, which must have no relationship.
    pub(crate) fn delete(&self) -> String {
        format!("UNWIND $rows AS row MATCH {} DELETE n", self.found('n', 'k'))
    }

    /// The statement that makes the label's key unique.
    pub(crate) fn constraint(&self) -> String {
        let properties: Vec<String> = self.properties.iter().map(|property| format!("n.`{property}`")).collect();
        let name = self.name();
        format!("CREATE CONSTRAINT `{name}` IF NOT EXISTS FOR (n:`{}`) REQUIRE ({}) IS UNIQUE", self.label, properties.join(", "))
    }

    /// The name of the label's constraint. The lengths keep a label `a_b` with `c` apart from a label `a` with `b_c`.
    fn name(&self) -> String {
        let parts = std::iter::once(&self.label).chain(&self.properties);
        parts.fold("distributary".to_owned(), |name, part| format!("{name}_{}{part}", part.len()))
    }
}

impl Node {
    /// Reads the columns of nodes whose `by` properties are the row's, and whether each is a stub. That is told apart by the caller: a
    /// condition on a second property keeps the engine from using its index.
    pub(crate) fn held(&self, by: &[String]) -> String {
        let columns = self.columns();
        if by.is_empty() {
            return format!("MATCH (n:`{}`) RETURN {columns}, n.`{STUB}` AS stub", self.key.label);
        }
        let key = NodeKey { label: self.key.label.clone(), properties: by.to_vec() };
        let node = if key == self.key { key.found('n', 'k') } else { key.pattern('n', 'k') };
        format!("UNWIND $rows AS row MATCH {node} RETURN {columns}, n.`{STUB}` AS stub")
    }

    fn columns(&self) -> String {
        let fields = self.target.schema.fields().iter().enumerate();
        fields.map(|(i, field)| format!("n.`{}` AS c{i}", field.name())).collect::<Vec<_>>().join(", ")
    }

    /// The highest version of any record.
    pub(crate) fn newest(&self) -> String {
        format!("MATCH (n:`{}`) RETURN max(n.`{VERSION}`) AS newest", self.key.label)
    }

    /// The Silver keys of all records.
    pub(crate) fn list(&self) -> String {
        let keys: Vec<String> =
            self.target.record_key.iter().enumerate().map(|(i, name)| format!("n.`{name}` AS c{i}")).collect();
        format!("MATCH (n:`{}`) WHERE n.`{STUB}` IS NULL RETURN {}", self.key.label, keys.join(", "))
    }
}

impl Relationship {
    pub(crate) fn end(&self, side: Side) -> &End {
        match side {
            Side::From => &self.from,
            Side::To => &self.to,
        }
    }

    /// The columns that are kept in properties of the relationship: their indexes in the schema.
    pub(crate) fn own(&self) -> impl Iterator<Item = usize> + '_ {
        self.places.iter().enumerate().filter(|(_, place)| **place == Place::Own).map(|(index, _)| index)
    }

    /// The pattern that begins at the node of `side`, found by `row.k…`, and goes to the other end, of which the label is known.
    fn pattern(&self, side: Side) -> String {
        let kind = &self.target.name;
        match side {
            Side::From => {
                let from = NodeKey::of(&self.from);
                format!("{}-[r:`{kind}`]->(b:`{}`){}", from.pattern('a', 'k'), self.to.label, from.seek('a'))
            }
            Side::To => {
                let to = NodeKey::of(&self.to);
                format!("{}<-[r:`{kind}`]-(a:`{}`){}", to.pattern('b', 'k'), self.from.label, to.seek('b'))
            }
        }
    }

    /// The expression that reads a column, by its index in the schema.
    fn column(&self, index: usize) -> String {
        match &self.places[index] {
            Place::Node(Side::From, property) => format!("a.`{property}`"),
            Place::Node(Side::To, property) => format!("b.`{property}`"),
            Place::Own => format!("r.`{}`", self.target.schema.field(index).name()),
        }
    }

    fn columns(&self, indexes: impl IntoIterator<Item = usize>) -> String {
        indexes.into_iter().map(|index| format!("{} AS c{index}", self.column(index))).collect::<Vec<_>>().join(", ")
    }

    /// The relationships of some nodes of `side`: the row they answer, their id and version, then the columns `indexes`.
    pub(crate) fn read(&self, side: Side, indexes: &[usize]) -> String {
        let columns = self.columns(indexes.iter().copied());
        format!(
            "UNWIND $rows AS row MATCH {} RETURN row.i AS i, id(r) AS id, r.`{VERSION}` AS version, {columns}",
            self.pattern(side)
        )
    }

    /// Deletes the relationships `row.ids` of nodes of the anchor's side.
    pub(crate) fn delete(&self) -> String {
        format!("UNWIND $rows AS row MATCH {} WHERE id(r) IN row.ids DELETE r", self.pattern(self.anchor))
    }

    /// Makes relationships between nodes that are there. A row is a list: the key of the start, that of the end, the columns that the
    /// relationship keeps, and the version. With its properties named a server makes it in one step, and many names need not be sent.
    pub(crate) fn create(&self) -> String {
        let (from, to) = (NodeKey::of(&self.from), NodeKey::of(&self.to));
        let (second, third) = (from.properties.len(), from.properties.len() + to.properties.len());
        let own = self.own().map(|index| self.target.schema.field(index).name().as_str()).chain([VERSION]);
        let own = own.enumerate().map(|(i, name)| format!("`{name}`: row[{}]", third + i));
        format!(
            "UNWIND $rows AS row MATCH {}{} MATCH {}{} CREATE (a)-[r:`{}` {{{}}}]->(b)",
            from.listed('a', 0),
            from.seek('a'),
            to.listed('b', second),
            to.seek('b'),
            self.target.name,
            own.collect::<Vec<_>>().join(", ")
        )
    }

    /// Makes the relationship `row.id` of a node of the anchor's side what `row.props` says.
    pub(crate) fn update(&self) -> String {
        format!("UNWIND $rows AS row MATCH {} WHERE id(r) = row.id SET r = row.props", self.pattern(self.anchor))
    }

    /// All columns of the relationships of some nodes of `side`, or of all when none is given.
    pub(crate) fn held(&self, side: Option<Side>) -> String {
        let columns = self.columns(0..self.places.len());
        match side {
            Some(side) => format!("UNWIND $rows AS row MATCH {} RETURN {columns}", self.pattern(side)),
            None => format!("MATCH {} RETURN {columns}", self.unbound()),
        }
    }

    /// How many relationships of the type the nodes of the anchor's side have. A server keeps this count.
    pub(crate) fn count(&self) -> String {
        let kind = &self.target.name;
        let pattern = match self.anchor {
            Side::From => format!("(a:`{}`)-[r:`{kind}`]->()", self.from.label),
            Side::To => format!("()-[r:`{kind}`]->(b:`{}`)", self.to.label),
        };
        format!("MATCH {pattern} RETURN count(r) AS count")
    }

    /// The highest version of any relationship.
    pub(crate) fn newest(&self) -> String {
        format!("MATCH {} RETURN max(r.`{VERSION}`) AS newest", self.unbound())
    }

    /// The Silver keys of all relationships.
    pub(crate) fn list(&self) -> String {
        let keys = self.target.record_key.iter().filter_map(|name| self.target.schema.index_of(name).ok());
        format!("MATCH {} RETURN DISTINCT {}", self.unbound(), self.columns(keys))
    }

    fn unbound(&self) -> String {
        format!("(a:`{}`)-[r:`{}`]->(b:`{}`)", self.from.label, self.target.name, self.to.label)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    pub(crate) fn acted_in() -> Arc<Relationship> {
        let column = |name: &str| Field::new(name, DataType::Int64, false);
        let end = |label: &str, column: &str| End {
            label: label.to_owned(),
            columns: vec![column.to_owned()],
            properties: vec![column.to_owned()],
            stub: Vec::new(),
            declared: true,
        };
        let target = Target {
            table: "movies".to_owned(),
            name: "ACTED_IN".to_owned(),
            shape: Shape::Relationship { from: end("Person", "person_id"), to: end("Movie", "movie_id") },
            schema: Arc::new(Schema::new(vec![column("person_id"), column("credit_id"), column("movie_id"), column("order")])),
            key: ["person_id", "movie_id", "credit_id"].map(str::to_owned).to_vec(),
            record_key: vec!["movie_id".to_owned()],
            fingerprint: String::new(),
        };
        let Ok(Layout::Relationship(layout)) = Layout::of(&target) else { panic!("a relationship") };
        layout
    }

    #[test]
    fn statements_find_nodes_by_key_and_begin_at_the_record() {
        let layout = acted_in();
        assert_eq!((layout.anchor, layout.order.as_slice()), (Side::To, [2, 0, 1].as_slice()));
        let from_movie = "UNWIND $rows AS row MATCH (b:`Movie` {`movie_id`: row.k0})<-[r:`ACTED_IN`]-(a:`Person`) \
                          USING INDEX SEEK b:`Movie`(`movie_id`)";
        assert_eq!(
            layout.read(Side::To, &layout.order),
            format!(
                "{from_movie} RETURN row.i AS i, id(r) AS id, r.`_version` AS version, \
                 b.`movie_id` AS c2, a.`person_id` AS c0, r.`credit_id` AS c1"
            )
        );
        assert_eq!(layout.delete(), format!("{from_movie} WHERE id(r) IN row.ids DELETE r"));
        assert_eq!(layout.update(), format!("{from_movie} WHERE id(r) = row.id SET r = row.props"));
        assert_eq!(
            layout.create(),
            "UNWIND $rows AS row MATCH (a:`Person` {`person_id`: row[0]}) USING INDEX SEEK a:`Person`(`person_id`) \
             MATCH (b:`Movie` {`movie_id`: row[1]}) USING INDEX SEEK b:`Movie`(`movie_id`) \
             CREATE (a)-[r:`ACTED_IN` {`credit_id`: row[2], `order`: row[3], `_version`: row[4]}]->(b)"
        );
        let key = NodeKey { label: "Season".to_owned(), properties: vec!["number".to_owned(), "series".to_owned()] };
        assert_eq!(
            key.write(),
            "UNWIND $rows AS row MERGE (n:`Season` {`number`: row[0], `series`: row[1]}) SET n = CASE WHEN row[2] OR \
             (n.`_version` IS NULL AND (n.`_stub` IS NULL OR row[3] < n.`_stub_by` OR (n.`_stub_by` IS NULL AND row[3] IS NOT \
             NULL))) THEN row[4] ELSE properties(n) END"
        );
        assert_eq!(
            key.delete(),
            "UNWIND $rows AS row MATCH (n:`Season` {`number`: row.k0, `series`: row.k1}) \
             USING INDEX SEEK n:`Season`(`number`, `series`) DELETE n"
        );
        assert_eq!(
            key.constraint(),
            "CREATE CONSTRAINT `distributary_6Season_6number_6series` IF NOT EXISTS FOR (n:`Season`) \
             REQUIRE (n.`number`, n.`series`) IS UNIQUE"
        );
    }
}
