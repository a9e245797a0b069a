//! The reference pages are made from the types: `docs/manifest.md`, `docs/config.md`,
//! `docs/plan-file.md`, `docs/snapshot.md`.
//!
//! `UPDATE_DOCS=1 cargo test -p bottle-tests --test reference` writes them anew.

use std::fmt::Write as _;
use std::path::Path;

use bottle_planner::error::PlanError;
use bottle_planner::lint::Finding;
use bottle_planner::manifest;
use bottle_planner::plan::Plan;
use bottle_planner::snapshot::Snapshot;
use bottle_planner::spec::Spec;
use serde_json::Value;

#[test]
fn reference_pages_are_current() {
    let plan = serde_json::to_value(schemars::schema_for!((Plan, Finding, PlanError)));
    let plan = plan.expect("a schema is JSON");
    let snapshot = serde_json::to_value(schemars::schema_for!((Spec, Snapshot)));
    let snapshot = snapshot.expect("a schema is JSON");
    let pages = [
        (
            "manifest.md",
            "The manifest",
            "Bottles and agents: YAML, or YAML frontmatter above Markdown. JSON Schema: `bottle schema manifest`. \
             What `bottle allow --always` adds lies beside the manifest and never in it: in \
             `overlays/BOTTLE.yaml` of its folder, or in `FILE.overlay.yaml` beside a manifest in one \
             file (see Overlay). It only widens, is not inherited by `extends`, and a plan that uses \
             one says so.",
            manifest::schema(),
        ),
        (
            "config.md",
            "The host config",
            "`~/.bottle/config.yaml`: what belongs to this machine and not to a policy. JSON Schema: `bottle schema config`.",
            manifest::config_schema(),
        ),
        (
            "plan-file.md",
            "The plan file",
            "What `bottle plan` prints and `bottle apply` takes. JSON Schema: `bottle schema plan`. \
             The digest is `sha256` over the RFC 8785 form of the document; layout is nothing to it. \
             A reader takes its own major version and any minor up to its own.",
            plan,
        ),
        (
            "snapshot.md",
            "Spec and snapshot",
            "The two other inputs of the planner (`bottle plan --spec`, `--snapshot`, `bottle probe`). \
             JSON Schemas: `bottle schema spec`, `bottle schema snapshot`.",
            snapshot,
        ),
    ];
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for (file, title, intro, schema) in pages {
        let content = page(title, intro, &schema);
        let path = docs.join(file);
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(&path, &content).expect("writable");
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == content, "docs/{file} is not what the types say; set UPDATE_DOCS=1");
    }
}

fn page(title: &str, intro: &str, schema: &Value) -> String {
    let mut text = format!(
        "# {title}\n\n<!-- Made from the types by tests/tests/reference.rs; do not edit. -->\n\n{intro}\n"
    );
    let empty = serde_json::Map::new();
    let definitions = schema["$defs"].as_object().unwrap_or(&empty);
    section(&mut text, schema["title"].as_str().unwrap_or("Top level"), schema);
    for (name, definition) in definitions {
        section(&mut text, name, definition);
    }
    text
}

/// One type: a table of its keys, of its values, or of its kinds and their keys.
fn section(text: &mut String, name: &str, schema: &Value) {
    let mut body = String::new();
    if let Some(keys) = schema["properties"].as_object() {
        body.push_str("| key | type | meaning |\n|---|---|---|\n");
        for (key, value) in keys {
            let (kind, meaning) = (kind(value), cell(&value["description"]));
            let _ = writeln!(body, "| `{key}` | {kind} | {meaning} |");
        }
    }
    let variants = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array());
    if let Some(variants) = variants {
        body.push_str("| value | keys | meaning |\n|---|---|---|\n");
        for variant in variants {
            let tag = variant["const"].as_str().or(variant["properties"]["kind"]["const"].as_str());
            let values: Vec<String> = variant["enum"]
                .as_array()
                .map(|values| values.iter().map(|v| format!("`{}`", text_of(v))).collect())
                .unwrap_or_default();
            let tag = tag.map(|t| format!("`{t}`")).unwrap_or_else(|| values.join(", "));
            let tag = if tag.is_empty() { kind(variant) } else { tag };
            let keys: Vec<String> = variant["properties"]
                .as_object()
                .map(|keys| {
                    keys.keys().filter(|k| *k != "kind").map(|k| format!("`{k}`")).collect()
                })
                .unwrap_or_default();
            let target = variant["$ref"].as_str().filter(|_| !tag.contains('[')).map(link);
            let keys = target.unwrap_or_else(|| keys.join(", "));
            let _ = writeln!(body, "| {tag} | {keys} | {} |", cell(&variant["description"]));
        }
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|v| format!("`{}`", text_of(v))).collect();
        let _ = writeln!(body, "One of {}.", values.join(", "));
    }
    if let Some(pattern) = schema["pattern"].as_str() {
        let _ = writeln!(body, "Text that matches `{}`.", pattern.replace('|', "\\|"));
    }
    if body.is_empty() {
        return;
    }
    let _ = write!(text, "\n## {name}\n\n");
    let about = schema["description"].as_str().unwrap_or_default();
    if !about.is_empty() {
        let _ = write!(text, "{about}\n\n");
    }
    text.push_str(&body);
}

fn kind(value: &Value) -> String {
    if let Some(reference) = value["$ref"].as_str() {
        return link(reference);
    }
    if let Some(parts) = value["anyOf"].as_array().or_else(|| value["oneOf"].as_array()) {
        let mut parts: Vec<String> = parts.iter().map(kind).filter(|k| !k.is_empty()).collect();
        parts.dedup();
        return parts.join(" or ");
    }
    if let Some(values) = value["enum"].as_array() {
        let values: Vec<String> = values.iter().map(|v| format!("`{}`", text_of(v))).collect();
        return values.join(", ");
    }
    let names: Vec<&str> = match &value["type"] {
        Value::String(name) => vec![name.as_str()],
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    };
    let inner = if value["items"].is_object() {
        format!(" of {}", kind(&value["items"]))
    } else if value["additionalProperties"].is_object() {
        format!(" of {}", kind(&value["additionalProperties"]))
    } else {
        String::new()
    };
    format!("{}{inner}", names.join(" or "))
}

fn link(reference: &str) -> String {
    let name = reference.rsplit('/').next().unwrap_or(reference);
    format!("[{name}](#{})", name.to_lowercase())
}

fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), String::from)
}

fn cell(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|")
}
