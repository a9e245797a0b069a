//! Reads manifest files from disk, for the planner to make sense of.
//!
//! Every path is walked one component at a time without following a symbolic link: a repository
//! is untrusted, and a link in it could turn a key of the host into an agent's prompt. Sizes and
//! kinds are looked at before anything is read.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use bottle_planner::manifest::{
    Diagnostic, LoadedConfig, MAX_BYTES, Severity, Source, SourceKind, load_config,
};
use bottle_planner::words::RelPath;
use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;

/// The most files one manifest folder may hold.
const MAX_FILES: usize = 1000;

/// Where the trusted manifest lies.
#[derive(Debug, Clone, Copy)]
pub enum Trusted<'p> {
    /// The user's own folder, `~/.bottle`. It may be missing.
    Home(&'p Path),
    /// A folder given with `--manifest-dir`.
    Folder(&'p Path),
    /// A file given with `--manifest`. A repository's agents are not read beside it.
    File(&'p Path),
}

/// Reads the trusted manifest and, where there is one, that of the repository in `cwd`.
///
/// `user_home` is the user's home folder: a launch from there reads the home manifest alone.
/// Nothing here fails: what cannot be read is a source that says why.
#[must_use]
pub fn gather(trusted: Trusted<'_>, cwd: Option<&Path>, user_home: &Path) -> Vec<Source> {
    let root = match trusted {
        Trusted::File(file) => {
            let mut sources = vec![single(file, SourceKind::SingleFile)];
            let overlay = overlay_of_file(file);
            if overlay.symlink_metadata().is_ok() {
                sources.push(single(&overlay, SourceKind::SingleOverlay));
            }
            return sources;
        }
        Trusted::Home(root) | Trusted::Folder(root) => root,
    };
    let mut sources = Vec::new();
    match open_root(root) {
        Ok(fd) => {
            sources.extend(folder(&fd, "bottles", SourceKind::HomeBottle));
            sources.extend(folder(&fd, "agents", SourceKind::HomeAgent));
            sources.extend(folder(&fd, "overlays", SourceKind::HomeOverlay));
        }
        Err(Unread::Missing) if matches!(trusted, Trusted::Home(_)) => {}
        Err(why) => sources.push(unreadable(SourceKind::SingleFile, &shown(root), &why)),
    }
    if let Some(cwd) = cwd
        && !same(cwd, user_home)
        && !same(&cwd.join(".bottle"), root)
    {
        sources.extend(repository(cwd));
    }
    sources
}

/// Reads the host config; a missing file is an empty one.
#[must_use]
pub fn host_config(file: &Path) -> LoadedConfig {
    let path = shown(file);
    match text_of(read_path(file)) {
        Ok(text) => load_config(&path, &text),
        Err(Unread::Missing) => LoadedConfig::default(),
        Err(why) => {
            LoadedConfig { diagnostics: vec![diagnostic(&path, &why)], ..LoadedConfig::default() }
        }
    }
}

/// Why a file that a manifest names was not read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read `{path}` of the manifest's folder")]
pub struct NamedFileError {
    /// The path as the manifest has it.
    pub path: RelPath,
    /// What stood in the way.
    pub source: Unread,
}

/// What stands in the way of reading a file.
#[derive(Debug, thiserror::Error)]
pub enum Unread {
    /// There is no such file.
    #[error("there is no such file")]
    Missing,
    /// A component of the path is a symbolic link.
    #[error("it is or lies behind a symbolic link, and none is followed")]
    Link,
    /// A folder, a pipe, a device or a socket.
    #[error("it is not a regular file")]
    NotRegular,
    /// More bytes than allowed.
    #[error("it has more than {0} KiB")]
    TooLarge(u64),
    /// More files than allowed in one folder.
    #[error("it holds more than {MAX_FILES} files")]
    TooMany,
    /// Bytes that are not UTF-8.
    #[error("it is not UTF-8 text")]
    NotText,
    /// The system said no.
    #[error("the system refused")]
    System(#[source] io::Error),
}

impl From<Errno> for Unread {
    fn from(error: Errno) -> Self {
        match error {
            Errno::NOENT => Self::Missing,
            Errno::LOOP => Self::Link,
            error => Self::System(error.into()),
        }
    }
}

/// Reads a file that a manifest names, below the manifest's own folder, of at most `most` bytes.
///
/// No component below `root` may be a symbolic link.
pub fn read_named(root: &Path, path: &RelPath, most: u64) -> Result<Vec<u8>, NamedFileError> {
    let read = || {
        let mut folder = open_root(root)?;
        let (parents, name) = path.as_str().rsplit_once('/').unwrap_or(("", path.as_str()));
        for part in parents.split('/').filter(|part| !part.is_empty()) {
            folder = open_folder(&folder, part)?;
        }
        read_at(&folder, name, most)
    };
    read().map_err(|source| NamedFileError { path: path.clone(), source })
}

/// Where the overlay of a manifest in one file lies: beside it.
#[must_use]
pub fn overlay_of_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".overlay.yaml");
    PathBuf::from(name)
}

fn single(file: &Path, kind: SourceKind) -> Source {
    let path = shown(file);
    match text_of(read_path(file)) {
        Ok(text) => Source::new(kind, path, text),
        Err(why) => unreadable(kind, &path, &why),
    }
}

fn repository(cwd: &Path) -> Vec<Source> {
    let own = match open_root(cwd).and_then(|cwd| open_folder(&cwd, ".bottle")) {
        Ok(own) => own,
        Err(Unread::Missing) => return Vec::new(),
        Err(why) => return vec![unreadable(SourceKind::SingleFile, ".bottle", &why)],
    };
    let mut sources = folder(&own, "agents", SourceKind::RepositoryAgent);
    for source in &mut sources {
        source.path.insert_str(0, ".bottle/");
        if let bottle_planner::manifest::Content::Unreadable(why) = &mut source.content {
            why.file.insert_str(0, ".bottle/");
        }
    }
    if openat(&own, "bottles", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).is_ok() {
        sources.push(Source::new(SourceKind::RepositoryBottle, ".bottle/bottles", ""));
    }
    sources
}

/// The manifest files of one folder, by name.
fn folder(root: &OwnedFd, name: &str, kind: SourceKind) -> Vec<Source> {
    let listed = open_folder(root, name).and_then(|fd| Ok((names(&fd)?, fd)));
    let (names, fd) = match listed {
        Ok(listed) => listed,
        Err(Unread::Missing) => return Vec::new(),
        Err(why) => return vec![unreadable(SourceKind::SingleFile, name, &why)],
    };
    let read = |file: String| {
        let path = format!("{name}/{}", escaped(&file));
        match text_of(read_at(&fd, &file, MAX_BYTES as u64)) {
            Ok(text) => Source::new(kind, path, text),
            Err(why) => unreadable(kind, &path, &why),
        }
    };
    names.into_iter().map(read).collect()
}

fn names(folder: &OwnedFd) -> Result<Vec<String>, Unread> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        // A name that is not UTF-8 breaks the rule for names anyway.
        let name = entry.file_name().to_string_lossy();
        let manifest = [".md", ".yaml"].iter().any(|ending| name.ends_with(ending));
        if manifest && !name.contains('\u{fffd}') {
            names.push(name.into_owned());
        }
        if names.len() > MAX_FILES {
            return Err(Unread::TooMany);
        }
    }
    names.sort();
    Ok(names)
}

/// A folder that the user named, links in its path and all.
fn open_root(path: &Path) -> Result<OwnedFd, Unread> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(open(path, flags, Mode::empty())?)
}

fn open_folder(parent: &OwnedFd, name: &str) -> Result<OwnedFd, Unread> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        // With `O_DIRECTORY`, Linux answers a link with ENOTDIR.
        Err(Errno::NOTDIR) if is_link(parent, name) => Err(Unread::Link),
        opened => Ok(opened?),
    }
}

fn is_link(parent: &OwnedFd, name: &str) -> bool {
    rustix::fs::statat(parent, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
}

/// Opening with `O_NONBLOCK` does not wait for the writer of a pipe.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

fn read_at(folder: &OwnedFd, name: &str, most: u64) -> Result<Vec<u8>, Unread> {
    let fd = openat(folder, name, READ | OFlags::NOFOLLOW, Mode::empty())?;
    read_fd(fd, most)
}

/// A file that the user named: naming it is the act of trust, so links are followed.
pub(crate) fn read_path(file: &Path) -> Result<Vec<u8>, Unread> {
    read_fd(open(file, READ, Mode::empty())?, MAX_BYTES as u64)
}

fn read_fd(fd: OwnedFd, most: u64) -> Result<Vec<u8>, Unread> {
    let stat = fstat(&fd)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Unread::NotRegular);
    }
    if u64::try_from(stat.st_size).is_ok_and(|size| size > most) {
        return Err(Unread::TooLarge(most >> 10));
    }
    let mut bytes = Vec::new();
    // The file may grow between the look and the reading.
    File::from(fd).take(most + 1).read_to_end(&mut bytes).map_err(Unread::System)?;
    if bytes.len() as u64 > most {
        return Err(Unread::TooLarge(most >> 10));
    }
    Ok(bytes)
}

fn text_of(bytes: Result<Vec<u8>, Unread>) -> Result<String, Unread> {
    String::from_utf8(bytes?).map_err(|_| Unread::NotText)
}

fn unreadable(kind: SourceKind, path: &str, why: &Unread) -> Source {
    Source::unreadable(kind, path, diagnostic(path, why))
}

fn diagnostic(path: &str, why: &Unread) -> Diagnostic {
    let code = match why {
        Unread::Missing => "missing-file",
        Unread::Link => "symbolic-link",
        Unread::NotRegular => "not-regular",
        Unread::TooLarge(_) => "too-large",
        Unread::TooMany => "too-many-files",
        Unread::NotText => "not-utf-8",
        Unread::System(_) => "unreadable",
    };
    let message = match why {
        Unread::System(error) => format!("cannot be read: {error}"),
        why => format!("cannot be read: {why}"),
    };
    Diagnostic::about_file(Severity::Error, code, path, message)
}

fn same(one: &Path, other: &Path) -> bool {
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

fn shown(path: &Path) -> String {
    escaped(&OsStr::to_string_lossy(path.as_os_str()))
}

/// A file name with nothing in it that a terminal would obey.
fn escaped(name: &str) -> String {
    let each = |c: char| if c.is_control() { c.escape_default().collect() } else { c.to_string() };
    name.chars().map(each).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::time::Instant;

    use bottle_planner::manifest::{Loaded, load};

    use super::*;

    struct World {
        folder: tempfile::TempDir,
    }

    impl World {
        fn new() -> Self {
            let world = Self { folder: tempfile::tempdir().unwrap() };
            for folder in ["home/bottles", "home/agents", "user", "repo/.bottle/agents"] {
                fs::create_dir_all(world.at(folder)).unwrap();
            }
            world
        }

        fn at(&self, path: &str) -> PathBuf {
            self.folder.path().join(path)
        }

        fn write(&self, path: &str, text: impl AsRef<[u8]>) -> &Self {
            fs::write(self.at(path), text).unwrap();
            self
        }

        fn load(&self) -> Loaded {
            let (home, repo, user) = (self.at("home"), self.at("repo"), self.at("user"));
            load(&gather(Trusted::Home(&home), Some(&repo), &user))
        }
    }

    fn said(loaded: &Loaded) -> Vec<String> {
        loaded.diagnostics.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn home_and_repository() {
        let world = World::new();
        world
            .write("home/bottles/dev.md", "---\nrepo_agents: true\n---\n")
            .write("home/bottles/notes.txt", "not read")
            .write("home/agents/coder.yaml", "bottle: dev\n")
            .write("repo/.bottle/agents/helper.md", "---\nbottle: dev\n---\nHelp.");
        fs::create_dir(world.at("repo/.bottle/bottles")).unwrap();
        let loaded = world.load();
        assert_eq!(said(&loaded), [".bottle/bottles:1:1: bottles of a repository are ignored"]);
        assert_eq!(loaded.manifest.agents.len(), 2);
        assert_eq!(loaded.manifest.bottles.len(), 1);
    }

    #[test]
    fn from_the_home_folder_the_home_manifest_alone_is_read() {
        let world = World::new();
        world.write("repo/.bottle/agents/helper.md", "---\nbottle: dev\n---\n");
        let (home, repo) = (world.at("home"), world.at("repo"));
        assert!(gather(Trusted::Home(&home), Some(&repo), &repo).is_empty());
        let own = world.at("repo/.bottle");
        let sources = gather(Trusted::Home(&own), Some(&repo), &world.at("user"));
        assert_eq!(sources.len(), 1);
        assert_eq!(sources[0].kind, SourceKind::HomeAgent);
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let world = World::new();
        world.write("secret", "key").write("home/bottles/raw.md", [0xff, 0xfe]);
        symlink(world.at("secret"), world.at("home/bottles/link.md")).unwrap();
        symlink(world.at("nowhere"), world.at("repo/.bottle/agents/gone.md")).unwrap();
        fs::create_dir(world.at("home/bottles/folder.md")).unwrap();
        let pipe = world.at("home/agents/pipe.md");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
            .unwrap();
        let link = "cannot be read: it is or lies behind a symbolic link, and none is followed";
        assert_eq!(
            said(&world.load()),
            [
                format!(".bottle/agents/gone.md:1:1: {link}"),
                "agents/pipe.md:1:1: cannot be read: it is not a regular file".into(),
                "bottles/folder.md:1:1: cannot be read: it is not a regular file".into(),
                format!("bottles/link.md:1:1: {link}"),
                "bottles/raw.md:1:1: cannot be read: it is not UTF-8 text".into(),
            ]
        );
    }

    #[test]
    fn a_linked_repository_folder_is_refused() {
        let world = World::new();
        fs::remove_dir_all(world.at("repo/.bottle")).unwrap();
        symlink(world.at("home"), world.at("repo/.bottle")).unwrap();
        // The same folder as the home manifest: nothing to read twice.
        assert_eq!(said(&world.load()), [""; 0]);
        fs::remove_file(world.at("repo/.bottle")).unwrap();
        symlink(world.at("user"), world.at("repo/.bottle")).unwrap();
        assert!(said(&world.load())[0].starts_with(".bottle:1:1: cannot be read: it is or lies"));
    }

    #[test]
    fn fifty_megabytes_cost_nothing() {
        let world = World::new();
        let file = fs::File::create(world.at("home/bottles/big.md")).unwrap();
        file.set_len(50 << 20).unwrap();
        let start = Instant::now();
        let loaded = world.load();
        assert_eq!(
            said(&loaded),
            ["bottles/big.md:1:1: cannot be read: it has more than 1024 KiB"]
        );
        assert!(start.elapsed().as_millis() < 1000);
    }

    #[test]
    fn missing_folders_and_files() {
        let none = Path::new("/nonexistent");
        assert!(gather(Trusted::Home(none), None, none).is_empty());
        for trusted in [Trusted::Folder(none), Trusted::File(none)] {
            let loaded = load(&gather(trusted, None, none));
            assert_eq!(said(&loaded), ["/nonexistent:1:1: cannot be read: there is no such file"]);
        }
        assert!(host_config(none).diagnostics.is_empty());
    }

    #[test]
    fn overlays_lie_beside_the_manifest() {
        let world = World::new();
        let entry = "host: a.test, rule: {access: read}";
        fs::create_dir(world.at("home/overlays")).unwrap();
        world
            .write("home/bottles/dev.md", "---\n---\n")
            .write("home/overlays/dev.yaml", format!("allow: [{{{entry}}}]\n"))
            .write("one.yaml", "bottles: {dev: {}}\n");
        let routes = |loaded: &Loaded| {
            assert_eq!(said(loaded), [""; 0]);
            loaded.manifest.bottles.values().map(|b| b.egress.routes.len()).sum::<usize>()
        };
        assert_eq!(routes(&world.load()), 1);
        let file = world.at("one.yaml");
        let one = || load(&gather(Trusted::File(&file), None, Path::new("/nonexistent")));
        assert_eq!(routes(&one()), 0);
        world.write("one.yaml.overlay.yaml", format!("allow: [{{bottle: dev, {entry}}}]\n"));
        assert_eq!(routes(&one()), 1);
        fs::remove_file(world.at("home/overlays/dev.yaml")).unwrap();
        symlink(world.at("one.yaml"), world.at("home/overlays/dev.yaml")).unwrap();
        assert!(said(&world.load())[0].contains("symbolic link"));
        assert!(world.load().manifest.bottles.is_empty());
    }

    #[test]
    fn host_config_is_read() {
        let world = World::new();
        world.write("home/config.yaml", "history_days: 3\n");
        assert_eq!(host_config(&world.at("home/config.yaml")).config.history_days, Some(3));
        assert_eq!(host_config(&world.at("home")).diagnostics[0].code, "not-regular");
    }

    #[test]
    fn named_files() {
        let world = World::new();
        fs::create_dir(world.at("home/ctx")).unwrap();
        world.write("home/ctx/Dockerfile", "FROM x").write("secret", "key");
        symlink(world.at("secret"), world.at("home/ctx/link")).unwrap();
        symlink(world.at("user"), world.at("home/out")).unwrap();
        world.write("user/x", "x");
        let read = |path: &str, most| {
            read_named(&world.at("home"), &RelPath::new(path).unwrap(), most)
                .map_err(|error| error.source.to_string())
        };
        assert_eq!(read("ctx/Dockerfile", 100).unwrap(), b"FROM x");
        assert_eq!(read("ctx/Dockerfile", 3).unwrap_err(), "it has more than 0 KiB");
        assert!(read("ctx/link", 100).unwrap_err().contains("symbolic link"));
        assert!(read("out/x", 100).unwrap_err().contains("symbolic link"));
        assert_eq!(read("ctx", 100).unwrap_err(), "it is not a regular file");
        assert_eq!(read("ctx/none", 100).unwrap_err(), "there is no such file");
    }

    #[test]
    fn every_example_loads() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
        for entry in fs::read_dir(&examples).unwrap() {
            let folder = entry.unwrap().path();
            let file = folder.join("bottle.yaml");
            let trusted = match (file.is_file(), folder.join("agents").is_dir()) {
                (true, _) => Trusted::File(&file),
                (false, true) => Trusted::Folder(&folder),
                (false, false) => continue,
            };
            let loaded = load(&gather(trusted, None, Path::new("/nonexistent")));
            assert_eq!(said(&loaded), [""; 0], "{}", folder.display());
            assert!(!loaded.manifest.agents.is_empty(), "{}", folder.display());
        }
    }
}
