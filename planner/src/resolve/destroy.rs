//! The plan that takes a session down: the same file, the same checks, nothing created.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use super::difference::Difference;
use super::{Ground, summarize};
use crate::error::{ErrorCode, PlanError};
use crate::grants::Grants;
use crate::lower::placeholders;
use crate::plan::{
    ActionId, Archive, Expect, FORMAT_VERSION, Intent, ObjectRef, Operation, Plan, ReasonCode,
    Requirement, Save, Session,
};
use crate::policy::{Manifest, WorkspaceMode};
use crate::provider;
use crate::snapshot::Snapshot;
use crate::words::{Identity, Role};

/// What becomes of an agent's work at the end of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It is saved with the record before anything goes.
    Saved,
    /// It goes with its volumes.
    Nothing,
}

/// Plans the end of a session.
///
/// The agent's work is saved; containers, networks and volumes go; the state folder moves to
/// history. Removing a volume is destructive, and the plan says so.
///
/// # Errors
///
/// No engine, no session of that name, or work to save that no container holds any more.
pub fn plan_destroy(
    identity: &Identity,
    snapshot: &Snapshot,
    keep: Keep,
) -> Result<Plan, Vec<PlanError>> {
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
    if keep == Keep::Saved {
        match ground.own_container(identity, Role::Agent) {
            Some((name, found)) => {
                let save = what_is_saved(&applied.session, &applied.grants, name);
                last.insert(difference.save_first(save, found));
            }
            None if was_up(identity, snapshot) => {
                ground.error(
                    ErrorCode::BadSession,
                    format!("the agent's container of `{identity}` is gone: its work cannot be saved"),
                    "`bottle resume` makes it anew from its volumes; `bottle destroy --unsaved` gives \
                     the work up",
                );
            }
            None => {}
        }
    }
    // Networks and volumes go once nothing uses them, and what is saved is saved.
    let before = last.clone();
    for (key, place) in [("net", &applied.session.net), ("out", &applied.session.out)] {
        let Some(network) = snapshot.networks.get(&place.name) else { continue };
        if !ground.is_ours(identity, &network.labels) {
            continue;
        }
        let id = format!("remove-network:{key}");
        let op = Operation::RemoveNetwork(ObjectRef { name: place.name.clone() });
        let expect = Expect::Object { id: network.id.clone() };
        difference.delete(&id, op, before.clone(), expect);
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
        difference.delete(&id, op, before.clone(), Expect::Ours);
        last.insert(ActionId(id));
    }
    for placeholder in placeholders(&applied.session) {
        let id = format!("remove-placeholder:{}", placeholder.path);
        let op = Operation::RemovePlaceholder(placeholder);
        difference.delete(&id, op, before.clone(), Expect::Ours);
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

/// What is saved of a session whose agent's container has this name.
pub(crate) fn what_is_saved(session: &Session, grants: &Grants, container: &str) -> Save {
    let work = session.workspace.as_ref().and_then(|place| match place.mode {
        WorkspaceMode::Copy | WorkspaceMode::Clone => Some(place.inside.clone()),
        // The files are the host's already; what was committed is in a repository of the session's.
        WorkspaceMode::Mount => place.git.as_ref().map(|git| git.folder.clone()),
        WorkspaceMode::None => None,
    });
    Save {
        container: container.to_string(),
        workspace: work,
        transcripts: provider::transcripts(&grants.provider),
    }
}

/// Whether the session's agent has had a container, and its work was not saved when that went.
fn was_up(identity: &Identity, snapshot: &Snapshot) -> bool {
    let Some(facts) = &snapshot.session else { return false };
    // What was put into a container is forgotten when a plan removes it, and not when others do.
    let by_others = facts.uploaded.values().any(|(onto, _)| !onto.starts_with("volume:"));
    let unsaved = !facts.uploaded.is_empty() && !facts.saved;
    (by_others || unsaved) && snapshot.volumes.contains_key(&format!("bottle-home-{identity}"))
}
