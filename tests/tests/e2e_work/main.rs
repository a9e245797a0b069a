//! What an agent did and what becomes of it: pulled, saved at the end, kept through every kind of
//! end.
//!
//! An engine is expected to answer (`scripts/host-setup`), and `cargo build -p bottle` to have been
//! run.

mod clones;
mod ends;
mod pull;

use bottle_tests::host::Host;

/// A host with a folder `work/project` and an agent that runs a script in its copy or clone.
fn host(script: &str, more: &str) -> Host {
    let script = serde_json::to_string(script).expect("text");
    let host = Host::new();
    host.write(
        "work/bottle.yaml",
        &format!(
            "bottles:
  box:
    egress: {{routes: [{{host: api.example.com}}]}}
    provider: {{command: [bash, -c, {script}], resume_command: [bash, -c, 'echo again; ls; exec sleep 86400'], transcript: /home/agent/log}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [copy, clone, none], hide: ['.env*'], protect: [guarded]}}
{more}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
        ),
    );
    host
}

/// The words that start a session on `work/project`.
fn start<'w>(session: &'w str, mode: &'w str, more: &[&'w str]) -> Vec<&'w str> {
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--cwd", "project"];
    [&words[..], &["--workspace", mode, "--name", session], more].concat()
}
