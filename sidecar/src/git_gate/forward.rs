//! A clean push's way to upstream, and what upstream says to it.

use std::path::Path;

use super::ask::Update;
use super::git::run;
use super::mirror::Mirror;
use super::refs::Change;

/// Nothing that git says of a push is longer.
const LONGEST: u64 = 8 << 20;

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Forwarded {
    pub(super) ok: bool,
    /// Upstream's own words, line by line.
    pub(super) words: Vec<String>,
}

/// Pushes all of the updates or none, each only if upstream's ref is still what it was.
pub(super) fn forward(
    mirror: &Mirror,
    quarantine: Option<&Path>,
    updates: &[Update],
) -> Result<Forwarded, String> {
    let mut command = mirror.git.at(&mirror.folder, quarantine);
    command.args(mirror.way.words()).args(["push", "--porcelain", "--no-verify"]);
    // A host that knows no atomic pushes can still take one ref.
    if updates.len() > 1 {
        command.arg("--atomic");
    }
    let mut specs = Vec::new();
    for update in updates {
        let Update { old, new, name } = update;
        let expected = if update.change() == Change::Create { "" } else { old.as_str() };
        command.arg(format!("--force-with-lease={name}:{expected}"));
        specs.push(match update.change() {
            Change::Delete => format!(":{name}"),
            // The id alone could be the name of a branch or a tag too, which git would take first.
            // Nothing has such a name.
            Change::Create | Change::Move => format!("{new}^{{object}}:{name}"),
        });
    }
    command.arg("--").arg(&mirror.way.url).args(specs);
    let done = run(&mut command, Vec::new(), LONGEST).map_err(|error| error.to_string())?;
    let out = String::from_utf8_lossy(&done.out).into_owned();
    if !done.ok
        && let Some(trouble) = mirror.way.trouble()
    {
        return Ok(Forwarded { ok: false, words: vec![trouble] });
    }
    Ok(Forwarded { ok: done.ok, words: words(&done.words, &out, done.ok) })
}

/// What upstream wrote (git puts `remote: ` before it), what git said where it did not get that
/// far, and the reason for each ref that was rejected.
fn words(said: &str, porcelain: &str, ok: bool) -> Vec<String> {
    let mut words = Vec::new();
    for line in said.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        match line.strip_prefix("remote:") {
            Some(line) => words.push(line.strip_prefix(' ').unwrap_or(line).to_owned()),
            None if ok || line.starts_with("error: failed to push some refs") => {}
            None => words.push(line.to_owned()),
        }
    }
    for line in porcelain.lines() {
        let mut fields = line.split('\t');
        if fields.next() == Some("!") {
            let name = fields.next().and_then(|spec| spec.rsplit(':').next()).unwrap_or_default();
            words.push(format!("{name}: {}", fields.next().unwrap_or_default()));
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstreams_words_come_back_as_they_are() {
        let said = "remote: error: GH006: Protected branch update failed.        \nremote: \n\
                    error: failed to push some refs to 'ssh://git@h/a'\n";
        let porcelain = "To ssh://git@h/a\n!\t1111:refs/heads/agent/x\t[remote rejected] \
                         (protected branch hook declined)\nDone\n";
        assert_eq!(
            words(said, porcelain, false),
            [
                "error: GH006: Protected branch update failed.",
                "",
                "refs/heads/agent/x: [remote rejected] (protected branch hook declined)"
            ]
        );
        let said = "remote: Create a pull request:\nhint: something of git's own\n";
        assert_eq!(words(said, "Done\n", true), ["Create a pull request:"]);
        let said = "ssh: connect to host h port 22: no\nfatal: Could not read from remote\n";
        assert_eq!(words(said, "", false).len(), 2);
    }
}
