//! From the file to targets and plans: plans each query against its Silver table's schema, refuses what cannot be kept exact, and
//! settles names, keys, types and fingerprints.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast;
use tokio::task::JoinHandle;

use super::file::{MappingFile, Place, PointsEntry, RelationshipEntry, RowsEntry, TableEntry};
use super::names::{IDENTIFIER, check_names, is_identifier, label_keys};
use super::project::{Projection, Query, Slot, session};
use super::reads;
use super::target::{Dimension, End, Shape, Target};
use super::{MappingError, rowlocal};
use crate::rows;

/// A mapping ready to run.
#[derive(Debug, Clone)]
pub struct Compiled {
    /// The Silver tables whose schema was given, by name.
    pub tables: BTreeMap<String, CompiledTable>,
    /// Views over bridges; a bridge whose table was not given is left out.
    pub dimensions: Vec<Dimension>,
}

impl Compiled {
    /// The tables, one that declares nodes before those whose relationships end at them: an end that is there needs no stub. By name
    /// where nothing decides, and where tables need each other.
    #[must_use]
    pub fn in_order(&self) -> Vec<&str> {
        let mut left: BTreeMap<&str, BTreeSet<&str>> =
            self.tables.iter().map(|(name, table)| (name.as_str(), self.needed(name, table))).collect();
        let mut order = Vec::with_capacity(left.len());
        while let Some(first) = left.keys().next().copied() {
            let free = left.iter().find(|(_, needed)| !needed.iter().any(|name| left.contains_key(name)));
            let next = free.map_or(first, |(name, _)| *name);
            left.remove(next);
            order.push(next);
        }
        order
    }

    /// The other tables that declare a label at an end of this one's relationships.
    fn needed(&self, name: &str, table: &CompiledTable) -> BTreeSet<&str> {
        let ends: BTreeSet<&str> = table
            .projections
            .iter()
            .filter_map(|projection| match &projection.target().shape {
                Shape::Relationship { from, to } => Some([from.label.as_str(), to.label.as_str()]),
                _ => None,
            })
            .flatten()
            .collect();
        let declares = |other: &CompiledTable| {
            other.projections.iter().any(|p| p.target().shape == Shape::Node && ends.contains(p.target().name.as_str()))
        };
        self.tables.iter().filter(|(other, table)| *other != name && declares(table)).map(|(other, _)| other.as_str()).collect()
    }
}

/// What is made of one Silver table.
#[derive(Debug, Clone)]
pub struct CompiledTable {
    /// The Silver key.
    pub key: Vec<String>,
    /// The columns that the projections read, the key first among them: nothing else of the table matters.
    pub columns: Vec<String>,
    /// Fingerprint of those columns' names and types.
    pub schema_fingerprint: String,
    /// One for each target.
    pub projections: Vec<Arc<Projection>>,
}

/// One query of the mapping file with everything about it that is not its SQL.
struct Draft {
    place: Place,
    name: String,
    sql: String,
    strict: bool,
    key: Vec<String>,
    shape: Shape,
}

/// Compiles the tables of a mapping whose schemas are given, on the runtime that this is called in: one of `tokio`.
///
/// # Errors
/// [`MappingError::Refused`] for the first projection that cannot be kept exact.
pub async fn compile(file: &MappingFile, path: &Path, schemas: &BTreeMap<String, SchemaRef>) -> Result<Compiled, MappingError> {
    check_names(file, path)?;
    let labels = label_keys(file, path)?;
    let mut planned = Vec::new();
    for (name, entry) in &file.tables {
        if let Some(schema) = schemas.get(name) {
            planned.push((name, entry, schema, begin(name, entry, path, schema, &labels)?));
        }
    }
    let mut tables = BTreeMap::new();
    for (name, entry, schema, projections) in planned {
        tables.insert(name.clone(), finish(entry, schema, projections).await?);
    }
    let dimensions = dimensions(file, path, &tables)?;
    Ok(Compiled { tables, dimensions })
}

/// A projection that is being planned, and where it stands in the file.
type Planning = (Place, JoinHandle<Result<Projection, MappingError>>);

/// Begins to plan a table's projections, side by side: that is most of the time of a `check`.
fn begin(
    name: &str,
    entry: &TableEntry,
    path: &Path,
    schema: &SchemaRef,
    labels: &BTreeMap<String, (Vec<String>, bool)>,
) -> Result<Vec<Planning>, MappingError> {
    let refuse = |message: String| refused(path, name, "", message);
    if entry.key.is_empty() {
        return Err(refuse("`key` names no column: every table needs the columns that identify a record".to_owned()));
    }
    for column in &entry.key {
        if schema.index_of(column).is_err() {
            return Err(refuse(format!("the key column {column} is not in the table; it has {}", names(schema))));
        }
    }
    let drafts = drafts(name, entry, path, labels)?;
    if drafts.is_empty() {
        return Err(refuse("it has no projection under `clickhouse`, `graph` or `vectors`".to_owned()));
    }
    let planning = drafts.into_iter().map(|draft| {
        let (place, table, key, schema) = (draft.place.clone(), name.to_owned(), entry.key.clone(), schema.clone());
        (place, tokio::spawn(async move { projection(draft, &table, &key, &schema).await }))
    });
    Ok(planning.collect())
}

async fn finish(entry: &TableEntry, schema: &SchemaRef, planned: Vec<Planning>) -> Result<CompiledTable, MappingError> {
    let mut used: BTreeSet<String> = entry.key.iter().cloned().collect();
    let mut projections = Vec::new();
    for (place, planned) in planned {
        let interrupted = |cause| MappingError::Engine { place, source: DataFusionError::ExecutionJoin(Box::new(cause)) };
        let projection = planned.await.map_err(interrupted)??;
        used.extend(projection.reads().iter().filter_map(|path| path.first().cloned()));
        projections.push(Arc::new(projection));
    }
    let narrow: Vec<Arc<Field>> = schema.fields().iter().filter(|f| used.contains(f.name())).cloned().collect();
    let narrow: SchemaRef = Arc::new(Schema::new(narrow));
    Ok(CompiledTable {
        key: entry.key.clone(),
        columns: narrow.fields().iter().map(|f| f.name().clone()).collect(),
        schema_fingerprint: fingerprint(&[&schema_text(&narrow)]),
        projections,
    })
}

fn drafts(
    table: &str,
    entry: &TableEntry,
    path: &Path,
    labels: &BTreeMap<String, (Vec<String>, bool)>,
) -> Result<Vec<Draft>, MappingError> {
    let place = |kind: &str, name: &str, line: u64| Place {
        path: path.to_owned(),
        table: table.to_owned(),
        target: format!("{kind}.{name}"),
        line,
    };
    let rows = |kind: &str, name: &str, rows: &RowsEntry, shape: Shape| Draft {
        place: place(kind, name, rows.sql.referenced.line()),
        name: name.to_owned(),
        sql: rows.sql.value.clone(),
        strict: rows.strict.unwrap_or(entry.strict),
        key: rows.key.clone(),
        shape,
    };
    let mut drafts = Vec::new();
    for (name, table) in &entry.clickhouse {
        drafts.push(rows("clickhouse", name, table, Shape::Table));
    }
    for (label, node) in &entry.graph.nodes {
        drafts.push(rows("graph.nodes", label, node, Shape::Node));
    }
    for (name, relationship) in &entry.graph.relationships {
        let place = place("graph.relationships", name, relationship.sql.referenced.line());
        drafts.push(relationship_draft(name, relationship, place, entry.strict, labels)?);
    }
    for (name, points) in &entry.vectors {
        drafts.push(points_draft(name, points, place("vectors", name, points.sql.referenced.line()), entry.strict));
    }
    Ok(drafts)
}

fn relationship_draft(
    name: &str,
    entry: &RelationshipEntry,
    place: Place,
    strict: bool,
    labels: &BTreeMap<String, (Vec<String>, bool)>,
) -> Result<Draft, MappingError> {
    let end = |side: &str, of: &BTreeMap<String, Vec<String>>, stub: &BTreeMap<String, String>| {
        let mut labels_of = of.iter();
        let (Some((label, columns)), None) = (labels_of.next(), labels_of.next()) else {
            let message = format!("`{side}` must name one label with its key columns, as in {{Label: [column]}}");
            return Err(MappingError::Refused { place: place.clone(), message });
        };
        let (properties, declared) = labels.get(label).cloned().unwrap_or_default();
        Ok(End {
            label: label.clone(),
            columns: columns.clone(),
            properties,
            stub: stub.iter().map(|(p, c)| (p.clone(), c.clone())).collect(),
            declared,
        })
    };
    let from = end("from", &entry.from, &entry.stub.from)?;
    let to = end("to", &entry.to, &entry.stub.to)?;
    let mut key: Vec<String> = Vec::new();
    for column in from.columns.iter().chain(&to.columns).chain(&entry.key) {
        if !key.contains(column) {
            key.push(column.clone());
        }
    }
    let (name, sql) = (name.to_owned(), entry.sql.value.clone());
    let strict = entry.strict.unwrap_or(strict);
    Ok(Draft { place, name, sql, strict, key, shape: Shape::Relationship { from, to } })
}

fn points_draft(name: &str, entry: &PointsEntry, place: Place, strict: bool) -> Draft {
    Draft {
        place,
        name: name.to_owned(),
        sql: entry.sql.value.clone(),
        strict: entry.strict.unwrap_or(strict),
        key: entry.id.clone(),
        shape: Shape::Points { text: entry.text.clone() },
    }
}

/// A draft's SQL, normalised and planned, and the session that it was planned in.
struct Planned {
    text: String,
    plan: LogicalPlan,
    context: SessionContext,
    state: SessionState,
    slot: Arc<Slot>,
}

async fn plan(draft: &Draft, table: &str, schema: &SchemaRef) -> Result<Planned, MappingError> {
    let refuse = |message: String| MappingError::Refused { place: draft.place.clone(), message };
    let engine = |source| MappingError::Engine { place: draft.place.clone(), source };
    let (context, slot) = session(table, schema).map_err(engine)?;
    let state = context.state();
    let dialect = state.config().options().sql_parser.dialect;
    let mut statement = state.sql_to_statement(&draft.sql, &dialect).map_err(|e| refuse(short(&e)))?;
    let datafusion::sql::parser::Statement::Statement(query) = &mut statement else {
        return Err(refuse("a projection is one SELECT".to_owned()));
    };
    if !matches!(query.as_ref(), ast::Statement::Query(_)) {
        return Err(refuse("a projection is one SELECT".to_owned()));
    }
    if draft.strict {
        make_casts_strict(query);
    }
    let text = query.to_string();
    let plan = state.statement_to_plan(statement).await.map_err(|e| refuse(planning_message(&e, table)))?;
    Ok(Planned { text, plan, context, state, slot })
}

fn make_casts_strict(query: &mut ast::Statement) {
    let _: std::ops::ControlFlow<()> = ast::visit_expressions_mut(query, |expr| {
        if let ast::Expr::Cast { kind, .. } = expr
            && matches!(kind, ast::CastKind::TryCast | ast::CastKind::SafeCast)
        {
            *kind = ast::CastKind::Cast;
        }
        std::ops::ControlFlow::Continue(())
    });
}

async fn projection(draft: Draft, table: &str, silver_key: &[String], schema: &SchemaRef) -> Result<Projection, MappingError> {
    let refuse = |message: String| MappingError::Refused { place: draft.place.clone(), message };
    let engine = |source| MappingError::Engine { place: draft.place.clone(), source };
    let Planned { text, plan, context, state, slot } = plan(&draft, table, schema).await?;
    rowlocal::check(&plan).map_err(refuse)?;
    let optimised = state.optimize(&plan).map_err(engine)?;
    let reads = reads::reads(&optimised, table);
    let output = target_schema(plan.schema().as_arrow(), &draft.key).map_err(refuse)?;
    let record_key = record_key(&draft, silver_key, &plan, &output).map_err(refuse)?;
    check_columns(&draft, &output).map_err(refuse)?;
    let fingerprint = fingerprint(&[&text, &draft.key.join(","), &format!("{:?}", draft.shape), &schema_text(&output)]);
    let physical = state.query_planner().create_physical_plan(&optimised, &state).await.map_err(engine)?;
    let target = Target {
        table: table.to_owned(),
        name: draft.name,
        shape: draft.shape,
        schema: output,
        key: draft.key,
        record_key,
        fingerprint,
    };
    let silver_types = silver_key
        .iter()
        .map(|column| schema.field_with_name(column).map(|f| f.data_type().clone()))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| engine(e.into()))?;
    let query = Query { logical: plan, context, slot };
    Ok(Projection::new(Arc::new(target), draft.place, (silver_key.to_vec(), silver_types), reads, physical, query))
}

/// The query's output columns in canonical types, those of the key not null.
fn target_schema(output: &Schema, key: &[String]) -> Result<SchemaRef, String> {
    let mut fields = Vec::new();
    for field in output.fields() {
        let name = field.name();
        if !is_identifier(name) {
            return Err(format!("the column {name:?} needs a plain name: add `AS name` ({IDENTIFIER})"));
        }
        let data_type = rows::canonical_type(field.data_type());
        if data_type == DataType::Null {
            return Err(format!("the column {name} has no type: write `CAST(NULL AS type) AS {name}`"));
        }
        fields.push(Field::new(name, data_type, !key.contains(name)));
    }
    Ok(Arc::new(Schema::new(fields)))
}

/// The columns of the target's key that hold the Silver key.
fn record_key(draft: &Draft, silver_key: &[String], plan: &LogicalPlan, output: &SchemaRef) -> Result<Vec<String>, String> {
    for column in &draft.key {
        if output.index_of(column).is_err() {
            return Err(format!("the key column {column} is not in the query's result; it has {}", names(output)));
        }
    }
    let candidates: Vec<Vec<String>> = match &draft.shape {
        Shape::Relationship { from, to } => vec![from.columns.clone(), to.columns.clone()],
        _ => vec![draft.key.clone()],
    };
    for columns in candidates {
        let found: Option<Vec<String>> = silver_key
            .iter()
            .map(|silver| {
                columns.iter().find(|column| {
                    let index = output.index_of(column).ok();
                    index.and_then(|i| rowlocal::source_column(plan, i)).as_deref() == Some(silver)
                })
            })
            .map(Option::<&String>::cloned)
            .collect();
        if let Some(found) = found {
            return Ok(found);
        }
    }
    let what =
        if matches!(draft.shape, Shape::Relationship { .. }) { "neither end's columns hold" } else { "its key does not contain" };
    Err(format!(
        "{what} the Silver key ({}) unchanged, so two records could fight over one row: add the column, not an expression of it",
        silver_key.join(", ")
    ))
}

fn check_columns(draft: &Draft, output: &SchemaRef) -> Result<(), String> {
    match &draft.shape {
        Shape::Points { text } => match output.field_with_name(text) {
            Err(_) => Err(format!("the text column {text} is not in the query's result; it has {}", names(output))),
            Ok(field) if *field.data_type() != DataType::Utf8 => {
                Err(format!("the text column {text} is {}, not a string: CAST({text} AS string)", field.data_type()))
            }
            Ok(_) if draft.key.contains(text) => Err(format!("the text column {text} cannot be part of the id")),
            Ok(_) => Ok(()),
        },
        Shape::Relationship { from, to } => {
            for end in [from, to] {
                if end.columns.len() != end.properties.len() {
                    return Err(format!(
                        "the label {} has the key ({}), and this relationship gives it ({})",
                        end.label,
                        end.properties.join(", "),
                        end.columns.join(", ")
                    ));
                }
                if let Some((_, column)) = end.stub.iter().find(|(_, c)| output.index_of(c).is_err()) {
                    return Err(format!("the stub column {column} is not in the query's result; it has {}", names(output)));
                }
            }
            Ok(())
        }
        Shape::Table | Shape::Node => Ok(()),
    }
}

fn dimensions(file: &MappingFile, path: &Path, tables: &BTreeMap<String, CompiledTable>) -> Result<Vec<Dimension>, MappingError> {
    let bridges: BTreeMap<&str, &Arc<Target>> = tables
        .values()
        .flat_map(|t| &t.projections)
        .filter(|p| p.target().shape == Shape::Table)
        .map(|p| (p.target().name.as_str(), p.target()))
        .collect();
    let known: HashSet<&String> = file.tables.values().flat_map(|t| t.clickhouse.keys()).collect();
    let mut dimensions = Vec::new();
    for (name, entry) in &file.dimensions {
        let refuse = |message: String| refused(path, "", &format!("dimensions.{name}"), message);
        let mut of = Vec::new();
        for bridge in &entry.from {
            if !known.contains(bridge) {
                return Err(refuse(format!("no table makes the bridge {bridge} under `clickhouse`")));
            }
            let Some(target) = bridges.get(bridge.as_str()) else { continue };
            if let Some(lacking) = entry.key.iter().chain(&entry.columns).find(|c| target.schema.index_of(c).is_err()) {
                return Err(refuse(format!("the bridge {bridge} has no column {lacking}; it has {}", names(&target.schema))));
            }
            of.push((bridge.clone(), target.record_key.clone()));
        }
        if entry.from.is_empty() || entry.key.is_empty() {
            return Err(refuse("it needs a `key` and at least one bridge under `from`".to_owned()));
        }
        if !of.is_empty() {
            let (key, columns) = (entry.key.clone(), entry.columns.clone());
            dimensions.push(Dimension { name: name.clone(), key, columns, bridges: of });
        }
    }
    Ok(dimensions)
}

pub(super) fn refused(path: &Path, table: &str, target: &str, message: String) -> MappingError {
    let place = Place { path: path.to_owned(), table: table.to_owned(), target: target.to_owned(), line: 0 };
    MappingError::Refused { place, message }
}

fn names(schema: &Schema) -> String {
    schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>().join(", ")
}

fn schema_text(schema: &Schema) -> String {
    schema.fields().iter().map(|f| format!("{} {};", f.name(), f.data_type())).collect()
}

/// 16 hexadecimal digits over parts that cannot run into each other.
fn fingerprint(parts: &[&str]) -> String {
    let mut text = String::new();
    for part in parts {
        text.push_str(&part.len().to_string());
        text.push(':');
        text.push_str(part);
    }
    format!("{:016x}", xxhash_rust::xxh3::xxh3_64(text.as_bytes()))
}

fn planning_message(error: &DataFusionError, table: &str) -> String {
    let message = short(error);
    if message.contains("table '") && message.contains("not found") {
        return format!("{message}; a projection of {table} reads {table} alone");
    }
    message
}

fn short(error: &DataFusionError) -> String {
    error.strip_backtrace()
}
