//! The servers that are behind fronts in this process, as the real binary reaches them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use distributary::sinks::{Query, Sink, SinkError, SinkKind, clickhouse, vectors};
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::{Condition, DeletePoints, Filter, PointsSelector, points_selector};
use tonic::transport::Channel;

use super::PATIENCE;
use crate::fronts;
use crate::fronts::pinecone::KEY;
use crate::support::engines::hash_embedder;
use crate::support::server::{Server, Step};

/// Host and port of an address.
fn host_of(address: &str) -> String {
    address.split("://").last().unwrap_or(address).to_owned()
}

static DATABASES: AtomicU64 = AtomicU64::new(0);

/// A database of a ClickHouse server.
pub(crate) struct Clickhouse {
    front: fronts::clickhouse::Front,
    database: String,
}

impl Clickhouse {
    /// One that nobody has made yet: all fronts of the process have one engine.
    pub(crate) fn new() -> Self {
        let database = format!("served_{}", DATABASES.fetch_add(1, Ordering::Relaxed));
        Self { front: fronts::clickhouse::Front::start(), database }
    }

    /// How it is opened.
    pub(crate) fn options(&self) -> clickhouse::ServerOptions {
        let mut options = clickhouse::ServerOptions::at(self.front.address().parse().unwrap());
        options.database.clone_from(&self.database);
        options
    }

    /// Opens it.
    pub(crate) async fn try_open(&self) -> Result<Arc<dyn Sink>, SinkError> {
        Ok(Arc::new(clickhouse::open_server(self.options()).await?))
    }
}

/// Makes the leases of a database of ClickHouse end: the server goes by its own clock, so they are made to last for no time.
pub(crate) async fn end_leases(sink: &Arc<dyn Sink>) {
    let shorten = "INSERT INTO _distributary_lease SELECT work, token, holder, since, seen + INTERVAL 1 MICROSECOND, 0, state \
                   FROM _distributary_lease FINAL";
    sink.query(&Query::Text(shorten.to_owned())).await.unwrap();
    let lasting =
        "SELECT count() AS n FROM _distributary_lease FINAL WHERE dateDiff('millisecond', seen, now64(6, 'UTC')) <= lasts_ms";
    while sink.query(&Query::Text(lasting.to_owned())).await.unwrap()[0]["n"] != 0 {}
}

#[async_trait]
impl Server for Clickhouse {
    const KIND: SinkKind = SinkKind::Clickhouse;
    const HTTP: bool = true;
    const STEPS: &'static [Step] = &[
        Step { name: "prepare: a table", sends: "`.`book` (", first: true },
        Step { name: "prepare: a view", sends: "`.`book_current`", first: true },
        Step { name: "lease", sends: "_distributary_lease", first: false },
        Step { name: "write and flush", sends: "INSERT+INTO", first: false },
        Step { name: "checkpoint", sends: "toUInt64%28revision", first: false },
    ];

    fn start() -> Self {
        Self::new()
    }

    fn address(&self) -> String {
        host_of(&self.front.address())
    }

    fn entry(&self, address: &str) -> String {
        format!("clickhouse: {{url: \"http://{address}\", database: {}}}", self.database)
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(format!("clickhouse: {{url: \"https://{address}\", database: {}}}", self.database))
    }

    async fn open(&self) -> Arc<dyn Sink> {
        self.try_open().await.unwrap()
    }

    async fn end_leases(&self) {
        end_leases(&self.open().await).await;
    }
}

/// A Qdrant server.
pub(crate) struct Qdrant(fronts::qdrant::Front);

#[async_trait]
impl Server for Qdrant {
    const KIND: SinkKind = SinkKind::Vectors;
    const HTTP: bool = false;
    const STEPS: &'static [Step] = &[
        Step { name: "prepare: an index of a collection", sends: "_text_hash", first: true },
        // Field 2 of a message with the name in it: that of the alias, where it is made.
        Step { name: "alias", sends: "\x12\x05texts", first: true },
        Step { name: "lease", sends: "renewed_ms", first: false },
        Step { name: "write", sends: "_probe", first: false },
        Step { name: "flush and checkpoint", sends: "mapping_fingerprint", first: false },
    ];

    fn start() -> Self {
        Self(fronts::qdrant::Front::start())
    }

    fn address(&self) -> String {
        host_of(&self.0.address())
    }

    fn entry(&self, address: &str) -> String {
        format!("vectors: {{url: \"qdrant://{address}\"}}")
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(format!("vectors: {{url: \"qdrant+s://{address}\"}}"))
    }

    async fn open(&self) -> Arc<dyn Sink> {
        let options =
            vectors::QdrantOptions { timeout: PATIENCE, ..vectors::QdrantOptions::at(self.0.address().parse().unwrap()) };
        let embedder = hash_embedder();
        Arc::new(vectors::open_qdrant(options, embedder.identity().to_owned(), embedder.dimensions()).await.unwrap())
    }

    async fn end_leases(&self) {
        let channel = Channel::from_shared(format!("http://{}", self.address())).unwrap().connect().await.unwrap();
        let leases = Filter::must([Condition::matches("kind", "lease".to_owned())]);
        let request = DeletePoints {
            collection_name: "_distributary".to_owned(),
            wait: Some(true),
            points: Some(PointsSelector { points_selector_one_of: Some(points_selector::PointsSelectorOneOf::Filter(leases)) }),
            ..DeletePoints::default()
        };
        PointsClient::new(channel).delete(request).await.unwrap();
    }
}

/// The name of the index.
const INDEX: &str = "served";

/// A project of Pinecone with one index, whose writes are seen by the read after the next.
pub(crate) struct Pinecone(fronts::pinecone::Front);

impl Pinecone {
    /// How it is opened.
    pub(crate) fn options(&self) -> vectors::PineconeOptions {
        let of = vectors::PineconeOptions::of(INDEX);
        vectors::PineconeOptions { api_key: Some(KEY.into()), controller: self.0.address(), ..of }
    }

    fn entry_of(url: &str) -> String {
        format!("vectors: {{url: \"pinecone://{INDEX}\", controller: \"{url}\", api_key: {KEY}}}")
    }
}

#[async_trait]
impl Server for Pinecone {
    const KIND: SinkKind = SinkKind::Vectors;
    const HTTP: bool = true;
    const STEPS: &'static [Step] = &[
        Step { name: "prepare: the index", sends: "POST /indexes ", first: true },
        Step { name: "prepare: a namespace", sends: "POST /namespaces ", first: true },
        Step { name: "alias", sends: "pointer#", first: true },
        Step { name: "lease", sends: "renewed_ms", first: false },
        Step { name: "write", sends: "_probe", first: false },
        Step { name: "flush and checkpoint", sends: "mapping_fingerprint", first: false },
    ];

    fn start() -> Self {
        let front = fronts::pinecone::Front::start();
        front.lag(1);
        Self(front)
    }

    fn address(&self) -> String {
        host_of(&self.0.address())
    }

    fn reached_at(&self, address: &str) {
        self.0.reached_at(address);
    }

    fn entry(&self, address: &str) -> String {
        Self::entry_of(&format!("http://{address}"))
    }

    fn entry_with_tls(&self, address: &str) -> Option<String> {
        Some(Self::entry_of(&format!("https://{address}")))
    }

    async fn open(&self) -> Arc<dyn Sink> {
        let embedder = hash_embedder();
        Arc::new(vectors::open_pinecone(self.options(), embedder.identity().to_owned(), embedder.dimensions()).await.unwrap())
    }

    async fn end_leases(&self) {
        self.0.delete(INDEX, "_distributary", "lease#");
    }
}

impl Drop for Pinecone {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.0.violations(), Vec::<String>::new(), "what the vendor's documents say otherwise");
        }
    }
}
