//! `[limits]`: what the host's owner grants. Below a minimum nothing would work, which is worse than no node.

use std::ops::Range;

use super::{Checking, Diagnostic};
use crate::config::Limits;
use crate::config::file::{BandwidthValue, LimitsSection, Spanned, Text};
use crate::config::quantity::{self, BINARY, DECIMAL};

/// k3s's own documents ask for 512 MB on an agent. Its server with the datastore takes about twice that before a pod.
const LEAST_MEMORY: u64 = 512 << 20;
const LEAST_MEMORY_OF_MASTER: u64 = 1 << 30;
/// Thousandths of a processor: kubelet alone takes about a tenth, and one that is throttled loses its lease.
const LEAST_CPU: u32 = 250;
/// No machine has more processors (CONFIG_NR_CPUS of x86-64 at most).
const MOST_CPU: f64 = 8192.0;
/// k3s and its shims have some hundred threads before the first pod.
const LEAST_PIDS: u32 = 512;
/// Bits a second: below, a pod's image takes hours and a full-size packet a tenth of a second.
const LEAST_RATE: u64 = 1_000_000;
/// Bits a second: the kernel's class counts bytes a second in 32 bits.
const MOST_RATE: u64 = 32_000_000_000;

/// All limits, or nothing when one is wrong.
pub(super) fn limits(
    file: &LimitsSection,
    k3s: bool,
    is_master: bool,
    checking: &mut Checking<'_>,
) -> Option<Limits> {
    if !k3s {
        useless(file, checking);
    }
    let memory = file.memory.as_ref();
    let memory = memory.map(|text| memory_of(text, is_master, checking));
    let cpu = file.cpu.as_ref().map(|value| cpu_of(value, checking));
    let pids = file.pids.as_ref().map(|value| pids_of(value, checking));
    let bandwidth = file.bandwidth.as_ref();
    let bandwidth = bandwidth.map(|value| bandwidth_of(value, checking));
    let (up, down) = bandwidth.unwrap_or(Some((None, None)))?;
    Some(Limits {
        memory: all(memory)?,
        cpu: all(cpu)?,
        pids: all(pids)?,
        up,
        down,
    })
}

/// `None` when it was wrong, `Some(None)` when it was not given.
#[allow(clippy::option_option)]
fn all<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        Some(None) => None,
        Some(good) => Some(good),
        None => Some(None),
    }
}

/// Without k3s there is no sandbox, and nothing in it.
fn useless(file: &LimitsSection, checking: &mut Checking<'_>) {
    let given = [
        ("memory", file.memory.as_ref().map(Spanned::span)),
        ("cpu", file.cpu.as_ref().map(Spanned::span)),
        ("pids", file.pids.as_ref().map(Spanned::span)),
    ];
    for (key, span) in given {
        let Some(span) = span else { continue };
        let what = format!("`{key}` limits k3s and its pods, and this node runs none");
        let found = Diagnostic::warning("W-LIMITS-MESH-ONLY", what).at(span);
        checking.report(found.fix("remove it; `bandwidth` alone limits a node of the mesh"));
    }
}

fn refuse(
    checking: &mut Checking<'_>,
    code: &'static str,
    span: Range<usize>,
    what: String,
    fix: &str,
) {
    checking.report(Diagnostic::error(code, what).at(span).fix(fix));
}

fn memory_of(text: &Text, is_master: bool, checking: &mut Checking<'_>) -> Option<u64> {
    let (least, who) = match is_master {
        true => (
            LEAST_MEMORY_OF_MASTER,
            "the server of k3s with its datastore",
        ),
        false => (LEAST_MEMORY, "k3s"),
    };
    let written = text.get_ref();
    let (what, fix) = match quantity::read(written, BINARY) {
        Some(bytes) if bytes >= least => return Some(bytes),
        Some(_) => {
            let least = quantity::written(least, BINARY);
            (
                format!("{who} does not run in {written} of memory"),
                format!("give the node \"{least}\" or more, or remove `memory`"),
            )
        }
        None => (
            format!("\"{written}\" is not an amount of memory"),
            "write a whole number and K, M, G or T, as in \"4G\" or \"1536M\"".to_owned(),
        ),
    };
    refuse(checking, "E-LIMITS-MEMORY", text.span(), what, &fix);
    None
}

fn cpu_of(value: &Spanned<f64>, checking: &mut Checking<'_>) -> Option<u32> {
    let cores = *value.get_ref();
    let thousandths = (cores * 1000.0).round();
    if (f64::from(LEAST_CPU)..=MOST_CPU * 1000.0).contains(&thousandths) {
        // Within the range it is a small positive whole number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        return Some(thousandths as u32);
    }
    let (what, fix) = if thousandths < f64::from(LEAST_CPU) {
        (
            format!("with {cores} of a processor k3s is too slow to keep its lease"),
            "give the node 0.25 or more, or remove `cpu`",
        )
    } else {
        (
            format!("no machine has {cores} processors"),
            "write how many the node may use, as in `cpu = 1.5` for one and a half",
        )
    };
    refuse(checking, "E-LIMITS-CPU", value.span(), what, fix);
    None
}

fn pids_of(value: &Spanned<i64>, checking: &mut Checking<'_>) -> Option<u32> {
    // The kernel's own bound on process ids (PID_MAX_LIMIT).
    const MOST: u32 = 4 << 20;
    let written = *value.get_ref();
    match u32::try_from(written) {
        Ok(pids) if (LEAST_PIDS..=MOST).contains(&pids) => return Some(pids),
        _ => {}
    }
    let what = format!("{written} processes and threads are {}", {
        if written < LEAST_PIDS.into() {
            "fewer than k3s has before its first pod"
        } else {
            "more than the kernel can count"
        }
    });
    let fix = format!("use a number from {LEAST_PIDS} to {MOST}, such as 4096");
    refuse(checking, "E-LIMITS-PIDS", value.span(), what, &fix);
    None
}

type Rates = (Option<u64>, Option<u64>);

fn bandwidth_of(value: &Spanned<BandwidthValue>, checking: &mut Checking<'_>) -> Option<Rates> {
    let BandwidthValue { up, down } = value.get_ref();
    let both = up == down;
    let mut rate = |text: Option<&String>| -> Option<Option<u64>> {
        let Some(text) = text else { return Some(None) };
        match rate_of(text) {
            Ok(rate) => Some(Some(rate)),
            Err((what, fix)) => {
                refuse(checking, "E-LIMITS-BANDWIDTH", value.span(), what, &fix);
                None
            }
        }
    };
    if both {
        let rate = rate(up.as_ref())?;
        return Some((rate, rate));
    }
    let (up, down) = (rate(up.as_ref()), rate(down.as_ref()));
    Some((up?, down?))
}

fn rate_of(text: &str) -> Result<u64, (String, String)> {
    match quantity::read(text, DECIMAL) {
        Some(rate) if (LEAST_RATE..=MOST_RATE).contains(&rate) => Ok(rate),
        Some(rate) if rate < LEAST_RATE => Err((
            format!("with {text} bits a second the node cannot keep up with its cluster"),
            "give it \"1M\" or more, or remove `bandwidth`".to_owned(),
        )),
        Some(_) => Err((
            format!("{text} bits a second are more than can be limited"),
            "use at most \"32G\", or remove `bandwidth`".to_owned(),
        )),
        None => Err((
            format!("\"{text}\" is not a number of bits a second"),
            "write a whole number and K, M or G, as in \"20M\"".to_owned(),
        )),
    }
}
