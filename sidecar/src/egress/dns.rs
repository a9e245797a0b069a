//! The agent's resolver: a host that has a route resolves to egress itself, every other name does
//! not exist. No question ever leaves the session, so names carry nothing out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bottle_planner::sidecar::EgressSettings;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use super::decisions::{Decision, DecisionLog, Entry};
use super::rules::HostName;
use super::settings::{Client, Table};
use crate::log;

/// Seconds an answer may be kept: a route can be added at any time.
const TTL: u32 = 5;
/// How long a TCP client may take for one question.
const PATIENCE: Duration = Duration::from_secs(10);
/// TCP connections at once.
const CONNECTIONS: usize = 64;

/// What names are answered from.
#[derive(Clone)]
pub(super) struct Names {
    pub(super) settings: EgressSettings,
    pub(super) table: watch::Receiver<Arc<Table>>,
    pub(super) decisions: Arc<DecisionLog>,
}

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
        let client = Client::at(&self.settings, from)?;
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
        let name = query.name().to_ascii();
        let known =
            HostName::parse(&name).is_ok_and(|host| self.table.borrow().knows(client, &host));
        let kind = query.query_type();
        if !known {
            reply.metadata.response_code = ResponseCode::NXDomain;
        } else if kind == RecordType::A {
            let address = RData::A(self.settings.listen.into());
            reply.add_answer(Record::from_rdata(query.name().clone(), TTL, address));
        }
        let (decision, rule, reason) = if known {
            (Decision::Allow, "route", "resolves to egress")
        } else {
            (Decision::Refuse, "default", "no route names this host")
        };
        self.decisions.record(&Entry {
            client: client.as_str(),
            method: "DNS",
            host: &name,
            port: None,
            path: None,
            decision,
            rule,
            reason: &format!("{kind}: {reason}"),
        });
        reply
    }
}
