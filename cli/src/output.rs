//! Standard output and standard error: data goes to the one, talk to the other, and nothing else
//! in this crate writes to either.

use std::io::{self, ErrorKind, IsTerminal as _, Write};

use bottle_planner::escape::visible;
use bottle_planner::manifest::{Content, Diagnostic, Severity, Source};

use crate::env::Env;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::terminal;

/// The most that one diagnostic repeats of a line of source, in characters.
const EXCERPT: usize = 120;

/// A colour of the terminal's own sixteen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Colour {
    /// What went wrong or is lost.
    Red,
    /// What comes to be.
    Green,
    /// What changes, and warnings.
    Yellow,
    /// Hints and places.
    Cyan,
    /// What stands out.
    Bold,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Self::Red => "\u{1b}[31m",
            Self::Green => "\u{1b}[32m",
            Self::Yellow => "\u{1b}[33m",
            Self::Cyan => "\u{1b}[36m",
            Self::Bold => "\u{1b}[1m",
        }
    }
}

/// The owner of standard output and standard error.
pub struct Printer {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    out_colour: bool,
    err_colour: bool,
    err_terminal: bool,
    interactive: bool,
}

impl Printer {
    /// The process's own streams.
    #[must_use]
    pub fn of_process(env: Env) -> Self {
        let (out, err) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        let colour = !env.no_color();
        Self {
            out: Box::new(io::stdout()),
            err: Box::new(io::stderr()),
            out_colour: out && colour,
            err_colour: err && colour,
            err_terminal: err,
            interactive: err && io::stdin().is_terminal() && !env.is_ci(),
        }
    }

    /// Nobody's: for what is looked up while a picture has the terminal.
    #[must_use]
    pub fn unheard() -> Self {
        Self {
            out: Box::new(io::sink()),
            err: Box::new(io::sink()),
            out_colour: false,
            err_colour: false,
            err_terminal: false,
            interactive: false,
        }
    }

    /// Whether a person sees what is said on standard error.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.err_terminal
    }

    /// Whether a person can be asked: standard input and standard error are a terminal.
    #[must_use]
    pub fn is_interactive(&self) -> bool {
        self.interactive
    }

    /// Data, as it is.
    ///
    /// # Errors
    ///
    /// A reader that is gone ends the program silently; anything else is told.
    pub fn data(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Ok)),
            Err(error) => Err(Failure::error("could not write to standard output").because(&error)),
        }
    }

    /// One line of a stream of data. A reader that is gone is no reason to stop what is being
    /// done.
    pub fn event(&mut self, line: &str) {
        // Nobody is left to be told, and the work itself goes on.
        let _ = writeln!(self.out, "{line}").and_then(|()| self.out.flush());
    }

    /// What a program in a container prints, as it is.
    ///
    /// # Errors
    ///
    /// As [`Self::data`].
    pub fn pass(&mut self, bytes: &[u8], is_error: bool) -> Result<(), Failure> {
        let to = if is_error { &mut self.err } else { &mut self.out };
        match to.write_all(bytes).and_then(|()| to.flush()) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Failure::silent(Exit::Ok)),
            Err(error) => Err(Failure::error("could not write what it prints").because(&error)),
        }
    }

    /// Talk: one line or more on standard error.
    pub fn say(&mut self, text: &str) {
        // Where standard error is gone, there is nowhere to say so.
        let _ = writeln!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// Talk without an end of line: a question.
    pub fn ask(&mut self, text: &str) {
        let _ = write!(self.err, "{text}").and_then(|()| self.err.flush());
    }

    /// Whether standard output shows colour.
    #[must_use]
    pub fn has_coloured_data(&self) -> bool {
        self.out_colour
    }

    /// Whether standard error shows colour.
    #[must_use]
    pub fn has_coloured_talk(&self) -> bool {
        self.err_colour
    }

    /// Text in colour, where standard error shows it.
    #[must_use]
    pub fn paint(&self, colour: Colour, text: &str) -> String {
        paint(self.err_colour, colour, text)
    }

    /// Text in colour, where standard output shows it.
    #[must_use]
    pub fn paint_data(&self, colour: Colour, text: &str) -> String {
        paint(self.out_colour, colour, text)
    }

    /// A warning on one line.
    pub fn warn(&mut self, text: &str) {
        let head = self.paint(Colour::Yellow, "warning:");
        self.say(&format!("{head} {}", visible(text)));
    }

    /// Everything that went wrong.
    pub fn failure(&mut self, failure: &Failure) {
        for problem in &failure.problems {
            self.problem(problem);
        }
    }

    fn problem(&mut self, problem: &Problem) {
        let head = self.paint(Colour::Red, "error:");
        self.say(&format!("{head} {}", lines(&problem.message)));
        for cause in &problem.causes {
            self.say(&format!("  caused by: {}", lines(cause)));
        }
        if let Some(hint) = &problem.hint {
            let head = self.paint(Colour::Cyan, "hint:");
            self.say(&format!("{head} {}", lines(hint)));
        }
    }

    /// What was found while reading a manifest, each with the line it is about.
    pub fn diagnostics(&mut self, diagnostics: &[Diagnostic], sources: &[Source]) {
        for diagnostic in diagnostics {
            let (colour, severity) = match diagnostic.severity {
                Severity::Error => (Colour::Red, "error"),
                Severity::Warning => (Colour::Yellow, "warning"),
            };
            let place =
                format!("{}:{}:{}:", visible(&diagnostic.file), diagnostic.line, diagnostic.column);
            let place = self.paint(Colour::Bold, &place);
            let severity = self.paint(colour, &format!("{severity}:"));
            self.say(&format!("{place} {severity} {}", lines(&diagnostic.message)));
            if let Some(excerpt) = excerpt(diagnostic, sources) {
                self.say(&excerpt);
            }
            if let Some(hint) = &diagnostic.hint {
                let head = self.paint(Colour::Cyan, "hint:");
                self.say(&format!("{head} {}", lines(hint)));
            }
        }
    }
}

/// Text from elsewhere, harmless, its lines kept.
fn lines(text: &str) -> String {
    let lines: Vec<String> = text.trim_end().lines().map(visible).collect();
    lines.join("\n  ")
}

fn paint(on: bool, colour: Colour, text: &str) -> String {
    if on { format!("{}{text}\u{1b}[0m", colour.code()) } else { text.to_owned() }
}

/// The line a diagnostic is about, with a caret below its column.
fn excerpt(diagnostic: &Diagnostic, sources: &[Source]) -> Option<String> {
    let source = sources.iter().find(|source| source.path == diagnostic.file)?;
    let Content::Text(text) = &source.content else { return None };
    let line = text.lines().nth(usize::try_from(diagnostic.line).ok()?.checked_sub(1)?)?;
    let before = usize::try_from(diagnostic.column).ok()?.checked_sub(1)?;
    if line.trim().is_empty() || before >= EXCERPT {
        return None;
    }
    let shown: String = line.chars().take(EXCERPT).collect();
    // Escapes make a line longer, so what stands before the caret is escaped by itself; a tab
    // stays a tab on both lines.
    let keep = |text: &str| {
        let parts: Vec<String> = text.split('\t').map(visible).collect();
        parts.join("\t")
    };
    let head: String = shown.chars().take(before).collect();
    let blank: String = keep(&head).chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let number = diagnostic.line.to_string();
    let margin = " ".repeat(number.len());
    Some(format!(" {number} | {}\n {margin} | {blank}^", keep(&shown)))
}

/// Makes a panic end the program with its own code and a line that says whose fault it is.
///
/// That is so on every thread and in every task, so the hook itself exits. Panics that the unpacker
/// contains are none of a program's own: bytes that an agent or a server sent end one request.
pub fn report_panics() {
    std::panic::set_hook(Box::new(|info| {
        if bottle_detector::unpack::is_contained() {
            return;
        }
        let place = info.location().map_or(String::new(), |at| format!(" at {at}"));
        let what = info.payload_as_str().unwrap_or("no message");
        let text = format!(
            "error: this is a bug in bottle {}: {}{place}\nhint: please report it, with the output \
             of `bottle plan --dump-inputs FILE` if a plan was being made\n",
            env!("CARGO_PKG_VERSION"),
            visible(what),
        );
        terminal::restore();
        // Nothing can be done about a standard error that is gone.
        let _ = io::stderr().write_all(text.as_bytes());
        #[expect(clippy::exit, reason = "the one way to end with a code of our own from a panic")]
        std::process::exit(Exit::Bug.code().into());
    }));
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use bottle_planner::manifest::SourceKind;

    use super::*;

    /// Standard error as a test sees it.
    #[derive(Clone, Default)]
    pub(crate) struct Sink(Rc<RefCell<Vec<u8>>>);

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.borrow().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn printer(colour: bool) -> (Printer, Sink) {
        let sink = Sink::default();
        let printer = Printer {
            out: Box::new(io::sink()),
            err: Box::new(sink.clone()),
            out_colour: colour,
            err_colour: colour,
            err_terminal: false,
            interactive: false,
        };
        (printer, sink)
    }

    #[test]
    fn failures_are_told_whole() {
        let (mut printer, sink) = printer(false);
        let io = io::Error::other("disk \u{1b}[2Jfull");
        printer.failure(&Failure::error("could not write").because(&io).hint("make room"));
        assert_eq!(
            sink.text(),
            "error: could not write\n  caused by: disk \\u{1b}[2Jfull\nhint: make room\n"
        );
    }

    #[test]
    fn colour_only_where_wanted() {
        let (plain, _) = printer(false);
        let (coloured, _) = printer(true);
        assert_eq!(plain.paint(Colour::Red, "x"), "x");
        assert_eq!(coloured.paint(Colour::Red, "x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_caret_below_the_column() {
        let source = Source::new(SourceKind::HomeBottle, "bottles/dev.md", "---\nevn:\n\tx: 1\n");
        let mut found =
            Diagnostic::about_file(Severity::Error, "unknown-key", "bottles/dev.md", "unknown");
        (found.line, found.column) = (3, 2);
        assert_eq!(
            excerpt(&found, std::slice::from_ref(&source)).unwrap(),
            " 3 | \tx: 1\n   | \t^"
        );
        (found.line, found.column) = (2, 1);
        let (mut printer, sink) = printer(false);
        printer.diagnostics(&[found.clone()], &[source]);
        assert_eq!(sink.text(), "bottles/dev.md:2:1: error: unknown\n 2 | evn:\n   | ^\n");
        found.line = 99;
        assert_eq!(excerpt(&found, &[]), None);
    }

    #[test]
    fn a_reader_that_is_gone_is_a_silent_end() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut printer, sink) = printer(false);
        printer.out = Box::new(Gone);
        let failure = printer.data("x").unwrap_err();
        assert_eq!((failure.exit, failure.problems.len()), (Exit::Ok, 0));
        printer.event("x");
        assert_eq!(sink.text(), "");
    }
}
