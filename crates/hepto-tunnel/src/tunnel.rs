//! The tunnel as its owner sees it: start, peers, stop.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use zeroize::Zeroizing;

use crate::batch::{Flushed, Refusal};
use crate::counter::{Counters, Meter};
use crate::error::Error;
use crate::observer::Observer;
use crate::offload::ladder::{self, Ladder, Offload};
use crate::peer::{Patience, Peer, PeerConfig, PeerReport};
use crate::protocol::{Door, HANDSHAKE};
use crate::pulse::Pulses;
use crate::rx::Receiver;
use crate::socket::{Messenger, Socket};
use crate::table::{Entry, Table};
use crate::tun::Tun;
use crate::tx::Sender;
use crate::wake::Flag;

/// A datagram on the tunnel's socket that is not WireGuard.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Its payload.
    pub bytes: &'a [u8],
    /// Its source; never a v4-mapped address.
    pub from: SocketAddr,
    /// Our address that it was sent to: answers must leave from there.
    pub to: Option<IpAddr>,
    /// Whether `from` is the address of a peer with a session. Source addresses can be forged: this sorts, it does
    /// not prove.
    pub from_peer: bool,
}

/// Takes the datagrams that are not WireGuard, on the receiving thread: it must neither block nor take long.
pub type Sink = Box<dyn FnMut(Datagram<'_>) + Send>;

/// How a tunnel is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Our WireGuard private key.
    pub private_key: Zeroizing<[u8; 32]>,
    /// The longest silence towards a peer with a session. 25 s keeps the usual NAT and firewall states alive.
    pub keepalive: Duration,
    /// Age at which a session is renewed by the side that started it: WireGuard's REKEY_AFTER_TIME, 120 s. The other
    /// side steps in 30 s later. A session ends at 180 s.
    pub renew_after: Duration,
    /// The offloads that may be used, where the kernel has them.
    pub offload: Offload,
}

impl Options {
    /// Options with the given key and the usual keepalive.
    pub fn new(private_key: Zeroizing<[u8; 32]>) -> Options {
        Options {
            private_key,
            keepalive: Duration::from_secs(25),
            renew_after: Duration::from_secs(120),
            offload: Offload::ALL,
        }
    }
}

/// What the threads share.
pub(crate) struct Shared {
    pub(crate) tun: Tun,
    pub(crate) socket: Arc<Socket>,
    pub(crate) door: Door,
    pub(crate) table: ArcSwap<Table>,
    pub(crate) meter: Meter,
    pub(crate) pulses: Pulses,
    pub(crate) ladder: Ladder,
    /// Addresses of peers with a session.
    pub(crate) live: ArcSwap<HashSet<SocketAddr>>,
    pub(crate) patience: Patience,
    pub(crate) stop: Flag,
    pub(crate) changed: Flag,
}

impl Shared {
    /// Counts what a flush lost and acts on what it found.
    pub(crate) fn flushed(&self, flushed: Flushed, table: &Table) {
        self.meter
            .drop(crate::counter::Reason::SendFailed, flushed.lost);
        match flushed.refusal {
            Some(Refusal::Support) => self.ladder.drop_segments(),
            Some(Refusal::Length(length)) => self.ladder.limit_segments(length),
            None => {}
        }
        if flushed.unbound.is_some() {
            for entry in table.entries() {
                entry.peer.unbind(flushed.unbound);
            }
        }
    }
}

/// A running tunnel. Dropping it stops it.
pub struct Tunnel {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    /// One change of the table at a time; readers never wait for it.
    change: Mutex<()>,
}

impl Tunnel {
    /// Starts the threads. The tunnel has no peers yet. `sink` is called on the receiving thread.
    ///
    /// # Errors
    /// The kernel refuses a thread or an eventfd.
    pub fn start(options: Options, tun: Tun, socket: Socket, sink: Sink) -> Result<Tunnel, Error> {
        let release = rustix::system::uname()
            .release()
            .to_string_lossy()
            .into_owned();
        let offload =
            socket.set_offload(tun.set_offload(ladder::safe_on(&release, options.offload)));
        tracing::info!(?offload, "the tunnel starts");
        let shared = Arc::new(Shared {
            tun,
            socket: Arc::new(socket),
            door: Door::new(*options.private_key),
            table: ArcSwap::from_pointee(Table::new(Vec::new())),
            meter: Meter::default(),
            pulses: Pulses::default(),
            ladder: Ladder::new(offload),
            live: ArcSwap::default(),
            patience: Patience {
                keepalive: options.keepalive,
                renew: options.renew_after,
            },
            stop: Flag::new().map_err(Error::Thread)?,
            changed: Flag::new().map_err(Error::Thread)?,
        });
        let mut tunnel = Tunnel {
            shared,
            threads: Vec::with_capacity(3),
            change: Mutex::new(()),
        };
        tunnel.spawn("hepto-tx", |shared| Sender::new().run(shared))?;
        tunnel.spawn("hepto-rx", |shared| Receiver::new(sink).run(shared))?;
        tunnel.spawn("hepto-timer", crate::timer::run)?;
        Ok(tunnel)
    }

    fn spawn(
        &mut self,
        name: &'static str,
        body: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(), Error> {
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                let _guard = AbortOnPanic(name);
                body(&shared);
            })
            .map_err(Error::Thread)?;
        self.threads.push(thread);
        Ok(())
    }

    /// Adds a peer, or changes what differs of one that is there. Its session and the endpoint that it was heard from
    /// survive, but for a new preshared key, which takes a new session.
    pub fn set_peer(&self, config: PeerConfig) {
        self.change(|table| {
            let mut entries = table.entries().to_vec();
            let Some(place) = table.keyed(&config.public_key) else {
                let peer = Arc::new(Peer::new(&self.shared.door, &config, table.free_index()));
                entries.push(Entry {
                    peer,
                    allowed_ips: config.allowed_ips,
                });
                return Some(entries);
            };
            let mut entry = entries.remove(place as usize);
            if !entry.peer.has_preshared_key(&config.preshared_key) {
                let renewed = Peer::new(&self.shared.door, &config, table.free_index());
                renewed.inherit(&entry.peer);
                entry.peer = Arc::new(renewed);
            } else if entry.allowed_ips == config.allowed_ips {
                if let Some(remote) = config.endpoint {
                    entry.peer.suggest(remote);
                }
                return None;
            }
            if let Some(remote) = config.endpoint {
                entry.peer.suggest(remote);
            }
            // At the end: a network that another peer has too is now this one's.
            entries.push(Entry {
                allowed_ips: config.allowed_ips,
                ..entry
            });
            Some(entries)
        });
    }

    /// Removes a peer with its session. Nothing happens when there is none.
    pub fn remove_peer(&self, public_key: &[u8; 32]) {
        self.change(|table| {
            let place = table.keyed(public_key)?;
            let mut entries = table.entries().to_vec();
            entries.remove(place as usize);
            Some(entries)
        });
    }

    fn change(&self, change: impl FnOnce(&Table) -> Option<Vec<Entry>>) {
        let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entries) = change(&self.shared.table.load()) {
            self.shared.table.store(Arc::new(Table::new(entries)));
        }
    }

    /// Sends an initiation to `endpoint`, and repeats it there each 5 s for 90 s until the peer answers. At most one a
    /// second and peer. False when it came too soon, when the peer is unknown, or when the kernel did not take it (no
    /// route, say).
    pub fn handshake(&self, public_key: &[u8; 32], endpoint: SocketAddr) -> bool {
        let table = self.shared.table.load();
        let Some(slot) = table.keyed(public_key) else {
            return false;
        };
        let mut out = [0; HANDSHAKE];
        let Some((length, to)) = table.peer(slot).force(endpoint, Instant::now(), &mut out) else {
            return false;
        };
        self.shared.socket.try_send(&out[..length], &to).is_ok()
    }

    /// Every peer, in no particular order.
    pub fn peers(&self) -> Vec<PeerReport> {
        let now = Instant::now();
        self.shared
            .table
            .load()
            .entries()
            .iter()
            .map(|entry| entry.peer.report(now))
            .collect()
    }

    /// Looks at the tunnel from elsewhere.
    pub fn observer(&self) -> Observer {
        Observer(Arc::downgrade(&self.shared))
    }

    /// Counters of the whole tunnel since its start.
    pub fn counters(&self) -> Counters {
        self.shared.meter.read()
    }

    /// The threads by their names, each with its rounds so far. One whose number stands still for more than a second or
    /// two hangs, or gets no processor.
    pub fn pulses(&self) -> [(&'static str, u64); 3] {
        let pulses = &self.shared.pulses;
        [
            ("hepto-tx", pulses.tx.read()),
            ("hepto-rx", pulses.rx.read()),
            ("hepto-timer", pulses.timer.read()),
        ]
    }

    /// The offloads in use. One that the kernel refuses under way is given up.
    pub fn offload(&self) -> Offload {
        self.shared.ladder.read()
    }

    /// A descriptor (an eventfd: read eight bytes to clear it) that becomes readable when [`peers`](Tunnel::peers) has
    /// news that should not wait: a session came or went, traffic waits for one, an initiation was refused for its time
    /// stamp.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn changed(&self) -> io::Result<OwnedFd> {
        self.shared.changed.as_fd().try_clone_to_owned()
    }

    /// Sends datagrams of the caller's own on the tunnel's socket.
    pub fn messenger(&self) -> Messenger {
        Messenger(Arc::clone(&self.shared.socket))
    }

    /// The tunnel's UDP port.
    pub fn port(&self) -> u16 {
        self.shared.socket.port()
    }

    /// Binds the socket to a link, or to none, and says so as [`moved`](Tunnel::moved) does.
    ///
    /// # Errors
    /// No CAP_NET_RAW. A link that does not exist is no error to the kernel: the socket is then mute until it is bound
    /// anew.
    pub fn set_uplink(&self, ifindex: Option<u32>) -> io::Result<()> {
        self.shared.socket.bind_uplink(ifindex)?;
        self.moved();
        Ok(())
    }

    /// Our addresses have changed: forgets which of them peers spoke to, and sends a keepalive to every peer with a
    /// session, so that a peer that only sends to us learns where to. To be called after each change; without it, a
    /// silent node is found again at its next keepalive.
    pub fn moved(&self) {
        self.shared.ladder.forget_limit();
        let mut out = [0; HANDSHAKE];
        for entry in self.shared.table.load().entries() {
            entry.peer.unbind(None);
            if let Some((length, to)) = entry.peer.keepalive(&mut out) {
                // No way there yet: the next keepalive, or the next call of this, tries again.
                let _ = self.shared.socket.try_send(&out[..length], &to);
            }
        }
    }

    /// Ends the threads and waits for them. The TUN interface stays, as it is persistent; the socket closes when the
    /// last [`Messenger`] is gone.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.shared.stop.raise();
        for thread in self.threads.drain(..) {
            // It cannot have panicked: that would have ended the process.
            let _ = thread.join();
        }
    }
}

/// Ends the process when a thread of the tunnel panics: a node that looks alive and carries nothing is worse than one
/// that its supervisor starts again.
struct AbortOnPanic(&'static str);

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(
                code = "E-TUNNEL-THREAD",
                fix = "report its log: hepto-node diagnose",
                thread = self.0,
                "a tunnel thread panicked: the process ends, so that it is started anew"
            );
            // The log may not reach anyone any more.
            eprintln!("hepto-tunnel: thread {} panicked; aborting", self.0);
            std::process::abort();
        }
    }
}
