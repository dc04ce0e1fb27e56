//! A TCP proxy between a client and a server that spoils what goes through it, as it is told. Faults are data, queued with the moment at
//! which each happens; without any the proxy is a wire. It knows enough of HTTP/2 to tell an answer from what connections say of
//! themselves, and nothing else of what it carries.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::{ServerConfig, crypto, pki_types::PrivatePkcs8KeyDer};

/// How it goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The next connection is reset before anything is said.
    Refuse,
    /// The connection is reset when half of what the client sends is with the server.
    ResetBefore,
    /// The server acts, its answer is lost, the connection is reset.
    ResetAfter,
    /// Half of the answer arrives, then the connection ends.
    Truncate,
    /// The server acts, its answer never comes, and the connection stays.
    Silence,
    /// Half of what the client sends reaches the server, then nothing goes either way, and the connection stays.
    Withhold,
    /// The answer comes byte by byte.
    Drip,
    /// HTTP: the proxy answers itself, with a status and with or without a `Retry-After` of so many seconds. The server hears nothing.
    Answer(u16, Option<u32>),
}

/// When a fault happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum When {
    /// The client sends for the n-th time, counted from 0 over all connections since [`Proxy::reset`].
    Sent(usize),
    /// The client sends something that contains these bytes, for the n-th time from now, counted from 0.
    Contains(Vec<u8>, usize),
    /// The fault before it has happened.
    Next,
}

#[derive(Debug, Default)]
struct Plan {
    faults: Mutex<VecDeque<(When, Fault)>>,
    sent: AtomicUsize,
    happened: AtomicUsize,
    listener: Mutex<Option<mpsc::Sender<bool>>>,
}

impl Plan {
    fn faults(&self) -> std::sync::MutexGuard<'_, VecDeque<(When, Fault)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fault has happened. What is slow is none that anybody must notice.
    fn count(&self) {
        self.happened.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the connection that was just made is refused.
    fn refuses(&self) -> bool {
        let mut faults = self.faults();
        let due = |place: usize, when: &When| match when {
            When::Sent(n) => *n <= self.sent.load(Ordering::SeqCst),
            When::Contains(..) => false,
            When::Next => place == 0,
        };
        let place = faults.iter().enumerate().position(|(place, (when, fault))| *fault == Fault::Refuse && due(place, when));
        let refused = place.and_then(|place| faults.remove(place));
        refused.inspect(|_| self.count()).is_some()
    }

    /// From now on nothing is heard on some connection.
    fn fell_silent(&self) {
        if let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
            // Who listened may have gone.
            let _ = listener.send(true);
        }
    }

    /// The fault that begins with what the client has just sent.
    fn on_sent(&self, bytes: &[u8]) -> Option<Fault> {
        let number = self.sent.fetch_add(1, Ordering::SeqCst);
        let mut faults = self.faults();
        let mut due = None;
        for (place, (when, fault)) in faults.iter_mut().enumerate().filter(|(_, (_, fault))| *fault != Fault::Refuse) {
            let is_due = match when {
                When::Sent(n) => number >= *n,
                When::Next => place == 0,
                When::Contains(wanted, left) => {
                    let contains = bytes.windows(wanted.len()).any(|part| part == wanted);
                    if contains && *left > 0 {
                        *left -= 1;
                        false
                    } else {
                        contains
                    }
                }
            };
            if is_due {
                due = Some((place, fault.clone()));
                break;
            }
        }
        let (place, fault) = due?;
        faults.remove(place);
        Some(fault)
    }
}

/// A proxy on a loopback port, which ends when it is dropped.
pub(crate) struct Proxy {
    address: SocketAddr,
    plan: Arc<Plan>,
    certificate: Option<String>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Before a server at `127.0.0.1:PORT`, or whatever the host is.
    pub(crate) fn before(server: &str) -> Self {
        Self::start(server.to_owned(), None, None)
    }

    /// The same, speaking TLS to clients with a certificate that no authority signed.
    pub(crate) fn with_tls_before(server: &str) -> Self {
        let own = rcgen::generate_simple_self_signed(vec!["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start(server.to_owned(), Some(TlsAcceptor::from(Arc::new(config))), Some(own.cert.pem()))
    }

    fn start(server: String, tls: Option<TlsAcceptor>, certificate: Option<String>) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (plan, (end, ended)) = (Arc::new(Plan::default()), oneshot::channel());
        let of_thread = plan.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, server, tls, of_thread) => {}
                    _ = ended => {}
                }
            });
        });
        Self { address, plan, certificate, end: Some(end), thread: Some(thread) }
    }

    /// Where clients find it: host and port.
    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    /// The certificate that it shows, as PEM.
    pub(crate) fn certificate(&self) -> &str {
        self.certificate.as_deref().unwrap()
    }

    /// A fault to come.
    pub(crate) fn push(&self, when: When, fault: Fault) {
        self.plan.faults().push_back((when, fault));
    }

    /// How often clients have sent something.
    pub(crate) fn sent(&self) -> usize {
        self.plan.sent.load(Ordering::SeqCst)
    }

    /// How many faults happened.
    pub(crate) fn happened(&self) -> usize {
        self.plan.happened.load(Ordering::SeqCst)
    }

    /// Who is told `true` when a connection has fallen silent: the server has acted, or has heard half.
    pub(crate) fn tell(&self, listener: mpsc::Sender<bool>) {
        *self.plan.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(listener);
    }

    /// Counts anew and forgets the faults that have not happened.
    pub(crate) fn reset(&self) {
        self.plan.faults().clear();
        self.plan.sent.store(0, Ordering::SeqCst);
        self.plan.happened.store(0, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, server: String, tls: Option<TlsAcceptor>, plan: Arc<Plan>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        if plan.refuses() {
            reset(&client);
            continue;
        }
        let (server, tls, plan) = (server.clone(), tls.clone(), plan.clone());
        tokio::spawn(async move {
            // Whoever ends a connection has its reasons; the other side is told by the end of its own.
            let _ = connection(client, &server, tls, &plan).await;
        });
    }
}

/// From now on the end of the connection is a reset.
fn reset(stream: &TcpStream) {
    stream.set_zero_linger().unwrap();
}

async fn connection(client: TcpStream, server: &str, tls: Option<TlsAcceptor>, plan: &Plan) -> io::Result<()> {
    client.set_nodelay(true)?;
    let upstream = TcpStream::connect(server).await?;
    upstream.set_nodelay(true)?;
    match tls {
        None => {
            let mut client = client;
            if carry(&mut client, upstream, plan).await? == End::Reset {
                reset(&client);
            }
        }
        Some(tls) => {
            let mut client = tls.accept(client).await?;
            if carry(&mut client, upstream, plan).await? == End::Reset {
                reset(client.get_ref().0);
            }
        }
    }
    Ok(())
}

/// How a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

/// Tells in what a server sends over HTTP/2 whether an answer begins.
#[derive(Default)]
struct Frames {
    is_http2: bool,
    head: Vec<u8>,
    /// Bytes left of the frame under way.
    left: usize,
}

impl Frames {
    /// Whether these bytes are of an answer: in HTTP/2 if a frame of headers begins in them, else always.
    fn is_answer(&mut self, mut bytes: &[u8]) -> bool {
        if !self.is_http2 {
            return true;
        }
        let mut answer = false;
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let taken = (9 - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if let [a, b, c, kind, ..] = self.head[..]
                && self.head.len() == 9
            {
                self.left = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                answer |= kind == 1;
                self.head.clear();
            }
        }
        answer
    }
}

async fn carry<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, mut upstream: TcpStream, plan: &Plan) -> io::Result<End> {
    let (mut asked, mut told) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let (mut armed, mut frames, mut first) = (None, Frames::default(), true);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let bytes = &asked[..read?];
                if bytes.is_empty() {
                    return Ok(End::Closed);
                }
                frames.is_http2 |= std::mem::take(&mut first) && bytes.starts_with(b"PRI * HTTP/2");
                match plan.on_sent(bytes) {
                    Some(fault @ (Fault::ResetBefore | Fault::Withhold)) => {
                        plan.count();
                        upstream.write_all(&bytes[..bytes.len() / 2]).await?;
                        if fault == Fault::Withhold {
                            return silence(client, plan).await;
                        }
                        reset(&upstream);
                        return Ok(End::Reset);
                    }
                    Some(Fault::Answer(status, after)) => {
                        plan.count();
                        return answer(client, status, after).await;
                    }
                    fault => armed = fault.or(armed),
                }
                upstream.write_all(bytes).await?;
            }
            read = upstream.read(&mut told) => {
                let bytes = &told[..read?];
                if bytes.is_empty() {
                    return Ok(End::Closed);
                }
                let answers = frames.is_answer(bytes);
                if let Some(fault) = armed.take_if(|_| answers) {
                    if let Some(end) = spoil(client, bytes, &fault, plan).await? {
                        return Ok(end);
                    }
                } else {
                    client.write_all(bytes).await?;
                }
            }
        }
    }
}

/// What becomes of an answer; none when the connection goes on.
async fn spoil<C: AsyncRead + AsyncWrite + Unpin>(
    client: &mut C,
    bytes: &[u8],
    fault: &Fault,
    plan: &Plan,
) -> io::Result<Option<End>> {
    if *fault == Fault::Drip {
        for byte in bytes {
            client.write_all(&[*byte]).await?;
            client.flush().await?;
            tokio::task::yield_now().await;
        }
        return Ok(None);
    }
    plan.count();
    match fault {
        Fault::Truncate => {
            client.write_all(&bytes[..bytes.len() / 2]).await?;
            client.shutdown().await?;
            Ok(Some(End::Closed))
        }
        Fault::Silence => silence(client, plan).await.map(Some),
        _ => Ok(Some(End::Reset)),
    }
}

/// Nothing is heard any more, until the client goes.
async fn silence<C: AsyncRead + Unpin>(client: &mut C, plan: &Plan) -> io::Result<End> {
    plan.fell_silent();
    let mut rest = [0; 4096];
    while client.read(&mut rest).await? > 0 {}
    Ok(End::Closed)
}

/// Answers in the server's place, and takes what the client still has to send.
async fn answer<C: AsyncRead + AsyncWrite + Unpin>(client: &mut C, status: u16, after: Option<u32>) -> io::Result<End> {
    let after = after.map_or_else(String::new, |seconds| format!("retry-after: {seconds}\r\n"));
    let text = format!("HTTP/1.1 {status} Told\r\ncontent-length: 4\r\nconnection: close\r\n{after}\r\nbusy");
    client.write_all(text.as_bytes()).await?;
    client.shutdown().await?;
    let mut rest = [0; 4096];
    while client.read(&mut rest).await? > 0 {}
    Ok(End::Closed)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// Answers each line with the same in capitals, and says what it got.
    fn echo() -> (String, std::sync::mpsc::Receiver<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (heard, hears) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, heard) = (stream.unwrap(), heard.clone());
                std::thread::spawn(move || {
                    let mut bytes = [0; 64];
                    while let Ok(count) = stream.read(&mut bytes) {
                        let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                        // The test may be over.
                        let _ = heard.send(text.clone());
                        if count == 0 || stream.write_all(text.to_uppercase().as_bytes()).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        (address, hears)
    }

    fn ask(proxy: &Proxy, text: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(proxy.address())?;
        stream.write_all(text.as_bytes())?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer)?;
        Ok(String::from_utf8(answer).unwrap())
    }

    #[test]
    fn each_fault_does_what_it_says_and_is_over() {
        let (server, heard) = echo();
        let proxy = Proxy::before(&server);
        assert_eq!(ask(&proxy, "hello").unwrap(), "HELLO");
        // Ends of connections come when they come.
        let hears = || heard.iter().find(|text| !text.is_empty()).unwrap();
        assert_eq!(hears(), "hello");
        for (fault, reaches, error) in [
            (Fault::Refuse, "", true),
            (Fault::ResetBefore, "he", true),
            (Fault::ResetAfter, "hello", true),
            (Fault::Truncate, "hello", true),
            (Fault::Drip, "hello", false),
        ] {
            proxy.reset();
            proxy.push(When::Sent(0), fault.clone());
            let answer = ask(&proxy, "hello");
            assert_eq!(answer.is_err(), error, "{fault:?}: {answer:?}");
            assert_eq!(proxy.happened(), usize::from(error), "{fault:?}");
            if !reaches.is_empty() {
                assert_eq!(hears(), reaches, "{fault:?}");
            }
            assert_eq!(ask(&proxy, "again").unwrap(), "AGAIN", "{fault:?} is over");
            assert_eq!(hears(), "again");
        }
    }

    #[test]
    fn the_proxy_answers_itself_and_waits_for_its_moment() {
        let (server, _heard) = echo();
        let proxy = Proxy::before(&server);
        proxy.push(When::Contains(b"two".to_vec(), 1), Fault::Answer(503, Some(7)));
        assert_eq!(ask(&proxy, "one").unwrap(), "ONE");
        assert_eq!(ask(&proxy, "and two").unwrap(), "AND TWO");
        let mut stream = TcpStream::connect(proxy.address()).unwrap();
        stream.write_all(b"and two").unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 7\r\n"), "{answer}");
        assert_eq!((proxy.sent(), proxy.happened()), (3, 1));
        assert_eq!(ask(&proxy, "and two").unwrap(), "AND TWO");
    }

    #[test]
    fn an_answer_that_never_comes_is_not_there() {
        for (fault, reaches) in [(Fault::Silence, "hello"), (Fault::Withhold, "he")] {
            let (server, heard) = echo();
            let proxy = Proxy::before(&server);
            let (tell, told) = mpsc::channel();
            proxy.tell(tell);
            proxy.push(When::Sent(0), fault);
            let mut stream = TcpStream::connect(proxy.address()).unwrap();
            stream.write_all(b"hello").unwrap();
            assert_eq!(heard.recv().unwrap(), reaches);
            assert!(told.recv().unwrap());
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!((answer.as_str(), proxy.happened()), ("", 1));
        }
    }

    #[test]
    fn a_fault_can_follow_another() {
        let (server, _heard) = echo();
        let proxy = Proxy::before(&server);
        proxy.push(When::Contains(b"two".to_vec(), 0), Fault::ResetBefore);
        proxy.push(When::Next, Fault::Refuse);
        assert_eq!(ask(&proxy, "one").unwrap(), "ONE");
        assert!(ask(&proxy, "two").is_err());
        assert!(ask(&proxy, "one").is_err(), "the connection after the one that was reset");
        assert_eq!(ask(&proxy, "two").unwrap(), "TWO");
        assert_eq!(proxy.happened(), 2);
    }

    #[test]
    fn a_certificate_is_taken_by_those_who_know_it() {
        use tokio_rustls::TlsConnector;
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
        use tokio_rustls::rustls::{ClientConfig, RootCertStore};
        let (server, _heard) = echo();
        let proxy = Proxy::with_tls_before(&server);
        let ask = async |roots: RootCertStore| -> io::Result<String> {
            let config = ClientConfig::builder_with_provider(Arc::new(crypto::aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_no_client_auth();
            let stream = tokio::net::TcpStream::connect(proxy.address()).await?;
            let name = ServerName::try_from("127.0.0.1").unwrap();
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.write_all(b"hello").await?;
            stream.flush().await?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await?;
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        crate::support::wait_for(async {
            assert!(ask(RootCertStore::empty()).await.is_err());
            assert_eq!(proxy.sent(), 0);
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(proxy.certificate().as_bytes()).unwrap()).unwrap();
            assert_eq!(ask(roots).await.unwrap(), "HELLO");
        });
    }

    #[test]
    fn headers_are_found_in_http2_however_it_is_cut() {
        let settings = [0, 0, 3, 4, 0, 0, 0, 0, 0, 1, 1, 1];
        let headers = [0, 0, 1, 1, 4, 0, 0, 0, 1, 0x88];
        let all = [settings.as_slice(), &headers].concat();
        for cut in 0..all.len() {
            let mut frames = Frames { is_http2: true, ..Frames::default() };
            let (first, second) = (frames.is_answer(&all[..cut]), frames.is_answer(&all[cut..]));
            assert_eq!((first, second), (cut >= 21, cut < 21), "cut at {cut}");
        }
        assert!(!Frames { is_http2: true, ..Frames::default() }.is_answer(&settings));
        assert!(Frames::default().is_answer(b"HTTP/1.1 200 OK"));
    }
}
