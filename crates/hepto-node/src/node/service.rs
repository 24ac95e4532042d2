//! The node towards whoever runs it: the signals that end or reload it, and what the service manager is told.

use nix::sys::signal::{SigSet, Signal as Number};
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};

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

/// The node is up, or goes on as before after a reload that was refused.
pub(super) fn ready() {
    notify(&[NotifyState::Ready]);
}

/// A reload begins; systemd wants to know since when (sd_notify(3)).
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock"),
    }
}

/// The node ends in order.
pub(super) fn stopping(why: &str) {
    notify(&[NotifyState::Stopping]);
    tracing::info!(why, "stopping");
}

/// All parts live (sd_notify(3)).
pub(super) fn alive() {
    notify(&[NotifyState::Watchdog]);
}

/// What `systemctl status` shows.
pub(super) fn status(text: &str) {
    notify(&[NotifyState::Status(text)]);
}

/// Tells the service manager, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
