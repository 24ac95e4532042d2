//! `hepto-node status` and `hepto-node peers`.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::status::{Status, peers_text};
use crate::target;

/// How often `status --watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

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
    /// Show it anew every second until Ctrl-C; off a terminal, only when it changes
    #[arg(long, conflicts_with_all = ["json", "check"])]
    pub watch: bool,
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
    if args.watch {
        return watch(&args.target);
    }
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

/// Prints the report anew, until it is interrupted or nobody reads it. A node that stops may come back.
fn watch(target: &Target) -> anyhow::Result<ExitCode> {
    // A name that no node has is told at once.
    target::resolve(target)?;
    let is_terminal = io::stdout().is_terminal();
    let mut shown = String::new();
    loop {
        let (text, lasting) = match ask(target, Ask::Status) {
            Ok(Answer::Status(status)) => (status.text(), lasting(*status)?),
            Ok(_) => bail!("the node answered another question"),
            Err(error) => (format!("{error}\n"), error.to_string()),
        };
        let told = match is_terminal {
            true => screen(&text),
            false if lasting != shown => format!("{text}\n"),
            false => String::new(),
        };
        let written = io::stdout().write_all(told.as_bytes());
        match written.and_then(|()| io::stdout().flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            written => written?,
        }
        shown = lasting;
        thread::sleep(WATCH_EVERY);
    }
}

/// Home, the text with each line cleared behind itself, then everything below cleared: no flicker.
fn screen(text: &str) -> String {
    format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// The report without what changes by itself: times and counts.
fn lasting(mut status: Status) -> anyhow::Result<String> {
    status.uptime_s = 0;
    status.mesh.refused.clear();
    if let Some(k3s) = &mut status.k3s {
        k3s.since_s = 0;
    }
    Ok(serde_json::to_string(&status)?)
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

pub(super) fn ask(target: &Target, ask: Ask) -> anyhow::Result<Answer> {
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
