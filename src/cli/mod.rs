//! Commands: arguments in, exit code out. Progress bars and tables are made here and nowhere else; what is to be done is decided in
//! the rooms behind.

mod ask;
mod demo;
mod embed;
mod fetch;
mod progress;
mod reembed;
mod run;
mod sample;
mod show;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use clap::{Args, Parser, Subcommand};

use crate::config::Config;
use crate::sync::OpenError;

/// Done.
const DONE: u8 = 0;
/// A difference was found, or a part failed.
const PARTIAL: u8 = 1;
/// The configuration, the mapping, an argument or an address is wrong.
const BAD_INPUT: u8 = 2;
/// A person has to decide: a gap in the history, a changed projection.
const STOPPED: u8 = 3;

/// Carries each change of Silver Delta tables into ClickHouse tables, a property graph and a vector index, and nothing else.
#[derive(Debug, Parser)]
#[command(name = "distributary", version, max_term_width = 120)]
#[command(after_help = "Exit codes: 0 done, 1 a difference or a partial failure, 2 bad input, 3 stopped for a decision.\n\
Every key of the configuration file is also an environment variable: DISTRIBUTARY_CLICKHOUSE_URL is clickhouse.url.")]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
struct Global {
    /// The configuration file.
    #[arg(long, global = true, env = "DISTRIBUTARY_CONFIG", default_value = "distributary.yaml", value_name = "FILE")]
    config: PathBuf,
    /// Print JSON for machines instead of tables.
    #[arg(long, global = true, env = "DISTRIBUTARY_JSON", value_parser = BoolishValueParser::new())]
    json: bool,
    /// Never reach out for files that are not in the cache.
    #[arg(long, global = true, env = "DISTRIBUTARY_OFFLINE", value_parser = BoolishValueParser::new())]
    offline: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show it all on a small lake: two syncs with a crawl between them, and a question to each engine.
    #[command(after_help = "Examples:\n  distributary demo\n  distributary demo --dir /tmp/try")]
    Demo(demo::DemoArgs),
    /// Fetch the ClickHouse engine and the embedding model into the cache.
    #[command(after_help = "Examples:\n  distributary fetch\n  DISTRIBUTARY_CACHE=/srv/cache distributary fetch")]
    Fetch,
    /// Write a sample lake of films, series and people.
    #[command(
        after_help = "Examples:\n  distributary sample ./silver\n  distributary sample ./big --films 1000000 --seed 7\n  distributary sample ./silver --crawl"
    )]
    Sample(sample::SampleArgs),
    /// Check configuration and mapping without a network: nothing is opened but local tables.
    #[command(after_help = "Examples:\n  distributary check\n  distributary check --config prod.yaml")]
    Check,
    /// Say what a sync would do to each target, and do nothing.
    #[command(after_help = "Examples:\n  distributary plan\n  distributary plan --rebuild --json")]
    Plan(run::SyncArgs),
    /// Bring every target to what the mapping makes of the Silver tables now.
    #[command(
        after_help = "Examples:\n  distributary sync\n  distributary sync --json | jq '.tables[].targets[]'\n  distributary sync --rebuild\n  distributary sync --repair"
    )]
    Sync(run::SyncArgs),
    /// Make a collection anew with another model beside the one in service, and swap it in.
    #[command(
        after_help = "Examples:\n  distributary reembed --collection titles --model hash-32 --plan\n  distributary reembed --collection titles --model all-MiniLM-L6-v2 --gate questions.txt\n  distributary reembed --collection titles --rollback\n  distributary reembed --collection titles --drop-old"
    )]
    Reembed(reembed::ReembedArgs),
    /// Say how far each lane has come, and what is in quarantine.
    #[command(after_help = "Examples:\n  distributary status\n  distributary status --json")]
    Status,
    /// Compare every target with what the mapping makes of Silver; exit 1 when they differ.
    #[command(after_help = "Examples:\n  distributary verify\n  distributary verify --json")]
    Verify,
    /// Ask the column store.
    #[command(
        after_help = "Examples:\n  distributary sql 'SELECT title FROM movie_current LIMIT 3'\n  distributary sql --json 'SELECT count() AS films FROM movie_current'"
    )]
    Sql {
        /// A statement in ClickHouse's SQL.
        sql: String,
    },
    /// Ask the graph.
    #[command(
        after_help = "Examples:\n  distributary cypher 'MATCH (p:Person)-[:ACTED_IN]->(m:Movie) RETURN p.name, m.title LIMIT 3'"
    )]
    Cypher {
        /// A statement in Cypher.
        cypher: String,
    },
    /// Make vectors of texts: one JSON string a line in, one vector a line out, in the same order.
    #[command(
        after_help = "Examples:\n  echo '\"a machine takes the place of a woman\"' | distributary embed --prompt query\n  distributary embed --precision f32 --format npy --stats < texts.jsonl > vectors.npy"
    )]
    Embed(embed::EmbedArgs),
    /// Find the nearest texts of a collection.
    #[command(
        after_help = "Examples:\n  distributary search 'a machine takes the place of a woman'\n  distributary search --collection people --top 3 'pioneer of animation'\n  distributary search --where kind=movie --where year=1927 'city of the future'"
    )]
    Search(ask::SearchArgs),
    /// Print the JSON Schema of mapping files, or of the configuration, for editors.
    #[command(after_help = "Examples:\n  distributary schema > mappings/schema.json\n  distributary schema --of config")]
    Schema {
        /// Which file's schema.
        #[arg(long, default_value = "mapping", value_parser = ["mapping", "config"], env = "DISTRIBUTARY_SCHEMA_OF")]
        of: String,
    },
}

/// Runs the program: parses the arguments, does what they say, answers the exit code.
#[must_use]
pub fn main() -> ExitCode {
    crate::telemetry::start();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { BAD_INPUT } else { DONE });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build() {
        Ok(runtime) => runtime,
        Err(error) => {
            say_error(&error);
            return ExitCode::from(PARTIAL);
        }
    };
    let code = match runtime.block_on(Box::pin(dispatch(&cli))) {
        Ok(code) => code,
        Err(error) => {
            say_error(error.as_ref());
            code_of(error.as_ref())
        }
    };
    runtime.shutdown_background();
    ExitCode::from(code)
}

type Outcome = Result<u8, Box<dyn Error + Send + Sync>>;

async fn dispatch(cli: &Cli) -> Outcome {
    let global = &cli.global;
    match &cli.command {
        Command::Demo(args) => demo::demo(global, args).await,
        Command::Fetch => fetch::fetch(global).await,
        Command::Sample(args) => sample::sample(global, args).await,
        Command::Check => run::check(global).await,
        Command::Plan(args) => run::sync(global, args, true).await,
        Command::Sync(args) => run::sync(global, args, false).await,
        Command::Reembed(args) => reembed::reembed(global, args).await,
        Command::Status => run::status(global).await,
        Command::Verify => run::verify(global).await,
        Command::Sql { sql } => ask::sql(global, sql).await,
        Command::Cypher { cypher } => ask::cypher(global, cypher).await,
        Command::Embed(args) => embed::embed(global, args),
        Command::Search(args) => ask::search(global, args).await,
        Command::Schema { of } => {
            let schema = if of == "config" { crate::config::json_schema() } else { crate::mapping::MappingFile::json_schema() };
            out(&format!("{schema:#}"));
            Ok(DONE)
        }
    }
}

/// The exit code of an error that ended a command.
fn code_of(error: &(dyn Error + Send + Sync + 'static)) -> u8 {
    match error.downcast_ref::<OpenError>() {
        Some(OpenError::Sink(error)) => match error.class {
            crate::sinks::Class::Transient => PARTIAL,
            crate::sinks::Class::Permanent => BAD_INPUT,
            crate::sinks::Class::Stop => STOPPED,
        },
        Some(OpenError::Changes(error)) if error.needs_decision() => STOPPED,
        Some(OpenError::Quarantine(_) | OpenError::Runtime(_) | OpenError::Fetch(_)) => PARTIAL,
        Some(_) => BAD_INPUT,
        None if error.is::<crate::config::ConfigError>() => BAD_INPUT,
        None => PARTIAL,
    }
}

impl Global {
    fn config(&self) -> Result<Config, crate::config::ConfigError> {
        let mut config = Config::read(&self.config)?;
        if self.offline {
            config.files.offline = Some(true);
        }
        Ok(config)
    }
}

/// Writes a line to stdout. A reader that went away is no error.
fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = writeln!(stdout, "{text}");
}

/// Writes a line to stderr.
fn note(text: &str) {
    let mut stderr = std::io::stderr().lock();
    let _ = writeln!(stderr, "{text}");
}

fn say_error(error: &dyn Error) {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}\n  because: {more}");
        }
        cause = error.source();
    }
    note(&format!("error: {text}"));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::SinkError;

    #[test]
    fn the_class_of_a_sinks_error_decides_the_exit_code() {
        for (error, code) in [
            (SinkError::transient("graph", "down"), PARTIAL),
            (SinkError::permanent("graph", "wrong password"), BAD_INPUT),
            (SinkError::stop("graph", "another run has the place"), STOPPED),
        ] {
            assert_eq!(code_of(&OpenError::from(error)), code);
        }
    }
}
