//! Bodies on their way: what is sent upstream, scanned, and what comes back, counted and scrubbed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bottle_detector::Scrubber;
use bottle_detector::unpack::Unpacker;
use bottle_planner::decision::{Code, Outcome};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep, timeout};

use super::flow::Flow;
use super::rules::Refusal;
use super::scan::{Scan, Sieve};
use super::upstream::Lease;

/// A body up to this many bytes is scanned whole before any of it is sent.
const WHOLE: usize = 256 << 10;
/// A compressed body is unpacked whole; a larger one is refused.
const PACKED: usize = 8 << 20;
/// A sender that pauses this long waits for something: what it sent so far is passed on.
const PAUSE: Duration = Duration::from_millis(100);

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyFault {
    #[error("the connection broke: {0}")]
    Broken(#[from] hyper::Error),
    #[error("the leak scan stopped the request")]
    Leak,
    #[error("the response cannot be unpacked: {0}")]
    Packed(#[from] bottle_detector::unpack::UnpackError),
}

/// What is sent upstream. Trailers go no further: nothing needs them, and nothing scans them.
pub(super) enum Outgoing {
    /// Known bytes.
    Whole(Option<Bytes>),
    /// Straight from the client: the route asks for no scan.
    Direct(Incoming, Arc<Flow>),
    /// Through the scan.
    Scanned(Box<Scanned>),
}

impl Outgoing {
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Direct(body, flow) => match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => Poll::Ready(frame.into_data().ok().map(|data| {
                    flow.sent(data.len());
                    Ok(Frame::data(data))
                })),
                Some(Err(error)) => Poll::Ready(Some(Err(error.into()))),
                None => Poll::Ready(None),
            },
            Self::Scanned(scanned) => scanned.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Direct(body, _) => body.is_end_stream(),
            Self::Scanned(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Direct(body, _) => body.size_hint(),
            Self::Scanned(scanned) => {
                scanned.length.map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

/// A body made ready to be sent.
pub(super) struct Prepared {
    pub(super) body: Outgoing,
    /// Whether it was unpacked on the way: it has no content coding any more.
    pub(super) unpacked: bool,
    /// What was found and let through so far.
    pub(super) noted: Option<(Outcome, String)>,
}

/// Scans a body: a short one whole, a long one as it is sent, a compressed one unpacked.
pub(super) async fn prepare(
    mut body: Incoming,
    coding: Option<&str>,
    scan: &Scan,
    flow: &Arc<Flow>,
) -> Result<Prepared, Refusal> {
    let length = body.size_hint().exact();
    if let Some(coding) = coding.filter(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return unpacked(body, coding, scan, flow).await;
    }
    let mut seen = BytesMut::new();
    let long = length.is_some_and(|n| n > WHOLE as u64);
    let mut first = None;
    while !long && seen.len() <= WHOLE {
        // Most bodies are one piece, which is not copied.
        if body.is_end_stream() {
            let whole = first.unwrap_or_else(|| seen.freeze());
            return checked(whole, scan, flow);
        }
        match timeout(PAUSE, body.frame()).await {
            Err(_) => break,
            Ok(None) => return checked(first.unwrap_or_else(|| seen.freeze()), scan, flow),
            Ok(Some(Err(error))) => {
                return Err(Refusal::new(
                    Code::Malformed,
                    "request",
                    format!("its body broke off: {error}"),
                ));
            }
            Ok(Some(Ok(frame))) => {
                let Ok(data) = frame.into_data() else { continue };
                if first.is_none() && seen.is_empty() {
                    first = Some(data);
                    continue;
                }
                if let Some(first) = first.take() {
                    seen.extend_from_slice(&first);
                }
                seen.extend_from_slice(&data);
            }
        }
    }
    let Some(sieve) = scan.sieve() else {
        return Err(Refusal::new(Code::Limit, "leak", "the scan cannot be set up"));
    };
    let scanned = Scanned {
        inner: body,
        length,
        ahead: Some(first.unwrap_or_else(|| seen.freeze())),
        sieve,
        flow: Arc::clone(flow),
        pause: None,
        ended: false,
    };
    Ok(Prepared { body: Outgoing::Scanned(Box::new(scanned)), unpacked: false, noted: None })
}

fn checked(whole: Bytes, scan: &Scan, flow: &Arc<Flow>) -> Result<Prepared, Refusal> {
    flow.sent(whole.len());
    if whole.is_empty() {
        return Ok(Prepared { body: Outgoing::empty(), unpacked: false, noted: None });
    }
    let (whole, judged) = scan.body(whole)?;
    Ok(Prepared { body: Outgoing::Whole(Some(whole)), unpacked: false, noted: judged.outcome() })
}

async fn unpacked(
    mut body: Incoming,
    coding: &str,
    scan: &Scan,
    flow: &Arc<Flow>,
) -> Result<Prepared, Refusal> {
    let refuse = |reason: String| Refusal::new(Code::Limit, "leak content-encoding", reason);
    // Unpacked bodies are held whole: a few at once, so that memory stays bounded.
    let _turn = flow.shared.unpacking.acquire().await;
    let mut unpacker = Unpacker::new(coding)
        .map_err(|error| refuse(format!("the body cannot be looked into: {error}")))?;
    let (mut packed, mut plain) = (BytesMut::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Refusal::new(Code::Malformed, "request", format!("its body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        packed.extend_from_slice(&data);
        let fed = unpacker.feed(&data, &mut plain);
        fed.map_err(|error| refuse(format!("the body cannot be looked into: {error}")))?;
        if packed.len() > PACKED || plain.len() > 4 * PACKED {
            return Err(refuse("a compressed body is larger than can be looked into".into()));
        }
    }
    let finished = unpacker.finish(&mut plain);
    finished.map_err(|error| refuse(format!("the body cannot be looked into: {error}")))?;
    flow.sent(packed.len());
    let (whole, judged) = scan.body(plain.into())?;
    let noted = judged.outcome();
    let rewritten = matches!(noted, Some((Outcome::Redact, _)));
    let body = if rewritten { whole } else { packed.freeze() };
    Ok(Prepared { body: Outgoing::Whole(Some(body)), unpacked: rewritten, noted })
}

/// A body that is scanned while it is sent.
pub(super) struct Scanned {
    inner: Incoming,
    length: Option<u64>,
    /// What was read before it was known to be long.
    ahead: Option<Bytes>,
    sieve: Sieve,
    flow: Arc<Flow>,
    pause: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Scanned {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(ahead) = self.ahead.take() {
                match self.sieve.push(&ahead) {
                    Ok(out) if out.is_empty() => {}
                    out => return self.pass(out),
                }
            }
            match Pin::new(&mut self.inner).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.pause = None;
                    let Ok(data) = frame.into_data() else { continue };
                    match self.sieve.push(&data) {
                        Ok(out) if out.is_empty() => {}
                        out => return self.pass(out),
                    }
                }
                Poll::Ready(Some(Err(error))) => {
                    self.ended = true;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    let out = self.sieve.finish();
                    if out.is_ok()
                        && let Some((outcome, rule)) = self.sieve.judged().outcome()
                    {
                        self.flow.found(outcome, &rule);
                    }
                    return match out {
                        Ok(out) if out.is_empty() => Poll::Ready(None),
                        out => self.pass(out),
                    };
                }
                Poll::Pending => {
                    let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE)));
                    ready!(pause.as_mut().poll(context));
                    self.pause = None;
                    match self.sieve.pause() {
                        Ok(out) if out.is_empty() => {
                            // Nothing is held: only more of the body goes on from here.
                            return Poll::Pending;
                        }
                        out => return self.pass(out),
                    }
                }
            }
        }
    }

    fn pass(
        &mut self,
        out: Result<Bytes, Refusal>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match out {
            Ok(out) => {
                self.flow.sent(out.len());
                Poll::Ready(Some(Ok(Frame::data(out))))
            }
            Err(refusal) => {
                self.ended = true;
                self.flow.stop(refusal);
                Poll::Ready(Some(Err(BodyFault::Leak)))
            }
        }
    }
}

/// What the client is answered.
pub(super) enum Answer {
    /// Egress's own words.
    Own(Option<Bytes>),
    /// The server's.
    Received(Box<Received>),
}

/// A response on its way.
pub(super) struct Received {
    pub(super) inner: Incoming,
    pub(super) lease: Option<Lease>,
    pub(super) scrub: Option<Scrub>,
    pub(super) flow: Arc<Flow>,
}

/// Takes injected credentials out of a response.
pub(super) struct Scrub {
    pub(super) scrubber: Scrubber,
    /// Where the response is compressed: it is passed on unpacked.
    pub(super) unpacker: Option<Unpacker>,
    pub(super) ended: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        match self.get_mut() {
            Self::Own(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Received(received) => received.poll(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(bytes) => bytes.is_none(),
            // The connection is given back when the end is read.
            Self::Received(received) => {
                received.lease.is_none()
                    && received.scrub.is_none()
                    && received.inner.is_end_stream()
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Received(received) => match &received.scrub {
                Some(Scrub { unpacker: Some(_), .. }) => SizeHint::default(),
                _ => received.inner.size_hint(),
            },
        }
    }
}

impl Received {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        loop {
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
            let data = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => data,
                    // Trailers, of which an injected credential is taken out like anywhere.
                    Err(frame) => {
                        let Ok(mut trailers) = frame.into_trailers() else { continue };
                        self.flow.scrub_headers(&mut trailers, self.scrub.is_some());
                        return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
                    }
                },
                Some(Err(error)) => {
                    self.flow.broke(&error);
                    self.lease = None;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None => {
                    if let Some(lease) = self.lease.take() {
                        lease.give_back();
                    }
                    let Some(scrub) = self.scrub.as_mut().filter(|scrub| !scrub.ended) else {
                        return Poll::Ready(None);
                    };
                    return Poll::Ready(match scrub.finish() {
                        Ok(rest) => {
                            self.flow.scrubbed(scrub.scrubber.replaced());
                            (!rest.is_empty()).then(|| Ok(Frame::data(rest.into())))
                        }
                        Err(error) => Some(Err(error)),
                    });
                }
            };
            self.flow.received(data.len());
            // The end is known with the last piece: the next request need not wait for it.
            if self.inner.is_end_stream()
                && let Some(lease) = self.lease.take()
            {
                lease.give_back();
            }
            let Some(scrub) = &mut self.scrub else {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            };
            match scrub.feed(&data) {
                Ok(out) if out.is_empty() => {}
                Ok(out) => return Poll::Ready(Some(Ok(Frame::data(out.into())))),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Scrub {
    fn feed(&mut self, piece: &[u8]) -> Result<Vec<u8>, BodyFault> {
        let Some(unpacker) = &mut self.unpacker else { return Ok(self.scrubber.feed(piece)) };
        let mut plain = Vec::new();
        unpacker.feed(piece, &mut plain)?;
        Ok(self.scrubber.feed(&plain))
    }

    fn finish(&mut self) -> Result<Vec<u8>, BodyFault> {
        self.ended = true;
        let mut out = Vec::new();
        if let Some(unpacker) = &mut self.unpacker {
            let mut plain = Vec::new();
            unpacker.finish(&mut plain)?;
            out = self.scrubber.feed(&plain);
        }
        out.extend(self.scrubber.finish());
        Ok(out)
    }
}
