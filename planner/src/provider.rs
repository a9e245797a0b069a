//! What is built in about each provider: image, argv, folders, first-run settings.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use crate::policy::Provider;
use crate::sidecar::{IN, SUPERVISE_PORT};
use crate::words::AbsPath;

/// The base of built-in Dockerfiles unless the host config names another.
pub const DEFAULT_BASE: &str = "debian:bookworm-slim";
/// The agent's home folder inside its container.
pub const HOME: &str = "/home/agent";
/// The value of every placeholder variable. No secret.
pub const PLACEHOLDER: &str = "egress-placeholder";

/// The built-in Dockerfile of a provider, with packages and a setup script on top.
#[must_use]
pub fn dockerfile(
    provider: &Provider,
    base: &str,
    packages: &BTreeSet<String>,
    setup: &str,
) -> String {
    let mut wanted: BTreeSet<&str> = ["ca-certificates", "curl", "git"].into();
    let npm = match provider {
        Provider::Claude => Some("@anthropic-ai/claude-code"),
        Provider::Codex => Some("@openai/codex"),
        Provider::Command { .. } => None,
    };
    if npm.is_some() {
        wanted.extend(["nodejs", "npm"]);
    }
    wanted.extend(packages.iter().map(String::as_str));
    let wanted: Vec<&str> = wanted.into_iter().collect();
    let mut text = format!(
        "FROM {base}\nRUN apt-get update \\\n && apt-get install -y --no-install-recommends {} \\\n \
         && rm -rf /var/lib/apt/lists/*\n",
        wanted.join(" ")
    );
    if let Some(package) = npm {
        text.push_str(&format!("RUN npm install -g {package}\n"));
    }
    if !setup.is_empty() {
        // A heredoc needs BuildKit, which Docker 20.10's API builder is not: one escaped line.
        let quoted = setup.trim_end().replace('\\', "\\\\").replace('\'', "'\\''");
        let lines: Vec<&str> = quoted.lines().collect();
        text.push_str(&format!("RUN printf '%b' '{}\\n' | sh -eu\n", lines.join("\\n")));
    }
    text
}

/// The argv of the agent.
#[must_use]
pub fn argv(
    provider: &Provider,
    resumed: bool,
    has_prompt: bool,
    supervise: bool,
    task: Option<&str>,
    extra: &[String],
) -> Vec<String> {
    let mut argv: Vec<String> = match provider {
        Provider::Claude => {
            let mut argv = vec!["claude".to_string(), "--dangerously-skip-permissions".to_string()];
            if resumed {
                argv.push("--continue".to_string());
            }
            if has_prompt {
                argv.extend(["--append-system-prompt-file".to_string(), format!("{IN}/prompt.md")]);
            }
            if supervise {
                argv.extend(["--mcp-config".to_string(), mcp_config()]);
            }
            if let Some(task) = task {
                argv.extend(
                    ["-p", task, "--output-format", "stream-json", "--verbose"].map(String::from),
                );
            }
            argv
        }
        Provider::Codex => {
            let mut argv = vec!["codex".to_string()];
            if task.is_some() {
                argv.push("exec".to_string());
            }
            if resumed {
                argv.extend(["resume", "--last"].map(String::from));
            }
            argv.push("--dangerously-bypass-approvals-and-sandbox".to_string());
            if let Some(task) = task {
                argv.extend(["--json".to_string(), task.to_string()]);
            }
            argv
        }
        Provider::Command { command, resume_command, .. } => {
            let base = if resumed && !resume_command.is_empty() { resume_command } else { command };
            base.iter().cloned().chain(task.map(String::from)).collect()
        }
    };
    argv.extend(extra.iter().cloned());
    argv
}

fn mcp_config() -> String {
    format!(
        r#"{{"mcpServers":{{"bottle":{{"type":"http","url":"http://supervise:{SUPERVISE_PORT}/mcp"}}}}}}"#
    )
}

/// The provider's folder of skills, inside the container.
#[must_use]
pub fn skills_folder(provider: &Provider) -> &'static str {
    match provider {
        Provider::Claude | Provider::Command { .. } => "/home/agent/.claude/skills",
        Provider::Codex => "/home/agent/.codex/skills",
    }
}

/// Where the transcripts are, inside the container: files, or folders of them.
#[must_use]
pub fn transcripts(provider: &Provider) -> BTreeSet<AbsPath> {
    let at = |path: &str| AbsPath::new(path).ok();
    match provider {
        Provider::Claude => at("/home/agent/.claude/projects").into_iter().collect(),
        Provider::Codex => at("/home/agent/.codex/sessions").into_iter().collect(),
        Provider::Command { transcript, .. } => transcript.iter().cloned().collect(),
    }
}

/// First-run settings: without them Claude Code stops at onboarding and at the folder-trust
/// dialog, which its bypass flag does not skip. Path and content.
#[must_use]
pub fn first_run(provider: &Provider, workdir: &str) -> Option<(&'static str, String)> {
    match provider {
        Provider::Claude => Some((
            "/home/agent/.claude.json",
            format!(
                "{{\"hasCompletedOnboarding\":true,\"bypassPermissionsModeAccepted\":true,\
                 \"projects\":{{{}:{{\"hasTrustDialogAccepted\":true}}}}}}\n",
                serde_json::Value::from(workdir)
            ),
        )),
        Provider::Codex | Provider::Command { .. } => None,
    }
}
