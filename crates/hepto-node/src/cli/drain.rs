//! `hepto-node drain` and `hepto-node uncordon`.

use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::k3s::drain::{self, By, Drained};
use crate::k3s::ready;
use crate::state::Record;
use crate::target;
use crate::{k3s, sandbox};

/// What `drain` takes.
#[derive(Debug, Args)]
pub struct DrainArgs {
    #[command(flatten)]
    pub target: Target,
    /// How long pods may take to go, as 90s, 5m or 1h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// What `uncordon` takes.
#[derive(Debug, Args)]
pub struct UncordonArgs {
    #[command(flatten)]
    pub target: Target,
}

/// Has no new pods come, and asks those that are there to go elsewhere.
pub fn drain(args: DrainArgs) -> anyhow::Result<ExitCode> {
    let (name, node) = enter(&args.target)?;
    let tell = |pod: &str| eprintln!("{pod} is asked to go");
    let deadline = Instant::now() + args.timeout;
    let Drained { gone, left, bare } =
        drain::drain(&node, By::Owner, deadline, &tell).map_err(Fault::from)?;
    for pod in &bare {
        eprintln!("{pod} stays: nobody would make it anew");
    }
    if left.is_empty() {
        eprintln!(
            "{name} is drained, {} pods are gone; hepto-node uncordon lets pods come again",
            gone.len()
        );
        return Ok(ExitCode::SUCCESS);
    }
    let left: Vec<String> = left
        .iter()
        .map(|(pod, why)| format!("{pod}: {why}"))
        .collect();
    let seconds = args.timeout.as_secs();
    let what = format!(
        "not all pods have gone within {seconds} s:\n  {}",
        left.join("\n  ")
    );
    Err(Fault::new("E-DRAIN-LEFT", what)
        .fix("wait and run it again; no new pods come meanwhile, until hepto-node uncordon")
        .into())
}

/// Lets pods come again.
pub fn uncordon(args: UncordonArgs) -> anyhow::Result<ExitCode> {
    let (name, node) = enter(&args.target)?;
    drain::uncordon(&node).map_err(Fault::from)?;
    eprintln!("{name} takes pods again");
    Ok(ExitCode::SUCCESS)
}

/// Finds the node and enters its network, from where its API server is reached; its name, and whom to ask.
fn enter(target: &Target) -> anyhow::Result<(String, ready::Target)> {
    let run = target::running(target)?;
    let absent = |why: String| {
        let fault = Fault::new("E-DRAIN-ABSENT", format!("{} {why}", run.name()));
        fault
            .fix("start it, and wait until k3s is ready")
            .exit(Exit::NotReady)
    };
    let connected = Client::connect(&run.path);
    let mut client = connected.map_err(|error| absent(format!("does not run: {error}")))?;
    let Answer::Status(status) = client.ask(Ask::Status)? else {
        anyhow::bail!("the node answers something else than its status");
    };
    if status.k3s.is_none() {
        return Err(absent("runs no k3s".into()).into());
    }
    let record = Record::read(&run.path).ok_or_else(|| absent("has no record".into()))?;
    let role = match status.role.as_str() {
        "master" => k3s::Role::Server,
        _ => k3s::Role::Agent,
    };
    let overlay = status
        .mesh
        .addresses
        .iter()
        .find(|address| address.is_ipv4());
    let bound = overlay.filter(|_| status.network.firewall == "off");
    let node = ready::Target::new(
        role,
        record.node,
        &record.directory,
        bound.copied().unwrap_or(Ipv4Addr::LOCALHOST.into()),
    );
    let entered = sandbox::enter_network(&run.namespace(), &run.path);
    entered.map_err(super::exec::fault)?;
    Ok((run.name(), node))
}
