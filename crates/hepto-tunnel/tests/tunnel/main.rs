//! Whole tunnels in network namespaces, with real packets. Needs root, iproute2, wireguard-go and wireguard-tools.

#![allow(unsafe_code)] // unshare, setns, and socket options that have no safe wrapper.

mod home;
mod interop;
mod lifecycle;
mod offload;
mod session;
mod strange;
mod traffic;
