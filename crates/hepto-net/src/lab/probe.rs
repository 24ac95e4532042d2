//! Echo and throughput, measured without any program of the host.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

use super::{Error, Space};

const ICMP_HEADER: usize = 8;

/// One echo request (RFC 792, RFC 4443), never fragmented.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    /// Whom to ask.
    pub to: IpAddr,
    /// Bytes of the whole IP packet, headers included: at least 28 for IPv4 and 48 for IPv6.
    pub size: usize,
    /// How long to wait for the answer.
    pub patience: Duration,
}

impl Echo {
    /// A small packet that waits a second.
    pub fn new(to: IpAddr) -> Echo {
        Echo {
            to,
            size: 84,
            patience: Duration::from_secs(1),
        }
    }
}

/// Sends one echo request from the network of the calling thread (see [`Space::run`]) and gives the
/// time until its answer.
///
/// # Errors
/// `EMSGSIZE`: the packet is larger than the link's MTU, or a router on the way said "too big";
/// `TimedOut`: nobody answered; what else the kernel says, such as an unreachable network.
pub fn echo(request: Echo) -> io::Result<Duration> {
    static SERIAL: AtomicU16 = AtomicU16::new(1);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    // Other processes may ask in the same namespace: the process is the echo's identifier.
    let [.., high, low] = std::process::id().to_be_bytes();
    let socket = open(request.to)?;
    let packet = packet(request, [high, low, serial[0], serial[1]]);
    let sent = Instant::now();
    socket.send(&packet)?;
    let mut answer = vec![0; 65_536];
    loop {
        let left = request.patience.saturating_sub(sent.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut answer) {
            Ok(length) if answers(&answer[..length], &packet, request.to) => {
                return Ok(sent.elapsed());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
}

fn open(to: IpAddr) -> io::Result<UdpSocket> {
    let raw = |family, protocol: Protocol| -> io::Result<OwnedFd> {
        Ok(socket_with(
            family,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(protocol),
        )?)
    };
    let descriptor = match to {
        IpAddr::V4(_) => {
            let descriptor = raw(AddressFamily::INET, ipproto::ICMP)?;
            sockopt::set_ip_mtu_discover(&descriptor, Ipv4PathMtuDiscovery::DO)?;
            descriptor
        }
        IpAddr::V6(_) => {
            let descriptor = raw(AddressFamily::INET6, ipproto::ICMPV6)?;
            sockopt::set_ipv6_mtu_discover(&descriptor, Ipv6PathMtuDiscovery::DO)?;
            descriptor
        }
    };
    // The standard library has no raw socket; sending and receiving are the same calls. Connected,
    // it hears the errors that routers send back.
    let socket = UdpSocket::from(descriptor);
    socket.connect(SocketAddr::new(to, 0))?;
    Ok(socket)
}

fn packet(request: Echo, label: [u8; 4]) -> Vec<u8> {
    let (kind, ip_header) = match request.to {
        IpAddr::V4(_) => (8, 20),
        IpAddr::V6(_) => (128, 40),
    };
    let mut packet = vec![0; request.size.saturating_sub(ip_header).max(ICMP_HEADER)];
    packet[0] = kind;
    packet[4..8].copy_from_slice(&label);
    if request.to.is_ipv4() {
        // For ICMPv6 the kernel does it (RFC 3542, section 3.1).
        let sum = checksum(&packet).to_be_bytes();
        packet[2..4].copy_from_slice(&sum);
    }
    packet
}

fn answers(received: &[u8], packet: &[u8], from: IpAddr) -> bool {
    let (kind, header) = match from {
        // A raw IPv4 socket hands over the IP header too.
        IpAddr::V4(_) => (
            0,
            received
                .first()
                .map_or(0, |first| usize::from(first & 0x0f) * 4),
        ),
        IpAddr::V6(_) => (129, 0),
    };
    let icmp = received.get(header..).unwrap_or_default();
    icmp.len() == packet.len() && icmp[0] == kind && icmp[4..] == packet[4..]
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| {
            u32::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]))
        })
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    // The mask above left sixteen bits.
    !(sum as u16)
}

/// One TCP stream from one space to another for about `time`: bits of payload a second, as the
/// receiver counts them. `address` is the receiver's.
pub fn throughput(from: &Space, to: &Space, address: IpAddr, time: Duration) -> Result<f64, Error> {
    let failed = |error| Error::new(format!("cannot measure throughput to {address}"), error);
    let listener = to
        .run(|| TcpListener::bind(any(address)))?
        .map_err(failed)?;
    let port = listener.local_addr().map_err(failed)?.port();
    let patience = Duration::from_secs(5);
    let stream = from
        .run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), patience))?
        .map_err(failed)?;
    let received = thread::scope(|scope| {
        let receiver = scope.spawn(|| drain(&listener, patience));
        let sent = fill(stream, time);
        let received = receiver
            .join()
            .unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        sent.and(received)
    });
    received.map_err(failed)
}

/// Bound to all addresses, so that an address that is still tentative does not matter.
fn any(family: IpAddr) -> SocketAddr {
    match family {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

fn fill(mut stream: TcpStream, time: Duration) -> io::Result<()> {
    let block = vec![0x5a; 256 << 10];
    stream.set_write_timeout(Some(Duration::from_secs(5)))?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        stream.write_all(&block)?;
    }
    Ok(())
}

fn drain(listener: &TcpListener, patience: Duration) -> io::Result<f64> {
    let (mut stream, _) = listener.accept()?;
    stream.set_read_timeout(Some(patience))?;
    let mut block = vec![0; 256 << 10];
    let mut bytes = 0u64;
    let start = Instant::now();
    loop {
        match stream.read(&mut block)? {
            // Exact to 2^53 bytes.
            0 => return Ok(bytes as f64 * 8.0 / start.elapsed().as_secs_f64()),
            length => bytes += length as u64,
        }
    }
}
