//! How long `bottle apply` takes beside what it cannot do without: `scripts/bench` runs it.
//!
//! Three do the same thing in turn, each as a whole process, on one engine with all images present:
//!
//! - `bottle apply` of a plan, with its checks, files, journal and fsyncs;
//! - the plan's engine calls alone (this program, told `--bare`): the same creates, uploads,
//!   connects and starts with the same bodies, side by side as far as the plan's dependencies
//!   between them let them; no checks, no files, archives packed beforehand;
//! - `docker-compose up -d` of what `bottle show --format compose` renders, if a file is given.
//!
//! Clearing up between two runs is not measured. Figures are in `docs/benchmarks.md`.
#![expect(clippy::print_stdout, reason = "figures are what it is for")]

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use bottle_executor::ca;
use bottle_executor::engine::docker::Docker;
use bottle_executor::engine::{Engine, HostPaths};
use bottle_executor::pack::{append_file, append_folder};
use bottle_planner::document::{self, Strictness};
use bottle_planner::plan::{Action, ActionId, Operation, Plan, Upload, UploadSource};
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// What is measured, and with what.
#[derive(Debug, Default)]
struct Settings {
    /// The plan's file.
    plan: PathBuf,
    /// The binary that applies it.
    bottle: PathBuf,
    /// The state root it uses.
    home: PathBuf,
    /// A copy of the state folder that an apply of this plan left: the bare containers mount it.
    kept: PathBuf,
    /// The Compose file of the same containers.
    compose: Option<PathBuf>,
    /// How often each is run.
    rounds: usize,
    /// Whether this process is the bare calls.
    bare: bool,
}

fn main() -> Outcome<()> {
    let Some(settings) = settings()? else {
        println!("apply: nothing to measure; scripts/bench says with what");
        return Ok(());
    };
    let plan: Plan =
        document::parse(&std::fs::read_to_string(&settings.plan)?, Strictness::Strict)?.value;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let engine = Docker::connect(None).await?;
        if settings.bare {
            return calls(&engine, &plan, &settings).await;
        }
        measure(&engine, &plan, &settings).await
    })
}

/// Reads `--name value` pairs; `None` if there are none (as under plain `cargo bench`).
fn settings() -> Outcome<Option<Settings>> {
    let mut settings = Settings { rounds: 15, ..Settings::default() };
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench").peekable();
    if args.peek().is_none() {
        return Ok(None);
    }
    while let Some(name) = args.next() {
        if name == "--bare" {
            settings.bare = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("expected a value after {name}"))?;
        match name.as_str() {
            "--plan" => settings.plan = value.into(),
            "--bottle" => settings.bottle = value.into(),
            "--home" => settings.home = value.into(),
            "--kept" => settings.kept = value.into(),
            "--compose" => settings.compose = Some(value.into()),
            "--rounds" => settings.rounds = value.parse()?,
            _ => return Err(format!("unknown: {name}").into()),
        }
    }
    Ok(Some(settings))
}

/// Runs all in turn, in an order that moves on by one each round, and prints medians and ratios.
async fn measure(engine: &Docker, plan: &Plan, settings: &Settings) -> Outcome<()> {
    let mut commands = vec![("bottle", bottle(settings)), ("bare", bare(settings)?)];
    if let Some(file) = &settings.compose {
        commands.push(("compose", compose(settings, file)));
    }
    let mut times: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    clear(engine, plan, settings).await?;
    for round in 0..settings.rounds {
        for turn in 0..commands.len() {
            let place = (round + turn) % commands.len();
            let (name, command) = &mut commands[place];
            let begun = Instant::now();
            let output = command.output()?;
            let took = begun.elapsed();
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                clear(engine, plan, settings).await?;
                return Err(format!("{name} failed: {said}").into());
            }
            times.entry(name).or_default().push(took);
            clear(engine, plan, settings).await?;
        }
    }
    for (name, times) in &times {
        let mut sorted: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted[0], sorted[sorted.len() - 1]);
        println!("{name} {:.3} {low:.3} {high:.3}", median(sorted));
    }
    let own = &times["bottle"];
    for (name, others) in times.iter().filter(|(name, _)| **name != "bottle") {
        let ratios = own.iter().zip(others).map(|(a, b)| a.as_secs_f64() / b.as_secs_f64());
        println!("bottle/{name} {:.2}", median(ratios.collect()));
    }
    Ok(())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { values[middle - 1].midpoint(values[middle]) }
}

fn bottle(settings: &Settings) -> Command {
    let mut command = Command::new(&settings.bottle);
    command.arg("apply").arg(&settings.plan).arg("--yes").env("BOTTLE_HOME", &settings.home);
    quiet(command)
}

fn bare(settings: &Settings) -> Outcome<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--bare").arg("--plan").arg(&settings.plan);
    command.arg("--home").arg(&settings.home).arg("--kept").arg(&settings.kept);
    Ok(quiet(command))
}

fn compose(settings: &Settings, file: &Path) -> Command {
    let mut command = Command::new("docker-compose");
    command.arg("-f").arg(file).args(["up", "-d"]);
    command.env("BOTTLE_STATE", &settings.kept).env("BOTTLE_BIN", settings.home.join("bin"));
    quiet(command)
}

fn quiet(mut command: Command) -> Command {
    command.stdin(Stdio::null());
    command
}

/// The plan's engine calls and nothing else.
async fn calls(engine: &Docker, plan: &Plan, settings: &Settings) -> Outcome<()> {
    let paths = HostPaths { state: settings.kept.clone(), bin: settings.home.join("bin") };
    let mut archives = BTreeMap::new();
    for action in &plan.actions {
        if let Operation::Upload(upload) = &action.op {
            archives.insert(&action.id, archive(upload, &settings.kept)?);
        }
    }
    let (archives, paths) = (&archives, &paths);
    let mut waiting: Vec<&Action> = plan.actions.iter().collect();
    let mut done: BTreeSet<&ActionId> = BTreeSet::new();
    let mut running = FuturesUnordered::new();
    loop {
        waiting.retain(|&action| {
            let ready = action.depends_on.iter().all(|id| done.contains(id));
            if ready {
                running.push(async move {
                    let archive = archives.get(&action.id);
                    (&action.id, call(engine, &action.op, archive, paths).await)
                });
            }
            !ready
        });
        let Some((id, result)) = running.next().await else { return Ok(()) };
        result.map_err(|error| format!("{id}: {error}"))?;
        done.insert(id);
    }
}

async fn call(
    engine: &Docker,
    op: &Operation,
    archive: Option<&Bytes>,
    paths: &HostPaths,
) -> Outcome<()> {
    match op {
        Operation::Network(spec) => drop(engine.create_network(spec, &spec.labels).await?),
        Operation::Volume(spec) => engine.create_volume(spec, &spec.labels).await?,
        Operation::Container(spec) => {
            drop(engine.create_container(spec, &spec.labels, paths).await?);
        }
        Operation::Upload(upload) => {
            let archive = archive.cloned().unwrap_or_default();
            engine.upload(&upload.container, "/", archive).await?;
        }
        Operation::Connect(c) => engine.connect(&c.container, &c.network, c.address).await?,
        Operation::Start(at) => engine.start(&at.container).await?,
        // Files, keys and images are there: what is kept of the session holds them.
        _ => {}
    }
    Ok(())
}

/// An upload as `apply` packs it, but for the trust roots of the image, which it would first have
/// to ask for.
fn archive(upload: &Upload, kept: &Path) -> Outcome<Bytes> {
    let mut tar = tar::Builder::new(Vec::new());
    for item in &upload.items {
        let at = Path::new(item.at.as_str().trim_start_matches('/'));
        match &item.source {
            UploadSource::Folder => append_folder(&mut tar, at, item.mode, item.owner)?,
            UploadSource::Text { content } => {
                append_file(&mut tar, at, item.mode, item.owner, content.as_bytes())?;
            }
            UploadSource::CaBundle => {
                let own = std::fs::read_to_string(kept.join("egress/in/ca.crt"))?;
                let roots = std::fs::read_to_string(ca::IMAGE_ROOTS[0]).unwrap_or_default();
                let bundle = ca::bundle(&roots, "", &own);
                append_file(&mut tar, at, item.mode, item.owner, bundle.as_bytes())?;
            }
            UploadSource::Skill { name, .. } => {
                return Err(format!("the benchmark has no skill {name}").into());
            }
            UploadSource::Repository { .. } => {
                return Err("the benchmark mounts no folder".into());
            }
        }
    }
    Ok(tar.into_inner()?.into())
}

/// Removes all that a run made.
async fn clear(engine: &Docker, plan: &Plan, settings: &Settings) -> Outcome<()> {
    for action in &plan.actions {
        if let Operation::Container(spec) = &action.op
            && engine.container(&spec.name).await?.is_some()
        {
            engine.stop(&spec.name, 0).await?;
            engine.remove_container(&spec.name).await?;
        }
    }
    for action in &plan.actions {
        match &action.op {
            Operation::Network(spec) if engine.network(&spec.name).await?.is_some() => {
                engine.remove_network(&spec.name).await?;
            }
            Operation::Volume(spec) if engine.volume(&spec.name).await?.is_some() => {
                engine.remove_volume(&spec.name).await?;
            }
            _ => {}
        }
    }
    match std::fs::remove_dir_all(settings.home.join("state").join(plan.identity.as_str())) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
