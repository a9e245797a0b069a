//! Supervise: takes what an agent asks for, keeps it for a person, and hands back the answer.
//!
//! ```text
//!  agent ─► accept ─► rmcp ─► server ─► tools ─► store ─► out/proposals/<id>.json ─► a person
//!           its own   HTTP,   one tool  words    kept                                  │
//!           address   JSON    a call    checked  once                                  │
//!  agent ◄─ .......................... server ◄─ store ◄─ in/answers/<id>.json ◄───────┘
//! ```
//!
//! It decides nothing and can change nothing: what an answer brings about is a plan that the
//! executor applies from outside.

mod listening;
mod routes;
mod server;
mod store;
mod tools;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bottle_planner::sidecar::{SUPERVISE_PORT, SuperviseSettings};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionConfig};
use rmcp::transport::streamable_http_server::{SessionId, SessionManager as _};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use self::listening::Listening;
use self::server::Supervise;
use self::store::Store;
use crate::pid1::{Asked, Signals};
use crate::settings::{Loaded, SettingsError, load};
use crate::{Places, State, exit, log};

/// How long a client may take for a head.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of a request line and its headers.
const LARGEST_HEAD: usize = 64 << 10;
/// The most bytes of one message: a Dockerfile and its justification, each byte written as six.
const LARGEST_MESSAGE: usize = 1 << 20;
/// Connections at once; more are closed.
const CONNECTIONS: usize = 64;
/// Calls at once that wait for a person, each with a client or without.
const MOST_WAITING: usize = 128;
/// Clients that said hello and not goodbye; with one more, the one that is silent for longest is
/// forgotten. What it asked for stays with the person.
const MOST_CLIENTS: usize = 200;
/// A client that is silent for so long is forgotten. A call that waits for a person is silent.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(26 * 3600);

/// The MCP server, and who said hello to it.
#[derive(Clone)]
struct Mcp {
    http: StreamableHttpService<Supervise, LocalSessionManager>,
    clients: Arc<LocalSessionManager>,
    /// When each was last heard.
    heard: Arc<Mutex<HashMap<SessionId, Instant>>>,
}

/// Runs supervise until it is asked to end.
pub(crate) async fn run(places: &Places) -> u8 {
    let settings = match read(&places.input) {
        Ok(settings) => settings,
        Err(error) => {
            let state = State { loaded: None, error: Some(error.to_string()) };
            // The log says the same; without a folder to write to that is all there is.
            let _ = state.write(&places.output);
            log::error("supervise does not run", &[("error", &error)]);
            return exit::CONFIG;
        }
    };
    match serve(places, settings).await {
        Ok(()) => 0,
        Err(error) => {
            log::error("supervise does not run", &[("error", &error)]);
            exit::UNAVAILABLE
        }
    }
}

fn read(input: &Path) -> Result<Loaded<SuperviseSettings>, SettingsError> {
    let path = input.join("supervise.json");
    let loaded = load::<SuperviseSettings>(&path)?;
    if loaded.value.timeout_seconds == 0 {
        let reason = "timeout_seconds cannot be zero".into();
        return Err(SettingsError::Value { path, reason });
    }
    Ok(loaded)
}

async fn serve(places: &Places, first: Loaded<SuperviseSettings>) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let settings = first.value;
    let address = SocketAddr::from((settings.listen, SUPERVISE_PORT));
    let store = Arc::new(Store::open(&places.input, &places.output)?);
    let agent = IpAddr::V4(settings.agent);
    let mcp = mcp(&settings, &places.input, store);
    tokio::spawn(accept(TcpListener::bind(address).await?, agent, mcp));

    let mut state = State { loaded: Some(first.digest), error: None };
    state.write(&places.output)?;
    log::info("supervise is ready", &[("address", &address)]);
    loop {
        match signals.next().await {
            Asked::End => return Ok(()),
            Asked::Reload => match read(&places.input) {
                Ok(loaded) => state = State { loaded: Some(loaded.digest), error: None },
                Err(error) => {
                    log::error("the old settings stay in force", &[("error", &error)]);
                    state.error = Some(error.to_string());
                }
            },
        }
        if let Err(error) = state.write(&places.output) {
            log::error("the state is not up to date", &[("error", &error)]);
        }
    }
}

fn mcp(settings: &SuperviseSettings, input: &Path, store: Arc<Store>) -> Mcp {
    let supervise = Supervise {
        store,
        egress: SocketAddr::from(settings.egress),
        patience: Duration::from_secs(settings.timeout_seconds),
        waiting: Arc::new(Semaphore::new(MOST_WAITING)),
        dockerfile: input.join("Dockerfile"),
        allow_from: settings.allow_from.clone(),
    };
    let mut clients = LocalSessionManager::default();
    let mut config = SessionConfig::default();
    config.keep_alive = Some(FORGOTTEN_AFTER);
    clients.session_config = config;
    let hosts = ["supervise".to_owned(), settings.listen.to_string()];
    let http = StreamableHttpServerConfig::default()
        .with_allowed_hosts(hosts)
        .enforce_origin_validation()
        .with_max_request_body_bytes(LARGEST_MESSAGE);
    let clients = Arc::new(clients);
    let http =
        StreamableHttpService::new(move || Ok(supervise.clone()), Arc::clone(&clients), http);
    Mcp { http, clients, heard: Arc::default() }
}

async fn accept(listener: TcpListener, agent: IpAddr, mcp: Mcp) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            // Whoever else is on the network (an image that is being built, above all) has nothing
            // to ask here.
            Ok((_, from)) if from.ip() != agent => {
                log::warn("a stranger was turned away", &[("address", &from.ip())]);
            }
            Ok((stream, _)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
                    log::warn("a connection was closed: there are too many", &[]);
                    continue;
                };
                let mcp = mcp.clone();
                tokio::spawn(async move {
                    answer(stream, mcp).await;
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn("a connection was not accepted", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, mcp: Mcp) {
    let service = service_fn(|request: Request<Incoming>| async {
        Ok::<_, Infallible>(match request.uri().path() {
            "/mcp" => mcp.handle(request).await,
            _ => plain(StatusCode::NOT_FOUND, "the MCP server is at /mcp"),
        })
    });
    // How a connection broke is the client's affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

impl Mcp {
    async fn handle(&self, mut request: Request<Incoming>) -> Response<BoxBody<Bytes, Infallible>> {
        let listening = Listening::begin(&mut request);
        match client_of(request.headers()) {
            Some(client) => self.note(client).await,
            // What names no client makes one.
            None => self.make_room().await,
        }
        let response = self.http.handle(request).await;
        if let Some(client) = client_of(response.headers()) {
            self.note(client).await;
        }
        listening.until_dropped(response)
    }

    /// Only what the manager knows is kept: a client can make up as many ids as it likes.
    async fn note(&self, client: SessionId) {
        let known = self.clients.sessions.read().await;
        if known.contains_key(&client) {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            heard.insert(client, Instant::now());
            heard.retain(|client, _| known.contains_key(client));
        }
    }

    async fn make_room(&self) {
        while let Some(client) = self.silent_for_longest().await {
            log::warn("a client is forgotten: there are too many", &[]);
            if let Err(error) = self.clients.close_session(&client).await {
                log::warn("a client is not forgotten", &[("error", &error)]);
                return;
            }
        }
    }

    /// Where there are as many as there can be.
    async fn silent_for_longest(&self) -> Option<SessionId> {
        let known = self.clients.sessions.read().await;
        if known.len() < MOST_CLIENTS {
            return None;
        }
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        // One that was not heard yet was just made.
        let now = Instant::now();
        known.keys().min_by_key(|client| heard.get(*client).copied().unwrap_or(now)).cloned()
    }
}

fn client_of(headers: &HeaderMap) -> Option<SessionId> {
    headers.get("mcp-session-id")?.to_str().ok().map(SessionId::from)
}

fn plain(status: StatusCode, text: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())).boxed());
    *response.status_mut() = status;
    response
}
