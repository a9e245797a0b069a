//! `bottle run`: an agent from a built-in bottle alone, in the current folder.

use std::path::PathBuf;

use bottle_planner::words::Name;
use chrono::Utc;
use clap::Args;

use super::init::{make_folder, write_missing};
use super::presets;
use super::start::{LaunchArgs, launch};
use crate::again;
use crate::args::ManifestArgs;
use crate::ask;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::request::{self, Mode, RequestArgs};
use crate::sessions::Sessions;

/// Starts an agent in the current folder with a built-in bottle alone: no manifest file is needed,
/// and none is read.
///
/// What it may do is shown and asked as `bottle start` does it. A git folder is cloned, any other is
/// copied, unless --workspace says otherwise. Afterwards you are asked on a terminal whether to keep
/// it as a manifest, to build on; nothing is ever overwritten. `bottle resume` needs none.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle run @claude\n  \
    bottle run @codex --workspace none --task 'say hello' --yes\n  \
    bottle run @claude --save web             keep it as bottles/web.md and agents/web.md\n  \
    bottle run @claude -- --model opus        arguments for the agent's command")]
pub struct Run {
    /// The built-in bottle; see `bottle presets`
    #[arg(value_name = "@PRESET")]
    preset: String,
    /// Further arguments for the agent's command
    #[arg(last = true, value_name = "ARGS")]
    args: Vec<String>,
    /// How the folder is brought in: copy, clone, mount, or none
    #[arg(long, value_name = "MODE")]
    workspace: Option<Mode>,
    /// The folder to bring in (default: the current one)
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Work for a run without a terminal; @FILE reads it from a file
    #[arg(long, value_name = "TEXT|@FILE")]
    task: Option<String>,
    /// Name the session
    #[arg(long, value_name = "ID")]
    name: Option<String>,
    /// Keep it as a manifest of this name, without asking
    #[arg(long, value_name = "NAME", conflicts_with = "no_save")]
    save: Option<String>,
    /// Do not ask whether to keep it
    #[arg(long)]
    no_save: bool,
    #[command(flatten)]
    launch: LaunchArgs,
}

/// Runs the command.
pub fn run(args: &Run, context: &mut Context) -> Result<Exit, Failure> {
    let preset = presets::find(&args.preset)?;
    if !preset.text.lines().any(|line| line.starts_with("provider:")) {
        return Err(Failure::usage(format!("{} says not which agent runs", preset.name))
            .hint("it is one to build on: `extends: [\"@claude\", …]` in a bottle of your own"));
    }
    let (manifest, name) = again::of_preset(preset.name)?;
    let keep =
        args.save.as_deref().map(|name| Kept::new(preset.name, name, context)).transpose()?;
    if let Some(there) = keep.as_ref().and_then(Kept::there) {
        return Err(Failure::error(format!("{} is there already", there.display()))
            .hint("nothing was started and nothing written; choose another name for --save"));
    }
    let sessions = Sessions::of(&context.env.state_root()?);
    if let Some(taken) = args
        .name
        .as_deref()
        .filter(|name| sessions.all().iter().any(|session| session.as_str() == *name))
    {
        return Err(Failure::usage(format!("session `{taken}` is there already"))
            .hint(format!("`bottle resume {taken}` carries on with it")));
    }
    let none = matches!(args.workspace, Some(Mode::None));
    let request = RequestArgs {
        args: args.args.clone(),
        identity: args.name.clone(),
        workspace: args.workspace,
        cwd: args.cwd.clone().or_else(|| (!none).then(|| PathBuf::from("."))),
        task: args.task.clone(),
        ..RequestArgs::default()
    };
    let spec = request::draft(&request, context.env, &sessions, Utc::now)?.with_agent(name.clone());
    let exit = launch(&args.launch, &ManifestArgs::default(), (manifest, spec), context)?;
    match &keep {
        Some(keep) => keep.write(context)?,
        None if args.no_save || !context.printer.is_interactive() => {}
        None => offer(preset.name, &name, context)?,
    }
    Ok(exit)
}

/// Asks whether to keep what was run; not where something of that name is there.
fn offer(preset: &str, name: &Name, context: &mut Context) -> Result<(), Failure> {
    let keep = Kept::new(preset, name.as_str(), context)?;
    if keep.there().is_some() {
        return Ok(());
    }
    let [(bottle, _), (agent, _)] = &keep.files;
    let question = format!("Save this as {} and {}?", bottle.display(), agent.display());
    if ask::confirm(&mut context.printer, &question)? {
        keep.write(context)?;
        context.printer.say(&format!("`bottle start {name}` starts it from now on"));
    }
    Ok(())
}

/// A preset as two files of a manifest.
struct Kept {
    files: [(PathBuf, String); 2],
}

impl Kept {
    fn new(preset: &str, name: &str, context: &Context) -> Result<Self, Failure> {
        let name = Name::new(name)
            .ok()
            .filter(|name| !name.as_str().starts_with('@'))
            .ok_or_else(|| {
                Failure::usage(format!(
                    "expected a name of lower-case letters, digits and dashes after --save, found `{}`",
                    name.escape_debug()
                ))
            })?;
        let root = context.env.state_root()?;
        let bottle = format!(
            "---\n\
             # `bottle presets {preset}` prints what this takes over.\n\
             extends: \"{preset}\"\n\
             workspace: {{modes: [copy, clone, mount, none]}}\n\
             ---\n\n\
             What an agent may do in it. This text is for people; agents do not see it.\n"
        );
        let agent = format!("---\nbottle: {name}\n---\n");
        Ok(Self {
            files: [
                (root.join(format!("bottles/{name}.md")), bottle),
                (root.join(format!("agents/{name}.md")), agent),
            ],
        })
    }

    /// The first of its files that is there, or the same in YAML.
    fn there(&self) -> Option<PathBuf> {
        let each =
            self.files.iter().flat_map(|(path, _)| [path.clone(), path.with_extension("yaml")]);
        each.into_iter().find(|path| path.symlink_metadata().is_ok())
    }

    fn write(&self, context: &mut Context) -> Result<(), Failure> {
        for (file, text) in &self.files {
            if let Some(folder) = file.parent() {
                make_folder(folder)?;
            }
            write_missing(file, text, &mut context.printer)?;
        }
        Ok(())
    }
}
