//! The connection to an ssh upstream, opened before anybody asks and kept open, so that neither a
//! fetch nor a push waits for a handshake.
//!
//! It is one `ssh` with a control socket (ssh_config(5), `ControlMaster`), over which git's own runs
//! of `ssh` go. Nothing depends on it: where it cannot be had, each run connects for itself and says
//! what is wrong.

use std::future::pending;
use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use bottle_planner::policy::Upstream;
use bottle_planner::words::Name;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::git::Git;
use super::layout::Layout;
use crate::log;

/// A connection that nobody has used for this long is closed: a session left alone overnight holds
/// none, and one in which somebody thinks or reviews does.
const IDLE: Duration = Duration::from_secs(4 * 60 * 60);
/// How long a connection may take; ssh itself gives up before.
const CONNECT: Duration = Duration::from_secs(30);
/// Between two tries that nobody asked for, the first and the last.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(5 * 60));
/// Nobody waits longer for the socket to be looked at again.
const LOOK: Duration = Duration::from_millis(2);

/// One remote's connection, as others see it.
#[derive(Debug, Clone)]
pub(super) struct Kept(mpsc::Sender<Asked>);

#[derive(Debug)]
enum Asked {
    /// Somebody is about to use it, and waits until it is open or cannot be had.
    Use(oneshot::Sender<()>),
    /// There is another key: what was opened with the one before is closed.
    Again,
}

impl Kept {
    /// Keeps a connection from the first [`Kept::again`] on.
    pub(super) fn new(layout: &Layout, git: &Git, name: &Name, upstream: &Upstream) -> Self {
        let (kept, asked) = mpsc::channel(64);
        let keeper = Keeper {
            name: name.clone(),
            socket: layout.connection(name),
            config: layout.kept_config(name),
            address: format!("{}@{}", upstream.user, upstream.host),
            git: git.clone(),
            child: None,
            used: None,
            opened: Instant::now(),
            pause: RETRY.0,
        };
        tokio::spawn(keeper.keep(asked));
        Self(kept)
    }

    /// Returns once the connection is open, or cannot be had.
    pub(super) async fn ready(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Asked::Use(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Opens it with the key that is there now.
    pub(super) fn again(&self) {
        // A full queue means that it is about to be opened; the old one ends with its agent's key.
        let _ = self.0.try_send(Asked::Again);
    }
}

/// Whoever opens and closes it.
struct Keeper {
    name: Name,
    socket: PathBuf,
    config: PathBuf,
    address: String,
    git: Git,
    child: Option<Child>,
    /// When it was last asked for; before that, none is opened.
    used: Option<Instant>,
    opened: Instant,
    /// Until it is opened anew without being asked for.
    pause: Duration,
}

impl Keeper {
    async fn keep(mut self, mut asked: mpsc::Receiver<Asked>) {
        loop {
            let idle = self.used.map(|used| used + IDLE);
            let wanted = idle.is_some_and(|idle| Instant::now() < idle);
            let retry = self.opened + self.pause;
            tokio::select! {
                asked = asked.recv() => match asked {
                    None => return,
                    Some(Asked::Again) => {
                        self.close().await;
                        self.used = Some(Instant::now());
                        self.open().await;
                    }
                    Some(Asked::Use(done)) => {
                        // Before the first key there is nothing to open it with.
                        if self.used.is_some() {
                            self.used = Some(Instant::now());
                            if self.child.is_none() {
                                self.open().await;
                            }
                        }
                        let _ = done.send(());
                    }
                },
                _ = ended(&mut self.child) => {
                    self.child = None;
                    // One that held for a while was not refused.
                    if self.opened.elapsed() > RETRY.1 {
                        self.pause = RETRY.0;
                        self.opened = Instant::now();
                    }
                }
                () = sleep_until(retry), if self.child.is_none() && wanted => {
                    self.pause = (self.pause * 2).min(RETRY.1);
                    self.open().await;
                }
                () = until(idle), if self.child.is_some() => self.close().await,
            }
        }
    }

    async fn open(&mut self) {
        self.opened = Instant::now();
        match self.connect().await {
            Ok(child) => self.child = Some(child),
            Err(error) => {
                log::warn("no connection is kept", &[("remote", &self.name), ("why", &error)]);
            }
        }
    }

    /// Starts ssh, and waits until it takes others in.
    async fn connect(&self) -> io::Result<Child> {
        remove(&self.socket)?;
        let mut ssh = self.git.environment("ssh");
        ssh.arg("-F").arg(&self.config).args(["-N", "--"]);
        ssh.arg(&self.address).stdin(Stdio::null());
        let mut child = Command::from(ssh).kill_on_drop(true).spawn()?;
        let bound = Instant::now() + CONNECT;
        while UnixStream::connect(&self.socket).await.is_err() {
            match timeout_at(bound.min(Instant::now() + LOOK), child.wait()).await {
                Ok(ended) => return Err(io::Error::other(format!("ssh ended: {}", ended?))),
                Err(_) if Instant::now() < bound => {}
                Err(_) => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(child)
    }

    async fn close(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
        // It has no chance to do that itself.
        let _ = remove(&self.socket);
    }
}

async fn ended(child: &mut Option<Child>) -> io::Result<ExitStatus> {
    match child {
        Some(child) => child.wait().await,
        None => pending().await,
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

fn remove(socket: &PathBuf) -> io::Result<()> {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
