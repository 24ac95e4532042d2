//! Userspace WireGuard: boringtun does the protocol, this crate does the I/O.
//!
//! Three plain threads share one table of peers: `hepto-tx` carries packets from the TUN to the network, `hepto-rx`
//! carries them back, `hepto-timer` ticks four times a second. Each runs to completion: no channel, no async runtime,
//! and no allocation for a packet. What is not WireGuard on the UDP socket goes to a sink that the caller provides.
//!
//! What it never does: choose peers, start a first handshake by itself, name hosts, touch addresses, routes or links.
//! All of that is told to it ([`Tunnel::set_peer`], [`Tunnel::handshake`]) or done elsewhere.
//!
//! Start reading at [`tunnel`], then `tx` and `rx`, then [`offload`], which is why it is fast. `protocol` and its parts
//! alone know boringtun.

pub mod counter;
pub mod error;
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals;
pub mod offload;
pub mod socket;
pub mod tun;
pub mod tunnel;

mod address;
mod batch;
#[cfg(feature = "without-crypto")]
mod clear;
#[cfg(all(target_arch = "x86_64", any(target_env = "musl", test)))]
mod copy;
mod delivery;
mod lull;
mod observer;
mod packet;
mod pages;
mod peer;
mod policy;
mod protocol;
mod pulse;
mod queue;
mod rx;
mod source;
mod table;
mod timer;
mod tx;
mod wake;

pub use counter::Counters;
pub use error::Error;
pub use observer::{Observer, View};
pub use offload::ladder::Offload;
pub use peer::{PeerConfig, PeerReport};
pub use socket::{Messenger, Socket};
pub use tun::Tun;
pub use tunnel::{Datagram, Options, Sink, Tunnel};

/// False in a build of the benchmark's ceiling, which leaves the cipher out. hepto-node asserts that it is true.
pub const ENCRYPTS: bool = cfg!(not(feature = "without-crypto"));
