//! Nodes, a network with loss, cuts and NATs, and virtual time, all from one seed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::{Blake2s256, Digest};
use hepto_mesh::address::Prefixes;
use hepto_mesh::core::{Anchor, Core, Input, Output, PeerChange, Saved, Settings};
use hepto_mesh::identity::Identity;
use hepto_mesh::key::OverlayKey;
use hepto_mesh::name::{ClusterName, NodeName};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

use crate::node::Node;
use crate::tunnel::{Packet, Tunnel};

pub const PORT: u16 = 51820;
/// Where dial-backs come from.
pub const DIAL_PORT: u16 = 60000;
pub const KEY: &str = "abcdefghijklmnopqrstuvwxyz012345";

pub fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

pub fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub fn cluster() -> ClusterName {
    "acides".parse().expect("a name")
}

pub fn name(text: &str) -> NodeName {
    text.parse().expect("a name")
}

#[derive(Debug, Clone)]
pub enum Payload {
    Message(Vec<u8>),
    Tunnel(Packet),
}

#[derive(Debug)]
enum Event {
    Arrive {
        from: SocketAddr,
        to: SocketAddr,
        payload: Payload,
    },
    Timeout {
        node: usize,
        run: u64,
        at: Instant,
    },
    Second {
        node: usize,
        run: u64,
    },
    Ready {
        node: usize,
        run: u64,
        key: [u8; 32],
    },
    Sessions {
        node: usize,
        run: u64,
    },
    Addresses {
        node: usize,
        run: u64,
    },
    Resolved {
        node: usize,
        run: u64,
    },
}

impl Event {
    fn summary(&self) -> String {
        match self {
            Event::Arrive {
                from,
                to,
                payload: Payload::Tunnel(packet),
            } => format!("{from} to {to}: {packet}"),
            Event::Arrive {
                from,
                to,
                payload: Payload::Message(bytes),
            } => {
                let hash = Blake2s256::digest(bytes);
                format!(
                    "{from} to {to}: {} bytes {:02x}{:02x}",
                    bytes.len(),
                    hash[0],
                    hash[1]
                )
            }
            Event::Ready { node, key, .. } => format!("ready {node} {:02x}{:02x}", key[0], key[1]),
            Event::Timeout { node, run, .. } => format!("timeout {node} {run}"),
            other => format!("{other:?}"),
        }
    }
}

pub struct World {
    pub nodes: Vec<Node>,
    pub rng: ChaCha20Rng,
    pub start: Instant,
    pub now: Instant,
    /// Loss in thousandths.
    pub loss: u32,
    pub latency: (u64, u64),
    /// What the resolver says.
    pub names: BTreeMap<String, Vec<SocketAddr>>,
    /// All messages sent, for who records them.
    pub tape: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    /// Messages that arrived at addresses of nobody.
    pub stray: Vec<(SocketAddr, SocketAddr, Vec<u8>)>,
    events: BTreeMap<(Instant, u64), Event>,
    count: u64,
    /// Whether all that happens is hashed.
    pub traced: bool,
    trace: Blake2s256,
    /// Print all that happens (`HEPTO_SIM_VERBOSE`).
    verbose: bool,
}

impl World {
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        Self {
            nodes: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            start,
            now: start,
            loss: 0,
            latency: (5, 40),
            names: BTreeMap::new(),
            tape: None,
            stray: Vec::new(),
            events: BTreeMap::new(),
            count: 0,
            traced: false,
            trace: Blake2s256::new(),
            verbose: std::env::var_os("HEPTO_SIM_VERBOSE").is_some(),
        }
    }

    pub fn below(&mut self, limit: u32) -> u32 {
        self.rng.next_u32() % limit
    }

    pub fn settings(&self, node: &str, anchors: &[SocketAddr]) -> Settings {
        let key: OverlayKey = KEY.parse().expect("a key");
        let ipv4 = "10.44.0.0/16".parse().expect("a prefix");
        let anchor = |address: &SocketAddr| Anchor {
            host: address.ip().to_string(),
            port: address.port(),
        };
        Settings {
            cluster: cluster(),
            node: name(node),
            master: name("n0"),
            operator: None,
            keys: key.derive(&cluster()),
            prefixes: Prefixes::new(&cluster(), None, ipv4).expect("a plan"),
            port: PORT,
            mtu: 1320,
            anchors: anchors.iter().map(anchor).collect(),
            endpoints: Vec::new(),
            restored: 0,
        }
    }

    /// The public address of the node number `node`.
    pub fn address(node: usize) -> SocketAddr {
        let number = u32::try_from(node).expect("few nodes");
        SocketAddr::new(Ipv4Addr::from(0x1400_0001 + number).into(), PORT)
    }

    /// A node that does not run yet.
    pub fn add(&mut self, settings: Settings) -> usize {
        let identity = Identity::generate(&mut self.rng);
        let node = Node {
            tunnel: Tunnel::new(identity.wireguard_public()),
            settings,
            identity,
            addresses: vec![Self::address(self.nodes.len()).ip()],
            nat: None,
            core: None,
            disk: Vec::new(),
            clock: seconds(1_700_000_000),
            cut_until: self.now,
            hosts: BTreeMap::new(),
            attempt: 0,
            attempts: 0,
            notices: Vec::new(),
            handshakes: 0,
            run: 0,
            seconds: 0,
            timeout: None,
            ready: BTreeSet::new(),
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// `number` nodes `n0`, `n1`, …, whose anchors are the first `anchors` of them.
    pub fn cluster(seed: u64, number: usize, anchors: usize) -> Self {
        let mut world = Self::new(seed);
        let anchors: Vec<SocketAddr> = (0..anchors).map(Self::address).collect();
        for node in 0..number {
            let settings = world.settings(&format!("n{node}"), &anchors);
            world.add(settings);
        }
        world
    }

    pub fn boot(&mut self, node: usize) {
        let mut boot = [0; 8];
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut boot);
        self.rng.fill_bytes(&mut seed);
        let now = self.now;
        let it = &mut self.nodes[node];
        assert!(it.core.is_none(), "it runs already");
        let saved = if it.disk.is_empty() {
            Saved::default()
        } else {
            Saved::decode(&it.disk, &cluster()).expect("a book")
        };
        it.core = Some(Core::new(
            it.settings.clone(),
            it.identity.clone(),
            saved,
            boot,
            seed,
            now,
        ));
        it.tunnel = Tunnel::new(it.identity.wireguard_public());
        it.run += 1;
        it.seconds = 0;
        it.timeout = None;
        it.ready.clear();
        let run = it.run;
        self.at(millis(1), Event::Addresses { node, run });
        self.at(millis(1000), Event::Second { node, run });
        self.drain(node);
    }

    pub fn kill(&mut self, node: usize) {
        self.nodes[node].core = None;
        self.nodes[node].run += 1;
    }

    /// Gives a running or stopped node other addresses.
    pub fn readdress(&mut self, node: usize, addresses: Vec<IpAddr>) {
        self.nodes[node].addresses = addresses;
        let run = self.nodes[node].run;
        self.at(millis(1), Event::Addresses { node, run });
    }

    pub fn input(&mut self, node: usize, input: Input<'_>) {
        let now = self.now;
        if let Some(core) = &mut self.nodes[node].core {
            core.handle(input, now);
            self.drain(node);
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.count += 1;
        self.events.insert((self.now + after, self.count), event);
    }

    fn drain(&mut self, node: usize) {
        let run = self.nodes[node].run;
        while let Some(output) = self.nodes[node].core.as_mut().and_then(Core::poll_output) {
            let (now, it) = (self.now, &mut self.nodes[node]);
            match output {
                Output::Save => it.disk = it.core.as_ref().expect("it runs").saved(now).encode(),
                Output::Transmit { to, bytes, .. } => self.send(node, to, Payload::Message(bytes)),
                Output::Dial { to, bytes, .. } => self.dial(node, to, Payload::Message(bytes)),
                Output::Peer(PeerChange::Set(peer)) => {
                    it.tunnel.add(peer.public_key);
                    self.at(
                        millis(2),
                        Event::Ready {
                            node,
                            run,
                            key: peer.public_key,
                        },
                    );
                }
                Output::Peer(PeerChange::Removed { public_key, .. }) => {
                    it.tunnel.remove(&public_key)
                }
                Output::Handshake {
                    public_key,
                    endpoint,
                } => {
                    it.handshakes += 1;
                    assert!(
                        it.ready.contains(&public_key),
                        "a handshake before main has confirmed the peer"
                    );
                    let clock = (it.clock + (now - self.start)).as_nanos() as u64;
                    assert!(
                        it.tunnel.has(&public_key),
                        "a handshake before the tunnel has the peer"
                    );
                    if let Some((to, packet)) =
                        it.tunnel.handshake(&public_key, endpoint, clock, now)
                    {
                        self.send(node, to, Payload::Tunnel(packet));
                    }
                }
                Output::Hosts(hosts) => it.hosts = hosts.into_iter().collect(),
                Output::Attempt(attempt) => {
                    it.attempts += 1;
                    it.attempt = attempt;
                }
                Output::ResolveAnchors => self.at(millis(20), Event::Resolved { node, run }),
                Output::Notice(notice) => it.notices.push(notice),
                Output::OwnRecord | Output::Roster => {}
            }
        }
        self.schedule(node);
    }

    fn schedule(&mut self, node: usize) {
        let it = &mut self.nodes[node];
        let Some(at) = it.core.as_ref().and_then(Core::next_timeout) else {
            return;
        };
        if it.timeout != Some(at) {
            it.timeout = Some(at);
            let run = it.run;
            self.at(
                at.saturating_duration_since(self.now),
                Event::Timeout { node, run, at },
            );
        }
    }

    fn send(&mut self, node: usize, to: SocketAddr, payload: Payload) {
        let it = &mut self.nodes[node];
        let same_family = it.addresses.iter().find(|ip| ip.is_ipv4() == to.is_ipv4());
        let Some(ip) = same_family.copied() else {
            return;
        };
        if self.now < it.cut_until {
            return;
        }
        let from = match &mut it.nat {
            Some(nat) => nat.outward(to),
            None => SocketAddr::new(ip, PORT),
        };
        self.inject(from, to, payload);
    }

    /// From a port of its own, that nothing was sent from before.
    fn dial(&mut self, node: usize, to: SocketAddr, payload: Payload) {
        let it = &self.nodes[node];
        let own = it.nat.as_ref().map(|nat| nat.public.into());
        if let Some(ip) = own.or_else(|| it.addresses.first().copied()) {
            self.inject(SocketAddr::new(ip, DIAL_PORT), to, payload);
        }
    }

    /// Puts a packet on the wire as if from `from`.
    pub fn inject(&mut self, from: SocketAddr, to: SocketAddr, payload: Payload) {
        if let (Payload::Message(bytes), Some(tape)) = (&payload, &mut self.tape) {
            tape.push((from, to, bytes.clone()));
        }
        if self.below(1000) < self.loss {
            return;
        }
        let (least, most) = self.latency;
        let latency = least + u64::from(self.rng.next_u32()) % (most - least + 1);
        self.at(millis(latency), Event::Arrive { from, to, payload });
    }

    fn find(&self, from: SocketAddr, to: SocketAddr) -> Option<usize> {
        self.nodes.iter().position(|node| match &node.nat {
            None => to.port() == PORT && node.addresses.contains(&to.ip()),
            Some(nat) => to.ip() == nat.public && nat.asked.contains(&(to.port(), from)),
        })
    }

    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, payload: Payload) {
        let Some(node) = self.find(from, to) else {
            if let Payload::Message(bytes) = payload {
                self.stray.push((from, to, bytes));
            }
            return;
        };
        let now = self.now;
        let it = &mut self.nodes[node];
        if now < it.cut_until || it.core.is_none() {
            return;
        }
        match payload {
            Payload::Message(bytes) => {
                let class = hepto_mesh::seal::classify(&bytes, it.settings.keys.key_id);
                match class {
                    hepto_mesh::seal::Class::Ours => {
                        self.input(
                            node,
                            Input::Datagram {
                                bytes: &bytes,
                                from,
                                to: Some(to.ip()),
                            },
                        );
                    }
                    hepto_mesh::seal::Class::Foreign => {
                        self.input(node, Input::ForeignKey { from })
                    }
                    hepto_mesh::seal::Class::Noise => {}
                }
            }
            Payload::Tunnel(packet) => {
                let (changed, answer) = it.tunnel.receive(&packet, from, now);
                let run = it.run;
                if let Some(answer) = answer {
                    self.send(node, from, Payload::Tunnel(answer));
                }
                if changed {
                    self.at(millis(1), Event::Sessions { node, run });
                }
            }
        }
    }

    fn runs(&self, node: usize, run: u64) -> bool {
        self.nodes[node].core.is_some() && self.nodes[node].run == run
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive { from, to, payload } => self.arrive(from, to, payload),
            Event::Timeout { node, run, at }
                if self.runs(node, run) && self.nodes[node].timeout == Some(at) =>
            {
                self.nodes[node].timeout = None;
                self.input(node, Input::Timeout);
            }
            Event::Second { node, run } if self.runs(node, run) => {
                let now = self.now;
                let it = &mut self.nodes[node];
                it.seconds += 1;
                let clock = (it.clock + (now - self.start)).as_nanos() as u64;
                let sent = it.tunnel.tick(clock, it.seconds, now);
                for (to, packet) in sent {
                    self.send(node, to, Payload::Tunnel(packet));
                }
                self.sessions(node);
                self.at(millis(1000), Event::Second { node, run });
            }
            Event::Sessions { node, run } if self.runs(node, run) => self.sessions(node),
            Event::Ready { node, run, key } if self.runs(node, run) => {
                self.nodes[node].ready.insert(key);
                self.input(node, Input::PeerReady(key));
            }
            Event::Addresses { node, run } if self.runs(node, run) => {
                let addresses = self.nodes[node].addresses.clone();
                self.input(node, Input::Addresses(addresses));
            }
            Event::Resolved { node, run } if self.runs(node, run) => {
                let anchors = self.nodes[node].settings.anchors.clone();
                let answer = |anchor: Anchor| {
                    let addresses = self.names.get(&anchor.host).cloned().unwrap_or_default();
                    (anchor, addresses)
                };
                let answers = anchors.into_iter().map(answer).collect();
                self.input(node, Input::Anchors(answers));
            }
            _ => {}
        }
    }

    fn sessions(&mut self, node: usize) {
        let now = self.now;
        let sessions = self.nodes[node].tunnel.sessions(now);
        self.input(node, Input::Sessions(sessions));
    }

    /// Lets `time` pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        self.pass_until(end, |_| false);
        self.now = end;
    }

    /// Lets time pass until `done`, at most until `end`; says whether it was done.
    pub fn pass_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        let mut steps = 0u64;
        while let Some(entry) = self.events.first_entry() {
            let (at, _) = *entry.key();
            if at > end {
                break;
            }
            let event = entry.remove();
            steps = if at > self.now { 0 } else { steps + 1 };
            assert!(steps < 200_000, "time stands still");
            self.now = at;
            if self.traced {
                self.trace
                    .update((at - self.start).as_nanos().to_be_bytes());
                self.trace.update(event.summary());
            }
            if self.verbose {
                eprintln!("{:?} {}", at - self.start, event.summary());
            }
            self.happen(event);
            if done(self) {
                return true;
            }
        }
        done(self)
    }

    /// Lets time pass until `done`; fails after `limit`. Returns the time taken.
    pub fn within(
        &mut self,
        limit: Duration,
        what: &str,
        done: impl Fn(&Self) -> bool,
    ) -> Duration {
        let from = self.now;
        assert!(
            self.pass_until(from + limit, done),
            "not within {limit:?}: {what}\n{}",
            self.describe()
        );
        self.now - from
    }

    /// Whether a packet from one node would reach the other now.
    pub fn reaches(&self, one: usize, other: usize) -> bool {
        let (a, b) = (&self.nodes[one], &self.nodes[other]);
        if a.core.is_none() || b.core.is_none() || self.now < a.cut_until.max(b.cut_until) {
            return false;
        }
        let Some((session, endpoint)) = a.tunnel.live(&b.identity.wireguard_public(), self.now)
        else {
            return false;
        };
        let at_home = match &b.nat {
            None => endpoint.port() == PORT && b.addresses.contains(&endpoint.ip()),
            Some(nat) => endpoint.ip() == nat.public,
        };
        at_home
            && b.tunnel
                .accepts(&a.identity.wireguard_public(), session, self.now)
    }

    pub fn connected(&self, one: usize, other: usize) -> bool {
        self.reaches(one, other) && self.reaches(other, one)
    }

    /// Whether all of `nodes` reach one another.
    pub fn all_connected(&self, nodes: &[usize]) -> bool {
        nodes.iter().all(|one| {
            nodes
                .iter()
                .all(|other| one >= other || self.connected(*one, *other))
        })
    }

    /// Nodes that run.
    pub fn running(&self) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|node| self.nodes[*node].core.is_some())
            .collect()
    }

    /// A hash of all that happened.
    pub fn trace(&self) -> [u8; 32] {
        self.trace.clone().finalize().into()
    }

    fn describe(&self) -> String {
        let mut text = format!("at {:?}\n", self.now - self.start);
        for one in self.running() {
            let missing: Vec<usize> = self
                .running()
                .into_iter()
                .filter(|other| one != *other && !self.reaches(one, *other))
                .collect();
            if !missing.is_empty() {
                let report = self.nodes[one].report(self.now);
                text += &format!(
                    "n{one} misses {missing:?}, knows {}, {:?}\n",
                    report.members.len(),
                    report.counters
                );
            }
        }
        text
    }
}
