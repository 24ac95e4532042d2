//! Commands that enter a node.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Test;
use crate::host::{self, Node, drive, run, script, spawn, stop};

pub const TESTS: &[Test] = &[
    (
        "exec_gives_the_commands_exit_code_terminal_and_environment",
        exec,
    ),
    ("exec_net_needs_no_sandbox", exec_net),
    (
        "kubectl_is_the_nodes_own_on_a_server_and_elsewhere_on_an_agent",
        kubectl,
    ),
];

const GRACE: Duration = Duration::from_secs(5);

fn exec() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let code = |script: &str| -> Result<Option<i32>> {
            Ok(node.exec(&["--", "sh", "-c", script])?.status.code())
        };
        let output = node.exec(&["--", "true"])?;
        ensure!(String::from_utf8(output.stderr)?.contains("E-TARGET-NONE"));
        let sandbox = node.start().await?;
        ensure!(code("exit 7")? == Some(7));
        ensure!(code("kill -9 $$")? == Some(128 + 9));
        ensure!(
            String::from_utf8(node.exec(&["--", "/nowhere"])?.stderr)?.contains("E-EXEC-COMMAND")
        );
        // From nothing: no variable of the caller's is passed on, but TERM.
        let mut env = Command::new(host::HEPTO);
        env.args(["exec", "--node", "grumpy", "--", "env"])
            .env_clear()
            .env("TERM", "vt52")
            .env("INVOCATION_ID", "0123");
        let text = String::from_utf8(env.output()?.stdout)?;
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| Some(line.split_once('=')?.0))
            .collect();
        names.sort_unstable();
        ensure!(names == ["HOME", "PATH", "TERM"], "{text}");
        // A terminal stays one.
        let command = format!(
            "{} exec --node grumpy -- sh -c 'test -t 0 && echo a terminal'",
            host::HEPTO
        );
        ensure!(run("script", &["-qec", &command, "/dev/null"])?.contains("a terminal"));
        stop(sandbox, GRACE).await
    })
}

fn exec_net() -> Result<()> {
    let node = Node::new("grumpy")?;
    let settings = &node.settings;
    fs::create_dir(&settings.run_directory)?;
    crate::sandbox::write_network(
        &settings.run_directory,
        &settings.hosts,
        &settings.resolv_conf,
    )?;
    let output = node.exec(&["--", "true"])?;
    ensure!(
        String::from_utf8(output.stderr)?.contains("exec --net"),
        "it does not say what works"
    );
    let before = fs::read_to_string("/proc/self/mountinfo")?;
    let script = "readlink /proc/self/ns/net; grep grumpy /etc/hosts; cat /etc/resolv.conf; ls /sys/class/net; \
                  ls /sys/fs/cgroup | head -1; echo $$; echo $OF_THE_CALLER; exit 5";
    let output = node.exec(&["--net", "--", "sh", "-c", script])?;
    let text = String::from_utf8(output.stdout)?;
    let lines: Vec<_> = text.lines().collect();
    ensure!(
        output.status.code() == Some(5),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    ensure!(lines[0] != fs::read_link("/proc/self/ns/net")?.to_string_lossy());
    ensure!(
        lines[1..4] == ["10.44.7.9 grumpy", "nameserver 192.0.2.53", "lo"],
        "{text}"
    );
    ensure!(!lines[4].is_empty(), "no cgroups are seen: {text}");
    ensure!(
        fs::read_to_string("/proc/self/mountinfo")? == before,
        "the host's mounts have changed"
    );
    Ok(())
}

fn kubectl() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let k3s = "/srv/data/k3s";
        fs::write(
            k3s,
            "#!/bin/sh\nif [ $1 = kubectl ]; then echo $KUBECONFIG $(hostname) \"$@\"; else exec sleep 1234567; fi\n",
        )?;
        run("chmod", &["755", k3s])?;
        let kubectl = || {
            Command::new(host::HEPTO)
                .args(["kubectl", "--node", "grumpy", "get", "--all", "nodes"])
                .output()
        };
        let mut sandbox = node.start().await?;
        ensure!(String::from_utf8(kubectl()?.stderr)?.contains("E-KUBECTL-NO-K3S"));
        let program = |role: &str| {
            let mut program = script("k3s", "");
            program.argv = vec![k3s.into(), role.into()];
            program
        };
        spawn(&mut sandbox, program("server")).await?;
        let said = String::from_utf8(kubectl()?.stdout)?;
        ensure!(
            said == "/etc/rancher/k3s/k3s.yaml grumpy kubectl get --all nodes\n",
            "{said}"
        );
        sandbox.signal("k3s", 9).await?;
        host::event(&mut sandbox)
            .await
            .context("the end of the server")?;
        node.shell("mkdir -p /etc/rancher/k3s; echo 'server: https://sleepy:6443' > /etc/rancher/k3s/config.yaml")?;
        spawn(&mut sandbox, program("agent")).await?;
        let said = String::from_utf8(kubectl()?.stderr)?;
        ensure!(
            said.contains("E-KUBECTL-AGENT") && said.contains(".sleepy"),
            "{said}"
        );
        stop(sandbox, GRACE).await
    })
}
