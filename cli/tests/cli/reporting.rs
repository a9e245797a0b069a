//! `report` over records of ended sessions, which needs no engine.

use serde_json::{Value, json};

use crate::harness::Host;
use crate::refusing::decision;

const GIT: &str =
    "---\ngit:\n  - name: web\n    upstream: https://git.example.com/a/web\n    secret: PAT\n---\n";

/// A host with an ended session that has a git gate, and this log of it.
fn ended(log: &[Value]) -> Host {
    let host = Host::with_agent();
    host.write("root/bottles/dev.md", GIT);
    let plan = host.plan(&[]);
    host.write("root/history/dev-aaaaa/plan.json", &plan);
    let lines: String = log.iter().cloned().map(decision).collect();
    host.write("root/history/dev-aaaaa/git-gate/out/decisions.jsonl", &lines);
    host
}

#[test]
fn pushes_are_counted_by_what_became_of_them() {
    let of = |method: &str, outcome: &str| json!({"via": "gate", "method": method, "outcome": outcome, "host": "git.example.com"});
    let host = ended(&[
        of("fetch", "allow"),
        of("push", "allow"),
        of("push", "warn"),
        of("push", "refuse"),
        of("fetch", "failed"),
        of("push", "failed"),
        of("push", "refuse"),
    ]);
    let all = host.run(&["report", "--json"]).code(0).json();
    assert_eq!(all[0]["session"], "dev-aaaaa");
    assert_eq!(all[0]["pushes"], json!({"passed": 2, "refused": 3}));
    let table = host.run(&["report"]).code(0).out;
    assert!(table.lines().next().is_some_and(|head| head.contains("  PUSHED  ")), "{table}");
    assert!(table.contains("  2 (-3)  "), "{table}");

    // Nobody pushed, and nobody could.
    let none = ended(&[]);
    let all = none.run(&["report", "--json"]).code(0).json();
    assert_eq!(all[0]["pushes"], json!({"passed": 0, "refused": 0}));
    let host = Host::with_agent();
    let plan = host.plan(&[]);
    host.write("root/history/dev-aaaaa/plan.json", &plan);
    assert_eq!(host.run(&["report", "--json"]).code(0).json()[0]["pushes"], Value::Null);
}
