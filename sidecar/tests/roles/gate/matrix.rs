//! Every built-in rule's example at every place of a push that can hold it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use serde_json::{Value, json};

use super::examples::{EXAMPLES, fill};
use super::world::World;

/// As many examples are pushed at once: the gate tells of 20 findings, and wide text is mostly
/// found in both orders.
const AT_ONCE: usize = 10;
/// A name in a folder holds no slash (git's own format), and no path two of them in a row: an address
/// with its scheme is in no file's name. All else is, line ends too.
const IN_NO_NAME: [&str; 3] = ["slack-webhook-url", "discord-webhook-url", "basic-auth-url"];

/// A place, and how a text gets there.
type Place = (&'static str, fn(&mut History, &str, &str) -> Planted);

const PLACES: [Place; 11] = [
    ("file", |history, branch, text| {
        let at = history.commit(branch, "a", &[], &[("f", Some(&in_lines(text)))]);
        Planted { place: "f", line: Some(2), commit: Some(at), object: at }
    }),
    ("message", |history, branch, text| {
        let at = history.commit(branch, &format!("subject\n\n{text}\n"), &[], &[]);
        Planted { place: "the message of commit ID", line: Some(3), commit: Some(at), object: at }
    }),
    ("tag", |history, branch, text| {
        let at = history.tag(branch, &format!("subject\n\n{text}\n"));
        Planted { place: "the message of tag ID", line: Some(3), commit: None, object: at }
    }),
    ("name", |history, branch, text| {
        let at = history.commit(branch, "a", &[], &[(text, Some(b"a\n"))]);
        let place = "a file name in the top folder: ";
        Planted { place, line: None, commit: Some(at), object: at }
    }),
    ("folder", |history, branch, text| {
        let at = history.commit(branch, "a", &[], &[(&format!("in/{text}/f"), Some(b"a\n"))]);
        let place = "a file name in in: ";
        Planted { place, line: None, commit: Some(at), object: at }
    }),
    ("restored", |history, branch, text| {
        let lines = in_lines(text);
        let at = history.commit(branch, "in", &[], &[("f", Some(&lines))]);
        let out = history.commit(branch, "out", &[at], &[("f", None)]);
        history.commit(branch, "in again", &[out], &[("f", Some(&lines))]);
        Planted { place: "f", line: Some(2), commit: Some(at), object: at }
    }),
    ("resolution", |history, branch, text| {
        let at = history.merge(branch, b"side\n", &in_lines(text)).1;
        Planted { place: "f", line: Some(2), commit: Some(at), object: at }
    }),
    ("second-parent", |history, branch, text| {
        let at = history.merge(branch, &in_lines(text), b"resolved\n").0;
        Planted { place: "f", line: Some(2), commit: Some(at), object: at }
    }),
    ("gzip", |history, branch, text| {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&in_lines(text)).unwrap();
        let at = history.commit(branch, "a", &[], &[("f", Some(&gzip.finish().unwrap()))]);
        Planted { place: "f (unpacked)", line: Some(2), commit: Some(at), object: at }
    }),
    // Read in the wrong order, wide text loses the character at its beginning or at its end.
    ("utf-16-little", |history, branch, text| {
        let at = wide(history, branch, &format!("{text}\na line\n"), u16::to_le_bytes);
        Planted { place: "f (as wide text)", line: Some(1), commit: Some(at), object: at }
    }),
    ("utf-16-big", |history, branch, text| {
        let at = wide(history, branch, &format!("a line\n{text}"), u16::to_be_bytes);
        Planted { place: "f (as wide text)", line: Some(2), commit: Some(at), object: at }
    }),
];

fn wide(history: &mut History, branch: &str, text: &str, order: fn(u16) -> [u8; 2]) -> usize {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(order).collect();
    history.commit(branch, "a", &[], &[("f", Some(&bytes))])
}

fn in_lines(text: &str) -> Vec<u8> {
    format!("a line\n{text}\n").into_bytes()
}

/// Where the gate has to find a text.
struct Planted {
    /// As it is told; `ID` stands for that of `object`. What of it ends with a space goes on.
    place: &'static str,
    line: Option<u64>,
    /// Marks of the commit that brings it, and of the object that holds it.
    commit: Option<usize>,
    object: usize,
}

impl Planted {
    fn is_told_by(&self, finding: &Value, rule: &str, ids: &BTreeMap<usize, String>) -> bool {
        let commit = self.commit.map(|mark| ids[&mark].as_str());
        let place = self.place.replace("ID", &ids[&self.object][..12]);
        let told = finding["place"].as_str().unwrap();
        let right = if place.ends_with(' ') { told.starts_with(&place) } else { told == place };
        right
            && finding["rule"] == rule
            && finding["line"].as_u64() == self.line
            && finding["commit"].as_str() == commit
    }
}

/// Commits and tags that are made all at once (git-fast-import(1)).
#[derive(Default)]
struct History {
    stream: Vec<u8>,
    marks: usize,
}

impl History {
    fn line(&mut self, line: &str) {
        self.stream.extend_from_slice(line.as_bytes());
        self.stream.push(b'\n');
    }

    fn data(&mut self, bytes: &[u8]) {
        self.line(&format!("data {}", bytes.len()));
        self.stream.extend_from_slice(bytes);
        self.line("");
    }

    fn mark(&mut self) -> usize {
        self.marks += 1;
        self.line(&format!("mark :{}", self.marks));
        self.marks
    }

    /// A commit on what upstream has, or on these.
    fn commit(
        &mut self,
        branch: &str,
        message: &str,
        parents: &[usize],
        files: &[(&str, Option<&[u8]>)],
    ) -> usize {
        self.line(&format!("commit refs/heads/agent/{branch}"));
        let mark = self.mark();
        self.line("committer Ada <ada@example.com> 1700000000 +0000");
        self.data(message.as_bytes());
        if parents.is_empty() {
            self.line("from refs/remotes/origin/main^0");
        }
        for (n, parent) in parents.iter().enumerate() {
            self.line(&format!("{} :{parent}", if n == 0 { "from" } else { "merge" }));
        }
        for (path, bytes) in files {
            // Git quotes a path as C does.
            let path = path.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            match bytes {
                Some(bytes) => {
                    self.line(&format!("M 100644 inline \"{path}\""));
                    self.data(bytes);
                }
                None => self.line(&format!("D \"{path}\"")),
            }
        }
        mark
    }

    /// A merge of two that changed a file, with that file as neither has it. The second parent's
    /// mark and its own.
    fn merge(&mut self, branch: &str, side: &[u8], resolved: &[u8]) -> (usize, usize) {
        let side = self.commit(branch, "side", &[], &[("f", Some(side))]);
        let work = self.commit(branch, "work", &[], &[("f", Some(b"work\n"))]);
        (side, self.commit(branch, "merge", &[work, side], &[("f", Some(resolved))]))
    }

    fn tag(&mut self, name: &str, message: &str) -> usize {
        self.line(&format!("tag {name}"));
        let mark = self.mark();
        self.line("from refs/remotes/origin/main^0");
        self.line("tagger Ada <ada@example.com> 1700000000 +0000");
        self.data(message.as_bytes());
        mark
    }

    /// Makes all of it in the agent's clone; the ids of what is marked.
    fn make(self, world: &World) -> BTreeMap<usize, String> {
        world.write("stream", self.stream);
        let marks = world.at("marks");
        let mut import = Command::new("git");
        import.args(["fast-import", "--quiet"]).current_dir(world.at("agent"));
        import.arg(format!("--export-marks={}", marks.display()));
        import.stdin(File::open(world.at("stream")).unwrap());
        assert!(import.status().unwrap().success());
        let text = std::fs::read_to_string(marks).unwrap();
        let ids = text.lines().map(|line| line[1..].split_once(' ').unwrap());
        ids.map(|(mark, id)| (mark.parse().unwrap(), id.to_owned())).collect()
    }
}

/// A rule's example, as it can be in a name: of the fillings of its template the first without a slash.
fn example(template: &str, in_name: bool) -> String {
    let mut fillings = (7..).map(|seed| fill(template, seed));
    fillings.find(|filled| !in_name || !filled.contains('/')).unwrap()
}

/// The refs of a place: tags are pushed as tags.
fn spec(place: &str, name: &str) -> String {
    format!("refs/{}/{name}", if place == "tag" { "tags" } else { "heads/agent" })
}

#[test]
fn every_rule_stops_its_example_at_every_place() {
    let world = World::new(json!({"tags": true})).seeded();
    let (mut history, mut planted) = (History::default(), Vec::new());
    for (place, plant) in PLACES {
        let is_name = matches!(place, "name" | "folder");
        for (rule, template, _) in EXAMPLES {
            assert_eq!(IN_NO_NAME.contains(rule), template.contains('/'), "{rule}");
            if is_name && IN_NO_NAME.contains(rule) {
                continue;
            }
            let (name, text) = (format!("{place}-{rule}"), example(template, is_name));
            let at = plant(&mut history, &name, &text);
            planted.push((place, *rule, name, text, at));
        }
    }
    let ids = history.make(&world);
    let before = world.refs();
    let of_places = planted.chunk_by(|one, next| one.0 == next.0);
    let parts: Vec<_> = of_places.flat_map(|of_place| of_place.chunks(AT_ONCE)).collect();
    for part in &parts {
        let specs: Vec<String> = part.iter().map(|p| spec(p.0, &p.2)).collect();
        let words = ["push", "origin"].into_iter().chain(specs.iter().map(String::as_str));
        let refused = world.git("agent", &words.collect::<Vec<_>>());
        let refused = refused.refused("the push is refused").err;
        for (place, rule, _, text, _) in *part {
            assert!(!refused.contains(longest_line(text)), "{rule} at {place}: {refused}");
        }
    }
    assert_eq!(world.refs(), before);
    let mut missed = Vec::new();
    for (part, push) in parts.iter().zip(world.pushes(parts.len())) {
        let log = push.to_string();
        for (place, rule, _, text, at) in *part {
            let mut told = push["push"]["findings"].as_array().unwrap().iter();
            if !told.any(|finding| at.is_told_by(finding, rule, &ids)) {
                missed.push(format!("{rule} at {place}: {log}"));
            }
            let text = json!(longest_line(text)).to_string();
            assert!(!log.contains(text.trim_matches('"')), "{rule} at {place}: {log}");
        }
    }
    assert!(missed.is_empty(), "{} of {}: {}", missed.len(), planted.len(), missed.join("\n"));
}

fn longest_line(text: &str) -> &str {
    text.lines().max_by_key(|line| line.len()).unwrap()
}

#[test]
fn the_same_places_without_a_secret_stop_nothing() {
    let world = World::new(json!({"tags": true})).seeded();
    let mut history = History::default();
    for (place, plant) in PLACES {
        plant(&mut history, place, "a name of no secret");
    }
    history.make(&world);
    for (place, _) in PLACES {
        world.git("agent", &["push", "origin", &spec(place, place)]).good();
    }
}
