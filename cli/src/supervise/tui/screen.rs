//! The terminal's second screen, drawn on and left again.
//!
//! The one place beside `output.rs` that writes to standard output: a picture is neither data nor
//! talk, and ratatui has to own what it compares with the picture before.

use std::io::{self, Stdout, Write as _};

use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

use crate::terminal::Whole;

/// The screen. However this ends, what was there before is put back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
    whole: Option<Whole>,
}

impl Screen {
    /// Takes the whole terminal.
    pub fn enter() -> io::Result<Self> {
        let whole = Some(Whole::enter()?);
        Ok(Self { terminal: Terminal::new(CrosstermBackend::new(io::stdout()))?, whole })
    }

    /// Draws one picture.
    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// Rings the terminal's bell.
    pub fn ring(&mut self) -> io::Result<()> {
        let mut out = io::stdout();
        out.write_all(b"\x07")?;
        out.flush()
    }

    /// Does something on the ordinary screen, which may print there and ask.
    pub fn aside<T>(&mut self, work: impl FnOnce() -> T) -> io::Result<T> {
        self.whole = None;
        let done = work();
        // A new one, which takes nothing of the picture before for granted.
        *self = Self::enter()?;
        Ok(done)
    }
}
