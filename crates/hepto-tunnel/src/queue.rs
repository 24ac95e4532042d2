//! Packets that wait for a session: a few, and not for long.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Packets that wait. Enough for what opens a conversation (a SYN, a few queries), too few to hold memory against us.
const LENGTH: usize = 8;

/// How long they wait. Whoever sent them has given up or tried again by then.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The newest packets for a peer without a session.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    packets: VecDeque<Vec<u8>>,
    since: Option<Instant>,
}

impl Queue {
    /// Adds a packet. Returns how many older ones had to go for it (0 or 1).
    pub(crate) fn push(&mut self, packet: &[u8], now: Instant) -> u64 {
        self.since = Some(now);
        let mut dropped = 0;
        let mut space = Vec::new();
        if self.packets.len() == LENGTH {
            space = self.packets.pop_front().unwrap_or_default();
            space.clear();
            dropped = 1;
        }
        space.extend_from_slice(packet);
        self.packets.push_back(space);
        dropped
    }

    /// Forgets all when nothing was added for [`PATIENCE`]. Returns how many went.
    pub(crate) fn expire(&mut self, now: Instant) -> u64 {
        match self.since {
            Some(since) if now.saturating_duration_since(since) >= PATIENCE => {
                self.since = None;
                let dropped = self.packets.len() as u64;
                self.packets = VecDeque::new();
                dropped
            }
            _ => 0,
        }
    }

    /// True from the first packet on until all were taken or forgotten.
    pub(crate) fn is_waiting(&self) -> bool {
        self.since.is_some()
    }

    pub(crate) fn len(&self) -> usize {
        self.packets.len()
    }

    /// Empties the queue, oldest packet first.
    pub(crate) fn take(&mut self) -> VecDeque<Vec<u8>> {
        self.since = None;
        std::mem::take(&mut self.packets)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_eight_wait() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let dropped: u64 = (0..20u8).map(|n| queue.push(&[n], now)).sum();
        assert_eq!(dropped, 12);
        assert!(queue.is_waiting());
        let packets: Vec<_> = queue.take().into_iter().flatten().collect();
        assert_eq!(packets, (12..20).collect::<Vec<u8>>());
        assert!(!queue.is_waiting());
    }

    #[test]
    fn patience_counts_from_the_last_packet() {
        let (mut queue, start) = (Queue::default(), Instant::now());
        queue.push(&[1], start);
        queue.push(&[2], start + PATIENCE / 2);
        assert_eq!(queue.expire(start + PATIENCE), 0);
        assert_eq!(queue.len(), 2);
        assert_eq!(queue.expire(start + PATIENCE * 3 / 2), 2);
        assert!(!queue.is_waiting());
        assert_eq!(queue.expire(start + PATIENCE * 5), 0);
    }
}
