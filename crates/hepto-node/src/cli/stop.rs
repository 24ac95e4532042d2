//! `hepto-node stop`.

use std::io::ErrorKind;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::Target;
use crate::control::{Ask, Client};
use crate::fault::{Exit, Fault};
use crate::sandbox;
use crate::state::{self, Record};
use crate::target::{self, RunDirectory};

/// The longest time that a node may take to stop; more than any drain allows.
const LIMIT: Duration = Duration::from_secs(600);
/// How long the processes of a node whose supervisor died may take to end.
const GRACE: Duration = Duration::from_secs(10);

/// What `stop` takes.
#[derive(Debug, Args)]
pub struct StopArgs {
    #[command(flatten)]
    pub target: Target,
}

/// Stops the node and waits for its end; cleans up after one that died.
pub fn run(args: StopArgs) -> anyhow::Result<ExitCode> {
    let run_directory = target::resolve(&args.target)?;
    stop(&run_directory)?;
    eprintln!(
        "{} has stopped, and left nothing but its storage",
        run_directory.name()
    );
    Ok(ExitCode::SUCCESS)
}

/// Stops a node, or cleans up after one that died; where neither is, there is nothing to do.
pub(super) fn stop(run_directory: &RunDirectory) -> anyhow::Result<()> {
    match Client::connect(&run_directory.path) {
        Ok(mut client) => {
            client.ask(Ask::Stop)?;
            eprintln!("{} is stopping", run_directory.name());
            if !client.wait_end(LIMIT) {
                let what = format!("the node did not stop within {} s", LIMIT.as_secs());
                return Err(Fault::new("E-STOP-SLOW", what)
                    .fix("look at its log; kill its process, then run this command again")
                    .into());
            }
            // It removes the directory last; what is still there it could not remove.
            if run_directory.path.exists() {
                clean(&run_directory.path)?;
            }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            let what = format!("only root stops a node: {error}");
            return Err(Fault::new("E-STOP-ROOT", what)
                .fix("run it as root")
                .exit(Exit::NoPermission)
                .into());
        }
        Err(_) => clean(&run_directory.path)?,
    }
    Ok(())
}

/// Takes down what a node whose supervisor died has left.
fn clean(run_directory: &Path) -> anyhow::Result<()> {
    let record = Record::read(run_directory);
    // Held to the end: nobody starts the node while its remains are removed.
    let _lock = record.as_ref().map(state::lock_remains).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let failures = runtime.block_on(async {
        let failures = sandbox::cleanup(run_directory, GRACE).await;
        let mut failures: Vec<String> = failures.iter().map(ToString::to_string).collect();
        if let Some(record) = &record {
            let marker = hepto_net::address::marker(&record.cluster, &record.node);
            let network = hepto_net::teardown(&record.namespace, &marker, &record.interface).await;
            failures.extend(network.iter().map(ToString::to_string));
            let uapi = sandbox::uapi::release(None);
            failures.extend(uapi.iter().map(ToString::to_string));
        }
        failures
    });
    match failures.as_slice() {
        [] => Ok(state::remove_run_directory(run_directory)
            .map_err(|what| Fault::new("E-STOP-LEFTOVERS", what))?),
        failures => {
            let what = format!(
                "not everything of the node could be removed:\n  {}",
                failures.join("\n  ")
            );
            Err(Fault::new("E-STOP-LEFTOVERS", what)
                .fix("see each line; then run hepto-node stop again")
                .into())
        }
    }
}
