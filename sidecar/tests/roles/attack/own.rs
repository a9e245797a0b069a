//! Egress itself: what it shows of itself, and to whom.

use bottle_planner::decision::Code::{self, Client, Malformed, NoRoute, NoRule};

use super::targets::{allowed, get, post};
use super::{Attempt, Shot};
use crate::harness::Who;

pub fn attempts() -> Vec<Attempt> {
    const OWN: &[Code] = &[Client, NoRoute, NoRule, Malformed, Code::Port];
    let local = |request: String| Shot::proxy().send(request.replace("HOST", "egress.local"));
    let mut all = Vec::new();
    for (name, attack) in [
        ("another page", local(get("HOST", "http://HOST/", ""))),
        ("its state", local(get("HOST", "http://HOST/state", ""))),
        ("its settings", local(get("HOST", "http://HOST/settings.json", ""))),
        ("its key", local(get("HOST", "http://HOST/../in/ca.key", ""))),
        (
            "its key, by its own folder",
            local(get("HOST", "http://HOST/routes/../../in/ca.key", "")),
        ),
        ("its metrics", local(get("HOST", "http://HOST/metrics", ""))),
        ("writing its routes", local(post("HOST", "http://HOST/routes", "", "{}"))),
        (
            "replacing its routes",
            local(post("HOST", "http://HOST/routes", "", "{}").replacen("POST", "PUT", 1)),
        ),
        (
            "deleting its routes",
            local(get("HOST", "http://HOST/routes", "").replacen("GET", "DELETE", 1)),
        ),
        (
            "its routes through a tunnel",
            Shot::connect("egress.local:80").send(get("egress.local", "/routes", "")),
        ),
        ("its routes under another name", Shot::proxy().send(get("evil.test", "/routes", ""))),
        (
            "its own proxy through itself",
            Shot::connect("egress:9099").send(get("egress.local", "/routes", "")),
        ),
        ("an upstream of the gate", Shot::connect("git.test:2222").send("SSH-2.0-x\r\n")),
    ] {
        all.push(Attempt::refused("egress", name, OWN, attack, allowed()));
    }
    for who in [Who::Server, Who::Resolver] {
        for (name, attack) in [
            ("the proxy", allowed()),
            ("https", Shot::https("api.test").send(get("api.test", "/open/x", ""))),
            ("plain http", Shot::http().send(get("plain.test", "/open/x", ""))),
            (
                "its routes",
                Shot::proxy().send(get("egress.local", "http://egress.local/routes", "")),
            ),
        ] {
            let name = format!("a stranger ({}) at {name}", who as u8);
            all.push(Attempt::refused("egress", name, &[Client], attack.from(who), allowed()));
        }
    }
    for (name, attack) in [
        ("a route", Shot::tunnel("api.test").send(get("api.test", "/open/x", ""))),
        ("plain http", Shot::proxy().send(get("plain.test", "http://plain.test/open/x", ""))),
        ("a port that is not its upstream's", Shot::connect("git.test:22")),
    ] {
        let name = format!("the gate at {name}");
        all.push(Attempt::refused("egress", name, OWN, attack.from(Who::Gate), allowed()));
    }
    all
}
