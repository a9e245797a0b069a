//! The proxy's server: takes requests apart, asks the rules, and carries out what they say.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::policy::Route;
use bottle_planner::sidecar::EgressSettings;
use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::decisions::{Decision, DecisionLog, Entry};
use super::dial::{DialFault, Dialer, Purpose};
use super::rules::{self, NormalPath, Reach, Refusal, Target, TargetFault, Verdict};
use super::settings::{Client, Table};
use super::tunnel::{self, Activity};
use crate::log;

/// Connections at once; more are closed.
const CONNECTIONS: usize = 1024;
/// The most bytes of a request line and its headers.
const LARGEST_HEAD: usize = 64 << 10;
/// How long a client may take for a head, also between two requests.
const HEAD: Duration = Duration::from_secs(60);
/// How long a server may take for its handshake.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// Under this name egress answers for itself.
const OWN_NAME: &str = "egress.local";

/// RFC 9110, section 7.6.1, and the older ones of its kind.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "expect",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Headers that frameworks take for the method.
const OVERRIDES: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];

type Body = Either<Full<Bytes>, Incoming>;

/// Everything a request is answered from.
pub(super) struct Proxy {
    settings: EgressSettings,
    table: watch::Receiver<Arc<Table>>,
    dialer: Dialer,
    decisions: Arc<DecisionLog>,
}

impl Proxy {
    pub(super) fn new(
        settings: EgressSettings,
        table: watch::Receiver<Arc<Table>>,
        dialer: Dialer,
        decisions: Arc<DecisionLog>,
    ) -> Self {
        Self { settings, table, dialer, decisions }
    }
}

/// Serves for as long as it is polled.
pub(super) async fn serve(listener: TcpListener, proxy: Proxy) {
    let proxy = Arc::new(proxy);
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::warn("a connection was not accepted", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let Some(client) = Client::at(&proxy.settings, from.ip()) else {
            proxy.turn_away(from.ip());
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            log::warn("too many connections; one was closed", &[("client", &client.as_str())]);
            continue;
        };
        let connection = Connection { proxy: Arc::clone(&proxy), client, permit: Arc::new(permit) };
        tokio::spawn(connection.serve(stream));
    }
}

impl Proxy {
    fn turn_away(&self, from: IpAddr) {
        self.decisions.record(&Entry {
            client: &from.to_string(),
            method: "",
            host: "",
            port: None,
            path: None,
            decision: Decision::Refuse,
            rule: "client",
            reason: "only the agent and the git gate are served",
        });
    }
}

/// One client connection.
#[derive(Clone)]
struct Connection {
    proxy: Arc<Proxy>,
    client: Client,
    /// Held by the tunnels that come out of this connection, too.
    permit: Arc<OwnedSemaphorePermit>,
}

impl Connection {
    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let connection = self.clone();
            async move { Ok::<_, Infallible>(connection.answer(request).await) }
        });
        let served = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(LARGEST_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        // How a connection broke is the client's affair; what it was refused is in the log.
        let _ = served.await;
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() == Method::CONNECT {
            return self.tunnel(request).await;
        }
        match self.own_path(&request) {
            Some(Ok(())) => self.routes(&request),
            Some(Err(refusal)) => {
                let what = Asked { target: None, ..Asked::of(&request) };
                self.refuse(&what, &refusal)
            }
            None => self.forward(request).await,
        }
    }

    /// Whether the request is for egress itself, and if so, whether it may be answered.
    fn own_path(&self, request: &Request<Incoming>) -> Option<Result<(), Refusal>> {
        let host = match request.uri().authority() {
            Some(authority) => Some(authority.as_str()),
            None => one_host(request.headers()).ok().flatten(),
        };
        let name = host.map(|host| host.split(':').next().unwrap_or_default());
        let own = name.is_some_and(|name| name.eq_ignore_ascii_case(OWN_NAME));
        if request.uri().authority().is_some() && !own {
            return None;
        }
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if own && reads && request.uri().path() == "/routes" {
            return Some(Ok(()));
        }
        let reason = "egress is a proxy; of itself it shows http://egress.local/routes only";
        Some(Err(Refusal::new("proxy", reason)))
    }

    fn routes(&self, request: &Request<Incoming>) -> Response<Body> {
        let asked = Asked { host: OWN_NAME.into(), ..Asked::of(request) };
        self.record(&asked, Decision::Allow, OWN_NAME, "the routes in force");
        let table = Arc::clone(&self.proxy.table.borrow());
        let routes: Vec<Value> =
            table.file.routes.iter().map(|(host, route)| shown(host.as_str(), route)).collect();
        let text = json!({ "digest": table.digest, "routes": routes }).to_string() + "\n";
        respond(StatusCode::OK, "application/json", text)
    }

    async fn tunnel(&self, request: Request<Incoming>) -> Response<Body> {
        let mut asked = Asked::of(&request);
        let target = match tunnel_target(&request) {
            Ok(target) => target,
            Err(refusal) => return self.refuse(&asked, &refusal),
        };
        asked.aim(&target);
        let table = Arc::clone(&self.proxy.table.borrow());
        let (reach, rule) = match table.decide_tunnel(self.client, &target) {
            Verdict::Refuse(refusal) => return self.refuse(&asked, &refusal),
            Verdict::Allow { reach, rule } => (reach, rule),
        };
        let server = match self.proxy.dialer.dial(&target, reach, Purpose::Tunnel).await {
            Ok(dialled) => dialled.stream,
            Err(fault) => return self.unreached(&asked, &rule, &fault),
        };
        self.record(&asked, Decision::Allow, &rule, "");
        let connection = self.clone();
        tokio::spawn(async move {
            let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
            let revoked = connection.revoked(&target, reach);
            tunnel::carry(TokioIo::new(upgraded), server, revoked).await;
            drop(connection.permit);
        });
        Response::new(Either::Left(Full::default()))
    }

    /// Returns when routes were reloaded and no longer allow this tunnel as it was opened.
    async fn revoked(&self, target: &Target, opened: Reach) {
        let mut table = self.proxy.table.clone();
        loop {
            {
                let table = table.borrow_and_update();
                match table.decide_tunnel(self.client, target) {
                    Verdict::Allow { reach, .. } if reach == opened => {}
                    _ => return,
                }
            }
            if table.changed().await.is_err() {
                return;
            }
        }
    }

    async fn forward(&self, request: Request<Incoming>) -> Response<Body> {
        let mut asked = Asked::of(&request);
        let target = match request_target(&request) {
            Ok(target) => target,
            Err(refusal) => return self.refuse(&asked, &refusal),
        };
        asked.aim(&target);
        let path = NormalPath::parse(request.uri().path());
        let table = Arc::clone(&self.proxy.table.borrow());
        let verdict = table.decide_request(
            self.client,
            &rules::Request {
                target: &target,
                method: request.method().as_str(),
                path: path.as_ref().map_err(|fault| *fault),
                query: request.uri().query(),
                overrides_method: OVERRIDES.iter().any(|n| request.headers().contains_key(*n)),
            },
        );
        let (reach, rule) = match verdict {
            Verdict::Refuse(refusal) => return self.refuse(&asked, &refusal),
            Verdict::Allow { reach, rule } => (reach, rule),
        };
        let path = match &path {
            Ok(path) => path,
            Err(fault) => return self.refuse(&asked, &Refusal::new("path", fault.to_string())),
        };
        let dialled = match self.proxy.dialer.dial(&target, reach, Purpose::Request).await {
            Ok(dialled) => dialled,
            Err(fault) => return self.unreached(&asked, &rule, &fault),
        };
        let outgoing = match outgoing(request, &target, path, dialled.absolute) {
            Ok(outgoing) => outgoing,
            Err(error) => {
                return self.refuse(&asked, &Refusal::new("request", error.to_string()));
            }
        };
        self.record(&asked, Decision::Allow, &rule, "");
        match exchange(dialled.stream, outgoing).await {
            Ok(mut response) => {
                strip_hop_by_hop(response.headers_mut());
                *response.version_mut() = Version::HTTP_11;
                response.map(Either::Right)
            }
            Err(error) => {
                let text = format!("{target} gave no answer: {error}\n");
                respond(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", text)
            }
        }
    }

    fn unreached(&self, asked: &Asked, rule: &str, fault: &DialFault) -> Response<Body> {
        if fault.is_refusal() {
            let reason = format!("{fault}; the manifest can pin it or allow private addresses");
            return self.refuse(asked, &Refusal::new("address-guard", reason));
        }
        self.record(asked, Decision::Allow, rule, &fault.to_string());
        respond(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", format!("{fault}\n"))
    }

    fn refuse(&self, asked: &Asked, refusal: &Refusal) -> Response<Body> {
        self.record(asked, Decision::Refuse, &refusal.rule, &refusal.reason);
        let text = format!(
            "bottle refused this request.\n\
             what: {asked}\n\
             rule: {}\n\
             why:  {}\n\
             ask:  call `request-egress` at http://supervise:9100/mcp if this session is \
             supervised, or ask the person who runs it to add a route. The routes in force are \
             at http://{OWN_NAME}/routes.\n",
            refusal.rule, refusal.reason
        );
        let mut response = respond(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", text);
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn record(&self, asked: &Asked, decision: Decision, rule: &str, reason: &str) {
        self.proxy.decisions.record(&Entry {
            client: self.client.as_str(),
            method: &asked.method,
            host: &asked.host,
            port: asked.port,
            path: asked.path.as_deref(),
            decision,
            rule,
            reason,
        });
    }
}

/// What was asked for, as the log and a refusal repeat it; the query is left out.
struct Asked {
    method: String,
    host: String,
    port: Option<u16>,
    path: Option<String>,
    target: Option<String>,
}

impl Asked {
    fn of(request: &Request<Incoming>) -> Self {
        let connect = request.method() == Method::CONNECT;
        // What stands before an `@` may be a password.
        let authority = request.uri().authority().map_or("", Authority::as_str);
        let host = authority.rsplit('@').next().unwrap_or_default();
        Self {
            method: request.method().to_string(),
            host: host.into(),
            port: None,
            path: (!connect).then(|| request.uri().path().into()),
            target: None,
        }
    }

    fn aim(&mut self, target: &Target) {
        self.host = target.host.as_str().into();
        self.port = Some(target.port);
        self.target = Some(target.to_string());
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let at = self.target.as_deref().unwrap_or(&self.host);
        match &self.path {
            Some(path) => write!(f, "{} http://{at}{path}", self.method),
            None => write!(f, "{} {at}", self.method),
        }
    }
}

fn tunnel_target(request: &Request<Incoming>) -> Result<Target, Refusal> {
    let fault = |fault: TargetFault| Refusal::new("target", format!("the target is {fault}"));
    let authority = request.uri().authority().map_or("", Authority::as_str);
    let target = Target::parse(authority, None).map_err(fault)?;
    agree(request.headers(), &target)?;
    Ok(target)
}

fn request_target(request: &Request<Incoming>) -> Result<Target, Refusal> {
    let fault = |fault: TargetFault| Refusal::new("target", format!("the target is {fault}"));
    if request.uri().scheme() != Some(&Scheme::HTTP) {
        let reason = "only http:// is forwarded; https goes through CONNECT";
        return Err(Refusal::new("scheme", reason));
    }
    let authority = request.uri().authority().map_or("", Authority::as_str);
    let target = Target::parse(authority, Some(80)).map_err(fault)?;
    agree(request.headers(), &target)?;
    Ok(target)
}

/// The `Host` header names the target, or is not there. Many clients leave the port out.
fn agree(headers: &HeaderMap, target: &Target) -> Result<(), Refusal> {
    let differs = || Refusal::new("host", "the Host header names another host than the target");
    match one_host(headers).map_err(|()| differs())? {
        None => Ok(()),
        Some(host) => match Target::parse(host, Some(target.port)) {
            Ok(named) if named == *target => Ok(()),
            _ => Err(differs()),
        },
    }
}

fn one_host(headers: &HeaderMap) -> Result<Option<&str>, ()> {
    let mut all = headers.get_all(header::HOST).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(host), None) => host.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// The request as the server gets it: under the path that was matched, with the target's own name.
fn outgoing(
    request: Request<Incoming>,
    target: &Target,
    path: &NormalPath,
    absolute: bool,
) -> Result<Request<Incoming>, hyper::http::Error> {
    let (mut head, body) = request.into_parts();
    let path = match head.uri.query() {
        Some(query) => format!("{}?{query}", path.as_str()),
        None => path.as_str().to_owned(),
    };
    let name = if target.port == 80 { target.host.as_str().into() } else { target.to_string() };
    let mut uri = Uri::builder().path_and_query(PathAndQuery::try_from(path)?);
    if absolute {
        uri = uri.scheme(Scheme::HTTP).authority(name.as_str());
    }
    head.uri = uri.build()?;
    head.version = Version::HTTP_11;
    strip_hop_by_hop(&mut head.headers);
    head.headers.insert(header::HOST, HeaderValue::try_from(name)?);
    Ok(Request::from_parts(head, body))
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// One request on a connection of its own.
async fn exchange(
    stream: TcpStream,
    request: Request<Incoming>,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let activity = Activity::new();
    let io = TokioIo::new(activity.watch(stream));
    let (mut sender, connection) =
        timeout(HANDSHAKE, hyper::client::conn::http1::handshake(io)).await??;
    tokio::spawn(async move {
        tokio::select! {
            // The response's body tells its reader.
            _ = connection => {}
            () = activity.idle_for(tunnel::IDLE) => {}
        }
    });
    Ok(sender.send_request(request).await?)
}

/// A route as the agent may see it: without the names of secrets.
fn shown(host: &str, route: &Route) -> Value {
    let rule = |rule: &bottle_planner::policy::Rule| json!({ "methods": rule.methods, "paths": rule.paths, "access": rule.access });
    json!({
        "host": host,
        "port": route.port,
        "allow": route.allow.iter().map(rule).collect::<Vec<_>>(),
        "deny": route.deny.iter().map(rule).collect::<Vec<_>>(),
        "auth": route.auth.as_ref().map(|auth| auth.scheme),
        "tls": route.tls,
    })
}

fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut response = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_hop_go_no_further() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Secret-Hop"),
            ("x-secret-hop", "1"),
            ("proxy-authorization", "Basic eA=="),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("x-kept", "1"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }

    #[test]
    fn the_host_header_is_the_target_or_missing() {
        let target = Target::parse("h.test:443", None).unwrap();
        for (hosts, agrees) in [
            (&["h.test:443"][..], true),
            (&["H.Test."], true),
            (&[], true),
            (&["h.test:80"], false),
            (&["other.test"], false),
            (&["h.test", "h.test"], false),
            (&["user@h.test"], false),
            (&[""], false),
        ] {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(header::HOST, HeaderValue::from_static(host));
            }
            assert_eq!(agree(&headers, &target).is_ok(), agrees, "{hosts:?}");
        }
    }
}
