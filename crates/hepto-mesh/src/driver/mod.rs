//! The mesh at work: the pure core on a thread of its own, with a clock, a socket's two ends, a disk and gossip.
//!
//! [`spawn`] starts the thread `hepto-mesh`, which enters the node's network namespace first: gossip's sockets belong
//! there. What the tunnel receives for us comes through an [`Inbox`]; what is to be sent leaves through a closure over
//! the tunnel's socket; what has to be done elsewhere is an [`Event`], and what happened there a [`Command`].
//!
//! It resolves no name, touches no interface and trusts no wall clock.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod file;
mod inbox;
mod run;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

pub use file::FileError;
pub use inbox::{Inbox, InboxCounts, InboxReceiver, inbox};

use crate::address::Prefixes;
use crate::core::{self, Anchor, Core, Notice, PeerChange, Saved, Session};
use crate::gossip;
use crate::identity::Identity;
use crate::key::OverlayKey;
use crate::name::{ClusterName, NodeName};
use file::BookFile;

/// Events that may wait for main. More wait on the thread's own list, and then the inbox waits too.
const EVENTS: usize = 64;

/// What the mesh is told once.
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterName,
    /// This node.
    pub node: NodeName,
    /// The node that runs the k3s server.
    pub master: NodeName,
    /// The overlay key.
    pub key: OverlayKey,
    /// The one public UDP port.
    pub port: u16,
    /// The address plan.
    pub prefixes: Prefixes,
    /// MTU of the tunnel in bytes, at least 1280.
    pub mtu: u16,
    /// Where to ask first.
    pub anchors: Vec<Anchor>,
    /// Endpoints from the configuration (port forwards).
    pub endpoints: Vec<SocketAddr>,
    /// When this node was last brought up from a snapshot, seconds since 1970; 0 for never.
    pub restored: u64,
    /// Folder of the mesh's files, `<storage>/<node>/mesh`; made where it is missing.
    pub directory: PathBuf,
    /// Whether to gossip. Without a firewall it stays off: its port must not be reached by pods.
    pub gossip: bool,
}

/// Sends a datagram to an address, from a local address if one is given.
pub type Send =
    Box<dyn Fn(&[u8], SocketAddr, Option<IpAddr>) -> io::Result<()> + std::marker::Send>;

/// Puts the calling thread into the node's network namespace.
pub type Enter = Box<dyn FnOnce() -> io::Result<()> + std::marker::Send>;

/// What main has to do, in this order.
#[derive(Debug)]
pub enum Event {
    /// A difference of the tunnel's peers. After a `Set`, main answers with [`Command::PeerReady`].
    Peer(PeerChange),
    /// The tunnel is to send a handshake initiation to this address.
    Handshake {
        /// To this peer.
        public_key: [u8; 32],
        /// Where.
        endpoint: SocketAddr,
    },
    /// All names and addresses for the hosts file, our own first.
    Hosts(Vec<(NodeName, Vec<IpAddr>)>),
    /// Our own overlay addresses are now those of this attempt.
    Attempt(u8),
    /// Names among the anchors are to be resolved in the host's namespace: [`Command::Anchors`].
    ResolveAnchors,
    /// Something that a person should know, once.
    Notice(Notice),
}

/// What main tells the mesh.
#[derive(Debug)]
pub enum Command {
    /// The tunnel has this peer now.
    PeerReady([u8; 32]),
    /// All usable addresses of the uplink.
    Addresses(Vec<IpAddr>),
    /// What the anchors' names resolve to.
    Anchors(Vec<(Anchor, Vec<SocketAddr>)>),
    /// The tunnel's view of all its peers: each second, and at once after a change.
    Sessions(Vec<Session>),
    /// k3s has started: from here on the overlay addresses stay.
    K3sStarted,
    /// Asks for all there is to show.
    Report(oneshot::Sender<Report>),
}

/// All there is to show.
#[derive(Debug, Clone)]
pub struct Report {
    /// Members, anchors, addresses, counters.
    pub core: core::Report,
    /// What the door to the network has counted.
    pub inbox: InboxCounts,
    /// What gossip has counted, where it runs.
    pub gossip: Option<gossip::Counts>,
    /// Why the book cannot be written at the moment.
    pub disk: Option<DiskTrouble>,
}

/// Why the book cannot be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskTrouble {
    /// The stable code.
    pub code: &'static str,
    /// What happened, to which file.
    pub what: String,
    /// What to do.
    pub fix: &'static str,
}

impl From<&FileError> for DiskTrouble {
    fn from(error: &FileError) -> Self {
        DiskTrouble {
            code: error.code(),
            what: error.to_string(),
            fix: error.fix(),
        }
    }
}

/// Why the mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its folder or book cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The thread could not be made.
    #[error("cannot start the thread hepto-mesh: {0}")]
    Thread(#[source] io::Error),
    /// The thread could not enter the network namespace.
    #[error("the thread hepto-mesh cannot enter the node's network namespace: {0}")]
    Enter(#[source] io::Error),
    /// The kernel gave no randomness.
    #[error("the kernel gives no random bytes: {0}")]
    Random(#[source] io::Error),
}

impl Error {
    /// The stable code of the error, as printed and documented.
    pub fn code(&self) -> &'static str {
        match self {
            Error::File(error) => error.code(),
            Error::Thread(_) => "E-MESH-THREAD",
            Error::Enter(_) => "E-MESH-ENTER",
            Error::Random(_) => "E-MESH-RANDOM",
        }
    }

    /// What to do about it.
    pub fn fix(&self) -> Option<String> {
        match self {
            Error::File(error) => Some(error.fix().into()),
            Error::Thread(_) => Some("raise the limit of tasks of the service or slice".into()),
            Error::Enter(_) => Some("run hepto-node as root".into()),
            Error::Random(_) => None,
        }
    }
}

/// The running mesh. Dropping it ends the thread too, which saves the book; [`Mesh::stop`] also waits for that.
pub struct Mesh {
    events: mpsc::Receiver<Event>,
    commands: mpsc::UnboundedSender<Command>,
    ended: oneshot::Receiver<()>,
    thread: JoinHandle<()>,
}

/// Starts the mesh. Returns once its thread is in the namespace; the book has been read by then.
pub fn spawn(
    settings: Settings,
    identity: Identity,
    inbox: InboxReceiver,
    send: Send,
    enter: Enter,
) -> Result<Mesh, Error> {
    let (book, saved) = read_book(&settings.directory, &settings.cluster)?;
    let (boot, seed) = (random()?, random()?);
    let keys = settings.key.derive(&settings.cluster);
    inbox.open(keys.key_id);
    let gossip = settings
        .gossip
        .then(|| run::gossip_settings(&settings, &keys));
    let prefixes = settings.prefixes.clone();
    let core = core::Settings {
        cluster: settings.cluster,
        node: settings.node,
        master: settings.master,
        operator: None,
        keys,
        prefixes: settings.prefixes,
        port: settings.port,
        mtu: settings.mtu,
        anchors: settings.anchors,
        endpoints: settings.endpoints,
        restored: settings.restored,
    };
    let core = Core::new(core, identity, saved, boot, seed, Instant::now());
    let (events_in, events) = mpsc::channel(EVENTS);
    let (commands, commands_out) = mpsc::unbounded_channel();
    let driver = run::Driver::new(core, prefixes, book, inbox, send, commands_out, events_in);
    let (entered, has_entered) = std::sync::mpsc::channel();
    let (ending, ended) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("hepto-mesh".into())
        .spawn(move || {
            // Dropped last, also by a panic: then `stop` need not wait.
            let _ending = ending;
            let ready = enter().map_err(Error::Enter).and_then(|()| runtime());
            match ready {
                Ok(runtime) => {
                    // The receiver waits below.
                    let _ = entered.send(Ok(()));
                    runtime.block_on(driver.run(gossip));
                }
                Err(error) => {
                    let _ = entered.send(Err(error));
                }
            }
        })
        .map_err(Error::Thread)?;
    match has_entered.recv() {
        Ok(Ok(())) => Ok(Mesh {
            events,
            commands,
            ended,
            thread,
        }),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(Error::Thread(io::Error::other("it ended at once"))),
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Error> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // memberlist hands large frames to the blocking pool: one thread will do.
    builder
        .enable_all()
        .max_blocking_threads(1)
        .build()
        .map_err(Error::Thread)
}

/// The attempt at overlay addresses that this node settled on in earlier runs; 0 when there was none. The overlay's link
/// needs it before the mesh starts.
///
/// # Errors
/// When the book's folder or file cannot be used.
pub fn saved_attempt(directory: &Path, cluster: &ClusterName) -> Result<u8, Error> {
    Ok(read_book(directory, cluster)?.1.attempt)
}

/// Reads the book. A damaged one is put aside: the other nodes fill a new one.
fn read_book(directory: &Path, cluster: &ClusterName) -> Result<(BookFile, Saved), Error> {
    let mut file = BookFile::open(directory)?;
    let Some(bytes) = file.read()? else {
        return Ok((file, Saved::default()));
    };
    match Saved::decode(&bytes, cluster) {
        Ok(saved) => Ok((file, saved)),
        Err(error) => {
            let aside = file.set_aside()?;
            tracing::warn!(
                code = error.code(),
                fix = "compare identities with `hepto-node peers` on another node",
                "{error}. It is kept at {}",
                aside.display()
            );
            Ok((file, Saved::default()))
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(more) => filled += more,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Error::Random(error.into())),
        }
    }
    Ok(bytes)
}

impl Mesh {
    /// The next event; `None` once the thread has ended, which without [`Mesh::stop`] only a panic does. Cancel-safe.
    pub async fn event(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// Tells the mesh something. After its end this does nothing: [`Mesh::event`] says so.
    pub fn command(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Ends the mesh, its gossip and its thread, and saves the book.
    pub async fn stop(self) {
        let Mesh {
            events,
            commands,
            ended,
            thread,
        } = self;
        drop((events, commands));
        // Dropped without a word at the thread's very end, be it in peace or in panic.
        let _ = ended.await;
        if thread.join().is_err() {
            tracing::error!(
                code = "E-MESH-THREAD",
                fix = "start the node again, and report its log",
                "the thread hepto-mesh had panicked; its last words are above"
            );
        }
    }
}

#[cfg(test)]
mod tests;
