//! Reading through the gate, and what an agent is told when upstream cannot be reached.

use std::process::Command;
use std::thread;

use serde_json::json;

use super::world::World;
use crate::harness::wait_until;

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

/// Handshakes with the ssh server so far.
fn handshakes(world: &World) -> usize {
    let log = std::fs::read_to_string(world.at("sshd.log")).unwrap();
    log.lines().filter(|line| line.contains("Accepted publickey")).count()
}

#[test]
fn a_connection_is_there_before_anybody_asks_and_is_the_only_one() {
    let world = World::new(json!({}));
    // Not asked for by anything but the delivery of the key.
    wait_until("it is opened", || handshakes(&world) == 1);
    let world = world.seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    world.push("agent").good();
    world.git("agent", &["fetch"]).good();
    assert_eq!(handshakes(&world), 1);
    // Lost, it is opened again by itself.
    let mut ssh = Command::new("ssh");
    ssh.args(["-O", "exit", "-S"]).arg(world.inside.path("run/web.ssh.sock")).arg("x");
    assert!(ssh.output().unwrap().status.success());
    wait_until("it is opened again", || handshakes(&world) == 2);
    world.git("agent", &["fetch"]).good();
    assert_eq!(handshakes(&world), 2);
}

#[test]
fn what_was_opened_with_the_key_before_is_not_used_with_the_next() {
    let world = World::new(json!({})).seeded();
    world.deliver("other-key", &json!({}));
    world.git("agent", &["fetch"]).refused("Permission denied (publickey");
    let before = handshakes(&world);
    world.deliver("key", &json!({}));
    wait_until("it is opened", || handshakes(&world) > before);
}

#[test]
fn a_path_from_the_logins_home_is_one_there_and_one_from_the_root_is_not() {
    let home = std::env::home_dir().unwrap();
    let below = tempfile::Builder::new().prefix("bottle-gate-").tempdir_in(&home).unwrap();
    let path = below.path().join("web.git");
    let path = path.strip_prefix(&home).unwrap();
    let at_home = |from_home: bool| {
        let upstream = json!({"path": path, "from_home": from_home});
        let world = World::with(json!({}), &json!({}), json!({"upstream": upstream}));
        let link = below.path().join("web.git");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(world.at("web.git"), link).unwrap();
        world
    };
    let world = at_home(true).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    world.push("agent").good();
    assert!(world.refs().contains("refs/heads/agent/work"));
    let world = at_home(false);
    let listed = world.git(".", &["ls-remote", &world.url()]);
    listed.refused("does not appear to be a git repository");
}

#[test]
fn another_repository_whose_name_begins_alike_is_none_of_the_remotes() {
    let world = World::new(json!({})).seeded();
    let url = format!("{}-x.git", world.url());
    let refused = world.git(".", &["ls-remote", &url]);
    let refused =
        refused.refused("/web-x.git is not one of this bottle's git remotes: web (ssh://");
    assert!(!refused.err.contains("does not exist"), "{}", refused.err);
    world
        .git(".", &["ls-remote", &world.url().replace("web", "other")])
        .refused("git remotes: web");
    wait_until("it is logged", || {
        world.inside.decisions().iter().any(|decision| decision["code"] == "no_route")
    });
}

#[test]
fn a_repository_with_sha256_names_is_mirrored_and_pushed_to() {
    let world = World::new(json!({}));
    std::fs::remove_dir_all(world.at("web.git")).unwrap();
    world.git(".", &["init", "-q", "--bare", "--object-format=sha256", "web.git"]).good();
    let upstream = world.at("web.git").display().to_string();
    world.write("seed/README", "hello\n");
    world.git("seed", &["init", "-q", "-b", "main", "--object-format=sha256"]).good();
    world.commit("seed", "first");
    world.git("seed", &["push", "-q", &upstream, "main"]).good();
    world.clone_as("agent");
    world.write("agent/a", "a\n");
    let tip = world.commit("agent", "clean");
    assert_eq!(tip.len(), 64);
    world.push("agent").good();
    assert!(world.refs().contains(&tip));
    world.write("agent/s", format!("key = ghp_{}\n", "Zx8Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuRi"));
    world.commit("agent", "s");
    world.push("agent").refused("s, line 1: github-pat");
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
