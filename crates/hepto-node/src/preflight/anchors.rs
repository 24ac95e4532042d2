//! The anchors, asked from the node's own network: whether they answer, how much a packet to them holds, and whether they
//! reach this node unasked.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hepto_mesh::core::Anchor;
use hepto_mesh::key::Derived;
use hepto_net::Entry;
use tokio::net::lookup_host;

use super::Finding;
use crate::config::Config;
use crate::node::settings;
use crate::probe::{DialBack, Greeting, PathMtu, Way};

/// How long a name may take to resolve.
const LOOKUP: Duration = Duration::from_secs(5);
/// Addresses of one anchor that are asked.
const ADDRESSES: usize = 4;
/// Anchors that may try to reach us by one family before it counts as closed.
const DIALLERS: usize = 2;

/// One address of an anchor, after it was asked.
struct Asked {
    address: SocketAddr,
    greeting: io::Result<Greeting>,
    mtu: PathMtu,
    way: Option<Way>,
}

/// An anchor with its addresses, or why its name has none.
type Resolved = (Anchor, Result<Vec<SocketAddr>, String>);

/// Asks all anchors that are not this node itself.
pub async fn look(config: &Config, entry: &Entry) -> Vec<Finding> {
    let mut resolved: Vec<Resolved> = Vec::new();
    for anchor in settings::anchors(config) {
        let addresses = resolve(&anchor).await;
        resolved.push((anchor, addresses));
    }
    let place = Place::of(config);
    let keys = config.cluster.overlay_key.derive(&config.cluster.name);
    let asked = entry.spawn(move || ask(&place, &keys, resolved)).await;
    asked.unwrap_or_else(|error| {
        let what = format!("cannot enter the network that was made: {error}");
        vec![Finding::error("anchor.answers", "E-NET-ENTER", what)]
    })
}

/// Names are resolved where the host's resolver is, as `run` does.
async fn resolve(anchor: &Anchor) -> Result<Vec<SocketAddr>, String> {
    let lookup = lookup_host((anchor.host.as_str(), anchor.port));
    match tokio::time::timeout(LOOKUP, lookup).await {
        Ok(Ok(addresses)) => Ok(addresses.take(ADDRESSES).collect()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no resolver answers".into()),
    }
}

/// Where the node stands.
struct Place {
    /// Its own addresses and prefixes.
    networks: Vec<ipnet::IpNet>,
    /// Whether routers give it IPv6 addresses.
    auto: bool,
    /// Its port forwards.
    endpoints: Vec<SocketAddr>,
    port: u16,
    mtu: u16,
}

impl Place {
    fn of(config: &Config) -> Place {
        Place {
            networks: config.network.addresses.clone(),
            auto: config.network.auto,
            endpoints: config.mesh.endpoints.clone(),
            port: config.mesh.port,
            mtu: config.network.mtu,
        }
    }

    fn has(&self, v6: bool) -> bool {
        let same = |network: &ipnet::IpNet| network.addr().is_ipv6() == v6;
        v6 && self.auto || self.networks.iter().any(same)
    }

    fn is_mine(&self, address: SocketAddr) -> bool {
        let own = |network: &ipnet::IpNet| network.addr() == address.ip();
        address.port() == self.port && self.networks.iter().any(own)
            || self.endpoints.contains(&address)
    }

    /// The port at which this node is to be reached from outside, and the one that it has inside.
    fn ports(&self, v6: bool) -> (u16, u16) {
        let forward = self
            .endpoints
            .iter()
            .find(|endpoint| endpoint.is_ipv6() == v6);
        (forward.map_or(self.port, SocketAddr::port), self.port)
    }
}

/// Asks from the network of the calling thread, all anchors at once.
fn ask(place: &Place, keys: &Derived, resolved: Vec<Resolved>) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut asked: Vec<(Anchor, Vec<Asked>)> = Vec::new();
    let mut others = Vec::new();
    let mut serves = false;
    for (anchor, addresses) in resolved {
        match addresses {
            Err(error) => found.push(unresolved(&anchor, &error)),
            Ok(addresses) if addresses.iter().any(|address| place.is_mine(*address)) => {
                serves = true;
                found.push(Finding::ok(
                    "anchor.answers",
                    format!("the anchor {anchor} is this node itself"),
                ));
            }
            Ok(addresses) => others.push((anchor, addresses)),
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = others
            .into_iter()
            .map(|(anchor, addresses)| {
                let greet = move || {
                    let usable = addresses
                        .into_iter()
                        .filter(|address| place.has(address.is_ipv6()));
                    (anchor, usable.map(|address| greet(keys, address)).collect())
                };
                scope.spawn(greet)
            })
            .collect();
        asked.extend(threads.into_iter().filter_map(|thread| thread.join().ok()));
    });
    // Our own public address, which a gateway mostly does not let us see from inside.
    let ours: Vec<IpAddr> = asked
        .iter()
        .flat_map(|(_, ways)| ways)
        .filter_map(Asked::observed)
        .map(|seen| seen.ip())
        .collect();
    found.extend(
        asked
            .iter()
            .map(|(anchor, ways)| answers(anchor, ways, &ours)),
    );
    for v6 in [true, false] {
        found.extend(fits(place, v6, &asked));
        found.extend(reached(place, serves, v6, &mut asked));
    }
    found
}

fn greet(keys: &Derived, address: SocketAddr) -> Asked {
    let (mut greeting, mut way) = match Way::open(keys, 0, address) {
        Ok(mut way) => (way.greet(), Some(way)),
        Err(error) => (Err(error), None),
    };
    let mut mtu = PathMtu::Unknown;
    if let (Ok(Greeting::Alive { .. }), Some(way)) = (&greeting, &mut way) {
        match way.mtu() {
            Ok(found) => mtu = found,
            Err(error) => greeting = Err(error),
        }
    }
    Asked {
        address,
        greeting,
        mtu,
        way,
    }
}

impl Asked {
    fn observed(&self) -> Option<SocketAddr> {
        match self.greeting {
            Ok(Greeting::Alive { observed, .. }) => Some(observed),
            _ => None,
        }
    }

    fn text(&self) -> String {
        match &self.greeting {
            Ok(Greeting::Alive { .. }) => format!("{} answers", self.address),
            Ok(Greeting::Closed) => format!("at {} nothing listens", self.address),
            Ok(Greeting::Silent) => format!("{} does not answer", self.address),
            Err(error) => format!("no way to {}: {error}", self.address),
        }
    }
}

const WHY: &str =
    "a node finds the others through its anchors; one that none answers waits for them";

fn unresolved(anchor: &Anchor, error: &str) -> Finding {
    let what = format!(
        "the anchor's name {} does not resolve: {error}",
        anchor.host
    );
    Finding::warning("anchor.answers", "W-PREFLIGHT-ANCHOR-NAME", what)
        .why(WHY)
        .fix("correct cluster.anchors, or the host's resolver; an address in place of the name needs none")
}

/// What is said of one anchor, by all its addresses.
fn answers(anchor: &Anchor, ways: &[Asked], ours: &[IpAddr]) -> Finding {
    let check = "anchor.answers";
    let what = format!(
        "the anchor {anchor}: {}",
        ways.iter().map(Asked::text).collect::<Vec<_>>().join(", ")
    );
    if ways.is_empty() {
        return Finding::warning(check, "W-PREFLIGHT-ANCHOR-SILENT", format!("the anchor {anchor} has no address of a family that this node has"))
            .why(WHY)
            .fix("give the node an address of that family, or name an address of the anchor that this node can reach");
    }
    if ways.iter().any(|way| way.observed().is_some()) {
        return Finding::ok(check, what);
    }
    if ways.iter().any(|way| ours.contains(&way.address.ip())) {
        return Finding::ok(
            check,
            format!(
                "the anchor {anchor} has this home's own public address, which cannot be tried from inside"
            ),
        );
    }
    match ways.iter().any(|way| matches!(way.greeting, Ok(Greeting::Closed))) {
        true => Finding::warning(check, "W-PREFLIGHT-ANCHOR-CLOSED", what)
            .why(WHY)
            .fix("start the anchor's node there, or correct the port in cluster.anchors"),
        false => Finding::warning(check, "W-PREFLIGHT-ANCHOR-SILENT", what)
            .why(WHY)
            .fix(format!("see that its node runs, that its owner's gateway lets UDP port {} in to it, and that its overlay key is the same (a node is silent to any other)", anchor.port)),
    }
}

/// Whether a datagram that nobody asked for comes in by this family; nothing where no anchor can say.
fn reached(
    place: &Place,
    serves: bool,
    v6: bool,
    asked: &mut [(Anchor, Vec<Asked>)],
) -> Option<Finding> {
    let (check, family) = match v6 {
        true => ("anchor.reach-v6", "IPv6"),
        false => ("anchor.reach-v4", "IPv4"),
    };
    let (outside, inside) = place.ports(v6);
    let all = asked
        .iter_mut()
        .flat_map(|(anchor, ways)| ways.iter_mut().map(|way| (&*anchor, way)));
    let alive = all.filter(|(_, way)| way.address.is_ipv6() == v6 && way.observed().is_some());
    // Those beyond the gateway first.
    let (near, far): (Vec<_>, Vec<_>) = alive.partition(|(_, way)| {
        place
            .networks
            .iter()
            .any(|network| network.contains(&way.address.ip()))
    });
    let mut outcomes = BTreeMap::new();
    for (anchor, asked) in far.into_iter().chain(near).take(DIALLERS) {
        let observed = asked.observed()?;
        match asked.way.as_mut()?.dial_back(outside, inside) {
            Ok(DialBack::Reached) => {
                let near = place
                    .networks
                    .iter()
                    .any(|network| network.contains(&asked.address.ip()));
                let beyond = if near {
                    "; it is in your own network, so your gateway was not tried"
                } else {
                    ""
                };
                let what = format!(
                    "the anchor {anchor} reaches {}{beyond}",
                    SocketAddr::new(observed.ip(), outside)
                );
                return Some(Finding::ok(check, what));
            }
            Ok(outcome) => {
                outcomes.insert(outcome == DialBack::Refused, (anchor.clone(), observed));
            }
            Err(error) => {
                return Some(Finding::warning(
                    check,
                    "W-PREFLIGHT-REACH",
                    format!(
                        "it cannot be tried whether others reach this node by {family}: {error}"
                    ),
                ));
            }
        }
    }
    // One that was blocked says more than one that was refused.
    let (refused, (anchor, observed)) = outcomes.pop_first()?;
    if refused {
        return Some(Finding::ok(
            check,
            format!(
                "the anchor {anchor} would not try at the moment whether others reach this node by {family}"
            ),
        ));
    }
    let what = format!(
        "nothing from outside comes in by {family}: the anchor {anchor} sent to {} in vain",
        SocketAddr::new(observed.ip(), outside)
    );
    let also = if serves {
        "; and it is an anchor: others find the cluster through it"
    } else {
        ""
    };
    let own = place
        .networks
        .iter()
        .map(ipnet::IpNet::addr)
        .find(|own| own.is_ipv6() == v6);
    let own = own
        .filter(|own| !v6 || *own == observed.ip())
        .unwrap_or(observed.ip());
    let fix = match v6 {
        true => format!("in your gateway's IPv6 firewall, let UDP port {outside} in to {own}"),
        false => format!(
            "in your gateway, forward UDP port {outside} to {own}, port {inside}; where your provider shares one IPv4 address among homes it cannot be mended, and IPv6 has to do"
        ),
    };
    Some(
        Finding::warning(check, "W-PREFLIGHT-REACH", what)
            .why(format!("this node reaches only nodes that are open themselves; of two closed ones neither reaches the other{also}"))
            .fix(fix),
    )
}

/// Whether the tunnel's packets fit the narrowest way to an anchor by this family.
fn fits(place: &Place, v6: bool, asked: &[(Anchor, Vec<Asked>)]) -> Option<Finding> {
    let (check, family) = match v6 {
        true => ("anchor.mtu-v6", "IPv6"),
        false => ("anchor.mtu-v4", "IPv4"),
    };
    let all = asked
        .iter()
        .flat_map(|(anchor, ways)| ways.iter().map(move |way| (anchor, way)));
    let measured =
        all.filter(|(_, way)| way.address.is_ipv6() == v6 && way.mtu != PathMtu::Unknown);
    let (anchor, way) = measured.min_by_key(|(_, way)| way.mtu.bears(v6))?;
    let what = format!(
        "a packet to the anchor {anchor} by {family} holds {} bytes, and network.mtu is {}",
        way.mtu, place.mtu
    );
    let why = "a larger one is cut in pieces, or lost: small things work, and large ones hang";
    match way.mtu.bears(v6) {
        Some(bears) if bears >= place.mtu => Some(Finding::ok(check, what)),
        Some(bears) => Some(
            Finding::warning(check, "W-PREFLIGHT-MTU", what)
                .why(why)
                .fix(format!("network.mtu = {bears} in the config of every node; hepto-node mtu measures the other pairs once they run")),
        ),
        None => Some(
            Finding::warning(check, "W-PREFLIGHT-MTU", what)
                .why(why)
                .fix("IPv6 needs 1280 everywhere: look for a tunnel or a VPN on this line, and take the node's packets out of it"),
        ),
    }
}
