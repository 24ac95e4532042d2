//! The life of k3s as a pure state machine: events and the time go in, actions come out.
//!
//! ```text
//! PREPARE → MESH_UP → SPAWN → JOINING → READY ⇄ DEGRADED      any → STOPPING → STOPPED
//!              ↑        │        │         └────┬────┘
//!              └─────── BACKOFF ←┴──── its end ─┘
//! ```
//!
//! It owns no process, socket or clock. The driver is `k3s/mod.rs`: it feeds every event with `now`, does what
//! [`Lifecycle::poll_action`] asks, and calls [`Lifecycle::handle_timeout`] at [`Lifecycle::poll_timeout`].

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::argument::Role;

/// How long each thing may take.
#[derive(Debug, Clone)]
pub struct Pace {
    /// The first back-off after an end of k3s, and the least.
    pub backoff_least: Duration,
    /// The longest back-off.
    pub backoff_most: Duration,
    /// After this long in READY, earlier ends no longer count.
    pub forgive_after: Duration,
    /// Between two probes until the node is ready, and while it is degraded.
    pub probe_joining: Duration,
    /// Between two probes of a ready node.
    pub probe_ready: Duration,
    /// Failed probes in a row that make a ready node degraded.
    pub misses: u32,
    /// After this long in JOINING the operator is told.
    pub stall: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Pace {
            backoff_least: Duration::from_secs(1),
            backoff_most: Duration::from_secs(60),
            forgive_after: Duration::from_secs(600),
            probe_joining: Duration::from_secs(1),
            probe_ready: Duration::from_secs(10),
            misses: 2,
            // Images of a first start come over a home's line.
            stall: Duration::from_secs(180),
        }
    }
}

/// What the driver saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Files and sandbox are there; no k3s runs in it.
    Prepared,
    /// Whether the master is a live peer.
    Master {
        /// A session with it exists.
        live: bool,
    },
    /// k3s runs: we started it, or an earlier supervisor did and it is adopted. One path for both: a sandbox tells
    /// the past of its programs before anything new.
    Spawned {
        /// Its process, as the sandbox numbers it.
        pid: i32,
    },
    /// k3s could not be started.
    SpawnFailed(String),
    /// k3s said `READY=1`.
    Notified,
    /// What the probe of [`Action::Probe`] found.
    Probed {
        /// The process that the probe was for.
        pid: i32,
        /// Ready, or what is missing.
        result: Result<(), String>,
    },
    /// k3s ended, and how: "exit code 1", "signal 9".
    Exited(String),
    /// The sandbox's init is gone, and all that it held.
    SandboxGone,
    /// The operator wants the node to stop.
    Stop,
}

/// What the driver has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start k3s.
    Spawn,
    /// See whether the node is ready; answer with [`Event::Probed`] and this pid.
    Probe {
        /// The process that the probe is for.
        pid: i32,
    },
    /// Tell the operator that joining takes long.
    Stalled,
}

/// The state as the operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Files and sandbox are made.
    Prepare,
    /// Waits for the mesh: an agent for its master.
    MeshUp,
    /// k3s is being started.
    Spawn,
    /// k3s runs, but the node is not ready yet.
    Joining,
    /// The node is ready.
    Ready,
    /// The node was ready, and k3s still runs, but probes fail.
    Degraded,
    /// k3s ended; it is started again after a while.
    Backoff,
    /// k3s and its pods are being stopped.
    Stopping,
    /// Nothing runs.
    Stopped,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Prepare => "preparing",
            State::MeshUp => "waiting for the mesh",
            State::Spawn => "starting",
            State::Joining => "joining",
            State::Ready => "ready",
            State::Degraded => "degraded",
            State::Backoff => "backing off",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        })
    }
}

/// A stage, with just what belongs to it.
#[derive(Debug)]
enum Stage {
    Prepare,
    MeshUp,
    Spawn,
    Running(Running),
    Backoff { until: Instant },
    Stopping,
    Stopped,
}

/// A k3s that runs.
#[derive(Debug)]
struct Running {
    pid: i32,
    health: Health,
    probe: Probe,
    /// When the operator is told that joining takes long; `None` once told or ready.
    stall: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Joining,
    /// Ready since then, with so many failed probes in a row.
    Ready {
        since: Instant,
        misses: u32,
    },
    Degraded,
}

/// Where the probe is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probe {
    /// k3s has not said READY: there is nothing to ask yet.
    Early,
    /// Due then.
    Due(Instant),
    /// Under way.
    Out,
}

/// The state machine.
#[derive(Debug)]
pub struct Lifecycle {
    role: Role,
    pace: Pace,
    random: SplitMix,
    stage: Stage,
    /// When the state last changed.
    since: Instant,
    master_live: bool,
    /// Ends of k3s since the last forgiveness: the back-off's exponent.
    ends: u32,
    restarts: u32,
    last_error: Option<String>,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// A machine in PREPARE. Equal seeds and events give equal back-offs.
    pub fn new(role: Role, pace: Pace, seed: u64, now: Instant) -> Self {
        Lifecycle {
            role,
            pace,
            random: SplitMix(seed),
            stage: Stage::Prepare,
            since: now,
            master_live: false,
            ends: 0,
            restarts: 0,
            last_error: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes in what happened. Events that the state has no use for (a late probe, an exit after `Stop`) change nothing.
    pub fn handle(&mut self, now: Instant, event: Event) {
        let before = self.state();
        match event {
            Event::Prepared => self.prepared(),
            Event::Master { live } => self.master(live),
            Event::Spawned { pid } => self.spawned(now, pid),
            Event::SpawnFailed(why) => {
                if matches!(self.stage, Stage::Spawn) {
                    self.back_off(now, why);
                }
            }
            Event::Notified => self.notified(now),
            Event::Probed { pid, result } => self.probed(now, pid, result),
            Event::Exited(how) => {
                if matches!(self.stage, Stage::Spawn | Stage::Running(_)) {
                    self.back_off(now, format!("k3s ended: {how}"));
                }
            }
            Event::SandboxGone => self.end("the node's init process is gone".into()),
            Event::Stop => {
                if !matches!(self.stage, Stage::Stopped) {
                    self.stage = Stage::Stopping;
                    self.actions.clear();
                }
            }
        }
        self.mark(now, before);
    }

    /// When [`Lifecycle::handle_timeout`] is next due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.stage {
            Stage::Backoff { until } => Some(*until),
            Stage::Running(running) => {
                let probe = match running.probe {
                    Probe::Due(at) => Some(at),
                    Probe::Early | Probe::Out => None,
                };
                probe.into_iter().chain(running.stall).min()
            }
            _ => None,
        }
    }

    /// Does what is due at `now`; too early a call changes nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let before = self.state();
        match &mut self.stage {
            Stage::Backoff { until } if *until <= now => {
                self.stage = Stage::MeshUp;
                self.try_spawn();
            }
            Stage::Running(running) => {
                if matches!(running.probe, Probe::Due(at) if at <= now) {
                    running.probe = Probe::Out;
                    self.actions.push_back(Action::Probe { pid: running.pid });
                }
                if running.stall.is_some_and(|at| at <= now) {
                    running.stall = None;
                    self.actions.push_back(Action::Stalled);
                }
            }
            _ => {}
        }
        self.mark(now, before);
    }

    /// The next thing to do, oldest first.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// The state as the operator sees it.
    pub fn state(&self) -> State {
        match &self.stage {
            Stage::Prepare => State::Prepare,
            Stage::MeshUp => State::MeshUp,
            Stage::Spawn => State::Spawn,
            Stage::Running(Running {
                health: Health::Joining,
                ..
            }) => State::Joining,
            Stage::Running(Running {
                health: Health::Ready { .. },
                ..
            }) => State::Ready,
            Stage::Running(Running {
                health: Health::Degraded,
                ..
            }) => State::Degraded,
            Stage::Backoff { .. } => State::Backoff,
            Stage::Stopping => State::Stopping,
            Stage::Stopped => State::Stopped,
        }
    }

    /// When the state last changed.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The process of k3s as the sandbox numbers it, while it runs.
    pub fn pid(&self) -> Option<i32> {
        match &self.stage {
            Stage::Running(running) => Some(running.pid),
            _ => None,
        }
    }

    /// When k3s is started again.
    pub fn retry_at(&self) -> Option<Instant> {
        match self.stage {
            Stage::Backoff { until } => Some(until),
            _ => None,
        }
    }

    /// How often k3s was started after an end.
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// What last went wrong: how k3s ended, why it did not start, what it lacks to be ready.
    pub fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    fn mark(&mut self, now: Instant, before: State) {
        if self.state() != before {
            self.since = now;
        }
    }

    fn prepared(&mut self) {
        if matches!(self.stage, Stage::Prepare) {
            self.stage = Stage::MeshUp;
            self.try_spawn();
        }
    }

    fn master(&mut self, live: bool) {
        self.master_live = live;
        self.try_spawn();
    }

    /// Leaves MESH_UP when the mesh allows: a server needs no one, an agent its master.
    fn try_spawn(&mut self) {
        let may = self.role == Role::Server || self.master_live;
        if matches!(self.stage, Stage::MeshUp) && may {
            self.stage = Stage::Spawn;
            self.actions.push_back(Action::Spawn);
        }
    }

    fn spawned(&mut self, now: Instant, pid: i32) {
        if matches!(
            self.stage,
            Stage::Prepare | Stage::MeshUp | Stage::Spawn | Stage::Backoff { .. }
        ) {
            self.actions.clear();
            let (health, stall) = (Health::Joining, Some(now + self.pace.stall));
            self.stage = Stage::Running(Running {
                pid,
                health,
                probe: Probe::Early,
                stall,
            });
        }
    }

    fn notified(&mut self, now: Instant) {
        if let Stage::Running(running) = &mut self.stage
            && running.probe == Probe::Early
        {
            running.probe = Probe::Due(now);
        }
    }

    fn probed(&mut self, now: Instant, pid: i32, result: Result<(), String>) {
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        if running.pid != pid || running.probe != Probe::Out {
            return;
        }
        if result.is_ok() {
            running.stall = None;
            self.last_error = None;
        }
        running.health = match (result, running.health) {
            (Ok(()), Health::Ready { since, .. }) => Health::Ready { since, misses: 0 },
            (Ok(()), Health::Joining | Health::Degraded) => Health::Ready {
                since: now,
                misses: 0,
            },
            (Err(why), health) => {
                self.last_error = Some(why);
                match health {
                    Health::Ready { since, misses } if misses + 1 < self.pace.misses => {
                        Health::Ready {
                            since,
                            misses: misses + 1,
                        }
                    }
                    Health::Ready { since, .. } => {
                        forgive(&mut self.ends, &self.pace, since, now);
                        Health::Degraded
                    }
                    other => other,
                }
            }
        };
        let pause = match running.health {
            Health::Ready { misses: 0, .. } => self.pace.probe_ready,
            _ => self.pace.probe_joining,
        };
        running.probe = Probe::Due(now + pause);
    }

    /// k3s ended or did not start: wait twice as long as the last time, less a random part so that the nodes of a
    /// cluster do not all come back at once.
    fn back_off(&mut self, now: Instant, why: String) {
        if let Stage::Running(Running {
            health: Health::Ready { since, .. },
            ..
        }) = self.stage
        {
            forgive(&mut self.ends, &self.pace, since, now);
        }
        let doubled = self
            .pace
            .backoff_least
            .saturating_mul(1u32.checked_shl(self.ends).unwrap_or(u32::MAX));
        let most = doubled.min(self.pace.backoff_most);
        let delay = most
            .mul_f64(0.5 + 0.5 * self.random.unit())
            .max(self.pace.backoff_least);
        self.ends = self.ends.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        self.last_error = Some(why);
        self.actions.clear();
        self.stage = Stage::Backoff { until: now + delay };
    }

    fn end(&mut self, why: String) {
        if !matches!(self.stage, Stage::Stopped) {
            self.last_error = Some(why);
            self.actions.clear();
            self.stage = Stage::Stopped;
        }
    }
}

/// Forgets earlier ends after a long health.
fn forgive(ends: &mut u32, pace: &Pace, ready_since: Instant, now: Instant) {
    if now.saturating_duration_since(ready_since) >= pace.forgive_after {
        *ends = 0;
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): spread, not secrecy, and the same on every machine for one seed.
#[derive(Debug)]
struct SplitMix(u64);

impl SplitMix {
    /// At least 0, below 1.
    fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        (mixed >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
