//! Which image the agent runs in: override, approved change, the bottle's own, the provider's.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};

use super::Ground;
use crate::error::ErrorCode;
use crate::grants::ImageGrant;
use crate::plan::Requirement;
use crate::policy::{Bottle, BuildNetwork, Image, Provider};
use crate::proposed_image;
use crate::provider;
use crate::snapshot::{ContainerState, ImageFact};
use crate::words::{Digest, Identity, RelPath, Role};

impl Ground<'_> {
    /// The image to grant; errors are noted and something typed comes back all the same, so that
    /// the rest of the plan is checked too.
    pub(super) fn image(&mut self, identity: &Identity, bottle: &Bottle) -> ImageGrant {
        if let Some(frozen) = self.frozen_image(identity) {
            return frozen;
        }
        let allow_from = match &bottle.image {
            Image::Provider { build, .. }
            | Image::Dockerfile { build, .. }
            | Image::Reference { build, .. } => build.allow_from.clone(),
        };
        let approved = self.snapshot.session.as_ref().and_then(|s| s.dockerfile.clone());
        if let Some(reference) = &self.spec.overrides.image {
            if approved.is_some() {
                self.notice(
                    "image_override",
                    format!("BOTTLE_IMAGE ({reference}) wins over the approved Dockerfile"),
                );
            }
            return self.reference(reference, allow_from);
        }
        if let Some(dockerfile) = approved {
            self.check_proposed(&dockerfile, &allow_from, bottle);
            return ImageGrant::Build {
                dockerfile,
                context: None,
                network: BuildNetwork::Session,
                allow_from,
                approved_change: true,
                hosts: self.snapshot.session.iter().flat_map(|s| s.build_hosts.clone()).collect(),
            };
        }
        match &bottle.image {
            Image::Reference { reference, .. } => self.reference(reference, allow_from),
            Image::Dockerfile { dockerfile, context, build } => ImageGrant::Build {
                dockerfile: self.named_file(dockerfile, "Dockerfile"),
                context: context.as_ref().and_then(|c| self.context(c)),
                network: build.network,
                allow_from,
                approved_change: false,
                hosts: BTreeSet::new(),
            },
            Image::Provider { version, packages, setup, build } => {
                let base = self.base_image();
                if let (Provider::Command { .. }, Some(version)) = (&bottle.provider, version) {
                    self.error(
                        ErrorCode::ImageMissing,
                        format!("`image.version` is {version}, and the provider is a command"),
                        "a version is one of claude or codex; install the command's own in `setup`",
                    );
                }
                if matches!(bottle.provider, Provider::Command { .. })
                    && packages.is_empty()
                    && setup.is_empty()
                {
                    return self.reference(&base, allow_from);
                }
                ImageGrant::Build {
                    dockerfile: provider::dockerfile(
                        &bottle.provider,
                        &base,
                        version.as_deref(),
                        packages,
                        setup,
                    ),
                    context: None,
                    network: build.network,
                    allow_from,
                    approved_change: false,
                    hosts: BTreeSet::new(),
                }
            }
        }
    }

    /// The approved Dockerfile once more: the file may be another than the one that was approved.
    fn check_proposed(&mut self, text: &str, allow_from: &BTreeSet<String>, bottle: &Bottle) {
        let in_force = match self.applied() {
            Some(applied) => applied.grants.image.in_force(),
            None => self.own_dockerfile(bottle),
        };
        for finding in proposed_image::check(text, allow_from, &in_force).err().unwrap_or_default()
        {
            self.error(
                ErrorCode::BadProposal,
                format!("the approved Dockerfile of the session, {finding}"),
                "correct it with the agent's next proposal, or remove `Dockerfile` and \
                 `build-hosts.json` from the session's state folder to keep the image it has",
            );
        }
    }

    /// What the bottle itself builds on, where no plan of the session says what is in force.
    fn own_dockerfile(&self, bottle: &Bottle) -> String {
        let base = match &bottle.image {
            Image::Reference { reference, .. } => reference.clone(),
            Image::Provider { .. } => self.base_image(),
            Image::Dockerfile { dockerfile, .. } => {
                return self.snapshot.named_files.get(dockerfile).cloned().unwrap_or_default();
            }
        };
        format!("FROM {base}\n")
    }

    fn base_image(&self) -> String {
        self.snapshot
            .config
            .base_image
            .clone()
            .unwrap_or_else(|| provider::DEFAULT_BASE.to_string())
    }

    /// A reference is resolved to what it means here and now, so that the plan names content.
    fn reference(&mut self, reference: &str, allow_from: BTreeSet<String>) -> ImageGrant {
        let pinned = reference.split_once('@').and_then(|(_, digest)| Digest::new(digest).ok());
        let present = self.snapshot.images.get(reference);
        // A registry's digest means the same on every host, and an image that went is pulled again.
        let known = match present {
            Some(image) => registry_digest(reference, image),
            None => self.snapshot.resolved.get(reference).cloned(),
        };
        if let (None, Some(digest)) = (&pinned, known) {
            let reference = format!("{reference}@{digest}");
            return ImageGrant::Reference { reference, digest: Some(digest), allow_from };
        }
        let digest = pinned.clone().or_else(|| present.map(|image| image.id.clone()));
        if digest.is_none() && !self.spec.offline && self.snapshot.engine.is_some() {
            self.error(
                ErrorCode::ImageMissing,
                format!("image `{reference}` is not present"),
                "its registry does not know it, or did not answer: log in with `docker login`, or \
                 bring it in with `docker pull`",
            );
        }
        ImageGrant::Reference { reference: reference.to_string(), digest, allow_from }
    }

    /// The text of a file that the manifest names.
    pub(super) fn named_file(&mut self, path: &RelPath, what: &str) -> String {
        if let Some(text) = self.snapshot.named_files.get(path) {
            return text.clone();
        }
        self.error(
            ErrorCode::FileMissing,
            format!("the {what} `{path}` that the manifest names cannot be read"),
            "it must be a regular UTF-8 file inside the manifest's own folder",
        );
        String::new()
    }

    fn context(&mut self, path: &RelPath) -> Option<Digest> {
        if let Some(tree) = self.snapshot.contexts.get(path) {
            self.requires
                .insert(Requirement::Context { path: path.clone(), digest: tree.digest.clone() });
            return Some(tree.digest.clone());
        }
        self.error(
            ErrorCode::FileMissing,
            format!("the build context `{path}` that the manifest names cannot be read"),
            "it must be a folder inside the manifest's own folder",
        );
        None
    }

    /// While a container of the session exists, its image stays what it was; but an agent that is
    /// started again is started in what was approved meanwhile.
    fn frozen_image(&mut self, identity: &Identity) -> Option<ImageGrant> {
        let image = &self.applied()?.grants.image;
        if !self.is_frozen(identity, crate::spec::Refresh::Image) {
            return None;
        }
        if self.spec.overrides.image.is_none() && self.is_another_approved(image) {
            let agent = self.own_container(identity, Role::Agent);
            if agent.is_none_or(|(_, found)| found.state != ContainerState::Running) {
                return None;
            }
            self.notice(
                "image_waits",
                format!(
                    "the image that is approved waits until the agent has stopped: `bottle stop \
                     {identity}`, then `bottle resume {identity}`"
                ),
            );
        }
        Some(image.clone())
    }

    /// Whether another image was approved for the session than the one it has; or none any more, as
    /// after a build that failed.
    fn is_another_approved(&self, image: &ImageGrant) -> bool {
        let Some(facts) = &self.snapshot.session else { return false };
        match (image, &facts.dockerfile) {
            (
                ImageGrant::Build { dockerfile, hosts, approved_change: true, .. },
                Some(approved),
            ) => dockerfile != approved || *hosts != facts.build_hosts,
            (ImageGrant::Build { approved_change, .. }, None) => *approved_change,
            (ImageGrant::Reference { .. }, None) => false,
            (_, Some(_)) => true,
        }
    }
}

/// The digest under which a present image was pulled by this very name.
fn registry_digest(reference: &str, image: &ImageFact) -> Option<Digest> {
    let tag = reference.rfind(':').filter(|at| !reference[*at..].contains('/'));
    let name = tag.map_or(reference, |at| &reference[..at]);
    let digest = |known: &String| {
        let (of, digest) = known.split_once('@')?;
        (of == name).then(|| Digest::new(digest).ok())?
    };
    image.repo_digests.iter().find_map(digest)
}
