//! The mesh.

use super::{Shown, counter, gauge, number, one, truth};
use crate::status::MeshStatus;

pub(super) fn shown(mesh: &MeshStatus) -> Vec<Shown> {
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
