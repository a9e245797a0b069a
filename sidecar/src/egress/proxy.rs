//! One request: taken apart, decided about, scanned, given its credential, sent, and answered.

use std::sync::Arc;

use bottle_detector::unpack::Unpacker;
use bottle_detector::{Finding, What};
use bottle_planner::decision::{Code, Outcome, Via};
use bottle_planner::policy::{DlpAction, Route};
use bottle_planner::sidecar::EgressSettings;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, Entry as HeaderEntry, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::{Authority as UriAuthority, PathAndQuery, Scheme};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::authority::Authority;
use super::body::{self, Answer, Outgoing, Received, Scrub};
use super::counters::Counters;
use super::flow::Flow;
use super::rules::{self, Compiled, Granted, NormalPath, Refusal, Target, TargetFault, Tunnel};
use super::scan::Scan;
use super::server::Connection;
use super::settings::{Client, Table};
use super::upstream::{SendFault, Sending, Server, Upstreams};
use super::vault::Vault;
use super::way_on::way_on;
use super::websocket;
use crate::decisions::DecisionLog;

/// Under this name egress answers for itself.
pub(super) const OWN_NAME: &str = "egress.local";

/// RFC 9110, section 7.6.1, and the older ones of its kind.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "expect",
    "http2-settings",
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
/// Headers that say who somebody is. On a route with a credential the agent brings none of its own.
const CREDENTIALS: [&str; 14] = [
    "api-key",
    "authorization",
    "cookie",
    "deploy-token",
    "job-token",
    "private-token",
    "proxy-authorization",
    "x-access-token",
    "x-amz-security-token",
    "x-api-key",
    "x-api-token",
    "x-auth-token",
    "x-goog-api-key",
    "x-vault-token",
];
/// Keys of a query that do the same; `-` and `_` are one, and so are the cases.
const CREDENTIAL_KEYS: [&str; 18] = [
    "access-token",
    "api-key",
    "apikey",
    "auth",
    "auth-token",
    "authorization",
    "client-secret",
    "key",
    "oauth-token",
    "password",
    "private-token",
    "secret",
    "token",
    "x-amz-credential",
    "x-amz-security-token",
    "x-amz-signature",
    "x-api-key",
    "x-goog-signature",
];

/// What all requests are answered from.
pub(super) struct Shared {
    pub(super) settings: EgressSettings,
    pub(super) table: watch::Receiver<Arc<Table>>,
    pub(super) upstreams: Arc<Upstreams>,
    pub(super) authority: Authority,
    pub(super) vault: Arc<Vault>,
    pub(super) decisions: Arc<DecisionLog>,
    pub(super) counters: Arc<Counters>,
    /// Turns at unpacking a body.
    pub(super) unpacking: Semaphore,
}

/// Bodies unpacked at once.
pub(super) const UNPACKING: usize = 4;

impl Shared {
    /// The routes in force.
    pub(super) fn table(&self) -> Arc<Table> {
        Arc::clone(&self.table.borrow())
    }
}

/// What a connection's requests are for.
#[derive(Debug, Clone)]
pub(super) enum Aim {
    /// Whatever each names, as a proxy is asked.
    Proxy,
    /// Whatever their `Host` names, on port 80: the client knows of no proxy.
    Host,
    /// One server, which the tunnel or the TLS handshake named.
    Fixed {
        /// The server.
        target: Target,
        /// Whether the client spoke TLS.
        tls: bool,
    },
}

impl Aim {
    fn scheme(&self) -> &'static str {
        match self {
            Self::Fixed { tls: true, .. } => "https",
            _ => "http",
        }
    }
}

impl Connection {
    /// Answers one request.
    pub(super) async fn answer(&self, request: Request<Incoming>) -> Response<Answer> {
        let unwatched =
            request.version() != Version::HTTP_2 && websocket::is_named_in(request.headers());
        let mut response = self.answer_watched(request).await;
        // Nobody watched the framing of what follows a request that might have changed the
        // protocol: without the change, nothing may follow.
        if unwatched && response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let close = HeaderValue::from_static("close");
            response.headers_mut().insert(header::CONNECTION, close);
        }
        response
    }

    async fn answer_watched(&self, request: Request<Incoming>) -> Response<Answer> {
        let mut flow = self.flow();
        describe(&mut flow, &request, self.aim.scheme());
        if request.method() == Method::CONNECT {
            return self.open_tunnel(flow, request).await;
        }
        if let Some(known) = self.own_path(&request) {
            return match known {
                Ok(()) => own_routes(&flow, request.method() == Method::HEAD),
                Err(refusal) => refused(&flow, &refusal),
            };
        }
        match self.forward(flow, request).await {
            Ok(response) => response,
            Err((flow, refusal)) => refused(&flow, &refusal),
        }
    }

    /// Whether the request is for egress itself, and if so, whether it may be answered.
    fn own_path(&self, request: &Request<Incoming>) -> Option<Result<(), Refusal>> {
        if matches!(self.aim, Aim::Fixed { .. }) || self.client == Client::Build {
            return None;
        }
        let named = request.uri().authority().map(UriAuthority::as_str);
        let host = named.or_else(|| one_host(request.headers()).ok().flatten());
        let name = host.map(|host| host.split(':').next().unwrap_or_default());
        let own = name.is_some_and(|name| name.eq_ignore_ascii_case(OWN_NAME));
        let elsewhere = match self.aim {
            Aim::Host => true,
            _ => named.is_some(),
        };
        if !own && elsewhere {
            return None;
        }
        let reads = [Method::GET, Method::HEAD].contains(request.method());
        if own && reads && request.uri().path() == "/routes" {
            return Some(Ok(()));
        }
        let reason = "egress is a proxy; of itself it shows http://egress.local/routes only";
        Some(Err(Refusal::new(Code::NoRoute, "proxy", reason)))
    }

    /// Boxed, since what is inside a tunnel is served as what is outside of it.
    fn open_tunnel(
        &self,
        flow: Flow,
        request: Request<Incoming>,
    ) -> BoxFuture<'_, Response<Answer>> {
        self.tunnel(flow, request).boxed()
    }

    async fn tunnel(&self, mut flow: Flow, request: Request<Incoming>) -> Response<Answer> {
        let asked = self.tunnel_target(&request);
        let decided = asked.and_then(|target| {
            aim(&mut flow, &target);
            hidden_in_host(&flow, request.uri().host().unwrap_or_default())?;
            let tunnel = flow.table.decide_tunnel(self.client, &target)?;
            Ok((target, tunnel))
        });
        let (target, tunnel) = match decided {
            Ok(decided) => decided,
            Err(refusal) => return refused(&flow, &refusal),
        };
        let connection = self.clone();
        match tunnel {
            Tunnel::Inspect => {
                tokio::spawn(async move {
                    if let Ok(upgraded) = hyper::upgrade::on(request).await {
                        connection.inspect(upgraded, target).await;
                    }
                });
            }
            // The gate tells the agent why an upstream cannot be reached: dialled before the answer.
            Tunnel::Gate(granted) => {
                let flow = Arc::new(flow);
                let server = match connection.reach(&target, &granted, &flow).await {
                    Ok(server) => server,
                    Err(reason) => {
                        let kind = "text/plain; charset=utf-8";
                        return respond(StatusCode::BAD_GATEWAY, kind, format!("{reason}\n"));
                    }
                };
                tokio::spawn(async move {
                    if let Ok(upgraded) = hyper::upgrade::on(request).await {
                        let stream = TokioIo::new(upgraded);
                        connection.carry(stream, server, target, granted, flow).await;
                    }
                });
            }
            Tunnel::Pass(granted) => {
                let flow = Arc::new(flow);
                tokio::spawn(async move {
                    if let Ok(upgraded) = hyper::upgrade::on(request).await {
                        connection.pass(upgraded, target, granted, flow).await;
                    }
                });
            }
        }
        Response::new(Answer::Own(None))
    }

    fn tunnel_target(&self, request: &Request<Incoming>) -> Result<Target, Refusal> {
        if !matches!(self.aim, Aim::Proxy) {
            let reason = "a tunnel is opened at the proxy, not inside of another connection";
            return Err(Refusal::new(Code::Malformed, "tunnel", reason));
        }
        let authority = request.uri().authority().map_or("", UriAuthority::as_str);
        let target = Target::parse(authority, None).map_err(not_a_target)?;
        agree(request.headers(), &target)?;
        Ok(target)
    }

    async fn forward(
        &self,
        mut flow: Flow,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, (Arc<Flow>, Refusal)> {
        let parts = self.decide(&mut flow, &request);
        let flow = Arc::new(flow);
        let (target, granted, path) = match parts {
            Ok(parts) => parts,
            Err(refusal) => return Err((flow, refusal)),
        };
        let fault = |refusal| (Arc::clone(&flow), refusal);
        let upgrades = websocket::is_asked_for(&request);
        if self.client == Client::Build && (upgrades || !request.body().is_end_stream()) {
            let reason = "a build may only read: no body, no other protocol";
            return Err(fault(Refusal::new(Code::NoRule, granted.rule.as_ref(), reason)));
        }
        let (mut head, incoming) = request.into_parts();
        let client_end = upgrades.then(|| head.extensions.remove::<hyper::upgrade::OnUpgrade>());
        head.extensions.clear();
        strip_hop_by_hop(&mut head.headers);
        head.headers.remove(header::HOST);
        // Of a build there is none: nothing is injected, and no secret is there to look for.
        let route = flow.table.routes().get(granted.route);
        if let Some(route) = route.filter(|route| route.injects()) {
            alone_with_our_credential(&head.headers, &head.method, &head.uri, self.aim.scheme())
                .map_err(|reason| {
                    Refusal::new(Code::Credential, format!("{} auth", route.pattern), reason)
                })
                .map_err(fault)?;
            for name in alike(&head.headers, &CREDENTIALS) {
                head.headers.remove(name);
            }
            for rule in route.route.auth.iter().chain(&granted.auth) {
                head.headers.remove(rule.header.as_str());
            }
        }
        join_cookies(&mut head.headers);

        if self.shared.settings.expects_delivery
            && !flow.held.is_delivered()
            && let Some(route) = route.filter(|r| r.route.dlp.own_secrets != DlpAction::Off)
        {
            let reason = "the secrets to look for are not delivered; `bottle apply` delivers them";
            let rule = format!("{} dlp", route.pattern);
            return Err(fault(Refusal::new(Code::Credential, rule, reason)));
        }
        let mut path = path;
        let scan = route
            .and_then(|route| Scan::of(&flow.held, &flow.table, &target.host, route.route.dlp));
        let mut noted = None;
        let body = match &scan {
            None => Outgoing::of(incoming, &flow),
            Some(scan) => {
                let judged =
                    scan.head(&head.method, &mut path, &mut head.headers).map_err(fault)?;
                noted = judged.outcome();
                if incoming.is_end_stream() {
                    Outgoing::empty()
                } else {
                    let coding = one_coding(&head.headers).map_err(fault)?;
                    let prepared = body::prepare(incoming, coding.as_deref(), scan, &flow).await;
                    let prepared = prepared.map_err(fault)?;
                    noted = prepared.noted.max(noted);
                    if prepared.unpacked {
                        head.headers.remove(header::CONTENT_ENCODING);
                        head.headers.remove(header::CONTENT_LENGTH);
                    }
                    prepared.body
                }
            }
        };
        if let Some(auth) = &granted.auth {
            let Some(value) = flow.held.credential(auth) else {
                let reason = format!(
                    "{} is not delivered (or has characters that no header may have); \
                     `bottle apply` delivers it",
                    auth.secret
                );
                let at = route.map_or(granted.rule.as_ref(), |route| route.pattern.as_str());
                let rule = format!("{at} auth");
                return Err(fault(Refusal::new(Code::Credential, rule, reason)));
            };
            let name = HeaderName::try_from(auth.header.as_str());
            if let Ok(name) = name {
                head.headers.insert(name, value);
            }
            // What comes back is scrubbed, which needs to be seen.
            head.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        match noted {
            Some((outcome, rule)) => {
                flow.record(outcome, Code::Leak, &rule, &format!("allowed by {}", granted.rule));
            }
            None => flow.record(Outcome::Allow, Code::Granted, &granted.rule, ""),
        }

        let server = Server {
            tls: self.aim.scheme() == "https",
            reach: granted.reach,
            target: target.clone(),
        };
        if let Some(client_end) = client_end {
            websocket::prepare(&mut head.headers);
            let sending = Sending { head, path, body: Outgoing::empty() };
            let response = self.shared.upstreams.upgrade(&server, sending).await;
            return match response {
                Ok(response) => {
                    let opened = websocket::Opened {
                        connection: self.clone(),
                        flow: Arc::clone(&flow),
                        target,
                        granted,
                        scan,
                    };
                    Ok(opened.answer(response, client_end))
                }
                Err(error) => self.unreached(&flow, &error).map_err(fault),
            };
        }
        let sending = Sending { head, path, body };
        match self.shared.upstreams.send(&server, sending).await {
            Ok((response, lease)) => {
                let injects = route.is_some_and(Compiled::injects);
                Ok(self.received(response, lease, &flow, injects))
            }
            Err(error) => match flow.stopped() {
                Some(refusal) => Ok(refused_before(&flow, &refusal)),
                None => self.unreached(&flow, &error).map_err(fault),
            },
        }
    }

    /// Where the request goes and whether it may, with the path that was matched.
    fn decide(
        &self,
        flow: &mut Flow,
        request: &Request<Incoming>,
    ) -> Result<(Target, Granted, PathAndQuery), Refusal> {
        let target = self.request_target(request)?;
        aim(flow, &target);
        let reason = match self.client {
            Client::Agent | Client::Build => None,
            Client::Gate => Some("the git gate may only open tunnels"),
            Client::Supervise => Some(rules::ONLY_ROUTES),
        };
        if let Some(reason) = reason {
            return Err(Refusal::new(Code::Client, self.client.as_str(), reason));
        }
        if !matches!(self.aim, Aim::Fixed { .. }) {
            hidden_in_host(flow, target.host.as_str())?;
        }
        let path = NormalPath::parse(request.uri().path());
        let asked = rules::Request {
            target: &target,
            method: request.method().as_str(),
            path: path.as_ref().map_err(|fault| *fault),
            query: request.uri().query(),
            overrides_method: !alike(request.headers(), &OVERRIDES).is_empty(),
        };
        let granted = if self.client == Client::Build {
            flow.table.decide_build_request(&asked)?
        } else {
            flow.route = flow.table.route(&target.host).map(|route| route.pattern.to_string());
            flow.table.decide_request(&asked)?
        };
        let malformed = |reason: String| Refusal::new(Code::Malformed, "path", reason);
        let path = path.map_err(|fault| malformed(fault.to_string()))?;
        let path = match request.uri().query() {
            Some(query) => PathAndQuery::try_from(format!("{}?{query}", path.as_str())),
            None => PathAndQuery::try_from(path.as_str()),
        };
        Ok((target, granted, path.map_err(|error| malformed(error.to_string()))?))
    }

    fn request_target(&self, request: &Request<Incoming>) -> Result<Target, Refusal> {
        let uri = request.uri();
        let differs = |reason| Refusal::new(Code::Malformed, "host", reason);
        let target = match &self.aim {
            Aim::Proxy => {
                if uri.scheme() != Some(&Scheme::HTTP) {
                    let reason = "only http:// is forwarded; https goes through CONNECT";
                    return Err(Refusal::new(Code::Malformed, "scheme", reason));
                }
                let authority = uri.authority().map_or("", UriAuthority::as_str);
                Target::parse(authority, Some(80)).map_err(not_a_target)?
            }
            Aim::Host => {
                if uri.authority().is_some() {
                    return Err(differs("a whole URL is for a proxy; this is not asked as one"));
                }
                let host = one_host(request.headers()).ok().flatten();
                let host = host.ok_or_else(|| differs("there is no Host header"))?;
                Target::parse(host, Some(80)).map_err(not_a_target)?
            }
            Aim::Fixed { target, tls } => {
                let usual = if *tls { 443 } else { 80 };
                if let Some(authority) = uri.authority() {
                    let named = Target::parse(authority.as_str(), Some(usual));
                    let scheme = uri.scheme_str().unwrap_or(self.aim.scheme());
                    if named.as_ref() != Ok(target) || scheme != self.aim.scheme() {
                        return Err(differs("the URL names another server than the connection"));
                    }
                } else if request.version() == Version::HTTP_2 {
                    return Err(differs("there is no :authority"));
                }
                target.clone()
            }
        };
        if matches!(self.aim, Aim::Host) && target.port != 80 {
            return Err(differs("the Host header names another port than the connection's"));
        }
        agree(request.headers(), &target)?;
        Ok(target)
    }

    fn received(
        &self,
        response: Response<Incoming>,
        lease: Option<super::upstream::Lease>,
        flow: &Arc<Flow>,
        injected: bool,
    ) -> Response<Answer> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let reason = "the server changes the protocol, and nobody asked it to";
            flow.record(Outcome::Failed, Code::Upstream, "", reason);
            return respond(StatusCode::BAD_GATEWAY, "text/plain", format!("{reason}\n"));
        }
        let (mut head, inner) = response.into_parts();
        strip_hop_by_hop(&mut head.headers);
        // It would send clients to other ports and protocols than the ones that are watched.
        head.headers.remove(header::ALT_SVC);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        flow.scrub_headers(&mut head.headers, injected);
        let values = flow.held.scrub().filter(|_| injected && !inner.is_end_stream());
        let mut scrub = None;
        if let Some(values) = values {
            let coding = one_coding(&head.headers).ok().flatten();
            let coding = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity"));
            let unpacker = match coding.as_deref().map(Unpacker::new) {
                None => None,
                Some(Ok(unpacker)) => {
                    head.headers.remove(header::CONTENT_ENCODING);
                    head.headers.remove(header::CONTENT_LENGTH);
                    Some(unpacker)
                }
                Some(Err(error)) => {
                    let reason = format!("the response cannot be looked into: {error}");
                    flow.record(Outcome::Failed, Code::Credential, "scrub", &reason);
                    return respond(StatusCode::BAD_GATEWAY, "text/plain", reason + "\n");
                }
            };
            scrub = Some(Scrub { scrubber: values.scrubber(), unpacker, ended: false });
        }
        let received = Received { inner, lease, scrub, flow: Arc::clone(flow) };
        Response::from_parts(head, Answer::Received(Box::new(received)))
    }

    fn unreached(&self, flow: &Flow, fault: &SendFault) -> Result<Response<Answer>, Refusal> {
        if let SendFault::Dial(dial) = fault
            && dial.is_refusal()
        {
            let reason = format!("{dial}; the manifest can pin it or allow private addresses");
            return Err(Refusal::new(Code::Address, "address-guard", reason));
        }
        flow.record(Outcome::Failed, Code::Upstream, "", &fault.to_string());
        Ok(respond(StatusCode::BAD_GATEWAY, "text/plain; charset=utf-8", format!("{fault}\n")))
    }
}

impl Outgoing {
    fn of(incoming: Incoming, flow: &Arc<Flow>) -> Self {
        if incoming.is_end_stream() {
            Self::empty()
        } else {
            Self::Direct(incoming, Arc::clone(flow))
        }
    }
}

fn describe(flow: &mut Flow, request: &Request<Incoming>, scheme: &'static str) {
    let connect = request.method() == Method::CONNECT;
    // What stands before an `@` may be a password.
    let authority = request.uri().authority().map_or("", UriAuthority::as_str);
    flow.host = authority.rsplit('@').next().unwrap_or_default().into();
    if flow.host.is_empty() {
        flow.host = one_host(request.headers()).ok().flatten().unwrap_or_default().into();
    }
    flow.method = request.method().to_string();
    if !connect {
        flow.scheme = scheme;
        flow.path = Some(request.uri().path().into());
    }
}

fn aim(flow: &mut Flow, target: &Target) {
    flow.host = target.host.as_str().into();
    flow.port = Some(target.port);
}

fn not_a_target(fault: TargetFault) -> Refusal {
    Refusal::new(Code::Malformed, "target", format!("the target is {fault}"))
}

/// A name that spells a secret carries it to whoever answers for the name.
pub(super) fn hidden_in_host(flow: &Flow, host: &str) -> Result<(), Refusal> {
    let refuse = |name: &str, what: String| {
        Err(Refusal::new(Code::Leak, format!("leak {name}"), format!("{what} the host's name")))
    };
    if let Some(name) = flow.held.in_host(host) {
        return refuse(name, format!("the value of {name} is in"));
    }
    match flow.held.everything().scan(host.as_bytes()).first() {
        None => Ok(()),
        Some(Finding { what: What::Rule(id), .. }) => {
            refuse(id, format!("the leak rule {id} matches"))
        }
        Some(Finding { what: What::Value(name), .. }) => {
            refuse(name, format!("the value of {name} is in"))
        }
    }
}

/// On a route with a credential, nothing else says who asks, and nothing sends it where it shows.
fn alone_with_our_credential(
    headers: &HeaderMap,
    method: &Method,
    uri: &hyper::Uri,
    scheme: &str,
) -> Result<(), String> {
    if scheme != "https" {
        return Err("the credential would go unencrypted; ask over https".into());
    }
    if method == Method::TRACE || method.as_str() == "TRACK" {
        return Err("TRACE would send the credential back".into());
    }
    if [header::RANGE, header::IF_RANGE].iter().any(|name| headers.contains_key(name)) {
        return Err("a range of a response cannot be scrubbed".into());
    }
    let keys = uri.query().unwrap_or_default().split(['&', ';']);
    for key in keys.map(|pair| pair.split('=').next().unwrap_or_default()) {
        let plain = rules::decoded(key).to_ascii_lowercase().replace('_', "-");
        let plain = plain.split('[').next().unwrap_or_default();
        if CREDENTIAL_KEYS.contains(&plain) {
            return Err(format!("the query has a credential of its own (`{plain}`)"));
        }
    }
    Ok(())
}

/// The headers of these names, `_` and `-` taken for one: what reads headers as variables does so,
/// too (RFC 3875, section 4.1.18).
fn alike(headers: &HeaderMap, names: &[&str]) -> Vec<HeaderName> {
    let is_one = |name: &&HeaderName| {
        names.contains(&name.as_str())
            || (name.as_str().contains('_') && names.contains(&&*name.as_str().replace('_', "-")))
    };
    headers.keys().filter(is_one).cloned().collect()
}

/// HTTP/2 sends cookies in pieces, which HTTP/1 has in one line (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let all: Vec<&[u8]> =
        headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if all.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&all.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

/// The content codings of a body, in one line.
fn one_coding(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let mut all = headers.get_all(header::CONTENT_ENCODING).iter();
    match (all.next(), all.next()) {
        (None, _) => Ok(None),
        (Some(one), None) => match one.to_str() {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(_) => Err(Refusal::new(Code::Malformed, "request", "a content coding is no text")),
        },
        _ => Err(Refusal::new(Code::Malformed, "request", "there are two content codings")),
    }
}

/// The `Host` header names the target, or is not there. Many clients leave the port out.
fn agree(headers: &HeaderMap, target: &Target) -> Result<(), Refusal> {
    let differs = || {
        let reason = "the Host header names another host than the target";
        Refusal::new(Code::Malformed, "host", reason)
    };
    match one_host(headers).map_err(|()| differs())? {
        None => Ok(()),
        Some(host) if host == target.host.as_str() => Ok(()),
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

pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::try_from(name.trim()).ok())
            .collect();
        for name in named {
            if let HeaderEntry::Occupied(entry) = headers.entry(name) {
                entry.remove_entry_mult();
            }
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The routes in force, as the agent may see them.
fn own_routes(flow: &Flow, head_only: bool) -> Response<Answer> {
    flow.record(Outcome::Allow, Code::Granted, OWN_NAME, "the routes in force");
    let routes: Vec<Value> =
        flow.table.file.routes.iter().map(|(host, route)| shown(host.as_str(), route)).collect();
    let text = json!({ "digest": flow.table.digest, "routes": routes }).to_string() + "\n";
    respond(StatusCode::OK, "application/json", if head_only { String::new() } else { text })
}

/// A route without the names of secrets.
fn shown(host: &str, route: &Route) -> Value {
    let rule = |rule: &bottle_planner::policy::Rule| json!({ "methods": rule.methods, "paths": rule.paths, "access": rule.access });
    json!({
        "host": host,
        "port": route.port,
        "allow": route.allow.iter().map(rule).collect::<Vec<_>>(),
        "deny": route.deny.iter().map(rule).collect::<Vec<_>>(),
        "auth": route.auth.as_ref().map(|auth| auth.scheme),
        "tls": route.tls,
        "dlp": route.dlp,
    })
}

/// Tells the log and the client of a refusal.
pub(super) fn refused(flow: &Flow, refusal: &Refusal) -> Response<Answer> {
    flow.refuse(refusal);
    refused_before(flow, refusal)
}

/// Tells the client of a refusal that the log has already.
fn refused_before(flow: &Flow, refusal: &Refusal) -> Response<Answer> {
    let at = match flow.port {
        Some(port) => format!("{}:{port}", flow.host),
        None => flow.host.clone(),
    };
    let refused = flow.refused(refusal);
    let what = match &refused.path {
        Some(path) => format!("{} {}://{at}{path}", flow.method, flow.scheme),
        None => format!("{} {at}", flow.method),
    };
    let text = format!(
        "bottle refused this request.\nwhat: {what}\nrule: {}\nwhy:  {}\nask:  {}\n",
        refusal.rule,
        refusal.reason,
        way_on(refused, flow.shared.settings.supervised),
    );
    let mut response = respond(StatusCode::FORBIDDEN, "text/plain; charset=utf-8", text);
    if flow.scheme != "https" {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

pub(super) fn respond(status: StatusCode, kind: &'static str, text: String) -> Response<Answer> {
    let mut response = Response::new(Answer::Own(Some(Bytes::from(text))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// How a connection's requests are asked, as the log has it.
pub(super) fn via(client: Client, aim: &Aim, transparent: bool) -> Via {
    match (client, aim) {
        (Client::Gate, _) => Via::Gate,
        (_, Aim::Host) => Via::Transparent,
        _ if transparent => Via::Transparent,
        _ => Via::Proxy,
    }
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

    #[test]
    fn a_query_brings_no_credential_of_its_own() {
        let headers = HeaderMap::new();
        for (query, fine) in [
            ("q=key&page=2", true),
            ("keyword=1", true),
            ("Access_Token=x", false),
            ("a=1&api%2dkey=x", false),
            ("a=1;token=x", false),
            ("key", false),
        ] {
            let uri: hyper::Uri = format!("/?{query}").parse().unwrap();
            let told = alone_with_our_credential(&headers, &Method::GET, &uri, "https");
            assert_eq!(told.is_ok(), fine, "{query}");
        }
        let uri = hyper::Uri::from_static("/");
        assert!(alone_with_our_credential(&headers, &Method::GET, &uri, "http").is_err());
        assert!(alone_with_our_credential(&headers, &Method::TRACE, &uri, "https").is_err());
        let ranged = HeaderMap::from_iter([(header::RANGE, HeaderValue::from_static("bytes=0-"))]);
        assert!(alone_with_our_credential(&ranged, &Method::GET, &uri, "https").is_err());
    }
}
