//! Resolving names, and refusing addresses that are no business of a session.
//!
//! Names are asked for at the container's own resolver, without search domains and without the
//! hosts file. Every address of an answer must be public; the list that was checked is the list
//! that is dialled, so that a second answer changes nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;

use super::rules::{HostName, Reach};

/// Resolves host names under the guard.
pub(super) struct Guard {
    resolver: TokioResolver,
}

/// Why there is no address to dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum GuardFault {
    #[error("{host} resolves to {address}, {kind}")]
    Refused { host: String, address: IpAddr, kind: &'static str },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{host} cannot be resolved: {reason}")]
    Unresolved { host: String, reason: String },
}

impl Guard {
    /// Asks the name servers that a `resolv.conf` (resolv.conf(5)) lists.
    pub(super) fn new(resolv_conf: &Path, port: u16) -> Result<Self, String> {
        let text = std::fs::read_to_string(resolv_conf)
            .map_err(|error| format!("{}: {error}", resolv_conf.display()))?;
        let servers = name_servers(&text).into_iter().map(|ip| {
            let mut server = NameServerConfig::udp_and_tcp(ip);
            server.connections.iter_mut().for_each(|connection| connection.port = port);
            server
        });
        let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
        let mut options = ResolverOpts::default();
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4thenIpv6;
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let resolver = builder.with_options(options).build().map_err(|error| error.to_string())?;
        Ok(Self { resolver })
    }

    /// The addresses a host may be dialled at, at least one.
    pub(super) async fn addresses(
        &self,
        host: &HostName,
        reach: Reach,
    ) -> Result<Vec<IpAddr>, GuardFault> {
        if let Some(pin) = reach.pin {
            return Ok(vec![pin]);
        }
        let addresses = self.resolve(host.as_str()).await?;
        match addresses.iter().find_map(|&ip| Some((ip, refused(ip, reach.allow_private)?))) {
            Some((address, kind)) => {
                Err(GuardFault::Refused { host: host.as_str().into(), address, kind })
            }
            None => Ok(addresses),
        }
    }

    /// The addresses of a name, unchecked: for the operator's own proxy.
    pub(super) async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, GuardFault> {
        // The final dot keeps search domains and the special reading of addresses out.
        let answer = self.resolver.lookup_ip(format!("{host}.")).await.map_err(|error| {
            if error.is_no_records_found() || error.is_nx_domain() {
                GuardFault::NoAddress { host: host.into() }
            } else {
                GuardFault::Unresolved { host: host.into(), reason: error.to_string() }
            }
        })?;
        let addresses: Vec<IpAddr> = answer.iter().collect();
        if addresses.is_empty() {
            return Err(GuardFault::NoAddress { host: host.into() });
        }
        Ok(addresses)
    }
}

fn name_servers(resolv_conf: &str) -> Vec<IpAddr> {
    resolv_conf
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("nameserver")?.split_whitespace().next())
        .filter_map(|address| address.parse().ok())
        .collect()
}

/// Why an address may not be dialled, if it may not.
///
/// `allow_private` opens what organisations use inside (RFC 1918, RFC 6598, RFC 4193). Loopback,
/// link-local, metadata and group addresses stay closed: who means one of them pins it.
fn refused(address: IpAddr, allow_private: bool) -> Option<&'static str> {
    let kind = match address {
        IpAddr::V4(v4) => v4_kind(v4),
        IpAddr::V6(v6) => v6_kind(v6),
    }?;
    (!(allow_private && kind == PRIVATE)).then_some(kind)
}

const PRIVATE: &str = "a private address";
const LOOPBACK: &str = "a loopback address";
const LINK_LOCAL: &str = "a link-local address";
const METADATA: &str = "a cloud metadata address";
const SPECIAL: &str = "not an address of one public host";

/// The IANA IPv4 Special-Purpose Address Registry, and the metadata services outside of it.
fn v4_kind(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        // Azure; Alibaba; Oracle; and all others at 169.254.169.254.
        [168, 63, 129, 16] | [100, 100, 100, 200] | [192, 0, 0, 192] | [169, 254, 169, _] => {
            Some(METADATA)
        }
        [127, ..] => Some(LOOPBACK),
        [169, 254, ..] => Some(LINK_LOCAL),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] | [100, 64..=127, ..] => Some(PRIVATE),
        [0, ..]
        | [192, 0, 0, _]
        | [192, 0, 2, _]
        | [192, 88, 99, _]
        | [198, 18..=19, ..]
        | [198, 51, 100, _]
        | [203, 0, 113, _]
        | [224..=255, ..] => Some(SPECIAL),
        _ => None,
    }
}

/// Only 2000::/3 is in public use; what carries an IPv4 address is judged by that.
fn v6_kind(address: Ipv6Addr) -> Option<&'static str> {
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        v4_kind(Ipv4Addr::new(a, b, c, d))
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(LOOPBACK),
        [0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254] | [0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254] => {
            Some(METADATA)
        }
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        [0xfc00..=0xfdff, ..] => Some(PRIVATE),
        [0xfe80..=0xfebf, ..] => Some(LINK_LOCAL),
        // Teredo and the other protocol assignments; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0x0db8, ..] | [0x3fff, 0..=0xfff, ..] => Some(SPECIAL),
        [0x2000..=0x3fff, ..] => None,
        _ => Some(SPECIAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_not_public_are_refused() {
        for (address, kind) in [
            ("1.1.1.1", None),
            ("140.82.121.4", None),
            ("172.15.255.255", None),
            ("172.32.0.0", None),
            ("100.63.255.255", None),
            ("100.128.0.0", None),
            ("223.255.255.255", None),
            ("192.0.1.1", None),
            ("0.0.0.0", Some(SPECIAL)),
            ("0.1.2.3", Some(SPECIAL)),
            ("10.0.0.1", Some(PRIVATE)),
            ("10.201.0.2", Some(PRIVATE)),
            ("100.64.0.1", Some(PRIVATE)),
            ("100.100.100.200", Some(METADATA)),
            ("127.0.0.1", Some(LOOPBACK)),
            ("127.255.255.254", Some(LOOPBACK)),
            ("168.63.129.16", Some(METADATA)),
            ("169.254.0.1", Some(LINK_LOCAL)),
            ("169.254.169.254", Some(METADATA)),
            ("172.16.0.1", Some(PRIVATE)),
            ("172.31.255.255", Some(PRIVATE)),
            ("192.0.0.192", Some(METADATA)),
            ("192.0.0.8", Some(SPECIAL)),
            ("192.168.1.1", Some(PRIVATE)),
            ("198.18.0.1", Some(SPECIAL)),
            ("203.0.113.9", Some(SPECIAL)),
            ("224.0.0.1", Some(SPECIAL)),
            ("240.0.0.1", Some(SPECIAL)),
            ("255.255.255.255", Some(SPECIAL)),
            ("2606:4700:4700::1111", None),
            ("2a00:1450:4001:80b::200e", None),
            ("::", Some(SPECIAL)),
            ("::1", Some(LOOPBACK)),
            ("::7f00:1", Some(SPECIAL)),
            ("::ffff:127.0.0.1", Some(LOOPBACK)),
            ("::ffff:169.254.169.254", Some(METADATA)),
            ("::ffff:1.1.1.1", None),
            ("64:ff9b::10.0.0.1", Some(PRIVATE)),
            ("64:ff9b::1.1.1.1", None),
            ("64:ff9b:1::1.1.1.1", Some(SPECIAL)),
            ("2002:7f00:1::", Some(LOOPBACK)),
            ("2002:0a00:1::", Some(PRIVATE)),
            ("2001::1", Some(SPECIAL)),
            ("2001:db8::1", Some(SPECIAL)),
            ("3fff::1", Some(SPECIAL)),
            ("fc00::1", Some(PRIVATE)),
            ("fd00:ec2::254", Some(METADATA)),
            ("fe80::1", Some(LINK_LOCAL)),
            ("fec0::1", Some(SPECIAL)),
            ("ff02::1", Some(SPECIAL)),
            ("100::1", Some(SPECIAL)),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!(refused(ip, false), kind, "{address}");
            let private = kind == Some(PRIVATE);
            assert_eq!(refused(ip, true), kind.filter(|_| !private), "{address}");
        }
    }

    #[test]
    fn name_servers_are_read_and_the_rest_is_not() {
        let text = "# nameserver 9.9.9.9\nsearch corp\nnameserver 127.0.0.11\n nameserver\t::1 x\n\
                    nameserver bogus\noptions ndots:0\n";
        let expected: Vec<IpAddr> = vec!["127.0.0.11".parse().unwrap(), "::1".parse().unwrap()];
        assert_eq!(name_servers(text), expected);
    }
}
