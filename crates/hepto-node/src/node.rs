//! One node from start to stop: the order in which its parts are made.
//!
//! Each layer makes its part, runs the next inside it, and takes its part down again, whatever came of the
//! next. All of this is on the main thread, in the host's namespaces; between the parts passes plain data. The
//! loop that joins them is in [`life`].

mod anchor;
mod fixed;
pub mod guard;
mod life;
mod limits;
mod pause;
mod reload;
mod report;
mod service;
pub mod settings;
mod successor;
mod watchdog;
mod workload;

use std::os::unix::net::UnixStream;

use hepto_mesh::driver::{self, InboxReceiver};
use hepto_mesh::identity::Identity;
use hepto_net::Network;
use hepto_tunnel::{Datagram, Options, Socket, Tun, Tunnel};

use crate::config::Config;
use crate::fault::Fault;
use crate::secret;
use crate::state::{State, remember_identity};
use crate::uapi::Uapi;
pub use fixed::{Fixed, fixed};
use life::{Life, end_as_a_crash};
use service::{Manager, Signals};
use settings::OVERLAY_LINK;
pub use successor::{Successor, can_take_over};
pub use workload::order;

/// What this process holds since before it was put in another's place.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The descriptor of the node's lock.
    pub lock: Option<i32>,
    /// The socket to the guard of a reload.
    pub guard: Option<UnixStream>,
    /// Why another program was ended for this one.
    pub put_back: Option<String>,
}

/// What every layer is given.
struct Start<'a> {
    config: &'a Config,
    state: &'a State,
    identity: Identity,
    attempt: u8,
    signals: Signals,
    successor: Successor,
    manager: Manager,
    put_back: Option<String>,
    /// What could not be removed, a sentence each.
    failures: Vec<String>,
}

/// Runs the node until SIGTERM, SIGINT or `hepto-node stop`; then, and after any failure half-way, takes down
/// all that it made. A reload puts the installed program in this process's place, and this never returns.
///
/// `successor` is how to start that program.
///
/// # Errors
/// What could not be made; else what could not be removed.
pub async fn run(config: Config, successor: Successor, inherited: Inherited) -> anyhow::Result<()> {
    // From here on a signal stops the node in order, also while it starts.
    let signals = Signals::watch()?;
    let manager = Manager::new(inherited.guard)?;
    let guarded = manager.is_guarded();
    let state = State::acquire(&config, inherited.lock)?;
    let mut failures = Vec::new();
    let ran = match Start::new(&config, &state, signals, successor, manager) {
        Ok(mut start) => {
            start.put_back = inherited.put_back;
            let ran = with_network(&mut start).await;
            failures = start.failures;
            ran
        }
        Err(fault) if guarded => end_as_a_crash(&fault),
        Err(fault) => Err(fault),
    };
    // What is left is found by what lies in the run directory: it is the last to go.
    if failures.is_empty() {
        failures.extend(state.release().err());
    }
    for failure in &failures {
        tracing::error!(
            code = "E-STOP-LEFTOVERS",
            fix = "hepto-node stop tries again",
            "not removed: {failure}"
        );
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

impl<'a> Start<'a> {
    fn new(
        config: &'a Config,
        state: &'a State,
        signals: Signals,
        successor: Successor,
        manager: Manager,
    ) -> Result<Self, Fault> {
        let directory = config.node_directory().join("identity");
        let identity = Identity::load_or_create(&directory, &mut secret::SystemRandom)?;
        remember_identity(config, &identity.fingerprint())?;
        let attempt =
            driver::saved_attempt(&settings::mesh_directory(config), &config.cluster.name)?;
        Ok(Start {
            config,
            state,
            identity,
            attempt,
            signals,
            successor,
            manager,
            put_back: None,
            failures: Vec::new(),
        })
    }

    /// A program on trial that fails leaves all as it is, for the one before it.
    fn leave_to_guard(&self, ran: &Result<(), Fault>) {
        if let (Err(fault), true) = (ran, self.manager.is_guarded()) {
            end_as_a_crash(fault);
        }
    }
}

/// The namespace: made or adopted, and removed at the end.
async fn with_network(start: &mut Start<'_>) -> Result<(), Fault> {
    let mut network = Network::open(settings::network(start.config, start.attempt)).await?;
    let ran = with_tunnel(start, &mut network).await;
    start.leave_to_guard(&ran);
    let failures = network.close().await;
    start
        .failures
        .extend(failures.iter().map(ToString::to_string));
    ran
}

/// TUN and UDP socket inside the namespace, and the threads between them.
async fn with_tunnel(start: &mut Start<'_>, network: &mut Network) -> Result<(), Fault> {
    let port = start.config.mesh.port;
    let entry = network.entry();
    let open =
        move || Ok::<_, hepto_tunnel::Error>((Tun::open(OVERLAY_LINK)?, Socket::open(port)?));
    let opened = entry.spawn(open).await.map_err(|error| {
        let what = format!("cannot enter the node's namespace: {error}");
        Fault::new("E-NET-ENTER", what)
    });
    let (tun, socket) = opened??;
    let (inbox, receiver) = driver::inbox();
    let sink = Box::new(move |datagram: Datagram<'_>| {
        let Datagram {
            bytes,
            from,
            to,
            from_peer,
        } = datagram;
        inbox.offer(bytes, from, to, from_peer);
    });
    let options = Options::new(start.identity.wireguard_private());
    let tunnel = Tunnel::start(options, tun, socket, sink)?;
    let uapi = Uapi::serve(start.state.run_directory(), tunnel.observer());
    let ran = with_mesh(start, receiver, network, &tunnel).await;
    start.leave_to_guard(&ran);
    start.failures.extend(uapi.close());
    tunnel.stop();
    ran
}

/// The mesh's thread, and the loop that joins all parts.
async fn with_mesh(
    start: &mut Start<'_>,
    inbox: InboxReceiver,
    network: &mut Network,
    tunnel: &Tunnel,
) -> Result<(), Fault> {
    // The overlay's own addresses stand before the first peer: gossip binds to them.
    let converged = network.converge().await?;
    let messenger = tunnel.messenger();
    let send = Box::new(move |bytes: &[u8], to, from| messenger.send(bytes, to, from));
    let entry = network.entry();
    let enter = Box::new(move || entry.enter());
    let identity = start.identity.clone();
    let mut mesh = driver::spawn(settings::mesh(start.config)?, identity, inbox, send, enter)?;
    let ran = match Life::new(start, network, tunnel, &mut mesh, converged.uplink) {
        Ok(mut life) => {
            let ran = life.live().await;
            if let (Err(fault), true) = (&ran, life.manager.is_guarded()) {
                end_as_a_crash(fault);
            }
            let failures = life.stop_workload().await;
            start.failures.extend(failures);
            ran
        }
        Err(fault) => Err(fault),
    };
    mesh.stop().await;
    ran
}
