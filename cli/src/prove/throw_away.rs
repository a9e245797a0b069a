//! The throw-away bottle: planned and applied like any session, from the image that the binary itself
//! makes, and undone to the last file.

use std::net::Ipv4Addr;

use bottle_executor::apply::{ApplyError, Cancel, Confirmed, Request, apply};
use bottle_executor::engine::Engine as _;
use bottle_executor::engine::docker::Docker;
use bottle_executor::rollback::rollback;
use bottle_executor::secrets::{Prompter, Secret};
use bottle_executor::state::Roots;
use bottle_executor::tool::ToolBinary;
use bottle_planner::manifest::{Source, SourceKind, load};
use bottle_planner::plan::{LABEL_OWNER, Plan};
use bottle_planner::policy::HostConfig;
use bottle_planner::resolve::{owner_label, plan, sidecar_image};
use bottle_planner::sidecar::{BIN, BINARY};
use bottle_planner::spec::{Overrides, SessionRequest, Spec};
use bottle_planner::words::{EnvName, Name};
use chrono::{SecondsFormat, Utc};
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::args::ManifestArgs;
use crate::carry_out;
use crate::commands::apply::checked;
use crate::context::Context;
use crate::env::Env;
use crate::failure::Failure;
use crate::own_binary;
use crate::plan_file::PlanText;
use crate::request;
use crate::world;

/// The host of the one route; no name below `.test` is anybody's (RFC 6761).
pub const CANARY_HOST: &str = "canary.bottle.test";
/// How many processes the agent's container may have: few enough to be tried.
pub const PROCESSES: u32 = 96;

/// A throw-away bottle that is planned.
pub struct ThrowAway {
    /// Its plan.
    pub plan: Plan,
    text: PlanText,
    roots: Roots,
    config: HostConfig,
    owner: String,
    tool: ToolBinary,
    env: Env,
}

impl ThrowAway {
    /// Makes the image where it is not there yet, and plans a bottle with one route to the canary.
    pub fn plan(
        context: &mut Context,
        runtime: &Runtime,
        engine: &Docker,
        canary: (Ipv4Addr, u16),
    ) -> Result<Self, Failure> {
        let nothing = ManifestArgs::default();
        let roots = context.roots(&nothing)?;
        let config = world::config(&mut context.printer, &roots)?;
        let owner = owner_label(&world::host(&roots)?);
        let own = own_binary::find(&roots.root)?;
        let tool = ToolBinary { digest: own.digest, path: own.path };
        let image = sidecar_image(&tool.digest);
        import(runtime, engine, &tool, &image, &owner)?;

        let loaded =
            load(&[Source::new(SourceKind::SingleFile, "prove", manifest(&image, canary))]);
        if let Some(wrong) = loaded.diagnostics.iter().find(|found| found.is_error()) {
            return Err(Failure::error(format!("the throw-away manifest: {}", wrong.message)));
        }
        let agent = Name::new("prove").map_err(|e| Failure::error(e.to_string()))?;
        let spec = Spec {
            agent,
            session: SessionRequest::New { suffix: request::suffix()? },
            at: request::time(None, context.env, Utc::now)?,
            workspace: None,
            resume: false,
            task: None,
            args: Vec::new(),
            overrides: Overrides::default(),
            refresh: std::collections::BTreeSet::new(),
            offline: false,
        };
        let snapshot = world::snapshot(context, &nothing, &loaded.manifest, &spec)?;
        let plan = plan(&loaded.manifest, &spec, &snapshot).map_err(Failure::from_plan)?;
        let text = PlanText::stored(crate::commands::pretty(&plan)?)?;
        let plan = checked(&text, None)?;
        Ok(Self { plan, text, roots, config, owner, tool, env: context.env })
    }

    /// Brings it up. Ctrl-C stops that after what is in flight.
    pub async fn apply(&self, engine: &Docker, stop: &mut Interrupts) -> Result<(), ApplyError> {
        let cancel = Cancel::new();
        let env = |name: &str| self.env.secret(name);
        let mut prompter = Nobody;
        let request = self.request(&cancel, &env, &mut prompter, None);
        let mut quiet = |_: &bottle_executor::events::Event| {};
        let work = apply(engine, request, &mut quiet);
        tokio::pin!(work);
        let mut asked = false;
        loop {
            tokio::select! {
                done = &mut work => return done.map(|_| ()),
                () = stop.next(), if !asked => {
                    asked = true;
                    cancel.set();
                }
            }
        }
    }

    /// Takes away all that was made for it, on the engine and below the state root. What could not be
    /// is told.
    pub async fn remove(&self, engine: &Docker) -> Result<(), Failure> {
        let cancel = Cancel::new();
        let env = |name: &str| self.env.secret(name);
        let mut prompter = Nobody;
        let confirmed = Confirmed::destructive("a throw-away bottle holds no work");
        let request = self.request(&cancel, &env, &mut prompter, Some(&confirmed));
        let mut quiet = |_: &bottle_executor::events::Event| {};
        let hint = format!("`bottle destroy {}` tries again", self.plan.identity);
        match rollback(engine, request, &mut quiet).await {
            Ok(back) if back.kept.is_empty() => {
                // Nobody else knows its name. One that stays does no harm.
                let _ = std::fs::remove_file(self.roots.session_lock(&self.plan.identity));
                Ok(())
            }
            Ok(back) => {
                let kept: Vec<String> =
                    back.kept.iter().map(|kept| format!("{}: {}", kept.action, kept.why)).collect();
                Err(Failure::error(format!("left behind: {}", kept.join("; "))).hint(hint))
            }
            // Nothing was begun.
            Err(ApplyError::Stale { .. }) => Ok(()),
            Err(error) => Err(carry_out::told(error, &self.plan).hint(hint)),
        }
    }

    fn request<'a>(
        &'a self,
        cancel: &'a Cancel,
        env: &'a bottle_executor::secrets::Env<'a>,
        prompter: &'a mut dyn Prompter,
        confirmed: Option<&'a Confirmed>,
    ) -> Request<'a> {
        Request {
            plan: &self.plan,
            digest: &self.text.digest,
            text: &self.text.text,
            inputs: None,
            roots: &self.roots,
            config: &self.config,
            owner: &self.owner,
            tool: &self.tool,
            workspace: None,
            confirmed,
            redeliver: false,
            env,
            prompter,
            clock: &now,
            cancel,
        }
    }
}

fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A plan can only name an image that is there; this one every session needs anyway, and it is made
/// of this very binary. Two at once make the same.
fn import(
    runtime: &Runtime,
    engine: &Docker,
    tool: &ToolBinary,
    tag: &str,
    owner: &str,
) -> Result<(), Failure> {
    runtime.block_on(async {
        if engine.image(tag).await.map_err(|e| world::engine_failure(&e))?.is_some() {
            return Ok(());
        }
        let tar = bottle_executor::tool::root_file_system(tool)
            .map_err(|e| Failure::from_error(crate::exit::Exit::Error, &e))?;
        let labels = [(LABEL_OWNER.to_owned(), owner.to_owned())].into();
        let made = engine.import_image(tag, tar, &labels).await;
        made.map(drop).map_err(|e| world::engine_failure(&e))
    })
}

fn manifest(image: &str, (address, port): (Ipv4Addr, u16)) -> String {
    format!(
        "bottles:
  prove:
    egress:
      routes:
        - host: {CANARY_HOST}
          port: {port}
          address: {address}
          allow: [{{methods: [GET], paths: ['/open/**']}}]
    provider: {{command: [{BIN}/{BINARY}, sidecar, wait]}}
    image: {{reference: '{image}'}}
    workspace: {{modes: [none]}}
    limits: {{cpus: 1, memory: 512MiB, pids: {PROCESSES}, time: 10m, idle: 10m}}
agents:
  prove: {{bottle: prove}}
"
    )
}

/// Nobody is asked: the plan has no secret.
struct Nobody;

impl Prompter for Nobody {
    fn ask(&mut self, _: &EnvName, _: &str) -> Option<Secret> {
        None
    }
}

/// Ctrl-C and its kin, which no longer end the program once this is there.
pub struct Interrupts([Signal; 3]);

impl Interrupts {
    /// Begins to listen; wants a runtime around it.
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|e| Failure::error("signals cannot be received").because(&e))
        };
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(listen);
        Ok(Self([a?, b?, c?]))
    }

    /// Waits for the next.
    pub async fn next(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_loads_and_grants_one_folder_of_one_host() {
        let text = manifest("bottle-sidecar:abc", (Ipv4Addr::new(172, 17, 0, 1), 4711));
        let loaded = load(&[Source::new(SourceKind::SingleFile, "prove", text)]);
        assert!(loaded.diagnostics.is_empty(), "{:?}", loaded.diagnostics);
        let bottle = loaded.manifest.bottles.values().next().unwrap();
        let (host, route) = bottle.egress.routes.iter().next().unwrap();
        assert_eq!((host.as_str(), route.port), (CANARY_HOST, 4711));
        assert_eq!(route.allow[0].paths, ["/open/**"]);
        assert_eq!(bottle.limits.pids, PROCESSES);
    }
}
