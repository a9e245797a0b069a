//! A Dockerfile whose steps trust the host config's extra certificate authorities.
//!
//! Every stage that runs something gets the file, and before its first `RUN` the system's bundle is
//! made anew with it (Debian's and Alpine's `update-ca-certificates`). What a step trusts is no part
//! of what the image is: the executor takes these certificates out of the agent's trust again, where
//! the host does not name them any more, so they are no part of the image's tag either.

use alloc::format;
use alloc::string::String;

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
    let mut text = String::with_capacity(dockerfile.len() + 512);
    let escape = escape(dockerfile);
    let (mut begins, mut due) = (true, false);
    for line in dockerfile.lines() {
        let trimmed = line.trim();
        let comment = trimmed.starts_with('#');
        if begins && !comment {
            match trimmed.split_ascii_whitespace().next() {
                Some(word) if word.eq_ignore_ascii_case("FROM") => due = true,
                Some(word) if due && word.eq_ignore_ascii_case("RUN") => {
                    due = false;
                    text.push_str(&preamble());
                }
                _ => {}
            }
        }
        // Comments and empty lines do not end an instruction that goes on.
        if !comment && !trimmed.is_empty() {
            begins = !trimmed.ends_with(escape);
        }
        text.push_str(line);
        text.push('\n');
    }
    text
}

fn preamble() -> String {
    format!(
        "COPY {CONTEXT_FILE} {IMAGE_FILE}\nARG NODE_EXTRA_CA_CERTS={IMAGE_FILE}\n\
         RUN [\"/bin/sh\", \"-c\", \"chmod 644 {IMAGE_FILE}; update-ca-certificates || true\"]\n"
    )
}

/// What ends a line that goes on: a directive at the very top may say so.
fn escape(dockerfile: &str) -> char {
    for line in dockerfile.lines() {
        let Some(directive) = line.trim().strip_prefix('#') else { break };
        let Some((name, value)) = directive.split_once('=') else { break };
        if name.trim().eq_ignore_ascii_case("escape") {
            return value.trim().chars().next().unwrap_or('\\');
        }
    }
    '\\'
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
}
