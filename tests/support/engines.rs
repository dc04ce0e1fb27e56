//! The three real engines, opened cheaply: one column store engine in the whole process with a database for each test, a graph and a
//! vector index in the test's own directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use distributary::config::Config;
use distributary::embed::{self, Choice, Worker};
use distributary::fetch::{self, Wanted};
use distributary::mapping::MappingFile;
use distributary::sinks::{Retries, Retrying, Sink, SinkKind, clickhouse, graph, vectors};
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

/// Where the column store's engine of this process is, and its library, for what runs beside the sinks on it.
pub(crate) fn engine_place() -> (Arc<TempDir>, PathBuf) {
    (engine_directory(), library().to_owned())
}

/// A database of its own in the column store's engine.
pub(crate) struct Database {
    name: String,
    // Dropped last.
    engine: Arc<TempDir>,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self { name: format!("test_{}", DATABASES.fetch_add(1, Ordering::Relaxed)), engine: engine_directory() }
    }

    /// How to open it. No test loses power.
    pub(crate) fn options(&self) -> clickhouse::ClickhouseOptions {
        let mut options = clickhouse::ClickhouseOptions::new(self.engine.path().join("engine"), library());
        options.database.clone_from(&self.name);
        options.fsync = false;
        options
    }
}

/// A new directory, that goes when it is dropped.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A lake, a mapping and three engines of one test.
pub(crate) struct Bench {
    pub(crate) lake: Lake,
    pub(crate) mapping: PathBuf,
    /// Lines that are appended to the configuration.
    pub(crate) more: String,
    /// A ClickHouse server in place of the embedded column store.
    pub(crate) clickhouse: Option<clickhouse::ServerOptions>,
    /// A Qdrant server in place of the embedded vector index.
    pub(crate) qdrant: Option<String>,
    /// An index of Pinecone in place of both.
    pub(crate) pinecone: Option<vectors::PineconeOptions>,
    directory: TempDir,
    // The engine's directory must outlive every sink: it is dropped last.
    database: Database,
}

impl Bench {
    /// A new directory with an empty lake and nothing in any engine.
    pub(crate) fn new(mapping: impl Into<PathBuf>) -> Self {
        let directory = directory();
        Self {
            lake: Lake::at(directory.path().join("silver")),
            mapping: mapping.into(),
            more: String::new(),
            clickhouse: None,
            qdrant: None,
            pinecone: None,
            directory,
            database: Database::new(),
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
        let (mut sinks, retries) = (Vec::new(), Retries::default());
        for kind in [SinkKind::Clickhouse, SinkKind::Graph, SinkKind::Vectors] {
            // Faults happen below the loop that tries again, as those of an engine do.
            sinks.push(Retrying::of(wrap(self.sink(kind, &embedder).await), &retries));
        }
        let (runtime, spill) = sync::runtime(&config).unwrap();
        let (unopened, models, leases) = (Vec::new(), sync::Models::default(), sync::Leases::default());
        Setup { config, mapping, sinks, unopened, embedder: Some(embedder), models, runtime, spill, retries, leases }
    }

    async fn sink(&self, kind: SinkKind, embedder: &Worker) -> Arc<dyn Sink> {
        match kind {
            SinkKind::Clickhouse => match &self.clickhouse {
                Some(server) => Arc::new(clickhouse::open_server(server.clone()).await.unwrap()),
                None => Arc::new(clickhouse::open(self.database.options()).await.unwrap()),
            },
            SinkKind::Graph => Arc::new(graph::open(graph::GraphOptions::at(self.path().join("graph"))).await.unwrap()),
            SinkKind::Vectors => {
                let path = self.path().join("vectors");
                let (model, dimensions) = (embedder.identity().to_owned(), embedder.dimensions());
                if let Some(index) = &self.pinecone {
                    return Arc::new(vectors::open_pinecone(index.clone(), model, dimensions).await.unwrap());
                }
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
