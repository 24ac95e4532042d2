//! What passes on a home's line: UDP datagrams, with their times.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hepto_net::lab::{Home, LAN};
use nix::net::if_::if_nametoindex;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// One UDP datagram on the line.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When it passed.
    pub at: Instant,
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// Its payload.
    pub bytes: Vec<u8>,
}

impl Seen {
    /// Whether it is a handshake's first message (WireGuard's type 1).
    #[must_use]
    pub fn is_initiation(&self) -> bool {
        self.bytes.len() == 148 && self.bytes[..4] == [1, 0, 0, 0]
    }

    /// Whether it carries data inside a session (WireGuard's type 4), more than a keepalive does.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.bytes.len() > 32 && self.bytes[..4] == [4, 0, 0, 0]
    }
}

/// Records a home's line until it is dropped.
#[derive(Debug)]
pub struct Capture {
    seen: Arc<Mutex<Vec<Seen>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins to record.
    ///
    /// # Panics
    /// When the kernel refuses.
    #[must_use]
    pub fn of(home: &Home) -> Capture {
        let open = || {
            let descriptor = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            );
            (
                descriptor.expect("a packet socket"),
                if_nametoindex(LAN).expect("a home has its line"),
            )
        };
        let (descriptor, index) = home.space().run(open).expect("the home can be entered");
        // So that the thread looks now and then whether it is over.
        setsockopt(&descriptor, ReceiveTimeout, &TimeVal::milliseconds(100))
            .expect("a socket option");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let over = Arc::new(AtomicBool::new(false));
        let (list, end) = (seen.clone(), over.clone());
        let record = move || {
            let mut frame = vec![0; 65_536];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, Some(from))) =
                    recvfrom::<LinkAddr>(descriptor.as_raw_fd(), &mut frame)
                else {
                    continue;
                };
                if from.ifindex() == index as usize
                    && let Some(datagram) = parse(&frame[..length])
                {
                    list.lock().expect("no holder panics").push(datagram);
                }
            }
        };
        Capture {
            seen,
            over,
            thread: Some(thread::spawn(record)),
        }
    }

    /// What passed so far.
    ///
    /// # Panics
    /// Never: no holder of the lock does.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no holder panics").clone()
    }

    /// The first datagram that `wanted` accepts, waited for.
    ///
    /// # Panics
    /// When none has passed within `patience`.
    #[must_use]
    pub fn first(&self, patience: Duration, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let find = || {
            self.seen()
                .into_iter()
                .find(&wanted)
                .ok_or("nothing like that passed")
        };
        crate::within(patience, what, find).0
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its panic would be our own bug; the test has its verdict without it.
            thread.join().ok();
        }
    }
}

/// The UDP datagram in an Ethernet frame, if there is a whole one.
fn parse(frame: &[u8]) -> Option<Seen> {
    let (kind, packet) = (frame.get(12..14)?, frame.get(14..)?);
    let (from, to, udp): (IpAddr, IpAddr, &[u8]) = match kind {
        [0x08, 0x00] if packet.get(9)? == &17 => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let address = |at: usize| {
                Some(Ipv4Addr::from(
                    <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
                ))
            };
            (
                address(12)?.into(),
                address(16)?.into(),
                packet.get(header..)?,
            )
        }
        [0x86, 0xdd] if packet.get(6)? == &17 => {
            let address = |at: usize| {
                Some(Ipv6Addr::from(
                    <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                ))
            };
            (address(8)?.into(), address(24)?.into(), packet.get(40..)?)
        }
        _ => return None,
    };
    let number = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
    let bytes = udp.get(8..usize::from(number(4)?))?.to_vec();
    let (from, to) = (
        SocketAddr::new(from, number(0)?),
        SocketAddr::new(to, number(2)?),
    );
    Some(Seen {
        at: Instant::now(),
        from,
        to,
        bytes,
    })
}
