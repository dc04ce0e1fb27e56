//! A ClickHouse server over HTTP(S): the same statements and Arrow bytes that the engine in this process takes, as requests. The only
//! user of the HTTP client here; it knows no targets and no Arrow.
//!
//! Each request stands alone: no session, no cookie, so that any replica behind one address may answer it. A statement travels in the
//! body, rows of an insert in the body with their statement in the address, and a table that exists for one statement as
//! `multipart/form-data`, which ClickHouse calls external data. User and password are headers and never part of an address.

use std::error::Error;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Certificate, Client, redirect};
use url::Url;
use uuid::Uuid;

use super::NAME;
use super::answer::{Head, rows_of};
use super::client::{EngineError, External, Transport, UNKNOWN_DATABASE};
use super::config::ServerOptions;
use crate::sinks::{Class, SinkError};

/// How long a server may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Servers close connections that idle for three seconds and more; one that is older is not used again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A server.
pub(super) struct Http {
    client: Client,
    url: Url,
    database: String,
    settings: Vec<(String, String)>,
    timeout: Duration,
    closed: AtomicBool,
}

impl fmt::Debug for Http {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http").field("url", &self.url.as_str()).field("database", &self.database).finish_non_exhaustive()
    }
}

impl Http {
    /// A client for the server, which is not asked yet.
    ///
    /// # Errors
    /// [`Class::Permanent`] when the certificates cannot be read, or user or password cannot be sent.
    pub(super) fn new(options: &ServerOptions) -> Result<Self, SinkError> {
        let mut builder = Client::builder()
            .default_headers(credentials(options)?)
            .user_agent(concat!("distributary/", env!("CARGO_PKG_VERSION")))
            // The password goes to the server that was named, and to no other.
            .redirect(redirect::Policy::none())
            .http1_only()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(options.timeout)
            .pool_idle_timeout(IDLE_TIMEOUT);
        if let Some(path) = &options.ca_file {
            let failed = |why: String| {
                let message = format!("cannot use {} as `clickhouse.ca_file`: {why}", path.display());
                SinkError::permanent(NAME, message)
            };
            let pem = std::fs::read(path).map_err(|error| failed(error.to_string()).because(error))?;
            let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.to_string()).because(error))?;
            if certificates.is_empty() {
                return Err(failed("it holds no certificate in PEM form".to_owned()));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let client = builder.build().map_err(|error| {
            let message = format!("cannot set up connections to {}: {}", options.url, chain(&error));
            SinkError::permanent(NAME, message).because(error)
        })?;
        Ok(Self {
            client,
            url: options.url.clone(),
            database: options.database.clone(),
            settings: Vec::new(),
            timeout: options.timeout,
            closed: AtomicBool::new(false),
        })
    }

    /// The same with these settings in every request.
    pub(super) fn with_settings(mut self, settings: Vec<(String, String)>) -> Self {
        self.settings = settings;
        self
    }

    /// Runs a statement that does not need the database.
    pub(super) async fn outside(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError> {
        self.send(self.address(&[("default_format", format)], None), None, sql.into_bytes()).await
    }

    /// The address of a request: the server's, the settings, and what else it asks for.
    fn address(&self, more: &[(&str, &str)], database: Option<&str>) -> Url {
        let mut url = self.url.clone();
        {
            let mut pairs = url.query_pairs_mut();
            pairs.extend_pairs(more);
            if let Some(database) = database {
                pairs.append_pair("database", database);
            }
            pairs.extend_pairs(&self.settings);
        }
        url
    }

    async fn send(&self, url: Url, kind: Option<&str>, body: Vec<u8>) -> Result<Vec<u8>, EngineError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(EngineError::said(Class::Permanent, "the sink was closed"));
        }
        let mut request = self.client.post(url).body(body);
        if let Some(kind) = kind {
            request = request.header(CONTENT_TYPE, kind);
        }
        let response = request.send().await.map_err(|error| self.broken(error))?;
        let head = head(response.status().as_u16(), response.headers());
        match response.bytes().await {
            Ok(body) => rows_of(&head, body.into()),
            // The status came, the reason did not.
            Err(_) if head.status != 200 || head.code.is_some() => Err(rows_of(&head, Vec::new())
                .err()
                .unwrap_or_else(|| EngineError::said(Class::Transient, "the answer broke off"))),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// What became of a request that was not answered whole. It may have been done.
    fn broken(&self, error: reqwest::Error) -> EngineError {
        let place = self.url.origin().ascii_serialization();
        let class = if error.is_builder() { Class::Permanent } else { Class::Transient };
        let message = if error.is_timeout() && !error.is_connect() {
            format!("{place} gave no answer for {} s", self.timeout.as_secs_f64())
        } else if error.is_connect() {
            format!("cannot reach {place}: {}", chain(&error.without_url()))
        } else {
            format!("the exchange with {place} broke off: {}", chain(&error.without_url()))
        };
        EngineError::said(class, message)
    }
}

/// An error with its causes, which the client's own text leaves out.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The headers that say who asks.
fn credentials(options: &ServerOptions) -> Result<HeaderMap, SinkError> {
    let mut headers = HeaderMap::new();
    let user = options.user.as_deref().map(|user| ("x-clickhouse-user", "clickhouse.user", user));
    let password = options.password.as_ref().map(|key| ("x-clickhouse-key", "clickhouse.password", key.expose()));
    for (name, option, text) in [user, password].into_iter().flatten() {
        // The error of the conversion is not kept: it could show what it converted.
        let mut value = HeaderValue::from_bytes(text.as_bytes()).map_err(|_| {
            SinkError::permanent(NAME, format!("`{option}` has a control character, which no HTTP header can carry"))
        })?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_static(name), value);
    }
    Ok(headers)
}

fn head(status: u16, headers: &HeaderMap) -> Head {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    Head {
        status,
        code: text("x-clickhouse-exception-code").and_then(|code| code.parse().ok()),
        tag: text("x-clickhouse-exception-tag").map(str::to_owned),
        retry_after: text(RETRY_AFTER.as_str()).and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs),
    }
}

/// A form with one file: the rows of an external table. Answers its kind and its bytes.
fn form(table: &External) -> (String, Vec<u8>) {
    // Rows cannot hold what nobody knew before.
    let boundary = format!("distributary-{}", Uuid::new_v4().simple());
    let name = table.name;
    let mut body = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"{name}\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n"
    )
    .into_bytes();
    body.extend_from_slice(&table.rows);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (format!("multipart/form-data; boundary={boundary}"), body)
}

#[async_trait]
impl Transport for Http {
    async fn query(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError> {
        let url = self.address(&[("default_format", format)], Some(&self.database));
        self.send(url, None, sql.into_bytes()).await
    }

    async fn query_with(&self, sql: String, format: &'static str, table: External) -> Result<Vec<u8>, EngineError> {
        let (form_format, form_structure) = (format!("{}_format", table.name), format!("{}_structure", table.name));
        let more = [
            ("query", sql.as_str()),
            ("default_format", format),
            (form_format.as_str(), "ArrowStream"),
            (form_structure.as_str(), table.structure.as_str()),
        ];
        let url = self.address(&more, Some(&self.database));
        let (kind, body) = form(&table);
        drop(table);
        self.send(url, Some(&kind), body).await
    }

    async fn insert(&self, sql: String, rows: Vec<u8>, token: &str) -> Result<(), EngineError> {
        let sql = format!("{sql} FORMAT ArrowStream");
        let url = self.address(&[("query", &sql), ("insert_deduplication_token", token)], Some(&self.database));
        self.send(url, Some("application/octet-stream"), rows).await.map(|_| ())
    }

    async fn ask(&self, sql: String, format: &'static str) -> Result<Vec<u8>, EngineError> {
        match self.query(sql.clone(), format).await {
            // A person dropped the database; the statement may be the one that makes it again.
            Err(error) if error.code == Some(UNKNOWN_DATABASE) => self.outside(sql, format).await,
            other => other,
        }
    }

    async fn close(&self) -> Result<(), EngineError> {
        self.closed.store(true, Ordering::Release);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn options() -> ServerOptions {
        let mut options = ServerOptions::at(Url::parse("http://localhost:8123/way/").unwrap());
        options.database = "a&b".into();
        options.user = Some("me".into());
        options.password = Some(Secret::from("PLANTED"));
        options
    }

    #[test]
    fn an_address_carries_settings_and_no_secret() {
        let http = Http::new(&options()).unwrap().with_settings(vec![("async_insert".into(), "0".into())]);
        let url = http.address(&[("query", "INSERT INTO `é` (a)"), ("default_format", "Null")], Some("a&b"));
        assert_eq!(
            url.as_str(),
            "http://localhost:8123/way/?query=INSERT+INTO+%60%C3%A9%60+%28a%29&default_format=Null&database=a%26b&async_insert=0"
        );
        assert!(!format!("{http:?}").contains("PLANTED"));
        let headers = credentials(&options()).unwrap();
        assert_eq!(headers["x-clickhouse-user"], "me");
        assert_eq!(headers["x-clickhouse-key"], "PLANTED");
        assert!(!format!("{headers:?}").contains("PLANTED"), "it is marked as a secret");
    }

    #[test]
    fn what_cannot_be_sent_or_read_is_named() {
        let mut bad = options();
        bad.password = Some(Secret::from("PLANTED\n"));
        let error = Http::new(&bad).unwrap_err();
        assert!(error.message.contains("clickhouse.password") && !format!("{error:?}").contains("PLANTED"), "{error}");
        let mut bad = options();
        bad.ca_file = Some("no/such/ca.pem".into());
        assert!(Http::new(&bad).unwrap_err().message.contains("no/such/ca.pem"));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a certificate").unwrap();
        bad.ca_file = Some(file.path().into());
        assert!(Http::new(&bad).unwrap_err().message.contains("no certificate"));
    }

    #[test]
    fn a_form_holds_the_rows_as_they_are() {
        let table = External { name: "keys", structure: "a Int64".into(), rows: b"\r\n--\0\xff".to_vec() };
        let (kind, body) = form(&table);
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let text = String::from_utf8_lossy(&body).into_owned();
        assert!(
            text.starts_with(&format!("--{boundary}\r\nContent-Disposition: form-data; name=\"keys\"; filename=\"keys\"\r\n"))
        );
        let mut end = b"\r\n\r\n\r\n--\0\xff".to_vec();
        end.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(body.ends_with(&end));
        assert_ne!(form(&table).0, kind);
    }

    #[test]
    fn the_head_of_an_answer() {
        let mut headers = HeaderMap::new();
        headers.insert("X-ClickHouse-Exception-Code", HeaderValue::from_static("60"));
        headers.insert("X-ClickHouse-Exception-Tag", HeaderValue::from_static("abc"));
        headers.insert("Retry-After", HeaderValue::from_static("7"));
        let known = Head { status: 404, code: Some(60), tag: Some("abc".into()), retry_after: Some(Duration::from_secs(7)) };
        assert_eq!(head(404, &headers), known);
        headers.insert("Retry-After", HeaderValue::from_static("Wed, 21 Oct 2026 07:28:00 GMT"));
        assert_eq!(head(404, &headers).retry_after, None);
    }
}
