//! The guides, walked as they stand: homes behind routers of their own, and the code blocks of a page in its order.
//!
//! Said otherwise than in the guides: the binary comes from the test's build and not from `make static`, the mode is macvlan
//! where the kernel has no ipvlan, `systemctl` is a script that starts a node as the unit does (`make vm` has the
//! real one), and k3s is off (it is tried in `tests/k3s`).

mod first_cluster;
mod friend;
mod page;
mod short;
