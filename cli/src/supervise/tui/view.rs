//! The screen, drawn from what the model knows. All text that comes from an agent was made harmless
//! on its way into the model, by [`super::text`].

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Clear, Paragraph};

use super::model::{Item, Look, Mode, Model, Pane, Row};
use super::text::{cut, wrap};

/// Below this nobody could read what is asked.
const SMALLEST: (u16, u16) = (60, 16);
/// Lines of a justification beside what it would change: whatever the agent says, the change stays
/// on the screen. The details have the rest.
const LINES: usize = 3;
/// How far text stands in behind `because`.
const INDENT: usize = 9;

/// Draws all of it.
pub fn draw(model: &mut Model, colour: bool, frame: &mut Frame<'_>) {
    let area = frame.area();
    let ink = Ink { colour };
    if area.width < SMALLEST.0 || area.height < SMALLEST.1 {
        let text = format!("the terminal is too small: {}×{} it takes", SMALLEST.0, SMALLEST.1);
        frame.render_widget(Paragraph::new(text), area);
        return;
    }
    let [head, body, message, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(2),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(title(model, usize::from(head.width))), head);
    match model.mode {
        Mode::Details => details(model, ink, frame, body),
        Mode::Help => help(ink, frame, body),
        _ => panes(model, ink, frame, body),
    }
    let wide = usize::from(area.width);
    let mut lines = wrap(&model.message, wide.saturating_sub(1));
    if lines.len() > 2 {
        lines.truncate(2);
        lines[1] = cut(&format!("{} …", lines[1]), wide - 1);
    }
    let lines = lines.into_iter().map(|line| Line::styled(line, ink.of(Color::Yellow)));
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()), message);
    frame.render_widget(Paragraph::new(hints(model)).style(Modifier::DIM), keys);
    match &model.mode {
        Mode::Confirm { digest, always } => {
            let what = model.item().map_or(String::new(), |item| approved(model, item));
            let what = cut(&what, wide.saturating_sub(6));
            let later = if *always { ", and its rule for later sessions" } else { "" };
            let question = [what, format!("what is shown below{later}, by its digest:")];
            let question = question.into_iter().chain([digest.to_string()]).collect::<Vec<_>>();
            asked(" Approve this? [y/N] ", &question, ink, frame, body);
        }
        Mode::Notes(notes) => {
            // What is typed last stays in sight.
            let room = usize::from(body.width).saturating_sub(6);
            let typed = wrap(&format!("{notes}▏"), room).pop().unwrap_or_default();
            let lines = [typed, "Enter rejects it with these notes, Esc does not".to_owned()];
            asked(" Reject it: what is the agent told? ", &lines, ink, frame, body);
        }
        _ => {}
    }
}

/// Colours where they are wanted; all else is told by signs, bold and reversed.
#[derive(Debug, Clone, Copy)]
struct Ink {
    colour: bool,
}

impl Ink {
    fn of(self, colour: Color) -> Style {
        if self.colour { Style::new().fg(colour) } else { Style::new() }
    }

    /// A line of a comparison, by its sign.
    fn signed(self, line: &str) -> Style {
        match line.trim_start().chars().next() {
            Some('+') => self.of(Color::Green),
            Some('-') => self.of(Color::Red),
            Some('~' | '±') => self.of(Color::Yellow),
            Some('@') => self.of(Color::Cyan),
            _ => Style::new(),
        }
    }
}

fn title(model: &Model, wide: usize) -> Line<'static> {
    let (asked, broken) = model.counts();
    let mut text = format!("{asked} wait");
    if broken > 0 {
        text.push_str(&format!(", {broken} broken"));
    }
    if let Some(Ok(bottles)) = &model.bottles {
        text.push_str(&format!(", {} run", bottles.len()));
    }
    let name = "bottle supervise";
    let gap = wide.saturating_sub(name.len() + text.chars().count());
    Line::from(vec![Span::styled(name, Modifier::BOLD), Span::raw(" ".repeat(gap) + &text)])
}

fn hints(model: &Model) -> &'static str {
    match model.mode {
        Mode::Browse => {
            "a approve  A and for later  m modify  r reject  d details  Tab  ? help  q quit"
        }
        Mode::Confirm { .. } => "y approve  any other key: no",
        Mode::Notes(_) => "Enter reject  Esc leave it",
        Mode::Gone => "Esc go on",
        Mode::Details => "↑↓ scroll  PgUp PgDn by ten  a A m r as outside  d back",
        Mode::Help => "any key: back",
    }
}

fn panes(model: &mut Model, ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let high = (area.height * 2 / 5).min(16);
    let [top, below] =
        Layout::vertical([Constraint::Length(high), Constraint::Fill(1)]).areas(area);
    let [left, right] =
        Layout::horizontal([Constraint::Percentage(55), Constraint::Fill(1)]).areas(top);
    requests(model, ink, frame, left);
    bottles(model, ink, frame, right);
    change(model, ink, frame, below);
}

fn framed<'a>(title: &str, is_active: bool) -> Block<'a> {
    let style = if is_active { Modifier::BOLD } else { Modifier::DIM };
    let title = if is_active { format!(" › {title} ") } else { format!(" {title} ") };
    Block::new().borders(Borders::ALL).border_style(style).title(title)
}

fn requests(model: &Model, ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let block = framed("Requests", model.pane == Pane::Requests);
    let inner = block.inner(area);
    let (wide, high) = (usize::from(inner.width), usize::from(inner.height));
    let from = (model.selected + 1).saturating_sub(high);
    let line = |(n, row): (usize, &Row)| {
        let (text, style) = match row {
            Row::Asked(item) => (format!("{}  {}", item.pending.session, item.words), Style::new()),
            Row::Broken { session, name, .. } => {
                (format!("! {session}  {name} is no request"), ink.of(Color::Red))
            }
        };
        if n == model.selected {
            return Line::styled(cut(&format!("› {text}"), wide), style.patch(Modifier::REVERSED));
        }
        Line::styled(cut(&format!("  {text}"), wide), style)
    };
    let mut lines: Vec<Line<'static>> =
        model.rows.iter().enumerate().skip(from).take(high).map(line).collect();
    if model.rows.is_empty() {
        lines.push(Line::from("  Nothing waits for an answer."));
    }
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn bottles(model: &mut Model, ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let block = framed("Running bottles", model.pane == Pane::Bottles);
    let wide = usize::from(block.inner(area).width);
    let mut lines = Vec::new();
    match &model.bottles {
        None => lines.push(Line::from("looking …")),
        Some(Err(why)) => lines.extend(wrap(why, wide).into_iter().map(Line::from)),
        Some(Ok(all)) if all.is_empty() => lines.push(Line::from("None runs.")),
        Some(Ok(all)) => {
            for bottle in all {
                let head = cut(&format!("{}  {}", bottle.session, bottle.state), wide);
                lines.push(Line::styled(head, Modifier::BOLD));
                for refused in &bottle.refused {
                    let style = ink.of(Color::Red);
                    lines.push(Line::styled(cut(&format!(" ✗ {refused}"), wide), style));
                }
                for route in &bottle.routes {
                    lines.push(Line::from(cut(&format!(" → {route}"), wide)));
                }
            }
        }
    }
    scrolled(lines, &mut model.scroll.bottles, block, frame, area);
}

/// In which form it would be approved.
fn approved(model: &Model, item: &Item) -> String {
    match &model.look {
        Look::Seen(shown) if model.modified.is_some() => {
            format!("{}: {} (changed)", item.pending.session, shown.words)
        }
        _ => format!("{}: {}", item.pending.session, item.words),
    }
}

fn change(model: &mut Model, ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let is_active = model.pane == Pane::Change;
    let block = match model.rows.get(model.selected) {
        Some(Row::Asked(item)) => {
            framed(&format!("{}  {}, {}", item.id, item.pending.session, item.at), is_active)
        }
        _ => framed("What it would change", is_active),
    };
    let wide = usize::from(block.inner(area).width);
    let mut lines = Vec::new();
    match model.rows.get(model.selected) {
        None => lines.push(Line::from(
            "What an agent asks for shows up here, with what approving it would change.",
        )),
        Some(Row::Broken { session, name, why }) => {
            for text in wrap(&format!("{session}: {name} is no request: {why}"), wide) {
                lines.push(Line::from(text));
            }
        }
        Some(Row::Asked(item)) => {
            told("asks", std::slice::from_ref(&item.words), 2, wide, &mut lines);
            told("because", &item.because, LINES, wide, &mut lines);
            would(model, ink, wide, false, &mut lines);
        }
    }
    if scrolled(lines, &mut model.scroll.change, block, frame, area) {
        model.shown_to_the_end();
    }
}

/// What approving would change.
fn would(model: &Model, ink: Ink, wide: usize, in_full: bool, lines: &mut Vec<Line<'static>>) {
    let mut add = |text: &str, style: Style| {
        lines.extend(wrap(text, wide).into_iter().map(|line| Line::styled(line, style)));
    };
    match &model.look {
        Look::Looking => add("Working out what it would change …", Style::new()),
        Look::Failed(why) => {
            add("It cannot be approved:", ink.of(Color::Red));
            for line in why {
                add(&format!("  {line}"), Style::new());
            }
        }
        Look::Seen(shown) => {
            if model.modified.is_some() {
                add(&format!("changed  {}", shown.words), ink.of(Color::Yellow));
            }
            for line in if in_full { &shown.full } else { &shown.change } {
                add(line, ink.signed(line));
            }
            add(&format!("digest {}", shown.digest), Modifier::DIM.into());
        }
    }
}

/// An agent's own words: each line stands in, so that none can pass for one of ours.
fn told(head: &str, text: &[String], most: usize, wide: usize, lines: &mut Vec<Line<'static>>) {
    let all = text.iter().flat_map(|line| wrap(line, wide.saturating_sub(INDENT)));
    let mut all = all.take(most + 1).collect::<Vec<_>>();
    let is_cut = all.len() > most;
    all.truncate(most);
    for (n, line) in all.into_iter().enumerate() {
        let head = if n == 0 { head } else { "" };
        lines.push(Line::from(vec![
            Span::styled(format!("{head:INDENT$}"), Modifier::BOLD),
            Span::raw(line),
        ]));
    }
    if is_cut {
        lines.push(Line::styled(format!("{:INDENT$}… d shows the rest", ""), Modifier::DIM));
    }
}

fn details(model: &mut Model, ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let block = framed("In full", true);
    let wide = usize::from(block.inner(area).width);
    let mut lines = Vec::new();
    match model.rows.get(model.selected) {
        None => {}
        Some(Row::Broken { session, name, why }) => {
            for text in wrap(&format!("{session}: {name} is no request: {why}"), wide) {
                lines.push(Line::from(text));
            }
        }
        Some(Row::Asked(item)) => {
            let about = format!("{}, {}, {}", item.id, item.pending.session, item.at);
            told("request", &[about], 1, wide, &mut lines);
            told("asks", std::slice::from_ref(&item.words), usize::MAX - 1, wide, &mut lines);
            told("because", &item.because, usize::MAX - 1, wide, &mut lines);
            would(model, ink, wide, true, &mut lines);
        }
    }
    if scrolled(lines, &mut model.scroll.details, block, frame, area) {
        model.shown_to_the_end();
    }
}

fn help(ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let text = [
        "↑ ↓ j k    select, or scroll the pane that Tab chose",
        "Tab        requests, what the selected one would change, running bottles",
        "a          approve exactly what is shown: the digest is asked about first",
        "A          the same, and keep the rule for later sessions, in the overlay",
        "m          change it in $EDITOR, see what that would change, then be asked",
        "r          reject it, with notes for the agent",
        "d Enter    all of it: what the agent said, the plan, the Dockerfile",
        "Esc        back; drops a change that was not approved",
        "q Ctrl-C   leave; what waits waits on",
        "",
        "✗ is what a bottle was refused lately, → what it may reach.",
        "What goes on below the screen is read to its end before it can be approved.",
        "If anything moved since it was shown, nothing is approved: it is shown again.",
    ];
    let lines: Vec<Line<'static>> = text
        .iter()
        .map(|line| match line.split_once("  ") {
            Some((keys, what)) => Line::from(vec![
                Span::styled(format!("{keys}  "), ink.of(Color::Cyan).patch(Modifier::BOLD)),
                Span::raw(what),
            ]),
            None => Line::from(*line),
        })
        .collect();
    frame.render_widget(Paragraph::new(lines).block(framed("Keys", true)), area);
}

/// A question over what it is about.
fn asked(title: &str, lines: &[String], ink: Ink, frame: &mut Frame<'_>, area: Rect) {
    let high = u16::try_from(lines.len()).unwrap_or(1) + 2;
    // Over the list, so that what is asked about stays in sight.
    let area = Rect { x: area.x + 1, y: area.y + 1, width: area.width - 2, height: high };
    let block = Block::new()
        .borders(Borders::ALL)
        .border_style(ink.of(Color::Yellow).patch(Modifier::BOLD))
        .title(title);
    let lines: Vec<Line<'static>> =
        lines.iter().map(|line| Line::from(format!(" {line}"))).collect();
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// Lines from where somebody scrolled to, which is kept where there are any. Whether the last one is
/// among them.
fn scrolled(
    lines: Vec<Line<'static>>,
    from: &mut usize,
    block: Block<'_>,
    frame: &mut Frame<'_>,
    area: Rect,
) -> bool {
    let high = usize::from(block.inner(area).height);
    *from = (*from).min(lines.len().saturating_sub(high));
    let more = lines.len().saturating_sub(*from + high);
    let block = match more {
        0 => block,
        more => block.title_bottom(Line::from(format!(" {more} lines more ↓ ")).right_aligned()),
    };
    let lines: Vec<Line<'static>> = lines.into_iter().skip(*from).take(high).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
    more == 0
}

#[cfg(test)]
mod tests;
