//! An agent that speaks git's protocol by hand.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use serde_json::json;

use super::world::World;
use crate::harness::{Who, connect_from};

const NOTHING: &str = "0000000000000000000000000000000000000000";

fn line(text: &str) -> Vec<u8> {
    format!("{:04x}{text}", text.len() + 4).into_bytes()
}

/// Asks git daemon for something; all that it answers.
fn asked(world: &World, request: &str, more: &[u8]) -> String {
    let gate = (world.inside.address(Who::Gate), 9418).into();
    let mut stream = connect_from(world.inside.address(Who::Agent), gate);
    stream.write_all(&line(request)).unwrap();
    stream.write_all(more).unwrap();
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn other_services_and_other_folders_are_not_served() {
    let world = World::new(json!({})).seeded();
    for request in [
        "git-upload-archive /web.git\0host=x\0",
        "git-upload-pack /\0host=x\0",
        "git-upload-pack /other.git\0host=x\0",
        "git-upload-pack /../mirrors/web.git\0host=x\0",
        "git-upload-pack /web.git/../../in\0host=x\0",
        "git-upload-pack /web.git/objects\0host=x\0",
        "git-upload-pack ~root/web.git\0host=x\0",
        "git-upload-pack //proc/self/root/etc\0host=x\0",
        "git-receive-pack /seed\0host=x\0",
        "git-shell /web.git\0host=x\0",
        "../../bin/sh /web.git\0host=x\0",
    ] {
        let answer = asked(&world, request, b"");
        assert!(!answer.contains("refs/heads/main"), "{request:?}: {answer}");
    }
    for host in ["$(touch x)", "-x", "`id`", "a b"] {
        let request = format!("git-upload-pack /web.git\0host={host}\0");
        assert!(asked(&world, &request, b"0000").contains("refs/heads/main"), "{host:?}");
    }
}

/// Pushes one new branch with a pack of exactly these objects.
fn push_pack(world: &World, tip: &str, name: &str, objects: &str) -> String {
    let mut pack = Command::new("git")
        .args(["pack-objects", "--stdout", "-q"])
        .current_dir(world.at("agent"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pack.stdin.take().unwrap().write_all(objects.as_bytes()).unwrap();
    let pack = pack.wait_with_output().unwrap().stdout;
    let update = format!("{NOTHING} {tip} {name}\0report-status side-band-64k");
    let more = [line(&update), b"0000".to_vec(), pack].concat();
    asked(world, "git-receive-pack /web.git\0host=x\0", &more)
}

#[test]
fn an_object_that_no_ref_leads_to_is_refused() {
    let world = World::new(json!({})).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "clean");
    let tip = world.git("agent", &["rev-parse", "HEAD"]).good().out;
    let list = world.git("agent", &["rev-list", "--objects", "HEAD", "^origin/main"]).good().out;
    let list: String =
        list.lines().map(|l| format!("{}\n", l.split(' ').next().unwrap())).collect();
    world.write("agent/hidden", "nobody sees me\n");
    let hidden = world.git("agent", &["hash-object", "-w", "hidden"]).good().out;
    let before = world.refs();
    let answer = push_pack(&world, tip.trim(), "refs/heads/agent/x", &format!("{list}{hidden}"));
    assert!(answer.contains("objects that no pushed ref leads to"), "{answer}");
    assert_eq!(world.refs(), before);
    // The same by hand and honest.
    let answer = push_pack(&world, tip.trim(), "refs/heads/agent/x", &list);
    assert!(answer.contains("unpack ok") && answer.contains("ok refs/heads/agent/x"), "{answer}");
    // An object that upstream has is no hidden one.
    let known = world.git("agent", &["rev-parse", "origin/main:README"]).good().out;
    world.git("agent", &["commit", "-q", "--allow-empty", "-m", "next"]).good();
    let tip = world.git("agent", &["rev-parse", "HEAD"]).good().out;
    let answer = push_pack(&world, tip.trim(), "refs/heads/agent/y", &format!("{tip}{known}"));
    assert!(answer.contains("ok refs/heads/agent/y"), "{answer}");
}

#[test]
fn names_and_packs_that_break_rules_break_nothing() {
    let world = World::new(json!({"branches": ["**"]})).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "clean");
    let tip = world.git("agent", &["rev-parse", "HEAD"]).good().out.trim().to_owned();
    let list = world.git("agent", &["rev-list", "--objects", "HEAD", "^origin/main"]).good().out;
    let list: String =
        list.lines().map(|l| format!("{}\n", l.split(' ').next().unwrap())).collect();
    let before = world.refs();
    for name in [
        "refs/heads/../../config",
        "refs/heads/a..b",
        "refs/heads/-x --upload-pack=touch",
        "refs/heads/x:refs/heads/main",
        "refs/heads/x\ny",
        "HEAD",
        "config",
        "refs/heads/x.lock",
        "refs/replace/1111111111111111111111111111111111111111",
    ] {
        let answer = push_pack(&world, &tip, name, &list);
        assert!(!answer.contains(&format!("ok {name}")), "{name:?}: {answer}");
        assert_eq!(world.refs(), before, "{name:?}");
    }
    // A branch whose name begins like an option is a branch.
    let answer = push_pack(&world, &tip, "refs/heads/-f", &list);
    assert!(answer.contains("ok refs/heads/-f"), "{answer}");
    let update = format!("{NOTHING} {tip} refs/heads/b\0report-status");
    for pack in [&b"PACK\0\0\0\x02\0\0\xff\xff"[..], b"PACK", b"", b"nonsense nonsense nonsense"] {
        let more = [line(&update), b"0000".to_vec(), pack.to_vec()].concat();
        asked(&world, "git-receive-pack /web.git\0host=x\0", &more);
    }
    assert!(!world.refs().contains("refs/heads/b"));
    world.git("agent", &["fetch"]).good();
}

#[test]
fn a_name_that_git_would_read_as_two_reaches_no_other_branch() {
    let world = World::new(json!({})).seeded();
    world.write("agent/a", "a\n");
    let clean = world.commit("agent", "clean");
    world.git("agent", &["push", "origin", "HEAD:refs/heads/agent/c"]).good();
    // As a word of git's, `D:refs/heads/agent/x:main` is what D has at that path, and goes to main.
    let link = format!("160000,{clean},refs/heads/agent/x");
    world.git("agent", &["update-index", "--add", "--cacheinfo", &link]).good();
    world.git("agent", &["commit", "-q", "-m", "a link"]).good();
    let tip = world.git("agent", &["rev-parse", "HEAD"]).good().out.trim().to_owned();
    let list = world.git("agent", &["rev-list", "--objects", "HEAD", &format!("^{clean}")]).good();
    let list: String =
        list.out.lines().map(|l| format!("{}\n", l.split(' ').next().unwrap())).collect();
    let before = world.refs();
    for name in ["refs/heads/agent/x:main", "refs/heads/agent/x:refs/heads/main"] {
        let answer = push_pack(&world, &tip, name, &list);
        assert!(answer.contains("its name or an id is none to git"), "{name:?}: {answer}");
        assert_eq!(world.refs(), before, "{name:?}");
    }
    // The same commit under a name that is one.
    let answer = push_pack(&world, &tip, "refs/heads/agent/x", &list);
    assert!(answer.contains("ok refs/heads/agent/x"), "{answer}");
}

#[test]
fn a_tag_named_like_a_commit_is_not_pushed_in_its_place() {
    let world = World::new(json!({"tags": true})).seeded();
    world.write("agent/a", "a\n");
    world.commit("agent", "work");
    world.push("agent").good();
    let next = world.commit("agent", "next");
    // What upstream's branch does not have, under the id of what may follow it.
    world.git("agent", &["checkout", "-q", "-b", "aside", "origin/main"]).good();
    world.commit("agent", "aside");
    world.git("agent", &["push", "origin", &format!("HEAD:refs/tags/{next}")]).good();
    world.git("agent", &["push", "origin", "agent/work"]).good();
    assert_eq!(world.upstream(&["rev-parse", "refs/heads/agent/work"]).trim(), next);
}

/// A commit whose folder holds `.git`, and this file beside it.
fn bad_commit(world: &World, beside: Option<&[u8]>) -> String {
    // A folder that holds `.git`: checked out, it would be a repository's own.
    let blob = world.git("agent", &["hash-object", "-w", "README"]).good().out;
    let mut tree = Command::new("git")
        .args(["mktree", "--missing"])
        .current_dir(world.at("agent"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut entry = format!("100644 blob {}\t.git\n", blob.trim());
    if let Some(bytes) = beside {
        world.write("agent/beside", bytes);
        let beside = world.git("agent", &["hash-object", "-w", "beside"]).good().out;
        entry.push_str(&format!("100644 blob {}\tbeside\n", beside.trim()));
    }
    tree.stdin.take().unwrap().write_all(entry.as_bytes()).unwrap();
    let tree = String::from_utf8(tree.wait_with_output().unwrap().stdout).unwrap();
    world.git("agent", &["commit-tree", "-m", "x", tree.trim()]).good().out.trim().to_owned()
}

#[test]
fn objects_that_fsck_refuses_are_refused() {
    let world = World::new(json!({})).seeded();
    let spec = format!("{}:refs/heads/agent/x", bad_commit(&world, None));
    world.git("agent", &["push", "origin", &spec]).refused("fsck");
    // Trees come before files in a pack: the gate has given up while the client still sends.
    let mut bytes = vec![0; 24 << 20];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    let spec = format!("{}:refs/heads/agent/x", bad_commit(&world, Some(&bytes)));
    for _ in 0..3 {
        world.git("agent", &["push", "origin", &spec]).refused("fsck");
    }
}
