//! Handing secrets over: `receive` reads them from its standard input and gives them to the role
//! of its container through a socket only their user can open.
//!
//! On the socket the payload is followed by the end of the stream; the answer is one line, `ok` or
//! the reason of a refusal.

use std::io::{self, IsTerminal as _, Read, Write as _};
use std::net::Shutdown;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::fs::Mode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixListener;
use zeroize::Zeroizing;

use crate::secret::{Delivery, Refused, parse};
use crate::{Places, exit, log};

/// The most bytes one delivery has.
const LARGEST: usize = 1 << 20;
/// How long the two ends wait for each other.
const PATIENCE: Duration = Duration::from_secs(10);
const ACCEPTED: &str = "ok";

/// The program `receive`; its answer is the exit code.
pub(crate) fn run(places: &Places) -> u8 {
    if io::stdin().is_terminal() {
        log::error("standard input is a terminal; secrets are sent through a pipe", &[]);
        return exit::USAGE;
    }
    let payload = match read_bounded(io::stdin().lock()) {
        Ok(Some(payload)) => payload,
        Ok(None) => {
            log::error("a delivery is at most 1 MiB", &[]);
            return exit::DATA;
        }
        Err(error) => {
            log::error("standard input cannot be read", &[("error", &error)]);
            return exit::DATA;
        }
    };
    match hand_over(&places.socket(), &payload) {
        Ok(answer) if answer == ACCEPTED => 0,
        Ok(answer) if answer.is_empty() => {
            log::error("the role ended before it answered", &[]);
            exit::TEMPORARY
        }
        Ok(reason) => {
            log::error("the delivery was refused", &[("reason", &reason)]);
            exit::DATA
        }
        Err(error) => {
            log::error("the role takes no delivery yet", &[("error", &error)]);
            exit::TEMPORARY
        }
    }
}

/// Reads to the end without ever moving the buffer: a move would leave a copy behind.
fn read_bounded(from: impl Read) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut payload = Zeroizing::new(Vec::with_capacity(LARGEST + 2));
    let mut from = from.take(LARGEST as u64 + 1);
    let mut piece = Zeroizing::new([0; 4096]);
    loop {
        let n = match from.read(piece.as_mut_slice()) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        payload.extend_from_slice(&piece[..n]);
    }
    Ok((payload.len() <= LARGEST).then_some(payload))
}

fn hand_over(socket: &Path, payload: &[u8]) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(payload)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    Ok(answer.trim_end().to_owned())
}

/// The role's end of the socket.
pub(crate) struct Inbox {
    listener: UnixListener,
}

impl Inbox {
    /// Creates the socket with mode 0600, in place of one an earlier run left.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let before = rustix::process::umask(Mode::RWXG | Mode::RWXO);
        let listener = UnixListener::bind(path);
        rustix::process::umask(before);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener: listener? })
    }

    /// Takes deliveries for as long as it is polled; `take` keeps one or refuses it whole.
    pub(crate) async fn serve(self, mut take: impl FnMut(Delivery) -> Result<(), Refused>) {
        loop {
            let mut stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    log::warn("a delivery could not be accepted", &[("error", &error)]);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let exchange = async {
                let mut payload = Zeroizing::new(vec![0; LARGEST + 1]);
                let mut length = 0;
                while length < payload.len() {
                    match stream.read(&mut payload[length..]).await? {
                        0 => break,
                        n => length += n,
                    }
                }
                let taken = if length > LARGEST {
                    Err(Refused("a delivery is at most 1 MiB".into()))
                } else {
                    parse(&payload[..length]).and_then(&mut take)
                };
                let answer = match &taken {
                    Ok(()) => ACCEPTED.to_owned(),
                    Err(reason) => reason.to_string(),
                };
                stream.write_all(answer.as_bytes()).await?;
                stream.shutdown().await
            };
            match tokio::time::timeout(PATIENCE, exchange).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => log::warn("a delivery broke off", &[("error", &error)]),
                Err(_) => log::warn("a delivery was not finished in time", &[]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_mebibyte_is_read_and_a_byte_more_is_not() {
        let bytes = vec![b'x'; LARGEST + 1];
        assert_eq!(read_bounded(&bytes[1..]).unwrap().unwrap().len(), LARGEST);
        assert!(read_bounded(&bytes[..]).unwrap().is_none());
        assert_eq!(read_bounded(io::empty()).unwrap().unwrap().len(), 0);
    }
}
