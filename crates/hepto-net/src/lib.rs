//! Linux networking of one node: its network namespace, the uplink (ipvlan or macvlan), addresses, routes, kernel
//! settings, firewall, and the addresses of the overlay link.
//!
//! What is there and what should be are two pictures ([`state`]); [`plan`] turns them into steps, purely; `apply` is
//! the only place that changes anything. Running it twice changes nothing the second time. The kernel announces what
//! changes by itself ([`Event`]); nothing is polled.
//!
//! It never knows of the mesh or the tunnel: it is handed addresses and prefixes, and hands out descriptors and events.
//! It never moves the calling thread into another namespace, but for [`Entry::enter`].
//!
//! Start reading at [`Network`], then `plan.rs`.

pub mod address;
mod apply;
pub mod bandwidth;
mod bridge;
pub mod datagram;
pub mod echo;
mod error;
pub mod ethtool;
mod firewall;
pub mod lab;
pub mod namespace;
mod netlink;
mod network;
pub mod plan;
mod settings;
pub mod state;
mod sysctl;
mod teardown;
mod tune;
mod watch;

pub use address::host_addresses;
pub use bandwidth::{Bandwidth, Rates, Shaped, Traffic};
pub use error::Error;
pub use firewall::Loaded;
pub use namespace::Entry;
pub use network::{Converged, Network, UplinkState};
pub use plan::Step;
pub use settings::{
    Firewall, Gateway, HOST_LINK, OpenPort, Overlay, Proto, Settings, UNFRAGMENTED, UPLINK, Uplink,
    UplinkKind,
};
pub use state::{HostLink, Tuning};
pub use sysctl::{IPV6_ON, gives_ipv6, has_ipv6};
pub use teardown::teardown;
pub use watch::{Event, ParentChange, PodRoute};
