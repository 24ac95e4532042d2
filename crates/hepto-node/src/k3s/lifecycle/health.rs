//! What probes make of a k3s that runs.

use std::time::Instant;

use super::Pace;

/// Whether the node is ready, as probes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    /// It has not been yet.
    Joining,
    /// Ready since then, with so many failed probes in a row.
    Ready {
        /// Its first good probe since it was not.
        since: Instant,
        /// In a row, up to now.
        misses: u32,
    },
    /// It was, and is no longer.
    Degraded,
}

impl Health {
    /// What a probe makes of it; and whether it was ready for so long that earlier ends are forgiven.
    pub fn after(self, good: bool, pace: &Pace, now: Instant) -> (Health, bool) {
        match self {
            Health::Ready { since, .. } if good => (Health::Ready { since, misses: 0 }, false),
            _ if good => (
                Health::Ready {
                    since: now,
                    misses: 0,
                },
                false,
            ),
            Health::Ready { since, misses } if misses + 1 < pace.misses => {
                let misses = misses + 1;
                (Health::Ready { since, misses }, false)
            }
            Health::Ready { .. } => (Health::Degraded, self.is_long_ready(pace, now)),
            other => (other, false),
        }
    }

    /// Whether it was ready for so long that earlier ends are forgiven.
    pub fn is_long_ready(self, pace: &Pace, now: Instant) -> bool {
        matches!(self, Health::Ready { since, .. }
            if now.saturating_duration_since(since) >= pace.forgive_after)
    }
}
