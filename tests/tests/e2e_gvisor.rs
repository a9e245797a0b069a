//! An agent under gVisor: it comes up, works, is walled in, and what does not hold there is said.
//!
//! An engine is expected to answer that has runtime `runsc` registered (`scripts/host-setup --tests`
//! does both), and `cargo build -p bottle` to have been run.

use bottle_tests::host::{Host, docker, inspect, unique, until};
use serde_json::Value;

const MANIFEST: &str = "bottles:
  box:
    provider: {command: [sh, -c, 'echo ${#TOKEN} > ~/has; sleep 86400']}
    image: {reference: 'debian:bookworm-slim'}
    isolation: gvisor
    env: {TOKEN: '${TOKEN}'}
    workspace: {modes: [copy, none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
";

#[test]
fn an_agent_under_gvisor_works_and_is_walled_in() {
    let host = Host::with_manifest(MANIFEST).set("TOKEN", "planted-for-gvisor");
    let session = unique("gvisor");
    host.write("work/code/a.txt", "one\n");
    let folder = host.at("work/code").display().to_string();
    let start = ["start", "dev", "--manifest", "bottle.yaml", "--name", &session];
    let how = ["--workspace", "copy", "--cwd", &folder, "--yes", "--detach"];
    let said = host.run(&[&start[..], &how[..]].concat()).code(0);
    let plan = host.plan(&format!("root/state/{session}/plan.json"));
    assert_eq!(plan.session.runtime.as_deref(), Some("runsc"));
    let ignored = docker(&["info", "--format", "{{json .Runtimes}}"]).code(0);
    if ignored.out.contains("--ignore-cgroups") {
        let told = plan.notices.iter().any(|notice| notice.code == "limits_not_held");
        assert!(told, "{:?}\n{}", plan.notices, said.err);
    }
    let container = format!("bottle-{session}");
    assert_eq!(inspect(&container)["HostConfig"]["Runtime"], "runsc");
    let inside = |script: &str| docker(&["exec", &container, "sh", "-c", script]);
    inside("dmesg").code(0).prints("gVisor");
    assert_eq!(inside("cat /workspace/a.txt && echo two > /workspace/a.txt").code(0).out, "one\n");
    let length = format!("{}\n", "planted-for-gvisor".len());
    until("the agent has what was delivered to it", || inside("cat ~/has").out == length);
    let listed = host.run(&["list", "--json"]).code(0);
    let listed: Value = serde_json::from_str(&listed.out).expect("JSON");
    assert_eq!(listed[0]["state"], "running", "{listed}");
    host.run(&["pull", &session, "--yes"]).code(0);
    assert_eq!(host.read("work/code/a.txt"), "two\n");

    // Every wall but the limits holds here, too.
    let proof = host.run(&["prove", &session, "--json"]);
    let found: Value =
        serde_json::from_str(&proof.out).unwrap_or_else(|e| panic!("{e}: {}", proof.err));
    let all = found["attempts"].as_array().expect("a list");
    assert!(all.iter().filter(|row| row["tried"] == true).count() >= 100, "{}", all.len());
    let broken: Vec<&Value> = all
        .iter()
        .filter(|row| row["held"] != true && row["family"] != "limits")
        .filter(|row| !row["id"].as_str().is_some_and(|id| id.starts_with("one-way-")))
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
    host.run(&["stop", &session]).code(0);
    host.run(&["resume", &session, "--manifest", "bottle.yaml", "--yes", "--detach"]).code(0);
    host.run(&["destroy", &session, "--yes"]).code(0);
    assert!(host.leavings().is_empty(), "{:?}", host.leavings());
}
