//! What is mounted over parts of a mounted folder, so that what an agent leaves there is not run by
//! the host, and what is hidden is not seen.
//!
//! A mount point can be neither renamed nor removed by whoever sees it, so whatever is mounted over
//! stays where it is; the folders on the way to it could be renamed with all they hold, and are mounted
//! over themselves for that. What is not there yet could be made: where its name is known, something
//! empty is put there first.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::plan::{Guard, GuardKind, WorkspacePlace};
use crate::snapshot::{Found, GitFolder, Kind, Mounted};
use crate::words::RelPath;

/// More mounts than that would take a container long to start.
pub const MOST: usize = 500;

/// The part of a glob before which no wildcard stands, and what is to be held there.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    /// The path.
    pub path: RelPath,
    /// Whether it is a folder.
    pub folder: bool,
}

/// What a `protect` glob names literally: `.envrc` itself, the folder of `.vscode/**`, and for
/// `.claude/settings*` the folder `.claude`, since only in a folder that is read-only nothing new
/// can match. `None` where a wildcard comes first.
#[must_use]
pub fn named(glob: &str) -> Option<Named> {
    let is_wild = |part: &&str| part.contains(['*', '?', '[', '{']);
    let body = glob.strip_suffix('/').unwrap_or(glob);
    let parts: Vec<&str> = body.split('/').take_while(|part| !is_wild(part)).collect();
    let whole = parts.len() == body.split('/').count();
    let path = RelPath::new(parts.join("/")).ok()?;
    Some(Named { path, folder: !whole || body.len() < glob.len() })
}

/// Every path that has to be looked at to know what [`named`] globs mean: each and what holds it.
#[must_use]
pub fn to_look_at(protect: &BTreeSet<String>) -> BTreeSet<RelPath> {
    let named = protect.iter().filter_map(|glob| named(glob));
    named.flat_map(|named| with_parents(&named.path)).collect()
}

fn with_parents(path: &RelPath) -> impl Iterator<Item = RelPath> + use<> {
    core::iter::successors(Some(path.clone()), RelPath::parent)
}

/// The guards of a folder, and what cannot be guarded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Guards {
    /// By path below the folder.
    pub guards: BTreeMap<RelPath, Guard>,
    /// Links and the like: mounting over them would follow them.
    pub cannot: BTreeSet<RelPath>,
}

/// Decides what is mounted over what.
#[must_use]
pub fn guards(seen: &Mounted, protect: &BTreeSet<String>) -> Guards {
    let mut out = Guards::default();
    for (path, Found { kind, hide }) in &seen.found {
        let guard = if *hide { GuardKind::Hide } else { GuardKind::Protect };
        out.put(path, *kind, guard);
    }
    for wanted in protect.iter().filter_map(|glob| named(glob)) {
        out.put_named(seen, &wanted);
    }
    if let GitFolder::Linked { .. } = seen.git
        && let Ok(link) = RelPath::new(".git")
    {
        out.put(&link, Kind::File, GuardKind::Protect);
    }
    out.drop_what_is_covered();
    out.hold_parents();
    if seen.git == GitFolder::None
        && let Ok(git) = RelPath::new(".git")
    {
        // A repository that the agent makes is on the volume mounted here.
        out.guards.insert(git, Guard { kind: GuardKind::Hold, folder: true, made: true });
    }
    out
}

impl Guards {
    fn put(&mut self, path: &RelPath, kind: Kind, guard: GuardKind) {
        let folder = match kind {
            Kind::Folder | Kind::EmptyFolder => true,
            Kind::File => false,
            Kind::Other => {
                self.cannot.insert(path.clone());
                return;
            }
        };
        let strictest = self.guards.get(path).map_or(guard, |before| before.kind.max(guard));
        self.guards.insert(path.clone(), Guard { kind: strictest, folder, made: false });
    }

    /// The first of the folders on the way that is missing or empty is held in place of what it
    /// could come to hold.
    fn put_named(&mut self, seen: &Mounted, wanted: &Named) {
        let mut way: Vec<RelPath> = with_parents(&wanted.path).collect();
        way.reverse();
        for path in way {
            let is_last = path == wanted.path;
            match seen.named.get(&path).copied().flatten() {
                None => {
                    let folder = !is_last || wanted.folder;
                    let made = Guard { kind: GuardKind::Protect, folder, made: true };
                    self.guards.entry(path).or_insert(made);
                    return;
                }
                Some(kind @ Kind::EmptyFolder) => return self.put(&path, kind, GuardKind::Protect),
                Some(kind) if is_last => return self.put(&path, kind, GuardKind::Protect),
                Some(Kind::Folder) => {}
                Some(Kind::File) => return,
                Some(Kind::Other) => {
                    self.cannot.insert(path);
                    return;
                }
            }
        }
    }

    /// Below what is hidden nothing is seen, and below what is read-only only hiding adds something.
    fn drop_what_is_covered(&mut self) {
        let all = self.guards.clone();
        self.guards.retain(|path, guard| {
            let above = with_parents(path).skip(1).filter_map(|parent| all.get(&parent));
            above.into_iter().all(|above| match above.kind {
                GuardKind::Hide => false,
                GuardKind::Protect => guard.kind == GuardKind::Hide,
                GuardKind::Hold => true,
            })
        });
    }

    fn hold_parents(&mut self) {
        let paths: Vec<RelPath> = self.guards.keys().cloned().collect();
        for path in paths {
            let parents: Vec<RelPath> = with_parents(&path).skip(1).collect();
            let fixed = |parent: &RelPath| {
                self.guards.get(parent).is_some_and(|guard| guard.kind == GuardKind::Protect)
            };
            if parents.iter().any(fixed) {
                continue;
            }
            for parent in parents {
                let hold = Guard { kind: GuardKind::Hold, folder: true, made: false };
                self.guards.entry(parent).or_insert(hold);
            }
        }
    }
}

/// Whether something is at the path of a placeholder.
#[must_use]
pub fn is_there(seen: &Mounted, path: &RelPath) -> bool {
    if path.as_str() == ".git" {
        return seen.git_is_there;
    }
    seen.named.get(path).copied().flatten().is_some()
}

/// What is there now and asks for something else than a plan mounts: its path. What the plan itself
/// puts there makes no difference.
#[must_use]
pub fn misfit(
    place: &WorkspacePlace,
    seen: &Mounted,
    protect: &BTreeSet<String>,
) -> Option<String> {
    let own = format!("{}/.git", place.host);
    let expected = match &seen.git {
        GitFolder::None | GitFolder::Own => Some((own.as_str(), None)),
        GitFolder::Linked { common, name } => Some((common.as_str(), Some(name.as_str()))),
        GitFolder::Odd => None,
    };
    let git = place.git.as_ref().map(|git| (git.folder.as_str(), git.worktree.as_deref()));
    if git.is_none() || git != expected {
        return Some(".git".to_string());
    }
    let now = guards(seen, protect).guards;
    let paths: BTreeSet<&RelPath> = now.keys().chain(place.guards.keys()).collect();
    // Both what is hidden and what is protected cannot be changed, and something empty can be either.
    let bare =
        |guard: &Guard, made| (if made { GuardKind::Protect } else { guard.kind }, guard.folder);
    let differs = |path: &&&RelPath| match (now.get(**path), place.guards.get(**path)) {
        (Some(now), Some(then)) => {
            let made = then.made && now.kind != GuardKind::Hold;
            bare(now, made) != bare(then, made)
        }
        _ => true,
    };
    paths.iter().find(differs).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rel(path: &str) -> RelPath {
        RelPath::new(path).expect("valid")
    }

    fn globs(globs: &[&str]) -> BTreeSet<String> {
        globs.iter().map(ToString::to_string).collect()
    }

    fn seen(found: &[(&str, Kind, bool)], named: &[(&str, Option<Kind>)]) -> Mounted {
        Mounted {
            found: found
                .iter()
                .map(|(path, kind, hide)| (rel(path), Found { kind: *kind, hide: *hide }))
                .collect(),
            named: named.iter().map(|(path, kind)| (rel(path), *kind)).collect(),
            git: GitFolder::Own,
            git_is_there: true,
        }
    }

    fn shown(seen: &Mounted, protect: &[&str]) -> Vec<String> {
        let guards = guards(seen, &globs(protect));
        let line = |(path, g): (&RelPath, &Guard)| {
            let what = if g.folder { "/" } else { "" };
            let made = if g.made { " made" } else { "" };
            format!("{path}{what} {:?}{made}", g.kind)
        };
        let all = guards.guards.iter().map(line);
        all.chain(guards.cannot.iter().map(|path| format!("{path} cannot"))).collect()
    }

    #[test]
    fn what_globs_name() {
        let name = |glob: &str| named(glob).map(|n| (n.path.to_string(), n.folder));
        assert_eq!(name(".envrc"), Some((".envrc".into(), false)));
        assert_eq!(name(".vscode/**"), Some((".vscode".into(), true)));
        assert_eq!(name("tools/bin/"), Some(("tools/bin".into(), true)));
        assert_eq!(name(".claude/settings*"), Some((".claude".into(), true)));
        assert_eq!(name("*.sh"), None);
        assert_eq!(name("**/.husky/**"), None);
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_there_is_read_only() {
        let seen = seen(&[], &[(".envrc", None), (".vscode", Some(Kind::Folder))]);
        assert_eq!(
            shown(&seen, &[".envrc", ".vscode/**"]),
            [".envrc Protect made", ".vscode/ Protect"]
        );
    }

    #[test]
    fn the_first_missing_or_empty_folder_is_held() {
        let missing = seen(&[], &[("a", None), ("a/b", None)]);
        assert_eq!(shown(&missing, &["a/b"]), ["a/ Protect made"]);
        let empty = seen(&[], &[("a", Some(Kind::EmptyFolder)), ("a/b", None)]);
        assert_eq!(shown(&empty, &["a/b"]), ["a/ Protect"]);
        let there = seen(&[], &[("a", Some(Kind::Folder)), ("a/b", None)]);
        assert_eq!(shown(&there, &["a/b"]), ["a/ Hold", "a/b Protect made"]);
    }

    #[test]
    fn folders_on_the_way_are_held_and_what_is_covered_is_dropped() {
        let seen = seen(
            &[
                ("sub/lib/.git", Kind::File, false),
                ("keys", Kind::Folder, true),
                ("keys/.env", Kind::File, true),
                (".vscode/tasks.json", Kind::File, false),
                (".vscode/.env", Kind::File, true),
                ("x/.env", Kind::Other, true),
            ],
            &[(".vscode", Some(Kind::Folder))],
        );
        assert_eq!(
            shown(&seen, &[".vscode/**"]),
            [
                ".vscode/ Protect",
                ".vscode/.env Hide",
                "keys/ Hide",
                "sub/ Hold",
                "sub/lib/ Hold",
                "sub/lib/.git Protect",
                "x/.env cannot",
            ]
        );
    }

    #[test]
    fn git_of_its_own_or_none() {
        let mut seen = seen(&[], &[]);
        assert!(shown(&seen, &[]).is_empty(), "a volume is mounted there");
        seen.git = GitFolder::None;
        assert_eq!(shown(&seen, &[]), [".git/ Hold made"]);
    }
}
