//! Overlays: where `bottle allow --always` keeps a rule for later sessions, beside the manifest and
//! never in a folder that an agent writes to.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bottle_executor::files::Root;
use bottle_executor::lock::{Lock, LockError};
use bottle_executor::sources::overlay_of_file;
use bottle_executor::state::Roots;
use bottle_planner::approvals::{allow, is_allowed};
use bottle_planner::audit::Event;
use bottle_planner::escape::visible;
use bottle_planner::manifest::{Source, SourceKind, load};
use bottle_planner::plan::Plan;
use bottle_planner::policy::Bottle;
use bottle_planner::refusals::Widening;
use bottle_planner::words::{Name, Timestamp};

use crate::args::ManifestArgs;
use crate::audit;
use crate::context::{Context, absolute};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load as files;
use crate::output::Printer;
use crate::save::replace;
use crate::world;

/// What a new overlay begins with.
const HEAD: &str = "# What `bottle allow --always` added to the manifest. It only widens; yours to edit.\n\
                    allow:\n";

/// How long another process may take to keep a rule.
const PATIENCE: Duration = Duration::from_secs(5);

/// An overlay with one entry more, checked and not yet written.
#[derive(Debug)]
struct Prepared {
    path: PathBuf,
    bottle: Name,
    /// `None` where the manifest allows it already.
    text: Option<String>,
}

/// A rule that later sessions are to have too.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Beside which manifest it is kept.
    pub args: &'a ManifestArgs,
    /// The plan of the session that has it already.
    pub applied: &'a Plan,
    /// What it allows.
    pub wanted: &'a Widening,
    /// When a person said so.
    pub at: &'a Timestamp,
}

impl Standing<'_> {
    /// Whether it could be kept: looked at before anything is allowed.
    pub fn check(&self, context: &mut Context) -> Result<(), Failure> {
        prepare(context, self).map(drop)
    }

    /// Keeps it, and says so. Other sessions' rules may be kept at the same moment: one after another,
    /// each on what the one before left.
    pub fn keep(&self, context: &mut Context) -> Result<(), Failure> {
        let roots = context.roots(self.args)?;
        let _lock = lock(&roots)?;
        let prepared = prepare(context, self)?;
        if prepared.text.is_some() {
            let (bottle, rule) = (prepared.bottle.clone(), self.wanted.words());
            audit::note(&self.applied.identity, Event::Kept { bottle, rule }, context)?;
        }
        prepared.write(&mut context.printer)
    }
}

fn lock(roots: &Roots) -> Result<Lock, Failure> {
    let root = Root::open_or_make(&roots.root).map_err(|e| Failure::from_error(Exit::Error, &e))?;
    let begun = Instant::now();
    loop {
        match Lock::overlays(roots, &root) {
            Err(LockError::Held { .. }) if begun.elapsed() < PATIENCE => {
                sleep(Duration::from_millis(20));
            }
            taken => return taken.map_err(|e| Failure::from_error(Exit::Stale, &e)),
        }
    }
}

/// Works out the overlay that would allow this to later sessions.
fn prepare(context: &mut Context, standing: &Standing<'_>) -> Result<Prepared, Failure> {
    let Standing { args, applied, wanted, at } = *standing;
    let bottle = applied.grants.bottle.clone();
    if bottle.as_str().starts_with('@') {
        return Err(Failure::error(format!("{bottle} is built in and has no overlay"))
            .hint("make a bottle that extends it, or leave --always away"));
    }
    let (path, kind) = place(context, args, &bottle)?;
    outside_the_workspace(&path, applied)?;
    let sources = world::sources(context, args, None)?.0;
    let found = load(&sources);
    let Some(known) = found.manifest.bottles.get(&bottle) else {
        context.printer.diagnostics(&found.diagnostics, &sources);
        return Err(Failure::error(format!("there is no bottle `{bottle}` in that manifest"))
            .hint("name the one the session was planned from with --manifest or --manifest-dir"));
    };
    if is_there(known, wanted) {
        return Ok(Prepared { path, bottle, text: None });
    }
    if let Err(error) =
        allow(&mut known.egress.routes.clone(), &wanted.host, wanted.port, &wanted.rule)
    {
        return Err(Failure::error(format!("the manifest cannot allow {}: {error}", wanted.host)));
    }
    let old = match files::text(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => HEAD.to_owned(),
        Err(error) => {
            return Err(Failure::error(format!("cannot read {}", path.display())).because(&error));
        }
    };
    let entry = entry(&bottle, kind, wanted, at);
    let text = format!("{}\n{entry}", old.trim_end());
    // As it will be read: whoever edited the file may have ended it with something else.
    let mut after: Vec<Source> = sources
        .into_iter()
        .filter(|source| {
            source.kind != kind || {
                kind == SourceKind::HomeOverlay && source.stem != bottle.as_str()
            }
        })
        .collect();
    let shown = path.display().to_string();
    let mut source = Source::new(kind, shown, text.as_str());
    source.stem = bottle.to_string();
    after.push(source);
    let read = load(&after);
    if !read.manifest.bottles.get(&bottle).is_some_and(|bottle| is_there(bottle, wanted)) {
        return Err(Failure::error(format!("cannot add to {}", path.display()))
            .hint(format!("add this to its list `allow` yourself:\n{}", entry.trim_end())));
    }
    Ok(Prepared { path, bottle, text: Some(text) })
}

impl Prepared {
    /// Writes it, and says so.
    fn write(self, printer: &mut Printer) -> Result<(), Failure> {
        let shown = visible(&self.path.display().to_string());
        let Some(text) = self.text else {
            printer.say(&format!("Later sessions of bottle {} may do that already", self.bottle));
            return Ok(());
        };
        let written = self.path.parent().map_or(Ok(()), |folder| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
        });
        written.and_then(|()| replace(&self.path, &text, 0o600)).map_err(|error| {
            Failure::error(format!("the rule is not kept for later sessions: cannot write {shown}"))
                .because(&error)
        })?;
        printer.say(&format!("Later sessions of bottle {} may do so too: {shown}", self.bottle));
        Ok(())
    }
}

fn is_there(bottle: &Bottle, wanted: &Widening) -> bool {
    is_allowed(&bottle.egress.routes, &wanted.host, wanted.port, &wanted.rule)
}

fn place(
    context: &Context,
    args: &ManifestArgs,
    bottle: &Name,
) -> Result<(PathBuf, SourceKind), Failure> {
    match &args.manifest {
        Some(file) => Ok((overlay_of_file(&absolute(file)?), SourceKind::SingleOverlay)),
        None => {
            let file = format!("overlays/{bottle}.yaml");
            Ok((context.roots(args)?.manifest.join(file), SourceKind::HomeOverlay))
        }
    }
}

/// An agent that may write where its own overlay lies could allow itself anything.
fn outside_the_workspace(path: &Path, applied: &Plan) -> Result<(), Failure> {
    let Some(place) = &applied.session.workspace else { return Ok(()) };
    let real = |path: &Path| {
        let there = path.ancestors().find(|folder| folder.exists()).unwrap_or(path);
        there.canonicalize().unwrap_or_else(|_| there.to_owned())
    };
    let host = Path::new(place.host.as_str());
    if !real(path).starts_with(real(host)) {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Refused,
        format!(
            "the overlay {} would lie in the session's own folder {}",
            path.display(),
            place.host
        ),
    )
    .hint("write the route into the manifest yourself, where it is reviewed"))
}

/// One entry. JSON's quoted text is YAML's too.
fn entry(bottle: &Name, kind: SourceKind, wanted: &Widening, at: &Timestamp) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let list = |texts: &mut dyn Iterator<Item = &String>| {
        let texts: Vec<String> = texts.map(|text| quoted(text)).collect();
        format!("[{}]", texts.join(", "))
    };
    let Widening { host, port, rule } = wanted;
    let mut parts = Vec::new();
    if rule.methods.is_empty() {
        let access = match rule.access {
            bottle_planner::policy::Access::Read => "read",
            bottle_planner::policy::Access::All => "all",
        };
        parts.push(format!("access: {access}"));
    } else {
        parts.push(format!("methods: {}", list(&mut rule.methods.iter())));
    }
    if !rule.paths.is_empty() {
        parts.push(format!("paths: {}", list(&mut rule.paths.iter())));
    }
    let whose = match kind {
        SourceKind::SingleOverlay => format!("bottle: {bottle}\n    "),
        _ => String::new(),
    };
    format!(
        "  - {whose}host: {}\n    port: {port}\n    rule: {{{}}}\n    at: {}\n",
        quoted(host.as_str()),
        parts.join(", "),
        quoted(at.as_str())
    )
}
