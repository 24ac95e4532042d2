//! The other nodes, as this one reaches them.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{bits, bytes, duration, join, table};

/// One other node, as this one reaches it: an element of `hepto-node peers --json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its WireGuard public key, base64.
    pub public_key: String,
    /// Where its packets come from.
    pub endpoint: Option<SocketAddr>,
    /// Where it says that it can be reached.
    #[serde(default)]
    pub endpoints: Vec<SocketAddr>,
    /// Seconds since the last handshake.
    pub handshake_age_s: Option<u64>,
    /// Whether there is a live session.
    pub session: bool,
    /// The smoothed round trip of a small echo through the tunnel, milliseconds; `null` before the first answer.
    #[serde(default)]
    pub rtt_ms: Option<f64>,
    /// How many of the last thirty echoes, one each ten seconds or more, were not answered, percent.
    #[serde(default)]
    pub loss_percent: Option<f64>,
    /// The MTU of its tunnel as it announces it, bytes.
    #[serde(default)]
    pub mtu: u16,
    /// Bytes received from it inside the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the tunnel.
    pub tx_bytes: u64,
    /// Received from it inside the tunnel, bits a second over the last seconds.
    #[serde(default)]
    pub rx_bits_s: u64,
    /// Sent to it inside the tunnel, likewise.
    #[serde(default)]
    pub tx_bits_s: u64,
    /// What gossip thinks of it: `alive`, `suspect` or `absent`.
    pub gossip: String,
}

/// The table of `hepto-node peers`.
pub fn peers_text(peers: &[PeerStatus]) -> String {
    let heads = [
        "NODE",
        "SESSION",
        "HANDSHAKE",
        "RTT",
        "LOSS",
        "RECEIVED",
        "SENT",
        "MTU",
        "ENDPOINT",
        "GOSSIP",
        "ADDRESSES",
    ];
    let rows = peers.iter().map(|peer| {
        let carried = |count, rate| format!("{} ({})", bytes(count), bits(rate));
        [
            peer.name.clone(),
            if peer.session { "up" } else { "none" }.into(),
            peer.handshake_age_s
                .map_or("never".into(), |age| format!("{} ago", duration(age))),
            peer.rtt_ms.map_or("?".into(), |rtt| format!("{rtt:.1} ms")),
            peer.loss_percent
                .map_or("?".into(), |loss| format!("{loss:.0} %")),
            carried(peer.rx_bytes, peer.rx_bits_s),
            carried(peer.tx_bytes, peer.tx_bits_s),
            peer.mtu.to_string(),
            peer.endpoint
                .map_or("unknown".into(), |endpoint| endpoint.to_string()),
            peer.gossip.clone(),
            join(&peer.addresses),
        ]
    });
    table(heads, rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample() -> PeerStatus {
        PeerStatus {
            name: "sleepy".into(),
            addresses: vec!["fd00::7".parse().expect("v6")],
            public_key: String::new(),
            endpoint: Some("192.0.2.7:51820".parse().expect("an endpoint")),
            endpoints: Vec::new(),
            handshake_age_s: Some(70),
            session: true,
            rtt_ms: Some(12.345),
            loss_percent: Some(3.3),
            mtu: 1320,
            rx_bytes: 4 << 20,
            tx_bytes: 2,
            rx_bits_s: 1_234_567,
            tx_bits_s: 12,
            gossip: "alive".into(),
        }
    }

    #[test]
    fn a_row_for_each_node() {
        let unmet = PeerStatus {
            name: "bashful".into(),
            endpoint: None,
            handshake_age_s: None,
            session: false,
            rtt_ms: None,
            loss_percent: None,
            gossip: "absent".into(),
            ..sample()
        };
        insta::assert_snapshot!(peers_text(&[sample(), unmet]));
    }
}
