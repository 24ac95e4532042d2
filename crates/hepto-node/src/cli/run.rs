//! `hepto-node run`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::fault::{Exit, Fault};
use crate::log::{self, LogFormat};
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
    log::start(args.log_format, Some(&config))?;
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
        tracing::warn!(code = "W-RUN-CORE", fix = "set `ulimit -c 0` before the node is started", %error, "a core file of this process would hold the cluster's keys");
    }
}
