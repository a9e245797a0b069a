//! Two plans compared: grants first, in words; then the world; then the text.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::approvals::{own_copy, route_of};
use crate::facts::{Fact, Weight, covers, facts};
use crate::grants::{Grants, SecretUse};
use crate::plan::{Action, Effect, Plan};
use crate::resolve::grants_digest;
use crate::words::Digest;

/// What a change of grants amounts to.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing granted has changed.
    Same,
    /// Less is granted.
    Narrowed,
    /// More is granted.
    Widened,
    /// More here and less there, or a change that cannot be weighed.
    Both,
}

/// The comparison of two grants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GrantsDiff {
    /// What it amounts to.
    pub verdict: Verdict,
    /// The digest before.
    pub before: Option<Digest>,
    /// The digest after.
    pub after: Option<Digest>,
    /// What is newly possible: `newly allows …`.
    pub widened: Vec<String>,
    /// What is no longer possible: `no longer allows …`.
    pub narrowed: Vec<String>,
    /// What is different without being clearly more or less.
    pub changed: Vec<String>,
}

/// The comparison of two plans.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct PlanDiff {
    /// Grants first.
    pub grants: GrantsDiff,
    /// Secrets that only the second plan needs.
    pub newly_secret: Vec<String>,
    /// What the second plan destroys.
    pub destroyed: Vec<String>,
    /// Actions that are there, or differ, on one side: `+`, `-` or `~` and the action's line.
    pub actions: Vec<String>,
}

/// Compares what two plans grant and do.
#[must_use]
pub fn diff(before: &Plan, after: &Plan) -> PlanDiff {
    let newly_secret = after
        .grants
        .secrets
        .keys()
        .filter(|secret| !before.grants.secrets.contains_key(secret))
        .map(ToString::to_string)
        .collect();
    let destroyed =
        after.actions.iter().filter(|a| a.destructive).map(crate::show::action_line).collect();
    PlanDiff {
        grants: diff_grants(Some(&before.grants), &after.grants),
        newly_secret,
        destroyed,
        actions: diff_actions(&before.actions, &after.actions),
    }
}

/// Compares grants; no grants before means that everything is new.
#[must_use]
pub fn diff_grants(before: Option<&Grants>, after: &Grants) -> GrantsDiff {
    let mut diff = GrantsDiff {
        verdict: Verdict::Same,
        before: before.and_then(|g| grants_digest(g).ok()),
        after: grants_digest(after).ok(),
        widened: Vec::new(),
        narrowed: Vec::new(),
        changed: Vec::new(),
    };
    let after_too = before.map_or_else(|| after.clone(), |before| spelled_out(after, before));
    let before = before.map(|before| spelled_out(before, after));
    let (before, after) = (before.as_ref(), &after_too);
    let (old, new) = (before.map(facts).unwrap_or_default(), facts(after));
    for (key, fact) in &new {
        match old.get(key) {
            None => added(&mut diff, before, after, key, fact),
            Some(was) if was == fact => {}
            Some(was) => altered(&mut diff, was, fact),
        }
    }
    for (key, fact) in &old {
        if !new.contains_key(key) {
            removed(&mut diff, before, after, key, fact);
        }
    }
    if diff.before != diff.after
        && diff.widened.is_empty()
        && diff.narrowed.is_empty()
        && diff.changed.is_empty()
    {
        diff.changed.push("differs in a way that only the text shows".to_string());
    }
    diff.verdict = match (
        !diff.widened.is_empty() || !diff.changed.is_empty(),
        !diff.narrowed.is_empty() || !diff.changed.is_empty(),
    ) {
        (false, false) => Verdict::Same,
        (true, false) => Verdict::Widened,
        (false, true) => Verdict::Narrowed,
        (true, true) => Verdict::Both,
    };
    diff
}

/// The same grants, with a route of its own for every host that has one on the other side alone and
/// that a wildcard decides about on this: so what is compared is what each side means for the host.
fn spelled_out(grants: &Grants, other: &Grants) -> Grants {
    let mut spelled = grants.clone();
    for host in other.egress.routes.keys() {
        if !grants.egress.routes.contains_key(host)
            && let Some((_, route)) = route_of(&grants.egress.routes, host)
        {
            let rules = route.allow.iter().filter_map(|rule| rule.auth.as_ref());
            for auth in route.auth.iter().chain(rules) {
                let uses = spelled.secrets.entry(auth.secret.clone()).or_default();
                uses.insert(SecretUse::Inject { host: host.clone() });
            }
            spelled.egress.routes.insert(host.clone(), own_copy(route));
        }
    }
    spelled
}

fn added(diff: &mut GrantsDiff, before: Option<&Grants>, after: &Grants, key: &str, fact: &Fact) {
    match fact.weight {
        // The strictest level of something new is no more than the new thing itself.
        Weight::Level(0) => {}
        Weight::Restriction => diff.narrowed.push(format!("will now {}", fact.text)),
        _ if before.is_some_and(|b| is_covered(key, after, b)) => {
            diff.narrowed.push(format!("now only allows: {}", fact.text));
        }
        _ => diff.widened.push(format!("newly allows: {}", fact.text)),
    }
}

fn removed(diff: &mut GrantsDiff, before: Option<&Grants>, after: &Grants, key: &str, fact: &Fact) {
    match fact.weight {
        Weight::Level(_) => {}
        Weight::Restriction => diff.widened.push(format!("will no longer {}", fact.text)),
        _ if before.is_some_and(|b| is_covered(key, b, after)) => {}
        _ => diff.narrowed.push(format!("no longer allows: {}", fact.text)),
    }
}

fn altered(diff: &mut GrantsDiff, was: &Fact, now: &Fact) {
    let text = format!("{} (was: {})", now.text, was.text);
    match (was.weight, now.weight) {
        (Weight::Level(a), Weight::Level(b)) if b > a => {
            diff.widened.push(format!("newly allows: {text}"));
        }
        (Weight::Level(a), Weight::Level(b)) if b < a => {
            diff.narrowed.push(format!("now only allows: {text}"));
        }
        _ => diff.changed.push(format!("will now {text}")),
    }
}

/// Whether the allow rule behind a fact's key lies within one rule the other grants have for the
/// same host.
fn is_covered(key: &str, of: &Grants, by: &Grants) -> bool {
    let Some((at, _)) = key.strip_prefix("route/").and_then(|k| k.split_once("/allow/")) else {
        return false;
    };
    let route = |grants: &Grants| {
        grants
            .egress
            .routes
            .iter()
            .find(|(host, route)| format!("{host}:{}", route.port) == at)
            .map(|(_, route)| route.clone())
    };
    let (Some(of), Some(by)) = (route(of), route(by)) else { return false };
    of.auth == by.auth
        && of
            .allow
            .iter()
            .filter(|rule| {
                let auth = rule.auth.as_ref().or(of.auth.as_ref());
                key.ends_with(crate::facts::allow_text(at, rule, auth).as_str())
            })
            .all(|rule| by.allow.iter().any(|wide| covers(wide, rule)))
}

fn is_calm(action: &Action) -> bool {
    action.effect == Effect::None
}

fn diff_actions(before: &[Action], after: &[Action]) -> Vec<String> {
    let by_id = |actions: &[Action]| -> BTreeMap<String, (Action, String)> {
        actions
            .iter()
            .map(|a| (a.id.to_string(), (a.clone(), crate::show::action_line(a))))
            .collect()
    };
    let (old, new) = (by_id(before), by_id(after));
    let mut lines = Vec::new();
    for (id, (action, line)) in &new {
        match old.get(id) {
            None if action.effect == Effect::None => {}
            None => lines.push(format!("+ {line}")),
            // What was made before and is found well now is no difference; another payload is.
            Some((was, _)) if was == action || was.op == action.op && is_calm(action) => {}
            Some(_) => lines.push(format!("~ {line}")),
        }
    }
    for (id, (_, line)) in &old {
        if !new.contains_key(id) {
            lines.push(format!("- {line}"));
        }
    }
    lines
}
