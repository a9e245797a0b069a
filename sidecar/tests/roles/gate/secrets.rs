//! Secrets in pushes: every rule, every place, and what is not stopped.

use std::io::Write as _;

use serde_json::json;

use super::examples::{EXAMPLES, fill};
use super::world::World;

fn token(seed: u64) -> String {
    fill("ghp_{36a}", seed)
}

/// Pushes and checks that it is stopped, that nothing came out of it, and that the token is told
/// neither to the agent nor to the log.
#[track_caller]
fn stopped(world: &World, token: &str, says: &str) {
    let before = world.refs();
    let refused = world.push("agent").refused("the push is refused");
    assert!(refused.err.contains(says), "{says:?} is not in:\n{}", refused.err);
    assert!(!refused.err.contains(token), "{}", refused.err);
    let log = world.inside.read("out/decisions.jsonl");
    assert!(!log.contains(token), "{log}");
    assert_eq!(world.refs(), before);
    world.git("agent", &["reset", "-q", "--hard", "origin/main"]).good();
}

#[test]
fn each_built_in_rule_stops_its_example() {
    let world = World::new(json!({})).seeded();
    let mut missed = Vec::new();
    for (id, example, _) in EXAMPLES {
        world.write("agent/config", format!("a line\n{}\n", fill(example, 7)));
        world.commit("agent", "config");
        let pushed = world.push("agent");
        if pushed.ok || !pushed.err.contains(&format!(": {id}")) {
            missed.push(format!("{id}: {}", pushed.err));
        }
        world.git("agent", &["reset", "-q", "--hard", "origin/main"]).good();
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
    assert_eq!(world.pushes(EXAMPLES.len()).len(), EXAMPLES.len());
}

#[test]
fn a_secret_is_stopped_wherever_in_a_push_it_is() {
    let world = World::new(json!({"tags": true})).seeded();
    let token = token(1);

    world.write("agent/deep/er/file.txt", format!("one\ntwo\nkey = {token}\n"));
    let commit = world.commit("agent", "file");
    let told = format!("deep/er/file.txt, line 3: github-pat, commit {}", &commit[..12]);
    stopped(&world, &token, &told);

    let commit = world.commit("agent", &format!("subject\n\nbody\nwith {token}"));
    let told = format!("the message of commit {}, line 4: github-pat", &commit[..12]);
    stopped(&world, &token, &told);

    world.write(&format!("agent/{token}"), "a\n");
    stopped_after_commit(&world, &token, "a file name in the top folder");

    world.write(&format!("agent/folder/{token}/a"), "a\n");
    stopped_after_commit(&world, &token, "a file name in folder: ****");

    // A rename of a file that upstream has.
    world.git("agent", &["mv", "README", &token]).good();
    stopped_after_commit(&world, &token, "a file name in the top folder");

    // Taken out again on top, and put back.
    world.write("agent/s", format!("{token}\n"));
    let first = world.commit("agent", "in");
    world.git("agent", &["rm", "-q", "s"]).good();
    world.commit("agent", "out");
    stopped(&world, &token, &format!("s, line 1: github-pat, commit {}", &first[..12]));
    world.write("agent/s", format!("{token}\n"));
    world.commit("agent", "in");
    world.git("agent", &["rm", "-q", "s"]).good();
    world.commit("agent", "out");
    world.git("agent", &["checkout", "-q", "HEAD~1", "--", "s"]).good();
    stopped_after_commit(&world, &token, "s, line 1: github-pat");

    // In the resolution of a merge alone, and on its second parent alone.
    for at_second in [false, true] {
        world.git("agent", &["checkout", "-q", "-b", "side"]).good();
        world.write("agent/x", if at_second { format!("{token}\n") } else { "side\n".into() });
        world.commit("agent", "side");
        world.git("agent", &["checkout", "-q", "agent/work"]).good();
        world.write("agent/x", "work\n");
        world.commit("agent", "work");
        world.git("agent", &["merge", "-q", "--no-commit", "side"]);
        world.write("agent/x", if at_second { "work\n".into() } else { format!("{token}\n") });
        stopped_after_commit(&world, &token, "x, line 1: github-pat");
        world.git("agent", &["branch", "-q", "-D", "side"]).good();
    }

    world.git("agent", &["tag", "-a", "v1", "-m", &format!("tag\n\n{token}")]).good();
    let refused = world.git("agent", &["push", "origin", "v1"]).refused("the message of tag");
    assert!(!refused.err.contains(&token), "{}", refused.err);
    let branch = format!("HEAD:refs/heads/agent/{token}");
    let refused = world.git("agent", &["push", "origin", &branch]).refused("the name of ref");
    assert!(!refused.err.lines().filter(|l| l.starts_with("remote:")).any(|l| l.contains(&token)));
    let name = format!("Ada {token}");
    world
        .git(
            "agent",
            &["commit", "-q", "--allow-empty", "--author", &format!("{name} <a@b>"), "-m", "a"],
        )
        .good();
    stopped(&world, &token, "the header of commit");
}

#[track_caller]
fn stopped_after_commit(world: &World, token: &str, says: &str) {
    world.commit("agent", "work");
    stopped(world, token, says);
}

#[test]
fn of_a_file_name_that_is_two_secrets_neither_is_told() {
    let world = World::new(json!({})).seeded();
    let (one, two) = (token(1), fill("glpat-{20w}", 2));
    world.write(&format!("agent/{one} {two}"), "a\n");
    world.commit("agent", "work");
    let refused = world.push("agent").refused(": github-pat").refused(": gitlab-pat");
    let log = world.pushes(1)[0].to_string();
    for secret in [&one, &two] {
        assert!(!refused.err.contains(secret) && !log.contains(secret), "{}{log}", refused.err);
    }
}

#[test]
fn a_secret_is_stopped_in_what_a_file_unpacks_to() {
    let world = World::new(json!({})).seeded();
    let token = token(2);
    let text = format!("a\nb\nkey: {token}\n");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text.as_bytes()).unwrap();
    world.write("agent/a.gz", gzip.finish().unwrap());
    stopped_after_commit(&world, &token, "a.gz (unpacked), line 3: github-pat");
    let wide =
        |order: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(order).collect() };
    world.write("agent/le.txt", [vec![0xff, 0xfe], wide(u16::to_le_bytes)].concat());
    stopped_after_commit(&world, &token, "le.txt (as wide text), line 3: github-pat");
    world.write("agent/be.txt", wide(u16::to_be_bytes));
    stopped_after_commit(&world, &token, "be.txt (as wide text), line 3: github-pat");
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &text);
    world.write("agent/b64", encoded);
    stopped_after_commit(&world, &token, "b64, line 1: github-pat");
    // In the middle of what is no text.
    let mut binary = vec![0x9d; 3 << 20];
    binary.splice(1 << 20..1 << 20, token.bytes().chain([0]));
    world.write("agent/binary", binary);
    stopped_after_commit(&world, &token, "binary, line 1: github-pat");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![0; 64 << 20]).unwrap();
    world.write("agent/bomb.gz", bomb.finish().unwrap());
    stopped_after_commit(&world, &token, "limit-unpack");
}

#[test]
fn a_word_that_allows_a_secret_allows_nothing() {
    let world = World::new(json!({})).seeded();
    let token = token(3);
    world.write("agent/s", format!("key = {token} # gitleaks:allow pragma: allowlist secret\n"));
    stopped_after_commit(&world, &token, "github-pat");
}

#[test]
fn what_upstream_has_already_stops_no_new_branch() {
    let world = World::new(json!({}));
    world.write("seed/old", format!("key = {}\n", token(4)));
    let world = world.seeded();
    world.write("agent/new", "clean\n");
    world.commit("agent", "clean");
    world.push("agent").good();
    world.git("agent", &["push", "origin", "HEAD:agent/other"]).good();
    // Gone, and back as it was: upstream has the object.
    world.git("agent", &["rm", "-q", "old"]).good();
    world.commit("agent", "out");
    world.git("agent", &["checkout", "-q", "HEAD~1", "--", "old"]).good();
    world.commit("agent", "back");
    world.push("agent").good();
    // A change to another line of that file sends nothing new; another secret in it does.
    world.write("agent/old", format!("one more line\nkey = {}\n", token(4)));
    world.commit("agent", "changed");
    world.push("agent").good();
    world.write("agent/old", format!("key = {}\nkey = {}\n", token(4), token(5)));
    world.commit("agent", "and another");
    world.push("agent").refused("old, line 2: github-pat");
}

#[test]
fn behind_any_number_of_secrets_that_upstream_has_a_new_one_is_found() {
    let world = World::new(json!({}));
    let line = |seed| format!("key = {}\n", token(seed));
    world.write("seed/old", line(4));
    let many: String = (100..130).map(line).collect();
    world.write("seed/many", &many);
    let world = world.seeded();
    for times in [20, 300] {
        world.write("agent/old", line(4).repeat(times) + &line(5));
        let says = format!("old, line {}: github-pat", times + 1);
        stopped_after_commit(&world, &token(5), &says);
    }
    world.write("agent/old", line(4).repeat(300));
    world.write("agent/many", format!("one more line\n{many}"));
    world.commit("agent", "nothing new");
    world.push("agent").good();
}

#[test]
fn a_value_that_passes_hides_nothing_beside_it() {
    // In base64 the last character of the one is the first of the other.
    let (meant, other) = ("meant-for-this-host-42", "correct-horse-battery");
    let values = json!({"scan:MEANT": meant, "scan:OTHER": other});
    let meant_at = json!({"use_at": {"MEANT": ["git.test"]}});
    let world = World::with(json!({}), &values, meant_at).seeded();
    for pad in ["", "-", "--"] {
        let text = |end: &str| {
            let text = format!("{pad}{meant}{end}");
            base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text)
        };
        world.write("agent/a", text(other));
        stopped_after_commit(&world, other, "a, line 1: OTHER");
        world.write("agent/a", text(""));
        world.commit("agent", "meant alone");
        world.push("agent").good();
        world.git("agent", &["reset", "-q", "--hard", "origin/main"]).good();
        world.upstream(&["update-ref", "-d", "refs/heads/agent/work"]);
    }
}

#[test]
fn a_secret_with_a_slash_is_stopped_in_a_path() {
    let (folder, file) = ("correct-horse", "battery-staple");
    let secret = format!("{folder}/{file}");
    let world = World::with(json!({}), &json!({"scan:DB": secret}), json!({})).seeded();
    // A file that upstream has.
    std::fs::create_dir(world.at("agent").join(folder)).unwrap();
    world.git("agent", &["mv", "README", &secret]).good();
    stopped_after_commit(&world, &secret, "the path ****");
    // A file that is at another path too.
    world.write("agent/a", "the same\n");
    world.write(&format!("agent/in/{secret}"), "the same\n");
    stopped_after_commit(&world, &secret, "the path in/****");
    // Its two halves alone.
    world.write(&format!("agent/{file}"), "a\n");
    world.write(&format!("agent/{folder}-/{file}"), "a\n");
    world.commit("agent", "work");
    world.push("agent").good();
}

#[test]
fn the_sessions_own_values_are_found_and_pass_where_they_are_meant_to() {
    let values = json!({"scan:DB": "correct-horse-battery", "scan:MEANT": "meant-for-this-host"});
    let meant = json!({"use_at": {"MEANT": ["git.test"]}});
    let world = World::with(json!({}), &values, meant).seeded();
    world.write("agent/a", "meant-for-this-host\n");
    world.commit("agent", "meant");
    world.push("agent").good();
    world.git("agent", &["checkout", "-q", "-B", "agent/next", "origin/main"]).good();
    world.write("agent/b", "x: correct-horse-battery\n");
    stopped_after_commit(&world, "correct-horse", "b, line 1: DB");
}

#[test]
fn a_finding_names_itself_in_the_log() {
    let world = World::new(json!({})).seeded();
    world.write("agent/s", format!("key = {}\n", token(5)));
    let commit = world.commit("agent", "s");
    world.push("agent").refused("github-pat");
    let pushes = world.pushes(1);
    let push = &pushes[0];
    assert_eq!((&push["outcome"], &push["code"]), (&json!("refuse"), &json!("leak")));
    let finding = &push["push"]["findings"][0];
    assert_eq!(finding["rule"], "github-pat");
    assert_eq!(finding["place"], "s");
    assert_eq!(finding["line"], 1);
    assert_eq!(finding["commit"], json!(commit));
    let fingerprint = finding["fingerprint"].clone();
    // The same finding has the same name.
    world.push("agent").refused(fingerprint.as_str().unwrap());
}
