//! A finding that a person lets through, as a plan of a session that is up.

use bottle_planner::plan::Effect;
use bottle_planner::policy::PushException;
use bottle_planner::resolve::{Amendment, Inputs, plan_amended};
use bottle_planner::words::Name;
use serde_json::Value;

use bottle_tests::host::until;
use bottle_tests::supervised::{Call, approve_and_be_killed, hello};
use serde_json::json;

use crate::World;

#[test]
fn what_a_plan_lets_through_is_pushed_once_by_the_gate_that_runs() {
    let world = World::ssh("gitonce", "");
    // In two parts, so that no token stands whole in this file.
    let token = ["ghp_", "Zx8Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuRi"].concat();
    let line = format!("cd /tmp/web && echo 'key = {token}' > s && git add s && git commit -qm s");
    world.inside(&line).code(0);
    let push = "cd /tmp/web && git push origin HEAD";
    let refused = world.inside(push).code(1).says("s, line 1: github-pat");
    // Nobody is there to be asked.
    assert!(!refused.err.contains("request-push-exception"), "{}", refused.err);
    let log = world.host.run(&["git", "log", &world.session, "--json", "--pushes"]).code(0);
    let logged: Value = serde_json::from_str(log.out.trim()).expect("one push");
    let finding = &logged["push"]["findings"][0];
    let text = |key: &str| finding[key].as_str().expect("text").to_owned();

    let plan = world.host.plans(&world.session, "again.json", &["--dump-inputs", "inputs.json"]);
    let inputs: Inputs =
        serde_json::from_str(&world.host.read("work/inputs.json")).expect("inputs");
    let applied = world.host.plan(&format!("root/state/{}/plan.json", plan.identity));
    let change = Amendment::PushException(
        "0123456789ab".to_owned(),
        PushException {
            remote: Name::new("web").expect("a name"),
            fingerprint: text("fingerprint"),
            rule: text("rule"),
            place: text("place"),
        },
    );
    let amended = plan_amended(&applied, &change, &inputs.snapshot).expect("a plan");
    let does: Vec<_> = amended.actions.iter().filter(|a| a.effect != Effect::None).collect();
    assert_eq!(does.len(), 1, "the file, and no container: {does:?}");
    let amended = serde_json::to_string_pretty(&amended).expect("JSON");
    world.host.write("work/amended.json", &amended);
    world.host.run(&["apply", "amended.json", "--yes"]).code(0);

    let passed = world.inside(push).code(0);
    passed.says(&format!(" [{}]: let through once by a person", text("fingerprint")));
    assert!(world.upstream.refs().contains("refs/heads/agent/work"));
    let log = world.host.run(&["git", "log", &world.session]).code(0);
    log.prints("let through once: github-pat in s, line 1").prints("by exception 0123456789ab");
    let used = format!("root/state/{}/git-gate/out/used-exceptions/0123456789ab", plan.identity);
    assert!(world.host.has(&used));
    // A later plan keeps it, and what was used stays used.
    let plan = world.host.plans(&world.session, "later.json", &[]);
    assert_eq!(plan.summary.create + plan.summary.update + plan.summary.replace, 0);
    // Another secret: the same bytes are upstream by now, and no longer looked at.
    let other = line.replace("> s && git add s", "> t && git add t").replace("ghp_Zx8", "ghp_Qx7");
    world.inside(&other).code(0);
    world.inside(push).code(1).says("t, line 1: github-pat");
    world.down();
}

#[test]
fn an_agent_asks_a_person_approves_and_it_is_pushed_once() {
    let world = World::supervised("gitask");
    // In two parts, so that no token stands whole in this file.
    let token = ["ghp_", "Zx8Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuRi"].concat();
    let line = format!("cd /tmp/web && echo 'key = {token}' > s && git add s && git commit -qm s");
    world.inside(&line).code(0);
    let push = "cd /tmp/web && git push origin HEAD";
    let refused = world.inside(push).code(1).says("request-push-exception").err;
    let found = refused.lines().find(|line| line.contains("s, line 1: github-pat"));
    let finding = found.and_then(|line| line.rsplit('[').next()).expect("a finding");
    let finding = finding.trim().trim_end_matches(']');
    assert_eq!(finding.len(), 32, "{refused}");

    let (call, id) = asks(&world, finding);
    // Shown is what the gate found, and not what the agent says of it.
    let shown = world.host.run(&["supervise", "show", &id]).code(0);
    let shown = shown.prints("push to web, once, what github-pat finds in s").out;
    let digest = shown.rsplit(' ').next().expect("a digest").trim();
    world.host.run(&["supervise", "approve", &id, "--expect", digest]).code(0);
    assert_eq!(call.answer()["answer"], "approved");

    world.inside(push).code(0).says("let through once by a person");
    assert!(world.upstream.refs().contains("refs/heads/agent/work"));
    // Another secret: the same bytes are upstream by now, and no longer looked at.
    let other = line.replace("> s && git add s", "> t && git add t").replace("ghp_Zx8", "ghp_Qx7");
    world.inside(&other).code(0);
    world.inside(push).code(1).says("t, line 1: github-pat");
    world.host.run(&["audit", "show"]).code(0).prints("to push finding").prints("in force");
    world.down();
}

#[test]
fn killed_at_any_moment_an_exception_is_good_once() {
    let world = World::supervised("gitkill");
    let push = "cd /tmp/web && git push origin HEAD";
    for (n, part) in (1u64..=4).map(|n| (n, n * 120)) {
        // In two parts, so that no token stands whole in this file.
        let token = ["ghp_", &format!("Zx{n}Qm2Lr7Tn4Vb9Kc3Hj6Gf1Dp5Ws0YaEuRi")].concat();
        let line = format!(
            "cd /tmp/web && echo 'key = {token}' > s{n} && git add s{n} && git commit -qm s{n}"
        );
        world.inside(&line).code(0);
        let refused = world.inside(push).code(1).says("request-push-exception").err;
        let found = refused.lines().find(|found| found.contains("line 1: github-pat"));
        let finding = found.and_then(|found| found.rsplit('[').next()).expect("a finding");
        let (call, id) = asks(&world, finding.trim().trim_end_matches(']'));
        approve_and_be_killed(&world.host, &id, &digest(&world, &id), part);
        if !waiting(&world).is_empty() {
            let words = ["supervise", "approve", &id, "--expect", &digest(&world, &id)];
            world.host.run(&words).code(0);
        }
        assert_eq!(call.answer()["answer"], "approved", "after {part} ms");
        world.inside(push).code(0).says("let through once by a person");
        let used = format!("root/state/{}/git-gate/out/used-exceptions/{id}", world.session);
        assert!(world.host.has(&used), "after {part} ms");
    }
    let kept =
        world.host.read(&format!("root/state/{}/git-gate/in/exceptions.json", world.session));
    assert_eq!(kept.matches("github-pat").count(), 4, "{kept}");
    world.down();
}

fn waiting(world: &World) -> Vec<Value> {
    let listed = world.host.run(&["supervise", "list", "--json"]).code(0).out;
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    listed["proposals"].as_array().expect("a list").clone()
}

/// A call that asks for a finding to be let through, and its id.
fn asks(world: &World, finding: &str) -> (Call, String) {
    let container = format!("bottle-{}", world.session);
    let client = hello(&container, "supervise").expect("supervise answers");
    let arguments = json!({
        "remote": "web", "finding": finding, "justification": "a key of a test, made up",
    });
    let call = Call::begin(&container, &client, "request-push-exception", arguments);
    until("it is asked", || !waiting(world).is_empty());
    let id = waiting(world)[0]["id"].as_str().expect("an id").to_owned();
    (call, id)
}

/// What approving it would be bound to.
fn digest(world: &World, id: &str) -> String {
    let shown = world.host.run(&["supervise", "show", id, "--json"]).code(0).out;
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    shown["digest"].as_str().expect("a digest").to_owned()
}
