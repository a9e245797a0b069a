//! The decision log of one session, as egress or the git gate wrote it: `<role>/out/decisions.1.jsonl`
//! and then `decisions.jsonl`, read within a bound and without following a link.
//!
//! What is in it may come from an agent, down to the last byte: a line that is no decision is
//! counted and passed over.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use bottle_planner::decision::Decision;
use bottle_planner::words::Role;
use rustix::fs::OFlags;

use crate::failure::Failure;
use crate::sessions::Record;

/// The most bytes that are read of one file, from its end: egress itself stops at a quarter.
const MOST: u64 = 32 << 20;
/// The most bytes of one line.
const LONGEST: usize = 64 << 10;
/// How often a log that is followed is looked at.
const PAUSE: Duration = Duration::from_millis(250);
/// The older file first.
const FILES: [&str; 2] = ["decisions.1.jsonl", "decisions.jsonl"];

/// Where a sidecar of a session writes.
#[must_use]
pub fn folder(record: &Path, role: Role) -> PathBuf {
    record.join(role.as_str()).join("out")
}

/// Reads the whole log of a session's record; answers how many lines were no decisions.
pub fn each(
    record: &Path,
    role: Role,
    mut take: impl FnMut(&str, Decision),
) -> Result<u64, Failure> {
    let mut skipped = 0;
    for name in FILES {
        let path = folder(record, role).join(name);
        let read = match open(&path) {
            Ok(mut file) => tail(&mut file),
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => Err(error),
        };
        let bytes = read.map_err(|error| cannot_read(&path, &error))?;
        let mut lines = Lines::default();
        lines.feed(&bytes, &mut take);
        lines.end(&mut take);
        skipped += lines.skipped;
    }
    Ok(skipped)
}

/// Hands the decisions of a session on in batches, and with `follow` goes on as they are made, until
/// the session's end; answers how many lines were no decisions.
pub fn watch(
    record: &Record,
    role: Role,
    follow: bool,
    mut tell: impl FnMut(Vec<(String, Decision)>) -> Result<(), Failure>,
) -> Result<u64, Failure> {
    let mut batch = Vec::new();
    if !follow || record.ended {
        let skipped =
            each(&record.folder, role, |raw, decision| batch.push((raw.to_owned(), decision)))?;
        tell(batch)?;
        return Ok(skipped);
    }
    let mut follower = Follower::new(&record.folder, role, |raw, decision| {
        batch.push((raw.to_owned(), decision));
    })?;
    tell(std::mem::take(&mut batch))?;
    loop {
        sleep(PAUSE);
        let goes_on = follower.more(|raw, decision| batch.push((raw.to_owned(), decision)))?;
        tell(std::mem::take(&mut batch))?;
        if !goes_on {
            return Ok(0);
        }
    }
}

/// A log that is still being written: what was added since it was last asked.
pub struct Follower {
    path: PathBuf,
    file: Option<File>,
    lines: Lines,
}

impl Follower {
    /// Follows the log from its beginning, the older file included.
    pub fn new(
        record: &Path,
        role: Role,
        mut take: impl FnMut(&str, Decision),
    ) -> Result<Self, Failure> {
        let old = folder(record, role).join(FILES[0]);
        if let Ok(mut file) = open(&old) {
            let bytes = tail(&mut file).map_err(|error| cannot_read(&old, &error))?;
            let mut lines = Lines::default();
            lines.feed(&bytes, &mut take);
            lines.end(&mut take);
        }
        let path = folder(record, role).join(FILES[1]);
        let mut follower = Self { path, file: None, lines: Lines::default() };
        follower.more(take)?;
        Ok(follower)
    }

    /// Takes what was added; false once the session's folder is gone.
    pub fn more(&mut self, mut take: impl FnMut(&str, Decision)) -> Result<bool, Failure> {
        self.read(&mut take)?;
        // A full file is renamed and a new one begun: what was open is read to its end first.
        let now = self.path.symlink_metadata().map(|found| (found.dev(), found.ino()));
        let open = self.file.as_ref().and_then(|file| file.metadata().ok());
        let open = open.map(|found| (found.dev(), found.ino()));
        if let Ok(now) = now
            && open != Some(now)
        {
            self.read(&mut take)?;
            self.lines.end(&mut take);
            self.file = match self::open(&self.path) {
                Ok(file) => Some(file),
                Err(error) if error.kind() == ErrorKind::NotFound => None,
                Err(error) => return Err(cannot_read(&self.path, &error)),
            };
            self.read(&mut take)?;
        }
        Ok(self.path.parent().is_some_and(Path::is_dir))
    }

    fn read(&mut self, take: &mut impl FnMut(&str, Decision)) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut bytes = Vec::new();
        file.take(MOST).read_to_end(&mut bytes).map_err(|error| cannot_read(&self.path, &error))?;
        self.lines.feed(&bytes, take);
        Ok(())
    }
}

/// Bytes cut into lines, lines read as decisions.
#[derive(Default)]
struct Lines {
    /// The beginning of a line that is not whole yet; never longer than a line may be.
    open: Vec<u8>,
    too_long: bool,
    skipped: u64,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], take: &mut impl FnMut(&str, Decision)) {
        let mut parts = bytes.split(|byte| *byte == b'\n').peekable();
        while let Some(part) = parts.next() {
            if self.too_long || self.open.len() + part.len() > LONGEST {
                self.open.clear();
                self.too_long = true;
            } else {
                self.open.extend_from_slice(part);
            }
            if parts.peek().is_some() {
                self.end(take);
            }
        }
    }

    fn end(&mut self, take: &mut impl FnMut(&str, Decision)) {
        let line = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.too_long) {
            self.skipped += 1;
            return;
        }
        if line.is_empty() {
            return;
        }
        let text = std::str::from_utf8(&line).ok();
        match text.and_then(|text| Some((text, serde_json::from_str(text).ok()?))) {
            Some((text, decision)) => take(text, decision),
            None => self.skipped += 1,
        }
    }
}

/// Opens a regular file; a link in its place is an error, and a pipe is not waited for.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    Ok(file)
}

/// The last bytes of a file, from the beginning of a line.
fn tail(file: &mut File) -> io::Result<Vec<u8>> {
    let from = file.metadata()?.len().saturating_sub(MOST);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    if from > 0 {
        let line = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
        bytes.drain(..line);
    }
    Ok(bytes)
}

fn cannot_read(path: &Path, error: &io::Error) -> Failure {
    Failure::error(format!("cannot read {}", path.display())).because(error)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    /// A decision as a line of the log.
    pub(crate) fn line(host: &str, outcome: &str) -> String {
        format!(
            "{{\"time\":\"2026-01-31T12:00:00.000Z\",\"plan\":null,\"client\":\"agent\",\
             \"via\":\"proxy\",\"scheme\":\"https\",\"method\":\"GET\",\"host\":\"{host}\",\
             \"port\":443,\"path\":\"/a\",\"outcome\":\"{outcome}\",\"code\":\"no_route\",\
             \"rule\":\"default\",\"reason\":\"no route\",\"new_field\":1}}\n"
        )
    }

    fn record() -> (tempfile::TempDir, PathBuf) {
        let record = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder(record.path(), Role::Egress)).unwrap();
        let out = folder(record.path(), Role::Egress);
        (record, out)
    }

    #[test]
    fn both_files_in_order_and_garbage_passed_over() {
        let (record, out) = record();
        let mut hosts = Vec::new();
        assert_eq!(
            each(record.path(), Role::Egress, |_, d| hosts.push(d.host)).unwrap(),
            0,
            "no log yet"
        );
        fs::write(out.join(FILES[0]), line("one.test", "refuse")).unwrap();
        let mut bytes = line("two.test", "allow").into_bytes();
        bytes.extend(b"{\"time\": \"torn\n\xff\xfe\n\n");
        bytes.extend(vec![b'x'; LONGEST + 1]);
        bytes.extend(b"\n");
        bytes.extend(line("three.test", "refuse").trim_end().as_bytes());
        fs::write(out.join(FILES[1]), bytes).unwrap();
        assert_eq!(each(record.path(), Role::Egress, |_, d| hosts.push(d.host)).unwrap(), 3);
        assert_eq!(hosts, ["one.test", "two.test", "three.test"]);
    }

    #[test]
    fn a_link_is_not_followed() {
        let (record, out) = record();
        std::os::unix::fs::symlink("/etc/passwd", out.join(FILES[1])).unwrap();
        assert!(each(record.path(), Role::Egress, |_, _| {}).is_err());
    }

    #[test]
    fn only_the_end_of_a_huge_file_is_read() {
        let (_record, out) = record();
        let path = out.join(FILES[1]);
        let mut file = File::create(&path).unwrap();
        file.set_len(MOST + 7).unwrap();
        file.seek(SeekFrom::End(0)).unwrap();
        file.write_all(b"\nlast\n").unwrap();
        let bytes = tail(&mut open(&path).unwrap()).unwrap();
        assert_eq!(bytes, b"last\n");
    }

    #[test]
    fn a_log_is_followed_across_a_rotation() {
        let (record, out) = record();
        let current = out.join(FILES[1]);
        let mut hosts = Vec::new();
        let append = |path: &Path, text: &str| {
            let mut file = OpenOptions::new().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        };
        append(&current, &line("one.test", "refuse"));
        let mut follower =
            Follower::new(record.path(), Role::Egress, |_, d| hosts.push(d.host)).unwrap();
        let two = line("two.test", "refuse");
        append(&current, &two[..20]);
        assert!(follower.more(|_, d| hosts.push(d.host)).unwrap());
        append(&current, &two[20..]);
        fs::rename(&current, out.join(FILES[0])).unwrap();
        append(&current, &line("three.test", "refuse"));
        assert!(follower.more(|_, d| hosts.push(d.host)).unwrap());
        assert_eq!(hosts, ["one.test", "two.test", "three.test"]);
        drop(record);
        assert!(!follower.more(|_, _| {}).unwrap());
    }
}
