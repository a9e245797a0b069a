//! What a session that exists is planned from, where no manifest file has its agent: it was begun
//! with a preset alone, or its agent was taken out of the manifest since.

use bottle_executor::state::INPUTS;
use bottle_planner::manifest::{Source, SourceKind, load};
use bottle_planner::policy::{Manifest, Origin};
use bottle_planner::resolve::Inputs;
use bottle_planner::words::Name;

use crate::args::ManifestArgs;
use crate::commands::presets;
use crate::failure::Failure;
use crate::plan_file::PlanText;
use crate::request::Draft;
use crate::sessions::Sessions;
use crate::world::{self, ReadManifest};

/// The manifest of a preset alone: one bottle that takes it over, and one agent in it, both called
/// as the preset is.
pub fn of_preset(preset: &str) -> Result<(Manifest, Name), Failure> {
    let preset = presets::find(preset)?;
    let name = preset.name.trim_start_matches('@');
    let text = format!(
        "bottles: {{{name}: {{extends: \"{}\", workspace: {{modes: [copy, clone, mount, none]}}}}}}\n\
         agents: {{{name}: {{bottle: {name}}}}}\n",
        preset.name
    );
    let mut loaded = load(&[Source::new(SourceKind::SingleFile, preset.name, text)]);
    if let Some(wrong) = loaded.diagnostics.iter().find(|found| found.is_error()) {
        return Err(Failure::error(format!("the preset {}: {}", preset.name, wrong.message)));
    }
    let name = Name::new(name).map_err(|e| Failure::error(e.to_string()))?;
    if let Some(agent) = loaded.manifest.agents.get_mut(&name) {
        // By this a later plan knows that no file has it.
        agent.origin = Origin::Preset;
    }
    Ok((loaded.manifest, name))
}

/// The manifest of a session that was begun with a preset alone; the present text of the preset, as
/// a manifest file's present text counts.
pub fn begun_with_preset(draft: &Draft, sessions: &Sessions) -> Result<Option<Manifest>, Failure> {
    let (Some(identity), Some(agent)) = (draft.identity(), &draft.agent) else { return Ok(None) };
    let Some(text) = sessions.plan_text(identity)? else { return Ok(None) };
    let Ok(plan) = PlanText::stored(text).and_then(|text| text.lenient()) else { return Ok(None) };
    let begun = plan.grants.agent.origin == Origin::Preset && plan.grants.agent.name == *agent;
    if !begun {
        return Ok(None);
    }
    Ok(Some(of_preset(agent.as_str())?.0))
}

/// The manifest that a session was last planned from, where its agent is not in the manifest any
/// more. One that is named on the command line is taken at its word.
pub fn planned_from(
    draft: &Draft,
    sessions: &Sessions,
    read: &ReadManifest,
    named: &ManifestArgs,
) -> Result<Option<Manifest>, Failure> {
    let (Some(identity), Some(agent)) = (draft.identity(), &draft.agent) else { return Ok(None) };
    let is_named = named.manifest.is_some() || named.manifest_dir.is_some();
    let file = sessions.folder_of(identity).join(INPUTS);
    if is_named || read.has_errors || read.manifest.agents.contains_key(agent) || !file.is_file() {
        return Ok(None);
    }
    let inputs: Inputs = world::stored(&file, "the inputs of a plan")?;
    Ok(inputs.manifest.agents.contains_key(agent).then_some(inputs.manifest))
}

#[cfg(test)]
mod tests {
    use bottle_planner::manifest::PRESETS;

    use super::*;

    #[test]
    fn every_preset_is_a_manifest() {
        for preset in PRESETS {
            let (manifest, name) = of_preset(preset.name).unwrap();
            assert_eq!(manifest.agents[&name].origin, Origin::Preset);
            assert_eq!(manifest.agents[&name].bottle, name);
        }
        assert!(of_preset("@nothing").is_err());
    }
}
