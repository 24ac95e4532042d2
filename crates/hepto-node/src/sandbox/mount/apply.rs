//! The mount(2) calls: a plan carried out, and the small view of `exec --net`.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::mount::{
    MountFlags, MountPropagationFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount,
};

use super::super::{Error, file, launch, mountpoint, uapi};
use super::{EMPTY, Step, end_of_links};

/// Applies a plan to the mount namespace of the calling process, which must be its own.
///
/// First nothing of ours may reach the host (slave), at the end what is mounted below appears in the
/// node's pods (shared): kubelet insists on a shared root.
pub fn apply(steps: &[Step]) -> Result<(), Error> {
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

/// The view of `exec --net`: the node's network, hosts, resolv.conf and tunnel socket, and the host's everything else.
/// The calling process must have one thread.
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
    // Where the place is missing it is made, and the node removes it at its end.
    let target = uapi::place_here();
    if let Ok(source) = open_path(&run_directory.join(uapi::FOLDER)) {
        let _claim = mountpoint::claim(&[(target.clone(), true)])?;
        bind_over(&source, &target, false)
            .map_err(|error| mount_error(uapi::FOLDER, &target, error))?;
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
fn bind_over(source: &OwnedFd, target: &Path, read_only: bool) -> io::Result<()> {
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
