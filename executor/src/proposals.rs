//! What agents asked for, read from the folder their sidecar writes to, and answers to it.
//!
//! Whoever took the sidecar over could write anything there: every file is bounded, no link is
//! followed, and what does not keep to the rules is named and otherwise passed over.

use std::collections::BTreeSet;

use bottle_planner::document::{self, Strictness};
use bottle_planner::policy::BuildHost;
use bottle_planner::proposal::{ANSWERS, Answer, LARGEST_FILE, MOST_EVER, PROPOSALS, Proposal};
use bottle_planner::words::{Digest, RelPath, Role, WordError};

use crate::files::{FileError, Kind, Root};
use crate::state::{self, BUILD_HOSTS, BuildHosts, DOCKERFILE, PRESERVE};

/// Why proposals could not be read, or one not answered.
#[derive(Debug, thiserror::Error)]
pub enum ProposalsError {
    /// A file of the state folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A name that is none.
    #[error(transparent)]
    Word(#[from] WordError),
    /// Something cannot be written as a document.
    #[error(transparent)]
    Document(#[from] document::DocumentError),
}

/// The proposals of one session.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proposals {
    /// Those that keep to the rules, in the order in which they were asked.
    pub all: Vec<Proposal>,
    /// Names of files that are no proposals, and why.
    pub broken: Vec<(String, String)>,
}

impl Proposals {
    /// Reads what a session's sidecar has kept.
    ///
    /// # Errors
    ///
    /// The state folder cannot be looked into.
    pub fn read(session: &Root) -> Result<Self, ProposalsError> {
        let mut found = Self::default();
        let Some(folder) =
            session.below(&path(&format!("{}/out/{PROPOSALS}", Role::Supervise))?)?
        else {
            return Ok(found);
        };
        // One more than there can be: the sidecar keeps no more.
        for name in folder.list(None)?.into_iter().take(MOST_EVER + 1) {
            if name.starts_with('.') {
                continue;
            }
            match one(&folder, &name) {
                Ok(proposal) => found.all.push(proposal),
                Err(why) => found.broken.push((name, why)),
            }
        }
        found.all.sort_by(|a, b| (&a.at, a.id()).cmp(&(&b.at, b.id())));
        Ok(found)
    }
}

fn one(folder: &Root, name: &str) -> Result<Proposal, String> {
    let path = RelPath::new(name).map_err(|e| e.to_string())?;
    let content = folder.read_at_most(&path, LARGEST_FILE).map_err(|e| e.to_string())?;
    let content = content.ok_or("it is no longer there")?;
    let text = String::from_utf8(content.bytes).map_err(|e| e.to_string())?;
    let parsed = document::parse::<Proposal>(&text, Strictness::Strict);
    let proposal = parsed.map_err(|e| e.to_string())?.value;
    proposal.check().map_err(|e| e.to_string())?;
    if format!("{}.json", proposal.id()) != name {
        return Err("it was changed since it was asked: its name is of another content".to_owned());
    }
    Ok(proposal)
}

/// The answer to a proposal, if it was given to this very one.
///
/// # Errors
///
/// The state folder cannot be looked into.
pub fn answer_of(session: &Root, proposal: &Proposal) -> Result<Option<Answer>, ProposalsError> {
    let path = answer_path(proposal)?;
    if session.entry(&path)?.is_none_or(|entry| entry.kind != Kind::File) {
        return Ok(None);
    }
    let Some(content) = session.read(&path)? else { return Ok(None) };
    let text = String::from_utf8_lossy(&content.bytes);
    let answer = document::parse::<Answer>(&text, Strictness::Lenient)?.value;
    Ok((answer.proposal == proposal.digest()).then_some(answer))
}

/// Hands an answer to the sidecar: from then on the proposal is answered.
///
/// # Errors
///
/// It cannot be written.
pub fn give_answer(
    session: &Root,
    proposal: &Proposal,
    answer: &Answer,
) -> Result<(), ProposalsError> {
    session.ensure_folder(&path(state::ANSWERS)?, 0o700)?;
    let text = document::pretty(answer)?;
    session.write(&answer_path(proposal)?, text.as_bytes(), 0o600, None)?;
    Ok(())
}

/// Sets down the image that was approved; the next start of the session is in it. Cut short, what was
/// approved before stands: hosts go with the Dockerfile of their digest, which is replaced in one step.
/// The marker that keeps the session comes last: with it, all is there.
///
/// # Errors
///
/// It cannot be written.
pub fn set_image(
    session: &Root,
    dockerfile: &str,
    hosts: &BTreeSet<BuildHost>,
) -> Result<(), ProposalsError> {
    let mut all = match session.read(&path(BUILD_HOSTS)?)? {
        Some(content) => {
            let text = String::from_utf8_lossy(&content.bytes);
            document::parse::<BuildHosts>(&text, Strictness::Strict)?.value
        }
        None => BuildHosts::default(),
    };
    let before = session.read(&path(DOCKERFILE)?)?.map(|content| content.digest);
    all.retain(|digest, _| Some(digest) == before.as_ref());
    all.insert(Digest::of(dockerfile.as_bytes()), hosts.clone());
    let hosts = document::pretty(&all)?;
    session.write(&path(BUILD_HOSTS)?, hosts.as_bytes(), 0o600, None)?;
    session.write(&path(DOCKERFILE)?, dockerfile.as_bytes(), 0o600, None)?;
    session.write(&path(PRESERVE)?, b"", 0o600, None)?;
    Ok(())
}

fn answer_path(proposal: &Proposal) -> Result<RelPath, WordError> {
    debug_assert!(state::ANSWERS.ends_with(ANSWERS));
    path(&format!("{}/{}.json", state::ANSWERS, proposal.id()))
}

fn path(text: &str) -> Result<RelPath, WordError> {
    RelPath::new(text)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use bottle_planner::policy::HostPattern;
    use bottle_planner::proposal::{Ask, Verdict, Wish};
    use bottle_planner::words::Timestamp;

    use super::*;

    fn proposal(url: &str) -> Proposal {
        Proposal {
            protocol: 1,
            at: Timestamp::new("2026-01-31T12:00:00Z").expect("a time"),
            ask: Ask::egress(&Wish { url: Some(url), ..Wish::default() }).expect("asked"),
            justification: "why".to_owned(),
        }
    }

    fn session() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir_all(folder.path().join("supervise/out/proposals")).expect("made");
        fs::create_dir_all(folder.path().join("supervise/in")).expect("made");
        let root = Root::open(folder.path()).expect("opened").expect("there");
        (folder, root)
    }

    fn put(folder: &Path, name: &str, text: &str) {
        fs::write(folder.join("supervise/out/proposals").join(name), text).expect("written");
    }

    #[test]
    fn what_does_not_keep_to_the_rules_is_named_and_passed_over() {
        let (folder, root) = session();
        let good = proposal("https://a.test/x");
        let text = document::pretty(&good).expect("written");
        let name = format!("{}.json", good.id());
        put(folder.path(), &name, &text);
        put(folder.path(), ".half.new", "{");
        put(folder.path(), "edited.json", &text.replace("a.test", "b.test"));
        put(folder.path(), "large.json", &" ".repeat(1 << 20));
        put(folder.path(), "garbage.json", "{");
        put(folder.path(), "credential.json", &text.replace("\"auth\": null", "\"auth\": 1"));
        let proposals = folder.path().join("supervise/out/proposals");
        std::os::unix::fs::symlink("/etc/passwd", proposals.join("link.json")).expect("linked");
        let found = Proposals::read(&root).expect("read");
        assert_eq!(found.all, [good]);
        let broken: Vec<&str> = found.broken.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["credential.json", "edited.json", "garbage.json", "large.json", "link.json"];
        let broken: BTreeSet<&str> = broken.into_iter().collect();
        assert_eq!(broken, expected.into());
    }

    #[test]
    fn an_image_cut_short_leaves_the_one_before_with_its_hosts() {
        let (folder, root) = session();
        let hosts = |name: &str| {
            let host = HostPattern::new(name).expect("a name");
            BTreeSet::from([BuildHost { host, port: 443 }])
        };
        let at = |name: &str| folder.path().join(name);
        for name in ["a.test", "b.test", "c.test"] {
            set_image(&root, &format!("FROM {name}"), &hosts(name)).expect("set");
        }
        let text = fs::read_to_string(at(BUILD_HOSTS)).expect("there");
        let known: BuildHosts = serde_json::from_str(&text).expect("read");
        let of = |name: &str| known.get(&Digest::of(format!("FROM {name}").as_bytes())).cloned();
        // The last one, and the one before, which is in force until its Dockerfile is replaced.
        assert_eq!(of("a.test"), None);
        assert_eq!(of("b.test"), Some(hosts("b.test")));
        assert_eq!(of("c.test"), Some(hosts("c.test")));
        assert_eq!(fs::read_to_string(at(DOCKERFILE)).expect("there"), "FROM c.test");
    }

    #[test]
    fn an_answer_is_to_one_proposal() {
        let (_folder, root) = session();
        let (one, other) = (proposal("https://a.test/x"), proposal("https://a.test/y"));
        assert_eq!(answer_of(&root, &one).expect("looked"), None);
        let answer = Answer {
            protocol: 1,
            proposal: one.digest(),
            verdict: Verdict::Approved,
            at: one.at.clone(),
            notes: String::new(),
            granted: Vec::new(),
        };
        give_answer(&root, &one, &answer).expect("given");
        assert_eq!(answer_of(&root, &one).expect("looked"), Some(answer.clone()));
        assert_eq!(answer_of(&root, &other).expect("looked"), None);
        give_answer(&root, &other, &answer).expect("given");
        assert_eq!(answer_of(&root, &other).expect("looked"), None, "an answer to another");
    }
}
