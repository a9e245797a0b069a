//! What a session's state folder holds: content digests, modes, and the executor's own records.

use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::Plan;
use bottle_planner::snapshot::{Applied, SessionFacts, StateFile};
use bottle_planner::words::{Digest, Identity, RelPath};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ProbeError;
use crate::files::{Kind, Root, is_temporary};
use crate::state::{
    ANSWERS, APPROVALS, BUILD_HOSTS, BuildHosts, CA_KEY, DOCKERFILE, Ledger, PUSH_EXCEPTIONS,
    RESERVED,
};
use crate::{ca, ledger};

/// The session CA's certificate.
const CA_CERTIFICATE: &str = "egress/in/ca.crt";

/// Reads a state folder; `None` where there is none.
pub(super) fn facts(
    identity: &Identity,
    path: &std::path::Path,
) -> Result<Option<SessionFacts>, ProbeError> {
    let Some(root) = Root::open(path)? else { return Ok(None) };
    let ledger = ledger::load(&root)?.unwrap_or_default();
    let mut facts = SessionFacts {
        identity: identity.clone(),
        applied: applied(&root, &ledger)?,
        files: Default::default(),
        folders: Default::default(),
        oddities: Default::default(),
        dockerfile: None,
        build_hosts: Default::default(),
        push_exceptions: stored(&root, PUSH_EXCEPTIONS)?,
        approvals: stored(&root, APPROVALS)?,
        ca_fingerprint: text(&root, CA_CERTIFICATE)?.as_deref().and_then(ca::fingerprint),
        uploaded: ledger.uploaded.clone(),
        delivered: ledger.delivered.clone(),
        loaded: ledger.loaded.clone(),
        saved: root.entry(&ledger::own(crate::work::SUMMARY)?)?.is_some(),
    };
    facts.dockerfile = text(&root, DOCKERFILE)?;
    if let Some(dockerfile) = &facts.dockerfile {
        let hosts = stored::<BuildHosts>(&root, BUILD_HOSTS)?;
        let digest = Digest::of(dockerfile.as_bytes());
        facts.build_hosts = hosts.get(&digest).cloned().unwrap_or_default();
    }
    walk(&root, None, &ledger, &mut facts)?;
    Ok(Some(facts))
}

fn walk(
    root: &Root,
    folder: Option<&RelPath>,
    ledger: &Ledger,
    facts: &mut SessionFacts,
) -> Result<(), ProbeError> {
    for name in root.list(folder)? {
        let path = match folder {
            Some(folder) => folder.join(&name),
            None => RelPath::new(&*name),
        };
        // A name that no plan can hold cannot be in a plan's way.
        let Ok(path) = path else { continue };
        if is_temporary(&name) || is_own(&path) {
            continue;
        }
        let Some(entry) = root.entry(&path)? else { continue };
        match entry.kind {
            Kind::Folder => {
                facts.folders.insert(path.clone(), entry.mode);
                if !is_out(&path) {
                    walk(root, Some(&path), ledger, facts)?;
                }
            }
            Kind::File if path.as_str() == CA_KEY => {}
            Kind::File => {
                let Some(content) = root.read(&path)? else { continue };
                let written = ledger.files.get(&path).cloned();
                let file = StateFile { digest: content.digest, mode: content.mode, written };
                facts.files.insert(path, file);
            }
            Kind::Link | Kind::Other => {
                facts.oddities.insert(path);
            }
        }
    }
    Ok(())
}

/// What the executor keeps for itself.
fn is_own(path: &RelPath) -> bool {
    RESERVED.contains(&path.as_str())
        || path.as_str() == ledger::BACKUP
        || path.as_str() == ANSWERS
        || path.as_str().split('/').next_back() == Some(ledger::APPLIED)
}

/// A container's own folder, `<role>/out`: listed as a folder, never looked into.
fn is_out(path: &RelPath) -> bool {
    path.as_str().split_once('/').is_some_and(|(_, name)| name == "out")
}

fn applied(root: &Root, ledger: &Ledger) -> Result<Option<Applied>, ProbeError> {
    let Some(digest) = &ledger.plan else { return Ok(None) };
    let Some(text) = ledger::plan_text(root, digest)? else {
        let path = root.path().join(crate::state::PLAN);
        let why = format!("the ledger names plan {digest}, and it is not there");
        return Err(ProbeError::Malformed { path, why });
    };
    let plan = document::parse::<Plan>(&text, Strictness::Lenient);
    let plan = plan.map_err(|e| malformed(root, crate::state::PLAN, &e))?.value;
    Ok(Some(Applied {
        plan: digest.clone(),
        complete: ledger.complete,
        session: Box::new(plan.session),
        grants: Box::new(plan.grants),
        spec: Box::new(plan.spec),
    }))
}

/// What a person approved, as a plan wrote it; nothing where nothing was.
fn stored<T: Default + Serialize + DeserializeOwned>(
    root: &Root,
    name: &str,
) -> Result<T, ProbeError> {
    let Some(text) = text(root, name)? else { return Ok(T::default()) };
    let found = document::parse::<T>(&text, Strictness::Strict);
    Ok(found.map_err(|e| malformed(root, name, &e))?.value)
}

/// A text file of the state folder; a link or anything else in its place is an oddity, not text.
fn text(root: &Root, name: &str) -> Result<Option<String>, ProbeError> {
    let path = RelPath::new(name).map_err(|e| malformed(root, name, &e))?;
    match root.entry(&path)? {
        Some(entry) if entry.kind == Kind::File => {}
        _ => return Ok(None),
    }
    let Some(content) = root.read(&path)? else { return Ok(None) };
    String::from_utf8(content.bytes).map(Some).map_err(|e| malformed(root, name, &e))
}

fn malformed(root: &Root, name: &str, why: &dyn std::fmt::Display) -> ProbeError {
    ProbeError::Malformed { path: root.path().join(name), why: why.to_string() }
}
