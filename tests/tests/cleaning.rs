//! What a clean-up takes and leaves, in every mixture of what can be seen of a host.

use std::collections::{BTreeMap, BTreeSet};

use bottle_planner::cleanup::{
    Image, Labelled, Removal, Seen, Sized, Standing, Target, Uses, cleanup,
};
use bottle_planner::plan::{LABEL_IDENTITY, LABEL_OWNER, LABEL_ROLE};
use bottle_planner::snapshot::{Container, ContainerState};
use bottle_planner::words::{Digest, Identity, RelPath};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;

const OWNER: &str = "1000-aaaaaaaaaaaa";
const SESSIONS: [&str; 4] = ["dev", "dev-2", "web", "zed"];
const TAGS: [&str; 6] = [
    "bottle-agent:1",
    "bottle-sidecar:1",
    "bottle:cwd-1",
    "mine:1",
    "bottle-agent:2",
    "x/bottle-a:1",
];
const IDS: [&str; 4] = ["sha256:1", "sha256:2", "sha256:3", "sha256:4"];

fn identity() -> impl Strategy<Value = Identity> {
    proptest::sample::select(&SESSIONS[..]).prop_map(|name| Identity::new(name).expect("a name"))
}

fn tool() -> impl Strategy<Value = Digest> {
    (0..3_u8).prop_map(|n| Digest::of(&[n]))
}

/// Ours, somebody else's, nobody's; of a session or of none.
fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let owner =
        prop_oneof![3 => Just(Some(OWNER)), 1 => Just(Some("1001-bbbbbbbbbbbb")), 1 => Just(None)];
    let role = proptest::sample::select(&["agent", "egress"][..]);
    (owner, option::weighted(0.9, identity()), role).prop_map(|(owner, session, role)| {
        let mut labels = BTreeMap::from([(LABEL_ROLE.to_owned(), role.to_owned())]);
        labels.extend(owner.map(|owner| (LABEL_OWNER.to_owned(), owner.to_owned())));
        labels.extend(session.map(|session| (LABEL_IDENTITY.to_owned(), session.to_string())));
        labels
    })
}

fn sized<T: std::fmt::Debug>(what: impl Strategy<Value = T>) -> impl Strategy<Value = Sized<T>> {
    (what, option::of(0..3_u64)).prop_map(|(what, bytes)| Sized { what, bytes })
}

fn container() -> impl Strategy<Value = Container> {
    use ContainerState as S;
    let state = proptest::sample::select(vec![S::Created, S::Running, S::Paused, S::Exited]);
    let image = proptest::sample::select(&IDS[..]);
    (labels(), state, image).prop_map(|(labels, state, image)| Container {
        id: "id".into(),
        image: image.into(),
        state,
        labels,
        networks: BTreeMap::new(),
        started_at: String::new(),
    })
}

fn image() -> impl Strategy<Value = Image> {
    let id = proptest::sample::select(&IDS[..]);
    let tag = proptest::sample::select(&TAGS[..]).prop_map(str::to_owned);
    (id, btree_set(tag, 0..3), labels(), 0..2_i64).prop_map(|(id, tags, mut labels, created)| {
        labels.remove(LABEL_IDENTITY);
        labels.remove(LABEL_ROLE);
        Image { id: id.into(), tags, labels, repo_digests: BTreeSet::new(), created }
    })
}

fn standing() -> impl Strategy<Value = Standing> {
    let named = proptest::sample::select([&TAGS[..], &IDS[..]].concat()).prop_map(str::to_owned);
    let whole = (btree_set(named, 0..4), btree_set(tool(), 0..2))
        .prop_map(|(images, tools)| Standing::Whole(Uses { images, tools }));
    prop_oneof![
        4 => whole,
        3 => Just(Standing::Unfinished),
        1 => Just(Standing::Busy),
        1 => Just(Standing::Unreadable),
    ]
}

fn name() -> impl Strategy<Value = String> {
    (0..8_u8).prop_map(|n| format!("bottle-{n}"))
}

prop_compose! {
    fn seen()(
        containers in btree_map(name(), sized(container()), 0..6),
        networks in btree_map(name(), labels(), 0..4),
        volumes in btree_map(name(), sized(labels()), 0..4),
        images in vec(sized(image()), 0..4),
        sessions in btree_map(identity(), sized(standing()), 0..4),
        binaries in btree_map(tool(), option::of(0..9_u64), 0..3),
        records in btree_map(identity(), sized(0..60_u64), 0..3),
        age in 0..7200_u64,
        scratch in btree_map(identity(), option::of(0..9_u64), 0..3),
        locks in btree_set(identity(), 0..3),
    ) -> Seen {
        let labelled = |labels| Labelled { id: "id".into(), labels };
        let leftover = RelPath::new("bin/.bottle-1.tmp").expect("a path");
        Seen {
            owner: OWNER.into(),
            history_days: 30,
            containers,
            networks: networks.into_iter().map(|(name, labels)| (name, labelled(labels))).collect(),
            volumes,
            images,
            sessions,
            binaries,
            records,
            leftovers: [(leftover, Sized { what: age, bytes: None })].into(),
            scratch,
            locks,
        }
    }
}

/// Whether anything of a session may still be needed.
fn is_needed(seen: &Seen, session: &Identity) -> bool {
    let agent = |container: &Container| {
        let label =
            |name: &str, value: &str| container.labels.get(name).is_some_and(|l| l == value);
        label(LABEL_OWNER, OWNER)
            && label(LABEL_IDENTITY, session.as_str())
            && label(LABEL_ROLE, "agent")
            && matches!(container.state, ContainerState::Running | ContainerState::Paused)
    };
    match seen.sessions.get(session).map(|found| &found.what) {
        None => false,
        Some(Standing::Unfinished) => seen.containers.values().any(|found| agent(&found.what)),
        Some(_) => true,
    }
}

fn uses(seen: &Seen) -> impl Iterator<Item = &Uses> {
    seen.sessions.values().filter_map(|found| match &found.what {
        Standing::Whole(uses) => Some(uses),
        _ => None,
    })
}

fn labels_of<'a>(seen: &'a Seen, target: &Target) -> Option<&'a BTreeMap<String, String>> {
    match target {
        Target::Container { name, .. } => Some(&seen.containers[name].what.labels),
        Target::Network { name, .. } => Some(&seen.networks[name].labels),
        Target::Volume { name } => Some(&seen.volumes[name].what),
        _ => None,
    }
}

/// What is seen once all that was to go has gone.
fn after(seen: &Seen, removals: &[Removal]) -> Seen {
    let mut left = seen.clone();
    for removal in removals {
        match &removal.target {
            Target::Container { name, .. } => drop(left.containers.remove(name)),
            Target::Network { name, .. } => drop(left.networks.remove(name)),
            Target::Volume { name } => drop(left.volumes.remove(name)),
            Target::Image { name, .. } => {
                left.images.retain_mut(|image| {
                    image.what.id != *name
                        && (!image.what.tags.remove(name) || !image.what.tags.is_empty())
                });
            }
            Target::State { name } => drop(left.sessions.remove(name)),
            Target::Binary { name } => drop(left.binaries.remove(name)),
            Target::Record { name } => drop(left.records.remove(name)),
            Target::Leftover { name } => {
                left.leftovers.remove(name);
                left.scratch.retain(|session, _| name.as_str() != format!("tmp/{session}"));
                left.locks.retain(|session| name.as_str() != format!("locks/{session}.lock"));
            }
        }
    }
    left
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn it_takes_only_what_is_ours_and_needed_by_nobody(seen in seen()) {
        let made = cleanup(&seen);
        let gone: BTreeSet<&str> = made.removals.iter().filter_map(|r| match &r.target {
            Target::Container { name, .. } => Some(name.as_str()),
            _ => None,
        }).collect();
        for removal in &made.removals {
            if let Some(labels) = labels_of(&seen, &removal.target) {
                prop_assert_eq!(labels.get(LABEL_OWNER).map(String::as_str), Some(OWNER));
                let session = removal.session.as_ref().map(Identity::as_str);
                prop_assert_eq!(labels.get(LABEL_IDENTITY).map(String::as_str), session);
                if let Some(session) = &removal.session {
                    prop_assert!(!is_needed(&seen, session), "{:?}", removal);
                }
            }
            match &removal.target {
                Target::State { name } => prop_assert!(!is_needed(&seen, name)),
                Target::Binary { name } => prop_assert!(uses(&seen).all(|u| !u.tools.contains(name))),
                Target::Image { name, id } => {
                    prop_assert!(name == id || TAGS[..3].contains(&name.as_str()) || name == TAGS[4]);
                    let needed = |u: &Uses| u.images.contains(name) || u.images.contains(id);
                    prop_assert!(!uses(&seen).any(needed));
                    let mut stands = seen.containers.iter();
                    prop_assert!(!stands.any(|(c, found)| found.what.image == *id && !gone.contains(c.as_str())));
                    let mut listed = seen.images.iter().map(|image| &image.what);
                    let ours = |i: &Image| i.labels.get(LABEL_OWNER).is_some_and(|o| o == OWNER);
                    prop_assert!(listed.any(|i| i.id == *id && ours(i) && (name != id || i.is_twin())));
                }
                Target::Volume { name } => {
                    let is_mirror = removal.session.as_ref().is_some_and(|id| *name == format!("bottle-mirrors-{id}"));
                    prop_assert_eq!(removal.loses_work, !is_mirror && seen.volumes[name].bytes != Some(0));
                }
                _ => {}
            }
        }
        // What is unknown of one session keeps what all share.
        let known = seen.sessions.values().all(|s| !matches!(s.what, Standing::Busy | Standing::Unreadable));
        let shared = |r: &Removal| matches!(r.target, Target::Image { .. } | Target::Binary { .. });
        prop_assert!(known || !made.removals.iter().any(shared));
    }

    #[test]
    fn once_it_is_done_there_is_nothing_to_do(seen in seen()) {
        let made = cleanup(&seen);
        let again = cleanup(&after(&seen, &made.removals));
        prop_assert_eq!(again.removals, []);
    }
}
