//! The agent's resolver: a host that has a route resolves to egress itself, every other name does
//! not exist. No question ever leaves the session, so names carry nothing out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::decision::{Code, Outcome, Via};
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::flow::Flow;
use super::proxy::{OWN_NAME, Shared};
use super::rules::HostName;
use super::settings::Client;
use crate::log;

/// Seconds an answer may be kept: a route can be added at any time.
const TTL: u32 = 5;
/// How long a TCP client may take for one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// TCP connections at once.
const CONNECTIONS: usize = 64;

/// What names are answered from.
#[derive(Clone)]
pub(super) struct Names(pub(super) Arc<Shared>);

/// Binds both sockets and serves them in tasks of their own.
pub(super) async fn spawn(address: SocketAddr, names: Names) -> io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tokio::spawn(serve_udp(udp, names.clone()));
    tokio::spawn(serve_tcp(tcp, names));
    Ok(())
}

async fn serve_udp(socket: UdpSocket, names: Names) {
    let mut question = [0; 4096];
    loop {
        match socket.recv_from(&mut question).await {
            Ok((length, from)) => {
                if let Some(answer) = names.answer(from.ip(), &question[..length]) {
                    // A datagram may be lost; the client asks again.
                    let _ = socket.send_to(&answer, from).await;
                }
            }
            Err(error) => {
                log::warn("a question was not read", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_tcp(listener: TcpListener, names: Names) {
    let permits = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else { continue };
                let names = names.clone();
                tokio::spawn(async move {
                    // A broken connection is the client's own affair.
                    let _ = converse(stream, from.ip(), &names).await;
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn("a resolver connection was not accepted", &[("error", &error)]);
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// RFC 1035, section 4.2.2: each message is preceded by its length.
async fn converse(mut stream: TcpStream, from: IpAddr, names: &Names) -> io::Result<()> {
    loop {
        let question = timeout(PATIENCE, async {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await?;
            io::Result::Ok(question)
        })
        .await??;
        let Some(answer) = names.answer(from, &question) else { return Ok(()) };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(PATIENCE, async {
            stream.write_u16(length).await?;
            stream.write_all(&answer).await
        })
        .await??;
    }
}

impl Names {
    /// The answer to one message, or none for what is not a question of a client's.
    fn answer(&self, from: IpAddr, question: &[u8]) -> Option<Vec<u8>> {
        let client = Client::at(&self.0.settings, from)?;
        let question = Message::from_vec(question).ok()?;
        if question.metadata.message_type != MessageType::Query {
            return None;
        }
        self.reply(client, &question).to_vec().ok()
    }

    fn reply(&self, client: Client, question: &Message) -> Message {
        let mut reply = Message::response(question.metadata.id, question.metadata.op_code);
        reply.metadata.recursion_desired = question.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        let [query] = question.queries.as_slice() else {
            reply.metadata.response_code = ResponseCode::FormErr;
            return reply;
        };
        reply.add_query(query.clone());
        if question.metadata.op_code != OpCode::Query {
            reply.metadata.response_code = ResponseCode::NotImp;
            return reply;
        }
        if query.query_class() != DNSClass::IN {
            reply.metadata.response_code = ResponseCode::Refused;
            return reply;
        }
        let kind = query.query_type();
        let mut flow = Flow::new(&self.0, client.as_str(), Via::Dns);
        flow.host = query.name().to_ascii();
        flow.method = kind.to_string();
        let named = HostName::parse(&flow.host);
        let found = named.as_ref().ok().filter(|_| client != Client::Build);
        let found = found.and_then(|host| flow.table.route(host));
        flow.route = found.map(|route| route.pattern.to_string());
        let hidden = flow.held.in_host(&flow.host);
        let known = hidden.is_none()
            && named.is_ok_and(|host| {
                let own = host.as_str() == OWN_NAME && client != Client::Build;
                own || flow.table.knows(client, &host)
            });
        if !known {
            reply.metadata.response_code = ResponseCode::NXDomain;
        } else if kind == RecordType::A {
            let address = RData::A(self.0.settings.listen.into());
            reply.add_answer(Record::from_rdata(query.name().clone(), TTL, address));
        }
        match hidden {
            _ if known => flow.record(Outcome::Allow, Code::Granted, "route", "resolves to egress"),
            Some(name) => {
                let reason = format!("the value of {name} is in the host's name");
                flow.record(Outcome::Refuse, Code::Leak, &format!("leak {name}"), &reason);
            }
            None => {
                let reason = "no route names this host";
                flow.record(Outcome::Refuse, Code::NoRoute, "default", reason);
            }
        }
        reply
    }
}
