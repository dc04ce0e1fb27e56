//! The mapping file as it is written: YAML with SQL as text. Shapes and names only; what the SQL means is found out in
//! [`super::compile`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::MappingError;
use super::target::SinkKind;

/// A mapping: what each target is made of.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Distributary mapping")]
pub struct MappingFile {
    /// The Silver tables, by name.
    pub tables: BTreeMap<String, TableEntry>,
    /// Views in the column store over bridges that share a dimension: one row a key, from the row of the least Silver key.
    #[serde(default)]
    pub dimensions: BTreeMap<String, DimensionEntry>,
}

/// One Silver table and what is made of its records.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// The columns that identify a record.
    pub key: Vec<String>,
    /// Whether a `try_cast` that fails sends the record to quarantine instead of giving null.
    #[serde(default)]
    pub strict: bool,
    /// Tables of the column store, by name.
    #[serde(default)]
    pub clickhouse: BTreeMap<String, RowsEntry>,
    /// Nodes and relationships of the graph.
    #[serde(default)]
    pub graph: GraphEntry,
    /// Collections of the vector index, by name. Several tables may fill one collection.
    #[serde(default)]
    pub vectors: BTreeMap<String, PointsEntry>,
}

/// A table of the column store, or the nodes of a label.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsEntry {
    /// The columns of the query that identify a row; they include the Silver key.
    pub key: Vec<String>,
    /// A row-local query over the Silver table.
    #[schemars(with = "String")]
    pub sql: Spanned<String>,
    /// Overrides the table's `strict`.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// What a table gives the graph.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphEntry {
    /// Labels whose nodes, and their properties, are made of this table's records.
    #[serde(default)]
    pub nodes: BTreeMap<String, RowsEntry>,
    /// Relationship types.
    #[serde(default)]
    pub relationships: BTreeMap<String, RelationshipEntry>,
}

/// Relationships of one type between nodes of two labels.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelationshipEntry {
    /// The node at which they start: one label, with the columns of the query that hold its key.
    pub from: BTreeMap<String, Vec<String>>,
    /// The node at which they end: one label, with the columns of the query that hold its key.
    pub to: BTreeMap<String, Vec<String>>,
    /// Further columns that tell apart relationships between the same two nodes.
    #[serde(default)]
    pub key: Vec<String>,
    /// Properties that the relationship gives a node that no record declares.
    #[serde(default)]
    pub stub: StubEntry,
    /// A row-local query over the Silver table.
    #[schemars(with = "String")]
    pub sql: Spanned<String>,
    /// Overrides the table's `strict`.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// Properties for nodes that no record declares: the property's name, and the column of the query that holds it.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StubEntry {
    /// For the node at which the relationship starts.
    #[serde(default)]
    pub from: BTreeMap<String, String>,
    /// For the node at which it ends.
    #[serde(default)]
    pub to: BTreeMap<String, String>,
}

/// Points of a collection.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointsEntry {
    /// The columns of the query that identify a text; they include the Silver key.
    pub id: Vec<String>,
    /// The column of the query that holds the text to embed. All others become the payload.
    pub text: String,
    /// A row-local query over the Silver table.
    #[schemars(with = "String")]
    pub sql: Spanned<String>,
    /// Overrides the table's `strict`.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// A view over bridges.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DimensionEntry {
    /// The columns that identify a row of the dimension.
    pub key: Vec<String>,
    /// Its further columns.
    pub columns: Vec<String>,
    /// The bridges: tables of the column store that have all these columns.
    pub from: Vec<String>,
}

impl TableEntry {
    /// The targets that it fills.
    #[must_use]
    pub fn targets(&self) -> Vec<(SinkKind, &str)> {
        let clickhouse = self.clickhouse.keys().map(|name| (SinkKind::Clickhouse, name.as_str()));
        let graph = self.graph.nodes.keys().chain(self.graph.relationships.keys());
        let graph = graph.map(|name| (SinkKind::Graph, name.as_str()));
        let vectors = self.vectors.keys().map(|name| (SinkKind::Vectors, name.as_str()));
        clickhouse.chain(graph).chain(vectors).collect()
    }
}

impl MappingFile {
    /// Reads a mapping file.
    ///
    /// # Errors
    /// [`MappingError`] with the file's path and, where it can be told, line and column.
    pub fn read(path: &Path) -> Result<Self, MappingError> {
        let text = std::fs::read_to_string(path).map_err(|source| MappingError::Unreadable { path: path.to_owned(), source })?;
        Self::parse(&text, path)
    }

    /// Parses the text of a mapping file; `path` is for messages.
    ///
    /// # Errors
    /// [`MappingError::Syntax`] with line and column.
    pub fn parse(text: &str, path: &Path) -> Result<Self, MappingError> {
        let file: Self = serde_saphyr::from_str(text)
            .map_err(|error| MappingError::Syntax { path: path.to_owned(), message: error.to_string() })?;
        if file.tables.is_empty() {
            let message = "it names no table under `tables`: nothing would be delivered".to_owned();
            return Err(MappingError::Syntax { path: path.to_owned(), message });
        }
        Ok(file)
    }

    /// The JSON Schema of mapping files, for editors.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(MappingFile).to_value()
    }
}

/// Where in a mapping file something stands: for messages.
#[derive(Debug, Clone)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// The Silver table.
    pub table: String,
    /// The target: `clickhouse.movie`, `graph.ACTED_IN`.
    pub target: String,
    /// The line on which its SQL begins; 0 when there is none.
    pub line: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, ": tables.{}", self.table)?;
        if !self.target.is_empty() {
            write!(f, ".{}", self.target)?;
        }
        Ok(())
    }
}
