//! The image that real clients run in: Debian's curl, git, Python and Node, npm and Claude Code.
//! Built once; the tag says what it is built from.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use bottle_planner::words::Digest;
use bottle_tests::host::{docker, ran};

/// What is taken from the package registry of Node, at these versions.
const NPM: &str = "npm@10.9.4";
const CLAUDE: &str = "2.1.331";

const RECIPE: &str = r#"FROM debian:bookworm-slim
RUN echo force-unsafe-io >/etc/dpkg/dpkg.cfg.d/unsafe-io \
 && apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    ca-certificates curl git nodejs python3-pip python3-requests python3-websockets >/dev/null \
 && rm -rf /var/lib/apt/lists/*
ADD npm.tgz /opt/npm
ADD claude.tgz /opt/claude
RUN printf '#!/bin/sh\nexec node /opt/npm/package/bin/npm-cli.js "$@"\n' >/usr/local/bin/npm \
 && chmod 755 /usr/local/bin/npm \
 && ln -s /opt/claude/package/claude /usr/local/bin/claude
"#;

/// The tag of the image, which is there after this.
pub fn clients() -> &'static str {
    static TAG: OnceLock<String> = OnceLock::new();
    TAG.get_or_init(|| {
        let digest = Digest::of(format!("{RECIPE}{NPM}{CLAUDE}").as_bytes());
        let tag = format!("bottle-clients:{}", &digest.hex()[..12]);
        if !docker(&["image", "inspect", &tag]).ok() {
            build(&tag);
        }
        tag
    })
}

fn build(tag: &str) {
    // Beside the binaries: what was fetched once stays.
    let folder = bottle_tests::host::bottle().with_file_name("e2e-clients");
    fs::create_dir_all(&folder).expect("a folder");
    let machine = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    fetch(&folder, NPM, "npm.tgz");
    let claude = format!("@anthropic-ai/claude-code-linux-{machine}@{CLAUDE}");
    fetch(&folder, &claude, "claude.tgz");
    fs::write(folder.join("Dockerfile"), RECIPE).expect("written");
    let mut command = Command::new("docker");
    command.args(["build", "-q", "-t", tag]).arg(&folder);
    ran(&mut command, b"").code(0);
}

/// Gets a package as it is published, unless it is there.
fn fetch(folder: &Path, package: &str, name: &str) {
    if folder.join(name).is_file() {
        return;
    }
    let fresh = folder.join(format!("{name}.fetched"));
    fs::create_dir_all(&fresh).expect("a folder");
    let mut npm = Command::new("npm");
    npm.args(["pack", "--silent", package, "--pack-destination"]).arg(&fresh);
    ran(npm.current_dir(&fresh), b"").code(0);
    let packed: Vec<PathBuf> =
        fs::read_dir(&fresh).expect("readable").flatten().map(|e| e.path()).collect();
    assert_eq!(packed.len(), 1, "{packed:?}");
    fs::rename(&packed[0], folder.join(name)).expect("moved");
    fs::remove_dir_all(fresh).expect("removed");
}
