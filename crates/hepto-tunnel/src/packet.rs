//! The little that routing needs to read of an inner packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The destination address. None when the bytes are no IP packet.
pub(crate) fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let octets: [u8; 4] = packet[16..20].try_into().ok()?;
            Some(IpAddr::V4(Ipv4Addr::from(octets)))
        }
        6 if packet.len() >= 40 => {
            let octets: [u8; 16] = packet[24..40].try_into().ok()?;
            Some(IpAddr::V6(Ipv6Addr::from(octets)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_of_both_families() {
        let mut v4 = [0; 20];
        v4[0] = 0x45;
        v4[16..].copy_from_slice(&[10, 1, 2, 3]);
        assert_eq!(destination(&v4), "10.1.2.3".parse().ok());
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[24..26].copy_from_slice(&[0xfd, 1]);
        v6[39] = 9;
        assert_eq!(destination(&v6), "fd01::9".parse().ok());
        for short in [&v4[..19], &v6[..39], &[], &[0x50; 40]] {
            assert_eq!(destination(short), None);
        }
    }
}
