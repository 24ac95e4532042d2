//! The end of a sandbox: what is still alive, then what is left. It attempts everything and gives every failure.

use std::collections::HashSet;
use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::time::{Instant, sleep, timeout_at};

use super::descriptor::watch;
use super::state::State;
use super::{Error, SOCKET, cgroup, file, mountpoint};

/// How long the kernel may take to end what was killed, and to let go of a cgroup.
const PATIENCE: Duration = Duration::from_secs(10);
/// Neither an emptied cgroup of version 1 nor a process of another parent tells of its end.
const PAUSE: Duration = Duration::from_millis(20);

/// Ends the node of a run directory: TERM to the pods until `deadline`, then KILL to init, and with it to
/// everything in the node's pid namespace; then cgroups, mount points and files.
///
/// `init` is none when it is dead already. Does nothing where there is nothing.
pub async fn end(run_directory: &Path, init: Option<OwnedFd>, deadline: Instant) -> Vec<Error> {
    let mut errors = Vec::new();
    let state = State::read(run_directory).unwrap_or_default();
    let cgroups: Vec<PathBuf> = state
        .hierarchies
        .iter()
        .map(|hierarchy| hierarchy.directory.clone())
        // Everything in them is killed: nothing but ours, whatever the file says.
        .filter(|directory| {
            directory
                .parent()
                .is_some_and(|parent| parent.ends_with("hepto"))
        })
        .collect();
    if let Some(init) = init {
        end_pods(&cgroups, deadline).await;
        // ESRCH: it has just ended.
        let _ = pidfd_send_signal(&init, Signal::KILL);
        if !ended(&init, Instant::now() + PATIENCE).await {
            let why = "it outlives SIGKILL; a process of the node hangs in the kernel".into();
            errors.push(Error::Init {
                socket: run_directory.join(SOCKET),
                why,
            });
        }
    }
    for directory in &cgroups {
        errors.extend(end_cgroup(directory).await);
    }
    errors.extend(mountpoint::release(&state.places));
    // hosts and resolv.conf are the run's: `exec --net` needs them without a sandbox too.
    for name in [SOCKET, file::HOSTNAME] {
        let path = run_directory.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                errors.push(Error::file("remove", &path, error))
            }
            _ => {}
        }
    }
    if errors.is_empty() {
        State::remove(run_directory);
    }
    errors
}

/// TERM to every process of a pod, for nobody else tells them; those that come meanwhile too.
async fn end_pods(cgroups: &[PathBuf], deadline: Instant) {
    let mut told = HashSet::new();
    loop {
        let pids = cgroup::pod_processes(cgroups);
        let pods: Vec<_> = pids.into_iter().filter(|pid| !is_shim(*pid)).collect();
        let Some(first) = pods.first().copied() else {
            return;
        };
        for pid in pods.into_iter().filter(|pid| told.insert(*pid)) {
            if let Some(process) = open(pid) {
                let _ = pidfd_send_signal(&process, Signal::TERM);
            }
        }
        let Some(process) = open(first) else { continue };
        if !ended(&process, deadline).await {
            return;
        }
        // A process that has ended stays in its cgroup until its parent, the shim, has reaped it.
        sleep(PAUSE).await;
    }
}

/// A shim ends when its container does; ended before, it would leave it behind.
fn is_shim(pid: i32) -> bool {
    // The kernel keeps 15 characters of a name.
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .is_ok_and(|name| name.starts_with("containerd-shim"))
}

fn open(pid: i32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()
}

/// Waits for the end of a process; false when the deadline comes first.
async fn ended(process: &OwnedFd, deadline: Instant) -> bool {
    let watched = process
        .try_clone()
        .and_then(|process| watch(process, Interest::READABLE));
    match watched {
        Ok(process) => timeout_at(deadline, process.readable()).await.is_ok(),
        Err(_) => false,
    }
}

async fn end_cgroup(directory: &Path) -> Option<Error> {
    if !directory.exists() {
        return None;
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        let count = cgroup::kill(directory);
        let removed = if count == 0 {
            cgroup::remove(directory)
        } else {
            Err(ErrorKind::ResourceBusy.into())
        };
        match removed {
            Ok(()) => return None,
            Err(_) if Instant::now() < deadline => sleep(PAUSE).await,
            Err(_) if count > 0 => {
                return Some(Error::Survivors {
                    count,
                    path: directory.into(),
                });
            }
            Err(error) => return Some(Error::cgroup("remove", directory, error)),
        }
    }
}
