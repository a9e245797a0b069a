//! A change to a session that is up: what a person approved, on top of the plan that is in force.
//!
//! No manifest is read and no file that one names: the plan in force holds all that was granted,
//! so nothing but the change can slip in.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::{Ground, secrets, summarize};
use crate::approvals;
use crate::error::{ErrorCode, PlanError};
use crate::grants::{Grants, ImageGrant};
use crate::lower::lower;
use crate::plan::{FORMAT_VERSION, Intent, Plan};
use crate::policy::{Approval, BuildHost, BuildNetwork, Manifest, PushException};
use crate::snapshot::{Applied, Snapshot};
use crate::spec::Spec;
use crate::words::Digest;

/// One thing more that a person lets a session do, in force without a container made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Amendment {
    /// A rule for a host.
    Route(Approval),
    /// A finding that may be pushed, by the id of the proposal that asked.
    PushException(String, PushException),
}

/// Plans what a change makes of the session that `applied` brought up.
///
/// What else the session drifted by is in the plan too, to be repaired: whoever asked for nothing
/// but the approval looks at the actions first.
///
/// # Errors
///
/// No engine, a session whose last applied plan is another or was cut short, or an approval that
/// does not fit its routes.
pub fn plan_amended(
    applied: &Plan,
    change: &Amendment,
    snapshot: &Snapshot,
) -> Result<Plan, Vec<PlanError>> {
    let manifest = Manifest::default();
    let spec =
        Spec { resume: false, offline: false, refresh: Default::default(), ..applied.spec.clone() };
    let mut ground = Ground::new(&manifest, &spec, snapshot);
    ground.check_engine();
    let parent = check_applied(&mut ground, applied);
    let mut grants = applied.grants.clone();
    let mut session = applied.session.clone();
    match change {
        Amendment::Route(approval) => {
            ground.add_route(approval, &mut grants);
            if !session.approvals.iter().any(|known| known.is_same(approval)) {
                session.approvals.push(approval.clone());
            }
        }
        Amendment::PushException(id, exception) => {
            ground.add_exception(id, exception, &mut grants);
        }
    }
    let prompt = applied.prompt().unwrap_or_default();
    let desired = lower(&applied.identity, &grants, &session, &spec, prompt);
    let actions = ground.difference(&applied.identity, &session, desired);
    let mut errors = ground.errors;
    errors.sort();
    errors.dedup();
    let (Some(actions), true) = (actions, errors.is_empty()) else { return Err(errors) };
    Ok(Plan {
        kind: "bottle/plan".to_string(),
        format_version: FORMAT_VERSION.to_string(),
        written_by: snapshot.tool.version.clone(),
        intent: Intent::Launch,
        identity: applied.identity.clone(),
        parent,
        spec: spec.clone(),
        grants,
        session,
        requires: applied.requires.iter().cloned().chain(ground.requires).collect(),
        summary: summarize(&actions),
        actions,
        notices: ground.notices.into_iter().collect(),
    })
}

/// What a session may do once it runs in a proposed image: all that it may do now.
#[must_use]
pub fn grants_with_image(
    applied: &Grants,
    dockerfile: &str,
    hosts: &BTreeSet<BuildHost>,
) -> Grants {
    let image = ImageGrant::Build {
        dockerfile: dockerfile.to_string(),
        context: None,
        network: BuildNetwork::Session,
        allow_from: applied.image.allow_from().clone(),
        approved_change: true,
        hosts: hosts.clone(),
    };
    Grants { image, ..applied.clone() }
}

impl Ground<'_> {
    fn add_route(&mut self, approval: &Approval, grants: &mut Grants) {
        let routes = &mut grants.egress.routes;
        if let Err(error) = approvals::add(routes, approval) {
            self.error(
                ErrorCode::BadApproval,
                format!("{}:{} cannot be approved: {error}", approval.host, approval.port),
                "change the route's `port` in the manifest, then plan the session again",
            );
        }
        grants.secrets = secrets(&grants.egress.routes, &grants.env, &grants.git);
    }

    fn add_exception(&mut self, id: &str, exception: &PushException, grants: &mut Grants) {
        if !grants.git.contains_key(&exception.remote) {
            self.error(
                ErrorCode::BadApproval,
                format!("the session has no git remote `{}`", exception.remote),
                "`bottle git log` lists the pushes, each with its remote",
            );
        }
        grants.push_exceptions.insert(id.to_string(), exception.clone());
    }
}

/// The parent: the plan in force, if it is this one.
///
/// Compared by what it says and not by its digest: a plan that an older minor version wrote has
/// fewer fields than the same plan written again.
fn check_applied(ground: &mut Ground<'_>, applied: &Plan) -> Option<Digest> {
    let identity = &applied.identity;
    let is_it = |last: &&Applied| {
        applied.intent == Intent::Launch
            && *last.session == applied.session
            && *last.grants == applied.grants
            && *last.spec == applied.spec
    };
    let Some(last) = ground.applied().filter(is_it) else {
        ground.error(
            ErrorCode::BadSession,
            format!("the plan is not the one that is in force for session `{identity}`"),
            "begin again: somebody applied another plan in between",
        );
        return None;
    };
    if !last.complete {
        ground.error(
            ErrorCode::BadSession,
            format!("the last plan of session `{identity}` was only partly applied"),
            format!("carry it on first: `bottle plan --identity {identity} | bottle apply -`"),
        );
    }
    Some(last.plan.clone())
}
