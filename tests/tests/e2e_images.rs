//! Images, workspaces and skills on the real engine: what is brought into a container, and how.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use bottle_planner::plan::{Effect, Plan};
use bottle_tests::host::{Host, docker, inspect, ran, unique, until};

fn manifest(image: &str, more: &str) -> String {
    format!(
        "bottles:
  box:
    provider: {{command: [sleep, '86400']}}
    image: {image}
    isolation: container
    workspace: {{modes: [copy, clone, mount, none]}}
{more}agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    )
}

const BASE: &str = "{reference: 'debian:bookworm-slim'}";

fn inside(session: &str, command: &str) -> String {
    docker(&["exec", &format!("bottle-{session}"), "sh", "-c", command]).code(0).out
}

fn effect(plan: &Plan, id: &str) -> Effect {
    plan.actions.iter().find(|a| a.id.0 == id).unwrap_or_else(|| panic!("no {id}")).effect
}

fn git(host: &Host, folder: &str, words: &[&str]) {
    let done = ran(
        Command::new("git")
            .args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"])
            .args(words)
            .current_dir(host.at(folder)),
        b"",
    );
    done.code(0);
}

#[test]
fn an_image_is_built_once_from_what_the_manifest_names() {
    let (first, second) = (unique("img"), unique("img"));
    let host = Host::with_manifest(&manifest(
        "{dockerfile: image/Dockerfile, context: image, build: {network: none}}",
        "",
    ));
    let text = format!("FROM debian:bookworm-slim\nCOPY note /note\nRUN echo {first} > /built\n");
    host.write("work/image/Dockerfile", &text).write("work/image/note", "from the context\n");
    // A build context lies below the manifest's folder, which apply is told like plan.
    let apply = |file| host.run(&["apply", file, "--yes", "--manifest", "bottle.yaml"]);
    let plan = host.plans(&first, "plan.json", &[]);
    assert_eq!(effect(&plan, "image:agent"), Effect::Create);
    apply("plan.json").code(0);
    assert_eq!(inside(&first, "cat /built /note"), format!("{first}\nfrom the context\n"));
    let plan = host.plans(&second, "plan.json", &[]);
    assert_eq!(effect(&plan, "image:agent"), Effect::None, "the same inputs are built once");
    apply("plan.json").code(0);
    host.write("work/image/note", "changed\n");
    let plan = host.plans(&first, "again.json", &["--refresh", "image"]);
    assert_eq!(effect(&plan, "image:agent"), Effect::Create, "another context is another image");
    // The context changes once more between plan and apply.
    host.write("work/image/note", "changed behind its back\n");
    apply("again.json").code(10).says("content");
    assert_eq!(inside(&first, "cat /note"), "from the context\n", "nothing was touched");
    for session in [&first, &second] {
        host.run(&["destroy", session, "--yes"]).code(0);
    }
    docker(&["rmi", "-f", &plan_tag(&plan), &plan_tag(&host.plan("work/plan.json"))]);
}

fn plan_tag(plan: &Plan) -> String {
    plan.session.base_image.clone()
}

#[test]
fn a_copied_workspace_hides_what_is_hidden_and_is_the_agents_own() {
    let (first, second) = (unique("copy"), unique("copy"));
    let host = Host::with_manifest(&manifest(BASE, ""));
    host.write("work/code/src/main.rs", "fn main() {}\n").write("work/code/.env.local", "KEY=1\n");
    std::os::unix::fs::symlink("/etc/passwd", host.at("work/code/link")).expect("a link");
    let folder = host.at("work/code").display().to_string();
    let asked = ["--workspace", "copy", "--cwd", folder.as_str()];
    let plan = host.plans(&first, "plan.json", &asked);
    assert_eq!(effect(&plan, "image:workspace"), Effect::Create);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_eq!(inside(&first, "cat /workspace/src/main.rs"), "fn main() {}\n");
    assert_eq!(inside(&first, "cd /workspace && find . -name '.env*'"), "", "it is hidden");
    assert_eq!(inside(&first, "readlink /workspace/link"), "/etc/passwd\n", "a link stays one");
    assert_eq!(
        inside(&first, "stat -c %u:%g /workspace/src/main.rs /workspace"),
        "1000:1000\n1000:1000\n"
    );
    inside(&first, "echo work > /workspace/made");
    let plan = host.plans(&second, "second.json", &asked);
    assert_eq!(effect(&plan, "image:workspace"), Effect::None, "sessions on one folder share it");
    // A plan in the folder that it copies would make itself stale.
    let words = ["plan", "dev", "--manifest", "bottle.yaml", "-o", "code/plan.json"];
    let words: Vec<&str> = words.iter().chain(&asked).copied().collect();
    host.run(&words).code(64).says("would lie in the folder that the session copies");
    assert!(!host.has("work/code/plan.json"));
    // What was planned is not what is there any more, though its image is.
    let planned = host.read("work/code/src/main.rs");
    host.write("work/code/src/main.rs", "fn main() { loop {} }\n");
    host.run(&["apply", "second.json", "--yes"]).code(10).says("content");
    host.write("work/code/src/main.rs", &planned);
    // The folder changes: the plan made before no longer fits.
    host.run(&["destroy", &first, "--yes"]).code(0);
    docker(&["rmi", "-f", &plan.session.agent_image]);
    host.write("work/code/src/main.rs", "fn main() { panic!() }\n");
    let plan = host.plans(&second, "second.json", &asked);
    host.write("work/code/src/main.rs", "fn main() { loop {} }\n");
    host.run(&["apply", "second.json", "--yes"]).code(10).says("content");
    assert!(!host.has(&format!("root/state/{second}/plan.json")), "nothing was begun");
    drop(plan);
}

#[test]
fn a_cloned_workspace_is_a_branch_of_its_own_and_runs_nothing() {
    let session = unique("clone");
    let host = Host::with_manifest(&manifest(BASE, ""));
    host.write("work/code/a.txt", "one\n");
    git(&host, "work/code", &["init", "-q", "-b", "main"]);
    git(&host, "work/code", &["add", "."]);
    git(&host, "work/code", &["commit", "-q", "-m", "one"]);
    // What a hostile repository would have the host run.
    host.write("work/code/.git/hooks/post-checkout", "#!/bin/sh\ntouch \"$0.ran\"\n");
    let hook = host.at("work/code/.git/hooks/post-checkout");
    make_executable(&hook);
    host.write("work/code/b.txt", "not committed\n");
    let folder = host.at("work/code").display().to_string();
    host.plans(&session, "plan.json", &["--workspace", "clone", "--cwd", &folder]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let branch = inside(&session, "cd /workspace && git rev-parse --abbrev-ref HEAD");
    assert_eq!(branch, format!("agent/{session}\n"));
    assert_eq!(inside(&session, "ls /workspace"), "a.txt\n", "only what was committed came");
    assert!(!host.has("work/code/.git/hooks/post-checkout.ran"), "a hook ran on the host");
    inside(
        &session,
        "cd /workspace && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m x",
    );
    host.run(&["destroy", &session, "--yes"]).code(0);
    docker(&["rmi", "-f", &host.plan("work/plan.json").session.agent_image]);
}

fn make_executable(path: &std::path::Path) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

#[test]
fn a_mounted_workspace_is_the_folder_itself() {
    let session = unique("mount");
    let host = Host::with_manifest(&manifest(BASE, ""));
    host.write("work/code/a.txt", "one\n");
    let folder = host.at("work/code").display().to_string();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("a mode");
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &folder]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_eq!(inside(&session, &format!("cat {folder}/a.txt")), "one\n");
    inside(&session, &format!("echo two > {folder}/b.txt"));
    assert_eq!(host.read("work/code/b.txt"), "two\n");
    let owner = std::fs::metadata(host.at("work/code/b.txt")).expect("there").uid();
    assert_eq!(owner, 1000, "the agent is not the host's root");
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert_eq!(host.read("work/code/b.txt"), "two\n", "the end of a session keeps the folder");
}

#[test]
fn skills_settings_and_all_four_containers_come_up() {
    let session = unique("four");
    let more = "    supervise: true
    git:
      - {name: web, upstream: 'https://git.example.com/acme/web.git'}
    git_user: {name: Ada, email: ada@example.com}
";
    let text =
        manifest(BASE, more).replace("prompt: Be brief.}", "prompt: Be brief., skills: [review]}");
    let host = Host::with_manifest(&text);
    host.write("home/.claude/skills/review/SKILL.md", "Read twice.\n");
    host.up(&session);
    for role in ["egress-", "git-gate-", "supervise-", ""] {
        let found = inspect(&format!("bottle-{role}{session}"));
        assert_eq!(found["State"]["Running"], true, "{role}");
    }
    let skill = inside(&session, "cat /home/agent/.claude/skills/review/SKILL.md");
    assert_eq!(skill, "Read twice.\n");
    assert_eq!(inside(&session, "git config user.name"), "Ada\n");
    let rewritten = inside(&session, "git ls-remote --get-url https://git.example.com/acme/web");
    assert_eq!(rewritten, "git://git-gate/web.git\n");
    // The init waits for its sidecars before it runs the agent.
    until("the agent's command runs", || {
        let top = docker(&["top", &format!("bottle-{session}"), "-eo", "pid,args"]);
        top.out.contains("sleep 86400")
    });
    let refused = docker(&[
        "exec",
        &format!("bottle-{session}"),
        "sh",
        "-c",
        "git ls-remote https://git.example.com/acme/web 2>&1; true",
    ]);
    assert!(
        refused.out.contains("remote error") && refused.out.contains("git.example.com"),
        "the gate asks upstream and tells how that went: {}",
        refused.out
    );
    let bundle = inside(&session, "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt");
    let roots: u32 = bundle.trim().parse().expect("a number");
    assert!(roots > 50, "the image's roots and the session's CA: {roots}");
    // A changed skill is uploaded into the running container; nothing is restarted.
    host.write("home/.claude/skills/review/SKILL.md", "Read thrice.\n");
    let plan = host.plans(&session, "changed.json", &[]);
    assert_eq!(effect(&plan, "upload:agent/skills"), Effect::Update);
    assert_eq!(effect(&plan, "container:agent"), Effect::None);
    host.run(&["apply", "changed.json", "--yes"]).code(0);
    let skill = inside(&session, "cat /home/agent/.claude/skills/review/SKILL.md");
    assert_eq!(skill, "Read thrice.\n");
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert!(
        host.leavings().iter().all(|l| l.starts_with("bottle-sidecar")),
        "{:?}",
        host.leavings()
    );
}
