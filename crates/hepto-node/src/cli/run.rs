//! `hepto-node run`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::fault::{Exit, Fault};
use crate::node::{self, Successor};

/// What `run` takes.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The node's config file
    #[arg(long, short, value_name = "FILE")]
    pub config: PathBuf,
    /// How log lines look; HEPTO_LOG sets the level: error, warn, info, debug
    #[arg(long, value_enum, default_value_t = LogFormat::Auto)]
    pub log_format: LogFormat,
    /// The descriptor of the lock that this process holds already (set by a reload)
    #[arg(long, hide = true, value_name = "NUMBER")]
    pub lock: Option<i32>,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Journald under systemd, text elsewhere
    Auto,
    /// One line of text each
    Text,
    /// One JSON object each
    Json,
}

impl LogFormat {
    /// As it is written on the command line.
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Threads that may resolve names and write files beside the main thread.
const BLOCKING_THREADS: usize = 4;

/// Runs the node until it is told to stop.
pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    // While /proc still names the file that was started.
    let successor = Successor::new(&args.config, args.log_format.name());
    // To others than root, every key file would look like an error of the config.
    if !rustix::process::geteuid().is_root() {
        return Err(Fault::new(
            "E-RUN-ROOT",
            "a node makes a network namespace, which takes root",
        )
        .fix("run it as root, or by its systemd unit")
        .exit(Exit::NoPermission)
        .into());
    }
    let Some((config, _)) = super::config::read(&args.config) else {
        return Ok(Exit::BadConfig.into());
    };
    log(args.log_format)?;
    keep_out_of_core_files();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()?;
    runtime.block_on(node::run(config, successor, args.lock))?;
    // A name that is still being resolved is nobody's any more.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// Keys are in this process's memory: no core file holds it, and no other user's process reads it (prctl(2)).
fn keep_out_of_core_files() {
    use rustix::process::{DumpableBehavior, set_dumpable_behavior};
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::warn!(%error, "a core file of this process would hold the cluster's keys: set `ulimit -c 0`");
    }
}

fn log(format: LogFormat) -> anyhow::Result<()> {
    // memberlist logs an error for each packet that it cannot read: a flood would fill the journal. Its crates' names all
    // begin so; what matters of it hepto-mesh counts and says. boringtun says at `error` that a session expired, which is
    // an ordinary thing here.
    let level =
        std::env::var("HEPTO_LOG").unwrap_or_else(|_| "info,memberlist=off,boringtun=off".into());
    let filter = EnvFilter::try_new(&level).map_err(|error| {
        Fault::new(
            "E-RUN-LOG",
            format!("HEPTO_LOG={level} is not a filter: {error}"),
        )
        .fix("set it to error, warn, info or debug")
    })?;
    // systemd sets JOURNAL_STREAM for what it connects to the journal (systemd.exec(5)).
    let journal = format == LogFormat::Auto && std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = match (journal.then(tracing_journald::layer), format) {
        (Some(Ok(journal)), _) => journal.boxed(),
        (_, LogFormat::Json) => fmt::layer().json().with_writer(std::io::stderr).boxed(),
        _ => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            fmt::layer()
                .with_ansi(colour)
                .with_target(false)
                .with_writer(std::io::stderr)
                .boxed()
        }
    };
    tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init()?;
    Ok(())
}
