//! Descriptors that the runtime waits for.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the runtime: a socket (made non-blocking by the caller), or a pidfd, which
/// becomes readable when its process ends.
pub fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open as long as it lives, and AsyncFd gives nobody the means to replace it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
