//! One simulated node and, where it has one, its router.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use hepto_mesh::core::{Core, Notice, Report, Settings};
use hepto_mesh::identity::Identity;
use hepto_mesh::name::NodeName;

use crate::tunnel::Tunnel;

/// A home's router: port-restricted; one outer port for all destinations, or one each.
#[derive(Debug, Clone)]
pub struct Nat {
    pub public: Ipv4Addr,
    pub symmetric: bool,
    ports: BTreeMap<Option<SocketAddr>, u16>,
    pub asked: BTreeSet<(u16, SocketAddr)>,
}

impl Nat {
    pub fn new(public: Ipv4Addr, symmetric: bool) -> Self {
        Self {
            public,
            symmetric,
            ports: BTreeMap::new(),
            asked: BTreeSet::new(),
        }
    }

    pub fn outward(&mut self, to: SocketAddr) -> SocketAddr {
        let next = 40000 + u16::try_from(self.ports.len()).expect("few ports");
        let port = *self
            .ports
            .entry(self.symmetric.then_some(to))
            .or_insert(next);
        self.asked.insert((port, to));
        SocketAddr::new(self.public.into(), port)
    }
}

/// A node; `core` is there while it runs.
pub struct Node {
    pub settings: Settings,
    pub identity: Identity,
    pub addresses: Vec<IpAddr>,
    pub nat: Option<Nat>,
    pub core: Option<Core>,
    pub tunnel: Tunnel,
    pub disk: Vec<u8>,
    /// Its wall clock is this much ahead of virtual time.
    pub clock: Duration,
    pub cut_until: Instant,
    pub hosts: BTreeMap<NodeName, Vec<IpAddr>>,
    pub attempt: u8,
    pub attempts: usize,
    pub notices: Vec<Notice>,
    pub handshakes: usize,
    /// Which run this is: events of earlier ones are void.
    pub run: u64,
    /// Seconds of this run.
    pub seconds: u64,
    pub timeout: Option<Instant>,
    /// Peers that the core was told the tunnel has.
    pub ready: BTreeSet<[u8; 32]>,
}

impl Node {
    pub fn report(&self, now: Instant) -> Report {
        self.core.as_ref().expect("it runs").report(now)
    }
}
