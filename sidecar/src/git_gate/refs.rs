//! Which refs a push may write: by name, and by what becomes of them.

use bottle_planner::policy::Push;

use super::ask::Update;

/// What an update does to its ref.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Create,
    Move,
    Delete,
}

impl Update {
    pub(super) fn change(&self) -> Change {
        match (is_nothing(&self.old), is_nothing(&self.new)) {
            (_, true) => Change::Delete,
            (true, false) => Change::Create,
            (false, false) => Change::Move,
        }
    }

    /// Whether both ids are ids and the name is a name: they become words of git's, which reads more
    /// than a name out of some.
    pub(super) fn is_well_formed(&self) -> bool {
        let id = |id: &str| {
            matches!(id.len(), 40 | 64)
                && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        id(&self.old)
            && id(&self.new)
            && !(is_nothing(&self.old) && is_nothing(&self.new))
            && is_name(&self.name)
    }
}

/// Whether git takes it for the name of a ref (git-check-ref-format(1)), and that of one below
/// `refs/`. receive-pack asks the same, but only once the push was passed on.
fn is_name(name: &str) -> bool {
    let never = |c: char| {
        c.is_ascii_control() || matches!(c, ' ' | ':' | '^' | '~' | '?' | '*' | '[' | '\\')
    };
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    name.strip_prefix("refs/").is_some_and(|rest| rest.split('/').all(part))
        && !name.contains(never)
        && !name.contains("..")
        && !name.contains("@{")
        && !name.ends_with('.')
}

/// The id that stands for no object.
fn is_nothing(id: &str) -> bool {
    id.bytes().all(|b| b == b'0')
}

/// Whether the policy lets a ref of this name be changed like this; if not, why. `descends` says
/// whether the new object descends from the old one, and is asked only where it matters.
pub(super) fn judge(
    update: &Update,
    push: &Push,
    descends: impl FnOnce() -> bool,
) -> Result<(), String> {
    let change = update.change();
    let is_tag = if let Some(branch) = update.name.strip_prefix("refs/heads/") {
        if !push.branches.iter().any(|glob| matches(glob, branch)) {
            let granted: Vec<&str> = push.branches.iter().map(String::as_str).collect();
            return Err(match granted.as_slice() {
                [] => "no branch may be pushed".into(),
                granted => format!("the branches that may be pushed are {}", granted.join(", ")),
            });
        }
        false
    } else if update.name.starts_with("refs/tags/") {
        if !push.tags {
            return Err("tags may not be pushed".into());
        }
        true
    } else {
        return Err("branches and tags may be pushed, and no other refs".into());
    };
    match change {
        Change::Create => Ok(()),
        Change::Delete if push.delete => Ok(()),
        Change::Delete => Err("refs may not be deleted".into()),
        Change::Move if push.force => Ok(()),
        Change::Move if is_tag => Err("a tag may not be moved".into()),
        Change::Move if descends() => Ok(()),
        Change::Move => {
            Err("it does not descend from what upstream has, and force is not granted".into())
        }
    }
}

/// Globs as the manifest has them: `*` stands for anything within a segment, `**` for any segments.
fn matches(glob: &str, name: &str) -> bool {
    fn segments(globs: &[&str], names: &[&str]) -> bool {
        match (globs, names) {
            ([], []) => true,
            (["**", globs @ ..], _) => {
                (0..=names.len()).any(|skipped| segments(globs, &names[skipped..]))
            }
            ([glob, globs @ ..], [name, names @ ..]) => {
                segment(glob.as_bytes(), name.as_bytes()) && segments(globs, names)
            }
            _ => false,
        }
    }
    fn segment(glob: &[u8], name: &[u8]) -> bool {
        match (glob, name) {
            ([], []) => true,
            ([b'*', glob @ ..], _) => {
                (0..=name.len()).any(|skipped| segment(glob, &name[skipped..]))
            }
            ([g, glob @ ..], [n, name @ ..]) => g == n && segment(glob, name),
            _ => false,
        }
    }
    let (globs, names): (Vec<&str>, Vec<&str>) =
        (glob.split('/').collect(), name.split('/').collect());
    segments(&globs, &names)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "1111111111111111111111111111111111111111";
    const B: &str = "2222222222222222222222222222222222222222";
    const NONE: &str = "0000000000000000000000000000000000000000";

    fn update(old: &str, new: &str, name: &str) -> Update {
        Update { old: old.into(), new: new.into(), name: name.into() }
    }

    #[test]
    fn globs_stay_within_segments() {
        for (glob, name, expected) in [
            ("agent/*", "agent/fix", true),
            ("agent/*", "agent/fix/deep", false),
            ("agent/*", "agent", false),
            ("agent/*", "xagent/fix", false),
            ("agent/**", "agent/fix/deep", true),
            ("**", "main", true),
            ("release-*", "release-1.2", true),
            ("release-*", "release/1", false),
            ("*-x-*", "a-x-b", true),
            ("main", "main", true),
            ("main", "maintenance", false),
        ] {
            assert_eq!(matches(glob, name), expected, "{glob} {name}");
        }
    }

    #[test]
    fn each_kind_of_change_needs_its_grant() {
        let push = |tags, force, delete| Push {
            branches: ["agent/*".to_string()].into(),
            tags,
            force,
            delete,
        };
        let none = push(false, false, false);
        let judged = |update: &Update, push: &Push, descends| judge(update, push, || descends);
        let new = update(NONE, A, "refs/heads/agent/x");
        assert_eq!(judged(&new, &none, false), Ok(()));
        let moved = update(A, B, "refs/heads/agent/x");
        assert_eq!(judged(&moved, &none, true), Ok(()));
        assert!(judged(&moved, &none, false).is_err());
        assert_eq!(judged(&moved, &push(false, true, false), false), Ok(()));
        let gone = update(A, NONE, "refs/heads/agent/x");
        assert!(judged(&gone, &none, true).is_err());
        assert_eq!(judged(&gone, &push(false, false, true), true), Ok(()));
        for name in ["refs/heads/main", "refs/notes/x", "refs/tags/v1", "HEAD", "refs/for/main"] {
            assert!(judged(&update(NONE, A, name), &none, true).is_err(), "{name}");
        }
        let tags = push(true, false, false);
        assert_eq!(judged(&update(NONE, A, "refs/tags/v1"), &tags, true), Ok(()));
        assert!(judged(&update(A, B, "refs/tags/v1"), &tags, true).is_err());
    }

    #[test]
    fn ids_are_ids() {
        const NAME: &str = "refs/heads/x";
        assert!(update(A, B, NAME).is_well_formed());
        for (old, new) in [(NONE, NONE), ("--all", A), (A, "HEAD"), (A, ""), (A, "ABCDEF")] {
            assert!(!update(old, new, NAME).is_well_formed(), "{old} {new}");
        }
    }

    #[test]
    fn names_are_names() {
        let long = format!("refs/heads/{}", "x".repeat(4000));
        for name in ["refs/heads/-f", "refs/heads/a@b{c}.d/é", "refs/tags/@", "refs/x", &long] {
            assert!(update(NONE, A, name).is_well_formed(), "{name}");
        }
        for part in [
            "a:main", ":", "a b", "a^", "a~1", "a?", "*", "a[b]", "a\\b", "a\nb", "a\tb", "a\x7f",
            "a..b", "a@{1}", "a//b", "/a", "a/", "", ".a", "a/.b", "a.lock", "a.lock/b", "a.",
            "a/b.",
        ] {
            let name = format!("refs/heads/{part}");
            assert!(!update(NONE, A, &name).is_well_formed(), "{name:?}");
        }
        for name in ["", "@", "HEAD", "heads/x", "refs", "/refs/heads/x", "refs/", "xrefs/heads/x"]
        {
            assert!(!update(NONE, A, name).is_well_formed(), "{name:?}");
        }
    }

    #[test]
    fn names_are_what_git_takes_for_names() {
        for byte in 1..=0x7f_u8 {
            let name = format!("refs/heads/a{}b", byte as char);
            let git = std::process::Command::new("git").args(["check-ref-format", &name]).status();
            let git = git.unwrap().success();
            assert_eq!(update(NONE, A, &name).is_well_formed(), git, "{name:?}");
        }
    }
}
