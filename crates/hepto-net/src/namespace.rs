//! The node's network namespace: made, adopted or refused, entered, and let go.
//!
//! A thread's namespace is the thread's alone, so all work inside is done on plain short-lived threads; the process
//! itself, and every worker of the runtime, stays in the host's. A namespace is marked (by the alias of its `lo`) before
//! it is pinned, so that no crash leaves a pinned one without an owner.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::statfs::{FsType, fstatfs};

use crate::error::Error;
use crate::netlink;

/// Where named namespaces are pinned; iproute2's `ip netns` looks here too.
const PINS: &str = "/run/netns";

/// The namespace of the calling thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// The file system of namespaces (`NSFS_MAGIC`, linux/magic.h).
const NSFS: u32 = 0x6e73_6673;

/// The door to a namespace. Cheap to clone; keeps the namespace alive.
#[derive(Debug, Clone)]
pub struct Entry {
    namespace: Arc<OwnedFd>,
}

impl Entry {
    /// Moves the calling thread into the namespace, for good. The thread must be a plain one: a runtime's worker
    /// would take its other tasks along.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// Runs `work` on a short-lived thread inside and waits for it. For work of a few milliseconds, such as opening
    /// a TUN or a socket.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let entry = self.clone();
        on_thread(move || entry.enter().map(|()| work()))?
            .join()
            .map_err(|_| io::Error::other("a thread in the namespace panicked"))?
    }

    /// The same without holding up the runtime, for work that runs programs.
    pub async fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let entry = self.clone();
        on_thread(move || {
            let result = entry.enter().map(|()| work());
            // The receiver is gone only when the caller was cancelled; then no one wants the answer.
            let _ = answer.send(result);
        })?;
        answered
            .await
            .map_err(|_| io::Error::other("a thread in the namespace panicked"))?
    }
}

impl AsFd for Entry {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.namespace.as_fd()
    }
}

impl AsRawFd for Entry {
    fn as_raw_fd(&self) -> RawFd {
        self.namespace.as_raw_fd()
    }
}

fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<thread::JoinHandle<T>> {
    thread::Builder::new().name("netns".into()).spawn(work)
}

/// Where the namespace of this name is pinned.
pub fn path(name: &str) -> PathBuf {
    Path::new(PINS).join(name)
}

/// A namespace and whether this call made it.
#[derive(Debug)]
pub(crate) struct Opened {
    pub entry: Entry,
    pub made: bool,
}

/// Adopts the namespace of this name when it carries the marker, makes it when there is none, refuses all else.
pub(crate) fn open(name: &str, marker: &str) -> Result<Opened, Error> {
    let _lock = prepare_directory()?;
    match look(name, marker)? {
        Found::Ours(entry) => Ok(Opened { entry, made: false }),
        Found::Nothing => {
            let entry = make(marker)?;
            pin(&entry, &path(name))?;
            Ok(Opened { entry, made: true })
        }
    }
}

/// The namespace of this name, when it is there and carries the marker.
///
/// # Errors
/// When something else has its name.
pub fn find(name: &str, marker: &str) -> Result<Option<Entry>, Error> {
    match look(name, marker)? {
        Found::Ours(entry) => Ok(Some(entry)),
        Found::Nothing => Ok(None),
    }
}

enum Found {
    /// Nothing, or the empty file of a run that died before it mounted on it.
    Nothing,
    Ours(Entry),
}

fn look(name: &str, marker: &str) -> Result<Found, Error> {
    let path = path(name);
    let taken = |found: &str| {
        Err(Error::PinTaken {
            path: path.clone(),
            found: found.into(),
        })
    };
    let metadata = match fs::symlink_metadata(&path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Found::Nothing),
        Err(error) => {
            return Err(Error::namespace(
                format!("looking at {}", path.display()),
                error,
            ));
        }
    };
    let kind = metadata.file_type();
    if kind.is_dir() {
        return taken("a directory");
    }
    if kind.is_symlink() {
        return taken("a symbolic link");
    }
    if kind.is_fifo() || kind.is_socket() || kind.is_block_device() || kind.is_char_device() {
        return taken("a special file");
    }
    let file = File::open(&path)
        .map_err(|error| Error::namespace(format!("opening {}", path.display()), error))?;
    if !is_namespace(&file)
        .map_err(|error| Error::namespace(format!("looking at {}", path.display()), error))?
    {
        return if metadata.len() == 0 {
            Ok(Found::Nothing)
        } else {
            taken("a file")
        };
    }
    let entry = Entry {
        namespace: Arc::new(file.into()),
    };
    belongs(&entry, name, marker)?;
    Ok(Found::Ours(entry))
}

fn is_namespace(file: &File) -> io::Result<bool> {
    Ok(is_nsfs(fstatfs(file)?.filesystem_type()))
}

/// The field's width differs between libraries; the magic number fits all of them.
fn is_nsfs(kind: FsType) -> bool {
    kind.0 as u32 == NSFS
}

/// Refuses a namespace that is the host's own, of another kind, or without our marker.
fn belongs(entry: &Entry, name: &str, marker: &str) -> Result<(), Error> {
    let foreign = |found: String| {
        Err(Error::ForeignNamespace {
            name: name.into(),
            found,
            wanted: marker.into(),
        })
    };
    let failed = |error| Error::namespace(format!("entering the namespace {name}"), error);
    let host = fs::metadata(OWN).map_err(failed)?;
    let theirs = File::from(entry.namespace.try_clone().map_err(failed)?)
        .metadata()
        .map_err(failed)?;
    if (host.dev(), host.ino()) == (theirs.dev(), theirs.ino()) {
        return foreign("as the host's own".into());
    }
    let alias = match entry
        .run(|| netlink::block_on(async |handle| handle.alias(netlink::LOOPBACK).await))
    {
        Ok(alias) => alias?,
        // setns says so of a namespace of another kind, such as a mount namespace.
        Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
            return Err(Error::PinTaken {
                path: path(name),
                found: "a namespace of another kind".into(),
            });
        }
        Err(error) => return Err(failed(error)),
    };
    match alias {
        Some(alias) if alias == marker => Ok(()),
        Some(alias) => foreign(format!("`{alias}`")),
        None => foreign("by no one".into()),
    }
}

/// A fresh, marked namespace that no name refers to yet: it goes with its last descriptor.
fn make(marker: &str) -> Result<Entry, Error> {
    let marker = marker.to_owned();
    on_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)
            .map_err(|error| Error::namespace("making a network namespace", error))?;
        netlink::block_on(async |handle| handle.set_alias(netlink::LOOPBACK, &marker).await)?;
        let file =
            File::open(OWN).map_err(|error| Error::namespace(format!("opening {OWN}"), error))?;
        Ok(Entry {
            namespace: Arc::new(file.into()),
        })
    })
    .map_err(|error| Error::namespace("starting a thread", error))?
    .join()
    .map_err(|_| {
        Error::namespace(
            "making a network namespace",
            io::Error::other("its thread panicked"),
        )
    })?
}

fn pin(entry: &Entry, path: &Path) -> Result<(), Error> {
    let failed = |error: io::Error| {
        Error::namespace(
            format!("pinning the namespace at {}", path.display()),
            error,
        )
    };
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .map_err(failed)?;
    let source = format!("/proc/self/fd/{}", entry.as_raw_fd());
    mount(
        Some(source.as_str()),
        path,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .map_err(|error| {
        // Without its mount the file is only in the way of others.
        let _ = fs::remove_file(path);
        failed(error.into())
    })
}

/// Makes the folder of pins a shared mount of itself, as iproute2 does: otherwise a later `ip netns add` does it, which
/// copies our pin beneath, and the namespace outlives its unmounting. The lock keeps other makers out meanwhile;
/// iproute2 takes it too.
fn prepare_directory() -> Result<Flock<File>, Error> {
    let failed = |error: io::Error| Error::namespace(format!("preparing {PINS}"), error);
    let lock = loop {
        fs::create_dir_all(PINS).map_err(failed)?;
        match lock_directory() {
            // The last node to stop took the folder away just now.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            other => break other.map_err(failed)?,
        }
    };
    let share = || {
        mount(
            None::<&str>,
            PINS,
            None::<&str>,
            MsFlags::MS_SHARED | MsFlags::MS_REC,
            None::<&str>,
        )
    };
    match share() {
        // Not a mount point yet.
        Err(Errno::EINVAL) => {
            mount(
                Some(PINS),
                PINS,
                None::<&str>,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                None::<&str>,
            )
            .and_then(|()| share())
            .map_err(|error| failed(error.into()))?;
        }
        other => other.map_err(|error| failed(error.into()))?,
    }
    Ok(lock)
}

fn lock_directory() -> io::Result<Flock<File>> {
    Flock::lock(File::open(PINS)?, FlockArg::LockExclusive).map_err(|(_, error)| error.into())
}

/// Takes the name away, with every mount on it, and leaves the folder of pins as it was found when this was the last
/// one. The namespace itself goes with its last descriptor and process.
pub(crate) fn unpin(name: &str) -> Vec<Error> {
    let mut errors = Vec::new();
    let path = path(name);
    let lock = match lock_directory() {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return errors,
        Err(error) => return vec![Error::namespace(format!("locking {PINS}"), error)],
    };
    loop {
        match umount2(&path, MntFlags::MNT_DETACH) {
            Ok(()) => {}
            // EINVAL: nothing is mounted there any more.
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => {
                errors.push(Error::namespace(
                    format!("unmounting {}", path.display()),
                    error,
                ));
                break;
            }
        }
    }
    match fs::remove_file(&path) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => errors.push(Error::namespace(
            format!("removing {}", path.display()),
            error,
        )),
    }
    drop(lock);
    remove_directory();
    errors
}

/// Undoes [`prepare_directory`] when no pin is left: a mount in use is busy and a folder in use not empty, so both
/// calls are safe to try, and either failing only means that someone else still needs it.
fn remove_directory() {
    let empty = fs::read_dir(PINS).is_ok_and(|mut entries| entries.next().is_none());
    if empty && umount2(PINS, MntFlags::empty()).is_ok() {
        let _ = fs::remove_dir(PINS);
    }
}
