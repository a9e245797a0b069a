//! Clean-up: what one user and state root left behind that no session needs any more.
//!
//! What is orphaned is decided here, from what was seen and nothing else. Whatever carries another
//! owner's label, or none, is not even a candidate; whatever belongs to a session that can still be
//! carried on stays, whether it runs or not.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use schemars::JsonSchema;
use serde::Serialize;

use crate::gate;
use crate::plan::{LABEL_IDENTITY, LABEL_OWNER, LABEL_ROLE, Plan};
use crate::snapshot::{Container, ContainerState};
use crate::words::{Digest, Identity, RelPath, Role};

/// How long a record of an ended session is kept where the host config does not say, in days.
pub const HISTORY_DAYS: u32 = 30;
/// How old the rest of a write must be before nobody can still be at it, in seconds.
const LEFTOVER_AGE: u64 = 3600;

/// What was seen of the engine and of one state root.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// `uid-digest` of the user and state root that clean up.
    pub owner: String,
    /// Days an ended session's record is kept.
    pub history_days: u32,
    /// All containers by name, whoever's.
    pub containers: BTreeMap<String, Sized<Container>>,
    /// All networks by name, whoever's.
    pub networks: BTreeMap<String, Labelled>,
    /// All volumes by name, whoever's.
    pub volumes: BTreeMap<String, Sized<BTreeMap<String, String>>>,
    /// All images that have this owner's label, also those that inherited it.
    pub images: Vec<Sized<Image>>,
    /// What the state root has of each session that was not taken down.
    pub sessions: BTreeMap<Identity, Sized<Standing>>,
    /// Copies of the binary in `bin`.
    pub binaries: BTreeMap<Digest, Option<u64>>,
    /// The records in history, with their age in days.
    pub records: BTreeMap<Identity, Sized<u64>>,
    /// Rests of writes below the state root, with their age in seconds.
    pub leftovers: BTreeMap<RelPath, Sized<u64>>,
    /// The scratch folder of a session, `tmp/<identity>`, with its bytes.
    pub scratch: BTreeMap<Identity, Option<u64>>,
    /// Whose lock files are there, and held by nobody.
    pub locks: BTreeSet<Identity>,
}

/// Something and the bytes it takes, where that could be found out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sized<T> {
    /// What it is.
    pub what: T,
    /// Bytes.
    pub bytes: Option<u64>,
}

/// A network's id and labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labelled {
    /// The engine's id.
    pub id: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// An image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// The engine's id, `sha256:…`.
    pub id: String,
    /// Its tags, `name:version`; none where another image has taken them over.
    pub tags: BTreeSet<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Digests under which registries know it, `name@sha256:…`.
    pub repo_digests: BTreeSet<String>,
    /// When its configuration says that it was made, in seconds since the epoch.
    pub created: i64,
}

impl Image {
    /// Whether it is what containers of an owner's are made from: the twin of an image, without its
    /// words (`engine/docker/sealed.rs` of the executor). It has no name, was made at no time, and
    /// says nothing but whose it is; what others build upon one has a time.
    #[must_use]
    pub fn is_twin(&self) -> bool {
        self.tags.is_empty()
            && self.repo_digests.is_empty()
            && self.created == 0
            && self.labels.keys().eq([LABEL_OWNER])
    }
}

/// How a session stands that has a state folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It was brought up: it runs, or can be carried on. What its plan uses.
    Whole(Uses),
    /// Its first apply never came to its end.
    Unfinished,
    /// Another process is at work on it.
    Busy,
    /// Its record cannot be read: what it uses is not known.
    Unreadable,
}

/// What a session's plan uses of what sessions share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Uses {
    /// Images, by tag or id.
    pub images: BTreeSet<String>,
    /// Copies of the binary.
    pub tools: BTreeSet<Digest>,
}

impl Uses {
    /// What a plan uses.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let session = &plan.session;
        let mut images: BTreeSet<String> =
            [&session.base_image, &session.agent_image, &session.sidecar_image]
                .into_iter()
                .cloned()
                .collect();
        if !plan.grants.git.is_empty() {
            let base = plan.grants.gate_base.as_deref();
            images.insert(gate::image(session.sidecar_user, base));
        }
        Self { images, tools: [session.tool.clone()].into() }
    }
}

/// What should be done: nothing of it is done yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cleanup {
    /// What goes, in an order in which it can.
    pub removals: Vec<Removal>,
    /// Sessions that stay although something is wrong with them, and why.
    pub kept: BTreeMap<Identity, String>,
}

/// One thing that goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Removal {
    /// What it is.
    #[serde(flatten)]
    pub target: Target,
    /// The session it was of.
    pub session: Option<Identity>,
    /// The bytes it takes, where that is known.
    pub bytes: Option<u64>,
    /// Why nothing needs it.
    pub why: String,
    /// Whether somebody's work may be on it.
    pub loses_work: bool,
}

/// What a removal removes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Target {
    /// A container, running or not.
    Container {
        /// Its name.
        name: String,
        /// The engine's id.
        id: String,
    },
    /// A network.
    Network {
        /// Its name.
        name: String,
        /// The engine's id.
        id: String,
    },
    /// A volume.
    Volume {
        /// Its name.
        name: String,
    },
    /// A tag of an image, or an image that has none.
    Image {
        /// The tag, or the id.
        name: String,
        /// The engine's id.
        id: String,
    },
    /// The state folder of a session.
    State {
        /// The session's name.
        name: Identity,
    },
    /// A copy of the binary.
    Binary {
        /// Its digest.
        name: Digest,
    },
    /// A record in history.
    Record {
        /// The record's name.
        name: Identity,
    },
    /// A file or folder below the state root.
    Leftover {
        /// Where.
        name: RelPath,
    },
}

impl Target {
    /// What kind of thing it is, in a word.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Container { .. } => "container",
            Self::Network { .. } => "network",
            Self::Volume { .. } => "volume",
            Self::Image { .. } => "image",
            Self::State { .. } => "state",
            Self::Binary { .. } => "binary",
            Self::Record { .. } => "record",
            Self::Leftover { .. } => "leftover",
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Container { name, .. }
            | Self::Network { name, .. }
            | Self::Volume { name }
            | Self::Image { name, .. } => name,
            Self::State { name } | Self::Record { name } => name.as_str(),
            Self::Binary { name } => name.as_str(),
            Self::Leftover { name } => name.as_str(),
        }
    }
}

/// Decides what is orphaned.
#[must_use]
pub fn cleanup(seen: &Seen) -> Cleanup {
    let mut deciding = Deciding { seen, out: Cleanup::default(), gone: BTreeSet::new() };
    deciding.containers();
    deciding.networks();
    deciding.volumes();
    deciding.images();
    deciding.states();
    deciding.binaries();
    deciding.records();
    deciding.leftovers();
    deciding.out
}

struct Deciding<'a> {
    seen: &'a Seen,
    out: Cleanup,
    /// Containers that go.
    gone: BTreeSet<&'a str>,
}

impl<'a> Deciding<'a> {
    fn add(
        &mut self,
        target: Target,
        session: Option<Identity>,
        bytes: Option<u64>,
        why: impl Into<String>,
    ) -> &mut Removal {
        let at = self.out.removals.len();
        self.out.removals.push(Removal {
            target,
            session,
            bytes,
            why: why.into(),
            loses_work: false,
        });
        &mut self.out.removals[at]
    }

    /// The session of an object of ours and why it is orphaned; `None` where it is not, or not ours.
    ///
    /// An object that names no session is the scaffold of an image: what is made for a session names
    /// it.
    fn orphan(
        &self,
        labels: &BTreeMap<String, String>,
    ) -> Option<(Option<Identity>, &'static str)> {
        if labels.get(LABEL_OWNER) != Some(&self.seen.owner) {
            return None;
        }
        let Some(identity) = labels.get(LABEL_IDENTITY) else {
            return Some((None, "left by a build that was cut short"));
        };
        let identity = Identity::new(identity.as_str()).ok()?;
        let why = self.is_gone(&identity)?;
        Some((Some(identity), why))
    }

    /// Why nothing of a session is needed any more; `None` where it is.
    fn is_gone(&self, identity: &Identity) -> Option<&'static str> {
        match self.seen.sessions.get(identity).map(|found| &found.what) {
            None => Some("its session has no state folder any more"),
            Some(Standing::Unfinished) if !self.agent_runs(identity) => {
                Some("its session was never brought up whole")
            }
            Some(_) => None,
        }
    }

    fn agent_runs(&self, identity: &Identity) -> bool {
        let label = |container: &Container, name: &str, value: &str| {
            container.labels.get(name).is_some_and(|found| found == value)
        };
        self.seen.containers.values().any(|found| {
            let container = &found.what;
            matches!(container.state, ContainerState::Running | ContainerState::Paused)
                && label(container, LABEL_OWNER, &self.seen.owner)
                && label(container, LABEL_IDENTITY, identity.as_str())
                && label(container, LABEL_ROLE, Role::Agent.as_str())
        })
    }

    fn containers(&mut self) {
        let seen = self.seen;
        for (name, found) in &seen.containers {
            let Some((session, why)) = self.orphan(&found.what.labels) else { continue };
            let runs = found.what.state == ContainerState::Running;
            let why = if runs { format!("{why} (it runs)") } else { why.to_string() };
            let target = Target::Container { name: name.clone(), id: found.what.id.clone() };
            self.add(target, session, found.bytes, why);
            self.gone.insert(name);
        }
    }

    fn networks(&mut self) {
        let seen = self.seen;
        for (name, found) in &seen.networks {
            if let Some((session, why)) = self.orphan(&found.labels) {
                let target = Target::Network { name: name.clone(), id: found.id.clone() };
                self.add(target, session, None, why);
            }
        }
    }

    /// Mirrors hold what upstream has; an empty volume holds nothing.
    fn volumes(&mut self) {
        let seen = self.seen;
        for (name, found) in &seen.volumes {
            let Some((session, why)) = self.orphan(&found.what) else { continue };
            let is_mirror = session.as_ref().is_some_and(|id| *name == gate::volume(id));
            let target = Target::Volume { name: name.clone() };
            let loses_work = !is_mirror && found.bytes != Some(0);
            self.add(target, session, found.bytes, why).loses_work = loses_work;
        }
    }

    /// What each session that stays uses; `None` where that cannot be known of one.
    fn used(&self) -> Option<Vec<&'a Uses>> {
        let seen = self.seen;
        let mut all = Vec::new();
        for (identity, found) in &seen.sessions {
            match &found.what {
                Standing::Whole(uses) => all.push(uses),
                Standing::Unfinished if self.is_gone(identity).is_some() => {}
                _ => return None,
            }
        }
        Some(all)
    }

    /// Images that this program made and named, and twins, which have no name: a crash between the
    /// making of one and of its container leaves it. A label alone proves nothing: an image that a
    /// person built upon one of ours has inherited it.
    fn images(&mut self) {
        let Some(used) = self.used() else { return };
        let is_used = |name: &String| used.iter().any(|uses| uses.images.contains(name));
        let seen = self.seen;
        for image in &seen.images {
            let Image { id, tags, labels, .. } = &image.what;
            let ours = labels.get(LABEL_OWNER) == Some(&seen.owner);
            if !ours || is_used(id) || self.is_base_of_what_stays(id) {
                continue;
            }
            let own = tags.iter().filter(|tag| is_our_tag(tag) && !is_used(tag));
            let twin = Some(id).filter(|_| image.what.is_twin());
            for name in own.chain(twin) {
                // What another tag still names stays on the disk.
                let bytes = image.bytes.filter(|_| tags.len() <= 1);
                let target = Target::Image { name: name.clone(), id: id.clone() };
                self.add(target, None, bytes, "no session uses it");
            }
        }
    }

    fn is_base_of_what_stays(&self, image: &str) -> bool {
        let mut containers = self.seen.containers.iter();
        containers.any(|(name, c)| c.what.image == image && !self.gone.contains(name.as_str()))
    }

    fn states(&mut self) {
        let seen = self.seen;
        for (identity, found) in &seen.sessions {
            match (&found.what, self.is_gone(identity)) {
                (Standing::Unfinished, Some(why)) => {
                    let target = Target::State { name: identity.clone() };
                    self.add(target, Some(identity.clone()), found.bytes, why);
                }
                (Standing::Unfinished, None) => {
                    let why = "it was never brought up whole, but its agent runs";
                    self.out.kept.insert(identity.clone(), why.to_string());
                }
                (Standing::Busy, _) => {
                    let why = "another bottle process is at work on it";
                    self.out.kept.insert(identity.clone(), why.to_string());
                }
                (Standing::Unreadable, _) => {
                    let why = "its record cannot be read, so no image and no binary is removed";
                    self.out.kept.insert(identity.clone(), why.to_string());
                }
                (Standing::Whole(_), _) => {}
            }
        }
    }

    fn binaries(&mut self) {
        let Some(used) = self.used() else { return };
        let seen = self.seen;
        for (digest, bytes) in &seen.binaries {
            if !used.iter().any(|uses| uses.tools.contains(digest)) {
                let target = Target::Binary { name: digest.clone() };
                self.add(target, None, *bytes, "no session uses it");
            }
        }
    }

    fn records(&mut self) {
        let seen = self.seen;
        for (name, found) in &seen.records {
            if found.what >= u64::from(seen.history_days) {
                let why = format!("it is older than {} days", seen.history_days);
                self.add(Target::Record { name: name.clone() }, None, found.bytes, why);
            }
        }
    }

    fn leftovers(&mut self) {
        let seen = self.seen;
        for (path, found) in &seen.leftovers {
            if found.what >= LEFTOVER_AGE {
                let target = Target::Leftover { name: path.clone() };
                self.add(target, None, found.bytes, "left by a write that was cut short");
            }
        }
        for (identity, bytes) in &seen.scratch {
            let is_busy = seen.sessions.get(identity).is_some_and(|s| s.what == Standing::Busy);
            if !is_busy {
                self.of_session("tmp", identity.as_str(), identity, *bytes);
            }
        }
        for identity in &seen.locks {
            if !seen.sessions.contains_key(identity) || self.is_gone(identity).is_some() {
                self.of_session("locks", &format!("{identity}.lock"), identity, None);
            }
        }
    }

    fn of_session(&mut self, folder: &str, name: &str, identity: &Identity, bytes: Option<u64>) {
        if let Ok(name) = RelPath::new(format!("{folder}/{name}")) {
            let why = "nobody works on its session";
            self.add(Target::Leftover { name }, Some(identity.clone()), bytes, why);
        }
    }
}

/// Whether a tag is of the form that this program gives.
fn is_our_tag(tag: &str) -> bool {
    let Some((name, _)) = tag.split_once(':') else { return false };
    name == "bottle" || (name.starts_with("bottle-") && !name.contains('/'))
}

#[cfg(test)]
mod tests;
