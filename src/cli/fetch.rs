//! `fetch`: what the embedded engines need, into the cache. The other commands call it themselves.

use std::path::PathBuf;

use super::{DONE, Global, Outcome, note, out, progress};
use crate::config::{ColumnStore, Config, VectorStore};
use crate::embed::{self, Choice};
use crate::fetch::{FetchError, Options, Paths, Wanted, ensure};
use crate::sinks::vectors;
use crate::sync::Needed;

/// Fetches everything.
pub(super) async fn fetch(global: &Global) -> Outcome {
    let mut options = Options::from_env();
    let mut model = Choice::default().model().map(str::to_owned);
    let mut others = Vec::new();
    if global.config.exists() {
        let config = global.config()?;
        options = with_config(options, &config);
        model = config.embed.model().map(str::to_owned);
        others = in_use(&config, Needed::ALL).await;
    }
    options.offline |= global.offline;
    let paths = get(&Wanted { library: true, model }, &options)?;
    let cached = Options { model_dir: None, ..options };
    for name in others.into_iter().filter(|name| !paths.models.contains_key(name)) {
        get(&Wanted { library: false, model: Some(name) }, &cached)?;
    }
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
pub(super) async fn needed(config: &Config, needed: Needed) -> Result<Paths, FetchError> {
    needed_with(config, needed, None).await
}

/// [`needed`], and the model of another choice.
pub(super) async fn needed_with(config: &Config, needed: Needed, more: Option<&Choice>) -> Result<Paths, FetchError> {
    let own = config.embed.model().filter(|_| needed.vectors && config.vectors.is_some());
    let options = with_config(Options::from_env(), config);
    let library = needed.clickhouse && matches!(config.clickhouse, Some(ColumnStore::Chdb(_)));
    let mut paths = get(&Wanted { library, model: own.map(str::to_owned) }, &options)?;
    // A directory that was given is that of the configuration's model, if it has files at all.
    let others = Options { model_dir: options.model_dir.clone().filter(|_| own.is_none()), ..options };
    if let Some(name) = more.and_then(Choice::model).filter(|name| !paths.models.contains_key(*name)) {
        paths.models.extend(get(&Wanted { library: false, model: Some(name.to_owned()) }, &others)?.models);
    }
    for name in in_use(config, needed).await {
        if !paths.models.contains_key(&name) {
            // What cannot be had is said of the collection that needs it.
            let found = get(&Wanted { library: false, model: Some(name) }, &others).unwrap_or_default();
            paths.models.extend(found.models);
        }
    }
    Ok(paths)
}

/// The models of collections that are there already. A server is asked for them.
async fn in_use(config: &Config, needed: Needed) -> Vec<String> {
    let Some(engine) = config.vectors.as_ref().filter(|_| needed.vectors && config.embed != Choice::Off) else {
        return Vec::new();
    };
    // What cannot be read now is said when the sink is opened.
    let models = match engine {
        VectorStore::Edge(path) => vectors::models_at(path),
        VectorStore::Qdrant(options) => vectors::models_at_qdrant(options.clone()).await,
        VectorStore::Pinecone(_) => Ok(Vec::new()),
    };
    let models = models.unwrap_or_default();
    models.iter().filter_map(|identity| embed::of_identity(identity)?.0.model().map(str::to_owned)).collect()
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
