//! Difference: what should exist against what does, as actions in one canonical order.

use alloc::collections::{BTreeMap, BTreeSet, BinaryHeap};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cmp::Reverse;

use super::Ground;
use crate::document;
use crate::error::ErrorCode;
use crate::lower::Desired;
use crate::mounted;
use crate::plan::{
    Action, ActionId, BuildReach, ContainerRef, ContainerSpec, Effect, Expect, LABEL_SPEC,
    ObjectRef, Operation, Reason, ReasonCode, RemoveFile, Save, Session, StatePath, StateRoot,
};
use crate::snapshot::{Container, ContainerState, SessionFacts};
use crate::words::{Digest, Identity, RelPath, Role};

/// What one comparison found.
struct Verdict {
    effect: Effect,
    code: ReasonCode,
    detail: String,
    expect: Expect,
}

impl Verdict {
    fn none() -> Self {
        Self {
            effect: Effect::None,
            code: ReasonCode::Unchanged,
            detail: String::new(),
            expect: Expect::Satisfied,
        }
    }

    fn create() -> Self {
        Self {
            effect: Effect::Create,
            code: ReasonCode::NotFound,
            detail: String::new(),
            expect: Expect::Absent,
        }
    }

    fn of(effect: Effect, code: ReasonCode, expect: Expect) -> Self {
        Self { effect, code, detail: String::new(), expect }
    }

    fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = detail.into();
        self
    }
}

impl Ground<'_> {
    /// Every desired thing against the snapshot; then what nothing asks for any more.
    pub(super) fn difference(
        &mut self,
        identity: &Identity,
        session: &Session,
        desired: Vec<Desired>,
    ) -> Option<Vec<Action>> {
        let mut difference = Difference {
            identity: identity.clone(),
            session: session.clone(),
            actions: BTreeMap::new(),
        };
        // Files, keys, images, networks and volumes first: what they become decides whether a
        // container has to be made anew.
        let mut containers = Vec::with_capacity(desired.len());
        for mut wanted in desired {
            if rank(&wanted.op) >= CONTAINER_RANK {
                containers.push(wanted);
                continue;
            }
            if let Operation::MintCa(mint) = &mut wanted.op {
                mint.fingerprint = self.facts().and_then(|f| f.ca_fingerprint.clone());
            }
            let verdict = self.compare_simple(identity, &wanted);
            difference.push(wanted, verdict);
        }
        self.networks_made_anew(identity, &mut difference);
        containers.sort_by_key(|d| rank(&d.op));
        for wanted in containers {
            self.compare_container_step(identity, wanted, &mut difference);
        }
        self.not_wanted(identity, &mut difference);
        difference.build_alone();
        self.markers(&mut difference);
        difference.in_order(self)
    }

    fn facts(&self) -> Option<&SessionFacts> {
        self.snapshot.session.as_ref()
    }

    fn compare_simple(&mut self, identity: &Identity, wanted: &Desired) -> Verdict {
        match &wanted.op {
            Operation::Folder(folder) => self.compare_folder(&folder.path.path, folder.mode),
            Operation::File(file) => self.compare_file(&file.path.path, &file.content, file.mode),
            Operation::MintCa(_) => {
                let minted = self.facts().and_then(|f| f.ca_fingerprint.as_ref()).is_some();
                if minted { Verdict::none() } else { Verdict::create() }
            }
            Operation::ImportImage(image) => self.compare_image(&image.tag),
            Operation::BuildImage(image) => self.compare_image(&image.tag),
            Operation::AssembleImage(image) => self.compare_image(&image.tag),
            Operation::PullImage(pull) => {
                self.compare_image(&format!("{}@{}", pull.image.name, pull.image.digest))
            }
            Operation::Network(network) => {
                let Some(found) = self.snapshot.networks.get(&network.name) else {
                    return Verdict::create();
                };
                let same = found.labels.get(LABEL_SPEC) == network.labels.get(LABEL_SPEC)
                    && found.subnets.contains(&network.subnet);
                if same {
                    return Verdict::none();
                }
                Verdict::of(Effect::Replace, ReasonCode::Changed, Expect::Absent)
                    .because(format!("{} is not as asked", network.name))
            }
            Operation::Volume(volume) => match self.snapshot.volumes.get(&volume.name) {
                None => Verdict::create(),
                Some(found) => {
                    if !self.is_ours(identity, &found.labels) {
                        self.error(
                            ErrorCode::Orphan,
                            format!(
                                "volume `{}` exists and does not belong to this session",
                                volume.name
                            ),
                            "remove it if it is yours (`docker volume rm`), or choose another --name",
                        );
                    }
                    Verdict::none()
                }
            },
            Operation::Placeholder(stand) => {
                let seen = self.snapshot.workspace.as_ref().and_then(|w| w.mounted.as_ref());
                match seen {
                    Some(seen) if !mounted::is_there(seen, &stand.path) => Verdict::create(),
                    _ => Verdict::none(),
                }
            }
            _ => Verdict::none(),
        }
    }

    fn compare_folder(&mut self, path: &RelPath, mode: u32) -> Verdict {
        self.check_oddity(path);
        match self.facts().and_then(|f| f.folders.get(path)) {
            None => Verdict::create(),
            Some(found) if *found == mode => Verdict::none(),
            Some(found) => Verdict::of(Effect::Update, ReasonCode::Drifted, Expect::Ours)
                .because(format!("mode {found:03o}, expected {mode:03o}")),
        }
    }

    fn compare_file(&mut self, path: &RelPath, content: &str, mode: u32) -> Verdict {
        self.check_oddity(path);
        let Some(found) = self.facts().and_then(|f| f.files.get(path)) else {
            return Verdict::create();
        };
        let same = found.digest == Digest::of(content.as_bytes());
        if same && found.mode == mode {
            return Verdict::none();
        }
        let expect = Expect::File { digest: found.digest.clone() };
        let edited = found.written.as_ref() != Some(&found.digest);
        if same {
            return Verdict::of(Effect::Update, ReasonCode::Drifted, expect)
                .because(format!("mode {:03o}, expected {mode:03o}", found.mode));
        }
        if edited {
            return Verdict::of(Effect::Update, ReasonCode::Drifted, expect)
                .because("edited by hand since it was written; the edit is lost");
        }
        Verdict::of(Effect::Update, ReasonCode::Changed, expect)
    }

    fn check_oddity(&mut self, path: &RelPath) {
        let odd = self.facts().is_some_and(|facts| {
            facts
                .oddities
                .iter()
                .any(|odd| path == odd || path.as_str().starts_with(format!("{odd}/").as_str()))
        });
        if odd {
            self.error(
                ErrorCode::StateFolder,
                format!("`{path}` in the state folder is a link or something else that is no file"),
                "find out who put it there, remove it, and plan again",
            );
        }
    }

    fn compare_image(&self, reference: &str) -> Verdict {
        if self.snapshot.images.contains_key(reference) {
            Verdict::none()
        } else {
            Verdict::create()
        }
    }

    /// A network that is made anew takes its containers and its old self with it.
    fn networks_made_anew(&self, identity: &Identity, difference: &mut Difference) {
        for key in ["net", "out"] {
            let id = format!("network:{key}");
            let Some(action) = difference.actions.get(id.as_str()) else { continue };
            if action.effect != Effect::Replace {
                continue;
            }
            let Operation::Network(spec) = &action.op else { continue };
            let Some(found) = self.snapshot.networks.get(&spec.name) else { continue };
            let remove = ActionId(format!("remove-network:{key}"));
            let expect = Expect::Object { id: found.id.clone() };
            let op = Operation::RemoveNetwork(ObjectRef { name: spec.name.clone() });
            let after: BTreeSet<ActionId> = Role::ALL
                .into_iter()
                .filter(|role| self.own_container(identity, *role).is_some())
                .map(|role| ActionId(format!("remove:{role}")))
                .collect();
            difference.insert(
                remove.clone(),
                op,
                after,
                Verdict::of(Effect::Delete, ReasonCode::OwnerReplaced, expect),
            );
            if let Some(action) = difference.actions.get_mut(id.as_str()) {
                action.depends_on.insert(remove);
            }
        }
    }

    fn compare_container_step(
        &mut self,
        identity: &Identity,
        wanted: Desired,
        difference: &mut Difference,
    ) {
        match &wanted.op {
            Operation::Container(spec) => {
                let (verdict, removed) = self.compare_container(identity, spec, difference);
                let mut wanted = wanted;
                wanted.depends_on.extend(removed);
                difference.push(wanted, verdict);
            }
            Operation::Upload(upload) => {
                let role = Role::Agent;
                let made = match &upload.volume {
                    Some(volume) => difference.makes_volume(volume),
                    None => difference.makes_container(role),
                } || (upload.volume.is_none() && difference.does("mint:ca"));
                let there = self.facts().and_then(|f| f.uploaded.get(&wanted.id.0));
                let onto = || match &upload.volume {
                    Some(volume) => Some(format!("volume:{volume}")),
                    None => self.own_container(identity, role).map(|(_, c)| c.id.clone()),
                };
                let digest = || document::digest(upload).unwrap_or_else(|_| Digest::of(b""));
                let verdict = match there.filter(|_| !made) {
                    None => Verdict::of(Effect::Create, ReasonCode::NotFound, Expect::Ours),
                    Some((on, found)) if onto().as_ref() == Some(on) && digest() == *found => {
                        Verdict::none()
                    }
                    Some(_) => Verdict::of(Effect::Update, ReasonCode::Changed, Expect::Ours),
                };
                difference.push(wanted, verdict);
            }
            Operation::Connect(connect) => {
                let connected = self
                    .snapshot
                    .containers
                    .get(&connect.container)
                    .and_then(|c| c.networks.get(&connect.network))
                    == Some(&Some(connect.address));
                let made = role_of(&wanted.id).is_some_and(|role| difference.makes_container(role));
                let verdict = if connected && !made {
                    Verdict::none()
                } else {
                    Verdict::of(
                        Effect::Create,
                        if made { ReasonCode::NotFound } else { ReasonCode::Drifted },
                        Expect::Ours,
                    )
                };
                difference.push(wanted, verdict);
            }
            Operation::Start(start) => {
                let role = start.role;
                let verdict = self.compare_start(identity, role, difference);
                difference.push(wanted, verdict);
            }
            Operation::Deliver(deliver) => {
                let role = deliver.role;
                let verdict = self.compare_delivery(identity, role, difference);
                difference.push(wanted, verdict);
            }
            Operation::Reload(reload) => {
                let role = reload.role;
                if difference.does(&format!("start:{role}")) {
                    return; // It reads the file at its start.
                }
                let loaded = self.facts().and_then(|f| f.loaded.get(&role)).cloned();
                let now = self
                    .own_container(identity, role)
                    .map(|(_, c)| (c.id.clone(), c.started_at.clone(), reload.digest.clone()));
                let verdict = if loaded.is_some() && loaded == now {
                    Verdict::none()
                } else {
                    Verdict::of(Effect::Update, ReasonCode::Changed, Expect::Ours)
                };
                difference.push(wanted, verdict);
            }
            _ => {}
        }
    }

    /// Whether a container has to be made anew; if so, the removal of the one that is there.
    fn compare_container(
        &self,
        identity: &Identity,
        spec: &ContainerSpec,
        difference: &mut Difference,
    ) -> (Verdict, Option<ActionId>) {
        let Some((name, found)) = self.own_container(identity, spec.role) else {
            return (Verdict::create(), None);
        };
        let anew = |key: &str| difference.does(key);
        let on_net = found.networks.get(&spec.network) == Some(&Some(spec.address));
        let reason = if *name != spec.name {
            Some((ReasonCode::Changed, "renamed".to_string()))
        } else if found.labels.get(LABEL_SPEC) != spec.labels.get(LABEL_SPEC) {
            Some((ReasonCode::Changed, String::new()))
        } else if anew("network:net") || (anew("network:out") && role_has_out(spec.role)) {
            Some((ReasonCode::OwnerReplaced, "its network is made anew".to_string()))
        } else if anew("mint:ca") && matches!(spec.role, Role::Egress | Role::Agent) {
            Some((ReasonCode::OwnerReplaced, "the session's CA is made anew".to_string()))
        } else if difference.builds_in_session() {
            Some((ReasonCode::OwnerReplaced, "an image is built on its network".to_string()))
        } else if !on_net {
            Some((ReasonCode::Drifted, format!("not on {} any more", spec.network)))
        } else {
            None
        };
        let Some((code, detail)) = reason else { return (Verdict::none(), None) };
        let removed = difference.take_down(spec.role, name, found, code);
        let verdict = Verdict::of(Effect::Replace, code, Expect::Absent).because(detail);
        (verdict, Some(removed))
    }

    fn compare_start(
        &mut self,
        identity: &Identity,
        role: Role,
        difference: &Difference,
    ) -> Verdict {
        let found = self.own_container(identity, role).map(|(_, c)| c.clone());
        let Some(found) = found.filter(|_| !difference.makes_container(role)) else {
            return Verdict::of(Effect::Create, ReasonCode::NotFound, Expect::Ours);
        };
        match found.state {
            ContainerState::Running => Verdict::none(),
            // An agent that ran to its end while its sidecars live on is ended, not drifted.
            ContainerState::Exited if role == Role::Agent && !self.spec.resume => {
                let egress = self.own_container(identity, Role::Egress);
                let alive = egress.is_some_and(|(_, c)| c.state == ContainerState::Running);
                if alive && !difference.does("start:egress") {
                    self.notice(
                        "agent_ended",
                        format!("the agent has exited; `bottle resume {identity}` starts it again"),
                    );
                    return Verdict::none();
                }
                Verdict::of(Effect::Update, ReasonCode::NotRunning, Expect::Ours)
            }
            _ => Verdict::of(Effect::Update, ReasonCode::NotRunning, Expect::Ours),
        }
    }

    fn compare_delivery(
        &self,
        identity: &Identity,
        role: Role,
        difference: &Difference,
    ) -> Verdict {
        let started = difference.does(&format!("start:{role}"));
        let now = self
            .own_container(identity, role)
            .map(|(_, c)| (c.id.clone(), c.started_at.clone(), c.state));
        let ended = now.as_ref().is_some_and(|(_, _, state)| *state == ContainerState::Exited);
        let delivered = self.facts().and_then(|f| f.delivered.get(&role)).cloned();
        let same = now.map(|(id, at, _)| (id, at)) == delivered && delivered.is_some();
        if !started && (same || ended) {
            return Verdict::none();
        }
        Verdict::of(Effect::Create, ReasonCode::NotDelivered, Expect::Ours)
    }

    /// Containers of roles that the session no longer has, and files nobody asks for.
    fn not_wanted(&mut self, identity: &Identity, difference: &mut Difference) {
        for role in Role::ALL {
            if difference.session.places.contains_key(&role) {
                continue;
            }
            if let Some((name, found)) = self.own_container(identity, role) {
                difference.take_down(role, name, found, ReasonCode::NotWanted);
            }
        }
        let kept = self
            .applied()
            .filter(|a| a.session.agent_image != a.session.base_image)
            .is_some_and(|_| difference.session.agent_image == difference.session.base_image);
        if kept {
            self.notice(
                "volume_kept",
                "the workspace's volume is no longer mounted and stays until the session is destroyed",
            );
        }
        let Some(facts) = self.facts() else { return };
        let stale: Vec<(RelPath, Digest)> = facts
            .files
            .iter()
            .filter(|(path, file)| {
                file.written.is_some()
                    && !difference.actions.contains_key(format!("file:{path}").as_str())
                    && !path.as_str().starts_with("egress/in/ca.")
            })
            .map(|(path, file)| (path.clone(), file.digest.clone()))
            .collect();
        for (path, digest) in stale {
            difference.remove_file(path, digest, ReasonCode::NotWanted);
        }
    }

    /// A `.preserve` marker of the last run is cleared, so that a normal end ends normally.
    fn markers(&mut self, difference: &mut Difference) {
        let Ok(path) = RelPath::new(".preserve") else { return };
        let found = self.facts().and_then(|f| f.files.get(&path)).map(|f| f.digest.clone());
        if let Some(digest) = found {
            difference.remove_file(path, digest, ReasonCode::LeftOver);
        }
    }
}

/// The actions so far.
pub(super) struct Difference {
    identity: Identity,
    session: Session,
    actions: BTreeMap<ActionId, Action>,
}

impl Difference {
    pub(super) fn empty(identity: Identity, session: Session) -> Self {
        Self { identity, session, actions: BTreeMap::new() }
    }

    fn push(&mut self, wanted: Desired, verdict: Verdict) {
        let Desired { id, op, depends_on } = wanted;
        self.insert(id, op, depends_on, verdict);
    }

    fn insert(
        &mut self,
        id: ActionId,
        op: Operation,
        depends_on: BTreeSet<ActionId>,
        verdict: Verdict,
    ) {
        let destructive = matches!(op, Operation::RemoveVolume(_));
        let Verdict { effect, code, detail, expect } = verdict;
        let reason = Reason { code, detail };
        self.actions
            .insert(id.clone(), Action { id, effect, destructive, reason, depends_on, expect, op });
    }

    /// Whether an action is there and does something.
    fn does(&self, id: &str) -> bool {
        self.actions.get(id).is_some_and(|action| action.effect != Effect::None)
    }

    /// Whether an image is yet to be built on the session's own network. What is there then is made
    /// anew after it or for it: see `lower`.
    fn builds_in_session(&self) -> bool {
        self.actions.get("image:agent").is_some_and(|action| {
            let reach = match &action.op {
                Operation::BuildImage(image) => Some(&image.network),
                _ => None,
            };
            action.effect != Effect::None && matches!(reach, Some(BuildReach::Session(_)))
        })
    }

    /// Such a build waits until every container that was there is gone, the agent's above all.
    fn build_alone(&mut self) {
        if !self.builds_in_session() {
            return;
        }
        let removed: Vec<ActionId> = self
            .actions
            .values()
            .filter(|action| matches!(action.op, Operation::RemoveContainer(_)))
            .map(|action| action.id.clone())
            .collect();
        if let Some(build) = self.actions.get_mut("image:agent") {
            build.depends_on.extend(removed);
        }
    }

    fn makes_container(&self, role: Role) -> bool {
        self.does(&format!("container:{role}"))
    }

    fn makes_volume(&self, name: &str) -> bool {
        self.actions.values().any(|action| {
            action.effect != Effect::None
                && matches!(&action.op, Operation::Volume(volume) if volume.name == name)
        })
    }

    /// Stops (where it runs) and removes one container; answers the removal's id.
    pub(super) fn take_down(
        &mut self,
        role: Role,
        name: &str,
        found: &Container,
        code: ReasonCode,
    ) -> ActionId {
        let reference = ContainerRef { role, container: name.to_string() };
        let expect = Expect::Object { id: found.id.clone() };
        let remove = ActionId(format!("remove:{role}"));
        let mut after = BTreeSet::new();
        if matches!(found.state, ContainerState::Running | ContainerState::Paused) {
            let stop = ActionId(format!("stop:{role}"));
            self.insert(
                stop.clone(),
                Operation::Stop(reference.clone()),
                BTreeSet::new(),
                Verdict::of(Effect::Update, code, expect.clone()),
            );
            after.insert(stop);
        }
        self.insert(
            remove.clone(),
            Operation::RemoveContainer(reference),
            after,
            Verdict::of(Effect::Delete, code, expect),
        );
        remove
    }

    fn remove_file(&mut self, path: RelPath, digest: Digest, code: ReasonCode) {
        self.insert(
            ActionId(format!("remove-file:{path}")),
            Operation::RemoveFile(RemoveFile { path: StatePath { root: StateRoot::State, path } }),
            BTreeSet::new(),
            Verdict::of(Effect::Delete, code, Expect::File { digest }),
        );
    }

    /// Saves the agent's work before anything goes that is to go so far. Answers the action's id.
    pub(super) fn save_first(&mut self, save: Save, found: &Container) -> ActionId {
        let id = ActionId("save:work".to_string());
        let stop = ActionId("stop:agent".to_string());
        let after = self.actions.contains_key(&stop).then_some(stop).into_iter().collect();
        for action in self.actions.values_mut().filter(|a| a.effect == Effect::Delete) {
            action.depends_on.insert(id.clone());
        }
        let expect = Expect::Object { id: found.id.clone() };
        let verdict = Verdict::of(Effect::Update, ReasonCode::Requested, expect);
        self.insert(id.clone(), Operation::Save(save), after, verdict);
        id
    }

    /// An action of a take-down that this module's rules do not compare.
    pub(super) fn delete(
        &mut self,
        id: &str,
        op: Operation,
        after: BTreeSet<ActionId>,
        expect: Expect,
    ) {
        let verdict = Verdict::of(Effect::Delete, ReasonCode::Requested, expect);
        self.insert(ActionId(id.to_string()), op, after, verdict);
    }

    /// The one canonical topological order: of all actions whose dependencies are listed, the one
    /// of the lowest rank, then the smallest id.
    pub(super) fn in_order(self, ground: &mut Ground<'_>) -> Option<Vec<Action>> {
        let Self { identity, actions, .. } = self;
        // By id, so that an action's place here stands for its id below.
        let mut actions: Vec<Action> = actions.into_values().collect();
        let mut unlocks: Vec<Vec<usize>> = vec![Vec::new(); actions.len()];
        let ids: Vec<&ActionId> = actions.iter().map(|action| &action.id).collect();
        let mut unknown = false;
        let waits: Vec<usize> = actions
            .iter()
            .enumerate()
            .map(|(index, action)| {
                let mut waits = 0;
                for dependency in &action.depends_on {
                    match ids.binary_search(&dependency) {
                        Ok(before) => {
                            unlocks[before].push(index);
                            waits += 1;
                        }
                        Err(_) => unknown = true,
                    }
                }
                waits
            })
            .collect();
        let ranks: Vec<u8> = actions.iter().map(|action| rank(&action.op)).collect();
        let order = sorted(&ranks, &unlocks, waits);
        if order.len() < actions.len() {
            let stuck = (0..actions.len()).filter(|index| !order.contains(index));
            let stuck: Vec<&str> = stuck.map(|index| actions[index].id.0.as_str()).collect();
            ground.error(
                ErrorCode::Internal,
                format!("actions of `{identity}` depend on each other: {}", stuck.join(", ")),
                "this is a bug in bottle; please report it with `--dump-inputs`",
            );
            return None;
        }
        if unknown {
            let known: BTreeSet<ActionId> = ids.into_iter().cloned().collect();
            for action in &mut actions {
                action.depends_on.retain(|id| known.contains(id));
            }
        }
        let mut places: Vec<Option<Action>> = actions.into_iter().map(Some).collect();
        Some(order.into_iter().filter_map(|index| places[index].take()).collect())
    }
}

/// Kahn's order over places: of those that wait for nothing any more, the one of the lowest rank,
/// then the first. Those in a circle are left out.
fn sorted(ranks: &[u8], unlocks: &[Vec<usize>], mut waits: Vec<usize>) -> Vec<usize> {
    let key = |index: usize| Reverse((ranks[index], index));
    let mut ready: BinaryHeap<Reverse<(u8, usize)>> =
        (0..ranks.len()).filter(|index| waits[*index] == 0).map(key).collect();
    let mut order = Vec::with_capacity(ranks.len());
    while let Some(Reverse((_, index))) = ready.pop() {
        order.push(index);
        for &next in &unlocks[index] {
            waits[next] -= 1;
            if waits[next] == 0 {
                ready.push(key(next));
            }
        }
    }
    order
}

const CONTAINER_RANK: u8 = 20;

/// Where a kind of action stands among those that are ready.
pub(crate) fn rank(op: &Operation) -> u8 {
    match op {
        Operation::Folder(_) => 0,
        Operation::RemoveFile(_) => 1,
        Operation::File(_) => 2,
        Operation::MintCa(_) => 3,
        Operation::ImportImage(_) => 4,
        Operation::PullImage(_) => 5,
        Operation::BuildImage(_) => 6,
        Operation::AssembleImage(_) => 7,
        Operation::Stop(_) => 8,
        Operation::RemoveContainer(_) => 10,
        Operation::RemoveNetwork(_) => 11,
        Operation::RemoveVolume(_) => 12,
        Operation::Network(_) => 13,
        Operation::Volume(_) => 14,
        Operation::Placeholder(_) => 15,
        Operation::RemovePlaceholder(_) => 16,
        Operation::Container(_) => CONTAINER_RANK,
        Operation::Upload(_) => 21,
        Operation::Connect(_) => 22,
        Operation::Start(_) => 23,
        Operation::Deliver(_) => 24,
        Operation::Reload(_) => 25,
        // After the agent has stopped, before anything goes.
        Operation::Save(_) => 9,
        Operation::Archive(_) => 30,
    }
}

fn role_of(id: &ActionId) -> Option<Role> {
    let (_, rest) = id.0.split_once(':')?;
    let name = rest.split('/').next()?;
    Role::ALL.into_iter().find(|role| role.as_str() == name)
}

fn role_has_out(role: Role) -> bool {
    matches!(role, Role::Egress | Role::Pipelock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_rank_that_is_ready_comes_first() {
        // 3 unlocks 0, and 0 unlocks 1; 2 waits for nothing and has the highest rank.
        let unlocks = [vec![1], vec![], vec![], vec![0]];
        assert_eq!(sorted(&[0, 7, 9, 5], &unlocks, vec![1, 1, 0, 0]), [3, 0, 1, 2]);
        assert_eq!(sorted(&[4, 4, 4, 4], &[const { Vec::new() }; 4], vec![0; 4]), [0, 1, 2, 3]);
    }

    #[test]
    fn a_circle_and_what_waits_for_it_are_left_out() {
        let unlocks = [vec![1], vec![0, 2], vec![], vec![]];
        assert_eq!(sorted(&[0; 4], &unlocks, vec![1, 1, 1, 0]), [3]);
    }
}
