//! What git and ssh are told before anybody is served: their configuration, the trust roots, and
//! the programs they start.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bottle_planner::policy::{GitCredential, GitRemote, GitTransport};
use bottle_planner::sidecar::{GateSettings, UPSTREAM_CA};
use bottle_planner::words::Name;

use super::layout::Layout;
use super::tools::Tool;

/// The most bytes of one push's pack.
pub(super) const LARGEST_PACK: u64 = 1 << 30;
/// Where Debian keeps the system's trust roots.
const ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Writes all of it.
pub(super) fn write(layout: &Layout, settings: &GateSettings) -> io::Result<()> {
    std::fs::create_dir_all(layout.tools())?;
    let own = std::env::current_exe()?;
    for tool in Tool::ALL {
        replace_link(&own, &layout.tool(tool))?;
    }
    std::fs::write(layout.git_config(), git_config(layout, settings.egress.into()))?;
    let mut trust = std::fs::read_to_string(ROOTS).unwrap_or_default();
    match std::fs::read_to_string(layout.input.join(UPSTREAM_CA)) {
        Ok(more) => trust.push_str(&more),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    std::fs::write(layout.trust(), trust)?;
    for (name, remote) in &settings.remotes {
        if remote.upstream.transport == GitTransport::Ssh {
            let text = ssh_config(layout, name, settings.egress.into());
            std::fs::write(layout.ssh_config(name), text)?;
        }
    }
    Ok(())
}

fn replace_link(to: &Path, at: &Path) -> io::Result<()> {
    match std::fs::remove_file(at) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => symlink(to, at),
    }
}

/// Every setting that an agent's bytes could meet, whatever git's own defaults become.
fn git_config(layout: &Layout, egress: SocketAddr) -> String {
    let (tools, trust) = (layout.tools(), layout.trust());
    let (tools, trust) = (tools.display(), trust.display());
    format!(
        "[core]
	hooksPath = {tools}
	useReplaceRefs = false
	logAllRefUpdates = false
	bigFileThreshold = 32m
[receive]
	fsckObjects = true
	maxInputSize = {LARGEST_PACK}
	advertisePushOptions = false
	shallowUpdate = false
	autogc = false
	denyDeleteCurrent = ignore
[transfer]
	unpackLimit = 1
[fetch]
	unpackLimit = 1
	recurseSubmodules = false
[push]
	recurseSubmodules = no
	followTags = false
[uploadpack]
	allowFilter = true
[gc]
	auto = 0
[maintenance]
	auto = false
[pack]
	threads = 2
	windowMemory = 64m
[protocol]
	allow = never
[protocol \"ssh\"]
	allow = always
[protocol \"https\"]
	allow = always
[http]
	proxy = http://{egress}
	sslVerify = true
	sslCAInfo = {trust}
	lowSpeedLimit = 1
	lowSpeedTime = 60
[credential]
	useHttpPath = true
[ssh]
	variant = ssh
[advice]
	pushUpdateRejected = false
[color]
	ui = false
"
    )
}

/// The pinned keys, the one key of this remote, and no way out but egress. A connection is kept for
/// ten minutes, so that a push does not pay for two.
fn ssh_config(layout: &Layout, remote: &Name, egress: SocketAddr) -> String {
    let (tool, trouble) = (layout.tool(Tool::Connect), layout.trouble(remote));
    let connect = format!("{} {egress} %h %p {}", tool.display(), trouble.display());
    let settings: [(&str, String); 25] = [
        ("UserKnownHostsFile", layout.input.join("known_hosts").display().to_string()),
        ("GlobalKnownHostsFile", "/dev/null".into()),
        ("StrictHostKeyChecking", "yes".into()),
        ("UpdateHostKeys", "no".into()),
        ("CheckHostIP", "no".into()),
        ("CanonicalizeHostname", "no".into()),
        ("VerifyHostKeyDNS", "no".into()),
        ("BatchMode", "yes".into()),
        ("IdentitiesOnly", "yes".into()),
        ("IdentityAgent", layout.agent(remote).display().to_string()),
        ("IdentityFile", layout.public_key(remote).display().to_string()),
        ("PreferredAuthentications", "publickey".into()),
        ("PasswordAuthentication", "no".into()),
        ("KbdInteractiveAuthentication", "no".into()),
        ("ForwardAgent", "no".into()),
        ("ForwardX11", "no".into()),
        ("PermitLocalCommand", "no".into()),
        ("ConnectTimeout", "15".into()),
        ("ServerAliveInterval", "15".into()),
        ("ServerAliveCountMax", "3".into()),
        ("LogLevel", "ERROR".into()),
        ("ProxyCommand", connect),
        ("ControlMaster", "auto".into()),
        ("ControlPath", layout.connection(remote).display().to_string()),
        ("ControlPersist", "600".into()),
    ];
    let mut text = String::from("Host *\n");
    for (key, value) in settings {
        let _ = writeln!(text, "\t{key} {value}");
    }
    text
}

/// What git is told about one upstream: its address, and how it is reached.
#[derive(Debug, Clone)]
pub(super) struct Way {
    pub(super) url: String,
    /// Settings for this remote alone.
    settings: Vec<String>,
    trouble: PathBuf,
}

impl Way {
    pub(super) fn to(layout: &Layout, name: &Name, remote: &GitRemote) -> Self {
        let upstream = &remote.upstream;
        let (host, port, path) = (&upstream.host, upstream.port, &upstream.path);
        let (url, setting) = match upstream.transport {
            GitTransport::Ssh => {
                let ssh = format!("core.sshCommand=ssh -F {}", layout.ssh_config(name).display());
                (format!("ssh://{}@{host}:{port}/{path}", upstream.user), Some(ssh))
            }
            GitTransport::Https => {
                let helper = layout.tool(Tool::Credential);
                let helper = format!("credential.helper={} {name}", helper.display());
                let helper = (remote.credential != GitCredential::None).then_some(helper);
                (format!("https://{host}:{port}/{path}"), helper)
            }
        };
        Self { url, settings: setting.into_iter().collect(), trouble: layout.trouble(name) }
    }

    /// Why upstream was not reached, if that is why something failed; told once.
    pub(super) fn trouble(&self) -> Option<String> {
        let trouble = std::fs::read_to_string(&self.trouble).ok()?;
        std::fs::remove_file(&self.trouble).ok()?;
        Some(trouble)
    }

    /// The words of a git command that speaks with upstream, before its own.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        self.settings.iter().flat_map(|setting| ["-c", setting.as_str()])
    }
}
