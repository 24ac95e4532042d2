//! What the host's owner grants: told to the sandbox, to kubelet, and back to him.

use std::fs;
use std::path::Path;

use crate::config::{Config, Limits};
use crate::sandbox;
use crate::status::{LimitStatus, LimitsStatus, RateStatus};

/// What the sandbox is held to.
pub fn of_sandbox(limits: &Limits) -> sandbox::Limits {
    sandbox::Limits {
        memory: limits.memory,
        cpu: limits.cpu,
        pids: limits.pids,
    }
}

/// What a machine has.
#[derive(Debug, Clone, Copy)]
struct Machine {
    /// Memory, bytes.
    memory: u64,
    /// Processors.
    processors: u32,
}

impl Machine {
    /// As kubelet counts it.
    fn observe() -> Option<Machine> {
        let read = |path: &str| fs::read_to_string(path).ok();
        let memory = read("/proc/meminfo")?;
        let memory = memory
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))?;
        let kib: u64 = memory.trim().strip_suffix(" kB")?.parse().ok()?;
        let processors = read("/proc/cpuinfo")?;
        let processors = processors
            .lines()
            .filter(|line| line.starts_with("processor"));
        Some(Machine {
            memory: kib * 1024,
            processors: processors.count().try_into().ok()?,
        })
    }
}

/// What kubelet is to keep from pods, since it reads the machine's size and not the node's: all beyond the limits
/// (`system-reserved` of kubelet). `None` where they take nothing away.
pub fn reserved(limits: &Limits) -> Option<String> {
    Machine::observe().and_then(|machine| beyond(limits, machine))
}

fn beyond(limits: &Limits, machine: Machine) -> Option<String> {
    let memory = limits
        .memory
        .map(|limit| machine.memory.saturating_sub(limit));
    let cpu = limits
        .cpu
        .map(|limit| (machine.processors * 1000).saturating_sub(limit));
    let parts: Vec<String> = [
        cpu.filter(|cpu| *cpu > 0).map(|cpu| format!("cpu={cpu}m")),
        memory
            .filter(|memory| *memory > 0)
            .map(|memory| format!("memory={memory}")),
    ]
    .into_iter()
    .flatten()
    .collect();
    (!parts.is_empty()).then(|| parts.join(","))
}

/// What `status` says of limits and use.
pub fn status(config: &Config, run_directory: &Path, shaped: &hepto_net::Shaped) -> LimitsStatus {
    let (limits, usage) = (&config.limits, sandbox::limit::usage(run_directory));
    let rate = |limit: Option<u64>, shaped: Option<hepto_net::Traffic>| RateStatus {
        limit_bits_s: limit,
        bytes: shaped.map(|shaped| shaped.bytes),
        dropped: shaped.map(|shaped| shaped.dropped),
    };
    LimitsStatus {
        memory_bytes: LimitStatus {
            limit: limits.memory,
            used: usage.memory,
            hit: usage.memory_kills,
        },
        cpu_thousandths: LimitStatus {
            limit: limits.cpu.map(u64::from),
            used: None,
            hit: usage.cpu_throttled,
        },
        cpu_used_us: usage.cpu_us,
        pids: LimitStatus {
            limit: limits.pids.map(u64::from),
            used: usage.pids,
            hit: usage.pids_refused,
        },
        up: rate(limits.up, shaped.up),
        down: rate(limits.down, shaped.down),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubelet_keeps_what_is_beyond_the_limits() {
        let machine = Machine {
            memory: 8 << 30,
            processors: 4,
        };
        let limits = |memory, cpu| Limits {
            memory,
            cpu,
            ..Limits::default()
        };
        let said = |limits| beyond(&limits, machine);
        assert_eq!(said(limits(None, None)), None);
        assert_eq!(
            said(limits(Some(6 << 30), Some(1500))).as_deref(),
            Some("cpu=2500m,memory=2147483648")
        );
        assert_eq!(said(limits(Some(16 << 30), Some(4000))), None);
        let own = Machine::observe().expect("this machine has memory");
        assert!(own.memory > 0 && own.processors > 0);
    }
}
