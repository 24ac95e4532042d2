//! `hepto-node demo`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

/// What `demo` takes.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// How many homes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    pub nodes: u8,
    /// A k3s binary to supervise in each home
    #[arg(long, value_name = "PATH")]
    pub k3s: Option<PathBuf>,
    /// Cut one home off, show the loss, heal it, show the return
    #[arg(long = "break")]
    pub cut: bool,
    /// Leave everything running at the end
    #[arg(long)]
    pub keep: bool,
}

/// Shows the main job on this machine alone.
pub fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    crate::demo::run(&args)
}
