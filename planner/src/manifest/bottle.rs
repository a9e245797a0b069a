//! One bottle's definition as a file has it, before parents and defaults.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};

use super::diagnostic::{Placed, shown};
use super::egress::{self, EgressDef};
use super::extends::MAX_LINEAGE;
use super::git::{self, GitUserDef};
use super::reader::{Field, Reader};
use super::yaml::Value;
use super::{globs, keys, units};
use crate::policy::{
    Build, BuildNetwork, EnvValue, GitRemote, HostPattern, Image, Isolation, PinnedImage, Provider,
    WorkspaceMode,
};
use crate::words::{AbsPath, Digest, EnvName, Name, SecretName};

/// What one bottle says itself. Absence is kept: a default would hide a parent's value.
#[derive(Debug, Clone, Default)]
pub(super) struct BottleDef {
    pub extends: alloc::vec::Vec<Placed<Name>>,
    pub env: BTreeMap<EnvName, Placed<EnvValue>>,
    pub git: BTreeMap<Name, Placed<GitRemote>>,
    pub git_user: GitUserDef,
    pub egress: EgressDef,
    pub workspace: WorkspaceDef,
    pub supervise: Option<bool>,
    pub image: Option<Image>,
    pub provider: Option<Provider>,
    pub isolation: Option<Isolation>,
    pub limits: LimitsDef,
    pub repo_agents: Option<bool>,
    pub skills: Option<BTreeSet<Name>>,
    pub pipelock: Option<PinnedImage>,
}

/// What one bottle says of the workspace.
#[derive(Debug, Clone, Default)]
pub(super) struct WorkspaceDef {
    pub modes: Option<BTreeSet<WorkspaceMode>>,
    pub default: Option<Placed<WorkspaceMode>>,
    pub hide: Option<BTreeSet<String>>,
    pub protect: Option<BTreeSet<String>>,
}

/// What one bottle says of limits.
#[derive(Debug, Clone, Default)]
pub(super) struct LimitsDef {
    pub cpus_milli: Option<u32>,
    pub memory_bytes: Option<u64>,
    pub pids: Option<u32>,
    pub shm_bytes: Option<u64>,
    pub time_seconds: Option<u64>,
    pub idle_seconds: Option<u64>,
}

pub(super) fn bottle(reader: &mut Reader<'_>, field: Field<'_>) -> BottleDef {
    let mut def = BottleDef::default();
    let Some(fields) = reader.fields(field, &keys::BOTTLE) else { return def };
    if let Some(field) = fields.get("extends") {
        let parents = reader.one_or_many(field);
        if parents.len() > MAX_LINEAGE {
            let message = format!("a bottle has at most {MAX_LINEAGE} parents");
            reader.error(field.at, "extends-too-deep", message);
        }
        for item in parents.into_iter().take(MAX_LINEAGE) {
            let Some(name) = reader.word(item, |text| Name::new(text)) else { continue };
            if def.extends.iter().any(|parent| parent.value == name) {
                reader.error(item.node.at, "duplicate-parent", format!("`{name}` is named twice"));
            } else {
                def.extends.push(reader.place(item.node.at, name));
            }
        }
    }
    if let Some(items) = fields.get("env").and_then(|field| reader.map(field)) {
        for item in items {
            if let Some((name, value)) = variable(reader, item) {
                def.env.insert(name, reader.place(item.at, value));
            }
        }
    }
    if let Some(field) = fields.get("git") {
        def.git = git::remotes(reader, field);
    }
    if let Some(field) = fields.get("git_user") {
        def.git_user = git::user(reader, field);
    }
    if let Some(field) = fields.get("egress") {
        def.egress = egress::egress(reader, field);
    }
    if let Some(field) = fields.get("workspace") {
        def.workspace = workspace(reader, field);
    }
    if let Some(field) = fields.get("limits") {
        def.limits = limits(reader, field);
    }
    let walls = [
        ("auto", Isolation::Auto),
        ("gvisor", Isolation::Gvisor),
        ("container", Isolation::Container),
    ];
    def.supervise = fields.get("supervise").and_then(|field| reader.boolean(field));
    def.image = fields.get("image").and_then(|field| image(reader, field));
    def.provider = fields.get("provider").and_then(|field| provider(reader, field));
    def.isolation = fields.get("isolation").and_then(|field| reader.choice(field, &walls));
    def.repo_agents = fields.get("repo_agents").and_then(|field| reader.boolean(field));
    def.skills = fields.get("skills").map(|field| skills(reader, field));
    def.pipelock = fields.get("pipelock").and_then(|field| pipelock(reader, field));
    def
}

/// The names of a list of skills.
pub(super) fn skills(reader: &mut Reader<'_>, field: Field<'_>) -> BTreeSet<Name> {
    let Some(items) = reader.list(field) else { return BTreeSet::new() };
    items.filter_map(|item| reader.stem(item)).collect()
}

/// Why a variable is bottle's own to set, if it is.
///
/// Proxy and CA variables are what keeps traffic on the reviewed way; loader variables would run
/// code before the init.
pub fn set_by_bottle(name: &str) -> Option<&'static str> {
    const CA: [&str; 10] = [
        "AWS_CA_BUNDLE",
        "CARGO_HTTP_CAINFO",
        "CURL_CA_BUNDLE",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "NODE_EXTRA_CA_CERTS",
        "PIP_CERT",
        "REQUESTS_CA_BUNDLE",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
    ];
    let upper = name.to_ascii_uppercase();
    match upper.as_str() {
        "HTTP_PROXY" | "HTTPS_PROXY" | "NO_PROXY" | "ALL_PROXY" | "FTP_PROXY" => Some("the proxy"),
        ca if CA.contains(&ca) => Some("the session's CA"),
        "GLIBC_TUNABLES" | "GCONV_PATH" => Some("the loader"),
        loader if loader.starts_with("LD_") => Some("the loader"),
        own if own.starts_with("BOTTLE_") => Some("its own settings"),
        _ => None,
    }
}

fn variable(reader: &mut Reader<'_>, item: Field<'_>) -> Option<(EnvName, EnvValue)> {
    let name = match EnvName::new(item.key) {
        Ok(name) => name,
        Err(error) => {
            let message = format!("expected {}, found `{}`", error.expected, shown(item.key));
            reader.error(item.at, "bad-variable", message);
            return None;
        }
    };
    if let Some(why) = set_by_bottle(name.as_str()) {
        let message = format!("bottle itself sets `{name}` ({why})");
        reader.error(item.at, "reserved-variable", message).advise("leave the variable out");
        return None;
    }
    if matches!(item.node.value, Value::Map(_)) {
        let fields = reader.fields(item, &keys::ENV_SECRET)?;
        let secret = fields.get("secret").and_then(|f| reader.secret(f));
        let mut use_at = BTreeSet::new();
        if let Some(hosts) = fields.get("use_at").and_then(|field| reader.list(field)) {
            use_at = hosts.filter_map(|host| reader.word(host, HostPattern::new)).collect();
        }
        return Some((name, EnvValue::Secret { secret: secret?, use_at }));
    }
    let text = reader.text(item)?;
    // The value may be a secret that landed here by mistake: no message repeats it.
    if text.contains('\n') {
        let message = format!("the value of `{name}` has more than one line");
        reader
            .error(item.node.at, "multi-line-value", message)
            .advise("an environment file cannot carry it; make it a secret: ${NAME}");
        return None;
    }
    let value = if let Some(message) = text.strip_prefix('?') {
        EnvValue::Prompt { message: message.trim().to_string() }
    } else if let Some(inner) = text.strip_prefix("${").and_then(|rest| rest.strip_suffix('}')) {
        let Ok(secret) = SecretName::new(inner) else {
            reader.error(
                item.node.at,
                "bad-value",
                format!(
                    "`{name}`: expected ${{NAME}} with a name of letters, digits and underscores"
                ),
            );
            return None;
        };
        EnvValue::Secret { secret, use_at: BTreeSet::new() }
    } else {
        if text.contains("${") {
            let message = format!("`${{` inside the value of `{name}` is taken literally");
            reader
                .warning(item.node.at, "literal-reference", message)
                .advise("only a whole value ${NAME} names a secret");
        }
        EnvValue::Literal { value: text.to_string() }
    };
    Some((name, value))
}

fn workspace(reader: &mut Reader<'_>, field: Field<'_>) -> WorkspaceDef {
    const MODES: [(&str, WorkspaceMode); 4] = [
        ("copy", WorkspaceMode::Copy),
        ("clone", WorkspaceMode::Clone),
        ("mount", WorkspaceMode::Mount),
        ("none", WorkspaceMode::None),
    ];
    let mut def = WorkspaceDef::default();
    let Some(fields) = reader.fields(field, &keys::WORKSPACE) else { return def };
    if let Some(items) = fields.get("modes").and_then(|field| reader.filled_list(field)) {
        def.modes = Some(items.filter_map(|item| reader.choice(item, &MODES)).collect());
    }
    if let Some(field) = fields.get("default") {
        let mode = reader.choice(field, &MODES);
        def.default = mode.map(|mode| reader.place(field.node.at, mode));
    }
    let mut list = |key| {
        let items = reader.list(fields.get(key)?)?;
        Some(items.filter_map(|item| git::glob(reader, item, globs::file)).collect())
    };
    def.hide = list("hide");
    def.protect = list("protect");
    def
}

fn image(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Image> {
    if let Value::Plain(text) | Value::Quoted(text) = &field.node.value {
        let hint = format!("write `image: {{reference: {}}}`", shown(text));
        reader.refuse(field, "expected a mapping, found text").advise(hint);
        return None;
    }
    let fields = reader.fields(field, &keys::IMAGE)?;
    let own = ["packages", "setup", "version"].into_iter().find_map(|key| fields.get(key));
    let forms = [fields.get("dockerfile"), fields.get("reference"), own];
    let mut forms = forms.into_iter().flatten();
    if let (Some(first), Some(second)) = (forms.next(), forms.next()) {
        let message = format!("`{}` and `{}` do not go together", first.key, second.key);
        reader
            .error(second.at, "two-forms", message)
            .advise("an image is a dockerfile, or a reference, or packages and setup");
        return None;
    }
    if let (Some(context), false) = (fields.get("context"), fields.has("dockerfile")) {
        reader.error(context.at, "misplaced-key", "`context` needs `dockerfile`");
    }
    let allow_from = fields.get("allow_from").and_then(|field| reader.list(field));
    let allow_from = allow_from.map(|items| {
        items.filter_map(|item| git::glob(reader, item, globs::image_reference)).collect()
    });
    let networks = [("open", BuildNetwork::Open), ("none", BuildNetwork::None)];
    let network = fields.get("build").and_then(|field| {
        let fields = reader.fields(field, &keys::BUILD)?;
        reader.choice(fields.get("network")?, &networks)
    });
    let network = network.unwrap_or(BuildNetwork::Open);
    let build = Build { network, allow_from: allow_from.unwrap_or_default() };
    if let Some(field) = fields.get("dockerfile") {
        let dockerfile = egress::named_file(reader, field);
        let context = match fields.get("context") {
            Some(field) => Some(egress::named_file(reader, field)?),
            None => None,
        };
        return Some(Image::Dockerfile { dockerfile: dockerfile?, context, build });
    }
    if let Some(field) = fields.get("reference") {
        let reference = git::glob(reader, field, globs::image_reference)?;
        return Some(Image::Reference { reference, build });
    }
    let packages = fields.get("packages").and_then(|field| reader.list(field));
    let packages =
        packages.map(|items| items.filter_map(|item| git::glob(reader, item, package)).collect());
    let setup = fields.get("setup").and_then(|field| reader.text(field)).unwrap_or_default();
    let packages = packages.unwrap_or_default();
    let version = match fields.get("version") {
        Some(field) => Some(git::glob(reader, field, version)?),
        None => None,
    };
    Some(Image::Provider { version, packages, setup: setup.to_string(), build })
}

/// A version as npm has them (SemVer 2.0.0, 9 and 10).
fn version(text: &str) -> Result<(), &'static str> {
    let ok = text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_digit())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
        && text.split('.').count() >= 3;
    if ok { Ok(()) } else { Err("expected a version like `1.2.3`") }
}

/// A Debian package name (Debian policy 5.6.1), with an optional `=version`.
fn package(text: &str) -> Result<(), &'static str> {
    let (name, version) = text.split_once('=').unwrap_or((text, "1"));
    let name_ok = name.len() >= 2
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b));
    let version_ok = version.starts_with(|c: char| c.is_ascii_alphanumeric())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || b".+-~:".contains(&b));
    if name_ok && version_ok { Ok(()) } else { Err("expected a Debian package name") }
}

fn provider(reader: &mut Reader<'_>, field: Field<'_>) -> Option<Provider> {
    if !matches!(field.node.value, Value::Map(_)) {
        let which = reader.choice(field, &[("claude", false), ("codex", true)])?;
        return Some(if which { Provider::Codex } else { Provider::Claude });
    }
    let fields = reader.fields(field, &keys::PROVIDER)?;
    let command = fields.get("command").and_then(|field| reader.argv(field));
    let resume = fields.get("resume_command").and_then(|field| reader.argv(field));
    let transcript =
        fields.get("transcript").and_then(|f| reader.word(f, |text| AbsPath::new(text)));
    Some(Provider::Command {
        command: command?,
        resume_command: resume.unwrap_or_default(),
        transcript,
    })
}

fn limits(reader: &mut Reader<'_>, field: Field<'_>) -> LimitsDef {
    // Docker refuses less than 6 MiB; nothing that a 2^53 JSON integer cannot hold.
    const MEMORY: (u64, u64, &str) = (6 << 20, 1 << 50, "a size from 6MiB like `512MiB` or `4g`");
    const SHM: (u64, u64, &str) = (64 << 10, 1 << 50, "a size from 64KiB like `64MiB` or `1g`");
    const TIME: (u64, u64, &str) = (1, 366 * 86400, "a time up to 366d like `90s`, `30m` or `12h`");
    let Some(fields) = reader.fields(field, &keys::LIMITS) else { return LimitsDef::default() };
    let mut take = |key, parse: fn(&str) -> Option<u64>, (least, most, form): (u64, u64, &str)| {
        let field = fields.get(key)?;
        let text = reader.line(field)?;
        let value = parse(text).filter(|value| (least..=most).contains(value));
        if value.is_none() {
            let found = reader.refuse(field, format!("expected {form}, found `{}`", shown(text)));
            if text.bytes().all(|b| b.is_ascii_digit()) && key != "cpus" {
                found.advise("the unit is missing");
            } else if text.to_ascii_uppercase().ends_with("B") && !text.contains('i') {
                found.advise("powers of 1024 are written KiB, MiB, GiB or k, m, g");
            }
        }
        value
    };
    let cpus =
        take("cpus", units::thousandths, (10, 1_024_000, "a number of cores like `2` or `1.5`"));
    LimitsDef {
        cpus_milli: cpus.and_then(|milli| u32::try_from(milli).ok()),
        memory_bytes: take("memory", units::bytes, MEMORY),
        shm_bytes: take("shm", units::bytes, SHM),
        time_seconds: take("time", units::seconds, TIME),
        idle_seconds: take("idle", units::seconds, TIME),
        pids: fields.get("pids").and_then(|field| reader.integer(field, 16..=4_194_304)),
    }
}

fn pipelock(reader: &mut Reader<'_>, field: Field<'_>) -> Option<PinnedImage> {
    let text = git::glob(reader, field, globs::image_reference)?;
    let Some((name, digest)) = text.split_once('@') else {
        reader.refuse(field, "expected an image with its digest").advise("pin it: name@sha256:…");
        return None;
    };
    Some(PinnedImage { name: name.to_string(), digest: Digest::new(digest).ok()? })
}
