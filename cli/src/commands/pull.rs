//! `bottle pull`: what an agent did comes back as a patch, shown first.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bottle_executor::files::Root;
use bottle_executor::lock::Lock;
use bottle_executor::state::Roots;
use bottle_executor::tree::Hide;
use bottle_executor::work::{
    self, ArrivalError, Change, Changed, Commits, CommitsError, Of, Pulled, Text, Work, WorkError,
    look,
};
use bottle_planner::escape::visible;
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::words::Role;
use clap::Args;
use serde::Serialize;

use crate::args::ManifestArgs;
use crate::ask;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::{Failure, Problem};
use crate::output::{Colour, Printer};
use crate::planted::Mounted;
use crate::running::Running;
use crate::save;
use crate::world;

/// How many commits are listed one by one.
const LISTED: usize = 50;
/// As much of a patch is shown at once, in bytes.
const PIECE: usize = 1 << 20;
/// How many of the paths that stay behind are named.
const NAMED: usize = 5;

/// Brings back what an agent did: shows it, asks, and writes exactly what was shown.
///
/// Of a copy of your folder changed files come back into the folder, each only where it still is
/// what the agent began with, or what an earlier pull left; else nothing is written, and --patch
/// is the way out (`git apply --3way`). Of a clone commits come back as branch agent/ID of your
/// repository, whose work tree and current branch are not touched; what is not committed comes as a
/// patch.
///
/// What your host runs, or lets decide what is run, without being asked (hooks, editors' settings,
/// .envrc, workflows, executable files, links out of the folder) is listed apart, asked for apart,
/// and not written on --yes alone; a patch and commits have it, and it is named. Never written:
/// .git, and what `hide` names. What .gitignore names and is new stays behind. Read are at most 32
/// GiB and 2,000,000 files with 256 MiB of names; brought back files of at most 256 MiB, 4 GiB
/// together.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle pull @last\n  \
    bottle pull dev-ab12c --yes                       all but what the host would execute\n  \
    bottle pull dev-ab12c --yes --with-executed       that, too\n  \
    bottle pull dev-ab12c --patch - | git apply --3way\n  \
    bottle pull dev-ab12c --discard                   nothing of it is wanted")]
pub struct Pull {
    /// The session: its ID, a unique beginning of it, or `@last`
    #[arg(default_value = "@last")]
    id: String,
    /// Do it without asking; leaves out what the host would execute
    #[arg(short, long)]
    yes: bool,
    /// With --yes: also what the host would execute
    #[arg(long, requires = "yes")]
    with_executed: bool,
    /// Write the changes of files to a patch (`-` is standard output) and leave the folder alone
    #[arg(long, value_name = "FILE", conflicts_with_all = ["yes", "json"])]
    patch: Option<PathBuf>,
    /// Give up what was not pulled: the session may end without it
    #[arg(long, conflicts_with_all = ["patch", "with_executed"])]
    discard: bool,
    /// What there is, and what was done, as JSON on standard output; asks nothing
    #[arg(long)]
    json: bool,
}

/// Brings back what a session's agent did, asking a person.
pub fn by_asking(id: &str, context: &mut Context) -> Result<Exit, Failure> {
    let id = id.to_owned();
    let args =
        Pull { id, yes: false, with_executed: false, patch: None, discard: false, json: false };
    run(&args, context)
}

/// Runs the command.
pub fn run(args: &Pull, context: &mut Context) -> Result<Exit, Failure> {
    let seen = Seen::look(&args.id, context)?;
    let todo = seen.work.unpulled(&seen.pulled);
    let commits = seen.new_commits()?;
    if let Some(to) = &args.patch {
        return seen.write_patch(&todo, to, context);
    }
    let (ordinary, executed) = seen.sorted(todo)?;
    if let Some(mounted) = Mounted::of(&seen.roots, &seen.running.plan) {
        mounted.tell(&mut context.printer);
    }
    if args.json {
        return seen.as_json(args, &ordinary, &executed, commits, context);
    }
    let identity = &seen.running.identity;
    if ordinary.is_empty() && executed.is_empty() && commits.is_none() {
        context.printer.say(&format!("Session {identity} has nothing that is not here already"));
        tell_left(&seen.work, &mut context.printer);
        return Ok(Exit::Ok);
    }
    seen.show(&ordinary, &executed, commits, &mut context.printer)?;
    tell_left(&seen.work, &mut context.printer);
    if args.discard {
        return seen.discard(args.yes, context);
    }
    match commits {
        Some(commits) => seen.pull_commits(args, commits, context)?,
        None if seen.is_clone() => {}
        None => return seen.pull_files(args, &ordinary, &executed, context),
    }
    if !ordinary.is_empty() || !executed.is_empty() {
        context.printer.say(&format!(
            "What is not committed stays in the session: `bottle pull {identity} --patch FILE` \
             writes it down"
        ));
    }
    Ok(Exit::Ok)
}

/// What of a session's work is neither here nor upstream, in words; `None` is nothing.
pub fn unfinished(id: &str, context: &mut Context) -> Result<Option<String>, Failure> {
    let place = {
        let running = Running::find(id, context)?;
        running.plan.session.workspace.as_ref().map(|place| place.mode)
    };
    if place.is_none_or(|mode| mode == WorkspaceMode::None) {
        return Ok(None);
    }
    let seen = Seen::look(id, context)?;
    let running = &seen.running;
    let files = seen.work.unpulled(&seen.pulled).len();
    let scratch = scratch(&seen.roots, running);
    let commits = match &seen.work.commits {
        None => false,
        Some(_) => {
            let upstream = work::upstream(&running.engine, &running.plan, &scratch);
            let upstream = running.runtime.block_on(upstream)?;
            seen.work.has_new_commits(&seen.pulled, &upstream).map_err(|e| told(&e))?
        }
    };
    Ok(match (files, commits) {
        (0, false) => None,
        (0, true) => Some("commits that were neither pulled nor pushed".to_owned()),
        (n, false) => Some(format!("{} not pulled", counted(n, "changed file"))),
        (n, true) => Some(format!(
            "{} not pulled, and commits that were neither pulled nor pushed",
            counted(n, "changed file")
        )),
    })
}

/// A session's work as it was read once: what is shown of it is what is written.
struct Seen {
    running: Running,
    roots: Roots,
    state: Root,
    pulled: Pulled,
    work: Work,
    hide: Hide,
    protect: Hide,
}

/// A change, its text, and why it is set apart.
struct Shown<'w> {
    change: &'w Change,
    text: Text,
    why: Option<String>,
}

impl Seen {
    fn look(id: &str, context: &mut Context) -> Result<Self, Failure> {
        let running = Running::find(id, context)?;
        let roots = context.roots(&ManifestArgs::default())?;
        let state = Root::open(&roots.state(&running.identity)).map_err(|e| told(&e))?;
        let state = state.ok_or_else(|| Failure::error("the session's state folder is gone"))?;
        let pulled = Pulled::load(&state).map_err(|e| told(&e))?;
        let mode = running.plan.session.workspace.as_ref().map(|place| place.mode);
        match mode {
            Some(WorkspaceMode::Copy | WorkspaceMode::Clone | WorkspaceMode::Mount) => {}
            _ => {
                return Err(Failure::usage(format!(
                    "session {} has no workspace",
                    running.identity
                )));
            }
        }
        let Some(container) = running.look(Role::Agent)? else {
            return Err(Failure::error(format!(
                "the agent's container of session {} is not there",
                running.identity
            ))
            .hint(format!("`bottle resume {}` makes it anew from its volumes", running.identity)));
        };
        let of = Of {
            plan: &running.plan,
            container: &container.id,
            scratch: &scratch(&roots, &running),
            path: path(context),
        };
        let work = running.runtime.block_on(look(&running.engine, &of))?;
        let globs = &running.plan.grants.workspace;
        let hide = Hide::new(&globs.hide).map_err(|e| told(&e))?;
        let protect = Hide::new(&globs.protect).map_err(|e| told(&e))?;
        Ok(Self { running, roots, state, pulled, work, hide, protect })
    }

    fn is_clone(&self) -> bool {
        self.work.commits.is_some()
    }

    fn host(&self) -> String {
        let place = self.running.plan.session.workspace.as_ref();
        place.map_or(String::new(), |place| visible(place.host.as_str()))
    }

    fn branch(&self) -> String {
        format!("agent/{}", self.running.identity)
    }

    /// The commits, where the host's branch does not stand at them yet.
    fn new_commits(&self) -> Result<Option<&Commits>, Failure> {
        let Some(commits) = &self.work.commits else { return Ok(None) };
        let known = self.pulled.tips.contains(&commits.head) || commits.head == commits.start;
        Ok((!known).then_some(commits))
    }

    /// Ordinary changes, and those that the host would execute, each with its text.
    fn sorted<'w>(&self, todo: Vec<&'w Change>) -> Result<(Vec<Shown<'w>>, Vec<Shown<'w>>), Failure>
    where
        Self: 'w,
    {
        let mut all = Vec::with_capacity(todo.len());
        for change in todo {
            let text = self.work.text(change).map_err(|e| told(&e))?;
            let why = why(&change.path, change.is_executed(), &self.protect);
            all.push(Shown { change, text, why });
        }
        Ok(all.into_iter().partition(|shown| shown.why.is_none()))
    }

    fn show(
        &self,
        ordinary: &[Shown<'_>],
        executed: &[Shown<'_>],
        commits: Option<&Commits>,
        printer: &mut Printer,
    ) -> Result<(), Failure> {
        if let Some(commits) = commits {
            show_commits(commits, &self.hide, &self.protect, printer)?;
        }
        if self.is_clone() && !(ordinary.is_empty() && executed.is_empty()) {
            let head = printer.paint_data(Colour::Bold, "Not committed:");
            printer.data(&format!("{head}\n"))?;
        }
        for shown in ordinary {
            show_text(&shown.text, printer)?;
        }
        if !executed.is_empty() {
            let head = "The host would execute these, or do what they say:";
            let head = printer.paint_data(Colour::Red, head);
            printer.data(&format!("{head}\n"))?;
            for shown in executed {
                let why = shown.why.as_deref().unwrap_or_default();
                printer.data(&format!("  {}: {}\n", shown.change.name(), visible(why)))?;
            }
            for shown in executed {
                show_text(&shown.text, printer)?;
            }
        }
        let all = ordinary.iter().chain(executed);
        let (added, removed) =
            all.fold((0, 0), |(a, r), shown| (a + shown.text.added, r + shown.text.removed));
        let files = ordinary.len() + executed.len();
        if files > 0 {
            printer.data(&format!("{}, +{added} -{removed}\n", counted(files, "file")))?;
        }
        Ok(())
    }

    /// What stands in the way of these changes.
    fn conflicts(&self, wanted: &[&Change]) -> Result<Vec<Problem>, Failure> {
        let found = self.work.conflicts(wanted, &self.pulled).map_err(|e| told(&e))?;
        let problem = |error: &work::BringError| Problem {
            message: error.to_string(),
            causes: Vec::new(),
            hint: None,
        };
        Ok(found.iter().map(problem).collect())
    }

    fn refuse_conflicts(&self, wanted: &[&Change]) -> Result<(), Failure> {
        let problems = self.conflicts(wanted)?;
        if problems.is_empty() {
            return Ok(());
        }
        let identity = &self.running.identity;
        Err(Failure { exit: Exit::Stale, problems, again: true }.hint(format!(
            "nothing was written: {} changed since the agent began. `bottle pull {identity} --patch \
             FILE` writes the patch down, and `git apply --3way FILE` merges it",
            self.host()
        )))
    }

    fn pull_files(
        &self,
        args: &Pull,
        ordinary: &[Shown<'_>],
        executed: &[Shown<'_>],
        context: &mut Context,
    ) -> Result<Exit, Failure> {
        let printer = &mut context.printer;
        let of = |shown: &[Shown<'_>]| -> Vec<PathBuf> {
            shown.iter().map(|s| s.change.path.clone()).collect()
        };
        let mut wanted: Vec<PathBuf> = Vec::new();
        let changes = |paths: &[PathBuf]| -> Vec<&Change> {
            self.work.changes.iter().filter(|c| paths.contains(&c.path)).collect()
        };
        // Before anybody is asked: what cannot be written is no question.
        self.refuse_conflicts(&changes(&of(ordinary)))?;
        if args.yes {
            wanted.extend(of(ordinary));
            if args.with_executed {
                wanted.extend(of(executed));
            }
        } else if printer.is_interactive() {
            let files = counted(ordinary.len(), "file");
            if !ordinary.is_empty()
                && ask::confirm(printer, &format!("Write {files} into {}?", self.host()))?
            {
                wanted.extend(of(ordinary));
            }
            let files = counted(executed.len(), "file");
            let question = format!("Write {files} that this host would execute, too?");
            if !executed.is_empty() && ask::confirm(printer, &question)? {
                wanted.extend(of(executed));
            }
        } else {
            return Err(Failure::new(Exit::Refused, "nobody approved and nobody can be asked")
                .hint("say --yes if that is meant, or --patch FILE to write the patch down"));
        }
        if wanted.is_empty() && !args.yes {
            return Err(Failure::new(Exit::Refused, "not approved; nothing was touched"));
        }
        let done = self.write(&changes(&wanted), context)?;
        let printer = &mut context.printer;
        printer.say(&format!("{} written into {}", counted(done, "file"), self.host()));
        if !executed.is_empty() && !wanted.iter().any(|p| of(executed).contains(p)) {
            printer.warn(&format!(
                "{} that this host would execute {} not written",
                counted(executed.len(), "file"),
                if executed.len() == 1 { "was" } else { "were" }
            ));
            if args.yes {
                printer.say("--with-executed writes such files, too");
            }
        }
        Ok(Exit::Ok)
    }

    /// Writes changes and remembers what was written, also where not all was.
    fn write(&self, wanted: &[&Change], context: &Context) -> Result<usize, Failure> {
        let _lock = self.lock(context)?;
        self.refuse_conflicts(wanted)?;
        let (done, ended) = self.work.bring(wanted, &self.pulled).map_err(|e| told(&e))?;
        let mut pulled = self.pulled.clone();
        for change in wanted.iter().filter(|change| done.contains(&change.path)) {
            pulled.files.insert(change.name(), change.state());
        }
        pulled.store(&self.state).map_err(|e| told(&e))?;
        ended.map_err(|error| {
            let exit = match &error {
                work::BringError::Conflict { .. } if done.is_empty() => Exit::Stale,
                _ => Exit::Partial,
            };
            Failure::from_error(exit, &error).hint(format!(
                "{} written before that; pull again to carry on",
                counted(done.len(), "file")
            ))
        })?;
        Ok(done.len())
    }

    fn pull_commits(
        &self,
        args: &Pull,
        commits: &Commits,
        context: &mut Context,
    ) -> Result<(), Failure> {
        let branch = self.branch();
        let printer = &mut context.printer;
        if !args.yes {
            if !printer.is_interactive() {
                return Err(Failure::new(Exit::Refused, "nobody approved and nobody can be asked")
                    .hint("say --yes if that is meant"));
            }
            let question = format!("Take them as branch {branch} into {}?", self.host());
            if !ask::confirm(printer, &question)? {
                return Err(Failure::new(Exit::Refused, "not approved; nothing was touched"));
            }
        }
        self.take_commits(commits, context)?;
        context.printer.say(&format!(
            "Branch {branch} of {} is at {}; `git merge {branch}` takes it up",
            self.host(),
            commits.head.get(..12).unwrap_or_default()
        ));
        Ok(())
    }

    fn take_commits(&self, commits: &Commits, context: &Context) -> Result<(), Failure> {
        let _lock = self.lock(context)?;
        let brought = self.work.bring_commits(&self.branch(), &self.pulled);
        brought.map_err(|error| {
            let exit = match &error {
                WorkError::Commits(
                    CommitsError::Moved { .. } | CommitsError::CheckedOut { .. },
                ) => Exit::Stale,
                _ => Exit::Error,
            };
            let hint = match exit {
                Exit::Stale => "rename or delete that branch, or check out another, and pull again",
                _ => "",
            };
            let failure = Failure::from_error(exit, &error);
            if hint.is_empty() { failure } else { failure.hint(hint) }
        })?;
        let mut pulled = self.pulled.clone();
        pulled.commit = Some(commits.head.clone());
        pulled.tips.insert(commits.head.clone());
        pulled.store(&self.state).map_err(|e| told(&e))
    }

    fn write_patch(
        &self,
        todo: &[&Change],
        to: &Path,
        context: &mut Context,
    ) -> Result<Exit, Failure> {
        let mut patch = Vec::new();
        for change in todo {
            patch.extend(self.work.text(change).map_err(|e| told(&e))?.patch);
        }
        let printer = &mut context.printer;
        let why = |c: &&Change| Some((c.name(), why(&c.path, c.is_executed(), &self.protect)?));
        let executed: Vec<(String, String)> = todo.iter().filter_map(why).collect();
        if !executed.is_empty() {
            printer.warn(
                "where the patch is applied, the host would execute these, or do what they say:",
            );
            for (name, why) in executed {
                printer.say(&format!("  {name}: {}", visible(&why)));
            }
        }
        if to.as_os_str() == "-" {
            printer.pass(&patch, false)?;
        } else {
            save::save(to, &patch)?;
        }
        tell_left(&self.work, printer);
        // Nobody knows yet whether it will apply.
        printer.say(&format!(
            "{} in the patch, not pulled yet: once you have them, `bottle pull {} --discard` says so",
            counted(todo.len(), "file"),
            self.running.identity
        ));
        if self.new_commits()?.is_some() {
            printer.say(&format!(
                "commits are not in it: `bottle pull {}` takes them as branch {}",
                self.running.identity,
                self.branch()
            ));
        }
        Ok(Exit::Ok)
    }

    fn discard(&self, yes: bool, context: &mut Context) -> Result<Exit, Failure> {
        let printer = &mut context.printer;
        if !yes {
            if !printer.is_interactive() {
                return Err(Failure::new(Exit::Refused, "nobody approved and nobody can be asked")
                    .hint("say --yes if that is meant"));
            }
            if !ask::confirm(printer, "Give all of this up?")? {
                return Err(Failure::new(Exit::Refused, "not approved; nothing was touched"));
            }
        }
        let _lock = self.lock(context)?;
        let mut pulled = self.pulled.clone();
        let all = self.work.changes.iter();
        pulled.files.extend(all.map(|change| (change.name(), change.state())));
        if let Some(commits) = &self.work.commits {
            pulled.tips.extend(commits.tips.iter().cloned());
        }
        pulled.store(&self.state).map_err(|e| told(&e))?;
        context
            .printer
            .say("Given up; it stays in the session until that ends, and in its record after that");
        Ok(Exit::Ok)
    }

    fn as_json(
        &self,
        args: &Pull,
        ordinary: &[Shown<'_>],
        executed: &[Shown<'_>],
        commits: Option<&Commits>,
        context: &mut Context,
    ) -> Result<Exit, Failure> {
        let wanted: Vec<&Change> = ordinary
            .iter()
            .chain(executed.iter().filter(|_| args.with_executed))
            .map(|shown| shown.change)
            .collect();
        let conflicts = if self.is_clone() { Vec::new() } else { self.conflicts(&wanted)? };
        let stands = conflicts.iter().map(|problem| problem.message.clone()).collect();
        let mut written = false;
        if args.discard && args.yes {
            self.discard(true, context)?;
        } else if args.yes && conflicts.is_empty() {
            if let Some(commits) = commits {
                self.take_commits(commits, context)?;
            }
            if !self.is_clone() {
                self.write(&wanted, context)?;
            }
            written = true;
        }
        let left = &self.work.left;
        let names =
            |paths: &[PathBuf]| paths.iter().map(|p| visible(&p.to_string_lossy())).collect();
        let executed_of = |commits: &Commits| {
            let changed = commits.changed().map_err(|e| told(&e))?;
            Ok::<_, Failure>(executed_of(&changed, &self.protect))
        };
        let in_commits = commits.map(executed_of).transpose()?.unwrap_or_default();
        let document = Document {
            identity: self.running.identity.to_string(),
            mode: if self.is_clone() { "clone" } else { "copy" },
            files: ordinary.iter().chain(executed).map(FileJson::of).collect(),
            commits: commits.map(|commits| CommitsJson {
                branch: self.branch(),
                head: commits.head.clone(),
                count: commits.count,
                other_branches: commits.others.iter().map(|(n, c)| (visible(n), *c)).collect(),
                executed: in_commits,
            }),
            conflicts: stands,
            ignored: names(&left.ignored),
            hidden: names(&left.hidden),
            special: names(&left.special),
            large: names(&left.large),
            written,
        };
        let exit = if document.conflicts.is_empty() { Exit::Ok } else { Exit::Stale };
        context.printer.data(&super::pretty(&document)?)?;
        Ok(exit)
    }

    fn lock(&self, _: &Context) -> Result<Lock, Failure> {
        let root = Root::open(&self.roots.root).map_err(|e| told(&e))?;
        let root = root.ok_or_else(|| Failure::error("the state root is gone"))?;
        let lock = Lock::session(&self.roots, &root, &self.running.identity);
        lock.map_err(|error| Failure::from_error(Exit::Error, &error))
    }
}

/// `bottle pull --json`.
#[derive(Serialize)]
struct Document {
    identity: String,
    mode: &'static str,
    files: Vec<FileJson>,
    commits: Option<CommitsJson>,
    conflicts: Vec<String>,
    ignored: Vec<String>,
    hidden: Vec<String>,
    special: Vec<String>,
    large: Vec<String>,
    written: bool,
}

#[derive(Serialize)]
struct FileJson {
    path: String,
    change: &'static str,
    added: u64,
    removed: u64,
    binary: bool,
    executed: Option<String>,
}

impl FileJson {
    fn of(shown: &Shown<'_>) -> Self {
        Self {
            path: shown.change.name(),
            change: shown.change.how().as_str(),
            added: shown.text.added,
            removed: shown.text.removed,
            binary: shown.text.binary.is_some(),
            executed: shown.why.as_deref().map(visible),
        }
    }
}

#[derive(Serialize)]
struct CommitsJson {
    branch: String,
    head: String,
    count: u64,
    other_branches: Vec<(String, u64)>,
    executed: Vec<(String, String)>,
}

/// Why what is at a path is set apart: the host would execute it, or the manifest protects it.
fn why(path: &Path, is_executed: Option<String>, protect: &Hide) -> Option<String> {
    let is_protected =
        || path.ancestors().any(|at| !at.as_os_str().is_empty() && protect.hides(at));
    is_executed.or_else(|| is_protected().then(|| "the manifest protects it".to_owned()))
}

/// What a host that checks commits out would execute, and why.
fn executed_of(changed: &[Changed], protect: &Hide) -> Vec<(String, String)> {
    let set_apart = |changed: &Changed| {
        let why = why(&changed.path, changed.is_executed(), protect)?;
        Some((visible(&changed.path.to_string_lossy()), visible(&why)))
    };
    changed.iter().filter_map(set_apart).collect()
}

fn show_commits(
    commits: &Commits,
    hide: &Hide,
    protect: &Hide,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let told = |e: &work::GitError| Failure::from_error(Exit::Error, e);
    let head = printer.paint_data(Colour::Bold, &counted_u64(commits.count, "commit"));
    printer.data(&format!("{head}\n"))?;
    for commit in commits.log(LISTED).map_err(|e| told(&e))? {
        let short = printer.paint_data(Colour::Yellow, &visible(&commit.short));
        let line = format!("  {short} {} ({})", visible(&commit.subject), visible(&commit.author));
        printer.data(&format!("{line}\n"))?;
    }
    if commits.count > LISTED as u64 {
        printer.data(&format!("  … and {} more\n", commits.count - LISTED as u64))?;
    }
    let patch = commits.patch().map_err(|e| told(&e))?;
    show_patch(&patch, printer)?;
    let changed = commits.changed().map_err(|e| Failure::from_error(Exit::Error, &e))?;
    let run = executed_of(&changed, protect);
    if !run.is_empty() {
        let head = "A host that checks this out would execute these, or do what they say:";
        let head = printer.paint_data(Colour::Red, head);
        printer.data(&format!("{head}\n"))?;
        for (path, why) in run {
            printer.data(&format!("  {path}: {why}\n"))?;
        }
    }
    // They never came in: `git add -A` takes them for deleted.
    let is_hidden = |path: &&PathBuf| {
        path.ancestors().any(|above| !above.as_os_str().is_empty() && hide.hides(above))
    };
    for path in changed.iter().map(|changed| &changed.path).filter(is_hidden) {
        printer.warn(&format!(
            "the commits change or delete {}, which `hide` keeps out",
            path.to_string_lossy()
        ));
    }
    for (branch, count) in &commits.others {
        let count = counted_u64(*count, "commit");
        printer.say(&format!("branch {} has {count} more, which stay behind", visible(branch)));
    }
    if !commits.beyond.is_empty() {
        printer.warn(&format!(
            "{} more branches, stashes or tags have commits than are looked at; they stay behind",
            commits.beyond.len()
        ));
    }
    Ok(())
}

fn show_text(text: &Text, printer: &mut Printer) -> Result<(), Failure> {
    show_patch(&text.patch, printer)?;
    if let Some((before, after)) = text.binary {
        let line = format!("binary: {before} bytes before, {after} bytes after");
        let line = printer.paint_data(Colour::Cyan, &line);
        printer.data(&format!("{line}\n"))?;
    }
    Ok(())
}

/// A patch for people: in colour, harmless, binaries left out.
fn show_patch(patch: &[u8], printer: &mut Printer) -> Result<(), Failure> {
    let mut shown = String::new();
    let mut binary = false;
    for line in patch.split_inclusive(|byte| *byte == b'\n') {
        let line = String::from_utf8_lossy(line.strip_suffix(b"\n").unwrap_or(line));
        if line.starts_with("diff --git ") {
            binary = false;
        } else if line == "GIT binary patch" {
            binary = true;
        }
        // Names of blobs are for git.
        if binary || line.starts_with("index ") {
            continue;
        }
        let colour = match line.as_bytes() {
            [b'd', b'i', b'f', b'f', ..] => Some(Colour::Bold),
            [b'@', b'@', ..] => Some(Colour::Cyan),
            [b'+', ..] => Some(Colour::Green),
            [b'-', ..] => Some(Colour::Red),
            _ => None,
        };
        let tabs: Vec<String> = line.split('\t').map(visible).collect();
        let text = tabs.join("\t");
        match colour {
            Some(colour) => shown.push_str(&printer.paint_data(colour, &text)),
            None => shown.push_str(&text),
        }
        shown.push('\n');
        if shown.len() > PIECE {
            printer.data(&shown)?;
            shown.clear();
        }
    }
    printer.data(&shown)
}

/// What stays behind, and why.
fn tell_left(work: &Work, printer: &mut Printer) {
    let left = &work.left;
    for (what, paths) in [
        ("new and named by a .gitignore, left behind", &left.ignored),
        ("named by `hide`, never brought back", &left.hidden),
        ("neither file, folder nor link, left behind", &left.special),
        ("larger than what is brought back, left behind", &left.large),
        ("setuid, setgid or sticky, which is dropped", &left.special_bits),
    ] {
        if paths.is_empty() {
            continue;
        }
        let names: Vec<String> =
            paths.iter().take(NAMED).map(|p| visible(&p.to_string_lossy())).collect();
        let more = match paths.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        printer.say(&format!("{what}: {}{more}", names.join(", ")));
    }
    if left.git && work.commits.is_none() {
        printer.say(".git stays behind: what was committed in the copy comes as changed files");
    }
}

fn scratch(roots: &Roots, running: &Running) -> PathBuf {
    roots.root.join("tmp").join(running.identity.as_str())
}

fn path(context: &Context) -> Option<OsString> {
    context.env.secret("PATH")
}

fn counted(n: usize, what: &str) -> String {
    counted_u64(n as u64, what)
}

fn counted_u64(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn told(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Exit::Error, error)
}

/// So that an engine that is gone is told as everywhere.
impl From<WorkError> for Failure {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Engine(error) => world::engine_failure(&error),
            error @ WorkError::Arrival(ArrivalError::Broken(_)) => {
                told(&error).hint("its files change as they are read: `bottle stop` it first")
            }
            error @ WorkError::Commits(CommitsError::TooMuch { .. }) => {
                told(&error).hint("it stays in the session until `bottle destroy --unsaved`")
            }
            error => told(&error),
        }
    }
}
