//! What a node says of itself: the report first, its text second.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The whole report of `hepto-node status --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
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

/// The namespace and its uplink.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NetworkStatus {
    /// The namespace's name under `/run/netns`.
    pub namespace: String,
    /// The link to the host's interface.
    pub uplink: UplinkStatus,
    /// The configured addresses.
    pub addresses: Vec<IpNet>,
    /// The firewall: `on` or `off`.
    pub firewall: String,
    /// With `network.tune_host`, how the host's interface stands with `rx-udp-gro-forwarding`: `on` until the last node
    /// stops, `owner` (it was on already), `off`, `absent` or `refused`.
    #[serde(default)]
    pub tune_host: Option<String>,
}

/// The link to the host's interface.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UplinkStatus {
    /// `ipvlan` or `macvlan`.
    pub kind: String,
    /// The host's interface.
    pub parent: String,
    /// `up`, `down` or `waiting` (for the interface to appear).
    pub state: String,
}

/// The mesh.
#[derive(Debug, Clone, Serialize, Deserialize)]
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
    pub refused: std::collections::BTreeMap<String, u64>,
}

/// One anchor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AnchorStatus {
    /// As configured.
    pub anchor: String,
    /// Whether it answered lately; `null` for this node itself.
    pub answers: Option<bool>,
}

/// The supervised k3s.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct K3sStatus {
    /// The state of its life cycle, lower case.
    pub state: String,
    /// Seconds in that state.
    pub since_s: u64,
    /// Its process, as the host numbers it.
    pub pid: Option<i32>,
    /// Starts after the first.
    pub restarts: u32,
    /// Whether it serves.
    pub ready: bool,
    /// The k3s that is on its way into another's place, by its name.
    #[serde(default)]
    pub upgrade: Option<String>,
    /// What it waits for, or why it last ended.
    pub detail: Option<String>,
    /// The download of the wanted k3s, while there is one.
    pub download: Option<Download>,
}

/// A download under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Download {
    /// The file.
    pub file: String,
    /// Bytes that are there.
    pub done_bytes: u64,
    /// Bytes in all; `null` where the server does not say.
    pub total_bytes: Option<u64>,
    /// How much of it is there; `null` likewise.
    pub percent: Option<u64>,
}

/// What the host's owner grants the node, and what it uses. `null` where there is no limit, or nothing is counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LimitsStatus {
    /// Memory of init, k3s and pods, bytes; hit: processes killed for want of it.
    pub memory_bytes: LimitStatus,
    /// Processors, thousandths of one; hit: periods of a tenth of a second in which the node had to wait.
    pub cpu_thousandths: LimitStatus,
    /// Processor time of init, k3s and pods since the sandbox was made, microseconds.
    pub cpu_used_us: Option<u64>,
    /// Processes and threads; hit: how often another one was refused.
    pub pids: LimitStatus,
    /// What the node sends through its uplink.
    pub up: RateStatus,
    /// What it receives through its uplink.
    pub down: RateStatus,
}

/// One limit.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct LimitStatus {
    /// As configured.
    pub limit: Option<u64>,
    /// In use now.
    pub used: Option<u64>,
    /// How often the node ran into it.
    pub hit: Option<u64>,
}

/// A limit of one direction of the uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RateStatus {
    /// Bits a second, as configured.
    pub limit_bits_s: Option<u64>,
    /// Bytes that passed since the limit was set; counted only while there is one.
    pub bytes: Option<u64>,
    /// Packets that were dropped because of the limit.
    pub dropped: Option<u64>,
}

/// Snapshots of the master: its own, or those that an agent keeps for it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotStatus {
    /// The file name of the latest on this node's disk.
    pub last: Option<String>,
    /// Seconds since it was made.
    pub age_s: Option<u64>,
    /// Its length, bytes.
    pub size: Option<u64>,
    /// How many this node keeps.
    pub kept: usize,
    /// Their bytes in all.
    pub bytes: u64,
    /// On the master: on how many agents the latest is to lie.
    pub wanted: usize,
    /// On the master: the agents that keep it.
    pub on: Vec<String>,
    /// On the master: seconds until the next is made.
    pub next_in_s: Option<u64>,
    /// What is under way.
    pub doing: Option<String>,
    /// On an agent: connections of others than the master, hung up at once.
    pub strangers: u64,
}

/// Something wrong, with what mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// The stable code.
    pub code: String,
    /// What is wrong.
    pub what: String,
    /// What mends it.
    pub fix: Option<String>,
}

/// One other node, as this one reaches it: an element of `hepto-node peers --json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Its name.
    pub name: String,
    /// Its overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// Its WireGuard public key, base64.
    pub public_key: String,
    /// Where its packets come from.
    pub endpoint: Option<SocketAddr>,
    /// Seconds since the last handshake.
    pub handshake_age_s: Option<u64>,
    /// Whether there is a live session.
    pub session: bool,
    /// Bytes received from it inside the tunnel.
    pub rx_bytes: u64,
    /// Bytes sent to it inside the tunnel.
    pub tx_bytes: u64,
    /// What gossip thinks of it: `alive`, `suspect` or `absent`.
    pub gossip: String,
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
        let mesh = &self.mesh;
        let _ = writeln!(
            out,
            "  mesh     {} of {} nodes reachable, UDP port {}, MTU {}",
            mesh.reachable, mesh.members, mesh.port, mesh.mtu
        );
        let _ = writeln!(out, "           {}", join(&mesh.addresses));
        for anchor in &mesh.anchors {
            let answers = match anchor.answers {
                Some(true) => "answers",
                Some(false) => "does not answer",
                None => "is this node",
            };
            let _ = writeln!(out, "           anchor {} {answers}", anchor.anchor);
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
        if let Some(snapshot) = &self.snapshot {
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

impl LimitsStatus {
    /// A line for each limit that is set.
    fn lines(&self) -> Vec<String> {
        let used = |used: Option<u64>, text: fn(u64) -> String| used.map_or("?".into(), text);
        let hit = |hit: Option<u64>, what: &str| match hit {
            Some(count) if count > 0 => format!(", {count} {what}"),
            _ => String::new(),
        };
        let memory = self.memory_bytes.limit.map(|limit| {
            let used = used(self.memory_bytes.used, bytes);
            let hit = hit(self.memory_bytes.hit, "processes killed");
            format!("memory {used} of {}{hit}", bytes(limit))
        });
        let cpu = self.cpu_thousandths.limit.map(|limit| {
            let hit = hit(self.cpu_thousandths.hit, "times throttled");
            format!("cpu {}{hit}", limit as f64 / 1000.0)
        });
        let pids = self.pids.limit.map(|limit| {
            let used = used(self.pids.used, |count| count.to_string());
            let hit = hit(self.pids.hit, "refused");
            format!("pids {used} of {limit}{hit}")
        });
        let rate = |name: &str, rate: &RateStatus| {
            let limit = rate.limit_bits_s?;
            let hit = hit(rate.dropped, "packets dropped");
            Some(format!("{name} {} Mbit/s{hit}", limit as f64 / 1e6))
        };
        [
            memory,
            cpu,
            pids,
            rate("up", &self.up),
            rate("down", &self.down),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

impl SnapshotStatus {
    /// One line.
    fn text(&self) -> String {
        let mut text = match (self.age_s, self.size) {
            (Some(age), Some(size)) => format!("the last {} ago, {}", duration(age), bytes(size)),
            _ => "none yet".into(),
        };
        match self.on.as_slice() {
            [] if self.wanted > 0 && self.last.is_some() => text += ", on no agent yet",
            [] => {}
            on => text += &format!(", on {}", on.join(", ")),
        }
        if self.kept > 1 {
            text += &format!("; {} kept here, {}", self.kept, bytes(self.bytes));
        }
        if let Some(next) = self.next_in_s {
            text += &format!("; the next in {}", duration(next));
        }
        if let Some(doing) = &self.doing {
            text += &format!("; {doing}");
        }
        text
    }
}

/// The table of `hepto-node peers`.
pub fn peers_text(peers: &[PeerStatus]) -> String {
    let mut rows = vec![
        [
            "NODE",
            "SESSION",
            "HANDSHAKE",
            "ENDPOINT",
            "RECEIVED",
            "SENT",
            "GOSSIP",
            "ADDRESSES",
        ]
        .map(String::from),
    ];
    rows.extend(peers.iter().map(|peer| {
        [
            peer.name.clone(),
            if peer.session { "up" } else { "none" }.into(),
            peer.handshake_age_s
                .map_or("never".into(), |age| format!("{} ago", duration(age))),
            peer.endpoint
                .map_or("unknown".into(), |endpoint| endpoint.to_string()),
            bytes(peer.rx_bytes),
            bytes(peer.tx_bytes),
            peer.gossip.clone(),
            join(&peer.addresses),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; 8] = std::array::from_fn(width);
    let line = |row: &[String; 8]| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        cells.join("  ").trim_end().to_string() + "\n"
    };
    rows.iter().map(line).collect()
}

fn join<T: ToString>(items: &[T]) -> String {
    items
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// `3 s`, `2 min`, `5 h` or `4 d`: the largest unit that is not zero.
fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..86_400 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes in the largest binary unit that keeps a digit before the point.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let unit = (0..UNITS.len() - 1)
        .find(|unit| count >> (10 * (unit + 1)) == 0)
        .unwrap_or(UNITS.len() - 1);
    match unit {
        0 => format!("{count} B"),
        _ => format!(
            "{:.1} {}",
            count as f64 / (1u64 << (10 * unit)) as f64,
            UNITS[unit]
        ),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn units_are_the_largest_that_fit() {
        assert_eq!(
            [bytes(0), bytes(1023), bytes(1024), bytes(3 << 30)],
            ["0 B", "1023 B", "1.0 KiB", "3.0 GiB"]
        );
        assert_eq!(
            [
                duration(59),
                duration(60),
                duration(7_200),
                duration(200_000)
            ],
            ["59 s", "1 min", "2 h", "2 d"]
        );
    }

    #[test]
    fn one_screen() {
        insta::assert_snapshot!(sample().text());
    }

    pub(crate) fn sample() -> Status {
        Status {
            version: "0.1.0".into(),
            cluster: "acides".into(),
            node: "grumpy".into(),
            role: "master".into(),
            pid: 1234,
            uptime_s: 7_260,
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
                    },
                    AnchorStatus {
                        anchor: "sleepy.example.org:51820".into(),
                        answers: Some(false),
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
