//! `struct virtio_net_hdr` of linux/virtio_net.h, in its first form of ten bytes and in the machine's byte order, as a
//! TUN with IFF_VNET_HDR puts it before each packet.

/// Its size.
pub(crate) const SIZE: usize = 10;

/// The checksum at `checksum_start + checksum_offset` is that of the pseudo-header alone and has to be completed.
const NEEDS_CHECKSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCP4: u8 = 1;
const GSO_TCP6: u8 = 4;
const GSO_UDP: u8 = 5;

/// Says that the packet has CWR set; we do not ask for such packets, and need not know.
const GSO_ECN: u8 = 0x80;

/// What a packet is to be cut into, or has been joined from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gso {
    None,
    Tcp4,
    Tcp6,
    Udp,
}

/// The header, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) gso: Gso,
    /// Payload bytes of each segment but the last.
    pub(crate) segment: u16,
    /// Where the checksum starts (the transport header) and where, from there, it is stored. None when it is complete.
    pub(crate) checksum: Option<(u16, u16)>,
    /// Bytes of all headers; the kernel needs it when it is given a packet, and does not fill it usefully.
    pub(crate) length: u16,
}

impl Header {
    /// Of a packet that is complete as it is.
    pub(crate) const PLAIN: Header = Header {
        gso: Gso::None,
        segment: 0,
        checksum: None,
        length: 0,
    };

    /// None for a kind of packet that we did not ask for.
    pub(crate) fn parse(bytes: &[u8; SIZE]) -> Option<Header> {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let gso = match bytes[1] & !GSO_ECN {
            GSO_NONE => Gso::None,
            GSO_TCP4 => Gso::Tcp4,
            GSO_TCP6 => Gso::Tcp6,
            GSO_UDP => Gso::Udp,
            _ => return None,
        };
        let checksum = (bytes[0] & NEEDS_CHECKSUM != 0).then(|| (word(6), word(8)));
        Some(Header {
            gso,
            segment: word(4),
            checksum,
            length: word(2),
        })
    }

    pub(crate) fn write(&self) -> [u8; SIZE] {
        let mut bytes = [0; SIZE];
        let (start, offset) = self.checksum.unwrap_or_default();
        bytes[0] = if self.checksum.is_some() {
            NEEDS_CHECKSUM
        } else {
            0
        };
        bytes[1] = match self.gso {
            Gso::None => GSO_NONE,
            Gso::Tcp4 => GSO_TCP4,
            Gso::Tcp6 => GSO_TCP6,
            Gso::Udp => GSO_UDP,
        };
        for (at, word) in [(2, self.length), (4, self.segment), (6, start), (8, offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_kernels_form() {
        for gso in [Gso::None, Gso::Tcp4, Gso::Tcp6, Gso::Udp] {
            for checksum in [None, Some((40, 16))] {
                let header = Header {
                    gso,
                    segment: 1268,
                    checksum,
                    length: 60,
                };
                assert_eq!(Header::parse(&header.write()), Some(header));
            }
        }
        let mut ecn = Header::PLAIN.write();
        ecn[1] = GSO_TCP4 | GSO_ECN;
        assert_eq!(
            Header::parse(&ecn).map(|header| header.gso),
            Some(Gso::Tcp4)
        );
        ecn[1] = 3;
        assert_eq!(Header::parse(&ecn), None, "UFO, which nobody asked for");
    }
}
