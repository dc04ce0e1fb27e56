//! `fetch`: what the embedded engines need, into the cache. The other commands call it themselves.

use std::path::PathBuf;

use super::{DONE, Global, Outcome, note, out, progress};
use crate::config::Config;
use crate::embed::Choice;
use crate::fetch::{FetchError, Options, Paths, Wanted, ensure};
use crate::sync::Needed;

/// Fetches everything.
pub(super) fn fetch(global: &Global) -> Outcome {
    let mut options = Options::from_env();
    let mut model = Choice::default().model().map(str::to_owned);
    if global.config.exists() {
        let config = global.config()?;
        options = with_config(options, &config);
        model = config.embed.model().map(str::to_owned);
    }
    options.offline |= global.offline;
    let paths = get(&Wanted { library: true, model }, &options)?;
    if global.json {
        let path = |p: &Option<std::path::PathBuf>| p.as_ref().map(|p| p.display().to_string());
        out(&serde_json::json!({"libchdb": path(&paths.library), "model": path(&paths.model_dir)}).to_string());
    } else {
        for path in [&paths.library, &paths.model_dir].into_iter().flatten() {
            out(&path.display().to_string());
        }
    }
    Ok(DONE)
}

/// What a command needs, fetched if it is not here.
pub(super) fn needed(config: &Config, needed: Needed) -> Result<Paths, FetchError> {
    let wanted = Wanted {
        library: needed.clickhouse && config.clickhouse.is_some(),
        model: config.embed.model().filter(|_| needed.vectors && config.vectors.is_some()).map(str::to_owned),
    };
    get(&wanted, &with_config(Options::from_env(), config))
}

/// The directory of a model's files, fetched if they are not here.
pub(super) fn model(global: &Global, config: Option<&Config>, name: &str) -> Result<PathBuf, FetchError> {
    let mut options = Options::from_env();
    if let Some(config) = config {
        options = with_config(options, config);
    }
    options.offline |= global.offline;
    Ok(get(&Wanted { library: false, model: Some(name.to_owned()) }, &options)?.model_dir.unwrap_or_default())
}

fn with_config(mut options: Options, config: &Config) -> Options {
    let files = &config.files;
    options.cache = files.cache.clone().or(options.cache);
    options.library = files.libchdb.clone().or(options.library);
    options.model_dir = files.model.clone().or(options.model_dir);
    options.offline = files.offline.unwrap_or(options.offline);
    options
}

fn get(wanted: &Wanted, options: &Options) -> Result<Paths, FetchError> {
    let mut bar = progress::Fetching::new();
    let paths = ensure(wanted, options, &mut |progress| bar.update(&progress));
    if bar.finish() {
        note("");
    }
    paths
}
