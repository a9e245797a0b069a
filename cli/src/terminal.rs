//! This process's terminal while somebody else's program has it, or a secret is typed: its size told
//! on, and its settings put back however this process ends. But for SIGKILL, which no process hears
//! of: a shell puts them back then, and else `stty sane` does.

use std::io::{self, IsTerminal as _, Write as _};
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, Once, mpsc};
use std::thread;

use bottle_executor::engine::console::Size;
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};
use tokio::signal::unix::{SignalKind, signal};

/// The settings to go back to, where a panic finds them too.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Whether the terminal shows its second screen.
static SECOND: AtomicBool = AtomicBool::new(false);

/// A terminal in raw mode: every byte typed is passed on, Ctrl-C among them.
#[derive(Debug)]
pub struct Raw(());

impl Raw {
    /// Makes standard input raw, if it is a terminal.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        keep(before);
        listen();
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

fn keep(settings: Termios) {
    if let Ok(mut kept) = BEFORE.lock() {
        *kept = Some(settings);
    }
}

/// Whether SIGINT and SIGQUIT end this process at once, as they would if nobody listened. Of a raw
/// terminal they come from somebody else: typed, they go to the program.
static INTERRUPTS_END: AtomicBool = AtomicBool::new(false);
/// The same for SIGHUP and SIGTERM.
static ALL_END: AtomicBool = AtomicBool::new(false);

/// Reads what is typed without showing it. Whatever ends this process meanwhile, be it Ctrl-C, puts
/// the terminal back first: rpassword 7.5 raises SIGINT while its settings are in force. `ask` asks.
pub fn read_hidden(ask: impl FnOnce()) -> io::Result<String> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        keep(tcgetattr(&stdin)?);
        listen();
        ALL_END.store(true, Ordering::SeqCst);
    }
    ask();
    let typed = rpassword::read_password();
    restore();
    if typed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::Interrupted) {
        // Ctrl-C, of which the listener may not have heard yet.
        end(130);
    }
    typed
}

fn end(code: i32) -> ! {
    restore();
    #[expect(clippy::exit, reason = "whoever asks or waits for a program does not come back")]
    process::exit(code)
}

/// From now on somebody else listens to signals.
pub fn leave_signals() {
    INTERRUPTS_END.store(false, Ordering::SeqCst);
    ALL_END.store(false, Ordering::SeqCst);
}

/// Has signals end this process with the terminal put back, on a thread of its own: one that asks
/// blocks until somebody types.
fn listen() {
    static LISTENER: Once = Once::new();
    INTERRUPTS_END.store(true, Ordering::SeqCst);
    LISTENER.call_once(|| {
        let (ready, listens) = mpsc::channel();
        thread::spawn(move || end_on_signals(&ready));
        // Gone without a word, nobody listens, and a signal ends this process all the same.
        let _ = listens.recv();
    });
}

fn end_on_signals(ready: &mpsc::Sender<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let kinds = [
            SignalKind::hangup(),
            SignalKind::interrupt(),
            SignalKind::quit(),
            SignalKind::terminate(),
        ];
        let [Ok(mut hung_up), Ok(mut interrupted), Ok(mut quit), Ok(mut terminated)] =
            kinds.map(signal)
        else {
            return;
        };
        // Whoever waits for it is there.
        let _ = ready.send(());
        loop {
            let (ends, code) = tokio::select! {
                _ = hung_up.recv() => (&ALL_END, 129),
                _ = interrupted.recv() => (&INTERRUPTS_END, 130),
                _ = quit.recv() => (&INTERRUPTS_END, 131),
                _ = terminated.recv() => (&ALL_END, 143),
            };
            if ends.load(Ordering::SeqCst) {
                end(code);
            }
        }
    });
}

/// The whole terminal, for pictures: its second screen (xterm's 1049), in raw mode, the cursor
/// hidden.
#[derive(Debug)]
pub struct Whole(());

impl Whole {
    /// Takes it. What was typed before is dropped: nobody saw yet what it would answer.
    pub fn enter() -> io::Result<Self> {
        let raw = Raw::enter()?.ok_or_else(|| io::Error::other("it is no terminal"))?;
        // Not asked for between keys: reading keys of a terminal that is gone never ends (crossterm
        // 0.29 reads on after an error).
        ALL_END.store(true, Ordering::SeqCst);
        tcflush(io::stdin(), QueueSelector::IFlush)?;
        SECOND.store(true, Ordering::SeqCst);
        let mut out = io::stdout();
        out.write_all(b"\x1b[?1049h\x1b[2J\x1b[?25l")?;
        out.flush()?;
        // From here on this one puts both back.
        std::mem::forget(raw);
        Ok(Self(()))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it was changed. Does not wait: it is called from a panic too.
pub fn restore() {
    if SECOND.swap(false, Ordering::SeqCst) {
        // Past the lock of standard output, which whoever panicked may hold; and there is nobody to
        // tell where the terminal is gone.
        let _ = rustix::io::write(io::stdout(), b"\x1b[0m\x1b[?25h\x1b[?1049l");
    }
    if let Ok(mut kept) = BEFORE.try_lock()
        && let Some(before) = kept.take()
    {
        // There is nobody to tell where the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &before);
    }
}

/// The terminal's size, if standard output is one.
pub fn size() -> Option<Size> {
    let size = tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some(Size { columns: size.ws_col, rows: size.ws_row })
}

/// Keys that are pressed one after another to leave a session without ending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    pressed: usize,
}

impl DetachKeys {
    /// Parses Docker's spelling: letters, or `ctrl-` and one of `a` to `z`, `@`, `[`, `\`, `]`, `^`,
    /// `_`, separated by commas. Empty means that there are none.
    pub fn parse(text: &str) -> Result<Self, String> {
        let key = |word: &str| {
            let lower = word.to_ascii_lowercase();
            let control = lower.strip_prefix("ctrl-").and_then(|rest| match rest.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [b'@'] => Some(0),
                [sign @ b'['..=b'_'] => Some(sign - b'@'),
                _ => None,
            });
            match (control, word.as_bytes()) {
                (Some(key), _) => Ok(key),
                (None, [key]) if key.is_ascii_graphic() => Ok(*key),
                _ => Err(format!(
                    "expected keys like `ctrl-p,ctrl-q`, found `{}`",
                    word.escape_debug()
                )),
            }
        };
        let words = text.split(',').filter(|word| !word.is_empty());
        Ok(Self { keys: words.map(key).collect::<Result<_, _>>()?, pressed: 0 })
    }

    /// No keys: nothing typed leaves.
    #[must_use]
    pub fn none() -> Self {
        Self { keys: Vec::new(), pressed: 0 }
    }

    /// What of the typed bytes goes on, and whether to leave. Keys of a beginning that comes to
    /// nothing go on with what came instead.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut on = Vec::with_capacity(typed.len() + self.pressed);
        for &byte in typed {
            if self.keys.is_empty() {
                on.push(byte);
                continue;
            }
            if byte != self.keys[self.pressed] {
                on.extend_from_slice(&self.keys[..self.pressed]);
                self.pressed = 0;
            }
            if byte != self.keys[self.pressed] {
                on.push(byte);
                continue;
            }
            self.pressed += 1;
            if self.pressed == self.keys.len() {
                self.pressed = 0;
                return (on, true);
            }
        }
        (on, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_spelled_as_docker_spells_them() {
        assert_eq!(DetachKeys::parse("ctrl-p,ctrl-q").unwrap().keys, [16, 17]);
        assert_eq!(DetachKeys::parse("ctrl-@,x,ctrl-\\").unwrap().keys, [0, b'x', 28]);
        assert!(DetachKeys::parse("").unwrap().keys.is_empty());
        for wrong in ["ctrl-", "ctrl-pp", "é", "up"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_only_begins_like_them_goes_on() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.filter(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"b\x10"), (b"\x10b".to_vec(), false));
        assert_eq!(keys.filter(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11after"), (Vec::new(), true));
        assert_eq!(
            DetachKeys::parse("").unwrap().filter(b"\x10\x11"),
            (b"\x10\x11".to_vec(), false)
        );
    }

    /// Run on a terminal of its own by the test below, with the program's own way to panic.
    #[test]
    fn panics_while_the_terminal_is_raw() {
        if std::env::var_os("BOTTLE_TEST_PANICS").is_none() {
            return;
        }
        crate::output::report_panics();
        let _raw = Raw::enter().unwrap().expect("a terminal");
        panic!("as a bug would");
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        let own = std::env::current_exe().unwrap();
        let line = format!(
            "stty -g; BOTTLE_TEST_PANICS=1 '{}' --exact --nocapture \
             terminal::tests::panics_while_the_terminal_is_raw; echo code=$?; stty -g",
            own.display()
        );
        let mut script = process::Command::new("script");
        let output = script.args(["-qec", &line, "/dev/null"]).output().unwrap();
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("code=70") && shown.contains("as a bug would"), "{shown}");
        let settings: Vec<&str> =
            shown.lines().map(str::trim).filter(|line| line.matches(':').count() > 20).collect();
        assert!(settings.len() == 2 && settings[0] == settings[1], "{shown}");
    }
}
