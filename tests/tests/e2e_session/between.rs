//! The engine behind a socket of the test's own, which sees what is asked and can go away.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bottle_tests::host::{ENGINE, until};

/// When an engine goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goes {
    /// The request does not reach it.
    Before,
    /// It hears the request, and its answer is lost.
    After,
}

/// A socket that leads to the engine.
pub struct Between {
    socket: PathBuf,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    gone: AtomicBool,
    asked: AtomicUsize,
    answered: AtomicUsize,
    /// Connections whose client may still say something.
    open: AtomicUsize,
}

/// The words in a request's first line at which the engine goes, and how.
type End = Option<(&'static str, Goes)>;

impl Between {
    /// Listens at `socket`, and goes away as `end` says.
    pub fn listen(socket: &Path, end: End) -> Self {
        let listener = UnixListener::bind(socket).expect("a socket");
        let state = Arc::new(State::default());
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                if !state.gone.load(Ordering::SeqCst) {
                    state.open.fetch_add(1, Ordering::SeqCst);
                    thread::spawn(move || {
                        carry(client, end, &state);
                        state.open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            }
        });
        Self { socket: socket.to_owned(), state }
    }

    /// What `DOCKER_HOST` says.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// Whether it went away.
    pub fn is_gone(&self) -> bool {
        self.state.gone.load(Ordering::SeqCst)
    }

    /// Waits until the engine has heard all that its clients said, who are gone, and has answered.
    pub fn settle(&self) {
        // Whoever came before this connection has been let in once it is answered.
        let mut last = UnixStream::connect(&self.socket).expect("it listens");
        last.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\n\r\n").expect("written");
        last.read_exact(&mut [0; 12]).expect("an answer");
        drop(last);
        let count = |counter: &AtomicUsize| counter.load(Ordering::SeqCst);
        until("the engine has answered everything", || {
            let State { open, asked, answered, .. } = &*self.state;
            count(open) == 0 && count(answered) >= count(asked)
        });
    }
}

/// Carries one connection. Errors of a broken connection are what this is about.
fn carry(mut client: UnixStream, end: End, state: &Arc<State>) {
    let path = ENGINE.strip_prefix("unix://").expect("a socket");
    let mut engine = UnixStream::connect(path).expect("the engine listens");
    let (from_engine, to_client) = (engine.try_clone(), client.try_clone());
    let (from_engine, to_client) = (from_engine.expect("cloned"), to_client.expect("cloned"));
    let shared = Arc::clone(state);
    thread::spawn(move || answers(from_engine, to_client, &shared));
    let mut bytes = [0; 65536];
    while let Ok(length @ 1..) = client.read(&mut bytes) {
        let text = String::from_utf8_lossy(&bytes[..length]);
        let head = text.lines().next().unwrap_or_default();
        let begins = head.ends_with(" HTTP/1.1");
        let last = end.filter(|(words, _)| begins && head.contains(words));
        if last.is_some() {
            state.gone.store(true, Ordering::SeqCst);
        }
        if state.gone.load(Ordering::SeqCst) && !matches!(last, Some((_, Goes::After))) {
            let _ = engine.shutdown(Shutdown::Both);
            break;
        }
        if begins {
            state.asked.fetch_add(1, Ordering::SeqCst);
        }
        if engine.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _ = client.shutdown(Shutdown::Both);
}

/// Carries what the engine says, to the end also when nobody listens any more.
fn answers(mut engine: UnixStream, mut client: UnixStream, state: &State) {
    let mut bytes = [0; 65536];
    while let Ok(length @ 1..) = engine.read(&mut bytes) {
        if bytes.starts_with(b"HTTP/1.1 ") {
            state.answered.fetch_add(1, Ordering::SeqCst);
        }
        if state.gone.load(Ordering::SeqCst) {
            let _ = client.shutdown(Shutdown::Both);
        }
        let _ = client.write_all(&bytes[..length]);
    }
    let _ = client.shutdown(Shutdown::Both);
}
