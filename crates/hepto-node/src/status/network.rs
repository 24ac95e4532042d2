//! The namespace and its uplink.

use std::net::IpAddr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The namespace and its uplink.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct NetworkStatus {
    /// The namespace's name under `/run/netns`.
    pub namespace: String,
    /// The link to the host's interface.
    pub uplink: UplinkStatus,
    /// The configured addresses, and those that routers gave.
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpNet>,
    /// The firewall: `on` or `off`.
    pub firewall: String,
    /// With `network.tune_host`, how the host's interface stands with `rx-udp-gro-forwarding`: `on` until the last node
    /// stops, `owner` (it was on already), `off`, `absent` or `refused`.
    #[serde(default)]
    pub tune_host: Option<String>,
    /// With `network.host_link`, the link between host and node; absent while it is not there.
    #[serde(default)]
    pub host_link: Option<HostLinkStatus>,
}

/// The link between host and node.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct HostLinkStatus {
    /// The name of the host's end; the node's is `host0`.
    pub link: String,
    /// The host's addresses that the node reaches by it.
    pub host: Vec<IpAddr>,
    /// The node's addresses that the host reaches by it.
    pub node: Vec<IpAddr>,
}

/// The link to the host's interface.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct UplinkStatus {
    /// `ipvlan` or `macvlan`.
    pub kind: String,
    /// The host's interface.
    pub parent: String,
    /// `up`, `down` or `waiting` (for the interface to appear).
    pub state: String,
}
