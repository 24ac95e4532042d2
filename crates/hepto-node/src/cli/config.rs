//! `hepto-node config check|show|default`.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;

use crate::config::{self, Config, Report, Shown};
use crate::fault::Exit;
use crate::node;

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a config file and everything that it names
    Check {
        /// The config file
        file: PathBuf,
        /// Whether this program could take over the node of a run directory, too (used by a reload)
        #[arg(long, hide = true, value_name = "DIR")]
        running: Option<PathBuf>,
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
pub fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check {
            file,
            running: None,
        } => check(&file),
        ConfigCommand::Check {
            file,
            running: Some(directory),
        } => takes_over(&file, &directory),
        ConfigCommand::Show { file, json } => show(&file, json),
        ConfigCommand::Default => print(config::DEFAULT),
    }
}

fn check(file: &Path) -> anyhow::Result<ExitCode> {
    let Some((config, report)) = read(file) else {
        return Ok(Exit::BadConfig.into());
    };
    let warnings = match report.diagnostics.len() {
        0 => String::new(),
        1 => ", with 1 warning".to_owned(),
        number => format!(", with {number} warnings"),
    };
    print(&format!(
        "{} is a good config of the node {}{warnings}\n",
        file.display(),
        config.node.name
    ))
}

/// Says what [`node::can_take_over`] does. The words are for the program that runs.
fn takes_over(file: &Path, run_directory: &Path) -> anyhow::Result<ExitCode> {
    let Some((config, _)) = read(file) else {
        return Ok(Exit::BadConfig.into());
    };
    print(&(node::can_take_over(&config, run_directory)? + "\n"))
}

fn show(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    let Some((config, _)) = read(file) else {
        return Ok(Exit::BadConfig.into());
    };
    let shown = Shown::new(&config);
    if json {
        print(&(serde_json::to_string_pretty(&shown)? + "\n"))
    } else {
        print(&shown.to_toml()?)
    }
}

/// The configuration, after its warnings; or its errors, on standard error.
pub(super) fn read(file: &Path) -> Option<(Config, Report)> {
    let (config, report) = match config::read(file) {
        Ok((config, report)) => (Some(config), report),
        Err(report) => (None, report),
    };
    if !report.diagnostics.is_empty() {
        let styled = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        eprintln!("{}\n", report.render(styled));
        eprintln!("{report}");
    }
    config.map(|config| (config, report))
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    super::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
