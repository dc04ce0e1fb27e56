//! The three real engines, opened cheaply: one column store engine in the whole process with a database for each test, a graph and a
//! vector index in the test's own directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use distributary::config::Config;
use distributary::embed::{self, Choice, Worker};
use distributary::fetch::{self, Wanted};
use distributary::mapping::MappingFile;
use distributary::sinks::{Sink, SinkKind, clickhouse, graph, vectors};
use distributary::sync::{self, Setup};
use tempfile::TempDir;

use super::faults::{Faults, FaultySink};
use super::lake::Lake;

static ENGINE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
static DATABASES: AtomicU64 = AtomicU64::new(0);

/// Where libchdb is, fetched if it is not here.
pub(crate) fn library() -> &'static Path {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let wanted = Wanted { library: true, model: None };
        let paths = fetch::ensure(&wanted, &fetch::Options::from_env(), &mut |_| {});
        paths.expect("the tests need the ClickHouse engine").library.unwrap()
    })
}

/// The directory of the column store's engine, which goes with the last test that uses it.
fn engine_directory() -> Arc<TempDir> {
    let mut shared = ENGINE.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let made = Arc::new(tempfile::tempdir().unwrap());
        *shared = Arc::downgrade(&made);
        made
    })
}

/// A lake, a mapping and three engines of one test.
pub(crate) struct Bench {
    pub(crate) lake: Lake,
    pub(crate) mapping: PathBuf,
    /// Lines that are appended to the configuration.
    pub(crate) more: String,
    /// A Qdrant server in place of the embedded vector index.
    pub(crate) qdrant: Option<String>,
    database: String,
    // The engine's directory must outlive every sink: it is dropped last.
    directory: TempDir,
    engine: Arc<TempDir>,
}

impl Bench {
    /// A new directory with an empty lake and nothing in any engine.
    pub(crate) fn new(mapping: impl Into<PathBuf>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            lake: Lake::at(directory.path().join("silver")),
            mapping: mapping.into(),
            more: String::new(),
            qdrant: None,
            database: format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed)),
            directory,
            engine: engine_directory(),
        }
    }

    /// The test's own directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The configuration, free of the environment.
    pub(crate) fn config(&self) -> Config {
        let path = self.path().join("distributary.yaml");
        let text = format!(
            "source: {{root: ./silver}}\nmapping: {}\nembed: hash\nclickhouse: {{url: \"chdb:./clickhouse\"}}\n\
             graph: {{url: \"grafeo:./graph\"}}\nvectors: {{url: \"edge:./vectors\"}}\n{}",
            self.mapping.display(),
            self.more
        );
        std::fs::write(&path, text).unwrap();
        Config::read_with(&path, |_| None).unwrap()
    }

    /// Opens everything.
    pub(crate) async fn open(&self) -> Setup {
        self.open_with(|sink| sink).await
    }

    /// Opens everything, each sink behind one that fails as it is told.
    pub(crate) async fn open_faulty(&self, faults: &Faults) -> Setup {
        self.open_with(|sink| Arc::new(FaultySink::new(sink, faults.clone()))).await
    }

    async fn open_with(&self, wrap: impl Fn(Arc<dyn Sink>) -> Arc<dyn Sink>) -> Setup {
        let config = self.config();
        let mapping = MappingFile::read(&config.mapping).unwrap();
        let embedder = Arc::new(hash_embedder());
        let mut sinks = Vec::new();
        for kind in [SinkKind::Clickhouse, SinkKind::Graph, SinkKind::Vectors] {
            sinks.push(wrap(self.sink(kind, &embedder).await));
        }
        let runtime = sync::runtime(&config).unwrap();
        let (unopened, models, leases) = (Vec::new(), sync::Models::default(), sync::Leases::default());
        Setup { config, mapping, sinks, unopened, embedder: Some(embedder), models, runtime, leases }
    }

    async fn sink(&self, kind: SinkKind, embedder: &Worker) -> Arc<dyn Sink> {
        match kind {
            SinkKind::Clickhouse => {
                let mut options = clickhouse::ClickhouseOptions::new(self.engine.path().join("engine"), library());
                options.database.clone_from(&self.database);
                // No test here loses power.
                options.fsync = false;
                Arc::new(clickhouse::open(options).await.unwrap())
            }
            SinkKind::Graph => Arc::new(graph::open(graph::GraphOptions::at(self.path().join("graph"))).await.unwrap()),
            SinkKind::Vectors => {
                let path = self.path().join("vectors");
                let (model, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
                if let Some(server) = &self.qdrant {
                    // A machine that tests many things at once may be slow.
                    let timeout = std::time::Duration::from_secs(600);
                    let options = vectors::QdrantOptions { timeout, ..vectors::QdrantOptions::at(server.parse().unwrap()) };
                    return Arc::new(vectors::open_qdrant(options, model, dimensions).await.unwrap());
                }
                let options = vectors::VectorsOptions { path, model, dimensions };
                Arc::new(vectors::open(options).await.unwrap())
            }
        }
    }
}

/// The embedder that needs no model.
pub(crate) fn hash_embedder() -> Worker {
    embed::worker(&Choice::Hash, embed::DEFAULT_PRECISION, None).unwrap().unwrap()
}
