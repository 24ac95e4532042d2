//! One home of the demo and the node in it: its config file, its process, and what it says.

use std::fs::{self, File};
use std::net::IpAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use hepto_net::lab::{Echo, Home, Space, echo};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::status::Status;

/// A home with its node.
#[derive(Debug)]
pub struct Neighbour {
    /// The node's name.
    pub name: &'static str,
    /// The home's network.
    pub home: Home,
    /// The config file.
    pub config: PathBuf,
    /// The overlay addresses, IPv4 first; empty before the node has told them.
    pub overlay: Vec<IpAddr>,
    namespace: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Neighbour {
    /// A home whose node has not been started.
    pub fn new(cluster: &str, name: &'static str, home: Home, config: PathBuf) -> Neighbour {
        let namespace = PathBuf::from(format!("/run/netns/hepto-{cluster}.{name}"));
        let log = config.with_extension("log");
        Neighbour {
            name,
            home,
            config,
            overlay: Vec::new(),
            namespace,
            log,
            process: None,
        }
    }

    /// Starts `hepto-node run`.
    pub fn start(&mut self, program: &Path) -> anyhow::Result<()> {
        let log = File::create(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut command = Command::new(program);
        command
            .arg("run")
            .arg("--config")
            .arg(&self.config)
            .args(["--log-format", "text"]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        // Ctrl-C is the demo's: it tells the nodes itself, when it has stopped asking them.
        command.process_group(0);
        self.process = Some(self.home.space().spawn(&mut command)?);
        Ok(())
    }

    /// The process of the node, while the demo has one.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// The node's own report, once it gives one.
    ///
    /// # Errors
    /// When the node has ended, with the end of its log.
    pub fn status(&mut self, program: &Path) -> anyhow::Result<Option<Status>> {
        if let Some(process) = &mut self.process
            && let Some(ended) = process.try_wait()?
        {
            self.process = None;
            let words = self.last_words();
            return Err(anyhow!(
                "the node {} has ended ({ended}):\n{words}",
                self.name
            ));
        }
        let mut command = Command::new(program);
        command
            .args(["status", "--json", "--config"])
            .arg(&self.config);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        let output = self.home.space().spawn(&mut command)?.wait_with_output()?;
        Ok(output
            .status
            .success()
            .then(|| serde_json::from_slice(&output.stdout).ok())
            .flatten())
    }

    /// The end of its log.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The namespace of the node itself.
    pub fn inside(&self) -> anyhow::Result<Space> {
        Ok(self.home.space().network_at(&self.namespace)?)
    }

    /// The time that a small echo usually takes: the median of a few, with pauses in between, since
    /// packets on each other's heels find everything awake.
    ///
    /// # Errors
    /// When none is answered.
    pub fn latency(&self, to: IpAddr) -> anyhow::Result<Duration> {
        let ask = || {
            let mut times = Vec::new();
            for _ in 0..5 {
                times.extend(echo(Echo::new(to)));
                thread::sleep(Duration::from_millis(10));
            }
            times
        };
        let mut times = self.inside()?.run(ask)?;
        times.sort();
        times
            .get(times.len() / 2)
            .copied()
            .with_context(|| format!("{} does not hear {to}", self.name))
    }

    /// Whether one small echo is answered within a short while.
    pub fn hears(&self, to: IpAddr, patience: Duration) -> anyhow::Result<bool> {
        Ok(self
            .inside()?
            .run(|| {
                echo(Echo {
                    patience,
                    ..Echo::new(to)
                })
            })?
            .is_ok())
    }

    /// Asks the node to stop.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(process) = &mut self.process
            && process.try_wait()?.is_none()
        {
            kill(Pid::from_raw(process.id().try_into()?), Signal::SIGTERM)?;
        }
        Ok(())
    }

    /// Waits for the end of a node that was asked to stop; after `patience`, ends it and removes what
    /// it made.
    ///
    /// # Errors
    /// When the node did not end by itself, or said that it left something.
    pub fn end(&mut self, program: &Path, patience: Duration) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else {
            return Ok(());
        };
        let start = Instant::now();
        while start.elapsed() < patience {
            if let Some(ended) = process.try_wait()? {
                // Told to stop before it had taken over its signals, it had made nothing either.
                let early = ended.signal() == Some(Signal::SIGTERM as i32);
                ensure!(
                    early || ended.success(),
                    "the node {} ended with {ended}:\n{}",
                    self.name,
                    self.last_words()
                );
                return Ok(());
            }
            thread::sleep(Duration::from_millis(20));
        }
        process.kill()?;
        process.wait()?;
        let mut command = Command::new(program);
        command
            .args(["stop", "--config"])
            .arg(&self.config)
            .process_group(0);
        let cleaned = self.home.space().spawn(&mut command)?.wait()?;
        Err(anyhow!(
            "the node {} did not stop within {} s; killed, its remains removed ({cleaned})",
            self.name,
            patience.as_secs()
        ))
    }

    /// Lets the node live on.
    pub fn release(&mut self) {
        self.process = None;
    }
}
