//! This process's terminal while somebody else's program has it: raw, its size told on, and put
//! back however this process ends.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bottle_executor::engine::console::Size;
use rustix::termios::{
    OptionalActions, QueueSelector, Termios, tcflush, tcgetattr, tcgetwinsize, tcsetattr,
};

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
        if let Ok(mut kept) = BEFORE.lock() {
            *kept = Some(before);
        }
        tcsetattr(&stdin, OptionalActions::Drain, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore();
    }
}

/// The whole terminal, for pictures: its second screen (xterm's 1049), in raw mode, the cursor
/// hidden.
#[derive(Debug)]
pub struct Whole(());

impl Whole {
    /// Takes it. What was typed before is dropped: nobody saw yet what it would answer.
    pub fn enter() -> io::Result<Self> {
        let raw = Raw::enter()?.ok_or_else(|| io::Error::other("it is no terminal"))?;
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
}
