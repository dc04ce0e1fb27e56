//! Pinecone's REST API of 2025-10 over the vector engine of Qdrant: both planes, every documented limit that is no matter of time, late
//! visibility, and faults on demand. Requests and answers are judged by the vendor's OpenAPI documents where `PINECONE_OPENAPI` names
//! their folder.

mod data;
mod filter;
mod space;
mod spec;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use space::Space;
use spec::Spec;
use tokio::net::TcpListener;
use tokio::sync::watch;
use url::form_urlencoded;

/// The key that the front takes.
pub(crate) const KEY: &str = "pcsk_front";
const VERSION: &str = "2025-10";
const DIMENSIONS_MAX: u64 = 20_000;

/// What a request meets instead of its answer.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    /// What the path contains, as in `vectors/upsert`; empty for all.
    pub(crate) path: &'static str,
    /// What the body contains; empty for all.
    pub(crate) body: &'static str,
    /// Whether the request is done before it is met.
    pub(crate) done: bool,
    /// The status.
    pub(crate) status: u16,
    /// The answer's body.
    pub(crate) says: String,
    /// `Retry-After`.
    pub(crate) retry_after: Option<&'static str>,
}

impl Fault {
    /// A status with a text of the data plane.
    pub(crate) fn new(path: &'static str, status: u16, message: &str) -> Self {
        let says = json!({"code": 8, "message": message, "details": []}).to_string();
        Self { path, body: "", done: false, status, says, retry_after: None }
    }
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Without the host and the query.
    pub(crate) path: String,
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// An index.
#[derive(Debug)]
struct Index {
    dimension: usize,
    spec: Value,
    deletion_protection: String,
    tags: Value,
    host: String,
    /// Descriptions until it is ready.
    until_ready: u32,
    spaces: BTreeMap<String, Space>,
}

#[derive(Debug, Default)]
struct Inner {
    indexes: BTreeMap<String, Index>,
    faults: VecDeque<Fault>,
    asked: Vec<Asked>,
    violations: Vec<String>,
    lag: u32,
    /// Where all indexes are said to be, when that is not where they are.
    reached_at: Option<String>,
}

/// What a request is answered.
#[derive(Debug)]
struct Reply {
    status: u16,
    body: Value,
    headers: Vec<(&'static str, String)>,
}

impl Reply {
    fn new(status: u16, body: Value) -> Self {
        Self { status, body, headers: Vec::new() }
    }

    fn with(mut self, header: &'static str, value: impl ToString) -> Self {
        self.headers.push((header, value.to_string()));
        self
    }
}

/// An error of the control plane.
fn refused(status: u16, code: &str, message: impl Into<String>) -> Reply {
    Reply::new(status, json!({"status": status, "error": {"code": code, "message": message.into()}}))
}

/// A request in parts.
struct Request {
    method: String,
    path: Vec<String>,
    query: Vec<(String, String)>,
    body: Option<Value>,
    bytes: usize,
    address_bytes: usize,
}

impl Request {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// What both planes share.
#[derive(Debug)]
struct Shared {
    inner: Mutex<Inner>,
    spec: Spec,
    stop: watch::Receiver<bool>,
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One listener: the control plane, or an index's data plane.
#[derive(Debug, Clone)]
struct Plane {
    shared: Arc<Shared>,
    index: Option<String>,
}

/// The front, which ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Front {
    shared: Arc<Shared>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Front {
    /// Starts it on a free port of this machine.
    pub(crate) fn start() -> Self {
        let (stop, stopped) = watch::channel(false);
        let shared = Arc::new(Shared { inner: Mutex::default(), spec: Spec::from_environment(), stop: stopped });
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let plane = Plane { shared: shared.clone(), index: None };
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async { serve(TcpListener::from_std(listener).unwrap(), plane).await });
            runtime.shutdown_background();
        });
        Self { shared, address, stop, thread: Some(thread) }
    }

    /// The address of the control plane.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Lets a write be seen by the read after so many reads of its namespace.
    pub(crate) fn lag(&self, reads: u32) {
        self.shared.inner().lag = reads;
    }

    /// From now on all indexes are said to be at this host and port, where something stands before the control plane, which answers for an
    /// index as its data plane would. Only for a project with one index.
    pub(crate) fn reached_at(&self, address: &str) {
        let mut inner = self.shared.inner();
        inner.indexes.values_mut().for_each(|index| address.clone_into(&mut index.host));
        inner.reached_at = Some(address.to_owned());
    }

    /// Deletes the records of a namespace whose ids begin so, behind everybody's back.
    pub(crate) fn delete(&self, index: &str, namespace: &str, prefix: &str) {
        let mut inner = self.shared.inner();
        let Some(space) = inner.indexes.get_mut(index).and_then(|index| index.spaces.get_mut(namespace)) else { return };
        space.catch_up();
        let ids = space.list(prefix, None, usize::MAX);
        space.write(space::Write::Delete(ids), 0);
    }

    /// Queues a fault, which the first request that it is for meets.
    pub(crate) fn fail(&self, fault: Fault) {
        self.shared.inner().faults.push_back(fault);
    }

    /// Faults that nobody met yet.
    pub(crate) fn faults_left(&self) -> usize {
        self.shared.inner().faults.len()
    }

    /// Takes what was asked since the last time.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.inner().asked)
    }

    /// What was wrong by the vendor's documents.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.shared.inner().violations.clone()
    }

    /// The namespaces of an index with the count of their records.
    pub(crate) fn spaces(&self, index: &str) -> BTreeMap<String, usize> {
        let inner = self.shared.inner();
        let spaces = inner.indexes.get(index).map(|index| index.spaces.iter());
        spaces.into_iter().flatten().map(|(name, space)| (name.clone(), space.len())).collect()
    }

    /// Deletes a namespace behind everybody's back.
    pub(crate) fn lose(&self, index: &str, namespace: &str) {
        self.shared.inner().indexes.get_mut(index).unwrap().spaces.remove(namespace).unwrap();
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(listener: TcpListener, plane: Plane) {
    let mut stop = plane.shared.stop.clone();
    let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(plane);
    // Connections that a client keeps open would hold up a graceful end.
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.unwrap(),
        _ = stop.wait_for(|stop| *stop) => {}
    }
}

fn begin(listener: TcpListener, plane: Plane) {
    tokio::spawn(serve(listener, plane));
}

async fn answer(State(plane): State<Plane>, method: Method, uri: Uri, headers: HeaderMap, bytes: Bytes) -> Response {
    let mut listener = None;
    if plane.index.is_none() && method == Method::POST && uri.path() == "/indexes" {
        listener = Some(TcpListener::bind("127.0.0.1:0").await.unwrap());
    }
    let host = listener.as_ref().map(|listener| listener.local_addr().unwrap());
    let (asked, shared) = (plane.clone(), plane.shared.clone());
    let reply = tokio::task::spawn_blocking(move || asked.reply(&method, &uri, &headers, &bytes, host)).await.unwrap();
    if let (201, Some(listener)) = (reply.status, listener) {
        let index = reply.body["name"].as_str().map(str::to_owned);
        begin(listener, Plane { shared, index });
    }
    let text = match reply.body {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut response = (StatusCode::from_u16(reply.status).unwrap(), text).into_response();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    for (name, value) in reply.headers {
        response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_str(&value).unwrap());
    }
    response
}

impl Plane {
    fn reply(&self, method: &Method, uri: &Uri, headers: &HeaderMap, bytes: &[u8], host: Option<SocketAddr>) -> Reply {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let decode = |text: &str| {
            // A `+` of a path is itself.
            let pairs = format!("x={}", text.replace('+', "%2B"));
            form_urlencoded::parse(pairs.as_bytes()).map(|(_, value)| value.into_owned()).next().unwrap()
        };
        let request = Request {
            method: method.to_string(),
            path: uri.path().trim_matches('/').split('/').map(decode).collect(),
            query: form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).into_owned().collect(),
            body: (!bytes.is_empty()).then(|| serde_json::from_slice(bytes).unwrap_or(Value::Null)),
            bytes: bytes.len(),
            address_bytes: uri.to_string().len(),
        };
        let mut inner = self.shared.inner();
        let of_index = self.of_index(&inner, &request.path);
        let mut reply = if header("api-key") != Some(KEY) {
            match of_index {
                None => refused(401, "UNAUTHENTICATED", "Invalid API key."),
                Some(_) => Reply::new(401, Value::from("Unauthorized")),
            }
        } else if header("x-pinecone-api-version") != Some(VERSION) {
            refused(400, "INVALID_ARGUMENT", format!("X-Pinecone-Api-Version must be {VERSION}"))
        } else {
            judged(&mut inner, &self.shared.spec, &request, of_index.as_deref(), host)
        };
        if reply.status == 0 {
            reply = Reply::new(404, json!({"code": 5, "message": "Not found", "details": []}));
        }
        let path = format!("/{}", request.path.join("/"));
        inner.asked.push(Asked { path, body: request.body.unwrap_or_default(), status: reply.status });
        reply
    }

    /// The index that is asked; none for the control plane.
    fn of_index(&self, inner: &Inner, path: &[String]) -> Option<String> {
        let is_data = inner.reached_at.is_some() && path.first().is_none_or(|first| first != "indexes");
        self.index.clone().or_else(|| inner.indexes.keys().next().filter(|_| is_data).cloned())
    }
}

fn judged(inner: &mut Inner, spec: &Spec, request: &Request, index: Option<&str>, host: Option<SocketAddr>) -> Reply {
    let wrong = spec.request(&request.method, &request.path, &request.query, request.body.as_ref());
    if !wrong.is_empty() {
        let message = wrong.join("; ");
        inner.violations.extend(wrong);
        return refused(400, "INVALID_ARGUMENT", message);
    }
    let body = request.body.as_ref().map(Value::to_string).unwrap_or_default();
    let path = request.path.join("/");
    let met = inner.faults.iter().position(|fault| path.contains(fault.path) && body.contains(fault.body));
    let fault = met.and_then(|met| inner.faults.remove(met));
    if let Some(fault) = fault.as_ref().filter(|fault| !fault.done) {
        return met_fault(fault);
    }
    let reply = match index {
        None => control(inner, request, host),
        Some(name) => {
            let lag = inner.lag;
            let index = inner.indexes.get_mut(name);
            index.map_or_else(|| Reply::new(404, Value::from("no such index")), |index| data::answer(index, request, lag))
        }
    };
    inner.violations.extend(spec.answer(&request.method, &request.path, reply.status, &reply.body));
    fault.map_or(reply, |fault| met_fault(&fault))
}

fn met_fault(fault: &Fault) -> Reply {
    let reply = Reply::new(fault.status, serde_json::from_str(&fault.says).unwrap_or_else(|_| Value::from(fault.says.clone())));
    match fault.retry_after {
        Some(pause) => reply.with("retry-after", pause),
        None => reply,
    }
}

fn control(inner: &mut Inner, request: &Request, host: Option<SocketAddr>) -> Reply {
    let path: Vec<&str> = request.path.iter().map(String::as_str).collect();
    let body = request.body.clone().unwrap_or_default();
    match (request.method.as_str(), path.as_slice()) {
        ("GET", ["indexes"]) => {
            let indexes: Vec<Value> = inner.indexes.iter().map(|(name, index)| described(name, index)).collect();
            Reply::new(200, json!({ "indexes": indexes }))
        }
        ("POST", ["indexes"]) => match made(inner, &body, host) {
            Ok((name, index)) => {
                let reply = Reply::new(201, described(&name, &index));
                inner.indexes.insert(name, index);
                reply
            }
            Err(reply) => reply,
        },
        (method, ["indexes", name]) => {
            let Some(index) = inner.indexes.get_mut(*name) else {
                return refused(404, "NOT_FOUND", format!("Resource {name} not found"));
            };
            match method {
                "GET" => {
                    let reply = Reply::new(200, described(name, index));
                    index.until_ready = index.until_ready.saturating_sub(1);
                    reply
                }
                "PATCH" => {
                    for key in ["deletion_protection"] {
                        if let Some(text) = body[key].as_str() {
                            text.clone_into(&mut index.deletion_protection);
                        }
                    }
                    if body["tags"].is_object() {
                        index.tags = body["tags"].clone();
                    }
                    Reply::new(200, described(name, index))
                }
                "DELETE" if index.deletion_protection == "enabled" => {
                    refused(403, "FORBIDDEN", "Deletion protection is enabled for this index.")
                }
                "DELETE" => {
                    inner.indexes.remove(*name);
                    Reply::new(202, Value::Null)
                }
                _ => Reply::new(0, Value::Null),
            }
        }
        _ => Reply::new(0, Value::Null),
    }
}

fn made(inner: &Inner, body: &Value, host: Option<SocketAddr>) -> Result<(String, Index), Reply> {
    let wrong = |message: &str| Err(refused(400, "INVALID_ARGUMENT", message));
    let name = body["name"].as_str().unwrap_or_default();
    let plain = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !plain || !(1..=45).contains(&name.len()) || name.starts_with('-') || name.ends_with('-') {
        return wrong("Name must be 1-45 lower case alphanumeric characters or '-', and start and end with an alphanumeric one");
    }
    if inner.indexes.contains_key(name) {
        return Err(refused(409, "ALREADY_EXISTS", "Resource already exists."));
    }
    let dimension = body["dimension"].as_u64().filter(|dimension| (1..=DIMENSIONS_MAX).contains(dimension));
    let Some(dimension) = dimension else { return wrong("Dimension must be 1 to 20000") };
    if body["metric"].as_str().is_some_and(|metric| metric != "cosine") {
        return wrong("this front has the metric cosine alone");
    }
    let serverless = &body["spec"]["serverless"];
    let (cloud, region) = (serverless["cloud"].as_str().unwrap_or_default(), serverless["region"].as_str().unwrap_or_default());
    let regions: &[&str] = match cloud {
        "aws" => &["us-east-1", "us-west-2", "eu-west-1"],
        "gcp" => &["us-central1", "europe-west4"],
        "azure" => &["eastus2"],
        _ => &[],
    };
    if !regions.contains(&region) {
        return Err(refused(404, "NOT_FOUND", format!("Resource cloud: {cloud} region: {region} not found.")));
    }
    let protection = body["deletion_protection"].as_str().unwrap_or("disabled").to_owned();
    let index = Index {
        dimension: usize::try_from(dimension).unwrap(),
        spec: json!({"serverless": {
            "cloud": cloud, "region": region, "read_capacity": {"mode": "OnDemand", "status": {"state": "Ready"}}
        }}),
        deletion_protection: protection,
        tags: body["tags"].clone(),
        host: inner.reached_at.clone().unwrap_or_else(|| host.unwrap().to_string()),
        until_ready: 2,
        spaces: BTreeMap::new(),
    };
    Ok((name.to_owned(), index))
}

fn described(name: &str, index: &Index) -> Value {
    let ready = index.until_ready == 0;
    let mut all = json!({
        "name": name,
        "dimension": index.dimension,
        "metric": "cosine",
        // Without a scheme, as the service gives it.
        "host": index.host,
        "spec": index.spec,
        "status": {"ready": ready, "state": if ready { "Ready" } else { "Initializing" }},
        "vector_type": "dense",
        "deletion_protection": index.deletion_protection,
    });
    if index.tags.is_object() {
        all["tags"] = index.tags.clone();
    }
    all
}
