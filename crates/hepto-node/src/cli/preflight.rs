//! `hepto-node preflight`.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::config;
use crate::fault::Exit;
use crate::preflight::{self, Report};

/// What `preflight` takes.
#[derive(Debug, Args)]
pub struct PreflightArgs {
    /// The node's config file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Tries everything that a node of this config needs; 1 when it cannot run here, 78 when the config is refused.
pub fn run(args: PreflightArgs) -> anyhow::Result<ExitCode> {
    let (report, refused) = match config::read(&args.config) {
        Err(report) => (Report::refused(&report.diagnostics), Exit::BadConfig),
        Ok((config, warnings)) => {
            if io::stderr().is_terminal() {
                eprintln!(
                    "trying what {} needs; this takes ten to thirty seconds",
                    config.node.name
                );
            }
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let report = runtime.block_on(preflight::run(&config, &warnings.diagnostics));
            // A resolver that is still waited for is not.
            runtime.shutdown_background();
            (report, Exit::Failed)
        }
    };
    match args.json {
        true => println!("{}", serde_json::to_string_pretty(&report)?),
        false => print!("{}", report.text()),
    }
    Ok(if report.passed {
        ExitCode::SUCCESS
    } else {
        refused.into()
    })
}
