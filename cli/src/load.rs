//! Files that a person named: read whole, within a bound, and without waiting for anybody.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat, open};

/// The most bytes a document may have.
pub const MOST: u64 = 32 << 20;

/// Reads a text.
pub fn text(path: &Path) -> io::Result<String> {
    String::from_utf8(bytes(path)?).map_err(|_| io::Error::other("it is not UTF-8 text"))
}

/// Reads a regular file, or a descriptor that this process was given: a shell's `<(…)` is one. Any
/// other pipe may never have a writer.
pub fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    if ["/dev/fd", "/dev/stdin", "/proc/self/fd"].iter().any(|given| path.starts_with(given)) {
        return bounded(File::open(path)?);
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(fstat(&file)?.st_mode) {
        FileType::RegularFile => bounded(File::from(file)),
        FileType::Directory => Err(io::ErrorKind::IsADirectory.into()),
        _ => Err(io::Error::other("it is not a regular file")),
    }
}

/// Reads to the end, if that is within the bound.
pub fn bounded(from: impl Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(MOST + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST {
        return Err(io::Error::other(format!("it has more than {} MiB", MOST >> 20)));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_long_is_refused_before_it_is_read_whole() {
        let error = bounded(io::repeat(b' ')).unwrap_err();
        assert_eq!(error.to_string(), "it has more than 32 MiB");
    }

    #[test]
    fn what_is_no_file_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        assert_eq!(text(&pipe).unwrap_err().to_string(), "it is not a regular file");
        assert_eq!(
            text(Path::new("/dev/zero")).unwrap_err().to_string(),
            "it is not a regular file"
        );
        assert_eq!(text(folder.path()).unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let file = folder.path().join("file");
        std::fs::write(&file, [0xff]).unwrap();
        assert_eq!(text(&file).unwrap_err().to_string(), "it is not UTF-8 text");
        std::fs::write(&file, "text").unwrap();
        assert_eq!(text(&file).unwrap(), "text");
    }
}
