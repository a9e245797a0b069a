//! The first bytes of a connection: whether a client speaks TLS, and which server it names.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use rustls::server::Acceptor;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// The most bytes of a ClientHello; real ones have up to two kilobytes.
const LARGEST: usize = 16 << 10;
/// The first byte of a TLS record that holds a handshake (RFC 8446, section 5.1).
const HANDSHAKE: u8 = 0x16;

/// What a client began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Opening {
    /// TLS; the name it asks for (RFC 6066, section 3), if it asks for one.
    Tls(Option<String>),
    /// Something else.
    Plain,
}

/// Reads as much of a stream as tells what it is; the stream comes back with those bytes before it.
pub(super) async fn open<S>(mut stream: S) -> io::Result<(Opening, Prefixed<S>)>
where
    S: AsyncRead + Unpin,
{
    let mut seen = Vec::with_capacity(2048);
    let mut acceptor = Acceptor::default();
    loop {
        let before = seen.len();
        if stream.read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen.first() != Some(&HANDSHAKE) {
            return Ok((Opening::Plain, Prefixed::new(seen, stream)));
        }
        let mut fresh = &seen[before..];
        while !fresh.is_empty() && acceptor.read_tls(&mut fresh)? > 0 {}
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Ok((Opening::Tls(name), Prefixed::new(seen, stream)));
            }
            Ok(None) if seen.len() < LARGEST => {}
            Ok(None) => return Err(io::Error::other("the ClientHello is too long")),
            Err((error, _)) => return Err(io::Error::other(error)),
        }
    }
}

/// A stream before which some bytes of it are read again.
#[derive(Debug)]
pub(super) struct Prefixed<S> {
    prefix: Vec<u8>,
    read: usize,
    inner: S,
}

impl<S> Prefixed<S> {
    fn new(prefix: Vec<u8>, inner: S) -> Self {
        Self { prefix, read: 0, inner }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(context, buffer);
        }
        let rest = &self.prefix[self.read..];
        let n = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..n]);
        self.read += n;
        if self.read == self.prefix.len() {
            self.prefix = Vec::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
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
