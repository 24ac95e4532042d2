//! What a node sees, and what it does not.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::Test;
use crate::host::{self, Node, drive, script, spawn, stop};

pub const TESTS: &[Test] = &[
    ("the_node_has_an_init_a_name_and_files_of_its_own", own),
    ("every_place_that_k3s_looks_for_is_there", places),
    ("storage_and_keys_are_hidden_and_data_is_not", hidden),
    ("a_link_to_a_stub_resolver_is_followed", stub_resolver),
    ("kubelets_sysctls_do_not_reach_the_host", sysctls),
    (
        "mounts_of_the_node_stay_in_it_and_reach_its_pods",
        propagation,
    ),
    ("every_hierarchys_root_is_the_nodes_cgroup", cgroups),
    ("two_nodes_on_one_host_do_not_see_one_another", strangers),
];

const GRACE: Duration = Duration::from_secs(5);

fn own() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        ensure!(!sandbox.adopted());
        ensure!(node.shell("cat /proc/1/cmdline | tr '\\0' ' '")? == "hepto-node init");
        ensure!(node.shell("hostname; cat /etc/hostname")? == "grumpy\ngrumpy");
        ensure!(node.shell("cat /etc/resolv.conf")? == "nameserver 192.0.2.53");
        // init ends last when memory runs out, where the kernel lets it say so; its programs are like any other.
        let init = match crate::sandbox::can_lower_oom_score() {
            true => "-999",
            false => "0",
        };
        ensure!(node.shell("cat /proc/1/oom_score_adj")? == init);

        let id = node.shell("cat /etc/machine-id")?;
        ensure!(
            id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{id}"
        );
        ensure!(
            fs::read_to_string("/srv/grumpy/machine-id")?.trim() == id,
            "it is not kept"
        );
        ensure!(
            fs::read_to_string("/etc/machine-id")?.trim() != id,
            "it is the host's"
        );

        // The very file is written, so that a bound one shows it.
        crate::sandbox::write_hosts(&node.settings.run_directory, "10.44.0.99 sleepy\n")?;
        ensure!(node.shell("cat /etc/hosts")? == "10.44.0.99 sleepy");
        ensure!(fs::read_to_string("/etc/hosts")? != "10.44.0.99 sleepy\n");

        // What is written where k3s writes lies in the node's folder.
        for (inside, outside) in [
            ("/var/lib/rancher/k3s/x", "rancher/x"),
            ("/etc/rancher/node/password", "etc-rancher/node/password"),
            ("/var/log/pods/x", "log/pods/x"),
            ("/opt/cni/x", "opt-cni/x"),
        ] {
            node.shell(&format!(
                "mkdir -p $(dirname {inside}) && echo kept > {inside}"
            ))?;
            ensure!(
                fs::read_to_string(node.settings.directory.join(outside))? == "kept\n",
                "{inside}"
            );
        }
        stop(sandbox, GRACE).await?;
        node.is_gone()?;

        let sandbox = node.start().await?;
        ensure!(
            node.shell("cat /etc/machine-id /etc/rancher/node/password")? == format!("{id}\nkept")
        );
        stop(sandbox, GRACE).await
    })
}

/// What of the list in `mount.rs` depends on the host, and what k3s, kubelet and containerd fail without.
fn places() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        let mounts = node.shell("cat /proc/self/mountinfo")?;
        let at = |place: &str| {
            mounts
                .lines()
                .filter(|line| line.contains(&format!(" {place} ")))
                .collect::<Vec<_>>()
        };
        for place in [
            "/proc",
            "/sys",
            "/run",
            "/tmp",
            "/srv",
            "/srv/data",
            "/etc/hosts",
            "/etc/hostname",
            "/etc/machine-id",
            "/var/lib/rancher/k3s",
            "/var/lib/kubelet",
            "/var/lib/cni",
            "/var/log",
            "/etc/rancher",
            "/etc/cni",
            "/opt/cni",
            "/proc/sys/vm/overcommit_memory",
            "/proc/sys/kernel/panic",
        ] {
            ensure!(
                !at(place).is_empty(),
                "nothing is mounted on {place}:\n{mounts}"
            );
        }
        // Those that this host has.
        for (place, needs) in [
            ("/dev/shm", "/dev/shm"),
            ("/dev/mqueue", "/dev/mqueue"),
            ("/lib/modules", "/lib/modules"),
            (
                "/sys/class/dmi/id/product_uuid",
                "/sys/class/dmi/id/product_uuid",
            ),
        ] {
            let real = fs::canonicalize(needs).unwrap_or_default();
            let mounted = [place, &real.to_string_lossy()]
                .iter()
                .any(|place| !at(place).is_empty());
            ensure!(
                mounted == std::path::Path::new(needs).exists(),
                "{place}:\n{mounts}"
            );
        }
        let kernel = fs::read_to_string("/proc/filesystems")?;
        for (kind, place) in [
            ("securityfs", "/sys/kernel/security"),
            ("bpf", "/sys/fs/bpf"),
        ] {
            let known = kernel
                .lines()
                .any(|line| line.ends_with(&format!("\t{kind}")));
            let there = std::path::Path::new(place).exists();
            ensure!(at(place).is_empty() || known, "{place}");
            ensure!(
                !(at(place).is_empty() && known && there),
                "{place} is not mounted:\n{mounts}"
            );
        }
        // kubelet exits without it.
        node.shell("test -r /dev/kmsg || test -c /dev/kmsg")?;
        if std::path::Path::new("/lib/modules").exists() {
            ensure!(
                node.shell("touch /lib/modules/x 2>&1 || true")?
                    .contains("Read-only")
            );
        }
        ensure!(
            node.shell("ls /run/hepto/*/control.sock 2>/dev/null || true")?
                .is_empty()
        );
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn hidden() -> Result<()> {
    drive(async {
        let mut node = Node::new("grumpy")?;
        fs::create_dir_all("/srv/other/identity")?;
        fs::create_dir_all("/srv/.hepto/k3s/0123")?;
        fs::write("/srv/.hepto/k3s/0123/k3s", "binary")?;
        fs::write("/mnt/k.key", "secret")?;
        fs::write("/run/hepto/control", "secret")?;
        fs::write("/srv/k3s-1.33", "binary")?;
        std::os::unix::fs::symlink("k3s-1.33", "/srv/k3s")?;
        node.settings.visible = vec!["/srv/.hepto/k3s/0123".into(), "/srv/k3s".into()];
        node.settings.hidden.push("/mnt/k.key".into());
        let sandbox = node.start().await?;
        ensure!(node.shell("ls -A /srv")? == ".hepto\ndata\nk3s\nk3s-1.33");
        ensure!(node.shell("cat /srv/k3s /srv/k3s-1.33")? == "binarybinary");
        ensure!(node.shell("cat /srv/data/file")? == "data");
        node.shell("echo new > /srv/data/file")?;
        ensure!(fs::read_to_string("/srv/data/file")? == "new\n");
        ensure!(node.shell("ls -A /mnt/keys")?.is_empty());
        ensure!(node.shell("cat /mnt/k.key")?.is_empty());
        ensure!(node.shell("cat /srv/.hepto/k3s/0123/k3s")? == "binary");
        ensure!(
            node.shell("echo x > /srv/.hepto/k3s/0123/k3s").is_err(),
            "it can be changed from inside"
        );
        ensure!(
            node.shell("find /run -name control -o -name init.sock")?
                .is_empty()
        );
        // A secret among the data is hidden too.
        stop(sandbox, GRACE).await?;
        fs::create_dir("/srv/data/keys")?;
        fs::write("/srv/data/keys/k", "secret")?;
        node.settings.hidden.push("/srv/data/keys".into());
        let sandbox = node.start().await?;
        ensure!(node.shell("ls -A /srv/data/keys")?.is_empty());
        stop(sandbox, GRACE).await
    })
}

fn stub_resolver() -> Result<()> {
    drive(async {
        fs::create_dir_all("/run/systemd/resolve")?;
        fs::write(
            "/run/systemd/resolve/stub-resolv.conf",
            "nameserver 127.0.0.53\n",
        )?;
        fs::remove_file("/etc/resolv.conf")?;
        std::os::unix::fs::symlink(
            "../run/systemd/resolve/stub-resolv.conf",
            "/etc/resolv.conf",
        )?;
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        ensure!(node.shell("cat /etc/resolv.conf")? == "nameserver 192.0.2.53");
        ensure!(fs::read_to_string("/etc/resolv.conf")? == "nameserver 127.0.0.53\n");
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn sysctls() -> Result<()> {
    drive(async {
        let names = [
            "vm/overcommit_memory",
            "kernel/panic",
            "kernel/panic_on_oops",
        ];
        let read = || {
            names.map(|name| fs::read_to_string(format!("/proc/sys/{name}")).unwrap_or_default())
        };
        let before = read();
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        for (name, value) in names.iter().zip(&before) {
            let path = format!("/proc/sys/{name}");
            ensure!(
                node.shell(&format!("cat {path}"))? == value.trim(),
                "{name} starts with another value"
            );
            ensure!(
                node.shell(&format!("echo 77 > {path}; cat {path}"))? == "77",
                "{name} cannot be set"
            );
        }
        ensure!(
            read() == before,
            "the host's values are {:?}, they were {before:?}",
            read()
        );
        stop(sandbox, GRACE).await
    })
}

fn propagation() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        let mine = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let before = mine();
        ensure!(
            before.contains(" /mnt "),
            "the test has no mount of its own"
        );
        node.shell("mkdir -p /tmp/here && mount -t tmpfs tmpfs /tmp/here && mount -t tmpfs tmpfs /srv/data")?;
        ensure!(mine() == before, "the host sees the node's mounts");
        // What kubelet checks: the root itself is shared.
        ensure!(node.shell("findmnt -no PROPAGATION /")?.contains("shared"));
        ensure!(
            node.shell("findmnt -no PROPAGATION /srv/data")?
                .contains("shared")
        );
        // The folders that hold the host's processes' things are the node's own.
        fs::write("/run/of-the-host", "")?;
        fs::write("/dev/shm/hepto-test-of-the-host", "")?;
        let seen = node.shell("ls /run /dev/shm /tmp");
        fs::remove_file("/dev/shm/hepto-test-of-the-host")?;
        let seen = seen?;
        ensure!(!seen.contains("of-the-host"), "{seen}");
        ensure!(
            node.shell("cat /sys/class/net/lo/ifindex && ls /sys/class/net")?
                .ends_with("lo")
        );
        stop(sandbox, GRACE).await
    })
}

fn cgroups() -> Result<()> {
    drive(async {
        let node = Node::new("grumpy")?;
        let sandbox = node.start().await?;
        let trees = host::cgroups(&format!("{}.grumpy", node.settings.cluster));
        if host::unified() {
            // Every controller is handed out, and no process is in the way.
            let missing = "for c in cpu memory pids; do grep -q $c /sys/fs/cgroup/cgroup.subtree_control || echo $c; done";
            ensure!(node.shell(missing)?.is_empty());
            ensure!(
                node.shell("cat /sys/fs/cgroup/cgroup.procs; cat /proc/self/cgroup")? == "0::/exec"
            );
            node.shell("mkdir /sys/fs/cgroup/kubepods")?;
        } else {
            let own = node.shell("cat /proc/self/cgroup")?;
            ensure!(own.lines().all(|line| line.ends_with(":/")), "{own}");
            let made =
                node.shell("for h in /sys/fs/cgroup/*/; do mkdir $h/kubepods && echo $h; done")?;
            ensure!(
                made.lines().count() == trees.len() && trees.len() > 5,
                "{made}"
            );
            // A process can be put there: its cpuset is filled.
            node.shell("grep . /sys/fs/cgroup/cpuset/cpuset.cpus")?;
        }
        // A kubelet's own folder appears in the node's cgroup on the host, in every hierarchy.
        for tree in trees {
            ensure!(
                tree.join("kubepods").is_dir(),
                "{} is not the root inside",
                tree.display()
            );
        }
        stop(sandbox, GRACE).await?;
        node.is_gone()
    })
}

fn strangers() -> Result<()> {
    drive(async {
        let (one, two) = (Node::new("grumpy")?, Node::new("sleepy")?);
        let mut first = one.start().await?;
        let mut second = two.start().await?;
        spawn(&mut first, script("k3s", "exec sleep 1234567")).await?;
        spawn(&mut second, script("k3s", "exec sleep 7654321")).await?;
        host::until("both run", || {
            let sees = |node: &Node, what: &str| {
                node.shell("cat /proc/[0-9]*/cmdline")
                    .is_ok_and(|all| all.contains(what))
            };
            sees(&one, "1234567") && sees(&two, "7654321")
        })
        .await?;
        ensure!(!one.shell("cat /proc/[0-9]*/cmdline")?.contains("7654321"));
        ensure!(!two.shell("cat /proc/[0-9]*/cmdline")?.contains("1234567"));
        one.shell("echo 1 > /var/lib/kubelet/x; echo 1 > /run/x; mkdir $PODS")?;
        ensure!(
            two.shell("ls /var/lib/kubelet/x /run/x $PODS 2>/dev/null || true")?
                .is_empty()
        );
        ensure!(
            one.shell("readlink /proc/self/ns/net")? != two.shell("readlink /proc/self/ns/net")?
        );
        ensure!(one.shell("cat /etc/machine-id")? != two.shell("cat /etc/machine-id")?);
        // What one mounts the other does not see, and a port that one has the other has too.
        one.shell("mkdir /tmp/mine && mount -t tmpfs mine /tmp/mine")?;
        ensure!(!two.shell("cat /proc/self/mountinfo")?.contains("/tmp/mine"));
        for node in [&one, &two] {
            let listen = "ip link set lo up; python3 -c 'import socket; s = socket.create_server((\"\", 6443)); print(1)'";
            ensure!(node.shell(listen)? == "1");
        }
        one.shell("touch /dev/shm/mine; ipcmk -M 64 > /dev/null")?;
        ensure!(!two.shell("ls /dev/shm")?.contains("mine"));
        ensure!(one.shell("ipcs -m | wc -l")? != two.shell("ipcs -m | wc -l")?);
        // The end of one, and of what it made on the host, leaves the other as it is.
        stop(first, GRACE).await?;
        two.shell(
            "test -e /var/lib/rancher/k3s && touch /etc/cni/y /opt/cni/y && test -e /srv/data/file",
        )?;
        ensure!(two.settings.directory.join("etc-cni/y").exists());
        stop(second, GRACE).await?;
        one.is_gone()?;
        two.is_gone()
    })
}
