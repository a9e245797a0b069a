//! Private key files: whether the git gate could use one. Nothing of a key leaves this file.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bottle_planner::snapshot::IdentityFile;
use zeroize::Zeroizing;

/// No private key is as large as this.
const MOST: u64 = 1 << 20;
/// How long the user's ssh-agent may take.
const PATIENCE: Duration = Duration::from_millis(300);

/// Looks at a private key file; links are followed, as ssh does.
pub(super) fn look(path: &Path, agent: Option<&Path>) -> IdentityFile {
    let options = File::options().read(true).custom_flags(NONBLOCK).open(path);
    let Ok(mut file) = options else { return IdentityFile::Missing };
    let Ok(found) = file.metadata() else { return IdentityFile::Missing };
    if !found.is_file() {
        return IdentityFile::Missing;
    }
    let mode = found.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return IdentityFile::Exposed { mode };
    }
    let mut text = Zeroizing::new(String::new());
    if (&mut file).take(MOST).read_to_string(&mut text).is_err() {
        return IdentityFile::Missing;
    }
    if !is_encrypted(&text) {
        return IdentityFile::Ready;
    }
    let public = public_blob(&text).or_else(|| public_file(path));
    let in_agent = match (public, agent) {
        (Some(public), Some(agent)) => agent_holds(agent, &public).unwrap_or(false),
        _ => false,
    };
    IdentityFile::Encrypted { in_agent }
}

const NONBLOCK: i32 = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();

/// OpenSSH's own format names its cipher; the older ones say `ENCRYPTED` in a header or a label.
fn is_encrypted(text: &str) -> bool {
    match openssh(text) {
        Some(blob) => Fields(&blob).string().is_some_and(|cipher| cipher != b"none"),
        None => text.lines().take(4).any(|line| line.contains("ENCRYPTED")),
    }
}

/// What follows the magic of an `OPENSSH PRIVATE KEY` (PROTOCOL.key of OpenSSH).
fn openssh(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let (_, rest) = text.split_once("-----BEGIN OPENSSH PRIVATE KEY-----")?;
    let (body, _) = rest.split_once("-----END")?;
    let body: Zeroizing<String> = Zeroizing::new(body.split_whitespace().collect());
    let blob = Zeroizing::new(STANDARD.decode(body.as_bytes()).ok()?);
    blob.strip_prefix(b"openssh-key-v1\0").map(|rest| Zeroizing::new(rest.to_vec()))
}

/// The public key, which the format keeps in the clear.
fn public_blob(text: &str) -> Option<Vec<u8>> {
    let blob = openssh(text)?;
    let mut fields = Fields(&blob);
    let (_cipher, _kdf, _options) = (fields.string()?, fields.string()?, fields.string()?);
    fields.number()?;
    fields.string().map(<[u8]>::to_vec)
}

fn public_file(path: &Path) -> Option<Vec<u8>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".pub");
    let text = std::fs::read_to_string(name).ok()?;
    STANDARD.decode(text.split_ascii_whitespace().nth(1)?).ok()
}

/// Asks an ssh-agent for its keys (draft-miller-ssh-agent, section 4.4).
fn agent_holds(socket: &Path, public: &[u8]) -> std::io::Result<bool> {
    const REQUEST_IDENTITIES: u8 = 11;
    const IDENTITIES_ANSWER: u8 = 12;
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(&[0, 0, 0, 1, REQUEST_IDENTITIES])?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut answer = Vec::new();
    stream.take(u64::from(u32::from_be_bytes(length)).min(MOST)).read_to_end(&mut answer)?;
    let Some((&IDENTITIES_ANSWER, rest)) = answer.split_first() else { return Ok(false) };
    let mut fields = Fields(rest);
    let count = fields.number().unwrap_or(0);
    for _ in 0..count {
        let (Some(key), Some(_comment)) = (fields.string(), fields.string()) else { break };
        if key == public {
            return Ok(true);
        }
    }
    Ok(false)
}

/// SSH's wire format: numbers of four bytes, strings behind their length (RFC 4251, section 5).
struct Fields<'b>(&'b [u8]);

impl<'b> Fields<'b> {
    fn number(&mut self) -> Option<u32> {
        let (head, rest) = self.0.split_first_chunk::<4>()?;
        self.0 = rest;
        Some(u32::from_be_bytes(*head))
    }

    fn string(&mut self) -> Option<&'b [u8]> {
        let length = usize::try_from(self.number()?).ok()?;
        let (head, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(head)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::net::UnixListener;

    use super::*;

    fn string(bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("short");
        [&length.to_be_bytes(), bytes].concat()
    }

    fn key(cipher: &str) -> String {
        let mut blob = b"openssh-key-v1\0".to_vec();
        for field in [cipher.as_bytes(), b"bcrypt", b"salt"] {
            blob.extend(string(field));
        }
        blob.extend(1u32.to_be_bytes());
        blob.extend(string(b"the public half"));
        blob.extend(string(b"the private half"));
        let body = STANDARD.encode(blob);
        format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{body}\n-----END OPENSSH PRIVATE KEY-----\n")
    }

    #[test]
    fn every_kind_of_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("id");
        let look_at = |text: &str, mode| {
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            look(&path, None)
        };
        assert_eq!(look(&path, None), IdentityFile::Missing);
        assert_eq!(look(folder.path(), None), IdentityFile::Missing);
        assert_eq!(look_at(&key("none"), 0o600), IdentityFile::Ready);
        assert_eq!(look_at(&key("none"), 0o640), IdentityFile::Exposed { mode: 0o640 });
        let locked = IdentityFile::Encrypted { in_agent: false };
        assert_eq!(look_at(&key("aes256-ctr"), 0o600), locked);
        let pkcs8 = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n";
        assert_eq!(look_at(pkcs8, 0o600), locked);
        let pem = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n";
        assert_eq!(look_at(pem, 0o600), locked);
        let plain = "-----BEGIN RSA PRIVATE KEY-----\nAAAA\n";
        assert_eq!(look_at(plain, 0o400), IdentityFile::Ready);
    }

    #[test]
    fn the_agent_is_asked() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, socket) = (folder.path().join("id"), folder.path().join("agent"));
        fs::write(&path, key("aes256-ctr")).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        for (held, in_agent) in [("the public half", true), ("another", false)] {
            let listener = UnixListener::bind(&socket).unwrap();
            let serve = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = [0; 5];
                stream.read_exact(&mut request).unwrap();
                assert_eq!(request, [0, 0, 0, 1, 11]);
                let mut answer = vec![12];
                answer.extend(1u32.to_be_bytes());
                answer.extend(string(held.as_bytes()));
                answer.extend(string(b"a comment"));
                stream.write_all(&string(&answer)).unwrap();
            });
            assert_eq!(look(&path, Some(&socket)), IdentityFile::Encrypted { in_agent });
            serve.join().unwrap();
            fs::remove_file(&socket).unwrap();
        }
        assert_eq!(look(&path, Some(&socket)), IdentityFile::Encrypted { in_agent: false });
    }
}
