//! The node towards whoever runs it: the signals that end or reload it, and what the service manager is told.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal as Number};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::guard::word;
use crate::fault::Fault;

/// What may tell the node to end, or to reload.
pub(super) struct Signals {
    pub(super) terminate: Signal,
    pub(super) interrupt: Signal,
    pub(super) hangup: Signal,
}

impl Signals {
    /// Watches for them from now on; one that waited since before a reload's exec comes first.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn watch() -> Result<Self, Fault> {
        let watch = |kind| signal(kind).map_err(unavailable);
        let signals = Signals {
            terminate: watch(SignalKind::terminate())?,
            interrupt: watch(SignalKind::interrupt())?,
            hangup: watch(SignalKind::hangup())?,
        };
        let unblocked = watched().thread_unblock();
        unblocked.map_err(|error| unavailable(error.into()))?;
        Ok(signals)
    }
}

/// The signals that [`Signals`] watches.
pub(super) fn watched() -> SigSet {
    [Number::SIGTERM, Number::SIGINT, Number::SIGHUP]
        .into_iter()
        .collect()
}

/// The fault of a descriptor or signal that the loop cannot do without.
pub(super) fn unavailable(error: std::io::Error) -> Fault {
    let what = format!("cannot watch signals and sessions: {error}");
    Fault::new("E-RUN-LOOP", what).fix("raise the limit of open files (ulimit -n)")
}

/// Who runs this process: the service manager, where there is one; and while this program is on trial after a reload,
/// the guard between the two, from which alone the service manager takes a word.
pub(super) struct Manager {
    guard: Option<UnixStream>,
}

impl Manager {
    /// With the guard that stands by, if one does.
    ///
    /// # Errors
    /// When the kernel refuses a time limit.
    pub fn new(guard: Option<UnixStream>) -> Result<Self, Fault> {
        if let Some(guard) = &guard {
            let limited = guard.set_read_timeout(Some(GUARD_PATIENCE));
            limited.map_err(unavailable)?;
        }
        Ok(Manager { guard })
    }

    /// Whether a guard puts the earlier program back if this one fails.
    pub fn is_guarded(&self) -> bool {
        self.guard.is_some()
    }

    /// The node is up, or goes on as before after a reload that was refused.
    pub fn ready(&self) {
        match &self.guard {
            Some(guard) => tell(guard, word::READY),
            None => ready(),
        }
    }

    /// This program has proved itself, and needs its guard no longer.
    pub fn release(&mut self) {
        if let Some(mut guard) = self.guard.take() {
            tell(&guard, word::PROVEN);
            // It closes its end when the service manager listens to us again.
            if !matches!(guard.read(&mut [0]), Ok(0)) {
                tracing::warn!(
                    code = "W-RELOAD-GUARD",
                    fix = "hepto-node reload sends it home",
                    "the guard of the reload does not go"
                );
            }
        }
    }

    /// A reload begins; systemd wants to know since when (sd_notify(3)).
    pub fn reloading(&mut self) {
        self.release();
        match NotifyState::monotonic_usec_now() {
            Ok(now) => notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::debug!(%error, "no monotonic clock"),
        }
    }

    /// The node ends in order.
    pub fn stopping(&self, why: &str) {
        match &self.guard {
            Some(guard) => tell(guard, word::STOPPING),
            None => stopping(),
        }
        tracing::info!(why, "stopping");
    }

    /// All parts live (sd_notify(3)).
    pub fn alive(&self) {
        if !self.is_guarded() {
            alive();
        }
    }

    /// What `systemctl status` shows; whether it was told.
    pub fn status(&self, text: &str) -> bool {
        if !self.is_guarded() {
            notify(&[NotifyState::Status(text)]);
        }
        !self.is_guarded()
    }
}

/// How long a guard may take to go.
const GUARD_PATIENCE: Duration = Duration::from_secs(5);

fn tell(mut guard: &UnixStream, word: u8) {
    if let Err(error) = guard.write_all(&[word]) {
        tracing::debug!(%error, "the guard of the reload is gone");
    }
}

/// Another process is the main one from now on (sd_notify(3)).
pub(super) fn main_process(pid: i32) {
    if let Ok(pid) = u32::try_from(pid) {
        notify(&[NotifyState::MainPid(pid)]);
    }
}

/// The node is up.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// The node ends in order.
pub(super) fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// The main process lives.
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// Tells the service manager, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
