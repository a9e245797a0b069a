//! What a folder holds that a mount of it must not show or let change. Links are never followed, and no
//! git runs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use bottle_planner::mounted;
use bottle_planner::snapshot::{Found, GitFolder, Kind, Mounted};
use bottle_planner::words::{AbsPath, RelPath};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use rustix::fs::{AtFlags, Dir, FileType, statat};

use crate::tree::{Hide, HideError, TreeError, open_below, open_root, read_error};

/// Why a folder's facts are not known.
#[derive(Debug, thiserror::Error)]
pub enum MountedError {
    /// It cannot be read, all of it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A glob makes no sense.
    #[error(transparent)]
    Hide(#[from] HideError),
    /// A name that no plan could hold.
    #[error("expected a name in UTF-8, found {}", path.display())]
    Name {
        /// Which.
        path: PathBuf,
    },
}

/// Looks through a folder.
pub fn look(
    root: &Path,
    hide: &BTreeSet<String>,
    protect: &BTreeSet<String>,
) -> Result<Mounted, MountedError> {
    let rules = Rules { hide: Hide::new(hide)?, protect: protects(protect)? };
    let mut found = BTreeMap::new();
    let top = open_root(root)?;
    let mut folders = vec![PathBuf::new()];
    while let Some(below) = folders.pop() {
        let shown = root.join(&below);
        let folder = open_below(top.as_fd(), &below, &shown)?;
        for entry in Dir::read_from(&folder).map_err(|e| read_error(&shown, e))? {
            let entry = entry.map_err(|e| read_error(&shown, e))?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            if name == "." || name == ".." {
                continue;
            }
            let path = below.join(&name);
            let kind = match entry.file_type() {
                FileType::Unknown => match statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    // Gone since it was listed.
                    Err(_) => continue,
                },
                known => known,
            };
            let is_folder = kind == FileType::Directory;
            let own_git = name == ".git";
            if own_git && below.as_os_str().is_empty() {
                continue;
            }
            if let Some(hide) = rules.of(&path, own_git) {
                let text = path.to_str().and_then(|text| RelPath::new(text).ok());
                let at = text.ok_or_else(|| MountedError::Name { path: root.join(&path) })?;
                let kind = match kind {
                    FileType::Directory => Kind::Folder,
                    FileType::RegularFile => Kind::File,
                    _ => Kind::Other,
                };
                found.insert(at, Found { kind, hide });
                if hide || own_git {
                    continue;
                }
            }
            if is_folder {
                folders.push(path);
            }
        }
    }
    let named = mounted::to_look_at(protect);
    let named =
        named.into_iter().map(|path| (path.clone(), kind_at(root, path.as_str()))).collect();
    let (git, git_is_there) = git_folder(root);
    Ok(Mounted { found, named, git, git_is_there })
}

struct Rules {
    hide: Hide,
    protect: Protect,
}

impl Rules {
    /// Whether something is to be hidden, or protected alone; `None` where neither.
    fn of(&self, path: &Path, is_git: bool) -> Option<bool> {
        if self.hide.hides(path) {
            return Some(true);
        }
        (is_git || self.protect.matches(path)).then_some(false)
    }
}

/// Which things `protect` globs match. `x/**` matches the folder `x` itself.
struct Protect {
    names: GlobSet,
    paths: GlobSet,
}

impl Protect {
    fn matches(&self, path: &Path) -> bool {
        self.paths.is_match(path)
            || path.file_name().is_some_and(|n: &OsStr| self.names.is_match(n))
    }
}

fn protects(globs: &BTreeSet<String>) -> Result<Protect, HideError> {
    let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
    for text in globs {
        let wrong = |source| HideError { glob: text.clone(), source };
        let body = text.strip_suffix('/').unwrap_or(text);
        let anchored = body.contains('/');
        let body = body.strip_suffix("/**").unwrap_or(body);
        let glob = GlobBuilder::new(body).literal_separator(true).build().map_err(wrong)?;
        if anchored {
            paths.add(glob)
        } else {
            names.add(glob)
        };
    }
    let wrong = |source| HideError { glob: String::new(), source };
    Ok(Protect { names: names.build().map_err(wrong)?, paths: paths.build().map_err(wrong)? })
}

/// What is at a path whose every part but the last is a folder and no link.
fn kind_at(root: &Path, path: &str) -> Option<Kind> {
    let mut at = root.to_owned();
    let mut kind = Kind::Folder;
    for part in path.split('/') {
        if !matches!(kind, Kind::Folder | Kind::EmptyFolder) {
            return None;
        }
        at.push(part);
        let found = at.symlink_metadata().ok()?.file_type();
        kind = if found.is_dir() {
            let is_empty = std::fs::read_dir(&at).is_ok_and(|mut all| all.next().is_none());
            if is_empty { Kind::EmptyFolder } else { Kind::Folder }
        } else if found.is_file() {
            Kind::File
        } else {
            Kind::Other
        };
    }
    Some(kind)
}

/// The `.git` of a folder, and whether there is anything of that name.
fn git_folder(root: &Path) -> (GitFolder, bool) {
    match kind_at(root, ".git") {
        None => (GitFolder::None, false),
        Some(Kind::EmptyFolder) => (GitFolder::None, true),
        Some(Kind::Folder) => (GitFolder::Own, true),
        Some(Kind::File) => (linked(root).unwrap_or(GitFolder::Odd), true),
        Some(Kind::Other) => (GitFolder::Odd, true),
    }
}

/// What a linked worktree's `.git` file names: gitrepository-layout(5).
fn linked(root: &Path) -> Option<GitFolder> {
    const MOST: u64 = 4096;
    let link = root.join(".git");
    if link.metadata().ok()?.len() > MOST {
        return None;
    }
    let text = std::fs::read_to_string(&link).ok()?;
    let admin = root.join(text.trim().strip_prefix("gitdir:")?.trim()).canonicalize().ok()?;
    let common = admin
        .parent()
        .filter(|folder| folder.file_name() == Some(OsStr::from_bytes(b"worktrees")))?;
    let common = AbsPath::new(common.parent()?.to_str()?).ok()?;
    let name = admin.file_name()?.to_str()?.to_owned();
    Some(GitFolder::Linked { common, name })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn globs(globs: &[&str]) -> BTreeSet<String> {
        globs.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_matters_is_found_at_any_depth_and_links_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["sub/lib/.git/hooks", ".git", "node/.husky", ".husky/_", "keys", "out"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        for path in [".env", "a.txt", "sub/.env.local", ".husky/_/x", "keys/.env", ".envrc"] {
            fs::write(at(path), "x").expect("written");
        }
        symlink("/etc", at("out/.env")).expect("linked");
        symlink("..", at("out/up")).expect("linked");
        let hide = globs(&[".env", ".env.*", "keys/"]);
        let seen = look(folder.path(), &hide, &globs(&[".husky/**", ".envrc", ".vscode/**"]));
        let seen = seen.expect("readable");
        let found: Vec<String> =
            seen.found.iter().map(|(p, f)| format!("{p} {:?} {}", f.kind, f.hide)).collect();
        assert_eq!(
            found,
            [
                ".env File true",
                ".envrc File false",
                ".husky Folder false",
                "keys Folder true",
                "out/.env Other true",
                "sub/.env.local File true",
                "sub/lib/.git Folder false",
            ]
        );
        let named: Vec<String> =
            seen.named.iter().map(|(path, kind)| format!("{path} {kind:?}")).collect();
        assert_eq!(named, [".envrc Some(File)", ".husky Some(Folder)", ".vscode None"]);
        assert_eq!((seen.git, seen.git_is_there), (GitFolder::None, true));
    }

    #[test]
    fn git_folders_of_every_kind() {
        let folder = tempfile::tempdir().expect("a folder");
        let real = folder.path().canonicalize().expect("there");
        let main = real.join("main/.git/worktrees/side");
        fs::create_dir_all(&main).expect("made");
        let side = real.join("side");
        fs::create_dir(&side).expect("made");
        assert_eq!(git_folder(&side), (GitFolder::None, false));
        fs::write(side.join(".git"), format!("gitdir: {}\n", main.display())).expect("written");
        let common = AbsPath::new(real.join("main/.git").to_str().expect("UTF-8")).expect("valid");
        let linked = GitFolder::Linked { common, name: "side".into() };
        assert_eq!(git_folder(&side), (linked, true));
        assert_eq!(git_folder(&real.join("main")), (GitFolder::Own, true));
        fs::write(side.join(".git"), "gitdir: /etc\n").expect("written");
        assert_eq!(git_folder(&side), (GitFolder::Odd, true));
        fs::remove_file(side.join(".git")).expect("removed");
        symlink(real.join("main/.git"), side.join(".git")).expect("linked");
        assert_eq!(git_folder(&side), (GitFolder::Odd, true));
    }
}
