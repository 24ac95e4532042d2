//! `hepto-node run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What `run` takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The node's config file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// How log lines look; journald fields are used under systemd
    #[arg(long, value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Journald under systemd, text elsewhere
    Auto,
    /// One line of text each
    Text,
    /// One JSON object each
    Json,
}

/// Runs the node until it is told to stop.
pub fn run(_args: RunArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built yet")
}
