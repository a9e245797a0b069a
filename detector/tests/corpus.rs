//! False alarms on files that people wrote: the sources that cargo keeps of this workspace's
//! dependencies (the toolchain need not have the standard library's).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bottle_detector::{Detector, Rules, What};

/// As many files are looked at.
const MOST: usize = 50_000;

/// Finds secrets too, and has them to test itself with: `scripts/bench-git` installs it.
const PEER: &str = "ripsecrets-";

/// Files of every crate that cargo has unpacked on this machine.
fn corpus() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let mut files = Vec::new();
    if let Some(home) = home {
        collect(&home.join("registry/src"), &mut files);
    }
    files.sort();
    // Some of every crate.
    let step = files.len().div_ceil(MOST).max(1);
    files.into_iter().step_by(step).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && entry.file_name().to_string_lossy().starts_with(PEER) => {}
            Ok(kind) if kind.is_dir() => collect(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
}

/// Keys that crates ship to test themselves with are keys.
fn is_a_key(path: &Path, rule: &str) -> bool {
    let path = path.to_string_lossy();
    rule == "private-key"
        && ["test", "example", ".pem", ".key", "bench"].iter().any(|p| path.contains(p))
}

#[test]
fn fewer_than_one_alarm_in_two_thousand_files() {
    let files = corpus();
    assert!(files.len() > 1000, "cargo keeps sources: {} files", files.len());
    let detector = Detector::new(Some(Rules::builtin()), None);
    let (next, alarms) = (AtomicUsize::new(0), Mutex::new(BTreeMap::<String, Vec<String>>::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some(path) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Ok(bytes) = fs::read(path) else { continue };
                    let mut rules: Vec<String> = detector
                        .scan(&bytes)
                        .into_iter()
                        .map(|finding| match finding.what {
                            What::Rule(rule) | What::Value(rule) => rule,
                        })
                        .filter(|rule| !is_a_key(path, rule))
                        .collect();
                    rules.sort();
                    rules.dedup();
                    for rule in rules {
                        let mut alarms = alarms.lock().unwrap();
                        alarms.entry(rule).or_default().push(path.display().to_string());
                    }
                }
            });
        }
    });
    let alarms = alarms.into_inner().unwrap();
    let count: usize = alarms.values().map(Vec::len).sum();
    // Half of what may be: entropy and lists of what is none, left out, are noticed.
    assert!(count * 2000 < files.len(), "{count} alarms in {} files: {alarms:#?}", files.len());
    eprintln!("{count} alarms in {} files: {alarms:#?}", files.len());
}
