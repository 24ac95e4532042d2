//! `hepto-node diagnose`.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;

use super::{Target, print};
use crate::diagnose;
use crate::fault::Fault;

/// What `diagnose` takes.
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    #[command(flatten)]
    pub target: Target,
    /// Write it to a new file, to be sent to a friend, in place of printing it
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
}

/// Prints all that helps to find out what is wrong, or writes it to a file. Plain text, so that people can read what
/// they send.
pub fn run(args: DiagnoseArgs) -> anyhow::Result<ExitCode> {
    let report = diagnose::report(&args.target)?;
    match &args.bundle {
        None => print(report.as_bytes())?,
        Some(path) => {
            write(path, &report).map_err(|error| {
                let what = format!("cannot write {}: {error}", path.display());
                Fault::new("E-DIAGNOSE-FILE", what)
                    .fix("name a file that does not exist yet, on a disk that is not full")
            })?;
            eprintln!(
                "wrote {}: plain text without keys, but with addresses, names and log lines; read it before you send it",
                path.display()
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(path: &Path, report: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(report.as_bytes())?;
    file.sync_all()
}
