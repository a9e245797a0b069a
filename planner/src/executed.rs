//! Which files a host runs, or lets decide what is run, without being asked: they are called out
//! before they are written, and need a word of their own. The executor looks, this decides.

use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;

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

/// Something in a folder that may be one of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thing<'a> {
    /// A regular file.
    File {
        /// Whether somebody may execute it.
        executable: bool,
        /// Whether it runs with the rights of its owner or group.
        set_id: bool,
    },
    /// A symbolic link.
    Link {
        /// Where it points to.
        target: &'a str,
    },
    /// A pipe, a socket, a device.
    Other,
}

/// Why the host would execute what lies at a path: by its name, its bits, or where it leads; `None`
/// where it would not. Paths here are below the folder, with `/` between their parts.
#[must_use]
pub fn why(path: &str, thing: Thing<'_>) -> Option<&'static str> {
    if let Some(why) = executed(path) {
        return Some(why);
    }
    match thing {
        Thing::File { set_id: true, .. } => Some("it runs with the rights of who owns it"),
        Thing::File { executable: true, .. } => Some("it is executable"),
        Thing::Link { target } => as_folder(path)
            .or_else(|| leads_out(path, target).then_some("a link out of the folder")),
        Thing::File { .. } | Thing::Other => None,
    }
}

/// Why a path is one of those by its name alone; `None` where it is not.
#[must_use]
pub fn executed(path: &str) -> Option<&'static str> {
    if is_git(path) {
        return Some("git runs it");
    }
    let parts = parts(path);
    named(&parts).map(|(why, _)| why)
}

/// Which parts of a path are the folders that make it one of those: whoever moves a folder to such a
/// name makes what is in it be executed, and touches none of it.
#[must_use]
pub fn by_folders(path: &str) -> Option<Range<usize>> {
    named(&parts(path)).and_then(|(_, folders)| folders)
}

/// Why all that lies in a folder of this name is one of those: a link may stand in for the folder.
fn as_folder(path: &str) -> Option<&'static str> {
    let mut parts = parts(path);
    let last = parts.len();
    parts.push(String::from("x"));
    let (why, folders) = named(&parts)?;
    folders.is_some_and(|folders| folders.end == last).then_some(why)
}

/// Whether a link at `path` leads out of the folder, or to git's own files. A path through another
/// link is taken as it is written, so that it errs on the side of yes where `..` is used.
#[must_use]
pub fn leads_out(path: &str, target: &str) -> bool {
    if target.starts_with('/') || is_git(target) {
        return true;
    }
    let mut depth = path.split('/').count().saturating_sub(1);
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

/// Whether a path is git's own, also on file systems that do not tell case or endings apart
/// (CVE-2014-9390).
#[must_use]
pub fn is_git(path: &str) -> bool {
    path.split('/').any(|name| {
        let bare = name.split(':').next().unwrap_or_default().trim_end_matches([' ', '.']);
        // HFS+ leaves such characters out of comparisons.
        let seen: String = bare.chars().filter(|c| !is_left_out(*c)).collect();
        seen.eq_ignore_ascii_case(".git") || seen.eq_ignore_ascii_case("git~1")
    })
}

fn is_left_out(c: char) -> bool {
    matches!(c, '\u{200c}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{206a}'..='\u{206f}' | '\u{feff}')
}

fn parts(path: &str) -> Vec<String> {
    path.split('/').map(str::to_lowercase).collect()
}

/// Why a path is one of those, and which of its parts are the folders that make it so.
fn named(parts: &[String]) -> Option<(&'static str, Option<Range<usize>>)> {
    ENDINGS.iter().chain(&ELSEWHERE).find_map(|(ending, why)| {
        let folders = matches(ending, parts)?;
        Some((*why, folders))
    })
}

/// The folders of a path that an ending names, if it ends so.
fn matches(ending: &str, parts: &[String]) -> Option<Option<Range<usize>>> {
    if let Some(folder) = ending.strip_suffix("/**") {
        let folder: Vec<&str> = folder.split('/').collect();
        let from = (0..parts.len()).find(|from| {
            let rest = &parts[*from..];
            rest.len() > folder.len() && folder.iter().zip(rest).all(|(a, b)| glob(a, b))
        })?;
        return Some(Some(from..from + folder.len()));
    }
    parts.last().filter(|name| glob(ending, name)).map(|_| None)
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
            assert!(executed(path).is_some(), "{path}");
        }
        for path in ["src/main.rs", "git/hooks", ".github/CODEOWNERS", "husky", ".vscode", "envrc"]
        {
            assert_eq!(executed(path), None, "{path}");
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
            assert!(leads_out(path, target), "{path} -> {target}");
        }
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d"), ("a", "./b/../c")]
        {
            assert!(!leads_out(path, target), "{path} -> {target}");
        }
    }

    #[test]
    fn what_the_rest_says() {
        let file = |executable, set_id| Thing::File { executable, set_id };
        let link = |target| Thing::Link { target };
        for (path, thing, expected) in [
            (".envrc", file(false, false), Some("direnv runs it when the folder is entered")),
            ("a", file(false, false), None),
            ("a", file(true, false), Some("it is executable")),
            ("a", file(true, true), Some("it runs with the rights of who owns it")),
            ("a", link("b"), None),
            ("a", link("../b"), Some("a link out of the folder")),
            (".vscode", link("b"), Some("VS Code runs tasks that it names")),
            (".github/workflows", link("b"), Some("GitHub runs it with the repository's rights")),
            (".github", link("b"), None),
            ("a", Thing::Other, None),
        ] {
            assert_eq!(why(path, thing), expected, "{path} {thing:?}");
        }
    }

    #[test]
    fn folders_that_make_it_so() {
        for (path, expected) in [
            (".vscode/tasks.json", Some(0..1)),
            ("a/.github/workflows/x/ci.yml", Some(1..3)),
            ("a/.envrc", None),
            ("a/b", None),
        ] {
            assert_eq!(by_folders(path), expected, "{path}");
        }
    }
}
