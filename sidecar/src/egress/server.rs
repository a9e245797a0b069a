//! The doors: the proxy's port, and ports 80 and 443 for programs that know of no proxy. Each
//! connection is taken apart down to requests, which `proxy` answers.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::decision::{Code, Outcome, Via};
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::body::Answer;
use super::dial::Purpose;
use super::flow::Flow;
use super::hello::{self, Opening, Prefixed};
use super::proxy::{self, Aim, Shared};
use super::rules::{Granted, HostName, Refusal, Target, Tunnel};
use super::settings::Client;
use super::strict::{LARGEST_HEAD, Strict};
use super::{tunnel, websocket};
use crate::log;

/// Connections at once, all doors together; more are closed.
const CONNECTIONS: usize = 1024;
/// How long a client may take for a head, also between two requests.
const HEAD: Duration = Duration::from_secs(60);
/// How long a client may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(15);
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 128;

/// Which door a connection came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Door {
    Proxy,
    Http,
    Https,
}

/// One client connection.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) client: Client,
    pub(super) aim: Aim,
    /// Whether the client knows of no proxy.
    transparent: bool,
    /// Held by the tunnels that come out of this connection, too.
    permit: Arc<OwnedSemaphorePermit>,
}

/// How many connections there may be, all doors together.
pub(super) fn room() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(CONNECTIONS))
}

/// Serves one door for as long as it is polled.
pub(super) async fn serve(
    listener: TcpListener,
    door: Door,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn("a connection was not accepted", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(client) = Client::at(&shared.settings, from.ip()) else {
            turn_away(&shared, from.ip());
            continue;
        };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            log::warn("too many connections; one was closed", &[("client", &client.as_str())]);
            continue;
        };
        let connection = Connection {
            shared: Arc::clone(&shared),
            client,
            aim: if door == Door::Http { Aim::Host } else { Aim::Proxy },
            transparent: door != Door::Proxy,
            permit: Arc::new(permit),
        };
        tokio::spawn(async move {
            let _ = stream.set_nodelay(true);
            match door {
                Door::Proxy | Door::Http => connection.speak_http1(stream).await,
                Door::Https => connection.guess(stream).await,
            }
        });
    }
}

/// Binds one door.
pub(super) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

fn turn_away(shared: &Arc<Shared>, from: IpAddr) {
    let mut flow = Flow::new(shared, "stranger", Via::Proxy);
    flow.host = from.to_string();
    let reason = "only the agent, the git gate and a build are served";
    flow.refuse(&Refusal::new(Code::Client, "client", reason));
}

impl Connection {
    /// What is told of a request of this connection.
    pub(super) fn flow(&self) -> Flow {
        let via = proxy::via(self.client, &self.aim, self.transparent);
        Flow::new(&self.shared, self.client.as_str(), via)
    }

    fn aimed(&self, target: Target, tls: bool) -> Self {
        Self { aim: Aim::Fixed { target, tls }, ..self.clone() }
    }

    async fn speak_http1<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let strict = Strict::new(stream);
        let fault = strict.fault();
        let connection = self.clone();
        let service = service_fn(move |request| connection.clone().serve_one(request));
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST_HEAD + (8 << 10))
            .serve_connection(TokioIo::new(strict), service)
            .with_upgrades();
        // How a connection broke is the client's affair; what it was refused is in the log. What
        // hyper does not read was answered by hyper.
        let unread = served.await.err().filter(hyper::Error::is_parse);
        let unread = unread.map(|error| error.to_string());
        if let Some(why) = fault.get().or(unread.as_deref()) {
            let mut flow = self.flow();
            if let Aim::Fixed { target, .. } = &self.aim {
                (flow.host, flow.port) = (target.host.as_str().into(), Some(target.port));
            }
            flow.refuse(&Refusal::new(Code::Malformed, "framing", why));
        }
    }

    async fn speak_http2<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = service_fn(move |request| self.clone().serve_one(request));
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(64 << 10)
            .serve_connection(TokioIo::new(stream), service);
        let _ = served.await;
    }

    async fn serve_one(self, request: Request<Incoming>) -> Result<Response<Answer>, Infallible> {
        let upgrades = websocket::is_asked_for(&request);
        let mut response = self.answer(request).await;
        // The framing of what follows an upgrade is not watched: without one the connection ends.
        if upgrades && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    }

    /// The inside of a tunnel that is looked into: TLS under our certificate, or plain HTTP.
    pub(super) async fn inspect(self, upgraded: Upgraded, target: Target) {
        let opened = timeout(HANDSHAKE, hello::open(TokioIo::new(upgraded))).await;
        match opened {
            Ok(Ok((Opening::Plain, stream))) => {
                self.aimed(target, false).speak_http1(stream).await;
            }
            Ok(Ok((Opening::Tls(name), stream))) => {
                if let Err(refusal) = same_name(name.as_deref(), &target) {
                    self.say(&target, &refusal);
                    return;
                }
                self.accept(stream, target).await;
            }
            // A tunnel that was opened and not used.
            Ok(Err(_)) | Err(_) => {}
        }
    }

    /// A connection to port 443: only TLS says where it goes.
    async fn guess(self, stream: TcpStream) {
        let Ok(Ok((opening, stream))) = timeout(HANDSHAKE, hello::open(stream)).await else {
            return;
        };
        let mut flow = self.flow();
        flow.port = Some(443);
        let named = match opening {
            Opening::Tls(Some(name)) => {
                flow.host.clone_from(&name);
                HostName::parse(&name).map_err(|fault| format!("the TLS server name is {fault}"))
            }
            Opening::Tls(None) => Err("the TLS client names no server".into()),
            Opening::Plain => Err("port 443 is for TLS".into()),
        };
        let target = match named {
            Ok(host) => Target { host, port: 443 },
            Err(reason) => return flow.refuse(&Refusal::new(Code::Malformed, "sni", reason)),
        };
        if let Err(refusal) = proxy::hidden_in_host(&flow, &flow.host) {
            return flow.refuse(&refusal);
        }
        if self.client != Client::Build {
            flow.route = flow.table.route(&target.host).map(|route| route.pattern.to_string());
        }
        match flow.table.decide_tunnel(self.client, &target) {
            Err(refusal) => flow.refuse(&refusal),
            Ok(Tunnel::Inspect) => self.accept(stream, target).await,
            Ok(Tunnel::Pass(granted)) => {
                let flow = Arc::new(flow);
                if let Ok(server) = self.reach(&target, &granted, &flow).await {
                    self.carry(stream, server, target, granted, flow).await;
                }
            }
            Ok(Tunnel::Gate(_)) => {
                let reason = "the git gate asks the proxy";
                flow.refuse(&Refusal::new(Code::Client, "gate", reason));
            }
        }
    }

    /// Ends TLS under our certificate and serves what is inside.
    async fn accept<S>(self, stream: Prefixed<S>, target: Target)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = match self.shared.authority.server(&target.host) {
            Ok(config) => config,
            Err(error) => {
                let text = error.to_string();
                return log::error("no certificate", &[("host", &target), ("error", &text)]);
            }
        };
        let accepted = timeout(HANDSHAKE, TlsAcceptor::from(config).accept(stream)).await;
        // A client that does not trust the session's authority ends here; it knows why.
        let Ok(Ok(stream)) = accepted else { return };
        let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let inside = self.aimed(target, true);
        if h2 { inside.speak_http2(stream).await } else { inside.speak_http1(stream).await }
    }

    /// The inside of an agent's tunnel that stays unseen. It must be TLS that names the same host.
    pub(super) async fn pass(
        self,
        upgraded: Upgraded,
        target: Target,
        granted: Granted,
        flow: Arc<Flow>,
    ) {
        let stream = TokioIo::new(upgraded);
        let Ok(Ok((opening, stream))) = timeout(HANDSHAKE, hello::open(stream)).await else {
            return;
        };
        let named = match opening {
            Opening::Tls(Some(name)) => same_name(Some(&name), &target),
            Opening::Tls(None) => {
                let reason = "the TLS client names no server, which this route must see";
                Err(Refusal::new(Code::Malformed, "sni", reason))
            }
            Opening::Plain => {
                let reason = "this route is for TLS, and this is not";
                Err(Refusal::new(Code::Malformed, "sni", reason))
            }
        };
        match named {
            Ok(()) => {
                if let Ok(server) = self.reach(&target, &granted, &flow).await {
                    self.carry(stream, server, target, granted, flow).await;
                }
            }
            Err(refusal) => self.say(&target, &refusal),
        }
    }

    /// Dials what a tunnel leads to. Either way the log has it; why it failed comes back.
    pub(super) async fn reach(
        &self,
        target: &Target,
        granted: &Granted,
        flow: &Flow,
    ) -> Result<TcpStream, String> {
        let dialler = self.shared.upstreams.dialer();
        let fault = match dialler.dial(target, granted.reach, Purpose::Tunnel).await {
            Ok(dialled) => {
                flow.record(Outcome::Allow, Code::Granted, &granted.rule, "");
                return Ok(dialled.stream);
            }
            Err(fault) => fault,
        };
        if fault.is_refusal() {
            let reason = format!("{fault}; the manifest can pin it or allow private addresses");
            flow.refuse(&Refusal::new(Code::Address, "address-guard", reason.as_str()));
            return Err(reason);
        }
        let reason = fault.to_string();
        flow.record(Outcome::Failed, Code::Upstream, &granted.rule, &reason);
        Err(reason)
    }

    /// Carries a tunnel's bytes for as long as it is allowed.
    pub(super) async fn carry<S>(
        self,
        stream: S,
        server: TcpStream,
        target: Target,
        granted: Granted,
        flow: Arc<Flow>,
    ) where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let revoked = self.revoked(|table| {
            matches!(
                table.decide_tunnel(self.client, &target),
                Ok(Tunnel::Pass(now) | Tunnel::Gate(now)) if now.reach == granted.reach
            )
        });
        let carried = tunnel::carry(stream, server, revoked).await;
        flow.sent(carried.sent);
        flow.received(carried.received);
        drop(self.permit);
    }

    /// Returns when routes were reloaded and no longer allow what they did.
    pub(super) async fn revoked(&self, allowed: impl Fn(&super::settings::Table) -> bool) {
        let mut table = self.shared.table.clone();
        loop {
            if !allowed(&table.borrow_and_update()) {
                return;
            }
            if table.changed().await.is_err() {
                return;
            }
        }
    }

    fn say(&self, target: &Target, refusal: &Refusal) {
        let mut flow = self.flow();
        (flow.host, flow.port) = (target.host.as_str().into(), Some(target.port));
        flow.method = "CONNECT".into();
        if self.client != Client::Build {
            flow.route = flow.table.route(&target.host).map(|route| route.pattern.to_string());
        }
        flow.refuse(refusal);
    }
}

/// The TLS server name is the tunnel's host. Some clients send none, and the tunnel says enough.
fn same_name(name: Option<&str>, target: &Target) -> Result<(), Refusal> {
    let same = name.is_none_or(|name| HostName::parse(name).as_ref() == Ok(&target.host));
    if same {
        return Ok(());
    }
    let reason = "the TLS server name is another than the tunnel's host";
    Err(Refusal::new(Code::Malformed, "sni", reason))
}
