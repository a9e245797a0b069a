//! Where attempts are made: a session with routes of every kind, and web servers behind them.

use std::time::{Duration, Instant};

use bottle_outside::{Authority, Origin, Request};
use bottle_planner::decision::Code;
use serde_json::{Value, json};

use crate::harness::{Process, Session, Who, rule, wait_until};

/// How long a line in the log is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

/// What egress puts into requests to `auth.test`.
pub const TOKEN: &str = "tok-9Kd2xQ7mWz4LpR8v";
/// A secret of the agent's own, which goes nowhere.
pub const OWN: &str = "own-Vb3nXy7Qk2Lw9TzR";
/// Hosts of the outside, all at one address.
const HOSTS: [&str; 15] = [
    "api.test",
    "evil.test",
    "auth.test",
    "read.test",
    "deny.test",
    "all.test",
    "pass.test",
    "redact.test",
    "warn.test",
    "a.wild.test",
    "harmless.wild.test",
    "b.a.wild.test",
    "wild.test",
    "git.test",
    "two.test",
];

pub struct World {
    pub session: Session,
    secure: Origin,
    plain: Origin,
    _egress: Process,
}

impl World {
    /// Egress with everything delivered.
    pub fn new() -> Self {
        let world = Self::undelivered();
        let secrets = json!({"inject:TOKEN": TOKEN, "scan:TOKEN": TOKEN, "scan:OWN": OWN});
        let (code, error) = world.session.receive(&secrets.to_string());
        assert_eq!(code, 0, "{error}");
        world
    }

    /// Egress before a delivery.
    pub fn undelivered() -> Self {
        let session = Session::new();
        let outside = Authority::new("outside");
        session.write("in/upstream-ca.pem", &outside.pem());
        session.write_egress(&routes(&session), json!({}));
        let server = session.address(Who::Server);
        session.resolve("inside.test", server.into());
        let config = outside.server(&HOSTS, &["h2", "http/1.1"]);
        let secure = Origin::tls((server, 443), config);
        let plain = Origin::plain((server, 80));
        let egress = session.start_ready("egress");
        Self { session, secure, plain, _egress: egress }
    }

    pub fn forget(&self) {
        self.secure.forget();
        self.plain.forget();
    }

    /// The requests that arrived whole.
    pub fn requests(&self) -> Vec<Request> {
        let mut all = self.secure.requests();
        all.extend(self.plain.requests());
        all
    }

    /// All that arrived: bytes, and bodies and fields as they were read.
    pub fn arrived(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for origin in [&self.secure, &self.plain] {
            all.extend(origin.bytes());
            for request in origin.requests() {
                all.extend(request.text().into_bytes());
                all.extend(request.body);
            }
            for message in origin.messages() {
                all.extend(message);
            }
        }
        all
    }

    /// Waits until a refusal for one of these reasons is logged after the first `before` lines;
    /// answers what is logged instead.
    pub fn is_told(&self, before: usize, codes: &[Code]) -> Result<(), String> {
        if codes.is_empty() {
            return Ok(());
        }
        let codes: Vec<Value> = codes.iter().map(|code| json!(code)).collect();
        let begun = Instant::now();
        loop {
            let log = self.session.decisions().split_off(before);
            let told = |d: &Value| d["outcome"] == "refuse" && codes.contains(&d["code"]);
            if log.iter().any(told) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{log:?}"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Decisions after the first `before`, once there is one that holds.
    pub fn decision(&self, before: usize, holds: impl Fn(&Value) -> bool) -> Value {
        let mut found = None;
        wait_until("a decision is logged", || {
            found = self.session.decisions().split_off(before).into_iter().find(|d| holds(d));
            found.is_some()
        });
        found.unwrap()
    }
}

fn routes(session: &Session) -> Value {
    let open = || rule(json!({"paths": ["/open/**"]}));
    let scan = |own: &str, patterns: &str| json!({"own_secrets": own, "patterns": patterns});
    let route = |port: u16, changes: Value| {
        let mut route = session.route(port, json!({"dlp": scan("block", "block")}));
        crate::harness::merge(&mut route, changes);
        route
    };
    let auth = json!({
        "scheme": "Bearer", "header": "authorization", "secret": "TOKEN", "placeholder": null,
    });
    json!({
        "api.test": route(443, json!({"allow": [open()]})),
        "two.test": route(443, json!({"allow": [open()]})),
        "plain.test": route(80, json!({"allow": [open()]})),
        "auth.test": route(443, json!({"allow": [open()], "auth": auth})),
        "read.test": route(443, json!({"allow": [rule(json!({"access": "read"}))]})),
        "deny.test": route(443, json!({
            "deny": [rule(json!({"paths": ["/admin/**"]})), rule(json!({"methods": ["DELETE"]}))],
        })),
        "all.test": route(443, json!({})),
        "pass.test": route(443, json!({"tls": "passthrough", "dlp": scan("off", "off")})),
        "redact.test": route(443, json!({"dlp": scan("redact", "redact")})),
        "warn.test": route(443, json!({"dlp": scan("warn", "warn")})),
        "*.wild.test": route(443, json!({})),
        "inside.test": route(443, json!({"address": null})),
    })
}
