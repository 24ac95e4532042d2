//! What the node sees of the file system: a pure plan. `mount/apply.rs` alone carries it out.
//!
//! Everything happens in the node's own mount namespace. The host's root stays visible; covered are the
//! places where two nodes, or a node and its host, would meet. Nothing here is a jail: a privileged pod
//! can undo it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchy;
use super::{BINDS, Error, Settings, file, uapi};
pub(super) use apply::apply;
pub use apply::enter_network;

mod apply;

/// The sysctls that kubelet sets for the whole machine; the node gets private files in their place.
///
/// They are all of `setupKernelTunables` in kubelet's container manager.
const SHADOWED: [&str; 6] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
];
/// Inside: where those private files lie.
const SHADOWS: &str = "/run/hepto/sysctl";
/// Inside: what covers a single hidden file.
const EMPTY: &str = "/run/hepto/empty";
/// Where a kernel shows the machine's UUID, if it does.
const UUID: &str = "/sys/class/dmi/id/product_uuid";
/// Folders in which the system itself lies.
const SYSTEM: [&str; 12] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys",
    "/usr",
];
/// Folders that hold more than one owner's things.
const SHARED: [&str; 8] = [
    "/home", "/mnt", "/opt", "/root", "/srv", "/tmp", "/var", "/var/lib",
];

/// Whether a folder holds more than one would want to hide as a whole.
pub(super) fn vital(folder: &Path) -> bool {
    SYSTEM
        .iter()
        .chain(&SHARED)
        .any(|vital| folder == Path::new(vital))
}

/// What the plan needs to know of the host.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Host {
    /// Where /etc/resolv.conf leads: often into /run, which is private inside.
    pub resolv_conf: PathBuf,
    /// Whether there is /lib/modules.
    pub modules: bool,
    /// Whether there is /dev/kmsg, without which kubelet exits.
    pub kmsg: bool,
    /// Whether /var/run is a folder, not the usual link to /run.
    pub var_run: bool,
    /// Whether the kernel shows a product UUID.
    pub uuid: bool,
    /// Those of /dev/shm and /dev/mqueue that exist: /dev is the host's, nothing is made in it.
    pub ipc: Vec<String>,
    /// Those of [`SHADOWED`] that this kernel has.
    pub sysctls: Vec<String>,
}

impl Host {
    pub fn observe() -> Self {
        let exists = |path: &str| Path::new(path).exists();
        Host {
            resolv_conf: end_of_links(Path::new("/etc/resolv.conf")),
            modules: exists("/lib/modules"),
            kmsg: exists("/dev/kmsg"),
            var_run: fs::symlink_metadata("/var/run").is_ok_and(|entry| entry.is_dir()),
            uuid: exists(UUID),
            ipc: ["/dev/shm", "/dev/mqueue"]
                .map(String::from)
                .into_iter()
                .filter(|path| exists(path))
                .collect(),
            sysctls: SHADOWED
                .map(String::from)
                .into_iter()
                .filter(|name| exists(&format!("/proc/sys/{name}")))
                .collect(),
        }
    }
}

/// Where a path leads, link by link, also when its end does not exist.
fn end_of_links(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // The kernel's own limit (MAXSYMLINKS) is 40.
    for _ in 0..40 {
        let folder = path.parent().unwrap_or(Path::new("/"));
        let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
        if let Some(name) = path.file_name() {
            path = folder.join(name);
        }
        match fs::read_link(&path) {
            Ok(target) => path = flatten(&folder.join(target)),
            Err(_) => break,
        }
    }
    path
}

fn flatten(path: &Path) -> PathBuf {
    let mut flat = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(flat.pop()),
            Component::CurDir => {}
            other => flat.push(other),
        }
    }
    flat
}

/// One change of the node's mounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// A new file system.
    Fresh {
        kind: &'static str,
        target: PathBuf,
        data: String,
        required: bool,
    },
    /// A host's file or folder, opened before the first step so that nothing covers it.
    Bind {
        source: PathBuf,
        target: PathBuf,
        read_only: bool,
    },
    /// A folder of a private tmpfs.
    Folder { path: PathBuf, mode: u32 },
    /// A link in a private tmpfs.
    Link { path: PathBuf, target: String },
    /// An empty cover, over a folder or a file, if there still is one.
    Mask { target: PathBuf },
    /// A private copy of a file over the file itself.
    Shadow { copy: PathBuf, target: PathBuf },
}

fn fresh(kind: &'static str, target: impl Into<PathBuf>, data: impl Into<String>) -> Step {
    Step::Fresh {
        kind,
        target: target.into(),
        data: data.into(),
        required: true,
    }
}

fn bind(source: PathBuf, target: impl Into<PathBuf>) -> Step {
    Step::Bind {
        source,
        target: target.into(),
        read_only: false,
    }
}

fn optional(kind: &'static str, target: &str, data: &str) -> Step {
    Step::Fresh {
        kind,
        target: target.into(),
        data: data.into(),
        required: false,
    }
}

/// The steps that make the node's view.
///
/// # Errors
/// When hiding what must be hidden would hide what the node needs.
pub(super) fn plan(
    settings: &Settings,
    host: &Host,
    hierarchies: &[Hierarchy],
) -> Result<Vec<Step>, Error> {
    check(settings)?;
    let mut steps = systems(host);
    steps.extend(cgroups(hierarchies));
    steps.extend(folders(settings));
    steps.extend(files(settings, host));
    steps.extend(host.sysctls.iter().map(|name| Step::Shadow {
        copy: Path::new(SHADOWS).join(name.replace('/', ".")),
        target: Path::new("/proc/sys").join(name),
    }));
    Ok(steps)
}

/// The kernel's own file systems, and those for things that do not last.
fn systems(host: &Host) -> Vec<Step> {
    let mut steps = vec![
        fresh("proc", "/proc", ""),
        fresh("sysfs", "/sys", ""),
        // Not in every kernel, and nothing but what pods may look for.
        optional("securityfs", "/sys/kernel/security", ""),
        optional("bpf", "/sys/fs/bpf", "mode=700"),
        fresh("tmpfs", "/run", "mode=755"),
        fresh("tmpfs", "/tmp", "mode=1777"),
    ];
    steps.extend(host.ipc.iter().map(|path| match path.as_str() {
        "/dev/mqueue" => fresh("mqueue", path, ""),
        _ => fresh("tmpfs", path, "mode=1777"),
    }));
    steps.push(Step::Folder {
        path: "/run/lock".into(),
        mode: 0o1777,
    });
    steps.push(Step::Folder {
        path: "/run/netns".into(),
        mode: 0o755,
    });
    if host.var_run {
        steps.push(bind("/run".into(), "/var/run"));
    }
    steps
}

/// The storage covered, what the node may see of it bound back, and what it must not see masked.
fn folders(settings: &Settings) -> Vec<Step> {
    let mut steps = vec![fresh("tmpfs", &settings.storage, "mode=755,size=1m")];
    let own = |(folder, target): &(&str, &str)| bind(settings.directory.join(folder), *target);
    steps.extend(BINDS.iter().map(own));
    let covered = |path: &&PathBuf| private(settings, path);
    let data = settings.data.iter().filter(covered);
    steps.extend(data.map(|path| bind(path.clone(), path)));
    let hidden = settings.hidden.iter();
    steps.extend(hidden.map(|target| Step::Mask {
        target: target.clone(),
    }));
    let unseen = |path: &&PathBuf| {
        covered(path)
            || settings
                .hidden
                .iter()
                .any(|hidden| path.starts_with(hidden))
    };
    let visible = settings.visible.iter().filter(unseen);
    steps.extend(visible.map(|path| Step::Bind {
        source: path.clone(),
        target: path.clone(),
        read_only: true,
    }));
    steps
}

/// The files that are the node's own, and the two places that k3s and kubelet insist on.
fn files(settings: &Settings, host: &Host) -> Vec<Step> {
    let run = &settings.run_directory;
    let mut steps = vec![
        bind(run.join(file::HOSTS), "/etc/hosts"),
        bind(run.join(file::HOSTNAME), "/etc/hostname"),
        bind(run.join(file::RESOLV_CONF), &host.resolv_conf),
        bind(run.join(uapi::FOLDER), uapi::place(host.var_run)),
        bind(settings.directory.join(file::MACHINE_ID), "/etc/machine-id"),
    ];
    if host.uuid {
        steps.push(bind(settings.directory.join(file::PRODUCT_UUID), UUID));
    }
    if host.modules {
        steps.push(Step::Bind {
            source: "/lib/modules".into(),
            target: "/lib/modules".into(),
            read_only: true,
        });
    }
    if !host.kmsg {
        // kubelet opens it and gives up otherwise; OOM events are then missed.
        steps.push(bind("/dev/null".into(), "/dev/kmsg"));
    }
    steps
}

/// The node's cgroups, each hierarchy where programs look for it.
fn cgroups(hierarchies: &[Hierarchy]) -> Vec<Step> {
    let root = Path::new("/sys/fs/cgroup");
    let mut steps = Vec::new();
    if hierarchies
        .iter()
        .any(|hierarchy| hierarchy.version1.is_some())
    {
        steps.push(fresh("tmpfs", root, "mode=755,size=1m"));
    }
    for hierarchy in hierarchies {
        let target = root.join(&hierarchy.name);
        match &hierarchy.version1 {
            Some(options) => {
                steps.push(Step::Folder {
                    path: target.clone(),
                    mode: 0o755,
                });
                steps.push(fresh("cgroup", target, options));
                // Joined hierarchies are looked for under each name: cpu, cpuacct -> cpu,cpuacct.
                let names = hierarchy
                    .name
                    .split(',')
                    .filter(|name| *name != hierarchy.name);
                steps.extend(names.map(|name| Step::Link {
                    path: root.join(name),
                    target: hierarchy.name.clone(),
                }));
            }
            None => {
                if !hierarchy.name.is_empty() {
                    steps.push(Step::Folder {
                        path: target.clone(),
                        mode: 0o755,
                    });
                }
                steps.push(fresh("cgroup2", target, ""));
            }
        }
    }
    steps
}

/// Whether a path lies on a file system that is the node's own: what is missing there can be made.
pub(super) fn private(settings: &Settings, path: &Path) -> bool {
    let fresh = ["/proc", "/sys", "/run", "/tmp", "/dev/shm"];
    path.starts_with(&settings.storage) || fresh.iter().any(|fresh| path.starts_with(fresh))
}

/// The places on the host's own file systems over which something is mounted, and whether each is a folder.
pub(super) fn places(settings: &Settings, host: &Host) -> Vec<(PathBuf, bool)> {
    let folders = BINDS
        .iter()
        .map(|(_, target)| (PathBuf::from(target), true));
    let files = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/machine-id",
        "/dev/kmsg",
    ]
    .map(PathBuf::from);
    let files = files
        .into_iter()
        .chain([host.resolv_conf.clone()])
        .map(|path| (path, false));
    folders
        .chain(files)
        .filter(|(path, _)| !private(settings, path))
        .collect()
}

fn check(settings: &Settings) -> Result<(), Error> {
    let storage = &settings.storage;
    if !storage.is_absolute()
        || storage == Path::new("/var")
        || SYSTEM.iter().any(|path| storage == Path::new(path))
    {
        return Err(Error::Storage {
            storage: storage.clone(),
        });
    }
    let fixed = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/machine-id",
        "/proc",
        "/sys",
        "/run",
        "/tmp",
        "/usr",
        "/bin",
    ];
    let needed = fixed
        .iter()
        .map(Path::new)
        .chain(BINDS.iter().map(|(_, target)| Path::new(target)));
    for needed in needed.chain(settings.data.iter().map(PathBuf::as_path)) {
        if let Some(hidden) = settings
            .hidden
            .iter()
            .find(|hidden| needed.starts_with(hidden))
        {
            return Err(Error::Hidden {
                hidden: hidden.clone(),
                needed: needed.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
