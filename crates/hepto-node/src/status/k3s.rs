//! The supervised k3s.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The supervised k3s.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
