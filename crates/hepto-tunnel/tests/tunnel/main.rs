//! Whole tunnels in network namespaces, with real packets. Needs root, iproute2, wireguard-go and wireguard-tools.

mod home;
mod interop;
mod lifecycle;
mod session;
mod traffic;
