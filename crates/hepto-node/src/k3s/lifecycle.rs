//! The life of k3s as a pure state machine: events and the time go in, actions come out.
//!
//! ```text
//! PREPARE → MESH_UP → SPAWN → JOINING → READY ⇄ DEGRADED      any → STOPPING → STOPPED
//!              ↑        │        │         └────┬────┘
//!              ├─────── BACKOFF ←┴──── its end ─┤
//!              └─────────────────── RESTARTING ←┘  wanted, or hung
//! ```
//!
//! It owns no process, socket or clock. The driver is `k3s/mod.rs`: it feeds every event with `now`, does what
//! [`Lifecycle::poll_action`] asks, and calls [`Lifecycle::handle_timeout`] at [`Lifecycle::poll_timeout`].

mod backoff;
mod health;
mod pace;
mod state;

use std::collections::VecDeque;
use std::time::Instant;

use self::backoff::Backoff;
use self::health::Health;
pub use self::pace::Pace;
pub use self::state::State;
use super::argument::Role;
use super::ready::Lack;

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
        result: Result<(), Lack>,
    },
    /// k3s runs, or ran, with what is not wanted any more: it is to be ended, and started anew at once.
    Restart {
        /// Why, for the operator.
        why: String,
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
    /// Have k3s end: ask it, or kill it.
    End {
        /// It was asked and did not.
        kill: bool,
    },
    /// Tell the operator that joining takes long.
    Stalled,
}

/// A stage, with just what belongs to it.
#[derive(Debug)]
enum Stage {
    Prepare,
    MeshUp,
    Spawn,
    Running(Running),
    Ending(Ending),
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
    /// Since when it gives no sign of life.
    mute: Option<Instant>,
}

/// A k3s that is to end.
#[derive(Debug)]
struct Ending {
    pid: i32,
    /// When it is killed; `None` once it was.
    kill: Option<Instant>,
    after: After,
}

/// What follows the end of a k3s that was told to.
#[derive(Debug)]
enum After {
    /// The next start, at once.
    Anew,
    /// A pause: it hung.
    Pause(String),
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
    backoff: Backoff,
    stage: Stage,
    /// When the state last changed.
    since: Instant,
    master_live: bool,
    restarts: u32,
    last_error: Option<String>,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// A machine in PREPARE. Equal seeds and events give equal back-offs.
    pub fn new(role: Role, pace: Pace, seed: u64, now: Instant) -> Self {
        Lifecycle {
            role,
            backoff: Backoff::new(pace.backoff_least, pace.backoff_most, seed),
            pace,
            stage: Stage::Prepare,
            since: now,
            master_live: false,
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
            Event::Restart { why } => self.restart(now, why),
            Event::Exited(how) => self.exited(now, &how),
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
            Stage::Ending(ending) => ending.kill,
            Stage::Running(running) => {
                let probe = match running.probe {
                    Probe::Due(at) if !self.awaits_master() => Some(at),
                    Probe::Due(_) | Probe::Early | Probe::Out => None,
                };
                probe.into_iter().chain(running.stall).min()
            }
            _ => None,
        }
    }

    /// Does what is due at `now`; too early a call changes nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        let before = self.state();
        let awaits_master = self.awaits_master();
        match &mut self.stage {
            Stage::Backoff { until } if *until <= now => {
                self.stage = Stage::MeshUp;
                self.try_spawn();
            }
            Stage::Ending(ending) if ending.kill.is_some_and(|at| at <= now) => {
                ending.kill = None;
                self.actions.push_back(Action::End { kill: true });
            }
            Stage::Running(running) => {
                if matches!(running.probe, Probe::Due(at) if at <= now && !awaits_master) {
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
            Stage::Ending(_) => State::Restarting,
            Stage::Backoff { .. } => State::Backoff,
            Stage::Stopping => State::Stopping,
            Stage::Stopped => State::Stopped,
        }
    }

    /// Whether an agent's node cannot be ready, since its master is no live peer: a question now would wait in the kernel
    /// for a second and more after the session is there. One that was ready is asked all the same, for its kubelet.
    pub fn awaits_master(&self) -> bool {
        self.role == Role::Agent && !self.master_live && self.state() == State::Joining
    }

    /// When the state last changed.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The process of k3s as the sandbox numbers it, while it runs.
    pub fn pid(&self) -> Option<i32> {
        match &self.stage {
            Stage::Running(running) => Some(running.pid),
            Stage::Ending(ending) => Some(ending.pid),
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
                mute: None,
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

    fn probed(&mut self, now: Instant, pid: i32, result: Result<(), Lack>) {
        let Stage::Running(running) = &mut self.stage else {
            return;
        };
        if running.pid != pid || running.probe != Probe::Out {
            return;
        }
        running.mute = match &result {
            Err(lack) if lack.mute => running.mute.or(Some(now)),
            _ => None,
        };
        self.last_error = result.as_ref().err().map(|lack| lack.what.clone());
        if result.is_ok() {
            running.stall = None;
        }
        let (health, long_ready) = running.health.after(result.is_ok(), &self.pace, now);
        running.health = health;
        let pause = match health {
            Health::Ready { misses: 0, .. } => self.pace.probe_ready,
            _ => self.pace.probe_joining,
        };
        running.probe = Probe::Due(now + pause);
        let hung = running
            .mute
            .filter(|since| now.saturating_duration_since(*since) >= self.pace.hang);
        if long_ready {
            self.backoff.forgive();
        }
        if hung.is_some() && health == Health::Degraded {
            let why = self.last_error.clone().unwrap_or_default();
            self.tell_to_end(now, After::Pause(format!("k3s hung: {why}")));
        }
    }

    fn restart(&mut self, now: Instant, why: String) {
        match self.stage {
            Stage::Running(_) => {
                self.last_error = Some(why);
                self.tell_to_end(now, After::Anew);
            }
            // What made it end may be gone with what is started now.
            Stage::Backoff { .. } => {
                self.stage = Stage::MeshUp;
                self.try_spawn();
            }
            _ => {}
        }
    }

    fn tell_to_end(&mut self, now: Instant, after: After) {
        if let Stage::Running(Running { pid, .. }) = self.stage {
            self.actions.clear();
            self.actions.push_back(Action::End { kill: false });
            self.stage = Stage::Ending(Ending {
                pid,
                kill: Some(now + self.pace.end),
                after,
            });
        }
    }

    fn exited(&mut self, now: Instant, how: &str) {
        match std::mem::replace(&mut self.stage, Stage::MeshUp) {
            Stage::Spawn => self.back_off(now, format!("k3s ended: {how}")),
            Stage::Running(running) => {
                if running.health.is_long_ready(&self.pace, now) {
                    self.backoff.forgive();
                }
                self.back_off(now, format!("k3s ended: {how}"));
            }
            Stage::Ending(Ending {
                after: After::Pause(why),
                ..
            }) => self.back_off(now, why),
            Stage::Ending(_) => {
                self.last_error = None;
                self.actions.clear();
                self.try_spawn();
            }
            other => self.stage = other,
        }
    }

    /// k3s ended or did not start: it is started again after a pause.
    fn back_off(&mut self, now: Instant, why: String) {
        let delay = self.backoff.next();
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

#[cfg(test)]
mod tests;
