//! The node's inside: mount, pid, uts, ipc and cgroup namespaces beside its network, with our own
//! init as PID 1.
//!
//! Three processes, so that nothing forks without exec and no thread changes its namespaces:
//! the supervisor (`handle.rs`: what `run` holds), `hepto-node sandbox` (`launch.rs`: enters the network,
//! makes cgroup and namespaces, starts init, ends) and `hepto-node init` (`init.rs`: mounts, reaps, starts
//! the programs, owns their output). init outlives the supervisor; a supervisor always meets it
//! the same way, by its socket, whether it started it or found it.
//!
//! This room knows nothing of k3s but where its files lie, and imports no other room.

mod cgroup;
mod contact;
pub mod descriptor;
mod end;
mod error;
mod file;
mod handle;
mod inherit;
mod init;
mod launch;
pub mod limit;
mod log;
mod mount;
mod mountpoint;
mod state;
pub mod uapi;
mod wire;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use contact::{enter, programs, understands};
pub use error::Error;
pub use file::{HostAddresses, hosts, mask, nameservers, resolv_conf, write_hosts, write_network};
pub use handle::{Sandbox, cleanup};
pub use init::init;
pub use launch::sandbox;
pub use limit::Limits;
pub use mount::enter_network;

/// init's socket in the run directory.
const SOCKET: &str = "init.sock";

/// What of the node's folder appears where inside: (folder in `<storage>/<node>`, path in the node).
///
/// These are the places where k3s, kubelet and CNI keep state; everything below is the node's own
/// and survives a stop.
pub const BINDS: [(&str, &str); 7] = [
    ("rancher", "/var/lib/rancher/k3s"),
    ("kubelet", "/var/lib/kubelet"),
    ("cni", "/var/lib/cni"),
    ("log", "/var/log"),
    ("etc-rancher", "/etc/rancher"),
    ("etc-cni", "/etc/cni"),
    ("opt-cni", "/opt/cni"),
];

/// Where on the host a file lies that the node sees at `inside`; `None` when it is not under [`BINDS`].
///
/// `directory` is `<storage>/<node>`.
pub fn outside(directory: &Path, inside: &Path) -> Option<PathBuf> {
    BINDS.iter().find_map(|(folder, target)| {
        Some(
            directory
                .join(folder)
                .join(inside.strip_prefix(target).ok()?),
        )
    })
}

/// What a sandbox is made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name, its hostname inside.
    pub node: String,
    /// The node's own folder, `<storage>/<node>`.
    pub directory: PathBuf,
    /// The storage: hidden from the node but for `data` and `visible`.
    pub storage: PathBuf,
    /// The operator's data folders, at the same path inside.
    pub data: Vec<PathBuf>,
    /// The pinned network namespace, `/run/netns/hepto-<cluster>.<node>`.
    pub netns: PathBuf,
    /// `/run/hepto/<cluster>.<node>`: init's socket, hosts, resolv.conf and what cleaning up needs.
    pub run_directory: PathBuf,
    /// The first contents of /etc/hosts.
    pub hosts: String,
    /// The contents of /etc/resolv.conf.
    pub resolv_conf: String,
    /// Files and folders that are masked inside, such as [`mask`] of each key file.
    pub hidden: Vec<PathBuf>,
    /// Files and folders shown read-only although they lie under something hidden, such as the k3s binary.
    pub visible: Vec<PathBuf>,
    /// What everything in the node may use together.
    #[serde(default)]
    pub limits: Limits,
    /// Our own program, started again as `sandbox` and `init`; `/proc/self/exe` but in tests.
    pub executable: PathBuf,
}

/// A program for init to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// By what it is signalled and reported; one program of an id at a time.
    pub id: String,
    /// Path (as the node sees it) and arguments.
    pub argv: Vec<String>,
    /// The whole environment: nothing is inherited. Start from [`environment`].
    pub env: Vec<(String, String)>,
    /// Whether it gets a NOTIFY_SOCKET (sd_notify(3)) whose messages become [`Event::Notify`].
    pub notify: bool,
    /// Where inside its output goes, such as `/var/log/k3s.log`: rotated at 8 MiB, three old ones kept.
    pub log: PathBuf,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// By exit, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// What a sandbox tells its supervisor.
///
/// After [`Sandbox::start_or_adopt`] on a running init, the same events come first that led to its present
/// state, so a supervisor that adopts needs no second path: `Spawned` for each program, then `Notify` with
/// what it last said, then `Exited` if it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A program runs.
    Spawned {
        /// Which.
        id: String,
        /// Its pid inside; [`Sandbox::host_pid`] translates.
        pid: i32,
    },
    /// A program could not be started.
    Failed {
        /// Which.
        id: String,
        /// Why.
        error: Error,
    },
    /// A program ended and was reaped; its id is free again.
    Exited {
        /// Which.
        id: String,
        /// The pid that it had inside.
        pid: i32,
        /// How.
        status: Status,
    },
    /// A program wrote to its NOTIFY_SOCKET: `KEY=value` lines.
    Notify {
        /// Which.
        id: String,
        /// The lines.
        text: String,
    },
    /// init is gone, and with it every process of the node. [`Sandbox::stop`] removes the rest.
    InitGone,
}

/// The environment that every program of a node starts from: PATH, HOME, and the host's proxies.
pub fn environment() -> Vec<(String, String)> {
    const PROXIES: [&str; 6] = [
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "NO_PROXY",
        "http_proxy",
        "https_proxy",
        "no_proxy",
    ];
    let mut environment = vec![
        (
            "PATH".to_owned(),
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
        ),
        ("HOME".to_owned(), "/root".to_owned()),
    ];
    environment.extend(
        PROXIES
            .iter()
            .filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))),
    );
    environment
}

/// Whether this kernel names a process by a descriptor (pidfd_open(2), Linux 5.3), whatever becomes of its pid.
///
/// # Errors
/// What the kernel says when it does not.
pub fn names_processes() -> std::io::Result<()> {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};
    pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(())
}

/// Whether a process of this machine may lower its `oom_score_adj` (CAP_SYS_RESOURCE).
///
/// Without it runc fails every pod, until containerd has `restrict_oom_score_adj = true`.
pub fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24; // capability.h
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|set| set >> CAP_SYS_RESOURCE & 1 == 1)
}
