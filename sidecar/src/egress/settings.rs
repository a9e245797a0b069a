//! What egress was told: its settings, read once, and the table of routes, read again on request.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;

use bottle_planner::policy::Route;
use bottle_planner::sidecar::{EgressSettings, RoutesFile};
use bottle_planner::words::Digest;

use super::rules::{Compiled, HostName};
use crate::settings::{SettingsError, applied, load, parse, read};

/// The settings and what follows from them.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub(super) settings: EgressSettings,
    /// The corporate proxy, taken apart.
    pub(super) upstream: Option<UpstreamProxy>,
}

/// A proxy behind egress and who is reached without it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UpstreamProxy {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) without: Vec<String>,
}

impl Setup {
    /// Reads `settings.json`.
    pub(super) fn load(input: &Path) -> Result<Self, SettingsError> {
        let path = input.join("settings.json");
        let settings: EgressSettings = load(&path)?.value;
        let upstream = match &settings.upstream_proxy {
            None => None,
            Some((url, without)) => {
                let (host, port) = proxy_address(url).ok_or_else(|| SettingsError::Value {
                    path,
                    // Not quoted: what is wrong with it may be a password.
                    reason: "expected upstream_proxy as http://host:port".into(),
                })?;
                Some(UpstreamProxy { host, port, without: without.clone() })
            }
        };
        Ok(Self { settings, upstream })
    }
}

fn proxy_address(url: &str) -> Option<(String, u16)> {
    let rest = url.strip_prefix("http://")?;
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (host, port) = rest.rsplit_once(':')?;
    let port = port.parse().ok().filter(|&port| port != 0)?;
    if host.parse::<std::net::Ipv4Addr>().is_ok() {
        return Some((host.to_owned(), port));
    }
    Some((HostName::parse(host).ok()?.as_str().to_owned(), port))
}

impl UpstreamProxy {
    /// Whether a host is reached without the proxy: an entry means a host and all below it,
    /// with or without a leading dot; `*` means every host.
    pub(super) fn is_skipped_for(&self, host: &str) -> bool {
        self.without.iter().map(|entry| entry.trim().to_ascii_lowercase()).any(|entry| {
            let name = entry.strip_prefix("*.").or(entry.strip_prefix('.')).unwrap_or(&entry);
            !name.is_empty()
                && (entry == "*"
                    || host == name
                    || host.strip_suffix(name).is_some_and(|head| head.ends_with('.')))
        })
    }
}

/// Who is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Client {
    Agent,
    Gate,
    /// It shows the agent the routes in force, and may do nothing else.
    Supervise,
    /// The steps of a build of the agent's image. The address is enough to know them by: it is
    /// fixed, and an agent without `NET_ADMIN` and `NET_RAW` cannot take it; nor does one run while
    /// they do.
    Build,
}

impl Client {
    /// Who an address belongs to; `None` is a stranger.
    pub(super) fn at(settings: &EgressSettings, address: IpAddr) -> Option<Self> {
        if address == IpAddr::V4(settings.agent) {
            Some(Self::Agent)
        } else if settings.gate.is_some_and(|gate| address == IpAddr::V4(gate)) {
            Some(Self::Gate)
        } else if settings.supervise.is_some_and(|own| address == IpAddr::V4(own)) {
            Some(Self::Supervise)
        } else if settings.build.is_some_and(|build| address == IpAddr::V4(build)) {
            Some(Self::Build)
        } else {
            None
        }
    }

    /// The client as the decision log names it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Gate => "gate",
            Self::Supervise => "supervise",
            Self::Build => "build",
        }
    }
}

/// The routes in force.
#[derive(Debug, Clone)]
pub(super) struct Table {
    pub(super) file: RoutesFile,
    pub(super) digest: Digest,
    /// The plan they came with, as the executor says.
    pub(super) plan: Option<Digest>,
    routes: Vec<Compiled>,
    /// By exact host.
    exact: HashMap<String, usize>,
    /// By what follows the `*` of a wildcard, the dot included.
    wild: HashMap<String, usize>,
}

impl Table {
    /// Reads `routes.json`, or says why it cannot be used.
    pub(super) fn load(input: &Path) -> Result<Self, SettingsError> {
        let path = input.join("routes.json");
        Self::parse(&path, &read(&path)?, applied(input))
    }

    /// The same for a file that was read, of this plan.
    pub(super) fn parse(
        path: &Path,
        text: &[u8],
        plan: Option<Digest>,
    ) -> Result<Self, SettingsError> {
        let loaded = parse::<RoutesFile>(path, text)?;
        for (host, route) in &loaded.value.routes {
            if let Some(reason) = fault(route) {
                let reason = format!("{host}: {reason}");
                return Err(SettingsError::Value { path: path.into(), reason });
            }
        }
        Ok(Self::new(loaded.value, loaded.digest, plan))
    }

    fn new(file: RoutesFile, digest: Digest, plan: Option<Digest>) -> Self {
        let routes: Vec<Compiled> =
            file.routes.iter().enumerate().map(|(n, (p, r))| Compiled::new(n, p, r)).collect();
        let (mut exact, mut wild) = (HashMap::new(), HashMap::new());
        for (n, compiled) in routes.iter().enumerate() {
            match compiled.pattern.as_str().strip_prefix('*') {
                Some(suffix) => wild.insert(suffix.to_owned(), n),
                None => exact.insert(compiled.pattern.as_str().to_owned(), n),
            };
        }
        Self { file, digest, plan, routes, exact, wild }
    }

    /// The most specific route for a host: its own, else the longest wildcard.
    pub(super) fn route(&self, host: &HostName) -> Option<&Compiled> {
        let host = host.as_str();
        let wildcards = host.match_indices('.').map(|(dot, _)| self.wild.get(&host[dot..]));
        let found = self.exact.get(host).or_else(|| wildcards.flatten().next())?;
        self.routes.get(*found)
    }

    /// Every route, in order.
    pub(super) fn routes(&self) -> &[Compiled] {
        &self.routes
    }

    /// Whether a delivered value may be sent to a host.
    pub(super) fn passes(&self, value: &str, host: &HostName) -> bool {
        let hosts = self.file.use_at.get(value);
        hosts.is_some_and(|hosts| hosts.iter().any(|pattern| pattern.matches(host.as_str())))
    }
}

fn fault(route: &Route) -> Option<&'static str> {
    if route.allow.is_empty() {
        return Some("a route without rules allows nothing; leave it out");
    }
    let paths = route.allow.iter().chain(&route.deny).flat_map(|rule| &rule.paths);
    if paths.clone().any(|path| !path.starts_with('/')) {
        return Some("expected a path that begins with `/`");
    }
    (route.port == 0).then_some("port 0 cannot be reached")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A route as `routes.json` has it, with some of its keys replaced.
    pub(crate) fn route(changes: Value) -> Value {
        let mut route = json!({
            "port": 443, "allow": [rule(json!({}))], "deny": [], "auth": null, "role": null,
            "tls": "intercept", "dlp": {"own_secrets": "block", "patterns": "block"},
            "address": null, "allow_private": false,
        });
        merge(&mut route, changes);
        route
    }

    /// A rule that allows all, with some of its keys replaced.
    pub(crate) fn rule(changes: Value) -> Value {
        let mut rule = json!({"methods": [], "paths": [], "access": "all", "auth": null});
        merge(&mut rule, changes);
        rule
    }

    fn merge(into: &mut Value, changes: Value) {
        for (key, value) in changes.as_object().unwrap() {
            into[key] = value.clone();
        }
    }

    /// A table with these routes, and `git.example:22` for the gate.
    pub(crate) fn table(routes: Value) -> Table {
        table_with_build(routes, &[])
    }

    /// The same with hosts that a build may reach.
    pub(crate) fn table_with_build(routes: Value, build: &[&str]) -> Table {
        let mut file = json!({
            "protocol": 1, "routes": routes, "gate": [["git.example", 22]], "gate_addresses": {}, "use_at": {},
        });
        if !build.is_empty() {
            file["build"] = json!(build);
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("routes.json"), file.to_string()).unwrap();
        Table::load(folder.path()).unwrap()
    }

    #[test]
    fn the_most_specific_route_wins_alone() {
        let all = table(json!({
            "*.example.com": route(json!({})),
            "*.eu.example.com": route(json!({})),
            "a.eu.example.com": route(json!({})),
            "example.com": route(json!({})),
        }));
        for (host, expected) in [
            ("a.eu.example.com", Some("a.eu.example.com")),
            ("A.EU.Example.COM.", Some("a.eu.example.com")),
            ("b.eu.example.com", Some("*.eu.example.com")),
            ("x.b.eu.example.com", Some("*.eu.example.com")),
            ("eu.example.com", Some("*.example.com")),
            ("example.com", Some("example.com")),
            ("notexample.com", None),
            ("com", None),
            ("example.com.evil.test", None),
        ] {
            let host = HostName::parse(host).unwrap();
            assert_eq!(all.route(&host).map(|r| r.pattern.as_str()), expected, "{}", host.as_str());
        }
        let wild = table(json!({"*.example.com": route(json!({}))}));
        assert!(wild.route(&HostName::parse("example.com").unwrap()).is_none());
    }

    #[test]
    fn an_upstream_proxy_is_a_host_and_a_port() {
        for (url, expected) in [
            ("http://proxy.corp:3128", Some(("proxy.corp", 3128))),
            ("http://10.0.0.1:3128/", Some(("10.0.0.1", 3128))),
            ("http://user:pw@proxy.corp:3128", None),
            ("https://proxy.corp:3128", None),
            ("http://proxy.corp", None),
            ("http://proxy.corp:0", None),
            ("proxy.corp:3128", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(proxy_address(url), expected, "{url}");
        }
    }

    #[test]
    fn no_proxy_means_whole_labels() {
        let proxy = |without: &str| UpstreamProxy {
            host: "p".into(),
            port: 1,
            without: without.split(',').map(Into::into).collect(),
        };
        for (without, host, skipped) in [
            ("corp.example", "corp.example", true),
            ("corp.example", "a.corp.example", true),
            (".corp.example", "a.corp.example", true),
            ("*.CORP.example", "a.corp.example", true),
            ("corp.example", "notcorp.example", false),
            ("x,corp.example ", "corp.example", true),
            ("*", "anything", true),
            ("", "anything", false),
            (".", "anything", false),
        ] {
            assert_eq!(proxy(without).is_skipped_for(host), skipped, "{without} {host}");
        }
    }
}
