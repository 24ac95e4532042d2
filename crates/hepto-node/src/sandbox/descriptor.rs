//! Descriptors: those that the runtime waits for, and those that must not be passed on.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_setfd};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime: a socket (made non-blocking by the caller), or a pidfd, which
/// becomes readable when its process ends.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open as long as it lives, and AsyncFd gives nobody the means to replace it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Passes nothing on but standard input, output and error: not systemd's sockets, not what a shell or a
/// service manager before it left open. For a process of one thread.
pub fn keep() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?
            .file_name()
            .to_str()
            .and_then(|name| name.parse::<i32>().ok())
        else {
            continue;
        };
        if number > 2 {
            // SAFETY: it was open a moment ago, and nobody else closes any; only its flag is set.
            fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)?;
        }
    }
    Ok(())
}
