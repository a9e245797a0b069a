//! Folders of the host on their way into an image or a container: each is packed with its digest,
//! and refused where that is not the one the plan was reviewed with.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use bottle_planner::plan::{AssembleImage, BuildImage, ContextRef, User};
use bottle_planner::policy::WorkspaceMode;
use bottle_planner::trusted_build;
use bottle_planner::words::{AbsPath, Digest, RelPath};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::engine::Outgoing;
use crate::files::{FileError, Root};
use crate::ledger::own;
use crate::pack::{self, Placement};
use crate::repository::{self, Repository};
use crate::sources;
use crate::state::Roots;
use crate::tree::{self, Hide, HideError, TreeError};
use crate::work::git::{alone, last_words};

/// Names what a build leaves out of its context.
const IGNORED: &str = ".dockerignore";
/// The most bytes of it.
const MOST_IGNORED: u64 = 1 << 20;

/// Why a folder of the host was not packed.
#[derive(Debug, thiserror::Error)]
pub enum WorkspaceError {
    /// It changed since the plan was made.
    #[error("expected {} with content {expected}, found {found}", path.display())]
    Changed {
        /// Which folder.
        path: PathBuf,
        /// The digest in the plan.
        expected: Digest,
        /// The digest of what is there.
        found: Digest,
    },
    /// It could not be read or packed.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A glob of the plan makes no sense.
    #[error(transparent)]
    Hide(#[from] HideError),
    /// The scratch folder for the clone could not be made or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of a repository that is made could not be written.
    #[error("cannot write {}", path.display())]
    Scratch {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// git failed.
    #[error("git {command} failed: {why}")]
    Git {
        /// Its first argument.
        command: String,
        /// Its last words.
        why: String,
    },
    /// A commit would lose it.
    #[error(
        "`{}` lies in `{volume}`, which the base declares a VOLUME: a commit would lose it",
        path.display()
    )]
    Lost {
        /// What lies there.
        path: PathBuf,
        /// The base's volume.
        volume: String,
    },
    /// The plan asks for something that this mode cannot have.
    #[error("internal: {0}")]
    Internal(&'static str),
}

/// A build's context: the folder that the plan names, and the plan's own Dockerfile over it.
pub(crate) fn build_context(roots: &Roots, image: &BuildImage) -> Result<Bytes, WorkspaceError> {
    let mut tar = tar::Builder::new(Vec::new());
    let owner = User { uid: 0, gid: 0 };
    if let Some(context) = &image.context {
        let folder = roots.manifest.join(context.path.as_str());
        let place = Placement { below: Path::new("."), owner, mode: 0o755 };
        let packed = pack::append(&mut tar, &folder, &Hide::nothing(), place)?;
        as_planned(&folder, &context.digest, packed.digest)?;
    }
    if let Some(ca) = &image.ca {
        let file = Path::new(trusted_build::CONTEXT_FILE);
        pack::append_file(&mut tar, file, 0o644, owner, ca.as_bytes())?;
        if let Some(ignored) = image.context.as_ref().and_then(|c| ignored(roots, c)) {
            // The engine leaves out what this file says; its last word counts.
            let text = format!("{ignored}\n!{}\n", trusted_build::CONTEXT_FILE);
            let file = Path::new(IGNORED);
            pack::append_file(&mut tar, file, 0o644, owner, text.as_bytes())?;
        }
    }
    let text = image.dockerfile.as_bytes();
    pack::append_file(&mut tar, Path::new("Dockerfile"), 0o644, owner, text)?;
    finish(tar)
}

/// What a context says the engine is to leave out of it.
fn ignored(roots: &Roots, context: &ContextRef) -> Option<String> {
    let path = RelPath::new(format!("{}/{IGNORED}", context.path)).ok()?;
    let bytes = sources::read_named(&roots.manifest, &path, MOST_IGNORED).ok()?;
    String::from_utf8(bytes).ok()
}

/// Pieces on their way that the engine has not taken yet.
const PIECES: usize = 4;
/// How large a piece is.
const PIECE: usize = 256 << 10;

/// A workspace that is packed while the engine takes it.
pub(crate) struct Layer {
    packer: tokio::task::JoinHandle<Result<(), WorkspaceError>>,
}

impl Layer {
    /// Begins to pack on a thread of its own. `volumes` are those that the base declares.
    pub(crate) fn begin(
        image: AssembleImage,
        host: PathBuf,
        scratch: PathBuf,
        path: Option<OsString>,
        volumes: Vec<String>,
    ) -> (Self, Outgoing) {
        let (to, pieces) = mpsc::channel(PIECES);
        let packer = tokio::task::spawn_blocking(move || {
            let mut pieces = Pieces { to, piece: Vec::with_capacity(PIECE) };
            let packed = layer(&image, &host, &scratch, path, &volumes, &mut pieces);
            let ended = packed.and_then(|()| Ok(pieces.flush().map_err(TreeError::Write)?));
            if let Err(error) = &ended {
                // So that the engine makes nothing of half an archive.
                let _ = pieces.to.blocking_send(Err(io::Error::other(error.to_string())));
            }
            ended
        });
        (Self { packer }, pieces)
    }

    /// How the packing went: where it failed, that says more than what the engine made of it.
    pub(crate) async fn ended(self) -> Result<(), WorkspaceError> {
        match self.packer.await {
            Ok(ended) => ended,
            Err(_) => Err(WorkspaceError::Internal("packing did not end")),
        }
    }
}

/// Writes in pieces that somebody else takes.
struct Pieces {
    to: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() + bytes.len() > PIECE {
            self.flush()?;
        }
        self.piece.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.to.blocking_send(Ok(piece.into())).map_err(gone)
    }
}

/// Writes the workspace as a layer.
fn layer(
    image: &AssembleImage,
    host: &Path,
    scratch: &Path,
    path: Option<OsString>,
    volumes: &[String],
    to: &mut dyn Write,
) -> Result<(), WorkspaceError> {
    let hide = Hide::new(&image.hide)?;
    let clone = match image.mode {
        WorkspaceMode::Copy => None,
        WorkspaceMode::Clone => Some(Clone::new(image, host, scratch, path)?),
        WorkspaceMode::Mount | WorkspaceMode::None => {
            return Err(WorkspaceError::Internal("only copies and clones are put into images"));
        }
    };
    let folder = clone.as_ref().map_or(host, |clone| clone.folder.as_path());
    refuse_lost(folder, &hide, Path::new(image.inside.as_str()), volumes)?;
    let mut tar = tar::Builder::new(to);
    let place = Placement { below: inside(&image.inside), owner: image.owner, mode: 0o755 };
    let packed = pack::append(&mut tar, folder, &hide, place)?;
    if let (WorkspaceMode::Copy, Some(expected)) = (image.mode, &image.digest) {
        as_planned(host, expected, packed.digest)?;
    }
    tar.into_inner().map_err(TreeError::Write)?;
    Ok(())
}

/// Refuses a folder of which something would come to lie in a volume of the base.
fn refuse_lost(
    folder: &Path,
    hide: &Hide,
    inside: &Path,
    volumes: &[String],
) -> Result<(), WorkspaceError> {
    for volume in volumes {
        let below = match (inside.strip_prefix(volume), Path::new(volume).strip_prefix(inside)) {
            (Ok(_), _) => Path::new(""),
            (_, Ok(below)) => below,
            _ => continue,
        };
        if let Some(name) = tree::first(folder, below, hide)? {
            let path = inside.join(below).join(name);
            return Err(WorkspaceError::Lost { path, volume: volume.clone() });
        }
    }
    Ok(())
}

/// A skill's folder, at its place in a container.
pub(crate) fn pack_skill(
    tar: &mut tar::Builder<Vec<u8>>,
    folder: &Path,
    at: &AbsPath,
    mode: u32,
    owner: User,
    expected: &Digest,
) -> Result<(), WorkspaceError> {
    let place = Placement { below: inside(at), owner, mode };
    let packed = pack::append(tar, folder, &Hide::nothing(), place)?;
    as_planned(folder, expected, packed.digest)
}

/// A repository of the agent's own, at its place in a container.
pub(crate) fn pack_repository(
    tar: &mut tar::Builder<Vec<u8>>,
    wanted: &repository::Wanted<'_>,
    scratch: &Path,
    path: Option<&OsString>,
    (at, mode, owner): (&AbsPath, u32, User),
) -> Result<(), WorkspaceError> {
    let made = Repository::make(wanted, scratch, path)?;
    let place = Placement { below: inside(at), owner, mode };
    pack::append(tar, &made.git_folder(), &Hide::nothing(), place)?;
    Ok(())
}

/// A path inside a container as archives have it.
pub(crate) fn inside(at: &AbsPath) -> &Path {
    Path::new(at.as_str().trim_start_matches('/'))
}

fn as_planned(path: &Path, expected: &Digest, found: Digest) -> Result<(), WorkspaceError> {
    if *expected == found {
        return Ok(());
    }
    Err(WorkspaceError::Changed { path: path.to_owned(), expected: expected.clone(), found })
}

fn finish(tar: tar::Builder<Vec<u8>>) -> Result<Bytes, WorkspaceError> {
    Ok(tar.into_inner().map_err(TreeError::Write)?.into())
}

/// A clone of one commit in a scratch folder that goes when this does.
struct Clone {
    scratch: Root,
    folder: PathBuf,
}

impl Clone {
    fn new(
        image: &AssembleImage,
        host: &Path,
        scratch: &Path,
        path: Option<OsString>,
    ) -> Result<Self, WorkspaceError> {
        let (Some(commit), Some(branch)) = (&image.commit, &image.branch) else {
            return Err(WorkspaceError::Internal("a clone needs a commit and a branch"));
        };
        let root = Root::open_or_make(scratch)?;
        root.remove_tree(&own("clone")?)?;
        let clone = Self { scratch: root, folder: scratch.join("clone") };
        let git = |arguments: &[&str], at: &Path| git(arguments, at, path.as_ref());
        let (from, to) = (text(host)?, text(&clone.folder)?);
        let options = ["--quiet", "--no-hardlinks", "--no-local", "--no-checkout", "--template="];
        let clone_it: Vec<&str> =
            ["clone"].into_iter().chain(options).chain(["--", from, to]).collect();
        git(&clone_it, scratch)?;
        git(&["checkout", "--quiet", "-b", branch, commit, "--"], &clone.folder)?;
        Ok(clone)
    }
}

impl Drop for Clone {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next clone.
        if let Ok(name) = own("clone") {
            let _ = self.scratch.remove_tree(&name);
        }
    }
}

/// Runs git with nothing of the user's or the folder's configuration that could run a program.
pub(crate) fn git(
    arguments: &[&str],
    at: &Path,
    path: Option<&OsString>,
) -> Result<(), WorkspaceError> {
    git_says(arguments, at, path).map(drop)
}

/// The same, and what it printed.
pub(crate) fn git_says(
    arguments: &[&str],
    at: &Path,
    path: Option<&OsString>,
) -> Result<String, WorkspaceError> {
    let command = arguments.first().copied().unwrap_or_default().to_owned();
    let failed = |why: String| WorkspaceError::Git { command: command.clone(), why };
    let mut git = alone(path);
    git.args(arguments).current_dir(at).stdin(Stdio::null());
    let output = git.output().map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(failed(last_words(&output.stderr)))
}

pub(crate) fn text(path: &Path) -> Result<&str, WorkspaceError> {
    path.to_str().ok_or(WorkspaceError::Internal("a path that is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::unix::fs::PermissionsExt as _;
    use std::process::Command;

    use super::*;
    use crate::tree;

    fn image(mode: WorkspaceMode) -> AssembleImage {
        AssembleImage {
            tag: "t".into(),
            base: "b".into(),
            mode,
            digest: None,
            commit: None,
            branch: None,
            hide: BTreeSet::from([".env*".to_owned()]),
            inside: AbsPath::new("/workspace").expect("valid"),
            owner: User { uid: 1000, gid: 1000 },
            labels: BTreeMap::new(),
        }
    }

    fn packed(
        image: &AssembleImage,
        host: &Path,
        scratch: &Path,
        volumes: &[&str],
    ) -> Result<Vec<u8>, WorkspaceError> {
        let volumes: Vec<String> = volumes.iter().map(|v| (*v).to_owned()).collect();
        let mut tar = Vec::new();
        layer(image, host, scratch, std::env::var_os("PATH"), &volumes, &mut tar)?;
        Ok(tar)
    }

    #[test]
    fn what_a_volume_of_the_base_would_swallow_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("data")).expect("made");
        std::fs::write(folder.path().join("data/.env"), "x").expect("written");
        let image = image(WorkspaceMode::Copy);
        let lost = |volume: &str| {
            let packed = packed(&image, folder.path(), Path::new("/unused"), &[volume]);
            packed.err().map(|error| error.to_string())
        };
        assert_eq!(lost("/workspace/data"), None, "what is hidden is not lost");
        assert_eq!(lost("/workspace/data/.env"), None);
        assert_eq!(lost("/elsewhere"), None);
        std::fs::write(folder.path().join("data/a"), "x").expect("written");
        let words = "which the base declares a VOLUME: a commit would lose it";
        let at = |path: &str, volume: &str| Some(format!("`{path}` lies in `{volume}`, {words}"));
        assert_eq!(lost("/workspace/data"), at("/workspace/data/a", "/workspace/data"));
        assert_eq!(lost("/workspace"), at("/workspace/data", "/workspace"));
        assert_eq!(lost("/"), at("/workspace/data", "/"));
    }

    fn names(tar: &[u8]) -> Vec<String> {
        let mut archive = tar::Archive::new(tar);
        let entries = archive.entries().expect("an archive");
        entries.map(|e| e.expect("whole").path().expect("a path").display().to_string()).collect()
    }

    fn sh(script: &str, at: &Path) -> String {
        let output = Command::new("sh").args(["-ec", script]).current_dir(at).output();
        let output = output.expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    #[test]
    fn a_copy_is_what_was_planned_or_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("a"), "x").expect("written");
        std::fs::write(folder.path().join(".env"), "x").expect("written");
        let mut image = image(WorkspaceMode::Copy);
        let hide = Hide::new(&image.hide).expect("globs");
        image.digest = Some(tree::digest(folder.path(), &hide).expect("readable").digest);
        let unused = Path::new("/unused");
        let tar = packed(&image, folder.path(), unused, &[]).expect("packed");
        assert_eq!(names(&tar), ["workspace/", "workspace/a"]);
        std::fs::write(folder.path().join("a"), "y").expect("written");
        let error = packed(&image, folder.path(), unused, &[]).expect_err("changed");
        assert!(matches!(error, WorkspaceError::Changed { .. }), "{error}");
    }

    #[test]
    fn a_clone_runs_nothing_of_the_repository() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (repository, scratch) = (folder.path().join("repo"), folder.path().join("scratch"));
        std::fs::create_dir(&repository).expect("made");
        let script = "git init -q -b main . && git config user.name n && git config user.email e@x
            echo one > a && git add a && git commit -qm one && git rev-parse HEAD";
        let commit = sh(script, &repository);
        let trap = format!("#!/bin/sh\ntouch {}/ran\n", folder.path().display());
        for hook in ["post-checkout", "post-index-change", "fsmonitor"] {
            let path = repository.join(".git/hooks").join(hook);
            std::fs::create_dir_all(repository.join(".git/hooks")).expect("made");
            std::fs::write(&path, &trap).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("set");
        }
        sh("git config core.fsmonitor .git/hooks/fsmonitor; echo two > a", &repository);
        sh("rm -f ../ran", &repository);
        let mut image = image(WorkspaceMode::Clone);
        image.commit = Some(commit.clone());
        image.branch = Some("agent/dev".into());
        let tar = packed(&image, &repository, &scratch, &[]).expect("cloned");
        assert!(!folder.path().join("ran").exists(), "a hook of the repository ran");
        assert!(!scratch.join("clone").exists());
        tar::Archive::new(&tar[..]).unpack(folder.path().join("out")).expect("unpacks");
        let out = folder.path().join("out/workspace");
        assert_eq!(std::fs::read_to_string(out.join("a")).expect("there"), "one\n");
        let git = "git -c safe.directory='*'";
        assert_eq!(sh(&format!("{git} rev-parse HEAD"), &out), commit);
        assert_eq!(sh(&format!("{git} branch --show-current"), &out), "agent/dev");
    }

    #[test]
    fn a_context_has_the_plans_dockerfile() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("ctx")).expect("made");
        std::fs::write(folder.path().join("ctx/Dockerfile"), "FROM theirs").expect("written");
        std::fs::write(folder.path().join("ctx/.dockerignore"), "*").expect("written");
        let context = tree::digest(&folder.path().join("ctx"), &Hide::nothing()).expect("readable");
        let roots = Roots {
            root: folder.path().to_owned(),
            home: folder.path().to_owned(),
            skills: folder.path().to_owned(),
            manifest: folder.path().to_owned(),
        };
        let image = BuildImage {
            tag: "t".into(),
            dockerfile: "FROM ours".into(),
            context: Some(bottle_planner::plan::ContextRef {
                path: bottle_planner::words::RelPath::new("ctx").expect("valid"),
                digest: context.digest,
            }),
            network: bottle_planner::plan::BuildReach::None,
            proxy: None,
            ca: Some("certificates".into()),
            labels: BTreeMap::new(),
        };
        let tar = build_context(&roots, &image).expect("packed");
        tar::Archive::new(&tar[..]).unpack(folder.path().join("out")).expect("unpacks");
        let text = std::fs::read_to_string(folder.path().join("out/Dockerfile")).expect("there");
        assert_eq!(text, "FROM ours");
        let file = |name: &str| std::fs::read_to_string(folder.path().join("out").join(name)).ok();
        assert_eq!(file(trusted_build::CONTEXT_FILE).as_deref(), Some("certificates"));
        let kept = format!("*\n!{}\n", trusted_build::CONTEXT_FILE);
        assert_eq!(file(IGNORED), Some(kept));
    }
}
