//! `hepto-node status` and `hepto-node peers`.

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::status::peers_text;
use crate::target;

/// What `status` takes.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Exit with 3 when the node is not ready
    #[arg(long)]
    pub check: bool,
}

/// What `peers` takes.
#[derive(Debug, Args)]
pub struct PeersArgs {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Prints what the node is doing.
pub fn status(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let Answer::Status(status) = ask(&args.target, Ask::Status)? else {
        bail!("the node answered another question")
    };
    if args.json {
        print_json(&status)?
    } else {
        print!("{}", status.text())
    }
    let not_ready = args.check && !status.ready;
    Ok(if not_ready {
        Exit::NotReady.into()
    } else {
        ExitCode::SUCCESS
    })
}

/// Prints the other nodes.
pub fn peers(args: PeersArgs) -> anyhow::Result<ExitCode> {
    let Answer::Peers(peers) = ask(&args.target, Ask::Peers)? else {
        bail!("the node answered another question")
    };
    match args.json {
        true => print_json(&peers)?,
        false if peers.is_empty() => println!(
            "no other node is known yet; `hepto-node status` says whether an anchor answers"
        ),
        false => print!("{}", peers_text(&peers)),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value)?);
    Ok(())
}

fn ask(target: &Target, ask: Ask) -> anyhow::Result<Answer> {
    let run_directory = target::resolve(target)?;
    let mut client = Client::connect(&run_directory.path).map_err(|error| {
        Fault::new(
            "E-NOT-RUNNING",
            format!(
                "no node answers in {}: {error}",
                run_directory.path.display()
            ),
        )
        .fix("start it: hepto-node run --config FILE, or its systemd unit; as root")
        .exit(Exit::NotReady)
    })?;
    client.ask(ask)
}
