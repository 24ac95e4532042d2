//! A model of WireGuard as boringtun does it, with the habits that the core has to live with: an initiation that arrives
//! forgets our own, stamps that went back are refused, tries end after 90 s for good, and a session dies after 180 s.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hepto_mesh::core::Session;

pub type Key = [u8; 32];

const RETRY: Duration = Duration::from_secs(5);
const GIVE_UP: Duration = Duration::from_secs(90);
const REKEY: Duration = Duration::from_secs(120);
const REJECT: Duration = Duration::from_secs(180);
const FORCED: Duration = Duration::from_secs(1);

/// What travels.
#[derive(Debug, Clone)]
pub enum Packet {
    Initiation {
        from: Key,
        to: Key,
        stamp: u64,
        index: u64,
    },
    Response {
        from: Key,
        to: Key,
        index: u64,
        session: u64,
    },
    Data {
        from: Key,
        to: Key,
        session: u64,
    },
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Packet::Initiation { index, .. } => write!(f, "initiation {:x}", index & 0xffff),
            Packet::Response { index, session, .. } => {
                write!(f, "response {:x} {:x}", index & 0xffff, session & 0xffff)
            }
            Packet::Data { session, .. } => write!(f, "data {:x}", session & 0xffff),
        }
    }
}

#[derive(Debug, Default)]
struct Tunn {
    endpoint: Option<SocketAddr>,
    /// Our initiation that is out: its index, and when it was last and first sent.
    initiation: Option<(u64, Instant, Instant)>,
    /// What packets are sent under.
    session: Option<(u64, Instant)>,
    initiator: bool,
    /// All that packets are taken under: older ones, and those that the other side has not used yet.
    ring: Vec<(u64, Instant)>,
    stamp: u64,
    stale: bool,
    forced: Option<Instant>,
}

#[derive(Debug, Default)]
pub struct Tunnel {
    own: Key,
    tunns: BTreeMap<Key, Tunn>,
    indexes: u64,
}

impl Tunn {
    fn keep(&mut self, session: u64, now: Instant) {
        self.ring.push((session, now));
        if self.ring.len() > 8 {
            self.ring.remove(0);
        }
    }

    /// When `session` was made, if packets are still taken under it.
    fn made(&self, session: u64, now: Instant) -> Option<Instant> {
        let held = self
            .ring
            .iter()
            .find(|(id, made)| *id == session && now - *made < REJECT)?;
        Some(held.1)
    }
}

/// A packet to send to an address.
pub type Sent = (SocketAddr, Packet);

impl Tunnel {
    pub fn new(own: Key) -> Self {
        Self {
            own,
            ..Self::default()
        }
    }

    pub fn add(&mut self, key: Key) {
        self.tunns.entry(key).or_default();
    }

    pub fn remove(&mut self, key: &Key) {
        self.tunns.remove(key);
    }

    pub fn has(&self, key: &Key) -> bool {
        self.tunns.contains_key(key)
    }

    fn index(&mut self) -> u64 {
        self.indexes += 1;
        u64::from_be_bytes(*self.own.first_chunk().expect("32 bytes")).wrapping_add(self.indexes)
    }

    /// The core wants a handshake.
    pub fn handshake(
        &mut self,
        key: &Key,
        endpoint: SocketAddr,
        clock: u64,
        now: Instant,
    ) -> Option<Sent> {
        let index = self.index();
        let own = self.own;
        let tunn = self.tunns.get_mut(key)?;
        if tunn.forced.is_some_and(|at| now - at < FORCED) {
            return None;
        }
        tunn.forced = Some(now);
        tunn.endpoint = Some(endpoint);
        tunn.initiation = Some((index, now, now));
        Some((
            endpoint,
            Packet::Initiation {
                from: own,
                to: *key,
                stamp: clock,
                index,
            },
        ))
    }

    /// Says whether a session was made or confirmed, and what to send back to `from`.
    pub fn receive(
        &mut self,
        packet: &Packet,
        from: SocketAddr,
        now: Instant,
    ) -> (bool, Option<Packet>) {
        let own = self.own;
        let session = self.index();
        match *packet {
            Packet::Initiation {
                from: key,
                to,
                stamp,
                index,
            } if to == own => {
                let Some(tunn) = self.tunns.get_mut(&key) else {
                    return (false, None);
                };
                if stamp <= tunn.stamp {
                    tunn.stale = true;
                    return (true, None);
                }
                tunn.stamp = stamp;
                tunn.stale = false;
                tunn.initiation = None;
                tunn.keep(session, now);
                (
                    false,
                    Some(Packet::Response {
                        from: own,
                        to: key,
                        index,
                        session,
                    }),
                )
            }
            Packet::Response {
                from: key,
                to,
                index,
                session,
            } if to == own => {
                let Some(tunn) = self.tunns.get_mut(&key) else {
                    return (false, None);
                };
                if tunn.initiation.is_none_or(|(sent, ..)| sent != index) {
                    return (false, None);
                }
                tunn.initiation = None;
                tunn.keep(session, now);
                tunn.session = Some((session, now));
                tunn.initiator = true;
                tunn.endpoint = Some(from);
                (
                    true,
                    Some(Packet::Data {
                        from: own,
                        to: key,
                        session,
                    }),
                )
            }
            Packet::Data {
                from: key,
                to,
                session,
            } if to == own => {
                let Some(tunn) = self.tunns.get_mut(&key) else {
                    return (false, None);
                };
                let Some(made) = tunn.made(session, now) else {
                    return (false, None);
                };
                tunn.endpoint = Some(from);
                let newer = tunn.session.is_none_or(|(_, current)| made > current);
                if newer {
                    tunn.session = Some((session, made));
                    tunn.initiator = false;
                }
                (newer, None)
            }
            _ => (false, None),
        }
    }

    /// Timers and keepalive, once a second.
    pub fn tick(&mut self, clock: u64, second: u64, now: Instant) -> Vec<Sent> {
        let mut sent = Vec::new();
        for (key, tunn) in &mut self.tunns {
            let Some(endpoint) = tunn.endpoint else {
                continue;
            };
            if let Some((_, last, first)) = tunn.initiation {
                if now - first >= GIVE_UP {
                    tunn.initiation = None;
                    tunn.session = None;
                    tunn.ring.clear();
                } else if now - last >= RETRY {
                    self.indexes += 1;
                    let index = u64::from_be_bytes(*self.own.first_chunk().expect("32 bytes"))
                        .wrapping_add(self.indexes);
                    tunn.initiation = Some((index, now, first));
                    sent.push((
                        endpoint,
                        Packet::Initiation {
                            from: self.own,
                            to: *key,
                            stamp: clock,
                            index,
                        },
                    ));
                }
            }
            let Some((session, made)) = tunn.session else {
                continue;
            };
            if tunn.initiator
                && now - made >= REKEY
                && tunn.initiation.is_none()
                && now - made < REJECT
            {
                self.indexes += 1;
                let index = u64::from_be_bytes(*self.own.first_chunk().expect("32 bytes"))
                    .wrapping_add(self.indexes);
                tunn.initiation = Some((index, now, now));
                sent.push((
                    endpoint,
                    Packet::Initiation {
                        from: self.own,
                        to: *key,
                        stamp: clock,
                        index,
                    },
                ));
            }
            if second.is_multiple_of(25) && now - made < REJECT {
                sent.push((
                    endpoint,
                    Packet::Data {
                        from: self.own,
                        to: *key,
                        session,
                    },
                ));
            }
        }
        sent
    }

    pub fn sessions(&mut self, now: Instant) -> Vec<Session> {
        let session = |(key, tunn): (&Key, &mut Tunn)| Session {
            public_key: *key,
            age: tunn.session.map(|(_, made)| now - made),
            endpoint: tunn.endpoint,
            wants: false,
            stale_clock: tunn.stale,
        };
        self.tunns.iter_mut().map(session).collect()
    }

    /// The session to a peer that can carry packets now, and where they go.
    pub fn live(&self, key: &Key, now: Instant) -> Option<(u64, SocketAddr)> {
        let tunn = self.tunns.get(key)?;
        let (session, _) = tunn.session.filter(|(_, made)| now - *made < REJECT)?;
        Some((session, tunn.endpoint?))
    }

    /// Whether a packet under `session` would be taken.
    pub fn accepts(&self, key: &Key, session: u64, now: Instant) -> bool {
        self.tunns
            .get(key)
            .is_some_and(|tunn| tunn.made(session, now).is_some())
    }
}
