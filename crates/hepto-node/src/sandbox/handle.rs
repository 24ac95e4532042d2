//! What the supervisor holds of a sandbox.

use std::path::Path;
use std::time::Duration;

use super::{Error, Event, Program, Settings};

/// A running sandbox: the connection to its init. Dropping it leaves the node running.
pub struct Sandbox {}

impl Sandbox {
    /// Connects to the node's init, or makes the sandbox and its init first.
    ///
    /// One path for both: see [`Event`] for what the caller hears next.
    ///
    /// # Errors
    /// When a step of the making fails, with everything undone again; [`Error::Version`] when the running
    /// init is another program's.
    pub async fn start_or_adopt(_settings: &Settings) -> Result<Sandbox, Error> {
        todo!()
    }

    /// Whether init was running already.
    pub fn adopted(&self) -> bool {
        todo!()
    }

    /// init's pid on the host.
    pub fn init_pid(&self) -> i32 {
        todo!()
    }

    /// The host's pid of a process of the node, known inside as `pid`.
    pub fn host_pid(&self, _pid: i32) -> Option<i32> {
        todo!()
    }

    /// Starts a program. [`Event::Spawned`] or [`Event::Failed`] follows.
    ///
    /// # Errors
    /// When init cannot be told.
    pub async fn spawn(&mut self, _program: &Program) -> Result<(), Error> {
        todo!()
    }

    /// Sends a signal (its number, signal(7)) to a program.
    ///
    /// # Errors
    /// When init cannot be told. A program that is gone is not an error: its `Exited` is on the way.
    pub async fn signal(&mut self, _id: &str, _signal: i32) -> Result<(), Error> {
        todo!()
    }

    /// The next event. Cancel-safe. After [`Event::InitGone`] it says so for ever.
    pub async fn event(&mut self) -> Event {
        todo!()
    }

    /// Rewrites the node's /etc/hosts in place: the node sees it at once.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_hosts(&self, _text: &str) -> Result<(), Error> {
        todo!()
    }

    /// Ends everything: TERM to the programs, then to every process of a pod, then, when `grace` is over,
    /// the end of init and of all that is left; cgroups and files removed. Gives every failure.
    ///
    /// Takes at most `grace` and a few seconds.
    pub async fn stop(self, _grace: Duration) -> Vec<Error> {
        todo!()
    }
}

/// [`Sandbox::stop`] for a node whose supervisor died, or whose init did: by what lies in its run directory.
///
/// Does nothing where there is nothing.
pub async fn cleanup(_run_directory: &Path, _grace: Duration) -> Vec<Error> {
    todo!()
}
