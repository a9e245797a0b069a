//! The plan that takes a session down: the same file, the same checks, nothing created.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::difference::Difference;
use super::{Ground, summarize};
use crate::error::{ErrorCode, PlanError};
use crate::lower::placeholders;
use crate::plan::{
    ActionId, Archive, Expect, FORMAT_VERSION, Intent, ObjectRef, Operation, Plan, ReasonCode,
    Requirement,
};
use crate::policy::Manifest;
use crate::snapshot::Snapshot;
use crate::words::{Identity, Role};

/// Plans the end of a session.
///
/// Containers, networks and volumes go; the state folder moves to history. Removing a volume is
/// destructive, and the plan says so.
///
/// # Errors
///
/// No engine, or no session of that name.
pub fn plan_destroy(identity: &Identity, snapshot: &Snapshot) -> Result<Plan, Vec<PlanError>> {
    let Some(applied) = snapshot
        .session
        .as_ref()
        .filter(|s| s.identity == *identity)
        .and_then(|s| s.applied.as_ref())
    else {
        return Err(vec![PlanError {
            code: ErrorCode::BadSession,
            message: format!("there is no session `{identity}`"),
            hint: format!(
                "sessions live below {}/state; ended ones are in history",
                snapshot.host.state_root
            ),
        }]);
    };
    let manifest = Manifest::default();
    let mut ground = Ground::new(&manifest, &applied.spec, snapshot);
    ground.check_engine();
    let mut difference = Difference::empty(identity.clone(), (*applied.session).clone());
    let mut gone = BTreeSet::new();
    for role in Role::ALL {
        if let Some((name, found)) = ground.own_container(identity, role) {
            gone.insert(difference.take_down(role, name, found, ReasonCode::Requested));
        }
    }
    let mut last: BTreeSet<ActionId> = gone.clone();
    for (key, place) in [("net", &applied.session.net), ("out", &applied.session.out)] {
        let Some(network) = snapshot.networks.get(&place.name) else { continue };
        if !ground.is_ours(identity, &network.labels) {
            continue;
        }
        let id = format!("remove-network:{key}");
        let op = Operation::RemoveNetwork(ObjectRef { name: place.name.clone() });
        let expect = Expect::Object { id: network.id.clone() };
        difference.delete(&id, op, gone.clone(), expect);
        last.insert(ActionId(id));
    }
    for key in ["home", "work", "git", "mirrors"] {
        let name = format!("bottle-{key}-{identity}");
        let Some(volume) = snapshot.volumes.get(&name) else { continue };
        if !ground.is_ours(identity, &volume.labels) {
            continue;
        }
        let id = format!("remove-volume:{key}");
        let op = Operation::RemoveVolume(ObjectRef { name });
        difference.delete(&id, op, gone.clone(), Expect::Ours);
        last.insert(ActionId(id));
    }
    for placeholder in placeholders(&applied.session) {
        let id = format!("remove-placeholder:{}", placeholder.path);
        let op = Operation::RemovePlaceholder(placeholder);
        difference.delete(&id, op, gone.clone(), Expect::Ours);
        last.insert(ActionId(id));
    }
    let op = Operation::Archive(Archive { identity: identity.clone() });
    difference.delete("archive:state", op, last, Expect::Ours);
    let actions = difference.in_order(&mut ground);
    ground.requires.insert(Requirement::Owner { owner: applied.session.owner.clone() });
    match actions {
        Some(actions) if ground.errors.is_empty() => Ok(Plan {
            kind: "bottle/plan".to_string(),
            format_version: FORMAT_VERSION.to_string(),
            written_by: snapshot.tool.version.clone(),
            intent: Intent::Destroy,
            identity: identity.clone(),
            parent: Some(applied.plan.clone()),
            spec: (*applied.spec).clone(),
            grants: (*applied.grants).clone(),
            session: (*applied.session).clone(),
            requires: core::mem::take(&mut ground.requires),
            summary: summarize(&actions),
            actions,
            notices: core::mem::take(&mut ground.notices).into_iter().collect(),
        }),
        _ => Err(ground.errors),
    }
}
