//! A change to a session that is up: what a person approved, on top of the plan that is in force.
//!
//! No manifest is read and no file that one names: the plan in force holds all that was granted,
//! so nothing but the approval can slip in.

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use super::{Ground, secrets, summarize};
use crate::approvals;
use crate::error::{ErrorCode, PlanError};
use crate::lower::lower;
use crate::plan::{FORMAT_VERSION, Intent, Plan};
use crate::policy::{Approval, Manifest};
use crate::snapshot::{Applied, Snapshot};
use crate::spec::Spec;
use crate::words::Digest;

/// Plans what an approval changes of the session that `applied` brought up.
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
    approval: &Approval,
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
    if let Err(error) = approvals::add(&mut grants.egress.routes, approval) {
        ground.error(
            ErrorCode::BadApproval,
            format!("{}:{} cannot be approved: {error}", approval.host, approval.port),
            "change the route's `port` in the manifest, then plan the session again",
        );
    }
    grants.secrets = secrets(&grants.egress.routes, &grants.env, &grants.git);
    if !session.approvals.iter().any(|known| known.is_same(approval)) {
        session.approvals.push(approval.clone());
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
