//! The built-in bottles: ordinary manifest text, read by the same decoder.

use crate::words::Name;

/// One built-in bottle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preset {
    /// The name with its `@`.
    pub name: &'static str,
    /// The definition, as a bottle's YAML file would have it.
    pub text: &'static str,
}

/// Every preset, by name.
pub const PRESETS: [Preset; 3] = [
    Preset { name: "@claude", text: include_str!("presets/claude.yaml") },
    Preset { name: "@codex", text: include_str!("presets/codex.yaml") },
    Preset { name: "@github-read", text: include_str!("presets/github-read.yaml") },
];

/// The preset of a name.
pub(super) fn preset(name: &Name) -> Option<Preset> {
    PRESETS.into_iter().find(|preset| preset.name == name.as_str())
}
