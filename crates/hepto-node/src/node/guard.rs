//! The way back of a reload. The check before the exec cannot show all: a program may pass it and crash once it has the
//! node. So the program that hands over leaves a process of its own image behind, which waits for the new one to prove
//! itself and otherwise takes its place, as after a crash.
//!
//! Meanwhile the guard is the service manager's main process, since that would end the unit with its main process, and
//! it holds the node's lock, so that nobody else starts the node in between.

mod keep;
mod socket;
mod vigil;

use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

pub use keep::keep;
pub use socket::inherit;

use super::successor::{SELF, Successor};

/// How long the guard may take to be there.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the program on trial tells its guard, a byte each.
pub(super) mod word {
    /// It has taken the node over.
    pub const READY: u8 = b'r';
    /// It goes on without a guard.
    pub const PROVEN: u8 = b'p';
    /// It stops in order: its end is no failure.
    pub const STOPPING: u8 = b's';
}

/// What a guard is told at its start.
#[derive(Debug, Clone)]
pub struct Orders {
    /// The process that it watches.
    pub process: i32,
    /// The version of the program on trial.
    pub version: String,
    /// How the program before that was started.
    pub successor: Successor,
}

/// A guard that stands.
pub(super) struct Guard {
    /// Its process.
    pub pid: i32,
    /// To be handed to the program on trial.
    pub socket: UnixStream,
}

impl Guard {
    /// Posts a guard over this process, in which a program of this version is about to be executed.
    ///
    /// # Errors
    /// When it cannot be started, or does not say that it is there.
    pub fn post(successor: &Successor, lock: BorrowedFd<'_>, version: &str) -> io::Result<Guard> {
        let (mut ours, theirs) = UnixStream::pair()?;
        // The standard descriptors pass through where no other process, started at this moment, can inherit them.
        let mut command = Command::new(SELF);
        command
            .arg0("hepto-node")
            .arg("guard")
            .args(["--process", &std::process::id().to_string()])
            .args(["--version-on-trial", version])
            .args(successor.start())
            .stdin(Stdio::from(lock.try_clone_to_owned()?))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(theirs)));
        // It starts the guard proper and ends, so that the guard is nobody's child but the first process's.
        let started = command.status()?;
        drop(command);
        if !started.success() {
            return Err(io::Error::other(format!("it ended with {started}")));
        }
        ours.set_read_timeout(Some(PATIENCE))?;
        let mut pid = [0; 4];
        ours.read_exact(&mut pid)?;
        Ok(Guard {
            pid: i32::from_ne_bytes(pid),
            socket: ours,
        })
    }

    /// Sends it home: there is no program on trial.
    pub fn dismiss(mut self) {
        // One that is gone needs no telling.
        let _ = self.socket.write_all(&[word::PROVEN]);
    }
}

/// The command line by which [`keep`] starts itself once more, detached.
fn again(orders: &Orders) -> Command {
    let mut command = Command::new(PathBuf::from(SELF));
    command
        .arg0("hepto-node")
        .arg("guard")
        .arg("--detached")
        .args(["--process", &orders.process.to_string()])
        .args(["--version-on-trial", &orders.version])
        .args(orders.successor.start());
    command
}
