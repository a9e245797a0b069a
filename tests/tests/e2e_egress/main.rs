//! Egress on the real engine: what a hostile agent tries from inside its container, real clients
//! that go through, and what happens when egress dies under load.
//!
//! An engine is expected to answer (`scripts/host-setup --tests`), and `cargo build --workspace`
//! to have been run.

mod attacks;
mod chain;
mod clients;
mod faults;
mod image;
mod site;

use std::net::Ipv4Addr;
use std::process::Command;

use bottle_outside::{Authority, Origin};
use bottle_planner::plan::Plan;
use bottle_tests::host::{Host, Ran, ran, unique};
use bottle_tests::outside::Network;

/// Takes over the environment that the init gave the agent.
const AS_THE_AGENT: &str = r#"
for process in /proc/[0-9]*; do
  [ "$(cat $process/comm 2>/dev/null)" = sleep ] || continue
  while IFS= read -r -d '' variable; do export "$variable"; done <$process/environ
  break
done
cd /tmp
"#;

/// Values that egress holds or looks for.
const TOKEN: &str = "tok-9Kd2xQ7mWz4LpR8v";
const CLAUDE: &str = "oat-4Tz8Lp2Rv6Yd1Nb5Hc";
const OWN: &str = "own-Vb3nXy7Qk2Lw9TzR";

/// A session with real clients, and an outside that it may reach.
struct Bench {
    host: Host,
    session: String,
    plan: Plan,
    origin: Origin,
    plain: Origin,
    outside: Ipv4Addr,
    _network: Network,
}

/// Names of the outside, all at one address.
const NAMES: [&str; 9] = [
    "api.test",
    "auth.test",
    "evil.test",
    "pypi.test",
    "npm.test",
    "deb.test",
    "git.test",
    "a.wild.test",
    "api.anthropic.com",
];

impl Bench {
    fn new() -> Self {
        Self::with(|outside| (format!(", address: {outside}"), String::new()))
    }

    /// With what pins most routes to the outside's address, and more lines in its bottle.
    fn with(made: impl FnOnce(Ipv4Addr) -> (String, String)) -> Self {
        let image = image::clients();
        let (network, outside) = Network::new();
        let (pin, more) = made(outside);
        let authority = Authority::new("the outside");
        let config = authority.server(&NAMES, &["h2", "http/1.1"]);
        let origin = Origin::site((outside, 443), config, site::sites());
        let plain = Origin::plain((outside, 80));
        let manifest = format!(
            "bottles:
  box:
    env: {{OWN: '${{OWN}}', COLOR: plain-literal-blue}}
    egress:
      routes:
        - {{host: api.test{pin}, allow: [{{paths: [/open/**]}}]}}
        - {{host: plain.test, port: 80{pin}, allow: [{{paths: [/open/**]}}]}}
        - {{host: auth.test{pin}, auth: {{scheme: Bearer, secret: TOKEN}}}}
        - {{host: pypi.test{pin}, allow: [{{access: read}}]}}
        - {{host: npm.test{pin}, allow: [{{access: read}}]}}
        - {{host: deb.test{pin}, allow: [{{access: read}}]}}
        - {{host: git.test{pin}}}
        - {{host: '*.wild.test', address: {outside}}}
        - host: api.anthropic.com
          address: {outside}
          role: claude_code_oauth
          auth: {{scheme: Bearer, secret: CLAUDE}}
    provider: {{command: [sleep, '86400']}}
    image: {{reference: '{image}'}}
    isolation: container
    workspace: {{modes: [none]}}
{more}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
        );
        let host = Host::with_manifest(&manifest)
            .set("OWN", OWN)
            .set("TOKEN", TOKEN)
            .set("CLAUDE", CLAUDE);
        host.write("home/outside.pem", &authority.pem());
        let pem = host.at("home/outside.pem");
        host.write("root/config.yaml", &format!("network: {{ca: '{}'}}\n", pem.display()));
        let session = unique("egress");
        let plan = host.up(&session);
        Self { host, session, plan, origin, plain, outside, _network: network }
    }

    fn agent(&self) -> String {
        format!("bottle-{}", self.session)
    }

    fn egress(&self) -> String {
        format!("bottle-egress-{}", self.session)
    }

    /// Runs a script of bash in the agent's container, with the environment the agent has.
    fn inside(&self, script: &str) -> Ran {
        let mut command = Command::new("docker");
        command.args(["exec", "-i", "-u", "1000:1000", &self.agent(), "bash", "-s"]);
        ran(&mut command, format!("{AS_THE_AGENT}{script}").as_bytes())
    }

    /// The same without the variables that name a proxy.
    fn unaware(&self, script: &str) -> Ran {
        let names = "HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy";
        self.inside(&format!("unset {names}\n{script}"))
    }

    /// The decision log.
    fn log(&self) -> String {
        self.host.read(&format!("root/state/{}/egress/out/decisions.jsonl", self.session))
    }
}
