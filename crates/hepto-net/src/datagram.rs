//! UDP datagrams from and to a port whoever may have it open, never fragmented: for asking what a way carries.
//!
//! A raw socket sends with a header of our own, and hears a copy of what arrives, past the firewall. So a running node's
//! port can be tried beside it, from the same place in the network: a gateway takes what is sent for the node's own.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, socket_with};

use crate::echo::{checksum, set};

const UDP_HEADER: usize = 8;
const UDP: u8 = 17;

/// One local port, towards one address or, for listening alone, towards all of a family.
#[derive(Debug)]
pub struct Line {
    socket: UdpSocket,
    /// Holds the port where nobody else does, so that the kernel does not call it closed. Nothing is read from it.
    _holder: Option<UdpSocket>,
    port: u16,
    local: IpAddr,
    remote: Option<SocketAddr>,
}

impl Line {
    /// From `port` of the calling thread's network (0: a free one) towards `remote`. Heard are datagrams that begin with
    /// `mark`: what else the port's holder gets does not wake us.
    ///
    /// # Errors
    /// No CAP_NET_RAW, no way there, or a kernel without that family.
    pub fn open(port: u16, remote: SocketAddr, mark: [u8; 2]) -> io::Result<Line> {
        let mut line = Line::listen(port, remote.is_ipv6(), mark)?;
        line.socket.connect(SocketAddr::new(remote.ip(), 0))?;
        line.local = line.socket.local_addr()?.ip();
        line.remote = Some(remote);
        Ok(line)
    }

    /// Hears what comes to `port` by one family, from anyone.
    ///
    /// # Errors
    /// As [`Line::open`].
    pub fn listen(port: u16, v6: bool, mark: [u8; 2]) -> io::Result<Line> {
        let any = any(v6);
        // Busy: the running node has it.
        let holder = match UdpSocket::bind((any, port)) {
            Ok(holder) => Some(holder),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(error),
        };
        let port = match &holder {
            Some(holder) => holder.local_addr()?.port(),
            None => port,
        };
        let family = if v6 {
            AddressFamily::INET6
        } else {
            AddressFamily::INET
        };
        let socket = socket_with(
            family,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            Some(ipproto::UDP),
        )?;
        // Never fragmented here, and never shorter for what a router is said to have said.
        match v6 {
            true => sockopt::set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?,
            false => sockopt::set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?,
        }
        filter(&socket, v6, port, mark)?;
        Ok(Line {
            // As for echoes: sending and receiving are the same calls.
            socket: UdpSocket::from(socket),
            _holder: holder,
            port,
            local: any,
            remote: None,
        })
    }

    /// The local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends `payload`.
    ///
    /// # Errors
    /// `EMSGSIZE`: larger than the link's MTU; `ConnectionRefused`: nobody had the port when it was asked before.
    pub fn send(&self, payload: &[u8]) -> io::Result<()> {
        let remote = self.remote.ok_or(io::ErrorKind::NotConnected)?;
        let length = u16::try_from(UDP_HEADER + payload.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EMSGSIZE))?;
        let mut datagram = Vec::with_capacity(length.into());
        datagram.extend(self.port.to_be_bytes());
        datagram.extend(remote.port().to_be_bytes());
        datagram.extend(length.to_be_bytes());
        datagram.extend([0, 0]);
        datagram.extend(payload);
        let sum = match sum(self.local, remote.ip(), &datagram) {
            // Zero says that there is none (RFC 768).
            0 => u16::MAX,
            sum => sum,
        };
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        self.socket.send(&datagram).map(drop)
    }

    /// What arrives next, and from whom; `None` when nothing does in time.
    ///
    /// # Errors
    /// `ConnectionRefused`: nobody has the port there; `EMSGSIZE`: a router says that something was too large.
    pub fn receive(&self, patience: Duration) -> io::Result<Option<(SocketAddr, Vec<u8>)>> {
        let until = Instant::now() + patience;
        let mut packet = vec![0; 65_536];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            self.socket.set_read_timeout(Some(left))?;
            let (length, from) = match self.socket.recv_from(&mut packet) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let datagram = match from {
                // A raw IPv4 socket hands over the IP header too.
                SocketAddr::V4(_) => &packet[(usize::from(packet[0] & 15) * 4).min(length)..length],
                SocketAddr::V6(_) => &packet[..length],
            };
            let Some((header, payload)) = datagram.split_first_chunk::<UDP_HEADER>() else {
                continue;
            };
            let port = u16::from_be_bytes([header[0], header[1]]);
            let from = SocketAddr::new(from.ip(), port);
            if self.remote.is_none_or(|remote| remote == from) {
                return Ok(Some((from, payload.to_vec())));
            }
        }
    }
}

fn any(v6: bool) -> IpAddr {
    match v6 {
        true => std::net::Ipv6Addr::UNSPECIFIED.into(),
        false => std::net::Ipv4Addr::UNSPECIFIED.into(),
    }
}

/// The checksum over the pseudo-header and the datagram (RFC 768, RFC 8200 §8.1).
fn sum(from: IpAddr, to: IpAddr, datagram: &[u8]) -> u16 {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let length = u32::try_from(datagram.len()).unwrap_or(u32::MAX);
    let mut bytes = [octets(from), octets(to)].concat();
    bytes.extend(length.to_be_bytes());
    bytes.extend([0, 0, 0, UDP]);
    bytes.extend(datagram);
    checksum(&bytes)
}

/// Lets pass what comes to `port` and begins with `mark` (socket(7), SO_ATTACH_FILTER).
fn filter(socket: &OwnedFd, v6: bool, port: u16, mark: [u8; 2]) -> io::Result<()> {
    let step = |code: u32, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf: 0,
        k,
    };
    // Of IPv4 the filter sees the IP header too, whose length in words its first byte tells.
    let load = match v6 {
        true => libc::BPF_LD | libc::BPF_H | libc::BPF_ABS,
        false => libc::BPF_LD | libc::BPF_H | libc::BPF_IND,
    };
    // Equal: past the next step, which drops.
    let equals = |k: u16| libc::sock_filter {
        jt: 1,
        ..step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, k.into())
    };
    let drop = step(libc::BPF_RET | libc::BPF_K, 0);
    let mut steps = [
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0),
        step(load, 2),
        equals(port),
        drop,
        step(load, UDP_HEADER as u32),
        equals(u16::from_be_bytes(mark)),
        drop,
        step(libc::BPF_RET | libc::BPF_K, u32::MAX),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_agrees_with_the_checksum() {
        let (from, to) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let mut datagram = vec![0x10, 0, 0x20, 0, 0, 11, 0, 0, 1, 2, 3];
        let sum = sum(from, to, &datagram);
        datagram[6..8].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(super::sum(from, to, &datagram), 0);
        assert_ne!(sum, 0);
    }
}
