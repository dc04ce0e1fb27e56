//! `check`, `plan`, `sync`, `status`, `verify`: open what is configured, run, show the report.

use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::{DONE, Global, Outcome, PARTIAL, STOPPED, fetch, note, out, progress, show};
use crate::report::SyncReport;
use crate::sync::{self, Needed, OpenError, Options, Setup};

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Fill lanes anew whose projection or model changed since they were filled. Without it such a lane stops.
    #[arg(long, env = "DISTRIBUTARY_REBUILD")]
    rebuild: bool,
}

/// Opens what the configuration names, fetching what it needs.
pub(super) async fn open(global: &Global, needed: Needed) -> Result<Setup, Box<dyn std::error::Error + Send + Sync>> {
    let config = global.config()?;
    let files = fetch::needed(&config, needed).map_err(OpenError::from)?;
    Ok(Setup::open(config, &files, needed).await?)
}

pub(super) async fn check(global: &Global) -> Outcome {
    let config = global.config()?;
    let notes = Setup::check(&config).await?;
    if global.json {
        out(&serde_json::json!({"ok": true, "not_checked": notes}).to_string());
    } else {
        notes.iter().for_each(|line| out(&format!("note: {line}")));
        out("configuration and mapping are in order");
    }
    Ok(DONE)
}

pub(super) async fn sync(global: &Global, args: &SyncArgs, dry_run: bool) -> Outcome {
    let setup = open(global, Needed::ALL).await?;
    let cancel = CancellationToken::new();
    let on_signal = cancel.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            note("stopping: the batch under way is finished first");
            on_signal.cancel();
        }
    });
    let options = Options { dry_run, rebuild: args.rebuild, cancel, progress: Some(Arc::new(progress::Syncing::new())) };
    let report = sync::sync(&setup, &options).await;
    drop(options);
    let closed = setup.close().await;
    let report = report?;
    closed.map_err(OpenError::from)?;
    if global.json {
        out(&serde_json::to_string(&report)?);
    } else {
        show::sync(&report, dry_run);
    }
    Ok(exit_code(&report))
}

/// The exit code that a report deserves.
pub(super) fn exit_code(report: &SyncReport) -> u8 {
    match (report.stopped(), report.ok()) {
        (true, _) => STOPPED,
        (false, false) => PARTIAL,
        (false, true) => DONE,
    }
}

pub(super) async fn status(global: &Global) -> Outcome {
    let setup = open(global, Needed::ALL).await?;
    let report = sync::status(&setup).await?;
    setup.close().await.map_err(OpenError::from)?;
    if global.json {
        out(&serde_json::to_string(&report)?);
    } else {
        show::status(&report);
    }
    Ok(DONE)
}

pub(super) async fn verify(global: &Global) -> Outcome {
    let setup = open(global, Needed::ALL).await?;
    let report = sync::verify(&setup).await?;
    setup.close().await.map_err(OpenError::from)?;
    if global.json {
        out(&serde_json::to_string(&report)?);
    } else {
        show::verify(&report);
    }
    Ok(if report.targets.iter().all(crate::report::VerifiedTarget::ok) { DONE } else { PARTIAL })
}
