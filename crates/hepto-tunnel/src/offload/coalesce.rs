//! Consecutive packets of one flow, joined so that the kernel takes them as one.
//!
//! The rules are those of the kernel's own GRO: a joined packet must come apart again into exactly what came in. So
//! addresses, ports, traffic class and ECN, hop limit, DF, TCP options, acknowledgement and window must be equal,
//! sequence numbers and IPv4 identifications must follow one another, checksums must be right, and PSH, FIN or a shorter
//! segment end a train.

use std::ops::Range;

use super::checksum;
use super::header::{self, Gso, Header};

/// Packets of a train. The kernel refuses a UDP train of more.
pub(crate) const LONGEST: usize = 64;

/// The longest headers that are joined: IPv6 and TCP with all its options.
const HEADERS: usize = 100;

const TCP: u8 = 6;
const UDP: u8 = 17;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const PSH: u8 = 0x08;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;

/// Joins packets that lie in one buffer.
pub(crate) struct Coalescer {
    packets: Vec<Range<usize>>,
    train: Train,
    /// The first packet's headers as they came, for the case that the kernel refuses the train.
    original: [u8; HEADERS],
}

/// What is known of the train under way.
#[derive(Clone, Copy)]
struct Train {
    shape: Option<Shape>,
    /// Payload of the first packet, and of all.
    segment: usize,
    payload: usize,
    /// No more may join.
    closed: bool,
    /// The first packet's checksum has been seen to be right.
    checked: bool,
    /// What the identification does from packet to packet.
    identification: Identification,
    /// FIN and PSH of any packet.
    flags: u8,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Identification {
    Unknown,
    Fixed,
    Rising,
}

/// The parts of a packet that may join others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    v6: bool,
    protocol: u8,
    /// Where the transport header starts, and where it ends.
    transport: usize,
    headers: usize,
}

/// A joined packet, ready for the kernel: this header, then the ranges of the buffer.
pub(crate) struct Joined<'a> {
    pub(crate) header: [u8; header::SIZE],
    /// The first range has the headers and the first payload, the others are payload alone.
    pub(crate) packets: &'a [Range<usize>],
    headers: usize,
    pub(crate) udp: bool,
}

impl Joined<'_> {
    /// The ranges to write, in order.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let headers = self.headers;
        self.packets
            .iter()
            .enumerate()
            .map(move |(number, packet)| {
                packet.start + if number == 0 { 0 } else { headers }..packet.end
            })
    }
}

impl Shape {
    /// None for what never joins: fragments, IP options and extension headers, other protocols, trailing bytes.
    fn of(packet: &[u8]) -> Option<Shape> {
        let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let (v6, protocol, transport) = match packet.first()? {
            0x45 if packet.len() >= 28 && word(2) == packet.len() && word(6) & 0x3fff == 0 => {
                (false, packet[9], 20)
            }
            version if version >> 4 == 6 && packet.len() >= 48 && word(4) + 40 == packet.len() => {
                (true, packet[6], 40)
            }
            _ => return None,
        };
        let headers = match protocol {
            TCP if packet.len() >= transport + 20 => {
                transport + usize::from(packet[transport + 12] >> 4) * 4
            }
            UDP if word(transport + 4) == packet.len() - transport => transport + 8,
            _ => return None,
        };
        let least = transport + if protocol == TCP { 20 } else { 8 };
        (headers >= least && headers <= packet.len()).then_some(Shape {
            v6,
            protocol,
            transport,
            headers,
        })
    }

    /// UDP over IPv4 without a checksum is not right here: joined, it would get one.
    fn checksum_is_right(&self, packet: &[u8]) -> bool {
        if self.protocol == UDP && packet[self.transport + 6..self.transport + 8] == [0, 0] {
            return false;
        }
        let pseudo = checksum::pseudo(packet, self.protocol, packet.len() - self.transport);
        checksum::fold(checksum::sum(pseudo, &packet[self.transport..])) == 0xffff
    }

    fn flags(&self, packet: &[u8]) -> u8 {
        if self.protocol == TCP {
            packet[self.transport + 13]
        } else {
            0
        }
    }

    /// True when the IP headers differ only in what follows from the length and the place in the train.
    fn same_path(&self, a: &[u8], b: &[u8]) -> bool {
        if self.v6 {
            a[..4] == b[..4] && a[7..40] == b[7..40]
        } else {
            a[1] == b[1] && a[6..9] == b[6..9] && a[12..20] == b[12..20]
        }
    }

    /// True when the transport headers say the same, but for sequence number, FIN and PSH, and checksum.
    fn same_transport(&self, a: &[u8], b: &[u8]) -> bool {
        let at = self.transport;
        let ports = a[at..at + 4] == b[at..at + 4];
        if self.protocol == UDP {
            return ports;
        }
        ports
            && a[at + 8..at + 13] == b[at + 8..at + 13]
            && (a[at + 13] ^ b[at + 13]) & !(FIN | PSH) == 0
            && a[at + 14..at + 16] == b[at + 14..at + 16]
            && a[at + 18..self.headers] == b[at + 18..self.headers]
    }
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn sequence(packet: &[u8], transport: usize) -> u32 {
    let at = transport + 4;
    u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]])
}

impl Train {
    const NONE: Train = Train {
        shape: None,
        segment: 0,
        payload: 0,
        closed: true,
        checked: false,
        identification: Identification::Unknown,
        flags: 0,
    };

    fn start(packet: &[u8]) -> Train {
        let Some(shape) = Shape::of(packet) else {
            return Train::NONE;
        };
        let segment = packet.len() - shape.headers;
        let flags = shape.flags(packet);
        Train {
            shape: Some(shape),
            segment,
            payload: segment,
            closed: segment == 0 || flags & (FIN | SYN | RST | PSH | URG) != 0,
            flags,
            ..Train::NONE
        }
    }
}

impl Coalescer {
    pub(crate) fn new() -> Coalescer {
        Coalescer {
            packets: Vec::with_capacity(LONGEST),
            train: Train::NONE,
            original: [0; HEADERS],
        }
    }

    /// Adds the packet at `range` if it continues the train, or if there is none. Otherwise the train has to be
    /// [finished](Coalescer::finish) first.
    pub(crate) fn add(&mut self, buffer: &[u8], range: Range<usize>, tcp: bool, udp: bool) -> bool {
        let Some(first) = self.packets.first() else {
            self.train = Train::start(&buffer[range.clone()]);
            let permitted = self
                .train
                .shape
                .is_some_and(|shape| if shape.protocol == TCP { tcp } else { udp });
            self.train.closed |= !permitted;
            self.packets.push(range);
            return true;
        };
        let (first, packet) = (&buffer[first.clone()], &buffer[range.clone()]);
        let joins = !self.train.closed
            && self.packets.len() < LONGEST
            && self.train.join(first, packet, self.packets.len());
        if joins {
            self.packets.push(range);
        }
        joins
    }

    /// The one packet of a train of one; None for a longer one.
    pub(crate) fn single(&self) -> Option<Range<usize>> {
        match &self.packets[..] {
            [one] => Some(one.clone()),
            _ => None,
        }
    }

    /// Rewrites the first packet's headers to be those of the whole train.
    pub(crate) fn finish<'a>(&'a mut self, buffer: &mut [u8]) -> Option<Joined<'a>> {
        let shape = self.train.shape?;
        let first = self.packets.first()?.clone();
        let headers = &mut buffer[first.start..first.start + shape.headers];
        self.original[..shape.headers].copy_from_slice(headers);
        let total = shape.headers + self.train.payload;
        let at = shape.transport;
        if shape.v6 {
            headers[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        } else {
            headers[2..4].copy_from_slice(&(total as u16).to_be_bytes());
            checksum::set_ipv4(&mut headers[..20]);
        }
        let udp = shape.protocol == UDP;
        if udp {
            headers[at + 4..at + 6].copy_from_slice(&((total - at) as u16).to_be_bytes());
        } else {
            headers[at + 13] |= self.train.flags & (FIN | PSH);
        }
        // The kernel completes it from the pseudo-header's sum, or leaves it to the hardware.
        let field = if udp { 6 } else { 16 };
        let pseudo = checksum::fold(checksum::pseudo(headers, shape.protocol, total - at));
        headers[at + field..at + field + 2].copy_from_slice(&pseudo.to_ne_bytes());
        let gso = match (udp, shape.v6) {
            (true, _) => Gso::Udp,
            (false, false) => Gso::Tcp4,
            (false, true) => Gso::Tcp6,
        };
        let header = Header {
            gso,
            segment: self.train.segment as u16,
            checksum: Some((at as u16, field as u16)),
            length: shape.headers as u16,
        };
        Some(Joined {
            header: header.write(),
            packets: &self.packets,
            headers: shape.headers,
            udp,
        })
    }

    /// Undoes [`finish`](Coalescer::finish): the packets are as they came.
    pub(crate) fn restore(&self, buffer: &mut [u8]) -> &[Range<usize>] {
        if let (Some(shape), Some(first)) = (self.train.shape, self.packets.first()) {
            buffer[first.start..first.start + shape.headers]
                .copy_from_slice(&self.original[..shape.headers]);
        }
        &self.packets
    }

    /// Forgets the train.
    pub(crate) fn clear(&mut self) {
        self.packets.clear();
    }
}

impl Train {
    /// Takes `packet` as the train's next if it is. `count` packets from `first` on are there already.
    fn join(&mut self, first: &[u8], packet: &[u8], count: usize) -> bool {
        let Some(shape) = self.shape.filter(|shape| Shape::of(packet) == Some(*shape)) else {
            return false;
        };
        let payload = packet.len() - shape.headers;
        let whole = shape.headers + self.payload + payload;
        if payload == 0 || payload > self.segment || whole > usize::from(u16::MAX) {
            return false;
        }
        if !shape.same_path(first, packet) || !shape.same_transport(first, packet) {
            return false;
        }
        let flags = shape.flags(packet);
        if flags & CWR != 0 {
            return false;
        }
        if shape.protocol == TCP {
            let expected = sequence(first, shape.transport).wrapping_add(self.payload as u32);
            if sequence(packet, shape.transport) != expected {
                return false;
            }
        }
        let Some(identification) = self.identification(shape, first, packet, count) else {
            return false;
        };
        if !self.checked && !shape.checksum_is_right(first) {
            self.closed = true;
            return false;
        }
        self.checked = true;
        if !shape.checksum_is_right(packet) {
            return false;
        }
        self.identification = identification;
        self.payload += payload;
        self.flags |= flags;
        self.closed = payload < self.segment || flags & (FIN | PSH | URG) != 0;
        true
    }

    /// How identifications go on, if `packet` fits. Cut again, they rise; with DF they have no meaning and may also
    /// stay, but not do both.
    fn identification(
        &self,
        shape: Shape,
        first: &[u8],
        packet: &[u8],
        count: usize,
    ) -> Option<Identification> {
        if shape.v6 {
            return Some(Identification::Unknown);
        }
        let dont_fragment = first[6] & 0x40 != 0;
        let (start, this) = (word(first, 4), word(packet, 4));
        let found = if this == start.wrapping_add(count as u16) {
            Identification::Rising
        } else if this == start && dont_fragment {
            Identification::Fixed
        } else {
            return None;
        };
        (self.identification == Identification::Unknown || self.identification == found)
            .then_some(found)
    }
}

#[cfg(test)]
mod tests;
