//! The commands around planning, and the command line itself.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Host;

#[test]
fn a_wrong_command_line() {
    let host = Host::empty();
    host.run(&[]).code(64);
    host.run(&["plann"]).code(64).says("plan").prints_nothing();
    host.run(&["plan", "--nope"]).code(64);
    host.run(&["schema", "poem"]).code(64);
    host.run(&["sidecar", "pipelock"]).code(64);
}

#[test]
fn help_and_versions_are_data() {
    let host = Host::empty();
    let version = host.run(&["--version"]).code(0);
    assert_eq!(version.out, format!("bottle {}\n", env!("CARGO_PKG_VERSION")));
    let help = host.run(&["--help"]).code(0);
    let help = help.prints("Exit codes:").prints("BOTTLE_HOME").prints("Examples:");
    assert!(!help.out.contains("sidecar"), "{}", help.out);
    assert!(!help.out.contains('\u{1b}'), "no colour where nobody sees it");
    host.run(&["apply", "--help"]).code(0).prints("bottle apply plan.json --rollback");
}

#[test]
fn a_first_manifest() {
    let host = Host::empty();
    host.run(&["init"]).code(0).prints_nothing().says("bottle start dev");
    let mode = host.at("root/bottles").metadata().unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    let spec = host.run(&["plan", "--print-spec"]).code(0);
    assert_eq!(spec.err, "", "it loads without a word");
    assert_eq!(spec.json()["agent"], "dev");
    host.write("root/agents/dev.md", "mine");
    host.run(&["init"]).code(1).says("is there already");
    std::fs::remove_file(host.at("root/bottles/dev.md")).unwrap();
    host.run(&["init", "--force", "--preset", "codex"]).code(0).says("kept").says("wrote");
    assert_eq!(host.read("root/agents/dev.md"), "mine");
    assert!(host.read("root/bottles/dev.md").contains("extends: \"@codex\""));
    host.run(&["init", "--preset", "@nope"]).code(64).says("presets: @claude");
}

#[test]
fn presets_are_listed_and_printed() {
    let host = Host::empty();
    let list = host.run(&["presets"]).code(0).prints("@claude ");
    assert_eq!(list.out.lines().count(), 3);
    host.run(&["presets", "@claude"]).code(0).prints("api.anthropic.com");
    host.run(&["presets", "claude"]).code(0).prints("api.anthropic.com");
}

#[test]
fn schemas_are_those_that_are_checked_in() {
    let host = Host::empty();
    for name in ["plan", "manifest", "config", "spec", "snapshot", "info", "cleanup"] {
        let ran = host.run(&["schema", name]).code(0);
        let path = format!("{}/../schemas/{name}.schema.json", env!("CARGO_MANIFEST_DIR"));
        assert_eq!(ran.out, std::fs::read_to_string(path).unwrap());
        assert_eq!(ran.json()["$id"], format!("urn:bottle:schema:{name}:1.0"));
    }
}

#[test]
fn completions_for_shells() {
    let host = Host::empty();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        host.run(&["completions", shell]).code(0).prints("destroy");
    }
    host.run(&["completions", "tcl"]).code(64);
}

#[test]
fn a_host_without_an_engine_is_told_what_to_do() {
    let host = Host::with_agent();
    let ran = host.run(&["doctor"]).code(1);
    ran.prints("fail  engine").prints("-> start it").prints("ok    manifest");
    let json = host.run(&["doctor", "--json"]).code(1).json();
    let checks = json["checks"].as_array().unwrap();
    let of = |name: &str| checks.iter().find(|check| check["name"] == name).unwrap();
    assert_eq!(of("engine")["status"], "fail");
    assert_eq!(of("git")["status"], "warn", "PATH is not set");
    assert_eq!(of("state")["status"], "ok");
}

#[test]
fn a_probe_says_what_it_is_for() {
    let host = Host::with_agent();
    host.run(&["probe", "--for", "nobody"]).code(1).says("there is no agent `nobody`");
    host.run(&["probe", "--for", "dev", "--everything"]).code(64);
    let snapshot = host.run(&["probe"]).code(0).says("/nonexistent/docker.sock").json();
    assert!(snapshot["engine"].is_null());
    assert_eq!(snapshot["env_names"].as_array().unwrap().len(), 0, "nothing asked for");
    let all = host.run(&["probe", "--everything"]).code(0).json();
    assert!(all["env_names"].as_array().unwrap().contains(&"HOME".into()));
}
