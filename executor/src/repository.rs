//! A repository of the agent's own, made from the host's: its branches, remote branches and tags, and
//! none of its configuration, hooks, stashes and credentials.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use crate::files::Root;
use crate::ledger::own;
use crate::workspace::{WorkspaceError, git, git_says};

/// What is fetched of the host's repository, with refs that keep their names.
const REFS: [&str; 3] =
    ["+refs/heads/*:refs/heads/*", "+refs/remotes/*:refs/remotes/*", "+refs/tags/*:refs/tags/*"];

/// What is made.
pub(crate) struct Wanted<'a> {
    /// The folder on the host.
    pub(crate) host: &'a Path,
    /// Where `branch` begins; `None` in a repository without commits.
    pub(crate) commit: Option<&'a str>,
    /// The branch that is checked out.
    pub(crate) branch: &'a str,
    /// The linked worktree it is checked out in.
    pub(crate) worktree: Option<&'a str>,
}

/// A repository's folder in a scratch folder, which goes when this does.
pub(crate) struct Repository {
    scratch: Root,
    folder: PathBuf,
}

impl Repository {
    pub(crate) fn make(
        wanted: &Wanted<'_>,
        scratch: &Path,
        path: Option<&OsString>,
    ) -> Result<Self, WorkspaceError> {
        let root = Root::open_or_make(scratch)?;
        root.remove_tree(&own("repository")?)?;
        let made = Self { scratch: root, folder: scratch.join("repository") };
        let run = |words: &[&str]| git(words, &made.folder, path);
        let sha256 = wanted.commit.is_some_and(|commit| commit.len() == 64);
        let format = if sha256 { "--object-format=sha256" } else { "--object-format=sha1" };
        git(
            &["init", "-q", "--template=", format, "-b", wanted.branch, "repository"],
            scratch,
            path,
        )?;
        let host = crate::workspace::text(wanted.host)?;
        let head = format!("+HEAD:refs/heads/{}", wanted.branch);
        let mut fetch = vec!["fetch", "-q", "--update-head-ok", "--update-shallow"];
        fetch.extend(["--no-tags", "--no-write-fetch-head", "--no-auto-gc", "--", host]);
        fetch.extend(REFS);
        if wanted.commit.is_some() {
            fetch.push(&head);
        }
        run(&fetch)?;
        made.remotes(wanted.host, path)?;
        if let Some(commit) = wanted.commit {
            run(&["update-ref", &format!("refs/heads/{}", wanted.branch), commit])?;
            run(&["read-tree", commit])?;
        }
        if let Some(name) = wanted.worktree {
            made.link(name, wanted)?;
        }
        Ok(made)
    }

    /// The git folder itself.
    pub(crate) fn git_folder(&self) -> PathBuf {
        self.folder.join(".git")
    }

    /// The remotes by name, without what would prove who somebody is, and without paths of the host.
    fn remotes(&self, host: &Path, path: Option<&OsString>) -> Result<(), WorkspaceError> {
        let words = ["config", "--null", "--get-regexp", r"^remote\..*\.url$"];
        // It answers 1 where there is none.
        let Ok(listed) = git_says(&words, host, path) else { return Ok(()) };
        for line in listed.split('\0') {
            let Some((key, url)) = line.split_once('\n') else { continue };
            let name = key.strip_prefix("remote.").and_then(|rest| rest.strip_suffix(".url"));
            let (Some(name), Some(url)) = (name, without_credentials(url)) else { continue };
            git(&["config", key, &url], &self.folder, path)?;
            let refs = format!("+refs/heads/*:refs/remotes/{name}/*");
            git(&["config", &format!("remote.{name}.fetch"), &refs], &self.folder, path)?;
        }
        Ok(())
    }

    /// Makes the branch that of a linked worktree: gitrepository-layout(5).
    fn link(&self, name: &str, wanted: &Wanted<'_>) -> Result<(), WorkspaceError> {
        let git = self.git_folder();
        let admin = git.join("worktrees").join(name);
        let failed = |source| WorkspaceError::Scratch { path: admin.clone(), source };
        fs::create_dir_all(&admin).map_err(failed)?;
        let back = format!("{}/.git\n", wanted.host.display());
        let head = format!("ref: refs/heads/{}\n", wanted.branch);
        for (file, text) in [("HEAD", head.as_str()), ("commondir", "../..\n"), ("gitdir", &back)] {
            fs::write(admin.join(file), text).map_err(failed)?;
        }
        if let Some(commit) = wanted.commit {
            fs::rename(git.join("index"), admin.join("index")).map_err(failed)?;
            // Nothing else is checked out.
            fs::write(git.join("HEAD"), format!("{commit}\n")).map_err(failed)?;
        }
        Ok(())
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        // What cannot be removed now is removed before the next one is made.
        if let Ok(name) = own("repository") {
            let _ = self.scratch.remove_tree(&name);
        }
    }
}

/// An address less its password; `None` for a path of this host.
fn without_credentials(url: &str) -> Option<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        let scp_like = url.split_once(':').is_some_and(|(host, _)| !host.contains('/'));
        return scp_like.then(|| url.to_owned());
    };
    if scheme == "file" {
        return None;
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = match (authority.rsplit_once('@'), scheme) {
        (Some((user, host)), "ssh" | "git+ssh" | "ssh+git") => {
            let user = user.split_once(':').map_or(user, |(user, _)| user);
            format!("{user}@{host}")
        }
        (Some((_, host)), _) => host.to_owned(),
        (None, _) => authority.to_owned(),
    };
    Some(format!("{scheme}://{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn sh(script: &str, at: &Path) -> String {
        let output = Command::new("sh")
            .args(["-ec", script])
            .current_dir(at)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    fn host() -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().expect("a folder");
        let commit = sh(
            "git init -q -b main repo && cd repo && git config user.name n && git config user.email e@x
             echo one > a && git add a && git commit -qm one && git tag v1 && git branch side
             git remote add origin https://ada:s3cret@example.com/acme/web.git
             git remote add ssh git@example.com:acme/web && git remote add here /srv/repo
             git config core.fsmonitor ./trap && git config http.extraheader 'Authorization: x'
             printf '#!/bin/sh\\n' > .git/hooks/pre-commit && echo two > a && git stash -q
             git rev-parse HEAD",
            folder.path(),
        );
        (folder, commit)
    }

    #[test]
    fn it_has_the_history_and_nothing_that_runs_or_proves() {
        let (folder, commit) = host();
        let (host, scratch) = (folder.path().join("repo"), folder.path().join("scratch"));
        let path = std::env::var_os("PATH");
        let wanted =
            Wanted { host: &host, commit: Some(&commit), branch: "agent/dev", worktree: None };
        let made = Repository::make(&wanted, &scratch, path.as_ref()).expect("made");
        let at = made.git_folder();
        let refs = sh("git for-each-ref --format='%(refname)'", &at);
        assert_eq!(refs, "refs/heads/agent/dev\nrefs/heads/main\nrefs/heads/side\nrefs/tags/v1");
        assert_eq!(sh("git symbolic-ref HEAD", &at), "refs/heads/agent/dev");
        assert_eq!(sh("git ls-files", &made.folder), "a");
        let config = fs::read_to_string(at.join("config")).expect("there");
        for gone in ["s3cret", "fsmonitor", "extraheader", "/srv/repo"] {
            assert!(!config.contains(gone), "{config}");
        }
        for there in ["https://example.com/acme/web.git", "git@example.com:acme/web"] {
            assert!(config.contains(there), "{config}");
        }
        assert!(!at.join("hooks").exists());
        drop(made);
        assert!(!scratch.join("repository").exists());
    }

    #[test]
    fn a_linked_worktree_of_it() {
        let (folder, _) = host();
        let commit = sh(
            "cd repo && git worktree add -q ../side side && git -C ../side rev-parse HEAD",
            folder.path(),
        );
        let (host, scratch) = (folder.path().join("side"), folder.path().join("scratch"));
        let path = std::env::var_os("PATH");
        let wanted = Wanted {
            host: &host,
            commit: Some(&commit),
            branch: "agent/dev",
            worktree: Some("side"),
        };
        let made = Repository::make(&wanted, &scratch, path.as_ref()).expect("made");
        // As a container would see it: the private folder in place of the common one.
        fs::remove_dir_all(folder.path().join("repo/.git")).expect("removed");
        sh("cp -a scratch/repository/.git repo/.git", folder.path());
        drop(made);
        assert_eq!(sh("git branch --show-current && git status --porcelain", &host), "agent/dev");
    }

    #[test]
    fn addresses_lose_what_proves() {
        let bare = |url| without_credentials(url);
        assert_eq!(bare("https://x:y@h/p").as_deref(), Some("https://h/p"));
        assert_eq!(bare("https://token@h:8443/p").as_deref(), Some("https://h:8443/p"));
        assert_eq!(bare("ssh://git:pw@h/p").as_deref(), Some("ssh://git@h/p"));
        assert_eq!(bare("git@h:p").as_deref(), Some("git@h:p"));
        assert_eq!(bare("/srv/x"), None);
        assert_eq!(bare("../x:y"), None);
        assert_eq!(bare("file:///srv/x"), None);
    }
}
