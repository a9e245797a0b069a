//! Overlays: what `bottle allow --always` adds to a bottle, beside its manifest and never in it.
//!
//! An overlay only widens: each entry is one rule for one host. It joins a bottle that is complete
//! already, as an approval joins a session's routes, and no child of the bottle inherits it.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::diagnostic::{Findings, Placed, Spot};
use super::egress::{host, rule};
use super::keys;
use super::reader::{Field, Reader};
use crate::approvals::{DEFAULT_PORT, allow};
use crate::policy::{Bottle, HostPattern, Rule};
use crate::words::{Name, Timestamp};

/// One overlay file.
#[derive(Debug, Clone)]
pub(super) struct Overlay {
    /// What is added, in the order of the file.
    pub entries: Vec<Placed<Allowance>>,
    /// How notices name it.
    pub origin: String,
    pub spot: Spot,
    /// Whether it was read without an error.
    pub sound: bool,
}

/// One rule for one host.
#[derive(Debug, Clone)]
pub(super) struct Allowance {
    /// Whose; in an overlay of one bottle its own name, if any.
    pub bottle: Option<Name>,
    host: HostPattern,
    port: u16,
    rule: Rule,
}

/// Reads the entries. `of` is the bottle whose file it is; an overlay of a manifest in one file has
/// none, and each entry says which bottle it is for.
pub(super) fn entries(
    reader: &mut Reader<'_>,
    field: Field<'_>,
    of: Option<&Name>,
) -> Vec<Placed<Allowance>> {
    let Some(fields) = reader.fields(field, &keys::OVERLAY) else { return Vec::new() };
    let items = fields.get("allow").and_then(|field| reader.list(field));
    let items: Vec<Field<'_>> = items.map(Iterator::collect).unwrap_or_default();
    items.into_iter().filter_map(|item| entry(reader, item, of)).collect()
}

fn entry(reader: &mut Reader<'_>, item: Field<'_>, of: Option<&Name>) -> Option<Placed<Allowance>> {
    let fields = reader.fields(item, &keys::ALLOWANCE)?;
    let bottle = fields.get("bottle").and_then(|field| reader.stem(field));
    match (of, &bottle) {
        (None, None) if !fields.has("bottle") => {
            reader.error(item.at, "missing-key", "an entry beside one file needs `bottle`");
        }
        (Some(of), Some(named)) if of != named => {
            let message = format!("this file is the overlay of bottle `{of}`, found `{named}`");
            reader.error(fields.get("bottle")?.at, "other-bottle", message);
        }
        _ => {}
    }
    let host = fields.get("host").and_then(|field| host(reader, field));
    let port = fields.get("port").map(|field| reader.integer(field, 1..=65535));
    let port = match port {
        Some(port) => port.and_then(|port| u16::try_from(port).ok()),
        None => Some(DEFAULT_PORT),
    };
    let rule = fields.get("rule").and_then(|field| {
        let rule = rule(reader, field, false)?;
        if rule.auth.is_some() {
            reader
                .error(field.at, "auth-in-overlay", "an overlay gives no credential")
                .advise("write the route into the bottle itself");
        }
        Some(rule)
    });
    if let Some(field) = fields.get("at") {
        reader.word(field, |text| Timestamp::new(text));
    }
    let allowance = Allowance { bottle, host: host?, port: port?, rule: rule? };
    Some(reader.place(item.at, allowance))
}

/// Adds what overlays say to the bottles they are for. A bottle whose overlay has an error is left
/// out: part of it would be a surprise.
pub(super) fn apply(
    overlays: &BTreeMap<Name, Overlay>,
    bottles: &mut BTreeMap<Name, Option<Bottle>>,
    findings: &mut Findings,
) {
    for (name, overlay) in overlays {
        let Some(place) = bottles.get_mut(name) else {
            let message = format!("there is no bottle `{name}` that this could widen");
            findings.warning(&overlay.spot, "overlay-without-bottle", message);
            continue;
        };
        let before = findings.errors();
        if let Some(bottle) = place {
            for Placed { value, spot } in &overlay.entries {
                let Allowance { host, port, rule, .. } = value;
                if let Err(error) = allow(&mut bottle.egress.routes, host, *port, rule) {
                    let message = format!("`{host}` cannot be allowed at port {port}: {error}");
                    findings.error(spot, "other-port", message);
                }
            }
            bottle.overlay = (!overlay.entries.is_empty()).then(|| overlay.origin.to_string());
        }
        if !overlay.sound || findings.errors() != before {
            *place = None;
        }
    }
}
