//! Signs of life: each thread counts its rounds, so that its owner sees one that hangs.

use std::sync::atomic::{AtomicU64, Ordering};

/// The rounds of one thread. On a cache line of its own, since another thread counts beside it.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct Pulse(AtomicU64);

impl Pulse {
    /// One more round: a batch, a tick, or a second without work.
    pub(crate) fn beat(&self) {
        // The thread is the only writer: no read-modify-write is needed.
        self.0.store(self.read().wrapping_add(1), Ordering::Relaxed);
    }

    /// The rounds so far.
    pub(crate) fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The pulses of all threads of a tunnel.
#[derive(Debug, Default)]
pub(crate) struct Pulses {
    pub(crate) tx: Pulse,
    pub(crate) rx: Pulse,
    pub(crate) timer: Pulse,
}
