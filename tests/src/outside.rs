//! What containers reach outside of their session: this host, by an address that they find it at.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::thread;

use crate::host::{docker, unique};

/// A network of the engine's whose gateway is an address of this host that nobody else uses.
#[derive(Debug)]
pub struct Network(String);

impl Network {
    /// Makes one, and says the address.
    ///
    /// # Panics
    ///
    /// If the engine does not.
    #[must_use]
    pub fn new() -> (Self, Ipv4Addr) {
        let name = unique("outside");
        docker(&["network", "create", "--label", "dev.bottle.test=outside", &name]).code(0);
        let format = "{{(index .IPAM.Config 0).Gateway}}";
        let out = docker(&["network", "inspect", &name, "--format", format]).code(0).out;
        (Self(name), out.trim().parse().expect("an address"))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.0]);
    }
}

/// A server on this host that answers every request with this text; its port.
///
/// # Panics
///
/// If there is no port.
#[must_use]
pub fn answering(text: &'static str) -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // The whole head: what is left unread when this closes takes the answer with it.
            let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
            while !head.windows(4).any(|four| four == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(n) if n > 0 => head.extend_from_slice(&buffer[..n]),
                    _ => break,
                }
            }
            // Whatever becomes of the answer is the client's affair.
            let length = text.len();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n");
            let _ = write!(stream, "{head}Connection: close\r\n\r\n{text}");
        }
    });
    port
}

/// The address of the engine's default bridge, at which containers find this host: the first of
/// its subnet, for not every engine says which.
///
/// # Panics
///
/// If the engine has no such bridge.
#[must_use]
pub fn this_host() -> Ipv4Addr {
    let format = "{{range .IPAM.Config}}{{.Subnet}}{{end}}";
    let subnet = docker(&["network", "inspect", "bridge", "--format", format]).code(0).out;
    let network = subnet.trim().split('/').next().and_then(|network| network.parse().ok());
    let network: Ipv4Addr = network.expect("the default bridge has a subnet");
    Ipv4Addr::from(u32::from(network) + 1)
}
