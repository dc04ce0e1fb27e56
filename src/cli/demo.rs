//! `demo`: everything once, on a small lake, with the real engines.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;

use super::ask::{self, SearchArgs};
use super::{BAD_INPUT, DONE, Global, Outcome, PARTIAL, fetch, note, out, progress, run, sample, show};
use crate::config::Config;
use crate::report::SyncReport;
use crate::sample::{crawl, write_lake};
use crate::sinks::{Query, Retries, SinkKind};
use crate::sync::{self, Needed, OpenError, Options, Setup};

#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Where to put the lake, the engines' data and a configuration. An earlier demo there is replaced.
    #[arg(long, default_value = "demo", env = "DISTRIBUTARY_DEMO_DIR", value_name = "DIR")]
    dir: PathBuf,
}

const MAPPING: &str = include_str!("../../mappings/tmdb.yaml");
const CONFIG: &str = "# Made by `distributary demo`. Everything else has a default.
source: {root: ./silver}
mapping: mappings/tmdb.yaml
clickhouse: {url: \"chdb:./data/clickhouse\"}
graph: {url: \"grafeo:./data/graph\"}
vectors: {url: \"edge:./data/vectors\"}
";

const SQL: &str = "SELECT job, count() AS credits, uniqExact(movie_id) AS films FROM movie_crew_current \
                   GROUP BY job ORDER BY credits DESC, job LIMIT 5";
const CYPHER: &str = "MATCH (p:Person)-[:WORKED_ON {job: 'Director'}]->(m:Movie)<-[a:ACTED_IN]-(p) \
                      RETURN p.name AS name, m.title AS title, a.character AS character ORDER BY name, title LIMIT 5";
const WORDS: &str = "a machine in human shape deceives the workers of a great city";

pub(super) async fn demo(global: &Global, args: &DemoArgs) -> Outcome {
    let began = Instant::now();
    let Some(path) = lay_out(&args.dir)? else { return Ok(BAD_INPUT) };
    let mut config = Config::read(&path).map_err(OpenError::from)?;
    config.files.offline = Some(global.offline);
    let files = fetch::needed(&config, Needed::ALL, &Retries::default()).await.map_err(OpenError::from)?;
    let silver = args.dir.join("silver");

    title("1. A small lake of Silver tables, their change feeds on");
    sample::say(global, &write_lake(&silver).await?)?;
    title("2. The first sync fills the three engines");
    let setup = Setup::open(config, &files, Needed::ALL).await?;
    let mut code = one_sync(global, &setup).await?;
    title("3. A crawl passes over the lake");
    sample::say(global, &crawl(&silver).await?)?;
    title("4. The second sync carries what changed, and nothing else");
    code = code.max(one_sync(global, &setup).await?);
    title("5. The third sync has nothing to do");
    let last = run_sync(&setup).await?;
    show_report(global, &last)?;
    code = code.max(run::exit_code(&last)).max(if last.operations() == 0 { DONE } else { PARTIAL });
    title("6. Every target is compared with what the mapping makes of Silver");
    let verified = sync::verify(&setup).await?;
    if global.json {
        out(&serde_json::to_string(&verified)?);
    } else {
        show::verify(&verified);
    }
    code = code.max(if verified.targets.iter().all(crate::report::VerifiedTarget::ok) { DONE } else { PARTIAL });

    question(global, &format!("7. SQL: {SQL}"), ask::one(&setup, SinkKind::Clickhouse, &Query::Text(SQL.to_owned())).await)?;
    question(global, &format!("8. Cypher: {CYPHER}"), ask::one(&setup, SinkKind::Graph, &Query::Text(CYPHER.to_owned())).await)?;
    question(global, &format!("9. Search: {WORDS}"), ask::nearest(&setup, &SearchArgs::of(WORDS, 3)).await)?;
    setup.close().await.map_err(OpenError::from)?;
    note(&format!("\nDone in {:.1} s. Everything is in {}; go on with:", began.elapsed().as_secs_f64(), args.dir.display()));
    note(&format!("  distributary --config {} sql 'SELECT title, release_date FROM movie_current LIMIT 3'", path.display()));
    Ok(code)
}

fn title(text: &str) {
    out(&format!("\n{text}\n"));
}

async fn one_sync(global: &Global, setup: &Setup) -> Result<u8, Box<dyn std::error::Error + Send + Sync>> {
    let report = run_sync(setup).await?;
    show_report(global, &report)?;
    Ok(run::exit_code(&report))
}

async fn run_sync(setup: &Setup) -> Result<SyncReport, OpenError> {
    let options = Options { progress: Some(Arc::new(progress::Syncing::new())), ..Options::default() };
    sync::sync(setup, &options).await
}

fn show_report(global: &Global, report: &SyncReport) -> Result<(), serde_json::Error> {
    if global.json {
        out(&serde_json::to_string(report)?);
    } else {
        show::sync(report, false);
    }
    Ok(())
}

fn question(
    global: &Global,
    heading: &str,
    rows: Result<Vec<serde_json::Map<String, serde_json::Value>>, String>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    title(heading);
    let rows = rows?;
    if global.json {
        out(&serde_json::to_string(&rows)?);
    } else {
        show::answers(&rows);
    }
    Ok(())
}

/// Writes configuration and mapping into the directory, in place of an earlier demo and of nothing else.
fn lay_out(dir: &Path) -> Result<Option<PathBuf>, std::io::Error> {
    let path = dir.join("distributary.yaml");
    let empty = !dir.exists() || std::fs::read_dir(dir)?.next().is_none();
    let ours = std::fs::read_to_string(&path).is_ok_and(|text| text == CONFIG);
    if !empty && !ours {
        note(&format!("error: {} is not empty and no earlier demo: name another directory with --dir", dir.display()));
        return Ok(None);
    }
    for part in ["silver", "data"] {
        let part = dir.join(part);
        if part.exists() {
            std::fs::remove_dir_all(part)?;
        }
    }
    std::fs::create_dir_all(dir.join("mappings"))?;
    std::fs::write(dir.join("mappings/tmdb.yaml"), MAPPING)?;
    std::fs::write(&path, CONFIG)?;
    Ok(Some(path))
}
