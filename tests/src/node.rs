//! One `hepto-node run`, and what can be asked of it from outside.

use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use hepto_net::lab::{Echo, Home, Space, echo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::{Recipe, fits, patience, until, within};

/// What a process has in memory, bytes (proc(5)).
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    /// All of it.
    pub resident: u64,
    /// What is not the code and data of its program's file.
    pub own: u64,
}

/// A node in a home. Dropping it kills its process; after a failed test its log is printed.
#[derive(Debug)]
pub struct Node {
    /// What its config file says.
    pub recipe: Recipe,
    /// Its config file.
    pub config: PathBuf,
    /// More of its environment.
    pub environment: Vec<(String, String)>,
    program: PathBuf,
    home: Arc<Home>,
    log: PathBuf,
    process: Option<Child>,
}

impl Node {
    pub(crate) fn new(program: PathBuf, home: Arc<Home>, recipe: Recipe, config: PathBuf) -> Node {
        let log = config.with_extension("log");
        Node {
            recipe,
            config,
            environment: Vec::new(),
            program,
            home,
            log,
            process: None,
        }
    }

    /// Installs the program under test at a path of its own, as a package would, and runs it from there.
    ///
    /// # Panics
    /// When the disk refuses.
    pub fn install_at(&mut self, path: &Path) {
        replace_file(
            path,
            &fs::read(&self.program).expect("the program under test"),
        );
        self.program = path.to_owned();
    }

    /// Where it lives.
    #[must_use]
    pub fn home(&self) -> &Arc<Home> {
        &self.home
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.recipe.name
    }

    /// Starts `hepto-node run`; what it says goes to the end of its log.
    ///
    /// # Panics
    /// When it runs already, or cannot be started at all.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name());
        let log = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let mut command = self.command(&["run", "--log-format", "text", "--config"]);
        command
            .arg(&self.config)
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
            .stdout(log.try_clone().expect("a second descriptor"))
            .stderr(log);
        self.process = Some(
            self.home
                .space()
                .spawn(&mut command)
                .expect("hepto-node starts"),
        );
    }

    /// The process id of the supervisor.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn pid(&self) -> i32 {
        let process = self.process.as_ref().expect("the node was started");
        process.id().try_into().expect("process ids are positive")
    }

    /// Kills the supervisor as a crash would, and nothing else.
    ///
    /// # Panics
    /// When it was not started.
    pub fn crash(&mut self) {
        let mut process = self.process.take().expect("the node was started");
        process.kill().expect("the process is ours");
        process.wait().expect("the process is ours");
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    ///
    /// # Panics
    /// When it was not started, or does not end within `patience`.
    pub fn stop(&mut self, patience: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.end(patience)
    }

    /// Sends a signal to the supervisor.
    ///
    /// # Panics
    /// When it was not started.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the process is ours");
    }

    /// Waits for the supervisor's end.
    ///
    /// # Panics
    /// When it was not started, or does not end within `patience`.
    pub fn end(&mut self, patience: Duration) -> ExitStatus {
        let mut process = self.process.take().expect("the node was started");
        let ask = || {
            process
                .try_wait()
                .expect("the process is ours")
                .ok_or("it runs")
        };
        within(patience, &format!("{} ends", self.recipe.name), ask).0
    }

    /// Its log so far.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `hepto-node` with these arguments, to be run in the home.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Runs a command of `hepto-node` in the home, `--config` being put after its first word.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ask(&self, arguments: &[&str]) -> Output {
        let (verb, rest) = arguments.split_first().expect("a command");
        let mut command = self.command(&[verb, "--config"]);
        command
            .arg(&self.config)
            .args(rest)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = self
            .home
            .space()
            .spawn(&mut command)
            .expect("hepto-node starts");
        child.wait_with_output().expect("the process is ours")
    }

    /// What `status --json` says.
    ///
    /// # Errors
    /// What it says instead.
    ///
    /// # Panics
    /// When it is not as the published schema has it.
    pub fn status(&self) -> Result<Value, String> {
        self.report("status")
    }

    /// What `peers --json` says.
    ///
    /// # Errors
    /// What it says instead.
    ///
    /// # Panics
    /// When it is not as the published schema has it.
    pub fn peers(&self) -> Result<Vec<Value>, String> {
        let report = self.report("peers")?;
        report
            .as_array()
            .cloned()
            .ok_or_else(|| format!("not a list: {report}"))
    }

    fn report(&self, verb: &str) -> Result<Value, String> {
        let output = self.ask(&[verb, "--json"]);
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let value = serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
        // Every report that any test looks at is of the published form.
        if let Err(departures) = fits(verb, &value) {
            panic!("{verb} --json is not as published: {departures}\n{value:#}");
        }
        Ok(value)
    }

    /// The namespace of the node itself, with its home's files.
    ///
    /// # Errors
    /// When it does not exist.
    pub fn inside(&self) -> Result<Space, String> {
        let path = format!(
            "/run/netns/hepto-{}.{}",
            self.recipe.cluster, self.recipe.name
        );
        self.home
            .space()
            .network_at(Path::new(&path))
            .map_err(|error| error.to_string())
    }

    /// Its overlay addresses, IPv4 first, as it says itself.
    ///
    /// # Panics
    /// When it does not have both within twenty seconds.
    pub fn overlay(&self) -> [IpAddr; 2] {
        let what = format!("{} has overlay addresses", self.name());
        within(Duration::from_secs(20), &what, || self.overlay_now()).0
    }

    /// Its overlay addresses, IPv4 first, if it has them now.
    ///
    /// # Errors
    /// What it says instead.
    pub fn overlay_now(&self) -> Result<[IpAddr; 2], String> {
        let status = self.status()?;
        let mut addresses: Vec<IpAddr> =
            serde_json::from_value(status["mesh"]["addresses"].clone())
                .map_err(|error| error.to_string())?;
        addresses.sort();
        addresses
            .try_into()
            .map_err(|other| format!("not one of each family: {other:?}"))
    }

    /// Sends one echo request from the node's namespace.
    ///
    /// # Errors
    /// Why there was no answer.
    pub fn echo(&self, request: Echo) -> Result<Duration, String> {
        self.inside()?
            .run(|| echo(request))
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("{}: {error}", request.to))
    }

    /// Waits until every one of `nodes` hears every other over both families of the overlay; the
    /// time since `start` that it took.
    ///
    /// # Panics
    /// When that is not so [`patience`] of `limit` after `start`.
    pub fn all_meet(nodes: &[&Node], start: Instant, limit: Duration) -> Duration {
        let left = || patience(limit).saturating_sub(start.elapsed());
        let addresses: Vec<[IpAddr; 2]> = nodes
            .iter()
            .map(|node| {
                within(
                    left(),
                    &format!("{} has its overlay addresses", node.name()),
                    || node.overlay_now(),
                )
                .0
            })
            .collect();
        for (from, node) in nodes.iter().enumerate() {
            for (to, pair) in addresses.iter().enumerate().filter(|(to, _)| *to != from) {
                for address in pair {
                    let what = format!("{} hears {} at {address}", node.name(), nodes[to].name());
                    let request = Echo {
                        patience: Duration::from_millis(200),
                        ..Echo::new(*address)
                    };
                    within(left(), &what, || node.echo(request));
                }
            }
        }
        start.elapsed()
    }

    /// Waits until the log holds these words.
    ///
    /// # Panics
    /// When it does not within `patience`.
    pub fn says(&self, words: &str, patience: Duration) {
        until(patience, &format!("{} says {words:?}", self.name()), || {
            self.log().contains(words)
        });
    }

    /// The memory of the supervisor.
    ///
    /// # Panics
    /// When it was not started.
    #[must_use]
    pub fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("a running process has a status");
        let bytes = |name: &str| -> u64 {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kilobytes = line
                .expect("a process has memory")
                .trim()
                .trim_end_matches(" kB");
            kilobytes.parse::<u64>().expect("a number") * 1024
        };
        Memory {
            resident: bytes("VmRSS:"),
            own: bytes("RssAnon:"),
        }
    }

    /// Runs a program in the node's network, with its hosts file and resolver (`exec --net`).
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn exec_net(&self, program: &[&str]) -> Result<String, String> {
        said(self.ask(&[&["exec", "--net", "--"], program].concat()))
    }

    /// Runs a program in all of the node's namespaces (`exec`).
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn exec(&self, program: &[&str]) -> Result<String, String> {
        said(self.ask(&[&["exec", "--"], program].concat()))
    }

    /// Governs the cluster from this node, which is its master (`kubectl`).
    ///
    /// # Errors
    /// What it said when it failed.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        said(self.ask(&[&["kubectl"], arguments].concat()))
    }
}

/// Puts an executable file in another's place, as a package manager does: the old one lives on in who runs it.
///
/// # Panics
/// When the disk refuses.
pub fn replace_file(path: &Path, content: &[u8]) {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content).expect("a program's file");
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).expect("a program's file");
    fs::rename(&fresh, path).expect("a program's file");
}

/// What a program printed, or why it failed.
fn said(output: Output) -> Result<String, String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(text);
    }
    Err(format!(
        "{}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    ))
}

impl Drop for Node {
    fn drop(&mut self) {
        let ended = match &mut self.process {
            Some(process) => end_now(process).map_or_else(|error| error.to_string(), describe),
            None => "not running".to_owned(),
        };
        if thread::panicking() {
            println!("---- {} ({ended}):\n{}", self.recipe.name, self.log());
        }
    }
}

fn end_now(process: &mut Child) -> io::Result<Option<ExitStatus>> {
    let ended = process.try_wait()?;
    if ended.is_none() {
        process.kill()?;
        process.wait()?;
    }
    Ok(ended)
}

fn describe(ended: Option<ExitStatus>) -> String {
    match ended {
        None => "was running".to_owned(),
        Some(status) if status.signal().is_some() => format!("had been killed: {status}"),
        Some(status) => format!("had ended: {status}"),
    }
}
