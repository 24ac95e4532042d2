//! `hepto-tx`: from the TUN to the network.
//!
//! Packets are read until there are no more or a batch is full; then each run of packets for one peer is cut where it
//! came as one large packet, and sealed, under one lock; then the batch is sent.

use std::io;
use std::ops::Range;
use std::time::Instant;

use crate::batch::{MESSAGES, Outbox};
use crate::counter::Reason;
use crate::lull::Lull;
use crate::offload::header::Header;
use crate::offload::segment::Segments;
use crate::packet;
use crate::pages::{buffer, give_back};
use crate::peer::{Peer, State};
use crate::policy::Policy;
use crate::protocol::{HANDSHAKE, OVERHEAD};
use crate::table::Table;
use crate::tun::{HEADROOM, LARGEST};
use crate::tunnel::Shared;

/// Bytes of a batch after which it is sealed and sent.
const BATCH: usize = 65_536;

/// Pause after an error of the TUN that may last, in milliseconds.
const PAUSE: u32 = 100;

/// The sending half, and its buffers.
pub(crate) struct Sender {
    bytes: Box<[u8]>,
    frames: Vec<Frame>,
    outbox: Outbox,
    failing: bool,
    lull: Lull,
    policy: Policy,
}

/// A packet in the buffer, what it is to be cut into, and the slot of the peer it goes to.
#[derive(Clone, Copy)]
struct Frame {
    start: usize,
    length: usize,
    header: Header,
    slot: Option<u32>,
}

impl Sender {
    pub(crate) fn new() -> Sender {
        Sender {
            bytes: buffer(BATCH + LARGEST),
            frames: Vec::with_capacity(MESSAGES),
            // A batch cut into small segments grows beyond this, and is sent in parts.
            outbox: Outbox::new(BATCH + LARGEST + LARGEST / 2),
            failing: false,
            lull: Lull::default(),
            policy: Policy::default(),
        }
    }

    /// Runs until the tunnel stops.
    pub(crate) fn run(&mut self, shared: &Shared) {
        // Under constant load the interface never runs dry, so the flag is looked at each time.
        while !shared.stop.is_raised() {
            shared.pulses.tx.beat();
            self.policy.follow(shared.pulses.timer.read());
            self.fill(shared);
            if self.frames.is_empty() {
                if self.lull.begins(shared.pulses.timer.read()) {
                    give_back(&mut self.bytes);
                    self.outbox.give_back();
                }
                shared.stop.wait_beside(shared.tun.as_fd());
                continue;
            }
            let table = shared.table.load();
            self.route(&table, shared);
            self.seal(&table, shared);
            shared.flushed(self.outbox.flush(&shared.socket), &table);
        }
    }

    /// Reads packets until there are no more, or a batch is full.
    fn fill(&mut self, shared: &Shared) {
        self.frames.clear();
        let mut used = 0;
        while used < BATCH && self.frames.len() < MESSAGES {
            match shared.tun.read(&mut self.bytes[used..]) {
                Ok((Some(header), length)) => {
                    let start = used + HEADROOM;
                    self.frames.push(Frame {
                        start,
                        length,
                        header,
                        slot: None,
                    });
                    used = start + length;
                    self.failing = false;
                    self.lull.carried(length);
                    self.policy.carried(length);
                }
                Ok((None, _)) => shared.meter.drop(Reason::Unroutable, 1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.pause(&error, shared);
                    return;
                }
            }
        }
    }

    /// The interface is down or gone. It may come back, so this waits; gone for good, its owner starts anew.
    fn pause(&mut self, error: &io::Error, shared: &Shared) {
        if !self.failing {
            self.failing = true;
            tracing::warn!(
                code = "W-TUNNEL-READ",
                fix = "look whether it is still there and up: hepto-node exec --net -- ip link",
                interface = shared.tun.name(), %error,
                "cannot read the tunnel interface; it is tried again"
            );
        }
        shared.stop.wait(PAUSE);
    }

    fn route(&mut self, table: &Table, shared: &Shared) {
        let mut last = None;
        for frame in &mut self.frames {
            let packet = &self.bytes[frame.start..frame.start + frame.length];
            let Some(destination) = packet::destination(packet) else {
                shared.meter.drop(Reason::Unroutable, 1);
                continue;
            };
            frame.slot = match last {
                Some((known, slot)) if known == destination => slot,
                _ => table.route(destination),
            };
            last = Some((destination, frame.slot));
            if frame.slot.is_none() {
                shared.meter.drop(Reason::NoPeer, 1);
            }
        }
        self.frames.retain(|frame| frame.slot.is_some());
    }

    fn seal(&mut self, table: &Table, shared: &Shared) {
        let mut first = 0;
        while let Some(slot) = self.frames.get(first).and_then(|frame| frame.slot) {
            let run = self.frames[first..]
                .iter()
                .take_while(|frame| frame.slot == Some(slot))
                .count();
            self.seal_run(first..first + run, slot, table, shared);
            first += run;
        }
    }

    /// Seals a run of packets for one peer, or queues them when it has no session.
    fn seal_run(&mut self, run: Range<usize>, slot: u32, table: &Table, shared: &Shared) {
        let peer = table.peer(slot);
        let endpoint = peer.endpoint();
        let joins_below = shared.ladder.joins_below();
        let mut state = peer.lock();
        let Some((mut sealer, endpoint)) = state.protocol.sealer().zip(endpoint) else {
            self.queue_run(run, peer, &mut state, shared);
            return;
        };
        let Sender {
            bytes,
            frames,
            outbox,
            ..
        } = self;
        let (mut packets, mut octets) = (0, 0);
        for frame in &frames[run] {
            let packet = &mut bytes[frame.start..frame.start + frame.length];
            let Ok(mut segments) = Segments::new(&frame.header, packet) else {
                shared.meter.drop(Reason::Unroutable, 1);
                continue;
            };
            while let Some(segment) = segments.next() {
                if !outbox.has_room((segment.len() + OVERHEAD).max(HANDSHAKE)) {
                    shared.flushed(outbox.flush(&shared.socket), table);
                }
                let length = sealer.seal(segment, outbox.free());
                outbox.push(length, endpoint, length < joins_below);
                packets += 1;
                octets += segment.len() as u64;
            }
        }
        drop(state);
        peer.traffic.sent(packets, octets);
        shared.meter.sent(packets, octets);
    }

    fn queue_run(&mut self, run: Range<usize>, peer: &Peer, state: &mut State, shared: &Shared) {
        let news = !state.queue.is_waiting();
        let now = Instant::now();
        let mut dropped = 0;
        for frame in &self.frames[run] {
            let packet = &mut self.bytes[frame.start..frame.start + frame.length];
            let Ok(mut segments) = Segments::new(&frame.header, packet) else {
                shared.meter.drop(Reason::Unroutable, 1);
                continue;
            };
            while let Some(segment) = segments.next() {
                dropped += state.queue.push(segment, now);
            }
        }
        peer.traffic.dropped(dropped);
        shared.meter.drop(Reason::NoSession, dropped);
        if news {
            shared.changed.raise();
        }
    }
}
