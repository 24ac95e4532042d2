//! Opened packets on their way to the TUN.

use std::io;
use std::net::IpAddr;
use std::ops::Range;

use crate::batch::DATAGRAM;
use crate::offload::coalesce::Coalescer;
use crate::offload::ladder::Ladder;
use crate::pages::{buffer, give_back};
use crate::protocol::HANDSHAKE;
use crate::tun::{HEADROOM, Tun};

/// Room for the opened packets of a run. A longer run is delivered in parts.
const ROOM: usize = 5 * DATAGRAM;

/// Packets of a part: as many as a receive of large datagrams brings.
const PACKETS: usize = 1024;

/// Packets that were opened and wait to be written, with headroom before each.
pub(crate) struct Delivery {
    bytes: Box<[u8]>,
    used: usize,
    packets: Vec<Packet>,
    coalescer: Coalescer,
}

struct Packet {
    start: usize,
    length: usize,
    source: IpAddr,
}

/// What became of the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    /// The inner source was not the sender's.
    pub(crate) spoofed: u64,
    /// The TUN did not take it.
    pub(crate) failed: u64,
}

impl Delivery {
    pub(crate) fn new() -> Delivery {
        Delivery {
            bytes: buffer(ROOM),
            used: 0,
            packets: Vec::with_capacity(PACKETS),
            coalescer: Coalescer::new(),
        }
    }

    /// Gives the memory back while no packet waits.
    pub(crate) fn give_back(&mut self) {
        if self.packets.is_empty() {
            give_back(&mut self.bytes);
        }
    }

    /// Room to open a datagram of `length` bytes into, if there is any left.
    pub(crate) fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        if self.packets.len() == PACKETS {
            return None;
        }
        let start = self.used + HEADROOM;
        self.bytes.get_mut(start..start + length.max(HANDSHAKE))
    }

    /// Takes the first `length` bytes of the room as a packet.
    pub(crate) fn push(&mut self, length: usize, source: IpAddr) {
        let start = self.used + HEADROOM;
        self.packets.push(Packet {
            start,
            length,
            source,
        });
        self.used = start + length;
    }

    /// Writes all packets whose source is `permitted`, joining those that belong together.
    pub(crate) fn deliver(
        &mut self,
        tun: &Tun,
        ladder: &Ladder,
        permitted: impl Fn(IpAddr) -> bool,
    ) -> Delivered {
        let mut delivered = Delivered::default();
        let offload = ladder.read();
        let mut checked = None;
        for number in 0..self.packets.len() {
            let Packet {
                start,
                length,
                source,
            } = self.packets[number];
            if checked != Some(source) {
                if !permitted(source) {
                    delivered.spoofed += 1;
                    continue;
                }
                checked = Some(source);
            }
            let range = start..start + length;
            if !self
                .coalescer
                .add(&self.bytes, range.clone(), offload.tso, offload.uso)
            {
                self.write(tun, ladder, &mut delivered);
                let first = self
                    .coalescer
                    .add(&self.bytes, range, offload.tso, offload.uso);
                assert!(first, "a train begins with any packet");
            }
        }
        self.write(tun, ladder, &mut delivered);
        self.packets.clear();
        self.used = 0;
        delivered
    }

    /// Writes the train under way, in pieces when the kernel refuses it whole.
    fn write(&mut self, tun: &Tun, ladder: &Ladder, delivered: &mut Delivered) {
        let Delivery {
            bytes, coalescer, ..
        } = self;
        if let Some(one) = coalescer.single() {
            delivered.count(write_one(tun, bytes, &one).is_ok(), one.len());
        } else if let Some(joined) = coalescer.finish(bytes) {
            match tun.write_joined(bytes, &joined) {
                Ok(()) => joined
                    .packets
                    .iter()
                    .for_each(|packet| delivered.count(true, packet.len())),
                Err(error) => {
                    let udp = joined.udp;
                    let mut went = true;
                    for packet in coalescer.restore(bytes) {
                        let taken = write_one(tun, bytes, packet).is_ok();
                        went &= taken;
                        delivered.count(taken, packet.len());
                    }
                    // A link that is down refuses both ways, and that says nothing of trains.
                    if went && matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) {
                        ladder.drop_joined(udp);
                    }
                }
            }
        }
        coalescer.clear();
    }
}

fn write_one(tun: &Tun, bytes: &mut [u8], packet: &Range<usize>) -> io::Result<()> {
    tun.write(&mut bytes[packet.start - HEADROOM..packet.end])
}

impl Delivered {
    fn count(&mut self, taken: bool, length: usize) {
        if taken {
            self.packets += 1;
            self.bytes += length as u64;
        } else {
            self.failed += 1;
        }
    }
}

#[cfg(test)]
mod tests;
