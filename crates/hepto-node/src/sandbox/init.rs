//! `hepto-node init`: PID 1 of a node.
//!
//! One thread, one poll loop. It makes the node's view, then starts programs when told, reaps everything
//! (by waitpid(-1) alone: pods' shims become its children), keeps the programs' output and what they
//! notify, and tells whoever is connected. It ends when it is killed, or told to from outside, and the node with it. It has
//! no timer and decides nothing: when to start again is the supervisor's business.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::WaitOptions;

use entry::{Entry, Output, notify_path, notify_socket};

use super::log::LogFile;
use super::wire::{self, Reply, Request, Running, VERSION};
use super::{Error, Event, Program, Status, cgroup, launch, mount, mountpoint};

mod entry;

/// Inside: the folder of the notify sockets.
const NOTIFY: &str = "/run/hepto/notify";
/// Inside: init's own log.
const LOG: &str = "/var/log/init.log";

/// Becomes the node's init; its parent's socket is its standard input. Does not return but on error.
///
/// # Errors
/// When the parent cannot be answered, or the poll fails.
pub fn init() -> io::Result<()> {
    let parent = io::stdin().as_fd().try_clone_to_owned()?;
    let birth: launch::Birth = wire::get(&parent)?;
    let made = Init::new(&birth);
    wire::put(&parent, &made.as_ref().map(|_| ()).map_err(Clone::clone))?;
    drop(parent);
    match made {
        Ok(mut init) => init.run(),
        Err(_) => Ok(()),
    }
}

/// `oom_score_adj` of init (proc_pid_oom_score_adj(5)): when the node's memory runs out, whoever uses it ends, and not
/// the one whose end is everybody's. kubelet gives itself the same.
const SPARED: &str = "-999";
/// That of every program: the service's own score is not theirs.
const ORDINARY: &str = "0";

/// Not permitted where it lowers the score and CAP_SYS_RESOURCE is missing; then init has that of its programs.
fn score(score: &str) {
    let file = "/proc/self/oom_score_adj";
    let _ = std::fs::write(file, score).or_else(|_| std::fs::write(file, ORDINARY));
}

/// One connection to the socket.
struct Client {
    socket: OwnedFd,
    watches: bool,
}

struct Init {
    listener: OwnedFd,
    signals: SignalFd,
    /// SIGCHLD and SIGTERM, blocked but while a program is started.
    blocked: SigSet,
    clients: Vec<Client>,
    programs: BTreeMap<String, Entry>,
    outputs: Vec<Output>,
    logs: BTreeMap<PathBuf, LogFile>,
    /// Whether programs have a cgroup of their own.
    unified: bool,
    own: LogFile,
    /// Whether to end with the last program.
    ending: bool,
    /// Until init's end no other node removes what this one's mounts stand on.
    _claim: mountpoint::Claim,
}

impl Init {
    fn new(birth: &launch::Birth) -> Result<Self, Error> {
        // A terminal's signals are for the supervisor; and the service's own score is no pod's.
        rustix::process::setsid()
            .map_err(|error| launch::namespace("leave the terminal", error))?;
        score(SPARED);
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGCHLD);
        blocked.add(Signal::SIGTERM);
        blocked
            .thread_block()
            .map_err(|error| launch::namespace("block signals", error))?;
        let signals =
            SignalFd::with_flags(&blocked, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
                .map_err(|error| launch::namespace("wait for signals", error))?;

        // Before /run becomes private: this is the host's.
        let socket = birth.settings.run_directory.join(super::SOCKET);
        let listener =
            wire::listener(&socket).map_err(|error| Error::file("listen on", &socket, error))?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o600))
            .map_err(|error| Error::file("protect", &socket, error))?;

        let claim = mountpoint::claim(&mount::places(&birth.settings, &birth.host))?;
        mount::apply(&mount::plan(
            &birth.settings,
            &birth.host,
            &birth.hierarchies,
        )?)?;
        rustix::system::sethostname(birth.settings.node.as_bytes())
            .map_err(|error| launch::namespace("set the hostname", error))?;
        let unified = cgroup::unified(&birth.hierarchies);
        if unified {
            cgroup::arrange()?;
        }
        std::env::set_current_dir("/")
            .map_err(|error| Error::file("enter", Path::new("/"), error))?;
        std::fs::create_dir_all(NOTIFY)
            .map_err(|error| Error::file("create", Path::new(NOTIFY), error))?;
        Ok(Init {
            listener,
            signals,
            blocked,
            clients: Vec::new(),
            programs: BTreeMap::new(),
            outputs: Vec::new(),
            logs: BTreeMap::new(),
            unified,
            own: LogFile::open(Path::new(LOG)),
            ending: false,
            _claim: claim,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        self.note("the node's init is ready");
        loop {
            let ready = self.wait()?;
            // Output first, so that a program's last words are on disk when its end is told.
            self.read_outputs(&ready.outputs);
            for id in ready.notified {
                self.read_notify(&id);
            }
            if ready.signal {
                self.hear_signals();
                self.reap();
            }
            if self.ending && !self.programs.values().any(Entry::runs) {
                return Ok(());
            }
            self.serve(&ready.clients);
            if ready.connection {
                self.accept();
            }
        }
    }

    /// SIGTERM from outside is a service manager's that stops the machine, or the scope, when no supervisor is there
    /// to do it: the programs are told, and init ends after them. Whoever is inside has no such say.
    fn hear_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            // A sender that this namespace does not know has no pid in it.
            if signal.ssi_signo == Signal::SIGTERM as u32 && signal.ssi_pid == 0 {
                self.note("told to end from outside");
                self.ending = true;
                let ids: Vec<_> = self.programs.keys().cloned().collect();
                ids.iter()
                    .for_each(|id| self.signal(id, Signal::SIGTERM as i32));
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let readable = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
        let notifying = || {
            self.programs
                .iter()
                .filter_map(|(id, entry)| Some((id, entry.notify.as_ref()?)))
        };
        let mut fds = vec![
            readable(self.signals.as_fd()),
            readable(self.listener.as_fd()),
        ];
        fds.extend(
            self.outputs
                .iter()
                .map(|output| readable(output.pipe.as_fd())),
        );
        fds.extend(notifying().map(|(_, socket)| readable(socket.as_fd())));
        fds.extend(
            self.clients
                .iter()
                .map(|client| readable(client.socket.as_fd())),
        );
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || ready.next().unwrap_or(false);
        Ok(Ready {
            signal: next(),
            connection: next(),
            outputs: self.outputs.iter().map(|_| next()).collect(),
            notified: notifying()
                .filter(|_| next())
                .map(|(id, _)| id.clone())
                .collect(),
            clients: self.clients.iter().map(|_| next()).collect(),
        })
    }

    fn read_outputs(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let logs = &mut self.logs;
        self.outputs.retain_mut(|output| {
            let ready = ready.next().copied().unwrap_or(false);
            !ready || output.drain(logs)
        });
    }

    fn read_notify(&mut self, id: &str) {
        let mut buffer = [0; 8192];
        while let Some(entry) = self.programs.get_mut(id) {
            let Some(Ok(length)) = entry.notify.as_ref().map(|socket| socket.recv(&mut buffer))
            else {
                return;
            };
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
                entry.said.insert(key.into(), value.into());
            }
            self.tell(&Event::Notify {
                id: id.into(),
                text,
            });
        }
    }

    /// Reaps whoever has ended: programs, and every orphan of the node.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let status = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Code(code),
                (None, signal) => Status::Signal(signal.unwrap_or_default()),
            };
            let running = |entry: &&mut Entry| entry.pid == pid && entry.runs();
            let Some(entry) = self.programs.values_mut().find(running) else {
                continue;
            };
            entry.ended = Some(status);
            let id = entry.program.id.clone();
            // What it notified just before is told first; the socket then closes.
            self.read_notify(&id);
            if let Some(entry) = self.programs.get_mut(&id) {
                entry.notify = None;
            }
            self.note(&format!("{id} (pid {pid}) ended: {status:?}"));
            self.tell(&Event::Exited { id, pid, status });
        }
    }

    fn accept(&mut self) {
        use rustix::net::{SocketFlags, accept_with};
        while let Ok(socket) =
            accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        {
            self.clients.push(Client {
                socket,
                watches: false,
            });
        }
    }

    fn serve(&mut self, ready: &[bool]) {
        let mut gone = Vec::new();
        for index in (0..ready.len()).filter(|index| ready[*index]) {
            match wire::get::<Request>(&self.clients[index].socket) {
                Ok(request) => {
                    if self.answer(index, request).is_err() {
                        gone.push(index);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => gone.push(index),
            }
        }
        for index in gone.into_iter().rev() {
            self.clients.remove(index);
        }
    }

    fn answer(&mut self, index: usize, request: Request) -> io::Result<()> {
        match request {
            Request::Hello { version, watch } => {
                let socket = &self.clients[index].socket;
                let programs = self.programs.values().map(|entry| Running {
                    id: entry.program.id.clone(),
                    argv: entry.program.argv.clone(),
                    pid: entry.runs().then_some(entry.pid),
                });
                wire::put(
                    socket,
                    &Reply::Hello {
                        version: VERSION,
                        programs: programs.collect(),
                    },
                )?;
                if version == VERSION && watch {
                    self.programs
                        .values()
                        .flat_map(Entry::past)
                        .try_for_each(|event| wire::put(socket, &Reply::Event(event)))?;
                    self.clients[index].watches = true;
                }
            }
            Request::Spawn(program) => self.spawn(program),
            Request::Signal { id, signal } => self.signal(&id, signal),
        }
        Ok(())
    }

    fn spawn(&mut self, program: Program) {
        let id = program.id.clone();
        if self.programs.get(&id).is_some_and(Entry::runs) {
            let why = "it runs already".into();
            return self.tell(&Event::Failed {
                id: id.clone(),
                error: Error::Program { program: id, why },
            });
        }
        match self.start(program) {
            Ok(entry) => {
                self.note(&format!("{id} started, pid {}", entry.pid));
                let pid = entry.pid;
                self.programs.insert(id.clone(), entry);
                self.tell(&Event::Spawned { id, pid });
            }
            Err((path, why)) => {
                self.note(&format!("{id}: {path} was not started: {why}"));
                let error = Error::Program {
                    program: path,
                    why: why.to_string(),
                };
                self.tell(&Event::Failed { id, error });
            }
        }
        // SIGCHLD may have come, and been lost, while it was not blocked.
        self.reap();
    }

    fn start(&mut self, program: Program) -> Result<Entry, (String, io::Error)> {
        let path = program.argv.first().cloned().unwrap_or_default();
        let mut start = || -> io::Result<(u32, Option<UnixDatagram>)> {
            let (pipe, writer) = io::pipe()?;
            rustix::io::ioctl_fionbio(&pipe, true)?;
            let mut command = Command::new(&path);
            command
                .args(program.argv.iter().skip(1))
                .env_clear()
                .envs(program.env.iter().map(|(k, v)| (k, v)));
            command
                .stdin(Stdio::null())
                .stdout(writer.try_clone()?)
                .stderr(writer)
                .process_group(0);
            let notify = program
                .notify
                .then(|| notify_socket(&program.id))
                .transpose()?;
            if notify.is_some() {
                command.env("NOTIFY_SOCKET", notify_path(&program.id));
            }
            let pid = self.bear(&mut command)?;
            self.outputs.push(Output {
                pipe,
                log: program.log.clone(),
            });
            Ok((pid, notify))
        };
        match start() {
            Ok((pid, notify)) => Ok(Entry {
                pid: pid.cast_signed(),
                program,
                ended: None,
                notify,
                said: BTreeMap::new(),
            }),
            Err(error) => Err((path, error)),
        }
    }

    /// The child inherits the signal mask, the cgroup and the score of the moment.
    fn bear(&self, command: &mut Command) -> io::Result<u32> {
        if self.unified {
            cgroup::stand_in("k3s").map_err(io::Error::other)?;
        }
        self.blocked.thread_unblock()?;
        score(ORDINARY);
        let child = command.spawn();
        score(SPARED);
        self.blocked.thread_block()?;
        if self.unified {
            cgroup::stand_in("init").map_err(io::Error::other)?;
        }
        // Waited for in `reap`, with everybody else.
        child.map(|child| child.id())
    }

    fn signal(&mut self, id: &str, signal: i32) {
        let Some(entry) = self.programs.get(id).filter(|entry| entry.runs()) else {
            return;
        };
        // Not reaped yet, so the pid is still its own.
        if let Ok(signal) = Signal::try_from(signal) {
            let _ = kill(Pid::from_raw(entry.pid), signal);
        }
    }

    /// Tells all that watch. Who does not read is cut off, and connects again.
    fn tell(&mut self, event: &Event) {
        let event = Reply::Event(event.clone());
        for client in self.clients.iter_mut().filter(|client| client.watches) {
            if wire::put(&client.socket, &event).is_err() {
                client.watches = false;
                let _ = rustix::net::shutdown(&client.socket, rustix::net::Shutdown::Both);
            }
        }
    }

    fn note(&mut self, line: &str) {
        let mut text = Vec::new();
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        // Seconds since 1970, as `dmesg` and `journalctl -o short-unix` have them.
        if writeln!(text, "{}.{:03} {line}", now.as_secs(), now.subsec_millis()).is_ok() {
            self.own.write(&text);
        }
    }
}

/// What the poll found.
struct Ready {
    signal: bool,
    connection: bool,
    outputs: Vec<bool>,
    notified: Vec<String>,
    clients: Vec<bool>,
}
