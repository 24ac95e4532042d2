//! Gossip inside the overlay: memberlist, with every guard that its version 0.8.5 needs.
//!
//! It spreads records within half a second, and knows within seconds who is gone. Nothing depends on it: rendezvous
//! brings the same records later, gossip never removes a peer, and it may be rebuilt at any moment. So a
//! [`Gossip`] is a supervisor that owns one memberlist after another; a panic in one of them ends that one alone.
//!
//! What memberlist needs and gets:
//! - a stream layer that bounds frames and connections ([`crate::guard`]);
//! - its own options: `Options::lan()` has probe interval and timeout swapped ([`options`]);
//! - key, algorithm and both verify flags: with one missing it speaks plain text;
//! - departed nodes are kept for a year: purging them leaves a stale index, and the panic that follows makes the node
//!   deaf while it still looks online;
//! - to be joined again: it never heals a cut of 25 s or more by itself;
//! - a watchdog, for what else makes it deaf.

#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::guard::Gate;
use crate::name::{ClusterName, NodeName};

mod delegate;
mod session;

/// Gossip's port on the overlay addresses, TCP and UDP. (7946 is MetalLB's, on the same addresses.)
pub const PORT: u16 = 7947;

/// What a record says, as far as gossip must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Whose record it is.
    pub name: NodeName,
    /// Where that node's gossip must be: computed from the name, never believed.
    pub address: SocketAddr,
    /// The identity that signed it.
    pub identity: [u8; 32],
    /// Its sequence: higher is newer.
    pub sequence: u64,
}

/// Reads and verifies a record's raw bytes; `None` refuses it. It runs inside memberlist's locks: it must not wait.
pub type Reader = Arc<dyn Fn(&[u8]) -> Option<Claim> + Send + Sync>;

/// What stays the same for the life of a [`Gossip`].
pub struct Settings {
    /// The cluster, which is memberlist's label too.
    pub cluster: ClusterName,
    /// Our own name.
    pub name: NodeName,
    /// The gossip key, derived from the overlay key.
    pub key: Zeroizing<[u8; 32]>,
    /// How records are read.
    pub reader: Reader,
    /// When things are done again.
    pub timing: Timing,
}

/// How often things are done again.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Live peers that the list lacks are joined this often, and whenever a tunnel comes up.
    pub rejoin: Duration,
    /// Two members are pinged this often.
    pub watchdog: Duration,
    /// After so many rounds of pings that were all lost, memberlist is rebuilt.
    pub patience: u32,
    /// Wait before a first rebuild; doubled at each further one, up to a minute.
    pub back_off: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            rejoin: Duration::from_secs(10),
            watchdog: Duration::from_secs(10),
            patience: 2,
            back_off: Duration::from_secs(1),
        }
    }
}

/// What the driver knows and gossip reads: ourselves, and every peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Our own record's raw bytes: memberlist's node meta, at most 512 bytes.
    pub record: Bytes,
    /// Our own overlay address and [`PORT`].
    pub bind: SocketAddr,
    /// Every other node that is known: its pinned identity and the sequence of its newest record.
    pub known: BTreeMap<NodeName, Known>,
    /// Those whose tunnel works: their overlay address and [`PORT`].
    pub live: BTreeMap<NodeName, SocketAddr>,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The identity pinned to its name.
    pub identity: [u8; 32],
    /// The sequence of its newest record.
    pub sequence: u64,
}

/// Who gossip hears of, ourselves excluded; a suspected member counts. `None` while it does not run.
pub type Online = Option<BTreeSet<NodeName>>;

/// Something that gossip has to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A record: verified, never ours, and newer than what the view held.
    Record(Bytes),
    /// [`Gossip::online`] has changed.
    Online,
}

/// What gossip has counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often memberlist was started, the first time included.
    pub starts: u64,
    /// Records that were vetoed: forged, under a wrong name or address, or older than what we hold.
    pub vetoed: u64,
    /// Records and hints that found their queue full.
    pub dropped: u64,
    /// Connections above the limits.
    pub refused_connections: u64,
    /// Frames too long, or not encrypted.
    pub refused_frames: u64,
}

/// The counters behind [`Counts`], shared with memberlist's callbacks.
#[derive(Debug, Default)]
struct Counters {
    starts: AtomicU64,
    vetoed: AtomicU64,
    dropped: AtomicU64,
    /// Rounds of the watchdog's pings in which one was answered.
    answered: AtomicU64,
    gate: Gate,
}

/// Running gossip. Dropping it stops it.
pub struct Gossip {
    view: watch::Sender<View>,
    online: watch::Receiver<Online>,
    records: mpsc::Receiver<Bytes>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl Gossip {
    /// Starts gossip on the current tokio runtime. It binds as soon as the address exists, and says so when that takes long.
    pub fn start(settings: Settings, view: View) -> Gossip {
        let (view_in, view) = watch::channel(view);
        let (online_in, online) = watch::channel(None);
        let (records_in, records) = mpsc::channel(256);
        let counters = Arc::new(Counters::default());
        let supervisor = Supervisor {
            settings: Arc::new(settings),
            view,
            online: online_in,
            records: records_in,
            counters: counters.clone(),
        };
        Gossip {
            view: view_in,
            online,
            records,
            counters,
            task: tokio::spawn(supervisor.run()),
        }
    }

    /// Tells gossip what the driver knows now. A changed own record is spread, a peer that became live is joined.
    pub fn update(&self, view: View) {
        self.view.send_if_modified(|held| {
            let changed = *held != view;
            *held = view;
            changed
        });
    }

    /// What gossip has to say next. Cancel-safe.
    pub async fn hear(&mut self) -> Heard {
        tokio::select! {
            Some(record) = self.records.recv() => Heard::Record(record),
            Ok(()) = self.online.changed() => Heard::Online,
            // The supervisor ends with us alone: nothing more will come.
            else => std::future::pending().await,
        }
    }

    /// Who gossip hears of now.
    pub fn online(&self) -> Online {
        self.online.borrow().clone()
    }

    /// What was counted since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            starts: self.counters.starts.load(Ordering::Relaxed),
            vetoed: self.counters.vetoed.load(Ordering::Relaxed),
            dropped: self.counters.dropped.load(Ordering::Relaxed),
            refused_connections: self.counters.gate.refused_connections(),
            refused_frames: self.counters.gate.refused_frames(),
        }
    }

    /// Ends gossip without a word to the others: they must not depend on our leave, and do not.
    pub async fn stop(self) {
        let Gossip { view, task, .. } = self;
        // The closed view is the sign to end; the supervisor then shuts memberlist down, which frees its port.
        drop(view);
        if timeout(session::SHUTDOWN * 2, task).await.is_err() {
            tracing::debug!("gossip did not end in time; it ends with its thread");
        }
    }
}

/// Owns one memberlist after another.
struct Supervisor {
    settings: Arc<Settings>,
    view: watch::Receiver<View>,
    online: watch::Sender<Online>,
    records: mpsc::Sender<Bytes>,
    counters: Arc<Counters>,
}

/// Why a session ended.
#[derive(Debug)]
enum End {
    /// The [`Gossip`] was stopped or dropped.
    Stopped,
    /// Our own address changed.
    Moved,
    /// memberlist could not bind.
    Unbound(String),
    /// Every ping was lost while tunnels work.
    Deaf,
    /// A task panicked.
    Panicked,
}

impl Supervisor {
    async fn run(mut self) {
        let mut failures = 0_u32;
        loop {
            let session = session::Session {
                settings: self.settings.clone(),
                view: self.view.clone(),
                online: self.online.clone(),
                records: self.records.clone(),
                counters: self.counters.clone(),
                patience: self.settings.timing.patience << failures.min(5),
            };
            let answered = self.counters.answered.load(Ordering::Relaxed);
            // A task of its own: what panics inside ends that task, and not us.
            let end = tokio::spawn(session.run()).await.unwrap_or(End::Panicked);
            self.online.send_replace(None);
            // One that was heard was well: what ended it is a new trouble, not the old one.
            if self.counters.answered.load(Ordering::Relaxed) > answered {
                failures = 0;
            }
            match &end {
                End::Stopped => return,
                End::Moved => {
                    failures = 0;
                    continue;
                }
                End::Unbound(why) if failures == 3 => tracing::warn!(
                    code = "W-MESH-GOSSIP",
                    fix = "look whether hepto0 has the overlay address and nothing else has the port: hepto-node exec --net -- ss -lntup",
                    "gossip cannot listen on {}: {why}. The mesh works without it, slower",
                    self.view.borrow().bind
                ),
                End::Unbound(why) => tracing::debug!("gossip cannot listen yet: {why}"),
                End::Deaf | End::Panicked => {
                    tracing::info!("gossip is rebuilt ({end:?}); the mesh went on without it");
                }
            }
            let wait = self.settings.timing.back_off * (1 << failures.min(6));
            // The address comes with the interface, and gossip should not be long behind it.
            let most = if matches!(end, End::Unbound(_)) {
                5
            } else {
                60
            };
            failures += 1;
            tokio::select! {
                () = sleep(wait.min(Duration::from_secs(most))) => {}
                gone = closed(&mut self.view) => return gone,
            }
        }
    }
}

/// Returns when the sender of the view is gone.
async fn closed(view: &mut watch::Receiver<View>) {
    while view.changed().await.is_ok() {}
}

#[cfg(test)]
mod tests;
