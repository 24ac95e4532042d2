//! What the supervisor holds of a sandbox.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::contact::Contact;
use super::descriptor::watch;
use super::state::State;
use super::wire::{self, Reply, Request};
use super::{Error, Event, Program, SOCKET, Settings, end, file, launch, limit};

/// A running sandbox: the connection to its init. Dropping it leaves the node running.
pub struct Sandbox {
    socket: AsyncFd<OwnedFd>,
    pidfd: AsyncFd<OwnedFd>,
    pid: i32,
    run_directory: PathBuf,
    adopted: bool,
    /// Why the limits of the day could not be applied to a node that runs.
    unlimited: Option<Error>,
    /// The programs that were started, with the pid of those that run.
    programs: BTreeMap<String, Option<i32>>,
    gone: bool,
}

impl Sandbox {
    /// Connects to the node's init, or makes the sandbox and its init first.
    ///
    /// One path for both: see [`Event`] for what the caller hears next.
    ///
    /// # Errors
    /// When a step of the making fails, with everything undone again; [`Error::Version`] when the running
    /// init is another program's.
    pub async fn start_or_adopt(settings: &Settings) -> Result<Sandbox, Error> {
        if let Ok(contact) = Contact::open(&settings.run_directory, true) {
            let contact = contact.agreed()?;
            if is_in(contact.pid, &settings.netns) {
                return Sandbox::adopt(contact, settings).await;
            }
            tracing::warn!(
                code = "W-SANDBOX-NETNS",
                fix = "nothing now; find out who removed it, as `ip netns delete` does",
                netns = %settings.netns.display(),
                "the node's programs are in a network namespace that is gone: they are ended and started again"
            );
            clear(&settings.run_directory, Some(contact.pidfd)).await;
        } else {
            clear(&settings.run_directory, None).await;
        }
        let started = async {
            launch::start(settings).await?;
            // Before anything but init runs in it.
            limit::apply(&settings.run_directory, &settings.limits).await?;
            let contact = Contact::open(&settings.run_directory, true)?.agreed()?;
            Sandbox::new(contact, &settings.run_directory, false)
        };
        match started.await {
            Ok(sandbox) => Ok(sandbox),
            Err(error) => {
                let init = Contact::open(&settings.run_directory, false).ok();
                clear(&settings.run_directory, init.map(|contact| contact.pidfd)).await;
                Err(error)
            }
        }
    }

    async fn adopt(contact: Contact, settings: &Settings) -> Result<Sandbox, Error> {
        let run_directory = &settings.run_directory;
        let mut sandbox = Sandbox::new(contact, run_directory, true)?;
        // Pods that run are not ended for a limit that they exceed: it is told.
        if let Err(error) = limit::apply(run_directory, &settings.limits).await {
            tracing::error!(code = error.code(), fix = error.fix(), "{error}");
            sandbox.unlimited = Some(error);
        }
        file::write_network(run_directory, &settings.hosts, &settings.resolv_conf)?;
        warn_of_changes(settings);
        Ok(sandbox)
    }

    fn new(contact: Contact, run_directory: &Path, adopted: bool) -> Result<Self, Error> {
        let failed = |error: io::Error| lost(run_directory, &error);
        Ok(Sandbox {
            socket: registered(contact.socket).map_err(failed)?,
            pidfd: watch(contact.pidfd, Interest::READABLE).map_err(failed)?,
            pid: contact.pid,
            run_directory: run_directory.to_owned(),
            adopted,
            unlimited: None,
            programs: BTreeMap::new(),
            gone: false,
        })
    }

    /// Whether init was running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// Why the limits could not be applied to a node that ran already.
    pub fn unlimited(&self) -> Option<&Error> {
        self.unlimited.as_ref()
    }

    /// The host's pid of a process of the node, known inside as `pid`. Looks through all of /proc.
    pub fn host_pid(&self, pid: i32) -> Option<i32> {
        let numbers = |host: &str| -> Option<Vec<i32>> {
            let status = fs::read_to_string(format!("/proc/{host}/status")).ok()?;
            let line = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))?;
            line.split_whitespace()
                .map(|number| number.parse().ok())
                .collect()
        };
        // A line has one pid a namespace, from /proc's own inwards; pods have more of them.
        let depth = numbers(&self.pid.to_string())?.len().checked_sub(1)?;
        let namespace = |host: &str| fs::read_link(format!("/proc/{host}/ns/pid")).ok();
        let own = namespace(&self.pid.to_string())?;
        let entries = fs::read_dir("/proc").ok()?.flatten();
        entries
            .filter_map(|entry| entry.file_name().into_string().ok())
            .find_map(|host| {
                let matches = numbers(&host)?.get(depth) == Some(&pid) && namespace(&host)? == own;
                if matches { host.parse().ok() } else { None }
            })
    }

    /// Starts a program. [`Event::Spawned`] or [`Event::Failed`] follows.
    ///
    /// # Errors
    /// When init cannot be told.
    pub async fn spawn(&mut self, program: &Program) -> Result<(), Error> {
        self.ask(&Request::Spawn(program.clone())).await
    }

    /// Sends a signal (its number, signal(7)) to a program.
    ///
    /// # Errors
    /// When init cannot be told. A program that is gone is not an error: its `Exited` is on the way.
    pub async fn signal(&mut self, id: &str, signal: i32) -> Result<(), Error> {
        self.ask(&Request::Signal {
            id: id.into(),
            signal,
        })
        .await
    }

    async fn ask(&mut self, request: &Request) -> Result<(), Error> {
        let sent = self
            .socket
            .async_io(Interest::WRITABLE, |socket| wire::put(socket, request))
            .await;
        sent.map_err(|error| lost(&self.run_directory, &error))
    }

    /// The next event. Cancel-safe. After [`Event::InitGone`] there is none.
    pub async fn event(&mut self) -> Event {
        while !self.gone {
            let reply = tokio::select! {
                // What init said before its end comes before its end.
                biased;
                reply = self.socket.async_io(Interest::READABLE, |socket| wire::get(socket)) => reply,
                _ = self.pidfd.readable() => Err(io::ErrorKind::UnexpectedEof.into()),
            };
            match reply {
                Ok(Reply::Event(event)) => {
                    if self.is_news(&event) {
                        return event;
                    }
                }
                Ok(Reply::Hello { .. }) => {}
                Err(error) => {
                    // init cuts off who reads too slowly; the past is then told again.
                    if let Err(again) = self.reconnect() {
                        tracing::debug!(%error, %again, "init is gone");
                        self.gone = true;
                        return Event::InitGone;
                    }
                }
            }
        }
        std::future::pending().await
    }

    fn reconnect(&mut self) -> Result<(), Error> {
        let contact = Contact::open(&self.run_directory, true)?.agreed()?;
        if contact.pid != self.pid {
            return Err(lost(
                &self.run_directory,
                &io::Error::other("another init has taken its place"),
            ));
        }
        self.socket =
            registered(contact.socket).map_err(|error| lost(&self.run_directory, &error))?;
        Ok(())
    }

    /// Keeps the table of programs, by which what is told again is known.
    fn is_news(&mut self, event: &Event) -> bool {
        match event {
            Event::Spawned { id, pid } => {
                self.programs.insert(id.clone(), Some(*pid)) != Some(Some(*pid))
            }
            Event::Exited { id, .. } => self.programs.insert(id.clone(), None) != Some(None),
            Event::Failed { .. } | Event::Notify { .. } | Event::InitGone => true,
        }
    }

    /// Ends everything: TERM to the programs, then (when they have ended, or half of `grace` is over) to every
    /// process of a pod, then, at the end of `grace`, the end of init and of all that is left; cgroups and files
    /// removed. Gives every failure.
    ///
    /// Takes at most `grace` and a few seconds.
    pub async fn stop(mut self, grace: Duration) -> Vec<Error> {
        let now = Instant::now();
        // Whatever init tells about its present state was sent by now.
        let running = |sandbox: &Sandbox| sandbox.programs.values().any(Option::is_some);
        for id in self.known().await {
            // init that cannot be told any more is killed below.
            let _ = self
                .signal(&id, nix::sys::signal::Signal::SIGTERM as i32)
                .await;
        }
        while running(&self) && !self.gone {
            match timeout_at(now + grace / 2, self.event()).await {
                Ok(Event::InitGone) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let init = self.pidfd.into_inner();
        end::end(&self.run_directory, Some(init), now + grace).await
    }

    /// The ids of the programs that run, also when the caller never asked for an event.
    async fn known(&mut self) -> Vec<String> {
        if let Ok(contact) = Contact::open(&self.run_directory, false) {
            self.programs = contact
                .programs
                .into_iter()
                .map(|program| (program.id, program.pid))
                .collect();
        }
        self.programs
            .iter()
            .filter(|(_, pid)| pid.is_some())
            .map(|(id, _)| id.clone())
            .collect()
    }
}

/// [`Sandbox::stop`] for a node whose supervisor died, or whose init did: by what lies in its run directory.
///
/// Does nothing where there is nothing.
pub async fn cleanup(run_directory: &Path, grace: Duration) -> Vec<Error> {
    let deadline = Instant::now() + grace;
    match Contact::open(run_directory, true) {
        Ok(contact) if contact.version == wire::VERSION => {
            match Sandbox::new(contact, run_directory, true) {
                Ok(sandbox) => sandbox.stop(grace).await,
                Err(error) => vec![error],
            }
        }
        // We cannot speak with it, but end it.
        Ok(contact) => end::end(run_directory, Some(contact.pidfd), deadline).await,
        Err(_) => end::end(run_directory, None, deadline).await,
    }
}

fn registered(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    watch(socket, Interest::READABLE | Interest::WRITABLE)
}

fn lost(run_directory: &Path, error: &io::Error) -> Error {
    Error::Init {
        socket: run_directory.join(SOCKET),
        why: error.to_string(),
    }
}

/// Ends at once what is in the way of a new sandbox.
async fn clear(run_directory: &Path, init: Option<OwnedFd>) {
    for error in end::end(run_directory, init, Instant::now()).await {
        tracing::warn!(
            code = "E-STOP-LEFTOVERS",
            fix = "hepto-node stop tries again",
            "not removed: {error}"
        );
    }
}

/// Whether a process is in the network namespace that is pinned there.
fn is_in(pid: i32, pin: &Path) -> bool {
    let inode = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let own = inode(Path::new(&format!("/proc/{pid}/ns/net")));
    own.is_some() && own == inode(pin)
}

/// A sandbox that is adopted keeps the mounts that it was made with.
fn warn_of_changes(settings: &Settings) {
    let Some(made) = State::read(&settings.run_directory).and_then(|state| state.settings) else {
        return;
    };
    let resolve = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
    let now: Vec<_> = settings.data.iter().map(resolve).collect();
    if made.data != now {
        tracing::warn!(
            code = "W-NODE-DATA",
            fix = "stop the node and run it again to apply that",
            "node.data has changed since the node was started"
        );
    }
}
