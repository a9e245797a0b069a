//! Every refusal to plan, from the command line: its exit code, its words, what to do about it, and
//! that nothing was written or asked of an engine.
//!
//! The list is held complete: each place in the planner that refuses is counted, and a refusal
//! that is added there has to be added here.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use bottle_executor::state::Ledger;
use bottle_planner::document::{self, Strictness};
use bottle_planner::proposal::{Ask, Proposal};
use bottle_planner::resolve::{Inputs, plan, plan_digest};
use bottle_planner::words::{Digest, Name, Timestamp};
use serde_json::{Value, json};

use crate::harness::{Host, Ran, parse};

/// What is planned from a stored snapshot, with no engine to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offline {
    /// The same refusal.
    Refused,
    /// A plan: what the snapshot lacks is for `apply` to find.
    Planned,
    /// No manifest file says it, or the command line does not get that far: inputs alone do.
    Unsaid,
}

struct Refusal {
    code: &'static str,
    /// Keys of bottle `box`, beside its command; in the end one mapping in YAML.
    bottle: &'static str,
    /// Keys of agent `dev`, beside its bottle.
    agent: &'static str,
    /// A merge patch (RFC 7386) on the launch request.
    spec: Value,
    /// The same on the snapshot.
    snapshot: Value,
    /// The same on all that the planner is given, for what no file could say.
    inputs: Value,
    offline: Offline,
    message: &'static str,
    hint: &'static str,
}

fn refusal(code: &'static str, message: &'static str, hint: &'static str) -> Refusal {
    Refusal {
        code,
        bottle: "",
        agent: "",
        spec: json!({}),
        snapshot: json!({}),
        inputs: json!({}),
        offline: Offline::Refused,
        message,
        hint,
    }
}

/// Every refusal of a launch.
fn of_a_launch() -> Vec<Refusal> {
    let mut all = engine_and_words();
    all.extend(names_and_addresses());
    all.extend(what_is_missing());
    all.extend(environment());
    all.extend(workspaces());
    all
}

fn engine_and_words() -> Vec<Refusal> {
    vec![
        Refusal {
            snapshot: json!({"engine": null}),
            offline: Offline::Planned,
            ..refusal(
                "engine_unreachable",
                "no container engine answers",
                "start one (`systemctl start docker`, or `dockerd &`), see `bottle doctor`",
            )
        },
        Refusal {
            snapshot: json!({"engine": {"api": [1, 40], "version": "19.03.15"}}),
            ..refusal(
                "engine_too_old",
                "docker 19.03.15 speaks API 1.40, expected at least 1.41",
                "install Docker 20.10 or newer",
            )
        },
        Refusal {
            snapshot: json!({"engine": {"name": "podman", "version": "4.3.1"}}),
            ..refusal(
                "engine_unfit",
                "podman 4.3.1 gives a session's internal network an address of the host and a resolver, and can be told neither to leave out",
                "point DOCKER_HOST at Docker 20.10 or newer",
            )
        },
        Refusal {
            snapshot: json!({"session": {
                "identity": "dev-aaaaa", "applied": null, "files": {}, "folders": {},
                "oddities": [], "dockerfile": "FROM elsewhere\n", "build_hosts": [],
                "push_exceptions": {}, "approvals": [], "ca_fingerprint": null, "uploaded": {},
                "delivered": {}, "loaded": {}, "saved": false,
            }}),
            ..refusal(
                "bad_proposal",
                "the approved Dockerfile of the session, line 1: `elsewhere` is not a base that this session may build on",
                "correct it with the agent's next proposal, or remove `Dockerfile` and `build-hosts.json`",
            )
        },
        Refusal {
            spec: json!({"agent": "nobody"}),
            ..refusal("unknown_agent", "there is no agent `nobody`", "known agents: dev")
        },
        Refusal {
            inputs: json!({"manifest": {"agents": {"dev": {"bottle": "gone"}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "unknown_bottle",
                "agent `dev` names bottle `gone`, which is not there",
                "write bottles/gone.md in the manifest folder",
            )
        },
        Refusal {
            inputs: json!({"manifest": {"agents": {"dev": {"origin": "repository"}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "repository_agent",
                "agent `dev` comes from the repository, and bottle `box` does not lend itself to such agents",
                "if you trust it, say `repo_agents: true` in bottle `box`",
            )
        },
        Refusal {
            bottle: "repo_agents: true",
            agent: "skills: [ship]",
            snapshot: json!({"skills": {"ship": tree()}}),
            inputs: json!({"manifest": {"agents": {"dev": {"origin": "repository"}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "repository_agent",
                "agent `dev` comes from the repository and names skill `ship`, which bottle `box` does not list",
                "if you trust it, add `ship` to `skills` of bottle `box`",
            )
        },
        Refusal {
            spec: json!({"session": {"kind": "new", "suffix": "NO", "identity": null}}),
            ..refusal(
                "bad_session",
                "expected a suffix of five characters [a-z0-9], found `NO`",
                "leave the session out of the spec, or name it with --identity",
            )
        },
        Refusal {
            snapshot: json!({"session": applied_for("other")}),
            ..refusal(
                "bad_session",
                "session `dev-aaaaa` is of agent `other`",
                "name another session, or leave --identity away for a new one",
            )
        },
    ]
}

fn names_and_addresses() -> Vec<Refusal> {
    let cleanup = "`bottle cleanup` removes what ended sessions of yours left; otherwise it is \
                   somebody else's: choose another --name";
    let taken: BTreeMap<String, Value> = std::iter::once("bottle-dev-aaaaa".to_owned())
        .chain((2..=100).map(|n| format!("bottle-dev-aaaaa-{n}")))
        .map(|name| (name, container()))
        .collect();
    vec![
        Refusal {
            snapshot: json!({"containers": {"bottle-egress-dev-aaaaa": container()}}),
            ..refusal(
                "orphan",
                "container `bottle-egress-dev-aaaaa` exists and does not belong to this session",
                cleanup,
            )
        },
        Refusal {
            bottle: "git: [{name: web, upstream: 'https://git.example.com/a/web', secret: PAT}]",
            snapshot: json!({"containers": {"bottle-git-gate-dev-aaaaa": container()}}),
            ..refusal(
                "orphan",
                "container `bottle-git-gate-dev-aaaaa` exists and does not belong to this session",
                cleanup,
            )
        },
        Refusal {
            snapshot: json!({"networks": {"bottle-net-dev-aaaaa":
                {"id": "n1", "subnets": ["10.50.0.0/28"], "labels": {}}}}),
            ..refusal(
                "orphan",
                "network `bottle-net-dev-aaaaa` exists and does not belong to this session",
                cleanup,
            )
        },
        Refusal {
            snapshot: json!({"volumes": {"bottle-home-dev-aaaaa": {"labels": {}}}}),
            ..refusal(
                "orphan",
                "volume `bottle-home-dev-aaaaa` exists and does not belong to this session",
                "remove it if it is yours (`docker volume rm`), or choose another --name",
            )
        },
        Refusal {
            snapshot: json!({"config": {"pool": "10.99.0.0/28"}}),
            ..refusal(
                "pool_exhausted",
                "no two subnets of /28 are free in 10.99.0.0/28",
                "end sessions (`bottle cleanup`), or give a larger `pool` in the host config",
            )
        },
        Refusal {
            spec: json!({"overrides": {"container": "mine"}}),
            snapshot: json!({"containers": {"mine": container()}}),
            ..refusal(
                "container_name_taken",
                "container `mine` exists and does not belong to this session",
                "`docker rm -f mine`, or unset BOTTLE_CONTAINER",
            )
        },
        Refusal {
            spec: json!({"overrides": {"container": "-v /:/host"}}),
            ..refusal(
                "container_name_taken",
                "`-v /:/host` is no container name",
                "BOTTLE_CONTAINER takes letters, digits, `_`, `.` and `-`",
            )
        },
        Refusal {
            snapshot: json!({"containers": taken}),
            ..refusal(
                "no_container_name",
                "container names `bottle-dev-aaaaa` to `bottle-dev-aaaaa-100` are all taken",
                "`bottle cleanup` removes what ended sessions left",
            )
        },
        Refusal {
            bottle: "isolation: gvisor",
            offline: Offline::Planned,
            ..refusal(
                "no_gvisor",
                "the bottle demands gVisor, and runtime `runsc` is not registered",
                "install runsc and register it with the engine (`bottle doctor` shows how)",
            )
        },
    ]
}

fn what_is_missing() -> Vec<Refusal> {
    let ssh = "git: [{name: web, upstream: 'git@git.example.com:a/web', identity_file: ~/.ssh/key, \
               known_host_key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIKey}]";
    let key = |fact: Value| json!({"identity_files": {"~/.ssh/key": fact}});
    vec![
        Refusal {
            bottle: "image: {reference: 'absent:1'}",
            offline: Offline::Planned,
            ..refusal(
                "image_missing",
                "image `absent:1` is not present",
                "its registry does not know it, or did not answer: log in with `docker login`",
            )
        },
        Refusal {
            bottle: "image: {version: '1.0.0'}",
            ..refusal(
                "image_missing",
                "`image.version` is 1.0.0, and the provider is a command",
                "a version is one of claude or codex; install the command's own in `setup`",
            )
        },
        Refusal {
            bottle: "image: {dockerfile: images/Dockerfile}",
            ..refusal(
                "file_missing",
                "the Dockerfile `images/Dockerfile` that the manifest names cannot be read",
                "it must be a regular UTF-8 file inside the manifest's own folder",
            )
        },
        Refusal {
            bottle: "egress: {rules: leaks.toml}",
            ..refusal(
                "file_missing",
                "the rules file `leaks.toml` that the manifest names cannot be read",
                "it must be a regular UTF-8 file inside the manifest's own folder",
            )
        },
        Refusal {
            bottle: "image: {dockerfile: Dockerfile, context: images}",
            snapshot: json!({"named_files": {"Dockerfile": "FROM debian:bookworm-slim\n"}}),
            ..refusal(
                "file_missing",
                "the build context `images` that the manifest names cannot be read",
                "it must be a folder inside the manifest's own folder",
            )
        },
        Refusal {
            snapshot: json!({"config": {"network": {"ca": "~/ca.pem"}}}),
            offline: Offline::Planned,
            ..refusal(
                "file_missing",
                "the certificates of `network.ca` (~/ca.pem) are not in the snapshot",
                "probe again with this version of bottle",
            )
        },
        Refusal {
            agent: "skills: [ship]",
            ..refusal(
                "skill_missing",
                "agent `dev` names skill `ship`, which is not on this host",
                "put it at ~/.claude/skills/ship/, or take it out of `skills`",
            )
        },
        Refusal {
            bottle: "git: [{name: web, upstream: 'ssh://git@git.example.com:2222/a/web', identity_file: ~/.ssh/key}]",
            snapshot: key(json!({"kind": "ready"})),
            ..refusal(
                "no_host_key",
                "git remote `web`: no host key is known for [git.example.com]:2222",
                "compare the fingerprint with the operator's, then add `known_host_key:`",
            )
        },
        Refusal {
            bottle: ssh,
            offline: Offline::Planned,
            ..refusal(
                "identity_file",
                "git remote `web`: there is no key file `~/.ssh/key`",
                "name a private key, or use `secret:` with an https upstream",
            )
        },
        Refusal {
            bottle: ssh,
            snapshot: key(json!({"kind": "exposed", "mode": 0o644})),
            ..refusal(
                "identity_file",
                "git remote `web`: others can read the key file `~/.ssh/key` (mode 644)",
                "`chmod 600 ~/.ssh/key`",
            )
        },
        Refusal {
            bottle: ssh,
            snapshot: key(json!({"kind": "encrypted", "in_agent": true})),
            ..refusal(
                "identity_file",
                "git remote `web`: the key `~/.ssh/key` is protected by a passphrase",
                "give the bottle a key of its own without one (a deploy key), or use `secret:`",
            )
        },
        Refusal {
            snapshot: json!({"session": facts(json!({"oddities": ["egress/in/routes.json"]}))}),
            ..refusal(
                "state_folder",
                "`egress/in/routes.json` in the state folder is a link or something else that is no file",
                "find out who put it there, remove it, and plan again",
            )
        },
    ]
}

fn environment() -> Vec<Refusal> {
    vec![
        Refusal {
            bottle: "env: {NOTE: plain}",
            inputs: json!({"manifest": {"bottles": {"box": {"env": {"NOTE": {"value": "a\nb"}}}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "bad_environment",
                "variable `NOTE` of bottle `box` has more than one line",
                "put it into a file of the image or the workspace",
            )
        },
        Refusal {
            bottle: "egress: {routes: [{host: a.example.com, auth: {scheme: Bearer, secret: PAT, placeholder: GH_TOKEN}}]}",
            inputs: json!({"manifest": {"bottles": {"box": {"env":
                {"GH_TOKEN": {"kind": "literal", "value": "x"}}}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "bad_environment",
                "variable `GH_TOKEN` is set by bottle `box` and is also the placeholder of route a.example.com",
                "egress injects that credential; take the variable out of `env`",
            )
        },
        Refusal {
            bottle: "egress: {routes: [{host: a.example.com, role: claude_code_oauth, auth: {scheme: Bearer, secret: PAT}}, {host: b.example.com, auth: {scheme: Bearer, secret: PAT}}]}",
            inputs: json!({"manifest": {"bottles": {"box": {"egress": {"routes":
                {"b.example.com": {"role": "claude_code_oauth"}}}}}}}),
            offline: Offline::Unsaid,
            ..refusal(
                "bad_environment",
                "bottle `box` has 2 routes with role claude_code_oauth: a.example.com, b.example.com",
                "keep the role on one of them",
            )
        },
    ]
}

fn workspaces() -> Vec<Refusal> {
    let asked = |path: &str, mode: &str| json!({"workspace": {"path": path, "mode": mode}});
    let seen = |fields: Value| {
        let mut seen = json!({"path": WEB, "tree": tree(), "commit": "0".repeat(40),
            "foreign": false, "mounted_by": null,
            "mounted": {"found": {}, "named": {}, "git": {"kind": "own"}, "git_is_there": true}});
        merge(&mut seen, &fields);
        json!({"workspace": seen})
    };
    let many: BTreeMap<String, Value> =
        (0..=500).map(|n| (format!("f{n:03}"), json!({"kind": "file", "hide": true}))).collect();
    vec![
        Refusal {
            bottle: "workspace: {modes: [copy, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({})),
            ..refusal(
                "bad_workspace",
                "bottle `box` does not allow workspace mode `mount`",
                "allowed: copy, none",
            )
        },
        Refusal {
            spec: asked(WEB, "copy"),
            snapshot: seen(json!({"tree": null})),
            offline: Offline::Planned,
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/web cannot be read",
                "name a folder that you can read",
            )
        },
        Refusal {
            spec: asked(WEB, "clone"),
            snapshot: seen(json!({"commit": null})),
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/web has no commit to clone",
                "commit something, or use --workspace copy",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({"mounted": null})),
            offline: Offline::Planned,
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/web cannot be read",
                "name a folder that you can read, all of it",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({"mounted": {"found": many}})),
            ..refusal(
                "bad_workspace",
                "506 parts of /home/ada/web would be mounted over, expected at most 500",
                "narrow `hide` and `protect`, or use --workspace copy or clone",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({"mounted": {"git":
                {"kind": "linked", "common": "/home/ada/.ssh/git", "name": "web"}}})),
            ..refusal(
                "bad_workspace",
                "the git folder /home/ada/.ssh/git of dev-aaaaa's worktree would cover /home/ada/.ssh",
                "use --workspace clone",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({"mounted": {"git": {"kind": "odd"}}})),
            ..refusal(
                "bad_workspace",
                "/home/ada/web/.git is a link, or a file that names no linked worktree",
                "use --workspace clone, or copy",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked(WEB, "mount"),
            snapshot: seen(json!({"mounted_by": "other-bbbbb"})),
            ..refusal(
                "bad_workspace",
                "session other-bbbbb has /home/ada/web, or part of it, mounted already",
                "`bottle destroy other-bbbbb` first, or use --workspace copy or clone",
            )
        },
        Refusal {
            spec: asked("/home/ada/.bottle/x", "copy"),
            snapshot: seen(json!({"path": "/home/ada/.bottle/x"})),
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/.bottle/x equals, contains or lies in the manifest and state folder /home/ada/.bottle",
                "work in a folder of its own",
            )
        },
        Refusal {
            spec: asked("/home/ada/.claude/skills/ship", "clone"),
            snapshot: seen(json!({"path": "/home/ada/.claude/skills/ship"})),
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/.claude/skills/ship equals, contains or lies in the skills folder /home/ada/.claude/skills",
                "work in a folder of its own",
            )
        },
        Refusal {
            spec: asked("/home/ada/.ssh", "copy"),
            snapshot: seen(json!({"path": "/home/ada/.ssh"})),
            ..refusal(
                "bad_workspace",
                "workspace /home/ada/.ssh equals, contains or lies in the key folder /home/ada/.ssh",
                "work in a folder of its own",
            )
        },
        Refusal {
            bottle: "workspace: {modes: [copy, clone, mount, none]}",
            spec: asked("/usr/src/web", "mount"),
            snapshot: seen(json!({"path": "/usr/src/web"})),
            ..refusal(
                "bad_workspace",
                "workspace /usr/src/web would cover /usr inside the container",
                "use --workspace copy or clone, or a folder elsewhere",
            )
        },
    ]
}

const WEB: &str = "/home/ada/web";

fn tree() -> Value {
    json!({"digest": Digest::of(b"tree"), "files": 1, "bytes": 1})
}

fn container() -> Value {
    json!({"id": "c1", "image": "sha256:0", "labels": {}, "networks": {}, "started_at": "",
        "state": "running"})
}

/// What a state folder holds, with these fields in place of its own.
fn facts(fields: Value) -> Value {
    let mut facts = json!({"identity": "dev-aaaaa", "applied": null, "files": {}, "folders": {},
        "oddities": [], "dockerfile": null, "approvals": [], "ca_fingerprint": null,
        "uploaded": {}, "delivered": {}, "loaded": {}, "saved": false});
    merge(&mut facts, &fields);
    facts
}

/// A state folder to which a plan of another agent was applied.
fn applied_for(agent: &str) -> Value {
    let host = Host::with_agent();
    let mut plan: Value = serde_json::from_str(&host.plan(&[])).expect("JSON");
    plan["spec"]["agent"] = agent.into();
    facts(json!({"applied": {"plan": Digest::of(b"plan"), "complete": true,
        "session": plan["session"], "grants": plan["grants"], "spec": plan["spec"]}}))
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (Value::Object(target), Value::Object(patch)) => {
            for (key, value) in patch {
                match (target.get_mut(key), value) {
                    // What these documents have no need of is null, and not left out.
                    (Some(found), value) => merge(found, value),
                    (None, value) => drop(target.insert(key.clone(), value.clone())),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

/// All that is below a host's folder but the cache, with what the files hold.
fn everything(host: &Host) -> BTreeMap<String, Vec<u8>> {
    fn walk(folder: &Path, below: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let name = format!("{below}/{}", entry.file_name().to_string_lossy());
            if name == "/root/cache" {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.insert(format!("{name}/"), Vec::new());
                walk(&entry.path(), &name, found);
            } else {
                found.insert(name, std::fs::read(entry.path()).unwrap_or_default());
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&host.at(""), "", &mut found);
    found
}

/// Checks that a run refused for one reason, with these words, and wrote nothing.
#[track_caller]
fn refused(host: &Host, words: &[&str], message: &str, hint: &str) -> Ran {
    let before = everything(host);
    let ran = host.run(words).code(1).prints_nothing();
    let ran = ran.says(&format!("error: {message}")).says(&format!("hint: {hint}"));
    assert_eq!(ran.err.matches("error: ").count(), 1, "{}", ran.err);
    assert_eq!(everything(host), before, "{message}: something was written");
    ran
}

#[test]
fn every_refusal_of_a_launch_has_its_words() {
    let host = Host::with_agent();
    let base: Value = serde_json::from_str(&host.read("work/snapshot.json")).expect("JSON");
    for refusal in of_a_launch() {
        let Refusal { code, message, hint, .. } = refusal;
        host.write(
            "work/manifest.yaml",
            &format!(
                "bottles:\n  box:\n    provider: {{command: [sleep, '1']}}\n    {}\n\
                 agents:\n  dev:\n    bottle: box\n    {}\n",
                refusal.bottle, refusal.agent
            ),
        );
        let mut snapshot = base.clone();
        let places = json!({"host": {"home": "/home/ada", "state_root": "/home/ada/.bottle"}});
        merge(&mut snapshot, &places);
        merge(&mut snapshot, &refusal.snapshot);
        host.write("work/facts.json", &snapshot.to_string());
        let mut spec = json!({"agent": "dev", "at": "2026-01-31T12:00:00Z",
            "session": {"kind": "named", "identity": "dev-aaaaa"}, "workspace": null,
            "overrides": {"container": null}});
        let known = refusal.offline != Offline::Unsaid;
        if known {
            merge(&mut spec, &refusal.spec);
        }
        if let Some(session) = spec["session"].as_object_mut() {
            session.retain(|_, value| !value.is_null());
        }
        host.write("work/spec.json", &spec.to_string());
        let offline = [
            "plan",
            "--manifest",
            "manifest.yaml",
            "--spec",
            "spec.json",
            "--snapshot",
            "facts.json",
        ];
        if refusal.offline == Offline::Refused {
            refused(&host, &offline, message, hint);
        }
        let all = [&offline[..], &["--dump-inputs", "inputs.json", "-o", "plan.json"]].concat();
        let ran = host.run(&all);
        let expected = i32::from(refusal.offline == Offline::Refused);
        assert_eq!(ran.code, expected, "{message}: {}", ran.err);

        // With an engine to ask, or so the planner is told.
        let mut inputs: Value = serde_json::from_str(&host.read("work/inputs.json")).expect("JSON");
        merge(&mut inputs, &refusal.inputs);
        if !known {
            merge(&mut inputs["spec"], &refusal.spec);
            if let Some(session) = inputs["spec"]["session"].as_object_mut() {
                session.retain(|_, value| !value.is_null());
            }
        }
        inputs["spec"]["offline"] = false.into();
        host.write("work/inputs.json", &document::pretty_value(&inputs));
        let ran = refused(&host, &["plan", "--inputs", "inputs.json"], message, hint);
        let inputs: Inputs =
            document::from_value(inputs, Strictness::Strict).expect("complete").value;
        let errors = plan(&inputs.manifest, &inputs.spec, &inputs.snapshot).expect_err("refused");
        assert_eq!(json!(errors[0].code), code, "{message}");
        let whole = format!("error: {}\nhint: {}\n", errors[0].message, errors[0].hint);
        assert!(ran.err.contains(&whole), "{whole} is not in:\n{}", ran.err);
    }
}

/// An engine that has nothing but what it is given, and notes what it is asked to change.
struct Engine {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Engine {
    fn at(host: &Host, api: &'static str, volumes: &Value) -> Self {
        let listener = UnixListener::bind(host.at("engine.sock")).expect("a socket");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (kept, volumes) = (Arc::clone(&asked), volumes.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (kept, volumes) = (Arc::clone(&kept), volumes.clone());
                std::thread::spawn(move || answer(stream, api, &volumes, &kept));
            }
        });
        Self { asked }
    }

    /// Checks that it was asked, and to change nothing.
    fn was_only_looked_at(&self) {
        let asked = self.asked.lock().expect("whole");
        assert!(!asked.is_empty());
        assert!(asked.iter().all(|line| line.starts_with("GET ")), "{asked:?}");
    }
}

fn answer(mut stream: UnixStream, api: &str, volumes: &Value, asked: &Mutex<Vec<String>>) {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => head.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    let path = line.split(' ').nth(1).unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let (status, body) = match path.rsplit_once('/').map_or(path, |(_, last)| last) {
        "_ping" => (200, json!("OK")),
        "info" => (
            200,
            json!({"ServerVersion": "19.03.15", "CgroupVersion": "2",
            "Runtimes": {"runc": {"path": "runc"}}, "SecurityOptions": []}),
        ),
        "json" if path.ends_with("containers/json") => (200, json!([])),
        "networks" => (200, json!([])),
        "volumes" => (200, json!({"Volumes": volumes, "Warnings": []})),
        _ => (404, json!({"message": "no such thing"})),
    };
    asked.lock().expect("whole").push(line.clone());
    let body = body.to_string();
    let length = body.len();
    // Who asked may be gone.
    let _ = write!(
        stream,
        "HTTP/1.1 {status} Said\r\nApi-Version: {api}\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    );
}

/// A host that has applied a plan to session `dev-aaaaa`, as its files say, and an engine.
fn with_session(
    api: &'static str,
    volumes: &Value,
    ledger: impl FnOnce(&mut Ledger),
) -> (Host, Engine) {
    let host = Host::with_agent();
    let text = host.plan(&[]);
    host.session("dev-aaaaa", &text);
    let plan = plan_digest(&parse(&text)).expect("a digest");
    let mut kept = Ledger { plan: Some(plan), complete: true, ..Ledger::default() };
    ledger(&mut kept);
    host.write("root/state/dev-aaaaa/ledger.json", &document::pretty(&kept).expect("a document"));
    let engine = Engine::at(&host, api, volumes);
    let socket = format!("unix://{}", host.at("engine.sock").display());
    (host.set("DOCKER_HOST", &socket), engine)
}

/// The refusals of a change to a session and of its end: codes and how often they are in the list.
const OF_A_SESSION: [(&str, usize); 2] = [("bad_approval", 2), ("bad_session", 4)];

#[test]
fn every_refusal_of_a_change_or_an_end_has_its_words() {
    let nothing = json!([]);
    let allow = ["allow", "dev-aaaaa", "--host", "new.example.com", "--yes"];

    let (host, engine) = with_session("1.41", &nothing, |_| {});
    let other_port = ["allow", "dev-aaaaa", "--host", "api.example.com", "--port", "8443", "--yes"];
    refused(
        &host,
        &other_port,
        "api.example.com:8443 cannot be approved: its route is at port 443",
        "change the route's `port` in the manifest, then plan the session again",
    );
    engine.was_only_looked_at();

    let (host, engine) =
        with_session("1.41", &nothing, |ledger| (ledger.plan, ledger.complete) = (None, false));
    refused(
        &host,
        &allow,
        "the plan is not the one that is in force for session `dev-aaaaa`",
        "begin again: somebody applied another plan in between",
    );
    refused(
        &host,
        &["destroy", "dev-aaaaa", "--yes"],
        "there is no session `dev-aaaaa`",
        "sessions live below ",
    );
    engine.was_only_looked_at();

    let (host, engine) = with_session("1.41", &nothing, |ledger| ledger.complete = false);
    refused(
        &host,
        &allow,
        "the last plan of session `dev-aaaaa` was only partly applied",
        "carry it on first: `bottle plan --identity dev-aaaaa | bottle apply -`",
    );
    engine.was_only_looked_at();

    // A finding that the gate logged of a remote that the session does not have.
    let (host, engine) = with_session("1.41", &nothing, |_| {});
    let fingerprint = "0123456789abcdef0123456789abcdef".to_owned();
    let proposal = Proposal {
        protocol: 1,
        at: Timestamp::new("2026-01-31T12:00:00Z").expect("a time"),
        ask: Ask::PushException {
            remote: Name::new("web").expect("a name"),
            fingerprint: fingerprint.clone(),
        },
        justification: "it is made up".to_owned(),
    };
    let state = "root/state/dev-aaaaa";
    let text = document::pretty(&proposal).expect("a document");
    host.write(&format!("{state}/supervise/out/proposals/{}.json", proposal.id()), &text);
    let logged = json!({
        "time": "2026-01-31T12:00:00.000Z", "plan": null, "client": "agent", "via": "gate",
        "scheme": "", "method": "push", "host": "web", "port": null, "path": null,
        "outcome": "refuse", "code": "leak", "rule": "leak", "reason": "1 finding",
        "push": {"remote": "web", "refs": [], "objects": 1, "bytes": 1, "millis": 1, "findings": [{
            "rule": "github-pat", "place": "s", "line": 1, "commit": null,
            "fingerprint": fingerprint,
        }]},
    });
    host.write(&format!("{state}/git-gate/out/decisions.jsonl"), &format!("{logged}\n"));
    refused(
        &host,
        &["supervise", "show", &proposal.id(), "--json"],
        "the session has no git remote `web`",
        "`bottle git log` lists the pushes, each with its remote",
    );
    engine.was_only_looked_at();

    let home = json!([{"Name": "bottle-home-dev-aaaaa", "Driver": "local", "Mountpoint": "/v",
        "Labels": {}, "Scope": "local", "Options": {}}]);
    let (host, engine) = with_session("1.41", &home, |ledger| {
        let upload = ("c1".to_owned(), Digest::of(b"upload"));
        ledger.uploaded.insert("upload:agent".to_owned(), upload);
    });
    refused(
        &host,
        &["destroy", "dev-aaaaa", "--yes"],
        "the agent's container of `dev-aaaaa` is gone: its work cannot be saved",
        "`bottle resume` makes it anew from its volumes; `bottle destroy --unsaved` gives the work up",
    );
    engine.was_only_looked_at();
}

#[test]
fn an_engine_that_is_too_old_is_refused_by_every_command_that_plans() {
    let (host, engine) = with_session("1.40", &json!([]), |_| {});
    let message = "docker 19.03.15 speaks API 1.40, expected at least 1.41";
    let hint = "install Docker 20.10 or newer";
    for words in [
        &["allow", "dev-aaaaa", "--host", "new.example.com", "--yes"][..],
        &["destroy", "dev-aaaaa", "--yes"],
    ] {
        refused(&host, words, message, hint);
    }
    for words in [&["plan", "dev"][..], &["start", "dev", "--yes"], &["info", "dev"]] {
        host.run(words).code(1).says(message).says(hint);
        assert!(!host.at("root/state/dev-bbbbb").exists());
    }
    engine.was_only_looked_at();
}

#[test]
fn what_the_manifest_says_wrong_is_refused_with_its_place() {
    let host = Host::with_agent();
    for (bottle, place, message) in [
        ("env: {NOTE: \"a\\nb\"}", "4:17", "the value of `NOTE` has more than one line"),
        ("env: {HTTP_PROXY: x}", "4:11", "bottle itself sets `HTTP_PROXY` (the proxy)"),
        ("extends: gone", "4:14", "there is no bottle `gone`"),
        ("supervise: perhaps", "4:16", "`supervise`: expected"),
    ] {
        let text = format!(
            "bottles:\n  box:\n    provider: {{command: [sleep, '1']}}\n    {bottle}\n\
             agents:\n  dev: {{bottle: box}}\n"
        );
        host.write("work/manifest.yaml", &text);
        let before = everything(&host);
        let words = ["plan", "dev", "--manifest", "manifest.yaml", "--snapshot", "snapshot.json"];
        let ran = host.run(&words).code(1).prints_nothing();
        ran.says(&format!("manifest.yaml:{place}: error: ")).says(message);
        assert_eq!(everything(&host), before);
    }
}

#[test]
fn no_refusal_of_the_planner_is_without_a_test() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../planner/src");
    let mut sites: BTreeMap<String, usize> = BTreeMap::new();
    let mut left = vec![sources.clone()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(&folder).expect("sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source");
            for (at, _) in text.match_indices("ErrorCode::") {
                let code = &text[at + "ErrorCode::".len()..];
                let code = code.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
                *sites.entry(code.to_owned()).or_default() += 1;
            }
        }
    }
    // A circle among actions, and a session's name that is too long, which no input can make: an
    // agent's name leaves room for what is added to it.
    for code in ["Internal", "BadSession"] {
        *sites.get_mut(code).expect("a code") -= 1;
    }
    let mut tested: BTreeMap<String, usize> = BTreeMap::new();
    let of_launch = of_a_launch().into_iter().map(|refusal| (refusal.code, 1));
    for (code, count) in of_launch.chain(OF_A_SESSION) {
        *tested.entry(code.replace('_', "")).or_default() += count;
    }
    for (code, count) in &sites {
        let found = tested.get(&code.to_lowercase()).copied().unwrap_or_default();
        assert!(found >= *count, "{code}: {count} places refuse so, {found} refusals are tested");
    }
    let enumeration = std::fs::read_to_string(sources.join("error.rs")).expect("a source");
    let list = enumeration.split_once("pub enum ErrorCode {").expect("the list").1;
    let all: BTreeSet<&str> =
        list.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
    let used: BTreeSet<&str> = sites.keys().map(String::as_str).collect();
    assert_eq!(all, used, "a code that nothing is refused with");
}
