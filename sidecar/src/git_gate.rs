//! The git gate: in this version it holds the place and the port.
//!
//! It checks its settings, takes its keys, and tells every git client that pushes and fetches come
//! with a later version.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bottle_planner::policy::GitCredential;
use bottle_planner::sidecar::{GIT_GATE_PORT, GateSettings};
use bottle_planner::words::Name;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use crate::pid1::{self, Asked, Signals};
use crate::receive::Inbox;
use crate::secret::{Delivery, refuse_unknown};
use crate::settings::{Loaded, SettingsError, load};
use crate::{Places, State, exit, log};

const ANSWER: &str = "bottle: this version of the git gate serves neither fetches nor pushes yet";
/// How long a client may take for its request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at once; more are closed.
const CONNECTIONS: usize = 64;

/// Runs the gate until it is asked to end.
pub(crate) async fn run(places: &Places) -> u8 {
    pid1::hide_memory();
    let settings = match read(&places.input) {
        Ok(settings) => settings,
        Err(error) => {
            let state = State { loaded: None, error: Some(error.to_string()) };
            // The log says the same; without a folder to write to that is all there is.
            let _ = state.write(&places.output);
            log::error("the git gate does not run", &[("error", &error)]);
            return exit::CONFIG;
        }
    };
    match serve(places, settings).await {
        Ok(()) => 0,
        Err(error) => {
            log::error("the git gate does not run", &[("error", &error)]);
            exit::UNAVAILABLE
        }
    }
}

fn read(input: &Path) -> Result<Loaded<GateSettings>, SettingsError> {
    let path = input.join("gate.json");
    let loaded = load::<GateSettings>(&path)?;
    if loaded.value.remotes.is_empty() {
        return Err(SettingsError::Value { path, reason: "no remote to serve".into() });
    }
    Ok(loaded)
}

async fn serve(places: &Places, first: Loaded<GateSettings>) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let address = SocketAddr::from((first.value.listen, GIT_GATE_PORT));
    let listener = TcpListener::bind(address).await?;
    let inbox = Inbox::bind(&places.socket())?;
    let settings = Arc::new(Mutex::new(first.value));
    tokio::spawn(inbox.serve({
        let settings = Arc::clone(&settings);
        let mut held = Delivery::new();
        move |delivery| {
            {
                let settings = settings.lock().unwrap_or_else(PoisonError::into_inner);
                refuse_unknown(&delivery, |key| takes(&settings, key))?;
            }
            let names: Vec<&str> = delivery.keys().map(String::as_str).collect();
            log::info("keys were delivered", &[("names", &names.join(", "))]);
            held.extend(delivery);
            Ok(())
        }
    }));
    tokio::spawn(accept(listener));

    let mut state = State { loaded: Some(first.digest), error: None };
    state.write(&places.output)?;
    log::info("the git gate is ready", &[("address", &address)]);
    loop {
        match signals.next().await {
            Asked::End => return Ok(()),
            Asked::Reload => match read(&places.input) {
                Ok(loaded) => {
                    state = State { loaded: Some(loaded.digest), error: None };
                    *settings.lock().unwrap_or_else(PoisonError::into_inner) = loaded.value;
                }
                Err(error) => {
                    log::error("the old settings stay in force", &[("error", &error)]);
                    state.error = Some(error.to_string());
                }
            },
        }
        if let Err(error) = state.write(&places.output) {
            log::error("the state is not up to date", &[("error", &error)]);
        }
    }
}

/// Keys are delivered as `git:<remote>`, to remotes that have one.
fn takes(settings: &GateSettings, key: &str) -> bool {
    key.strip_prefix("git:")
        .and_then(|name| Name::new(name).ok())
        .and_then(|name| settings.remotes.get(&name))
        .is_some_and(|remote| remote.credential != GitCredential::None)
}

async fn accept(listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                tokio::spawn(async move {
                    // Whoever waits for the port to open asks nothing, and is not logged.
                    if let Ok(Ok(asked)) = timeout(PATIENCE, answer(stream)).await {
                        log::info("refused", &[("client", &from.ip()), ("asked", &asked)]);
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn("a connection was not accepted", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Reads the request of gitprotocol-pack(5) and answers with its error line.
async fn answer(mut stream: TcpStream) -> io::Result<String> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length =
        std::str::from_utf8(&length).ok().and_then(|hex| usize::from_str_radix(hex, 16).ok());
    let length = length.filter(|n| (4..=65520).contains(n)).ok_or(io::ErrorKind::InvalidData)?;
    let mut request = vec![0; length - 4];
    stream.read_exact(&mut request).await?;
    stream.write_all(pkt_line(&format!("ERR {ANSWER}")).as_bytes()).await?;
    stream.shutdown().await?;
    let asked = request.split(|&b| b == 0).next().unwrap_or_default();
    Ok(String::from_utf8_lossy(asked).chars().take(200).collect())
}

fn pkt_line(text: &str) -> String {
    format!("{:04x}{text}", text.len() + 4)
}
