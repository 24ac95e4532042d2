//! Every metric: its name, which stays, and where its numbers come from. `docs/reference/metrics.md` has the same table,
//! and a test holds the two together.

mod k3s;
mod limits;
mod mesh;
mod node;
mod peer;
mod snapshot;

use super::text::{Family, Kind};
use crate::status::{PeerStatus, Status};

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
    let mut shown = node::shown(status);
    shown.extend(mesh::shown(&status.mesh));
    shown.extend(peer::shown(&peers[..peers.len().min(PEERS)]));
    shown.extend(k3s::shown(status));
    shown.extend(snapshot::shown(status.snapshot.as_ref()));
    shown.extend(limits::shown(&status.limits));
    shown.extend(limits::bandwidth(&status.limits));
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
            ..crate::status::tests::peer()
        };
        let peers: Vec<PeerStatus> = (0..300).map(peer).collect();
        let text = text(&sample(), &peers);
        let series = text
            .lines()
            .filter(|line| line.starts_with("hepto_peer_session{"));
        assert_eq!(series.count(), PEERS);
    }
}
