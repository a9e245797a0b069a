//! `bottle schema`: the JSON Schema of each document.

use bottle_planner::manifest;
use bottle_planner::plan::{FORMAT_VERSION, Plan};
use bottle_planner::show::Info;
use bottle_planner::snapshot::Snapshot;
use bottle_planner::spec::Spec;
use clap::{Args, ValueEnum};
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, schema_for};
use serde_json::{Value, json};

use super::cleanup;
use crate::context::Context;
use crate::exit::Exit;
use crate::failure::Failure;

/// Prints the JSON Schema (draft 2020-12) of a document.
///
/// An editor that knows the schema of a manifest completes and checks it as you write.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  bottle schema plan > plan.schema.json\n  \
    bottle schema manifest > manifest.schema.json")]
pub struct Schema {
    /// Which document
    document: Document,
}

/// A document that has a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Document {
    /// A plan
    Plan,
    /// A manifest in one file; `$defs` has the frontmatter of bottles and agents
    Manifest,
    /// The host config, ~/.bottle/config.yaml
    Config,
    /// A launch request, as `plan --spec` takes it
    Spec,
    /// The facts about a host, as `probe` prints them
    Snapshot,
    /// What an agent would be started with, as `info --json` prints it
    Info,
    /// What is left behind and how its removal went, as `cleanup --json` prints it
    Cleanup,
}

/// Runs the command.
pub fn run(args: &Schema, context: &mut Context) -> Result<Exit, Failure> {
    context.printer.data(&super::pretty(&schema(args.document))?)?;
    Ok(Exit::Ok)
}

fn schema(document: Document) -> Value {
    let (name, mut schema) = match document {
        Document::Plan => ("plan", schema_for!(Plan).to_value()),
        Document::Manifest => ("manifest", manifest::schema()),
        Document::Config => ("config", manifest::config_schema()),
        Document::Spec => ("spec", schema_for!(Spec).to_value()),
        Document::Snapshot => ("snapshot", schema_for!(Snapshot).to_value()),
        // What is printed has every field, be it null.
        Document::Info => ("info", printed::<Info>()),
        Document::Cleanup => ("cleanup", printed::<cleanup::Document<'_>>()),
    };
    // A name, not an address: nothing is published under it.
    schema["$id"] = json!(format!("urn:bottle:schema:{name}:{FORMAT_VERSION}"));
    schema["title"] = json!(format!("bottle {name}, format {FORMAT_VERSION}"));
    schema
}

fn printed<T: JsonSchema>() -> Value {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `UPDATE_SCHEMAS=1 cargo test -p bottle` writes them anew.
    #[test]
    fn checked_in_schemas_are_current() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../schemas");
        let update = std::env::var_os("UPDATE_SCHEMAS").is_some_and(|value| value == "1");
        for document in Document::value_variants() {
            let name = document.to_possible_value().unwrap();
            let path = folder.join(format!("{}.schema.json", name.get_name()));
            let text = super::super::pretty(&schema(*document)).unwrap();
            if update {
                std::fs::create_dir_all(&folder).unwrap();
                std::fs::write(&path, &text).unwrap();
            }
            let stored = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                stored == text,
                "{} is not what the types say; run the tests with UPDATE_SCHEMAS=1",
                path.display()
            );
        }
    }
}
