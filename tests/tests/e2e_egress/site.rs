//! What the outside serves: small registries for pip, npm and apt, a git repository, and the
//! Messages API.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use bottle_outside::{Page, Sites};
use bottle_planner::words::Digest;
use bottle_tests::host::ran;
use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use serde_json::json;

/// What the model says.
pub const SAYS: &str = "greetings from the test";

/// All pages.
pub fn sites() -> Sites {
    let mut sites = Sites::new();
    let mut add = |host: &'static str, path: &str, kind: &'static str, body: Vec<u8>| {
        let page = Page { kind, body: body.into() };
        sites.entry(host).or_default().insert(path.to_owned(), page);
    };
    let wheel = wheel();
    let name = "demo_thing-1.0-py3-none-any.whl";
    let link = format!("<a href=\"/files/{name}#sha256={}\">{name}</a>", Digest::of(&wheel).hex());
    add("pypi.test", "/simple/demo-thing/", "text/html", link.into_bytes());
    add("pypi.test", &format!("/files/{name}"), "application/octet-stream", wheel);

    let package = json!({"name": "demo-thing", "version": "1.0.0", "main": "index.js"});
    let files = [
        ("package/package.json", package.to_string()),
        ("package/index.js", "module.exports = 42\n".to_owned()),
    ];
    let mut version = package;
    version["dist"] = json!({"tarball": "https://npm.test/demo-thing/-/demo-thing-1.0.0.tgz"});
    let document = json!({
        "name": "demo-thing", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version},
    });
    add("npm.test", "/demo-thing", "application/json", document.to_string().into_bytes());
    add(
        "npm.test",
        "/demo-thing/-/demo-thing-1.0.0.tgz",
        "application/octet-stream",
        tar_gz(&files),
    );

    let deb = b"what apt downloads it does not look into\n".to_vec();
    let list = format!(
        "Package: demo-thing\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@x.test>\n\
         Filename: ./demo-thing_1.0_all.deb\nSize: {}\nSHA256: {}\nDescription: x\n\n",
        deb.len(),
        Digest::of(&deb).hex()
    );
    add("deb.test", "/Packages", "text/plain", list.into_bytes());
    add("deb.test", "/demo-thing_1.0_all.deb", "application/octet-stream", deb);

    for (path, body) in repository() {
        add("git.test", &format!("/me/demo.git/{path}"), "application/octet-stream", body);
    }
    add("api.anthropic.com", "/v1/messages", "text/event-stream", answer().into_bytes());
    sites
}

/// A streamed answer of the Messages API.
fn answer() -> String {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-test",
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": {"input_tokens": 1, "output_tokens": 1},
    });
    let events = [
        ("message_start", json!({"message": message})),
        ("content_block_start", json!({"index": 0, "content_block": {"type": "text", "text": ""}})),
        ("content_block_delta", json!({"index": 0, "delta": {"type": "text_delta", "text": SAYS}})),
        ("content_block_stop", json!({"index": 0})),
        (
            "message_delta",
            json!({
                "delta": {"stop_reason": "end_turn", "stop_sequence": null},
                "usage": {"output_tokens": 5},
            }),
        ),
        ("message_stop", json!({})),
    ];
    let event = |(name, mut data): (&str, serde_json::Value)| {
        data["type"] = name.into();
        format!("event: {name}\ndata: {data}\n\n")
    };
    events.into_iter().map(event).collect()
}

fn tar_gz(files: &[(&str, String)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, path, text.as_bytes()).expect("memory takes it");
    }
    archive.into_inner().and_then(GzEncoder::finish).expect("memory takes it")
}

/// A wheel: a zip archive of files as they are.
fn wheel() -> Vec<u8> {
    let info = "demo_thing-1.0.dist-info";
    let files = [
        ("demo_thing.py".to_owned(), "answer = 42\n".to_owned()),
        (
            format!("{info}/METADATA"),
            "Metadata-Version: 2.1\nName: demo-thing\nVersion: 1.0\n".into(),
        ),
        (
            format!("{info}/WHEEL"),
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n".into(),
        ),
        (
            format!("{info}/RECORD"),
            format!("demo_thing.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"),
        ),
    ];
    let short = |n: usize| u16::try_from(n).expect("small").to_le_bytes();
    let long = |n: usize| u32::try_from(n).expect("small").to_le_bytes();
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in &files {
        let mut sum = Crc::new();
        sum.update(text.as_bytes());
        // Version 2.0, no flags, stored, no time (APPNOTE, 4.3.7 and 4.3.12).
        let mut fields = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        fields.extend(sum.sum().to_le_bytes());
        fields.extend(long(text.len()));
        fields.extend(long(text.len()));
        fields.extend(short(name.len()));
        fields.extend(short(0));
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&fields);
        directory.extend([0; 10]);
        directory.extend(long(bytes.len()));
        directory.extend(name.bytes());
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&fields);
        bytes.extend(name.bytes());
        bytes.extend(text.bytes());
    }
    let (at, size) = (bytes.len(), directory.len());
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(short(files.len()));
    bytes.extend(short(files.len()));
    bytes.extend(long(size));
    bytes.extend(long(at));
    bytes.extend(short(0));
    bytes
}

/// The files of a bare repository, as the protocol without a server of its own needs them.
fn repository() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().expect("a folder");
    let git = |words: &[&str]| {
        let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
        let mut command = Command::new("git");
        ran(command.args(who).args(words).current_dir(folder.path()), b"").code(0);
    };
    git(&["init", "-q", "-b", "main", "tree"]);
    let mut file = fs::File::create(folder.path().join("tree/hello.txt")).expect("a file");
    file.write_all(b"cloned\n").expect("written");
    git(&["-C", "tree", "add", "."]);
    git(&["-C", "tree", "commit", "-q", "-m", "hello"]);
    git(&["clone", "-q", "--bare", "tree", "demo.git"]);
    git(&["-C", "demo.git", "update-server-info"]);
    let mut all = Vec::new();
    collect(&folder.path().join("demo.git"), "", &mut all);
    all
}

fn collect(folder: &Path, below: &str, all: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(folder).expect("readable").flatten() {
        let name = format!("{below}{}", entry.file_name().to_string_lossy());
        if entry.path().is_dir() {
            collect(&entry.path(), &format!("{name}/"), all);
        } else {
            all.push((name, fs::read(entry.path()).expect("readable")));
        }
    }
}
