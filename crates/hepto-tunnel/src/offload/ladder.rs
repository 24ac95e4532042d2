//! What the kernel at hand can do, rung by rung, and what it turned out not to.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The offloads. As an option: those that may be used. As a report: those that are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offload {
    /// TCP bursts pass the TUN as one packet, both ways.
    pub tso: bool,
    /// UDP bursts too (Linux 6.2).
    pub uso: bool,
    /// Sealed packets of one size leave the socket as one send (Linux 4.18).
    pub udp_segment: bool,
    /// Datagrams of one flow arrive as one receive (Linux 5.0).
    pub udp_gro: bool,
}

impl Offload {
    /// All.
    pub const ALL: Offload = Offload {
        tso: true,
        uso: true,
        udp_segment: true,
        udp_gro: true,
    };

    /// None: a packet a system call, as on the oldest kernels.
    pub const NONE: Offload = Offload {
        tso: false,
        uso: false,
        udp_segment: false,
        udp_gro: false,
    };
}

impl Default for Offload {
    fn default() -> Offload {
        Offload::ALL
    }
}

/// The rungs in use. They only ever go down.
pub(crate) struct Ladder {
    tso: AtomicBool,
    uso: AtomicBool,
    udp_segment: AtomicBool,
    udp_gro: AtomicBool,
    /// Datagrams of this many bytes and more do not pass the way out in trains, though the kernel has them.
    too_long: AtomicUsize,
}

impl Ladder {
    /// A ladder with the rungs that the kernel accepted.
    pub(crate) fn new(found: Offload) -> Ladder {
        Ladder {
            tso: AtomicBool::new(found.tso),
            uso: AtomicBool::new(found.uso),
            udp_segment: AtomicBool::new(found.udp_segment),
            udp_gro: AtomicBool::new(found.udp_gro),
            too_long: AtomicUsize::new(usize::MAX),
        }
    }

    pub(crate) fn read(&self) -> Offload {
        let rung = |rung: &AtomicBool| rung.load(Ordering::Relaxed);
        Offload {
            tso: rung(&self.tso),
            uso: rung(&self.uso),
            udp_segment: rung(&self.udp_segment),
            udp_gro: rung(&self.udp_gro),
        }
    }

    /// Shorter datagrams than this may leave in one send. Zero when none may.
    pub(crate) fn joins_below(&self) -> usize {
        if self.udp_segment.load(Ordering::Relaxed) {
            self.too_long.load(Ordering::Relaxed)
        } else {
            0
        }
    }

    /// The way out is narrower than a train of datagrams of this length.
    pub(crate) fn limit_segments(&self, length: usize) {
        if self.too_long.fetch_min(length, Ordering::Relaxed) > length {
            tracing::info!(
                length,
                "the uplink's MTU is below the tunnel's needs: datagrams from this length on leave one by one and in fragments; raise the MTU, or lower network.mtu on all nodes"
            );
        }
    }

    /// The way out may be another now: what was too long for it may not be any more.
    pub(crate) fn forget_limit(&self) {
        self.too_long.store(usize::MAX, Ordering::Relaxed);
    }

    /// The kernel refused a segmented send that it took in pieces.
    pub(crate) fn drop_segments(&self) {
        if self.udp_segment.swap(false, Ordering::Relaxed) {
            tracing::info!(
                "the kernel refused a UDP_SEGMENT send; packets leave one by one from now on: slower, nothing else"
            );
        }
    }

    /// The kernel refused a joined packet that it took in pieces.
    pub(crate) fn drop_joined(&self, udp: bool) {
        let (rung, name) = if udp {
            (&self.uso, "UDP")
        } else {
            (&self.tso, "TCP")
        };
        if rung.swap(false, Ordering::Relaxed) {
            tracing::info!(
                "the kernel refused a joined {name} packet; they pass the tunnel interface one by one from now on: slower, nothing else"
            );
        }
    }
}

/// What may be used of `permitted` on a kernel of this release, such as `6.1.0-18-amd64`. Linux 7.0 to 7.1.4 corrupt a
/// UDP burst whose segments are all equal, as ours are.
pub(crate) fn safe_on(release: &str, permitted: Offload) -> Offload {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || numbers.next().unwrap_or(0);
    let version = (next(), next(), next());
    if ((7, 0, 0)..=(7, 1, 4)).contains(&version) {
        tracing::warn!(
            code = "W-TUNNEL-KERNEL",
            fix = "Linux 7.1.5 has it repaired",
            release,
            "this kernel corrupts UDP bursts, so they are not used: slower, nothing else"
        );
        return Offload {
            uso: false,
            udp_segment: false,
            ..permitted
        };
    }
    permitted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_only_go_down() {
        let ladder = Ladder::new(Offload {
            udp_gro: false,
            ..Offload::ALL
        });
        ladder.drop_segments();
        assert_eq!(
            ladder.read(),
            Offload {
                udp_segment: false,
                udp_gro: false,
                ..Offload::ALL
            }
        );
        ladder.drop_joined(false);
        assert_eq!(
            ladder.read(),
            Offload {
                uso: true,
                ..Offload::NONE
            }
        );
        ladder.drop_joined(true);
        assert_eq!(ladder.read(), Offload::NONE);
    }

    #[test]
    fn a_narrow_way_limits_trains_until_there_is_another() {
        let ladder = Ladder::new(Offload::ALL);
        assert_eq!(ladder.joins_below(), usize::MAX);
        ladder.limit_segments(1400);
        ladder.limit_segments(1450);
        assert_eq!(ladder.joins_below(), 1400);
        assert_eq!(ladder.read(), Offload::ALL);
        ladder.forget_limit();
        assert_eq!(ladder.joins_below(), usize::MAX);
        ladder.drop_segments();
        assert_eq!(ladder.joins_below(), 0);
        ladder.forget_limit();
        assert_eq!(ladder.joins_below(), 0, "a rung that broke stays broken");
    }

    #[test]
    fn the_corrupting_kernels_are_known() {
        let without = Offload {
            uso: false,
            udp_segment: false,
            ..Offload::ALL
        };
        for release in [
            "7.0.0",
            "7.0-rc3",
            "7.0.12-generic",
            "7.1.4",
            "7.1.0-1-amd64",
        ] {
            assert_eq!(safe_on(release, Offload::ALL), without, "{release}");
        }
        for release in [
            "5.10.0-28-amd64",
            "6.18.44-fc",
            "7.1.5",
            "7.2.0",
            "8.0",
            "weird",
        ] {
            assert_eq!(safe_on(release, Offload::ALL), Offload::ALL, "{release}");
        }
    }
}
