//! `hepto-node run`.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use crate::fault::{Exit, Fault};
use crate::node::{self, Inherited, Successor, guard};

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
    /// The descriptor of the socket to the program before this one, which stands by (set by a reload)
    #[arg(long, hide = true, value_name = "NUMBER", requires = "lock")]
    pub guard: Option<i32>,
    /// Why another program was ended for this one (set by a reload's guard)
    #[arg(long, hide = true, value_name = "WHY", requires = "lock")]
    pub put_back: Option<String>,
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
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Threads that may resolve names and write files beside the main thread.
const BLOCKING_THREADS: usize = 4;

/// Runs the node until it is told to stop.
pub fn run(args: RunArgs) -> anyhow::Result<ExitCode> {
    let guard = args.guard.map(guard::inherit).transpose()?;
    let log_format = args.log_format.name();
    let started = std::env::args_os().next().map(PathBuf::from);
    let successor = match started.filter(|_| args.put_back.is_some()) {
        // Another program lies there by now.
        Some(program) => Successor::of(program, &args.config, log_format),
        // While /proc still names the file that was started.
        None => Successor::new(&args.config, log_format),
    };
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
    if let Err(error) = crate::sandbox::names_processes() {
        let what = format!("this kernel is older than Linux 5.3: pidfd_open: {error}");
        return Err(Fault::new("E-RUN-KERNEL", what)
            .fix("install a newer kernel: the distribution's backports or HWE kernel, or that of its next release")
            .exit(Exit::BadConfig)
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
    let inherited = Inherited {
        lock: args.lock,
        guard,
        put_back: args.put_back,
    };
    runtime.block_on(node::run(config, successor, inherited))?;
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

pub(super) fn log(format: LogFormat) -> anyhow::Result<()> {
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
