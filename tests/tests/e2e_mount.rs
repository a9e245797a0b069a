//! A mounted folder, attacked from inside: nothing that an agent leaves there is run by the host, and
//! what is hidden is not seen.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use bottle_tests::host::{Host, Ran, User, docker, ran, unique, until};

const MANIFEST: &str = "bottles:
  box:
    provider:
      command:
        - sh
        - -c
        - trap 'echo x >late.sh; chmod 755 late.sh; exit 143' TERM; while :; do sleep 1; done
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [mount]}
agents:
  dev: {bottle: box, prompt: Be brief.}
";

/// A repository with another one in it, and files that editors and shells run.
const REPOSITORY: &str = "
git init -q -b main . && git config user.name Ada && git config user.email ada@example.com
echo one > a.txt; echo 'KEY=planted' > .env; mkdir -p conf sub; echo 'KEY=nested' > conf/.env.local
mkdir -p .vscode .claude/commands && echo '{}' > .vscode/settings.json && echo '{}' > .claude/settings.json
echo '.env*' > .gitignore
mkdir -p vendor/lib && (cd vendor/lib && git init -q . && git config user.name Ada &&
  git config user.email ada@example.com && git commit -q --allow-empty -m lib)
git add . 2>/dev/null && git commit -q -m one";

/// What an agent does to have the host run something: `$TRAP` is a program in the folder that leaves
/// a mark, and `plant` writes such a one. Each line is one attempt, by itself.
const ATTACKS: [&str; 25] = [
    "plant .git/hooks/pre-commit",
    "mkdir -p .git/hooks && plant .git/hooks/post-index-change",
    "git config core.fsmonitor \"$TRAP\"",
    "git config core.sshCommand \"$TRAP\"",
    "git config alias.status \"!$TRAP\"",
    "git config core.hooksPath \"$PWD\" && plant pre-commit",
    "git config filter.x.clean \"$TRAP\" && echo '* filter=x' > .gitattributes",
    "git config diff.external \"$TRAP\"",
    "mv .git .git-away && cp -r .git-away .git && git -C . config core.fsmonitor \"$TRAP\"",
    "rm -rf .git && git init -q . && git config core.fsmonitor \"$TRAP\"",
    "git init -q --template= . && git config core.fsmonitor \"$TRAP\"",
    "git init -q --separate-git-dir=elsewhere . && git config core.fsmonitor \"$TRAP\"",
    "git -C vendor/lib config core.fsmonitor \"$TRAP\"",
    "mv vendor/lib/.git vendor/lib/git && cp -r vendor/lib/git vendor/lib/.git",
    "mv vendor vendor-away && mkdir -p vendor/lib && git -C vendor/lib init -q . \
     && git -C vendor/lib config core.fsmonitor \"$TRAP\"",
    "mv vendor/lib vendor/away && git init -q vendor/lib && git -C vendor/lib config core.fsmonitor \"$TRAP\"",
    "echo \"$TRAP\" > .envrc",
    "rm -f .envrc && plant .envrc",
    "echo planted > .vscode/tasks.json",
    "mv .vscode v && mkdir .vscode && echo planted > .vscode/tasks.json",
    "mkdir -p .husky && plant .husky/pre-commit",
    "echo planted > .claude/settings.local.json",
    "mv .claude c && mkdir .claude && echo planted > .claude/settings.local.json",
    "mkdir -p .bottle/agents && echo planted > .bottle/agents/evil.md",
    "mount --bind /etc .vscode",
];

/// What the host's user does afterwards.
const HOST: &str = "
git status >/dev/null; git diff >/dev/null; git commit -q --allow-empty -m host; git checkout -q -B other
git -C vendor/lib status >/dev/null; git -C vendor/lib commit -q --allow-empty -m host
git stash -q 2>/dev/null; git fetch -q . 2>/dev/null; true
for planted in .envrc .husky/pre-commit; do [ ! -s $planted ] || sh $planted; done
grep -rl planted .vscode .claude .bottle 2>/dev/null && touch ../ran; true";

fn as_user(user: &User, at: &Path, script: &str) -> Ran {
    let mut command = Command::new("setpriv");
    command
        .args([format!("--reuid={}", user.uid), format!("--regid={}", user.gid)])
        .args(["--clear-groups", "--", "sh", "-c", script])
        .env("HOME", "/nonexistent")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .current_dir(at);
    ran(&mut command, b"")
}

/// A host of somebody's who is not root, with the repository in `work/code`.
fn host() -> (Host, User) {
    let user = User::somebody();
    let host = Host::with_manifest(MANIFEST).owned_by(user.clone());
    as_user(&user, &host.at("work"), "mkdir code").code(0);
    as_user(&user, &host.at("work/code"), REPOSITORY).code(0);
    (host, user)
}

fn inside(session: &str, at: &str, script: &str) -> Ran {
    docker(&["exec", "-w", at, &format!("bottle-{session}"), "sh", "-c", script])
}

/// Every attempt, each from where the one before left off.
fn attack(mut run: impl FnMut(&str) -> Ran, host: &Host) -> Vec<String> {
    let mark = host.at("work/ran").display().to_string();
    let plant = format!("plant() {{ printf '#!/bin/sh\\ntouch {mark}\\n' > $1 && chmod 755 $1; }}");
    ATTACKS
        .iter()
        .map(|attempt| {
            let done = run(&format!("{plant}; plant trap.sh; TRAP=$PWD/trap.sh; {attempt}"));
            format!("{attempt}: {:?} {}", done.status, done.err)
        })
        .collect()
}

#[test]
fn nothing_that_an_agent_plants_runs_on_the_host() {
    let (host, user) = host();
    let session = unique("planted");
    let code = host.at("work/code").display().to_string();
    let before =
        as_user(&user, &host.at("work/code"), "ls -A; ls -A .git; cat .git/config").code(0);
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &code]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let log = attack(|script| inside(&session, &code, script), &host);
    let told = host.run(&["pull", &session, "--json"]);
    for planted in ["pre-commit", "trap.sh"] {
        assert!(told.err.contains(planted), "{planted} is not told of: {}", told.err);
    }
    // Also after a resume, which begins the plan's time anew, and where the session ends.
    host.run(&["stop", &session]).code(0);
    let resume = ["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"];
    host.run(&resume).code(0);
    let told = host.run(&["pull", &session, "--json"]);
    assert!(told.err.contains("trap.sh"), "{}", told.err);
    as_user(&user, &host.at("work/code"), HOST);
    assert!(!host.has("work/ran"), "the host ran it:\n{}", log.join("\n"));
    // What is meant to be possible is.
    inside(
        &session,
        &code,
        "rm -rf .git/* && echo two > a.txt && mkdir -p sub/x && echo new > sub/x/y",
    )
    .code(0);
    assert_eq!(host.read("work/code/a.txt"), "two\n");
    assert_eq!(host.read("work/code/sub/x/y"), "new\n");
    // What it leaves as it is ended counts, too.
    inside(&session, &code, "rm -f late.sh").code(0);
    let top = ["top", &format!("bottle-{session}")];
    until("the agent runs", || docker(&top).out.contains("sleep 1"));
    let ended = host.run(&["destroy", &session, "--yes"]).code(0);
    ended.says("trap.sh: it is executable").says("late.sh: it is executable");
    let after = as_user(&user, &host.at("work/code"), "ls -A").code(0);
    let names = |ran: &Ran| -> BTreeSet<String> { ran.out.lines().map(str::to_owned).collect() };
    for gone in [".envrc", ".husky", ".bottle"] {
        assert!(!names(&after).contains(gone), "{gone} stays behind: {}", after.out);
    }
    assert!(names(&before).is_superset(&[".git".into(), ".vscode".into()].into()));
    assert!(host.leavings().is_empty(), "{:?}", host.leavings());

    // The twin: the same in a plain container that mounts the folder runs it all.
    let (host, user) = self::host();
    let code = host.at("work/code").display().to_string();
    let bind = format!("{code}:{code}");
    let runs = format!("{}:{}", user.uid, user.gid);
    attack(
        |script| {
            let plain = ["run", "--rm", "--network", "none", "-v", &bind, "-u", &runs];
            let what = ["-w", &code, "debian:bookworm-slim", "sh", "-c", script];
            docker(&[&plain[..], &what[..]].concat())
        },
        &host,
    );
    as_user(&user, &host.at("work/code"), HOST);
    assert!(host.has("work/ran"), "the traps would never have gone off");
}

#[test]
fn what_is_hidden_is_not_seen_and_git_is_the_agents_own() {
    let (host, user) = host();
    let session = unique("mounted");
    let code = host.at("work/code").display().to_string();
    as_user(
        &user,
        &host.at("work/code"),
        "git remote add origin https://ada:t0ken@example.com/acme/web.git && git tag v1",
    )
    .code(0);
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &code]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    inside(&session, &code, "cat .env conf/.env.local; rm -f .env; echo x > conf/.env.local");
    let seen = inside(&session, &code, "cat .env conf/.env.local").code(0);
    assert_eq!(seen.out, "", "hidden files are empty");
    assert_eq!(host.read("work/code/.env"), "KEY=planted\n", "and stay what they are");
    let branch = format!("agent/{session}");
    let status = "git status --porcelain=v1 --branch && git tag && git remote get-url origin";
    let said = inside(&session, &code, status).code(0);
    assert_eq!(said.out, format!("## {branch}\nv1\nhttps://example.com/acme/web.git\n"));
    let commit = "echo two > a.txt && git -c user.name=a -c user.email=a@b commit -qam two";
    inside(&session, &code, commit).code(0);
    let log = as_user(&user, &host.at("work/code"), "git log --format=%s; git branch").code(0);
    assert_eq!(log.out, "one\n* main\n", "the host's own repository is untouched");
    assert_eq!(host.read("work/code/a.txt"), "two\n", "and its files are the same");
    // A container made anew finds the agent's commits again.
    docker(&["rm", "-f", &format!("bottle-{session}")]).code(0);
    host.plans(&session, "again.json", &["--workspace", "mount", "--cwd", &code]);
    host.run(&["apply", "again.json", "--yes"]).code(0);
    let log = inside(&session, &code, "git log --format=%s").code(0);
    assert_eq!(log.out, "two\none\n");
    // They come back as a branch, and nothing else of the host's repository moves.
    host.run(&["pull", &session, "--yes"]).code(0).prints("two");
    let log =
        as_user(&user, &host.at("work/code"), &format!("git log --format=%s {branch}; git branch"));
    assert_eq!(log.out, format!("two\none\n  {branch}\n* main\n"));
    // Another session cannot have the folder, nor one that holds it.
    let wider = host.at("work").display().to_string();
    for folder in [&code, &wider] {
        let asked = ["--workspace", "mount", "--cwd", folder.as_str()];
        let words = [&["plan", "--manifest", "bottle.yaml"], &asked[..]].concat();
        host.run(&words).code(1).says("mounted already");
    }
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn what_appears_between_plan_and_apply_is_noticed() {
    let (host, _) = host();
    let session = unique("late");
    let code = host.at("work/code").display().to_string();
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &code]);
    host.write("work/code/sub/.env", "KEY=late\n");
    host.run(&["apply", "plan.json", "--yes"]).code(10).says("hidden and protected");
    host.run(&["apply", "plan.json", "--rollback", "--yes"]);
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &code]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    assert_eq!(inside(&session, &code, "cat sub/.env").code(0).out, "");
    // What the agent makes itself is its own, and replaces nothing that runs.
    inside(&session, &code, "echo mine > sub/x.env && echo mine > vendor/.env").code(0);
    let plan = host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &code]);
    assert_eq!(plan.summary.create + plan.summary.replace, 0, "{:?}", plan.summary);
    host.run(&["destroy", &session, "--yes"]).code(0);
}

#[test]
fn a_linked_worktree_brings_its_repository_along() {
    let (host, user) = host();
    let session = unique("linked");
    as_user(&user, &host.at("work/code"), "git worktree add -q ../side -b side").code(0);
    let side = host.at("work/side").display().to_string();
    host.plans(&session, "plan.json", &["--workspace", "mount", "--cwd", &side]);
    host.run(&["apply", "plan.json", "--yes"]).code(0);
    let said = inside(&session, &side, "git status --porcelain --branch").code(0);
    assert_eq!(said.out, format!("## agent/{session}\n"));
    let commit = "echo x > b && git add b && git -c user.name=a -c user.email=a@b commit -qm b";
    inside(&session, &side, commit).code(0);
    inside(&session, &side, "echo 'gitdir: /tmp/evil' > .git; mv .git away; rm .git");
    let log = as_user(&user, &host.at("work/side"), "git log --format=%s; git branch").code(0);
    assert_eq!(log.out, "one\n+ main\n* side\n");
    host.run(&["destroy", &session, "--yes"]).code(0);
}
