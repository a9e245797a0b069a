//! `bottle prove`: tries to get out of a bottle in every way it knows, and says what happened.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use bottle_executor::engine::docker::Docker;
use bottle_executor::engine::{Engine as _, ExecResult};
use bottle_planner::escape::visible;
use bottle_planner::plan::{Intent, Plan};
use bottle_planner::sidecar::{BIN, BINARY};
use bottle_planner::snapshot::ContainerState;
use bottle_planner::words::Role;
use bottle_sidecar::prove::{Expected, Finding, Order, Outcome, Targets};
use clap::Args;
use serde_json::json;
use tokio::runtime::Runtime;
use zeroize::Zeroizing;

use crate::args::ManifestArgs;
use crate::carry_out;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::{Colour, Printer};
use crate::plan_file::PlanText;
use crate::prove::{
    CANARY_HOST, Canary, Interrupts, PROCESSES, Row, Seen, ThrowAway, aims, host_addresses,
    last_line, rows, table,
};
use crate::request;
use crate::sessions::Sessions;
use crate::world;

/// How long all attempts together may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often another bottle is planned where somebody took its addresses meanwhile.
const TRIES: u32 = 3;
/// The most of a failed program's words that are repeated, in characters.
const EXCERPT: usize = 300;

/// Tries to get out of a bottle, in every way that it knows, and says what happened.
///
/// Without an ID it brings up a throw-away bottle (nothing is pulled: its image is this program), makes
/// its attempts from inside the agent's container, and takes all of it away again. With an ID it
/// enters a running session, changes nothing there, and leaves out what needs a route of its own.
/// Meanwhile a canary listens on every address of this host, on a free TCP and UDP port.
///
/// Attempts that should be refused have twins that should be allowed: they show that the attempt
/// itself works. Exits with 0 only if everything went as it should, else with 1; `OPEN` marks what
/// got through, `SHUT` a twin that did not.
///
/// The attempts in a running session have the agent's own user there, and a hostile agent could disturb
/// them. What the canary heard it cannot deny. Trust the table of a throw-away bottle, which nobody
/// but this program was in.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle prove                  may this host be trusted?\n  \
    bottle prove dev-ab12c        are the walls of this session still there?\n  \
    bottle prove --json | jq '.attempts[] | select(.held | not)'")]
pub struct Prove {
    /// A running session: its ID, a unique beginning of it, or `@last`
    id: Option<String>,
    /// Print the table as JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Prove, context: &mut Context) -> Result<Exit, Failure> {
    let address = context.env.engine()?;
    let runtime = world::runtime()?;
    let engine = runtime
        .block_on(Docker::connect(address.as_deref()))
        .map_err(|error| world::engine_failure(&error))?;
    let canary = Canary::start(format!("{}{}", request::suffix()?, request::suffix()?))
        .map_err(|e| Failure::error("no port to listen on").because(&e))?;
    let proof = match &args.id {
        Some(id) => in_session(id, context, &runtime, &engine, &canary)?,
        None => in_throw_away(context, &runtime, &engine, &canary)?,
    };
    runtime.shutdown_background();
    print(&proof, args.json, &mut context.printer)
}

/// What was found, and where.
struct Proof {
    session: String,
    throw_away: bool,
    rows: Vec<Row>,
}

fn print(proof: &Proof, as_json: bool, printer: &mut Printer) -> Result<Exit, Failure> {
    let held = proof.rows.iter().all(|row| row.finding.held);
    if as_json {
        let document = json!({
            "session": proof.session,
            "throw_away": proof.throw_away,
            "held": held,
            "attempts": proof.rows,
        });
        printer.data(&super::pretty(&document)?)?;
    } else {
        let text = table(&proof.rows, |colour, text| printer.paint_data(colour, text));
        let colour = if held { Colour::Green } else { Colour::Red };
        let last = printer.paint_data(colour, &last_line(&proof.rows));
        printer.data(&format!("{text}\n{last}\n"))?;
        let fixes: BTreeSet<&str> = proof.rows.iter().filter_map(|row| row.fix).collect();
        for fix in fixes {
            let head = printer.paint(Colour::Cyan, "hint:");
            printer.say(&format!("{head} {fix}"));
        }
    }
    Ok(if held { Exit::Ok } else { Exit::Error })
}

fn in_throw_away(
    context: &mut Context,
    runtime: &Runtime,
    engine: &Docker,
    canary: &Canary,
) -> Result<Proof, Failure> {
    let Some(address) = runtime.block_on(reachable(engine))? else {
        return Err(Failure::error("this host has no address that a container could reach"));
    };
    context.printer.say("Bringing up a throw-away bottle; it goes again by itself");
    let mut tries = 0;
    loop {
        tries += 1;
        let bottle = ThrowAway::plan(context, runtime, engine, (address, canary.port))?;
        // From here on Ctrl-C ends what is under way and takes the bottle away.
        let mut stop = runtime.block_on(async { Interrupts::new() })?;
        let applied = runtime.block_on(bottle.apply(engine, &mut stop));
        let found = match applied {
            Ok(()) => runtime.block_on(async {
                let attempts = attempts(&bottle.plan, engine, canary, Some(address));
                tokio::select! {
                    found = attempts => found,
                    () = stop.next() => Err(Failure::new(Exit::Interrupted, "interrupted")),
                }
            }),
            Err(error) if error.is_stale() && tries < TRIES => {
                runtime.block_on(bottle.remove(engine))?;
                continue;
            }
            Err(error) => Err(carry_out::told(error, &bottle.plan)),
        };
        let removed = runtime.block_on(bottle.remove(engine));
        let session = bottle.plan.identity.to_string();
        return match (found, removed) {
            (Ok(rows), Ok(())) => Ok(Proof { session, throw_away: true, rows }),
            (Ok(_), Err(failure)) | (Err(failure), Ok(())) => Err(failure),
            (Err(mut failure), Err(more)) => {
                failure.problems.extend(more.problems);
                Err(failure)
            }
        };
    }
}

fn in_session(
    id: &str,
    context: &mut Context,
    runtime: &Runtime,
    engine: &Docker,
    canary: &Canary,
) -> Result<Proof, Failure> {
    let roots = context.roots(&ManifestArgs::default())?;
    let sessions = Sessions::of(&roots.root);
    let identity = sessions.find(id)?;
    let plan = PlanText::of_session(identity.as_str(), &sessions)?.lenient()?;
    if plan.intent == Intent::Destroy {
        return Err(Failure::error(format!("session {identity} has ended")));
    }
    let rows = runtime.block_on(attempts(&plan, engine, canary, None))?;
    Ok(Proof { session: identity.to_string(), throw_away: false, rows })
}

/// An address of this host at which a container with a way out reaches it: the engine's own bridge,
/// else any.
async fn reachable(engine: &Docker) -> Result<Option<Ipv4Addr>, Failure> {
    let bridge = engine.network("bridge").await.map_err(|e| world::engine_failure(&e))?;
    let bridge = bridge.into_iter().flat_map(|network| network.subnets).collect::<Vec<_>>();
    let own = host_addresses().into_iter().filter_map(|address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let on_bridge = |address: &Ipv4Addr| bridge.iter().any(|subnet| subnet.contains(*address));
    Ok(own.max_by_key(on_bridge))
}

/// Makes all attempts on a session that runs.
async fn attempts(
    plan: &Plan,
    engine: &Docker,
    canary: &Canary,
    granted: Option<Ipv4Addr>,
) -> Result<Vec<Row>, Failure> {
    let failed = |error| world::engine_failure(&error);
    let ended = || {
        Failure::error(format!("session {} does not run", plan.identity))
            .hint("without an ID a throw-away bottle is tried")
    };
    let place = plan.session.places.get(&Role::Agent).ok_or_else(ended)?;
    let container = engine.container(&place.container).await.map_err(failed)?;
    let container = container.filter(|c| c.state == ContainerState::Running).ok_or_else(ended)?;
    let seen = Seen::look(engine, plan).await.map_err(failed)?;
    let route = granted.map(|address| (CANARY_HOST, address));
    let processes = granted.map(|_| PROCESSES);
    let targets = aims(plan, &seen, canary, route, processes).ok_or_else(ended)?;
    let mut found = twins(&targets, canary);

    let argv = [&format!("{BIN}/{BINARY}"), "sidecar", "prove"].map(str::to_owned);
    let order = serde_json::to_vec(&Order::Attempts(Box::new(targets)))
        .map_err(|e| Failure::error("the order cannot be written").because(&e))?;
    let ran = engine.exec(&container.id, &argv, Zeroizing::new(order));
    let ran = tokio::time::timeout(PATIENCE, ran).await.map_err(|_| {
        Failure::error(format!("the attempts took more than {} s", PATIENCE.as_secs()))
    })?;
    found.extend(read(&ran.map_err(failed)?)?);
    Ok(rows(found, &canary.heard()))
}

/// The twins on this host: the canary sits where the attempts look for it.
fn twins(targets: &Targets, canary: &Canary) -> Vec<Finding> {
    // Gateways of networks that keep the host out are no addresses of it.
    let own = host_addresses();
    let at: Vec<IpAddr> = targets.host.iter().copied().filter(|at| own.contains(at)).collect();
    let answers: Vec<(bool, bool)> = at.iter().map(|at| canary.answers_at(*at)).collect();
    let twin = |id, what: &str, deaf: Vec<&IpAddr>| {
        let outcome = match deaf.as_slice() {
            [] => Outcome::Allowed(format!("answers at {} addresses", at.len())),
            deaf => {
                let deaf: Vec<String> = deaf.iter().map(ToString::to_string).collect();
                Outcome::Refused(format!("no answer at {}", deaf.join(", ")))
            }
        };
        Finding::new(id, "host", what, Expected::Allowed, outcome)
    };
    let deaf = |by: fn(&(bool, bool)) -> bool| {
        at.iter().zip(&answers).filter(|(_, answer)| !by(answer)).map(|(at, _)| at).collect()
    };
    vec![
        twin("twin-tcp", "TCP to the canary, from this host itself", deaf(|a| a.0)),
        twin("twin-udp", "UDP to the canary, from this host itself", deaf(|a| a.1)),
    ]
}

/// What the container answered: text that an agent may have had a hand in.
fn read(ran: &ExecResult) -> Result<Vec<Finding>, Failure> {
    if ran.code == 0
        && let Ok(found) = serde_json::from_str::<Vec<Finding>>(&ran.output)
        && !found.is_empty()
    {
        return Ok(found);
    }
    let said: String = ran.output.chars().take(EXCERPT).collect();
    Err(Failure::error(format!(
        "expected findings from the container, found exit code {} and `{}`",
        ran.code,
        visible(said.trim())
    ))
    .hint(
        "the session may run an older bottle, which cannot do this: \
         `bottle plan --identity ID --refresh tool`",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i64, output: &str) -> ExecResult {
        ExecResult { code, output: output.to_owned() }
    }

    #[test]
    fn findings_are_read_whole_or_not_at_all() {
        let finding = Finding::new("a", "b", "c", Expected::Refused, Outcome::Refused("d".into()));
        let text = serde_json::to_string(&[&finding]).unwrap();
        assert_eq!(read(&answer(0, &text)).unwrap(), [finding]);
        for (code, output) in [(1, text.as_str()), (0, "[]"), (0, &text[..text.len() - 2])] {
            assert!(read(&answer(code, output)).is_err(), "{code} {output}");
        }
    }

    #[test]
    fn a_container_s_words_are_repeated_harmlessly() {
        let failure = read(&answer(127, &"\u{1b}[2J".repeat(1000))).unwrap_err();
        let text = failure.to_string();
        assert!(!text.contains('\u{1b}') && text.len() < 8 * EXCERPT, "{text}");
        assert!(text.contains("exit code 127"));
    }
}
