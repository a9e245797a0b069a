//! What a session goes through: it comes up, changes in place, is repaired, and goes.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use bottle_planner::plan::{Effect, ReasonCode};
use bottle_tests::host::{Host, User, docker, inspect, ran, unique, until};
use serde_json::Value;

use crate::outside::{MARK, docker0, tcp_server};
use crate::{agent, changes, egress, manifest};

/// A container's id and when it last started.
fn run_of(name: &str) -> (String, String) {
    let container = inspect(name);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    (text(&container["Id"]), text(&container["State"]["StartedAt"]))
}

/// The runs of both of a session's containers.
fn runs_of(session: &str) -> [(String, String); 2] {
    [agent(session), egress(session)].map(|name| run_of(&name))
}

/// Checks that a plan made now would do nothing.
#[track_caller]
fn nothing_to_do(host: &Host, session: &str) {
    let words = ["plan", "--manifest", "bottle.yaml", "--name", session, "--detailed-exitcode"];
    let all = [&words[..], &["-o", "again.json"]].concat();
    host.run(&all).code(0);
    assert_eq!(changes(&host.plan("work/again.json")), Vec::<String>::new());
}

#[test]
fn it_comes_up_once_and_goes_without_a_rest() {
    let host = Host::with_manifest(&manifest("COLOR: red", "{host: api.example.test}"));
    let session = unique("life");
    let plan = host.up(&session);
    let made = |kind: &str| plan.actions.iter().any(|a| a.id.0.starts_with(kind));
    assert!(["network:", "volume:", "container:", "start:"].into_iter().all(made));
    let runs = runs_of(&session);
    assert_eq!(host.leavings().len(), 5, "two containers, two networks, a volume");

    // P5: applied again, and again, nothing is made twice. P2: nothing is left to plan.
    for _ in 0..2 {
        host.run(&["apply", "plan.json", "--yes"]).code(0).says("nothing was touched");
    }
    nothing_to_do(&host, &session);
    host.run(&["apply", "again.json", "--yes"]).code(0).says("nothing was touched");
    nothing_to_do(&host, &session);
    host.run(&["apply", "plan.json", "--yes"]).code(0).says("nothing was touched");
    assert_eq!(runs_of(&session), runs);
    assert_eq!(host.leavings().len(), 5);

    host.run(&["destroy", &session, "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert!(!host.has(&format!("root/state/{session}")));
    let record = |file: &str| host.read(&format!("root/history/{session}/{file}"));
    assert!(record("plan.json").contains("\"destroy\""));
    assert!(record("plan.previous.json").contains("\"launch\""));
    assert!(record("journal.jsonl").lines().count() > plan.actions.len());
    host.run(&["destroy", &session, "--yes"]).code(1).says("has ended");
    // The record does not keep the name.
    host.up(&session);
}

#[test]
fn a_route_changes_in_place() {
    let (port, at) = (tcp_server(), docker0());
    let before = format!("{{host: one.example.test, port: {port}, address: {at}}}");
    let after = format!("{before}, {{host: two.example.test, port: {port}, address: {at}}}");
    let host = Host::with_manifest(&manifest("", &before));
    let session = unique("life");
    host.up(&session);
    let runs = runs_of(&session);
    let get = |name: &str| {
        let url = format!("http://{name}.example.test:{port}/");
        docker(&["exec", &agent(&session), "curl", "-sS", "-m", "20", &url]).code(0)
    };
    get("one").prints(MARK);
    get("two").prints("no route names this host");

    host.write("work/bottle.yaml", &manifest("", &after));
    let plan = host.plans(&session, "plan.json", &[]);
    assert_eq!(changes(&plan), ["update file:egress/in/routes.json", "update reload:egress"]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    get("two").prints(MARK);
    assert_eq!(runs_of(&session), runs, "no container was touched");
    nothing_to_do(&host, &session);

    host.write("work/bottle.yaml", &manifest("", &before));
    host.up(&session);
    get("two").prints("no route names this host");
    get("one").prints(MARK);
}

#[test]
fn a_variable_replaces_the_agent_and_keeps_its_home() {
    let host = Host::with_manifest(&manifest("COLOR: red", "{host: api.example.test}"));
    let session = unique("life");
    host.up(&session);
    let inside = agent(&session);
    let of_the_agent = |line: &str| {
        // The agent's own variables, not those of an exec: they come from its init.
        let find = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" = 'sleep 86400 ' ] \
                    && tr '\\0' '\\n' <$p/environ; done";
        let ran = docker(&["exec", &inside, "bash", "-c", find]);
        ran.out.lines().any(|l| l == line)
    };
    until("the agent is red", || of_the_agent("COLOR=red"));
    docker(&["exec", &inside, "bash", "-c", "echo work >~/notes; echo lost >/tmp/scratch"]).code(0);
    let [agent_run, egress_run] = runs_of(&session);

    host.write("work/bottle.yaml", &manifest("COLOR: blue", "{host: api.example.test}"));
    let plan = host.plans(&session, "plan.json", &[]);
    assert!(plan.actions.iter().all(|a| !a.destructive), "{:?}", changes(&plan));
    assert!(changes(&plan).contains(&"replace container:agent".to_owned()), "{:?}", changes(&plan));
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    until("the agent is blue", || of_the_agent("COLOR=blue"));
    let [agent_now, egress_now] = runs_of(&session);
    assert_ne!(agent_now.0, agent_run.0);
    assert_eq!(egress_now, egress_run, "egress was not touched");
    docker(&["exec", &inside, "bash", "-c", "cat ~/notes"]).code(0).prints("work");
    docker(&["exec", &inside, "cat", "/tmp/scratch"]).code(1);
    nothing_to_do(&host, &session);
}

#[test]
fn what_stopped_is_started_and_what_went_is_made_again() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("life");
    host.up(&session);
    let [agent_run, egress_run] = runs_of(&session);

    docker(&["stop", "-t", "1", &egress(&session)]).code(0);
    let plan = host.plans(&session, "plan.json", &[]);
    assert_eq!(changes(&plan), ["update start:egress"]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let now = run_of(&egress(&session));
    assert_eq!(now.0, egress_run.0, "the same container");
    assert_ne!(now.1, egress_run.1, "started again");
    assert_eq!(run_of(&agent(&session)), agent_run);
    nothing_to_do(&host, &session);

    docker(&["exec", &agent(&session), "bash", "-c", "echo work >~/notes"]).code(0);
    docker(&["rm", "-f", &agent(&session)]).code(0);
    let plan = host.plans(&session, "plan.json", &[]);
    let made = changes(&plan);
    assert!(made.contains(&"create container:agent".to_owned()), "{made:?}");
    assert!(made.iter().all(|c| c.contains("agent")), "{made:?}");
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_ne!(run_of(&agent(&session)).0, agent_run.0);
    docker(&["exec", &agent(&session), "bash", "-c", "cat ~/notes"]).code(0).prints("work");
    nothing_to_do(&host, &session);
}

#[test]
fn what_somebody_else_changed_is_told_and_only_a_new_plan_repairs_it() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("life");
    host.up(&session);
    let file = format!("root/state/{session}/egress/in/routes.json");
    let planned = host.read(&file);
    let edited = planned.replace("api.example.test", "evil.example.test");
    assert_ne!(edited, planned);
    fs::write(host.at(&file), &edited).expect("written");

    let refused = host.run(&["apply", "plan.json", "--yes"]).code(10);
    refused.says("file:egress/in/routes.json");
    assert_eq!(host.read(&file), edited, "an old plan repairs nothing");

    let repair = host.plans(&session, "repair.json", &[]);
    let action = repair.actions.iter().find(|a| a.id.0 == "file:egress/in/routes.json");
    let action = action.expect("the plan names the file");
    assert_eq!((action.effect, action.reason.code), (Effect::Update, ReasonCode::Drifted));
    host.run(&["apply", "repair.json", "--yes"]).code(0);
    assert_eq!(host.read(&file), planned);
    nothing_to_do(&host, &session);

    // Edited again between plan and apply: what the plan saw is gone, and nothing is written over.
    host.write("work/bottle.yaml", &manifest("", "{host: other.example.test}"));
    host.plans(&session, "late.json", &[]);
    fs::write(host.at(&file), &edited).expect("written");
    host.run(&["apply", "late.json", "--yes"]).code(10).says("file:egress/in/routes.json");
    assert_eq!(host.read(&file), edited);
}

#[test]
fn a_plan_that_was_overtaken_is_stale() {
    let host = Host::with_manifest(&manifest("", "{host: one.example.test}"));
    let session = unique("life");
    let first = host.plans(&session, "first.json", &[]);
    // Two first plans: the second to arrive finds a session that it does not know of.
    host.plans(&session, "rival.json", &["--task", "something else"]);
    host.run(&["apply", "first.json", "--yes"]).code(0);
    host.run(&["apply", "rival.json", "--yes"]).code(10);

    host.write("work/bottle.yaml", &manifest("", "{host: two.example.test}"));
    host.plans(&session, "two.json", &[]);
    host.write("work/bottle.yaml", &manifest("", "{host: three.example.test}"));
    host.plans(&session, "three.json", &[]);
    host.run(&["apply", "three.json", "--yes"]).code(0);
    let runs = runs_of(&session);
    let routes = format!("root/state/{session}/egress/in/routes.json");
    let in_force = host.read(&routes);
    for stale in ["two.json", "first.json", "rival.json"] {
        let ran = host.run(&["apply", stale, "--yes"]).code(10);
        ran.says("parent").says("plan again");
        assert_eq!(host.read(&routes), in_force, "{stale}");
    }
    assert_eq!(runs_of(&session), runs);
    assert_eq!(host.leavings().len(), 5, "{:?}", changes(&first));
}

#[test]
fn a_plan_is_its_owners_alone() {
    let host = Host::with_manifest(&manifest("", "{host: api.example.test}"));
    let session = unique("life");
    host.plans(&session, "plan.json", &[]);
    let other = host.sibling();
    other.run(&["apply", "plan.json", "--yes"]).code(10).says("owner");
    assert_eq!(other.leavings(), Vec::<String>::new());
    assert!(!other.has(&format!("root/state/{session}")));

    // Nor is a session of one owner planned or taken down by another.
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let runs = runs_of(&session);
    other.run(&["apply", "plan.json", "--yes"]).code(10).says("owner");
    other.run(&["destroy", &session, "--yes"]).code(1).says("there is no session");
    let words = ["plan", "--manifest", "bottle.yaml", "--name", &session];
    other.run(&words).code(1).says(&session);
    assert_eq!(runs_of(&session), runs);
}

/// Everything below a folder that others could read, and whatever is not this user's.
fn open_to_others(folder: &Path, uid: u32, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let (path, meta) = (entry.path(), entry.metadata().expect("there"));
        if meta.is_dir() {
            open_to_others(&path, uid, found);
        }
        let mode = meta.permissions().mode() & 0o777;
        // What is no secret and is read by others inside: the binary, the resolver, the certificate.
        let public = path.components().any(|part| part.as_os_str() == "bin");
        let meant = public
            || ["resolv.conf", "applied.json", "ca.crt"].iter().any(|name| path.ends_with(name));
        let agents = path.components().any(|part| part.as_os_str() == "agent");
        if (mode & 0o077 != 0 && !meant) || (meta.uid() != uid && !agents) {
            found.push(format!("{} {mode:o} of {}", path.display(), meta.uid()));
        }
    }
}

/// The small life of a session, of whoever the host belongs to.
fn lives(host: &Host, uid: u32, gid: u32) {
    let session = unique("life");
    let plan = host.up(&session);
    let user = |name: &str| inspect(name)["Config"]["User"].as_str().expect("text").to_owned();
    assert_eq!(user(&egress(&session)), format!("{uid}:{gid}"));
    let agents = if uid == 0 { "1000:1000".to_owned() } else { format!("{uid}:{gid}") };
    assert_eq!(user(&agent(&session)), agents);
    assert_eq!(plan.session.owner, host.owner());
    let mut found = Vec::new();
    open_to_others(&host.at("root"), uid, &mut found);
    assert_eq!(found, Vec::<String>::new());

    nothing_to_do(host, &session);
    host.write("work/bottle.yaml", &manifest("", "{host: two.example.test}"));
    host.up(&session);
    host.write("work/bottle.yaml", &manifest("COLOR: blue", "{host: two.example.test}"));
    host.up(&session);
    nothing_to_do(host, &session);
    docker(&["exec", &agent(&session), "getent", "hosts", "two.example.test"]).code(0);
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn root_lives_with_it() {
    let host = Host::untouched();
    host.write("work/bottle.yaml", &manifest("", "{host: one.example.test}"));
    lives(&host, 0, 0);
}

#[test]
fn a_user_of_the_engines_group_lives_with_it() {
    let user = User::somebody();
    let (uid, gid) = (user.uid, user.gid);
    let host = Host::untouched().owned_by(user);
    host.write("work/bottle.yaml", &manifest("", "{host: one.example.test}"));
    lives(&host, uid, gid);
}

#[test]
fn the_same_plan_whatever_surrounds_it() {
    let text =
        manifest("COLOR: red, TOKEN: '${TOKEN}'", "{host: b.example.test}, {host: a.example.test}");
    let host = Host::with_manifest(&text).set("TOKEN", "there-on-every-run");
    let session = unique("life");
    let elsewhere = host.at("home").join("elsewhere");
    fs::create_dir(&elsewhere).expect("a folder");
    let file = host.at("work/bottle.yaml");
    let file = file.to_str().expect("UTF-8");
    let words = ["plan", "--manifest", file, "--name", &session, "--at", "2026-01-31T12:00:00Z"];
    let plan = |vary: &dyn Fn(&mut Command) -> &mut Command| {
        let mut command = host.command(&words);
        vary(&mut command);
        ran(&mut command, b"").code(0).out
    };
    let variations: [&dyn Fn(&mut Command) -> &mut Command; 12] = [
        &|c| c,
        &|c| c.current_dir("/"),
        &|c| c.current_dir(&elsewhere),
        &|c| c.env("TZ", "Pacific/Kiritimati"),
        &|c| c.env("TZ", "America/St_Johns").env("LC_ALL", "tr_TR.UTF-8"),
        &|c| c.env("LANG", "C").env("LANGUAGE", "de"),
        &|c| c.env("NO_COLOR", "1").env("CI", "1").env("TERM", "dumb"),
        &|c| c.env("SOURCE_DATE_EPOCH", "7"),
        &|c| c.env("COLUMNS", "20").env("USER", "somebody").env("LOGNAME", "else"),
        &|c| c.env("TMPDIR", &elsewhere).env("SHELL", "/bin/false"),
        &|c| c.env("BOTTLE_IMAGE", "").env("XDG_CONFIG_HOME", &elsewhere),
        &|c| c.env("TOKEN", "another-value-of-the-secret"),
    ];
    let plans: BTreeSet<String> = variations.iter().map(|vary| plan(*vary)).collect();
    assert_eq!(plans.len(), 1, "{plans:?}");
    assert!(plans.iter().all(|text| text.contains(&session)));
}
