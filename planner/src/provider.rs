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
/// What every built-in image has.
const BASICS: [&str; 3] = ["ca-certificates", "curl", "git"];

/// A program that is published as a package of npm, one archive a processor, which holds all that it
/// needs: no Node, no other package.
struct Published {
    /// Where npm's registry keeps its archives, up to the name of one.
    place: &'static str,
    /// How an archive is called: what `ARCH` and `VERSION` are put into.
    archive: &'static str,
    /// The program in the archive; `TRIPLE` is the processor's.
    program: &'static str,
    /// The folder it is put into, and what it is called.
    name: &'static str,
    /// The version that this version of `bottle` takes.
    version: &'static str,
    /// SHA-512 of that version's archives, as the registry has them.
    sums: [(&'static str, &'static str); 2],
    /// Variables of the image: an updater would replace what was granted.
    env: &'static str,
}

const CLAUDE: Published = Published {
    place: "https://registry.npmjs.org/@anthropic-ai/claude-code-linux-ARCH/-",
    archive: "claude-code-linux-ARCH-VERSION.tgz",
    program: "claude",
    name: "claude",
    version: "2.1.331",
    sums: [
        (
            "x64",
            "229bd9f5cfcda293bfb2bf138562d50140d7540153ddab8b5ab85b47ac2ad5d8\
             24b897d961d4eda177fa19a8c4e4a2fd479f224edffce8e3d7ac902c338fa5f2",
        ),
        (
            "arm64",
            "cf2f8e381ee2d49eeb0a33683c1d99043ec402d4f412eb35c07fada2495918bd\
             97a701f2c3e3ce19418ea4404113ac5ee449006165f31524d0dee0fc52d5a546",
        ),
    ],
    env: "ENV DISABLE_AUTOUPDATER=1\n",
};

const CODEX: Published = Published {
    place: "https://registry.npmjs.org/@openai/codex/-",
    archive: "codex-VERSION-linux-ARCH.tgz",
    program: "vendor/TRIPLE/bin/codex",
    name: "codex",
    version: "0.169.0",
    sums: [
        (
            "x64",
            "a34e4dc803820f28123d1a35ca29f3c6f91149d9ac672043f44ee66e99a345a9\
             d27ccf25ca9a96b50804a385df364c21b82476685bbc9a518eb101855d56d5c3",
        ),
        (
            "arm64",
            "359fc36905297109b19aa79eed9f6e0b5af3c371a149ba286b071a4ded4b3796\
             24f969629d42867535c98029514fff6881010433d4d6c58cefc4f7e3e46ff116",
        ),
    ],
    env: "",
};

impl Published {
    /// The instructions that fetch and install it. Archives of a version that the manifest names are
    /// trusted as the registry serves them; of our own version the content is known.
    fn install(&self, version: Option<&str>) -> String {
        let archive = |version: &str| {
            let name = self.archive.replace("ARCH", "$arch").replace("VERSION", version);
            format!("{}/{name}", self.place.replace("ARCH", "$arch"))
        };
        let (source, check) = match version {
            Some(version) => (archive(version), ""),
            None => {
                (archive(self.version), " && echo \"$sum  /tmp/package.tgz\" | sha512sum -c - \\\n")
            }
        };
        let cases = [("x86_64", 0), ("aarch64", 1)].map(|(machine, n)| {
            let (arch, sum) = self.sums[n];
            let sum = if check.is_empty() { String::new() } else { format!(" sum={sum}") };
            format!("      {machine}) arch={arch} triple={machine}-unknown-linux-musl{sum} ;; \\\n")
        });
        let Self { name, env, .. } = self;
        let program = self.program.replace("TRIPLE", "$triple");
        format!(
            "RUN case \"$(uname -m)\" in \\\n{}      \
             *) echo \"no {name} for $(uname -m)\" >&2; exit 1 ;; \\\n    esac \\\n \
             && curl -fsSL --retry 3 -o /tmp/package.tgz \"{source}\" \\\n{check} \
             && mkdir -p /opt/{name} \\\n \
             && tar -xzf /tmp/package.tgz -C /opt/{name} --strip-components=1 --no-same-owner \\\n \
             && rm /tmp/package.tgz \\\n \
             && ln -s \"/opt/{name}/{program}\" /usr/local/bin/{name}\n{env}",
            cases.concat()
        )
    }
}

/// The built-in Dockerfile of a provider, with packages and a setup script on top. `version` is the
/// provider's program, where the manifest names one.
#[must_use]
pub fn dockerfile(
    provider: &Provider,
    base: &str,
    version: Option<&str>,
    packages: &BTreeSet<String>,
    setup: &str,
) -> String {
    let published = match provider {
        Provider::Claude => Some(&CLAUDE),
        Provider::Codex => Some(&CODEX),
        Provider::Command { .. } => None,
    };
    // The same first step for all providers, so that their images share it.
    let mut text = format!("FROM {base}\n{}", install(&BASICS.map(String::from).into()));
    if let Some(published) = published {
        text.push_str(&published.install(version));
    }
    if !packages.is_empty() {
        text.push_str(&install(packages));
    }
    if !setup.is_empty() {
        // A heredoc needs BuildKit, which Docker 20.10's API builder is not: one escaped line.
        let quoted = setup.trim_end().replace('\\', "\\\\").replace('\'', "'\\''");
        let lines: Vec<&str> = quoted.lines().collect();
        text.push_str(&format!("RUN printf '%b' '{}\\n' | sh -eu\n", lines.join("\\n")));
    }
    text
}

fn install(packages: &BTreeSet<String>) -> String {
    let packages: Vec<&str> = packages.iter().map(String::as_str).collect();
    format!(
        "RUN apt-get update \\\n && DEBIAN_FRONTEND=noninteractive apt-get install -y \
         --no-install-recommends {} \\\n && rm -rf /var/lib/apt/lists/*\n",
        packages.join(" ")
    )
}

/// What is asked of an agent at its start.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The prompt of the manifest is not empty.
    pub has_prompt: bool,
    /// There is a person to ask.
    pub supervise: bool,
    /// What to do without anybody at its terminal.
    pub task: Option<&'a str>,
    /// The launch's own arguments.
    pub extra: &'a [String],
}

/// The argv of the agent.
#[must_use]
pub fn argv(provider: &Provider, resumed: bool, asked: Asked<'_>) -> Vec<String> {
    let words = |words: &[&str]| words.iter().copied().map(String::from).collect::<Vec<_>>();
    let mut argv = match provider {
        Provider::Claude => {
            let mut argv = words(&["claude", "--dangerously-skip-permissions"]);
            if resumed {
                argv.push("--continue".to_string());
            }
            if asked.has_prompt {
                argv.extend(["--append-system-prompt-file".to_string(), format!("{IN}/prompt.md")]);
            }
            if asked.supervise {
                argv.extend(["--mcp-config".to_string(), mcp_config()]);
            }
            if asked.task.is_some() {
                argv.extend(words(&["--print", "--output-format", "stream-json", "--verbose"]));
            }
            argv
        }
        Provider::Codex => {
            let mut argv = words(&["codex"]);
            match (asked.task.is_some(), resumed) {
                (true, true) => argv.extend(words(&["exec", "resume", "--last"])),
                (true, false) => argv.push("exec".to_string()),
                // A session that began with a task goes on with a person.
                (false, true) => {
                    argv.extend(words(&["resume", "--last", "--include-non-interactive"]));
                }
                (false, false) => {}
            }
            argv.push("--dangerously-bypass-approvals-and-sandbox".to_string());
            argv.extend(match asked.task {
                Some(_) => words(&["--skip-git-repo-check", "--json"]),
                // Its server in the background would outlive the terminal, and needs `ps`.
                None => words(&["--no-daemon"]),
            });
            argv
        }
        Provider::Command { command, resume_command, .. } => {
            let base = if resumed && !resume_command.is_empty() { resume_command } else { command };
            base.iter().cloned().chain(asked.task.map(String::from)).collect()
        }
    };
    argv.extend(asked.extra.iter().cloned());
    if let (Some(task), Provider::Claude | Provider::Codex) = (asked.task, provider) {
        // A task that begins with `-` is no option.
        argv.extend(["--".to_string(), task.to_string()]);
    }
    argv
}

/// Where the provider keeps what was said: a folder, or a file, inside the container.
#[must_use]
pub fn transcript(provider: &Provider) -> Option<&str> {
    match provider {
        Provider::Claude => Some("/home/agent/.claude/projects"),
        Provider::Codex => Some("/home/agent/.codex/sessions"),
        Provider::Command { transcript, .. } => transcript.as_ref().map(AbsPath::as_str),
    }
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

/// What first-run settings say.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// The folder the agent works in.
    pub workdir: &'a str,
    /// The system prompt; may be empty.
    pub prompt: &'a str,
    /// There is a person to ask.
    pub supervise: bool,
    /// The agent's environment has a placeholder under the name of OpenAI's key.
    pub openai_placeholder: bool,
}

/// First-run settings: paths and contents. Without them Claude Code stops at onboarding and at the
/// folder-trust dialog, which its bypass flag does not skip, and Codex asks how to sign in, since it
/// looks for its key in a file of its own and not in its environment.
#[must_use]
pub fn first_run(provider: &Provider, settings: Settings<'_>) -> Vec<(&'static str, String)> {
    let workdir = serde_json::Value::from(settings.workdir);
    match provider {
        Provider::Claude => vec![(
            "/home/agent/.claude.json",
            format!(
                "{{\"hasCompletedOnboarding\":true,\"bypassPermissionsModeAccepted\":true,\
                 \"projects\":{{{workdir}:{{\"hasTrustDialogAccepted\":true}}}}}}\n"
            ),
        )],
        Provider::Codex => {
            let mut config = "check_for_update_on_startup = false\n".to_string();
            if !settings.prompt.is_empty() {
                let prompt = toml_string(settings.prompt);
                config.push_str(&format!("developer_instructions = {prompt}\n"));
            }
            let workdir = toml_string(settings.workdir);
            config.push_str(&format!("\n[projects.{workdir}]\ntrust_level = \"trusted\"\n"));
            if settings.supervise {
                let url = format!("http://supervise:{SUPERVISE_PORT}/mcp");
                config.push_str(&format!("\n[mcp_servers.bottle]\nurl = \"{url}\"\n"));
            }
            let mut files = vec![("/home/agent/.codex/config.toml", config)];
            if settings.openai_placeholder {
                let key =
                    format!("{{\"auth_mode\":\"apikey\",\"OPENAI_API_KEY\":\"{PLACEHOLDER}\"}}\n");
                files.push(("/home/agent/.codex/auth.json", key));
            }
            files
        }
        Provider::Command { .. } => Vec::new(),
    }
}

/// A basic string of TOML 1.0: JSON's, where DEL is escaped as well.
fn toml_string(text: &str) -> String {
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked<'a>(task: Option<&'a str>, extra: &'a [String]) -> Asked<'a> {
        Asked { has_prompt: true, supervise: false, task, extra }
    }

    #[test]
    fn what_our_own_version_is_made_of_is_known() {
        let packages = ["jq".to_string()].into();
        for (provider, version) in [(Provider::Claude, "9.9.9"), (Provider::Codex, "9.9.9-beta.1")]
        {
            let own = dockerfile(&provider, "debian:12", None, &packages, "");
            assert!(own.starts_with("FROM debian:12\nRUN apt-get update"), "{own}");
            assert!(own.contains("sha512sum -c -") && own.contains(" sum="), "{own}");
            let other = dockerfile(&provider, "debian:12", Some(version), &packages, "");
            assert!(other.contains(version) && !other.contains("sum"), "{other}");
            for text in [own, other] {
                assert!(!text.contains("ARCH") && !text.contains("TRIPLE"), "{text}");
                assert!(text.ends_with("install -y --no-install-recommends jq \\\n && rm -rf /var/lib/apt/lists/*\n"), "{text}");
                let continued = |line: &str| line.ends_with('\\') || line.starts_with(" &&");
                let starts = ["FROM ", "RUN ", "ENV ", "      "];
                let good =
                    |line: &str| continued(line) || starts.iter().any(|s| line.starts_with(s));
                assert!(text.lines().all(good), "{text}");
            }
        }
    }

    #[test]
    fn a_task_is_no_option() {
        let extra = ["--model".to_string(), "small".to_string()];
        for provider in [Provider::Claude, Provider::Codex] {
            for resumed in [false, true] {
                let argv = argv(&provider, resumed, asked(Some("-c rm"), &extra));
                let end = ["--model", "small", "--", "-c rm"];
                assert!(
                    argv.iter().map(String::as_str).rev().take(4).eq(end.into_iter().rev()),
                    "{argv:?}"
                );
            }
        }
    }

    #[test]
    fn codex_is_told_all_in_its_file() {
        let settings = Settings {
            workdir: "/workspace",
            prompt: "say \"hi\"\n\u{7f}",
            supervise: true,
            openai_placeholder: true,
        };
        let files = first_run(&Provider::Codex, settings);
        let config = format!(
            "check_for_update_on_startup = false\n\
             developer_instructions = \"say \\\"hi\\\"\\n\\u007F\"\n\n\
             [projects.\"/workspace\"]\ntrust_level = \"trusted\"\n\n\
             [mcp_servers.bottle]\nurl = \"http://supervise:{SUPERVISE_PORT}/mcp\"\n"
        );
        assert_eq!(files[0], ("/home/agent/.codex/config.toml", config));
        assert_eq!(files[1].0, "/home/agent/.codex/auth.json");
        let plain = Settings { openai_placeholder: false, ..settings };
        assert_eq!(first_run(&Provider::Codex, plain).len(), 1, "whoever signs in otherwise may");
    }
}
