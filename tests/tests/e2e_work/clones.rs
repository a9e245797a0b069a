//! Clones: commits come back as a branch, and nothing of the agent's repository runs on the host.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use bottle_tests::host::{Host, docker, ran, unique};

use crate::{host, start};

/// An agent that has no git in its image works through this test's hands.
const WAITS: &str = "echo ready; exec sleep 86400";

fn git(at: &Path, words: &[&str]) -> String {
    let mut git = Command::new("git");
    git.args([
        "-c",
        "user.name=Somebody",
        "-c",
        "user.email=s@example.com",
        "-c",
        "safe.directory=*",
    ]);
    git.args(words).current_dir(at).env("GIT_CONFIG_GLOBAL", "/dev/null");
    ran(&mut git, b"").code(0).out.trim().to_owned()
}

struct Cloned {
    host: Host,
    session: String,
    /// What the agent's volume is on this host: root may work there as the agent does.
    volume: std::path::PathBuf,
}

impl Cloned {
    fn new() -> Self {
        let host = host(WAITS, "");
        let project = host.at("work/project");
        host.write("work/project/file", "one\n").write("work/project/other", "other\n");
        host.write("work/project/.env.example", "hidden\n");
        git(&project, &["init", "-q", "-b", "main"]);
        git(&project, &["add", "."]);
        git(&project, &["commit", "-qm", "first"]);
        let session = unique("clone");
        host.run(&start(&session, "clone", &["--detach"])).code(0);
        let name = format!("bottle-work-{session}");
        let at = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &name]).code(0).out;
        Self { host, session, volume: at.trim().into() }
    }

    fn project(&self) -> std::path::PathBuf {
        self.host.at("work/project")
    }

    fn branch(&self) -> String {
        format!("agent/{}", self.session)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.volume.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    fn commit(&self, path: &str, text: &str) -> String {
        self.write(path, text);
        git(&self.volume, &["add", "--", path]);
        git(&self.volume, &["commit", "-qm", &format!("change {path}")]);
        git(&self.volume, &["rev-parse", "HEAD"])
    }
}

#[test]
fn commits_come_back_as_a_branch() {
    let cloned = Cloned::new();
    let (host, session) = (&cloned.host, cloned.session.as_str());
    host.run(&["pull", session]).code(0).says("nothing that is not here already");
    cloned.commit("file", "two\n");
    let head = cloned.commit(".husky/pre-push", "#!/bin/sh\n");
    cloned.write("other", "not committed\n");
    cloned.write(".gitignore", "out/\n");
    cloned.write("out/big", "ignored\n");
    git(&cloned.volume, &["branch", "side", "HEAD"]);
    git(&cloned.volume, &["checkout", "-q", "side"]);
    cloned.commit("side", "side\n");
    git(&cloned.volume, &["checkout", "-q", &cloned.branch()]);
    let status = git(&cloned.project(), &["status", "--porcelain", "--branch"]);
    let shown = host.run(&["pull", session]).code(11);
    let shown = shown
        .prints("2 commits")
        .prints("change file")
        .prints("-one\n+two\n")
        .prints(".husky/pre-push: git runs hooks in it")
        .prints("Not committed:")
        .says("branch side has 1 commit more, which stay behind");
    assert!(shown.out.contains("-other\n+not committed\n"), "{}", shown.out);
    assert!(!shown.out.contains(".env.example"), "what is hidden is not deleted: {}", shown.out);

    host.run(&["pull", session, "--yes"]).code(0).says("--patch FILE");
    assert_eq!(git(&cloned.project(), &["rev-parse", &cloned.branch()]), head);
    assert_eq!(git(&cloned.project(), &["status", "--porcelain", "--branch"]), status);
    assert_eq!(host.read("work/project/file"), "one\n", "the work tree is as it was");
    assert_eq!(git(&cloned.project(), &["fsck", "--strict"]), "");
    host.run(&["pull", session, "--patch", "rest.patch"]).code(0);
    let patch = host.read("work/rest.patch");
    assert!(patch.contains("+not committed\n") && !patch.contains("ignored"), "{patch}");
    let more = cloned.commit("file", "three\n");
    host.run(&["pull", session, "--yes"]).code(0);
    assert_eq!(git(&cloned.project(), &["rev-parse", &cloned.branch()]), more);
    // History that was written anew: the branch is the agent's, and moves with it.
    git(&cloned.volume, &["commit", "-q", "--amend", "-m", "better"]);
    host.run(&["pull", session, "--yes"]).code(0);
    let better = git(&cloned.volume, &["rev-parse", "HEAD"]);
    assert_eq!(git(&cloned.project(), &["rev-parse", &cloned.branch()]), better);
    // Unless somebody took it up.
    git(&cloned.project(), &["branch", "-f", &cloned.branch(), "main"]);
    git(&cloned.project(), &["commit", "--allow-empty", "-qm", "mine"]);
    git(&cloned.project(), &["branch", "-f", &cloned.branch(), "main"]);
    cloned.commit("file", "four\n");
    host.run(&["pull", session, "--yes"]).code(10).says("expected");
    git(&cloned.project(), &["branch", "-f", &cloned.branch(), &better]);
    git(&cloned.project(), &["checkout", "-q", &cloned.branch()]);
    host.run(&["pull", session, "--yes"]).code(10).says("is checked out in");
    assert_eq!(host.read("work/project/file"), "three\n");

    // The end keeps what no pull brought: all branches, and what is not committed.
    git(&cloned.volume, &["add", "-A"]);
    git(&cloned.volume, &["commit", "-qm", "all of it"]);
    host.run(&["pull", session]).says("change or delete .env.example, which `hide` keeps out");
    let tip = git(&cloned.volume, &["rev-parse", "HEAD"]);
    host.run(&["destroy", session, "--yes"]).code(0);
    let bundle = host.at(&format!("root/history/{session}/saved/work.bundle"));
    let heads = git(&cloned.project(), &["bundle", "list-heads", bundle.to_str().expect("text")]);
    assert!(heads.contains(&tip) && heads.lines().count() >= 2, "{heads}");
    git(&cloned.project(), &["bundle", "verify", "-q", bundle.to_str().expect("text")]);
}

#[test]
fn what_the_host_would_execute_is_called_out_among_commits_too() {
    let cloned = Cloned::new();
    let (host, session) = (&cloned.host, cloned.session.as_str());
    std::os::unix::fs::symlink("media", cloned.volume.join(".vscode")).expect("linked");
    std::os::unix::fs::symlink("/etc", cloned.volume.join("out")).expect("linked");
    cloned.write("tool", "#!/bin/sh\n");
    fs::set_permissions(cloned.volume.join("tool"), fs::Permissions::from_mode(0o755))
        .expect("set");
    git(&cloned.volume, &["add", ".vscode", "out", "tool"]);
    cloned.commit("guarded/file", "x\n");
    cloned.commit("media/tasks.json", "{}\n");
    let told = [
        "  .vscode: VS Code runs tasks that it names, to media\n",
        "  guarded/file: the manifest protects it\n",
        "  out: a link out of the folder, to /etc\n",
        "  tool: it is executable\n",
    ];
    let shown = host.run(&["pull", session]).code(11);
    for line in told {
        assert!(shown.out.contains(line), "{}", shown.out);
    }
    let json = host.run(&["pull", session, "--json"]).code(0).out;
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["commits"]["executed"][3][0], "tool", "{json}");
}

#[test]
fn nothing_of_the_agents_repository_runs_or_leads_elsewhere() {
    let cloned = Cloned::new();
    let (host, session) = (&cloned.host, cloned.session.as_str());
    let mark = host.at("work/owned");
    let trap = format!("#!/bin/sh\ntouch {}\n", mark.display());
    let head = cloned.commit("file", "two\n");
    for hook in
        ["pre-auto-gc", "post-checkout", "reference-transaction", "fsmonitor", "post-update"]
    {
        cloned.write(&format!(".git/hooks/{hook}"), &trap);
        let path = cloned.volume.join(".git/hooks").join(hook);
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }
    let hook = cloned.volume.join(".git/hooks/fsmonitor").display().to_string();
    let config = fs::read_to_string(cloned.volume.join(".git/config")).expect("there");
    let evil = format!(
        "{config}\n[core]\n\tfsmonitor = {hook}\n\tsshCommand = {hook}\n\tpager = {hook}\n\
         [filter \"x\"]\n\tclean = {hook}\n\tsmudge = {hook}\n[diff \"x\"]\n\ttextconv = {hook}\n\tcommand = {hook}\n\
         [uploadpack]\n\tpackObjectsHook = {hook}\n[alias]\n\tlog = !{hook}\n[include]\n\tpath = /etc/passwd\n"
    );
    cloned.write(".git/config", &evil);
    cloned.write(".gitattributes", "* filter=x diff=x\n");
    cloned.write(".git/info/attributes", "* filter=x diff=x\n");
    // Objects that are said to lie on the host.
    let secret = host.at("work/secret");
    fs::create_dir(&secret).expect("made");
    git(&secret, &["init", "-q", "-b", "main"]);
    git(&secret, &["commit", "--allow-empty", "-qm", "secret of the host"]);
    cloned.write(
        ".git/objects/info/alternates",
        &format!("{}\n", secret.join(".git/objects").display()),
    );
    host.run(&["pull", session, "--yes"]).code(0);
    assert_eq!(git(&cloned.project(), &["rev-parse", &cloned.branch()]), head);
    assert!(!mark.exists(), "something of the agent's ran");
    let stolen = git(&secret, &["rev-parse", "HEAD"]);
    cloned.write(&format!(".git/refs/heads/{}", cloned.branch()), &format!("{stolen}\n"));
    let refused = host.run(&["pull", session, "--yes"]);
    assert_eq!(refused.status, Some(1), "{}", refused.err);
    assert!(!refused.out.contains("secret of the host"));
    assert!(!mark.exists());

    for (what, make) in [("a folder .git", "gitdir: ../../../../etc\n"), ("a commit in HEAD", "")] {
        let at = cloned.volume.join(".git");
        if make.is_empty() {
            fs::remove_file(&at).expect("removed");
            cloned.write(".git/HEAD", "ref: refs/heads/../../../../etc/passwd\n");
        } else {
            fs::remove_dir_all(&at).expect("removed");
            fs::write(&at, make).expect("written");
        }
        host.run(&["pull", session, "--yes"]).code(1).says(what);
    }
    // Work that cannot be read is not thrown away.
    host.run(&["destroy", session, "--yes"]).code(12).says("so nothing was removed");
    assert!(host.leavings().contains(&format!("bottle-work-{session}")));
    host.run(&["destroy", session, "--yes", "--unsaved"]).code(0);
}

#[test]
fn an_object_that_git_would_not_take_is_not_taken() {
    let cloned = Cloned::new();
    cloned.commit("file", "two\n");
    // A tree with an entry that would be written into `.git`.
    let blob = git(&cloned.volume, &["rev-parse", "HEAD:file"]);
    let entry = format!("100644 blob {blob}\tx\n");
    let mut make = Command::new("git");
    make.args(["-c", "safe.directory=*", "mktree"]).current_dir(&cloned.volume);
    let inner = ran(&mut make, entry.as_bytes()).code(0).out;
    let mut raw = b"40000 .git\0".to_vec();
    let oid = inner.trim();
    raw.extend((0..20).map(|n| u8::from_str_radix(&oid[2 * n..2 * n + 2], 16).expect("digits")));
    let mut make = Command::new("git");
    make.args([
        "-c",
        "safe.directory=*",
        "hash-object",
        "-t",
        "tree",
        "-w",
        "--literally",
        "--stdin",
    ]);
    let tree = ran(make.current_dir(&cloned.volume), &raw).code(0).out;
    let commit = git(&cloned.volume, &["commit-tree", "-p", "HEAD", "-m", "evil", tree.trim()]);
    git(&cloned.volume, &["update-ref", "HEAD", &commit]);
    let host = &cloned.host;
    let refused = host.run(&["pull", &cloned.session, "--yes"]);
    assert_eq!(refused.status, Some(1), "{} {}", refused.out, refused.err);
    let branch = Command::new("git")
        .args(["-C", cloned.project().to_str().expect("text"), "rev-parse", "--verify", "-q"])
        .arg(cloned.branch())
        .output()
        .expect("git");
    assert!(!branch.status.success());
}
