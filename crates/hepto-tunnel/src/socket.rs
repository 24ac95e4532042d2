//! The one UDP socket: WireGuard, and the caller's own datagrams beside it.
#![allow(unsafe_code)] // Several socket options and control messages have no safe wrapper.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use crate::address::{Endpoint, Family, Name};
use crate::batch::{Control, UDP_GRO, UDP_SEGMENT, empty_header};
use crate::error::Error;
use crate::offload::ladder::Offload;

/// Room in the kernel for what arrives while one batch is opened, in bytes each way. The kernel doubles it.
const BUFFER: libc::c_int = 4 << 20;

/// A full send buffer holds a thread for at most this long: `stop` never waits longer for it.
const SEND_TIMEOUT: libc::timeval = libc::timeval {
    tv_sec: 0,
    tv_usec: 200_000,
};

/// `IPV6_PMTUDISC_OMIT` and `IP_PMTUDISC_OMIT` have the same number.
const PMTUDISC_OMIT: libc::c_int = libc::IP_PMTUDISC_OMIT;

/// A UDP socket for both families on one port, or for IPv4 alone where the kernel has no IPv6.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    family: Family,
    port: u16,
}

impl Socket {
    /// Opens the socket on `port` (0 lets the kernel choose) of every address in the calling thread's network
    /// namespace. Answers leave from the address that was asked (PKTINFO), path MTU messages are not believed (a forged
    /// one would stop segmented sends), and buffers are large where the kernel permits it.
    ///
    /// # Errors
    /// The port is taken, or the kernel refuses the socket or an option that the tunnel depends on.
    pub fn open(port: u16) -> Result<Socket, Error> {
        match Socket::open_as(Family::Dual, port) {
            Err(Error::Socket { source, .. })
                if matches!(
                    source.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
            {
                tracing::info!("this kernel has no IPv6: the tunnel's socket is IPv4 alone");
                Socket::open_as(Family::V4, port)
            }
            other => other,
        }
    }

    pub(crate) fn open_as(family: Family, port: u16) -> Result<Socket, Error> {
        let socket = Socket::bind(family, port).map_err(|source| match source.raw_os_error() {
            Some(libc::EADDRINUSE) => Error::PortBusy(port),
            _ => Error::Socket { port, source },
        })?;
        socket.configure()?;
        Ok(socket)
    }

    fn bind(family: Family, port: u16) -> io::Result<Socket> {
        let domain = match family {
            Family::Dual => libc::AF_INET6,
            Family::V4 => libc::AF_INET,
        };
        // SAFETY: takes integers and returns a descriptor that nobody else owns.
        let fd = unsafe { libc::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and is owned by nobody.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let mut socket = Socket { fd, family, port };
        if family == Family::Dual {
            socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &0)?;
        }
        let any: IpAddr = match family {
            Family::Dual => std::net::Ipv6Addr::UNSPECIFIED.into(),
            Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
        };
        let (name, length) = Name::encode(SocketAddr::new(any, port), family)
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        // SAFETY: `name` holds an address of `length` bytes and outlives the call.
        if unsafe { libc::bind(socket.fd.as_raw_fd(), (&raw const name).cast(), length) } < 0 {
            return Err(io::Error::last_os_error());
        }
        if port == 0 {
            socket.port = socket.local_port()?;
        }
        Ok(socket)
    }

    fn local_port(&self) -> io::Result<u16> {
        let mut name = Name::EMPTY;
        let mut length = size_of::<Name>() as libc::socklen_t;
        // SAFETY: `name` has room for `length` bytes, and both outlive the call.
        if unsafe {
            libc::getsockname(self.fd.as_raw_fd(), (&raw mut name).cast(), &raw mut length)
        } < 0
        {
            return Err(io::Error::last_os_error());
        }
        Ok(name.decode().map_or(0, |address| address.port()))
    }

    fn configure(&self) -> Result<(), Error> {
        let must = |option: &'static str, result: io::Result<()>| {
            result.map_err(|source| Error::SocketOption { option, source })
        };
        must(
            "IP_MTU_DISCOVER",
            self.set(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, &PMTUDISC_OMIT),
        )?;
        match self.family {
            Family::Dual => {
                must(
                    "IPV6_MTU_DISCOVER",
                    self.set(libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, &PMTUDISC_OMIT),
                )?;
                must(
                    "IPV6_RECVPKTINFO",
                    self.set(libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, &1),
                )?;
            }
            Family::V4 => must(
                "IP_PKTINFO",
                self.set(libc::IPPROTO_IP, libc::IP_PKTINFO, &1),
            )?,
        }
        must(
            "SO_SNDTIMEO",
            self.set(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &SEND_TIMEOUT),
        )?;
        // The forced forms need CAP_NET_ADMIN; the others stop at the host's net.core.rmem_max and wmem_max.
        for (forced, plain) in [
            (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF),
            (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF),
        ] {
            if self.set(libc::SOL_SOCKET, forced, &BUFFER).is_err() {
                must("SO_RCVBUF", self.set(libc::SOL_SOCKET, plain, &BUFFER))?;
            }
        }
        Ok(())
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let size = size_of::<T>() as libc::socklen_t;
        // SAFETY: the kernel reads `size` bytes at `value`, which outlives the call.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                (&raw const *value).cast(),
                size,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    /// Asks the kernel for joined datagrams, as far as it has them and `permitted` goes. Returns what it gives.
    pub(crate) fn set_offload(&self, permitted: Offload) -> Offload {
        let wanted = libc::c_int::from(permitted.udp_gro);
        let udp_gro = self.set(libc::SOL_UDP, UDP_GRO, &wanted).is_ok() && permitted.udp_gro;
        // Zero changes nothing, and is refused by a kernel that does not know the option.
        let udp_segment = permitted.udp_segment && self.set(libc::SOL_UDP, UDP_SEGMENT, &0).is_ok();
        Offload {
            udp_gro,
            udp_segment,
            ..permitted
        }
    }

    /// The local port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Lets the socket send and receive through the link `ifindex` alone; None through any.
    ///
    /// # Errors
    /// No CAP_NET_RAW. A link that does not exist is no error to the kernel: the socket is mute then.
    pub fn bind_uplink(&self, ifindex: Option<u32>) -> io::Result<()> {
        let index = ifindex.unwrap_or(0) as libc::c_int;
        self.set(libc::SOL_SOCKET, libc::SO_BINDTOIFINDEX, &index)
    }

    pub(crate) fn family(&self) -> Family {
        self.family
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Sends one datagram, waiting for room at most [`SEND_TIMEOUT`].
    pub(crate) fn send(&self, bytes: &[u8], to: &Endpoint) -> io::Result<()> {
        self.send_with(bytes, to, 0)
    }

    /// Sends one datagram, or fails at once when the send buffer is full.
    pub(crate) fn try_send(&self, bytes: &[u8], to: &Endpoint) -> io::Result<()> {
        self.send_with(bytes, to, libc::MSG_DONTWAIT)
    }

    fn send_with(&self, bytes: &[u8], to: &Endpoint, flags: libc::c_int) -> io::Result<()> {
        let unreachable = || io::Error::from_raw_os_error(libc::EAFNOSUPPORT);
        let (mut name, length) = Name::encode(to.remote, self.family).ok_or_else(unreachable)?;
        let mut iovec = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let mut control = Control::EMPTY;
        let used = control.fill(self.family, to.local, 0);
        let mut message = empty_header();
        message.msg_name = (&raw mut name).cast();
        message.msg_namelen = length;
        message.msg_iov = &raw mut iovec;
        message.msg_iovlen = 1;
        message.msg_control = (&raw mut control).cast();
        message.msg_controllen = used as _;
        // SAFETY: the header points to `name`, `iovec`, `control` and `bytes`, all of which outlive the call; the
        // kernel does not write through a header that is sent.
        if unsafe { libc::sendmsg(self.fd.as_raw_fd(), &raw const message, flags) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// Sends the caller's own datagrams from the tunnel's socket. The socket stays open until the tunnel has stopped and
/// every messenger is gone.
#[derive(Clone, Debug)]
pub struct Messenger(pub(crate) Arc<Socket>);

impl Messenger {
    /// Sends one datagram to `to`, leaving from our address `from` (as [`Datagram::to`](crate::Datagram::to) gave it)
    /// or from the one that the kernel chooses. Never waits.
    ///
    /// # Errors
    /// The kernel's: no route, no such local address, `WouldBlock` when the send buffer is full.
    pub fn send(&self, bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
        self.0.try_send(
            bytes,
            &Endpoint {
                remote: crate::address::canonical(to),
                local: from,
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_once() {
        let first = Socket::open(0).expect("a free port");
        assert_ne!(first.port(), 0);
        let error = Socket::open(first.port()).expect_err("the port is taken");
        assert_eq!(error.code(), "E-TUNNEL-PORT-BUSY");
        assert!(
            error
                .fix()
                .is_some_and(|fix| fix.contains(&first.port().to_string()))
        );
    }
}
