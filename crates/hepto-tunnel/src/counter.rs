//! Counters of the whole tunnel.

use std::sync::atomic::{AtomicU64, Ordering};

/// Packets and bytes are those of the inner network. Drops are packets, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Packets given to the TUN.
    pub rx_packets: u64,
    /// Their bytes.
    pub rx_bytes: u64,
    /// Packets sealed and sent.
    pub tx_packets: u64,
    /// Their bytes.
    pub tx_bytes: u64,
    /// From the TUN, to an address of no peer.
    pub no_peer: u64,
    /// From the TUN, waited in vain for a session or were pushed out by newer ones.
    pub no_session: u64,
    /// From the TUN, no IP packet.
    pub unroutable: u64,
    /// Sealed, but not taken by the kernel.
    pub send_failed: u64,
    /// From a peer, with an inner source address that is not among its allowed IPs.
    pub spoofed: u64,
    /// From a peer, with no IP packet inside.
    pub malformed: u64,
    /// For an index or a session that we do not have (any more).
    pub unknown_session: u64,
    /// Forged or replayed data.
    pub unauthentic: u64,
    /// Handshake messages refused: forged, replayed, or from a key that is no peer's.
    pub handshakes_refused: u64,
    /// Handshake messages put off under load: answered with a cookie, or more than their source may send.
    pub rate_limited: u64,
    /// Opened, but not taken by the TUN.
    pub tun_failed: u64,
    /// Datagrams that are not WireGuard, given to the sink.
    pub sink: u64,
}

/// The counters as the threads write them: relaxed, since each counts for itself.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    rx_packets: AtomicU64,
    rx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    tx_bytes: AtomicU64,
    drops: [AtomicU64; Reason::COUNT],
}

/// Why a packet or datagram went no further, or aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NoPeer,
    NoSession,
    Unroutable,
    SendFailed,
    Spoofed,
    Malformed,
    UnknownSession,
    Unauthentic,
    HandshakeRefused,
    RateLimited,
    TunFailed,
    Sink,
}

impl Reason {
    const COUNT: usize = Reason::Sink as usize + 1;
}

impl Meter {
    pub(crate) fn received(&self, packets: u64, bytes: u64) {
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn sent(&self, packets: u64, bytes: u64) {
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn drop(&self, reason: Reason, packets: u64) {
        if packets > 0 {
            self.drops[reason as usize].fetch_add(packets, Ordering::Relaxed);
        }
    }

    pub(crate) fn read(&self) -> Counters {
        let drops = |reason: Reason| self.drops[reason as usize].load(Ordering::Relaxed);
        Counters {
            rx_packets: self.rx_packets.load(Ordering::Relaxed),
            rx_bytes: self.rx_bytes.load(Ordering::Relaxed),
            tx_packets: self.tx_packets.load(Ordering::Relaxed),
            tx_bytes: self.tx_bytes.load(Ordering::Relaxed),
            no_peer: drops(Reason::NoPeer),
            no_session: drops(Reason::NoSession),
            unroutable: drops(Reason::Unroutable),
            send_failed: drops(Reason::SendFailed),
            spoofed: drops(Reason::Spoofed),
            malformed: drops(Reason::Malformed),
            unknown_session: drops(Reason::UnknownSession),
            unauthentic: drops(Reason::Unauthentic),
            handshakes_refused: drops(Reason::HandshakeRefused),
            rate_limited: drops(Reason::RateLimited),
            tun_failed: drops(Reason::TunFailed),
            sink: drops(Reason::Sink),
        }
    }
}
