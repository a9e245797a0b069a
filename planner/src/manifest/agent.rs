//! One agent's definition as a file has it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::diagnostic::Placed;
use super::git::{self, GitUserDef};
use super::keys;
use super::reader::{Field, Reader};
use crate::words::Name;

/// What one agent's file says.
#[derive(Debug, Clone, Default)]
pub(super) struct AgentDef {
    pub bottle: Option<Placed<Name>>,
    pub skills: Vec<Placed<Name>>,
    pub git_user: GitUserDef,
    pub prompt: String,
}

/// Reads an agent; `body` is the Markdown below its frontmatter.
pub(super) fn agent(reader: &mut Reader<'_>, field: Field<'_>, body: Option<&str>) -> AgentDef {
    let mut def = AgentDef::default();
    let Some(fields) = reader.fields(field, &keys::AGENT) else { return def };
    if let Some(field) = fields.get("bottle") {
        let name = reader.word(field, |text| Name::new(text));
        def.bottle = name.map(|name| reader.place(field.node.at, name));
    }
    if let Some(items) = fields.get("skills").and_then(|field| reader.list(field)) {
        for item in items {
            if let Some(name) = reader.stem(item) {
                def.skills.push(reader.place(item.node.at, name));
            }
        }
    }
    if let Some(field) = fields.get("git_user") {
        def.git_user = git::user(reader, field);
    }
    match (fields.get("prompt"), body) {
        (Some(field), Some(_)) => {
            reader
                .error(field.at, "misplaced-key", "the prompt of a Markdown file is its body")
                .advise("move it below the frontmatter");
        }
        (Some(field), None) => {
            def.prompt = reader.text(field).unwrap_or_default().trim().to_string();
        }
        (None, body) => def.prompt = body.unwrap_or_default().trim().to_string(),
    }
    def
}
