//! The attack suite: everything a hostile agent might try on the wire, each attempt beside a twin
//! that differs by what is wrong with it alone. The twin goes through, so that the attempt is known
//! to be able to.
//!
//! A list for each family; one test runs each list and names everything that got through. Attempts
//! that need a container (raw sockets, neighbours, mounts) are in `tests/tests/e2e_egress`.

mod agreement;
mod credentials;
mod framing;
mod leaks;
mod methods;
mod names;
mod own;
mod paths;
pub mod shot;
pub mod targets;
mod world;

use std::collections::BTreeSet;

use bottle_outside::SAID;
use bottle_planner::decision::Code;
pub use shot::{Shot, h2};
pub use world::World;

/// One thing to try.
pub struct Attempt {
    family: &'static str,
    name: String,
    attack: Shot,
    twin: Shot,
    wants: Wants,
}

/// What must become of an attempt.
enum Wants {
    /// Refused, with one of these in the log where there are any; nothing of it arrives whole.
    Refused(&'static [Code]),
    /// Ended, with one of these in the log, before these bytes arrive: it was begun.
    Stopped(&'static [Code], Vec<u8>),
    /// Whatever comes of it, these bytes do not arrive outside.
    Without(Vec<u8>),
    /// Whatever comes of it, these bytes do not come back.
    Unsaid(Vec<u8>),
}

impl Attempt {
    /// An attempt that is refused for one of these reasons.
    fn refused(
        family: &'static str,
        name: impl Into<String>,
        codes: &'static [Code],
        attack: Shot,
        twin: Shot,
    ) -> Self {
        Self { family, name: name.into(), attack, twin, wants: Wants::Refused(codes) }
    }

    /// An attempt of which some bytes do not arrive.
    fn without(
        family: &'static str,
        name: impl Into<String>,
        bytes: impl Into<Vec<u8>>,
        attack: Shot,
        twin: Shot,
    ) -> Self {
        Self { family, name: name.into(), attack, twin, wants: Wants::Without(bytes.into()) }
    }

    /// An attempt to be told something.
    fn unsaid(
        family: &'static str,
        name: impl Into<String>,
        bytes: impl Into<Vec<u8>>,
        attack: Shot,
        twin: Shot,
    ) -> Self {
        Self { family, name: name.into(), attack, twin, wants: Wants::Unsaid(bytes.into()) }
    }

    /// Tries it and its twin; answers what went wrong.
    fn run(&self, world: &World) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut complain = |what: String| {
            wrong.push(format!("{} / {}: {what}", self.family, self.name));
        };
        world.forget();
        let before = world.session.decisions().len();
        let outcome = self.attack.fire(&world.session);
        let shown = || {
            let text: String = outcome.text().chars().take(300).collect();
            format!("{} {text:?}", outcome.end)
        };
        match &self.wants {
            Wants::Refused(codes) => {
                for request in world.requests() {
                    complain(format!("GOT THROUGH: {:?}", request.text()));
                }
                if holds(&outcome.answer, SAID.as_bytes()) {
                    complain(format!("ANSWERED from outside: {}", shown()));
                }
                let status = outcome.status();
                if !(400..500).contains(&status) && !outcome.answer.is_empty() {
                    complain(format!("not refused: {}", shown()));
                }
                if outcome.is_silence() {
                    complain(format!("neither refused nor closed: {}", shown()));
                }
                if let Err(log) = world.is_told(before, codes) {
                    complain(format!("not logged as {codes:?}: {log}; answer: {}", shown()));
                }
            }
            Wants::Stopped(codes, bytes) => {
                if let Err(log) = world.is_told(before, codes) {
                    complain(format!("not logged as {codes:?}: {log}; answer: {}", shown()));
                }
                if holds(&world.arrived(), bytes) {
                    complain(format!("GOT THROUGH: {:?}", String::from_utf8_lossy(bytes)));
                }
            }
            Wants::Without(bytes) => {
                if holds(&world.arrived(), bytes) {
                    complain(format!("GOT THROUGH: {:?}", String::from_utf8_lossy(bytes)));
                }
            }
            Wants::Unsaid(bytes) => {
                if holds(&outcome.answer, bytes) {
                    complain(format!("TOLD: {}", shown()));
                }
            }
        }
        world.forget();
        let twin = self.twin.fire(&world.session);
        if !holds(&twin.answer, SAID.as_bytes()) {
            let text: String = twin.text().chars().take(400).collect();
            complain(format!("its twin does not pass: {} {text:?}", twin.end));
        }
        wrong
    }
}

pub fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Runs a family in one world and names all that is wrong.
fn run(attempts: &[Attempt]) {
    let world = World::new();
    let wrong: Vec<String> = attempts.iter().flat_map(|attempt| attempt.run(&world)).collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), attempts.len(), wrong.join("\n"));
}

fn all() -> Vec<Attempt> {
    [
        targets::attempts(),
        agreement::attempts(),
        framing::attempts(),
        paths::attempts(),
        methods::attempts(),
        credentials::attempts(),
        leaks::attempts(leaks::Kind::Own),
        leaks::attempts(leaks::Kind::Token),
        own::attempts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn there_are_enough_of_them_and_no_two_are_the_same() {
    let all = all();
    let names: BTreeSet<(&str, &str)> = all.iter().map(|a| (a.family, a.name.as_str())).collect();
    assert_eq!(names.len(), all.len(), "a name stands for two attempts");
    assert!(all.len() >= 80, "only {} attempts", all.len());
}

#[test]
fn targets_that_are_not_granted() {
    run(&targets::attempts());
}

#[test]
fn requests_that_name_two_hosts() {
    run(&agreement::attempts());
}

#[test]
fn requests_that_can_be_read_in_two_ways() {
    run(&framing::attempts());
}

#[test]
fn paths_that_lead_elsewhere() {
    run(&paths::attempts());
}

#[test]
fn methods_that_are_not_what_they_seem() {
    run(&methods::attempts());
}

#[test]
fn credentials_of_others_and_of_egress() {
    run(&credentials::attempts());
}

#[test]
fn secrets_of_the_session_that_leave() {
    run(&leaks::attempts(leaks::Kind::Own));
}

#[test]
fn tokens_of_well_known_kinds_that_leave() {
    run(&leaks::attempts(leaks::Kind::Token));
}

#[test]
fn egress_itself() {
    run(&own::attempts());
}
