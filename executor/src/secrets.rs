//! Secrets between their source and their delivery. A value lives in [`Secret`] alone: it can be
//! neither printed, serialized, compared nor copied, and its memory is wiped when it goes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bottle_planner::plan::SecretRef;
use bottle_planner::policy::SecretSource;
use bottle_planner::words::{EnvName, SecretName};
use zeroize::Zeroizing;

/// How long a command that prints a secret may take.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);
/// The most bytes a secret may have.
pub const MAX_BYTES: usize = 1 << 20;

/// One value.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes over a value.
    #[must_use]
    pub fn new(value: Vec<u8>) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The bytes themselves, for delivery.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

/// Asks a person, or whoever answers in a person's place.
pub trait Prompter {
    /// The value of a variable; `None` where nobody can be asked. `message` may be empty.
    fn ask(&mut self, name: &EnvName, message: &str) -> Option<Secret>;
}

/// The host's environment, as the edge passes it in.
pub type Env<'a> = dyn Fn(&str) -> Option<OsString> + 'a;

/// Where values come from.
pub struct Sources<'a> {
    /// The host config's sources, by logical name; the host variable of that name without one.
    pub config: &'a BTreeMap<SecretName, SecretSource>,
    /// The user's home folder, for `~`.
    pub home: &'a Path,
    /// The host's environment.
    pub env: &'a Env<'a>,
}

/// The values of one apply.
#[derive(Default)]
pub struct Gathered {
    values: BTreeMap<SecretRef, Secret>,
}

/// Secrets that could not be had, all together. Names and reasons, never values.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.0))]
pub struct SecretsMissing(pub Vec<Missing>);

/// One secret that could not be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// What it is called.
    pub name: String,
    /// Why it could not be had.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

fn describe(missing: &[Missing]) -> String {
    let list: Vec<String> = missing.iter().map(|m| format!("{}: {}", m.name, m.why)).collect();
    format!("secrets are missing: {}", list.join("; "))
}

/// Gathers all values asked for: commands side by side, then files and variables, people last and
/// only if nothing else is missing. Blocks.
pub fn gather(
    refs: &BTreeSet<SecretRef>,
    sources: &Sources<'_>,
    prompter: &mut dyn Prompter,
) -> Result<Gathered, SecretsMissing> {
    let mut gathered = Gathered::default();
    let mut missing = Vec::new();
    let mut commands = Vec::new();
    let mut prompts = Vec::new();
    for wanted in refs {
        let found = match wanted {
            SecretRef::Secret { secret } => match sources.config.get(secret) {
                Some(SecretSource::Command { argv }) => {
                    commands.push((wanted, secret, argv));
                    continue;
                }
                Some(SecretSource::File { path }) => from_file(&expand(path, sources.home)),
                Some(SecretSource::Env { name }) => from_variable(name.as_str(), sources.env),
                None => from_variable(secret.as_str(), sources.env),
            },
            SecretRef::IdentityFile { path } => from_key(&expand(path, sources.home)),
            SecretRef::Prompt { name, message } => {
                prompts.push((wanted, name, message));
                continue;
            }
        };
        keep(&mut gathered, &mut missing, wanted, found);
    }
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = commands
            .iter()
            .map(|(_, _, argv)| scope.spawn(|| from_command(argv, COMMAND_TIMEOUT)))
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|_| Err(Why::new("its reader broke"))))
            .collect()
    });
    for ((wanted, _, _), found) in commands.iter().zip(results) {
        keep(&mut gathered, &mut missing, wanted, found);
    }
    for (wanted, name, message) in prompts {
        let found = if missing.is_empty() {
            prompter.ask(name, message).ok_or(Why {
                why: "it has to be asked for, and nobody can be asked".into(),
                hint: format!("run with a terminal, or give `--secret {name}=fd:N`"),
            })
        } else {
            continue;
        };
        keep(&mut gathered, &mut missing, wanted, found);
    }
    if missing.is_empty() { Ok(gathered) } else { Err(SecretsMissing(missing)) }
}

/// Whether a source could answer, without asking it for the value: for requirements.
///
/// # Errors
///
/// It could not; why, and what to do about it.
pub fn available(secret: &SecretName, sources: &Sources<'_>) -> Result<(), Missing> {
    let why = match sources.config.get(secret) {
        Some(SecretSource::Command { argv }) => match argv.first() {
            Some(program) if found_in_path(program, sources.env) => return Ok(()),
            Some(program) => Why::new(format!("its command `{program}` is not found")),
            None => Why::new("its command is empty"),
        },
        Some(SecretSource::File { path }) => match from_file(&expand(path, sources.home)) {
            Ok(_) => return Ok(()),
            Err(why) => why,
        },
        Some(SecretSource::Env { name }) => match from_variable(name.as_str(), sources.env) {
            Ok(_) => return Ok(()),
            Err(why) => why,
        },
        None => match from_variable(secret.as_str(), sources.env) {
            Ok(_) => return Ok(()),
            Err(why) => why,
        },
    };
    Err(Missing { name: secret.to_string(), why: why.why, hint: why.hint })
}

impl Gathered {
    /// What a role is handed: one JSON object of key to value.
    ///
    /// # Errors
    ///
    /// A value that was not gathered or is not UTF-8, by the name it goes by.
    pub fn payload(
        &self,
        items: &BTreeMap<String, SecretRef>,
    ) -> Result<Zeroizing<Vec<u8>>, Missing> {
        // Room for the worst case, six bytes a byte: a growing vector leaves copies behind.
        let room: usize =
            items.iter().map(|(key, item)| 6 * (key.len() + self.length(item)) + 8).sum();
        let mut json = Zeroizing::new(Vec::with_capacity(room + 2));
        json.push(b'{');
        for (key, item) in items {
            let missing = |why: &str| Missing {
                name: name_of(item),
                why: why.to_owned(),
                hint: String::new(),
            };
            let value = self.values.get(item).ok_or_else(|| missing("it was not gathered"))?;
            let value =
                std::str::from_utf8(value.expose()).map_err(|_| missing("it is not UTF-8 text"))?;
            if json.len() > 1 {
                json.push(b',');
            }
            let written = serde_json::to_writer(&mut *json, key).and_then(|()| {
                json.push(b':');
                serde_json::to_writer(&mut *json, value)
            });
            written.map_err(|_| missing("it cannot be written as JSON"))?;
        }
        json.push(b'}');
        Ok(json)
    }

    /// A text without any of the values, and without any line of one: a key may be quoted so.
    pub(crate) fn redact(&self, text: &str) -> String {
        let values = self.values.values().filter_map(|v| std::str::from_utf8(v.expose()).ok());
        let mut parts: Vec<&str> =
            values.flat_map(|v| v.lines().chain([v])).filter(|part| part.len() >= 4).collect();
        // A value that begins like another goes after it, so that nothing is left of either.
        parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.len()));
        parts.iter().fold(text.to_owned(), |text, part| text.replace(part, "***"))
    }

    fn length(&self, item: &SecretRef) -> usize {
        self.values.get(item).map_or(0, |v| v.expose().len())
    }
}

/// Why one value could not be had, before its name is known.
struct Why {
    why: String,
    hint: String,
}

impl Why {
    fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), hint: "see `secrets` in the host config".into() }
    }
}

fn keep(
    gathered: &mut Gathered,
    missing: &mut Vec<Missing>,
    wanted: &SecretRef,
    found: Result<Secret, Why>,
) {
    match found {
        Ok(secret) if !secret.expose().is_empty() => {
            gathered.values.insert(wanted.clone(), secret);
        }
        Ok(_) => {
            let why = Why::new("its source answered with nothing");
            missing.push(Missing { name: name_of(wanted), why: why.why, hint: why.hint });
        }
        Err(why) => missing.push(Missing { name: name_of(wanted), why: why.why, hint: why.hint }),
    }
}

fn name_of(wanted: &SecretRef) -> String {
    match wanted {
        SecretRef::Secret { secret } => secret.to_string(),
        SecretRef::Prompt { name, .. } => name.to_string(),
        SecretRef::IdentityFile { path } => path.clone(),
    }
}

fn from_variable(name: &str, env: &Env<'_>) -> Result<Secret, Why> {
    match env(name) {
        Some(value) if !value.is_empty() => Ok(Secret::new(value.into_vec())),
        _ => Err(Why {
            why: format!("the variable `{name}` is not set"),
            hint: format!("set {name}, or name its source under `secrets` in the host config"),
        }),
    }
}

fn from_file(path: &Path) -> Result<Secret, Why> {
    read_regular(path).map(|(value, _)| less_newline(value))
}

/// A private key: whole, newline included, and readable by its owner alone.
fn from_key(path: &Path) -> Result<Secret, Why> {
    let (value, mode) = read_regular(path)?;
    if mode & 0o077 == 0 {
        return Ok(value);
    }
    Err(Why {
        why: format!(
            "expected a key readable by its owner alone, found mode {:04o}",
            mode & 0o7777
        ),
        hint: format!("chmod 600 {}", path.display()),
    })
}

fn read_regular(path: &Path) -> Result<(Secret, u32), Why> {
    let failed = |e: std::io::Error| Why::new(format!("cannot read {}: {e}", path.display()));
    // Looked at before it is opened: opening a pipe would wait for a writer.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(Why::new(format!("{} is no regular file", path.display())));
    }
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if !meta.is_file() {
        return Err(Why::new(format!("{} is no regular file", path.display())));
    }
    let room = usize::try_from(meta.len()).unwrap_or(MAX_BYTES).min(MAX_BYTES);
    let secret = read_all(file, room + 2).map_err(failed)?;
    Ok((secret, meta.permissions().mode()))
}

/// Reads to the end into memory that never moves: a vector that grows leaves copies behind.
fn read_all(mut from: impl std::io::Read, room: usize) -> std::io::Result<Secret> {
    let mut value = Zeroizing::new(vec![0; room.max(1)]);
    let mut filled = 0;
    loop {
        if filled == value.len() {
            if filled > MAX_BYTES {
                return Err(std::io::Error::other("it is larger than 1 MiB"));
            }
            let mut larger = Zeroizing::new(vec![0; 2 * filled]);
            larger[..filled].copy_from_slice(&value);
            value = larger;
        }
        match from.read(&mut value[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    value.truncate(filled);
    Ok(Secret(value))
}

fn from_command(argv: &[String], timeout: Duration) -> Result<Secret, Why> {
    let (_, value) = secret_of(argv, None, timeout).map_err(Why::new)?;
    Ok(less_newline(value))
}

/// What a program prints, and whether it ended well; one that is told nothing has to. Its standard
/// error is not kept: it may quote the value.
pub(crate) fn secret_of(
    argv: &[String],
    input: Option<&str>,
    timeout: Duration,
) -> Result<(bool, Secret), String> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err("its command is empty".to_owned());
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("its command `{program}` does not run: {e}"))?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // A program that does not read closes its end: what it says counts.
        let _ = stdin.write_all(input.as_bytes());
    }
    let deadline = Instant::now() + timeout;
    let (sender, receiver) = mpsc::channel();
    if let Some(stdout) = child.stdout.take() {
        // Detached: a grandchild may keep the pipe open for ever.
        std::thread::spawn(move || sender.send(read_all(stdout, 8192)));
    }
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Ok(None) => {
                // It may just have ended by itself; either way it is waited for.
                let _ = child.kill();
                let _ = child.wait();
                let seconds = timeout.as_secs();
                return Err(format!("its command `{program}` took over {seconds} s"));
            }
            Err(e) => return Err(format!("its command `{program}` was lost: {e}")),
        }
    };
    let code = status.code();
    if code.is_none() {
        return Err(format!("its command `{program}` was killed by a signal"));
    }
    if let (None, Some(code @ 1..)) = (input, code) {
        return Err(format!("its command `{program}` exited with {code}"));
    }
    let left = deadline.saturating_duration_since(Instant::now());
    match receiver.recv_timeout(left) {
        Ok(Ok(value)) => Ok((status.success(), value)),
        Ok(Err(_)) | Err(_) => Err(format!("the output of `{program}` cannot be read")),
    }
}

fn less_newline(mut secret: Secret) -> Secret {
    if secret.0.last() == Some(&b'\n') {
        secret.0.pop();
        if secret.0.last() == Some(&b'\r') {
            secret.0.pop();
        }
    }
    secret
}

/// A path of the host config or the manifest, `~` being the user's home folder.
pub(crate) fn expand(path: &str, home: &Path) -> PathBuf {
    match path.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => PathBuf::from(path),
    }
}

fn found_in_path(program: &str, env: &Env<'_>) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    env("PATH").is_some_and(|path| std::env::split_paths(&path).any(|p| p.join(program).is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Prompter for Nobody {
        fn ask(&mut self, _: &EnvName, _: &str) -> Option<Secret> {
            None
        }
    }

    struct Somebody;

    impl Prompter for Somebody {
        fn ask(&mut self, name: &EnvName, message: &str) -> Option<Secret> {
            Some(Secret::new(format!("{name} {message}").into_bytes()))
        }
    }

    fn secret(name: &str) -> SecretRef {
        SecretRef::Secret { secret: SecretName::new(name).expect("valid") }
    }

    fn prompt(name: &str) -> SecretRef {
        let name = EnvName::new(name).expect("valid");
        SecretRef::Prompt { name, message: "which?".into() }
    }

    fn command(script: &str) -> SecretSource {
        SecretSource::Command { argv: vec!["sh".into(), "-c".into(), script.into()] }
    }

    fn run(
        refs: &[SecretRef],
        config: &[(&str, SecretSource)],
        prompter: &mut dyn Prompter,
    ) -> Result<Gathered, SecretsMissing> {
        let config = config
            .iter()
            .map(|(name, source)| (SecretName::new(*name).expect("valid"), source.clone()))
            .collect();
        let env = |name: &str| (name == "SET").then(|| OsString::from("from env"));
        let sources = Sources { config: &config, home: Path::new("/nowhere"), env: &env };
        gather(&refs.iter().cloned().collect(), &sources, prompter)
    }

    fn json(gathered: &Gathered, refs: &[SecretRef]) -> String {
        let items = refs.iter().enumerate().map(|(i, r)| (format!("k{i}"), r.clone())).collect();
        let payload = gathered.payload(&items).map_err(|m| m.why).expect("complete");
        String::from_utf8(payload.to_vec()).expect("text")
    }

    #[test]
    fn from_every_kind_of_source() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "from \"file\"\n\n").expect("written");
        let key = folder.path().join("key");
        std::fs::write(&key, "a key\n").expect("written");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("set");
        let refs = [
            secret("SET"),
            secret("FILE"),
            secret("COMMAND"),
            prompt("ASKED"),
            SecretRef::IdentityFile { path: key.display().to_string() },
        ];
        let config = [
            ("FILE", SecretSource::File { path: file.display().to_string() }),
            ("COMMAND", command("echo from command")),
        ];
        let gathered = run(&refs, &config, &mut Somebody).map_err(|e| e.to_string()).expect("all");
        assert_eq!(
            json(&gathered, &refs),
            r#"{"k0":"from env","k1":"from \"file\"\n","k2":"from command","k3":"ASKED which?","k4":"a key\n"}"#
        );
        assert_eq!(gathered.redact("it said from command!"), "it said ***!");
    }

    #[test]
    fn no_part_of_a_value_is_left() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let key = folder.path().join("key");
        std::fs::write(&key, "first line\nsecond line\n").expect("written");
        let refs = [secret("LONG"), secret("SHORT"), secret("KEY")];
        let config = [
            ("LONG", command("echo planted-and-more")),
            ("SHORT", command("echo planted")),
            ("KEY", SecretSource::File { path: key.display().to_string() }),
        ];
        let gathered = run(&refs, &config, &mut Nobody).map_err(|e| e.to_string()).expect("all");
        assert_eq!(gathered.redact("planted-and-more planted second line"), "*** *** ***");
    }

    #[test]
    fn all_that_is_missing_is_named_and_no_value_is() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = folder.path().join("open");
        std::fs::write(&open, "planted-secret").expect("written");
        std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).expect("set");
        let refs = [
            secret("UNSET"),
            secret("FOLDER"),
            secret("FAILS"),
            secret("EMPTY"),
            secret("ABSENT"),
            SecretRef::IdentityFile { path: open.display().to_string() },
        ];
        let config = [
            ("FOLDER", SecretSource::File { path: folder.path().display().to_string() }),
            ("FAILS", command("echo planted-secret; echo planted-secret >&2; exit 3")),
            ("EMPTY", command("echo")),
            ("ABSENT", SecretSource::Command { argv: vec!["/no/such/program".into()] }),
        ];
        let error = run(&refs, &config, &mut Nobody).err().expect("missing");
        assert_eq!(error.0.len(), 6);
        let text = format!("{error} {error:?}");
        for wanted in ["UNSET", "FOLDER", "FAILS", "exited with 3", "EMPTY", "ABSENT", "0644"] {
            assert!(text.contains(wanted), "{wanted} is missing in {text}");
        }
        assert!(!text.contains("planted-secret"), "{text}");
    }

    #[test]
    fn nobody_is_asked_in_vain() {
        struct Never;
        impl Prompter for Never {
            fn ask(&mut self, _: &EnvName, _: &str) -> Option<Secret> {
                panic!("asked although something else is missing")
            }
        }
        assert!(run(&[secret("UNSET"), prompt("ASKED")], &[], &mut Never).is_err());
        let error = run(&[prompt("ASKED")], &[], &mut Nobody).err().expect("nobody");
        assert!(error.0[0].hint.contains("--secret ASKED=fd:N"));
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended() {
        let argv = ["sleep".to_owned(), "60".to_owned()];
        let begun = Instant::now();
        let why = from_command(&argv, Duration::from_millis(50)).err().expect("too long");
        assert!(why.why.contains("took over"), "{}", why.why);
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
