//! Where the node's data will lie: space, kind and options of the file system, and whether containers can be layered on it.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::statfs::{FsType, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

use super::Finding;
use crate::config::Config;

/// What the deployment guide names as the need of a node with nothing deployed on it, bytes.
const NEEDED: u64 = 4 << 30;
/// Small files are what images are made of.
const NEEDED_FILES: u64 = 100_000;

/// Network file systems (linux/magic.h), on which neither SQLite nor overlayfs is safe.
const NETWORK: [(FsType, &str); 4] = [
    (FsType(0x6969), "NFS"),
    (FsType(0xff53_4d42), "CIFS"),
    (FsType(0xfe53_4d42), "SMB"),
    (FsType(0x0102_1997), "9p"),
];

/// Looks at the storage, and tries it in a folder that is removed again.
pub fn look(config: &Config) -> Vec<Finding> {
    let path = &config.node.storage;
    let mut found = vec![space(path), kind(path), writes(path)];
    if config.k3s.is_some() {
        found.extend(executes(path));
        found.push(layers(path));
    }
    found
}

fn failed(check: &'static str, path: &Path, error: &io::Error) -> Finding {
    Finding::error(
        check,
        "E-PREFLIGHT-STORAGE",
        format!("{} cannot be looked at: {error}", path.display()),
    )
    .fix("check node.storage and that its disk is mounted")
}

fn space(path: &Path) -> Finding {
    let check = "storage.space";
    let found = match statvfs(path) {
        Ok(found) => found,
        Err(error) => return failed(check, path, &error.into()),
    };
    let free = found
        .blocks_available()
        .saturating_mul(found.fragment_size());
    let files = found.files_available();
    // Some file systems have no fixed number of files and say 0 of 0.
    let few_files = found.files() > 0 && files < NEEDED_FILES;
    let what = format!("{} MiB free on {}", free >> 20, path.display());
    if free >= NEEDED && !few_files {
        return Finding::ok(check, what);
    }
    let what = if few_files {
        format!("{what}, room for {files} more files")
    } else {
        what
    };
    Finding::warning(check, "W-PREFLIGHT-SPACE", what)
        .why("k3s and its images take 4 GiB before anything is deployed; a full disk makes a kubelet throw pods out")
        .fix("free some, or set node.storage to a larger disk")
}

fn kind(path: &Path) -> Finding {
    let check = "storage.kind";
    match statfs(path) {
        Err(error) => failed(check, path, &error.into()),
        Ok(found) => disk(path, found.filesystem_type()),
    }
}

fn disk(path: &Path, kind: FsType) -> Finding {
    let check = "storage.kind";
    match NETWORK.iter().find(|(network, _)| *network == kind) {
        Some((_, name)) => Finding::error(
            check,
            "E-PREFLIGHT-NETWORK-DISK",
            format!("{} is on {name}", path.display()),
        )
        .why("k3s's database and its images are not safe on a network file system")
        .fix(
            "set node.storage to a disk of this machine; workloads may use the network's by `data`",
        ),
        None => Finding::ok(
            check,
            format!("{} is on a disk of this machine", path.display()),
        ),
    }
}

fn writes(path: &Path) -> Finding {
    let check = "storage.write";
    let tried = tempfile::Builder::new()
        .prefix(".hepto-preflight-")
        .tempfile_in(path)
        .and_then(|mut file| {
            file.write_all(b"hepto")?;
            file.as_file().sync_all()
        });
    match tried {
        Ok(()) => Finding::ok(
            check,
            format!("{} takes writes and syncs them", path.display()),
        ),
        Err(error) => Finding::error(
            check,
            "E-PREFLIGHT-WRITE",
            format!("cannot write below {}: {error}", path.display()),
        )
        .why("the node keeps its identity there, and must know it on the disk")
        .fix("check that the disk is not full, not read-only and not failing (dmesg)"),
    }
}

fn executes(path: &Path) -> Option<Finding> {
    let flags = statvfs(path).ok()?.flags();
    if !flags.contains(FsFlags::ST_NOEXEC) {
        return Some(Finding::ok("storage.exec", "programs may be run there"));
    }
    let what = format!("{} is mounted noexec", path.display());
    Some(
        Finding::error("storage.exec", "E-PREFLIGHT-NOEXEC", what)
            .why("k3s unpacks its programs into its data directory and runs them there")
            .fix(format!(
                "mount -o remount,exec {}, and the same in /etc/fstab",
                path.display()
            )),
    )
}

/// Mounts an overlay as containerd does, in a mount namespace of a thread's own: xfs without ftype, eCryptfs and other
/// file systems that cannot carry one say so.
fn layers(path: &Path) -> Finding {
    let check = "storage.overlay";
    let folder = match tempfile::Builder::new()
        .prefix(".hepto-preflight-")
        .tempdir_in(path)
    {
        Ok(folder) => folder,
        Err(error) => return failed(check, path, &error),
    };
    let place = folder.path().to_owned();
    let tried = std::thread::spawn(move || overlay(&place)).join();
    match tried.unwrap_or_else(|_| Err(io::Error::other("the try itself failed"))) {
        Ok(()) => Finding::ok(check, "container images can be layered there"),
        Err(error) => {
            let what = format!(
                "an overlay cannot be mounted on {}: {error}",
                path.display()
            );
            Finding::error(check, "E-PREFLIGHT-OVERLAY", what)
                .why("containerd layers its images so; xfs needs ftype=1, and an overlay carries no other one")
                .fix("set node.storage to ext4, or to xfs made with `mkfs.xfs -n ftype=1`; modprobe overlay")
        }
    }
}

fn overlay(folder: &Path) -> io::Result<()> {
    let [lower, upper, work, merged] =
        ["lower", "upper", "work", "merged"].map(|name| folder.join(name));
    for path in [&lower, &upper, &work, &merged] {
        fs::create_dir(path)?;
    }
    fs::write(lower.join("file"), "below")?;
    // This thread alone: its file system attributes must not be shared with the process's others.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
    mount(
        None::<&str>,
        "/",
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        &merged,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    // What a container does to its image: changing a file copies it up, removing it leaves a whiteout.
    fs::write(merged.join("file"), "above")?;
    fs::remove_file(merged.join("file"))?;
    nix::mount::umount(&merged)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_file_system_is_found() {
        let path = Path::new("/srv");
        // NFS, CIFS and what the same driver calls itself for SMB 2 and 3.
        for kind in [0x6969, 0xff53_4d42, 0xfe53_4d42].map(FsType) {
            let found = disk(path, kind);
            assert_eq!(
                (found.code, found.what.starts_with("/srv is on ")),
                (Some("E-PREFLIGHT-NETWORK-DISK"), true),
                "{kind:?}"
            );
            assert!(found.fix.is_some_and(|fix| fix.contains("node.storage")));
        }
        assert_eq!(disk(path, nix::sys::statfs::EXT4_SUPER_MAGIC).code, None);
    }
}
