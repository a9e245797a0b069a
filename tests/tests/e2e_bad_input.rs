//! Bad input against the built binary and the real engine: one clear error with the documented
//! exit code, nothing half-written below the state root, nothing touched on the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use bottle_planner::document::{self, Strictness};
use bottle_planner::lower::lower;
use bottle_planner::plan::{Effect, Operation, Plan, Requirement};
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::resolve::grants_digest;
use bottle_planner::words::{AbsPath, Role};
use bottle_tests::host::{Host, Ran, docker, ran, unique};
use bottle_tests::word;
use serde_json::{Value, json};

const MANIFEST: &str = r#"
bottles:
  box:
    provider: {command: [sleep, "86400"]}
    workspace: {modes: [copy, mount, none]}
    isolation: container
    egress:
      routes: [{host: api.example.com, allow: [{access: read}]}]
agents:
  demo: {bottle: box, prompt: "Be careful.\n"}
"#;

/// What a refusal must leave as it is: all below the state root but caches, locks and what sidecars
/// that run write by themselves (`<role>/out/`), and all that is this host's on the engine.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    files: BTreeMap<String, String>,
    objects: Vec<String>,
}

impl Left {
    fn of(host: &Host) -> Self {
        let mut files = BTreeMap::new();
        walk(&host.at("root"), "", &mut files);
        files.retain(|path, _| {
            let own = ["/cache", "/locks"].iter().any(|own| path.starts_with(own));
            !own && !path.contains("/out/")
        });
        Self { files, objects: host.leavings() }
    }
}

fn walk(root: &Path, below: &str, files: &mut BTreeMap<String, String>) {
    let path = root.join(below.trim_start_matches('/'));
    let kind = path.symlink_metadata().expect("it is there").file_type();
    let what = if kind.is_symlink() {
        format!("-> {}", fs::read_link(&path).expect("a link").display())
    } else if kind.is_dir() {
        for entry in fs::read_dir(&path).expect("readable").flatten() {
            walk(root, &format!("{below}/{}", entry.file_name().to_string_lossy()), files);
        }
        "folder".into()
    } else if kind.is_file() {
        String::from_utf8_lossy(&fs::read(&path).expect("readable")).into_owned()
    } else {
        "special".into()
    };
    files.insert(below.to_owned(), what);
}

/// One clear error: this code and these words, nothing on standard output, nothing that a terminal
/// would obey.
#[track_caller]
fn clear(ran: Ran, code: i32, says: &[&str]) -> Ran {
    let mut ran = ran.code(code);
    assert!(ran.err.contains("error: "), "no error is told:\n{}", ran.err);
    assert!(!ran.err.contains("panicked") && !ran.err.contains("RUST_BACKTRACE"), "{}", ran.err);
    assert!(ran.err.chars().all(|c| c == '\n' || !c.is_control()), "controls in {:?}", ran.err);
    for text in says {
        ran = ran.says(text);
    }
    ran
}

/// A run that is refused and touches nothing.
#[track_caller]
fn refused(host: &Host, words: &[&str], code: i32, says: &[&str]) -> Ran {
    let before = Left::of(host);
    let ran = clear(host.run(words), code, says);
    assert_eq!(before, Left::of(host), "something was touched by {words:?}");
    ran
}

/// A plan's text is written and its apply refused.
#[track_caller]
fn apply_refused(host: &Host, text: &str, code: i32, says: &[&str]) -> Ran {
    host.write("work/bad.json", text);
    refused(host, &["apply", "bad.json", "--yes"], code, says)
}

/// The text with one field changed: the edit of somebody with a text editor.
fn edited(text: &str, edit: impl FnOnce(&mut Value)) -> String {
    let mut value: Value = serde_json::from_str(text).expect("JSON");
    edit(&mut value);
    document::pretty_value(&value)
}

/// One action of a plan's JSON.
fn action<'v>(plan: &'v mut Value, id: &str) -> &'v mut Value {
    let actions = plan["actions"].as_array_mut().expect("actions");
    actions.iter_mut().find(|a| a["id"] == id).unwrap_or_else(|| panic!("no action {id}"))
}

/// The edit of somebody who knows the planner: after it every action, digest and label says what
/// the edited session and request lower to, and what was required of them is required.
fn forged(text: &str, edit: impl FnOnce(&mut Plan)) -> String {
    let mut plan: Plan = document::parse(text, Strictness::Strict).expect("a plan").value;
    let grants = grants_digest(&plan.grants).expect("a digest");
    let prompt = plan.actions.iter().find_map(|action| match &action.op {
        Operation::File(file) if action.id.0.ends_with("/prompt.md") => Some(file.content.clone()),
        _ => None,
    });
    edit(&mut plan);
    let Plan { identity, grants: granted, session, spec, .. } = &plan;
    let wanted = lower(identity, granted, session, spec, prompt.as_deref().unwrap_or_default());
    let known: BTreeSet<_> = wanted.iter().map(|w| w.id.clone()).collect();
    plan.actions.retain(|action| known.contains(&action.id));
    for one in wanted {
        if let Some(action) = plan.actions.iter_mut().find(|a| a.id == one.id) {
            action.op = one.op;
            action.depends_on = one.depends_on;
        }
    }
    let created = plan.actions.iter().filter(|action| action.effect == Effect::Create);
    plan.summary.create = u32::try_from(created.count()).expect("few");
    if let Some(place) = &plan.session.workspace {
        let (path, digest) = (place.host.clone(), place.digest.clone());
        plan.requires.insert(Requirement::Workspace { path, digest });
    }
    assert_eq!(grants, grants_digest(&plan.grants).expect("a digest"), "approved all the same");
    document::pretty(&plan).expect("a document")
}

/// A host with a plan that is good, and its text.
fn planned(prefix: &str) -> (Host, String) {
    let host = Host::with_manifest(MANIFEST);
    host.plans(&unique(prefix), "plan.json", &[]);
    let text = host.read("work/plan.json");
    (host, text)
}

/// A host with a session that is up.
fn up(prefix: &str) -> (Host, Plan) {
    let host = Host::with_manifest(MANIFEST);
    let plan = host.up(&unique(prefix));
    (host, plan)
}

#[test]
fn documents_that_are_no_plan_of_this_version() {
    let (host, text) = planned("nop");
    apply_refused(&host, &text[..text.len() - 300], 1, &["expected a plan in bad.json", "EOF"]);
    apply_refused(&host, "", 1, &["expected a plan in bad.json"]);
    let twice = text.replacen('{', "{\"intent\": \"destroy\",", 1);
    apply_refused(&host, &twice, 1, &["duplicate key `intent`", "line"]);
    let nested = edited(&text, |p| p["grants"]["limits"]["pidz"] = 1.into());
    apply_refused(&host, &nested, 1, &["unknown field `/grants/limits/pidz`"]);
    let privileged =
        edited(&text, |p| action(p, "container:agent")["op"]["privileged"] = true.into());
    apply_refused(&host, &privileged, 1, &["unknown field", "/op/privileged"]);
    let version = |to: &str| {
        edited(&text, |p| {
            p["format_version"] = to.into();
            p["written_by"] = "9.1.0\u{1b}[2J".into();
        })
    };
    apply_refused(
        &host,
        &version("2.0"),
        13,
        &["format version `2.0`", "bottle 9.1.0\\u{1b}[2J wrote it"],
    );
    apply_refused(
        &host,
        &version("1.1"),
        13,
        &["format version `1.1`", "wrote it; use that version"],
    );
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    apply_refused(&host, &deep, 1, &["expected a plan in bad.json", "recursion limit"]);
    apply_refused(&host, "{\"kind\": \"bottle/\\u001b[2J\"}", 1, &["document of kind"]);
    fs::write(host.at("work/bad.json"), [0xff, 0, 0xfe, b'{']).expect("written");
    refused(&host, &["apply", "bad.json", "--yes"], 1, &["found no UTF-8 text"]);
    let large = File::create(host.at("work/bad.json")).expect("made");
    large.set_len((32 << 20) + 1).expect("sparse");
    refused(&host, &["apply", "bad.json", "--yes"], 1, &["more than 32 MiB"]);
    refused(&host, &["apply", "none.json", "--yes"], 1, &["cannot read none.json"]);
    refused(&host, &["apply", ".", "--yes"], 1, &["cannot read .", "directory"]);
}

#[test]
fn paths_out_of_the_state_folder_have_no_type() {
    let (host, text) = planned("pth");
    for path in ["../x", "agent/in/../../../x", "/etc/cron.d/x", "a//b", "", ".", "a\\b", "a\nb"] {
        let bad =
            edited(&text, |p| action(p, "file:metadata.json")["op"]["path"]["path"] = path.into());
        apply_refused(&host, &bad, 1, &["expected a relative path", "line"]);
    }
    for root in ["home", "bin", "/"] {
        let bad =
            edited(&text, |p| action(p, "file:metadata.json")["op"]["path"]["root"] = root.into());
        apply_refused(&host, &bad, 1, &["unknown variant", "expected `state`"]);
    }
    let bind = |mount: Value| {
        edited(&text, |p| {
            let op = &mut action(p, "container:agent")["op"];
            op["mounts"].as_array_mut().expect("mounts").push(mount);
        })
    };
    apply_refused(
        &host,
        &bind(json!({"kind": "bind", "path": "/etc"})),
        1,
        &["unknown variant `bind`"],
    );
    apply_refused(&host, &bind(json!({"kind": "in", "path": "/etc"})), 1, &["unknown field"]);
    apply_refused(
        &host,
        &bind(json!({"kind": "workspace", "path": "/etc"})),
        11,
        &["may not mount"],
    );
    apply_refused(
        &host,
        &bind(json!({"kind": "volume", "name": "pg", "at": "/x"})),
        11,
        &["pg is no name"],
    );
}

#[test]
fn a_plan_that_was_edited_is_not_the_approved_one() {
    let (host, text) = planned("edt");
    let digest = host.run(&["digest", "plan.json"]).code(0).out;
    let other = edited(&text, |p| p["spec"]["task"] = "delete everything".into());
    host.write("work/bad.json", &other);
    let words = ["apply", "bad.json", "--expect", digest.trim()];
    refused(&host, &words, 11, &["expected plan sha256:", "not the plan that was approved"]);
    refused(&host, &["apply", "plan.json"], 11, &["nobody approved the plan"]);
}

#[test]
fn edits_of_a_plan_are_seen() {
    let (host, text) = planned("lnt");
    let lint = |says: &[&str], edit: &dyn Fn(&mut Value)| {
        apply_refused(&host, &edited(&text, edit), 11, &[&["breaks lint rules"], says].concat());
    };
    lint(&["rendered: file:egress/in/routes.json"], &|p| {
        let op = &mut action(p, "file:egress/in/routes.json")["op"];
        let content = op["content"].as_str().expect("text").replace("api.example.com", "evil.test");
        op["content"] = content.into();
    });
    lint(&["images"], &|p| p["session"]["agent_image"] = "evil:latest".into());
    lint(&["rendered: container:agent", "labels"], &|p| {
        action(p, "container:agent")["op"]["argv"] = json!(["/bin/sh"]);
    });
    lint(&["labels: container:egress"], &|p| {
        action(p, "container:egress")["op"]["labels"]["dev.bottle.owner"] = "0-000000000000".into();
    });
    lint(&["networks: network:net"], &|p| {
        action(p, "network:net")["op"]["internal"] = false.into()
    });
    lint(&["networks: container:agent"], &|p| {
        action(p, "container:agent")["op"]["network"] = "bridge".into();
    });
    lint(&["requires: UpstreamProxy"], &|p| {
        p["session"]["upstream_proxy"] = json!(["http://evil.test:3128", []]);
    });
    lint(&["rendered: deliver:agent"], &|p| {
        let mut deliver = action(p, "start:agent").clone();
        deliver["id"] = "deliver:agent".into();
        deliver["op"] = json!({"kind": "deliver", "role": "agent",
            "container": deliver["op"]["container"],
            "items": {"X": {"kind": "secret", "secret": "AWS_ROOT_KEY"}}});
        p["actions"].as_array_mut().expect("actions").push(deliver);
        p["summary"]["create"] = (p["summary"]["create"].as_u64().expect("a count") + 1).into();
    });
    lint(&["order"], &|p| p["actions"].as_array_mut().expect("actions").reverse());
    lint(&["destructive"], &|p| action(p, "volume:home")["destructive"] = true.into());
    lint(&["summary"], &|p| p["summary"]["create"] = 1.into());
    lint(&["prompt"], &|p| {
        action(p, "file:agent/in/prompt.md")["op"]["content"] = "Obey.\n".into();
    });
    lint(&["is no name of session", "spec"], &|p| p["identity"] = "somebody-else".into());
    lint(&["requires: Owner"], &|p| p["requires"] = json!([]));
}

#[test]
fn what_is_not_granted_cannot_be_forged_around_the_grants() {
    let host = Host::with_manifest(MANIFEST);
    fs::create_dir(host.at("work/src")).expect("made");
    host.plans(&unique("fgd"), "plan.json", &["--cwd", "src", "--workspace", "copy"]);
    let text = host.read("work/plan.json");
    let lint = |says: &str, edit: &dyn Fn(&mut Plan)| {
        apply_refused(&host, &forged(&text, edit), 11, &["breaks lint rules", says]);
    };
    lint("session: expected workspace mode copy, found mount", &|p| {
        let place = p.session.workspace.as_mut().expect("a workspace");
        (place.mode, place.inside, place.digest) = (WorkspaceMode::Mount, place.host.clone(), None);
        p.session.agent_image = p.session.base_image.clone();
    });
    lint("mounts: /etc would cover /etc", &|p| {
        let place = p.session.workspace.as_mut().expect("a workspace");
        place.mode = WorkspaceMode::Mount;
        (place.host, place.inside) = (word!(AbsPath, "/etc"), word!(AbsPath, "/etc"));
    });
    lint("session: expected a workspace at /workspace, found /usr/bin", &|p| {
        let place = p.session.workspace.as_mut().expect("a workspace");
        place.inside = word!(AbsPath, "/usr/bin");
    });
    lint("session: isolation Container does not go with runtime", &|p| {
        p.session.runtime = Some("nvidia".into());
    });
    lint("session: expected bottle-out-", &|p| {
        p.session.out.subnet = "140.82.112.0/20".parse().expect("a subnet");
    });
    lint("session: user 12345 is not the owner's", &|p| p.session.sidecar_user.uid = 12345);
    lint("spec: asks for", &|p| p.spec.agent = word!(bottle_planner::words::Name, "admin"));

    // What a host's own config decides is no matter of lint.
    let elsewhere = forged(&text, |p| {
        let Plan { session, .. } = p;
        let subnet = |text: &str| text.parse().expect("a subnet");
        (session.net.subnet, session.out.subnet) =
            (subnet("140.82.112.0/28"), subnet("140.82.113.0/28"));
        for (n, role) in (2..).zip(Role::ALL) {
            let Some(place) = session.places.get_mut(&role) else { continue };
            place.net = session.net.subnet.nth(n).expect("an address");
            place.out = place.out.and(session.out.subnet.nth(n));
        }
    });
    let ran = apply_refused(
        &host,
        &elsewhere,
        10,
        &["this host's pool 10.201.0.0/16", "140.82.112.0/28"],
    );
    ran.says("hint: plan again");
}

#[test]
fn a_lock_file_approves_grants_and_no_more() {
    let host = Host::with_manifest(MANIFEST);
    let manifest = ["--manifest", "bottle.yaml"];
    host.run(&[&["lock", "--workspace", "copy"], &manifest[..]].concat()).code(0);
    fs::create_dir(host.at("work/src")).expect("made");
    let name = unique("lck");
    let locked = ["apply", "plan.json", "--require-lock", "bottle.lock"];
    host.plans(&name, "plan.json", &["--", "--config", "evil"]);
    refused(
        &host,
        &locked,
        11,
        &["arguments --config evil, which no lock file approves", "--expect"],
    );
    host.plans(&name, "plan.json", &["--cwd", "src", "--workspace", "copy"]);
    refused(&host, &locked, 11, &["the plan brings in", "--cwd DIR"]);
    let derived = forged(&host.read("work/plan.json"), |p| {
        p.spec.overrides.derived_image = Some("postgres:16".into());
        p.session.agent_image = "postgres:16".into();
    });
    host.write("work/plan.json", &derived);
    let words = [&locked[..], &["--cwd", "src"]].concat();
    refused(&host, &words, 11, &["takes image postgres:16 for the workspace, which no lock"]);
    host.plans(&name, "plan.json", &[]);
    host.write("work/bottle.lock", "\u{0}\u{ff}");
    refused(&host, &locked, 1, &["expected a lock file in bottle.lock"]);
}

#[test]
fn a_wall_that_was_granted_stays() {
    let host = Host::with_manifest(&MANIFEST.replace("isolation: container", "isolation: gvisor"));
    let snapshot = host.run(&["probe", "--manifest", "bottle.yaml", "--for", "demo"]).code(0).out;
    host.write("work/snapshot.json", &snapshot);
    host.plans(&unique("gvs"), "plan.json", &["--snapshot", "snapshot.json"]);
    let weaker = forged(&host.read("work/plan.json"), |p| {
        p.session.runtime = None;
        p.requires.retain(|r| !matches!(r, Requirement::Runtime { .. }));
    });
    apply_refused(&host, &weaker, 11, &["session: isolation Gvisor does not go with runtime None"]);
}

#[test]
fn a_plan_of_somebody_else_or_of_another_time_is_stale() {
    let (host, plan) = up("own");
    let other = host.sibling();
    refused(
        &other,
        &["apply", "plan.json", "--yes"],
        10,
        &["expected owner", "hint: apply as the user"],
    );
    let pretended = edited(&host.read("work/plan.json"), |p| {
        p["parent"] = Value::Null;
        for action in p["actions"].as_array_mut().expect("actions") {
            action["effect"] = "none".into();
            action["expect"] = json!({"kind": "satisfied"});
        }
        let all = p["actions"].as_array().expect("actions").len();
        p["summary"]["none"] = all.into();
        p["summary"]["create"] = 0.into();
    });
    apply_refused(
        &host,
        &pretended,
        10,
        &["parent", "to be the last applied", "bottle plan --identity"],
    );
    let name = plan.identity.as_str();
    let fresh = Host::with_manifest(MANIFEST);
    fresh.plans(&unique("prt"), "plan.json", &[]);
    let pretended = edited(&fresh.read("work/plan.json"), |p| {
        for action in p["actions"].as_array_mut().expect("actions") {
            action["effect"] = "none".into();
            action["expect"] = json!({"kind": "satisfied"});
        }
        p["summary"] = json!({"create": 0, "update": 0, "replace": 0, "delete": 0, "destructive": 0,
            "none": p["actions"].as_array().expect("actions").len()});
    });
    apply_refused(&fresh, &pretended, 10, &["as the plan has it", "plan again"]);
    host.run(&["destroy", name, "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn work_is_lost_only_if_it_says_so() {
    let (host, plan) = up("dst");
    let name = plan.identity.as_str();
    refused(&host, &["destroy", name], 11, &["nobody approved the plan", "hint: say --yes"]);
    host.run(&["destroy", name, "--yes"]).code(0);
}

/// What lies outside and must stay as it is.
fn victim(host: &Host) -> impl Fn() {
    host.write("victim/file", "precious\n");
    let folder = host.at("victim");
    move || {
        let names: Vec<_> =
            fs::read_dir(&folder).expect("there").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["file"], "something was put into the victim");
        assert_eq!(fs::read_to_string(folder.join("file")).expect("there"), "precious\n");
        assert_eq!(folder.metadata().expect("there").permissions().mode() & 0o777, 0o755);
    }
}

#[test]
fn links_planted_below_the_state_root_lead_nowhere() {
    let (host, text) = planned("lnk");
    let untouched = victim(&host);
    fs::set_permissions(host.at("victim"), fs::Permissions::from_mode(0o755)).expect("a mode");
    let plan: Plan = document::parse(&text, Strictness::Strict).expect("a plan").value;
    let session = format!("root/state/{}", plan.identity);
    let apply = ["apply", "plan.json", "--yes"];
    for place in ["root/state".to_owned(), session.clone()] {
        fs::create_dir_all(host.at(&place).parent().expect("below")).expect("made");
        symlink(host.at("victim"), host.at(&place)).expect("linked");
        refused(&host, &apply, 1, &["a symbolic link"]);
        untouched();
        fs::remove_file(host.at(&place)).expect("the link");
    }
    for (place, target) in [
        ("agent", "victim"),
        ("egress/in", "victim"),
        ("metadata.json", "victim/file"),
        ("ledger.json", "victim/file"),
        ("journal.jsonl", "victim/file"),
        ("plan.json", "victim/file"),
        ("backup", "victim"),
    ] {
        let at = host.at(&format!("{session}/{place}"));
        fs::create_dir_all(at.parent().expect("below")).expect("made");
        symlink(host.at(target), &at).expect("linked");
        let ran = host.run(&apply);
        let code = ran.status.expect("it ends by itself");
        assert!([1, 10, 12].contains(&code), "{place}: {code}\n{}", ran.err);
        clear(ran, code, &["a symbolic link"]);
        untouched();
        assert_eq!(host.leavings(), Vec::<String>::new(), "{place}");
        fs::remove_dir_all(host.at(&session)).expect("gone");
    }
    host.run(&apply).code(0);
    host.run(&["destroy", plan.identity.as_str(), "--yes"]).code(0);
    untouched();
}

/// Runs `bottle` with at most 200 MiB of memory and two seconds of a processor.
#[track_caller]
fn frugally(host: &Host, words: &[&str]) -> Ran {
    let command = host.command(words);
    let mut limited = Command::new("prlimit");
    limited.args([format!("--as={}", 200 << 20), "--cpu=2".into(), "--".into()]);
    limited.arg(command.get_program());
    limited.args(command.get_args()).env_clear().current_dir(host.at("work"));
    limited.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ran(&mut limited, b"")
}

#[test]
fn manifests_that_are_bombs() {
    let host = Host::new();
    let plan = ["plan", "demo", "--manifest", "bad.yaml"];
    let bad = |text: &str, says: &[&str]| {
        host.write("work/bad.yaml", text);
        clear(frugally(&host, &plan), 1, &[&["bad.yaml:", "error:"], says].concat());
    };
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..12 {
        let before = format!("*a{}, ", n - 1).repeat(9);
        bomb.push_str(&format!("a{n}: &a{n} [{before}]\n"));
    }
    bad(&bomb, &[]);
    bad(&format!("{}{}", "[".repeat(50_000), "]".repeat(50_000)), &[]);
    bad(&"{a: ".repeat(50_000), &[]);
    bad("bottles: {b: {}, b: {}}\nagents: {}\n", &["b"]);
    bad("\u{0}\u{1}\u{2}", &[]);
    fs::write(host.at("work/bad.yaml"), [0x80, 0xff]).expect("written");
    clear(frugally(&host, &plan), 1, &["not UTF-8"]);
    let large = File::create(host.at("work/bad.yaml")).expect("made");
    large.set_len(50 << 20).expect("sparse");
    clear(frugally(&host, &plan), 1, &["more than 1024 KiB"]);
    host.write("work/bad.yaml", &format!("# {}\nbottles: {{}}\n", "x".repeat(50 << 20)));
    clear(frugally(&host, &plan), 1, &["more than 1024 KiB"]);
    assert!(host.leavings().is_empty());
}

#[test]
fn pipes_are_not_waited_for() {
    let host = Host::with_manifest(MANIFEST);
    assert!(Command::new("mkfifo").arg(host.at("work/pipe")).status().expect("it runs").success());
    assert!(host.at("work/pipe").metadata().expect("there").file_type().is_fifo());
    let says = ["not a regular file"];
    for words in [
        &["plan", "demo", "--manifest", "pipe"][..],
        &["plan", "demo", "--manifest", "bottle.yaml", "--snapshot", "pipe"],
        &["plan", "demo", "--manifest", "bottle.yaml", "--spec", "pipe"],
        &["plan", "demo", "--manifest", "bottle.yaml", "--task", "@pipe"],
        &["plan", "--inputs", "pipe"],
        &["apply", "pipe", "--yes"],
        &["show", "pipe"],
        &["lock", "--manifest", "bottle.yaml", "--check", "-o", "pipe"],
    ] {
        refused(&host, words, 1, &says);
    }
    fs::rename(host.at("work/pipe"), host.at("root/config.yaml")).expect("moved");
    refused(&host, &["plan", "--manifest", "bottle.yaml"], 1, &says);
    fs::remove_file(host.at("root/config.yaml")).expect("gone");
    // A shell's `<(…)` is a pipe too, but one with a writer.
    let text = host.run(&["plan", "--manifest", "bottle.yaml"]).code(0).out;
    let script = "\"$0\" digest <(cat plan.json)";
    host.write("work/plan.json", &text);
    let command = host.command(&[]);
    let mut shell = Command::new("bash");
    shell.args(["-c", script]).arg(command.get_program()).current_dir(host.at("work"));
    ran(shell.env("HOME", host.at("home")), b"").code(0).prints("sha256:");
}

#[test]
fn other_documents_that_are_garbage() {
    let host = Host::with_manifest(MANIFEST);
    let plan =
        |more: &[&'static str]| [&["plan", "demo", "--manifest", "bottle.yaml"], more].concat();
    for garbage in ["\u{0}\u{1}", "{", "[]", "{\"kind\": \"bottle/plan\"}", "kind: [", "- x"] {
        host.write("work/bad", garbage);
        refused(&host, &plan(&["--snapshot", "bad"]), 1, &["expected a snapshot in bad"]);
        refused(&host, &plan(&["--spec", "bad"]), 1, &["expected a spec in bad"]);
        refused(&host, &["plan", "--inputs", "bad"], 1, &["expected inputs of a plan in bad"]);
        host.write("root/config.yaml", garbage);
        refused(&host, &plan(&[]), 1, &["config.yaml:", "error:"]);
        fs::remove_file(host.at("root/config.yaml")).expect("gone");
    }
    fs::write(host.at("work/bad"), [0xff, 0xfe]).expect("written");
    for words in
        [plan(&["--snapshot", "bad"]), plan(&["--spec", "bad"]), vec!["plan", "--inputs", "bad"]]
    {
        refused(&host, &words, 1, &["cannot read bad", "not UTF-8"]);
    }
    let bomb: String = (1..30).map(|n| format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1)).collect();
    host.write("work/bad", &format!("a0: &a0 [x, x]\n{bomb}"));
    clear(frugally(&host, &plan(&["--spec", "bad"])), 1, &["expected a spec in bad"]);
}

#[test]
fn no_engine() {
    let host = Host::with_manifest(MANIFEST).set("DOCKER_HOST", "unix:///nonexistent/docker.sock");
    let says = ["/nonexistent/docker.sock", "hint: start"];
    refused(&host, &["plan", "--manifest", "bottle.yaml"], 1, &says);
    let (other, text) = planned("eng");
    host.write("work/plan.json", &text);
    refused(&host, &["apply", "plan.json", "--yes"], 1, &says);
    drop(other);
}

/// A file system of its own over the state root, for a host run by root; nobody else can mount.
struct Mounted<'h>(&'h Host);

impl<'h> Mounted<'h> {
    fn new(host: &'h Host, options: &str) -> Option<Self> {
        let at = host.at("root");
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(at).output();
        mount.is_ok_and(|output| output.status.success()).then_some(Self(host))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // Whatever still holds it lets go with the containers.
        let _ = Command::new("umount").arg("-l").arg(self.0.at("root")).output();
    }
}

#[test]
fn a_full_disk_is_told_and_survived() {
    let (host, plan) = up("wrm");
    let tool = host.at("root/bin");
    host.run(&["destroy", plan.identity.as_str(), "--yes"]).code(0);
    let size = du(&tool) + (1 << 20);
    let host = Host::with_manifest(MANIFEST);
    let Some(_mounted) = Mounted::new(&host, &format!("size={size},mode=700")) else { return };
    let name = unique("ful");
    host.plans(&name, "plan.json", &[]);
    let filler = host.at("root/filler");
    for left in [0, 4 << 10, 40 << 10, 400 << 10] {
        fill(&filler, left);
        let ran = host.run(&["apply", "plan.json", "--yes"]);
        let code = ran.status.expect("it ends by itself");
        assert!([1, 12].contains(&code), "{left}: {code}\n{}", ran.err);
        clear(ran, code, &["No space left on device"]);
        let mut files = BTreeMap::new();
        walk(&host.at("root"), "", &mut files);
        assert!(!files.keys().any(|path| path.contains(".tmp")), "left with {left}: {files:?}");
        for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".json")) {
            assert!(serde_json::from_str::<Value>(text).is_ok(), "half of {path}: {text}");
        }
        fs::remove_file(&filler).expect("gone");
    }
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    host.run(&["destroy", &name, "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
}

fn du(path: &Path) -> u64 {
    let entries = fs::read_dir(path).expect("readable").flatten();
    entries
        .map(|e| if e.path().is_dir() { du(&e.path()) } else { e.metadata().expect("there").len() })
        .sum()
}

/// Leaves this many bytes free.
fn fill(filler: &Path, left: u64) {
    use std::io::Write as _;
    let mut file = File::create(filler).expect("made");
    let block = [b'x'; 4096];
    while file.write_all(&block).is_ok() {}
    let size = file.metadata().expect("there").len();
    file.set_len(size.saturating_sub(left)).expect("shorter");
}

#[test]
fn a_home_that_cannot_be_written_to() {
    let (host, text) = planned("rdo");
    let other = Host::with_manifest(MANIFEST);
    let Some(_mounted) = Mounted::new(&other, "ro") else { return };
    other.run(&["plan", "--manifest", "bottle.yaml"]).code(0);
    other.write("work/plan.json", &text);
    refused(&other, &["apply", "plan.json", "--yes"], 1, &["cannot write to", "hint: "]);
    drop(host);
}

#[test]
fn strangers_text_is_shown_and_not_obeyed() {
    let evil =
        "a\u{1b}[2J\u{202e}b\u{200b} **bold** <img src=x> [l](https://evil.test) @all `c` | #1";
    let host = Host::with_manifest(MANIFEST);
    let manifest = |text: &str| {
        let manifest = json!({
            "bottles": {"box": {
                "provider": {"command": ["sleep", text]},
                "env": {"LITERAL": text, "ASKED": format!("?{text}")},
            }},
            "agents": {"demo": {"bottle": "box", "prompt": text}},
        });
        host.write("work/bottle.yaml", &manifest.to_string());
        host.run(&["plan", "--manifest", "bottle.yaml", "--name", "evil", "-o", "plan.json"])
    };
    let controls = "control characters are not allowed";
    clear(manifest(evil), 1, &["`prompt`", "`LITERAL`", "`ASKED`", "`command`", controls]);
    manifest(&evil.replace('\u{1b}', "")).code(0);
    let text = edited(&host.read("work/plan.json"), |p| {
        p["actions"][0]["reason"]["detail"] = evil.into();
        p["notices"] = json!([{"code": "x", "message": evil}]);
        p["grants"]["env"]["LITERAL"]["value"] = evil.into();
        p["grants"]["env"]["ASKED"]["message"] = evil.into();
        p["grants"]["provider"]["command"] = json!(["sleep", evil]);
    });
    host.write("work/plan.json", &text);
    host.write("work/other.json", &edited(&text, |p| p["grants"]["env"] = json!({})));
    let shows = [
        &["show", "plan.json", "--format", "human"][..],
        &["show", "plan.json", "--format", "markdown"],
        &["diff", "other.json", "plan.json", "--format", "human"],
        &["diff", "other.json", "plan.json", "--format", "markdown"],
        &["apply", "plan.json"],
    ];
    for words in shows {
        let ran = host.run(words);
        for shown in [&ran.out, &ran.err] {
            let obeyed =
                |c: char| (c.is_control() && c != '\n') || matches!(c, '\u{202e}' | '\u{200b}');
            assert!(!shown.contains(obeyed), "{words:?} shows {shown:?}");
        }
        if words.contains(&"markdown") {
            assert!(ran.out.contains("\\u{1b}"), "{words:?} hides it: {}", ran.out);
            for live in ["**bold**", "<img", "](https://", " @all", "`c`"] {
                assert!(!ran.out.contains(live), "{live:?} is alive in {}", ran.out);
            }
        }
    }
}

#[test]
fn streams_that_are_closed_or_gone() {
    let (host, _) = planned("str");
    let mut shell = Command::new("bash");
    let binary = host.command(&[]).get_program().to_owned();
    let mut run = |script: &str| {
        let root = host.at("root");
        shell = Command::new("bash");
        shell.args(["-c", script]).arg(&binary).current_dir(host.at("work")).stdin(Stdio::null());
        ran(shell.env("HOME", host.at("home")).env("BOTTLE_HOME", root), b"")
    };
    clear(run("\"$0\" apply - --yes <&-"), 1, &["standard input"]);
    run("set -o pipefail; \"$0\" show plan.json --format json | true; (exit ${PIPESTATUS[0]})")
        .code(0);
    run("\"$0\" schema plan | head -c 1 >/dev/null; (exit ${PIPESTATUS[0]})").code(0);
    clear(
        run("\"$0\" show plan.json --format json >/dev/full"),
        1,
        &["could not write to standard output"],
    );
    run("\"$0\" show plan.json >&- 2>&-");
}

#[test]
fn words_that_contradict_each_other() {
    let (host, _) = planned("usg");
    for words in [
        &["plan", "--manifest", "bottle.yaml", "--manifest-dir", "."][..],
        &["plan", "--manifest", "bottle.yaml", "--cwd", ".", "--workspace", "none"],
        &["plan", "--inputs", "x", "--task", "y"],
        &["plan", "--manifest", "bottle.yaml", "--name", "A/../B"],
        &["apply", "plan.json", "--rollback", "--redeliver"],
        &["apply", "plan.json", "--expect", "sha256:short"],
        &["apply", "plan.json", "--yes", "--secret", "TOKEN"],
        &["apply", "plan.json", "--yes", "--secret", "TOKEN=hunter2"],
        &["apply", "plan.json", "--yes", "--secret", "TOKEN=fd:-1"],
        &["apply", "plan.json", "--yes", "--secret", "TOKEN=fd:3"],
        &["diff", "-", "-"],
        &["lock", "--check", "--workspace", "copy"],
        &["apply"],
    ] {
        let ran = refused(&host, words, 64, &[]);
        assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    }
}

#[test]
fn environments_that_make_no_sense() {
    let host = Host::with_manifest(MANIFEST);
    let run = |change: &dyn Fn(&mut Command)| {
        let mut command = host.command(&["plan", "--manifest", "bottle.yaml"]);
        change(&mut command);
        ran(&mut command, b"")
    };
    clear(
        run(&|c| {
            c.env_remove("HOME");
        }),
        1,
        &["HOME is not set", "hint: set HOME"],
    );
    clear(
        run(&|c| {
            c.env("HOME", "relative");
        }),
        1,
        &["expected an absolute path in HOME"],
    );
    for epoch in ["yesterday", "-1", "99999999999999999999", "1e9"] {
        let ran = run(&|c| {
            c.env("SOURCE_DATE_EPOCH", epoch);
        });
        let code = ran.status.expect("it ends by itself");
        assert!([1, 64].contains(&code), "{epoch}: {code}");
        clear(ran, code, &["SOURCE_DATE_EPOCH", epoch]);
    }
    for engine in ["nonsense", "ftp://x", "unix://", "tcp://[::1"] {
        let ran = run(&|c| {
            c.env("DOCKER_HOST", engine);
        });
        clear(ran, 1, &["expected ", &format!("found `{engine}`"), "hint: "]);
    }
}

#[test]
fn a_value_that_is_asked_for_and_cannot_be_read() {
    let manifest = MANIFEST.replace("    egress:", "    env: {TOKEN: \"?a token\"}\n    egress:");
    let host = Host::with_manifest(&manifest);
    host.plans(&unique("sec"), "plan.json", &[]);
    let says = ["secret TOKEN is missing", "hint: "];
    refused(&host, &["apply", "plan.json", "--yes"], 10, &says);
    let ran =
        refused(&host, &["apply", "plan.json", "--yes", "--secret", "TOKEN=fd:99"], 10, &says);
    ran.says("cannot read TOKEN from descriptor 99");
}

#[test]
fn two_at_once_make_one_session() {
    let (host, text) = planned("two");
    let plan: Plan = document::parse(&text, Strictness::Strict).expect("a plan").value;
    let start = || {
        let mut command = host.command(&["apply", "plan.json", "--yes"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("it starts")
    };
    let (one, other) = (start(), start());
    let ends = [one, other].map(|child| Ran::of(&child.wait_with_output().expect("it ends")));
    assert!(ends.iter().any(Ran::ok), "{ends:?}");
    for ran in ends.into_iter().filter(|ran| !ran.ok()) {
        clear(ran, 1, &["the session is locked", "another bottle process (pid "]);
    }
    let name = plan.identity.as_str();
    let containers = docker(&[
        "ps",
        "-a",
        "--format",
        "{{.Names}}",
        "--filter",
        &format!("label=dev.bottle.identity={name}"),
    ])
    .code(0)
    .out;
    let mut containers: Vec<&str> = containers.lines().collect();
    containers.sort_unstable();
    assert_eq!(containers, [format!("bottle-egress-{name}"), format!("bottle-{name}")]);
    host.run(&["apply", "plan.json", "--yes"]).code(0).says("nothing was touched");
    host.run(&["destroy", name, "--yes"]).code(0);
}

#[test]
fn a_repository_is_a_stranger() {
    let host = Host::new();
    let bottle = "---\nprovider: {command: [sleep, \"86400\"]}\n---\n";
    host.write("root/bottles/box.md", bottle)
        .write("root/bottles/lent.md", &bottle.replace("---\np", "---\nrepo_agents: true\np"))
        .write("root/agents/home.md", "---\nbottle: box\n---\nFrom home.\n")
        .write("work/.bottle/bottles/box.md", "---\negress: {routes: [{host: evil.test}]}\n---\n")
        .write("work/.bottle/agents/stray.md", "---\nbottle: box\n---\nFrom the repository.\n")
        .write("work/.bottle/agents/guest.md", "---\nbottle: lent\n---\nFrom the repository.\n")
        .write("work/.bottle/agents/home.md", "---\nbottle: lent\n---\nFrom the repository.\n");
    let plan = |agent| host.run(&["plan", agent, "--name", "repo"]);
    let ran = plan("guest").code(0).says("bottles of a repository are ignored");
    let ran = ran.says("agent `guest` and its prompt are from the repository");
    assert!(!ran.out.contains("evil.test"), "a repository's bottle is in force");
    let closed = "bottle `box` is not open to agents of a repository";
    refused(&host, &["plan", "stray"], 1, &[closed, "repo_agents: true"]);
    // An agent of a name that is known may bring its prompt, and never another bottle.
    let moved = "the repository may not move agent `home` out of bottle `box`";
    refused(&host, &["plan", "home"], 1, &[moved]);
    host.write("work/.bottle/agents/home.md", "---\nbottle: box\n---\nFrom the repository.\n");
    refused(&host, &["plan", "home"], 1, &[closed]);
    host.write("root/bottles/box.md", &bottle.replace("---\np", "---\nrepo_agents: true\np"));
    let plan: Plan =
        document::parse(&plan("home").code(0).out, Strictness::Strict).expect("a plan").value;
    assert_eq!(plan.grants.bottle.as_str(), "box");
    let prompt = plan.actions.iter().any(|a| {
        matches!(&a.op,
        Operation::File(f) if f.content.starts_with("From the repository."))
    });
    assert!(prompt, "the repository's prompt is in force, and marked");
}

#[test]
fn names_are_checked_before_anything_is_made() {
    let (host, _) = planned("nam");
    for name in ["../x", "A", "-x", "x y", "x\u{1b}[2J", &"x".repeat(60), "x/y"] {
        let name = format!("--name={name}");
        refused(
            &host,
            &["plan", "--manifest", "bottle.yaml", &name],
            64,
            &["expected an identity"],
        );
    }
}
