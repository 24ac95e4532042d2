//! Supervision of k3s: what it is told, when it is started, whether the node is ready.
//!
//! [`argument`] and [`lifecycle`] are pure and decide; `file`, `environment`, `ready` and the [`Supervisor`] do. The
//! supervisor owns the node's sandbox, in which k3s runs; it never starts a process itself, so that its own end
//! is none of k3s's business.

pub mod acquire;
pub mod argument;
pub mod binary;
pub mod datastore;
pub mod drain;
mod environment;
pub mod file;
mod https;
pub mod lifecycle;
pub mod ready;
mod refusal;
mod start;
pub mod upgrade;

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use self::acquire::Known;
pub use self::argument::{Arguments, Role};
pub use self::file::Secret;
pub use self::lifecycle::State;
use self::lifecycle::{Action, Event, Lifecycle, Pace};
use self::ready::{Enter, Lack};
use self::start::Errand;
use self::upgrade::Upgrade;
use crate::sandbox::{self, Sandbox};

/// k3s's id in the sandbox.
const ID: &str = "k3s";
/// Where k3s's output goes, as the node sees it.
const LOG: &str = "/var/log/k3s.log";
/// What to do about a k3s that is not well.
const LOOK: &str = "look at what it says: hepto-node exec -- tail /var/log/k3s.log";
/// How long to wait for a running init to tell of its programs. One that is slower is met all the same: the start of a
/// second k3s is refused, and the first one's events arrive.
const REPLAY: Duration = Duration::from_secs(1);

/// What is supervised, and how.
#[derive(Debug)]
pub struct Settings {
    /// What the config file is made from; `founded` is found out here.
    pub arguments: Arguments,
    /// The tokens.
    pub secret: Secret,
    /// Which k3s: the one that the config wants, as far as that is known, the one that ran last, the one that was ready
    /// last.
    pub programs: [Option<Known>; 3],
    /// How long another k3s may take to be ready before the earlier one is started again.
    pub upgrade_timeout: Duration,
    /// The node's own folder, `<storage>/<node>`.
    pub directory: PathBuf,
    /// The resolvers that pods get: the text of a resolv.conf.
    pub resolv_conf: String,
    /// Names and prefixes of the cluster, which no proxy may see.
    pub unproxied: Vec<String>,
    /// How long k3s and its pods may take to end.
    pub drain: Duration,
}

/// Why k3s cannot be supervised.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that k3s needs could not be made.
    #[error("cannot {verb} {}: {source}", .path.display())]
    File {
        /// What was tried.
        verb: &'static str,
        /// On which file of the host.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
}

impl Error {
    fn file(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Error::File {
            verb,
            path: path.to_owned(),
            source,
        }
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Error::File { .. } => "E-K3S-FILE",
        }
    }

    /// What mends it.
    pub fn fix(&self) -> Option<String> {
        Some(match self {
            Error::File { .. } => "make room in `node.storage` and let root write there".into(),
        })
    }
}

/// What one [`Supervisor::step`] came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Something small: the report may have changed.
    Went,
    /// The state changed.
    Moved {
        /// To which.
        to: State,
    },
    /// The node's init is gone and all its processes with it: [`Supervisor::stop`], then start anew.
    SandboxGone,
}

/// What the operator is told of k3s.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The state.
    pub state: State,
    /// Seconds since the state began.
    pub since_s: u64,
    /// Whether the node is ready.
    pub ready: bool,
    /// k3s's process on the host, while it runs.
    pub pid: Option<i32>,
    /// How often k3s was started again since the supervisor's start.
    pub restarts: u32,
    /// Seconds until k3s is started again.
    pub retry_in_s: Option<u64>,
    /// What the node waits for.
    pub waiting_for: Option<String>,
    /// What last went wrong, until the node is ready.
    pub last_error: Option<String>,
    /// The name of a k3s that has yet to show that it can be ready.
    pub trying: Option<String>,
    /// The name of a k3s that could not be started in an earlier one's place, and why.
    pub failed: Option<(String, String)>,
}

/// k3s's supervisor: the driver of [`Lifecycle`]. Dropping it leaves k3s and its pods running, for the next one.
pub struct Supervisor {
    settings: Settings,
    sandbox: Sandbox,
    enter: Enter,
    machine: Lifecycle,
    /// Whether the master is a live peer.
    master: bool,
    /// Whether another node is reached.
    company: bool,
    /// The state that was last logged and returned: kept, so that a cancelled [`Supervisor::step`] hides no change.
    told: State,
    /// The action under way: kept until it is done, for the same reason.
    action: Option<Action>,
    probe: Option<(i32, oneshot::Receiver<Result<(), Lack>>)>,
    upgrade: Upgrade,
    /// What the disk has to do before a start, under way: kept for the same reason.
    errand: Option<Errand>,
}

impl Supervisor {
    /// Writes k3s's files and takes over a k3s that already runs in the sandbox. `enter` moves a thread into the node's
    /// network namespace.
    ///
    /// # Errors
    ///
    /// When k3s cannot be started or a file cannot be written, with the sandbox, which the caller has to stop.
    ///
    /// # Panics
    ///
    /// When no k3s is known at all.
    pub async fn start(
        mut settings: Settings,
        sandbox: Sandbox,
        enter: Enter,
    ) -> Result<Supervisor, (Error, Sandbox)> {
        let changed = match file::prepare(&mut settings) {
            Ok(changed) => changed,
            Err(error) => return Err((error, sandbox)),
        };
        // The seed only has to differ between nodes.
        let seed = RandomState::new().hash_one(&settings.arguments.node);
        let machine = Lifecycle::new(
            settings.arguments.role,
            Pace::default(),
            seed,
            Instant::now(),
        );
        let upgrade = start::upgrade(&settings);
        let mut supervisor = Supervisor {
            settings,
            sandbox,
            enter,
            machine,
            master: false,
            company: false,
            told: State::Prepare,
            action: None,
            probe: None,
            upgrade,
            errand: None,
        };
        if supervisor.sandbox.adopted()
            && let Ok(event) = tokio::time::timeout(REPLAY, supervisor.sandbox.event()).await
        {
            supervisor.hear(event);
            tracing::info!(state = %supervisor.machine.state(), "took over the node's running sandbox");
        }
        supervisor.upgrade.found(Instant::now());
        if changed {
            supervisor.upgrade.settings_changed();
        }
        supervisor.machine.handle(Instant::now(), Event::Prepared);
        Ok(supervisor)
    }

    /// Waits for the next thing to happen to k3s and does what follows from it. Cancel-safe.
    pub async fn step(&mut self) -> Step {
        self.act().await;
        if self.machine.state() == self.told {
            self.wait().await;
            self.act().await;
        }
        let after = self.machine.state();
        let before = std::mem::replace(&mut self.told, after);
        if after != before {
            self.tell(before, after);
            self.on_state(after);
        }
        match after {
            State::Stopped => Step::SandboxGone,
            _ if after == before => Step::Went,
            to => Step::Moved { to },
        }
    }

    /// Tells whether the master is a live peer. An agent's k3s starts only then.
    pub fn master_live(&mut self, live: bool) {
        self.master = live;
        self.machine.handle(Instant::now(), Event::Master { live });
    }

    /// Why the limits of the host's owner do not hold for the sandbox that was taken over, where they do not.
    pub fn unlimited(&self) -> Option<&sandbox::Error> {
        self.sandbox.unlimited()
    }

    /// What the operator is told.
    pub fn report(&self) -> Report {
        let now = Instant::now();
        let state = self.machine.state();
        let waiting_for = match state {
            state if state == State::MeshUp || self.machine.awaits_master() => Some(format!(
                "the master {} to be a live peer",
                self.settings.arguments.master
            )),
            State::Joining => Some("k3s to be ready".into()),
            _ => None,
        };
        Report {
            state,
            since_s: now
                .saturating_duration_since(self.machine.since())
                .as_secs(),
            ready: state == State::Ready,
            pid: self
                .machine
                .pid()
                .and_then(|pid| self.sandbox.host_pid(pid)),
            restarts: self.machine.restarts(),
            retry_in_s: self
                .machine
                .retry_at()
                .map(|at| at.saturating_duration_since(now).as_secs()),
            waiting_for,
            last_error: self.machine.last_error().map(str::to_owned),
            trying: self.trying(),
            failed: self.failed(),
        }
    }

    /// Tells whether another node is reached, to which pods could go.
    pub fn company(&mut self, company: bool) {
        self.company = company;
    }

    /// Ends k3s, its pods and the sandbox: has pods go to other nodes, if there are any, asks, waits as long as the settings allow, ends what is left. Gives every
    /// failure.
    pub async fn stop(mut self) -> Vec<sandbox::Error> {
        let until = Instant::now() + self.settings.drain;
        let ready = self.machine.state() == State::Ready;
        self.machine.handle(Instant::now(), Event::Stop);
        // A probe under way would give free what is cordoned below.
        if let Some((_, probe)) = self.probe.take() {
            let _ = probe.await;
        }
        if ready && self.company && !self.settings.drain.is_zero() {
            self.drain().await;
        }
        let grace = until.saturating_duration_since(Instant::now());
        tracing::info!(?grace, "stopping k3s and its pods");
        self.sandbox.stop(grace).await
    }

    async fn wait(&mut self) {
        let due = self
            .machine
            .poll_timeout()
            .map(tokio::time::Instant::from_std);
        let trial = self.upgrade.poll_timeout();
        let trial = trial.map(tokio::time::Instant::from_std);
        let probe = self.probe.as_mut();
        tokio::select! {
            event = self.sandbox.event() => self.hear(event),
            (pid, result) = answer(probe) => {
                self.probe = None;
                self.machine.handle(Instant::now(), Event::Probed { pid, result });
            }
            () = sleep_until(due) => self.machine.handle_timeout(Instant::now()),
            () = sleep_until(trial) => self.on_trial(),
        }
    }

    /// Translates what the sandbox tells.
    fn hear(&mut self, event: sandbox::Event) {
        use sandbox::Event as Heard;
        let event = match event {
            Heard::Spawned { id, pid } if id == ID => Event::Spawned { pid },
            Heard::Failed { id, error } if id == ID => Event::SpawnFailed(error.to_string()),
            Heard::Exited { id, status, .. } if id == ID => {
                Event::Exited(Ended(status).to_string())
            }
            Heard::Notify { id, text }
                if id == ID && text.lines().any(|line| line == "READY=1") =>
            {
                Event::Notified
            }
            Heard::InitGone => Event::SandboxGone,
            // Other programs of the node (`exec`), and k3s's other notices.
            _ => return,
        };
        let ended = match &event {
            Event::Exited(how) | Event::SpawnFailed(how) => Some(how.clone()),
            _ => None,
        };
        let spawned = matches!(event, Event::Spawned { .. });
        self.machine.handle(Instant::now(), event);
        if let Some(how) = ended {
            self.on_end(&how);
        }
        if spawned {
            self.restart(self.upgrade.overtaken());
        }
    }

    async fn act(&mut self) {
        loop {
            if self.action.is_none() {
                self.action = self.machine.poll_action();
            }
            match self.action {
                None => return,
                Some(Action::Spawn) => {
                    if let Err(why) = self.spawn().await {
                        self.machine.handle(Instant::now(), Event::SpawnFailed(why));
                    }
                }
                Some(Action::End { kill }) => {
                    let signal = if kill {
                        Signal::SIGKILL
                    } else {
                        Signal::SIGTERM
                    };
                    // Cannot be told: its init is gone, and says so itself.
                    let _ = self.sandbox.signal(ID, signal as i32).await;
                }
                Some(Action::Probe { pid }) => {
                    self.probe = Some((pid, ready::probe(self.target(), self.enter.clone())));
                }
                Some(Action::Stalled) => {
                    let missing = match self.machine.awaits_master() {
                        true => Some("the master is no live peer"),
                        false => self.machine.last_error(),
                    };
                    tracing::warn!(
                        code = "W-K3S-SLOW",
                        fix = LOOK,
                        missing = missing.unwrap_or("k3s has not said READY"),
                        "k3s is not ready yet"
                    );
                }
            }
            self.action = None;
        }
    }

    /// Logs a change of state; each warning with what to do.
    fn tell(&self, before: State, after: State) {
        let why = self.machine.last_error().unwrap_or_default();
        match after {
            State::Backoff => {
                let at = self.machine.retry_at().unwrap_or_else(Instant::now);
                let wait = at.saturating_duration_since(Instant::now()).as_secs_f32();
                tracing::warn!(
                    code = "W-K3S-BACKOFF",
                    fix = LOOK,
                    why,
                    "k3s is started again in {wait:.1} s"
                );
            }
            State::Degraded => tracing::warn!(
                code = "W-K3S-DEGRADED",
                fix = LOOK,
                why,
                "the node is not ready any more"
            ),
            State::Restarting => {
                tracing::info!(why, "k3s is ended and started anew; pods run on");
            }
            State::Stopped => tracing::info!(why, "the sandbox is made anew"),
            State::MeshUp => {
                tracing::info!(
                    master = self.settings.arguments.master,
                    "k3s waits until the master is a live peer"
                );
            }
            _ => tracing::info!(from = %before, "k3s is {after}"),
        }
    }
}

/// How k3s ended, in words.
struct Ended(sandbox::Status);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            sandbox::Status::Code(code) => write!(f, "exit code {code}"),
            sandbox::Status::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

async fn answer(
    probe: Option<&mut (i32, oneshot::Receiver<Result<(), Lack>>)>,
) -> (i32, Result<(), Lack>) {
    match probe {
        Some((pid, answer)) => {
            let unasked = Lack {
                what: "the probe could not be started".into(),
                mute: false,
            };
            let result = answer.await.unwrap_or(Err(unasked));
            (*pid, result)
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
