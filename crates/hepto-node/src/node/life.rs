//! A running node: the loop that hears of everything and joins the parts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use hepto_mesh::core::{Notice, PeerChange, Session};
use hepto_mesh::driver::{Command, Event as MeshEvent, Mesh, Report};
use hepto_mesh::name::NodeName;
use hepto_net::{Event as NetworkEvent, Network, UplinkState};
use hepto_tunnel::{PeerReport, Tunnel};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::anchor::{Resolved, Resolver};
use super::reload::Reload;
use super::service::{Manager, Signals, unavailable};
use super::watchdog::Watchdog;
use super::workload::{Step, Workload};
use super::{Start, settings};
use crate::config::Config;
use crate::control::{self, Answer, Ask, Pending};
use crate::fault::Fault;
use crate::log;
use crate::metrics::Metrics;
use crate::peers::{Change, Peers};
use crate::quality::{Qualities, Target};
use crate::sandbox::{self, descriptor};
use crate::snapshot::Snapshots;
use crate::state::{self, State};

/// How often the mesh hears of all sessions, beside each change.
const SESSIONS_EVERY: Duration = Duration::from_secs(1);
/// A session that is older carries nothing any more: REJECT_AFTER_TIME of the WireGuard paper, §6.1.
const SESSION_LIFE: Duration = Duration::from_secs(180);
/// How long a program lives after a reload before the earlier one is let go: long enough for its first packets, and for
/// k3s to be taken over.
const PROOF: Duration = Duration::from_secs(3);
/// Notices kept for `status`: a hostile network cannot fill the memory with them.
const NOTICES_KEPT: usize = 32;

/// A request, and the mesh's report that answers it.
type Answered = (Pending, Box<Report>);

/// Something that the loop hears of.
enum Happening {
    Network(Result<NetworkEvent, hepto_net::Error>),
    Mesh(MeshEvent),
    Sessions,
    Echo,
    Resolved(Resolved),
    Workload(Step),
    Asked(Pending),
    Report(Answered),
    Reload(Option<oneshot::Sender<Answer>>),
    Checked(Result<String, Fault>),
    Watchdog,
    Stop(&'static str),
    MeshEnded,
}

/// A running node: its parts, and what it knows of them.
pub(super) struct Life<'a> {
    pub(super) config: &'a Config,
    pub(super) state: &'a State,
    pub(super) network: &'a mut Network,
    pub(super) tunnel: &'a Tunnel,
    pub(super) mesh: &'a mut Mesh,
    pub(super) workload: Workload,
    pub(super) peers: Peers,
    pub(super) qualities: Qualities,
    pub(super) snapshots: Snapshots,
    /// What needs a person, by its text.
    pub(super) notices: BTreeMap<String, Notice>,
    /// The uplink's addresses that can be used now.
    pub(super) usable: Vec<IpAddr>,
    /// Own addresses that another machine has.
    pub(super) duplicates: BTreeSet<IpAddr>,
    pub(super) attempt: u8,
    pub(super) hosts: String,
    pub(super) resolv_conf: String,
    pub(super) uplink: UplinkState,
    pub(super) started: Instant,
    pub(super) resolver: Resolver,
    pub(super) control: mpsc::Receiver<Pending>,
    pub(super) metrics: Metrics,
    pub(super) reports: (mpsc::Sender<Answered>, mpsc::Receiver<Answered>),
    pub(super) reachable: usize,
    pub(super) told: String,
    pub(super) began: bool,
    pub(super) changed: AsyncFd<OwnedFd>,
    pub(super) sessions: Interval,
    pub(super) signals: &'a mut Signals,
    pub(super) manager: &'a mut Manager,
    /// Why this program was put back in the place of another, after a reload.
    pub(super) put_back: Option<&'a str>,
    pub(super) reload: Reload,
    pub(super) watchdog: Watchdog,
    /// Who waits for the node to be paused.
    pub(super) pausing: Vec<oneshot::Sender<Answer>>,
}

impl<'a> Life<'a> {
    /// Joins the parts that are there.
    ///
    /// # Errors
    /// When the control socket or the files of the run directory cannot be made.
    pub fn new<'s: 'a>(
        start: &'a mut Start<'s>,
        network: &'a mut Network,
        tunnel: &'a Tunnel,
        mesh: &'a mut Mesh,
        uplink: UplinkState,
    ) -> Result<Self, Fault> {
        let Start {
            config,
            state,
            attempt,
            signals,
            successor,
            manager,
            put_back,
            ..
        } = start;
        let mut sessions = interval(SESSIONS_EVERY);
        sessions.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let own = (
            config.node.name.clone(),
            settings::overlay_addresses(config, *attempt).to_vec(),
        );
        let directory = state.run_directory();
        let (requests, control) = control::serve(directory)?;
        let mut life = Life {
            workload: Workload::new(config, state.run_directory(), network.entry()),
            peers: Peers::new(config.cluster.pod_cidrs.clone()),
            qualities: Qualities::open(&network.entry(), settings::OVERLAY_LINK),
            snapshots: Snapshots::start(config, network.entry())?,
            notices: BTreeMap::new(),
            usable: Vec::new(),
            duplicates: BTreeSet::new(),
            attempt: *attempt,
            hosts: String::new(),
            resolv_conf: String::new(),
            uplink: UplinkState::WaitingForParent,
            started: Instant::now(),
            resolver: Resolver::new(settings::anchors(config)),
            control,
            metrics: Metrics::serve(directory, config.metrics.listen, &requests),
            reports: mpsc::channel(4),
            reachable: 0,
            told: String::new(),
            began: false,
            changed: tunnel
                .changed()
                .and_then(|event| descriptor::watch(event, Interest::READABLE))
                .map_err(unavailable)?,
            sessions,
            signals,
            manager,
            put_back: put_back.as_deref(),
            reload: Reload::new(successor.clone()),
            watchdog: Watchdog::new(),
            pausing: Vec::new(),
            config,
            state,
            network,
            tunnel,
            mesh,
        };
        life.set_uplink(uplink);
        life.set_hosts(&[own]);
        life.write_resolver()?;
        Ok(life)
    }

    /// Joins the parts until it is told to stop.
    ///
    /// # Errors
    /// What makes going on impossible.
    pub async fn live(&mut self) -> Result<(), Fault> {
        self.manager.ready();
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
                Happening::Network(Ok(event)) => self.on_network(event).await,
                Happening::Network(Err(error)) => end_as_a_crash(&error.into()),
                Happening::Mesh(MeshEvent::Notice(Notice::Moved)) => return Err(self.moved_away()),
                Happening::Mesh(event) => self.on_mesh(event).await,
                Happening::Sessions => {
                    self.on_sessions().await?;
                    log::tell_unsaid();
                }
                Happening::Echo => {}
                Happening::Resolved(anchors) => self.mesh.command(Command::Anchors(anchors)),
                Happening::Workload(Step::Went) => {}
                Happening::Workload(Step::Acquired) => self.on_sessions().await?,
                Happening::Workload(Step::Lost) => self.workload.clear().await,
                Happening::Workload(Step::Paused(failures)) => self.on_paused(&failures),
                Happening::Asked(pending) if pending.ask == Ask::Stop => {
                    let _ = pending.answer.send(Answer::Stopping);
                    self.manager.stopping("hepto-node stop");
                    return Ok(());
                }
                Happening::Asked(pending) if pending.ask == Ask::Pause => self.on_pause(pending),
                Happening::Asked(pending) if pending.ask == Ask::Resume => self.on_resume(pending),
                Happening::Asked(pending) if pending.ask == Ask::Snapshot => {
                    self.snapshots.ask(pending.answer);
                }
                Happening::Asked(pending) => self.ask_mesh(pending),
                Happening::Report((pending, report)) => self.answer(pending, &report).await,
                Happening::Reload(asked) => self.begin_reload(asked),
                Happening::Checked(checked) => self.hand_over(checked),
                Happening::Watchdog => self.watchdog.look(self.tunnel, self.mesh, self.manager),
                Happening::Stop(why) => {
                    self.manager.stopping(why);
                    return Ok(());
                }
                Happening::MeshEnded => {
                    let fault = Fault::new("E-MESH-THREAD", "the mesh's thread ended");
                    end_as_a_crash(&fault.fix("start the node again, and report its log"));
                }
            }
            self.tell_status();
        }
    }

    async fn next(&mut self) -> Happening {
        tokio::select! {
            event = self.network.event() => Happening::Network(event),
            event = self.mesh.event() => match event {
                Some(event) => Happening::Mesh(event),
                None => Happening::MeshEnded,
            },
            _ = self.sessions.tick() => Happening::Sessions,
            Ok(mut guard) = self.changed.readable() => {
                drain(guard.get_inner());
                guard.clear_ready();
                Happening::Sessions
            }
            () = self.qualities.answer() => Happening::Echo,
            anchors = self.resolver.next() => Happening::Resolved(anchors),
            step = self.workload.step() => Happening::Workload(step),
            Some(pending) = self.control.recv() => match pending.ask {
                Ask::Reload => Happening::Reload(Some(pending.answer)),
                _ => Happening::Asked(pending),
            },
            Some(answered) = self.reports.1.recv() => Happening::Report(answered),
            checked = self.reload.checked() => Happening::Checked(checked),
            () = self.watchdog.due() => Happening::Watchdog,
            _ = self.signals.hangup.recv() => Happening::Reload(None),
            _ = self.signals.terminate.recv() => Happening::Stop("SIGTERM"),
            _ = self.signals.interrupt.recv() => Happening::Stop("SIGINT"),
        }
    }

    /// Stops what runs in the node; gives every failure.
    pub async fn stop_workload(self) -> Vec<String> {
        self.snapshots.stop().await;
        self.workload.stop().await
    }

    async fn on_mesh(&mut self, event: MeshEvent) {
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
    }

    /// The node is on another machine now: it ends here, in order, and is not started again.
    fn moved_away(&self) -> Fault {
        if let Err(error) = state::mark_moved(self.config) {
            tracing::warn!(code = "E-MESH-MOVED", fix = "take it off this one: hepto-node uninstall", %error, "cannot note that this node is on another machine");
        }
        state::moved()
    }

    fn on_notice(&mut self, notice: Notice) {
        self.notices.retain(|_, held| !notice.ends(held));
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
        self.workload.company(met);
        let session = |peer: PeerReport| Session {
            public_key: peer.public_key,
            age: peer.last_handshake,
            endpoint: peer.endpoint,
            wants: peer.wants_session,
            stale_clock: peer.stale_clock,
        };
        let target = |peer: &PeerReport| Target {
            address: (self.peers.address(&peer.public_key)).filter(|_| live(peer.last_handshake)),
            peer: peer.clone(),
        };
        self.qualities
            .look(peers.iter().map(target).collect(), Instant::now());
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
                Err(fault) if self.began => fault.log(),
                other => other?,
            }
            self.began = true;
        }
        if self.started.elapsed() >= PROOF {
            self.manager.release();
        }
        Ok(())
    }

    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Set(config) => self.tunnel.set_peer(config),
                Change::Remove(public_key) => self.tunnel.remove_peer(&public_key),
            }
        }
    }

    fn set_hosts(&mut self, entries: &[(NodeName, Vec<IpAddr>)]) {
        self.snapshots.members(entries);
        let named: Vec<_> = entries
            .iter()
            .map(|(name, addresses)| (name.to_string(), addresses.clone()))
            .collect();
        self.hosts = sandbox::hosts(&named);
        if let Err(error) = sandbox::write_hosts(self.state.run_directory(), &self.hosts) {
            tracing::warn!(
                code = error.code(),
                fix = "make room in /run",
                "new nodes are not found by name until this is mended: {error}"
            );
        }
    }

    /// Writes what the node's network needs beside its hosts, before anything runs in it.
    fn write_resolver(&mut self) -> Result<(), Fault> {
        self.resolv_conf = match settings::resolv_conf(self.config) {
            Ok(text) => text,
            // Pods cannot do without; a mesh alone can.
            Err(error) if self.config.k3s.is_none() => {
                Fault::from(error).log();
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
                let _ = reports.send((pending, Box::new(report))).await;
            }
        });
    }

    async fn answer(&self, pending: Pending, report: &Report) {
        let answer = match pending.ask {
            Ask::Peers => Answer::Peers(self.peer_statuses(report)),
            Ask::Status | Ask::Stop | Ask::Reload | Ask::Pause | Ask::Resume | Ask::Snapshot => {
                // Counters that the kernel does not tell are left out.
                let shaped = self.network.shaped().await.unwrap_or_default();
                Answer::Status(Box::new(self.status(report, &shaped)))
            }
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
        if text != self.told && self.manager.status(&text) {
            self.told = text;
        }
    }
}

/// Ends the process and nothing else: namespace, k3s and pods stay, for the next start to take over. What broke is
/// ours, and no reason to end theirs.
pub(super) fn end_as_a_crash(fault: &Fault) -> ! {
    fault.log();
    std::process::exit(fault.exit as i32)
}

/// Empties an eventfd (eventfd(2)), so that it is readable again at the next change.
fn drain(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}
