//! Supervise: in this version it holds the place and the port.
//!
//! It checks its settings and answers every request with 501 and a sentence that says why.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::sidecar::{SUPERVISE_PORT, SuperviseSettings};
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::pid1::{Asked, Signals};
use crate::settings::{Loaded, SettingsError, load};
use crate::{Places, State, exit, log};

const ANSWER: &str = r#"{"error":"this version of bottle's supervise takes no requests yet"}"#;
/// How long a client may take for a head.
const PATIENCE: Duration = Duration::from_secs(30);
/// The most bytes of a request line and its headers.
const LARGEST_HEAD: usize = 64 << 10;
/// Connections at once; more are closed.
const CONNECTIONS: usize = 64;

/// Runs supervise until it is asked to end.
pub(crate) async fn run(places: &Places) -> u8 {
    let settings = match read(&places.input) {
        Ok(settings) => settings,
        Err(error) => {
            let state = State { loaded: None, error: Some(error.to_string()) };
            // The log says the same; without a folder to write to that is all there is.
            let _ = state.write(&places.output);
            log::error("supervise does not run", &[("error", &error)]);
            return exit::CONFIG;
        }
    };
    match serve(places, settings).await {
        Ok(()) => 0,
        Err(error) => {
            log::error("supervise does not run", &[("error", &error)]);
            exit::UNAVAILABLE
        }
    }
}

fn read(input: &Path) -> Result<Loaded<SuperviseSettings>, SettingsError> {
    let path = input.join("supervise.json");
    let loaded = load::<SuperviseSettings>(&path)?;
    if loaded.value.timeout_seconds == 0 {
        let reason = "timeout_seconds cannot be zero".into();
        return Err(SettingsError::Value { path, reason });
    }
    Ok(loaded)
}

async fn serve(places: &Places, first: Loaded<SuperviseSettings>) -> io::Result<()> {
    let mut signals = Signals::new()?;
    let address = SocketAddr::from((first.value.listen, SUPERVISE_PORT));
    tokio::spawn(accept(TcpListener::bind(address).await?));

    let mut state = State { loaded: Some(first.digest), error: None };
    state.write(&places.output)?;
    log::info("supervise is ready", &[("address", &address)]);
    loop {
        match signals.next().await {
            Asked::End => return Ok(()),
            Asked::Reload => match read(&places.input) {
                Ok(loaded) => state = State { loaded: Some(loaded.digest), error: None },
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

async fn accept(listener: TcpListener) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                tokio::spawn(async move {
                    answer(stream, from).await;
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

async fn answer(stream: TcpStream, from: SocketAddr) {
    let service = service_fn(move |request: Request<Incoming>| async move {
        let path: String = request.uri().path().chars().take(200).collect();
        log::info(
            "not implemented",
            &[("client", &from.ip()), ("method", request.method()), ("path", &path)],
        );
        let mut response = Response::new(Full::new(Bytes::from_static(ANSWER.as_bytes())));
        *response.status_mut() = StatusCode::NOT_IMPLEMENTED;
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        Ok::<_, Infallible>(response)
    });
    // How a connection broke is the client's affair.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}
