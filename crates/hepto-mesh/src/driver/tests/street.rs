//! The street: one network namespace whose loopback holds every home's public and overlay address.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command as Program;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::super::*;
use crate::core::{Peer, PeerChange};

const DEADLINE: Duration = Duration::from_secs(30);
const PORT: u16 = 51820;

pub(super) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {DEADLINE:?}: {what}"),
    }
}

/// Fresh keys at each call: two homes must not share an identity.
pub(super) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::from_seed(random().unwrap())
}

fn public(house: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, house), PORT).into()
}

/// Whom the tunnels would let in, and who has a session with whom.
#[derive(Default)]
struct World {
    /// By public address: the key there, its table of peers, its sessions.
    tunnels: BTreeMap<SocketAddr, Tunnel>,
}

#[derive(Default)]
struct Tunnel {
    key: [u8; 32],
    peers: BTreeMap<[u8; 32], Peer>,
    sessions: BTreeMap<[u8; 32], (Instant, SocketAddr)>,
}

impl World {
    /// A handshake works if each side has the other in its table and lives where the other thinks.
    fn handshake(&mut self, from: SocketAddr, to_key: [u8; 32], to: SocketAddr) {
        let from_key = self.tunnels[&from].key;
        let Some(other) = self.tunnels.get_mut(&to) else {
            return;
        };
        if other.key == to_key && other.peers.contains_key(&from_key) {
            other.sessions.insert(from_key, (Instant::now(), from));
            let own = self.tunnels.get_mut(&from).expect("it sends, so it lives");
            own.sessions.insert(to_key, (Instant::now(), to));
        }
    }
}

pub(super) struct Street {
    namespace: Arc<File>,
    world: Arc<Mutex<World>>,
}

/// What a home has been told by its mesh.
#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Names of those with a session.
    pub sessions: BTreeSet<String>,
    /// The hosts list's names, in order.
    pub hosts: Vec<String>,
    /// Codes of notices.
    pub notices: BTreeSet<&'static str>,
}

/// A node: its mesh, its socket, and main's part of the work.
pub(super) struct Home {
    name: String,
    directory: TempDir,
    state: watch::Receiver<State>,
    asks: mpsc::UnboundedSender<Command>,
    main: JoinHandle<Mesh>,
    _receiving: Receiving,
}

/// Ends a receiving thread, and with it its hold on the socket.
struct Receiving(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        if let Some(thread) = self.1.take() {
            let _ = thread.join();
        }
    }
}

fn ip(arguments: &str) {
    let done = Program::new("ip")
        .args(arguments.split(' '))
        .output()
        .expect("iproute2 is installed");
    assert!(
        done.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

impl Street {
    pub(super) fn new() -> Street {
        let make = std::thread::spawn(|| {
            // SAFETY: a new network namespace is this thread's alone and shares no memory or descriptors.
            #[allow(unsafe_code)]
            let made = unsafe { unshare_unsafe(UnshareFlags::NEWNET) };
            made.expect("this test makes a network namespace and needs root");
            ip("link set lo up");
            for house in 1..=5 {
                ip(&format!("address add {}/32 dev lo", public(house).ip()));
            }
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        Street {
            namespace: Arc::new(make.join().unwrap()),
            world: Arc::default(),
        }
    }

    pub(super) fn enter(&self) -> Enter {
        let namespace = self.namespace.clone();
        Box::new(move || {
            let kind = Some(LinkNameSpaceType::Network);
            Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
        })
    }

    /// Runs something on a thread inside.
    fn inside<T: std::marker::Send + 'static>(
        &self,
        run: impl FnOnce() -> T + std::marker::Send + 'static,
    ) -> T {
        let enter = self.enter();
        let thread = std::thread::spawn(move || {
            enter().unwrap();
            run()
        });
        thread.join().unwrap()
    }

    pub(super) fn cluster(&self) -> ClusterName {
        "acides".parse().unwrap()
    }

    pub(super) fn settings(directory: &Path, name: &str, house: u8, anchors: &[u8]) -> Settings {
        let cluster: ClusterName = "acides".parse().unwrap();
        let anchor = |&house: &u8| Anchor {
            host: public(house).ip().to_string(),
            port: PORT,
        };
        Settings {
            node: name.parse().unwrap(),
            master: "mars".parse().unwrap(),
            key: "abcdefghijklmnopqrstuvwxyz012345".parse().unwrap(),
            port: public(house).port(),
            prefixes: Prefixes::new(&cluster, None, "10.44.0.0/16".parse().unwrap()).unwrap(),
            cluster,
            mtu: 1320,
            anchors: anchors.iter().map(anchor).collect(),
            endpoints: Vec::new(),
            restored: 0,
            directory: directory.join("mesh"),
            gossip: true,
        }
    }

    pub(super) fn home(&self, name: &str, house: u8, anchors: &[u8]) -> Home {
        self.home_in(tempfile::tempdir().unwrap(), name, house, anchors)
    }

    pub(super) fn home_in(
        &self,
        directory: TempDir,
        name: &str,
        house: u8,
        anchors: &[u8],
    ) -> Home {
        self.home_with(directory, name, house, anchors, || Ok(()))
    }

    /// A home whose thread does something more once it is inside.
    pub(super) fn home_with(
        &self,
        directory: TempDir,
        name: &str,
        house: u8,
        anchors: &[u8],
        more: impl FnOnce() -> io::Result<()> + std::marker::Send + 'static,
    ) -> Home {
        let settings = Self::settings(directory.path(), name, house, anchors);
        self.open(directory, settings, house, more)
    }

    /// A home with another overlay key.
    pub(super) fn stranger(&self, name: &str, house: u8, anchors: &[u8]) -> Home {
        let directory = tempfile::tempdir().unwrap();
        let mut settings = Self::settings(directory.path(), name, house, anchors);
        settings.key = "zyxwvutsrqponmlkjihgfedcba543210".parse().unwrap();
        self.open(directory, settings, house, || Ok(()))
    }

    fn open(
        &self,
        directory: TempDir,
        settings: Settings,
        house: u8,
        more: impl FnOnce() -> io::Result<()> + std::marker::Send + 'static,
    ) -> Home {
        let identity =
            Identity::load_or_create(&directory.path().join("identity"), &mut rng()).unwrap();
        let name = settings.node.to_string();
        let overlay = settings.prefixes.overlay_v6(&settings.node, 0);
        let here = public(house);
        let socket = self.inside(move || {
            ip(&format!("-6 address replace {overlay}/128 dev lo nodad"));
            bind(here)
        });
        let key = identity.wireguard_public();
        self.world.lock().unwrap().tunnels.insert(
            here,
            Tunnel {
                key,
                ..Tunnel::default()
            },
        );
        let (door, receiver) = inbox();
        let receiving = receive(socket.try_clone().unwrap(), door, here, self.world.clone());
        let send = move |bytes: &[u8], to: SocketAddr, _: Option<IpAddr>| {
            socket.send_to(bytes, to).map(|_| ())
        };
        let enter = self.enter();
        let enter = move || enter().and_then(|()| more());
        let mesh = spawn(
            settings,
            identity,
            receiver,
            Box::new(send),
            Box::new(enter),
        )
        .unwrap();
        mesh.command(Command::Addresses(vec![here.ip()]));
        let (state_in, state) = watch::channel(State::default());
        let (asks, asked) = mpsc::unbounded_channel();
        let main = Main {
            mesh,
            here,
            world: self.world.clone(),
            state: state_in,
        };
        Home {
            name,
            directory,
            state,
            asks,
            main: tokio::spawn(main.run(asked)),
            _receiving: receiving,
        }
    }
}

/// Binds, and waits while a program that another test is just starting holds a copy of the last run's socket.
fn bind(address: SocketAddr) -> UdpSocket {
    let began = Instant::now();
    loop {
        match UdpSocket::bind(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                assert!(began.elapsed() < DEADLINE, "{address} stays in use");
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound.unwrap(),
        }
    }
}

/// The tunnel's receiving thread.
fn receive(
    socket: UdpSocket,
    door: Inbox,
    here: SocketAddr,
    world: Arc<Mutex<World>>,
) -> Receiving {
    let patience = Some(Duration::from_millis(50));
    socket.set_read_timeout(patience).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let end = over.clone();
    let thread = std::thread::spawn(move || {
        let mut buffer = [0; 2048];
        while !end.load(Ordering::Relaxed) {
            let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let from_peer = world.lock().unwrap().tunnels[&here]
                .sessions
                .values()
                .any(|(_, at)| *at == from);
            door.offer(&buffer[..length], from, Some(here.ip()), from_peer);
        }
    });
    Receiving(over, Some(thread))
}

/// What hepto-node's main does with the mesh's events.
struct Main {
    mesh: Mesh,
    here: SocketAddr,
    world: Arc<Mutex<World>>,
    state: watch::Sender<State>,
}

impl Main {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Command>) -> Mesh {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                event = self.mesh.event() => self.obey(event.expect("the mesh's thread panicked")),
                command = asked.recv() => match command {
                    Some(command) => self.mesh.command(command),
                    None => return self.mesh,
                },
                _ = tick.tick() => self.tell_sessions(),
            }
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn obey(&mut self, event: Event) {
        let here = self.here;
        match event {
            Event::Peer(PeerChange::Set(peer)) => {
                let key = peer.public_key;
                self.world()
                    .tunnels
                    .get_mut(&here)
                    .unwrap()
                    .peers
                    .insert(key, peer);
                self.mesh.command(Command::PeerReady(key));
            }
            Event::Peer(PeerChange::Removed { public_key, .. }) => {
                self.world()
                    .tunnels
                    .get_mut(&here)
                    .unwrap()
                    .peers
                    .remove(&public_key);
            }
            Event::Handshake {
                public_key,
                endpoint,
            } => self.world().handshake(here, public_key, endpoint),
            Event::Hosts(hosts) => self.state.send_modify(|state| {
                state.hosts = hosts.iter().map(|(name, _)| name.to_string()).collect();
            }),
            Event::Notice(notice) => self.state.send_modify(|state| {
                state.notices.insert(notice.code());
            }),
            Event::Attempt(_) | Event::ResolveAnchors => {}
        }
    }

    fn tell_sessions(&self) {
        let world = self.world();
        let tunnel = &world.tunnels[&self.here];
        let session = |key: &[u8; 32]| {
            let known = tunnel.sessions.get(key);
            Session {
                public_key: *key,
                age: known.map(|(at, _)| at.elapsed()),
                endpoint: known.map(|(_, endpoint)| *endpoint),
                wants: false,
                stale_clock: false,
            }
        };
        self.mesh.command(Command::Sessions(
            tunnel.peers.keys().map(session).collect(),
        ));
        let with = tunnel
            .peers
            .iter()
            .filter(|(key, _)| tunnel.sessions.contains_key(*key));
        let with: BTreeSet<String> = with.map(|(_, peer)| peer.name.to_string()).collect();
        self.state.send_if_modified(|state| {
            let changed = state.sessions != with;
            state.sessions = with;
            changed
        });
    }
}

impl Home {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn command(&self, command: Command) {
        self.asks.send(command).expect("main goes on");
    }

    pub(super) async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) {
        let mut state = self.state.clone();
        let waiting = async {
            state
                .wait_for(|state| holds(state))
                .await
                .expect("main goes on");
        };
        if tokio::time::timeout(DEADLINE, waiting).await.is_err() {
            panic!(
                "{}: not within {DEADLINE:?}: {what}; {:?}",
                self.name,
                self.state.borrow()
            );
        }
    }

    pub(super) async fn report(&self) -> Report {
        let (reply, report) = oneshot::channel();
        self.asks
            .send(Command::Report(reply))
            .expect("main goes on");
        within("a report", report).await.expect("the mesh goes on")
    }

    pub(super) async fn until_report(&self, what: &str, holds: impl Fn(&Report) -> bool) {
        let began = Instant::now();
        loop {
            let report = self.report().await;
            if holds(&report) {
                return;
            }
            assert!(
                began.elapsed() < DEADLINE,
                "{}: not within {DEADLINE:?}: {what}; {report:#?}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops it, and gives its folder back. Its tunnel is as after a crash: the others keep their sessions.
    pub(super) async fn stop(self) -> TempDir {
        let Home {
            directory,
            asks,
            main,
            ..
        } = self;
        drop(asks);
        let mesh = main.await.expect("main does not panic");
        within("the mesh's end", mesh.stop()).await;
        directory
    }
}
