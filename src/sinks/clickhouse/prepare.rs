//! Makes tables and views what the targets need, or says why a person has to decide. Adds columns, never removes or changes any.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::NAME;
use super::client::Transport;
use super::encode::{
    CHECKPOINTS, CURRENT, check, columns, create_checkpoints, create_table, create_view, current_view, dimension_view, literal,
    quote, sort_key,
};
use super::site::{Site, replaces_rows};
use crate::mapping::target::{Dimension, Target};
use crate::sinks::SinkError;

/// What is there under one name.
#[derive(Debug, Deserialize)]
struct Found {
    name: String,
    engine: String,
    engine_full: String,
    sorting_key: String,
    comment: String,
}

/// A column that is there.
#[derive(Debug, Deserialize)]
struct Column {
    table: String,
    name: String,
    r#type: String,
}

/// Everything that `prepare` looks at, read once.
struct Layout {
    tables: HashMap<String, Found>,
    columns: HashMap<String, HashMap<String, String>>,
}

/// See [`crate::sinks::Sink::prepare`].
pub(super) async fn prepare(
    engine: &dyn Transport,
    site: &Site,
    targets: &[Arc<Target>],
    dimensions: &[Dimension],
) -> Result<(), SinkError> {
    let database = &site.database;
    names(targets, dimensions)?;
    run(engine, create_checkpoints(site), "making the table of checkpoints").await?;
    let layout = read(engine, database).await?;
    sync_writes(engine, site, layout.tables.get(CHECKPOINTS)).await?;
    for target in targets {
        match layout.tables.get(&target.name) {
            None => {
                let doing = format!("making the table {}", target.name);
                run(engine, create_table(site, target)?, &doing).await?;
            }
            Some(found) => {
                let empty = HashMap::new();
                let there = layout.columns.get(&target.name).unwrap_or(&empty);
                extend(engine, site, target, found, there).await?;
                sync_writes(engine, site, Some(found)).await?;
            }
        }
        let name = format!("{}{CURRENT}", target.name);
        view(engine, site, &layout, &name, &current_view(database, target)).await?;
    }
    for dimension in dimensions {
        let query = dimension_view(database, dimension, comparable(dimension, targets));
        view(engine, site, &layout, &dimension.name, &query).await?;
    }
    Ok(())
}

/// Checks each target, and that no two things would get one name.
fn names(targets: &[Arc<Target>], dimensions: &[Dimension]) -> Result<(), SinkError> {
    let mut taken = HashSet::new();
    for target in targets {
        check(target)?;
    }
    let tables = targets.iter().flat_map(|target| [target.name.clone(), format!("{}{CURRENT}", target.name)]);
    for name in tables.chain(dimensions.iter().map(|dimension| dimension.name.clone())) {
        if !taken.insert(name.clone()) {
            return Err(SinkError::stop(NAME, format!("two tables or views would be called {name}: rename one in the mapping")));
        }
    }
    match dimensions.iter().find(|dimension| dimension.bridges.is_empty() || dimension.key.is_empty()) {
        Some(dimension) => {
            let message = format!("the dimension {} needs a key and at least one bridge", dimension.name);
            Err(SinkError::stop(NAME, message))
        }
        None => Ok(()),
    }
}

async fn run(engine: &dyn Transport, sql: String, doing: &str) -> Result<(), SinkError> {
    engine.query(sql, "Null").await.map(|_| ()).map_err(|error| error.during(doing))
}

/// Rows of a statement as values.
async fn select<T: DeserializeOwned>(engine: &dyn Transport, sql: String, doing: &str) -> Result<Vec<T>, SinkError> {
    let bytes = engine.query(sql, "JSONEachRow").await.map_err(|error| error.during(doing))?;
    serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| SinkError::permanent(NAME, format!("{doing}: the engine's answer cannot be read")).because(error))
}

async fn read(engine: &dyn Transport, database: &str) -> Result<Layout, SinkError> {
    let doing = "reading what tables there are";
    let here = literal(database);
    let sql = format!("SELECT name, engine, engine_full, sorting_key, comment FROM system.tables WHERE database = {here}");
    let tables: Vec<Found> = select(engine, sql, doing).await?;
    let sql = format!("SELECT table, name, type FROM system.columns WHERE database = {here}");
    let mut columns: HashMap<String, HashMap<String, String>> = HashMap::new();
    for column in select::<Column>(engine, sql, doing).await? {
        columns.entry(column.table).or_default().insert(column.name, column.r#type);
    }
    Ok(Layout { tables: tables.into_iter().map(|found| (found.name.clone(), found)).collect(), columns })
}

/// Adds what a table lacks, or stops where it cannot become what the target needs.
async fn extend(
    engine: &dyn Transport,
    site: &Site,
    target: &Target,
    found: &Found,
    there: &HashMap<String, String>,
) -> Result<(), SinkError> {
    let (name, database) = (&target.name, &site.database);
    let stop = |what: String| {
        Err(SinkError::stop(
            NAME,
            format!(
                "{database}.{name}: {what}. Nothing was changed. Either let the projection make what is there, or keep what is \
                 there under another name (RENAME TABLE {database}.{name} TO {database}.{name}_before) and rebuild the lane"
            ),
        ))
    };
    if !replaces_rows(&found.engine, &found.engine_full) {
        return stop(format!("what is there is {} and not a table of this sink", found.engine));
    }
    // The engine writes a key of one column with or without parentheses, and some names in backticks.
    let (is, needed) = (found.sorting_key.replace(['`', '(', ')'], ""), sort_key(target).join(", "));
    if is != needed {
        return stop(format!("the table is sorted and identified by ({is}), the projection's key needs ({needed})"));
    }
    let mut added = Vec::new();
    for (column, kind) in canonical(engine, target).await? {
        match there.get(&column) {
            None => added.push(format!("ADD COLUMN IF NOT EXISTS {} {kind}", quote(&column))),
            Some(is) if *is == kind => {}
            Some(is) => {
                return stop(format!("the column {column} is {is}, the projection makes {kind}"));
            }
        }
    }
    if added.is_empty() {
        return Ok(());
    }
    let sql = format!("ALTER TABLE {} {}", site.made(name), added.join(", "));
    run(engine, sql, &format!("adding columns to {name}")).await
}

/// The target's columns with their types in the engine's own spelling.
async fn canonical(engine: &dyn Transport, target: &Target) -> Result<Vec<(String, String)>, SinkError> {
    #[derive(Deserialize)]
    struct Described {
        name: String,
        r#type: String,
    }
    let columns: Vec<String> = columns(target)?.iter().map(|(name, kind)| format!("{} {kind}", quote(name))).collect();
    let sql = format!("DESCRIBE TABLE null({})", literal(&columns.join(", ")));
    let described: Vec<Described> = select(engine, sql, "asking for the names of types").await?;
    Ok(described.into_iter().map(|column| (column.name, column.r#type)).collect())
}

/// Turns durable writes on for a table that was made without them, where they are wanted.
async fn sync_writes(engine: &dyn Transport, site: &Site, found: Option<&Found>) -> Result<(), SinkError> {
    let wanted = found.filter(|found| site.fsync && !found.engine_full.contains("fsync_after_insert = 1"));
    let Some(found) = wanted else {
        return Ok(());
    };
    let sql = format!("ALTER TABLE {} MODIFY SETTING fsync_after_insert = 1, fsync_part_directory = 1", site.made(&found.name));
    run(engine, sql, &format!("making writes to {} durable", found.name)).await
}

/// Makes or replaces a view whose query is not the one that is there.
async fn view(engine: &dyn Transport, site: &Site, layout: &Layout, name: &str, query: &str) -> Result<(), SinkError> {
    let database = &site.database;
    match layout.tables.get(name) {
        Some(found) if found.engine != "View" => Err(SinkError::stop(
            NAME,
            format!("{database}.{name} is a table, and a view of that name is needed: rename one of them"),
        )),
        Some(found) if found.comment == query => Ok(()),
        _ => run(engine, create_view(site, name, query), &format!("making the view {name}")).await,
    }
}

/// Whether the Silver keys of a dimension's bridges can be compared with each other: as many columns, of the same types.
fn comparable(dimension: &Dimension, targets: &[Arc<Target>]) -> bool {
    let mut kinds = dimension.bridges.iter().map(|(table, silver)| {
        let target = targets.iter().find(|target| target.name == *table)?;
        silver
            .iter()
            .map(|name| target.schema.field_with_name(name).ok().map(|field| field.data_type().clone()))
            .collect::<Option<Vec<_>>>()
    });
    let Some(Some(first)) = kinds.next() else {
        return dimension.bridges.len() == 1;
    };
    kinds.all(|kind| kind.as_ref() == Some(&first))
}
