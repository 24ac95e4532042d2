//! What a node promises, one test a promise, with whole nodes and real packets.
//!
//! Every test runs in a process of its own (`hepto_tests::isolated`) and needs root; where that is
//! missing it fails, with one sentence. Long tests lie in modules that begin early in the alphabet,
//! so that the others run beside them.

mod anchors;
mod barrage;
mod beside;
mod clock;
mod collision;
mod cut;
mod demo;
mod diagnose;
mod first_packet;
mod guide;
mod host_link;
mod key;
mod lab;
mod log;
mod meet;
mod metrics;
mod moved;
mod mtu;
mod preflight;
mod reload;
mod renumber;
mod restart;
mod scan;
mod secret;
mod see;
mod snapshot;
mod stop;
mod wait;
mod watchdog;
mod wesher;
mod wg;

use std::time::Duration;

use hepto_tests::Lab;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_hepto-node");

/// Patience for what has no promised time.
const SOON: Duration = Duration::from_secs(20);

fn new_lab() -> Lab {
    Lab::new(PROGRAM)
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}
