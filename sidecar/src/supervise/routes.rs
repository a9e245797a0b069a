//! The routes in force, as egress shows them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// The most bytes of an answer.
const LARGEST: usize = 4 << 20;
/// How long egress may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks egress. It holds no values of secrets and no names of them.
pub(super) async fn in_force(egress: SocketAddr) -> io::Result<Value> {
    match timeout(PATIENCE, ask(egress)).await {
        Ok(answer) => answer,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}

async fn ask(egress: SocketAddr) -> io::Result<Value> {
    let stream = TokioIo::new(TcpStream::connect(egress).await?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(io::Error::other)?;
    let connection = tokio::spawn(connection);
    let request = Request::get("http://egress.local/routes")
        .header("host", "egress.local")
        .body(Empty::<Bytes>::new())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST).collect().await;
    connection.abort();
    if status != StatusCode::OK {
        return Err(io::Error::other(format!("egress answered {status}")));
    }
    Ok(serde_json::from_slice(&body.map_err(io::Error::other)?.to_bytes())?)
}
