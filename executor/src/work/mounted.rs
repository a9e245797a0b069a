//! What an agent committed in a folder of the host's that was mounted, and what it left there that the
//! host would execute. Its files are the host's already; its commits are in a repository of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use bottle_planner::executed::{self, Thing};
use bottle_planner::plan::WorkspacePlace;
use rustix::fs::{AtFlags, Dir, FileType, readlinkat, statat};

use super::arrival::{All, Arrival, Hashing, Item};
use super::change::{Left, is_git};
use super::commits::Commits;
use super::spool::Spool;
use super::{Of, Work, WorkError, blocking, read};
use crate::engine::Engine;
use crate::tree::{TreeError, open_below, open_root, read_error};

/// Reads the commits.
pub(super) async fn mounted<E: Engine>(
    engine: &E,
    of: &Of<'_>,
    place: &WorkspacePlace,
    spool: Spool,
) -> Result<Work, WorkError> {
    let host = PathBuf::from(place.host.as_str());
    let (Some(git), Some(start)) = (&place.git, place.commit.clone()) else {
        return Ok(Work { changes: Vec::new(), left: Left::default(), commits: None, spool, host });
    };
    let from = |to| engine.read_container(of.container, git.folder.as_str(), to);
    let (arrival, spool, _) = read(spool, All, Hashing::Blob, from).await?;
    let arrival = as_git_folder(arrival, git.worktree.as_deref());
    let (scratch, path) = (of.scratch.to_owned(), of.path.clone());
    blocking(move || {
        let commits = match Commits::none(&arrival, &spool)? {
            true => None,
            false => {
                let path = path.as_ref();
                Some(Commits::take(&arrival, &spool, &host, &start, &scratch, path)?)
            }
        };
        let (changes, left) = (Vec::new(), Left::default());
        Ok(Work { changes, left, commits, spool, host })
    })
    .await
}

/// What arrived, as it would lie in the work tree of a clone: a linked worktree has a `HEAD` of its own.
fn as_git_folder(arrival: Arrival, worktree: Option<&str>) -> Arrival {
    let own_head = worktree.map(|name| Path::new("worktrees").join(name).join("HEAD"));
    let own_head = own_head.and_then(|path| arrival.items.get(&path).cloned());
    let git = Path::new(".git");
    let moved = arrival.items.into_iter().map(|(path, item)| (git.join(path), item));
    let mut items: std::collections::BTreeMap<PathBuf, Item> = moved.collect();
    items.insert(git.to_owned(), Item::Folder);
    if let Some(head) = own_head {
        items.insert(git.join("HEAD"), head);
    }
    Arrival { items, special_bits: Vec::new() }
}

/// What in the host's folder the host would execute for one reason.
///
/// By reason, so that any number of one kind does not keep another from being seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Planted {
    /// How many.
    pub count: u64,
    /// Where, below the folder: the first [`NAMED`] in their order.
    pub first: BTreeSet<PathBuf>,
}

/// How many of one kind are named; an agent can make any number.
pub const NAMED: usize = 8;

impl Planted {
    fn add(&mut self, path: PathBuf) {
        self.count += 1;
        self.first.insert(path);
        if self.first.len() > NAMED {
            self.first.pop_last();
        }
    }
}

/// What was made or changed below a folder since then (seconds since the epoch) and the host would
/// execute, by why it would. Judged by the time the kernel notes a change at (`st_ctime`), which no
/// program can set. A folder that was moved has another such time, and what is in it has not: where
/// the folder's name is what makes it be executed, its time counts. The folder's own `.git` was out of
/// reach.
///
/// A folder that cannot be looked into, such as one nested too deeply, is among them.
pub fn planted(root: &Path, since: i64) -> Result<BTreeMap<&'static str, Planted>, TreeError> {
    let mut found = BTreeMap::<_, Planted>::new();
    let top = open_root(root)?;
    // With each, which of the folders on the way to it are fresh.
    let mut folders = vec![(PathBuf::new(), Vec::new())];
    while let Some((below, fresh_above)) = folders.pop() {
        let shown = root.join(&below);
        let Ok(folder) = open_below(top.as_fd(), &below, &shown) else {
            found.entry("it cannot be looked into").or_default().add(below);
            continue;
        };
        for entry in Dir::read_from(&folder).map_err(|e| read_error(&shown, e))? {
            let entry = entry.map_err(|e| read_error(&shown, e))?;
            let name = OsString::from_vec(entry.file_name().to_bytes().to_vec());
            let path = below.join(&name);
            if name == "." || name == ".." || path == Path::new(".git") {
                continue;
            }
            // Gone since it was listed.
            let Ok(stat) = statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            let kind = FileType::from_raw_mode(stat.st_mode);
            let fresh = stat.st_ctime >= since;
            if kind == FileType::Directory {
                if fresh && is_git(Path::new(&name)) {
                    found.entry("git runs it").or_default().add(path);
                } else {
                    let way = [&fresh_above[..], &[fresh]].concat();
                    folders.push((path, way));
                }
                continue;
            }
            let name = path.to_string_lossy();
            let moved = || {
                let folders = executed::by_folders(&name).and_then(|at| fresh_above.get(at));
                folders.is_some_and(|folders| folders.contains(&true))
            };
            if !fresh && !moved() {
                continue;
            }
            let target = (kind == FileType::Symlink).then(|| {
                readlinkat(&folder, path.file_name().unwrap_or_default(), Vec::new()).ok()
            });
            let target = target.flatten().map(|to| to.to_string_lossy().into_owned());
            let thing = match (&target, kind) {
                (Some(target), _) => Thing::Link { target },
                (None, FileType::RegularFile) => Thing::File {
                    executable: stat.st_mode & 0o111 != 0,
                    set_id: stat.st_mode & 0o6000 != 0,
                },
                _ => Thing::Other,
            };
            // A placeholder is empty: nothing to run.
            let is_empty = kind == FileType::RegularFile && stat.st_size == 0;
            let why = match executed::executed(&name) {
                Some(_) if is_empty => None,
                _ => executed::why(&name, thing),
            };
            if let Some(why) = why {
                found.entry(why).or_default().add(path);
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use rustix::fs::{Mode, OFlags};

    use super::*;

    #[test]
    fn what_is_new_and_would_run_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        for path in [".git/hooks", ".vscode", "sub/.git", "src", ".husky"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        for path in [".git/hooks/pre-commit", ".vscode/tasks.json", "src/main.rs", "tool", "setuid"]
        {
            fs::write(at(path), "x").expect("written");
        }
        fs::write(at(".envrc"), "").expect("written");
        let mode = |path, mode| fs::set_permissions(at(path), fs::Permissions::from_mode(mode));
        mode("tool", 0o755).expect("set");
        mode("setuid", 0o4755).expect("set");
        symlink("/etc", at("out")).expect("linked");
        symlink("src", at("in")).expect("linked");
        let found = planted(folder.path(), 0).expect("readable");
        let paths: BTreeSet<&str> =
            found.values().flat_map(|p| &p.first).map(|p| p.to_str().expect("UTF-8")).collect();
        let all = [".vscode/tasks.json", "out", "setuid", "sub/.git", "tool"];
        assert_eq!((paths, found.len()), (all.into(), 5));
        assert!(planted(folder.path(), i64::MAX).expect("readable").is_empty());
    }

    #[test]
    fn what_a_moved_folder_brings_to_a_name_that_runs_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let at = |path: &str| folder.path().join(path);
        for path in ["old/sub", "parts/workflows", ".husky", "src/config"] {
            fs::create_dir_all(at(path)).expect("made");
        }
        for path in
            ["old/tasks.json", "old/sub/a.json", "parts/workflows/ci.yml", ".husky/pre-push"]
        {
            fs::write(at(path), "x").expect("written");
        }
        let ctime = |path| fs::symlink_metadata(at(path)).expect("there").ctime();
        // The next second, so that what was there before is older than what follows.
        let since = ctime("src/config") + 1;
        while ctime("src/config") < since {
            fs::set_permissions(at("src/config"), fs::Permissions::from_mode(0o755)).expect("set");
        }
        assert!(planted(folder.path(), since).expect("readable").is_empty());
        fs::rename(at("old"), at(".vscode")).expect("moved");
        fs::rename(at("parts"), at(".github")).expect("moved");
        symlink("src/config", at(".cargo")).expect("linked");
        let found = planted(folder.path(), since).expect("readable");
        let paths: BTreeSet<&str> =
            found.values().flat_map(|p| &p.first).map(|p| p.to_str().expect("UTF-8")).collect();
        let all =
            [".cargo", ".github/workflows/ci.yml", ".vscode/sub/a.json", ".vscode/tasks.json"];
        assert_eq!((paths, found.len()), (all.into(), 3), "and not .husky/pre-push");
    }

    #[test]
    fn any_number_of_one_kind_hides_no_other() {
        let folder = tempfile::tempdir().expect("a folder");
        for n in 0..1000 {
            let tool = folder.path().join(format!("{n:04}"));
            fs::write(&tool, "x").expect("written");
            fs::set_permissions(tool, fs::Permissions::from_mode(0o755)).expect("set");
        }
        fs::write(folder.path().join("z.code-workspace"), "x").expect("written");
        let found = planted(folder.path(), 0).expect("readable");
        let tools = &found["it is executable"];
        assert_eq!((found.len(), tools.count, tools.first.len()), (2, 1000, NAMED));
        assert!(tools.first.contains(Path::new("0000")), "{tools:?}");
    }

    #[test]
    fn neither_many_folders_nor_deep_ones_hide_anything() {
        let folder = tempfile::tempdir().expect("a folder");
        // More than this process may have open.
        for n in 0..3000 {
            fs::create_dir(folder.path().join(format!("d{n:04}"))).expect("made");
        }
        for n in ["d0000", "d1500", "d2999"] {
            fs::write(folder.path().join(n).join(".envrc"), "x").expect("written");
        }
        // A path that is longer than the kernel takes.
        let mut at = rustix::fs::open(folder.path(), OFlags::PATH, Mode::empty()).expect("opened");
        let name = "n".repeat(200);
        for _ in 0..25 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).expect("made");
            at = rustix::fs::openat(&at, &name, OFlags::PATH, Mode::empty()).expect("opened");
        }
        let found = planted(folder.path(), 0).expect("readable");
        let deep = &found["it cannot be looked into"];
        assert!(deep.count == 1 && deep.first.first().is_some_and(|p| p.ends_with(&name)));
        assert_eq!((found.len(), found.values().map(|p| p.count).sum()), (2, 4));
    }
}
