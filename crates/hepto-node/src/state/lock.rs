//! The lock on a node's storage: one process runs it, and hands the lock on to the program that takes its place.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use rustix::io::{FdFlags, fcntl_setfd};

use crate::fault::{Exit, Fault};

/// The lock's name in the node's folder.
const NAME: &str = "lock";

/// Takes the lock of the node whose folder this is.
///
/// # Errors
/// `E-RUN-TWICE` while another process holds it, `E-STORAGE` when it cannot be opened.
pub fn take(directory: &Path) -> Result<Flock<File>, Fault> {
    let path = directory.join(NAME);
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path);
    let file = opened.map_err(|error| {
        Fault::new(
            "E-STORAGE",
            format!("cannot open {}: {error}", path.display()),
        )
        .fix("check that the disk of node.storage is writable and not full")
    })?;
    lock(file, &path)
}

/// The lock that this process holds since before a reload, as the descriptor `number`.
///
/// # Errors
/// `E-RUN-LOCK` when the descriptor is anything else.
pub fn inherit(number: i32, directory: &Path) -> Result<Flock<File>, Fault> {
    let path = directory.join(NAME);
    let foreign = || {
        let what = format!("descriptor {number} is not the lock {}", path.display());
        Fault::new("E-RUN-LOCK", what).fix("leave out --lock, which a reload alone sets")
    };
    let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino()));
    let held = inode(Path::new(&format!("/proc/self/fd/{number}")));
    match (held, inode(&path)) {
        (Ok(held), Ok(wanted)) if held == wanted => {}
        _ => return Err(foreign()),
    }
    // SAFETY: the descriptor is open, as /proc has just shown, and it is nobody else's: this program has never opened the
    // lock of its node by itself, so only the program before it can have left it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|_| foreign())?;
    lock(File::from(descriptor), &path)
}

fn lock(file: File, path: &Path) -> Result<Flock<File>, Fault> {
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut lock) => {
            // For people and for the message below; the lock itself is what counts, so a full disk is no reason to stop.
            let _ = lock
                .set_len(0)
                .and_then(|()| lock.rewind())
                .and_then(|()| writeln!(lock, "{}", std::process::id()));
            Ok(lock)
        }
        Err((mut file, _)) => {
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            let what = format!(
                "this node already runs as process {} (it holds {})",
                pid.trim(),
                path.display()
            );
            Err(Fault::new("E-RUN-TWICE", what)
                .fix("stop it first: hepto-node stop")
                .exit(Exit::AlreadyRunning))
        }
    }
}
