//! The running binary: its path and the digest of its bytes, which is remembered between runs.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use bottle_planner::words::Digest;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// The binary that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnBinary {
    /// The digest of its bytes.
    pub digest: Digest,
    /// A path that opens it.
    pub path: PathBuf,
}

/// What a digest was taken of: any write to the file changes one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    path: PathBuf,
    dev: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

#[derive(Debug, Serialize, Deserialize)]
struct Remembered {
    key: Key,
    digest: Digest,
}

/// The binary that runs. Hashing it takes longer than all else of a plan, so the digest is kept
/// below the state root; a cache that cannot be read or written costs time and nothing else.
pub fn find(state_root: &Path) -> Result<OwnBinary, Failure> {
    let path = std::env::current_exe()
        .map_err(|e| Failure::error("cannot find the running binary").because(&e))?;
    // The link of /proc is followed by the kernel to the very file that runs, also when another
    // has taken its name.
    let running = Path::new("/proc/self/exe");
    let file = if running.exists() { running.to_owned() } else { path.clone() };
    let digest = remembered_digest(&file, &path, &state_root.join("cache/tool.json"))?;
    Ok(OwnBinary { digest, path: file })
}

fn remembered_digest(file: &Path, name: &Path, cache: &Path) -> Result<Digest, Failure> {
    let key = key(file, name)?;
    if let Some(found) = recall(cache)
        && found.key == key
    {
        return Ok(found.digest);
    }
    let bytes =
        fs::read(file).map_err(|e| Failure::error("cannot read the running binary").because(&e))?;
    let digest = Digest::of(&bytes);
    // A file that was written to while it was read has another key now.
    if self::key(file, name)? == key {
        remember(cache, &Remembered { key, digest: digest.clone() });
    }
    Ok(digest)
}

fn key(file: &Path, name: &Path) -> Result<Key, Failure> {
    let meta = fs::metadata(file)
        .map_err(|e| Failure::error("cannot look at the running binary").because(&e))?;
    Ok(Key {
        path: name.to_owned(),
        dev: meta.dev(),
        inode: meta.ino(),
        size: meta.size(),
        modified: (meta.mtime(), meta.mtime_nsec()),
        changed: (meta.ctime(), meta.ctime_nsec()),
    })
}

fn recall(cache: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(cache).ok()?).ok()
}

/// Best effort: a home that cannot be written to is no reason not to plan.
fn remember(cache: &Path, what: &Remembered) {
    let write = || -> std::io::Result<()> {
        let folder = cache.parent().ok_or(std::io::ErrorKind::InvalidInput)?;
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let temporary = folder.join(format!(".tool.{}.tmp", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(serde_json::to_string(what)?.as_bytes())?;
        fs::rename(&temporary, cache)
    };
    let _ = write();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remembered_until_the_file_changes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, cache) = (folder.path().join("bin"), folder.path().join("cache/tool.json"));
        fs::write(&file, "one").unwrap();
        let digest = || remembered_digest(&file, &file, &cache).unwrap();
        assert_eq!(digest(), Digest::of(b"one"));
        let mut kept: Remembered = recall(&cache).unwrap();
        kept.digest = Digest::of(b"planted");
        remember(&cache, &kept);
        assert_eq!(digest(), Digest::of(b"planted"), "the cache answers");
        fs::write(&file, "three").unwrap();
        assert_eq!(digest(), Digest::of(b"three"));
        fs::write(&cache, "torn").unwrap();
        assert_eq!(digest(), Digest::of(b"three"));
    }

    #[test]
    fn a_cache_that_cannot_be_written_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bin");
        fs::write(&file, "one").unwrap();
        let cache = file.join("cache/tool.json");
        assert_eq!(remembered_digest(&file, &file, &cache).unwrap(), Digest::of(b"one"));
    }
}
