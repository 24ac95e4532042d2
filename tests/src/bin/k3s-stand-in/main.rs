//! A stand-in for k3s: it takes k3s's command line, insists on everything that the real one depends on, and behaves
//! towards its supervisor as the real one does, without a cluster behind it.
//!
//! `server` and `agent` first check the whole contract (`contract.rs`) and end with 64 and every broken line in the log.
//! Then a server makes its certificates and serves the API's few paths that matter; an agent registers with the server
//! by name, over TLS, with its token. `kubectl get nodes` asks as an administrator. What goes wrong on purpose is in
//! `control.rs`.

mod agent;
mod api;
mod client;
mod config;
mod contract;
mod control;
mod datastore;
mod eviction;
mod kubectl;
mod pki;
mod pod;
mod server;

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};

use crate::config::{Config, Role};
use crate::control::Control;

/// The contract is broken.
const BROKEN: u8 = 64;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["server", "--config", file] => run(Role::Server, Path::new(file)),
        ["agent", "--config", file] => run(Role::Agent, Path::new(file)),
        ["kubectl", rest @ ..] => kubectl::run(rest),
        [pod::LAUNCH, folder] => pod::launch(Path::new(folder)),
        [pod::SHIM, folder] => pod::shim(Path::new(folder)),
        [pod::POD, folder] => pod::pod(Path::new(folder)),
        ["--version"] => {
            println!("k3s version v0.0.0+stand-in");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            eprintln!(
                "contract broken: argv is not `server --config FILE`, `agent --config FILE` or `kubectl …`"
            );
            Ok(ExitCode::from(BROKEN))
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("fatal: {error:#}");
        ExitCode::FAILURE
    })
}

/// A server or an agent, until SIGTERM or what `control` asks for.
fn run(role: Role, file: &Path) -> anyhow::Result<ExitCode> {
    // Before any thread is started, so that none of them takes the signal.
    let terminate = SigSet::from(Signal::SIGTERM);
    terminate.thread_block().context("block SIGTERM")?;

    let config = match Config::read(role, file) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("contract broken: {error:#}");
            return Ok(ExitCode::from(BROKEN));
        }
    };
    let broken = contract::check(&config);
    if !broken.is_empty() {
        for line in &broken {
            eprintln!("contract broken: {line}");
        }
        return Ok(ExitCode::from(BROKEN));
    }
    let starts = count_start(&config)?;
    eprintln!(
        "stand-in {} of {} starts for the {starts}. time as pid {}",
        role.word(),
        config.node,
        std::process::id()
    );

    let control = Control::watch(&config)?;
    std::thread::spawn(move || {
        control::supervise_signal(&terminate);
    });
    control.wait_while_hung();
    match role {
        Role::Server => server::start(&config, &control)?,
        Role::Agent => agent::start(&config, &control)?,
    }
    notify()?;
    eprintln!("said READY");
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// `READY=1` to the supervisor, as k3s does by go-systemd.
fn notify() -> anyhow::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").context("NOTIFY_SOCKET")?;
    let socket = std::os::unix::net::UnixDatagram::unbound()?;
    let sent = socket
        .send_to(b"READY=1\n", &path)
        .with_context(|| format!("notify {}", path.display()))?;
    if sent != b"READY=1\n".len() {
        bail!("a notification was cut");
    }
    Ok(())
}

/// Counts the starts in the data folder, so that a test sees whether k3s was started again.
fn count_start(config: &Config) -> anyhow::Result<u64> {
    let path = config.data.join("stand-in.starts");
    let before = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| text.trim().parse::<u64>().ok());
    let now = before.unwrap_or(0) + 1;
    std::fs::write(&path, now.to_string()).with_context(|| format!("write {}", path.display()))?;
    Ok(now)
}
