//! Bytes on a connection, as an attacker would send them: nothing here mends what it is given.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};

use crate::harness::{Session, Who};

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(4);

/// A connection and what is done on it, in order.
#[derive(Debug, Clone)]
pub struct Shot {
    from: Who,
    port: u16,
    steps: Vec<Step>,
    h2: bool,
    patience: Duration,
}

#[derive(Debug, Clone)]
enum Step {
    Send(Vec<u8>),
    /// Waits for the head of an answer of a 1xx or 2xx, without which nothing follows.
    Head,
    /// TLS from here on, naming this server and offering these protocols.
    Tls(Option<String>, Vec<Vec<u8>>),
    /// Says that no more follows.
    HalfClose,
}

/// What came of a shot.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// Everything that was answered, heads of tunnels apart.
    pub answer: Vec<u8>,
    /// Why there is no more of it.
    pub end: String,
}

impl Outcome {
    /// The answer as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.answer).into_owned()
    }

    /// The status of the first answer; 0 where there is none.
    pub fn status(&self) -> u16 {
        self.text().split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Whether it was waited for in vain.
    pub fn is_silence(&self) -> bool {
        self.end == "silence"
    }
}

impl Shot {
    pub fn at(port: u16) -> Self {
        Self { from: Who::Agent, port, steps: Vec::new(), h2: false, patience: PATIENCE }
    }

    /// To the proxy.
    pub fn proxy() -> Self {
        Self::at(9099)
    }

    /// As a program that knows of no proxy, to a host of this name.
    pub fn https(name: &str) -> Self {
        Self::at(443).tls(name)
    }

    /// As a program that knows of no proxy, without TLS.
    pub fn http() -> Self {
        Self::at(80)
    }

    /// A tunnel that is opened as it should be: with TLS to a host.
    pub fn tunnel(host: &str) -> Self {
        Self::connect(&format!("{host}:443")).tls(host)
    }

    /// A tunnel to this target; what follows goes through it.
    pub fn connect(target: &str) -> Self {
        Self::proxy().send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n")).head()
    }

    /// The same from somebody else.
    pub fn from(mut self, from: Who) -> Self {
        self.from = from;
        self
    }

    pub fn send(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.steps.push(Step::Send(bytes.into()));
        self
    }

    /// Each of these in a segment of its own.
    pub fn send_each<T: Into<Vec<u8>>>(mut self, pieces: impl IntoIterator<Item = T>) -> Self {
        self.steps.extend(pieces.into_iter().map(|piece| Step::Send(piece.into())));
        self
    }

    pub fn head(mut self) -> Self {
        self.steps.push(Step::Head);
        self
    }

    pub fn half_close(mut self) -> Self {
        self.steps.push(Step::HalfClose);
        self
    }

    pub fn tls(self, name: &str) -> Self {
        self.hello(Some(name), &["http/1.1"])
    }

    pub fn hello(mut self, name: Option<&str>, protocols: &[&str]) -> Self {
        let protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
        self.steps.push(Step::Tls(name.map(Into::into), protocols));
        self
    }

    /// TLS with HTTP/2 inside: one request with these fields, pseudo-headers among them.
    pub fn h2(self, name: &str, fields: &[(&str, &str)], body: Option<&[u8]>) -> Self {
        let mut shot = self.hello(Some(name), &["h2"]).send(h2::request(fields, body));
        shot.h2 = true;
        shot
    }

    /// Gives up after this many milliseconds without a byte.
    pub fn within(mut self, millis: u64) -> Self {
        self.patience = Duration::from_millis(millis);
        self
    }

    /// HTTP/2 answers are expected to what was sent.
    pub fn in_h2(mut self) -> Self {
        self.h2 = true;
        self
    }

    /// The same to another host: every text and server name is changed.
    pub fn elsewhere(mut self, old: &str, new: &str) -> Self {
        for step in &mut self.steps {
            match step {
                Step::Send(bytes) => *bytes = replace(bytes, old.as_bytes(), new.as_bytes()),
                Step::Tls(Some(name), _) if name == old => new.clone_into(name),
                Step::Tls(..) | Step::Head | Step::HalfClose => {}
            }
        }
        self
    }

    /// Does it all and reads to the end.
    pub fn fire(&self, session: &Session) -> Outcome {
        let (line, mut outcome) = self.play(session);
        let Some(mut line) = line else { return outcome };
        let ended = if self.h2 { h2::answer(&mut line) } else { to_end(&mut line) };
        outcome.answer.extend(ended.answer);
        outcome.end = ended.end;
        outcome
    }

    /// Does it all, and counts the bytes that come back without keeping them.
    pub fn drain(&self, session: &Session) -> u64 {
        let (line, _) = self.play(session);
        let Some(mut line) = line else { return 0 };
        let (mut bytes, mut count) = (vec![0; 1 << 18], 0);
        // How it ends is not asked: what came is counted.
        while let Ok(n @ 1..) = line.read(&mut bytes) {
            count += n as u64;
        }
        count
    }

    /// The connection after all steps; none where they could not all be done.
    fn play(&self, session: &Session) -> (Option<Line>, Outcome) {
        let stream = session.connect(self.from, Who::Egress, self.port);
        stream.set_read_timeout(Some(self.patience)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut line = Line::Plain(stream);
        let mut outcome = Outcome::default();
        for step in &self.steps {
            match line.step(step, &mut outcome.answer) {
                Ok(next) => line = next,
                Err((rest, error)) => {
                    outcome.end = error.to_string();
                    // What was said before it was closed.
                    if let Some(mut rest) = rest {
                        let _ = rest.read_to_end(&mut outcome.answer);
                    }
                    return (None, outcome);
                }
            }
        }
        (Some(line), outcome)
    }
}

fn replace(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        out.extend(&rest[..at]);
        out.extend(new);
        rest = &rest[at + old.len()..];
    }
    out.extend(rest);
    out
}

/// Reads to the end, or until nothing comes any more.
fn to_end(line: &mut Line) -> Outcome {
    let mut answer = Vec::new();
    let end = match line.read_to_end(&mut answer) {
        Ok(_) => "closed".to_owned(),
        Err(error) if is_timeout(&error) => "silence".to_owned(),
        Err(error) => error.to_string(),
    };
    Outcome { answer, end }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// A connection with or without TLS.
enum Line {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

type Broken = (Option<Line>, io::Error);

impl Line {
    fn step(mut self, step: &Step, said: &mut Vec<u8>) -> Result<Self, Broken> {
        match step {
            Step::Send(bytes) => match self.write_all(bytes).and_then(|()| self.flush()) {
                Ok(()) => Ok(self),
                Err(error) => Err((Some(self), error)),
            },
            Step::Head => match head(&mut self) {
                Ok(head) if ["HTTP/1.1 1", "HTTP/1.1 2"].iter().any(|h| head.starts_with(h)) => {
                    Ok(self)
                }
                Ok(head) => {
                    said.extend(head.into_bytes());
                    Err((Some(self), io::Error::other("refused")))
                }
                Err(error) => Err((Some(self), error)),
            },
            Step::HalfClose => {
                let socket = self.socket();
                match socket.shutdown(Shutdown::Write) {
                    Ok(()) => Ok(self),
                    Err(error) => Err((Some(self), error)),
                }
            }
            Step::Tls(name, protocols) => {
                let Self::Plain(mut socket) = self else { panic!("TLS in TLS") };
                let mut connection = client(name.as_deref(), protocols);
                match connection.complete_io(&mut socket) {
                    Ok(_) => Ok(Self::Tls(Box::new(StreamOwned::new(connection, socket)))),
                    Err(error) => Err((None, error)),
                }
            }
        }
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &stream.sock,
        }
    }
}

impl Read for Line {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

fn head(line: &mut Line) -> io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        line.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// A client that believes every certificate: an attacker does not mind who answers.
fn client(name: Option<&str>, protocols: &[Vec<u8>]) -> ClientConnection {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_no_client_auth();
    config.alpn_protocols = protocols.to_vec();
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("none.test").to_owned()).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap()
}

#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// As much of HTTP/2 (RFC 9113) and HPACK (RFC 7541) as one request needs that no library would
/// send.
pub mod h2 {
    use std::io::{self, Read};

    use super::{Outcome, is_timeout};

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// What a client sends first.
    pub fn preface() -> Vec<u8> {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(SETTINGS, 0, 0, &[]));
        bytes
    }

    pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        frame
    }

    /// Every field as a literal, as it is spelled.
    pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (name, value) in fields {
            block.push(0);
            for text in [name, value] {
                // A length that does not fit the prefix of seven bits goes on (section 5.1).
                match text.len() {
                    short @ 0..127 => block.push(u8::try_from(short).unwrap()),
                    long => {
                        let mut rest = long - 127;
                        block.push(127);
                        while rest >= 128 {
                            block.push(u8::try_from(rest % 128).unwrap() | 0x80);
                            rest /= 128;
                        }
                        block.push(u8::try_from(rest).unwrap());
                    }
                }
                block.extend(text.bytes());
            }
        }
        block
    }

    /// A whole connection with one request, on stream 1.
    pub fn request(fields: &[(&str, &str)], body: Option<&[u8]>) -> Vec<u8> {
        let end = if body.is_none() { END_STREAM } else { 0 };
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_HEADERS | end, 1, &block(fields)));
        if let Some(body) = body {
            bytes.extend(frame(DATA, END_STREAM, 1, body));
        }
        bytes
    }

    /// A request whose body comes in data frames of one byte each.
    pub fn dripped(fields: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(fields)));
        for byte in body {
            bytes.extend(frame(DATA, 0, 1, &[*byte]));
        }
        bytes.extend(frame(DATA, END_STREAM, 1, &[]));
        bytes
    }

    /// A request with trailers.
    pub fn trailed(fields: &[(&str, &str)], body: &[u8], trailers: &[(&str, &str)]) -> Vec<u8> {
        let mut bytes = preface();
        bytes.extend(frame(HEADERS, END_HEADERS, 1, &block(fields)));
        bytes.extend(frame(DATA, 0, 1, body));
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(trailers)));
        bytes
    }

    /// Reads the answer on stream 1, and writes it as HTTP/1.1 would be.
    pub fn answer(line: &mut impl Read) -> Outcome {
        let mut outcome = Outcome::default();
        let mut body = Vec::new();
        let mut status = 0;
        outcome.end = loop {
            let (kind, flags, stream, payload) = match next(line) {
                Ok(frame) => frame,
                Err(error) if is_timeout(&error) => break "silence".into(),
                Err(error) => break error.to_string(),
            };
            match (kind, stream) {
                (GOAWAY, _) => break "GOAWAY".into(),
                (RST_STREAM, 1) => break format!("RST_STREAM {payload:?}"),
                (HEADERS, 1) if status == 0 => status = read_status(&payload),
                (DATA, 1) => body.extend(payload),
                _ => {}
            }
            if stream == 1 && [DATA, HEADERS].contains(&kind) && flags & END_STREAM != 0 {
                break "END_STREAM".into();
            }
        };
        if status != 0 {
            outcome.answer = format!("HTTP/2 {status} \r\n\r\n").into_bytes();
        }
        outcome.answer.extend(body);
        outcome
    }

    fn next(line: &mut impl Read) -> io::Result<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        line.read_exact(&mut head)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        line.read_exact(&mut payload)?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Ok((head[3], head[4], stream, payload))
    }

    /// The status, which is the first field (section 8.3.2 of RFC 9113): of the static table, or a
    /// literal beside a name of it.
    fn read_status(block: &[u8]) -> u16 {
        // Changes of the table's size come before.
        let block: Vec<u8> = block.iter().copied().skip_while(|b| b & 0xe0 == 0x20).collect();
        match block.as_slice() {
            [first @ 0x88..=0x8e, ..] => {
                [200, 204, 206, 304, 400, 404, 500][usize::from(first - 0x88)]
            }
            [0x48 | 0x08 | 0x18, length, rest @ ..] => {
                let value = &rest[..usize::from(length & 0x7f)];
                let digits = if length & 0x80 == 0 { value.to_vec() } else { digits(value) };
                String::from_utf8_lossy(&digits).parse().unwrap_or(999)
            }
            _ => 999,
        }
    }

    /// Digits in Huffman's code (RFC 7541, appendix B): 0 to 2 have five bits, the others six.
    fn digits(bytes: &[u8]) -> Vec<u8> {
        let bits: Vec<u8> =
            bytes.iter().flat_map(|b| (0..8).rev().map(move |n| b >> n & 1)).collect();
        let number = |from: usize, n: usize| {
            bits.get(from..from + n).map(|b| b.iter().fold(0_u8, |sum, bit| sum << 1 | bit))
        };
        let (mut at, mut digits) = (0, Vec::new());
        while digits.len() < 3 {
            match (number(at, 5), number(at, 6)) {
                (Some(short @ 0..=2), _) => {
                    digits.push(b'0' + short);
                    at += 5;
                }
                (_, Some(long @ 0x19..=0x1f)) => {
                    digits.push(b'3' + long - 0x19);
                    at += 6;
                }
                _ => break,
            }
        }
        digits
    }
}
