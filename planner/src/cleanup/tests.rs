//! What goes and what stays, case by case. That it holds of every mixture is a property
//! (`tests/tests/cleaning.rs`).

use super::*;

const OWNER: &str = "1000-aaaaaaaaaaaa";

fn id(name: &str) -> Identity {
    Identity::new(name).unwrap()
}

fn labels(owner: &str, session: Option<&str>, role: Option<Role>) -> BTreeMap<String, String> {
    let mut labels = BTreeMap::from([(LABEL_OWNER.to_string(), owner.to_string())]);
    labels.extend(session.map(|s| (LABEL_IDENTITY.to_string(), s.to_string())));
    labels.extend(role.map(|r| (LABEL_ROLE.to_string(), r.to_string())));
    labels
}

fn container(owner: &str, session: Option<&str>, state: ContainerState) -> Sized<Container> {
    let what = Container {
        id: "c1".into(),
        image: "sha256:used".into(),
        state,
        labels: labels(owner, session, Some(Role::Agent)),
        networks: BTreeMap::new(),
        started_at: String::new(),
    };
    Sized { what, bytes: Some(5) }
}

fn image(id: &str, owner: &str, tags: &[&str]) -> Sized<Image> {
    let tags = tags.iter().map(ToString::to_string).collect();
    let what = Image { id: id.into(), tags, labels: labels(owner, None, None), ..Image::default() };
    Sized { what, bytes: Some(100) }
}

fn sized<T>(what: T) -> Sized<T> {
    Sized { what, bytes: None }
}

fn seen() -> Seen {
    Seen { owner: OWNER.into(), history_days: HISTORY_DAYS, ..Seen::default() }
}

fn names(seen: &Seen) -> Vec<String> {
    let all = cleanup(seen).removals;
    all.iter().map(|r| format!("{} {}", r.target.kind(), r.target.name())).collect()
}

fn whole(images: &[&str]) -> Sized<Standing> {
    let images = images.iter().map(ToString::to_string).collect();
    sized(Standing::Whole(Uses { images, tools: [Digest::of(b"tool")].into() }))
}

#[test]
fn a_session_that_can_be_carried_on_keeps_everything() {
    let mut seen = seen();
    seen.sessions.insert(id("dev"), whole(&["bottle-sidecar:1"]));
    seen.containers.insert("a".into(), container(OWNER, Some("dev"), ContainerState::Exited));
    seen.networks
        .insert("n".into(), Labelled { id: "1".into(), labels: labels(OWNER, Some("dev"), None) });
    seen.volumes.insert("bottle-home-dev".into(), sized(labels(OWNER, Some("dev"), None)));
    seen.images.push(image("sha256:1", OWNER, &["bottle-sidecar:1"]));
    seen.images.push(image("sha256:used", OWNER, &["bottle-agent:2"]));
    seen.binaries.insert(Digest::of(b"tool"), None);
    seen.locks.insert(id("dev"));
    assert_eq!(cleanup(&seen), Cleanup::default());
}

#[test]
fn without_its_state_folder_all_of_a_session_goes_in_an_order_in_which_it_can() {
    let mut seen = seen();
    let owned = || labels(OWNER, Some("dev"), None);
    seen.containers.insert("a".into(), container(OWNER, Some("dev"), ContainerState::Running));
    seen.networks.insert("n".into(), Labelled { id: "1".into(), labels: owned() });
    for volume in ["bottle-home-dev", "bottle-mirrors-dev", "bottle-work-dev"] {
        seen.volumes.insert(volume.into(), sized(owned()));
    }
    seen.volumes.get_mut("bottle-work-dev").unwrap().bytes = Some(0);
    seen.images.push(image("sha256:used", OWNER, &["bottle-agent:2"]));
    seen.binaries.insert(Digest::of(b"tool"), Some(7));
    seen.locks.insert(id("dev"));
    let tool = Digest::of(b"tool");
    assert_eq!(
        names(&seen),
        [
            "container a",
            "network n",
            "volume bottle-home-dev",
            "volume bottle-mirrors-dev",
            "volume bottle-work-dev",
            "image bottle-agent:2",
            &format!("binary {tool}"),
            "leftover locks/dev.lock",
        ]
    );
    let loses: Vec<bool> = cleanup(&seen).removals.iter().map(|r| r.loses_work).collect();
    assert_eq!(loses, [false, false, true, false, false, false, false, false]);
}

#[test]
fn another_owner_and_nobody_s_are_never_touched() {
    let mut seen = seen();
    seen.containers.insert("a".into(), container("1001-b", Some("dev"), ContainerState::Exited));
    let mut foreign = container(OWNER, None, ContainerState::Exited);
    foreign.what.labels.clear();
    seen.containers.insert("b".into(), foreign);
    seen.networks.insert("n".into(), Labelled::default());
    seen.volumes.insert("v".into(), sized(labels("1001-b", Some("dev"), None)));
    seen.images.push(image("sha256:2", "1001-b", &["bottle-agent:2"]));
    assert_eq!(names(&seen), [""; 0]);
}

#[test]
fn a_first_apply_that_was_cut_short_leaves_nothing_unless_its_agent_runs() {
    let mut seen = seen();
    seen.sessions.insert(id("dev"), sized(Standing::Unfinished));
    seen.containers.insert("a".into(), container(OWNER, Some("dev"), ContainerState::Created));
    seen.scratch.insert(id("dev"), Some(1));
    assert_eq!(names(&seen), ["container a", "state dev", "leftover tmp/dev"]);
    seen.containers.insert("a".into(), container(OWNER, Some("dev"), ContainerState::Running));
    seen.scratch.clear();
    let kept = cleanup(&seen);
    assert_eq!((kept.removals.len(), kept.kept.len()), (0, 1));
}

#[test]
fn where_one_record_is_unknown_nothing_that_is_shared_goes() {
    for standing in [Standing::Unreadable, Standing::Busy] {
        let mut seen = seen();
        seen.images.push(image("sha256:1", OWNER, &["bottle-agent:1"]));
        seen.binaries.insert(Digest::of(b"tool"), None);
        assert_eq!(names(&seen).len(), 2);
        seen.sessions.insert(id("dev"), sized(standing));
        let made = cleanup(&seen);
        assert_eq!((made.removals.len(), made.kept.len()), (0, 1), "{made:?}");
    }
}

#[test]
fn an_image_that_a_person_built_upon_ours_is_theirs() {
    let mut seen = seen();
    seen.images.push(image("sha256:1", OWNER, &["mine:latest", "registry.test/bottle-x:1"]));
    assert_eq!(names(&seen), [""; 0]);
    seen.images.push(image("sha256:2", OWNER, &["mine:2", "bottle-agent:2"]));
    let made = cleanup(&seen).removals;
    assert_eq!((made.len(), made[0].target.name(), made[0].bytes), (1, "bottle-agent:2", None));
}

#[test]
fn what_others_use_stays() {
    let mut seen = seen();
    // Another owner's container stands on an image of ours.
    seen.containers.insert("x".into(), container("1001-b", Some("dev"), ContainerState::Exited));
    seen.images.push(image("sha256:used", OWNER, &["bottle-sidecar:1"]));
    assert_eq!(names(&seen), [""; 0]);
}

#[test]
fn a_twin_that_no_container_stands_on_goes() {
    let twin = || image("sha256:3", OWNER, &[]);
    let only = |image: Sized<Image>| {
        let mut seen = seen();
        seen.sessions.insert(id("dev"), whole(&["bottle-agent:1"]));
        seen.images.push(image);
        names(&seen)
    };
    assert_eq!(only(twin()), ["image sha256:3"]);
    let changed = |change: &dyn Fn(&mut Image)| {
        let mut image = twin();
        change(&mut image.what);
        only(image)
    };
    // Built upon one, without a name: a person's.
    assert_eq!(changed(&|i| i.created = 1_769_860_800), [""; 0]);
    assert_eq!(changed(&|i| i.labels.extend([("theirs".into(), String::new())])), [""; 0]);
    assert_eq!(changed(&|i| i.repo_digests.extend(["a@sha256:1".into()])), [""; 0]);
    assert_eq!(changed(&|i| i.tags.extend(["mine:1".into()])), [""; 0]);
    assert_eq!(changed(&|i| i.labels = labels("1001-b", None, None)), [""; 0]);

    // Anybody's container that stands on it keeps it.
    let mut seen = seen();
    seen.containers.insert("x".into(), container("1001-b", Some("dev"), ContainerState::Created));
    seen.images.push(image("sha256:used", OWNER, &[]));
    assert_eq!(names(&seen), [""; 0]);
}

#[test]
fn records_and_rests_by_age() {
    let mut seen = seen();
    seen.records.insert(id("new"), sized(29));
    seen.records.insert(id("old"), sized(30));
    seen.leftovers.insert(RelPath::new("cache/.tool.1.tmp").unwrap(), sized(10));
    seen.leftovers.insert(RelPath::new("bin/.bottle-1.tmp").unwrap(), sized(3600));
    assert_eq!(names(&seen), ["record old", "leftover bin/.bottle-1.tmp"]);
}
