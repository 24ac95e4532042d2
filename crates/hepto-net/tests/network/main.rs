//! A node's network on a real kernel. Each test runs in a process, network and mount namespace of its own, with its own
//! `/run`: whatever becomes of it, nothing is left. Needs root, Debian's util-linux and iproute2, and nftables.
#![allow(clippy::unwrap_used)]

mod adoption;
mod advertisement;
mod bandwidth;
mod bridge;
mod firewall;
mod host_link;
mod ipvlan;
mod lab;
mod overlay;
mod tune;
mod uplink;
