//! Git hosts outside of the bottle: an OpenSSH server and an https one, on the address of the
//! engine's bridge, with a bare repository each, `acme/web.git`.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use bottle_outside::{Authority, GitHttp};
use bottle_tests::host::{Host, Ran, docker, ran, until};

/// The name both hosts go by; it leads to the bridge by `extra_hosts`.
const NAME: &str = "git.example.test";

/// The bridge, on which a server of this host is reached from every container that may.
pub fn bridge() -> Ipv4Addr {
    let format = "{{range .IPAM.Config}}{{.Gateway}} {{.Subnet}}{{end}}";
    let out = docker(&["network", "inspect", "bridge", "--format", format]).code(0).out;
    let (gateway, subnet) = out.trim_end().split_once(' ').expect("two words");
    gateway.parse().unwrap_or_else(|_| {
        let first: Ipv4Addr = subnet.split('/').next().and_then(|a| a.parse().ok()).expect("a net");
        Ipv4Addr::from(u32::from(first) + 1)
    })
}

/// A folder with a bare repository and whatever serves it.
pub struct Upstream {
    folder: PathBuf,
    sshd: Option<Child>,
    _https: Option<GitHttp>,
    /// The manifest's entry below `git:`.
    pub entry: String,
}

impl Upstream {
    /// Below `home` of this host, so that it goes with it. The repository has one commit on `main`.
    fn new(host: &Host) -> Self {
        let folder = host.at("home/upstream");
        fs::create_dir_all(folder.join("acme")).expect("folders");
        let upstream = Self { folder, sshd: None, _https: None, entry: String::new() };
        upstream.git(".", &["init", "-q", "--bare", "-b", "main", "acme/web.git"]);
        upstream.git("acme/web.git", &["config", "http.receivepack", "true"]);
        upstream.git(".", &["init", "-q", "-b", "main", "seed"]);
        upstream.git("seed", &["commit", "-q", "--allow-empty", "-m", "first"]);
        upstream.git("seed", &["push", "-q", "../acme/web.git", "main"]);
        upstream
    }

    /// Served by OpenSSH to a key of its own.
    pub fn ssh(host: &Host, push: &str) -> Self {
        let mut upstream = Self::new(host);
        for key in ["host", "id"] {
            let mut keygen = Command::new("ssh-keygen");
            keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(upstream.at(key));
            ran(&mut keygen, b"").code(0);
        }
        let port = free_port();
        let config = format!(
            "Port {port}\nListenAddress {}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\n\
             UsePAM no\nPasswordAuthentication no\nPidFile none\n\
             PermitRootLogin prohibit-password\nMaxStartups 100\n",
            bridge(),
            upstream.at("host").display(),
            upstream.at("id.pub").display()
        );
        fs::write(upstream.at("sshd_config"), config).expect("written");
        fs::create_dir_all("/run/sshd").expect("root makes it");
        let mut sshd = Command::new("/usr/sbin/sshd");
        sshd.args(["-D", "-e", "-f"]).arg(upstream.at("sshd_config"));
        let log = fs::File::create(upstream.at("sshd.log")).expect("a file");
        let sshd = sshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        upstream.sshd = Some(sshd.expect("sshd is there: see scripts/host-setup"));
        until("sshd listens", || TcpStream::connect((bridge(), port)).is_ok());
        let public = fs::read_to_string(upstream.at("host.pub")).expect("readable");
        let public: Vec<&str> = public.split(' ').take(2).collect();
        let user = ran(Command::new("id").arg("-un"), b"").code(0).out;
        upstream.entry = format!(
            "{{name: web, upstream: 'ssh://{}@{NAME}:{port}{}', identity_file: '{}', \
             known_host_key: '{}', extra_hosts: {{{NAME}: {}}}{push}}}",
            user.trim(),
            upstream.at("acme/web.git").display(),
            upstream.at("id").display(),
            public.join(" "),
            bridge(),
        );
        upstream
    }

    /// Served over https to the account that the secret `GIT_TOKEN` holds.
    pub fn https(host: &Host, authority: &Authority, account: &str) -> Self {
        let mut upstream = Self::new(host);
        let config = authority.server(&[NAME], &["http/1.1"]);
        let server = GitHttp::serve((bridge(), 0), config, &upstream.folder, account);
        upstream.entry = format!(
            "{{name: web, upstream: 'https://{NAME}:{}/acme/web.git', secret: GIT_TOKEN, \
             extra_hosts: {{{NAME}: {}}}}}",
            server.address().port(),
            bridge(),
        );
        upstream._https = Some(server);
        upstream
    }

    /// The upstream as the manifest spells it.
    pub fn url(&self) -> String {
        self.entry.split('\'').nth(1).expect("quoted").to_owned()
    }

    pub fn at(&self, path: &str) -> PathBuf {
        self.folder.join(path)
    }

    /// git beside the repository, as whoever runs it.
    pub fn git(&self, folder: &str, words: &[&str]) -> String {
        git_at(&self.folder.join(folder), words).code(0).out
    }

    /// All refs of upstream's.
    pub fn refs(&self) -> String {
        self.git("acme/web.git", &["for-each-ref", "--format=%(refname) %(objectname)"])
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(mut sshd) = self.sshd.take() {
            let _ = sshd.kill();
            let _ = sshd.wait();
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((bridge(), 0)).expect("a port");
    listener.local_addr().expect("bound").port()
}

fn git_at(folder: &Path, words: &[&str]) -> Ran {
    let mut git = Command::new("git");
    git.args(["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]).args(words);
    ran(git.current_dir(folder).env("GIT_CONFIG_NOSYSTEM", "1").env("HOME", "/nonexistent"), b"")
}
