//! What was refused, put together: requests of one kind are one group, with the smallest rule that
//! would allow them, or why no rule can.
//!
//! Everything in a decision may come from an agent. A group holds it as it was; whoever shows it
//! escapes it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::approvals::DEFAULT_PORT;
use crate::decision::{Code, Decision, Outcome, Via};
use crate::manifest::{is_method, is_request_path};
use crate::policy::{Access, HostPattern, Rule};
use crate::words::Digest;

/// The most kinds that are told apart: an agent can make up as many as it likes.
pub const MOST_GROUPS: usize = 10_000;
/// The most characters of a host or a method that is no name.
const LONGEST: usize = 300;

/// Refused requests of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Counted from 1 in the order in which kinds first occurred, so that a number keeps its
    /// meaning while the log grows.
    pub number: u32,
    /// The same kind has the same id wherever it occurs.
    pub id: String,
    /// Why it was refused, as a class.
    pub code: Code,
    /// How it was asked.
    pub via: Via,
    /// The host, in lower case where it is a name.
    pub host: String,
    /// The port, where one was named.
    pub port: Option<u16>,
    /// The method; `DNS` where a name was looked up, `CONNECT` for a tunnel.
    pub method: String,
    /// The shape of the paths: segments that look like ids are `*`.
    pub path: Option<String>,
    /// How often.
    pub count: u64,
    /// When it was refused first.
    pub first: String,
    /// When it was refused last.
    pub last: String,
    /// Which rule decided, the last time.
    pub rule: String,
    /// Why, the last time.
    pub reason: String,
}

/// What a group could be allowed by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Widening {
    /// The route added or widened.
    pub host: HostPattern,
    /// Its port.
    pub port: u16,
    /// The smallest rule.
    pub rule: Rule,
}

impl Widening {
    /// One line for people.
    #[must_use]
    pub fn words(&self) -> String {
        crate::facts::allow_text(&format!("{}:{}", self.host, self.port), &self.rule, None)
    }
}

type Key = (Code, bool, String, Option<u16>, String, Option<String>);

/// Refusals, as they are read from the log in its order.
#[derive(Debug, Default)]
pub struct Refusals {
    groups: BTreeMap<Key, Group>,
    /// Refusals of any kind.
    pub count: u64,
    /// Refusals of kinds beyond [`MOST_GROUPS`].
    pub untold: u64,
}

impl Refusals {
    /// Takes the next decision; what was let through is passed over.
    pub fn add(&mut self, decision: &Decision) {
        // No rule of the agent's would help a build: what that may reach is approved with its image.
        if decision.outcome != Outcome::Refuse || decision.client == "build" {
            return;
        }
        self.count += 1;
        let key = key(decision);
        let number = u32::try_from(self.groups.len()).unwrap_or(u32::MAX).saturating_add(1);
        if let Some(group) = self.groups.get_mut(&key) {
            group.count += 1;
            group.last.clone_from(&decision.time);
            group.rule.clone_from(&decision.rule);
            group.reason.clone_from(&decision.reason);
            return;
        }
        if self.groups.len() >= MOST_GROUPS {
            self.untold += 1;
            return;
        }
        let (code, _, host, port, method, path) = key.clone();
        let group = Group {
            number,
            id: Digest::of(format!("{key:?}").as_bytes()).short().to_string(),
            code,
            via: decision.via,
            host,
            port,
            method,
            path,
            count: 1,
            first: decision.time.clone(),
            last: decision.time.clone(),
            rule: decision.rule.clone(),
            reason: decision.reason.clone(),
        };
        self.groups.insert(key, group);
    }

    /// The groups by number.
    #[must_use]
    pub fn groups(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by_key(|group| group.number);
        groups
    }
}

fn key(decision: &Decision) -> Key {
    let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
    let host = HostPattern::new(&decision.host).map_or_else(|_| cut(&decision.host), String::from);
    // One name is asked for by several record types at once.
    let (method, port) = match decision.via {
        Via::Dns => ("DNS".to_string(), None),
        _ => (cut(&decision.method), decision.port),
    };
    let path = decision.path.as_deref().map(shape);
    (decision.code, decision.via == Via::Gate, host, port, method, path)
}

/// A path with `*` in the place of every segment that looks like an id, or that no rule can name.
#[must_use]
pub fn shape(path: &str) -> String {
    let each = |segment: &str| {
        let nameable = segment.is_empty() || is_request_path(&format!("/{segment}"));
        if is_id(segment) || segment.contains('*') || !nameable { "*" } else { segment }.to_string()
    };
    let segments: Vec<String> = path.split('/').map(each).collect();
    segments.join("/")
}

/// Numbers, hexadecimal digests, UUIDs, and long words with several digits in them.
fn is_id(segment: &str) -> bool {
    let digits = segment.bytes().filter(u8::is_ascii_digit).count();
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_hexdigit());
    let uuid = segment.len() == 36
        && segment.split('-').map(str::len).eq([8, 4, 4, 4, 12])
        && segment.split('-').all(hex);
    let number = digits > 0 && digits == segment.len();
    let digest = segment.len() >= 7 && digits > 0 && hex(segment);
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    let token = segment.len() >= 20 && digits >= 4 && segment.bytes().all(plain);
    number || uuid || digest || token
}

/// The smallest rule that allows a group, or why none can.
///
/// # Errors
///
/// What stands in the way and what to do about it, as a clause.
pub fn widening(group: &Group) -> Result<Widening, &'static str> {
    if group.via == Via::Gate {
        return Err("the git gate reaches the remotes of `git:` alone: add an entry there");
    }
    let why = match group.code {
        // As egress calls it: what a tunnel would have been allowed to do is no question of rules.
        Code::NoRule if group.rule.ends_with(" passthrough") => {
            "its route passes TLS through unseen: use TLS, or say `tls: intercept` on the route"
        }
        Code::NoRoute | Code::NoRule => return rule(group),
        Code::Granted => "it is allowed",
        Code::Port => "the host is granted at another port: change `port` of its route",
        Code::Denied => "a deny rule refuses it: change `deny` of the route",
        Code::Leak => "it held what looks like a secret: keep that out, or set `dlp` of the route",
        Code::Address => {
            "its address is private: pin it with `address`, or say `allow_private: true` on its route"
        }
        Code::Credential => {
            "a credential is missing (`bottle apply PLAN --redeliver`) or was the agent's own \
             (`auth` of the route)"
        }
        Code::GitPush => "pushes go through the git gate: add a `git:` entry",
        Code::Malformed => "it can be read in more than one way, and no rule allows that",
        Code::Limit => "it was more than egress takes",
        Code::Client => "it did not come from the agent",
        Code::Upstream => "it is allowed, and the host did not answer",
    };
    Err(why)
}

fn rule(group: &Group) -> Result<Widening, &'static str> {
    let host = HostPattern::new(&group.host).ok().filter(|host| !host.as_str().starts_with('*'));
    let host = host.ok_or("hosts are reached by name, not by address")?;
    let port = group.port.unwrap_or(DEFAULT_PORT);
    let mut rule =
        Rule { methods: BTreeSet::new(), paths: Vec::new(), access: Access::Read, auth: None };
    // Of a name that was looked up, and of a tunnel, nothing more is known: reading will do.
    let unseen = group.via == Via::Dns || group.method == "CONNECT";
    if !unseen {
        if !is_method(&group.method) {
            return Err("its method is not one that a rule can name");
        }
        rule.access = Access::All;
        rule.methods.insert(group.method.clone());
        if let Some(path) = &group.path {
            if !is_request_path(path) {
                return Err("its path is not one that a rule can name");
            }
            rule.paths.push(path.clone());
        }
    }
    Ok(Widening { host, port, rule })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: Code, via: Via, method: &str, host: &str, path: Option<&str>) -> Decision {
        Decision {
            time: "2026-01-31T12:00:00.000Z".to_string(),
            plan: None,
            client: "agent".to_string(),
            via,
            scheme: "https".to_string(),
            method: method.to_string(),
            host: host.to_string(),
            port: Some(443).filter(|_| via != Via::Dns),
            path: path.map(String::from),
            outcome: Outcome::Refuse,
            code,
            rule: "default".to_string(),
            reason: "no route".to_string(),
            push: None,
        }
    }

    fn groups(decisions: &[Decision]) -> Vec<Group> {
        let mut refusals = Refusals::default();
        for decision in decisions {
            refusals.add(decision);
        }
        refusals.groups()
    }

    #[test]
    fn ids_in_paths_are_one_shape() {
        for (path, expected) in [
            ("/repos/acme/web/issues/17", "/repos/acme/web/issues/*"),
            ("/o/3f2504e0-4f89-11d3-9a0c-0305e82c3301/x", "/o/*/x"),
            ("/git/commits/9fceb02d0ae598e95dc970b74767f19372d61af8", "/git/commits/*"),
            ("/v1/messages", "/v1/messages"),
            ("/t/eyJhbGciOiJIUzI1NiIs0123", "/t/*"),
            ("/facade/decade", "/facade/decade"),
            ("/a*b/[x]/%zz/é", "/*/*/*/*"),
            ("/x/acme%2Fweb/", "/x/acme%2Fweb/"),
            ("/", "/"),
        ] {
            assert_eq!(shape(path), expected, "{path}");
        }
    }

    #[test]
    fn one_kind_is_one_group_and_numbers_keep_their_meaning() {
        let get = |path| refused(Code::NoRule, Via::Proxy, "GET", "A.test", Some(path));
        let dns = |record| refused(Code::NoRoute, Via::Dns, record, "b.test", None);
        let mut log = alloc::vec![get("/n/1"), dns("A"), get("/n/2"), dns("AAAA")];
        let found = groups(&log);
        let of = |g: &Group| (g.number, g.host.clone(), g.method.clone(), g.path.clone(), g.count);
        assert_eq!(
            found.iter().map(of).collect::<Vec<_>>(),
            [
                (1, "a.test".into(), "GET".into(), Some("/n/*".into()), 2),
                (2, "b.test".into(), "DNS".into(), None, 2)
            ]
        );
        log.extend([get("/other"), get("/n/3")]);
        let later = groups(&log);
        assert_eq!((later.len(), &later[0].id, later[0].count), (3, &found[0].id, 3));
        let allowed = Decision { outcome: Outcome::Allow, ..get("/n/1") };
        assert!(groups(&[allowed]).is_empty());
    }

    #[test]
    fn kinds_without_end_are_counted_and_not_kept() {
        let mut refusals = Refusals::default();
        for n in 0..MOST_GROUPS + 5 {
            let host = format!("x{n}.test");
            refusals.add(&refused(Code::NoRoute, Via::Dns, "A", &host, None));
        }
        assert_eq!((refusals.untold, refusals.count), (5, MOST_GROUPS as u64 + 5));
        assert_eq!(refusals.groups().len(), MOST_GROUPS);
    }

    #[test]
    fn the_smallest_rule_or_why_none() {
        let of = |decision| widening(&groups(&[decision])[0]);
        let post = refused(Code::NoRule, Via::Proxy, "POST", "a.test", Some("/i/7"));
        let found = of(post.clone()).expect("a rule");
        assert_eq!((found.host.as_str(), found.port), ("a.test", 443));
        assert_eq!(found.rule.paths, ["/i/*"]);
        assert_eq!(found.rule.methods, BTreeSet::from(["POST".to_string()]));
        for unseen in [
            refused(Code::NoRoute, Via::Dns, "AAAA", "a.test", None),
            refused(Code::NoRoute, Via::Proxy, "CONNECT", "a.test", None),
        ] {
            let found = of(unseen).expect("a rule");
            let Rule { methods, paths, access, auth } = found.rule;
            assert!(methods.is_empty() && paths.is_empty() && auth.is_none());
            assert_eq!(access, Access::Read);
        }
        let says = |decision, part: &str| {
            let why = of(decision).expect_err(part);
            assert!(why.contains(part), "{why}");
        };
        for (code, part) in [
            (Code::Leak, "`dlp`"),
            (Code::Address, "`allow_private: true`"),
            (Code::GitPush, "`git:`"),
            (Code::Credential, "--redeliver"),
            (Code::Denied, "`deny`"),
            (Code::Port, "`port`"),
            (Code::Malformed, "more than one way"),
        ] {
            says(Decision { code, ..post.clone() }, part);
        }
        says(Decision { via: Via::Gate, ..post.clone() }, "`git:`");
        says(Decision { rule: "a.test passthrough".to_string(), ..post.clone() }, "intercept");
        says(Decision { host: "10.0.0.1".to_string(), ..post.clone() }, "by name");
        says(Decision { method: "g\u{1b}et".to_string(), ..post.clone() }, "its method");
        says(Decision { path: Some("/a//b".to_string()), ..post }, "its path");
    }
}
