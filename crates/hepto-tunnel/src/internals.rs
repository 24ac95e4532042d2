//! The parts of the path one by one, for the micro-benchmark alone (`benches/path.rs`).

use crate::batch::DATAGRAM;
use crate::offload::checksum;
use crate::offload::coalesce::Coalescer;
use crate::offload::header::{Gso, Header};
use crate::offload::segment::Segments;
use crate::protocol::{Door, HANDSHAKE, Message, OVERHEAD, Opened, Protocol};

/// Headers of the packets made here: IPv4, and TCP with a time stamp.
const HEADERS: usize = 52;

/// Two ends with a session, without any I/O.
pub struct Session {
    near: Protocol,
    far: Protocol,
}

impl Default for Session {
    fn default() -> Session {
        let (one, two) = (Door::new([1; 32]), Door::new([2; 32]));
        let mut near = Protocol::new(&one, two.public_key(), [0; 32], 1);
        let mut far = Protocol::new(&two, one.public_key(), [0; 32], 2);
        let (mut message, mut answer) = ([0; HANDSHAKE], [0; HANDSHAKE]);
        let length = near.initiate(&mut message).expect("room");
        let answered = far.open(&message[..length], Message::Initiation, &mut answer);
        let Opened::Answer { length } = answered else {
            unreachable!("{answered:?}")
        };
        let opened = near.open(
            &answer[..length],
            Message::Response { index: 1 },
            &mut message,
        );
        let Opened::Established { length } = opened else {
            unreachable!("{opened:?}")
        };
        far.open(&message[..length], Message::Data { index: 2 }, &mut answer);
        Session { near, far }
    }
}

impl Session {
    /// Seals `packet` at the near end. Returns the length in `out`.
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> usize {
        self.near.sealer().expect("a session").seal(packet, out)
    }

    /// Opens `datagram` at the far end. Returns the length in `out`.
    pub fn open(&mut self, datagram: &[u8], out: &mut [u8]) -> usize {
        match self.far.open(datagram, Message::Data { index: 2 }, out) {
            Opened::Packet { length, .. } => length,
            other => unreachable!("{other:?}"),
        }
    }
}

/// A TCP packet of `payload` bytes, its checksum right.
pub fn packet(sequence: u32, payload: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; HEADERS + payload];
    packet[..20].copy_from_slice(&[
        0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 91, 0, 1, 10, 91, 0, 2,
    ]);
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    checksum::set_ipv4(&mut packet[..20]);
    packet[20..24].copy_from_slice(&[0x1f, 0x90, 0x1f, 0x91]);
    packet[24..28].copy_from_slice(&sequence.to_be_bytes());
    packet[32..34].copy_from_slice(&[0x80, 0x10]);
    packet[36..38].fill(0);
    let pseudo = checksum::pseudo(&packet, 6, packet.len() - 20);
    let sum = checksum::finish(checksum::sum(pseudo, &packet[20..]));
    packet[36..38].copy_from_slice(&sum);
    packet
}

/// Cuts a burst into segments of `segment` bytes and returns their number. The burst is spent.
pub fn cut(burst: &mut [u8], segment: u16) -> usize {
    let header = Header {
        gso: Gso::Tcp4,
        segment,
        checksum: Some((20, 16)),
        length: HEADERS as u16,
    };
    let mut segments = Segments::new(&header, burst).expect("a packet of ours");
    let mut count = 0;
    while let Some(segment) = segments.next() {
        std::hint::black_box(segment);
        count += 1;
    }
    count
}

/// Joins packets that lie one after another.
pub struct Joiner(Coalescer);

impl Default for Joiner {
    fn default() -> Joiner {
        Joiner(Coalescer::new())
    }
}

impl Joiner {
    /// Joins the packets of `length` bytes that fill `buffer`, and returns how many the first train took.
    pub fn join(&mut self, buffer: &mut [u8], length: usize) -> usize {
        let mut taken = 0;
        for start in (0..buffer.len()).step_by(length) {
            if !self.0.add(buffer, start..start + length, true, true) {
                break;
            }
            taken += 1;
        }
        std::hint::black_box(self.0.finish(buffer).is_some());
        self.0.clear();
        taken
    }
}

/// Bytes that sealing adds, and the most that a datagram has.
pub const SEALING: (usize, usize) = (OVERHEAD, DATAGRAM);
