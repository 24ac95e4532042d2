//! The owner's own program, kept as it was when the node was ready with it: he may put another in its place, and then
//! there is a way back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::store::Locked;
use super::{Cancel, Error, History, Known, PROGRAM, Store};

/// Puts a copy of a program that lies elsewhere into the store, and notes it as the one with which the node was last
/// ready. Blocks for as long as the disk takes.
///
/// # Errors
/// When another program lies at its path by now, or the disk refuses.
pub fn back_up(storage: &Path, node_directory: &Path, good: Known) -> Result<Known, Error> {
    let store = Store::of(storage);
    let path = store.path(&good.sha256, PROGRAM);
    let kept = Known {
        path,
        ..good.clone()
    };
    if kept == good {
        // Downloaded or unpacked: it lies there, and what a history names stays.
        History::update(node_directory, |history| history.good = Some(good))?;
        return Ok(kept);
    }
    let cancel = Cancel::default();
    let locked = store.lock(&cancel, || {})?;
    // Before it is there: the store's tidying goes by what is noted.
    History::update(node_directory, |history| history.good = Some(kept.clone()))?;
    let stored = match store.verified(&good.sha256, PROGRAM)? {
        Some(_) => Ok(()),
        None => store_copy(&locked, &good),
    };
    if let Err(error) = stored {
        // Where it may be after all, as long as nobody replaces it.
        History::update(node_directory, |history| history.good = Some(good))?;
        return Err(error);
    }
    locked.tidy(&[good.sha256], &cancel)?;
    Ok(kept)
}

fn store_copy(locked: &Locked, good: &Known) -> Result<(), Error> {
    let partial = locked.partial(&good.sha256)?;
    copy(&good.path, &partial)?;
    let name = good.path.display().to_string();
    locked.put(&partial, &good.sha256, PROGRAM, &name).map(drop)
}

/// Shares the blocks where the file system can (btrfs, XFS).
fn copy(from: &Path, to: &PathBuf) -> Result<(), Error> {
    let copy = || {
        let (mut source, mut target) = (File::open(from)?, File::create(to)?);
        if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
            io::copy(&mut source, &mut target)?;
        }
        target.sync_all()
    };
    copy().map_err(|source| {
        // A part of it is of no use.
        let _ = fs::remove_file(to);
        Error::disk("write", to, source)
    })
}
