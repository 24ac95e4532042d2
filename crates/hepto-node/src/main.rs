//! `hepto-node`: one binary per node of a home-hosted Kubernetes cluster.
//!
//! This crate alone knows the three libraries (`hepto-net`, `hepto-tunnel`, `hepto-mesh`) and joins
//! them; what passes between them is plain data. It never parses a packet and never speaks netlink.
//! Start reading at `cli/run.rs`, then `node.rs`.

mod cli;
mod config;
mod fault;
#[allow(dead_code)] // joined by node.rs
mod k3s;
mod secret;
// The public rooms of the sandbox are used by `node.rs` and `k3s`.
mod sandbox;
mod target;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
