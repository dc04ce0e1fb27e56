//! HTTP to Pinecone: the only user of `reqwest`. It sends requests and reads answers; what they are about, others know.

use std::error::Error;
use std::fmt::Write as _;
use std::time::Duration;

use chrono::Utc;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use url::{Host, Url};

use super::errors::Failure;
use crate::sinks::SinkError;
use crate::sinks::vectors::config::{PineconeOptions, SINK};

/// The API that is spoken.
const VERSION: &str = "2025-10";
/// The log number of a write.
const WRITTEN: &str = "x-pinecone-request-lsn";
/// The log number up to which a read sees.
const INDEXED: &str = "x-pinecone-max-indexed-lsn";

/// A connection takes milliseconds; one that takes longer is not coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answers are some megabytes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// What is asked of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Read.
    Get,
    /// Read or write, by the path.
    Post,
    /// Delete.
    Delete,
}

/// One request, which can be sent again.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// What it is, in words, after "cannot".
    pub(super) what: String,
    /// What is asked.
    pub(super) method: Method,
    /// The segments of the path, not encoded.
    pub(super) path: Vec<String>,
    /// The query, not encoded.
    pub(super) query: Vec<(&'static str, String)>,
    /// The JSON that is sent.
    pub(super) body: Option<String>,
}

impl Request {
    /// A request without query and body.
    pub(super) fn new(what: impl Into<String>, method: Method, path: &[&str]) -> Self {
        let path = path.iter().map(|segment| (*segment).to_owned()).collect();
        Self { what: what.into(), method, path, query: Vec::new(), body: None }
    }

    /// The same with a body.
    pub(super) fn with(self, body: impl Into<String>) -> Self {
        Self { body: Some(body.into()), ..self }
    }
}

/// An answer that is a success.
#[derive(Debug)]
pub(super) struct Answer {
    /// The JSON that came.
    pub(super) body: Vec<u8>,
    /// The log number of what was written.
    pub(super) written: Option<u64>,
    /// The log number up to which was read.
    pub(super) indexed: Option<u64>,
}

impl Answer {
    /// The answer's JSON.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T, SinkError> {
        serde_json::from_slice(&self.body).map_err(|e| {
            let message = format!("cannot {what}: Pinecone's answer is none that the API of {VERSION} has: {e}");
            SinkError::permanent(SINK, message).because(e)
        })
    }
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct Failed {
    /// The HTTP status, where there was an answer.
    pub(super) status: Option<u16>,
    /// What the caller is told.
    pub(super) error: SinkError,
}

impl From<Failed> for SinkError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

/// The connection to one project.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    controller: Url,
    /// To keep it out of what a server says.
    key: crate::secret::Secret,
}

fn wrong(message: String) -> SinkError {
    SinkError::permanent(SINK, message)
}

impl Client {
    /// A client of the options' key. Connects to nothing.
    pub(super) fn new(options: &PineconeOptions) -> Result<Self, SinkError> {
        let Some(key) = options.api_key.clone() else {
            let message = "Pinecone needs a key: set `vectors.api_key` (DISTRIBUTARY_VECTORS_API_KEY), or `vectors.api_key_file`";
            return Err(wrong(message.to_owned()));
        };
        let mut header = HeaderValue::from_str(key.expose())
            .map_err(|_| wrong("`vectors.api_key` is no key: it has characters that a header cannot have".to_owned()))?;
        header.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("api-key", header);
        headers.insert("x-pinecone-api-version", HeaderValue::from_static(VERSION));
        let controller = Url::parse(&options.controller).ok().filter(|url| url.has_host());
        let controller = controller
            .ok_or_else(|| wrong("`vectors.controller` must be https://HOST, the control plane's address".to_owned()))?;
        if controller.scheme() != "https" && !is_plain_here(&controller) {
            let message = "`vectors.controller` must begin with https://: the key would be sent in the clear. Only an address of \
                           this machine may begin with http://";
            return Err(wrong(message.to_owned()));
        }
        let mut builder = reqwest::Client::builder()
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            // The key goes where the configuration says, and nowhere else.
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("distributary/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &options.ca_file {
            let read = std::fs::read(path).map_err(|e| e.to_string());
            let read = read.and_then(|pem| reqwest::Certificate::from_pem_bundle(&pem).map_err(|e| e.to_string()));
            let certificates = read.map_err(|e| wrong(format!("`vectors.ca_file`: cannot read {}: {e}", path.display())))?;
            if certificates.is_empty() {
                return Err(wrong(format!("`vectors.ca_file`: {} has no certificate (PEM)", path.display())));
            }
            builder = builder.tls_certs_only(certificates);
        }
        let http = builder.build().map_err(|e| wrong("cannot set up a client".to_owned()).because(e))?;
        Ok(Self { http, controller, key })
    }

    /// The control plane's address.
    pub(super) fn controller(&self) -> &Url {
        &self.controller
    }

    /// The address of an index, of which the control plane gave the host, usually without a scheme.
    pub(super) fn data_plane(&self, host: &str) -> Result<Url, SinkError> {
        let text = match host.contains("://") {
            true => host.to_owned(),
            false if is_plain_here(&self.controller) => format!("http://{host}"),
            false => format!("https://{host}"),
        };
        let url = Url::parse(&text).ok().filter(|url| url.scheme() == "https" || is_plain_here(url));
        // A control plane elsewhere has no business with this machine.
        let url = url.filter(|url| url.scheme() == "https" || is_plain_here(&self.controller));
        url.ok_or_else(|| wrong(format!("the control plane gave {host} as the index's host, which is no https address")))
    }

    /// Sends a request and reads the answer whole.
    pub(super) async fn send(&self, base: &Url, request: &Request) -> Result<Answer, Failed> {
        let mut url = base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(&request.path);
        }
        if !request.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&request.query);
        }
        let mut sent = match request.method {
            Method::Get => self.http.get(url),
            Method::Post => self.http.post(url),
            Method::Delete => self.http.delete(url),
        };
        if let Some(body) = &request.body {
            sent = sent.header(CONTENT_TYPE, "application/json").body(body.clone());
        }
        let answer = sent.send().await.map_err(|e| unreached(base, request, e))?;
        let status = answer.status();
        let number = |name| answer.headers().get(name)?.to_str().ok()?.parse().ok();
        let (written, indexed) = (number(WRITTEN), number(INDEXED));
        let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let body = answer.bytes().await.map_err(|e| unreached(base, request, e))?;
        if status.is_success() {
            return Ok(Answer { body: body.to_vec(), written, indexed });
        }
        let mut failure = Failure::read(status.as_u16(), &body, retry_after.as_deref(), Utc::now());
        failure.message = failure.message.replace(self.key.expose(), "[key]");
        Err(Failed { status: Some(status.as_u16()), error: failure.error(&request.what) })
    }
}

/// Whether the address is one of this machine without TLS, which nobody can listen to.
fn is_plain_here(url: &Url) -> bool {
    let here = match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    };
    url.scheme() == "http" && here
}

/// The error of a request without a whole answer: it may have been done.
fn unreached(base: &Url, request: &Request, error: reqwest::Error) -> Failed {
    let error = error.without_url();
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let _ = write!(said, ": {inner}");
        cause = inner.source();
    }
    let host = base.host_str().unwrap_or_default();
    let port = base.port().map_or_else(String::new, |port| format!(":{port}"));
    let message = format!("cannot {}: no answer from {host}{port}: {said}", request.what);
    // A certificate that is not accepted is refused again next time.
    let is_refused = ["certificate", "UnknownIssuer", "NotValidForName"].iter().any(|sign| said.contains(sign));
    let error = if error.is_builder() || is_refused {
        SinkError::permanent(SINK, message).because(error)
    } else {
        SinkError::transient(SINK, message).because(error)
    };
    Failed { status: None, error }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(controller: &str) -> PineconeOptions {
        PineconeOptions { api_key: Some("PLANTED".into()), controller: controller.to_owned(), ..PineconeOptions::of("films") }
    }

    #[test]
    fn the_key_is_sent_over_tls_alone_and_never_shown() {
        let client = Client::new(&options("https://api.pinecone.io")).unwrap();
        assert!(!format!("{client:?}").contains("PLANTED"));
        for (host, expected) in [("a-1.svc.pinecone.io", Some("https://a-1.svc.pinecone.io/")), ("http://a.io", None), ("", None)]
        {
            assert_eq!(client.data_plane(host).ok().map(String::from).as_deref(), expected, "{host}");
        }
        assert!(client.data_plane("http://127.0.0.1:1").is_err(), "a control plane elsewhere does not send the key here");
        for refused in ["http://api.pinecone.io", "http://10.0.0.1", "ftp://127.0.0.1", "api", ""] {
            assert!(Client::new(&options(refused)).is_err(), "{refused}");
        }
        for here in ["http://127.0.0.1:5080", "http://localhost:5080", "http://[::1]:5080"] {
            let client = Client::new(&options(here)).unwrap();
            assert_eq!(client.data_plane("localhost:5081").unwrap().as_str(), "http://localhost:5081/");
            assert!(client.data_plane("http://10.0.0.1:5081").is_err());
        }
    }

    #[test]
    fn what_is_missing_is_named() {
        let without = PineconeOptions { api_key: None, ..options("https://api.pinecone.io") };
        assert!(Client::new(&without).unwrap_err().message.contains("DISTRIBUTARY_VECTORS_API_KEY"));
        let broken = PineconeOptions { api_key: Some("PLAN\nTED".into()), ..options("https://api.pinecone.io") };
        let error = Client::new(&broken).unwrap_err();
        assert!(error.message.contains("vectors.api_key") && !error.message.contains("TED"), "{error}");
        let no_file = PineconeOptions { ca_file: Some("no/such.pem".into()), ..options("https://api.pinecone.io") };
        assert!(Client::new(&no_file).unwrap_err().message.contains("no/such.pem"));
    }
}
