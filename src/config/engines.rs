//! Which engine each sink is: one address decides between the engine in the process and a server, the keys beside it say how the
//! server is reached. Nothing is opened here; files that hold secrets are read.

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use url::Url;

use super::shown;
use crate::secret::Secret;
use crate::sinks::{clickhouse, graph, vectors};

/// The column store.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClickhouseEntry {
    /// Which engine and where: `chdb:PATH`, `http://HOST:8123`, `https://HOST:8443`.
    pub url: String,
    /// The server's database.
    pub database: Option<String>,
    /// Who asks the server.
    pub user: Option<String>,
    /// The user's password: in the environment, not in the file.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Whether rows are compressed on their way to the server and back (LZ4).
    pub compression: Option<bool>,
    /// Statements that make tables and views run `ON CLUSTER` with this name.
    pub cluster: Option<String>,
    /// The table engine in place of `ReplacingMergeTree(_version, _deleted)`; `{table}` stands for the table's name, as in
    /// `ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/{table}', '{replica}', _version, _deleted)`.
    pub engine: Option<String>,
}

/// The graph.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GraphEntry {
    /// Which engine and where: `grafeo:PATH`, `bolt://HOST:7687`, `neo4j://HOST:7687`; with TLS `bolt+s://…`, `neo4j+s://…`.
    pub url: String,
    /// The server's database; the user's home database when absent.
    pub database: Option<String>,
    /// Who asks the server.
    pub user: Option<String>,
    /// The user's password: in the environment, not in the file.
    pub password: Option<Secret>,
    /// A file that holds the password.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
}

/// The vector index.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VectorsEntry {
    /// Which engine and where: `edge:PATH`, `qdrant://HOST:6334` (with TLS `qdrant+s://…`), `pinecone://INDEX`.
    pub url: String,
    /// The server's key: in the environment, not in the file.
    pub api_key: Option<Secret>,
    /// A file that holds the key.
    pub api_key_file: Option<PathBuf>,
    /// Certificates (PEM) that the server's is to be signed by, instead of the usual authorities.
    pub ca_file: Option<PathBuf>,
    /// Qdrant: whether new collections keep vectors and payloads on disk.
    pub on_disk: Option<bool>,
    /// Qdrant: how vectors of new collections are quantized: `scalar` or `binary`.
    pub quantization: Option<String>,
    /// Pinecone: the cloud of a new index, `aws` when absent.
    pub cloud: Option<String>,
    /// Pinecone: the region of a new index, `us-east-1` when absent.
    pub region: Option<String>,
    /// Pinecone: the address of the control plane, when it is not the usual one.
    pub controller: Option<String>,
}

/// The column store's engine.
#[expect(clippy::large_enum_variant, reason = "a configuration has one")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnStore {
    /// ClickHouse in the process.
    Chdb(PathBuf),
    /// A ClickHouse server.
    Server(clickhouse::ServerOptions),
}

/// The graph's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GraphStore {
    /// Grafeo in the process.
    Grafeo(PathBuf),
    /// A Neo4j server.
    Server(graph::ServerOptions),
}

/// The vector index's engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VectorStore {
    /// Qdrant Edge in the process.
    Edge(PathBuf),
    /// A Qdrant server.
    Qdrant(vectors::QdrantOptions),
    /// An index of Pinecone.
    Pinecone(vectors::PineconeOptions),
}

impl ClickhouseEntry {
    pub(super) fn engine(self, base: &Path) -> Result<ColumnStore, String> {
        const KEY: &str = "clickhouse";
        if let Some(path) = embedded(&self.url, "chdb", base) {
            only_url(KEY, &[("database", self.database.is_some()), ("user", self.user.is_some())])?;
            return Ok(ColumnStore::Chdb(path));
        }
        let url = server(KEY, &self.url, &["http", "https"], "chdb:PATH, http://HOST:8123 or https://HOST:8443")?;
        let default = clickhouse::ServerOptions::at(url);
        Ok(ColumnStore::Server(clickhouse::ServerOptions {
            database: self.database.unwrap_or(default.database),
            user: self.user,
            password: secret(KEY, "password", self.password, self.password_file, base)?,
            ca_file: self.ca_file.map(|path| base.join(path)),
            compression: self.compression.unwrap_or(default.compression),
            cluster: self.cluster,
            engine: self.engine,
            ..default
        }))
    }
}

impl GraphEntry {
    pub(super) fn engine(self, base: &Path) -> Result<GraphStore, String> {
        const KEY: &str = "graph";
        if let Some(path) = embedded(&self.url, "grafeo", base) {
            only_url(KEY, &[("database", self.database.is_some()), ("user", self.user.is_some())])?;
            return Ok(GraphStore::Grafeo(path));
        }
        let schemes = ["bolt", "bolt+s", "neo4j", "neo4j+s"];
        let url = server(KEY, &self.url, &schemes, "grafeo:PATH, bolt://HOST:7687, neo4j://HOST:7687 or neo4j+s://HOST")?;
        let default = graph::ServerOptions::at(url);
        Ok(GraphStore::Server(graph::ServerOptions {
            database: self.database,
            user: self.user,
            password: secret(KEY, "password", self.password, self.password_file, base)?,
            ca_file: self.ca_file.map(|path| base.join(path)),
            ..default
        }))
    }
}

impl VectorsEntry {
    pub(super) fn engine(self, base: &Path) -> Result<VectorStore, String> {
        const KEY: &str = "vectors";
        if let Some(path) = embedded(&self.url, "edge", base) {
            only_url(KEY, &[("api_key", self.api_key.is_some()), ("quantization", self.quantization.is_some())])?;
            return Ok(VectorStore::Edge(path));
        }
        let schemes = ["qdrant", "qdrant+s", "pinecone"];
        let url = server(KEY, &self.url, &schemes, "edge:PATH, qdrant://HOST:6334 or pinecone://INDEX")?;
        let api_key = secret(KEY, "api_key", self.api_key, self.api_key_file, base)?;
        let ca_file = self.ca_file.map(|path| base.join(path));
        if url.scheme() == "pinecone" {
            let default = vectors::PineconeOptions::of(url.host_str().unwrap_or_default());
            return Ok(VectorStore::Pinecone(vectors::PineconeOptions {
                api_key,
                ca_file,
                cloud: self.cloud.unwrap_or(default.cloud),
                region: self.region.unwrap_or(default.region),
                controller: self.controller.unwrap_or(default.controller),
                ..default
            }));
        }
        let quantization = self.quantization.as_deref().map(str::parse::<vectors::Quantization>);
        let default = vectors::QdrantOptions::at(url);
        Ok(VectorStore::Qdrant(vectors::QdrantOptions {
            api_key,
            ca_file,
            on_disk: self.on_disk.unwrap_or(default.on_disk),
            quantization: quantization.transpose().map_err(|why| format!("`{KEY}.quantization`: {why}"))?,
            ..default
        }))
    }
}

/// The path of an engine in the process.
fn embedded(url: &str, scheme: &str, base: &Path) -> Option<PathBuf> {
    match url.split_once(':') {
        Some((found, path)) if found == scheme && !path.is_empty() => Some(base.join(path)),
        _ => None,
    }
}

/// Refuses keys that only a server has, which would be ignored.
fn only_url(key: &str, given: &[(&str, bool)]) -> Result<(), String> {
    match given.iter().find(|(_, given)| *given) {
        Some((name, _)) => {
            Err(format!("`{key}.{name}` is for a server, and `{key}.url` names the engine in this process: remove one"))
        }
        None => Ok(()),
    }
}

/// The address of a server. What it may carry of a password is never repeated.
fn server(key: &str, text: &str, schemes: &[&str], forms: &str) -> Result<Url, String> {
    let wrong = || format!("`{key}.url` must be {forms}");
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !schemes.contains(&url.scheme()) || url.host_str().is_none_or(str::is_empty) {
        return Err(wrong());
    }
    if url.password().is_some() || !url.username().is_empty() {
        let shown = shown(text);
        return Err(format!(
            "`{key}.url` carries a user or a password, and addresses are shown: write {shown}, and the rest in the environment \
             (DISTRIBUTARY_{}_…) or in a file",
            key.to_uppercase()
        ));
    }
    Ok(url)
}

/// A secret given as it is or by a file.
fn secret(key: &str, name: &str, value: Option<Secret>, file: Option<PathBuf>, base: &Path) -> Result<Option<Secret>, String> {
    match (value, file) {
        (Some(_), Some(_)) => Err(format!("`{key}.{name}` and `{key}.{name}_file` are both given: keep one")),
        (Some(value), None) => Ok(Some(value)),
        (None, Some(file)) => Secret::read(&base.join(file)).map(Some).map_err(|e| format!("`{key}.{name}_file`: {e}")),
        (None, None) => Ok(None),
    }
}
