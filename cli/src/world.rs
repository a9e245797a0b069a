//! What a plan is made from on this host: the manifest, the host config and the snapshot.

use std::env;
use std::path::{Path, PathBuf};

use bottle_executor::engine::EngineError;
use bottle_executor::engine::docker::{Docker, is_permission_denied};
use bottle_executor::probe::{HostInputs, probe};
use bottle_executor::sources::{Trusted, gather, host_config};
use bottle_executor::state::Roots;
use bottle_planner::document::{self, Strictness};
use bottle_planner::manifest::{Loaded, Source, load};
use bottle_planner::policy::{HostConfig, Manifest};
use bottle_planner::snapshot::{Host, Snapshot, Tool};
use bottle_planner::spec::Spec;
use bottle_planner::wants::Wants;
use bottle_planner::words::{AbsPath, Identity, Name};

use crate::args::ManifestArgs;
use crate::ask;
use crate::context::{Context, absolute};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::load;
use crate::output::Printer;
use crate::own_binary;
use crate::request::Draft;

/// A manifest as it was read, its findings told.
#[derive(Debug, Clone)]
pub struct ReadManifest {
    /// What is without error.
    pub manifest: Manifest,
    /// Whether something in it is not.
    pub has_errors: bool,
    /// Where it was looked for, for hints.
    pub place: PathBuf,
}

/// Reads the manifest and tells what was found wrong with it. `folder` is the one whose
/// repository manifest counts; without one it is the current folder.
pub fn manifest(
    context: &mut Context,
    args: &ManifestArgs,
    folder: Option<&Path>,
) -> Result<ReadManifest, Failure> {
    let (sources, place) = sources(context, args, folder)?;
    let Loaded { manifest, diagnostics } = load(&sources);
    context.printer.diagnostics(&diagnostics, &sources);
    let has_errors = diagnostics.iter().any(|found| found.is_error());
    Ok(ReadManifest { manifest, has_errors, place })
}

/// The manifest's files, and where they were looked for.
pub fn sources(
    context: &Context,
    args: &ManifestArgs,
    folder: Option<&Path>,
) -> Result<(Vec<Source>, PathBuf), Failure> {
    let roots = context.roots(args)?;
    let file = args.manifest.as_deref().map(absolute).transpose()?;
    let (trusted, place) = match (&file, &args.manifest_dir) {
        (Some(file), _) => (Trusted::File(file), file.clone()),
        (None, Some(_)) => (Trusted::Folder(&roots.manifest), roots.manifest.clone()),
        (None, None) => (Trusted::Home(&roots.root), roots.root.clone()),
    };
    let current = env::current_dir().ok();
    Ok((gather(trusted, folder.or(current.as_deref()), &roots.home), place))
}

/// Reads the host config; anything wrong with it is an error.
pub fn config(printer: &mut Printer, roots: &Roots) -> Result<HostConfig, Failure> {
    let loaded = host_config(&roots.root.join("config.yaml"));
    printer.diagnostics(&loaded.diagnostics, &[]);
    if loaded.diagnostics.iter().any(|found| found.is_error()) {
        return Err(Failure::error("the host config has errors"));
    }
    Ok(loaded.config)
}

/// The agent that is meant: the one that is named, else the only one, else a person's choice.
pub fn agent(printer: &mut Printer, read: &ReadManifest, draft: &Draft) -> Result<Name, Failure> {
    let agents: Vec<String> = read.manifest.agents.keys().map(ToString::to_string).collect();
    if let Some(named) = &draft.agent {
        if !read.manifest.agents.contains_key(named) && read.has_errors {
            return Err(Failure::error(format!(
                "agent `{named}` is not there, or what it builds on has an error"
            )));
        }
        if read.has_errors {
            printer.say(&format!("note: agent {named} does not build on what has errors"));
        }
        return Ok(named.clone());
    }
    if read.has_errors {
        return Err(Failure::error("the manifest has errors")
            .hint("name an agent that does not build on what has errors, or repair it"));
    }
    let chosen = match agents.as_slice() {
        [] => {
            return Err(Failure::error(format!("no agent is known in {}", read.place.display()))
                .hint("`bottle init` writes a first one; see also --manifest and --manifest-dir"));
        }
        [one] => one.as_str(),
        several if printer.is_interactive() => ask::choose(printer, "agent", several)?,
        several => {
            return Err(Failure::usage("expected the name of an agent: several are known")
                .hint(format!("agents: {}", several.join(", "))));
        }
    };
    Name::new(chosen).map_err(|e| Failure::error(e.to_string()))
}

/// Reads a stored document that is acted upon.
pub fn stored<T: serde::Serialize + serde::de::DeserializeOwned>(
    path: &Path,
    what: &str,
) -> Result<T, Failure> {
    let shown = path.display();
    let text =
        load::text(path).map_err(|e| Failure::error(format!("cannot read {shown}")).because(&e))?;
    document::parse(&text, Strictness::Strict)
        .map(|document| document.value)
        .map_err(|e| Failure::error(format!("expected {what} in {shown}: {e}")))
}

/// The snapshot's own format that this build reads.
const SNAPSHOT_FORMAT: &str = "1.0";

/// Reads a stored snapshot.
pub fn stored_snapshot(path: &Path) -> Result<Snapshot, Failure> {
    let snapshot: Snapshot = stored(path, "a snapshot")?;
    if snapshot.format_version != SNAPSHOT_FORMAT {
        return Err(Failure::new(
            Exit::Version,
            format!(
                "the snapshot in {} has format version `{}`, expected {SNAPSHOT_FORMAT}",
                path.display(),
                snapshot.format_version.escape_debug()
            ),
        ));
    }
    Ok(snapshot)
}

/// The event loop of one command: one thread, and others only for what blocks.
pub fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::error("the event loop cannot be set up").because(&e))
}

/// What one launch can need to know of this host.
pub fn snapshot(
    context: &mut Context,
    args: &ManifestArgs,
    manifest: &Manifest,
    spec: &Spec,
) -> Result<Snapshot, Failure> {
    let roots = context.roots(args)?;
    let config = config(&mut context.printer, &roots)?;
    let wants = Wants::for_agent(manifest, spec, &config);
    look(context, roots, config, &wants)
}

/// What any launch can need to know of this host.
pub fn everything(
    context: &mut Context,
    args: &ManifestArgs,
    manifest: &Manifest,
) -> Result<Snapshot, Failure> {
    let roots = context.roots(args)?;
    let config = config(&mut context.printer, &roots)?;
    let wants = Wants::everything(manifest, &config);
    look(context, roots, config, &wants)
}

/// What the end of a session needs to know of this host.
pub fn of_session(
    context: &mut Context,
    args: &ManifestArgs,
    identity: &Identity,
) -> Result<Snapshot, Failure> {
    let roots = context.roots(args)?;
    let config = config(&mut context.printer, &roots)?;
    let mut wants = Wants::default();
    wants.identity = Some(identity.clone());
    look(context, roots, config, &wants)
}

/// What a change to a session needs to know of this host.
pub fn look_for(
    context: &mut Context,
    args: &ManifestArgs,
    wants: &Wants,
) -> Result<Snapshot, Failure> {
    let roots = context.roots(args)?;
    let config = config(&mut context.printer, &roots)?;
    look(context, roots, config, wants)
}

fn look(
    context: &mut Context,
    roots: Roots,
    config: HostConfig,
    wants: &Wants,
) -> Result<Snapshot, Failure> {
    let env = context.env;
    let own = own_binary::find(&roots.root)?;
    let tool = Tool { version: env!("CARGO_PKG_VERSION").to_owned(), digest: own.digest };
    let mut inputs = HostInputs::new(host(&roots)?, roots, tool, config);
    inputs.env_names = env.names();
    inputs.path = env.path();
    inputs.ssh_agent = env.ssh_agent();
    let (address, logins) = (env.engine()?, env.logins()?);
    let report = runtime()?.block_on(async {
        match Docker::connect(address.as_deref()).await {
            Ok(engine) => probe(Ok(&engine.with_logins(logins)), &inputs, wants).await,
            Err(error) => probe(Err::<&Docker, _>(error), &inputs, wants).await,
        }
    });
    let report = report.map_err(|e| Failure::from_error(Exit::Error, &e))?;
    for problem in &report.problems {
        context.printer.warn(problem);
    }
    if let Some(error) = &report.engine_error {
        let failure = engine_failure(error);
        context.printer.warn(&failure.chain());
        // The planner says how to start one; what else stands in the way only the edge knows.
        if is_permission_denied(error)
            && let Some(hint) = failure.problems.first().and_then(|problem| problem.hint.as_ref())
        {
            context.printer.say(&format!("hint: {hint}"));
        }
    }
    Ok(report.snapshot)
}

/// This host and its user, as the planner is told of them.
pub fn host(roots: &Roots) -> Result<Host, Failure> {
    let path = |path: &Path| {
        let text = path.to_str().ok_or_else(|| {
            Failure::error(format!("expected a path of UTF-8 text, found {}", path.display()))
        })?;
        let text = text.strip_suffix('/').filter(|rest| !rest.is_empty()).unwrap_or(text);
        AbsPath::new(text).map_err(|e| Failure::error(e.to_string()))
    };
    let machine = match env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    Ok(Host {
        platform: format!("{}/{machine}", env::consts::OS),
        uid: rustix::process::geteuid().as_raw(),
        gid: rustix::process::getegid().as_raw(),
        home: path(&roots.home)?,
        state_root: path(&roots.root)?,
    })
}

/// Why the engine does not answer, and what to do about it.
pub fn engine_failure(error: &EngineError) -> Failure {
    let failure = Failure::from_error(Exit::Error, error);
    if is_permission_denied(error) {
        return failure.hint(
            "your user may not talk to the engine: `sudo usermod -aG docker \"$USER\"`, then log \
             in again (or point DOCKER_HOST at a rootless engine)",
        );
    }
    match error {
        EngineError::Unreachable { .. } => failure.hint(
            "start it (`sudo systemctl start docker`), install it \
             (https://docs.docker.com/engine/install/), or point DOCKER_HOST at it",
        ),
        _ => failure,
    }
}
