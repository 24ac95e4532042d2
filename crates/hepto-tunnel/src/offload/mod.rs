//! Fewer trips into the kernel: large packets through the TUN, trains of datagrams through the socket.
//!
//! Outwards, the kernel gives a TCP or UDP burst as one packet, which `segment` cuts. Inwards, `coalesce` joins what
//! belongs together and the kernel takes it as one. [`ladder`] knows which of this the kernel at hand can do.

pub(crate) mod checksum;
pub(crate) mod coalesce;
pub(crate) mod header;
pub mod ladder;
pub(crate) mod limit;
pub(crate) mod segment;

#[cfg(test)]
pub(crate) mod flow;
