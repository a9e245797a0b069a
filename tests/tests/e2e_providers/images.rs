//! What the manifest puts on top of a provider's image, and builds that fail.

use bottle_tests::host::{Host, docker, unique};
use serde_json::Value;

use crate::world::trust;

fn host(image: &str) -> Host {
    let host = Host::with_manifest(&format!(
        "bottles:
  box:
    provider: {{command: [sleep, '86400']}}
    image: {image}
    isolation: container
    workspace: {{modes: [none]}}
agents:
  dev: {{bottle: box, prompt: Be brief.}}
"
    ));
    trust(&host, "");
    host
}

fn inside(session: &str, command: &str) -> String {
    docker(&["exec", &format!("bottle-{session}"), "sh", "-c", command]).code(0).out
}

/// The lines of progress of one action.
fn progress(out: &str, action: &str) -> Vec<String> {
    let events = out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let ours = events.filter(|event| event["id"] == action);
    ours.filter_map(|event| event["line"].as_str().map(str::to_owned)).collect()
}

#[test]
fn packages_and_a_script_are_put_on_top_once() {
    // What a shell and printf could take for theirs stays as it is written.
    let setup = r#"printf '%s\n' 'it is 100% "set" \n up' >/set-up
for n in 1 2; do
  printf '%s\n' "line $n \\ $((n + 1))" >>/set-up
done
"#;
    let session = unique("ontop");
    let setup = format!("{setup}echo built for {session}\n");
    let host = host(&format!("{{packages: [jq], setup: {}}}", Value::from(setup)));
    let plan = host.plans(&session, "plan.json", &[]);
    let tag = plan.session.base_image.clone();
    let applied = host.run(&["apply", "plan.json", "--yes", "--json"]).code(0);
    let lines = progress(&applied.out, "image:agent");
    for said in ["Step 1/", &format!("built for {session}"), "Successfully built"] {
        assert!(lines.iter().any(|line| line.contains(said)), "no {said:?} in {lines:?}");
    }
    let expected = "it is 100% \"set\" \\n up\nline 1 \\ 2\nline 2 \\ 3\n";
    assert_eq!(inside(&session, "cat /set-up"), expected);
    assert_eq!(inside(&session, "echo '{\"a\": 7}' | jq .a"), "7\n");
    // What the build trusted for the network's sake is trusted inside as long as the host says so.
    let count = "grep -c BEGIN /etc/ssl/certs/ca-certificates.crt";
    let with = inside(&session, count);
    host.run(&["destroy", &session, "--yes"]).code(0);
    host.write("root/config.yaml", "{}\n");
    let again = host.plans(&session, "plan.json", &[]);
    assert_eq!(again.session.base_image, tag, "trust is no part of the tag");
    let applied = host.run(&["apply", "plan.json", "--yes", "--json"]).code(0);
    assert_eq!(progress(&applied.out, "image:agent"), Vec::<String>::new(), "it is built once");
    let number = |text: &str| text.trim().parse::<usize>().expect("a number");
    let extra = host.read("home/outside.pem").matches("BEGIN").count();
    // In the image's roots less what the build trusted, and as the host's own.
    assert_eq!(number(&with) - number(&inside(&session, count)), extra);
    host.run(&["destroy", &session, "--yes"]).code(0);
    docker(&["rmi", "-f", &tag]);
}

#[test]
fn a_build_that_fails_says_why_and_leaves_nothing() {
    let session = unique("fails");
    let host = host("{dockerfile: image/Dockerfile}");
    let mark = unique("mark");
    let text = format!(
        "FROM debian:bookworm-slim\nRUN echo {mark} >/first\nRUN echo the reason; echo {mark}-err >&2; exit 9\n"
    );
    host.write("work/image/Dockerfile", &text);
    let listed = || {
        let images = docker(&["images", "-a", "-q", "--no-trunc"]).out;
        images
            .lines()
            .filter(|id| docker(&["history", "--no-trunc", id]).out.contains(&mark))
            .count()
    };
    let words = ["start", "dev", "--manifest", "bottle.yaml", "--yes", "--name", &session];
    let failed = host.run(&words).code(12);
    for said in ["returned a non-zero code: 9", "the reason", &format!("{mark}-err")] {
        assert!(failed.err.contains(said), "no {said:?} in {}", failed.err);
    }
    assert_eq!(listed(), 0, "steps of the build are left");
    let containers = docker(&["ps", "-a", "--no-trunc", "--format", "{{.Command}}"]).out;
    assert!(!containers.contains(&mark), "{containers}");
    assert_eq!(host.leavings(), Vec::<String>::new());
    assert!(!host.has(&format!("root/state/{session}/plan.json")));
}

#[test]
fn the_hosts_proxy_is_the_steps_own_and_left_in_no_image() {
    let session = unique("proxied");
    let host = host("{dockerfile: image/Dockerfile}");
    let proxy = "http://127.0.0.1:9";
    host.write(
        "root/config.yaml",
        &format!("network: {{proxy: '{proxy}', no_proxy: [in.test]}}\n"),
    );
    let text =
        format!("FROM debian:bookworm-slim\nRUN echo {session} $https_proxy $NO_PROXY >/seen\n");
    host.write("work/image/Dockerfile", &text);
    let plan = host.plans(&session, "plan.json", &[]);
    let tag = plan.session.base_image;
    host.run(&["apply", "plan.json", "--yes", "--manifest", "bottle.yaml"]).code(0);
    assert_eq!(inside(&session, "cat /seen"), format!("{session} {proxy} in.test\n"));
    for words in [&["history", "--no-trunc", &tag][..], &["inspect", &tag]] {
        let told = docker(words).code(0).out;
        assert!(!told.contains("127.0.0.1:9"), "{told}");
    }
    host.run(&["destroy", &session, "--yes"]).code(0);
    docker(&["rmi", "-f", &tag]);
}
