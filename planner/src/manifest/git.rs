//! The `git` and `git_user` parts: upstreams, their credentials and host keys, what may be pushed.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::net::IpAddr;

use super::diagnostic::{Placed, shown};
use super::reader::{Field, Fields, Reader};
use super::{egress, globs, keys};
use crate::policy::{GitCredential, GitRemote, GitTransport, GitUser, HostPattern, Push, Upstream};
use crate::words::Name;

pub(super) fn remotes(
    reader: &mut Reader<'_>,
    field: Field<'_>,
) -> BTreeMap<Name, Placed<GitRemote>> {
    let mut remotes: BTreeMap<Name, Placed<GitRemote>> = BTreeMap::new();
    let items: Vec<Field<'_>> = reader.list(field).map(Iterator::collect).unwrap_or_default();
    for item in items {
        let Some((name, remote)) = remote(reader, item) else { continue };
        if let Some(first) = remotes.get(&name) {
            let message =
                format!("a second git entry `{name}`, first at line {}", first.spot.at.line);
            reader.error(item.at, "duplicate-git", message);
            continue;
        }
        remotes.insert(name, remote);
    }
    remotes
}

fn remote(reader: &mut Reader<'_>, item: Field<'_>) -> Option<(Name, Placed<GitRemote>)> {
    let before = reader.findings.errors();
    let fields = reader.fields(item, &keys::GIT)?;
    let name = fields.get("name").and_then(|field| reader.stem(field));
    let upstream = fields.get("upstream").and_then(|field| upstream(reader, field));
    let transport = upstream.as_ref().map(|upstream| upstream.transport);
    let credential = credential(reader, &fields, transport);
    let known_host_keys = host_keys(reader, &fields);
    let extra_hosts = extra_hosts(reader, &fields);
    let push = push(reader, fields.get("push"));
    match transport {
        Some(GitTransport::Ssh) if !fields.has("known_host_key") => {
            reader
                .warning(item.at, "no-host-key", "an ssh upstream without `known_host_key`")
                .advise(
                    "the key is then taken from the user's own known_hosts, and none there is an \
                     error at plan",
                );
        }
        Some(GitTransport::Https) if fields.has("known_host_key") => {
            let at = fields.get("known_host_key").map_or(item.at, |field| field.at);
            reader.error(at, "misplaced-key", "`known_host_key` is for ssh upstreams alone");
        }
        _ => {}
    }
    if reader.findings.errors() != before {
        return None;
    }
    let (upstream, credential) = (upstream?, credential?);
    let remote = GitRemote { upstream, credential, known_host_keys, extra_hosts, push };
    Some((name?, reader.place(item.at, remote)))
}

fn credential(
    reader: &mut Reader<'_>,
    fields: &Fields<'_>,
    transport: Option<GitTransport>,
) -> Option<GitCredential> {
    match (fields.get("identity_file"), fields.get("secret")) {
        (Some(_), Some(secret)) => {
            let message = "`identity_file` and `secret` do not go together";
            reader.error(secret.at, "two-forms", message).advise("one credential an entry");
            None
        }
        (Some(field), None) if transport == Some(GitTransport::Https) => {
            reader
                .error(field.at, "misplaced-key", "`identity_file` is for ssh upstreams alone")
                .advise("an https upstream takes a `secret`");
            None
        }
        (Some(field), None) => {
            host_path(reader, field).map(|path| GitCredential::IdentityFile { path })
        }
        (None, Some(field)) => {
            let secret = reader.secret(field)?;
            Some(GitCredential::Secret { secret })
        }
        (None, None) if transport == Some(GitTransport::Ssh) => {
            reader.error(fields.at, "missing-key", "an ssh upstream needs a credential").advise(
                "add `identity_file`, or `secret` with the name of a secret that holds the key",
            );
            None
        }
        (None, None) => Some(GitCredential::None),
    }
}

/// A path of the host: absolute, or below the home folder.
pub(super) fn host_path(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    let text = reader.line(field)?;
    if !(text.starts_with('/') || text.starts_with("~/")) || text.len() > 4096 {
        let message =
            format!("expected a path that begins with `/` or `~/`, found `{}`", shown(text));
        reader.refuse(field, message);
        return None;
    }
    Some(text.to_string())
}

fn host_keys(reader: &mut Reader<'_>, fields: &Fields<'_>) -> BTreeSet<String> {
    let Some(field) = fields.get("known_host_key") else { return BTreeSet::new() };
    let items = reader.one_or_many(field);
    if items.is_empty() {
        reader.error(field.node.at, "empty-list", "`known_host_key` is an empty list");
    }
    items.into_iter().filter_map(|item| host_key(reader, item)).collect()
}

/// `ssh-ed25519 AAAA…`, a comment after it dropped.
fn host_key(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    let text = reader.line(field)?;
    let kind_ok = |word: &str| {
        ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-"].iter().any(|p| word.starts_with(p))
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-@.".contains(&b))
    };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let base64 = |word: &str| {
        word.len() >= 16 && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+/=".contains(&b))
    };
    match words.as_slice() {
        [kind, key, ..] if kind_ok(kind) && base64(key) => Some(format!("{kind} {key}")),
        words => {
            let message = "expected a public host key like `ssh-ed25519 AAAA…`";
            let found = reader.refuse(field, message);
            if words.get(1).is_some_and(|word| kind_ok(word)) {
                found.advise("leave the host out");
            }
            None
        }
    }
}

fn extra_hosts(reader: &mut Reader<'_>, fields: &Fields<'_>) -> BTreeMap<String, IpAddr> {
    let mut hosts = BTreeMap::new();
    let Some(items) = fields.get("extra_hosts").and_then(|field| reader.map(field)) else {
        return hosts;
    };
    for item in items {
        let host = exact_host(item.key);
        if host.is_none() {
            let message = format!("expected a host name, found `{}`", shown(item.key));
            reader.error(item.at, "bad-value", message);
        }
        let address = egress::address(reader, item);
        let (Some(host), Some(address)) = (host, address) else { continue };
        let host = host.as_str().to_string();
        if hosts.get(&host).is_some_and(|other| *other != address) {
            let message = format!("`{host}` is given two addresses");
            reader.error(item.at, "extra-hosts-conflict", message);
            continue;
        }
        hosts.insert(host, address);
    }
    hosts
}

fn exact_host(text: &str) -> Option<HostPattern> {
    HostPattern::new(text).ok().filter(|host| !host.as_str().starts_with('*'))
}

fn push(reader: &mut Reader<'_>, field: Option<Field<'_>>) -> Push {
    let default: BTreeSet<String> = ["agent/*".to_string()].into();
    let mut push = Push { branches: default, tags: false, force: false, delete: false };
    let Some(fields) = field.and_then(|field| reader.fields(field, &keys::PUSH)) else {
        return push;
    };
    if let Some(items) = fields.get("branches").and_then(|field| reader.list(field)) {
        push.branches = items.filter_map(|item| glob(reader, item, globs::branch)).collect();
    }
    let mut flag = |key| fields.get(key).and_then(|field| reader.boolean(field)).unwrap_or(false);
    (push.tags, push.force, push.delete) = (flag("tags"), flag("force"), flag("delete"));
    push
}

/// A glob that a check accepts.
pub(super) fn glob(
    reader: &mut Reader<'_>,
    item: Field<'_>,
    check: fn(&str) -> Result<(), &'static str>,
) -> Option<String> {
    let text = reader.line(item)?;
    match check(text) {
        Ok(()) => Some(text.to_string()),
        Err(why) => {
            reader.refuse(item, format!("{why}, found `{}`", shown(text)));
            None
        }
    }
}

/// Who commits are by, as far as one definition says it.
#[derive(Debug, Clone, Default)]
pub(super) struct GitUserDef {
    pub name: Option<Placed<String>>,
    pub email: Option<Placed<String>>,
}

impl GitUserDef {
    /// This one where it says something, else the other.
    pub fn or(self, other: Self) -> Self {
        Self { name: self.name.or(other.name), email: self.email.or(other.email) }
    }

    /// The whole, or the half that is missing.
    pub fn complete(&self) -> Result<Option<GitUser>, (&Placed<String>, &'static str)> {
        match (&self.name, &self.email) {
            (Some(name), Some(email)) => {
                Ok(Some(GitUser { name: name.value.clone(), email: email.value.clone() }))
            }
            (None, None) => Ok(None),
            (Some(name), None) => Err((name, "email")),
            (None, Some(email)) => Err((email, "name")),
        }
    }
}

pub(super) fn user(reader: &mut Reader<'_>, field: Field<'_>) -> GitUserDef {
    let mut def = GitUserDef::default();
    let Some(fields) = reader.fields(field, &keys::GIT_USER) else { return def };
    let mut take = |key| {
        let field = fields.get(key)?;
        let text = reader.line(field)?;
        if text.contains(['<', '>']) || text.trim().is_empty() {
            reader.refuse(field, "expected text without `<` and `>`");
            return None;
        }
        Some(reader.place(field.node.at, text.to_string()))
    };
    def.name = take("name");
    def.email = take("email");
    def
}

/// Parses an upstream's address from any of its spellings. Nothing of a refused address is shown:
/// it may hold a password.
fn upstream(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Upstream> {
    let text = reader.line(field)?;
    match parse_upstream(text) {
        Ok(upstream) => Some(upstream),
        Err((why, hint)) => {
            let found = reader.refuse(field, why);
            if !hint.is_empty() {
                found.advise(hint);
            }
            None
        }
    }
}

type Refusal = (&'static str, &'static str);

fn parse_upstream(text: &str) -> Result<Upstream, Refusal> {
    if let Some(rest) = text.strip_prefix("ssh://") {
        let (authority, path) = authority(rest)?;
        let (user, host) = authority
            .rsplit_once('@')
            .ok_or(("an ssh upstream names its user", "for example ssh://git@host/path"))?;
        return build(GitTransport::Ssh, user, host, path);
    }
    if let Some(rest) = text.strip_prefix("https://") {
        let (authority, path) = authority(rest)?;
        if authority.contains('@') {
            return Err(("an address holds no credential", "name it under `secret`"));
        }
        return build(GitTransport::Https, "", authority, path);
    }
    if text.contains("://") {
        return Err((
            "expected ssh://user@host/path, git@host:path or https://host/path",
            "other transports are neither private nor authentic",
        ));
    }
    // The scp-like form has no port: whatever follows the first colon is path.
    let (authority, path) = text
        .split_once(':')
        .ok_or(("expected ssh://user@host/path, git@host:path or https://host/path", ""))?;
    let (user, host) =
        authority.rsplit_once('@').ok_or(("an ssh upstream names its user", "git@host:path"))?;
    let from_home = !path.starts_with(['/', '~']);
    build(GitTransport::Ssh, user, host, path)
        .map(|upstream| Upstream { from_home: from_home || upstream.from_home, ..upstream })
}

fn authority(rest: &str) -> Result<(&str, &str), Refusal> {
    rest.split_once('/').ok_or(("the address has no path", "which repository is meant?"))
}

fn build(
    transport: GitTransport,
    user: &str,
    authority: &str,
    path: &str,
) -> Result<Upstream, Refusal> {
    if user.contains(':') {
        return Err(("an address holds no credential", "name it under `secret`"));
    }
    let user_ok = user.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if (transport == GitTransport::Ssh && user.is_empty()) || !user_ok || user.starts_with('-') {
        return Err(("expected a user of letters, digits, `.`, `_` and `-`", ""));
    }
    let (host, port) = match authority.split_once(':') {
        Some((host, port)) => (host, port.parse().ok().filter(|port| *port != 0)),
        None if transport == GitTransport::Ssh => (authority, Some(22)),
        None => (authority, Some(443)),
    };
    let port = port.ok_or(("the port is no number from 1 to 65535", ""))?;
    let host = exact_host(host).ok_or((
        "expected a host name (no IP address)",
        "name the host, and give its address under `extra_hosts`",
    ))?;
    let path = path.trim_start_matches('/').trim_end_matches('/');
    let home = path.strip_prefix("~/").filter(|_| transport == GitTransport::Ssh);
    let (path, from_home) = (home.unwrap_or(path), home.is_some());
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || "\\'\"`$?#;|&<>*".contains(c);
    if path.is_empty()
        || path.len() > 1024
        || path.starts_with('-')
        || path.contains(forbidden)
        || path.split('/').any(|part| matches!(part, "" | "." | ".."))
    {
        return Err(("expected a plain path to a repository after the host", ""));
    }
    Ok(Upstream { transport, user: user.into(), host, port, path: path.into(), from_home })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_an_upstream() {
        let show = |text: &str| match parse_upstream(text) {
            Ok(u) => u.url(),
            Err((why, _)) => why.to_string(),
        };
        for (text, expected) in [
            ("ssh://git@github.com/acme/web.git", "ssh://git@github.com:22/acme/web.git"),
            (
                "ssh://git@Git.Acme.Dev:2222/acme/web.git",
                "ssh://git@git.acme.dev:2222/acme/web.git",
            ),
            ("git@github.com:acme/web.git", "ssh://git@github.com:22/~/acme/web.git"),
            ("git@github.com:/acme/web", "ssh://git@github.com:22/acme/web"),
            ("git@h.dev:~ada/web", "ssh://git@h.dev:22/~ada/web"),
            ("git@github.com:~/acme/web", "ssh://git@github.com:22/~/acme/web"),
            ("ssh://git@h.dev:2222/~/acme/web", "ssh://git@h.dev:2222/~/acme/web"),
            ("git@h.dev:~/../web", "expected a plain path to a repository after the host"),
            ("https://github.com/acme/web.git", "https://github.com:443/acme/web.git"),
            ("https://git.acme.dev:8443/a", "https://git.acme.dev:8443/a"),
            ("https://tok:x@github.com/a", "an address holds no credential"),
            ("https://tok@github.com/a", "an address holds no credential"),
            ("ssh://git:pw@github.com/a", "an address holds no credential"),
            ("ssh://github.com/a", "an ssh upstream names its user"),
            ("github.com:a", "an ssh upstream names its user"),
            ("ssh://git@github.com", "the address has no path"),
            ("ssh://git@10.0.0.1/a", "expected a host name (no IP address)"),
            ("ssh://git@*.acme.dev/a", "expected a host name (no IP address)"),
            ("ssh://git@-oProxyCommand=x/a", "expected a host name (no IP address)"),
            ("ssh://-x@h.dev/a", "expected a user of letters, digits, `.`, `_` and `-`"),
            ("ssh://git@h.dev:0/a", "the port is no number from 1 to 65535"),
            ("ssh://git@h.dev:99999/a", "the port is no number from 1 to 65535"),
            ("git@h.dev:-x", "expected a plain path to a repository after the host"),
            ("git@h.dev:a/../b", "expected a plain path to a repository after the host"),
            ("git@h.dev:a;b", "expected a plain path to a repository after the host"),
            ("git://h.dev/a", "expected ssh://user@host/path, git@host:path or https://host/path"),
            ("/srv/a", "expected ssh://user@host/path, git@host:path or https://host/path"),
        ] {
            assert_eq!(show(text), expected, "{text}");
        }
    }
}
