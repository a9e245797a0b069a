//! A stand-in for pipelock, to be an image's `/pipelock`: `pipelock run --config FILE` carries what
//! the file allows and prints the first line of every request.
//!
//! `HOP_NAMES` says where names lead, as `host:port=address:port`, separated by spaces.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use std::{env, fs, thread};

use bottle_outside::Hop;

fn main() {
    let config = env::args().next_back().expect("the file is the last argument");
    let config = fs::read_to_string(config).expect("the file is there");
    let (_, allowed) = config.split_once("api_allowlist:\n").expect("it has an allow-list");
    let names = env::var("HOP_NAMES").expect("HOP_NAMES is set");
    let names: Vec<(&str, SocketAddr)> = names
        .split_whitespace()
        .filter_map(|name| name.split_once('='))
        .filter(|(name, _)| {
            let host = name.split(':').next().unwrap_or_default();
            allowed.contains(&format!("  - \"{host}\"\n"))
        })
        .map(|(name, to)| (name, to.parse().expect("an address and a port")))
        .collect();
    let hop = Hop::serve((Ipv4Addr::UNSPECIFIED, 8888), &names);
    let mut told = 0;
    loop {
        for head in hop.heads().iter().skip(told) {
            told += 1;
            #[expect(clippy::print_stdout, reason = "the test reads it as the container's log")]
            {
                println!("{}", head.lines().next().unwrap_or_default());
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
}
