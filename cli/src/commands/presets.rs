//! `bottle presets`: the built-in bottles.

use bottle_planner::manifest::{PRESETS, Preset};
use clap::Args;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Lists the built-in bottles, or prints one as the YAML it is.
///
/// A bottle takes one over with `extends: "@claude"`. All that it grants stands in the plan;
/// nothing is reachable that the plan does not list.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle presets\n  bottle presets @claude")]
pub struct Presets {
    /// Which one, with or without its `@`
    name: Option<String>,
}

/// Runs the command.
pub fn run(args: &Presets, context: &mut Context) -> Result<Exit, Failure> {
    let text = match &args.name {
        Some(name) => find(name)?.text.to_owned(),
        None => PRESETS.iter().map(|p| format!("{:<16} {}\n", p.name, about(p))).collect(),
    };
    context.printer.data(&text)?;
    Ok(Exit::Ok)
}

/// A preset by its name.
pub fn find(name: &str) -> Result<Preset, Failure> {
    let bare = name.strip_prefix('@').unwrap_or(name);
    PRESETS.into_iter().find(|preset| preset.name.strip_prefix('@') == Some(bare)).ok_or_else(
        || {
            let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
            Failure::usage(format!("there is no preset `{}`", name.escape_debug()))
                .hint(format!("presets: {}", names.join(", ")))
        },
    )
}

/// The first line of a preset's own comment.
fn about(preset: &Preset) -> &'static str {
    preset.text.lines().next().map_or("", |line| line.trim_start_matches(['#', ' ']))
}
