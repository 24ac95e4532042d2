//! `hepto-node snapshot now|list`.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use schemars::JsonSchema;
use serde::Serialize;

use super::Target;
use crate::control::Client;
use crate::fault::{Exit, Fault};
use crate::snapshot::shelf::{Kept, Shelf};
use crate::snapshot::take::Job;
use crate::state::{self, Record};
use crate::target;

/// A large datastore on a slow card.
const LIMIT: Duration = Duration::from_secs(1800);

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Make one now, also of a master that is stopped
    Now(NowArgs),
    /// Those that this node keeps: its own on the master, the master's on an agent
    List(ListArgs),
}

/// What `snapshot now` takes.
#[derive(Debug, Args)]
pub struct NowArgs {
    #[command(flatten)]
    pub target: Target,
    /// Also put it into this file, which must not exist
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// What `snapshot list` takes.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Does one of the commands above.
pub fn run(command: SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Now(args) => now(args),
        SnapshotCommand::List(args) => list(args),
    }
}

fn now(args: NowArgs) -> anyhow::Result<ExitCode> {
    let path = match running(&args.target)? {
        Some((client, directory)) => {
            let kept = match client.snapshot(LIMIT)? {
                Ok(kept) => kept,
                // With its code.
                Err(why) => anyhow::bail!("{why}"),
            };
            Shelf::of(&directory).path(&kept.name)
        }
        None => stopped(&args.target)?,
    };
    if let Some(out) = &args.out {
        copy(&path, out)?;
    }
    writeln!(io::stdout(), "{}", args.out.unwrap_or(path).display())?;
    Ok(ExitCode::SUCCESS)
}

/// The node's control socket and folder, if it runs.
fn running(target: &Target) -> anyhow::Result<Option<(Client, PathBuf)>> {
    let run_directory = match target::running(target) {
        Ok(found) => found,
        Err(fault) if fault.code == "E-TARGET-NONE" && target.config.is_some() => return Ok(None),
        Err(fault) => return Err(fault.into()),
    };
    match Client::connect(&run_directory.path) {
        Ok(client) => {
            Ok(Record::read(&run_directory.path).map(|record| (client, record.directory)))
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let what = format!("only root makes snapshots: {error}");
            let fault = Fault::new("E-SNAPSHOT-ROOT", what).fix("run it as root");
            Err(fault.exit(Exit::NoPermission).into())
        }
        Err(_) => Ok(None),
    }
}

/// Makes one of a node that does not run.
fn stopped(target: &Target) -> anyhow::Result<PathBuf> {
    let Some(config) = &target.config else {
        let fault = Fault::new("E-SNAPSHOT-STOPPED", "the node does not run");
        let fault = fault.fix("name its config file: hepto-node snapshot now --config FILE");
        return Err(fault.exit(Exit::NotReady).into());
    };
    let Some((config, _)) = super::config::read(config) else {
        let what = format!("{} cannot be used", config.display());
        return Err(Fault::new("E-SNAPSHOT-STOPPED", what)
            .exit(Exit::BadConfig)
            .into());
    };
    let Some(job) = Job::new(&config)? else {
        let what = format!("{} is no master that runs k3s", config.node.name);
        return Err(Fault::new("E-SNAPSHOT-AGENT", what)
            .fix("run it on the master's machine")
            .into());
    };
    if !job.directory.exists() {
        let what = format!("{} does not exist", job.directory.display());
        return Err(Fault::new("E-SNAPSHOT-STOPPED", what)
            .fix("check node.storage")
            .into());
    }
    // Held to the end, so that nobody starts it meanwhile.
    let _lock = state::lock(&job.directory)?;
    let kept = job.take()?;
    Ok(job.shelf().path(&kept.name))
}

fn copy(from: &Path, to: &Path) -> Result<(), Fault> {
    use std::os::unix::fs::OpenOptionsExt;
    let copied = || {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(to)?;
        io::copy(&mut std::fs::File::open(from)?, &mut file)?;
        file.sync_all()
    };
    copied().map_err(|error| {
        let what = format!("cannot write {}: {error}", to.display());
        Fault::new("E-SNAPSHOT-WRITE", what)
            .fix(format!("the snapshot itself lies at {}", from.display()))
    })
}

/// One of `snapshot list --json`.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Row {
    #[serde(flatten)]
    kept: Kept,
    /// Where it lies.
    path: PathBuf,
}

fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let directory = match running(&args.target)? {
        Some((_, directory)) => directory,
        None => match args.target.config.as_deref().and_then(super::config::read) {
            Some((config, _)) => config.node_directory(),
            None => {
                let fault = Fault::new("E-SNAPSHOT-STOPPED", "the node does not run");
                let fault =
                    fault.fix("name its config file: hepto-node snapshot list --config FILE");
                return Err(fault.exit(Exit::NotReady).into());
            }
        },
    };
    let shelf = Shelf::of(&directory);
    let rows = shelf.list().into_iter().map(|kept| Row {
        path: shelf.path(&kept.name),
        kept,
    });
    let rows: Vec<Row> = rows.collect();
    let mut output = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut output, &rows)?;
        writeln!(output)?;
    } else if rows.is_empty() {
        writeln!(output, "no snapshots in {}", shelf.path("").display())?;
    } else {
        for row in rows {
            writeln!(
                output,
                "{:>12} bytes  {}",
                row.kept.size,
                row.path.display()
            )?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
