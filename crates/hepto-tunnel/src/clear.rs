//! The data path with the cipher left out: the ceiling of the benchmark, and nothing else. Handshakes and keepalives
//! stay boringtun's, so that sessions come about as ever. hepto-node does not compile with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::protocol::{Message, OVERHEAD, Opened};

/// Type, receiver index and counter stand before the packet.
const HEADER: usize = 16;

/// Stands where a session would be.
#[derive(Default)]
pub(crate) struct Clear {
    /// The index by which the peer knows us, from its last handshake message.
    remote: [u8; 4],
    counter: u64,
}

impl Clear {
    /// Moves `packet` where sealing would put it. None for a keepalive.
    pub(crate) fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        if packet.is_empty() {
            return None;
        }
        let length = packet.len() + OVERHEAD;
        out[..4].copy_from_slice(&4u32.to_le_bytes());
        out[4..8].copy_from_slice(&self.remote);
        out[8..HEADER].copy_from_slice(&self.counter.to_le_bytes());
        out[HEADER..HEADER + packet.len()].copy_from_slice(packet);
        out[HEADER + packet.len()..length].fill(0);
        self.counter += 1;
        Some(length)
    }

    /// Moves the packet of `datagram` where opening would put it. None for handshakes and keepalives.
    pub(crate) fn open(
        &mut self,
        datagram: &[u8],
        message: Message,
        out: &mut [u8],
    ) -> Option<Opened> {
        if matches!(message, Message::Initiation | Message::Response { .. }) {
            self.remote.copy_from_slice(&datagram[4..8]);
        }
        if !matches!(message, Message::Data { .. }) || datagram.len() <= OVERHEAD {
            return None;
        }
        let packet = &datagram[HEADER..datagram.len() - HEADER];
        out[..packet.len()].copy_from_slice(packet);
        Some(
            source(packet).map_or(Opened::Malformed, |(length, source)| Opened::Packet {
                length,
                source,
            }),
        )
    }
}

/// The packet's own length, and where it comes from.
fn source(packet: &[u8]) -> Option<(usize, IpAddr)> {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let (length, source) = match packet.first()? >> 4 {
        4 if packet.len() >= 20 => {
            let octets: [u8; 4] = packet[12..16].try_into().ok()?;
            (word(2), Ipv4Addr::from(octets).into())
        }
        6 if packet.len() >= 40 => {
            let octets: [u8; 16] = packet[8..24].try_into().ok()?;
            (word(4) + 40, Ipv6Addr::from(octets).into())
        }
        _ => return None,
    };
    (length <= packet.len()).then_some((length, source))
}
