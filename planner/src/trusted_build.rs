//! A Dockerfile with what the host adds to it: steps that trust the host config's extra certificate
//! authorities, and the mark of a session's own build.
//!
//! Every stage that runs something gets the file, and before its first `RUN` the system's bundle is
//! made anew with it (Debian's and Alpine's `update-ca-certificates`). What a step trusts is no part
//! of what the image is: the executor takes these certificates out of the agent's trust again, where
//! the host does not name them any more, so they are no part of the image's tag either.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::{String, ToString};

use crate::dockerfile::instructions;
use crate::plan::LABEL_BUILD;
use crate::words::Identity;

/// The file of the build's context that holds the certificates.
pub const CONTEXT_FILE: &str = ".bottle-upstream-ca.crt";
/// Where it is in the image.
pub const IMAGE_FILE: &str = "/usr/local/share/ca-certificates/bottle-upstream.crt";

/// The Dockerfile with the certificates taken up before the first `RUN` of each stage.
///
/// Node reads the file by its own variable, which is set for the steps of the build alone. A stage
/// whose first `RUN` is not root's keeps its bundle: then only what reads the file trusts it.
#[must_use]
pub fn trusting(dockerfile: &str) -> String {
    let mut before = BTreeMap::new();
    let mut due = false;
    for instruction in instructions(dockerfile) {
        if instruction.is("FROM") {
            due = true;
        } else if due && instruction.is("RUN") {
            due = false;
            before.insert(instruction.first, preamble());
        }
    }
    with_lines(dockerfile, &before)
}

/// The Dockerfile with a label of the session's own at the beginning of each stage.
///
/// The builder's cache takes a step for one it has made before where the layer below and the whole
/// configuration are the same. What an agent had built would therefore be found again by other
/// builds of the same words: by its label, nothing of it is. No word of a proposal can take it away
/// (`proposed_image`).
#[must_use]
pub fn marked(dockerfile: &str, identity: &Identity) -> String {
    let from = instructions(dockerfile).into_iter().filter(|i| i.is("FROM"));
    let label = format!("LABEL {LABEL_BUILD}={identity}\n");
    let before = from.map(|from| (from.last + 1, label.to_string())).collect();
    with_lines(dockerfile, &before)
}

/// The same text with something before some of its lines, which are counted from 0.
fn with_lines(dockerfile: &str, before: &BTreeMap<usize, String>) -> String {
    let mut text = String::with_capacity(dockerfile.len() + 512);
    let mut end = 0;
    for (number, line) in dockerfile.lines().enumerate() {
        text.extend(before.get(&number).map(String::as_str));
        text.push_str(line);
        text.push('\n');
        end = number + 1;
    }
    text.extend(before.range(end..).map(|(_, more)| more.as_str()));
    text
}

fn preamble() -> String {
    format!(
        "COPY {CONTEXT_FILE} {IMAGE_FILE}\nARG NODE_EXTRA_CA_CERTS={IMAGE_FILE}\n\
         RUN [\"/bin/sh\", \"-c\", \"chmod 644 {IMAGE_FILE}; update-ca-certificates || true\"]\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines that were not there before, as `+`, among those that were.
    fn shape(dockerfile: &str) -> String {
        let mut plain = dockerfile.lines().peekable();
        let mut shape = String::new();
        for line in trusting(dockerfile).lines() {
            if plain.peek() == Some(&line) {
                plain.next();
                shape.push_str(line);
            } else {
                assert!(
                    ["COPY .bottle", "ARG NODE", "RUN [\"/bin/sh"]
                        .iter()
                        .any(|start| line.starts_with(start)),
                    "{line}"
                );
                shape.push('+');
            }
            shape.push('|');
        }
        assert_eq!(plain.next(), None, "nothing is lost");
        shape.replace("+|+|+|", "+|")
    }

    #[test]
    fn each_stage_that_runs_something_is_told_once() {
        assert_eq!(shape("FROM a\nRUN x\nRUN y"), "FROM a|+|RUN x|RUN y|");
        assert_eq!(
            shape("ARG V\nfrom a as b\nUSER me\nrun x\nFROM scratch\nCOPY --from=b /x /\n"),
            "ARG V|from a as b|USER me|+|run x|FROM scratch|COPY --from=b /x /|"
        );
        assert_eq!(shape("FROM a\nRUN x\nFROM b\nRUN y"), "FROM a|+|RUN x|FROM b|+|RUN y|");
    }

    #[test]
    fn only_the_beginning_of_an_instruction_counts() {
        let text = "FROM a\nENV X=1 \\\n  # RUN not\n\n  RUN=2\nRUN x \\\nRUN y";
        assert_eq!(shape(text), "FROM a|ENV X=1 \\|  # RUN not||  RUN=2|+|RUN x \\|RUN y|");
        let text = "# escape=`\nFROM a\nLABEL x=`\nRUN\nRUN x";
        assert_eq!(shape(text), "# escape=`|FROM a|LABEL x=`|RUN|+|RUN x|");
        assert_eq!(shape("FROM a\n# RUN x"), "FROM a|# RUN x|");
    }

    #[test]
    fn every_stage_is_marked_where_it_begins() {
        let identity = Identity::new("dev-ab12c").expect("a name");
        let text = "FROM a AS b\nRUN x\nfrom \\\n  b\nFROM a";
        let label = "LABEL dev.bottle.build=dev-ab12c";
        let expected =
            format!("FROM a AS b\n{label}\nRUN x\nfrom \\\n  b\n{label}\nFROM a\n{label}\n");
        assert_eq!(marked(text, &identity), expected);
    }
}
