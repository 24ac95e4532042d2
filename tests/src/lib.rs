//! The lab of the end-to-end tests: whole nodes, in homes of their own, on one kernel.
//!
//! A test calls [`isolated`] with what it does; that runs in a process of its own with its own
//! mounts, network and process ids, so that nothing outlives it, also when it fails. Inside, a
//! [`Lab`] is a street with homes (`hepto_net::lab`), a [`Node`] a `hepto-node run` in one of them,
//! and an [`Inventory`] what a home has now, to be compared with what it had before. Tests wait on
//! conditions with [`until`]; none sleeps for luck.
//!
//! This crate speaks to a node as an operator does, by its config file, command line, signals and
//! network, never by its types. Start reading at `node.rs`.

mod capture;
mod filter;
mod inventory;
mod isolate;
mod mirror;
mod node;
mod schema;
mod secret;
mod slow;
mod stand_in;
mod town;
mod wait;

pub use capture::{Capture, Seen};
pub use filter::Filter;
pub use hepto_net::lab::{Echo, Home, LAN, Space, Street, echo, throughput};
pub use inventory::Inventory;
pub use isolate::{directory, isolated, isolated_for};
pub use mirror::{Asked, Fault, Identity, Mirror};
pub use node::{Memory, Node, replace_file};
pub use schema::{fits, fits_schema, schema};
pub use secret::{exposed, readable};
pub use slow::SlowLine;
pub use stand_in::{program_at, stand_in};
pub use town::{Lab, Recipe};
pub use wait::{patience, until, within};
