//! What comes in on standard input, for as long as somebody wants it and not a byte longer: what is
//! typed after that belongs to the next question.

use std::io;
use std::os::fd::OwnedFd;
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::sync::mpsc;

/// How much is taken at once, in bytes.
const PIECE: usize = 4096;

/// A reader of standard input. A read that blocks could not be given up, so a thread waits for
/// input and for the end of this at the same time.
pub struct Typed {
    from: mpsc::Receiver<Vec<u8>>,
    /// Closed, it ends the thread.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Typed {
    /// Begins to read.
    pub fn begin() -> io::Result<Self> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let (to, from) = mpsc::channel(1);
        let thread = std::thread::Builder::new()
            .name("typed".to_owned())
            .spawn(move || read(&stopped, &to))?;
        Ok(Self { from, stop: Some(stop), thread: Some(thread) })
    }

    /// The next bytes; `None` at the end of input.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        self.from.recv().await
    }
}

impl Drop for Typed {
    fn drop(&mut self) {
        self.from.close();
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It has nothing to say but that it ended.
            let _ = thread.join();
        }
    }
}

fn read(stopped: &OwnedFd, to: &mpsc::Sender<Vec<u8>>) {
    let stdin = io::stdin();
    loop {
        let mut fds = [PollFd::new(&stdin, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        let mut bytes = vec![0; PIECE];
        match rustix::io::read(&stdin, &mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                bytes.truncate(length);
                if to.blocking_send(bytes).is_err() {
                    return;
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => return,
        }
    }
}
