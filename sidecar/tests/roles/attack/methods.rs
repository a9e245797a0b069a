//! Methods that are not granted, in their own name and in another's; pushes; WebSockets to paths
//! that are not granted.

use bottle_outside::ws;
use bottle_planner::decision::Code::{self, Denied, GitPush, Malformed, NoRule};

use super::targets::{get, post};
use super::{Attempt, Shot};

/// The head of a WebSocket's handshake.
pub fn handshake(host: &str, path: &str) -> String {
    let key = ws::KEY;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}

/// A WebSocket on which these frames are sent, and closed.
pub fn web_socket(host: &str, path: &str, frames: Vec<Vec<u8>>) -> Shot {
    Shot::tunnel(host)
        .send(handshake(host, path))
        .head()
        .send_each(frames)
        .send(ws::message(ws::Kind::Close, &[3, 0xe8]))
}

pub fn attempts() -> Vec<Attempt> {
    const METHOD: &[Code] = &[NoRule, Denied, Malformed];
    let read = |request: &str| Shot::tunnel("read.test").send(request.replace("HOST", "read.test"));
    let reads = || read(&get("HOST", "/x", ""));
    let deny = |request: &str| Shot::tunnel("deny.test").send(request.replace("HOST", "deny.test"));
    let denies = || deny(&post("HOST", "/x", "", "x"));
    let line = |method: &str| {
        format!(
            "{method} /x HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"
        )
    };
    let mut all = Vec::new();
    for method in [
        "POST",
        "PUT",
        "PATCH",
        "DELETE",
        "TRACE",
        "TRACK",
        "PROPFIND",
        "get",
        "GeT",
        "GETX",
        "POST\u{e9}",
    ] {
        all.push(Attempt::refused("method", method, METHOD, read(&line(method)), reads()));
    }
    for method in ["DELETE", "delete", "Delete", "DELETE\t"] {
        all.push(Attempt::refused("denied method", method, METHOD, deny(&line(method)), denies()));
    }
    for header in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "x-http-method-override",
        "X_HTTP_Method_Override",
        "X-HTTP-METHOD-OVERRIDE",
    ] {
        let field = format!("{header}: DELETE\r\n");
        all.push(Attempt::refused(
            "method override",
            header,
            METHOD,
            deny(&post("HOST", "/x", &field, "x")),
            deny(&post("HOST", "/x", "X-HTTP-Other: DELETE\r\n", "x")),
        ));
    }
    for query in [
        "_method=DELETE",
        "a=b&_method=delete",
        "%5fmethod=DELETE",
        "_METHOD=DELETE",
        "a;_method=DELETE",
    ] {
        all.push(Attempt::refused(
            "method override",
            query,
            METHOD,
            deny(&post("HOST", &format!("/x?{query}"), "", "x")),
            deny(&post("HOST", "/x?method=DELETE", "", "x")),
        ));
    }
    let any = |request: &str| Shot::tunnel("all.test").send(request.replace("HOST", "all.test"));
    for (name, request) in [
        (
            "asking for the service",
            get("HOST", "/me/web.git/info/refs?service=git-receive-pack", ""),
        ),
        ("asking, escaped", get("HOST", "/me/web.git/info/refs?service=git%2dreceive%2Dpack", "")),
        ("asking, in capitals", get("HOST", "/me/web.git/info/refs?service=GIT-RECEIVE-PACK", "")),
        (
            "asking, with an escaped name",
            get("HOST", "/me/web.git/info/refs?s%65rvice=git-receive-pack", ""),
        ),
        (
            "asking after another parameter",
            get("HOST", "/me/web.git/info/refs?a=b&service=git-receive-pack", ""),
        ),
        ("pushing", post("HOST", "/me/web.git/git-receive-pack", "", "0000")),
        ("pushing, escaped", post("HOST", "/me/web.git/git%2Dreceive-pack", "", "0000")),
        ("pushing with a final slash", post("HOST", "/me/web.git/git-receive-pack/", "", "0000")),
        ("pushing with a parameter", post("HOST", "/me/web.git/git-receive-pack;a", "", "0000")),
        ("pushing in capitals", post("HOST", "/me/web.git/GIT-RECEIVE-PACK", "", "0000")),
    ] {
        let twin = get("HOST", "/me/web.git/info/refs?service=git-upload-pack", "");
        all.push(Attempt::refused(
            "git push",
            name,
            &[GitPush, Malformed],
            any(&request),
            any(&twin),
        ));
    }
    let greeting = || vec![ws::message(ws::Kind::Text, b"hello")];
    let open = || web_socket("api.test", "/open/ws", greeting());
    for (name, attack) in [
        ("a path that is not granted", web_socket("api.test", "/closed/ws", greeting())),
        (
            "a path that leaves the granted one",
            web_socket("api.test", "/open/../closed/ws", greeting()),
        ),
    ] {
        all.push(Attempt::refused("websocket", name, &[NoRule, Malformed], attack, open()));
    }
    // Whoever believes in an upgrade that did not take place sends the next bytes on.
    let hidden = "GET /closed/hidden HTTP/1.1\r\nHost: api.test\r\n\r\n";
    for (name, head) in [
        (
            "of a version that there is not",
            handshake("api.test", "/open/x").replace(": 13", ": 777"),
        ),
        ("without a key", handshake("api.test", "/open/x").replace("Sec-WebSocket-Key", "X-Key")),
        ("to a server that has none", handshake("api.test", "/open/x")),
    ] {
        all.push(Attempt::without(
            "websocket",
            format!("a request behind an upgrade {name}"),
            "/closed/hidden",
            Shot::tunnel("api.test").send(head + hidden).half_close(),
            open(),
        ));
    }
    all
}
