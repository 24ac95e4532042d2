//! One TOML file, parsed and checked once; plain structs from here on.
//!
//! `file` is what is written, `read` finds what is wrong with its form, `check` what is wrong with its
//! meaning, `diagnostic` shows both. Nothing outside this module sees a value that was not checked.

mod check;
mod diagnostic;
mod difference;
mod file;
pub mod quantity;
mod read;
mod shared;
mod show;

use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hepto_mesh::address::Prefixes;
use hepto_mesh::key::{AgentKey, ClusterKey, OverlayKey};
use hepto_mesh::name::{ClusterName, NodeName};
use ipnet::IpNet;
use rustix::fs::OFlags;

use crate::k3s::acquire;
use crate::snapshot::age::Recipient;

pub use check::form;
pub use diagnostic::{Diagnostic, Report, Severity, Source};
pub use difference::{Comparison, Side};
pub use file::File;
pub use read::nearest;
pub use shared::Shared;
pub use show::Shown;

/// What `config default` prints: every key with its meaning. Placeholders apart, it is a valid file.
pub const DEFAULT: &str = include_str!("default.toml");

/// The gossip's port inside the overlay, TCP and UDP; fixed, since all nodes must agree on it.
pub const GOSSIP_PORT: u16 = 7947;

/// Where agents take the master's snapshots, inside the overlay, TCP; fixed for the same reason.
pub const SNAPSHOT_PORT: u16 = 7948;

/// What the tunnel adds to a packet: IPv6 40, UDP 8, WireGuard 32 bytes.
const TUNNEL_OVERHEAD: u16 = 80;

/// The smallest MTU that IPv6 allows (RFC 8200 §5), bytes.
const IPV6_MINIMUM_MTU: u16 = 1280;

/// A checked configuration.
#[derive(Debug)]
pub struct Config {
    /// The file that it came from.
    pub path: PathBuf,
    /// `[node]`.
    pub node: Node,
    /// `[network]`.
    pub network: Network,
    /// `[cluster]`.
    pub cluster: Cluster,
    /// `[mesh]`.
    pub mesh: Mesh,
    /// `[snapshot]`.
    pub snapshot: Snapshot,
    /// `[k3s]`; `None` with `enabled = false`: mesh only, no sandbox.
    pub k3s: Option<K3s>,
    /// `[limits]`.
    pub limits: Limits,
    /// `[metrics]`.
    pub metrics: Metrics,
}

/// Who this is, and where its data lies.
#[derive(Debug)]
pub struct Node {
    /// The overlay's and Kubernetes' name.
    pub name: NodeName,
    /// The existing, writable directory that holds `<storage>/<name>`.
    pub storage: PathBuf,
    /// Existing directories offered to workloads at the same path.
    pub data: Vec<PathBuf>,
}

/// How the node stands in its home's network.
#[derive(Debug)]
pub struct Network {
    /// The host's interface; it may be absent yet.
    pub interface: String,
    /// How the uplink is made from it.
    pub mode: Mode,
    /// At least one, or `auto`; none is the host's own, a duplicate, or of no use.
    pub addresses: Vec<IpNet>,
    /// Whether IPv6 addresses and routers come from router advertisements, beside those.
    pub auto: bool,
    /// At most one a family, each of a family that has an address.
    pub gateways: Vec<Gateway>,
    /// Resolvers; empty: the host's.
    pub dns: Vec<IpAddr>,
    /// The smallest path MTU between two nodes, 1280 to 9216 bytes.
    pub mtu: u16,
    /// Ports open to the home's network beside the mesh's.
    pub open: Vec<OpenPort>,
    /// Whether the node filters what comes in.
    pub firewall: FirewallMode,
    /// Whether the host's interface may be told to forward joined UDP datagrams while the node runs.
    pub tune_host: bool,
    /// Whether there is a link between host and node, by which each reaches the other's addresses.
    pub host_link: bool,
}

/// How the uplink is made from the host's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Shares the interface's MAC: works on Wi-Fi.
    Ipvlan,
    /// Has a MAC of its own: what MetalLB's layer 2 needs.
    Macvlan,
}

/// A default gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gateway {
    /// Its address.
    pub via: IpAddr,
    /// Whether it is reached directly though it lies outside every prefix.
    pub onlink: bool,
}

/// A port open to the home's network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OpenPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port, not 0.
    pub port: u16,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Whether the node filters what comes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirewallMode {
    /// Table `inet hepto` in the node's namespace.
    On,
    /// No filter; gossip stays off.
    None,
}

/// What all nodes have in common.
#[derive(Debug)]
pub struct Cluster {
    /// The cluster's name.
    pub name: ClusterName,
    /// The node that runs the k3s server.
    pub master: NodeName,
    /// Nodes with stable addresses; this node may be among them.
    pub anchors: Vec<Anchor>,
    /// Secures the mesh.
    pub overlay_key: OverlayKey,
    /// The overlay's prefixes, from which every node's address follows; pods and services are inside.
    pub prefixes: Prefixes,
    /// The pods' prefixes: IPv4, then IPv6.
    pub pod_cidrs: Vec<IpNet>,
    /// The services' prefixes: IPv4, then IPv6.
    pub service_cidrs: Vec<IpNet>,
    /// The files that hold keys: to be hidden from workloads with their folders.
    pub key_files: KeyFiles,
}

/// The files that hold keys, as the config names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFiles {
    /// The overlay key's.
    pub overlay: PathBuf,
    /// The cluster key's.
    pub cluster: Option<PathBuf>,
    /// The agents' key's.
    pub agent: Option<PathBuf>,
}

impl KeyFiles {
    /// All of them.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        let all = [
            Some(&self.overlay),
            self.cluster.as_ref(),
            self.agent.as_ref(),
        ];
        all.into_iter().flatten().map(PathBuf::as_path)
    }
}

/// Where another node can always be found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// A DNS name or an address without brackets.
    pub host: String,
    /// Its mesh port, not 0.
    pub port: u16,
}

/// The overlay network.
#[derive(Debug)]
pub struct Mesh {
    /// The one public UDP port.
    pub port: u16,
    /// Addresses under which the others reach this node through port forwards.
    pub endpoints: Vec<SocketAddr>,
}

/// Snapshots of the master: made there, kept there and on agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// How often the master makes one; `None`: only when asked.
    pub every: Option<Duration>,
    /// The operator's public key; without it none is made.
    pub recipient: Option<Recipient>,
    /// How many this node keeps on its disk.
    pub keep: usize,
    /// How many bytes those may have in all.
    pub space: u64,
    /// On how many agents the master keeps a copy of the latest.
    pub agents: usize,
    /// How many bytes a second the master sends to them.
    pub rate: u64,
}

/// What runs in the node.
#[derive(Debug)]
pub struct K3s {
    /// Where k3s comes from.
    pub source: acquire::Source,
    /// Images that are there before pods start.
    pub images: Option<acquire::Archive>,
    /// What lets k3s join: the cluster key on the master, the agents' key elsewhere.
    pub secret: ClusterSecret,
    /// More arguments for k3s, as given.
    pub args: Vec<String>,
    /// The longest time to drain the node at a stop.
    pub drain: Duration,
    /// How long another k3s may take to be ready before the earlier one is started again.
    pub upgrade_timeout: Duration,
}

/// What the node may use of its host; `None` each: as much as there is.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Memory of init, k3s and pods, bytes.
    pub memory: Option<u64>,
    /// Processors of init, k3s and pods, thousandths of one.
    pub cpu: Option<u32>,
    /// Processes and threads of init, k3s and pods.
    pub pids: Option<u32>,
    /// What the node sends through its uplink, bits a second.
    pub up: Option<u64>,
    /// What the node receives through its uplink, bits a second.
    pub down: Option<u64>,
}

/// Where metrics are offered beside the socket in the run directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// An address of the host and a TCP port, not 0.
    pub listen: Option<SocketAddr>,
}

/// The k3s token, by role.
#[derive(Debug)]
pub enum ClusterSecret {
    /// The cluster key itself: the agents' key follows from it.
    Master(ClusterKey),
    /// The agents' key alone.
    Agent(AgentKey),
}

impl Config {
    /// Whether this node runs the k3s server.
    pub fn is_master(&self) -> bool {
        self.node.name == self.cluster.master
    }

    /// The MTU of `hepto0`, bytes: never below what IPv6 needs, at the price of fragments outside.
    pub fn tunnel_mtu(&self) -> u16 {
        tunnel_mtu(self.network.mtu)
    }

    /// `CLUSTER.NODE`: what tells this node from every other on the machine.
    pub fn instance(&self) -> String {
        format!("{}.{}", self.cluster.name, self.node.name)
    }

    /// The network namespace's name below `/run/netns`.
    pub fn namespace(&self) -> String {
        format!("hepto-{}", self.instance())
    }

    /// Where sockets and the pid live while the node runs.
    pub fn run_directory(&self) -> PathBuf {
        Path::new("/run/hepto").join(self.instance())
    }

    /// `<storage>/<name>`: everything that outlives a run.
    pub fn node_directory(&self) -> PathBuf {
        self.node.storage.join(self.node.name.to_string())
    }
}

/// The MTU of `hepto0` by `network.mtu`, bytes: never below what IPv6 needs.
fn tunnel_mtu(mtu: u16) -> u16 {
    mtu.saturating_sub(TUNNEL_OVERHEAD).max(IPV6_MINIMUM_MTU)
}

/// An address of the host itself and the interface that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddress {
    /// The host's interface.
    pub interface: String,
    /// Its address.
    pub address: IpAddr,
}

/// Reads and checks a config file with all that it names: key files, directories, binary, host addresses.
///
/// Gives the configuration with its warnings, or everything that is wrong at once. Makes nothing.
pub fn read(path: &Path) -> Result<(Config, Report), Report> {
    let text = text_of(path)?;
    let host = host_addresses().map_err(|error| {
        let what = format!("cannot list this machine's addresses: {error}");
        alone(path, Diagnostic::error("E-NET-ADDR-HOST", what))
    })?;
    check::check(path, &text, &host)
}

/// What a config file shares with its cluster, also of a node of another machine; its keys as far as they are here.
///
/// # Errors
/// Everything that is wrong in its form.
pub fn shared(path: &Path) -> Result<Shared, Report> {
    check::shared(path, &text_of(path)?)
}

fn text_of(path: &Path) -> Result<String, Report> {
    read_text(path).map_err(|error| {
        let what = format!("cannot read {}: {error}", path.display());
        let found = Diagnostic::error("E-CONFIG-READ", what);
        alone(
            path,
            found.fix("`hepto-node config default` prints a file to start from"),
        )
    })
}

/// All that can be said of a file that could not be read.
fn alone(path: &Path, found: Diagnostic) -> Report {
    Report {
        source: Source {
            path: path.display().to_string(),
            text: String::new(),
        },
        diagnostics: vec![found],
    }
}

/// The overlay and the cluster key's files, as a config file names them that may be wrong otherwise.
///
/// # Errors
/// A sentence: the file cannot be read.
pub fn key_files(path: &Path) -> Result<(Option<PathBuf>, Option<PathBuf>), String> {
    let unreadable =
        |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let text = read_text(path).map_err(|error| unreadable(&error))?;
    let table: toml::Table = text.parse().map_err(|error| unreadable(&error))?;
    let named = |key: &str| {
        let file = table.get("cluster")?.get(key)?.as_str()?;
        Some(PathBuf::from(file))
    };
    Ok((named("overlay_key_file"), named("cluster_key_file")))
}

/// No config file is longer; what is, is not a config file.
const LONGEST_FILE: u64 = 1 << 20;

fn read_text(path: &Path) -> io::Result<String> {
    let refuse = |what: String| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    // A pipe without a writer would block the open.
    let file = fs::OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(path)?;
    if !file.metadata()?.is_file() {
        return refuse("it is not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(LONGEST_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST_FILE {
        return refuse("it is longer than 1 MiB".to_owned());
    }
    String::from_utf8(bytes).or_else(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        refuse(format!("line {line} is not UTF-8 text"))
    })
}

/// Every address that this machine's interfaces have in the host's namespace.
pub fn host_addresses() -> io::Result<Vec<HostAddress>> {
    let found = nix::ifaddrs::getifaddrs()?.filter_map(|entry| {
        let storage = entry.address?;
        let address = match (storage.as_sockaddr_in(), storage.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::V4(v4.ip()),
            (_, Some(v6)) => IpAddr::V6(v6.ip()),
            _ => return None,
        };
        Some(HostAddress {
            interface: entry.interface_name,
            address,
        })
    });
    Ok(found.collect())
}

/// How a key is written, from the default file: `network.mtu` gives `mtu = 1400`.
pub fn example(path: &str) -> Option<&'static str> {
    let (section, key) = path.split_once('.')?;
    let header = format!("[{section}]");
    let body = DEFAULT.lines().skip_while(|line| *line != header).skip(1);
    let mut body = body.take_while(|line| !line.starts_with('['));
    body.find_map(|line| {
        let line = line.strip_prefix('#').unwrap_or(line);
        let (name, _) = line.split_once(" = ")?;
        (name == key).then_some(line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(path: &Path) -> String {
        let report = read(path).expect_err("refused");
        assert_eq!(report.diagnostics.len(), 1);
        report.render(false)
    }

    #[test]
    fn what_is_no_config_file_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("node.toml");
        assert!(
            refused(&path).contains("No such file"),
            "{}",
            refused(&path)
        );
        assert!(refused(folder.path()).contains("it is not a file"));
        fs::write(&path, b"[node]\nname = \"\xff\"\n").expect("a file");
        assert!(refused(&path).contains("line 2 is not UTF-8 text"));
        fs::write(&path, vec![b'#'; (1 << 20) + 1]).expect("a file");
        assert!(refused(&path).contains("longer than 1 MiB"));
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
        assert!(
            refused(&pipe).contains("it is not a file"),
            "and it does not hang"
        );
    }

    #[test]
    fn the_hosts_addresses_are_found() {
        let found = host_addresses().expect("addresses");
        let loopback = HostAddress {
            interface: "lo".into(),
            address: IpAddr::from([127, 0, 0, 1]),
        };
        assert!(found.contains(&loopback), "{found:?}");
    }

    #[test]
    fn examples_come_from_the_default_file() {
        assert_eq!(example("network.mtu"), Some("mtu = 1400"));
        assert_eq!(example("mesh.port"), Some("port = 51820"));
        assert_eq!(example("node.port"), None);
    }
}
