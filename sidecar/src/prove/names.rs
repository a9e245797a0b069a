//! Names: which resolvers answer, and whether a question carries anything out.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};

use super::network::words;
use super::{Expected, Family, Outcome, Targets};

/// A name that every resolver of the world knows.
const KNOWN: &str = "example.com";
/// Docker's own resolver inside a container.
const ENGINES: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Types of records (RFC 1035, section 3.2.2).
const A: u16 = 1;
const TXT: u16 = 16;

pub(super) fn attempts(targets: &Targets) -> Family {
    use Expected::{Allowed, Refused};
    let mut all = Family::new("names");
    let own = targets.egress;
    match &targets.known {
        Some(known) => {
            let what = format!("ask egress for {}", known.host);
            all.later(Allowed, "dns-granted", what, udp(own, known.host.clone(), A, false));
            let what = format!("ask egress for {} by TCP", known.host);
            all.later(Allowed, "dns-granted-tcp", what, tcp(own, known.host.clone(), A, false));
            let what = format!("a TXT record of {}", known.host);
            all.later(Refused, "dns-txt", what, udp(own, known.host.clone(), TXT, false));
        }
        None => all.now(Allowed, "dns-granted", "ask egress for a granted name", || {
            Outcome::NotTried("no route names a host".into())
        }),
    }
    let refused = targets.refused.first().cloned().unwrap_or_else(|| "refused.invalid".into());
    let what = format!("ask egress for {refused}");
    all.later(Refused, "dns-refused", what, udp(own, refused.clone(), A, false));
    let what = format!("ask egress for {refused} by TCP");
    all.later(Refused, "dns-refused-tcp", what, tcp(own, refused.clone(), A, false));
    let carried = format!("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.{refused}");
    let what = "carry data out in a name (A)";
    all.later(Refused, "dns-tunnel", what, udp(own, carried.clone(), A, false));
    let what = "carry data out in a name (TXT)";
    all.later(Refused, "dns-tunnel-txt", what, udp(own, carried, TXT, false));

    let what = "ask the engine's resolver, 127.0.0.11";
    all.later(Refused, "dns-engine", what, udp(ENGINES, KNOWN.into(), A, false));
    let what = "ask 127.0.0.11 by TCP";
    all.later(Refused, "dns-engine-tcp", what, tcp(ENGINES, KNOWN.into(), A, false));
    let public = [Ipv4Addr::new(1, 1, 1, 1), Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(9, 9, 9, 9)];
    let others: BTreeSet<Ipv4Addr> = public.iter().chain(&targets.resolvers).copied().collect();
    for resolver in others.iter().filter(|address| !address.is_loopback()) {
        let what = format!("ask the resolver {resolver}");
        let id = format!("dns-udp-{resolver}");
        all.later(Refused, id, what, udp(*resolver, KNOWN.into(), A, true));
        let id = format!("dns-tcp-{resolver}");
        let what = format!("ask {resolver} by TCP");
        all.later(Refused, id, what, tcp(*resolver, KNOWN.into(), A, true));
    }
    all
}

/// Asks by UDP. Where `any` answer is one too many, its content does not matter.
async fn udp(resolver: Ipv4Addr, name: String, kind: u16, any: bool) -> Outcome {
    let asked = async {
        let socket = UdpSocket::bind("0.0.0.0:0").await?;
        socket.connect(SocketAddr::from((resolver, 53))).await?;
        socket.send(&question(&name, kind)).await?;
        let mut answer = [0; 1500];
        let length = socket.recv(&mut answer).await?;
        Ok::<_, std::io::Error>(answer[..length].to_vec())
    };
    judge(asked.await, any)
}

async fn tcp(resolver: Ipv4Addr, name: String, kind: u16, any: bool) -> Outcome {
    let asked = async {
        let mut stream = TcpStream::connect(SocketAddr::from((resolver, 53))).await?;
        let question = question(&name, kind);
        let length = u16::try_from(question.len()).unwrap_or(u16::MAX);
        stream.write_all(&[&length.to_be_bytes()[..], &question].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    judge(asked.await, any)
}

fn judge(answer: std::io::Result<Vec<u8>>, any: bool) -> Outcome {
    let answer = match answer {
        Ok(answer) => answer,
        // Somebody is there who does not serve names.
        Err(error) if any && error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Outcome::Allowed("reached, but nothing listens there".into());
        }
        Err(error) => return Outcome::Refused(words(&error)),
    };
    // RFC 1035, section 4.1.1: the code is the low half of byte 3, the count of answers at byte 6.
    let (Some(code), Some(count)) = (answer.get(3), answer.get(6..8)) else {
        return Outcome::Refused("an answer that is none".into());
    };
    let count = u16::from_be_bytes([count[0], count[1]]);
    let text = match (code & 15, count) {
        (0, 0) => "no such record".to_owned(),
        (0, _) => return Outcome::Allowed("resolved".into()),
        (2, _) => "the resolver failed".to_owned(),
        (3, _) => "no such name".to_owned(),
        (5, _) => "the resolver refused".to_owned(),
        (code, _) => format!("response code {code}"),
    };
    if any { Outcome::Allowed(format!("answered: {text}")) } else { Outcome::Refused(text) }
}

/// One question (RFC 1035, section 4.1), recursion desired. Labels are cut to what one can hold.
fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut message = vec![0x62, 0x70, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        message.push(u8::try_from(label.len()).unwrap_or(63));
        message.extend(label);
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend([0, 1]);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u8, count: u8) -> std::io::Result<Vec<u8>> {
        Ok(vec![0x62, 0x70, 0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0])
    }

    #[test]
    fn an_answer_is_judged_by_its_records() {
        assert_eq!(judge(answer(0, 1), false), Outcome::Allowed("resolved".into()));
        assert_eq!(judge(answer(3, 0), false), Outcome::Refused("no such name".into()));
        assert_eq!(judge(answer(0, 0), false), Outcome::Refused("no such record".into()));
        assert_eq!(judge(Ok(vec![1]), false), Outcome::Refused("an answer that is none".into()));
    }

    #[test]
    fn a_resolver_that_should_not_be_reached_may_not_even_say_no() {
        let told = Outcome::Allowed("answered: no such name".into());
        assert_eq!(judge(answer(3, 0), true), told);
    }

    #[test]
    fn a_question_reads_back_as_it_was_asked() {
        use hickory_proto::op::Message;
        let message = Message::from_vec(&question("a.example.com", TXT)).unwrap();
        let query = &message.queries[0];
        assert_eq!(query.name().to_ascii(), "a.example.com.");
        assert_eq!(u16::from(query.query_type()), TXT);
    }
}
