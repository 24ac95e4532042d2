//! The command line: what each command takes, and nothing of what it does.

mod config;
mod demo;
mod diagnose;
mod drain;
mod exec;
mod guard;
mod import;
mod k3s;
mod keys;
mod kubectl;
mod manual;
mod mtu;
mod pause;
mod ping;
mod preflight;
mod reload;
mod restore;
mod run;
mod show;
mod snapshot;
mod stop;
mod uninstall;
mod wait;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use crate::fault::{Exit, Fault};
#[cfg(test)]
pub use config::Checked;
pub use demo::DemoArgs;
#[cfg(test)]
pub use ping::Pinged;
#[cfg(test)]
pub use snapshot::Row;

/// One node of a home-hosted Kubernetes cluster: network namespace, WireGuard mesh, supervised k3s.
#[derive(Debug, Parser)]
#[command(name = "hepto-node", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node in the foreground until it is told to stop
    Run(run::RunArgs),
    /// Check, show or write a configuration
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Try everything that a node needs here, before it is started
    Preflight(preflight::PreflightArgs),
    /// Make the cluster's keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Bring k3s to this machine beforehand
    #[command(subcommand)]
    K3s(k3s::K3sCommand),
    /// Turn the guide's Ansible inventory into config files and keys
    ImportInventory(import::ImportArgs),
    /// Make a snapshot of the master, or list what lies here
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    /// Bring a master up here from a snapshot, under the same name
    Restore(restore::RestoreArgs),
    /// What this node is doing, and what is wrong
    Status(show::StatusArgs),
    /// The other nodes, as this one reaches them
    Peers(show::PeersArgs),
    /// Whether another node answers through the tunnel, and by which way
    Ping(ping::PingArgs),
    /// How much a packet to each other node holds, and which MTU the cluster could agree on
    Mtu(mtu::MtuArgs),
    /// Wait until the mesh is up, k3s serves, or the node is ready
    Wait(wait::WaitArgs),
    /// Gather all that helps to find out what is wrong, without any key
    Diagnose(diagnose::DiagnoseArgs),
    /// Run a command in the node's namespaces
    Exec(exec::ExecArgs),
    /// Run kubectl against this node's cluster (on the master)
    Kubectl(kubectl::KubectlArgs),
    /// Take up a changed config or a newly installed hepto-node; pods run on
    Reload(reload::ReloadArgs),
    /// End k3s and its pods until `resume`, also over restarts; the mesh stays up
    Pause(pause::PauseArgs),
    /// Start k3s again after `pause`
    Resume(pause::PauseArgs),
    /// Have no new pods come, and those that are there go to other nodes
    Drain(drain::DrainArgs),
    /// Let pods come again after `drain`
    Uncordon(drain::UncordonArgs),
    /// Stop the node: k3s, pods, mesh and namespace
    Stop(stop::StopArgs),
    /// Take the node off this machine
    Uninstall(uninstall::UninstallArgs),
    /// Three homes on this machine, for a first look
    Demo(demo::DemoArgs),
    /// Print the shell's completions
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write all of them
    Man(manual::ManArgs),
    /// Build the sandbox of a node (used by `run`)
    #[command(hide = true)]
    Sandbox,
    /// PID 1 of a node (used by `sandbox`)
    #[command(hide = true)]
    Init,
    /// Take the node back if the program that a reload executes fails (used by `reload`)
    #[command(hide = true)]
    Guard(guard::GuardArgs),
}

/// Which node a command speaks to: by its config file, or by name where it runs.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// The node's config file
    #[arg(long, short, value_name = "FILE", conflicts_with = "node")]
    pub config: Option<PathBuf>,
    /// The running node, `CLUSTER.NODE` or `NODE`; not needed where only one runs
    #[arg(long, short, value_name = "NAME")]
    pub node: Option<String>,
}

/// Prints to standard output. Whoever reads no further, as `head` does, has what he wanted.
fn print(text: &[u8]) -> io::Result<()> {
    match io::stdout().write_all(text) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// Parses the command line, does the command, reports its error, gives its exit code.
pub fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Run(args) => run::run(args),
        Command::Config(command) => config::run(command),
        Command::Keys(command) => keys::run(command),
        Command::K3s(command) => k3s::run(command),
        Command::ImportInventory(args) => import::run(args),
        Command::Snapshot(command) => snapshot::run(command),
        Command::Restore(args) => restore::run(args),
        Command::Status(args) => show::status(args),
        Command::Peers(args) => show::peers(args),
        Command::Ping(args) => ping::run(args),
        Command::Mtu(args) => mtu::run(args),
        Command::Diagnose(args) => diagnose::run(args),
        Command::Exec(args) => exec::run(args),
        Command::Kubectl(args) => kubectl::run(args),
        Command::Reload(args) => reload::run(args),
        Command::Pause(args) => pause::pause(args),
        Command::Resume(args) => pause::resume(args),
        Command::Drain(args) => drain::drain(args),
        Command::Uncordon(args) => drain::uncordon(args),
        Command::Stop(args) => stop::run(args),
        Command::Uninstall(args) => uninstall::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Preflight(args) => preflight::run(args),
        Command::Wait(args) => wait::run(args),
        Command::Completions(args) => manual::completions(Cli::command(), &args),
        Command::Man(args) => manual::man(Cli::command(), args),
        Command::Sandbox => exec::sandbox(),
        Command::Init => exec::init(),
        Command::Guard(args) => guard::run(args),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            // A closed pipe on the other side of our output is not worth a second error.
            eprintln!("error: {error:#}");
            error
                .downcast_ref::<Fault>()
                .map_or(Exit::Failed, |fault| fault.exit)
                .into()
        }
    }
}
