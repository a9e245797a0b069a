//! The commit a git folder stands at, read from its files: no git runs, and so no hook, no
//! `core.fsmonitor` and no alias of a repository that nobody has vouched for.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};

use bottle_planner::words::RelPath;

/// `HEAD` and refs are short.
const MOST: u64 = 4096;
/// How often a ref may name another (git's own limit).
const MOST_HOPS: usize = 5;

/// The commit `HEAD` names; `None` where the folder is no work tree, or has no commit.
pub(super) fn head(folder: &Path) -> Option<String> {
    let own = git_folder(folder)?;
    let shared = match text(&own.join("commondir")) {
        Some(shared) => own.join(shared.trim()),
        None => own.clone(),
    };
    let mut value = text(&own.join("HEAD"))?;
    for _ in 0..MOST_HOPS {
        let line = value.trim();
        let Some(name) = line.strip_prefix("ref:").map(str::trim) else {
            return is_object(line).then(|| line.to_owned());
        };
        // A name that leaves the folder is no ref.
        let name = RelPath::new(name).ok().filter(|n| n.as_str().starts_with("refs/"))?;
        let loose = [&own, &shared].into_iter().find_map(|dir| text(&dir.join(name.as_str())));
        value = loose.or_else(|| packed(&shared.join("packed-refs"), name.as_str()))?;
    }
    None
}

/// `.git` itself, or the folder that a linked worktree's `.git` file names.
fn git_folder(folder: &Path) -> Option<PathBuf> {
    let path = folder.join(".git");
    if path.is_dir() {
        return Some(path);
    }
    let named = text(&path)?;
    Some(folder.join(named.trim().strip_prefix("gitdir:")?.trim()))
}

fn packed(path: &Path, name: &str) -> Option<String> {
    let file = BufReader::new(File::open(path).ok()?);
    file.lines().map_while(Result::ok).find_map(|line| {
        let (object, found) = line.split_once(' ')?;
        (found == name).then(|| object.to_owned())
    })
}

fn text(path: &Path) -> Option<String> {
    if !path.metadata().ok()?.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(MOST).read_to_string(&mut text).ok()?;
    Some(text)
}

/// SHA-1 or SHA-256, in hexadecimal.
fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn folder(files: &[(&str, String)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, content).expect("written");
        }
        folder
    }

    fn at(files: &[(&str, String)]) -> Option<String> {
        head(folder(files).path())
    }

    #[test]
    fn loose_packed_and_detached() {
        let on_main = ("w/.git/HEAD".trim_start_matches("w/"), "ref: refs/heads/main\n".into());
        let loose = (".git/refs/heads/main", format!("{A}\n"));
        let packed = (
            ".git/packed-refs",
            format!("# pack-refs with: peeled\n{A} refs/heads/other\n{B} refs/heads/main\n^{A}\n"),
        );
        assert_eq!(at(&[on_main.clone(), loose.clone()]).as_deref(), Some(A));
        assert_eq!(at(&[on_main.clone(), packed.clone()]).as_deref(), Some(B));
        assert_eq!(at(&[on_main.clone(), loose, packed]).as_deref(), Some(A), "loose wins");
        assert_eq!(at(&[(".git/HEAD", format!("{B}\n"))]).as_deref(), Some(B));
        assert_eq!(at(&[on_main]), None, "no commit yet");
        assert_eq!(at(&[("file", String::new())]), None);
        assert_eq!(at(&[(".git/HEAD", "ref: ../../secret\n".into())]), None);
        assert_eq!(at(&[(".git/HEAD", "nonsense\n".into())]), None);
    }

    #[test]
    fn a_linked_worktree() {
        let world = folder(&[
            ("main/.git/HEAD", "ref: refs/heads/main\n".into()),
            ("main/.git/refs/heads/side", format!("{B}\n")),
            ("main/.git/worktrees/side/HEAD", "ref: refs/heads/side\n".into()),
            ("main/.git/worktrees/side/commondir", "../..\n".into()),
            ("side/.git", "gitdir: ../main/.git/worktrees/side\n".into()),
        ]);
        assert_eq!(head(&world.path().join("side")).as_deref(), Some(B));
    }
}
