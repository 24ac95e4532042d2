//! The node itself.

use super::{Shown, family, gauge, number, one, truth};
use crate::metrics::text::Kind;
use crate::status::Status;

pub(super) fn shown(status: &Status) -> Vec<Shown> {
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
