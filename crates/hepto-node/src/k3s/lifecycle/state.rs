//! The state of k3s as the operator sees it.

use std::fmt;

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
    /// k3s is being ended, to be started anew.
    Restarting,
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
            State::Restarting => "restarting",
            State::Backoff => "backing off",
            State::Stopping => "stopping",
            State::Stopped => "stopped",
        })
    }
}
