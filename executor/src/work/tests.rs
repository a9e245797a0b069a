//! Hostile archives, hostile folders, and a host that changes between the look and the write.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

use tar::{Builder, EntryType, Header};

use super::arrival::{All, Wants};
use super::*;

/// An archive of raw entries: a kind, a name, a link's target or a content, a mode.
fn archive(entries: &[(EntryType, &[u8], &[u8], u32)]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, content, mode) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        // The crate's own setters refuse what is tried here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        let is_link = matches!(kind, EntryType::Symlink | EntryType::Link);
        if is_link {
            header.as_old_mut().linkname[..content.len()].copy_from_slice(content);
        }
        let content: &[u8] = if is_link { b"" } else { content };
        header.set_size(content.len() as u64);
        header.set_cksum();
        builder.append(&header, content).expect("in memory");
    }
    builder.into_inner().expect("in memory")
}

const FOLDER: (EntryType, &[u8], &[u8], u32) = (EntryType::Directory, b"workspace/", b"", 0o755);

fn file<'a>(name: &'a [u8], content: &'a [u8]) -> (EntryType, &'a [u8], &'a [u8], u32) {
    (EntryType::Regular, name, content, 0o644)
}

struct World {
    folder: tempfile::TempDir,
    spool: Spool,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("host")).expect("made");
        let spool = Spool::new(&folder.path().join("tmp")).expect("a spool");
        Self { folder, spool }
    }

    fn host(&self) -> PathBuf {
        self.folder.path().join("host")
    }

    fn write(&self, path: &str, content: &[u8]) {
        let path = self.host().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    fn base(&self, hide: &Hide) -> Arc<Base> {
        let mut base = Base::new();
        let mut each = |path: PathBuf, kind: &tree::Kind, content: tree::Content| {
            let item = match kind {
                tree::Kind::Folder => Item::Folder,
                tree::Kind::File => {
                    let tree::Content { hash, size, executable } = content;
                    Item::File { hash, executable, size, kept: None }
                }
                tree::Kind::Link { target } => Item::Link { target: target.clone() },
            };
            base.insert(path, item);
        };
        tree::index(&self.host(), hide, &mut each).expect("readable");
        Arc::new(base)
    }

    /// What an archive changes of the host's folder.
    fn changes(&mut self, tar: &[u8], hide: &[&str]) -> Result<(Vec<Change>, Left), ArrivalError> {
        let hide = Hide::new(hide).expect("globs");
        let base = self.base(&hide);
        let mut sieve = Sieve::new(Arc::clone(&base), hide, false);
        let arrival = arrival::read(tar, &mut self.spool, &mut sieve, Hashing::Plain, LIMITS)?;
        let mut left = sieve.left;
        Ok((change::compare(&base, &arrival, &mut left), left))
    }

    fn bring(&self, changes: &[Change]) -> (usize, Result<(), BringError>) {
        let host = Host::open(&self.host()).expect("there");
        let changes: Vec<&Change> = changes.iter().collect();
        let (done, ended) = host.bring(&changes, &BTreeMap::new(), &self.spool);
        (done.len(), ended)
    }

    fn conflicts(&self, changes: &[Change]) -> Vec<String> {
        let host = Host::open(&self.host()).expect("there");
        let changes: Vec<&Change> = changes.iter().collect();
        host.conflicts(&changes, &BTreeMap::new()).iter().map(ToString::to_string).collect()
    }
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let names: [&[u8]; 9] = [
        b"workspace/a/../../x",
        b"workspace/..",
        b"workspace/./x",
        b"workspace//x",
        b"/workspace/x",
        b"../x",
        b"..",
        b"./workspace/x",
        b"workspace/a/..",
    ];
    for name in names {
        let tar = archive(&[FOLDER, file(name, b"x")]);
        let refused = World::new().changes(&tar, &[]).expect_err("refused");
        let shown = String::from_utf8_lossy(name);
        assert!(matches!(refused, ArrivalError::Hostile { .. }), "{shown}: {refused}");
    }
}

#[test]
fn nothing_lies_below_a_link_or_a_file_or_twice() {
    let link = (EntryType::Symlink, b"workspace/l".as_slice(), b"/etc".as_slice(), 0o777);
    let cases = [
        vec![FOLDER, link, file(b"workspace/l/passwd", b"x")],
        vec![FOLDER, file(b"workspace/f", b"x"), file(b"workspace/f/g", b"x")],
        vec![FOLDER, file(b"workspace/nowhere/g", b"x")],
        vec![FOLDER, file(b"workspace/f", b"x"), file(b"workspace/f", b"y")],
        vec![FOLDER, link, file(b"workspace/l", b"y")],
        vec![FOLDER, (EntryType::Link, b"workspace/h", b"/etc/passwd", 0o644)],
        vec![FOLDER, (EntryType::Link, b"workspace/h", b"workspace/../../etc/passwd", 0o644)],
        vec![FOLDER, (EntryType::Link, b"workspace/h", b"workspace/missing", 0o644)],
        vec![FOLDER, (EntryType::Symlink, b"workspace/s", b"", 0o777)],
        vec![FOLDER, (EntryType::new(b'V'), b"workspace/v", b"", 0o777)],
    ];
    for case in cases {
        let refused = World::new().changes(&archive(&case), &[]).expect_err("refused");
        assert!(matches!(refused, ArrivalError::Hostile { .. }), "{refused}");
    }
}

#[test]
fn a_refused_name_does_not_reach_the_terminal_as_it_is() {
    let tar = archive(&[FOLDER, file(b"workspace/x\x1b[2J\n/..", b"x")]);
    let refused = World::new().changes(&tar, &[]).expect_err("refused").to_string();
    assert!(!refused.contains(['\u{1b}', '\n']), "{refused:?}");
}

#[test]
fn limits_hold() {
    let tar = archive(&[FOLDER, file(b"workspace/a", &[b'x'; 5000]), file(b"workspace/b", b"y")]);
    let read = |limits| {
        let mut world = World::new();
        let base = Arc::default();
        let mut sieve = Sieve::new(base, Hide::nothing(), false);
        arrival::read(&tar[..], &mut world.spool, &mut sieve, Hashing::Plain, limits)
    };
    let too_long = read(Limits { archive: 4000, ..LIMITS }).expect_err("too long");
    assert_eq!(too_long.to_string(), "expected at most 4000 bytes in all, found more");
    let too_many = read(Limits { entries: 2, ..LIMITS }).expect_err("too many");
    assert_eq!(too_many.to_string(), "expected at most 2 files, found more");
    let too_long = read(Limits { names: 1, ..LIMITS }).expect_err("too long");
    assert_eq!(too_long.to_string(), "expected at most 1 bytes of names, found more");
    let link = (EntryType::Symlink, b"workspace/l".as_slice(), b"long/target".as_slice(), 0o777);
    let again = (EntryType::Link, b"workspace/m".as_slice(), b"workspace/l".as_slice(), 0o777);
    for (tar, least) in [(vec![FOLDER, link], 12), (vec![FOLDER, link, again], 24)] {
        let tar = archive(&tar);
        let read = |names| {
            let limits = Limits { names, ..LIMITS };
            arrival::read(&tar[..], &mut World::new().spool, &mut All, Hashing::Plain, limits)
        };
        assert!(read(least).is_ok() && read(least - 1).is_err(), "{least}");
    }
    let large = read(Limits { file: 4000, ..LIMITS }).expect("read");
    let kept = |name: &str| match &large.items[Path::new(name)] {
        Item::File { kept, .. } => kept.is_some(),
        _ => false,
    };
    assert!(!kept("a") && kept("b"));
    let cut = arrival::read(
        &tar[..2000],
        &mut World::new().spool,
        &mut Sieve::new(Arc::default(), Hide::nothing(), false),
        Hashing::Plain,
        LIMITS,
    );
    assert!(matches!(cut, Err(ArrivalError::Broken(_))), "{cut:?}");
}

#[test]
fn special_files_and_bits_stay_behind() {
    let mut world = World::new();
    let tar = archive(&[
        FOLDER,
        (EntryType::Fifo, b"workspace/pipe", b"", 0o644),
        (EntryType::Char, b"workspace/null", b"", 0o666),
        (EntryType::Block, b"workspace/disk", b"", 0o666),
        (EntryType::Regular, b"workspace/su", b"#!/bin/sh\n", 0o6755),
    ]);
    let (changes, left) = world.changes(&tar, &[]).expect("read");
    assert_eq!(left.special.len(), 3);
    assert_eq!(left.special_bits, [PathBuf::from("su")]);
    assert_eq!(changes.len(), 1);
    let (done, ended) = world.bring(&changes);
    ended.expect("written");
    assert_eq!(done, 1);
    assert_eq!(fs::metadata(world.host().join("su")).expect("there").mode() & 0o7777, 0o755);
}

#[test]
fn git_hidden_and_ignored_files_never_come() {
    let mut world = World::new();
    world.write(".env", b"mine");
    world.write("kept.log", b"old");
    let tar = archive(&[
        FOLDER,
        (EntryType::Directory, b"workspace/.git/", b"", 0o755),
        file(b"workspace/.git/config", b"[core]fsmonitor=evil"),
        file(b"workspace/.env", b"theirs"),
        file(b"workspace/.gitignore", b"*.log\ntarget/\n"),
        (EntryType::Directory, b"workspace/.GIT/", b"", 0o755),
        file(b"workspace/.GIT/config", b"x"),
        file(b"workspace/kept.log", b"new"),
        file(b"workspace/more.log", b"new"),
        (EntryType::Directory, b"workspace/sub/", b"", 0o755),
        file(b"workspace/sub/.git", b"gitdir: /elsewhere\n"),
        (EntryType::Directory, b"workspace/target/", b"", 0o755),
        file(b"workspace/target/o", b"x"),
    ]);
    let (changes, left) = world.changes(&tar, &[".env*"]).expect("read");
    let names: Vec<String> = changes.iter().map(Change::name).collect();
    assert_eq!(names, [".gitignore", "kept.log"]);
    assert_eq!(left.hidden, [PathBuf::from(".env")]);
    assert_eq!(left.ignored, [PathBuf::from("more.log"), PathBuf::from("target")]);
    assert!(left.git);
}

#[test]
fn every_kind_of_change_is_written() {
    let mut world = World::new();
    for name in ["changed", "gone/deep/a", "mode", "becomes-folder", "folder/becomes-file", "same"]
    {
        world.write(name, b"old\n");
    }
    let mode = fs::Permissions::from_mode(0o640);
    fs::set_permissions(world.host().join("changed"), mode).expect("set");
    let tar = archive(&[
        FOLDER,
        (EntryType::Directory, b"workspace/becomes-folder/", b"", 0o755),
        file(b"workspace/becomes-folder/x", b"new\n"),
        file(b"workspace/changed", b"new\n"),
        file(b"workspace/folder", b"new\n"),
        (EntryType::Symlink, b"workspace/link", b"changed", 0o777),
        (EntryType::Regular, b"workspace/mode", b"old\n", 0o755),
        file(b"workspace/same", b"old\n"),
        (EntryType::Link, b"workspace/second", b"workspace/changed", 0o644),
    ]);
    let (changes, _) = world.changes(&tar, &[]).expect("read");
    let told: Vec<(String, &str)> = changes.iter().map(|c| (c.name(), c.how().as_str())).collect();
    let told: Vec<(&str, &str)> = told.iter().map(|(n, h)| (n.as_str(), *h)).collect();
    assert_eq!(
        told,
        [
            ("becomes-folder", "deleted"),
            ("becomes-folder/x", "added"),
            ("changed", "changed"),
            ("folder", "added"),
            ("folder/becomes-file", "deleted"),
            ("gone/deep/a", "deleted"),
            ("link", "added"),
            ("mode", "mode"),
            ("second", "added"),
        ]
    );
    assert_eq!(world.conflicts(&changes), Vec::<String>::new());
    // The mode alone has no content of its own in the archive's spool: it is the host's.
    let (done, ended) = world.bring(&changes);
    ended.expect("written");
    assert_eq!(done, changes.len());
    let read = |name: &str| fs::read_to_string(world.host().join(name)).expect("there");
    assert_eq!((read("becomes-folder/x"), read("folder")), ("new\n".into(), "new\n".into()));
    assert_eq!((read("changed"), read("second")), ("new\n".into(), "new\n".into()));
    assert_eq!(fs::read_link(world.host().join("link")).expect("a link"), Path::new("changed"));
    let mode = |name: &str| fs::metadata(world.host().join(name)).expect("there").mode() & 0o7777;
    assert_eq!((mode("changed"), mode("mode")), (0o640, 0o755));
    assert!(!world.host().join("gone").exists(), "an empty folder goes with its last file");
    let (again, _) = world.changes(&tar, &[]).expect("read");
    assert_eq!(again.len(), 0);
}

#[test]
fn what_somebody_changed_since_is_a_conflict() {
    let mut world = World::new();
    for name in ["changed", "deleted", "same"] {
        world.write(name, b"old\n");
    }
    let tar = archive(&[
        FOLDER,
        file(b"workspace/added", b"new\n"),
        file(b"workspace/changed", b"new\n"),
        file(b"workspace/same", b"new\n"),
    ]);
    let (changes, _) = world.changes(&tar, &[]).expect("read");
    for name in ["added", "changed", "deleted"] {
        world.write(name, b"mine\n");
    }
    // Whoever made the same change is not in its way.
    world.write("same", b"new\n");
    let conflicts = world.conflicts(&changes);
    assert_eq!(conflicts.len(), 3, "{conflicts:?}");
    for change in &changes {
        let (done, ended) = world.bring(std::slice::from_ref(change));
        assert_eq!(ended.is_err(), change.path != Path::new("same"), "{}", change.name());
        assert_eq!(done, usize::from(ended.is_ok()));
    }
    for name in ["added", "changed", "deleted"] {
        let now = fs::read(world.host().join(name)).expect("there");
        assert_eq!(now, b"mine\n", "{name}");
    }
}

#[test]
fn a_folder_that_became_a_link_is_not_followed() {
    let mut world = World::new();
    world.write("sub/a", b"old\n");
    world.write("sub/b", b"old\n");
    let tar = archive(&[
        FOLDER,
        (EntryType::Directory, b"workspace/sub/", b"", 0o755),
        file(b"workspace/sub/a", b"new\n"),
        file(b"workspace/sub/c", b"new\n"),
    ]);
    let (changes, _) = world.changes(&tar, &[]).expect("read");
    assert_eq!(changes.len(), 3);
    let outside = tempfile::tempdir().expect("a folder");
    for name in ["a", "b"] {
        fs::write(outside.path().join(name), b"old\n").expect("written");
    }
    fs::remove_dir_all(world.host().join("sub")).expect("removed");
    symlink(outside.path(), world.host().join("sub")).expect("linked");
    assert_eq!(world.conflicts(&changes).len(), 3);
    for change in &changes {
        let (_, ended) = world.bring(std::slice::from_ref(change));
        assert!(matches!(ended, Err(BringError::Conflict { .. })), "{}", change.name());
    }
    assert_eq!(fs::read(outside.path().join("a")).expect("there"), b"old\n");
    assert!(outside.path().join("b").exists() && !outside.path().join("c").exists());
    // A file that became a link to what it held is not written through either.
    fs::remove_file(world.host().join("sub")).expect("removed");
    fs::create_dir(world.host().join("sub")).expect("made");
    symlink(outside.path().join("a"), world.host().join("sub/a")).expect("linked");
    let change = changes.iter().find(|c| c.path == Path::new("sub/a")).expect("there");
    let (_, ended) = world.bring(std::slice::from_ref(change));
    assert!(matches!(ended, Err(BringError::Conflict { .. })));
    assert_eq!(fs::read(outside.path().join("a")).expect("there"), b"old\n");
}

#[test]
fn a_change_of_git_is_not_written_even_if_asked_for() {
    let world = World::new();
    for path in [".git/hooks/x", "sub/.GIT", "../x", "/etc/x"] {
        let change = Change {
            path: path.into(),
            before: None,
            after: Some(Item::Link { target: b"x".to_vec() }),
        };
        let (done, ended) = world.bring(&[change]);
        assert!(matches!(ended, Err(BringError::Forbidden { .. })), "{path}");
        assert_eq!(done, 0);
    }
}

#[test]
fn a_second_name_is_wanted_where_the_first_is_not() {
    struct Second;
    impl Wants for Second {
        fn skips(&mut self, _: &Path, _: bool) -> bool {
            false
        }
        fn keeps(&mut self, path: &Path, _: &Item) -> bool {
            path == Path::new("b")
        }
        fn seen(&mut self, _: &Path, _: &[u8]) {}
    }
    let tar = archive(&[
        FOLDER,
        file(b"workspace/a", b"x"),
        (EntryType::Link, b"workspace/b", b"workspace/a", 0o644),
    ]);
    let mut world = World::new();
    let read = arrival::read(&tar[..], &mut world.spool, &mut Second, Hashing::Plain, LIMITS);
    let items = read.expect("read").items;
    assert!(matches!(items[Path::new("b")], Item::File { kept: None, size: 1, .. }));
}

#[test]
fn what_changes_as_it_is_packed_is_read_again_and_nothing_else_is() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let tries = |broken: u32, then: fn() -> Result<(), WorkError>| {
        let mut tries = 0;
        let ended = runtime.block_on(super::whole(|| {
            tries += 1;
            let ended = match tries > broken {
                true => then(),
                false => Err(ArrivalError::Broken(io::ErrorKind::UnexpectedEof.into()).into()),
            };
            std::future::ready(ended)
        }));
        (tries, ended)
    };
    assert!(matches!(tries(0, || Ok(())), (1, Ok(()))));
    assert!(matches!(tries(4, || Ok(())), (5, Ok(()))));
    let (times, ended) = tries(u32::MAX, || Ok(()));
    assert!(matches!((times, ended), (5, Err(WorkError::Arrival(ArrivalError::Broken(_))))));
    let hostile = || Err(ArrivalError::Hostile { found: String::new() }.into());
    assert!(matches!(tries(0, hostile), (1, Err(WorkError::Arrival(_)))));
}
