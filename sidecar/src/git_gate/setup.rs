//! What git and ssh are told before anybody is served: their configuration, the trust roots, and
//! the programs they start.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use bottle_planner::policy::{GitCredential, GitRemote, GitTransport, Upstream};
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
            let (egress, nowhere) = (settings.egress.into(), Path::new("/dev/null"));
            let port = remote.upstream.port;
            let text = ssh_config(layout, name, egress, port, "no", &layout.trouble(name));
            std::fs::write(layout.ssh_config(name), text)?;
            let text = ssh_config(layout, name, egress, port, "yes", nowhere);
            std::fs::write(layout.kept_config(name), text)?;
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

/// The pinned keys, the one key of this remote, and no way out but egress. `master` says whether it
/// is for the connection that is kept or for what goes over it.
fn ssh_config(
    layout: &Layout,
    remote: &Name,
    egress: SocketAddr,
    port: u16,
    master: &str,
    trouble: &Path,
) -> String {
    let tool = layout.tool(Tool::Connect);
    let connect = format!("{} {egress} %h %p {}", tool.display(), trouble.display());
    let settings: [(&str, String); 25] = [
        ("Port", port.to_string()),
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
        ("ControlMaster", master.into()),
        ("ControlPath", layout.connection(remote).display().to_string()),
    ];
    let mut text = String::from("Host *\n");
    for (key, value) in settings {
        let _ = writeln!(text, "\t{key} {value}");
    }
    text
}

/// A path from the login's home is given as OpenSSH and forges both take it, `user@host:path`:
/// forges do not know `/~/`. That form has no port, which ssh's configuration has.
fn ssh_address(upstream: &Upstream) -> String {
    match upstream.from_home {
        true => format!("{}@{}:{}", upstream.user, upstream.host, upstream.path),
        false => upstream.url(),
    }
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
        let (url, setting) = match upstream.transport {
            GitTransport::Ssh => {
                let ssh = format!("core.sshCommand=ssh -F {}", layout.ssh_config(name).display());
                (ssh_address(upstream), Some(ssh))
            }
            GitTransport::Https => {
                let helper = layout.tool(Tool::Credential);
                let helper = format!("credential.helper={} {name}", helper.display());
                let helper = (remote.credential != GitCredential::None).then_some(helper);
                (upstream.url(), helper)
            }
        };
        Self { url, settings: setting.into_iter().collect(), trouble: layout.trouble(name) }
    }

    /// Why upstream was not reached, if that is why something failed.
    pub(super) fn trouble(&self) -> Option<String> {
        std::fs::read_to_string(&self.trouble).ok()
    }

    /// The words of a git command that speaks with upstream, before its own. What became of an
    /// earlier one is forgotten.
    pub(super) fn words(&self) -> impl Iterator<Item = &str> {
        let _ = std::fs::remove_file(&self.trouble);
        self.settings.iter().flat_map(|setting| ["-c", setting.as_str()])
    }
}

#[cfg(test)]
mod tests {
    use bottle_planner::policy::HostPattern;

    use super::*;

    #[test]
    fn a_path_from_home_is_asked_for_as_forges_and_openssh_know_it() {
        let mut upstream = Upstream {
            transport: GitTransport::Ssh,
            user: "git".into(),
            host: HostPattern::new("git.example").unwrap(),
            port: 2222,
            path: "acme/web.git".into(),
            from_home: true,
        };
        assert_eq!(ssh_address(&upstream), "git@git.example:acme/web.git");
        upstream.from_home = false;
        assert_eq!(ssh_address(&upstream), "ssh://git@git.example:2222/acme/web.git");
    }
}
