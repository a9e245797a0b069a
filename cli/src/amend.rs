//! A change to a session that runs, planned from the plan in force and applied in place.

use bottle_executor::apply::Confirmed;
use bottle_executor::files::Root;
use bottle_executor::ledger;
use bottle_planner::plan::{Action, Effect, Plan};
use bottle_planner::resolve::{Amendment, plan_amended};
use bottle_planner::show;
use bottle_planner::wants::Wants;
use bottle_planner::words::Identity;

use crate::args::ManifestArgs;
use crate::carry_out::{self, Job};
use crate::commands::apply::checked;
use crate::commands::pretty;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::sessions::Sessions;
use crate::world;

/// The plan that is in force, or was begun.
#[derive(Debug)]
pub struct InForce {
    /// The plan.
    pub plan: Plan,
    /// Its bytes and their digest.
    pub text: PlanText,
    /// Whether all of it was done.
    pub complete: bool,
}

impl InForce {
    /// By the executor's own record: a plan that lies there and was not begun is not in force.
    pub fn of(session: &Identity, context: &Context) -> Result<Self, Failure> {
        let roots = context.roots(&ManifestArgs::default())?;
        let failed = |e: &dyn std::error::Error| Failure::from_error(Exit::Error, e);
        let gone = || Failure::error(format!("nothing was applied to session {session}"));
        let root = Root::open(&roots.state(session)).map_err(|e| failed(&e))?.ok_or_else(gone)?;
        let ledger = ledger::load(&root).map_err(|e| failed(&e))?.unwrap_or_default();
        let Some(digest) = &ledger.plan else {
            // A plan that lies there and nothing that was done: whoever plans on it is told so.
            let text = PlanText::of_session(session.as_str(), &Sessions::of(&roots.root))?;
            return Ok(Self { plan: text.strict()?, text, complete: true });
        };
        let text = ledger::plan_text(&root, digest).map_err(|e| failed(&e))?.ok_or_else(gone)?;
        let text = PlanText::stored(text)?;
        Ok(Self { plan: text.strict()?, text, complete: ledger.complete })
    }
}

/// The plan of a change.
#[derive(Debug)]
pub struct Amended {
    /// The plan, checked.
    pub plan: Plan,
    /// Its bytes and their digest.
    pub text: PlanText,
}

impl Amended {
    /// Plans a change of the session that `applied` brought up. No manifest is read.
    pub fn plan(
        applied: &Plan,
        amendment: &Amendment,
        manifest: &ManifestArgs,
        context: &mut Context,
    ) -> Result<Self, Failure> {
        let snapshot = world::look_for(context, manifest, &Wants::for_plan(applied))?;
        let plan = plan_amended(applied, amendment, &snapshot).map_err(Failure::from_plan)?;
        in_place(&plan)?;
        let text = PlanText::stored(pretty(&plan)?)?;
        let plan = checked(&text, None)?;
        Ok(Self { plan, text })
    }

    /// A plan that was begun and cut short: the same bytes carry it on.
    pub fn begun(text: PlanText) -> Result<Self, Failure> {
        let plan = checked(&text, None)?;
        Ok(Self { plan, text })
    }

    /// Looks whether the plan could be carried out, before anybody is asked.
    pub fn check(&self, context: &mut Context) -> Result<(), Failure> {
        let roots = context.roots(&ManifestArgs::default())?;
        carry_out::check(&self.job(&roots, None, false))
    }

    /// Carries it out.
    pub fn apply(
        &self,
        confirmed: Option<&Confirmed>,
        json: bool,
        context: &mut Context,
    ) -> Result<Exit, Failure> {
        let roots = context.roots(&ManifestArgs::default())?;
        carry_out::carry_out(&self.job(&roots, confirmed, json), context)
    }

    fn job<'a>(
        &'a self,
        roots: &'a bottle_executor::state::Roots,
        confirmed: Option<&'a Confirmed>,
        json: bool,
    ) -> Job<'a> {
        Job {
            plan: &self.plan,
            text: &self.text.text,
            digest: &self.text.digest,
            inputs: None,
            roots,
            workspace: self.plan.session.workspace.as_ref().map(|place| &place.host),
            confirmed,
            rollback: false,
            redeliver: false,
            json,
            secrets: &[],
        }
    }
}

/// Refuses a plan that does more than the change asks for: the session drifted, and what is
/// repaired or started is another decision.
fn in_place(plan: &Plan) -> Result<(), Failure> {
    let asked = |action: &&Action| {
        let id = action.id.0.as_str();
        [
            "file:approvals.json",
            "file:egress/in/routes.json",
            "reload:egress",
            "file:git-gate/in/exceptions.json",
        ]
        .contains(&id)
            // Pipelock has an allow-list of its own, which it reads at its start.
            || id.contains("pipelock")
    };
    let more: Vec<String> = plan
        .actions
        .iter()
        .filter(|action| action.effect != Effect::None && !asked(action))
        .map(show::action_line)
        .collect();
    if more.is_empty() {
        return Ok(());
    }
    let identity = &plan.identity;
    Err(Failure::new(
        Exit::Stale,
        format!("session {identity} is not as it was left: {}", more.join(", ")),
    )
    .hint(format!(
        "bring it into line first: `bottle plan --identity {identity} -o plan.json`, then `bottle \
         apply plan.json`; or `bottle resume {identity}` where it was stopped"
    )))
}
