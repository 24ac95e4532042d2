//! What memberlist asks and tells us. Its callbacks run under its write lock, in tasks that may be aborted: each one
//! reads a snapshot or pushes to a channel, and never waits.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use memberlist::delegate::{
    AliveDelegate, ConflictDelegate, Delegate, EventDelegate, MergeDelegate, NodeDelegate,
    PingDelegate,
};
use memberlist::proto::{Meta, NodeState};
use smol_str::SmolStr;
use tokio::sync::{mpsc, watch};

use super::{Claim, Counters, Settings, View};
use crate::name::NodeName;

/// Records whose signature was checked, good or bad, before the cache is emptied.
const CACHED: usize = 1024;
/// Names that the view does not hold, in one memberlist: as many as a cluster has at most. A member could make up more.
const STRANGERS: usize = 256;

type Member = Arc<NodeState<SmolStr, SocketAddr>>;

/// What a callback hands to the session.
#[derive(Debug)]
pub(super) enum Hint {
    /// A record newer than the view's.
    Record(Bytes),
    /// Someone came, went, or changed.
    Members,
}

/// Why an alive message was vetoed. memberlist logs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Veto {
    #[error("its record does not verify")]
    Record,
    #[error("its record is another node's")]
    Name,
    #[error("its address is not the one that its name gives")]
    Address,
    #[error("another identity is pinned to its name")]
    Identity,
    #[error("its record is older than the one we hold")]
    Older,
    #[error("it has our name")]
    Ourselves,
    #[error("too many names are new")]
    Crowd,
}

pub(super) struct Callbacks {
    settings: Arc<Settings>,
    view: watch::Receiver<View>,
    hints: mpsc::Sender<Hint>,
    counters: Arc<Counters>,
    /// What each record's bytes were found to say: a signature is checked once, not once a copy.
    read: Mutex<HashMap<Bytes, Option<Claim>>>,
    /// Names that were let in though the view does not hold them.
    strangers: Mutex<HashSet<NodeName>>,
}

impl Callbacks {
    pub(super) fn new(
        settings: Arc<Settings>,
        view: watch::Receiver<View>,
        hints: mpsc::Sender<Hint>,
        counters: Arc<Counters>,
    ) -> Self {
        Callbacks {
            settings,
            view,
            hints,
            counters,
            read: Mutex::default(),
            strangers: Mutex::default(),
        }
    }

    fn push(&self, hint: Hint) {
        if self.hints.try_send(hint).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn claim(&self, meta: &[u8]) -> Option<Claim> {
        // A panic of the reader leaves the map whole: the lock's poison means nothing here.
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claim) = read.get(meta) {
            return claim.clone();
        }
        let claim = (self.settings.reader)(meta);
        if read.len() >= CACHED {
            read.clear();
        }
        read.insert(Bytes::copy_from_slice(meta), claim.clone());
        claim
    }

    fn admit(&self, stranger: &NodeName) -> bool {
        let mut strangers = self
            .strangers
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        strangers.contains(stranger)
            || (strangers.len() < STRANGERS && strangers.insert(stranger.clone()))
    }

    /// Judges an alive message against the view; a record that is newer goes to the core.
    fn judge(&self, node: &NodeState<SmolStr, SocketAddr>) -> Result<(), Veto> {
        if node.id() == self.settings.name.as_str() {
            // Our own start, or an echo of it. memberlist refutes a false echo by itself; with another's address it
            // would only report a conflict.
            return if *node.address() == self.view.borrow().bind {
                Ok(())
            } else {
                Err(Veto::Ourselves)
            };
        }
        let claim = self.claim(node.meta().as_bytes()).ok_or(Veto::Record)?;
        if claim.name.as_str() != node.id() {
            return Err(Veto::Name);
        }
        if claim.address != *node.address() {
            return Err(Veto::Address);
        }
        let newer = match self.view.borrow().known.get(&claim.name) {
            Some(known) if known.identity != claim.identity => return Err(Veto::Identity),
            Some(known) if claim.sequence < known.sequence => return Err(Veto::Older),
            Some(known) => claim.sequence > known.sequence,
            None if self.admit(&claim.name) => true,
            None => return Err(Veto::Crowd),
        };
        if newer {
            self.push(Hint::Record(Bytes::copy_from_slice(node.meta().as_bytes())));
        }
        Ok(())
    }
}

impl AliveDelegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;
    type Error = Veto;

    async fn notify_alive(&self, node: Member) -> Result<(), Veto> {
        self.judge(&node).inspect_err(|_| {
            self.counters.vetoed.fetch_add(1, Ordering::Relaxed);
        })
    }
}

impl NodeDelegate for Callbacks {
    async fn node_meta(&self, limit: usize) -> Meta {
        let record = self.view.borrow().record.clone();
        debug_assert!(record.len() <= limit, "a record is at most 480 bytes");
        Meta::try_from(record).unwrap_or_default()
    }

    async fn notify_message(&self, _: Cow<'_, [u8]>) {}
}

impl EventDelegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;

    async fn notify_join(&self, _: Member) {
        self.push(Hint::Members);
    }

    async fn notify_leave(&self, _: Member) {
        self.push(Hint::Members);
    }

    async fn notify_update(&self, _: Member) {}
}

impl MergeDelegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;
    type Error = Veto;

    /// Each member is judged by itself, in `notify_alive`: one bad one must not void the others.
    async fn notify_merge(&self, _: Arc<[NodeState<SmolStr, SocketAddr>]>) -> Result<(), Veto> {
        Ok(())
    }
}

impl ConflictDelegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;

    /// Cannot be news: an address that its name does not give was vetoed before.
    async fn notify_conflict(&self, _: Member, _: Member) {}
}

impl PingDelegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;

    async fn ack_payload(&self) -> Bytes {
        Bytes::new()
    }

    async fn notify_ping_complete(&self, _: Member, _: Duration, _: Bytes) {}
}

impl Delegate for Callbacks {
    type Id = SmolStr;
    type Address = SocketAddr;
}
