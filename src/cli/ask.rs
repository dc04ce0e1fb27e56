//! `sql`, `cypher`, `search`: a question to one engine.

use clap::Args;
use serde_json::{Map, Value};

use super::{BAD_INPUT, DONE, Global, Outcome, note, out, run, show};
use crate::sinks::{Query, SinkKind};
use crate::sync::{self, Needed, OpenError, Setup};

#[derive(Debug, Args)]
pub(super) struct SearchArgs {
    /// What to look for, in words.
    text: String,
    /// The collection.
    #[arg(long, default_value = "titles", env = "DISTRIBUTARY_COLLECTION")]
    collection: String,
    /// A condition on the payload; several must all hold. A list matches when it contains the value.
    #[arg(long = "where", value_name = "KEY=VALUE", value_parser = condition)]
    conditions: Vec<(String, String)>,
    /// How many answers.
    #[arg(long, default_value_t = 10, env = "DISTRIBUTARY_TOP")]
    top: usize,
}

fn condition(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no KEY=VALUE"))?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

const NOTHING: Needed = Needed { clickhouse: false, graph: false, vectors: false };

pub(super) async fn sql(global: &Global, sql: &str) -> Outcome {
    ask(global, Needed { clickhouse: true, ..NOTHING }, SinkKind::Clickhouse, Query::Text(sql.to_owned())).await
}

pub(super) async fn cypher(global: &Global, cypher: &str) -> Outcome {
    ask(global, Needed { graph: true, ..NOTHING }, SinkKind::Graph, Query::Text(cypher.to_owned())).await
}

async fn ask(global: &Global, needed: Needed, kind: SinkKind, query: Query) -> Outcome {
    let setup = run::open(global, needed).await?;
    let rows = one(&setup, kind, &query).await;
    setup.close().await.map_err(OpenError::from)?;
    answer(global, rows)
}

pub(super) async fn search(global: &Global, args: &SearchArgs) -> Outcome {
    let setup = run::open(global, Needed { vectors: true, ..NOTHING }).await?;
    let rows = nearest(&setup, args).await;
    setup.close().await.map_err(OpenError::from)?;
    answer(global, rows)
}

/// Finds what is near to the words, by the model of the collection.
pub(super) async fn nearest(setup: &Setup, args: &SearchArgs) -> Result<Vec<Map<String, Value>>, String> {
    let (collection, text) = (args.collection.clone(), args.text.clone());
    let question = sync::Question { collection, text, conditions: args.conditions.clone(), top: args.top };
    sync::search(setup, &question).await.map(|answers| answers.rows).map_err(|e| e.to_string())
}

/// Asks the sink of a kind.
pub(super) async fn one(setup: &Setup, kind: SinkKind, query: &Query) -> Result<Vec<Map<String, Value>>, String> {
    let sink = setup.sinks.iter().find(|sink| sink.kind() == kind);
    let sink = sink.ok_or_else(|| format!("`{}` is not configured in {}", kind.name(), setup.config.path.display()))?;
    sink.query(query).await.map_err(|e| e.to_string())
}

impl SearchArgs {
    pub(super) fn of(text: &str, top: usize) -> Self {
        Self { text: text.to_owned(), collection: "titles".to_owned(), conditions: Vec::new(), top }
    }
}

fn answer(global: &Global, rows: Result<Vec<Map<String, Value>>, String>) -> Outcome {
    match rows {
        Ok(rows) if global.json => out(&serde_json::to_string(&rows)?),
        Ok(rows) => show::answers(&rows),
        Err(message) => {
            note(&format!("error: {message}"));
            return Ok(BAD_INPUT);
        }
    }
    Ok(DONE)
}
