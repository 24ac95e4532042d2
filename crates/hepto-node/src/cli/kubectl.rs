//! `hepto-node kubectl`.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Args;

use super::Target;

/// What `kubectl` takes.
#[derive(Debug, Args)]
pub struct KubectlArgs {
    #[command(flatten)]
    pub target: Target,
    /// kubectl's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}

/// Runs the node's own `k3s kubectl` in the node's namespaces.
pub fn run(_args: KubectlArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
