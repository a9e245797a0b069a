//! Tests of the loader: text in, findings or definitions out.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;

use super::keys::{self, Shape, Status, Table};
use super::{Loaded, PRESETS, Severity, Source, SourceKind, load, load_config};
use crate::policy::{
    Access, Bottle, DlpAction, EnvValue, GitCredential, Image, Origin, Provider, Tls, WorkspaceMode,
};
use crate::words::Name;

/// A bottle `dev` in a YAML file of the home manifest.
fn dev(text: &str) -> Loaded {
    load(&[Source::new(SourceKind::HomeBottle, "bottles/dev.yaml", text)])
}

fn good(text: &str) -> Bottle {
    let loaded = dev(text);
    assert_eq!(said(&loaded), "", "{text}");
    loaded.manifest.bottles[&name("dev")].clone()
}

/// Every finding on a line: place, message, hint.
fn said(loaded: &Loaded) -> String {
    let lines: Vec<String> = loaded
        .diagnostics
        .iter()
        .map(|found| {
            let hint = found.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            let kind = if found.severity == Severity::Warning { "warning: " } else { "" };
            let Diagnosed { file, line, column } = found.into();
            format!("{file}:{line}:{column}: {kind}{}{hint}", found.message)
        })
        .collect();
    lines.join("\n")
}

struct Diagnosed<'d> {
    file: &'d str,
    line: u32,
    column: u32,
}

impl<'d> From<&'d super::Diagnostic> for Diagnosed<'d> {
    fn from(found: &'d super::Diagnostic) -> Self {
        let file = found.file.rsplit('/').next().unwrap_or(&found.file);
        Self { file, line: found.line, column: found.column }
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Each text gives exactly these findings.
fn check_all(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (text, expected) in cases {
        let found = said(&dev(text)).replace("dev.yaml:", "");
        if found != *expected {
            wrong += &format!("\n{text}\n  expected: {expected}\n  found:    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A bottle with one route.
fn route(text: &str) -> String {
    format!("egress: {{routes: [{{{text}}}]}}")
}

/// Routes that are refused, and the messages without their places.
fn check_routes(cases: &[(&str, &str)]) {
    let mut wrong = String::new();
    for (text, expected) in cases {
        let loaded = dev(&route(text));
        let found: Vec<&str> = loaded.diagnostics.iter().map(|f| f.message.as_str()).collect();
        let found = found.join("\n");
        if found != *expected {
            wrong += &format!("\n{text}\n  expected: {expected}\n  found:    {found}\n");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn an_empty_bottle_has_every_default() {
    let bottle = good("");
    assert_eq!(bottle.lineage, ["bottles/dev.yaml"]);
    assert_eq!(bottle.provider, Provider::Claude);
    assert_eq!(bottle.limits, crate::policy::Limits::default());
    assert_eq!(bottle.workspace.default, None);
    assert!(!bottle.workspace.modes.contains(&WorkspaceMode::Mount));
    assert_eq!(bottle.workspace.hide, BTreeSet::from([".env*".to_string()]));
    assert!(!bottle.supervise && !bottle.repo_agents && bottle.egress.routes.is_empty());
}

#[test]
fn yaml_that_is_refused() {
    check_all(&[
        ("env: {A: 1, A: 2}", "1:13: `A` is given twice, first at line 1 column 7"),
        (
            "supervise: true\nsupervise: false\n",
            "2:1: `supervise` is given twice, first at line 1 column 1",
        ),
        (
            "env: &e {A: x}\n",
            "1:6: anchors and aliases are not read here (write the value out; `extends` shares what bottles have in common)",
        ),
        (
            "supervise: !!bool true",
            "1:12: the tag `tag:yaml.org,2002:!bool` is not read here (leave the tag out)",
        ),
        ("supervise: true\n---\nsupervise: false\n", "3:1: a second document in one file"),
        ("env: {A: x", "2:1: while parsing a flow mapping, did not find expected ',' or '}'"),
        (
            "extends: @claude",
            "1:10: unexpected character: `@' (a name that begins with `@` needs quotes: \"@claude\")",
        ),
        ("env: {A: \"x\u{0}y\"}", "1:12: a control character in the text"),
        ("- a\n- b\n", "1:1: `dev`: expected a mapping, found a list"),
        (
            "supervise:",
            "1:1: `supervise` has no value, expected true or false (leave the key out, or give it a value (an empty text is \"\"))",
        ),
        ("? [a]\n: b\n", "1:3: expected a key, found a list"),
    ]);
}

#[test]
fn alias_bombs_end_at_once() {
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x]\n");
    for pair in ["ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"] {
        let (from, to) = pair.split_at(1);
        bomb += &format!("{to}: &{to} [*{from}, *{from}, *{from}, *{from}, *{from}, *{from}]\n");
    }
    let loaded = dev(&bomb);
    let aliases = loaded.diagnostics.iter().filter(|found| found.code == "alias").count();
    assert_eq!((aliases, loaded.manifest.bottles.len()), (1, 0));
}

#[test]
fn depth_and_size_are_bounded() {
    for deep in ["[".repeat(200), "{a: ".repeat(200), "- ".repeat(200), "[".repeat(1 << 19)] {
        let loaded = dev(&format!("env: {{A: {deep}"));
        assert!(loaded.has_errors());
        assert_eq!(loaded.diagnostics.len(), 1);
    }
    assert_eq!(dev(&("a: ".to_string() + &"[".repeat(70))).diagnostics[0].code, "too-deep");
    let loaded = dev(&" ".repeat(50 << 20));
    assert_eq!(said(&loaded), "dev.yaml:1:1: the file has more than 1024 KiB");
}

#[test]
fn line_ends_and_byte_order_marks() {
    assert!(good("\u{feff}supervise: true\r\nrepo_agents: true\r\n").supervise);
    check_all(&[("supervise: true\rx: 1", "1:16: a control character in the text")]);
}

#[test]
fn keys() {
    check_all(&[
        ("extend: base", "1:1: a bottle has no key `extend` (did you mean `extends`?)"),
        ("mcp: {}", "1:1: `mcp` is reserved, not built yet"),
        ("gpus: 1", "1:1: `gpus` is reserved, not built yet"),
        ("zzzzz: 1", "1:1: a bottle has no key `zzzzz`"),
        (
            "git_user: {name: A, email: a@b, signing: x}",
            "1:33: `signing` is reserved, not built yet",
        ),
        ("egress: {unlisted: ask}", "1:10: `unlisted` is reserved, not built yet"),
        ("egress: {roots: []}", "1:10: `egress` has no key `roots` (did you mean `routes`?)"),
        ("\"\\e[2J\": 1", "1:1: a bottle has no key `\\u{1b}[2J`"),
        ("pipelok: x", "1:1: a bottle has no key `pipelok` (did you mean `pipelock`?)"),
    ]);
}

#[test]
fn all_errors_of_a_file_at_once() {
    check_all(&[(
        "supervise: yes\n\
         isolation: gvisr\n\
         limits: {memory: 512, idle: never}\n\
         egress:\n  routes:\n    - host: 10.0.0.1\n    - hots: a.dev\n\
         git:\n  - name: A\n    upstream: /x\n",
        "1:12: `supervise`: expected true or false, found `yes` (YAML 1.2 reads yes, no, on and off as text)\n\
         2:12: `isolation`: expected auto or gvisor or container, found `gvisr` (did you mean `gvisor`?)\n\
         3:18: `memory`: expected a size from 6MiB like `512MiB` or `4g`, found `512` (the unit is missing)\n\
         3:29: `idle`: expected a time up to 366d like `90s`, `30m` or `12h`, found `never`\n\
         6:13: `host`: expected a host name, or `*.` and a host name (no IP address, port or path), found `10.0.0.1` (name the host, and pin it with `address`)\n\
         7:7: a route has no key `hots` (did you mean `host`?)\n\
         9:11: `name`: expected a name of lower-case letters, digits and dashes that begins with a letter (at most 48), found `A`\n\
         10:15: `upstream`: expected ssh://user@host/path, git@host:path or https://host/path",
    )]);
}

#[test]
fn environment() {
    let bottle = good(
        "env:\n  PORT: 8080\n  YES: yes\n  EMPTY: \"\"\n  ASK: ?\"no\"\n  ASK2: \"?\"\n  GH: ${GH_PAT}\n  \
         NPM: {secret: NPM_TOKEN, use_at: [Registry.npmjs.org]}\n",
    );
    let literal = |value: &str| EnvValue::Literal { value: value.into() };
    let value = |key: &str| bottle.env[&crate::words::EnvName::new(key).unwrap()].clone();
    assert_eq!(value("PORT"), literal("8080"));
    assert_eq!(value("YES"), literal("yes"));
    assert_eq!(value("EMPTY"), literal(""));
    assert_eq!(value("ASK"), EnvValue::Prompt { message: "\"no\"".into() });
    assert_eq!(value("ASK2"), EnvValue::Prompt { message: String::new() });
    assert!(matches!(value("GH"), EnvValue::Secret { use_at, .. } if use_at.is_empty()));
    let EnvValue::Secret { secret, use_at } = value("NPM") else { panic!("no secret") };
    assert_eq!((secret.as_str(), use_at.len()), ("NPM_TOKEN", 1));
    check_all(&[
        (
            "env: {https_proxy: x}",
            "1:7: bottle itself sets `https_proxy` (the proxy) (leave the variable out)",
        ),
        (
            "env: {LD_PRELOAD: x}",
            "1:7: bottle itself sets `LD_PRELOAD` (the loader) (leave the variable out)",
        ),
        (
            "env: {SSL_CERT_FILE: x}",
            "1:7: bottle itself sets `SSL_CERT_FILE` (the session's CA) (leave the variable out)",
        ),
        (
            "env: {1A: x}",
            "1:7: expected a variable name of letters, digits and underscores that does not begin with a digit, found `1A`",
        ),
        (
            "env: {A: \"hunter2\\nb\"}",
            "1:10: the value of `A` has more than one line (an environment file cannot carry it; make it a secret: ${NAME})",
        ),
        (
            "env: {A: '${1x}'}",
            "1:10: `A`: expected ${NAME} with a name of letters, digits and underscores",
        ),
        (
            "env: {A: 'x${B}'}",
            "1:10: warning: `${` inside the value of `A` is taken literally (only a whole value ${NAME} names a secret)",
        ),
        (
            "env: {A: {secrt: B}}",
            "1:11: a variable's secret has no key `secrt` (did you mean `secret`?)",
        ),
        ("env: {A: [x]}", "1:10: `A`: expected text, found a list"),
        (
            "env: {A: ~}",
            "1:7: `A` has no value, expected text (leave the key out, or give it a value (an empty text is \"\"))",
        ),
    ]);
}

#[test]
fn placeholders_are_bottles_own() {
    let route = "egress: {routes: [{host: a.dev, auth: {scheme: token, secret: S, placeholder: GH_TOKEN}}]}";
    check_all(&[
        (
            &format!("env: {{GH_TOKEN: x}}\n{route}"),
            "1:7: bottle itself sets `GH_TOKEN` (a placeholder of route `a.dev`) (leave the variable out: egress puts the credential in)",
        ),
        (
            "extends: \"@claude\"\nenv: {CLAUDE_CODE_OAUTH_TOKEN: '?'}",
            "2:7: bottle itself sets `CLAUDE_CODE_OAUTH_TOKEN` (a placeholder of route `api.anthropic.com`) (leave the variable out: egress puts the credential in)",
        ),
        ("extends: \"@claude\"\nenv: {DISABLE_ERROR_REPORTING: \"0\"}", ""),
    ]);
    check_routes(&[(
        "host: a.dev, auth: {scheme: token, secret: S, placeholder: HTTP_PROXY}",
        "bottle itself sets `HTTP_PROXY` (the proxy)",
    )]);
}

#[test]
fn routes_that_are_granted() {
    let one = |text: &str| good(&route(text)).egress.routes.into_values().next().unwrap();
    let plain = one("host: API.Example.com");
    assert_eq!((plain.port, plain.tls, plain.allow.len()), (443, Tls::Intercept, 1));
    assert_eq!(plain.allow[0].access, Access::All);
    assert_eq!((plain.dlp.own_secrets, plain.dlp.patterns), (DlpAction::Block, DlpAction::Block));
    assert_eq!(one("host: a.dev, port: 80").port, 80);
    assert_eq!(
        one("host: a.dev, address: 'fd00::1', allow_private: true").address.unwrap().to_string(),
        "fd00::1"
    );
    let tunnel = one("host: '*.a.dev', tls: passthrough");
    assert_eq!((tunnel.dlp.own_secrets, tunnel.dlp.patterns), (DlpAction::Off, DlpAction::Off));
    let old = one("host: a.dev, path_allowlist: [/v1/, /], methods: [GET]");
    assert_eq!(old.allow[0].paths, ["/v1", "/v1/**", "/", "/**"]);
    assert_eq!(old.allow[0].methods, BTreeSet::from(["GET".to_string()]));
    let model = one("host: a.dev, role: model_provider");
    assert_eq!((model.dlp.own_secrets, model.dlp.patterns), (DlpAction::Redact, DlpAction::Warn));
    let half = one("host: a.dev, role: model_provider, dlp: {patterns: off}");
    assert_eq!((half.dlp.own_secrets, half.dlp.patterns), (DlpAction::Redact, DlpAction::Off));
    let today = one("host: a.dev, auth: {scheme: Bearer, token_ref: T}").auth.unwrap();
    assert_eq!((today.secret.as_str(), today.header.as_str()), ("T", "authorization"));
    let header =
        one("host: a.dev, auth: {scheme: header, header: X-Api-Key, secret: T}").auth.unwrap();
    assert_eq!(header.header, "x-api-key");
    let rules = one(
        "host: a.dev, allow: [{access: read}, {methods: [POST], paths: [/repos/*/pulls], auth: {scheme: basic, secret: B}}], deny: [{paths: [/admin/**]}]",
    );
    assert_eq!((rules.allow.len(), rules.deny.len()), (2, 1));
    assert!(rules.allow[1].auth.is_some());
}

#[test]
fn routes_that_are_refused() {
    check_routes(&[
        ("host: a.dev, auth: {}", "`auth` needs `scheme`\n`auth` needs `secret`"),
        ("host: a.dev, auth: {scheme: Bearer}", "`auth` needs `secret`"),
        ("host: a.dev, auth: {secret: S}", "`auth` needs `scheme`"),
        (
            "host: a.dev, auth: {scheme: header, secret: S}",
            "`auth` with scheme header needs `header`",
        ),
        (
            "host: a.dev, auth: {scheme: header, secret: S, header: 'a b'}",
            "`header`: expected a header name, found `a b`",
        ),
        (
            "host: a.dev, auth: {scheme: header, secret: S, header: Host}",
            "`header`: no credential goes into `host`",
        ),
        ("host: a.dev, auth: {scheme: aws-sigv4}", "`aws-sigv4` is reserved, not built yet"),
        (
            "host: a.dev, auth: {scheme: bearer, secret: S}",
            "`scheme`: expected Bearer or token or basic or header, found `bearer`",
        ),
        (
            "host: a.dev, auth: {scheme: token, secret: S, token_ref: S}",
            "`token_ref` says again what `secret` or its alias said",
        ),
        ("host: a.dev, allow: []", "`allow` is an empty list"),
        ("host: a.dev, allow: [{}]", "a rule without a key would mean every request"),
        ("host: a.dev, allow: [{paths: []}]", "`paths` is an empty list"),
        ("host: a.dev, allow: [{methods: []}]", "`methods` is an empty list"),
        ("host: a.dev, path_allowlist: []", "`path_allowlist` is an empty list"),
        ("host: a.dev, path_allowlist: ['/v*']", "`path_allowlist`: a prefix has no wildcards"),
        (
            "host: a.dev, allow: [{access: read}], methods: [GET]",
            "`methods` and `allow` do not go together",
        ),
        (
            "host: a.dev, allow: [{access: read, methods: [GET]}]",
            "`access` and `methods` do not go together",
        ),
        (
            "host: a.dev, allow: [{methods: [get]}]",
            "`methods`: methods are upper case, found `get`",
        ),
        (
            "host: a.dev, allow: [{methods: [CONNECT]}]",
            "`methods`: expected an HTTP method, found `CONNECT`",
        ),
        ("host: a.dev, allow: [{paths: [v1]}]", "`paths`: a path begins with `/`, found `v1`"),
        (
            "host: a.dev, allow: [{paths: [/a/../b]}]",
            "`paths`: `.` and `..` are not allowed, found `/a/../b`",
        ),
        ("host: a.dev, allow: [{graphql: query}]", "`graphql` is reserved, not built yet"),
        ("host: a.dev, allow: [{access: read, until: x}]", "`until` is reserved, not built yet"),
        (
            "host: a.dev, deny: [{access: all, auth: {scheme: token, secret: S}}]",
            "a deny rule needs no credential",
        ),
        (
            "host: a.dev, port: 80, auth: {scheme: token, secret: S}",
            "a credential would go over port 80 unencrypted",
        ),
        (
            "host: a.dev, port: 80, allow: [{access: all, auth: {scheme: token, secret: S}}]",
            "a credential would go over port 80 unencrypted",
        ),
        ("host: a.dev, port: 0", "`port`: expected a whole number from 1 to 65535"),
        ("host: a.dev, port: 70000", "`port`: expected a whole number from 1 to 65535"),
        ("host: a.dev, port: '443'", "`port`: expected a whole number from 1 to 65535"),
        (
            "host: a.dev, tls: passthrough, auth: {scheme: token, secret: S}",
            "tls passthrough cannot enforce `auth`: egress does not look inside",
        ),
        (
            "host: a.dev, tls: passthrough, allow: [{access: read}]",
            "tls passthrough cannot enforce paths, methods or `auth`: egress does not look inside",
        ),
        (
            "host: a.dev, tls: passthrough, methods: [GET]",
            "tls passthrough cannot enforce paths or methods: egress does not look inside",
        ),
        (
            "host: a.dev, tls: passthrough, path_allowlist: [/a]",
            "tls passthrough cannot enforce paths or methods: egress does not look inside",
        ),
        (
            "host: a.dev, tls: passthrough, deny: [{paths: [/a]}]",
            "tls passthrough cannot enforce a deny rule: egress does not look inside",
        ),
        (
            "host: a.dev, tls: passthrough, dlp: {patterns: warn}",
            "tls passthrough cannot enforce a leak policy other than off: egress does not look inside",
        ),
        ("host: a.dev, tls: passthrough, allow: [{access: all}], dlp: {patterns: off}", ""),
        (
            "host: a.dev, dlp: {patterns: of}",
            "`patterns`: expected block or redact or warn or off, found `of`",
        ),
        ("host: a.dev, dlp: {}", "`dlp` says nothing"),
        ("host: a.dev, address: somewhere", "`address`: expected an IP address, found `somewhere`"),
        (
            "host: a.dev, role: claude",
            "`role`: expected claude_code_oauth or model_provider, found `claude`",
        ),
        ("host: a.dev, role: claude_code_oauth", "role claude_code_oauth without `auth`"),
        (
            "host: 'https://a.dev/'",
            "`host`: expected a host name, or `*.` and a host name (no IP address, port or path), found `https://a.dev/`",
        ),
        (
            "host: '*'",
            "`host`: expected a host name, or `*.` and a host name (no IP address, port or path), found `*`",
        ),
        ("host: a.dev}, {host: A.DEV", "a second route for `a.dev`, first at line 1"),
        (
            "host: a.dev, role: claude_code_oauth, auth: {scheme: Bearer, secret: S}}, {host: b.dev, role: claude_code_oauth, auth: {scheme: Bearer, secret: S}",
            "a second route with role claude_code_oauth, besides `a.dev`",
        ),
    ]);
}

#[test]
fn named_files_stay_below_the_manifest() {
    assert_eq!(
        good("egress: {rules: ./leaks.toml}").egress.rules.unwrap().path.as_str(),
        "leaks.toml"
    );
    for bad in ["/etc/x", "../x", "a/../../x", "~/x", "a//b", "'a\\b'"] {
        for text in [format!("egress: {{rules: {bad}}}"), format!("image: {{dockerfile: {bad}}}")] {
            assert_eq!(dev(&text).diagnostics[0].code, "bad-value", "{text}");
        }
    }
}

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

#[test]
fn git_in_both_spellings() {
    let new = good(&format!(
        "git:\n  - name: web\n    upstream: git@github.com:acme/web.git\n    identity_file: ~/.ssh/id\n    \
         known_host_key: {KEY}\n    extra_hosts: {{GitHub.com: 10.0.0.1}}\n"
    ));
    let old = good(&format!(
        "git:\n  - Name: web\n    Upstream: git@github.com:acme/web.git\n    IdentityFile: ~/.ssh/id\n    \
         KnownHostKey: [{KEY} a comment]\n    ExtraHosts: {{github.com: 10.0.0.1}}\n"
    ));
    assert_eq!(new.git, old.git);
    let remote = &new.git[&name("web")];
    assert_eq!(remote.credential, GitCredential::IdentityFile { path: "~/.ssh/id".into() });
    assert_eq!(remote.push.branches, BTreeSet::from(["agent/*".to_string()]));
    assert!(!remote.push.tags && !remote.push.force && !remote.push.delete);
    assert_eq!(remote.known_host_keys, BTreeSet::from([KEY.to_string()]));
}

#[test]
fn git_that_is_refused() {
    let ssh = format!("upstream: 'git@a.dev:x', known_host_key: {KEY}");
    let cases = [
        (
            format!("name: a, {ssh}, identity_file: ~/k, secret: S"),
            "`identity_file` and `secret` do not go together",
        ),
        (format!("name: a, {ssh}"), "an ssh upstream needs a credential"),
        (format!("name: a, {ssh}, secret: S"), ""),
        ("name: a, upstream: 'https://a.dev/x'".into(), ""),
        (
            "name: a, upstream: 'https://a.dev/x', identity_file: ~/k".into(),
            "`identity_file` is for ssh upstreams alone",
        ),
        (
            format!("name: a, upstream: 'https://a.dev/x', known_host_key: {KEY}"),
            "`known_host_key` is for ssh upstreams alone",
        ),
        (
            "name: a, upstream: 'git@a.dev:x', secret: S".into(),
            "an ssh upstream without `known_host_key`",
        ),
        (
            "name: a, upstream: 'git@a.dev:x', secret: S, known_host_key: []".into(),
            "`known_host_key` is an empty list",
        ),
        (
            format!("name: a, upstream: 'git@a.dev:x', secret: S, known_host_key: a.dev {KEY}"),
            "`known_host_key`: expected a public host key like `ssh-ed25519 AAAA…`",
        ),
        (
            format!("name: a, {ssh}, identity_file: keys/id"),
            "`identity_file`: expected a path that begins with `/` or `~/`, found `keys/id`",
        ),
        (
            format!("name: '@a', {ssh}, secret: S"),
            "`name`: expected a name that does not begin with `@`, found `@a`",
        ),
        (
            format!("name: a, {ssh}, secret: S}}, {{name: a, {ssh}, secret: S"),
            "a second git entry `a`, first at line 1",
        ),
        (
            format!("name: a, {ssh}, secret: S, extra_hosts: {{h.dev: x}}"),
            "`h.dev`: expected an IP address, found `x`",
        ),
        (
            format!("name: a, {ssh}, secret: S, extra_hosts: {{h.dev: 1.1.1.1, H.dev: 1.1.1.2}}"),
            "`h.dev` is given two addresses",
        ),
        (
            format!(
                "name: a, {ssh}, secret: S, extra_hosts: {{h.dev: 1.1.1.1}}}}, {{name: b, {ssh}, secret: S, extra_hosts: {{h.dev: 1.1.1.2}}"
            ),
            "`h.dev` is 1.1.1.2 here and 1.1.1.1 in git entry `a`",
        ),
        (
            format!("name: a, {ssh}, secret: S, push: {{branches: [refs/heads/x]}}"),
            "`branches`: a branch is named without `refs/heads/`, found `refs/heads/x`",
        ),
        (format!("name: a, {ssh}, secret: S, push: {{tag: true}}"), "`push` has no key `tag`"),
    ];
    for (text, expected) in cases {
        let loaded = dev(&format!("git: [{{{text}}}]"));
        let found: Vec<&str> = loaded.diagnostics.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(found.join("\n"), expected, "{text}");
    }
    let push =
        good(&format!("git: [{{name: a, {ssh}, secret: S, push: {{branches: [], tags: true}}}}]"));
    let push = &push.git[&name("a")].push;
    assert!(push.branches.is_empty() && push.tags && !push.force);
}

#[test]
fn no_message_shows_what_may_be_a_secret() {
    for text in [
        "git: [{name: a, upstream: 'https://me:hunter2@a.dev/x'}]",
        "git: [{name: a, upstream: 'https://a.dev/x', secret: sk-hunter2}]",
        "env: {A: {secret: sk-hunter2}}",
        "env: {A: \"hunter2\\nx\"}",
    ] {
        let loaded = dev(text);
        assert!(loaded.has_errors() && !said(&loaded).contains("hunter2"), "{text}");
    }
}

#[test]
fn git_user() {
    assert_eq!(good("git_user: {name: A B, email: a@b.dev}").git_user.unwrap().email, "a@b.dev");
    check_all(&[
        ("git_user: {name: A}", "1:18: `git_user` needs `email` too"),
        (
            "git_user: {name: \"A\\nB\", email: a@b}",
            "1:18: `name`: expected one line of text without tabs",
        ),
        ("git_user: {name: A <b>, email: a@b}", "1:18: `name`: expected text without `<` and `>`"),
    ]);
}

#[test]
fn workspace() {
    let modes = |text: &str| good(&format!("workspace: {{modes: [{text}]}}")).workspace.default;
    assert_eq!(modes("copy, clone"), None);
    assert_eq!(modes("mount"), Some(WorkspaceMode::Mount));
    assert_eq!(modes("mount, none"), Some(WorkspaceMode::None));
    assert_eq!(modes("mount, copy"), Some(WorkspaceMode::Copy));
    assert!(good("workspace: {hide: []}").workspace.hide.is_empty());
    check_all(&[
        (
            "workspace: {modes: []}",
            "1:20: `modes` is an empty list (leave the key out, or list something)",
        ),
        (
            "workspace: {modes: [copi]}",
            "1:21: `modes`: expected copy or clone or mount or none, found `copi` (did you mean `copy`?)",
        ),
        (
            "workspace: {modes: [copy], default: mount}",
            "1:37: the default mode `mount` is not among `modes`",
        ),
        ("workspace: {default: mount}", "1:22: the default mode `mount` is not among `modes`"),
        ("workspace: {hide: [../x]}", "1:20: `hide`: `.` and `..` are not allowed, found `../x`"),
        (
            "workspace: {protect: [/etc]}",
            "1:23: `protect`: a glob is below the workspace: no leading `/`, `~` or `!`, found `/etc`",
        ),
    ]);
}

#[test]
fn images() {
    let image = |text: &str| good(&format!("image: {{{text}}}")).image;
    assert!(matches!(
        image("dockerfile: Dockerfile, context: ctx"),
        Image::Dockerfile { context: Some(_), .. }
    ));
    assert!(matches!(image("reference: 'debian:12'"), Image::Reference { .. }));
    assert!(
        matches!(image("packages: [jq, g++], setup: \"a\\nb\", build: {network: open}"), Image::Provider { packages, .. } if packages.len() == 2)
    );
    assert!(
        matches!(image("allow_from: ['debian:12']"), Image::Provider { build, .. } if build.allow_from.len() == 1)
    );
    check_all(&[
        (
            "image: 'debian:12'",
            "1:8: `image`: expected a mapping, found text (write `image: {reference: debian:12}`)",
        ),
        (
            "image: {reference: a, dockerfile: b}",
            "1:9: `dockerfile` and `reference` do not go together (an image is a dockerfile, or a reference, or packages and setup)",
        ),
        (
            "image: {reference: a, setup: b}",
            "1:23: `reference` and `setup` do not go together (an image is a dockerfile, or a reference, or packages and setup)",
        ),
        ("image: {context: a}", "1:9: `context` needs `dockerfile`"),
        (
            "image: {reference: A b}",
            "1:20: `reference`: expected an image reference like `debian:bookworm` or `name@sha256:…`, found `A b`",
        ),
        ("image: {packages: [-y]}", "1:20: `packages`: expected a Debian package name, found `-y`"),
        ("image: {build: {network: host}}", "1:26: `network`: expected open or none, found `host`"),
        (
            "pipelock: acme/pipelock:1",
            "1:11: `pipelock`: expected an image with its digest (pin it: name@sha256:…)",
        ),
    ]);
    let pinned = good(&format!("pipelock: acme/pipelock:1@sha256:{}", "0".repeat(64))).pipelock;
    assert_eq!(pinned.unwrap().name, "acme/pipelock:1");
}

#[test]
fn providers_and_limits() {
    assert_eq!(good("provider: codex").provider, Provider::Codex);
    let own = good("provider: {command: [sh, -c, ''], transcript: /srv/log}").provider;
    assert!(
        matches!(own, Provider::Command { command, resume_command, .. } if command.len() == 3 && resume_command.is_empty())
    );
    let limits =
        good("limits: {cpus: 1.5, memory: 4g, pids: 100, shm: 64MiB, time: 12h, idle: 90s}").limits;
    assert_eq!((limits.cpus_milli, limits.memory_bytes, limits.pids), (1500, 4 << 30, 100));
    assert_eq!(
        (limits.shm_bytes, limits.time_seconds, limits.idle_seconds),
        (64 << 20, 43_200, 90)
    );
    check_all(&[
        ("provider: gemini", "1:11: `provider`: expected claude or codex, found `gemini`"),
        (
            "provider: {command: []}",
            "1:21: `command` is an empty list (leave the key out, or list something)",
        ),
        (
            "provider: {command: run it}",
            "1:21: `command`: expected a list of arguments, found text (no shell reads it: [program, argument, …])",
        ),
        (
            "provider: {command: [a], transcript: b}",
            "1:38: `transcript`: expected an absolute path without `.`, `..` or control characters, found `b`",
        ),
        (
            "limits: {cpus: 0}",
            "1:16: `cpus`: expected a number of cores like `2` or `1.5`, found `0`",
        ),
        (
            "limits: {memory: 512MB}",
            "1:18: `memory`: expected a size from 6MiB like `512MiB` or `4g`, found `512MB` (powers of 1024 are written KiB, MiB, GiB or k, m, g)",
        ),
        (
            "limits: {memory: 1k}",
            "1:18: `memory`: expected a size from 6MiB like `512MiB` or `4g`, found `1k`",
        ),
        (
            "limits: {time: 90}",
            "1:16: `time`: expected a time up to 366d like `90s`, `30m` or `12h`, found `90` (the unit is missing)",
        ),
        (
            "limits: {idle: 0s}",
            "1:16: `idle`: expected a time up to 366d like `90s`, `30m` or `12h`, found `0s`",
        ),
        ("limits: {pids: 1.5}", "1:16: `pids`: expected a whole number from 16 to 4194304"),
        ("limits: {disk: 1g}", "1:10: `limits` has no key `disk`"),
    ]);
}

/// Bottles of one file.
fn single(text: &str) -> Loaded {
    load(&[Source::new(SourceKind::SingleFile, "bottle.yaml", text)])
}

#[test]
fn extends_merges_as_the_table_says() {
    let loaded = single(
        "bottles:\n  \
           base: {env: {A: base, B: base}, limits: {pids: 100}, supervise: true, egress: {routes: [{host: a.dev, port: 8443, allow: [{access: read}]}]}}\n  \
           left: {extends: base, env: {A: left}, limits: {cpus: 1}}\n  \
           right: {extends: base, env: {C: right}, isolation: gvisor}\n  \
           top: {extends: [left, right], env: {D: top}, supervise: false, egress: {routes: [{host: A.dev}]}}\n",
    );
    assert_eq!(said(&loaded), "");
    let top = &loaded.manifest.bottles[&name("top")];
    let env: Vec<String> = top
        .env
        .iter()
        .map(|(key, value)| match value {
            EnvValue::Literal { value } => format!("{key}={value}"),
            _ => key.to_string(),
        })
        .collect();
    // The right parent brings the base's A again, over the left one's.
    assert_eq!(env, ["A=base", "B=base", "C=right", "D=top"]);
    assert_eq!((top.limits.pids, top.limits.cpus_milli, top.supervise), (100, 1000, false));
    let route = top.egress.routes.values().next().unwrap();
    assert_eq!((route.port, route.allow[0].access), (443, Access::All));
    assert_eq!(
        loaded.manifest.bottles[&name("left")].lineage,
        ["bottle.yaml#base", "bottle.yaml#left"]
    );
}

#[test]
fn lineage_is_recorded() {
    let loaded = load(&[
        Source::new(
            SourceKind::HomeBottle,
            "bottles/dev.md",
            "---\nextends: [\"@claude\", base]\n---\nDocs\n",
        ),
        Source::new(SourceKind::HomeBottle, "bottles/base.md", "---\n---\n"),
    ]);
    assert_eq!(said(&loaded), "");
    let dev = &loaded.manifest.bottles[&name("dev")];
    assert_eq!(dev.lineage, ["@claude", "bottles/base.md", "bottles/dev.md"]);
    assert!(loaded.manifest.bottles.contains_key(&name("@claude")));
    assert!(!loaded.manifest.bottles.contains_key(&name("@codex")));
}

#[test]
fn extends_that_is_refused() {
    let said = |text: &str| said(&single(text)).replace("bottle.yaml:", "");
    assert_eq!(
        said("bottles: {a: {extends: bse}, base: {}}"),
        "1:24: there is no bottle `bse` (did you mean `base`?)"
    );
    assert_eq!(
        said("bottles: {a: {extends: '@claud'}}"),
        "1:24: there is no preset `@claud` (did you mean `@claude`?)"
    );
    assert_eq!(
        said("bottles: {a: {extends: a}}"),
        "1:24: bottles extend each other in a circle: a → a"
    );
    assert_eq!(
        said(
            "bottles: {a: {extends: b}, b: {extends: c}, c: {extends: a}, d: {extends: a}}\nagents: {x: {bottle: d}}"
        ),
        "1:69: bottles extend each other in a circle: a → b → c → a".replace("1:69", "1:58")
    );
    assert_eq!(said("bottles: {a: {extends: [b, b]}, b: {}}"), "1:28: `b` is named twice");
    assert_eq!(
        said("bottles: {'@claude': {}}"),
        "1:11: expected a name that does not begin with `@`, found `@claude`"
    );
}

#[test]
fn one_error_makes_no_storm() {
    let loaded = single(
        "bottles: {a: {supervise: maybe}, b: {extends: a}, c: {extends: [b]}}\nagents: {x: {bottle: a}, y: {bottle: c}}",
    );
    assert_eq!(loaded.diagnostics.len(), 1);
    assert!(loaded.manifest.bottles.is_empty() && loaded.manifest.agents.is_empty());
}

#[test]
fn long_chains_are_bounded() {
    let mut text = String::from("bottles:\n  b0: {}\n");
    for n in 1..5000 {
        text += &format!("  b{n}: {{extends: b{}, env: {{V{n}: x}}}}\n", n - 1);
    }
    let loaded = single(&text);
    let codes: Vec<&str> = loaded.diagnostics.iter().map(|found| found.code).collect();
    assert_eq!((codes, loaded.manifest.bottles.len()), (vec!["extends-too-deep"], 64));
}

#[test]
fn inheritance_cannot_fill_the_memory() {
    let mut text = String::from("bottles:\n  base:\n    env:\n");
    (0..2000).for_each(|n| text += &format!("      V{n}: x\n"));
    (0..2000).for_each(|n| text += &format!("  b{n}: {{extends: base}}\n"));
    let loaded = single(&text);
    assert_eq!(loaded.diagnostics[0].code, "too-many-parts");
    assert!(loaded.manifest.bottles.len() <= 50);
    let parents: Vec<String> = (0..100).map(|n| format!("b{n}")).collect();
    let loaded = single(&format!("bottles: {{a: {{extends: [{}]}}}}", parents.join(", ")));
    assert_eq!(loaded.diagnostics[0].code, "extends-too-deep");
}

fn home() -> Vec<Source> {
    vec![
        Source::new(
            SourceKind::HomeBottle,
            "bottles/dev.md",
            "---\nskills: [review]\nrepo_agents: true\ngit_user: {name: A, email: a@b}\n---\n# Docs\n",
        ),
        Source::new(SourceKind::HomeBottle, "bottles/closed.md", "---\nsupervise: true\n---\n"),
        Source::new(
            SourceKind::HomeAgent,
            "agents/impl.md",
            "---\nname: x\ndescription: y\nmodel: opus\ncolor: red\nmemory: 1\ntools: [a]\nbottle: dev\nskills: [anything]\n---\n\nBe brief.\n\n",
        ),
    ]
}

fn with(more: &[(SourceKind, &str, &str)]) -> Loaded {
    let mut sources = home();
    sources.extend(more.iter().map(|(kind, path, text)| Source::new(*kind, *path, *text)));
    load(&sources)
}

#[test]
fn agents() {
    let loaded = with(&[]);
    assert_eq!(said(&loaded), "");
    let agent = &loaded.manifest.agents[&name("impl")];
    assert_eq!((agent.prompt.as_str(), agent.origin), ("Be brief.", Origin::Home));
    let agent = |text: &str| {
        let loaded = with(&[(SourceKind::HomeAgent, "agents/x.md", text)]);
        (said(&loaded), loaded.manifest.agents.get(&name("x")).cloned())
    };
    assert_eq!(
        agent("---\nbottle: de\n---\n").0,
        "x.md:2:9: there is no bottle `de` (did you mean `dev`?)"
    );
    assert_eq!(agent("---\nskills: []\n---\n").0, "x.md:1:1: an agent needs `bottle`");
    assert_eq!(
        agent("---\nbottle: dev\nprompt: x\n---\n").0,
        "x.md:3:1: the prompt of a Markdown file is its body (move it below the frontmatter)"
    );
    assert_eq!(
        agent("---\nbottle: dev\nbotle: x\n---\n").0,
        "x.md:3:1: an agent has no key `botle` (did you mean `bottle`?)"
    );
    assert_eq!(
        agent("---\nbottle: dev\nskills: [A]\n---\n").0,
        "x.md:3:10: `skills`: expected a name of lower-case letters, digits and dashes that begins with a letter (at most 48), found `A`"
    );
    assert_eq!(
        agent("bottle: dev\n").0,
        "x.md:1:1: the file does not begin with a line `---` (YAML between two lines `---`, then Markdown)"
    );
    assert_eq!(
        agent("---\nbottle: dev\n").0,
        "x.md:1:1: the frontmatter has no closing line `---`"
    );
    assert_eq!(
        agent("---\r\nbottle: dev\r\n---\r\nHi\r\n---\r\nThere").1.unwrap().prompt,
        "Hi\n---\nThere"
    );
    assert_eq!(agent("---\nbottle: '@claude'\n---\n").1.unwrap().bottle.as_str(), "@claude");
    let user = agent("---\nbottle: dev\ngit_user: {name: B}\n---\n").1.unwrap().git_user.unwrap();
    assert_eq!((user.name.as_str(), user.email.as_str()), ("B", "a@b"));
    assert_eq!(
        agent("---\nbottle: closed\ngit_user: {name: B}\n---\n").0,
        "x.md:3:18: `git_user` needs `email` too"
    );
    let yaml = with(&[(
        SourceKind::HomeAgent,
        "agents/x.yaml",
        "bottle: dev\nprompt: |\n  Hello\n  there\n",
    )]);
    assert_eq!(yaml.manifest.agents[&name("x")].prompt, "Hello\nthere");
}

#[test]
fn a_repository_may_not_widen_anything() {
    let repo = |file: &str, text: &str| {
        let loaded =
            with(&[(SourceKind::RepositoryAgent, &format!(".bottle/agents/{file}"), text)]);
        (said(&loaded), loaded.manifest.agents.get(&name(file.trim_end_matches(".md"))).cloned())
    };
    let (found, agent) = repo("impl.md", "---\nbottle: dev\nskills: [review]\n---\nMine.");
    let agent = agent.unwrap();
    assert_eq!(
        (found.as_str(), agent.origin, agent.prompt.as_str()),
        ("", Origin::Repository, "Mine.")
    );
    assert!(!agent.skills.contains(&name("anything")));
    let (found, agent) = repo("impl.md", "---\nbottle: closed\n---\n");
    assert_eq!(
        found,
        "impl.md:2:9: bottle `closed` is not open to agents of a repository (a bottle says `repo_agents: true` if it is meant to be)\n\
         impl.md:2:9: the repository may not move agent `impl` out of bottle `dev`"
    );
    assert!(agent.is_none(), "the home agent does not take its place");
    let (found, agent) = repo("new.md", "---\nbottle: dev\nskills: [review, deploy]\n---\n");
    assert_eq!(
        found,
        "new.md:3:18: bottle `dev` does not give skill `deploy` to agents of a repository"
    );
    assert!(agent.is_none());
    assert!(repo("new.md", "---\nbottle: '@github-read'\n---\n").1.is_none());
    assert!(repo("impl.md", "---\nbottle: [\n---\n").1.is_none());
}

#[test]
fn files_that_define_nothing() {
    let loaded = with(&[
        (SourceKind::HomeBottle, "bottles/README.md", "no frontmatter"),
        (SourceKind::HomeAgent, "agents/@claude.md", ""),
        (SourceKind::RepositoryBottle, ".bottle/bottles/dev.md", "---\nsupervise: true\n---\n"),
    ]);
    assert_eq!(
        said(&loaded),
        "dev.md:1:1: warning: bottles of a repository are ignored (a bottle lies in the user's own manifest: the layout is the trust boundary)\n\
         @claude.md:1:1: warning: skipped: expected a name that does not begin with `@`\n\
         README.md:1:1: warning: skipped: expected a name of lower-case letters, digits and dashes that begins with a letter (at most 48)"
    );
    assert!(!loaded.has_errors());
}

#[test]
fn two_files_for_one_name() {
    let loaded = with(&[(SourceKind::HomeBottle, "bottles/dev.yaml", "")]);
    assert_eq!(said(&loaded), "dev.yaml:1:1: a second bottle `dev`, besides bottles/dev.md");
    assert!(!loaded.manifest.bottles.contains_key(&name("dev")), "neither is taken");
    let loaded = with(&[(SourceKind::HomeAgent, "agents/impl.yaml", "bottle: dev")]);
    assert_eq!(said(&loaded), "impl.yaml:1:1: a second agent `impl`, besides agents/impl.md");
    assert!(loaded.manifest.agents.is_empty());
}

#[test]
fn an_unreadable_file_makes_no_storm() {
    let mut sources = home();
    let why = super::Diagnostic::about_file(Severity::Error, "too-large", "bottles/dev.md", "big");
    sources[0] = Source::unreadable(SourceKind::HomeBottle, "bottles/dev.md", why);
    let loaded = load(&sources);
    assert_eq!(said(&loaded), "dev.md:1:1: big");
    assert!(loaded.manifest.agents.is_empty());
}

#[test]
fn presets_load_and_hold_what_they_say() {
    for preset in PRESETS {
        let loaded = single(&format!("bottles: {{x: {{extends: '{}'}}}}", preset.name));
        assert_eq!(said(&loaded), "", "{}", preset.name);
        let bottle = &loaded.manifest.bottles[&name("x")];
        for route in bottle.egress.routes.values() {
            assert!(
                route.auth.is_some() || route.allow.iter().all(|rule| rule.access == Access::Read)
            );
        }
    }
}

#[test]
fn order_of_sources_is_nothing() {
    let mut sources = home();
    sources.push(Source::new(
        SourceKind::RepositoryAgent,
        ".bottle/agents/impl.md",
        "---\nbottle: dev\n---\n",
    ));
    sources.push(Source::new(SourceKind::HomeBottle, "bottles/dev.yaml", "x: 1"));
    let forward = load(&sources);
    sources.reverse();
    let backward = load(&sources);
    assert_eq!(forward.manifest, backward.manifest);
    assert_eq!(forward.diagnostics, backward.diagnostics);
}

#[test]
fn host_config() {
    let loaded = load_config(
        "config.yaml",
        "secrets:\n  GH_PAT: {command: [gh, auth, token]}\n  A: {env: B}\n  C: {file: ~/c}\n\
         pool: 10.201.0.0/16\nnetwork: {proxy: 'http://proxy.corp:3128', no_proxy: [.corp, 10.0.0.0/8], ca: /etc/ca.pem}\n\
         base_image: debian:bookworm-slim\nhistory_days: 7\n",
    );
    assert_eq!(loaded.diagnostics, []);
    assert_eq!((loaded.config.secrets.len(), loaded.config.history_days), (3, Some(7)));
    assert!(load_config("config.yaml", "").diagnostics.is_empty());
    for (text, expected) in [
        ("secrets: {A: {}}", "a secret's source is `command`, `env` or `file`"),
        ("secrets: {A: {env: B, file: /c}}", "`env` and `file` do not go together"),
        (
            "secrets: {A: {command: gh auth token}}",
            "`command`: expected a list of arguments, found text",
        ),
        (
            "secrets: {A: {file: c}}",
            "`file`: expected a path that begins with `/` or `~/`, found `c`",
        ),
        (
            "secrets: {1A: {env: B}}",
            "expected a secret name of letters, digits and underscores that does not begin with a digit, found `1A`",
        ),
        ("secret: {}", "the host config has no key `secret`"),
        (
            "pool: 10.0.0.0/28",
            "`pool`: expected at least a /27: a session takes two networks of /28",
        ),
        (
            "pool: 10.0.0.1/16",
            "`pool`: expected a subnet like 10.201.0.0/16 with no host bits set, found `10.0.0.1/16`",
        ),
        ("pool: 8.8.0.0/16", "`8.8.0.0/16` is not a private range"),
        ("network: {proxy: 'http://me:hunter2@p:1'}", "`proxy`: an address holds no credential"),
        ("network: {proxy: 'socks5://p:1'}", "`proxy`: expected `http://host:port`"),
        ("network: {proxy: 'http://p'}", "`proxy`: expected `http://host:port`"),
        (
            "network: {no_proxy: ['a b']}",
            "`no_proxy`: expected a host, a suffix or a subnet, found `a b`",
        ),
        (
            "network: {ca: ca.pem}",
            "`ca`: expected a path that begins with `/` or `~/`, found `ca.pem`",
        ),
        ("base_image: ''", "`base_image`: expected one line of text without tabs"),
        ("history_days: -1", "`history_days`: expected a whole number from 0 to 36500"),
    ] {
        let loaded = load_config("config.yaml", text);
        let found: Vec<&str> = loaded.diagnostics.iter().map(|f| f.message.as_str()).collect();
        assert_eq!(found.join("\n"), expected, "{text}");
    }
}

/// Every table that can be reached from a root, each with a text that leads to it.
fn tables() -> Vec<(&'static Table, String, String)> {
    let mut open = vec![(&keys::BOTTLE, String::new(), String::new())];
    let mut done: Vec<(&'static Table, String, String)> = Vec::new();
    while let Some((table, before, after)) = open.pop() {
        if done.iter().any(|(other, ..)| other.name == table.name) {
            continue;
        }
        for key in table.keys {
            descend(
                &key.shape,
                format!("{before}{{{}: ", key.name),
                format!("}}{after}"),
                &mut open,
            );
        }
        done.push((table, before, after));
    }
    done
}

fn descend(
    shape: &'static Shape,
    before: String,
    after: String,
    open: &mut Vec<(&'static Table, String, String)>,
) {
    match shape {
        Shape::Object(table) => open.push((table, before, after)),
        Shape::List(inner) => descend(inner, before + "[", format!("]{after}"), open),
        Shape::Map(inner) => descend(inner, before + "{A: ", format!("}}{after}"), open),
        Shape::Either(shapes) => {
            for inner in *shapes {
                descend(inner, before.clone(), after.clone(), open);
            }
        }
        _ => {}
    }
}

#[test]
fn the_decoder_looks_at_every_key_of_the_table() {
    for (table, before, after) in tables() {
        for key in table.keys.iter().filter(|key| key.status != Status::Ignored) {
            let text = format!("{before}{{{}: [[[]]]}}{after}", key.name);
            let loaded = dev(&text);
            let looked = loaded
                .diagnostics
                .iter()
                .any(|found| matches!(found.code, "wrong-type" | "reserved-key" | "misplaced-key"));
            assert!(looked, "{text}: {}", said(&loaded));
            assert!(loaded.diagnostics.iter().all(|found| found.code != "unknown-key"), "{text}");
        }
    }
}

#[test]
fn the_schema_has_every_key() {
    let (manifest, config) = (super::schema(), super::config_schema());
    for table in tables().into_iter().map(|(table, ..)| table).chain([&keys::SINGLE, &keys::AGENT])
    {
        check_schema(&manifest, table);
    }
    for table in [&keys::CONFIG, &keys::SECRET_SOURCE, &keys::NETWORK] {
        check_schema(&config, table);
    }
}

fn check_schema(schema: &serde_json::Value, table: &Table) {
    let properties = schema["$defs"][table.name]["properties"].as_object().unwrap();
    let schema: BTreeSet<&str> = properties.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = table.keys.iter().map(|key| key.name).collect();
    assert_eq!(schema, known, "{}", table.name);
}

/// Pieces of which hostile and half-right manifests are made.
fn piece() -> impl Strategy<Value = String> {
    let words = vec![
        "bottles:",
        "agents:",
        "\n",
        "  ",
        "    ",
        "- ",
        "env: ",
        "{",
        "}",
        "[",
        "]",
        ": ",
        ", ",
        "extends: ",
        "'@claude'",
        "*a",
        "&a ",
        "!!str ",
        "\"",
        "'",
        "|\n",
        ">\n",
        "? ",
        "---\n",
        "...\n",
        "egress:",
        "routes:",
        "host: a.dev",
        "auth: ",
        "git:",
        "upstream: git@a:b",
        "é",
        "\u{feff}",
        "\t",
        "\r\n",
        "#x\n",
        "~",
        "limits:",
        "memory: 4g",
        "image:",
        "%YAML 1.2\n",
        "a",
        "b",
        "dev:",
        "bottle: dev",
        "${A}",
        "?x",
        "<<: ",
        "\u{85}",
        "😀",
        "\\x",
        "0x1",
    ];
    prop_oneof![
        prop::sample::select(words).prop_map(ToString::to_string),
        any::<char>().prop_map(String::from)
    ]
}

fn assemble(pieces: &[String]) -> String {
    pieces.concat()
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        everything(&text);
    }

    #[test]
    fn no_assembly_makes_it_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        everything(&assemble(&pieces));
    }
}

/// Loads a text as everything it could be; findings lie inside the text.
fn everything(text: &str) {
    let lines = u32::try_from(text.split(['\n', '\r', '\u{85}']).count()).unwrap() + 1;
    for (kind, path) in [
        (SourceKind::HomeBottle, "bottles/dev.md"),
        (SourceKind::HomeBottle, "bottles/dev.yaml"),
        (SourceKind::RepositoryAgent, ".bottle/agents/x.md"),
        (SourceKind::SingleFile, "bottle.yaml"),
    ] {
        for text in [text.to_string(), format!("---\n{text}\n---\n{text}")] {
            let loaded = load(&[Source::new(kind, path, text)]);
            for found in loaded.diagnostics {
                assert!(found.line >= 1 && found.column >= 1 && found.line <= 2 * lines + 3);
                assert!(!found.message.chars().any(char::is_control), "{}", found.message);
            }
        }
    }
    let _ = load_config("config.yaml", text);
}

/// A bottle `dev` with an overlay.
fn widened(bottle: &str, overlay: &str) -> Loaded {
    load(&[
        Source::new(SourceKind::HomeBottle, "bottles/dev.yaml", bottle),
        Source::new(SourceKind::HomeBottle, "bottles/child.yaml", "extends: dev"),
        Source::new(SourceKind::HomeOverlay, "overlays/dev.yaml", overlay),
    ])
}

#[test]
fn an_overlay_widens_its_bottle_and_no_child() {
    let loaded = widened(
        &route("host: a.dev, allow: [{access: read}]"),
        "allow:\n  - {host: A.dev, rule: {methods: [POST], paths: [/x/*]}, at: '2026-01-31T12:00:00Z'}\n  \
         - {host: new.dev, port: 8443, rule: {access: all}, bottle: dev}\n",
    );
    assert_eq!(said(&loaded), "");
    let of = |bottle: &str| &loaded.manifest.bottles[&name(bottle)];
    let routes = &of("dev").egress.routes;
    assert_eq!(routes.len(), 2);
    assert_eq!(routes.values().map(|route| (route.port, route.allow.len())).max(), Some((8443, 1)));
    assert_eq!(routes.values().map(|route| (route.port, route.allow.len())).min(), Some((443, 2)));
    assert_eq!(of("dev").overlay.as_deref(), Some("overlays/dev.yaml"));
    assert_eq!((of("child").egress.routes.len(), &of("child").overlay), (1, &None));
    let empty = widened(&route("host: a.dev"), "allow: []");
    assert_eq!((said(&empty).as_str(), &empty.manifest.bottles[&name("dev")].overlay), ("", &None));
}

#[test]
fn an_overlay_with_an_error_leaves_its_bottle_out() {
    for (overlay, expected) in [
        ("allow: [{host: b.dev}]", "an entry of an overlay needs `rule`"),
        ("allow: [{hots: b.dev, rule: {access: read}}]", "did you mean `host`?"),
        ("alow: []", "did you mean `allow`?"),
        ("", "an overlay needs `allow`"),
        ("allow: [{host: a.dev, port: 80, rule: {access: read}}]", "its route is at port 443"),
        ("allow: [{host: b.dev, rule: {}}]", "would mean every request"),
        ("allow: [{host: b.dev, rule: {access: read, until: x}}]", "reserved, not built yet"),
        ("allow: [{host: b.dev, rule: {access: read}, at: now}]", "`at`: expected"),
        ("allow: [{host: b.dev, rule: {access: read}, bottle: x}]", "overlay of bottle `dev`"),
        (
            "allow: [{host: b.dev, rule: {access: all, auth: {scheme: token, secret: S}}}]",
            "an overlay gives no credential",
        ),
        ("allow: [", "overlays/dev.yaml"),
    ] {
        let loaded = widened(&route("host: a.dev"), overlay);
        let all: Vec<String> = loaded
            .diagnostics
            .iter()
            .map(|found| format!("{found} {}", found.hint.as_deref().unwrap_or_default()))
            .collect();
        assert!(all.iter().any(|one| one.contains(expected)), "{overlay}: {all:?}");
        assert!(loaded.has_errors() && !loaded.manifest.bottles.contains_key(&name("dev")));
        assert!(loaded.manifest.bottles.contains_key(&name("child")), "{overlay}");
    }
}

#[test]
fn overlays_that_belong_to_nothing() {
    let of = |kind, path: &str, text: &str| {
        load(&[
            Source::new(SourceKind::SingleFile, "one.yaml", "bottles: {dev: {}, box: {}}"),
            Source::new(kind, path, text),
        ])
    };
    let loaded = of(SourceKind::HomeOverlay, "overlays/gone.yaml", "allow: []");
    assert_eq!(
        said(&loaded),
        "gone.yaml:1:1: warning: there is no bottle `gone` that this could widen"
    );
    let single = |text: &str| of(SourceKind::SingleOverlay, "/x/one.yaml.overlay.yaml", text);
    let loaded = single("allow: [{bottle: dev, host: a.dev, rule: {access: read}}]");
    assert_eq!(said(&loaded), "");
    let overlay = |bottle: &str| loaded.manifest.bottles[&name(bottle)].overlay.clone();
    assert_eq!(overlay("dev").as_deref(), Some("one.yaml.overlay.yaml"));
    assert_eq!(overlay("box"), None);
    let loaded = single("allow: [{host: a.dev, rule: {access: read}}]");
    assert!(said(&loaded).contains("needs `bottle`"), "{}", said(&loaded));
    assert!(loaded.manifest.bottles.is_empty(), "whose it was cannot be told");
}
