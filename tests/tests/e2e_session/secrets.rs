//! Where a session's secrets are: in the memory of those they are for, and nowhere else.

use std::fs;
use std::path::Path;
use std::process::Command;

use bottle_tests::host::{Host, Ran, docker, inspect, unique, until};

use crate::{agent, egress, manifest};

/// One session with a secret of every kind of source.
struct Planted {
    host: Host,
    session: String,
    /// Variable and value.
    values: Vec<(&'static str, String)>,
    /// The value of egress's own.
    credential: String,
}

impl Planted {
    fn new() -> Self {
        let session = unique("secret");
        let value = |kind: &str| format!("{kind}+{session}/Zq7~x{}", session.len());
        let (by_name, by_env, by_file) = (value("by-name"), value("by-env"), value("by-file"));
        let (by_command, asked, credential) = (value("command"), value("asked"), value("pat"));
        let env = "BY_NAME: '${BY_NAME}', BY_ENV: '${OTHER}', BY_FILE: '${FILED}', \
                   BY_COMMAND: '${PRINTED}', ASKED: '?Who goes there?'";
        let route = "{host: api.example.test, auth: {scheme: Bearer, secret: PAT}}";
        // The agent says something, so that its log is known to be looked into.
        let text = manifest(&format!("{env}, LITERAL: plain-{session}"), route).replace(
            "[sleep, '86400']",
            &format!("[sh, -c, 'echo started-{session}; exec sleep 86400']"),
        );
        let host = Host::with_manifest(&text)
            .set("BY_NAME", &by_name)
            .set("THE_OTHER", &by_env)
            .set("PAT", &credential);
        host.write("home/filed", &by_file).write("home/printed", &by_command);
        let printed = host.at("home/printed");
        let config = format!(
            "secrets:\n  OTHER: {{env: THE_OTHER}}\n  FILED: {{file: ~/filed}}\n  \
             PRINTED: {{command: [cat, {}]}}\n",
            printed.display()
        );
        host.write("root/config.yaml", &config);
        for file in ["home/filed", "home/printed"] {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(host.at(file), fs::Permissions::from_mode(0o600)).expect("a mode");
        }
        let values = vec![
            ("BY_NAME", by_name),
            ("BY_ENV", by_env),
            ("BY_FILE", by_file),
            ("BY_COMMAND", by_command),
            ("ASKED", asked),
        ];
        Self { host, session, values, credential }
    }

    fn asked(&self) -> &str {
        &self.values.last().expect("the last").1
    }

    fn all(&self) -> Vec<&str> {
        self.values.iter().map(|(_, v)| v.as_str()).chain([self.credential.as_str()]).collect()
    }
}

const PLAN: [&str; 7] =
    ["plan", "--manifest", "bottle.yaml", "--dump-inputs", "inputs.json", "-o", "plan.json"];
const APPLY: [&str; 5] = ["apply", "plan.json", "--yes", "--secret", "ASKED=fd:0"];

/// The forms in which bytes could lie about: as they are, in hexadecimal, and in base64, whatever
/// comes before them.
fn forms(value: &str) -> Vec<Vec<u8>> {
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![value.into(), hex.to_uppercase().into_bytes(), hex.into_bytes()];
    for before in 0..3 {
        let mut shifted = vec![b'.'; before];
        shifted.extend(value.bytes());
        let text = base64(&shifted);
        // The characters at both ends depend on what stands beside the value.
        forms.push(text[4.min(before * 4)..text.len() - 4].into());
    }
    forms
}

/// RFC 4648, section 4, without padding.
fn base64(bytes: &[u8]) -> String {
    let alphabet: Vec<char> =
        ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut out = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, b| bits << 8 | u32::from(*b))
            << (8 * (3 - group.len()));
        for n in 0..=group.len() {
            out.push(alphabet[(bits >> (18 - 6 * n) & 63) as usize]);
        }
    }
    out
}

fn holds(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

/// Every file below a folder, with its content.
fn contents(folder: &Path, into: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let (path, kind) = (entry.path(), entry.file_type().expect("known"));
        if kind.is_dir() && entry.file_name() != "bin" {
            contents(&path, into);
        } else if kind.is_file() {
            let content = fs::read(&path).expect("readable");
            into.push((path.display().to_string(), content));
        }
    }
}

/// What the engine keeps of a container on disk: its settings and its log.
fn engines_files(container: &str) -> Vec<u8> {
    let root = docker(&["info", "--format", "{{.DockerRootDir}}"]).code(0).out;
    let id = inspect(container)["Id"].as_str().expect("text").to_owned();
    let folder = format!("{}/containers/{id}:/looked-at:ro", root.trim());
    let image = "debian:bookworm-slim";
    let words = ["run", "--rm", "--network=none", "-v", &folder, image, "tar", "-c", "/looked-at"];
    Command::new("docker").args(words).output().expect("docker runs").stdout
}

/// The variables of the agent's own program.
fn environment(session: &str) -> String {
    let find = "for p in /proc/[0-9]*; do [ \"$(tr '\\0' ' ' <$p/cmdline)\" = 'sleep 86400 ' ] \
                && tr '\\0' '\\n' <$p/environ; done";
    docker(&["exec", "-u", "1000:1000", &agent(session), "bash", "-c", find]).out
}

#[test]
fn they_are_where_they_are_for_and_nowhere_else() {
    let planted = Planted::new();
    let (host, session) = (&planted.host, planted.session.as_str());
    let mut said: Vec<Ran> = Vec::new();
    let named = [&PLAN[..], &["--name", session]].concat();
    said.push(host.run(&named).code(0));
    said.push(host.run_with(&APPLY, planted.asked()).code(0));
    said.push(host.run(&["show", "plan.json"]).code(0));
    said.push(host.run(&["probe", "--manifest", "bottle.yaml"]).code(0));

    // Where they are for.
    let environment = || environment(session);
    until("the agent has its variables", || environment().contains("LITERAL="));
    for (name, value) in &planted.values {
        let line = format!("{name}={value}");
        assert!(environment().lines().any(|l| l == line), "the agent does not have {name}");
    }
    assert!(!environment().contains(&planted.credential), "the agent has egress's credential");

    // Nowhere else: what was said, what the host keeps, what the engine tells and keeps.
    let mut places: Vec<(String, Vec<u8>)> = Vec::new();
    for container in [agent(session), egress(session)] {
        let told = inspect(&container);
        let image = told["Image"].as_str().expect("text").to_owned();
        for name in [container.as_str(), image.as_str()] {
            places.push((format!("inspect {name}"), inspect(name).to_string().into_bytes()));
        }
        let logs = docker(&["logs", &container]).code(0);
        places.push((format!("logs {container}"), format!("{}{}", logs.out, logs.err).into()));
        places.push((format!("files of {container}"), engines_files(&container)));
    }
    for name in host.leavings() {
        places.push((format!("inspect {name}"), inspect(&name).to_string().into_bytes()));
    }
    contents(&host.at("root"), &mut places);
    contents(&host.at("work"), &mut places);
    said.push(host.run(&["destroy", session, "--yes"]).code(0));
    contents(&host.at("root/history"), &mut places);
    for ran in &said {
        places.push(("said".into(), format!("{}{}", ran.out, ran.err).into_bytes()));
    }
    for value in planted.all() {
        for form in forms(value) {
            let found: Vec<&str> = places
                .iter()
                .filter(|(_, bytes)| holds(bytes, &form))
                .map(|(place, _)| place.as_str())
                .collect();
            assert!(found.is_empty(), "{value} is in {found:?}");
        }
    }
    // The same search finds what is no secret: in the plan, the stored files and the engine's log.
    let (literal, started) = (format!("plain-{session}"), format!("started-{session}"));
    let finds = |text: &str, place: &str| {
        places.iter().any(|(p, bytes)| p.contains(place) && holds(bytes, text.as_bytes()))
    };
    for place in ["agent.env", "work/plan.json", "history"] {
        assert!(finds(&literal, place), "the search is blind for {place}");
    }
    for place in ["files of", "logs"] {
        assert!(finds(&started, place), "the search is blind for {place}");
    }
}

#[test]
fn redelivered_they_reach_the_sidecars_and_an_agent_that_was_restarted() {
    let planted = Planted::new();
    let (host, session) = (&planted.host, planted.session.as_str());
    host.run(&[&PLAN[..], &["--name", session]].concat()).code(0);
    host.run_with(&APPLY, planted.asked()).code(0);
    let has = |value: &str| environment(session).lines().any(|l| l == format!("BY_NAME={value}"));
    until("the agent has its variables", || has(&planted.values[0].1));
    let again = || {
        let mut command = host.command(&[&APPLY[..], &["--redeliver"]].concat());
        command.env("BY_NAME", "rotated-by-name").env("PAT", "rotated-pat");
        bottle_tests::host::ran(&mut command, planted.asked().as_bytes()).code(0)
    };
    let told = again().says("done deliver:egress").says("deliver:agent was left");
    let restart = format!("docker restart {}", agent(session));
    assert!(told.err.contains(&restart), "{}", told.err);
    assert!(has(&planted.values[0].1), "its environment cannot have changed");
    docker(&["restart", "-t", "1", &agent(session)]).code(0);
    let told = again().says("done deliver:agent");
    assert!(!told.err.contains("was left"), "{}", told.err);
    until("the agent has the new value", || has("rotated-by-name"));
}

#[test]
fn the_search_sees_every_form() {
    let value = "by-name+secret-1x2/Zq7~x9";
    let hex: String = value.bytes().map(|b| format!("{b:02x}")).collect();
    let mut hidden = vec![format!("a{value}b"), hex.to_uppercase(), hex];
    for before in ["", "x", "xy", "xyz: "] {
        hidden.push(base64(format!("{before}{value} and more").as_bytes()));
    }
    for text in hidden {
        let found = forms(value).iter().any(|form| holds(text.as_bytes(), form));
        assert!(found, "{text}");
    }
    assert!(!forms(value).iter().any(|form| holds(b"something else altogether", form)));
}

#[test]
fn a_missing_one_costs_nothing() {
    let planted = Planted::new();
    let (host, session) = (&planted.host, planted.session.as_str());
    host.run(&[&PLAN[..], &["--name", session]].concat()).code(0);
    let untouched = || {
        assert_eq!(host.leavings(), Vec::<String>::new());
        assert!(!host.has(&format!("root/state/{session}")));
    };
    let refused = |name: &str, vary: &dyn Fn(&mut Command) -> &mut Command, words: &[&str]| {
        let mut command = host.command(words);
        vary(&mut command);
        let ran = bottle_tests::host::ran(&mut command, planted.asked().as_bytes()).code(10);
        let ran = ran.says(name);
        for value in planted.all() {
            assert!(!ran.err.contains(value) && !ran.out.contains(value), "{}", ran.err);
        }
        untouched();
    };
    refused("BY_NAME", &|c| c.env_remove("BY_NAME"), &APPLY);
    refused("BY_NAME", &|c| c.env("BY_NAME", ""), &APPLY);
    refused("OTHER", &|c| c.env_remove("THE_OTHER"), &APPLY);
    refused("PAT", &|c| c.env_remove("PAT"), &APPLY);
    refused("ASKED", &|c| c, &APPLY[..3]);
    for (file, name) in [("home/filed", "FILED"), ("home/printed", "PRINTED")] {
        let aside = host.at("home/aside");
        fs::rename(host.at(file), &aside).expect("moved");
        refused(name, &|c| c, &APPLY);
        fs::rename(&aside, host.at(file)).expect("moved back");
    }
    host.run_with(&APPLY, planted.asked()).code(0);
}
