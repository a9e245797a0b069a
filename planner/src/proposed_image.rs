//! What the Dockerfile of an image that an agent proposes may say.
//!
//! It is read as the engine's builder reads it. Where builders have come to read a text in two ways
//! it is refused, and so is what no build in a session needs and what would outlast one: the check
//! is for a text whose author is not trusted, and its other reader is a person.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::dockerfile::{Instruction, directive, instructions};
use crate::escape::{is_hidden, visible};
use crate::grants::ImageGrant;

/// Instructions that need no look at their words.
const PLAIN: [&str; 9] =
    ["ARG", "CMD", "ENTRYPOINT", "ENV", "EXPOSE", "SHELL", "STOPSIGNAL", "USER", "WORKDIR"];
/// Instructions that are refused, and what to do in their place.
const REFUSED: [(&str, &str); 5] = [
    ("ADD", "fetch with RUN what `hosts` names, and copy between stages with COPY --from"),
    ("HEALTHCHECK", "leave it out: a session's containers run none"),
    ("MAINTAINER", "leave it out, or say it with LABEL"),
    ("ONBUILD", "write what it triggers as an instruction of its own"),
    ("VOLUME", "leave it out: what is kept of a session is decided by its plan"),
];

/// Checks a proposed Dockerfile. Its bases are those of the one in force, and `allow_from`.
///
/// # Errors
///
/// All that is wrong with it, each with its line and what to do, in the order of the lines.
pub fn check(
    dockerfile: &str,
    allow_from: &BTreeSet<String>,
    in_force: &str,
) -> Result<(), Vec<String>> {
    let mut bases = allow_from.clone();
    bases.extend(bases_of(in_force));
    let mut check = Check { bases, stages: Vec::new(), findings: BTreeSet::new() };
    check.lines(dockerfile);
    let all = instructions(dockerfile);
    check.directives(dockerfile, all.first());
    for instruction in &all {
        check.instruction(instruction);
    }
    if check.stages.is_empty() {
        check.say(0, "there is no FROM; begin with the base that the image builds on");
    }
    if check.findings.is_empty() {
        return Ok(());
    }
    let shown = |(line, what): (usize, String)| format!("line {}: {what}", line + 1);
    Err(check.findings.into_iter().map(shown).collect())
}

/// [`check`] against the image that a session has: what is asked before anybody approves.
///
/// # Errors
///
/// As there.
pub fn check_for(image: &ImageGrant, dockerfile: &str) -> Result<(), Vec<String>> {
    check(dockerfile, image.allow_from(), &image.in_force())
}

/// What a Dockerfile builds on from outside of itself. A name that holds a variable is none:
/// nobody knows here what it stands for.
fn bases_of(dockerfile: &str) -> BTreeSet<String> {
    let (mut bases, mut stages) = (BTreeSet::new(), BTreeSet::new());
    for from in instructions(dockerfile).iter().filter(|i| i.is("FROM")) {
        let mut words = from.parts().1.split_ascii_whitespace().skip_while(|w| w.starts_with("--"));
        let Some(base) = words.next() else { continue };
        if !stages.contains(&base.to_ascii_lowercase()) && !base.contains('$') && base != "scratch"
        {
            bases.insert(base.to_string());
        }
        stages.extend(words.nth(1).map(str::to_ascii_lowercase));
    }
    bases
}

struct Check {
    bases: BTreeSet<String>,
    /// The stages so far, each with its name.
    stages: Vec<Option<String>>,
    findings: BTreeSet<(usize, String)>,
}

impl Check {
    fn say(&mut self, line: usize, what: impl Into<String>) {
        self.findings.insert((line, what.into()));
    }

    /// What no line may have, comments included.
    fn lines(&mut self, dockerfile: &str) {
        for (number, line) in dockerfile.lines().enumerate() {
            if let Some(c) = line.chars().find(|c| *c != '\t' && is_hidden(*c)) {
                let shown = visible(c.encode_utf8(&mut [0; 4]));
                self.say(
                    number,
                    format!("has the character {shown}, which is not seen; take it out"),
                );
            }
            // Builders take them for white space in one place and for text in another.
            if let Some(c) = line.chars().find(|c| c.is_whitespace() && !c.is_ascii()) {
                let shown = c.escape_unicode();
                self.say(
                    number,
                    format!("has the character {shown}, which looks like a space; write a space"),
                );
            }
            // Older builders go on after two of them, newer ones do not.
            if line.trim_end().ends_with(r"\\") {
                self.say(
                    number,
                    r"ends in `\\`, which builders read differently; put a word after it",
                );
            }
        }
    }

    /// Comments at the top tell builders how to read the rest, and which program is to read it. None is
    /// taken: a person reads the rest too, and knows one way to.
    fn directives(&mut self, dockerfile: &str, first: Option<&Instruction<'_>>) {
        let before = first.map_or(usize::MAX, |first| first.first);
        for (number, line) in dockerfile.lines().enumerate().take(before) {
            let Some((name, _)) = directive(line) else { continue };
            let name = visible(name);
            self.say(number, format!("the directive `# {name}=` is not taken; leave it out"));
        }
    }

    fn instruction(&mut self, instruction: &Instruction<'_>) {
        let line = instruction.first;
        let (name, rest) = instruction.parts();
        let name = name.to_ascii_uppercase();
        for (number, comment) in &instruction.comments {
            // Whether it ends what goes on depends on the builder's age.
            if !comment.starts_with('#') {
                self.say(*number, "a comment inside of a continued instruction is indented; begin it at the start of the line");
            }
        }
        if instruction.unended {
            self.say(
                instruction.last,
                "says that it goes on, and the file ends; finish the instruction",
            );
        }
        if self.stages.is_empty() && !matches!(name.as_str(), "FROM" | "ARG") {
            self.say(
                line,
                "comes before the first FROM; begin with the base that the image builds on",
            );
        }
        match name.as_str() {
            "FROM" => self.from(line, rest),
            "RUN" => self.run(line, rest),
            "COPY" => self.copy(line, rest),
            "LABEL" => self.label(line, rest),
            name if PLAIN.contains(&name) => {}
            name => match REFUSED.iter().find(|(refused, _)| *refused == name) {
                Some((_, instead)) => self.say(line, format!("{name} is refused; {instead}")),
                None => {
                    let name: String = visible(name).chars().take(40).collect();
                    self.say(
                        line,
                        format!("`{name}` is no instruction; see the Dockerfile reference"),
                    );
                }
            },
        }
        if matches!(name.as_str(), "RUN" | "COPY") && rest.contains("<<") {
            self.say(line, "`<<` may begin a here-document, which builders read differently; write the lines with printf");
        }
    }

    fn from(&mut self, line: usize, rest: &str) {
        let words: Vec<&str> = rest.split_ascii_whitespace().collect();
        let (base, name) = match words.as_slice() {
            [base] => (*base, None),
            [base, word, name] if word.eq_ignore_ascii_case("as") => (*base, Some(*name)),
            _ => {
                self.say(line, "expected FROM and one base, or FROM base AS name, without flags");
                self.stages.push(None);
                return;
            }
        };
        let is_stage = self.stages.iter().flatten().any(|stage| stage.eq_ignore_ascii_case(base));
        // Never from nothing: `scratch` has none of the programs that run an agent.
        if !is_stage && (base == "scratch" || !self.bases.contains(base)) {
            let known: Vec<String> = self.bases.iter().map(|base| visible(base)).collect();
            let base = visible(base);
            self.say(
                line,
                format!(
                    "`{base}` is not a base that this session may build on; use one of: {}",
                    known.join(", ")
                ),
            );
        }
        if let Some(name) = name
            && !is_stage_name(name)
        {
            let name = visible(name);
            self.say(
                line,
                format!("`{name}` is no name of a stage; use lower-case letters, digits and - _ ."),
            );
        }
        self.stages.push(name.map(str::to_string));
    }

    fn run(&mut self, line: usize, rest: &str) {
        if rest.starts_with("--") {
            self.say(
                line,
                "RUN takes no flags here (no mount, network or security); leave them out",
            );
        }
    }

    fn copy(&mut self, line: usize, rest: &str) {
        let flags = rest.split_ascii_whitespace().take_while(|word| word.starts_with("--"));
        let mut from = None;
        for flag in flags {
            match flag.split_once('=') {
                Some(("--from", stage)) if from.is_none() => from = Some(stage),
                Some(("--chown" | "--chmod", value))
                    if value.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b)) => {
                }
                _ => {
                    let flag = visible(flag);
                    self.say(
                        line,
                        format!(
                            "COPY takes --from, --chown and --chmod once and plain, found `{flag}`"
                        ),
                    );
                }
            }
        }
        let Some(from) = from else {
            self.say(line, "there is nothing to copy, for the build has no context; write files with RUN, or copy with --from an earlier stage");
            return;
        };
        // The stage itself is not yet one that can be copied from.
        let earlier = self.stages.len().saturating_sub(1);
        let named = self.stages.iter().take(earlier).flatten();
        let numbered = from.bytes().all(|b| b.is_ascii_digit())
            && from.parse::<usize>().is_ok_and(|number| number < earlier);
        if !numbered && !named.into_iter().any(|stage| stage.eq_ignore_ascii_case(from)) {
            let from = visible(from);
            self.say(line, format!("`{from}` is no earlier stage; copy from one of this file's"));
        }
    }

    /// Keys may be quoted, escaped and put together from variables.
    fn label(&mut self, line: usize, rest: &str) {
        if rest.contains('$') {
            self.say(line, "LABEL takes no variables here; write its words out");
        }
        let bare: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\' | '`')).collect();
        if bare.to_ascii_lowercase().contains("dev.bottle") {
            self.say(line, "labels of `dev.bottle.` are bottle's own; leave them out");
        }
    }
}

/// What every builder takes for a name, and none for a number or an image's reference.
fn is_stage_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const IN_FORCE: &str = "FROM debian:12 AS base\nRUN true\nFROM base\n";

    fn found(dockerfile: &str) -> Vec<String> {
        let allowed = BTreeSet::from(["node:22@sha256:aa".to_string()]);
        check(dockerfile, &allowed, IN_FORCE).err().unwrap_or_default()
    }

    #[track_caller]
    fn refused(dockerfile: &str, part: &str) {
        let found = found(dockerfile);
        assert!(found.iter().any(|f| f.contains(part)), "{dockerfile:?}: {found:?}");
    }

    #[test]
    fn what_an_agent_needs_is_taken() {
        for text in [
            "FROM debian:12\n",
            "# A note: x=1\nfrom debian:12 as build\nRUN make\nFROM node:22@sha256:aa\nCOPY --from=BUILD --chown=1000:1000 --chmod=755 /a /b\nCOPY --from=0 /a /c\n",
            "ARG V=1\nFROM debian:12\nRUN apt-get update && \\\n# more\n\n  apt-get install -y jq && echo \"$V\" > /v\nENV A=$V B=\"x y\"\nUSER 1000\nWORKDIR /w\nCMD [\"x\"]\nENTRYPOINT x\nEXPOSE 80\nSTOPSIGNAL SIGTERM\nSHELL [\"/bin/sh\", \"-c\"]\nLABEL org.example.a=\"b c\" d=e\n",
            "FROM debian:12\r\nRUN a\tb\r\n",
            "FROM debian:12 AS a\nFROM a AS b\nFROM b\n",
            "FROM debian:12\nRUN curl https://a.test | sh; echo ONBUILD VOLUME ADD http://x LABEL dev.bottle.x\n",
        ] {
            assert_eq!(found(text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn every_finding_is_told_with_its_line() {
        let all = found("FROM evil\nADD http://x /\n\nVOLUME /x\n");
        assert_eq!(all.len(), 3, "{all:?}");
        assert!(all[0].starts_with("line 1: `evil` is not a base"), "{all:?}");
        assert!(all[0].ends_with("use one of: debian:12, node:22@sha256:aa"), "{all:?}");
        assert!(all[1].starts_with("line 2: ADD is refused; "), "{all:?}");
        assert!(all[2].starts_with("line 4: VOLUME is refused; "), "{all:?}");
    }

    #[test]
    fn bases_are_named_exactly() {
        for base in [
            "debian",
            "debian:11",
            "DEBIAN:12",
            "docker.io/library/debian:12",
            "debian:12@sha256:bb",
            "node:22",
            "scratch",
            "base",
            "$BASE",
            "${BASE}",
            "debian:12$X",
            "\"debian:12\"",
            "debi\\an:12",
            "bottle-agent:other-1",
            "0",
        ] {
            refused(&format!("ARG BASE=debian:12\nFROM {base}\n"), "is not a base");
        }
        for from in
            ["", "--platform=x debian:12", "debian:12 AS", "debian:12 OR a", "debian:12 AS a b"]
        {
            refused(&format!("FROM {from}\n"), "expected FROM and one base");
        }
        // Only a stage that came before is one, and its name is no image's.
        refused("FROM later\nFROM debian:12 AS later\n", "`later` is not a base");
        refused("FROM debian:12 AS evil/image:1\n", "no name of a stage");
        refused("FROM debian:12 AS 0\n", "no name of a stage");
        let variable = check("FROM $B\n", &BTreeSet::new(), "ARG B=x\nFROM $B\n");
        assert!(variable.is_err(), "what nobody knows is no base: {variable:?}");
        let scratch = BTreeSet::from(["scratch".to_string()]);
        assert!(check("FROM scratch\n", &scratch, "FROM scratch\n").is_err());
    }

    #[test]
    fn no_spelling_hides_what_is_refused() {
        let after = |text: &str| format!("FROM debian:12\n{text}\n");
        for (name, words, part) in [
            ("ADD", "http://a.test/x /x", "ADD is refused"),
            ("ADD", "git@a.test:x.git /x", "ADD is refused"),
            ("ONBUILD", "RUN x", "ONBUILD is refused"),
            ("VOLUME", "/x", "VOLUME is refused"),
            ("HEALTHCHECK", "NONE", "HEALTHCHECK is refused"),
            ("LABEL", "dev.bottle.owner=x", "bottle's own"),
            ("RUN", "--mount=type=secret,id=x true", "RUN takes no flags"),
            ("RUN", "--network=host true", "RUN takes no flags"),
            ("COPY", "--from=evil /a /b", "is no earlier stage"),
            ("COPY", "--from=0 /a /b", "is no earlier stage"),
            ("COPY", "--from=$X /a /b", "is no earlier stage"),
            ("COPY", "--link --from=0 /a /b", "found `--link`"),
            ("COPY", "/a /b", "no context"),
        ] {
            let mut mixed = String::new();
            for (n, c) in name.chars().enumerate() {
                mixed.push(if n % 2 == 0 { c.to_ascii_lowercase() } else { c });
            }
            let (head, tail) = name.split_at(2);
            for text in [
                format!("{name} {words}"),
                format!("{} {words}", name.to_lowercase()),
                format!("{mixed} {words}"),
                format!("  \t{name}\t{words}"),
                format!("\u{a0}{name} {words}"),
                format!("{name} \\\n{words}"),
                format!("{head}\\\n{tail} {words}"),
                format!("{name} \\ \t\n# a comment\n\n  {words}"),
                format!("RUN x \\\ny\n{name} {words}"),
                format!("# RUN x \\\n{name} {words}"),
            ] {
                refused(&after(&text), part);
                refused(&format!("# escape=`\n{}", after(&text).replace('\\', "`")), part);
            }
        }
    }

    #[test]
    fn labels_are_found_in_every_disguise() {
        for words in [
            "\"dev.bottle.owner\"=x",
            "a=b dev.bottle.x=1",
            "a=\"b c\" \\\n  'dev.bottle.x'=1",
            "dev\\.bottle.x=1",
            "de\"v.bot\"tle.x=1",
            "dev.bottle.x 1",
            "DEV.bottle.x=1",
        ] {
            refused(&format!("FROM debian:12\nLABEL {words}\n"), "bottle's own");
        }
        refused("ARG K=dev.bottle.x\nFROM debian:12\nARG K\nLABEL $K=1", "no variables");
        refused("FROM debian:12\nLABEL de\\\nv.bottle.x=1", "bottle's own");
    }

    #[test]
    fn what_builders_read_differently_is_refused() {
        for (text, part) in [
            ("# syntax=docker/dockerfile:1\nFROM debian:12", "`# syntax=`"),
            ("#Syntax = x\nFROM debian:12", "`# Syntax=`"),
            ("# check=skip=all\nFROM debian:12", "`# check=`"),
            ("#!/bin/x\n# syntax=x\nFROM debian:12", "`# syntax=`"),
            ("# escape=`\n# escape=\\\nFROM debian:12", "`# escape=`"),
            ("# a note\n# escape=`\nFROM debian:12", "`# escape=`"),
            ("# escape=x\nFROM debian:12", "`# escape=`"),
            ("# escape=`\nFROM debian:12", "`# escape=`"),
            ("#escape=\\\nFROM debian:12", "`# escape=`"),
            (
                "# escape\u{a0}=`\nFROM debian:12\nRUN true # `\nADD x y",
                "\\u{a0}, which looks like",
            ),
            ("# escape\u{a0}=`\nFROM debian:12\nRUN true # `\nADD x y", "ADD is refused"),
            ("#\u{2003}escape=`\nFROM debian:12\nRUN true # `\nADD x y", "ADD is refused"),
            ("FROM debian:12\nRUN a\u{3000}b", "\\u{3000}, which looks like"),
            ("// syntax=x\nFROM debian:12", "no instruction"),
            ("{\"syntax\":\"x\"}\nFROM debian:12", "no instruction"),
            ("FROM debian:12\nRUN cat <<E\nADD x y\nE", "here-document"),
            ("FROM debian:12\nRUN x \\\n  # y\n z", "is indented"),
            ("FROM debian:12\nRUN x \\\\\nADD x y", "builders read differently"),
            ("FROM debian:12\nRUN x \\", "the file ends"),
            ("FROM debian:12 \\\n# x", "the file ends"),
            ("FROM debian:12\nRUN a\0b", "\\u{0}"),
            ("FROM debian:12\nRUN a\rADD x y", "\\u{d}"),
            ("FROM debian:12\n# \u{202e}x", "\\u{202e}"),
            ("\u{feff}FROM debian:12", "\\u{feff}"),
            ("FROM debian:12\nRUN a\u{b}b", "\\u{b}"),
            ("FROM debian:12\nHEALTHCHEC\u{212a} NONE", "no instruction"),
            ("FROM debian:12\nADD\u{a0}x y", "no instruction"),
            ("FROM debian:12\nINCLUDE x", "no instruction"),
            ("RUN x\nFROM debian:12", "before the first FROM"),
            ("# nothing\n", "there is no FROM"),
            ("", "there is no FROM"),
        ] {
            refused(text, part);
        }
    }
}
