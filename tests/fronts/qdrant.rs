//! Qdrant's gRPC services over the real engine: `qdrant-edge` holds the points of each collection, this front keeps what the engine has
//! no notion of: collections by name, aliases, the API key, strict mode, and a queue of updates, so that `wait` means something. It obeys
//! Qdrant's documentation; sparse and multi-vectors, geo conditions, recommendations and clusters are answered with `Unimplemented`.

mod collections;
mod convert;
mod points;
mod shard;
mod strict;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer};
use qdrant_client::qdrant::{HealthCheckReply, HealthCheckRequest, StrictModeConfig};
use tokio::sync::oneshot;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

use shard::Shard;

/// The release whose behaviour is kept.
const VERSION: &str = "1.17.0";

/// What a front keeps.
pub(super) struct State {
    root: PathBuf,
    made: Mutex<u64>,
    collections: Mutex<Collections>,
    /// Strict mode of new collections.
    strict: Option<StrictModeConfig>,
    key: Option<String>,
    /// So many writes to come are refused, with a second to wait.
    exhausted: AtomicU32,
}

/// Collections and aliases, under one lock so that aliases move at once.
#[derive(Default)]
pub(super) struct Collections {
    shards: BTreeMap<String, Arc<Shard>>,
    aliases: BTreeMap<String, String>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Collections> {
        self.collections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The collection of this name or alias.
    fn shard(&self, name: &str) -> Result<Arc<Shard>, Status> {
        let all = self.lock();
        let found = all.shards.get(name).or_else(|| all.shards.get(all.aliases.get(name)?));
        found.cloned().ok_or_else(|| Status::not_found(format!("Not found: Collection `{name}` doesn't exist!")))
    }

    /// An empty directory for a collection.
    fn place(&self) -> PathBuf {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        *made += 1;
        self.root.join(made.to_string())
    }

    /// Refuses a write when the front was told to.
    fn admit(&self) -> Result<(), Status> {
        let take = |left: u32| left.checked_sub(1);
        if self.exhausted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_err() {
            return Ok(());
        }
        let mut status = Status::resource_exhausted("Rate limiting exceeded: Write rate limit exceeded, retry later");
        status.metadata_mut().insert("retry-after", "1".parse().unwrap());
        Err(status)
    }

    fn check_key(&self, request: Request<()>) -> Result<Request<()>, Status> {
        let given = request.metadata().get("api-key").and_then(|key| key.to_str().ok());
        match &self.key {
            Some(_) if given.is_none() => {
                Err(Status::unauthenticated("Must provide an API key or an Authorization bearer token"))
            }
            Some(key) if given != Some(key.as_str()) => Err(Status::unauthenticated("Invalid API key or JWT")),
            _ => Ok(request),
        }
    }
}

/// What a front asks and refuses.
#[derive(Default)]
pub(crate) struct Rules {
    /// The key that every request must carry.
    pub(crate) key: Option<String>,
    /// Whether collections are in strict mode: filters over indexed entries only, small requests.
    pub(crate) strict: bool,
    /// The certificate and the key (PEM) of a front that speaks TLS.
    pub(crate) identity: Option<(String, String)>,
}

/// A front that serves until it is dropped.
pub(crate) struct Front {
    state: Arc<State>,
    address: SocketAddr,
    scheme: &'static str,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
    _root: tempfile::TempDir,
}

impl Front {
    /// A front that anybody may use.
    pub(crate) fn start() -> Self {
        Self::with(Rules::default())
    }

    /// A front with rules.
    pub(crate) fn with(rules: Rules) -> Self {
        let root = tempfile::tempdir().unwrap();
        let strict = rules.strict.then(strict::rules);
        let state = Arc::new(State {
            root: root.path().to_owned(),
            made: Mutex::new(0),
            collections: Mutex::default(),
            strict,
            key: rules.key,
            exhausted: AtomicU32::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let serving = state.clone();
        let scheme = if rules.identity.is_some() { "qdrant+s" } else { "qdrant" };
        // There are two in the process, and a server takes the one that was chosen.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let identity = rules.identity.map(|(certificate, key)| Identity::from_pem(certificate, key));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(serve(serving, identity, bound, stopped));
        });
        let address = address.recv().unwrap();
        Self { state, address, scheme, stop: Some(stop), thread: Some(thread), _root: root }
    }

    /// Where it is, as a configuration names it.
    pub(crate) fn address(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// The next writes to points are refused, so many of them.
    pub(crate) fn exhaust(&self, writes: u32) {
        self.state.exhausted.store(writes, Ordering::SeqCst);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        // The engines end before their files do.
        self.state.lock().shards.clear();
    }
}

async fn serve(
    state: Arc<State>,
    identity: Option<Identity>,
    bound: std::sync::mpsc::Sender<SocketAddr>,
    stopped: oneshot::Receiver<()>,
) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    bound.send(listener.local_addr().unwrap()).unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let checked = |state: &Arc<State>| {
        let state = state.clone();
        move |request: Request<()>| state.check_key(request)
    };
    // Requests of up to 4 MB, as a proxy before a server may have it; answers of any size.
    let points = PointsServer::new(points::Service(state.clone()));
    let collections = CollectionsServer::new(collections::Service(state.clone()));
    let mut server = Server::builder();
    if let Some(identity) = identity {
        server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
    }
    let router = server
        .add_service(QdrantServer::new(About))
        .add_service(InterceptedService::new(points, checked(&state)))
        .add_service(InterceptedService::new(collections, checked(&state)));
    tokio::select! {
        served = router.serve_with_incoming(incoming) => served.unwrap(),
        _ = stopped => {}
    }
}

struct About;

#[tonic::async_trait]
impl Qdrant for About {
    async fn health_check(&self, _request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckReply>, Status> {
        let title = "qdrant - vector search engine".to_owned();
        Ok(Response::new(HealthCheckReply { title, version: VERSION.to_owned(), commit: None }))
    }
}
