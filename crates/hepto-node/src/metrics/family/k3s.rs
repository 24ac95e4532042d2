//! k3s.

use super::{Shown, counter, gauge, number, one, truth};
use crate::status::Status;

pub(super) fn shown(status: &Status) -> Vec<Shown> {
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
