//! `bottle supervise` on a terminal: what waits, what approving it would change, and the keys that
//! answer it.
//!
//! ```text
//!  keys ─┐                                  ┌─► view ─► the screen
//!  watch ├─► events ─► model ── wants ──────┼─► look
//!  look ─┘     ▲         └───── commands ───┴─► decide, editor, bell
//!              └──────────────── outcomes ───────┘
//! ```

mod look;
mod model;
mod notify;
#[cfg(test)]
mod samples;
mod screen;
mod text;
mod view;

use std::sync::mpsc::channel;
use std::time::Duration;

use bottle_planner::proposal::Ask;
use ratatui::crossterm::event::{
    self, Event as Input, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};

use self::model::{Command, Event, Key, Model};
use self::screen::Screen;
use super::decide::{self, Word};
use super::edit;
use super::pending::Pending;
use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// How long a key is waited for before news are looked at.
const FRAME: Duration = Duration::from_millis(50);

/// As many notifications are made of news that come at once.
const MOST_NOTIFICATIONS: usize = 3;

/// Shows it until somebody leaves. `manifest` says beside which manifest rules are kept for later
/// sessions.
pub fn run(manifest: &ManifestArgs, context: &mut Context) -> Result<Exit, Failure> {
    let colour = !context.env.no_color();
    let (tell, news) = channel();
    let (ask, asked) = channel();
    look::watch(context.roots(&ManifestArgs::default())?, tell.clone());
    look::look(context.env, asked, tell);
    let mut screen = Screen::enter().map_err(|e| no_screen(&e))?;
    let mut model = Model::default();
    let mut wanted = None;
    let mut is_stale = true;
    loop {
        if is_stale {
            screen
                .draw(|frame| view::draw(&mut model, colour, frame))
                .map_err(|e| no_screen(&e))?;
            is_stale = false;
        }
        let mut events = Vec::new();
        if event::poll(FRAME).map_err(|e| no_screen(&e))? {
            match event::read().map_err(|e| no_screen(&e))? {
                Input::Key(key) => events.extend(pressed(key).map(Event::Key)),
                Input::Resize(..) => is_stale = true,
                _ => {}
            }
        }
        events.extend(news.try_iter());
        for event in events {
            is_stale = true;
            let mut command = model.update(event);
            while let Some(what) = command {
                command = match what {
                    Command::Quit => return Ok(Exit::Ok),
                    other => carry_out(other, manifest, &mut screen, context)?
                        .and_then(|outcome| model.update(outcome)),
                };
            }
        }
        let wants = model.wants();
        if wants != wanted {
            if let Some(wants) = wants.clone() {
                // The other end lives as long as this one.
                let _ = ask.send(wants);
            }
            wanted = wants;
        }
    }
}

/// Does what a key asked for; what came of it.
fn carry_out(
    command: Command,
    manifest: &ManifestArgs,
    screen: &mut Screen,
    context: &mut Context,
) -> Result<Option<Event>, Failure> {
    // What is printed meanwhile is for the ordinary screen: here it would tear the picture.
    let event = match command {
        Command::Quit => return Ok(None),
        Command::Ring(news) => {
            screen.ring().map_err(|e| no_screen(&e))?;
            for (session, words) in news.into_iter().take(MOST_NOTIFICATIONS) {
                if let Some(program) = notify::program(context.env) {
                    notify::show(program, &session, &words);
                }
            }
            return Ok(None);
        }
        Command::Edit(ask) => {
            let edited = screen.aside(|| edit::in_editor(&ask, &context.env.editor()));
            let edited = edited.map_err(|e| no_screen(&e))?;
            let changed = |other: Ask| Some(other).filter(|other| *other != ask);
            Event::Edited(edited.map(changed).map_err(|failure| look::told(&failure)))
        }
        Command::Approve { pending, modified, seen, always } => {
            let word = Word {
                modified: modified.as_ref(),
                seen: &seen,
                notes: "",
                always,
                json: false,
                manifest,
            };
            let outcome = screen.aside(|| {
                context.printer.say(&format!("Approving {} …", pending.proposal.id()));
                decide::approve(&pending, &word, context)
            });
            Event::Decided(came_of(outcome.map_err(|e| no_screen(&e))?, &approved(&pending)))
        }
        Command::Reject { pending, notes } => {
            let outcome = screen.aside(|| decide::reject(&pending, &notes, false, context));
            let done = format!("{} is rejected", pending.proposal.id());
            Event::Decided(came_of(outcome.map_err(|e| no_screen(&e))?, &done))
        }
    };
    Ok(Some(event))
}

fn approved(pending: &Pending) -> String {
    let (id, session) = (pending.proposal.id(), &pending.session);
    match pending.proposal.ask {
        Ask::Image { .. } => {
            format!(
                "{id} is approved; `bottle resume {session}` brings the agent back in the new image"
            )
        }
        _ => format!("{id} is approved"),
    }
}

fn came_of(outcome: Result<Exit, Failure>, done: &str) -> Result<String, String> {
    match outcome {
        Ok(Exit::Ok) => Ok(done.to_owned()),
        Ok(_) => Err("it was not carried out whole, and waits on".to_owned()),
        Err(failure) => Err(look::told(&failure)),
    }
}

fn pressed(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) {
        let is_interrupt = key.modifiers == KeyModifiers::CONTROL && key.code == KeyCode::Char('c');
        return is_interrupt.then_some(Key::Interrupt);
    }
    Some(match key.code {
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::Tab => Key::Tab,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Char(c) => Key::Char(c),
        _ => return None,
    })
}

fn no_screen(error: &std::io::Error) -> Failure {
    Failure::error("the terminal cannot be used")
        .because(error)
        .hint("`bottle supervise list`, `show`, `approve` and `reject` need none")
}
