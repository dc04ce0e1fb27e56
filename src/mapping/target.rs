//! What one projection fills: a table, a node label, a relationship type or a set of points. Pure data, made when a
//! mapping is loaded and read by everything after it. It knows neither SQL nor an engine.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// Name of the column that counts the chunks of one row's text, from 0. Part of a point's identity.
pub const CHUNK: &str = "_chunk";
/// Name of the column that holds how many chunks the row's text has.
pub const CHUNKS: &str = "_chunks";
/// Name of the column that holds the byte offset in the row's text at which the chunk starts.
pub const CHUNK_START: &str = "_start";
/// Name of the column that holds the byte offset in the row's text at which the chunk ends.
pub const CHUNK_END: &str = "_end";
/// Name of the column that holds the hash of the chunk's text: 32 hexadecimal digits of XXH3-128.
pub const TEXT_HASH: &str = "_text_hash";
/// Name of the column that holds the identity of the model that made the vector.
pub const MODEL: &str = "_model";
/// Name of the column that holds the vector; null where only the payload changed.
pub const VECTOR: &str = "_vector";

/// The engine a projection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A column store that speaks ClickHouse's SQL.
    Clickhouse,
    /// A property graph that speaks Cypher.
    Graph,
    /// A vector index.
    Vectors,
}

impl SinkKind {
    /// The name in configuration, reports and errors.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clickhouse => "clickhouse",
            Self::Graph => "graph",
            Self::Vectors => "vectors",
        }
    }
}

/// One projection's target.
#[derive(Debug, Clone)]
pub struct Target {
    /// The Silver table whose records it is made of.
    pub table: String,
    /// The target's name: a table, a label, a relationship type, a collection.
    pub name: String,
    /// What kind of thing it is.
    pub shape: Shape,
    /// The columns of a row, in the order of the query. Only types of [`crate::mapping`]'s canonical set: strings are
    /// `Utf8`, binaries `Binary`, lists `List`; no views, no dictionaries.
    pub schema: SchemaRef,
    /// The columns that identify a row. Never null.
    pub key: Vec<String>,
    /// Those columns of `key` that are the Silver key, in the order of the Silver key.
    pub record_key: Vec<String>,
    /// Changes when the projection's meaning changes: its SQL, key, shape or schema.
    pub fingerprint: String,
}

/// What kind of thing a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shape {
    /// A table of the column store, with the target's name.
    Table,
    /// Nodes with this label (the target's name), identified by properties of the same names as the key columns.
    Node,
    /// Relationships of the type that is the target's name.
    Relationship {
        /// The node at which they start.
        from: End,
        /// The node at which they end.
        to: End,
    },
    /// Points of the collection that is the target's name.
    Points {
        /// The column that holds the text to embed. It is not stored, its hash is.
        text: String,
    },
}

/// One end of a relationship.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// The label of the node.
    pub label: String,
    /// The row's columns that hold the node's key.
    pub columns: Vec<String>,
    /// The key properties of the label, one for each of `columns`.
    pub properties: Vec<String>,
    /// `(property, column)`: properties that the relationship gives the node while nothing else declares it.
    pub stub: Vec<(String, String)>,
    /// True when some projection declares the label and so owns the properties of its nodes.
    pub declared: bool,
}

impl Target {
    /// The engine that holds it.
    #[must_use]
    pub fn sink(&self) -> SinkKind {
        match self.shape {
            Shape::Table => SinkKind::Clickhouse,
            Shape::Node | Shape::Relationship { .. } => SinkKind::Graph,
            Shape::Points { .. } => SinkKind::Vectors,
        }
    }

    /// The schema of what a sink stores and answers for one row of the target: for points the columns without the text, then
    /// [`CHUNK`], [`CHUNKS`], [`CHUNK_START`], [`CHUNK_END`], [`TEXT_HASH`], [`MODEL`] and a nullable [`VECTOR`] of
    /// `dimensions`; for everything else [`Target::schema`].
    #[must_use]
    pub fn stored_schema(&self, dimensions: usize) -> SchemaRef {
        let Shape::Points { text } = &self.shape else { return self.schema.clone() };
        let mut fields: Vec<Arc<Field>> = self.schema.fields().iter().filter(|f| f.name() != text).cloned().collect();
        for name in [CHUNK, CHUNKS, CHUNK_START, CHUNK_END] {
            fields.push(Arc::new(Field::new(name, DataType::Int64, false)));
        }
        for name in [TEXT_HASH, MODEL] {
            fields.push(Arc::new(Field::new(name, DataType::Utf8, false)));
        }
        let width = i32::try_from(dimensions).unwrap_or(i32::MAX);
        let item = Arc::new(Field::new("item", DataType::Float32, false));
        fields.push(Arc::new(Field::new(VECTOR, DataType::FixedSizeList(item, width), true)));
        Arc::new(Schema::new(fields))
    }

    /// The columns that identify what a sink stores: [`Target::key`], and [`CHUNK`] for points.
    #[must_use]
    pub fn stored_key(&self) -> Vec<String> {
        let mut key = self.key.clone();
        if matches!(self.shape, Shape::Points { .. }) {
            key.push(CHUNK.to_owned());
        }
        key
    }
}

/// A view over bridges: one row for each key of a shared dimension, taken from the row of the least Silver key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dimension {
    /// The view's name.
    pub name: String,
    /// The columns that identify a row of the dimension; every bridge has them.
    pub key: Vec<String>,
    /// The further columns; every bridge has them.
    pub columns: Vec<String>,
    /// The bridges: names of targets of the same sink, with the columns of each that are its Silver key.
    pub bridges: Vec<(String, Vec<String>)>,
}
