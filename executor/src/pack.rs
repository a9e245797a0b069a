//! A folder as a tar archive that depends on its content alone: one owner, no times, and the
//! permission bits that [`crate::tree`] counts.
//!
//! Packing answers the digest of what it packed, so that what goes in is what was planned and not
//! what the folder became since.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bottle_planner::plan::User;
use bottle_planner::snapshot::Tree;
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

use crate::tree::{
    FolderHash, Hide, Kind, Opened, Sum, TreeError, list, open_file, open_folder, open_root,
};

/// Where a folder goes in an archive, and whose it will be.
#[derive(Debug, Clone, Copy)]
pub struct Placement<'p> {
    /// The folder's path in the archive, without a leading slash.
    pub below: &'p Path,
    /// Who owns all of it.
    pub owner: User,
    /// Permission bits of the folder itself; folders in it have 0755, files 0644 or 0755.
    pub mode: u32,
}

/// Adds a folder to an archive; answers the digest of what was added. Blocks.
pub fn append<W: Write>(
    archive: &mut Builder<W>,
    root: &Path,
    hide: &Hide,
    place: Placement<'_>,
) -> Result<Tree, TreeError> {
    let fd = open_root(root)?;
    append_folder(archive, place.below, place.mode, place.owner)?;
    let mut packer = Packer { archive, root, hide, place, sum: Sum::default() };
    let raw = packer.folder(fd.as_fd(), Path::new(""))?;
    Ok(packer.sum.tree(raw))
}

/// Adds an empty folder to an archive.
pub fn append_folder<W: Write>(
    archive: &mut Builder<W>,
    at: &Path,
    mode: u32,
    owner: User,
) -> Result<(), TreeError> {
    let mut header = header(EntryType::Directory, mode, owner, 0);
    let mut name = at.as_os_str().to_owned();
    name.push("/");
    archive.append_data(&mut header, name, std::io::empty()).map_err(TreeError::Write)
}

/// Adds a file to an archive.
pub fn append_file<W: Write>(
    archive: &mut Builder<W>,
    at: &Path,
    mode: u32,
    owner: User,
    content: &[u8],
) -> Result<(), TreeError> {
    let mut header = header(EntryType::Regular, mode, owner, content.len() as u64);
    archive.append_data(&mut header, at, content).map_err(TreeError::Write)
}

struct Packer<'p, W: Write> {
    archive: &'p mut Builder<W>,
    root: &'p Path,
    hide: &'p Hide,
    place: Placement<'p>,
    sum: Sum,
}

impl<W: Write> Packer<'_, W> {
    fn folder(&mut self, folder: BorrowedFd<'_>, below: &Path) -> Result<[u8; 32], TreeError> {
        let mut hash = FolderHash::new();
        for entry in list(self.root, folder, below, self.hide)? {
            let path = below.join(&entry.name);
            let at = self.place.below.join(&path);
            let mut executable = false;
            let inner = match &entry.kind {
                Kind::Folder => {
                    append_folder(self.archive, &at, 0o755, self.place.owner)?;
                    let inner = open_folder(folder, &entry.name, &self.root.join(&path))?;
                    self.folder(inner.as_fd(), &path)?
                }
                Kind::Link { target } => {
                    let mut header = header(EntryType::Symlink, 0o777, self.place.owner, 0);
                    let target_path = OsStr::from_bytes(target);
                    self.archive
                        .append_link(&mut header, &at, target_path)
                        .map_err(TreeError::Write)?;
                    self.sum.files += 1;
                    Sha256::digest(target).into()
                }
                Kind::File => {
                    let inner;
                    (inner, executable) = self.file(folder, &entry.name, &path, &at)?;
                    inner
                }
            };
            hash.add(&entry, executable, &inner);
        }
        Ok(hash.finish())
    }

    fn file(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        at: &Path,
    ) -> Result<([u8; 32], bool), TreeError> {
        let shown = || self.root.join(path);
        let Opened { file, size, executable } = open_file(folder, name, &shown)?;
        let mode = if executable { 0o755 } else { 0o644 };
        let mut header = header(EntryType::Regular, mode, self.place.owner, size);
        let mut reader = Hashed { inner: file.take(size), hash: Sha256::new(), read: 0 };
        let written = self.archive.append_data(&mut header, at, &mut reader);
        // A header that promises more than follows would shift everything behind it.
        if reader.read != size {
            return Err(TreeError::Changed { path: shown() });
        }
        written.map_err(TreeError::Write)?;
        self.sum.files += 1;
        self.sum.bytes += size;
        Ok((reader.hash.finalize().into(), executable))
    }
}

/// Hashes what passes.
struct Hashed<R> {
    inner: R,
    hash: Sha256,
    read: u64,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        self.read += n as u64;
        Ok(n)
    }
}

fn header(kind: EntryType, mode: u32, owner: User, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_mtime(0);
    header.set_size(size);
    header
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;
    use crate::tree;

    const OWNER: User = User { uid: 1000, gid: 1001 };

    fn pack(root: &Path, hide: &Hide) -> Result<(Tree, Vec<u8>), TreeError> {
        let mut archive = Builder::new(Vec::new());
        let place = Placement { below: Path::new("work"), owner: OWNER, mode: 0o700 };
        let tree = append(&mut archive, root, hide, place)?;
        Ok((tree, archive.into_inner().expect("in memory")))
    }

    fn lines(archive: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(archive);
        let line = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
            let entry = entry.expect("whole");
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (1000, 1001));
            assert_eq!(header.mtime().unwrap(), 0);
            let link = entry.link_name().unwrap().map(|l| format!(" -> {}", l.display()));
            let mode = header.mode().unwrap();
            format!("{mode:o} {}{}", entry.path().unwrap().display(), link.unwrap_or_default())
        };
        archive.entries().expect("an archive").map(line).collect()
    }

    #[test]
    fn what_is_packed_has_the_digest_of_the_folder() {
        let folder = tempfile::tempdir().expect("a folder");
        let long = "long/".repeat(40);
        fs::create_dir_all(folder.path().join(&long)).unwrap();
        fs::write(folder.path().join(&long).join("file"), "deep").unwrap();
        fs::write(folder.path().join("run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(folder.path().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(folder.path().join(".env"), "secret").unwrap();
        symlink("/etc/passwd", folder.path().join("z")).unwrap();
        let hide = Hide::new([".env*"]).unwrap();
        let (packed, archive) = pack(folder.path(), &hide).expect("packed");
        assert_eq!(packed, tree::digest(folder.path(), &hide).expect("read"));
        let seen = lines(&archive);
        assert_eq!(seen[0], "700 work/");
        assert!(seen.contains(&format!("644 work/{long}file")), "{seen:?}");
        assert!(seen.contains(&"755 work/run".to_owned()), "{seen:?}");
        assert!(seen.contains(&"777 work/z -> /etc/passwd".to_owned()), "{seen:?}");
        assert!(!archive.windows(6).any(|w| w == b"secret"));
        assert_eq!(pack(folder.path(), &hide).expect("packed").1, archive, "no clock in it");
    }

    #[test]
    fn pipes_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let pipe = folder.path().join("p");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &pipe,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR,
            0,
        )
        .unwrap();
        let refused = pack(folder.path(), &Hide::nothing()).expect_err("a pipe");
        assert!(refused.to_string().contains("is a pipe"), "{refused}");
    }
}
