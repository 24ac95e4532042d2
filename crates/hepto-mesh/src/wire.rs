//! Reading fixed layouts, integers big-endian: every read is checked, a short input is `None`.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A cursor over received bytes.
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.rest.split_first_chunk()?;
        self.rest = rest;
        Some(*taken)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    /// A length byte, at most `limit`, and so many bytes.
    pub fn short(&mut self, limit: usize) -> Option<&'a [u8]> {
        let length = usize::from(self.u8()?);
        if length > limit {
            None
        } else {
            self.take(length)
        }
    }

    /// Port, then the address: 18 bytes.
    pub fn socket(&mut self) -> Option<SocketAddr> {
        let port = self.u16()?;
        Some(SocketAddr::new(
            plain(Ipv6Addr::from(self.array::<16>()?).into()),
            port,
        ))
    }
}

/// Length of a socket address on the wire.
pub(crate) const SOCKET_LENGTH: usize = 18;

/// Writes port and address; IPv4 travels as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
pub(crate) fn put_socket(out: &mut Vec<u8>, address: SocketAddr) {
    out.extend_from_slice(&address.port().to_be_bytes());
    out.extend_from_slice(&mapped(address.ip()).octets());
}

/// The IPv6 form of any address.
pub(crate) fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// IPv4-mapped IPv6 becomes IPv4: a dual-stack socket shows one address in two forms.
pub(crate) fn plain(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// The same for a socket address; flow label and scope are dropped.
pub(crate) fn plain_socket(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(plain(address.ip()), address.port())
}
