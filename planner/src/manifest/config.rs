//! The host config: what belongs to this machine and not to a policy.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::diagnostic::{At, Diagnostic, Findings, shown};
use super::reader::{Field, Reader};
use super::yaml::{self, Value};
use super::{document, git, globs, keys};
use crate::policy::{HostConfig, HostPattern, NetworkConfig, SecretSource};
use crate::words::{EnvName, SecretName, Subnet};

/// The host config and all that was found while reading it.
#[derive(Debug, Clone, Default)]
pub struct LoadedConfig {
    /// What the file says, as far as it could be read.
    pub config: HostConfig,
    /// Sorted by place.
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the host config. `path` is what diagnostics call it.
#[must_use]
pub fn load_config(path: &str, text: &str) -> LoadedConfig {
    let mut findings = Findings::default();
    let mut reader = Reader::new(path, &mut findings);
    let config = document::plain(&mut reader, text)
        .and_then(|text| yaml::parse(&mut reader, &text, 0))
        .filter(|root| !matches!(root.value, Value::Null))
        .map(|node| config(&mut reader, Field { key: "config", at: At::START, node: &node }));
    LoadedConfig { config: config.unwrap_or_default(), diagnostics: findings.sorted() }
}

fn config(reader: &mut Reader<'_>, field: Field<'_>) -> HostConfig {
    let mut config = HostConfig::default();
    let Some(fields) = reader.fields(field, &keys::CONFIG) else { return config };
    if let Some(items) = fields.get("secrets").and_then(|field| reader.map(field)) {
        for item in items {
            let name = SecretName::new(item.key);
            if let Err(error) = &name {
                let message = format!("expected {}, found `{}`", error.expected, shown(item.key));
                reader.error(item.at, "bad-secret", message);
            }
            if let (Some(source), Ok(name)) = (source(reader, item), name) {
                config.secrets.insert(name, source);
            }
        }
    }
    if let Some(field) = fields.get("network") {
        config.network = network(reader, field);
    }
    config.pool = fields.get("pool").and_then(|field| pool(reader, field));
    config.base_image =
        fields.get("base_image").and_then(|field| git::glob(reader, field, globs::image_reference));
    config.history_days =
        fields.get("history_days").and_then(|field| reader.integer(field, 0..=36_500));
    config
}

fn source(reader: &mut Reader<'_>, field: Field<'_>) -> Option<SecretSource> {
    let fields = reader.fields(field, &keys::SECRET_SOURCE)?;
    let forms = [fields.get("command"), fields.get("env"), fields.get("file")];
    let mut forms = forms.into_iter().flatten();
    let Some(form) = forms.next() else {
        reader
            .error(field.at, "missing-key", "a secret's source is `command`, `env` or `file`")
            .advise("with no entry at all, the host variable of that name is the source");
        return None;
    };
    if let Some(second) = forms.next() {
        let message = format!("`{}` and `{}` do not go together", form.key, second.key);
        reader.error(second.at, "two-forms", message).advise("one source a secret");
        return None;
    }
    match form.key {
        "command" => reader.argv(form).map(|argv| SecretSource::Command { argv }),
        "env" => {
            let name = reader.word(form, |text| EnvName::new(text))?;
            Some(SecretSource::Env { name })
        }
        _ => git::host_path(reader, form).map(|path| SecretSource::File { path }),
    }
}

fn pool(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Subnet> {
    let pool: Subnet = reader.word(field, |text| text.parse())?;
    if pool.prefix() > 27 {
        reader
            .refuse(field, "expected at least a /27: a session takes two networks of /28")
            .advise("the default is 10.201.0.0/16");
        return None;
    }
    // RFC 1918 and RFC 6598: anything else is somebody's address.
    let private = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10"];
    let inside = |range: &str| {
        range
            .parse::<Subnet>()
            .is_ok_and(|range| range.prefix() <= pool.prefix() && range.overlaps(pool))
    };
    if !private.into_iter().any(inside) {
        reader.warning(field.node.at, "public-pool", format!("`{pool}` is not a private range"));
    }
    Some(pool)
}

fn network(reader: &mut Reader<'_>, field: Field<'_>) -> NetworkConfig {
    let mut network = NetworkConfig::default();
    let Some(fields) = reader.fields(field, &keys::NETWORK) else { return network };
    network.proxy = fields.get("proxy").and_then(|field| proxy(reader, field));
    network.ca = fields.get("ca").and_then(|field| git::host_path(reader, field));
    if let Some(items) = fields.get("no_proxy").and_then(|field| reader.list(field)) {
        network.no_proxy = items.filter_map(|item| exempt(reader, item)).collect();
    }
    network
}

/// `http://host:port`. Nothing of a refused address is shown: it may hold a password.
fn proxy(reader: &mut Reader<'_>, field: Field<'_>) -> Option<String> {
    let text = reader.line(field)?;
    if text.contains('@') {
        reader.refuse(field, "an address holds no credential");
        return None;
    }
    let rest = text.strip_prefix("http://").map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let parts = rest.and_then(|rest| rest.rsplit_once(':'));
    let good = parts.is_some_and(|(host, port)| {
        let v6 = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let address = v6.map_or_else(
            || host.parse::<core::net::Ipv4Addr>().is_ok(),
            |host| host.parse::<core::net::Ipv6Addr>().is_ok(),
        );
        let name = HostPattern::new(host).is_ok_and(|host| !host.as_str().starts_with('*'));
        (name || address) && port.parse::<u16>().is_ok_and(|port| port != 0)
    });
    match rest {
        Some(rest) if good => Some(format!("http://{rest}")),
        _ => {
            reader.refuse(field, "expected `http://host:port`");
            None
        }
    }
}

fn exempt(reader: &mut Reader<'_>, item: Field<'_>) -> Option<String> {
    let text = reader.line(item)?;
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_*:/[]".contains(&b));
    if !plain {
        let message = format!("expected a host, a suffix or a subnet, found `{}`", shown(text));
        reader.refuse(item, message);
        return None;
    }
    Some(text.to_string())
}
