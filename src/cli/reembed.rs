//! `reembed`: a collection made anew by another model and put in service, the way back, and what is left behind.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;

use super::{BAD_INPUT, DONE, Global, Outcome, PARTIAL, STOPPED, fetch, note, out, progress, run, show};
use crate::embed::{Choice, Precision};
use crate::report::{ReembedReport, ReembedState};
use crate::sinks::Retries;
use crate::sync::{self, Gate, OpenError, Options, Reembed, Setup};

/// Models made for the same purpose have about so much of their nearest ten in common; less is worth a look.
const DEFAULT_MIN_OVERLAP: &str = "0.5";

#[derive(Debug, Args)]
pub(super) struct ReembedArgs {
    /// The collection.
    #[arg(long, env = "DISTRIBUTARY_COLLECTION")]
    collection: String,
    /// The model: a value of `embed`. Without it that of the configuration.
    #[arg(long, env = "DISTRIBUTARY_REEMBED_MODEL", conflicts_with_all = ["rollback", "drop_old", "abandon"])]
    model: Option<Choice>,
    /// What it computes in: f32, bf16 or int8. Without it the configuration's.
    #[arg(long, env = "DISTRIBUTARY_PRECISION")]
    precision: Option<Precision>,
    /// Say what it would take, and do nothing.
    #[arg(long, env = "DISTRIBUTARY_REEMBED_PLAN", value_parser = BoolishValueParser::new(), conflicts_with_all = ["rollback", "drop_old", "abandon"])]
    plan: bool,
    /// Questions, one a line: ask both models before the swap, and refuse it when too few of the ten nearest are the same.
    #[arg(long, env = "DISTRIBUTARY_GATE", value_name = "FILE", conflicts_with_all = ["rollback", "drop_old", "abandon", "plan"])]
    gate: Option<PathBuf>,
    /// The least share of the ten nearest that is the same, in the mean, from 0 to 1.
    #[arg(long, env = "DISTRIBUTARY_MIN_OVERLAP", default_value = DEFAULT_MIN_OVERLAP, value_parser = share)]
    min_overlap: f64,
    /// Put the generation in service again that was before.
    #[arg(long, env = "DISTRIBUTARY_ROLLBACK", value_parser = BoolishValueParser::new(), conflicts_with_all = ["drop_old", "abandon"])]
    rollback: bool,
    /// Delete the generation that was in service before.
    #[arg(long, env = "DISTRIBUTARY_DROP_OLD", value_parser = BoolishValueParser::new(), conflicts_with = "abandon")]
    drop_old: bool,
    /// Delete the generation that is being built.
    #[arg(long, env = "DISTRIBUTARY_ABANDON", value_parser = BoolishValueParser::new())]
    abandon: bool,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err(format!("{text} is not from 0 to 1")) }
}

pub(super) async fn reembed(global: &Global, args: &ReembedArgs) -> Outcome {
    let gate = match args.gate.as_deref().map(|path| questions(path, args.min_overlap)).transpose() {
        Ok(gate) => gate,
        Err(message) => {
            note(&format!("error: {message}"));
            return Ok(BAD_INPUT);
        }
    };
    let config = global.config()?;
    let choice = args.model.clone().unwrap_or_else(|| config.embed.clone());
    let precision = args.precision.unwrap_or(config.precision);
    let needed = sync::Needed { clickhouse: false, graph: false, vectors: true };
    let files = fetch::needed_with(&config, needed, Some(&choice), &Retries::default()).await.map_err(OpenError::from)?;
    let setup = Setup::open_giving_way(config, &files).await?;
    let done = work(global, args, &setup, Reembed { collection: args.collection.clone(), choice, precision, gate }).await;
    let closed = setup.close().await;
    let code = done?;
    closed.map_err(OpenError::from)?;
    Ok(code)
}

async fn work(global: &Global, args: &ReembedArgs, setup: &Setup, what: Reembed) -> Outcome {
    let progress: Arc<dyn sync::Progress> = Arc::new(progress::Syncing::new());
    let options = Options { cancel: run::told(), progress: Some(progress), ..Options::default() };
    if args.plan {
        let foresight = sync::foresee(setup, &what, &options).await?;
        drop(options);
        match global.json {
            true => out(&serde_json::to_string(&foresight)?),
            false => show::foresight(&foresight),
        }
        return Ok(DONE);
    }
    let report = if args.rollback {
        sync::rollback(setup, &what.collection, &options).await?
    } else if args.drop_old {
        sync::drop_old(setup, &what.collection).await?
    } else if args.abandon {
        sync::abandon(setup, &what.collection).await?
    } else {
        sync::reembed(setup, &what, &options).await?
    };
    drop(options);
    match global.json {
        true => out(&serde_json::to_string(&report)?),
        false => show::reembedded(&report),
    }
    Ok(exit_code(&report))
}

fn exit_code(report: &ReembedReport) -> u8 {
    match report.state {
        ReembedState::Serving | ReembedState::Swapped | ReembedState::Dropped => DONE,
        ReembedState::Interrupted | ReembedState::Failed => PARTIAL,
        ReembedState::Refused | ReembedState::Stopped => STOPPED,
    }
}

fn questions(path: &Path, min_overlap: f64) -> Result<Gate, String> {
    let text = std::fs::read_to_string(path).map_err(|e| format!("cannot read the questions in {}: {e}", path.display()))?;
    let queries: Vec<String> = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if queries.is_empty() {
        return Err(format!("{} has no questions: write one a line", path.display()));
    }
    Ok(Gate { queries, min_overlap })
}
