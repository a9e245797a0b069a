//! The tree holds what its documents say: purity, lints, headings, and no forgotten test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["planner", "executor", "sidecar", "cli", "tests"].iter().map(|c| root().join(c)).collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("a readable folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 60, "only {} source files were found", found.len());
    found
}

/// What the planner may stand on, all the way down: no runtime, no clock, no random source, no I/O.
const PLANNER_MAY_USE: [&str; 22] = [
    "arraydeque",
    "bottle-planner",
    "block-buffer",
    "cfg-if",
    "cpufeatures",
    "crypto-common",
    "digest",
    "dyn-clone",
    "hybrid-array",
    "itoa",
    "memchr",
    "ref-cast",
    "saphyr-parser",
    "schemars",
    "serde",
    "serde_core",
    "serde_json",
    "sha2",
    "strsim",
    "thiserror",
    "typenum",
    "zmij",
];

#[test]
fn the_planner_stands_on_nothing_that_touches_the_world() {
    // A procedural macro runs in the compiler, not in the planner.
    let edges = ["-e", "normal,no-proc-macro", "--prefix", "none", "--locked"];
    let output = Command::new(env!("CARGO"))
        .args(["tree", "-p", "bottle-planner"])
        .args(edges)
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("cargo speaks UTF-8");
    let found: BTreeSet<&str> = text.lines().filter_map(|l| l.split(' ').next()).collect();
    let allowed: BTreeSet<&str> = PLANNER_MAY_USE.into();
    let strangers: Vec<&&str> = found.difference(&allowed).collect();
    assert!(strangers.is_empty(), "the planner would stand on {strangers:?}");
    assert!(found.contains("serde_json"), "the closure was not walked: {found:?}");
}

#[test]
fn the_planner_is_no_std_and_stays_so() {
    assert!(read("planner/src/lib.rs").contains("#![no_std]"));
    for path in sources().iter().filter(|p| p.starts_with(root().join("planner/src"))) {
        let text = read(path);
        for word in ["extern crate std", "std::fs", "std::env", "std::net", "std::time"] {
            assert!(!text.contains(word), "{} names {word}", path.display());
        }
    }
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace() {
    for name in ["planner", "executor", "sidecar", "cli", "tests"] {
        let text = read(format!("{name}/Cargo.toml"));
        assert!(text.contains("[lints]\nworkspace = true"), "{name} does not opt in");
    }
}

#[test]
fn every_file_begins_with_what_it_is() {
    for path in sources() {
        let text = read(&path);
        assert!(text.starts_with("//! "), "{} lacks its first sentence", path.display());
    }
}

#[test]
fn nothing_is_unfinished_or_silenced() {
    for path in sources() {
        // This file has the words in a list.
        if path.ends_with("tests/tests/tidy.rs") {
            continue;
        }
        let text = read(&path);
        for word in ["todo!(", "unimplemented!(", "dbg!(", "#[ignore", "#[allow(", "#![allow("] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
    }
}

#[test]
fn documents_name_what_is_there() {
    let readme = read("README.md");
    for script in ["scripts/demo", "scripts/test", "scripts/host-setup"] {
        assert!(readme.contains(script) && root().join(script).exists(), "{script}");
    }
    let contributing = read("CONTRIBUTING.md");
    for text in [&readme, &contributing, &read("ARCHITECTURE.md")] {
        for word in text.split('`').skip(1).step_by(2) {
            let is_path = word.contains('/')
                && ["planner/", "executor/", "cli/", "tests/", "docs/", "scripts/", "golden/"]
                    .iter()
                    .any(|root| word.starts_with(root))
                && !word.contains(['*', ' ', ':']);
            if is_path {
                assert!(root().join(word).exists(), "{word} is named and not there");
            }
        }
    }
    assert!(read(".ci/run").contains("scripts/test"));
}
