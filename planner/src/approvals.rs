//! Approvals: what a person allowed beyond the manifest, and how it joins the routes.

use alloc::collections::BTreeMap;
use alloc::vec;

use crate::facts::covers;
use crate::policy::{Approval, Dlp, DlpAction, HostPattern, Route, RouteRole, Rule, Tls};

/// The port of an approval that names none.
pub const DEFAULT_PORT: u16 = 443;

/// The host has a route at another port, and a route has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its route is at port {granted}")]
pub struct OtherPort {
    /// The port that is granted.
    pub granted: u16,
}

/// The route that decides about a host (a name, or a pattern below a wider one): its own, else
/// that of the longest wildcard. As egress chooses.
#[must_use]
pub fn route_of<'r>(
    routes: &'r BTreeMap<HostPattern, Route>,
    host: &HostPattern,
) -> Option<(&'r HostPattern, &'r Route)> {
    routes.get_key_value(host).or_else(|| {
        routes
            .iter()
            .filter(|(pattern, _)| pattern.as_str().starts_with('*'))
            .filter(|(pattern, _)| pattern.matches(host.as_str()))
            .max_by_key(|(pattern, _)| pattern.as_str().len())
    })
}

/// Whether every request of a rule is allowed already, as far as the allow rules go.
#[must_use]
pub fn is_allowed(
    routes: &BTreeMap<HostPattern, Route>,
    host: &HostPattern,
    port: u16,
    rule: &Rule,
) -> bool {
    route_of(routes, host).is_some_and(|(_, route)| {
        route.port == port && route.allow.iter().any(|wide| covers(wide, rule))
    })
}

/// Adds a rule to what a host may be used for.
///
/// A host without a route gets one: with the strictest leak scan, and no credential. A host that a
/// wildcard's route decides about gets that route's copy: it keeps what it had, and no other name
/// gains anything.
///
/// # Errors
///
/// The host is granted at another port.
pub fn allow(
    routes: &mut BTreeMap<HostPattern, Route>,
    host: &HostPattern,
    port: u16,
    rule: &Rule,
) -> Result<(), OtherPort> {
    let wider = route_of(routes, host).map(|(_, route)| route);
    if let Some(route) = wider.filter(|route| route.port != port) {
        return Err(OtherPort { granted: route.port });
    }
    if is_allowed(routes, host, port, rule) {
        return Ok(());
    }
    let own = wider.map_or_else(|| bare(port), own_copy);
    routes.entry(host.clone()).or_insert(own).allow.push(rule.clone());
    Ok(())
}

/// [`allow`] for an approval.
///
/// # Errors
///
/// The host is granted at another port.
pub fn add(
    routes: &mut BTreeMap<HostPattern, Route>,
    approval: &Approval,
) -> Result<(), OtherPort> {
    allow(routes, &approval.host, approval.port, &approval.rule)
}

/// The same route for one name below it. Only one route of a bottle has the OAuth role.
pub(crate) fn own_copy(route: &Route) -> Route {
    let role = route.role.filter(|role| *role != RouteRole::ClaudeCodeOauth);
    Route { role, ..route.clone() }
}

fn bare(port: u16) -> Route {
    Route {
        port,
        allow: vec![],
        deny: vec![],
        auth: None,
        role: None,
        tls: Tls::Intercept,
        dlp: Dlp { own_secrets: DlpAction::Block, patterns: DlpAction::Block },
        address: None,
        allow_private: false,
    }
}

#[cfg(test)]
mod tests {
    use alloc::collections::BTreeSet;
    use alloc::string::ToString;

    use super::*;
    use crate::policy::Access;

    fn host(text: &str) -> HostPattern {
        HostPattern::new(text).expect("a host")
    }

    fn rule(method: &str) -> Rule {
        let methods = BTreeSet::from([method.to_string()]);
        Rule { methods, paths: vec!["/a".to_string()], access: Access::All, auth: None }
    }

    #[test]
    fn a_new_host_gets_the_strictest_route() {
        let mut routes = BTreeMap::new();
        allow(&mut routes, &host("a.test"), 8443, &rule("GET")).expect("added");
        let route = &routes[&host("a.test")];
        assert_eq!((route.port, route.allow.len(), &route.auth), (8443, 1, &None));
        assert_eq!(route.dlp.patterns, DlpAction::Block);
        allow(&mut routes, &host("a.test"), 8443, &rule("GET")).expect("there");
        assert_eq!(routes[&host("a.test")].allow.len(), 1, "once is enough");
        let other = allow(&mut routes, &host("a.test"), 443, &rule("GET"));
        assert_eq!(other, Err(OtherPort { granted: 8443 }));
    }

    #[test]
    fn a_name_below_a_wildcard_keeps_what_it_had_and_no_other_gains() {
        let mut wide = bare(443);
        wide.allow.push(rule("GET"));
        wide.role = Some(RouteRole::ClaudeCodeOauth);
        wide.allow_private = true;
        let mut routes = BTreeMap::from([(host("*.a.test"), wide.clone())]);
        allow(&mut routes, &host("x.a.test"), 443, &rule("GET")).expect("there already");
        assert_eq!(routes.len(), 1);
        allow(&mut routes, &host("x.a.test"), 443, &rule("POST")).expect("added");
        assert_eq!(routes[&host("*.a.test")], wide);
        let own = &routes[&host("x.a.test")];
        assert_eq!((own.allow.len(), own.role, own.allow_private), (2, None, true));
    }

    #[test]
    fn the_most_specific_route_decides() {
        let routes: BTreeMap<HostPattern, Route> =
            ["*.test", "*.a.test", "x.a.test"].into_iter().map(|h| (host(h), bare(443))).collect();
        let of = |name: &str| route_of(&routes, &host(name)).map(|(found, _)| found.to_string());
        assert_eq!(of("x.a.test").as_deref(), Some("x.a.test"));
        assert_eq!(of("y.a.test").as_deref(), Some("*.a.test"));
        assert_eq!(of("a.test").as_deref(), Some("*.test"));
        assert_eq!(of("*.b.test").as_deref(), Some("*.test"));
        assert_eq!(of("test"), None);
    }
}
