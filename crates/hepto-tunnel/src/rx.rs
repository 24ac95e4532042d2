//! `hepto-rx`: from the network to the TUN, and what is not WireGuard to the sink.
//!
//! Datagrams are received in batches; each run of data for one peer is opened under one lock, checked against the
//! peer's networks, and written to the TUN. Handshake messages pass the door first.

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use crate::address::Endpoint;
use crate::batch::{DATAGRAM, Inbox, Outbox, SLOTS, Slice};
use crate::counter::Reason;
use crate::delivery::Delivery;
use crate::lull::Lull;
use crate::peer::{Peer, State};
use crate::policy::Policy;
use crate::protocol::{Admission, HANDSHAKE, Message, Opened};
use crate::table::Table;
use crate::tunnel::{Datagram, Shared, Sink};

/// Messages a receive while the kernel joins datagrams.
const JOINED: usize = 4;

/// Datagrams of one receive from which on more are about to come.
const BULK: usize = 4;

/// Rest after such a receive where the kernel joins nothing. Each datagram that met this thread asleep would wake it, on the
/// sender's time.
const NAP: Duration = Duration::from_micros(300);

/// Room for answers and for packets that waited for a session.
const ANSWERS: usize = 2 * DATAGRAM;

/// Pause after an error of the socket that may last, in milliseconds.
const PAUSE: u32 = 100;

/// The receiving half, and its buffers.
pub(crate) struct Receiver {
    inbox: Inbox,
    slices: Vec<Slice>,
    delivery: Delivery,
    outbox: Outbox,
    sink: Sink,
    lull: Lull,
    policy: Policy,
}

/// What a run of data came to.
#[derive(Default)]
struct Tally {
    authentic: u64,
    unknown: u64,
    malformed: u64,
    refused: u64,
    /// The arrival of the last authentic one.
    last: Option<usize>,
    /// Slices that were looked at.
    done: usize,
}

impl Tally {
    fn authentic(&mut self, slice: &Slice) {
        self.authentic += 1;
        self.last = Some(slice.arrival);
    }

    fn count(&self, shared: &Shared) {
        shared.meter.drop(Reason::UnknownSession, self.unknown);
        shared.meter.drop(Reason::Malformed, self.malformed);
        shared.meter.drop(Reason::Unauthentic, self.refused);
    }
}

/// Sends what waited for this peer's session.
fn release(
    peer: &Peer,
    state: &mut State,
    endpoint: Endpoint,
    outbox: &mut Outbox,
    shared: &Shared,
) {
    let (packets, bytes) = state.release(endpoint, outbox);
    peer.traffic.sent(packets, bytes);
    shared.meter.sent(packets, bytes);
}

impl Receiver {
    pub(crate) fn new(sink: Sink) -> Receiver {
        Receiver {
            inbox: Inbox::new(),
            slices: Vec::with_capacity(SLOTS * 64),
            delivery: Delivery::new(),
            outbox: Outbox::new(ANSWERS),
            sink,
            lull: Lull::default(),
            policy: Policy::default(),
        }
    }

    /// Runs until the tunnel stops.
    pub(crate) fn run(&mut self, shared: &Shared) {
        let mut depth = SLOTS;
        let mut bulk = false;
        // Under constant load the socket never runs dry, so the flag is looked at each time.
        while !shared.stop.is_raised() {
            shared.pulses.rx.beat();
            self.policy.follow(shared.pulses.timer.read());
            match self.inbox.receive(&shared.socket, depth) {
                Ok(()) => {
                    self.inbox.split(&mut self.slices);
                    self.lull.carried(self.inbox.length());
                    self.policy.carried(self.inbox.length());
                    depth = self.depth();
                    bulk = self.slices.len() >= BULK;
                    let table = shared.table.load();
                    self.dispatch(&table, shared);
                    self.answer(&table, shared);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if std::mem::take(&mut bulk) && !shared.ladder.read().udp_gro {
                        std::thread::sleep(NAP);
                        continue;
                    }
                    if self.lull.begins(shared.pulses.timer.read()) {
                        self.inbox.give_back();
                        self.delivery.give_back();
                        self.outbox.give_back();
                    }
                    shared.stop.wait_beside(shared.socket.as_fd());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "the socket reports an error of an earlier datagram");
                    shared.stop.wait(PAUSE);
                }
            }
        }
    }

    /// Messages to ask for next. While they come joined, a few fill the caches; apart, many save system calls.
    fn depth(&self) -> usize {
        if self.slices.len() > 3 * self.inbox.messages() {
            JOINED
        } else {
            SLOTS
        }
    }

    /// Takes every datagram of the batch to where it belongs, in order.
    fn dispatch(&mut self, table: &Table, shared: &Shared) {
        let mut next = 0;
        while next < self.slices.len() {
            let slice = self.slices[next];
            match Message::of(self.inbox.bytes(&slice)) {
                Some(Message::Data { index }) => {
                    let run = self.slices[next..].iter().take_while(|slice| {
                        Message::of(self.inbox.bytes(slice)) == Some(Message::Data { index })
                    });
                    let end = next + run.count();
                    match table.indexed(index) {
                        Some(slot) => self.open_run(next..end, slot, table, shared),
                        None => shared
                            .meter
                            .drop(Reason::UnknownSession, (end - next) as u64),
                    }
                    next = end;
                }
                Some(message) => {
                    self.shake(&slice, message, table, shared);
                    next += 1;
                }
                None => {
                    self.hand_over(&slice, shared);
                    next += 1;
                }
            }
        }
    }

    /// Opens a run of data from one peer and writes it to the TUN.
    fn open_run(&mut self, mut run: Range<usize>, slot: u32, table: &Table, shared: &Shared) {
        let peer = table.peer(slot);
        while !run.is_empty() {
            let mut state = peer.lock();
            let waited = state.queue.is_waiting();
            let mut tally = Tally::default();
            for slice in &self.slices[run.clone()] {
                let datagram = self.inbox.bytes(slice);
                let Some(out) = self.delivery.room(datagram.len()) else {
                    break;
                };
                tally.done += 1;
                match state
                    .protocol
                    .open(datagram, Message::Data { index: peer.index }, out)
                {
                    Opened::Packet { length, source } => {
                        self.delivery.push(length, source);
                        tally.authentic(slice);
                    }
                    Opened::Keepalive => tally.authentic(slice),
                    Opened::NoSession => tally.unknown += 1,
                    Opened::Malformed => tally.malformed += 1,
                    _ => tally.refused += 1,
                }
            }
            if let Some(arrival) = tally.last {
                let endpoint = self.inbox.endpoint(arrival);
                peer.learn(endpoint);
                // Data confirms the session of the side that answered the handshake.
                if waited {
                    release(peer, &mut state, endpoint, &mut self.outbox, shared);
                }
                if !state.note_session() {
                    shared.changed.raise();
                }
            }
            drop(state);
            run.start += tally.done;
            tally.count(shared);
            self.deliver(peer, slot, tally.authentic, table, shared);
        }
    }

    /// Writes what was opened to the TUN, but for packets whose source is not the peer's.
    fn deliver(&mut self, peer: &Peer, slot: u32, authentic: u64, table: &Table, shared: &Shared) {
        let permitted = |source| table.route(source) == Some(slot);
        let delivered = self
            .delivery
            .deliver(&shared.tun, &shared.ladder, permitted);
        peer.traffic
            .received(authentic, delivered.packets, delivered.bytes);
        shared.meter.received(delivered.packets, delivered.bytes);
        shared.meter.drop(Reason::Spoofed, delivered.spoofed);
        shared.meter.drop(Reason::TunFailed, delivered.failed);
    }

    /// A handshake message: past the door, to the peer that it names.
    fn shake(&mut self, slice: &Slice, message: Message, table: &Table, shared: &Shared) {
        let datagram = self.inbox.bytes(slice);
        let endpoint = self.inbox.endpoint(slice.arrival);
        if matches!(message, Message::Initiation | Message::Response { .. }) {
            let mut reply = [0; HANDSHAKE];
            match shared
                .door
                .admit(endpoint.remote.ip(), datagram, &mut reply)
            {
                Admission::Pass => {}
                Admission::Cookie(length) => {
                    shared.meter.drop(Reason::RateLimited, 1);
                    self.post(&reply[..length], endpoint);
                    return;
                }
                Admission::Often => return shared.meter.drop(Reason::RateLimited, 1),
                Admission::Refused => return shared.meter.drop(Reason::HandshakeRefused, 1),
            }
        }
        let slot = match message {
            Message::Initiation => shared
                .door
                .sender(datagram)
                .and_then(|key| table.keyed(&key)),
            Message::Response { index } | Message::Cookie { index } | Message::Data { index } => {
                table.indexed(index)
            }
        };
        let Some(slot) = slot else {
            return shared.meter.drop(Reason::HandshakeRefused, 1);
        };
        let peer = table.peer(slot);
        let mut out = [0; HANDSHAKE];
        let mut state = peer.lock();
        match state.protocol.open(datagram, message, &mut out) {
            // An initiation shows that the peer was once there, not that it is: its answer goes there, traffic does
            // not yet.
            Opened::Answer { length } => {
                state.shook();
                drop(state);
                self.post(&out[..length], endpoint);
            }
            Opened::Established { length } => {
                state.shook();
                peer.learn(endpoint);
                self.outbox.write(&out[..length], endpoint);
                release(peer, &mut state, endpoint, &mut self.outbox, shared);
                state.note_session();
                drop(state);
                peer.traffic.received(1, 0, 0);
                shared.changed.raise();
            }
            Opened::Stale => {
                if state.stale(Instant::now()) {
                    shared.changed.raise();
                }
                shared.meter.drop(Reason::HandshakeRefused, 1);
            }
            Opened::Cookie => {}
            _ => shared.meter.drop(Reason::HandshakeRefused, 1),
        }
    }

    fn hand_over(&mut self, slice: &Slice, shared: &Shared) {
        let arrival = self.inbox.arrival(slice.arrival);
        shared.meter.drop(Reason::Sink, 1);
        (self.sink)(Datagram {
            bytes: self.inbox.bytes(slice),
            from: arrival.from,
            to: arrival.to,
            from_peer: shared.live.load().contains(&arrival.from),
        });
    }

    fn post(&mut self, message: &[u8], endpoint: Endpoint) {
        self.outbox.write(message, endpoint);
    }

    /// Sends what the batch asked for.
    fn answer(&mut self, table: &Table, shared: &Shared) {
        if self.outbox.is_empty() {
            return;
        }
        shared.flushed(self.outbox.flush(&shared.socket), table);
    }
}
