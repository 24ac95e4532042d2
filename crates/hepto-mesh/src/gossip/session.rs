//! One memberlist, from its bind to its end.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use memberlist::net::NetTransportOptions;
use memberlist::proto::{EncryptionAlgorithm, Label, MaybeResolvedAddress, SecretKey};
use memberlist::tokio::{TokioNetTransport, TokioSocketAddrResolver};
use memberlist::transport::Node;
use memberlist::{Memberlist, Options};
use smol_str::SmolStr;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::delegate::{Callbacks, Hint};
use super::{Counters, End, Online, Settings, View};
use crate::guard::GuardedTcp;
use crate::name::NodeName;

type Transport = TokioNetTransport<SmolStr, TokioSocketAddrResolver, GuardedTcp>;
type List = Memberlist<Transport, Callbacks>;

/// How long memberlist gets to end.
pub(super) const SHUTDOWN: Duration = Duration::from_secs(3);
/// Joins at once: each holds a connection and up to a frame of 256 KiB.
const JOINS: usize = 8;
/// A join's own bound, above the three steps of memberlist's (connect, send, receive) at 2 s each.
const JOIN: Duration = Duration::from_secs(7);
/// UDP payload: fits the IPv6 minimum MTU, which the tunnel always has.
const MAX_PACKET: usize = 1232;

/// memberlist's options. Measured with six and a hundred nodes: a killed node is seen in 4.0 to 4.6 s, one that hangs
/// in at most 9 s, and 5 % of loss for 200 s accuses nobody.
fn options(settings: &Settings) -> Options {
    let label = Label::from_str(settings.cluster.as_str())
        .expect("a cluster name is at most 15 ASCII characters");
    Options::lan()
        .with_label(label)
        .with_timeout(Duration::from_secs(2))
        .with_probe_interval(Duration::from_secs(1))
        .with_probe_timeout(Duration::from_millis(500))
        .with_indirect_checks(3)
        .with_suspicion_mult(3)
        .with_suspicion_max_timeout_mult(2)
        // With 4, one round in twenty took 40 s at six to nine nodes.
        .with_retransmit_mult(8)
        .with_gossip_interval(Duration::from_millis(200))
        .with_gossip_nodes(3)
        .with_push_pull_interval(Duration::from_secs(60))
        // Never purge the departed: a stale index is left behind, and the node goes deaf.
        .with_gossip_to_the_dead_time(Duration::from_secs(365 * 24 * 3600))
        .with_dead_node_reclaim_time(Duration::from_secs(1))
        // All four, or it speaks plain text.
        .with_primary_key(SecretKey::Aes256(*settings.key))
        .with_encryption_algo(EncryptionAlgorithm::NoPadding)
        .with_gossip_verify_incoming(true)
        .with_gossip_verify_outgoing(true)
}

pub(super) struct Session {
    pub settings: Arc<Settings>,
    pub view: watch::Receiver<View>,
    pub online: watch::Sender<Online>,
    pub records: mpsc::Sender<Bytes>,
    pub counters: Arc<Counters>,
    /// Rounds of lost pings before the end.
    pub patience: u32,
}

impl Session {
    pub(super) async fn run(mut self) -> End {
        let bind = self.view.borrow_and_update().bind;
        let (hints_in, hints) = mpsc::channel(512);
        let list = match self.bind(bind, hints_in).await {
            Ok(list) => list,
            Err(why) => return End::Unbound(why),
        };
        self.counters.starts.fetch_add(1, Ordering::Relaxed);
        let end = self.serve(&list, bind, hints).await;
        if timeout(SHUTDOWN, list.shutdown()).await.is_err() {
            tracing::debug!("memberlist did not shut down in time");
        }
        end
    }

    async fn bind(&self, bind: SocketAddr, hints: mpsc::Sender<Hint>) -> Result<List, String> {
        let id = SmolStr::new(self.settings.name.as_str());
        let gate = self.counters.gate.clone();
        let mut transport =
            NetTransportOptions::<_, TokioSocketAddrResolver, GuardedTcp>::with_stream_layer_options(id, gate)
                .with_max_packet_size(MAX_PACKET)
                .with_recv_buffer_size(256 * 1024)
                .with_packet_buffer_size(64);
        transport.add_bind_address(bind);
        let callbacks = Callbacks::new(
            self.settings.clone(),
            self.view.clone(),
            hints,
            self.counters.clone(),
        );
        Memberlist::with_delegate(callbacks, transport, options(&self.settings))
            .await
            .map_err(|error| error.to_string())
    }

    async fn serve(
        &mut self,
        list: &List,
        bind: SocketAddr,
        mut hints: mpsc::Receiver<Hint>,
    ) -> End {
        let mut joins = Joins::default();
        let mut work = JoinSet::new();
        let mut watchdog = Watchdog::default();
        let mut held = self.view.borrow().clone();
        let mut rejoin = ticker(self.settings.timing.rejoin);
        let mut watch = ticker(self.settings.timing.watchdog);
        watch.reset();
        loop {
            tokio::select! {
                changed = self.view.changed() => {
                    if changed.is_err() {
                        return End::Stopped;
                    }
                    let view = self.view.borrow_and_update().clone();
                    if view.bind != bind {
                        return End::Moved;
                    }
                    if view.record != held.record {
                        let list = list.clone();
                        // The wait is for the broadcast's end; the change itself is made at once.
                        work.spawn(async move {
                            if let Err(error) = list.update_node(Duration::from_secs(5)).await {
                                tracing::debug!("our new record was not gossiped: {error}");
                            }
                        });
                    }
                    let risen = risen(&held.live, &view.live);
                    held = view;
                    joins.ask(list, risen);
                }
                hint = hints.recv() => match hint {
                    Some(Hint::Record(record)) => self.hand_over(record),
                    Some(Hint::Members) => self.publish(list).await,
                    None => return End::Panicked,
                },
                _ = rejoin.tick() => {
                    self.publish(list).await;
                    joins.ask(list, missing(&held.live, &self.online.borrow()));
                }
                _ = watch.tick() => watchdog.ping(list, &held.live),
                lost = watchdog.round() => match lost {
                    0 => {
                        self.counters.answered.fetch_add(1, Ordering::Relaxed);
                    }
                    lost if lost >= self.patience => return End::Deaf,
                    _ => {}
                },
                done = joins.next(list) => if done.is_err() {
                    return End::Panicked;
                },
                Some(done) = work.join_next() => if done.is_err() {
                    return End::Panicked;
                },
            }
        }
    }

    fn hand_over(&self, record: Bytes) {
        // The driver is behind: rendezvous will bring this record.
        if self.records.try_send(record).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Publishes who is online. Hints may have been dropped, so this is asked again at each rejoin.
    async fn publish(&self, list: &List) {
        let own = &self.settings.name;
        let members = list.online_members().await;
        let names: BTreeSet<NodeName> = members
            .iter()
            .filter_map(|member| member.id().parse().ok())
            .filter(|name| name != own)
            .collect();
        self.online.send_if_modified(|held| {
            let changed = held.as_ref() != Some(&names);
            *held = Some(names);
            changed
        });
    }
}

fn ticker(period: Duration) -> tokio::time::Interval {
    let mut ticker = interval(period);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticker
}

type Live = BTreeMap<NodeName, SocketAddr>;

/// Peers whose tunnel came up.
fn risen(before: &Live, now: &Live) -> Vec<SocketAddr> {
    let new = now.iter().filter(|(name, _)| !before.contains_key(*name));
    new.map(|(_, address)| *address).collect()
}

/// Live peers that the list lacks.
fn missing(live: &Live, online: &Online) -> Vec<SocketAddr> {
    let listed = |name| online.as_ref().is_some_and(|names| names.contains(name));
    live.iter()
        .filter(|(name, _)| !listed(name))
        .map(|(_, address)| *address)
        .collect()
}

/// Joins under way and waiting, each address once.
#[derive(Default)]
struct Joins {
    running: JoinSet<SocketAddr>,
    busy: BTreeSet<SocketAddr>,
    waiting: BTreeSet<SocketAddr>,
}

impl Joins {
    fn ask(&mut self, list: &List, addresses: Vec<SocketAddr>) {
        self.waiting.extend(
            addresses
                .into_iter()
                .filter(|address| !self.busy.contains(address)),
        );
        while self.running.len() < JOINS {
            let Some(address) = self.waiting.pop_first() else {
                break;
            };
            self.busy.insert(address);
            let list = list.clone();
            self.running.spawn(async move {
                match timeout(JOIN, list.join(MaybeResolvedAddress::Resolved(address))).await {
                    Ok(Ok(_)) => tracing::debug!("gossip joined {address}"),
                    Ok(Err(error)) => tracing::debug!("gossip cannot join {address} yet: {error}"),
                    Err(_) => tracing::debug!("gossip had no answer from {address}"),
                }
                address
            });
        }
    }

    /// Waits for one join to end and starts the next; for ever while there is none.
    async fn next(&mut self, list: &List) -> Result<(), tokio::task::JoinError> {
        match self.running.join_next().await {
            Some(done) => {
                self.busy.remove(&done?);
                self.ask(list, Vec::new());
                Ok(())
            }
            None => std::future::pending().await,
        }
    }
}

/// Pings two peers whose tunnels work, at each tick two others, and counts the rounds in which all were lost.
#[derive(Default)]
struct Watchdog {
    pings: JoinSet<bool>,
    answered: bool,
    next: usize,
    lost: u32,
}

impl Watchdog {
    fn ping(&mut self, list: &List, live: &Live) {
        let live: Vec<_> = live.iter().collect();
        if live.is_empty() {
            // Nobody can be reached by anyone: that is not memberlist's fault.
            self.lost = 0;
            return;
        }
        if !self.pings.is_empty() {
            return;
        }
        self.answered = false;
        for _ in 0..live.len().min(2) {
            let (name, &address) = live[self.next % live.len()];
            self.next = self.next.wrapping_add(1);
            let node = Node::new(SmolStr::new(name.as_str()), address);
            let list = list.clone();
            self.pings
                .spawn(async move { list.ping(node).await.is_ok() });
        }
    }

    /// Waits for a round of pings to end and says how many were lost in a row.
    async fn round(&mut self) -> u32 {
        while let Some(done) = self.pings.join_next().await {
            self.answered |= done.unwrap_or(false);
            if self.pings.is_empty() {
                self.lost = if self.answered { 0 } else { self.lost + 1 };
                return self.lost;
            }
        }
        std::future::pending().await
    }
}
