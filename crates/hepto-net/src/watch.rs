//! What changes by itself: the parent, the uplink, its addresses, the routes on the overlay, the firewall. The kernel
//! announces it; nothing is polled. An announcement only says where to look, since some may be lost.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::{Instant, sleep_until};

use crate::firewall::TABLE;
use crate::netlink::{Group, Notice, Subscription, SubscriptionSocket, is_link_local};
use crate::settings::{HOST_LINK, UPLINK};
use crate::state::{Link, Observed, ObservedLink};

/// Duplicate address detection takes 1.1 to 1.5 s; an address that is not usable after this is worth a word.
const PATIENCE: Duration = Duration::from_secs(3);

/// Something that the node did not do itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The host's interface changed; converge.
    Parent(ParentChange),
    /// The uplink is gone, with its parent or by someone's hand; converge.
    UplinkGone,
    /// The uplink's addresses that can be used now, all of them, link-local ones aside.
    Addresses(Vec<IpAddr>),
    /// An address is not usable 3 s after it was added: duplicate address detection does not end, mostly since the
    /// parent has no carrier.
    AddressPending(IpAddr),
    /// Another machine has this address; it stays unused until the parent comes back or the node starts anew.
    DuplicateAddress(IpAddr),
    /// The routes over the overlay that have a gateway, all of them.
    PodRoutes(Vec<PodRoute>),
    /// The firewall, or a part of it, was removed; converge at once.
    FirewallGone,
    /// Links, addresses or routes are no longer as they were left; converge.
    Drift,
    /// The pair between host and node no longer fits, mostly since one of the two has other addresses; converge.
    HostLink,
}

/// What happened to the host's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParentChange {
    /// It came, or another one with its name did.
    Appeared,
    /// It went.
    Gone,
    /// It is up and has a carrier.
    Up,
    /// It was set down or lost its carrier. The uplink stays up meanwhile.
    Down,
    /// It has another MTU, in bytes.
    Mtu(u32),
}

/// A route over the overlay: pods of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    /// The pods' prefix.
    pub destination: IpNet,
    /// The overlay address of the node that has them.
    pub gateway: IpAddr,
}

/// What woke the watcher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// Links, addresses or routes may have changed: look at them.
    Links,
    /// The firewall may have changed: look at it.
    Firewall,
}

/// The parent, as far as its changes matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KnownParent {
    index: u32,
    up: bool,
    mtu: u32,
}

impl KnownParent {
    fn of(link: &Link) -> KnownParent {
        KnownParent {
            index: link.index,
            up: link.up && link.carrier,
            mtu: link.mtu,
        }
    }
}

/// An address that is not usable yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    deadline: Instant,
    reported: bool,
}

/// The subscriptions, and what was last told.
#[derive(Debug)]
pub(crate) struct Watch {
    host: Subscription,
    node: Subscription,
    /// None where the kernel has no nftables.
    nftables: Option<Subscription>,
    parent_name: String,
    overlay_name: String,
    /// The name of the host's end of the pair, when there is to be one.
    host_end_name: Option<String>,
    parent: Option<KnownParent>,
    uplink: Option<u32>,
    overlay: Option<u32>,
    host_end: Option<u32>,
    host_link: Option<u32>,
    addresses: Vec<IpAddr>,
    duplicates: Vec<IpAddr>,
    waiting: BTreeMap<IpAddr, Waiting>,
    routes: Vec<PodRoute>,
    links_stale: bool,
    firewall_stale: bool,
}

/// The sockets of a watcher, opened in the node's namespace.
pub(crate) struct Sockets {
    node: SubscriptionSocket,
    nftables: Option<SubscriptionSocket>,
}

impl Sockets {
    /// Opens them in the calling thread's namespace.
    pub fn open() -> io::Result<Sockets> {
        Ok(Sockets {
            node: SubscriptionSocket::open(Group::Everything)?,
            nftables: SubscriptionSocket::open(Group::Nftables).ok(),
        })
    }
}

impl Watch {
    /// Called on the main thread: the host's subscription is opened here. `host_end` is the name of the host's end of the
    /// pair between host and node, when there is to be one; otherwise the host's addresses and routes are of no interest.
    pub fn new(
        sockets: Sockets,
        parent: &str,
        overlay: &str,
        host_end: Option<&str>,
    ) -> io::Result<Watch> {
        let group = match host_end {
            Some(_) => Group::Everything,
            None => Group::Links,
        };
        Ok(Watch {
            host: Subscription::attach(SubscriptionSocket::open(group)?)?,
            node: Subscription::attach(sockets.node)?,
            nftables: sockets.nftables.map(Subscription::attach).transpose()?,
            parent_name: parent.into(),
            overlay_name: overlay.into(),
            host_end_name: host_end.map(str::to_owned),
            parent: None,
            uplink: None,
            overlay: None,
            host_end: None,
            host_link: None,
            addresses: Vec::new(),
            duplicates: Vec::new(),
            waiting: BTreeMap::new(),
            routes: Vec::new(),
            // The first look tells what is there from the start.
            links_stale: true,
            firewall_stale: false,
        })
    }

    /// Waits until something is worth a look. Cancel-safe; says the same again until told what was seen.
    pub async fn wake(&mut self) -> io::Result<Wake> {
        loop {
            if self.firewall_stale {
                return Ok(Wake::Firewall);
            }
            if self.links_stale {
                return Ok(Wake::Links);
            }
            let deadline = self
                .waiting
                .values()
                .filter(|waiting| !waiting.reported)
                .map(|waiting| waiting.deadline)
                .min();
            tokio::select! {
                notices = self.host.next() => self.host_notices(&notices?),
                notices = self.node.next() => self.node_notices(&notices?),
                notices = next(&mut self.nftables) => self.nftables_notices(&notices?),
                () = expiry(deadline) => self.links_stale = true,
            }
        }
    }

    fn host_notices(&mut self, notices: &[Notice]) {
        let parent = self.parent.map(|parent| parent.index);
        let known = |index: u32| parent == Some(index) || self.host_end == Some(index);
        self.links_stale |= notices.iter().any(|notice| match notice {
            Notice::Link { index, name } => {
                known(*index)
                    || name.as_ref().is_some_and(|name| {
                        *name == self.parent_name || Some(name) == self.host_end_name.as_ref()
                    })
            }
            Notice::Address { link } => known(*link),
            Notice::Route { link } => self.host_end == Some(*link),
            other => *other == Notice::Overrun,
        });
    }

    fn node_notices(&mut self, notices: &[Notice]) {
        let ours = |index: u32| [self.uplink, self.overlay, self.host_link].contains(&Some(index));
        self.links_stale |= notices.iter().any(|notice| match notice {
            Notice::Link { index, name } => {
                ours(*index)
                    || name.as_ref().is_some_and(|name| {
                        [UPLINK, HOST_LINK, &self.overlay_name].contains(&name.as_str())
                    })
            }
            Notice::Address { link } | Notice::Route { link } => ours(*link),
            other => *other == Notice::Overrun,
        });
    }

    fn nftables_notices(&mut self, notices: &[Notice]) {
        self.firewall_stale |= notices.iter().any(|notice| match notice {
            Notice::Removed { table } => table == TABLE,
            other => *other == Notice::Overrun,
        });
    }

    /// Told what the firewall's look gave.
    pub fn firewall_seen(&mut self) {
        self.firewall_stale = false;
    }

    /// Told what there is: the events since the last time.
    pub fn links_seen(&mut self, seen: &Observed, now: Instant) -> Vec<Event> {
        self.links_stale = false;
        let mut events: Vec<Event> = self
            .parent_seen(seen)
            .into_iter()
            .map(Event::Parent)
            .collect();
        let uplink = seen.uplink.as_ref().map(|uplink| uplink.link.index);
        if self.uplink.is_some() && self.uplink != uplink {
            events.push(Event::UplinkGone);
        }
        self.uplink = uplink;
        self.overlay = seen.overlay.as_ref().map(|overlay| overlay.link.index);
        let index = |end: &Option<ObservedLink>| end.as_ref().map(|end| end.link.index);
        self.host_end = index(&seen.host_link.host);
        self.host_link = index(&seen.host_link.node);
        self.addresses_seen(seen.uplink.as_ref(), now, &mut events);
        let mut routes: Vec<PodRoute> = seen.overlay.as_ref().map(pod_routes).unwrap_or_default();
        routes.sort_unstable();
        if routes != self.routes {
            self.routes.clone_from(&routes);
            events.push(Event::PodRoutes(routes));
        }
        events
    }

    fn parent_seen(&mut self, seen: &Observed) -> Vec<ParentChange> {
        let now = seen
            .parent
            .as_ref()
            .map(|parent| KnownParent::of(&parent.link));
        let before = std::mem::replace(&mut self.parent, now);
        let mut changes = Vec::new();
        match (before, now) {
            (None, Some(_)) => changes.push(ParentChange::Appeared),
            (Some(_), None) => changes.push(ParentChange::Gone),
            (Some(before), Some(now)) if before.index != now.index => {
                changes.extend([ParentChange::Gone, ParentChange::Appeared]);
            }
            (Some(before), Some(now)) => {
                if before.up != now.up {
                    changes.push(if now.up {
                        ParentChange::Up
                    } else {
                        ParentChange::Down
                    });
                }
                if before.mtu != now.mtu {
                    changes.push(ParentChange::Mtu(now.mtu));
                }
            }
            (None, None) => {}
        }
        changes
    }

    fn addresses_seen(
        &mut self,
        uplink: Option<&ObservedLink>,
        now: Instant,
        events: &mut Vec<Event>,
    ) {
        let seen = uplink.map_or(&[][..], |uplink| &uplink.addresses);
        let usable: Vec<IpAddr> = seen
            .iter()
            .filter(|address| !address.tentative && !address.duplicate && !address.deprecated)
            .map(|address| address.net.addr())
            .filter(|address| !is_link_local(*address))
            .collect();
        if usable != self.addresses {
            self.addresses.clone_from(&usable);
            events.push(Event::Addresses(usable));
        }
        let duplicates: Vec<IpAddr> = seen
            .iter()
            .filter(|address| address.duplicate)
            .map(|address| address.net.addr())
            .collect();
        let new = duplicates
            .iter()
            .filter(|address| !self.duplicates.contains(address));
        events.extend(new.map(|address| Event::DuplicateAddress(*address)));
        self.duplicates = duplicates;
        // A duplicate is marked tentative, too.
        let tentative = seen
            .iter()
            .filter(|address| address.tentative && !address.duplicate);
        let tentative: Vec<IpAddr> = tentative.map(|address| address.net.addr()).collect();
        self.waiting
            .retain(|address, _| tentative.contains(address));
        for address in tentative {
            let waiting = self.waiting.entry(address).or_insert(Waiting {
                deadline: now + PATIENCE,
                reported: false,
            });
            if !waiting.reported && waiting.deadline <= now {
                waiting.reported = true;
                events.push(Event::AddressPending(address));
            }
        }
    }
}

fn pod_routes(overlay: &ObservedLink) -> Vec<PodRoute> {
    let route = |route: &crate::state::Route| {
        Some(PodRoute {
            destination: route.destination,
            gateway: route.gateway?,
        })
    };
    overlay.routes.iter().filter_map(route).collect()
}

async fn next(subscription: &mut Option<Subscription>) -> io::Result<Vec<Notice>> {
    match subscription {
        Some(subscription) => subscription.next().await,
        None => std::future::pending().await,
    }
}

async fn expiry(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
