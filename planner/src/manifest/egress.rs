//! The `egress` part of a bottle: routes, their rules and their credentials.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::diagnostic::{Placed, shown};
use super::reader::{Field, Fields, Reader};
use super::yaml::{Node, Value};
use super::{globs, keys};
use crate::policy::{
    Access, Auth, AuthScheme, Dlp, DlpAction, HostPattern, NamedFile, Route, RouteRole, Rule, Tls,
};
use crate::words::{EnvName, RelPath};

/// What a bottle's own `egress` says.
#[derive(Debug, Clone, Default)]
pub(super) struct EgressDef {
    pub routes: BTreeMap<HostPattern, Placed<Route>>,
    pub rules: Option<NamedFile>,
}

pub(super) fn egress(reader: &mut Reader<'_>, field: Field<'_>) -> EgressDef {
    let mut def = EgressDef::default();
    let Some(fields) = reader.fields(field, &keys::EGRESS) else { return def };
    if let Some(rules) = fields.get("rules") {
        def.rules = named_file(reader, rules).map(|path| NamedFile { path });
    }
    let Some(routes) = fields.get("routes") else { return def };
    let routes: Vec<Field<'_>> = reader.list(routes).map(Iterator::collect).unwrap_or_default();
    for item in routes {
        let Some((host, placed)) = route(reader, item) else { continue };
        if let Some(first) = def.routes.get(&host) {
            let message =
                format!("a second route for `{host}`, first at line {}", first.spot.at.line);
            reader
                .error(item.at, "duplicate-route", message)
                .advise("one route a host: put what differs into its rules");
            continue;
        }
        def.routes.insert(host, placed);
    }
    def
}

/// A path below the manifest's own folder.
pub(super) fn named_file(reader: &mut Reader<'_>, field: Field<'_>) -> Option<RelPath> {
    let text = reader.line(field)?;
    match RelPath::new(text.strip_prefix("./").unwrap_or(text)) {
        Ok(path) if !text.starts_with('~') => Some(path),
        _ => {
            let message =
                format!("expected a path below the manifest's folder, found `{}`", shown(text));
            reader
                .refuse(field, message)
                .advise("no absolute path, no `~` and no `..`: put the file beside the manifest");
            None
        }
    }
}

fn route(reader: &mut Reader<'_>, item: Field<'_>) -> Option<(HostPattern, Placed<Route>)> {
    let before = reader.findings.errors();
    let fields = reader.fields(item, &keys::ROUTE)?;
    let host = fields.get("host").and_then(|field| host(reader, field));
    let port = fields.get("port").and_then(|field| reader.integer(field, 1..=65535));
    let port = port.and_then(|port| u16::try_from(port).ok()).unwrap_or(443);
    let allow = allow(reader, &fields);
    let deny = fields.get("deny").map(|field| rules(reader, field, true)).unwrap_or_default();
    let auth = fields.get("auth").and_then(|field| auth(reader, field));
    let roles = [
        ("claude_code_oauth", RouteRole::ClaudeCodeOauth),
        ("model_provider", RouteRole::ModelProvider),
    ];
    let role = fields.get("role").and_then(|field| reader.choice(field, &roles));
    let modes = [("intercept", Tls::Intercept), ("passthrough", Tls::Passthrough)];
    let tls = fields.get("tls").and_then(|field| reader.choice(field, &modes));
    let tls = tls.unwrap_or(Tls::Intercept);
    let dlp = dlp(reader, &fields, tls, role);
    let address = fields.get("address").and_then(|field| address(reader, field));
    let allow_private = fields.get("allow_private").and_then(|field| reader.boolean(field));
    let allow_private = allow_private.unwrap_or(false);
    let route = Route { port, allow, deny, auth, role, tls, dlp, address, allow_private };
    check(reader, &fields, &route);
    (reader.findings.errors() == before)
        .then_some(host)
        .flatten()
        .map(|host| (host, reader.place(item.at, route)))
}

/// What no single key can be blamed for.
fn check(reader: &mut Reader<'_>, fields: &Fields<'_>, route: &Route) {
    let ruled = route.allow.iter().any(|rule| rule.auth.is_some());
    let at = |key: &str| fields.get(key).map_or(fields.at, |field| field.at);
    if route.port == 80 && (fields.has("auth") || ruled) {
        let place = if fields.has("auth") { at("auth") } else { at("allow") };
        reader
            .error(place, "auth-in-clear", "a credential would go over port 80 unencrypted")
            .advise("leave `auth` out, or use port 443");
    }
    if route.role == Some(RouteRole::ClaudeCodeOauth) && !fields.has("auth") {
        reader.warning(at("role"), "role-without-auth", "role claude_code_oauth without `auth`");
    }
    if route.tls == Tls::Intercept {
        return;
    }
    let every = |rule: &Rule| {
        rule.methods.is_empty() && rule.paths.is_empty() && rule.access == Access::All
    };
    let mut refuse = |key: &str, what: &str| {
        let message = format!("tls passthrough cannot enforce {what}: egress does not look inside");
        reader.error(at(key), "passthrough", message);
    };
    if fields.has("auth") {
        refuse("auth", "`auth`");
    }
    for key in ["path_allowlist", "methods"].into_iter().filter(|key| fields.has(key)) {
        refuse(key, "paths or methods");
    }
    if fields.has("allow") && (ruled || !route.allow.iter().all(every)) {
        refuse("allow", "paths, methods or `auth`");
    }
    if !route.deny.is_empty() {
        refuse("deny", "a deny rule");
    }
    if route.dlp.own_secrets != DlpAction::Off || route.dlp.patterns != DlpAction::Off {
        refuse("dlp", "a leak policy other than off");
    }
}

pub(super) fn host(reader: &mut Reader<'_>, field: Field<'_>) -> Option<HostPattern> {
    let text = reader.line(field)?;
    match HostPattern::new(text) {
        Ok(host) => Some(host),
        Err(error) => {
            let message = format!("expected {}, found `{}`", error.expected, shown(text));
            let found = reader.refuse(field, message);
            if text.contains("://") || text.contains('/') {
                found.advise("the host alone; paths go under `allow`");
            } else if !text.is_ascii() {
                found.advise("write an international name in its xn-- form");
            } else if text.parse::<IpAddr>().is_ok() {
                found.advise("name the host, and pin it with `address`");
            } else if text == "*" {
                found.advise("there is no route to everywhere");
            }
            None
        }
    }
}

/// The rules of a route: its `allow`, today's two keys lowered to one rule, or everything.
fn allow(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Vec<Rule> {
    let old = fields.get("path_allowlist").or_else(|| fields.get("methods"));
    match (fields.get("allow"), old) {
        (Some(_), Some(old)) => {
            let message = format!("`{}` and `allow` do not go together", old.key);
            reader.error(old.at, "two-forms", message).advise("put it into a rule of `allow`");
            Vec::new()
        }
        (Some(field), None) => rules(reader, field, false),
        (None, Some(_)) => {
            let paths = fields.get("path_allowlist");
            let paths = paths.map(|field| prefixes(reader, field)).unwrap_or_default();
            let methods = fields.get("methods");
            let methods = methods.map(|field| methods_of(reader, field)).unwrap_or_default();
            alloc::vec![Rule { methods, paths, access: Access::All, auth: None }]
        }
        (None, None) => alloc::vec![Rule {
            methods: BTreeSet::new(),
            paths: Vec::new(),
            access: Access::All,
            auth: None,
        }],
    }
}

/// Each prefix as the path itself and all that lies below it, by whole segments.
fn prefixes(reader: &mut Reader<'_>, field: Field<'_>) -> Vec<String> {
    let mut globs = Vec::new();
    let Some(items) = reader.filled_list(field) else { return globs };
    for item in items {
        let Some(text) = path(reader, item) else { continue };
        if text.contains('*') {
            reader
                .refuse(item, "a prefix has no wildcards")
                .advise("use `allow` with `paths` for globs");
            continue;
        }
        let stem = text.strip_suffix('/').unwrap_or(text);
        globs.push(if stem.is_empty() { "/".to_string() } else { stem.to_string() });
        globs.push(format!("{stem}/**"));
    }
    globs
}

fn rules(reader: &mut Reader<'_>, field: Field<'_>, deny: bool) -> Vec<Rule> {
    let items: Option<Vec<Field<'_>>> = reader.filled_list(field).map(Iterator::collect);
    items.unwrap_or_default().into_iter().filter_map(|item| rule(reader, item, deny)).collect()
}

pub(super) fn rule(reader: &mut Reader<'_>, item: Field<'_>, deny: bool) -> Option<Rule> {
    let fields = reader.fields(item, &keys::RULE)?;
    if matches!(&item.node.value, Value::Map(entries) if entries.is_empty()) {
        reader
            .error(item.at, "empty-rule", "a rule without a key would mean every request")
            .advise("write `access: all` if that is meant");
        return None;
    }
    let methods = fields.get("methods").map(|field| methods_of(reader, field)).unwrap_or_default();
    let paths = fields.get("paths").map(|field| paths(reader, field)).unwrap_or_default();
    let classes = [("read", Access::Read), ("all", Access::All)];
    let access = fields.get("access").and_then(|field| reader.choice(field, &classes));
    if let (Some(access), true) = (fields.get("access"), fields.has("methods")) {
        reader
            .error(access.at, "two-forms", "`access` and `methods` do not go together")
            .advise("`access` names a class of requests, `methods` spells them out");
    }
    let auth = fields.get("auth").and_then(|field| auth(reader, field));
    if let (Some(field), true) = (fields.get("auth"), deny) {
        reader.error(field.at, "auth-in-deny", "a deny rule needs no credential");
    }
    Some(Rule { methods, paths, access: access.unwrap_or(Access::All), auth })
}

fn methods_of(reader: &mut Reader<'_>, field: Field<'_>) -> BTreeSet<String> {
    let mut methods = BTreeSet::new();
    let Some(items) = reader.filled_list(field) else { return methods };
    for item in items {
        let Some(text) = reader.line(item) else { continue };
        let upper = text.to_ascii_uppercase();
        if !is_token(text) || text == "CONNECT" {
            let message = format!("expected an HTTP method, found `{}`", shown(text));
            reader.refuse(item, message);
        } else if text != upper {
            let message = format!("methods are upper case, found `{}`", shown(text));
            reader.refuse(item, message).advise(format!("write {upper}"));
        } else {
            methods.insert(upper);
        }
    }
    methods
}

fn paths(reader: &mut Reader<'_>, field: Field<'_>) -> Vec<String> {
    let Some(items) = reader.filled_list(field) else { return Vec::new() };
    items.filter_map(|item| path(reader, item).map(ToString::to_string)).collect()
}

fn path<'n>(reader: &mut Reader<'_>, item: Field<'n>) -> Option<&'n str> {
    let text = reader.line(item)?;
    match globs::request_path(text) {
        Ok(()) => Some(text),
        Err(why) => {
            reader.refuse(item, format!("{why}, found `{}`", shown(text)));
            None
        }
    }
}

fn auth(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Auth> {
    if let Value::Map(entries) = &field.node.value
        && let Some(scheme) = entries.iter().find(|entry| entry.key == "scheme")
        && matches!(&scheme.value, Node { value: Value::Plain(text), .. } if text == "aws-sigv4")
    {
        reader.error(scheme.value.at, "reserved-key", "`aws-sigv4` is reserved, not built yet");
        return None;
    }
    let fields = reader.fields(field, &keys::AUTH)?;
    let schemes = [
        ("Bearer", AuthScheme::Bearer),
        ("token", AuthScheme::Token),
        ("basic", AuthScheme::Basic),
        ("header", AuthScheme::Header),
    ];
    let scheme = fields.get("scheme").and_then(|field| reader.choice(field, &schemes));
    let secret = fields.get("secret").and_then(|f| reader.secret(f));
    let placeholder = fields.get("placeholder").and_then(|field| variable(reader, field));
    let header = match fields.get("header") {
        Some(field) => header(reader, field),
        None if scheme == Some(AuthScheme::Header) => {
            reader.error(field.at, "missing-key", "`auth` with scheme header needs `header`");
            None
        }
        None => Some("authorization".to_string()),
    };
    Some(Auth { scheme: scheme?, header: header?, secret: secret?, placeholder })
}

fn header(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    // Framing and connection headers (RFC 9110 section 7.6.1) belong to egress.
    const OWN: [&str; 10] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    let text = reader.line(field)?;
    let lower = text.to_ascii_lowercase();
    if !is_token(text) {
        let message = format!("expected a header name, found `{}`", shown(text));
        reader.refuse(field, message);
        return None;
    }
    if OWN.contains(&lower.as_str()) {
        reader.refuse(field, format!("no credential goes into `{lower}`"));
        return None;
    }
    Some(lower)
}

/// A variable of the agent that bottle does not set itself.
fn variable(reader: &mut Reader<'_>, field: Field<'_>) -> Option<EnvName> {
    let name = reader.word(field, |text| EnvName::new(text))?;
    if let Some(why) = super::bottle::set_by_bottle(name.as_str()) {
        let message = format!("bottle itself sets `{name}` ({why})");
        reader.error(field.node.at, "reserved-variable", message);
        return None;
    }
    Some(name)
}

fn dlp(reader: &mut Reader<'_>, fields: &Fields<'_>, tls: Tls, role: Option<RouteRole>) -> Dlp {
    let actions = [
        ("block", DlpAction::Block),
        ("redact", DlpAction::Redact),
        ("warn", DlpAction::Warn),
        ("off", DlpAction::Off),
    ];
    // A transcript is sent again with every call: a block would end a session for good.
    let default = match (tls, role) {
        (Tls::Passthrough, _) => Dlp { own_secrets: DlpAction::Off, patterns: DlpAction::Off },
        (_, Some(_)) => Dlp { own_secrets: DlpAction::Redact, patterns: DlpAction::Warn },
        (_, None) => Dlp { own_secrets: DlpAction::Block, patterns: DlpAction::Block },
    };
    let Some(fields) = fields.get("dlp").and_then(|f| reader.fields(f, &keys::DLP_TABLE)) else {
        return default;
    };
    if fields.is_empty() {
        reader.error(fields.at, "empty-dlp", "`dlp` says nothing").advise("leave the key out");
    }
    let own = fields.get("own_secrets").and_then(|field| reader.choice(field, &actions));
    let patterns = fields.get("patterns").and_then(|field| reader.choice(field, &actions));
    Dlp {
        own_secrets: own.unwrap_or(default.own_secrets),
        patterns: patterns.unwrap_or(default.patterns),
    }
}

/// An IP address.
pub(super) fn address(reader: &mut Reader<'_>, field: Field<'_>) -> Option<IpAddr> {
    let text = reader.line(field)?;
    let address = text.parse().ok();
    if address.is_none() {
        reader.refuse(field, format!("expected an IP address, found `{}`", shown(text)));
    }
    address
}

/// Whether a rule could name this method.
#[must_use]
pub fn is_method(text: &str) -> bool {
    is_token(text) && text != "CONNECT" && text.to_ascii_uppercase() == text
}

/// A token of RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 128
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}
