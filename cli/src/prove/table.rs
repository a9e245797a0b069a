//! The table of attempts: what should happen, what happened, and which walls did not hold.

use std::collections::{BTreeMap, BTreeSet};

use bottle_planner::escape::visible;
use bottle_sidecar::prove::{Expected, Finding, Outcome};
use serde::Serialize;

use crate::output::Colour;

/// Widths of the columns, in characters; with what stands between them they make 80.
const WHAT: usize = 38;
const SHOULD: usize = 7;
const HAPPENED: usize = 26;
/// The most characters that are shown of one cell: it may be an agent's text.
const LONGEST: usize = 200;
/// The most rows that are shown.
const MOST: usize = 1000;

/// One row: a finding, and what to do where a wall did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// The finding.
    #[serde(flatten)]
    pub finding: Finding,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<&'static str>,
}

/// The rows of what was found inside, corrected by what this host itself heard.
pub fn rows(found: Vec<Finding>, heard: &BTreeSet<String>) -> Vec<Row> {
    let mut at = BTreeMap::<&str, Vec<&str>>::new();
    for id in heard {
        let (id, target) = id.split_once('/').unwrap_or((id, ""));
        at.entry(id).or_default().push(target);
    }
    found.into_iter().take(MOST).map(|finding| row(finding, &at)).collect()
}

fn row(mut finding: Finding, heard: &BTreeMap<&str, Vec<&str>>) -> Row {
    let expected = finding.expected;
    if let (Expected::Refused, Some(targets)) = (expected, heard.get(finding.id.as_str())) {
        let targets: Vec<&str> = targets.iter().copied().filter(|t| !t.is_empty()).collect();
        let how = match targets.as_slice() {
            [] => "this host heard it".to_owned(),
            targets => format!("this host heard it at {}", targets.join(", ")),
        };
        let Finding { id, family, attempt, .. } = &finding;
        finding = Finding::new(id, family, attempt, expected, Outcome::Allowed(how));
    }
    let fix = if finding.held { None } else { fix(&finding.id) };
    Row { finding, fix }
}

/// What to do about an open wall, where somebody knows.
fn fix(id: &str) -> Option<&'static str> {
    // A bridge without an address takes datagrams in all the same, unless the kernel checks that it
    // could answer where they came from; 1 and 2 both do, 0 does not.
    id.starts_with("one-way-").then_some(
        "let the kernel drop what it could not answer: `sudo sysctl -w \
         net.ipv4.conf.all.rp_filter=2`, and the same in /etc/sysctl.d",
    )
}

/// The table. `paint` colours a cell.
pub fn table(rows: &[Row], paint: impl Fn(Colour, &str) -> String) -> String {
    let mut text = String::new();
    let mut family = None;
    for row in rows {
        if family != Some(&row.finding.family) {
            if family.is_some() {
                text.push('\n');
            }
            let head =
                format!("{:<w$}  should   happened", title(&row.finding.family), w = WHAT + 5);
            text.push_str(&paint(Colour::Bold, &head));
            text.push('\n');
            family = Some(&row.finding.family);
        }
        push(&mut text, &row.finding, &paint);
    }
    text
}

fn push(text: &mut String, finding: &Finding, paint: &impl Fn(Colour, &str) -> String) {
    let (colour, mark) = match (finding.tried, finding.held, finding.expected) {
        (false, ..) => (Colour::Yellow, "-   "),
        (true, true, _) => (Colour::Green, "ok  "),
        (true, false, Expected::Refused) => (Colour::Red, "OPEN"),
        (true, false, Expected::Allowed) => (Colour::Red, "SHUT"),
    };
    let should = match finding.expected {
        Expected::Refused => "refused",
        Expected::Allowed => "allowed",
    };
    let happened = if finding.tried {
        finding.happened.clone()
    } else {
        format!("not tried: {}", finding.happened)
    };
    let (what, happened) = (wrapped(&finding.attempt, WHAT), wrapped(&happened, HAPPENED));
    for line in 0..what.len().max(happened.len()) {
        let cell = |lines: &[String]| lines.get(line).cloned().unwrap_or_default();
        let (mark, should) = match line {
            0 => (paint(colour, mark), should),
            _ => ("    ".to_owned(), ""),
        };
        let rest = format!("{:<WHAT$}  {should:<SHOULD$}  {}", cell(&what), cell(&happened));
        text.push_str(format!("{mark} {rest}").trim_end());
        text.push('\n');
    }
}

fn title(family: &str) -> String {
    match family {
        "host" => "This host".to_owned(),
        "network" => "Past the proxy".to_owned(),
        "names" => "Names".to_owned(),
        "proxy" => "Through the proxy".to_owned(),
        "files" => "Files, devices, processes".to_owned(),
        "privileges" => "Privileges".to_owned(),
        "limits" => "Limits".to_owned(),
        other => visible(other).chars().take(WHAT).collect(),
    }
}

/// Text from a container, harmless and bounded, in lines of a width; what has no space to break at is
/// broken where the width ends.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let text: String = text.chars().take(LONGEST).collect();
    let text = visible(&text);
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let mut word: Vec<char> = word.chars().collect();
        loop {
            let gap = usize::from(used > 0);
            if used + gap + word.len() <= width {
                if let Some(line) = lines.last_mut() {
                    line.extend(std::iter::repeat_n(' ', gap));
                    line.extend(&word);
                }
                used += gap + word.len();
                break;
            }
            if used > 0 {
                lines.push(String::new());
                used = 0;
                continue;
            }
            let rest = word.split_off(width);
            if let Some(line) = lines.last_mut() {
                line.extend(&word);
            }
            lines.push(String::new());
            word = rest;
        }
    }
    lines
}

/// The last line: how many were tried, and which walls did not hold.
pub fn last_line(rows: &[Row]) -> String {
    let tried = rows.iter().filter(|row| row.finding.tried).count();
    let left = rows.len() - tried;
    let left = if left > 0 { format!(", {left} not tried") } else { String::new() };
    let open: Vec<String> = rows
        .iter()
        .filter(|row| !row.finding.held)
        .map(|row| visible(&row.finding.id.chars().take(LONGEST).collect::<String>()))
        .collect();
    match open.as_slice() {
        [] => format!("{tried} attempts{left}: every wall held"),
        [one] => format!("{tried} attempts{left}: 1 did not go as it should: {one}"),
        several => format!(
            "{tried} attempts{left}: {} did not go as they should: {}",
            several.len(),
            several.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(id: &str, what: &str, expected: Expected, outcome: Outcome) -> Finding {
        Finding::new(id, "network", what, expected, outcome)
    }

    fn plain(rows: &[Row]) -> String {
        table(rows, |_, text| text.to_owned())
    }

    #[test]
    fn rows_say_what_should_happen_and_what_did() {
        let refused = Outcome::Refused("no answer".into());
        let found = vec![
            finding(
                "net-twin",
                "TCP to egress",
                Expected::Allowed,
                Outcome::Allowed("connected".into()),
            ),
            finding("host-tcp", "TCP to this host", Expected::Refused, refused.clone()),
            finding("granted", "GET what is granted", Expected::Allowed, refused),
            finding("x", "a thing", Expected::Refused, Outcome::NotTried("not here".into())),
        ];
        let rows = rows(found, &["host-tcp/192.0.2.1".to_owned()].into());
        assert_eq!(
            plain(&rows),
            "\
Past the proxy                               should   happened
ok   TCP to egress                           allowed  connected
OPEN TCP to this host                        refused  this host heard it at
                                                      192.0.2.1
SHUT GET what is granted                     allowed  no answer
-    a thing                                 refused  not tried: not here
"
        );
        assert_eq!(
            last_line(&rows),
            "3 attempts, 1 not tried: 2 did not go as they should: host-tcp, granted"
        );
    }

    #[test]
    fn what_held_is_said_in_one_line() {
        let held = finding("a", "b", Expected::Refused, Outcome::Refused("c".into()));
        let rows = rows(vec![held], &BTreeSet::new());
        assert_eq!(last_line(&rows), "1 attempts: every wall held");
    }

    #[test]
    fn no_line_is_longer_than_a_terminal_and_none_commands_it() {
        let hostile = "\u{1b}[2J".repeat(30) + &"é ".repeat(90) + &"x".repeat(500);
        let found = finding("a", &hostile, Expected::Refused, Outcome::Refused(hostile.clone()));
        let text = plain(&rows(vec![Finding { family: hostile, ..found }], &BTreeSet::new()));
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(!text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn a_row_cannot_claim_that_what_was_heard_held() {
        let heard = ["hidden-cl-te".to_owned()].into();
        let claim = finding("hidden-cl-te", "x", Expected::Refused, Outcome::Refused("400".into()));
        let rows = rows(vec![claim], &heard);
        assert!(!rows[0].finding.held);
        assert_eq!(rows[0].finding.happened, "this host heard it");
    }

    #[test]
    fn what_can_be_mended_says_how() {
        let open = |id| finding(id, "x", Expected::Refused, Outcome::Allowed("y".into()));
        let rows = rows(vec![open("one-way-broadcast"), open("chroot")], &BTreeSet::new());
        assert!(rows[0].fix.is_some_and(|fix| fix.contains("rp_filter")));
        assert_eq!(rows[1].fix, None);
    }
}
