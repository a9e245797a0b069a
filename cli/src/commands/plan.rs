//! `bottle plan`: manifest, request and host in, one plan out.

use std::path::{Path, PathBuf};

use bottle_planner::escape::visible;
use bottle_planner::plan::Plan as PlanDocument;
use bottle_planner::policy::{Manifest, WorkspaceMode};
use bottle_planner::resolve::{Inputs, plan, plan_digest};
use bottle_planner::show;
use bottle_planner::spec::Spec;
use chrono::Utc;
use clap::{Args, ValueEnum};

use crate::again;
use crate::args::ManifestArgs;
use crate::context::{Context, absolute};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::leak_rules;
use crate::request::{self, RequestArgs};
use crate::save::save;
use crate::sessions::Sessions;
use crate::world;

/// Makes a plan and prints it as JSON.
///
/// A plan says what a session may do, what will be created for it, and what must hold when it is
/// applied. Nothing is changed. The same manifest, request and host make the same bytes. For a
/// session that exists (--identity) the plan is the difference, and what was asked for it before
/// is kept unless a flag says otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    bottle plan dev -o plan.json\n  \
    bottle plan dev --workspace clone --task @todo.md > plan.json\n  \
    bottle plan --identity dev-ab12c --detailed-exitcode    what is to do? exits with 2 if anything\n  \
    bottle plan dev --snapshot host.json --identity dev --at 2026-01-31T12:00:00Z   no engine needed\n  \
    bottle plan dev -- --model opus                         arguments for the agent's command\n\n\
    Without an agent's name the only one is meant; a terminal offers a choice of several.")]
pub struct Plan {
    #[command(flatten)]
    request: RequestArgs,
    #[command(flatten)]
    manifest: ManifestArgs,
    /// Plan from a stored snapshot, with no engine; what it lacks becomes a requirement
    #[arg(long, value_name = "FILE", help_heading = "Input")]
    snapshot: Option<PathBuf>,
    /// Plan once more from inputs that --dump-inputs wrote
    #[arg(long, value_name = "FILE", help_heading = "Input", exclusive = false,
          conflicts_with_all = ["agent", "spec", "identity", "at", "workspace", "cwd", "task",
              "resume", "refresh", "snapshot", "manifest", "manifest_dir", "args"])]
    inputs: Option<PathBuf>,
    /// Write the plan to a file (mode 0600), whole or not at all
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    output: Option<PathBuf>,
    /// What standard output is: the document, or sentences
    #[arg(long, value_enum, default_value_t = Format::Json, help_heading = "Output")]
    format: Format,
    /// Print the request in use and stop
    #[arg(long, help_heading = "Output")]
    print_spec: bool,
    /// Write all that the planner was given, as a document that replays
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    dump_inputs: Option<PathBuf>,
    /// Exit with 2 if there is anything to do
    #[arg(long, help_heading = "Output")]
    detailed_exitcode: bool,
}

/// What standard output is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The plan itself
    Json,
    /// Sentences
    Human,
}

/// Runs the command.
pub fn run(args: &Plan, context: &mut Context) -> Result<Exit, Failure> {
    let inputs = match &args.inputs {
        Some(file) => world::stored(file, "inputs of a plan")?,
        None => match gather(args, context)? {
            Some(inputs) => inputs,
            None => return Ok(Exit::Ok),
        },
    };
    if args.print_spec {
        context.printer.data(&super::pretty(&inputs.spec)?)?;
        return Ok(Exit::Ok);
    }
    if let Some(file) = &args.dump_inputs {
        save(file, &super::pretty(&inputs)?)?;
    }
    let plan =
        plan(&inputs.manifest, &inputs.spec, &inputs.snapshot).map_err(Failure::from_plan)?;
    leak_rules::of_manifest(&plan.grants, &inputs.manifest)?;
    let text = super::pretty(&plan)?;
    if let Some(file) = &args.output {
        outside_what_is_copied(file, &plan)?;
        save(file, &text)?;
    }
    match (args.format, &args.output) {
        (Format::Json, Some(_)) => {}
        (Format::Json, None) => context.printer.data(&text)?,
        (Format::Human, _) => context.printer.data(&show::human(&plan))?,
    }
    let s = &plan.summary;
    let changes = s.create + s.update + s.replace + s.delete > 0;
    tell(&plan, changes, args, context);
    Ok(if args.detailed_exitcode && changes { Exit::Changes } else { Exit::Ok })
}

/// A plan that lies in the folder that it copies makes itself stale.
fn outside_what_is_copied(file: &Path, plan: &PlanDocument) -> Result<(), Failure> {
    let place = plan.session.workspace.as_ref();
    let Some(place) = place.filter(|place| place.mode == WorkspaceMode::Copy) else {
        return Ok(());
    };
    let path = absolute(file)?;
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    if folder.is_none_or(|folder| !folder.starts_with(place.host.as_str())) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{} would lie in the folder that the session copies, and change what was planned",
        path.display()
    ))
    .hint("write it elsewhere, say `-o ../plan.json`"))
}

/// Reads manifest, request and host; `None` if only the request was to be printed.
fn gather(args: &Plan, context: &mut Context) -> Result<Option<Inputs>, Failure> {
    let (manifest, mut spec) = asked(&args.request, &args.manifest, context)?;
    spec.offline = args.snapshot.is_some();
    if args.print_spec {
        context.printer.data(&super::pretty(&spec)?)?;
        return Ok(None);
    }
    let snapshot = match &args.snapshot {
        Some(file) => world::stored_snapshot(file)?,
        None => world::snapshot(context, &args.manifest, &manifest, &spec)?,
    };
    Ok(Some(Inputs { manifest, spec, snapshot }))
}

/// The manifest, and what is asked of it.
pub fn asked(
    request: &RequestArgs,
    manifest: &ManifestArgs,
    context: &mut Context,
) -> Result<(Manifest, Spec), Failure> {
    let sessions = Sessions::of(&context.env.state_root()?);
    let draft = request::draft(request, context.env, &sessions, Utc::now)?;
    if let (Some(manifest), Some(agent)) =
        (again::begun_with_preset(&draft, &sessions)?, draft.agent.clone())
    {
        return Ok((manifest, draft.with_agent(agent)));
    }
    let read = world::manifest(context, manifest, draft.folder().as_deref())?;
    if let (Some(stored), Some(agent)) =
        (again::planned_from(&draft, &sessions, &read, manifest)?, draft.agent.clone())
    {
        context.printer.say(&format!(
            "note: agent {agent} is not in {} any more; this session is planned from the manifest \
             that it was last planned from",
            read.place.display()
        ));
        return Ok((stored, draft.with_agent(agent)));
    }
    let agent = world::agent(&mut context.printer, &read, &draft)?;
    Ok((read.manifest, draft.with_agent(agent)))
}

/// Says what was planned: at length to a person, on a line to a log.
fn tell(plan: &PlanDocument, changes: bool, args: &Plan, context: &mut Context) {
    let printer = &mut context.printer;
    if printer.is_watched() && args.format == Format::Json {
        printer.say(show::human(plan).trim_end());
    } else {
        for notice in &plan.notices {
            printer.say(&format!("notice: {}", visible(&notice.message)));
        }
        let digest = plan_digest(plan).map_or(String::new(), |d| format!(" {d}"));
        printer.say(&format!("{}: {}{digest}", plan.identity, show::summary_line(plan)));
    }
    if let (Some(file), true) = (&args.output, changes) {
        printer.say(&format!("Next: bottle apply {}", visible(&file.display().to_string())));
    }
}
