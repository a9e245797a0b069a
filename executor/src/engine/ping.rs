//! Which API an engine speaks, from the headers of `GET /_ping`.
//!
//! `GET /version` says it too, but Docker runs two programs (`runc` and `docker-init`) to answer
//! that, which takes longer than all the rest of a plan. bollard's own `ping` keeps the body alone.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// The most that is read of an answer, in bytes.
const MAX_HEAD: u64 = 16 << 10;
const REQUEST: &[u8] =
    b"GET /_ping HTTP/1.1\r\nHost: engine\r\nUser-Agent: bottle\r\nConnection: close\r\n\r\n";

/// What an engine says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ping {
    /// The newest API it speaks.
    pub(super) api: (u32, u32),
    /// Whether it is Podman.
    pub(super) podman: bool,
}

/// Asks over a fresh connection. `None` where the answer does not say.
pub(super) async fn ping(
    mut engine: impl AsyncRead + AsyncWrite + Unpin,
) -> io::Result<Option<Ping>> {
    engine.write_all(REQUEST).await?;
    let mut answer = Vec::new();
    let mut engine = engine.take(MAX_HEAD);
    while !answer.windows(4).any(|end| end == b"\r\n\r\n") {
        if engine.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    Ok(parse(&String::from_utf8_lossy(&answer)))
}

fn parse(answer: &str) -> Option<Ping> {
    let mut lines = answer.lines();
    if lines.next()?.split(' ').nth(1)? != "200" {
        return None;
    }
    let (mut api, mut podman) = (None, false);
    for (name, value) in lines.take_while(|l| !l.is_empty()).filter_map(|l| l.split_once(':')) {
        match name.to_ascii_lowercase().as_str() {
            "api-version" => api = super::docker::parse_api(value.trim()),
            "libpod-api-version" => podman = true,
            _ => {}
        }
    }
    Some(Ping { api: api?, podman })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_engines_answer() {
        let docker = "HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nServer: Docker/20.10\r\n\r\nOK";
        assert_eq!(parse(docker), Some(Ping { api: (1, 41), podman: false }));
        let podman = "HTTP/1.1 200 OK\r\nAPI-Version: 1.41\r\nLibpod-API-Version: 4.3.1\r\n\r\n";
        assert_eq!(parse(podman), Some(Ping { api: (1, 41), podman: true }));
        for other in ["", "HTTP/1.1 200 OK\r\n\r\nApi-Version: 1.41", "HTTP/1.1 500\r\n\r\n"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[tokio::test]
    async fn an_answer_in_pieces() {
        let (near, mut far) = tokio::io::duplex(64);
        let engine = async {
            let mut request = vec![0; REQUEST.len()];
            far.read_exact(&mut request).await.expect("a request");
            for piece in ["HTTP/1.1 200 OK\r\nApi-", "Version: 1.44\r\n", "\r\n"] {
                far.write_all(piece.as_bytes()).await.expect("taken");
                tokio::task::yield_now().await;
            }
        };
        let (found, ()) = futures_util::join!(ping(near), engine);
        assert_eq!(found.expect("an answer"), Some(Ping { api: (1, 44), podman: false }));
    }
}
