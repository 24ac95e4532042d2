//! The time to give memory back: little to carry, after much.

/// Rounds of the timer that are looked at together: about a second.
const WINDOW: u64 = 3;

/// Bytes that make a window a busy one: more than buffers may keep for good.
const MUCH: usize = 256 * 1024;

/// What a thread carries, window by window. It knows the time from the timer's rounds, without a clock call.
#[derive(Debug, Default)]
pub(crate) struct Lull {
    since: u64,
    bytes: usize,
    busy: bool,
}

impl Lull {
    /// Counts `bytes` that were carried.
    pub(crate) fn carried(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// To be asked before each wait, with the timer's rounds. True once: when a window with little follows on a busy one.
    pub(crate) fn begins(&mut self, rounds: u64) -> bool {
        if rounds.wrapping_sub(self.since) < WINDOW {
            return false;
        }
        self.since = rounds;
        let busy = std::mem::take(&mut self.bytes) >= MUCH;
        std::mem::replace(&mut self.busy, busy) && !busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_once_after_a_busy_window() {
        let mut lull = Lull::default();
        assert!(!lull.begins(10), "nothing was carried");
        lull.carried(MUCH);
        assert!(!lull.begins(11), "the window is under way");
        assert!(!lull.begins(13), "it was busy");
        lull.carried(MUCH - 1);
        assert!(!lull.begins(14));
        assert!(lull.begins(16), "little was carried");
        assert!(!lull.begins(19) && !lull.begins(22), "it has begun");
        lull.carried(MUCH);
        assert!(!lull.begins(25));
        assert!(lull.begins(1000), "a long wait is a window too");
    }
}
