//! The way to the server: a channel, the key on every request, and what each of the server's answers asks of the caller. The only
//! place that knows tonic.

use std::fmt;
use std::time::Duration;

use qdrant_client::qdrant::collections_client::CollectionsClient;
use qdrant_client::qdrant::points_client::PointsClient;
use qdrant_client::qdrant::qdrant_client::QdrantClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Response, Status};

use crate::sinks::vectors::config::{QdrantOptions, SINK};
use crate::sinks::{Class, SinkError};

/// Where gRPC listens.
const PORT: u16 = 6334;

/// A server that does not take a connection for so long is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// An idle connection is looked after, so that one that broke silently is noticed before it is needed.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The name of the key in the metadata of a request.
const API_KEY: &str = "api-key";

/// Puts the key on each request.
#[derive(Clone)]
pub(super) struct Key(Option<MetadataValue<Ascii>>);

impl Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(key) = &self.0 {
            request.metadata_mut().insert(API_KEY, key.clone());
        }
        Ok(request)
    }
}

type Service = InterceptedService<Channel, Key>;

/// A server's services.
#[derive(Clone)]
pub(super) struct Client {
    channel: Channel,
    key: Key,
    /// The server as it is named to people.
    pub(super) address: String,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Client {
    /// The way to the server, which is gone when it is first asked.
    pub(super) fn new(options: &QdrantOptions) -> Result<Self, SinkError> {
        let is_secret = options.url.scheme().ends_with("+s");
        let (host, port) = (options.url.host_str().unwrap_or_default(), options.url.port().unwrap_or(PORT));
        let scheme = if is_secret { "https" } else { "http" };
        let address = format!("{}://{host}:{port}", options.url.scheme());
        let wrong = |why: &tonic::transport::Error| {
            SinkError::permanent(SINK, format!("cannot use the address {address}: {why}{}", causes(why, "")))
        };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{host}:{port}"))
            .map_err(|e| wrong(&e))?
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(options.timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(options.timeout)
            .keep_alive_while_idle(true);
        if is_secret {
            endpoint = endpoint.tls_config(tls(options)?).map_err(|e| wrong(&e))?;
        } else if options.ca_file.is_some() {
            let message = "`vectors.ca_file` is given, and `vectors.url` asks for no TLS: write qdrant+s://…".to_owned();
            return Err(SinkError::permanent(SINK, message));
        }
        let key = options.api_key.as_ref().map(|key| {
            let mut key: MetadataValue<Ascii> = key.expose().parse().map_err(|_| {
                SinkError::permanent(SINK, "`vectors.api_key` has characters that a key cannot have: only visible ASCII is sent")
            })?;
            key.set_sensitive(true);
            Ok::<_, SinkError>(key)
        });
        Ok(Self { channel: endpoint.connect_lazy(), key: Key(key.transpose()?), address })
    }

    fn service(&self) -> Service {
        InterceptedService::new(self.channel.clone(), self.key.clone())
    }

    /// What is done with points.
    pub(super) fn points(&self) -> PointsClient<Service> {
        PointsClient::new(self.service()).max_decoding_message_size(usize::MAX)
    }

    /// What is done with collections.
    pub(super) fn collections(&self) -> CollectionsClient<Service> {
        CollectionsClient::new(self.service()).max_decoding_message_size(usize::MAX)
    }

    /// What the server says of itself.
    pub(super) fn about(&self) -> QdrantClient<Service> {
        QdrantClient::new(self.service())
    }

    /// The answer, or what went wrong with `what`.
    pub(super) fn answer<T>(&self, what: &str, answer: Result<Response<T>, Status>) -> Result<T, SinkError> {
        answer.map(Response::into_inner).map_err(|status| self.refused(what, &status))
    }

    /// The answer; none where the collection is not there.
    pub(super) fn found<T>(&self, what: &str, answer: Result<Response<T>, Status>) -> Result<Option<T>, SinkError> {
        match answer {
            Err(status) if status.code() == Code::NotFound => Ok(None),
            answer => self.answer(what, answer).map(Some),
        }
    }

    /// The error of a call that went wrong.
    pub(super) fn refused(&self, what: &str, status: &Status) -> SinkError {
        refused(what, &self.address, status)
    }
}

fn tls(options: &QdrantOptions) -> Result<ClientTlsConfig, SinkError> {
    let Some(file) = &options.ca_file else { return Ok(ClientTlsConfig::new().with_native_roots()) };
    let pem = std::fs::read(file)
        .map_err(|e| SinkError::permanent(SINK, format!("`vectors.ca_file`: cannot read {}: {e}", file.display())).because(e))?;
    Ok(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
}

/// The class of each code. `is_local` says that no server answered, as when a connection breaks.
fn class(code: Code, is_local: bool) -> Class {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Aborted | Code::Cancelled => {
            Class::Transient
        }
        Code::Internal | Code::Unknown if is_local => Class::Transient,
        _ => Class::Permanent,
    }
}

fn refused(what: &str, address: &str, status: &Status) -> SinkError {
    let is_local = std::error::Error::source(status).is_some();
    let causes = causes(status, status.message());
    let hint = match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => {
            "; check `vectors.api_key` (DISTRIBUTARY_VECTORS_API_KEY): the key must be allowed to write"
        }
        _ => "",
    };
    let code = status.code();
    let message = format!("cannot {what} at {address}: {code:?}: {}{causes}{hint}", status.message());
    let error = match class(code, is_local) {
        Class::Transient => SinkError::transient(SINK, message),
        _ => SinkError::permanent(SINK, message),
    };
    match retry_after(status) {
        Some(pause) => error.after(pause),
        None => error,
    }
}

/// What is behind an error, without what was said before: the outer errors often only repeat that there is one.
fn causes(error: &dyn std::error::Error, said: &str) -> String {
    let (mut all, mut cause) = (String::new(), error.source());
    while let Some(error) = cause {
        let text = error.to_string();
        if !text.is_empty() && !said.contains(&text) && !all.contains(&text) {
            all.push_str(": ");
            all.push_str(&text);
        }
        cause = error.source();
    }
    all
}

/// How long the server wants to be left alone, in whole seconds.
fn retry_after(status: &Status) -> Option<Duration> {
    let seconds = status.metadata().get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use url::Url;

    #[test]
    fn each_code_has_a_class() {
        for (code, local, class) in [
            (Code::Unavailable, false, Class::Transient),
            (Code::DeadlineExceeded, false, Class::Transient),
            (Code::ResourceExhausted, false, Class::Transient),
            (Code::Aborted, false, Class::Transient),
            (Code::Cancelled, true, Class::Transient),
            (Code::Internal, true, Class::Transient),
            (Code::Unknown, true, Class::Transient),
            (Code::Internal, false, Class::Permanent),
            (Code::Unknown, false, Class::Permanent),
            (Code::InvalidArgument, false, Class::Permanent),
            (Code::NotFound, false, Class::Permanent),
            (Code::AlreadyExists, false, Class::Permanent),
            (Code::PermissionDenied, false, Class::Permanent),
            (Code::Unauthenticated, false, Class::Permanent),
            (Code::FailedPrecondition, false, Class::Permanent),
            (Code::OutOfRange, false, Class::Permanent),
            (Code::Unimplemented, false, Class::Permanent),
            (Code::DataLoss, false, Class::Permanent),
        ] {
            assert_eq!(super::class(code, local), class, "{code:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_to_do_and_how_long_to_wait() {
        let error = refused("write to titles", "qdrant://here:6334", &Status::unauthenticated("Invalid API key"));
        assert_eq!((error.class, error.retry_after), (Class::Permanent, None));
        for part in
            ["write to titles", "qdrant://here:6334", "Invalid API key", "vectors.api_key", "DISTRIBUTARY_VECTORS_API_KEY"]
        {
            assert!(error.message.contains(part), "{error}");
        }
        let mut status = Status::resource_exhausted("Rate limiting exceeded");
        status.metadata_mut().insert("retry-after", "7".parse().unwrap());
        let error = refused("write to titles", "qdrant://here:6334", &status);
        assert_eq!((error.class, error.retry_after), (Class::Transient, Some(Duration::from_secs(7))));
    }

    #[tokio::test]
    async fn an_address_has_a_port_and_a_key_is_not_shown() {
        let at = |url: &str| QdrantOptions::at(Url::parse(url).unwrap());
        assert_eq!(Client::new(&at("qdrant://here")).unwrap().address, "qdrant://here:6334");
        assert_eq!(Client::new(&at("qdrant+s://here:1")).unwrap().address, "qdrant+s://here:1");
        let key = QdrantOptions { api_key: Some("PLANTED".into()), ..at("qdrant://here") };
        assert!(!format!("{:?}", Client::new(&key).unwrap()).contains("PLANTED"));
        let key = QdrantOptions { api_key: Some("PLANTED\n".into()), ..at("qdrant://here") };
        let error = Client::new(&key).unwrap_err();
        assert!(error.message.contains("vectors.api_key") && !error.message.contains("PLANTED"), "{error}");
        let plain = QdrantOptions { ca_file: Some("ca.pem".into()), ..at("qdrant://here") };
        assert!(Client::new(&plain).unwrap_err().message.contains("qdrant+s"));
        let missing = QdrantOptions { ca_file: Some("no/ca.pem".into()), ..at("qdrant+s://here") };
        assert!(Client::new(&missing).unwrap_err().message.contains("no/ca.pem"));
    }
}
