//! `known_hosts` files: which keys a host has in them, plain or hashed (sshd(8), "SSH_KNOWN_HOSTS
//! FILE FORMAT").

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// The keys of a host (`host` or `[host]:port`), each as `type base64`.
///
/// Keys marked `@revoked` for the host are taken out; certificate authorities are passed over.
pub(super) fn keys<'t>(files: impl IntoIterator<Item = &'t str>, host: &str) -> BTreeSet<String> {
    let (mut keys, mut revoked) = (BTreeSet::new(), BTreeSet::new());
    for line in files.into_iter().flat_map(str::lines) {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next().unwrap_or("");
        let marker = first.starts_with('@').then_some(first);
        let names = if marker.is_some() { fields.next().unwrap_or("") } else { first };
        let (Some(kind), Some(key)) = (fields.next(), fields.next()) else { continue };
        if STANDARD.decode(key).is_err() || !names_host(names, host) {
            continue;
        }
        let key = format!("{kind} {key}");
        match marker {
            None => keys.insert(key),
            Some("@revoked") => revoked.insert(key),
            Some(_) => false,
        };
    }
    keys.retain(|key| !revoked.contains(key));
    keys
}

fn names_host(names: &str, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    if let Some(hashed) = names.strip_prefix("|1|") {
        return hashed_host(hashed, &host);
    }
    let mut found = false;
    for pattern in names.split(',') {
        match pattern.strip_prefix('!') {
            Some(not) if glob(not, &host) => return false,
            Some(_) => {}
            None => found |= glob(pattern, &host),
        }
    }
    found
}

/// `salt|hmac`, where the HMAC-SHA-1 of the host under the salt is kept in place of the host.
fn hashed_host(hashed: &str, host: &str) -> bool {
    let Some((salt, hash)) = hashed.split_once('|') else { return false };
    let (Ok(salt), Ok(hash)) = (STANDARD.decode(salt), STANDARD.decode(hash)) else {
        return false;
    };
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(&salt) else { return false };
    mac.update(host.as_bytes());
    mac.verify_slice(&hash).is_ok()
}

/// `*` is any text, `?` any one character.
fn glob(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_ascii_lowercase().chars().collect();
    let text: Vec<char> = text.chars().collect();
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    p = at + 1;
                    t = from + 1;
                    star = Some((at, t));
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashed(host: &str) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(b"01234567890123456789").expect("a key");
        mac.update(host.as_bytes());
        let hash = STANDARD.encode(mac.finalize().into_bytes());
        format!("|1|{}|{hash}", STANDARD.encode(b"01234567890123456789"))
    }

    fn found(file: &str, host: &str) -> Vec<String> {
        keys([file], host).into_iter().collect()
    }

    #[test]
    fn plain_entries() {
        let file = "# a comment\n\
            example.com,192.0.2.1 ssh-ed25519 QUJD me@there\n\
            [example.com]:2222 ssh-rsa REVG\n\
            *.example.org,!bad.example.org ssh-ed25519 R0hJ\n\
            example.com nonsense !!!\n\
            @cert-authority example.com ssh-rsa SktM\n";
        assert_eq!(found(file, "Example.com"), ["ssh-ed25519 QUJD"]);
        assert_eq!(found(file, "[example.com]:2222"), ["ssh-rsa REVG"]);
        assert_eq!(found(file, "a.b.example.org"), ["ssh-ed25519 R0hJ"]);
        assert_eq!(found(file, "bad.example.org"), [""; 0]);
        assert_eq!(found(file, "example.net"), [""; 0]);
    }

    #[test]
    fn hashed_entries() {
        let file = format!(
            "{} ssh-ed25519 QUJD\n{} ssh-rsa REVG\n|1|broken ssh-rsa REVG\n",
            hashed("git.example.com"),
            hashed("[git.example.com]:2222")
        );
        assert_eq!(found(&file, "git.example.com"), ["ssh-ed25519 QUJD"]);
        assert_eq!(found(&file, "[git.example.com]:2222"), ["ssh-rsa REVG"]);
        assert_eq!(found(&file, "example.com"), [""; 0]);
    }

    #[test]
    fn openssh_wrote_this_hash() {
        // What `ssh-keygen -H` of OpenSSH 9.2 made of `github.com ssh-ed25519 QUJD`.
        let names = "|1|KrUK9uKOoXGh8rLrWi2m1/oIlSg=|ZnKISFh3bIWaS51/qFvXDr8cKHQ=";
        let line = format!("{names} ssh-ed25519 QUJD");
        assert_eq!(found(&line, "github.com"), ["ssh-ed25519 QUJD"]);
        assert_eq!(found(&line, "gitlab.com"), [""; 0]);
    }

    #[test]
    fn a_revoked_key_is_no_key() {
        let file = "example.com ssh-rsa REVG\n@revoked * ssh-rsa REVG\nexample.com ssh-rsa QUJD\n";
        assert_eq!(found(file, "example.com"), ["ssh-rsa QUJD"]);
    }
}
