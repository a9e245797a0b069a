//! What the attempts aim at: the addresses of this host and of everybody's containers, and what the
//! session's own plan says.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bottle_executor::engine::{Engine, EngineError};
use bottle_planner::plan::Plan;
use bottle_planner::policy::Route;
use bottle_planner::resolve::RUNSC;
use bottle_planner::sidecar::{GIT_GATE_PORT, PIPELOCK_PORT, SUPERVISE_PORT};
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::Role;
use bottle_sidecar::prove::{GitRemote, Granted, Known, Targets};

use super::Canary;

/// Hosts that nobody means to reach from inside, and that an escape would like to.
const REFUSED: [&str; 4] =
    ["refused.invalid", "dns.google", "cloudflare-dns.com", "metadata.google.internal"];
/// The most containers of others that are aimed at.
const MOST_OTHERS: usize = 64;

/// What was seen of the engine.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    gateways: BTreeSet<Ipv4Addr>,
    others: Vec<(String, Ipv4Addr)>,
}

impl Seen {
    /// Looks at the engine's networks, and at the running containers that are not this session's.
    pub async fn look<E: Engine>(engine: &E, plan: &Plan) -> Result<Self, EngineError> {
        let all = engine.observe(&plan.session.owner, &BTreeSet::new()).await?;
        let subnets = all.networks.values().flat_map(|network| &network.subnets);
        // The first address is the engine's choice unless somebody asked for another.
        let gateways = subnets.filter_map(|subnet| subnet.nth(1)).collect();
        let own: BTreeSet<&str> =
            plan.session.places.values().map(|place| place.container.as_str()).collect();
        let strangers = all.containers.iter().filter(|(name, container)| {
            !own.contains(name.as_str()) && container.state == ContainerState::Running
        });
        let mut others = Vec::new();
        for (name, container) in strangers.take(MOST_OTHERS) {
            // One that is gone by now cannot be reached either.
            let Some(found) = engine.container(&container.id).await? else { continue };
            let addresses = found.networks.values().flatten();
            others.extend(addresses.map(|address| (name.clone(), *address)));
        }
        Ok(Self { gateways, others })
    }
}

/// The targets of the attempts on a session. `granted` is the address of a route that was made for
/// them, and `processes` a limit low enough to be tried.
pub fn aims(
    plan: &Plan,
    seen: &Seen,
    canary: &Canary,
    granted: Option<(&str, Ipv4Addr)>,
    processes: Option<u32>,
) -> Option<Targets> {
    let places = &plan.session.places;
    let (egress, agent) = (places.get(&Role::Egress)?, places.get(&Role::Agent)?);
    let port = |role| match role {
        Role::GitGate => Some(GIT_GATE_PORT),
        Role::Supervise => Some(SUPERVISE_PORT),
        Role::Pipelock => Some(PIPELOCK_PORT),
        Role::Egress | Role::Agent => None,
    };
    let sidecars = places
        .iter()
        .filter_map(|(role, place)| Some((role.to_string(), place.net, port(*role)?)))
        .collect();
    let own: BTreeSet<Ipv4Addr> =
        places.values().flat_map(|place| [Some(place.net), place.out]).flatten().collect();
    // Those that are the host's for certain come first.
    let mut host: Vec<IpAddr> = host_addresses().into_iter().collect();
    let gateways = seen.gateways.iter().filter(|at| !own.contains(at)).map(|at| IpAddr::V4(*at));
    let gateways: Vec<IpAddr> = gateways.filter(|at| !host.contains(at)).collect();
    host.extend(gateways);
    let routes = &plan.grants.egress.routes;
    let refused = REFUSED.iter().filter(|host| !routes.keys().any(|route| route.matches(host)));
    let known = routes.iter().filter(|(host, _)| !host.as_str().starts_with('*'));
    // One that may be tunnelled to says more than one that may not.
    let known = known.max_by_key(|(_, route)| is_open(route)).map(|(host, route)| Known {
        host: host.to_string(),
        tunnel: is_open(route).then_some(route.port),
    });
    Some(Targets {
        nonce: canary.nonce.clone(),
        answer: canary.answer(),
        canary: canary.port,
        host,
        others: seen.others.clone(),
        resolvers: resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()),
        egress: egress.net,
        egress_out: egress.out,
        agent: agent.net,
        sidecars,
        granted: granted.map(|(host, address)| Granted { host: host.to_owned(), address }),
        known,
        refused: refused.map(|host| (*host).to_owned()).collect(),
        git: git(plan),
        processes,
        own_kernel: plan.session.runtime.as_deref() == Some(RUNSC),
    })
}

/// The first remote that may be pushed to.
fn git(plan: &Plan) -> Option<GitRemote> {
    let routes = &plan.grants.egress.routes;
    plan.grants.git.iter().find_map(|(name, remote)| {
        let (host, port) = (remote.upstream.host.as_str(), remote.upstream.port);
        Some(GitRemote {
            name: name.to_string(),
            host: host.to_owned(),
            port,
            branch: remote.push.branches.first()?.clone(),
            routed: routes.keys().any(|route| route.matches(host)),
        })
    })
}

/// Whether a tunnel to this route's host is allowed whatever is sent through it.
fn is_open(route: &Route) -> bool {
    let open = |rule: &bottle_planner::policy::Rule| {
        rule.auth.is_none() && rule.methods.is_empty() && rule.paths.is_empty()
    };
    route.auth.is_none() && route.deny.is_empty() && route.allow.iter().any(open)
}

/// The addresses of this host, loopback and link-local ones apart.
pub fn host_addresses() -> BTreeSet<IpAddr> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    let four = four(&read("/proc/net/fib_trie")).into_iter().map(IpAddr::V4);
    four.chain(six(&read("/proc/net/if_inet6")).into_iter().map(IpAddr::V6)).collect()
}

/// The addresses whose route is local, as /proc/net/fib_trie has them: an address on one line, what
/// it is on the next.
fn four(table: &str) -> BTreeSet<Ipv4Addr> {
    let mut last = None;
    let mut found = BTreeSet::new();
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line == "/32 host LOCAL" {
            found.extend(last.filter(|at| !at.is_loopback() && !at.is_link_local()));
        }
    }
    found
}

/// Global addresses of /proc/net/if_inet6: the address, its interface, the prefix, and the scope,
/// which is `00` for global ones.
fn six(table: &str) -> BTreeSet<Ipv6Addr> {
    let global = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let (address, scope) = (fields.next()?, fields.nth(2)?);
        (scope == "00").then(|| u128::from_str_radix(address, 16).ok().map(Ipv6Addr::from))?
    });
    global.collect()
}

fn resolvers(file: &str) -> Vec<Ipv4Addr> {
    let named = file.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named.filter_map(|address| address.trim().parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_this_host_are_those_with_a_local_route() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.0\n        /24 link UNICAST\n     \
                     |-- 192.0.2.2\n        /32 host LOCAL\n     |-- 127.0.0.1\n        /32 host \
                     LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n";
        assert_eq!(four(table), [Ipv4Addr::new(192, 0, 2, 2)].into());
        let table = "fe80000000000000ac4008fffe7a0c32 09 40 20 80 veth88e6a20\n\
                     20010db8000000000000000000000002 04 40 00 82     eth0\n\
                     00000000000000000000000000000001 01 80 10 80       lo\n";
        assert_eq!(six(table), ["2001:db8::2".parse().unwrap()].into());
    }

    #[test]
    fn resolvers_are_read_by_address() {
        let file = "# resolver\nnameserver 192.0.2.53\nnameserver ::1\nsearch example.com\n";
        assert_eq!(resolvers(file), [Ipv4Addr::new(192, 0, 2, 53)]);
    }
}
