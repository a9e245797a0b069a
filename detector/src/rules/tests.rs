//! Each built-in rule against an example and a near miss. And the loader, against what people write.

use super::examples::{EXAMPLES, fill};
use crate::{Detector, Finding, Rules, RulesError, What};

fn scan(rules: &std::sync::Arc<Rules>, text: &str) -> Vec<Finding> {
    Detector::new(Some(rules.clone()), None).scan(text.as_bytes())
}

fn ids(found: &[Finding]) -> Vec<&str> {
    found
        .iter()
        .map(|finding| match &finding.what {
            What::Rule(id) | What::Value(id) => id.as_str(),
        })
        .collect()
}

fn has(found: &[Finding], id: &str) -> bool {
    ids(found).contains(&id)
}

#[test]
fn each_built_in_rule_finds_its_example_and_not_its_near_miss() {
    let rules = Rules::builtin();
    let mut wrong = Vec::new();
    for (id, example, near_miss) in EXAMPLES {
        for seed in 0..20 {
            for around in [(" ", " "), ("", ""), ("\\n", "\\n"), ("=\"", "\"")] {
                let wrap = |text: &str| format!("{}{}{}", around.0, fill(text, seed), around.1);
                let (example, near_miss) = (wrap(example), wrap(near_miss));
                if !has(&scan(&rules, &example), id) {
                    wrong.push(format!("{id} misses {example:?}"));
                }
                if has(&scan(&rules, &near_miss), id) {
                    wrong.push(format!("{id} is found in {near_miss:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_built_in_rule_has_an_example() {
    let rules = Rules::builtin();
    let without: Vec<&str> =
        rules.ids().filter(|id| !EXAMPLES.iter().any(|(of, ..)| of == id)).collect();
    assert!(without.is_empty(), "{without:?}");
    assert!(rules.ids().count() >= 60);
}

#[test]
fn every_built_in_rule_is_tried_at_literals_alone() {
    let rules = Rules::builtin();
    let elsewhere: Vec<&str> = rules.blocks.iter().map(|at| rules.id(*at)).collect();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
}

#[test]
fn what_is_found_is_the_secret_alone() {
    let text = "export API_KEY=\"".to_owned() + &fill("{32a}", 1) + "\"";
    let found = scan(&Rules::builtin(), &text);
    assert_eq!(ids(&found), ["generic-api-key"]);
    assert_eq!(found[0].span, 16..48);
}

#[test]
fn a_line_end_in_json_is_no_letter_before_a_token() {
    let text = format!("{{\"a\": \"one\\n{}\"}}", fill("AKIA{16T}", 3));
    assert_eq!(ids(&scan(&Rules::builtin(), &text)), ["aws-access-token"]);
}

/// Rules of the kinds that people's files hold.
const OWN: &str = r#"
title = "ours"
minVersion = "v8.25.0"

[extend]
useDefault = true
disabledRules = ["npm-access-token", "no-such-rule"]

[[rules]]
id = "ours-prefix"
description = "begins with a literal"
regex = '''\bours_([a-z0-9]{20})\b'''
keywords = ["ours_"]
tags = ["key", "ours"]
severity = "high"

[[rules]]
id = "ours-near"
regex = '''(?i)[\w.-]{0,50}?(?:acme)(?:[ \t\w.-]{0,20})[\s'"]{0,3}(?:=|>|:{1,3}=|\|\||:|=>|\?=|,)[\x60'"\s=]{0,5}([a-f0-9]{32})(?:[\x60'"\s;]|\\[nr]|$)'''
keywords = ["Acme"]
entropy = 3
secretGroup = 1

[[rules]]
id = "ours-anywhere"
regex = '''[0-9]{4}-[A-F]{12}-[0-9]{4}'''

[[rules]]
id = "ours-path"
path = '''(?i)\.(?:p12|pfx)$'''

[[rules]]
id = "ours-yaml"
regex = '''pin: ([0-9]{12})'''
path = '''\.ya?ml$'''

[[rules]]
id = "ours-allowed"
regex = '''token:([a-z0-9]{8})'''
[rules.allowlist]
stopwords = ["sample"]
[[rules.allowlists]]
regexTarget = "match"
regexes = ['''token:zz''']
[[rules.allowlists]]
regexTarget = "line"
regexes = ['''# no secret''']
[[rules.allowlists]]
condition = "AND"
paths = ['''^docs/''']
regexes = ['''^d''']

[[allowlists]]
targetRules = ["ours-prefix"]
regexes = ['''^0{20}$''']

[allowlist]
paths = ['''^vendor/''']
"#;

#[test]
fn rules_of_each_kind_are_tried_where_they_should() {
    let rules = Rules::with(OWN).unwrap();
    let hex = fill("{32h}", 5);
    for (text, id) in [
        ("x ours_aaaaabbbbbccccc12345 y".to_owned(), "ours-prefix"),
        (format!("the_acme_key = \"{hex}\""), "ours-near"),
        ("1234-ABCDEFABCDEF-1234".to_owned(), "ours-anywhere"),
        ("token:abcd1234".to_owned(), "ours-allowed"),
    ] {
        assert_eq!(ids(&scan(&rules, &text)), [id], "{text}");
        let far = format!("{}{text}{}", " .".repeat(5000), " .".repeat(5000));
        assert_eq!(ids(&scan(&rules, &far)), [id], "{text}, far in");
    }
    for text in [
        "x ours_aaaaabbbbbccccc1234 y".to_owned(),
        format!("the_acne_key = \"{hex}\""),
        format!("acme key = \"{}\"", "ab".repeat(16)),
        "1234-ABCDEFABCDEG-1234".to_owned(),
        fill("npm_{36a}", 1),
        "ours_00000000000000000000".to_owned(),
        "pin: 123456789012".to_owned(),
    ] {
        assert_eq!(scan(&rules, &text), [], "{text}");
    }
}

#[test]
fn allow_lists_let_pass_what_they_say() {
    let rules = Rules::with(OWN).unwrap();
    for allowed in ["token:sample12", "token:zz123456", "token:abcd1234 # no secret"] {
        assert_eq!(scan(&rules, allowed), [], "{allowed}");
    }
    let next_line = "token:abcd1234\n# no secret";
    assert_eq!(ids(&scan(&rules, next_line)), ["ours-allowed"]);
}

#[test]
fn paths_count_where_there_is_one() {
    let all = Detector::new(Some(Rules::with(OWN).unwrap()), None);
    let scan = |path: &str, text: &str| all.for_path(path).scan(text.as_bytes());
    assert_eq!(ids(&scan("keys/a.P12", "")), ["ours-path"]);
    assert_eq!(ids(&scan("a.yml", "pin: 123456789012")), ["ours-yaml"]);
    assert_eq!(scan("a.txt", "pin: 123456789012"), []);
    assert_eq!(scan("docs/a", "token:dbcd1234"), []);
    assert_eq!(ids(&scan("docs/a", "token:abcd1234")), ["ours-allowed"]);
    assert_eq!(ids(&scan("src/a", "token:dbcd1234")), ["ours-allowed"]);
    assert_eq!(scan("vendor/a.yml", "pin: 123456789012 token:abcd1234"), []);
}

#[test]
fn a_rule_replaces_the_built_in_one_of_its_id() {
    let rules = Rules::with("[[rules]]\nid = \"github-pat\"\nregex = '''abc_[0-9]{4}'''").unwrap();
    assert_eq!(scan(&rules, &fill("ghp_{36a}", 1)), []);
    assert_eq!(ids(&scan(&rules, "abc_1234")), ["github-pat"]);
}

#[test]
fn errors_name_the_rule_and_what_is_wrong() {
    let error = |toml: &str| {
        let RulesError(text) = Rules::with(toml).unwrap_err();
        text
    };
    for (toml, expected) in [
        ("rules = 3", "the file: `rules` is of type integer, expected a list of tables"),
        ("[[rules]]\nregex = 'a'", "rule 1: expected an `id`"),
        ("[[rules]]\nid = 'a'", "rule `a`: expected a `regex` or a `path`"),
        (
            "[[rules]]\nid = 'a'\nregex = 3",
            "rule `a`: `regex` is of type integer, expected a string",
        ),
        (
            "[[rules]]\nid = 'a'\nregex = '(?=b)'",
            "rule `a`: `regex` does not compile: look-around, including look-ahead and look-behind, is not supported",
        ),
        ("[[rules]]\nid = 'a'\nregex = '(b'", "rule `a`: `regex` does not compile: unclosed group"),
        (
            "[[rules]]\nid = 'a'\nregex = '(?:[a-z]{1000}){1000}'",
            "rule `a`: `regex` does not compile: it takes more than 4194304 bytes of memory",
        ),
        (
            "[[rules]]\nid = 'a'\nregex = 'b'\nsecretGroup = 1",
            "rule `a`: `secretGroup` is 1, yet the regex has 0 group(s)",
        ),
        (
            "[[rules]]\nid = 'a'\nregex = 'b'\n[[rules.allowlists]]\ncondition = 'XOR'",
            "rule `a`: allow-list: `condition` is neither \"OR\" nor \"AND\"",
        ),
        (
            "[[rules]]\nid = 'a'\nregex = 'b'\n[[rules.allowlists]]\nregexes = ['(']",
            "rule `a`: `allow-list regexes` does not compile: unclosed group",
        ),
        (
            "[[rules]]\nid = 'a'\nregex = 'b'\n[[rules]]\nid = 'a'\nregex = 'c'",
            "rule `a` is there twice",
        ),
        (
            "[extend]\npath = 'base.toml'",
            "[extend]: `path` is not supported: a rules file stands alone; copy the other file's rules into this one",
        ),
    ] {
        assert_eq!(error(toml), expected, "{toml}");
    }
    assert!(
        error("title = \"a\"\nb = ").starts_with("line 2: "),
        "{}",
        error("title = \"a\"\nb = ")
    );
}

#[test]
fn every_pattern_of_ours_compiles() {
    let rules = Rules::builtin();
    let compiled =
        rules.rules.iter().filter_map(|rule| rule.regex.as_ref()).map(super::Pattern::regex);
    assert!(compiled.count() > 100);
}
