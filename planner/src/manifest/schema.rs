//! JSON Schemas of the manifest and the host config, rendered from the table of keys.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::vec::Vec;

use serde_json::{Map, Value, json};

use super::keys::{self, Shape, Status, Table};

/// The JSON Schema (draft 2020-12) of a one-file manifest; `$defs/Bottle` and `$defs/Agent` are
/// those of frontmatter, `$defs/Overlay` is that of overlays.
#[must_use]
pub fn schema() -> Value {
    document(&keys::SINGLE, &[&keys::OVERLAY])
}

/// The JSON Schema (draft 2020-12) of the host config.
#[must_use]
pub fn config_schema() -> Value {
    document(&keys::CONFIG, &[])
}

fn document(root: &'static Table, beside: &[&'static Table]) -> Value {
    let mut definitions = Map::new();
    let mut open: Vec<&'static Table> = alloc::vec![root];
    open.extend(beside);
    let mut seen = BTreeSet::new();
    while let Some(table) = open.pop() {
        if seen.insert(table.name) {
            definitions.insert(table.name.into(), object(table, &mut open));
        }
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": root.name,
        "$ref": format!("#/$defs/{}", root.name),
        "$defs": definitions,
    })
}

fn object(table: &'static Table, open: &mut Vec<&'static Table>) -> Value {
    let mut properties = Map::new();
    for key in table.keys {
        let mut value = match key.status {
            Status::Reserved => json!({ "not": {} }),
            _ => shape(&key.shape, open),
        };
        if let Value::Object(value) = &mut value {
            value.insert("description".into(), key.about.into());
            if matches!(key.status, Status::AliasOf(_)) {
                value.insert("deprecated".into(), true.into());
            }
        }
        properties.insert(key.name.into(), value);
    }
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    });
    let required: Vec<Value> = table
        .keys
        .iter()
        .filter(|key| key.status == Status::Required)
        .map(|key| {
            let spellings = table.keys.iter().filter(|other| {
                other.name == key.name || other.status == Status::AliasOf(key.name)
            });
            let any: Vec<Value> =
                spellings.map(|other| json!({ "required": [other.name] })).collect();
            if any.len() == 1 { any[0].clone() } else { json!({ "oneOf": any }) }
        })
        .collect();
    if let (false, Value::Object(schema)) = (required.is_empty(), &mut schema) {
        schema.insert("allOf".into(), required.into());
    }
    schema
}

fn shape(of: &'static Shape, open: &mut Vec<&'static Table>) -> Value {
    match of {
        Shape::Any => json!({}),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Text => json!({ "type": "string" }),
        Shape::Word(pattern) => json!({ "type": "string", "pattern": pattern }),
        Shape::Scalar => json!({ "type": ["string", "number", "boolean"] }),
        Shape::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Shape::OneOf(words) => json!({ "enum": words }),
        Shape::List(item) => json!({ "type": "array", "items": shape(item, open) }),
        Shape::OneOrMany(item) => {
            let item = shape(item, open);
            json!({ "anyOf": [item, { "type": "array", "items": item }] })
        }
        Shape::Map(value) => {
            json!({ "type": "object", "additionalProperties": shape(value, open) })
        }
        Shape::Object(table) => {
            open.push(table);
            json!({ "$ref": format!("#/$defs/{}", table.name) })
        }
        Shape::Either(shapes) => {
            let shapes: Vec<Value> = shapes.iter().map(|one| shape(one, open)).collect();
            json!({ "anyOf": shapes })
        }
    }
}
