//! An image without what it would say of its own accord.
//!
//! A container takes over from its image what its creation does not name, and some of that cannot be
//! named away: labels, the anonymous volumes of `VOLUME`, ports. `ONBUILD` waits for the next build,
//! and variables for whatever the plan leaves out. So a container of a session, and an image with a
//! workspace, are made from the image's twin: the same layers under a configuration of our own, which
//! keeps variables, working folder, user and command, and nothing else.
//!
//! The twin costs no layer and no copy: `docker load` (API 1.41, `ImageLoad`) asks for the content of
//! such layers alone that the engine does not have, so an archive of a configuration and a list of
//! layers is enough. Its id is the digest of that configuration: one image has one twin. An engine
//! that wants the layers' content all the same (containerd's store) refuses, and then such an image
//! is used as it is, unless it declares volumes or labels in our name.

use std::collections::BTreeMap;

use bollard::body_full;
use bollard::models as api;
use bollard::query_parameters as query;
use bottle_planner::manifest::set_by_bottle;
use bottle_planner::plan::{LABEL, LABEL_OWNER};
use bottle_planner::words::Digest;
use serde_json::{Value, json};

use super::{Docker, append, follow};
use crate::engine::EngineError;

/// When a twin was made: no clock is in it.
const NO_TIME: &str = "1970-01-01T00:00:00Z";
const NO_YEAR: &str = "1970-01-01";

impl Docker {
    /// The twin of an image, or the image itself where that says nothing. `mounted` are the folders
    /// that the container has mounts at: a volume there is not made anyway.
    ///
    /// # Errors
    ///
    /// An image that is not there; one that says what must not be said, on an engine without twins.
    pub(super) async fn sealed(
        &self,
        reference: &str,
        owner: Option<&String>,
        mounted: &[&str],
    ) -> Result<String, EngineError> {
        let missing = || EngineError::NotFound { message: format!("no such image: {reference}") };
        let image = self.inspect_image(reference).await?.ok_or_else(missing)?;
        let config = image.config.clone().unwrap_or_default();
        if !speaks(&config) {
            return Ok(reference.to_owned());
        }
        let Some(twin) = twin(&image, &config, owner) else { return Ok(reference.to_owned()) };
        let name = format!("sha256:{}", Digest::of(twin.as_bytes()).hex());
        if self.inspect_image(&name).await?.is_some() {
            return Ok(name);
        }
        let action = format!("make a twin of `{reference}`");
        let refused = |message: String| EngineError::Refused { action: action.clone(), message };
        let archive = archive(&twin, &image).map_err(|e| refused(e.to_string()))?;
        let options = query::ImportImageOptionsBuilder::default().quiet(true).build();
        let stream = self.slow.import_image(options, body_full(archive.into()), None);
        let loaded = follow(stream, &self.failed(&action), &|_| {}).await;
        if loaded.is_ok() && self.inspect_image(&name).await?.is_some() {
            return Ok(name);
        }
        match must_not(&config, mounted) {
            None => Ok(reference.to_owned()),
            Some(what) => Err(refused(format!(
                "it declares {what}, which no plan says, and this engine makes no twin without it"
            ))),
        }
    }

    /// Removes a twin that nothing uses any more. Whatever stands in the way of that keeps it: another
    /// container, an image with a workspace on it.
    pub(super) async fn remove_twin(&self, id: &str) {
        let Ok(Some(image)) = self.inspect_image(id).await else { return };
        let named = |names: &Option<Vec<String>>| names.as_ref().is_some_and(|n| !n.is_empty());
        let owned = |config: api::ImageConfig| {
            config.labels.is_some_and(|labels| labels.keys().eq([LABEL_OWNER]))
        };
        let is_twin = !named(&image.repo_tags)
            && !named(&image.repo_digests)
            && image.created.is_some_and(|at| at.to_string().starts_with(NO_YEAR))
            && image.config.is_some_and(owned);
        if is_twin {
            let options = None::<query::RemoveImageOptions>;
            let _ = self.quick.remove_image(id, options, None).await;
        }
    }
}

/// Whether a container of this image is anything that its creation does not say.
fn speaks(config: &api::ImageConfig) -> bool {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    some(&config.volumes)
        || some(&config.on_build)
        || some(&config.exposed_ports)
        || config.healthcheck.is_some()
        || config.stop_signal.is_some()
        || config.labels.iter().flatten().any(|(name, _)| name != LABEL_OWNER)
        || config.env.iter().flatten().any(|variable| is_ours(variable))
}

/// A variable that is the plan's to set, or to leave unset.
fn is_ours(variable: &str) -> bool {
    let name = variable.split('=').next().unwrap_or_default();
    set_by_bottle(name).is_some()
}

/// What must not be, even where there is no twin.
fn must_not(config: &api::ImageConfig, mounted: &[&str]) -> Option<String> {
    let mut volumes = config.volumes.iter().flatten();
    let volume = volumes.find(|volume| !mounted.contains(&volume.as_str()));
    let mut labels = config.labels.iter().flatten().map(|(name, _)| name);
    let label = labels.find(|name| name.starts_with(LABEL) && *name != LABEL_OWNER);
    volume
        .map(|volume| format!("VOLUME {volume}"))
        .or_else(|| label.map(|label| format!("LABEL {label}")))
}

/// The twin's configuration; `None` where the engine does not say what the image consists of. No
/// clock is in it.
fn twin(
    image: &api::ImageInspect,
    config: &api::ImageConfig,
    owner: Option<&String>,
) -> Option<String> {
    let layers = image.root_fs.as_ref()?.layers.as_ref()?;
    let env: Vec<&String> = config.env.iter().flatten().filter(|v| !is_ours(v)).collect();
    let labels: BTreeMap<&str, &String> =
        owner.map(|owner| (LABEL_OWNER, owner)).into_iter().collect();
    let history: Vec<Value> = layers.iter().map(|_| json!({"created": NO_TIME})).collect();
    let mut twin = json!({
        "architecture": image.architecture.as_ref()?,
        "os": image.os.as_ref()?,
        "created": NO_TIME,
        "config": {
            "Env": env,
            "Labels": labels,
            "Cmd": config.cmd,
            "Entrypoint": config.entrypoint,
            "User": config.user.as_deref().unwrap_or_default(),
            "WorkingDir": config.working_dir.as_deref().unwrap_or_default(),
        },
        "rootfs": {"type": "layers", "diff_ids": layers},
        "history": history,
    });
    if let Some(variant) = image.variant.as_ref().filter(|variant| !variant.is_empty()) {
        twin["variant"] = variant.as_str().into();
    }
    Some(twin.to_string())
}

/// A `docker save` archive without its layers.
fn archive(twin: &str, image: &api::ImageInspect) -> std::io::Result<Vec<u8>> {
    let layers = image.root_fs.iter().flat_map(|root| root.layers.iter().flatten());
    let names: Vec<String> = layers.enumerate().map(|(n, _)| format!("{n}.tar")).collect();
    let config = format!("{}.json", Digest::of(twin.as_bytes()).hex());
    let manifest = json!([{"Config": config, "RepoTags": null, "Layers": names}]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, &config, twin.as_bytes())?;
    append(&mut archive, "manifest.json", manifest.as_bytes())?;
    archive.into_inner()
}
