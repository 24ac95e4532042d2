//! A look at a running tunnel from elsewhere, for whoever shows it.

use std::fmt::Write as _;
use std::sync::Weak;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ipnet::IpNet;

use crate::peer::PeerReport;
use crate::protocol::OVERHEAD;
use crate::tunnel::Shared;

/// Looks at a tunnel without keeping it: its socket and interface close when it stops, whoever still looks.
#[derive(Clone)]
pub struct Observer(pub(crate) Weak<Shared>);

/// A tunnel as it is at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// Its UDP port.
    pub port: u16,
    /// The longest silence of ours towards a peer with a session.
    pub keepalive: Duration,
    /// Every peer, with the inner networks that are its own.
    pub peers: Vec<(PeerReport, Vec<IpNet>)>,
}

impl Observer {
    /// The tunnel now; None when it has stopped.
    pub fn look(&self) -> Option<View> {
        let shared = self.0.upgrade()?;
        let now = Instant::now();
        let table = shared.table.load();
        let peers = table.entries().iter();
        Some(View {
            port: shared.socket.port(),
            keepalive: shared.patience.keepalive,
            peers: peers
                .map(|entry| (entry.peer.report(now), entry.allowed_ips.clone()))
                .collect(),
        })
    }
}

impl View {
    /// The answer to `get=1` of WireGuard's cross-platform configuration protocol
    /// (<https://www.wireguard.com/xplatform/>), without private and preshared keys. `now` is the time of day.
    pub fn uapi(&self, now: SystemTime) -> String {
        let mut text = format!("listen_port={}\n", self.port);
        for (peer, networks) in &self.peers {
            self.show(&mut text, peer, networks, now);
        }
        text.push_str("errno=0\n\n");
        text
    }

    fn show(&self, text: &mut String, peer: &PeerReport, networks: &[IpNet], now: SystemTime) {
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            writeln!(text, "{key}={value}").expect("a String takes any write");
        };
        let digits = peer.public_key.iter().map(|byte| format!("{byte:02x}"));
        line("public_key", &digits.collect::<String>());
        line("protocol_version", &1);
        if let Some(endpoint) = peer.endpoint {
            line("endpoint", &endpoint);
        }
        // Zero is never.
        let handshake = peer.last_handshake.and_then(|age| now.checked_sub(age));
        let handshake = handshake.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let handshake = handshake.unwrap_or_default();
        line("last_handshake_time_sec", &handshake.as_secs());
        line("last_handshake_time_nsec", &handshake.subsec_nanos());
        // Other implementations count whole messages.
        let carried = |bytes: u64, packets: u64| bytes + OVERHEAD as u64 * packets;
        line("tx_bytes", &carried(peer.tx_bytes, peer.tx_packets));
        line("rx_bytes", &carried(peer.rx_bytes, peer.rx_packets));
        let keepalive = self.keepalive.as_secs();
        line("persistent_keepalive_interval", &keepalive);
        for network in networks {
            line("allowed_ip", network);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u8) -> PeerReport {
        PeerReport {
            public_key: [number; 32],
            endpoint: None,
            last_handshake: None,
            last_received: None,
            rx_bytes: 0,
            tx_bytes: 0,
            rx_packets: 0,
            tx_packets: 0,
            queued: 0,
            dropped: 0,
            wants_session: false,
            stale_clock: false,
        }
    }

    #[test]
    fn the_protocols_text() {
        let met = PeerReport {
            endpoint: "[2001:db8::2]:51820".parse().ok(),
            last_handshake: Some(Duration::from_millis(1500)),
            rx_bytes: 1000,
            rx_packets: 2,
            tx_bytes: 500,
            tx_packets: 1,
            ..peer(0xab)
        };
        let networks = ["10.44.0.2/32", "fd44::2/128"].map(|net| net.parse().expect("a network"));
        let view = View {
            port: 51820,
            keepalive: Duration::from_secs(25),
            peers: vec![(met, networks.to_vec()), (peer(0x0c), Vec::new())],
        };
        let expected = format!(
            "listen_port=51820\n\
             public_key={}\n\
             protocol_version=1\n\
             endpoint=[2001:db8::2]:51820\n\
             last_handshake_time_sec=98\n\
             last_handshake_time_nsec=500000000\n\
             tx_bytes=532\n\
             rx_bytes=1064\n\
             persistent_keepalive_interval=25\n\
             allowed_ip=10.44.0.2/32\n\
             allowed_ip=fd44::2/128\n\
             public_key={}\n\
             protocol_version=1\n\
             last_handshake_time_sec=0\n\
             last_handshake_time_nsec=0\n\
             tx_bytes=0\n\
             rx_bytes=0\n\
             persistent_keepalive_interval=25\n\
             errno=0\n\n",
            "ab".repeat(32),
            "0c".repeat(32)
        );
        assert_eq!(view.uapi(UNIX_EPOCH + Duration::from_secs(100)), expected);
        // A box whose clock stands at its beginning.
        let early = view.uapi(UNIX_EPOCH + Duration::from_secs(1));
        assert!(early.contains("last_handshake_time_sec=0\n"));
    }
}
