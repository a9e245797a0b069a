//! Logins for image registries, as Docker's own client keeps them (`config.json`: `credHelpers`,
//! `credsStore`, `auths`; docker/cli, `cli/config`). A login is a secret: it goes to the engine with
//! the one call that needs it, and nowhere else. Names of registries and helpers are told, no more.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use zeroize::Zeroizing;

use crate::secrets::secret_of;
use crate::sources::read_path;

/// How Docker Hub is called in `config.json`.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";
/// What a helper says for a user name where its secret is an identity token.
const TOKEN: &str = "<token>";
/// How long a helper may take: it may ask a person.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where logins are looked for.
#[derive(Debug, Clone)]
pub struct Logins {
    /// `config.json` of Docker's client.
    pub config: PathBuf,
}

/// A login, for the engine alone.
pub(crate) enum Login {
    /// A user's.
    Password { user: String, password: Zeroizing<String> },
    /// A token in place of both.
    Token(Zeroizing<String>),
}

/// Why a login could not be had. No value is in it.
#[derive(Debug, thiserror::Error)]
#[error("no login for the registry {registry}: {why}")]
pub(crate) struct LoginError {
    registry: String,
    why: String,
}

/// What is read of `config.json`; all else in it is Docker's affair.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Auth {
    #[serde(deserialize_with = "wiped")]
    auth: Zeroizing<String>,
    username: String,
    #[serde(deserialize_with = "wiped")]
    password: Zeroizing<String>,
    #[serde(deserialize_with = "wiped")]
    identitytoken: Zeroizing<String>,
}

#[derive(Deserialize)]
struct Helped {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret", deserialize_with = "wiped")]
    secret: Zeroizing<String>,
}

fn wiped<'de, D: Deserializer<'de>>(from: D) -> Result<Zeroizing<String>, D::Error> {
    String::deserialize(from).map(Zeroizing::new)
}

impl Logins {
    /// The login for a registry, by its `host` or `host:port`; `None` where there is none. Blocks.
    ///
    /// # Errors
    ///
    /// A `config.json` that cannot be read, or a helper that fails.
    pub(crate) fn of(&self, registry: &str) -> Result<Option<Login>, LoginError> {
        let failed = |why: String| LoginError { registry: registry.to_owned(), why };
        if !self.config.exists() {
            return Ok(None);
        }
        let bytes = read_path(&self.config).map_err(|e| failed(format!("config.json: {e}")))?;
        let bytes = Zeroizing::new(bytes);
        // Its words would quote what it found.
        let config: Config = serde_json::from_slice(&bytes)
            .map_err(|e| failed(format!("config.json is damaged at line {}", e.line())))?;
        let server = if registry == "docker.io" { HUB } else { registry };
        if let Some(helper) = config.cred_helpers.get(server) {
            return helped(helper, server).map_err(failed);
        }
        if !config.creds_store.is_empty()
            && let Some(login) = helped(&config.creds_store, server).map_err(failed)?
        {
            return Ok(Some(login));
        }
        let found = config
            .auths
            .into_iter()
            .find(|(key, _)| key == server || (server != HUB && host_of(key) == registry));
        found.map_or(Ok(None), |(_, auth)| stored(auth).map_err(failed))
    }
}

/// `https://registry.example.com/v1/` as `registry.example.com`.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or_default()
}

fn stored(auth: Auth) -> Result<Option<Login>, String> {
    if !auth.identitytoken.is_empty() {
        return Ok(Some(Login::Token(auth.identitytoken)));
    }
    if !auth.username.is_empty() {
        return Ok(Some(Login::Password { user: auth.username, password: auth.password }));
    }
    if auth.auth.is_empty() {
        // An entry that only says that somebody logged in: the store has the rest.
        return Ok(None);
    }
    let wrong = || "its `auth` in config.json is no login".to_owned();
    let bytes = Zeroizing::new(STANDARD.decode(auth.auth.as_bytes()).map_err(|_| wrong())?);
    let text = std::str::from_utf8(&bytes).map_err(|_| wrong())?;
    let (user, password) = text.split_once(':').ok_or_else(wrong)?;
    let password = Zeroizing::new(password.trim_end_matches('\0').to_owned());
    Ok(Some(Login::Password { user: user.to_owned(), password }))
}

/// Asks `docker-credential-NAME get` (docker/docker-credential-helpers): the server on its standard
/// input, JSON on its standard output.
fn helped(name: &str, server: &str) -> Result<Option<Login>, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if name.is_empty() || !name.bytes().all(plain) {
        return Err("config.json names a helper that cannot be one".to_owned());
    }
    let program = format!("docker-credential-{name}");
    let argv = [program.clone(), "get".to_owned()];
    let (ok, output) = secret_of(&argv, Some(server), PATIENCE)?;
    if !ok {
        // All helpers use these words, on their standard output, and the code of any failure.
        let text = String::from_utf8_lossy(output.expose());
        let missing = text.trim() == "credentials not found in native keychain";
        return if missing { Ok(None) } else { Err(format!("`{program}` failed")) };
    }
    let said: Helped = serde_json::from_slice(output.expose())
        .map_err(|_| format!("`{program}` answered something else than a login"))?;
    Ok(Some(if said.username == TOKEN {
        Login::Token(said.secret)
    } else {
        Login::Password { user: said.username, password: said.secret }
    }))
}

/// The registry of a reference (distribution/reference, `splitDockerDomain`).
pub(crate) fn registry_of(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => match first {
            "index.docker.io" => "docker.io",
            first => first,
        },
        _ => "docker.io",
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn look(config: &str, registry: &str) -> Result<Option<(String, String)>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("config.json");
        fs::write(&file, config).expect("written");
        let login = Logins { config: file }.of(registry).map_err(|e| e.to_string())?;
        Ok(login.map(|login| match login {
            Login::Password { user, password } => (user, password.to_string()),
            Login::Token(token) => (TOKEN.to_owned(), token.to_string()),
        }))
    }

    fn some(user: &str, password: &str) -> Result<Option<(String, String)>, String> {
        Ok(Some((user.to_owned(), password.to_owned())))
    }

    #[test]
    fn logins_that_docker_wrote_down() {
        let config = format!(
            r#"{{"auths": {{"https://r.test/v1/": {{"auth": "{}"}}, "t.test:5000": {{"identitytoken": "tok"}},
                "{HUB}": {{"username": "me", "password": "pw"}}, "empty.test": {{}},
                "bad.test": {{"auth": "????"}}}}, "credsStore": "", "other": [1]}}"#,
            STANDARD.encode("ada:a:b")
        );
        assert_eq!(look(&config, "r.test"), some("ada", "a:b"));
        assert_eq!(look(&config, "t.test:5000"), some(TOKEN, "tok"));
        assert_eq!(look(&config, "docker.io"), some("me", "pw"));
        assert_eq!(look(&config, "empty.test"), Ok(None));
        assert_eq!(look(&config, "t.test"), Ok(None), "another port is another registry");
        let wrong = look(&config, "bad.test").expect_err("no base64");
        assert!(wrong.ends_with("its `auth` in config.json is no login"), "{wrong}");
        let wrong = look("{\"auths\": {\"r.test\": {\"auth\": 7}}", "r.test").expect_err("broken");
        assert!(wrong.ends_with("config.json is damaged at line 1"), "{wrong}");
        let wrong = look("{\"credsStore\": \"../x\"}", "r.test").expect_err("no name");
        assert!(wrong.contains("a helper that cannot be one"), "{wrong}");
        let wrong = look("{\"credsStore\": \"is-not-here\"}", "r.test").expect_err("no program");
        assert!(wrong.contains("docker-credential-is-not-here"), "{wrong}");
    }

    #[test]
    fn registries_of_references() {
        for (reference, registry) in [
            ("debian:12", "docker.io"),
            ("me/tool@sha256:00", "docker.io"),
            ("index.docker.io/me/tool", "docker.io"),
            ("r.test/tool:1", "r.test"),
            ("localhost/tool", "localhost"),
            ("r.test:5000/a/b", "r.test:5000"),
        ] {
            assert_eq!(registry_of(reference), registry, "{reference}");
        }
    }
}
