//! `check`, `plan`, `sync`, `status`, `verify`: open what is configured, run, show the report.

use std::sync::Arc;

use clap::Args;
use clap::builder::BoolishValueParser;
use tokio_util::sync::CancellationToken;

use super::{DONE, Global, Outcome, PARTIAL, STOPPED, fetch, note, out, progress, show};
use crate::report::SyncReport;
use crate::sinks::Retries;
use crate::sync::{self, Needed, OpenError, Options, Setup};

#[derive(Debug, Args)]
pub(super) struct SyncArgs {
    /// Fill lanes anew whose projection or model changed since they were filled. Without it such a lane stops.
    #[arg(long, env = "DISTRIBUTARY_REBUILD", value_parser = BoolishValueParser::new())]
    rebuild: bool,
    /// Compare every row with what the sinks hold, whatever the checkpoints say, and write the difference: for a sink that lost
    /// something, or was changed by somebody else.
    #[arg(long, env = "DISTRIBUTARY_REPAIR", value_parser = BoolishValueParser::new())]
    repair: bool,
}

/// Opens what the configuration names, fetching what it needs.
pub(super) async fn open(global: &Global, needed: Needed) -> Result<Setup, Box<dyn std::error::Error + Send + Sync>> {
    let config = global.config()?;
    let files = fetch::needed(&config, needed, &Retries::default()).await.map_err(OpenError::from)?;
    Ok(Setup::open(config, &files, needed).await?)
}

/// Opens everything, or says what cannot be opened.
async fn whole(global: &Global) -> Result<Setup, Box<dyn std::error::Error + Send + Sync>> {
    let mut setup = open(global, Needed::ALL).await?;
    match setup.unopened.pop() {
        Some((_, error)) => Err(OpenError::from(error).into()),
        None => Ok(setup),
    }
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
    let config = global.config()?;
    let before = Retries::default();
    let files = fetch::needed(&config, Needed::ALL, &before).await.map_err(OpenError::from)?;
    let (setup, opened) = Setup::open_with_tables(config, &files, !dry_run).await?;
    let cancel = told();
    let progress: Option<Arc<dyn sync::Progress>> = Some(Arc::new(progress::Syncing::new()));
    let options = Options { dry_run, rebuild: args.rebuild, repair: args.repair, cancel, progress };
    let report = sync::sync_opened(&setup, opened, &options).await;
    drop(options);
    let closed = setup.close().await;
    let mut report = report?;
    report.retries += before.take() + setup.retries.take();
    closed.map_err(OpenError::from)?;
    if global.json {
        out(&serde_json::to_string(&report)?);
    } else {
        show::sync(&report, dry_run);
    }
    Ok(exit_code(&report))
}

/// Cancelled when the process is told to stop.
pub(super) fn told() -> CancellationToken {
    let cancel = CancellationToken::new();
    let on_signal = cancel.clone();
    tokio::spawn(async move {
        if told_to_stop().await.is_ok() {
            note("stopping: the batch under way is finished first");
            on_signal.cancel();
        }
    });
    cancel
}

/// Returns at Ctrl-C, and at the signal by which schedulers end a process.
async fn told_to_stop() -> std::io::Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
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
    Ok(if setup.unopened.is_empty() { DONE } else { PARTIAL })
}

pub(super) async fn verify(global: &Global) -> Outcome {
    let setup = whole(global).await?;
    let report = sync::verify(&setup).await?;
    setup.close().await.map_err(OpenError::from)?;
    if global.json {
        out(&serde_json::to_string(&report)?);
    } else {
        show::verify(&report);
    }
    Ok(if report.targets.iter().all(crate::report::VerifiedTarget::ok) { DONE } else { PARTIAL })
}
