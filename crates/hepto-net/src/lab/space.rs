//! A pair of namespaces, network and mounts, in which closures and programs run.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::Error;

/// A network namespace together with a mount namespace. Both end with their last process or
/// descriptor.
#[derive(Debug)]
pub struct Space {
    network: OwnedFd,
    mounts: OwnedFd,
}

impl Space {
    /// A new, empty network (its loopback on), and the caller's files with a `/run` of its own;
    /// what is mounted on either side stays there.
    pub fn private() -> Result<Space, Error> {
        apart(|| {
            unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)
                .map_err(|errno| Error::new("cannot make namespaces for a home", errno))?;
            let none = None::<&str>;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
                .map_err(|errno| Error::new("cannot make a home's mounts private", errno))?;
            mount(
                Some("tmpfs"),
                "/run",
                Some("tmpfs"),
                MsFlags::empty(),
                Some("mode=755"),
            )
            .map_err(|errno| Error::new("cannot mount a home's own /run", errno))?;
            let space = Space {
                network: open("/proc/thread-self/ns/net")?,
                mounts: open("/proc/thread-self/ns/mnt")?,
            };
            super::wire::here(async |wire| wire.switch("lo", true).await)?;
            Ok(space)
        })
    }

    /// The same mounts with another network: that of a namespace pinned at `path` as seen there.
    pub fn network_at(&self, path: &Path) -> Result<Space, Error> {
        let mounts = self
            .mounts
            .try_clone()
            .map_err(|error| Error::new("cannot duplicate a descriptor", error))?;
        let network = self.run(|| open(path))??;
        Ok(Space { network, mounts })
    }

    /// Runs `work` on a thread of its own inside the namespaces. Sockets and files that it opens
    /// belong there for good, wherever they are used afterwards.
    ///
    /// # Panics
    /// When `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
        apart(|| {
            self.enter()
                .map_err(|errno| Error::new("cannot enter the namespaces of a home", errno))?;
            Ok(work())
        })
    }

    /// Starts a program inside.
    pub fn spawn(&self, command: &mut Command) -> Result<Child, Error> {
        // A child is born into the namespaces of the thread that forks it.
        let spawned = self.run(|| command.spawn())?;
        spawned.map_err(|error| {
            Error::new(
                format!("cannot start {}", command.get_program().display()),
                error,
            )
        })
    }

    /// The descriptor of the network namespace.
    pub fn network(&self) -> &OwnedFd {
        &self.network
    }

    /// Keeps the network of `other` alive for as long as these mounts live, at `path` among them.
    pub fn pin(&self, other: &Space, path: &str) -> Result<(), Error> {
        let pinned = self.run(|| {
            File::create(path)?;
            let source = format!("/proc/self/fd/{}", other.network.as_raw_fd());
            mount(
                Some(source.as_str()),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(io::Error::from)
        })?;
        pinned.map_err(|error| Error::new(format!("cannot pin a network at {path}"), error))
    }

    fn enter(&self) -> nix::Result<()> {
        // A thread that shares root and working directory with others may not change its mounts.
        unshare(CloneFlags::CLONE_FS)?;
        setns(self.mounts.as_fd(), CloneFlags::CLONE_NEWNS)?;
        setns(self.network.as_fd(), CloneFlags::CLONE_NEWNET)
    }
}

/// Runs `work` on a thread that ends with it, so that the namespaces it takes do not stick to
/// anyone else.
fn apart<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("lab".to_owned())
            .spawn_scoped(scope, work)
            .map_err(|error| Error::new("cannot start a thread", error))?;
        thread
            .join()
            .unwrap_or_else(|payload| panic::resume_unwind(payload))
    })
}

fn open(path: impl AsRef<Path>) -> Result<OwnedFd, Error> {
    let path = path.as_ref();
    let file = fs::File::open(path);
    file.map(OwnedFd::from)
        .map_err(|error| Error::new(format!("cannot open {}", path.display()), error))
}
