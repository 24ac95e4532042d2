//! The other nodes.

use super::{Shown, counter, gauge, number, truth};
use crate::status::PeerStatus;

pub(super) fn shown(peers: &[PeerStatus]) -> Vec<Shown> {
    let each = |value: fn(&PeerStatus) -> Option<f64>| {
        let known = peers
            .iter()
            .filter_map(|peer| Some((vec![peer.name.clone()], value(peer)?)));
        known.collect()
    };
    vec![
        (
            gauge(
                "hepto_peer_session",
                &["peer"],
                "Whether there is a live session with this node.",
            ),
            each(|peer| Some(truth(peer.session))),
        ),
        (
            gauge(
                "hepto_peer_gossip_alive",
                &["peer"],
                "Whether gossip thinks this node alive.",
            ),
            each(|peer| Some(truth(peer.gossip == "alive"))),
        ),
        (
            gauge(
                "hepto_peer_handshake_age_seconds",
                &["peer"],
                "Time since the last handshake; absent before the first.",
            ),
            each(|peer| peer.handshake_age_s.map(number)),
        ),
        (
            gauge(
                "hepto_peer_rtt_seconds",
                &["peer"],
                "Round trip of a small echo through the tunnel, smoothed; absent before the first answer.",
            ),
            each(|peer| peer.rtt_ms.map(|rtt| rtt / 1e3)),
        ),
        (
            gauge(
                "hepto_peer_loss_ratio",
                &["peer"],
                "How many of the last thirty echoes were not answered, 0 to 1.",
            ),
            each(|peer| peer.loss_percent.map(|loss| loss / 100.0)),
        ),
        (
            gauge(
                "hepto_peer_mtu_bytes",
                &["peer"],
                "The MTU of its tunnel, as it announces it.",
            ),
            each(|peer| Some(f64::from(peer.mtu))),
        ),
        (
            counter(
                "hepto_peer_received_bytes",
                &["peer"],
                "Received from this node inside the tunnel.",
            ),
            each(|peer| Some(number(peer.rx_bytes))),
        ),
        (
            counter(
                "hepto_peer_sent_bytes",
                &["peer"],
                "Sent to this node inside the tunnel.",
            ),
            each(|peer| Some(number(peer.tx_bytes))),
        ),
    ]
}
