//! How an apply goes, as it goes: a live list on a terminal, a line for each action elsewhere, or
//! events as JSON.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bottle_executor::events::Event;
use bottle_planner::escape::visible;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::output::{Colour, Printer};

/// Between two frames of the live list.
const FRAME: Duration = Duration::from_millis(100);

/// Tells events.
pub struct Live<'a, 'p> {
    printer: &'a RefCell<&'p mut Printer>,
    json: bool,
    done: &'static str,
    list: Option<MultiProgress>,
    running: BTreeMap<String, (Instant, Option<ProgressBar>)>,
    as_is: usize,
}

impl<'a, 'p> Live<'a, 'p> {
    /// For a terminal where there is one.
    pub fn new(printer: &'a RefCell<&'p mut Printer>, json: bool, rollback: bool) -> Self {
        let watched = printer.borrow().is_interactive();
        let list = (watched && !json)
            .then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stderr()));
        let done = if rollback { "undone" } else { "done" };
        Self { printer, json, done, list, running: BTreeMap::new(), as_is: 0 }
    }

    /// One piece of news.
    pub fn tell(&mut self, event: &Event) {
        if let Event::ActionSkipped { id, left: Some(why), .. } = event {
            self.warn(&format!("{id} was left: {why}"));
        }
        if self.json {
            if let Ok(line) = serde_json::to_string(event) {
                self.printer.borrow_mut().event(&line);
            }
            return;
        }
        match event {
            Event::PlanStart { .. } | Event::PlanDone { .. } => {}
            Event::ActionStart { id, .. } => self.start(&id.0),
            Event::ActionProgress { id, line, .. } => self.progress(&id.0, line),
            Event::ActionDone { id, .. } => self.finish(Colour::Green, self.done, &id.0, None),
            // A person is told of what happens; a log, of everything.
            Event::ActionSkipped { .. } if self.list.is_some() => self.as_is += 1,
            Event::ActionSkipped { id, .. } => self.finish(Colour::Bold, "as is", &id.0, None),
            Event::ActionFailed { id, error, .. } => {
                self.finish(Colour::Red, "FAILED", &id.0, Some(error));
            }
        }
    }

    /// Clears what is left of the list.
    pub fn end(&mut self) {
        if self.as_is > 0 {
            self.say(&format!(" as is {} more", self.as_is));
        }
        for (_, bar) in std::mem::take(&mut self.running).into_values() {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
        }
    }

    fn start(&mut self, id: &str) {
        let bar = self.list.as_ref().map(|list| {
            let bar = list.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
                bar.set_style(style);
            }
            bar.set_message(visible(id));
            bar.enable_steady_tick(FRAME);
            bar
        });
        self.running.insert(id.to_owned(), (Instant::now(), bar));
    }

    fn progress(&mut self, id: &str, line: &str) {
        let text = format!("{}: {}", visible(id), visible(line));
        match self.running.get(id) {
            Some((_, Some(bar))) => bar.set_message(text),
            _ => self.say(&format!("  {text}")),
        }
    }

    fn finish(&mut self, colour: Colour, word: &str, id: &str, error: Option<&String>) {
        let started = self.running.remove(id).map(|(started, bar)| {
            if let Some(bar) = bar {
                bar.finish_and_clear();
            }
            started
        });
        let took =
            started.map_or(String::new(), |at| format!(" ({:.1} s)", at.elapsed().as_secs_f64()));
        let why = error.map_or(String::new(), |error| format!(": {}", visible(error)));
        let word = self.printer.borrow().paint(colour, &format!("{word:>6}"));
        self.say(&format!("{word} {}{took}{why}", visible(id)));
    }

    /// A line that stays, above whatever moves.
    fn say(&self, line: &str) {
        self.above(|printer| printer.say(line));
    }

    fn warn(&self, line: &str) {
        self.above(|printer| printer.warn(line));
    }

    fn above(&self, tell: impl FnOnce(&mut Printer)) {
        let tell = || tell(&mut self.printer.borrow_mut());
        match &self.list {
            Some(list) => list.suspend(tell),
            None => tell(),
        }
    }
}

#[cfg(test)]
mod tests {
    use bottle_planner::plan::{ActionId, Effect};

    use super::*;
    use crate::output::tests::printer;

    #[test]
    fn a_line_for_each_action() {
        let (mut printer, sink) = printer(false);
        let printer = RefCell::new(&mut printer);
        let mut live = Live::new(&printer, false, false);
        let id = |text: &str| ActionId(text.into());
        live.tell(&Event::ActionStart { seq: 1, id: id("image:base"), effect: Effect::Create });
        live.tell(&Event::ActionProgress { seq: 2, id: id("image:base"), line: "a\u{1b}".into() });
        let error = "no network".to_owned();
        live.tell(&Event::ActionFailed { seq: 3, id: id("image:base"), error });
        live.tell(&Event::ActionSkipped { seq: 4, id: id("network:net"), left: None });
        live.end();
        let text = sink.text();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "  image:base: a\\u{1b}");
        assert!(lines[1].starts_with("FAILED image:base (0."), "{text}");
        assert!(lines[1].ends_with("s): no network"), "{text}");
        assert_eq!(lines[2], " as is network:net");
    }

    #[test]
    fn what_was_left_is_told_beside_the_events_too() {
        for json in [false, true] {
            let (mut printer, sink) = printer(false);
            let printer = RefCell::new(&mut printer);
            let mut live = Live::new(&printer, json, false);
            let id = ActionId("deliver:agent".into());
            let left = Some("it runs\u{1b}".to_owned());
            live.tell(&Event::ActionSkipped { seq: 1, id, left });
            let told = "deliver:agent was left: it runs\\u{1b}";
            assert!(sink.text().contains(told), "{}", sink.text());
        }
    }
}
