//! What a request may do: pure decisions over host, port, method and path.
//!
//! A path is matched in two readings, because servers differ in what they decode: as it is written
//! (an escaped slash stays inside its segment), and as a lenient server reads it (everything
//! decoded, parameters after `;` dropped, empty segments skipped). A rule allows a request when
//! both readings match, and denies it when either does. What could mean a parent folder in any
//! reading is refused outright, and what is forwarded is the normalized path that was matched.

use std::fmt;
use std::sync::Arc;

use bottle_planner::decision::Code;
use bottle_planner::policy::{Access, Auth, HostPattern, Route, Rule, Tls};

use super::settings::{Client, Table};

/// A host name in lower case without a trailing dot; never an IP address in any spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct HostName(String);

impl HostName {
    /// Parses a host name.
    pub(super) fn parse(text: &str) -> Result<Self, TargetFault> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        let numeric = bare.rsplit('.').next().is_some_and(|last| {
            let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
            (!last.is_empty() && last.bytes().all(|b| b.is_ascii_digit()))
                || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()))
        });
        if text.starts_with('[') || text.contains(':') || numeric {
            return Err(TargetFault::Address);
        }
        match HostPattern::new(text) {
            Ok(name) if !name.as_str().starts_with('*') => Ok(Self(name.into())),
            _ => Err(TargetFault::Host),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where a request wants to go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) host: HostName,
    pub(super) port: u16,
}

/// Why a target cannot be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TargetFault {
    #[error("an IP address; hosts are reached by name")]
    Address,
    #[error("not a host name")]
    Host,
    #[error("not a port from 1 to 65535")]
    Port,
    #[error("a user name or password before the host")]
    UserInfo,
}

impl Target {
    /// Parses `host:port`; without a port the default is meant, if there is one.
    pub(super) fn parse(authority: &str, default: Option<u16>) -> Result<Self, TargetFault> {
        if authority.contains('@') {
            return Err(TargetFault::UserInfo);
        }
        if authority.starts_with('[') || authority.matches(':').count() > 1 {
            return Err(TargetFault::Address);
        }
        let (host, port) = match authority.split_once(':') {
            None => (authority, default.ok_or(TargetFault::Port)?),
            Some((host, port)) => {
                let digits =
                    (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit());
                let port = port.parse().ok().filter(|&port: &u16| digits && port != 0);
                (host, port.ok_or(TargetFault::Port)?)
            }
        };
        Ok(Self { host: HostName::parse(host)?, port })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.as_str(), self.port)
    }
}

/// A request path that means one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NormalPath {
    text: String,
    literal: Vec<String>,
    lenient: Vec<String>,
}

/// Why a path is refused whatever the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum PathFault {
    #[error("the path does not begin with `/`")]
    NotAbsolute,
    #[error("the path has a character that is not printable ASCII, or a backslash")]
    Character,
    #[error("the path has a `%` without two hexadecimal digits")]
    Escape,
    #[error("the path is escaped twice")]
    EscapedTwice,
    #[error("the path has an ASCII character in more bytes than one")]
    Overlong,
    #[error("the path has a `..` segment, or hides a `.`")]
    Dots,
}

impl NormalPath {
    /// Normalizes a path (no query): unreserved characters are unescaped, other escapes are
    /// written with upper-case digits, and segments that are `.` go (RFC 3986, section 6.2.2; apt
    /// asks for `/./Packages`). One that is `..` is refused: who sends it means to get out.
    pub(super) fn parse(path: &str) -> Result<Self, PathFault> {
        let body = path.strip_prefix('/').ok_or(PathFault::NotAbsolute)?;
        let mut literal = body.split('/').map(normal_segment).collect::<Result<Vec<_>, _>>()?;
        // At the end it stands for its folder, which is written with a slash.
        if literal.last().is_some_and(|last| last == ".") {
            literal.push(String::new());
        }
        literal.retain(|segment| segment != ".");
        let mut lenient = Vec::new();
        for segment in &literal {
            let decoded = decoded(segment);
            if decoded.bytes().any(|b| b.is_ascii_control() || b == b'\\') {
                return Err(PathFault::Character);
            }
            if has_overlong(segment) {
                return Err(PathFault::Overlong);
            }
            if hides_an_escape(&decoded) {
                return Err(PathFault::EscapedTwice);
            }
            for part in decoded.split('/') {
                let name = part.split(';').next().unwrap_or_default().trim();
                if name == "." || name == ".." {
                    return Err(PathFault::Dots);
                }
                if !name.is_empty() {
                    lenient.push(name.to_owned());
                }
            }
        }
        Ok(Self { text: format!("/{}", literal.join("/")), literal, lenient })
    }

    /// The path as it is forwarded.
    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    fn ends_with(&self, name: &str) -> bool {
        self.lenient.last().is_some_and(|last| last.eq_ignore_ascii_case(name))
    }
}

fn normal_segment(segment: &str) -> Result<String, PathFault> {
    let mut normal = String::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                let pair = digit(bytes.next()).zip(digit(bytes.next()));
                let (high, low) = pair.ok_or(PathFault::Escape)?;
                let value = u8::try_from(high * 16 + low).map_err(|_| PathFault::Escape)?;
                if !is_unreserved(value) {
                    normal.push_str(&format!("%{value:02X}"));
                    continue;
                }
                value
            }
            byte if byte.is_ascii_graphic() && byte != b'\\' => byte,
            _ => return Err(PathFault::Character),
        };
        normal.push(char::from(byte));
    }
    Ok(normal)
}

/// RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Decodes escapes once; what is not UTF-8 becomes replacement characters, which match no rule.
pub(super) fn decoded(segment: &str) -> String {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if first == b'%' => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            _ => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Whether a segment spells an ASCII character in more bytes than UTF-8 allows (RFC 3629, section
/// 10): some servers read such a `/` or `.` for what it is.
fn has_overlong(segment: &str) -> bool {
    segment.match_indices('%').any(|(at, _)| {
        let hex = |from: usize| {
            let pair = segment.get(from..from + 3)?.strip_prefix('%')?;
            u8::from_str_radix(pair, 16).ok()
        };
        matches!(
            (hex(at), hex(at + 3)),
            (Some(0xc0 | 0xc1), Some(0x80..=0xbf))
                | (Some(0xe0), Some(0x80..=0x9f))
                | (Some(0xf0), Some(0x80..=0x8f))
        )
    })
}

/// Whether a decoded segment would change again when a server decodes it once more.
fn hides_an_escape(decoded: &str) -> bool {
    decoded.match_indices('%').any(|(at, _)| {
        decoded.as_bytes().get(at + 1..at + 3).is_some_and(|d| d.iter().all(u8::is_ascii_hexdigit))
    })
}

/// An allowed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Granted {
    /// How the address is to be chosen.
    pub(super) reach: Reach,
    /// The route, by its place in the table.
    pub(super) route: usize,
    /// `<route> allow[<n>]`.
    pub(super) rule: Arc<str>,
    /// The credential to put in.
    pub(super) auth: Option<Auth>,
}

/// An allowed tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tunnel {
    /// Its inside is read, and each request in it is decided on its own.
    Inspect,
    /// Its inside stays unseen; a TLS client must name the same host.
    Pass(Granted),
    /// The git gate's, to one of its upstreams.
    Gate(Granted),
}

/// How an allowed host is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Reach {
    /// The one address it has, whatever names say.
    pub(super) pin: Option<std::net::IpAddr>,
    /// Whether it may have a private address.
    pub(super) allow_private: bool,
}

/// A refusal, as the log and the client are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Why, as a class.
    pub(super) code: Code,
    /// Which rule decided.
    pub(super) rule: String,
    /// Why, as a clause.
    pub(super) reason: String,
}

impl Refusal {
    pub(super) fn new(code: Code, rule: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { code, rule: rule.into(), reason: reason.into() }
    }
}

/// One HTTP request that egress can read.
#[derive(Debug, Clone)]
pub(super) struct Request<'a> {
    pub(super) target: &'a Target,
    pub(super) method: &'a str,
    pub(super) path: Result<&'a NormalPath, PathFault>,
    pub(super) query: Option<&'a str>,
    /// Whether a header asks the server to take the request for one of another method.
    pub(super) overrides_method: bool,
}

/// Why supervise is refused whatever else it asks for.
pub(super) const ONLY_ROUTES: &str = "supervise may only see the routes in force";

impl Table {
    /// Whether names may be asked for, which is before any port is known.
    pub(super) fn knows(&self, client: Client, host: &HostName) -> bool {
        match client {
            Client::Agent => self.route(host).is_some(),
            Client::Gate => self.file.gate.iter().any(|(name, _)| name.matches(host.as_str())),
            Client::Supervise => false,
            Client::Build => self.file.build.iter().any(|at| at.host.matches(host.as_str())),
        }
    }

    /// Decides about a tunnel.
    pub(super) fn decide_tunnel(&self, client: Client, target: &Target) -> Result<Tunnel, Refusal> {
        match client {
            Client::Agent => {}
            Client::Gate => return self.decide_gate(target).map(Tunnel::Gate),
            Client::Supervise => {
                return Err(Refusal::new(Code::Client, client.as_str(), ONLY_ROUTES));
            }
            Client::Build => return self.decide_build(target).map(Tunnel::Pass),
        }
        let found = self.on_port(target)?;
        Ok(match found.route.tls {
            Tls::Intercept => Tunnel::Inspect,
            Tls::Passthrough => Tunnel::Pass(found.grant(0)),
        })
    }

    /// Decides about one HTTP request.
    pub(super) fn decide_request(&self, request: &Request<'_>) -> Result<Granted, Refusal> {
        let found = self.on_port(request.target)?;
        let refuse = |code, rule: &str, reason: String| {
            Refusal::new(code, format!("{} {rule}", found.pattern), reason)
        };
        if found.route.tls == Tls::Passthrough {
            let reason = "this route is for TLS that egress does not look into";
            return Err(refuse(Code::NoRule, "passthrough", reason.into()));
        }
        let path = match request.path {
            Ok(path) => path,
            Err(fault) => return Err(refuse(Code::Malformed, "path", fault.to_string())),
        };
        if request.method.bytes().any(|b| b.is_ascii_lowercase()) {
            let reason = "methods are written in upper case".into();
            return Err(refuse(Code::Malformed, "method", reason));
        }
        let overrides = request.overrides_method || request.query.is_some_and(names_a_method);
        if overrides && found.needs_sight {
            let reason = "a header or the query names another method than the request".into();
            return Err(refuse(Code::Malformed, "method", reason));
        }
        if is_git_push(path, request.query) {
            return Err(refuse(Code::GitPush, "git", "git pushes go through the git gate".into()));
        }
        if let Some(n) = found.deny.iter().position(|rule| denies(rule, request.method, path)) {
            return Err(refuse(Code::Denied, &format!("deny[{n}]"), "a deny rule matches".into()));
        }
        match found.allow.iter().position(|rule| allows(rule, request.method, path)) {
            Some(n) => Ok(found.grant(n)),
            None => Err(refuse(
                Code::NoRule,
                "allow",
                "no rule of this route allows the method and path".into(),
            )),
        }
    }

    fn decide_gate(&self, target: &Target) -> Result<Granted, Refusal> {
        let host = target.host.as_str();
        let granted =
            self.file.gate.iter().any(|(name, port)| *port == target.port && name.matches(host));
        if !granted {
            let reason = "the git gate may reach its planned upstreams only";
            return Err(Refusal::new(Code::NoRoute, "gate", reason));
        }
        let pin = self.file.gate_addresses.get(host).copied();
        let reach = Reach { pin, allow_private: false };
        let rule = format!("gate {target}").into();
        Ok(Granted { reach, route: usize::MAX, rule, auth: None })
    }

    /// A host and port that were approved with a build. What pins the host for the agent pins it here.
    fn decide_build(&self, target: &Target) -> Result<Granted, Refusal> {
        let host = target.host.as_str();
        let mut approved = self.file.build.iter();
        if !approved.any(|at| at.port == target.port && at.host.matches(host)) {
            let reason = "the build may reach the hosts alone that were approved with its image";
            return Err(Refusal::new(Code::NoRoute, "build", reason));
        }
        let reach = self.on_port(target).map_or_else(|_| Reach::default(), Compiled::reach);
        let rule = format!("build {target}").into();
        Ok(Granted { reach, route: usize::MAX, rule, auth: None })
    }

    /// Decides about one HTTP request of a build: reading what is not encrypted, and nothing else.
    pub(super) fn decide_build_request(&self, request: &Request<'_>) -> Result<Granted, Refusal> {
        let granted = self.decide_build(request.target)?;
        let refuse = |code, reason: String| Err(Refusal::new(code, granted.rule.as_ref(), reason));
        if request.target.port != 80 {
            return refuse(Code::NoRule, "only port 80 is spoken to without a tunnel".into());
        }
        if !["GET", "HEAD"].contains(&request.method) {
            return refuse(Code::NoRule, "a build may only read: GET and HEAD".into());
        }
        match request.path {
            Ok(_) => Ok(granted),
            Err(fault) => refuse(Code::Malformed, fault.to_string()),
        }
    }

    /// The route of a target, if it grants the target's port.
    pub(super) fn on_port(&self, target: &Target) -> Result<&Compiled, Refusal> {
        let Some(found) = self.route(&target.host) else {
            return Err(Refusal::new(Code::NoRoute, "default", "no route names this host"));
        };
        if found.route.port != target.port {
            return Err(Refusal::new(
                Code::Port,
                format!("{} port", found.pattern),
                format!("the route grants port {}, not {}", found.route.port, target.port),
            ));
        }
        Ok(found)
    }
}

/// A route, taken apart once so that a request costs no more than it must.
#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) pattern: HostPattern,
    pub(super) route: Route,
    /// Its place in the table.
    place: usize,
    /// Whether it grants less than everything on its host and port.
    needs_sight: bool,
    allow: Vec<CompiledRule>,
    deny: Vec<CompiledRule>,
}

/// A rule with its globs in segments.
#[derive(Debug, Clone)]
struct CompiledRule {
    rule: Rule,
    name: Arc<str>,
    /// `None` is every path.
    globs: Option<Vec<Vec<String>>>,
}

impl Compiled {
    pub(super) fn new(place: usize, pattern: &HostPattern, route: &Route) -> Self {
        let rules = |kind: &str, rules: &[Rule]| {
            let compiled = rules.iter().enumerate().map(|(n, rule)| CompiledRule {
                rule: rule.clone(),
                name: format!("{pattern} {kind}[{n}]").into(),
                globs: (!covers_all(&rule.paths))
                    .then(|| rule.paths.iter().map(|glob| segments(glob)).collect()),
            });
            compiled.collect()
        };
        Self {
            pattern: pattern.clone(),
            route: route.clone(),
            place,
            needs_sight: needs_sight(route),
            allow: rules("allow", &route.allow),
            deny: rules("deny", &route.deny),
        }
    }

    /// Whether any request of this route gets a credential.
    pub(super) fn injects(&self) -> bool {
        let ruled = self.route.allow.iter().any(|rule| rule.auth.is_some());
        self.route.auth.is_some() || ruled
    }

    fn reach(&self) -> Reach {
        Reach { pin: self.route.address, allow_private: self.route.allow_private }
    }

    fn grant(&self, n: usize) -> Granted {
        let rule = self.allow.get(n);
        let ruled = rule.and_then(|rule| rule.rule.auth.as_ref());
        Granted {
            reach: self.reach(),
            route: self.place,
            rule: rule.map_or_else(|| Arc::from(self.pattern.as_str()), |rule| rule.name.clone()),
            auth: ruled.or(self.route.auth.as_ref()).cloned(),
        }
    }
}

/// Whether a route grants less than everything on its host and port.
fn needs_sight(route: &Route) -> bool {
    let everything = |rule: &Rule| {
        rule.methods.is_empty() && rule.access == Access::All && covers_all(&rule.paths)
    };
    !route.deny.is_empty() || !route.allow.iter().any(everything)
}

fn covers_all(paths: &[String]) -> bool {
    paths.is_empty() || paths.iter().any(|path| path == "/**")
}

fn allows(rule: &CompiledRule, method: &str, path: &NormalPath) -> bool {
    let one = |glob: &Vec<String>| {
        matches(glob, trimmed(&path.literal), false) && matches(glob, &path.lenient, false)
    };
    let covered = || rule.globs.as_ref().is_none_or(|globs| globs.iter().any(one));
    is_method(&rule.rule, method, path) && covered()
}

/// Case is no way around a rule that denies, nor are dots after a name: some servers ignore them.
fn denies(rule: &CompiledRule, method: &str, path: &NormalPath) -> bool {
    let undotted: Vec<String> =
        path.lenient.iter().map(|name| name.trim_end_matches(['.', ' ']).to_owned()).collect();
    let one = |glob: &Vec<String>| {
        [trimmed(&path.literal), &path.lenient, &undotted].iter().any(|p| matches(glob, p, true))
    };
    let covered = || rule.globs.as_ref().is_none_or(|globs| globs.iter().any(one));
    is_method(&rule.rule, method, path) && covered()
}

fn is_method(rule: &Rule, method: &str, path: &NormalPath) -> bool {
    if !rule.methods.is_empty() {
        return rule.methods.contains(method);
    }
    match rule.access {
        Access::All => true,
        Access::Read => {
            ["GET", "HEAD", "OPTIONS"].contains(&method)
                || (method == "POST" && path.ends_with("git-upload-pack"))
        }
    }
}

/// gitprotocol-http(5): a push asks for the service, then posts to it.
fn is_git_push(path: &NormalPath, query: Option<&str>) -> bool {
    let service = "git-receive-pack";
    path.ends_with(service)
        || query.is_some_and(|query| decoded(query).to_ascii_lowercase().contains(service))
}

/// Frameworks take the parameter `_method` for the method.
fn names_a_method(query: &str) -> bool {
    let mut keys = query.split(['&', ';']).map(|pair| pair.split('=').next().unwrap_or_default());
    keys.any(|key| decoded(key).eq_ignore_ascii_case("_method"))
}

/// A trailing slash does not make another path.
fn trimmed(segments: &[String]) -> &[String] {
    match segments {
        [head @ .., last] if last.is_empty() => head,
        all => all,
    }
}

/// A glob's segments, escaped as normalized paths are.
fn segments(glob: &str) -> Vec<String> {
    let body = glob.strip_prefix('/').unwrap_or(glob);
    let body = body.strip_suffix('/').unwrap_or(body);
    if body.is_empty() {
        return Vec::new();
    }
    body.split('/').map(|s| normal_segment(s).unwrap_or_else(|_| s.to_owned())).collect()
}

/// `**` is any number of segments, `*` any run of characters inside one that is not empty.
fn matches(glob: &[String], path: &[String], any_case: bool) -> bool {
    // One row of the usual table: `row[j]` is whether the glob so far matches `path[..j]`.
    let mut row = vec![false; path.len() + 1];
    row[0] = true;
    for part in glob {
        let before = row.clone();
        if part == "**" {
            for j in 1..row.len() {
                row[j] = before[j] || row[j - 1];
            }
        } else {
            row[0] = false;
            for j in 1..row.len() {
                row[j] = before[j - 1] && matches_segment(part, &path[j - 1], any_case);
            }
        }
    }
    row[path.len()]
}

/// A glob is written in the normalized alphabet; the lenient reading is not, so both spellings of
/// the glob's text are tried.
fn matches_segment(glob: &str, segment: &str, any_case: bool) -> bool {
    let fold = |text: &str| if any_case { text.to_ascii_lowercase() } else { text.to_owned() };
    let segment = fold(segment);
    if segment.is_empty() {
        return false;
    }
    [fold(glob), fold(&decoded(glob))].iter().any(|glob| {
        let mut pieces = glob.split('*');
        let Some(rest) = segment.strip_prefix(pieces.next().unwrap_or_default()) else {
            return false;
        };
        let Some(last) = glob.contains('*').then(|| pieces.next_back().unwrap_or_default()) else {
            return rest.is_empty();
        };
        let middle = pieces
            .try_fold(rest, |rest, piece| rest.find(piece).map(|at| &rest[at + piece.len()..]));
        middle.is_some_and(|rest| rest.ends_with(last))
    })
}

#[cfg(test)]
mod tests {
    use super::super::settings::tests::{route, rule, table};
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    #[test]
    fn targets_are_names_and_ports() {
        for (authority, expected) in [
            ("Example.COM:443", Ok("example.com:443")),
            ("example.com.:443", Ok("example.com:443")),
            ("example.com:0443", Ok("example.com:443")),
            ("example.com", Err(TargetFault::Port)),
            ("example.com:", Err(TargetFault::Port)),
            ("example.com:0", Err(TargetFault::Port)),
            ("example.com:65536", Err(TargetFault::Port)),
            ("example.com:+443", Err(TargetFault::Port)),
            ("example.com:443443", Err(TargetFault::Port)),
            ("user@example.com:443", Err(TargetFault::UserInfo)),
            ("good.test:443@evil.test:443", Err(TargetFault::UserInfo)),
            ("127.0.0.1:443", Err(TargetFault::Address)),
            ("127.1:443", Err(TargetFault::Address)),
            ("2130706433:443", Err(TargetFault::Address)),
            ("0x7f000001:443", Err(TargetFault::Address)),
            ("0x7F.1:443", Err(TargetFault::Address)),
            ("0177.0.0.1.:443", Err(TargetFault::Address)),
            ("127.0.0.0x1:443", Err(TargetFault::Address)),
            ("[::1]:443", Err(TargetFault::Address)),
            ("::1:443", Err(TargetFault::Address)),
            ("[::ffff:127.0.0.1]", Err(TargetFault::Address)),
            ("*.example.com:443", Err(TargetFault::Host)),
            ("exa%6dple.com:443", Err(TargetFault::Host)),
            ("example.com..:443", Err(TargetFault::Host)),
            ("example..com:443", Err(TargetFault::Host)),
            ("exämple.com:443", Err(TargetFault::Host)),
            ("example.com/x:443", Err(TargetFault::Host)),
            (" example.com:443", Err(TargetFault::Host)),
            (":443", Err(TargetFault::Host)),
            ("", Err(TargetFault::Port)),
        ] {
            let found = Target::parse(authority, None).map(|target| target.to_string());
            assert_eq!(found, expected.map(str::to_owned), "{authority}");
        }
    }

    #[test]
    fn paths_are_normalized_or_refused() {
        for (path, expected) in [
            ("/", Ok("/")),
            ("/a/b", Ok("/a/b")),
            ("/%61%2D%7e", Ok("/a-~")),
            ("/a%2fb", Ok("/a%2Fb")),
            ("/%C0x", Ok("/%C0x")),
            ("/a/..%c0%afb", Err(PathFault::Overlong)),
            ("/a/%C0%AE%C0%AE/b", Err(PathFault::Overlong)),
            ("/a/%e0%80%ae/b", Err(PathFault::Overlong)),
            ("/a/%f0%80%80%af/b", Err(PathFault::Overlong)),
            ("/@scope%2fname", Ok("/@scope%2Fname")),
            ("/a//b", Ok("/a//b")),
            ("/a/b/", Ok("/a/b/")),
            ("/a;v=1/b", Ok("/a;v=1/b")),
            ("/100%25", Ok("/100%25")),
            ("/%C3%A9", Ok("/%C3%A9")),
            ("/...", Ok("/...")),
            ("", Err(PathFault::NotAbsolute)),
            ("*", Err(PathFault::NotAbsolute)),
            ("a/b", Err(PathFault::NotAbsolute)),
            ("/a/../b", Err(PathFault::Dots)),
            ("/a/./b", Ok("/a/b")),
            ("/./a", Ok("/a")),
            ("/a/%2e/b/%2E", Ok("/a/b/")),
            ("/.", Ok("/")),
            ("/a/.;x/b", Err(PathFault::Dots)),
            ("/a/.%2fb", Err(PathFault::Dots)),
            ("/..", Err(PathFault::Dots)),
            ("/%2e%2E/b", Err(PathFault::Dots)),
            ("/.%2e", Err(PathFault::Dots)),
            ("/a/..;/b", Err(PathFault::Dots)),
            ("/a/..;x=y/b", Err(PathFault::Dots)),
            ("/a/..%3b/b", Err(PathFault::Dots)),
            ("/a%2f..%2fb", Err(PathFault::Dots)),
            ("/a/..%20/b", Err(PathFault::Dots)),
            ("/a\\..\\b", Err(PathFault::Character)),
            ("/a%5c..%5cb", Err(PathFault::Character)),
            ("/a%00b", Err(PathFault::Character)),
            ("/a%0d%0ab", Err(PathFault::Character)),
            ("/a b", Err(PathFault::Character)),
            ("/é", Err(PathFault::Character)),
            ("/%252e%252e/b", Err(PathFault::EscapedTwice)),
            ("/a%252fb", Err(PathFault::EscapedTwice)),
            ("/a%", Err(PathFault::Escape)),
            ("/a%2", Err(PathFault::Escape)),
            ("/a%zz", Err(PathFault::Escape)),
        ] {
            let found = NormalPath::parse(path);
            assert_eq!(
                found.as_ref().map(NormalPath::as_str),
                expected.as_ref().map(|path| *path),
                "{path}"
            );
        }
    }

    /// Decides about a request to `h.test:80`, whose route has these changes; the rule is named.
    fn decide(changes: &Value, method: &str, path: &str) -> Result<String, String> {
        let mut route = route(changes.clone());
        route["port"] = 80.into();
        let table = table(json!({"h.test": route}));
        let (path, query) = path.split_once('?').map_or((path, None), |(p, q)| (p, Some(q)));
        let path = NormalPath::parse(path);
        let request = Request {
            target: &Target::parse("h.test:80", None).unwrap(),
            method,
            path: path.as_ref().map_err(|&fault| fault),
            query,
            overrides_method: false,
        };
        let short = |rule: &str| rule.trim_start_matches("h.test ").to_owned();
        match table.decide_request(&request) {
            Ok(granted) => Ok(short(&granted.rule)),
            Err(refusal) => Err(short(&refusal.rule)),
        }
    }

    fn check(changes: Value, cases: &[(&str, &str, Result<&str, &str>)]) {
        for (method, path, expected) in cases {
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(decide(&changes, method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn globs_match_whole_segments_in_every_reading() {
        check(
            json!({"allow": [rule(json!({"paths": ["/repos/me/**", "/v*/x", "/a/*/c", "/exact"]}))]}),
            &[
                ("GET", "/repos/me", Ok("allow[0]")),
                ("GET", "/repos/me/", Ok("allow[0]")),
                ("GET", "/repos/me/a/b", Ok("allow[0]")),
                ("GET", "/repos/%6de/a", Ok("allow[0]")),
                ("GET", "/repos/me-evil", Err("allow")),
                ("GET", "/repos/me%2Fa", Err("allow")),
                ("GET", "/repos%2Fme/a", Err("allow")),
                ("GET", "/repos//me/a", Err("allow")),
                ("GET", "/REPOS/me/a", Err("allow")),
                ("GET", "/repos/me;x/a", Err("allow")),
                ("GET", "/repos/me/../you", Err("path")),
                ("GET", "/v1/x", Ok("allow[0]")),
                ("GET", "/v/x", Ok("allow[0]")),
                ("GET", "/w1/x", Err("allow")),
                ("GET", "/a/b/c", Ok("allow[0]")),
                ("GET", "/a/b/b/c", Err("allow")),
                ("GET", "/a//c", Err("allow")),
                ("GET", "/a/b%2Fb/c", Err("allow")),
                ("GET", "/exact", Ok("allow[0]")),
                ("GET", "/exact/more", Err("allow")),
                ("GET", "/", Err("allow")),
            ],
        );
    }

    #[test]
    fn deny_wins_in_any_reading_and_case() {
        check(
            json!({"deny": [rule(json!({"paths": ["/admin/**"]})), rule(json!({"methods": ["DELETE"]}))]}),
            &[
                ("GET", "/", Ok("allow[0]")),
                ("GET", "/administrator", Ok("allow[0]")),
                ("GET", "/admin/x", Err("deny[0]")),
                ("GET", "/admin", Err("deny[0]")),
                ("GET", "/ADMIN/x", Err("deny[0]")),
                ("GET", "//admin/x", Err("deny[0]")),
                ("GET", "/admin./x", Err("deny[0]")),
                ("GET", "/admin%2e%20/x", Err("deny[0]")),
                ("GET", "/admin%2Fx", Err("deny[0]")),
                ("GET", "/admin;x/y", Err("deny[0]")),
                ("GET", "/%61dmin/y", Err("deny[0]")),
                ("DELETE", "/x", Err("deny[1]")),
                ("delete", "/x", Err("method")),
            ],
        );
    }

    #[test]
    fn reading_includes_fetching_with_git_and_no_push_is_let_through() {
        check(
            json!({"allow": [rule(json!({"access": "read"}))]}),
            &[
                ("GET", "/me/web.git/info/refs?service=git-upload-pack", Ok("allow[0]")),
                ("POST", "/me/web.git/git-upload-pack", Ok("allow[0]")),
                ("POST", "/me/web.git", Err("allow")),
                ("PUT", "/x", Err("allow")),
                ("GET", "/me/web.git/info/refs?service=git-receive-pack", Err("git")),
                ("GET", "/me/web.git/info/refs?service=git%2Dreceive-pack", Err("git")),
                ("POST", "/me/web.git/git-receive-pack", Err("git")),
                ("POST", "/me/web.git/git-receive-pac%6b/", Err("git")),
            ],
        );
    }

    #[test]
    fn a_tunnel_is_looked_into_unless_the_route_says_otherwise() {
        for (changes, expected) in [
            (json!({}), Ok("inspect")),
            (json!({"allow": [rule(json!({"access": "read"}))]}), Ok("inspect")),
            (json!({"tls": "passthrough"}), Ok("pass")),
            (json!({"port": 8443}), Err("h.test port")),
        ] {
            let table = table(json!({"h.test": route(changes.clone())}));
            let target = Target::parse("h.test:443", None).unwrap();
            let found = match table.decide_tunnel(Client::Agent, &target) {
                Ok(Tunnel::Inspect) => Ok("inspect"),
                Ok(Tunnel::Pass(_)) => Ok("pass"),
                Ok(Tunnel::Gate(_)) => Ok("gate"),
                Err(refusal) => Err(refusal.rule),
            };
            assert_eq!(found, expected.map_err(str::to_owned), "{changes}");
        }
    }

    #[test]
    fn a_rules_credential_goes_before_its_routes() {
        let auth = |secret: &str| json!({"scheme": "Bearer", "header": "authorization", "secret": secret, "placeholder": null});
        let own = rule(json!({"paths": ["/own/**"], "auth": auth("OWN")}));
        let routes =
            json!({"h.test": route(json!({"allow": [own, rule(json!({}))], "auth": auth("ALL")}))});
        let table = table(routes);
        for (path, secret) in [("/own/x", "OWN"), ("/x", "ALL")] {
            let granted = table.decide_request(&Request {
                target: &Target::parse("h.test:443", None).unwrap(),
                method: "GET",
                path: NormalPath::parse(path).as_ref().map_err(|&fault| fault),
                query: None,
                overrides_method: false,
            });
            assert_eq!(granted.unwrap().auth.unwrap().secret.as_str(), secret, "{path}");
        }
    }

    #[test]
    fn the_gate_reaches_its_upstreams_and_the_agent_does_not() {
        let table = table(json!({"h.test": route(json!({}))}));
        for (client, target, allowed) in [
            (Client::Gate, "git.example:22", true),
            (Client::Gate, "git.example:443", false),
            (Client::Gate, "h.test:443", false),
            (Client::Agent, "git.example:22", false),
            (Client::Agent, "h.test:443", true),
        ] {
            let target = Target::parse(target, None).unwrap();
            let verdict = table.decide_tunnel(client, &target);
            assert_eq!(verdict.is_ok(), allowed, "{client:?} {target}");
        }
    }

    /// Paths made of the pieces that matter, more often than chance would have them.
    fn path() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("/".to_owned()),
            Just("..".to_owned()),
            Just(".".to_owned()),
            Just("%2e".to_owned()),
            Just("%2F".to_owned()),
            Just("%25".to_owned()),
            Just("%5c".to_owned()),
            Just(";".to_owned()),
            "[a-zA-Z0-9%./]{0,4}",
            "\\PC{0,3}",
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    proptest! {
        #[test]
        fn normalizing_twice_changes_nothing(path in path()) {
            if let Ok(once) = NormalPath::parse(&path) {
                let twice = NormalPath::parse(once.as_str());
                prop_assert_eq!(twice.as_ref(), Ok(&once));
            }
        }

        #[test]
        fn no_parent_folder_survives_however_often_a_server_decodes(path in path()) {
            if let Ok(normal) = NormalPath::parse(&path) {
                let mut text = normal.as_str().to_owned();
                for _ in 0..4 {
                    let parts = text.split(['/', '\\']).map(|s| s.split(';').next().unwrap());
                    for part in parts {
                        prop_assert!(part != ".." && part != ".", "{} -> {}", path, text);
                    }
                    text = decoded(&text);
                }
            }
        }

        #[test]
        fn no_authority_is_read_as_an_address(authority in "[0-9a-fx.:\\[\\]]{1,20}") {
            if let Ok(target) = Target::parse(&authority, Some(80)) {
                prop_assert!(target.host.as_str().parse::<std::net::IpAddr>().is_err());
            }
        }
    }
}
