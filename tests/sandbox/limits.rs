//! What the host's owner grants a node holds for all of it, and costs nobody else.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Test;
use crate::host::{Node, drive, event, script, spawn, stop, unified, until};
use crate::sandbox::limit::usage;
use crate::sandbox::{Event, Limits, Status};

pub const TESTS: &[Test] = &[
    (
        "a_hog_ends_within_the_nodes_memory_and_nothing_else_does",
        memory,
    ),
    ("a_busy_node_waits_for_its_share_of_the_processors", cpu),
    ("a_node_that_forks_without_end_meets_its_limit", pids),
    (
        "a_node_that_is_taken_over_gets_the_limits_of_the_day",
        changed,
    ),
];

const GRACE: Duration = Duration::from_secs(1);
const MIB: u64 = 1 << 20;

fn limited(limits: Limits) -> Result<Node> {
    let mut node = Node::new("grumpy")?;
    node.settings.limits = limits;
    Ok(node)
}

/// What the kernel keeps for the node's memory, as the node's cgroup shows it.
fn granted(node: &Node) -> Result<u64> {
    let file = match unified() {
        true => "/sys/fs/cgroup/memory.max",
        false => "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    };
    let text = node.shell(&format!("cat {file}"))?;
    // Version 1 shows no limit as the largest number of pages.
    Ok(text.parse().unwrap_or(u64::MAX))
}

fn memory() -> Result<()> {
    drive(async {
        let node = limited(Limits {
            memory: Some(96 * MIB),
            ..Limits::default()
        })?;
        let mut sandbox = node.start().await?;
        ensure!(granted(&node)? == 96 * MIB, "{}", granted(&node)?);
        let init = node.init()?;
        spawn(&mut sandbox, script("bystander", "exec sleep 1234567")).await?;
        // It keeps all that it reads, looking for the last line.
        spawn(&mut sandbox, script("k3s", "exec tail /dev/zero")).await?;
        let ended = event(&mut sandbox).await?;
        let killed = Event::Exited {
            id: "k3s".into(),
            pid: match &ended {
                Event::Exited { pid, .. } => *pid,
                _ => 0,
            },
            status: Status::Signal(9),
        };
        ensure!(ended == killed, "{ended:?}");
        let used = usage(&node.settings.run_directory);
        ensure!(used.memory_kills >= Some(1), "{used:?}");
        ensure!(
            used.memory.is_some_and(|bytes| bytes <= 96 * MIB),
            "{used:?}"
        );
        ensure!(node.init()? == init, "init is another one");
        ensure!(
            node.shell("cat /proc/[0-9]*/cmdline")?.contains("1234567"),
            "the bystander ended too"
        );
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn cpu() -> Result<()> {
    drive(async {
        let node = limited(Limits {
            cpu: Some(250),
            ..Limits::default()
        })?;
        let mut sandbox = node.start().await?;
        spawn(&mut sandbox, script("k3s", "while :; do :; done")).await?;
        let run_directory = &node.settings.run_directory;
        until("the node was held back", || {
            usage(run_directory).cpu_throttled >= Some(2)
        })
        .await?;
        ensure!(usage(run_directory).cpu_us > Some(0));
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn pids() -> Result<()> {
    drive(async {
        let node = limited(Limits {
            pids: Some(40),
            ..Limits::default()
        })?;
        let mut sandbox = node.start().await?;
        let bomb = "i=0; while [ $i -lt 200 ]; do sleep 1234567 & i=$((i+1)); done; wait";
        spawn(&mut sandbox, script("k3s", bomb)).await?;
        let run_directory = &node.settings.run_directory;
        until("another process was refused", || {
            usage(run_directory).pids_refused >= Some(1)
        })
        .await?;
        let used = usage(run_directory);
        ensure!(used.pids.is_some_and(|pids| pids <= 40), "{used:?}");
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn changed() -> Result<()> {
    drive(async {
        let mut node = limited(Limits {
            memory: Some(512 * MIB),
            ..Limits::default()
        })?;
        let mut sandbox = node.start().await?;
        ensure!(granted(&node)? == 512 * MIB);
        // Holds 200 MB until it is told to end.
        let holder = "head -c 200000000 /dev/zero | tail -n 1 | sleep 1234567 & wait";
        spawn(&mut sandbox, script("k3s", holder)).await?;
        let run_directory = node.settings.run_directory.clone();
        until("200 MB are in use", || {
            usage(&run_directory).memory >= Some(200_000_000)
        })
        .await?;
        drop(sandbox);

        if !unified() {
            // Version 1 kills nobody for a limit that comes too late: it is refused, and told.
            node.settings.limits.memory = Some(96 * MIB);
            let sandbox = node.start().await?;
            let told = sandbox.unlimited().map(ToString::to_string);
            ensure!(
                told.as_deref()
                    .is_some_and(|why| why.contains("uses more than")),
                "{told:?}"
            );
            drop(sandbox);
        }
        node.settings.limits.memory = Some(768 * MIB);
        let sandbox = node.start().await?;
        ensure!(sandbox.adopted() && sandbox.unlimited().is_none());
        ensure!(granted(&node)? == 768 * MIB, "{}", granted(&node)?);
        drop(sandbox);

        node.settings.limits = Limits::default();
        let sandbox = node.start().await?;
        ensure!(sandbox.adopted() && granted(&node)? > 1 << 60);
        ensure!(node.shell("cat /proc/[0-9]*/cmdline")?.contains("1234567"));
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}
