//! What was asked and what was answered, on disk: nothing is lost when the sidecar or the host
//! starts again.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bottle_planner::document::{self, Strictness};
use bottle_planner::proposal::{
    ANSWERS, Answer, Ask, LARGEST_FILE, MOST_EVER, MOST_PENDING, PROPOSALS, Proposal, TOLD,
    Unaskable, Verdict, justification,
};
use bottle_planner::sidecar::PROTOCOL;
use bottle_planner::words::Timestamp;

use crate::log;

/// The proposals of one session.
#[derive(Debug)]
pub(super) struct Store {
    proposals: PathBuf,
    answers: PathBuf,
    told: PathBuf,
    known: Mutex<BTreeMap<String, Proposal>>,
}

/// What became of a request to keep something.
#[derive(Debug)]
pub(super) enum Kept {
    /// It waits for a person under this id, from now on or since it was asked before.
    Pending(String),
    /// The very same was answered already.
    Answered(String, Box<Answer>),
}

impl Store {
    /// Opens the folders, and takes up again what was asked before.
    pub(super) fn open(input: &Path, output: &Path) -> io::Result<Self> {
        let proposals = output.join(PROPOSALS);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&proposals)?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&proposals)? {
            let path = entry?.path();
            match proposal(&path) {
                Ok(Some(proposal)) => {
                    known.insert(proposal.id(), proposal);
                }
                Ok(None) => {}
                Err(error) => {
                    log::warn(
                        "a proposal is not taken up",
                        &[("path", &path.display()), ("error", &error)],
                    );
                }
            }
        }
        let (answers, told) = (input.join(ANSWERS), output.join(TOLD));
        Ok(Self { proposals, answers, told, known: Mutex::new(known) })
    }

    /// Keeps a proposal, once: what is asked again while it waits is the same proposal.
    ///
    /// # Errors
    ///
    /// Too many wait, or were ever asked; or the disk does not take it.
    pub(super) fn keep(&self, ask: Ask, why: &str, now: Timestamp) -> Result<Kept, Unaskable> {
        let why = justification(why);
        let mut known = self.known();
        let mut pending = 0;
        for (id, other) in known.iter() {
            let answer = self.answer(id);
            pending += usize::from(answer.is_none());
            if other.ask != ask {
                continue;
            }
            match answer {
                None => return Ok(Kept::Pending(id.clone())),
                // Asked again in the same words, it is answered in the same words. Otherwise a
                // person could be worn down. And what nobody heard yet is told to who asks again.
                Some(answer)
                    if !self.told.join(id).exists()
                        || answer.verdict == Verdict::Rejected && other.justification == why =>
                {
                    return Ok(Kept::Answered(id.clone(), Box::new(answer)));
                }
                Some(_) => {}
            }
        }
        if pending >= MOST_PENDING {
            return Err(Unaskable(format!(
                "{pending} requests wait for a person already: wait for an answer to one of them"
            )));
        }
        if known.len() >= MOST_EVER {
            return Err(Unaskable(format!(
                "this session has asked {MOST_EVER} times, and no more is taken: tell the person \
                 who runs it"
            )));
        }
        let proposal = Proposal { protocol: PROTOCOL, at: now, ask, justification: why };
        let id = proposal.id();
        if known.contains_key(&id) {
            return Err(Unaskable("say it in other words".to_owned()));
        }
        self.write(&id, &proposal).map_err(|error| {
            log::error("a proposal is not kept", &[("error", &error)]);
            Unaskable("the request cannot be kept for a person; try again".to_owned())
        })?;
        log::info("asked", &[("proposal", &id), ("what", &proposal.ask.words())]);
        known.insert(id.clone(), proposal);
        Ok(Kept::Pending(id))
    }

    /// The answer to a proposal, once there is one that was given to this very proposal.
    pub(super) fn answer(&self, id: &str) -> Option<Answer> {
        let text = fs::read_to_string(self.answers.join(format!("{id}.json"))).ok()?;
        let answer = document::parse::<Answer>(&text, Strictness::Lenient).ok()?.value;
        (answer.proposal.short() == id).then_some(answer)
    }

    /// Notes that a call got its answer. Best effort: whoever waits for it does not wait long.
    pub(super) fn note_told(&self, id: &str) {
        let _ = fs::create_dir_all(&self.told).and_then(|()| File::create(self.told.join(id)));
    }

    /// Written aside, synced, renamed: a reader sees all of it or nothing.
    fn write(&self, id: &str, proposal: &Proposal) -> io::Result<()> {
        let fresh = self.proposals.join(format!(".{id}.new"));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        let text = document::pretty(proposal).map_err(io::Error::other)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, self.proposals.join(format!("{id}.json")))?;
        File::open(&self.proposals)?.sync_all()
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Proposal>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proposal's file; `None` for one that was never finished.
fn proposal(path: &Path) -> io::Result<Option<Proposal>> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    if stem.starts_with('.') {
        fs::remove_file(path)?;
        return Ok(None);
    }
    if fs::symlink_metadata(path)?.len() > LARGEST_FILE {
        return Err(io::Error::other("it is too large"));
    }
    let text = fs::read_to_string(path)?;
    let parsed =
        document::parse::<Proposal>(&text, Strictness::Strict).map_err(io::Error::other)?;
    parsed.value.check().map_err(io::Error::other)?;
    if parsed.value.id() != stem {
        return Err(io::Error::other("its name is not that of its content"));
    }
    Ok(Some(parsed.value))
}

#[cfg(test)]
mod tests {
    use bottle_planner::proposal::Wish;
    use bottle_planner::words::Digest;

    use super::*;

    fn ask(n: usize) -> Ask {
        let url = format!("https://a.test/p{n}x");
        Ask::egress(&Wish { url: Some(&url), ..Wish::default() }).expect("asked")
    }

    fn now() -> Timestamp {
        Timestamp::new("2026-01-31T12:00:00Z").expect("a time")
    }

    fn id(kept: Kept) -> String {
        match kept {
            Kept::Pending(id) | Kept::Answered(id, _) => id,
        }
    }

    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let (input, output) = (folder.path().join("in"), folder.path().join("out"));
        fs::create_dir_all(input.join(ANSWERS)).expect("made");
        fs::create_dir_all(&output).expect("made");
        (folder, input, output)
    }

    fn answered(input: &Path, id: &str, store: &Store, verdict: Verdict) {
        let proposal = store.known().get(id).expect("known").digest();
        let notes = "no".to_owned();
        let answer =
            Answer { protocol: PROTOCOL, proposal, verdict, at: now(), notes, granted: vec![] };
        let text = document::pretty(&answer).expect("written");
        fs::write(input.join(ANSWERS).join(format!("{id}.json")), text).expect("written");
    }

    #[test]
    fn the_same_request_is_one_proposal_also_after_a_restart() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        let first = id(store.keep(ask(1), "why", now()).expect("kept"));
        assert_eq!(id(store.keep(ask(1), "in other words", now()).expect("kept")), first);
        assert_ne!(id(store.keep(ask(2), "why", now()).expect("kept")), first);
        let store = Store::open(&input, &output).expect("opened again");
        assert_eq!(id(store.keep(ask(1), "why", now()).expect("kept")), first);
        assert_eq!(store.known().len(), 2);
    }

    #[test]
    fn who_was_refused_is_not_asked_about_in_the_same_words_again() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        let first = id(store.keep(ask(1), "why", now()).expect("kept"));
        answered(&input, &first, &store, Verdict::Rejected);
        let again = store.keep(ask(1), "why", now()).expect("kept");
        assert!(matches!(again, Kept::Answered(_, answer) if answer.notes == "no"));
        store.note_told(&first);
        let again = store.keep(ask(1), "why", now()).expect("kept");
        assert!(matches!(again, Kept::Answered(_, answer) if answer.notes == "no"));
        let other = store.keep(ask(1), "because of this", now()).expect("kept");
        assert!(matches!(other, Kept::Pending(id) if id != first));
    }

    #[test]
    fn what_nobody_heard_is_told_to_who_asks_again_and_once() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        let first = id(store.keep(ask(1), "why", now()).expect("kept"));
        answered(&input, &first, &store, Verdict::Approved);
        let again = store.keep(ask(1), "said otherwise", now()).expect("kept");
        assert!(matches!(again, Kept::Answered(id, _) if id == first));
        store.note_told(&first);
        let later = store.keep(ask(1), "once more", now()).expect("kept");
        assert!(matches!(later, Kept::Pending(id) if id != first));
    }

    #[test]
    fn an_answer_to_another_proposal_is_none() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        let first = id(store.keep(ask(1), "why", now()).expect("kept"));
        answered(&input, &first, &store, Verdict::Approved);
        assert!(store.answer(&first).is_some());
        let path = input.join(ANSWERS).join(format!("{first}.json"));
        let text = fs::read_to_string(&path).expect("read");
        let digest = Digest::of(b"another").to_string();
        let own = store.known()[&first].digest().to_string();
        fs::write(&path, text.replace(&own, &digest)).expect("written");
        assert!(store.answer(&first).is_none());
    }

    #[test]
    fn a_flood_ends() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        for n in 0..MOST_PENDING {
            store.keep(ask(n), "why", now()).expect("kept");
        }
        let error = store.keep(ask(MOST_PENDING), "why", now()).expect_err("too many");
        assert!(error.0.contains("wait for an answer"), "{error}");
        let files = fs::read_dir(output.join(PROPOSALS)).expect("read").count();
        assert_eq!(files, MOST_PENDING);
    }

    #[test]
    fn what_is_no_proposal_of_ours_is_passed_over() {
        let (_folder, input, output) = folders();
        let store = Store::open(&input, &output).expect("opened");
        let first = id(store.keep(ask(1), "why", now()).expect("kept"));
        let proposals = output.join(PROPOSALS);
        let text = fs::read_to_string(proposals.join(format!("{first}.json"))).expect("read");
        fs::write(proposals.join("0123456789ab.json"), &text).expect("written");
        fs::write(proposals.join(".half.new"), "{").expect("written");
        let edited = text.replace("why", "for you");
        fs::write(proposals.join(format!("{first}.json")), edited).expect("written");
        let store = Store::open(&input, &output).expect("opened again");
        assert!(store.known().is_empty());
        assert!(!proposals.join(".half.new").exists());
    }
}
