//! How much a packet to each other node holds, by both families, and which `network.mtu` the cluster could agree on.
//!
//! Asked beside the running node, from its own port and network, so that gateways take the questions for its own. The way
//! there alone is measured, since answers are small: each node measures its own ways. Where the node's own link ends the
//! search, the host goes on, whose link may be larger.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::thread;

use hepto_mesh::core::BootId;
use hepto_mesh::key::Derived;
use hepto_net::Entry;
use schemars::JsonSchema;
use serde::Serialize;

use crate::probe::{Greeting, LEAST, MOST, PathMtu, Way};
use crate::status::PeerStatus;

/// Nodes that are asked at the same time.
const AT_ONCE: usize = 16;

/// What was measured.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Survey {
    /// `network.mtu` of this node, bytes.
    pub mtu: u16,
    /// The largest `network.mtu` that every way bears; `null` when one bears none, or nobody answered.
    pub agreed: Option<u16>,
    /// All ways to nodes that answered.
    pub ways: Vec<Measured>,
    /// Nodes of which nothing could be measured.
    pub silent: Vec<String>,
}

/// One way to one node.
#[derive(Debug, Clone, Serialize, JsonSchema)]
pub struct Measured {
    /// Its name.
    pub node: String,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Its address there.
    pub address: SocketAddr,
    /// Whether the tunnel's packets go there at the moment.
    pub used: bool,
    /// The largest packet that arrived, IP header included, bytes; `null` when none of 1280 did.
    pub path_mtu: Option<u16>,
    /// Whether larger ones were not tried: an Ethernet frame, or the link of the host, ends there.
    pub or_more: bool,
    /// The `network.mtu` that this way bears, bytes; over IPv4 that is 20 more than its MTU.
    pub bears: Option<u16>,
}

/// Who is asked, and where it may be.
#[derive(Debug, Clone)]
struct Target {
    name: String,
    endpoint: Option<SocketAddr>,
    others: Vec<SocketAddr>,
}

/// Measures the ways to all `peers` from the node's network and `port`.
pub fn survey(keys: &Derived, entry: &Entry, port: u16, mtu: u16, peers: &[PeerStatus]) -> Survey {
    let targets: Vec<Target> = peers.iter().map(Target::of).collect();
    let mut ways = Vec::new();
    for some in targets.chunks(AT_ONCE) {
        thread::scope(|scope| {
            let ask = |target: Target| scope.spawn(move || from_both(keys, entry, port, target));
            let threads: Vec<_> = some.iter().cloned().map(ask).collect();
            ways.extend(
                threads
                    .into_iter()
                    .filter_map(|thread| thread.join().ok())
                    .flatten(),
            );
        });
    }
    Survey::new(mtu, ways, peers)
}

impl Target {
    fn of(peer: &PeerStatus) -> Target {
        let mut others = peer.endpoints.clone();
        others.retain(|other| Some(*other) != peer.endpoint);
        Target {
            name: peer.name.clone(),
            endpoint: peer.endpoint,
            others,
        }
    }
}

/// From the node, and for what its own link ended, from the host.
fn from_both(keys: &Derived, entry: &Entry, port: u16, target: Target) -> Vec<Measured> {
    let inside = keys.clone();
    let mut ways = entry
        .run(move || from_node(&inside, port, &target))
        .unwrap_or_default();
    for way in &mut ways {
        let PathMtu::AtLeast(bytes) = way.mtu else {
            continue;
        };
        if bytes < MOST
            && let Some(larger) = from_host(keys, way)
        {
            way.mtu = larger;
        }
    }
    ways.into_iter().map(Measured::from).collect()
}

struct Found {
    node: String,
    address: SocketAddr,
    used: bool,
    boot: BootId,
    mtu: PathMtu,
}

/// The address that is used, and of each other family the first that is the same node.
fn from_node(keys: &Derived, port: u16, target: &Target) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for (address, used) in target
        .endpoint
        .map(|address| (address, true))
        .into_iter()
        .chain(target.others.iter().map(|other| (*other, false)))
    {
        if found
            .iter()
            .any(|known| known.address.is_ipv6() == address.is_ipv6())
        {
            continue;
        }
        let Some((boot, mtu)) = measure(keys, port, address) else {
            continue;
        };
        // A private address may be another node's, in this home.
        if !used && found.iter().all(|known| known.boot != boot) {
            continue;
        }
        if mtu != PathMtu::Unknown {
            found.push(Found {
                node: target.name.clone(),
                address,
                used,
                boot,
                mtu,
            });
        }
    }
    found
}

fn from_host(keys: &Derived, way: &Found) -> Option<PathMtu> {
    let (boot, mtu) = measure(keys, 0, way.address)?;
    let is_more = mtu.bears(true) > way.mtu.bears(true);
    (boot == way.boot && is_more).then_some(mtu)
}

fn measure(keys: &Derived, port: u16, address: SocketAddr) -> Option<(BootId, PathMtu)> {
    let mut way = Way::open(keys, port, address).ok()?;
    let Greeting::Alive { boot, .. } = way.greet().ok()? else {
        return None;
    };
    Some((boot, way.mtu().unwrap_or(PathMtu::Unknown)))
}

impl From<Found> for Measured {
    fn from(found: Found) -> Measured {
        let v6 = found.address.is_ipv6();
        let (path_mtu, or_more) = match found.mtu {
            PathMtu::Exact(bytes) => (Some(bytes), false),
            PathMtu::AtLeast(bytes) => (Some(bytes), true),
            PathMtu::Below | PathMtu::Unknown => (None, false),
        };
        Measured {
            node: found.node,
            family: if v6 { "ipv6" } else { "ipv4" },
            address: found.address,
            used: found.used,
            path_mtu,
            or_more,
            bears: found.mtu.bears(v6),
        }
    }
}

impl Survey {
    fn new(mtu: u16, ways: Vec<Measured>, peers: &[PeerStatus]) -> Survey {
        let heard: BTreeSet<&str> = ways.iter().map(|way| way.node.as_str()).collect();
        let silent = peers
            .iter()
            .map(|peer| peer.name.clone())
            .filter(|name| !heard.contains(name.as_str()));
        let all: Option<Vec<u16>> = ways.iter().map(|way| way.bears).collect();
        Survey {
            mtu,
            agreed: all.and_then(|all| all.into_iter().min()),
            silent: silent.collect(),
            ways,
        }
    }

    /// What it means, in a sentence or two.
    pub fn advice(&self) -> String {
        let narrowest = self.ways.iter().min_by_key(|way| way.bears);
        let Some(narrowest) = narrowest else {
            return "no node answered: nothing is known".into();
        };
        let by = format!("{} by {}", narrowest.node, narrowest.family);
        let missing = match self.silent.is_empty() {
            true => String::new(),
            false => format!(" Not measured: {}.", self.silent.join(", ")),
        };
        let advice = match self.agreed {
            None => format!(
                "the way to {by} does not even hold {LEAST} bytes, which IPv6 needs: look for a tunnel or a VPN on that line."
            ),
            Some(agreed) if agreed < self.mtu => format!(
                "network.mtu is {}, too large for the way to {by}: set network.mtu = {agreed} in the config of every node.",
                self.mtu
            ),
            Some(agreed) if agreed == self.mtu => format!(
                "network.mtu is {agreed}, the most that the way to {by} bears: it is right."
            ),
            Some(agreed) => format!(
                "network.mtu is {}, and every way from here bears {agreed}: so could the cluster, if the other nodes measure no less.",
                self.mtu
            ),
        };
        advice + &missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::tests::peer;

    fn way(node: &str, address: &str, mtu: PathMtu) -> Measured {
        Measured::from(Found {
            node: node.into(),
            address: address.parse().expect("an address"),
            used: true,
            boot: [0; 8],
            mtu,
        })
    }

    fn named(names: &[&str]) -> Vec<PeerStatus> {
        let named = |name: &&str| PeerStatus {
            name: (*name).into(),
            ..peer()
        };
        names.iter().map(named).collect()
    }

    #[test]
    fn the_narrowest_way_decides_and_ipv4_has_twenty_bytes_more() {
        let ways = vec![
            way("doc", "[2001:db8::1]:1", PathMtu::AtLeast(1500)),
            way("sleepy", "192.0.2.1:1", PathMtu::Exact(1452)),
        ];
        let survey = Survey::new(1400, ways, &named(&["doc", "sleepy", "dopey"]));
        assert_eq!(
            (survey.agreed, survey.silent.as_slice()),
            (Some(1472), &["dopey".to_owned()][..])
        );
        assert_eq!(
            survey.advice(),
            "network.mtu is 1400, and every way from here bears 1472: so could the cluster, if the other nodes measure no less. Not measured: dopey."
        );
    }

    #[test]
    fn one_that_is_too_large_is_said_with_what_to_set() {
        let ways = vec![way("sleepy", "[2001:db8::1]:1", PathMtu::Exact(1380))];
        let advice = Survey::new(1400, ways, &[]).advice();
        assert!(
            advice.contains("too large for the way to sleepy by ipv6: set network.mtu = 1380"),
            "{advice}"
        );
        let ways = vec![
            way("doc", "192.0.2.1:1", PathMtu::Exact(1400)),
            way("sleepy", "192.0.2.2:1", PathMtu::Below),
        ];
        let survey = Survey::new(1400, ways, &[]);
        assert_eq!(survey.agreed, None);
        assert!(
            survey
                .advice()
                .contains("sleepy by ipv4 does not even hold 1280"),
            "{}",
            survey.advice()
        );
        assert_eq!(Survey::new(1400, Vec::new(), &[]).agreed, None);
    }
}
