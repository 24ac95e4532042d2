//! What a node says of itself: the report first, its text second. A file for each part of it.

pub mod figure;
mod k3s;
mod limits;
mod mesh;
mod network;
mod peer;
mod snapshot;

use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use figure::{duration, join};
pub use k3s::{Download, K3sStatus};
pub use limits::{LimitStatus, LimitsStatus, RateStatus};
pub use mesh::{AnchorStatus, MeshStatus};
pub use network::{HostLinkStatus, NetworkStatus, UplinkStatus};
pub use peer::{PeerStatus, peers_text};
pub use snapshot::SnapshotStatus;

/// The whole report of `hepto-node status --json`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The version of the program that runs.
    pub version: String,
    /// The cluster's name.
    pub cluster: String,
    /// The node's name.
    pub node: String,
    /// `master` or `agent`.
    pub role: String,
    /// The supervisor's process.
    pub pid: u32,
    /// Seconds since the node started.
    pub uptime_s: u64,
    /// Whether the program took over in a reload a moment ago, and the earlier one still stands by.
    #[serde(default)]
    pub on_trial: bool,
    /// Whether everything that this node is configured to do is done.
    pub ready: bool,
    /// The namespace and its uplink.
    pub network: NetworkStatus,
    /// The mesh.
    pub mesh: MeshStatus,
    /// The supervised k3s; absent when it is not enabled.
    pub k3s: Option<K3sStatus>,
    /// What the host's owner grants the node, and what it uses.
    pub limits: LimitsStatus,
    /// Snapshots of the master; absent where this node has no part in them.
    #[serde(default)]
    pub snapshot: Option<SnapshotStatus>,
    /// What is wrong now, and what mends it.
    pub problems: Vec<Problem>,
}

/// Something wrong, with what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// The stable code.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub fix: Option<String>,
}

impl Status {
    /// One screen for a volunteer.
    pub fn text(&self) -> String {
        let mut out = String::new();
        let state = if self.ready { "ready" } else { "not ready" };
        let _ = writeln!(
            out,
            "{} ({}) of {}: {state}, up {}",
            self.node,
            self.role,
            self.cluster,
            duration(self.uptime_s)
        );
        let uplink = &self.network.uplink;
        let _ = writeln!(
            out,
            "  uplink   {} on {}: {}",
            uplink.kind, uplink.parent, uplink.state
        );
        let _ = writeln!(out, "           {}", join(&self.network.addresses));
        if let Some(link) = &self.network.host_link {
            let reached = match link.host.as_slice() {
                [] => "no address of the host".to_owned(),
                addresses => join(addresses),
            };
            let _ = writeln!(out, "  host     {}: leads to {reached}", link.link);
        }
        let mesh = &self.mesh;
        let _ = writeln!(
            out,
            "  mesh     {} of {} nodes reachable, UDP port {}, MTU {}",
            mesh.reachable, mesh.members, mesh.port, mesh.mtu
        );
        let _ = writeln!(out, "           {}", join(&mesh.addresses));
        for anchor in &mesh.anchors {
            let _ = writeln!(out, "           anchor {} {}", anchor.anchor, anchor.state);
        }
        match &self.k3s {
            Some(k3s) => {
                let pid = k3s
                    .pid
                    .map(|pid| format!(", process {pid}"))
                    .unwrap_or_default();
                let _ = writeln!(
                    out,
                    "  k3s      {} since {}{pid}, {} restarts",
                    k3s.state,
                    duration(k3s.since_s),
                    k3s.restarts
                );
                if let Some(detail) = &k3s.detail {
                    let _ = writeln!(out, "           {detail}");
                }
            }
            None => out += "  k3s      not enabled\n",
        }
        for line in self.limits.lines() {
            let _ = writeln!(out, "  limit    {line}");
        }
        // Without k3s here there may be none in the whole cluster: then there is nothing to wait for.
        if let Some(snapshot) = &self.snapshot
            && (self.k3s.is_some() || snapshot.last.is_some())
        {
            let _ = writeln!(out, "  snapshot {}", snapshot.text());
        }
        for problem in &self.problems {
            let _ = writeln!(out, "  problem  [{}] {}", problem.code, problem.what);
            if let Some(fix) = &problem.fix {
                let _ = writeln!(out, "           fix: {fix}");
            }
        }
        out
    }
}

#[cfg(test)]
pub(crate) mod tests {
    pub(crate) use super::peer::tests::sample as peer;
    use super::*;

    #[test]
    fn one_screen() {
        insta::assert_snapshot!(sample().text());
    }

    #[test]
    fn no_snapshot_is_awaited_where_no_k3s_runs() {
        let mut status = sample();
        status.role = "agent".into();
        let snapshot = status.snapshot.as_mut().expect("it has a part in them");
        (snapshot.last, snapshot.age_s, snapshot.size, snapshot.kept) = (None, None, None, 0);
        assert!(status.text().contains("snapshot none yet"));
        status.k3s = None;
        assert!(!status.text().contains("snapshot"), "{}", status.text());
        status.snapshot = sample().snapshot;
        assert!(status.text().contains("snapshot the last"));
    }

    pub(crate) fn sample() -> Status {
        Status {
            version: "0.1.0".into(),
            cluster: "acides".into(),
            node: "grumpy".into(),
            role: "master".into(),
            pid: 1234,
            uptime_s: 7_260,
            on_trial: false,
            ready: false,
            network: NetworkStatus {
                namespace: "hepto-acides.grumpy".into(),
                uplink: UplinkStatus {
                    kind: "ipvlan".into(),
                    parent: "ens1".into(),
                    state: "up".into(),
                },
                addresses: vec![
                    "2001:db8:1::1/64".parse().expect("v6"),
                    "192.168.1.123/24".parse().expect("v4"),
                ],
                firewall: "on".into(),
                tune_host: None,
                host_link: Some(HostLinkStatus {
                    link: "hepto-grum1f3a9".into(),
                    host: vec!["192.168.1.10".parse().expect("v4")],
                    node: vec!["192.168.1.123".parse().expect("v4")],
                }),
            },
            mesh: MeshStatus {
                addresses: vec![
                    "fd00::9".parse().expect("v6"),
                    "10.44.7.9".parse().expect("v4"),
                ],
                port: 51820,
                mtu: 1320,
                offload: vec!["tso".into()],
                members: 3,
                reachable: 1,
                anchors: vec![
                    AnchorStatus {
                        anchor: "[2001:db8:1::1]:51820".into(),
                        answers: None,
                        state: "is this node".into(),
                    },
                    AnchorStatus {
                        anchor: "sleepy.example.org:51820".into(),
                        answers: Some(false),
                        state: "was not asked yet".into(),
                    },
                ],
                refused: Default::default(),
            },
            k3s: Some(K3sStatus {
                state: "ready".into(),
                since_s: 7_000,
                pid: Some(1300),
                restarts: 0,
                ready: true,
                upgrade: None,
                detail: None,
                download: None,
            }),
            limits: LimitsStatus {
                memory_bytes: LimitStatus {
                    limit: Some(4 << 30),
                    used: Some(3 << 30),
                    hit: Some(2),
                },
                cpu_thousandths: LimitStatus {
                    limit: Some(1500),
                    used: None,
                    hit: Some(0),
                },
                up: RateStatus {
                    limit_bits_s: Some(20_000_000),
                    bytes: Some(1 << 20),
                    dropped: Some(7),
                },
                ..LimitsStatus::default()
            },
            snapshot: Some(SnapshotStatus {
                last: Some("grumpy-20261124T170020Z.age".into()),
                age_s: Some(7_300),
                size: Some(34_000_000),
                kept: 3,
                bytes: 99_000_000,
                wanted: 2,
                on: vec!["dopey".into(), "sleepy".into()],
                next_in_s: Some(14_300),
                doing: None,
                strangers: 0,
            }),
            problems: vec![Problem {
                code: "E-MESH-ANCHORS".into(),
                what: "no anchor answers".into(),
                fix: Some("check that UDP port 51820 is open".into()),
            }],
        }
    }
}
