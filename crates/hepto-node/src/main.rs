//! `hepto-node`: one binary per node of a home-hosted Kubernetes cluster.
//!
//! This crate alone knows the three libraries (`hepto-net`, `hepto-tunnel`, `hepto-mesh`) and joins
//! them; what passes between them is plain data. It never parses a packet and never speaks netlink.
//! Start reading at `cli/run.rs`, then `node.rs`.

mod cli;
mod config;
mod control;
mod demo;
mod diagnose;
mod fault;
mod inventory;
mod k3s;
mod log;
mod metrics;
mod node;
mod peers;
mod preflight;
mod probe;
mod quality;
mod sandbox;
mod schema;
mod secret;
mod snapshot;
mod state;
mod status;
mod survey;
mod target;
mod uapi;
mod uninstall;

use std::process::ExitCode;

// The benchmark's ceiling leaves the cipher out. No node is ever built that way.
const _: () = assert!(
    hepto_tunnel::ENCRYPTS,
    "hepto-node cannot be built with hepto-tunnel's feature without-crypto"
);

fn main() -> ExitCode {
    cli::main()
}
