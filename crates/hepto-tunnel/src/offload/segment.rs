//! One large packet from the kernel, cut into those that fit the tunnel.
//!
//! It is cut in place: the header of a segment is written over the end of the payload before it, which has been sealed
//! by then. So the copy that sealing makes anyway is the only one.

use super::checksum;
use super::header::{Gso, Header};

/// The longest headers that are cut: IPv6, several extensions, and TCP with all its options.
const LONGEST: usize = 256;

const TCP_FIN_PSH: u8 = 0x09;
const TCP_CWR: u8 = 0x80;

/// Gives the segments of a packet, one after another.
pub(crate) struct Segments<'a> {
    packet: &'a mut [u8],
    cut: Option<Cut>,
    next: usize,
}

/// How a packet is cut.
struct Cut {
    /// The headers as they were.
    headers: [u8; LONGEST],
    /// Their length, and within it the place of the transport header.
    length: usize,
    transport: usize,
    /// Payload bytes of each segment but the last.
    segment: usize,
    tcp: bool,
}

/// A packet whose headers are not what its `virtio_net_hdr` says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

impl<'a> Segments<'a> {
    /// The segments of `packet`: itself, its checksum completed, when it is not to be cut.
    pub(crate) fn new(header: &Header, packet: &'a mut [u8]) -> Result<Segments<'a>, Malformed> {
        let cut = match header.gso {
            Gso::None => {
                complete_checksum(header, packet)?;
                None
            }
            Gso::Tcp4 | Gso::Tcp6 | Gso::Udp => Some(Cut::new(header, packet)?),
        };
        Ok(Segments {
            packet,
            cut,
            next: 0,
        })
    }

    /// The next segment. It is overwritten by the call after.
    pub(crate) fn next(&mut self) -> Option<&[u8]> {
        let Some(cut) = &self.cut else {
            let first = self.next == 0;
            self.next = 1;
            return first.then_some(&*self.packet);
        };
        let start = self.next * cut.segment;
        let payload = self.packet.len() - cut.length;
        // A packet of headers alone is one segment.
        if start >= payload.max(1) {
            return None;
        }
        let length = cut.segment.min(payload - start);
        let last = start + length == payload;
        let segment = &mut self.packet[start..start + cut.length + length];
        segment[..cut.length].copy_from_slice(&cut.headers[..cut.length]);
        cut.finish(segment, self.next, last);
        self.next += 1;
        Some(segment)
    }
}

fn complete_checksum(header: &Header, packet: &mut [u8]) -> Result<(), Malformed> {
    let Some((start, offset)) = header.checksum else {
        return Ok(());
    };
    let (start, at) = (usize::from(start), usize::from(start) + usize::from(offset));
    if at + 2 > packet.len() {
        return Err(Malformed);
    }
    // The field already holds the pseudo-header's sum.
    let checksum = checksum::finish(checksum::sum(0, &packet[start..]));
    packet[at..at + 2].copy_from_slice(&checksum);
    Ok(())
}

impl Cut {
    fn new(header: &Header, packet: &[u8]) -> Result<Cut, Malformed> {
        let tcp = header.gso != Gso::Udp;
        // Whoever asks for segments leaves the checksum to be completed: its start is the transport header.
        let transport = usize::from(header.checksum.ok_or(Malformed)?.0);
        let version = packet.first().ok_or(Malformed)? >> 4;
        let shortest = match (version, header.gso) {
            (4, Gso::Tcp4 | Gso::Udp) => usize::from(packet[0] & 15) * 4,
            (6, Gso::Tcp6 | Gso::Udp) => 40,
            _ => return Err(Malformed),
        };
        if shortest < 20
            || transport < shortest
            || packet.len() < transport + 20 - if tcp { 0 } else { 12 }
        {
            return Err(Malformed);
        }
        let length = transport
            + if tcp {
                usize::from(packet[transport + 12] >> 4) * 4
            } else {
                8
            };
        let segment = usize::from(header.segment);
        if length > LONGEST || length > packet.len() || length < transport + 8 || segment == 0 {
            return Err(Malformed);
        }
        let mut headers = [0; LONGEST];
        headers[..length].copy_from_slice(&packet[..length]);
        Ok(Cut {
            headers,
            length,
            transport,
            segment,
            tcp,
        })
    }

    /// Makes the copied headers those of segment `number`, as the kernel's own segmentation does.
    fn finish(&self, segment: &mut [u8], number: usize, last: bool) {
        let total = segment.len();
        if segment[0] >> 4 == 6 {
            put(segment, 4, (total - 40) as u16);
        } else {
            put(segment, 2, total as u16);
            let first = u16::from_be_bytes([self.headers[4], self.headers[5]]);
            put(segment, 4, first.wrapping_add(number as u16));
            let header = usize::from(segment[0] & 15) * 4;
            checksum::set_ipv4(&mut segment[..header]);
        }
        let transport = self.transport;
        let (protocol, field) = if self.tcp {
            (6, transport + 16)
        } else {
            (17, transport + 6)
        };
        if self.tcp {
            let at = transport + 4;
            let first = u32::from_be_bytes([
                self.headers[at],
                self.headers[at + 1],
                self.headers[at + 2],
                self.headers[at + 3],
            ]);
            let sequence = first.wrapping_add((number * self.segment) as u32);
            segment[at..at + 4].copy_from_slice(&sequence.to_be_bytes());
            let flags = &mut segment[transport + 13];
            if !last {
                *flags &= !TCP_FIN_PSH;
            }
            if number > 0 {
                *flags &= !TCP_CWR;
            }
        } else {
            put(segment, transport + 4, (total - transport) as u16);
        }
        segment[field..field + 2].fill(0);
        let pseudo = checksum::pseudo(segment, protocol, total - transport);
        let checksum = checksum::finish(checksum::sum(pseudo, &segment[transport..]));
        segment[field..field + 2].copy_from_slice(&checksum);
    }
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests;
