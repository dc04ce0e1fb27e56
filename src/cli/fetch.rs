//! `fetch`: what the embedded engines need, into the cache. The other commands call it themselves.

use std::path::PathBuf;

use super::{DONE, Global, Outcome, note, out, progress};
use crate::config::{ColumnStore, Config, VectorStore};
use crate::embed::{self, Choice};
use crate::fetch::{FetchError, Options, Paths, Wanted, ensure};
use crate::sinks::{Retries, vectors};
use crate::sync::Needed;

/// Fetches everything.
pub(super) async fn fetch(global: &Global) -> Outcome {
    let config = if global.config.exists() { Some(global.config()?) } else { None };
    let mut options = Options::from_env();
    options.offline |= global.offline;
    let places = Places { options, config: config.as_ref() };
    let choice = config.as_ref().map_or_else(Choice::default, |config| config.embed.clone());
    let paths = places.get(true, choice.model())?;
    let others = match &config {
        Some(config) => in_use(config, Needed::ALL, &Retries::default()).await,
        None => Vec::new(),
    };
    for name in others.into_iter().filter(|name| !paths.models.contains_key(name)) {
        places.get(false, Some(&name))?;
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

/// What a command needs, fetched if it is not here. `retries` counts calls to a server that were made again for it.
pub(super) async fn needed(config: &Config, needed: Needed, retries: &Retries) -> Result<Paths, FetchError> {
    needed_with(config, needed, None, retries).await
}

/// [`needed`], and the model of another choice.
pub(super) async fn needed_with(
    config: &Config,
    needed: Needed,
    more: Option<&Choice>,
    retries: &Retries,
) -> Result<Paths, FetchError> {
    let own = config.embed.model().filter(|_| needed.vectors && config.vectors.is_some());
    let places = Places { options: Options::from_env(), config: Some(config) };
    let library = needed.clickhouse && matches!(config.clickhouse, Some(ColumnStore::Chdb(_)));
    let mut paths = places.get(library, own)?;
    if let Some(name) = more.and_then(Choice::model).filter(|name| !paths.models.contains_key(*name)) {
        paths.models.extend(places.get(false, Some(name))?.models);
    }
    for name in in_use(config, needed, retries).await {
        if !paths.models.contains_key(&name) {
            // What cannot be had is said of the collection that needs it.
            let found = places.get(false, Some(&name)).unwrap_or_default();
            paths.models.extend(found.models);
        }
    }
    Ok(paths)
}

/// The models of collections that are there already. A server is asked for them.
async fn in_use(config: &Config, needed: Needed, retries: &Retries) -> Vec<String> {
    let Some(engine) = config.vectors.as_ref().filter(|_| needed.vectors && config.embed != Choice::Off) else {
        return Vec::new();
    };
    // What cannot be read now is said when the sink is opened.
    let models = match engine {
        VectorStore::Edge(path) => vectors::models_at(path),
        VectorStore::Qdrant(options) => retries.call("models", || vectors::models_at_qdrant(options.clone())).await,
        VectorStore::Pinecone(options) => retries.call("models", || vectors::models_at_pinecone(options.clone())).await,
    };
    let models = models.unwrap_or_default();
    models.iter().filter_map(|identity| embed::of_identity(identity)?.0.model().map(str::to_owned)).collect()
}

/// The directory of a model's files, fetched if they are not here.
pub(super) fn model(global: &Global, config: Option<&Config>, name: &str) -> Result<PathBuf, FetchError> {
    let mut options = Options::from_env();
    options.offline |= global.offline;
    let given = options.model_dir.clone();
    let mut options = Places { options, config }.of(Some(name));
    // A command of one model: a directory that the environment gives is that model's.
    options.model_dir = options.model_dir.or(given);
    Ok(get(&Wanted { library: false, model: Some(name.to_owned()) }, &options)?.model_dir.unwrap_or_default())
}

/// Where files are that were given by path.
struct Places<'a> {
    /// What the environment says.
    options: Options,
    config: Option<&'a Config>,
}

impl Places<'_> {
    /// The library where it is wanted, and a model.
    fn get(&self, library: bool, model: Option<&str>) -> Result<Paths, FetchError> {
        get(&Wanted { library, model: model.map(str::to_owned) }, &self.of(model))
    }

    /// The options for a model: a directory that was given without a name is that of the configuration's model, if it has files at all.
    fn of(&self, model: Option<&str>) -> Options {
        let mut options = self.options.clone();
        let Some(config) = self.config else { return options };
        let files = &config.files;
        options.cache = files.cache.clone().or(options.cache);
        options.library = files.libchdb.clone().or(options.library);
        options.offline |= files.offline.unwrap_or(false);
        let named = model.and_then(|name| files.models.get(name)).cloned();
        let unnamed = files.model.clone().or(options.model_dir);
        let is_own = config.embed.model().is_none() || config.embed.model() == model;
        options.model_dir = named.or(unnamed.filter(|_| is_own));
        options
    }
}

fn get(wanted: &Wanted, options: &Options) -> Result<Paths, FetchError> {
    let mut bar = progress::Fetching::new();
    let paths = ensure(wanted, options, &mut |progress| bar.update(&progress));
    if bar.finish() {
        note("");
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(text: &str, environment: Option<&str>, model: &str) -> Option<String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("distributary.yaml");
        let smallest = "source: {root: s}\nmapping: m.yaml\nvectors: {url: \"edge:v\"}\n";
        std::fs::write(&path, format!("{smallest}{text}")).unwrap();
        let config = Config::read_with(&path, |_| None).unwrap();
        let options = Options { model_dir: environment.map(PathBuf::from), ..Options::default() };
        let found = Places { options, config: Some(&config) }.of(Some(model)).model_dir?;
        Some(found.file_name().unwrap().to_string_lossy().into_owned())
    }

    #[test]
    fn a_directory_belongs_to_the_model_that_it_was_given_for() {
        let (own, other) = ("all-MiniLM-L6-v2", "bge-small-en-v1.5");
        let is = |found: Option<String>, wanted: Option<&str>| assert_eq!(found.as_deref(), wanted);
        // The configuration's own by `files.model` or the environment, others by their names.
        is(directory("files: {model: ./mine}", None, own), Some("mine"));
        is(directory("files: {model: ./mine}", None, other), None);
        is(directory("", Some("said"), own), Some("said"));
        is(directory("", Some("said"), other), None);
        let both = "files: {model: ./mine, models: {bge-small-en-v1.5: ./bge}}";
        is(directory(both, None, own), Some("mine"));
        is(directory(both, Some("said"), other), Some("bge"));
        // Fetched beside one by path, and the other way round.
        let beside = "files: {models: {bge-small-en-v1.5: ./bge}}";
        is(directory(beside, None, own), None);
        is(directory(&format!("embed: bge-small-en-v1.5\n{beside}"), None, other), Some("bge"));
        is(directory("embed: bge-small-en-v1.5\nfiles: {model: ./bge}", None, own), None);
        // Without a model of its own, whichever is asked for.
        is(directory("embed: hash\nfiles: {model: ./mine}", None, other), Some("mine"));
    }
}
