//! The control socket: what the commands ask of a running node. One JSON object a line each way, versioned.
//!
//! The socket is root's alone, twice: by its mode and by the kernel's word on who connected (`SO_PEERCRED`).

use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader as AsyncBufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};

use crate::fault::Fault;
use crate::snapshot::shelf::Kept;
use crate::status::{PeerStatus, Status};

/// The socket's name in the run directory.
pub const SOCKET: &str = "control.sock";
/// The version of the requests and answers.
const VERSION: u32 = 1;
/// The longest request, bytes.
const REQUEST_LIMIT: u64 = 4096;
/// How long a command waits for an answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// What a command can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ask {
    /// The report.
    Status,
    /// The other nodes.
    Peers,
    /// Stop; the connection stays open until the process ends.
    Stop,
    /// End k3s and its pods until `Resume`; the mesh stays.
    Pause,
    /// Start k3s again.
    Resume,
    /// Make a snapshot of the master; the answer comes when it is made.
    Snapshot,
    /// Let the installed program take over; the connection stays open until it does.
    Reload,
}

/// What the node answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// To `Status`.
    Status(Box<Status>),
    /// To `Peers`.
    Peers(Vec<PeerStatus>),
    /// To `Stop`.
    Stopping,
    /// To `Pause`, when all has ended.
    Paused,
    /// To `Resume`.
    Resumed,
    /// To `Snapshot`: it lies on the disk.
    Snapshot(Kept),
    /// To `Reload`, `Pause`, `Resume` and `Snapshot`: it cannot be, for this reason.
    Refused(String),
    /// The request was not understood.
    Error(String),
}

#[derive(Debug, Serialize, Deserialize)]
struct Request {
    version: u32,
    request: Ask,
}

#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    version: u32,
    answer: Answer,
}

/// Where parts of the node ask what the commands ask.
#[derive(Debug, Clone)]
pub struct Requests(mpsc::Sender<Pending>);

impl Requests {
    /// Asks the node's main loop; `None` when it has ended.
    pub async fn ask(&self, ask: Ask) -> Option<Answer> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Pending { ask, answer }).await.ok()?;
        answered.await.ok()
    }
}

/// A request on its way to the node's main loop.
#[derive(Debug)]
pub struct Pending {
    /// What is asked.
    pub ask: Ask,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// Serves the control socket in `run_directory` on the current runtime; requests arrive at the receiver, those of
/// other parts too.
///
/// # Errors
/// `E-CONTROL` when the socket cannot be made.
pub fn serve(run_directory: &Path) -> Result<(Requests, mpsc::Receiver<Pending>), Fault> {
    let path = run_directory.join(SOCKET);
    // The lock is ours, so a socket that lies here is a dead run's.
    let _ = std::fs::remove_file(&path);
    let listen = || {
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok::<_, std::io::Error>(listener)
    };
    let listener = listen().map_err(|error| {
        Fault::new(
            "E-CONTROL",
            format!("cannot listen on {}: {error}", path.display()),
        )
        .fix("check that /run is writable and not full")
    })?;
    let (sender, receiver) = mpsc::channel(16);
    let requests = Requests(sender);
    let node = requests.clone();
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(converse(stream, node.clone()))),
                // Out of descriptors: a pause lets others close theirs.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok((requests, receiver))
}

async fn converse(stream: UnixStream, node: Requests) {
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == 0) {
        return;
    }
    let (reader, mut writer) = stream.into_split();
    let mut reader = AsyncBufReader::new(reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader)
            .take(REQUEST_LIMIT)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let answer = match serde_json::from_slice::<Request>(&line) {
            Ok(Request {
                version: VERSION,
                request,
            }) => match node.ask(request).await {
                Some(answer) => answer,
                None => return,
            },
            Ok(Request { version, .. }) => {
                Answer::Error(format!("this node speaks version {VERSION}, not {version}"))
            }
            Err(error) => Answer::Error(format!("the request cannot be read: {error}")),
        };
        let Ok(mut text) = serde_json::to_vec(&Reply {
            version: VERSION,
            answer,
        }) else {
            return;
        };
        text.push(b'\n');
        if writer.write_all(&text).await.is_err() {
            return;
        }
    }
}

/// The command's side of a control connection.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<BlockingStream>,
}

impl Client {
    /// Connects to the node of `run_directory`.
    ///
    /// # Errors
    /// When no process answers there.
    pub fn connect(run_directory: &Path) -> std::io::Result<Client> {
        let stream = BlockingStream::connect(run_directory.join(SOCKET))?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Client {
            stream: BufReader::new(stream),
        })
    }

    /// Asks one thing and waits for the answer.
    ///
    /// # Errors
    /// When the node went away, stays silent for ten seconds, or does not understand.
    pub fn ask(&mut self, request: Ask) -> anyhow::Result<Answer> {
        self.send(request)?;
        let answer = self.receive()?;
        answer.context("the node closed its control socket")
    }

    /// Asks one thing whose answer may take as long as `limit`.
    ///
    /// # Errors
    /// As [`Client::ask`].
    pub fn ask_within(&mut self, request: Ask, limit: Duration) -> anyhow::Result<Answer> {
        self.stream.get_mut().set_read_timeout(Some(limit))?;
        self.ask(request)
    }

    fn send(&mut self, request: Ask) -> anyhow::Result<()> {
        let mut text = serde_json::to_vec(&Request {
            version: VERSION,
            request,
        })?;
        text.push(b'\n');
        let sent = self.stream.get_mut().write_all(&text);
        sent.context("the node closed its control socket")
    }

    /// The next answer; `None` when the connection has ended.
    fn receive(&mut self) -> anyhow::Result<Option<Answer>> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => return Ok(None),
            // A process that ends with a request unread cuts the connection off.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            other => other.context("the node does not answer on its control socket")?,
        };
        let reply: Reply = serde_json::from_str(&line)
            .context("the node's answer cannot be read: is it of another version?")?;
        match reply.answer {
            Answer::Error(error) => anyhow::bail!("the node refused the request: {error}"),
            answer => Ok(Some(answer)),
        }
    }

    /// The process that answers there.
    ///
    /// # Errors
    /// When it is gone.
    pub fn process(&self) -> std::io::Result<OwnedFd> {
        let peer = socket_peercred(self.stream.get_ref())?;
        Ok(pidfd_open(peer.pid, PidfdFlags::empty())?)
    }

    /// Has the installed program take over; returns when it does, or with the reason why it does not.
    ///
    /// # Errors
    /// When the node stays silent for `limit`.
    pub fn reload(mut self, limit: Duration) -> anyhow::Result<Result<(), String>> {
        self.send(Ask::Reload)?;
        self.stream.get_mut().set_read_timeout(Some(limit))?;
        match self.receive() {
            Ok(Some(Answer::Refused(why))) => Ok(Err(why)),
            Ok(Some(answer)) => anyhow::bail!("the node answers something else: {answer:?}"),
            Ok(None) => Ok(Ok(())),
            Err(error) => Err(error),
        }
    }

    /// Has the node make a snapshot and waits for it; gives it, or the reason why there is none.
    ///
    /// # Errors
    /// When the node goes away, or stays silent for `limit`.
    pub fn snapshot(mut self, limit: Duration) -> anyhow::Result<Result<Kept, String>> {
        self.send(Ask::Snapshot)?;
        self.stream.get_mut().set_read_timeout(Some(limit))?;
        match self.receive()? {
            Some(Answer::Snapshot(kept)) => Ok(Ok(kept)),
            Some(Answer::Refused(why)) => Ok(Err(why)),
            Some(answer) => anyhow::bail!("the node answers something else: {answer:?}"),
            None => anyhow::bail!("the node closed its control socket"),
        }
    }

    /// Waits until the node's process has ended, at most `limit`; whether it has.
    pub fn wait_end(mut self, limit: Duration) -> bool {
        if self.stream.get_mut().set_read_timeout(Some(limit)).is_err() {
            return false;
        }
        matches!(self.stream.read_line(&mut String::new()), Ok(0))
    }
}
