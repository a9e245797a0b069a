//! The leak scan of what the agent sends: what a finding means on a route, and the sieve that a
//! streamed body runs through.

use std::collections::BTreeSet;
use std::sync::Arc;

use bottle_detector::{Detector, Finding, SHORTEST, Stream, What, mask};
use bottle_planner::decision::{Code, Outcome};
use bottle_planner::policy::{Dlp, DlpAction};
use bytes::{Bytes, BytesMut};
use hyper::Method;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;

use super::rules::{HostName, Refusal};
use super::settings::Table;
use super::vault::Held;
use crate::passing::unmeant;

/// How much of what has gone out is looked at again together with what is about to, when a sender
/// pauses: an interactive protocol cannot wait until a block is full.
const CONTEXT: usize = 16 << 10;

/// The scan of one request.
#[derive(Clone)]
pub(super) struct Scan {
    held: Arc<Held>,
    table: Arc<Table>,
    host: HostName,
    dlp: Dlp,
}

/// What findings mean on a route.
#[derive(Debug, Default)]
pub(super) struct Judgement {
    redact: Vec<Finding>,
    /// What was found and let through, or replaced: `leak github-pat`.
    pub(super) noted: BTreeSet<String>,
}

impl Judgement {
    /// What to log a request as that this was found in.
    pub(super) fn outcome(&self) -> Option<(Outcome, String)> {
        if self.noted.is_empty() {
            return None;
        }
        let outcome = if self.redact.is_empty() { Outcome::Warn } else { Outcome::Redact };
        Some((outcome, self.noted.iter().cloned().collect::<Vec<_>>().join(", ")))
    }

    fn add(&mut self, other: Self) {
        self.redact.extend(other.redact);
        self.noted.extend(other.noted);
    }
}

impl Scan {
    /// The scan that a route asks for; none where it asks for nothing.
    pub(super) fn of(
        held: &Arc<Held>,
        table: &Arc<Table>,
        host: &HostName,
        dlp: Dlp,
    ) -> Option<Self> {
        held.detector(dlp)?;
        Some(Self { held: Arc::clone(held), table: Arc::clone(table), host: host.clone(), dlp })
    }

    fn detector(&self) -> Option<&Detector> {
        self.held.detector(self.dlp)
    }

    /// Scans a whole text.
    fn look(&self, bytes: &[u8], place: &str) -> Result<Judgement, Refusal> {
        let found = self.detector().map(|d| d.scan(bytes)).unwrap_or_default();
        self.judge(found, place)
    }

    /// A value that the manifest means to be seen at this host passes, and so does the token
    /// pattern that it is.
    fn judge(&self, found: Vec<Finding>, place: &str) -> Result<Judgement, Refusal> {
        let mut judged = Judgement::default();
        if found.is_empty() {
            return Ok(judged);
        }
        for finding in unmeant(found, |name| self.table.passes(name, &self.host)) {
            let (action, name) = match &finding.what {
                What::Value(name) => (self.dlp.own_secrets, name),
                What::Rule(id) => (self.dlp.patterns, id),
            };
            // What could not be looked into is no finding to be lenient about.
            let unseen = matches!(&finding.what, What::Rule(id) if id.starts_with("limit-"));
            match action {
                DlpAction::Off if !unseen => continue,
                DlpAction::Block => return Err(leak(&finding.what, place)),
                _ if unseen => return Err(leak(&finding.what, place)),
                DlpAction::Redact => {
                    judged.noted.insert(format!("leak {name}"));
                    judged.redact.push(finding);
                }
                DlpAction::Warn | DlpAction::Off => {
                    judged.noted.insert(format!("leak {name}"));
                }
            }
        }
        Ok(judged)
    }

    /// Scans and, where the route says so, rewrites what a request says before its body.
    pub(super) fn head(
        &self,
        method: &Method,
        path: &mut PathAndQuery,
        headers: &mut HeaderMap,
    ) -> Result<Judgement, Refusal> {
        let mut words = self.words(method, headers)?;
        let mut text = Vec::with_capacity(1024);
        text.extend_from_slice(path.as_str().as_bytes());
        text.push(b'\n');
        for (name, value) in headers.iter() {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.push(b'\n');
        }
        let judged = self.look(&text, "the URL or a header")?;
        if !judged.redact.is_empty() {
            mask(&mut text, 0, &judged.redact);
            rewrite(&text, path, headers)
                .ok_or_else(|| leak(&judged.redact[0].what, "a header's name"))?;
        }
        words.add(judged);
        Ok(words)
    }

    /// Scans what is neither replaced nor spelled as it was sent: the method, which may be any word,
    /// and the names of headers, which have no case.
    fn words(&self, method: &Method, headers: &HeaderMap) -> Result<Judgement, Refusal> {
        let judged = match is_usual(method) {
            true => Judgement::default(),
            false => self.look(method.as_str().as_bytes(), "the method")?,
        };
        if let Some(found) = judged.redact.first() {
            return Err(leak(&found.what, "the method"));
        }
        let mut words = judged;
        if self.dlp.own_secrets == DlpAction::Off {
            return Ok(words);
        }
        for header in headers.keys().filter(|name| name.as_str().len() >= SHORTEST) {
            let Some(value) = self.held.in_host(header.as_str()) else { continue };
            if self.table.passes(value, &self.host) {
                continue;
            }
            if self.dlp.own_secrets != DlpAction::Warn {
                return Err(leak(&What::Value(value.into()), "a header's name"));
            }
            words.noted.insert(format!("leak {value}"));
        }
        Ok(words)
    }

    /// Scans a whole body, and rewrites it where the route says so.
    pub(super) fn body(&self, body: Bytes) -> Result<(Bytes, Judgement), Refusal> {
        let judged = self.look(&body, "the body")?;
        if judged.redact.is_empty() {
            return Ok((body, judged));
        }
        let mut bytes = BytesMut::from(body);
        mask(&mut bytes, 0, &judged.redact);
        Ok((bytes.freeze(), judged))
    }

    /// Begins the scan of something that streams.
    pub(super) fn sieve(&self) -> Option<Sieve> {
        Some(Sieve {
            stream: self.detector()?.stream(),
            scan: self.clone(),
            held: BytesMut::new(),
            base: 0,
            context: Vec::new(),
            judged: Judgement::default(),
        })
    }
}

/// The methods of RFC 9110 and RFC 5789, which carry nothing.
pub(super) fn is_usual(method: &Method) -> bool {
    const USUAL: [Method; 9] = [
        Method::GET,
        Method::POST,
        Method::HEAD,
        Method::OPTIONS,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::CONNECT,
        Method::TRACE,
    ];
    USUAL.contains(method)
}

fn leak(what: &What, place: &str) -> Refusal {
    let (rule, what) = match what {
        What::Value(name) => (format!("leak {name}"), format!("the value of {name} is in {place}")),
        What::Rule(id) => (format!("leak {id}"), format!("{place} matches the leak rule {id}")),
    };
    Refusal::new(Code::Leak, rule, what)
}

/// Takes a masked head apart again; none where a header's name was masked.
fn rewrite(text: &[u8], path: &mut PathAndQuery, headers: &mut HeaderMap) -> Option<()> {
    let end = text.iter().position(|&b| b == b'\n')?;
    *path = PathAndQuery::try_from(&text[..end]).ok()?;
    let mut masked = HeaderMap::with_capacity(headers.len());
    let mut rest = &text[end + 1..];
    for (name, value) in headers.iter() {
        let (start, length) = (name.as_str().len() + 2, value.len());
        if rest.get(..start - 2)? != name.as_str().as_bytes() {
            return None;
        }
        let value = rest.get(start..start + length)?;
        masked.append(HeaderName::clone(name), HeaderValue::from_bytes(value).ok()?);
        rest = rest.get(start + length + 1..)?;
    }
    *headers = masked;
    Some(())
}

/// A stream's way through the scan: bytes go in, and come out once no finding can hold them any
/// more. As many come out as went in.
pub(super) struct Sieve {
    scan: Scan,
    stream: Stream,
    /// What has not gone out, and where in the stream it begins.
    held: BytesMut,
    base: u64,
    /// The end of what has gone out.
    context: Vec<u8>,
    judged: Judgement,
}

impl Sieve {
    /// Takes the next piece; what may go out now.
    pub(super) fn push(&mut self, piece: &[u8]) -> Result<Bytes, Refusal> {
        self.held.extend_from_slice(piece);
        let found = self.stream.feed(piece);
        self.apply(found)?;
        let settled = self.stream.settled().saturating_sub(self.base);
        let n = usize::try_from(settled).unwrap_or(usize::MAX).min(self.held.len());
        Ok(self.release(n))
    }

    /// What may go out although the sender has paused: what is held was looked at together with
    /// what has gone out just before.
    pub(super) fn pause(&mut self) -> Result<Bytes, Refusal> {
        if self.held.is_empty() {
            return Ok(Bytes::new());
        }
        let before = self.base - self.context.len() as u64;
        let mut window = self.context.clone();
        window.extend_from_slice(&self.held);
        let mut found = self.scan.detector().map(|d| d.scan(&window)).unwrap_or_default();
        for finding in &mut found {
            finding.span = finding.span.start + before..finding.span.end + before;
        }
        found.retain(|finding| finding.span.end > self.base);
        self.apply(found)?;
        Ok(self.release(self.held.len()))
    }

    /// Takes the end; what is left to go out.
    pub(super) fn finish(&mut self) -> Result<Bytes, Refusal> {
        let found = self.stream.finish();
        self.apply(found)?;
        Ok(self.release(self.held.len()))
    }

    /// What was found and let through so far.
    pub(super) fn judged(&self) -> &Judgement {
        &self.judged
    }

    fn apply(&mut self, found: Vec<Finding>) -> Result<(), Refusal> {
        if found.is_empty() {
            return Ok(());
        }
        let judged = self.scan.judge(found, "the body")?;
        mask(&mut self.held, self.base, &judged.redact);
        self.judged.add(judged);
        Ok(())
    }

    fn release(&mut self, n: usize) -> Bytes {
        let out = self.held.split_to(n).freeze();
        self.base += n as u64;
        if out.len() >= CONTEXT {
            self.context.clear();
            self.context.extend_from_slice(&out[out.len() - CONTEXT..]);
        } else if !out.is_empty() {
            let over = (self.context.len() + out.len()).saturating_sub(CONTEXT);
            self.context.drain(..over);
            self.context.extend_from_slice(&out);
        }
        out
    }
}
