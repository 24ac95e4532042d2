//! The configuration as it is understood: defaults filled in, secrets named by their files alone.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::file::AUTO;
use super::{Anchor, Config, FirewallMode, Gateway, Mode, OpenPort, Protocol, quantity};
use crate::k3s::acquire::{Archive, Source};

/// What `config show` prints. The sections are a config file that means the same.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Shown {
    /// The sections as they would be written.
    #[serde(flatten)]
    sections: Sections,
    /// What follows from them.
    derived: Derived,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Sections {
    node: Node,
    network: Network,
    cluster: Cluster,
    mesh: Mesh,
    snapshot: Snapshot,
    k3s: K3s,
    limits: Limits,
    metrics: Metrics,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Node {
    name: String,
    storage: PathBuf,
    data: Vec<PathBuf>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Network {
    interface: String,
    mode: &'static str,
    addresses: Vec<String>,
    gateways: Vec<GatewayShown>,
    dns: Vec<IpAddr>,
    mtu: u16,
    open: Vec<String>,
    firewall: &'static str,
    tune_host: bool,
    host_link: bool,
}

/// As short as it may be written.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
enum GatewayShown {
    Plain(IpAddr),
    Onlink { via: IpAddr, onlink: bool },
}

#[derive(Debug, Serialize, JsonSchema)]
struct Cluster {
    name: String,
    master: String,
    anchors: Vec<String>,
    overlay_key_file: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster_key_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent_key_file: Option<PathBuf>,
    ula: String,
    pod_cidrs: Vec<String>,
    service_cidrs: Vec<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Mesh {
    port: u16,
    ipv4: String,
    addressing: &'static str,
    endpoints: Vec<SocketAddr>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Snapshot {
    every: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
    keep: usize,
    space: String,
    agents: usize,
    rate: String,
}

#[derive(Debug, Serialize, JsonSchema)]
struct K3s {
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    binary: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    airgap_images: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    drain: Option<String>,
    upgrade_timeout: Option<String>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Limits {
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pids: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth: Option<BandwidthShown>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct Metrics {
    #[serde(skip_serializing_if = "Option::is_none")]
    listen: Option<SocketAddr>,
}

#[derive(Debug, Serialize, JsonSchema)]
struct BandwidthShown {
    #[serde(skip_serializing_if = "Option::is_none")]
    up: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    down: Option<String>,
}

/// What follows from the file, for the reader.
#[derive(Debug, Serialize, JsonSchema)]
struct Derived {
    /// `master`, `agent`, or `mesh` without k3s.
    role: &'static str,
    /// The MTU of `hepto0`, bytes.
    tunnel_mtu: u16,
    /// The node's addresses in the overlay, unless another node has its IPv4 one already.
    overlay_addresses: [IpAddr; 2],
    namespace: String,
    directory: PathBuf,
    run_directory: PathBuf,
}

impl Shown {
    /// What a checked configuration says.
    pub fn new(config: &Config) -> Shown {
        let (name, prefixes) = (&config.node.name, &config.cluster.prefixes);
        Shown {
            sections: Sections {
                node: Node {
                    name: name.to_string(),
                    storage: config.node.storage.clone(),
                    data: config.node.data.clone(),
                },
                network: network(&config.network),
                cluster: cluster(&config.cluster),
                mesh: Mesh {
                    port: config.mesh.port,
                    ipv4: prefixes.overlay_net_v4().to_string(),
                    addressing: prefixes.addressing().name(),
                    endpoints: config.mesh.endpoints.clone(),
                },
                snapshot: snapshot(&config.snapshot),
                k3s: k3s(config.k3s.as_ref()),
                limits: limits(&config.limits),
                metrics: Metrics {
                    listen: config.metrics.listen,
                },
            },
            derived: Derived {
                role: match (&config.k3s, config.is_master()) {
                    (None, _) => "mesh",
                    (Some(_), true) => "master",
                    (Some(_), false) => "agent",
                },
                tunnel_mtu: config.tunnel_mtu(),
                overlay_addresses: [
                    prefixes.overlay_v6(name, 0).into(),
                    prefixes.overlay_v4(name, 0).into(),
                ],
                namespace: config.namespace(),
                directory: config.node_directory(),
                run_directory: config.run_directory(),
            },
        }
    }

    /// A config file that means the same; what follows from it stands in comments.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        let mut text = toml::to_string(&self.sections)?;
        text.push_str("\n# What follows from it:\n");
        for line in toml::to_string(&self.derived)?.lines() {
            text.push_str(&format!("# {line}\n"));
        }
        Ok(text)
    }
}

fn network(network: &super::Network) -> Network {
    Network {
        interface: network.interface.clone(),
        mode: match network.mode {
            Mode::Ipvlan => "ipvlan",
            Mode::Macvlan => "macvlan",
        },
        addresses: network
            .auto
            .then(|| AUTO.to_owned())
            .into_iter()
            .chain(network.addresses.iter().map(ToString::to_string))
            .collect(),
        gateways: network.gateways.iter().map(gateway).collect(),
        dns: network.dns.clone(),
        mtu: network.mtu,
        open: network.open.iter().map(ToString::to_string).collect(),
        firewall: match network.firewall {
            FirewallMode::On => "on",
            FirewallMode::None => "none",
        },
        tune_host: network.tune_host,
        host_link: network.host_link,
    }
}

fn gateway(gateway: &Gateway) -> GatewayShown {
    match *gateway {
        Gateway { via, onlink: false } => GatewayShown::Plain(via),
        Gateway { via, onlink } => GatewayShown::Onlink { via, onlink },
    }
}

fn cluster(cluster: &super::Cluster) -> Cluster {
    Cluster {
        name: cluster.name.to_string(),
        master: cluster.master.to_string(),
        anchors: cluster.anchors.iter().map(ToString::to_string).collect(),
        overlay_key_file: cluster.key_files.overlay.clone(),
        cluster_key_file: cluster.key_files.cluster.clone(),
        agent_key_file: cluster.key_files.agent.clone(),
        ula: cluster.prefixes.ula().to_string(),
        pod_cidrs: cluster.pod_cidrs.iter().map(ToString::to_string).collect(),
        service_cidrs: cluster
            .service_cidrs
            .iter()
            .map(ToString::to_string)
            .collect(),
    }
}

fn snapshot(snapshot: &super::Snapshot) -> Snapshot {
    let every = snapshot.every.map(humantime::format_duration);
    Snapshot {
        every: every.map_or("never".into(), |every| every.to_string()),
        recipient: snapshot.recipient.as_ref().map(ToString::to_string),
        keep: snapshot.keep,
        space: size(snapshot.space),
        agents: snapshot.agents,
        rate: size(snapshot.rate),
    }
}

/// Bytes in the largest unit that leaves no rest.
fn size(bytes: u64) -> String {
    let units = [(30, "G"), (20, "M"), (10, "K")];
    let whole = |(shift, _): &(u32, &str)| bytes > 0 && bytes.is_multiple_of(1 << shift);
    match units.into_iter().find(whole) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

fn k3s(k3s: Option<&super::K3s>) -> K3s {
    let source = k3s.map(|k3s| &k3s.source);
    let release = match source {
        Some(Source::Release(release)) => Some(release),
        _ => None,
    };
    K3s {
        enabled: k3s.is_some(),
        binary: match source {
            Some(Source::Binary(path)) => Some(path.clone()),
            _ => None,
        },
        version: release.map(|release| release.version.to_string()),
        sha256: release.and_then(|release| Some(release.pin?.to_string())),
        mirror: release.map(|release| release.mirror.clone()),
        ca_file: release.and_then(|release| release.authority.clone()),
        airgap_images: k3s
            .and_then(|k3s| k3s.images.as_ref())
            .map(|images| match images {
                Archive::File(path) => path.display().to_string(),
                Archive::Release => "release".into(),
            }),
        args: k3s.map(|k3s| k3s.args.clone()).unwrap_or_default(),
        drain: k3s.map(|k3s| format!("{}s", k3s.drain.as_secs())),
        upgrade_timeout: k3s.map(|k3s| format!("{}s", k3s.upgrade_timeout.as_secs())),
    }
}

fn limits(limits: &super::Limits) -> Limits {
    let rate = |bits: u64| quantity::written(bits, quantity::DECIMAL);
    let limited = limits.up.is_some() || limits.down.is_some();
    Limits {
        memory: limits
            .memory
            .map(|bytes| quantity::written(bytes, quantity::BINARY)),
        cpu: limits
            .cpu
            .map(|thousandths| f64::from(thousandths) / 1000.0),
        pids: limits.pids,
        bandwidth: limited.then(|| BandwidthShown {
            up: limits.up.map(rate),
            down: limits.down.map(rate),
        }),
    }
}

impl std::fmt::Display for OpenPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{protocol}/{}", self.port)
    }
}

impl std::fmt::Display for Anchor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => write!(f, "[{address}]:{}", self.port),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}
