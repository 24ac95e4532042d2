//! `hepto-node pause` and `hepto-node resume`.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::target::{self, RunDirectory};

/// Longer than any drain and what follows it.
const LIMIT: Duration = Duration::from_secs(300);

/// What both take.
#[derive(Debug, Args)]
pub struct PauseArgs {
    #[command(flatten)]
    pub target: Target,
}

/// Ends k3s and its pods until `resume`.
pub fn pause(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let node = target::running(&args.target)?;
    let mut client = connect(&node)?;
    eprintln!("{}: k3s and its pods are ending", node.name());
    match client.ask_within(Ask::Pause, LIMIT)? {
        Answer::Paused => eprintln!(
            "{} is paused, also over restarts; the mesh stays up. hepto-node resume ends it",
            node.name()
        ),
        answer => return Err(refused(answer)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Lets k3s start again.
pub fn resume(args: PauseArgs) -> anyhow::Result<ExitCode> {
    let node = target::running(&args.target)?;
    match connect(&node)?.ask(Ask::Resume)? {
        Answer::Resumed => eprintln!(
            "{} resumes; hepto-node wait says when it is ready",
            node.name()
        ),
        answer => return Err(refused(answer)),
    }
    Ok(ExitCode::SUCCESS)
}

fn refused(answer: Answer) -> anyhow::Error {
    match answer {
        // With its code.
        Answer::Refused(why) => anyhow::anyhow!("{why}"),
        answer => anyhow::anyhow!("the node answers something else: {answer:?}"),
    }
}

fn connect(node: &RunDirectory) -> Result<Client, Fault> {
    Client::connect(&node.path).map_err(|error| match error.kind() {
        ErrorKind::PermissionDenied => {
            Fault::new("E-STOP-ROOT", format!("only root pauses a node: {error}"))
                .fix("run it as root")
                .exit(Exit::NoPermission)
        }
        _ => Fault::new(
            "E-PAUSE-ABSENT",
            format!("{} does not run: {error}", node.name()),
        )
        .fix("start it; one that is paused stays so")
        .exit(Exit::NotReady),
    })
}
