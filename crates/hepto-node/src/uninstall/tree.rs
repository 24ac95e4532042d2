//! A folder removed with all below it, but nothing that a link or a mount leads to.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

/// Removes a folder with all below it but what is in `keep`, and the folders above that. Whether all of it is gone.
///
/// # Errors
/// The first that could not be removed.
pub fn remove(folder: &Path, keep: &[PathBuf]) -> Result<bool, (PathBuf, io::Error)> {
    let failed = |error: Errno| (folder.to_owned(), error.into());
    let opened = openat(CWD, folder, flags(), Mode::empty()).map_err(failed)?;
    let emptied = empty(&opened, folder, keep)?;
    if emptied {
        unlinkat(CWD, folder, AtFlags::REMOVEDIR).map_err(failed)?;
    }
    Ok(emptied)
}

fn flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

fn empty(folder: &OwnedFd, path: &Path, keep: &[PathBuf]) -> Result<bool, (PathBuf, io::Error)> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error: Errno| (path, error.into())
    };
    // All names first: what is removed while one reads may hide others.
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(failed(path))? {
        let entry = entry.map_err(failed(path))?;
        let name = entry.file_name().to_bytes().to_owned();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    let mut emptied = true;
    for name in names {
        let name = OsStr::from_bytes(&name);
        let child = path.join(name);
        if keep.contains(&child) {
            emptied = false;
            continue;
        }
        let stat = statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed(&child))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            unlinkat(folder, name, AtFlags::empty()).map_err(failed(&child))?;
            continue;
        }
        let below = enter(folder, name).map_err(failed(&child))?;
        if empty(&below, &child, keep)? {
            unlinkat(folder, name, AtFlags::REMOVEDIR).map_err(failed(&child))?;
        } else {
            emptied = false;
        }
    }
    Ok(emptied)
}

/// Opens a folder in a folder: no link, and nothing that is mounted there, not even from the same disk.
fn enter(folder: &OwnedFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(folder, name, flags(), Mode::empty(), resolve) {
        // Before Linux 5.6; mounts were looked for beforehand.
        Err(Errno::NOSYS) => openat(folder, name, flags(), Mode::empty()),
        opened => opened,
    }
}

/// What is mounted in a folder or below, by /proc/self/mountinfo (proc_pid_mountinfo(5)).
///
/// # Errors
/// When it cannot be read.
pub fn mounts_below(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let text = fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4));
    Ok(points
        .map(plain)
        .filter(|point| point.starts_with(folder))
        .collect())
}

/// Spaces and the like stand there as `\040`.
fn plain(point: &str) -> PathBuf {
    let bytes = point.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = point
            .get(at + 1..at + 4)
            .filter(|_| bytes[at] == b'\\')
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(code.unwrap_or(bytes[at]));
        at += if code.is_some() { 4 } else { 1 };
    }
    PathBuf::from(std::ffi::OsString::from_vec(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_removed_and_not_followed() {
        let home = tempfile::tempdir().unwrap();
        let (node, outside) = (home.path().join("node"), home.path().join("outside"));
        fs::create_dir_all(node.join("a/b/c")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        std::os::unix::fs::symlink(&outside, node.join("a/link")).unwrap();
        std::os::unix::fs::symlink(outside.join("precious"), node.join("file-link")).unwrap();
        assert!(remove(&node, &[]).unwrap());
        assert!(!node.exists() && outside.join("precious").exists());
    }

    #[test]
    fn what_is_kept_stays_with_the_folders_above_it_alone() {
        let home = tempfile::tempdir().unwrap();
        let node = home.path().join("node");
        fs::create_dir_all(node.join("a/keep/deep")).unwrap();
        fs::write(node.join("a/keep/deep/file"), "data").unwrap();
        fs::write(node.join("a/gone"), "").unwrap();
        fs::create_dir_all(node.join("b/c")).unwrap();
        assert!(!remove(&node, &[node.join("a/keep")]).unwrap());
        let left: Vec<_> = fs::read_dir(&node).unwrap().flatten().collect();
        assert_eq!(left.len(), 1);
        assert!(!node.join("a/gone").exists());
        assert_eq!(
            fs::read_to_string(node.join("a/keep/deep/file")).unwrap(),
            "data"
        );
    }

    #[test]
    fn a_link_in_the_folders_place_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let outside = home.path().join("outside");
        fs::create_dir(&outside).unwrap();
        let link = home.path().join("node");
        std::os::unix::fs::symlink(&outside, &link).unwrap();
        assert!(remove(&link, &[]).is_err());
        assert!(outside.exists());
    }

    #[test]
    fn mount_points_are_read_as_they_are() {
        assert_eq!(plain("/srv/a\\040b"), Path::new("/srv/a b"));
        assert_eq!(plain("/srv/a\\"), Path::new("/srv/a\\"));
        let all = mounts_below(Path::new("/proc")).unwrap();
        assert!(all.contains(&PathBuf::from("/proc")), "{all:?}");
    }
}
