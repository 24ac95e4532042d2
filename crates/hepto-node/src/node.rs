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
mod uplink;
mod watchdog;
mod workload;

use std::os::unix::net::UnixStream;

use hepto_mesh::driver::{self, InboxReceiver};
use hepto_mesh::identity::Identity;
use hepto_net::Network;
use hepto_tunnel::{Datagram, Options, Socket, Tun, Tunnel};

use crate::config::Config;
use crate::fault::Fault;
use crate::sandbox;
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
    /// The node was there already.
    found: bool,
    /// What could not be removed, a sentence each.
    failures: Vec<String>,
}

/// The faults of which only the node's end is the cure: it went to another machine, or its init is another program's.
const FINAL: [&str; 2] = ["E-MESH-MOVED", "E-SANDBOX-VERSION"];

/// Runs the node until SIGTERM, SIGINT or `hepto-node stop`; then, and after any failure half-way, takes down
/// all that it made. A reload puts the installed program in this process's place, and this never returns; nor does it
/// after a failure where the node ran already: that runs on, for the next start.
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
    let found = is_there(&config, &state);
    let mut failures = Vec::new();
    let ran = match Start::new(&config, &state, signals, successor, manager) {
        Ok(mut start) => {
            start.put_back = inherited.put_back;
            start.found = found;
            let ran = with_network(&mut start).await;
            start.leave(&ran);
            failures = start.failures;
            ran
        }
        Err(fault) => {
            leave(&fault, guarded, found);
            Err(fault)
        }
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
            found: false,
            failures: Vec::new(),
        })
    }

    /// [`leave`] after a failure.
    fn leave(&self, ran: &Result<(), Fault>) {
        if let Err(fault) = ran {
            leave(fault, self.manager.is_guarded(), self.found);
        }
    }
}

/// Whether an earlier run has left the node: its network, or what runs in it.
fn is_there(config: &Config, state: &State) -> bool {
    let marker =
        hepto_net::address::marker(config.cluster.name.as_str(), config.node.name.as_str());
    let network = hepto_net::namespace::find(&config.namespace(), &marker);
    network.is_ok_and(|entry| entry.is_some()) || sandbox::programs(state.run_directory()).is_ok()
}

/// Ends the process if what is there is not its to take down: a program on trial that fails leaves it to the one before
/// it, a start to the next one. Pods are none the worse for a port that is taken.
fn leave(fault: &Fault, guarded: bool, found: bool) {
    if guarded {
        end_as_a_crash(fault);
    }
    if found && !FINAL.contains(&fault.code) {
        tracing::warn!(
            code = "W-RUN-LEFT",
            fix = "mend that and start the node again, which takes it over; or end it: hepto-node stop",
            "this start fails; what an earlier one left of the node stays, and k3s and pods run on"
        );
        end_as_a_crash(fault);
    }
}

/// The namespace: made or adopted, and removed at the end.
async fn with_network(start: &mut Start<'_>) -> Result<(), Fault> {
    let mut network = Network::open(settings::network(start.config, start.attempt)).await?;
    let ran = with_tunnel(start, &mut network).await;
    start.leave(&ran);
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
    start.leave(&ran);
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
    let found = start.found;
    let ran = match Life::new(start, network, tunnel, &mut mesh, converged.uplink) {
        Ok(mut life) => {
            let ran = life.live().await;
            if let Err(fault) = &ran {
                leave(fault, life.manager.is_guarded(), found);
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
