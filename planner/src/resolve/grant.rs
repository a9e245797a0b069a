//! What a session may do: the bottle, made whole with what the snapshot knows and what was approved.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;

use super::Ground;
use crate::approvals;
use crate::error::ErrorCode;
use crate::grants::{
    AgentGrant, EgressGrant, EnvGrant, Grants, ImageGrant, SecretUse, WorkspaceGrant,
};
use crate::policy::{
    Agent, Approval, Bottle, EnvValue, GitCredential, GitRemote, GitTransport, HostPattern,
    PushException, Route, RouteRole, WorkspaceMode,
};
use crate::snapshot::IdentityFile;
use crate::words::{Digest, EnvName, Name, SecretName};

impl Ground<'_> {
    pub(super) fn grant(
        &mut self,
        agent: &Agent,
        bottle: &Bottle,
        mode: WorkspaceMode,
        image: ImageGrant,
    ) -> Option<Grants> {
        if let Some(overlay) = &bottle.overlay {
            let name = &bottle.name;
            self.notice(
                "overlay_used",
                format!("bottle `{name}` allows what {overlay} adds to it"),
            );
        }
        let routes = self.routes(bottle);
        let env = self.environment(bottle, &routes);
        let git = self.git(bottle);
        let rules = bottle.egress.rules.as_ref().map(|f| self.named_file(&f.path, "rules file"));
        Some(Grants {
            agent: AgentGrant {
                name: agent.name.clone(),
                origin: agent.origin,
                prompt: Digest::of(agent.prompt.as_bytes()),
                skills: self.skills(agent),
            },
            bottle: bottle.name.clone(),
            provider: bottle.provider.clone(),
            image,
            isolation: bottle.isolation,
            limits: bottle.limits.clone(),
            secrets: secrets(&routes, &env, &git),
            env,
            egress: EgressGrant { routes, rules, pipelock: bottle.pipelock.clone() },
            gate_base: self.snapshot.config.base_image.clone().filter(|_| !git.is_empty()),
            git,
            git_user: agent.git_user.clone().or_else(|| bottle.git_user.clone()),
            workspace: WorkspaceGrant {
                mode,
                hide: bottle.workspace.hide.clone(),
                protect: bottle.workspace.protect.clone(),
            },
            supervise: bottle.supervise,
            push_exceptions: self.push_exceptions(bottle),
        })
    }

    fn skills(&mut self, agent: &Agent) -> BTreeMap<Name, Digest> {
        let mut skills = BTreeMap::new();
        for name in &agent.skills {
            match self.snapshot.skills.get(name) {
                Some(tree) => {
                    skills.insert(name.clone(), tree.digest.clone());
                }
                None => self.error(
                    ErrorCode::SkillMissing,
                    format!(
                        "agent `{}` names skill `{name}`, which is not on this host",
                        agent.name
                    ),
                    format!("put it at ~/.claude/skills/{name}/, or take it out of `skills`"),
                ),
            }
        }
        skills
    }

    /// The bottle's routes and what a person approved for this session on top.
    fn routes(&mut self, bottle: &Bottle) -> BTreeMap<HostPattern, Route> {
        let mut routes = bottle.egress.routes.clone();
        for approval in self.snapshot.session.iter().flat_map(|s| &s.approvals) {
            if self.approvals.iter().any(|known| known.is_same(approval)) {
                continue;
            }
            let Approval { host, port, .. } = approval;
            match approvals::add(&mut routes, approval) {
                Ok(()) => self.approvals.push(approval.clone()),
                Err(error) => self.notice(
                    "approval_dropped",
                    format!("what was approved for {host}:{port} is not kept: {error}"),
                ),
            }
        }
        let oauth: alloc::vec::Vec<&HostPattern> = routes
            .iter()
            .filter(|(_, r)| r.role == Some(RouteRole::ClaudeCodeOauth))
            .map(|(host, _)| host)
            .collect();
        if oauth.len() > 1 {
            let message = format!(
                "bottle `{}` has {} routes with role claude_code_oauth: {}, {}",
                bottle.name,
                oauth.len(),
                oauth[0],
                oauth[1]
            );
            self.error(ErrorCode::BadEnvironment, message, "keep the role on one of them");
        }
        routes
    }

    /// What a person lets through the gate once, for as long as its remote is there.
    fn push_exceptions(&mut self, bottle: &Bottle) -> BTreeMap<String, PushException> {
        let known = self.snapshot.session.iter().flat_map(|s| &s.push_exceptions);
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = known
            .map(|(id, exception)| (id.clone(), exception.clone()))
            .partition(|(_, exception)| bottle.git.contains_key(&exception.remote));
        for PushException { remote, fingerprint, .. } in gone.values() {
            self.notice(
                "exception_dropped",
                format!("there is no remote `{remote}` that finding {fingerprint} could go to"),
            );
        }
        kept
    }

    fn environment(
        &mut self,
        bottle: &Bottle,
        routes: &BTreeMap<HostPattern, Route>,
    ) -> BTreeMap<EnvName, EnvGrant> {
        let mut env = BTreeMap::new();
        for (name, value) in &bottle.env {
            if let EnvValue::Literal { value } = value
                && value.contains(['\n', '\r', '\0'])
            {
                self.error(
                    ErrorCode::BadEnvironment,
                    format!("variable `{name}` of bottle `{}` has more than one line", bottle.name),
                    "put it into a file of the image or the workspace",
                );
            }
            env.insert(
                name.clone(),
                match value {
                    EnvValue::Literal { value } => EnvGrant::Literal { value: value.clone() },
                    EnvValue::Prompt { message } => EnvGrant::Prompt { message: message.clone() },
                    EnvValue::Secret { secret, use_at } => {
                        EnvGrant::Secret { secret: secret.clone(), use_at: use_at.clone() }
                    }
                },
            );
        }
        for (host, route) in routes {
            for placeholder in placeholders(route) {
                if bottle.env.contains_key(&placeholder) {
                    self.error(
                        ErrorCode::BadEnvironment,
                        format!(
                            "variable `{placeholder}` is set by bottle `{}` and is also the \
                             placeholder of route {host}",
                            bottle.name
                        ),
                        "egress injects that credential; take the variable out of `env`",
                    );
                }
                env.insert(placeholder, EnvGrant::Placeholder);
            }
            if route.role == Some(RouteRole::ClaudeCodeOauth) {
                for quiet in ["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "DISABLE_ERROR_REPORTING"]
                {
                    if let Ok(name) = EnvName::new(quiet) {
                        env.entry(name)
                            .or_insert_with(|| EnvGrant::Literal { value: "1".to_string() });
                    }
                }
            }
        }
        env
    }

    fn git(&mut self, bottle: &Bottle) -> BTreeMap<Name, GitRemote> {
        let mut git = bottle.git.clone();
        for (name, remote) in &mut git {
            if remote.upstream.transport == GitTransport::Ssh && remote.known_host_keys.is_empty() {
                remote.known_host_keys = self.host_keys(name, remote);
            }
            if let GitCredential::IdentityFile { path } = &remote.credential {
                self.check_identity_file(name, path);
            }
        }
        git
    }

    fn host_keys(&mut self, name: &Name, remote: &GitRemote) -> BTreeSet<String> {
        let upstream = &remote.upstream;
        let entry = if upstream.port == 22 {
            upstream.host.to_string()
        } else {
            format!("[{}]:{}", upstream.host, upstream.port)
        };
        let keys = self.snapshot.known_hosts.get(&entry).cloned().unwrap_or_default();
        if keys.is_empty() {
            self.error(
                ErrorCode::NoHostKey,
                format!("git remote `{name}`: no host key is known for {entry}"),
                format!(
                    "compare the fingerprint with the operator's, then add `known_host_key:` to the \
                     remote or the host to ~/.ssh/known_hosts (`ssh-keyscan -p {} {}` prints keys, \
                     it does not check them)",
                    upstream.port, upstream.host
                ),
            );
        }
        keys
    }

    fn check_identity_file(&mut self, name: &Name, path: &str) {
        let (message, hint) = match self.snapshot.identity_files.get(path) {
            Some(IdentityFile::Ready) => return,
            None if self.spec.offline => return,
            None | Some(IdentityFile::Missing) => (
                format!("git remote `{name}`: there is no key file `{path}`"),
                "name a private key, or use `secret:` with an https upstream".to_string(),
            ),
            Some(IdentityFile::Exposed { mode }) => (
                format!(
                    "git remote `{name}`: others can read the key file `{path}` (mode {mode:03o})"
                ),
                format!("`chmod 600 {path}`"),
            ),
            // An ssh-agent signs and never hands a key out, and the gate runs on when this is over.
            Some(IdentityFile::Encrypted { .. }) => (
                format!("git remote `{name}`: the key `{path}` is protected by a passphrase"),
                "give the bottle a key of its own without one (a deploy key), or use `secret:` \
                 with an https upstream"
                    .to_string(),
            ),
        };
        self.error(ErrorCode::IdentityFile, message, hint);
    }
}

/// The variables that hold a placeholder for a route's credentials.
pub(crate) fn placeholders(route: &Route) -> BTreeSet<EnvName> {
    let of_role = (route.role == Some(RouteRole::ClaudeCodeOauth))
        .then(|| EnvName::new("CLAUDE_CODE_OAUTH_TOKEN").ok())
        .flatten();
    route
        .auth
        .iter()
        .chain(route.allow.iter().filter_map(|rule| rule.auth.as_ref()))
        .filter_map(|auth| auth.placeholder.clone())
        .chain(of_role)
        .collect()
}

pub(super) fn secrets(
    routes: &BTreeMap<HostPattern, Route>,
    env: &BTreeMap<EnvName, EnvGrant>,
    git: &BTreeMap<Name, GitRemote>,
) -> BTreeMap<SecretName, BTreeSet<SecretUse>> {
    let mut secrets: BTreeMap<SecretName, BTreeSet<SecretUse>> = BTreeMap::new();
    let mut note = |secret: &SecretName, usage: SecretUse| {
        secrets.entry(secret.clone()).or_default().insert(usage);
    };
    for (host, route) in routes {
        let rules = route.allow.iter().filter_map(|rule| rule.auth.as_ref());
        for auth in route.auth.iter().chain(rules) {
            note(&auth.secret, SecretUse::Inject { host: host.clone() });
        }
    }
    for (name, grant) in env {
        if let EnvGrant::Secret { secret, .. } = grant {
            note(secret, SecretUse::Env { name: name.clone() });
        }
    }
    for (name, remote) in git {
        if let GitCredential::Secret { secret } = &remote.credential {
            note(secret, SecretUse::Git { remote: name.clone() });
        }
    }
    secrets
}

/// The folders that no workspace may equal, contain or lie in.
pub(crate) fn kept_folders(
    snapshot: &crate::snapshot::Snapshot,
) -> alloc::vec::Vec<(crate::words::AbsPath, &'static str)> {
    let below = |rest: &str| {
        crate::words::RelPath::new(rest).ok().map(|rest| snapshot.host.home.join(&rest))
    };
    let mut folders = vec![(snapshot.host.state_root.clone(), "manifest and state folder")];
    folders.extend(below(".bottle").map(|f| (f, "manifest and state folder")));
    folders.extend(below(".claude/skills").map(|f| (f, "skills folder")));
    folders.extend(below(".ssh").map(|f| (f, "key folder")));
    folders
}

/// Folders of a container that a workspace mounted at its own path would cover.
pub(crate) fn is_container_folder(path: &crate::words::AbsPath) -> Option<String> {
    const COVERED: [&str; 13] = [
        "/etc",
        "/usr",
        "/bin",
        "/sbin",
        "/lib",
        "/lib64",
        "/proc",
        "/sys",
        "/dev",
        "/run",
        "/.bottle",
        "/home/agent",
        "/boot",
    ];
    if path.as_str() == "/" {
        return Some("/".to_string());
    }
    COVERED
        .iter()
        .filter_map(|c| crate::words::AbsPath::new(*c).ok())
        .find(|covered| path.is_within(covered) || covered.is_within(path))
        .map(|covered| covered.to_string())
}
