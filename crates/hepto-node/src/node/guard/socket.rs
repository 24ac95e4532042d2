//! The socket by which a program on trial speaks to its guard: a descriptor that the program before it left open.
#![allow(unsafe_code)]

use std::fs;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::io::{FdFlags, fcntl_setfd};

use crate::fault::Fault;

/// The socket that this process holds since before a reload, as the descriptor `number`.
///
/// # Errors
/// `E-RUN-LOCK` when the descriptor is anything else.
pub fn inherit(number: i32) -> Result<UnixStream, Fault> {
    let foreign = || {
        let what = format!("descriptor {number} is no socket to a guard");
        Fault::new("E-RUN-LOCK", what).fix("leave out --guard, which a reload alone sets")
    };
    let link = fs::read_link(format!("/proc/self/fd/{number}")).map_err(|_| foreign())?;
    if number <= 2 || !link.to_string_lossy().starts_with("socket:") {
        return Err(foreign());
    }
    // SAFETY: the descriptor is open, as /proc has just shown. It is called before this program opens any socket of its
    // own, so only the program before it can have left one.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&descriptor, FdFlags::CLOEXEC).map_err(|_| foreign())?;
    Ok(UnixStream::from(descriptor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_socket_is_refused() {
        for number in [1, 100_000] {
            assert_eq!(inherit(number).unwrap_err().code, "E-RUN-LOCK");
        }
    }
}
