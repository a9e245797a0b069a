//! Egress: the only way out of a session.
//!
//! A proxy that serves the agent and the git gate and nobody else. What is not in `routes.json` is
//! refused; names are resolved here, and the address that was checked is the one that is dialled.
//! TLS is ended under the session's own authority, so that every rule applies inside it; what the
//! agent sends is scanned for secrets; the credentials it never sees are put in after that, and
//! taken out again where a response repeats them.
//!
//! ```text
//! server ─ strict ─ proxy ─ rules ─ scan ─ vault ─ upstream ─ dial ─ guard
//! doors    framing  request decide  leaks  secrets  send      connect addresses
//! ```

mod authority;
mod body;
mod counters;
mod dial;
mod dns;
mod flow;
mod guard;
mod hello;
mod proxy;
mod rules;
mod scan;
mod server;
mod settings;
mod strict;
mod tunnel;
mod upstream;
mod vault;
mod way_on;
mod websocket;

#[cfg(fuzzing)]
pub(crate) mod fuzzing {
    //! Ways in for the fuzz targets.

    use std::path::Path;

    use super::rules::{NormalPath, Request, Target};
    use super::settings::{Client, Table};

    pub(crate) fn framing<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> crate::fuzzing::Reading {
        super::strict::read(pieces)
    }

    pub(crate) fn normal_path(path: &str) -> Option<String> {
        NormalPath::parse(path).ok().map(|path| path.as_str().to_owned())
    }

    pub(crate) fn routes(text: &[u8], host: &str, path: &str) -> bool {
        let Ok(table) = Table::parse(Path::new("routes.json"), text, None) else { return false };
        if let Ok(target) = Target::parse(host, Some(443)) {
            let parsed = NormalPath::parse(path);
            let request = Request {
                target: &target,
                method: "GET",
                path: parsed.as_ref().map_err(|fault| *fault),
                query: None,
                overrides_method: false,
            };
            // Only the end of it matters here: what is decided has tests of its own.
            let _ = (table.decide_request(&request), table.decide_tunnel(Client::Gate, &target));
        }
        true
    }
}

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bottle_detector::SHORTEST;
use bottle_planner::sidecar::EGRESS_PORT;
use bottle_planner::words::{EnvName, SecretName};

use crate::decisions::DecisionLog;
use crate::leak_rules::leak_rules;
use crate::pid1::{self, Asked, Signals};
use crate::receive::Inbox;
use crate::secret::{Delivery, Refused, refuse_unknown};
use crate::{Places, State, exit, log};

use authority::Authority;
use counters::Counters;
use dial::Dialer;
use guard::Guard;
use proxy::Shared;
use server::Door;
use settings::{Setup, Table};
use upstream::Upstreams;
use vault::Vault;

/// Between two looks for connections that were idle for too long.
const SWEEP: Duration = Duration::from_secs(15);

/// Why egress does not run.
#[derive(Debug, thiserror::Error)]
enum EgressError {
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    #[error("{what} cannot be listened on: {source}")]
    Bind { what: String, source: io::Error },
    #[error("{what} cannot be written: {source}")]
    Write { what: String, source: io::Error },
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
    #[error("the resolver cannot be set up: {0}")]
    Resolver(String),
    #[error(transparent)]
    Authority(#[from] authority::AuthorityError),
    #[error(transparent)]
    Rules(#[from] crate::leak_rules::LeakRulesError),
    #[error("upstream servers cannot be verified: {0}")]
    Trust(String),
}

impl EgressError {
    fn code(&self) -> u8 {
        match self {
            Self::Settings(_) | Self::Authority(_) | Self::Rules(_) | Self::Trust(_) => {
                exit::CONFIG
            }
            Self::Bind { .. } | Self::Signals(_) | Self::Resolver(_) => exit::UNAVAILABLE,
            Self::Write { .. } => exit::CANNOT_CREATE,
        }
    }
}

/// Runs egress until it is asked to end.
pub(crate) async fn run(places: &Places) -> u8 {
    match serve(places).await {
        Ok(()) => 0,
        Err(error) => {
            log::error("egress does not run", &[("error", &error)]);
            error.code()
        }
    }
}

async fn serve(places: &Places) -> Result<(), EgressError> {
    pid1::hide_memory();
    let mut signals = Signals::new().map_err(EgressError::Signals)?;
    let setup = Setup::load(&places.input)?;
    let table = match Table::load(&places.input) {
        Ok(table) => table,
        Err(error) => {
            write_state(places, &State { loaded: None, error: Some(error.to_string()) })?;
            return Err(error.into());
        }
    };
    let digest = table.digest.clone();
    let (publish, table) = tokio::sync::watch::channel(Arc::new(table));
    let unwritten = |what: &str| {
        let what = what.to_owned();
        move |source| EgressError::Write { what, source }
    };
    let decisions =
        Arc::new(DecisionLog::open(&places.output).map_err(unwritten("the decision log"))?);
    let vault = Arc::new(Vault::new(leak_rules(&places.input)?));
    let guard = Guard::new(&places.resolv_conf, places.dns_port).map_err(EgressError::Resolver)?;
    let dialer = Dialer::new(guard, &setup);
    let upstreams = Upstreams::new(dialer, &places.input).map_err(EgressError::Trust)?;
    let shared = Arc::new(Shared {
        settings: setup.settings,
        table,
        upstreams: Arc::new(upstreams),
        authority: Authority::load(&places.input)?,
        vault: Arc::clone(&vault),
        decisions: Arc::clone(&decisions),
        counters: Arc::new(Counters::new(&places.output)),
        unpacking: tokio::sync::Semaphore::new(proxy::UNPACKING),
    });

    let socket = places.socket();
    let inbox = Inbox::bind(&socket)
        .map_err(|source| EgressError::Bind { what: socket.display().to_string(), source })?;
    tokio::spawn(inbox.serve(move |delivery| take(&vault, delivery)));
    open_doors(&shared, places).await?;
    tokio::spawn(Arc::clone(&decisions).keep_written());
    let counters = Arc::clone(&shared.counters);
    tokio::spawn(async move { counters.keep_written().await });
    let upstreams = Arc::clone(&shared.upstreams);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SWEEP).await;
            upstreams.sweep();
        }
    });

    let mut state = State { loaded: Some(digest), error: None };
    write_state(places, &state)?;
    log::info("egress is ready", &[("address", &shared.settings.listen)]);
    loop {
        match signals.next().await {
            Asked::End => {
                decisions.flush();
                return Ok(());
            }
            Asked::Reload => match Table::load(&places.input) {
                Ok(table) => {
                    log::info("routes reloaded", &[("digest", &table.digest)]);
                    state = State { loaded: Some(table.digest.clone()), error: None };
                    publish.send_replace(Arc::new(table));
                }
                Err(error) => {
                    log::error("the old routes stay in force", &[("error", &error)]);
                    state.error = Some(error.to_string());
                }
            },
        }
        if let Err(error) = write_state(places, &state) {
            log::error("the state is not up to date", &[("error", &error)]);
        }
    }
}

fn write_state(places: &Places, state: &State) -> Result<(), EgressError> {
    state
        .write(&places.output)
        .map_err(|source| EgressError::Write { what: "state.json".into(), source })
}

/// Listens at the proxy's port, which there must be, and where programs that know of no proxy
/// look: for names, and at ports 80 and 443. Without those the proxy still works.
async fn open_doors(shared: &Arc<Shared>, places: &Places) -> Result<(), EgressError> {
    let listen = shared.settings.listen;
    let names = SocketAddr::from((listen, places.dns_port));
    if let Err(error) = dns::spawn(names, dns::Names(Arc::clone(shared))).await {
        log::error("names are not served", &[("address", &names), ("error", &error)]);
    }
    let room = server::room();
    for (door, port) in [(Door::Proxy, EGRESS_PORT), (Door::Http, 80), (Door::Https, 443)] {
        let address = SocketAddr::from((listen, port));
        match server::bind(address).await {
            Ok(listener) => {
                tokio::spawn(server::serve(listener, door, Arc::clone(shared), Arc::clone(&room)));
            }
            Err(source) if door == Door::Proxy => {
                return Err(EgressError::Bind { what: address.to_string(), source });
            }
            Err(error) => {
                log::error("a port is not served", &[("address", &address), ("error", &error)]);
            }
        }
    }
    Ok(())
}

/// Takes credentials to inject (`inject:<secret>`) and values to look for (`scan:<name>`).
fn take(vault: &Vault, delivery: Delivery) -> Result<(), Refused> {
    refuse_unknown(&delivery, |key| match key.split_once(':') {
        Some(("inject", name)) => SecretName::new(name).is_ok(),
        Some(("scan", name)) => EnvName::new(name).is_ok() || SecretName::new(name).is_ok(),
        _ => false,
    })?;
    let names: Vec<String> = delivery.keys().cloned().collect();
    let short = vault.take(delivery);
    log::info("secrets were delivered", &[("names", &names.join(", "))]);
    if !short.is_empty() {
        let why = format!("under {SHORTEST} bytes, they would be found everywhere");
        log::warn("values are not looked for", &[("names", &short.join(", ")), ("why", &why)]);
    }
    Ok(())
}
