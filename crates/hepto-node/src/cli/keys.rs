//! `hepto-node keys generate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

/// What can be done with keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a key of 32 letters and digits
    Generate {
        /// Which of the two keys
        kind: KeyKind,
        /// Where to write it (mode 0600); printed when absent
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// The cluster's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum KeyKind {
    /// Secures the mesh
    Overlay,
    /// Secures the first access of k3s agents to the master
    Cluster,
}

/// Does one of the commands above.
pub fn run(_command: KeysCommand) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
