//! Empty files and folders on the host, over which a node mounts, where the host lacks them.
//!
//! All nodes of a host share them, and the last one removes them: removing one ends every mount on it, in
//! whatever mount namespace. So each carries a mark, by which it is known as made for nodes, and each
//! node's init holds a shared lock on those it stands on, which the kernel drops when init dies. Both lie on
//! the inode itself, where all see them, also nodes that share no /run.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    CWD, FlockOperation, RenameFlags, XattrFlags, fgetxattr, flock, fsetxattr, renameat_with,
};

use super::Error;

/// Only a process with CAP_SYS_ADMIN sees a `trusted.` attribute, xattr(7).
const MARK: &str = "trusted.hepto.mountpoint";
/// Each turn is lost to another node that starts or stops at that very moment.
const TURNS: u32 = 100;

/// The mount points that a node stands on, for as long as this lives.
pub struct Claim {
    _locks: Vec<File>,
}

/// Makes what is missing of `places` (path, and whether it is a folder), and claims what was made for nodes.
pub fn claim(places: &[(PathBuf, bool)]) -> Result<Claim, Error> {
    let mut locks = Vec::new();
    for (path, folder) in places {
        let claimed = claim_one(path, *folder)
            .map_err(|error| Error::file(Error::MOUNT_POINT, path, error))?;
        locks.extend(claimed);
    }
    Ok(Claim { _locks: locks })
}

fn claim_one(path: &Path, folder: bool) -> io::Result<Option<File>> {
    for _ in 0..TURNS {
        match File::open(path) {
            Ok(file) if !is_marked(&file) => return Ok(None),
            Ok(file) => {
                flock(&file, FlockOperation::LockShared)?;
                // It may have been removed between the two calls.
                if lies_at(&file, path) {
                    return Ok(Some(file));
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => make(path, folder)?,
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("other nodes remove it again and again"))
}

/// Makes it with the parents that are missing, each with the mark; loses no race that a next turn does not win.
fn make(path: &Path, folder: bool) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.exists()) {
        make(parent, true)?;
    }
    // Under another name first: whoever finds it at its place finds the mark on it.
    let Some(name) = path.file_name() else {
        return Ok(());
    };
    let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
    let fresh = path.with_file_name(format!(".hepto-{}-{}", uuid.trim(), name.display()));
    let made = if folder {
        fs::create_dir(&fresh)
    } else {
        File::create_new(&fresh).map(drop)
    };
    let placed = made.and_then(|()| {
        match fsetxattr(File::open(&fresh)?, MARK, b"1", XattrFlags::empty()) {
            // Where a file system takes no attributes, what was made stays for ever.
            Err(error) if error != rustix::io::Errno::OPNOTSUPP => return Err(error.into()),
            _ => {}
        }
        Ok(renameat_with(
            CWD,
            &fresh,
            CWD,
            path,
            RenameFlags::NOREPLACE,
        )?)
    });
    if placed.is_err() {
        let _ = if folder {
            fs::remove_dir(&fresh)
        } else {
            fs::remove_file(&fresh)
        };
    }
    match placed {
        // Another node was quicker, or took the parent away: the next turn sees.
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound) => {
            Ok(())
        }
        placed => placed,
    }
}

/// Whether what was opened there is there still. Who holds a lock on it then can count on that: only who holds the other
/// kind of lock removes it.
fn lies_at(file: &File, path: &Path) -> bool {
    let inode =
        |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
    let opened = inode(file.metadata());
    opened.is_some() && opened == inode(fs::metadata(path))
}

fn is_marked(file: &File) -> bool {
    fgetxattr(file, MARK, &mut [0_u8; 8][..]).is_ok()
}

/// Removes those of `places`, and of their parents, that were made for nodes and that no node stands on any
/// more. Gives every failure.
pub fn release(places: &[(PathBuf, bool)]) -> Vec<Error> {
    let mut errors = Vec::new();
    for (place, _) in places {
        for path in place.ancestors() {
            match release_one(path) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    errors.push(Error::file("remove the mount point", path, error));
                    break;
                }
            }
        }
    }
    errors
}

/// Whether it is gone.
fn release_one(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(true),
        // What cannot even be opened was not made by us.
        Err(_) => return Ok(false),
    };
    remove(path, &file)
}

/// The same for what was opened there.
fn remove(path: &Path, file: &File) -> io::Result<bool> {
    if !is_marked(file) || flock(file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(false);
    }
    // Another node may have removed it between the two calls, and a third made it anew, which stands on it now.
    if !lies_at(file, path) {
        return Ok(!path.exists());
    }
    let entry = file.metadata()?;
    let removed = match (entry.is_dir(), entry.len()) {
        (true, _) => fs::remove_dir(path),
        (false, 0) => fs::remove_file(path),
        // Filled by something else since: it is no longer ours.
        (false, _) => return Ok(false),
    };
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(host: &Path) -> Vec<(PathBuf, bool)> {
        vec![
            (host.join("opt/cni"), true),
            (host.join("etc/machine-id"), false),
        ]
    }

    #[test]
    fn the_last_node_removes_what_the_first_made() {
        let host = tempfile::tempdir().unwrap();
        let places = places(host.path());
        let first = claim(&places).unwrap();
        let second = claim(&places).unwrap();
        drop(first);
        assert_eq!(release(&places), []);
        assert!(
            host.path().join("opt/cni").is_dir() && host.path().join("etc/machine-id").is_file()
        );
        drop(second);
        assert_eq!(release(&places), []);
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_the_host_has_or_filled_stays() {
        let host = tempfile::tempdir().unwrap();
        let places = places(host.path());
        fs::create_dir(host.path().join("etc")).unwrap();
        drop(claim(&places).unwrap());
        fs::write(host.path().join("opt/other"), "").unwrap();
        fs::write(host.path().join("etc/machine-id"), "0123").unwrap();
        assert_eq!(release(&places), []);
        assert!(
            host.path().join("etc/machine-id").is_file() && host.path().join("opt/other").is_file()
        );
        assert!(!host.path().join("opt/cni").exists());
        fs::remove_file(host.path().join("etc/machine-id")).unwrap();
        drop(claim(&places).unwrap());
        assert_eq!(release(&places), []);
        assert!(
            host.path().join("etc").is_dir(),
            "it was there before the first node"
        );
    }

    #[test]
    fn what_was_made_anew_since_it_was_opened_is_not_removed() {
        let host = tempfile::tempdir().unwrap();
        let places = places(host.path());
        drop(claim(&places).unwrap());
        let opened = places.iter().map(|(path, _)| File::open(path).unwrap());
        let opened: Vec<File> = opened.collect();
        assert_eq!(release(&places), []);
        let footing = claim(&places).unwrap();
        for ((path, _), file) in places.iter().zip(&opened) {
            assert!(!remove(path, file).unwrap() && path.exists(), "{path:?}");
        }
        drop(footing);
        assert_eq!(release(&places), []);
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }

    #[test]
    fn nodes_that_start_and_stop_at_once_never_lose_their_footing() {
        let host = tempfile::tempdir().unwrap();
        let places = places(host.path());
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let held = claim(&places).unwrap();
                        assert!(places.iter().all(|(path, _)| path.exists()));
                        drop(held);
                        assert_eq!(release(&places), []);
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(host.path()).unwrap().count(), 0);
    }
}
