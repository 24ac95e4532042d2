//! `hepto-node config check|show|default`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Subcommand;

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a config file and everything that it names
    Check {
        /// The config file
        file: PathBuf,
    },
    /// Print the configuration as it is understood, secrets hidden
    Show {
        /// The config file
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a commented configuration to start from
    Default,
}

/// Does one of the commands above.
pub fn run(_command: ConfigCommand) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
