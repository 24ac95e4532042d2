//! What runs in the node: a k3s in its sandbox, or nothing.
//!
//! k3s is given the node's overlay addresses at its first start and keeps them for good. So a first start waits
//! until the mesh has had its say on them: an agent's until the master is a live peer, a server's until any
//! member is, or for [`ALONE`], since the first node of a cluster is alone.

mod order;
mod pausing;
mod report;

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hepto_net::Entry;
use tokio::task::JoinHandle;

pub use self::order::order;
use self::order::{k3s_settings, sandbox_settings};
use super::pause;
use crate::config::Config;
use crate::fault::Fault;
use crate::k3s::acquire::{self, Acquisition, History, Known, Store};
use crate::k3s::drain::{self, By};
use crate::k3s::{self, State, Supervisor};
use crate::sandbox::{self, Sandbox};

/// How long a server that has never run waits for another member.
const ALONE: Duration = Duration::from_secs(5);
/// How long after its sandbox was lost, or could not be made anew, it is made again.
const RETRY: Duration = Duration::from_secs(5);

/// What a sandbox that was never taken over is given to end.
const UNKNOWN: Duration = Duration::from_secs(30);

/// What one [`Workload::step`] came to.
pub enum Step {
    /// The report may have changed.
    Went,
    /// The k3s that the config wants is there: it may be time to [`Workload::begin`].
    Acquired,
    /// The sandbox is lost; [`Workload::step`] makes it again.
    Lost,
    /// All has ended for a pause; what could not be removed.
    Paused(Vec<String>),
}

/// The end of what runs, under way.
type Ending = Pin<Box<dyn Future<Output = Vec<sandbox::Error>>>>;

enum Phase {
    /// Mesh only.
    Off,
    /// Nothing runs; it begins at this time, or when the mesh says so.
    Waiting { since: Instant },
    /// The sandbox is there.
    Running(Box<Supervisor>),
    /// The sandbox is lost.
    Lost { until: Instant },
    /// The node was paused then, and what runs is ended.
    Pausing { since: SystemTime, ending: Ending },
    /// The node was paused then, and nothing runs.
    Paused { since: SystemTime },
}

/// The workload of one node.
pub struct Workload {
    phase: Phase,
    run_directory: PathBuf,
    entry: Entry,
    master_live: bool,
    company: bool,
    /// The k3s that the config wants, on its way or there; `None` for a mesh only.
    acquisition: Option<Acquisition>,
    /// It is there, and what runs has heard of it.
    decided: bool,
    /// A k3s that runs in a sandbox from before: it goes on, whatever becomes of the one that the config wants.
    running: Option<Known>,
    node_directory: PathBuf,
    storage: PathBuf,
    /// The k3s with which the node is ready, on its way into the store.
    keeping: Option<Keeping>,
}

/// A copy that is being made.
type Keeping = JoinHandle<Result<Known, acquire::Error>>;

impl Workload {
    /// Nothing runs yet.
    pub fn new(config: &Config, run_directory: &Path, entry: Entry) -> Self {
        let since = Instant::now();
        let paused = pause::since(&config.node_directory());
        let phase = match (&config.k3s, paused) {
            // What a supervisor that died half-way has left is ended first.
            (Some(_), Some(since)) => Phase::Pausing {
                since,
                ending: remains(run_directory),
            },
            (Some(_), None) => Phase::Waiting { since },
            (None, _) => Phase::Off,
        };
        if let Phase::Pausing { since, .. } = phase {
            tracing::info!(
                since = pause::moment(since),
                "paused: hepto-node resume starts k3s again"
            );
        }
        if matches!(phase, Phase::Waiting { .. }) && !config.is_master() && !Self::has_run(config) {
            let master = &config.cluster.master;
            tracing::info!(%master, "k3s is started as soon as the master is a live peer");
        }
        let node_directory = config.node_directory();
        let runs = config.k3s.is_some() && sandbox::programs(run_directory).is_ok();
        Workload {
            phase,
            run_directory: run_directory.to_owned(),
            entry,
            master_live: false,
            company: false,
            acquisition: order(config)
                .filter(|_| paused.is_none())
                .map(Acquisition::start),
            decided: false,
            running: History::read(&node_directory).ran.filter(|_| runs),
            node_directory,
            storage: config.node.storage.clone(),
            keeping: None,
        }
    }

    /// The k3s to start now: the one that runs, else the one that the config wants, else, after that one could not be
    /// had, the one with which the node was last ready.
    fn candidate(&self) -> Option<Known> {
        let standing = self.acquisition.as_ref()?.standing();
        let wanted = standing.acquired.as_ref().map(Known::from);
        let earlier = standing.earlier.as_ref().map(Known::from);
        self.running.clone().or(wanted).or(earlier)
    }

    /// Which k3s runs, as far as that is known.
    fn supervised(&self) -> Option<&Known> {
        match &self.phase {
            Phase::Running(supervisor) => supervisor.running(),
            _ => self.running.as_ref(),
        }
    }

    /// Whether k3s was started in this storage before, so that this node keeps its overlay addresses.
    pub fn has_run(config: &Config) -> bool {
        let etc = Path::new(k3s::argument::ETC).join("config.yaml");
        sandbox::outside(&config.node_directory(), &etc).is_some_and(|file| file.exists())
    }

    /// Whether it is time to [`Workload::begin`]. `met`: a member has a live session.
    pub fn due(&self, config: &Config, met: bool) -> bool {
        let in_time = match self.phase {
            Phase::Waiting { since } if config.is_master() => {
                met || Self::has_run(config) || since.elapsed() >= ALONE
            }
            // A k3s that runs from before is taken over at once.
            Phase::Waiting { .. } => self.master_live || Self::has_run(config),
            Phase::Lost { until } => Instant::now() >= until,
            Phase::Off | Phase::Running(_) | Phase::Pausing { .. } | Phase::Paused { .. } => false,
        };
        in_time && self.candidate().is_some()
    }

    /// Makes or takes over the sandbox and the k3s in it.
    ///
    /// # Errors
    /// When the sandbox cannot be made, or k3s cannot be started at all. What was made is taken down again; what was
    /// taken over runs on.
    pub async fn begin(
        &mut self,
        config: &Config,
        attempt: u8,
        hosts: &str,
        resolv_conf: &str,
    ) -> Result<(), Fault> {
        let (Some(k3s), Some(program)) = (&config.k3s, self.candidate()) else {
            return Ok(());
        };
        // It is seen in the node from the start: a k3s that comes later needs no other sandbox.
        let store = Store::of(&config.node.storage);
        store.make()?;
        self.phase = Phase::Lost {
            until: Instant::now() + RETRY,
        };
        let sandbox = Sandbox::start_or_adopt(&sandbox_settings(
            config,
            vec![store.folder(), program.path.clone()],
            &self.run_directory,
            hosts,
            resolv_conf,
        ))
        .await?;
        let entry = self.entry.clone();
        let history = History::read(&self.node_directory);
        let programs = [Some(program.clone()), history.ran, history.good];
        let started = Supervisor::start(
            k3s_settings(config, k3s, programs, attempt, resolv_conf.to_owned()),
            sandbox,
            Arc::new(move || entry.enter()),
        );
        match started.await {
            Ok(mut supervisor) => {
                supervisor.master_live(self.master_live);
                supervisor.company(self.company);
                self.phase = Phase::Running(Box::new(supervisor));
                self.running = Some(program);
                self.take_up();
                Ok(())
            }
            Err((error, sandbox)) if sandbox.adopted() => Err(error.into()),
            Err((error, sandbox)) => {
                for failure in sandbox.stop(Duration::ZERO).await {
                    tracing::error!(
                        code = "E-STOP-LEFTOVERS",
                        fix = "hepto-node stop tries again",
                        "not removed: {failure}"
                    );
                }
                Err(error.into())
            }
        }
    }

    /// Waits for the next thing to happen; for ever where nothing runs. Cancel-safe.
    pub async fn step(&mut self) -> Step {
        if let Phase::Pausing { since, ending } = &mut self.phase {
            let (since, failures) = (*since, ending.await);
            self.phase = Phase::Paused { since };
            return Step::Paused(failures.iter().map(ToString::to_string).collect());
        }
        let Some(acquisition) = &mut self.acquisition else {
            return std::future::pending().await;
        };
        let step = tokio::select! {
            () = acquisition.changed() => None,
            step = supervised(&mut self.phase) => Some(step),
            kept = kept(&mut self.keeping) => {
                self.keeping = None;
                self.on_kept(kept);
                return Step::Went;
            }
        };
        match step {
            None => match self.take_up() {
                true => Step::Acquired,
                false => Step::Went,
            },
            Some(k3s::Step::Moved { to: State::Ready }) => {
                self.keep();
                Step::Went
            }
            Some(k3s::Step::SandboxGone) => {
                self.running = None;
                Step::Lost
            }
            Some(k3s::Step::Went | k3s::Step::Moved { .. }) => Step::Went,
        }
    }

    /// Has the k3s that the config wants take the place of another, if it is there; whether it is.
    fn take_up(&mut self) -> bool {
        let Some(standing) = self.acquisition.as_ref().map(Acquisition::standing) else {
            return false;
        };
        if let Phase::Running(supervisor) = &mut self.phase {
            match (&standing.acquired, &standing.problem) {
                (Some(wanted), _) => {
                    supervisor.want(Known::from(wanted));
                    self.decided = true;
                }
                (None, Some(_)) => supervisor.go_on(),
                (None, None) => {}
            }
        }
        standing.acquired.is_some()
    }

    /// The node is ready with the k3s that runs: it is kept, so that there is a way back to it.
    fn keep(&mut self) {
        let Some(good) = self.supervised().cloned() else {
            return;
        };
        let (storage, directory) = (self.storage.clone(), self.node_directory.clone());
        let keep = move || acquire::back_up(&storage, &directory, good);
        self.keeping = Some(tokio::task::spawn_blocking(keep));
    }

    fn on_kept(&mut self, kept: Result<Known, acquire::Error>) {
        match (kept, &mut self.phase) {
            (Ok(good), Phase::Running(supervisor)) => supervisor.kept(good),
            (Ok(_), _) => {}
            (Err(error), _) => tracing::warn!(
                code = error.code(),
                fix = error.fix(),
                "this k3s is not kept, so that an upgrade would have no way back: {error}"
            ),
        }
    }

    /// Removes what is left of a lost sandbox; it is made again after [`RETRY`].
    pub async fn clear(&mut self) {
        let lost = Phase::Lost {
            until: Instant::now() + RETRY,
        };
        if let Phase::Running(supervisor) = std::mem::replace(&mut self.phase, lost) {
            for failure in supervisor.stop().await {
                tracing::warn!(
                    code = "E-STOP-LEFTOVERS",
                    fix = "hepto-node stop tries again",
                    "not removed: {failure}"
                );
            }
        }
    }

    /// Tells whether the master is a live peer.
    pub fn master_live(&mut self, live: bool) {
        self.master_live = live;
        if let Phase::Running(supervisor) = &mut self.phase {
            supervisor.master_live(live);
        }
    }

    /// Tells whether another node is reached, to which pods could go.
    pub fn company(&mut self, company: bool) {
        self.company = company;
        if let Phase::Running(supervisor) = &mut self.phase {
            supervisor.company(company);
        }
    }

    /// Whether the owner has drained the node.
    pub fn is_drained(&self) -> bool {
        drain::mark(&self.node_directory) == Some(By::Owner)
    }

    /// Why the limits of the host's owner do not hold, where they do not.
    pub fn unlimited(&self) -> Option<&sandbox::Error> {
        match &self.phase {
            Phase::Running(supervisor) => supervisor.unlimited(),
            _ => None,
        }
    }

    /// Stops k3s, its pods and the sandbox; gives every failure. A sandbox that an earlier run left, and this one
    /// has not taken over, is ended too.
    pub async fn stop(self) -> Vec<String> {
        let failures = match self.phase {
            Phase::Running(supervisor) => supervisor.stop().await,
            Phase::Pausing { ending, .. } => ending.await,
            _ => remains(&self.run_directory).await,
        };
        failures.iter().map(ToString::to_string).collect()
    }
}

/// Ends what an earlier run left, and this one has not taken over.
fn remains(run_directory: &Path) -> Ending {
    let run_directory = run_directory.to_owned();
    Box::pin(async move { sandbox::cleanup(&run_directory, UNKNOWN).await })
}

/// What a copy came to; nothing where none is made.
async fn kept(keeping: &mut Option<Keeping>) -> Result<Known, acquire::Error> {
    let Some(keeping) = keeping else {
        return std::future::pending().await;
    };
    match keeping.await {
        Ok(kept) => kept,
        Err(_) => Err(acquire::Error::Cancelled),
    }
}

/// What happens to a k3s that runs; nothing where none does.
async fn supervised(phase: &mut Phase) -> k3s::Step {
    match phase {
        Phase::Running(supervisor) => supervisor.step().await,
        _ => std::future::pending().await,
    }
}
