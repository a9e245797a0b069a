//! Contents on their way from a container to the host: one file that nobody else can open.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::fs::{AtFlags, Mode, OFlags};

/// Where a content lies in a spool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    at: u64,
    size: u64,
}

/// A file without a name: it goes with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Spool {
    file: File,
    end: u64,
}

impl Spool {
    /// Makes one in this folder.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let at = crate::files::Root::open_or_make(folder).map_err(io::Error::other)?;
        let name = format!(".spool-{}-{n}", std::process::id());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW;
        let (folder, mode) = (at.folder(), Mode::RUSR | Mode::WUSR);
        let open = || rustix::fs::openat(folder, &name, flags | OFlags::CLOEXEC, mode);
        let file = match open() {
            // Left by a process of that number which was killed in this very moment.
            Err(rustix::io::Errno::EXIST) => {
                rustix::fs::unlinkat(folder, &name, AtFlags::empty())?;
                open()?
            }
            other => other?,
        };
        rustix::fs::unlinkat(folder, &name, AtFlags::empty())?;
        Ok(Self { file: File::from(file), end: 0 })
    }

    /// Where the next content will begin.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.end)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// What was appended since `at`.
    pub(crate) fn since(&self, at: u64) -> Kept {
        Kept { at, size: self.end - at }
    }

    /// Forgets what was appended since `at`.
    pub(crate) fn forget(&mut self, at: u64) -> io::Result<()> {
        self.end = at;
        self.file.set_len(at)
    }

    pub(crate) fn read(&self, kept: Kept) -> io::Result<Vec<u8>> {
        let size = usize::try_from(kept.size).map_err(io::Error::other)?;
        let mut bytes = vec![0; size];
        self.file.read_exact_at(&mut bytes, kept.at)?;
        Ok(bytes)
    }

    /// Hands a content on in pieces.
    pub(crate) fn copy(&self, kept: Kept, to: &mut dyn io::Write) -> io::Result<()> {
        let mut buffer = vec![0; 256 << 10];
        let mut at = kept.at;
        let end = kept.at + kept.size;
        while at < end {
            let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            self.file.read_exact_at(&mut buffer[..room], at)?;
            to.write_all(&buffer[..room])?;
            at += room as u64;
        }
        Ok(())
    }
}
