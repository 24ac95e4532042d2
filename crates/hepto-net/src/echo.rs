//! Echo requests (RFC 792, RFC 4443), without any program of the host: one that is waited for, and a socket for many that
//! are not.
#![allow(unsafe_code)] // Two socket options have no safe wrapper.

use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, ipproto, socket_with};

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

/// Sends one echo request from the network of the calling thread (see [`Entry::run`](crate::Entry::run)) and gives the
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

/// Sends ICMPv6 echo requests through one link, and hears nothing but answers to its own.
#[derive(Debug)]
pub struct EchoSocket {
    socket: UdpSocket,
    label: [u8; 2],
}

/// The filter's option of a raw ICMPv6 socket (linux/icmpv6.h), and the answer's type (RFC 4443 §4.2).
const ICMPV6_FILTER: libc::c_int = 1;
const ECHO_REPLY: u8 = 129;

impl EchoSocket {
    /// Opens the socket in the calling thread's namespace, for `link` alone; it never blocks.
    ///
    /// # Errors
    /// No CAP_NET_RAW, no such link, or a kernel without IPv6.
    pub fn open(link: &str) -> io::Result<EchoSocket> {
        let descriptor = socket_with(
            AddressFamily::INET6,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            Some(ipproto::ICMPV6),
        )?;
        // A set bit keeps its type out (RFC 3542 §3.2): a flood of anything else wakes nobody.
        let mut filter = [u32::MAX; 8];
        filter[usize::from(ECHO_REPLY >> 5)] &= !(1 << (ECHO_REPLY & 31));
        set(&descriptor, libc::IPPROTO_ICMPV6, ICMPV6_FILTER, &filter)?;
        let mut name = [0u8; libc::IFNAMSIZ];
        let short = link.len().min(name.len() - 1);
        name[..short].copy_from_slice(&link.as_bytes()[..short]);
        set(&descriptor, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &name)?;
        let [.., high, low] = std::process::id().to_be_bytes();
        Ok(EchoSocket {
            // As in `open`: sending and receiving are the same calls.
            socket: UdpSocket::from(descriptor),
            // Not the one that `echo` of this process uses.
            label: [!high, low],
        })
    }

    /// The descriptor, readable when an answer is there.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        Ok(self.socket.try_clone()?.into())
    }

    /// Sends one request of 64 bytes.
    ///
    /// # Errors
    /// The kernel's: no route, `WouldBlock` when the send buffer is full.
    pub fn send(&self, to: Ipv6Addr, serial: u16) -> io::Result<()> {
        let [high, low] = serial.to_be_bytes();
        let request = Echo {
            size: 104,
            ..Echo::new(to.into())
        };
        let packet = packet(request, [self.label[0], self.label[1], high, low]);
        let to = SocketAddrV6::new(to, 0, 0, 0);
        self.socket.send_to(&packet, to).map(drop)
    }

    /// The next answer that is there: from whom, to which request.
    pub fn receive(&self) -> Option<(Ipv6Addr, u16)> {
        let mut answer = [0; 128];
        // The length of 128 bounds what is copied; the rest of a longer one is dropped by the kernel.
        while let Ok((length, SocketAddr::V6(from))) = self.socket.recv_from(&mut answer) {
            if let [ECHO_REPLY, _, _, _, one, two, high, low, ..] = answer[..length]
                && [one, two] == self.label
            {
                return Some((*from.ip(), u16::from_be_bytes([high, low])));
            }
        }
        None
    }
}

/// Sets an option that has no safe wrapper.
pub(crate) fn set<T>(
    socket: &OwnedFd,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel reads `size` bytes at `value`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// The Internet checksum (RFC 1071).
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
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
