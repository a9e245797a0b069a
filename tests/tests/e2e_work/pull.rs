//! Copies: what is shown is what comes back, and nothing else.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use bottle_tests::host::{Host, docker, ran, unique};
use bottle_tests::terminal::OnTerminal;
use serde_json::Value;

use crate::{host, start};

/// What an agent does to its copy: every kind of change, and every kind of mischief.
const WORKS: &str = "
mkdir -p ~/log && echo 'I did it' > ~/log/one.jsonl
printf 'one\\nTWO\\nthree\\n' > text
rm gone
mkdir -p new/deep && echo new > new/deep/file
printf '\\0\\1' > binary
echo '#!/bin/sh' > tool && chmod 4755 tool
mkdir -p .vscode .git/hooks && echo '{}' > .vscode/tasks.json
echo 'touch /tmp/owned' > .git/hooks/post-checkout && chmod +x .git/hooks/post-checkout
ln -s /etc/passwd out
ln -s text in
mkfifo pipe
echo theirs > .env
mkdir -p target && echo o > target/o && echo l > more.log
ln text second
echo escape > \"$(printf 'esc\\033[2J\\nline')\"
echo bytes > \"$(printf 'by\\377te')\"
printf 'red\\033[31m \\342\\200\\256 bidi\\n' > marks
truncate -s 300M sparse
";

fn project(host: &Host) {
    for (path, text) in [
        ("text", "one\ntwo\nthree\n"),
        ("gone", "gone\n"),
        ("kept", "kept\n"),
        (".gitignore", "*.log\ntarget/\n"),
        (".env", "mine\n"),
    ] {
        host.write(&format!("work/project/{path}"), text);
    }
}

fn rows(json: &str) -> Value {
    serde_json::from_str(json).expect("JSON")
}

fn names(host: &Host) -> Vec<String> {
    let list = fs::read_dir(host.at("work/project")).expect("readable").flatten();
    let mut names: Vec<String> =
        list.map(|e| e.file_name().to_string_lossy().escape_debug().to_string()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_comes_back_as_it_was_shown() {
    let host = host(WORKS, "");
    project(&host);
    let session = unique("copy");
    host.run(&start(&session, "copy", &[]))
        .code(0)
        .says("changed files not pulled")
        .says(&format!("`bottle resume {session}` carries on"));
    // Nobody can be asked: it is shown, and nothing is touched.
    let before = names(&host);
    let shown = host.run(&["pull", &session]).code(11).says("nobody approved");
    assert_eq!(names(&host), before);
    assert!(shown.out.contains("-two\n+TWO\n"), "{}", shown.out);
    assert!(shown.out.contains("binary: 0 bytes before, 2 bytes after"), "{}", shown.out);
    assert!(shown.out.contains("+red\\u{1b}[31m \\u{202e} bidi"), "{}", shown.out);
    for text in [&shown.out, &shown.err] {
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "a terminal would act on {text}");
    }
    let shown = shown
        .prints(".vscode/tasks.json: VS Code runs tasks that it names")
        .prints("out: a link out of the folder, to /etc/passwd")
        .prints("tool: it is executable")
        .says("hide")
        .says(".gitignore, left behind: more.log, target")
        .says("left behind: pipe")
        .says("larger than what is brought back, left behind: sparse")
        .says("setuid, setgid or sticky, which is dropped: tool");
    assert!(!shown.out.contains("theirs") && !shown.out.contains("owned"), "{}", shown.out);

    host.run(&["pull", &session, "--yes"]).code(0).says("3 files that this host would execute");
    assert_eq!(host.read("work/project/text"), "one\nTWO\nthree\n");
    assert_eq!(host.read("work/project/second"), "one\nTWO\nthree\n");
    assert_eq!(host.read("work/project/new/deep/file"), "new\n");
    assert_eq!(host.read("work/project/.env"), "mine\n");
    assert_eq!(fs::read(host.at("work/project/binary")).expect("there"), [0, 1]);
    let link = fs::read_link(host.at("work/project/in")).expect("a link");
    assert_eq!(link, Path::new("text"));
    for absent in ["gone", "tool", "out", ".vscode", ".git", "pipe", "target", "more.log", "sparse"]
    {
        assert!(!host.has(&format!("work/project/{absent}")), "{absent}");
    }
    assert!(names(&host).iter().any(|n| n.contains("esc\\u{1b}[2J\\nline")), "{:?}", names(&host));
    assert!(names(&host).iter().any(|n| n.starts_with("by")), "{:?}", names(&host));

    let left = rows(&host.run(&["pull", &session, "--json"]).code(0).out);
    let left: Vec<&str> = left["files"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|f| f["path"].as_str())
        .collect();
    assert_eq!(left, [".vscode/tasks.json", "out", "tool"]);
    host.run(&["pull", &session, "--yes", "--with-executed"]).code(0);
    let tool = fs::metadata(host.at("work/project/tool")).expect("there");
    assert_eq!(tool.mode() & 0o7777, 0o755, "setuid bits stay behind");
    host.run(&["pull", &session]).code(0).says("nothing that is not here already");
    assert!(!host.has("work/project/.git"));

    // At the end all is saved, pulled or not.
    host.run(&["destroy", &session, "--yes"]).code(0);
    let record = format!("root/history/{session}");
    assert_eq!(host.read(&format!("{record}/saved/transcript/one.jsonl")), "I did it\n");
    let saved = rows(&host.read(&format!("{record}/saved/summary.json")));
    assert_eq!(saved["unpulled"], 0, "{saved}");
    assert!(host.has(&format!("{record}/receipt.json")));
    assert!(host.has(&format!("{record}/egress/out/decisions.jsonl")));
    // The patch makes of a fresh copy of the folder what the agent made of it.
    let fresh = Host::new();
    project(&fresh);
    let patch = fs::read(host.at(&format!("{record}/saved/work.patch"))).expect("there");
    let mut git = Command::new("git");
    git.args(["apply", "--whitespace=nowarn", "-"]).current_dir(fresh.at("work/project"));
    ran(git.env("GIT_CEILING_DIRECTORIES", "/"), &patch).code(0);
    assert_eq!(fresh.read("work/project/text"), "one\nTWO\nthree\n");
    assert_eq!(fs::read(fresh.at("work/project/binary")).expect("there"), [0, 1]);
    assert!(!fresh.has("work/project/gone") && fresh.has("work/project/new/deep/file"));
}

#[test]
fn nothing_is_left_where_all_was_pulled_or_nothing_done() {
    let host = host("true", "");
    project(&host);
    let session = unique("idle");
    host.run(&start(&session, "copy", &[])).code(0).says("has ended; its record is");
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn a_person_is_asked_twice() {
    let host = host("echo 1 > plain; echo 2 > .mise.toml; exit 3", "");
    project(&host);
    let session = unique("asked");
    host.run(&start(&session, "copy", &[])).code(3);
    let words = ["pull", &session].map(String::from);
    let mut no = OnTerminal::run(&host, &words);
    no.shows("Write 1 file into");
    no.types("n\r");
    no.shows("Write 1 file that this host would execute, too? [y/N]");
    no.types("\r");
    let (code, shown) = no.ends();
    assert_eq!(code, Some(11), "{shown}");
    assert!(shown.contains("\u{1b}[32m+1\u{1b}[0m"), "in colour: {shown}");
    let mut yes = OnTerminal::run(&host, &words);
    yes.shows("Write 1 file into");
    assert!(!host.has("work/project/plain"));
    yes.types("y\r");
    yes.shows("this host would execute, too? [y/N]");
    yes.types("n\r");
    let (code, shown) = yes.ends();
    assert_eq!(code, Some(0), "{shown}");
    assert!(host.has("work/project/plain") && !host.has("work/project/.mise.toml"));
}

#[test]
fn at_the_end_a_person_pulls_keeps_or_discards() {
    let host = host("echo 1 > plain", "");
    project(&host);
    let words = |session: &str| -> Vec<String> {
        start(session, "copy", &[]).into_iter().map(String::from).collect()
    };
    let ask = "[p/K/d]";
    let kept = unique("kept");
    let mut terminal = OnTerminal::run(&host, &words(&kept));
    terminal.shows(ask);
    terminal.types("\r");
    let (code, shown) = terminal.ends();
    assert_eq!(code, Some(0));
    assert!(shown.contains("is kept") && host.has(&format!("root/state/{kept}")), "{shown}");
    let given_up = unique("gone");
    let mut terminal = OnTerminal::run(&host, &words(&given_up));
    terminal.shows(ask);
    terminal.types("d\r");
    let (_, shown) = terminal.ends();
    assert!(shown.contains("has ended"), "{shown}");
    assert!(!host.has("work/project/plain"));
    let patch = host.read(&format!("root/history/{given_up}/saved/work.patch"));
    assert!(patch.contains("+++ b/plain\n"), "{patch}");
    let pulled = unique("pulled");
    let mut terminal = OnTerminal::run(&host, &words(&pulled));
    terminal.shows(ask);
    terminal.types("p\r");
    terminal.shows("Write 1 file into");
    terminal.types("y\r");
    let (_, shown) = terminal.ends();
    assert!(shown.contains("has ended"), "{shown}");
    assert_eq!(host.read("work/project/plain"), "1\n");
}

#[test]
fn a_folder_that_moved_on_is_not_written_and_the_patch_is_the_way_out() {
    let script = "echo theirs > text; echo more > added; ln -s / out; rm gone; sleep 86400";
    let host = host(script, "");
    project(&host);
    let session = unique("moved");
    host.run(&start(&session, "copy", &["--detach"])).code(0);
    let agent = format!("bottle-{session}");
    bottle_tests::host::until("the agent has worked", || {
        docker(&["exec", &agent, "test", "!", "-e", "/workspace/gone"]).ok()
    });
    host.write("work/project/text", "mine\n");
    let before = names(&host);
    host.run(&["pull", &session, "--yes"])
        .code(10)
        .says("project/text, found file sha256:")
        .says("--patch FILE");
    assert_eq!(names(&host), before, "all or nothing");
    assert_eq!(host.read("work/project/text"), "mine\n");
    // What the file began with is in the image, since it is not in the folder any more.
    let shown = host.run(&["pull", &session, "--patch", "-"]).code(0);
    let patch = shown.says("  out: a link out of the folder, to /\n").out;
    assert!(patch.contains("-one\n-two\n-three\n+theirs\n"), "{patch}");
    // To look is not to have: it is still there, until somebody says so.
    host.run(&["pull", &session, "--yes"]).code(10).says("--patch FILE");
    host.run(&["pull", &session, "--discard", "--yes"]).code(0);
    host.run(&["pull", &session]).code(0).says("nothing that is not here already");
    // It goes on working: only what is new comes up.
    docker(&["exec", &agent, "sh", "-c", "echo again > /workspace/added"]).code(0);
    let new = rows(&host.run(&["pull", &session, "--json"]).code(0).out);
    assert_eq!(new["files"].as_array().map(Vec::len), Some(1), "{new}");
    host.run(&["pull", &session, "--discard", "--yes"]).code(0);
    host.run(&["pull", &session]).code(0).says("nothing that is not here already");
}

#[test]
fn what_was_shown_is_what_is_written_while_the_agent_goes_on() {
    let host = host("while :; do echo $RANDOM > text; done", "");
    project(&host);
    let session = unique("busy");
    host.run(&start(&session, "copy", &["--detach"])).code(0);
    let agent = format!("bottle-{session}");
    bottle_tests::host::until("the agent has worked", || {
        docker(&["exec", &agent, "grep", "-q", "[0-9]", "/workspace/text"]).ok()
    });
    for _ in 0..3 {
        let pulled = host.run(&["pull", &session, "--yes"]);
        let shown =
            pulled.out.lines().rfind(|line| line.starts_with('+') && !line.starts_with("+++"));
        let text = host.read("work/project/text");
        assert_eq!(shown.map(|line| &line[1..]), text.strip_suffix('\n'), "{}", pulled.err);
    }
}

#[test]
fn a_folder_that_becomes_a_link_while_somebody_reads_is_not_followed() {
    let host = host("mkdir sub2; echo new > sub2/file; echo new > sub/file", "");
    project(&host);
    host.write("work/project/sub/file", "old\n");
    host.write("work/elsewhere/file", "old\n");
    let session = unique("swapped");
    host.run(&start(&session, "copy", &[])).code(0);
    let mut terminal = OnTerminal::run(&host, &["pull", &session].map(String::from));
    terminal.shows("Write 2 files into");
    fs::remove_dir_all(host.at("work/project/sub")).expect("removed");
    for name in ["sub", "sub2"] {
        symlink("../elsewhere", host.at(&format!("work/project/{name}"))).expect("linked");
    }
    terminal.types("y\r");
    let (code, shown) = terminal.ends();
    assert_eq!(code, Some(10), "{shown}");
    assert_eq!(host.read("work/elsewhere/file"), "old\n");
}

#[test]
fn work_that_cannot_be_saved_keeps_the_session() {
    let host = host("echo 1 > plain; exit 3", "");
    project(&host);
    let session = unique("unsaved");
    host.run(&start(&session, "copy", &[])).code(3);
    docker(&["rm", &format!("bottle-{session}")]).code(0);
    let before = host.leavings();
    host.run(&["destroy", &session, "--yes"]).code(1).says("its work cannot be saved");
    assert_eq!(host.leavings(), before);
    host.run(&["pull", &session]).code(1).says("`bottle resume");
    host.run(&["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"]).code(0);
    host.run(&["pull", &session, "--yes"]).code(0);
    assert_eq!(host.read("work/project/plain"), "1\n");
    // What is in the way in the state folder stops it before anything goes, too.
    host.write(&format!("root/state/{session}/saved/work.patch/x"), "in the way");
    host.run(&["destroy", &session, "--yes"]).code(12).says("so nothing was removed");
    let volume = format!("bottle-work-{session}");
    assert!(host.leavings().contains(&volume), "{:?}", host.leavings());
    host.run(&["destroy", &session, "--yes", "--unsaved"]).code(0);
    assert_eq!(host.leavings(), Vec::<String>::new());
}

#[test]
fn a_killed_pull_is_done_again() {
    let host = host("for n in $(seq 300); do echo $n > f$n; done; echo changed > text", "");
    project(&host);
    let session = unique("killed");
    host.run(&start(&session, "copy", &[])).code(0);
    let mut command = host.command(&["pull", &session, "--yes"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut pull = command.spawn().expect("it starts");
    bottle_tests::host::until("it writes", || host.has("work/project/f1"));
    pull.kill().expect("ours");
    pull.wait().expect("it ended");
    host.run(&["pull", &session, "--yes"]).code(0);
    assert_eq!(host.read("work/project/f300"), "300\n");
    assert_eq!(host.read("work/project/text"), "changed\n");
    let left = names(&host).into_iter().filter(|n| n.starts_with(".bottle-")).count();
    assert_eq!(left, 0, "{:?}", names(&host));
}
