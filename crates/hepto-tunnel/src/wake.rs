//! Being told something through a descriptor: stop, or that a session came or went.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// The longest wait for work.
const IDLE: Timespec = Timespec {
    tv_sec: 1,
    tv_nsec: 0,
};

/// An eventfd: once raised it stays readable until it is read.
pub(crate) struct Flag {
    fd: OwnedFd,
    raised: AtomicBool,
}

impl Flag {
    pub(crate) fn new() -> io::Result<Flag> {
        Ok(Flag {
            fd: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            raised: AtomicBool::new(false),
        })
    }

    /// Makes it readable. Raising it twice is raising it once.
    pub(crate) fn raise(&self) {
        self.raised.store(true, Ordering::Relaxed);
        // The only failure of a non-blocking eventfd is a full counter, and then it is readable already.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// True once it was raised, even if it was read since. No system call.
    pub(crate) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Relaxed)
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Waits until it is raised or `milliseconds` have passed. True when raised.
    pub(crate) fn wait(&self, milliseconds: u32) -> bool {
        let mut fds = [PollFd::new(&self.fd, PollFlags::IN)];
        let timeout = Timespec {
            tv_sec: i64::from(milliseconds / 1000),
            tv_nsec: (i64::from(milliseconds) % 1000) * 1_000_000,
        };
        // An interruption counts as the time having passed: every caller ticks again.
        poll(&mut fds, Some(&timeout)).is_ok_and(|ready| ready > 0)
    }

    /// Waits until `other` is readable or the flag is raised, at most for [`IDLE`]: who waits shows that it lives.
    pub(crate) fn wait_beside(&self, other: BorrowedFd<'_>) {
        let mut fds = [
            PollFd::from_borrowed_fd(other, PollFlags::IN),
            PollFd::new(&self.fd, PollFlags::IN),
        ];
        // An interruption looks like something to read: the caller then finds nothing and comes back.
        let _ = poll(&mut fds, Some(&IDLE));
    }
}
