//! Whole sessions on the real engine, with real clients: what an agent can reach, what a session
//! goes through in its life, what breaks in the middle of it, and where its secrets are.
//!
//! An engine is expected to answer (`scripts/host-setup` starts one), and `cargo build -p bottle`
//! to have been run.

mod between;
mod faults;
mod life;
mod outside;
mod secrets;
mod walls;

use bottle_planner::plan::{Effect, Plan};

/// A bottle that runs `sleep` in the base image, with these variables (`NAME: value, …`) and these
/// routes (`{host: …}, …`).
fn manifest(env: &str, routes: &str) -> String {
    format!(
        "bottles:
  box:
    env: {{{env}}}
    egress: {{routes: [{routes}]}}
    provider: {{command: [sleep, '86400']}}
    image: {{reference: 'debian:bookworm-slim'}}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    )
}

/// The name of the agent's container.
fn agent(session: &str) -> String {
    format!("bottle-{session}")
}

/// The name of egress's container.
fn egress(session: &str) -> String {
    format!("bottle-egress-{session}")
}

/// What a plan does, as `effect id`, in its order.
fn changes(plan: &Plan) -> Vec<String> {
    let effect = |effect| match effect {
        Effect::Create => Some("create"),
        Effect::Update => Some("update"),
        Effect::Replace => Some("replace"),
        Effect::Delete => Some("delete"),
        Effect::None => None,
    };
    plan.actions.iter().filter_map(|a| Some(format!("{} {}", effect(a.effect)?, a.id.0))).collect()
}
