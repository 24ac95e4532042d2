//! What the host's owner grants a node, and what it uses of that: memory, processors and processes of init, k3s and
//! pods together. The supervisor, which is not in the node, does not count.
//!
//! Where a systemd scope holds the node, the limits are the scope's properties, so that `systemctl` shows them; else
//! they are written into the node's own cgroups. Either may be done again at any time: a node that is taken over
//! gets the limits of the day.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Error;
use super::cgroup::Hierarchy;
use super::state::State;

/// What everything in a node may use together; `None`: as much as there is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, bytes. The node may not make up for it with the host's swap.
    pub memory: Option<u64>,
    /// Processors, thousandths of one.
    pub cpu: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

/// What a node uses, as far as the kernel counts it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Memory, bytes; what the page cache holds for it included.
    pub memory: Option<u64>,
    /// How many of its processes were killed for want of memory.
    pub memory_kills: Option<u64>,
    /// Processor time, microseconds.
    pub cpu_us: Option<u64>,
    /// In how many periods of a tenth of a second it had to wait for the next.
    pub cpu_throttled: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// How often it was refused another one.
    pub pids_refused: Option<u64>,
}

/// The kernel's own period for shares of processors (`cpu.max`, `cpu.cfs_period_us`), microseconds.
const PERIOD: u64 = 100_000;

/// What is written into one file.
#[derive(Debug, PartialEq, Eq)]
struct Write {
    path: PathBuf,
    value: String,
    /// Whether the limit holds without it: kernels differ, and swap may be off.
    optional: bool,
}

/// Applies the limits to the node of a run directory, those that are `None` too: an earlier one goes.
///
/// # Errors
/// [`Error::Limit`] when the kernel or systemd refuses one, or has no controller for it.
pub async fn apply(run_directory: &Path, limits: &Limits) -> Result<(), Error> {
    let Some(state) = State::read(run_directory) else {
        return Ok(());
    };
    match state.hierarchies.iter().find_map(scope) {
        Some(unit) => set_properties(&unit, limits).await,
        None => plan(&state.hierarchies, limits)?.iter().try_for_each(write),
    }
}

/// What the node of a run directory uses; nothing where none runs.
pub fn usage(run_directory: &Path) -> Usage {
    match State::read(run_directory) {
        Some(state) => measure(&state.hierarchies),
        None => Usage::default(),
    }
}

/// The systemd scope that holds a hierarchy's cgroup of the node, if one does.
fn scope(hierarchy: &Hierarchy) -> Option<String> {
    let name = hierarchy.base.file_name()?.to_str()?;
    (name.starts_with("hepto-") && name.ends_with("-pods.scope")).then(|| name.to_owned())
}

/// The cgroup that is limited.
fn limited(hierarchy: &Hierarchy) -> &Path {
    match scope(hierarchy) {
        Some(_) => &hierarchy.base,
        None => &hierarchy.directory,
    }
}

/// The properties of systemd.resource-control(5).
fn properties(limits: &Limits) -> [String; 4] {
    let or_infinite =
        |limit: Option<u64>| limit.map_or("infinity".to_owned(), |limit| limit.to_string());
    [
        format!("MemoryMax={}", or_infinite(limits.memory)),
        format!("MemorySwapMax={}", or_infinite(limits.memory.map(|_| 0))),
        // An empty one is none.
        format!(
            "CPUQuota={}",
            limits
                .cpu
                .map_or(String::new(), |cpu| format!("{}.{}%", cpu / 10, cpu % 10))
        ),
        // systemd's own default would be a few thousand, for a node of any size.
        format!("TasksMax={}", or_infinite(limits.pids.map(u64::from))),
    ]
}

async fn set_properties(unit: &str, limits: &Limits) -> Result<(), Error> {
    let refused = |why: String| Error::Limit {
        what: unit.to_owned(),
        why,
    };
    let output = tokio::process::Command::new("systemctl")
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .args(["set-property", "--runtime", unit])
        .args(properties(limits))
        .output()
        .await
        .map_err(|error| refused(format!("systemctl: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    Err(refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}

/// What to write into which files, in order.
fn plan(hierarchies: &[Hierarchy], limits: &Limits) -> Result<Vec<Write>, Error> {
    let mut writes = Vec::new();
    memory(hierarchies, limits.memory, &mut writes)?;
    cpu(hierarchies, limits.cpu, &mut writes)?;
    if let Some(pids) = place(hierarchies, "pids", limits.pids.is_some())? {
        let value = limits
            .pids
            .map_or("max".to_owned(), |pids| pids.to_string());
        writes.push(required(pids.file("pids.max"), value));
    }
    Ok(writes)
}

fn memory(
    hierarchies: &[Hierarchy],
    limit: Option<u64>,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let Some(place) = place(hierarchies, "memory", limit.is_some())? else {
        return Ok(());
    };
    if !place.version1 {
        let value = limit.map_or("max".to_owned(), |limit| limit.to_string());
        let swap = if limit.is_some() { "0" } else { "max" };
        writes.push(required(place.file("memory.max"), value));
        writes.push(optional(place.file("memory.swap.max"), swap));
        return Ok(());
    }
    let value = limit.map_or("-1".to_owned(), |limit| limit.to_string());
    let both = place.file("memory.memsw.limit_in_bytes");
    // Before Linux 5.11 a cgroup does not count for its parent unless it is told to.
    writes.push(optional(place.file("memory.use_hierarchy"), "1"));
    // Memory and swap together may at no moment be less than memory alone.
    writes.push(optional(both.clone(), "-1"));
    writes.push(required(place.file("memory.limit_in_bytes"), value.clone()));
    writes.push(optional(both, &value));
    Ok(())
}

fn cpu(
    hierarchies: &[Hierarchy],
    limit: Option<u32>,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let Some(place) = place(hierarchies, "cpu", limit.is_some())? else {
        return Ok(());
    };
    let quota = limit.map(|thousandths| u64::from(thousandths) * PERIOD / 1000);
    if place.version1 {
        let quota = quota.map_or("-1".to_owned(), |quota| quota.to_string());
        writes.push(required(
            place.file("cpu.cfs_period_us"),
            PERIOD.to_string(),
        ));
        writes.push(required(place.file("cpu.cfs_quota_us"), quota));
    } else {
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        writes.push(required(place.file("cpu.max"), format!("{quota} {PERIOD}")));
    }
    Ok(())
}

fn required(path: PathBuf, value: String) -> Write {
    Write {
        path,
        value,
        optional: false,
    }
}

fn optional(path: PathBuf, value: &str) -> Write {
    Write {
        path,
        value: value.to_owned(),
        optional: true,
    }
}

/// The node's cgroup of one controller.
struct Place {
    directory: PathBuf,
    version1: bool,
}

impl Place {
    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Where a controller is, which may be a hierarchy of its own; `None` when this kernel lacks it and nothing is asked.
fn place(
    hierarchies: &[Hierarchy],
    controller: &str,
    needed: bool,
) -> Result<Option<Place>, Error> {
    let has = |hierarchy: &&Hierarchy| match &hierarchy.version1 {
        Some(_) => hierarchy.name.split(',').any(|name| name == controller),
        None => {
            let has = fs::read_to_string(limited(hierarchy).join("cgroup.controllers"));
            has.is_ok_and(|has| has.split_whitespace().any(|name| name == controller))
        }
    };
    // A controller is in one hierarchy at a time.
    match hierarchies.iter().find(has) {
        Some(hierarchy) => Ok(Some(Place {
            directory: limited(hierarchy).to_owned(),
            version1: hierarchy.version1.is_some(),
        })),
        None if needed => Err(Error::Limit {
            what: controller.to_owned(),
            why: "this kernel has no such controller, or it is not mounted".to_owned(),
        }),
        None => Ok(None),
    }
}

fn write(write: &Write) -> Result<(), Error> {
    match fs::write(&write.path, &write.value) {
        Err(error) if !write.optional => Err(Error::Limit {
            what: write.path.display().to_string(),
            why: reason(&error, &write.value),
        }),
        _ => Ok(()),
    }
}

/// Version 1 refuses a limit that it cannot reach by giving back memory.
fn reason(error: &io::Error, value: &str) -> String {
    match error.kind() {
        ErrorKind::ResourceBusy => format!("the node uses more than {value} bytes now"),
        _ => error.to_string(),
    }
}

fn measure(hierarchies: &[Hierarchy]) -> Usage {
    let place = |controller| place(hierarchies, controller, false).ok().flatten();
    let mut usage = Usage::default();
    if let Some(memory) = place("memory") {
        let (current, events) = match memory.version1 {
            true => ("memory.usage_in_bytes", "memory.oom_control"),
            false => ("memory.current", "memory.events"),
        };
        usage.memory = number(&memory.file(current));
        usage.memory_kills = counter(&memory.file(events), "oom_kill");
    }
    if let Some(cpu) = place("cpu") {
        let stat = cpu.file("cpu.stat");
        usage.cpu_throttled = counter(&stat, "nr_throttled");
        usage.cpu_us = match place("cpuacct") {
            Some(account) => number(&account.file("cpuacct.usage")).map(|ns| ns / 1000),
            None => counter(&stat, "usage_usec"),
        };
    }
    if let Some(pids) = place("pids") {
        usage.pids = number(&pids.file("pids.current"));
        usage.pids_refused = refused(&pids.directory);
    }
    usage
}

/// How often a process was refused another one. Before Linux 6.11 that is counted where the process is that asked, and not
/// where the limit is.
fn refused(directory: &Path) -> Option<u64> {
    match counter(&directory.join("pids.events"), "max")? {
        0 => Some(refused_below(directory)),
        own => Some(own),
    }
}

fn refused_below(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| {
            let own = counter(&entry.path().join("pids.events"), "max");
            own.unwrap_or(0) + refused_below(&entry.path())
        })
        .sum()
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// One line of a file of `name value` lines.
fn counter(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(key, _)| *key == name)?.1.trim().parse().ok()
}

#[cfg(test)]
mod tests;
