//! Agents' repositories, made with git as agents do, and what is taken of them.

use std::process::Command;

use super::super::arrival::{self, All, Hashing};
use super::super::git::{BOUNDS, Bounds};
use super::super::{Left, Pulled, Saved, Work, save};
use super::*;

/// The host's repository, and an agent's clone of it.
struct World {
    folder: tempfile::TempDir,
    start: String,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut world = Self { folder, start: String::new() };
        fs::create_dir(world.at("host")).expect("made");
        world
            .run("host", "git init -q -b main && echo one > file && git add . && git commit -qm 1");
        world.start = world.run("host", "git rev-parse HEAD");
        world
    }

    fn at(&self, path: &str) -> PathBuf {
        self.folder.path().join(path)
    }

    /// Runs a script in one of the repositories; answers what it prints.
    fn run(&self, at: &str, script: &str) -> String {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(self.at(at)).env("GIT_CONFIG_GLOBAL", "/dev/null");
        for (who, what) in [("NAME", "n"), ("EMAIL", "e@example.com")] {
            sh.env(format!("GIT_AUTHOR_{who}"), what).env(format!("GIT_COMMITTER_{who}"), what);
        }
        let output = sh.output().expect("runs");
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    }

    /// Branches or tags, each at a commit of its own that begins at the first one.
    fn fill(&self, at: &str, below: &str, many: usize) {
        let commit = |n: usize| {
            format!(
                "commit {below}/{n:04}\ncommitter n <e@example.com> {n} +0000\ndata 1\nx\n\
                 from {}\n\n",
                self.start
            )
        };
        let stream: String = (0..many).map(commit).collect();
        fs::write(self.at("stream"), stream).expect("written");
        self.run(at, "git fast-import --quiet < ../stream");
    }

    fn clones(&self) {
        self.run("host", "git clone -q . ../agent");
    }

    fn host(&self) -> Git {
        Git::new(&self.at("host"), std::env::var_os("PATH").as_ref())
    }

    fn take(&self) -> Result<(Commits, Spool), CommitsError> {
        let mut tar = tar::Builder::new(Vec::new());
        tar.follow_symlinks(false);
        tar.append_dir_all("workspace", self.at("agent")).expect("packed");
        let tar = tar.into_inner().expect("in memory");
        let scratch = self.at("scratch");
        let mut spool = Spool::new(&scratch).expect("a spool");
        let read = arrival::read(&tar[..], &mut spool, &mut All, Hashing::Blob, LIMITS);
        let (arrival, path) = (read.expect("read"), std::env::var_os("PATH"));
        let host = self.at("host");
        let taken = Commits::take(&arrival, &spool, &host, &self.start, &scratch, path.as_ref())?;
        Ok((taken, spool))
    }
}

#[test]
fn what_a_host_would_execute_is_known_of_commits_as_it_is_of_files() {
    let world = World::new();
    world.clones();
    let script =
        "mkdir media sub && echo '{}' > media/tasks.json && echo x > plain && echo x > tool
        chmod +x tool && ln -s media .vscode && ln -s x .cargo && ln -s /etc out && ln -s plain in
        ln -s ../../x sub/up && git rm -q file && git add . && git commit -qm evil";
    world.run("agent", script);
    let (commits, _spool) = world.take().expect("taken");
    let changed = commits.changed().expect("listed");
    let why: BTreeMap<&str, Option<String>> =
        changed.iter().map(|c| (c.path.to_str().expect("text"), c.is_executed())).collect();
    let expected = [
        (".cargo", Some("cargo runs programs that it names, to x")),
        (".vscode", Some("VS Code runs tasks that it names, to media")),
        ("file", None),
        ("in", None),
        ("media/tasks.json", None),
        ("out", Some("a link out of the folder, to /etc")),
        ("plain", None),
        ("sub/up", Some("a link out of the folder, to ../../x")),
        ("tool", Some("it is executable")),
    ];
    assert_eq!(why, expected.map(|(path, why)| (path, why.map(str::to_owned))).into());
}

#[test]
fn trees_that_name_more_than_they_hold_are_refused() {
    let world = World::new();
    let git = world.host();
    let write = |words: &[&str], input: &[u8]| {
        let out = git.run_with(words, input).expect("written");
        String::from_utf8(out).expect("a name").trim().to_owned()
    };
    let tree_of = |kind: &str, inner: &str| {
        let lines: String = (0..10).map(|n| format!("{kind} {inner}\t{n}\n")).collect();
        write(&["mktree"], lines.as_bytes())
    };
    let blob = |content: &str| write(&["hash-object", "-w", "--stdin"], content.as_bytes());
    let bomb = |kind: &str, inner: &str| {
        let tree = tree_of(kind, inner);
        tree_of("40000 tree", &tree_of("40000 tree", &tree))
    };
    let refused = |tree: &str, limits| match files_within(&git, tree, limits) {
        Err(CommitsError::TooMuch { limit, of }) => format!("{limit} {of}"),
        other => panic!("{other:?}"),
    };
    // Ten in ten in ten.
    let many = bomb("100644 blob", &blob("x"));
    assert_eq!(files_within(&git, &many, LIMITS).expect("read").len(), 1110);
    assert_eq!(refused(&many, Limits { entries: 1000, ..LIMITS }), "1000 files in a commit");
    let short = Limits { names: 4000, ..LIMITS };
    assert_eq!(refused(&many, short), "4000 bytes of names in a commit");
    // One target, held a thousand times.
    let links = bomb("120000 blob", &blob(&"t".repeat(4000)));
    assert_eq!(files_within(&git, &links, LIMITS).expect("read").len(), 1110);
    let short = Limits { names: 1 << 20, ..LIMITS };
    assert_eq!(refused(&links, short), "1048576 bytes of names in a commit");
    // A target that is no path.
    let long = tree_of("120000 blob", &blob(&"t".repeat(5000)));
    assert_eq!(refused(&long, LIMITS), "4096 bytes in a link");
    let empty = write(&["mktree"], b"");
    assert!(matches!(changed(&git, &empty, &long), Err(CommitsError::TooMuch { .. })));
    // One path, and all the folders on its way.
    let mut deep = blob("x");
    let mut kind = "100644 blob";
    for _ in 0..500 {
        let line = format!("{kind} {deep}\t{}\n", "d".repeat(100));
        (deep, kind) = (write(&["mktree"], line.as_bytes()), "40000 tree");
    }
    assert_eq!(refused(&deep, short), "1048576 bytes of names in a commit");
    let bounded = git.clone().within(Bounds { output: 1 << 10, ..BOUNDS });
    assert!(matches!(files(&bounded, &many), Err(CommitsError::Git(_))));
}

#[test]
fn long_texts_are_shown_by_their_names() {
    let world = World::new();
    world.clones();
    let script = "yes | head -c 4194304 > long; yes | head -c 1024 > short; git add .
        git commit -qm long";
    world.run("agent", script);
    let (commits, _spool) = world.take().expect("taken");
    let patch = String::from_utf8(commits.patch().expect("a patch")).expect("text");
    assert!(patch.contains("Binary files /dev/null and b/long differ\n"), "{}", patch.len());
    assert!(patch.contains("+++ b/short\n@@ -0,0 +1,512 @@\n") && patch.len() < 4096);
}

#[test]
fn no_number_of_the_hosts_tags_hides_a_branch() {
    let world = World::new();
    world.fill("host", "refs/tags/0.1", 250);
    world.clones();
    let script = "echo 1 > file && git stash -q && echo 2 > file && git stash -q
        git checkout -q -b x && git commit -q --allow-empty -m branch && git branch y x
        git checkout -q --detach main && git commit -q --allow-empty -m tagged && git tag x
        git tag -a -m annotated z x && git checkout -q main && git pack-refs --all
        git commit -q --allow-empty -m head";
    world.run("agent", script);
    let (commits, _spool) = world.take().expect("taken");
    let others: Vec<(&str, u64)> = commits.others.iter().map(|(n, c)| (n.as_str(), *c)).collect();
    let expected = [
        ("x", 1),
        ("refs/stash", 2),
        ("refs/stash@{1}", 2),
        ("refs/tags/x", 1),
        ("refs/tags/z", 1),
    ];
    assert_eq!(others, expected);
    assert!(commits.beyond.is_empty() && commits.count == 1);
    // All of it is kept.
    let bundle = world.at("bundle");
    commits.bundle(&bundle).expect("bundled");
    let heads = world.run("host", "git bundle list-heads ../bundle");
    for name in ["main", "refs/heads/x", "stash", "stash@{1}", "refs/tags/x"] {
        let oid = world.run("agent", &format!("git rev-parse {name}^{{commit}}"));
        assert!(heads.contains(&oid), "{name}: {heads}");
    }
    // What the host took since is not the agent's alone any more.
    world.run("host", "git fetch -q ../agent refs/heads/x:taken");
    let (commits, _spool) = world.take().expect("taken");
    assert!(commits.others.iter().all(|(name, _)| name != "x"), "{:?}", commits.others);
}

#[test]
fn branches_beyond_the_limit_are_unfinished_and_named() {
    let world = World::new();
    world.clones();
    world.fill("agent", "refs/heads/b", MOST_TIPS + 5);
    let (commits, spool) = world.take().expect("taken");
    assert_eq!((commits.others.len(), commits.beyond.len()), (MOST_TIPS, 5));
    assert_eq!(commits.beyond[0].0, "refs/heads/b/0200");
    let mut known = commits.tips.clone();
    let (changes, left, host) = (Vec::new(), Left::default(), world.at("host"));
    let work = Work { changes, left, commits: Some(commits), spool, host };
    let is_new = |known: &_| work.has_new_commits(&Pulled::default(), known).expect("counted");
    assert!(is_new(&BTreeSet::new()) && !is_new(&known));
    known.remove(&world.run("agent", "git rev-parse b/0202"));
    assert!(is_new(&known));
    let state = Root::open_or_make(&world.at("state")).expect("made");
    state.ensure_folder(&own("saved").expect("a name"), 0o700).expect("made");
    let mut saved = Saved::default();
    save::keep_work(&work, &state, &mut saved).expect("kept");
    let named: Vec<String> =
        (MOST_TIPS..MOST_TIPS + 5).map(|n| format!("too-many refs/heads/b/{n:04}")).collect();
    assert_eq!((saved.left_out, saved.commits), (named, MOST_TIPS as u64));
}

#[test]
fn refs_that_cannot_be_read_are_not_as_if_they_were_not() {
    let world = World::new();
    world.clones();
    world.run(
        "agent",
        "git pack-refs --all && mv .git/packed-refs x && ln -s ../x .git/packed-refs",
    );
    let refused = world.take().expect_err("refused").to_string();
    assert!(refused.ends_with("found .git/packed-refs"), "{refused}");
    world.run("agent", "rm .git/packed-refs && head -c 16777216 /dev/zero > .git/packed-refs");
    let refused = world.take().expect_err("refused").to_string();
    assert!(refused.ends_with("found .git/packed-refs"), "{refused}");
}
