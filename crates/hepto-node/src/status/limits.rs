//! What the host's owner grants the node, and what it uses.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::figure::bytes;

/// What the host's owner grants the node, and what it uses. `null` where there is no limit, or nothing is counted.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct LimitStatus {
    /// As configured.
    pub limit: Option<u64>,
    /// In use now.
    pub used: Option<u64>,
    /// How often the node ran into it.
    pub hit: Option<u64>,
}

/// A limit of one direction of the uplink.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
pub struct RateStatus {
    /// Bits a second, as configured.
    pub limit_bits_s: Option<u64>,
    /// Bytes that passed since the limit was set; counted only while there is one.
    pub bytes: Option<u64>,
    /// Packets that were dropped because of the limit.
    pub dropped: Option<u64>,
}

impl LimitsStatus {
    /// A line for each limit that is set.
    pub(super) fn lines(&self) -> Vec<String> {
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
