//! One end of a tunnel between two, for benchmarks and experiments: `pair NUMBER PEER_ADDRESS [OFFLOAD...]`.
//!
//! NUMBER is 1 or 2; the keys are made of it, so this is nothing to protect anything with. The interface is
//! `hepto-NUMBER`, the port 51820. OFFLOAD: any of tso, uso, segment, gro; all when none is given, `none` for none.
//! Ends when its standard input does, and prints its counters.

use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hepto_tunnel::{Offload, Options, PeerConfig, Socket, Tun, Tunnel};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let number: u8 = arguments.next().ok_or("which end: 1 or 2?")?.parse()?;
    let address: IpAddr = arguments.next().ok_or("where is the other end?")?.parse()?;
    let rungs: Vec<String> = arguments.collect();
    let rung = |name: &str| rungs.is_empty() || rungs.iter().any(|rung| rung == name);

    let tun = Tun::open(&format!("hepto-{number}"))?;
    let mut options = Options::new(Zeroizing::new([number; 32]));
    options.offload = Offload {
        tso: rung("tso"),
        uso: rung("uso"),
        udp_segment: rung("segment"),
        udp_gro: rung("gro"),
    };
    let tunnel = Tunnel::start(options, tun, Socket::open(51820)?, Box::new(|_| {}))?;
    println!("{:?}", tunnel.offload());

    let other = 3 - number;
    let public_key = PublicKey::from(&StaticSecret::from([other; 32])).to_bytes();
    let allowed_ips = vec!["0.0.0.0/0".parse()?, "::/0".parse()?];
    tunnel.set_peer(PeerConfig {
        public_key,
        preshared_key: [0; 32],
        allowed_ips,
        endpoint: None,
    });
    while number == 1
        && tunnel
            .peers()
            .iter()
            .all(|peer| peer.last_handshake.is_none())
    {
        tunnel.handshake(&public_key, SocketAddr::new(address, 51820));
        std::thread::sleep(Duration::from_millis(100));
    }
    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:?}", tunnel.counters());
    tunnel.stop();
    Ok(())
}
