//! `sample`: lakes to try things on.

use std::path::PathBuf;

use clap::Args;

use super::{DONE, Global, Outcome, out};
use crate::sample::{Commit, GenerateOptions, crawl, generate, mend, touch, write_lake};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").args(["films", "crawl", "mend", "touch"]))]
pub(super) struct SampleArgs {
    /// The directory of the lake.
    dir: PathBuf,
    /// Generate so many films, with people and series in proportion, instead of writing the catalogue.
    #[arg(long, env = "DISTRIBUTARY_FILMS")]
    films: Option<u64>,
    /// What the generator starts from; the same seed gives the same lake.
    #[arg(long, default_value_t = 1, env = "DISTRIBUTARY_SEED")]
    seed: u64,
    /// Change the catalogue's lake in this directory as a crawl would.
    #[arg(long)]
    crawl: bool,
    /// Mend the broken record that the crawl left.
    #[arg(long)]
    mend: bool,
    /// Change this fraction of the generated films in this directory, in one commit.
    #[arg(long, value_name = "FRACTION")]
    touch: Option<f64>,
}

pub(super) async fn sample(global: &Global, args: &SampleArgs) -> Outcome {
    let commits: Vec<Commit> = match (args.films, args.touch) {
        (Some(films), _) => {
            let options = GenerateOptions::new(films, args.seed);
            generate(&args.dir, &options, |_| {}).await?
        }
        (_, Some(fraction)) => vec![touch(&args.dir, fraction, args.seed).await?],
        _ if args.crawl => crawl(&args.dir).await?,
        _ if args.mend => vec![mend(&args.dir).await?],
        _ => write_lake(&args.dir).await?,
    };
    say(global, &commits)?;
    Ok(DONE)
}

/// Shows what was done to a lake.
pub(super) fn say(global: &Global, commits: &[Commit]) -> Result<(), serde_json::Error> {
    if global.json {
        out(&serde_json::to_string(commits)?);
        return Ok(());
    }
    for commit in commits {
        out(&format!("  {} version {}: {}", commit.table, commit.version, commit.what));
    }
    Ok(())
}
