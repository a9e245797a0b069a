//! The one table of every key that a manifest or the host config may hold.
//!
//! The decoders refuse what is not in it, and the JSON Schemas are rendered from it, so neither
//! can know a key that the other does not.

use Shape::{Any, Bool, Either, Integer, List, Map, Object, OneOf, OneOrMany, Scalar, Text, Word};
use Status::{AliasOf, Ignored, Optional, Required, Reserved};

/// A kind of mapping and its keys.
pub(super) struct Table {
    /// The name in the JSON Schema.
    pub name: &'static str,
    /// What such a mapping is, with its article.
    pub about: &'static str,
    pub keys: &'static [Key],
}

/// One key.
pub(super) struct Key {
    pub name: &'static str,
    pub status: Status,
    pub shape: Shape,
    pub about: &'static str,
}

/// How a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Required,
    Optional,
    /// Another spelling, of today's manifests.
    AliasOf(&'static str),
    /// Accepted, whatever it holds, and not read.
    Ignored,
    /// Known, and refused until it is built.
    Reserved,
}

/// What a key's value looks like, as far as a JSON Schema says it.
pub(super) enum Shape {
    Any,
    Bool,
    Text,
    /// Text of a form (a regular expression).
    Word(&'static str),
    /// Text, or a number or boolean taken as written.
    Scalar,
    Integer(u32, u32),
    OneOf(&'static [&'static str]),
    List(&'static Shape),
    OneOrMany(&'static Shape),
    Map(&'static Shape),
    Object(&'static Table),
    Either(&'static [Shape]),
}

const NAME: Shape = Word("^[a-z][a-z0-9-]{0,47}$");
const PARENT: Shape = Word("^@?[a-z][a-z0-9-]{0,47}$");
const VARIABLE: Shape = Word("^[A-Za-z_][A-Za-z0-9_]{0,127}$");
const TEXT: Shape = Text;
const DLP: Shape = OneOf(&["block", "redact", "warn", "off"]);

const fn key(name: &'static str, status: Status, shape: Shape, about: &'static str) -> Key {
    Key { name, status, shape, about }
}

const fn reserved(name: &'static str) -> Key {
    key(name, Reserved, Any, "Reserved, not built yet.")
}

const fn ignored(name: &'static str) -> Key {
    key(name, Ignored, Any, "Not read; so that the file also serves as a Claude Code agent.")
}

/// A manifest in one file.
pub(super) static SINGLE: Table = Table {
    name: "Manifest",
    about: "a manifest file",
    keys: &[
        key("bottles", Optional, Map(&Object(&BOTTLE)), "Bottles by name."),
        key("agents", Optional, Map(&Object(&AGENT)), "Agents by name."),
    ],
};

/// A bottle: the frontmatter of `bottles/NAME.md`.
pub(super) static BOTTLE: Table = Table {
    name: "Bottle",
    about: "a bottle",
    keys: &[
        key(
            "extends",
            Optional,
            OneOrMany(&PARENT),
            "Bottles or presets to build on, left to right.",
        ),
        key(
            "env",
            Optional,
            Map(&Either(&[Scalar, Object(&ENV_SECRET)])),
            "The agent's environment: `?message` asks, `${NAME}` is a secret, anything else a literal.",
        ),
        key(
            "git",
            Optional,
            List(&Object(&GIT)),
            "Git remotes the agent may reach through the gate.",
        ),
        key("git_user", Optional, Object(&GIT_USER), "Who commits are by."),
        key("egress", Optional, Object(&EGRESS), "What the agent may reach over the network."),
        key("workspace", Optional, Object(&WORKSPACE), "How a host folder may be brought in."),
        key(
            "supervise",
            Optional,
            Bool,
            "Whether the agent may ask a person for more. Default false.",
        ),
        key(
            "image",
            Optional,
            Object(&IMAGE),
            "The image the agent runs in. Default: the provider's.",
        ),
        key(
            "provider",
            Optional,
            Either(&[OneOf(&["claude", "codex"]), Object(&PROVIDER)]),
            "What runs as the agent. Default claude.",
        ),
        key(
            "isolation",
            Optional,
            OneOf(&["auto", "gvisor", "container"]),
            "How strongly the container is walled off. Default auto.",
        ),
        key("limits", Optional, Object(&LIMITS), "What the container may use up."),
        key(
            "repo_agents",
            Optional,
            Bool,
            "Whether agents from a repository may use it. Default false.",
        ),
        key("skills", Optional, List(&NAME), "Skills that agents from a repository may name."),
        key("pipelock", Optional, Text, "A proxy image behind egress, `name@sha256:…`."),
        reserved("mcp"),
        reserved("ports"),
        reserved("services"),
        reserved("caches"),
        reserved("gpus"),
    ],
};

/// An agent: the frontmatter of `agents/NAME.md`.
pub(super) static AGENT: Table = Table {
    name: "Agent",
    about: "an agent",
    keys: &[
        key("bottle", Required, PARENT, "The bottle it runs in."),
        key("skills", Optional, List(&NAME), "Skills to bring, by folder name."),
        key("git_user", Optional, Object(&GIT_USER), "Who commits are by, before the bottle's."),
        key(
            "prompt",
            Optional,
            Text,
            "The system prompt (in YAML files; in Markdown it is the body).",
        ),
        ignored("name"),
        ignored("description"),
        ignored("model"),
        ignored("color"),
        ignored("memory"),
        ignored("tools"),
    ],
};

pub(super) static ENV_SECRET: Table = Table {
    name: "EnvSecret",
    about: "a variable's secret",
    keys: &[
        key("secret", Required, VARIABLE, "The logical secret."),
        key("use_at", Optional, List(&TEXT), "Hosts the leak scan lets the value pass to."),
    ],
};

pub(super) static GIT_USER: Table = Table {
    name: "GitUser",
    about: "`git_user`",
    keys: &[
        key("name", Optional, Text, "`user.name`."),
        key("email", Optional, Text, "`user.email`."),
        reserved("signing"),
    ],
};

pub(super) static GIT: Table = Table {
    name: "GitRemote",
    about: "a git entry",
    keys: &[
        key("name", Required, NAME, "What the gate calls the repository."),
        key(
            "upstream",
            Required,
            Text,
            "`ssh://user@host:port/path`, `git@host:path` or `https://…`.",
        ),
        key("identity_file", Optional, Text, "A private key on the host (`~` is the home folder)."),
        key("secret", Optional, VARIABLE, "A logical secret: a token for https, a key for ssh."),
        key(
            "known_host_key",
            Optional,
            OneOrMany(&TEXT),
            "The upstream's host keys, `ssh-ed25519 AAAA…`.",
        ),
        key("extra_hosts", Optional, Map(&TEXT), "Fixed addresses for host names."),
        key("push", Optional, Object(&PUSH), "What may be pushed. Default: branches `agent/*`."),
        key("Name", AliasOf("name"), NAME, "Today's spelling of `name`."),
        key("Upstream", AliasOf("upstream"), Text, "Today's spelling of `upstream`."),
        key("IdentityFile", AliasOf("identity_file"), Text, "Today's spelling of `identity_file`."),
        key(
            "KnownHostKey",
            AliasOf("known_host_key"),
            OneOrMany(&TEXT),
            "Today's spelling of `known_host_key`.",
        ),
        key("ExtraHosts", AliasOf("extra_hosts"), Map(&TEXT), "Today's spelling of `extra_hosts`."),
    ],
};

pub(super) static PUSH: Table = Table {
    name: "Push",
    about: "`push`",
    keys: &[
        key("branches", Optional, List(&TEXT), "Globs over branch names. Default `agent/*`."),
        key("tags", Optional, Bool, "Whether tags may be pushed. Default false."),
        key("force", Optional, Bool, "Whether a branch may be rewritten. Default false."),
        key("delete", Optional, Bool, "Whether refs may be deleted. Default false."),
    ],
};

pub(super) static EGRESS: Table = Table {
    name: "Egress",
    about: "`egress`",
    keys: &[
        key("routes", Optional, List(&Object(&ROUTE)), "One route a host."),
        key("rules", Optional, Text, "A file of extra leak rules, gitleaks' TOML."),
        reserved("unlisted"),
    ],
};

pub(super) static ROUTE: Table = Table {
    name: "Route",
    about: "a route",
    keys: &[
        key("host", Required, Text, "`example.com`, or `*.example.com` for every name below it."),
        key("port", Optional, Integer(1, 65535), "Default 443."),
        key("allow", Optional, List(&Object(&RULE)), "What is allowed. Default: everything."),
        key("deny", Optional, List(&Object(&RULE)), "What is refused all the same."),
        key("auth", Optional, Object(&AUTH), "The credential egress puts into each request."),
        key(
            "role",
            Optional,
            OneOf(&["claude_code_oauth", "model_provider"]),
            "What the host is to the agent.",
        ),
        key("tls", Optional, OneOf(&["intercept", "passthrough"]), "Default intercept."),
        key("dlp", Optional, Object(&DLP_TABLE), "What the leak scan does with a finding."),
        key("address", Optional, Text, "The IP address the host is pinned to."),
        key(
            "allow_private",
            Optional,
            Bool,
            "Whether it may resolve to a private address. Default false.",
        ),
        key(
            "path_allowlist",
            Optional,
            List(&TEXT),
            "Today's form: path prefixes, by whole segments.",
        ),
        key("methods", Optional, List(&TEXT), "Today's form: the methods of the one rule."),
    ],
};

pub(super) static RULE: Table = Table {
    name: "Rule",
    about: "a rule",
    keys: &[
        key("methods", Optional, List(&TEXT), "Upper-case methods."),
        key("paths", Optional, List(&TEXT), "Globs over whole path segments."),
        key("access", Optional, OneOf(&["read", "all"]), "A class of requests instead of methods."),
        key("auth", Optional, Object(&AUTH), "A credential in place of the route's."),
        reserved("graphql"),
        reserved("until"),
    ],
};

/// An overlay: what `bottle allow --always` adds to a bottle, in `overlays/BOTTLE.yaml`, or beside
/// a manifest in one file.
pub(super) static OVERLAY: Table = Table {
    name: "Overlay",
    about: "an overlay",
    keys: &[key(
        "allow",
        Required,
        List(&Object(&ALLOWANCE)),
        "What the bottle allows beyond its own.",
    )],
};

pub(super) static ALLOWANCE: Table = Table {
    name: "Allowance",
    about: "an entry of an overlay",
    keys: &[
        key("bottle", Optional, NAME, "Whose; needed beside a manifest in one file."),
        key("host", Required, Text, "The host, as in a route."),
        key(
            "port",
            Optional,
            Integer(1, 65535),
            "Default 443. A route that is there keeps its port.",
        ),
        key("rule", Required, Object(&RULE), "What is allowed there, without a credential."),
        key("at", Optional, Text, "When it was allowed."),
    ],
};

pub(super) static AUTH: Table = Table {
    name: "Auth",
    about: "`auth`",
    keys: &[
        key(
            "scheme",
            Required,
            OneOf(&["Bearer", "token", "basic", "header"]),
            "How the credential is written.",
        ),
        key(
            "header",
            Optional,
            Text,
            "The header. Default authorization; needed by scheme header.",
        ),
        key("secret", Required, VARIABLE, "The logical secret."),
        key("token_ref", AliasOf("secret"), VARIABLE, "Today's spelling of `secret`."),
        key("placeholder", Optional, VARIABLE, "A variable that gets a placeholder in the agent."),
    ],
};

pub(super) static DLP_TABLE: Table = Table {
    name: "Dlp",
    about: "`dlp`",
    keys: &[
        key("own_secrets", Optional, DLP, "Exact values of the session's secrets."),
        key("patterns", Optional, DLP, "Token patterns."),
    ],
};

pub(super) static WORKSPACE: Table = Table {
    name: "Workspace",
    about: "`workspace`",
    keys: &[
        key(
            "modes",
            Optional,
            List(&OneOf(&["copy", "clone", "mount", "none"])),
            "The modes a launch may ask for. Default copy, clone and none.",
        ),
        key(
            "default",
            Optional,
            OneOf(&["copy", "clone", "mount", "none"]),
            "The mode of a plain launch.",
        ),
        key("hide", Optional, List(&TEXT), "Globs of files that never enter. Default `.env*`."),
        key("protect", Optional, List(&TEXT), "Globs of files that are read-only in mount mode."),
    ],
};

pub(super) static IMAGE: Table = Table {
    name: "Image",
    about: "`image`",
    keys: &[
        key("dockerfile", Optional, Text, "A Dockerfile below the manifest's folder."),
        key("context", Optional, Text, "Its build context. Default: an empty one."),
        key("reference", Optional, Text, "An image as it is, by tag or digest."),
        key(
            "version",
            Optional,
            Text,
            "The version of the provider's program. Default: bottle's own.",
        ),
        key("packages", Optional, List(&TEXT), "Debian packages on top of the provider's image."),
        key("setup", Optional, Text, "Shell lines run at build time."),
        key("build", Optional, Object(&BUILD), "How the image is built."),
        key("allow_from", Optional, List(&TEXT), "Bases for images that an agent proposes."),
    ],
};

pub(super) static BUILD: Table = Table {
    name: "Build",
    about: "`build`",
    keys: &[key(
        "network",
        Optional,
        OneOf(&["open", "none"]),
        "What the build may reach. Default open.",
    )],
};

pub(super) static PROVIDER: Table = Table {
    name: "Provider",
    about: "`provider`",
    keys: &[
        key("command", Required, List(&TEXT), "The argv of a first start."),
        key("resume_command", Optional, List(&TEXT), "The argv of a resumed session."),
        key("transcript", Optional, Text, "Where the transcript is written, inside the container."),
    ],
};

pub(super) static LIMITS: Table = Table {
    name: "Limits",
    about: "`limits`",
    keys: &[
        key("cpus", Optional, Scalar, "Cores, `1.5`. Default 2."),
        key("memory", Optional, Text, "`512MiB`, `4g`. Default 4 GiB."),
        key("pids", Optional, Integer(16, 4_194_304), "Processes and threads. Default 1024."),
        key("shm", Optional, Text, "The size of `/dev/shm`. Default 256 MiB."),
        key("time", Optional, Text, "From start to a forced stop, `12h`. Default 12 hours."),
        key("idle", Optional, Text, "Without output to a forced stop. Default 1 hour."),
    ],
};

/// The host config.
pub(super) static CONFIG: Table = Table {
    name: "HostConfig",
    about: "the host config",
    keys: &[
        key("secrets", Optional, Map(&Object(&SECRET_SOURCE)), "Where secrets come from, by name."),
        key("pool", Optional, Text, "Addresses for session networks. Default 10.201.0.0/16."),
        key("network", Optional, Object(&NETWORK), "The corporate proxy and extra trust."),
        key(
            "base_image",
            Optional,
            Text,
            "The base of built-in images and the git gate's, with apt-get. Default \
             debian:bookworm-slim.",
        ),
        key(
            "history_days",
            Optional,
            Integer(0, 36_500),
            "Days a session's record is kept. Default 30.",
        ),
    ],
};

pub(super) static SECRET_SOURCE: Table = Table {
    name: "SecretSource",
    about: "a secret's source",
    keys: &[
        key("command", Optional, List(&TEXT), "An argv whose standard output is the value."),
        key("env", Optional, VARIABLE, "A host variable."),
        key("file", Optional, Text, "A file on the host."),
    ],
};

pub(super) static NETWORK: Table = Table {
    name: "Network",
    about: "`network`",
    keys: &[
        key("proxy", Optional, Text, "`http://host:port` of the upstream proxy."),
        key("no_proxy", Optional, List(&TEXT), "Hosts and suffixes reached without it."),
        key("ca", Optional, Text, "A PEM file with extra certificate authorities."),
    ],
};
