//! Which files a host runs, or lets decide what is run, without being asked: they are called out
//! before they are written, and need a word of their own.

use std::path::Path;

use super::change::{Change, is_git};

/// How a path ends, in parts; `*` in a part stands for any characters. A first part of `**` is any
/// folder; a last one of `**` is all below.
const ENDINGS: [(&str, &str); 43] = [
    (".bottle/**", "bottle reads agents from it"),
    (".claude/**", "Claude Code runs hooks and servers that it names"),
    (".codex/**", "Codex runs servers that it names"),
    (".cursor/**", "Cursor runs servers that it names"),
    (".mcp.json", "coding agents run servers that it names"),
    (".vscode/**", "VS Code runs tasks that it names"),
    ("*.code-workspace", "VS Code runs tasks that it names"),
    (".idea/**", "IDEs of JetBrains run what it names"),
    (".fleet/**", "IDEs of JetBrains run what it names"),
    (".zed/**", "Zed runs tasks that it names"),
    (".devcontainer/**", "editors build and run what it names"),
    (".devcontainer.json", "editors build and run what it names"),
    (".vimrc", "vim runs it"),
    (".exrc", "vim runs it"),
    (".nvimrc", "nvim runs it"),
    (".nvim.lua", "nvim runs it"),
    (".lvimrc", "vim runs it"),
    (".dir-locals.el", "Emacs evaluates it"),
    (".emacs.d/**", "Emacs evaluates it"),
    (".envrc", "direnv runs it when the folder is entered"),
    (".env.vault", "dotenv reads it"),
    (".autoenv.zsh", "autoenv runs it when the folder is entered"),
    ("mise.toml", "mise runs hooks that it names when the folder is entered"),
    (".mise.toml", "mise runs hooks that it names when the folder is entered"),
    (".mise/**", "mise runs hooks that it names when the folder is entered"),
    (".tool-versions", "version managers choose programs by it"),
    ("rust-toolchain", "rustup chooses the compiler by it"),
    ("rust-toolchain.toml", "rustup chooses the compiler by it"),
    (".cargo/**", "cargo runs programs that it names"),
    (".npmrc", "npm runs programs that it names"),
    (".yarnrc", "yarn runs a program that it names"),
    (".yarnrc.yml", "yarn runs a program that it names"),
    (".yarn/**", "yarn runs programs in it"),
    (".pnpmfile.cjs", "pnpm runs it"),
    (".husky/**", "git runs hooks in it"),
    (".githooks/**", "git runs hooks in it where it was told to"),
    (".pre-commit-config.yaml", "pre-commit runs what it names"),
    ("lefthook.yml", "lefthook runs what it names"),
    ("HEAD", "git may take its folder for a repository, and run what its configuration names"),
    (".gitattributes", "git chooses filters and diff programs by it"),
    (".gitmodules", "git fetches what it names"),
    (".gitconfig", "git runs programs that it names, where it is included"),
    (".lfsconfig", "git-lfs sends what it is told where it says"),
];

/// The same for what runs elsewhere with the repository's rights.
const ELSEWHERE: [(&str, &str); 8] = [
    (".github/workflows/**", "GitHub runs it with the repository's rights"),
    (".github/actions/**", "GitHub runs it with the repository's rights"),
    (".gitlab-ci.yml", "GitLab runs it with the repository's rights"),
    (".gitea/workflows/**", "Gitea runs it with the repository's rights"),
    (".forgejo/workflows/**", "Forgejo runs it with the repository's rights"),
    (".circleci/**", "CircleCI runs it with the repository's rights"),
    ("azure-pipelines.yml", "Azure runs it with the repository's rights"),
    ("Jenkinsfile", "Jenkins runs it with the repository's rights"),
];

/// Why a path is one of those; `None` where it is not.
#[must_use]
pub fn executed(path: &Path) -> Option<&'static str> {
    if is_git(path) {
        return Some("git runs it");
    }
    let parts: Vec<String> = path.iter().map(|p| p.to_string_lossy().to_lowercase()).collect();
    let hit = |ending: &&(&'static str, &'static str)| matches(ending.0, &parts);
    ENDINGS.iter().chain(&ELSEWHERE).find(hit).map(|(_, why)| *why)
}

/// Why a change is one of those: by its name, its executable bit, or where it leads.
#[must_use]
pub fn why(change: &Change) -> Option<String> {
    if let Some(why) = executed(&change.path) {
        return Some(why.to_owned());
    }
    if change.is_executable() {
        return Some("it is executable".to_owned());
    }
    let target = String::from_utf8_lossy(change.target()?);
    leads_out(&change.path, &target).then(|| {
        format!("a link out of the folder, to {}", bottle_planner::escape::visible(&target))
    })
}

/// Whether a link at `path` leads out of the folder, or to git's own files. A path through another
/// link is taken as it is written, so that it errs on the side of yes where `..` is used.
pub(super) fn leads_out(path: &Path, target: &str) -> bool {
    if target.starts_with('/') || is_git(Path::new(target)) {
        return true;
    }
    let mut depth = path.iter().count().saturating_sub(1);
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return true,
            },
            _ => depth += 1,
        }
    }
    false
}

fn matches(ending: &str, parts: &[String]) -> bool {
    if let Some(folder) = ending.strip_suffix("/**") {
        let folder: Vec<&str> = folder.split('/').collect();
        return (0..parts.len()).any(|from| {
            let rest = &parts[from..];
            rest.len() > folder.len() && folder.iter().zip(rest).all(|(a, b)| glob(a, b))
        });
    }
    parts.last().is_some_and(|name| glob(ending, name))
}

fn glob(glob: &str, name: &str) -> bool {
    let glob = glob.to_lowercase();
    match glob.split_once('*') {
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
        None => glob == name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_without_being_asked() {
        for path in [
            ".git/hooks/pre-commit",
            "sub/.GIT/config",
            ".husky/pre-push",
            "packages/x/.vscode/tasks.json",
            ".Envrc",
            "sub/.envrc",
            ".claude/settings.local.json",
            ".github/workflows/ci.yml",
            "x.code-workspace",
            ".gitattributes",
            "sub/HEAD",
            "Jenkinsfile",
            "rust-toolchain.toml",
        ] {
            assert!(executed(Path::new(path)).is_some(), "{path}");
        }
        for path in ["src/main.rs", "git/hooks", ".github/CODEOWNERS", "husky", ".vscode", "envrc"]
        {
            assert_eq!(executed(Path::new(path)), None, "{path}");
        }
    }

    #[test]
    fn links_that_lead_out() {
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", "../x"),
            ("a/b", "../../x"),
            ("a", ".git/config"),
            ("a/b", "c/../../../x"),
        ] {
            assert!(leads_out(Path::new(path), target), "{path} -> {target}");
        }
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d"), ("a", "./b/../c")]
        {
            assert!(!leads_out(Path::new(path), target), "{path} -> {target}");
        }
    }
}
