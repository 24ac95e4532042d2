//! The thread's loop: whatever happens goes into the core, whatever comes out of it is done.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant as TokioInstant, sleep_until};
use zeroize::Zeroizing;

use super::file::BookFile;
use super::inbox::{Arrival, InboxReceiver};
use super::{Command, DiskTrouble, Event, Report, Send, Settings};
use crate::address::Prefixes;
use crate::core::{Core, GossipState, Input, Output, Saved};
use crate::gossip::{self, Claim, Gossip, Heard, Known, Timing, View};
use crate::key::Derived;
use crate::name::NodeName;
use crate::record::Record;

/// Events on our own list above which nothing more is taken in: main is stuck.
const BACKLOG: usize = 1024;
/// A book that could not be written is tried again after this.
const RETRY: Duration = Duration::from_secs(30);
/// News of others are written after this, with what has come meanwhile: when many nodes start at once, a card that
/// takes 100 ms for a sync would keep this thread from its work.
const GATHER: Duration = Duration::from_secs(1);

/// How gossip is set up: what it may believe is computed here.
pub(super) fn gossip_settings(settings: &Settings, keys: &Derived) -> gossip::Settings {
    let (cluster, prefixes) = (settings.cluster.clone(), settings.prefixes.clone());
    gossip::Settings {
        cluster: settings.cluster.clone(),
        name: settings.node.clone(),
        key: Zeroizing::new(keys.gossip),
        reader: Arc::new(move |bytes| {
            let record = Record::open(bytes, &cluster).ok()?;
            let content = record.content();
            Some(Claim {
                address: gossip_address(&prefixes, &content.name, content.attempt),
                name: content.name.clone(),
                identity: content.identity,
                sequence: content.sequence.into(),
            })
        }),
        timing: Timing::default(),
    }
}

fn gossip_address(prefixes: &Prefixes, name: &NodeName, attempt: u8) -> SocketAddr {
    (prefixes.overlay_v6(name, attempt), gossip::PORT).into()
}

pub(super) struct Driver {
    core: Core,
    prefixes: Prefixes,
    book: BookFile,
    inbox: InboxReceiver,
    send: Send,
    commands: mpsc::UnboundedReceiver<Command>,
    events: mpsc::Sender<Event>,
    /// Events that found main's channel full, in order.
    waiting: VecDeque<Event>,
    gossip: Option<Gossip>,
    /// Whom the core was told to be alive in gossip.
    online: BTreeSet<NodeName>,
    /// All senders of the inbox are gone.
    deaf: bool,
    /// What gossip reads may have changed.
    stale_view: bool,
    disk: Option<DiskTrouble>,
    /// When the book is written next.
    save_at: Option<Instant>,
    /// What is on disk of our own: starts, attempt, settled. What we send depends on it.
    own_saved: Option<(u32, u8, bool)>,
}

/// What woke the loop.
enum Wake {
    Command(Option<Command>),
    Arrival(Option<Arrival>),
    Gossip(Heard),
    Timeout,
    Save,
    Sent,
    MainGone,
}

impl Driver {
    pub(super) fn new(
        core: Core,
        prefixes: Prefixes,
        book: BookFile,
        inbox: InboxReceiver,
        send: Send,
        commands: mpsc::UnboundedReceiver<Command>,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Driver {
            core,
            prefixes,
            book,
            inbox,
            send,
            commands,
            events,
            waiting: VecDeque::new(),
            gossip: None,
            online: BTreeSet::new(),
            deaf: false,
            stale_view: false,
            disk: None,
            save_at: None,
            own_saved: None,
        }
    }

    /// Runs until main drops its end, then saves the book.
    pub(super) async fn run(mut self, gossip: Option<gossip::Settings>) {
        self.drain();
        self.gossip = gossip.map(|settings| Gossip::start(settings, self.view()));
        loop {
            match self.wake().await {
                Wake::Command(Some(command)) => self.obey(command),
                Wake::Arrival(Some(Arrival::Letter(letter))) => {
                    let (bytes, from, to) = (&letter.bytes[..], letter.from, letter.to);
                    self.handle(Input::Datagram { bytes, from, to });
                }
                Wake::Arrival(Some(Arrival::Foreign(from))) => {
                    self.handle(Input::ForeignKey { from });
                }
                Wake::Gossip(Heard::Record(record)) => self.handle(Input::GossipRecord(&record)),
                Wake::Gossip(Heard::Online) => self.compare_online(),
                Wake::Timeout => self.handle(Input::Timeout),
                Wake::Save => self.save(),
                Wake::Sent => {}
                // The tunnel has ended: main is about to stop us, and its word is awaited.
                Wake::Arrival(None) => self.deaf = true,
                Wake::Command(None) | Wake::MainGone => break,
            }
            self.drain();
        }
        self.save();
        if let Some(gossip) = self.gossip.take() {
            gossip.stop().await;
        }
    }

    /// Waits for the next thing to happen.
    async fn wake(&mut self) -> Wake {
        let room = self.waiting.len() < BACKLOG;
        let due = self.core.next_timeout();
        let (inbox, gossip) = (&mut self.inbox, &mut self.gossip);
        tokio::select! {
            command = self.commands.recv() => Wake::Command(command),
            permit = self.events.reserve(), if !self.waiting.is_empty() => match permit {
                Ok(permit) => {
                    if let Some(event) = self.waiting.pop_front() {
                        permit.send(event);
                    }
                    Wake::Sent
                }
                Err(_) => Wake::MainGone,
            },
            arrival = inbox.next(), if room && !self.deaf => Wake::Arrival(arrival),
            heard = hear(gossip.as_mut()), if room => Wake::Gossip(heard),
            () = at(due) => Wake::Timeout,
            () = at(self.save_at) => Wake::Save,
        }
    }

    fn handle(&mut self, input: Input<'_>) {
        self.core.handle(input, Instant::now());
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::PeerReady(key) => self.handle(Input::PeerReady(key)),
            Command::Addresses(addresses) => self.handle(Input::Addresses(addresses)),
            Command::Anchors(anchors) => self.handle(Input::Anchors(anchors)),
            Command::Sessions(sessions) => {
                self.handle(Input::Sessions(sessions));
                self.stale_view = true;
            }
            Command::K3sStarted => self.handle(Input::K3sStarted),
            Command::Report(reply) => {
                // Who asked may have lost patience.
                let _ = reply.send(self.report());
            }
        }
    }

    fn report(&self) -> Report {
        Report {
            core: self.core.report(Instant::now()),
            inbox: self.inbox.counts(),
            gossip: self.gossip.as_ref().map(Gossip::counts),
            disk: self.disk.clone(),
        }
    }

    /// Does what the core wants done, in its order.
    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.perform(output);
        }
        if std::mem::take(&mut self.stale_view)
            && let Some(gossip) = &self.gossip
        {
            gossip.update(self.view());
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Save => self.ask_save(),
            Output::Transmit { to, from, bytes } => {
                // A route or an uplink may be missing for a while; the core asks again by itself.
                if let Err(error) = (self.send)(&bytes, to, from) {
                    tracing::debug!("{} bytes for {to} were not sent: {error}", bytes.len());
                }
            }
            Output::Dial { to, from, bytes } => {
                if let Err(error) = dial(&bytes, to, from) {
                    tracing::debug!("a dial-back to {to} was not sent: {error}");
                }
            }
            Output::Peer(change) => self.tell(Event::Peer(change)),
            Output::Handshake {
                public_key,
                endpoint,
            } => self.tell(Event::Handshake {
                public_key,
                endpoint,
            }),
            Output::Hosts(hosts) => self.tell(Event::Hosts(hosts)),
            Output::Attempt(attempt) => {
                self.stale_view = true;
                self.tell(Event::Attempt(attempt));
            }
            Output::ResolveAnchors => self.tell(Event::ResolveAnchors),
            Output::Notice(notice) => self.tell(Event::Notice(notice)),
            Output::OwnRecord => self.stale_view = true,
            Output::Roster => {
                self.stale_view = true;
                // Gossip may have heard of a newcomer before the core had its record.
                self.compare_online();
            }
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        let event = if self.waiting.is_empty() {
            match self.events.try_send(event) {
                Ok(()) => return,
                // Closed: main is gone, which the loop will hear of; the list goes with it.
                Err(
                    mpsc::error::TrySendError::Full(event)
                    | mpsc::error::TrySendError::Closed(event),
                ) => event,
            }
        } else {
            event
        };
        self.waiting.push_back(event);
    }

    /// Writes at once what our next datagram may depend on, and soon what can be learnt again.
    fn ask_save(&mut self) {
        let saved = self.core.saved(Instant::now());
        // A disk that is in trouble is not asked at every turn.
        if self.own_saved == Some(own(&saved)) || self.disk.is_some() {
            self.save_at.get_or_insert_with(|| Instant::now() + GATHER);
        } else {
            self.save();
        }
    }

    /// Writes the book. Trouble is said once for each kind of it, and tried again.
    fn save(&mut self) {
        self.save_at = None;
        let saved = self.core.saved(Instant::now());
        match self.book.write(saved.encode()) {
            Ok(()) => {
                self.own_saved = Some(own(&saved));
                if self.disk.take().is_some() {
                    tracing::info!("the mesh's book is written again");
                }
            }
            Err(error) => {
                let trouble = DiskTrouble::from(&error);
                if self.disk.as_ref().map(|known| known.code) != Some(trouble.code) {
                    tracing::warn!(
                        code = trouble.code,
                        fix = trouble.fix,
                        "{}. The mesh goes on; what it learns is lost at the next start",
                        trouble.what
                    );
                }
                self.disk = Some(trouble);
                self.save_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// What gossip reads of us.
    fn view(&self) -> View {
        let own = self.core.own_record();
        let roster = self.core.roster();
        let known = roster.known().map(|(name, identity, sequence)| {
            (
                name.clone(),
                Known {
                    identity,
                    sequence: sequence.into(),
                },
            )
        });
        let live = self.core.live_peers().into_iter();
        View {
            record: Bytes::copy_from_slice(own.raw()),
            bind: gossip_address(&self.prefixes, own.name(), own.content().attempt),
            known: known.collect(),
            live: live
                .map(|peer| (peer.name, (peer.overlay_v6, gossip::PORT).into()))
                .collect(),
        }
    }

    /// Tells the core who came and went in gossip's list, as far as it knows them.
    fn compare_online(&mut self) {
        let online = self.gossip.as_ref().and_then(Gossip::online);
        // A list that is being rebuilt says nothing of its members; one that lost a member does.
        let gone = match online {
            Some(_) => GossipState::Suspect,
            None => GossipState::Absent,
        };
        let mut online = online.unwrap_or_default();
        let roster = self.core.roster();
        let known: BTreeSet<&NodeName> = roster.known().map(|(name, ..)| name).collect();
        online.retain(|name| known.contains(name));
        let before = std::mem::replace(&mut self.online, online.clone());
        for name in online.difference(&before) {
            self.handle(Input::GossipState(name.clone(), GossipState::Alive));
        }
        for name in before.difference(&online) {
            self.handle(Input::GossipState(name.clone(), gone));
        }
    }
}

/// What gossip has to say; nothing, for ever, where there is none.
async fn hear(gossip: Option<&mut Gossip>) -> Heard {
    match gossip {
        Some(gossip) => gossip.hear().await,
        None => std::future::pending().await,
    }
}

/// Sends from a port of its own, which is closed at once: nothing is awaited there. This thread is in the node's namespace.
fn dial(bytes: &[u8], to: SocketAddr, from: Option<IpAddr>) -> io::Result<()> {
    let any = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((from.unwrap_or(any), 0))?;
    socket.set_nonblocking(true)?;
    socket.send_to(bytes, to).map(drop)
}

fn own(saved: &Saved) -> (u32, u8, bool) {
    (saved.starts, saved.attempt, saved.settled)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(TokioInstant::from_std(time)).await,
        None => std::future::pending().await,
    }
}
