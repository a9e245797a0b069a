//! A command of the manifest's own as the agent.

use bottle_tests::host::{Host, unique};

use crate::world::{container, file, resume};

const MANIFEST: &str = "bottles:
  box:
    provider:
      command: [sh, -c, 'mkdir -p said; echo \"first: $1\" | tee -a said/log; exit 3', agent]
      resume_command: [sh, -c, 'echo \"again: $1\" | tee -a said/log; exit 4', agent]
      transcript: /home/agent/said/log
    image: {reference: 'debian:bookworm-slim'}
    isolation: container
    workspace: {modes: [none]}
agents:
  dev: {bottle: box, prompt: Be brief.}
";

#[test]
fn it_is_run_resumed_and_keeps_its_transcript() {
    let host = Host::with_manifest(MANIFEST);
    let session = unique("command");
    let start = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--name", &session];
    // The task is the last argument, as it was written.
    host.run(&[&start[..], &["--task", "a 'b'"]].concat()).code(3).prints("first: a 'b'\n");
    let first = container(&session);
    host.run(&resume(&session, &["--task=-c"])).code(4).prints("again: -c\n");
    assert_ne!(container(&session), first, "another argv is another container");
    assert_eq!(file(&session, "/home/agent/said/log"), "first: a 'b'\nagain: -c\n");
    let plan = host.plan(&format!("root/state/{session}/plan.json"));
    let transcript = bottle_planner::provider::transcript(&plan.grants.provider);
    assert_eq!(transcript, Some("/home/agent/said/log"));
    host.run(&["destroy", &session, "--yes"]).code(0);
}
