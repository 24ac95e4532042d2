//! How long the stages of k3s may take.

use std::time::Duration;

/// How long each thing may take.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The first back-off after an end of k3s, and the least.
    pub backoff_least: Duration,
    /// The longest back-off.
    pub backoff_most: Duration,
    /// After this long in READY, earlier ends no longer count.
    pub forgive_after: Duration,
    /// Between two probes until the node is ready, and while it is degraded.
    pub probe_joining: Duration,
    /// Between two probes of a ready node.
    pub probe_ready: Duration,
    /// Failed probes in a row that make a ready node degraded.
    pub misses: u32,
    /// After this long in JOINING the operator is told.
    pub stall: Duration,
    /// A k3s that was ready, runs, and has given no sign of life for this long hangs: it is ended and started anew.
    pub hang: Duration,
    /// How long k3s may take to end before it is killed.
    pub end: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            backoff_least: Duration::from_secs(1),
            backoff_most: Duration::from_secs(60),
            forgive_after: Duration::from_secs(600),
            probe_joining: Duration::from_secs(1),
            probe_ready: Duration::from_secs(10),
            misses: 2,
            // Images of a first start come over a home's line.
            stall: Duration::from_secs(180),
            hang: hang(),
            end: Duration::from_secs(30),
        }
    }
}

/// Longer than a slow disk takes to come to itself. Tests of a debug build cannot wait for so long.
fn hang() -> Duration {
    const USUAL: Duration = Duration::from_secs(300);
    if !cfg!(debug_assertions) {
        return USUAL;
    }
    let seconds = std::env::var("HEPTO_DEBUG_HANG_SECONDS").ok();
    let seconds = seconds.and_then(|text| text.parse().ok());
    seconds.map_or(USUAL, Duration::from_secs)
}
