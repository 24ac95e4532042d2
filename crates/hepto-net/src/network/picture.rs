//! The two pictures of a node's network: what should be, from its settings, and what is.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Network;
use crate::address;
use crate::error::Error;
use crate::firewall::{Loaded, Ruleset};
use crate::netlink::{self, is_link_local};
use crate::plan::{Step, plan};
use crate::settings::{HOST_LINK, Settings, UPLINK, UplinkKind};
use crate::state::{
    Address, Desired, DesiredHostLink, DesiredOverlay, DesiredUplink, HostLink, Kind, Link,
    Observed, ObservedHostLink, ObservedLink, Parent, Route,
};
use crate::sysctl;
use crate::tune::Tuner;

/// All links, addresses and routes of a namespace.
struct Looked {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<Route>,
}

impl Looked {
    fn link(&self, name: &str) -> Option<ObservedLink> {
        let link = self.links.iter().find(|link| link.name == name)?;
        Some(ObservedLink {
            link: link.clone(),
            addresses: self.of(link.index),
            routes: self
                .routes
                .iter()
                .filter(|route| route.link == link.index)
                .copied()
                .collect(),
        })
    }

    fn of(&self, link: u32) -> Vec<Address> {
        self.addresses
            .iter()
            .filter(|address| address.link == link)
            .copied()
            .collect()
    }

    /// The link-local networks of IPv4 that are in use on other links than this one. The whole of them is where every
    /// machine without an address looks for one: what is narrower has a meaning.
    fn taken(&self, but: Option<&ObservedLink>) -> Vec<IpNet> {
        let addresses = self
            .addresses
            .iter()
            .map(|address| (address.link, IpNet::from(address.net.addr())));
        let routes = self
            .routes
            .iter()
            .map(|route| (route.link, route.destination));
        addresses
            .chain(routes)
            .filter(|(link, net)| {
                but.is_none_or(|but| but.link.index != *link)
                    && net.addr().is_ipv4()
                    && is_link_local(net.addr())
                    && net.prefix_len() > 16
            })
            .map(|(_, net)| net)
            .collect()
    }
}

impl Network {
    /// What a convergence would do about links, addresses and routes.
    pub(super) fn drift(&self, observed: &Observed) -> Vec<Step> {
        let mut desired = self.desired();
        (desired.sysctls, desired.firewall) = (Vec::new(), None);
        desired.overlay.sysctls = Vec::new();
        if let Some(uplink) = &mut desired.uplink {
            uplink.sysctls = Vec::new();
            uplink.retry_duplicates = false;
        }
        if let Some(pair) = &mut desired.host_link {
            (pair.sysctls, pair.host_sysctls) = (Vec::new(), Vec::new());
        }
        let links = Observed {
            firewall: None,
            sysctls: BTreeMap::new(),
            ..observed.clone()
        };
        plan(&desired, &links)
    }

    pub(super) fn desired(&self) -> Desired {
        let Settings {
            uplink,
            overlay,
            marker,
            ..
        } = &self.settings;
        let auto = uplink.auto;
        let possible = |address: IpAddr| self.ipv6 || address.is_ipv4();
        let nets = |nets: &[IpNet]| {
            nets.iter()
                .filter(|net| possible(net.addr()))
                .copied()
                .collect()
        };
        let gateways = uplink
            .gateways
            .iter()
            .filter(|gateway| possible(gateway.via));
        let addresses = [&[address::link_local(marker)], &uplink.addresses[..]].concat();
        Desired {
            sysctls: sysctl::of_namespace(self.settings.filter_bridges),
            firewall: self.ruleset.as_ref().map(Ruleset::loaded),
            uplink: Some(DesiredUplink {
                parent: uplink.parent.clone(),
                kind: uplink.kind,
                mac: uplink.mac.filter(|_| uplink.kind == UplinkKind::Macvlan),
                mtu: uplink.mtu,
                sysctls: sysctl::of_uplink(auto),
                addresses: nets(&addresses),
                auto: auto.then(|| address::token(marker)),
                gateways: gateways.copied().collect(),
                tune: uplink.tune,
                retry_duplicates: self.retry_duplicates,
            }),
            overlay: DesiredOverlay {
                mtu: overlay.mtu,
                sysctls: sysctl::of_overlay(&overlay.link),
                addresses: nets(&overlay.addresses),
            },
            host_link: self.settings.host_link.then(|| self.desired_host_link()),
            rates: self.settings.bandwidth.rates.whole(),
        }
    }

    pub(super) async fn observe(&self, desired: &Desired) -> Result<Observed, Error> {
        let uplink = desired.uplink.iter().flat_map(|uplink| &uplink.sysctls);
        let pair = desired.host_link.iter().flat_map(|pair| &pair.sysctls);
        let sysctls = desired
            .sysctls
            .iter()
            .chain(&desired.overlay.sysctls)
            .chain(uplink)
            .chain(pair);
        let paths = sysctls.map(|(path, _)| path.clone()).collect();
        let (mut sysctls, firewall) = self.look_inside(paths).await?;
        let host_end = desired.host_link.iter().flat_map(|pair| &pair.host_sysctls);
        let paths: Vec<String> = host_end.map(|(path, _)| path.clone()).collect();
        sysctls.extend(sysctl::read(&paths));
        Ok(Observed {
            sysctls,
            firewall,
            ..self.observe_links().await?
        })
    }

    pub(super) async fn look_inside(
        &self,
        sysctls: Vec<String>,
    ) -> Result<(BTreeMap<String, String>, Option<Loaded>), Error> {
        let (tools, ruleset) = (self.tools.clone(), self.ruleset.clone());
        let look = self
            .entry
            .spawn(move || (sysctl::read(&sysctls), tools.read(ruleset.as_ref())))
            .await;
        look.map_err(|error| {
            Error::namespace(
                format!("looking into the namespace {}", self.settings.namespace),
                error,
            )
        })
    }

    fn desired_host_link(&self) -> DesiredHostLink {
        let marker = &self.settings.marker;
        let ipv6 = self.ipv6 && sysctl::gives_ipv6();
        DesiredHostLink {
            name: self.host_end.clone(),
            alias: marker.clone(),
            sysctls: sysctl::of_host_link(self.ipv6),
            host_sysctls: sysctl::of_host_end(&self.host_end, ipv6),
            ipv6,
            networks: address::pair_networks(marker),
        }
    }

    pub(super) async fn observe_links(&self) -> Result<Observed, Error> {
        let node = Looked {
            links: self.node.links().await?,
            addresses: self.node.addresses().await?,
            routes: self.node.routes().await?,
        };
        let host = self.host.links().await?;
        Ok(Observed {
            limits: self.limits(&node.links).await?,
            loopback_up: node
                .links
                .iter()
                .any(|link| link.index == netlink::LOOPBACK && link.up),
            sysctls: BTreeMap::new(),
            firewall: None,
            parent: parent(&host, &self.settings.uplink.parent, &self.tuner),
            uplink: node.link(UPLINK),
            overlay: node.link(&self.settings.overlay.link),
            host_link: self.observe_host_link(&node, host).await?,
        })
    }

    /// Not looked for in all of the host where there is none and shall be none.
    async fn observe_host_link(
        &self,
        node: &Looked,
        links: Vec<Link>,
    ) -> Result<ObservedHostLink, Error> {
        let there = links.iter().any(|link| link.name == self.host_end);
        if !self.settings.host_link && !there {
            return Ok(ObservedHostLink::default());
        }
        let host = Looked {
            links,
            addresses: self.host.addresses().await?,
            routes: self.host.routes().await?,
        };
        let parent = host
            .links
            .iter()
            .find(|link| link.name == self.settings.uplink.parent);
        let mut seen = ObservedHostLink {
            node: node.link(HOST_LINK),
            host: host.link(&self.host_end),
            addresses: parent
                .map(|parent| host.of(parent.index))
                .unwrap_or_default(),
            gateways: Vec::new(),
            taken: Vec::new(),
        };
        let (host_end, node_end) = seen.pair().unzip();
        let others = |route: &&Route| host_end.is_none_or(|end| end.link.index != route.link);
        let gateways = host
            .routes
            .iter()
            .filter(others)
            .filter_map(|route| route.gateway)
            .collect();
        let taken = [host.taken(host_end), node.taken(node_end)].concat();
        (seen.taken, seen.gateways) = (taken, gateways);
        Ok(seen)
    }
}

/// What the pair that is there leads to.
pub(super) fn host_link(observed: &Observed) -> Option<HostLink> {
    let (host, node) = observed.host_link.pair()?;
    let led = |link: &ObservedLink| -> Vec<IpAddr> {
        let routed = link.routes.iter().filter(|route| route.gateway.is_some());
        routed.map(|route| route.destination.addr()).collect()
    };
    Some(HostLink {
        name: host.link.name.clone(),
        host: led(node),
        node: led(host),
    })
}

/// The host's interface with what the checks need to know.
fn parent(links: &[Link], name: &str, tuner: &Tuner) -> Option<Parent> {
    let link = links.iter().find(|link| link.name == name)?;
    let master = links
        .iter()
        .find(|other| link.captive && Some(other.index) == link.master);
    let carries = links
        .iter()
        .filter(|other| other.lower == Some(link.index) && !other.lower_elsewhere)
        .find_map(|other| match other.kind {
            Kind::Ipvlan { .. } => Some(UplinkKind::Ipvlan),
            Kind::Macvlan { .. } => Some(UplinkKind::Macvlan),
            _ => None,
        });
    Some(Parent {
        link: link.clone(),
        master: master.map(|master| master.name.clone()),
        carries,
        tuning: tuner.observe(name),
    })
}
