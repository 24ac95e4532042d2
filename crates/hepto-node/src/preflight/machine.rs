//! What the host is: its kernel, clock, memory, cgroups, limits, and what runs beside.
//!
//! All of it is read below a root folder: that of the host, or one in which a test has planted a fault.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::net::if_::InterfaceFlags;

use super::Finding;
use crate::config::{Config, Mode};
use crate::k3s::acquire::Source;

/// What an agent's k3s asks for, and what a server's does, bytes (k3s's own requirements page).
const AGENT_MEMORY: u64 = 512 << 20;
const SERVER_MEMORY: u64 = 2 << 30;
/// Below this, pods that watch files fail with "too many open files".
const INOTIFY_INSTANCES: u64 = 512;

/// The first Kubernetes that refuses cgroup v1 unless it is told otherwise, 1.x.
const WITHOUT_CGROUP_V1: u32 = 35;

/// Looks at all of it. Changes nothing.
pub fn look(config: &Config) -> Vec<Finding> {
    let host = Host::new("/");
    let is_v6 = |address: &ipnet::IpNet| address.addr().is_ipv6();
    let mut found = vec![
        root(),
        host.namespaces(config.k3s.is_some()),
        tun(),
        host.clock(&config.path),
        host.neighbours(),
    ];
    found.extend(descriptors());
    found.push(host.interface(&config.network.interface, config.network.mode));
    found.push(host.ipv6(config.network.auto || config.network.addresses.iter().any(is_v6)));
    found.extend(config.metrics.listen.map(|listen| {
        let runs = hepto_net::namespace::path(&config.namespace()).exists();
        metrics(listen, runs)
    }));
    if let Some(k3s) = &config.k3s {
        found.push(host.memory(config.is_master()));
        found.push(host.controllers());
        let minor = match &k3s.source {
            Source::Release(release) => minor(&release.version.to_string()),
            Source::Binary(_) | Source::Embedded(_) => None,
        };
        found.extend(host.cgroup_v1(minor, &k3s.args));
        found.push(host.inotify());
        found.extend(host.selinux());
    }
    found
}

/// The `y` of a version `v1.y.z+k3s1`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("v1.")?.split('.').next()?.parse().ok()
}

/// Where the kernel's files are.
struct Host {
    root: PathBuf,
}

fn root() -> Finding {
    let check = "machine.root";
    match nix::unistd::geteuid().is_root() {
        true => Finding::ok(check, "run as root"),
        false => Finding::error(check, "E-PREFLIGHT-ROOT", "not run as root")
            .why("a node makes network namespaces, and most of what follows cannot be tried")
            .fix("sudo hepto-node preflight --config FILE"),
    }
}

/// Found only where it is missing: Linux before 5.3, or a filter of system calls.
fn descriptors() -> Option<Finding> {
    let error = crate::sandbox::names_processes().err()?;
    let what = format!("this kernel is older than Linux 5.3: pidfd_open: {error}");
    let found = Finding::error("machine.kernel-age", "E-PREFLIGHT-KERNEL", what)
        .why("the node could end or enter a process that was given the number of one of its own")
        .fix("install a newer kernel: the distribution's backports or HWE kernel, or that of its next release");
    Some(found)
}

fn tun() -> Finding {
    let check = "machine.tun";
    match fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        Ok(_) => Finding::ok(check, "/dev/net/tun opens"),
        Err(error) => Finding::error(
            check,
            "E-PREFLIGHT-TUN",
            format!("/dev/net/tun does not open: {error}"),
        )
        .why("the mesh's packets pass through it")
        .fix("modprobe tun; in a container, let the host pass the device in"),
    }
}

impl Host {
    fn new(root: impl Into<PathBuf>) -> Host {
        Host { root: root.into() }
    }

    /// Where an absolute path lies.
    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    fn read(&self, path: &str) -> Option<String> {
        Some(fs::read_to_string(self.at(path)).ok()?.trim().to_owned())
    }

    fn namespaces(&self, sandbox: bool) -> Finding {
        let check = "machine.kernel";
        let release = self.read("/proc/sys/kernel/osrelease").unwrap_or_default();
        let wanted: &[&str] = match sandbox {
            true => &["net", "mnt", "pid", "uts", "ipc", "cgroup"],
            false => &["net", "mnt"],
        };
        let missing: Vec<&str> = wanted
            .iter()
            .copied()
            .filter(|kind| !self.at("/proc/self/ns").join(kind).exists())
            .collect();
        match missing.is_empty() {
            true => Finding::ok(
                check,
                format!("Linux {release} has the namespaces that a node needs"),
            ),
            false => {
                let what = format!(
                    "Linux {release} has no namespaces of the kinds {}",
                    missing.join(", ")
                );
                Finding::error(check, "E-PREFLIGHT-KERNEL", what)
                    .why("a node lives in namespaces of its own")
                    .fix("boot the distribution's own kernel")
            }
        }
    }

    /// A clock that is earlier than files which were written with it was set back, or never set.
    fn clock(&self, config: &Path) -> Finding {
        let check = "machine.clock";
        let now = SystemTime::now();
        let written = [&self.at("/proc/self/exe"), config]
            .into_iter()
            .filter_map(|path| fs::metadata(path).ok()?.modified().ok())
            .max();
        // A file system may round up to a second or two.
        match written.and_then(|written| written.duration_since(now).ok()) {
            Some(behind) if behind.as_secs() > 5 => {
                let what = format!("the clock is at least {} s behind", behind.as_secs());
                Finding::warning(check, "W-PREFLIGHT-CLOCK", what)
                .why("the mesh bears it, but certificates of k3s and of downloads are \"not yet valid\"")
                .fix("timedatectl set-ntp true, or install chrony; then look at `date`")
            }
            _ => Finding::ok(check, "the clock is later than what was written with it"),
        }
    }

    /// What the old deployment, or a k3s of the host's own, left running: they want the same addresses and ports.
    fn neighbours(&self) -> Finding {
        let check = "machine.neighbours";
        let own_pid_namespace = fs::read_link(self.at("/proc/self/ns/pid")).ok();
        let mut found: Vec<String> = fs::read_dir(self.at("/proc"))
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let name = fs::read_to_string(path.join("comm")).ok()?;
                let name = name.trim();
                let is_old = name == "wesher" || name.starts_with("k3s") || name == "kubelet";
                // A node's own k3s has a process namespace of its own; Podman's wesher had not always.
                let is_ours = name != "wesher"
                    && fs::read_link(path.join("ns/pid")).ok() != own_pid_namespace;
                (is_old && !is_ours).then(|| name.to_owned())
            })
            .collect();
        found.sort();
        found.dedup();
        match found.is_empty() {
            true => Finding::ok(check, "no wesher, k3s or kubelet of the host's own runs"),
            false => {
                let what = format!("the host runs {}", found.join(", "));
                Finding::warning(check, "W-PREFLIGHT-NEIGHBOURS", what)
                .why("an older hepto uses the same addresses; a kubelet of the host's own changes kernel settings for all")
                .fix("if it is the old hepto: podman pod ls; podman pod stop NAME; podman pod rm NAME")
            }
        }
    }

    fn interface(&self, name: &str, mode: Mode) -> Finding {
        let check = "machine.interface";
        let flags = nix::ifaddrs::getifaddrs().ok().and_then(|mut entries| {
            Some(entries.find(|entry| entry.interface_name == name)?.flags)
        });
        let Some(flags) = flags else {
            return Finding::error(
                check,
                "E-PREFLIGHT-INTERFACE",
                format!("there is no interface {name}"),
            )
            .why("the node reaches your router through it")
            .fix("ip -br link shows the interfaces: correct network.interface, or plug it in");
        };
        if mode == Mode::Macvlan && self.is_wireless(name) {
            return Finding::error(
                check,
                "E-PREFLIGHT-WIFI",
                format!("{name} is Wi-Fi, and the mode is macvlan"),
            )
            .why("an access point takes no second MAC address from one station")
            .fix("network.mode = \"ipvlan\"");
        }
        let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        match flags.contains(up) {
            true => Finding::ok(check, format!("{name} is up and has a carrier")),
            false => Finding::error(
                check,
                "E-PREFLIGHT-LINK",
                format!("{name} is down or has no carrier"),
            )
            .why("the node reaches your router through it")
            .fix(format!("check the cable; ip link set {name} up")),
        }
    }

    fn is_wireless(&self, name: &str) -> bool {
        let directory = self.at("/sys/class/net").join(name);
        let mut signs = ["wireless", "phy80211"].iter();
        signs.any(|entry| directory.join(entry).exists())
    }

    fn ipv6(&self, wanted: bool) -> Finding {
        let check = "machine.ipv6";
        if self.at("/proc/net/if_inet6").exists() {
            return Finding::ok(check, "the kernel has IPv6");
        }
        let what = "IPv6 is switched off in this kernel";
        let found = match wanted {
            true => {
                Finding::error(check, "E-PREFLIGHT-IPV6", what).why("the node has an IPv6 address")
            }
            false => Finding::warning(check, "W-PREFLIGHT-IPV6", what).why(
                "gossip stays off and news of members comes more slowly; pods have IPv4 alone",
            ),
        };
        found.fix(hepto_net::IPV6_ON)
    }

    fn memory(&self, is_master: bool) -> Finding {
        let check = "machine.memory";
        let total = self.read("/proc/meminfo").and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?
                .trim();
            line.strip_suffix(" kB")?.parse::<u64>().ok()
        });
        let Some(total) = total.map(|total| total << 10) else {
            return Finding::ok(check, "the kernel does not say how much memory there is");
        };
        let (role, wanted) = match is_master {
            true => ("server", SERVER_MEMORY),
            false => ("agent", AGENT_MEMORY),
        };
        let what = format!("{} MiB of memory", total >> 20);
        match total >= wanted {
        true => Finding::ok(check, what),
        false => Finding::warning(check, "W-PREFLIGHT-MEMORY", what)
            .why(format!("a k3s {role} wants {} MiB for itself", wanted >> 20))
            .fix("add memory, or let another machine be the master; k3s.enabled = false joins the mesh alone"),
    }
    }

    /// Whether the kernel counts memory, processors and processes per group: a kubelet does not start without.
    fn controllers(&self) -> Finding {
        let check = "machine.cgroups";
        let v2 = self.read("/sys/fs/cgroup/cgroup.controllers");
        let available: Vec<String> = match &v2 {
            Some(controllers) => controllers.split_whitespace().map(str::to_owned).collect(),
            None => enabled_controllers(&self.read("/proc/cgroups").unwrap_or_default()),
        };
        let missing: Vec<&str> = ["memory", "cpu", "pids"]
            .into_iter()
            .filter(|wanted| !available.iter().any(|controller| controller == wanted))
            .collect();
        let version = if v2.is_some() { "v2" } else { "v1" };
        match missing.is_empty() {
            true => Finding::ok(check, format!("cgroup {version} with memory, cpu and pids")),
            false => {
                let what = format!("cgroup {version} lacks {}", missing.join(", "));
                Finding::error(check, "E-PREFLIGHT-CGROUPS", what)
                .why("a kubelet does not start without")
                .fix("add cgroup_enable=memory cgroup_memory=1 to the kernel's command line (on a Raspberry Pi: /boot/firmware/cmdline.txt), reboot")
            }
        }
    }

    /// Kubernetes 1.`minor`, where it is known, and what k3s is told.
    fn cgroup_v1(&self, minor: Option<u32>, args: &[String]) -> Option<Finding> {
        if self.at("/sys/fs/cgroup/cgroup.controllers").exists() {
            return None;
        }
        let (check, code) = ("machine.cgroup-v1", "W-PREFLIGHT-CGROUP-V1");
        let what = "the machine uses cgroup v1";
        if args.iter().any(|arg| arg.contains("fail-cgroupv1=false")) {
            return Some(Finding::ok(
                check,
                format!("{what}, and k3s is told to bear that"),
            ));
        }
        let found = match minor {
            Some(minor) if minor >= WITHOUT_CGROUP_V1 => Finding::error(
                check,
                "E-PREFLIGHT-CGROUP-V1",
                format!("{what}, which Kubernetes 1.{minor} refuses"),
            )
            .why("a kubelet does not start there unless it is told otherwise"),
            _ => Finding::warning(check, code, what)
                .why("Kubernetes from 1.35 on refuses it unless it is told otherwise"),
        };
        Some(found.fix("boot with systemd.unified_cgroup_hierarchy=1, or for 1.35 and later: k3s.args = [\"--kubelet-arg=fail-cgroupv1=false\"]"))
    }

    fn inotify(&self) -> Finding {
        let check = "machine.inotify";
        let limit = self
            .read("/proc/sys/fs/inotify/max_user_instances")
            .and_then(|text| text.parse::<u64>().ok());
        match limit {
            Some(limit) if limit < INOTIFY_INSTANCES => {
                let what = format!("a user may have {limit} inotify instances");
                Finding::warning(check, "W-PREFLIGHT-INOTIFY", what)
                .why("pods that watch files fail with \"too many open files\", which nobody connects with this")
                .fix("echo fs.inotify.max_user_instances=1024 > /etc/sysctl.d/60-hepto.conf; sysctl --system")
            }
            _ => Finding::ok(check, "enough inotify instances"),
        }
    }

    fn selinux(&self) -> Option<Finding> {
        let is_enforcing = self
            .read("/sys/fs/selinux/enforce")
            .is_some_and(|text| text == "1");
        is_enforcing.then(|| {
            Finding::warning(
            "machine.selinux",
            "W-PREFLIGHT-SELINUX",
            "SELinux enforces its policy",
        )
        .why("k3s needs its own policy package there, and this program was not tried with it")
        .fix(
            "install k3s-selinux and container-selinux, and look at ausearch -m avc when pods fail",
        )
        })
    }
}

/// Whether the metrics can be offered where the config says. A node that runs has the port itself.
fn metrics(listen: SocketAddr, runs: bool) -> Finding {
    let check = "machine.metrics";
    let error = match TcpListener::bind(listen) {
        Ok(_) => return Finding::ok(check, format!("{listen} is free for metrics")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && runs => {
            return Finding::ok(check, format!("the node runs, and metrics are at {listen}"));
        }
        Err(error) => error,
    };
    let (what, fix) = match error.kind() {
        io::ErrorKind::AddrInUse => (
            format!("another program has {listen}, where metrics are to be"),
            "give this node a port of its own in metrics.listen; ss -ltnp shows who has which",
        ),
        _ => (
            format!("metrics cannot be offered at {listen}: {error}"),
            "write an address of this machine in metrics.listen, mostly 127.0.0.1",
        ),
    };
    Finding::warning(check, "W-PREFLIGHT-METRICS", what)
        .why("the node runs without them, and tries again every ten seconds")
        .fix(fix)
}

/// The controllers that `/proc/cgroups` calls enabled (cgroups(7)).
fn enabled_controllers(text: &str) -> Vec<String> {
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    rows.filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next_back()? == "1").then(|| name.to_owned())
    })
    .collect()
}

#[cfg(test)]
mod tests;
