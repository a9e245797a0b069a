//! Pushes: what may be written, what upstream makes of it, and that it is all or nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use serde_json::json;

use super::world::World;

#[test]
fn a_clean_push_goes_through_and_is_logged() {
    let world = World::new(json!({})).seeded();
    world.write("agent/src/a.rs", "fn main() {}\n");
    let commit = world.commit("agent", "work");
    let said = world.push("agent").good().err;
    assert!(said.contains("remote: bottle: 4 objects looked into and passed on to web"), "{said}");
    assert!(world.refs().contains(&format!("refs/heads/agent/work {commit}")));
    // One more commit is three objects, whatever the branch's history is.
    world.write("agent/b", "b\n");
    world.commit("agent", "more");
    world.push("agent").good();
    world.git("agent", &["push", "-q", "origin", "HEAD:agent/again"]).good();
    let objects: Vec<_> = world
        .pushes(3)
        .iter()
        .map(|p| (p["push"]["objects"].clone(), p["outcome"].clone()))
        .collect();
    assert_eq!(
        objects,
        [(4.into(), "allow".into()), (3.into(), "allow".into()), (0.into(), "allow".into())]
    );
    // The mirror has it at once.
    assert!(world.git("agent", &["ls-remote", "origin"]).good().out.contains("agent/again"));
}

#[test]
fn what_is_not_granted_is_refused_and_nothing_changes() {
    let world = World::new(json!({})).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    world.push("agent").good();
    let before = world.refs();
    let refused = |words: &[&str], says: &str| {
        world.git("agent", words).refused(says);
        assert_eq!(world.refs(), before, "{words:?}");
    };
    refused(&["push", "origin", "HEAD:main"], "the branches that may be pushed are agent/*");
    refused(&["push", "origin", "HEAD:agent/a/b"], "the branches that may be pushed are agent/*");
    refused(&["push", "origin", "HEAD:refs/notes/x"], "and no other refs");
    refused(&["push", "origin", "HEAD:refs/for/main"], "and no other refs");
    refused(&["push", "origin", "HEAD:refs/tags/v1"], "tags may not be pushed");
    refused(&["push", "origin", ":agent/work"], "refs may not be deleted");
    refused(&["push", "origin", "+HEAD~1:agent/work"], "force is not granted");
    // One bad ref spoils all.
    refused(&["push", "origin", "HEAD:agent/new", "HEAD:main"], "the branches that may be pushed");
}

#[test]
fn what_is_granted_goes_through() {
    let world = World::new(json!({
        "branches": ["**"], "tags": true, "force": true, "delete": true,
    }))
    .seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    world.git("agent", &["tag", "-a", "v1", "-m", "one"]).good();
    world.git("agent", &["push", "origin", "HEAD:main", "HEAD:x/y", "v1"]).good();
    world.git("agent", &["commit", "-q", "--amend", "-m", "two"]).good();
    let newest = world.git("agent", &["rev-parse", "HEAD"]).good().out;
    world.git("agent", &["push", "origin", "HEAD:main"]).refused("non-fast-forward");
    world.git("agent", &["push", "origin", "+HEAD:main", ":x/y", ":v1"]).good();
    let refs = world.refs();
    assert_eq!(refs.trim(), format!("refs/heads/main {}", newest.trim()));
}

#[test]
fn upstreams_refusal_comes_back_in_its_words_and_nothing_changes() {
    let world = World::new(json!({})).seeded();
    let hook = world.at("web.git/hooks/update");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    let text = "#!/bin/sh\ncase $1 in *two*) echo 'GH006: Protected branch' >&2; exit 1;; esac\n";
    std::fs::write(&hook, text).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
    let before = world.refs();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    let refused = world.git("agent", &["push", "origin", "HEAD:agent/one", "HEAD:agent/two"]);
    let refused = refused.refused("remote: GH006: Protected branch");
    assert!(refused.err.contains("web does not take the push"), "{}", refused.err);
    assert_eq!(world.refs(), before, "all or none");
    assert!(!world.git("agent", &["ls-remote", "origin"]).good().out.contains("agent/one"));
    world.git("agent", &["push", "origin", "HEAD:agent/one"]).good();
}

#[test]
fn a_push_from_a_shallow_clone_and_one_with_a_submodule_and_lfs_pointers() {
    let world = World::new(json!({})).seeded();
    world.git(".", &["clone", "-q", "--depth", "1", &world.url(), "shallow"]).good();
    world.git("shallow", &["checkout", "-q", "-b", "agent/shallow"]).good();
    world.write(
        "shallow/big.bin",
        "version https://git-lfs.github.com/spec/v1\n\
         oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n",
    );
    world.git("shallow", &["add", "-A"]).good();
    let link = "160000,1111111111111111111111111111111111111111,vendor";
    world.git("shallow", &["update-index", "--add", "--cacheinfo", link]).good();
    world.git("shallow", &["commit", "-q", "-m", "pointers"]).good();
    world.push("shallow").good();
}

/// Runs this shell line in a clone after git was told of the remote's refs and before it pushes.
fn before_pushing(world: &World, clone: &str, line: &str) {
    let hook = world.at(&format!("{clone}/.git/hooks/pre-push"));
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\n{line}\n")).unwrap();
    std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn of_pushes_to_one_ref_at_once_one_wins() {
    let world = World::new(json!({})).seeded();
    let ready = world.at("ready");
    std::fs::create_dir(&ready).unwrap();
    // Each goes on where the one before ends: git alone would let all of them move the branch.
    for n in 0..6 {
        let clone = format!("clone-{n}");
        world.clone_as(&clone);
        world.git(&clone, &["pull", "-q", "--ff-only", "../agent", "agent/work"]).good();
        world.write(&format!("{clone}/file"), format!("{n}\n"));
        world.commit(&clone, "work");
        world
            .git("agent", &["pull", "-q", "--ff-only", &format!("../{clone}"), "agent/work"])
            .good();
        // All were told that there is no such branch; the first makes it, and the others go on.
        let mut line = format!(
            "touch {0}/{n}; until [ $(ls {0} | wc -l) -ge 6 ]; do sleep 0.01; done",
            ready.display()
        );
        if n > 0 {
            let there = "rev-parse -q --verify refs/heads/agent/work >/dev/null";
            let upstream = world.at("web.git");
            line += &format!(
                "; until git --git-dir={} {there}; do sleep 0.01; done",
                upstream.display()
            );
        }
        before_pushing(&world, &clone, &line);
    }
    let won: Vec<usize> = thread::scope(|scope| {
        let world = &world;
        let pushes: Vec<_> =
            (0..6).map(|n| scope.spawn(move || world.push(&format!("clone-{n}")).ok)).collect();
        let ended = pushes.into_iter().map(|push| push.join().unwrap()).enumerate();
        ended.filter(|(_, won)| *won).map(|(n, _)| n).collect()
    });
    assert_eq!(won, [0]);
    let winner = world.git("clone-0", &["rev-parse", "HEAD"]).good().out;
    assert!(world.refs().contains(&format!("refs/heads/agent/work {}", winner.trim())));
    let listed = world.git("agent", &["ls-remote", "origin", "agent/work"]).good().out;
    assert!(listed.starts_with(winner.trim()), "{listed}");
}

#[test]
fn the_second_of_two_does_not_move_what_the_first_made_even_forward() {
    let world = World::new(json!({})).seeded();
    world.write("agent/a", "a\n");
    let first = world.commit("agent", "one");
    world.write("agent/a", "b\n");
    world.commit("agent", "two");
    // Both make the branch; git alone would take the second for a move forward.
    let line = format!("exec git push -q --no-verify {} HEAD~1:refs/heads/agent/work", world.url());
    before_pushing(&world, "agent", &line);
    world.push("agent").refused("stale info");
    assert!(world.refs().contains(&format!("refs/heads/agent/work {first}")), "{}", world.refs());
}

#[test]
fn an_upstream_that_moved_meanwhile_is_not_overwritten() {
    // Granted, so that only the comparison with what upstream had stands between.
    let world = World::new(json!({"force": true})).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "one");
    world.push("agent").good();
    // Between what the agent was told of upstream and its push, somebody else pushes.
    let line = format!(
        "exec git --git-dir={} update-ref refs/heads/agent/work refs/heads/main",
        world.at("web.git").display()
    );
    before_pushing(&world, "agent", &line);
    world.git("agent", &["commit", "-q", "--amend", "-m", "two"]).good();
    world.git("agent", &["push", "--force", "origin", "HEAD"]).refused("stale info");
    let main = world.upstream(&["rev-parse", "main"]);
    assert!(world.refs().contains(&format!("refs/heads/agent/work {}", main.trim())));
}
