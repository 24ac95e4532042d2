//! Snapshots of the master.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::{bytes, duration};

/// Snapshots of the master: its own, or those that an agent keeps for it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
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

impl SnapshotStatus {
    /// One line.
    pub(super) fn text(&self) -> String {
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
