//! One peer: its session, where it is, what waits for it, what it has carried.

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use ipnet::IpNet;
use zeroize::Zeroizing;

use crate::address::{Endpoint, canonical};
use crate::batch::Outbox;
use crate::protocol::{Door, HANDSHAKE, OVERHEAD, Protocol, Tick};
use crate::queue::Queue;

/// How much later than the side that started a session the other one renews it: the first seems not to.
const RENEW_ANYWAY: Duration = Duration::from_secs(30);

/// Between two attempts to renew (WireGuard's REKEY_TIMEOUT).
const RETRY: Duration = Duration::from_secs(5);

/// Between two initiations that the caller forces.
const FORCE: Duration = Duration::from_secs(1);

/// How long a refusal for an old time stamp is reported.
const STALE: Duration = Duration::from_secs(10);

/// The two durations that the caller sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// The longest silence of ours towards a peer with a session.
    pub(crate) keepalive: Duration,
    /// The age at which the side that started a session renews it. boringtun does so only when data flows; a mesh
    /// wants its idle links alive too.
    pub(crate) renew: Duration,
}

/// What the caller tells of a peer.
#[derive(Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// WireGuard public key.
    pub public_key: [u8; 32],
    /// WireGuard preshared key; all zeroes is none.
    pub preshared_key: [u8; 32],
    /// Inner addresses that are the peer's: packets to them go to it, packets from it must bear them. A network given
    /// to two peers belongs to the one that was set last.
    pub allowed_ips: Vec<IpNet>,
    /// Where it may be. An address that the peer itself was heard from goes before it.
    pub endpoint: Option<SocketAddr>,
}

impl fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerConfig")
            .field("public_key", &self.public_key)
            .field("preshared_key", &"hidden")
            .field("allowed_ips", &self.allowed_ips)
            .field("endpoint", &self.endpoint)
            .finish()
    }
}

/// What the tunnel knows of a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerReport {
    /// WireGuard public key.
    pub public_key: [u8; 32],
    /// Where packets for it go.
    pub endpoint: Option<SocketAddr>,
    /// Since the last handshake; None without a session that can send.
    pub last_handshake: Option<Duration>,
    /// Since anything authentic came from it, to within a quarter of a second; None if never.
    pub last_received: Option<Duration>,
    /// Inner bytes from it.
    pub rx_bytes: u64,
    /// Inner bytes to it.
    pub tx_bytes: u64,
    /// Inner packets from it.
    pub rx_packets: u64,
    /// Inner packets to it, keepalives not counted.
    pub tx_packets: u64,
    /// Packets that wait for a session.
    pub queued: usize,
    /// Packets that waited in vain.
    pub dropped: u64,
    /// Traffic for it waits, or did within the last 10 s, and there is no session.
    pub wants_session: bool,
    /// Within the last 10 s a valid initiation of it was refused for its time stamp: its clock went back (or someone
    /// replays). It will not get in by itself; an initiation of ours gets through.
    pub stale_clock: bool,
}

/// What a peer has carried, written by all threads.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    rx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    /// Authentic messages of any kind from it.
    authentic: AtomicU64,
    /// Messages of any kind sealed for it.
    sealed: AtomicU64,
    dropped: AtomicU64,
}

impl Traffic {
    /// Counts `messages` authentic ones, of which `packets` held `bytes` of inner packets.
    pub(crate) fn received(&self, messages: u64, packets: u64, bytes: u64) {
        self.authentic.fetch_add(messages, Ordering::Relaxed);
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.sealed.fetch_add(packets, Ordering::Relaxed);
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn dropped(&self, packets: u64) {
        self.dropped.fetch_add(packets, Ordering::Relaxed);
    }
}

/// A peer, shared by all threads and by every table that has it.
pub(crate) struct Peer {
    pub(crate) public_key: [u8; 32],
    pub(crate) index: u32,
    pub(crate) traffic: Traffic,
    preshared_key: Zeroizing<[u8; 32]>,
    endpoint: ArcSwapOption<Endpoint>,
    learned: AtomicBool,
    state: Mutex<State>,
}

/// What one thread at a time may touch.
pub(crate) struct State {
    pub(crate) protocol: Protocol,
    pub(crate) queue: Queue,
    /// Where the caller wants initiations to go until one is answered.
    attempt: Option<SocketAddr>,
    forced: Option<Instant>,
    renewed: Option<Instant>,
    stale: Option<Instant>,
    had_session: bool,
    sent: Seen,
    received: Seen,
}

/// A counter watched from the timer, which so knows when it last moved without a clock call per packet.
#[derive(Default)]
struct Seen {
    count: u64,
    at: Option<Instant>,
}

impl Seen {
    fn update(&mut self, count: u64, now: Instant) {
        if count != self.count {
            self.count = count;
            self.at = Some(now);
        }
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        self.at.map(|at| now.saturating_duration_since(at))
    }
}

/// What a tick found.
#[derive(Default)]
pub(crate) struct Ticked {
    /// To be sent: so many bytes of the buffer, there.
    pub(crate) message: Option<(usize, Endpoint)>,
    /// A session came or went since the last tick.
    pub(crate) changed: bool,
    /// Packets that waited in vain.
    pub(crate) dropped: u64,
    /// The peer has a session, and is there.
    pub(crate) live: Option<SocketAddr>,
}

impl Peer {
    pub(crate) fn new(door: &Door, config: &PeerConfig, index: u32) -> Peer {
        let protocol = Protocol::new(door, config.public_key, config.preshared_key, index);
        let endpoint = config
            .endpoint
            .map(|remote| Arc::new(Endpoint::unbound(remote)));
        Peer {
            public_key: config.public_key,
            index,
            traffic: Traffic::default(),
            preshared_key: Zeroizing::new(config.preshared_key),
            endpoint: ArcSwapOption::new(endpoint),
            learned: AtomicBool::new(false),
            state: Mutex::new(State {
                protocol,
                queue: Queue::default(),
                attempt: None,
                forced: None,
                renewed: None,
                stale: None,
                had_session: false,
                sent: Seen::default(),
                received: Seen::default(),
            }),
        }
    }

    /// The peer's state, for one run of packets. A panic elsewhere while it was held ends the process, so poison is
    /// never seen.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn has_preshared_key(&self, key: &[u8; 32]) -> bool {
        *self.preshared_key == *key
    }

    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        self.endpoint.load().as_deref().copied()
    }

    /// The peer was heard from there, authentically.
    pub(crate) fn learn(&self, endpoint: Endpoint) {
        if self.endpoint() != Some(endpoint) {
            self.endpoint.store(Some(Arc::new(endpoint)));
        }
        if !self.learned.load(Ordering::Relaxed) {
            self.learned.store(true, Ordering::Relaxed);
        }
    }

    /// The caller believes that the peer is there. What the peer itself has shown goes before.
    pub(crate) fn suggest(&self, remote: SocketAddr) {
        if !self.learned.load(Ordering::Relaxed) {
            self.endpoint
                .store(Some(Arc::new(Endpoint::unbound(remote))));
        }
    }

    /// Keeps what `older`, the same peer under another preshared key, knew of the place.
    pub(crate) fn inherit(&self, older: &Peer) {
        self.endpoint.store(older.endpoint.load_full());
        self.learned
            .store(older.learned.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Our address at `endpoint` (or any, if None) is gone: the kernel chooses another.
    pub(crate) fn unbind(&self, endpoint: Option<Endpoint>) {
        if let Some(current) = self.endpoint()
            && current.local.is_some()
            && endpoint.is_none_or(|endpoint| endpoint == current)
        {
            self.endpoint
                .store(Some(Arc::new(Endpoint::unbound(current.remote))));
        }
    }

    /// Writes an initiation for `remote` into `out`, at most once a second.
    pub(crate) fn force(
        &self,
        remote: SocketAddr,
        now: Instant,
        out: &mut [u8; HANDSHAKE],
    ) -> Option<(usize, Endpoint)> {
        let mut state = self.lock();
        if state
            .forced
            .is_some_and(|last| now.saturating_duration_since(last) < FORCE)
        {
            return None;
        }
        let length = state.protocol.initiate(out)?;
        state.forced = Some(now);
        state.renewed = Some(now);
        state.attempt = Some(canonical(remote));
        Some((length, Endpoint::unbound(remote)))
    }

    /// Writes a keepalive into `out`, if there is a session.
    pub(crate) fn keepalive(&self, out: &mut [u8; HANDSHAKE]) -> Option<(usize, Endpoint)> {
        let endpoint = self.endpoint()?;
        let length = self.lock().protocol.sealer()?.seal(&[], out);
        self.traffic.sealed.fetch_add(1, Ordering::Relaxed);
        Some((length, endpoint))
    }

    /// Lets time pass. `out` takes any message that is to be sent;
    pub(crate) fn tick(
        &self,
        now: Instant,
        patience: &Patience,
        out: &mut [u8; HANDSHAKE],
    ) -> Ticked {
        let mut state = self.lock();
        let state = &mut *state;
        state
            .sent
            .update(self.traffic.sealed.load(Ordering::Relaxed), now);
        state
            .received
            .update(self.traffic.authentic.load(Ordering::Relaxed), now);
        let dropped = state.queue.expire(now);
        self.traffic.dropped(dropped);
        if state
            .stale
            .is_some_and(|at| now.saturating_duration_since(at) >= STALE)
        {
            state.stale = None;
        }
        let message = state.due(now, patience, out);
        let session = state.protocol.session_age().is_some();
        let changed = std::mem::replace(&mut state.had_session, session) != session;
        let endpoint = self.endpoint();
        let message = message.and_then(|due| {
            let to = match due {
                Due::Initiation(_) if !session => state.attempt.map(Endpoint::unbound).or(endpoint),
                Due::Initiation(_) | Due::Data(_) => endpoint,
            };
            if matches!(due, Due::Data(_)) {
                self.traffic.sealed.fetch_add(1, Ordering::Relaxed);
            }
            Some((due.length(), to?))
        });
        let live = endpoint.filter(|_| session).map(|endpoint| endpoint.remote);
        Ticked {
            message,
            changed,
            dropped,
            live,
        }
    }

    pub(crate) fn report(&self, now: Instant) -> PeerReport {
        let state = self.lock();
        let last_handshake = state.protocol.session_age();
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        PeerReport {
            public_key: self.public_key,
            endpoint: self.endpoint().map(|endpoint| endpoint.remote),
            last_handshake,
            last_received: state.received.age(now),
            rx_bytes: count(&self.traffic.rx_bytes),
            tx_bytes: count(&self.traffic.tx_bytes),
            rx_packets: count(&self.traffic.rx_packets),
            tx_packets: count(&self.traffic.tx_packets),
            queued: state.queue.len(),
            dropped: count(&self.traffic.dropped),
            wants_session: last_handshake.is_none() && state.queue.is_waiting(),
            stale_clock: state
                .stale
                .is_some_and(|at| now.saturating_duration_since(at) < STALE),
        }
    }
}

/// A message that a tick wrote, of so many bytes.
enum Due {
    Initiation(usize),
    Data(usize),
}

impl Due {
    fn length(&self) -> usize {
        match self {
            Due::Initiation(length) | Due::Data(length) => *length,
        }
    }
}

impl State {
    fn due(&mut self, now: Instant, patience: &Patience, out: &mut [u8; HANDSHAKE]) -> Option<Due> {
        match self.protocol.tick(out) {
            Tick::Send(HANDSHAKE) => {
                self.renewed = Some(now);
                return Some(Due::Initiation(HANDSHAKE));
            }
            Tick::Send(length) => return Some(Due::Data(length)),
            Tick::Expired | Tick::Nothing => {}
        }
        let age = self.protocol.session_age()?;
        let wait = if self.protocol.is_initiator() {
            Duration::ZERO
        } else {
            RENEW_ANYWAY
        };
        let old = age >= patience.renew + wait;
        if old
            && self
                .renewed
                .is_none_or(|at| now.saturating_duration_since(at) >= RETRY)
        {
            self.renewed = Some(now);
            return self.protocol.initiate(out).map(Due::Initiation);
        }
        if self
            .sent
            .age(now)
            .is_none_or(|silence| silence >= patience.keepalive)
        {
            let mut sealer = self.protocol.sealer()?;
            return Some(Due::Data(sealer.seal(&[], out)));
        }
        None
    }

    /// A handshake was valid, so the peer's clock is not behind.
    pub(crate) fn shook(&mut self) {
        self.stale = None;
    }

    /// There is a session: the place that initiations went to has served. False when that is news.
    pub(crate) fn note_session(&mut self) -> bool {
        self.attempt = None;
        std::mem::replace(&mut self.had_session, true)
    }

    /// A valid initiation was refused for its time stamp. True when that is news.
    pub(crate) fn stale(&mut self, now: Instant) -> bool {
        self.stale.replace(now).is_none()
    }

    /// Seals what waited, if there is a session now, into `outbox` for `endpoint`. Returns packets and bytes sealed.
    pub(crate) fn release(&mut self, endpoint: Endpoint, outbox: &mut Outbox) -> (u64, u64) {
        if !self.queue.is_waiting() {
            return (0, 0);
        }
        let Some(mut sealer) = self.protocol.sealer() else {
            return (0, 0);
        };
        let (mut packets, mut bytes) = (0, 0);
        for packet in self.queue.take() {
            if outbox.has_room((packet.len() + OVERHEAD).max(HANDSHAKE)) {
                let length = sealer.seal(&packet, outbox.free());
                outbox.push(length, endpoint, false);
                packets += 1;
                bytes += packet.len() as u64;
            }
        }
        (packets, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cluster has at most a few hundred: they must not weigh.
    #[test]
    fn a_peer_is_small() {
        assert!(
            size_of::<Peer>() <= 32 * 1024,
            "{} bytes",
            size_of::<Peer>()
        );
    }

    #[test]
    fn what_the_peer_has_shown_goes_before_what_is_suggested() {
        let config = PeerConfig {
            public_key: [2; 32],
            preshared_key: [0; 32],
            allowed_ips: vec![],
            endpoint: "192.0.2.1:1".parse().ok(),
        };
        let door = Door::new([1; 32]);
        let peer = Peer::new(&door, &config, 1);
        let remote = |peer: &Peer| peer.endpoint().map(|endpoint| endpoint.remote.to_string());
        peer.suggest("192.0.2.2:2".parse().expect("an address"));
        assert_eq!(remote(&peer).as_deref(), Some("192.0.2.2:2"));
        let local = Some("192.0.2.9".parse().expect("an address"));
        let heard = Endpoint {
            remote: "192.0.2.3:3".parse().expect("an address"),
            local,
        };
        peer.learn(heard);
        peer.suggest("192.0.2.4:4".parse().expect("an address"));
        assert_eq!(peer.endpoint(), Some(heard));
        let renewed = Peer::new(&door, &config, 2);
        renewed.inherit(&peer);
        assert_eq!(renewed.endpoint(), Some(heard));
        // Only the endpoint that failed is given up, not one that was learned meanwhile.
        peer.unbind(Some(Endpoint::unbound(heard.remote)));
        assert_eq!(peer.endpoint(), Some(heard));
        peer.unbind(Some(heard));
        assert_eq!(peer.endpoint(), Some(Endpoint::unbound(heard.remote)));
    }
}
