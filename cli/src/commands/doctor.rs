//! `bottle doctor`: what a session needs of this host, and what to do where it is missing.

use std::path::Path;

use bottle_executor::engine::Engine as _;
use bottle_executor::engine::docker::Docker;
use bottle_executor::state::Roots;
use bottle_planner::policy::HostConfig;
use bottle_planner::provider::DEFAULT_BASE;
use bottle_planner::resolve::OLDEST_API;
use chrono::{Datelike as _, Utc};
use clap::Args;
use rustix::fs::{Access, access};
use serde::Serialize;
use serde_json::json;

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::world;

/// The year before which no clock can be right: certificates would not be valid yet.
const EARLIEST: i32 = 2025;

/// Checks what a session needs of this host: engine, isolation, images, programs, manifest, clock.
///
/// Each line says what to do about it. Exits with 1 if something is missing without which no
/// session can run.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle doctor\n  bottle doctor --json")]
pub struct Doctor {
    /// Print the checks as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    manifest: ManifestArgs,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    name: &'static str,
    status: Status,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fix: Option<String>,
}

/// How a check went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, status: Status::Ok, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, status: Status::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, status: Status::Fail, found: found.into(), fix: Some(fix.into()) }
    }
}

/// Runs the command.
pub fn run(args: &Doctor, context: &mut Context) -> Result<Exit, Failure> {
    let roots = context.roots(&args.manifest)?;
    let mut checks = vec![state_root(&roots.root)];
    let (config, check) = config(context, &roots);
    checks.push(check);
    checks.extend(engine(context, &config)?);
    checks.extend(["git", "ssh"].map(|program| found(program, &context.env.path())));
    checks.push(manifest(context, args)?);
    checks.push(clock());
    let filter =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"));
    checks.extend(datagrams(&[filter("all"), filter("default")].map(Result::unwrap_or_default)));
    if args.json {
        context.printer.data(&super::pretty(&json!({ "checks": checks }))?)?;
    } else {
        let text: String = checks.iter().map(|check| line(check, &context.printer)).collect();
        context.printer.data(&text)?;
    }
    let failed = checks.iter().any(|check| check.status == Status::Fail);
    Ok(if failed { Exit::Error } else { Exit::Ok })
}

fn line(check: &Check, printer: &Printer) -> String {
    let (colour, word) = match check.status {
        Status::Ok => (Colour::Green, "ok  "),
        Status::Warn => (Colour::Yellow, "warn"),
        Status::Fail => (Colour::Red, "fail"),
    };
    let word = printer.paint_data(colour, word);
    let found = bottle_planner::escape::visible(&check.found);
    let fix =
        check.fix.as_ref().map_or(String::new(), |fix| format!("                 -> {fix}\n"));
    format!("{word}  {:<10} {found}\n{fix}", check.name)
}

fn state_root(root: &Path) -> Check {
    let there = root.ancestors().find(|folder| folder.exists()).unwrap_or(root);
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if there == root => {
            Check::ok("state", format!("{} can be written to", root.display()))
        }
        Ok(()) => Check::ok("state", format!("{} will be made", root.display())),
        Err(error) => Check::fail(
            "state",
            format!("{} cannot be written to: {error}", there.display()),
            "give yourself the right to, or name another folder in BOTTLE_HOME",
        ),
    }
}

fn config(context: &mut Context, roots: &Roots) -> (HostConfig, Check) {
    let file = roots.root.join("config.yaml");
    match world::config(&mut context.printer, roots) {
        Ok(config) if file.exists() => (config, Check::ok("config", file.display().to_string())),
        Ok(config) => (config, Check::ok("config", "none; every setting has its default")),
        Err(_) => (
            HostConfig::default(),
            Check::fail("config", format!("{} has errors", file.display()), "see above"),
        ),
    }
}

fn engine(context: &Context, config: &HostConfig) -> Result<Vec<Check>, Failure> {
    let address = context.env.engine()?;
    let base = config.base_image.as_deref().unwrap_or(DEFAULT_BASE);
    Ok(world::runtime()?.block_on(async {
        let engine = match Docker::connect(address.as_deref()).await {
            Ok(engine) => engine,
            Err(error) => {
                let failure = world::engine_failure(&error);
                let fix = failure.problems.first().and_then(|p| p.hint.clone());
                return vec![Check::fail("engine", failure.chain(), fix.unwrap_or_default())];
            }
        };
        let facts = match engine.facts().await {
            Ok(facts) => facts,
            Err(error) => {
                let failure = world::engine_failure(&error);
                return vec![Check::fail("engine", failure.chain(), "see the engine's own log")];
            }
        };
        let (major, minor) = facts.api;
        let text = format!("{} {}, API {major}.{minor}", facts.name, facts.version);
        let mut checks = vec![if facts.api < OLDEST_API {
            Check::fail("engine", text, "install Docker 20.10 or newer")
        } else if let Some(why) = facts.is_unfit() {
            Check::fail("engine", why, "point DOCKER_HOST at Docker 20.10 or newer")
        } else {
            Check::ok("engine", text)
        }];
        checks.push(if facts.without_limits.contains("runsc") {
            Check::warn(
                "isolation",
                "gVisor (runsc) is registered with --ignore-cgroups: no limit of memory, processes or \
                 processor holds",
                "register it without that argument, or say `isolation: container` in a bottle",
            )
        } else if facts.runtimes.contains("runsc") {
            Check::ok("isolation", "gVisor (runsc) is registered")
        } else {
            Check::warn(
                "isolation",
                "gVisor (runsc) is not registered: agents run in plain containers",
                "https://gvisor.dev/docs/user_guide/install/",
            )
        });
        checks.push(match engine.image(base).await {
            Ok(Some(_)) => Check::ok("image", format!("{base} is present")),
            Ok(None) => Check::warn(
                "image",
                format!("{base} is not present: the first build fetches it"),
                format!("docker pull {base}"),
            ),
            Err(error) => Check::warn("image", error.to_string(), format!("docker pull {base}")),
        });
        checks
    }))
}

fn found(program: &'static str, path: &[std::path::PathBuf]) -> Check {
    let runs = |file: &std::path::PathBuf| file.is_file() && access(file, Access::EXEC_OK).is_ok();
    match path.iter().map(|folder| folder.join(program)).find(runs) {
        Some(file) => Check::ok(program, file.display().to_string()),
        None => Check::warn(
            program,
            "not found in PATH",
            format!("install {program}; work with git remotes needs it"),
        ),
    }
}

fn manifest(context: &mut Context, args: &Doctor) -> Result<Check, Failure> {
    let read = world::manifest(context, &args.manifest, None)?;
    let place = read.place.display();
    let agents: Vec<String> = read.manifest.agents.keys().map(ToString::to_string).collect();
    Ok(if read.has_errors {
        Check::fail("manifest", format!("{place} has errors"), "see above")
    } else if agents.is_empty() {
        Check::warn("manifest", format!("no agent in {place}"), "bottle init")
    } else {
        Check::ok("manifest", format!("{place}: {}", agents.join(", ")))
    })
}

/// Whether the kernel drops packets that it could not answer where they came from (ip-sysctl.rst,
/// `rp_filter`). Where it does not, a bridge without an address takes in what an agent sends to any
/// address of this host.
fn datagrams(filters: &[String; 2]) -> Option<Check> {
    let values: Vec<&str> = filters.iter().map(|text| text.trim()).collect();
    if values.iter().all(|value| value.is_empty()) {
        return None;
    }
    Some(if values.contains(&"1") || values.contains(&"2") {
        Check::ok("datagrams", "the kernel drops what it could not answer (rp_filter)")
    } else {
        Check::warn(
            "datagrams",
            "rp_filter is 0: agents can send datagrams to services of this host",
            "sudo sysctl -w net.ipv4.conf.all.rp_filter=2, and the same in /etc/sysctl.d",
        )
    })
}

fn clock() -> Check {
    let now = Utc::now();
    let text = now.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    if now.year() < EARLIEST {
        return Check::fail(
            "clock",
            text,
            "set the clock; certificates are not valid at that time",
        );
    }
    Check::ok("clock", text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_of_the_two_settings_is_enough() {
        let of = |all: &str, default: &str| {
            datagrams(&[all.to_owned(), default.to_owned()]).map(|check| check.status)
        };
        assert_eq!(of("0\n", "0\n"), Some(Status::Warn));
        assert_eq!(of("2\n", "0\n"), Some(Status::Ok));
        assert_eq!(of("0\n", "1\n"), Some(Status::Ok));
        assert_eq!(of("", ""), None, "no such kernel");
    }
}
