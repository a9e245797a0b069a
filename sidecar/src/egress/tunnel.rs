//! Carrying bytes both ways until both ends are done, nothing moves any more, or the tunnel is no
//! longer allowed.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::time::{Instant, sleep_until};

/// A connection on which nothing arrives from either side for this long is closed. Long, because a
/// model may think for minutes before its first byte.
pub(super) const IDLE: Duration = Duration::from_secs(15 * 60);

/// What is carried at once, each way.
const PIECE: usize = 32 << 10;

/// When something last arrived.
#[derive(Debug, Clone)]
pub(super) struct Activity {
    begun: Instant,
    last: Arc<AtomicU64>,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), last: Arc::default() }
    }

    fn note(&self) {
        let millis = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Returns once nothing has arrived for `limit`.
    pub(super) async fn idle_for(&self, limit: Duration) {
        loop {
            let last = self.begun + Duration::from_millis(self.last.load(Ordering::Relaxed));
            if last.elapsed() >= limit {
                return;
            }
            sleep_until(last + limit).await;
        }
    }

    /// A stream whose arrivals are noted.
    pub(super) fn watch<S>(&self, inner: S) -> Watched<S> {
        Watched { inner, activity: self.clone(), read: 0 }
    }
}

/// A stream whose arrivals are noted.
#[derive(Debug)]
pub(super) struct Watched<S> {
    inner: S,
    activity: Activity,
    read: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(context, buffer);
        if poll.is_ready() {
            self.activity.note();
            self.read += buffer.filled().len() - before;
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
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

/// How many bytes a tunnel carried each way.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Carried {
    pub(super) sent: usize,
    pub(super) received: usize,
}

/// Carries bytes until an end closes, all is quiet, or `revoked` returns.
pub(super) async fn carry<A, B>(client: A, server: B, revoked: impl Future<Output = ()>) -> Carried
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Activity::new();
    let mut client = activity.watch(client);
    let mut server = activity.watch(server);
    tokio::select! {
        // How a tunnel broke is between its two ends.
        _ = copy_bidirectional_with_sizes(&mut client, &mut server, PIECE, PIECE) => {}
        () = activity.idle_for(IDLE) => {}
        () = revoked => {}
    }
    Carried { sent: client.read, received: server.read }
}
