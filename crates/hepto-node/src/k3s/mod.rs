//! Supervision of k3s: what it is told, when it is started, whether the node is ready.

pub mod argument;
pub mod lifecycle;
mod refusal;
