//! What was delivered: keys and tokens for upstreams, and the values the leak scan looks for.
//!
//! A key for ssh is handed to an ssh-agent of its remote's own and not kept here; no file ever holds
//! one. A token is kept in memory and given to git when it asks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bottle_detector::{Detector, Rules, SHORTEST, Values};
use bottle_planner::policy::{GitCredential, GitTransport};
use bottle_planner::sidecar::GateSettings;
use bottle_planner::words::{EnvName, Name, SecretName};
use zeroize::Zeroizing;

use super::git::{Git, words_of};
use super::kept::Kept;
use super::layout::Layout;
use crate::leak_rules::leak_rules;
use crate::log;
use crate::secret::{Delivery, Refused, Secret, refuse_unknown};

/// How long an ssh-agent may take to open its socket.
const AGENT: Duration = Duration::from_secs(5);

/// The secrets of a gate.
pub(super) struct Keys {
    layout: Layout,
    git: Git,
    settings: GateSettings,
    kept: BTreeMap<Name, Kept>,
    held: Mutex<Held>,
    /// The detector for what is held, compiled when it is first wanted.
    detector: Mutex<Option<Detector>>,
}

#[derive(Default)]
struct Held {
    any: bool,
    tokens: BTreeMap<Name, Secret>,
    values: Delivery,
    agents: BTreeMap<Name, Child>,
}

impl Keys {
    pub(super) fn new(
        layout: &Layout,
        git: &Git,
        settings: &GateSettings,
        kept: BTreeMap<Name, Kept>,
    ) -> Self {
        Self {
            layout: layout.clone(),
            git: git.clone(),
            settings: settings.clone(),
            kept,
            held: Mutex::default(),
            detector: Mutex::default(),
        }
    }

    /// Takes a delivery whole or refuses it: keys as `git:<remote>`, values to look for as
    /// `scan:<name>`.
    pub(super) fn take(&self, delivery: Delivery) -> Result<(), Refused> {
        refuse_unknown(&delivery, |key| self.knows(key))?;
        let names: Vec<String> = delivery.keys().cloned().collect();
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, secret) in delivery {
            match key.split_once(':') {
                Some(("scan", name)) => {
                    if secret.expose().len() < SHORTEST {
                        let why = format!("under {SHORTEST} bytes, it would be found everywhere");
                        log::warn("a value is not looked for", &[("name", &name), ("why", &why)]);
                    }
                    held.values.insert(name.to_owned(), secret);
                }
                Some((_, name)) => {
                    let Ok(name) = Name::new(name) else { continue };
                    if self.is_ssh(&name) {
                        self.hand_to_agent(&name, &secret, &mut held.agents)?;
                    } else {
                        held.tokens.insert(name, secret);
                    }
                }
                None => {}
            }
        }
        held.any = true;
        drop(held);
        *self.detector.lock().unwrap_or_else(PoisonError::into_inner) = None;
        log::info("secrets were delivered", &[("names", &names.join(", "))]);
        Ok(())
    }

    fn knows(&self, key: &str) -> bool {
        match key.split_once(':') {
            Some(("git", name)) => Name::new(name)
                .ok()
                .and_then(|name| self.settings.remotes.get(&name))
                .is_some_and(|remote| remote.credential != GitCredential::None),
            Some(("scan", name)) => EnvName::new(name).is_ok() || SecretName::new(name).is_ok(),
            _ => false,
        }
    }

    fn is_ssh(&self, remote: &Name) -> bool {
        let remote = self.settings.remotes.get(remote);
        remote.is_some_and(|remote| remote.upstream.transport == GitTransport::Ssh)
    }

    /// Why a remote cannot be reached yet, if it cannot.
    pub(super) fn missing(&self, remote: &Name) -> Option<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.settings.expects_delivery && !held.any {
            return Some(
                "the git gate's keys are not delivered; `bottle apply` delivers them".into(),
            );
        }
        let credential = &self.settings.remotes.get(remote)?.credential;
        let there = match credential {
            GitCredential::None => true,
            _ if self.is_ssh(remote) => held.agents.contains_key(remote),
            _ => held.tokens.contains_key(remote),
        };
        (!there)
            .then(|| format!("the key for {remote} is not delivered; `bottle apply` delivers it"))
    }

    /// A remote's user and password, as git's credential helpers answer (git-credential(1)). A token
    /// alone goes with a user that hosts take for "whoever the token is".
    pub(super) fn credential(&self, remote: &str) -> Zeroizing<String> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let token = Name::new(remote).ok().and_then(|name| held.tokens.get(&name));
        let Some(token) = token.map(|token| token.expose().trim_end_matches(['\r', '\n'])) else {
            return Zeroizing::default();
        };
        let (user, password) = token.split_once(':').unwrap_or(("x-access-token", token));
        Zeroizing::new(format!("username={user}\npassword={password}\n"))
    }

    /// The detector of all that is known now.
    pub(super) fn detector(&self) -> Result<Detector, String> {
        let mut kept = self.detector.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(detector) = &*kept {
            return Ok(detector.clone());
        }
        let rules: Arc<Rules> =
            leak_rules(&self.layout.input).map_err(|error| error.to_string())?;
        let values =
            {
                let held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
                Values::new(held.values.iter().map(|(name, secret)| {
                    (name.clone(), Zeroizing::new(secret.expose().to_owned()))
                }))
            };
        let detector = Detector::new(Some(rules), Some(Arc::new(values)));
        *kept = Some(detector.clone());
        Ok(detector)
    }

    /// Values that the manifest means a remote's host to see.
    pub(super) fn passing(&self, remote: &Name) -> BTreeSet<String> {
        let Some(remote) = self.settings.remotes.get(remote) else { return BTreeSet::new() };
        let host = remote.upstream.host.as_str();
        let meant = self.settings.use_at.iter();
        let meant = meant.filter(|(_, hosts)| hosts.iter().any(|pattern| pattern.matches(host)));
        meant.map(|(name, _)| name.clone()).collect()
    }

    /// Gives a key to the remote's ssh-agent in place of the one it had, through a pipe.
    fn hand_to_agent(
        &self,
        remote: &Name,
        key: &Secret,
        agents: &mut BTreeMap<Name, Child>,
    ) -> Result<(), Refused> {
        let failed = |what: &str, why: &dyn std::fmt::Display| {
            Refused(format!("the key for {remote} cannot be used: {what}: {why}"))
        };
        if let Some(mut before) = agents.remove(remote) {
            let _ = before.kill();
            let _ = before.wait();
        }
        let socket = self.layout.agent(remote);
        let agent = self.start_agent(&socket).map_err(|error| failed("ssh-agent", &error))?;
        agents.insert(remote.clone(), agent);
        // OpenSSH wants the last line ended.
        let mut text = Zeroizing::new(key.expose().trim_end().to_owned());
        text.push('\n');
        let mut add = self.git.environment("ssh-add");
        add.args(["-q", "-"]).env("SSH_AUTH_SOCK", &socket);
        let added = told(&mut add, text).map_err(|error| failed("ssh-add", &error))?;
        if let Err(words) = added {
            return Err(failed("ssh-add", &words.trim()));
        }
        let mut list = self.git.environment("ssh-add");
        let listed = list.arg("-L").env("SSH_AUTH_SOCK", &socket).stdout(Stdio::piped()).output();
        let public = listed.map_err(|error| failed("ssh-add -L", &error))?.stdout;
        std::fs::write(self.layout.public_key(remote), public)
            .map_err(|error| failed("its public half", &error))?;
        // The connection that was made with the key before ends, and the next begins.
        if let Some(kept) = self.kept.get(remote) {
            kept.again();
        }
        Ok(())
    }

    fn start_agent(&self, socket: &Path) -> io::Result<Child> {
        let _ = std::fs::remove_file(socket);
        let mut command = self.git.environment("ssh-agent");
        let mut agent = command.arg("-D").arg("-a").arg(socket).spawn()?;
        let begun = Instant::now();
        while UnixStream::connect(socket).is_err() {
            if agent.try_wait()?.is_some() || begun.elapsed() > AGENT {
                return Err(io::Error::other("it does not open its socket"));
            }
            sleep(Duration::from_millis(2));
        }
        Ok(agent)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for agent in self.agents.values_mut() {
            let _ = agent.kill();
            let _ = agent.wait();
        }
    }
}

/// Runs a program with this input; what it said where it failed.
fn told(command: &mut Command, input: Zeroizing<String>) -> io::Result<Result<(), String>> {
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // A key is smaller than a pipe's buffer, and wiped when this is over.
        let _ = io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let words = words_of(&mut child);
    let status = child.wait()?;
    let words = words.and_then(|words| words.join().ok()).unwrap_or_default();
    Ok(if status.success() { Ok(()) } else { Err(words) })
}
