//! Every metric: its name, which stays, and where its numbers come from. `docs/reference/metrics.md` has the same table,
//! and a test holds the two together.

use super::text::{Family, Kind};
use crate::status::{LimitsStatus, MeshStatus, PeerStatus, SnapshotStatus, Status};

/// A cluster has no more members, so there are no more series.
const PEERS: usize = 256;

/// A value for each label, and the number.
type Sample = (Vec<String>, f64);
/// A metric and what it shows now; a metric without samples is left out.
type Shown = (Family, Vec<Sample>);

/// All of it in OpenMetrics.
pub(super) fn text(status: &Status, peers: &[PeerStatus]) -> String {
    let mut out = String::new();
    for (family, samples) in all(status, peers) {
        family.write(&mut out, samples);
    }
    out + "# EOF\n"
}

fn all(status: &Status, peers: &[PeerStatus]) -> Vec<Shown> {
    let mut shown = node(status);
    shown.extend(mesh(&status.mesh));
    shown.extend(peer(&peers[..peers.len().min(PEERS)]));
    shown.extend(k3s(status));
    shown.extend(snapshot(status.snapshot.as_ref()));
    shown.extend(limits(&status.limits));
    shown.extend(bandwidth(&status.limits));
    shown
}

const fn family(
    kind: Kind,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Family {
    Family {
        name,
        kind,
        labels,
        help,
    }
}

fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    family(Kind::Gauge, name, labels, help)
}

fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Family {
    family(Kind::Counter, name, labels, help)
}

/// A number without labels, if it is known.
fn one(value: impl Into<Option<f64>>) -> Vec<Sample> {
    value
        .into()
        .into_iter()
        .map(|value| (Vec::new(), value))
        .collect()
}

/// 1 or 0.
fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Exact to 2^53, as every number of Prometheus.
fn number(count: u64) -> f64 {
    count as f64
}

fn node(status: &Status) -> Vec<Shown> {
    let uplink = &status.network.uplink;
    let mut problems = std::collections::BTreeMap::new();
    for problem in &status.problems {
        *problems.entry(problem.code.clone()).or_insert(0.0) += 1.0;
    }
    let who = [&status.cluster, &status.node, &status.role, &status.version];
    vec![
        (
            family(
                Kind::Info,
                "hepto_node",
                &["cluster", "node", "role", "version"],
                "Who this node is.",
            ),
            vec![(who.map(Clone::clone).to_vec(), 1.0)],
        ),
        (
            gauge(
                "hepto_node_ready",
                &[],
                "Whether everything that this node is configured to do is done.",
            ),
            one(truth(status.ready)),
        ),
        (
            gauge(
                "hepto_node_uptime_seconds",
                &[],
                "Time since the supervisor started or took over.",
            ),
            one(number(status.uptime_s)),
        ),
        (
            gauge(
                "hepto_node_problems",
                &["code"],
                "What is wrong now, by the code of its message.",
            ),
            problems
                .into_iter()
                .map(|(code, count)| (vec![code], count))
                .collect(),
        ),
        (
            gauge(
                "hepto_uplink_up",
                &["parent"],
                "Whether the host's interface is there and up.",
            ),
            vec![(vec![uplink.parent.clone()], truth(uplink.state == "up"))],
        ),
    ]
}

fn mesh(mesh: &MeshStatus) -> Vec<Shown> {
    let answers = mesh.anchors.iter().filter_map(|anchor| {
        let answers = anchor.answers?;
        Some((vec![anchor.anchor.clone()], truth(answers)))
    });
    let refused = mesh.refused.iter();
    vec![
        (
            gauge("hepto_mesh_members", &[], "Nodes known, this one included."),
            one(mesh.members as f64),
        ),
        (
            gauge(
                "hepto_mesh_reachable",
                &[],
                "Nodes with a live session, this one included.",
            ),
            one(mesh.reachable as f64),
        ),
        (
            gauge(
                "hepto_mesh_anchor_answers",
                &["anchor"],
                "Whether an anchor other than this node answered lately.",
            ),
            answers.collect(),
        ),
        (
            counter(
                "hepto_mesh_refused",
                &["reason"],
                "Datagrams and packets that were refused; reasons without any are absent.",
            ),
            refused
                .map(|(reason, count)| (vec![reason.clone()], number(*count)))
                .collect(),
        ),
        (
            gauge("hepto_tunnel_mtu_bytes", &[], "The MTU of the tunnel."),
            one(f64::from(mesh.mtu)),
        ),
    ]
}

fn peer(peers: &[PeerStatus]) -> Vec<Shown> {
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

fn k3s(status: &Status) -> Vec<Shown> {
    let k3s = status.k3s.as_ref();
    let state = k3s.map(|k3s| (vec![k3s.state.clone()], number(k3s.since_s)));
    vec![
        (
            gauge(
                "hepto_k3s_ready",
                &[],
                "Whether k3s serves; absent on a node without it, as all of these.",
            ),
            one(k3s.map(|k3s| truth(k3s.ready))),
        ),
        (
            gauge(
                "hepto_k3s_state_seconds",
                &["state"],
                "Time in the state of its life cycle, which the label names.",
            ),
            state.into_iter().collect(),
        ),
        (
            counter("hepto_k3s_restarts", &[], "Starts of k3s after the first."),
            one(k3s.map(|k3s| f64::from(k3s.restarts))),
        ),
    ]
}

fn snapshot(snapshot: Option<&SnapshotStatus>) -> Vec<Shown> {
    // Agents keep the master's and want no copies.
    let master = snapshot.filter(|snapshot| snapshot.wanted > 0);
    vec![
        (
            gauge(
                "hepto_snapshot_age_seconds",
                &[],
                "Age of the latest snapshot on this node's disk.",
            ),
            one(snapshot.and_then(|snapshot| snapshot.age_s).map(number)),
        ),
        (
            gauge("hepto_snapshot_kept", &[], "Snapshots on this node's disk."),
            one(snapshot.map(|snapshot| snapshot.kept as f64)),
        ),
        (
            gauge(
                "hepto_snapshot_kept_bytes",
                &[],
                "What they take on the disk.",
            ),
            one(snapshot.map(|snapshot| number(snapshot.bytes))),
        ),
        (
            gauge(
                "hepto_snapshot_copies",
                &[],
                "On the master: agents that keep the latest.",
            ),
            one(master.map(|snapshot| snapshot.on.len() as f64)),
        ),
        (
            gauge(
                "hepto_snapshot_copies_wanted",
                &[],
                "On the master: agents that are to keep it.",
            ),
            one(master.map(|snapshot| snapshot.wanted as f64)),
        ),
    ]
}

fn limits(limits: &LimitsStatus) -> Vec<Shown> {
    let (memory, cpu, pids) = (&limits.memory_bytes, &limits.cpu_thousandths, &limits.pids);
    vec![
        (
            gauge(
                "hepto_memory_limit_bytes",
                &[],
                "What limits.memory grants init, k3s and pods.",
            ),
            one(memory.limit.map(number)),
        ),
        (
            gauge("hepto_memory_used_bytes", &[], "What they use."),
            one(memory.used.map(number)),
        ),
        (
            counter(
                "hepto_memory_kills",
                &[],
                "Processes killed for want of memory.",
            ),
            one(memory.hit.map(number)),
        ),
        (
            gauge(
                "hepto_cpu_limit_cores",
                &[],
                "What limits.cpu grants init, k3s and pods.",
            ),
            one(cpu.limit.map(|thousandths| number(thousandths) / 1e3)),
        ),
        (
            counter(
                "hepto_cpu_seconds",
                &[],
                "Processor time of init, k3s and pods since the sandbox was made.",
            ),
            one(limits
                .cpu_used_us
                .map(|microseconds| number(microseconds) / 1e6)),
        ),
        (
            counter(
                "hepto_cpu_throttled_periods",
                &[],
                "Tenths of a second in which they had to wait.",
            ),
            one(cpu.hit.map(number)),
        ),
        (
            gauge(
                "hepto_pids_limit",
                &[],
                "What limits.pids grants, processes and threads.",
            ),
            one(pids.limit.map(number)),
        ),
        (
            gauge("hepto_pids_used", &[], "Processes and threads there are."),
            one(pids.used.map(number)),
        ),
        (
            counter(
                "hepto_pids_refused",
                &[],
                "How often another one was refused.",
            ),
            one(pids.hit.map(number)),
        ),
    ]
}

fn bandwidth(limits: &LimitsStatus) -> Vec<Shown> {
    let directions = [("up", &limits.up), ("down", &limits.down)];
    let each = |value: fn(&crate::status::RateStatus) -> Option<f64>| {
        let known = directions
            .iter()
            .filter_map(|(name, rate)| Some((vec![(*name).to_owned()], value(rate)?)));
        known.collect()
    };
    let direction = &["direction"];
    vec![
        (
            gauge(
                "hepto_bandwidth_limit_bytes",
                direction,
                "What limits.bandwidth grants, bytes a second.",
            ),
            each(|rate| rate.limit_bits_s.map(|bits| number(bits) / 8.0)),
        ),
        (
            counter(
                "hepto_bandwidth_bytes",
                direction,
                "What passed since the limit was set.",
            ),
            each(|rate| rate.bytes.map(number)),
        ),
        (
            counter(
                "hepto_bandwidth_dropped_packets",
                direction,
                "Packets dropped because of the limit.",
            ),
            each(|rate| rate.dropped.map(number)),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::status::tests::sample;

    fn file(path: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        fs::read_to_string(root.join(path)).expect("a file of the repository")
    }

    fn shown() -> Vec<Shown> {
        all(&sample(), &[])
    }

    #[test]
    fn the_reference_has_every_metric_and_no_other() {
        let row = |(family, _): Shown| {
            let labels: Vec<String> = family
                .labels
                .iter()
                .map(|label| format!("`{label}`"))
                .collect();
            let (name, kind) = (family.sample(), family.kind.word());
            format!(
                "| `{name}` | {kind} | {} | {} |",
                labels.join(", "),
                family.help
            )
        };
        let expected: Vec<String> = shown().into_iter().map(row).collect();
        let text = file("docs/reference/metrics.md");
        let found: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("| `hepto_"))
            .collect();
        assert_eq!(
            found,
            expected,
            "docs/reference/metrics.md should have\n{}",
            expected.join("\n")
        );
    }

    #[test]
    fn names_are_unique_and_no_name_is_anothers_sample() {
        let names: Vec<&str> = shown().iter().map(|(family, _)| family.name).collect();
        let samples: BTreeSet<String> = shown().iter().map(|(family, _)| family.sample()).collect();
        assert_eq!(samples.len(), names.len());
        for (family, samples) in shown() {
            assert!(
                family.name.starts_with("hepto_") && family.help.ends_with('.'),
                "{family:?}"
            );
            let fits = |(labels, _): &Sample| labels.len() == family.labels.len();
            assert!(samples.iter().all(fits), "{family:?}");
        }
    }

    #[test]
    fn dashboard_and_rules_use_what_there_is() {
        let known: BTreeSet<String> = shown().iter().map(|(family, _)| family.sample()).collect();
        for path in [
            "dist/grafana/hepto.json",
            "dist/prometheus/hepto.rules.yaml",
        ] {
            let text = file(path);
            let words =
                text.split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
            let used: BTreeSet<String> = words
                .filter(|word| word.starts_with("hepto_"))
                .map(str::to_owned)
                .collect();
            assert!(used.len() >= 5, "{path} uses {used:?}");
            let unknown: Vec<_> = used.difference(&known).collect();
            assert!(unknown.is_empty(), "{path} uses {unknown:?}");
        }
        let dashboard: serde_json::Value =
            serde_json::from_str(&file("dist/grafana/hepto.json")).expect("JSON");
        assert!(
            dashboard["panels"]
                .as_array()
                .is_some_and(|panels| !panels.is_empty())
        );
    }

    #[test]
    fn what_a_node_says() {
        insta::assert_snapshot!(text(&sample(), &[]));
    }

    #[test]
    fn series_are_bounded() {
        let peer = |number: u32| PeerStatus {
            name: format!("node{number}"),
            addresses: Vec::new(),
            public_key: String::new(),
            endpoint: None,
            handshake_age_s: None,
            session: true,
            rx_bytes: 1,
            tx_bytes: 2,
            gossip: "alive".into(),
        };
        let peers: Vec<PeerStatus> = (0..300).map(peer).collect();
        let text = text(&sample(), &peers);
        let series = text
            .lines()
            .filter(|line| line.starts_with("hepto_peer_session{"));
        assert_eq!(series.count(), PEERS);
    }
}
