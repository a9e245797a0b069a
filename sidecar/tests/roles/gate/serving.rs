//! Reading through the gate, and what an agent is told when upstream cannot be reached.

use std::thread;

use serde_json::json;

use super::world::World;

#[test]
fn clones_fetches_and_pulls_see_what_upstream_has_now() {
    let world = World::new(json!({})).seeded();
    world.git("agent", &["checkout", "-q", "main"]).good();
    world.write("seed/new", "new\n");
    let newest = world.commit("seed", "second");
    world.git("seed", &["tag", "-a", "v1", "-m", "one"]).good();
    let upstream = world.at("web.git").display().to_string();
    world.git("seed", &["push", "-q", &upstream, "main", "v1", "main:topic"]).good();
    world.git("agent", &["pull", "-q"]).good();
    assert_eq!(world.git("agent", &["rev-parse", "HEAD"]).good().out.trim(), newest);
    assert_eq!(world.git("agent", &["tag"]).good().out, "v1\n");
    let listed = world.git("agent", &["ls-remote", "origin"]).good().out;
    assert!(listed.contains("refs/heads/topic"), "{listed}");
    // What goes upstream goes here too.
    world.upstream(&["update-ref", "-d", "refs/heads/topic"]);
    let listed = world.git("agent", &["ls-remote", "origin"]).good().out;
    assert!(!listed.contains("refs/heads/topic"), "{listed}");

    world.git(".", &["clone", "-q", "--depth", "1", &world.url(), "shallow"]).good();
    assert_eq!(world.git("shallow", &["rev-list", "--count", "HEAD"]).good().out, "1\n");
    world.git("shallow", &["fetch", "-q", "--unshallow"]).good();
    assert_eq!(world.git("shallow", &["rev-list", "--count", "HEAD"]).good().out, "2\n");
    world.git(".", &["clone", "-q", "--filter=blob:none", &world.url(), "partial"]).good();
}

#[test]
fn a_clone_begins_on_upstreams_default_branch() {
    let world = World::new(json!({}));
    world.upstream(&["symbolic-ref", "HEAD", "refs/heads/trunk"]);
    world.write("seed/README", "hello\n");
    world.git("seed", &["init", "-q", "-b", "trunk"]).good();
    world.commit("seed", "first");
    let upstream = world.at("web.git").display().to_string();
    world.git("seed", &["push", "-q", &upstream, "trunk"]).good();
    world.git(".", &["clone", "-q", &world.url(), "agent"]).good();
    assert_eq!(world.git("agent", &["branch", "--show-current"]).good().out, "trunk\n");
}

#[test]
fn twenty_fetches_at_once_share_their_refreshes() {
    let world = World::new(json!({})).seeded();
    let before = refreshes(&world);
    thread::scope(|scope| {
        for n in 0..20 {
            let world = &world;
            scope.spawn(move || {
                let folder = format!("clone-{n}");
                world.git(".", &["clone", "-q", &world.url(), &folder]).good();
            });
        }
    });
    let begun = refreshes(&world) - before;
    assert!((1..15).contains(&begun), "{begun} refreshes for 20 requests");
}

/// Sessions that the ssh server has opened so far, one for each time upstream is asked.
fn refreshes(world: &World) -> usize {
    let log = std::fs::read_to_string(world.at("sshd.log")).unwrap();
    let opened = log.lines().filter(|line| line.contains("Starting session: command"));
    opened.count()
}

#[test]
fn an_upstream_that_is_down_fails_the_request_with_its_words() {
    let mut world = World::new(json!({})).seeded();
    world.stop_sshd();
    let fetched = world.git("agent", &["fetch"]);
    fetched.refused("egress does not lead to git.test:2222");
    world.commit("agent", "second");
    world.push("agent").refused("does not answer");
    world.start_sshd("host");
    world.push("agent").good();
}

#[test]
fn another_host_key_is_no_upstream() {
    let mut world = World::new(json!({})).seeded();
    world.start_sshd("other-host");
    world.git("agent", &["fetch"]).refused("Host key verification failed");
}

#[test]
fn a_key_that_upstream_does_not_know_is_refused_and_no_other_is_tried() {
    let world = World::new(json!({})).seeded();
    world.deliver("other-key", &json!({}));
    world.git("agent", &["fetch"]).refused("Permission denied (publickey");
    // The right one again.
    world.deliver("key", &json!({}));
    world.git("agent", &["fetch"]).good();
}

#[test]
fn a_key_that_is_none_is_refused_and_not_shown() {
    let world = World::new(json!({}));
    let (code, said) = world.inside.receive(r#"{"git:web": "hunter2-hunter2"}"#);
    assert_eq!(code, 65, "{said}");
    assert!(said.contains("the key for web cannot be used"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    world.git(".", &["ls-remote", &world.url()]).refused("fatal");
}

#[test]
fn nothing_is_served_before_the_keys_are_there() {
    let mut world = World::new(json!({})).seeded();
    world.end_gate();
    world.gate = Some(world.inside.start_ready("git-gate"));
    world.git("agent", &["fetch"]).refused("`bottle apply` delivers them");
    world.deliver("key", &json!({}));
    world.git("agent", &["fetch"]).good();
}
