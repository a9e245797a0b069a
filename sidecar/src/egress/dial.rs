//! Reaching a host that was allowed: directly at an address the guard checked, or through the next
//! proxy.
//!
//! Behind a proxy the name is resolved there. It is resolved here first all the same and refused if
//! its address is private; a name that only the proxy can resolve is left to it. A pinned host is
//! asked of the proxy by its address.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::guard::{Guard, GuardFault};
use super::rules::{Reach, Target};
use super::settings::{Setup, UpstreamProxy};

/// How long one address has to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the next proxy has to answer a CONNECT.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// The longest answer to a CONNECT.
const LONGEST_HEAD: usize = 16 << 10;

/// Opens connections.
pub(super) struct Dialer {
    guard: Guard,
    hop: Hop,
}

/// What stands between egress and the world.
enum Hop {
    None,
    /// Pipelock: everything goes through it.
    Always(SocketAddr),
    /// The corporate proxy.
    Proxy(UpstreamProxy),
}

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Bytes that nobody on the way reads.
    Tunnel,
    /// One plain HTTP request, which a proxy is given whole.
    Request,
}

/// An open connection.
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    /// Whether a proxy at the other end wants to be told the whole URL.
    pub(super) absolute: bool,
}

/// Why a host was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialFault {
    #[error(transparent)]
    Guard(#[from] GuardFault),
    #[error("{target} does not answer: {source}")]
    Connect { target: String, source: io::Error },
    #[error("the next proxy does not reach {target}: {reason}")]
    Hop { target: String, reason: String },
}

impl DialFault {
    /// Whether this is a refusal of ours and not a failure out there.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Guard(GuardFault::Refused { .. }))
    }
}

impl Dialer {
    pub(super) fn new(guard: Guard, setup: &Setup) -> Self {
        let hop = match (setup.settings.next_hop, &setup.upstream) {
            (Some(address), _) => Hop::Always(address.into()),
            (None, Some(proxy)) => Hop::Proxy(proxy.clone()),
            (None, None) => Hop::None,
        };
        Self { guard, hop }
    }

    /// Connects to an allowed target.
    pub(super) async fn dial(
        &self,
        target: &Target,
        reach: Reach,
        purpose: Purpose,
    ) -> Result<Dialled, DialFault> {
        let addresses = self.guard.addresses(&target.host, reach).await;
        let hop = match &self.hop {
            Hop::None => None,
            Hop::Always(address) => Some(vec![*address]),
            Hop::Proxy(proxy) if proxy.is_skipped_for(target.host.as_str()) => None,
            Hop::Proxy(proxy) => Some(self.proxy_addresses(proxy).await?),
        };
        let Some(hop) = hop else {
            let at: Vec<_> = addresses?.iter().map(|&ip| (ip, target.port).into()).collect();
            let stream = connect(&at, target).await?;
            return Ok(Dialled { stream, absolute: false });
        };
        if let Err(fault @ GuardFault::Refused { .. }) = addresses {
            return Err(fault.into());
        }
        let mut stream = connect(&hop, target).await?;
        if purpose == Purpose::Request && reach.pin.is_none() {
            return Ok(Dialled { stream, absolute: true });
        }
        let authority = match reach.pin {
            Some(pin) => SocketAddr::from((pin, target.port)).to_string(),
            None => target.to_string(),
        };
        timeout(HANDSHAKE, ask_for_tunnel(&mut stream, &authority))
            .await
            .unwrap_or_else(|_| Err("no answer in time".into()))
            .map_err(|reason| DialFault::Hop { target: target.to_string(), reason })?;
        Ok(Dialled { stream, absolute: false })
    }

    async fn proxy_addresses(&self, proxy: &UpstreamProxy) -> Result<Vec<SocketAddr>, GuardFault> {
        let addresses = match proxy.host.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.guard.resolve(&proxy.host).await?,
        };
        Ok(addresses.into_iter().map(|ip| (ip, proxy.port).into()).collect())
    }
}

async fn connect(addresses: &[SocketAddr], target: &Target) -> Result<TcpStream, DialFault> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // A proxy adds no delay of its own; a socket without this option still works.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(DialFault::Connect { target: target.to_string(), source: last })
}

/// CONNECT as a client (RFC 9110, section 9.3.6). The answer is read byte by byte, so that nothing
/// of the tunnel is taken with it.
async fn ask_for_tunnel(stream: &mut TcpStream, authority: &str) -> Result<(), String> {
    let request = format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LONGEST_HEAD {
            return Err("its answer is too long".into());
        }
        head.push(stream.read_u8().await.map_err(|error| error.to_string())?);
    }
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let code = line.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
    match code {
        Some(code) if code.starts_with('2') => Ok(()),
        Some(code) => Err(format!("it answered {}", code.escape_debug())),
        None => Err("its answer is not HTTP".into()),
    }
}
