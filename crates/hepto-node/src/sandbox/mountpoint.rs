//! Empty files and folders on the host, over which a node mounts, where the host lacks them.
//!
//! They are shared by all nodes of a host and removed with the last of them: removing one would end the
//! mount of any other node on it. Each node's state names those that it stands on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use super::Error;
use super::state::State;

/// Makes what is missing of `places` (path, whether a folder). Gives all those that exist only for nodes' sake.
///
/// `runs` is `/run/hepto`, where the other nodes' states lie. `keep` is told before anything is made.
pub fn create(
    runs: &Path,
    places: &[(PathBuf, bool)],
    keep: impl FnOnce(&[PathBuf]) -> Result<(), Error>,
) -> Result<(), Error> {
    let _lock = lock(runs)?;
    let others = used(runs, None);
    let (mut missing, mut ours) = (Vec::new(), Vec::new());
    for (place, folder) in places {
        let parents = place.ancestors().skip(1).map(|parent| (parent, true));
        for (path, folder) in [(place.as_path(), *folder)].into_iter().chain(parents) {
            if others.iter().any(|other| other == path) {
                ours.push(path.to_owned());
            } else if !path.exists() && !ours.contains(&path.to_owned()) {
                missing.push((path.to_owned(), folder));
                ours.push(path.to_owned());
            }
        }
    }
    // Parents before children.
    ours.sort();
    missing.sort();
    keep(&ours)?;
    for (path, folder) in missing {
        let made = if folder {
            fs::create_dir(&path)
        } else {
            fs::write(&path, "")
        };
        made.map_err(|error| Error::file("create the mount point", &path, error))?;
    }
    Ok(())
}

/// Removes those of `paths` on which no other node stands. Gives every failure.
pub fn remove(run_directory: &Path, paths: &[PathBuf]) -> Vec<Error> {
    let Some(runs) = run_directory.parent() else {
        return Vec::new();
    };
    let lock = match lock(runs) {
        Ok(lock) => lock,
        Err(error) => return vec![error],
    };
    let others = used(runs, Some(run_directory));
    let mut errors = Vec::new();
    for path in paths.iter().rev().filter(|path| !others.contains(path)) {
        let removed = if path.is_dir() {
            fs::remove_dir(path)
        } else {
            remove_empty(path)
        };
        match removed {
            Ok(()) => {}
            // In use by something else by now: it is no longer ours.
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty
                ) => {}
            Err(error) => errors.push(Error::file("remove the mount point", path, error)),
        }
    }
    drop(lock);
    errors
}

fn remove_empty(path: &Path) -> std::io::Result<()> {
    if fs::metadata(path)?.len() == 0 {
        fs::remove_file(path)
    } else {
        Ok(())
    }
}

/// Between reading the others' states and writing our own nobody else may.
fn lock(runs: &Path) -> Result<fs::File, Error> {
    let file = fs::File::open(runs).map_err(|error| Error::file("open", runs, error))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|error| Error::file("lock", runs, error))?;
    Ok(file)
}

fn used(runs: &Path, but: Option<&Path>) -> Vec<PathBuf> {
    let folders = fs::read_dir(runs)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    let states = folders
        .filter(|folder| Some(folder.as_path()) != but)
        .filter_map(|folder| State::read(&folder));
    states.flat_map(|state| state.mountpoints).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(runs: &Path, name: &str, places: &[(PathBuf, bool)]) -> PathBuf {
        let folder = runs.join(name);
        fs::create_dir_all(&folder).unwrap();
        create(runs, places, |mountpoints| {
            State {
                mountpoints: mountpoints.to_vec(),
                ..State::default()
            }
            .write(&folder)
        })
        .unwrap();
        folder
    }

    fn end(folder: &Path) {
        let state = State::read(folder).unwrap();
        assert_eq!(remove(folder, &state.mountpoints), []);
        State::remove(folder);
    }

    #[test]
    fn the_last_node_removes_what_the_first_made() {
        let root = tempfile::tempdir().unwrap();
        let (runs, host) = (root.path().join("run"), root.path().join("host"));
        fs::create_dir(&host).unwrap();
        let places = [
            (host.join("opt/cni"), true),
            (host.join("machine-id"), false),
        ];
        let first = node(&runs, "a.one", &places);
        let second = node(&runs, "a.two", &places);
        end(&first);
        assert!(host.join("opt/cni").is_dir() && host.join("machine-id").is_file());
        end(&second);
        assert_eq!(fs::read_dir(&host).unwrap().count(), 0);
    }

    #[test]
    fn what_the_host_has_or_filled_stays() {
        let root = tempfile::tempdir().unwrap();
        let (runs, host) = (root.path().join("run"), root.path().join("host"));
        fs::create_dir_all(host.join("etc")).unwrap();
        let places = [
            (host.join("etc"), true),
            (host.join("opt/cni"), true),
            (host.join("machine-id"), false),
        ];
        let folder = node(&runs, "a.one", &places);
        fs::write(host.join("opt/other"), "").unwrap();
        fs::write(host.join("machine-id"), "0123").unwrap();
        end(&folder);
        assert!(
            host.join("etc").is_dir()
                && host.join("opt/other").is_file()
                && host.join("machine-id").is_file()
        );
        assert!(!host.join("opt/cni").exists());
    }
}
