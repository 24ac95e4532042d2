//! A connection to the init of a node, made and greeted: what `run`, `stop`, `exec` and `kubectl` start from.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::{self, Timeout};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::state::State;
use super::wire::{self, Reply, Request, Running, VERSION};
use super::{Error, SOCKET, cgroup, launch};

/// init answers from a poll loop that never waits; one that takes longer is stopped or frozen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A living init.
pub struct Contact {
    /// The connection, greeted.
    pub(super) socket: OwnedFd,
    /// init's pid on the host.
    pub pid: i32,
    /// init itself, whatever becomes of the pid.
    pub(super) pidfd: OwnedFd,
    /// The version that it speaks.
    pub(super) version: u32,
    /// Its programs, also those that have ended.
    pub programs: Vec<Running>,
}

impl Contact {
    /// Connects to the init of the node that has this run directory; `watch` asks for its events.
    ///
    /// # Errors
    /// [`Error::Init`] when nobody answers.
    pub(super) fn open(run_directory: &Path, watch: bool) -> Result<Contact, Error> {
        let path = run_directory.join(SOCKET);
        Self::connect(&path, watch).map_err(|error| Error::Init {
            socket: path,
            why: error.to_string(),
        })
    }

    fn connect(path: &Path, watch: bool) -> io::Result<Contact> {
        let socket = wire::client(path)?;
        // The credentials are those of whom listens. It answers after its descriptor was opened, so the
        // pid had not been given to another by then.
        let pid: Pid = sockopt::socket_peercred(&socket)?.pid;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        wire::put(
            &socket,
            &Request::Hello {
                version: VERSION,
                watch,
            },
        )?;
        match wire::get(&socket)? {
            Reply::Hello { version, programs } => Ok(Contact {
                socket,
                pid: pid.as_raw_nonzero().get(),
                pidfd,
                version,
                programs,
            }),
            Reply::Event(_) => Err(io::Error::other("it speaks before it greets")),
        }
    }

    /// The same, when both sides speak the same version.
    pub(super) fn agreed(self) -> Result<Contact, Error> {
        match self.version {
            VERSION => Ok(self),
            theirs => Err(Error::Version {
                theirs,
                ours: VERSION,
            }),
        }
    }
}

/// Moves the calling process, which must have one thread, into the node: cgroups and all namespaces. Its children
/// are born in the node's pid namespace.
///
/// # Errors
/// When the node has no init, or the kernel refuses.
pub fn enter(run_directory: &Path) -> Result<(), Error> {
    let contact = Contact::open(run_directory, false)?;
    // While the host's paths are seen.
    if let Some(state) = State::read(run_directory) {
        cgroup::doors(&state.hierarchies)
            .iter()
            .try_for_each(|door| cgroup::join(door))?;
    }
    join(&contact).map_err(|error| launch::namespace("enter the node's namespaces", error))
}

/// Enters init's namespaces by their files in `/proc`: setns(2) takes a pidfd only since Linux 5.8.
fn join(contact: &Contact) -> io::Result<()> {
    const KINDS: [(&str, CloneFlags); 6] = [
        ("cgroup", CloneFlags::CLONE_NEWCGROUP),
        ("ipc", CloneFlags::CLONE_NEWIPC),
        ("uts", CloneFlags::CLONE_NEWUTS),
        ("net", CloneFlags::CLONE_NEWNET),
        ("pid", CloneFlags::CLONE_NEWPID),
        ("mnt", CloneFlags::CLONE_NEWNS),
    ];
    // All are opened first, while the host's /proc is seen.
    let directory = PathBuf::from(format!("/proc/{}/ns", contact.pid));
    let open = |(name, kind)| File::open(directory.join(name)).map(|file| (file, kind));
    let files = KINDS
        .into_iter()
        .map(open)
        .collect::<io::Result<Vec<_>>>()?;
    // They are init's, and not another's that was given its pid, while init lives (pidfd_open(2): readable when it has ended).
    let mut ended = [PollFd::new(&contact.pidfd, PollFlags::IN)];
    if poll(&mut ended, Some(&Timespec::default()))? > 0 {
        return Err(Errno::ESRCH.into());
    }
    for (file, kind) in files {
        setns(file, kind)?;
    }
    Ok(())
}

/// Whether this program speaks the language of the init of a node, if one lives.
///
/// # Errors
/// [`Error::Version`] when not.
pub fn understands(run_directory: &Path) -> Result<(), Error> {
    match Contact::open(run_directory, false) {
        Ok(contact) => contact.agreed().map(drop),
        Err(_) => Ok(()),
    }
}

/// The programs of a node, as its init knows them.
///
/// # Errors
/// When the node has no init.
pub fn programs(run_directory: &Path) -> Result<Contact, Error> {
    Contact::open(run_directory, false)
}
