//! What the node sees of the file system: a pure plan, and the one function that applies it.
//!
//! Everything happens in the node's own mount namespace. The host's root stays visible; covered are the
//! places where two nodes, or a node and its host, would meet. Nothing here is a jail: a privileged pod
//! can undo it.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};
use serde::{Deserialize, Serialize};

use super::cgroup::Hierarchy;
use super::{BINDS, Error, Settings, file, launch};

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
    let mut steps = vec![
        fresh("proc", "/proc", ""),
        fresh("sysfs", "/sys", ""),
        // Not in every kernel, and nothing but what pods may look for.
        Step::Fresh {
            kind: "securityfs",
            target: "/sys/kernel/security".into(),
            data: String::new(),
            required: false,
        },
        Step::Fresh {
            kind: "bpf",
            target: "/sys/fs/bpf".into(),
            data: "mode=700".into(),
            required: false,
        },
        fresh("tmpfs", "/run", "mode=755"),
        fresh("tmpfs", "/tmp", "mode=1777"),
    ];
    for path in &host.ipc {
        let kind = if path == "/dev/mqueue" {
            "mqueue"
        } else {
            "tmpfs"
        };
        steps.push(fresh(
            kind,
            path,
            if kind == "tmpfs" { "mode=1777" } else { "" },
        ));
    }
    steps.push(Step::Folder {
        path: "/run/lock".into(),
        mode: 0o1777,
    });
    steps.push(Step::Folder {
        path: "/run/netns".into(),
        mode: 0o755,
    });
    if host.var_run {
        steps.push(Step::Bind {
            source: "/run".into(),
            target: "/var/run".into(),
            read_only: false,
        });
    }
    steps.extend(cgroups(hierarchies));
    steps.push(fresh("tmpfs", &settings.storage, "mode=755,size=1m"));
    steps.extend(
        BINDS
            .iter()
            .map(|(folder, target)| bind(settings.directory.join(folder), *target)),
    );
    let covered = |path: &&PathBuf| private(settings, path);
    steps.extend(
        settings
            .data
            .iter()
            .filter(covered)
            .map(|path| bind(path.clone(), path)),
    );
    steps.extend(settings.hidden.iter().map(|target| Step::Mask {
        target: target.clone(),
    }));
    let hidden = |path: &&PathBuf| {
        covered(path)
            || settings
                .hidden
                .iter()
                .any(|hidden| path.starts_with(hidden))
    };
    steps.extend(
        settings
            .visible
            .iter()
            .filter(hidden)
            .map(|path| Step::Bind {
                source: path.clone(),
                target: path.clone(),
                read_only: true,
            }),
    );
    steps.extend(files(settings, host));
    steps.extend(host.sysctls.iter().map(|name| Step::Shadow {
        copy: Path::new(SHADOWS).join(name.replace('/', ".")),
        target: Path::new("/proc/sys").join(name),
    }));
    Ok(steps)
}

/// The files that are the node's own, and the two places that k3s and kubelet insist on.
fn files(settings: &Settings, host: &Host) -> Vec<Step> {
    let run = &settings.run_directory;
    let mut steps = vec![
        bind(run.join(file::HOSTS), "/etc/hosts"),
        bind(run.join(file::HOSTNAME), "/etc/hostname"),
        bind(run.join(file::RESOLV_CONF), &host.resolv_conf),
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

/// Applies a plan to the mount namespace of the calling process, which must be its own.
///
/// First nothing of ours may reach the host (slave), at the end what is mounted below appears in the
/// node's pods (shared): kubelet insists on a shared root.
pub(super) fn apply(steps: &[Step]) -> Result<(), Error> {
    let root =
        |error: rustix::io::Errno| mount_error("the propagation", Path::new("/"), error.into());
    let recursive = MountPropagationFlags::REC;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | recursive).map_err(root)?;
    let mut sources = steps
        .iter()
        .map(open_source)
        .collect::<Result<Vec<_>, _>>()?;
    for (step, source) in steps.iter().zip(&mut sources) {
        apply_step(step, source.take())?;
    }
    mount_change("/", MountPropagationFlags::SHARED | recursive).map_err(root)
}

fn open_source(step: &Step) -> Result<Option<OwnedFd>, Error> {
    match step {
        // The node's own /run, which does not exist yet.
        Step::Bind { source, .. } if source == Path::new("/run") => Ok(None),
        Step::Bind { source, .. } => open_path(source).map(Some),
        _ => Ok(None),
    }
}

fn open_path(path: &Path) -> Result<OwnedFd, Error> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| Error::file("open", path, error))
}

fn apply_step(step: &Step, source: Option<OwnedFd>) -> Result<(), Error> {
    match step {
        Step::Fresh {
            kind,
            target,
            data,
            required,
        } => {
            let done = make_folder(target).and_then(|()| mount_fresh(kind, target, data));
            if *required {
                done.map_err(|error| mount_error(kind, target, error))
            } else {
                Ok(())
            }
        }
        Step::Bind {
            source: path,
            target,
            read_only,
        } => {
            let source = source.map_or_else(|| open_path(path), Ok)?;
            bind_over(&source, target, *read_only)
                .map_err(|error| mount_error(&path.display().to_string(), target, error))
        }
        Step::Folder { path, mode } => fs::create_dir_all(path)
            .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(*mode)))
            .map_err(|error| Error::file("create", path, error)),
        Step::Link { path, target } => {
            symlink(target, path).map_err(|error| Error::file("create", path, error))
        }
        Step::Mask { target } => {
            mask(target).map_err(|error| mount_error("an empty cover", target, error))
        }
        Step::Shadow { copy, target } => {
            shadow(copy, target).map_err(|error| mount_error("a private copy", target, error))
        }
    }
}

fn mount_fresh(kind: &str, target: &Path, data: &str) -> io::Result<()> {
    let flags = match kind {
        "tmpfs" => MountFlags::NOSUID | MountFlags::NODEV,
        _ => MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
    };
    let data = std::ffi::CString::new(data)?;
    Ok(mount(kind, target, kind, flags, Some(data.as_c_str()))?)
}

/// The view of `exec --net`: the node's network, hosts and resolv.conf, and the host's everything else. The calling
/// process must have one thread.
///
/// # Errors
/// When the namespace cannot be entered, or one of the mounts fails.
pub fn enter_network(pin: &Path, run_directory: &Path) -> Result<(), Error> {
    let propagation =
        |error: rustix::io::Errno| mount_error("the propagation", Path::new("/"), error.into());
    launch::enter_network(pin)?;
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| launch::namespace("make a mount namespace", error))?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .map_err(propagation)?;
    let resolv_conf = end_of_links(Path::new("/etc/resolv.conf"));
    let files = [
        (file::HOSTS, PathBuf::from("/etc/hosts")),
        (file::RESOLV_CONF, resolv_conf),
    ];
    // A host that lacks the file would get it by us; then its names are not the node's, and nothing else is wrong.
    for (name, target) in files.iter().filter(|(_, target)| target.exists()) {
        let source = open_path(&run_directory.join(name))?;
        bind_over(&source, target, false).map_err(|error| mount_error(name, target, error))?;
    }
    // A new /sys shows the node's links; the cgroups below the old one are kept.
    let cgroups = open_path(Path::new("/sys/fs/cgroup"));
    mount_fresh("sysfs", Path::new("/sys"), "")
        .map_err(|error| mount_error("sysfs", Path::new("/sys"), error))?;
    if let Ok(cgroups) = cgroups {
        let target = Path::new("/sys/fs/cgroup");
        bind_over(&cgroups, target, false)
            .map_err(|error| mount_error("the cgroups", target, error))?;
    }
    Ok(())
}

/// Binds what a descriptor stands for, with the mounts below it, over a path. The path is made where it is missing, which
/// happens on private file systems alone.
pub(super) fn bind_over(source: &OwnedFd, target: &Path, read_only: bool) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", source.as_raw_fd());
    if fs::metadata(&path)?.is_dir() {
        make_folder(target)?;
        mount_bind_recursive(&path, target)?;
    } else {
        make_file(target)?;
        mount_bind(&path, target)?;
    }
    if read_only {
        mount_remount(target, MountFlags::BIND | MountFlags::RDONLY, "")?;
    }
    Ok(())
}

fn mask(target: &Path) -> io::Result<()> {
    match fs::metadata(target) {
        Ok(entry) if entry.is_dir() => mount_fresh("tmpfs", target, "mode=755,size=64k"),
        Ok(_) => {
            make_file(Path::new(EMPTY))?;
            Ok(mount_bind(EMPTY, target)?)
        }
        // Hidden already, with the storage.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn shadow(copy: &Path, target: &Path) -> io::Result<()> {
    let value = fs::read(target)?;
    if let Some(folder) = copy.parent() {
        make_folder(folder)?;
    }
    fs::write(copy, value)?;
    Ok(mount_bind(copy, target)?)
}

fn make_folder(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        Ok(())
    } else {
        fs::create_dir_all(path)
    }
}

fn make_file(path: &Path) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o644)
        .open(path)
        .map(drop)
}

fn mount_error(what: &str, target: &Path, error: io::Error) -> Error {
    Error::Mount {
        what: what.into(),
        target: target.into(),
        why: error.to_string(),
    }
}

#[cfg(test)]
mod tests;
