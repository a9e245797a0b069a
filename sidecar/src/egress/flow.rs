//! One request on its way through: what the log and the counters are told of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bottle_detector::{SHORTEST, mask};
use bottle_planner::decision::{Code, Decision, Outcome, Via};
use hyper::header::{HeaderMap, HeaderValue};

use super::proxy::Shared;
use super::rules::Refusal;
use super::settings::Table;
use super::vault::Held;
use crate::decisions::Entry;

/// What is known of a request; its query is left out.
pub(super) struct Flow {
    pub(super) shared: Arc<Shared>,
    pub(super) table: Arc<Table>,
    pub(super) held: Arc<Held>,
    pub(super) client: &'static str,
    pub(super) via: Via,
    pub(super) scheme: &'static str,
    pub(super) method: String,
    pub(super) host: String,
    pub(super) port: Option<u16>,
    pub(super) path: Option<String>,
    /// The pattern of the route, once one is found.
    pub(super) route: Option<String>,
    sent: AtomicU64,
    received: AtomicU64,
    /// Why the scan stopped the request while its body was sent.
    stopped: Mutex<Option<Refusal>>,
}

impl Flow {
    pub(super) fn new(shared: &Arc<Shared>, client: &'static str, via: Via) -> Self {
        Self {
            table: shared.table(),
            held: shared.vault.held(),
            shared: Arc::clone(shared),
            client,
            via,
            scheme: "",
            method: String::new(),
            host: String::new(),
            port: None,
            path: None,
            route: None,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            stopped: Mutex::default(),
        }
    }

    /// Writes one line. What spells a secret in host or path is masked: a refused request is logged
    /// too, and nobody scanned it before.
    pub(super) fn record(&self, outcome: Outcome, code: Code, rule: &str, reason: &str) {
        let host = match self.held.in_host(&self.host) {
            Some(name) => format!("[{name}]").into(),
            None => std::borrow::Cow::Borrowed(self.host.as_str()),
        };
        let path = self.path.as_deref().map(|path| self.masked(path));
        // A method may be any word.
        let method = match self.method.len() {
            0..SHORTEST => self.method.as_str().into(),
            _ => self.masked(&self.method),
        };
        self.shared.decisions.record(&Entry {
            plan: self.table.plan.as_ref(),
            client: self.client,
            via: self.via,
            scheme: self.scheme,
            method: &method,
            host: &host,
            port: self.port,
            path: path.as_deref(),
            outcome,
            code,
            rule,
            reason,
            push: None,
        });
        self.shared.counters.decided(self.route.as_deref(), outcome);
    }

    pub(super) fn refuse(&self, refusal: &Refusal) {
        self.record(Outcome::Refuse, refusal.code, &refusal.rule, &refusal.reason);
    }

    /// A refusal as the client may be told of it.
    pub(super) fn refused(&self, refusal: &Refusal) -> Decision {
        Decision {
            time: String::new(),
            plan: None,
            client: self.client.to_owned(),
            via: self.via,
            scheme: self.scheme.to_owned(),
            method: self.method.clone(),
            host: self.host.clone(),
            port: self.port,
            path: self.path.as_deref().map(|path| self.masked(path).into_owned()),
            outcome: Outcome::Refuse,
            code: refusal.code,
            rule: refusal.rule.clone(),
            reason: refusal.reason.clone(),
            push: None,
        }
    }

    /// Text of the request as it may be repeated.
    pub(super) fn masked<'t>(&self, text: &'t str) -> std::borrow::Cow<'t, str> {
        let found = self.held.everything().scan(text.as_bytes());
        if found.is_empty() {
            return text.into();
        }
        let mut bytes = text.as_bytes().to_vec();
        mask(&mut bytes, 0, &found);
        String::from_utf8_lossy(&bytes).into_owned().into()
    }

    /// Something was found in the body and let through.
    pub(super) fn found(&self, outcome: Outcome, rule: &str) {
        self.record(outcome, Code::Leak, rule, "found in the body as it was sent");
    }

    /// The scan stops the request while its body is sent.
    pub(super) fn stop(&self, refusal: Refusal) {
        self.refuse(&refusal);
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
    }

    /// Why the scan stopped the request, if it did.
    pub(super) fn stopped(&self) -> Option<Refusal> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The response broke off.
    pub(super) fn broke(&self, error: &hyper::Error) {
        if self.stopped().is_none() {
            self.record(Outcome::Failed, Code::Upstream, "", &error.to_string());
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Credentials were taken out of the response.
    pub(super) fn scrubbed(&self, times: u64) {
        if times > 0 {
            let reason = format!("an injected credential came back {times} times, and was masked");
            self.record(Outcome::Redact, Code::Credential, "scrub", &reason);
        }
    }

    /// Takes injected credentials out of a response's headers.
    pub(super) fn scrub_headers(&self, headers: &mut HeaderMap, wanted: bool) {
        let Some(values) = self.held.scrub().filter(|_| wanted) else { return };
        let mut times = 0;
        for value in headers.values_mut() {
            let mut scrubber = values.scrubber();
            let mut clean = scrubber.feed(value.as_bytes());
            clean.extend(scrubber.finish());
            if scrubber.replaced() > 0 {
                times += scrubber.replaced();
                *value = HeaderValue::from_bytes(&clean)
                    .unwrap_or_else(|_| HeaderValue::from_static(""));
            }
        }
        self.scrubbed(times);
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        let (sent, received) = (*self.sent.get_mut(), *self.received.get_mut());
        if let Some(route) = self.route.as_deref().filter(|_| sent + received > 0) {
            self.shared.counters.carried(route, sent, received);
        }
    }
}
