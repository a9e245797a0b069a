//! Which globs and references are well formed. Matching them is done elsewhere.

/// Whether a rule could name these paths: a glob over whole segments, `/repos/*/pulls/**`.
#[must_use]
pub fn is_request_path(glob: &str) -> bool {
    request_path(glob).is_ok()
}

/// A glob over the whole segments of a request path: `/repos/*/pulls/**`.
pub(super) fn request_path(glob: &str) -> Result<(), &'static str> {
    if !glob.starts_with('/') {
        return Err("a path begins with `/`");
    }
    if glob.contains(['?', '#']) {
        return Err("a path has no query and no fragment");
    }
    if glob.contains(['[', ']', '{', '}', '\\']) {
        return Err("only `*` and `**` are wildcards in a path");
    }
    if !glob.bytes().all(|b| b.is_ascii_graphic()) {
        return Err("a path is ASCII without spaces; percent-encode the rest");
    }
    let escapes = glob.split('%').skip(1);
    if !escapes.clone().all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
    {
        return Err("`%` needs two hexadecimal digits");
    }
    let body = &glob[1..];
    if body.is_empty() { Ok(()) } else { segments(body.strip_suffix('/').unwrap_or(body)) }
}

/// A glob over files below a folder: `.env*`, `secrets/**`.
pub(super) fn file(glob: &str) -> Result<(), &'static str> {
    if glob.is_empty() || glob.len() > 4096 {
        return Err("a glob is not empty");
    }
    if glob.starts_with(['/', '~', '!']) {
        return Err("a glob is below the workspace: no leading `/`, `~` or `!`");
    }
    if glob.contains('\\') || glob.chars().any(char::is_control) {
        return Err("a glob has no backslash and no control character");
    }
    brackets(glob)?;
    segments(glob.strip_suffix('/').unwrap_or(glob))
}

/// A glob over branch names: `agent/*`. What git itself refuses in a ref is refused here.
pub(super) fn branch(glob: &str) -> Result<(), &'static str> {
    if glob.starts_with("refs/") {
        return Err("a branch is named without `refs/heads/`");
    }
    let forbidden = |c: char| c.is_control() || " ~^:?\\[]".contains(c);
    if glob.is_empty()
        || glob.starts_with('-')
        || glob.chars().any(forbidden)
        || glob.contains("@{")
        || glob.ends_with(".lock")
        || glob.ends_with('.')
    {
        return Err("expected a branch name, with `*` and `**` as wildcards");
    }
    segments(glob)
}

fn segments(glob: &str) -> Result<(), &'static str> {
    for segment in glob.split('/') {
        if segment.is_empty() {
            return Err("a segment between two `/` is empty");
        }
        if segment == "." || segment == ".." {
            return Err("`.` and `..` are not allowed");
        }
        if segment.contains("**") && segment != "**" {
            return Err("`**` stands for whole segments: write `/**`");
        }
    }
    Ok(())
}

fn brackets(glob: &str) -> Result<(), &'static str> {
    let mut open = false;
    for c in glob.chars() {
        match (c, open) {
            ('[', false) => open = true,
            (']', true) => open = false,
            ('[', true) | (']', false) => return Err("a bracket has no partner"),
            _ => {}
        }
    }
    if open { Err("a bracket has no partner") } else { Ok(()) }
}

/// Whether a text is an image reference.
pub(crate) fn is_image_reference(text: &str) -> bool {
    image_reference(text).is_ok()
}

/// An image reference: `[registry[:port]/]path[:tag][@sha256:digest]` (the grammar of the
/// distribution project's `reference` package).
pub(super) fn image_reference(text: &str) -> Result<(), &'static str> {
    let wrong = Err("expected an image reference like `debian:bookworm` or `name@sha256:…`");
    let (name, digest) = match text.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (text, None),
    };
    if digest.is_some_and(|digest| crate::words::Digest::new(digest).is_err()) {
        return Err("a digest is `sha256:` and 64 lower-case hexadecimal digits");
    }
    let (path, tag) = match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (name, None),
    };
    let tag_ok = |tag: &str| {
        (1..=128).contains(&tag.len())
            && tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
            && !tag.starts_with(['.', '-'])
    };
    if path.len() > 255 || tag.is_some_and(|tag| !tag_ok(tag)) {
        return wrong;
    }
    let mut parts = path.split('/').peekable();
    let has_registry = path
        .split_once('/')
        .is_some_and(|(first, _)| first.contains(['.', ':']) || first == "localhost");
    if has_registry {
        let registry = parts.next().unwrap_or_default();
        let (host, port) = registry.split_once(':').unwrap_or((registry, "1"));
        let host_ok = !host.is_empty()
            && !host.starts_with(['-', '.'])
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if !host_ok || port.parse::<u16>().is_err() {
            return wrong;
        }
    }
    let component = |part: &str| {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(part.bytes().next())
            && edge(part.bytes().next_back())
            && part.bytes().all(|b| edge(Some(b)) || b"._-".contains(&b))
    };
    if parts.all(component) { Ok(()) } else { wrong }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_paths() {
        for good in
            ["/", "/v1", "/v1/", "/repos/*/pulls/**", "/a-b_c.d~e", "/x/acme%2Fweb/**", "/**"]
        {
            assert_eq!(request_path(good), Ok(()), "{good}");
        }
        for bad in [
            "", "v1", "/a//b", "/a/../b", "/./a", "/a**", "/a?b=c", "/a#b", "/a b", "/é", "/a%2",
            "/a%zz", "/[a]", "/{a,b}", "//",
        ] {
            assert!(request_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn files() {
        for good in [".env*", "**/*.pem", "secrets/**", "a/", "x[ab].txt"] {
            assert_eq!(file(good), Ok(()), "{good}");
        }
        for bad in ["", "/etc", "../x", "a/../b", "a**", "x[ab", "x]", "~/x", "!x", "a\\b", "a//b"]
        {
            assert!(file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn branches() {
        for good in ["agent/*", "main", "**", "release-*", "a/**"] {
            assert_eq!(branch(good), Ok(()), "{good}");
        }
        for bad in ["", "refs/heads/x", "a b", "-x", "a..b/../c", "a~1", "x.lock", "a//b", "@{u}"] {
            assert!(branch(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn image_references() {
        let digest = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
        for good in [
            "debian",
            "debian:bookworm-slim",
            "ghcr.io/acme/agent:1.2",
            "localhost:5000/a/b:c",
            "a__b/c-d.e",
            &alloc::format!("debian@{digest}"),
            &alloc::format!("ghcr.io/a/b:1@{digest}"),
        ] {
            assert_eq!(image_reference(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "Debian",
            "debian:",
            "debian:-x",
            "-x",
            "a//b",
            "a/",
            "a b",
            "a@sha256:12",
            "a:b:c",
            "--privileged",
            "reg.io:notaport/a",
            "x@y@z",
        ] {
            assert!(image_reference(bad).is_err(), "{bad}");
        }
    }
}
