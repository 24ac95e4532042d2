//! What the inventory's variables mean: one config file per node, and the cluster's keys.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::Path;

use blake2::{Blake2s256, Digest};
use hepto_mesh::key::{ClusterKey, KeyError, OverlayKey};
use ipnet::IpNet;
use zeroize::Zeroizing;

use super::draft::{self, Draft};
use super::{Inventory, Variable};
use crate::config::{self, Diagnostic};

/// The guide's group of nodes.
const NODES: &str = "cluster";

const OVERLAY_KEY: &str = "overlay_key";
const CLUSTER_KEY: &str = "cluster_key";

/// What no node can do without, and how it looks.
const REQUIRED: &[(&str, &str)] = &[
    ("iface", "iface=ens1"),
    ("ip", "ip=2001:db8:1::1/64,192.168.1.123/24"),
    ("master", "master=nodename"),
    (
        OVERLAY_KEY,
        "overlay_key=KEY, from `hepto-node keys generate overlay`",
    ),
    (
        CLUSTER_KEY,
        "cluster_key=KEY, from `hepto-node keys generate cluster`",
    ),
];

/// What must be the same on all nodes: else they do not find one another, or lose packets.
const COMMON: &[&str] = &[
    "master",
    "mtu",
    OVERLAY_KEY,
    CLUSTER_KEY,
    "cluster_name",
    "ula",
    "pod_cidrs",
    "service_cidrs",
    "mesh_ipv4",
    "mesh_addressing",
];

/// All nodes of an inventory, and their keys.
pub struct Nodes {
    /// The cluster's name.
    pub cluster: String,
    /// Whether the name was made from the overlay key, since the inventory has none.
    pub named_here: bool,
    /// In the order of the inventory.
    pub nodes: Vec<Node>,
    /// The keys of all.
    pub keys: Keys,
}

/// One node's config file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Whether it is the master.
    pub is_master: bool,
    /// The text of its config file.
    pub config: String,
}

/// The cluster's keys, as text.
pub struct Keys {
    /// The overlay key.
    pub overlay: Zeroizing<String>,
    /// The cluster key, for the master alone.
    pub cluster: Zeroizing<String>,
    /// The agents' key.
    pub agent: Zeroizing<String>,
}

/// Turns an inventory into config files that name their keys in the directory `keys_at`.
///
/// All errors and warnings come at once; with an error there are no nodes.
pub fn nodes(inventory: &Inventory, keys_at: &Path) -> (Option<Nodes>, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let names = members(inventory, &mut found);
    let variables: BTreeMap<&str, BTreeMap<&str, &Variable>> = names
        .iter()
        .map(|name| (*name, inventory.variables(name)))
        .collect();
    for name in &names {
        unknown(&variables[name], &mut found);
    }
    missing(inventory, &names, &variables, &mut found);
    common(&names, &variables, &mut found);
    master(&names, &variables, &mut found);
    addresses(&names, &variables, &mut found);
    let first = names.first().map(|name| &variables[name]);
    let keys = first.and_then(|variables| keys(variables, &mut found));
    let cluster = keys
        .as_ref()
        .zip(first)
        .map(|(keys, variables)| cluster_name(variables, &keys.0));
    let mut nodes = Vec::new();
    for name in &names {
        let cluster = cluster
            .as_ref()
            .map_or("c-unknown", |(name, _)| name.as_str());
        let place = inventory.place(name);
        let draft = Draft::new(name, place, &variables[name], cluster, keys_at);
        found.extend(draft.found());
        nodes.push(Node {
            name: draft.name,
            is_master: draft.is_master,
            config: draft.text,
        });
    }
    found.sort_by_key(|found| found.span.as_ref().map_or(0, |span| span.start));
    found.dedup_by(|a, b| a.code == b.code && a.span == b.span && a.what == b.what);
    if found
        .iter()
        .any(|found| found.severity == config::Severity::Error)
    {
        return (None, found);
    }
    let result = cluster
        .zip(keys)
        .and_then(|((cluster, named_here), (overlay, key))| {
            let agent = key
                .parse::<ClusterKey>()
                .ok()?
                .agent(&cluster.parse().ok()?);
            let agent = Zeroizing::new(agent.expose().to_owned());
            Some(Nodes {
                cluster,
                named_here,
                nodes,
                keys: Keys {
                    overlay,
                    cluster: key,
                    agent,
                },
            })
        });
    (result, found)
}

/// The nodes: the hosts of `[cluster]`, else all.
fn members<'a>(inventory: &'a Inventory, found: &mut Vec<Diagnostic>) -> Vec<&'a str> {
    if !inventory.has_group(NODES) {
        let all: Vec<&str> = inventory.hosts().collect();
        if all.is_empty() {
            let empty = Diagnostic::error("E-INV-EMPTY", "the inventory has no hosts").at(0..0);
            found.push(empty.fix("add a section [cluster] with one line a node"));
        }
        return all;
    }
    let members = inventory.members(NODES);
    if members.is_empty() {
        let empty = Diagnostic::error("E-INV-EMPTY", "the group [cluster] has no hosts").at(0..0);
        found.push(empty.fix("add one line a node below [cluster]"));
    }
    for host in inventory.hosts().filter(|host| !members.contains(host)) {
        let what = format!("{host} is not in [cluster], so it is no node and is left out");
        let outside = Diagnostic::warning("W-INV-OUTSIDE", what).at(inventory.place(host));
        found.push(outside.fix("move it below [cluster] if it is a node"));
    }
    members
}

/// What all nodes lack is said once.
fn missing(
    inventory: &Inventory,
    names: &[&str],
    variables: &BTreeMap<&str, BTreeMap<&str, &Variable>>,
    found: &mut Vec<Diagnostic>,
) {
    for (name, example) in REQUIRED {
        let lacking = names
            .iter()
            .filter(|node| !variables[*node].contains_key(name));
        let lacking: Vec<&str> = lacking.copied().collect();
        let said: Vec<(&str, String)> = match lacking.len() == names.len() {
            true => lacking
                .first()
                .map(|first| (*first, format!("no node has `{name}`")))
                .into_iter()
                .collect(),
            false => lacking
                .iter()
                .map(|node| (*node, format!("the node {node} has no `{name}`")))
                .collect(),
        };
        for (node, what) in said {
            let absent = Diagnostic::error("E-INV-MISSING", what).at(inventory.place(node));
            found.push(absent.fix(format!("add {example}, here or below [cluster:vars]")));
        }
    }
}

/// Names every variable that nothing here reads. Ansible's own tell it how to connect, and are no concern of a node.
fn unknown(variables: &BTreeMap<&str, &Variable>, found: &mut Vec<Diagnostic>) {
    let known: Vec<&str> = draft::names().chain([OVERLAY_KEY, CLUSTER_KEY]).collect();
    for (name, variable) in variables {
        if name.starts_with("ansible_") || known.contains(name) {
            continue;
        }
        let what = format!("the variable `{name}` means nothing to hepto-node and is left out");
        let ignored = Diagnostic::warning("W-INV-UNKNOWN", what).at(variable.span.clone());
        found.push(match config::nearest(name, &known) {
            Some(near) => ignored.fix(format!("did you mean `{near}`?")),
            None => ignored.fix("remove it if nothing else reads it"),
        });
    }
}

fn common(
    names: &[&str],
    variables: &BTreeMap<&str, BTreeMap<&str, &Variable>>,
    found: &mut Vec<Diagnostic>,
) {
    for name in COMMON {
        let set = names
            .iter()
            .filter_map(|node| Some((*node, *variables[node].get(name)?)));
        let Some((first_node, first)) = set.clone().next() else {
            continue;
        };
        for (node, other) in set.filter(|(_, other)| other.value != first.value) {
            let what = format!(
                "`{name}` of {node} is not that of {first_node}, and all nodes must have the same"
            );
            let differs = Diagnostic::error("E-INV-DIFFERS", what).at(other.span.clone());
            let differs = differs.beside(first.span.clone(), format!("of {first_node}"));
            found.push(differs.fix(format!("set `{name}` once, below [cluster:vars]")));
        }
    }
}

fn master(
    names: &[&str],
    variables: &BTreeMap<&str, BTreeMap<&str, &Variable>>,
    found: &mut Vec<Diagnostic>,
) {
    for variable in names
        .iter()
        .filter_map(|node| variables[node].get("master"))
    {
        let Some(master) = variable.text().filter(|master| !names.contains(master)) else {
            continue;
        };
        let unknown = Diagnostic::error(
            "E-INV-MASTER",
            format!("the master {master} is not among the nodes"),
        );
        let unknown = unknown.at(variable.span.clone());
        found.push(match config::nearest(master, names) {
            Some(near) => unknown.fix(format!("did you mean {near}?")),
            None => unknown.fix(format!("the nodes are {}", names.join(", "))),
        });
    }
}

/// No two nodes have one address, but for private IPv4 in different homes (RFC 1918), where every router hands out the same.
fn addresses(
    names: &[&str],
    variables: &BTreeMap<&str, BTreeMap<&str, &Variable>>,
    found: &mut Vec<Diagnostic>,
) {
    let nets = |node: &str| -> Vec<IpNet> {
        let texts = variables[node].get("ip").map(|ip| draft::items(ip));
        let nets = texts.into_iter().flatten().map(|text| text.parse());
        nets.filter_map(Result::ok).collect()
    };
    let mut owners: BTreeMap<IpAddr, Vec<&str>> = BTreeMap::new();
    for node in names {
        for net in nets(node) {
            let owners = owners.entry(net.addr()).or_default();
            let others = owners.iter().filter(|owner| *owner != node);
            found.extend(others.map(|owner| {
                let at_home = is_private(net) && !share_a_network(&nets(owner), &nets(node));
                same_address(owner, node, net, at_home)
                    .at(variables[node]["ip"].span.clone())
                    .beside(variables[owner]["ip"].span.clone(), format!("of {owner}"))
            }));
            owners.push(node);
        }
    }
}

/// What is said of two nodes with one address; `at_home` when that may be right.
fn same_address(owner: &str, node: &str, net: IpNet, at_home: bool) -> Diagnostic {
    let what = format!("{owner} and {node} have the same address {}", net.addr());
    if at_home {
        Diagnostic::warning("W-INV-ADDR-PRIVATE", what)
            .fix("nothing if they stand in different homes; in one home, give each its own")
    } else {
        Diagnostic::error("E-INV-ADDR-DUP", what).fix("give each node addresses of its own")
    }
}

fn is_private(net: IpNet) -> bool {
    matches!(net.addr(), IpAddr::V4(address) if address.is_private())
}

/// Whether two nodes have addresses in one network that there is only once in the world: they are in one home.
fn share_a_network(one: &[IpNet], other: &[IpNet]) -> bool {
    one.iter()
        .filter(|net| !is_private(**net))
        .any(|net| other.iter().any(|other| other.trunc() == net.trunc()))
}

/// Both keys, of the right form.
fn keys(
    variables: &BTreeMap<&str, &Variable>,
    found: &mut Vec<Diagnostic>,
) -> Option<(Zeroizing<String>, Zeroizing<String>)> {
    let (overlay, cluster) = (variables.get(OVERLAY_KEY)?, variables.get(CLUSTER_KEY)?);
    let mut refuse = |error: KeyError, variable: &Variable| {
        let text = error.to_string();
        let (what, fix) = text
            .rsplit_once("; ")
            .unwrap_or((&text, "make another one"));
        found.push(
            Diagnostic::error(error.code(), what)
                .at(variable.span.clone())
                .fix(fix),
        );
    };
    let overlay_text = overlay.text().unwrap_or_default();
    let cluster_text = cluster.text().unwrap_or_default();
    let good_overlay = overlay_text
        .parse::<OverlayKey>()
        .map_err(|error| refuse(error, overlay))
        .is_ok();
    let good_cluster = cluster_text
        .parse::<ClusterKey>()
        .map_err(|error| refuse(error, cluster))
        .is_ok();
    if !good_overlay || !good_cluster {
        return None;
    }
    if overlay_text == cluster_text {
        let same = Diagnostic::error(
            "E-KEY-SAME",
            "the overlay key and the cluster key are the same",
        );
        found.push(
            same.at(cluster.span.clone())
                .fix("make each by itself: `hepto-node keys generate cluster`"),
        );
        return None;
    }
    Some((
        Zeroizing::new(overlay_text.to_owned()),
        Zeroizing::new(cluster_text.to_owned()),
    ))
}

/// The cluster's name, and whether it was made here: an inventory of the guide has none, so it gets
/// `c-` and eight characters of a hash of the overlay key, the same at every import.
fn cluster_name(variables: &BTreeMap<&str, &Variable>, overlay: &str) -> (String, bool) {
    const BASE32: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    if let Some(name) = variables.get("cluster_name").and_then(|name| name.text()) {
        return (name.to_owned(), false);
    }
    let hash = Blake2s256::new()
        .chain_update(b"hepto v1 cluster name\0")
        .chain_update(overlay)
        .finalize();
    let letters = hash
        .iter()
        .take(8)
        .map(|byte| char::from(BASE32[usize::from(byte & 31)]));
    (format!("c-{}", letters.collect::<String>()), true)
}
