//! Changing what an agent asked for before it is approved: by flags, or in an editor.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::Command;

use bottle_planner::document::{self, Strictness};
use bottle_planner::escape::visible;
use bottle_planner::policy::BuildHost;
use bottle_planner::proposal::Ask;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::rule;

/// A rule as it stands in the editor.
#[derive(Debug, Serialize, Deserialize)]
struct Edited {
    host: String,
    port: u16,
    methods: BTreeSet<String>,
    paths: Vec<String>,
}

/// The same in another form: what the person wrote, who may widen what an agent may not.
pub fn in_editor(ask: &Ask, editor: &str) -> Result<Ask, Failure> {
    match ask {
        Ask::Egress { host, port, rule } => {
            let shown = Edited {
                host: host.to_string(),
                port: *port,
                methods: rule.methods.clone(),
                paths: rule.paths.clone(),
            };
            let text = document::pretty(&shown).map_err(|e| Failure::error(e.to_string()))?;
            let text = edited(&text, ".json", editor)?;
            let wrong = |e: &dyn std::fmt::Display| {
                Failure::usage(format!("what was written is no rule: {e}"))
            };
            let edited = document::parse::<Edited>(&text, Strictness::Strict);
            let Edited { host, port, methods, paths } = edited.map_err(|e| wrong(&e))?.value;
            rule_of(&host, port, &methods.into_iter().collect::<Vec<_>>(), &paths)
        }
        Ask::Image { dockerfile, hosts } => {
            let dockerfile = edited(dockerfile, ".Dockerfile", editor)?;
            Ok(Ask::Image { dockerfile, hosts: hosts.clone() })
        }
        Ask::PushException { .. } => Err(nothing_to_modify()),
    }
}

/// A push exception names one finding: there is no other form of it.
#[must_use]
pub fn nothing_to_modify() -> Failure {
    Failure::usage("a push exception can be approved or rejected, and not modified")
}

/// Network access from its parts, as flags and files have them.
pub fn rule_of(
    host: &str,
    port: u16,
    methods: &[String],
    paths: &[String],
) -> Result<Ask, Failure> {
    let (host, rule) = (rule::host(host)?, rule::rule(methods, paths)?);
    Ok(Ask::Egress { host, port, rule })
}

/// The hosts of a build, from flags.
pub fn build_hosts(hosts: &[String]) -> Result<BTreeSet<BuildHost>, Failure> {
    let parsed = hosts.iter().map(|host| BuildHost::new(host));
    parsed
        .collect::<Result<_, _>>()
        .map_err(|e| Failure::usage(format!("--build-host: expected {}", e.expected)))
}

/// Text after somebody was in it. `editor` is a command of words, as `$EDITOR` is everywhere.
fn edited(text: &str, suffix: &str, editor: &str) -> Result<String, Failure> {
    let mut file = tempfile::Builder::new()
        .prefix("bottle-")
        .suffix(suffix)
        .tempfile()
        .map_err(|e| Failure::error("cannot make a file for the editor").because(&e))?;
    file.write_all(text.as_bytes())
        .map_err(|e| Failure::error("cannot write the file for the editor").because(&e))?;
    let mut words = editor.split_whitespace();
    let program = words.next().ok_or_else(|| {
        Failure::usage("$EDITOR is empty")
            .hint("set it, or say how with --host, --path and the like")
    })?;
    let status = Command::new(program).args(words).arg(file.path()).status().map_err(|e| {
        Failure::error(format!("cannot run the editor `{}`", visible(program))).because(&e)
    })?;
    if !status.success() {
        return Err(Failure::error("the editor ended with an error; nothing was approved"));
    }
    std::fs::read_to_string(file.path())
        .map_err(|e| Failure::error("cannot read what the editor left").because(&e))
}
