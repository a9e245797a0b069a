//! `bottle init`: a first manifest.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use clap::Args;

use super::presets;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Printer;
use crate::save;

/// Writes a first bottle and a first agent.
///
/// A file that is there is left as it is; `--force` writes what is missing all the same, and
/// never over anything.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle init\n  bottle init --preset @codex")]
pub struct Init {
    /// Write what is missing although some of it is there (nothing is ever overwritten)
    #[arg(long)]
    force: bool,
    /// The built-in bottle to build on; see `bottle presets`
    #[arg(long, default_value = "@claude", value_name = "@NAME")]
    preset: String,
}

/// Runs the command.
pub fn run(args: &Init, context: &mut Context) -> Result<Exit, Failure> {
    let root = context.env.state_root()?;
    let preset = presets::find(&args.preset)?;
    let files = starter(preset.name);
    let there: Vec<&str> =
        files.iter().map(|(path, _)| *path).filter(|path| root.join(path).exists()).collect();
    if !there.is_empty() && !args.force {
        return Err(Failure::error(format!(
            "{} of {} is there already",
            there.join(" and "),
            root.display()
        ))
        .hint(if there.len() == files.len() {
            "there is nothing to do; `bottle start dev` is next"
        } else {
            "nothing was written; `--force` writes what is missing, over nothing"
        }));
    }
    for (path, text) in &files {
        let file = root.join(path);
        if let Some(folder) = file.parent() {
            make_folder(folder)?;
        }
        write_missing(&file, text, &mut context.printer)?;
    }
    context.printer.say(
        "\nNext:\n  bottle info dev    what is it started with? is every secret there?\n  \
         bottle start dev --workspace copy\n                     \
         see what it may do with a copy of this folder; on a yes it begins, and you join it",
    );
    Ok(Exit::Ok)
}

/// Makes a folder of a manifest, and what leads to it.
pub fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|e| Failure::error(format!("could not write {}", folder.display())).because(&e))
}

/// Writes a file of a manifest unless it is there, and says which it was.
pub fn write_missing(file: &Path, text: &str, printer: &mut Printer) -> Result<(), Failure> {
    match save::write_new(file, text, 0o600) {
        Ok(()) => printer.say(&format!("wrote {}", file.display())),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            printer.say(&format!("kept  {}", file.display()));
        }
        Err(error) => {
            return Err(
                Failure::error(format!("could not write {}", file.display())).because(&error)
            );
        }
    }
    Ok(())
}

/// The files of a first manifest, by path below the state root.
fn starter(preset: &str) -> [(&'static str, String); 2] {
    [
        (
            "bottles/dev.md",
            format!(
                "---\n\
                 # What an agent may do. Nothing that is not granted here is reachable.\n\
                 # `bottle presets {preset}` prints what this takes over.\n\
                 extends: \"{preset}\"\n\
                 # The agent may ask you for more while it runs.\n\
                 supervise: true\n\
                 #egress:\n\
                 #  routes:\n\
                 #    - host: docs.example.com      # read the documentation\n\
                 #      allow: [{{access: read}}]\n\
                 #git:\n\
                 #  - name: web                     # push to agent/* alone\n\
                 #    upstream: git@github.com:acme/web.git\n\
                 #    identity_file: ~/.ssh/id_ed25519\n\
                 ---\n\n\
                 # dev\n\n\
                 A bottle for everyday work. This text is for people; agents do not see it.\n"
            ),
        ),
        (
            "agents/dev.md",
            "---\nbottle: dev\n---\n\n\
             You are a careful engineer. Make small commits, each of which builds, on a branch whose\n\
             name begins with `agent/`. Where you lack access to something, ask for it.\n"
                .to_owned(),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use bottle_planner::manifest::{PRESETS, Source, SourceKind, load};

    use super::*;

    #[test]
    fn every_starter_loads_cleanly() {
        for preset in PRESETS {
            let sources: Vec<Source> = starter(preset.name)
                .into_iter()
                .map(|(path, text)| {
                    let kind = if path.starts_with("bottles/") {
                        SourceKind::HomeBottle
                    } else {
                        SourceKind::HomeAgent
                    };
                    Source::new(kind, path, text)
                })
                .collect();
            let loaded = load(&sources);
            assert_eq!(loaded.diagnostics, [], "{}", preset.name);
            assert!(loaded.manifest.bottles.values().any(|bottle| bottle.supervise));
            assert_eq!(loaded.manifest.agents.len(), 1);
        }
    }

    #[test]
    fn what_is_commented_out_loads_too() {
        let [(path, text), _] = starter("@claude");
        let text: String = text
            .lines()
            .map(|line| {
                let commented = line
                    .strip_prefix('#')
                    .filter(|rest| !rest.starts_with(' ') || rest.starts_with("  "));
                format!("{}\n", commented.unwrap_or(line))
            })
            .collect();
        let loaded = load(&[Source::new(SourceKind::HomeBottle, path, text)]);
        let errors: Vec<_> = loaded.diagnostics.iter().filter(|found| found.is_error()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert!(loaded.manifest.bottles.values().any(|bottle| bottle.git.len() == 1));
    }
}
