//! Goldens: one folder a case below `golden/`, reviewed like code.
//!
//! `manifest.yaml`, `spec.json` and `snapshot.json` make `plan.json` and `plan.txt`, or
//! `errors.txt`. Spec and snapshot are merge patches (RFC 7386) on those of `golden/base/`, so that
//! a case says only what is its own. Where a session exists already, `given.yaml` is what it was
//! launched from and `then.json` patches the world after that.
//!
//! `UPDATE_GOLDEN=1 cargo test -p bottle-tests --test goldens` writes them anew; read the diff.

use std::path::{Path, PathBuf};

use bottle_planner::document::{self, Strictness};
use bottle_planner::lint::lint;
use bottle_planner::manifest::{self, Source, SourceKind};
use bottle_planner::plan::Plan;
use bottle_planner::policy::Manifest;
use bottle_planner::resolve::plan;
use bottle_planner::show;
use bottle_planner::snapshot::Snapshot;
use bottle_planner::spec::Spec;
use bottle_tests::settle::settle;
use serde_json::Value;

#[test]
fn every_case_is_as_reviewed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../golden");
    let mut cases: Vec<PathBuf> = std::fs::read_dir(&root)
        .expect("the goldens are there")
        .map(|entry| entry.expect("a readable folder").path())
        .filter(|path| path.join("manifest.yaml").exists())
        .collect();
    cases.sort();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let failures: Vec<String> = cases.iter().filter_map(|case| check(&root, case).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn check(root: &Path, case: &Path) -> Result<(), String> {
    let name = case.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let outcome = outcome(root, case);
    let (files, gone): (Vec<(&str, String)>, Vec<&str>) = match outcome {
        Ok(plan) => {
            let findings = lint(&plan);
            if !findings.is_empty() {
                return Err(format!("{name}: lint: {findings:#?}"));
            }
            let json = document::pretty(&plan).expect("a plan is a document");
            (vec![("plan.json", json), ("plan.txt", show::brief(&plan))], vec!["errors.txt"])
        }
        Err(errors) => (vec![("errors.txt", errors)], vec!["plan.json", "plan.txt"]),
    };
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    for file in gone {
        if case.join(file).exists() {
            if !update {
                return Err(format!("{name}: {file} is there and should not be"));
            }
            std::fs::remove_file(case.join(file)).expect("removable");
        }
    }
    for (file, content) in files {
        let path = case.join(file);
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        if found == content {
            continue;
        }
        if update {
            std::fs::write(&path, content).expect("writable");
        } else {
            return Err(format!("{name}: {file} differs; now it is\n{content}"));
        }
    }
    Ok(())
}

fn outcome(root: &Path, case: &Path) -> Result<Plan, String> {
    let base = root.join("base");
    let spec: Spec = typed(&patched(&base.join("spec.json"), &case.join("spec.json")));
    let mut snapshot: Snapshot =
        typed(&patched(&base.join("snapshot.json"), &case.join("snapshot.json")));
    let given = case.join("given.yaml");
    if given.exists() {
        let before: Spec = typed(&patched(&base.join("spec.json"), &case.join("given-spec.json")));
        let manifest = load(&given)?;
        let first = plan(&manifest, &before, &snapshot).map_err(|e| format!("given: {e:#?}"))?;
        let mut world = serde_json::to_value(settle(&first, &snapshot)).expect("JSON");
        merge(&mut world, &read(&case.join("then.json")));
        snapshot = typed(&world);
    }
    let manifest = load(&case.join("manifest.yaml"))?;
    plan(&manifest, &spec, &snapshot).map_err(|errors| {
        errors
            .iter()
            .map(|e| {
                let code = serde_json::to_value(e.code).expect("a code is JSON");
                let code = code.as_str().unwrap_or_default();
                format!("{code}: {}\n  hint: {}\n", e.message, e.hint)
            })
            .collect()
    })
}

fn load(path: &Path) -> Result<Manifest, String> {
    let text = std::fs::read_to_string(path).expect("a manifest");
    let loaded = manifest::load(&[Source::new(SourceKind::SingleFile, "manifest.yaml", text)]);
    if loaded.has_errors() {
        return Err(loaded.diagnostics.iter().map(|d| format!("{d}\n")).collect());
    }
    Ok(loaded.manifest)
}

fn patched(base: &Path, patch: &Path) -> Value {
    let mut value = read(base);
    merge(&mut value, &read(patch));
    value
}

fn read(path: &Path) -> Value {
    match std::fs::read_to_string(path) {
        Ok(text) => document::parse_value(&text).expect("a golden is JSON"),
        Err(_) => Value::Object(serde_json::Map::new()),
    }
}

fn typed<T: serde::Serialize + serde::de::DeserializeOwned>(value: &Value) -> T {
    document::from_value(value.clone(), Strictness::Strict).expect("a golden is complete").value
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}
