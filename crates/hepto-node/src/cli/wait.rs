//! `hepto-node wait`: blocks until a node is where a script needs it.

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::{Args, ValueEnum};

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::status::Status;
use crate::target;

/// How often the node is asked.
const EVERY: Duration = Duration::from_millis(250);

/// What can be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Goal {
    /// Another node is reached; for the only anchor of its cluster: the node runs
    Mesh,
    /// k3s serves
    K3s,
    /// All that the node is configured to do is done
    Ready,
}

/// What `wait` takes.
#[derive(Debug, Args)]
pub struct WaitArgs {
    #[command(flatten)]
    pub target: Target,
    /// What to wait for
    #[arg(long = "for", value_enum, value_name = "GOAL", default_value = "ready")]
    pub goal: Goal,
    /// The longest time to wait, as 90s, 5m or 1h
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = humantime::parse_duration)]
    pub timeout: Duration,
}

/// Waits; also for a node that does not run yet.
///
/// # Errors
/// `E-WAIT-TIMEOUT` (exit code 3) when the time is over; what can never come true at once.
pub fn run(args: WaitArgs) -> anyhow::Result<ExitCode> {
    let until = Instant::now() + args.timeout;
    loop {
        let missing = match observe(&args.target) {
            Ok(status) => match missing(args.goal, &status)? {
                None => return Ok(ExitCode::SUCCESS),
                Some(missing) => missing,
            },
            Err(absent) => absent.to_string(),
        };
        if Instant::now() >= until {
            let what = format!("still not after {} s: {missing}", args.timeout.as_secs());
            return Err(Fault::new("E-WAIT-TIMEOUT", what)
                .fix("hepto-node status says more; --timeout sets a longer time")
                .exit(Exit::NotReady)
                .into());
        }
        thread::sleep(EVERY.min(until.saturating_duration_since(Instant::now())));
    }
}

/// The node's report, or why there is none yet.
fn observe(target: &Target) -> anyhow::Result<Status> {
    let run_directory = target::resolve(target)?;
    let Ok(mut client) = Client::connect(&run_directory.path) else {
        bail!("{} does not run", run_directory.name())
    };
    match client.ask(Ask::Status)? {
        Answer::Status(status) => Ok(*status),
        _ => bail!("the node answered another question"),
    }
}

/// What is missing for the goal, in words; `None` when it is reached.
fn missing(goal: Goal, status: &Status) -> Result<Option<String>, Fault> {
    let mesh = &status.mesh;
    // Each anchor is this very node: nobody else is to be met.
    let is_alone = mesh.members == 1 && mesh.anchors.iter().all(|anchor| anchor.answers.is_none());
    Ok(match goal {
        Goal::Mesh if mesh.reachable > 1 || is_alone => None,
        Goal::Mesh => Some(format!(
            "no other node is reached, of {} known",
            mesh.members - 1
        )),
        Goal::K3s => match &status.k3s {
            Some(k3s) if k3s.ready => None,
            Some(k3s) => Some(match &k3s.detail {
                Some(detail) => format!("k3s is {}: {detail}", k3s.state),
                None => format!("k3s is {}", k3s.state),
            }),
            None => {
                let what = format!("{} runs no k3s: it will never serve", status.node);
                return Err(Fault::new("E-WAIT-NO-K3S", what)
                    .fix("wait with --for mesh or --for ready, or set k3s.enabled = true"));
            }
        },
        Goal::Ready if status.ready => None,
        Goal::Ready if status.k3s.as_ref().is_some_and(|k3s| !k3s.ready) => {
            missing(Goal::K3s, status)?
        }
        Goal::Ready => Some(format!("the uplink is {}", status.network.uplink.state)),
    })
}
