//! How fast the node may send and receive through its uplink, and how that is done: purely, as a description of queues,
//! classes and filters that `netlink/traffic.rs` hands to the kernel.
//!
//! Each direction has one tree: a token bucket (HTB) of the whole rate, with two classes in it. What keeps the
//! node a member (handshakes, rendezvous, keepalives, neighbour discovery) has a tenth of the rate for itself and
//! borrows the rest first; everything else waits in the other class, in a queue that is fair to its flows where the
//! kernel has one. So a saturated limit never costs a session. What comes in is led through a device of its own
//! ([`INGRESS`]), since the kernel only shapes what goes out.

/// The device that what comes in is led through, in the node's namespace.
pub const INGRESS: &str = "uplink-in";

/// The limits, and what is needed to know the mesh's own packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// How fast the node may send and receive.
    pub rates: Rates,
    /// The mesh's one public UDP port.
    pub mesh_port: u16,
}

/// Bits a second in each direction; `None`: as fast as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    /// What the node sends.
    pub up: Option<u64>,
    /// What the node receives.
    pub down: Option<u64>,
}

/// A direction of the uplink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What the node sends.
    Up,
    /// What the node receives.
    Down,
}

impl Direction {
    /// Both.
    pub const BOTH: [Direction; 2] = [Direction::Up, Direction::Down];
}

impl Rates {
    /// The rate of one direction.
    pub fn of(&self, direction: Direction) -> Option<u64> {
        match direction {
            Direction::Up => self.up,
            Direction::Down => self.down,
        }
    }

    /// The same as the kernel keeps them, in whole bytes a second.
    pub(crate) fn whole(self) -> Rates {
        let whole = |rate: Option<u64>| rate.map(|rate| rate / 8 * 8);
        Rates {
            up: whole(self.up),
            down: whole(self.down),
        }
    }
}

/// What went through the limits since they were set; `None` for a direction without one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shaped {
    /// What the node sent.
    pub up: Option<Traffic>,
    /// What the node received.
    pub down: Option<Traffic>,
}

/// What went through a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that passed.
    pub bytes: u64,
    /// Packets that were dropped.
    pub dropped: u64,
}

/// A class of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Class {
    /// Its number, the lower half of its handle.
    pub minor: u16,
    /// Its parent's number; 0 is the tree itself.
    pub parent: u16,
    /// What it has for itself, bytes a second.
    pub rate: u32,
    /// What it may have when the others leave it, bytes a second.
    pub ceiling: u32,
    /// Who borrows first: the lowest.
    pub priority: u32,
}

/// The whole rate.
pub(crate) const WHOLE: u16 = 1;
/// What keeps the node a member.
pub(crate) const VITAL: u16 = 0x10;
/// Everything else. It is made last, so that a tree that has it is whole.
pub(crate) const BULK: u16 = 0x20;

/// The classes of a rate in bits a second, in the order in which they are made.
pub(crate) fn classes(rate: u64) -> [Class; 3] {
    let whole = bytes(rate);
    let vital = whole / 10;
    let class = |minor, parent, rate, priority| Class {
        minor,
        parent,
        rate,
        ceiling: whole,
        priority,
    };
    [
        class(WHOLE, 0, whole, 0),
        class(VITAL, WHOLE, vital, 0),
        class(BULK, WHOLE, whole - vital, 1),
    ]
}

/// Bytes a second. The kernel's class counts them in 32 bits: more than any uplink has.
pub(crate) fn bytes(rate: u64) -> u32 {
    u32::try_from(rate / 8).unwrap_or(u32::MAX)
}

/// How many bytes may leave at once: 20 ms of the rate, and never less than a few packets.
pub(crate) fn burst(rate: u32) -> u32 {
    (rate / 50).max(6_000)
}

/// How many bytes of bulk may wait: a fifth of a second, but never less than three of the 64 KiB pieces that a tunnel hands
/// over, nor so much that what waits fills the tunnel's send buffer, in which a handshake would then find no room.
pub(crate) fn queue(rate: u32) -> u32 {
    (rate / 5).clamp(3 << 16, 1 << 20)
}

/// The delay that a queue aims at, microseconds: 5 ms, and never less than one and a half full packets take.
pub(crate) fn target(rate: u32) -> u32 {
    const FULL: u64 = 1514;
    let packet = FULL * 1_500_000 / u64::from(rate.max(1));
    u32::try_from(packet).unwrap_or(u32::MAX).max(5_000)
}

/// The order of packets of one protocol that have their own class.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Match {
    /// The protocol below (`ETH_P_…`).
    pub protocol: u16,
    /// Which come first; the kernel wants one for each protocol.
    pub order: u16,
    /// All have to hold.
    pub keys: Vec<Key>,
}

/// Four bytes of a packet, from its network header on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    /// Which bits count.
    pub mask: u32,
    /// What they are.
    pub value: u32,
    /// Where the bytes begin.
    pub offset: i32,
}

const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u32 = 17;
const ICMPV6: u32 = 58;

const fn key(offset: i32, value: u32, mask: u32) -> Key {
    Key {
        mask,
        value,
        offset,
    }
}

/// The packets that keep the node a member.
pub(crate) fn vital(port: u16, direction: Direction) -> Vec<Match> {
    let mut matches = vec![Match {
        protocol: ARP,
        order: 1,
        keys: vec![key(0, 0, 0)],
    }];
    // Router and neighbour solicitations and advertisements (RFC 4861): types 133 to 136.
    for (value, mask) in [(0x8400_0000, 0xfc00_0000), (0x8800_0000, 0xff00_0000)] {
        matches.push(Match {
            protocol: IPV6,
            order: 3,
            keys: vec![key(4, ICMPV6 << 8, 0xff00), key(40, value, mask)],
        });
    }
    // Only the node's own end has the port for sure.
    let port = match direction {
        Direction::Up => (u32::from(port) << 16, 0xffff_0000),
        Direction::Down => (u32::from(port), 0x0000_ffff),
    };
    let ipv4 = vec![
        // Without options, unfragmented, UDP.
        key(0, 0x4500_0000, 0xff00_0000),
        key(4, 0, 0x0000_1fff),
        key(8, UDP << 16, 0x00ff_0000),
        key(20, port.0, port.1),
    ];
    let ipv6 = vec![key(4, UDP << 8, 0xff00), key(40, port.0, port.1)];
    // WireGuard's types 1 to 3 are handshakes and cookies, in little-endian; the rendezvous begins with E8 01.
    let control = [(0, 0xfcff_ffff), (0xe801_0000, 0xffff_0000)];
    for (value, mask) in control {
        let with = |keys: &[Key], offset| [keys, &[key(offset, value, mask)]].concat();
        matches.push(Match {
            protocol: IPV4,
            order: 2,
            keys: with(&ipv4, 28),
        });
        matches.push(Match {
            protocol: IPV6,
            order: 3,
            keys: with(&ipv6, 48),
        });
    }
    // A keepalive is a data message of nothing: 32 bytes below UDP's 8.
    matches.push(Match {
        protocol: IPV4,
        order: 2,
        keys: [&ipv4[..], &[key(0, 60, 0xffff)]].concat(),
    });
    matches.push(Match {
        protocol: IPV6,
        order: 3,
        keys: [&ipv6[..], &[key(4, 40 << 16, 0xffff_0000)]].concat(),
    });
    matches
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the kernel's u32 classifier does it.
    fn is_vital(protocol: u16, packet: &[u8], direction: Direction) -> bool {
        let holds = |key: &Key| {
            let at = usize::try_from(key.offset).unwrap();
            let Some(bytes) = packet.get(at..at + 4) else {
                return false;
            };
            (u32::from_be_bytes(bytes.try_into().unwrap()) ^ key.value) & key.mask == 0
        };
        vital(51820, direction)
            .iter()
            .any(|wanted| wanted.protocol == protocol && wanted.keys.iter().all(holds))
    }

    fn udp(v6: bool, from: u16, to: u16, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(8 + payload.len()).unwrap();
        let mut packet = if v6 {
            let mut header = vec![0x60, 0, 0, 0];
            header.extend(length.to_be_bytes());
            header.extend([17, 64]);
            header.extend([0; 32]);
            header
        } else {
            let mut header = vec![0x45, 0];
            header.extend((20 + length).to_be_bytes());
            header.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
            header.extend([0; 8]);
            header
        };
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet.extend(length.to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn what_keeps_a_session_is_vital_and_bulk_is_not() {
        for (v6, protocol) in [(false, IPV4), (true, IPV6)] {
            let up =
                |payload: &[u8]| is_vital(protocol, &udp(v6, 51820, 7777, payload), Direction::Up);
            assert!(
                up(&[[1, 0, 0, 0].as_slice(), &[9; 144]].concat()),
                "initiation"
            );
            assert!(
                up(&[[2, 0, 0, 0].as_slice(), &[9; 88]].concat()),
                "response"
            );
            assert!(up(&[[3, 0, 0, 0].as_slice(), &[9; 60]].concat()), "cookie");
            assert!(
                up(&[[0xe8, 1, 7, 0].as_slice(), &[9; 400]].concat()),
                "rendezvous"
            );
            assert!(
                up(&[[4, 0, 0, 0].as_slice(), &[9; 28]].concat()),
                "keepalive"
            );
            let data = [[4, 0, 0, 0].as_slice(), &[9; 1400]].concat();
            assert!(!up(&data), "data");
            let other = udp(v6, 53, 7777, &[1, 0, 0, 0, 9, 9, 9, 9]);
            assert!(!is_vital(protocol, &other, Direction::Up), "another's port");
            let incoming = udp(v6, 7777, 51820, &[1, 0, 0, 0, 9, 9, 9, 9]);
            assert!(is_vital(protocol, &incoming, Direction::Down));
            assert!(!is_vital(protocol, &incoming, Direction::Up));
        }
        let mut solicitation = vec![0x60, 0, 0, 0, 0, 32, 58, 255];
        solicitation.extend([0; 32]);
        solicitation.extend([135, 0, 0, 0]);
        assert!(is_vital(IPV6, &solicitation, Direction::Up));
        solicitation[40] = 128;
        assert!(
            !is_vital(IPV6, &solicitation, Direction::Up),
            "a ping waits"
        );
    }

    #[test]
    fn classes_share_the_whole_and_nothing_more() {
        for rate in [1_000_000, 20_000_000, 32_000_000_000] {
            let [whole, vital, bulk] = classes(rate);
            assert_eq!(u64::from(whole.rate), rate / 8);
            assert_eq!(vital.rate + bulk.rate, whole.rate);
            assert!(vital.rate > 0 && vital.priority < bulk.priority);
            assert!(burst(whole.rate) >= 6_000 && queue(whole.rate) >= 3 << 16);
        }
        assert_eq!((target(125_000), target(2_500_000)), (18_168, 5_000));
    }
}
