//! The guard's own process: one thread, one poll loop.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{dup2_stdin, dup2_stdout};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal, setsid,
};

use super::super::service::{self, watched};
use super::super::successor::{SELF, execute};
use super::vigil::{Verdict, Vigil, bound};
use super::{Orders, again};

/// Between two looks at the clock, and two signs of life for the service manager.
const TICK: Duration = Duration::from_secs(1);

/// Stands guard over a program on trial. The node's lock is the standard input, the socket to the program on trial the
/// standard output. Where `detached` is not set, it starts itself once more and ends.
///
/// # Errors
/// When it cannot watch the process, or cannot take the node back.
pub fn keep(orders: &Orders, detached: bool) -> io::Result<ExitCode> {
    if !detached {
        again(orders).spawn()?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut keeper = Keeper::new(orders)?;
    loop {
        match keeper.next()? {
            Verdict::Wait => {}
            Verdict::Ready => service::ready(),
            Verdict::Stopping => {
                keeper.lock = None;
                service::stopping();
            }
            Verdict::Release => {
                service::main_process(orders.process);
                return Ok(ExitCode::SUCCESS);
            }
            Verdict::Done => return Ok(ExitCode::SUCCESS),
            Verdict::PutBack(why) => return keeper.put_back(orders, &why),
        }
    }
}

struct Keeper {
    /// None once the node stops.
    lock: Option<OwnedFd>,
    /// None once the program on trial has closed it.
    socket: Option<UnixStream>,
    process: OwnedFd,
    /// SIGTERM, SIGINT and SIGHUP, blocked: whoever sends one means the node.
    signals: SignalFd,
    /// The node is to end, whoever runs it by then.
    told: Option<Signal>,
    vigil: Vigil,
}

impl Keeper {
    fn new(orders: &Orders) -> io::Result<Self> {
        watched().thread_block()?;
        // A terminal's signals are for the program on trial.
        setsid()?;
        let pid = Pid::from_raw(orders.process).ok_or(ErrorKind::InvalidInput)?;
        let lock = io::stdin().as_fd().try_clone_to_owned()?;
        let socket = UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
        dup2_stdin(File::open("/dev/null")?)?;
        dup2_stdout(io::stderr())?;
        let mut keeper = Keeper {
            lock: Some(lock),
            socket: None,
            process: pidfd_open(pid, PidfdFlags::empty())?,
            signals: SignalFd::with_flags(
                &watched(),
                SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
            )?,
            told: None,
            vigil: Vigil::new(Instant::now(), bound()),
        };
        let own = i32::try_from(std::process::id()).map_err(io::Error::other)?;
        (&socket).write_all(&own.to_ne_bytes())?;
        socket.set_nonblocking(true)?;
        keeper.socket = Some(socket);
        Ok(keeper)
    }

    /// Waits for something to happen, at most a tick.
    fn next(&mut self) -> io::Result<Verdict> {
        let ended = self.wait()?;
        service::alive();
        while let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).map_err(io::Error::other)?;
            if let Some(signal) = Signal::from_named_raw(number) {
                // One that has ended hears nothing: that is seen next.
                let _ = pidfd_send_signal(&self.process, signal);
                self.told = Some(signal)
                    .filter(|signal| *signal != Signal::HUP)
                    .or(self.told);
            }
        }
        // What it said before its end comes before its end.
        let now = Instant::now();
        if let Some(said) = self.read() {
            return Ok(self.vigil.hear(said, now));
        }
        Ok(match ended {
            true => self.vigil.ended(now),
            false => self.vigil.lives(now),
        })
    }

    /// Whether the process has ended (pidfd_open(2): readable then).
    fn wait(&self) -> io::Result<bool> {
        let mut fds = vec![
            PollFd::new(&self.process, PollFlags::IN),
            PollFd::new(&self.signals, PollFlags::IN),
        ];
        fds.extend(
            self.socket
                .as_ref()
                .map(|socket| PollFd::new(socket, PollFlags::IN)),
        );
        let tick = Timespec::try_from(TICK).map_err(io::Error::other)?;
        match poll(&mut fds, Some(&tick)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    fn read(&mut self) -> Option<u8> {
        let mut said = [0];
        match self.socket.as_mut()?.read(&mut said) {
            Ok(1) => Some(said[0]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                None
            }
            // A program that knows of no guard has closed it; its end is seen by its process.
            _ => {
                self.socket = None;
                None
            }
        }
    }

    /// Ends what is left of the program on trial, and becomes the node.
    fn put_back(self, orders: &Orders, why: &str) -> io::Result<ExitCode> {
        let version = &orders.version;
        tracing::error!(
            code = "W-RELOAD-BACK",
            fix = "install another version, then hepto-node reload",
            "hepto-node {version} {why}; the program from before the reload takes the node back"
        );
        // One that has ended cannot be killed.
        let _ = pidfd_send_signal(&self.process, Signal::KILL);
        while !self.wait()? {
            service::alive();
        }
        // It waits, blocked, for the program that is executed now.
        if let Some(signal) = self.told {
            kill_process(getpid(), signal)?;
        }
        let lock = self.lock.ok_or(ErrorKind::NotFound)?;
        fcntl_setfd(&lock, FdFlags::empty())?;
        let mut arguments = orders.successor.arguments(lock.as_raw_fd());
        arguments
            .extend(["--put-back", &format!("hepto-node {version} {why}")].map(OsString::from));
        match execute(Path::new(SELF), &arguments)? {}
    }
}
