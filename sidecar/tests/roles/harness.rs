//! One session's folder, addresses and processes.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use bottle_sidecar::State;
use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::{Pid, Signal};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where DNS is served and asked in tests.
pub const DNS_PORT: u16 = 15353;
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder for the roles, and loopback addresses that no other test uses.
pub struct Session {
    folder: TempDir,
    base: [u8; 3],
    first: u8,
}

/// Who has which address.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    Egress = 1,
    Agent,
    Gate,
    Server,
    Resolver,
    Build,
}

impl Session {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let number = std::process::id().wrapping_mul(8) + count / 32;
        let [.., b, c] = number.to_be_bytes();
        let first = u8::try_from(count % 32 * 8).unwrap();
        let base = [127, b % 250 + 2, c];
        let folder = tempfile::tempdir().unwrap();
        for name in ["in", "out", "run"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let session = Self { folder, base, first };
        session.mint();
        let resolver = session.address(Who::Resolver);
        session.write("resolv.conf", &format!("nameserver {resolver}\n"));
        session
    }

    /// The session's certificate authority, as the executor mints it.
    fn mint(&self) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "bottle test");
        let certificate = params.self_signed(&key).unwrap();
        self.write("in/ca.key", &key.serialize_pem());
        self.write("in/ca.crt", &certificate.pem());
    }

    pub fn address(&self, who: Who) -> Ipv4Addr {
        let [a, b, c] = self.base;
        Ipv4Addr::new(a, b, c, self.first + who as u8)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub fn state(&self) -> Option<State> {
        serde_json::from_str(&self.read("out/state.json")).ok()
    }

    /// The command that runs one role here.
    pub fn command(&self, role: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bottle-sidecar-role"));
        command.arg(role).arg(self.folder.path()).arg(DNS_PORT.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn start(&self, role: &str) -> Process {
        let mut child = self.command(role).spawn().unwrap();
        // Whoever logs a lot must not wait until somebody reads.
        let mut stderr = child.stderr.take().unwrap();
        let said = thread::spawn(move || {
            let mut said = Vec::new();
            let _ = stderr.read_to_end(&mut said);
            said
        });
        Process { child: Some(child), said: Some(said) }
    }

    /// Starts a role and waits until it says that everything is bound.
    pub fn start_ready(&self, role: &str) -> Process {
        let process = self.start(role);
        wait_until("the role is ready", || self.state().is_some());
        process
    }

    /// Runs `receive` with this input; the exit code and what it wrote.
    pub fn receive(&self, payload: &str) -> (i32, String) {
        let mut child = self.command("receive").stdin(Stdio::piped()).spawn().unwrap();
        // A refusal may come before the end of the input.
        let _ = child.stdin.take().unwrap().write_all(payload.as_bytes());
        let output = child.wait_with_output().unwrap();
        assert!(output.stdout.is_empty());
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    }

    pub fn write_routes(&self, routes: &Value) {
        let file = json!({
            "protocol": 1, "routes": routes,
            "gate": [["git.test", 2222]],
            "gate_addresses": {"git.test": self.address(Who::Server)}, "use_at": {},
        });
        self.write("in/routes.json", &file.to_string());
    }

    pub fn write_egress(&self, routes: &Value, changes: Value) {
        let mut settings = json!({
            "protocol": 1,
            "listen": self.address(Who::Egress),
            "agent": self.address(Who::Agent),
            "gate": self.address(Who::Gate),
            "upstream_proxy": null, "next_hop": null, "expects_delivery": true,
        });
        merge(&mut settings, changes);
        self.write("in/settings.json", &settings.to_string());
        self.write_routes(routes);
    }

    /// A route that allows all on a port and is pinned to [`Who::Server`].
    pub fn route(&self, port: u16, changes: Value) -> Value {
        let mut route = json!({
            "port": port, "allow": [rule(json!({}))], "deny": [], "auth": null, "role": null,
            "tls": "intercept", "dlp": {"own_secrets": "off", "patterns": "off"},
            "address": self.address(Who::Server), "allow_private": false,
        });
        merge(&mut route, changes);
        route
    }

    /// Sends bytes to egress from somebody's address and returns the answer's head and body.
    pub fn ask(&self, who: Who, request: &str) -> String {
        let mut stream = self.connect(who, Who::Egress, 9099);
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A stranger is closed upon, which may look like a reset.
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8(answer).unwrap()
    }

    pub fn connect(&self, from: Who, to: Who, port: u16) -> TcpStream {
        let to = SocketAddr::from((self.address(to), port));
        connect_from(self.address(from), to)
    }

    /// The decision log so far.
    pub fn decisions(&self) -> Vec<Value> {
        let text = self.read("out/decisions.jsonl");
        // The last line may still be on its way.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Serves one answer to each connection on the server's address; the requests come out of the
    /// channel. A request ends with its head, or with its `content-length`.
    pub fn serve(&self, port: u16, answer: &'static str) -> Receiver<String> {
        let listener = TcpListener::bind((self.address(Who::Server), port)).unwrap();
        let (sender, requests) = channel();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let request = read_request(&mut stream);
                if sender.send(request).is_err() {
                    return;
                }
                let _ = stream.write_all(answer.as_bytes());
                // Tunnelled bytes are sent back.
                let mut copy = stream.try_clone().unwrap();
                thread::spawn(move || std::io::copy(&mut copy, &mut stream));
            }
        });
        requests
    }

    /// A resolver that knows one name.
    pub fn resolve(&self, name: &'static str, address: IpAddr) {
        let socket = UdpSocket::bind((self.address(Who::Resolver), DNS_PORT)).unwrap();
        thread::spawn(move || {
            let mut bytes = [0; 2048];
            while let Ok((length, from)) = socket.recv_from(&mut bytes) {
                let question = Message::from_vec(&bytes[..length]).unwrap();
                let query = question.queries[0].clone();
                let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
                reply.add_query(query.clone());
                if query.name().to_ascii() != format!("{name}.") {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                } else if let (RecordType::A, IpAddr::V4(ip)) = (query.query_type(), address) {
                    let data = RData::A(ip.into());
                    reply.add_answer(Record::from_rdata(query.name().clone(), 60, data));
                }
                socket.send_to(&reply.to_vec().unwrap(), from).unwrap();
            }
        });
    }
}

pub fn rule(changes: Value) -> Value {
    let mut rule = json!({"methods": [], "paths": [], "access": "all", "auth": null});
    merge(&mut rule, changes);
    rule
}

pub fn merge(into: &mut Value, changes: Value) {
    for (key, value) in changes.as_object().unwrap() {
        into[key] = value.clone();
    }
}

/// Polls a condition; a test that waits in vain fails.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

pub fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from((from, 0))).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What a TLS client sends first to a server of this name.
pub fn client_hello(name: &str) -> Vec<u8> {
    let config = rustls::ClientConfig::builder_with_provider(
        rustls::crypto::ring::default_provider().into(),
    );
    let config = config
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = name.to_owned().try_into().unwrap();
    let mut client = rustls::ClientConnection::new(config.into(), name).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// Reads a head, and a body if it has a length.
pub fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
        bytes.push(byte[0]);
    }
    // A tunnel may bring what is no text.
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

/// A role's process, killed when the test is over.
pub struct Process {
    child: Option<Child>,
    said: Option<thread::JoinHandle<Vec<u8>>>,
}

impl Process {
    /// A line of the kernel's status of it, in kibibytes: `VmRSS`, `VmHWM` (proc(5)).
    pub fn memory(&self, line: &str) -> u64 {
        let id = self.child.as_ref().unwrap().id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.as_ref().unwrap().id()).unwrap();
        rustix::process::kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    pub fn end(mut self) -> Ended {
        let mut output = self.child.take().unwrap().wait_with_output().unwrap();
        output.stderr = self.said.take().unwrap().join().unwrap();
        Ended(output)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// How a process ended.
pub struct Ended(Output);

impl Ended {
    pub fn code(&self) -> Option<i32> {
        self.0.status.code()
    }

    pub fn stdout(&self) -> &str {
        std::str::from_utf8(&self.0.stdout).unwrap()
    }

    pub fn stderr(&self) -> &str {
        std::str::from_utf8(&self.0.stderr).unwrap()
    }
}
