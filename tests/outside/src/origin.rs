//! A web server that remembers what it was sent, byte by byte and request by request, and says it
//! back.
//!
//! What a path ends in chooses the answer; any other is the request as text.
//!
//! | path | answer |
//! |---|---|
//! | `/ws` | a WebSocket, every message sent back |
//! | `/sse` | one event at once, a second one after [`Origin::release`] |
//! | `/huge/N` | N bytes |
//! | `/drip` | the request as text, a chunk a byte |
//! | `/gzip` | the request as text, compressed |
//! | `/location` | a redirect whose target holds the request's `authorization` |
//! | `/trailers` | the request's `authorization` in a trailer |
//! | `/basic` | the request's `authorization`, in base64 |

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;

use base64::Engine as _;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, oneshot};
use tokio_rustls::TlsAcceptor;

use crate::ws;

/// What every answer of an origin begins with.
pub const SAID: &str = "the origin saw ";
/// The most bytes that are remembered.
const REMEMBERED: usize = 16 << 20;

/// One request that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
    /// The method.
    pub method: String,
    /// The target's host and port, if the target has them.
    pub authority: String,
    /// Path and query.
    pub path: String,
    /// Headers in their order; names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
    /// What came after the body.
    pub trailers: Vec<(String, String)>,
}

impl Request {
    /// All values of a header, joined as RFC 9110, section 5.3 has it.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The request as text.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!("{SAID}{} {}{}\n", self.method, self.authority, self.path);
        for (name, value) in self.headers.iter().chain(&self.trailers) {
            text.push_str(&format!("{name}: {value}\n"));
        }
        text + "\n" + &String::from_utf8_lossy(&self.body)
    }
}

/// What a path is answered with.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its media type.
    pub kind: &'static str,
    /// The whole of it.
    pub body: Bytes,
}

/// Pages by host and path.
pub type Sites = BTreeMap<&'static str, BTreeMap<String, Page>>;

/// An answer as a test makes it: the status and the page.
pub type Answer = dyn Fn(&Request) -> (u16, Page) + Send + Sync;

/// A running server; it ends when this goes.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    memory: Arc<Memory>,
    // The thread ends when this goes.
    _stop: oneshot::Sender<()>,
}

struct Memory {
    sites: Sites,
    answer: Option<Box<Answer>>,
    bytes: Mutex<Vec<u8>>,
    requests: Mutex<Vec<Request>>,
    messages: Mutex<Vec<Vec<u8>>>,
    connections: AtomicUsize,
    released: Semaphore,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Memory").field("sites", &self.sites).finish_non_exhaustive()
    }
}

impl Origin {
    /// Serves plain HTTP/1.1 and HTTP/2 with prior knowledge.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn plain(at: impl Into<SocketAddr>) -> Self {
        Self::serve(at.into(), None, Sites::new(), None)
    }

    /// Serves over TLS.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn tls(at: impl Into<SocketAddr>, config: Arc<ServerConfig>) -> Self {
        Self::site(at, config, Sites::new())
    }

    /// Serves over TLS, and under these hosts these pages alone, whatever the method and the query.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn site(at: impl Into<SocketAddr>, config: Arc<ServerConfig>, sites: Sites) -> Self {
        Self::serve(at.into(), Some(config.into()), sites, None)
    }

    /// Serves over TLS what a function makes of each request.
    ///
    /// # Panics
    ///
    /// If the address cannot be listened on.
    #[must_use]
    pub fn answering(
        at: impl Into<SocketAddr>,
        config: Arc<ServerConfig>,
        answer: Box<Answer>,
    ) -> Self {
        Self::serve(at.into(), Some(config.into()), Sites::new(), Some(answer))
    }

    fn serve(
        at: SocketAddr,
        tls: Option<TlsAcceptor>,
        sites: Sites,
        answer: Option<Box<Answer>>,
    ) -> Self {
        let listener = std::net::TcpListener::bind(at).expect("the address is free");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let memory = Arc::new(Memory {
            sites,
            answer,
            bytes: Mutex::default(),
            requests: Mutex::default(),
            messages: Mutex::default(),
            connections: AtomicUsize::new(0),
            released: Semaphore::new(0),
        });
        let shared = Arc::clone(&memory);
        let (stop, stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener");
                tokio::select! {
                    () = accept(listener, tls, shared) => {}
                    // Its sender is never used: that it goes is the sign.
                    _ = stopped => {}
                }
            });
            runtime.shutdown_background();
        });
        Self { address, memory, _stop: stop }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The requests that arrived whole since the last [`Self::forget`].
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.memory.requests).clone()
    }

    /// The WebSocket messages that arrived whole, control frames among them.
    #[must_use]
    pub fn messages(&self) -> Vec<Vec<u8>> {
        lock(&self.memory.messages).clone()
    }

    /// Every byte that arrived, without TLS: what was cut short is in it, too.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        lock(&self.memory.bytes).clone()
    }

    /// How many connections were made, whole or not.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.memory.connections.load(Ordering::SeqCst)
    }

    /// Forgets what arrived.
    pub fn forget(&self) {
        lock(&self.memory.requests).clear();
        lock(&self.memory.messages).clear();
        lock(&self.memory.bytes).clear();
        self.memory.connections.store(0, Ordering::SeqCst);
    }

    /// Lets one `/sse` send its second event.
    pub fn release(&self) {
        self.memory.released.add_permits(1);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, memory: Arc<Memory>) {
    loop {
        // A client that went away before it was accepted is no reason to end.
        let Ok((stream, _)) = listener.accept().await else { continue };
        memory.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, memory) = (tls.clone(), Arc::clone(&memory));
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match tls {
                None => connection(stream, memory).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        connection(stream, memory).await;
                    }
                }
            }
        });
    }
}

async fn connection<S>(stream: S, memory: Arc<Memory>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = Tap { inner: stream, memory: Arc::clone(&memory) };
    let service = service_fn(move |request| {
        let memory = Arc::clone(&memory);
        async move { Ok::<_, Infallible>(answer(request, memory).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().half_close(true);
    // How a connection breaks is what many tests are about.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

type Body = BoxBody<Bytes, Infallible>;

async fn answer(request: hyper::Request<Incoming>, memory: Arc<Memory>) -> Response<Body> {
    let wants = |name: &str| {
        request.headers().get("upgrade").is_some_and(|value| value.as_bytes() == name.as_bytes())
    };
    if request.uri().path().ends_with("/ws") && wants("websocket") {
        return web_socket(request, memory);
    }
    let (head, body) = request.into_parts();
    let Ok(body) = body.collect().await else {
        return Response::new(text("the request broke off"));
    };
    let trailers = body.trailers().map(fields).unwrap_or_default();
    let request = Request {
        version: format!("{:?}", head.version),
        method: head.method.to_string(),
        authority: head.uri.authority().map(ToString::to_string).unwrap_or_default(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: fields(&head.headers),
        trailers,
        body: body.to_bytes().to_vec(),
    };
    let response = respond(&request, &memory);
    lock(&memory.requests).push(request);
    response
}

fn fields(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect()
}

fn text(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed()
}

fn respond(request: &Request, memory: &Arc<Memory>) -> Response<Body> {
    if let Some(answer) = &memory.answer {
        let (status, page) = answer(request);
        let mut response = Response::new(text(page.body));
        *response.status_mut() = StatusCode::from_u16(status).expect("a status");
        response.headers_mut().insert("content-type", HeaderValue::from_static(page.kind));
        return response;
    }
    let path = request.path.split('?').next().unwrap_or_default();
    let host = request.header("host").unwrap_or_else(|| request.authority.clone());
    if let Some(pages) = memory.sites.get(host.split(':').next().unwrap_or_default()) {
        let Some(page) = pages.get(path) else {
            let mut response = Response::new(text("no such page"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        };
        let mut response = Response::new(text(page.body.clone()));
        response.headers_mut().insert("content-type", HeaderValue::from_static(page.kind));
        return response;
    }
    let credential = request.header("authorization").unwrap_or_default();
    let last = path.rsplit('/').next().unwrap_or_default();
    if let Some((_, size)) = path.split_once("/huge/") {
        return Response::new(huge(size.parse().unwrap_or_default()));
    }
    let mut response = match last {
        "sse" => Response::new(events(Arc::clone(memory))),
        "drip" => Response::new(drip(request.text().into_bytes())),
        "gzip" => {
            let mut gzip = GzEncoder::new(Vec::new(), Compression::default());
            gzip.write_all(request.text().as_bytes()).expect("memory takes it");
            let mut response = Response::new(text(gzip.finish().expect("memory takes it")));
            response.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
            response
        }
        "location" => {
            let mut response = Response::new(text(SAID));
            *response.status_mut() = StatusCode::FOUND;
            let to = format!("https://api.test/open/?t={}", credential.replace(' ', "+"));
            response.headers_mut().insert("location", to.parse().expect("a value"));
            response
        }
        "trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-was", credential.parse().expect("a value"));
            let frames = [Frame::data(Bytes::from(SAID)), Frame::trailers(trailers)];
            let frames = frames.map(Ok::<_, Infallible>);
            let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))));
            response.headers_mut().insert("trailer", HeaderValue::from_static("x-was"));
            response
        }
        "basic" => {
            let value = base64::engine::general_purpose::STANDARD.encode(&credential);
            Response::new(text(format!("{SAID}{value}")))
        }
        _ => Response::new(text(request.text())),
    };
    if last == "sse" {
        let events = HeaderValue::from_static("text/event-stream");
        response.headers_mut().insert("content-type", events);
    }
    if request.method == "HEAD" {
        response.headers_mut().insert("x-said", HeaderValue::from_static(SAID.trim_ascii()));
    }
    response
}

/// Zeroes, made as they are asked for.
fn huge(size: u64) -> Body {
    const PIECE: usize = 64 << 10;
    let piece = Bytes::from_static(&[0; PIECE]);
    let pieces = stream::unfold((size, piece), |(left, piece)| async move {
        let now = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
        (now > 0).then(|| (Ok(Frame::data(piece.slice(..now))), (left - now as u64, piece)))
    });
    BodyExt::boxed(StreamBody::new(pieces))
}

fn drip(bytes: Vec<u8>) -> Body {
    let bytes = bytes.into_iter().map(|byte| Ok(Frame::data(Bytes::from(vec![byte]))));
    BodyExt::boxed(StreamBody::new(stream::iter(bytes)))
}

fn events(memory: Arc<Memory>) -> Body {
    let events = stream::unfold((0, memory), |(n, memory)| async move {
        if n == 1 {
            memory.released.acquire().await.ok()?.forget();
        }
        let event = Bytes::from(format!("data: {SAID}event {n}\n\n"));
        (n < 2).then_some((Ok(Frame::data(event)), (n + 1, memory)))
    });
    BodyExt::boxed(StreamBody::new(events))
}

fn web_socket(request: hyper::Request<Incoming>, memory: Arc<Memory>) -> Response<Body> {
    let key = request.headers().get("sec-websocket-key");
    let key = key.and_then(|key| key.to_str().ok()).unwrap_or_default();
    let mut response = Response::new(text(""));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    headers.insert("sec-websocket-accept", ws::accept(key).parse().expect("a value"));
    if let Some(offered) = request.headers().get("sec-websocket-extensions") {
        headers.insert("sec-websocket-extensions", offered.clone());
    }
    lock(&memory.requests).push(Request {
        version: format!("{:?}", request.version()),
        method: request.method().to_string(),
        authority: String::new(),
        path: request.uri().to_string(),
        headers: fields(request.headers()),
        body: Vec::new(),
        trailers: Vec::new(),
    });
    tokio::spawn(async move {
        if let Ok(upgraded) = hyper::upgrade::on(request).await {
            // The end of the connection is the end of the conversation.
            let _ = converse(TokioIo::new(upgraded), &memory).await;
        }
    });
    response
}

/// Sends every message back, unmasked and in one frame.
async fn converse<S>(mut stream: S, memory: &Memory) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut bytes = Vec::new();
    let mut message = Vec::new();
    let mut kind = 0;
    loop {
        while let Some((first, payload)) = ws::take(&mut bytes) {
            let (last, code) = (first & 0x80 != 0, first & 0x0f);
            if code >= 8 {
                lock(&memory.messages).push(payload.clone());
                if code == 8 {
                    let mut frame = vec![first, u8::try_from(payload.len()).unwrap_or_default()];
                    frame.extend(payload);
                    return stream.write_all(&frame).await;
                }
                continue;
            }
            if code != 0 {
                kind = first & 0x4f;
            }
            message.extend(payload);
            if last {
                let whole = std::mem::take(&mut message);
                lock(&memory.messages).push(whole.clone());
                let mut said = SAID.as_bytes().to_vec();
                said.extend(whole);
                let mut frame = vec![0x80 | (kind & 0x0f), 126];
                frame.extend(u16::try_from(said.len()).unwrap_or(u16::MAX).to_be_bytes());
                frame.extend(said);
                stream.write_all(&frame).await?;
            }
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
}

/// A stream of which every byte that is read is remembered.
struct Tap<S> {
    inner: S,
    memory: Arc<Memory>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Tap<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        let mut bytes = lock(&self.memory.bytes);
        if bytes.len() < REMEMBERED {
            bytes.extend(&buffer.filled()[before..]);
        }
        drop(bytes);
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tap<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
