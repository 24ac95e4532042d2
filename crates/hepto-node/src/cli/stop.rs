//! `hepto-node stop`.

use std::process::ExitCode;

use clap::Args;

use super::Target;

/// What `stop` takes.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub target: Target,
}

/// Stops the node and waits for its end; cleans up after one that died.
pub fn run(_args: StopArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
