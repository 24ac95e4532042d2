//! One end of a tunnel: `end INTERFACE PORT [OFFLOAD...]`.
//!
//! OFFLOAD is any of tso, uso, segment, gro; all when none is given, `none` for none. The standard input says the rest, a
//! line each: `key HEX` is our private key, `peer HEX ENDPOINT NETWORK...` a peer by its public key, and `start` starts.
//! A peer whose ENDPOINT is not `-` is called until it answers; when all have, it prints `connected`. Ends when the
//! standard input does.

use std::io::{BufRead, Read};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use hepto_tunnel::{Offload, Options, PeerConfig, Socket, Tun, Tunnel};
use zeroize::Zeroizing;

/// Between two calls of a peer that has not answered.
const CALL: Duration = Duration::from_millis(100);

/// What the standard input said.
struct Script {
    key: Zeroizing<[u8; 32]>,
    peers: Vec<PeerConfig>,
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: end INTERFACE PORT [tso|uso|segment|gro|none...]";
    let interface = arguments.next().context(usage)?;
    let port: u16 = arguments.next().context(usage)?.parse().context(usage)?;
    let offload = offload(&arguments.collect::<Vec<_>>())?;

    let script = read_script(&mut std::io::stdin().lock())?;
    let mut options = Options::new(script.key);
    options.offload = offload;
    let tunnel = Tunnel::start(
        options,
        Tun::open(&interface)?,
        Socket::open(port)?,
        Box::new(|_| {}),
    )?;
    let called: Vec<([u8; 32], SocketAddr)> = script
        .peers
        .iter()
        .filter_map(|peer| Some((peer.public_key, peer.endpoint?)))
        .collect();
    for peer in script.peers {
        tunnel.set_peer(peer);
    }
    println!("{:?}", tunnel.offload());
    call(&tunnel, called);
    println!("connected");

    std::io::stdin().read_to_end(&mut Vec::new())?;
    println!("{:?}", tunnel.counters());
    tunnel.stop();
    Ok(())
}

fn offload(words: &[String]) -> anyhow::Result<Offload> {
    if words.is_empty() {
        return Ok(Offload::ALL);
    }
    let mut offload = Offload::NONE;
    for word in words {
        match word.as_str() {
            "tso" => offload.tso = true,
            "uso" => offload.uso = true,
            "segment" => offload.udp_segment = true,
            "gro" => offload.udp_gro = true,
            "none" => {}
            other => bail!("{other} is no offload; there are tso, uso, segment, gro and none"),
        }
    }
    Ok(offload)
}

fn read_script(input: &mut impl BufRead) -> anyhow::Result<Script> {
    let mut key = None;
    let mut peers = Vec::new();
    for line in input.lines() {
        let line = line?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["start"] => {
                let key = key.context("no line `key HEX` before `start`")?;
                return Ok(Script { key, peers });
            }
            ["key", hex] => key = Some(Zeroizing::new(bytes(hex)?)),
            ["peer", hex, endpoint, ref networks @ ..] => peers.push(PeerConfig {
                public_key: bytes(hex)?,
                preshared_key: [0; 32],
                allowed_ips: networks
                    .iter()
                    .map(|network| {
                        network
                            .parse()
                            .with_context(|| format!("{network} is no network"))
                    })
                    .collect::<anyhow::Result<_>>()?,
                endpoint: match endpoint {
                    "-" => None,
                    address => Some(
                        address
                            .parse()
                            .with_context(|| format!("{address} is no address"))?,
                    ),
                },
            }),
            _ => bail!("cannot read the line {line:?}"),
        }
    }
    bail!("the input ended before `start`")
}

fn bytes(hex: &str) -> anyhow::Result<[u8; 32]> {
    let digits = hex.as_bytes();
    let mut key = [0; 32];
    anyhow::ensure!(digits.len() == 64, "a key has 64 hexadecimal digits");
    for (byte, pair) in key.iter_mut().zip(digits.chunks(2)) {
        let pair = std::str::from_utf8(pair).context("a key has hexadecimal digits")?;
        *byte = u8::from_str_radix(pair, 16).context("a key has hexadecimal digits")?;
    }
    Ok(key)
}

/// Starts handshakes until each of `waiting` has a session.
fn call(tunnel: &Tunnel, mut waiting: Vec<([u8; 32], SocketAddr)>) {
    loop {
        let peers = tunnel.peers();
        let has_session = |key: &[u8; 32]| {
            peers
                .iter()
                .any(|peer| peer.public_key == *key && peer.last_handshake.is_some())
        };
        waiting.retain(|(key, _)| !has_session(key));
        if waiting.is_empty() {
            return;
        }
        for (key, endpoint) in &waiting {
            tunnel.handshake(key, *endpoint);
        }
        std::thread::sleep(CALL);
    }
}
