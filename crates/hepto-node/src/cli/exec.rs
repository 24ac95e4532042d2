//! `hepto-node exec`, and the hidden commands that build what it enters.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::Target;

/// What `exec` takes.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub target: Target,
    /// The node's network, hosts and resolv.conf alone, with the host's files and processes
    #[arg(long)]
    pub net: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// What the hidden commands take: their settings arrive on a descriptor.
#[derive(Debug, Args)]
pub struct InnerArgs {
    /// The inherited descriptor that carries the settings
    #[arg(long)]
    pub fd: i32,
}

/// Runs a command in the node's namespaces and gives its exit code.
pub fn run(_args: ExecArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

/// Builds the sandbox, starts init in it, and exits.
pub fn sandbox(_args: InnerArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

/// PID 1 of the node.
pub fn init(_args: InnerArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
