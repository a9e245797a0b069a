//! A world in which a plan was carried out: an independent model of what each action leaves.
//!
//! It shares no code with the executor, so that the two can be held against each other.

use std::collections::BTreeMap;

use bottle_planner::document;
use bottle_planner::plan::{Effect, Operation, Plan};
use bottle_planner::resolve::plan_digest;
use bottle_planner::snapshot::{
    Applied, Container, ContainerState, ImageFact, Kind, Network, SessionFacts, Snapshot,
    StateFile, Volume,
};
use bottle_planner::words::{Digest, Role};

use crate::fixture;

/// The snapshot that a probe would take after `plan` was applied to the world of `before`.
#[must_use]
pub fn settle(plan: &Plan, before: &Snapshot) -> Snapshot {
    let mut after = before.clone();
    let mut facts = before.session.clone().unwrap_or_else(|| fixture::facts(plan.identity.clone()));
    let mut changed = false;
    for action in plan.actions.iter().filter(|a| a.effect != Effect::None) {
        changed = true;
        carry_out(&action.id.0, &action.op, &mut after, &mut facts);
    }
    if changed {
        facts.applied = Some(Applied {
            plan: plan_digest(plan).expect("a plan has a digest"),
            complete: true,
            session: Box::new(plan.session.clone()),
            grants: Box::new(plan.grants.clone()),
            spec: Box::new(plan.spec.clone()),
        });
    }
    after.session = Some(facts);
    after
}

fn carry_out(id: &str, op: &Operation, world: &mut Snapshot, facts: &mut SessionFacts) {
    match op {
        Operation::Folder(f) => {
            facts.folders.insert(f.path.path.clone(), f.mode);
        }
        Operation::File(f) => {
            let digest = Digest::of(f.content.as_bytes());
            let written = Some(digest.clone());
            if f.path.path.as_str() == "approvals.json" {
                facts.approvals = serde_json::from_str(&f.content).expect("approvals");
            }
            facts.files.insert(f.path.path.clone(), StateFile { digest, mode: f.mode, written });
        }
        Operation::RemoveFile(f) => {
            if f.path.path.as_str() == "approvals.json" {
                facts.approvals.clear();
            }
            facts.files.remove(&f.path.path);
        }
        Operation::MintCa(_) => facts.ca_fingerprint = Some(Digest::of(id.as_bytes())),
        Operation::ImportImage(i) => image(world, i.tag.clone()),
        Operation::BuildImage(i) => image(world, i.tag.clone()),
        Operation::AssembleImage(i) => image(world, i.tag.clone()),
        Operation::PullImage(i) => image(world, format!("{}@{}", i.image.name, i.image.digest)),
        Operation::Network(n) => {
            let network = Network {
                id: format!("id-of-{}", n.name),
                subnets: [n.subnet].into(),
                labels: n.labels.clone(),
            };
            let twice = world.networks.insert(n.name.clone(), network);
            assert!(twice.is_none(), "network {} is created twice", n.name);
        }
        Operation::RemoveNetwork(n) => {
            world.networks.remove(&n.name).expect("a network that goes was there");
        }
        Operation::Volume(v) => {
            let twice = world.volumes.insert(v.name.clone(), Volume { labels: v.labels.clone() });
            assert!(twice.is_none(), "volume {} is created twice", v.name);
        }
        Operation::RemoveVolume(v) => {
            world.volumes.remove(&v.name).expect("a volume that goes was there");
        }
        Operation::Placeholder(p) | Operation::RemovePlaceholder(p) => {
            let there = matches!(op, Operation::Placeholder(_));
            let kind = if p.folder { Kind::EmptyFolder } else { Kind::File };
            let seen = world.workspace.as_mut().and_then(|w| w.mounted.as_mut());
            if let Some(seen) = seen {
                if p.path.as_str() == ".git" {
                    seen.git_is_there = there;
                } else {
                    seen.named.insert(p.path.clone(), there.then_some(kind));
                }
            }
        }
        Operation::Container(c) => {
            let digest = document::digest(c).expect("a spec has a digest");
            let container = Container {
                id: format!("id-of-{}-{}", c.name, digest.short()),
                image: c.image.clone(),
                state: ContainerState::Created,
                labels: c.labels.clone(),
                networks: [(c.network.clone(), Some(c.address))].into(),
                started_at: String::new(),
            };
            let twice = world.containers.insert(c.name.clone(), container);
            assert!(twice.is_none(), "container {} is created twice", c.name);
        }
        Operation::RemoveContainer(c) => {
            let gone = world.containers.remove(&c.container).expect("it was there");
            assert_ne!(gone.state, ContainerState::Running, "{} was running", c.container);
        }
        Operation::Connect(c) => {
            container(world, &c.container).networks.insert(c.network.clone(), Some(c.address));
        }
        Operation::Start(c) => {
            let started = container(world, &c.container);
            started.state = ContainerState::Running;
            started.started_at.push('*');
            let (id, at) = (started.id.clone(), started.started_at.clone());
            if c.role == Role::Egress {
                let routes = facts
                    .files
                    .iter()
                    .find(|(path, _)| path.as_str() == "egress/in/routes.json")
                    .map(|(_, file)| file.digest.clone())
                    .expect("egress is not started without its routes");
                facts.loaded.insert(c.role, (id, at, routes));
            }
        }
        Operation::Stop(c) => container(world, &c.container).state = ContainerState::Exited,
        Operation::Upload(u) => {
            let onto = match &u.volume {
                Some(volume) => format!("volume:{volume}"),
                None => container(world, &u.container).id.clone(),
            };
            let digest = document::digest(u).expect("an upload has a digest");
            facts.uploaded.insert(id.to_string(), (onto, digest));
        }
        Operation::Deliver(d) => {
            let c = container(world, &d.container);
            assert_eq!(c.state, ContainerState::Running, "delivered to what does not run");
            facts.delivered.insert(d.role, (c.id.clone(), c.started_at.clone()));
        }
        Operation::Reload(r) => {
            let c = container(world, &r.container);
            let loaded = (c.id.clone(), c.started_at.clone(), r.digest.clone());
            facts.loaded.insert(r.role, loaded);
        }
        Operation::Save(s) => {
            assert_ne!(
                container(world, &s.container).state,
                ContainerState::Running,
                "{} works while its work is saved",
                s.container
            );
            facts.saved = true;
        }
        Operation::Archive(_) => {
            facts.applied = None;
            facts.files.clear();
        }
    }
}

fn container<'a>(world: &'a mut Snapshot, name: &str) -> &'a mut Container {
    world.containers.get_mut(name).expect("the container was created before")
}

fn image(world: &mut Snapshot, reference: String) {
    let id = Digest::of(reference.as_bytes());
    let fact = ImageFact { id, repo_digests: [].into(), labels: BTreeMap::new() };
    world.images.insert(reference, fact);
}
