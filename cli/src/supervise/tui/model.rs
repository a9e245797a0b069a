//! What the screen knows and what a key does to it: no terminal, no file, no clock.
//!
//! What is asked of the world comes out as a [`Command`] or as [`Model::wants`]; what the world
//! answers comes in as an [`Event`]. An approval is always of the digest that stood on the screen
//! when the question was put.

use bottle_planner::proposal::Ask;
use bottle_planner::words::{Digest, Identity};

use super::text;
use crate::commands::blocked::moment;
use crate::supervise::pending::Pending;

/// The longest notes that can be typed, in bytes.
const LONGEST_NOTES: usize = 1 << 10;
/// Lines that a page moves by.
const PAGE: usize = 10;

/// An agent could make what it asks for so long that the worst of it is below the screen.
const UNREAD: &str =
    "not yet: what it would change goes on below; read to its end (Tab, then PgDn)";

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// What waits now.
    Found {
        /// The oldest first.
        pending: Vec<Pending>,
        /// Session, name and fault of what is no proposal.
        broken: Vec<(Identity, String, String)>,
    },
    /// What runs now, or why it cannot be told, harmless.
    Bottles(Result<Vec<Bottle>, String>),
    /// What approving would change, or why it cannot be told.
    Looked(Box<Wanted>, Result<Shown, String>),
    /// Somebody was in the editor; nothing where it is as it was.
    Edited(Result<Option<Ask>, String>),
    /// A decision was carried out, or was not.
    Decided(Result<String, String>),
    /// Something that a person should know.
    Told(String),
}

/// A key, as far as any means something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    Tab,
    Enter,
    Escape,
    Backspace,
    /// Ctrl-C.
    Interrupt,
    Char(char),
}

/// What is to be done.
#[derive(Debug)]
pub enum Command {
    /// Leave.
    Quit,
    /// Call somebody: something new waits. Session and what it asks, harmless.
    Ring(Vec<(Identity, String)>),
    /// Approve what was seen.
    Approve {
        /// The proposal.
        pending: Pending,
        /// In which form, where not as it was asked.
        modified: Option<Ask>,
        /// The digest that stood on the screen.
        seen: Digest,
        /// Also for later sessions.
        always: bool,
    },
    /// Reject it.
    Reject {
        /// The proposal.
        pending: Pending,
        /// For the agent.
        notes: String,
    },
    /// Let a person change it.
    Edit(Ask),
}

/// A running bottle, harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bottle {
    /// Its name.
    pub session: Identity,
    /// How it fares.
    pub state: String,
    /// What it may reach, a line each.
    pub routes: Vec<String>,
    /// What it was refused, the latest first.
    pub refused: Vec<String>,
}

/// What has to be looked at: one proposal in one form. A later round looks again.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The proposal.
    pub pending: Pending,
    /// The form.
    pub ask: Ask,
    /// Counted up whenever what was seen may be out of date.
    pub round: u64,
}

impl PartialEq for Wanted {
    fn eq(&self, other: &Self) -> bool {
        (self.round, &self.pending.session) == (other.round, &other.pending.session)
            && self.pending.proposal == other.pending.proposal
            && self.ask == other.ask
    }
}

/// What approving would change, harmless.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// What an approval names.
    pub digest: Digest,
    /// In words.
    pub change: Vec<String>,
    /// In full.
    pub full: Vec<String>,
    /// Whether it can be kept for later sessions.
    pub keeps: bool,
    /// The form in words.
    pub words: String,
}

/// A line of the list.
#[derive(Debug)]
pub enum Row {
    /// A proposal.
    Asked(Box<Item>),
    /// What is none.
    Broken {
        /// Whose.
        session: Identity,
        /// The file, harmless.
        name: String,
        /// What is wrong with it, harmless.
        why: String,
    },
}

/// A proposal, and its texts, harmless.
#[derive(Debug)]
pub struct Item {
    /// The proposal itself.
    pub pending: Pending,
    /// What people call it by.
    pub id: String,
    /// What it asks for.
    pub words: String,
    /// Why.
    pub because: Vec<String>,
    /// When it was asked.
    pub at: String,
}

/// Where the arrows go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pane {
    /// The list of what waits.
    Requests,
    /// What the selected one would change.
    Change,
    /// What runs.
    Bottles,
}

/// What is being done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// Looking around.
    Browse,
    /// Asked whether to approve just this.
    Confirm {
        /// What stood on the screen when it was asked.
        digest: Digest,
        /// Also for later sessions.
        always: bool,
    },
    /// Writing notes to a rejection.
    Notes(String),
    /// Reading it in full.
    Details,
    /// What was about to be answered waits no more. Keys typed for it do nothing, until it is noticed.
    Gone,
    /// Reading what keys do.
    Help,
}

/// What is known of what the selected one would change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// Not yet.
    Looking,
    /// This.
    Seen(Shown),
    /// It cannot be told.
    Failed(Vec<String>),
}

/// The whole of it.
#[derive(Debug)]
pub struct Model {
    /// The list.
    pub rows: Vec<Row>,
    /// The line of it that is selected.
    pub selected: usize,
    /// What runs; nothing until it was looked.
    pub bottles: Option<Result<Vec<Bottle>, String>>,
    /// What the selected one would change.
    pub look: Look,
    /// In which form it would be approved, where not as it was asked.
    pub modified: Option<Ask>,
    /// Where the arrows go.
    pub pane: Pane,
    /// What is being done.
    pub mode: Mode,
    /// The latest news.
    pub message: String,
    /// The first line shown of the change, the bottles and the details; the view keeps them in
    /// bounds.
    pub scroll: Scroll,
    round: u64,
    /// Whether a changed form is shown and asked about as soon as it was looked at.
    ask_then: bool,
    /// What a failed approval was of.
    tried: Option<Digest>,
    /// What was on the screen to its last line.
    read: Option<Digest>,
    /// Those that are there from the beginning call nobody.
    is_new: bool,
}

/// First lines shown.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Scroll {
    /// Of what it would change.
    pub change: usize,
    /// Of what runs.
    pub bottles: usize,
    /// Of the details.
    pub details: usize,
}

impl Default for Model {
    fn default() -> Self {
        Self {
            rows: Vec::new(),
            selected: 0,
            bottles: None,
            look: Look::Looking,
            modified: None,
            pane: Pane::Requests,
            mode: Mode::Browse,
            message: String::new(),
            scroll: Scroll::default(),
            round: 0,
            ask_then: false,
            tried: None,
            read: None,
            is_new: true,
        }
    }
}

impl Model {
    /// What happened changes what is known, and may call for something to be done.
    pub fn update(&mut self, event: Event) -> Option<Command> {
        match event {
            Event::Key(key) => self.key(key),
            Event::Found { pending, broken } => self.found(pending, broken),
            Event::Bottles(bottles) => {
                self.bottles = Some(bottles);
                None
            }
            Event::Looked(wanted, outcome) => {
                self.looked(&wanted, outcome);
                None
            }
            Event::Edited(edited) => {
                self.edited(edited);
                None
            }
            Event::Decided(outcome) => {
                self.decided(outcome);
                None
            }
            Event::Told(message) => {
                self.say(&message);
                None
            }
        }
    }

    /// The selected proposal.
    #[must_use]
    pub fn item(&self) -> Option<&Item> {
        match self.rows.get(self.selected)? {
            Row::Asked(item) => Some(item),
            Row::Broken { .. } => None,
        }
    }

    /// What has to be looked at to show what is selected.
    #[must_use]
    pub fn wants(&self) -> Option<Wanted> {
        let pending = self.item()?.pending.clone();
        let ask = self.modified.clone().unwrap_or_else(|| pending.proposal.ask.clone());
        Some(Wanted { pending, ask, round: self.round })
    }

    /// How many wait, and how many are no proposals.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let asked = self.rows.iter().filter(|row| matches!(row, Row::Asked(_))).count();
        (asked, self.rows.len() - asked)
    }

    /// The last line of what approving would change is on the screen.
    pub fn shown_to_the_end(&mut self) {
        if let Look::Seen(shown) = &self.look {
            self.read = Some(shown.digest.clone());
        }
    }

    fn say(&mut self, message: &str) {
        self.message = text::line(message);
    }

    fn key(&mut self, key: Key) -> Option<Command> {
        if key == Key::Interrupt {
            return Some(Command::Quit);
        }
        match &mut self.mode {
            Mode::Browse => self.browse(key),
            Mode::Confirm { .. } => self.confirm(key),
            Mode::Notes(_) => self.notes(key),
            Mode::Details => match key {
                Key::Escape | Key::Char('d' | 'q') => {
                    self.mode = Mode::Browse;
                    None
                }
                // Whoever has read all of it answers.
                Key::Char('a' | 'A' | 'm' | 'r') => {
                    self.mode = Mode::Browse;
                    self.browse(key)
                }
                other => {
                    self.scroll.details = moved(self.scroll.details, other);
                    None
                }
            },
            Mode::Help => {
                self.mode = Mode::Browse;
                None
            }
            Mode::Gone => {
                if key == Key::Escape {
                    self.mode = Mode::Browse;
                    self.message.clear();
                }
                None
            }
        }
    }

    fn browse(&mut self, key: Key) -> Option<Command> {
        self.message.clear();
        match key {
            Key::Char('q') => return Some(Command::Quit),
            Key::Char('?') => self.mode = Mode::Help,
            Key::Char('a') => self.approve(false),
            Key::Char('A') => self.approve(true),
            Key::Char('m') => return self.modify(),
            Key::Char('r') => {
                if self.answerable() {
                    self.mode = Mode::Notes(String::new());
                }
            }
            Key::Char('d') | Key::Enter => {
                if !self.rows.is_empty() {
                    self.scroll.details = 0;
                    self.mode = Mode::Details;
                }
            }
            // Back to the form in which it was asked.
            Key::Escape if self.modified.is_some() => self.asked_anew(),
            Key::Tab => {
                self.pane = match self.pane {
                    Pane::Requests => Pane::Change,
                    Pane::Change => Pane::Bottles,
                    Pane::Bottles => Pane::Requests,
                }
            }
            other => match self.pane {
                Pane::Requests => {
                    let last = self.rows.len().saturating_sub(1);
                    self.select(moved(self.selected, other).min(last));
                }
                Pane::Change => self.scroll.change = moved(self.scroll.change, other),
                Pane::Bottles => self.scroll.bottles = moved(self.scroll.bottles, other),
            },
        }
        None
    }

    fn select(&mut self, row: usize) {
        if row != self.selected {
            self.selected = row;
            self.asked_anew();
        }
    }

    /// Another one, or the same as it was asked: nothing is known of what it would change.
    fn asked_anew(&mut self) {
        self.modified = None;
        self.ask_then = false;
        self.tried = None;
        self.scroll.change = 0;
        self.look = Look::Looking;
        self.round += 1;
    }

    /// Whether what is selected can be answered; says so where it cannot.
    fn answerable(&mut self) -> bool {
        if self.item().is_none() {
            let message = if self.rows.is_empty() {
                "nothing waits for an answer"
            } else {
                "that is no request: there is nothing to answer"
            };
            self.say(message);
            return false;
        }
        true
    }

    fn approve(&mut self, always: bool) {
        if !self.answerable() {
            return;
        }
        match &self.look {
            Look::Looking => self.say("not yet: what it would change is being worked out"),
            Look::Failed(_) => self.say("it cannot be approved; see why above, or reject it"),
            Look::Seen(shown) if always && !shown.keeps => {
                self.say("only network access can be kept for later sessions");
            }
            Look::Seen(shown) if self.read.as_ref() != Some(&shown.digest) => self.say(UNREAD),
            Look::Seen(shown) => {
                self.mode = Mode::Confirm { digest: shown.digest.clone(), always };
            }
        }
    }

    fn modify(&mut self) -> Option<Command> {
        if !self.answerable() {
            return None;
        }
        let ask = self.wants()?.ask;
        if matches!(ask, Ask::PushException { .. }) {
            self.say("a push exception can be approved or rejected, and not modified");
            return None;
        }
        Some(Command::Edit(ask))
    }

    fn confirm(&mut self, key: Key) -> Option<Command> {
        let Mode::Confirm { digest, always } = std::mem::replace(&mut self.mode, Mode::Browse)
        else {
            return None;
        };
        let pending = self.item()?.pending.clone();
        if key != Key::Char('y') && key != Key::Char('Y') {
            self.say("not approved; it waits on");
            return None;
        }
        if self.read.as_ref() != Some(&digest) {
            self.say(UNREAD);
            return None;
        }
        self.tried = Some(digest.clone());
        Some(Command::Approve { pending, modified: self.modified.clone(), seen: digest, always })
    }

    fn notes(&mut self, key: Key) -> Option<Command> {
        let Mode::Notes(notes) = &mut self.mode else { return None };
        match key {
            Key::Char(c) if notes.len() + c.len_utf8() <= LONGEST_NOTES => notes.push(c),
            Key::Backspace => drop(notes.pop()),
            Key::Escape => {
                self.mode = Mode::Browse;
                self.say("not rejected; it waits on");
            }
            Key::Enter => {
                let notes = std::mem::take(notes);
                self.mode = Mode::Browse;
                let pending = self.item()?.pending.clone();
                return Some(Command::Reject { pending, notes: notes.trim().to_owned() });
            }
            _ => {}
        }
        None
    }

    fn found(
        &mut self,
        pending: Vec<Pending>,
        broken: Vec<(Identity, String, String)>,
    ) -> Option<Command> {
        let known: Vec<String> = self.rows.iter().map(Row::key).collect();
        let before = known.get(self.selected).cloned();
        let asked = pending.into_iter().map(|pending| Row::Asked(Box::new(Item::of(pending))));
        let broken = broken.into_iter().map(|(session, name, why)| Row::Broken {
            session,
            name: text::line(&name),
            why: text::line(&why),
        });
        self.rows = asked.chain(broken).collect();
        let keys: Vec<String> = self.rows.iter().map(Row::key).collect();
        match before.as_ref().and_then(|before| keys.iter().position(|key| key == before)) {
            Some(at) => self.selected = at,
            None => {
                self.selected = self.selected.min(self.rows.len().saturating_sub(1));
                self.asked_anew();
                // Whoever was about to answer it would answer another one, and what is typed on would be
                // keys that do.
                if !matches!(self.mode, Mode::Help | Mode::Browse) {
                    self.mode = Mode::Gone;
                    self.say(
                        "it does not wait any more: somebody answered it, or its session ended \
                         (Esc goes on)",
                    );
                }
            }
        }
        if keys != known {
            // Who answered one may have changed what another would change. What is shown stays so
            // long.
            self.round += 1;
        }
        let is_new = std::mem::replace(&mut self.is_new, false);
        let fresh = self.rows.iter().zip(keys).filter(|(_, key)| !known.contains(key));
        let fresh: Vec<(Identity, String)> = fresh
            .filter_map(|(row, _)| match row {
                Row::Asked(item) => Some((item.pending.session.clone(), item.words.clone())),
                Row::Broken { .. } => None,
            })
            .collect();
        (!is_new && !fresh.is_empty()).then_some(Command::Ring(fresh))
    }

    fn looked(&mut self, wanted: &Wanted, outcome: Result<Shown, String>) {
        if self.wants().as_ref() != Some(wanted) {
            return;
        }
        let ask_then = std::mem::replace(&mut self.ask_then, false);
        let shown = match outcome {
            Ok(shown) => shown,
            Err(why) => {
                self.look = Look::Failed(text::lines(&why));
                if matches!(self.mode, Mode::Confirm { .. }) {
                    self.mode = Mode::Browse;
                    self.say("it cannot be approved any more; see why above");
                }
                return;
            }
        };
        let moved_on = match &self.mode {
            Mode::Confirm { digest, .. } => *digest != shown.digest,
            _ => self.tried.take().is_some_and(|tried| tried != shown.digest),
        };
        if moved_on {
            self.mode = Mode::Browse;
            self.scroll.change = 0;
            let before = if self.message.is_empty() { "not approved" } else { &self.message };
            self.message = format!("something moved, this is what it would change now; {before}");
        } else if ask_then && self.mode == Mode::Browse {
            self.mode = Mode::Confirm { digest: shown.digest.clone(), always: false };
        }
        self.look = Look::Seen(shown);
    }

    fn edited(&mut self, edited: Result<Option<Ask>, String>) {
        let Some(asked) = self.item().map(|item| item.pending.proposal.ask.clone()) else { return };
        match edited {
            Err(why) => self.say(&why),
            Ok(None) => self.say("nothing was changed"),
            Ok(Some(ask)) => {
                self.asked_anew();
                self.modified = Some(ask).filter(|ask| *ask != asked);
                self.ask_then = true;
                self.say("changed; Esc goes back to what was asked");
            }
        }
    }

    fn decided(&mut self, outcome: Result<String, String>) {
        match outcome {
            Ok(done) => {
                self.tried = None;
                self.say(&done);
            }
            Err(why) => self.say(&why),
        }
        // Whatever became of it, what others would change may be another thing now.
        self.look = Look::Looking;
        self.round += 1;
    }
}

impl Row {
    /// The same line, however often the list is read.
    fn key(&self) -> String {
        match self {
            Self::Asked(item) => {
                format!("{}/{}", item.pending.session, item.pending.proposal.digest())
            }
            Self::Broken { session, name, .. } => format!("{session}/broken/{name}"),
        }
    }
}

impl Item {
    fn of(pending: Pending) -> Self {
        let proposal = &pending.proposal;
        Self {
            id: proposal.id(),
            words: text::line(&proposal.ask.words()),
            because: text::lines(&proposal.justification),
            at: text::line(&moment(proposal.at.as_str())),
            pending,
        }
    }
}

/// Where a key moves to; the end is the caller's to mind.
fn moved(from: usize, key: Key) -> usize {
    match key {
        Key::Up | Key::Char('k') => from.saturating_sub(1),
        Key::Down | Key::Char('j') => from.saturating_add(1),
        Key::PageUp => from.saturating_sub(PAGE),
        Key::PageDown | Key::Char(' ') => from.saturating_add(PAGE),
        Key::Home | Key::Char('g') => 0,
        _ => from,
    }
}

#[cfg(test)]
mod tests;
