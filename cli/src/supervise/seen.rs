//! What approving a proposal would change: what a person is shown, and what an approval is bound to.

use std::collections::BTreeSet;

use bottle_executor::state::{DOCKERFILE, PREVIOUS_PLAN, Roots};
use bottle_planner::approvals::{is_allowed, route_of};
use bottle_planner::decision::PushFinding;
use bottle_planner::diff::{GrantsDiff, diff_grants};
use bottle_planner::document;
use bottle_planner::escape::visible;
use bottle_planner::facts::covers;
use bottle_planner::grants::Grants;
use bottle_planner::plan::Plan;
use bottle_planner::policy::{Approval, BuildHost, HostPattern, PushException, Rule};
use bottle_planner::proposal::Ask;
use bottle_planner::proposed_image::check_for;
use bottle_planner::refusals::Widening;
use bottle_planner::resolve::{Amendment, grants_with_image};
use bottle_planner::words::{Digest, Identity, Name, Role};

use super::pending::Pending;
use crate::amend::{Amended, InForce};
use crate::args::ManifestArgs;
use crate::context::Context;
use crate::decision_log;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::sessions::Sessions;

/// What approving would do.
#[derive(Debug)]
pub enum Effect {
    /// A plan, applied while the agent runs.
    InPlace(Box<Amended>),
    /// Another image: the session is stopped, and comes back in it.
    Image {
        /// What it is built from.
        dockerfile: String,
        /// What the build may reach.
        hosts: BTreeSet<BuildHost>,
    },
    /// Nothing: it is allowed already.
    Nothing,
}

/// A proposal, and what approving it in this form would change.
#[derive(Debug)]
pub struct Seen {
    /// In which form it would be approved.
    pub ask: Ask,
    /// What that does.
    pub effect: Effect,
    /// What the agent may do then, in words.
    pub diff: GrantsDiff,
    /// What an approval names: the plan's digest, or that of the grants after it.
    pub digest: Digest,
    /// The plan in force.
    pub applied: Plan,
}

impl Seen {
    /// Looks at the world as it is now. `ask` is the form in which it would be approved.
    pub fn look(pending: &Pending, ask: &Ask, context: &mut Context) -> Result<Self, Failure> {
        let roots = context.roots(&ManifestArgs::default())?;
        let sessions = Sessions::of(&roots.root);
        let session = &pending.session;
        let in_force = InForce::of(session, context)?;
        let applied = in_force.plan.clone();
        match ask {
            Ask::Egress { host, port, rule } => {
                check_denied(&applied.grants, host, rule)?;
                if is_allowed(&applied.grants.egress.routes, host, *port, rule) {
                    return Self::there(pending, ask, in_force, context);
                }
                let approval = Approval {
                    // The time of the asking, so that the same world gives the same plan.
                    at: pending.proposal.at.clone(),
                    host: host.clone(),
                    port: *port,
                    rule: rule.clone(),
                    by: Some(format!("bottle supervise {}", pending.proposal.id())),
                };
                Self::in_place(ask, &Amendment::Route(approval), applied, context)
            }
            Ask::PushException { remote, fingerprint } => {
                let id = pending.proposal.id();
                if applied.grants.push_exceptions.contains_key(&id) {
                    return Self::there(pending, ask, in_force, context);
                }
                let record = sessions.record(session.as_str())?;
                let finding = finding(&record.folder, remote, fingerprint)?;
                let exception = PushException {
                    remote: remote.clone(),
                    fingerprint: fingerprint.clone(),
                    rule: finding.rule,
                    place: finding.place,
                };
                Self::in_place(ask, &Amendment::PushException(id, exception), applied, context)
            }
            Ask::Image { dockerfile, hosts } => {
                check_image(&applied.grants, dockerfile)?;
                let waiting = waiting_image(&roots, session)?;
                if waiting.as_ref().is_some_and(|other| other != dockerfile) {
                    return Err(Failure::new(
                        Exit::Refused,
                        "another image was approved for the session, and is not in force yet",
                    )
                    .hint(format!(
                        "`bottle resume {session}` first, then look at this one again"
                    )));
                }
                if let Some(image) = &applied.spec.overrides.image {
                    let image = visible(image);
                    let why = format!("BOTTLE_IMAGE ({image}) is set for this session, and wins");
                    return Err(
                        Failure::new(Exit::Refused, why).hint("reject it, and say so in the notes")
                    );
                }
                let (dockerfile, hosts) = (dockerfile.clone(), hosts.clone());
                let after = grants_with_image(&applied.grants, &dockerfile, &hosts);
                if waiting.is_none() && after == applied.grants {
                    return Self::there(pending, ask, in_force, context);
                }
                let diff = diff_grants(Some(&applied.grants), &after);
                let digest = digest(&after)?;
                let effect = Effect::Image { dockerfile, hosts };
                Ok(Self { ask: ask.clone(), effect, diff, digest, applied })
            }
        }
    }

    fn in_place(
        ask: &Ask,
        amendment: &Amendment,
        applied: Plan,
        context: &mut Context,
    ) -> Result<Self, Failure> {
        let amended = Amended::plan(&applied, amendment, &ManifestArgs::default(), context)?;
        let diff = diff_grants(Some(&applied.grants), &amended.plan.grants);
        let digest = amended.text.digest.clone();
        let effect = Effect::InPlace(Box::new(amended));
        Ok(Self { ask: ask.clone(), effect, diff, digest, applied })
    }

    /// The plan last begun allows it. Where it was cut short it is carried on, else there is nothing
    /// to do.
    fn there(
        pending: &Pending,
        ask: &Ask,
        in_force: InForce,
        context: &mut Context,
    ) -> Result<Self, Failure> {
        let InForce { plan: applied, text, complete } = in_force;
        if !complete {
            let roots = context.roots(&ManifestArgs::default())?;
            let before = previous(&roots.state(&pending.session));
            let amended = Amended::begun(text)?;
            let diff = diff_grants(before.as_ref(), &amended.plan.grants);
            let digest = amended.text.digest.clone();
            let effect = Effect::InPlace(Box::new(amended));
            return Ok(Self { ask: ask.clone(), effect, diff, digest, applied });
        }
        let diff = diff_grants(Some(&applied.grants), &applied.grants);
        // Two proposals that change nothing are two decisions all the same.
        let digest = digest(&(pending.proposal.digest(), &applied.grants))?;
        Ok(Self { ask: ask.clone(), effect: Effect::Nothing, diff, digest, applied })
    }

    /// The rule that `--always` keeps.
    #[must_use]
    pub fn widening(&self) -> Option<Widening> {
        self.ask.widening()
    }

    /// The Dockerfile in force.
    #[must_use]
    pub fn dockerfile(&self) -> String {
        self.applied.grants.image.in_force()
    }
}

/// The Dockerfile that was approved and is not in force yet.
pub fn waiting_image(roots: &Roots, session: &Identity) -> Result<Option<String>, Failure> {
    let path = roots.state(session).join(DOCKERFILE);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Failure::error(format!("cannot read {}", path.display())).because(&error));
        }
    };
    let applied = Sessions::of(&roots.root).plan_text(session)?;
    let applied = applied.and_then(|text| PlanText::stored(text).ok()?.lenient().ok());
    let in_force = applied.is_some_and(|plan| plan.grants.image.in_force() == text);
    Ok((!in_force).then_some(text))
}

/// A deny rule wins over any approval: to approve what it refuses would be an empty word.
fn check_denied(grants: &Grants, host: &HostPattern, rule: &Rule) -> Result<(), Failure> {
    let route = route_of(&grants.egress.routes, host).map(|(_, route)| route);
    if !route.is_some_and(|route| route.deny.iter().any(|deny| covers(deny, rule))) {
        return Ok(());
    }
    Err(Failure::new(Exit::Refused, format!("a deny rule of the route of {host} refuses that"))
        .hint("reject it, or change `deny` of the route in the manifest"))
}

/// What was granted before the plan that was begun.
fn previous(state: &std::path::Path) -> Option<Grants> {
    let text = std::fs::read_to_string(state.join(PREVIOUS_PLAN)).ok()?;
    Some(PlanText::stored(text).ok()?.lenient().ok()?.grants)
}

/// Whoever wrote it: a person's own version of it is built in the same place.
fn check_image(grants: &Grants, dockerfile: &str) -> Result<(), Failure> {
    let Err(findings) = check_for(&grants.image, dockerfile) else { return Ok(()) };
    let mut failure = Failure::new(Exit::Refused, "the proposed image cannot be approved");
    for finding in findings {
        failure.problems.extend(Failure::new(Exit::Refused, finding).problems);
    }
    Err(failure.hint("reject it with notes, or change it with `bottle supervise modify`"))
}

/// The finding as the gate logged it: what the agent says of it counts for nothing.
fn finding(
    record: &std::path::Path,
    remote: &Name,
    fingerprint: &str,
) -> Result<PushFinding, Failure> {
    let mut found = None;
    decision_log::each(record, Role::GitGate, |_, decision| {
        let Some(push) = decision.push.filter(|push| push.remote == remote.as_str()) else {
            return;
        };
        found = push.findings.into_iter().find(|f| f.fingerprint == fingerprint).or(found.take());
    })?;
    found.ok_or_else(|| {
        Failure::new(
            Exit::Refused,
            format!("the git gate has refused no push to {remote} with finding {fingerprint}"),
        )
        .hint("there is nothing to approve: reject it, and say so in the notes")
    })
}

fn digest<T: serde::Serialize>(value: &T) -> Result<Digest, Failure> {
    document::digest(value).map_err(|e| Failure::error(e.to_string()))
}
