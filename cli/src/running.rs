//! A session of this user's on its engine: where its containers are and how they fare.

use bottle_executor::engine::Engine as _;
use bottle_executor::engine::console::Console as _;
use bottle_executor::engine::docker::Docker;
use bottle_planner::plan::{LABEL_IDENTITY, LABEL_OWNER, Plan};
use bottle_planner::resolve::owner_label;
use bottle_planner::snapshot::{Container, ContainerState};
use bottle_planner::words::{Identity, Role};
use tokio::runtime::Runtime;

use crate::args::ManifestArgs;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::sessions::Sessions;
use crate::world;

/// A session that was not ended, and the engine it is on.
pub struct Running {
    /// Its name.
    pub identity: Identity,
    /// The plan last applied to it.
    pub plan: Plan,
    /// The engine.
    pub engine: Docker,
    /// What this command's calls run on.
    pub runtime: Calls,
    owner: String,
}

impl Running {
    /// Finds a session by its ID, a unique beginning of it, or `@last`.
    pub fn find(id: &str, context: &Context) -> Result<Self, Failure> {
        let roots = context.roots(&ManifestArgs::default())?;
        let sessions = Sessions::of(&roots.root);
        let identity = sessions.find(id)?;
        let plan = PlanText::of_session(identity.as_str(), &sessions)?.lenient()?;
        let owner = owner_label(&world::host(&roots)?);
        let (runtime, engine) = engine(context)?;
        Ok(Self { identity, plan, engine, runtime, owner })
    }

    /// The name of a role's container.
    pub fn container(&self, role: Role) -> Result<&str, Failure> {
        self.plan.session.places.get(&role).map(|place| place.container.as_str()).ok_or_else(|| {
            let roles: Vec<&str> = self.plan.session.places.keys().map(|r| r.as_str()).collect();
            Failure::usage(format!("session {} has no {role}", self.identity))
                .hint(format!("it has: {}", roles.join(", ")))
        })
    }

    /// A role's container, if it is there and this session's own.
    pub fn look(&self, role: Role) -> Result<Option<Container>, Failure> {
        let name = self.container(role)?;
        let found = self.runtime.block_on(self.engine.container(name));
        let found = found.map_err(|error| world::engine_failure(&error))?;
        Ok(found.filter(|container| {
            let label = |name: &str| container.labels.get(name).map(String::as_str);
            label(LABEL_IDENTITY) == Some(self.identity.as_str())
                && label(LABEL_OWNER) == Some(self.owner.as_str())
        }))
    }

    /// A role's container, if it runs.
    pub fn is_up(&self, role: Role) -> Result<&str, Failure> {
        let name = self.container(role)?;
        match self.look(role)? {
            Some(container) if container.state == ContainerState::Running => Ok(name),
            found => {
                let what = match found {
                    None => "is not there",
                    Some(_) => "does not run",
                };
                Err(Failure::error(format!("the {role} of session {} {what}", self.identity))
                    .hint(format!("`bottle resume {}` starts the session again", self.identity)))
            }
        }
    }

    /// Waits until the agent has ended, and tells how.
    pub fn wait(&self) -> Result<Exit, Failure> {
        let name = self.container(Role::Agent)?;
        let code = self.runtime.block_on(self.engine.wait(name));
        code.map(Exit::theirs).map_err(|error| world::engine_failure(&error))
    }
}

/// What calls to the engine run on. It does not wait for what still blocks when it goes: a thread
/// that reads a terminal reads until somebody types.
pub struct Calls(Option<Runtime>);

impl Calls {
    /// Runs one to its end.
    pub fn block_on<F: Future>(&self, call: F) -> F::Output {
        let runtime = self.0.as_ref().unwrap_or_else(|| unreachable!("it is there until it goes"));
        runtime.block_on(call)
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// The engine, and what its calls run on.
pub fn engine(context: &Context) -> Result<(Calls, Docker), Failure> {
    let address = context.env.engine()?;
    let runtime = Calls(Some(world::runtime()?));
    let engine = runtime
        .block_on(Docker::connect(address.as_deref()))
        .map_err(|error| world::engine_failure(&error))?;
    Ok((runtime, engine))
}
