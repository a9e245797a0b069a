//! Cloning, pushing and being stopped, over ssh and over https, from the manifest to the log.

use std::os::unix::fs::chown;

use bottle_outside::Authority;
use bottle_tests::host::{Host, User, docker, unique};

use crate::hosts::Upstream;
use crate::{World, manifest};

/// Made here, so that no token stands whole in this file.
fn token() -> String {
    format!("ghp_{}", "Zx8Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuRi")
}

#[test]
fn over_ssh_a_clean_push_arrives_and_one_with_a_secret_does_not() {
    let world = World::ssh("gitssh", "");
    world.inside("cd /tmp/web && echo hi > a && git add a && git commit -qm clean").code(0);
    let pushed = world.inside("cd /tmp/web && git push origin HEAD").code(0);
    pushed.says("remote: bottle: 3 objects looked into and passed on to web");
    let clean = world.upstream.refs();
    assert!(clean.contains("refs/heads/agent/work"), "{clean}");

    let token = token();
    let line = format!("cd /tmp/web && echo 'key = {token}' > s && git add s && git commit -qm s");
    world.inside(&line).code(0);
    let refused = world.inside("cd /tmp/web && git push origin HEAD").code(1);
    let refused = refused.says("remote: bottle:   s, line 1: github-pat, commit ");
    assert!(!refused.err.contains(&token), "{}", refused.err);
    assert_eq!(world.upstream.refs(), clean);

    let log = world.host.run(&["git", "log", &world.session]).code(0);
    let log = log.prints("passed  push  web  3 objects").prints("refuse  push  web");
    let log = log.prints("found github-pat in s, line 1, commit ");
    assert!(!log.out.contains(&token), "{}", log.out);
    let json = world.host.run(&["git", "log", &world.session, "--json", "--pushes"]).code(0);
    assert_eq!(json.out.lines().count(), 2);
    // The next plan finds nothing to do.
    let plan = world.host.plans(&world.session, "again.json", &[]);
    assert_eq!(plan.summary.create + plan.summary.update + plan.summary.replace, 0);
    let host = world.down();
    // The record keeps the log; the mirrors are gone.
    host.run(&["git", "log", "@last", "--refused"]).code(0).prints("github-pat");
}

#[test]
fn every_spelling_of_the_upstream_leads_to_the_gate() {
    let world = World::ssh("gitspell", "");
    let url = world.upstream.url();
    let (_, rest) = url.split_once('@').expect("a user");
    let (host, path) = rest.split_once('/').expect("a path");
    let (name, _) = host.split_once(':').expect("a port");
    for address in [url[..url.len() - rest.len()].to_owned() + host, format!("https://{name}")] {
        for path in [path, path.trim_end_matches(".git")] {
            let line = format!("git ls-remote {address}/{path} main");
            world.inside(&line).code(0).prints("refs/heads/main");
        }
    }
    world.inside(&format!("git ls-remote https://{name}:443/{path}")).code(0);
    world.down();
}

#[test]
fn over_https_the_gate_has_the_token_and_trusts_what_the_host_config_says() {
    let authority = Authority::new("a test's git host");
    let token = format!("token-of-{}", unique("https"));
    let host = Host::new().set("GIT_TOKEN", &token);
    let upstream = Upstream::https(&host, &authority, &format!("x-access-token:{token}"));
    let ca = host.at("home/ca.pem");
    std::fs::write(&ca, authority.pem()).expect("written");
    host.write("root/config.yaml", &format!("network: {{ca: {}}}\n", ca.display()));
    let world = World::up(host, upstream, "githttps");
    world.inside("cd /tmp/web && echo hi > a && git add a && git commit -qm clean").code(0);
    world.inside("cd /tmp/web && git push origin HEAD").code(0).says("passed on to web");
    assert!(world.upstream.refs().contains("refs/heads/agent/work"));
    // The token is one of the session's own secrets, which may not be pushed anywhere.
    let line = format!("cd /tmp/web && echo {token} > t && git add t && git commit -qm t");
    world.inside(&line).code(0);
    let refused = world.inside("cd /tmp/web && git push origin HEAD").code(1);
    let refused = refused.says("t, line 1: GIT_TOKEN");
    assert!(!refused.err.contains(&token), "{}", refused.err);
    // Past the gate: no route leads there, and the token is not the agent's to use.
    let past = "cd /tmp/web && git push https://git.example.test/acme/other.git HEAD 2>&1";
    world.inside(past).code(128);
    world.down();
}

#[test]
fn a_key_with_a_passphrase_is_refused_at_plan_time() {
    let host = Host::new();
    let upstream = Upstream::ssh(&host, "");
    let mut keygen = std::process::Command::new("ssh-keygen");
    keygen.args(["-q", "-p", "-N", "hunter2hunter2", "-f"]).arg(upstream.at("id"));
    bottle_tests::host::ran(&mut keygen, b"").code(0);
    host.write("work/bottle.yaml", &manifest(&upstream.entry));
    let words = ["plan", "--manifest", "bottle.yaml", "--name", "locked", "-o", "plan.json"];
    let refused = host.run(&words).code(1).says("is protected by a passphrase");
    refused.says("`secret:`");
}

#[test]
fn a_user_of_the_engines_group_has_a_gate_of_his_own_user() {
    let user = User::somebody();
    let uid = user.uid;
    let host = Host::untouched().owned_by(user);
    let upstream = Upstream::ssh(&host, "");
    chown(upstream.at("id"), Some(uid), None).expect("root gives it away");
    let world = World::up(host, upstream, "gituser");
    world.inside("cd /tmp/web && echo hi > a && git add a && git commit -qm clean").code(0);
    world.inside("cd /tmp/web && git push origin HEAD").code(0).says("passed on to web");
    let id = docker(&["exec", &world.gate(), "sh", "-c", "id -u; stat -c %u /mirrors/web.git"]);
    assert_eq!(id.out, format!("{uid}\n{uid}\n"));
    world.down();
}
