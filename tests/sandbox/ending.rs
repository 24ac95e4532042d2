//! The end of a node: what is told, what is killed, and that nothing is left.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use nix::sys::signal::{Signal, kill};

use crate::Test;
use crate::host::{self, Node, drive, event, run, script, spawn, stop};
use crate::sandbox::{Event, Status};

pub const TESTS: &[Test] = &[
    ("programs_and_pods_are_told_before_they_are_killed", told),
    (
        "children_that_ignore_sigterm_are_killed_within_the_grace",
        stubborn,
    ),
    (
        "a_service_manager_can_end_the_node_and_the_node_itself_cannot",
        from_outside,
    ),
    (
        "nodes_that_come_and_go_at_once_are_not_in_one_anothers_way",
        crowd,
    ),
    ("a_start_that_fails_leaves_nothing", failed_start),
    ("version_2_alone_has_the_node_in_a_split_cgroup", unified),
];

fn told() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        spawn(
            &mut sandbox,
            script(
                "k3s",
                "trap 'echo told; exit' TERM; while :; do sleep 0.05; done",
            ),
        )
        .await?;
        // A pod's process is nobody's child, in a cgroup below kubepods; its shim is there too on some hosts.
        fs::copy("/bin/sleep", "/srv/data/containerd-shim")?;
        node.shell(
            "mkdir -p $PODS/pod1\n\
             pod() { sh -c 'echo $$ > $PODS/pod1/cgroup.procs; exec \"$@\"' pod \"$@\" > /dev/null 2>&1 & }\n\
             pod sh -c 'trap \"echo told > /var/log/pod; exit\" TERM; touch /var/log/pod; while :; do sleep 0.05; done'\n\
             pod /srv/data/containerd-shim 1234567\n",
        )?;
        host::until("the pod runs", || {
            node.settings.directory.join("log/pod").exists()
        })
        .await?;
        host::until("the pod's shell has its trap", || {
            node.shell("wc -l < $PODS/pod1/cgroup.procs")
                .is_ok_and(|count| count == "3")
        })
        .await?;
        let start = Instant::now();
        stop(sandbox, Duration::from_secs(20)).await?;
        ensure!(
            start.elapsed() < Duration::from_secs(10),
            "it waited for the shim: {:?}",
            start.elapsed()
        );
        ensure!(node.log("k3s") == "told\n", "k3s: {:?}", node.log("k3s"));
        ensure!(fs::read_to_string(node.settings.directory.join("log/pod"))? == "told\n");
        node.is_gone()
    })
}

fn stubborn() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let children = "trap '' TERM; for i in 1 2 3; do setsid sh -c 'while :; do sleep 0.1; done' & done; \
                        echo ready; while :; do sleep 0.1; done";
        spawn(&mut sandbox, script("k3s", children)).await?;
        host::until("the children run", || node.log("k3s") == "ready\n").await?;
        node.shell(
            "mkdir -p $PODS/pod1; \
             (echo 0 > $PODS/pod1/cgroup.procs; trap '' TERM; while :; do sleep 0.1; done) \
             > /dev/null 2>&1 &",
        )?;
        let start = Instant::now();
        stop(sandbox, Duration::from_secs(1)).await?;
        ensure!(
            start.elapsed() < Duration::from_secs(6),
            "{:?}",
            start.elapsed()
        );
        node.is_gone()
    })
}

fn from_outside() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let told = "trap 'echo told; exit' TERM; echo ready; while :; do sleep 0.05; done";
        spawn(&mut sandbox, script("k3s", told)).await?;
        host::until("the program runs", || node.log("k3s") == "ready\n").await?;
        node.shell("kill -TERM 1")?;
        node.shell("true")?;
        kill(node.init()?, Signal::SIGTERM)?;
        let ended = event(&mut sandbox).await?;
        ensure!(
            matches!(
                ended,
                Event::Exited {
                    status: Status::Code(0),
                    ..
                }
            ),
            "{ended:?}"
        );
        ensure!(event(&mut sandbox).await? == Event::InitGone);
        ensure!(node.log("k3s") == "ready\ntold\n", "{}", node.log("k3s"));
        stop(sandbox, Duration::from_secs(1)).await?;
        node.is_gone()
    })
}

fn crowd() -> Result<()> {
    async fn come_and_go(node: &Node) -> Result<()> {
        for _ in 0..5 {
            let sandbox = node.start().await?;
            node.shell("touch /opt/cni/x /etc/rancher/x /run/x")?;
            stop(sandbox, Duration::from_secs(1)).await?;
        }
        Ok(())
    }
    drive(async {
        let (one, two, three) = (
            Node::new("grumpy")?,
            Node::new("sleepy")?,
            Node::new("dopey")?,
        );
        tokio::try_join!(come_and_go(&one), come_and_go(&two), come_and_go(&three))?;
        [one, two, three].iter().try_for_each(Node::is_gone)
    })
}

fn failed_start() -> Result<()> {
    drive(async {
        let mut node = Node::new("grumpy")?;
        let good = node.settings.clone();
        node.settings.netns = "/run/netns/nowhere".into();
        expect(&node, "E-SANDBOX-NAMESPACE").await?;
        node.settings = good.clone();
        node.settings.hidden.push("/var/lib".into());
        expect(&node, "E-SANDBOX-HIDDEN").await?;
        node.settings = good.clone();
        // Seen by init alone, after everything but the mounts is made.
        node.settings.data = vec!["/srv/unmounted".into()];
        expect(&node, "E-SANDBOX-FILE").await?;
        node.settings = good.clone();
        node.settings.executable = "/bin/false".into();
        expect(&node, "E-SANDBOX-START").await?;
        node.settings = good;
        stop(node.start().await?, Duration::from_secs(1)).await
    })
}

async fn expect(node: &Node, code: &str) -> Result<()> {
    match crate::sandbox::Sandbox::start_or_adopt(&node.settings).await {
        Ok(_) => anyhow::bail!("it started in place of {code}"),
        Err(error) => ensure!(error.code() == code, "{code} was expected: {error}"),
    }
    node.is_gone()
}

/// The arrangement alone: on a host of version 1 no controller is left for version 2 to hand out.
fn unified() -> Result<()> {
    run("umount", &["-R", "/sys/fs/cgroup"])?;
    run("mount", &["-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"])?;
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let pid = spawn(&mut sandbox, script("k3s", "exec sleep 1234567")).await?;
        let of = |pid: &str| node.shell(&format!("grep ^0: /proc/{pid}/cgroup"));
        ensure!(of("1")? == "0::/init");
        ensure!(of(&pid.to_string())? == "0::/k3s");
        ensure!(of("self")? == "0::/exec");
        // A kubelet makes its own beside them, where no process is in the way.
        ensure!(node.shell("cat /sys/fs/cgroup/cgroup.procs")?.is_empty());
        node.shell("mkdir -p /sys/fs/cgroup/kubepods/pod1")?;
        let mut pod = Command::new(host::HEPTO);
        pod.args([
            "exec",
            "--",
            "sh",
            "-c",
            "echo 0 > /sys/fs/cgroup/kubepods/pod1/cgroup.procs; trap '' TERM; sleep 1234567; :",
        ]);
        let mut pod = pod.spawn()?;
        host::until("the pod runs", || {
            node.shell("cat /sys/fs/cgroup/kubepods/pod1/cgroup.procs")
                .is_ok_and(|pids| !pids.is_empty())
        })
        .await?;
        stop(sandbox, Duration::from_secs(1)).await?;
        pod.wait()?;
        node.is_gone()
    })
}
