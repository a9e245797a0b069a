//! The running binary as something containers can use: a folder to mount, and a root file system.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bottle_planner::sidecar::BINARY;
use bottle_planner::words::{Digest, RelPath};
use bytes::Bytes;

use crate::files::{FileError, Root};

/// The binary that applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolBinary {
    /// The digest of its bytes.
    pub digest: Digest,
    /// Where it lies.
    pub path: PathBuf,
}

/// Why the binary was not put in place.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// It is not the one that is wanted (it was exchanged, or the plan is another build's).
    #[error("expected the binary {expected} at {}, found {found}", path.display())]
    Other {
        /// Where it was looked for.
        path: PathBuf,
        /// The digest wanted.
        expected: Digest,
        /// The digest found.
        found: Digest,
    },
    /// It could not be read.
    #[error("could not read {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The root file system could not be packed.
    #[error("could not pack the sidecar image")]
    Pack(#[source] std::io::Error),
}

/// Whether `bin/<digest>/bottle` is there. Blocks.
pub fn installed(root: &Root, digest: &Digest) -> Result<bool, ToolError> {
    Ok(root.entry(&place(digest)?.1)?.is_some_and(|e| e.mode == 0o755))
}

/// Puts the binary at `bin/<digest>/bottle` (0755 in a folder of 0755), atomically and only if its
/// bytes have the digest. Blocks.
pub fn install(root: &Root, tool: &ToolBinary) -> Result<(), ToolError> {
    let bytes = read(tool)?;
    let (folder, file) = place(&tool.digest)?;
    for path in folder.parent().iter().chain([&folder]) {
        root.make_folder(path, 0o755, None)?;
    }
    root.write(&file, &bytes, 0o755, None)?;
    Ok(())
}

/// The root file system of the sidecar image: the binary at `/bottle`, the folders that are
/// mounted upon, and the two files the engine writes over. No user, no shell, no library. Blocks.
pub fn root_file_system(tool: &ToolBinary) -> Result<Bytes, ToolError> {
    let bytes = read(tool)?;
    let mut archive = tar::Builder::new(Vec::with_capacity(bytes.len() + (16 << 10)));
    pack(&mut archive, &bytes).map_err(ToolError::Pack)?;
    Ok(archive.into_inner().map_err(ToolError::Pack)?.into())
}

fn pack(archive: &mut tar::Builder<Vec<u8>>, binary: &[u8]) -> std::io::Result<()> {
    for folder in [".bottle", ".bottle/in", ".bottle/out", ".bottle/run", "etc"] {
        let mut header = header(tar::EntryType::Directory, 0o755, 0);
        archive.append_data(&mut header, folder, std::io::empty())?;
    }
    for file in ["etc/hosts", "etc/resolv.conf"] {
        let mut header = header(tar::EntryType::Regular, 0o644, 0);
        archive.append_data(&mut header, file, std::io::empty())?;
    }
    let mut header = header(tar::EntryType::Regular, 0o755, binary.len() as u64);
    archive.append_data(&mut header, BINARY, binary)
}

/// A header with no trace of this host: owned by 0:0, dated 1970.
fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

fn read(tool: &ToolBinary) -> Result<Vec<u8>, ToolError> {
    let failed = |source| ToolError::Read { path: tool.path.clone(), source };
    let mut bytes = Vec::new();
    File::open(&tool.path).map_err(failed)?.read_to_end(&mut bytes).map_err(failed)?;
    let found = Digest::of(&bytes);
    if found == tool.digest {
        return Ok(bytes);
    }
    Err(ToolError::Other { path: tool.path.clone(), expected: tool.digest.clone(), found })
}

fn place(digest: &Digest) -> Result<(RelPath, RelPath), ToolError> {
    let name =
        |e: bottle_planner::words::WordError| ToolError::Pack(std::io::Error::other(e.to_string()));
    let folder = RelPath::new(format!("bin/{}", digest.hex())).map_err(name)?;
    let file = folder.join(BINARY).map_err(name)?;
    Ok((folder, file))
}

/// The digest of a file's bytes, for a binary that wants to know its own.
pub fn digest_of(path: &Path) -> Result<Digest, ToolError> {
    let failed = |source| ToolError::Read { path: path.to_owned(), source };
    Ok(Digest::of(&std::fs::read(path).map_err(failed)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn tool(folder: &Path) -> ToolBinary {
        let path = folder.join("running");
        std::fs::write(&path, "program").expect("written");
        ToolBinary { digest: Digest::of(b"program"), path }
    }

    #[test]
    fn installed_under_its_digest() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("readable").expect("there");
        let tool = tool(folder.path());
        assert!(!installed(&root, &tool.digest).expect("ok"));
        install(&root, &tool).expect("installed");
        assert!(installed(&root, &tool.digest).expect("ok"));
        let path = folder.path().join("bin").join(tool.digest.hex()).join("bottle");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        assert_eq!(std::fs::read(path).expect("ok"), b"program");
    }

    #[test]
    fn an_exchanged_binary_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let root = Root::open(folder.path()).expect("readable").expect("there");
        let tool = tool(folder.path());
        std::fs::write(&tool.path, "another").expect("written");
        assert!(matches!(install(&root, &tool), Err(ToolError::Other { .. })));
        assert!(!folder.path().join("bin").exists());
    }

    #[test]
    fn the_image_holds_the_binary_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let tool = tool(folder.path());
        let packed = root_file_system(&tool).expect("packed");
        assert_eq!(packed, root_file_system(&tool).expect("packed"));
        let mut archive = tar::Archive::new(&packed[..]);
        let seen: Vec<String> = archive
            .entries()
            .expect("an archive")
            .map(|entry| {
                let entry = entry.expect("an entry");
                let path = entry.path().expect("a path").display().to_string();
                format!("{path} {:o}", entry.header().mode().expect("a mode"))
            })
            .collect();
        assert_eq!(
            seen,
            [
                ".bottle 755",
                ".bottle/in 755",
                ".bottle/out 755",
                ".bottle/run 755",
                "etc 755",
                "etc/hosts 644",
                "etc/resolv.conf 644",
                "bottle 755",
            ]
        );
    }
}
