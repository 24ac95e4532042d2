//! How good the way to each other node is: round trip and loss of a small echo through the tunnel, and rates.
//!
//! A node with a live session is asked every ten seconds; of many nodes, five a second take turns. What is asked costs
//! 100 bytes each way and nothing per packet of others. Times are the main loop's: a loop that is busy adds to one of them,
//! and their mean is smoothed.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hepto_net::Entry;
use hepto_net::echo::EchoSocket;
use hepto_tunnel::PeerReport;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sandbox::descriptor;

/// Between two echoes to one node; an answer that takes longer is lost.
const EVERY: Duration = Duration::from_secs(10);
/// Echoes of one turn of the main loop, which comes each second.
const TURN: usize = 5;
/// Echoes that the loss is counted over: five minutes of them.
const WINDOW: u32 = 30;
/// Over how long rates are smoothed.
const SMOOTH: Duration = Duration::from_secs(5);
/// Rates are not measured over less: a handful of packets would look like a flood.
const SHORTEST: Duration = Duration::from_millis(500);

/// What is known of the way to one node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Quality {
    /// The smoothed round trip.
    pub rtt: Option<Duration>,
    /// The part of the last echoes that was not answered, 0 to 1.
    pub loss: Option<f64>,
    /// Received inside the tunnel, bits a second.
    pub rx_bits_s: u64,
    /// Sent inside the tunnel, bits a second.
    pub tx_bits_s: u64,
}

/// The ways to all other nodes.
pub struct Qualities {
    socket: Option<(EchoSocket, AsyncFd<OwnedFd>)>,
    serial: u16,
    ways: BTreeMap<[u8; 32], Way>,
}

/// One node, as the tunnel has it.
pub struct Target {
    /// Its overlay address; `None` without a live session: then it is not asked.
    pub address: Option<Ipv6Addr>,
    /// What the tunnel knows of it.
    pub peer: PeerReport,
}

impl Qualities {
    /// Opens the socket for echoes through `link` in the node's namespace. A kernel without IPv6 has none: then there are
    /// only rates.
    pub fn open(entry: &Entry, link: &'static str) -> Qualities {
        let open = move || {
            let socket = EchoSocket::open(link)?;
            let descriptor = socket.descriptor()?;
            Ok((socket, descriptor))
        };
        let opened = entry.run(open).and_then(|opened: io::Result<_>| opened);
        let watched = opened.and_then(|(socket, descriptor)| {
            Ok((socket, descriptor::watch(descriptor, Interest::READABLE)?))
        });
        if let Err(error) = &watched {
            tracing::info!(%error, "round trips are not measured: no ICMPv6 socket on {link}");
        }
        Qualities {
            socket: watched.ok(),
            serial: 0,
            ways: BTreeMap::new(),
        }
    }

    /// Takes the counts of all peers, forgets who is gone, and asks who is due.
    pub fn look(&mut self, targets: Vec<Target>, now: Instant) {
        let mut ways = std::mem::take(&mut self.ways);
        for Target { address, peer } in targets {
            let mut way = ways.remove(&peer.public_key);
            let way = way.get_or_insert_with(|| Way::new(&peer, now));
            way.flow.count([peer.rx_bytes, peer.tx_bytes], now);
            if way.address != address {
                way.echoes = Echoes::new(now);
                way.address = address;
            }
            self.ways.insert(peer.public_key, way.clone());
        }
        self.ask(now);
    }

    fn ask(&mut self, now: Instant) {
        let Some((socket, _)) = &self.socket else {
            return;
        };
        let due = |way: &&mut Way| way.address.is_some() && way.echoes.due <= now;
        let mut due: Vec<&mut Way> = self.ways.values_mut().filter(due).collect();
        due.sort_by_key(|way| way.echoes.due);
        for way in due.into_iter().take(TURN) {
            self.serial = self.serial.wrapping_add(1);
            let sent = way.address.map(|address| socket.send(address, self.serial));
            // What could not be sent is not lost on the way.
            way.echoes.asked(
                sent.is_some_and(|sent| sent.is_ok()).then_some(self.serial),
                now,
            );
        }
    }

    /// Takes the next answer; for the main loop to wait for. Cancel-safe.
    pub async fn answer(&mut self) {
        let Some((socket, readable)) = &self.socket else {
            return std::future::pending().await;
        };
        loop {
            // An error of epoll itself: the runtime is ending.
            let Ok(mut guard) = readable.readable().await else {
                return std::future::pending().await;
            };
            let Some((from, serial)) = socket.receive() else {
                guard.clear_ready();
                continue;
            };
            let now = Instant::now();
            let mut ways = self.ways.values_mut();
            if let Some(way) = ways.find(|way| way.address == Some(from)) {
                way.echoes.answered(serial, now);
            }
            return;
        }
    }

    /// What is known of the way to the peer with this key.
    pub fn of(&self, public_key: &[u8; 32]) -> Quality {
        let Some(way) = self.ways.get(public_key) else {
            return Quality::default();
        };
        Quality {
            rtt: way.echoes.rtt,
            loss: way.echoes.loss(),
            rx_bits_s: way.flow.bits_s[0] as u64,
            tx_bits_s: way.flow.bits_s[1] as u64,
        }
    }
}

#[derive(Debug, Clone)]
struct Way {
    address: Option<Ipv6Addr>,
    echoes: Echoes,
    flow: Flow,
}

impl Way {
    fn new(peer: &PeerReport, now: Instant) -> Way {
        Way {
            address: None,
            echoes: Echoes::new(now),
            flow: Flow {
                at: now,
                bytes: [peer.rx_bytes, peer.tx_bytes],
                bits_s: [0.0; 2],
            },
        }
    }
}

/// The echoes to one node: one under way at most.
#[derive(Debug, Clone)]
struct Echoes {
    due: Instant,
    waiting: Option<(u16, Instant)>,
    rtt: Option<Duration>,
    /// The last ones, the newest lowest: a set bit is an answer.
    history: u32,
    counted: u32,
}

impl Echoes {
    fn new(now: Instant) -> Echoes {
        Echoes {
            due: now,
            waiting: None,
            rtt: None,
            history: 0,
            counted: 0,
        }
    }

    /// Another one left, if it could.
    fn asked(&mut self, serial: Option<u16>, now: Instant) {
        if self.waiting.take().is_some() {
            self.count(false);
        }
        self.waiting = serial.map(|serial| (serial, now));
        self.due = now + EVERY;
    }

    fn answered(&mut self, serial: u16, now: Instant) {
        let Some((_, sent)) = self.waiting.take_if(|(waiting, _)| *waiting == serial) else {
            return;
        };
        let took = now.saturating_duration_since(sent);
        // Smoothed as TCP does it (RFC 6298 §2).
        self.rtt = Some(self.rtt.map_or(took, |rtt| (rtt * 7 + took) / 8));
        self.count(true);
    }

    fn count(&mut self, answered: bool) {
        self.history = self.history << 1 | u32::from(answered);
        self.counted = (self.counted + 1).min(WINDOW);
    }

    fn loss(&self) -> Option<f64> {
        let window = (1u32 << self.counted) - 1;
        let answered = (self.history & window).count_ones();
        (self.counted > 0).then(|| f64::from(self.counted - answered) / f64::from(self.counted))
    }
}

/// Bytes both ways, and how fast they grow.
#[derive(Debug, Clone)]
struct Flow {
    at: Instant,
    bytes: [u64; 2],
    bits_s: [f64; 2],
}

impl Flow {
    fn count(&mut self, bytes: [u64; 2], now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        if passed < SHORTEST {
            return;
        }
        let weight = 1.0 - (-passed.as_secs_f64() / SMOOTH.as_secs_f64()).exp();
        let directions = self.bits_s.iter_mut().zip(bytes.iter().zip(self.bytes));
        for (smooth, (bytes, before)) in directions {
            // A peer that was made anew counts from zero.
            let rate = bytes.saturating_sub(before) as f64 * 8.0 / passed.as_secs_f64();
            *smooth += weight * (rate - *smooth);
        }
        (self.at, self.bytes) = (now, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn answers_make_a_smoothed_round_trip_and_silence_a_loss() {
        let start = Instant::now();
        let mut echoes = Echoes::new(start);
        assert_eq!((echoes.rtt, echoes.loss()), (None, None));
        echoes.asked(Some(1), start);
        assert_eq!(echoes.loss(), None, "nothing is known yet");
        echoes.answered(7, start + MS);
        assert_eq!(echoes.rtt, None, "an answer to something else");
        echoes.answered(1, start + 8 * MS);
        echoes.answered(1, start + 9 * MS);
        assert_eq!((echoes.rtt, echoes.loss()), (Some(8 * MS), Some(0.0)));
        let mut now = start + EVERY;
        assert_eq!(echoes.due, now);
        echoes.asked(Some(2), now);
        echoes.answered(2, now + 16 * MS);
        assert_eq!(echoes.rtt, Some(9 * MS), "an eighth of the way");
        now += EVERY;
        echoes.asked(Some(3), now);
        now += EVERY;
        echoes.asked(None, now);
        let third = echoes.loss().expect("three are counted");
        assert!((third - 1.0 / 3.0).abs() < 1e-9, "{third}");
        echoes.asked(Some(5), now + EVERY);
        assert_eq!(echoes.counted, 3, "what did not leave is not lost");
    }

    #[test]
    fn the_loss_is_of_the_last_five_minutes() {
        let now = Instant::now();
        let mut echoes = Echoes::new(now);
        for serial in 0..100 {
            echoes.asked(Some(serial), now);
        }
        assert_eq!(echoes.loss(), Some(1.0));
        for serial in 100..115 {
            echoes.asked(Some(serial), now);
            echoes.answered(serial, now);
        }
        assert_eq!(echoes.loss(), Some(0.5));
        for serial in 115..130 {
            echoes.asked(Some(serial), now);
            echoes.answered(serial, now);
        }
        assert_eq!(echoes.loss(), Some(0.0));
    }

    #[test]
    fn a_rate_nears_what_flows_and_goes_down_in_silence() {
        let start = Instant::now();
        let mut flow = Flow {
            at: start,
            bytes: [0; 2],
            bits_s: [0.0; 2],
        };
        for second in 1..=30 {
            let now = start + Duration::from_secs(second);
            flow.count([second * 1000, 0], now);
            flow.count([second * 1000 + 500, 0], now + MS);
        }
        let [rx, tx] = flow.bits_s;
        assert!((7900.0..8200.0).contains(&rx), "{rx}");
        assert_eq!(tx, 0.0);
        flow.count([0, 0], start + Duration::from_secs(60));
        assert!(flow.bits_s[0] < 50.0, "{:?}", flow.bits_s);
    }
}
