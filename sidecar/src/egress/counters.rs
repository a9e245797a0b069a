//! What passed and what did not, by route, for the operator: `out/counters.json`, written about
//! once a second while it changes.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bottle_planner::decision::Outcome;
use serde::Serialize;

use crate::log;

const INTERVAL: Duration = Duration::from_secs(1);

/// The counters since the start.
#[derive(Debug)]
pub(super) struct Counters {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    changed: bool,
    totals: Totals,
}

#[derive(Debug, Serialize)]
struct Totals {
    since: String,
    routes: BTreeMap<String, Route>,
    /// Requests for hosts that no route names.
    no_route: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Route {
    allowed: u64,
    refused: u64,
    warned: u64,
    redacted: u64,
    sent_bytes: u64,
    received_bytes: u64,
}

impl Counters {
    pub(super) fn new(output: &Path) -> Self {
        let totals = Totals { since: log::now(), routes: BTreeMap::new(), no_route: 0 };
        Self {
            path: output.join("counters.json"),
            state: Mutex::new(State { changed: true, totals }),
        }
    }

    /// Counts one decision.
    pub(super) fn decided(&self, route: Option<&str>, outcome: Outcome) {
        self.change(route, |totals| match outcome {
            Outcome::Allow | Outcome::Failed => totals.allowed += 1,
            Outcome::Refuse => totals.refused += 1,
            Outcome::Warn => totals.warned += 1,
            Outcome::Redact => totals.redacted += 1,
        });
    }

    /// Counts the bytes of bodies and tunnels.
    pub(super) fn carried(&self, route: &str, sent: u64, received: u64) {
        self.change(Some(route), |totals| {
            totals.sent_bytes += sent;
            totals.received_bytes += received;
        });
    }

    fn change(&self, route: Option<&str>, change: impl FnOnce(&mut Route)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.changed = true;
        let Some(route) = route else {
            state.totals.no_route += 1;
            return;
        };
        if let Some(totals) = state.totals.routes.get_mut(route) {
            change(totals);
        } else {
            change(state.totals.routes.entry(route.to_owned()).or_default());
        }
    }

    /// Writes the counters while it is polled.
    pub(super) async fn keep_written(&self) {
        loop {
            if let Err(error) = self.write() {
                log::warn("the counters are not up to date", &[("error", &error)]);
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    fn write(&self) -> io::Result<()> {
        let text = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !std::mem::take(&mut state.changed) {
                return Ok(());
            }
            serde_json::to_vec(&state.totals).map_err(io::Error::other)?
        };
        let fresh = self.path.with_extension("json.new");
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        std::fs::rename(fresh, &self.path)
    }
}
