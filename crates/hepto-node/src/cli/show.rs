//! `hepto-node status` and `hepto-node peers`.

use std::process::ExitCode;

use clap::Args;

use super::Target;

/// What `status` takes.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Exit with 3 when the node is not ready
    #[arg(long)]
    pub check: bool,
}

/// What `peers` takes.
#[derive(Debug, Args)]
pub struct PeersArgs {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what the node is doing.
pub fn status(_args: StatusArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}

/// Prints the other nodes.
pub fn peers(_args: PeersArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
