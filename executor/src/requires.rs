//! What must still be true of the host before the first action: all of it is looked at, and all
//! that fails is reported together.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;

use bottle_planner::plan::{
    Action, ContainerSpec, Effect, Intent, Operation, Plan, Requirement, SecretRef, UploadSource,
    work_volume,
};
use bottle_planner::policy::Isolation;
use bottle_planner::resolve::{RUNSC, pool};
use bottle_planner::sidecar::PROTOCOL;
use bottle_planner::words::{AbsPath, Digest, Role};
use futures_util::StreamExt as _;

use crate::engine::Engine;
use crate::ops::{OpError, World};
use crate::secrets::{self, Sources, expand};
use crate::state::Roots;
use crate::tool;
use crate::tree::{self, Hide};
use crate::upstream_ca;

/// How many requirements are looked at side by side.
const WIDTH: usize = 16;

/// A requirement that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {found}")]
pub struct Unmet {
    /// What the plan requires.
    pub expected: String,
    /// What there is.
    pub found: String,
    /// What to do about it; may be empty.
    pub hint: String,
}

/// What only matters if an action of this apply uses it: a secret that was delivered long ago may
/// be gone, and a folder that was copied long ago may have changed.
struct Used<'p> {
    secrets: BTreeSet<&'p SecretRef>,
    digests: BTreeSet<&'p Digest>,
    made: BTreeSet<String>,
}

impl<'p> Used<'p> {
    fn by(plan: &'p Plan, actions: impl Iterator<Item = &'p Action>) -> Self {
        let mut used =
            Self { secrets: BTreeSet::new(), digests: BTreeSet::new(), made: BTreeSet::new() };
        for action in actions {
            match &action.op {
                Operation::Deliver(deliver) => used.secrets.extend(deliver.items.values()),
                Operation::Upload(upload) => {
                    used.digests.extend(upload.items.iter().filter_map(|i| match &i.source {
                        UploadSource::Skill { digest, .. } => Some(digest),
                        _ => None,
                    }));
                }
                Operation::BuildImage(image) => {
                    used.digests.extend(image.context.as_ref().map(|c| &c.digest));
                    used.made.insert(image.tag.clone());
                }
                Operation::AssembleImage(image) => {
                    used.digests.extend(&image.digest);
                    used.made.insert(image.tag.clone());
                }
                // Work begins with the folder's content, also where another session had that image made.
                Operation::Volume(volume) if volume.name == work_volume(&plan.identity) => {
                    used.digests.extend(plan.actions.iter().filter_map(
                        |action| match &action.op {
                            Operation::AssembleImage(image) => image.digest.as_ref(),
                            _ => None,
                        },
                    ));
                }
                Operation::ImportImage(image) => {
                    used.made.insert(image.tag.clone());
                }
                Operation::PullImage(pull) => {
                    used.made.insert(format!("{}@{}", pull.image.name, pull.image.digest));
                }
                _ => {}
            }
        }
        used
    }
}

/// Looks at all requirements; answers those that do not hold, in the plan's order.
pub(crate) async fn check<E: Engine>(
    world: &World<'_, E>,
    owner: &str,
) -> Result<Vec<Unmet>, OpError> {
    let plan: &Plan = world.plan;
    let due = |action: &&Action| {
        let again = world.redeliver && matches!(action.op, Operation::Deliver(_));
        again || (action.effect != Effect::None && !world.done.contains(&action.id))
    };
    let used = &Used::by(plan, plan.actions.iter().filter(due));
    let looks = plan.requires.iter().map(|requirement| async move {
        match one(world, owner, used, requirement).await {
            Ok(()) => Ok(None),
            Err(Failed::Unmet(unmet)) => Ok(Some(unmet)),
            Err(Failed::Op(error)) => Err(error),
        }
    });
    let found: Vec<_> = futures_util::stream::iter(looks).buffered(WIDTH).collect().await;
    let mut found: Vec<Unmet> =
        found.into_iter().filter_map(Result::transpose).collect::<Result<_, _>>()?;
    for action in plan.actions.iter().filter(due) {
        found.extend(unsaid(world, &action.op).await?);
    }
    if let (Some(place), Intent::Launch) = (&plan.session.workspace, plan.intent) {
        let (roots, host) = (world.roots.clone(), place.host.clone());
        found.extend(world.blocking(move || Ok::<_, OpError>(kept(&roots, &host))).await?);
    }
    Ok(found)
}

/// What an action requires without a word in the plan: the host's own config decides, and a plan
/// that was edited must not decide otherwise.
async fn unsaid<E: Engine>(world: &World<'_, E>, op: &Operation) -> Result<Option<Unmet>, OpError> {
    let plain = |spec: &ContainerSpec| spec.role == Role::Agent && spec.runtime.is_none();
    Ok(match op {
        Operation::Container(spec)
            if plain(spec) && world.plan.grants.isolation == Isolation::Auto =>
        {
            let registered = world.engine.facts().await?.runtimes.contains(RUNSC);
            registered.then(|| Unmet {
                expected: format!("isolation auto to use runtime {RUNSC}, which is registered"),
                found: "a plain container".to_owned(),
                hint: "plan again".to_owned(),
            })
        }
        Operation::Network(network) => {
            let pool = pool(world.config);
            (!pool.is_some_and(|pool| network.subnet.is_within(pool))).then(|| Unmet {
                expected: format!(
                    "subnets of this host's pool {}",
                    pool.map_or("none".to_owned(), |pool| pool.to_string())
                ),
                found: format!("{} for {}", network.subnet, network.name),
                hint: "plan again with this host's config".to_owned(),
            })
        }
        _ => None,
    })
}

/// A workspace that is no folder of keys, skills or state, also not through a link.
fn kept(roots: &Roots, host: &AbsPath) -> Option<Unmet> {
    let unmet = |expected: String| {
        let hint = "plan again with a folder of its own".to_owned();
        Some(Unmet { expected, found: host.to_string(), hint })
    };
    let real = std::fs::canonicalize(host.as_str()).ok()?;
    if real != std::path::Path::new(host.as_str()) {
        return unmet(format!("the real path of the workspace, {}", real.display()));
    }
    let own = [roots.root.clone(), roots.home.join(".bottle"), roots.home.join(".ssh")];
    own.iter().chain([&roots.skills]).find_map(|folder| {
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.clone());
        let shared = folder.starts_with(&real) || real.starts_with(&folder);
        shared.then(|| unmet(format!("a workspace apart from {}", folder.display())))?
    })
}

enum Failed {
    Unmet(Unmet),
    Op(OpError),
}

impl<T: Into<OpError>> From<T> for Failed {
    fn from(error: T) -> Self {
        Self::Op(error.into())
    }
}

fn unmet(expected: impl Into<String>, found: impl Into<String>, hint: &str) -> Failed {
    Failed::Unmet(Unmet { expected: expected.into(), found: found.into(), hint: hint.to_owned() })
}

async fn one<E: Engine>(
    world: &World<'_, E>,
    owner: &str,
    used: &Used<'_>,
    requirement: &Requirement,
) -> Result<(), Failed> {
    match requirement {
        Requirement::EngineApi { major, minor } => {
            let spoken = world.engine.api();
            if spoken < (*major, *minor) {
                let found = format!("{}.{}", spoken.0, spoken.1);
                return Err(unmet(
                    format!("engine API {major}.{minor}"),
                    found,
                    "update the engine",
                ));
            }
        }
        Requirement::Runtime { name } => {
            let facts = world.engine.facts().await?;
            if !facts.runtimes.contains(name) {
                let found: Vec<String> = facts.runtimes.into_iter().collect();
                let hint = "register it with the engine, or plan again";
                return Err(unmet(format!("runtime {name}"), found.join(", "), hint));
            }
        }
        Requirement::Secret { secret } => {
            if used.secrets.contains(&SecretRef::Secret { secret: secret.clone() }) {
                let sources = Sources {
                    config: &world.config.secrets,
                    home: &world.roots.home,
                    env: world.env,
                };
                secrets::available(secret, &sources)
                    .map_err(|m| unmet(format!("secret {}", m.name), m.why, &m.hint))?;
            }
        }
        Requirement::IdentityFile { path } => {
            if used.secrets.contains(&SecretRef::IdentityFile { path: path.clone() }) {
                identity_file(world, path)?;
            }
        }
        Requirement::Image { reference, id } => {
            if used.made.contains(reference) {
                return Ok(());
            }
            let found = world.engine.image(reference).await?.map(|image| image.id);
            let expected = match id {
                Some(id) => format!("image {reference} with id {id}"),
                None => format!("image {reference}"),
            };
            let hint = "pull or build it, or plan again";
            match found {
                None => return Err(unmet(expected, "none", hint)),
                Some(found) if id.as_ref().is_some_and(|id| *id != found) => {
                    return Err(unmet(expected, found.as_str(), hint));
                }
                Some(_) => {}
            }
        }
        Requirement::Skill { name, digest } => {
            if used.digests.contains(digest) {
                let folder = world.roots.skills.join(name.as_str());
                content(world, &folder, digest, Hide::nothing()).await?;
            }
        }
        Requirement::Context { path, digest } => {
            if used.digests.contains(digest) {
                let folder = world.roots.manifest.join(path.as_str());
                content(world, &folder, digest, Hide::nothing()).await?;
            }
        }
        Requirement::Workspace { path, digest } => {
            let folder = std::path::PathBuf::from(path.as_str());
            if !folder.is_dir() {
                let hint = "the folder was moved or removed";
                return Err(unmet(format!("workspace {path}"), "no such folder", hint));
            }
            if let Some(digest) = digest.as_ref().filter(|d| used.digests.contains(d)) {
                let globs = &world.plan.grants.workspace.hide;
                let hide = Hide::new(globs).map_err(|e| OpError::Internal(e.to_string()))?;
                content(world, &folder, digest, hide).await?;
            }
            if world.mounts_anew() {
                match world.guards_fit().await {
                    Err(OpError::Stale { expected, found }) => {
                        let hint = "files came or went since; plan again";
                        return Err(unmet(expected, found, hint));
                    }
                    other => other?,
                }
            }
        }
        Requirement::SidecarProtocol { version } => {
            if *version != PROTOCOL {
                let expected = format!("sidecar protocol {version}");
                return Err(unmet(expected, PROTOCOL.to_string(), "plan again with this bottle"));
            }
        }
        Requirement::Tool { digest } => {
            if *digest != world.tool.digest {
                let (root, wanted) = (world.root.clone(), digest.clone());
                let installed = world.blocking(move || tool::installed(&root, &wanted)).await?;
                let image = world.engine.image(&world.plan.session.sidecar_image).await?;
                if !installed || image.is_none() {
                    let hint = "apply with the binary that planned, or plan again";
                    let expected = format!("the bottle binary {digest}");
                    return Err(unmet(expected, world.tool.digest.as_str(), hint));
                }
            }
        }
        Requirement::UpstreamProxy { proxy, no_proxy } => {
            let own = &world.config.network;
            if own.proxy != *proxy || (proxy.is_some() && own.no_proxy != *no_proxy) {
                let words = |proxy: &Option<String>| proxy.clone().unwrap_or("none".to_owned());
                return Err(unmet(
                    format!("upstream proxy {} in the host config", words(proxy)),
                    words(&own.proxy),
                    "plan again with this host's config",
                ));
            }
        }
        Requirement::UpstreamCa { digest } => {
            let expected = format!("extra trust {digest} (`network.ca` in the host config)");
            let hint = "plan again with this host's config";
            let Some(path) = world.config.network.ca.clone() else {
                return Err(unmet(expected, "none", hint));
            };
            let home = world.roots.home.clone();
            match world.blocking(move || Ok::<_, OpError>(upstream_ca::read(&path, &home))).await? {
                Ok(text) if Digest::of(text.as_bytes()) == *digest => {}
                Ok(text) => {
                    return Err(unmet(expected, Digest::of(text.as_bytes()).as_str(), hint));
                }
                Err(error) => {
                    let found = format!("{error}: {}", error.source);
                    return Err(unmet(expected, found, "repair the file, then plan again"));
                }
            }
        }
        Requirement::Owner { owner: expected } => {
            if expected != owner {
                let hint = "apply as the user, and with the state root, that it was planned for";
                return Err(unmet(format!("owner {expected}"), owner, hint));
            }
        }
    }
    Ok(())
}

fn identity_file<E: Engine>(world: &World<'_, E>, path: &str) -> Result<(), Failed> {
    let file = expand(path, &world.roots.home);
    let expected = || format!("a key at {path} that its owner alone can read");
    match std::fs::metadata(&file) {
        Err(error) => Err(unmet(expected(), error.to_string(), "see `identity_file`")),
        Ok(meta) if !meta.is_file() => {
            Err(unmet(expected(), "no regular file", "see `identity_file`"))
        }
        Ok(meta) if meta.permissions().mode() & 0o077 != 0 => {
            let found = format!("mode {:04o}", meta.permissions().mode() & 0o7777);
            Err(unmet(expected(), found, &format!("chmod 600 {}", file.display())))
        }
        Ok(_) => Ok(()),
    }
}

async fn content<E: Engine>(
    world: &World<'_, E>,
    folder: &std::path::Path,
    expected: &Digest,
    hide: Hide,
) -> Result<(), Failed> {
    let path = folder.to_owned();
    let found = world.blocking(move || Ok::<_, OpError>(tree::digest(&path, &hide))).await?;
    let wanted = format!("{} with content {expected}", folder.display());
    match found {
        Ok(tree) if tree.digest == *expected => Ok(()),
        Ok(tree) => Err(unmet(wanted, tree.digest.as_str(), "it changed; plan again")),
        Err(error) => Err(unmet(wanted, error.to_string(), "it cannot be read; plan again")),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_workspace_holds_or_lies_in_what_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().canonicalize().expect("there").join(path);
        for path in ["home/.bottle", "home/.ssh", "home/.claude/skills/x", "home/web", "root/state"]
        {
            fs::create_dir_all(at(path)).expect("made");
        }
        symlink(at("home/.ssh"), at("home/link")).expect("linked");
        let roots = Roots {
            root: at("root"),
            home: at("home"),
            skills: at("home/.claude/skills"),
            manifest: at("home/web"),
        };
        let found = |path: &str| {
            let host = AbsPath::new(at(path).to_str().expect("UTF-8")).expect("absolute");
            kept(&roots, &host).map(|unmet| unmet.expected)
        };
        assert_eq!(found("home/web"), None);
        let apart = |path: &str| Some(format!("a workspace apart from {}", at(path).display()));
        assert_eq!(found("root"), apart("root"));
        assert_eq!(found("root/state"), apart("root"));
        assert_eq!(found("home"), apart("home/.bottle"));
        assert_eq!(found("home/.ssh"), apart("home/.ssh"));
        assert_eq!(found("home/.claude/skills/x"), apart("home/.claude/skills"));
        let link = found("home/link").expect("refused");
        assert_eq!(link, format!("the real path of the workspace, {}", at("home/.ssh").display()));
    }
}
