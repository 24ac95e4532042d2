//! `hepto-node demo`: homes on a bridge of this machine, a real node in each, and what they can do.
//!
//! Everything is made in namespaces of the demo's own (`hepto_net::lab`), so that nothing of the
//! host changes; what is made goes with [`Town`], in whatever way the demo ends.

mod interrupt;
mod measure;
mod neighbour;
mod program;
mod progress;
mod town;

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::Duration;

use nix::unistd::geteuid;

use crate::cli::DemoArgs;
use crate::fault::{Exit, Fault};
use interrupt::Interrupt;
use progress::{Progress, tell};
use town::Town;

/// For how long the throughput is measured.
const STREAM: Duration = Duration::from_secs(3);

/// What the shell gives for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Builds, shows, breaks, heals and removes.
pub fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    if !geteuid().is_root() {
        let fault = Fault::new(
            "E-DEMO-ROOT",
            "the demo builds network namespaces, which only root may do",
        );
        return Err(fault
            .fix("sudo hepto-node demo")
            .exit(Exit::NoPermission)
            .into());
    }
    let interrupt = Interrupt::watch()?;
    match show(args, &interrupt) {
        Err(_) if interrupt.came() => Ok(ExitCode::from(INTERRUPTED)),
        // With its code, and what mends it.
        Err(error) => match error.downcast::<hepto_net::lab::Error>() {
            Ok(error) => Err(Fault::from(error).into()),
            Err(error) => Err(error),
        },
        shown => shown,
    }
}

fn show(args: &DemoArgs, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    let mut town = Town::open(args.k3s.as_deref())?;
    // Made later and so gone earlier: its line is no longer drawn when the town says how it ended.
    let progress = Progress::new();
    town.build(args.nodes.into(), &progress, interrupt)?;
    town.start()?;
    town.await_mesh(&progress, interrupt)?;
    if args.k3s.is_some() {
        town.await_k3s(&progress, interrupt)?;
    }
    let reach = measure::reach(&town, &progress, interrupt)?;
    progress.step("measuring throughput", 1);
    let stream = measure::stream(&town, STREAM)?;
    progress.done();

    tell(&town.introduction())?;
    tell(&reach)?;
    tell(&stream)?;
    if args.cut {
        measure::cut_and_heal(&town, interrupt)?;
    }
    interrupt.check()?;
    if args.keep {
        tell(&town.directions())?;
        tell(&format!("To end it all: {}", town.keep()))?;
    } else if io::stdout().is_terminal() {
        tell(&town.directions())?;
        tell("Ctrl-C ends it all and leaves nothing behind.")?;
        interrupt.wait();
    }
    Ok(ExitCode::SUCCESS)
}
