//! Where the agent's git is led to: its configuration as it is planned, read by real git.

use std::process::Command;

use bottle_planner::lint::lint;
use bottle_planner::plan::Operation;
use bottle_planner::policy::{HostPattern, Upstream};
use bottle_planner::resolve::plan;
use bottle_planner::words::Name;
use bottle_tests::fixture;

/// The address that git uses for this one, in a bottle with these remotes on git.example.com.
fn leads(remotes: &[(&str, bool)], routed: bool, addresses: &[&str]) -> Vec<String> {
    let (mut manifest, spec, mut snapshot) = fixture::typical(0);
    let bottle = manifest.bottles.values_mut().next().expect("a bottle");
    let one = bottle.git.values().next().expect("a remote").clone();
    bottle.git.clear();
    for (name, from_home) in remotes {
        let mut remote = one.clone();
        let path = format!("acme/{name}.git");
        remote.upstream = Upstream { path, from_home: *from_home, ..remote.upstream };
        bottle.git.insert(Name::new(*name).expect("a name"), remote);
    }
    if routed {
        let host = HostPattern::new("*.example.com").expect("a host");
        bottle.egress.routes.insert(host, fixture::route());
    }
    snapshot.config.base_image = None;
    let plan = plan(&manifest, &spec, &snapshot).expect("it can be planned");
    let file = plan.actions.iter().find_map(|action| match &action.op {
        Operation::File(file) if file.path.path.as_str().ends_with("gitconfig") => Some(file),
        _ => None,
    });
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gitconfig");
    std::fs::write(&config, &file.expect("the agent's git configuration").content)
        .expect("written");
    let led = addresses.iter().map(|address| {
        let mut git = Command::new("git");
        git.args(["ls-remote", "--get-url", address]).current_dir(folder.path());
        git.env("GIT_CONFIG_GLOBAL", &config).env("GIT_CONFIG_NOSYSTEM", "1");
        let out = git.output().expect("git is there");
        String::from_utf8(out.stdout).expect("text").trim().to_owned()
    });
    led.collect()
}

#[test]
fn every_spelling_leads_to_the_gate() {
    let spellings = [
        "ssh://git@git.example.com/acme/web.git",
        "ssh://git@git.example.com:22/acme/web",
        "git@git.example.com:acme/web",
        "git@git.example.com:/acme/web.git",
        "https://git.example.com/acme/web",
        "https://git.example.com/acme/web/",
        "https://git.example.com:443/acme/web.git",
    ];
    for from_home in [false, true] {
        let led = leads(&[("web", from_home)], true, &spellings);
        assert_eq!(led, ["git://git-gate/web.git"; 7]);
    }
    let home = ["ssh://git@git.example.com/~/acme/web", "git@git.example.com:~/acme/web.git"];
    assert_eq!(leads(&[("web", true)], true, &home), ["git://git-gate/web.git"; 2]);
    assert_eq!(leads(&[("web", false)], true, &home), home);
}

#[test]
fn what_only_begins_alike_stays_what_it_is_where_a_route_leads_there() {
    let siblings = [
        "https://git.example.com/acme/web-x",
        "https://git.example.com/acme/web-x.git",
        "https://git.example.com/acme/website",
        "https://git.example.com/acme/web.github.io",
        "https://git.example.com/acme/web.docs.git",
        "https://git.example.com/acme/we",
        "https://git.example.com/other/web",
    ];
    assert_eq!(leads(&[("web", false)], true, &siblings), siblings);
    // Where it is a remote of its own it leads to its own.
    let led =
        leads(&[("web", false), ("web2", false)], true, &["https://git.example.com/acme/web2"]);
    assert_eq!(led, ["git://git-gate/web2.git"]);
    let led = leads(&[("web", false), ("website", false)], true, &siblings[2..3]);
    assert_eq!(led, ["git://git-gate/website.git"]);
    // Nothing but the gate could answer: it says what it is asked for.
    let led = leads(&[("web", false)], false, &siblings[..1]);
    assert_eq!(led, ["git://git-gate/web.git-x"]);
}

#[test]
fn the_gates_image_is_built_on_the_hosts_base_image() {
    let (manifest, spec, mut snapshot) = fixture::typical(0);
    let image = snapshot.images["debian:bookworm-slim"].clone();
    snapshot.images.insert("debian:trixie-slim".into(), image);
    let mut built = |base: Option<&str>| {
        snapshot.config.base_image = base.map(String::from);
        let plan = plan(&manifest, &spec, &snapshot).expect("it can be planned");
        assert!(lint(&plan).is_empty());
        let gate = plan.actions.into_iter().find(|action| action.id.0 == "image:gate");
        match gate.expect("the gate's image is built").op {
            Operation::BuildImage(build) => (build.tag, build.dockerfile),
            other => panic!("{other:?}"),
        }
    };
    let (tag, dockerfile) = built(None);
    assert!(dockerfile.starts_with("FROM debian:bookworm-slim\n"), "{dockerfile}");
    let (other, dockerfile) = built(Some("debian:trixie-slim"));
    assert!(dockerfile.starts_with("FROM debian:trixie-slim\n"), "{dockerfile}");
    assert_ne!(tag, other);
}
