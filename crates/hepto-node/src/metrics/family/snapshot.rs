//! Snapshots of the master.

use super::{Shown, gauge, number, one};
use crate::status::SnapshotStatus;

pub(super) fn shown(snapshot: Option<&SnapshotStatus>) -> Vec<Shown> {
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
