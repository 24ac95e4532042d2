//! What the host's owner grants.

use super::{Shown, counter, gauge, number, one};
use crate::status::{LimitsStatus, RateStatus};

pub(super) fn shown(limits: &LimitsStatus) -> Vec<Shown> {
    let (memory, cpu, pids) = (&limits.memory_bytes, &limits.cpu_thousandths, &limits.pids);
    vec![
        (
            gauge(
                "hepto_memory_limit_bytes",
                &[],
                "What limits.memory grants init, k3s and pods.",
            ),
            one(memory.limit.map(number)),
        ),
        (
            gauge("hepto_memory_used_bytes", &[], "What they use."),
            one(memory.used.map(number)),
        ),
        (
            counter(
                "hepto_memory_kills",
                &[],
                "Processes killed for want of memory.",
            ),
            one(memory.hit.map(number)),
        ),
        (
            gauge(
                "hepto_cpu_limit_cores",
                &[],
                "What limits.cpu grants init, k3s and pods.",
            ),
            one(cpu.limit.map(|thousandths| number(thousandths) / 1e3)),
        ),
        (
            counter(
                "hepto_cpu_seconds",
                &[],
                "Processor time of init, k3s and pods since the sandbox was made.",
            ),
            one(limits
                .cpu_used_us
                .map(|microseconds| number(microseconds) / 1e6)),
        ),
        (
            counter(
                "hepto_cpu_throttled_periods",
                &[],
                "Tenths of a second in which they had to wait.",
            ),
            one(cpu.hit.map(number)),
        ),
        (
            gauge(
                "hepto_pids_limit",
                &[],
                "What limits.pids grants, processes and threads.",
            ),
            one(pids.limit.map(number)),
        ),
        (
            gauge("hepto_pids_used", &[], "Processes and threads there are."),
            one(pids.used.map(number)),
        ),
        (
            counter(
                "hepto_pids_refused",
                &[],
                "How often another one was refused.",
            ),
            one(pids.hit.map(number)),
        ),
    ]
}

pub(super) fn bandwidth(limits: &LimitsStatus) -> Vec<Shown> {
    let directions = [("up", &limits.up), ("down", &limits.down)];
    let each = |value: fn(&RateStatus) -> Option<f64>| {
        let known = directions
            .iter()
            .filter_map(|(name, rate)| Some((vec![(*name).to_owned()], value(rate)?)));
        known.collect()
    };
    let direction = &["direction"];
    vec![
        (
            gauge(
                "hepto_bandwidth_limit_bytes",
                direction,
                "What limits.bandwidth grants, bytes a second.",
            ),
            each(|rate| rate.limit_bits_s.map(|bits| number(bits) / 8.0)),
        ),
        (
            counter(
                "hepto_bandwidth_bytes",
                direction,
                "What passed since the limit was set.",
            ),
            each(|rate| rate.bytes.map(number)),
        ),
        (
            counter(
                "hepto_bandwidth_dropped_packets",
                direction,
                "Packets dropped because of the limit.",
            ),
            each(|rate| rate.dropped.map(number)),
        ),
    ]
}
