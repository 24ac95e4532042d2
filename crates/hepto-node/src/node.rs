//! One node from start to stop: the order in which its parts are made, and the loop that joins them.
//!
//! Each layer makes its part, runs the next inside it, and takes its part down again, whatever came of the
//! next. All of this is on the main thread, in the host's namespaces; between the parts passes plain data.

mod anchor;
mod report;
mod settings;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hepto_mesh::core::{Notice, PeerChange, Session};
use hepto_mesh::driver::{self, Command, Event as MeshEvent, InboxReceiver, Mesh, Report};
use hepto_mesh::identity::Identity;
use hepto_mesh::name::NodeName;
use hepto_net::{Event as NetworkEvent, Network, UplinkState};
use hepto_tunnel::{Options, PeerReport, Socket, Tun, Tunnel};
use sd_notify::NotifyState;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::config::Config;
use crate::control::{self, Answer, Ask, Pending};
use crate::fault::Fault;
use crate::peers::{Change, Peers};
use crate::sandbox::{self, descriptor};
use crate::secret;
use crate::state::{State, remember_identity};
use anchor::Resolver;
use settings::OVERLAY_LINK;
use workload::Workload;

/// How often the mesh hears of all sessions, beside each change.
const SESSIONS_EVERY: Duration = Duration::from_secs(1);
/// A session that is older carries nothing any more: REJECT_AFTER_TIME of the WireGuard paper, §6.1.
const SESSION_LIFE: Duration = Duration::from_secs(180);
/// Notices kept for `status`: a hostile network cannot fill the memory with them.
const NOTICES_KEPT: usize = 32;
/// Why the loop ends when the mesh does.
const MESH_ENDED: &str = "the mesh's thread ended";

/// Runs the node until SIGTERM, SIGINT or `hepto-node stop`; then, and after any failure half-way, takes down
/// all that it made.
///
/// # Errors
/// What could not be made; else what could not be removed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let state = State::acquire(&config)?;
    let mut failures = Vec::new();
    let ran = with_network(&config, &state, &mut failures).await;
    // What is left is found by what lies in the run directory: it is the last to go.
    if failures.is_empty() {
        failures.extend(state.release().err());
    }
    for failure in &failures {
        tracing::error!("not removed: {failure}");
    }
    match (ran, failures.first()) {
        (Err(fault), _) => Err(fault.into()),
        (Ok(()), None) => Ok(()),
        (Ok(()), Some(first)) => {
            let what = format!(
                "{} things could not be removed, the first: {first}",
                failures.len()
            );
            Err(Fault::new("E-STOP-LEFTOVERS", what)
                .fix("run hepto-node stop once more")
                .into())
        }
    }
}

/// The namespace: made or adopted, and removed at the end.
async fn with_network(
    config: &Config,
    state: &State,
    failures: &mut Vec<String>,
) -> Result<(), Fault> {
    let identity = load_identity(config)?;
    let attempt = driver::saved_attempt(&settings::mesh_directory(config), &config.cluster.name)?;
    let mut network = Network::open(settings::network(config, attempt)).await?;
    let ran = with_tunnel(config, state, identity, attempt, &mut network, failures).await;
    failures.extend(network.close().await.iter().map(ToString::to_string));
    ran
}

fn load_identity(config: &Config) -> Result<Identity, Fault> {
    let directory = config.node_directory().join("identity");
    let identity = Identity::load_or_create(&directory, &mut secret::SystemRandom)?;
    remember_identity(config, &identity.fingerprint())?;
    Ok(identity)
}

/// TUN and UDP socket inside the namespace, and the threads between them.
async fn with_tunnel(
    config: &Config,
    state: &State,
    identity: Identity,
    attempt: u8,
    network: &mut Network,
    failures: &mut Vec<String>,
) -> Result<(), Fault> {
    let port = config.mesh.port;
    let entry = network.entry();
    let opened = entry.spawn(move || {
        Ok::<_, hepto_tunnel::Error>((Tun::open(OVERLAY_LINK)?, Socket::open(port)?))
    });
    let (tun, socket) = opened.await.map_err(|error| {
        Fault::new(
            "E-NET-ENTER",
            format!("cannot enter the node's namespace: {error}"),
        )
    })??;
    let (inbox, receiver) = driver::inbox();
    let sink = Box::new(move |datagram: hepto_tunnel::Datagram<'_>| {
        inbox.offer(
            datagram.bytes,
            datagram.from,
            datagram.to,
            datagram.from_peer,
        );
    });
    let tunnel = Tunnel::start(
        Options::new(identity.wireguard_private()),
        tun,
        socket,
        sink,
    )?;
    let ran = with_mesh(
        config, state, identity, attempt, receiver, network, &tunnel, failures,
    )
    .await;
    tunnel.stop();
    ran
}

/// The mesh's thread, and the loop that joins all parts.
async fn with_mesh(
    config: &Config,
    state: &State,
    identity: Identity,
    attempt: u8,
    inbox: InboxReceiver,
    network: &mut Network,
    tunnel: &Tunnel,
    failures: &mut Vec<String>,
) -> Result<(), Fault> {
    // The overlay's own addresses stand before the first peer: gossip binds to them.
    let converged = network.converge().await?;
    let messenger = tunnel.messenger();
    let send = Box::new(move |bytes: &[u8], to, from| messenger.send(bytes, to, from));
    let entry = network.entry();
    let mut mesh = driver::spawn(
        settings::mesh(config),
        identity,
        inbox,
        send,
        Box::new(move || entry.enter()),
    )?;
    let made = Node::new(config, state, network, tunnel, &mut mesh, attempt);
    let ran = match made {
        Ok(mut node) => {
            node.set_uplink(converged.uplink);
            let ran = node.serve().await;
            failures.extend(node.workload.stop().await);
            ran
        }
        Err(fault) => Err(fault),
    };
    mesh.stop().await;
    ran
}

/// Something that the loop hears of.
enum Happening {
    Network(Result<NetworkEvent, hepto_net::Error>),
    Mesh(MeshEvent),
    Sessions,
    Resolved(anchor::Resolved),
    Workload(workload::Step),
    Asked(Pending),
    Report(Pending, Report),
    Reload,
    Stop(&'static str),
}

/// A running node: its parts, and what it knows of them.
struct Node<'a> {
    config: &'a Config,
    state: &'a State,
    network: &'a mut Network,
    tunnel: &'a Tunnel,
    mesh: &'a mut Mesh,
    workload: Workload,
    peers: Peers,
    /// What needs a person, by its text.
    notices: BTreeMap<String, Notice>,
    /// Own addresses that another machine has.
    duplicates: BTreeSet<IpAddr>,
    attempt: u8,
    hosts: String,
    resolv_conf: String,
    uplink: UplinkState,
    started: Instant,
    resolver: Resolver,
    control: mpsc::Receiver<Pending>,
    reports: (
        mpsc::Sender<(Pending, Report)>,
        mpsc::Receiver<(Pending, Report)>,
    ),
    reachable: usize,
    told: String,
    began: bool,
    changed: AsyncFd<OwnedFd>,
    sessions: Interval,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl<'a> Node<'a> {
    fn new(
        config: &'a Config,
        state: &'a State,
        network: &'a mut Network,
        tunnel: &'a Tunnel,
        mesh: &'a mut Mesh,
        attempt: u8,
    ) -> Result<Self, Fault> {
        let unavailable = |error: std::io::Error| {
            Fault::new(
                "E-RUN-LOOP",
                format!("cannot watch signals and sessions: {error}"),
            )
        };
        let mut sessions = interval(SESSIONS_EVERY);
        sessions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let own = (
            config.node.name.clone(),
            settings::overlay_addresses(config, attempt).to_vec(),
        );
        let mut node = Node {
            workload: Workload::new(config, state.run_directory(), network.entry()),
            peers: Peers::new(config.cluster.pod_cidrs.clone()),
            notices: BTreeMap::new(),
            duplicates: BTreeSet::new(),
            attempt,
            hosts: String::new(),
            resolv_conf: String::new(),
            uplink: UplinkState::WaitingForParent,
            started: Instant::now(),
            resolver: Resolver::new(settings::anchors(config)),
            control: control::serve(state.run_directory())?,
            reports: mpsc::channel(4),
            reachable: 0,
            told: String::new(),
            began: false,
            changed: tunnel
                .changed()
                .and_then(|event| descriptor::watch(event, Interest::READABLE))
                .map_err(unavailable)?,
            sessions,
            terminate: signal(SignalKind::terminate()).map_err(unavailable)?,
            interrupt: signal(SignalKind::interrupt()).map_err(unavailable)?,
            hangup: signal(SignalKind::hangup()).map_err(unavailable)?,
            config,
            state,
            network,
            tunnel,
            mesh,
        };
        node.set_hosts(&[own]);
        node.write_resolver()?;
        Ok(node)
    }

    /// Joins the parts until it is told to stop.
    async fn serve(&mut self) -> Result<(), Fault> {
        notify(&[NotifyState::Ready]);
        if Workload::has_run(self.config) {
            self.mesh.command(Command::K3sStarted);
        }
        tracing::info!(
            node = %self.config.node.name,
            cluster = %self.config.cluster.name,
            addresses = ?settings::overlay_addresses(self.config, self.attempt),
            "up: namespace, tunnel and control socket are there"
        );
        loop {
            match self.next().await {
                Happening::Network(event) => self.on_network(event?).await,
                Happening::Mesh(event) => self.on_mesh(event).await?,
                Happening::Sessions => self.on_sessions().await?,
                Happening::Resolved(anchors) => self.mesh.command(Command::Anchors(anchors)),
                Happening::Workload(workload::Step::Went) => {}
                Happening::Workload(workload::Step::Lost) => self.workload.clear().await,
                Happening::Asked(pending) if pending.ask == Ask::Stop => {
                    let _ = pending.answer.send(Answer::Stopping);
                    return self.stopping("hepto-node stop");
                }
                Happening::Asked(pending) => self.ask_mesh(pending),
                Happening::Report(pending, report) => self.answer(pending, &report),
                Happening::Reload => tracing::warn!(
                    "reload is not in this version: restart the node to take up a changed config"
                ),
                Happening::Stop(why) => return self.stopping(why),
            }
            self.tell_status();
        }
    }

    async fn next(&mut self) -> Happening {
        tokio::select! {
            event = self.network.event() => Happening::Network(event),
            event = self.mesh.event() => match event {
                Some(event) => Happening::Mesh(event),
                None => Happening::Stop(MESH_ENDED),
            },
            _ = self.sessions.tick() => Happening::Sessions,
            Ok(mut guard) = self.changed.readable() => {
                drain(guard.get_inner());
                guard.clear_ready();
                Happening::Sessions
            }
            anchors = self.resolver.next() => Happening::Resolved(anchors),
            step = self.workload.step() => Happening::Workload(step),
            Some(pending) = self.control.recv() => Happening::Asked(pending),
            Some((pending, report)) = self.reports.1.recv() => Happening::Report(pending, report),
            _ = self.hangup.recv() => Happening::Reload,
            _ = self.terminate.recv() => Happening::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Happening::Stop("SIGINT"),
        }
    }

    fn stopping(&mut self, why: &str) -> Result<(), Fault> {
        notify(&[NotifyState::Stopping]);
        tracing::info!(why, "stopping");
        match why {
            MESH_ENDED => Err(Fault::new("E-MESH-THREAD", "the mesh's thread ended")
                .fix("start the node again, and report its log")),
            _ => Ok(()),
        }
    }

    /// Brings the namespace to what is wanted; a failure is logged, and tried again at the next event.
    async fn converge(&mut self) {
        match self.network.converge().await {
            Ok(converged) => self.set_uplink(converged.uplink),
            Err(error) => tracing::error!(code = error.code(), fix = error.fix(), "{error}"),
        }
    }

    fn set_uplink(&mut self, uplink: UplinkState) {
        self.uplink = uplink;
        let index = match uplink {
            UplinkState::Up { ifindex, .. } => Some(ifindex),
            UplinkState::WaitingForParent => None,
        };
        if let Err(error) = self.tunnel.set_uplink(index) {
            tracing::error!(%error, "cannot bind the mesh's socket to the uplink; restart the node");
        }
    }

    async fn on_network(&mut self, event: NetworkEvent) {
        match event {
            NetworkEvent::Addresses(addresses) => self.mesh.command(Command::Addresses(addresses)),
            NetworkEvent::PodRoutes(routes) => {
                let changes = self.peers.route(routes);
                self.apply(changes);
            }
            NetworkEvent::DuplicateAddress(address) => {
                tracing::error!(code = "E-NET-ADDR-DUP", %address, "another machine on this network has this address; change one of the two");
                self.duplicates.insert(address);
            }
            NetworkEvent::AddressPending(address) => {
                tracing::warn!(%address, "this address is not usable yet: check the cable and that {} is up", self.config.network.interface);
            }
            NetworkEvent::Parent(change) => {
                tracing::info!(
                    interface = self.config.network.interface,
                    ?change,
                    "the host's interface changed"
                );
                self.duplicates.clear();
                self.converge().await;
            }
            NetworkEvent::UplinkGone | NetworkEvent::FirewallGone | NetworkEvent::Drift => {
                tracing::warn!(?event, "someone changed the node's network; it is put back");
                self.converge().await;
            }
        }
    }

    async fn on_mesh(&mut self, event: MeshEvent) -> Result<(), Fault> {
        match event {
            MeshEvent::Peer(PeerChange::Set(peer)) => {
                let public_key = peer.public_key;
                let changes = self.peers.set(peer);
                self.apply(changes);
                self.mesh.command(Command::PeerReady(public_key));
            }
            MeshEvent::Peer(PeerChange::Removed { name, .. }) => {
                let changes = self.peers.remove(&name);
                self.apply(changes);
            }
            MeshEvent::Handshake {
                public_key,
                endpoint,
            } => drop(self.tunnel.handshake(&public_key, endpoint)),
            MeshEvent::Hosts(entries) => self.set_hosts(&entries),
            MeshEvent::Attempt(attempt) => {
                self.attempt = attempt;
                self.network
                    .set_overlay_addresses(settings::overlay_networks(self.config, attempt));
                self.converge().await;
            }
            MeshEvent::ResolveAnchors => self.resolver.begin(),
            MeshEvent::Notice(notice) => self.on_notice(notice),
        }
        Ok(())
    }

    fn on_notice(&mut self, notice: Notice) {
        if let Notice::AnchorAnswers { .. } = notice {
            self.notices
                .retain(|_, notice| !matches!(notice, Notice::NoAnchorAnswers { .. }));
        }
        if !notice.is_problem() {
            return tracing::info!(code = notice.code(), "{notice}");
        }
        tracing::warn!(code = notice.code(), fix = notice.fix(), "{notice}");
        if self.notices.len() < NOTICES_KEPT {
            self.notices.insert(notice.to_string(), notice);
        }
    }

    /// Tells the mesh of the tunnel's sessions, and begins the workload when they allow it.
    async fn on_sessions(&mut self) -> Result<(), Fault> {
        let peers = self.tunnel.peers();
        let live = |age: Option<Duration>| age.is_some_and(|age| age < SESSION_LIFE);
        let master = self.peers.key(&self.config.cluster.master);
        let master_live = peers
            .iter()
            .any(|peer| Some(peer.public_key) == master && live(peer.last_handshake));
        self.workload.master_live(master_live);
        self.reachable = peers
            .iter()
            .filter(|peer| live(peer.last_handshake))
            .count();
        let met = self.reachable > 0;
        let session = |peer: PeerReport| Session {
            public_key: peer.public_key,
            age: peer.last_handshake,
            endpoint: peer.endpoint,
            wants: peer.wants_session,
            stale_clock: peer.stale_clock,
        };
        self.mesh
            .command(Command::Sessions(peers.into_iter().map(session).collect()));
        if self.workload.due(self.config, met) {
            self.mesh.command(Command::K3sStarted);
            let began = self
                .workload
                .begin(self.config, self.attempt, &self.hosts, &self.resolv_conf)
                .await;
            // Once it ran, a failure is tried again; at the start it ends the node, with what mends it.
            match began {
                Err(fault) if self.began => tracing::error!("{fault}"),
                other => other?,
            }
            self.began = true;
        }
        Ok(())
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Set(config) => self.tunnel.set_peer(config),
                Change::Remove(public_key) => self.tunnel.remove_peer(&public_key),
            }
        }
    }

    fn set_hosts(&mut self, entries: &[(NodeName, Vec<IpAddr>)]) {
        let named: Vec<_> = entries
            .iter()
            .map(|(name, addresses)| (name.to_string(), addresses.clone()))
            .collect();
        self.hosts = sandbox::hosts(&named);
        if let Err(error) = sandbox::write_hosts(self.state.run_directory(), &self.hosts) {
            tracing::warn!("new nodes are not found by name until this is mended: {error}");
        }
    }

    /// Writes what the node's network needs beside its hosts, before anything runs in it.
    fn write_resolver(&mut self) -> Result<(), Fault> {
        let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let own = crate::config::host_addresses().unwrap_or_default();
        let own: Vec<IpAddr> = own.into_iter().map(|host| host.address).collect();
        self.resolv_conf = match sandbox::resolv_conf(&self.config.network.dns, &host, &own) {
            Ok(text) => text,
            // Pods cannot do without; a mesh alone can.
            Err(error) if self.config.k3s.is_none() => {
                tracing::warn!(fix = error.fix(), "{error}");
                String::new()
            }
            Err(error) => return Err(error.into()),
        };
        Ok(sandbox::write_network(
            self.state.run_directory(),
            &self.hosts,
            &self.resolv_conf,
        )?)
    }

    /// Asks the mesh's thread for its report; the answer goes out when that came, without holding up the loop.
    fn ask_mesh(&self, pending: Pending) {
        let (sender, receiver) = oneshot::channel();
        self.mesh.command(Command::Report(sender));
        let reports = self.reports.0.clone();
        tokio::spawn(async move {
            if let Ok(report) = receiver.await {
                let _ = reports.send((pending, report)).await;
            }
        });
    }

    fn answer(&self, pending: Pending, report: &Report) {
        let answer = match pending.ask {
            Ask::Peers => Answer::Peers(self.peer_statuses(report)),
            Ask::Status | Ask::Stop => Answer::Status(Box::new(self.status(report))),
        };
        // Who asked may have gone away.
        let _ = pending.answer.send(answer);
    }

    /// What `systemctl status` shows, when it changed.
    fn tell_status(&mut self) {
        let k3s = self
            .workload
            .report(self.config)
            .map_or("no k3s".into(), |k3s| format!("k3s {}", k3s.state));
        let text = format!(
            "{} of {} other nodes reachable, {k3s}",
            self.reachable,
            self.peers.len()
        );
        if text != self.told {
            notify(&[NotifyState::Status(&text)]);
            self.told = text;
        }
    }
}

/// Tells the service manager, where there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

/// Empties an eventfd (eventfd(2)), so that it is readable again at the next change.
fn drain(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}
