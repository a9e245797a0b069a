//! `bottle lint`: a plan against the rules that every plan must keep, whoever wrote it.

use bottle_planner::escape::visible;
use bottle_planner::lint::{Finding, lint};
use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;

/// Checks a plan against the rules that every plan must keep.
///
/// The sidecar files are rendered again from the grants and compared byte by byte, so nothing can
/// hide in one. `apply` does the same before it begins. Exits with 11 if a rule is broken.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle lint plan.json\n  bottle plan dev | bottle lint -")]
pub struct Lint {
    /// A plan file, or `-` for standard input
    plan: String,
    /// Print the findings as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Lint, context: &mut Context) -> Result<Exit, Failure> {
    let text = PlanText::read(&args.plan)?;
    let findings = lint(&text.strict()?);
    if args.json {
        let document = json!({ "plan": text.digest, "findings": findings });
        context.printer.data(&super::pretty(&document)?)?;
    } else {
        let lines: String = findings.iter().map(|finding| line(finding) + "\n").collect();
        context.printer.data(&lines)?;
        context.printer.say(&match findings.len() {
            0 => format!("{} keeps every rule", visible(&text.from)),
            1 => "1 rule is broken".to_owned(),
            n => format!("{n} rules are broken"),
        });
    }
    Ok(if findings.is_empty() { Exit::Ok } else { Exit::Refused })
}

/// One finding on one line.
pub fn line(finding: &Finding) -> String {
    let rule = serde_json::to_value(finding.rule)
        .ok()
        .and_then(|value| value.as_str().map(String::from))
        .unwrap_or_default();
    let action =
        finding.action.as_ref().map_or(String::new(), |id| format!("{}: ", visible(&id.0)));
    format!("{rule}: {action}{}", visible(&finding.message))
}
