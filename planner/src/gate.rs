//! The git gate's image and volume: git and ssh on a base that the agent has no say in.
//!
//! Never on the agent's own image: the agent may propose that one, and the gate holds the keys.

use alloc::format;
use alloc::string::String;

use crate::plan::User;
use crate::provider::DEFAULT_BASE;
use crate::words::{Digest, Identity};

/// Where the mirrors of the upstreams lie in the gate's container, one `<remote>.git` each.
pub const MIRRORS: &str = "/mirrors";

/// The volume that keeps them for as long as the session is there.
#[must_use]
pub fn volume(identity: &Identity) -> String {
    format!("bottle-mirrors-{identity}")
}

/// The whole Dockerfile. Packages are installed only where the base lacks them; it then needs apt. The user has an
/// entry in `passwd`, without which ssh does not start, and owns the mirrors: an empty volume takes
/// over the folder that it is mounted on.
#[must_use]
pub fn dockerfile(user: User, base: Option<&str>) -> String {
    let User { uid, gid } = user;
    let base = base.unwrap_or(DEFAULT_BASE);
    format!(
        "FROM {base}
RUN if ! (command -v ssh && test -x \"$(git --exec-path)/git-daemon\" && \\
      test -s /etc/ssl/certs/ca-certificates.crt) >/dev/null 2>&1; then \\
      apt-get update && \\
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \\
        ca-certificates git openssh-client && \\
      rm -rf /var/lib/apt/lists/*; \\
    fi
RUN getent passwd {uid} >/dev/null || \\
      echo 'gate:x:{uid}:{gid}::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
RUN install -d -m 0700 -o {uid} -g {gid} {MIRRORS}
"
    )
}

/// The image's tag: the digest of what it is built from.
#[must_use]
pub fn image(user: User, base: Option<&str>) -> String {
    format!("bottle-gate:{}", Digest::of(dockerfile(user, base).as_bytes()).short())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_user_or_base_is_another_image() {
        let (one, other) = (User { uid: 1000, gid: 1000 }, User { uid: 1001, gid: 1000 });
        assert_eq!(image(one, None), image(one, Some(DEFAULT_BASE)));
        assert_ne!(image(one, None), image(other, None));
        assert_ne!(image(one, None), image(one, Some("debian:trixie-slim")));
        let text = dockerfile(other, Some("debian:trixie-slim"));
        assert!(text.starts_with("FROM debian:trixie-slim\n"), "{text}");
        assert!(text.contains("gate:x:1001:1000:"), "{text}");
    }
}
