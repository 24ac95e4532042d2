//! The mesh.

use std::collections::BTreeMap;
use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The mesh.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct MeshStatus {
    /// This node's overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// The public UDP port.
    pub port: u16,
    /// The tunnel's MTU, bytes.
    pub mtu: u16,
    /// What the tunnel leaves to the kernel: `tso`, `uso`, `udp_segment`, `udp_gro`; what this kernel lacks is absent.
    pub offload: Vec<String>,
    /// Nodes known, this one included.
    pub members: usize,
    /// Nodes with a live session, this one included.
    pub reachable: usize,
    /// The anchors, and whether each answers.
    pub anchors: Vec<AnchorStatus>,
    /// Datagrams and packets that were refused, by reason, since the start; reasons with none are absent.
    pub refused: BTreeMap<String, u64>,
}

/// One anchor.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct AnchorStatus {
    /// As configured.
    pub anchor: String,
    /// Whether it answered lately; `null` for this node itself.
    pub answers: Option<bool>,
    /// The same in words, which also tell one that was not asked yet from one that is silent.
    #[serde(default)]
    pub state: String,
}
