//! `bottle supervise` on a terminal: an agent asks, a person presses keys; in tmux, on the real
//! engine.
//!
//! An engine is expected to answer, tmux to be there (`scripts/host-setup --tests`), and
//! `cargo build -p bottle` to have been run.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use bottle_tests::host::until;
use bottle_tests::supervised::{Supervised, bash};
use bottle_tests::tmux::Terminal;
use serde_json::{Value, json};

const SMALL: (u16, u16) = (80, 24);
const LARGE: (u16, u16) = (120, 40);
const NOTHING: &str = "Nothing waits for an answer.";
const KEYS: &str = "a approve  A and for later  m modify  r reject  d details";

/// A session, and a host whose notifications and editor are this test's.
fn world() -> Supervised {
    let mut world = Supervised::new();
    let program = "#!/bin/sh\nprintf '%s\\n' \"$@\" >>\"$HOME/notified\"\n";
    world.host.write("home/bin/notify-send", program);
    let path = world.host.at("home/bin/notify-send");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
    let folder = path.parent().expect("a folder").display().to_string();
    let host = std::mem::take(&mut world.host);
    world.host = host
        .set("PATH", &format!("{folder}:/usr/local/bin:/usr/bin:/bin"))
        .set("EDITOR", "sed -i s:/items/[*]:/items/17:");
    world
}

/// The picture has just the terminal's size, down to the keys on its last line.
#[track_caller]
fn fits(terminal: &Terminal, (columns, lines): (u16, u16)) {
    let mut shown = String::new();
    until("it is drawn anew", || {
        shown = terminal.tmux(&["capture-pane", "-p"]).out;
        let last = shown.lines().last().is_some_and(|line| line.starts_with(KEYS));
        last && shown.lines().count() == usize::from(lines)
    });
    let framed = |line: &&str| line.ends_with(['┐', '┘']);
    let framed: Vec<&str> = shown.lines().filter(framed).collect();
    assert_eq!(framed.len(), 4, "{shown}");
    let wide = |line: &&str| line.chars().count() == usize::from(columns);
    assert!(framed.iter().all(wide), "{shown}");
}

#[test]
fn requests_are_answered_by_keys() {
    let world = world();
    assert_eq!(world.status("POST", "/items/17"), "403");
    let terminal = Terminal::sized(&world.host, &["supervise"], SMALL);
    let raw = world.host.at("work/raw");
    terminal.tmux(&["pipe-pane", &format!("cat >'{}'", raw.display())]).code(0);
    let bells = || fs::read(&raw).unwrap_or_default().iter().filter(|byte| **byte == 7).count();
    terminal.shows(NOTHING);
    // What runs stands beside it, with what it may reach and what it was refused.
    terminal.shows(&format!("→ hello.test:{} GET on /open", world.port));
    terminal.shows(&format!("✗ POST hello.test:{}/items/*", world.port));

    // Asked, it is called out once, and shown as what it would change.
    let call = world.asks_egress("POST", "/items/17");
    terminal.shows(&format!("+ newly allows: POST on /items/* at hello.test:{}", world.port));
    terminal.shows("because  the task needs it");
    terminal.picture("supervise");
    until("the bell rang", || bells() == 1);
    until("somebody was called", || world.host.has("home/notified"));
    let notified = world.host.read("home/notified");
    assert!(
        notified.starts_with(&format!("--app-name=bottle\n--\n{}", world.session)),
        "{notified}"
    );
    fits(&terminal, SMALL);
    terminal.resize(LARGE);
    fits(&terminal, LARGE);
    terminal.resize(SMALL);

    // Approved is the digest that is asked about.
    let (_, digest) = world.shown();
    terminal.presses(&["a"]);
    terminal.shows("Approve this? [y/N]");
    terminal.shows(&digest);
    terminal.presses(&["y"]);
    assert_eq!(call.answer()["answer"], "approved");
    terminal.shows("is approved");
    terminal.shows(NOTHING);
    until("it is in force", || world.status("POST", "/items/18") == "200");

    // Rejected, with notes that have letters which are keys.
    let call = world.asks_egress("GET", "/secret");
    terminal.shows("GET on /secret");
    terminal.presses(&["r"]);
    terminal.shows("what is the agent told?");
    terminal.types("quit asking: use /open");
    let answer = call.answer();
    assert_eq!(
        (&answer["answer"], &answer["notes"]),
        (&json!("rejected"), &json!("quit asking: use /open"))
    );
    terminal.shows(NOTHING);
    assert_eq!(bells(), 2);
    assert_eq!(world.audit(), ["answered", "done", "answered", "done"]);
}

#[test]
fn what_moved_is_shown_again_and_what_was_changed_is_asked_about() {
    let world = world();
    let first = world.asks_egress("POST", "/items/17");
    let _ = world.pending(1);
    let _second = world.asks_egress("PUT", "/notes");
    // Both may have been asked in one second: which is the first is not said.
    let waiting = world.pending(2);
    let is_other = |asked: &&Value| asked["words"].as_str().is_some_and(|w| w.starts_with("PUT"));
    let other = waiting.iter().find(is_other).expect("the second")["id"].as_str().expect("an id");
    let terminal = Terminal::sized(&world.host, &["supervise"], LARGE);
    terminal.shows("PUT on /notes");
    if waiting[0]["id"] == other {
        terminal.presses(&["j"]);
    }
    terminal.shows("+ newly allows: POST on /items/*");
    terminal.presses(&["a"]);
    terminal.shows("Approve this? [y/N]");
    // Somebody else decides meanwhile: the plan that was shown is none any more.
    let digest = world.digest(other);
    world.host.run(&["supervise", "approve", other, "--expect", &digest]).code(0);
    terminal.shows("something moved, this is what it would change now");
    assert_eq!(world.audit(), ["answered", "done"]);
    let _ = world.pending(1);

    terminal.presses(&["m"]);
    terminal.shows("Approve this? [y/N]");
    terminal.shows("POST on /items/17 at");
    terminal.presses(&["y"]);
    let answer = first.answer();
    assert_eq!(answer["answer"], "modified");
    assert!(answer["granted"].to_string().contains("POST on /items/17"), "{answer}");
    terminal.shows(NOTHING);
    terminal.presses(&["q"]);
    terminal.shows("ended: 0");
}

#[test]
fn an_image_is_approved_by_keys_and_the_agent_comes_back_in_it() {
    let world = world();
    let dockerfile = "FROM debian:bookworm-slim\nRUN echo tool > /usr/local/share/tool\n";
    let arguments = json!({"dockerfile": dockerfile, "justification": "the tool is missing"});
    let call = world.calls("request-image", arguments);
    let (_, digest) = world.shown();
    let terminal = Terminal::sized(&world.host, &["supervise"], LARGE);
    terminal.shows("because  the tool is missing");
    terminal.shows("+RUN echo tool > /usr/local/share/tool");
    terminal.presses(&["a"]);
    terminal.shows("Approve this? [y/N]");
    terminal.shows(&digest);
    terminal.presses(&["y"]);
    assert_eq!(call.answer()["answer"], "approved");
    terminal.shows("brings the agent back in the new image");
    terminal.shows(NOTHING);
    terminal.presses(&["q"]);
    terminal.shows("ended: 0");
    world.host.run(&["resume", &world.session, "--detach", "--yes"]).code(0);
    let tool = || bash(&world.container(), "cat /usr/local/share/tool");
    until("the new image is there", || tool() == "tool\n");
    assert_eq!(world.audit(), ["answered", "done"]);
}

#[test]
fn however_it_ends_nothing_is_lost_and_the_terminal_is_put_back() {
    let world = world();
    let call = world.asks_egress("POST", "/items/17");
    let (id, _) = world.shown();
    // Without a terminal it is the list.
    world.host.run(&["supervise"]).code(0).prints(&id).prints("POST on /items/*");

    // Killed in the middle of a question: nothing was answered.
    let terminal = Terminal::sized(&world.host, &["supervise"], SMALL);
    terminal.shows("+ newly allows: POST on /items/*");
    terminal.presses(&["a"]);
    terminal.shows("Approve this? [y/N]");
    terminal.signals("KILL");
    terminal.shows("ended: 137");
    assert_eq!(world.pending(1)[0]["id"], json!(id));
    assert!(world.audit().is_empty());
    drop(terminal);

    // Told to end, it leaves the terminal as it found it.
    let terminal = Terminal::sized(&world.host, &["supervise"], SMALL);
    terminal.shows("+ newly allows: POST on /items/*");
    assert!(terminal.settings().contains("-icanon"), "{}", terminal.settings());
    assert_eq!(terminal.format("#{alternate_on} #{cursor_flag}"), "1 0");
    terminal.signals("TERM");
    terminal.shows("ended: 143");
    let settings = terminal.settings();
    for sane in ["icanon", "echo", "isig", "opost", "icrnl"] {
        assert!(settings.split_whitespace().any(|word| word == sane), "{sane}: {settings}");
    }
    assert_eq!(terminal.format("#{alternate_on} #{cursor_flag}"), "0 1");
    drop(terminal);

    // With its terminal gone it ends.
    let terminal = Terminal::sized(&world.host, &["supervise"], SMALL);
    terminal.shows("+ newly allows: POST on /items/*");
    let process = format!("/proc/{}", terminal.process());
    drop(terminal);
    until("it ends", || !std::path::Path::new(&process).exists());

    // And it is answered by whoever comes next.
    let terminal = Terminal::sized(&world.host, &["supervise"], SMALL);
    terminal.shows("+ newly allows: POST on /items/*");
    terminal.presses(&["r", "Enter"]);
    assert_eq!(call.answer()["answer"], "rejected");
    assert_eq!(world.audit(), ["answered", "done"]);
}
