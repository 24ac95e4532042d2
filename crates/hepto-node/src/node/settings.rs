//! From the configuration to what each part is told: plain data in, plain data out.

use std::net::IpAddr;
use std::path::PathBuf;

use hepto_mesh::address::Prefixes;
use hepto_mesh::core::Anchor;
use hepto_net::{
    Bandwidth, Firewall, Gateway, OpenPort, Overlay, Proto, Rates, Settings, Uplink, UplinkKind,
};
use ipnet::IpNet;

use crate::config::{
    Config, FirewallMode, GOSSIP_PORT, HostAddress, Mode, Protocol, SNAPSHOT_PORT, host_addresses,
};
use crate::fault::Fault;
use crate::sandbox;
use crate::snapshot::restore;

/// The name of the overlay's link in every node's namespace.
pub const OVERLAY_LINK: &str = "hepto0";

/// What the namespace is to hold, with the overlay addresses of this `attempt`.
pub fn network(config: &Config, attempt: u8) -> Settings {
    let (cluster, node) = (config.cluster.name.as_str(), config.node.name.as_str());
    let kind = match config.network.mode {
        Mode::Ipvlan => UplinkKind::Ipvlan,
        Mode::Macvlan => UplinkKind::Macvlan,
    };
    Settings {
        namespace: config.namespace(),
        marker: hepto_net::address::marker(cluster, node),
        uplink: Uplink {
            parent: config.network.interface.clone(),
            kind,
            mac: (kind == UplinkKind::Macvlan).then(|| hepto_net::address::mac_for(cluster, node)),
            mtu: Some(config.network.mtu.into()),
            addresses: config.network.addresses.clone(),
            auto: config.network.auto,
            gateways: config
                .network
                .gateways
                .iter()
                .map(|gateway| Gateway {
                    via: gateway.via,
                    onlink: gateway.onlink,
                })
                .collect(),
            tune: config.network.tune_host,
        },
        overlay: Overlay {
            link: OVERLAY_LINK.into(),
            mtu: config.tunnel_mtu().into(),
            addresses: overlay_networks(config, attempt),
            own: own_networks(config),
        },
        host_link: config.network.host_link,
        firewall: match config.network.firewall {
            FirewallMode::None => Firewall::Off,
            FirewallMode::On => Firewall::On {
                mesh_port: config.mesh.port,
                gossip_port: GOSSIP_PORT,
                snapshot_port: SNAPSHOT_PORT,
                open: config
                    .network
                    .open
                    .iter()
                    .map(|open| OpenPort {
                        proto: protocol(open.protocol),
                        port: open.port,
                    })
                    .collect(),
            },
        },
        bandwidth: Bandwidth {
            rates: Rates {
                up: config.limits.up,
                down: config.limits.down,
            },
            mesh_port: config.mesh.port,
        },
        filter_bridges: config.k3s.is_some(),
    }
}

fn protocol(protocol: Protocol) -> Proto {
    match protocol {
        Protocol::Tcp => Proto::Tcp,
        Protocol::Udp => Proto::Udp,
    }
}

/// This node's overlay addresses: IPv4, then IPv6, as k3s wants them.
pub fn overlay_addresses(config: &Config, attempt: u8) -> [IpAddr; 2] {
    let prefixes = &config.cluster.prefixes;
    let node = &config.node.name;
    [
        prefixes.overlay_v4(node, attempt).into(),
        prefixes.overlay_v6(node, attempt).into(),
    ]
}

/// The same with the length of the whole overlay, as the link carries them: all nodes are on-link there.
pub fn overlay_networks(config: &Config, attempt: u8) -> Vec<IpNet> {
    let prefixes = &config.cluster.prefixes;
    let length = |address: &IpAddr| match address {
        IpAddr::V4(_) => prefixes.overlay_net_v4().prefix_len(),
        IpAddr::V6(_) => prefixes.overlay_net_v6().prefix_len(),
    };
    overlay_addresses(config, attempt)
        .iter()
        .map(|address| {
            IpNet::new(*address, length(address)).expect("a prefix's own length fits its family")
        })
        .collect()
}

/// Everything that belongs inside the cluster: never seen on the uplink.
pub fn own_networks(config: &Config) -> Vec<IpNet> {
    let prefixes: &Prefixes = &config.cluster.prefixes;
    let mut own: Vec<IpNet> = vec![
        prefixes.overlay_net_v4().into(),
        prefixes.overlay_net_v6().into(),
    ];
    own.extend(
        config
            .cluster
            .pod_cidrs
            .iter()
            .chain(&config.cluster.service_cidrs),
    );
    own
}

/// The node's resolv.conf: its own resolvers, else those of the host that it can reach.
///
/// # Errors
/// When none is left.
pub fn resolv_conf(config: &Config) -> Result<String, sandbox::Error> {
    let own = own_addresses(config, &host_addresses().unwrap_or_default());
    sandbox::resolv_conf(&config.network.dns, &host_resolvers(), &own)
}

/// The host's resolvers that the node has not got, and would reach by a link to its host.
pub fn linkable_resolvers(config: &Config) -> Vec<IpAddr> {
    if !config.network.dns.is_empty() {
        return Vec::new();
    }
    let own = own_addresses(config, &host_addresses().unwrap_or_default());
    let named = sandbox::nameservers(&host_resolvers()).into_iter();
    named
        .filter(|address| own.linkable.contains(&address.to_canonical()))
        .collect()
}

fn host_resolvers() -> String {
    std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// The host's addresses that the node does not reach. A link between the two leads to those of the node's interface, of a
/// family that the node has.
fn own_addresses(config: &Config, host: &[HostAddress]) -> sandbox::HostAddresses {
    let network = &config.network;
    let ipv6 = hepto_net::gives_ipv6();
    let leads = |host: &&HostAddress| {
        let is_v4 = host.address.is_ipv4();
        let mut own = network.addresses.iter().map(|net| net.addr());
        let known = own.any(|own| own.is_ipv4() == is_v4) || (network.auto && !is_v4);
        host.interface == network.interface && known && (is_v4 || ipv6)
    };
    let (near, far): (Vec<_>, Vec<_>) = host.iter().partition(leads);
    let addresses = |hosts: Vec<&HostAddress>| hosts.iter().map(|host| host.address).collect();
    sandbox::HostAddresses {
        beyond: addresses(far),
        linkable: match network.host_link {
            true => Vec::new(),
            false => addresses(near),
        },
    }
}

/// Where the mesh keeps its book, pins and counters.
pub fn mesh_directory(config: &Config) -> PathBuf {
    config.node_directory().join("mesh")
}

/// What the mesh is told.
///
/// # Errors
/// When it cannot be read whether this node was restored.
pub fn mesh(config: &Config) -> Result<hepto_mesh::driver::Settings, Fault> {
    Ok(hepto_mesh::driver::Settings {
        cluster: config.cluster.name.clone(),
        node: config.node.name.clone(),
        master: config.cluster.master.clone(),
        key: config.cluster.overlay_key.clone(),
        port: config.mesh.port,
        prefixes: config.cluster.prefixes.clone(),
        mtu: config.tunnel_mtu(),
        anchors: anchors(config),
        endpoints: config.mesh.endpoints.clone(),
        restored: restore::moment(config)?,
        directory: mesh_directory(config),
        // Without the firewall anyone on the LAN could reach gossip's port.
        gossip: config.network.firewall == FirewallMode::On,
    })
}

/// The anchors, as the mesh names them.
pub fn anchors(config: &Config) -> Vec<Anchor> {
    config
        .cluster
        .anchors
        .iter()
        .map(|anchor| Anchor {
            host: anchor.host.clone(),
            port: anchor.port,
        })
        .collect()
}
