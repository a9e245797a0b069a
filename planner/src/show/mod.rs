//! Plans as text: for people, for pull requests, for graph tools, for Compose.
//!
//! Everything that came from outside is escaped here; callers print the result as it is.

mod compose;
mod info;
mod markdown;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::diff::{GrantsDiff, PlanDiff, Verdict};
use crate::escape::visible;
use crate::facts::{Weight, facts};
use crate::plan::{Action, Effect, Intent, Plan};
use crate::resolve::{grants_digest, plan_digest};

pub use compose::compose;
pub use info::{Info, info};
pub use markdown::{diff_markdown, plan_markdown};

/// The sign of an effect: readable without colour.
#[must_use]
pub fn sign(action: &Action) -> &'static str {
    match action.effect {
        Effect::Create => "+",
        Effect::Update => "~",
        Effect::Replace => "±",
        Effect::Delete => "-",
        Effect::None => "=",
    }
}

/// One action on one line, without its effect: `container:egress (not_found)`.
#[must_use]
pub fn action_line(action: &Action) -> String {
    let code = serde_json::to_value(action.reason.code)
        .ok()
        .and_then(|v| v.as_str().map(String::from))
        .unwrap_or_default();
    let detail = if action.reason.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", visible(&action.reason.detail))
    };
    let destructive = if action.destructive { " DESTRUCTIVE" } else { "" };
    format!("{}{destructive} ({code}{detail})", visible(&action.id.0))
}

/// The plan in a few lines, as the goldens have it: effect, id, reason, dependencies.
#[must_use]
pub fn brief(plan: &Plan) -> String {
    let mut text = format!("{}\n", summary_line(plan));
    for action in &plan.actions {
        let after: Vec<String> = action.depends_on.iter().map(ToString::to_string).collect();
        let after =
            if after.is_empty() { String::new() } else { format!(" <- {}", after.join(" ")) };
        text.push_str(&format!("{} {}{after}\n", sign(action), action_line(action)));
    }
    for notice in &plan.notices {
        text.push_str(&format!("! {}: {}\n", notice.code, visible(&notice.message)));
    }
    text
}

/// `4 to create, 1 to update, …`, or that there is nothing to do.
#[must_use]
pub fn summary_line(plan: &Plan) -> String {
    let s = &plan.summary;
    let parts: Vec<String> = [
        (s.create, "to create"),
        (s.update, "to update"),
        (s.replace, "to replace"),
        (s.delete, "to delete"),
        (s.none, "unchanged"),
    ]
    .into_iter()
    .filter(|(n, _)| *n > 0)
    .map(|(n, what)| format!("{n} {what}"))
    .collect();
    let destructive = match s.destructive {
        0 => String::new(),
        n => format!("; {n} DESTRUCTIVE"),
    };
    let nothing = s.create + s.update + s.replace + s.delete == 0;
    let head = if nothing { "Nothing to do: " } else { "Plan: " };
    format!("{head}{}{destructive}.", parts.join(", "))
}

/// The whole plan for a person: grants in words, then what is done, then what was not.
#[must_use]
pub fn human(plan: &Plan) -> String {
    let mut text = String::new();
    let what = match plan.intent {
        Intent::Launch => "Session",
        Intent::Destroy => "End of session",
    };
    text.push_str(&format!("{what} {}\n\n", plan.identity));
    text.push_str(&granted(plan));
    if plan.intent == Intent::Launch {
        text.push_str(&asked(plan));
    }
    text.push_str("\nWhat will be done:\n");
    let unchanged = plan.actions.iter().filter(|a| a.effect == Effect::None).count();
    for action in plan.actions.iter().filter(|a| a.effect != Effect::None) {
        text.push_str(&format!("  {} {}\n", sign(action), action_line(action)));
    }
    if unchanged > 0 {
        text.push_str(&format!("  = {unchanged} more as they should be\n"));
    }
    if !plan.notices.is_empty() {
        text.push_str("\nNotices:\n");
        for notice in &plan.notices {
            text.push_str(&format!("  ! {}\n", visible(&notice.message)));
        }
    }
    text.push('\n');
    text.push_str(&summary_line(plan));
    text.push('\n');
    for (name, digest) in [
        ("Plan digest:  ", plan_digest(plan).ok()),
        ("Grants digest:", grants_digest(&plan.grants).ok()),
    ] {
        if let Some(digest) = digest {
            text.push_str(&format!("{name} {digest}\n"));
        }
    }
    text
}

/// The grants in words, one sentence a line, grouped as allowed and held back.
#[must_use]
pub fn granted(plan: &Plan) -> String {
    let facts = facts(&plan.grants);
    let (less, more): (BTreeMap<_, _>, BTreeMap<_, _>) =
        facts.iter().partition(|(_, fact)| fact.weight == Weight::Restriction);
    let mut text = String::from("The agent may:\n");
    let strictest = "the strictest leak scan, with egress looking inside TLS";
    let mut strict = 0;
    for (key, fact) in more {
        // A route at its strictest setting needs no line for each: one says it of all.
        if key.starts_with("route/") && fact.weight == Weight::Level(0) {
            strict += 1;
            continue;
        }
        text.push_str(&format!("  {}\n", visible(&fact.text)));
    }
    if strict > 0 {
        text.push_str(&format!(
            "  (routes have {strictest}, unless a line above says otherwise)\n"
        ));
    }
    if !less.is_empty() {
        text.push_str("It will:\n");
        for fact in less.into_values() {
            text.push_str(&format!("  {}\n", visible(&fact.text)));
        }
    }
    text
}

/// What the agent is asked: the task and its command's further arguments, a line each and cut to a
/// readable length; empty where there are none. No grant holds them, so nothing else shows them.
#[must_use]
pub fn asked(plan: &Plan) -> String {
    let mut text = String::new();
    if let Some(task) = &plan.spec.task {
        text.push_str(&format!("It is asked: {}\n", shortened(task)));
    }
    if !plan.spec.args.is_empty() {
        // One quoted word each: where one ends and the next begins must not be a guess.
        let words: Vec<String> = plan.spec.args.iter().map(|arg| format!("{arg:?}")).collect();
        text.push_str(&format!("Its command's arguments: {}\n", shortened(&words.join(" "))));
    }
    text
}

/// The most characters that a line shows of what the agent is asked.
const MOST_ASKED: usize = 400;

/// The beginning of a text on one line, and how much is not shown.
fn shortened(text: &str) -> String {
    let shown = visible(&text.chars().take(MOST_ASKED).collect::<String>());
    match text.chars().count().saturating_sub(MOST_ASKED) {
        0 => shown,
        more => format!("{shown}… and {more} characters more (`bottle show --format json`)"),
    }
}

/// A verdict in a word.
#[must_use]
pub fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Same => "same",
        Verdict::Narrowed => "narrowed",
        Verdict::Widened => "widened",
        Verdict::Both => "both",
    }
}

/// A comparison of grants for a person.
#[must_use]
pub fn grants_diff(diff: &GrantsDiff) -> String {
    let mut text = format!("Grants: {}\n", verdict(diff.verdict));
    for (sign, lines) in [("+", &diff.widened), ("-", &diff.narrowed), ("~", &diff.changed)] {
        for line in lines {
            text.push_str(&format!("  {sign} {}\n", visible(line)));
        }
    }
    text
}

/// A comparison of plans for a person: grants, secrets, what is destroyed, then the actions.
#[must_use]
pub fn diff_human(diff: &PlanDiff) -> String {
    let mut text = grants_diff(&diff.grants);
    for (title, lines) in [
        ("Newly secret", &diff.newly_secret),
        ("Destroyed", &diff.destroyed),
        ("Actions", &diff.actions),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("{title}:\n"));
            for line in lines {
                text.push_str(&format!("  {}\n", visible(line)));
            }
        }
    }
    text
}

/// The actions as a graph in Graphviz' language.
#[must_use]
pub fn dot(plan: &Plan) -> String {
    let quote =
        |text: &str| format!("\"{}\"", visible(text).replace('\\', "\\\\").replace('"', "\\\""));
    let mut text = String::from(
        "digraph plan {\n  rankdir=LR;\n  node [shape=box, fontname=\"sans-serif\"];\n",
    );
    for action in &plan.actions {
        let style = match action.effect {
            Effect::None => ", style=dashed",
            _ if action.destructive => ", color=red, penwidth=2",
            _ => "",
        };
        let label = format!("{} {}", sign(action), action.id);
        text.push_str(&format!("  {} [label={}{style}];\n", quote(&action.id.0), quote(&label)));
    }
    for action in &plan.actions {
        for before in &action.depends_on {
            text.push_str(&format!("  {} -> {};\n", quote(&before.0), quote(&action.id.0)));
        }
    }
    text.push_str("}\n");
    text
}
