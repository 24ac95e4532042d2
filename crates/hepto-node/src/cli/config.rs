//! `hepto-node config check|show|diff|fingerprint|schema|default`.

mod diff;

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use crate::config::{self, Config, Report, Severity, Shown};
use crate::fault::Exit;
use crate::{node, schema};

/// What can be done with a configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Check a config file and everything that it names
    Check {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long, conflicts_with = "running")]
        json: bool,
        /// Whether this program could take over the node of a run directory, too (used by a reload)
        #[arg(long, hide = true, value_name = "DIR")]
        running: Option<PathBuf>,
    },
    /// Print the configuration as it is understood, secrets hidden
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Say where two nodes differ in what all nodes of a cluster share
    Diff {
        /// A config file
        file: PathBuf,
        /// Another node's, or the `fingerprint` of one; without it: what runs, as the node of the first file sees it
        other: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what another owner can compare his config with, without any key
    Fingerprint {
        #[command(flatten)]
        file: ConfigFile,
    },
    /// Print the JSON Schema of a config file, for editors
    Schema,
    /// Print a commented configuration to start from
    Default,
}

/// A config file as the command's argument or, as other commands take it, by `--config`.
#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The config file, also by `--config FILE`
    #[arg(required_unless_present = "config")]
    file: Option<PathBuf>,
    #[arg(long, short, value_name = "FILE", conflicts_with = "file", hide = true)]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn path(&self) -> &Path {
        let path = self.file.as_deref().or(self.config.as_deref());
        path.expect("the command line was refused without one")
    }
}

/// Does one of the commands above.
pub fn run(command: ConfigCommand) -> anyhow::Result<ExitCode> {
    match command {
        ConfigCommand::Check {
            file,
            json,
            running: None,
        } => check(file.path(), json),
        ConfigCommand::Check {
            file,
            running: Some(directory),
            ..
        } => takes_over(file.path(), &directory),
        ConfigCommand::Show { file, json } => show(file.path(), json),
        ConfigCommand::Diff { file, other, json } => diff::diff(&file, other.as_deref(), json),
        ConfigCommand::Fingerprint { file } => diff::fingerprint(file.path()),
        ConfigCommand::Schema => print(&(serde_json::to_string_pretty(&schema::config())? + "\n")),
        ConfigCommand::Default => print(config::DEFAULT),
    }
}

fn check(file: &Path, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let checked = Checked::of(file);
        print(&(serde_json::to_string_pretty(&checked)? + "\n"))?;
        return Ok(match checked.good {
            true => ExitCode::SUCCESS,
            false => Exit::BadConfig.into(),
        });
    }
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

/// What `config check --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Checked {
    /// The file, as it was named.
    file: PathBuf,
    /// Whether a node can be run with it.
    good: bool,
    /// The node's name; absent from a file that is refused.
    node: Option<String>,
    /// Everything that was found, in the order of the file.
    findings: Vec<Found>,
}

/// One error or warning.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Found {
    /// `error`, which refuses the file, or `warning`.
    severity: Severity,
    /// The stable code.
    code: &'static str,
    /// What is wrong.
    what: String,
    /// The setting or command that mends it.
    fix: Option<String>,
    /// The line, from 1; absent where there is no place to point at.
    line: Option<usize>,
    /// The character in the line, from 1.
    column: Option<usize>,
}

impl Checked {
    fn of(file: &Path) -> Checked {
        let (node, report) = match config::read(file) {
            Ok((config, report)) => (Some(config.node.name.to_string()), report),
            Err(report) => (None, report),
        };
        let findings = report.diagnostics.iter().map(|found| {
            let place = found
                .span
                .as_ref()
                .map(|span| report.source.place(span.start));
            Found {
                severity: found.severity,
                code: found.code,
                what: found.what.clone(),
                fix: found.fix.clone(),
                line: place.map(|(line, _)| line),
                column: place.map(|(_, column)| column),
            }
        });
        Checked {
            file: file.to_owned(),
            good: node.is_some(),
            node,
            findings: findings.collect(),
        }
    }
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
    complain(&report);
    config.map(|config| (config, report))
}

/// Says what was found in a file, if anything.
fn complain(report: &Report) {
    if !report.diagnostics.is_empty() {
        let styled = io::stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        eprintln!("{}\n", report.render(styled));
        eprintln!("{report}");
    }
}

fn print(text: &str) -> anyhow::Result<ExitCode> {
    super::print(text.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}
