//! One launch request: flags, a spec file and the session's stored spec, made into a spec.

use std::path::{Path, PathBuf};

use bottle_planner::document::{self, Strictness};
use bottle_planner::manifest::MAX_BYTES;
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::spec::{Overrides, Refresh, SessionRequest, Spec, WorkspaceRequest};
use bottle_planner::words::{AbsPath, Identity, Name, Timestamp};
use chrono::{DateTime, Utc};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::env::Env;
use crate::failure::Failure;
use crate::load;
use crate::sessions::Sessions;

/// What a launch asks for. The flags only write a spec; `--print-spec` shows it.
#[derive(Debug, Default, Args)]
pub struct RequestArgs {
    /// Which agent; may be left out where the manifest has only one
    pub agent: Option<String>,
    /// Further arguments for the agent's command
    #[arg(last = true, value_name = "ARGS")]
    pub args: Vec<String>,
    /// Take the whole request from a JSON or YAML file; flags go over it
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    pub spec: Option<PathBuf>,
    /// Name the session; one that exists is planned from what was asked for it before
    #[arg(long, visible_alias = "name", value_name = "ID", help_heading = "Request")]
    pub identity: Option<String>,
    /// The time of planning, RFC 3339 (default: SOURCE_DATE_EPOCH, else now)
    #[arg(long, value_name = "TIME", help_heading = "Request")]
    pub at: Option<String>,
    /// Bring a host folder in: copy, clone, mount, or none
    #[arg(long, value_name = "MODE", help_heading = "Request")]
    pub workspace: Option<Mode>,
    /// The folder to bring in (default: the current one, if --workspace is given)
    #[arg(long, value_name = "DIR", help_heading = "Request")]
    pub cwd: Option<PathBuf>,
    /// Work for a run without a terminal; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE", help_heading = "Request")]
    pub task: Option<String>,
    /// Start an ended session again, with the provider's resume command
    #[arg(long, help_heading = "Request")]
    pub resume: bool,
    /// What a live session should take over: workspace, image or tool (repeatable)
    #[arg(long, value_name = "PART", help_heading = "Request")]
    pub refresh: Vec<Part>,
}

/// A workspace mode as a flag has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The folder's files as they are, in an image
    Copy,
    /// A fresh clone of the folder's commit
    Clone,
    /// The folder itself
    Mount,
    /// No folder
    None,
}

impl From<Mode> for WorkspaceMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Copy => Self::Copy,
            Mode::Clone => Self::Clone,
            Mode::Mount => Self::Mount,
            Mode::None => Self::None,
        }
    }
}

/// A frozen part as a flag has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The workspace's present content
    Workspace,
    /// The images' present content
    Image,
    /// The present `bottle` binary
    Tool,
}

impl From<Part> for Refresh {
    fn from(part: Part) -> Self {
        match part {
            Part::Workspace => Self::Workspace,
            Part::Image => Self::Image,
            Part::Tool => Self::Tool,
        }
    }
}

/// A request before its agent is known.
#[derive(Debug, Clone)]
pub struct Draft {
    /// The agent, if the flags, the spec file or the session name one.
    pub agent: Option<Name>,
    spec: Spec,
}

impl Draft {
    /// The spec for an agent.
    #[must_use]
    pub fn with_agent(mut self, agent: Name) -> Spec {
        self.spec.agent = agent;
        self.spec
    }

    /// The session that is named, whether there is one or not.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        match &self.spec.session {
            SessionRequest::Named { identity } => Some(identity),
            SessionRequest::New { .. } => None,
        }
    }

    /// The folder whose repository manifest counts: the workspace, where one was asked for.
    #[must_use]
    pub fn folder(&self) -> Option<PathBuf> {
        self.spec.workspace.as_ref().map(|w| PathBuf::from(w.path.as_str()))
    }
}

/// Reads the request. `now` is the clock, asked only if nothing else fixes the time.
pub fn draft(
    args: &RequestArgs,
    env: Env,
    sessions: &Sessions,
    now: impl Fn() -> DateTime<Utc>,
) -> Result<Draft, Failure> {
    let identity = args.identity.as_deref().map(|text| identity(text, sessions)).transpose()?;
    let stored = match &identity {
        Some(identity) => sessions.spec(identity)?,
        None => None,
    };
    let at = time(args.at.as_deref(), env, now)?;
    let (mut spec, mut agent) = match (&args.spec, stored) {
        (Some(file), _) => spec_file(file, &at)?,
        (None, Some(mut spec)) => {
            // What was asked of the session once and for one launch only is not asked again.
            (spec.resume, spec.offline) = (false, false);
            spec.refresh.clear();
            spec.at = at.clone();
            let agent = Some(spec.agent.clone());
            (spec, agent)
        }
        (None, None) => (empty(&at)?, None),
    };
    if args.at.is_some() {
        spec.at = at;
    }
    if let Some(text) = &args.agent {
        let name =
            Name::new(text.as_str()).map_err(|e| Failure::usage(format!("no such agent: {e}")))?;
        agent = Some(name);
    }
    if let Some(identity) = identity {
        spec.session = SessionRequest::Named { identity };
    }
    workspace(&mut spec, args)?;
    if let Some(task) = &args.task {
        spec.task = Some(text_of(task)?).filter(|task| !task.is_empty());
    }
    if !args.args.is_empty() {
        spec.args.clone_from(&args.args);
    }
    spec.resume |= args.resume;
    spec.refresh.extend(args.refresh.iter().copied().map(Refresh::from));
    override_by(&mut spec.overrides, env.overrides()?);
    Ok(Draft { agent, spec })
}

fn identity(text: &str, sessions: &Sessions) -> Result<Identity, Failure> {
    if text == "@last" {
        return sessions.find(text);
    }
    Identity::new(text).map_err(|e| Failure::usage(e.to_string()))
}

fn empty(at: &Timestamp) -> Result<Spec, Failure> {
    let agent = Name::new("unnamed").map_err(|e| Failure::error(e.to_string()))?;
    Ok(Spec {
        agent,
        session: SessionRequest::New { suffix: suffix()? },
        at: at.clone(),
        workspace: None,
        resume: false,
        task: None,
        args: Vec::new(),
        overrides: Overrides::default(),
        refresh: std::collections::BTreeSet::new(),
        offline: false,
    })
}

/// Reads a spec; what the file leaves out has its default, the agent and the session included.
fn spec_file(path: &Path, at: &Timestamp) -> Result<(Spec, Option<Name>), Failure> {
    let shown = path.display();
    let wrong = |why: String| Failure::error(format!("expected a spec in {shown}: {why}"));
    let text =
        load::text(path).map_err(|e| Failure::error(format!("cannot read {shown}")).because(&e))?;
    let mut given = if text.trim_start().starts_with('{') {
        document::parse_value(&text).map_err(|e| wrong(e.to_string()))?
    } else {
        serde_yaml::from_str::<Value>(&text).map_err(|e| wrong(e.to_string()))?
    };
    let defaults = serde_json::to_value(empty(at)?).map_err(|e| wrong(e.to_string()))?;
    let (Value::Object(fields), Value::Object(defaults)) = (&mut given, defaults) else {
        return Err(wrong("found no mapping".to_owned()));
    };
    let named = fields.contains_key("agent");
    for (key, value) in defaults {
        fields.entry(key).or_insert(value);
    }
    if let Some(Value::Object(overrides)) = fields.get_mut("overrides") {
        for key in ["image", "derived_image", "container"] {
            overrides.entry(key).or_insert(Value::Null);
        }
    }
    if let Some(Value::Object(workspace)) = fields.get_mut("workspace") {
        workspace.entry("mode").or_insert(json!(null));
    }
    let spec = document::from_value::<Spec>(given, Strictness::Strict)
        .map_err(|e| wrong(e.to_string()))?
        .value;
    let agent = named.then(|| spec.agent.clone());
    Ok((spec, agent))
}

fn workspace(spec: &mut Spec, args: &RequestArgs) -> Result<(), Failure> {
    let mode = args.workspace.map(WorkspaceMode::from);
    if mode == Some(WorkspaceMode::None) {
        if args.cwd.is_some() {
            return Err(Failure::usage("--workspace none and --cwd do not go together"));
        }
        spec.workspace = None;
        return Ok(());
    }
    if mode.is_none() && args.cwd.is_none() {
        return Ok(());
    }
    let path = match (&args.cwd, &spec.workspace) {
        (Some(folder), _) => host_folder(folder)?,
        (None, Some(stored)) => stored.path.clone(),
        (None, None) => host_folder(Path::new("."))?,
    };
    let mode = mode.or_else(|| spec.workspace.as_ref().and_then(|stored| stored.mode));
    spec.workspace = Some(WorkspaceRequest { path, mode });
    Ok(())
}

/// A folder of this host, links resolved.
pub fn host_folder(path: &Path) -> Result<AbsPath, Failure> {
    let shown = path.display();
    let real = path
        .canonicalize()
        .map_err(|e| Failure::error(format!("cannot use {shown} as a workspace")).because(&e))?;
    if !real.is_dir() {
        return Err(Failure::error(format!("expected a folder at {shown}, found a file")));
    }
    let text = real.into_os_string().into_string().map_err(|_| {
        Failure::error(format!("the path of {shown} is not UTF-8")).hint("rename the folder")
    })?;
    AbsPath::new(text).map_err(|e| Failure::error(e.to_string()))
}

/// `@FILE` is the file's text, anything else is itself.
fn text_of(task: &str) -> Result<String, Failure> {
    let Some(file) = task.strip_prefix('@') else { return Ok(task.to_owned()) };
    let fail = |e: &dyn std::error::Error| {
        Failure::error(format!("cannot read the task in {file}")).because(e)
    };
    let text = load::text(Path::new(file)).map_err(|e| fail(&e))?;
    if text.len() > MAX_BYTES {
        return Err(Failure::error(format!("the task in {file} has more than 1 MiB")));
    }
    Ok(text.trim_end().to_owned())
}

fn override_by(stored: &mut Overrides, now: Overrides) {
    let over = |stored: &mut Option<String>, now: Option<String>| {
        if now.is_some() {
            *stored = now;
        }
    };
    over(&mut stored.image, now.image);
    over(&mut stored.derived_image, now.derived_image);
    over(&mut stored.container, now.container);
}

/// The time of planning: a flag, else `SOURCE_DATE_EPOCH`, else the clock.
pub fn time(
    at: Option<&str>,
    env: Env,
    now: impl Fn() -> DateTime<Utc>,
) -> Result<Timestamp, Failure> {
    let time = match (at, env.source_date_epoch()?) {
        (Some(text), _) => DateTime::parse_from_rfc3339(text)
            .map_err(|_| {
                Failure::usage(format!(
                    "expected a time like 2026-01-31T12:00:00Z, found `{}`",
                    text.escape_debug()
                ))
            })?
            .with_timezone(&Utc),
        (None, Some(seconds)) => DateTime::from_timestamp(seconds, 0)
            .ok_or_else(|| Failure::usage("the time in SOURCE_DATE_EPOCH is out of range"))?,
        (None, None) => now(),
    };
    Timestamp::new(time.format("%Y-%m-%dT%H:%M:%SZ").to_string())
        .map_err(|e| Failure::usage(e.to_string()))
}

/// Five characters `[a-z0-9]` from the operating system's random source.
pub fn suffix() -> Result<String, Failure> {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut suffix = String::new();
    while suffix.len() < 5 {
        let mut bytes = [0u8; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|e| Failure::error("the system gave no random bytes").because(&e))?;
        // 252 is the largest multiple of 36 below 256: what lies above would favour some.
        let even = bytes.iter().filter(|byte| **byte < 252);
        suffix.extend(even.map(|byte| char::from(ALPHABET[usize::from(*byte % 36)])));
        suffix.truncate(5);
    }
    Ok(suffix)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn clock() -> DateTime<Utc> {
        DateTime::from_timestamp(1_800_000_000, 0).unwrap()
    }

    fn drafted(args: &RequestArgs, root: &Path) -> Result<Draft, Failure> {
        draft(args, Env::empty(), &Sessions::of(root), clock)
    }

    #[test]
    fn nothing_said_is_a_new_session_without_a_workspace() {
        let root = tempfile::tempdir().unwrap();
        let draft = drafted(&RequestArgs::default(), root.path()).unwrap();
        assert_eq!(draft.agent, None);
        let spec = draft.with_agent(Name::new("dev").unwrap());
        assert_eq!(spec.at.as_str(), "2027-01-15T08:00:00Z");
        assert_eq!(spec.workspace, None);
        assert!(matches!(spec.session, SessionRequest::New { suffix } if suffix.len() == 5));
    }

    #[test]
    fn suffixes_differ() {
        let (one, two) = (suffix().unwrap(), suffix().unwrap());
        assert_ne!(one, two);
        assert!(one.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()));
    }

    #[test]
    fn a_stored_spec_is_the_base() {
        let root = tempfile::tempdir().unwrap();
        let state = root.path().join("state/dev-aaaaa");
        fs::create_dir_all(&state).unwrap();
        let args = RequestArgs {
            identity: Some("dev-aaaaa".into()),
            cwd: Some(root.path().to_owned()),
            workspace: Some(Mode::Copy),
            task: Some("fix it".into()),
            args: vec!["--fast".into()],
            resume: true,
            refresh: vec![Part::Tool],
            ..RequestArgs::default()
        };
        let first = drafted(&args, root.path()).unwrap().with_agent(Name::new("dev").unwrap());
        let stored = json!({ "spec": first });
        fs::write(state.join("plan.json"), stored.to_string()).unwrap();

        let args = RequestArgs { identity: Some("dev-aaaaa".into()), ..RequestArgs::default() };
        let again = drafted(&args, root.path()).unwrap();
        assert_eq!(again.agent.as_ref().map(Name::as_str), Some("dev"));
        let again = again.with_agent(Name::new("dev").unwrap());
        assert_eq!(again.workspace, first.workspace);
        assert_eq!((again.task, again.args), (first.task, first.args));
        assert!(!again.resume && again.refresh.is_empty(), "asked for one launch alone");

        let args = RequestArgs {
            identity: Some("dev-aaaaa".into()),
            workspace: Some(Mode::Mount),
            task: Some(String::new()),
            ..RequestArgs::default()
        };
        let over = drafted(&args, root.path()).unwrap().with_agent(Name::new("dev").unwrap());
        let workspace = over.workspace.unwrap();
        assert_eq!(Some(&workspace.path), first.workspace.as_ref().map(|w| &w.path));
        assert_eq!(workspace.mode, Some(WorkspaceMode::Mount));
        assert_eq!(over.task, None);
    }

    #[test]
    fn a_spec_file_may_leave_things_out() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("spec.yaml");
        let read = |text: &str, args: RequestArgs| {
            fs::write(&file, text).unwrap();
            drafted(&RequestArgs { spec: Some(file.clone()), ..args }, root.path())
                .map_err(|f| f.to_string())
        };
        let draft = read("agent: dev\ntask: hello\n", RequestArgs::default()).unwrap();
        assert_eq!(draft.agent.as_ref().map(Name::as_str), Some("dev"));
        let draft = read("{\"task\": \"a\"}", RequestArgs::default()).unwrap();
        assert_eq!(draft.agent, None);
        let task = RequestArgs { task: Some("b".into()), ..RequestArgs::default() };
        let spec = read("task: a\n", task).unwrap().with_agent(Name::new("x").unwrap());
        assert_eq!(spec.task.as_deref(), Some("b"));
        let error = read("agent: dev\ntaks: a\n", RequestArgs::default()).unwrap_err();
        assert!(error.contains("unknown field `/taks`"), "{error}");
        assert!(read("[]", RequestArgs::default()).unwrap_err().contains("no mapping"));
    }

    #[test]
    fn a_task_from_a_file() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("task.md");
        fs::write(&file, "do it\n").unwrap();
        assert_eq!(text_of(&format!("@{}", file.display())).unwrap(), "do it");
        assert!(text_of("@/nonexistent").is_err());
    }

    #[test]
    fn no_folder_and_a_folder_do_not_go_together() {
        let root = tempfile::tempdir().unwrap();
        let args = RequestArgs {
            workspace: Some(Mode::None),
            cwd: Some(".".into()),
            ..RequestArgs::default()
        };
        assert!(drafted(&args, root.path()).is_err());
    }

    #[test]
    fn times() {
        let at = |text: &str| time(Some(text), Env::empty(), clock).map(String::from);
        assert_eq!(at("2026-01-31T13:00:00+01:00").unwrap(), "2026-01-31T12:00:00Z");
        assert!(at("yesterday").is_err());
        assert!(at("2026-02-31T12:00:00Z").is_err());
    }
}
