//! Tries to get out: every way that is known, from inside the agent's container, with nothing but
//! this binary.
//!
//! The executor runs it through exec, as the agent's own user. One [`Order`] comes in on standard
//! input, one JSON array of [`Finding`]s goes out on standard output. Each family of attempts is a
//! file with one function that lists them: a new attempt is one more item of a list. Whatever should
//! be refused has a twin that should be let through, so that a probe that is blind is seen.
//!
//! Nothing is left behind where a wall does not hold: what should not have worked is undone, or is
//! chosen such that it changes nothing.

mod files;
mod git;
mod http;
mod limits;
mod names;
mod network;
mod privileges;
mod proxy;

use std::future::Future;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::time::Duration;

use bottle_planner::sidecar::EGRESS_PORT;
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use crate::exit;

/// How long one attempt over the network may take.
const PATIENCE: Duration = Duration::from_millis(1900);
/// How long one may take that upstream has a part in.
const LONG: Duration = Duration::from_secs(20);
/// How long egress has to come up: the session may have begun a moment ago.
const EGRESS: Duration = Duration::from_secs(5);
/// The most bytes of an order.
const LARGEST: u64 = 1 << 20;
/// The most characters of what a finding says happened.
const LONGEST: usize = 160;

/// What is asked of `bottle sidecar prove`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Order {
    /// All attempts on these targets.
    Attempts(Box<Targets>),
    /// One attempt that wants a process of its own. It gives this order to itself.
    Alone {
        /// The attempt's id.
        attempt: String,
    },
}

/// What the attempts aim at: this host and this session, as seen from outside the container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Targets {
    /// A word that nobody else uses. What carries `NONCE/ID` to the canary was sent by attempt `ID`;
    /// where that has several targets, `/TARGET` follows.
    pub nonce: String,
    /// What the canary answers.
    pub answer: String,
    /// The TCP and UDP port on which the canary listens, on every address of this host.
    pub canary: u16,
    /// The host's addresses, and behind them the gateways of the engine's networks that are none.
    pub host: Vec<IpAddr>,
    /// Addresses of containers that are not this session's agent or its sidecars, with their names.
    pub others: Vec<(String, Ipv4Addr)>,
    /// Resolvers that the host uses.
    pub resolvers: Vec<Ipv4Addr>,
    /// Egress on the session's internal network.
    pub egress: Ipv4Addr,
    /// Egress on its way out.
    pub egress_out: Option<Ipv4Addr>,
    /// The agent itself.
    pub agent: Ipv4Addr,
    /// The session's other sidecars: name, address and port.
    pub sidecars: Vec<(String, Ipv4Addr, u16)>,
    /// A plain HTTP route to the canary that allows GET below `/open/` alone.
    pub granted: Option<Granted>,
    /// A host that some route names.
    pub known: Option<Known>,
    /// Hosts that no route names, well known and not.
    pub refused: Vec<String>,
    /// A git remote behind the gate, where the session has one.
    #[serde(default)]
    pub git: Option<GitRemote>,
    /// How many processes the container may have, where it is few enough to try.
    pub processes: Option<u32>,
    /// Whether gVisor answers the container's system calls, and not the host's kernel.
    #[serde(default)]
    pub own_kernel: bool,
}

/// What gVisor's kernel lets a program do to itself: the host's kernel hears nothing of it.
const BY_OWN_KERNEL: [&str; 10] = [
    "devices",
    "init-environment",
    "init-files",
    "mknod-disk",
    "mknod-memory",
    "out-of-memory",
    "priority",
    "seccomp",
    "unshare-mount",
    "unshare-user",
];

/// A plain HTTP route that was granted for the sake of the attempts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Granted {
    /// Its host.
    pub host: String,
    /// The host's pinned address.
    pub address: Ipv4Addr,
}

/// A host that a route names.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    /// Its name.
    pub host: String,
    /// The port of its route, if a tunnel there is allowed.
    pub tunnel: Option<u16>,
}

/// A git remote behind the gate.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GitRemote {
    /// What the gate calls it.
    pub name: String,
    /// Upstream's host.
    pub host: String,
    /// Upstream's port.
    pub port: u16,
    /// A glob of the branches that may be pushed.
    pub branch: String,
    /// Whether a route of the agent's own leads to that host.
    pub routed: bool,
}

/// What should become of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It should fail.
    Refused,
    /// It should work: it shows that attempts of its kind can.
    Allowed,
}

/// One attempt and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// A stable name: lower-case words with `-`, and an address where there are several.
    pub id: String,
    /// Which kind of wall.
    pub family: String,
    /// What was tried, in plain words.
    pub attempt: String,
    /// What should become of it.
    pub expected: Expected,
    /// What became of it, in plain words.
    pub happened: String,
    /// Whether it was tried at all.
    pub tried: bool,
    /// Whether it went as it should, or was not tried.
    pub held: bool,
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It failed, and how.
    Refused(String),
    /// It worked, and how that was seen.
    Allowed(String),
    /// It cannot be tried here, and why.
    NotTried(String),
}

impl Finding {
    /// The same under gVisor: what ends at a kernel of the container's own says nothing of the host.
    fn under_own_kernel(mut self) -> Self {
        if !self.held && BY_OWN_KERNEL.contains(&self.id.as_str()) {
            (self.tried, self.held) = (false, true);
            self.happened =
                format!("{}, by gVisor's kernel; the host's was not asked", self.happened);
        }
        self
    }

    /// The finding of an attempt.
    #[must_use]
    pub fn new(id: &str, family: &str, attempt: &str, expected: Expected, out: Outcome) -> Self {
        let (tried, held, happened) = match out {
            Outcome::Refused(how) => (true, expected == Expected::Refused, how),
            Outcome::Allowed(how) => (true, expected == Expected::Allowed, how),
            Outcome::NotTried(why) => (false, true, why),
        };
        Self {
            id: id.to_owned(),
            family: family.to_owned(),
            attempt: attempt.to_owned(),
            expected,
            happened: happened.chars().take(LONGEST).collect(),
            tried,
            held,
        }
    }
}

/// How an attempt is made.
enum Run {
    /// At once, one after the other.
    Now(Box<dyn FnOnce() -> Outcome>),
    /// Side by side with others of its kind; one that takes too long was refused.
    Later(Pin<Box<dyn Future<Output = Outcome>>>),
    /// The same of what takes its time; silence then says nothing.
    Patient(Pin<Box<dyn Future<Output = Outcome>>>),
}

/// An attempt that is yet to be made.
struct Attempt {
    id: String,
    family: &'static str,
    what: String,
    expected: Expected,
    run: Run,
}

/// The attempts of one kind.
struct Family {
    name: &'static str,
    attempts: Vec<Attempt>,
}

impl Family {
    fn new(name: &'static str) -> Self {
        Self { name, attempts: Vec::new() }
    }

    fn now(
        &mut self,
        expected: Expected,
        id: impl Into<String>,
        what: impl Into<String>,
        run: impl FnOnce() -> Outcome + 'static,
    ) {
        self.add(expected, id.into(), what.into(), Run::Now(Box::new(run)));
    }

    fn later(
        &mut self,
        expected: Expected,
        id: impl Into<String>,
        what: impl Into<String>,
        run: impl Future<Output = Outcome> + 'static,
    ) {
        self.add(expected, id.into(), what.into(), Run::Later(Box::pin(run)));
    }

    fn patient(
        &mut self,
        expected: Expected,
        id: impl Into<String>,
        what: impl Into<String>,
        run: impl Future<Output = Outcome> + 'static,
    ) {
        self.add(expected, id.into(), what.into(), Run::Patient(Box::pin(run)));
    }

    fn add(&mut self, expected: Expected, id: String, what: String, run: Run) {
        self.attempts.push(Attempt { id, family: self.name, what, expected, run });
    }
}

/// Every attempt, in the order of the table.
fn attempts(targets: &Targets) -> Vec<Attempt> {
    [
        network::attempts(targets),
        names::attempts(targets),
        proxy::attempts(targets),
        git::attempts(targets),
        files::attempts(),
        privileges::attempts(),
        limits::attempts(targets),
    ]
    .into_iter()
    .flat_map(|family| family.attempts)
    .collect()
}

/// The program `prove`; its answer is the exit code.
pub(crate) fn run() -> u8 {
    let mut text = String::new();
    let order = match io::stdin().lock().take(LARGEST).read_to_string(&mut text) {
        Ok(_) => serde_json::from_str::<Order>(&text).map_err(io::Error::other),
        Err(error) => Err(error),
    };
    let answer = match order {
        Ok(Order::Alone { attempt }) => serde_json::to_string(&privileges::alone(&attempt)),
        Ok(Order::Attempts(targets)) => {
            // The agent has the same user: it should not write the answers.
            crate::pid1::hide_memory();
            serde_json::to_string(&findings(&targets))
        }
        Err(error) => {
            crate::log::error("expected an order on standard input", &[("error", &error)]);
            return exit::DATA;
        }
    };
    let written = answer.map_err(io::Error::other).and_then(|answer| {
        let mut out = io::stdout().lock();
        out.write_all(answer.as_bytes())?;
        out.flush()
    });
    if written.is_err() { exit::UNAVAILABLE } else { 0 }
}

/// Makes every attempt.
fn findings(targets: &Targets) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let all = attempts(targets).into_iter().map(|Attempt { id, family, what, expected, run }| {
        let done = move |out| Finding::new(&id, family, &what, expected, out);
        match run {
            // Made while the list is: no thread is started yet.
            Run::Now(now) => Made::Done(done(now())),
            Run::Later(later) => Made::Waits(Box::pin(async move {
                let silent = || Outcome::Refused("no answer".to_owned());
                done(timeout(PATIENCE, later).await.unwrap_or_else(|_| silent()))
            })),
            Run::Patient(later) => Made::Waits(Box::pin(async move {
                let silent = || Outcome::NotTried("no answer".to_owned());
                done(timeout(LONG, later).await.unwrap_or_else(|_| silent()))
            })),
        }
    });
    let all: Vec<Made> = all.collect();
    let found = match runtime {
        Ok(runtime) => runtime.block_on(async {
            answers((targets.egress, EGRESS_PORT).into()).await;
            join_all(all.into_iter().map(Made::end)).await
        }),
        // Without an event loop nothing of the network was tried, which is no wall that held.
        Err(_) => all
            .into_iter()
            .filter_map(|made| match made {
                Made::Done(finding) => Some(finding),
                Made::Waits(_) => None,
            })
            .collect(),
    };
    if !targets.own_kernel {
        return found;
    }
    found.into_iter().map(Finding::under_own_kernel).collect()
}

enum Made {
    Done(Finding),
    Waits(Pin<Box<dyn Future<Output = Finding>>>),
}

impl Made {
    async fn end(self) -> Finding {
        match self {
            Self::Done(finding) => finding,
            Self::Waits(waits) => waits.await,
        }
    }
}

/// Waits until something answers, or not much longer.
async fn answers(address: SocketAddr) {
    let tried = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    // What does not come up is told by the attempts that should work.
    let _ = timeout(EGRESS, tried).await;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    pub(super) fn targets() -> Targets {
        let address = |last| Ipv4Addr::new(127, 0, 0, last);
        Targets {
            nonce: "n0nce".into(),
            answer: "canary".into(),
            canary: 9,
            host: vec![address(1).into(), "::1".parse().unwrap()],
            others: vec![("db".into(), address(3))],
            resolvers: vec![address(4)],
            egress: address(5),
            egress_out: Some(address(6)),
            agent: address(7),
            sidecars: vec![("git-gate".into(), address(8), 9418)],
            granted: Some(Granted { host: "canary.test".into(), address: address(1) }),
            known: Some(Known { host: "canary.test".into(), tunnel: None }),
            refused: vec!["refused.invalid".into(), "dns.google".into()],
            git: Some(GitRemote {
                name: "web".into(),
                host: "git.test".into(),
                port: 22,
                branch: "agent/*".into(),
                routed: false,
            }),
            processes: Some(64),
            own_kernel: false,
        }
    }

    #[test]
    fn a_finding_holds_when_it_went_as_it_should() {
        use Expected::{Allowed as May, Refused as MayNot};
        use Outcome::{Allowed, NotTried, Refused};
        for (expected, outcome, tried, held) in [
            (MayNot, Refused("x".into()), true, true),
            (MayNot, Allowed("x".into()), true, false),
            (May, Refused("x".into()), true, false),
            (May, Allowed("x".into()), true, true),
            (May, NotTried("x".into()), false, true),
        ] {
            let found = Finding::new("id", "family", "what", expected, outcome);
            assert_eq!((found.tried, found.held), (tried, held), "{found:?}");
        }
    }

    #[test]
    fn a_kernel_of_its_own_excuses_what_ends_there_and_nothing_else() {
        let allowed = |id: &str| {
            let out = Outcome::Allowed("made".into());
            Finding::new(id, "privileges", "what", Expected::Refused, out).under_own_kernel()
        };
        assert_eq!((allowed("unshare-user").held, allowed("unshare-user").tried), (true, false));
        assert!(!allowed("mount").held);
    }

    #[test]
    fn what_happened_has_a_bounded_length() {
        let long = Outcome::Allowed("é".repeat(10_000));
        let found = Finding::new("id", "family", "what", Expected::Allowed, long);
        assert_eq!(found.happened.chars().count(), LONGEST);
    }

    #[test]
    fn every_attempt_has_a_name_of_its_own_that_fits_into_a_url() {
        let all = attempts(&targets());
        assert!(all.len() >= 45, "{} attempts", all.len());
        let ids: BTreeSet<&str> = all.iter().map(|attempt| attempt.id.as_str()).collect();
        assert_eq!(ids.len(), all.len(), "a name is used twice");
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.:".contains(&b);
        assert!(ids.iter().all(|id| id.bytes().all(plain)), "{ids:?}");
    }

    #[test]
    fn every_family_that_refuses_over_the_network_has_a_twin_that_works() {
        let all = attempts(&targets());
        for family in ["network", "names", "proxy", "git"] {
            let twin = |a: &&Attempt| a.family == family && a.expected == Expected::Allowed;
            assert!(all.iter().any(|attempt| twin(&attempt)), "{family} has none");
        }
    }

    #[test]
    fn an_order_is_read_as_it_was_written() {
        let order = Order::Attempts(Box::new(targets()));
        let text = serde_json::to_string(&order).unwrap();
        let again: Order = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&again).unwrap(), text);
    }
}
