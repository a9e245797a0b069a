//! Plans and comparisons as Markdown, for a comment on a pull request.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use super::{action_line, sign, summary_line, verdict};
use crate::diff::PlanDiff;
use crate::escape::markdown;
use crate::facts::facts;
use crate::plan::{Effect, Plan};
use crate::resolve::{grants_digest, plan_digest};

/// A comment may have 65,536 characters (GitHub); what is longer is cut and says so.
const MOST: usize = 60_000;

/// A plan as Markdown.
#[must_use]
pub fn plan_markdown(plan: &Plan) -> String {
    let mut text =
        format!("### Session {}\n\n{}\n\n", plan.identity, markdown(&summary_line(plan)));
    let sentences: Vec<String> = facts(&plan.grants).into_values().map(|f| f.text).collect();
    list(&mut text, "What the agent may do", &sentences);
    let actions: Vec<String> = plan
        .actions
        .iter()
        .filter(|a| a.effect != Effect::None)
        .map(|a| format!("{} {}", sign(a), action_line(a)))
        .collect();
    details(&mut text, "Actions", &actions);
    if let (Ok(plan_digest), Ok(grants)) = (plan_digest(plan), grants_digest(&plan.grants)) {
        text.push_str(&format!("Plan `{plan_digest}`, grants `{grants}`\n"));
    }
    cut(text)
}

/// A comparison as Markdown: what is newly allowed comes first and is never folded.
#[must_use]
pub fn diff_markdown(diff: &PlanDiff) -> String {
    let mut text = format!("### Grants: {}\n\n", verdict(diff.grants.verdict));
    list(&mut text, "Newly allowed", &diff.grants.widened);
    list(&mut text, "Changed", &diff.grants.changed);
    list(&mut text, "No longer allowed", &diff.grants.narrowed);
    list(&mut text, "Newly secret", &diff.newly_secret);
    list(&mut text, "Destroyed", &diff.destroyed);
    details(&mut text, "Actions", &diff.actions);
    if let Some(after) = &diff.grants.after {
        text.push_str(&format!("Grants `{after}`\n"));
    }
    cut(text)
}

fn list(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    text.push_str(&format!("**{title}**\n\n"));
    for line in lines {
        text.push_str(&format!("- {}\n", markdown(line)));
    }
    text.push('\n');
}

fn details(text: &mut String, title: &str, lines: &[String]) {
    if lines.is_empty() {
        return;
    }
    let count = lines.len();
    text.push_str(&format!("<details><summary>{title} ({count})</summary>\n\n"));
    for line in lines {
        text.push_str(&format!("- {}\n", markdown(line)));
    }
    text.push_str("\n</details>\n\n");
}

fn cut(mut text: String) -> String {
    if text.len() <= MOST {
        return text;
    }
    let mut end = MOST;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text.push_str("\n\n**Cut here: the whole is longer than a comment may be.**\n");
    text
}
