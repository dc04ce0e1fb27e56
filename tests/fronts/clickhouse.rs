//! ClickHouse's HTTP interface over the engine of libchdb: statements in the address or the body, settings and parameters as arguments,
//! sessions, external tables, inserts of any format, and errors with number, header and status as the server gives them.
//!
//! What it leaves out: compressed bodies (it says so with the server's own error), progress headers, quotas and roles.

// This file is also a module of the sink's own tests: the paths hold wherever it is named.
#[path = "clickhouse/engine.rs"]
mod engine;
#[path = "clickhouse/statement.rs"]
mod statement;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::Response;
use axum::routing::get;
use distributary::sinks::clickhouse::{ClickhouseOptions, ClickhouseSink, open};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

use engine::{Engine, Job};
use statement::{External, Insert, code_of, form_parts, status_of};

/// A user with a password; `default` has none.
pub(crate) const USER: &str = "writer";
/// The user's password.
pub(crate) const PASSWORD: &str = "p&ss=w/rd+%41";
/// A user who may only read, without a password.
pub(crate) const READER: &str = "reader";

/// Arguments of a request that are no settings.
const RESERVED: [&str; 17] = [
    "query",
    "database",
    "default_format",
    "user",
    "password",
    "session_id",
    "session_timeout",
    "session_check",
    "query_id",
    "compress",
    "decompress",
    "wait_end_of_query",
    "buffer_size",
    "quota_key",
    "role",
    "stacktrace",
    "client_protocol_version",
];

/// A server on a loopback port. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Front {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    // Dropped last, when no connection is left.
    _directory: Arc<TempDir>,
}

impl Front {
    /// Starts a server over the engine that this process runs, or is to run, in this directory.
    pub(crate) fn over(directory: Arc<TempDir>, library: &Path) -> Self {
        let library = library.to_owned();
        let path = directory.path().join("engine");
        let (stop, stopped) = oneshot::channel();
        let (ready, address) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("clickhouse front".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_stack_size(engine::STACK_BYTES)
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(serve(path, library, ready, stopped));
                // Every connection is closed before the engine's directory goes.
                drop(runtime);
            })
            .unwrap();
        let address = address.recv().expect("the front did not start");
        Self { address, stop: Some(stop), thread: Some(thread), _directory: directory }
    }

    /// The URL of the server.
    pub(crate) fn address(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the server has been printed.
            drop(thread.join());
        }
    }
}

async fn serve(path: PathBuf, library: PathBuf, ready: std::sync::mpsc::Sender<SocketAddr>, stopped: oneshot::Receiver<()>) {
    // The sink's own engine is opened first and closed last, so that connections of the front only ever join it.
    let keeper: ClickhouseSink = open(ClickhouseOptions::new(&path, &library)).await.unwrap();
    let engine = Arc::new(Engine::new(&path, &library));
    let router = Router::new()
        .route("/ping", get(|| async { "Ok.\n" }))
        .route("/replicas_status", get(|| async { "Ok.\n" }))
        .fallback(answer)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(engine.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    ready.send(listener.local_addr().unwrap()).unwrap();
    tokio::select! {
        served = async { axum::serve(listener, router).await } => served.unwrap(),
        _ = stopped => {}
    }
    engine.close();
    distributary::sinks::Sink::close(&keeper).await.unwrap();
}

/// An error as the server gives it.
#[derive(Debug)]
struct Refusal(String);

impl Refusal {
    fn new(code: u32, text: &str, name: &str) -> Self {
        Self(format!("Code: {code}. DB::Exception: {text}. ({name}) (version {} (distributary front))", engine::VERSION))
    }
}

/// A request that is understood.
struct Asked {
    arguments: Vec<(String, String)>,
    text: Vec<u8>,
    external: Vec<External>,
    /// What may be done: 1 is to read, 2 is to read and to change settings.
    readonly: Option<u8>,
}

impl Asked {
    fn argument(&self, name: &str) -> Option<&str> {
        self.arguments.iter().find(|(known, value)| known == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }
}

async fn answer(
    State(engine): State<Arc<Engine>>,
    method: Method,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let arguments: Vec<(String, String)> =
        url::form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let body = match axum::body::to_bytes(body, usize::MAX).await {
        Ok(body) => body,
        // The client went away in the middle.
        Err(_) => return Response::builder().status(StatusCode::BAD_REQUEST).body(Body::empty()).unwrap(),
    };
    if arguments.is_empty() && body.is_empty() && method == Method::GET {
        return Response::new(Body::from("Ok.\n"));
    }
    let query_id = arguments.iter().find(|(name, _)| name == "query_id").map(|(_, value)| value.clone());
    let query_id = query_id.filter(|id| !id.is_empty()).unwrap_or_else(|| uuid::Uuid::new_v4().to_string());
    let format = arguments.iter().find(|(name, _)| name == "default_format").map(|(_, value)| value.clone());
    let outcome = match understand(arguments, &method, &headers, body) {
        Ok(asked) => {
            let format = statement::format_of(&asked.text).or(format).unwrap_or_else(|| "TabSeparated".to_owned());
            run(&engine, asked).await.map(|rows| (rows, format))
        }
        Err(refusal) => Err(refusal),
    };
    respond(outcome, &query_id)
}

fn respond(outcome: Result<(Vec<u8>, String), Refusal>, query_id: &str) -> Response {
    let builder = Response::builder()
        .header("X-ClickHouse-Query-Id", query_id)
        .header("X-ClickHouse-Server-Display-Name", "front")
        .header("X-ClickHouse-Timezone", "UTC");
    match outcome {
        Ok((rows, format)) => {
            let kind = match format.as_str() {
                "TabSeparated" | "TSV" => "text/tab-separated-values; charset=UTF-8",
                "JSON" | "JSONEachRow" => "application/json; charset=UTF-8",
                _ => "application/octet-stream",
            };
            builder.header(header::CONTENT_TYPE, kind).header("X-ClickHouse-Format", format).body(Body::from(rows)).unwrap()
        }
        Err(Refusal(text)) => {
            let code = code_of(&text);
            builder
                .status(status_of(code))
                .header(header::CONTENT_TYPE, "text/plain; charset=UTF-8")
                .header("X-ClickHouse-Exception-Code", code.to_string())
                .body(Body::from(format!("{}\n", text.trim_end())))
                .unwrap()
        }
    }
}

/// Who asks, and what.
fn understand(mut arguments: Vec<(String, String)>, method: &Method, headers: &HeaderMap, body: Bytes) -> Result<Asked, Refusal> {
    let user = authenticate(&arguments, headers)?;
    if headers.get(header::CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity")
        || arguments.iter().any(|(name, value)| matches!(name.as_str(), "compress" | "decompress") && value != "0")
    {
        return Err(Refusal::new(48, "The front takes and gives no compressed bodies", "NOT_IMPLEMENTED"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut external = Vec::new();
    let mut rest = Vec::new();
    if let Some(boundary) = kind.strip_prefix("multipart/form-data; boundary=") {
        for part in form_parts(&body, boundary.trim_matches('"')) {
            match part.is_file {
                true => external.push(External::new(part, &arguments).map_err(|text| Refusal::new(36, &text, "BAD_ARGUMENTS"))?),
                false => arguments.push((part.name, String::from_utf8_lossy(&part.bytes).into_owned())),
            }
        }
    } else {
        rest = body.to_vec();
    }
    let mut text = Vec::new();
    for (_, query) in arguments.iter().filter(|(name, query)| name == "query" && !query.is_empty()) {
        text.extend_from_slice(query.as_bytes());
        text.push(b'\n');
    }
    text.extend_from_slice(&rest);
    if text.is_empty() {
        return Err(Refusal::new(62, "Syntax error: Empty query", "SYNTAX_ERROR"));
    }
    let readonly = if user == READER { Some(1) } else { (method == Method::GET).then_some(2) };
    Ok(Asked { arguments, text, external, readonly })
}

/// The user's name, where name and password are known.
fn authenticate(arguments: &[(String, String)], headers: &HeaderMap) -> Result<String, Refusal> {
    let argument = |name: &str| arguments.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let header = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    let basic = header("authorization").and_then(|text| statement::basic(&text));
    let (user, password) = match (header("x-clickhouse-user"), header("x-clickhouse-key"), basic) {
        (None, None, Some((user, password))) => (user, password),
        (None, None, None) => {
            (argument("user").unwrap_or_else(|| "default".to_owned()), argument("password").unwrap_or_default())
        }
        (user, password, _) => (user.unwrap_or_else(|| "default".to_owned()), password.unwrap_or_default()),
    };
    match (user.as_str(), password.as_str()) {
        ("default" | READER, "") | (USER, PASSWORD) => Ok(user),
        _ => {
            let text = format!("{user}: Authentication failed: password is incorrect, or there is no user with such name");
            Err(Refusal::new(516, &text, "AUTHENTICATION_FAILED"))
        }
    }
}

/// Runs what is asked, in its session or in one of its own.
async fn run(engine: &Arc<Engine>, asked: Asked) -> Result<Vec<u8>, Refusal> {
    let session = asked.argument("session_id").map(str::to_owned);
    let job: Job<Result<Vec<u8>, String>> = Box::new(move |connection| execute(connection, &asked));
    engine.run(session, job).await.map_err(Refusal)
}

/// The steps of the server: user, settings, database, external tables, statement.
fn execute(connection: &engine::Connection, asked: &Asked) -> Result<Vec<u8>, String> {
    let command = |sql: String| connection.query(&sql, "Null").map(|_| ());
    let literal = |text: &str| format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"));
    command(format!("USE {}", statement::quoted(asked.argument("database").unwrap_or("default"))))?;
    // A session would keep it.
    if let Some(level) = asked.readonly.filter(|_| asked.argument("session_id").is_none()) {
        command(format!("SET readonly = {level}"))?;
    }
    let settings: Vec<String> = asked
        .arguments
        .iter()
        .filter(|(name, _)| !RESERVED.contains(&name.as_str()) && !asked.external_argument(name))
        .map(|(name, value)| format!("{} = {}", statement::quoted(name), literal(value)))
        .collect();
    if !settings.is_empty() {
        command(format!("SET {}", settings.join(", ")))?;
    }
    for table in &asked.external {
        let name = statement::quoted(&table.name);
        command(format!("CREATE OR REPLACE TEMPORARY TABLE {name} ({}) ENGINE = Memory", table.structure))?;
        connection.insert(&format!("INSERT INTO {name}"), &table.format, &table.rows)?;
    }
    let answer = match Insert::read(&asked.text) {
        Some(insert) => connection.insert(&insert.statement, &insert.format, &asked.text[insert.data_at..]).map(|()| Vec::new()),
        None => {
            let text =
                std::str::from_utf8(&asked.text).map_err(|_| "Code: 62. DB::Exception: Syntax error: not UTF-8".to_owned())?;
            connection.query(text, asked.argument("default_format").unwrap_or("TabSeparated"))
        }
    };
    for table in &asked.external {
        command(format!("DROP TEMPORARY TABLE {}", statement::quoted(&table.name)))?;
    }
    answer
}

impl Asked {
    /// Whether an argument is taken for part of an external table.
    fn external_argument(&self, name: &str) -> bool {
        !self.external.is_empty() && ["_format", "_types", "_structure"].iter().any(|end| name.ends_with(end))
    }
}
