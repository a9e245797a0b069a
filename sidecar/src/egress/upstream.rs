//! Servers that requests are sent to: connections to them, kept for the next request.
//!
//! A connection is opened by the [`Dialer`], which checks the address it dials; TLS is verified
//! against Mozilla's roots and the host config's own, HTTP/2 spoken where the server offers it.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::http::uri::{Authority, PathAndQuery, Scheme};
use hyper::{Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::body::Outgoing;
use super::dial::{DialFault, Dialer, Purpose};
use super::rules::{Reach, Target};
use super::tunnel::{self, Activity};

/// Idle connections kept to one server.
const KEPT: usize = 64;
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// How long a server may take for its handshakes.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// What connections are kept by: a change of any of these needs another one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub(super) target: Target,
    pub(super) tls: bool,
    pub(super) reach: Reach,
}

/// Opens and keeps connections.
pub(super) struct Upstreams {
    dialer: Dialer,
    any: TlsConnector,
    /// For upgrades, which HTTP/2 has not.
    http1: TlsConnector,
    kept: Mutex<HashMap<Server, Kept>>,
}

#[derive(Default)]
struct Kept {
    http1: Vec<(http1::SendRequest<Outgoing>, Instant)>,
    http2: Option<http2::SendRequest<Outgoing>>,
}

/// A request that was decided about, ready to be sent.
pub(super) struct Sending {
    /// Its method and headers; the URI and the version are written here.
    pub(super) head: Parts,
    pub(super) path: PathAndQuery,
    pub(super) body: Outgoing,
}

/// A connection that a response is still read from.
pub(super) struct Lease {
    upstreams: Arc<Upstreams>,
    server: Server,
    sender: http1::SendRequest<Outgoing>,
}

impl Lease {
    /// Keeps the connection for the next request; the response was read to its end.
    pub(super) fn give_back(self) {
        self.upstreams.keep(self.server, self.sender);
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendFault {
    #[error(transparent)]
    Dial(#[from] DialFault),
    #[error("{target} does not speak TLS as it should: {source}")]
    Tls { target: String, source: io::Error },
    #[error("{target} gave no answer: {}", chain(source))]
    Exchange { target: String, source: hyper::Error },
    #[error("the request cannot be written: {0}")]
    Head(#[from] hyper::http::Error),
}

fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// An open connection.
enum Opened {
    Http1 { sender: http1::SendRequest<Outgoing>, absolute: bool },
    Http2(http2::SendRequest<Outgoing>),
}

impl Upstreams {
    /// Trusts Mozilla's roots, and those of `upstream-ca.pem` where it is there.
    pub(super) fn new(dialer: Dialer, input: &Path) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let extra = input.join("upstream-ca.pem");
        if extra.exists() {
            let shown = extra.display();
            let pem = crate::settings::read(&extra).map_err(|error| error.to_string())?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| format!("{shown}: {error}"))?;
                roots.add(certificate).map_err(|error| format!("{shown}: {error}"))?;
            }
        }
        let roots = Arc::new(roots);
        let connector = |protocols: &[&[u8]]| -> Result<TlsConnector, String> {
            let mut config =
                ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                    .with_safe_default_protocol_versions()
                    .map_err(|error| error.to_string())?
                    .with_root_certificates(Arc::clone(&roots))
                    .with_no_client_auth();
            config.alpn_protocols = protocols.iter().map(|p| p.to_vec()).collect();
            Ok(TlsConnector::from(Arc::new(config)))
        };
        let (any, http1) = (connector(&[b"h2", b"http/1.1"])?, connector(&[b"http/1.1"])?);
        Ok(Self { dialer, any, http1, kept: Mutex::default() })
    }

    /// For tunnels.
    pub(super) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Sends a request and returns the head of its response. A kept connection that turns out to be
    /// closed is passed over as long as nothing of the request was sent.
    pub(super) async fn send(
        self: &Arc<Self>,
        server: &Server,
        sending: Sending,
    ) -> Result<(Response<Incoming>, Option<Lease>), SendFault> {
        let exchange = |source| SendFault::Exchange { target: server.target.to_string(), source };
        let Sending { mut head, path, mut body } = sending;
        while let Some(mut sender) = self.kept_http1(server) {
            if sender.ready().await.is_err() {
                continue;
            }
            let request = for_http1(head, &path, server, false, body)?;
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, Some(self.lease(server, sender)))),
                Err(mut error) => match error.take_message() {
                    Some(request) => (head, body) = request.into_parts(),
                    None => return Err(exchange(error.into_error())),
                },
            }
        }
        let opened = match self.kept_http2(server) {
            Some(sender) => Opened::Http2(sender),
            None => self.open(server, &self.any).await?,
        };
        match opened {
            Opened::Http1 { mut sender, absolute } => {
                let request = for_http1(head, &path, server, absolute, body)?;
                let response = sender.send_request(request).await.map_err(exchange)?;
                let lease = (!absolute).then(|| self.lease(server, sender));
                Ok((response, lease))
            }
            Opened::Http2(mut sender) => {
                let request = for_http2(head, &path, server, body)?;
                Ok((sender.send_request(request).await.map_err(exchange)?, None))
            }
        }
    }

    /// Sends a request that may change the protocol, on a connection of its own.
    pub(super) async fn upgrade(
        &self,
        server: &Server,
        sending: Sending,
    ) -> Result<Response<Incoming>, SendFault> {
        let exchange = |source| SendFault::Exchange { target: server.target.to_string(), source };
        let Opened::Http1 { mut sender, absolute } = self.open(server, &self.http1).await? else {
            return Err(SendFault::Tls {
                target: server.target.to_string(),
                source: io::Error::other("it speaks HTTP/2 although it was not offered"),
            });
        };
        let request = for_http1(sending.head, &sending.path, server, absolute, sending.body)?;
        sender.send_request(request).await.map_err(exchange)
    }

    async fn open(&self, server: &Server, tls: &TlsConnector) -> Result<Opened, SendFault> {
        let purpose = if server.tls { Purpose::Tunnel } else { Purpose::Request };
        let dialled = self.dialer.dial(&server.target, server.reach, purpose).await?;
        if !server.tls {
            return self.speak_http1(server, dialled.stream, dialled.absolute).await;
        }
        let fault = |source| SendFault::Tls { target: server.target.to_string(), source };
        let name = ServerName::try_from(server.target.host.as_str().to_owned())
            .map_err(|error| fault(io::Error::other(error)))?;
        let stream = timeout(HANDSHAKE, tls.connect(name, dialled.stream))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(fault)?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return self.speak_http1(server, stream, false).await;
        }
        let exchange = |source| SendFault::Exchange { target: server.target.to_string(), source };
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(exchange)?;
        // How it ends is told to whoever sends on it.
        tokio::spawn(connection);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.entry(server.clone()).or_default().http2 = Some(sender.clone());
        Ok(Opened::Http2(sender))
    }

    async fn speak_http1<S>(
        &self,
        server: &Server,
        stream: S,
        absolute: bool,
    ) -> Result<Opened, SendFault>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let activity = Activity::new();
        let io = TokioIo::new(activity.watch(stream));
        let (sender, connection) = http1::handshake(io)
            .await
            .map_err(|source| SendFault::Exchange { target: server.target.to_string(), source })?;
        let connection = connection.with_upgrades();
        tokio::spawn(async move {
            tokio::select! {
                // How it ends is told to whoever reads the response.
                _ = connection => {}
                () = activity.idle_for(tunnel::IDLE) => {}
            }
        });
        Ok(Opened::Http1 { sender, absolute })
    }

    fn lease(self: &Arc<Self>, server: &Server, sender: http1::SendRequest<Outgoing>) -> Lease {
        Lease { upstreams: Arc::clone(self), server: server.clone(), sender }
    }

    fn keep(&self, server: Server, sender: http1::SendRequest<Outgoing>) {
        if sender.is_closed() {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut kept.entry(server).or_default().http1;
        if kept.len() < KEPT {
            kept.push((sender, Instant::now()));
        }
    }

    fn kept_http1(&self, server: &Server) -> Option<http1::SendRequest<Outgoing>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut kept.get_mut(server)?.http1;
        while let Some((sender, since)) = kept.pop() {
            if since.elapsed() < IDLE && !sender.is_closed() {
                return Some(sender);
            }
        }
        None
    }

    fn kept_http2(&self, server: &Server) -> Option<http2::SendRequest<Outgoing>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut kept.get_mut(server)?.http2;
        if kept.as_ref().is_some_and(http2::SendRequest::is_closed) {
            *kept = None;
        }
        kept.clone()
    }

    /// Closes what was idle for too long, and forgets servers that nothing is kept to.
    pub(super) fn sweep(&self) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|_, kept| {
            kept.http1.retain(|(sender, since)| since.elapsed() < IDLE && !sender.is_closed());
            kept.http2.take_if(|sender| sender.is_closed());
            !kept.http1.is_empty() || kept.http2.is_some()
        });
    }
}

/// The server's name as `Host` and `:authority` have it.
fn authority(server: &Server) -> String {
    let usual = if server.tls { 443 } else { 80 };
    if server.target.port == usual {
        server.target.host.as_str().to_owned()
    } else {
        server.target.to_string()
    }
}

fn for_http1(
    mut head: Parts,
    path: &PathAndQuery,
    server: &Server,
    absolute: bool,
    body: Outgoing,
) -> Result<Request<Outgoing>, hyper::http::Error> {
    let name = authority(server);
    let mut uri = Uri::builder().path_and_query(path.clone());
    if absolute {
        uri = uri.scheme(Scheme::HTTP).authority(name.as_str());
    }
    head.uri = uri.build()?;
    head.version = Version::HTTP_11;
    head.headers.insert(header::HOST, HeaderValue::try_from(name)?);
    Ok(Request::from_parts(head, body))
}

fn for_http2(
    mut head: Parts,
    path: &PathAndQuery,
    server: &Server,
    body: Outgoing,
) -> Result<Request<Outgoing>, hyper::http::Error> {
    let name = Authority::try_from(authority(server))?;
    head.uri = Uri::builder()
        .scheme(Scheme::HTTPS)
        .authority(name)
        .path_and_query(path.clone())
        .build()?;
    head.version = Version::HTTP_2;
    head.headers.remove(header::HOST);
    Ok(Request::from_parts(head, body))
}
