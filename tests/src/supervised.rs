//! A session whose agent asks a person, and what it asks with: MCP over HTTP, spoken by bash, since the base image
//! has no other client.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::host::{Host, ran, unique, until};
use crate::outside::{answering, this_host};

/// What the server outside answers.
pub const MARK: &str = "hello from outside";

/// A session that runs, with a host outside that it may read `/open` of.
#[derive(Debug)]
pub struct Supervised {
    /// Where it runs.
    pub host: Host,
    /// Its name.
    pub session: String,
    /// The port of the host outside.
    pub port: u16,
}

impl Default for Supervised {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervised {
    /// A session that was started.
    #[must_use]
    pub fn new() -> Self {
        Self::with("")
    }

    /// With further lines of the bottle.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn with(more: &str) -> Self {
        let port = answering(MARK);
        let host = Host::new();
        host.write(
            "root/bottles/box.yaml",
            &format!(
                "egress: {{routes: [{{host: hello.test, port: {port}, address: {}, \
                 allow: [{{methods: [GET], paths: [/open]}}]}}]}}\n\
                 provider: {{command: [sleep, '86400']}}\nisolation: container\n\
                 supervise: true\nimage: {{reference: 'debian:bookworm-slim'}}\n{more}",
                this_host()
            ),
        )
        .write("root/agents/dev.yaml", "bottle: box\n");
        let session = unique("ask");
        host.run(&["start", "dev", "--name", &session, "--detach", "--yes"]).code(0);
        Self { host, session, port }
    }

    /// The agent's container.
    #[must_use]
    pub fn container(&self) -> String {
        format!("bottle-{}", self.session)
    }

    /// One request to the host outside, through egress; its status.
    #[must_use]
    pub fn status(&self, method: &str, path: &str) -> String {
        let url = format!("http://hello.test:{}{path}", self.port);
        let script = format!(
            "exec 3<>/dev/tcp/egress/9099\nprintf '{method} {url} HTTP/1.1\\r\\nHost: hello.test:{}\
             \\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n' >&3\ntimeout 20 cat <&3\n",
            self.port
        );
        let answer = bash(&self.container(), &script);
        answer.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// A URL of the host outside.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://hello.test:{}{path}", self.port)
    }

    /// Says hello to supervise and leaves a call of a tool under way.
    ///
    /// # Panics
    ///
    /// If nobody answers.
    #[must_use]
    pub fn calls(&self, tool: &str, arguments: Value) -> Call {
        let mut client = None;
        until("supervise answers", || {
            client = hello(&self.container(), "supervise");
            client.is_some()
        });
        let client = client.expect("it answered");
        Call::begin(&self.container(), &client, tool, arguments)
    }

    /// Asks for one method on one path of the host outside.
    #[must_use]
    pub fn asks_egress(&self, method: &str, path: &str) -> Call {
        let arguments = json!({
            "url": self.url(path), "methods": [method], "justification": "the task needs it",
        });
        self.calls("request-egress", arguments)
    }

    /// The requests that wait, once there are so many.
    ///
    /// # Panics
    ///
    /// If there are more, or not so many in time.
    #[must_use]
    pub fn pending(&self, count: usize) -> Vec<Value> {
        let mut found = Vec::new();
        until("it is asked", || {
            found = self.list();
            found.len() >= count
        });
        assert_eq!(found.len(), count);
        found
    }

    /// The requests that wait.
    ///
    /// # Panics
    ///
    /// If they cannot be listed.
    #[must_use]
    pub fn list(&self) -> Vec<Value> {
        let listed = self.host.run(&["supervise", "list", "--json"]).code(0).out;
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        listed["proposals"].as_array().expect("a list").clone()
    }

    /// The id of the one request that waits, and the digest of what approving it would change.
    ///
    /// # Panics
    ///
    /// If there is not just one.
    #[must_use]
    pub fn shown(&self) -> (String, String) {
        let id = self.pending(1)[0]["id"].as_str().expect("an id").to_owned();
        (id.clone(), self.digest(&id))
    }

    /// The digest of what approving a request would change.
    ///
    /// # Panics
    ///
    /// If it cannot be shown.
    #[must_use]
    pub fn digest(&self, id: &str) -> String {
        let shown = self.host.run(&["supervise", "show", id, "--json"]).code(0).out;
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        shown["digest"].as_str().expect("a digest").to_owned()
    }

    /// What the audit log says, one word for each event.
    ///
    /// # Panics
    ///
    /// If its chain is broken.
    #[must_use]
    pub fn audit(&self) -> Vec<String> {
        self.host.run(&["audit", "verify"]).code(0);
        let log = self.host.run(&["audit", "show", "--json"]).code(0).out;
        let events = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        events.map(|entry| entry["event"]["kind"].as_str().expect("a kind").to_owned()).collect()
    }
}

/// Approves what was shown and is killed after so many milliseconds, wherever it is by then.
///
/// # Panics
///
/// If it does not begin.
pub fn approve_and_be_killed(host: &Host, id: &str, digest: &str, after: u64) {
    let mut command = host.command(&["supervise", "approve", id, "--expect", digest]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("bottle runs");
    std::thread::sleep(Duration::from_millis(after));
    child.kill().expect("killed");
    child.wait().expect("gone");
    host.run(&["audit", "verify"]).code(0);
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.host.run(&["destroy", &self.session, "--yes", "--unsaved"]);
    }
}

/// A client's id of its own, or nothing where nobody answers.
#[must_use]
pub fn hello(container: &str, server: &str) -> Option<String> {
    let hello = json!({
        "jsonrpc": "2.0", "id": 0, "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"}},
    });
    let answer = bash(container, &post(server, None, &hello, 10));
    let id = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: "))?;
    let ready = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    bash(container, &post(server, Some(id.trim()), &ready, 10));
    Some(id.trim().to_owned())
}

/// A script of bash that sends one message and prints the answer.
#[must_use]
pub fn post(server: &str, client: Option<&str>, message: &Value, seconds: u32) -> String {
    let body = message.to_string();
    let client = client.map_or(String::new(), |id| format!("mcp-session-id: {id}\r\n"));
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: supervise:9100\r\nconnection: close\r\n{client}\
         mcp-protocol-version: 2025-06-18\r\ncontent-type: application/json\r\n\
         accept: application/json, text/event-stream\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    format!(
        "exec 3<>/dev/tcp/{server}/9100 || exit 9\ncat >&3 <<'END_OF_MESSAGE_'\n{head}{body}\n\
         END_OF_MESSAGE_\ntimeout {seconds} cat <&3\n"
    )
}

/// What a script of bash prints in a container.
pub fn bash(container: &str, script: &str) -> String {
    let mut command = Command::new("docker");
    ran(command.args(["exec", "-i", container, "bash", "-s"]), script.as_bytes()).out
}

/// A call of a tool under way.
#[derive(Debug)]
pub struct Call(Child);

impl Call {
    /// Begins one.
    ///
    /// # Panics
    ///
    /// If docker's client does not start.
    #[must_use]
    pub fn begin(container: &str, client: &str, tool: &str, arguments: Value) -> Self {
        let message = json!({
            "jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments},
        });
        let mut command = Command::new("docker");
        command.args(["exec", "-i", container, "bash", "-s"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("docker runs");
        let script = post("supervise", Some(client), &message, 120);
        child.stdin.take().expect("an input").write_all(script.as_bytes()).expect("sent");
        Self(child)
    }

    /// The result, once it is there.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[must_use]
    pub fn result(mut self) -> Value {
        let mut answer = String::new();
        self.0.stdout.take().expect("an output").read_to_string(&mut answer).expect("text");
        let data = answer.lines().filter_map(|line| line.strip_prefix("data: "));
        let mut messages = data.filter_map(|data| serde_json::from_str::<Value>(data).ok());
        let result = messages.find(|message| message.get("result").is_some());
        result.unwrap_or_else(|| panic!("no result in {answer}"))["result"].clone()
    }

    /// What a person answered.
    ///
    /// # Panics
    ///
    /// If nobody did.
    #[must_use]
    pub fn answer(self) -> Value {
        let result = self.result();
        assert_ne!(result["isError"], true, "{result}");
        result["structuredContent"].clone()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How long something took to hold.
pub fn took(mut holds: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    until("it holds", &mut holds);
    begun.elapsed()
}
