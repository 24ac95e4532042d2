//! `hepto-node exec`, and the hidden commands that build what it enters.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitCode, ExitStatus};

use clap::Args;
use nix::sys::signal::{SigHandler, Signal, signal};

use super::Target;
use crate::control::{Answer, Ask, Client};
use crate::fault::{Exit, Fault};
use crate::sandbox;
use crate::target::{self, RunDirectory};

/// What `exec` takes.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub target: Target,
    /// The node's network, hosts, resolv.conf and tunnel socket alone, with the host's files and processes
    #[arg(long)]
    pub net: bool,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<OsString>,
}

/// Runs a command in the node's namespaces and gives its exit code.
pub fn run(args: ExecArgs) -> anyhow::Result<ExitCode> {
    let node = target::resolve(&args.target)?;
    let (program, arguments) = args
        .command
        .split_first()
        .ok_or_else(|| Fault::new("E-EXEC-COMMAND", "no command was given"))?;
    if args.net || has_no_workload(&node) {
        return in_network(&node, program, arguments);
    }
    if sandbox::programs(&node.path).is_err() {
        let what = format!(
            "the node {} has no namespaces of its own but the network (k3s has not started, or the node is dead)",
            node.name()
        );
        return Err(Fault::new("E-EXEC-NO-SANDBOX", what)
            .fix("run it there: hepto-node exec --net -- COMMAND")
            .into());
    }
    inside(&node, program, arguments, &[])
}

/// Whether a node runs whose k3s is off: then its network is all that there is to enter.
fn has_no_workload(node: &RunDirectory) -> bool {
    let asked = Client::connect(&node.path).map_err(anyhow::Error::from);
    let answer = asked.and_then(|mut client| client.ask(Ask::Status));
    matches!(answer, Ok(Answer::Status(status)) if status.k3s.is_none())
}

/// The command takes this process's place, in the node's network.
fn in_network(
    node: &RunDirectory,
    program: &OsStr,
    arguments: &[OsString],
) -> anyhow::Result<ExitCode> {
    if !node.namespace().exists() {
        return Err(Fault::new(
            "E-EXEC-NO-NETWORK",
            format!("the node {} does not run", node.name()),
        )
        .fix("start it: hepto-node run --config FILE")
        .into());
    }
    sandbox::enter_network(&node.namespace(), &node.path).map_err(fault)?;
    Err(not_run(program, &Command::new(program).args(arguments).exec()).into())
}

/// Runs a program in all of a node's namespaces, with the node's environment, TERM and `variables`.
pub(super) fn inside(
    node: &RunDirectory,
    program: &OsStr,
    arguments: &[OsString],
    variables: &[(&str, &str)],
) -> anyhow::Result<ExitCode> {
    sandbox::enter(&node.path).map_err(fault)?;
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(sandbox::environment())
        .envs(variables.iter().copied())
        .current_dir("/");
    if let Some(term) = std::env::var_os("TERM") {
        command.env("TERM", term);
    }
    let mut child = command.spawn().map_err(|error| not_run(program, &error))?;
    ignore_the_terminal();
    Ok(code(child.wait()?))
}

/// The terminal sends its signals to the command as well, which decides what they mean; this process waits for it.
#[allow(unsafe_code)]
fn ignore_the_terminal() {
    for ignored in [Signal::SIGINT, Signal::SIGQUIT] {
        // SAFETY: SIG_IGN runs no code. After the spawn, so that the command does not inherit it.
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
}

/// A shell's way of saying how a command ended.
fn code(status: ExitStatus) -> ExitCode {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn not_run(program: &OsStr, error: &std::io::Error) -> Fault {
    Fault::new(
        "E-EXEC-COMMAND",
        format!("cannot run {} in the node: {error}", program.display()),
    )
}

/// A sandbox's error, as the operator sees it.
pub(super) fn fault(error: sandbox::Error) -> Fault {
    let exit = match &error {
        sandbox::Error::Namespace { .. } if !nix::unistd::geteuid().is_root() => Exit::NoPermission,
        _ => Exit::Failed,
    };
    Fault {
        code: error.code(),
        what: error.to_string(),
        fix: error.fix(),
        exit,
    }
}

/// Builds the sandbox, starts init in it, and exits. Its settings arrive on its standard input.
pub fn sandbox() -> anyhow::Result<ExitCode> {
    sandbox::sandbox()?;
    Ok(ExitCode::SUCCESS)
}

/// PID 1 of the node. What it needs to know arrives on its standard input.
pub fn init() -> anyhow::Result<ExitCode> {
    sandbox::init()?;
    Ok(ExitCode::SUCCESS)
}
