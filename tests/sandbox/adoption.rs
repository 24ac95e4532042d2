//! What happens when one of the processes is killed.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};

use crate::Test;
use crate::host::{self, Node, drive, event, script, spawn, stop};
use crate::sandbox::{Event, Program, Sandbox, Status};

pub const TESTS: &[Test] = &[
    (
        "a_killed_supervisor_leaves_the_program_to_the_next",
        supervisor_killed,
    ),
    ("what_happened_meanwhile_is_told_on_adoption", told_again),
    (
        "a_node_whose_network_is_another_by_now_starts_anew",
        other_network,
    ),
    ("the_end_of_init_is_noticed_and_cleaned_up", init_killed),
    ("nothing_is_left_when_supervisor_and_init_died", both_killed),
    (
        "output_goes_to_a_file_and_notifications_to_the_supervisor",
        output,
    ),
    ("a_program_that_cannot_be_started_is_reported", not_started),
    ("pids_are_known_on_the_host", pids),
];

const GRACE: Duration = Duration::from_secs(5);

/// Writes a line for ever: it dies of SIGPIPE if its output ends with the supervisor.
const CHATTER: &str = "trap 'exit 3' TERM; while :; do echo still here; sleep 0.05; done";

/// `main --supervise NODE`: a supervisor that can be killed.
pub fn supervise(node: &str) -> Result<()> {
    drive(async {
        let node = Node::new(node)?;
        let mut sandbox = node.start().await?;
        let pid = spawn(&mut sandbox, script("k3s", CHATTER)).await?;
        println!("{pid}");
        std::future::pending().await
    })
}

/// Starts a supervisor, kills it, and gives the pid of its program.
fn start_and_kill(node: &Node) -> Result<i32> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command
        .args(["--supervise", &node.settings.node])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("no output")?).read_line(&mut line)?;
    child.kill()?;
    child.wait()?;
    line.trim().parse().context("the supervisor failed")
}

fn supervisor_killed() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let pid = start_and_kill(&node)?;
        let before = node.log("k3s").len();
        host::until("the program writes on", || node.log("k3s").len() > before).await?;
        let mut sandbox = node.start().await?;
        ensure!(sandbox.adopted());
        ensure!(
            event(&mut sandbox).await?
                == Event::Spawned {
                    id: "k3s".into(),
                    pid
                }
        );
        ensure!(
            node.shell(&format!("tr '\\0' ' ' < /proc/{pid}/cmdline"))?
                .contains("still here")
        );
        // The adopted program is one's own: signalled, and its end told.
        sandbox.signal("k3s", Signal::SIGTERM as i32).await?;
        ensure!(
            event(&mut sandbox).await?
                == Event::Exited {
                    id: "k3s".into(),
                    pid,
                    status: Status::Code(3)
                }
        );
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn told_again() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let pid = spawn(&mut sandbox, notifier()).await?;
        drop(sandbox);
        host::until("the program's end", || {
            node.shell("ls /proc | grep -c '^[0-9]'")
                .is_ok_and(|_| !alive(&node, pid))
        })
        .await?;
        let mut sandbox = node.start().await?;
        ensure!(
            event(&mut sandbox).await?
                == Event::Spawned {
                    id: "k3s".into(),
                    pid
                }
        );
        ensure!(
            event(&mut sandbox).await?
                == Event::Notify {
                    id: "k3s".into(),
                    text: "READY=1\nSTATUS=well".into()
                }
        );
        ensure!(
            event(&mut sandbox).await?
                == Event::Exited {
                    id: "k3s".into(),
                    pid,
                    status: Status::Code(4)
                }
        );
        // Its id is free again.
        ensure!(spawn(&mut sandbox, script("k3s", "exit 0")).await? != pid);
        stop(sandbox, GRACE).await
    })
}

const NOTIFIER: &str = "import os, socket\n\
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    s.sendto(b'READY=1\\nSTATUS=starting', os.environ['NOTIFY_SOCKET'])\n\
    s.sendto(b'STATUS=well', os.environ['NOTIFY_SOCKET'])\n\
    os._exit(4)\n";

/// A program that sends two notifications and ends; a shell has no datagram sockets.
fn notifier() -> Program {
    Program {
        argv: vec!["python3".into(), "-c".into(), NOTIFIER.into()],
        notify: true,
        ..script("k3s", "")
    }
}

fn alive(node: &Node, pid: i32) -> bool {
    node.shell(&format!("test -e /proc/{pid}")).is_ok()
}

fn other_network() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        spawn(&mut sandbox, script("k3s", CHATTER)).await?;
        drop(sandbox);
        let pin = &node.settings.netns;
        nix::mount::umount(pin)?;
        host::run("unshare", &[&format!("--net={}", pin.display()), "true"])?;
        let sandbox = node.start().await?;
        ensure!(!sandbox.adopted());
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn init_killed() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        spawn(&mut sandbox, script("k3s", CHATTER)).await?;
        kill(node.init()?, Signal::SIGKILL)?;
        ensure!(event(&mut sandbox).await? == Event::InitGone);
        stop(sandbox, GRACE).await?;
        node.is_gone()?;
        // And the next run starts from nothing.
        let sandbox = node.start().await?;
        ensure!(!sandbox.adopted());
        stop(sandbox, GRACE).await
    })
}

fn both_killed() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        spawn(&mut sandbox, script("k3s", CHATTER)).await?;
        node.shell("mkdir -p $PODS/pod1")?;
        let init = node.init()?;
        drop(sandbox);
        kill(init, Signal::SIGKILL)?;
        let errors = crate::sandbox::cleanup(&node.settings.run_directory, GRACE).await;
        ensure!(errors.is_empty(), "{errors:?}");
        node.is_gone()?;
        // The same where init still lives, and where nothing is left to clean.
        start_and_kill(&node)?;
        for _ in 0..2 {
            let errors = crate::sandbox::cleanup(&node.settings.run_directory, GRACE).await;
            ensure!(errors.is_empty(), "{errors:?}");
            node.is_gone()?;
        }
        // A start over the remains of a dead node removes them first.
        let sandbox = node.start().await?;
        kill(node.init()?, Signal::SIGKILL)?;
        drop(sandbox);
        let sandbox = node.start().await?;
        ensure!(!sandbox.adopted());
        stop(sandbox, GRACE).await
    })
}

fn output() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let pid = spawn(&mut sandbox, notifier()).await?;
        let id = || "k3s".to_owned();
        for text in ["READY=1\nSTATUS=starting", "STATUS=well"] {
            ensure!(
                event(&mut sandbox).await?
                    == Event::Notify {
                        id: id(),
                        text: text.into()
                    }
            );
        }
        ensure!(
            event(&mut sandbox).await?
                == Event::Exited {
                    id: id(),
                    pid,
                    status: Status::Code(4)
                }
        );
        spawn(
            &mut sandbox,
            script(
                "k3s",
                "echo out; echo err >&2; env; ls -l /proc/self/fd; kill -9 $$",
            ),
        )
        .await?;
        match event(&mut sandbox).await? {
            Event::Exited {
                status: Status::Signal(9),
                ..
            } => {}
            other => bail!("{other:?}"),
        }
        let log = node.log("k3s");
        ensure!(
            log.contains("out\nerr\n") && log.contains("HOME=/root"),
            "{log}"
        );
        ensure!(
            !log.contains("NOTIFY_SOCKET") && !log.contains(host::CLUSTER),
            "{log}"
        );
        // Of ours it has its three descriptors alone, and the folder that ls reads.
        ensure!(
            log.lines().filter(|line| line.contains("->")).count() == 4,
            "{log}"
        );
        stop(sandbox, GRACE).await
    })
}

fn not_started() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox = node.start().await?;
        let mut program = script("k3s", "");
        program.argv = vec!["/nowhere/k3s".into()];
        sandbox.spawn(&program).await?;
        match event(&mut sandbox).await? {
            Event::Failed { id, error } if id == "k3s" && error.code() == "E-SANDBOX-PROGRAM" => {}
            other => bail!("{other:?}"),
        }
        spawn(&mut sandbox, script("k3s", "exec sleep 1234567")).await?;
        sandbox.spawn(&script("k3s", "exit")).await?;
        match event(&mut sandbox).await? {
            Event::Failed { error, .. } if error.to_string().contains("runs already") => {}
            other => bail!("{other:?}"),
        }
        stop(sandbox, GRACE).await
    })
}

fn pids() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let mut sandbox: Sandbox = node.start().await?;
        let pid = spawn(&mut sandbox, script("k3s", "exec sleep 1234567")).await?;
        let host = sandbox.host_pid(pid).context("it is not found")?;
        host::until("it sleeps", || {
            std::fs::read_to_string(format!("/proc/{host}/cmdline"))
                .is_ok_and(|line| line.contains("1234567"))
        })
        .await?;
        ensure!(sandbox.host_pid(99_999).is_none());
        stop(sandbox, GRACE).await
    })
}
