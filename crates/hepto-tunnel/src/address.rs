//! Socket addresses as the kernel wants them, and IPv4 in its two dresses.
#![allow(unsafe_code)] // Kernel structures are read and written as bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Where a peer is, and which of our addresses it speaks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// The peer's address; never v4-mapped.
    pub(crate) remote: SocketAddr,
    /// Our address that the peer's last packet was sent to: answers must leave from it. None lets the kernel choose.
    pub(crate) local: Option<IpAddr>,
}

impl Endpoint {
    /// An endpoint towards which the kernel chooses our address.
    pub(crate) fn unbound(remote: SocketAddr) -> Endpoint {
        Endpoint {
            remote: canonical(remote),
            local: None,
        }
    }
}

/// The same address with a v4-mapped IPv6 address made IPv4. A limiter or a cookie keyed by one dress must not be
/// escaped in the other.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, v6.port())),
            None => address,
        },
        SocketAddr::V4(_) => address,
    }
}

/// The two kinds of socket: dual-stack, or IPv4 alone where the kernel has no IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    Dual,
    V4,
}

/// Room for a socket address of either family.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    pub(crate) const EMPTY: Name = {
        // SAFETY: both members are plain old data, for which all zeroes is a value.
        unsafe { std::mem::zeroed() }
    };

    /// `address` for a socket of `family`, with the length to pass beside it. None when the socket cannot reach it.
    pub(crate) fn encode(address: SocketAddr, family: Family) -> Option<(Name, libc::socklen_t)> {
        let mut name = Name::EMPTY;
        match (family, address) {
            (Family::V4, SocketAddr::V4(v4)) => {
                name.v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: in_addr(*v4.ip()),
                    sin_zero: [0; 8],
                };
                Some((name, size_of::<libc::sockaddr_in>() as libc::socklen_t))
            }
            (Family::V4, SocketAddr::V6(_)) => None,
            (Family::Dual, _) => {
                let (ip, scope) = match address {
                    SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
                    SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
                };
                name.v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr {
                        s6_addr: ip.octets(),
                    },
                    sin6_scope_id: scope,
                };
                Some((name, size_of::<libc::sockaddr_in6>() as libc::socklen_t))
            }
        }
    }

    /// What the kernel wrote. None for a family that a UDP socket does not have.
    pub(crate) fn decode(&self) -> Option<SocketAddr> {
        // SAFETY: both members start with the family, and every bit pattern is a value of both.
        unsafe {
            match libc::c_int::from(self.v4.sin_family) {
                libc::AF_INET => {
                    let ip = Ipv4Addr::from(self.v4.sin_addr.s_addr.to_ne_bytes());
                    Some(SocketAddr::V4(SocketAddrV4::new(
                        ip,
                        u16::from_be(self.v4.sin_port),
                    )))
                }
                libc::AF_INET6 => {
                    let ip = Ipv6Addr::from(self.v6.sin6_addr.s6_addr);
                    let port = u16::from_be(self.v6.sin6_port);
                    Some(canonical(SocketAddr::V6(SocketAddrV6::new(
                        ip,
                        port,
                        0,
                        self.v6.sin6_scope_id,
                    ))))
                }
                _ => None,
            }
        }
    }
}

pub(crate) fn in_addr(ip: Ipv4Addr) -> libc::in_addr {
    libc::in_addr {
        s_addr: u32::from_ne_bytes(ip.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["192.0.2.1:51820", "[2001:db8::1]:7", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().expect("an address");
            let (name, _) = Name::encode(address, Family::Dual).expect("dual-stack reaches all");
            assert_eq!(name.decode(), Some(address), "dual-stack, {text}");
        }
        let v4: SocketAddr = "192.0.2.1:51820".parse().expect("an address");
        let (name, length) = Name::encode(v4, Family::V4).expect("IPv4 reaches IPv4");
        assert_eq!((name.decode(), length), (Some(v4), 16));
        assert!(Name::encode("[2001:db8::1]:7".parse().expect("an address"), Family::V4).is_none());
    }

    #[test]
    fn a_mapped_address_is_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().expect("an address");
        assert_eq!(
            canonical(mapped),
            "192.0.2.1:5".parse().expect("an address")
        );
        assert_eq!(
            Endpoint::unbound(mapped).remote,
            "192.0.2.1:5".parse().expect("an address")
        );
    }
}
