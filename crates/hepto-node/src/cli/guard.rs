//! The hidden command that stands guard over a reload.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::log::{self, LogFormat};
use crate::node::Successor;
use crate::node::guard::{Orders, keep};

/// What `guard` takes: what the node was started with, and what it watches.
#[derive(Debug, Args)]
pub struct GuardArgs {
    /// The node's config file
    #[arg(long)]
    pub config: PathBuf,
    /// How log lines look
    #[arg(long, value_enum)]
    pub log_format: LogFormat,
    /// Where the node's program is installed
    #[arg(long)]
    pub program: PathBuf,
    /// The node's process
    #[arg(long)]
    pub process: i32,
    /// The version that is about to run in it
    #[arg(long)]
    pub version_on_trial: String,
    /// Whether this is nobody's child any more
    #[arg(long)]
    pub detached: bool,
}

/// Stands guard until the program on trial has proved itself, or takes the node back.
pub fn run(args: GuardArgs) -> anyhow::Result<ExitCode> {
    // The config may be one that only the program on trial understands.
    log::start(args.log_format, None)?;
    let orders = Orders {
        process: args.process,
        version: args.version_on_trial,
        successor: Successor::of(args.program, &args.config, args.log_format.name()),
    };
    Ok(keep(&orders, args.detached)?)
}
