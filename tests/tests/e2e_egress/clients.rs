//! Real clients through egress, each by the proxy that its environment names and by none.

use bottle_outside::SAID;

use crate::site::SAYS;
use crate::{Bench, CLAUDE, TOKEN};

#[test]
fn real_clients_work_with_a_proxy_and_without() {
    let bench = Bench::new();
    let apt = "rm -rf /tmp/apt; mkdir -p /tmp/apt/state/lists/partial /tmp/apt/cache/archives/partial /tmp/apt/etc \
               && cd /tmp/apt && echo 'deb [trusted=yes] https://deb.test/ ./' >sources \
               && o='-o Dir::State=/tmp/apt/state -o Dir::Cache=/tmp/apt/cache -o Dir::Etc::SourceList=/tmp/apt/sources \
                  -o Dir::Etc::SourceParts=- -o Dir::State::status=/var/lib/dpkg/status -o Debug::NoLocking=1' \
               && apt-get $o update 2>&1 && apt-get $o download demo-thing 2>&1 && cat demo-thing_1.0_all.deb";
    let python = "python3 - <<'END'\nimport requests\nprint(requests.get('https://api.test/open/requests', timeout=20).text)\nEND";
    let node = "node -e \"fetch('https://api.test/open/fetch').then(r => r.text()).then(t => console.log(t))\"";
    let web_socket = "python3 - <<'END'
import asyncio, os, ssl, websockets
async def main():
    async with websockets.connect('wss://api.test/open/ws', ssl=ssl.create_default_context()) as ws:
        await ws.send('hello')
        print((await ws.recv()))
asyncio.run(main())
END";
    // Debian's websockets and its Node do not ask their environment for a proxy.
    for (name, script, expected, proxied) in [
        ("curl", "curl -sS -m 20 https://api.test/open/curl", SAID, true),
        ("curl over HTTP/1.1", "curl -sS -m 20 --http1.1 https://api.test/open/curl", SAID, true),
        ("plain curl", "curl -sS -m 20 http://plain.test/open/curl", SAID, true),
        (
            "git",
            "rm -rf /tmp/demo; git clone -q https://git.test/me/demo.git /tmp/demo 2>&1 && cat /tmp/demo/hello.txt",
            "cloned",
            true,
        ),
        (
            "pip",
            "rm -rf /tmp/pip; pip install -q --disable-pip-version-check --break-system-packages --no-cache-dir --target /tmp/pip --index-url https://pypi.test/simple/ demo-thing 2>&1 && cat /tmp/pip/demo_thing.py",
            "answer = 42",
            true,
        ),
        (
            "npm",
            "rm -rf /tmp/npm; mkdir /tmp/npm && cd /tmp/npm && npm install --silent --no-audit --no-fund --registry https://npm.test/ demo-thing 2>&1; cat node_modules/demo-thing/index.js",
            "42",
            true,
        ),
        ("apt", apt, "does not look into", true),
        ("requests", python, SAID, true),
        ("fetch", node, SAID, false),
        ("a WebSocket", web_socket, SAID, false),
    ] {
        let ran = bench.unaware(script);
        assert!(
            ran.out.contains(expected),
            "{name} without a proxy: {} {} {}",
            ran.out,
            ran.err,
            bench.log()
        );
        if proxied {
            let ran = bench.inside(script);
            assert!(ran.out.contains(expected), "{name}: {} {}", ran.out, ran.err);
        }
    }
    let log = bench.log();
    for via in ["\"proxy\"", "\"transparent\""] {
        assert!(log.contains(&format!("\"via\":{via}")), "{log}");
    }

    // A push is refused and says where to go instead.
    let push = "cd /tmp/demo && git -c user.name=a -c user.email=a@b.test commit -q --allow-empty -m x \
                && git push origin main 2>&1; GIT_CURL_VERBOSE=0 curl -sS -m 20 'https://git.test/me/demo.git/info/refs?service=git-receive-pack'";
    for ran in [bench.inside(push), bench.unaware(push)] {
        assert!(ran.out.contains("403"), "{} {}", ran.out, ran.err);
        assert!(ran.out.contains("git pushes go through the git gate"), "{} {}", ran.out, ran.err);
    }
    assert!(!bench.origin.requests().iter().any(|r| r.path.contains("receive-pack")));

    // The server sees the real credential, and the client does not.
    let ran = bench.inside("curl -sS -m 20 -H 'Authorization: Bearer mine' https://auth.test/x");
    assert!(ran.out.contains(SAID) && !ran.out.contains(TOKEN), "{} {}", ran.out, ran.err);
    let seen = bench.origin.requests();
    let seen = seen.iter().find(|r| r.path == "/x").expect("it arrived");
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}")));
}

#[test]
fn claude_code_speaks_to_its_api_with_a_token_it_never_sees() {
    let bench = Bench::new();
    for proxied in [true, false] {
        bench.origin.forget();
        let script = "cd /tmp && timeout 90 claude -p 'say hi' </dev/null";
        let ran = if proxied { bench.inside(script) } else { bench.unaware(script) };
        assert!(ran.out.contains(SAYS), "{proxied}: {:?} {} {}", ran.status, ran.out, ran.err);
        let seen = bench.origin.requests();
        let asked: Vec<_> = seen.iter().filter(|r| r.path.starts_with("/v1/messages")).collect();
        assert!(!asked.is_empty(), "{seen:?}");
        for request in asked {
            assert_eq!(request.header("authorization"), Some(format!("Bearer {CLAUDE}")));
        }
        let placeholder = seen.iter().any(|r| r.text().contains("egress-placeholder"));
        assert!(!placeholder, "the placeholder went out");
    }
    let ran = bench.inside("env; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'");
    assert!(ran.out.contains("CLAUDE_CODE_OAUTH_TOKEN=egress-placeholder"), "{}", ran.out);
    assert!(!ran.out.contains(CLAUDE));
}
