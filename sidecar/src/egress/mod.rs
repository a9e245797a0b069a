//! Egress: the only way out of a session.
//!
//! A forward proxy that serves the agent and the git gate and nobody else. What is not in
//! `routes.json` is refused, names are resolved here, and the address that was checked is the one
//! that is dialled.
//!
//! This version does not look inside TLS. It therefore refuses what it could only honour by looking:
//! a route that injects a credential, and a tunnel to a route that restricts methods or paths. The
//! leak scan is not built yet.

mod decisions;
mod dial;
mod dns;
mod guard;
mod proxy;
mod rules;
mod settings;
mod tunnel;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bottle_planner::sidecar::EGRESS_PORT;
use bottle_planner::words::{EnvName, SecretName};
use tokio::net::TcpListener;

use crate::pid1::{self, Asked, Signals};
use crate::receive::Inbox;
use crate::secret::{Delivery, Refused, refuse_unknown};
use crate::{Places, State, exit, log};

use decisions::DecisionLog;
use dial::Dialer;
use guard::Guard;
use settings::{Setup, Table};

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
}

impl EgressError {
    fn code(&self) -> u8 {
        match self {
            Self::Settings(_) => exit::CONFIG,
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

    let decisions = Arc::new(
        DecisionLog::open(&places.output)
            .map_err(|source| EgressError::Write { what: "the decision log".into(), source })?,
    );
    let guard = Guard::new(&places.resolv_conf, places.dns_port).map_err(EgressError::Resolver)?;
    let address = SocketAddr::from((setup.settings.listen, EGRESS_PORT));
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| EgressError::Bind { what: address.to_string(), source })?;
    let socket = places.socket();
    let inbox = Inbox::bind(&socket)
        .map_err(|source| EgressError::Bind { what: socket.display().to_string(), source })?;
    let held = Mutex::new(Delivery::new());
    tokio::spawn(inbox.serve(move |delivery| take(&held, delivery)));

    let names = dns::Names {
        settings: setup.settings.clone(),
        table: table.clone(),
        decisions: Arc::clone(&decisions),
    };
    let dns_address = SocketAddr::from((setup.settings.listen, places.dns_port));
    if let Err(error) = dns::spawn(dns_address, names).await {
        log::error("names are not served", &[("address", &dns_address), ("error", &error)]);
    }
    let dialer = Dialer::new(guard, &setup);
    tokio::spawn(proxy::serve(
        listener,
        proxy::Proxy::new(setup.settings, table, dialer, decisions),
    ));

    let mut state = State { loaded: Some(digest), error: None };
    write_state(places, &state)?;
    log::info("egress is ready", &[("address", &address)]);
    loop {
        match signals.next().await {
            Asked::End => return Ok(()),
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

/// Takes credentials to inject (`inject:<secret>`) and values to look for (`scan:<variable>`).
fn take(held: &Mutex<Delivery>, delivery: Delivery) -> Result<(), Refused> {
    refuse_unknown(&delivery, |key| match key.split_once(':') {
        Some(("inject", name)) => SecretName::new(name).is_ok(),
        Some(("scan", name)) => EnvName::new(name).is_ok() || SecretName::new(name).is_ok(),
        _ => false,
    })?;
    let names: Vec<&str> = delivery.keys().map(String::as_str).collect();
    log::info("secrets were delivered", &[("names", &names.join(", "))]);
    held.lock().unwrap_or_else(PoisonError::into_inner).extend(delivery);
    Ok(())
}
